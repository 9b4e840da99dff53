//! Tapes of plans written by hand, on the noop backend (plumbing, no values) and on a real driver.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Waker},
};

use slotmap::SlotMap;
use wgfuse_compiler::{
    codegen::{Binding, Shader},
    dtype::DType,
    graph::{Graph, Output},
    lower::{Body, TensorId},
    plan::{
        Buffer, BufferId, BufferRole, Constant, Plan, PlanKernel, Port, Slice, Step, device_bytes, verify,
    },
    schedule::{Kernel, Skeleton, Store},
    shape::{Shape, Type},
    target::Place,
    tensor::Tensor,
};

use crate::{
    Device,
    buffers::Wait,
    capture::{Tape, capture},
    constants::{Constants, Failure},
    device_tensor::AnyTensor,
    disabled::DisabledReason,
    error::Result,
    gpu::Gpu,
    launch::Replay,
    profile::{Effort, ONCE, profile},
    replay,
    state::States,
};

const COUNT: usize = 1000;

async fn replay(tape: &mut Tape, plan: &Plan, inputs: &[Tensor], wait: Wait) -> Result<Vec<Tensor>> {
    let values: Vec<AnyTensor> = inputs.iter().cloned().map(AnyTensor::Host).collect();
    replay::replay(tape, plan, &values, wait).await
}

/// `middle = x + w; y = middle * middle`, with `x` and `w` i64 and `y` i64: the device form is i32 throughout.
fn plan(device: &Device, weight: Tensor) -> Plan {
    let ty = Type::new(DType::I64, [COUNT]);
    let len = device_bytes(&ty);
    let mut ids: SlotMap<TensorId, ()> = SlotMap::with_key();
    let [x, w, middle, y] = [(); 4].map(|_| ids.insert(()));
    let slice = |buffer: u32| Slice { buffer: BufferId(buffer), offset: 0, len };
    let buffer = |role| Buffer { place: Place::Gpu, role, size: len };
    let port = |name: &str, tensor, buffer| Port {
        name: name.into(),
        ty: ty.clone(),
        tensor: Some(tensor),
        device: Some(slice(buffer)),
        host: None,
    };
    let kernel = |name: &str, tensors: &[TensorId], expression: &str| {
        let variables: String = (0..tensors.len())
            .map(|it| format!("@group(0) @binding({it}) var<storage, read_write> b{it}: array<i32>;\n"))
            .collect();
        let text = format!(
            "{variables} @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                let i = id.x; if (i < {COUNT}u) {{ b{}[i] = {expression}; }} }}",
            tensors.len() - 1
        );
        let module = naga::front::wgsl::parse_str(&text).expect("valid");
        let mut body = Body::default();
        let value = body.constant(DType::I64, 0.0);
        let last = *tensors.last().expect("one at least");
        PlanKernel {
            kernel: Arc::new(Kernel {
                name: name.into(),
                place: Place::Gpu,
                origins: Vec::new(),
                ops: vec!["test"],
                body,
                skeleton: Skeleton::Map { space: Shape::from([COUNT]), workgroup: 64, lanes: 1 },
                stores: vec![Store { tensor: last, at: Default::default(), value }],
                tensors: tensors.to_vec(),
            }),
            types: vec![ty.clone(); tensors.len()],
            shader: Some(Shader {
                module: module.into(),
                workgroup_size: [64, 1, 1],
                groups: [COUNT.div_ceil(64) as u32, 1, 1],
                bindings: tensors.iter().map(|&tensor| Binding { tensor, offset: 0, len }).collect(),
                key: text.len() as u128,
            }),
            bytes: 0,
            flops: 0,
        }
    };
    let kernels = vec![
        kernel("sum", &[x, w, middle], "b0[i] + b1[i]"),
        kernel("square", &[middle, y], "b0[i] * b0[i]"),
    ];
    let mut constant_graph = Graph::new();
    let value = constant_graph.add_constant(weight);
    constant_graph.outputs.push(Output { name: "w".into(), value });
    let groups = [COUNT.div_ceil(64) as u32, 1, 1];
    Plan {
        target: device.target().clone(),
        tensors: SlotMap::default(),
        buffers: vec![
            buffer(BufferRole::Inputs),
            buffer(BufferRole::Weights),
            buffer(BufferRole::Activations),
            buffer(BufferRole::Outputs),
        ],
        inputs: vec![port("x", x, 0)],
        outputs: vec![port("y", y, 3), port("again", y, 3)],
        states: Vec::new(),
        becoming: Vec::new(),
        constants: vec![Constant { key: 1, value, port: port("w", w, 1) }],
        constant_graph,
        kernels,
        steps: vec![
            Step::Dispatch {
                kernel: 0,
                bindings: vec![slice(0), slice(1), slice(2)],
                groups,
                barrier: false,
            },
            Step::Dispatch { kernel: 1, bindings: vec![slice(2), slice(3)], groups, barrier: true },
        ],
        cpu_parts: Vec::new(),
        live_peak: len,
        refusals: Vec::new(),
    }
}

