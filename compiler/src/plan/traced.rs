//! A plan of the same kernels in which everything that any of them writes is an output too.

use super::{plan, step::Plan};
use crate::{
    codegen::{self, Shader},
    error::Error,
    graph::Output,
    lower::TensorId,
    options::Options,
    partition::Partition,
    schedule::Schedule,
    target::Target,
};

/// The plan, whose outputs are those of the graph and then the tensors that are named, in order. Only where things lie differs
/// from the plan of `schedule`: the kernels are the same.
pub fn traced(
    parts: &Partition,
    schedule: &Schedule,
    target: &Target,
    options: &Options,
) -> Result<(Plan, Vec<TensorId>), Error> {
    let shaders: Vec<Option<Shader>> = codegen::emit(schedule, target, options)?;
    let (mut parts, mut schedule) = (parts.clone(), schedule.clone());
    // What states become has the memory of the states.
    let becoming: Vec<TensorId> = schedule.becoming().map(|it| it.1).collect();
    let written = schedule.kernels.iter().flat_map(|it| &it.stores).map(|it| it.tensor);
    let mut traced: Vec<TensorId> = Vec::new();
    for tensor in written {
        if !becoming.contains(&tensor) && !traced.contains(&tensor) {
            traced.push(tensor);
        }
    }
    for (number, &tensor) in traced.iter().enumerate() {
        // Of an output of a plan no more than the name is asked.
        let name = format!("traced {number}");
        let value = parts.graph.add_input(name.clone(), schedule.tensors[tensor].ty.clone())?;
        parts.graph.outputs.push(Output { name, value });
        schedule.outputs.push(tensor);
    }
    Ok((plan(&parts, schedule, shaders, target, options)?, traced))
}
