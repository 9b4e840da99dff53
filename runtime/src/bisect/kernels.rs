//! Kernels one by one: whether each computes from what it read what it should.
//!
//! All that kernels write is looked at in one run of a plan in which it is kept (`plan::traced`). A kernel of a GPU is held against the
//! same kernel on the processor, one of the processor against the slow evaluator, both on the values that the run gave it, so that errors do
//! not add up from kernel to kernel.

use std::collections::BTreeMap;

use wgfuse_compiler::{
    graph,
    lower::{Definition, Expr, TensorId, TensorInfo, eval::Memory},
    options::Options,
    plan::{Plan, traced},
    schedule::{Kernel, Schedule, Skeleton, eval::eval_kernel},
    schedule_graph,
    target::Place,
    tensor::Tensor,
};

use super::Subject;
use crate::{
    buffers::Wait,
    capture::capture,
    caught::caught,
    compare::{Difference, compare},
    constants::{Constants, Failure},
    device_tensor::AnyTensor,
    error::{DeviceError, Result},
    host::{self, Operand},
    launch::Replay,
    memory::Lines,
    replay::replay,
    state::States,
};

/// Operations that the slow evaluator is asked to do for one kernel.
const EVALUATED: u64 = 200_000_000;

/// A kernel that computes something else than it should.
#[derive(Clone, PartialEq, Debug)]
pub struct WrongKernel {
    pub name: String,
    /// The nodes of the source file that it computes.
    pub origins: Vec<String>,
    pub place: Place,
    /// Which of the tensors that it writes, and how far that is from what it should be.
    pub store: usize,
    pub difference: Difference,
    /// Whether results are wrong too where kernels have every run-time check. If not, an index is out of range.
    pub wrong_with_checks: bool,
}

type Infos = slotmap::SlotMap<TensorId, TensorInfo>;

/// The first kernel that is wrong, and what could not be looked at.
pub(super) fn first_wrong(
    subject: &Subject,
    planted: Option<&(dyn Fn(&mut Plan) + Send + Sync)>,
) -> Result<(Option<WrongKernel>, Vec<String>)> {
    let arguments = &subject.arguments;
    let (options, target) = (&arguments.options, subject.device.target());
    let mut notes = Vec::new();
    let (parts, schedule, mut plan, order) = caught(|| {
        let (parts, schedule) = schedule_graph(arguments.graph.clone(), target, options, &arguments.choices)?;
        let (plan, order) = traced(&parts, &schedule, target, options)?;
        Ok((parts, schedule, plan, order))
    })?;
    if let Some(planted) = planted {
        planted(&mut plan);
    }
    let is_state = |it: usize| arguments.graph.states.iter().any(|state| state.input as usize == it);
    let examples = arguments.examples.iter().enumerate();
    let given: Option<Vec<AnyTensor>> =
        examples.filter(|it| !is_state(it.0)).map(|(_, it)| it.value.clone().map(AnyTensor::Host)).collect();
    let Some(given) = given else {
        return Ok((None, vec!["an input has no value".to_owned()]));
    };
    let made = run(subject, &plan, &given, options)?;
    let mut values: BTreeMap<TensorId, Tensor> =
        order.iter().copied().zip(made[made.len() - order.len()..].iter().cloned()).collect();
    let wanted: Vec<_> = parts.constants.outputs.iter().map(|it| it.value).collect();
    let constants = graph::eval::values(&parts.constants, &wanted, &[]);
    for (id, info) in &schedule.tensors {
        match info.definition {
            Definition::Input(slot) => {
                if let Some(value) = arguments.examples.get(slot as usize).and_then(|it| it.value.clone()) {
                    values.insert(id, value);
                }
            }
            Definition::Constant(number) => _ = values.insert(id, constants[number as usize].clone()),
            Definition::Nest(_) => {}
        }
    }
    for (number, kernel) in schedule.kernels.iter().enumerate() {
        let expected = match expected(&schedule, kernel, plan.kernels[number].flops, &values) {
            Ok(it) => it,
            Err(why) => {
                notes.push(format!("{}: {why}", kernel.name));
                continue;
            }
        };
        for (store, (id, expected)) in expected.iter().enumerate() {
            let difference = compare(&values[id], expected, subject.tolerance);
            if !difference.allowed() {
                let wrong = WrongKernel {
                    name: kernel.name.clone(),
                    origins: kernel.origins.iter().map(|it| it.to_string()).collect(),
                    place: kernel.place,
                    store,
                    difference,
                    wrong_with_checks: true,
                };
                return Ok((Some(wrong), notes));
            }
        }
    }
    Ok((None, notes))
}

