//! Ops that only move elements: their bytes are copied, whatever the dtype.

use crate::{
    graph::PadMode,
    shape::{Shape, Type},
    tensor::Tensor,
};

pub fn reshape(x: &Tensor, shape: &Shape) -> Tensor {
    x.reshaped(shape.clone()).expect("as many elements")
}

pub fn permute(x: &Tensor, order: &[usize]) -> Tensor {
    let own = x.shape().strides();
    let strides: Vec<isize> = order.iter().map(|&axis| own[axis] as isize).collect();
    let shape = order.iter().map(|&axis| x.shape()[axis]).collect();
    strided(x, shape, 0, &strides)
}

pub fn expand(x: &Tensor, shape: &Shape) -> Tensor {
    if x.shape() == shape {
        return x.clone();
    }
    let (own, new) = (x.shape().strides(), shape.rank() - x.shape().rank());
    let strides: Vec<isize> = (0..shape.rank())
        .map(|axis| match axis.checked_sub(new) {
            Some(axis) if x.shape()[axis] != 1 => own[axis] as isize,
            _ => 0,
        })
        .collect();
    strided(x, shape.clone(), 0, &strides)
}

pub fn slice(x: &Tensor, starts: &[usize], sizes: &Shape, steps: &[i64]) -> Tensor {
    let own = x.shape().strides();
    let offset: usize = starts.iter().zip(&own).map(|(start, stride)| start * stride).sum();
    // A step along an axis of one element is never taken and may be any number.
    let stride = |axis: usize| if sizes[axis] > 1 { steps[axis] as isize * own[axis] as isize } else { 0 };
    let strides: Vec<isize> = (0..sizes.rank()).map(stride).collect();
    strided(x, sizes.clone(), offset, &strides)
}

pub fn pad(x: &Tensor, before: &[usize], mode: PadMode, fill: Option<&Tensor>, ty: &Type) -> Tensor {
    let size = ty.dtype.size();
    let own = x.shape().strides();
    // For each axis of the result, the place along it in `x`, if it is inside.
    let sources: Vec<Vec<Option<usize>>> = (0..ty.shape.rank())
        .map(|axis| (0..ty.shape[axis]).map(|at| source(mode, at, before[axis], x.shape()[axis])).collect())
        .collect();
    let mut bytes = Vec::with_capacity(ty.bytes());
    super::places(&ty.shape, |at| {
        let from = at
            .iter()
            .enumerate()
            .try_fold(0, |sum, (axis, &at)| sources[axis][at].map(|source| sum + source * own[axis]));
        bytes.extend_from_slice(match from {
            Some(from) => &x.data()[from * size..(from + 1) * size],
            None => fill.expect("only constant padding has places outside").data(),
        });
    });
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

fn source(mode: PadMode, at: usize, before: usize, size: usize) -> Option<usize> {
    let inside = (before..before + size).contains(&at);
    match mode {
        _ if inside => Some(at - before),
        PadMode::Constant => None,
        PadMode::Edge if at < before => Some(0),
        PadMode::Edge => Some(size - 1),
        PadMode::Reflect if at < before => Some(before - at),
        PadMode::Reflect => Some(size - 1 - (at - before - (size - 1))),
        PadMode::Wrap if at < before => Some(size - (before - at)),
        PadMode::Wrap => Some(at - before - size),
    }
}

pub fn concat(axis: usize, ty: &Type, xs: &[&Tensor]) -> Tensor {
    let outer: usize = ty.shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(ty.bytes());
    for at in 0..outer {
        for x in xs {
            let run = x.data().len() / outer;
            bytes.extend_from_slice(&x.data()[at * run..(at + 1) * run]);
        }
    }
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

/// The elements of `x` at `offset + sum of place * stride`. One stride an axis of `shape`; none leaves `x`.
fn strided(x: &Tensor, shape: Shape, offset: usize, strides: &[isize]) -> Tensor {
    let ty = Type { dtype: x.dtype(), shape };
    let bytes = match ty.dtype.size() {
        1 => copy::<1>(x.data(), &ty, offset, strides),
        2 => copy::<2>(x.data(), &ty, offset, strides),
        4 => copy::<4>(x.data(), &ty, offset, strides),
        _ => copy::<8>(x.data(), &ty, offset, strides),
    };
    Tensor::new(ty, bytes.into()).expect("an element a place")
}

fn copy<const N: usize>(from: &[u8], ty: &Type, offset: usize, strides: &[isize]) -> Vec<u8> {
    let (from, _) = from.as_chunks::<N>();
    let (run, outer) = ty.shape.split_last().unwrap_or((&1, &[]));
    let (step, strides) = strides.split_last().unwrap_or((&1, &[]));
    let mut to: Vec<[u8; N]> = Vec::with_capacity(ty.shape.count());
    if *run > 0 {
        super::places(outer, |at| {
            let start =
                offset as isize + at.iter().zip(strides).map(|(&at, by)| at as isize * by).sum::<isize>();
            match step {
                0 => to.extend(std::iter::repeat_n(from[start as usize], *run)),
                1 => to.extend_from_slice(&from[start as usize..start as usize + run]),
                _ => to.extend((0..*run as isize).map(|it| from[(start + it * step) as usize])),
            }
        });
    }
    to.into_flattened()
}
