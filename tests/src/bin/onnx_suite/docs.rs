//! `docs/operators.md`, from the suite's models and the lists of what they end as.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use wgfuse::compiler::import::onnx::{
    proto::{ModelProto, NodeProto},
    tensor,
};

use crate::{list::List, outcome::Status};

/// Lists, and what the page calls them.
const LISTS: [(&str, &str); 3] = [("cpu", "processor"), ("gpu", "GPU"), ("gpu-only", "GPU alone")];

#[derive(Default)]
struct Row {
    opsets: BTreeSet<i64>,
    cases: usize,
    passed: [usize; 3],
    /// Of inputs of cases that pass on the processor, and on the GPU alone.
    types: [BTreeSet<&'static str>; 2],
}

/// The page, for the models in `folder`; a case that a list lacks is a fault.
pub fn page(folder: &Path, cases: &[String], lists: &Path) -> Result<String> {
    let mut read = Vec::new();
    for (name, _) in LISTS {
        read.push(List::read(&lists.join(format!("{name}.txt")))?);
    }
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    let mut totals = [0; 3];
    for case in cases {
        let bytes = fs::read(folder.join(case).join("model.onnx"))?;
        let model = ModelProto::decode(Bytes::from(bytes)).with_context(|| case.clone())?;
        let Some(graph) = &model.graph else { bail!("{case} holds no graph") };
        let mut passed = [false; 3];
        for (at, list) in read.iter().enumerate() {
            let status = list.status(case).with_context(|| format!("{case} is not listed"))?;
            passed[at] = status == Status::Pass;
            totals[at] += usize::from(passed[at]);
        }
        let types: BTreeSet<&'static str> = (graph.input.iter())
            .filter_map(|it| it.r#type.as_ref()?.tensor_type.as_ref())
            .filter_map(|it| match it.elem_type {
                tensor::STRING => Some("string"),
                code => tensor::dtype(code).ok().map(|it| it.name()),
            })
            .collect();
        let mut used = BTreeSet::new();
        graph.node.iter().for_each(|it| operators(it, &mut used));
        for (domain, op) in used {
            let opset = model.opset_import.iter().find(|it| name(&it.domain) == domain).map(|it| it.version);
            let row = rows.entry((domain, op)).or_default();
            row.opsets.extend(opset);
            row.cases += 1;
            for (all, passed) in row.passed.iter_mut().zip(passed) {
                *all += usize::from(passed);
            }
            for (to, from) in [(0, 0), (1, 2)] {
                if passed[from] {
                    row.types[to].extend(&types);
                }
            }
        }
    }
    let mut page = String::from(HEAD);
    let all: Vec<String> =
        LISTS.iter().zip(totals).map(|((_, says), count)| format!("{says} {count}")).collect();
    writeln!(page, "Cases passed of {}: {}.\n", cases.len(), all.join(", "))?;
    writeln!(
        page,
        "| operator | opsets | cases | processor | GPU | GPU alone | types, processor | types, GPU alone |"
    )?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for ((domain, op), row) in &rows {
        let name = if domain == "ai.onnx" { op.clone() } else { format!("{domain}.{op}") };
        let opsets = match (row.opsets.first(), row.opsets.last()) {
            (Some(a), Some(b)) if a != b => format!("{a} to {b}"),
            (Some(a), _) => a.to_string(),
            (None, _) => String::new(),
        };
        let [cpu, gpu, alone] = row.passed;
        let [on_cpu, on_gpu] =
            row.types.each_ref().map(|it| it.iter().copied().collect::<Vec<_>>().join(" "));
        writeln!(
            page,
            "| {name} | {opsets} | {} | {cpu} | {gpu} | {alone} | {on_cpu} | {on_gpu} |",
            row.cases
        )?;
    }
    Ok(page)
}

const HEAD: &str = "\
# Operators

What of ONNX's backend test suite passes, by operator: how many cases have it in their graph, and how many of them pass on the
processor, on the GPU with the processor for what the GPU cannot run, and on the GPU alone; the opsets that those cases import, and
the types of the inputs of those that pass. Generated: `onnx-suite DIR --docs` writes this page from the lists in `tests/onnx`.

";

fn name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// The operators of a node and of those in its bodies.
fn operators(node: &NodeProto, to: &mut BTreeSet<(String, String)>) {
    to.insert((name(&node.domain).into(), node.op_type.clone()));
    for graph in node.attribute.iter().filter_map(|it| it.g.as_deref()) {
        graph.node.iter().for_each(|it| operators(it, to));
    }
}
