//! Schedule and shaders to a plan: what is bound where, in which order.
//!
//! In: kernels in their order, and the tensors that they name. Out: buffers, and steps whose slices lie in them. A tensor
//! has one slice on each place where it is needed and crosses between them once. Outputs have buffers of their own, and so
//! have states, in which lies what enters and then what it becomes; all else that kernels write shares the arenas. What always holds is listed in `verify`.

mod keys;
pub mod written;
#[cfg(feature = "compile")]
pub mod template;
#[cfg(feature = "compile")]
pub mod kept;
#[cfg(feature = "compile")]
pub mod memory;
#[cfg(feature = "compile")]
mod order;
mod computed;
#[cfg(feature = "compile")]
mod layout;
pub mod step;
pub mod text;
#[cfg(feature = "compile")]
pub mod traced;
#[cfg(feature = "compile")]
pub mod trial;
pub mod verify;
mod work;

pub use keys::{keys, leaves};
#[cfg(feature = "compile")]
pub use layout::plan;
pub use step::{
    Buffer, BufferId, BufferRole, Constant, Plan, PlanKernel, Port, Slice, Step, alignment_on, bytes_on,
    device_bytes,
};
#[cfg(feature = "compile")]
pub use traced::traced;
#[cfg(feature = "compile")]
pub use trial::trial;
pub use verify::verify;

/// What this build was made from.
pub const SOURCES: &str = env!("WGFUSE_SOURCES");
