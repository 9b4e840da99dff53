//! Rows: every team, lengths that are kept in registers and that are not.

use wgfuse_compiler::{
    dtype::DType,
    index::{Index, delinearise, linearise},
    lower::Expr,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    schedule::{RowForm, Skeleton, Stage, Team},
    shape::Shape,
};
use wgfuse_tests::{gpu::gpu, kernel_case::Case};

use crate::{map, var};

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
