//! What the scalar operators compute.
//!
//! Total functions: in, elements of the stated type; out, an element of the result's type (`UnaryOp::result`,
//! `BinaryOp::result`), rounded or wrapped to its width. Transcendental functions come from `libm`, so that constants are
//! folded to the same bits on every platform.

use crate::{
    dtype::{Class, DType},
    random,
    scalar::{BinaryOp, Scalar, UnaryOp},
    small_float,
};

impl Scalar {
    /// Rounded, cut or wrapped from one type to another.
    ///
    /// Floats go to `Bool` as `!= 0`, to integers cut towards zero, with NaN as 0. Those outside the range of a 32 or 64
    /// bit integer give its nearest end; narrower integers take the low bits of that for `I32`. Integers wrap.
    pub fn cast(self, from: DType, to: DType) -> Scalar {
        match (self, to.class()) {
            (Scalar::Float(it), Class::Float) => Scalar::Float(round(to, it)),
            (it, Class::Bool) => Scalar::Int(it.as_bool() as i64),
            (Scalar::Float(it), Class::Signed | Class::Unsigned) => Scalar::Int(match to {
                DType::I64 => it as i64,
                DType::U64 => it as u64 as i64,
                DType::U32 => it as u32 as i64,
                _ => wrap(to, it as i32 as i64),
            }),
            (Scalar::Int(it), Class::Signed | Class::Unsigned) => Scalar::Int(wrap(to, it)),
            (Scalar::Int(it), Class::Float) => Scalar::Float(match (from, to) {
                // One rounding, not two.
                (DType::U64, DType::F32) => it as u64 as f32 as f64,
                (_, DType::F32) => it as f32 as f64,
                (DType::U64, _) => round(to, it as u64 as f64),
                _ => round(to, it as f64),
            }),
        }
    }
}

/// A float to the nearest of type `to`.
fn round(to: DType, value: f64) -> f64 {
    match to {
        DType::F16 => half::f16::from_f64(value).to_f64(),
        DType::BF16 => half::bf16::from_f64(value).to_f64(),
        DType::F32 => value as f32 as f64,
        it if it.is_narrow_float() => small_float::round(it, value),
        _ => value,
    }
}

/// The low bits of `value` as an integer of type `to`.
fn wrap(to: DType, value: i64) -> i64 {
    match to {
        DType::Bool => (value != 0) as i64,
        DType::I8 => value as i8 as i64,
        DType::U8 => value as u8 as i64,
        DType::I16 => value as i16 as i64,
        DType::U16 => value as u16 as i64,
        DType::I32 => value as i32 as i64,
        DType::U32 => value as u32 as i64,
        DType::I4 => value << 60 >> 60,
        DType::U4 => value & 15,
        DType::I2 => value << 62 >> 62,
        DType::U2 => value & 3,
        DType::I64 | DType::U64 | DType::F16 | DType::BF16 | DType::F32 | DType::F64 => value,
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => value,
    }
}

impl UnaryOp {
    /// The result for an operand of type `of`, for which the operator has a meaning.
    #[inline]
    pub fn eval(self, of: DType, x: Scalar) -> Scalar {
        match (self, x) {
            (UnaryOp::IsNan, x) => Scalar::Int(x.as_f64().is_nan() as i64),
            (UnaryOp::IsInf, Scalar::Float(x)) => Scalar::Int(x.is_infinite() as i64),
            (UnaryOp::IsInf, Scalar::Int(_)) => Scalar::Int(0),
            (UnaryOp::Normal, Scalar::Int(x)) => Scalar::Float(f64::from(random::normal(x as u32))),
            (UnaryOp::ToBits, Scalar::Float(x)) => Scalar::Int(bits(of, x)),
            (UnaryOp::FromBits, Scalar::Int(x)) => Scalar::Float(from_bits(of, x)),
            (_, Scalar::Float(x)) => Scalar::Float(round(of, self.eval_float(x))),
            (_, Scalar::Int(x)) => Scalar::Int(wrap(of, self.eval_int(of, x))),
        }
    }

