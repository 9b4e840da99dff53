//! Kernels of every skeleton, on the device, against the evaluator.

mod attention;
mod maps;
mod operators;
mod products;
mod rows;

use wgfuse_compiler::{
    dtype::DType,
    index::Index,
    lower::{Expr, ExprId},
    scalar::BinaryOp,
    schedule::{Skeleton, Vars},
    shape::Shape,
};
use wgfuse_tests::kernel_case::Case;

fn var(axis: usize, extent: usize) -> Index {
    Index::var(axis, extent)
}

fn map(space: impl Into<Shape>) -> Skeleton {
    Skeleton::Map { space: space.into(), workgroup: 64, lanes: 1 }
}

/// 0 <= at < extent, as a guard.
fn inside(case: &mut Case, at: &Index, extent: usize) -> ExprId {
    let at = case.body.add(Expr::Coord(at.clone()), DType::I32);
    let (zero, end) = (case.body.constant(DType::I32, 0.0), case.body.constant(DType::I32, extent as f64));
    let (low, high) = (case.body.binary(BinaryOp::Ge, at, zero), case.body.binary(BinaryOp::Lt, at, end));
    case.body.binary(BinaryOp::And, low, high)
}

fn vars(vars: &[usize]) -> Vars {
    Vars::from_slice(vars)
}
