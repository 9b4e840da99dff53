//! Element types as the device sees them: how a dtype computes and how it lies in a buffer.

use crate::{
    dtype::{Class, DType},
    shape::Type,
};

/// What a value is computed in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    F32,
    I32,
    U32,
    Bool,
}

/// How an element lies in a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// A word an element.
    Whole,
    /// Two elements a word, the first in the low half.
    F16,
    /// The same.
    BF16,
}

impl Word {
    /// What `dtype` computes in. `F64` has no such type: it never runs here.
    pub fn of(dtype: DType) -> Word {
        match dtype.class() {
            Class::Bool => Word::Bool,
            Class::Signed => Word::I32,
            Class::Unsigned => Word::U32,
            Class::Float => Word::F32,
        }
    }

    /// The type of the buffer's words.
    pub fn stored(dtype: DType) -> Word {
        match (Storage::of(dtype), Word::of(dtype)) {
            (Storage::F16 | Storage::BF16, _) | (Storage::Whole, Word::Bool) => Word::U32,
            (Storage::Whole, it) => it,
        }
    }

    pub fn scalar(self) -> naga::Scalar {
        match self {
            Word::F32 => naga::Scalar::F32,
            Word::I32 => naga::Scalar::I32,
            Word::U32 => naga::Scalar::U32,
            Word::Bool => naga::Scalar::BOOL,
        }
    }

    /// The suffix of the names of library functions.
    pub fn name(self) -> &'static str {
        match self {
            Word::F32 => "f32",
            Word::I32 => "i32",
            Word::U32 => "u32",
            Word::Bool => "bool",
        }
    }
}

impl Storage {
    pub fn of(dtype: DType) -> Storage {
        match dtype {
            DType::F16 => Storage::F16,
            DType::BF16 => Storage::BF16,
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
            | DType::F64 => Storage::Whole,
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => Storage::Whole,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
                Storage::Whole
            }
        }
    }
}

/// Bytes of the device form of `ty`: a multiple of 4, at least 4.
pub fn device_bytes(ty: &Type) -> u64 {
    let count = ty.shape.count() as u64;
    let words = match ty.dtype {
        DType::F64 => count * 2,
        it => count.div_ceil(it.per_word()),
    };
    4 * words.max(1)
}
