//! The devices and options that tests run with.

use std::sync::OnceLock;

use wgfuse::{Device, Options};

/// The GPU that all tests of a process share: software, where there is no other. OpenGL's adapters are taken only if
/// `WGFUSE_DEVICE` asks for one by its number in `wgfuse devices`.
pub fn gpu() -> Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(opened).clone()
}

/// The same adapter opened by the runtime once more, for a test that spoils it.
pub fn opened() -> Device {
    let advice = "install a Vulkan driver, for example the package mesa-vulkan-drivers";
    let device = open().unwrap_or_else(|why| panic!("{why}; {advice}"));
    // Never given up: see lost_device.rs.
    std::mem::forget(device.clone());
    device
}

fn open() -> Result<Device, String> {
    let adapter = |number: usize| Device::adapter(number).map_err(|it| it.to_string());
    if let Some(number) = std::env::var("WGFUSE_DEVICE").ok().and_then(|it| it.trim().parse().ok()) {
        return adapter(number);
    }
    let best = Device::gpu().map_err(|it| it.to_string())?;
    if info(&best).backend != wgpu::Backend::Gl {
        return Ok(best);
    }
    let other = Device::adapters().into_iter().find(|it| it.backend != wgpu::Backend::Gl.to_string());
    other.map_or(Err("only OpenGL was found".into()), |it| adapter(it.index))
}

fn info(device: &Device) -> wgpu::AdapterInfo {
    device.wgpu().expect("a GPU").0.adapter_info()
}

/// The adapter of `gpu()` in an instance of its own, for a device that is opened without the runtime.
pub fn adapter(instance: wgpu::InstanceDescriptor) -> wgpu::Adapter {
    let wanted = info(&gpu());
    let backends = wgpu::Backends::from(wanted.backend);
    let instance = wgpu::InstanceDescriptor { backends, ..instance };
    let found = wgpu::Instance::new(instance).enumerate_adapters(backends);
    let found = pollster::block_on(found).into_iter().find(|it| it.get_info() == wanted);
    found.unwrap_or_else(|| panic!("{} is not found again", wanted.name))
}

/// The defaults; with `WGFUSE_CHECKED` in the environment, with every run-time check in the kernels.
pub fn options() -> Options {
    Options { checked: std::env::var_os("WGFUSE_CHECKED").is_some(), ..Options::default() }
}
