//! Optimised graph to parts: what is computed once from the constants alone, what runs on the GPU, what on the CPU and
//! why.

use std::sync::Arc;

use slotmap::SecondaryMap;

use crate::{
    error::Error,
    graph::{Graph, Value},
    options::Options,
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
    pub reasons: Vec<(Arc<str>, String)>,
}

pub fn split(_graph: &Graph, _target: &Target, _options: &Options) -> Result<Partition, Error> {
    todo!()
}
