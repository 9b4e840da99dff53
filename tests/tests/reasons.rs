//! Every reason for which something runs in another way than the best: it comes about, is counted, logged once a session, and is an
//! error where it is forbidden. Those of a lost device, of short memory and of a driver that refuses are in `lost_device.rs`,
//! `faults.rs` and in the session's own tests.

use std::process::Command;

use wgfuse::{
    DType, Device, DisabledReason, Error, GraphBuilder, Model, ModelError, Options, Replay, Session, Target,
    Tensor, Type, wgpu,
};
use wgfuse_tests::{device::gpu, known, listener::warnings, random::Random};

type Wanted = fn(&DisabledReason) -> bool;

/// What `session` makes, run three times, steps down for this reason alone of its kind; forbidden, it is an error that says why.
#[track_caller]
fn steps_down(what: &str, count: u64, wanted: Wanted, session: impl Fn() -> Session) {
    let mut made = None;
    let warned = warnings(|| {
        let own = session();
        for _ in 0..3 {
            run(&own).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        made = Some(own);
    });
    let told = made.expect("just made").disabled();
    let found: Vec<_> = told.iter().filter(|it| wanted(&it.reason)).collect();
    let [found] = found[..] else { panic!("{what}: {told:?}") };
    assert_eq!(found.count, count, "{what}: {told:?}");
    let text = found.reason.to_string();
    assert_eq!(warned.iter().filter(|it| **it == text).count(), 1, "{what}: {warned:?}");
    let strict = session().forbid(wanted);
    for _ in 0..2 {
        match run(&strict) {
            Err(Error::Model(ModelError::Fallback { reason, .. })) => {
                assert!(reason.contains(&text), "{reason}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Random inputs for whatever the model has.
fn run(session: &Session) -> wgfuse::Result<()> {
    let given: Vec<(&str, Tensor)> = (session.model().inputs.iter())
        .map(|it| {
            let shape: Vec<usize> = it
                .dims
                .iter()
                .map(|dim| match dim {
                    wgfuse::Dim::Fixed(size) => *size,
                    other => panic!("{other:?}"),
                })
                .collect();
            (it.name.as_str(), Random::new(3).tensor(&Type::new(it.dtype, &*shape), 1))
        })
        .collect();
    session.run(&given).map(drop)
}

/// A session of the known model, on the GPU held to less.
fn held_to(limit: impl Fn(&mut Target)) -> Session {
    let mut less = gpu().target().clone();
    limit(&mut less);
    Session::new(&known::model(), &gpu().limited_to(&less)).unwrap()
}

#[test]
fn the_processor_where_it_was_asked_for() {
    let switched_off: Wanted = |it| matches!(it, DisabledReason::SwitchedOff);
    steps_down("the processor", 1, switched_off, || Session::new(&known::model(), &Device::cpu()).unwrap());
}

/// In a process to which no driver is named.
#[test]
fn the_processor_where_there_is_no_adapter() {
    const ALONE: &str = "WGFUSE_NO_ADAPTER";
    if std::env::var_os(ALONE).is_some() {
        let no_adapter: Wanted = |it| matches!(it, DisabledReason::NoAdapter(_));
        steps_down("no adapter", 1, no_adapter, || {
            Session::new(&known::model(), &Device::best().unwrap()).unwrap()
        });
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["the_processor_where_there_is_no_adapter", "--exact", "--nocapture"]).env(ALONE, "1");
    command.env_remove("WGFUSE_DEVICE");
    // Of Vulkan's loader, before and since version 1.3.207, and of EGL's.
    for name in ["VK_ICD_FILENAMES", "VK_DRIVER_FILES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
        command.env(name, "/nowhere");
    }
    let output = command.output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// What compiling meets: a tensor in one binding, or in a buffer; buffers that a kernel binds; workgroups of a dispatch. Kernels keep
/// to the workgroup memory and the invocations that there are.
#[test]
fn limits_that_compiling_meets() {
    let bytes = (known::SIZE * known::SIZE * 4) as u64;
    let names_tensor: Wanted = |it| matches!(it, DisabledReason::LimitExceeded { at, need, have } if at.contains("bytes of a tensor of node 'softmax") && need > have);
    steps_down("binding", 1, names_tensor, || {
        held_to(|it| (it.max_binding_size, it.max_storage_buffers) = (bytes / 4, 8))
    });
    steps_down("buffer", 1, names_tensor, || held_to(|it| it.max_buffer_size = bytes / 2));
    let names_bindings: Wanted = |it| matches!(it, DisabledReason::LimitExceeded { at, have: 2, .. } if at.contains("storage buffers of kernel"));
    steps_down("bindings", 1, names_bindings, || held_to(|it| it.max_storage_buffers = 2));
    let names_dispatch: Wanted = |it| matches!(it, DisabledReason::LimitExceeded { at, have: 1, .. } if at.contains("workgroups of kernel"));
    steps_down("workgroups", 1, names_dispatch, || held_to(|it| it.max_workgroups_per_dimension = 1));
    for memory in [0, 64, 1024, 4096] {
        let own = held_to(|it| it.max_workgroup_memory = memory);
        known::assert_runs(&own);
        assert!(
            !own.disabled().iter().any(|it| matches!(it.reason, DisabledReason::LimitExceeded { .. })),
            "{memory}"
        );
    }
    let own = held_to(|it| it.max_workgroup_invocations = 32);
    known::assert_runs(&own);
}

/// What an artefact was compiled for and this device is not: a feature, or any limit by its name.
#[test]
fn what_artefacts_need_and_the_device_lacks() {
    let compiled = |target: &Target| {
        let shape = known::input().shape().clone();
        known::model().compile(&[vec![shape]], std::slice::from_ref(target), &Options::default()).unwrap()
    };
    let own = gpu().target().clone();
    let feature: Wanted =
        |it| matches!(it, DisabledReason::FeatureMissing(what) if what == "64-bit integers");
    let more = compiled(&Target { i64: true, ..own.clone() });
    if !own.i64 {
        steps_down("i64", 1, feature, || {
            Session::new(&Model::from_bytes(more.clone()).unwrap(), &gpu()).unwrap()
        });
    }
    type Change = fn(&mut Target);
    let lacks: [(Change, Wanted); 6] = [
        (|it| it.max_storage_buffers -= 1, |it| limit(it, "storage buffers of a kernel")),
        (|it| it.max_binding_size -= 4, |it| limit(it, "bytes of a binding")),
        (|it| it.max_buffer_size -= 4, |it| limit(it, "bytes of a buffer")),
        (|it| it.max_workgroups_per_dimension -= 1, |it| limit(it, "workgroups along an axis")),
        (|it| it.max_workgroup_memory -= 4, |it| limit(it, "bytes of workgroup memory")),
        (|it| it.max_workgroup_invocations -= 1, |it| limit(it, "invocations of a workgroup")),
    ];
    let whole = compiled(&own);
    for (less, wanted) in lacks {
        let mut target = own.clone();
        less(&mut target);
        let device = gpu().limited_to(&target);
        let model = Model::from_bytes(whole.clone()).unwrap();
        steps_down(&format!("{target:?}"), 1, wanted, || Session::new(&model, &device).unwrap());
    }
}

fn limit(reason: &DisabledReason, name: &str) -> bool {
    matches!(reason, DisabledReason::LimitExceeded { at, need, have } if at == name && need > have)
}

/// A part on the processor: for its type, for its neighbours' sake, and read in the middle.
#[test]
fn parts_that_the_gpu_cannot_run() {
    let session = || {
        let mut b = GraphBuilder::new();
        let made = (|| {
            let x = b.input("x", DType::F32, [64, 64])?;
            let x = b.softmax(x, -1)?;
            let wide = b.name("wide").cast(x, DType::F64)?;
            let wide = b.name("sum").sum(wide, &[0, 1], false)?;
            let narrow = b.name("narrow").cast(wide, DType::F32)?;
            // Small, and between two that run on the processor.
            let small = b.name("small").exp(narrow)?;
            let wide = b.name("wide again").cast(small, DType::F64)?;
            let wide = b.name("root").sqrt(wide)?;
            let narrow = b.name("last").cast(wide, DType::F32)?;
            let y = b.mul(x, narrow)?;
            let y = b.softmax(y, -1)?;
            b.output("y", y)
        })();
        made.unwrap();
        Session::new(&Model::from_graph(b.finish().unwrap()), &gpu()).unwrap()
    };
    steps_down("64 bits", 1, |it| matches!(it, DisabledReason::DType { name, .. } if name == "sum"), session);
    let neighbours: Wanted = |it| matches!(it, DisabledReason::Neighbours { node, .. } if node == "small");
    steps_down("neighbours", 1, neighbours, session);
    steps_down("host read", 1, |it| matches!(it, DisabledReason::HostRead { .. }), session);
}

#[test]
fn more_shapes_than_are_kept() {
    // The first is compiled anew each time that the second comes between.
    let inputs = vec![wgfuse::Signature {
        name: "x".into(),
        dtype: DType::F32,
        dims: vec![wgfuse::Dim::Symbol("n".into())],
    }];
    let model = Model::build(inputs, |b, x| Ok(vec![("y".into(), b.exp(x[0])?)])).unwrap();
    let run = |session: &Session, n: usize| {
        session.run(&[("x", Tensor::f32([n], &vec![0.0; n]).unwrap())]).map(drop)
    };
    let mut counted = 0;
    let warned = warnings(|| {
        let session = Session::new(&model, &gpu()).unwrap().keep_shapes(1);
        for n in [1, 2, 1] {
            run(&session, n).unwrap();
        }
        let budget = DisabledReason::ShapeBudget { kept: 1 };
        counted = session.disabled().into_iter().find(|it| it.reason == budget).map_or(0, |it| it.count);
    });
    assert_eq!(
        (counted, warned.iter().filter(|it| it.contains("more than 1 shapes")).count()),
        (2, 1),
        "{warned:?}"
    );
}

#[test]
fn launches_that_nothing_records() {
    let not_recorded: Wanted = |it| matches!(it, DisabledReason::NotRecorded(_));
    // An application's device without the feature by which the recorder takes it for one of ours.
    let adapter = wgfuse_tests::device::adapter(wgpu::InstanceDescriptor::new_without_display_handle());
    let descriptor = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let device = Device::from_wgpu(device, queue);
    // Whatever the environment asks for.
    let session = || Session::new(&known::model(), &device).unwrap().replay(Replay::Auto);
    steps_down("encoded anew", 1, not_recorded, session);
    std::mem::forget(device);
    let own = Session::new(&known::model(), &gpu()).unwrap().replay(Replay::Portable);
    known::assert_runs(&own);
    // It was asked for.
    assert!(!own.disabled().iter().any(|it| not_recorded(&it.reason)));
}
