//! The tensors of a kernel as storage buffers: bindings, loads and stores of single elements.
//!
//! A tensor that is larger than a binding may be is bound in consecutive parts of whole words. Tensors of 16-bit
//! floats that are written hold atomic words, because two elements share a word.

use std::collections::HashMap;

use naga::{AtomicFunction, BinaryOperator, Block, MathFunction, ScalarKind, Statement};
use slotmap::SlotMap;

use super::{
    Binding,
    types::{Storage, Word, device_bytes},
    writer::{Code, Handle, Writer},
};
use crate::{
    bug,
    dtype::DType,
    error::Error,
    lower::{TensorId, TensorInfo},
    schedule::Kernel,
    target::Target,
};

#[derive(Default)]
pub struct Memory {
    pub bindings: Vec<Binding>,
    tensors: HashMap<TensorId, Held>,
}

pub struct Held {
    pub dtype: DType,
    pub shape: crate::shape::Shape,
    parts: Vec<Part>,
    atomic: bool,
}

struct Part {
    variable: naga::Handle<naga::GlobalVariable>,
    /// The part holds words `first..end` of the tensor.
    first: u32,
    end: u32,
}

impl Memory {
    /// Declares the buffers of `kernel` in the module.
    pub fn bind(
        writer: &mut Writer,
        kernel: &Kernel,
        tensors: &SlotMap<TensorId, TensorInfo>,
        target: &Target,
    ) -> Result<Memory, Error> {
        let mut memory = Memory::default();
        for &tensor in &kernel.tensors {
            let info = &tensors[tensor];
            let dtype = info.ty.dtype;
            if dtype == DType::F64 {
                return Err(Error::unsupported("f64", &*info.origin, "shaders have no 64-bit floats"));
            }
            let bytes = device_bytes(&info.ty);
            if bytes / 4 > u32::MAX as u64 || info.ty.shape.count() as u64 > u32::MAX as u64 {
                let at = format!("tensor of node '{}'", info.origin);
                return Err(Error::TooLarge { at, need: bytes, have: u32::MAX as u64 * 4 });
            }
            let atomic = Storage::of(dtype).lanes() > 1 && kernel.stores.iter().any(|it| it.tensor == tensor);
            let step = match bytes <= target.max_binding_size {
                true => bytes,
                false => {
                    let unit = target.offset_alignment.next_multiple_of(4);
                    (target.max_binding_size / unit * unit).max(unit)
                }
            };
            let mut parts = Vec::new();
            let mut offset = 0;
            while offset < bytes {
                let len = step.min(bytes - offset);
                let variable = writer.storage(memory.bindings.len() as u32, Word::stored(dtype), atomic);
                parts.push(Part { variable, first: (offset / 4) as u32, end: ((offset + len) / 4) as u32 });
                memory.bindings.push(Binding { tensor, offset, len });
                offset += len;
            }
            let held = Held { dtype, shape: info.ty.shape.clone(), parts, atomic };
            memory.tensors.insert(tensor, held);
        }
        if memory.bindings.len() > target.max_storage_buffers as usize {
            return Err(Error::TooLarge {
                at: format!("kernel '{}': storage buffers", kernel.name),
                need: memory.bindings.len() as u64,
                have: target.max_storage_buffers as u64,
            });
        }
        Ok(memory)
    }

    pub fn held(&self, tensor: TensorId) -> &Held {
        self.tensors.get(&tensor).unwrap_or_else(|| bug!("a kernel uses a tensor that it does not bind"))
    }

    /// Element number `at` of `tensor`, a u32 in bounds.
    pub fn load(&self, code: &mut Code, tensor: TensorId, at: Handle) -> Handle {
        let held = self.held(tensor);
        let storage = Storage::of(held.dtype);
        let word = match storage {
            Storage::Whole => held.load_word(code, at),
            Storage::F16 | Storage::BF16 => {
                let one = code.u32(1);
                let word = code.binary(BinaryOperator::ShiftRight, at, one);
                held.load_word(code, word)
            }
        };
        match (storage, Word::of(held.dtype)) {
            (Storage::Whole, Word::Bool) => {
                let zero = code.u32(0);
                code.binary(BinaryOperator::NotEqual, word, zero)
            }
            (Storage::Whole, _) => word,
            (Storage::F16, _) => {
                let shift = lane_shift(code, at);
                let low = code.binary(BinaryOperator::ShiftRight, word, shift);
                let pair = code.math(MathFunction::Unpack2x16float, &[low]);
                code.component(pair, 0)
            }
            (Storage::BF16, _) => {
                let shift = lane_shift(code, at);
                let low = code.binary(BinaryOperator::ShiftRight, word, shift);
                let sixteen = code.u32(16);
                let bits = code.binary(BinaryOperator::ShiftLeft, low, sixteen);
                code.bitcast(bits, ScalarKind::Float)
            }
        }
    }

