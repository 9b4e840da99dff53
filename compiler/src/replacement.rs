//! Rewrites that are written as two functions of a [`GraphBuilder`]: what is searched, and what takes its place.
//!
//! In: the functions, and examples of what they are called with. Out: a [`Replacement`] that holds the search's graph for each
//! example. The functions are called once for each example when it is made, and then with the types of what was found:
//! what a match must be exactly is the search traced with the types and numbers found, so that shapes and everything
//! that follows from them need no wildcards.

use std::{fmt, sync::Arc};

use crate::{
    error::Error,
    graph::{Graph, Op, Value, builder::GraphBuilder},
    scalar::Scalar,
    shape::Type,
    tensor::Tensor,
};

/// Where in the pipeline something of the user's own runs: beside a pass, or beside all passes of a stage, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hook {
    Before(String),
    After(String),
}

/// Given a builder, tensors and numbers, gives the results.
pub type TraceFn = dyn Fn(&mut GraphBuilder, &[Value], &[f64]) -> Result<Vec<Value>, Error> + Send + Sync;

/// Whether what was found shall be replaced.
pub type CheckFn = dyn Fn(&Match) -> bool + Send + Sync;

/// What the functions may be called with.
#[derive(Clone, PartialEq, Debug)]
pub struct Example {
    pub inputs: Vec<Type>,
    /// Each a wildcard: a constant that is the same everywhere and equals one of these, or its reciprocal, stands for any. So
    /// they should be numbers that the functions do not write themselves, such as 0.113377. A number that the search of
    /// one example loses (because a product with 1 is no product) is that of the example where this example is found.
    pub numbers: Vec<f64>,
}

impl Example {
    pub fn new(inputs: impl IntoIterator<Item = Type>) -> Example {
        Example { inputs: inputs.into_iter().collect(), numbers: Vec::new() }
    }

    pub fn with_numbers(mut self, numbers: impl IntoIterator<Item = f64>) -> Example {
        self.numbers.extend(numbers);
        self
    }
}

/// What was found, as a check sees it.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    pub graph: &'a Graph,
    /// For each input of the search.
    pub inputs: &'a [Value],
    /// For each number.
    pub numbers: &'a [f64],
    /// For each result of the search.
    pub results: &'a [Value],
}

impl Match<'_> {
    pub fn input_type(&self, number: usize) -> &Type {
        self.graph.ty(self.inputs[number])
    }

    /// The tensor that an input is, if it is a constant.
    pub fn constant(&self, number: usize) -> Option<&Tensor> {
        self.graph.as_constant(self.inputs[number])
    }
}

/// A search, what takes its place, and where in the pipeline.
#[derive(Clone)]
pub struct Replacement {
    pub name: String,
    /// Where it is applied: to a graph that has gone through all passes before that place, as its search then has.
    pub at: Hook,
    /// It is replaced even where something else uses what is inside it, which then is computed twice.
    pub even_if_used: bool,
    /// It keeps every bit, so that it is applied under `Options::exact` too.
    pub exact: bool,
    pub search: Arc<TraceFn>,
    pub replacement: Arc<TraceFn>,
    pub check: Arc<CheckFn>,
    /// The search of each example.
    pub specimens: Vec<Specimen>,
}

/// A traced function.
#[derive(Clone, Debug)]
pub struct Specimen {
    /// Its inputs are those of the function in their order, its outputs the results.
    pub graph: Graph,
    pub numbers: Vec<f64>,
}

/// Nodes of a search.
const LARGEST: usize = 256;

