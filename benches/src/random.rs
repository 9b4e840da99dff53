//! Tensors of random values, fast and the same on every machine: a stream of its own for each block of elements, so that
//! blocks are made in parallel.

use bytes::Bytes;
use half::f16;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rayon::prelude::*;
use wgfuse::{DType, Shape, Tensor, Type};

const BLOCK: usize = 1 << 16;

/// Evenly spread over `low..high`, of dtype F32, F16 or I64 (whole numbers below `high`). Values of F16 are those of F32,
/// rounded.
pub fn uniform(seed: u64, dtype: DType, shape: impl Into<Shape>, low: f32, high: f32) -> Tensor {
    let shape = shape.into();
    let float = |rng: &mut SmallRng| low + (high - low) * rng.random::<f32>();
    let count = shape.count();
    let data = match dtype {
        DType::F16 => fill(seed, count, |rng| f16::from_f32(float(rng))),
        DType::I64 => fill(seed, count, |rng| rng.random_range(low as i64..high as i64)),
        DType::F32 => fill(seed, count, float),
        other => panic!("random {other} is not made"),
    };
    Tensor::new(Type { dtype, shape }, data).expect("as many values")
}

fn fill<T: bytemuck::Pod + Send + Sync>(
    seed: u64,
    count: usize,
    one: impl Fn(&mut SmallRng) -> T + Sync,
) -> Bytes {
    let mut values = vec![T::zeroed(); count];
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(at, block)| {
        // SmallRng scatters neighbouring seeds.
        let mut rng =
            SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64));
        block.iter_mut().for_each(|it| *it = one(&mut rng));
    });
    Bytes::from_owner(Plain(values))
}

struct Plain<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for Plain<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// NaN everywhere, of the type of `like`; integers stay as they are.
pub fn poison(like: &Tensor) -> Tensor {
    let count = like.shape().count();
    let data = match like.dtype() {
        DType::F32 => Bytes::from_owner(Plain(vec![f32::NAN; count])),
        DType::F16 => Bytes::from_owner(Plain(vec![f16::NAN; count])),
        _ => return like.clone(),
    };
    Tensor::new(like.ty().clone(), data).expect("as many values")
}

/// A tensor's values one at a time, without a copy.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Of an F32 or F16 tensor.
    pub fn of(tensor: &'a Tensor) -> Values<'a> {
        assert!(matches!(tensor.dtype(), DType::F32 | DType::F16), "{} is read nowhere", tensor.dtype());
        Values { dtype: tensor.dtype(), bytes: tensor.data() }
    }

    pub fn at(&self, at: usize) -> f64 {
        match self.dtype {
            DType::F16 => f16::from_le_bytes([self.bytes[2 * at], self.bytes[2 * at + 1]]).to_f64(),
            _ => {
                let bytes = self.bytes[4 * at..4 * at + 4].try_into().expect("four bytes");
                f32::from_le_bytes(bytes) as f64
            }
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    pub fn range(&self, start: usize, count: usize) -> Vec<f64> {
        (start..start + count).map(|it| self.at(it)).collect()
    }

    /// The last `count` of them.
    pub fn last(self, count: usize) -> Self {
        Values { bytes: &self.bytes[self.bytes.len() - count * self.dtype.size()..], ..self }
    }

    /// Whether every value is a number.
    pub fn finite(&self) -> bool {
        (0..self.len()).into_par_iter().all(|it| self.at(it).is_finite())
    }
}

/// F32 or F16 values from f32 ones.
pub fn round(ty: Type, values: Vec<f32>) -> Tensor {
    let data = match ty.dtype {
        DType::F16 => Bytes::from_owner(Plain(values.into_iter().map(f16::from_f32).collect())),
        _ => Bytes::from_owner(Plain(values)),
    };
    Tensor::new(ty, data).expect("as many values")
}
