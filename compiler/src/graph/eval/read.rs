//! Ops that read at computed places. Negative indices count from the end; those outside are clamped.

use crate::{shape::Type, tensor::Tensor};

pub fn gather(axis: usize, ty: &Type, x: &Tensor, indices: &Tensor) -> Tensor {
    let outer: usize = x.shape()[..axis].iter().product();
    let run = x.shape()[axis + 1..].iter().product::<usize>() * ty.dtype.size();
    let size = x.shape()[axis];
    let indices = indices.to_i64();
    let mut bytes = Vec::with_capacity(ty.bytes());
    if ty.bytes() > 0 {
        for at in 0..outer {
            for &index in &indices {
                let from = (at * size + place(index, size)) * run;
                bytes.extend_from_slice(&x.data()[from..from + run]);
            }
        }
    }
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

pub fn gather_elements(axis: usize, ty: &Type, x: &Tensor, indices: &Tensor) -> Tensor {
    let (strides, element) = (x.shape().strides(), ty.dtype.size());
    let mut indices = indices.to_i64().into_iter();
    let mut bytes = Vec::with_capacity(ty.bytes());
    super::places(&ty.shape, |at| {
        let index = place(indices.next().expect("one a place"), x.shape()[axis]);
        let own = at.iter().enumerate().map(|(it, &at)| if it == axis { index } else { at });
        let from: usize = own.zip(&strides).map(|(at, by)| at * by).sum();
        bytes.extend_from_slice(&x.data()[from * element..(from + 1) * element]);
    });
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

pub fn gather_nd(batch: usize, ty: &Type, x: &Tensor, indices: &Tensor) -> Tensor {
    let (&width, outer) = indices.shape().split_last().expect("indices are no scalar");
    let sizes = &x.shape()[batch..batch + width];
    let run = x.shape()[batch + width..].iter().product::<usize>() * ty.dtype.size();
    let each: usize = outer[batch..].iter().product();
    let values = indices.to_i64();
    let mut bytes = Vec::with_capacity(ty.bytes());
    if ty.bytes() > 0 {
        for tuple in 0..outer.iter().product() {
            let coordinates = &values[tuple * width..(tuple + 1) * width];
            let from = (coordinates.iter().zip(sizes))
                .fold(tuple / each, |sum, (&index, &size)| sum * size + place(index, size));
            bytes.extend_from_slice(&x.data()[from * run..(from + 1) * run]);
        }
    }
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

/// The place that `index` means along an axis of `size > 0` elements.
fn place(index: i64, size: usize) -> usize {
    let size = size as i64;
    let index = if index < 0 { index + size } else { index };
    index.clamp(0, size - 1) as usize
}
