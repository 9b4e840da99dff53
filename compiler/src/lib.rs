//! wgfuse's compiler: a model and the shapes of its inputs become a plan. It knows naga; it knows no graphics API, no
//! files, no clock and no threads.
//!
//! Modules stand in the order in which data flows; a module uses only those above it.

pub mod dtype;
pub mod shape;
pub mod error;
pub mod scalar;
pub mod meaning;
pub mod tensor;
pub mod text;
pub mod index;
pub mod target;
pub mod graph;
pub mod options;
pub mod import;
pub mod passes;
pub mod partition;
pub mod lower;
pub mod schedule;
pub mod codegen;
pub mod plan;

use error::Error;
use graph::Graph;
use import::Model;
use options::Options;
use partition::Partition;
use plan::Plan;
use schedule::{Choices, Schedule};
use shape::Shape;
use target::Target;

/// Everything from a model to a plan, for one shape an input. This function is the architecture.
pub fn compile(model: &Model, shapes: &[Shape], target: &Target, options: &Options) -> Result<Plan, Error> {
    compile_graph(model.graph(shapes)?, target, options, &Choices::default())
}

/// Whether `options` name only what there is. Nothing else about them depends on a model.
pub fn check(options: &Options) -> Result<(), Error> {
    passes::check_names(options)
}

/// As `compile`, of a model's graph, with tiles that were measured in place of those that tables give.
pub fn compile_graph(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
) -> Result<Plan, Error> {
    let (parts, schedule) = schedule_graph(graph, target, options, choices)?;
    let shaders = codegen::emit(&schedule, target, options)?;
    plan::plan(&parts, schedule, shaders, target, options)
}

/// The way to the schedule.
pub fn schedule_graph(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
) -> Result<(Partition, Schedule), Error> {
    let graph = passes::optimise(graph, target, options)?;
    let parts = partition::split(&graph, target, options)?;
    let loops = lower::lower(&parts);
    let schedule = schedule::schedule_as(loops, target, options, choices);
    Ok((parts, schedule))
}
