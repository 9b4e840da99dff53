//! From shapes to a plan and a tape on a living device, and what becomes of them after an error.

use std::sync::{Arc, Mutex, OnceLock};

use async_lock::Mutex as AsyncMutex;
use tracing::{Instrument, field::Empty, info_span};
use wgfuse_compiler::{
    artefact::Unfit,
    error::Error as ModelError,
    import::Begin,
    options::Fallback,
    plan::{Plan, Step},
    shape::Shape,
    target::{Place, Target},
};

#[cfg(feature = "compiler")]
use super::stretches::Node;
use super::{Entry, Session, State};
use crate::{
    artefact::reason,
    capture::{Tape, capture},
    caught::caught,
    constants::Failure,
    device_tensor::AnyTensor,
    disabled::DisabledReason,
    error::{DeviceError, Error, Result},
    launch::Replay,
    state::States,
    through::Through,
};

impl Entry {
    /// What may become examples of the inputs of the plan that is not there yet.
    pub(super) fn show(&self, given: &[AnyTensor]) {
        if self.plan.get().is_none() {
            *self.given.lock().expect("nothing panics inside") = given.to_vec();
        }
    }
}

impl Session {
    pub(super) async fn states(&self) -> Option<async_lock::MutexGuard<'_, States>> {
        match self.model.states.is_empty() {
            true => None,
            false => Some(self.states.lock().await),
        }
    }

    /// The shapes of all inputs of the model.
    pub(super) fn shapes(&self, states: Option<&States>, given: Vec<Shape>) -> Result<Vec<Shape>> {
        match states {
            Some(states) => states.shapes(self.model.inputs.len(), &given),
            None => Ok(given),
        }
    }

    pub(super) fn entry(&self, shapes: Vec<Shape>) -> Result<Arc<Entry>> {
        let mut all = self.shapes.lock().expect("nothing panics inside");
        let entry = match all.iter().position(|it| it.shapes == shapes) {
            Some(at) => all.remove(at),
            None => {
                if all.len() >= self.kept {
                    self.stepped(DisabledReason::ShapeBudget { kept: self.kept })?;
                    all.remove(0);
                }
                Arc::new(Entry {
                    shapes,
                    state: AsyncMutex::default(),
                    plan: OnceLock::new(),
                    through: OnceLock::new(),
                    #[cfg(feature = "compiler")]
                    stretches: OnceLock::new(),
                    graph: Mutex::default(),
                    given: Mutex::default(),
                })
            }
        };
        all.push(entry.clone());
        Ok(entry)
    }

    /// Takes note of a step down, or refuses it.
    pub(super) fn stepped(&self, reason: DisabledReason) -> Result<()> {
        self.may(&reason)?;
        self.disabled.add(reason);
        Ok(())
    }

    fn may(&self, reason: &DisabledReason) -> Result<()> {
        match &self.forbidden {
            Some(forbidden) if forbidden(reason) => {
                let node = "the whole model".into();
                Err(ModelError::Fallback { node, reason: reason.to_string() }.into())
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that the entry has a plan and a tape on a living device.
    pub(super) async fn ready(
        &self,
        entry: &Entry,
        state: &mut State,
        mut states: Option<&mut States>,
    ) -> Result<Arc<Plan>> {
        if state.tape.as_ref().is_some_and(|it| it.gpu.as_ref().is_some_and(|it| it.lost().is_some())) {
            state.tape = None;
        }
        let plan = self.plan(entry, state)?;
        if state.tape.is_some() {
            return Ok(plan);
        }
        let captured = match self.capture(&plan, states.as_deref_mut()).await {
            // Recording is not replaced where it was asked for by name.
            Err(Failure::Error(Error::Device(DeviceError::Refused { at, what })))
                if plan.target.place == Place::Gpu
                    && self.options.fallback == Fallback::Cpu
                    && self.replay != Replay::Recorded =>
            {
                Err(Failure::Step(DisabledReason::Validation(format!("{at}: {what}"))))
            }
            other => other,
        };
        match captured {
            Ok(tape) => {
                state.tape = Some(tape);
                Ok(plan)
            }
            Err(Failure::Error(error)) => Err(self.failed(entry, state, error)),
            Err(Failure::Step(reason)) => {
                let plan = self.step_down(entry, reason)?;
                state.fallback = Some(plan.clone());
                match self.capture(&plan, states).await {
                    Ok(tape) => state.tape = Some(tape),
                    Err(Failure::Error(error)) => return Err(error),
                    Err(Failure::Step(reason)) => {
                        return Err(ModelError::node(reason.to_string(), "runs nowhere").into());
                    }
                }
                Ok(plan)
            }
        }
    }

    async fn capture(&self, plan: &Plan, states: Option<&mut States>) -> std::result::Result<Tape, Failure> {
        let gpu = match plan.target.place {
            Place::Gpu => Some(self.device.gpu_now().await?),
            Place::Cpu => None,
        };
        let mut constants = self.constants.lock().await;
        let (mut none, checked) = (States::default(), self.options.checked);
        let states = states.unwrap_or(&mut none);
        let span =
            info_span!("capture", kernels = plan.kernels.len(), steps = plan.steps.len(), recorded = Empty);
        let tape =
            capture(plan, gpu, &mut constants, checked, self.replay, states).instrument(span.clone()).await?;
        span.record("recorded", tape.is_recorded());
        if let Some(reason) = &tape.portable {
            self.stepped(reason.clone())?;
        }
        Ok(tape)
    }

    pub(super) fn plan(&self, entry: &Entry, state: &State) -> Result<Arc<Plan>> {
        if let Some(plan) = &state.fallback {
            return Ok(plan.clone());
        }
        if let Some(plan) = entry.plan.get() {
            if self.forbidden.is_some() {
                steps_of(plan).iter().try_for_each(|it| self.may(it))?;
            }
            return Ok(plan.clone());
        }
        if let Some(reason) = self.device.disabled_reason() {
            self.may(reason)?;
        }
        let plan = match self.planned(entry, self.device.target()) {
            Err(Error::Model(ModelError::TooLarge { at, need, have })) if self.device.is_gpu() => {
                self.step_down(entry, DisabledReason::LimitExceeded { at, need, have })?
            }
            other => other?,
        };
        let plan = entry.plan.get_or_init(|| plan).clone();
        entry.given.lock().expect("nothing panics inside").clear();
        steps_of(&plan).into_iter().try_for_each(|it| self.stepped(it))?;
        Ok(plan)
    }

    /// How to answer without a plan, where nothing is to be computed.
    #[cfg_attr(
        not(feature = "compiler"),
        allow(clippy::infallible_destructuring_match, reason = "without an importer there are graphs alone")
    )]
    pub(super) fn through<'a>(&self, entry: &'a Entry) -> Result<Option<&'a Through>> {
        if let Some(found) = entry.through.get() {
            return Ok(found.as_ref());
        }
        if self.model.artefact.is_some() {
            self.model.bind(&entry.shapes)?;
            return Ok(entry.through.get_or_init(|| None).as_ref());
        }
        let graph = match caught(|| Ok(self.model.begin(&entry.shapes)?))? {
            Begin::Graph(graph) => graph,
            #[cfg(feature = "compiler")]
            Begin::Stretch(first) => {
                entry.stretches.get_or_init(|| Arc::new(Node::new(*first)));
                return Ok(entry.through.get_or_init(|| None).as_ref());
            }
        };
        let found = entry.through.get_or_init(|| Through::of(&graph));
        if found.is_none() {
            *entry.graph.lock().expect("nothing panics inside") = Some(graph);
        }
        Ok(found.as_ref())
    }

    /// The plan for the entry's shapes: that of the artefact, or one to be compiled.
    fn planned(&self, entry: &Entry, target: &Target) -> Result<Arc<Plan>> {
        if let Some(artefact) = &self.model.artefact {
            return match artefact.choose(&entry.shapes, target) {
                Ok(compiled) => Ok(Arc::new(artefact.plan(compiled)?)),
                Err(Unfit::Shapes) => Err(crate::artefact::other_shapes(artefact, &entry.shapes)),
                Err(unfit) => match reason(unfit) {
                    Some(reason) if target.place == Place::Gpu => self.step_down(entry, reason),
                    _ => Err(ModelError::malformed("the artefact", "has no plan for the processor").into()),
                },
            };
        }
        #[cfg(feature = "compiler")]
        return self.compile(entry, target);
        #[cfg(not(feature = "compiler"))]
        Err(ModelError::malformed("the model", "this build has no compiler: it runs artefacts").into())
    }

    /// The plan for the processor, or the reason as an error where that is not wanted.
    fn step_down(&self, entry: &Entry, reason: DisabledReason) -> Result<Arc<Plan>> {
        match self.options.fallback {
            Fallback::Error => {
                Err(ModelError::Fallback { node: "the whole model".into(), reason: reason.to_string() }
                    .into())
            }
            Fallback::Cpu => {
                self.may(&reason)?;
                let plan = self.planned(entry, &Target::cpu())?;
                self.disabled.add(reason);
                Ok(plan)
            }
        }
    }

    /// After an error nothing of the tape is trusted. A lost device is opened again by the next run; what does not fit
    /// into the device's memory runs on the processor from then on, if it may.
    pub(super) fn failed(&self, entry: &Entry, state: &mut State, error: Error) -> Error {
        match &error {
            Error::Device(DeviceError::Lost(why)) => {
                self.disabled.add(DisabledReason::DeviceLost(why.clone()));
                state.tape = None;
            }
            Error::Device(DeviceError::OutOfMemory(_)) => {
                state.tape = None;
                if self.options.fallback == Fallback::Cpu
                    && self.device.is_gpu()
                    && state.fallback.is_none()
                    && let Ok(plan) = self.step_down(entry, DisabledReason::OutOfMemory)
                {
                    state.fallback = Some(plan);
                }
            }
            Error::Device(_) => state.tape = None,
            // The inputs were at fault; the tape was not touched.
            Error::Model(_) | Error::StateLost { .. } | Error::Setting { .. } | Error::Io { .. } => {}
        }
        error
    }
}

/// What of a plan for the GPU is not done there.
fn steps_of(plan: &Plan) -> Vec<DisabledReason> {
    let parts = plan.cpu_parts.iter().map(|(node, why)| DisabledReason::of_node(node, why));
    parts.chain(read_in_the_middle(plan).map(|tensor| DisabledReason::HostRead { tensor })).collect()
}

/// The name of a tensor that the processor reads before the GPU goes on.
fn read_in_the_middle(plan: &Plan) -> Option<String> {
    let last = plan.steps.iter().rposition(|it| matches!(it, Step::Dispatch { .. }))?;
    plan.steps[..last].iter().find_map(|it| match it {
        Step::Download { tensor, .. } => Some(plan.tensors[*tensor].origin.to_string()),
        Step::Dispatch { .. } | Step::Host { .. } | Step::Upload { .. } => None,
    })
}
