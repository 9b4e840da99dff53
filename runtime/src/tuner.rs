//! Measures how kernels run fastest, once for each class of kernels and each device.
//!
//! In: a graph, and how far tuning may go. Out: choices for its schedule. A kernel is measured as it is, with what is fused
//! to it, on random inputs of its sizes, beside the default, in turns. Another way than the default is chosen only if its
//! results agree with the default's and it is faster in every turn but one and by more than the noise. What is found is kept on disk under
//! the device, its driver, this build and the class; what comes from there is used only if it is a candidate still.

use std::{str::FromStr, sync::Arc};

use slotmap::SlotMap;
use wgfuse_compiler::{
    dtype::DType,
    graph::Graph,
    lower::{TensorId, TensorInfo},
    options::Options,
    plan::{Plan, Port, SOURCES, trial},
    scalar::Scalar,
    schedule::{Choice, Choices, Class, Kernel, Skeleton, Tile, choice::candidates},
    schedule_graph,
    shape::Type,
    target::Target,
    tensor::Tensor,
};

use crate::{
    buffers::Wait,
    capture::{Tape, capture},
    constants::{Constants, Failure},
    device::Device,
    device_tensor::AnyTensor,
    error::{DeviceError, Error, Result},
    gpu::Gpu,
    launch::Replay,
    profile::{Effort, back_to_back},
    replay::{poison, replay},
    state::States,
};

/// Whether kernels are measured to find how they run fastest. That takes seconds the first time that a device sees a model, so it
/// has to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Tune {
    /// Nothing is measured, nor is what was measured before used: everything is as the compiler's tables say, on every
    /// machine.
    #[default]
    Off,
    /// What was measured before is used.
    Known,
    /// What was not measured before is measured when a plan is made.
    On,
}

impl FromStr for Tune {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Tune, String> {
        match text.trim() {
            "" | "off" => Ok(Tune::Off),
            "known" => Ok(Tune::Known),
            "on" => Ok(Tune::On),
            other => Err(format!("'{other}' is not off, known or on")),
        }
    }
}

impl Tune {
    /// What `WGFUSE_TUNE` says.
    pub(crate) fn from_environment() -> Result<Tune> {
        let text = std::env::var("WGFUSE_TUNE").unwrap_or_default();
        text.parse().map_err(|what| Error::Setting { name: "WGFUSE_TUNE".into(), what })
    }
}

/// What was found out about one class of kernels.
#[derive(Clone, PartialEq, Debug)]
pub struct Tuned {
    /// Of the first kernel of the class.
    pub kernel: String,
    pub default: Choice,
    pub chosen: Choice,
    /// What measuring showed, if it was done now.
    pub measured: Option<Measured>,
}

/// What measuring one class of kernels showed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// Seconds of the default, and of the choice.
    pub default: f64,
    pub chosen: f64,
    /// Candidates that were tried, the default among them; those of them that did not run, and those that gave other values.
    pub tried: usize,
    pub broken: usize,
    pub wrong: usize,
}

/// Of the default's time: another choice has to be faster than this.
const WINS: f64 = 0.97;

/// Turns in which all candidates are timed, and those that a choice has to win.
const TURNS: usize = 7;
const WON: usize = TURNS - 1;

/// After the first turn those that take this many times as long as the fastest are out.
const HOPELESS: f64 = 1.3;

/// Seconds of work before anything counts.
const WARM_UP: f64 = 0.02;

/// Relative differences of results, in the Frobenius norm, that tell other roundings.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 | DType::BF16 => 1e-2,
        it if it.is_narrow_float() => 0.25,
        it if it.is_float() => 1e-4,
        _ => 0.0,
    }
}

