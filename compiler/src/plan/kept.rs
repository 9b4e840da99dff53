//! A plan as bytes, to be kept on disk and read instead of compiling again.
//!
//! In: what a compilation is given, or the bytes of an earlier one. Out: its key, its bytes, or its plan. Equal keys mean that
//! the compilation would make the same plan, in every process of the same build: a key covers all that is read. Of large
//! float constants nothing is read but whether they are causal masks (`Graph::known`). Bytes are texts of the stages'
//! own forms, and the few values that passes have made; weights stay in the model, by number. Whatever the bytes, the result
//! is a plan of the given graph that its verifiers have nothing against, or an error. What a changed file would compute
//! is not for the verifiers to say: whoever keeps it sees to it that it comes back as it was written.

use std::{
    collections::HashMap,
    fmt::Write,
    hash::{Hash, Hasher},
    sync::Arc,
};

use slotmap::{Key, SecondaryMap, SlotMap};

use super::{
    keys::{BY_CONTENT, keys},
    step::{Constant, Plan, PlanKernel, Port, Step},
    text, verify, work,
};
use crate::{
    bug,
    codegen::{self, Binding, LateModule, Shader, device_bytes},
    graph::{
        ConstantId, Graph, Input, KNOWN, Op, Output, State, Value, number,
        text::{Constants, parse, print},
    },
    lower::{TensorId, TensorInfo},
    options::Options,
    passes::is_causal_mask,
    schedule::{self, Choices, Kept, Kernel, Schedule},
    shape::Type,
    target::{Place, Target},
    tensor::Tensor,
    text::{Cursor, Show, Text, spelled},
};

/// What this build was made from.
pub const SOURCES: &str = env!("WGFUSE_SOURCES");

/// The key of compiling `graph`; none if a pass of the user's own decides about it.
pub fn key(graph: &Graph, target: &Target, options: &Options, choices: &Choices) -> Option<[u8; 32]> {
    let Options { fallback, checked, fuse, without_passes, rule_limit, exact, pairs, passes, memory_limit } =
        options;
    if !passes.is_empty() {
        return None;
    }
    let mut feed = Feed(blake3::Hasher::new());
    SOURCES.hash(&mut feed);
    (target, choices).hash(&mut feed);
    (fallback, checked, fuse, without_passes, rule_limit, exact, pairs, memory_limit).hash(&mut feed);
    for Input { name, ty } in graph.inputs() {
        (name, ty).hash(&mut feed);
    }
    let mut places = HashMap::new();
    for (value, node) in graph.nodes() {
        (number(value), &node.ty, &node.origin).hash(&mut feed);
        match &node.op {
            Op::Constant(id) => {
                Op::Constant(ConstantId::null()).hash(&mut feed);
                let tensor = graph.constant(*id);
                // Constants that share their bytes may become one.
                let place = (tensor.data().as_ptr() as usize, tensor.data().len());
                places.entry(place).or_insert(number(value)).hash(&mut feed);
                match is_weights(tensor) {
                    true => is_causal_mask(tensor).hash(&mut feed),
                    false => tensor.data().hash(&mut feed),
                }
            }
            op => op.hash(&mut feed),
        }
    }
    for Output { name, value } in &graph.outputs {
        (name, number(*value)).hash(&mut feed);
    }
    for State { input, output } in &graph.states {
        (input, output).hash(&mut feed);
    }
    Some(*feed.0.finalize().as_bytes())
}

/// Whether nothing that is compiled depends on the values of a constant.
pub(crate) fn is_weights(tensor: &Tensor) -> bool {
    tensor.dtype().is_float() && tensor.shape().count() > KNOWN && tensor.data().len() > BY_CONTENT
}

/// A hash that no one can find two inputs for.
struct Feed(blake3::Hasher);

impl Hasher for Feed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        bug!("only the whole hash is a key")
    }
}

/// A constant of a plan's constant graph: of the compiled graph, by its number there, or one that passes have made.
struct Leaf {
    ty: Type,
    from: Option<u32>,
}

spelled!(struct Leaf { ty, from });

/// A `Shader` but for its module.
struct Outline {
    key: u128,
    workgroup_size: [u32; 3],
    groups: [u32; 3],
    bindings: Vec<Binding>,
}