fn integers(values: impl Iterator<Item = i64>) -> Tensor {
    Tensor::i64([COUNT], &values.collect::<Vec<_>>()).expect("as many")
}

fn captured(
    device: &Device,
    plan: &Plan,
    constants: &mut Constants,
    checked: bool,
    replay: Replay,
) -> (Arc<Gpu>, Tape) {
    assert_eq!(verify(plan), Vec::<String>::new(), "{plan}");
    pollster::block_on(async {
        let gpu = device.gpu_now().await.expect("open");
        match capture(plan, Some(gpu.clone()), constants, checked, replay, &mut States::default()).await {
            Ok(tape) => (gpu, tape),
            Err(Failure::Error(error)) => panic!("{error}"),
            Err(Failure::Step(reason)) => panic!("{reason}"),
        }
    })
}

fn noop() -> Device {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    Device::from_wgpu(device, queue)
}

fn real() -> Device {
    Device::gpu().expect("a Vulkan driver, a software one will do")
}

fn replays_make_nothing(device: &Device, way: Replay, values: bool) {
    let plan = plan(device, integers((0..COUNT as i64).map(|it| -it)));
    let mut constants = Constants::default();
    for checked in [false, true] {
        let (_, mut tape) = captured(device, &plan, &mut constants, checked, way);
        let mut before = None;
        for round in 0..4 {
            let input = integers((0..COUNT as i64).map(|it| 3 * it + round));
            let outputs = pollster::block_on(replay(&mut tape, &plan, &[input], Wait::Block)).expect("runs");
            if values {
                let expected = integers((0..COUNT as i64).map(|it| (2 * it + round).pow(2)));
                assert_eq!(outputs, [expected.clone(), expected]);
            }
            let counts = device.counts();
            assert_eq!(*before.get_or_insert(counts), counts);
        }
    }
    assert_eq!(device.counts().pipelines, 4, "two kernels, each with and without checks");
}

#[test]
fn replays_make_nothing_on_noop() {
    replays_make_nothing(&noop(), Replay::Auto, false);
}

#[test]
fn replays_make_nothing_and_give_the_values() {
    for way in [Replay::Portable, Replay::Recorded] {
        replays_make_nothing(&real(), way, true);
    }
}

#[test]
fn plans_share_pipelines_and_constants() {
    let device = noop();
    let plan = plan(&device, integers(0..COUNT as i64));
    let mut constants = Constants::default();
    captured(&device, &plan, &mut constants, false, Replay::Auto);
    let before = device.counts();
    captured(&device, &plan, &mut constants, false, Replay::Auto);
    let after = device.counts();
    assert_eq!((before.pipelines, before.shader_modules), (after.pipelines, after.shader_modules));
    // Inputs, activations, outputs and staging again; no weights.
    assert_eq!(after.buffers - before.buffers, 4);
}

#[test]
fn integers_past_32_bits_are_not_cut() {
    let device = noop();
    let large = || integers((0..COUNT as i64).map(|it| it << 40));
    let mut constants = Constants::default();
    let bad = plan(&device, large());
    let failure = pollster::block_on(async {
        let gpu = device.gpu_now().await.expect("open");
        capture(&bad, Some(gpu), &mut constants, false, Replay::Auto, &mut States::default()).await.err()
    });
    assert!(matches!(failure, Some(Failure::Step(DisabledReason::DType { name, .. })) if name == "w"));

    let plan = plan(&device, integers(0..COUNT as i64));
    let (_, mut tape) = captured(&device, &plan, &mut constants, false, Replay::Auto);
    let error = pollster::block_on(replay(&mut tape, &plan, &[large()], Wait::Block)).expect_err("too large");
    assert!(error.to_string().contains("'x'"), "{error}");
}

