//! What the expressions of attention allow: keys that need not be looked at, heads that share keys and values.
//!
//! In: operands of an attention kernel, whose variables are numbered as `NestKind::Attention` says. Out: facts, each
//! proved from the expressions alone.

use super::kernel::LastKey;
use crate::{
    dtype::DType,
    index::{Atom, Index},
    lower::{Body, Expr, ExprId},
    scalar::{BinaryOp, Scalar, UnaryOp},
};

const HEAD: u32 = 1;
const QUERY: u32 = 2;
const KEY: u32 = 4;

/// The last key that a query sees, where the mask is -inf at every key after it whatever was read. It never falls as queries
/// go on.
pub fn last_key(body: &Body, mask: ExprId) -> Option<LastKey> {
    let last = hidden_after(body, mask)?;
    let (low, high) = last.range();
    let each = match last.terms() {
        [] => 0,
        [(Atom::Var { axis: QUERY, .. }, by)] => u32::try_from(*by).ok()?,
        _ => return None,
    };
    let fits = low > i32::MIN as i64 && high < i32::MAX as i64;
    fits.then_some(LastKey { each, first: last.offset() as i32 })
}

/// A key after which `value` is -inf. What is added to -inf is taken for a number: a hidden key's NaN need not spread.
fn hidden_after(body: &Body, value: ExprId) -> Option<Index> {
    let both = |x: ExprId, y: ExprId| hidden_after(body, x).or_else(|| hidden_after(body, y));
    match body.expr(value) {
        Expr::Select(cond, yes, no) if is_shut(body, *no) => {
            false_after(body, *cond).or_else(|| hidden_after(body, *yes))
        }
        Expr::Select(cond, yes, no) if is_shut(body, *yes) => {
            true_after(body, *cond).or_else(|| hidden_after(body, *no))
        }
        Expr::Binary(BinaryOp::Add, x, y) => both(*x, *y),
        Expr::Cast(x) if body.dtype(value).is_float() && body.dtype(*x).is_float() => hidden_after(body, *x),
        Expr::Const(_)
        | Expr::Coord(_)
        | Expr::Load { .. }
        | Expr::Param(_)
        | Expr::Unary(..)
        | Expr::Binary(..)
        | Expr::Select(..)
        | Expr::Random { .. }
        | Expr::Cast(_) => None,
    }
}

fn is_shut(body: &Body, value: ExprId) -> bool {
    match body.expr(value) {
        Expr::Const(it @ Scalar::Float(_)) => it.as_f64() == f64::NEG_INFINITY,
        Expr::Cast(x) => body.dtype(value).is_float() && body.dtype(*x).is_float() && is_shut(body, *x),
        _ => false,
    }
}

/// A key after which `cond` does not hold.
fn false_after(body: &Body, cond: ExprId) -> Option<Index> {
    match body.expr(cond) {
        Expr::Binary(BinaryOp::And, x, y) => false_after(body, *x).or_else(|| false_after(body, *y)),
        Expr::Binary(BinaryOp::Le, x, y) | Expr::Binary(BinaryOp::Ge, y, x) => bound(body, *x, *y, 0),
        Expr::Binary(BinaryOp::Lt, x, y) | Expr::Binary(BinaryOp::Gt, y, x) => bound(body, *x, *y, -1),
        Expr::Unary(UnaryOp::Not, x) => true_after(body, *x),
        _ => None,
    }
}

/// A key after which `cond` holds.
fn true_after(body: &Body, cond: ExprId) -> Option<Index> {
    match body.expr(cond) {
        Expr::Binary(BinaryOp::Or, x, y) => true_after(body, *x).or_else(|| true_after(body, *y)),
        Expr::Binary(BinaryOp::Gt, x, y) | Expr::Binary(BinaryOp::Lt, y, x) => bound(body, *x, *y, 0),
        Expr::Binary(BinaryOp::Ge, x, y) | Expr::Binary(BinaryOp::Le, y, x) => bound(body, *x, *y, -1),
        Expr::Unary(UnaryOp::Not, x) => false_after(body, *x),
        _ => None,
    }
}

