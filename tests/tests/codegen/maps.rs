//! Maps: accesses, guards, what is bound and dispatched.

use wgfuse_compiler::{
    dtype::DType,
    index::{Index, linearise},
    lower::Expr,
    scalar::{BinaryOp, UnaryOp},
};
use wgfuse_tests::kernel_case::Case;

use crate::{inside, map, var};

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

#[test]
fn kernels_without_elements_do_nothing() {
    let mut case = Case::new(25);
    let x = case.input(DType::F32, [3, 0]);
    let a = case.load(x, [var(0, 3), Index::constant(0)]);
    case.store([3, 0], [var(0, 3), Index::constant(0)], a);
    let shader = case.shader(map([3, 0]));
    assert_eq!(shader.groups[0], 0);
}
