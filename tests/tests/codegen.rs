//! Kernels of every skeleton, on the device, against the evaluator.

use wgfuse_compiler::{
    dtype::{Class, DType},
    index::{Index, delinearise, linearise},
    lower::{Expr, ExprId},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    schedule::{
        AttentionTile, Few, LastKey, PlainAttention, RowAttention, RowForm, Skeleton, Stage, Team, Tile, Vars,
    },
    shape::Shape,
    target::Target,
};
use wgfuse_tests::{gpu::gpu, kernel_case::Case};

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

#[test]
fn map_broadcasts_and_permutes() {
    let mut case = Case::new(1);
    let x = case.input(DType::F32, [3, 4, 5]);
    let bias = case.input(DType::F32, [5]);
    let (i, j, k) = (var(0, 3), var(1, 4), var(2, 5));
    let a = case.load(x, [i.clone(), j.clone(), k.clone()]);
    let b = case.load(bias, [k.clone()]);
    let sum = case.body.binary(BinaryOp::Add, a, b);
    let value = case.body.unary(UnaryOp::Gelu, sum);
    case.store([3, 4, 5], [i.clone(), j.clone(), k.clone()], value);
    case.store([5, 12], [k, linearise(&[i, j], &[3, 4])], sum);
    let shader = case.check(map([3, 4, 5]), 1e-6);
    // A contiguous access is the number of the invocation: one remainder for the bias, few for the transposed store.
    assert!(shader.wgsl().matches(" % ").count() <= 2, "{}", shader.wgsl());
}

#[test]
fn a_contiguous_map_divides_nothing() {
    let mut case = Case::new(2);
    let x = case.input(DType::F32, [7, 11, 13]);
    let at = [var(0, 7), var(1, 11), var(2, 13)];
    let a = case.load(x, at.clone());
    let value = case.body.unary(UnaryOp::Sigmoid, a);
    case.store([7, 11, 13], at, value);
    let text = case.check(map([7, 11, 13]), 1e-6).wgsl();
    let main = &text[text.find("fn main").expect("an entry point")..];
    assert!(!main.contains('%') && !main.contains('/') && !main.contains(">>"), "{text}");
}

#[test]
fn guarded_loads_outside_are_zero() {
    let mut case = Case::new(3);
    let x = case.input(DType::F32, [5, 6]);
    let (i, j) = (var(0, 9).offset_by(-2), var(1, 8).offset_by(-1));
    let (a, b) = (inside(&mut case, &i, 5), inside(&mut case, &j, 6));
    let guard = case.body.binary(BinaryOp::And, a, b);
    let value = case.load_if(guard, x, [i, j]);
    case.store([9, 8], [var(0, 9), var(1, 8)], value);
    case.check(map([9, 8]), 0.0);
}

#[test]
fn indices_that_may_be_negative_divide_right() {
    let mut case = Case::new(4);
    let i = var(0, 40).mul(3).offset_by(-50);
    for (by, power) in [(7, false), (8, true)] {
        let quotient = case.body.add(Expr::Coord(i.div(by)), DType::I64);
        let rest = case.body.add(Expr::Coord(i.modulo(by)), DType::I64);
        assert_eq!((by as u64).is_power_of_two(), power);
        case.store([40], [var(0, 40)], quotient);
        case.store([40], [var(0, 40)], rest);
    }
    case.check(map([40]), 0.0);
}

#[test]
fn gathers_use_data_as_indices() {
    let mut case = Case::new(5);
    let table = case.input(DType::F32, [10, 3]);
    let ids = case.given(DType::I64, [4], &[3.0, -1.0, 9.0, 100.0]);
    let id = case.load(ids, [var(0, 4)]);
    let (zero, ten) = (case.body.constant(DType::I64, 0.0), case.body.constant(DType::I64, 10.0));
    let negative = case.body.binary(BinaryOp::Lt, id, zero);
    let up = case.body.binary(BinaryOp::Add, id, ten);
    let id = case.body.select(negative, up, id);
    let nine = case.body.constant(DType::I64, 9.0);
    let id = case.body.binary(BinaryOp::Min, id, nine);
    let id = case.body.binary(BinaryOp::Max, id, zero);
    let value = case.load(table, [Index::data(id.0, 0, 9), var(1, 3)]);
    case.store([4, 3], [var(0, 4), var(1, 3)], value);
    case.check(map([4, 3]), 0.0);
}

