//! Graph to loops: one nest a node, every choice still open.
//!
//! In: a legalised graph. Out: `Loops`, in which each nest writes one tensor and says, for one point of its space,
//! what is read and computed. Views have become index arithmetic. Nothing is fused, tiled or ordered here.

pub mod body;
pub mod nest;

use std::sync::Arc;

use slotmap::{SlotMap, new_key_type};

pub use body::{Body, Coords, Expr, ExprId};
pub use nest::{Nest, NestKind};

use crate::{partition::Partition, shape::Type, target::Place};

new_key_type! {
    /// A tensor that loops read or write.
    pub struct TensorId;
}

/// Who writes a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Definition {
    /// The caller: number of the graph's inputs.
    Input(u32),
    /// Number of the outputs of `Partition::constants`.
    Constant(u32),
    /// `Loops::nests` at this position.
    Nest(usize),
}

#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub ty: Type,
    pub definition: Definition,
    /// The name in the source file of what it was made for.
    pub origin: Arc<str>,
}

#[derive(Clone, Default, Debug)]
pub struct Loops {
    pub tensors: SlotMap<TensorId, TensorInfo>,
    /// Writers before readers.
    pub nests: Vec<Nest>,
    /// One an output of the graph, in order.
    pub outputs: Vec<TensorId>,
    /// Where each nest runs.
    pub places: Vec<Place>,
}

pub fn lower(_partition: &Partition) -> Loops {
    todo!()
}
