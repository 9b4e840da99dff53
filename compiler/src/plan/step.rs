//! The plan: numbers and kernels. It is what is captured, and all that the runtime knows of a model.
//!
//! Device form of a tensor on the GPU: dense, row-major; f32, i32 and u32 one a word; `Bool` one a word, 0 or 1; I64 and
//! narrower integers as i32 one a word (U8, U16, U32, U64 as u32); f16 and bf16 two a word, low half first, padded to a whole
//! word. On the host every tensor has its own dtype's bytes, dense and row-major.

use std::sync::Arc;

use slotmap::SlotMap;

pub use crate::codegen::device_bytes;
use crate::{
    codegen::Shader,
    graph::{Graph, Value, random::KEY},
    lower::{TensorId, TensorInfo},
    partition::CpuReason,
    schedule::Kernel,
    shape::Type,
    target::{Place, Target},
};

use super::{computed, work};

/// Position in `Plan::buffers`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BufferId(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum BufferRole {
    /// Constants; the same for every run and every plan of a session that names the same constants.
    Weights,
    /// Everything that lives within one run.
    Activations,
    Inputs,
    Outputs,
    /// What stays from one run to the next, shared by the plans of a session. All buffers of states of one place are the same
    /// in every plan of one model for one target and the same types.
    State,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    pub place: Place,
    pub role: BufferRole,
    pub size: u64,
}

/// Bytes of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slice {
    pub buffer: BufferId,
    pub offset: u64,
    pub len: u64,
}

/// A tensor that enters or leaves, or is a constant, and where it lies. One that enters lies wherever it is needed, maybe
/// nowhere; one that leaves lies on one side at least, and where it is an input or a constant its slices are theirs.
#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    pub name: String,
    /// As the model states it.
    pub ty: Type,
    /// `None` for an input that nothing reads.
    pub tensor: Option<TensorId>,
    pub device: Option<Slice>,
    pub host: Option<Slice>,
}

/// A constant that kernels read. Its value is that of `value` in `Plan::constant_graph`.
#[derive(Clone, PartialEq, Debug)]
pub struct Constant {
    /// Equal keys mean equal values, in every plan made from one model.
    pub key: u128,
    pub value: Value,
    pub port: Port,
}

#[derive(Clone, Debug)]
pub struct PlanKernel {
    pub kernel: Arc<Kernel>,
    /// Those of `Kernel::tensors`.
    pub types: Vec<Type>,
    /// Present exactly for kernels on the GPU.
    pub shader: Option<Shader>,
    /// Bytes read and written, each tensor once, and of a tensor no more than there are reads.
    pub bytes: u64,
    /// Floating-point operations; a multiply-add counts two, a function of one argument one.
    pub flops: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// `bindings[i]` is for `Shader::bindings[i]`. With `barrier`, everything before is complete and visible; so it is
    /// for the first dispatch and for every one that follows another kind of step.
    Dispatch { kernel: usize, bindings: Vec<Slice>, groups: [u32; 3], barrier: bool },
    /// `tensors[i]` is the host memory of `Kernel::tensors[i]`.
    Host { kernel: usize, tensors: Vec<Slice> },
    /// Device to host: from the device form to the host's bytes.
    Download { tensor: TensorId, ty: Type, from: Slice, to: Slice },
    /// Host to device.
    Upload { tensor: TensorId, ty: Type, from: Slice, to: Slice },
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    /// What kernels name.
    pub tensors: SlotMap<TensorId, TensorInfo>,
    pub buffers: Vec<Buffer>,
    /// One an input of the model that is no state, in order.
    pub inputs: Vec<Port>,
    /// One an output of the model that no state becomes, in order.
    pub outputs: Vec<Port>,
    /// What enters each state, and is overwritten by what it becomes: it lies on one side, or nowhere if nothing needs it. Its
    /// name is that of the input.
    pub states: Vec<Port>,
    /// What each state becomes.
    pub becoming: Vec<TensorId>,
    /// Those that are read.
    pub constants: Vec<Constant>,
    /// Computes the constants from the model's weights. It has no inputs.
    pub constant_graph: Graph,
    pub kernels: Vec<PlanKernel>,
    pub steps: Vec<Step>,
    /// Parts that run on the CPU although the target is a GPU: node and reason.
    pub cpu_parts: Vec<(Arc<str>, CpuReason)>,
    /// Largest sum of bytes of activations that are live at one step, each rounded up to the alignment that it needs
    /// anyway; of each place by itself, added.
    pub live_peak: u64,
    /// Fusions considered and not done.
    pub refusals: Vec<crate::schedule::Refusal>,
}

impl Plan {
    /// Operations on elements of one run and of computing the constants, whatever their types: about what bounds the time.
    pub fn work(&self) -> u64 {
        let constants = computed::work(&self.constant_graph);
        self.kernels.iter().map(|it| work::work(&it.kernel)).fold(constants, u64::saturating_add)
    }

    /// Bytes of all buffers of this role, on both places.
    pub fn bytes(&self, role: BufferRole) -> u64 {
        self.buffers.iter().filter(|it| it.role == role).map(|it| it.size).sum()
    }

    /// Number of the input that is the key of random ops, if there are any: the session fills it.
    pub fn random_key(&self) -> Option<usize> {
        self.inputs.iter().position(|it| it.name == KEY)
    }

    /// Steps that launch something on the GPU.
    pub fn dispatches(&self) -> usize {
        self.steps.iter().filter(|it| matches!(it, Step::Dispatch { .. })).count()
    }

    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }
}

impl Slice {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    pub fn overlaps(&self, other: &Slice) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }
}

/// Bytes of `ty` as it lies in the memory of `place`.
pub fn bytes_on(place: Place, ty: &Type) -> u64 {
    match place {
        Place::Gpu => device_bytes(ty),
        Place::Cpu => ty.bytes() as u64,
    }
}

/// Slices of a buffer of `place` start at multiples of this: on the GPU, of the largest vector too that is read at once.
pub fn alignment_on(place: Place, target: &Target) -> u64 {
    match place {
        Place::Gpu => target.offset_alignment.max(16),
        Place::Cpu => 64,
    }
}
