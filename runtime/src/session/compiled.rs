//! Compiling for one shape an input: what it is given, where that is kept, and what is told where the compiler fails.

use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::{io, path::Path, path::PathBuf};

use wgfuse_compiler::{
    arguments::{Arguments, Example, this_build},
    dtype::DType,
    graph::Graph,
    plan::Plan,
    random,
    schedule::Choices,
    target::{Place, Target},
    tensor::Tensor,
};

#[cfg(not(target_arch = "wasm32"))]
use wgfuse_compiler::error::Error as ModelError;

use super::{Entry, Session};
use crate::{caught::caught, device_tensor::AnyTensor, error::Result, kept_plan, through::Through};
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    counters::count,
    debug_folder,
    error::Error,
    observed::Observed,
    tally::Bypass,
    tuner::{Tune, tuned},
};

/// Folders that one session writes unasked.
#[cfg(not(target_arch = "wasm32"))]
const UNASKED: usize = 4;

impl Session {
    pub(super) fn compile(&self, entry: &Entry, target: &Target) -> Result<Arc<Plan>> {
        let mut known = None;
        let made = caught(|| {
            let at_hand = entry.graph.lock().expect("nothing panics inside").take();
            let graph = at_hand.map_or_else(|| self.model.graph(&entry.shapes), Ok)?;
            entry.through.get_or_init(|| Through::of(&graph));
            let choices = self.choices_for(&graph, target)?;
            let arguments = known.insert(self.arguments(entry, graph, target, choices));
            #[cfg(not(target_arch = "wasm32"))]
            if let Some(saving) = &self.saving {
                match saving.save(arguments) {
                    Ok(folder) => tracing::info!("the compilation's arguments are in {}", folder.display()),
                    Err(source) => return Err(Error::Io { path: saving.folder.clone(), source }),
                }
            }
            #[cfg(not(target_arch = "wasm32"))]
            if let Some(parent) = &self.debug {
                count(&self.device.counters().plans);
                self.tallies.count(|it| &it.compiled);
                kept_plan::bypass(&self.tallies, Bypass::Shown);
                let (plan, folder) = self.shown(arguments, parent);
                return match (plan, folder) {
                    (Ok(_), Err(source)) => Err(Error::Io { path: parent.clone(), source }),
                    (Ok(plan), Ok(folder)) => {
                        tracing::info!("the compilation is shown in {}", folder.display());
                        Ok(Arc::new(plan))
                    }
                    (Err(error), folder) => Err(told(error, arguments, folder)),
                };
            }
            let Arguments { graph, options, choices, .. } = &*arguments;
            let plan = kept_plan::plan(graph, target, options, choices, &self.device, &self.tallies);
            Ok(self.with_fault(Arc::new(plan?)))
        });
        #[cfg(not(target_arch = "wasm32"))]
        if let (Err(error), Some(arguments), None) = (&made, &known, &self.debug)
            && is_failure(error, arguments)
            && let Some(parent) = self.unasked()
        {
            let (again, folder) = parent.map_or_else(
                |error| (None, Err(error)),
                |parent| {
                    let (again, folder) = self.shown(arguments, &parent);
                    (again.err(), folder)
                },
            );
            return made.map_err(|error| told(again.unwrap_or(error), arguments, folder));
        }
        made
    }

