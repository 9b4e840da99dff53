//! Plan to tape: buffers, pipelines, bind groups and addresses, all looked up once.
//!
//! In: a plan, and how it is to be replayed. Out: a tape, all of whose memory is made and whose constants are uploaded.

use std::{ops::Range, sync::Arc};

use tracing::{Instrument, info_span};
use wgfuse_compiler::{
    bug,
    plan::{BufferId, BufferRole, Plan, Port, Slice, Step},
    shape::Type,
    target::Place,
};

use crate::{
    buffers::{self, Chunk, STORAGE},
    constants::{Constants, Failure},
    device_tensor::Room,
    disabled::DisabledReason,
    error::DeviceError,
    gpu::Gpu,
    host::{self, Operand},
    launch::{Launch, Replay},
    memory::{Lines, Spare},
    pipelines, portable,
    readback::{Copy, Readback},
    recording::Recording,
    state::{Block, States},
};

/// Everything that a run needs. It owns, or keeps alive, all memory that it points to.
pub(crate) struct Tape {
    pub gpu: Option<Arc<Gpu>>,
    pub inputs: Vec<Slot>,
    pub segments: Vec<Segment>,
    pub outputs: Vec<Output>,
    /// Outputs on the device, copied here at the end.
    pub readback: Readback,
    /// Input buffers, and their bytes.
    pub uploads: Vec<(wgpu::Buffer, u64)>,
    /// Why nothing is recorded, if it was to be.
    pub portable: Option<DisabledReason>,
    _memory: Vec<Lines>,
    _constants: Vec<Arc<Lines>>,
    _states: Vec<Arc<Block>>,
}

impl Tape {
    /// Whether launches were recorded.
    pub fn is_recorded(&self) -> bool {
        self.segments.iter().any(|it| matches!(it, Segment::Gpu(Commands::Recorded(_))))
    }
}

/// Where one input goes.
pub(crate) struct Slot {
    /// Number in `Tape::uploads`, offset and bytes.
    pub device: Option<(usize, Range<usize>)>,
    pub host: Option<Operand>,
}

/// A tensor that a run gives.
pub(crate) struct Output {
    pub source: Source,
    pub spare: Spare,
    pub room: Room,
}

pub(crate) enum Source {
    /// The next one of `Tape::readback`.
    Device(Type),
    Host(Operand),
}

pub(crate) enum Segment {
    Gpu(Commands),
    Host(Vec<Call>),
    Download(Readback, Vec<Operand>),
    Upload(Vec<(Operand, Chunk)>),
}

/// Launches made ready for the way in which they are replayed.
pub(crate) enum Commands {
    Portable(Vec<portable::Command>),
    Recorded(Recording),
}

pub(crate) struct Call {
    pub kernel: usize,
    pub prepared: host::Prepared,
    pub operands: Vec<Operand>,
}

