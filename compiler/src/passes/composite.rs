//! Operators that were written out are made whole again.

use super::{
    matching::{binary, either, factors, near, number, products, scaled, significant, unary, with_number},
    rewrite::{Better, Licence::Relaxed, Rule, Site},
};
use crate::{
    graph::{Graph, Op, Real, Value},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Axes,
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "gelu",
        about: "x/2 * (1 + erf(x / sqrt 2))",
        licence: Relaxed,
        roots: &["mul"],
        apply: gelu,
    },
    Rule {
        name: "gelu-tanh",
        about: "x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))",
        licence: Relaxed,
        roots: &["mul"],
        apply: gelu_tanh,
    },
    Rule {
        name: "hardswish",
        about: "x * clamp(x + 3, 0, 6) / 6",
        licence: Relaxed,
        roots: &["mul"],
        apply: hardswish,
    },
    Rule {
        name: "softmax",
        about: "e / sum e, with e = exp x or e = exp(x - max x); log of it",
        licence: Relaxed,
        roots: &["div", "mul"],
        apply: softmax,
    },
    Rule {
        name: "log-softmax",
        about: "x - max x - log(sum(exp(x - max x))); log(softmax x)",
        licence: Relaxed,
        roots: &["log", "sub"],
        apply: log_softmax,
    },
    Rule {
        name: "layer-norm",
        about: "(x - mean x) * rsqrt(mean((x - mean x)^2) + eps)",
        licence: Relaxed,
        roots: &["div", "mul"],
        apply: layer_norm,
    },
    Rule {
        name: "rms-norm",
        about: "x * rsqrt(mean(x * x) + eps)",
        licence: Relaxed,
        roots: &["div", "mul"],
        apply: rms_norm,
    },
    Rule {
        name: "norm-scale",
        about: "a norm without scale, followed by one",
        licence: Relaxed,
        roots: &["mul"],
        apply: norm_scale,
    },
    Rule {
        name: "norm-bias",
        about: "a norm without bias, followed by one",
        licence: Relaxed,
        roots: &["add"],
        apply: norm_bias,
    },
];

/// `y` and `c` where `value` is `c * (1 + f y)`, written `f y + 1` or `c f y + c`.
fn one_plus(graph: &Graph, value: Value, f: UnaryOp) -> Option<(Value, f64)> {
    let (sum, shift) = with_number(graph, value, BinaryOp::Add)?;
    let (of, by) = match unary(graph, sum, f) {
        Some(y) => (y, 1.0),
        None => {
            let (inner, by) = scaled(graph, sum)?;
            (unary(graph, inner, f)?, by)
        }
    };
    near(graph.ty(value).dtype, by, shift).then_some((of, by))
}

fn gelu(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let dtype = graph.ty(value).dtype;
    let found = (|| {
        binary(graph, value, BinaryOp::Mul)?;
        let (parts, _) = factors(graph, value, None);
        parts.iter().find_map(|&part| {
            let (y, inner) = one_plus(graph, part, UnaryOp::Erf)?;
            let (x, by) = scaled(graph, y)?;
            let (rest, outer) = factors(graph, value, Some(x));
            let whole = rest.len() == 2 && rest.contains(&x) && rest.contains(&part);
            let fits = near(dtype, by, std::f64::consts::FRAC_1_SQRT_2) && near(dtype, inner * outer, 0.5);
            (whole && fits).then_some(x)
        })
    })();
    found.map(|x| site.add(Op::Unary(UnaryOp::Gelu, x))).transpose()
}

