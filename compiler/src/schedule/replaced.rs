//! A slice of a tensor replaced: `select(number along an axis == place, value, there)`, which is what updating a cache is.
//!
//! In: a value over loop variables. Out: its parts, of which the place is the same all along the axis.

use crate::{
    index::Index,
    lower::{Body, Expr, ExprId},
    scalar::BinaryOp,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// An integer.
    pub place: ExprId,
    pub value: ExprId,
    pub there: ExprId,
}

/// What `value` replaces along variable `axis`.
pub fn replaced(body: &Body, value: ExprId, axis: usize) -> Option<Replaced> {
    let Expr::Select(cond, value, there) = *body.expr(value) else { return None };
    let Expr::Binary(BinaryOp::Eq, left, right) = *body.expr(cond) else { return None };
    let along = |it: ExprId| number(body, it).and_then(Index::as_var) == Some(axis);
    let place = match (along(left), along(right)) {
        (true, false) => right,
        (false, true) => left,
        (true, true) | (false, false) => return None,
    };
    (!body.variables(place).contains(&axis)).then_some(Replaced { place, value, there })
}

/// The coordinate that an integer is.
fn number(body: &Body, value: ExprId) -> Option<&Index> {
    match body.expr(value) {
        Expr::Coord(at) => Some(at),
        Expr::Cast(x) if body.dtype(value).is_int() => number(body, *x),
        _ => None,
    }
}
