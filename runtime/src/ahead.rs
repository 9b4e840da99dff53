//! Models compiled ahead of time.
//!
//! In: a model, shapes, targets. Out: the bytes of an artefact, whose constants are computed.

use wgfuse_compiler::{
    artefact::{Draft, write},
    compile_graph,
    options::Options,
    plan::{Constant, written::Face},
    schedule::Choices,
    shape::Shape,
    target::{Place, Target},
};

use crate::{caught::caught, constants, error::Result, model::Model};

impl Model {
    /// Compiles the model ahead of time: the bytes of an artefact, which `Model::open`, `Model::from_bytes` and `Session::load`
    /// take, in builds without the feature `compiler` too. It has a plan for each of `shapes` (one shape an input, states
    /// among them) on each of `targets`, and one for the processor. Of several targets the best comes first:
    /// `Target::webgpu_minimum()` is one that every WebGPU device can run. `Options::fallback` and
    /// `Options::checked` are not kept: who loads it decides them.
    pub fn compile(&self, shapes: &[Vec<Shape>], targets: &[Target], options: &Options) -> Result<Vec<u8>> {
        wgfuse_compiler::check(options)?;
        let mut targets = targets.to_vec();
        if targets.iter().all(|it| it.place != Place::Cpu) {
            targets.push(Target::cpu());
        }
        caught(|| {
            let mut plans = Vec::new();
            for shapes in shapes {
                for target in &targets {
                    let graph = self.graph(shapes)?;
                    let face = Face::of(&graph);
                    let plan = compile_graph(graph, target, options, &Choices::default())?;
                    let values = {
                        let all: Vec<&Constant> = plan.constants.iter().collect();
                        constants::values(&plan, &all)
                    };
                    plans.push((shapes, face, plan, values));
                }
            }
            let drafts: Vec<Draft<'_>> = (plans.iter())
                .map(|(shapes, face, plan, values)| Draft { shapes, face, plan, values })
                .collect();
            Ok(write((&self.inputs, &self.outputs), &self.states, &drafts)?)
        })
    }
}
