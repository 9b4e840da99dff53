//! Schedule and shaders to a plan: what is bound where, in which order.

pub mod step;

pub use step::{Buffer, BufferId, BufferRole, Constant, Plan, PlanKernel, Port, Slice, Step};

use crate::{
    codegen::Shader, error::Error, options::Options, partition::Partition, schedule::Schedule, target::Target,
};

pub fn plan(
    _partition: &Partition,
    _schedule: Schedule,
    _shaders: Vec<Option<Shader>>,
    _target: &Target,
    _options: &Options,
) -> Result<Plan, Error> {
    todo!()
}
