//! What a run gives where memory ends or a limit is met: a typed error, or the processor and the reason, never a wrong
//! value and never a panic.

use wgfuse::{
    DType, Device, DeviceError, DisabledReason, Error, ErrorKind, Fallback, GraphBuilder, Model, ModelError,
    Options, Session, Target, Tensor, wgpu,
};
use wgfuse_tests::{
    device,
    known::{SIZE, assert_runs, model, refused, session},
};

/// Why something runs elsewhere than was asked.
fn reasons(session: &Session) -> Vec<DisabledReason> {
    let all = session.disabled().into_iter().map(|it| it.reason);
    all.filter(|it| !matches!(it, DisabledReason::SwitchedOff | DisabledReason::NotRecorded(_))).collect()
}

#[test]
fn more_memory_than_the_user_allows_is_an_error_on_every_device() {
    let tensor = (SIZE * SIZE * 4) as u64;
    for device in [Device::cpu(), device::gpu()] {
        for fallback in [Fallback::Cpu, Fallback::Error] {
            for (limit, whose) in [(tensor - 1, "node '"), (3 * tensor, "the whole model")] {
                let options = Options { memory_limit: limit, fallback, ..device::options() };
                let session = Session::with_options(&model(), &device, options).unwrap();
                let error = refused(&session);
                let Error::Model(ModelError::MemoryLimit { at, need, have }) = &error else {
                    panic!("{error:?}")
                };
                assert!(at.starts_with(whose) && *need > limit && *have == limit, "{error}");
                assert!(error.to_string().contains("memory_limit"), "{error}");
                assert_eq!(error.kind(), ErrorKind::Model);
                // The processor would not need less: nothing stepped down.
                assert_eq!(reasons(&session), []);
            }
        }
        let options = Options { memory_limit: 16 * tensor, ..device::options() };
        assert_runs(&Session::with_options(&model(), &device, options).unwrap());
    }
}

#[test]
fn a_tensor_that_no_buffer_holds_is_computed_on_the_processor() {
    let small = Target { max_buffer_size: (SIZE * SIZE * 4) as u64 / 2, ..device::gpu().target().clone() };
    let device = device::gpu().limited_to(&small);
    let own = session(&device, Fallback::Cpu);
    assert_runs(&own);
    let told = reasons(&own);
    let named = |it: &DisabledReason| matches!(it, DisabledReason::LimitExceeded { at, need, have } if at.contains("node 'product") && need > have);
    assert!(told.iter().any(named), "{told:?}");
    let error = refused(&session(&device, Fallback::Error));
    assert!(
        matches!(&error, Error::Model(ModelError::Fallback { node, .. }) if node.starts_with("product")),
        "{error:?}"
    );
}

#[test]
fn a_limit_that_a_kernel_exceeds_moves_the_whole_model() {
    let few = Target { max_workgroups_per_dimension: 1, ..device::gpu().target().clone() };
    let device = device::gpu().limited_to(&few);
    let own = session(&device, Fallback::Cpu);
    assert_runs(&own);
    let told = reasons(&own);
    let [DisabledReason::LimitExceeded { at, need, have: 1 }] = &told[..] else { panic!("{told:?}") };
    assert!(at.contains("workgroups of kernel") && *need > 1, "{at}");
    let error = refused(&session(&device, Fallback::Error));
    assert!(matches!(error, Error::Model(ModelError::Fallback { .. })), "{error:?}");
}

/// The tests' adapter, with no memory for anything. `None` where its driver does not tell how much memory there is.
fn without_memory() -> Option<Device> {
    let mut instance = wgpu::InstanceDescriptor::new_without_display_handle();
    instance.memory_budget_thresholds.for_resource_creation = Some(0);
    let adapter = device::adapter(instance);
    let descriptor = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    // Some need memory to be opened at all.
    let (device, queue) = match pollster::block_on(adapter.request_device(&descriptor)) {
        Ok(opened) => opened,
        Err(error) => {
            println!("NOT RUN: {} does not open ({error}); see out_of_memory.rs", adapter.get_info().name);
            return None;
        }
    };
    let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let usage = wgpu::BufferUsages::STORAGE;
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage,
        mapped_at_creation: false,
    });
    if pollster::block_on(scope.pop()).is_none() {
        println!("NOT RUN: {} states no memory budget; see out_of_memory.rs", adapter.get_info().driver);
        return None;
    }
    Some(Device::from_wgpu(device, queue))
}

