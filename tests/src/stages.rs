//! What each stage of the compiler makes of a graph.

use wgfuse_compiler::{
    codegen,
    error::Error,
    graph::Graph,
    lower::{self, Loops},
    options::Options,
    partition::{self, Partition},
    passes,
    plan::{self, Plan},
    schedule::{self, Schedule},
    target::Target,
};

pub struct Stages {
    pub parts: Partition,
    pub loops: Loops,
    pub schedule: Schedule,
    pub plan: Plan,
}

pub fn stages(graph: Graph, target: &Target, options: &Options) -> Result<Stages, Error> {
    let graph = passes::optimise(graph, target, options)?;
    let parts = partition::split(&graph, target, options)?;
    let loops = lower::lower(&parts);
    let schedule = schedule::schedule(loops.clone(), target, options);
    let shaders = codegen::emit(&schedule, target, options)?;
    let plan = plan::plan(&parts, schedule.clone(), shaders, target, options)?;
    Ok(Stages { parts, loops, schedule, plan })
}
