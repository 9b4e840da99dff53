//! Values that are the same everywhere.

use super::*;

pub const CASES: &[Case] = &[
    (
        "uniform-operand",
        |b| {
            let x = x(b, [2, 3]);
            let two = b.constant(Tensor::f32([3], &[2.0; 3]).unwrap());
            let half = b.constant(Tensor::f32([2, 3], &[0.5; 6]).unwrap());
            let y = b.mul(x, two)?;
            b.mul(half, y)
        },
        "mul mul",
    ),
    (
        "uniform-operand",
        |b| {
            // A mask of ones.
            let x = x(b, [2, 3]);
            let ones = b.constant(Tensor::f32([2, 3], &[1.0; 6]).unwrap());
            b.mul(x, ones)
        },
        "",
    ),
    (
        "uniform-extreme",
        |b| {
            let x = x(b, []);
            let y = b.expand(x, [2, 300])?;
            b.max(y, &[1], true)
        },
        "expand",
    ),
    (
        "uniform-sum",
        |b| {
            let (x, z) = (x(b, []), b.input("z", F, [2])?);
            let y = b.expand(x, [2, 300])?;
            let y = b.sum(y, &[1], false)?;
            b.add(y, z)
        },
        "mul add",
    ),
    (
        "uniform-join",
        |b| {
            let x = x(b, []);
            let (p, q) = (b.expand(x, [2, 3])?, b.expand(x, [2, 4])?);
            let y = b.concat(&[p, q], 1)?;
            let rows = b.input("rows", DType::I64, [5])?;
            b.gather(y, 1, rows)
        },
        "expand",
    ),
    (
        "times-zero",
        |b| {
            let x = b.input("x", DType::I64, [2, 3])?;
            let zero = b.scalar(DType::I64, 0.0);
            let y = b.mul(zero, x)?;
            b.add(y, x)
        },
        "",
    ),
];