/// Choices for the kernels of `graph` on the device.
pub(crate) fn tuned(
    graph: &Graph,
    target: &Target,
    options: &Options,
    device: &Device,
    tune: Tune,
) -> Result<(Choices, Vec<Tuned>)> {
    let (mut choices, mut found) = (Choices::default(), Vec::new());
    let Some(identity) = device.identity() else { return Ok((choices, found)) };
    let (_, schedule) = schedule_graph(graph.clone(), target, options, &choices)?;
    let target = &Target { pairs: target.pairs && options.pairs, ..target.clone() };
    for kernel in &schedule.kernels {
        let all = candidates(kernel, target);
        let [default, _, ..] = all[..] else { continue };
        let class = Class::of(kernel, &schedule.tensors);
        if choices.get(class).is_some() || !trial::fits(kernel, &schedule.tensors, target) {
            continue;
        }
        let key =
            [&identity[..], SOURCES.as_bytes(), &class.0.to_le_bytes(), &[options.checked as u8]].concat();
        let known = device.store().and_then(|it| it.get("choice", &key));
        let known = known.and_then(|it| Choice::parse(std::str::from_utf8(&it).ok()?).ok());
        let (chosen, measured) = match known.filter(|it| all.contains(it)) {
            Some(known) => (known, None),
            None if tune != Tune::On => continue,
            None => {
                let it = Trials { device, tensors: &schedule.tensors, target, options };
                let (chosen, measured) = it.fastest(kernel, &all)?;
                if let Some(store) = device.store() {
                    store.put("choice", &key, chosen.to_string().as_bytes());
                }
                (chosen, Some(measured))
            }
        };
        choices.insert(class, chosen);
        let it = Tuned { kernel: kernel.name.clone(), default, chosen, measured };
        tracing::info!("{} runs as {}: {:?}", it.kernel, it.chosen, it.measured);
        found.push(it);
    }
    Ok((choices, found))
}

struct Trials<'a> {
    device: &'a Device,
    tensors: &'a SlotMap<TensorId, TensorInfo>,
    target: &'a Target,
    options: &'a Options,
}

/// A candidate that gives what it should.
struct Trial {
    choice: Choice,
    tape: Tape,
    /// Seconds of one copy.
    turns: Vec<f64>,
}

/// Bytes that no cache holds, and copies of a kernel that are worth it. In a model, what products of few rows read comes from
/// memory.
const UNCACHED: usize = 128 << 20;
const COPIES: usize = 16;

/// How many copies of `kernel`, on tensors of their own, are measured together.
fn copies(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>) -> usize {
    match kernel.skeleton {
        Skeleton::Contract { tile: Tile::Few(_), .. } => {
            let bytes: usize = kernel.tensors.iter().map(|it| tensors[*it].ty.bytes()).sum();
            UNCACHED.div_ceil(bytes.max(1)).min(COPIES)
        }
        _ => 1,
    }
}

impl Trials<'_> {
    /// The fastest of the candidates, of which the first is the default, and what was seen.
    fn fastest(&self, kernel: &Kernel, all: &[Choice]) -> Result<(Choice, Measured)> {
        pollster::block_on(self.fastest_async(kernel, all))
    }

    async fn fastest_async(&self, kernel: &Kernel, all: &[Choice]) -> Result<(Choice, Measured)> {
        let default = all[0];
        let mut seen = Measured { default: 0.0, chosen: 0.0, tried: all.len(), broken: 0, wrong: 0 };
        let gpu = self.device.gpu_now().await?;
        let copies = copies(kernel, self.tensors);
        let (mut trials, mut wanted): (Vec<Trial>, Vec<Tensor>) = (Vec::new(), Vec::new());
        let mut inputs: Vec<AnyTensor> = Vec::new();
        for &choice in all {
            let made = self.made(&choice.applied(kernel), &gpu, &mut inputs).await;
            match made {
                Ok((tape, outputs)) if trials.is_empty() => {
                    wanted = outputs;
                    trials.push(Trial { choice, tape, turns: Vec::new() });
                }
                Ok((tape, outputs)) if agree(&outputs, &wanted) => {
                    trials.push(Trial { choice, tape, turns: Vec::new() });
                }
                Ok(_) => {
                    tracing::warn!("{}: {choice} gives other values and is left out", kernel.name);
                    seen.wrong += 1;
                }
                // Without the default there is nothing to compare with.
                Err(error) if trials.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!("{}: {choice} does not run: {error}", kernel.name);
                    seen.broken += 1;
                    if gpu.lost().is_some() {
                        return Ok((default, seen));
                    }
                }
            }
        }
        drop((wanted, inputs));
        for turn in 0..TURNS {
            for it in &mut trials {
                let warm_up = if turn == 0 { WARM_UP } else { 0.0 };
                let seconds = back_to_back(&it.tape, Effort { warm_up, rounds: 1 }, Wait::Block).await;
                match seconds {
                    Ok(seconds) => it.turns.push(seconds / copies as f64),
                    Err(error) => {
                        tracing::debug!("{}: {} cannot be timed: {error}", kernel.name, it.choice);
                        return Ok((default, seen));
                    }
                }
            }
            if turn == 0 {
                let fastest = trials.iter().map(|it| it.turns[0]).fold(f64::INFINITY, f64::min);
                trials.retain(|it| it.choice == default || it.turns[0] <= HOPELESS * fastest);
            }
        }
        let base = trials[0].turns.clone();
        let own = median(&base);
        let better = |it: &&Trial| {
            let won = it.turns.iter().zip(&base).filter(|(own, base)| own < base).count();
            won >= WON && median(&it.turns) < WINS * own
        };
        let best =
            trials[1..].iter().filter(better).min_by(|a, b| median(&a.turns).total_cmp(&median(&b.turns)));
        let (chosen, fastest) = best.map_or((default, own), |it| (it.choice, median(&it.turns)));
        Ok((chosen, Measured { default: own, chosen: fastest, ..seen }))
    }

    /// The kernel alone, ready to be timed, and what it gives for `inputs`, which are made for the first.
    async fn made(
        &self,
        kernel: &Kernel,
        gpu: &Arc<Gpu>,
        inputs: &mut Vec<AnyTensor>,
    ) -> Result<(Tape, Vec<Tensor>)> {
        let copies = copies(kernel, self.tensors);
        let plan = trial(kernel, copies, self.tensors, self.target, self.options)?;
        if inputs.is_empty() {
            *inputs = random(&plan, copies).into_iter().map(AnyTensor::Host).collect();
        }
        let (checked, mut constants) = (self.options.checked, Constants::default());
        let tape =
            capture(&plan, Some(gpu.clone()), &mut constants, checked, Replay::Auto, &mut States::default())
                .await;
        let mut tape = tape.map_err(|it| match it {
            Failure::Error(error) => error,
            Failure::Step(reason) => {
                DeviceError::Refused { at: "a trial".into(), what: reason.to_string() }.into()
            }
        })?;
        poison(&tape).await?;
        let outputs = replay(&mut tape, &plan, inputs, Wait::Block).await?;
        Ok((tape, outputs))
    }
}

