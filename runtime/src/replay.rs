//! The hot path: inputs in, the tape's commands in order, outputs out. Nothing is looked up and nothing is made but the
//! outputs and wgpu's own command buffers.

use smallvec::SmallVec;
use wgfuse_compiler::{bug, plan::Plan, tensor::Tensor};
use wgpu::WriteOnly;

use crate::{
    buffers::Wait,
    capture::{Commands, Segment, Source, Tape},
    device_tensor::{AnyTensor, DeviceTensor},
    error::{DeviceError, Error},
    forms,
    gpu::Gpu,
    host::{self, Operand},
    portable,
    recording::{Execution, Recording},
    upload,
};

/// Where outputs are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    Host,
    /// Those that are made there; nobody waits for them.
    Device,
}

/// `replay_to` the host.
pub(crate) async fn replay(
    tape: &mut Tape,
    plan: &Plan,
    inputs: &[AnyTensor],
    wait: Wait,
) -> Result<Vec<Tensor>, Error> {
    Ok(replay_to(tape, plan, inputs, Ends::Host, wait).await?.into_iter().map(on_host).collect())
}

/// What `Ends::Host` gives.
pub(crate) fn on_host(made: AnyTensor) -> Tensor {
    match made {
        AnyTensor::Host(it) => it,
        AnyTensor::Device(_) => bug!("an output that was wanted on the host is not there"),
    }
}

/// One output a port of `plan`, in order. `inputs` are those of the plan, in order, of its types, and settled for its slots.
pub(crate) async fn replay_to(
    tape: &mut Tape,
    plan: &Plan,
    inputs: &[AnyTensor],
    ends: Ends,
    wait: Wait,
) -> Result<Vec<AnyTensor>, Error> {
    let gpu = tape.gpu.clone();
    let mut batch = Batch::default();
    place_inputs(tape, plan, inputs, &mut batch).await?;
    for (number, segment) in tape.segments.iter().enumerate() {
        match segment {
            Segment::Gpu(Commands::Portable(commands)) => {
                portable::encode(commands, batch.encoder(device(gpu.as_deref())));
            }
            Segment::Gpu(Commands::Recorded(recording)) => {
                let copies = ends == Ends::Host || number + 1 < tape.segments.len();
                batch.execute(device(gpu.as_deref()), recording, copies);
            }
            Segment::Host(calls) => {
                batch.submit(gpu.as_deref()).await?;
                for call in calls {
                    // SAFETY: the operands lead to memory of the tape that nothing else uses during the run.
                    unsafe { host::run(&call.prepared, &call.operands) };
                }
            }
            Segment::Download(readback, operands) => {
                if !readback.recorded {
                    readback.copy(batch.encoder(device(gpu.as_deref())));
                }
                batch.submit(gpu.as_deref()).await?;
                readback
                    .read(device(gpu.as_deref()), wait, |at, device| {
                        let operand = &operands[at];
                        // SAFETY: as above.
                        let host = unsafe { std::slice::from_raw_parts_mut(operand.data, operand.len) };
                        forms::to_host(operand.ty.dtype, device, host);
                    })
                    .await?;
                batch.over();
            }
            Segment::Upload(copies) => {
                // Writes reach the device before the commands of the next submission, not the ones before.
                batch.submit(gpu.as_deref()).await?;
                let gpu = device(gpu.as_deref());
                for (operand, chunk) in copies {
                    // SAFETY: as above.
                    let host = unsafe { bytes_of(operand) };
                    let place = (&chunk.buffer, chunk.offset);
                    let sent = upload::send(gpu, place, operand.ty.dtype, host, "an upload").await;
                    sent.map_err(|fault| match fault {
                        upload::Fault::Device(error) => error,
                        upload::Fault::Element(at) => {
                            let ty = &operand.ty;
                            let what = format!("element {at} of a {ty} made on the CPU does not fit 32 bits");
                            DeviceError::Refused { at: "an upload".into(), what }
                        }
                    })?;
                }
            }
        }
    }
    let mut made: Vec<Option<AnyTensor>> = vec![None; tape.outputs.len()];
    let copied = (tape.outputs.iter_mut().zip(&mut made)).filter_map(|(output, made)| match &output.source {
        Source::Device(ty) => Some((ty, &mut output.spare, &mut output.room, made)),
        Source::Host(_) => None,
    });
    match (gpu.as_ref().filter(|_| !tape.readback.copies.is_empty()), ends) {
        (Some(gpu), Ends::Host) => {
            if !tape.readback.recorded {
                tape.readback.copy(batch.encoder(gpu));
            }
            batch.submit(Some(gpu)).await?;
            let mut copied = copied;
            let see = |_, device: &[u8]| {
                let (ty, spare, _, made) = copied.next().expect("a copy is of an output");
                let bytes = spare.bytes(ty.bytes(), |host| forms::to_host(ty.dtype, device, host));
                *made = Tensor::new(ty.clone(), bytes).map(AnyTensor::Host);
            };
            tape.readback.read(gpu, wait, see).await?;
            batch.over();
        }
        (Some(gpu), Ends::Device) => {
            for ((ty, _, room, made), copy) in copied.zip(&tape.readback.copies) {
                let memory = room.take(gpu, copy.bytes).await?;
                let from = &copy.from;
                batch.encoder(gpu).copy_buffer_to_buffer(&from.buffer, from.offset, &memory, 0, copy.bytes);
                *made = Some(AnyTensor::Device(DeviceTensor::new(gpu, ty.clone(), memory)));
            }
            batch.submit(Some(gpu)).await?;
        }
        (None, _) => batch.submit(gpu.as_deref()).await?,
    }
    for (output, made) in tape.outputs.iter_mut().zip(&mut made) {
        if let Source::Host(operand) = &output.source {
            // SAFETY: as above.
            let host = unsafe { bytes_of(operand) };
            let bytes = output.spare.bytes(host.len(), |it| it.copy_from_slice(host));
            *made = Tensor::new(operand.ty.clone(), bytes).map(AnyTensor::Host);
        }
    }
    Ok(made.into_iter().map(|it| it.expect("every output was made, and has its type's bytes")).collect())
}

