//! Rules of reductions and of softmax.

use super::{Made, Reverse};
use crate::{
    error::Error,
    graph::{Op, PadMode, Value},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Axes,
};

impl Reverse<'_> {
    pub fn reduce(
        &mut self,
        op: ReduceOp,
        axes: &[usize],
        x: Value,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let shape = r.shape(x);
            let wide = r.kept(g, axes, &shape)?;
            match op {
                ReduceOp::Sum => r.expand(wide, &shape),
                ReduceOp::Prod => r.product_of_others(x, axes, wide),
                ReduceOp::Max | ReduceOp::Min => {
                    let beaten = if op == ReduceOp::Max { BinaryOp::Lt } else { BinaryOp::Gt };
                    let best = r.kept(y, axes, &shape)?;
                    let not = r.binary_of(beaten, x, best)?;
                    let one = r.number(r.ty(x).dtype, 1.0);
                    let ties = r.unless(not, one)?;
                    let ties = r.sum(ties, axes, true)?;
                    let share = r.div(wide, ties)?;
                    r.unless(not, share)
                }
            }
        })
    }

    pub fn mean(&mut self, axes: &[usize], x: Value, g: Value) -> Result<(), Error> {
        self.give(x, |r| {
            let shape = r.shape(x);
            let count: usize = axes.iter().map(|it| shape[*it]).product();
            let share = r.with(BinaryOp::Div, g, count as f64)?;
            let wide = r.kept(share, axes, &shape)?;
            r.expand(wide, &shape)
        })
    }

    /// `g`, of size 1 along `axes`, times the product of the other elements along `axes`, for each element of `x`. No quotient, so
    /// that it is right where elements are 0.
    fn product_of_others(&mut self, x: Value, axes: &[usize], g: Value) -> Made {
        let shape = self.shape(x);
        let kept: Axes = (0..shape.rank()).filter(|it| !axes.contains(it)).collect();
        let order: Axes = kept.iter().chain(axes).copied().collect();
        let count: usize = axes.iter().map(|it| shape[*it]).product();
        let outer: usize = kept.iter().map(|it| shape[*it]).product();
        if count == 1 {
            return Ok(g);
        }
        let moved = self.permute(x, &order)?;
        let sorted = self.shape(moved);
        let rows = self.reshape(moved, &[outer, count])?;
        let before = self.product_beside(rows, false)?;
        let after = self.product_beside(rows, true)?;
        let others = self.mul(before, after)?;
        let others = self.reshape(others, &sorted)?;
        let others = self.permute(others, &inverse(&order))?;
        self.mul(g, others)
    }

    /// For each element of `rows` the product of those before it in its row, or after it.
    fn product_beside(&mut self, rows: Value, after: bool) -> Made {
        let count = self.shape(rows)[1];
        let mut all = self.moved_in(rows, 1, after)?;
        let mut reach = 1;
        while reach < count - 1 {
            let further = self.moved_in(all, reach, after)?;
            all = self.mul(all, further)?;
            reach *= 2;
        }
        Ok(all)
    }

    /// Each element `by` places on, away from the beginning (from the end with `back`), where ones follow.
    fn moved_in(&mut self, rows: Value, by: usize, back: bool) -> Made {
        let [outer, count] = self.shape(rows)[..] else { crate::bug!("rows have two axes") };
        let starts = [0, if back { by } else { 0 }];
        let x = self.add(Op::Slice {
            starts: starts.into(),
            sizes: [outer, count - by].into(),
            steps: [1, 1].into(),
            x: rows,
        })?;
        let one = self.number(self.ty(x).dtype, 1.0);
        let (before, after) = if back { ([0, 0], [0, by]) } else { ([0, by], [0, 0]) };
        let (before, after) = (before.into(), after.into());
        self.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill: Some(one) })
    }

    pub fn softmax(&mut self, axis: usize, log: bool, x: Value, y: Value, g: Value) -> Result<(), Error> {
        self.give(x, |r| match log {
            true => {
                let sum = r.sum(g, &[axis], true)?;
                let part = r.unary_of(UnaryOp::Exp, y)?;
                let part = r.mul(part, sum)?;
                r.sub(g, part)
            }
            false => r.through_softmax(axis, y, g),
        })
    }

    /// The derivative by what has the softmax `y`, of that by `y`.
    pub fn through_softmax(&mut self, axis: usize, y: Value, g: Value) -> Made {
        let product = self.mul(g, y)?;
        let sum = self.sum(product, &[axis], true)?;
        let rest = self.sub(g, sum)?;
        self.mul(y, rest)
    }
}

/// The order that undoes `order`.
pub fn inverse(order: &[usize]) -> Axes {
    let mut back = Axes::from_elem(0, order.len());
    order.iter().enumerate().for_each(|(at, axis)| back[*axis] = at);
    back
}
