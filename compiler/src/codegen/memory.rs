//! The tensors of a kernel as storage buffers: bindings, loads and stores of elements and of units.
//!
//! A *unit* is what one access takes: a word, or a vector of words where the kernel's neighbours allow it
//! (`schedule::Lanes`). A tensor that is larger than a binding may be is bound in consecutive parts of whole units. Tensors
//! of 16-bit floats that are not written in whole units hold atomic words, because two elements share a word.

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
    schedule::{
        AttentionTile, Kernel, Skeleton, Tile,
        lanes::{self, Walk},
    },
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
    /// Elements of a unit.
    pub unit: u64,
    pub written: bool,
    /// Every store is of a whole unit.
    pub whole: bool,
    /// Words of a unit: 1, 2 or 4.
    width: u32,
    /// A unit is a vector of four f16 rather than of words.
    halves: bool,
    parts: Vec<Part>,
    atomic: bool,
}

struct Part {
    variable: naga::Handle<naga::GlobalVariable>,
    /// The part holds units `first..end` of the tensor.
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
        let walks = lanes::walks(kernel);
        // Fours that go on to matrices of f16 are never made f32 in between; eights are packed again, which changes no value.
        let cooperative = matches!(
            kernel.skeleton,
            Skeleton::Contract { tile: Tile::Cooperative { parts: 1, .. }, .. }
                | Skeleton::Attention { tile: AttentionTile::Cooperative(_), .. }
        );
        for &tensor in &kernel.tensors {
            let info = &tensors[tensor];
            let dtype = info.ty.dtype;
            if !dtype.has_device_form() {
                return Err(Error::unsupported(dtype.name(), &*info.origin, "shaders have no such numbers"));
            }
            let bytes = device_bytes(&info.ty);
            if bytes / 4 > u32::MAX as u64 || info.ty.shape.count() as u64 > u32::MAX as u64 {
                let at = format!("bytes of the tensor of node '{}'", info.origin);
                return Err(Error::TooLarge { at, need: bytes, have: u32::MAX as u64 * 4 });
            }
            let written = kernel.stores.iter().any(|it| it.tensor == tensor);
            let width = lanes::width(kernel, &walks, tensor, info);
            let unit = width as u64 * dtype.per_word();
            let covers = |it: &Walk| it.writes && it.lanes.covers(kernel, tensor, &info.ty.shape, unit);
            let whole = written && unit > 1 && walks.iter().any(covers);
            let atomic = written && unit > 1 && !whole;
            let halves = cooperative && !written && dtype == DType::F16 && width == 2;
            let step = match bytes <= target.max_binding_size {
                true => bytes,
                false => {
                    let unit = target.offset_alignment.next_multiple_of(16);
                    (target.max_binding_size / unit * unit).max(unit)
                }
            };
            let mut parts = Vec::new();
            let mut offset = 0;
            while offset < bytes {
                let len = step.min(bytes - offset);
                let number = memory.bindings.len() as u32;
                let variable = match halves {
                    true => writer.storage_of_halves(number),
                    false => writer.storage(number, Word::stored(dtype), width, atomic),
                };
                let at = |bytes: u64| (bytes / (4 * width as u64)) as u32;
                parts.push(Part { variable, first: at(offset), end: at(offset + len) });
                memory.bindings.push(Binding { tensor, offset, len });
                offset += len;
            }
            let held = Held {
                dtype,
                shape: info.ty.shape.clone(),
                unit,
                written,
                whole,
                width,
                halves,
                parts,
                atomic,
            };
            memory.tensors.insert(tensor, held);
        }
        if memory.bindings.len() > target.max_storage_buffers as usize {
            return Err(Error::TooLarge {
                at: format!("storage buffers of kernel '{}'", kernel.name),
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
        if held.halves {
            let (two, three) = (code.u32(2), code.u32(3));
            let unit = code.binary(BinaryOperator::ShiftRight, at, two);
            let number = code.binary(BinaryOperator::And, at, three);
            let half = held.load_unit(code, unit, &mut |code, pointer| {
                let half = code.element(pointer, number);
                code.load(half)
            });
            return code.convert(half, Word::F32);
        }
        let storage = Storage::of(held.dtype);
        let word = match storage {
            Storage::Whole => at,
            Storage::F16 | Storage::BF16 => {
                let one = code.u32(1);
                code.binary(BinaryOperator::ShiftRight, at, one)
            }
        };
        let word = held.load_word(code, word);
        match storage {
            Storage::Whole => held.decoded(code, word),
            Storage::F16 | Storage::BF16 => {
                let shift = lane_shift(code, at);
                let low = code.binary(BinaryOperator::ShiftRight, word, shift);
                held.decoded(code, low)
            }
        }
    }

    /// Unit number `at` of `tensor`, a u32 in bounds, for `element`.
    pub fn load_unit(&self, code: &mut Code, tensor: TensorId, at: Handle) -> Handle {
        self.held(tensor).load_unit(code, at, &mut |code, pointer| code.load(pointer))
    }

    /// The type of a unit of `tensor`.
    pub fn unit_type(&self, writer: &mut Writer, tensor: TensorId) -> naga::Handle<naga::Type> {
        let held = self.held(tensor);
        if held.halves { writer.halves() } else { writer.words(Word::stored(held.dtype), held.width) }
    }

    /// A variable of the function for a unit of `tensor`, which is read in words.
    pub fn local_unit(&self, code: &mut Code, tensor: TensorId) -> Handle {
        let held = self.held(tensor);
        if held.halves {
            bug!("a unit of halves is kept");
        }
        code.locals("unit", Word::stored(held.dtype), held.width)
    }

    /// Element number `number` of a unit.
    pub fn element(&self, code: &mut Code, tensor: TensorId, unit: Handle, number: u64) -> Handle {
        let held = self.held(tensor);
        if held.halves {
            let half = code.component(unit, number as u32);
            return code.convert(half, Word::F32);
        }
        let per_word = held.dtype.per_word();
        let word = match held.width {
            1 => unit,
            _ => code.component(unit, (number / per_word) as u32),
        };
        match (Storage::of(held.dtype), number % per_word) {
            (Storage::F16, half) => {
                let pair = code.math(MathFunction::Unpack2x16float, &[word]);
                code.component(pair, half as u32)
            }
            (Storage::BF16, 1) => {
                let high = code.u32(0xffff_0000);
                let bits = code.binary(BinaryOperator::And, word, high);
                code.bitcast(bits, ScalarKind::Float)
            }
            (Storage::Whole | Storage::BF16, _) => held.decoded(code, word),
        }
    }

    /// Unit number `at` of `tensor` becomes `values`, which are of the tensor's dtype.
    pub fn store_unit(&self, code: &mut Code, tensor: TensorId, at: Handle, values: &[Handle]) {
        let held = self.held(tensor);
        if !held.whole || values.len() as u64 != held.unit {
            bug!("a unit is stored in parts");
        }
        let words = match Storage::of(held.dtype) {
            Storage::Whole => values.iter().map(|&it| held.encoded(code, it)).collect(),
            Storage::F16 => (values.chunks_exact(2))
                .map(|it| {
                    let pair = code.vector(Word::F32, it.to_vec());
                    code.math(MathFunction::Pack2x16float, &[pair])
                })
                .collect(),
            Storage::BF16 => (values.chunks_exact(2))
                .map(|it| {
                    let (low, high) = (bf16_bits(code, it[0]), bf16_bits(code, it[1]));
                    let sixteen = code.u32(16);
                    let high = code.binary(BinaryOperator::ShiftLeft, high, sixteen);
                    code.binary(BinaryOperator::InclusiveOr, low, high)
                })
                .collect(),
        };
        let unit = code.vector(Word::stored(held.dtype), words);
        held.at_unit(code, at, &mut |code, pointer| code.store(pointer, unit));
    }

    /// Element number `at` of `tensor` becomes `value`, which is of the tensor's dtype.
    pub fn store(&self, code: &mut Code, tensor: TensorId, at: Handle, value: Handle) {
        let held = self.held(tensor);
        if held.width > 1 {
            bug!("a part of a vector is stored");
        }
        let bits = match Storage::of(held.dtype) {
            Storage::Whole => {
                let word = held.encoded(code, value);
                return held.at_unit(code, at, &mut |code, pointer| code.store(pointer, word));
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
        held.at_unit(code, word, &mut |code, pointer| {
            for (fun, value) in [(AtomicFunction::And, keep), (AtomicFunction::InclusiveOr, bits)] {
                code.stmt(Statement::Atomic { pointer, fun, value, result: None });
            }
        });
    }
}

impl Held {
    /// Word number `at`.
    fn load_word(&self, code: &mut Code, at: Handle) -> Handle {
        if self.width == 1 {
            return self.load_unit(code, at, &mut |code, pointer| code.load(pointer));
        }
        let places = code.u32(self.width.trailing_zeros());
        let mask = code.u32(self.width - 1);
        let unit = code.binary(BinaryOperator::ShiftRight, at, places);
        let number = code.binary(BinaryOperator::And, at, mask);
        self.load_unit(code, unit, &mut |code, pointer| {
            let word = code.element(pointer, number);
            code.load(word)
        })
    }

    /// What `load` makes of the pointer to unit `at`.
    fn load_unit(
        &self,
        code: &mut Code,
        at: Handle,
        load: &mut dyn FnMut(&mut Code, Handle) -> Handle,
    ) -> Handle {
        let mut value = None;
        for part in &self.parts {
            let array = code.global(part.variable);
            if self.parts.len() == 1 {
                let pointer = code.element(array, at);
                return load(code, pointer);
            }
            let (inside, local) = part.locate(code, at);
            let zero = code.u32(0);
            let local = code.select(inside, local, zero);
            let pointer = code.element(array, local);
            let found = load(code, pointer);
            value = Some(match value {
                None => found,
                Some(before) => code.select(inside, found, before),
            });
        }
        value.unwrap_or_else(|| bug!("a tensor has no part"))
    }

    /// Runs `act` with a pointer to unit `at`.
    fn at_unit(&self, code: &mut Code, at: Handle, act: &mut dyn FnMut(&mut Code, Handle)) {
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

    /// The element in the low bits of `word`.
    fn decoded(&self, code: &mut Code, word: Handle) -> Handle {
        match (Storage::of(self.dtype), Word::of(self.dtype)) {
            (Storage::Whole, Word::Bool) => {
                let zero = code.u32(0);
                code.binary(BinaryOperator::NotEqual, word, zero)
            }
            (Storage::Whole, Word::F32 | Word::I32 | Word::U32) => word,
            (Storage::F16, _) => {
                let pair = code.math(MathFunction::Unpack2x16float, &[word]);
                code.component(pair, 0)
            }
            (Storage::BF16, _) => {
                let sixteen = code.u32(16);
                let bits = code.binary(BinaryOperator::ShiftLeft, word, sixteen);
                code.bitcast(bits, ScalarKind::Float)
            }
        }
    }

    /// An element that has a word of its own.
    fn encoded(&self, code: &mut Code, value: Handle) -> Handle {
        match Word::of(self.dtype) {
            Word::Bool => code.convert(value, Word::U32),
            Word::F32 | Word::I32 | Word::U32 => value,
        }
    }
}

impl Part {
    /// Whether unit `at` of the tensor is in this part, and its number there.
    fn locate(&self, code: &mut Code, at: Handle) -> (Handle, Handle) {
        let first = code.u32(self.first);
        // Units before the part wrap around and so are not below its length.
        let local = code.binary(BinaryOperator::Subtract, at, first);
        let units = code.u32(self.end - self.first);
        (code.binary(BinaryOperator::Less, local, units), local)
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
    let pair = code.vector(Word::F32, vec![value, zero]);
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