    #[inline]
    fn eval_float(self, x: f64) -> f64 {
        match self {
            UnaryOp::Neg => -x,
            UnaryOp::Abs => x.abs(),
            UnaryOp::Sign => match x {
                x if x > 0.0 => 1.0,
                x if x < 0.0 => -1.0,
                x if x.is_nan() => x,
                _ => 0.0,
            },
            UnaryOp::Exp => libm::exp(x),
            UnaryOp::Log => libm::log(x),
            UnaryOp::Sqrt => x.sqrt(),
            UnaryOp::Rsqrt => 1.0 / x.sqrt(),
            UnaryOp::Recip => 1.0 / x,
            UnaryOp::Sin => libm::sin(x),
            UnaryOp::Cos => libm::cos(x),
            UnaryOp::Tan => libm::tan(x),
            UnaryOp::Asin => libm::asin(x),
            UnaryOp::Acos => libm::acos(x),
            UnaryOp::Atan => libm::atan(x),
            UnaryOp::Sinh => libm::sinh(x),
            UnaryOp::Cosh => libm::cosh(x),
            UnaryOp::Tanh => libm::tanh(x),
            UnaryOp::Asinh => libm::asinh(x),
            // libm's gives numbers far below 1.
            UnaryOp::Acosh if x < 1.0 => f64::NAN,
            UnaryOp::Acosh => libm::acosh(x),
            UnaryOp::Atanh => libm::atanh(x),
            UnaryOp::Erf => libm::erf(x),
            UnaryOp::Floor => x.floor(),
            UnaryOp::Ceil => x.ceil(),
            UnaryOp::Round => x.round_ties_even(),
            UnaryOp::Trunc => x.trunc(),
            UnaryOp::Relu => larger(x, 0.0),
            UnaryOp::Sigmoid => sigmoid(x),
            UnaryOp::Silu => x * sigmoid(x),
            UnaryOp::Gelu => x / 2.0 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            UnaryOp::GeluTanh => {
                let root = (2.0 * std::f64::consts::FRAC_1_PI).sqrt();
                x / 2.0 * (1.0 + libm::tanh(root * (x + 0.044715 * x * x * x)))
            }
            UnaryOp::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            UnaryOp::Softplus => larger(x, 0.0) + libm::log1p(libm::exp(-x.abs())),
            UnaryOp::Not
            | UnaryOp::IsNan
            | UnaryOp::IsInf
            | UnaryOp::Normal
            | UnaryOp::ToBits
            | UnaryOp::FromBits => {
                crate::bug!("{} of a float", self.name())
            }
        }
    }

    fn eval_int(self, of: DType, x: i64) -> i64 {
        let signed = of.class() == Class::Signed;
        match self {
            UnaryOp::Neg => x.wrapping_neg(),
            UnaryOp::Abs if signed => x.wrapping_abs(),
            UnaryOp::Sign if signed => x.signum(),
            UnaryOp::Sign => (x != 0) as i64,
            UnaryOp::Relu if signed => x.max(0),
            UnaryOp::Abs
            | UnaryOp::Relu
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Round
            | UnaryOp::Trunc => x,
            UnaryOp::Not if of == DType::Bool => (x == 0) as i64,
            UnaryOp::Not => !x,
            UnaryOp::Exp
            | UnaryOp::Log
            | UnaryOp::Sqrt
            | UnaryOp::Rsqrt
            | UnaryOp::Recip
            | UnaryOp::Sin
            | UnaryOp::Cos
            | UnaryOp::Tan
            | UnaryOp::Asin
            | UnaryOp::Acos
            | UnaryOp::Atan
            | UnaryOp::Sinh
            | UnaryOp::Cosh
            | UnaryOp::Tanh
            | UnaryOp::Asinh
            | UnaryOp::Acosh
            | UnaryOp::Atanh
            | UnaryOp::Erf
            | UnaryOp::IsNan
            | UnaryOp::IsInf
            | UnaryOp::Sigmoid
            | UnaryOp::Silu
            | UnaryOp::Gelu
            | UnaryOp::GeluTanh
            | UnaryOp::HardSwish
            | UnaryOp::Normal
            | UnaryOp::ToBits
            | UnaryOp::FromBits
            | UnaryOp::Softplus => crate::bug!("{} of {of}", self.name()),
        }
    }
}

impl BinaryOp {
    /// The result for operands of type `of`, for which the operator has a meaning.
    #[inline]
    pub fn eval(self, of: DType, a: Scalar, b: Scalar) -> Scalar {
        match (a, b) {
            (Scalar::Float(a), Scalar::Float(b)) => self.eval_float(of, a, b),
            (Scalar::Int(a), Scalar::Int(b)) => {
                let result = if of.class() == Class::Signed {
                    self.eval_signed(of, a, b)
                } else {
                    self.eval_unsigned(of, a as u64, b as u64)
                };
                Scalar::Int(if self.is_comparison() { result } else { wrap(of, result) })
            }
            _ => crate::bug!("{} of a float and an integer", self.name()),
        }
    }