/// The last key with x <= y + `more`, if x - y is the key plus what no key is in.
fn bound(body: &Body, x: ExprId, y: ExprId, more: i64) -> Option<Index> {
    let difference = integer(body, x)?.add(&integer(body, y)?.mul(-1));
    let (atom, _) = difference.terms().iter().find(|it| matches!(it, (Atom::Var { axis: KEY, .. }, 1)))?;
    let rest = difference.add(&Index::atom(atom.clone()).mul(-1));
    Some(rest.mul(-1).offset_by(more))
}

/// An integer that follows from the loop variables without overflow in 32 bits, in which kernels compute.
fn integer(body: &Body, value: ExprId) -> Option<Index> {
    let two = |x: ExprId, y: ExprId| Some((integer(body, x)?, integer(body, y)?));
    let index = match body.expr(value) {
        Expr::Coord(at) => at.clone(),
        Expr::Const(Scalar::Int(it)) => Index::constant(*it),
        Expr::Cast(x) => integer(body, *x)?,
        Expr::Binary(BinaryOp::Add, x, y) => two(*x, *y).map(|(x, y)| x.add(&y))?,
        Expr::Binary(BinaryOp::Sub, x, y) => two(*x, *y).map(|(x, y)| x.add(&y.mul(-1)))?,
        _ => return None,
    };
    let (low, high) = index.range();
    let least = match body.dtype(value) {
        DType::I32 | DType::I64 => i32::MIN as i64,
        DType::U32 => 0,
        _ => return None,
    };
    (low >= least && high <= i32::MAX as i64).then_some(index)
}

