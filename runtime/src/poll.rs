//! Asking wgpu how far a device is, without its panic where the device was lost while it was waited for.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Polls `device`. An error says why there is nothing to wait for; callbacks may then never be called.
///
/// wgpu has no error for a device that is lost during a wait: it panics with `Error in Device::poll`, when it holds no lock
/// any more and has marked the device as lost. Any other panic, as of an application's own callback, goes on.
pub(crate) fn poll(device: &wgpu::Device, how: wgpu::PollType) -> Result<wgpu::PollStatus, String> {
    errors(|| device.poll(how))
}

/// Until all is done that was submitted so far.
pub(crate) fn wait(device: &wgpu::Device) -> Result<wgpu::PollStatus, String> {
    poll(device, wgpu::PollType::wait_indefinitely())
}

fn errors<T, E: ToString>(act: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|it| it.to_string()),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(what) if what.starts_with("Error in Device::poll") => Err(what.clone()),
            _ => resume_unwind(panic),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_of_a_lost_device_is_an_error_and_no_other() {
        let panics = |what: String| errors(|| -> Result<(), String> { panic!("Error in {what}") });
        let lost = panics("Device::poll: Parent device is lost".to_owned());
        assert_eq!(lost, Err("Error in Device::poll: Parent device is lost".to_owned()));
        assert!(catch_unwind(|| panics("a callback".to_owned())).is_err());
        assert_eq!(errors(|| Ok::<i32, String>(1)), Ok(1));
    }
}