    #[inline]
    fn eval_float(self, of: DType, a: f64, b: f64) -> Scalar {
        let value = match self {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Rem => a % b,
            BinaryOp::Mod => match a % b {
                0.0 => 0f64.copysign(b),
                rest if (rest < 0.0) != (b < 0.0) => rest + b,
                rest => rest,
            },
            BinaryOp::Pow => libm::pow(a, b),
            BinaryOp::Max => larger(a, b),
            BinaryOp::Min => -larger(-a, -b),
            BinaryOp::Atan2 => libm::atan2(a, b),
            BinaryOp::Eq => return Scalar::Int((a == b) as i64),
            BinaryOp::Ne => return Scalar::Int((a != b) as i64),
            BinaryOp::Lt => return Scalar::Int((a < b) as i64),
            BinaryOp::Le => return Scalar::Int((a <= b) as i64),
            BinaryOp::Gt => return Scalar::Int((a > b) as i64),
            BinaryOp::Ge => return Scalar::Int((a >= b) as i64),
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => {
                crate::bug!("{} of {of}", self.name())
            }
        };
        Scalar::Float(round(of, value))
    }

    fn eval_signed(self, of: DType, a: i64, b: i64) -> i64 {
        match self {
            BinaryOp::Add => a.wrapping_add(b),
            BinaryOp::Sub => a.wrapping_sub(b),
            BinaryOp::Mul => a.wrapping_mul(b),
            BinaryOp::Div | BinaryOp::Rem | BinaryOp::Mod if b == 0 => 0,
            BinaryOp::Div => a.wrapping_div(b),
            BinaryOp::Rem => a.wrapping_rem(b),
            BinaryOp::Mod => match a.wrapping_rem(b) {
                rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
                rest => rest,
            },
            // A negative power of an integer is cut towards zero.
            BinaryOp::Pow if b < 0 => match a {
                1 => 1,
                -1 => 1 - 2 * (b & 1),
                _ => 0,
            },
            BinaryOp::Pow => power(a as u64, b as u64) as i64,
            BinaryOp::Max => a.max(b),
            BinaryOp::Min => a.min(b),
            BinaryOp::And => a & b,
            BinaryOp::Or => a | b,
            BinaryOp::Xor => a ^ b,
            BinaryOp::Shl => {
                if in_width(of, b) {
                    a << b
                } else {
                    0
                }
            }
            BinaryOp::Shr => a >> if in_width(of, b) { b } else { 63 },
            BinaryOp::Eq => (a == b) as i64,
            BinaryOp::Ne => (a != b) as i64,
            BinaryOp::Lt => (a < b) as i64,
            BinaryOp::Le => (a <= b) as i64,
            BinaryOp::Gt => (a > b) as i64,
            BinaryOp::Ge => (a >= b) as i64,
            BinaryOp::Atan2 => crate::bug!("{} of {of}", self.name()),
        }
    }

    fn eval_unsigned(self, of: DType, a: u64, b: u64) -> i64 {
        let value = match self {
            BinaryOp::Add => a.wrapping_add(b),
            BinaryOp::Sub => a.wrapping_sub(b),
            BinaryOp::Mul => a.wrapping_mul(b),
            BinaryOp::Div => a.checked_div(b).unwrap_or(0),
            BinaryOp::Rem | BinaryOp::Mod => a.checked_rem(b).unwrap_or(0),
            BinaryOp::Pow => power(a, b),
            BinaryOp::Max => a.max(b),
            BinaryOp::Min => a.min(b),
            BinaryOp::And => a & b,
            BinaryOp::Or => a | b,
            BinaryOp::Xor => a ^ b,
            BinaryOp::Shl => {
                if in_width(of, b as i64) {
                    a << b
                } else {
                    0
                }
            }
            BinaryOp::Shr => {
                if in_width(of, b as i64) {
                    a >> b
                } else {
                    0
                }
            }
            BinaryOp::Eq => (a == b) as u64,
            BinaryOp::Ne => (a != b) as u64,
            BinaryOp::Lt => (a < b) as u64,
            BinaryOp::Le => (a <= b) as u64,
            BinaryOp::Gt => (a > b) as u64,
            BinaryOp::Ge => (a >= b) as u64,
            BinaryOp::Atan2 => crate::bug!("{} of {of}", self.name()),
        };
        value as i64
    }
}

