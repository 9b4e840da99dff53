//! wgfuse's compiler: a model and the shapes of its inputs become a plan. It knows naga; it knows no graphics API, no
//! files, no clock and no threads.
//!
//! Modules stand in the order in which data flows; a module uses only those above it.

#![cfg_attr(
    not(feature = "compile"),
    allow(dead_code, unused_imports, reason = "types of the stages stand among what makes them")
)]

pub mod dtype;
pub mod shape;
pub mod error;
pub mod random;
pub mod scalar;
pub mod meaning;
pub mod tensor;
pub mod text;
pub mod index;
pub mod target;
pub mod graph;
pub mod replacement;
pub mod options;
pub mod import;
pub mod passes;
pub mod partition;
pub mod lower;
pub mod schedule;
pub mod codegen;
pub mod plan;
pub mod artefact;
#[cfg(feature = "compile")]
pub mod arguments;

#[cfg(feature = "compile")]
use {
    codegen::Shader,
    error::Error,
    graph::Graph,
    import::Model,
    lower::Loops,
    options::Options,
    partition::Partition,
    plan::Plan,
    schedule::{Choices, Schedule},
    shape::Shape,
    target::Target,
};

#[cfg(feature = "compile")]
/// Everything from a model to a plan, for one shape an input. This function is the architecture.
pub fn compile(model: &Model, shapes: &[Shape], target: &Target, options: &Options) -> Result<Plan, Error> {
    compile_graph(model.graph(shapes)?, target, options, &Choices::default())
}

#[cfg(feature = "compile")]
/// Whether `options` name only what there is. Nothing else about them depends on a model.
pub fn check(options: &Options) -> Result<(), Error> {
    passes::check_names(options)
}

#[cfg(feature = "compile")]
/// As `compile`, of a model's graph, with tiles that were measured in place of those that tables give.
pub fn compile_graph(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
) -> Result<Plan, Error> {
    compile_observed(graph, target, options, choices, &mut |_| {})
}

#[cfg(feature = "compile")]
/// As `compile_graph`; `observe` is shown what each stage has made.
pub fn compile_observed(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
    observe: &mut dyn FnMut(Made<'_>),
) -> Result<Plan, Error> {
    let (parts, schedule) = scheduled(graph, target, options, choices, observe)?;
    let shaders = codegen::emit(&schedule, target, options)?;
    observe(Made::Shaders(&shaders));
    let plan = plan::plan(&parts, schedule, shaders, target, options)?;
    observe(Made::Plan(&plan));
    Ok(plan)
}

#[cfg(feature = "compile")]
/// The way to the schedule.
pub fn schedule_graph(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
) -> Result<(Partition, Schedule), Error> {
    scheduled(graph, target, options, choices, &mut |_| {})
}

#[cfg(feature = "compile")]
fn scheduled(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
    observe: &mut dyn FnMut(Made<'_>),
) -> Result<(Partition, Schedule), Error> {
    let graph =
        passes::optimise_observed(graph, target, options, &mut |pass, it| observe(Made::Graph(pass, it)))?;
    let parts = partition::split(&graph, target, options)?;
    observe(Made::Partition(&parts));
    let loops = lower::lower(&parts);
    observe(Made::Loops(&loops));
    let schedule = schedule::schedule_as(loops, target, options, choices);
    observe(Made::Schedule(&schedule));
    Ok((parts, schedule))
}

#[cfg(feature = "compile")]
/// What a stage has made.
pub enum Made<'a> {
    /// After the pass of this name.
    Graph(&'a str, &'a Graph),
    Partition(&'a Partition),
    Loops(&'a Loops),
    Schedule(&'a Schedule),
    /// One a kernel; none for those of the processor.
    Shaders(&'a [Option<Shader>]),
    Plan(&'a Plan),
}
