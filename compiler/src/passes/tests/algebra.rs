//! Arithmetic, and what follows from constants.

use super::*;

pub const CASES: &[Case] = &[
    (
        "fold",
        |b| {
            let (x, two) = (x(b, [3]), c(b, 2.0));
            let four = b.mul(two, two)?;
            b.add(x, four)
        },
        "add",
    ),
    (
        "fold-reshape",
        |b| {
            let (x, w) = (x(b, [300, 300]), weights(b, [90_000], 1));
            let w = b.reshape(w, &[300, 300])?;
            b.add(x, w)
        },
        "add",
    ),
    (
        "neutral",
        |b| {
            let x = x(b, [2, 3]);
            let one = b.full(F, [2, 3], 1.0)?;
            let y = b.mul(one, x)?;
            let y = b.div(y, one)?;
            let zero = c(b, 0.0);
            let y = b.sub(y, zero)?;
            let one = c(b, 1.0);
            b.pow(y, one)
        },
        "",
    ),
    (
        "neutral",
        |b| {
            let x = b.input("x", DType::I64, [3])?;
            let zero = b.scalar(DType::I64, 0.0);
            let zero = b.expand(zero, [2, 3])?;
            b.add(zero, x)
        },
        "expand",
    ),
    (
        "add-zero",
        |b| {
            let (x, zero) = (x(b, [3]), c(b, 0.0));
            b.add(zero, x)
        },
        "",
    ),
    (
        "logic",
        |b| {
            let x = b.input("x", DType::Bool, [3])?;
            let yes = b.full(DType::Bool, [2, 1], 1.0)?;
            let y = b.logical_and(yes, x)?;
            let no = b.scalar(DType::Bool, 0.0);
            b.logical_or(y, no)
        },
        "expand",
    ),
    (
        "logic",
        |b| {
            let x = b.input("x", DType::Bool, [3])?;
            let yes = b.scalar(DType::Bool, 1.0);
            b.logical_or(yes, x)
        },
        "",
    ),
    (
        "same-operands",
        |b| {
            let x = x(b, [3]);
            b.maximum(x, x)
        },
        "",
    ),
    (
        "twice",
        |b| {
            let x = x(b, [3]);
            let y = b.neg(x)?;
            let y = b.neg(y)?;
            let y = b.abs(y)?;
            b.abs(y)
        },
        "abs",
    ),
    (
        "twice",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [3])?);
            let y = b.eq(x, z)?;
            b.logical_not(y)
        },
        "ne",
    ),
    (
        "select",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [2, 3])?);
            let no = b.scalar(DType::Bool, 0.0);
            let y = b.select(no, z, x)?;
            let cond = b.input("cond", DType::Bool, [2, 3])?;
            b.select(cond, y, y)
        },
        "expand",
    ),
    (
        "cast-same",
        |b| {
            let x = x(b, [3]);
            b.cast(x, F)
        },
        "",
    ),
    (
        "cast-cast",
        |b| {
            let x = b.input("x", DType::I16, [5])?;
            let y = b.cast(x, F)?;
            let y = b.cast(y, DType::I64)?;
            let y = b.cast(y, DType::I16)?;
            b.cast(y, DType::U8)
        },
        "cast",
    ),
    (
        "one-over",
        |b| {
            let (x, one) = (x(b, [3]), c(b, 1.0));
            b.div(one, x)
        },
        "recip",
    ),
    (
        "div-power-of-two",
        |b| {
            let (x, eight) = (x(b, [3]), c(b, 8.0));
            b.div(x, eight)
        },
        "mul",
    ),
    (
        "div-constant",
        |b| {
            let (x, by) = (x(b, [3]), c(b, 3.0));
            b.div(x, by)
        },
        "mul",
    ),
    (
        "pow",
        |b| {
            let x = x(b, [3]);
            let y = b.with_scalar(BinaryOp::Pow, x, 2.0)?;
            b.with_scalar(BinaryOp::Pow, y, 0.5)
        },
        "mul sqrt",
    ),
    (
        "rsqrt",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [3])?);
            let z = b.abs(z)?;
            let root = b.sqrt(z)?;
            let y = b.div(x, root)?;
            let other = b.reciprocal(root)?;
            b.add(y, other)
        },
        "abs rsqrt mul add",
    ),
    (
        "relu",
        |b| {
            let x = x(b, [3]);
            b.with_scalar(BinaryOp::Max, x, 0.0)
        },
        "relu",
    ),
    (
        "mean",
        |b| {
            let x = x(b, [3, 5]);
            let sum = b.sum(x, &[-1], true)?;
            b.with_scalar(BinaryOp::Div, sum, 5.0)
        },
        "mean",
    ),
    (
        "reduce-nothing",
        |b| {
            let x = x(b, [3, 1]);
            b.max(x, &[1], false)
        },
        "reshape",
    ),
    (
        "round-integer",
        |b| {
            let x = b.input("x", DType::I64, [3])?;
            let y = b.floor(x)?;
            b.unary(UnaryOp::Trunc, y)
        },
        "",
    ),
    (
        "cast-narrower",
        |b| {
            let x = b.input("x", DType::F64, [3])?;
            let y = b.cast(x, F)?;
            let y = b.cast(y, DType::F16)?;
            b.cast(y, F)
        },
        "cast cast",
    ),
];

#[test]
fn pools_and_casts_of_constants_fold() {
    let (graph, _) = run(
        |b| {
            let (x, w) = (x(b, [1, 1, 2, 2]), weights(b, [1, 1, 4, 4], 1));
            let y = b.max_pool(w, &[2, 2], Geometry { stride: 2, ..Geometry::default() })?;
            let y = b.cast(y, DType::F16)?;
            let y = b.cast(y, F)?;
            b.add(x, y)
        },
        Licence::Exact,
    );
    assert_eq!(ops(&graph), "add");
    assert_eq!(graph.len(), 3);
}
