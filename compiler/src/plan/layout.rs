//! A schedule and its shaders to a plan: where everything lies, what is bound, what is waited for.
//!
//! In: kernels in their order, and the tensors that they name. Out: the plan. What always holds is listed in `verify`.

use std::{collections::HashMap, sync::Arc};

use slotmap::{SecondaryMap, SlotMap};

use super::{
    computed,
    keys::keys,
    memory::{self, Life},
    order::{Move, Order, order},
    step::{
        Buffer, BufferId, BufferRole, Constant, Plan, PlanKernel, Port, Slice, Step, alignment_on, bytes_on,
    },
    verify::verify,
    work,
};
use crate::{
    bug,
    codegen::Shader,
    error::Error,
    lower::{Definition, TensorId, TensorInfo},
    options::Options,
    partition::Partition,
    passes::siblings,
    schedule::{Kept, Kernel, Refusal, Schedule, Why},
    target::{Place, Target},
};

pub fn plan(
    partition: &Partition,
    schedule: Schedule,
    shaders: Vec<Option<Shader>>,
    target: &Target,
    options: &Options,
) -> Result<Plan, Error> {
    let Schedule { tensors, kernels, outputs, states, mut refusals } = schedule;
    // Products that are not one product may still be one kernel.
    let together = |it: &siblings::Apart| {
        kernels.iter().any(|kernel| [&it.first, &it.second].iter().all(|it| kernel.origins.contains(it)))
    };
    refusals.extend(partition.apart.iter().filter(|it| !together(it)).map(|it| Refusal {
        producer: it.first.clone(),
        consumer: it.second.clone(),
        why: Why::Siblings(it.why.clone()),
    }));
    let becoming: Vec<TensorId> = states.iter().map(|it| outputs[it.output as usize]).collect();
    let order = order(&tensors, &kernels, &outputs, &states);
    let mut layout = Layout { tensors: &tensors, target, buffers: Vec::new(), homes: SecondaryMap::new() };

    let inputs = inputs(partition, &mut layout, &order, &states)?;
    let constants = constants(partition, &mut layout, &order)?;
    let states = self::states(partition, &mut layout, &order, &states, &becoming)?;
    let mut row = None;
    for &tensor in outputs.iter().filter(|it| !becoming.contains(it)) {
        if let Some(place) = order.maker(tensor)
            && layout.home(tensor, place).is_none()
        {
            layout.append(&mut row, tensor, place, BufferRole::Outputs)?;
        }
    }
    let live_peak = activations(&order, &kernels, &mut layout)?;

    let kept = |number: usize| partition.graph.states.iter().any(|it| it.output as usize == number);
    let outputs = (outputs.iter().zip(&partition.graph.outputs).enumerate())
        .filter(|(number, _)| !kept(*number))
        .map(|(_, (&tensor, output))| {
            let lasting = |place| {
                layout
                    .home(tensor, place)
                    .filter(|it| layout.buffers[it.buffer.0 as usize].role != BufferRole::Activations)
            };
            Port {
                name: output.name.clone(),
                ty: tensors[tensor].ty.clone(),
                tensor: Some(tensor),
                device: lasting(Place::Gpu),
                host: lasting(Place::Cpu),
            }
        })
        .collect();

    let kernels: Vec<PlanKernel> = (kernels.into_iter().zip(shaders))
        .map(|(kernel, shader)| PlanKernel {
            bytes: work::bytes(&kernel, &tensors),
            flops: work::flops(&kernel, &tensors),
            types: kernel.tensors.iter().map(|&it| tensors[it].ty.clone()).collect(),
            kernel: Arc::new(kernel),
            shader,
        })
        .collect();
    let steps = steps(&order, &kernels, &layout);
    let plan = Plan {
        target: target.clone(),
        tensors: tensors.clone(),
        buffers: layout.buffers,
        inputs,
        outputs,
        states,
        becoming,
        constants,
        constant_graph: partition.constants.clone(),
        kernels,
        steps,
        cpu_parts: partition.reasons.clone(),
        live_peak,
        refusals,
    };
    let need = plan
        .buffers
        .iter()
        .fold(computed::bytes(&plan.constant_graph), |sum, it| sum.saturating_add(it.size));
    if need > options.memory_limit {
        return Err(Error::MemoryLimit { at: "the whole model".into(), need, have: options.memory_limit });
    }
    let (need, have) = (plan.work(), options.work_limit);
    if need > have {
        return Err(Error::WorkLimit { at: "the whole model".into(), need, have });
    }
    if cfg!(debug_assertions) {
        let faults = verify(&plan);
        if !faults.is_empty() {
            bug!("{}\n{plan}", faults.join("\n"));
        }
    }
    Ok(plan)
}

