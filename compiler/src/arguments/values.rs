//! Values of tensors: where they are written, or what others like them are made from.
//!
//! In: a tensor, or what was said of one. Out: a seed and statistics; values of the same statistics. Equal seeds and statistics make equal
//! values on every machine: nothing but integers and IEEE additions and multiplications is in them.

use bytes::Bytes;

use crate::{
    dtype::DType,
    scalar::{Scalar, int_range},
    shape::Type,
    tensor::Tensor,
    text::spelled,
};

#[derive(Clone, PartialEq, Debug)]
pub enum Values {
    /// Bytes of the data.
    Stored { at: u64, bytes: u64 },
    /// Of those that are finite: the smallest, the largest, the mean and the deviation; of floats without those that are 0, and which
    /// part is 0.
    Made { seed: u64, low: f64, high: f64, mean: f64, deviation: f64, zeros: f64 },
    /// Nothing is known of them.
    Unknown,
}

spelled!(enum Values {
    Stored "stored" {at, bytes};
    Made "made" {seed, low, high, mean, deviation, zeros};
    Unknown "unknown";
});

/// What values like those of `tensor` can be made from.
pub fn statistics(tensor: &Tensor, seed: u64) -> Values {
    let dtype = tensor.dtype();
    let finite =
        || tensor.scalars().map(|it| it.cast(dtype, DType::F64).as_f64()).filter(|it| it.is_finite());
    let counts = |it: &f64| *it != 0.0 || !dtype.is_float();
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut sum, mut others, mut all) = (0.0, 0u64, 0u64);
    for it in finite() {
        all += 1;
        if counts(&it) {
            (low, high) = (low.min(it), high.max(it));
            sum += it;
            others += 1;
        }
    }
    if others == 0 {
        return Values::Made { seed, low: 0.0, high: 0.0, mean: 0.0, deviation: 0.0, zeros: 1.0 };
    }
    let mean = sum / others as f64;
    let spread: f64 = finite().filter(counts).map(|it| (it - mean) * (it - mean)).sum();
    let deviation = (spread / others as f64).sqrt();
    Values::Made { seed, low, high, mean, deviation, zeros: (all - others) as f64 / all as f64 }
}

/// A tensor of type `ty`; `number` tells apart those of which nothing is known. Or what is wrong with what was said of it.
pub fn made(ty: &Type, values: &Values, number: u64, data: &Bytes) -> Result<Tensor, String> {
    let cut = || format!("the values of a {ty} are not in the data");
    let tensor = match *values {
        Values::Stored { at, bytes } => {
            let (start, len) = (usize::try_from(at).ok(), usize::try_from(bytes).ok());
            let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
            let range = range.filter(|it| it.end <= data.len()).ok_or_else(cut)?;
            let bytes = data.slice(range);
            if ty.dtype == DType::Bool && bytes.iter().any(|it| *it > 1) {
                return Err(format!("a value of a {ty} is neither 0 nor 1"));
            }
            Tensor::new(ty.clone(), bytes).ok_or_else(cut)?
        }
        Values::Made { seed, low, high, mean, deviation, zeros } => {
            drawn(ty, seed, [low, high], [mean, deviation], zeros)
        }
        Values::Unknown => {
            let (low, high) = if ty.dtype.is_float() { (-4.0, 4.0) } else { (0.0, 1.0) };
            drawn(ty, u64::MAX - number, [low, high], [0.0, 1.0], 0.0)
        }
    };
    Ok(tensor)
}

fn drawn(ty: &Type, seed: u64, [low, high]: [f64; 2], [mean, deviation]: [f64; 2], zeros: f64) -> Tensor {
    let mut state = seed;
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = state;
        it = (it ^ it >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ it >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ it >> 31
    };
    let uniform = |it: u64| (it >> 11) as f64 / (1u64 << 53) as f64;
    let dtype = ty.dtype;
    let (least, greatest) = match dtype {
        DType::U64 => (0, i64::MAX),
        it => int_range(it),
    };
    let mut one = move || {
        let bits = next();
        if dtype.is_float() {
            if zeros > 0.0 && uniform(next()) < zeros {
                return Scalar::of(dtype, 0.0);
            }
            // The sum of four uniform numbers has variance 1/3 and looks like a normal one.
            let sum: u64 = (0..4).map(|it| bits >> (16 * it) & 0xffff).sum();
            let normal = (sum as f64 / 65_535.0 - 2.0) * 1.732_050_807_568_877_2;
            return Scalar::of(dtype, (mean + deviation * normal).max(low).min(high));
        }
        // As casts go: what is no number is 0, what is too large is the largest.
        let (low, high) = ((low as i64).clamp(least, greatest), (high as i64).clamp(least, greatest));
        let span = (high as i128 - low as i128).max(0) as u128 + 1;
        Scalar::Int((low as i128 + (bits as u128 % span) as i128) as i64)
    };
    Tensor::from_scalars(ty.clone(), (0..ty.shape.count()).map(move |_| one()))
}
