//! Scales and shifts that do not change from run to run move into the weights behind them, as those of a batch norm before a
//! convolution.
//!
//! In: a product with fixed weights, of a sum or product that nothing else reads. Out: the same of what is scaled or
//! shifted there, where every result is the same: padding is zeros, which a scale leaves so and a shift does not, and results of
//! a transposed convolution are of more or fewer taps, so that no one number a channel stands for a shift.

use super::{
    composite::for_channels,
    matching::{binary, either, is_fixed},
    rewrite::{Better, Licence::Relaxed, Rule, Site},
};
use crate::{
    error::Error,
    graph::{Graph, Op, Value},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Shape,
};

const ROOTS: &[&str] = &["conv", "conv_transpose", "matmul"];

pub const RULES: &[Rule] = &[
    Rule {
        name: "scale-into-weight",
        about: "conv(x * k, w) => conv(x, w * k)",
        licence: Relaxed,
        roots: ROOTS,
        apply: scale_into_weight,
    },
    Rule {
        name: "shift-into-bias",
        about: "conv(x + b, w) => conv(x, w, sum of b * w), where nothing is padded",
        licence: Relaxed,
        roots: ROOTS,
        apply: shift_into_bias,
    },
];

/// The operand of `product` that is no weight, which nothing else reads, and the weights, which are fixed.
fn operands(site: &Site, product: Value) -> Option<(Value, Value)> {
    let (x, w) = match *site.graph.op(product) {
        Op::Conv { x, w, .. } | Op::ConvTranspose { x, w, .. } => (x, w),
        Op::MatMul { a, b } if site.graph.ty(b).shape.rank() == 2 => (a, b),
        _ => return None,
    };
    let float = site.graph.ty(x).dtype.is_float();
    (float && is_fixed(site.graph, w) && site.uses(x) <= 1).then_some((x, w))
}

/// `x` and the fixed operand of `x op it`, of a commutative `op`; or, with `true`, of its inverse.
fn beside(graph: &Graph, value: Value, op: BinaryOp, inverse: BinaryOp) -> Option<(Value, Value, bool)> {
    let whole = |x: Value, it: Value| {
        (graph.ty(x).shape == graph.ty(value).shape && is_fixed(graph, it)).then_some((x, it))
    };
    let found = either(graph, value, op, whole).map(|(x, it)| (x, it, false));
    found.or_else(|| {
        let (x, it) = binary(graph, value, inverse)?;
        whole(x, it).map(|(x, it)| (x, it, true))
    })
}

/// One element a channel of `x`, shaped to be multiplied by the weights of `product`.
fn along_weights(site: &mut Site, product: Value, x: Value, w: Value, operand: Value) -> Better {
    let (whole, weights) = (site.graph.ty(x).shape.clone(), site.graph.ty(w).shape.clone());
    let op = site.graph.op(product).clone();
    let mut shape: Shape = weights.iter().map(|_| 1).collect();
    if let Op::MatMul { .. } = op {
        let own = &site.graph.ty(operand).shape;
        let Some(&channels) = whole.last() else { return Ok(None) };
        if own.count() != channels || own.last() != Some(&channels) {
            return Ok(None);
        }
        shape.0[0] = channels;
        return site.add(Op::Reshape { shape, x: operand }).map(Some);
    }
    let channels = whole[1];
    let Some(all) = for_channels(site, x, operand)? else { return Ok(None) };
    let Op::Conv { groups, .. } = op else {
        shape.0[0] = channels;
        return site.add(Op::Reshape { shape, x: all }).map(Some);
    };
    // Channels of each group, for every feature of it.
    let each = channels / groups;
    let of_groups = site.add(Op::Reshape { shape: [groups, 1, each].into(), x: all })?;
    let features = weights[0] / groups.max(1);
    let wide = site.add(Op::Expand { shape: [groups, features, each].into(), x: of_groups })?;
    (shape.0[0], shape.0[1]) = (weights[0], each);
    site.add(Op::Reshape { shape, x: wide }).map(Some)
}