/// The bits of a float of type `of`.
fn bits(of: DType, x: f64) -> i64 {
    match of {
        DType::F16 => half::f16::from_f64(x).to_bits() as i64,
        DType::BF16 => half::bf16::from_f64(x).to_bits() as i64,
        DType::F32 => (x as f32).to_bits() as i64,
        _ => x.to_bits() as i64,
    }
}

/// The float that has the bits of an integer of type `of`.
fn from_bits(of: DType, x: i64) -> f64 {
    match of {
        DType::U16 => half::f16::from_bits(x as u16).to_f64(),
        DType::U32 => f32::from_bits(x as u32) as f64,
        _ => f64::from_bits(x as u64),
    }
}

/// NaN if either is NaN.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// Whether a shift by `by` leaves any of the bits of an integer of type `of`. A shift by a negative number of places
/// counts as one past the width.
fn in_width(of: DType, by: i64) -> bool {
    (0..8 * of.size() as i64).contains(&by)
}

fn power(base: u64, exponent: u64) -> u64 {
    let (mut base, mut exponent, mut product) = (base, exponent, 1u64);
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = product.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unary(op: UnaryOp, of: DType, x: f64) -> f64 {
        op.eval(of, Scalar::of(of, x)).as_f64()
    }

    fn ints(op: BinaryOp, of: DType, a: i64, b: i64) -> i64 {
        op.eval(of, Scalar::Int(a), Scalar::Int(b)).as_i64()
    }

    #[test]
    fn floats_are_rounded_to_their_width() {
        assert_eq!(Scalar::of(DType::F16, 0.1), Scalar::Float(half::f16::from_f32(0.1).to_f64()));
        assert_eq!(Scalar::of(DType::F16, 1e6), Scalar::Float(f64::INFINITY));
        assert_eq!(unary(UnaryOp::Sqrt, DType::F32, 2.0), 2f32.sqrt() as f64);
        let third = BinaryOp::Div.eval(DType::BF16, Scalar::Float(1.0), Scalar::Float(3.0));
        assert_eq!(third, Scalar::Float(half::bf16::from_f32(1.0 / 3.0).to_f64()));
    }

    #[test]
    fn casts() {
        let cast = |x: f64, to| Scalar::Float(x).cast(DType::F32, to).as_i64();
        assert_eq!(cast(-1.9, DType::I32), -1);
        assert_eq!(cast(3e9, DType::I32), i32::MAX as i64);
        assert_eq!(cast(-1.0, DType::U32), 0);
        assert_eq!(cast(-1.0, DType::U8), 255);
        assert_eq!(cast(300.0, DType::U8), 44);
        assert_eq!(cast(f64::NAN, DType::I64), 0);
        assert_eq!(cast(f64::NAN, DType::Bool), 1);
        assert_eq!(cast(0.5, DType::Bool), 1);
        assert_eq!(Scalar::Int(-1).cast(DType::U64, DType::F64), Scalar::Float(u64::MAX as f64));
        assert_eq!(Scalar::Int(-1).cast(DType::I64, DType::U16), Scalar::Int(65535));
        assert_eq!(Scalar::Int(200).cast(DType::U8, DType::I8), Scalar::Int(-56));
        let odd = (1i64 << 60) + (1 << 36) + 1;
        assert_eq!(Scalar::Int(odd).cast(DType::I64, DType::F32), Scalar::Float(odd as f32 as f64));
    }

    #[test]
    fn integers_wrap_and_never_trap() {
        assert_eq!(ints(BinaryOp::Add, DType::I8, 127, 1), -128);
        assert_eq!(ints(BinaryOp::Sub, DType::U8, 0, 1), 255);
        assert_eq!(ints(BinaryOp::Div, DType::I32, i32::MIN as i64, -1), i32::MIN as i64);
        assert_eq!(ints(BinaryOp::Div, DType::I64, i64::MIN, -1), i64::MIN);
        assert_eq!(ints(BinaryOp::Rem, DType::I64, i64::MIN, -1), 0);
        assert_eq!(ints(BinaryOp::Div, DType::I32, 7, 0), 0);
        assert_eq!(ints(BinaryOp::Mod, DType::I32, -7, 3), 2);
        assert_eq!(ints(BinaryOp::Mod, DType::I32, 7, -3), -2);
        assert_eq!(ints(BinaryOp::Rem, DType::I32, -7, 3), -1);
        assert_eq!(ints(BinaryOp::Div, DType::I32, -7, 2), -3);
        assert_eq!(ints(BinaryOp::Pow, DType::I32, 3, 4), 81);
        assert_eq!(ints(BinaryOp::Pow, DType::I32, -1, -3), -1);
        assert_eq!(ints(BinaryOp::Pow, DType::I32, 2, -1), 0);
        assert_eq!(ints(BinaryOp::Shl, DType::U8, 1, 8), 0);
        assert_eq!(ints(BinaryOp::Shl, DType::I32, 1, 31), i32::MIN as i64);
        assert_eq!(ints(BinaryOp::Shr, DType::I16, -5, 16), -1);
        assert_eq!(ints(BinaryOp::Shr, DType::U64, -1, 63), 1);
        assert_eq!(ints(BinaryOp::Div, DType::U64, -1, 2), i64::MAX);
        assert_eq!(ints(BinaryOp::Lt, DType::U64, 1, -1), 1);
        assert_eq!(ints(BinaryOp::Max, DType::U64, 1, -1), -1);
        assert_eq!(UnaryOp::Abs.eval(DType::I8, Scalar::Int(-128)), Scalar::Int(-128));
        assert_eq!(UnaryOp::Not.eval(DType::U8, Scalar::Int(1)), Scalar::Int(254));
        assert_eq!(UnaryOp::Not.eval(DType::Bool, Scalar::Int(1)), Scalar::Int(0));
    }

    #[test]
    fn bits_of_floats() {
        let of = |dtype, x: f64| UnaryOp::ToBits.eval(dtype, Scalar::of(dtype, x)).as_i64();
        assert_eq!(of(DType::F16, -1.5), 0xbe00);
        assert_eq!(of(DType::BF16, -1.5), 0xbfc0);
        assert_eq!(of(DType::F32, -0.0), 1 << 31);
        assert_eq!(of(DType::F64, -1.5) as u64, (-1.5f64).to_bits());
        let back = |dtype, x| UnaryOp::FromBits.eval(dtype, Scalar::Int(x)).as_f64();
        assert_eq!(back(DType::U16, 0xbe00), -1.5);
        assert_eq!(back(DType::U32, 1), f32::from_bits(1) as f64);
        assert_eq!(back(DType::U64, (-1.5f64).to_bits() as i64), -1.5);
    }

    #[test]
    fn not_a_number_spreads() {
        let nan = Scalar::Float(f64::NAN);
        for (a, b) in [(nan, Scalar::Float(1.0)), (Scalar::Float(1.0), nan)] {
            assert!(BinaryOp::Max.eval(DType::F32, a, b).as_f64().is_nan());
            assert!(BinaryOp::Min.eval(DType::F32, a, b).as_f64().is_nan());
        }
        for op in [UnaryOp::Relu, UnaryOp::HardSwish, UnaryOp::Softplus, UnaryOp::Sign, UnaryOp::Gelu] {
            assert!(op.eval(DType::F32, nan).as_f64().is_nan(), "{}", op.name());
        }
    }

    /// Values from Python's `math` module.
    #[test]
    fn functions() {
        let close = |op, x, want: f64| {
            let have = unary(op, DType::F64, x);
            assert!((have - want).abs() <= 1e-15 * want.abs().max(1.0), "{have} {want}");
        };
        close(UnaryOp::Erf, 0.5, 0.5204998778130465);
        close(UnaryOp::Erf, -2.0, -0.9953222650189527);
        close(UnaryOp::Gelu, 1.0, 0.8413447460685429);
        close(UnaryOp::GeluTanh, 1.0, 0.841191990608276);
        close(UnaryOp::Softplus, 1000.0, 1000.0);
        close(UnaryOp::Softplus, -1.0, 0.31326168751822286);
        close(UnaryOp::Sigmoid, -1000.0, 0.0);
        close(UnaryOp::Silu, 1.0, 0.7310585786300049);
        close(UnaryOp::HardSwish, 1.0, 4.0 / 6.0);
        close(UnaryOp::Round, 2.5, 2.0);
        close(UnaryOp::Tanh, 100.0, 1.0);
        let modulo = BinaryOp::Mod.eval(DType::F64, Scalar::Float(-1.0), Scalar::Float(3.0));
        assert_eq!(modulo, Scalar::Float(2.0));
    }
}