/// An arena may be larger than the largest live sum by the first number to the second, for the sake of fewer barriers.
const ROOM: (u64, u64) = (10, 12);

/// Where everything lies.
struct Layout<'a> {
    tensors: &'a SlotMap<TensorId, TensorInfo>,
    target: &'a Target,
    buffers: Vec<Buffer>,
    homes: SecondaryMap<TensorId, [Option<Slice>; 2]>,
}

impl Layout<'_> {
    fn home(&self, tensor: TensorId, place: Place) -> Option<Slice> {
        self.homes.get(tensor)?[place as usize]
    }

    fn settle(&mut self, tensor: TensorId, place: Place, slice: Slice) {
        let homes = self.homes.entry(tensor).expect("never removed").or_default();
        homes[place as usize] = Some(slice);
    }

    fn largest(&self, place: Place) -> u64 {
        match place {
            Place::Gpu => self.target.max_buffer_size,
            Place::Cpu => isize::MAX as u64,
        }
    }

    fn too_large(&self, tensor: TensorId, place: Place) -> Error {
        let info = &self.tensors[tensor];
        let at = format!("bytes of a tensor {} of node '{}'", info.ty, info.origin);
        Error::TooLarge { at, need: bytes_on(place, &info.ty), have: self.largest(place) }
    }

    /// As `room`, for `tensor` to lie in.
    fn append(
        &mut self,
        row: &mut Option<[Option<BufferId>; 2]>,
        tensor: TensorId,
        place: Place,
        role: BufferRole,
    ) -> Result<Slice, Error> {
        let slice = self.room(row, tensor, place, role)?;
        self.settle(tensor, place, slice);
        Ok(slice)
    }

    /// A slice behind the last one of the same row of buffers; a new buffer where it does not fit.
    fn room(
        &mut self,
        row: &mut Option<[Option<BufferId>; 2]>,
        tensor: TensorId,
        place: Place,
        role: BufferRole,
    ) -> Result<Slice, Error> {
        let len = bytes_on(place, &self.tensors[tensor].ty);
        let largest = self.largest(place);
        if len > largest {
            return Err(self.too_large(tensor, place));
        }
        let last = &mut row.get_or_insert_default()[place as usize];
        let behind = last.and_then(|buffer: BufferId| {
            let size = self.buffers[buffer.0 as usize].size;
            let offset = size.next_multiple_of(alignment_on(place, self.target));
            (offset.checked_add(len)? <= largest).then_some((buffer, offset))
        });
        let (buffer, offset) = behind.unwrap_or_else(|| {
            self.buffers.push(Buffer { place, role, size: 0 });
            (BufferId(self.buffers.len() as u32 - 1), 0)
        });
        *last = Some(buffer);
        self.buffers[buffer.0 as usize].size = offset + len;
        Ok(Slice { buffer, offset, len })
    }

    fn port(&self, name: &str, ty: crate::shape::Type, tensor: Option<TensorId>) -> Port {
        let at = |place| tensor.and_then(|it| self.home(it, place));
        Port { name: name.to_owned(), ty, tensor, device: at(Place::Gpu), host: at(Place::Cpu) }
    }
}

