//! Every broken invariant of a plan:
//! - buffers, bindings, their number and workgroup counts keep the target's limits;
//! - slices lie inside their buffers, on the right place, aligned;
//! - what a step reads was written before (or entered) and is still there: no live bytes are shared;
//! - no step writes what it reads, nor inputs nor constants;
//! - dispatches that depend on each other have a barrier between them;
//! - outputs are there at the end, and in the memory of each state there is something of its size that was written, or what
//!   entered.

use super::step::{BufferRole, Plan, Port, Slice, Step, alignment_on, bytes_on};
use crate::{lower::TensorId, target::Place};

/// All faults, each naming its step.
pub fn verify(plan: &Plan) -> Vec<String> {
    let mut check =
        Check { plan, faults: Vec::new(), held: vec![Vec::new(); plan.buffers.len()], at: "buffers".into() };
    check.buffers();
    let entering = plan.inputs.iter().chain(plan.constants.iter().map(|it| &it.port)).chain(&plan.states);
    for port in entering {
        check.at = format!("port '{}'", port.name);
        check.port(port);
        for slice in port.device.iter().chain(&port.host) {
            check.hold(Piece { slice: *slice, tensor: port.tensor, offset: 0 });
        }
    }
    check.steps();
    for port in &plan.outputs {
        check.at = format!("output '{}'", port.name);
        check.port(port);
        if port.device.is_none() && port.host.is_none() {
            check.fault("lies nowhere");
        }
        for slice in port.device.iter().chain(&port.host) {
            check.read(Piece { slice: *slice, tensor: port.tensor, offset: 0 });
        }
    }
    for port in &plan.states {
        check.at = format!("state '{}'", port.name);
        for slice in port.device.iter().chain(&port.host) {
            check.stays(slice);
        }
    }
    check.faults
}

/// Bytes of a buffer that hold bytes of a tensor, from `offset` on.
#[derive(Clone, Copy)]
struct Piece {
    slice: Slice,
    tensor: Option<TensorId>,
    offset: u64,
}

struct Check<'a> {
    plan: &'a Plan,
    faults: Vec<String>,
    /// What each buffer holds.
    held: Vec<Vec<Piece>>,
    at: String,
}