/// Arguments that find out functions: specials, ends of ranges, ordinary numbers.
const FLOATS: [f64; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.1,
    -0.3,
    3.0,
    -3.7,
    10.0,
    -10.0,
    60.0,
    -60.0,
    100.0,
    -100.0,
    0.999,
    1e-4,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

#[test]
fn every_unary_operator_on_floats() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for chunk in UnaryOp::ALL.chunks(6) {
            let mut case = Case::new(6);
            let x = case.given(dtype, [24], &FLOATS);
            let a = case.load(x, [var(0, 24)]);
            for op in chunk.iter().filter(|it| it.result(dtype).is_some()) {
                let value = case.body.unary(*op, a);
                case.store([24], [var(0, 24)], value);
            }
            let tolerance = match dtype {
                DType::F16 => 2e-3,
                DType::BF16 => 1e-2,
                _ => 1e-5,
            };
            case.check(map([24]), tolerance);
        }
    }
}

#[test]
fn every_binary_operator_on_floats() {
    for chunk in BinaryOp::ALL.chunks(6) {
        let mut case = Case::new(7);
        let x = case.given(DType::F32, [24], &FLOATS);
        let (a, b) = (case.load(x, [var(0, 24)]), case.load(x, [var(1, 24)]));
        for op in chunk.iter().filter(|it| it.result(DType::F32).is_some()) {
            let value = case.body.binary(*op, a, b);
            case.store([24, 24], [var(0, 24), var(1, 24)], value);
        }
        case.check(map([24, 24]), 2e-5);
    }
}

#[test]
fn every_operator_on_integers_and_bools() {
    let numbers =
        [0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 31.0, 100.0, 127.0, -1.0, -2.0, -7.0, -128.0, -100.0, 8.0, 16.0];
    for dtype in DType::ALL.into_iter().filter(|it| it.class() != Class::Float) {
        let ops = BinaryOp::ALL.iter().copied().filter(|it| it.result(dtype).is_some()).collect::<Vec<_>>();
        let given: Vec<f64> =
            numbers.into_iter().map(|it| if dtype == DType::U64 && it < 0.0 { -it } else { it }).collect();
        for chunk in ops.chunks(6) {
            let mut case = Case::new(8);
            let x = case.given(dtype, [16], &given);
            let (a, b) = (case.load(x, [var(0, 16)]), case.load(x, [var(1, 16)]));
            // 64-bit integers are computed in 32 bits, which products, powers and shifts would show.
            let wide = [BinaryOp::Pow, BinaryOp::Shl, BinaryOp::Mul, BinaryOp::Shr, BinaryOp::Sub];
            for &op in chunk.iter().filter(|it| dtype.size() < 8 || !wide.contains(it)) {
                let value = case.body.binary(op, a, b);
                case.store([16, 16], [var(0, 16), var(1, 16)], value);
            }
            if !case.stores.is_empty() {
                case.check(map([16, 16]), 0.0);
            }
        }
        for chunk in UnaryOp::ALL.chunks(6) {
            let mut case = Case::new(8);
            let x = case.given(dtype, [16], &given);
            let a = case.load(x, [var(0, 16)]);
            for op in chunk.iter().filter(|it| it.result(dtype).is_some()) {
                if dtype == DType::U64 && matches!(op, UnaryOp::Neg | UnaryOp::Not) {
                    continue;
                }
                let value = case.body.unary(*op, a);
                case.store([16], [var(0, 16)], value);
            }
            if !case.stores.is_empty() {
                case.check(map([16]), 0.0);
            }
        }
    }
}

#[test]
fn every_cast() {
    for from in DType::ALL.into_iter().filter(|it| *it != DType::F64) {
        for to in DType::ALL.chunks(6) {
            let mut case = Case::new(9);
            let numbers = [0.0, 1.0, -1.0, 2.0, 100.0, 127.0, 255.0, 300.0, -3.0, 40000.0];
            let mut given = numbers.to_vec();
            if from.class() == Class::Float {
                given.extend([0.5, -0.5, 1.9, -1.9, 1e20, -1e20, f64::NAN, f64::INFINITY]);
            }
            let count = given.len();
            let x = case.given(from, [count], &given);
            let a = case.load(x, [var(0, count)]);
            for &to in
                to.iter().filter(|it| !matches!(it, DType::F64 | DType::I64 | DType::U64) && **it != from)
            {
                let value = case.body.cast(to, a);
                case.store([count], [var(0, count)], value);
            }
            if !matches!(from, DType::U64) && !case.stores.is_empty() {
                case.check(map([count]), 0.0);
            }
        }
    }
}