/// Values of the host are on their way when this returns, those of the device are copied by what is submitted next.
pub(crate) async fn place_inputs(
    tape: &Tape,
    plan: &Plan,
    inputs: &[AnyTensor],
    batch: &mut Batch<'_>,
) -> Result<(), Error> {
    for (slot, value) in tape.inputs.iter().zip(inputs) {
        if let (Some(operand), AnyTensor::Host(tensor)) = (&slot.host, value) {
            // SAFETY: the operand leads to memory of the tape with exactly the bytes of the input's type.
            unsafe { operand.data.copy_from_nonoverlapping(tensor.data().as_ptr(), tensor.data().len()) };
        }
    }
    let Some(gpu) = tape.gpu.as_deref() else { return Ok(()) };
    for (number, (buffer, bytes)) in tape.uploads.iter().enumerate() {
        let here = || {
            let slots = tape.inputs.iter().zip(inputs).zip(&plan.inputs);
            slots.filter_map(move |((slot, value), port)| {
                let (_, place) = slot.device.as_ref().filter(|it| it.0 == number)?;
                Some((place, value, port))
            })
        };
        // Whatever stands in staging memory where a value of the device goes, that is copied afterwards.
        if here().any(|it| matches!(it.1, AnyTensor::Host(_))) {
            let write = |mut staging: WriteOnly<'_, [u8]>| {
                for (place, value, port) in here() {
                    if let AnyTensor::Host(tensor) = value {
                        forms::to_device(tensor.dtype(), tensor.data(), staging.slice(place.clone()))
                            .map_err(|at| Error::unfit(&port.name, at, tensor.dtype()))?;
                    }
                }
                Ok::<(), Error>(())
            };
            upload::fill(gpu, (buffer, 0, *bytes), "the inputs", write).await??;
        }
        for (place, value, _) in here() {
            if let AnyTensor::Device(it) = value
                && let Some((from, offset)) = it.wgpu()
            {
                let (to, bytes) = (place.start as u64, place.len() as u64);
                batch.encoder(gpu).copy_buffer_to_buffer(from, offset, buffer, to, bytes);
            }
        }
    }
    Ok(())
}

/// Fills what a run gives with values that are not numbers, so that what it does not write is noticed.
#[cfg(not(target_arch = "wasm32"))]
#[cfg(feature = "compiler")]
pub(crate) async fn poison(tape: &Tape) -> Result<(), DeviceError> {
    let Some(gpu) = tape.gpu.as_deref() else { return Ok(()) };
    for it in &tape.readback.copies {
        let bytes = vec![0xff; it.bytes.next_multiple_of(4) as usize];
        gpu.scoped("an output", || gpu.queue.write_buffer(&it.from.buffer, it.from.offset, &bytes)).await?;
    }
    Ok(())
}

fn device(gpu: Option<&Gpu>) -> &Gpu {
    gpu.expect("a tape that uses the device has one")
}

/// Work on its way to the device, in order.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    /// Two of each recording, and one of what is encoded between them.
    finished: SmallVec<[wgpu::CommandBuffer; 4]>,
    open: Option<wgpu::CommandEncoder>,
    recordings: SmallVec<[(&'a Recording, Execution); 1]>,
    /// What was submitted, and where.
    pending: Option<(wgpu::Queue, SmallVec<[Execution; 1]>)>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some((queue, executions)) = self.pending.take() {
            queue.on_submitted_work_done(move || drop(executions));
        }
    }
}

impl<'a> Batch<'a> {
    fn encoder(&mut self, gpu: &Gpu) -> &mut wgpu::CommandEncoder {
        self.open.get_or_insert_with(|| gpu.device.create_command_encoder(&Default::default()))
    }

    fn execute(&mut self, gpu: &Gpu, recording: &'a Recording, copies: bool) {
        self.finished.extend(self.open.take().map(wgpu::CommandEncoder::finish));
        let (commands, execution) = recording.execute(&gpu.device, copies);
        self.finished.extend(commands);
        self.recordings.push((recording, execution));
    }

    /// To be called once the device is known to be done with what was submitted.
    fn over(&mut self) {
        self.pending = None;
    }

    pub async fn submit(&mut self, gpu: Option<&Gpu>) -> Result<(), DeviceError> {
        if self.finished.is_empty() && self.open.is_none() {
            return Ok(());
        }
        let gpu = device(gpu);
        gpu.scoped("a submission", || {
            self.finished.extend(self.open.take().map(wgpu::CommandEncoder::finish));
            let index = gpu.queue.submit(self.finished.drain(..));
            for (recording, execution) in self.recordings.drain(..) {
                recording.submitted(index.clone());
                self.pending.get_or_insert_with(|| (gpu.queue.clone(), SmallVec::new())).1.push(execution);
            }
        })
        .await
    }
}

/// # Safety
/// Nothing writes the operand's memory meanwhile.
unsafe fn bytes_of(operand: &Operand) -> &[u8] {
    // SAFETY: operands lead to initialised memory of their length.
    unsafe { std::slice::from_raw_parts(operand.data, operand.len) }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
