//! One kernel as a plan of its own, to be measured: what it reads are inputs, what it writes are outputs, also where both are one state's
//! memory: runs would add up there. Several copies of it, one after the other, each on tensors of its own, find in no cache what they read.

use slotmap::{SecondaryMap, SlotMap};

use super::step::{Plan, Step};
use crate::{
    codegen,
    error::Error,
    graph::{Graph, Output},
    lower::{Definition, Expr, TensorId, TensorInfo},
    options::Options,
    partition::Partition,
    schedule::{Kernel, Schedule, Store, verify},
    target::Target,
};

/// The plan of `copies` of `kernel` alone: its inputs, those of all copies, then their outputs. Where the target cannot run it, the error
/// says why.
pub fn trial(
    kernel: &Kernel,
    copies: usize,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
    options: &Options,
) -> Result<Plan, Error> {
    let mut tensors = tensors.clone();
    tensors.values_mut().for_each(|it| it.definition = Definition::Nest(0));
    let kernel = apart(kernel, &mut tensors);
    let mut kernels = vec![kernel.clone()];
    while kernels.len() < copies {
        kernels.push(copy(&kernel, kernels.len(), &mut tensors));
    }
    let mut graph = Graph::new();
    for kernel in &kernels {
        let written = |it: TensorId| kernel.stores.iter().any(|store| store.tensor == it);
        for &tensor in kernel.tensors.iter().filter(|it| !written(**it)) {
            tensors[tensor].definition = Definition::Input(graph.inputs().len() as u32);
            graph.add_input(format!("in{}", graph.inputs().len()), tensors[tensor].ty.clone())?;
        }
    }
    let mut outputs = Vec::new();
    for store in kernels.iter().flat_map(|it| &it.stores) {
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

/// Whether the target binds as many buffers as `kernel` has alone.
pub fn fits(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>, target: &Target) -> bool {
    let mut tensors = tensors.clone();
    let kernel = apart(kernel, &mut tensors);
    verify::bindings(&kernel.tensors, &tensors, target) <= u64::from(target.max_storage_buffers)
}

/// The kernel, reading tensors of their own where it reads what it writes.
fn apart(kernel: &Kernel, tensors: &mut SlotMap<TensorId, TensorInfo>) -> Kernel {
    let stored: Vec<TensorId> = kernel.stores.iter().map(|it| it.tensor).collect();
    let read = |it: &TensorId| {
        kernel.body.iter().any(|expr| matches!(expr.1, Expr::Load { tensor, .. } if tensor == it))
    };
    let own: Vec<(TensorId, TensorId)> = (stored.iter().filter(|it| read(it)))
        .map(|&it| {
            let info = tensors[it].clone();
            (it, tensors.insert(info))
        })
        .collect();
    let moved = |it: TensorId| own.iter().find(|own| own.0 == it).map_or(it, |own| own.1);
    let mut all: Vec<TensorId> = kernel.tensors.clone();
    let reads = all.len() - stored.len();
    all.splice(reads..reads, own.iter().map(|it| it.1));
    Kernel { body: kernel.body.redirected(moved), tensors: all, ..kernel.clone() }
}

/// The same on tensors of its own.
fn copy(kernel: &Kernel, number: usize, tensors: &mut SlotMap<TensorId, TensorInfo>) -> Kernel {
    let own: Vec<(TensorId, TensorId)> = (kernel.tensors.iter())
        .map(|&it| {
            let info = tensors[it].clone();
            (it, tensors.insert(info))
        })
        .collect();
    let moved = |it: TensorId| own.iter().find(|own| own.0 == it).map_or(it, |own| own.1);
    let body = kernel.body.redirected(moved);
    let stores = kernel.stores.iter().map(|it| Store { tensor: moved(it.tensor), ..it.clone() }).collect();
    let tensors = kernel.tensors.iter().map(|it| moved(*it)).collect();
    Kernel { name: format!("{}_{number}", kernel.name), body, stores, tensors, ..kernel.clone() }
}
