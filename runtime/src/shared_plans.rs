//! Compiled graphs that the sessions of a process share.
//!
//! In: a key of everything that decides about a plan, and a way to make the plan. Out: the plan, made once for each key as long as it is
//! kept. What is kept holds no model's weights; the least recently used leaves first. Who asks for what another is making waits for it.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, MutexGuard},
};

use wgfuse_compiler::{
    error::Error,
    graph::Graph,
    plan::{Plan, template::Template},
};

use crate::tally::{Bypass, Tallies};

/// Plans that are kept at most, and the bytes that those of a process may take together.
const COUNT: usize = 64;
const BYTES: usize = 256 << 20;

/// The folder where the plan is kept too, so that one that is here is there, and the key.
type Key = (Option<PathBuf>, [u8; 32]);

pub(crate) struct SharedPlans {
    /// The most recently used last.
    all: Mutex<Vec<(Key, Arc<Slot>)>>,
    /// That they may take together.
    bytes: usize,
}

/// Locked while its plan is made.
#[derive(Default)]
struct Slot {
    template: Mutex<Option<Arc<Template>>>,
    bytes: Mutex<usize>,
}

/// Those of this process.
pub(crate) static PLANS: LazyLock<SharedPlans> = LazyLock::new(|| SharedPlans::within(BYTES));

impl SharedPlans {
    fn within(bytes: usize) -> SharedPlans {
        SharedPlans { all: Mutex::default(), bytes }
    }

    /// The plan of `graph`, whose key this is: one that is kept, or what `make` gives.
    pub fn plan(
        &self,
        key: Key,
        graph: &Graph,
        tallies: &Tallies,
        make: impl FnOnce() -> Result<Plan, Error>,
    ) -> Result<Plan, Error> {
        let slot = self.slot(key);
        let mut template = locked(&slot.template);
        match template.as_ref().map(|it| it.plan(graph)) {
            Some(Ok(plan)) => {
                tallies.count(|it| &it.memory.hits);
                tracing::Span::current().record("from", "memory");
                return Ok(plan);
            }
            Some(Err(why)) => tracing::warn!("a plan of another session is left out: {why}"),
            None => {}
        }
        tallies.count(|it| &it.memory.misses);
        let plan = make()?;
        let made = Template::of(&plan, graph);
        let bytes = made.bytes();
        match bytes > self.bytes / 4 {
            true => tallies.count(|it| it.memory.bypass(Bypass::TooLarge)),
            false => {
                *template = Some(Arc::new(made));
                *locked(&slot.bytes) = bytes;
            }
        }
        drop(template);
        self.shrink();
        Ok(plan)
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut all = locked(&self.all);
        let slot = match all.iter().position(|it| it.0 == key) {
            Some(at) => all.remove(at).1,
            None => Arc::default(),
        };
        all.push((key, slot.clone()));
        slot
    }

    /// The last one stays in any case.
    fn shrink(&self) {
        let mut all = locked(&self.all);
        let mut bytes: usize = all.iter().map(|it| *locked(&it.1.bytes)).sum();
        while all.len() > 1 && (all.len() > COUNT || bytes > self.bytes) {
            bytes -= *locked(&all.remove(0).1.bytes);
        }
    }
}

/// What a thread that panicked left is nothing or whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|it| it.into_inner())
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use wgfuse_compiler::{
        compile_graph, dtype::DType, graph::builder::GraphBuilder, options::Options, schedule::Choices,
        target::Target, tensor::Tensor,
    };

    use super::*;

    fn graph(weight: f32) -> Graph {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [20_000]).expect("an input");
        let w = b.constant(Tensor::f32([20_000], &[weight; 20_000]).expect("as many"));
        let y = b.mul(x, w).expect("they fit");
        b.output("y", y).expect("a new name");
        b.finish().expect("whole")
    }

    fn compile(graph: &Graph) -> Result<Plan, Error> {
        compile_graph(graph.clone(), &Target::cpu(), &Options::default(), &Choices::default())
    }

    #[test]
    fn weights_are_those_of_the_graph_that_asks() {
        let (plans, tallies) = (SharedPlans::within(BYTES), Tallies::default());
        let (one, two) = (graph(1.0), graph(2.0));
        let first = plans.plan((None, [0; 32]), &one, &tallies, || compile(&one)).expect("compiled");
        let second = plans.plan((None, [0; 32]), &two, &tallies, || panic!("it is there")).expect("kept");
        let value = |plan: &Plan| {
            let [constant] = &plan.constants[..] else { panic!("one constant") };
            plan.constant_graph.as_constant(constant.value).expect("a leaf").get(0).as_f64()
        };
        assert_eq!((value(&first), value(&second)), (1.0, 2.0));
        assert_ne!(first.constants[0].key, second.constants[0].key);
        let own = compile(&two).expect("compiled");
        assert_eq!(own.constants[0].key, second.constants[0].key);
        assert_eq!(own.to_string(), second.to_string());
        assert_eq!((tallies.tally().memory.hits, tallies.tally().memory.misses), (1, 1));
    }

    #[test]
    fn the_least_recently_used_leave_first() {
        let (plans, tallies, graph) = (SharedPlans::within(BYTES), Tallies::default(), graph(1.0));
        let plan = |number: usize| {
            let mut made = false;
            let key = std::array::from_fn(|at| (number >> (8 * at.min(3))) as u8);
            let make = || {
                made = true;
                compile(&graph)
            };
            plans.plan((None, key), &graph, &tallies, make).expect("compiled");
            made
        };
        for number in 0..COUNT + 8 {
            assert!(plan(number));
            assert!(!plan(0), "used all the time, after {number}");
        }
        assert_eq!(locked(&plans.all).len(), COUNT);
        assert!(plan(1), "it has left");
        assert!(!plan(COUNT + 7));
    }

    #[test]
    fn what_takes_too_much_is_not_kept() {
        let (small, tallies, graph) = (SharedPlans::within(1 << 10), Tallies::default(), graph(1.0));
        for times in 1..3 {
            small.plan((None, [0; 32]), &graph, &tallies, || compile(&graph)).expect("compiled");
            let found = tallies.tally().memory;
            assert_eq!((found.hits, found.misses, found.bypassed(Bypass::TooLarge)), (0, times, times));
        }
    }

    #[test]
    fn what_fails_or_panics_is_made_again() {
        let (plans, tallies, graph) = (SharedPlans::within(BYTES), Tallies::default(), graph(1.0));
        let fail = || Err(Error::node("it", "fails"));
        assert!(plans.plan((None, [0; 32]), &graph, &tallies, fail).is_err());
        let panics = std::panic::AssertUnwindSafe(|| {
            plans.plan((None, [0; 32]), &graph, &tallies, || panic!("planted"))
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(plans.plan((None, [0; 32]), &graph, &tallies, || compile(&graph)).is_ok());
    }

    #[test]
    fn many_who_ask_at_once_compile_once() {
        let (plans, tallies, graph) = (SharedPlans::within(BYTES), Tallies::default(), graph(1.0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| plans.plan((None, [0; 32]), &graph, &tallies, || compile(&graph)).map(drop));
            }
        });
        assert_eq!((tallies.tally().memory.hits, tallies.tally().memory.misses), (7, 1));
    }
}
