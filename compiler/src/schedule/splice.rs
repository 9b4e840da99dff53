//! Copies a body into another, with its loop variables replaced and its reads redirected: how anything is inlined.

use crate::{
    dtype::DType,
    index::{Atom, Index},
    lower::{Body, Coords, Expr, ExprId, TensorId},
    scalar::{BinaryOp, Scalar},
};

/// Gives the element of a tensor at some coordinates, under a guard.
pub type Read<'a> = dyn FnMut(&mut Body, TensorId, Coords, Option<ExprId>) -> ExprId + 'a;

/// Adds `roots` of `from` to `out`, with variable `i` replaced by `point[i]`, or left as it is where no point is given.
/// Where `guard` is false nothing is read.
pub fn splice(
    out: &mut Body,
    from: &Body,
    roots: &[ExprId],
    point: Option<&[Index]>,
    guard: Option<ExprId>,
    read: &mut Read<'_>,
) -> Vec<ExprId> {
    splice_with(out, from, roots, point, guard, None, read)
}

/// The same, where `Param(i)` is `params[i]` of `out`.
pub fn splice_with(
    out: &mut Body,
    from: &Body,
    roots: &[ExprId],
    point: Option<&[Index]>,
    guard: Option<ExprId>,
    params: Option<&[ExprId]>,
    read: &mut Read<'_>,
) -> Vec<ExprId> {
    let needed = from.needed(roots.iter().copied());
    let mut moved = vec![ExprId(u32::MAX); from.len()];
    for (id, expr, dtype) in from.iter() {
        if !needed[id.0 as usize] {
            continue;
        }
        let to = |it: ExprId| moved[it.0 as usize];
        let index = |it: &Index| {
            it.substitute(&mut |leaf| match leaf {
                Atom::Var { axis, .. } => match point {
                    Some(point) => point[*axis as usize].clone(),
                    None => Index::atom(leaf.clone()),
                },
                Atom::Data { expr, low, high } => Index::data(to(ExprId(*expr)).0, *low, *high),
                Atom::Div(..) | Atom::Mod(..) => crate::bug!("{leaf} is not a leaf"),
            })
        };
        moved[id.0 as usize] = match expr {
            Expr::Const(value) => out.add(Expr::Const(*value), dtype),
            Expr::Coord(at) => {
                let at = index(at);
                match at.as_constant() {
                    Some(value) => out.add(Expr::Const(Scalar::Int(value)), dtype),
                    None => out.add(Expr::Coord(at), dtype),
                }
            }
            Expr::Load { tensor, at, guard: own } => {
                let at = at.iter().map(index).collect();
                let own = own.map(to);
                let guard = out.and(guard, own).filter(|&it| as_bool(out, it) != Some(true));
                read(out, *tensor, at, guard)
            }
            Expr::Param(number) => match params {
                Some(params) => params[*number as usize],
                None => out.add(Expr::Param(*number), dtype),
            },
            Expr::Unary(op, x) => out.unary(*op, to(*x)),
            Expr::Binary(op, x, y) => binary(out, *op, to(*x), to(*y), dtype),
            Expr::Select(cond, yes, no) => match as_bool(out, to(*cond)) {
                Some(true) => to(*yes),
                Some(false) => to(*no),
                None => out.select(to(*cond), to(*yes), to(*no)),
            },
            Expr::Random { number, key, at } => {
                out.add(Expr::Random { number: *number, key: key.map(to), at: to(*at) }, dtype)
            }
            Expr::Cast(x) => out.cast(dtype, to(*x)),
        };
    }
    roots.iter().map(|it| moved[it.0 as usize]).collect()
}

/// Comparisons that ranges decide, and conjunctions with what is decided.
fn binary(out: &mut Body, op: BinaryOp, x: ExprId, y: ExprId, dtype: DType) -> ExprId {
    let decided = match op {
        BinaryOp::And if dtype == DType::Bool => match (as_bool(out, x), as_bool(out, y)) {
            (Some(true), _) => return y,
            (_, Some(true)) => return x,
            (Some(false), _) | (_, Some(false)) => Some(false),
            (None, None) => None,
        },
        BinaryOp::Lt => ordered(out, x, y, |x, y| x.1 < y.0, |x, y| x.0 >= y.1),
        BinaryOp::Ge => ordered(out, x, y, |x, y| x.0 >= y.1, |x, y| x.1 < y.0),
        BinaryOp::Le => ordered(out, x, y, |x, y| x.1 <= y.0, |x, y| x.0 > y.1),
        BinaryOp::Gt => ordered(out, x, y, |x, y| x.0 > y.1, |x, y| x.1 <= y.0),
        _ => None,
    };
    match decided {
        Some(value) => out.constant(DType::Bool, f64::from(u8::from(value))),
        None => out.binary(op, x, y),
    }
}

type Bounds = (i64, i64);

fn ordered(
    out: &Body,
    x: ExprId,
    y: ExprId,
    always: fn(Bounds, Bounds) -> bool,
    never: fn(Bounds, Bounds) -> bool,
) -> Option<bool> {
    let (x, y) = (bounds(out, x)?, bounds(out, y)?);
    match (always(x, y), never(x, y)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        (false, false) => None,
    }
}

/// Range of an integer that is a coordinate or a constant.
fn bounds(out: &Body, id: ExprId) -> Option<Bounds> {
    match out.expr(id) {
        Expr::Coord(at) => Some(at.range()),
        Expr::Const(Scalar::Int(value)) => Some((*value, *value)),
        _ => None,
    }
}

fn as_bool(out: &Body, id: ExprId) -> Option<bool> {
    match out.expr(id) {
        Expr::Const(value) if out.dtype(id) == DType::Bool => Some(value.as_bool()),
        _ => None,
    }
}
