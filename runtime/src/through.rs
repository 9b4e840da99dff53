//! Graphs without any operation: their outputs are inputs and constants, which a run hands through.
//!
//! In: a graph, and what a run is given. Out: its outputs. No device, plan or pipeline has a part in it.

use wgfuse_compiler::{
    graph::{Graph, Op},
    tensor::Tensor,
};

use crate::device_tensor::AnyTensor;

/// The outputs of a graph that computes nothing, by name.
pub(crate) struct Through(Vec<(String, Source)>);

enum Source {
    /// Number of the graph's inputs.
    Input(usize),
    Constant(Tensor),
}

impl Through {
    /// None where an output has to be computed, is kept as a state or may be random.
    pub fn of(graph: &Graph) -> Option<Through> {
        if !graph.states.is_empty() || graph.random_key_slot().is_some() {
            return None;
        }
        let source = |value| match graph.op(value) {
            Op::Input { slot } => Some(Source::Input(*slot as usize)),
            _ => graph.as_constant(value).cloned().map(Source::Constant),
        };
        let outputs = graph.outputs.iter().map(|it| Some((it.name.clone(), source(it.value)?)));
        outputs.collect::<Option<_>>().map(Through)
    }

    /// `given` has one value an input of the graph, in order.
    pub fn outputs(&self, given: &[AnyTensor]) -> Vec<(String, AnyTensor)> {
        let value = |source: &Source| match source {
            Source::Input(number) => given[*number].clone(),
            Source::Constant(tensor) => AnyTensor::Host(tensor.clone()),
        };
        self.0.iter().map(|(name, source)| (name.clone(), value(source))).collect()
    }
}
