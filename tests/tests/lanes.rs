//! Maps whose invocations handle several neighbours: accesses that run and that do not, every storage, guards.

use wgfuse_compiler::{
    dtype::DType,
    index::Index,
    lower::{Expr, ExprId},
    scalar::{BinaryOp, UnaryOp},
    schedule::Skeleton,
    shape::Shape,
};
use wgfuse_tests::kernel_case::Case;

fn var(axis: usize, extent: usize) -> Index {
    Index::var(axis, extent)
}

/// Runs the kernel with every number of neighbours that divides its points. Gives its text with the largest.
fn check(case: &Case, space: impl Into<Shape>, tolerance: f64) -> String {
    let space = space.into();
    let mut text = String::new();
    for lanes in [1, 2, 4, 8].into_iter().filter(|it| space.count().is_multiple_of(*it)) {
        let skeleton = Skeleton::Map { space: space.clone(), workgroup: 64, lanes: lanes as u32 };
        text = case.check(skeleton, tolerance).wgsl();
    }
    text
}

fn guard(case: &mut Case, at: &Index, extent: usize) -> ExprId {
    let at = case.body.add(Expr::Coord(at.clone()), DType::I32);
    let (zero, end) = (case.body.constant(DType::I32, 0.0), case.body.constant(DType::I32, extent as f64));
    let (low, high) = (case.body.binary(BinaryOp::Ge, at, zero), case.body.binary(BinaryOp::Lt, at, end));
    case.body.binary(BinaryOp::And, low, high)
}

#[test]
fn contiguous_accesses_of_every_type_are_vectors() {
    for dtype in [DType::F32, DType::I32, DType::U32, DType::Bool, DType::F16, DType::BF16, DType::I8] {
        let mut case = Case::new(1);
        let x = case.input(dtype, [6, 16]);
        let row = case.input(dtype, [16]);
        let (a, b) = (case.load(x, [var(0, 6), var(1, 16)]), case.load(row, [var(1, 16)]));
        let value = case.body.binary(BinaryOp::Max, a, b);
        case.store([6, 16], [var(0, 6), var(1, 16)], value);
        let text = check(&case, [6, 16], 0.0);
        assert!(text.contains("vec4<"), "{dtype}: {text}");
        assert!(!text.contains("atomic"), "{dtype}: {text}");
    }
}

#[test]
fn rows_that_do_not_divide_run_over_their_ends() {
    for dtype in [DType::F32, DType::F16] {
        let mut case = Case::new(2);
        let x = case.input(dtype, [16, 3]);
        let scale = case.input(dtype, [3]);
        let column = case.input(dtype, [16, 1]);
        let a = case.load(x, [var(0, 16), var(1, 3)]);
        let b = case.load(scale, [var(1, 3)]);
        let c = case.load(column, [var(0, 16), Index::constant(0)]);
        let value = case.body.binary(BinaryOp::Add, a, b);
        let value = case.body.binary(BinaryOp::Add, value, c);
        case.store([16, 3], [var(0, 16), var(1, 3)], value);
        check(&case, [16, 3], 1e-2);
    }
}

#[test]
fn transposed_strided_and_shifted_reads() {
    for dtype in [DType::F32, DType::BF16, DType::Bool] {
        let mut case = Case::new(3);
        let x = case.input(dtype, [8, 12]);
        let y = case.input(dtype, [12, 17]);
        let z = case.input(dtype, [12, 8]);
        let (i, j) = (var(0, 12), var(1, 8));
        let turned = case.load(x, [j.clone(), i.clone()]);
        let strided = case.load(y, [i.clone(), j.mul(2).offset_by(1)]);
        let back = case.load(z, [i.clone(), j.mul(-1).offset_by(7)]);
        let shifted = case.load(y, [i.clone(), j.offset_by(3)]);
        let mut value = turned;
        for other in [strided, back, shifted] {
            value = case.body.binary(BinaryOp::Max, value, other);
        }
        case.store([12, 8], [i, j], value);
        check(&case, [12, 8], 0.0);
    }
}

#[test]
fn transposed_and_mixed_stores() {
    let mut case = Case::new(4);
    let x = case.input(DType::F32, [8, 12]);
    let (i, j) = (var(0, 8), var(1, 12));
    let a = case.load(x, [i.clone(), j.clone()]);
    let half = case.body.cast(DType::F16, a);
    case.store([8, 12], [i.clone(), j.clone()], a);
    case.store([8, 12], [i.clone(), j.clone()], half);
    case.store([12, 8], [j.clone(), i.clone()], a);
    case.store([12, 8], [j.clone(), i.clone()], half);
    check(&case, [8, 12], 0.0);
}

#[test]
fn guarded_reads_of_vectors() {
    for dtype in [DType::F32, DType::F16] {
        for shift in [-4, -3, 0, 2, 4] {
            let mut case = Case::new(5);
            let x = case.input(dtype, [5, 8]);
            let (i, j) = (var(0, 5), var(1, 16).offset_by(shift));
            let inside = guard(&mut case, &j, 8);
            let value = case.load_if(inside, x, [i.clone(), j]);
            case.store([5, 16], [i, var(1, 16)], value);
            check(&case, [5, 16], 0.0);
        }
    }
}

#[test]
fn rows_of_tables_and_elements_of_tables() {
    let mut case = Case::new(6);
    let table = case.input(DType::F32, [10, 8]);
    let list = case.input(DType::F32, [10]);
    let ids = case.given(DType::I32, [4], &[3.0, 9.0, 0.0, 5.0]);
    let each = case.given(DType::I32, [8], &[1.0, 0.0, 9.0, 3.0, 3.0, 2.0, 7.0, 8.0]);
    let clamp = |case: &mut Case, id: ExprId| {
        let (zero, nine) = (case.body.constant(DType::I32, 0.0), case.body.constant(DType::I32, 9.0));
        let id = case.body.binary(BinaryOp::Max, id, zero);
        case.body.binary(BinaryOp::Min, id, nine)
    };
    let id = case.load(ids, [var(0, 4)]);
    let id = clamp(&mut case, id);
    let row = case.load(table, [Index::data(id.0, 0, 9), var(1, 8)]);
    let other = case.load(each, [var(1, 8)]);
    let other = clamp(&mut case, other);
    let element = case.load(list, [Index::data(other.0, 0, 9)]);
    // Rows that differ from neighbour to neighbour, in the columns of the neighbours.
    let mixed = case.load(table, [Index::data(other.0, 0, 9), var(1, 8)]);
    let value = case.body.binary(BinaryOp::Add, row, element);
    let value = case.body.binary(BinaryOp::Add, value, mixed);
    let value = case.body.unary(UnaryOp::Tanh, value);
    case.store([4, 8], [var(0, 4), var(1, 8)], value);
    check(&case, [4, 8], 1e-5);
}

#[test]
fn vectors_of_tensors_in_parts() {
    for dtype in [DType::F32, DType::F16] {
        let mut case = Case::new(7);
        case.target.max_binding_size = 1000;
        case.target.offset_alignment = 256;
        let x = case.input(dtype, [600]);
        let a = case.load(x, [var(0, 600)]);
        let back = case.load(x, [var(0, 600).mul(-1).offset_by(599)]);
        let value = case.body.binary(BinaryOp::Max, a, back);
        case.store([600], [var(0, 600)], value);
        check(&case, [600], 0.0);
    }
}
