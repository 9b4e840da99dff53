//! Scales and shifts that do not change from run to run move into the weights before them.

use super::{
    algebra::scalar_like,
    composite::for_channels,
    matching::{either, is_fixed},
    rewrite::{Better, Licence::Relaxed, Rule, Site},
};
use crate::{
    error::Error,
    graph::{Op, Value},
    scalar::{BinaryOp, UnaryOp},
    shape::Shape,
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "batch-norm",
        about: "batch_norm x => x * k + b",
        licence: Relaxed,
        roots: &["batch_norm"],
        apply: batch_norm,
    },
    Rule {
        name: "scale-before-shift",
        about: "(x w + b) * k => x w * k + b * k",
        licence: Relaxed,
        roots: &["mul"],
        apply: scale_before_shift,
    },
    Rule {
        name: "weight-scale",
        about: "conv(x, w) * k => conv(x, w * k)",
        licence: Relaxed,
        roots: &["mul"],
        apply: weight_scale,
    },
    Rule {
        name: "weight-shift",
        about: "conv(x, w) + b => conv(x, w, b)",
        licence: Relaxed,
        roots: &["add"],
        apply: weight_shift,
    },
    Rule {
        name: "shift-shift",
        about: "(x w + a) + b => x w + (a + b), with fixed a and b",
        licence: Relaxed,
        roots: &["add"],
        apply: shift_shift,
    },
];

/// With fixed statistics the norm is a product and a sum, whose operands are computed once.
fn batch_norm(site: &mut Site, value: Value) -> Better {
    let Op::BatchNorm { eps, x, scale, bias, mean, var } = *site.graph.op(value) else { return Ok(None) };
    if ![scale, bias, mean, var].into_iter().all(|it| is_fixed(site.graph, it)) {
        return Ok(None);
    }
    let eps = scalar_like(site, var, eps.0);
    let var = site.add(Op::Binary(BinaryOp::Add, var, eps))?;
    let root = site.add(Op::Unary(UnaryOp::Rsqrt, var))?;
    let by = site.add(Op::Binary(BinaryOp::Mul, scale, root))?;
    let moved = site.add(Op::Binary(BinaryOp::Mul, mean, by))?;
    let shift = site.add(Op::Binary(BinaryOp::Sub, bias, moved))?;
    let rank = site.graph.ty(value).shape.rank();
    let (by, shift) = (along_channels(site, by, rank)?, along_channels(site, shift, rank)?);
    let product = site.add(Op::Binary(BinaryOp::Mul, x, by))?;
    site.add(Op::Binary(BinaryOp::Add, product, shift)).map(Some)
}

/// `[c]` as `[c, 1, ..]`, to broadcast to axis 1 of `rank`.
fn along_channels(site: &mut Site, x: Value, rank: usize) -> Result<Value, Error> {
    let channels = site.graph.ty(x).shape[0];
    let shape: Shape = [channels].into_iter().chain((2..rank).map(|_| 1)).collect();
    site.add(Op::Reshape { shape, x })
}

/// A product with fixed weights that only `value` uses, and the fixed other operand.
fn product_beside(site: &Site, value: Value, op: BinaryOp) -> Option<(Value, Value)> {
    let graph = &*site.graph;
    either(graph, value, op, |product, other| {
        let weights = match *graph.op(product) {
            Op::Conv { w, bias, .. } => [Some(w), bias],
            Op::ConvTranspose { groups: 1, w, bias, .. } => [Some(w), bias],
            Op::MatMul { b, .. } if graph.ty(b).shape.rank() == 2 => [Some(b), None],
            _ => return None,
        };
        let same = graph.ty(product).shape == graph.ty(value).shape;
        let fixed = weights.into_iter().flatten().all(|it| is_fixed(graph, it)) && is_fixed(graph, other);
        (same && fixed && site.uses(product) <= 1).then_some((product, other))
    })
}

/// Brings the operand of a scaling or shift of `product` to one element a feature.
fn for_features(site: &mut Site, product: Value, other: Value) -> Better {
    let whole = &site.graph.ty(product).shape;
    if let Op::MatMul { .. } = site.graph.op(product) {
        let Some(&features) = whole.last() else { return Ok(None) };
        let ty = site.graph.ty(other);
        if ty.shape.count() != features || ty.shape.last() != Some(&features) {
            return Ok(None);
        }
        return site.add(Op::Reshape { shape: [features].into(), x: other }).map(Some);
    }
    let features = whole[1];
    let rank = whole.rank();
    let ty = site.graph.ty(other);
    if ty.shape.count() == 1 && ty.shape.rank() <= rank {
        let one = site.add(Op::Reshape { shape: Shape::scalar(), x: other })?;
        return site.add(Op::Expand { shape: [features].into(), x: one }).map(Some);
    }
    for_channels(site, product, other)
}

