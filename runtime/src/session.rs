//! A model on a device: shapes to plans to tapes, and running them.
//!
//! A plan is compiled the first time a shape is seen and captured the first time it runs; both are kept, the least recently
//! used shape leaving first. Runs of one shape take turns; runs of different shapes do not wait for each other.

#[cfg(feature = "compiler")]
mod compiled;
mod ready;
#[cfg(feature = "compiler")]
mod stretches;
#[cfg(feature = "compiler")]
mod values;
#[cfg(feature = "compiler")]
pub mod way;

use std::sync::{Arc, Mutex, OnceLock};

use async_lock::Mutex as AsyncMutex;
use tracing::{Instrument, Span, info_span};
use wgfuse_compiler::{
    dtype::DType, graph::Graph, import::Signature, options::Options, plan::Plan, random, schedule::Choices,
    shape::Shape, tensor::Tensor,
};

use crate::{
    buffers::Wait,
    capture::Tape,
    constants::Constants,
    device::Device,
    device_tensor::{AnyTensor, DeviceTensor},
    disabled::{Disabled, DisabledLog, DisabledReason},
    error::{Error, Result},
    inputs::{self, Outputs},
    launch::Replay,
    model::Model,
    profile::{Effort, KernelTime, ONCE, Profile, profile},
    replay::{Ends, on_host, replay_to},
    state::States,
    tally::{Tallies, Tally},
    through::Through,
};
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
use crate::{
    saved::Saving,
    tuner::{Tune, Tuned},
};

/// Shapes whose plans are kept.
const KEPT: usize = 16;

/// A model made ready for a device. It may be used from many threads at once.
pub struct Session {
    model: Model,
    device: Device,
    options: Options,
    replay: Replay,
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    tune: Tune,
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    tuned: Mutex<Vec<Tuned>>,
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    saving: Option<Saving>,
    /// Where compilations are shown.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    debug: Option<std::path::PathBuf>,
    /// Compilations that failed by no fault of the model.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    failures: std::sync::atomic::AtomicUsize,
    /// A fault, put there to be found.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    planted: Option<Planted>,
    /// Of random ops, in place of those that follow from a seed.
    key: Option<Tensor>,
    /// Tiles to compile with instead of those that tables or tuning give.
    choices: Option<Choices>,
    /// The most recently used last.
    shapes: Mutex<Vec<Arc<Entry>>>,
    /// First stretches for inputs that are not tensors alone.
    #[cfg(feature = "compiler")]
    begun: Mutex<stretches::Branches>,
    kept: usize,
    constants: Arc<AsyncMutex<Constants>>,
    /// What runs are given: the model's inputs but for its states.
    inputs: Vec<Signature>,
    /// Locked before anything else, and for as long as a run takes. Nobody locks those of a model without states.
    states: AsyncMutex<States>,
    disabled: Arc<DisabledLog>,
    /// Steps down that are errors.
    forbidden: Option<Arc<Forbidden>>,
    tallies: Arc<Tallies>,
    randomness: Arc<Mutex<Randomness>>,
    /// Runs are not counted: they are parts of another session's.
    inner: bool,
}

/// What random ops follow from.
#[derive(Clone, Copy, Default)]
struct Randomness {
    seed: u64,
    /// Runs since the seed was set, of those that have random ops.
    run: u64,
}

/// A change of plans.
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub(crate) type Planted = Arc<dyn Fn(&mut Plan) + Send + Sync>;

type Forbidden = dyn Fn(&DisabledReason) -> bool + Send + Sync;

/// One shape an input, and what was made for it.
struct Entry {
    shapes: Vec<Shape>,
    state: AsyncMutex<State>,
    plan: OnceLock<Arc<Plan>>,
    /// Whether there is nothing to compute.
    through: OnceLock<Option<Through>>,
    /// Where the model is no single graph for these shapes.
    #[cfg(feature = "compiler")]
    stretches: OnceLock<Arc<stretches::Node>>,
    /// What the plan will be compiled from, if it is at hand.
    graph: Mutex<Option<Graph>>,
    /// What the first run is given, until there is a plan.
    given: Mutex<Vec<AnyTensor>>,
}

