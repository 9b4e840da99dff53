//! A graph to a plan: by reading what an earlier process has kept, or by compiling.

use wgfuse_compiler::{
    compile_graph, error::Error, graph::Graph, options::Options, plan::Plan, schedule::Choices,
    target::Target,
};

#[cfg(not(target_arch = "wasm32"))]
use wgfuse_compiler::target::Place;

use crate::{counters::count, device::Device};

/// The plan of `graph` on `target`, which is `device`'s or the processor's. Kept are those for GPUs, whose kernels take long
/// to write.
pub(crate) fn plan(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
    device: &Device,
) -> Result<Plan, Error> {
    #[cfg(not(target_arch = "wasm32"))]
    if let Some(store) = device.store()
        && target.place == Place::Gpu
        && let Some(key) = wgfuse_compiler::plan::kept::key(&graph, target, options, choices)
    {
        use wgfuse_compiler::plan::kept;
        if let Some(bytes) = store.get("plan", &key) {
            match kept::read(&bytes, &graph, target) {
                Ok(plan) => return Ok(plan),
                Err(why) => tracing::warn!("a kept plan is left out: {why}"),
            }
        }
        count(&device.counters().plans);
        let plan = compile_graph(graph.clone(), target, options, choices)?;
        store.put("plan", &key, &kept::write(&plan, &graph));
        return Ok(plan);
    }
    count(&device.counters().plans);
    compile_graph(graph, target, options, choices)
}
