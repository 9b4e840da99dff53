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
pub mod small_float;
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
use tracing::{field::Empty, info_span};

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
    let whole = info_span!("compile", nodes = graph.len(), kernels = Empty, bytes = Empty).entered();
    let (parts, schedule) = scheduled(graph, target, options, choices, observe)?;
    let span = info_span!("codegen", kernels = schedule.kernels.len(), shaders = Empty).entered();
    let shaders = codegen::emit(&schedule, target, options)?;
    span.record("shaders", shaders.iter().flatten().count());
    drop(span);
    observe(Made::Shaders(&shaders));
    let span = info_span!("plan", steps = Empty, buffers = Empty).entered();
    let plan = plan::plan(&parts, schedule, shaders, target, options)?;
    span.record("steps", plan.steps.len());
    span.record("buffers", plan.buffers.len());
    drop(span);
    whole.record("kernels", plan.kernels.len());
    whole.record("bytes", plan.buffers.iter().map(|it| it.size).sum::<u64>());
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
    let span = info_span!("passes", nodes = graph.len(), after = Empty).entered();
    let graph =
        passes::optimise_observed(graph, target, options, &mut |pass, it| observe(Made::Graph(pass, it)))?;
    span.record("after", graph.len());
    drop(span);
    let span = info_span!("partition", nodes = graph.len(), constants = Empty, on_cpu = Empty).entered();
    let parts = partition::split(&graph, target, options)?;
    span.record("constants", parts.constants.outputs.len());
    span.record("on_cpu", parts.reasons.len());
    drop(span);
    observe(Made::Partition(&parts));
    let span = info_span!("lower", nodes = parts.graph.len(), nests = Empty).entered();
    let loops = lower::lower(&parts);
    span.record("nests", loops.nests.len());
    drop(span);
    observe(Made::Loops(&loops));
    let span = info_span!("schedule", nests = loops.nests.len(), kernels = Empty, refusals = Empty).entered();
    let schedule = schedule::schedule_as(loops, target, options, choices);
    span.record("kernels", schedule.kernels.len());
    span.record("refusals", schedule.refusals.len());
    drop(span);
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
