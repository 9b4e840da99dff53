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

use slotmap::Key;

use super::{
    SOURCES,
    keys::BY_CONTENT,
    step::Plan,
    template,
    written::{self, Context, Face, Written, lines},
};
use crate::{
    bug,
    codegen::{self, LateModule},
    graph::{
        ConstantId, Graph, Input, KNOWN, Op, Output, State, number,
        text::{Constants, parse, print},
    },
    options::Options,
    passes::is_causal_mask,
    schedule::{Choices, Kernel},
    shape::Type,
    target::Target,
    tensor::Tensor,
    text::{Show, spelled},
};

/// The key of compiling `graph`; none if a pass or a pattern of the user's own decides about it.
pub fn key(graph: &Graph, target: &Target, options: &Options, choices: &Choices) -> Option<[u8; 32]> {
    let Options {
        fallback,
        checked,
        fuse,
        without_passes,
        rule_limit,
        exact,
        pairs,
        passes,
        patterns,
        memory_limit,
        work_limit,
        // Of runs alone.
        turn_limit: _,
    } = options;
    if !passes.is_empty() || !patterns.is_empty() {
        return None;
    }
    let mut feed = Feed(blake3::Hasher::new());
    SOURCES.hash(&mut feed);
    (target, choices).hash(&mut feed);
    (fallback, checked, fuse, without_passes, rule_limit, exact, pairs, memory_limit, work_limit)
        .hash(&mut feed);
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

/// The bytes of a plan that was compiled from `graph`.
pub fn write(plan: &Plan, graph: &Graph) -> Vec<u8> {
    let (outline, all) = template::outline(plan, graph);
    let (mut leaves, mut values) = (String::new(), Vec::new());
    for (tensor, from) in all {
        if from.is_none() {
            values.extend_from_slice(tensor.data());
        }
        writeln!(leaves, "{}", Show(&Leaf { ty: tensor.ty().clone(), from })).expect("a string");
    }
    let Written { schedule, shaders, numbers } = written::write(plan, &Face::of(graph));
    let constants = print(&outline, Constants::Small);
    let mut bytes = Vec::new();
    for part in [leaves, constants, schedule, shaders, numbers] {
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
    let outline = parse(constants).map_err(|it| it.to_string())?;
    let constant_graph = template::filled(&outline, leaves)?;
    let texts = Written { schedule, shaders, numbers };
    // Made again when they are looked at.
    let mut late = |key, kernel: &Arc<Kernel>, context: &Context| {
        let (kernel, context) = (kernel.clone(), context.clone());
        Ok(LateModule::new(move || match codegen::shader(&kernel, &context.0, &context.1) {
            Ok(shader) if shader.key == key => (*shader.module).clone(),
            // Drivers refuse a module without an entry point.
            Ok(_) | Err(_) => naga::Module::default(),
        }))
    };
    written::read(texts, constant_graph, target, &Face::of(graph), &mut late)
}

fn leaves(text: &str, mut values: &[u8], graph: &Graph) -> Result<Vec<Tensor>, String> {
    let known = template::constants(graph);
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