spelled!(struct Outline { key, workgroup_size, groups, bindings });
spelled!(struct Binding { tensor, offset, len });

/// The bytes of a plan that was compiled from `graph`.
pub fn write(plan: &Plan, graph: &Graph) -> Vec<u8> {
    let place = |tensor: &Tensor| (tensor.data().as_ptr() as usize, tensor.data().len());
    let known: HashMap<_, u32> = (graph.nodes())
        .filter_map(|(value, _)| Some((place(graph.as_constant(value)?), number(value))))
        .collect();
    let (mut leaves, mut values) = (String::new(), Vec::new());
    let mut outline = Graph::new();
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    for (value, node) in plan.constant_graph.nodes() {
        outline.set_origin(node.origin.clone());
        let new = match &node.op {
            Op::Constant(id) => {
                let tensor = plan.constant_graph.constant(*id);
                let from = known.get(&place(tensor)).copied().filter(|_| !tensor.data().is_empty());
                if from.is_none() {
                    values.extend_from_slice(tensor.data());
                }
                writeln!(leaves, "{}", Show(&Leaf { ty: tensor.ty().clone(), from })).expect("a string");
                outline.add_input(format!("{}", number(value)), node.ty.clone())
            }
            op => outline.add(op.clone().map_operands(|it| moved[it])),
        };
        moved.insert(value, new.unwrap_or_else(|it| bug!("a constant graph does not fit together: {it}")));
    }
    outline.outputs = (plan.constant_graph.outputs.iter())
        .map(|it| Output { name: it.name.clone(), value: moved[it.value] })
        .collect();
    let mut given = plan.outputs.iter().filter_map(|it| it.tensor);
    let output = |number: usize| match graph.states.iter().position(|it| it.output as usize == number) {
        Some(state) => plan.becoming.get(state).copied(),
        None => given.next(),
    };
    let schedule = Schedule {
        tensors: plan.tensors.clone(),
        kernels: plan.kernels.iter().map(|it| (*it.kernel).clone()).collect(),
        outputs: (0..graph.outputs.len()).filter_map(output).collect(),
        states: (graph.states.iter().zip(&plan.states))
            .filter_map(|(it, port)| Some(Kept { input: it.input, output: it.output, old: port.tensor? }))
            .collect(),
        refusals: plan.refusals.clone(),
    };
    let mut shaders = String::new();
    for shader in plan.kernels.iter().filter_map(|it| it.shader.as_ref()) {
        let Shader { module: _, workgroup_size, groups, bindings, key } = shader.clone();
        writeln!(shaders, "{}", Show(&Outline { key, workgroup_size, groups, bindings })).expect("a string");
    }
    let constants = print(&outline, Constants::Small);
    let mut bytes = Vec::new();
    for part in [leaves, constants, schedule.to_string(), shaders, plan.to_string()] {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes.extend(values);
    bytes
}

/// The plan of `graph` for `target` that was written as `bytes`, or what is wrong with them.
pub fn read(bytes: &[u8], graph: &Graph, target: &Target) -> Result<Plan, String> {
    let mut rest = bytes;
    let mut part = || {
        let (len, behind) = rest.split_first_chunk::<8>()?;
        let (text, behind) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        rest = behind;
        std::str::from_utf8(text).ok()
    };
    let mut next = || part().ok_or("the file is cut");
    let [leaves, constants, schedule, shaders, numbers] = [next()?, next()?, next()?, next()?, next()?];
    let leaves = self::leaves(leaves, rest, graph)?;
    let constant_graph = constant_graph(constants, leaves)?;
    let schedule = schedule::text::parse(schedule).map_err(|it| it.to_string())?;
    let faults = schedule::verify::verify(&schedule, target);
    if let Some(fault) = faults.first() {
        return Err(fault.clone());
    }
    let becoming = schedule.becoming().map(|it| it.1).collect();
    let Schedule { tensors, kernels, outputs, states, refusals } = schedule;
    let outlines: Vec<Outline> = lines(shaders)?;
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
                Some(shader(outline, &kernel, &context, &mut modules)?)
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
    let plan = text::parse(numbers, &outline).map_err(|it| it.to_string())?;
    let faults = verify(&plan);
    if let Some(fault) = faults.first() {
        return Err(fault.clone());
    }
    belongs(&plan, graph, &outputs, &states)?;
    Ok(plan)
}

fn lines<T: Text>(text: &str) -> Result<Vec<T>, String> {
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

fn leaves(text: &str, mut values: &[u8], graph: &Graph) -> Result<Vec<Tensor>, String> {
    let known: HashMap<u32, &Tensor> =
        graph.nodes().filter_map(|(value, _)| Some((number(value), graph.as_constant(value)?))).collect();
    let mut leaves = Vec::new();
    for Leaf { ty, from } in lines(text)? {
        let data = match from {
            Some(number) => known.get(&number).ok_or("no such constant")?.data().clone(),
            None => {
                let len = ty.shape.checked_count().and_then(|it| it.checked_mul(ty.dtype.size()));
                let (own, behind) = len.and_then(|it| values.split_at_checked(it)).ok_or("values are cut")?;
                values = behind;
                own.to_vec().into()
            }
        };
        leaves.push(Tensor::new(ty, data).ok_or("a constant of another size")?);
    }
    Ok(leaves)
}

fn constant_graph(text: &str, leaves: Vec<Tensor>) -> Result<Graph, String> {
    let outline = parse(text).map_err(|it| it.to_string())?;
    if outline.inputs().len() != leaves.len() {
        return Err("as many constants as leaves are needed".into());
    }
    let mut graph = Graph::new();
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    for (value, node) in outline.nodes() {
        graph.set_origin(node.origin.clone());
        let new = match &node.op {
            Op::Input { slot } => {
                let leaf = leaves.get(*slot as usize).ok_or("no such leaf")?;
                if *leaf.ty() != node.ty {
                    return Err("a leaf of another type".into());
                }
                graph.add_constant(leaf.clone())
            }
            op => graph.add(op.clone().map_operands(|it| moved[it])).map_err(|it| it.to_string())?,
        };
        // Text names nodes by their numbers.
        if new != value {
            return Err("two nodes are the same".into());
        }
        moved.insert(value, new);
    }
    graph.outputs = outline.outputs.clone();
    Ok(graph)
}

/// What modules are made from when they are looked at.
type Context = Arc<(SlotMap<TensorId, TensorInfo>, Target)>;

fn shader(
    outline: Outline,
    kernel: &Arc<Kernel>,
    context: &Context,
    modules: &mut HashMap<u128, LateModule>,
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
    let late = || {
        let (kernel, context) = (kernel.clone(), context.clone());
        LateModule::new(move || match codegen::shader(&kernel, &context.0, &context.1) {
            Ok(shader) if shader.key == key => (*shader.module).clone(),
            // Drivers refuse a module without an entry point.
            Ok(_) | Err(_) => naga::Module::default(),
        })
    };
    let module = modules.entry(key).or_insert_with(late).clone();
    Ok(Shader { module, workgroup_size, groups, bindings, key })
}

/// Whether a plan that holds together is one of `graph`.
fn belongs(plan: &Plan, graph: &Graph, outputs: &[TensorId], states: &[Kept]) -> Result<(), String> {
    let kept = |it: &Kept| State { input: it.input, output: it.output };
    let old = plan.states.iter().map(|it| it.tensor);
    if !states.iter().map(kept).eq(graph.states.iter().copied())
        || !old.eq(states.iter().map(|it| Some(it.old)))
    {
        return Err("other states".into());
    }
    let said = |it: &Port| (it.name.clone(), it.ty.clone());
    let (mut inputs, mut fed) = (plan.inputs.iter(), plan.states.iter());
    for (number, input) in graph.inputs().iter().enumerate() {
        let is_state = graph.states.iter().any(|it| it.input as usize == number);
        let port = if is_state { fed.next() } else { inputs.next() };
        if port.map(said) != Some((input.name.clone(), input.ty.clone())) {
            return Err("other inputs".into());
        }
    }
    let mut results = plan.outputs.iter();
    for (number, output) in graph.outputs.iter().enumerate() {
        if graph.states.iter().any(|it| it.output as usize == number) {
            continue;
        }
        let port = results.next();
        if port.map(said) != Some((output.name.clone(), graph.ty(output.value).clone())) {
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
