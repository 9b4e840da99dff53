//! How the device spells the scalar operators. `meaning` says what they compute.
//!
//! What naga has as it is, or what takes a few operators, is written in place; the rest are functions of
//! `shaders/math.wgsl`, named `wg_<operator>_<word>`.

use naga::{BinaryOperator as B, MathFunction as M, ScalarKind, UnaryOperator as U};

use super::{
    library,
    memory::rounded,
    types::{Storage, Word},
    writer::{Code, Handle},
};
use crate::{
    bug,
    dtype::DType,
    scalar::{BinaryOp, Scalar, UnaryOp},
    small_float::{Format, Specials},
};

pub fn constant(code: &mut Code, value: Scalar, dtype: DType) -> Handle {
    match Word::of(dtype) {
        Word::F32 => code.f32_any(value.as_f64() as f32),
        Word::Bool => code.bool(value.as_bool()),
        // 64-bit integers are computed in 32 bits: what does not fit is as far out as can be.
        Word::I32 => code.i32(value.as_i64().clamp(i32::MIN as i64, i32::MAX as i64) as i32),
        Word::U32 => code.u32((value.as_i64() as u64).min(u32::MAX as u64) as u32),
    }
}

pub fn zero(code: &mut Code, word: Word) -> Handle {
    match word {
        Word::F32 => code.f32(0.0),
        Word::I32 => code.i32(0),
        Word::U32 => code.u32(0),
        Word::Bool => code.bool(false),
    }
}

/// The result of arithmetic on words as an element of `dtype`: wrapped or rounded to its width.
pub fn narrow(code: &mut Code, dtype: DType, value: Handle) -> Handle {
    let masked = |code: &mut Code, mask: u32| {
        let mask = code.u32(mask);
        code.binary(B::And, value, mask)
    };
    let extended = |code: &mut Code, by: u32| {
        let by = code.u32(by);
        let high = code.binary(B::ShiftLeft, value, by);
        code.binary(B::ShiftRight, high, by)
    };
    match dtype {
        DType::I8 => extended(code, 24),
        DType::I16 => extended(code, 16),
        DType::U8 => masked(code, 0xff),
        DType::U16 => masked(code, 0xffff),
        DType::I4 => extended(code, 28),
        DType::I2 => extended(code, 30),
        DType::U4 => masked(code, 0xf),
        DType::U2 => masked(code, 0x3),
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
            let format = Format::of(dtype).unwrap_or_else(|| bug!("{dtype} on a device"));
            let function = library::math(code.writer, "wg_small_float");
            let mantissa = code.i32(format.mantissa as i32);
            let (least, largest) = (code.i32(format.least), code.f32(format.largest as f32));
            let specials = code.u32(match format.specials {
                Specials::Ieee | Specials::AllOnes => 0,
                Specials::NegativeZero => 1,
                Specials::None => 2,
            });
            code.call(function, &[value, mantissa, least, largest, specials])
        }
        DType::F16 | DType::BF16 => rounded(code, Storage::of(dtype), value),
        DType::Bool | DType::I32 | DType::U32 | DType::I64 | DType::U64 | DType::F32 | DType::F64 => value,
    }
}

pub fn unary(code: &mut Code, op: UnaryOp, dtype: DType, x: Handle) -> Handle {
    let word = Word::of(dtype);
    let value = match word {
        Word::F32 if op == UnaryOp::ToBits => to_bits(code, dtype, x),
        Word::F32 => unary_float(code, op, x),
        Word::U32 if op == UnaryOp::FromBits => from_bits(code, dtype, x),
        Word::I32 | Word::U32 | Word::Bool => unary_whole(code, op, word, x),
    };
    match op {
        UnaryOp::IsNan | UnaryOp::IsInf | UnaryOp::Normal | UnaryOp::ToBits | UnaryOp::FromBits => value,
        UnaryOp::Relu | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc => value,
        _ => narrow(code, dtype, value),
    }
}

