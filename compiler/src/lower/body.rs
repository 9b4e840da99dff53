//! The pure scalar body of a loop nest or kernel: what is computed at one point of its iteration space.

use std::collections::{BTreeSet, HashMap};

use smallvec::SmallVec;

use super::TensorId;
use crate::{
    dtype::DType,
    index::{Atom, Index},
    scalar::{BinaryOp, Scalar, UnaryOp},
};

/// A position in a `Body`; operands have smaller ones than their users.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExprId(pub u32);

/// One index an axis of the tensor that is read or written.
pub type Coords = SmallVec<[Index; 4]>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::large_enum_variant, reason = "reads are the most common expressions, and short")]
pub enum Expr {
    Const(Scalar),
    /// An address or loop variable as a value, of type I32 or I64.
    Coord(Index),
    /// The element of `tensor` at `at`. Where `guard` is false nothing is read and the value is 0; the coordinates need
    /// to be inside the tensor only where it is true.
    Load {
        tensor: TensorId,
        at: Coords,
        guard: Option<ExprId>,
    },
    /// A value that the kernel's skeleton supplies: a row's result, a product's sum.
    Param(u32),
    Unary(UnaryOp, ExprId),
    Binary(BinaryOp, ExprId, ExprId),
    Select(ExprId, ExprId, ExprId),
    /// `random::bits` of a key, an op's number and a place; all are U32.
    Random {
        number: u32,
        key: [ExprId; 2],
        at: ExprId,
    },
    /// To the type of this expression.
    Cast(ExprId),
}

/// Expressions, each with its type, equal ones shared.
#[derive(Clone, Default, Debug)]
pub struct Body {
    exprs: Vec<(Expr, DType)>,
    seen: HashMap<(Expr, DType), ExprId>,
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.exprs == other.exprs
    }
}

impl Body {
    pub fn add(&mut self, expr: Expr, dtype: DType) -> ExprId {
        let key = (expr, dtype);
        if let Some(&id) = self.seen.get(&key) {
            return id;
        }
        let id = ExprId(self.exprs.len() as u32);
        self.exprs.push(key.clone());
        self.seen.insert(key, id);
        id
    }

    /// The same, reading of `to(tensor)` what it reads of `tensor`. Expressions keep their numbers, for which no two tensors may
    /// become one.
    pub fn redirected(&self, to: impl Fn(TensorId) -> TensorId) -> Body {
        let mut body = Body::default();
        for (id, expr, dtype) in self.iter() {
            let expr = match expr {
                Expr::Load { tensor, at, guard } => {
                    Expr::Load { tensor: to(*tensor), at: at.clone(), guard: *guard }
                }
                other => other.clone(),
            };
            if body.add(expr, dtype) != id {
                crate::bug!("two tensors have become one");
            }
        }
        body
    }

    pub fn unary(&mut self, op: UnaryOp, x: ExprId) -> ExprId {
        let ty = op.result(self.dtype(x)).expect("typed by the graph");
        self.add(Expr::Unary(op, x), ty)
    }

    pub fn binary(&mut self, op: BinaryOp, x: ExprId, y: ExprId) -> ExprId {
        let ty = op.result(self.dtype(x)).expect("typed by the graph");
        self.add(Expr::Binary(op, x, y), ty)
    }

    pub fn select(&mut self, cond: ExprId, yes: ExprId, no: ExprId) -> ExprId {
        self.add(Expr::Select(cond, yes, no), self.dtype(yes))
    }

    pub fn cast(&mut self, to: DType, x: ExprId) -> ExprId {
        if self.dtype(x) == to { x } else { self.add(Expr::Cast(x), to) }
    }

    pub fn constant(&mut self, dtype: DType, value: f64) -> ExprId {
        self.add(Expr::Const(Scalar::of(dtype, value)), dtype)
    }

    /// Both, where `None` is always true.
    pub fn and(&mut self, a: Option<ExprId>, b: Option<ExprId>) -> Option<ExprId> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => Some(self.binary(BinaryOp::And, a, b)),
            (a, b) => a.or(b),
        }
    }

    pub fn expr(&self, id: ExprId) -> &Expr {
        &self.exprs[id.0 as usize].0
    }

    pub fn dtype(&self, id: ExprId) -> DType {
        self.exprs[id.0 as usize].1
    }

    pub fn len(&self) -> usize {
        self.exprs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.exprs.is_empty()
    }

    /// Operands before users.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (ExprId, &Expr, DType)> {
        self.exprs.iter().enumerate().map(|(at, (expr, dtype))| (ExprId(at as u32), expr, *dtype))
    }

    /// Which expressions `roots` need, themselves included, indexed by `ExprId`.
    pub fn needed(&self, roots: impl IntoIterator<Item = ExprId>) -> Vec<bool> {
        let mut needed = vec![false; self.len()];
        roots.into_iter().for_each(|it| needed[it.0 as usize] = true);
        for at in (0..self.len()).rev() {
            if needed[at] {
                self.exprs[at].0.operands(&mut |it| needed[it.0 as usize] = true);
            }
        }
        needed
    }

    /// The variables that `root` depends on.
    pub fn variables(&self, root: ExprId) -> BTreeSet<usize> {
        let needed = self.needed([root]);
        let mut found = BTreeSet::new();
        let mut see = |index: &Index| {
            index.leaves(&mut |leaf| {
                if let Atom::Var { axis, .. } = leaf {
                    found.insert(*axis as usize);
                }
            })
        };
        for (id, expr, _) in self.iter() {
            match expr {
                _ if !needed[id.0 as usize] => {}
                Expr::Coord(at) => see(at),
                Expr::Load { at, .. } => at.iter().for_each(&mut see),
                Expr::Const(_)
                | Expr::Param(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Select(..)
                | Expr::Random { .. }
                | Expr::Cast(_) => {}
            }
        }
        found
    }
}

impl Expr {
    /// Every expression that this one needs, those inside its indices too.
    pub fn operands(&self, see: &mut dyn FnMut(ExprId)) {
        let index = |it: &Index, see: &mut dyn FnMut(ExprId)| {
            it.leaves(&mut |leaf| {
                if let Atom::Data { expr, .. } = leaf {
                    see(ExprId(*expr));
                }
            })
        };
        match self {
            Expr::Const(_) | Expr::Param(_) => {}
            Expr::Coord(at) => index(at, see),
            Expr::Load { at, guard, .. } => {
                at.iter().for_each(|it| index(it, see));
                guard.iter().for_each(|&it| see(it));
            }
            Expr::Unary(_, x) | Expr::Cast(x) => see(*x),
            Expr::Binary(_, x, y) => [*x, *y].into_iter().for_each(see),
            Expr::Select(c, x, y) => [*c, *x, *y].into_iter().for_each(see),
            Expr::Random { number: _, key: [low, high], at } => [*low, *high, *at].into_iter().for_each(see),
        }
    }
}