/// A rewrite of everything that looks like what `search` builds into what `replacement` builds, where `check` allows it. Both
/// are called with each example, and the results must be of the same types. It is applied before the stage of joint passes;
/// `Replacement::at` says otherwise.
///
/// ```
/// use wgfuse_compiler::{
///     dtype::DType, graph::builder::GraphBuilder, options::Options, passes, replacement::{Example, register_replacement},
///     shape::Type, target::Target,
/// };
///
/// # fn main() -> Result<(), wgfuse_compiler::error::Error> {
/// // log(c + exp x) becomes c' + softplus: for c = 1 only.
/// let pattern = register_replacement(
///     "one-plus-exp",
///     |b, x, c| {
///         let e = b.exp(x[0])?;
///         let sum = b.add_scalar(e, c[0])?;
///         Ok(vec![b.unary(wgfuse_compiler::scalar::UnaryOp::Log, sum)?])
///     },
///     |b, x, _| Ok(vec![b.softplus(x[0])?]),
///     &[Example::new([Type::new(DType::F32, [8])]).with_numbers([0.113377])],
///     |found| found.numbers[0] == 1.0,
/// )?;
/// let mut b = GraphBuilder::new();
/// let x = b.input("x", DType::F32, [2, 3])?;
/// let y = b.exp(x)?;
/// let y = b.add_scalar(y, 1.0)?;
/// let y = b.log(y)?;
/// b.output("y", y)?;
/// let mut options = Options::default();
/// options.patterns.push(pattern);
/// let graph = passes::optimise(b.finish()?, &Target::cpu(), &options)?;
/// assert!(graph.to_string().contains("softplus"));
/// # Ok(())
/// # }
/// ```
pub fn register_replacement(
    name: impl Into<String>,
    search: impl Fn(&mut GraphBuilder, &[Value], &[f64]) -> Result<Vec<Value>, Error> + Send + Sync + 'static,
    replacement: impl Fn(&mut GraphBuilder, &[Value], &[f64]) -> Result<Vec<Value>, Error> + Send + Sync + 'static,
    examples: &[Example],
    check: impl Fn(&Match) -> bool + Send + Sync + 'static,
) -> Result<Replacement, Error> {
    let name = name.into();
    let wrong = |what: String| Error::Pass { pass: name.clone(), what };
    let Some(first) = examples.first() else {
        return Err(wrong("there is no example".into()));
    };
    let mut specimens: Vec<Specimen> = Vec::new();
    for example in examples {
        if (example.inputs.len(), example.numbers.len()) != (first.inputs.len(), first.numbers.len()) {
            return Err(wrong("the examples have different numbers of inputs or of numbers".into()));
        }
        let trace = |which: &str, f: &TraceFn| {
            trace(f, &example.inputs, &example.numbers).map_err(|it| wrong(format!("the {which}: {it}")))
        };
        let graph = trace("search", &search)?;
        if graph.len() > LARGEST {
            return Err(wrong(format!("the search has {} nodes, {LARGEST} are allowed", graph.len())));
        }
        let types = |it: &Graph| it.outputs.iter().map(|out| it.ty(out.value).clone()).collect::<Vec<_>>();
        let (old, new) = (types(&graph), types(&trace("replacement", &replacement)?));
        if old != new {
            return Err(wrong(format!("the search gives {}, the replacement {}", list(&old), list(&new))));
        }
        specimens.push(Specimen { graph, numbers: example.numbers.clone() });
    }
    let plain = |it: &Specimen| {
        let is_input = |value| matches!(it.graph.op(value), Op::Input { .. } | Op::Constant(_));
        it.graph.outputs.iter().any(|out| is_input(out.value))
    };
    if specimens.iter().any(plain) {
        return Err(wrong("a result of the search is an input or a constant".into()));
    }
    for number in 0..first.numbers.len() {
        if !specimens.iter().any(|it| is_there(&it.graph, it.numbers[number])) {
            return Err(wrong(format!("number {number} is no constant of the search")));
        }
    }
    Ok(Replacement {
        name,
        at: Hook::Before("joint".into()),
        even_if_used: false,
        exact: false,
        search: Arc::new(search),
        replacement: Arc::new(replacement),
        check: Arc::new(check),
        specimens,
    })
}

/// The graph of a function called with inputs of these types.
pub fn trace(f: &TraceFn, inputs: &[Type], numbers: &[f64]) -> Result<Graph, Error> {
    let mut b = GraphBuilder::new();
    let mut values = Vec::new();
    for (number, ty) in inputs.iter().enumerate() {
        values.push(b.input(format!("x{number}"), ty.dtype, ty.shape.clone())?);
    }
    for (number, value) in f(&mut b, &values, numbers)?.into_iter().enumerate() {
        b.output(format!("y{number}"), value)?;
    }
    b.finish()
}

/// Whether a constant is this number everywhere.
fn is_there(graph: &Graph, number: f64) -> bool {
    graph.nodes().any(|(value, _)| {
        let tensor = graph.known(value).filter(|it| it.dtype().is_float());
        tensor.is_some_and(|tensor| {
            let rounded = Scalar::of(tensor.dtype(), number);
            let inverse = Scalar::of(tensor.dtype(), 1.0 / number);
            let mut all = tensor.scalars();
            let first = all.next();
            (first == Some(rounded) || first == Some(inverse)) && all.all(|it| Some(it) == first)
        })
    })
}

fn list(types: &[Type]) -> String {
    let all: Vec<String> = types.iter().map(Type::to_string).collect();
    format!("[{}]", all.join(", "))
}

impl fmt::Debug for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacement").field("name", &self.name).field("at", &self.at).finish_non_exhaustive()
    }
}
