//! Operators on single elements: their names and meanings, the same at every stage.
//!
//! Floats of every width mean what `f64` arithmetic, rounded to the width, means. Integers wrap at their width.
//! Comparisons give `Bool`. How a target spells an operator is known to `codegen` and to the CPU path alone.

use std::hash::{Hash, Hasher};

use crate::dtype::{Class, DType};

/// Declares an operator enum once: variant, spelling in text forms.
macro_rules! operators {
    ($(#[$doc:meta])* $name:ident { $($(#[$row:meta])* $variant:ident $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$row])* $variant),+ }
        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
            pub fn parse(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|it| it.name() == name)
            }
        }
    };
}

operators! {
    UnaryOp {
        Neg "neg";
        Abs "abs";
        Sign "sign";
        Exp "exp";
        Log "log";
        Sqrt "sqrt";
        Rsqrt "rsqrt";
        Recip "recip";
        Sin "sin";
        Cos "cos";
        Tan "tan";
        Asin "asin";
        Acos "acos";
        Atan "atan";
        Sinh "sinh";
        Cosh "cosh";
        Tanh "tanh";
        Asinh "asinh";
        Acosh "acosh";
        Atanh "atanh";
        Erf "erf";
        Floor "floor";
        Ceil "ceil";
        /// Halfway cases to even.
        Round "round";
        Trunc "trunc";
        /// Logical not of a `Bool`, bitwise not of an integer.
        Not "not";
        IsNan "isnan";
        IsInf "isinf";
        Relu "relu";
        Sigmoid "sigmoid";
        Silu "silu";
        /// x/2 (1 + erf(x/sqrt 2)).
        Gelu "gelu";
        /// The tanh approximation of gelu.
        GeluTanh "gelu_tanh";
        /// x clamp(x+3, 0, 6) / 6.
        HardSwish "hardswish";
        /// log(1 + exp x).
        Softplus "softplus";
        /// Of 32 random bits (U32) a number (F32) of the normal distribution: `random::normal`.
        Normal "normal";
        /// The bits of a float as the unsigned integer of its width. NaNs may lose what tells them apart.
        ToBits "to_bits";
        /// The float (F16, F32 or F64) that has the bits of an unsigned integer.
        FromBits "from_bits";
    }
}

operators! {
    BinaryOp {
        Add "add";
        Sub "sub";
        Mul "mul";
        /// Integers: towards zero; by zero gives 0.
        Div "div";
        /// Remainder with the sign of the dividend (C's fmod and %).
        Rem "rem";
        /// Remainder with the sign of the divisor (Python's %).
        Mod "mod";
        Pow "pow";
        /// NaN if either is NaN.
        Max "max";
        /// NaN if either is NaN.
        Min "min";
        Atan2 "atan2";
        And "and";
        Or "or";
        Xor "xor";
        Shl "shl";
        Shr "shr";
        Eq "eq";
        Ne "ne";
        Lt "lt";
        Le "le";
        Gt "gt";
        Ge "ge";
    }
}

operators! {
    ReduceOp {
        Sum "sum";
        Prod "prod";
        Max "max";
        Min "min";
    }
}

/// One element: a float of any width as `f64`, an integer or `Bool` as its bits in `i64`.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    Float(f64),
    Int(i64),
}

impl UnaryOp {
    /// The result's type for an operand of type `of`, or `None` where the operator has no meaning.
    pub const fn result(self, of: DType) -> Option<DType> {
        match self {
            UnaryOp::IsNan | UnaryOp::IsInf => Some(DType::Bool),
            UnaryOp::Normal => match of {
                DType::U32 => Some(DType::F32),
                _ => None,
            },
            UnaryOp::ToBits => match of {
                DType::F16 | DType::BF16 => Some(DType::U16),
                DType::F32 => Some(DType::U32),
                DType::F64 => Some(DType::U64),
                _ => None,
            },
            UnaryOp::FromBits => match of {
                DType::U16 => Some(DType::F16),
                DType::U32 => Some(DType::F32),
                DType::U64 => Some(DType::F64),
                _ => None,
            },
            UnaryOp::Not => match of.class() {
                Class::Float => None,
                Class::Bool | Class::Signed | Class::Unsigned => Some(of),
            },
            UnaryOp::Neg
            | UnaryOp::Abs
            | UnaryOp::Sign
            | UnaryOp::Relu
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Round
            | UnaryOp::Trunc => match of.class() {
                Class::Bool => None,
                Class::Signed | Class::Unsigned | Class::Float => Some(of),
            },
            _ => match of.class() {
                Class::Float => Some(of),
                Class::Bool | Class::Signed | Class::Unsigned => None,
            },
        }
    }

