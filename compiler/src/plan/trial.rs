//! One kernel as a plan of its own, to be measured: what it reads are inputs, what it writes are outputs.

use slotmap::{SecondaryMap, SlotMap};

use super::step::{Plan, Step};
use crate::{
    codegen,
    error::Error,
    graph::{Graph, Output},
    lower::{Definition, TensorId, TensorInfo},
    options::Options,
    partition::Partition,
    schedule::{Kernel, Schedule, verify},
    target::Target,
};

/// The plan of `kernel` alone. Where the target cannot run it, the error says why.
pub fn trial(
    kernel: &Kernel,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
    options: &Options,
) -> Result<Plan, Error> {
    let written = |it: TensorId| kernel.stores.iter().any(|store| store.tensor == it);
    let mut tensors = tensors.clone();
    tensors.values_mut().for_each(|it| it.definition = Definition::Nest(0));
    let mut graph = Graph::new();
    for &tensor in kernel.tensors.iter().filter(|it| !written(**it)) {
        tensors[tensor].definition = Definition::Input(graph.inputs().len() as u32);
        graph.add_input(format!("in{}", graph.inputs().len()), tensors[tensor].ty.clone())?;
    }
    let mut outputs = Vec::new();
    for store in &kernel.stores {
        // Of an output of a plan no more than the name is asked.
        let name = format!("out{}", outputs.len());
        let value = graph.add_input(name.clone(), tensors[store.tensor].ty.clone())?;
        graph.outputs.push(Output { name, value });
        outputs.push(store.tensor);
    }
    let arguments = graph.inputs().len();
    let partition = Partition {
        graph,
        arguments,
        constants: Graph::new(),
        places: SecondaryMap::new(),
        reasons: Vec::new(),
        apart: Vec::new(),
    };
    let kernels = vec![kernel.clone()];
    let schedule = Schedule { tensors, kernels, outputs, states: Vec::new(), refusals: Vec::new() };
    if let Some(fault) = verify::verify(&schedule, target).first() {
        return Err(Error::node(&*kernel.name, fault.clone()));
    }
    let shaders = codegen::emit(&schedule, target, options)?;
    let mut plan = super::plan(&partition, schedule, shaders, target, options)?;
    // As in a whole run, a launch waits for the one before.
    for step in &mut plan.steps {
        if let Step::Dispatch { barrier, .. } = step {
            *barrier = true;
        }
    }
    Ok(plan)
}
