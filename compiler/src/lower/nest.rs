//! One loop nest: an iteration space, a pure body, and what is done with its value.
//!
//! Loop variables are numbered through: first the axes of the written tensor, then those summed or reduced over.
//! The nest writes its tensor at the first ones, unchanged.

use std::sync::Arc;

use super::{Body, ExprId, TensorId};
use crate::{scalar::ReduceOp, shape::Shape};

#[derive(Clone, PartialEq, Debug)]
pub struct Nest {
    pub tensor: TensorId,
    /// The op's name, for kernel names and reports.
    pub op: &'static str,
    pub origin: Arc<str>,
    /// The shape of `tensor`: variables 0..rank.
    pub space: Shape,
    pub body: Body,
    pub kind: NestKind,
}

#[derive(Clone, PartialEq, Debug)]
pub enum NestKind {
    /// tensor[i] = value
    Map { value: ExprId },
    /// tensor[i] = reduction of value over variables rank..rank+depth.len()
    Reduce { depth: Shape, op: ReduceOp, value: ExprId },
    /// tensor[i] = sum of a*b over variables rank..rank+depth.len(), accumulated in f32 at least. Matrix products and
    /// convolutions alike.
    Contract { depth: Shape, a: ExprId, b: ExprId },
    /// Variables: 0 batch, 1 head, 2 query, 3 value channel; 4 key, 5 channel. `q` uses 0 1 2 5, `k` 0 1 4 5, `v` 0 1 4 3,
    /// `mask` 0 1 2 4; the rest as `Op::Attention` says.
    Attention {
        keys: usize,
        channels: usize,
        scale: f64,
        zero_masked: bool,
        q: ExprId,
        k: ExprId,
        v: ExprId,
        mask: Option<ExprId>,
    },
}

impl Nest {
    /// Of its loop variables, by their numbers.
    pub fn extents(&self) -> Vec<usize> {
        let depth: &[usize] = match &self.kind {
            NestKind::Map { .. } => &[],
            NestKind::Reduce { depth, .. } | NestKind::Contract { depth, .. } => depth,
            NestKind::Attention { keys, channels, .. } => &[*keys, *channels],
        };
        self.space.iter().chain(depth).copied().collect()
    }
}

impl NestKind {
    pub fn roots(&self) -> smallvec::SmallVec<[ExprId; 4]> {
        match self {
            NestKind::Map { value } | NestKind::Reduce { value, .. } => smallvec::smallvec![*value],
            NestKind::Contract { a, b, .. } => smallvec::smallvec![*a, *b],
            NestKind::Attention { q, k, v, mask, .. } => [*q, *k, *v].into_iter().chain(*mask).collect(),
        }
    }
}
