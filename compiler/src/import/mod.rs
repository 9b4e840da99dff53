//! Model files to graphs: the only door for files. Files are untrusted: whatever the bytes, the result is a graph or
//! an error that says where.
//!
//! A model keeps its symbols in its signature; `Model::graph` is given the shape of every input and makes a graph in
//! which every size is a number and everything that follows from sizes alone has been computed.

#[cfg(feature = "compile")]
pub mod emit;
#[cfg(feature = "compile")]
mod format;
#[cfg(feature = "compile")]
pub mod host;
#[cfg(feature = "compile")]
pub mod onnx;
#[cfg(feature = "compile")]
pub mod stretch;
#[cfg(feature = "compile")]
pub mod strings;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use tracing::{field::Empty, info_span};

use crate::{
    bug,
    error::Error,
    graph::{Graph, State, Value, builder::GraphBuilder, random::KEY, verify},
    shape::{Dim, Form, Shape},
};

pub use crate::shape::Signature;
#[cfg(feature = "compile")]
use crate::shape::Type;
#[cfg(feature = "compile")]
use stretch::{Bound, Knowledge, Known, Stretch};

/// A parsed model: its signature, and how to make its graph for given shapes. Cloning shares the file's bytes.
#[derive(Clone, Debug)]
pub struct Model {
    pub inputs: Vec<Signature>,
    pub outputs: Vec<Signature>,
    /// Inputs and outputs that are no longer the caller's affair.
    pub states: Vec<State>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    #[cfg(feature = "compile")]
    Onnx(Arc<onnx::Program>),
    Builder(Arc<Build>),
    Graph(Arc<Graph>),
    /// No graph is known: plans are.
    Compiled,
}

type Build = dyn Fn(&mut GraphBuilder, &[Value]) -> Result<Vec<(String, Value)>, Error> + Send + Sync;

impl Model {
    /// A model of which only plans are known.
    pub fn compiled(inputs: Vec<Signature>, outputs: Vec<Signature>, states: Vec<State>) -> Model {
        Model { inputs, outputs, states, source: Source::Compiled }
    }

    /// An ONNX model in one file.
    #[cfg(feature = "compile")]
    pub fn from_bytes(bytes: Bytes) -> Result<Model, Error> {
        Model::from_onnx(bytes, &|_| None)
    }

    /// An ONNX model. `external` gives the bytes of an external-data file by its path relative to the model; paths that
    /// would leave the model's folder are refused before it is asked. Weights are borrowed from `bytes`. The error for a file
    /// of another format says which that is and how to get an ONNX model instead.
    #[cfg(feature = "compile")]
    pub fn from_onnx(bytes: Bytes, external: &dyn Fn(&str) -> Option<Bytes>) -> Result<Model, Error> {
        let program =
            onnx::Program::parse(&bytes, external).map_err(|error| match format::other(&bytes) {
                Some(what) => Error::malformed("byte 0", format!("an ONNX model was expected; {what}")),
                None => error,
            })?;
        Ok(Model {
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            states: Vec::new(),
            source: Source::Onnx(Arc::new(program)),
        })
    }