    /// Whether one evaluation costs more than a handful of machine instructions.
    pub const fn is_costly(self) -> bool {
        !matches!(
            self,
            UnaryOp::Neg
                | UnaryOp::Abs
                | UnaryOp::Sign
                | UnaryOp::Floor
                | UnaryOp::Ceil
                | UnaryOp::Round
                | UnaryOp::Trunc
                | UnaryOp::Not
                | UnaryOp::IsNan
                | UnaryOp::IsInf
                | UnaryOp::Relu
                | UnaryOp::ToBits
                | UnaryOp::FromBits
        )
    }
}

impl BinaryOp {
    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge
        )
    }

    /// The result's type for operands of type `of`, or `None` where the operator has no meaning.
    pub const fn result(self, of: DType) -> Option<DType> {
        if self.is_comparison() {
            return Some(DType::Bool);
        }
        match (self, of.class()) {
            (BinaryOp::And | BinaryOp::Or | BinaryOp::Xor, Class::Float) => None,
            (BinaryOp::And | BinaryOp::Or | BinaryOp::Xor, _) => Some(of),
            (BinaryOp::Shl | BinaryOp::Shr, Class::Signed | Class::Unsigned) => Some(of),
            (BinaryOp::Shl | BinaryOp::Shr, _) => None,
            (BinaryOp::Atan2, Class::Float) => Some(of),
            (BinaryOp::Atan2, _) => None,
            (BinaryOp::Max | BinaryOp::Min, _) => Some(of),
            (_, Class::Bool) => None,
            (_, _) => Some(of),
        }
    }
}

impl ReduceOp {
    /// The value that changes nothing, for elements of type `of`.
    pub fn identity(self, of: DType) -> Scalar {
        match (self, of.class()) {
            (ReduceOp::Sum, Class::Float) => Scalar::Float(0.0),
            (ReduceOp::Prod, Class::Float) => Scalar::Float(1.0),
            (ReduceOp::Max, Class::Float) => Scalar::Float(f64::NEG_INFINITY),
            (ReduceOp::Min, Class::Float) => Scalar::Float(f64::INFINITY),
            (ReduceOp::Sum, _) => Scalar::Int(0),
            (ReduceOp::Prod, _) => Scalar::Int(1),
            (ReduceOp::Max, _) => Scalar::Int(int_range(of).0),
            (ReduceOp::Min, _) => Scalar::Int(int_range(of).1),
        }
    }

    /// The operator that joins two partial results.
    pub const fn combine(self) -> BinaryOp {
        match self {
            ReduceOp::Sum => BinaryOp::Add,
            ReduceOp::Prod => BinaryOp::Mul,
            ReduceOp::Max => BinaryOp::Max,
            ReduceOp::Min => BinaryOp::Min,
        }
    }
}

/// Smallest and largest value of an integer type or `Bool`, as stored in `Scalar::Int`. For `U64` the order is that
/// of the bits read as unsigned: (0, -1).
pub const fn int_range(of: DType) -> (i64, i64) {
    match of {
        DType::Bool => (0, 1),
        DType::I8 => (i8::MIN as i64, i8::MAX as i64),
        DType::U8 => (0, u8::MAX as i64),
        DType::I16 => (i16::MIN as i64, i16::MAX as i64),
        DType::U16 => (0, u16::MAX as i64),
        DType::I32 => (i32::MIN as i64, i32::MAX as i64),
        DType::U32 => (0, u32::MAX as i64),
        DType::U64 => (0, -1),
        DType::I4 => (-8, 7),
        DType::U4 => (0, 15),
        DType::I2 => (-2, 1),
        DType::U2 => (0, 3),
        DType::I64 | DType::F16 | DType::BF16 | DType::F32 | DType::F64 => (i64::MIN, i64::MAX),
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
            (i64::MIN, i64::MAX)
        }
    }
}

impl Scalar {
    /// `value` as an element of `dtype`, rounded or wrapped to it.
    pub fn of(dtype: DType, value: f64) -> Scalar {
        Scalar::Float(value).cast(DType::F64, dtype)
    }

    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(it) => it,
            Scalar::Int(it) => it as f64,
        }
    }

    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::Float(it) => it as i64,
            Scalar::Int(it) => it,
        }
    }

    pub fn as_bool(self) -> bool {
        match self {
            Scalar::Float(it) => it != 0.0,
            Scalar::Int(it) => it != 0,
        }
    }
}

impl PartialEq for Scalar {
    /// By bits, so that NaN equals itself and -0.0 differs from 0.0.
    fn eq(&self, other: &Scalar) -> bool {
        match (self, other) {
            (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits(),
            (Scalar::Int(a), Scalar::Int(b)) => a == b,
            (Scalar::Float(_), Scalar::Int(_)) | (Scalar::Int(_), Scalar::Float(_)) => false,
        }
    }
}

impl Eq for Scalar {}

impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Scalar::Float(it) => (0u8, it.to_bits()).hash(state),
            Scalar::Int(it) => (1u8, *it).hash(state),
        }
    }
}