fn unary_float(code: &mut Code, op: UnaryOp, x: Handle) -> Handle {
    match op {
        UnaryOp::Neg => code.unary(U::Negate, x),
        UnaryOp::Abs => code.math(M::Abs, &[x]),
        UnaryOp::Exp => code.math(M::Exp, &[x]),
        UnaryOp::Sqrt => code.math(M::Sqrt, &[x]),
        UnaryOp::Rsqrt => code.math(M::InverseSqrt, &[x]),
        UnaryOp::Floor => code.math(M::Floor, &[x]),
        UnaryOp::Ceil => code.math(M::Ceil, &[x]),
        UnaryOp::Round => code.math(M::Round, &[x]),
        UnaryOp::Trunc => code.math(M::Trunc, &[x]),
        UnaryOp::Recip => {
            let one = code.f32(1.0);
            code.binary(B::Divide, one, x)
        }
        UnaryOp::Relu => {
            // The maximum of NaN and 0 may be 0, and some GLSL compilers make it of `x < 0 ? 0 : x` too.
            let zero = code.f32(0.0);
            let most = code.math(M::Max, &[x, zero]);
            let nan = code.is_nan(x);
            code.select(nan, x, most)
        }
        UnaryOp::Sign => {
            let (zero, one, minus) = (code.f32(0.0), code.f32(1.0), code.f32(-1.0));
            let above = code.binary(B::Greater, x, zero);
            let below = code.binary(B::Less, x, zero);
            let rest = code.select(below, minus, x);
            code.select(above, one, rest)
        }
        UnaryOp::IsNan => code.is_nan(x),
        UnaryOp::IsInf => {
            let bits = code.bitcast(x, ScalarKind::Uint);
            let mask = code.u32(0x7fff_ffff);
            let bits = code.binary(B::And, bits, mask);
            let infinity = code.u32(0x7f80_0000);
            code.binary(B::Equal, bits, infinity)
        }
        UnaryOp::Log => code.math(M::Log, &[x]),
        UnaryOp::Sin
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
        | UnaryOp::Sigmoid
        | UnaryOp::Silu
        | UnaryOp::Gelu
        | UnaryOp::GeluTanh
        | UnaryOp::HardSwish
        | UnaryOp::Softplus => from_library(code, op.name(), Word::F32, &[x]),
        UnaryOp::Not | UnaryOp::Normal | UnaryOp::ToBits | UnaryOp::FromBits => {
            bug!("{} of a float", op.name())
        }
    }
}

/// The bits that a float of `dtype` has at home, where it is computed in f32.
fn to_bits(code: &mut Code, dtype: DType, x: Handle) -> Handle {
    match dtype {
        DType::F16 => {
            let zero = code.f32(0.0);
            let pair = code.vector(Word::F32, vec![x, zero]);
            code.math(M::Pack2x16float, &[pair])
        }
        DType::BF16 => {
            let bits = code.bitcast(x, ScalarKind::Uint);
            let by = code.u32(16);
            code.binary(B::ShiftRight, bits, by)
        }
        _ => code.bitcast(x, ScalarKind::Uint),
    }
}

fn from_bits(code: &mut Code, dtype: DType, x: Handle) -> Handle {
    match dtype {
        DType::U16 => {
            let pair = code.math(M::Unpack2x16float, &[x]);
            code.component(pair, 0)
        }
        _ => code.bitcast(x, ScalarKind::Float),
    }
}

fn unary_whole(code: &mut Code, op: UnaryOp, word: Word, x: Handle) -> Handle {
    let signed = word == Word::I32;
    match op {
        UnaryOp::Not if word == Word::Bool => code.unary(U::LogicalNot, x),
        UnaryOp::Not => code.unary(U::BitwiseNot, x),
        UnaryOp::Neg => {
            let zero = zero(code, word);
            code.binary(B::Subtract, zero, x)
        }
        UnaryOp::Abs if signed => code.math(M::Abs, &[x]),
        UnaryOp::Sign if signed => code.math(M::Sign, &[x]),
        UnaryOp::Sign => {
            let one = code.u32(1);
            code.math(M::Min, &[x, one])
        }
        UnaryOp::Relu if signed => {
            let zero = code.i32(0);
            code.math(M::Max, &[x, zero])
        }
        UnaryOp::Abs | UnaryOp::Relu | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc => x,
        UnaryOp::IsNan | UnaryOp::IsInf => code.bool(false),
        UnaryOp::Normal => from_library(code, op.name(), word, &[x]),
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
        | UnaryOp::Sigmoid
        | UnaryOp::Silu
        | UnaryOp::Gelu
        | UnaryOp::GeluTanh
        | UnaryOp::HardSwish
        | UnaryOp::ToBits
        | UnaryOp::FromBits
        | UnaryOp::Softplus => bug!("{} of {}", op.name(), word.name()),
    }
}

/// `dtype` is that of the operands.
pub fn binary(code: &mut Code, op: BinaryOp, dtype: DType, x: Handle, y: Handle) -> Handle {
    let word = Word::of(dtype);
    match op {
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
            compare(code, op, word, x, y)
        }
        BinaryOp::Max | BinaryOp::Min => extreme(code, op == BinaryOp::Max, word, x, y),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
            let operator = match (op, word) {
                (BinaryOp::And, Word::Bool) => B::LogicalAnd,
                (BinaryOp::Or, Word::Bool) => B::LogicalOr,
                (_, Word::Bool) => B::NotEqual,
                (BinaryOp::And, _) => B::And,
                (BinaryOp::Or, _) => B::InclusiveOr,
                (_, _) => B::ExclusiveOr,
            };
            code.binary(operator, x, y)
        }
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Rem
        | BinaryOp::Mod
        | BinaryOp::Pow
        | BinaryOp::Atan2
        | BinaryOp::Shl
        | BinaryOp::Shr => {
            let value = arithmetic(code, op, dtype, x, y);
            narrow(code, dtype, value)
        }
    }
}

