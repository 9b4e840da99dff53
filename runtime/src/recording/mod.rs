//! Launches recorded once and executed by every run. Vulkan only, since no other API lets a recording be used twice; elsewhere the type has
//! no values.

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
mod absent;
#[cfg(all(not(target_arch = "wasm32"), not(target_vendor = "apple")))]
mod vulkan;

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
pub(crate) use absent::{Execution, Recording};
#[cfg(all(not(target_arch = "wasm32"), not(target_vendor = "apple")))]
pub(crate) use vulkan::{Execution, Recording};
