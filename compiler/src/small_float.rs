//! Floats of eight bits and fewer: their formats, numbers rounded to them, and their bits.
//!
//! Rounding is to the nearest, halfway cases to even, and saturates: what is too large, infinities too, becomes the largest
//! number of its sign. Sources: "OCP 8-bit Floating Point Specification", "OCP Microscaling Formats", and, for the forms
//! without infinities and negative zero, arXiv 2206.02915; ONNX's tables of casts say the same.

use crate::dtype::DType;

/// A sign, an exponent, a mantissa.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Format {
    /// Bits of the mantissa that are stored.
    pub mantissa: u32,
    /// Power of two of the smallest normal number.
    pub least: i32,
    pub largest: f64,
    pub specials: Specials,
}

/// What bits mean that are no numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Specials {
    /// The highest exponent: infinity, and NaN with a mantissa.
    Ieee,
    /// NaN has all bits but the sign; no infinities.
    AllOnes,
    /// NaN is where negative zero would be; no infinities.
    NegativeZero,
    /// None: NaN becomes 0.
    None,
}

impl Format {
    /// `None` for what is no such float, and for `F8E8M0`, which has an exponent alone.
    pub const fn of(dtype: DType) -> Option<Format> {
        let (mantissa, least, largest, specials) = match dtype {
            DType::F8E4M3 => (3, -6, 448.0, Specials::AllOnes),
            DType::F8E4M3Z => (3, -7, 240.0, Specials::NegativeZero),
            DType::F8E5M2 => (2, -14, 57344.0, Specials::Ieee),
            DType::F8E5M2Z => (2, -15, 57344.0, Specials::NegativeZero),
            DType::F4 => (1, 0, 6.0, Specials::None),
            _ => return None,
        };
        Some(Format { mantissa, least, largest, specials })
    }

    pub fn round(self, value: f64) -> f64 {
        if value.is_nan() {
            return if self.specials == Specials::None { 0.0 } else { value };
        }
        let size = value.abs().min(self.largest);
        let step = two_to(exponent(size).max(self.least) - self.mantissa as i32);
        let rounded = (size / step).round_ties_even() * step;
        match self.specials {
            Specials::NegativeZero if rounded == 0.0 => 0.0,
            _ => rounded.copysign(value),
        }
    }

    /// The smallest size that would be rounded to more than the largest number, were there more, and whether it is itself.
    pub fn bound(self) -> (f64, bool) {
        let half = two_to(exponent(self.largest) - self.mantissa as i32 - 1);
        let odd = (self.largest / half / 2.0) % 2.0 == 1.0;
        (self.largest + half, odd)
    }

    /// The sign's bit.
    fn sign(self) -> u8 {
        match self.specials {
            Specials::None => 8,
            _ => 0x80,
        }
    }

    fn nan(self) -> u8 {
        match self.specials {
            Specials::Ieee | Specials::AllOnes => 0x7f,
            Specials::NegativeZero => 0x80,
            Specials::None => 0,
        }
    }

    /// The bits of the nearest number; infinity's, where there is one.
    fn bits(self, value: f64) -> u8 {
        let infinite = self.specials == Specials::Ieee && value.is_infinite();
        let rounded = if infinite { value } else { self.round(value) };
        if rounded.is_nan() {
            return self.nan();
        }
        let sign = if rounded.is_sign_negative() { self.sign() } else { 0 };
        if infinite {
            return sign | 0x7c;
        }
        let size = rounded.abs();
        let power = exponent(size).max(self.least);
        // With the leading one of normal numbers, which adds one to the exponent's field.
        let whole = (size / two_to(power - self.mantissa as i32)) as u32;
        sign | (whole + (((power - self.least) as u32) << self.mantissa)) as u8
    }

    fn value(self, bits: u8) -> f64 {
        let (negative, rest) = (bits & self.sign() != 0, u32::from(bits & (self.sign() - 1)));
        match self.specials {
            Specials::AllOnes if rest == 0x7f => return f64::NAN,
            Specials::NegativeZero if bits == 0x80 => return f64::NAN,
            Specials::Ieee if rest > 0x7c => return f64::NAN,
            Specials::Ieee if rest == 0x7c => {
                return if negative { f64::NEG_INFINITY } else { f64::INFINITY };
            }
            _ => {}
        }
        let (field, fraction) = (rest >> self.mantissa, rest & ((1 << self.mantissa) - 1));
        let (whole, field) = match field {
            0 => (fraction, 0),
            _ => (fraction + (1 << self.mantissa), field - 1),
        };
        let size = f64::from(whole) * two_to(self.least + field as i32 - self.mantissa as i32);
        if negative { -size } else { size }
    }
}

/// The element of `of`, a float of at most eight bits, nearest to `value`.
pub fn round(of: DType, value: f64) -> f64 {
    match Format::of(of) {
        Some(format) => format.round(value),
        None => power_above(value),
    }
}

