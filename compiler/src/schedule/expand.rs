//! Nests with what is computed where it is read inside them.
//!
//! In: nests, and the pure values so far. Out: bodies that read only what some kernel makes. What pure values read is not pure.

use slotmap::SecondaryMap;

use super::splice::splice;
use crate::lower::{Body, Coords, Expr, ExprId, Loops, Nest, TensorId};

/// A value computed where it is read.
#[derive(Clone, Debug)]
pub struct Pure {
    pub body: Body,
    pub value: ExprId,
}

/// One nest's body with every pure value inside it, in the nest's own variables.
#[derive(Debug)]
pub struct Expanded {
    pub body: Body,
    pub roots: Vec<ExprId>,
    /// The roots are those of `scaled`: operands, sums, and the scale.
    pub scaled: bool,
}

pub fn expand(loops: &Loops, nest: &Nest, pure: &SecondaryMap<TensorId, Pure>) -> Expanded {
    expand_body(loops, &nest.body, &nest.kind.roots(), pure)
}

pub fn expand_again(loops: &Loops, it: &Expanded, pure: &SecondaryMap<TensorId, Pure>) -> Expanded {
    expand_body(loops, &it.body, &it.roots, pure)
}

fn expand_body(
    loops: &Loops,
    from: &Body,
    roots: &[ExprId],
    pure: &SecondaryMap<TensorId, Pure>,
) -> Expanded {
    let mut body = Body::default();
    let roots = splice(&mut body, from, roots, None, None, &mut |out, tensor, at, guard| {
        read_or_compute(loops, pure, out, tensor, at, guard)
    });
    Expanded { body, roots, scaled: false }
}

/// The element of a tensor: computed on the spot if it is pure, else read. What pure values read is not pure.
fn read_or_compute(
    loops: &Loops,
    pure: &SecondaryMap<TensorId, Pure>,
    out: &mut Body,
    tensor: TensorId,
    at: Coords,
    guard: Option<ExprId>,
) -> ExprId {
    let Some(it) = pure.get(tensor) else {
        let dtype = loops.tensors[tensor].ty.dtype;
        return out.add(Expr::Load { tensor, at, guard }, dtype);
    };
    let made = splice(out, &it.body, &[it.value], Some(&at), guard, &mut |out, tensor, at, guard| {
        read_or_compute(loops, pure, out, tensor, at, guard)
    });
    guarded(out, made[0], guard)
}

/// `value`, or 0 where `guard` is false, unless it is a read, which is so by itself.
fn guarded(out: &mut Body, value: ExprId, guard: Option<ExprId>) -> ExprId {
    match (guard, out.expr(value)) {
        (None, _) | (_, Expr::Load { .. }) => value,
        (Some(guard), _) => {
            let zero = out.constant(out.dtype(value), 0.0);
            out.select(guard, value, zero)
        }
    }
}

/// Nests that read each tensor.
pub fn users(loops: &Loops) -> SecondaryMap<TensorId, Vec<usize>> {
    let mut users: SecondaryMap<TensorId, Vec<usize>> =
        loops.tensors.keys().map(|it| (it, Vec::new())).collect();
    for (at, nest) in loops.nests.iter().enumerate() {
        for (tensor, _) in loads(&nest.body, &nest.kind.roots()) {
            if users[tensor].last() != Some(&at) {
                users[tensor].push(at);
            }
        }
    }
    users
}

/// Every read that `roots` need.
pub fn loads(body: &Body, roots: &[ExprId]) -> Vec<(TensorId, Coords)> {
    let needed = body.needed(roots.iter().copied());
    (body.iter().filter(|(id, ..)| needed[id.0 as usize]))
        .filter_map(|(_, expr, _)| match expr {
            Expr::Load { tensor, at, .. } => Some((*tensor, at.clone())),
            Expr::Const(_)
            | Expr::Coord(_)
            | Expr::Param(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Select(..)
            | Expr::Random { .. }
            | Expr::Cast(_) => None,
        })
        .collect()
}
