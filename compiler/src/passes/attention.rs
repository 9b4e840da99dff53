//! softmax(q k^T * scale + mask) v, however it was written, becomes one operator.

use super::{
    matching::{either, number, scaled, unary},
    rewrite::{
        Better,
        Licence::{Exact, Relaxed},
        Rule, Site,
    },
};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Graph, Op, Real, Value},
    scalar::{BinaryOp, UnaryOp},
    shape::Shape,
    tensor::Tensor,
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "attention",
        about: "softmax(q k^T * scale + mask) v",
        licence: Relaxed,
        roots: &["matmul"],
        apply: attention,
    },
    Rule {
        name: "attention-scale",
        about: "A factor on q or k that was behind a view",
        licence: Relaxed,
        roots: &["attention"],
        apply: attention_scale,
    },
    Rule {
        name: "grouped-heads",
        about: "Each head of k and v repeated for several heads of q",
        licence: Exact,
        roots: &["attention"],
        apply: grouped_heads,
    },
    Rule {
        name: "causal-mask",
        about: "A mask that is 0 on and below the diagonal and -inf above it",
        licence: Relaxed,
        roots: &["attention"],
        apply: causal_mask,
    },
];

/// A mask at or below this leaves nothing of a score in f32, so that it may be added or put in the score's place.
const NOTHING: f64 = -1e30;

/// Scores, as far as they are understood.
struct Scores {
    q: Value,
    /// [.., channels, keys]
    k: Value,
    scale: f64,
    mask: Mask,
}

#[derive(Clone, Copy)]
enum Mask {
    None,
    Added(Value),
    /// Where `cond` is not `kept`, the score is replaced by this constant.
    Chosen {
        cond: Value,
        kept: bool,
        other: Value,
    },
}

fn attention(site: &mut Site, value: Value) -> Better {
    let Op::MatMul { a: weights, b: v } = *site.graph.op(value) else { return Ok(None) };
    let graph = &*site.graph;
    let found = (|| {
        let (softmax, zero_masked) = match zeroed(site, weights) {
            Some(softmax) => (softmax, true),
            None if site.uses(weights) <= 1 => (weights, false),
            None => return None,
        };
        let Op::Softmax { axis, log: false, x } = *graph.op(softmax) else { return None };
        let shape = &graph.ty(x).shape;
        let scores = scores(graph, x)?;
        (axis + 1 == shape.rank()).then_some((scores, shape.clone(), zero_masked))
    })();
    let Some((scores, shape, zero_masked)) = found else { return Ok(None) };
    let rank = shape.rank();
    let of = |it: Value| &site.graph.ty(it).shape;
    let (q, k) = (of(scores.q), of(scores.k));
    // Batches as they are, or in one axis, or none: four axes after leading 1s.
    let outer = rank.saturating_sub(2);
    let same_outer = |it: &Shape| it.rank() == rank && it[..outer] == shape[..outer];
    if !(2..=4).contains(&rank) || !same_outer(q) || !same_outer(k) || !same_outer(of(v)) {
        return Ok(None);
    }
    let result = site.graph.ty(value).shape.clone();
    let mask = mask(site, &scores)?;
    let order = (0..outer).chain([rank - 1, rank - 2]).collect();
    let k = site.add(Op::Permute { order, x: scores.k })?;
    let (q, k, v) = (four(site, scores.q)?, four(site, k)?, four(site, v)?);
    let scale = Real(scores.scale);
    let x = site.add(Op::Attention { scale, causal: false, zero_masked, q, k, v, mask })?;
    site.add(Op::Reshape { shape: result, x }).map(Some)
}

/// `p` of `where(isnan p, 0, p)`, if nothing else uses either.
fn zeroed(site: &Site, value: Value) -> Option<Value> {
    let Op::Select { cond, yes, no: p } = *site.graph.op(value) else { return None };
    let is_zero = number(site.graph, yes) == Some(0.0);
    let same = unary(site.graph, cond, UnaryOp::IsNan) == Some(p);
    (is_zero && same && site.uses(value) <= 1 && site.uses(p) <= 2).then_some(p)
}

/// Takes scores apart: at most one mask, then factors, then the product.
fn scores(graph: &Graph, value: Value) -> Option<Scores> {
    let masked = either(graph, value, BinaryOp::Add, |x, mask| {
        let product = product(graph, x, graph.ty(value).shape.clone())?;
        Some(Scores { mask: Mask::Added(mask), ..product })
    });
    let chosen = || {
        let Op::Select { cond, yes, no } = *graph.op(value) else { return None };
        [(yes, no, true), (no, yes, false)].into_iter().find_map(|(x, other, kept)| {
            number(graph, other).filter(|it| *it <= NOTHING)?;
            let product = product(graph, x, graph.ty(value).shape.clone())?;
            Some(Scores { mask: Mask::Chosen { cond, kept, other }, ..product })
        })
    };
    masked.or_else(chosen).or_else(|| product(graph, value, graph.ty(value).shape.clone()))
}

