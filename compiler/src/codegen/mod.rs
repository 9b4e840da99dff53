//! Schedule to shaders, through `naga::Module`. Obeys: no choice is made here.
//!
//! In: kernels, each with its skeleton. Out: validated modules, the same bytes for the same kernel. Every index is in bounds
//! by construction, every loop is counted, every divisor is not zero: modules need no run-time checks.

#[cfg(feature = "compile")]
mod attention;
#[cfg(feature = "compile")]
mod body;
#[cfg(feature = "compile")]
mod holes;
#[cfg(feature = "compile")]
mod contract;
#[cfg(feature = "compile")]
mod few;
#[cfg(feature = "compile")]
mod grid;
#[cfg(feature = "compile")]
mod unroll;
#[cfg(feature = "compile")]
mod library;
#[cfg(feature = "compile")]
mod map;
#[cfg(feature = "compile")]
mod memory;
#[cfg(feature = "compile")]
mod ops;
#[cfg(feature = "compile")]
mod rows;
pub mod shader;
mod types;
#[cfg(feature = "compile")]
mod writer;
#[cfg(feature = "compile")]
mod emit;

#[cfg(feature = "compile")]
pub use emit::{emit, shader};
pub use shader::{Binding, LateModule, Shader};
pub use types::device_bytes;
