//! Methods that move elements and compute none. Axes may be negative and then count from the end.

use smallvec::SmallVec;

use super::{GraphBuilder, all_axes, one_axis, resolve, ty};
use crate::{
    error::Error,
    graph::{Graph, Op, PadMode, Value},
    scalar::Scalar,
    shape::{Axes, Shape},
    tensor::Tensor,
};

/// Views and reads.
impl GraphBuilder {
    /// At most one size may be -1 and then follows from the others.
    pub fn reshape(&mut self, x: Value, sizes: &[isize]) -> Result<Value, Error> {
        self.node("reshape", |graph| {
            let wrong = |graph: &Graph, what| Error::node(&*graph.origin(), what);
            let from = ty(graph, x)?.shape.clone();
            let known = sizes.iter().filter(|&&it| it != -1);
            let open = sizes.len() - known.clone().count();
            let product = known
                .map(|&it| usize::try_from(it).ok())
                .try_fold(1usize, |product, size| product.checked_mul(size?));
            let (Some(product), 0..=1) = (product, open) else {
                return Err(wrong(graph, format!("{sizes:?} is not a shape for {from}")));
            };
            let rest = from.count().checked_div(product);
            if open == 1 && rest.is_none() {
                return Err(wrong(graph, format!("the size that is -1 in {sizes:?} cannot be told")));
            }
            let size = |&it: &isize| usize::try_from(it).ok().or(rest).unwrap_or(0);
            let shape = sizes.iter().map(size).collect();
            graph.add(Op::Reshape { shape, x })
        })
    }

    /// All axes from `axis` on become one.
    pub fn flatten(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("flatten", |graph| {
            let axis = one_axis(graph, x, axis)?;
            let from = &ty(graph, x)?.shape;
            let last: usize = from[axis..].iter().product();
            let shape = from[..axis].iter().copied().chain([last]).collect();
            graph.add(Op::Reshape { shape, x })
        })
    }

    /// An axis of size 1 becomes axis `axis` of the result.
    pub fn unsqueeze(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("unsqueeze", |graph| {
            let mut shape = ty(graph, x)?.shape.clone();
            let at = resolve(graph, axis, shape.rank() + 1)?;
            shape.0.insert(at, 1);
            graph.add(Op::Reshape { shape, x })
        })
    }

    /// Drops an axis of size 1.
    pub fn squeeze(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("squeeze", |graph| {
            let at = one_axis(graph, x, axis)?;
            let mut shape = ty(graph, x)?.shape.clone();
            if shape.0.remove(at) != 1 {
                return Err(Error::node(&*graph.origin(), format!("axis {axis} has more than one element")));
            }
            graph.add(Op::Reshape { shape, x })
        })
    }

    /// Swaps two axes.
    pub fn transpose(&mut self, x: Value, a: isize, b: isize) -> Result<Value, Error> {
        self.node("transpose", |graph| {
            let (a, b) = (one_axis(graph, x, a)?, one_axis(graph, x, b)?);
            let mut order: Axes = (0..ty(graph, x)?.shape.rank()).collect();
            order.swap(a, b);
            graph.add(Op::Permute { order, x })
        })
    }

    /// Axis `i` of the result is axis `order[i]` of `x`.
    pub fn permute(&mut self, x: Value, order: &[isize]) -> Result<Value, Error> {
        self.node("permute", |graph| {
            let order = all_axes(graph, x, order)?;
            graph.add(Op::Permute { order, x })
        })
    }

    pub fn expand(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value, Error> {
        let shape = shape.into();
        self.op(Op::Expand { shape, x })
    }

    /// Elements `start..end` along one axis, as in Python: negative numbers count from the end, those outside are cut.
    pub fn slice(&mut self, x: Value, axis: isize, start: isize, end: isize) -> Result<Value, Error> {
        self.node("slice", |graph| {
            let axis = one_axis(graph, x, axis)?;
            let size = ty(graph, x)?.shape[axis];
            let place = |it: isize| match it {
                0.. => (it as usize).min(size),
                _ => size.saturating_sub(it.unsigned_abs()),
            };
            let (start, end) = (place(start), place(end));
            part(graph, x, axis, start, end.saturating_sub(start))
        })
    }

    /// Parts of the given sizes along one axis, which must add up to its size.
    pub fn split(&mut self, x: Value, axis: isize, sizes: &[usize]) -> Result<Vec<Value>, Error> {
        self.node("split", |graph| {
            let axis = one_axis(graph, x, axis)?;
            let whole = ty(graph, x)?.shape[axis];
            if sizes.iter().try_fold(0usize, |sum, &it| sum.checked_add(it)) != Some(whole) {
                let what = format!("parts of {sizes:?} do not make an axis of {whole}");
                return Err(Error::node(&*graph.origin(), what));
            }
            let mut start = 0;
            let mut next = |&size: &usize| {
                start += size;
                part(graph, x, axis, start - size, size)
            };
            sizes.iter().map(&mut next).collect()
        })
    }

    /// `value` around `x`: (before, after) for each axis.
    pub fn pad(&mut self, x: Value, sizes: &[(usize, usize)], value: f64) -> Result<Value, Error> {
        self.node("pad", |graph| {
            let dtype = ty(graph, x)?.dtype;
            let fill = graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, value)));
            let (before, after): (SmallVec<_>, SmallVec<_>) = sizes.iter().copied().unzip();
            graph.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill: Some(fill) })
        })
    }

    pub fn concat(&mut self, xs: &[Value], axis: isize) -> Result<Value, Error> {
        self.node("concat", |graph| {
            let Some(&first) = xs.first() else {
                return Err(Error::node(&*graph.origin(), "nothing to concatenate"));
            };
            let axis = one_axis(graph, first, axis)?;
            graph.add(Op::Concat { axis, xs: xs.into() })
        })
    }

    /// x[.., indices, ..] along one axis: the axes of `indices` take the place of `axis`.
    pub fn gather(&mut self, x: Value, axis: isize, indices: Value) -> Result<Value, Error> {
        self.node("gather", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::Gather { axis, x, indices })
        })
    }

    /// Along `axis`, the element that `indices` says at the same place. What torch calls gather.
    pub fn take_along(&mut self, x: Value, axis: isize, indices: Value) -> Result<Value, Error> {
        self.node("take_along", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::GatherElements { axis, x, indices })
        })
    }

    /// Row `ids[..]` of `table` [rows, width].
    pub fn embedding(&mut self, table: Value, ids: Value) -> Result<Value, Error> {
        self.node("embedding", |graph| graph.add(Op::Gather { axis: 0, x: table, indices: ids }))
    }
}

fn part(graph: &mut Graph, x: Value, axis: usize, start: usize, size: usize) -> Result<Value, Error> {
    let mut sizes = ty(graph, x)?.shape.clone();
    let (mut starts, steps) = (SmallVec::from_elem(0, sizes.rank()), SmallVec::from_elem(1, sizes.rank()));
    starts[axis] = start;
    sizes.0[axis] = size;
    graph.add(Op::Slice { starts, sizes, steps, x })
}
