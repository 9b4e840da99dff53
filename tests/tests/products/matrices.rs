//! Products on cooperative matrices, where the adapter has them; elsewhere their shaders are validated.

use wgfuse_compiler::{
    dtype::DType,
    index::Index,
    lower::{ExprId, eval::Memory},
    scalar::{BinaryOp, Scalar},
    schedule::{Skeleton, Tile, Vars, eval::eval_kernel},
};
use wgfuse_tests::{kernel_case::Case, random::Random};

use crate::{cooperates, cooperative, in_eights, validated};

fn space([batch, rows, cols, depth]: [usize; 4], (a, b): (ExprId, ExprId), tile: Tile) -> Skeleton {
    let [n, i, j] = [0, 1, 2].map(|it| Vars::from_slice(&[it]));
    let (space, depth) = ([batch, rows, cols].into(), [depth].into());
    Skeleton::Contract {
        space,
        depth,
        batch: n,
        rows: i,
        cols: j,
        a,
        b,
        others: vec![],
        sums: Vec::new(),
        tile,
    }
}

/// Sizes that are whole tiles and that are not, every layout, with something fused before and after.
fn every_layout(dtype: DType, tolerance: f64, tiles: &[([bool; 2], Tile)]) {
    let cooperates = cooperates();
    for (case, &(along, tile)) in tiles.iter().enumerate() {
        for (batch, rows, cols, depth) in [(1, 128, 128, 128), (2, 70, 36, 52), (1, 33, 65, 7)] {
            let mut case = Case::new(31 + case as u64);
            let left = if along[0] { [batch, depth, rows] } else { [batch, rows, depth] };
            let right = if along[1] { [depth, cols] } else { [cols, depth] };
            let (x, w) = (case.input(dtype, left), case.input(dtype, right));
            let bias = case.input(DType::F32, [cols]);
            let [n, i, j, k] = [0, 1, 2, 3].map(|it| Index::var(it, [batch, rows, cols, depth][it]));
            let first = [n.clone(), i.clone(), k.clone()];
            let second = [n.clone(), k.clone(), i.clone()];
            let a = case.load(x, if along[0] { second } else { first });
            let a = case.body.binary(BinaryOp::Max, a, a);
            let b = case.load(w, if along[1] { [k, j.clone()] } else { [j.clone(), k] });
            let (a, b) = (case.body.cast(DType::F32, a), case.body.cast(DType::F32, b));
            let (sum, shift) = (case.param(0), case.load(bias, [j.clone()]));
            let value = case.body.binary(BinaryOp::Add, sum, shift);
            let half = case.body.cast(DType::F16, value);
            // Written out, because the evaluator takes minutes.
            let floats = |it| -> Vec<f64> { case.values[it].iter().map(|it| it.as_f64()).collect() };
            let (left, right, shifts) = (floats(x), floats(w), floats(bias));
            let left = |n: usize, i: usize, k: usize| match along[0] {
                false => left[(n * rows + i) * depth + k],
                true => left[(n * depth + k) * rows + i],
            };
            let right = |k: usize, j: usize| right[if along[1] { k * cols + j } else { j * depth + k }];
            let one = |at: usize| {
                let (n, i, j) = (at / cols / rows, at / cols % rows, at % cols);
                shifts[j] + (0..depth).map(|k| left(n, i, k) * right(k, j)).sum::<f64>()
            };
            let want: Vec<f64> = (0..batch * rows * cols).map(one).collect();
            let mut expected = Memory::new();
            let mut store = |dtype: DType, value: ExprId| {
                let tensor = case.store([batch, rows, cols], [n.clone(), i.clone(), j.clone()], value);
                expected.insert(tensor, want.iter().map(|it| Scalar::of(dtype, *it)).collect());
            };
            store(DType::F32, value);
            if dtype == DType::F16 {
                store(DType::F16, half);
            }
            let skeleton = space([batch, rows, cols, depth], (a, b), tile);
            validated(&case, skeleton, cooperates.then_some(&expected), tolerance);
        }
    }
}

const LAYOUTS: [[bool; 2]; 4] = [[false, true], [false, false], [true, false], [true, true]];

#[test]
fn products_on_cooperative_matrices() {
    let sizes = [
        ([64, 64], [32, 32], [32, 2, 2]),
        ([32, 32], [16, 16], [64, 1, 1]),
        ([128, 64], [64, 32], [32, 1, 1]),
        ([128, 96], [64, 48], [32, 1, 3]),
    ];
    let tiles = sizes.iter().flat_map(|&size| LAYOUTS.map(|along| (along, cooperative(1, size, along))));
    every_layout(DType::F16, 2e-3, &tiles.collect::<Vec<_>>());
}

