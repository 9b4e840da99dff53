//! What of a plan is text: its schedule, what its shaders bind, its numbers. All but the constant graph and the modules.
//!
//! In: a plan and its face, or their texts with a constant graph and modules. Out: the texts, or the plan. Whatever the texts, the result is a plan of
//! the given face that its verifiers have nothing against, or what is wrong. What a changed text would compute is not for
//! the verifiers to say.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use slotmap::SlotMap;

use super::{
    keys::keys,
    step::{Constant, Plan, PlanKernel, Port, Step},
    text, verify, work,
};
use crate::{
    codegen::{Binding, LateModule, Shader, device_bytes},
    graph::{Graph, State},
    lower::{TensorId, TensorInfo},
    schedule::{self, Kept, Kernel, Schedule},
    shape::Type,
    target::{Place, Target},
    text::{Cursor, Show, Text, spelled},
};

/// What a plan shows to those who run it. States are among the inputs and outputs.
#[derive(Clone, PartialEq, Debug)]
pub struct Face {
    pub inputs: Vec<(String, Type)>,
    pub outputs: Vec<(String, Type)>,
    pub states: Vec<State>,
}

impl Face {
    pub fn of(graph: &Graph) -> Face {
        let outputs = graph.outputs.iter().map(|it| (it.name.clone(), graph.ty(it.value).clone()));
        Face {
            inputs: graph.inputs().iter().map(|it| (it.name.clone(), it.ty.clone())).collect(),
            outputs: outputs.collect(),
            states: graph.states.clone(),
        }
    }
}

/// The texts.
#[derive(Clone, PartialEq, Debug)]
pub struct Written<T> {
    pub schedule: T,
    pub shaders: T,
    pub numbers: T,
}

/// A `Shader` but for its module.
struct Outline {
    key: u128,
    workgroup_size: [u32; 3],
    groups: [u32; 3],
    bindings: Vec<Binding>,
}

spelled!(struct Outline { key, workgroup_size, groups, bindings });
spelled!(struct Binding { tensor, offset, len });

/// The texts of a plan with this face.
pub fn write(plan: &Plan, face: &Face) -> Written<String> {
    let mut given = plan.outputs.iter().filter_map(|it| it.tensor);
    let output = |number: usize| match face.states.iter().position(|it| it.output as usize == number) {
        Some(state) => plan.becoming.get(state).copied(),
        None => given.next(),
    };
    let schedule = Schedule {
        tensors: plan.tensors.clone(),
        kernels: plan.kernels.iter().map(|it| (*it.kernel).clone()).collect(),
        outputs: (0..face.outputs.len()).filter_map(output).collect(),
        states: (face.states.iter().zip(&plan.states))
            .filter_map(|(it, port)| Some(Kept { input: it.input, output: it.output, old: port.tensor? }))
            .collect(),
        refusals: plan.refusals.clone(),
    };
    let mut shaders = String::new();
    for shader in plan.kernels.iter().filter_map(|it| it.shader.as_ref()) {
        let Shader { module: _, workgroup_size, groups, bindings, key } = shader.clone();
        writeln!(shaders, "{}", Show(&Outline { key, workgroup_size, groups, bindings })).expect("a string");
    }
    Written { schedule: schedule.to_string(), shaders, numbers: plan.to_string() }
}

/// Makes the module of a key, for a kernel that has it.
pub type Modules<'a> = dyn FnMut(u128, &Arc<Kernel>, &Context) -> Result<LateModule, String> + 'a;

/// The plan of these texts. `module` is asked once for the module of each key, with a kernel that has it.
pub fn read(
    written: Written<&str>,
    constant_graph: Graph,
    target: &Target,
    face: &Face,
    module: &mut Modules<'_>,
) -> Result<Plan, String> {
    let schedule = schedule::text::parse(written.schedule).map_err(|it| it.to_string())?;
    let faults = schedule::verify::verify(&schedule, target);
    if let Some(fault) = faults.first() {
        return Err(fault.clone());
    }
    let becoming = schedule.becoming().map(|it| it.1).collect();
    let Schedule { tensors, kernels, outputs, states, refusals } = schedule;
    let outlines: Vec<Outline> = lines(written.shaders)?;
    let mut outlines = outlines.into_iter();
    let context = Arc::new((tensors, target.clone()));
    let tensors = &context.0;
    let mut modules = HashMap::new();
    let mut made = Vec::new();
    for kernel in kernels {
        let kernel = Arc::new(kernel);
        let shader = match kernel.place {
            Place::Cpu => None,
            Place::Gpu => {
                let outline = outlines.next().ok_or("a kernel has no shader")?;
                Some(shader(outline, &kernel, &context, &mut modules, module)?)
            }
        };
        made.push(PlanKernel {
            bytes: work::bytes(&kernel, tensors),
            flops: work::flops(&kernel, tensors),
            types: kernel.tensors.iter().map(|&it| tensors[it].ty.clone()).collect(),
            kernel,
            shader,
        });
    }
    let outline = Plan {
        target: target.clone(),
        tensors: tensors.clone(),
        buffers: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        states: Vec::new(),
        becoming,
        constants: Vec::new(),
        constant_graph,
        kernels: made,
        steps: Vec::new(),
        cpu_parts: Vec::new(),
        live_peak: 0,
        refusals,
    };
    let plan = text::parse(written.numbers, &outline).map_err(|it| it.to_string())?;
    let faults = verify(&plan);
    if let Some(fault) = faults.first() {
        return Err(fault.clone());
    }
    belongs(&plan, face, &outputs, &states)?;
    Ok(plan)
}