fn gelu_tanh(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let dtype = graph.ty(value).dtype;
    let found = (|| {
        binary(graph, value, BinaryOp::Mul)?;
        let (parts, _) = factors(graph, value, None);
        parts.iter().find_map(|&part| {
            let (y, inner) = one_plus(graph, part, UnaryOp::Tanh)?;
            // x itself may be a product.
            products(graph, value).into_iter().find(|&x| {
                let (rest, outer) = factors(graph, value, Some(x));
                let whole = rest.len() == 2 && rest.contains(&x) && rest.contains(&part);
                whole && near(dtype, inner * outer, 0.5) && is_tanh_argument(graph, y, x)
            })
        })
    })();
    found.map(|x| site.add(Op::Unary(UnaryOp::GeluTanh, x))).transpose()
}

/// Whether `value` is sqrt(2/pi) * (x + 0.044715 x^3), or sqrt(2/pi) * x * (1 + 0.044715 x^2).
fn is_tanh_argument(graph: &Graph, value: Value, x: Value) -> bool {
    let dtype = graph.ty(value).dtype;
    let is_power = |value: Value, power: usize| {
        let (parts, c) = factors(graph, value, Some(x));
        let same = parts.len() == power && parts.iter().all(|it| *it == x);
        let raised = matches!(parts[..], [it] if binary(graph, it, BinaryOp::Pow)
            .is_some_and(|(base, e)| base == x && number(graph, e) == Some(power as f64)));
        (same || raised) && near(dtype, c, 0.044715)
    };
    let (parts, by) = factors(graph, value, Some(x));
    let found = match parts[..] {
        [sum] => {
            either(graph, sum, BinaryOp::Add, |a, cube| (a == x && is_power(cube, 3)).then_some(())).is_some()
        }
        [a, b] => [(a, b), (b, a)].into_iter().any(|(a, sum)| {
            let inner = with_number(graph, sum, BinaryOp::Add);
            a == x && inner.is_some_and(|(square, one)| one == 1.0 && is_power(square, 2))
        }),
        _ => false,
    };
    found && near(dtype, by, (2.0 / std::f64::consts::PI).sqrt())
}

fn hardswish(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let dtype = graph.ty(value).dtype;
    let found = (|| {
        binary(graph, value, BinaryOp::Mul)?;
        let (parts, _) = factors(graph, value, None);
        parts.iter().find_map(|&part| {
            let (sum, top) = clamped(graph, part)?;
            let (y, shift) = with_number(graph, sum, BinaryOp::Add)?;
            [Some((y, 1.0)), scaled(graph, y)].into_iter().flatten().find_map(|(x, slope)| {
                let (rest, by) = factors(graph, value, Some(x));
                let whole = rest.len() == 2 && rest.contains(&x) && rest.contains(&part);
                let fits = near(dtype, by * slope, 1.0 / 6.0)
                    && near(dtype, by * shift, 0.5)
                    && near(dtype, by * top, 1.0);
                (whole && fits).then_some(x)
            })
        })
    })();
    found.map(|x| site.add(Op::Unary(UnaryOp::HardSwish, x))).transpose()
}

/// `x` and `top` of clamp(x, 0, top).
fn clamped(graph: &Graph, value: Value) -> Option<(Value, f64)> {
    if let Some((low, top)) = with_number(graph, value, BinaryOp::Min) {
        return Some((unary(graph, low, UnaryOp::Relu)?, top));
    }
    with_number(graph, unary(graph, value, UnaryOp::Relu)?, BinaryOp::Min)
}

/// The operand of a reduction by `op` along one axis that stays, and that axis.
fn reduced(graph: &Graph, value: Value, wanted: ReduceOp) -> Option<(Value, usize)> {
    match graph.op(value) {
        Op::Reduce { op, axes, keep: true, x } if *op == wanted && axes.len() == 1 => Some((*x, axes[0])),
        _ => None,
    }
}

/// `x` where `value` is x - max x along `axis`.
fn less_its_maximum(graph: &Graph, value: Value, axis: usize) -> Option<Value> {
    let (x, most) = binary(graph, value, BinaryOp::Sub)?;
    (reduced(graph, most, ReduceOp::Max)? == (x, axis)).then_some(x)
}

