//! One graph on the GPU: the first answer, checked answers, and how long further ones take.

use std::time::Instant;

use anyhow::Result;
use wgfuse::{Device, DeviceTensor, Effort, KernelTime, Model, Options, Session, Tensor, Tune};

use crate::results::Run;

/// Seconds of work before anything is timed: idle devices run slowly at first.
pub const WARM_UP: f64 = 0.3;
const ROUNDS: usize = 15;

pub struct Bench {
    pub session: Session,
    pub run: Run,
}

pub fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Bench {
    /// Compiles the model and gets its first answer.
    pub fn new(model: &Model, device: &Device, given: &[(&str, Tensor)], tune: Tune) -> Result<Bench> {
        let options = Options { fallback: wgfuse::Fallback::Error, ..Options::default() };
        let shapes: Vec<_> = given.iter().map(|it| it.1.shape().clone()).collect();
        let start = Instant::now();
        let session = Session::with_options(model, device, options)?.tune(tune);
        let plan = session.plan_for(&shapes)?;
        let compile_ms = Some(millis(start));
        session.run(given)?;
        let first_ms = Some(millis(start));
        let dispatches = Some(plan.dispatches());
        Ok(Bench { session, run: Run { compile_ms, first_ms, dispatches, ..Run::default() } })
    }

    /// Times the launches on the device.
    pub fn on_device(&mut self, given: &[(&str, Tensor)]) -> Result<Vec<KernelTime>> {
        let profile = self.session.measure(given, Effort { warm_up: WARM_UP, rounds: ROUNDS })?;
        self.run.gpu_ms = Some(profile.back_to_back * 1e3);
        self.run.kernels_ms = Some(profile.kernels.iter().map(|it| it.seconds).sum::<f64>() * 1e3);
        let memory = self.session.device().wgpu().and_then(|(gpu, _)| gpu.generate_allocator_report());
        self.run.memory_mb = memory.map(|it| it.total_allocated_bytes as f64 / 1e6);
        Ok(profile.kernels)
    }

    /// Times whole answers, each waited for, and runs whose inputs and outputs stay on the device, each waited for too.
    pub fn answers(&mut self, given: &[(&str, Tensor)]) -> Result<()> {
        let session = &self.session;
        let answer = || {
            session.run(given)?;
            Ok(())
        };
        self.run.answer_ms = Some(timed(answer)?);
        let device = session.device();
        let there = |(name, it): &(&'_ str, Tensor)| Ok((name.to_string(), device.upload(it)?));
        let there = given.iter().map(there).collect::<Result<Vec<_>>>()?;
        let there: Vec<(&str, DeviceTensor)> =
            there.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
        let run = || {
            session.run_on_device(&there)?;
            Ok(device.synchronize()?)
        };
        self.run.run_ms = Some(timed(run)?);
        Ok(())
    }
}

/// The median milliseconds of a call, after a warm-up.
fn timed(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let warm = Instant::now();
    while millis(warm) < WARM_UP * 1e3 {
        call()?;
    }
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < 10 || (times.len() < 300 && millis(begun) < 1500.0) {
        let start = Instant::now();
        call()?;
        times.push(millis(start));
    }
    Ok(median(times))
}
