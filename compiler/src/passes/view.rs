//! Views that are none, views of views, and views that operators do without.

use smallvec::SmallVec;

use super::rewrite::{Better, Licence::Exact, Rule, Site};
use crate::{
    graph::{Graph, Op, Value},
    shape::{Axes, Shape},
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "view-nothing",
        about: "A view that leaves everything where it is",
        licence: Exact,
        roots: &["reshape", "expand", "permute", "slice"],
        apply: view_nothing,
    },
    Rule {
        name: "view-view",
        about: "reshape (reshape x), permute (permute x), expand (expand x), slice (slice x)",
        licence: Exact,
        roots: &["reshape", "expand", "permute", "slice"],
        apply: view_view,
    },
    Rule {
        name: "permute-units",
        about: "Only axes of one element move: permute x => reshape x",
        licence: Exact,
        roots: &["permute"],
        apply: permute_units,
    },
    Rule {
        name: "reshape-permute",
        about: "The last axes are permuted, then those before them regrouped: reshape (permute x) => permute (reshape x)",
        licence: Exact,
        roots: &["reshape"],
        apply: reshape_permute,
    },
    Rule {
        name: "expand-units",
        about: "An expansion that only adds axes of one element: expand x => reshape x",
        licence: Exact,
        roots: &["expand"],
        apply: expand_units,
    },
    Rule {
        name: "view-uniform",
        about: "A view of an expansion of one element is an expansion of it",
        licence: Exact,
        roots: &["reshape", "permute", "slice"],
        apply: view_uniform,
    },
    Rule {
        name: "pad-nothing",
        about: "pad by nothing => x",
        licence: Exact,
        roots: &["pad"],
        apply: pad_nothing,
    },
    Rule {
        name: "expand-operand",
        about: "Operators broadcast by themselves: f (expand x) y => f x y, or expand (f x y)",
        licence: Exact,
        roots: &[],
        apply: expand_operand,
    },
];

fn view_nothing(site: &mut Site, value: Value) -> Better {
    let same = |x: Value| site.graph.ty(x).shape == site.graph.ty(value).shape;
    Ok(match *site.graph.op(value) {
        Op::Reshape { x, .. } | Op::Expand { x, .. } if same(x) => Some(x),
        Op::Permute { ref order, x } if order.iter().enumerate().all(|(to, &from)| to == from) => Some(x),
        Op::Slice { ref steps, x, .. } if same(x) && steps.iter().all(|&it| it == 1) => Some(x),
        _ => None,
    })
}

