//! How long each kernel of a tape takes: by the device's timestamps where it has them, else by the clock, one kernel at
//! a time.

use wgfuse_compiler::{plan::Plan, target::Place, tensor::Tensor};

use crate::{
    buffers::{self, STAGING, Wait},
    capture::{Command, Segment, Tape},
    device::Gpu,
    error::{DeviceError, Error},
    host, replay,
};

/// One launch of one kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelTime {
    pub name: String,
    pub ops: Vec<&'static str>,
    pub place: Place,
    pub bytes: u64,
    pub flops: u64,
    pub seconds: f64,
}

/// Times in the order of the launches. Copies between the places are done but not timed.
pub(crate) async fn profile(
    tape: &mut Tape,
    plan: &Plan,
    inputs: &[Tensor],
    wait: Wait,
) -> Result<Vec<KernelTime>, Error> {
    // Kernels see the values of a whole run, so that none works on what it was not made for.
    replay::replay(tape, plan, inputs, wait).await?;
    replay::place_inputs(tape, plan, inputs).await?;
    let mut times = Vec::new();
    for segment in &tape.segments {
        match segment {
            Segment::Gpu(commands) => {
                let Some(gpu) = tape.gpu.as_deref() else { continue };
                let seconds = match gpu.timestamps {
                    true => stamped(gpu, commands, wait).await?,
                    false => clocked(gpu, commands).await?,
                };
                let rows = commands.iter().zip(seconds);
                times.extend(rows.map(|(it, seconds)| row(plan, it.kernel, seconds)));
            }
            Segment::Host(calls) => {
                for call in calls {
                    let start = web_time();
                    // SAFETY: the operands lead to memory of the tape that nothing else uses meanwhile.
                    unsafe { host::run(&call.prepared, &call.operands) };
                    times.push(row(plan, call.kernel, web_time() - start));
                }
            }
            // What the whole run left in their places is the same.
            Segment::Download(..) | Segment::Upload(..) => {}
        }
    }
    Ok(times)
}

fn row(plan: &Plan, kernel: usize, seconds: f64) -> KernelTime {
    let it = &plan.kernels[kernel];
    KernelTime {
        name: it.kernel.name.clone(),
        ops: it.kernel.ops.clone(),
        place: it.kernel.place,
        bytes: it.bytes,
        flops: it.flops,
        seconds,
    }
}

/// Most query sets hold no more.
const QUERIES: usize = 4096;

async fn stamped(gpu: &Gpu, commands: &[Command], wait: Wait) -> Result<Vec<f64>, DeviceError> {
    let mut seconds = Vec::new();
    for commands in commands.chunks(QUERIES / 2) {
        let count = commands.len() as u32 * 2;
        let bytes = count as u64 * 8;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = buffers::buffer(gpu, bytes, "timestamps", usage).await?;
        let staging = buffers::buffer(gpu, bytes, "timestamps", STAGING).await?;
        gpu.scoped("the timestamps", || {
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for (at, command) in commands.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &set,
                        beginning_of_pass_write_index: Some(at as u32 * 2),
                        end_of_pass_write_index: Some(at as u32 * 2 + 1),
                    }),
                });
                launch(&mut pass, command);
            }
            encoder.resolve_query_set(&set, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
            gpu.queue.submit([encoder.finish()]);
        })
        .await?;
        buffers::map(gpu, std::slice::from_ref(&staging), wait).await?;
        let view = staging
            .slice(..)
            .get_mapped_range()
            .map_err(|it| DeviceError::Refused { at: "the timestamps".into(), what: it.to_string() })?;
        let stamps: Vec<u64> = (view.chunks_exact(8))
            .map(|it| u64::from_le_bytes(it.try_into().expect("eight bytes")))
            .collect();
        drop(view);
        staging.unmap();
        let period = gpu.queue.get_timestamp_period() as f64 * 1e-9;
        seconds.extend(stamps.chunks_exact(2).map(|it| it[1].saturating_sub(it[0]) as f64 * period));
    }
    Ok(seconds)
}

/// One submission a kernel, waited for; the cost of an empty one is taken off.
async fn clocked(gpu: &Gpu, commands: &[Command]) -> Result<Vec<f64>, DeviceError> {
    let one = async |command: Option<&Command>| {
        let start = web_time();
        gpu.scoped("a timed kernel", || {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            if let Some(command) = command {
                launch(&mut encoder.begin_compute_pass(&Default::default()), command);
            }
            gpu.queue.submit([encoder.finish()]);
            let _ = gpu.device.poll(wgpu::PollType::wait_indefinitely());
        })
        .await?;
        Ok::<f64, DeviceError>(web_time() - start)
    };
    one(None).await?;
    let empty = one(None).await?;
    let mut seconds = Vec::new();
    for command in commands {
        seconds.push((one(Some(command)).await? - empty).max(0.0));
    }
    Ok(seconds)
}

fn launch(pass: &mut wgpu::ComputePass<'_>, command: &Command) {
    let [x, y, z] = command.groups;
    pass.set_pipeline(&command.pipeline);
    pass.set_bind_group(0, &command.bind_group, &[]);
    pass.dispatch_workgroups(x, y, z);
}

/// Seconds since some fixed moment.
#[cfg(not(target_arch = "wasm32"))]
fn web_time() -> f64 {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The browser has no clock that std knows: without timestamps, kernels count as instantaneous.
#[cfg(target_arch = "wasm32")]
fn web_time() -> f64 {
    0.0
}
