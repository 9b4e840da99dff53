//! wgfuse runs tensor programs on any GPU, and on the processor where there is none.
//!
//! A `Model` is opened or built, a `Device` is chosen, a `Session` joins the two and runs. What the compiler makes is a
//! `Plan`; capturing it makes a tape, which is replayed by every further run of the same shape.
//!
//! ```
//! # fn main() -> wgfuse::Result<()> {
//! let model = wgfuse::Model::open("../cli/assets/digits.onnx")?;
//! let session = wgfuse::Session::new(&model, &wgfuse::Device::best()?)?;
//! let image = wgfuse::Tensor::f32([1, 1, 8, 8], &[0.5; 64]).expect("64 values");
//! let outputs = session.run(wgfuse::inputs! { "image" => image })?;
//! println!("{:?}", outputs[0].to_f64());
//! # Ok(())
//! # }
//! ```

mod error;
mod disabled;
mod counters;
mod tally;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub mod compare;
mod forms;
mod memory;
mod artefact;
mod model;
mod pipeline_cache;
mod store;
mod poll;
mod recorder;
#[cfg(not(target_arch = "wasm32"))]
mod attendant;
mod gpu;
mod adapter;
mod device;
mod pipelines;
mod buffers;
mod upload;
mod launch;
mod portable;
mod readback;
mod device_tensor;
mod through;
mod inputs;
mod recording;
pub mod host;
mod constants;
mod state;
mod capture;
mod replay;
#[cfg(feature = "compiler")]
mod shared_plans;
#[cfg(feature = "compiler")]
mod kept_plan;
mod caught;
#[cfg(feature = "compiler")]
mod ahead;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
mod saved;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
mod observed;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub mod report;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
mod debug_folder;
mod profile;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
mod tuner;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
mod ceilings;
mod session;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub mod bisect;

pub use wgfuse_compiler as compiler;
#[cfg(feature = "compiler")]
pub use wgfuse_compiler::import::{host::Datum, strings::Strings};
pub use wgfuse_compiler::{
    dtype::DType,
    error::Error as ModelError,
    graph::builder::GraphBuilder,
    import::Signature,
    options::{Fallback, Hook, Options, UserPass},
    plan::Plan,
    replacement::{Example, Match, Replacement, register_replacement},
    scalar::Scalar,
    shape::{Dim, Form, Shape, Type},
    target::{Place, Target},
    tensor::Tensor,
};
pub use wgpu;

pub use adapter::AdapterSummary;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub use bisect::run_arguments;
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub use ceilings::Ceilings;
pub use counters::Counts;
pub use device::Device;
pub use device_tensor::{AnyTensor, DeviceTensor};
pub use disabled::{Disabled, DisabledReason};
pub use error::{DeviceError, Error, ErrorKind, Result};
pub use inputs::Outputs;
pub use launch::Replay;
pub use model::Model;
pub use profile::{Effort, KernelTime, Profile};
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub use saved::{compile_arguments, keep_arguments, load_arguments};
pub use session::Session;
#[cfg(feature = "compiler")]
pub use session::way::{StretchEnd, StretchRun};
pub use tally::{Bypass, Found, Tally};
#[cfg(all(feature = "compiler", not(target_arch = "wasm32")))]
pub use tuner::{Measured, Tune, Tuned};
