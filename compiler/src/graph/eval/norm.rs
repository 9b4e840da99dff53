//! Rows that are normalised: softmax and the norms, in f64.

use super::{floats, view};
use crate::{shape::Shape, tensor::Tensor};

pub fn softmax(axis: usize, log: bool, x: &Tensor) -> Tensor {
    let size = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let mut values = x.to_f64();
    for block in values.chunks_exact_mut((size * inner).max(1)) {
        for at in 0..inner {
            let row = || (0..size).map(|it| it * inner + at);
            let most = row().map(|it| block[it]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row().map(|it| libm::exp(block[it] - most)).sum();
            for it in row() {
                let shifted = block[it] - most;
                block[it] = if log { shifted - libm::log(sum) } else { libm::exp(shifted) / sum };
            }
        }
    }
    floats(x.ty(), &values)
}

pub fn layer_norm(
    axis: usize,
    eps: f64,
    x: &Tensor,
    scale: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Tensor {
    let row = Shape::from(&x.shape()[axis..]);
    let whole = |it: Option<&Tensor>| it.map(|it| view::expand(it, &row).to_f64());
    let (scale, bias) = (whole(scale), whole(bias));
    let mut values = x.to_f64();
    for row in values.chunks_exact_mut(row.count().max(1)) {
        standardise(row, eps);
        affine(row, |at| at, scale.as_deref(), bias.as_deref());
    }
    floats(x.ty(), &values)
}

pub fn rms_norm(axis: usize, eps: f64, x: &Tensor, scale: Option<&Tensor>) -> Tensor {
    let row = Shape::from(&x.shape()[axis..]);
    let scale = scale.map(|it| view::expand(it, &row).to_f64());
    let mut values = x.to_f64();
    for row in values.chunks_exact_mut(row.count().max(1)) {
        let mean = row.iter().map(|it| it * it).sum::<f64>() / row.len() as f64;
        row.iter_mut().for_each(|it| *it /= (mean + eps).sqrt());
        affine(row, |at| at, scale.as_deref(), None);
    }
    floats(x.ty(), &values)
}

pub fn group_norm(
    groups: usize,
    eps: f64,
    x: &Tensor,
    scale: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Tensor {
    let channels = x.shape()[1];
    let inner: usize = x.shape()[2..].iter().product();
    let (scale, bias) = (scale.map(Tensor::to_f64), bias.map(Tensor::to_f64));
    let mut values = x.to_f64();
    for image in values.chunks_exact_mut((channels * inner).max(1)) {
        for group in image.chunks_exact_mut((channels / groups * inner).max(1)) {
            standardise(group, eps);
        }
        affine(image, |at| at / inner, scale.as_deref(), bias.as_deref());
    }
    floats(x.ty(), &values)
}

/// `channel` holds scale, bias, mean and variance.
pub fn batch_norm(eps: f64, x: &Tensor, channel: [&Tensor; 4]) -> Tensor {
    let [scale, bias, mean, var] = channel.map(Tensor::to_f64);
    let channels = x.shape()[1];
    let inner: usize = x.shape()[2..].iter().product();
    let mut values = x.to_f64();
    for (at, it) in values.iter_mut().enumerate() {
        let c = at / inner % channels;
        *it = (*it - mean[c]) / (var[c] + eps).sqrt() * scale[c] + bias[c];
    }
    floats(x.ty(), &values)
}

/// To mean 0 and variance 1.
fn standardise(row: &mut [f64], eps: f64) {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let var = row.iter().map(|it| (it - mean) * (it - mean)).sum::<f64>() / count;
    row.iter_mut().for_each(|it| *it = (*it - mean) / (var + eps).sqrt());
}

/// Element `at` times and plus element `of(at)` of `scale` and `bias`.
fn affine(row: &mut [f64], of: impl Fn(usize) -> usize, scale: Option<&[f64]>, bias: Option<&[f64]>) {
    for (at, it) in row.iter_mut().enumerate() {
        *it = *it * scale.map_or(1.0, |all| all[of(at)]) + bias.map_or(0.0, |all| all[of(at)]);
    }
}
