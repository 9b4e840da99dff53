//! The CPU path: runs a schedule's kernels over host memory.
//!
//! In: a kernel and, at each run, the memory of its tensors. Everything that can be known beforehand is worked out once, by
//! `prepare`; `run` computes. Results do not depend on the number of threads. Elements are computed in their own types;
//! 16-bit floats in f32 and rounded.

mod attention;
mod contract;
mod exec;
mod finish;
mod levels;
mod loops;
mod map;
mod program;
mod rows;
mod scratch;
mod side;
mod vector;
mod walk;

use wgfuse_compiler::{
    bug,
    lower::{Body, TensorId},
    schedule::kernel::{Kernel, Skeleton, Store},
    shape::Type,
};

use attention::Attention;
use contract::Contract;
use map::Map;
use rows::Rows;
use walk::Space;

/// Host memory of one of a kernel's tensors: dense, row-major, aligned to 64 bytes.
#[derive(Clone, Debug)]
pub struct Operand {
    pub ty: Type,
    pub data: *mut u8,
    /// In bytes.
    pub len: usize,
}

// SAFETY: only an address; `run` states what it may be used for.
unsafe impl Send for Operand {}
unsafe impl Sync for Operand {}

/// A kernel, ready to run on the CPU.
pub struct Prepared {
    /// Bytes of each tensor.
    sizes: Vec<usize>,
    form: Form,
}

enum Form {
    Map(Map),
    Rows(Rows),
    Contract(Box<Contract>),
    Attention(Box<Attention>),
}

/// What every skeleton is prepared from.
struct Parts<'a> {
    body: &'a Body,
    stores: &'a [Store],
    tensors: &'a [TensorId],
    types: &'a [Type],
    space: &'a Space,
}

/// Everything about `kernel` that does not depend on values. `types` are those of `kernel.tensors`.
pub fn prepare(kernel: &Kernel, types: &[Type]) -> Prepared {
    if kernel.tensors.len() != types.len() {
        bug!("{}: one type a tensor", kernel.name);
    }
    let extents = kernel.skeleton.extents();
    let indices = levels::indices(&kernel.body, &kernel.stores, &kernel.tensors, types);
    let space = Space::new(&extents, indices.iter());
    let (body, stores, tensors) = (&kernel.body, &kernel.stores[..], &kernel.tensors[..]);
    let parts = Parts { body, stores, tensors, types, space: &space };
    let form = match &kernel.skeleton {
        Skeleton::Map { space, .. } => Form::Map(Map::new(&parts, space)),
        Skeleton::Rows { outer, inner, stages, form: _ } => {
            Form::Rows(Rows::new(&parts, outer, inner, stages))
        }
        Skeleton::Contract { others, .. } if !others.is_empty() => bug!("{}: several products", kernel.name),
        Skeleton::Contract { space, depth, batch, rows, cols, a, b, others: _, sums, tile: _ } => {
            match Contract::new(&parts, depth, [batch, rows, cols], [*a, *b]) {
                Some(contract) if sums.is_empty() => Form::Contract(Box::new(contract)),
                Some(_) | None => Form::Rows(contract::as_rows(&parts, space, depth, [*a, *b], sums)),
            }
        }
        Skeleton::Attention { .. } => Form::Attention(Box::new(Attention::new(&parts, &kernel.skeleton))),
    };
    Prepared { sizes: types.iter().map(Type::bytes).collect(), form }
}

/// Runs a kernel.
///
/// # Safety
/// `operands` are those of the kernel's tensors, in their order, with the types given to `prepare`. Each `data` points to
/// the bytes of its type, aligned to 64. Nothing else writes to any of them meanwhile, nor reads those that are written;
/// those written overlap no other.
pub unsafe fn run(prepared: &Prepared, operands: &[Operand]) {
    let fits = operands.len() == prepared.sizes.len()
        && operands.iter().zip(&prepared.sizes).all(|(operand, size)| operand.len >= *size);
    if !fits {
        bug!("a kernel's operands do not have the sizes it was prepared for");
    }
    unsafe {
        match &prepared.form {
            Form::Map(map) => map.run(operands),
            Form::Rows(rows) => rows.run(operands),
            Form::Contract(contract) => contract.run(operands),
            Form::Attention(attention) => attention.run(operands),
        }
    }
}