#[test]
fn constants_of_every_kind() {
    let mut case = Case::new(10);
    for (dtype, value) in [
        (DType::F32, f64::INFINITY),
        (DType::F32, f64::NEG_INFINITY),
        (DType::F32, f64::NAN),
        (DType::F16, f64::NEG_INFINITY),
        (DType::I32, i32::MIN as f64),
        (DType::U8, 255.0),
        (DType::Bool, 1.0),
    ] {
        let value = case.body.constant(dtype, value);
        case.store([5], [var(0, 5)], value);
    }
    case.check(map([5]), 0.0);
}

#[test]
fn halves_share_words_with_their_neighbours() {
    for dtype in [DType::F16, DType::BF16] {
        let mut case = Case::new(11);
        let x = case.input(dtype, [7, 9]);
        let a = case.load(x, [var(0, 7), var(1, 9)]);
        let value = case.body.unary(UnaryOp::Neg, a);
        case.store([9, 7], [var(1, 9), var(0, 7)], value);
        case.store([7, 9], [var(0, 7), var(1, 9)], a);
        case.check(map([7, 9]), 0.0);
    }
}

#[test]
fn tensors_larger_than_a_binding_are_bound_in_parts() {
    for dtype in [DType::F32, DType::F16] {
        let mut case = Case::new(12);
        case.target.max_binding_size = 1000;
        case.target.offset_alignment = 256;
        let x = case.input(dtype, [600]);
        let back = var(0, 600).mul(-1).offset_by(599);
        let value = case.load(x, [back]);
        case.store([600], [var(0, 600)], value);
        let shader = case.check(map([600]), 0.0);
        assert!(
            shader.bindings.len() >= 4
                && shader.bindings.iter().all(|it| it.offset % 256 == 0 && it.len <= 1000)
        );
    }
}

#[test]
fn dispatches_fold_past_the_limit() {
    let mut case = Case::new(13);
    case.target.max_workgroups_per_dimension = 3;
    let x = case.input(DType::F32, [1000]);
    let a = case.load(x, [var(0, 1000)]);
    case.store([1000], [var(0, 1000)], a);
    let shader = case.check(map([1000]), 0.0);
    assert!(shader.groups.iter().all(|it| *it <= 3), "{:?}", shader.groups);
}

/// Ways to reduce rows of that length: who shares a row, kept and looped over, one element at a time and several.
fn forms(length: usize) -> Vec<RowForm> {
    let mut teams = vec![
        Team::Invocation { workgroup: 64 },
        Team::Workgroup { size: 32, subgroup: None },
        Team::Workgroup { size: 128, subgroup: None },
    ];
    if let Some(size) = gpu().subgroup {
        teams.extend([
            Team::Subgroup { size, rows: 4 },
            Team::Workgroup { size: 3 * size, subgroup: Some(size) },
            Team::Workgroup { size, subgroup: Some(size) },
        ]);
    }
    let mut forms = Vec::new();
    for (number, team) in teams.into_iter().enumerate() {
        let most = [8, 4, 2].into_iter().find(|it| length.is_multiple_of(*it as usize));
        let lanes = most.into_iter().chain([1]);
        // One choice of the rest for each is enough.
        let rest = |(at, lanes)| RowForm {
            team,
            lanes,
            steps: [1, 16, 3][(number + at) % 3],
            early: (number + at) % 2 == 0,
        };
        forms.extend(lanes.enumerate().map(rest));
    }
    forms
}

/// Lengths that are written out and that are looped over, whole workgroups and not.
const LENGTHS: [usize; 10] = [1, 7, 31, 32, 33, 77, 128, 1000, 1500, 4097];

fn rows(outer: impl Into<Shape>, inner: impl Into<Shape>, stages: Vec<Stage>, form: RowForm) -> Skeleton {
    Skeleton::Rows { outer: outer.into(), inner: inner.into(), stages, form }
}