fn scale_before_shift(site: &mut Site, value: Value) -> Better {
    let found = either(site.graph, value, BinaryOp::Mul, |sum, by| {
        let (product, shift) = product_beside(site, sum, BinaryOp::Add)?;
        let same = site.graph.ty(sum).shape == site.graph.ty(value).shape;
        (same && site.uses(sum) <= 1 && is_fixed(site.graph, by)).then_some((product, shift, by))
    });
    let Some((product, shift, by)) = found else { return Ok(None) };
    let product = site.add(Op::Binary(BinaryOp::Mul, product, by))?;
    let shift = site.add(Op::Binary(BinaryOp::Mul, shift, by))?;
    site.add(Op::Binary(BinaryOp::Add, product, shift)).map(Some)
}

fn weight_scale(site: &mut Site, value: Value) -> Better {
    let Some((product, other)) = product_beside(site, value, BinaryOp::Mul) else { return Ok(None) };
    let Some(by) = for_features(site, product, other)? else { return Ok(None) };
    let features = site.graph.ty(by).shape[0];
    let op = site.graph.op(product).clone();
    // The axis of the weights that counts features.
    let (w, axis) = match op {
        Op::Conv { w, .. } => (w, 0),
        Op::ConvTranspose { w, .. } => (w, 1),
        Op::MatMul { b, .. } => (b, 1),
        _ => return Ok(None),
    };
    let mut shape: Shape = site.graph.ty(w).shape.iter().map(|_| 1).collect();
    shape.0[axis] = features;
    let wide = site.add(Op::Reshape { shape, x: by })?;
    let w = site.add(Op::Binary(BinaryOp::Mul, w, wide))?;
    let scaled = |site: &mut Site, bias: Option<Value>| {
        bias.map(|it| site.add(Op::Binary(BinaryOp::Mul, it, by))).transpose()
    };
    let op = match op {
        Op::Conv { window, groups, x, bias, .. } => {
            Op::Conv { window, groups, x, w, bias: scaled(site, bias)? }
        }
        Op::ConvTranspose { window, groups, output, x, bias, .. } => {
            Op::ConvTranspose { window, groups, output, x, w, bias: scaled(site, bias)? }
        }
        Op::MatMul { a, .. } => Op::MatMul { a, b: w },
        _ => return Ok(None),
    };
    site.add(op).map(Some)
}

fn weight_shift(site: &mut Site, value: Value) -> Better {
    let Some((product, other)) = product_beside(site, value, BinaryOp::Add) else { return Ok(None) };
    let Some(shift) = (match site.graph.op(product) {
        // A product without a bias of its own keeps the sum behind it.
        Op::MatMul { .. } => None,
        _ => for_features(site, product, other)?,
    }) else {
        return Ok(None);
    };
    let op = site.graph.op(product).clone();
    let summed = |site: &mut Site, bias: Option<Value>| match bias {
        Some(bias) => site.add(Op::Binary(BinaryOp::Add, bias, shift)),
        None => Ok(shift),
    };
    let op = match op {
        Op::Conv { window, groups, x, w, bias } => {
            let bias = Some(summed(site, bias)?);
            Op::Conv { window, groups, x, w, bias }
        }
        Op::ConvTranspose { window, groups, output, x, w, bias } => {
            let bias = Some(summed(site, bias)?);
            Op::ConvTranspose { window, groups, output, x, w, bias }
        }
        _ => return Ok(None),
    };
    site.add(op).map(Some)
}

fn shift_shift(site: &mut Site, value: Value) -> Better {
    let found = either(site.graph, value, BinaryOp::Add, |sum, b| {
        let (product, a) = product_beside(site, sum, BinaryOp::Add)?;
        let same = site.graph.ty(sum).shape == site.graph.ty(value).shape;
        let small = site.graph.ty(a).shape.broadcast(&site.graph.ty(b).shape)?.count() * 2
            <= site.graph.ty(value).shape.count().max(2);
        (same && small && site.uses(sum) <= 1 && is_fixed(site.graph, b)).then_some((product, a, b))
    });
    let Some((product, a, b)) = found else { return Ok(None) };
    let shift = site.add(Op::Binary(BinaryOp::Add, a, b))?;
    site.add(Op::Binary(BinaryOp::Add, product, shift)).map(Some)
}
