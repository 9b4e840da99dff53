//! Where each node runs: on the GPU, unless there is a reason.

use std::{fmt, sync::Arc};

use slotmap::SecondaryMap;

use super::range::{Range, Ranges};
use crate::{
    dtype::DType,
    graph::{Graph, Node, Op, Value},
    shape::Type,
    target::{Place, Target},
    text::spelled,
};

/// Largest result of a node that goes along with its neighbours on the CPU.
const TINY: usize = 4 << 10;

/// Why a node runs on the CPU although the target is a GPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CpuReason {
    /// Arithmetic on 64-bit floats.
    Double { op: Arc<str> },
    /// Elements that GPUs cannot hold.
    NoForm { op: Arc<str>, dtype: DType },
    /// 64-bit integers whose values may not fit 32 bits.
    Wide { op: Arc<str>, dtype: DType },
    /// A tensor larger than one buffer, or than the few bindings that it may be split over.
    Large { op: Arc<str>, need: u64, have: u64 },
    /// Small, and its neighbours run on the CPU.
    Seam { op: Arc<str> },
}

spelled!(enum CpuReason {
    Double "double" { op };
    NoForm "no-form" { op, dtype };
    Wide "wide" { op, dtype };
    Large "large" { op, need, have };
    Seam "seam" { op };
});

impl fmt::Display for CpuReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuReason::Double { op } => write!(f, "{op} works on 64-bit floats"),
            CpuReason::NoForm { op, dtype } => write!(f, "{op} works on {dtype}, which GPUs cannot hold"),
            CpuReason::Wide { op, dtype } => {
                write!(f, "{op} works on {dtype} values that may not fit 32 bits")
            }
            CpuReason::Large { op, need, have } => {
                write!(f, "{op} needs a tensor of {need} bytes, the device holds {have} in one")
            }
            CpuReason::Seam { op } => write!(f, "{op} is small and its neighbours run on the CPU"),
        }
    }
}

/// The place of every node, and why those that are on the CPU of a GPU target are there.
pub fn places(
    graph: &Graph,
    ranges: &Ranges,
    target: &Target,
) -> (SecondaryMap<Value, Place>, SecondaryMap<Value, CpuReason>) {
    let mut reasons: SecondaryMap<Value, CpuReason> = SecondaryMap::new();
    if target.place == Place::Gpu {
        for (value, node) in graph.nodes().filter(|(_, node)| !is_source(&node.op)) {
            if let Some(reason) = reason(graph, ranges, target, value, node) {
                reasons.insert(value, reason);
            }
        }
        along(graph, &mut reasons);
    }

    let users = users(graph);
    let mut places = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let on_cpu = match node.op {
            Op::Input { .. } | Op::Constant(_) => {
                !node.ty.dtype.has_device_form()
                    || !users[value].is_empty() && users[value].iter().all(|it| reasons.contains_key(*it))
            }
            _ => reasons.contains_key(value),
        };
        places.insert(value, if on_cpu { Place::Cpu } else { target.place });
    }
    (places, reasons)
}

/// Why the GPU cannot run a node, if it cannot.
fn reason(graph: &Graph, ranges: &Ranges, target: &Target, value: Value, node: &Node) -> Option<CpuReason> {
    let op: Arc<str> = node.op.name().into();
    let touched: Vec<Value> = node.op.operands().into_iter().chain([value]).collect();
    let types = || touched.iter().map(|it| (*it, graph.ty(*it)));
    if types().any(|(_, ty)| ty.dtype == DType::F64) {
        return Some(CpuReason::Double { op });
    }
    if let Some((_, ty)) = types().find(|(_, ty)| !ty.dtype.has_device_form()) {
        return Some(CpuReason::NoForm { op, dtype: ty.dtype });
    }
    let wide = types().find(|(it, ty)| {
        matches!(ty.dtype, DType::I64 | DType::U64) && !Range::of_device(ty.dtype).holds(ranges[*it])
    });
    if let Some((_, ty)) = wide {
        return Some(CpuReason::Wide { op, dtype: ty.dtype });
    }
    // A kernel binds other tensors too.
    let bindings = u64::from(target.max_storage_buffers / 3).max(1);
    let have = target.max_binding_size.saturating_mul(bindings).min(target.max_buffer_size);
    let need = types().filter(|(it, _)| !is_view(graph.op(*it))).map(|(_, ty)| device_size(ty)).max()?;
    (need > have).then_some(CpuReason::Large { op, need, have })
}

/// Bytes of the device form: 16-bit floats are packed, all else takes a word.
fn device_size(ty: &Type) -> u64 {
    let width = match ty.dtype {
        DType::F16 | DType::BF16 => 2,
        DType::F64 => 8,
        DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Z
        | DType::F8E5M2Z
        | DType::F8E8M0
        | DType::F4 => 4,
        DType::Bool
        | DType::I8
        | DType::U8
        | DType::I16
        | DType::U16
        | DType::I32
        | DType::U32
        | DType::I64
        | DType::U64
        | DType::F32 => 4,
    };
    (ty.shape.count() as u64).saturating_mul(width)
}

/// Views and tiny nodes all of whose neighbours are on the CPU, or the graph's border, join them: each would cost a
/// copy there and one back.
fn along(graph: &Graph, reasons: &mut SecondaryMap<Value, CpuReason>) {
    if reasons.is_empty() {
        return;
    }
    // May move, as far as operands tell; true where something before it is on the CPU.
    let mut may: SecondaryMap<Value, bool> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let small = is_view(&node.op) || node.ty.bytes() <= TINY;
        if is_source(&node.op) || reasons.contains_key(value) || !small {
            continue;
        }
        let operands = node.op.operands();
        let here = |it: Value| reasons.contains_key(it) || may.contains_key(it);
        if operands.iter().all(|it| here(*it) || is_source(graph.op(*it))) {
            let rooted = operands.iter().any(|it| reasons.contains_key(*it) || may.get(*it) == Some(&true));
            may.insert(value, rooted);
        }
    }
    let users = users(graph);
    for (value, node) in graph.nodes().rev() {
        let Some(&rooted) = may.get(value) else { continue };
        let users = &users[value];
        if users.iter().all(|it| reasons.contains_key(*it)) && (rooted || !users.is_empty()) {
            reasons.insert(value, CpuReason::Seam { op: node.op.name().into() });
        }
    }
}

fn users(graph: &Graph) -> SecondaryMap<Value, Vec<Value>> {
    let mut users: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        users.insert(value, Vec::new());
        for operand in node.op.operands() {
            users[operand].push(value);
        }
    }
    users
}

fn is_source(op: &Op) -> bool {
    matches!(op, Op::Input { .. } | Op::Constant(_))
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Permute { .. } | Op::Expand { .. } | Op::Slice { .. })
}
