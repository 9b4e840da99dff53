//! softmax(q k^T * scale + mask) v, however it was written, becomes one operator.

use super::{
    algebra::scalar_like,
    matching::{number, scaled, unary},
    rewrite::{
        Better,
        Licence::{Exact, Relaxed},
        Rule, Site,
    },
};
use crate::{
    error::Error,
    graph::{Graph, Op, Real, Value},
    scalar::{BinaryOp, UnaryOp},
    shape::Shape,
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
];

/// A mask at or below this leaves nothing of a score in f32, so that it may be added or put in the score's place.
pub const NOTHING: f64 = -1e30;

/// Scores, as far as they are understood.
struct Scores {
    q: Value,
    /// [.., channels, keys]
    k: Value,
    scale: f64,
    /// What is done to them to hide keys, in order.
    masks: Vec<Mask>,
}

#[derive(Clone, Copy)]
enum Mask {
    Added(Value),
    Subtracted(Value),
    /// Where `cond` is not `kept`, the score is replaced by this constant.
    Chosen {
        cond: Value,
        kept: bool,
        other: Value,
    },
    /// Masks and all are multiplied.
    Scaled(f64),
    /// Masks from here on are of a wider type than queries and keys.
    Widened,
}

/// Masks around one another.
const MASKS: usize = 4;

fn attention(site: &mut Site, value: Value) -> Better {
    let Op::MatMul { a: weights, b: v } = *site.graph.op(value) else { return Ok(None) };
    let graph = &*site.graph;
    let found = (|| {
        let (softmax, zero_masked) = match zeroed(site, weights) {
            Some(softmax) => (softmax, true),
            None if site.uses(weights) <= 1 => (weights, false),
            None => return None,
        };
        // Weights of a narrow type, made in a wider one.
        let (softmax, widened) = match *graph.op(softmax) {
            Op::Cast { to, x } if !zero_masked && to == graph.ty(v).dtype && site.uses(x) <= 1 => (x, true),
            _ => (softmax, false),
        };
        let Op::Softmax { axis, log: false, x } = *graph.op(softmax) else { return None };
        let shape = &graph.ty(x).shape;
        let scores = scores(graph, x, shape, MASKS)?;
        let wide = scores.masks.iter().any(|it| matches!(it, Mask::Widened));
        (axis + 1 == shape.rank() && wide == widened).then_some((scores, shape.clone(), zero_masked))
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
    let Some(mask) = mask(site, &scores)? else { return Ok(None) };
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

/// Takes scores of this shape apart: masks and factors in any order, then the product.
fn scores(graph: &Graph, value: Value, shape: &Shape, masks: usize) -> Option<Scores> {
    if graph.ty(value).shape != *shape {
        return None;
    }
    if let Some(product) = product(graph, value, shape.clone()) {
        return Some(product);
    }
    let inside = |x: Value, mask: Mask| {
        let mut inner = scores(graph, x, shape, masks.checked_sub(1)?)?;
        inner.masks.push(mask);
        Some(inner)
    };
    match *graph.op(value) {
        Op::Binary(BinaryOp::Add, a, b) => inside(a, Mask::Added(b)).or_else(|| inside(b, Mask::Added(a))),
        Op::Binary(BinaryOp::Sub, x, mask) => inside(x, Mask::Subtracted(mask)),
        Op::Binary(BinaryOp::Mul | BinaryOp::Div, ..) => {
            let (x, by) = scaled(graph, value).filter(|it| it.1 > 0.0)?;
            let mut inner = inside(x, Mask::Scaled(by))?;
            inner.scale *= by;
            Some(inner)
        }
        Op::Select { cond, yes, no } => {
            [(yes, no, true), (no, yes, false)].into_iter().find_map(|(x, other, kept)| {
                number(graph, other).filter(|it| *it <= NOTHING)?;
                inside(x, Mask::Chosen { cond, kept, other })
            })
        }
        Op::Cast { to, x } if graph.ty(x).dtype.is_float() && graph.ty(x).dtype.size() < to.size() => {
            inside(x, Mask::Widened)
        }
        _ => None,
    }
}

/// q k^T with factors on either side or behind, of exactly this shape.
fn product(graph: &Graph, value: Value, shape: Shape) -> Option<Scores> {
    let (value, scale) = unscaled(graph, value);
    let Op::MatMul { a: q, b: k } = *graph.op(value) else { return None };
    let whole = graph.ty(value).shape == shape && graph.ty(q).dtype.is_float();
    let (q, by_q) = unscaled(graph, q);
    let (k, by_k) = unscaled(graph, k);
    whole.then_some(Scores { q, k, scale: scale * by_q * by_k, masks: Vec::new() })
}

/// Without uniform factors, and the product of those.
fn unscaled(graph: &Graph, mut value: Value) -> (Value, f64) {
    let mut scale = 1.0;
    while let Some((x, by)) = scaled(graph, value) {
        (value, scale) = (x, scale * by);
    }
    (value, scale)
}

/// All masks as one that is added to scores; none if it would have to be narrowed, where large numbers become infinite.
fn mask(site: &mut Site, scores: &Scores) -> Result<Option<Option<Value>>, Error> {
    let mut all: Option<Value> = None;
    let mut wide = false;
    for mask in &scores.masks {
        all = match *mask {
            Mask::Widened if all.is_some() => return Ok(None),
            Mask::Widened => {
                wide = true;
                None
            }
            Mask::Added(mask) => Some(match all {
                Some(all) => site.add(Op::Binary(BinaryOp::Add, all, mask))?,
                None => mask,
            }),
            Mask::Subtracted(mask) => Some(match all {
                Some(all) => site.add(Op::Binary(BinaryOp::Sub, all, mask))?,
                None => site.add(Op::Unary(UnaryOp::Neg, mask))?,
            }),
            Mask::Chosen { cond, kept, other } => {
                let inner = match all {
                    Some(all) => all,
                    None => scalar_like(site, other, 0.0),
                };
                let (yes, no) = if kept { (inner, other) } else { (other, inner) };
                Some(site.add(Op::Select { cond, yes, no })?)
            }
            Mask::Scaled(by) => match all {
                Some(all) => {
                    let by = scalar_like(site, all, by);
                    Some(site.add(Op::Binary(BinaryOp::Mul, all, by))?)
                }
                None => None,
            },
        };
    }
    let Some(mask) = all.filter(|_| wide) else { return Ok(Some(all)) };
    let narrow = site.graph.ty(scores.q).dtype;
    match *site.graph.op(mask) {
        Op::Cast { x, .. } if site.graph.ty(x).dtype == narrow => Ok(Some(Some(x))),
        // Zeros and infinities are the same in every type.
        Op::Select { cond, yes, no } => {
            let exact = |it: Value| number(site.graph, it).filter(|it| *it == 0.0 || it.is_infinite());
            let (Some(yes), Some(no)) = (exact(yes), exact(no)) else { return Ok(None) };
            let [yes, no] = [yes, no].map(|it| scalar_like(site, scores.q, it));
            site.add(Op::Select { cond, yes, no }).map(|it| Some(Some(it)))
        }
        _ => Ok(None),
    }
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
