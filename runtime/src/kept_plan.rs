//! A graph to a plan: as another session of the process has it, as an earlier process has kept it, or by compiling.

use tracing::{Span, field::Empty, info_span};
use wgfuse_compiler::{
    compile_graph,
    error::Error,
    graph::Graph,
    options::Options,
    plan::{Plan, kept},
    schedule::Choices,
    target::Target,
};

use crate::{
    counters::count,
    device::Device,
    shared_plans::PLANS,
    tally::{Bypass, Tallies},
};

/// The plan of `graph` on `target`, which is `device`'s or the processor's.
pub(crate) fn plan(
    graph: &Graph,
    target: &Target,
    options: &Options,
    choices: &Choices,
    device: &Device,
    tallies: &Tallies,
) -> Result<Plan, Error> {
    let _looking = info_span!("find_plan", nodes = graph.len(), from = Empty).entered();
    let compile = || {
        Span::current().record("from", "compiler");
        count(&device.counters().plans);
        tallies.count(|it| &it.compiled);
        compile_graph(graph.clone(), target, options, choices)
    };
    let key = match device.keeps_plans() {
        false => Err(Bypass::Off),
        true => kept::key(graph, target, options, choices).ok_or(Bypass::OwnPasses),
    };
    let key = match key {
        Ok(key) => key,
        Err(why) => {
            bypass(tallies, why);
            return compile();
        }
    };
    #[cfg(not(target_arch = "wasm32"))]
    let compile = || disk::plan(&key, graph, target, device, tallies, compile);
    match device.shares_plans() {
        true => PLANS.plan((device.folder(), key), graph, tallies, compile),
        false => {
            tallies.count(|it| it.memory.bypass(Bypass::Off));
            compile()
        }
    }
}

/// Neither level of the cache is used.
pub(crate) fn bypass(tallies: &Tallies, why: Bypass) {
    tallies.count(|it| it.memory.bypass(why));
    tallies.count(|it| it.disk.bypass(why));
}

/// Kept are plans for GPUs, whose kernels take long to write.
#[cfg(not(target_arch = "wasm32"))]
mod disk {
    use wgfuse_compiler::target::Place;

    use super::*;
    use crate::store::Store;

    pub fn plan(
        key: &[u8; 32],
        graph: &Graph,
        target: &Target,
        device: &Device,
        tallies: &Tallies,
        compile: impl Fn() -> Result<Plan, Error>,
    ) -> Result<Plan, Error> {
        let bypassed = |why: Bypass| tallies.count(|it| it.disk.bypass(why));
        let store = match store(target, device) {
            Ok(store) => store,
            Err(why) => {
                bypassed(why);
                return compile();
            }
        };
        if let Some(bytes) = store.get("plan", key) {
            match kept::read(&bytes, graph, target) {
                Ok(plan) => {
                    tallies.count(|it| &it.disk.hits);
                    Span::current().record("from", "disk");
                    return Ok(plan);
                }
                Err(why) => tracing::warn!("a kept plan is left out: {why}"),
            }
        }
        tallies.count(|it| &it.disk.misses);
        let plan = compile()?;
        if let Some(why) = store.put("plan", key, &kept::write(&plan, graph)) {
            bypassed(why);
        }
        Ok(plan)
    }

    /// Where the plan would lie, or why nowhere.
    fn store<'a>(target: &Target, device: &'a Device) -> Result<&'a Store, Bypass> {
        if target.place == Place::Cpu {
            return Err(Bypass::Processor);
        }
        let store = device.store().ok_or(Bypass::Off)?;
        if store.is_trusted() { Ok(store) } else { Err(Bypass::Unwritable) }
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use wgfuse_compiler::{dtype::DType, graph::builder::GraphBuilder};

    use super::*;
    use crate::store::Store;

    #[test]
    fn what_is_too_large_for_the_folder_is_compiled_each_time() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [7]).expect("an input");
        let y = b.exp(x).expect("a float");
        b.output("y", y).expect("a new name");
        let (graph, target) = (b.finish().expect("whole"), Target::webgpu_minimum());
        let folder = tempfile::tempdir().expect("a folder");
        let found = |limit: u64| {
            let store = Store::new(&folder.path().join(limit.to_string())).limited_to(limit);
            let device = Device::cpu().keeping_in(Some(store)).share_plans(false);
            let tallies = Tallies::default();
            for _ in 0..2 {
                plan(&graph, &target, &Options::default(), &Choices::default(), &device, &tallies)
                    .expect("compiled");
            }
            let it = tallies.tally();
            (it.compiled, it.disk.hits, it.disk.misses, it.disk.bypassed(Bypass::TooLarge))
        };
        assert_eq!(found(64), (2, 0, 2, 2));
        assert_eq!(found(1 << 20), (1, 1, 1, 0));
    }
}
