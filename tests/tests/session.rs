//! Whole models through sessions: their values, threads, memory, and what a replay makes.

use wgfuse::{Device, Model, Options, Session, Shape, Target, Tensor};
use wgfuse_compiler::plan::BufferRole;
use wgfuse_tests::{
    device::{gpu, opened},
    zoo::{Case, ZOO, beyond, load},
};

fn given(case: &Case) -> Vec<(&str, Tensor)> {
    case.model.inputs.iter().map(|it| it.name.as_str()).zip(case.inputs.iter().cloned()).collect()
}

fn shapes(case: &Case) -> Vec<Shape> {
    case.inputs.iter().map(|it| it.shape().clone()).collect()
}

/// Every model's values; faults of all models are shown together.
fn zoo(device: &Device, options: &Options) {
    let wanted = std::env::var("MODEL").ok();
    let mut faults = Vec::new();
    for name in ZOO.into_iter().filter(|it| wanted.as_deref().is_none_or(|wanted| wanted == *it)) {
        let case = load(name).unwrap();
        let model = Model::from(case.model.clone());
        let session = Session::with_options(&model, device, options.clone()).unwrap();
        for round in 0..2 {
            let outputs = match session.run(&given(&case)) {
                Ok(outputs) => outputs,
                Err(error) => {
                    faults.push(format!("{name}: {error}"));
                    break;
                }
            };
            for ((output, have), want) in outputs.iter().zip(&case.expected) {
                if let Some(most) = beyond(have, want, 1e-3, 1e-4) {
                    faults.push(format!("{name}, round {round}: {output} is off by {most}"));
                }
            }
        }
        let plan = session.plan_for(&shapes(&case)).unwrap();
        let arena = plan.bytes(BufferRole::Activations);
        if arena * 10 > plan.live_peak * 12 {
            faults.push(format!("{name}: arena {arena}, live peak {}", plan.live_peak));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn zoo_on_the_processor() {
    zoo(&Device::cpu(), &Options::default());
}

#[test]
fn zoo_on_the_gpu() {
    zoo(&gpu(), &Options::default());
}

#[test]
fn zoo_on_the_gpu_checked() {
    zoo(&gpu(), &Options { checked: true, ..Options::default() });
}

#[test]
fn zoo_within_webgpus_minimum() {
    zoo(&gpu().limited_to(&Target::webgpu_minimum()), &Options::default());
}

/// From the second run on nothing of the graphics API is made, whatever shapes alternate.
#[test]
fn replays_make_nothing() {
    // A device of its own, since the counts are the device's.
    let device = opened();
    let case = load("bert_tiny").unwrap();
    let session = Session::new(&Model::from(case.model.clone()), &device).unwrap();
    session.run(&given(&case)).unwrap();
    let first = device.counts();
    for _ in 0..3 {
        session.run(&given(&case)).unwrap();
    }
    assert_eq!(device.counts(), first);
    assert!(first.pipelines > 0, "{first:?}");
}

fn threads(device: &Device, rounds: usize) {
    let case = load("bert_tiny").unwrap();
    let session = Session::new(&Model::from(case.model.clone()), device).unwrap();
    let first = session.run(&given(&case)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    assert_eq!(session.run(&given(&case)).unwrap(), first);
                }
            });
        }
    });
}

#[test]
fn eight_threads_on_the_processor() {
    threads(&Device::cpu(), 100);
}

#[test]
fn eight_threads_on_the_gpu() {
    threads(&gpu(), 100);
}

#[test]
fn the_least_recently_used_shape_leaves() {
    let case = load("bert_tiny").unwrap();
    let session = Session::new(&Model::from(case.model.clone()), &Device::cpu()).unwrap().keep_shapes(2);
    let shapes = |length: usize| vec![Shape::from([1, length]); case.inputs.len()];
    let plan = |length| session.plan_for(&shapes(length)).unwrap();
    let (first, second) = (plan(4), plan(5));
    assert!(std::sync::Arc::ptr_eq(&first, &plan(4)));
    plan(6);
    assert!(std::sync::Arc::ptr_eq(&first, &plan(4)), "used more recently than 5");
    assert!(!std::sync::Arc::ptr_eq(&second, &plan(5)));
}

#[test]
fn timings_name_every_kernel() {
    for device in [Device::cpu(), gpu()] {
        let case = load("bert_tiny").unwrap();
        let session = Session::new(&Model::from(case.model.clone()), &device).unwrap();
        let times = session.profile(&given(&case)).unwrap();
        let plan = session.plan_for(&shapes(&case)).unwrap();
        assert_eq!(times.len(), plan.kernels.len());
        assert!(times.iter().all(|it| it.bytes > 0 && !it.ops.is_empty()), "{times:?}");
    }
}
