//! Inputs and outputs that stay on the device: the same values as through the host, in order, in memory that nobody else writes
//! while it is held.

use wgfuse::{
    AnyTensor, DType, Device, DeviceTensor, GraphBuilder, Model, Options, Replay, Session, Tensor, Type, wgpu,
};
use wgfuse_tests::{device, random::Random};

const SIZE: usize = 40;

fn ty() -> Type {
    Type::new(DType::F32, [SIZE, SIZE])
}

/// y = softmax(x w + b), of the shape of x, so that a run's output can be the next run's input.
fn model() -> Model {
    let mut g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [SIZE, SIZE]).unwrap();
    let b = g.input("b", DType::F32, [SIZE]).unwrap();
    let w = g.constant(Random::new(1).tensor(&ty(), 1));
    let y = g.matmul(x, w).unwrap();
    let y = g.add(y, b).unwrap();
    let y = g.softmax(y, -1).unwrap();
    g.output("y", y).unwrap();
    Model::from_graph(g.finish().unwrap())
}

fn some() -> Tensor {
    Random::new(2).tensor(&ty(), 1)
}

fn b(seed: u64) -> Tensor {
    Random::new(seed).tensor(&Type::new(DType::F32, [SIZE]), 1)
}

fn session(model: &Model, device: &Device) -> Session {
    Session::with_options(model, device, device::options()).unwrap()
}

fn devices() -> Vec<(Device, Replay)> {
    let gpu = device::gpu();
    vec![(gpu.clone(), Replay::Portable), (gpu, Replay::Auto), (Device::cpu(), Replay::Auto)]
}

#[test]
fn a_chain_of_runs_gives_what_it_gives_through_the_host() {
    for (device, replay) in devices() {
        let session = session(&model(), &device).replay(replay);
        let mut wanted = some();
        for seed in 0..5 {
            wanted = session.run(&[("x", wanted), ("b", b(seed))]).unwrap()["y"].clone();
        }
        let mut made: AnyTensor = some().into();
        for seed in 0..5 {
            // Now this input is on the host, now that one.
            let bias: AnyTensor = match seed % 2 {
                0 => b(seed).into(),
                _ => device.upload(&b(seed)).unwrap().into(),
            };
            let outputs = session.run_on_device(&[("b", bias), ("x", made)]).unwrap();
            made = outputs["y"].clone().into();
        }
        let AnyTensor::Device(made) = made else { panic!("an output is on the device") };
        assert_eq!(made.ty(), &ty());
        assert_eq!(made.wgpu().is_some(), device.is_gpu());
        assert_eq!(made.read().unwrap(), wanted, "{}, {replay:?}", device.name());
        // And the host's way is what it was.
        let again = session.run(&[("x", some()), ("b", b(0))]).unwrap();
        let there = session.run_on_device(&[("x", some()), ("b", b(0))]).unwrap();
        assert_eq!(there["y"].read().unwrap(), again["y"]);
    }
}

#[test]
fn what_is_held_stays_and_what_is_dropped_is_filled_again() {
    let device = device::opened();
    let session = session(&model(), &device);
    let run = |seed| session.run_on_device(&[("x", some()), ("b", b(seed))]).unwrap()["y"].clone();
    let wanted: Vec<Tensor> =
        (0..9).map(|seed| session.run(&[("x", some()), ("b", b(seed))]).unwrap()["y"].clone()).collect();
    let held: Vec<DeviceTensor> = (0..9).map(run).collect();
    for (held, wanted) in held.iter().zip(&wanted) {
        assert_eq!(held.read().unwrap(), *wanted);
    }
    drop(held);
    let before = device.counts().buffers;
    let mut last = run(0);
    for seed in 0..9 {
        let next = run(seed);
        assert_ne!(next.wgpu().unwrap().0, last.wgpu().unwrap().0, "what is held is not written");
        last = next;
    }
    assert_eq!(device.counts().buffers, before, "nothing is made once there is memory enough");
    assert_eq!(last.read().unwrap(), wanted[8]);
}

/// x, of every type that there is, and what is computed from it.
#[test]
fn every_type_goes_there_and_back() {
    for (device, _) in devices() {
        for dtype in DType::ALL {
            let mut g = GraphBuilder::new();
            let x = g.input("x", dtype, [7]).unwrap();
            let y = g.concat(&[x, x], 0).unwrap();
            g.output("x", x).unwrap();
            g.output("y", y).unwrap();
            let session = session(&Model::from_graph(g.finish().unwrap()), &device);
            let given = Random::new(5).tensor(&Type::new(dtype, [7]), 1);
            let there = device.upload(&given).unwrap();
            assert_eq!((there.dtype(), there.read().unwrap()), (dtype, given.clone()), "{}", device.name());
            let wanted = session.run(&[("x", given)]).unwrap();
            let made = session.run_on_device(&[("x", there)]).unwrap();
            for (name, wanted) in wanted.iter() {
                assert_eq!(made[name].read().unwrap(), *wanted, "{name} of {dtype} on {}", device.name());
            }
        }
    }
}

