//! A device whose driver gets no memory: an error once, then the processor. The only test of its process, whose memory it
//! takes away; with software drivers on Linux, where the memory of the device is that of the process.
#![cfg(target_os = "linux")]

use std::process::{Command, id};

use wgfuse::{
    DType, DeviceError, DisabledReason, Error, Fallback, GraphBuilder, Model, Options, Session, Tensor,
    compiler::graph::eval::eval, wgpu,
};
use wgfuse_tests::{compare::assert_close, device};

/// A table of 256 MiB, and its rows by number.
fn model() -> Model {
    const ROWS: usize = 1 << 20;
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I64, [3]).unwrap();
    let values: Vec<f32> = (0..ROWS * 64).map(|it| (it % 1013) as f32).collect();
    let table = b.constant(Tensor::f32([ROWS, 64], &values).unwrap());
    let found = b.embedding(table, ids).unwrap();
    b.output("found", found).unwrap();
    Model::from_graph(b.finish().unwrap())
}

/// Bytes of address space that the process has now.
fn size() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Whether the limit of the process's address space could be set.
fn limit(to: &str) -> bool {
    let (pid, space) = (format!("--pid={}", id()), format!("--as={to}:"));
    Command::new("prlimit").args([pid, space]).status().is_ok_and(|it| it.success())
}

/// glibc takes 128 MiB of addresses for a moment when a thread first allocates; where that is all there is, what other threads
/// allocate meanwhile would end the process. With this in its environment all threads share one heap.
const ONE_HEAP: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

#[test]
fn a_device_out_of_memory_is_an_error_once_and_then_the_processor() {
    if std::env::var_os(ONE_HEAP.0).is_none() {
        let itself = std::env::current_exe().unwrap();
        let out = Command::new(itself).arg("--nocapture").env(ONE_HEAP.0, ONE_HEAP.1).output().unwrap();
        println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        return assert!(out.status.success());
    }
    let device = device::gpu();
    let info = device.wgpu().expect("a GPU").0.adapter_info();
    if info.device_type != wgpu::DeviceType::Cpu || !limit("unlimited") {
        println!("NOT RUN: {} has memory of its own, or there is no `prlimit`", info.name);
        return;
    }
    let model = model();
    let ids = Tensor::i64([3], &[5, (1 << 20) - 1, 77_777]).unwrap();
    let expected = eval(&model.graph(&[ids.shape().clone()]).unwrap(), std::slice::from_ref(&ids)).unwrap();
    let [own, strict] = [Fallback::Cpu, Fallback::Error].map(|fallback| {
        Session::with_options(&model, &device, Options { fallback, ..device::options() }).unwrap()
    });
    let run = |session: &Session| session.run(&[("ids", ids.clone())]).map(|it| it["found"].clone());
    for session in [&own, &strict] {
        session.plan_for(&[ids.shape().clone()]).unwrap();
    }

    assert!(limit(&(size() + (128 << 20)).to_string()));
    let errors = [&own, &strict, &strict].map(|it| run(it).map(|_| ()));
    assert!(limit("unlimited"));

    for error in errors {
        let Err(Error::Device(DeviceError::OutOfMemory(what))) = &error else { panic!("{error:?}") };
        assert!(what.contains("weights"), "{what}");
    }
    // The processor, as memory may be short again; and the device for those who want nothing else, as it is back.
    for session in [&own, &own, &strict] {
        assert_close("after it", &[run(session).unwrap()], &expected, 0.0, 0.0);
    }
    let short = |it: &Session| -> u64 {
        let all = it.disabled().into_iter().filter(|it| it.reason == DisabledReason::OutOfMemory);
        all.map(|it| it.count).sum()
    };
    assert_eq!((short(&own), short(&strict)), (1, 0));
    let places = |it: &Session| it.plan_for(&[ids.shape().clone()]).unwrap().target.place;
    assert_ne!(places(&own), places(&strict));
}
