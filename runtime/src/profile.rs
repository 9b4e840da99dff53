//! How long each kernel of a tape takes: by the device's timestamps where it has them, else by the clock, one kernel at
//! a time.

use wgfuse_compiler::{plan::Plan, target::Place, tensor::Tensor};

use crate::{
    buffers::Wait,
    capture::{Commands, Segment, Tape},
    error::Error,
    host, portable, replay,
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
