//! The hot path: inputs in, the tape's commands in order, outputs out. Nothing is looked up and nothing is made but the
//! outputs and wgpu's own command buffers.

use smallvec::SmallVec;
use wgfuse_compiler::{plan::Plan, tensor::Tensor};
use wgpu::WriteOnly;

use crate::{
    buffers::Wait,
    capture::{Commands, Segment, Source, Tape},
    error::{DeviceError, Error},
    forms,
    gpu::Gpu,
    host::{self, Operand},
    portable,
    recording::Recording,
    upload,
};

/// One output a port of `plan`, in order. `inputs` are those of the plan, in order, of its types.
pub(crate) async fn replay(
    tape: &mut Tape,
    plan: &Plan,
    inputs: &[Tensor],
    wait: Wait,
) -> Result<Vec<Tensor>, Error> {
    place_inputs(tape, plan, inputs).await?;
    let gpu = tape.gpu.clone();
    let mut batch = Batch::default();
    for segment in &tape.segments {
        match segment {
            Segment::Gpu(Commands::Portable(commands)) => {
                portable::encode(commands, batch.encoder(device(gpu.as_deref())));
            }
            Segment::Gpu(Commands::Recorded(recording)) => batch.execute(device(gpu.as_deref()), recording),
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
    let mut made: Vec<Option<Tensor>> = vec![None; tape.outputs.len()];
    match gpu.as_deref().filter(|_| !tape.readback.copies.is_empty()) {
        Some(gpu) => {
            if !tape.readback.recorded {
                tape.readback.copy(batch.encoder(gpu));
            }
            batch.submit(Some(gpu)).await?;
            let mut copied =
                tape.outputs.iter_mut().zip(&mut made).filter_map(|(output, made)| match &output.source {
                    Source::Device(ty) => Some((ty, &mut output.spare, made)),
                    Source::Host(_) => None,
                });
            let see = |_, device: &[u8]| {
                let (ty, spare, made) = copied.next().expect("a copy is of an output");
                let bytes = spare.bytes(ty.bytes(), |host| forms::to_host(ty.dtype, device, host));
                *made = Tensor::new(ty.clone(), bytes);
            };
            tape.readback.read(gpu, wait, see).await?;
        }
        None => batch.submit(gpu.as_deref()).await?,
    }
    for (output, made) in tape.outputs.iter_mut().zip(&mut made) {
        if let Source::Host(operand) = &output.source {
            // SAFETY: as above.
            let host = unsafe { bytes_of(operand) };
            let bytes = output.spare.bytes(host.len(), |it| it.copy_from_slice(host));
            *made = Tensor::new(operand.ty.clone(), bytes);
        }
    }
    Ok(made.into_iter().map(|it| it.expect("every output was read, and has its type's bytes")).collect())
}

pub(crate) async fn place_inputs(tape: &mut Tape, plan: &Plan, inputs: &[Tensor]) -> Result<(), Error> {
    for (slot, tensor) in tape.inputs.iter().zip(inputs) {
        if let Some(operand) = &slot.host {
            // SAFETY: the operand leads to memory of the tape with exactly the bytes of the input's type.
            unsafe { operand.data.copy_from_nonoverlapping(tensor.data().as_ptr(), tensor.data().len()) };
        }
    }
    let Some(gpu) = tape.gpu.as_deref() else { return Ok(()) };
    for (number, (buffer, bytes)) in tape.uploads.iter().enumerate() {
        let write = |mut staging: WriteOnly<'_, [u8]>| {
            let slots = tape.inputs.iter().zip(inputs).zip(&plan.inputs);
            for ((slot, tensor), port) in slots {
                if let Some((_, place)) = slot.device.as_ref().filter(|it| it.0 == number) {
                    forms::to_device(tensor.dtype(), tensor.data(), staging.slice(place.clone()))
                        .map_err(|at| Error::unfit(&port.name, at, tensor.dtype()))?;
                }
            }
            Ok::<(), Error>(())
        };
        upload::fill(gpu, (buffer, 0, *bytes), "the inputs", write).await??;
    }
    Ok(())
}

/// Fills what a run gives with values that are not numbers, so that what it does not write is noticed.
#[cfg(not(target_arch = "wasm32"))]
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
struct Batch<'a> {
    /// Two of each recording, and one of what is encoded between them.
    finished: SmallVec<[wgpu::CommandBuffer; 4]>,
    open: Option<wgpu::CommandEncoder>,
    recordings: SmallVec<[&'a Recording; 1]>,
}

impl<'a> Batch<'a> {
    fn encoder(&mut self, gpu: &Gpu) -> &mut wgpu::CommandEncoder {
        self.open.get_or_insert_with(|| gpu.device.create_command_encoder(&Default::default()))
    }

    fn execute(&mut self, gpu: &Gpu, recording: &'a Recording) {
        self.finished.extend(self.open.take().map(wgpu::CommandEncoder::finish));
        self.finished.extend(recording.execute(&gpu.device));
        self.recordings.push(recording);
    }

    async fn submit(&mut self, gpu: Option<&Gpu>) -> Result<(), DeviceError> {
        if self.finished.is_empty() && self.open.is_none() {
            return Ok(());
        }
        let gpu = device(gpu);
        gpu.scoped("a submission", || {
            self.finished.extend(self.open.take().map(wgpu::CommandEncoder::finish));
            let index = gpu.queue.submit(self.finished.drain(..));
            self.recordings.drain(..).for_each(|it| it.submitted(index.clone()));
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