fn softmax(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let found = (|| {
        let (e, sum) = binary(graph, value, BinaryOp::Div).or_else(|| {
            either(graph, value, BinaryOp::Mul, |e, by| Some((e, unary(graph, by, UnaryOp::Recip)?)))
        })?;
        let (summed, axis) = reduced(graph, sum, ReduceOp::Sum)?;
        let x = unary(graph, e, UnaryOp::Exp).filter(|_| summed == e)?;
        Some((less_its_maximum(graph, x, axis).unwrap_or(x), axis))
    })();
    found.map(|(x, axis)| site.add(Op::Softmax { axis, log: false, x })).transpose()
}

fn log_softmax(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let found = (|| {
        if let Some(inner) = unary(graph, value, UnaryOp::Log) {
            return match *graph.op(inner) {
                Op::Softmax { axis, log: false, x } => Some((x, axis)),
                _ => None,
            };
        }
        let (shifted, log) = binary(graph, value, BinaryOp::Sub)?;
        let (e, axis) = reduced(graph, unary(graph, log, UnaryOp::Log)?, ReduceOp::Sum)?;
        unary(graph, e, UnaryOp::Exp).filter(|it| *it == shifted)?;
        Some((less_its_maximum(graph, shifted, axis).unwrap_or(shifted), axis))
    })();
    found.map(|(x, axis)| site.add(Op::Softmax { axis, log: true, x })).transpose()
}

/// The first of the axes that a mean is over, if they are the last ones and stay; and what it is the mean of.
fn row_mean(graph: &Graph, value: Value) -> Option<(Value, usize)> {
    let Op::Mean { axes, keep: true, x } = graph.op(value) else { return None };
    let rank = graph.ty(*x).shape.rank();
    let mut sorted: Axes = axes.clone();
    sorted.sort_unstable();
    let first = *sorted.first()?;
    sorted.iter().copied().eq(first..rank).then_some((*x, first))
}

/// Of a row's `x * rsqrt(mean y + eps)`: x, y, the first axis of the row, and eps.
fn normalised(graph: &Graph, value: Value) -> Option<(Value, Value, usize, f64)> {
    let inner = |x: Value, shifted: Value| {
        let (mean, eps) = with_number(graph, shifted, BinaryOp::Add)?;
        let (y, axis) = row_mean(graph, mean)?;
        (graph.ty(x).shape == graph.ty(y).shape).then_some((x, y, axis, eps))
    };
    let by_root = |x: Value, root: Value| inner(x, unary(graph, root, UnaryOp::Rsqrt)?);
    let (x, root) = match binary(graph, value, BinaryOp::Div) {
        Some(it) => it,
        None => return either(graph, value, BinaryOp::Mul, by_root),
    };
    inner(x, unary(graph, root, UnaryOp::Sqrt)?)
}

fn is_square(graph: &Graph, value: Value, of: Value) -> bool {
    binary(graph, value, BinaryOp::Mul) == Some((of, of))
        || binary(graph, value, BinaryOp::Pow)
            .is_some_and(|(x, power)| x == of && number(graph, power) == Some(2.0))
}

fn layer_norm(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let found = (|| {
        let (centred, square, axis, eps) = normalised(graph, value)?;
        let (x, mean) = binary(graph, centred, BinaryOp::Sub)?;
        let same = row_mean(graph, mean)? == (x, axis) && is_square(graph, square, centred);
        same.then_some((x, axis, eps))
    })();
    let norm = |(x, axis, eps)| Op::LayerNorm { axis, eps: Real(eps), x, scale: None, bias: None };
    found.map(|it| site.add(norm(it))).transpose()
}

fn rms_norm(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let found = (|| {
        let (x, square, axis, eps) = normalised(graph, value)?;
        is_square(graph, square, x).then_some((x, axis, eps))
    })();
    let norm = |(x, axis, eps)| Op::RmsNorm { axis, eps: Real(eps), x, scale: None };
    found.map(|it| site.add(norm(it))).transpose()
}