    /// Element number `at` of `tensor` becomes `value`, which is of the tensor's dtype.
    pub fn store(&self, code: &mut Code, tensor: TensorId, at: Handle, value: Handle) {
        let held = self.held(tensor);
        let bits = match Storage::of(held.dtype) {
            Storage::Whole => {
                let word = match Word::of(held.dtype) {
                    Word::Bool => code.convert(value, Word::U32),
                    Word::F32 | Word::I32 | Word::U32 => value,
                };
                return held.at_word(code, at, &mut |code, pointer| code.store(pointer, word));
            }
            Storage::F16 => f16_bits(code, value),
            Storage::BF16 => bf16_bits(code, value),
        };
        if !held.atomic {
            bug!("16-bit elements are written in atomic words");
        }
        let shift = lane_shift(code, at);
        let bits = code.binary(BinaryOperator::ShiftLeft, bits, shift);
        let half = code.u32(0xffff);
        let mask = code.binary(BinaryOperator::ShiftLeft, half, shift);
        let keep = code.unary(naga::UnaryOperator::BitwiseNot, mask);
        let one = code.u32(1);
        let word = code.binary(BinaryOperator::ShiftRight, at, one);
        // Only this invocation writes this half, so nobody needs to see both steps as one.
        held.at_word(code, word, &mut |code, pointer| {
            for (fun, value) in [(AtomicFunction::And, keep), (AtomicFunction::InclusiveOr, bits)] {
                code.stmt(Statement::Atomic { pointer, fun, value, result: None });
            }
        });
    }
}

impl Held {
    fn load_word(&self, code: &mut Code, at: Handle) -> Handle {
        let mut value = None;
        for part in &self.parts {
            let array = code.global(part.variable);
            if self.parts.len() == 1 {
                let pointer = code.element(array, at);
                return code.load(pointer);
            }
            let (inside, local) = part.locate(code, at);
            let zero = code.u32(0);
            let local = code.select(inside, local, zero);
            let pointer = code.element(array, local);
            let found = code.load(pointer);
            value = Some(match value {
                None => found,
                Some(before) => code.select(inside, found, before),
            });
        }
        value.unwrap_or_else(|| bug!("a tensor has no part"))
    }

    /// Runs `act` with a pointer to word `at`.
    fn at_word(&self, code: &mut Code, at: Handle, act: &mut dyn FnMut(&mut Code, Handle)) {
        for part in &self.parts {
            let array = code.global(part.variable);
            if self.parts.len() == 1 {
                let pointer = code.element(array, at);
                return act(code, pointer);
            }
            let (inside, local) = part.locate(code, at);
            code.open();
            let pointer = code.element(array, local);
            act(code, pointer);
            let body = code.close();
            code.when(inside, body, Block::new());
        }
    }
}

impl Part {
    /// Whether word `at` of the tensor is in this part, and its number there.
    fn locate(&self, code: &mut Code, at: Handle) -> (Handle, Handle) {
        let first = code.u32(self.first);
        // Words before the part wrap around and so are not below its length.
        let local = code.binary(BinaryOperator::Subtract, at, first);
        let words = code.u32(self.end - self.first);
        (code.binary(BinaryOperator::Less, local, words), local)
    }
}

/// How far left of the low half element `at` lies.
fn lane_shift(code: &mut Code, at: Handle) -> Handle {
    let one = code.u32(1);
    let lane = code.binary(BinaryOperator::And, at, one);
    let four = code.u32(4);
    code.binary(BinaryOperator::ShiftLeft, lane, four)
}

fn f16_bits(code: &mut Code, value: Handle) -> Handle {
    let zero = code.f32(0.0);
    let pair = code.vec2(value, zero);
    code.math(MathFunction::Pack2x16float, &[pair])
}

/// To nearest, halfway cases to even; NaN stays NaN.
fn bf16_bits(code: &mut Code, value: Handle) -> Handle {
    let bits = code.bitcast(value, ScalarKind::Uint);
    let sixteen = code.u32(16);
    let high = code.binary(BinaryOperator::ShiftRight, bits, sixteen);
    let one = code.u32(1);
    let odd = code.binary(BinaryOperator::And, high, one);
    let half = code.u32(0x7fff);
    let up = code.binary(BinaryOperator::Add, bits, half);
    let up = code.binary(BinaryOperator::Add, up, odd);
    let rounded = code.binary(BinaryOperator::ShiftRight, up, sixteen);
    let nan = code.is_nan(value);
    let quiet = code.u32(0x7fc0);
    code.select(nan, quiet, rounded)
}

/// `value` as it is after a store in `storage` and a load.
pub fn rounded(code: &mut Code, storage: Storage, value: Handle) -> Handle {
    match storage {
        Storage::Whole => value,
        Storage::F16 => {
            let bits = f16_bits(code, value);
            let pair = code.math(MathFunction::Unpack2x16float, &[bits]);
            code.component(pair, 0)
        }
        Storage::BF16 => {
            let bits = bf16_bits(code, value);
            let sixteen = code.u32(16);
            let bits = code.binary(BinaryOperator::ShiftLeft, bits, sixteen);
            code.bitcast(bits, ScalarKind::Float)
        }
    }
}
