//! Kernels on the processor.

use wgfuse_compiler::{bug, schedule::Kernel, shape::Type};

/// Host memory of one kernel's tensors, in the order of `Kernel::tensors`; those it writes are listed in `Kernel::stores`.
pub struct Operand {
    pub ty: Type,
    pub data: *mut u8,
    pub len: usize,
}

// SAFETY: a pointer to memory that the tape owns.
unsafe impl Send for Operand {}

pub struct Prepared {
    name: String,
}

pub fn prepare(kernel: &Kernel, _types: &[Type]) -> Prepared {
    Prepared { name: kernel.name.clone() }
}

/// # Safety
/// Operands lead to memory of their lengths that nothing else uses meanwhile.
pub unsafe fn run(prepared: &Prepared, _operands: &[Operand]) {
    bug!("kernel {} has no CPU path", prepared.name)
}
