//! What is the same everywhere is one element, expanded.

use super::{
    matching::{only, uniform},
    rewrite::{
        Better,
        Licence::{Exact, Relaxed},
        Rule, Site,
    },
};
use crate::{
    dtype::DType,
    graph::{Graph, Op, PadMode, Value},
    scalar::{BinaryOp, ReduceOp, Scalar},
    tensor::Tensor,
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "uniform-operand",
        about: "an operand of the same element everywhere => that element, expanded",
        licence: Exact,
        roots: &[],
        apply: uniform_operand,
    },
    Rule {
        name: "uniform-extreme",
        about: "max (expand c), min (expand c) along axes => expand c",
        licence: Exact,
        roots: &["reduce_max", "reduce_min"],
        apply: uniform_extreme,
    },
    Rule {
        name: "uniform-sum",
        about: "sum (expand c) over n elements => expand (n c); mean (expand c) => expand c",
        licence: Relaxed,
        roots: &["reduce_sum", "mean"],
        apply: uniform_sum,
    },
    Rule {
        name: "uniform-join",
        about: "concat of the same element everywhere, padding with it, and reads from it at any place => expand c",
        licence: Exact,
        roots: &["concat", "pad", "gather", "gather_elements", "gather_nd"],
        apply: uniform_join,
    },
    Rule {
        name: "times-zero",
        about: "integers: x * 0, x and 0 => 0",
        licence: Exact,
        roots: &["mul", "and"],
        apply: times_zero,
    },
];

/// Most elements of a constant that is searched for one that differs.
const SEARCHED: usize = 1 << 16;

/// The one element that every element of `value` is: a scalar operand.
fn element(graph: &Graph, value: Value) -> Option<Value> {
    match *graph.op(value) {
        Op::Expand { x, .. } if graph.ty(x).shape.rank() == 0 => Some(x),
        _ => None,
    }
}

fn expanded(site: &mut Site, x: Value, like: Value) -> Better {
    let shape = site.graph.ty(like).shape.clone();
    if shape.rank() == 0 {
        return Ok(Some(x));
    }
    site.add(Op::Expand { shape, x }).map(Some)
}

fn uniform_operand(site: &mut Site, value: Value) -> Better {
    let op = site.graph.op(value);
    if !matches!(op, Op::Unary(..) | Op::Binary(..) | Op::Select { .. } | Op::Cast { .. }) {
        return Ok(None);
    }
    let found = op.operands().into_iter().find_map(|it| {
        let count = site.graph.ty(it).shape.count();
        let tensor = site.graph.known(it).filter(|_| (2..=SEARCHED).contains(&count))?;
        Some((it, only(tensor)?))
    });
    let Some((operand, element)) = found else { return Ok(None) };
    let ty = site.graph.ty(operand).clone();
    let op = op.clone();
    let x = site.graph.add_constant(Tensor::scalar(ty.dtype, element));
    let x = site.add(Op::Expand { shape: ty.shape, x })?;
    site.add(op.map_operands(|it| if it == operand { x } else { it })).map(Some)
}

/// What a reduction is of, if that is an element expanded, and how many elements become one.
fn reduced(graph: &Graph, value: Value) -> Option<(Value, usize)> {
    let (Op::Reduce { axes, x, .. } | Op::Mean { axes, x, .. }) = graph.op(value) else { return None };
    let shape = &graph.ty(*x).shape;
    let count = axes.iter().map(|&axis| shape[axis]).product();
    Some((element(graph, *x)?, count)).filter(|_| count > 0)
}

fn uniform_extreme(site: &mut Site, value: Value) -> Better {
    match reduced(site.graph, value) {
        Some((x, _)) => expanded(site, x, value),
        None => Ok(None),
    }
}

fn uniform_sum(site: &mut Site, value: Value) -> Better {
    let Some((x, count)) = reduced(site.graph, value) else { return Ok(None) };
    let x = match site.graph.op(value) {
        Op::Reduce { op: ReduceOp::Sum, .. } => {
            let dtype = site.graph.ty(x).dtype;
            let times = Scalar::Int(count as i64).cast(DType::I64, dtype);
            if dtype == DType::Bool || !times.as_f64().is_finite() {
                return Ok(None);
            }
            let times = site.graph.add_constant(Tensor::scalar(dtype, times));
            site.add(Op::Binary(BinaryOp::Mul, x, times))?
        }
        _ => x,
    };
    expanded(site, x, value)
}

fn uniform_join(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let found = match graph.op(value) {
        Op::Concat { xs, .. } => {
            let first = xs.first().and_then(|it| element(graph, *it));
            first.filter(|_| xs.iter().all(|it| element(graph, *it) == first))
        }
        Op::Pad { mode, x, fill, .. } => element(graph, *x).filter(|it| match mode {
            PadMode::Constant => *fill == Some(*it),
            PadMode::Edge | PadMode::Reflect | PadMode::Wrap => true,
        }),
        Op::Gather { x, .. } | Op::GatherElements { x, .. } | Op::GatherNd { x, .. } => {
            element(graph, *x).filter(|_| graph.ty(*x).shape.count() > 0)
        }
        _ => None,
    };
    match found {
        Some(x) => expanded(site, x, value),
        None => Ok(None),
    }
}

fn times_zero(site: &mut Site, value: Value) -> Better {
    let Op::Binary(BinaryOp::Mul | BinaryOp::And, a, b) = *site.graph.op(value) else { return Ok(None) };
    let dtype = site.graph.ty(a).dtype;
    let is_zero = |it: Value| uniform(site.graph, it) == Some(Scalar::Int(0));
    if dtype.is_float() || dtype == DType::Bool || !(is_zero(a) || is_zero(b)) {
        return Ok(None);
    }
    let zero = site.graph.add_constant(Tensor::scalar(dtype, Scalar::Int(0)));
    expanded(site, zero, value)
}