#[derive(Default)]
struct State {
    /// After the GPU could not take it: a plan for the processor, used from then on.
    fallback: Option<Arc<Plan>>,
    tape: Option<Tape>,
}

impl Session {
    pub fn new(model: &Model, device: &Device) -> Result<Session> {
        Session::with_options(model, device, Options::default())
    }

    /// A session of what `wgfuse compile` or `Model::compile` has written. `Model::from_bytes` takes artefacts that lie in memory.
    ///
    /// Of the plans for the shapes that a run has, the first that the device can run is taken; where there is none, that for
    /// the processor, and `disabled` says why. Kernels of an artefact run as they are in it: it is to be trusted like a program, or run with
    /// `Options::checked`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(path: impl AsRef<std::path::Path>, device: &Device) -> Result<Session> {
        Session::new(&Model::artefact(path)?, device)
    }

    /// The environment variable `WGFUSE_REPLAY` (`auto`, `portable` or `recorded`) says how launches are replayed, unless
    /// `replay` does. An option that names what there is not is an error here, before anything is compiled.
    pub fn with_options(model: &Model, device: &Device, options: Options) -> Result<Session> {
        #[cfg(feature = "compiler")]
        wgfuse_compiler::check(&options)?;
        let disabled = Arc::<DisabledLog>::default();
        if let Some(reason) = device.disabled_reason() {
            disabled.add(reason.clone());
        }
        Ok(Session {
            model: model.clone(),
            device: device.clone(),
            options,
            replay: Replay::from_environment()?,
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            tune: Tune::from_environment()?,
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            tuned: Mutex::default(),
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            saving: Saving::from_environment()?,
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            debug: std::env::var_os("WGFUSE_DEBUG").filter(|it| !it.is_empty()).map(Into::into),
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            failures: Default::default(),
            #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
            planted: None,
            key: None,
            choices: None,
            shapes: Mutex::default(),
            #[cfg(feature = "compiler")]
            begun: Mutex::default(),
            kept: KEPT,
            constants: Arc::default(),
            inputs: (model.inputs.iter().enumerate())
                .filter(|(number, _)| !model.states.iter().any(|it| it.input as usize == *number))
                .map(|(_, it)| it.clone())
                .collect(),
            states: AsyncMutex::new(States::of(model)),
            disabled,
            forbidden: None,
            tallies: Arc::new(Tallies::within(device.tallies())),
            randomness: Arc::default(),
            inner: false,
        })
    }

    /// Makes steps down that `forbidden` names errors: a run or a plan that would take one is an `Error::Model` that says why.
    /// `Options::fallback` does so for whatever would move to the processor.
    pub fn forbid(mut self, forbidden: impl Fn(&DisabledReason) -> bool + Send + Sync + 'static) -> Session {
        self.forbidden = Some(Arc::new(forbidden));
        self
    }

    /// Keeps the plans of up to `count` shapes, at least one.
    pub fn keep_shapes(mut self, count: usize) -> Session {
        self.kept = count.max(1);
        self
    }

    /// Whether kernels are measured to find how they run fastest. Without this call the environment variable `WGFUSE_TUNE` (`off`,
    /// `known` or `on`) says so.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub fn tune(mut self, tune: Tune) -> Session {
        self.tune = tune;
        self
    }

    /// Writes all that each compilation is given (graph, examples of its inputs, options, target, choices) to a new folder in `folder`,
    /// which `wgfuse replay-args` and `load_arguments` read. Tensors of more than `limit` bytes are kept as a seed and statistics, but
    /// for constants that decide what is compiled. Without this call the environment variables `WGFUSE_SAVE_ARGS` and
    /// `WGFUSE_SAVE_ARGS_LIMIT` say so; the limit is a MiB where there is none.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub fn save_arguments(mut self, folder: impl Into<std::path::PathBuf>, limit: u64) -> Session {
        self.saving = Some(Saving { folder: folder.into(), limit });
        self
    }

    /// Shows each compilation in a new folder in `folder`: the graph after each pass, the stages' texts, kernels as WGSL, times, a page that
    /// draws it all, and what `wgfuse replay-args` reads. Without this call the environment variable `WGFUSE_DEBUG` names the
    /// folder. Every shape is compiled anew then. A compilation in which the compiler fails is shown in any case, where nobody has named
    /// a folder in one for temporary files; the error says where.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub fn debug_in(mut self, folder: impl Into<std::path::PathBuf>) -> Session {
        self.debug = Some(folder.into());
        self
    }

    /// A session for a part of this one's model.
    #[cfg(feature = "compiler")]
    fn inner(&self, model: Model) -> Session {
        Session {
            inputs: model.inputs.clone(),
            model,
            device: self.device.clone(),
            options: self.options.clone(),
            replay: self.replay,
            #[cfg(not(target_arch = "wasm32"))]
            tune: self.tune,
            #[cfg(not(target_arch = "wasm32"))]
            tuned: Mutex::default(),
            #[cfg(not(target_arch = "wasm32"))]
            saving: self.saving.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            debug: self.debug.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            failures: Default::default(),
            #[cfg(not(target_arch = "wasm32"))]
            planted: self.planted.clone(),
            key: self.key.clone(),
            choices: self.choices.clone(),
            shapes: Mutex::default(),
            begun: Mutex::default(),
            kept: 1,
            constants: self.constants.clone(),
            states: AsyncMutex::default(),
            disabled: self.disabled.clone(),
            forbidden: self.forbidden.clone(),
            tallies: self.tallies.clone(),
            randomness: self.randomness.clone(),
            inner: true,
        }
    }

    /// Every run has this key of its random ops.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub(crate) fn with_key(mut self, key: Tensor) -> Session {
        self.key = Some(key);
        self
    }

    /// Writes no folders, whatever the environment says; and what a driver refuses is not run elsewhere.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub(crate) fn quiet(mut self) -> Session {
        (self.saving, self.debug, self.failures) = (None, None, (usize::MAX / 2).into());
        self.forbid(|it| matches!(it, DisabledReason::Validation(_)))
    }

    /// Changes every plan that was compiled.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub(crate) fn planted(mut self, change: Planted) -> Session {
        self.planted = Some(change);
        self
    }

    /// Compiles with these tiles, whatever tables or tuning say. Those that do not fit their kernels on this device are left out.
    pub fn choices(mut self, choices: Choices) -> Session {
        self.choices = Some(choices);
        self
    }

    /// What tuning has found so far, a class of kernels each.
    #[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
    pub fn tuned(&self) -> Vec<Tuned> {
        self.tuned.lock().expect("nothing panics inside").clone()
    }

    /// Chooses how launches are replayed.
    pub fn replay(mut self, replay: Replay) -> Session {
        self.replay = replay;
        self
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Every step down from the best way to run this model so far, with its reason and how often it applied.
    pub fn disabled(&self) -> Vec<Disabled> {
        self.disabled.all()
    }

    /// From now on random ops give what they give with this seed: the same in the first run, in the second, and so on, whatever the
    /// device. Each run has other values than the one before. Without this call the seed is 0.
    pub fn set_seed(&self, seed: u64) {
        *self.randomness.lock().expect("nothing panics inside") = Randomness { seed, run: 0 };
    }

    /// How often this session ran and compiled, and what its caches gave.
    pub fn tally(&self) -> Tally {
        self.tallies.tally()
    }

    /// Runs the model once. Inputs go by name; their shapes may differ from run to run where the model allows it.
    ///
    /// What is wrong with an input, or with the model at these shapes, is an `Error::Model`: nothing else changes. A lost
    /// device, or one whose memory does not hold the run, is an `Error::Device`; the next run starts from the weights on
    /// the host, on a device opened again, or on the processor if memory was short and `Options::fallback` allows it.
    /// `disabled` tells of both.
    ///
    /// Random ops (`GraphBuilder::rand` and others) have other values in every run; see `set_seed`.
    ///
    /// States (`GraphBuilder::state`, `Model::with_state`) stay where the model runs, whatever the shapes of its inputs. Runs
    /// of a model with states take turns. What a run that fails on its way, or whose future is dropped, leaves of them is not
    /// known: every further run is an `Error::StateLost` until they are set or reset.
    pub async fn run_async(&self, given: &[(&str, Tensor)]) -> Result<Outputs> {
        self.run_waiting(given, Wait::Yield).await
    }

    /// Like `run_async`, with inputs that may be on the device already and outputs that stay there. It returns once everything is
    /// submitted and waits for nothing but parts that run on the processor; what goes wrong on the device later is told by
    /// whoever reads an output (`DeviceTensor::read`) or waits (`Device::synchronize`). Runs and reads keep their order, so that
    /// an output can be an input of the next run at once.
    ///
    /// Inputs of another device are taken through the host.
    pub async fn run_on_device_async<V: Clone + Into<AnyTensor>>(
        &self,
        given: &[(&str, V)],
    ) -> Result<Outputs<DeviceTensor>> {
        self.run_there(given, Wait::Yield).await
    }

    /// Runs the model once and times every kernel of it. States are afterwards what they were.
    pub async fn profile_async(&self, given: &[(&str, Tensor)]) -> Result<Vec<KernelTime>> {
        Ok(self.measure_waiting(given, ONCE, Wait::Yield).await?.kernels)
    }

    /// Runs the model once, then times its launches again and again, the inputs staying where they are.
    pub async fn measure_async(&self, given: &[(&str, Tensor)], effort: Effort) -> Result<Profile> {
        self.measure_waiting(given, effort, Wait::Yield).await
    }

    /// The plan for one shape an input, in the order of the model's inputs, those aside that are states. It is compiled if it
    /// was not yet.
    pub async fn plan_for_async(&self, shapes: &[Shape]) -> Result<Arc<Plan>> {
        if shapes.len() != self.inputs.len() {
            let what = format!("{} shapes were given for {} inputs", shapes.len(), self.inputs.len());
            return Err(Error::input("", what));
        }
        inputs::shapes(&self.inputs, shapes)?;
        let states = self.states().await;
        let entry = self.entry(self.shapes(states.as_deref(), shapes.to_vec())?)?;
        drop(states);
        let state = entry.state.lock().await;
        self.plan(&entry, &state)
    }

    async fn run_waiting(&self, given: &[(&str, Tensor)], wait: Wait) -> Result<Outputs> {
        let made = self.run_to(inputs::ordered(&self.inputs, given)?, Ends::Host, wait).await?;
        Ok(Outputs::new(made.into_iter().map(|(name, it)| (name, on_host(it))).collect()))
    }

    async fn run_there<V: Clone + Into<AnyTensor>>(
        &self,
        given: &[(&str, V)],
        wait: Wait,
    ) -> Result<Outputs<DeviceTensor>> {
        let made = self.run_to(inputs::ordered(&self.inputs, given)?, Ends::Device, wait).await?;
        let tensor = |it| match it {
            AnyTensor::Host(it) => it.into(),
            AnyTensor::Device(it) => it,
        };
        Ok(Outputs::new(made.into_iter().map(|(name, it)| (name, tensor(it))).collect()))
    }

    async fn run_to(
        &self,
        given: Vec<AnyTensor>,
        ends: Ends,
        wait: Wait,
    ) -> Result<Vec<(String, AnyTensor)>> {
        let mut states = self.states().await;
        let shapes = given.iter().map(|it| it.ty().shape.clone()).collect();
        let entry = self.entry(self.shapes(states.as_deref(), shapes)?)?;
        let mut state = entry.state.lock().await;
        if let Some(through) = self.through(&entry)? {
            drop(state);
            return self.hand_through(through, given, ends, wait).await;
        }
        #[cfg(feature = "compiler")]
        if let Some(first) = entry.stretches.get() {
            drop(state);
            return self.run_stretches(first.clone(), given, ends, wait).await;
        }
        entry.show(&given);
        let captured = state.tape.is_some();
        let plan = self.ready(&entry, &mut state, states.as_deref_mut()).await?;
        let span = match captured {
            true => Span::none(),
            false => info_span!("first_run", kernels = plan.kernels.len()),
        };
        let tape = state.tape.as_mut().expect("just made ready");
        let mut values = Vec::with_capacity(given.len());
        for ((value, slot), input) in given.into_iter().zip(&tape.inputs).zip(&self.inputs) {
            let settled = value.settle(tape.gpu.as_ref(), slot.host.is_some(), wait).await;
            values.push(settled.map_err(|why| Error::input(&input.name, format!("cannot be read: {why}")))?);
        }
        values.extend(self.random_key(&plan, true));
        let entered = match states.as_deref_mut() {
            Some(states) => Some(states.enter(&plan, wait).await?),
            None => None,
        };
        let result = replay_to(tape, &plan, &values, ends, wait).instrument(span).await;
        if let (Some(states), Some(entered)) = (states.as_deref_mut(), entered) {
            match &result {
                // Inputs are looked at before anything runs.
                Ok(_) | Err(Error::Model(_)) => states.leave(entered),
                Err(error) => states.lose(&entered, error),
            }
        }
        match result {
            Ok(made) => {
                if !self.inner {
                    self.tallies.count(|it| &it.runs);
                }
                Ok(plan.outputs.iter().map(|it| it.name.clone()).zip(made).collect())
            }
            Err(error) => Err(self.failed(&entry, &mut state, error)),
        }
    }

    /// The key of this run's random ops, where the plan has any. Where the run counts, the next has another.
    fn random_key(&self, plan: &Plan, counts: bool) -> Option<AnyTensor> {
        plan.random_key()?;
        if let Some(key) = &self.key {
            return Some(AnyTensor::Host(key.clone()));
        }
        let mut randomness = self.randomness.lock().expect("nothing panics inside");
        let key = random::run_key(randomness.seed, randomness.run);
        randomness.run = randomness.run.wrapping_add(u64::from(counts));
        Some(AnyTensor::Host(Tensor::from_slice(DType::U32, [2], &key).expect("two words")))
    }

    /// A run of a graph that computes nothing.
    async fn hand_through(
        &self,
        through: &Through,
        mut given: Vec<AnyTensor>,
        ends: Ends,
        wait: Wait,
    ) -> Result<Vec<(String, AnyTensor)>> {
        if ends == Ends::Host {
            for (value, input) in given.iter_mut().zip(&self.inputs) {
                let settled = value.clone().settle(None, true, wait).await;
                *value =
                    settled.map_err(|why| Error::input(&input.name, format!("cannot be read: {why}")))?;
            }
        }
        if !self.inner {
            self.tallies.count(|it| &it.runs);
            self.tallies.count(|it| &it.handed_through);
        }
        Ok(through.outputs(&given))
    }

    async fn measure_waiting(&self, given: &[(&str, Tensor)], effort: Effort, wait: Wait) -> Result<Profile> {
        let mut values = inputs::ordered(&self.inputs, given)?;
        let mut states = self.states().await;
        let shapes = values.iter().map(|it| it.ty().shape.clone()).collect();
        let entry = self.entry(self.shapes(states.as_deref(), shapes)?)?;
        let mut state = entry.state.lock().await;
        let plan = self.ready(&entry, &mut state, states.as_deref_mut()).await?;
        let tape = state.tape.as_mut().expect("just made ready");
        values.extend(self.random_key(&plan, false));
        let mut saved = None;
        if let Some(states) = states.as_deref_mut() {
            saved = Some(states.save(wait).await?);
            // Restored below; what is lost meanwhile was saved.
            states.enter(&plan, wait).await?;
        }
        let result = profile(tape, &plan, &values, effort, wait).await;
        if let (Some(states), Some(saved)) = (states.as_deref_mut(), saved) {
            states.restore(saved);
        }
        match result {
            Ok(profile) => Ok(profile),
            Err(error) => Err(self.failed(&entry, &mut state, error)),
        }
    }

    /// The value of a state: what the next run begins with.
    pub async fn state_async(&self, name: &str) -> Result<Tensor> {
        self.states.lock().await.value(name, Wait::Yield).await
    }

    /// From now on the state has this value. The first value of a state whose sizes the model leaves open fixes them.
    pub async fn set_state_async(&self, name: &str, value: &Tensor) -> Result<()> {
        self.states.lock().await.set(name, value)
    }

    /// From now on every state is 0, as before the first run.
    pub async fn reset_states_async(&self) {
        self.states.lock().await.reset();
    }
}