fn with(op: Op, x: Value, w: Value, bias: Option<Value>) -> Op {
    match op {
        Op::Conv { window, groups, .. } => Op::Conv { window, groups, x, w, bias },
        Op::ConvTranspose { window, groups, output, .. } => {
            Op::ConvTranspose { window, groups, output, x, w, bias }
        }
        _ => Op::MatMul { a: x, b: w },
    }
}

fn bias(op: &Op) -> Option<Value> {
    match op {
        Op::Conv { bias, .. } | Op::ConvTranspose { bias, .. } => *bias,
        _ => None,
    }
}

fn scale_into_weight(site: &mut Site, product: Value) -> Better {
    let Some((scaled, w)) = operands(site, product) else { return Ok(None) };
    let Some((x, by, inverse)) = beside(site.graph, scaled, BinaryOp::Mul, BinaryOp::Div) else {
        return Ok(None);
    };
    let Some(by) = along_weights(site, product, scaled, w, by)? else { return Ok(None) };
    let scaling = if inverse { BinaryOp::Div } else { BinaryOp::Mul };
    let w = site.add(Op::Binary(scaling, w, by))?;
    let op = site.graph.op(product).clone();
    let bias = bias(&op);
    site.add(with(op, x, w, bias)).map(Some)
}

fn shift_into_bias(site: &mut Site, product: Value) -> Better {
    let Some((shifted, w)) = operands(site, product) else { return Ok(None) };
    let weights = site.graph.ty(w).shape.clone();
    let op = site.graph.op(product).clone();
    let exact = match &op {
        Op::Conv { window, .. } => window.before.iter().chain(&window.after).all(|it| *it == 0),
        Op::ConvTranspose { window, output, .. } => {
            let single = weights[2..].iter().chain(&window.strides).all(|it| *it == 1);
            let whole = window.before.iter().chain(&window.after).all(|it| *it == 0);
            single && whole && output[..] == site.graph.ty(shifted).shape[2..]
        }
        _ => true,
    };
    if !exact {
        return Ok(None);
    }
    let Some((x, by, inverse)) = beside(site.graph, shifted, BinaryOp::Add, BinaryOp::Sub) else {
        return Ok(None);
    };
    let Some(by) = along_weights(site, product, shifted, w, by)? else { return Ok(None) };
    let moved = site.add(Op::Binary(BinaryOp::Mul, w, by))?;
    let mut shift = summed(site, &op, moved, &weights)?;
    if inverse {
        shift = site.add(Op::Unary(UnaryOp::Neg, shift))?;
    }
    let bias = match bias(&op) {
        Some(bias) => Some(site.add(Op::Binary(BinaryOp::Add, bias, shift))?),
        None => Some(shift),
    };
    let made = site.add(with(op.clone(), x, w, bias))?;
    match op {
        Op::MatMul { .. } => site.add(Op::Binary(BinaryOp::Add, made, shift)).map(Some),
        _ => Ok(Some(made)),
    }
}

/// What the weights of each feature add up to.
fn summed(site: &mut Site, op: &Op, moved: Value, weights: &Shape) -> Result<Value, Error> {
    let sum = |site: &mut Site, x: Value, axes: std::ops::Range<usize>| {
        site.add(Op::Reduce { op: ReduceOp::Sum, axes: axes.collect(), keep: false, x })
    };
    match *op {
        Op::Conv { .. } => sum(site, moved, 1..weights.rank()),
        Op::ConvTranspose { groups, .. } => {
            let (each, features) = (weights[0] / groups.max(1), weights[1]);
            let x = site.add(Op::Reshape { shape: [groups, each, features].into(), x: moved })?;
            let of_groups = sum(site, x, 1..2)?;
            site.add(Op::Reshape { shape: [groups * features].into(), x: of_groups })
        }
        _ => sum(site, moved, 0..1),
    }
}
