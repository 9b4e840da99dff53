//! Model files to graphs: the only door for files. Files are untrusted: whatever the bytes, the result is a graph or
//! an error that says where.
//!
//! A model keeps its symbols in its signature; `Model::graph` is given the shape of every input and makes a graph in
//! which every size is a number and everything that follows from sizes alone has been computed.

use crate::{
    dtype::DType,
    error::Error,
    graph::Graph,
    shape::{Dim, Shape},
};

/// A named tensor of a model's signature.
#[derive(Clone, PartialEq, Debug)]
pub struct Signature {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<Dim>,
}

/// A parsed model: its signature, and how to make its graph for given shapes. Cloning shares the file's bytes.
#[derive(Clone, Debug)]
pub struct Model {
    pub inputs: Vec<Signature>,
    pub outputs: Vec<Signature>,
}

impl Model {
    /// The graph for one shape an input, in the order of `inputs`.
    pub fn graph(&self, _shapes: &[Shape]) -> Result<Graph, Error> {
        todo!()
    }
}
