//! Runs schedules and single kernels by the CPU path.

use std::collections::BTreeMap;

use wgfuse::host::{self, Operand};
use wgfuse_compiler::{
    lower::{Definition, TensorId, TensorInfo},
    schedule::{Kernel, Schedule},
    shape::Type,
    tensor::Tensor,
};

/// Slots for tensors by id, in the order of insertion.
pub type Infos = slotmap::SlotMap<TensorId, TensorInfo>;

/// Bytes of one tensor, aligned to 64.
pub struct Memory {
    lines: Vec<[u64; 8]>,
    start: usize,
    ty: Type,
}

impl Memory {
    pub fn new(ty: &Type) -> Memory {
        let lines = vec![[0xAAAA_AAAA_AAAA_AAAAu64; 8]; ty.bytes().div_ceil(64) + 2];
        let start = (lines.as_ptr() as usize).next_multiple_of(64) - lines.as_ptr() as usize;
        Memory { lines, start, ty: ty.clone() }
    }

    pub fn of(tensor: &Tensor) -> Memory {
        let mut memory = Memory::new(tensor.ty());
        let len = tensor.data().len();
        memory.bytes()[..len].copy_from_slice(tensor.data());
        memory
    }

    fn bytes(&mut self) -> &mut [u8] {
        let (start, len) = (self.start, self.ty.bytes());
        &mut bytemuck::cast_slice_mut::<_, u8>(&mut self.lines)[start..start + len]
    }

    pub fn operand(&mut self) -> Operand {
        let len = self.ty.bytes();
        Operand { ty: self.ty.clone(), data: self.bytes().as_mut_ptr(), len }
    }

    pub fn tensor(&mut self) -> Tensor {
        let bytes = self.bytes().to_vec();
        Tensor::new(self.ty.clone(), bytes.into()).expect("as many bytes as the type has")
    }
}

/// Runs one kernel on `memory`, which holds every tensor that it reads.
pub fn run_kernel(kernel: &Kernel, infos: &Infos, memory: &mut BTreeMap<TensorId, Memory>) {
    let types: Vec<Type> = kernel.tensors.iter().map(|it| infos[*it].ty.clone()).collect();
    let prepared = host::prepare(kernel, &types);
    let operand = |id: &TensorId| memory.entry(*id).or_insert_with(|| Memory::new(&infos[*id].ty)).operand();
    let operands: Vec<Operand> = kernel.tensors.iter().map(operand).collect();
    // SAFETY: every operand is the memory of its tensor, borrowed for the duration of the call.
    unsafe { host::run(&prepared, &operands) };
}

/// The outputs of a schedule for the given inputs and constants of the partition.
pub fn run(schedule: &Schedule, inputs: &[Tensor], constants: &[Tensor]) -> Vec<Tensor> {
    let mut memory = BTreeMap::new();
    for (id, info) in &schedule.tensors {
        let tensor = match info.definition {
            Definition::Input(slot) => &inputs[slot as usize],
            Definition::Constant(number) => &constants[number as usize],
            Definition::Nest(_) => continue,
        };
        memory.insert(id, Memory::of(tensor));
    }
    for kernel in &schedule.kernels {
        run_kernel(kernel, &schedule.tensors, &mut memory);
    }
    schedule.outputs.iter().map(|id| memory.get_mut(id).expect("written").tensor()).collect()
}
