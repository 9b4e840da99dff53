//! What a run gives where the device is lost: an error once, and then a device opened again, unless it is the application's.
//!
//! One test in a process of its own: NVIDIA's driver (580.159) may wait for ever where a thread that used Vulkan ends while
//! another gives up a device, and every test has a thread.

use wgfuse::{Device, DeviceError, DisabledReason, Error, ErrorKind, Fallback, wgpu};
use wgfuse_tests::{
    device,
    known::{assert_runs, input, refused, run, session},
};

fn assert_lost(error: Error) -> String {
    let Error::Device(DeviceError::Lost(_)) = &error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ErrorKind::Device);
    error.to_string()
}

fn a_lost_device_is_an_error_once_and_then_opened_again() {
    let device = device::opened();
    let own = session(&device, Fallback::Error);
    let other = session(&device, Fallback::Error);
    for round in 0..2 {
        assert_runs(&own);
        assert_runs(&other);
        device.wgpu().expect("a GPU").0.destroy();
        assert_lost(refused(&own));
        // Another session of the same device has a tape of its own to lose, or none yet.
        for _ in 0..2 {
            let _ = run(&other).map_err(assert_lost);
        }
        assert_runs(&own);
        assert_runs(&other);
        let lost = own.disabled().into_iter().find(|it| matches!(it.reason, DisabledReason::DeviceLost(_)));
        assert_eq!(lost.map(|it| it.count), Some(round + 1), "{:?}", own.disabled());
    }
}

fn a_device_lost_before_the_first_run_is_opened_again() {
    let device = device::opened();
    let own = session(&device, Fallback::Cpu);
    device.wgpu().expect("a GPU").0.destroy();
    // Whether the loss is noticed before or during the first run is the driver's choice.
    let _ = run(&own).map_err(assert_lost);
    assert_runs(&own);
}

fn lost_for_good(open: impl Fn() -> Device) {
    for runs_before in [0, 1] {
        let device = open();
        let own = session(&device, Fallback::Cpu);
        for _ in 0..runs_before {
            run(&own).unwrap();
        }
        device.wgpu().expect("a GPU").0.destroy();
        assert_lost(refused(&own));
        for _ in 0..2 {
            let text = assert_lost(refused(&own));
            assert!(text.contains("the application's own") && text.contains("new session"), "{text}");
        }
        let text = assert_lost(own.profile(&[("x", input())]).expect_err("nobody opened it again"));
        assert!(text.contains("the application's own"), "{text}");
    }
}

fn an_applications_lost_device_stays_an_error() {
    // With timestamps launches may be recorded, without they are encoded by every run.
    for features in [wgpu::Features::empty(), wgpu::Features::TIMESTAMP_QUERY] {
        lost_for_good(|| {
            let adapter = device::adapter(wgpu::InstanceDescriptor::new_without_display_handle());
            let (required_limits, required_features) = (adapter.limits(), adapter.features() & features);
            let descriptor =
                wgpu::DeviceDescriptor { required_limits, required_features, ..Default::default() };
            let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
            Device::from_wgpu(device, queue)
        });
    }
}

/// The session's own device is none the worse for it.
fn a_lost_devices_tensor_is_an_error_of_the_input() {
    let (own, other) = (device::gpu(), device::opened());
    let given = other.upload(&input()).unwrap();
    other.wgpu().expect("a GPU").0.destroy();
    let own = session(&own, Fallback::Cpu);
    let error = own.run_on_device(&[("x", given)]).expect_err("its device is lost").to_string();
    assert!(error.contains("'x'") && error.contains("lost"), "{error}");
    assert!(!own.disabled().iter().any(|it| matches!(it.reason, DisabledReason::DeviceLost(_))));
    assert_runs(&own);
}

#[test]
fn a_lost_device_is_an_error_and_what_is_ours_is_opened_again() {
    a_lost_device_is_an_error_once_and_then_opened_again();
    a_device_lost_before_the_first_run_is_opened_again();
    an_applications_lost_device_stays_an_error();
    a_lost_devices_tensor_is_an_error_of_the_input();
}