    /// The plan, changed where a test has asked for that.
    fn with_fault(&self, plan: Arc<Plan>) -> Arc<Plan> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(change) = &self.planted {
            let mut plan = (*plan).clone();
            change(&mut plan);
            return Arc::new(plan);
        }
        plan
    }

    fn choices_for(&self, graph: &Graph, target: &Target) -> Result<Choices> {
        if let Some(choices) = &self.choices {
            return Ok(choices.clone());
        }
        #[cfg(not(target_arch = "wasm32"))]
        if self.tune != Tune::Off && target.place == Place::Gpu {
            let (choices, found) = tuned(graph, target, &self.options, &self.device, self.tune)?;
            self.tuned.lock().expect("nothing panics inside").extend(found);
            return Ok(choices);
        }
        #[cfg(target_arch = "wasm32")]
        let _ = (graph, target);
        Ok(Choices::default())
    }

    /// All that decides about the plan, and what it will be given. Tensors of the device are read only where they are to be kept.
    fn arguments(&self, entry: &Entry, graph: Graph, target: &Target, choices: Choices) -> Arguments {
        let mut given = entry.given.lock().expect("nothing panics inside").clone().into_iter();
        let states = &self.model.states;
        #[cfg(not(target_arch = "wasm32"))]
        let keeps = self.saving.is_some() || self.debug.is_some();
        let example = |number: usize| {
            if graph.random_key_slot() == Some(number as u32) {
                let randomness = *self.randomness.lock().expect("nothing panics inside");
                let key = random::run_key(randomness.seed, randomness.run);
                return Example {
                    device: "host".to_owned(),
                    value: Tensor::from_slice(DType::U32, [2], &key),
                };
            }
            let is_state = states.iter().any(|it| it.input as usize == number);
            let (device, value) = match if is_state { None } else { given.next() } {
                None => (self.device.name(), None),
                Some(AnyTensor::Host(it)) => ("host", Some(it)),
                #[cfg(not(target_arch = "wasm32"))]
                Some(AnyTensor::Device(it)) if keeps => (self.device.name(), it.read().ok()),
                Some(AnyTensor::Device(_)) => (self.device.name(), None),
            };
            Example { device: device.to_owned(), value }
        };
        Arguments {
            examples: (0..graph.inputs().len()).map(example).collect(),
            graph,
            options: self.options.clone(),
            device: match target.place {
                Place::Gpu => self.device.name().to_owned(),
                Place::Cpu => "processor".to_owned(),
            },
            target: target.clone(),
            choices,
            own_passes: self.options.passes.iter().map(|it| it.name.clone()).collect(),
            build: this_build(),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Session {
    /// Compiles without looking for a plan that is there already, and shows it in a new folder in `parent`.
    fn shown(&self, arguments: &Arguments, parent: &Path) -> (Result<Plan>, io::Result<PathBuf>) {
        let Arguments { graph, options, target, choices, .. } = arguments;
        let mut observed = Observed::new(graph.clone());
        let plan = caught(|| Ok(observed.compile(target, options, choices)?));
        let text = plan.as_ref().map_err(Error::to_string);
        let outcome = text.as_ref().map(|it| *it).map_err(String::as_str);
        let folder = debug_folder::write(parent, arguments, &observed, outcome);
        (plan, folder)
    }

    /// A folder for a failure, unless there were many.
    fn unasked(&self) -> Option<io::Result<PathBuf>> {
        let before = self.failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = || tempfile::Builder::new().prefix("wgfuse-").tempdir().map(tempfile::TempDir::keep);
        (before < UNASKED).then(folder)
    }
}

/// Whether the compiler or a pass of the user's own is at fault, not the model.
#[cfg(not(target_arch = "wasm32"))]
fn is_failure(error: &Error, arguments: &Arguments) -> bool {
    match error {
        Error::Model(ModelError::Bug { .. }) => true,
        // Where patterns are applied together, that is their pass.
        Error::Model(ModelError::Pass { pass, .. }) => {
            arguments.own_passes.contains(pass)
                || (!arguments.options.patterns.is_empty() && pass.starts_with("patterns "))
        }
        _ => false,
    }
}

/// The error with where to look and what to do.
#[cfg(not(target_arch = "wasm32"))]
fn told(error: Error, arguments: &Arguments, folder: io::Result<PathBuf>) -> Error {
    if !is_failure(&error, arguments) {
        return error;
    }
    let more = match folder {
        Ok(folder) => {
            let folder = folder.display();
            let own = match arguments.own_passes.is_empty() {
                true => "",
                false => ", but for the program's own passes, which `wgfuse::compile_arguments` can be given",
            };
            format!(
                "; what was compiled is in {folder}; `wgfuse replay-args {folder}` compiles it again{own}"
            )
        }
        Err(error) => format!("; no folder could be written about it: {error}"),
    };
    match error {
        Error::Model(ModelError::Bug { what }) => ModelError::Bug { what: what + &more }.into(),
        Error::Model(ModelError::Pass { pass, what }) => ModelError::Pass { pass, what: what + &more }.into(),
        other => other,
    }
}