/// Brings an operand to the axes of a row of `norm` from `axis` on, if it is the same for all rows.
fn for_rows(site: &mut Site, norm: Value, axis: usize, operand: Value) -> Better {
    let row = &site.graph.ty(norm).shape[axis..];
    let shape = &site.graph.ty(operand).shape;
    let own = significant(shape);
    if own.len() > row.len() || shape.rank() > site.graph.ty(norm).shape.rank() {
        return Ok(None);
    }
    if shape.rank() <= row.len() {
        return Ok(Some(operand));
    }
    let shape = own.into();
    site.add(Op::Reshape { shape, x: operand }).map(Some)
}

/// The norm that only `value` uses, and the other operand.
fn norm_beside(site: &Site, value: Value, op: BinaryOp) -> Option<(Value, Value)> {
    either(site.graph, value, op, |norm, other| {
        let is_norm = matches!(
            site.graph.op(norm),
            Op::LayerNorm { bias: None, .. } | Op::RmsNorm { .. } | Op::GroupNorm { bias: None, .. }
        );
        let same = site.graph.ty(norm).shape == site.graph.ty(value).shape;
        (is_norm && same && site.uses(norm) <= 1).then_some((norm, other))
    })
}

fn norm_scale(site: &mut Site, value: Value) -> Better {
    let Some((norm, other)) = norm_beside(site, value, BinaryOp::Mul) else { return Ok(None) };
    match *site.graph.op(norm) {
        Op::LayerNorm { axis, eps, x, scale: None, bias: None } => {
            let Some(scale) = for_rows(site, norm, axis, other)? else { return Ok(None) };
            site.add(Op::LayerNorm { axis, eps, x, scale: Some(scale), bias: None }).map(Some)
        }
        Op::RmsNorm { axis, eps, x, scale: None } => {
            let Some(scale) = for_rows(site, norm, axis, other)? else { return Ok(None) };
            site.add(Op::RmsNorm { axis, eps, x, scale: Some(scale) }).map(Some)
        }
        Op::GroupNorm { groups, eps, x, scale: None, bias: None } => {
            let Some(scale) = for_channels(site, norm, other)? else { return Ok(None) };
            site.add(Op::GroupNorm { groups, eps, x, scale: Some(scale), bias: None }).map(Some)
        }
        _ => Ok(None),
    }
}

fn norm_bias(site: &mut Site, value: Value) -> Better {
    let Some((norm, other)) = norm_beside(site, value, BinaryOp::Add) else { return Ok(None) };
    match *site.graph.op(norm) {
        Op::LayerNorm { axis, eps, x, scale, bias: None } => {
            let Some(bias) = for_rows(site, norm, axis, other)? else { return Ok(None) };
            site.add(Op::LayerNorm { axis, eps, x, scale, bias: Some(bias) }).map(Some)
        }
        Op::GroupNorm { groups, eps, x, scale, bias: None } => {
            let Some(bias) = for_channels(site, norm, other)? else { return Ok(None) };
            site.add(Op::GroupNorm { groups, eps, x, scale, bias: Some(bias) }).map(Some)
        }
        _ => Ok(None),
    }
}

/// Brings an operand to one element a channel of `of`, whose axis 1 that is, if it has one, in that place.
pub fn for_channels(site: &mut Site, of: Value, operand: Value) -> Better {
    let whole = &site.graph.ty(of).shape;
    let shape = &site.graph.ty(operand).shape;
    let channels = whole[1];
    let own = significant(shape);
    let per_channel =
        own.len() == whole.rank() - 1 && own[0] == channels && own[1..].iter().all(|&it| it == 1);
    if !per_channel || shape.rank() > whole.rank() {
        return Ok(None);
    }
    site.add(Op::Reshape { shape: [channels].into(), x: operand }).map(Some)
}