pub(crate) async fn capture(
    plan: &Plan,
    gpu: Option<Arc<Gpu>>,
    constants: &mut Constants,
    checked: bool,
    replay: Replay,
    states: &mut States,
) -> Result<Tape, Failure> {
    prepare(plan, gpu.as_ref(), constants, checked, replay).await?;
    states.prepare(plan, gpu.as_ref()).await?;
    let mut space = Space::new(plan, gpu.as_deref(), constants, states).await?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut launches: Vec<Vec<Launch>> = Vec::new();
    for step in &plan.steps {
        match step {
            Step::Dispatch { kernel, bindings, groups, barrier } => {
                let bindings = bindings.iter().map(|it| (space.chunk(it), it.len)).collect();
                let launch = Launch { kernel: *kernel, bindings, groups: *groups, barrier: *barrier };
                match (segments.last(), launches.last_mut()) {
                    (Some(Segment::Gpu(_)), Some(launches)) => launches.push(launch),
                    _ => {
                        segments.push(Segment::Gpu(Commands::Portable(Vec::new())));
                        launches.push(vec![launch]);
                    }
                }
            }
            Step::Host { kernel, tensors } => {
                let it = &plan.kernels[*kernel].kernel;
                let types = &plan.kernels[*kernel].types;
                let operands =
                    types.iter().zip(tensors).map(|(ty, slice)| space.operand(ty, slice)).collect();
                let call = Call { kernel: *kernel, prepared: host::prepare(it, types), operands };
                match segments.last_mut() {
                    Some(Segment::Host(calls)) => calls.push(call),
                    _ => segments.push(Segment::Host(vec![call])),
                }
            }
            Step::Download { ty, from, to, .. } => {
                let (chunk, operand) = (space.chunk(from), space.operand(ty, to));
                let copy = Copy { from: chunk, to: (0, 0), bytes: from.len };
                match segments.last_mut() {
                    Some(Segment::Download(readback, operands)) => {
                        readback.copies.push(copy);
                        operands.push(operand);
                    }
                    _ => {
                        let readback = Readback { copies: vec![copy], ..Readback::default() };
                        segments.push(Segment::Download(readback, vec![operand]));
                    }
                }
            }
            Step::Upload { ty, from, to, .. } => {
                let copy = (space.operand(ty, from), space.chunk(to));
                match segments.last_mut() {
                    Some(Segment::Upload(copies)) => copies.push(copy),
                    _ => segments.push(Segment::Upload(vec![copy])),
                }
            }
        }
    }

    let mut readback = Readback::default();
    let source = |port: &Port| match (&port.host, &port.device) {
        (Some(slice), _) => Source::Host(space.operand(&port.ty, slice)),
        (None, Some(slice)) => {
            readback.copies.push(Copy { from: space.chunk(slice), to: (0, 0), bytes: slice.len });
            Source::Device(port.ty.clone())
        }
        (None, None) => bug!("output '{}' lies nowhere", port.name),
    };
    let outputs = plan.outputs.iter().map(source);
    let outputs =
        outputs.map(|source| Output { source, spare: Spare::default(), room: Room::default() }).collect();

    let mut portable = None;
    if let Some(gpu) = &gpu {
        readback.stage(gpu, plan).await?;
        for segment in &mut segments {
            if let Segment::Download(readback, _) = segment {
                readback.stage(gpu, plan).await?;
            }
        }
        // Copies of what launches made follow at once, or at the end.
        let behind = |at: usize| match segments.get(at + 1) {
            Some(Segment::Download(readback, _)) => Some(readback),
            Some(Segment::Gpu(_) | Segment::Host(_) | Segment::Upload(_)) => None,
            None => Some(&readback),
        };
        let on_gpu = (0..segments.len()).filter(|&at| matches!(segments[at], Segment::Gpu(_)));
        let parts: Vec<Part> = on_gpu.clone().zip(&launches).map(|(at, it)| (&it[..], behind(at))).collect();
        let on_gpu: Vec<usize> = on_gpu.collect();
        let (commands, why) = commands(plan, gpu, &parts, checked, replay).await?;
        portable = why;
        if commands.iter().any(|it| matches!(it, Commands::Recorded(_))) {
            space.initialise(gpu, parts.iter().filter_map(|it| it.1)).await?;
        }
        for (at, commands) in on_gpu.into_iter().zip(commands) {
            let recorded = matches!(commands, Commands::Recorded(_));
            segments[at] = Segment::Gpu(commands);
            match segments.get_mut(at + 1) {
                Some(Segment::Download(readback, _)) => readback.recorded = recorded,
                Some(Segment::Gpu(_) | Segment::Host(_) | Segment::Upload(_)) => {}
                None => readback.recorded = recorded,
            }
        }
    }
    let inputs = plan.inputs.iter().map(|it| space.slot(it)).collect();
    let uploads = (space.device.iter().zip(&plan.buffers))
        .filter(|(_, it)| it.role == BufferRole::Inputs && it.place == Place::Gpu)
        .map(|(buffer, it)| (buffer.clone().expect("buffers on the device are made"), it.size))
        .collect();
    Ok(Tape {
        gpu,
        inputs,
        segments,
        outputs,
        readback,
        uploads,
        portable,
        _memory: space.host.into_iter().flatten().collect(),
        _constants: space.constants_kept,
        _states: space.states.into_iter().flatten().collect(),
    })
}