#[test]
fn a_refused_shader_is_an_error_that_names_its_kernel() {
    let device = noop();
    let mut plan = plan(&device, integers(0..COUNT as i64));
    let shader = plan.kernels[1].shader.as_mut().expect("it has one");
    shader.module = naga::Module::default().into();
    shader.key = 77;
    let failure = pollster::block_on(async {
        let gpu = device.gpu_now().await.expect("open");
        capture(&plan, Some(gpu), &mut Constants::default(), false, Replay::Auto, &mut States::default())
            .await
            .err()
    });
    let Some(Failure::Error(error)) = failure else { panic!("no error") };
    assert!(error.to_string().contains("kernel square"), "{error}");
}

#[test]
fn a_lost_device_is_an_error_and_then_a_new_device() {
    for way in [Replay::Portable, Replay::Recorded] {
        let device = real();
        let plan = plan(&device, integers(0..COUNT as i64));
        let mut constants = Constants::default();
        let (gpu, mut tape) = captured(&device, &plan, &mut constants, false, way);
        let input = || integers(0..COUNT as i64);
        pollster::block_on(replay(&mut tape, &plan, &[input()], Wait::Block)).expect("a living device");
        gpu.device.destroy();
        let _ = gpu.device.poll(wgpu::PollType::Poll);
        let error =
            pollster::block_on(replay(&mut tape, &plan, &[input()], Wait::Block)).expect_err("destroyed");
        assert!(matches!(error, crate::Error::Device(crate::DeviceError::Lost(_))), "{error:?}");
        let (_, mut new) = captured(&device, &plan, &mut constants, false, way);
        drop((tape, gpu));
        let outputs =
            pollster::block_on(replay(&mut new, &plan, &[input()], Wait::Yield)).expect("a new device");
        assert_eq!(outputs[0], integers((0..COUNT as i64).map(|it| 4 * it * it)));
    }
}

#[test]
fn recordings_need_vulkan_and_say_so() {
    let device = noop();
    let plan = plan(&device, integers(0..COUNT as i64));
    let captured = |way| {
        pollster::block_on(async {
            let gpu = device.gpu_now().await.expect("open");
            capture(&plan, Some(gpu), &mut Constants::default(), false, way, &mut States::default()).await
        })
    };
    let Err(Failure::Error(error)) = captured(Replay::Recorded) else { panic!("no error") };
    assert!(error.to_string().contains("Vulkan"), "{error}");
    let Ok(tape) = captured(Replay::Auto) else { panic!("not captured") };
    assert!(matches!(tape.portable, Some(DisabledReason::NotRecorded(why)) if why.contains("Vulkan")));
    let Ok(tape) = captured(Replay::Portable) else { panic!("not captured") };
    assert_eq!(tape.portable, None);
}

#[test]
fn a_tape_may_be_dropped_while_the_device_works_on_it() {
    for way in [Replay::Portable, Replay::Recorded] {
        let device = real();
        let plan = plan(&device, integers(0..COUNT as i64));
        let (gpu, mut tape) = captured(&device, &plan, &mut Constants::default(), false, way);
        for _ in 0..20 {
            let inputs = [integers(0..COUNT as i64)];
            let mut run = Box::pin(replay(&mut tape, &plan, &inputs, Wait::Yield));
            // The first poll submits and the read-back is not done yet, or it is; either way nothing may break.
            let _ = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        drop((tape, device));
        drop(gpu);
    }
}

#[test]
fn pipelines_are_kept_on_disk_and_damage_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = || {
        let device = real().cache_in(Some(folder.path()));
        let plan = plan(&device, integers(0..COUNT as i64));
        let (_, mut tape) = captured(&device, &plan, &mut Constants::default(), false, Replay::Recorded);
        let inputs = [integers(0..COUNT as i64)];
        let outputs = pollster::block_on(replay(&mut tape, &plan, &inputs, Wait::Block)).expect("runs");
        assert_eq!(outputs[0], integers((0..COUNT as i64).map(|it| 4 * it * it)));
        let files = std::fs::read_dir(folder.path()).expect("a folder");
        files.map(|it| it.expect("a file").path()).collect::<Vec<_>>()
    };
    let files = run();
    assert_eq!(files.len(), 1, "{files:?}");
    let whole = std::fs::read(&files[0]).expect("a file");
    std::fs::write(&files[0], &whole[..whole.len() - 1]).expect("written");
    assert_eq!(run(), files);
    assert_eq!(std::fs::read(&files[0]).expect("made again").len(), whole.len());
    std::fs::remove_file(&files[0]).expect("removed");
    std::fs::remove_dir(folder.path()).expect("removed");
    std::fs::write(folder.path(), "not a folder").expect("written");
    let device = real().cache_in(Some(folder.path()));
    let plan = plan(&device, integers(0..COUNT as i64));
    captured(&device, &plan, &mut Constants::default(), false, Replay::Recorded);
}