fn run(subject: &Subject, plan: &Plan, given: &[AnyTensor], options: &Options) -> Result<Vec<Tensor>> {
    let body = async {
        let gpu = match plan.target.place {
            Place::Gpu => Some(subject.device.gpu_now().await?),
            Place::Cpu => None,
        };
        let (mut constants, mut states) = (Constants::default(), States::default());
        let tape = capture(plan, gpu, &mut constants, options.checked, Replay::Portable, &mut states).await;
        let mut tape = tape.map_err(|it| match it {
            Failure::Error(error) => error,
            Failure::Step(reason) => {
                DeviceError::Refused { at: "a run of all kernels".into(), what: reason.to_string() }.into()
            }
        })?;
        replay(&mut tape, plan, given, Wait::Block).await
    };
    pollster::block_on(body)
}

/// What a kernel should write, for what it read.
fn expected(
    schedule: &Schedule,
    kernel: &Kernel,
    flops: u64,
    values: &BTreeMap<TensorId, Tensor>,
) -> std::result::Result<Vec<(TensorId, Tensor)>, String> {
    let written: Vec<TensorId> = kernel.stores.iter().map(|it| it.tensor).collect();
    let reads = kernel.tensors.iter().filter(|it| !written.contains(it));
    let loads = |it: &Expr| matches!(it, Expr::Load { tensor, .. } if written.contains(tensor));
    if kernel.body.iter().any(|it| loads(it.1)) || written.iter().any(|it| !values.contains_key(it)) {
        return Err("it writes a state in place".to_owned());
    }
    if let Some(missing) = reads.clone().find(|it| !values.contains_key(*it)) {
        return Err(format!("tensor {missing:?} has no value"));
    }
    let several = matches!(&kernel.skeleton, Skeleton::Contract { others, .. } if !others.is_empty());
    match kernel.place {
        Place::Gpu if !several => on_host(kernel, &schedule.tensors, values),
        _ if flops <= EVALUATED => evaluated(kernel, &schedule.tensors, values),
        _ => Err(format!("its {flops} operations are too many for the slow evaluator")),
    }
}

fn on_host(
    kernel: &Kernel,
    infos: &Infos,
    values: &BTreeMap<TensorId, Tensor>,
) -> std::result::Result<Vec<(TensorId, Tensor)>, String> {
    let types: Vec<_> = kernel.tensors.iter().map(|it| infos[*it].ty.clone()).collect();
    let prepared = caught(|| Ok(host::prepare(kernel, &types))).map_err(|it| it.to_string())?;
    let written = |it: &TensorId| kernel.stores.iter().any(|store| store.tensor == *it);
    let memory: std::result::Result<Vec<Lines>, DeviceError> = (kernel.tensors.iter().zip(&types))
        .map(|(it, ty)| match written(it) {
            true => Lines::zeroed(ty.bytes()),
            false => Lines::copy_of(values[it].data()),
        })
        .collect();
    let mut memory = memory.map_err(|it| it.to_string())?;
    let operands: Vec<Operand> = (memory.iter_mut().zip(&types))
        .map(|(memory, ty)| Operand { ty: ty.clone(), data: memory.as_mut_ptr(), len: ty.bytes() })
        .collect();
    // SAFETY: every operand is memory of its own of its type's bytes, at a multiple of 64.
    unsafe { host::run(&prepared, &operands) };
    let tensor = |(at, id): (usize, &TensorId)| {
        // SAFETY: as above; nothing writes to it any more.
        let bytes = unsafe { std::slice::from_raw_parts(operands[at].data, operands[at].len) };
        Tensor::new(types[at].clone(), bytes.to_vec().into()).map(|it| (*id, it))
    };
    let stores = kernel.stores.iter().map(|store| {
        let at = kernel.tensors.iter().position(|it| *it == store.tensor)?;
        tensor((at, &store.tensor))
    });
    stores.collect::<Option<Vec<_>>>().ok_or_else(|| "it writes what it does not name".to_owned())
}

fn evaluated(
    kernel: &Kernel,
    infos: &Infos,
    values: &BTreeMap<TensorId, Tensor>,
) -> std::result::Result<Vec<(TensorId, Tensor)>, String> {
    let mut memory = Memory::new();
    for it in &kernel.tensors {
        if !kernel.stores.iter().any(|store| store.tensor == *it) {
            memory.insert(*it, values[it].scalars().collect());
        }
    }
    caught(|| {
        eval_kernel(kernel, infos, &mut memory);
        Ok(())
    })
    .map_err(|it| it.to_string())?;
    let tensor = |it: TensorId| (it, Tensor::from_scalars(infos[it].ty.clone(), memory[it].iter().copied()));
    Ok(kernel.stores.iter().map(|it| tensor(it.tensor)).collect())
}