fn inputs(
    partition: &Partition,
    layout: &mut Layout,
    order: &Order,
    states: &[Kept],
) -> Result<Vec<Port>, Error> {
    let mut entering: Vec<Option<TensorId>> = vec![None; partition.arguments];
    for (tensor, info) in layout.tensors {
        if let Definition::Input(slot) = info.definition {
            entering[slot as usize] = Some(tensor);
        }
    }
    for state in states {
        entering[state.input as usize] = None;
    }
    let mut row = None;
    for &tensor in entering.iter().flatten() {
        for place in [Place::Gpu, Place::Cpu] {
            if order.span(tensor, place).is_some() {
                layout.append(&mut row, tensor, place, BufferRole::Inputs)?;
            }
        }
    }
    let named = partition.graph.inputs().iter().zip(entering).enumerate();
    let given = named.filter(|(number, _)| !states.iter().any(|it| it.input as usize == *number));
    Ok(given
        .map(|(_, it)| it)
        .map(|(input, tensor)| layout.port(&input.name, input.ty.clone(), tensor))
        .collect())
}

/// Every state has its room on each place where any lies, so that it is the same in every plan.
fn states(
    partition: &Partition,
    layout: &mut Layout,
    order: &Order,
    states: &[Kept],
    becoming: &[TensorId],
) -> Result<Vec<Port>, Error> {
    let needed = |it: &Kept, new: TensorId| {
        let spans = [it.old, new].into_iter().flat_map(|it| order.spans.get(it).copied().unwrap_or_default());
        spans.flatten().next().and(order.maker(it.old))
    };
    let places: Vec<Option<Place>> = states.iter().zip(becoming).map(|(it, &new)| needed(it, new)).collect();
    let mut row = None;
    for place in [Place::Gpu, Place::Cpu].into_iter().filter(|it| places.contains(&Some(*it))) {
        for ((state, &new), home) in states.iter().zip(becoming).zip(&places) {
            let slice = layout.room(&mut row, state.old, place, BufferRole::State)?;
            if *home == Some(place) {
                layout.settle(state.old, place, slice);
                layout.settle(new, place, slice);
            }
        }
    }
    let port = |it: &Kept| {
        let input = &partition.graph.inputs()[it.input as usize];
        layout.port(&input.name, input.ty.clone(), Some(it.old))
    };
    Ok(states.iter().map(port).collect())
}

/// Constants with equal keys share their slices.
fn constants(partition: &Partition, layout: &mut Layout, order: &Order) -> Result<Vec<Constant>, Error> {
    let keys = keys(&partition.constants);
    let mut row = None;
    let mut seen: HashMap<(u128, Place), Slice> = HashMap::new();
    let mut constants: Vec<Constant> = Vec::new();
    for (tensor, info) in layout.tensors {
        let Definition::Constant(number) = info.definition else { continue };
        let output = &partition.constants.outputs[number as usize];
        let key = keys[output.value];
        let mut needed = false;
        for place in [Place::Gpu, Place::Cpu] {
            if order.span(tensor, place).is_none() {
                continue;
            }
            needed = true;
            match seen.get(&(key, place)) {
                Some(&slice) => layout.settle(tensor, place, slice),
                None => {
                    let slice = layout.append(&mut row, tensor, place, BufferRole::Weights)?;
                    seen.insert((key, place), slice);
                }
            }
        }
        if needed {
            let port = layout.port(&output.name, info.ty.clone(), Some(tensor));
            constants.push(Constant { key, value: output.value, port });
        }
    }
    Ok(constants)
}

