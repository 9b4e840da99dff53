//! Element types, shared by every stage.

use std::fmt;

/// The type of a tensor's elements, as the model states it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DType {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    BF16,
    F32,
    F64,
    /// Integers of four and of two bits, a byte each on the host.
    I4,
    U4,
    I2,
    U2,
    /// Floats of eight bits: exponent and mantissa of four and three, and five and two, bits.
    F8E4M3,
    F8E5M2,
    /// The same without infinities and negative zero.
    F8E4M3Z,
    F8E5M2Z,
    /// A power of two without a sign.
    F8E8M0,
    /// A float of four bits (e2m1), a byte each on the host.
    F4,
}

/// What arithmetic on a type is done in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Bool,
    Signed,
    Unsigned,
    Float,
}

impl DType {
    pub const ALL: [DType; 23] = [
        DType::Bool,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
        DType::I4,
        DType::U4,
        DType::I2,
        DType::U2,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::F8E4M3Z,
        DType::F8E5M2Z,
        DType::F8E8M0,
        DType::F4,
    ];

    /// Bytes of one element on the host.
    pub const fn size(self) -> usize {
        match self {
            DType::Bool | DType::I8 | DType::U8 => 1,
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => 1,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => 1,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
        }
    }

    /// Elements in a 32-bit word of a device's memory.
    pub const fn per_word(self) -> u64 {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::Bool
            | DType::I8
            | DType::U8
            | DType::I16
            | DType::U16
            | DType::I32
            | DType::U32
            | DType::I64
            | DType::U64
            | DType::F32
            | DType::F64
            | DType::I4
            | DType::U4
            | DType::I2
            | DType::U2
            | DType::F8E4M3
            | DType::F8E5M2
            | DType::F8E4M3Z
            | DType::F8E5M2Z
            | DType::F8E8M0
            | DType::F4 => 1,
        }
    }

    /// Whether GPUs hold such elements: they have no 64-bit floats, and nothing as small as 2^-127.
    pub const fn has_device_form(self) -> bool {
        !matches!(self, DType::F64 | DType::F8E8M0)
    }

    /// Bits of an element where files and ONNX pack several into a byte.
    pub const fn bits(self) -> usize {
        match self {
            DType::I2 | DType::U2 => 2,
            DType::I4 | DType::U4 | DType::F4 => 4,
            _ => self.size() * 8,
        }
    }

    /// Whether it is a float whose arithmetic is done in f32 and rounded.
    pub const fn is_narrow_float(self) -> bool {
        matches!(self.class(), Class::Float) && self.size() < 4
    }

    pub const fn class(self) -> Class {
        match self {
            DType::Bool => Class::Bool,
            DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => Class::Signed,
            DType::U2 | DType::U4 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => Class::Unsigned,
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => Class::Float,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
                Class::Float
            }
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self.class(), Class::Float)
    }

    pub const fn is_int(self) -> bool {
        matches!(self.class(), Class::Signed | Class::Unsigned)
    }

    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I16 => "i16",
            DType::U16 => "u16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::U64 => "u64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::I2 => "i2",
            DType::U2 => "u2",
            DType::F8E4M3 => "f8e4m3fn",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E4M3Z => "f8e4m3fnuz",
            DType::F8E5M2Z => "f8e5m2fnuz",
            DType::F8E8M0 => "f8e8m0",
            DType::F4 => "f4e2m1",
        }
    }

    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