impl Check<'_> {
    fn fault(&mut self, what: impl std::fmt::Display) {
        self.faults.push(format!("{}: {what}", self.at));
    }

    fn buffers(&mut self) {
        let limit = self.plan.target.max_buffer_size;
        for (number, buffer) in self.plan.buffers.iter().enumerate() {
            if buffer.place == Place::Gpu && buffer.size > limit {
                self.fault(format!("buffer {number} has {} bytes, {limit} are allowed", buffer.size));
            }
        }
    }

    fn slice(&mut self, slice: &Slice, place: Place) {
        let Some(buffer) = self.plan.buffers.get(slice.buffer.0 as usize) else {
            return self.fault(format!("{slice:?} is in no buffer"));
        };
        if buffer.place != place {
            self.fault(format!("{slice:?} is on the wrong place"));
        }
        if slice.offset.checked_add(slice.len).is_none_or(|end| end > buffer.size) {
            self.fault(format!("{slice:?} passes the end of its buffer, {}", buffer.size));
        }
        if !slice.offset.is_multiple_of(alignment_on(place, &self.plan.target)) {
            self.fault(format!("{slice:?} is not aligned"));
        }
    }

    fn port(&mut self, port: &Port) {
        for (slice, place) in [(port.device, Place::Gpu), (port.host, Place::Cpu)] {
            let Some(slice) = slice else { continue };
            self.slice(&slice, place);
            if slice.len != bytes_on(place, &port.ty) {
                self.fault(format!("{} has {} bytes", port.ty, slice.len));
            }
        }
    }

    fn hold(&mut self, piece: Piece) {
        if let Some(held) = self.held.get_mut(piece.slice.buffer.0 as usize) {
            held.push(piece);
        }
    }

    fn read(&mut self, piece: Piece) {
        let held = self.held.get(piece.slice.buffer.0 as usize).map(Vec::as_slice).unwrap_or_default();
        let same = |it: &&Piece| {
            it.tensor == piece.tensor
                && it.slice.offset.wrapping_sub(it.offset) == piece.slice.offset.wrapping_sub(piece.offset)
        };
        let mut parts: Vec<_> =
            held.iter().filter(same).map(|it| (it.slice.offset, it.slice.end())).collect();
        parts.sort_unstable();
        let reached = (parts.into_iter()).fold(piece.slice.offset, |reached, (start, end)| {
            if start <= reached { reached.max(end) } else { reached }
        });
        if reached < piece.slice.end() {
            self.fault(format!("reads {:?} at {:?}, which does not hold it", piece.tensor, piece.slice));
        }
    }

    /// The slice of a state is in a buffer of states and holds one tensor.
    fn stays(&mut self, slice: &Slice) {
        let Some(buffer) = self.plan.buffers.get(slice.buffer.0 as usize) else { return };
        if buffer.role != BufferRole::State {
            self.fault(format!("{slice:?} is in no buffer of states"));
        }
        let held = &self.held[slice.buffer.0 as usize];
        let whole = held.iter().find(|it| it.slice.offset == slice.offset);
        if let Some(tensor) = whole.map(|it| it.tensor) {
            self.read(Piece { slice: *slice, tensor, offset: 0 });
        } else {
            self.fault(format!("{slice:?} holds nothing at the end"));
        }
    }

    fn write(&mut self, piece: Piece) {
        let Some(buffer) = self.plan.buffers.get(piece.slice.buffer.0 as usize) else { return };
        match buffer.role {
            BufferRole::Inputs | BufferRole::Weights => self.fault("writes an input or a constant"),
            BufferRole::Activations | BufferRole::Outputs | BufferRole::State => {}
        }
        let held = &mut self.held[piece.slice.buffer.0 as usize];
        held.retain(|it| !it.slice.overlaps(&piece.slice));
        held.push(piece);
    }

    fn touch(&mut self, reads: &[Piece], writes: &[Piece]) {
        for read in reads {
            self.read(*read);
            if writes.iter().any(|it| it.slice.overlaps(&read.slice)) {
                self.fault(format!("writes what it reads, {:?}", read.slice));
            }
        }
        for (at, write) in writes.iter().enumerate() {
            if writes[..at].iter().any(|it| it.slice.overlaps(&write.slice)) {
                self.fault(format!("writes {:?} twice", write.slice));
            }
            self.write(*write);
        }
    }

    fn steps(&mut self) {
        let target = &self.plan.target;
        let (mut reads_open, mut writes_open): (Vec<Slice>, Vec<Slice>) = (Vec::new(), Vec::new());
        for (number, step) in self.plan.steps.iter().enumerate() {
            self.at = format!("step {number}");
            match step {
                Step::Dispatch { kernel, bindings, groups, barrier } => {
                    let Some(it) = self.plan.kernels.get(*kernel) else {
                        self.fault("no such kernel");
                        continue;
                    };
                    self.at = format!("step {number}, {}", it.kernel.name);
                    let Some(shader) = &it.shader else {
                        self.fault("the kernel has no shader");
                        continue;
                    };
                    if shader.bindings.len() != bindings.len() {
                        self.fault("as many slices as bindings are needed");
                        continue;
                    }
                    if bindings.len() > target.max_storage_buffers as usize {
                        self.fault(format!("{} bindings", bindings.len()));
                    }
                    if groups.iter().any(|&it| it > target.max_workgroups_per_dimension) {
                        self.fault(format!("{groups:?} workgroups"));
                    }
                    let (mut reads, mut writes) = (Vec::new(), Vec::new());
                    for (slice, part) in bindings.iter().zip(&shader.bindings) {
                        self.slice(slice, Place::Gpu);
                        if slice.len > target.max_binding_size || slice.len == 0 || slice.len != part.len {
                            self.fault(format!("binds {} bytes", slice.len));
                        }
                        let piece = Piece { slice: *slice, tensor: Some(part.tensor), offset: part.offset };
                        let written = it.kernel.stores.iter().any(|it| it.tensor == part.tensor);
                        if written { writes.push(piece) } else { reads.push(piece) }
                    }
                    if *barrier {
                        (reads_open, writes_open) = Default::default();
                    }
                    let meets =
                        |those: &[Slice], it: &Piece| those.iter().any(|that| that.overlaps(&it.slice));
                    if reads.iter().any(|it| meets(&writes_open, it))
                        || writes.iter().any(|it| meets(&writes_open, it) || meets(&reads_open, it))
                    {
                        self.fault("needs a barrier");
                    }
                    reads_open.extend(reads.iter().map(|it| it.slice));
                    writes_open.extend(writes.iter().map(|it| it.slice));
                    self.touch(&reads, &writes);
                }
                Step::Host { kernel, tensors } => {
                    (reads_open, writes_open) = Default::default();
                    let Some(it) = self.plan.kernels.get(*kernel) else {
                        self.fault("no such kernel");
                        continue;
                    };
                    self.at = format!("step {number}, {}", it.kernel.name);
                    if it.kernel.tensors.len() != tensors.len() {
                        self.fault("as many slices as tensors are needed");
                        continue;
                    }
                    let (mut reads, mut writes) = (Vec::new(), Vec::new());
                    for (at, (slice, &tensor)) in tensors.iter().zip(&it.kernel.tensors).enumerate() {
                        self.slice(slice, Place::Cpu);
                        if it.types.get(at).is_none_or(|ty| slice.len != bytes_on(Place::Cpu, ty)) {
                            self.fault(format!("{slice:?} is not as long as {tensor:?}"));
                        }
                        let piece = Piece { slice: *slice, tensor: Some(tensor), offset: 0 };
                        let written = it.kernel.stores.iter().any(|it| it.tensor == tensor);
                        if written { writes.push(piece) } else { reads.push(piece) }
                    }
                    self.touch(&reads, &writes);
                }
                Step::Download { tensor, ty, from, to } | Step::Upload { tensor, ty, from, to } => {
                    (reads_open, writes_open) = Default::default();
                    let (source, sink) = match step {
                        Step::Upload { .. } => (Place::Cpu, Place::Gpu),
                        Step::Dispatch { .. } | Step::Host { .. } | Step::Download { .. } => {
                            (Place::Gpu, Place::Cpu)
                        }
                    };
                    self.slice(from, source);
                    self.slice(to, sink);
                    if from.len != bytes_on(source, ty) || to.len != bytes_on(sink, ty) {
                        self.fault(format!("copies {ty} from {from:?} to {to:?}"));
                    }
                    let piece = |slice: &Slice| Piece { slice: *slice, tensor: Some(*tensor), offset: 0 };
                    self.touch(&[piece(from)], &[piece(to)]);
                }
            }
        }
    }
}