/// q k^T with factors on either side or behind, of exactly this shape.
fn product(graph: &Graph, value: Value, shape: Shape) -> Option<Scores> {
    let (value, scale) = unscaled(graph, value);
    let Op::MatMul { a: q, b: k } = *graph.op(value) else { return None };
    let whole = graph.ty(value).shape == shape && graph.ty(q).dtype.is_float();
    let (q, by_q) = unscaled(graph, q);
    let (k, by_k) = unscaled(graph, k);
    whole.then_some(Scores { q, k, scale: scale * by_q * by_k, mask: Mask::None })
}

/// Without uniform factors, and the product of those.
fn unscaled(graph: &Graph, mut value: Value) -> (Value, f64) {
    let mut scale = 1.0;
    while let Some((x, by)) = scaled(graph, value) {
        (value, scale) = (x, scale * by);
    }
    (value, scale)
}

/// The mask as something added to scores.
fn mask(site: &mut Site, scores: &Scores) -> Result<Option<Value>, Error> {
    let added = match scores.mask {
        Mask::None => return Ok(None),
        Mask::Added(mask) => mask,
        Mask::Chosen { cond, kept, other } => {
            let zero = super::algebra::scalar_like(site, other, 0.0);
            let (yes, no) = if kept { (zero, other) } else { (other, zero) };
            site.add(Op::Select { cond, yes, no })?
        }
    };
    Ok(Some(added))
}

/// With leading axes of one element up to rank 4. One axis of batches counts as heads.
fn four(site: &mut Site, x: Value) -> Result<Value, Error> {
    let shape = &site.graph.ty(x).shape;
    let shape: Shape = (shape.rank()..4).map(|_| 1).chain(shape.iter().copied()).collect();
    site.add(Op::Reshape { shape, x })
}

fn attention_scale(site: &mut Site, value: Value) -> Better {
    let Op::Attention { scale, causal, zero_masked, q, k, v, mask } = *site.graph.op(value) else {
        return Ok(None);
    };
    let (q, k, by) = match (scaled(site.graph, q), scaled(site.graph, k)) {
        (Some((q, by)), _) => (q, k, by),
        (None, Some((k, by))) => (q, k, by),
        (None, None) => return Ok(None),
    };
    let scale = Real(scale.0 * by);
    site.add(Op::Attention { scale, causal, zero_masked, q, k, v, mask }).map(Some)
}

/// `x` [b, g, t, d], where `value` [b, h, t, d] is each of its g heads repeated h/g times in a row.
fn repeated(graph: &Graph, value: Value) -> Option<Value> {
    let Op::Reshape { ref shape, x: wide } = *graph.op(value) else { return None };
    let Op::Expand { shape: ref repeats, x: narrow } = *graph.op(wide) else { return None };
    let (&[b, h, t, d], &[wide_b, g, times, wide_t, wide_d]) = (&shape[..], &repeats[..]) else {
        return None;
    };
    let fits = (b, t, d) == (wide_b, wide_t, wide_d) && g.checked_mul(times) == Some(h) && g > 0;
    let from = &graph.ty(narrow).shape;
    (fits && times > 1 && from[..] == [b, g, 1, t, d]).then_some(narrow)
}

fn grouped_heads(site: &mut Site, value: Value) -> Better {
    let Op::Attention { scale, causal, zero_masked, q, k, v, mask } = *site.graph.op(value) else {
        return Ok(None);
    };
    let (Some(k), Some(v)) = (repeated(site.graph, k), repeated(site.graph, v)) else { return Ok(None) };
    let heads = |site: &mut Site, x: Value| {
        let from = &site.graph.ty(x).shape;
        let shape: Shape = [from[0], from[1], from[3], from[4]].into();
        site.add(Op::Reshape { shape, x })
    };
    let (k, v) = (heads(site, k)?, heads(site, v)?);
    if site.graph.ty(k).shape[1] != site.graph.ty(v).shape[1] {
        return Ok(None);
    }
    site.add(Op::Attention { scale, causal, zero_masked, q, k, v, mask }).map(Some)
}

fn causal_mask(site: &mut Site, value: Value) -> Better {
    let Op::Attention { scale, causal, zero_masked, q, k, v, mask: Some(mask) } = *site.graph.op(value)
    else {
        return Ok(None);
    };
    let (s, t) = (site.graph.ty(q).shape[2], site.graph.ty(k).shape[2]);
    let Some(tensor) = site.graph.as_constant(mask) else { return Ok(None) };
    if causal || !tensor.shape().ends_with(&[s, t]) || !is_causal_mask(tensor) {
        return Ok(None);
    }
    site.add(Op::Attention { scale, causal: true, zero_masked, q, k, v, mask: None }).map(Some)
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
