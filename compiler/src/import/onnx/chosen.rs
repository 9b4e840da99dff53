//! Operators that choose elements by their values, so that the shape of the result follows from those: functions on the host.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    import::host::Datum,
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

type Made = Result<Vec<Datum>, Error>;

/// Operand `at`, which has to be a tensor.
pub fn tensor<'a>(n: &Node, given: &'a [Option<Datum>], at: usize) -> Result<&'a Tensor, Error> {
    match given.get(at) {
        Some(Some(Datum::Tensor(it))) => Ok(it),
        Some(Some(_)) => Err(n.error(format!("operand {at} is no tensor"))),
        Some(None) | None => Err(n.error(format!("operand {at} is missing"))),
    }
}

pub fn non_zero(n: &Node, given: &[Option<Datum>]) -> Made {
    let x = tensor(n, given, 0)?;
    let found: Vec<usize> =
        x.scalars().enumerate().filter(|(_, it)| it.as_bool()).map(|(at, _)| at).collect();
    let (shape, strides) = (x.shape(), x.shape().strides());
    let places = (0..shape.rank()).flat_map(|axis| {
        let (stride, dim) = (strides[axis].max(1), shape[axis].max(1));
        found.iter().map(move |at| Scalar::Int((at / stride % dim) as i64))
    });
    let ty = Type::new(DType::I64, [shape.rank(), found.len()]);
    Ok(vec![Datum::Tensor(Tensor::from_scalars(ty, places))])
}

pub fn compress(n: &Node, given: &[Option<Datum>]) -> Made {
    let (x, hold) = (tensor(n, given, 0)?, tensor(n, given, 1)?);
    let places: Vec<usize> =
        hold.scalars().enumerate().filter(|(_, it)| it.as_bool()).map(|it| it.0).collect();
    let (shape, axis) = match n.opt_int("axis")? {
        Some(axis) => (x.shape().clone(), n.axis(axis, x.shape().rank())?),
        None => (Shape::from([x.shape().count()]), 0),
    };
    if places.last().is_some_and(|&it| it >= shape[axis]) {
        let count = hold.shape().count();
        return Err(n.error(format!("the condition has {count} elements, the axis {}", shape[axis])));
    }
    let row = shape[axis + 1..].iter().product::<usize>() * x.dtype().size();
    let mut data = Vec::new();
    for block in x.data().chunks_exact((row * shape[axis]).max(1)) {
        places.iter().for_each(|it| data.extend_from_slice(&block[it * row..(it + 1) * row]));
    }
    let mut less = shape;
    less.0[axis] = places.len();
    let made = Tensor::new(Type { dtype: x.dtype(), shape: less }, data.into());
    Ok(vec![Datum::Tensor(made.ok_or_else(|| n.error("the result is too large"))?)])
}
