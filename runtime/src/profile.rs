//! How long each kernel of a tape takes: by the device's timestamps where it has them, else by the clock, one kernel at
//! a time.

use wgfuse_compiler::{plan::Plan, target::Place};

use crate::{
    buffers::Wait,
    capture::{Commands, Segment, Tape},
    device_tensor::AnyTensor,
    error::{DeviceError, Error},
    gpu::Gpu,
    host, portable,
    replay::{self, Batch},
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

/// How long a measurement takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Effort {
    /// Seconds of the device's own work before anything counts: a device that was idle runs slowly at first.
    pub warm_up: f64,
    /// How often everything is timed; medians are kept. At least one.
    pub rounds: usize,
}

/// What a model's launches cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// In the order of the launches, each timed by itself.
    pub kernels: Vec<KernelTime>,
    /// Seconds of all launches back to back, repeated without a pause in one command buffer. Waits between the launches are in it;
    /// submissions, and copies to and from the host, are not.
    pub back_to_back: f64,
}

/// One round without warming up.
pub(crate) const ONCE: Effort = Effort { warm_up: 0.0, rounds: 1 };

/// Seconds of all launches of a tape, one after the other.
#[cfg(not(target_arch = "wasm32"))]
#[cfg(feature = "compiler")]
pub(crate) async fn back_to_back(tape: &Tape, effort: Effort, wait: Wait) -> Result<f64, DeviceError> {
    let mut seconds = 0.0;
    for segment in &tape.segments {
        if let (Segment::Gpu(commands), Some(gpu)) = (segment, tape.gpu.as_deref()) {
            seconds += repeated(gpu, commands, effort, wait).await?;
        }
    }
    Ok(seconds)
}

/// Copies between the places are done but not timed.
pub(crate) async fn profile(
    tape: &mut Tape,
    plan: &Plan,
    inputs: &[AnyTensor],
    effort: Effort,
    wait: Wait,
) -> Result<Profile, Error> {
    // Kernels see the values of a whole run, so that none works on what it was not made for.
    replay::replay(tape, plan, inputs, wait).await?;
    let mut batch = Batch::default();
    replay::place_inputs(tape, plan, inputs, &mut batch).await?;
    batch.submit(tape.gpu.as_deref()).await?;
    let rounds = effort.rounds.max(1);
    let mut back_to_back = 0.0;
    for segment in &tape.segments {
        if let (Segment::Gpu(commands), Some(gpu)) = (segment, tape.gpu.as_deref()) {
            back_to_back += repeated(gpu, commands, Effort { rounds, ..effort }, wait).await?;
        }
    }
    let mut all = Vec::new();
    for _ in 0..rounds {
        all.push(round(tape, plan, wait).await?);
    }
    let merged = |(at, first): (usize, &KernelTime)| {
        let seconds = median(all.iter().map(|it| it[at].seconds).collect());
        KernelTime { seconds, ..first.clone() }
    };
    let kernels: Vec<KernelTime> = all[0].iter().enumerate().map(merged).collect();
    let on_host = kernels.iter().filter(|it| it.place == Place::Cpu).map(|it| it.seconds);
    back_to_back += on_host.sum::<f64>();
    Ok(Profile { kernels, back_to_back })
}

async fn round(tape: &Tape, plan: &Plan, wait: Wait) -> Result<Vec<KernelTime>, Error> {
    let mut times = Vec::new();
    for segment in &tape.segments {
        match segment {
            Segment::Gpu(commands) => {
                let Some(gpu) = tape.gpu.as_deref() else { continue };
                let (kernels, seconds): (Vec<usize>, _) = match commands {
                    Commands::Portable(commands) => {
                        let seconds = match gpu.timestamps {
                            true => portable::stamped(gpu, commands, wait).await?,
                            false => portable::clocked(gpu, commands, web_time).await?,
                        };
                        (commands.iter().map(portable::Command::kernel).collect(), seconds)
                    }
                    Commands::Recorded(recording) => {
                        (recording.kernels(), recording.stamped(gpu, wait).await?)
                    }
                };
                let rows = kernels.into_iter().zip(seconds);
                times.extend(rows.map(|(kernel, seconds)| row(plan, kernel, seconds)));
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

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds of work that one submission of repeated launches should hold: many times what a submission costs.
const BATCH: f64 = 5e-3;
const LONGEST_BATCH: f64 = 1000.0;

/// Seconds of all launches of a segment, one after the other.
async fn repeated(gpu: &Gpu, commands: &Commands, effort: Effort, wait: Wait) -> Result<f64, DeviceError> {
    let batch = async |times: usize| {
        let seconds = match commands {
            Commands::Portable(commands) if gpu.timestamps => {
                portable::stamped_together(gpu, commands, times, wait).await?
            }
            Commands::Portable(commands) => {
                portable::clocked_together(gpu, commands, times, web_time).await?
            }
            Commands::Recorded(recording) => recording.stamped_together(gpu, times, wait).await?,
        };
        Ok::<f64, DeviceError>(seconds / times as f64)
    };
    let fitting = |one: f64| (BATCH / one.max(1e-9)).clamp(1.0, LONGEST_BATCH) as usize;
    let mut times = fitting(batch(1).await?);
    let mut warmed = 0.0;
    while warmed < effort.warm_up {
        let one = batch(times).await?;
        // A clock that stands still would never get there.
        if one <= 0.0 {
            break;
        }
        warmed += one * times as f64;
        times = fitting(one);
    }
    let mut all = Vec::new();
    for _ in 0..effort.rounds {
        all.push(batch(times).await?);
    }
    Ok(median(all))
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
