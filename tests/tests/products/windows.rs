//! Convolutions by windows on cooperative matrices, where the adapter has them; elsewhere their shaders are validated.

use wgfuse_compiler::{
    dtype::DType,
    index::Index,
    lower::{Expr, ExprId},
    scalar::{BinaryOp, UnaryOp},
    schedule::{Skeleton, Vars, eval::eval_kernel},
};
use wgfuse_tests::kernel_case::Case;

use crate::{cooperates, cooperative, in_eights, validated};

/// 0 <= at < extent, as a guard.
fn inside(case: &mut Case, at: &Index, extent: usize) -> ExprId {
    let at = case.body.add(Expr::Coord(at.clone()), DType::I32);
    let (zero, end) = (case.body.constant(DType::I32, 0.0), case.body.constant(DType::I32, extent as f64));
    let (low, high) = (case.body.binary(BinaryOp::Ge, at, zero), case.body.binary(BinaryOp::Lt, at, end));
    case.body.binary(BinaryOp::And, low, high)
}

/// Images with their channels last, read through windows of every kind; the sums get a bias and a residual.
#[test]
fn windows_on_cooperative_matrices() {
    let cooperates = cooperates();
    let along = [false, false];
    let tiles = [
        (1, cooperative(1, ([64, 64], [32, 16], [32, 1, 1]), along)),
        (1, cooperative(1, ([32, 32], [16, 16], [64, 2, 1]), along)),
        (1, cooperative(1, ([128, 64], [32, 32], [64, 1, 2]), along)),
        (1, in_eights(cooperative(1, ([64, 64], [32, 16], [32, 1, 1]), along))),
        (1, in_eights(cooperative(1, ([32, 32], [16, 16], [64, 2, 1]), along))),
        (2, cooperative(2, ([64, 64], [32, 32], [32, 1, 2]), along)),
        (2, cooperative(2, ([64, 64], [32, 16], [64, 1, 1]), along)),
    ];
    // Channels and results of a group, groups, steps, padding, dilation; whole slabs of channels, vectors and neither.
    let kinds = [
        (64, 32, 1, 1, 1, 1),
        (64, 24, 1, 2, 1, 1),
        (8, 40, 2, 1, 2, 2),
        (12, 20, 1, 2, 0, 1),
        (3, 17, 1, 2, 1, 1),
        (5, 6, 2, 1, 1, 1),
    ];
    for (seed, (parts, tile)) in tiles.into_iter().enumerate() {
        for (channels, results, groups, stride, padding, dilation) in kinds {
            let [images, height, width] = [2, 9, 7];
            let down = (height + 2 * padding - 2 * dilation - 1) / stride + 1;
            let across = (width + 2 * padding - 2 * dilation - 1) / stride + 1;
            let dtype = if parts == 1 { DType::F16 } else { DType::F32 };
            let mut case = Case::new(71 + seed as u64);
            let x = case.input(dtype, [images, height, width, groups * channels]);
            let w = case.input(dtype, [groups, results, 3, 3, channels]);
            let (bias, rest) = (
                case.input(DType::F32, [groups * results]),
                case.input(dtype, [images, down, across, groups * results]),
            );
            let extents = [groups, images, down, across, results, 3, 3, channels];
            let [g, n, i, j, o, p, q, c] =
                [0, 1, 2, 3, 4, 5, 6, 7].map(|axis| Index::var(axis, extents[axis]));
            let moved = |at: &Index, by: &Index| {
                at.mul(stride as i64).add(&by.mul(dilation as i64)).offset_by(-(padding as i64))
            };
            let (row, col) = (moved(&i, &p), moved(&j, &q));
            let (in_row, in_col) = (inside(&mut case, &row, height), inside(&mut case, &col, width));
            let guard = case.body.binary(BinaryOp::And, in_row, in_col);
            let channel = g.mul(channels as i64).add(&c);
            let pixel = case.load_if(guard, x, [n.clone(), row, col, channel]);
            let weight = case.load(w, [g.clone(), o.clone(), p, q, c]);
            let (a, b) = (case.body.cast(DType::F32, pixel), case.body.cast(DType::F32, weight));
            let result = g.mul(results as i64).add(&o);
            let at = [n, i, j, result.clone()];
            let (shift, other) = (case.load(bias, [result]), case.load(rest, at.clone()));
            let (sum, other) = (case.param(0), case.body.cast(DType::F32, other));
            let value = case.body.binary(BinaryOp::Add, sum, shift);
            let value = case.body.binary(BinaryOp::Add, value, other);
            let value = case.body.unary(UnaryOp::Relu, value);
            let value = case.body.cast(dtype, value);
            case.store([images, down, across, groups * results], at, value);
            let skeleton = Skeleton::Contract {
                space: extents[..5].into(),
                depth: extents[5..].into(),
                batch: Vars::from_slice(&[0]),
                rows: Vars::from_slice(&[1, 2, 3]),
                cols: Vars::from_slice(&[4]),
                a,
                b,
                others: vec![],
                sums: vec![],
                tile,
            };
            let mut expected = case.values.clone();
            if cooperates {
                let schedule = case.schedule(skeleton.clone());
                eval_kernel(&schedule.kernels[0], &schedule.tensors, &mut expected);
            }
            // Results of f32 are sums of up to 576 numbers of up to 4, of which some cancel.
            let tolerance = if parts == 1 { 4e-3 } else { 2e-5 };
            validated(&case, skeleton, cooperates.then_some(&expected), tolerance);
        }
    }
}
