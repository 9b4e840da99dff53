//! Schedule to shaders, through `naga::Module`. Obeys: no choice is made here.

pub mod shader;

pub use shader::{Binding, Shader};

use crate::{error::Error, options::Options, schedule::Schedule, target::Target};

/// One shader for each kernel on the GPU, `None` for those on the CPU, in the order of the schedule.
pub fn emit(
    _schedule: &Schedule,
    _target: &Target,
    _options: &Options,
) -> Result<Vec<Option<Shader>>, Error> {
    todo!()
}
