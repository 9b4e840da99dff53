//! The memory plan: how many bytes of what, and which activation lies where, from when to when.

use std::collections::BTreeMap;

use serde::Serialize;
use wgfuse_compiler::{
    graph::number,
    lower::TensorId,
    plan::{BufferRole, Plan, Slice, Step},
};

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

pub(super) fn memory(plan: &Plan) -> Memory {
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
