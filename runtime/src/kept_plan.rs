//! A graph to a plan: by reading what an earlier process has kept, or by compiling.

use wgfuse_compiler::{
    compile_graph, error::Error, graph::Graph, options::Options, plan::Plan, schedule::Choices,
    target::Target,
};

use crate::{counters::count, device::Device, tally::Tallies};

/// The plan of `graph` on `target`, which is `device`'s or the processor's. Kept are those for GPUs, whose kernels take long
/// to write.
pub(crate) fn plan(
    graph: Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
    device: &Device,
    tallies: &Tallies,
) -> Result<Plan, Error> {
    let compile = |graph: Graph| {
        count(&device.counters().plans);
        tallies.count(|it| &it.compiled);
        compile_graph(graph, target, options, choices)
    };
    #[cfg(not(target_arch = "wasm32"))]
    {
        disk::plan(graph, target, options, choices, device, tallies, compile)
    }
    #[cfg(target_arch = "wasm32")]
    compile(graph)
}

#[cfg(not(target_arch = "wasm32"))]
mod disk {
    use wgfuse_compiler::{plan::kept, target::Place};

    use super::*;
    use crate::{store::Store, tally::Bypass};

    pub fn plan(
        graph: Graph,
        target: &Target,
        options: &Options,
        choices: &Choices,
        device: &Device,
        tallies: &Tallies,
        compile: impl Fn(Graph) -> Result<Plan, Error>,
    ) -> Result<Plan, Error> {
        let bypassed = |why: Bypass| tallies.count(|it| it.disk.bypass(why));
        let (store, key) = match way(&graph, target, options, choices, device) {
            Ok(way) => way,
            Err(why) => {
                bypassed(why);
                return compile(graph);
            }
        };
        if let Some(bytes) = store.get("plan", &key) {
            match kept::read(&bytes, &graph, target) {
                Ok(plan) => {
                    tallies.count(|it| &it.disk.hits);
                    return Ok(plan);
                }
                Err(why) => tracing::warn!("a kept plan is left out: {why}"),
            }
        }
        tallies.count(|it| &it.disk.misses);
        let plan = compile(graph.clone())?;
        if let Some(why) = store.put("plan", &key, &kept::write(&plan, &graph)) {
            bypassed(why);
        }
        Ok(plan)
    }

    /// Where the plan would lie, or why nowhere.
    fn way<'a>(
        graph: &Graph,
        target: &Target,
        options: &Options,
        choices: &Choices,
        device: &'a Device,
    ) -> Result<(&'a Store, [u8; 32]), Bypass> {
        if target.place == Place::Cpu {
            return Err(Bypass::Processor);
        }
        let store = device.store().ok_or(Bypass::Off)?;
        if !store.is_trusted() {
            return Err(Bypass::Unwritable);
        }
        let key = kept::key(graph, target, options, choices).ok_or(Bypass::OwnPasses)?;
        Ok((store, key))
    }
}