fn view_view(site: &mut Site, value: Value) -> Better {
    let graph = &*site.graph;
    let merged = match graph.op(value) {
        Op::Reshape { shape, x } => match graph.op(*x) {
            Op::Reshape { x, .. } => Op::Reshape { shape: shape.clone(), x: *x },
            _ => return Ok(None),
        },
        Op::Expand { shape, x } => match graph.op(*x) {
            Op::Expand { x, .. } => Op::Expand { shape: shape.clone(), x: *x },
            _ => return Ok(None),
        },
        Op::Permute { order, x } => match graph.op(*x) {
            Op::Permute { order: inner, x } => {
                Op::Permute { order: order.iter().map(|&axis| inner[axis]).collect(), x: *x }
            }
            _ => return Ok(None),
        },
        Op::Slice { starts, sizes, steps, x } => match graph.op(*x) {
            Op::Slice { starts: inner_starts, steps: inner_steps, x, .. } => {
                let rank = sizes.rank();
                let joined: Option<SmallVec<[(usize, i64); 6]>> = (0..rank)
                    .map(|axis| {
                        let way = inner_steps[axis].checked_mul(i64::try_from(starts[axis]).ok()?)?;
                        let start = i64::try_from(inner_starts[axis]).ok()?.checked_add(way)?;
                        // With no element the start may lie just outside.
                        let start = if sizes[axis] == 0 { 0 } else { usize::try_from(start).ok()? };
                        let step =
                            if sizes[axis] <= 1 { 1 } else { inner_steps[axis].checked_mul(steps[axis])? };
                        Some((start, step))
                    })
                    .collect();
                let Some(joined) = joined else { return Ok(None) };
                Op::Slice {
                    starts: joined.iter().map(|it| it.0).collect(),
                    sizes: sizes.clone(),
                    steps: joined.iter().map(|it| it.1).collect(),
                    x: *x,
                }
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    site.add(merged).map(Some)
}

fn permute_units(site: &mut Site, value: Value) -> Better {
    let Op::Permute { ref order, x } = *site.graph.op(value) else { return Ok(None) };
    let from = &site.graph.ty(x).shape;
    let moved: Axes = order.iter().copied().filter(|&axis| from[axis] != 1).collect();
    if !moved.is_sorted() {
        return Ok(None);
    }
    let shape = site.graph.ty(value).shape.clone();
    site.add(Op::Reshape { shape, x }).map(Some)
}

fn expand_units(site: &mut Site, value: Value) -> Better {
    let Op::Expand { ref shape, x } = *site.graph.op(value) else { return Ok(None) };
    let from = &site.graph.ty(x).shape;
    let added = shape.rank() - from.rank();
    if shape[..added].iter().any(|&it| it != 1) || shape[added..] != from[..] {
        return Ok(None);
    }
    let shape = shape.clone();
    site.add(Op::Reshape { shape, x }).map(Some)
}

fn reshape_permute(site: &mut Site, value: Value) -> Better {
    let Op::Reshape { ref shape, x: permuted } = *site.graph.op(value) else { return Ok(None) };
    let Op::Permute { ref order, x } = *site.graph.op(permuted) else { return Ok(None) };
    let fixed = order.iter().enumerate().take_while(|(to, from)| to == *from).count();
    let moved = order.len() - fixed;
    let before = &site.graph.ty(permuted).shape;
    if moved == 0 || shape.rank() < moved || shape[shape.rank() - moved..] != before[fixed..] {
        return Ok(None);
    }
    let outer = shape.rank() - moved;
    // Of shapes with no elements the outer axes may hold different numbers.
    if shape[..outer].iter().product::<usize>() != before[..fixed].iter().product::<usize>() {
        return Ok(None);
    }
    let source = &site.graph.ty(x).shape;
    let inner: Shape = shape[..outer].iter().chain(&source[fixed..]).copied().collect();
    let order = (0..outer).chain(order[fixed..].iter().map(|axis| axis - fixed + outer)).collect();
    let x = site.add(Op::Reshape { shape: inner, x })?;
    site.add(Op::Permute { order, x }).map(Some)
}

fn view_uniform(site: &mut Site, value: Value) -> Better {
    let (Op::Reshape { x, .. } | Op::Permute { x, .. } | Op::Slice { x, .. }) = *site.graph.op(value) else {
        return Ok(None);
    };
    let Op::Expand { x: one, .. } = *site.graph.op(x) else { return Ok(None) };
    if site.graph.ty(one).shape.count() != 1 {
        return Ok(None);
    }
    let shape = site.graph.ty(value).shape.clone();
    let one = site.add(Op::Reshape { shape: Shape::scalar(), x: one })?;
    site.add(Op::Expand { shape, x: one }).map(Some)
}

fn pad_nothing(site: &mut Site, value: Value) -> Better {
    Ok(match site.graph.op(value) {
        Op::Pad { before, after, x, .. } if before.iter().chain(after).all(|&it| it == 0) => Some(*x),
        _ => None,
    })
}

fn expand_operand(site: &mut Site, value: Value) -> Better {
    let op = site.graph.op(value);
    let expands = |it: Value| match *site.graph.op(it) {
        Op::Expand { x, .. } => Some(x),
        _ => None,
    };
    let shape = &site.graph.ty(value).shape;
    match op {
        Op::Unary(..) | Op::Binary(..) | Op::Select { .. } | Op::Cast { .. } => {
            let plain = op.clone().map_operands(|it| expands(it).unwrap_or(it));
            let Some(joined) = joined(site.graph, &plain) else { return Ok(None) };
            if plain == *op {
                return Ok(None);
            }
            let shape = shape.clone();
            let x = site.add(plain)?;
            if joined == shape { Ok(Some(x)) } else { site.add(Op::Expand { shape, x }).map(Some) }
        }
        Op::MatMul { a, b } => {
            // The last two axes are rows, columns and depth, the others broadcast.
            let outer_only = |it: Value| {
                let x = expands(it)?;
                let (from, to) = (&site.graph.ty(x).shape, &site.graph.ty(it).shape);
                (from.rank() >= 2 && from[from.rank() - 2..] == to[to.rank() - 2..]).then_some(x)
            };
            for (a, b) in [(outer_only(*a), Some(*b)), (Some(*a), outer_only(*b))] {
                let (Some(a), Some(b)) = (a, b) else { continue };
                let outer = |it: Value| {
                    let shape = &site.graph.ty(it).shape;
                    Shape::from(&shape[..shape.rank().saturating_sub(2)])
                };
                let flat = [a, b].iter().any(|it| site.graph.ty(*it).shape.rank() < 2);
                if !flat && outer(a).broadcast(&outer(b)) == Some(Shape::from(&shape[..shape.rank() - 2])) {
                    return site.add(Op::MatMul { a, b }).map(Some);
                }
            }
            Ok(None)
        }
        Op::Attention { mask: Some(mask), .. } => {
            let Some(x) = expands(*mask) else { return Ok(None) };
            let mut plain = op.clone();
            if let Op::Attention { mask, .. } = &mut plain {
                *mask = Some(x);
            }
            site.add(plain).map(Some)
        }
        _ => Ok(None),
    }
}

/// The common shape of the operands.
fn joined(graph: &Graph, op: &Op) -> Option<Shape> {
    let operands = op.operands();
    operands.iter().try_fold(Shape::scalar(), |shape, it| shape.broadcast(&graph.ty(*it).shape))
}