/// Forms that block the thread.
#[cfg(not(target_arch = "wasm32"))]
impl Session {
    /// See `run_async`.
    pub fn run(&self, given: &[(&str, Tensor)]) -> Result<Outputs> {
        pollster::block_on(self.run_waiting(given, Wait::Block))
    }

    /// See `run_on_device_async`.
    pub fn run_on_device<V: Clone + Into<AnyTensor>>(
        &self,
        given: &[(&str, V)],
    ) -> Result<Outputs<DeviceTensor>> {
        pollster::block_on(self.run_there(given, Wait::Block))
    }

    /// See `profile_async`.
    pub fn profile(&self, given: &[(&str, Tensor)]) -> Result<Vec<KernelTime>> {
        Ok(self.measure(given, ONCE)?.kernels)
    }

    /// See `measure_async`.
    pub fn measure(&self, given: &[(&str, Tensor)], effort: Effort) -> Result<Profile> {
        pollster::block_on(self.measure_waiting(given, effort, Wait::Block))
    }

    /// See `state_async`.
    pub fn state(&self, name: &str) -> Result<Tensor> {
        pollster::block_on(async { self.states.lock().await.value(name, Wait::Block).await })
    }

    /// See `set_state_async`.
    pub fn set_state(&self, name: &str, value: &Tensor) -> Result<()> {
        pollster::block_on(self.set_state_async(name, value))
    }

