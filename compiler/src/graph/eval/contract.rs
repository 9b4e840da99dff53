//! Sums of products: matrix products and attention, and the numbers in which they are added up.

use std::{
    num::Wrapping,
    ops::{AddAssign, Mul},
};

use super::{floats, view};
use crate::{
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

/// What products are added up in: floats in f64; integers in 64 bits, of which the low ones are the result.
pub trait Number: Copy + Default + AddAssign + Mul<Output = Self> {
    fn of(value: Scalar) -> Self;
    fn scalar(self) -> Scalar;

    fn all(x: &Tensor) -> Vec<Self> {
        x.scalars().map(Self::of).collect()
    }

    fn tensor(ty: &Type, values: Vec<Self>) -> Tensor {
        Tensor::from_scalars(ty.clone(), values.into_iter().map(Self::scalar))
    }
}

impl Number for f64 {
    fn of(value: Scalar) -> f64 {
        value.as_f64()
    }
    fn scalar(self) -> Scalar {
        Scalar::Float(self)
    }
}

impl Number for Wrapping<i64> {
    fn of(value: Scalar) -> Wrapping<i64> {
        Wrapping(value.as_i64())
    }
    fn scalar(self) -> Scalar {
        Scalar::Int(self.0)
    }
}

pub fn matmul(ty: &Type, a: &Tensor, b: &Tensor) -> Tensor {
    if ty.dtype.is_float() { product::<f64>(ty, a, b) } else { product::<Wrapping<i64>>(ty, a, b) }
}

fn product<T: Number>(ty: &Type, a: &Tensor, b: &Tensor) -> Tensor {
    let (rows, depth) = match *a.shape().0 {
        [.., m, k] => (m, k),
        [k] => (1, k),
        [] => crate::bug!("a product with a scalar"),
    };
    let columns = if b.shape().rank() > 1 { b.shape()[b.shape().rank() - 1] } else { 1 };
    let outer = |x: &Tensor| Shape::from(&x.shape()[..x.shape().rank().saturating_sub(2)]);
    let batch = outer(a).broadcast(&outer(b)).expect("typed");
    let whole = |x: &Tensor, m: usize, n: usize| {
        let own = view::reshape(x, &outer(x).iter().copied().chain([m, n]).collect());
        T::all(&view::expand(&own, &batch.iter().copied().chain([m, n]).collect()))
    };
    let (a, b) = (whole(a, rows, depth), whole(b, depth, columns));
    let mut sums = vec![T::default(); batch.count() * rows * columns];
    if columns > 0 {
        for (at, sums) in sums.chunks_exact_mut(columns).enumerate() {
            let image = at / rows;
            for k in 0..depth {
                let factor = a[at * depth + k];
                let row = &b[(image * depth + k) * columns..][..columns];
                sums.iter_mut().zip(row).for_each(|(sum, &it)| *sum += factor * it);
            }
        }
    }
    T::tensor(ty, sums)
}

/// `qkv` holds query, key and value.
pub fn attention(
    scale: f64,
    causal: bool,
    zero_masked: bool,
    ty: &Type,
    qkv: [&Tensor; 3],
    mask: Option<&Tensor>,
) -> Tensor {
    let [q, k, v] = qkv;
    let (&[b, h, s, d], &[_, g, t, _]) = (&q.shape()[..], &k.shape()[..]) else {
        crate::bug!("attention without four axes")
    };
    let e = ty.shape[3];
    let mask = mask.map(|it| view::expand(it, &Shape::from([b, h, s, t])).to_f64());
    let (q, k, v) = (q.to_f64(), k.to_f64(), v.to_f64());
    let mut out = vec![0.0; b * h * s * e];
    for row in 0..b * h * s {
        let (query, head, batch) = (row % s, row / s % h, row / s / h);
        let first_key = (batch * g + head * g / h) * t;
        let score = |key: usize| {
            if causal && key + s > query + t {
                return f64::NEG_INFINITY;
            }
            let (q, k) = (&q[row * d..][..d], &k[(first_key + key) * d..][..d]);
            let dot: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
            dot * scale + mask.as_ref().map_or(0.0, |mask| mask[row * t + key])
        };
        let scores: Vec<f64> = (0..t).map(score).collect();
        if zero_masked && scores.iter().all(|&it| it == f64::NEG_INFINITY) {
            continue;
        }
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|it| libm::exp(it - most)).collect();
        let sum: f64 = weights.iter().sum();
        for channel in 0..e {
            let total: f64 = (0..t).map(|key| weights[key] * v[(first_key + key) * e + channel]).sum();
            out[row * e + channel] = total / sum;
        }
    }
    floats(ty, &out)
}