/// `value`, rounded; an infinity stays one where the type has it.
pub fn bits(of: DType, value: f64) -> u8 {
    match Format::of(of) {
        Some(format) => format.bits(value),
        None if value.is_nan() => 0xff,
        None => match power_above(value) {
            it if it.is_nan() => 0xff,
            it => (exponent(it) + 127) as u8,
        },
    }
}

pub fn value(of: DType, bits: u8) -> f64 {
    match (Format::of(of), bits) {
        (Some(format), _) => format.value(bits),
        (None, 0xff) => f64::NAN,
        (None, _) => two_to(i32::from(bits) - 127),
    }
}

/// The power of two, from 2^-127 to 2^127, that is not below the size of `value`; no sign, and NaN for infinities.
fn power_above(value: f64) -> f64 {
    if !value.is_finite() {
        return f64::NAN;
    }
    let power = exponent(value);
    let fraction = value.abs() > two_to(power);
    two_to((power + i32::from(fraction)).clamp(-127, 127))
}

/// The largest power of two that is not above a finite number; something very small for 0.
fn exponent(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// For normal powers of `f64`, and 0 below.
fn two_to(power: i32) -> f64 {
    f64::from_bits(((power + 1023).clamp(0, 2046) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DType; 6] =
        [DType::F8E4M3, DType::F8E4M3Z, DType::F8E5M2, DType::F8E5M2Z, DType::F8E8M0, DType::F4];

    fn patterns(of: DType) -> std::ops::RangeInclusive<u8> {
        0..=if of == DType::F4 { 15 } else { 255 }
    }

    #[test]
    fn bits_come_back() {
        for of in ALL {
            for it in patterns(of) {
                let number = value(of, it);
                let back = bits(of, number);
                assert!(back == it || number.is_nan() && value(of, back).is_nan(), "{of} {it:#x} {number}");
                let finite = number.is_finite();
                assert!(!finite || round(of, number).to_bits() == number.to_bits(), "{of} {number}");
            }
        }
    }

    #[test]
    fn numbers_between_two_go_to_the_nearer() {
        for of in ALL.into_iter().filter(|it| *it != DType::F8E8M0) {
            let mut all: Vec<f64> =
                patterns(of).map(|it| value(of, it)).filter(|it| it.is_finite()).collect();
            all.sort_by(f64::total_cmp);
            all.dedup();
            for pair in all.windows(2) {
                let (a, b) = (pair[0], pair[1]);
                let middle = (a + b) / 2.0;
                assert_eq!(round(of, a + (middle - a) * 0.99), a, "{of} {a} {b}");
                assert_eq!(round(of, b + (middle - b) * 0.99), b, "{of} {a} {b}");
                let even = [a, b].into_iter().find(|it| bits(of, *it) & 1 == 0).expect("every other");
                assert_eq!(round(of, middle), even, "{of} {a} {b}");
            }
        }
    }

    #[test]
    fn limits() {
        let ends = |of: DType| {
            let all = patterns(of).map(|it| value(of, it)).filter(|it| it.is_finite() && *it > 0.0);
            (all.clone().fold(f64::MAX, f64::min), all.fold(0.0, f64::max))
        };
        assert_eq!(ends(DType::F8E4M3), (0.001953125, 448.0));
        assert_eq!(ends(DType::F8E4M3Z), (0.0009765625, 240.0));
        assert_eq!(ends(DType::F8E5M2), (1.52587890625e-05, 57344.0));
        assert_eq!(ends(DType::F8E5M2Z), (7.62939453125e-06, 57344.0));
        assert_eq!(ends(DType::F4), (0.5, 6.0));
        assert_eq!(ends(DType::F8E8M0), (f64::powi(2.0, -127), f64::powi(2.0, 127)));
        for of in ALL {
            let (_, largest) = ends(of);
            let more = round(of, 1e300);
            assert_eq!(more, largest, "{of}");
            if of != DType::F8E8M0 {
                assert_eq!(round(of, f64::NEG_INFINITY), -largest, "{of}");
                assert_eq!(round(of, 1e-300), 0.0, "{of}");
            }
        }
        assert_eq!(value(DType::F8E5M2, bits(DType::F8E5M2, f64::INFINITY)), f64::INFINITY);
        assert!(round(DType::F8E4M3, f64::NAN).is_nan() && round(DType::F8E8M0, f64::INFINITY).is_nan());
        assert_eq!(round(DType::F4, f64::NAN), 0.0);
        assert_eq!((round(DType::F8E8M0, 0.0), round(DType::F8E8M0, 1.1)), (f64::powi(2.0, -127), 2.0));
        let zero = |of: DType| round(of, -1e-9).is_sign_negative();
        assert!(zero(DType::F8E4M3) && zero(DType::F8E5M2) && zero(DType::F4));
        assert!(!zero(DType::F8E4M3Z) && !zero(DType::F8E5M2Z));
        // As ml_dtypes 0.6 has them.
        let bounds = [DType::F8E4M3, DType::F8E4M3Z, DType::F8E5M2, DType::F8E5M2Z];
        let bounds = bounds.map(|it| Format::of(it).expect("a format").bound());
        assert_eq!(bounds, [(464.0, false), (248.0, true), (61440.0, true), (61440.0, true)]);
    }
}
