//! The devices and options that tests run with.

use std::sync::OnceLock;

use wgfuse::{Device, Options};

/// The GPU that all tests of a process share: software, where there is no other.
pub fn gpu() -> Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    let open = || match Device::gpu() {
        Ok(device) => device,
        Err(error) => panic!("{error}; install a driver, for example the package mesa-vulkan-drivers"),
    };
    GPU.get_or_init(open).clone()
}

/// The defaults; with `WGFUSE_CHECKED` in the environment, with every run-time check in the kernels.
pub fn options() -> Options {
    Options { checked: std::env::var_os("WGFUSE_CHECKED").is_some(), ..Options::default() }
}