#[test]
fn softmax_rows() {
    for length in LENGTHS {
        for form in forms(length) {
            let mut case = Case::new(14);
            let x = case.input(DType::F32, [3, 2, length]);
            let at = [var(0, 3), var(1, 2), var(2, length)];
            let a = case.load(x, at.clone());
            let most = case.param(0);
            let moved = case.body.binary(BinaryOp::Sub, a, most);
            let exp = case.body.unary(UnaryOp::Exp, moved);
            let total = case.param(1);
            let value = case.body.binary(BinaryOp::Div, exp, total);
            let log = case.body.unary(UnaryOp::Log, total);
            case.store([3, 2, length], at, value);
            case.store([3, 2], [var(0, 3), var(1, 2)], log);
            let stages = vec![Stage { op: ReduceOp::Max, value: a }, Stage { op: ReduceOp::Sum, value: exp }];
            case.check(rows([3, 2], [length], stages, form), 1e-5);
        }
    }
}

#[test]
fn layer_norm_rows() {
    for length in LENGTHS {
        for form in forms(length) {
            let mut case = Case::new(15);
            let x = case.input(DType::F32, [5, length]);
            let scale = case.input(DType::F32, [length]);
            let a = case.load(x, [var(0, 5), var(1, length)]);
            let count = case.body.constant(DType::F32, length as f64);
            let sum = case.param(0);
            let mean = case.body.binary(BinaryOp::Div, sum, count);
            let centred = case.body.binary(BinaryOp::Sub, a, mean);
            let square = case.body.binary(BinaryOp::Mul, centred, centred);
            let squares = case.param(1);
            let variance = case.body.binary(BinaryOp::Div, squares, count);
            let eps = case.body.constant(DType::F32, 1e-5);
            let variance = case.body.binary(BinaryOp::Add, variance, eps);
            let factor = case.body.unary(UnaryOp::Rsqrt, variance);
            let value = case.body.binary(BinaryOp::Mul, centred, factor);
            let by = case.load(scale, [var(1, length)]);
            let value = case.body.binary(BinaryOp::Mul, value, by);
            case.store([5, length], [var(0, 5), var(1, length)], value);
            let stages =
                vec![Stage { op: ReduceOp::Sum, value: a }, Stage { op: ReduceOp::Sum, value: square }];
            case.check(rows([5], [length], stages, form), 1e-4);
        }
    }
}

#[test]
fn every_reduction_of_every_type() {
    for (number, form) in forms(36).into_iter().enumerate() {
        for dtype in
            [DType::F32, DType::F16, DType::I32, DType::I64, DType::I8, DType::U8, DType::U32, DType::Bool]
        {
            // Each type with a third of the forms, each form with every operator.
            if !(number + dtype as usize).is_multiple_of(3) {
                continue;
            }
            for op in ReduceOp::ALL {
                if op.combine().result(dtype).is_none() || dtype.size() == 8 && *op == ReduceOp::Prod {
                    continue;
                }
                let mut case = Case::new(16);
                let x = case.input(dtype, [4, 6, 9]);
                let a = case.load(x, [var(1, 4), var(0, 6), var(2, 9)]);
                let result = case.body.add(Expr::Param(0), dtype);
                case.store([6], [var(0, 6)], result);
                let tolerance = if dtype == DType::F16 { 1e-2 } else { 1e-4 };
                let wrapped = matches!(op, ReduceOp::Sum | ReduceOp::Prod) && dtype.size() == 1;
                if !wrapped {
                    case.check(rows([6], [4, 9], vec![Stage { op: *op, value: a }], form), tolerance);
                }
            }
        }
    }
}

#[test]
fn extremes_of_rows_with_nan_are_nan() {
    for op in [ReduceOp::Max, ReduceOp::Min] {
        for length in [7, 100, 1000] {
            for form in forms(length) {
                let mut case = Case::new(17);
                let mut given = vec![1.0; 2 * length];
                given[length / 2] = f64::NAN;
                let x = case.given(DType::F32, [2, length], &given);
                let a = case.load(x, [var(0, 2), var(1, length)]);
                let result = case.param(0);
                case.store([2], [var(0, 2)], result);
                case.check(rows([2], [length], vec![Stage { op, value: a }], form), 0.0);
            }
        }
    }
}

