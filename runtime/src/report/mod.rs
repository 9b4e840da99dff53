//! What the compiler did to a model, as plain data (for `wgfuse inspect` to print and for programs to read) and as a page
//! that needs nothing else.

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
    plan::{BufferRole, Plan, PlanKernel, Slice, Step},
    schedule::{
        self, AttentionTile, Choices, Skeleton, Team, Tile,
        attention_coop::{Why as NotOnMatrices, why_not},
        cooperative,
        product::why_not_on_matrices,
    },
    shape::{Dim, Shape, Type},
    target::{Place, Target},
};

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

#[derive(Serialize)]
pub struct Refusal {
    pub producer: String,
    pub consumer: String,
    pub why: String,
}

/// Bytes.
#[derive(Serialize)]
pub struct Memory {
    /// What the activations' buffers hold.
    pub arena: u64,
    /// The largest sum of activations that are live at one step.
    pub live_peak: u64,
    pub ratio: f64,
    pub weights: u64,
    pub inputs: u64,
    pub outputs: u64,
    pub states: u64,
    pub tensors: Vec<Span>,
}

/// Where an activation lies, and from which step to which.
#[derive(Serialize)]
pub struct Span {
    pub tensor: u32,
    pub buffer: u32,
    pub offset: u64,
    pub len: u64,
    pub first: usize,
    pub last: usize,
    /// The step that it is first used by.
    pub by: String,
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
        refusals: (plan.refusals.iter())
            .map(|it| Refusal {
                producer: it.producer.to_string(),
                consumer: it.consumer.to_string(),
                why: it.why.to_string(),
            })
            .collect(),
        dispatches: plan.dispatches(),
        steps: plan.steps.len(),
        memory: memory(plan),
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

/// How a kernel runs, in a few words; of attention and products also why they are not on cooperative matrices, where the target has
/// such.
fn form(kernel: &schedule::Kernel, target: &Target) -> String {
    match &kernel.skeleton {
        Skeleton::Map { space, .. } => format!("each of {space}"),
        Skeleton::Rows { outer, inner, form, .. } => match form.team {
            Team::Invocation { .. } => format!("rows {outer} of {inner}, one an invocation"),
            Team::Subgroup { .. } => format!("rows {outer} of {inner}, one a subgroup"),
            Team::Workgroup { .. } => format!("rows {outer} of {inner}, one a workgroup"),
        },
        Skeleton::Contract { space, depth, tile, .. } => match tile {
            Tile::Cooperative { parts, rows, cols, depth: step, .. } => {
                let pairs = if *parts == 2 { ", numbers as pairs of f16" } else { "" };
                format!(
                    "product {space} over {depth}, tiles of {rows}x{cols}x{step} on cooperative matrices{pairs}"
                )
            }
            Tile::Matmul { rows, cols, depth: step, .. } => {
                let why = why_not_on_matrices(kernel, target).filter(|_| kernel.place == Place::Gpu);
                let why = match why {
                    None | Some(cooperative::Why::Target) => String::new(),
                    Some(why) => format!(", not on cooperative matrices: {why}"),
                };
                format!("product {space} over {depth}, tiles of {rows}x{cols}x{step}{why}")
            }
            Tile::Few(few) => format!("product {space} over {depth}, {} columns a workgroup", few.across()),
            Tile::Direct { .. } => format!("product {space} over {depth}, one an invocation"),
        },
        Skeleton::Attention { space, keys, tile, .. } => {
            let on = match tile {
                AttentionTile::Plain(_) if kernel.place == Place::Cpu => String::new(),
                AttentionTile::Plain(_) => match why_not(kernel, target) {
                    None | Some(NotOnMatrices::Target) => String::new(),
                    Some(why) => format!(", not on cooperative matrices: {why}"),
                },
                AttentionTile::Row(tile) if tile.slices > 1 => format!(", {} workgroups a row", tile.slices),
                AttentionTile::Row(_) => ", a workgroup a row".to_owned(),
                AttentionTile::Cooperative(_) => " on cooperative matrices".to_owned(),
            };
            format!("attention {space} over {keys} keys, {} rows a workgroup{on}", tile.rows())
        }
    }
}

fn memory(plan: &Plan) -> Memory {
    let (arena, live_peak) = (plan.bytes(BufferRole::Activations), plan.live_peak);
    Memory {
        arena,
        live_peak,
        ratio: if live_peak == 0 { 1.0 } else { arena as f64 / live_peak as f64 },
        weights: plan.bytes(BufferRole::Weights),
        inputs: plan.bytes(BufferRole::Inputs),
        outputs: plan.bytes(BufferRole::Outputs),
        states: plan.bytes(BufferRole::State),
        tensors: spans(plan),
    }
}

/// In the order of first use.
fn spans(plan: &Plan) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut at: BTreeMap<(TensorId, u32), usize> = BTreeMap::new();
    for (step, what) in plan.steps.iter().enumerate() {
        let (name, uses): (String, Vec<(TensorId, Slice)>) = match what {
            Step::Dispatch { kernel, bindings, .. } => {
                let kernel = &plan.kernels[*kernel];
                let parts = kernel.shader.iter().flat_map(|it| &it.bindings);
                (
                    kernel.kernel.name.clone(),
                    parts.map(|it| it.tensor).zip(bindings.iter().copied()).collect(),
                )
            }
            Step::Host { kernel, tensors } => {
                let kernel = &plan.kernels[*kernel].kernel;
                (kernel.name.clone(), kernel.tensors.iter().copied().zip(tensors.iter().copied()).collect())
            }
            Step::Download { tensor, from, to, .. } => {
                ("download".into(), vec![(*tensor, *from), (*tensor, *to)])
            }
            Step::Upload { tensor, from, to, .. } => {
                ("upload".into(), vec![(*tensor, *from), (*tensor, *to)])
            }
        };
        let inner = |it: &(TensorId, Slice)| plan.buffer(it.1.buffer).role == BufferRole::Activations;
        for (tensor, slice) in uses.into_iter().filter(inner) {
            let known = *at.entry((tensor, slice.buffer.0)).or_insert_with(|| {
                spans.push(Span {
                    tensor: number(tensor),
                    buffer: slice.buffer.0,
                    offset: slice.offset,
                    len: slice.len,
                    first: step,
                    last: step,
                    by: name.clone(),
                });
                spans.len() - 1
            });
            // A tensor larger than a binding is bound in parts.
            let span = &mut spans[known];
            let end = (span.offset + span.len).max(slice.end());
            span.offset = span.offset.min(slice.offset);
            span.len = end - span.offset;
            span.last = step;
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use wgfuse_compiler::{dtype::DType, graph::builder::GraphBuilder};

    use super::*;

    #[test]
    fn attention_says_why_it_is_not_on_cooperative_matrices() {
        let with_matrices = Target {
            subgroup: Some((32, 32)),
            f16: true,
            cooperative: vec![[16, 16, 16]],
            max_workgroup_memory: 49_152,
            ..Target::webgpu_minimum()
        };
        let form = |dtype: DType, target: &Target| {
            let mut b = GraphBuilder::new();
            let [q, k, v] = ["q", "k", "v"].map(|it| b.input(it, dtype, [1, 2, 64, 32]).expect("an input"));
            let y = b.attention(q, k, v, None, false).expect("attention");
            b.output("y", y).expect("an output");
            let model = Model::from_graph(b.finish().expect("a graph"));
            let shapes = vec![Shape::new(&[1, 2, 64, 32]); 3];
            let (report, _) = report(&model, &shapes, target, &Options::default()).expect("a report");
            report.kernels[0].form.clone()
        };
        let text = form(DType::F32, &with_matrices);
        assert!(
            text.ends_with(", not on cooperative matrices: queries, keys and values are not all f16"),
            "{text}"
        );
        let text = form(DType::F16, &with_matrices);
        assert!(text.ends_with(" on cooperative matrices"), "{text}");
        let text = form(DType::F32, &Target::webgpu_minimum());
        assert!(!text.contains("cooperative"), "{text}");
    }

    #[test]
    fn products_say_why_they_are_not_on_cooperative_matrices() {
        let with_matrices = Target {
            subgroup: Some((32, 32)),
            f16: true,
            cooperative: vec![[16, 16, 16]],
            pairs: true,
            max_workgroup_memory: 49_152,
            max_workgroup_invocations: 1024,
            max_workgroup_size: [1024, 1024, 64],
            ..Target::webgpu_minimum()
        };
        let form = |dtype: DType, [rows, cols, depth]: [usize; 3], target: &Target| {
            let mut b = GraphBuilder::new();
            let x = b.input("x", dtype, [rows, depth]).expect("an input");
            let w = b.input("w", dtype, [depth, cols]).expect("an input");
            let y = b.matmul(x, w).expect("a product");
            b.output("y", y).expect("an output");
            let model = Model::from_graph(b.finish().expect("a graph"));
            let shapes = vec![Shape::new(&[rows, depth]), Shape::new(&[depth, cols])];
            let (report, _) = report(&model, &shapes, target, &Options::default()).expect("a report");
            report.kernels[0].form.clone()
        };
        let not = |why: cooperative::Why| format!(", not on cooperative matrices: {why}");
        for (dtype, sizes, end) in [
            (DType::F32, [64, 256, 256], not(cooperative::Why::Few)),
            (DType::F32, [2048, 2048, 16], not(cooperative::Why::Size)),
            (DType::F16, [1024, 1024, 1024], " on cooperative matrices".to_owned()),
            (DType::F32, [1024, 1024, 1024], " on cooperative matrices, numbers as pairs of f16".to_owned()),
        ] {
            let text = form(dtype, sizes, &with_matrices);
            assert!(text.ends_with(&end), "{text}");
        }
        // In pieces, which are none of pairs.
        let text = form(DType::F32, [128, 2304, 768], &with_matrices);
        assert!(text.starts_with("product [3,") && !text.contains("cooperative"), "{text}");
        let text = form(DType::F32, [1024, 1024, 1024], &Target { pairs: false, ..with_matrices });
        assert!(text.ends_with(&not(cooperative::Why::Operands)), "{text}");
        let text = form(DType::F32, [64, 256, 256], &Target::webgpu_minimum());
        assert!(!text.contains("cooperative"), "{text}");
    }
}
