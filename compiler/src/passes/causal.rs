//! Masks that hide from each query the keys behind it, however they are computed, become an attribute.

use super::{
    attention::NOTHING,
    matching::number,
    rewrite::{Better, Licence::Relaxed, Rule, Site},
};
use crate::{
    dtype::DType,
    graph::{Graph, Op, Value},
    scalar::{BinaryOp, UnaryOp},
    tensor::Tensor,
};

pub const RULES: &[Rule] = &[Rule {
    name: "causal-mask",
    about: "A mask that is 0 on and below the diagonal and -inf above it",
    licence: Relaxed,
    roots: &["attention"],
    apply: causal_mask,
}];

fn causal_mask(site: &mut Site, value: Value) -> Better {
    let Op::Attention { scale, causal, zero_masked, q, k, v, mask: Some(mask) } = *site.graph.op(value)
    else {
        return Ok(None);
    };
    let (s, t) = (site.graph.ty(q).shape[2], site.graph.ty(k).shape[2]);
    if causal || !site.graph.ty(mask).shape.ends_with(&[s, t]) {
        return Ok(None);
    }
    let known = site.verdicts.get(mask).copied();
    let hides = known.unwrap_or_else(|| match site.graph.as_constant(mask) {
        Some(tensor) => is_causal_mask(tensor),
        None => is_causal_choice(site.graph, mask, [s, t]),
    });
    site.verdicts.insert(mask, hides);
    if !hides {
        return Ok(None);
    }
    site.add(Op::Attention { scale, causal: true, zero_masked, q, k, v, mask: None }).map(Some)
}

/// Whether `mask` is 0 where a key is not later than its query and next to nothing elsewhere, chosen by truths that
/// follow from constants.
fn is_causal_choice(graph: &Graph, mask: Value, [s, t]: [usize; 2]) -> bool {
    let Op::Select { cond, yes, no } = *graph.op(mask) else { return false };
    let (zero, least) =
        (|it| number(graph, it) == Some(0.0), |it| number(graph, it).is_some_and(|it| it <= NOTHING));
    let kept = match () {
        _ if zero(yes) && least(no) => 1.0,
        _ if zero(no) && least(yes) => 0.0,
        _ => return false,
    };
    let wide = graph.ty(mask).shape.iter().rev().skip(2).any(|&it| it != 1);
    if wide || t < s || s * t == 0 {
        return false;
    }
    (0..s).all(|i| {
        let Some(row) = row(graph, cond, i) else { return false };
        let seen = |j: usize| (row[if row.len() == 1 { 0 } else { j }] == kept) == (j <= i + t - s);
        (row.len() == 1 || row.len() == t) && (0..t).all(seen)
    })
}

/// Row `i` of a small computation on constant integers and truths whose leading axes have one element; one element if its
/// elements are the same.
fn row(graph: &Graph, value: Value, i: usize) -> Option<Vec<f64>> {
    let ty = graph.ty(value);
    let size = |from_end: usize| ty.shape.iter().rev().nth(from_end).copied().unwrap_or(1);
    if ty.dtype.is_float() || ty.shape.iter().rev().skip(2).any(|&it| it != 1) || size(0) == 0 {
        return None;
    }
    match *graph.op(value) {
        Op::Constant(id) => {
            let tensor = graph.constant(id);
            let start = if size(1) == 1 { 0 } else { i * size(0) };
            (start + size(0) <= ty.shape.count())
                .then(|| (start..start + size(0)).map(|it| tensor.get(it).as_i64() as f64).collect())
        }
        Op::Expand { x, .. } => row(graph, x, i),
        Op::Slice { ref starts, ref sizes, ref steps, x } => {
            let rank = starts.len();
            let of = &graph.ty(x).shape;
            let (&last, &step) = (starts.last()?, steps.last()?);
            let here = match rank {
                0 | 1 => 0,
                _ if of[rank - 2] == 1 => 0,
                _ => {
                    starts[rank - 2].checked_add_signed(isize::try_from(i as i64 * steps[rank - 2]).ok()?)?
                }
            };
            let whole = row(graph, x, here)?;
            let at = |j: usize| last.checked_add_signed(isize::try_from(j as i64 * step).ok()?);
            (0..*sizes.last()?).map(|j| whole.get(at(j)?).copied()).collect()
        }
        Op::Cast { to: DType::Bool, x } => {
            Some(row(graph, x, i)?.into_iter().map(|it| f64::from(it != 0.0)).collect())
        }
        Op::Cast { to: DType::I32 | DType::I64, x } => row(graph, x, i),
        Op::Unary(UnaryOp::Not, x) if ty.dtype == DType::Bool => {
            Some(row(graph, x, i)?.into_iter().map(|it| 1.0 - it).collect())
        }
        Op::Binary(op, a, b) => {
            let (a, b) = (row(graph, a, i)?, row(graph, b, i)?);
            let count = a.len().max(b.len());
            let of = |all: &Vec<f64>, j: usize| all.get(if all.len() == 1 { 0 } else { j }).copied();
            let truth = |it: bool| Some(f64::from(it));
            (0..count)
                .map(|j| {
                    let (a, b) = (of(&a, j)?, of(&b, j)?);
                    match op {
                        BinaryOp::Lt => truth(a < b),
                        BinaryOp::Le => truth(a <= b),
                        BinaryOp::Gt => truth(a > b),
                        BinaryOp::Ge => truth(a >= b),
                        BinaryOp::And if ty.dtype == DType::Bool => truth(a * b != 0.0),
                        BinaryOp::Or if ty.dtype == DType::Bool => truth(a + b != 0.0),
                        _ => None,
                    }
                })
                .collect()
        }
        _ => None,
    }
}

/// Whether a tensor lets the last query see all keys, and each query before it one less than the next.
pub fn is_causal_mask(tensor: &Tensor) -> bool {
    let [ref outer @ .., s, t] = tensor.shape()[..] else { return false };
    // With fewer keys than queries some query would see none, where only -inf and not a large number gives NaN.
    if t < s || s * t == 0 || outer.iter().any(|&it| it != 1) {
        return false;
    }
    let dtype = tensor.dtype();
    tensor.scalars().enumerate().all(|(at, it)| {
        let (seen, it) = (at % t <= at / t + t - s, it.cast(dtype, DType::F64).as_f64());
        if seen { it == 0.0 } else { it <= NOTHING }
    })
}
