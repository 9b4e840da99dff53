//! Rules of ops that only move elements.

use smallvec::SmallVec;

use super::{Made, Reverse, along::inverse};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, Value},
    scalar::{BinaryOp, Scalar},
    tensor::Tensor,
};

impl Reverse<'_> {
    pub fn permuted(&mut self, order: &[usize], x: Value, g: Value) -> Result<(), Error> {
        self.give(x, |r| r.permute(g, &inverse(order)))
    }

    pub fn sliced(&mut self, starts: &[usize], steps: &[i64], x: Value, g: Value) -> Result<(), Error> {
        self.give(x, |r| r.put(g, starts, steps, &r.shape(x)))
    }

    pub fn joined(&mut self, axis: usize, xs: &[Value], g: Value) -> Result<(), Error> {
        let mut start = 0;
        for &x in xs {
            let size = self.shape(x)[axis];
            self.give(x, |r| r.cut(g, axis, start, size))?;
            start += size;
        }
        Ok(())
    }

    pub fn padded(
        &mut self,
        before: &[usize],
        mode: PadMode,
        x: Value,
        fill: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let shape = r.shape(x);
            let mut g = g;
            for axis in 0..shape.rank() {
                g = r.folded(g, axis, before[axis], shape[axis], mode)?;
            }
            Ok(g)
        })?;
        let Some(fill) = fill else { return Ok(()) };
        self.give(fill, |r| {
            let no = r.graph.add_constant(Tensor::scalar(DType::Bool, Scalar::Int(0)));
            let yes = r.graph.add_constant(Tensor::scalar(DType::Bool, Scalar::Int(1)));
            let (inside, outside) = (r.shape(x), r.shape(g));
            let inner = r.expand(no, &inside)?;
            let after = (0..inside.rank()).map(|it| outside[it] - inside[it] - before[it]).collect();
            let around = r.add(Op::Pad {
                before: before.into(),
                after,
                mode: PadMode::Constant,
                x: inner,
                fill: Some(yes),
            })?;
            // `give` adds up to a scalar.
            r.only(around, g)
        })
    }

    /// One axis of `g` as it was before padding: what fell on the padding is added where that was read.
    fn folded(&mut self, g: Value, axis: usize, before: usize, size: usize, mode: PadMode) -> Made {
        let padded = self.shape(g)[axis];
        let after = padded - size - before;
        let mut sum = self.cut(g, axis, before, size)?;
        let sides = [(0, before), (before + size, after)];
        for (at, (start, count)) in sides.into_iter().enumerate().filter(|it| it.1.1 > 0) {
            let last = at == 1;
            let part = match mode {
                PadMode::Constant => continue,
                PadMode::Edge | PadMode::Wrap => self.cut(g, axis, start, count)?,
                PadMode::Reflect => {
                    let part = self.cut(g, axis, start, count)?;
                    self.flipped(part, axis)?
                }
            };
            let part = match mode {
                PadMode::Edge => self.sum(part, &[axis], true)?,
                PadMode::Constant | PadMode::Reflect | PadMode::Wrap => part,
            };
            let place = match (mode, last) {
                (PadMode::Edge, false) | (PadMode::Wrap, true) | (PadMode::Constant, _) => 0,
                (PadMode::Edge, true) => size - 1,
                (PadMode::Wrap, false) => size - count,
                (PadMode::Reflect, false) => 1,
                (PadMode::Reflect, true) => size - 1 - count,
            };
            let (mut starts, mut shape) = (Places::from_elem(0, self.shape(g).rank()), self.shape(sum));
            (starts[axis], shape.0[axis]) = (place, size);
            let steps = vec![1; shape.rank()];
            let part = self.put(part, &starts, &steps, &shape)?;
            sum = self.binary_of(BinaryOp::Add, sum, part)?;
        }
        Ok(sum)
    }

    /// Elements `start` to `start + size` along one axis.
    pub fn cut(&mut self, x: Value, axis: usize, start: usize, size: usize) -> Made {
        let mut sizes = self.shape(x);
        if (start, size) == (0, sizes[axis]) {
            return Ok(x);
        }
        let mut starts = Places::from_elem(0, sizes.rank());
        (starts[axis], sizes.0[axis]) = (start, size);
        let steps = SmallVec::from_elem(1, sizes.rank());
        self.add(Op::Slice { starts, sizes, steps, x })
    }

    fn flipped(&mut self, x: Value, axis: usize) -> Made {
        let sizes = self.shape(x);
        let mut starts = Places::from_elem(0, sizes.rank());
        let mut steps: SmallVec<[i64; 2]> = SmallVec::from_elem(1, sizes.rank());
        (starts[axis], steps[axis]) = (sizes[axis] - 1, -1);
        self.add(Op::Slice { starts, sizes, steps, x })
    }

    /// 0 in `shape` but for the elements of `x`, which has some: along axis `i`, element `j` at `starts[i] + j * steps[i]`.
    pub fn put(&mut self, mut x: Value, starts: &[usize], steps: &[i64], shape: &[usize]) -> Made {
        let mut starts = Places::from_slice(starts);
        for (axis, &step) in steps.iter().enumerate() {
            let mut sizes = self.shape(x);
            let count = sizes[axis];
            if count == 1 {
                continue;
            }
            let stride = step.unsigned_abs() as usize;
            if step < 0 {
                x = self.flipped(x, axis)?;
                starts[axis] -= (count - 1) * stride;
            }
            if stride > 1 {
                // Each element with zeros behind it, but for the last.
                sizes.0.insert(axis + 1, 1);
                x = self.reshape(x, &sizes)?;
                let mut after = Places::from_elem(0, sizes.rank());
                after[axis + 1] = stride - 1;
                x = self.surround(x, Places::from_elem(0, sizes.rank()), after)?;
                sizes.0.remove(axis + 1);
                sizes.0[axis] = count * stride;
                x = self.reshape(x, &sizes)?;
                x = self.cut(x, axis, 0, (count - 1) * stride + 1)?;
            }
        }
        let after = (0..shape.len()).map(|it| shape[it] - starts[it] - self.shape(x)[it]).collect();
        self.surround(x, starts, after)
    }

    /// Zeros around `x`.
    pub fn surround(&mut self, x: Value, before: Places, after: Places) -> Made {
        if before.iter().chain(&after).all(|it| *it == 0) {
            return Ok(x);
        }
        let fill = Some(self.number(self.ty(x).dtype, 0.0));
        self.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill })
    }
}
