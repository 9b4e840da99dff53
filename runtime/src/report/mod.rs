//! What the compiler did to a model, as plain data (for `wgfuse inspect` to print and for programs to read) and as a page
//! that needs nothing else.

mod form;
mod memory;
mod page;
mod picture;
mod words;

use std::collections::BTreeMap;

use serde::Serialize;
use wgfuse_compiler::{
    error::Error,
    graph::{Graph, Op, Value, number},
    import::{Model, Signature},
    lower::TensorId,
    options::Options,
    partition::Partition,
    plan::{Plan, PlanKernel, Step},
    schedule::Choices,
    shape::{Dim, Shape, Type},
    target::{Place, Target},
};

use form::form;
pub use memory::{Memory, Span};
pub use page::page;
pub use picture::Picture;
pub use words::{bytes, count, seconds};

use crate::observed::Observed;

#[derive(Serialize)]
pub struct Report {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// How often each operator stands in the file's graph and in the optimised one.
    pub operators: Vec<OperatorCount>,
    pub nodes: Vec<Node>,
    pub kernels: Vec<Kernel>,
    /// What the GPU cannot run, and why.
    pub cpu_parts: Vec<CpuPart>,
    /// In the order in which a run moves them.
    pub crossings: Vec<Crossing>,
    pub refusals: Vec<Refusal>,
    pub dispatches: usize,
    pub steps: usize,
    pub memory: Memory,
    pub passes: Vec<PassRow>,
    pub parts: Vec<Part>,
    pub stages: Vec<StageTime>,
    /// What every run computes, drawn; none of a graph too large for it.
    #[serde(skip)]
    pub picture: Option<Picture>,
}

#[derive(Serialize)]
pub struct Port {
    pub name: String,
    pub dtype: &'static str,
    /// As the file states them.
    pub dims: String,
    pub shape: Vec<usize>,
}

#[derive(Serialize)]
pub struct OperatorCount {
    pub name: &'static str,
    pub imported: usize,
    pub optimised: usize,
}

#[derive(Serialize)]
pub struct Node {
    pub number: u32,
    pub op: &'static str,
    pub operands: Vec<u32>,
    #[serde(rename = "type")]
    pub ty: String,
    pub origin: String,
}

#[derive(Serialize)]
pub struct Kernel {
    pub name: String,
    pub place: &'static str,
    /// What was fused, in order.
    pub ops: Vec<&'static str>,
    pub origins: Vec<String>,
    pub form: String,
    /// Workgroups and invocations of one, on the GPU.
    pub groups: Option<[u32; 3]>,
    pub workgroup: Option<[u32; 3]>,
    pub bindings: usize,
    pub bytes: u64,
    pub flops: u64,
}

#[derive(Serialize)]
pub struct CpuPart {
    pub node: String,
    pub reason: String,
}

/// A tensor that every run moves between GPU and CPU, beside the model's inputs and outputs.
#[derive(Serialize)]
pub struct Crossing {
    /// The node that made it.
    pub node: String,
    /// "gpu" or "cpu".
    pub to: &'static str,
    pub bytes: u64,
}

#[derive(Serialize)]
pub struct Refusal {
    pub producer: String,
    pub consumer: String,
    pub why: String,
}

/// What a pass made of the graph.
#[derive(Serialize)]
pub struct PassRow {
    pub name: String,
    pub changed: bool,
    /// After it.
    pub nodes: usize,
}

/// A part of the graph that runs in one place, or once.
#[derive(Serialize)]
pub struct Part {
    pub name: &'static str,
    pub nodes: usize,
    pub why: String,
}

#[derive(Serialize)]
pub struct StageTime {
    pub name: String,
    pub seconds: f64,
}

/// Compiles `model`, and keeps what each stage made of it.
pub fn report(
    model: &Model,
    shapes: &[Shape],
    target: &Target,
    options: &Options,
) -> Result<(Report, Plan), Error> {
    let mut observed = Observed::new(model.graph(shapes)?);
    let plan = observed.compile(target, options, &Choices::default())?;
    let mut report = of(&observed, &plan);
    let dims = |it: &Signature| shape_text(&it.dims);
    for (all, signature) in [(&mut report.inputs, &model.inputs), (&mut report.outputs, &model.outputs)] {
        all.iter_mut().zip(signature).for_each(|(port, it)| port.dims = dims(it));
    }
    Ok((report, plan))
}

/// What every run of `plan` moves between GPU and CPU, beside the model's inputs and outputs.
pub fn crossings(plan: &Plan) -> Vec<Crossing> {
    let crossing = |tensor: TensorId, ty: &Type, to| Crossing {
        node: plan.tensors[tensor].origin.to_string(),
        to,
        bytes: ty.bytes() as u64,
    };
    let moved = plan.steps.iter().filter_map(|it| match it {
        Step::Dispatch { .. } | Step::Host { .. } => None,
        Step::Download { tensor, ty, .. } => Some(crossing(*tensor, ty, "cpu")),
        Step::Upload { tensor, ty, .. } => Some(crossing(*tensor, ty, "gpu")),
    });
    moved.collect()
}

