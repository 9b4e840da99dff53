//! Every operator, cast and constant on the device.

use wgfuse_compiler::{
    dtype::{Class, DType},
    scalar::{BinaryOp, UnaryOp},
};
use wgfuse_tests::kernel_case::Case;

use crate::{map, var};

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
                if dtype == DType::U64 && matches!(op, UnaryOp::Neg | UnaryOp::Not | UnaryOp::FromBits) {
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
    for from in DType::ALL.into_iter().filter(|it| it.has_device_form()) {
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
            for &to in to
                .iter()
                .filter(|it| it.has_device_form() && !matches!(it, DType::I64 | DType::U64) && **it != from)
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
