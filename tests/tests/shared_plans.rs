//! Compiled graphs that sessions of one process share: compiled once, with each session's own weights; and every time that the cache
//! is passed by is counted with its reason.

use std::sync::Arc;

use wgfuse::{Bypass, DType, Device, GraphBuilder, Model, Options, Session, Tally, Tensor};
use wgfuse_compiler::{
    graph::Graph,
    options::{Hook, UserPass},
};
use wgfuse_tests::{
    device::opened,
    random::Random,
    zoo::{ZOO, beyond, load},
};

/// A layer whose weights, of many floats, a seed decides; `bias` is a constant that decides the key.
fn layer(seed: u64, bias: f32) -> Model {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3, 160]).unwrap();
    let ty = wgfuse::Type::new(DType::F32, [160, 170]);
    let w = b.constant(Random::new(seed).tensor(&ty, 1));
    let y = b.matmul(x, w).unwrap();
    let bias = b.scalar(DType::F32, f64::from(bias));
    let y = b.add(y, bias).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y).unwrap();
    Model::from_graph(b.finish().unwrap())
}

fn x() -> Tensor {
    Random::new(9).tensor(&wgfuse::Type::new(DType::F32, [3, 160]), 1)
}

fn run(model: &Model, device: &Device, options: Options) -> (Tensor, Tally) {
    let session = Session::with_options(model, device, options).unwrap();
    let y = session.run(wgfuse::inputs! { "x" => x() }).unwrap()["y"].clone();
    (y, session.tally())
}

fn devices() -> [Device; 2] {
    // A folder that no other test has, so that nothing is there yet.
    let folder = tempfile::tempdir().unwrap().keep();
    [Device::cpu(), opened().cache_in(Some(&folder))]
}

#[test]
fn sessions_of_one_model_compile_once() {
    for device in devices() {
        // Another bias than in other tests.
        let model = layer(1, 0.25);
        let (first, tally) = run(&model, &device, Options::default());
        assert_eq!((tally.compiled, tally.memory.hits, tally.memory.misses), (1, 0, 1), "{}", device.name());
        for model in [&model, &layer(1, 0.25)] {
            let (again, tally) = run(model, &device, Options::default());
            assert_eq!(again, first);
            assert_eq!((tally.compiled, tally.memory.hits, tally.memory.misses), (0, 1, 0));
            assert_eq!(tally.disk, Default::default(), "the disk is not asked");
        }
        // What decides about a plan is told apart.
        let options = Options { fuse: false, ..Options::default() };
        assert_eq!(run(&model, &device, options).1.compiled, 1);
        assert_eq!(run(&layer(1, 0.5), &device, Options::default()).1.compiled, 1);
        assert_eq!(device.tally().memory.hits, 2);
    }
}

#[test]
fn each_session_has_its_own_weights() {
    for device in devices() {
        let fresh = device.share_plans(false);
        for seed in 10..14 {
            let model = layer(seed, 0.75);
            let (shared, tally) = run(&model, &device, Options::default());
            assert_eq!(tally.compiled, u64::from(seed == 10));
            let (own, tally) = run(&model, &fresh, Options::default());
            // Kernels of different layouts would round differently: these are the same kernels.
            assert_eq!(shared, own, "{}", device.name());
            assert_eq!(tally.memory.bypassed(Bypass::Off), 1);
        }
    }
}

/// Whole models, their first session gone before the second asks.
#[test]
fn models_keep_their_values() {
    for device in devices() {
        for name in ZOO {
            for round in 0..2 {
                let case = load(name).unwrap();
                let model = Model::from(case.model.clone());
                let session = Session::new(&model, &device).unwrap();
                let given: Vec<(&str, Tensor)> = case
                    .model
                    .inputs
                    .iter()
                    .map(|it| it.name.as_str())
                    .zip(case.inputs.iter().cloned())
                    .collect();
                let outputs = session.run(&given).unwrap();
                for ((_, have), want) in outputs.iter().zip(&case.expected) {
                    assert_eq!(beyond(have, want, 1e-3, 1e-4), None, "{name}");
                }
                assert_eq!(session.tally().memory.hits, round, "{name}");
            }
        }
    }
}

#[test]
fn bypasses_have_reasons() {
    let [processor, device] = devices();
    let model = layer(1, 1.25);
    let pass = UserPass {
        name: "own".into(),
        at: Hook::After("simplify".into()),
        run: Arc::new(|graph: &Graph| Ok(graph.clone())),
    };
    for _ in 0..2 {
        let (_, tally) = run(&model, &device, Options { passes: vec![pass.clone()], ..Options::default() });
        assert_eq!(tally.compiled, 1);
        assert_eq!((tally.memory.hits, tally.memory.misses), (0, 0));
        assert_eq!((tally.disk.hits, tally.disk.misses), (0, 0));
        for level in [tally.memory, tally.disk] {
            assert_eq!(level.bypasses().collect::<Vec<_>>(), [(Bypass::OwnPasses, 1)]);
        }
    }
    let (_, tally) = run(&model, &device.cache_in(None), Options::default());
    for level in [tally.memory, tally.disk] {
        assert_eq!(level.bypasses().collect::<Vec<_>>(), [(Bypass::Off, 1)]);
    }
    let (_, tally) = run(&model, &processor, Options::default());
    assert_eq!(tally.disk.bypasses().collect::<Vec<_>>(), [(Bypass::Processor, 1)]);
    let (_, tally) = run(&model, &processor.share_plans(false), Options::default());
    assert_eq!((tally.compiled, tally.memory.bypassed(Bypass::Off)), (1, 1));
    // A folder that cannot be one.
    let file = tempfile::NamedTempFile::new().unwrap();
    let (_, tally) = run(&model, &device.cache_in(Some(&file.path().join("below"))), Options::default());
    assert_eq!((tally.compiled, tally.disk.misses, tally.disk.bypassed(Bypass::Unwritable)), (1, 1, 1));
}