    /// A model written in Rust. `build` is called once for each set of input shapes, and twice here with made-up sizes
    /// (multiples of 64, one a symbol) to learn the outputs.
    pub fn from_builder(
        inputs: Vec<Signature>,
        build: impl Fn(&mut GraphBuilder, &[Value]) -> Result<Vec<(String, Value)>, Error> + Send + Sync + 'static,
    ) -> Result<Model, Error> {
        let source = Source::Builder(Arc::new(build));
        let mut model = Model { inputs, outputs: vec![], states: vec![], source };
        let mut symbols: Vec<&str> = Vec::new();
        for dim in model.inputs.iter().flat_map(|it| &it.dims) {
            if let Dim::Symbol(name) = dim
                && !symbols.contains(&name.as_str())
            {
                symbols.push(name);
            }
        }
        let number = |name: &str| symbols.iter().position(|it| *it == name).unwrap_or(0) + 1;
        let traced = |step: usize| {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(name) => 64 * number(name) * step,
                Dim::Unknown => 64 * (symbols.len() + 1) * step,
            };
            let shapes: Vec<Shape> =
                model.inputs.iter().map(|it| it.dims.iter().map(size).collect()).collect();
            model.graph(&shapes)
        };
        let (one, two) = (traced(1)?, traced(2)?);
        let dim = |(&a, &b): (&usize, &usize)| match symbols.iter().find(|it| a == 64 * number(it)) {
            _ if a == b => Dim::Fixed(a),
            Some(name) if b == 2 * a => Dim::Symbol(name.to_string()),
            _ => Dim::Unknown,
        };
        model.outputs = (one.outputs.iter().zip(&two.outputs))
            .map(|(a, b)| {
                let (a_ty, b_ty) = (one.ty(a.value), two.ty(b.value));
                let dims = a_ty.shape.iter().zip(b_ty.shape.iter()).map(dim).collect();
                Signature { name: a.name.clone(), dtype: a_ty.dtype, dims }
            })
            .collect();
        Ok(model)
    }

    /// A model of fixed shapes.
    pub fn from_graph(graph: Graph) -> Model {
        let graph = graph.with_key_last().unwrap_or_else(|it| bug!("the same ops have other types: {it}"));
        let fixed = |shape: &Shape| shape.iter().map(|&it| Dim::Fixed(it)).collect();
        let inputs = (graph.inputs().iter())
            .filter(|it| it.name != KEY)
            .map(|it| Signature { name: it.name.clone(), dtype: it.ty.dtype, dims: fixed(&it.ty.shape) })
            .collect();
        let outputs = (graph.outputs.iter())
            .map(|it| {
                let ty = graph.ty(it.value);
                Signature { name: it.name.clone(), dtype: ty.dtype, dims: fixed(&ty.shape) }
            })
            .collect();
        Model { inputs, outputs, states: graph.states.clone(), source: Source::Graph(Arc::new(graph)) }
    }

    /// The model with its input `input` as a state: what it is in the next run is the output `output` of this one, of the
    /// same type. Runs are neither given the input nor give the output: a decoder's caches stay where it runs.
    pub fn with_state(mut self, input: &str, output: &str) -> Result<Model, Error> {
        let place = |all: &[Signature], name: &str| all.iter().position(|it| it.name == name);
        let Some(from) = place(&self.inputs, input) else {
            return Err(Error::input(input, "the model has no such input, which could be a state"));
        };
        let Some(to) = place(&self.outputs, output) else {
            return Err(Error::input(
                input,
                format!("is to become the output '{output}', which there is not"),
            ));
        };
        let state = State { input: from as u32, output: to as u32 };
        if self.states.iter().any(|it| it.input == state.input || it.output == state.output) {
            return Err(Error::input(input, format!("it, or '{output}', is in another state already")));
        }
        if self.inputs[from].dtype != self.outputs[to].dtype {
            let (have, want) = (&self.outputs[to], &self.inputs[from]);
            return Err(Error::input(
                input,
                format!("is {want}, but '{output}', which it is to become, {have}"),
            ));
        }
        self.states.push(state);
        Ok(self)
    }

    /// What each symbol of the inputs stands for if they have these shapes, given in the order of `inputs`. A wrong number
    /// of shapes, rank or size, or a symbol with two values, is an error that names the input.
    pub fn bind(&self, shapes: &[Shape]) -> Result<BTreeMap<String, usize>, Error> {
        let mut bound: BTreeMap<String, (usize, &str)> = BTreeMap::new();
        if let Some(input) = self.inputs.get(shapes.len()) {
            return Err(Error::input(&*input.name, format!("is missing; {input} was expected")));
        }
        if shapes.len() > self.inputs.len() {
            let what = format!("{} inputs were given, the model takes {}", shapes.len(), self.inputs.len());
            return Err(Error::input(format!("number {}", self.inputs.len()), what));
        }
        for (input, shape) in self.inputs.iter().zip(shapes) {
            let fail = |what: String| {
                Error::input(&*input.name, format!("has the shape {shape}, {input} was expected: {what}"))
            };
            if shape.rank() != input.dims.len() {
                return Err(fail(format!("the rank is {}, not {}", shape.rank(), input.dims.len())));
            }
            for (axis, (dim, &size)) in input.dims.iter().zip(shape.iter()).enumerate() {
                match dim {
                    Dim::Fixed(want) if *want != size => {
                        return Err(fail(format!("axis {axis} is {size}, not {want}")));
                    }
                    Dim::Fixed(_) | Dim::Unknown => {}
                    Dim::Symbol(name) => match bound.get(name) {
                        Some((other, whose)) if *other != size => {
                            return Err(fail(format!("'{name}' is {size}, but {other} in input '{whose}'")));
                        }
                        Some(_) => {}
                        None => drop(bound.insert(name.clone(), (size, &input.name))),
                    },
                }
            }
        }
        Ok(bound.into_iter().map(|(name, (size, _))| (name, size)).collect())
    }

    /// The graph for one shape an input, in the order of `inputs`. Where it has random ops, its last input is their key
    /// (`random::KEY`), which is no input of the model. A model that is no single graph, since sizes or branches follow from values, is an
    /// error; `begin` gives its first stretch.
    pub fn graph(&self, shapes: &[Shape]) -> Result<Graph, Error> {
        match self.begin(shapes)? {
            Begin::Graph(graph) => Ok(graph),
            #[cfg(feature = "compile")]
            Begin::Stretch(stretch) => Err(stretch.stopped()),
        }
    }

    /// The graph for one shape an input, or how far the model can be imported without values.
    #[cfg_attr(
        not(feature = "compile"),
        allow(clippy::infallible_destructuring_match, reason = "without an importer there are graphs alone")
    )]
    pub fn begin(&self, shapes: &[Shape]) -> Result<Begin, Error> {
        let span = info_span!("import", nodes = Empty).entered();
        self.bind(shapes)?;
        for (all, forms) in [&self.inputs, &self.outputs].into_iter().zip(self.forms()) {
            if let Some((it, form)) = all.iter().zip(forms).find(|it| *it.1 != Form::Tensor) {
                let what = format!("is {}, which `Session::run_values` takes and gives", form.of(it));
                return Err(Error::foreign(format!("'{}'", it.name), what));
            }
        }
        let mut graph = match self.traced(shapes)? {
            Begin::Graph(graph) => graph,
            #[cfg(feature = "compile")]
            Begin::Stretch(stretch) if !self.states.is_empty() => return Err(stretch.stopped()),
            #[cfg(feature = "compile")]
            Begin::Stretch(stretch) => {
                span.record("nodes", stretch.graph.len());
                return Ok(Begin::Stretch(stretch));
            }
        };
        span.record("nodes", graph.len());
        let own = graph.inputs().len() - usize::from(graph.random_key_slot().is_some());
        if own != self.inputs.len() {
            let what = "what builds it makes further inputs; `Model::with_state` names those that are states";
            return Err(Error::malformed("the model", what));
        }
        graph.states = self.states.clone();
        match verify::states(&graph).pop() {
            None => Ok(Begin::Graph(graph)),
            Some(what) => Err(Error::malformed("the model's states", what)),
        }
    }

    /// Of what form each input is, and each output; none stands for a tensor.
    pub fn forms(&self) -> [&[Form]; 2] {
        match &self.source {
            #[cfg(feature = "compile")]
            Source::Onnx(program) => [&program.forms[0], &program.forms[1]],
            Source::Builder(_) | Source::Graph(_) | Source::Compiled => [&[], &[]],
        }
    }

    /// The strings that the model has.
    #[cfg(feature = "compile")]
    pub fn strings(&self) -> Arc<strings::Pool> {
        match &self.source {
            Source::Onnx(program) => program.strings().clone(),
            Source::Builder(_) | Source::Graph(_) | Source::Compiled => Arc::default(),
        }
    }

    /// How far the model can be imported for inputs of any form. `None` for a model whose inputs and outputs are tensors alone.
    #[cfg(feature = "compile")]
    pub fn begin_with(
        &self,
        inputs: impl IntoIterator<Item = (Bound, Vec<Known>)>,
    ) -> Result<Option<Stretch>, Error> {
        match &self.source {
            Source::Onnx(program) => Stretch::of(program, &Knowledge::of(program, inputs)).map(Some),
            Source::Builder(_) | Source::Graph(_) | Source::Compiled => Ok(None),
        }
    }

    fn traced(&self, shapes: &[Shape]) -> Result<Begin, Error> {
        match &self.source {
            #[cfg(feature = "compile")]
            Source::Onnx(program) => {
                let inputs = self.inputs.iter().zip(shapes).map(|(input, shape)| {
                    let ty = Type { dtype: input.dtype, shape: shape.clone() };
                    (Bound::Tensor(stretch::input_key(&input.name)), vec![Known::Type(ty)])
                });
                let stretch = Stretch::of(program, &Knowledge::of(program, inputs))?;
                let bounds = stretch.outputs.iter().flatten().zip(&self.outputs);
                if let Some((_, it)) = bounds.into_iter().find(|it| matches!(it.0, Bound::Strings(_))) {
                    let what = "is of strings, which the model does not state";
                    return Err(Error::malformed(format!("output '{}'", it.name), what));
                }
                Ok(match stretch.stopped {
                    None => Begin::Graph(stretch.graph),
                    Some(_) => Begin::Stretch(Box::new(stretch)),
                })
            }
            Source::Compiled => {
                Err(Error::malformed("the artefact", "it has plans, but no graph to compile"))
            }
            Source::Graph(graph) => Ok(Begin::Graph(Graph::clone(graph))),
            Source::Builder(build) => {
                let mut builder = GraphBuilder::new();
                let inputs = (self.inputs.iter().zip(shapes))
                    .map(|(input, shape)| builder.input(&*input.name, input.dtype, shape.clone()))
                    .collect::<Result<Vec<_>, _>>()?;
                for (name, value) in build(&mut builder, &inputs)? {
                    builder.output(name, value)?;
                }
                builder.finish().map(Begin::Graph)
            }
        }
    }
}

/// What a model is for the shapes of its inputs.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every model is a graph, and none is kept in this form")]
pub enum Begin {
    Graph(Graph),
    /// Its first stretch: what follows depends on values.
    #[cfg(feature = "compile")]
    Stretch(Box<Stretch>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(feature = "compile")]
            Source::Onnx(_) => "onnx",
            Source::Compiled => "compiled",
            Source::Builder(_) => "builder",
            Source::Graph(_) => "graph",
        })
    }
}
