//! Ops along axes that end in fewer elements, or in running sums.

use super::view;
use crate::{
    dtype::DType,
    scalar::{BinaryOp, ReduceOp, Scalar},
    shape::Type,
    tensor::Tensor,
};

pub fn reduce(op: ReduceOp, axes: &[usize], ty: &Type, x: &Tensor) -> Tensor {
    let within = accumulator(ty.dtype);
    let sums =
        rows(axes, x, |row| row.fold(op.identity(within), |sum, it| op.combine().eval(within, sum, it)));
    Tensor::from_scalars(ty.clone(), sums)
}

/// Of no elements: NaN.
pub fn mean(axes: &[usize], ty: &Type, x: &Tensor) -> Tensor {
    let means = rows(axes, x, |row| {
        let count = row.len();
        Scalar::Float(row.map(Scalar::as_f64).sum::<f64>() / count as f64)
    });
    Tensor::from_scalars(ty.clone(), means)
}

pub fn arg_reduce(largest: bool, last: bool, axis: usize, ty: &Type, x: &Tensor) -> Tensor {
    let dtype = x.dtype();
    let ahead = if largest { BinaryOp::Gt } else { BinaryOp::Lt };
    let beats = |it: Scalar, best: Scalar| match (it.as_f64().is_nan(), best.as_f64().is_nan()) {
        (true, true) => last,
        (one, other) if one != other => one,
        _ => ahead.eval(dtype, it, best).as_bool() || last && BinaryOp::Eq.eval(dtype, it, best).as_bool(),
    };
    let places = rows(&[axis], x, |row| {
        let found = row.enumerate().reduce(|best, it| if beats(it.1, best.1) { it } else { best });
        Scalar::Int(found.expect("a row has elements").0 as i64)
    });
    Tensor::from_scalars(ty.clone(), places)
}

pub fn cumsum(axis: usize, exclusive: bool, reverse: bool, x: &Tensor) -> Tensor {
    let within = accumulator(x.dtype());
    let size = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let mut values: Vec<Scalar> = x.scalars().collect();
    let block = (size * inner).max(1);
    for block in values.chunks_exact_mut(block) {
        for at in 0..inner {
            let mut sum = ReduceOp::Sum.identity(within);
            for step in 0..size {
                let row = if reverse { size - 1 - step } else { step };
                let element = &mut block[row * inner + at];
                let next = BinaryOp::Add.eval(within, sum, *element);
                *element = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
    Tensor::from_scalars(x.ty().clone(), values)
}

/// The type in which elements of `dtype` are added up.
fn accumulator(dtype: DType) -> DType {
    if dtype.is_float() { DType::F64 } else { dtype }
}

/// `f` of the elements along `axes`, row-major, for each place along the other axes, in order.
fn rows(
    axes: &[usize],
    x: &Tensor,
    f: impl Fn(&mut dyn ExactSizeIterator<Item = Scalar>) -> Scalar,
) -> Vec<Scalar> {
    let (kept, gone): (Vec<usize>, Vec<usize>) = (0..x.shape().rank()).partition(|it| !axes.contains(it));
    let size: usize = gone.iter().map(|&axis| x.shape()[axis]).product();
    let count: usize = kept.iter().map(|&axis| x.shape()[axis]).product();
    let sorted = kept.iter().chain(&gone).enumerate().all(|(at, &axis)| at == axis);
    let order: Vec<usize> = kept.into_iter().chain(gone).collect();
    let x = if sorted { x.clone() } else { view::permute(x, &order) };
    (0..count).map(|row| f(&mut (row * size..(row + 1) * size).map(|at| x.get(at)))).collect()
}
