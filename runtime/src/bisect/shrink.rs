//! Smaller versions of what a compilation was given: fewer nodes, smaller sizes, plainer values.
//!
//! In: a graph with examples, and what to leave out. Out: the same without it, or nothing where the rest does not fit together.

use slotmap::SecondaryMap;
use wgfuse_compiler::{
    arguments::{Arguments, Example},
    graph::{Graph, Op, Output, Value},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// What to change. Whatever the outputs do not need goes.
pub(super) struct Edit<'a> {
    pub outputs: Vec<Output>,
    /// Nodes that become inputs, each with its value where that is known.
    pub cuts: SecondaryMap<Value, Option<Tensor>>,
    /// Everything of the first size gets the second.
    pub size: Option<(usize, usize)>,
    /// Of inputs, by their numbers, and constants, by their nodes.
    pub values: &'a dyn Fn(Data, &Tensor) -> Tensor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Data {
    Input(usize),
    Constant(Value),
}

impl Edit<'_> {
    pub fn none(graph: &Graph) -> Edit<'static> {
        let outputs = graph.outputs.clone();
        Edit { outputs, cuts: SecondaryMap::new(), size: None, values: &|_, it| it.clone() }
    }

    pub fn applied(&self, arguments: &Arguments) -> Option<Arguments> {
        let from = &arguments.graph;
        let is_cut = |value: Value| self.cuts.contains_key(value);
        let mut live: SecondaryMap<Value, ()> = self.outputs.iter().map(|it| (it.value, ())).collect();
        let nodes: Vec<_> = from.nodes().collect();
        for (value, node) in nodes.iter().rev() {
            if live.contains_key(*value) && !is_cut(*value) {
                live.extend(node.op.operands().into_iter().map(|it| (it, ())));
            }
        }
        let mut graph = Graph::new();
        let mut examples = Vec::new();
        let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
        for (value, node) in nodes.into_iter().filter(|it| live.contains_key(it.0)) {
            graph.set_origin(node.origin.clone());
            let new = match (&node.op, self.cuts.get(value)) {
                (Op::Input { slot }, _) => {
                    let slot = *slot as usize;
                    let example = &arguments.examples[slot];
                    let tensor = example.value.as_ref().map(|it| (self.values)(Data::Input(slot), it));
                    examples.push(Example {
                        device: example.device.clone(),
                        value: tensor.map(|it| self.cropped(&it)),
                    });
                    graph.add_input(from.inputs()[slot].name.clone(), self.ty(&node.ty)).ok()?
                }
                (Op::Constant(_), _) => {
                    let tensor = (self.values)(Data::Constant(value), from.as_constant(value)?);
                    graph.add_constant(self.cropped(&tensor))
                }
                (_, Some(tensor)) => {
                    let taken = |name: &str| graph.inputs().iter().any(|it| it.name == name);
                    let name = (0..).map(|it| format!("cut{it}")).find(|it| !taken(it))?;
                    let tensor = tensor.as_ref().map(|it| self.cropped(it));
                    examples.push(Example { device: "host".into(), value: tensor });
                    graph.add_input(name, self.ty(&node.ty)).ok()?
                }
                (op, None) => {
                    let op = self.sized(op.clone()).map_operands(|it| moved[it]);
                    let new = graph.add(op).ok()?;
                    if *graph.ty(new) != self.ty(&node.ty) {
                        return None;
                    }
                    new
                }
            };
            moved.insert(value, new);
        }
        graph.outputs =
            self.outputs.iter().map(|it| Output { name: it.name.clone(), value: moved[it.value] }).collect();
        let ends = |value: Value| matches!(graph.op(value), Op::Input { .. } | Op::Constant(_));
        if graph.outputs.iter().all(|it| ends(it.value)) {
            return None;
        }
        // A state needs both of its ends, and their names: what is left of one is an input like any other.
        graph.states =
            match graph.inputs().len() == from.inputs().len() && graph.outputs.len() == from.outputs.len() {
                true => from.states.clone(),
                false => Vec::new(),
            };
        if let Some(slot) = graph.random_key_slot() {
            let key = examples.remove(slot as usize);
            examples.push(key);
            graph = graph.with_key_last().ok()?;
        }
        Some(Arguments { graph, examples, ..arguments.clone() })
    }

    fn dim(&self, dim: usize) -> usize {
        match self.size {
            Some((from, to)) if dim == from => to,
            _ => dim,
        }
    }

    fn shape(&self, shape: &Shape) -> Shape {
        shape.iter().map(|it| self.dim(*it)).collect()
    }

    fn ty(&self, ty: &Type) -> Type {
        Type { dtype: ty.dtype, shape: self.shape(&ty.shape) }
    }

    fn sized(&self, mut op: Op) -> Op {
        match &mut op {
            Op::Reshape { shape, .. } | Op::Expand { shape, .. } => *shape = self.shape(shape),
            Op::Slice { sizes, .. } => *sizes = self.shape(sizes),
            Op::ConvTranspose { output, .. } | Op::Pool { output, .. } => *output = self.shape(output),
            _ => {}
        }
        op
    }

    /// Its first elements along each axis that became shorter.
    fn cropped(&self, tensor: &Tensor) -> Tensor {
        let to = self.shape(tensor.shape());
        if to == *tensor.shape() {
            return tensor.clone();
        }
        let strides = tensor.shape().strides();
        let size = tensor.dtype().size();
        let mut bytes = Vec::with_capacity(to.count() * size);
        for number in 0..to.count() {
            let at: usize = (to.strides().iter().zip(to.iter()).zip(&strides))
                .map(|((own, dim), stride)| number / own % dim * stride)
                .sum();
            bytes.extend_from_slice(&tensor.data()[at * size..(at + 1) * size]);
        }
        let ty = Type { dtype: tensor.dtype(), shape: to };
        Tensor::new(ty, bytes.into()).unwrap_or_else(|| wgfuse_compiler::bug!("as many bytes as elements"))
    }
}
