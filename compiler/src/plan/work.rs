//! How much a kernel moves and computes.

use crate::{
    lower::{Body, Expr, ExprId, TensorId, TensorInfo},
    plan::step::bytes_on,
    schedule::{Kernel, Skeleton},
    shape::Shape,
};
use slotmap::SlotMap;

/// Bytes read and written, each tensor once. A tensor of which single elements are picked counts no more than the picks.
pub fn bytes(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>) -> u64 {
    let points = points(kernel);
    let roots = roots(kernel);
    let needed = kernel.body.needed(roots);
    let touched = |tensor: TensorId| {
        let loads = (kernel.body.iter())
            .filter(|(id, expr, _)| {
                needed[id.0 as usize] && matches!(expr, Expr::Load { tensor: it, .. } if *it == tensor)
            })
            .count();
        let stores = kernel.stores.iter().filter(|it| it.tensor == tensor).count();
        (loads + stores) as u64
    };
    let each = kernel.tensors.iter().map(|&tensor| {
        let ty = &tensors[tensor].ty;
        let all = bytes_on(kernel.place, ty);
        let element = all / (ty.shape.count() as u64).max(1);
        all.min(points.saturating_mul(touched(tensor)).saturating_mul(element.max(1)))
    });
    each.fold(0, u64::saturating_add)
}

/// Floating-point operations. Those that make a product's operands are left out: how often they run is the
/// template's affair.
pub fn flops(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>) -> u64 {
    let times = |count: u64, value: ExprId| count.saturating_mul(operations(&kernel.body, value));
    let main = match &kernel.skeleton {
        Skeleton::Map { .. } => 0,
        Skeleton::Rows { outer, inner, stages, .. } => (stages.iter())
            .map(|it| size(outer).saturating_mul(size(inner)).saturating_add(times(points(kernel), it.value)))
            .fold(0, u64::saturating_add),
        Skeleton::Contract { space, depth, others, .. } => product(space, depth, others.len()),
        Skeleton::Attention { space, keys, channels, .. } => attention(space, *keys, *channels),
    };
    let stores = kernel.stores.iter().map(|it| times(size(&tensors[it.tensor].ty.shape), it.value));
    stores.fold(main, u64::saturating_add)
}

/// Operations on elements, whatever their type: every expression at every point of the loops. Of a product or an attention, what
/// `flops` counts and its results; operands are made fewer times than they are multiplied.
pub fn work(kernel: &Kernel) -> u64 {
    let needed = kernel.body.needed(roots(kernel)).into_iter().filter(|it| *it).count() as u64;
    let (own, points) = match &kernel.skeleton {
        Skeleton::Map { .. } | Skeleton::Rows { .. } => (0, points(kernel)),
        Skeleton::Contract { space, depth, others, .. } => (product(space, depth, others.len()), size(space)),
        Skeleton::Attention { space, keys, channels, .. } => {
            (attention(space, *keys, *channels), size(space))
        }
    };
    own.saturating_add(points.saturating_mul(needed.max(1)))
}

fn product(space: &Shape, depth: &Shape, others: usize) -> u64 {
    size(space).saturating_mul(size(depth)).saturating_mul(2 * (1 + others as u64))
}

/// Two products and the four operations of a softmax.
fn attention(space: &Shape, keys: usize, channels: usize) -> u64 {
    let scores = size(&Shape::new(&space[..3])).saturating_mul(keys as u64);
    scores.saturating_mul(2 * (channels as u64 + space[3] as u64) + 4)
}

fn size(shape: &Shape) -> u64 {
    shape.iter().fold(1, |all, &it| all.saturating_mul(it as u64))
}

/// Points of all loops together.
fn points(kernel: &Kernel) -> u64 {
    match &kernel.skeleton {
        Skeleton::Map { space, .. } => size(space),
        Skeleton::Rows { outer, inner, .. } => size(outer).saturating_mul(size(inner)),
        Skeleton::Contract { space, depth, .. } => size(space).saturating_mul(size(depth)),
        Skeleton::Attention { space, keys, channels, .. } => {
            size(space).saturating_mul(*keys as u64).saturating_mul(*channels as u64)
        }
    }
}

fn roots(kernel: &Kernel) -> Vec<ExprId> {
    let mut roots: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
    for store in &kernel.stores {
        for index in &store.at {
            index.leaves(&mut |leaf| {
                if let crate::index::Atom::Data { expr, .. } = leaf {
                    roots.push(ExprId(*expr));
                }
            });
        }
    }
    match &kernel.skeleton {
        Skeleton::Map { .. } => {}
        Skeleton::Rows { stages, .. } => roots.extend(stages.iter().map(|it| it.value)),
        Skeleton::Contract { a, b, others, sums, .. } => {
            roots.extend([*a, *b].into_iter().chain(others.iter().chain(sums).copied()))
        }
        Skeleton::Attention { q, k, v, mask, .. } => roots.extend([*q, *k, *v].into_iter().chain(*mask)),
    }
    roots
}

fn operations(body: &Body, value: ExprId) -> u64 {
    let needed = body.needed([value]);
    let counted = body.iter().filter(|(id, expr, dtype)| {
        needed[id.0 as usize] && dtype.is_float() && matches!(expr, Expr::Unary(..) | Expr::Binary(..))
    });
    counted.count() as u64
}
