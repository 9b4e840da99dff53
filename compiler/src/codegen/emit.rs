//! Kernels of a schedule to shaders: each by its skeleton's writer, alike ones once.

use std::{collections::HashMap, fmt::Write};

use slotmap::SlotMap;

use super::{
    attention, contract, map,
    memory::Memory,
    rows,
    shader::{self, Shader},
    writer::{Code, Writer},
};
use crate::{
    bug,
    error::Error,
    lower::{TensorId, TensorInfo},
    options::Options,
    schedule::{Kernel, Schedule, Skeleton},
    target::{Place, Target},
};

/// One shader for each kernel on the GPU, `None` for those on the CPU, in the order of the schedule.
pub fn emit(schedule: &Schedule, target: &Target, _options: &Options) -> Result<Vec<Option<Shader>>, Error> {
    let mut known = HashMap::new();
    let mut one = |kernel: &Kernel| match kernel.place {
        Place::Gpu => once(kernel, &schedule.tensors, target, &mut known).map(Some),
        Place::Cpu => Ok(None),
    };
    schedule.kernels.iter().map(&mut one).collect()
}

/// Shaders by what their kernels compute, each with its kernel's tensors.
type Known = HashMap<String, (Shader, Vec<TensorId>)>;

/// The kernel's shader. Kernels that differ only in which tensors they work on share one module, made once: the layers of
/// a model are mostly such.
fn once(
    kernel: &Kernel,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
    known: &mut Known,
) -> Result<Shader, Error> {
    let text = anonymous(kernel, tensors);
    if let Some((shader, own)) = known.get(&text) {
        let mut shader = shader.clone();
        for binding in &mut shader.bindings {
            let place = own.iter().position(|it| *it == binding.tensor);
            binding.tensor = kernel.tensors[place.expect("a binding is of a tensor of the kernel")];
        }
        return Ok(shader);
    }
    let made = shader(kernel, tensors, target)?;
    known.insert(text, (made.clone(), kernel.tensors.clone()));
    Ok(made)
}

/// All that decides a kernel's module, with its tensors numbered in the order of its own list.
fn anonymous(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>) -> String {
    let mut text = format!("{:?} {:?}", kernel.skeleton, kernel.stores);
    for (_, expr, dtype) in kernel.body.iter() {
        write!(text, " {expr:?}:{dtype}").expect("a string takes everything");
    }
    for (number, tensor) in kernel.tensors.iter().enumerate() {
        text = text.replace(&format!("{tensor:?}"), &format!("t{number}"));
        write!(text, " t{number}:{}", tensors[*tensor].ty).expect("a string takes everything");
    }
    text
}

/// A kernel whose tensors have no elements.
fn nothing(writer: &mut Writer) -> [u32; 3] {
    Code::new(writer, "main").entry_point([1, 1, 1]);
    [0, 1, 1]
}

/// The shader of one kernel.
pub fn shader(
    kernel: &Kernel,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Result<Shader, Error> {
    let mut writer = Writer::default();
    let memory = Memory::bind(&mut writer, kernel, tensors, target)?;
    let to = &mut writer;
    let groups = match &kernel.skeleton {
        _ if kernel.stores.iter().all(|it| tensors[it.tensor].ty.shape.count() == 0) => nothing(to),
        Skeleton::Map { space, workgroup, lanes } => {
            map::write(to, &memory, kernel, space, (*workgroup, *lanes), target)?
        }
        Skeleton::Rows { outer, inner, stages, form } => {
            let stages: Vec<_> = stages.iter().map(rows::Reduction::from).collect();
            rows::write(to, &memory, kernel, (outer, inner), &stages, *form, target)?
        }
        Skeleton::Contract { .. } => contract::write(to, &memory, kernel, target)?,
        Skeleton::Attention { .. } => attention::write(to, &memory, kernel, target)?,
    };
    let module = writer.module;
    let workgroup_size = module.entry_points[0].workgroup_size;
    let key = shader::key(&module);
    let info = shader::validate(&module)
        .unwrap_or_else(|it| bug!("kernel '{}': invalid module: {it:?}", kernel.name));
    if let Some(space) = shader::torn(&module, &info, target.components_apart) {
        bug!("kernel '{}' writes single components of vectors in {space:?}", kernel.name);
    }
    Ok(Shader { module: module.into(), workgroup_size, groups, bindings: memory.bindings, key })
}