/// Makes constants ready and, meanwhile, the pipelines of recordings where there are threads and such are wanted.
async fn prepare(
    plan: &Plan,
    gpu: Option<&Arc<Gpu>>,
    constants: &mut Constants,
    checked: bool,
    replay: Replay,
) -> Result<(), Failure> {
    let bytes = plan.bytes(BufferRole::Weights);
    let constants_span = info_span!("constants", count = plan.constants.len(), bytes);
    #[cfg(not(target_arch = "wasm32"))]
    if let Some(recorder) = gpu.and_then(|it| it.recorder())
        && replay != Replay::Portable
    {
        // What is wrong with a pipeline is told where it is needed.
        // Made here, since other threads do not know within what they run.
        let span = info_span!("pipelines", kernels = plan.kernels.len());
        let pipelines = || span.in_scope(|| drop(recorder.prepare(plan, checked)));
        let constants = || pollster::block_on(constants.prepare(plan, gpu).instrument(constants_span));
        return rayon::join(pipelines, constants).1;
    }
    #[cfg(target_arch = "wasm32")]
    let _ = (checked, replay);
    constants.prepare(plan, gpu).instrument(constants_span).await
}

/// Launches of one segment, and what is copied to staging memory behind them.
type Part<'a> = (&'a [Launch], Option<&'a Readback>);

/// The launches of each segment, recorded where that is wanted and can be done, else portable with the reason.
async fn commands(
    plan: &Plan,
    gpu: &Gpu,
    segments: &[Part<'_>],
    checked: bool,
    replay: Replay,
) -> Result<(Vec<Commands>, Option<DisabledReason>), DeviceError> {
    let not_vulkan = "recorded replay needs a Vulkan device with timestamps";
    let why = match (replay, gpu.recorder()) {
        (Replay::Portable, _) => None,
        (Replay::Auto, None) => Some(DisabledReason::NotRecorded(not_vulkan.into())),
        (Replay::Recorded, None) => {
            return Err(DeviceError::Refused { at: "the session".into(), what: not_vulkan.into() });
        }
        (Replay::Auto | Replay::Recorded, Some(recorder)) => {
            let recorded = recorder.prepare(plan, checked).and_then(|()| {
                let one = |&(launches, behind): &Part| {
                    Recording::new(recorder, plan, launches, behind, checked).map(Commands::Recorded)
                };
                segments.iter().map(one).collect()
            });
            match recorded {
                Ok(commands) => return Ok((commands, None)),
                Err(DeviceError::Refused { at, what }) if replay == Replay::Auto => {
                    Some(DisabledReason::NotRecorded(format!("{at}: {what}")))
                }
                Err(error) => return Err(error),
            }
        }
    };
    let shaders: Vec<_> =
        (plan.kernels.iter()).filter_map(|it| Some((it.shader.as_ref()?, it.kernel.name.as_str()))).collect();
    let mut made = pipelines::pipelines(gpu, &shaders, checked).await?.into_iter();
    let pipelines: Vec<Option<wgpu::ComputePipeline>> =
        plan.kernels.iter().map(|it| it.shader.as_ref().and_then(|_| made.next())).collect();
    let mut commands = Vec::with_capacity(segments.len());
    for (launches, _) in segments {
        commands.push(Commands::Portable(portable::commands(gpu, plan, launches, &pipelines).await?));
    }
    Ok((commands, why))
}

/// A plan's buffers as real memory.
struct Space<'a> {
    plan: &'a Plan,
    constants: &'a Constants,
    /// By `BufferId`; none for weights and for the other place.
    device: Vec<Option<wgpu::Buffer>>,
    /// By `BufferId`; none for weights, states and the other place.
    host: Vec<Option<Lines>>,
    /// By `BufferId`, those on the host.
    states: Vec<Option<Arc<Block>>>,
    /// Slices of constants, sorted, each with its key.
    weights: Vec<(BufferId, u64, u64, u128)>,
    constants_kept: Vec<Arc<Lines>>,
}