#[test]
fn states_go_on_without_anybody_waiting() {
    for (device, replay) in devices() {
        let mut g = GraphBuilder::new();
        let step = g.input("step", DType::F32, [3]).unwrap();
        let sum = g.state("sum", DType::F32, [3]).unwrap();
        let next = g.add(sum, step).unwrap();
        g.update(sum, next).unwrap();
        g.output("next", next).unwrap();
        let model = Model::from_graph(g.finish().unwrap());
        let session = session(&model, &device).replay(replay);
        let one = device.upload(&Tensor::f32([3], &[1.0, 2.0, 3.0]).unwrap()).unwrap();
        let made: Vec<_> = (0..3)
            .map(|_| session.run_on_device(&[("step", one.clone())]).unwrap()["next"].clone())
            .collect();
        device.synchronize().unwrap();
        for (times, made) in made.iter().enumerate() {
            let times = times as f32 + 1.0;
            assert_eq!(made.read().unwrap(), Tensor::f32([3], &[times, 2.0 * times, 3.0 * times]).unwrap());
        }
        assert_eq!(session.state("sum").unwrap(), Tensor::f32([3], &[3.0, 6.0, 9.0]).unwrap());
    }
}

#[test]
fn other_devices_values_come_through_the_host() {
    let (own, other) = (device::gpu(), device::opened());
    let session = session(&model(), &own);
    let wanted = session.run(&[("x", some()), ("b", b(0))]).unwrap();
    for place in [other.clone(), Device::cpu()] {
        let given = [("x", place.upload(&some()).unwrap()), ("b", own.upload(&b(0)).unwrap())];
        assert_eq!(session.run_on_device(&given).unwrap()["y"].read().unwrap(), wanted["y"]);
    }
    let host = Session::with_options(&model(), &Device::cpu(), Options::default()).unwrap();
    let wanted = host.run(&[("x", some()), ("b", b(0))]).unwrap();
    let given = [("x", other.upload(&some()).unwrap()), ("b", own.upload(&b(0)).unwrap())];
    assert_eq!(host.run_on_device(&given).unwrap()["y"].read().unwrap(), wanted["y"]);
}

/// A tensor of f64 is computed on the processor, between parts on the GPU.
#[test]
fn parts_on_the_processor_take_and_leave_values_of_the_device() {
    let device = device::gpu();
    let mut g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [SIZE, SIZE]).unwrap();
    let y = g.exp(x).unwrap();
    let y = g.cast(y, DType::F64).unwrap();
    let y = g.sqrt(y).unwrap();
    g.output("wide", y).unwrap();
    let y = g.cast(y, DType::F32).unwrap();
    let y = g.mul(y, x).unwrap();
    g.output("y", y).unwrap();
    let session = session(&Model::from_graph(g.finish().unwrap()), &device);
    let wanted = session.run(&[("x", some())]).unwrap();
    for _ in 0..2 {
        let made = session.run_on_device(&[("x", device.upload(&some()).unwrap())]).unwrap();
        for (name, wanted) in wanted.iter() {
            assert_eq!(made[name].read().unwrap(), *wanted, "{name}");
        }
    }
}

#[test]
fn an_applications_buffer_is_an_input() {
    let device = device::gpu();
    let (gpu, queue) = device.wgpu().unwrap();
    let session = session(&model(), &device);
    let buffer = |usage| {
        let size = (SIZE * SIZE * 4 + 8) as u64;
        gpu.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let good = buffer(wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST);
    queue.write_buffer(&good, 8, some().data());
    let given = DeviceTensor::from_wgpu(&device, ty(), good.clone(), 8).unwrap();
    assert_eq!(given.read().unwrap(), some());
    let values = [("x", AnyTensor::from(given)), ("b", b(0).into())];
    let made = session.run_on_device(&values).unwrap();
    assert_eq!(made["y"].read().unwrap(), session.run(&[("x", some()), ("b", b(0))]).unwrap()["y"]);

    let refused = |device: &Device, ty: Type, buffer: &wgpu::Buffer, offset| {
        DeviceTensor::from_wgpu(device, ty, buffer.clone(), offset).expect_err("refused").to_string()
    };
    let without = buffer(wgpu::BufferUsages::STORAGE);
    assert!(refused(&device, ty(), &good, 6).contains("no multiple of 4"));
    assert!(refused(&device, ty(), &good, 12).contains("6396 bytes from its offset on, 6400 are needed"));
    assert!(refused(&device, ty(), &good, u64::MAX - 3).contains("0 bytes"));
    assert!(refused(&device, ty(), &without, 0).contains("COPY_SRC"));
    assert!(refused(&device, Type::new(DType::F64, [1]), &good, 0).contains("f64"));
    assert!(refused(&Device::cpu(), ty(), &good, 0).contains("processor"));
}

#[test]
fn what_does_not_fit_is_named() {
    let device = device::gpu();
    let session = session(&model(), &device);
    let small = device.upload(&b(0)).unwrap();
    let given = [("x", AnyTensor::from(small.clone())), ("b", small.into())];
    let error = session.run_on_device(&given).expect_err("x has rank 2").to_string();
    assert!(error.contains("'x'") && error.contains("rank 1"), "{error}");
    let large = Tensor::i64([2], &[1, 1 << 40]).unwrap();
    let error = device.upload(&large).expect_err("more than 32 bits").to_string();
    assert!(error.contains("element 1"), "{error}");
}