#[test]
fn a_device_without_memory_is_an_error_once_and_then_the_processor() {
    let Some(device) = without_memory() else { return };
    let own = session(&device, Fallback::Cpu);
    let error = refused(&own);
    assert!(matches!(&error, Error::Device(DeviceError::OutOfMemory(_))), "{error:?}");
    for _ in 0..2 {
        assert_runs(&own);
    }
    assert_eq!(reasons(&own), [DisabledReason::OutOfMemory]);
    let strict = session(&device, Fallback::Error);
    for _ in 0..2 {
        let error = refused(&strict);
        assert!(matches!(error, Error::Device(DeviceError::OutOfMemory(_))), "{error:?}");
    }
    assert_eq!(reasons(&strict), []);
}

/// 2^58 bytes of outputs: more than there are addresses, so that no system promises them.
#[test]
fn a_processor_out_of_memory_is_an_error() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1]).unwrap();
    let y = b.expand(x, [1 << 56]).unwrap();
    let y = b.exp(y).unwrap();
    b.output("y", y).unwrap();
    let options = Options { memory_limit: u64::MAX, ..device::options() };
    let model = Model::from_graph(b.finish().unwrap());
    let session = Session::with_options(&model, &Device::cpu(), options).unwrap();
    for _ in 0..2 {
        let error =
            session.run(&[("x", Tensor::f32([1], &[1.0]).unwrap())]).expect_err("nobody has this memory");
        assert!(matches!(error, Error::Device(DeviceError::OutOfMemory(_))), "{error:?}");
    }
    assert_eq!(reasons(&session), []);
}

#[test]
fn more_shapes_than_are_kept_are_told_or_refused() {
    let inputs = vec![wgfuse::Signature {
        name: "x".into(),
        dtype: DType::F32,
        dims: vec![wgfuse::Dim::Symbol("n".into())],
    }];
    let model = Model::build(inputs, |b, x| Ok(vec![("y".into(), b.exp(x[0])?)])).unwrap();
    let run = |session: &Session, n: usize| {
        let x = Tensor::f32([n], &vec![0.0; n]).unwrap();
        session.run(&[("x", x)]).map(|it| assert_eq!(it["y"].to_f64(), vec![1.0; n]))
    };
    let budget = DisabledReason::ShapeBudget { kept: 2 };
    let session = Session::new(&model, &device::gpu()).unwrap().keep_shapes(2);
    for n in [1, 2, 1, 2] {
        run(&session, n).unwrap();
    }
    assert!(!session.disabled().iter().any(|it| it.reason == budget));
    for n in [3, 1, 2] {
        run(&session, n).unwrap();
    }
    let told = session.disabled().into_iter().find(|it| it.reason == budget);
    assert_eq!(told.map(|it| it.count), Some(3));
    let strict = Session::new(&model, &device::gpu()).unwrap().keep_shapes(1);
    let strict = strict.forbid(|it| matches!(it, DisabledReason::ShapeBudget { .. }));
    run(&strict, 1).unwrap();
    let error = run(&strict, 2).unwrap_err();
    assert!(matches!(error, Error::Model(ModelError::Fallback { .. })), "{error:?}");
    run(&strict, 1).unwrap();
}

/// 64-bit floats between two kernels of the GPU.
#[test]
fn a_part_on_the_processor_in_the_middle_is_named() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [64, 64]).unwrap();
    let x = b.softmax(x, -1).unwrap();
    let wide = b.cast(x, DType::F64).unwrap();
    let wide = b.sqrt(wide).unwrap();
    let narrow = b.cast(wide, DType::F32).unwrap();
    let y = b.softmax(narrow, -1).unwrap();
    b.output("y", y).unwrap();
    let model = Model::from_graph(b.finish().unwrap());
    let x = Tensor::f32([64, 64], &vec![0.25; 64 * 64]).unwrap();
    let session = Session::new(&model, &device::gpu()).unwrap();
    let y = session.run(&[("x", x.clone())]).unwrap();
    assert!(y["y"].to_f64().iter().all(|it| (it - 1.0 / 64.0).abs() < 1e-6));
    let told = session.disabled();
    let has = |wanted: fn(&DisabledReason) -> bool| told.iter().any(|it| wanted(&it.reason));
    assert!(has(|it| matches!(it, DisabledReason::HostRead { .. })), "{told:?}");
    assert!(
        has(|it| matches!(it, DisabledReason::DType { why, .. } if why.contains("64-bit floats"))),
        "{told:?}"
    );
    let strict = Session::new(&model, &device::gpu()).unwrap();
    let strict = strict.forbid(|it| matches!(it, DisabledReason::HostRead { .. }));
    for _ in 0..2 {
        assert!(strict.run(&[("x", x.clone())]).is_err());
    }
    // What is refused is not looked for again.
    let tally = strict.tally();
    assert_eq!(tally.compiled + tally.memory.hits, 1, "{tally:?}");
}