#[test]
fn rows_of_many_variables_fold() {
    for form in forms(11 * 13) {
        let mut case = Case::new(18);
        case.target.max_workgroups_per_dimension = 5;
        let x = case.input(DType::F32, [2, 11, 3, 13]);
        let at = [var(0, 2), var(2, 11), var(1, 3), var(3, 13)];
        let a = case.load(x, at.clone());
        let sum = case.param(0);
        let value = case.body.binary(BinaryOp::Mul, a, sum);
        case.store([2, 11, 3, 13], at, value);
        case.store([3, 2], [var(1, 3), var(0, 2)], sum);
        case.check(rows([2, 3], [11, 13], vec![Stage { op: ReduceOp::Sum, value: a }], form), 1e-4);
    }
}

#[test]
fn rows_of_no_elements_are_the_identity() {
    for form in forms(1) {
        let mut case = Case::new(19);
        let x = case.input(DType::F32, [4, 0]);
        let a = case.load(x, [var(0, 4), Index::constant(0)]);
        let sum = case.param(0);
        case.store([4], [var(0, 4)], sum);
        let stages = vec![Stage { op: ReduceOp::Prod, value: a }];
        case.check(rows([4], [0], stages, form), 0.0);
    }
}

#[test]
fn reshaped_accesses_agree() {
    let mut case = Case::new(20);
    let x = case.input(DType::F32, [6, 10]);
    let linear = linearise(&[var(0, 4), var(1, 15)], &[4, 15]);
    let at = delinearise(&linear, &[6, 10]);
    let value = case.load(x, at);
    case.store([15, 4], [var(1, 15), var(0, 4)], value);
    case.check(map([4, 15]), 0.0);
}

const fn matmul(tile: [u32; 3], each: [u32; 2], split: u32, buffers: u32, along: [bool; 2]) -> Tile {
    let ([rows, cols, depth], [rows_each, cols_each]) = (tile, each);
    let [a_along_rows, b_along_cols] = along;
    let block_cols = cols / cols_each / 2;
    Tile::Matmul {
        rows,
        cols,
        depth,
        rows_each,
        cols_each,
        block_rows: 2,
        block_cols,
        a_along_rows,
        b_along_cols,
        split,
        buffers,
        scalars: false,
    }
}

/// The tile for targets that may not write components of vectors.
const fn by_scalars(mut tile: Tile) -> Tile {
    if let Tile::Matmul { scalars, .. } = &mut tile {
        *scalars = true;
    }
    tile
}

/// The least that `tile` needs of a target.
fn target(tile: Tile) -> Target {
    let components_apart = matches!(tile, Tile::Matmul { scalars: false, .. });
    Target { components_apart, ..Target::webgpu_minimum() }
}

/// The depth shared by `deep` of `size` invocations, element by element.
const fn few(size: u32, deep: u32, along_cols: bool, ahead: u32, held: u32) -> Tile {
    Tile::Few(Few {
        size,
        deep,
        depth: 1,
        cols: 1,
        along_cols,
        ahead,
        early: true,
        subgroup: None,
        held,
        stored: 1,
    })
}

const TILES: [Tile; 12] = [
    matmul([64, 64, 16], [4, 4], 1, 1, [false, true]),
    matmul([64, 64, 8], [8, 8], 2, 1, [false, false]),
    matmul([32, 32, 8], [4, 4], 4, 1, [true, false]),
    matmul([16, 32, 8], [4, 4], 2, 2, [true, true]),
    matmul([128, 64, 4], [8, 8], 1, 2, [false, false]),
    by_scalars(matmul([64, 64, 8], [8, 8], 2, 1, [false, false])),
    by_scalars(matmul([16, 32, 8], [4, 4], 2, 2, [true, true])),
    by_scalars(matmul([64, 64, 16], [4, 4], 1, 1, [false, true])),
    few(64, 8, true, 2, 3),
    few(128, 4, false, 3, 1),
    few(32, 32, false, 2, 8),
    Tile::Direct { workgroup: 64 },
];

fn vars(vars: &[usize]) -> Vars {
    Vars::from_slice(vars)
}