impl Space<'_> {
    async fn new<'a>(
        plan: &'a Plan,
        gpu: Option<&Gpu>,
        constants: &'a Constants,
        states: &States,
    ) -> Result<Space<'a>, DeviceError> {
        let (mut device, mut host, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for (number, it) in plan.buffers.iter().enumerate() {
            let id = BufferId(number as u32);
            let (own, state) = match it.role {
                BufferRole::Weights => (false, false),
                BufferRole::State => (false, true),
                BufferRole::Activations | BufferRole::Inputs | BufferRole::Outputs => (true, false),
            };
            device.push(match (gpu, it.place) {
                (Some(gpu), Place::Gpu) if own => {
                    Some(buffers::buffer(gpu, it.size, &it.role.to_string(), STORAGE).await?)
                }
                (Some(_), Place::Gpu) if state => Some(states.device_buffer(plan, id)),
                _ => None,
            });
            let here = it.place == Place::Cpu;
            host.push((own && here).then(|| Lines::zeroed(it.size as usize)).transpose()?);
            blocks.push((state && here).then(|| states.host_block(plan, id)));
        }
        let ports = plan.constants.iter().flat_map(|it| {
            it.port
                .device
                .iter()
                .chain(&it.port.host)
                .map(|slice| (slice.buffer, slice.offset, slice.len, it.key))
        });
        let mut weights: Vec<_> = ports.collect();
        weights.sort_unstable();
        let kept = plan.constants.iter().filter(|it| it.port.host.is_some());
        let constants_kept = kept.map(|it| constants.host(it.key)).collect();
        Ok(Space { plan, constants, device, host, states: blocks, weights, constants_kept })
    }

    /// The constant that holds this slice, and the offset in it.
    fn constant(&self, slice: &Slice) -> (u128, u64) {
        let after = self.weights.partition_point(|it| (it.0, it.1) <= (slice.buffer, slice.offset));
        match after.checked_sub(1).map(|it| self.weights[it]) {
            Some((buffer, offset, len, key)) if buffer == slice.buffer && slice.end() <= offset + len => {
                (key, slice.offset - offset)
            }
            _ => bug!("{slice} is no constant"),
        }
    }

    fn chunk(&self, slice: &Slice) -> Chunk {
        match &self.device[slice.buffer.0 as usize] {
            Some(buffer) => Chunk { buffer: buffer.clone(), offset: slice.offset },
            None => {
                let (key, within) = self.constant(slice);
                let chunk = self.constants.device(key);
                Chunk { offset: chunk.offset + within, ..chunk }
            }
        }
    }

    fn operand(&mut self, ty: &Type, slice: &Slice) -> Operand {
        let data = match &mut self.host[slice.buffer.0 as usize] {
            // SAFETY: the plan's slices lie inside their buffers.
            Some(lines) => unsafe { lines.as_mut_ptr().add(slice.offset as usize) },
            None if self.states[slice.buffer.0 as usize].is_some() => {
                let block = self.states[slice.buffer.0 as usize].as_ref().expect("just seen");
                // SAFETY: as above.
                unsafe { block.at().add(slice.offset as usize) }
            }
            None => {
                let (key, within) = self.constant(slice);
                let lines = self.constants.host(key);
                // SAFETY: as above. Constants are only read.
                unsafe { lines.as_ptr().add(within as usize).cast_mut() }
            }
        };
        Operand { ty: ty.clone(), data, len: slice.len as usize }
    }

    fn slot(&mut self, port: &Port) -> Slot {
        let uploads = |id: BufferId| {
            let earlier = &self.plan.buffers[..id.0 as usize];
            earlier.iter().filter(|it| it.role == BufferRole::Inputs && it.place == Place::Gpu).count()
        };
        let device = port.device.map(|it| (uploads(it.buffer), it.offset as usize..it.end() as usize));
        Slot { device, host: port.host.as_ref().map(|it| self.operand(&port.ty, it)) }
    }

    /// Makes every buffer but those of states, which do so already, count as written. wgpu clears what it has not seen written
    /// when it first copies from it or maps it, and it does not see what recordings write.
    async fn initialise<'a>(
        &self,
        gpu: &Gpu,
        readbacks: impl Iterator<Item = &'a Readback>,
    ) -> Result<(), DeviceError> {
        gpu.scoped("the memory of a plan", || {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let own = self.device.iter().zip(&self.plan.buffers).filter(|it| it.1.role != BufferRole::State);
            let own = own.filter_map(|it| it.0.as_ref());
            own.chain(readbacks.flat_map(|it| &it.staging)).for_each(|it| encoder.clear_buffer(it, 0, None));
            gpu.queue.submit([encoder.finish()]);
        })
        .await
    }
}