fn median(turns: &[f64]) -> f64 {
    let mut turns = turns.to_vec();
    turns.sort_by(f64::total_cmp);
    turns[turns.len() / 2]
}

/// Values that repeat after a while whose length has few divisors: floats in -1..1, integers below 8, which all types hold
/// and most tables have. All copies have the same.
fn random(plan: &Plan, copies: usize) -> Vec<Tensor> {
    const PERIOD: usize = 65_521;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut tensor = |ty: &Type| {
        let scalars: Vec<Scalar> = (0..ty.shape.count().min(PERIOD))
            .map(|_| match ty.dtype {
                DType::Bool => Scalar::Int((next() & 1) as i64),
                it if it.is_float() => Scalar::of(it, next() as f64 / (1u64 << 23) as f64 - 1.0),
                _ => Scalar::Int((next() & 7) as i64),
            })
            .collect();
        let some = Tensor::from_scalars(Type::new(ty.dtype, [scalars.len()]), scalars);
        let bytes: Vec<u8> = some.data().iter().copied().cycle().take(ty.bytes()).collect();
        Tensor::new(ty.clone(), bytes.into()).expect("as many bytes")
    };
    // Outputs have ports among the inputs that nothing reads.
    let read: Vec<&Port> = plan.inputs.iter().filter(|it| it.tensor.is_some()).collect();
    let own: Vec<Tensor> = read[..read.len() / copies].iter().map(|it| tensor(&it.ty)).collect();
    own.iter().cycle().take(read.len()).cloned().collect()
}

fn agree(have: &[Tensor], want: &[Tensor]) -> bool {
    have.iter().zip(want).all(|(have, want)| {
        let (mut apart, mut size) = (0.0, 0.0);
        for (a, b) in have.scalars().zip(want.scalars()) {
            let (a, b) =
                (a.cast(have.dtype(), DType::F64).as_f64(), b.cast(want.dtype(), DType::F64).as_f64());
            // What the default leaves as it was, or is not a number there, may be anything.
            if a != b && !b.is_nan() {
                apart += (a - b) * (a - b);
            }
            if b.is_finite() {
                size += b * b;
            }
        }
        apart.sqrt() <= tolerance(want.dtype()) * size.sqrt()
    })
}