#[test]
fn every_kernel_is_timed() {
    for way in [Replay::Portable, Replay::Recorded] {
        let device = real();
        let plan = plan(&device, integers(0..COUNT as i64));
        let (_, mut tape) = captured(&device, &plan, &mut Constants::default(), false, way);
        let input = integers(0..COUNT as i64);
        let effort = Effort { warm_up: 1e-3, rounds: 3 };
        let found =
            pollster::block_on(profile(&mut tape, &plan, &[AnyTensor::Host(input)], effort, Wait::Block))
                .expect("runs");
        let times = found.kernels;
        assert!(found.back_to_back > 0.0 && found.back_to_back < 1.0, "{}", found.back_to_back);
        let names: Vec<&str> = times.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["sum", "square"]);
        assert!(times.iter().all(|it| it.seconds >= 0.0 && it.seconds < 1.0), "{times:?}");
    }
}

#[test]
fn the_processor_gives_the_graphs_values() {
    use wgfuse_compiler::{
        graph, lower, options::Options, partition, passes, plan, schedule, target::Target,
    };

    let mut b = graph::builder::GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 16]).expect("an input");
    let weights: Vec<f32> = (0..16 * 8).map(|it| (it % 7) as f32 / 7.0).collect();
    let w = b.constant(Tensor::f32([16, 8], &weights).expect("as many"));
    let y = b.matmul(x, w).expect("fits");
    let y = b.softmax(y, 1).expect("fits");
    let doubled = b.add(y, y).expect("fits");
    for (name, value) in [("y", y), ("doubled", doubled), ("x", x), ("w", w), ("again", y)] {
        b.output(name, value).expect("a new name");
    }
    let graph = b.finish().expect("valid");
    let input =
        Tensor::f32([4, 16], &(0..64).map(|it| it as f32 / 64.0).collect::<Vec<_>>()).expect("as many");
    let expected = graph::eval::eval(&graph, std::slice::from_ref(&input)).expect("runs");

    let (target, options) = (Target::cpu(), Options::default());
    let graph = passes::optimise(graph, &target, &options).expect("valid");
    let parts = partition::split(&graph, &target, &options).expect("valid");
    let schedule = schedule::schedule(lower::lower(&parts), &target, &options);
    let shaders = vec![None; schedule.kernels.len()];
    let plan = plan::plan(&parts, schedule, shaders, &target, &options).expect("fits");
    let mut constants = Constants::default();
    let captured =
        pollster::block_on(capture(&plan, None, &mut constants, false, Replay::Auto, &mut States::default()));
    let Ok(mut tape) = captured else { panic!("not captured") };
    for _ in 0..3 {
        let inputs = std::slice::from_ref(&input);
        let outputs = pollster::block_on(replay(&mut tape, &plan, inputs, Wait::Block)).expect("runs");
        for (have, want) in outputs.iter().zip(&expected) {
            assert_eq!(have.ty(), want.ty());
            let pairs = have.to_f64().into_iter().zip(want.to_f64());
            pairs.for_each(|(have, want)| assert!((have - want).abs() < 1e-5, "{have} {want}"));
        }
    }
    let profile = pollster::block_on(profile(&mut tape, &plan, &[AnyTensor::Host(input)], ONCE, Wait::Block))
        .expect("runs");
    let times = profile.kernels;
    assert_eq!(times.len(), plan.kernels.len());
}