    /// See `reset_states_async`.
    pub fn reset_states(&self) {
        pollster::block_on(self.reset_states_async());
    }

    /// See `plan_for_async`.
    pub fn plan_for(&self, shapes: &[Shape]) -> Result<Arc<Plan>> {
        pollster::block_on(self.plan_for_async(shapes))
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;

    #[test]
    fn sessions_cross_threads() {
        fn crosses<T: Send + Sync>() {}
        fn moves<T: Send>(_: impl Fn(&'static Session) -> T) {}
        crosses::<Session>();
        moves(|session| session.run_async(&[]));
    }

    #[cfg(feature = "compiler")]
    #[test]
    fn what_the_driver_refuses_runs_on_the_processor_unless_that_is_forbidden() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let device = Device::from_wgpu(device, queue);
        let mut b = wgfuse_compiler::graph::builder::GraphBuilder::new();
        let x = b.input("x", wgfuse_compiler::dtype::DType::F32, [4]).expect("new");
        let y = b.exp(x).expect("a float");
        b.output("y", y).expect("new");
        let model = Model::from_graph(b.finish().expect("whole"));
        let session = || {
            let broken: Planted = Arc::new(|plan: &mut Plan| {
                for kernel in &mut plan.kernels {
                    if let Some(shader) = &mut kernel.shader {
                        shader.module = naga::Module::default().into();
                    }
                }
            });
            Session::new(&model, &device).expect("options").planted(broken)
        };
        let x = || [("x", Tensor::f32([4], &[0.0; 4]).expect("four"))];
        let own = session();
        for _ in 0..2 {
            assert_eq!(own.run(&x()).expect("the processor")["y"].to_f64(), [1.0; 4]);
        }
        let told = own.disabled();
        let refused = told.iter().find(|it| matches!(it.reason, DisabledReason::Validation(_)));
        assert!(
            refused.is_some_and(|it| it.count == 1 && it.reason.to_string().contains("kernel")),
            "{told:?}"
        );
        let strict = session().forbid(|it| matches!(it, DisabledReason::Validation(_)));
        let error = strict.run(&x()).map(|_| ()).expect_err("forbidden").to_string();
        assert!(error.contains("refused"), "{error}");
    }
}