/// The largest number of neighbouring heads, a divisor of `heads`, for which `operands` are the same, those numbered from a
/// multiple of it.
pub fn sharing_heads(body: &Body, operands: [ExprId; 2], heads: usize) -> usize {
    let needed = body.needed(operands);
    let same = |of: usize| {
        let still = |index: &Index| {
            let moved = index.substitute(&mut |leaf| match leaf {
                Atom::Var { axis: HEAD, .. } => {
                    // Variables 6 and 7 do not occur.
                    Index::var(6, heads / of).mul(of as i64).add(&Index::var(7, of))
                }
                Atom::Var { .. } | Atom::Data { .. } | Atom::Div(..) | Atom::Mod(..) => {
                    Index::atom(leaf.clone())
                }
            });
            let mut found = false;
            moved.leaves(&mut |leaf| found |= matches!(leaf, Atom::Var { axis: 7, .. }));
            !found
        };
        body.iter().filter(|(id, ..)| needed[id.0 as usize]).all(|(_, expr, _)| match expr {
            Expr::Coord(at) => still(at),
            Expr::Load { at, .. } => at.iter().all(still),
            Expr::Const(_)
            | Expr::Param(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Select(..)
            | Expr::Random { .. }
            | Expr::Cast(_) => true,
        })
    };
    (2..=heads).rev().filter(|it| heads.is_multiple_of(*it)).find(|it| same(*it)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::eval::{Memory, eval_body};

    const QUERIES: usize = 6;
    const KEYS: usize = 9;

    fn coord(body: &mut Body, at: Index, dtype: DType) -> ExprId {
        body.add(Expr::Coord(at), dtype)
    }

    /// The mask that is -inf where `sees`, made from query, key and some number, does not hold.
    fn mask(sees: &dyn Fn(&mut Body, ExprId, ExprId, ExprId) -> ExprId) -> (Body, ExprId) {
        let mut body = Body::default();
        let query = coord(&mut body, Index::var(QUERY as usize, QUERIES), DType::I64);
        let key = coord(&mut body, Index::var(KEY as usize, KEYS), DType::I64);
        let three = body.constant(DType::I64, 3.0);
        let sees = sees(&mut body, query, key, three);
        let (open, shut) = (body.constant(DType::F32, 1.5), body.constant(DType::F32, f64::NEG_INFINITY));
        let mask = body.select(sees, open, shut);
        let twice = body.binary(BinaryOp::Add, open, mask);
        (body, twice)
    }

    fn value(body: &Body, mask: ExprId, query: i64, key: i64) -> f64 {
        let vars = [0, 0, query, 0, key, 0];
        eval_body(body, &[mask], &vars, &[], &Default::default(), &Memory::new())[0].as_f64()
    }

    #[test]
    fn bounds_are_found_and_hide_nothing_that_is_seen() {
        use BinaryOp::{Add, And, Ge, Gt, Le, Lt, Sub};
        type Sees = dyn Fn(&mut Body, ExprId, ExprId, ExprId) -> ExprId;
        let forms: [(&Sees, i64); 7] = [
            (&|b, q, k, _| b.binary(Le, k, q), 0),
            (&|b, q, k, _| b.binary(Gt, q, k), -1),
            (
                &|b, q, k, n| {
                    let last = b.binary(Add, q, n);
                    b.binary(Ge, last, k)
                },
                3,
            ),
            (
                &|b, q, k, n| {
                    let gap = b.binary(Sub, k, q);
                    b.binary(Lt, gap, n)
                },
                2,
            ),
            (
                &|b, q, k, n| {
                    let hidden = b.binary(Gt, k, q);
                    let _ = n;
                    b.unary(UnaryOp::Not, hidden)
                },
                0,
            ),
            (
                &|b, q, k, n| {
                    let (own, near) = (b.binary(Le, k, q), b.binary(Sub, q, n));
                    let near = b.binary(Ge, k, near);
                    b.binary(And, near, own)
                },
                0,
            ),
            (
                &|b, q, k, n| {
                    let key = b.binary(Add, k, n);
                    b.binary(Le, key, q)
                },
                -3,
            ),
        ];
        for (number, (sees, offset)) in forms.iter().enumerate() {
            let (body, mask) = mask(sees);
            let last = last_key(&body, mask).unwrap_or_else(|| panic!("form {number} has a bound"));
            assert_eq!(last, LastKey { each: 1, first: *offset as i32 }, "form {number}");
            for (query, key) in (0..QUERIES as i64).flat_map(|i| (0..KEYS as i64).map(move |j| (i, j))) {
                let hidden = value(&body, mask, query, key) == f64::NEG_INFINITY;
                assert!(hidden || key <= query + offset, "form {number}: query {query} sees key {key}");
            }
        }
    }

    #[test]
    fn what_is_no_bound_is_none() {
        use BinaryOp::{Add, Ge, Le, Or, Sub};
        type Sees = dyn Fn(&mut Body, ExprId, ExprId, ExprId) -> ExprId;
        let forms: [&Sees; 6] = [
            // Keys from the query on.
            &|b, q, k, _| b.binary(Ge, k, q),
            // Fewer for later queries.
            &|b, q, k, n| {
                let last = b.binary(Sub, n, q);
                b.binary(Le, k, last)
            },
            // The key twice.
            &|b, q, k, _| {
                let twice = b.binary(Add, k, k);
                b.binary(Le, twice, q)
            },
            // Either.
            &|b, q, k, n| {
                let (x, y) = (b.binary(Le, k, q), b.binary(Ge, k, n));
                b.binary(Or, x, y)
            },
            // Not with the key.
            &|b, q, _, n| b.binary(Le, n, q),
            // Sums that overflow in kernels.
            &|b, q, k, _| {
                let far = b.constant(DType::I64, f64::from(i32::MAX));
                let last = b.binary(Add, q, far);
                b.binary(Le, k, last)
            },
        ];
        for (number, sees) in forms.iter().enumerate() {
            let (body, mask) = mask(sees);
            assert_eq!(last_key(&body, mask), None, "form {number}");
        }
    }

    #[test]
    fn heads_share_by_division_only() {
        let heads = 12;
        let shared = |head: Index| {
            let mut body = Body::default();
            let (k, v) = (coord(&mut body, head, DType::I32), body.constant(DType::I32, 0.0));
            sharing_heads(&body, [k, v], heads)
        };
        let head = Index::var(HEAD as usize, heads);
        assert_eq!(shared(head.clone()), 1);
        assert_eq!(shared(head.div(4)), 4);
        assert_eq!(shared(head.div(3)), 3);
        assert_eq!(shared(head.modulo(4)), 1);
        assert_eq!(shared(head.div(6).add(&head.div(4))), 2);
        assert_eq!(shared(Index::constant(0)), heads);
    }
}