/// Everything that kernels write and that is not an output; returns the live peak.
fn activations(order: &Order, kernels: &[Kernel], layout: &mut Layout) -> Result<u64, Error> {
    let rounds = order.rounds(kernels);
    let mut live_peak = 0;
    for place in [Place::Gpu, Place::Cpu] {
        let mut held: Vec<TensorId> = Vec::new();
        for it in &order.moves {
            match *it {
                Move::Kernel(number) => held.extend(kernels[number].stores.iter().map(|it| it.tensor)),
                Move::Copy { tensor, .. } => held.push(tensor),
            }
        }
        let mut seen = SecondaryMap::new();
        held.retain(|&it| {
            let own = order.span(it, place).is_some() && layout.home(it, place).is_none();
            own && seen.insert(it, ()).is_none()
        });
        let lives = |at: &dyn Fn(usize) -> usize| -> Vec<Life> {
            let life = |&tensor: &TensorId| {
                let (first, last) = order.span(tensor, place).expect("only those were kept");
                let bytes = bytes_on(place, &layout.tensors[tensor].ty);
                Life { bytes, first: at(first), last: at(last) }
            };
            held.iter().map(life).collect()
        };
        let alignment = alignment_on(place, layout.target);
        let pack = |lives: &[Life]| {
            memory::pack(lives, alignment, layout.largest(place))
                .map_err(|at| layout.too_large(held[at], place))
        };
        let by_step = lives(&|step| step);
        let peak = memory::peak(&by_step, alignment);
        // What is held to the end of its round gives its memory to no kernel of the round, which would have to wait for it.
        let mut packing = pack(&lives(&|step| rounds[step]))?;
        let size: u64 = packing.sizes.iter().sum();
        if size.saturating_mul(ROOM.0) > peak.saturating_mul(ROOM.1) {
            packing = pack(&by_step)?;
        }
        let base = layout.buffers.len();
        layout.buffers.extend(packing.sizes.iter().map(|&size| Buffer {
            place,
            role: BufferRole::Activations,
            size,
        }));
        for ((tensor, life), (buffer, offset)) in held.into_iter().zip(&by_step).zip(packing.spots) {
            let buffer = BufferId((base + buffer) as u32);
            layout.settle(tensor, place, Slice { buffer, offset, len: life.bytes });
        }
        live_peak += peak;
    }
    Ok(live_peak)
}

fn steps(order: &Order, kernels: &[PlanKernel], layout: &Layout) -> Vec<Step> {
    let home = |tensor: TensorId, place: Place| match layout.home(tensor, place) {
        Some(slice) => slice,
        None => bug!("{tensor:?} has no memory on {place:?}"),
    };
    let mut hazards = Hazards::default();
    let step = |it: &Move| match *it {
        Move::Copy { tensor, to } => {
            hazards = Hazards::default();
            let ty = layout.tensors[tensor].ty.clone();
            let (gpu, cpu) = (home(tensor, Place::Gpu), home(tensor, Place::Cpu));
            match to {
                Place::Cpu => Step::Download { tensor, ty, from: gpu, to: cpu },
                Place::Gpu => Step::Upload { tensor, ty, from: cpu, to: gpu },
            }
        }
        Move::Kernel(number) => match &kernels[number].shader {
            None => {
                hazards = Hazards::default();
                let tensors = kernels[number].kernel.tensors.iter();
                Step::Host { kernel: number, tensors: tensors.map(|&it| home(it, Place::Cpu)).collect() }
            }
            Some(shader) => {
                let bindings: Vec<Slice> = (shader.bindings.iter())
                    .map(|part| {
                        let whole = home(part.tensor, Place::Gpu);
                        Slice { offset: whole.offset + part.offset, len: part.len, ..whole }
                    })
                    .collect();
                let barrier = hazards.dispatch(&kernels[number].kernel, shader, &bindings);
                Step::Dispatch { kernel: number, bindings, groups: shader.groups, barrier }
            }
        },
    };
    order.moves.iter().map(step).collect()
}

/// What was read and written since the last barrier.
#[derive(Default)]
struct Hazards {
    reads: Vec<Slice>,
    writes: Vec<Slice>,
}

impl Hazards {
    /// Whether this dispatch needs a barrier before it; from then on it counts as done.
    fn dispatch(&mut self, kernel: &Kernel, shader: &Shader, bindings: &[Slice]) -> bool {
        let written = |at: usize| kernel.stores.iter().any(|it| it.tensor == shader.bindings[at].tensor);
        let meets = |those: &[Slice], it: &Slice| those.iter().any(|that| that.overlaps(it));
        let barrier = bindings
            .iter()
            .enumerate()
            .any(|(at, it)| meets(&self.writes, it) || written(at) && meets(&self.reads, it));
        if barrier {
            *self = Hazards::default();
        }
        for (at, slice) in bindings.iter().enumerate() {
            if written(at) { self.writes.push(*slice) } else { self.reads.push(*slice) }
        }
        barrier
    }
}
