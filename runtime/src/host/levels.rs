//! What expressions depend on, and what their indices and guards are, before any of it is computed.

use wgfuse_compiler::{
    bug,
    dtype::Class,
    index::{Atom, Index, linearise},
    lower::{Body, Expr, ExprId, TensorId},
    scalar::{BinaryOp, Scalar},
    schedule::kernel::Store,
    shape::Type,
};

use super::walk::{Form, Space};

/// The domain that a value is computed over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    Rows,
    Points,
}

/// Where `tensor` stands among a kernel's tensors.
pub fn position(tensors: &[TensorId], tensor: TensorId) -> usize {
    tensors
        .iter()
        .position(|it| *it == tensor)
        .unwrap_or_else(|| bug!("a kernel uses a tensor it does not list"))
}

/// Every index of a body and of stores. A kernel does not list the tensors of loads that nothing needs.
pub fn indices<'a>(body: &'a Body, stores: &'a [Store], tensors: &[TensorId], types: &[Type]) -> Vec<Index> {
    let mut all = Vec::new();
    for (_, expr, _) in body.iter() {
        match expr {
            Expr::Coord(at) => all.push(at.clone()),
            Expr::Load { tensor, at, .. } => {
                let listed = tensors.iter().position(|it| it == tensor);
                all.extend(listed.map(|it| linearise(at, &types[it].shape)));
            }
            Expr::Const(_)
            | Expr::Param(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Select(..)
            | Expr::Random { .. }
            | Expr::Cast(_) => {}
        }
    }
    all.extend(stores.iter().map(|it| linearise(&it.at, &types[position(tensors, it.tensor)].shape)));
    all
}

/// The level of every expression.
pub fn levels(body: &Body, inner: &[usize], params_at: Level) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::with_capacity(body.len());
    for (_, expr, _) in body.iter() {
        let mut level = match expr {
            Expr::Coord(at) => index_level(at, &levels, inner),
            Expr::Load { at, .. } => {
                at.iter().map(|it| index_level(it, &levels, inner)).max().unwrap_or(Level::Rows)
            }
            Expr::Param(_) => params_at,
            Expr::Const(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Select(..)
            | Expr::Random { .. }
            | Expr::Cast(_) => Level::Rows,
        };
        expr.operands(&mut |it| level = level.max(levels[it.0 as usize]));
        levels.push(level);
    }
    levels
}

/// The level of an index, given those of the expressions that it reads.
pub fn index_level(index: &Index, levels: &[Level], inner: &[usize]) -> Level {
    let mut level = Level::Rows;
    index.leaves(&mut |leaf| {
        level = level.max(match leaf {
            Atom::Var { axis, .. } if inner.contains(&(*axis as usize)) => Level::Points,
            Atom::Data { expr, .. } => levels[*expr as usize],
            Atom::Var { .. } | Atom::Div(..) | Atom::Mod(..) => Level::Rows,
        });
    });
    level
}

/// `guard` as sums that must not be negative, if it is such a conjunction.
pub fn conditions(body: &Body, space: &Space, guard: ExprId) -> Option<Vec<Form>> {
    let Expr::Binary(op, a, b) = body.expr(guard) else { return None };
    if *op == BinaryOp::And {
        let mut all = conditions(body, space, *a)?;
        all.extend(conditions(body, space, *b)?);
        return Some(all);
    }
    let side = |it: ExprId| match body.expr(it) {
        Expr::Coord(index) => space.form(index),
        Expr::Const(Scalar::Int(value)) if body.dtype(it).class() == Class::Signed => {
            space.form(&Index::constant(*value))
        }
        _ => None,
    };
    // high - low - gap >= 0
    let (high, low, gap) = match op {
        BinaryOp::Ge => (a, b, 0),
        BinaryOp::Gt => (a, b, 1),
        BinaryOp::Le => (b, a, 0),
        BinaryOp::Lt => (b, a, 1),
        _ => return None,
    };
    let mut form = side(*high)?;
    form.add(&side(*low)?, -1);
    form.offset(-gap);
    Some(vec![form])
}