/// Vectors of eight, of which some sizes of `every_layout` are no multiple.
#[test]
fn products_in_eights() {
    let sizes = [
        ([64, 64], [32, 32], [32, 2, 2]),
        ([32, 32], [16, 16], [64, 1, 1]),
        ([128, 64], [64, 32], [32, 1, 1]),
        ([128, 96], [64, 48], [32, 1, 3]),
        ([64, 64], [32, 32], [16, 1, 1]),
    ];
    let tiles =
        sizes.iter().flat_map(|&size| LAYOUTS.map(|along| (along, in_eights(cooperative(1, size, along)))));
    every_layout(DType::F16, 2e-3, &tiles.collect::<Vec<_>>());
}

#[test]
fn products_of_pairs() {
    let sizes = [([64, 64], [32, 32], [32, 1, 2]), ([64, 128], [32, 32], [32, 1, 1])];
    let tiles = sizes.iter().flat_map(|&size| LAYOUTS.map(|along| (along, cooperative(2, size, along))));
    let large = cooperative(2, ([128, 128], [64, 64], [32, 1, 1]), [false, true]);
    every_layout(DType::F32, 4e-6, &tiles.chain([([false, true], large)]).collect::<Vec<_>>());
}

/// Rows and columns of very different magnitudes, beside each other, are as exact as others; what is infinite or
/// not a number is so in its row and column alone.
#[test]
fn pairs_keep_every_magnitude() {
    let cooperates = cooperates();
    let mut random = Random::new(61);
    let [rows, cols, depth] = [70, 68, 100];
    let of_rows = [1.0, 1e-20, 3e-6, 4e-4, 6e-4, 300.0, 520.0, 1e6, 1e25, 0.0, f64::INFINITY, f64::NAN];
    let of_cols = [1.0, 2e-4, 1e-5, 700.0, 0.03];
    for along in LAYOUTS {
        let mut case = Case::new(7);
        let row = |it: usize| of_rows[it % of_rows.len()];
        let col = |it: usize| of_cols[it % of_cols.len()];
        let mut given = |case: &mut Case, count: usize, across: bool, size: &dyn Fn(usize) -> f64| {
            let mut values = vec![0.0; count * depth];
            for it in 0..count {
                for k in 0..depth {
                    // Few of a row are infinite or no number, and all sizes are in a row.
                    let finite = random.unit() * 2f64.powi(-((k % 13) as i32));
                    let value = match size(it) {
                        scale if scale.is_finite() => finite * scale,
                        scale if k == it => scale,
                        _ => finite,
                    };
                    values[if across { k * count + it } else { it * depth + k }] = value;
                }
            }
            case.given(DType::F32, if across { [depth, count] } else { [count, depth] }, &values)
        };
        let x = given(&mut case, rows, along[0], &row);
        let w = given(&mut case, cols, along[1], &col);
        let inverse = |it: f64| if it.is_finite() && it != 0.0 { 1.0 / it } else { 1.0 };
        let undo: Vec<f64> = (0..rows).map(|it| inverse(row(it))).collect();
        let rows_undone = case.given(DType::F32, [rows], &undo);
        let undo: Vec<f64> = (0..cols).map(|it| inverse(col(it))).collect();
        let cols_undone = case.given(DType::F32, [cols], &undo);
        let [n, i, j, k] = [0, 1, 2, 3].map(|it| Index::var(it, [1, rows, cols, depth][it]));
        let a = case.load(x, if along[0] { [k.clone(), i.clone()] } else { [i.clone(), k.clone()] });
        let b = case.load(w, if along[1] { [k, j.clone()] } else { [j.clone(), k] });
        let (by_row, by_col) = (case.load(rows_undone, [i.clone()]), case.load(cols_undone, [j.clone()]));
        let sum = case.param(0);
        let value = case.body.binary(BinaryOp::Mul, sum, by_row);
        let value = case.body.binary(BinaryOp::Mul, value, by_col);
        case.store([1, rows, cols], [n, i, j], value);
        let skeleton =
            space([1, rows, cols, depth], (a, b), cooperative(2, ([64, 64], [32, 32], [32, 1, 1]), along));
        let schedule = case.schedule(skeleton.clone());
        let mut expected = case.values.clone();
        eval_kernel(&schedule.kernels[0], &schedule.tensors, &mut expected);
        validated(&case, skeleton, cooperates.then_some(&expected), 4e-6);
    }
}