/// Of a compilation that ended well.
pub(crate) fn of(observed: &Observed, plan: &Plan) -> Report {
    let (imported, graph) = (&observed.imported, observed.optimised());
    let port = |name: &str, ty: &Type| Port {
        name: name.to_owned(),
        dtype: ty.dtype.name(),
        dims: ty.shape.to_string(),
        shape: ty.shape.to_vec(),
    };
    let mut nodes_now = imported.len();
    let passes = observed.passes.iter().map(|(name, graph)| {
        nodes_now = graph.as_ref().map_or(nodes_now, Graph::len);
        PassRow { name: name.clone(), changed: graph.is_some(), nodes: nodes_now }
    });
    Report {
        inputs: imported.inputs().iter().map(|it| port(&it.name, &it.ty)).collect(),
        outputs: imported.outputs.iter().map(|it| port(&it.name, imported.ty(it.value))).collect(),
        operators: operators(imported, graph),
        nodes: nodes(graph),
        passes: passes.collect(),
        parts: observed.parts.as_ref().map_or_else(Vec::new, parts),
        kernels: plan.kernels.iter().map(|it| kernel(it, &plan.target)).collect(),
        cpu_parts: (plan.cpu_parts.iter())
            .map(|(node, reason)| CpuPart { node: node.to_string(), reason: reason.to_string() })
            .collect(),
        crossings: crossings(plan),
        refusals: (plan.refusals.iter())
            .map(|it| Refusal {
                producer: it.producer.to_string(),
                consumer: it.consumer.to_string(),
                why: it.why.to_string(),
            })
            .collect(),
        dispatches: plan.dispatches(),
        steps: plan.steps.len(),
        memory: memory::memory(plan),
        stages: (observed.times.iter())
            .map(|(name, seconds)| StageTime { name: name.clone(), seconds: *seconds })
            .collect(),
        picture: observed.parts.as_ref().and_then(|it| picture::drawn(it, plan)),
    }
}

/// `[batch,seq]`
pub fn shape_text(dims: &[Dim]) -> String {
    format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(","))
}

/// What is computed once, and what every run computes where.
fn parts(partition: &Partition) -> Vec<Part> {
    let computes = |graph: &Graph| graph.nodes().filter(|(_, it)| !is_data(&it.op)).count();
    let on = |place: Place| {
        let here = |(value, node): &(Value, &wgfuse_compiler::graph::Node)| {
            !is_data(&node.op) && partition.places.get(*value) == Some(&place)
        };
        partition.graph.nodes().filter(here).count()
    };
    let mut parts = vec![Part {
        name: "once a session",
        nodes: computes(&partition.constants),
        why: "depends on constants alone".to_owned(),
    }];
    let (gpu, cpu) = (on(Place::Gpu), on(Place::Cpu));
    if gpu > 0 {
        parts.push(Part { name: "gpu", nodes: gpu, why: "the device can run it".to_owned() });
    }
    if cpu > 0 {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        partition.reasons.iter().for_each(|it| *reasons.entry(it.1.to_string()).or_default() += 1);
        let told: Vec<String> = reasons.iter().map(|(why, count)| format!("{count}: {why}")).collect();
        let why = if told.is_empty() { "the target is the processor".to_owned() } else { told.join("; ") };
        parts.push(Part { name: "cpu", nodes: cpu, why });
    }
    parts
}

fn is_data(op: &Op) -> bool {
    matches!(op, Op::Input { .. } | Op::Constant(_))
}

fn operators(imported: &Graph, optimised: &Graph) -> Vec<OperatorCount> {
    let mut counts: BTreeMap<&'static str, [usize; 2]> = BTreeMap::new();
    for (at, graph) in [imported, optimised].into_iter().enumerate() {
        for (_, node) in graph.nodes().filter(|(_, it)| !is_data(&it.op)) {
            counts.entry(node.op.name()).or_default()[at] += 1;
        }
    }
    let row = |(name, [imported, optimised]): (&'static str, [usize; 2])| OperatorCount {
        name,
        imported,
        optimised,
    };
    counts.into_iter().map(row).collect()
}

fn nodes(graph: &Graph) -> Vec<Node> {
    graph
        .nodes()
        .map(|(value, node)| Node {
            number: number(value),
            op: node.op.name(),
            operands: node.op.operands().into_iter().map(number).collect(),
            ty: node.ty.to_string(),
            origin: node.origin.to_string(),
        })
        .collect()
}

fn kernel(it: &PlanKernel, target: &Target) -> Kernel {
    let kernel = &it.kernel;
    Kernel {
        name: kernel.name.clone(),
        place: place(kernel.place),
        ops: kernel.ops.clone(),
        origins: kernel.origins.iter().map(|it| it.to_string()).collect(),
        form: form(kernel, target),
        groups: it.shader.as_ref().map(|it| it.groups),
        workgroup: it.shader.as_ref().map(|it| it.workgroup_size),
        bindings: it.shader.as_ref().map_or(kernel.tensors.len(), |it| it.bindings.len()),
        bytes: it.bytes,
        flops: it.flops,
    }
}

pub fn place(place: Place) -> &'static str {
    match place {
        Place::Gpu => "gpu",
        Place::Cpu => "cpu",
    }
}