#[test]
fn products_with_prologue_and_epilogue() {
    for tile in TILES {
        let sizes =
            [(1, 1, 1, 1), (2, 3, 70, 33), (1, 1, 200, 130), (3, 65, 5, 7), (1, 20, 36, 40), (2, 6, 8, 20)];
        for (batch, rows, cols, depth) in sizes {
            // All rows are written out.
            if matches!(tile, Tile::Few(_)) && batch * rows > 8 {
                continue;
            }
            let mut case = Case::new(21);
            case.target = target(tile);
            let (x, w) =
                (case.input(DType::F32, [batch, rows, depth]), case.input(DType::F32, [cols, depth]));
            let (bias, rest) = (case.input(DType::F32, [cols]), case.input(DType::F32, [batch, rows, cols]));
            let (b, i, j, k) = (var(0, batch), var(1, rows), var(2, cols), var(3, depth));
            let a = case.load(x, [b.clone(), i.clone(), k.clone()]);
            let a = case.body.unary(UnaryOp::Relu, a);
            let weight = case.load(w, [j.clone(), k]);
            let sum = case.param(0);
            let shift = case.load(bias, [j.clone()]);
            let moved = case.body.binary(BinaryOp::Add, sum, shift);
            let other = case.load(rest, [b.clone(), i.clone(), j.clone()]);
            let value = case.body.binary(BinaryOp::Add, moved, other);
            let value = case.body.unary(UnaryOp::Gelu, value);
            case.store([batch, rows, cols], [b.clone(), i.clone(), j.clone()], value);
            case.store([cols, batch, rows], [j, b, i], moved);
            let skeleton = Skeleton::Contract {
                space: [batch, rows, cols].into(),
                depth: [depth].into(),
                batch: vars(&[]),
                rows: vars(&[0, 1]),
                cols: vars(&[2]),
                a,
                b: weight,
                others: vec![],
                sums: Vec::new(),
                tile,
            };
            case.check(skeleton, 1e-4);
        }
    }
}

#[test]
fn convolutions_are_products() {
    for tile in TILES {
        // Images 2, channels 3 to 5, 8x7 padded by 1, windows 3x3 with stride 2 down.
        let (images, inputs, outputs, height, width, down, across) = (2, 3, 5, 8, 7, 4, 7);
        let mut case = Case::new(22);
        case.target = target(tile);
        let x = case.input(DType::F32, [images, inputs, height, width]);
        let w = case.input(DType::F32, [outputs, inputs, 3, 3]);
        let (n, o, y, z) = (var(0, images), var(1, outputs), var(2, down), var(3, across));
        let (c, p, q) = (var(4, inputs), var(5, 3), var(6, 3));
        let (row, col) = (y.mul(2).add(&p).offset_by(-1), z.add(&q).offset_by(-1));
        let (in_row, in_col) = (inside(&mut case, &row, height), inside(&mut case, &col, width));
        let guard = case.body.binary(BinaryOp::And, in_row, in_col);
        let pixel = case.load_if(guard, x, [n.clone(), c.clone(), row, col]);
        let weight = case.load(w, [o.clone(), c, p, q]);
        let sum = case.param(0);
        let value = case.body.unary(UnaryOp::Relu, sum);
        case.store([images, outputs, down, across], [n, o, y, z], value);
        let skeleton = Skeleton::Contract {
            space: [images, outputs, down, across].into(),
            depth: [inputs, 3, 3].into(),
            batch: vars(&[0]),
            rows: vars(&[1]),
            cols: vars(&[2, 3]),
            a: weight,
            b: pixel,
            others: vec![],
            sums: Vec::new(),
            tile,
        };
        // The image is not used by the weights: it may be a column too.
        case.check(with_batch_in_cols(skeleton.clone()), 1e-4);
        case.check(skeleton, 1e-4);
    }
}

fn with_batch_in_cols(mut skeleton: Skeleton) -> Skeleton {
    if let Skeleton::Contract { batch, cols, .. } = &mut skeleton {
        *cols = batch.iter().chain(cols.iter()).copied().collect();
        batch.clear();
    }
    skeleton
}

#[test]
fn integer_products_wrap() {
    for dtype in [DType::I32, DType::U8, DType::I64] {
        let mut case = Case::new(23);
        let given: Vec<f64> = (0..40).map(|it| (it * 7 % 23) as f64).collect();
        let (x, w) = (case.given(dtype, [5, 8], &given), case.given(dtype, [8, 5], &given));
        let (a, b) = (case.load(x, [var(0, 5), var(2, 8)]), case.load(w, [var(2, 8), var(1, 5)]));
        let sum = case.body.add(Expr::Param(0), DType::I32);
        case.store([5, 5], [var(0, 5), var(1, 5)], sum);
        let skeleton = Skeleton::Contract {
            space: [5, 5].into(),
            depth: [8].into(),
            batch: vars(&[]),
            rows: vars(&[0]),
            cols: vars(&[1]),
            a,
            b,
            others: vec![],
            sums: Vec::new(),
            tile: Tile::Direct { workgroup: 64 },
        };
        if dtype != DType::U8 {
            case.check(skeleton, 0.0);
        }
    }
}

