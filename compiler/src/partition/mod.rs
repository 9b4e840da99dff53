//! Optimised graph to parts: what is computed once from the constants alone, what runs on the GPU, what on the CPU and
//! why.

mod constants;
mod place;
mod range;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use slotmap::SecondaryMap;

pub use place::CpuReason;

use crate::{
    error::Error,
    graph::{Graph, Value},
    options::{Fallback, Options},
    passes::siblings::{self, Apart},
    target::{Place, Target},
};

#[derive(Clone, Debug)]
pub struct Partition {
    /// What every run computes. Its inputs are the model's, followed by the outputs of `constants` as further inputs.
    /// The only constants left in it have one element.
    pub graph: Graph,
    /// How many of `graph`'s inputs are the model's.
    pub arguments: usize,
    /// Computed once: no inputs, one output for each further input of `graph`, in order.
    pub constants: Graph,
    /// Where each node of `graph` runs.
    pub places: SecondaryMap<Value, Place>,
    /// Nodes that run on the CPU although the target is a GPU, by origin, each with the reason.
    pub reasons: Vec<(Arc<str>, CpuReason)>,
    /// Products of one input that stayed several, with the reasons.
    pub apart: Vec<Apart>,
}

/// Separates constants from runs and decides where every node runs. A tensor beyond `Options::memory_limit`, and, where
/// the options forbid it, a node that the GPU cannot run, are errors that name the node.
pub fn split(graph: &Graph, target: &Target, options: &Options) -> Result<Partition, Error> {
    for (_, node) in graph.nodes() {
        let need = node.ty.bytes() as u64;
        if need > options.memory_limit {
            let at = format!("node '{}'", node.origin);
            return Err(Error::MemoryLimit { at, need, have: options.memory_limit });
        }
    }
    let arguments = graph.inputs().len();
    let apart = siblings::apart(graph, target, options);
    let states = graph.states.clone();
    let (mut graph, constants) = constants::separate(graph, target)?;
    graph.states = states;
    let ranges = range::of_parts(&graph, arguments, &constants);
    let (places, reasons) = place::places(&graph, &ranges, target);
    let reasons: Vec<_> = (graph.nodes())
        .filter_map(|(value, node)| Some((node.origin.clone(), reasons.get(value)?.clone())))
        .collect();
    if let (Fallback::Error, Some((node, reason))) = (options.fallback, reasons.first()) {
        return Err(Error::Fallback { node: node.to_string(), reason: reason.to_string() });
    }
    Ok(Partition { graph, arguments, constants, places, reasons, apart })
}