/// The quotient of f32 for what rounds it to a whole number: 2.5 units in the last place, which WGSL allows, would put ties on the
/// other side.
pub fn quotient(code: &mut Code, x: Handle, y: Handle) -> Handle {
    from_library(code, "div", Word::F32, &[x, y])
}

fn compare(code: &mut Code, op: BinaryOp, word: Word, x: Handle, y: Handle) -> Handle {
    let operator = match op {
        BinaryOp::Eq => B::Equal,
        BinaryOp::Ne => B::NotEqual,
        BinaryOp::Lt => B::Less,
        BinaryOp::Le => B::LessEqual,
        BinaryOp::Gt => B::Greater,
        _ => B::GreaterEqual,
    };
    let ordered = !matches!(op, BinaryOp::Eq | BinaryOp::Ne);
    if ordered && word == Word::Bool {
        let (x, y) = (code.convert(x, Word::U32), code.convert(y, Word::U32));
        return code.binary(operator, x, y);
    }
    if op == BinaryOp::Ne && word == Word::F32 {
        return differ(code, x, y);
    }
    code.binary(operator, x, y)
}

/// For floats. Not naga's operator: SPIR-V's ordered one is false where either is NaN.
fn differ(code: &mut Code, x: Handle, y: Handle) -> Handle {
    let equal = code.binary(B::Equal, x, y);
    code.unary(U::LogicalNot, equal)
}

/// The larger or smaller, NaN if either is NaN.
pub fn extreme(code: &mut Code, larger: bool, word: Word, x: Handle, y: Handle) -> Handle {
    match word {
        Word::Bool => code.binary(if larger { B::LogicalOr } else { B::LogicalAnd }, x, y),
        Word::I32 | Word::U32 => code.math(if larger { M::Max } else { M::Min }, &[x, y]),
        Word::F32 => {
            // If x is NaN it is taken; if only y is, the comparison is false and y is taken.
            let wins = code.binary(if larger { B::Greater } else { B::Less }, x, y);
            let nan = code.is_nan(x);
            let take = code.binary(B::LogicalOr, wins, nan);
            code.select(take, x, y)
        }
    }
}

fn arithmetic(code: &mut Code, op: BinaryOp, dtype: DType, x: Handle, y: Handle) -> Handle {
    let word = Word::of(dtype);
    match (op, word) {
        (_, Word::Bool) => bug!("{} of {dtype}", op.name()),
        (BinaryOp::Add, _) => code.binary(B::Add, x, y),
        (BinaryOp::Sub, _) => code.binary(B::Subtract, x, y),
        (BinaryOp::Mul, _) => code.binary(B::Multiply, x, y),
        (BinaryOp::Div, Word::F32) => code.binary(B::Divide, x, y),
        // Shifts at 32 bits are right at fewer: elements are kept wrapped to their width.
        _ => from_library(code, op.name(), word, &[x, y]),
    }
}

pub fn cast(code: &mut Code, from: DType, to: DType, x: Handle) -> Handle {
    // Rounding would make an infinity of a small float a number.
    if from == to && Format::of(to).is_some() {
        return x;
    }
    let value = match (Word::of(from), Word::of(to)) {
        (a, b) if a == b => x,
        (Word::F32, Word::Bool) => {
            let zero = code.f32(0.0);
            return differ(code, x, zero);
        }
        (_, Word::Bool) => {
            let zero = zero(code, Word::of(from));
            return code.binary(B::NotEqual, x, zero);
        }
        (Word::Bool, to) => {
            let zero = zero(code, to);
            let one = match to {
                Word::F32 => code.f32(1.0),
                Word::I32 => code.i32(1),
                Word::U32 | Word::Bool => code.u32(1),
            };
            return code.select(x, one, zero);
        }
        (Word::F32, _) => {
            let signed = !matches!(to, DType::U32 | DType::U64);
            let function = library::math(code.writer, if signed { "wg_f32_to_i32" } else { "wg_f32_to_u32" });
            let whole = code.call(function, &[x]);
            match (signed, Word::of(to)) {
                (true, Word::U32) => code.bitcast(whole, ScalarKind::Uint),
                _ => whole,
            }
        }
        (_, Word::F32) => code.convert(x, Word::F32),
        (_, Word::I32) => code.bitcast(x, ScalarKind::Sint),
        (_, Word::U32) => code.bitcast(x, ScalarKind::Uint),
    };
    narrow(code, to, value)
}

fn from_library(code: &mut Code, name: &str, word: Word, args: &[Handle]) -> Handle {
    let name = format!("wg_{name}_{}", word.name());
    let function = library::math(code.writer, &name);
    code.call(function, args)
}