/// Which keys are hidden in a test of attention.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Hidden {
    None,
    /// By a table: everything from the first query, some keys from the others.
    Table,
    /// Keys after the query's number plus this.
    After(i64),
}

/// batch, heads, heads that share keys and values, queries, keys, channels, value channels
type Sizes = [usize; 7];

fn attention_case(sizes: Sizes, hidden: Hidden, zero_masked: bool, tile: AttentionTile) {
    let [batch, heads, share, queries, keys, channels, values] = sizes;
    let mut case = Case::new(24);
    let q = case.input(DType::F32, [batch, queries, heads, channels]);
    let k = case.input(DType::F32, [batch, heads / share, keys, channels]);
    // Once with neighbouring channels apart in memory.
    let v = match channels % 2 {
        0 => case.input(DType::F32, [batch, heads / share, keys, values]),
        _ => case.input(DType::F32, [batch, heads / share, values, keys]),
    };
    let (b, h, i, e) = (var(0, batch), var(1, heads), var(2, queries), var(3, values));
    let (j, d) = (var(4, keys), var(5, channels));
    let group = h.div(share as i64);
    let query = case.load(q, [b.clone(), i.clone(), h.clone(), d.clone()]);
    let key = case.load(k, [b.clone(), group.clone(), j.clone(), d]);
    let value = match channels % 2 {
        0 => case.load(v, [b.clone(), group, j.clone(), e.clone()]),
        _ => case.load(v, [b.clone(), group, e.clone(), j.clone()]),
    };
    let mut last_key = None;
    let mask = match hidden {
        Hidden::None => None,
        Hidden::Table => {
            let given: Vec<f64> = (0..queries * keys)
                .map(|at| if at < keys || at % 5 == 3 { f64::NEG_INFINITY } else { (at % 3) as f64 })
                .collect();
            let mask = case.given(DType::F32, [queries, keys], &given);
            Some(case.load(mask, [i.clone(), j.clone()]))
        }
        Hidden::After(offset) => {
            let last = i.offset_by(offset);
            let key = case.body.add(Expr::Coord(j.clone()), DType::I64);
            let bound = case.body.add(Expr::Coord(last.clone()), DType::I64);
            let sees = case.body.binary(BinaryOp::Le, key, bound);
            let open = case.body.constant(DType::F32, 0.0);
            let shut = case.body.constant(DType::F32, f64::NEG_INFINITY);
            last_key = Some(LastKey { each: 1, first: offset as i32 });
            Some(case.body.select(sees, open, shut))
        }
    };
    let result = case.param(0);
    let two = case.body.constant(DType::F32, 2.0);
    let result = case.body.binary(BinaryOp::Mul, result, two);
    case.store([batch, queries, heads, values], [b, i, h, e], result);
    let tile = match tile {
        AttentionTile::Plain(it) => {
            let values_across = values.div_ceil(4).next_power_of_two().min(it.across as usize) as u32;
            let parts = if it.parts == 0 { 1 } else { it.across / values_across };
            AttentionTile::Plain(PlainAttention { heads: share as u32, parts, ..it })
        }
        AttentionTile::Row(_) | AttentionTile::Cooperative(_) => tile,
    };
    let skeleton = Skeleton::Attention {
        space: [batch, heads, queries, values].into(),
        keys,
        channels,
        scale: 0.3,
        zero_masked,
        q: query,
        k: key,
        v: value,
        mask,
        last_key,
        tile,
    };
    case.check(skeleton, 1e-4);
}

/// `parts` 0: one; otherwise as many as there may be.
const fn attention_tile(size: u32, rows: u32, across: u32, parts: u32, hold: [bool; 2]) -> AttentionTile {
    let [hold_keys, hold_values] = hold;
    AttentionTile::Plain(PlainAttention { size, rows, across, heads: 1, parts, hold_keys, hold_values })
}

/// A workgroup a row.
const fn attention_row(size: u32, across: u32, ahead: u32) -> AttentionTile {
    AttentionTile::Row(RowAttention { size, across, ahead })
}