/// One a line.
pub(super) fn lines<T: Text>(text: &str) -> Result<Vec<T>, String> {
    let all = Cursor::all(text, |from| {
        let mut all = Vec::new();
        while !from.is_done() {
            all.push(T::parse(from)?);
            from.end()?;
        }
        Ok(all)
    });
    all.map_err(|it| it.to_string())
}

/// What modules are made from when they are looked at.
pub type Context = Arc<(SlotMap<TensorId, TensorInfo>, Target)>;

fn shader(
    outline: Outline,
    kernel: &Arc<Kernel>,
    context: &Context,
    modules: &mut HashMap<u128, LateModule>,
    module: &mut Modules<'_>,
) -> Result<Shader, String> {
    let Outline { key, workgroup_size, groups, bindings } = outline;
    // Every tensor is bound once, whole, in consecutive parts.
    let mut rest = bindings.as_slice();
    for &tensor in &kernel.tensors {
        let mut bound = 0;
        let parts = rest.iter().take_while(|it| it.tensor == tensor).count();
        for part in &rest[..parts] {
            let whole = part.offset == bound && part.len > 0;
            bound = bound.checked_add(part.len).filter(|_| whole).ok_or("a binding is out of place")?;
        }
        rest = &rest[parts..];
        let bytes = device_bytes(&context.0[tensor].ty);
        if bound != bytes {
            return Err(format!("{}: binds {bound} of {bytes} bytes", kernel.name));
        }
    }
    if !rest.is_empty() {
        return Err(format!("{}: binds what it does not know", kernel.name));
    }
    let module = match modules.get(&key) {
        Some(module) => module.clone(),
        None => modules.entry(key).or_insert(module(key, kernel, context)?).clone(),
    };
    Ok(Shader { module, workgroup_size, groups, bindings, key })
}

/// Whether a plan that holds together has this face.
fn belongs(plan: &Plan, face: &Face, outputs: &[TensorId], states: &[Kept]) -> Result<(), String> {
    let kept = |it: &Kept| State { input: it.input, output: it.output };
    let old = plan.states.iter().map(|it| it.tensor);
    if !states.iter().map(kept).eq(face.states.iter().copied())
        || !old.eq(states.iter().map(|it| Some(it.old)))
    {
        return Err("other states".into());
    }
    let said = |it: &Port| (it.name.clone(), it.ty.clone());
    let (mut inputs, mut fed) = (plan.inputs.iter(), plan.states.iter());
    for (number, input) in face.inputs.iter().enumerate() {
        let is_state = face.states.iter().any(|it| it.input as usize == number);
        let port = if is_state { fed.next() } else { inputs.next() };
        if port.map(said).as_ref() != Some(input) {
            return Err("other inputs".into());
        }
    }
    let mut results = plan.outputs.iter();
    for (number, output) in face.outputs.iter().enumerate() {
        if face.states.iter().any(|it| it.output as usize == number) {
            continue;
        }
        let port = results.next();
        if port.map(said).as_ref() != Some(output) {
            return Err("other outputs".into());
        }
        if port.and_then(|it| it.tensor).as_ref() != outputs.get(number) {
            return Err("other results".into());
        }
    }
    if [inputs.next(), fed.next(), results.next()].iter().any(Option::is_some) {
        return Err("more inputs or outputs".into());
    }
    let ports = plan.inputs.iter().chain(&plan.outputs).chain(&plan.states);
    let ports = ports.chain(plan.constants.iter().map(|it| &it.port));
    for port in ports {
        if port.tensor.is_some_and(|it| plan.tensors.get(it).is_none_or(|it| it.ty != port.ty)) {
            return Err(format!("port '{}' is of another type than its tensor", port.name));
        }
    }
    for step in &plan.steps {
        if let Step::Dispatch { kernel, groups, .. } = step
            && plan.kernels[*kernel].shader.as_ref().is_none_or(|it| it.groups != *groups)
        {
            return Err("other workgroups than the shader's".into());
        }
    }
    let keys = keys(&plan.constant_graph);
    let mut held: HashMap<_, u128> = HashMap::new();
    for Constant { key, value, port } in &plan.constants {
        if *plan.constant_graph.ty(*value) != port.ty || keys[*value] != *key {
            return Err(format!("constant '{}' is another", port.name));
        }
        for slice in port.device.iter().chain(&port.host) {
            if *held.entry((slice.buffer, slice.offset)).or_insert(*key) != *key {
                return Err(format!("constant '{}' lies where another does", port.name));
            }
        }
    }
    Ok(())
}
