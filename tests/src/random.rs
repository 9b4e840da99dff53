//! Numbers that a seed decides, for inputs of tests: the same everywhere, no dependency on a crate's version.

use wgfuse_compiler::{dtype::DType, shape::Type, tensor::Tensor};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..bound
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// Uniform in -1..1, a multiple of 2^-23.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Floats in -1..1, integers in 0..bound, both kinds of `Bool`.
    pub fn tensor(&mut self, ty: &Type, bound: usize) -> Tensor {
        use wgfuse_compiler::scalar::Scalar;
        let values = (0..ty.shape.count()).map(|_| match ty.dtype {
            DType::Bool => Scalar::Int((self.bits() & 1) as i64),
            it if it.is_float() => Scalar::of(it, self.unit()),
            _ => Scalar::Int(self.below(bound) as i64),
        });
        Tensor::from_scalars(ty.clone(), values.collect::<Vec<_>>())
    }
}