#[test]
fn attention_of_every_kind() {
    let tiles = [
        attention_tile(128, 16, 16, 0, [true, true]),
        attention_tile(32, 8, 4, 1, [true, true]),
        attention_tile(64, 8, 16, 1, [true, false]),
        attention_tile(64, 4, 16, 1, [false, false]),
        attention_tile(16, 4, 4, 0, [false, true]),
        attention_row(64, 16, 4),
        attention_row(32, 16, 1),
        attention_row(256, 16, 3),
    ];
    for tile in tiles {
        for sizes in
            [[2, 3, 1, 1, 1, 1, 1], [2, 2, 1, 5, 9, 8, 8], [1, 4, 2, 17, 40, 32, 12], [2, 4, 4, 3, 70, 3, 33]]
        {
            for (hidden, zero_masked) in
                [(Hidden::None, false), (Hidden::Table, false), (Hidden::Table, true)]
            {
                attention_case(sizes, hidden, zero_masked, tile);
            }
        }
    }
}

#[test]
fn hidden_keys_are_left_out() {
    for ((queries, keys), tile) in [(20, 20), (7, 128), (1, 513), (33, 7)]
        .into_iter()
        .flat_map(|it| [(it, attention_tile(32, 8, 4, 1, [true, true])), (it, attention_row(64, 4, 4))])
    {
        for offset in [0, keys as i64 - queries as i64, -3, 600] {
            attention_case([1, 2, 2, queries, keys, 8, 4], Hidden::After(offset), true, tile);
            attention_case([1, 2, 1, queries, keys, 4, 8], Hidden::After(offset), false, tile);
        }
    }
}

#[test]
fn kernels_without_elements_do_nothing() {
    let mut case = Case::new(25);
    let x = case.input(DType::F32, [3, 0]);
    let a = case.load(x, [var(0, 3), Index::constant(0)]);
    case.store([3, 0], [var(0, 3), Index::constant(0)], a);
    let shader = case.shader(map([3, 0]));
    assert_eq!(shader.groups[0], 0);
}

/// What lies in fours in memory is read and written in fours, through halves and fused operands too.
#[test]
fn products_move_fours() {
    for (dtype, unit) in [(DType::F32, "vec4<f32>"), (DType::F16, "vec2<u32>")] {
        for (along, transposed) in [([false, true], false), ([false, false], true), ([true, true], false)] {
            let (rows, cols, depth) = (24, 40, 36);
            let mut case = Case::new(24);
            let tile = matmul([16, 32, 8], [4, 4], 2, 2, along);
            case.target = target(tile);
            let left = if along[0] { [depth, rows] } else { [rows, depth] };
            let right = if transposed { [cols, depth] } else { [depth, cols] };
            let (x, w) = (case.input(dtype, left), case.input(dtype, right));
            let (rest, bias) = (case.input(dtype, [rows, cols]), case.input(DType::F32, [cols]));
            let (i, j, k) = (var(0, rows), var(1, cols), var(2, depth));
            let a = case.load(x, if along[0] { [k.clone(), i.clone()] } else { [i.clone(), k.clone()] });
            let b = case.load(w, if transposed { [j.clone(), k] } else { [k, j.clone()] });
            let (a, b) = (case.body.cast(DType::F32, a), case.body.cast(DType::F32, b));
            let sum = case.param(0);
            let (other, shift) = (case.load(rest, [i.clone(), j.clone()]), case.load(bias, [j.clone()]));
            let other = case.body.cast(DType::F32, other);
            let value = case.body.binary(BinaryOp::Add, sum, other);
            let value = case.body.binary(BinaryOp::Add, value, shift);
            let value = case.body.cast(dtype, value);
            case.store([rows, cols], [i, j], value);
            let skeleton = Skeleton::Contract {
                space: [rows, cols].into(),
                depth: [depth].into(),
                batch: vars(&[]),
                rows: vars(&[0]),
                cols: vars(&[1]),
                a,
                b,
                others: vec![],
                sums: Vec::new(),
                tile,
            };
            let text = case.check(skeleton, if dtype == DType::F16 { 1e-2 } else { 1e-4 }).wgsl();
            // Both operands, the fused one and the result; the fourth is the bias in f32.
            let bound: Vec<&str> = text.lines().filter(|it| it.contains("var<storage")).collect();
            let fours = bound.iter().filter(|it| it.contains(&format!("array<{unit}>"))).count();
            let bias = (dtype == DType::F16) as usize;
            assert_eq!((bound.len(), fours), (5, 5 - bias), "{text}");
        }
    }
}
