//! Rules of matrix products and convolutions.

use smallvec::SmallVec;

use super::{Made, Reverse};
use crate::{
    error::Error,
    graph::{Op, Value, Window},
    shape::{Axes, Shape},
};

impl Reverse<'_> {
    pub fn product(&mut self, a: Value, b: Value, g: Value) -> Result<(), Error> {
        let (sa, sb) = (self.shape(a), self.shape(b));
        let (depth, rows) = (sa[sa.rank() - 1], if sa.rank() > 1 { sa[sa.rank() - 2] } else { 1 });
        let columns = if sb.rank() > 1 { sb[sb.rank() - 1] } else { 1 };
        let outer_a = &sa[..sa.rank().saturating_sub(2)];
        let outer_b = &sb[..sb.rank().saturating_sub(2)];
        let cut = usize::from(sa.rank() > 1) + usize::from(sb.rank() > 1);
        let own = self.shape(g);
        let outer = &own[..own.rank() - cut];
        let g = self.reshape(g, &[outer, &[rows, columns]].concat())?;
        let left = self.reshape(a, &[outer_a, &[rows, depth]].concat())?;
        let right = self.reshape(b, &[outer_b, &[depth, columns]].concat())?;
        self.give(a, |r| {
            let turned = r.turned(right)?;
            let part = r.add(Op::MatMul { a: g, b: turned })?;
            let part = r.sum_to(part, &[outer_a, &[rows, depth]].concat())?;
            r.reshape(part, &sa)
        })?;
        self.give(b, |r| {
            // One matrix for all of a batch: one product over all rows.
            let one = outer_b.iter().product::<usize>() == 1 && outer_a == outer;
            let (left, g) = match one {
                true => {
                    let all = outer.iter().product::<usize>() * rows;
                    (r.reshape(left, &[all, depth])?, r.reshape(g, &[all, columns])?)
                }
                false => (left, g),
            };
            let turned = r.turned(left)?;
            let part = r.add(Op::MatMul { a: turned, b: g })?;
            let part = if one { part } else { r.sum_to(part, &[outer_b, &[depth, columns]].concat())? };
            r.reshape(part, &sb)
        })
    }

    /// With the last two axes exchanged.
    pub fn turned(&mut self, x: Value) -> Made {
        let rank = self.shape(x).rank();
        let mut order: Axes = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        self.permute(x, &order)
    }

    pub fn conv(
        &mut self,
        window: &Window,
        groups: usize,
        [x, w]: [Value; 2],
        bias: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let (window, output) = (Box::new(window.clone()), Shape::new(&r.shape(x)[2..]));
            r.add(Op::ConvTranspose { window, groups, output, x: g, w, bias: None })
        })?;
        self.give(w, |r| r.kernel(window, groups, x, g, &r.shape(w)[2..]))?;
        self.bias(bias, g)
    }

    pub fn conv_transpose(
        &mut self,
        window: &Window,
        groups: usize,
        [x, w]: [Value; 2],
        bias: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let (positions, kernel) = (r.shape(x), r.shape(w));
            let spatial = positions.rank() - 2;
            let window = reaching(window, &r.shape(g)[2..], &kernel[2..], &positions[2..]);
            let mut part = r.add(Op::Conv { window: Box::new(window), groups, x: g, w, bias: None })?;
            for axis in 2..2 + spatial {
                part = r.cut(part, axis, 0, positions[axis])?;
            }
            Ok(part)
        })?;
        self.give(w, |r| r.kernel(window, groups, g, x, &r.shape(w)[2..]))?;
        self.bias(bias, g)
    }

    fn bias(&mut self, bias: Option<Value>, g: Value) -> Result<(), Error> {
        let Some(bias) = bias else { return Ok(()) };
        self.give(bias, |r| r.sum_but_channels(g))
    }

    /// Over all axes but the second.
    pub fn sum_but_channels(&mut self, x: Value) -> Made {
        let axes: Axes = (0..self.shape(x).rank()).filter(|it| *it != 1).collect();
        self.sum(x, &axes, false)
    }

    /// The derivative by a kernel that takes an `image` [n, groups c, ..] to `positions` [n, groups m, ..]: [groups m, c, `kernel`..].
    /// The image is convolved with the derivative by the positions, strides and dilations exchanged, batch and channels too.
    fn kernel(
        &mut self,
        window: &Window,
        groups: usize,
        image: Value,
        positions: Value,
        kernel: &[usize],
    ) -> Made {
        let (from, to) = (self.shape(image), self.shape(positions));
        let (batch, each, spatial) = (from[0], from[1] / groups, kernel.len());
        if from.contains(&0) || to.contains(&0) {
            let zero = self.number(self.ty(image).dtype, 0.0);
            return self.expand(zero, &[&[to[1], each], kernel].concat());
        }
        let swapped: Axes = [1, 0].into_iter().chain(2..2 + spatial).collect();
        let x = self.reshape(image, &[&[batch, groups, each], &from[2..]].concat())?;
        let x = self.permute(x, &[2, 1, 0].into_iter().chain(3..3 + spatial).collect::<Axes>())?;
        let x = self.reshape(x, &[&[each, groups * batch], &from[2..]].concat())?;
        let w = self.permute(positions, &swapped)?;
        let exchanged = Window {
            strides: window.dilations.clone(),
            dilations: window.strides.clone(),
            before: window.before.clone(),
            after: window.after.clone(),
        };
        let window = Box::new(reaching(&exchanged, &from[2..], &to[2..], kernel));
        let mut made = self.add(Op::Conv { window, groups, x, w, bias: None })?;
        for (axis, &size) in kernel.iter().enumerate() {
            made = self.cut(made, 2 + axis, 0, size)?;
        }
        self.permute(made, &swapped)
    }
}

/// The window, with as much padding behind the image that a kernel of `kernel` elements finds at least `positions`.
fn reaching(window: &Window, image: &[usize], kernel: &[usize], positions: &[usize]) -> Window {
    let after = |axis: usize| {
        let last = window.strides[axis] * (positions[axis] - 1);
        let end = last + window.dilations[axis] * (kernel[axis] - 1) + 1;
        end.saturating_sub(image[axis] + window.before[axis])
    };
    let after: SmallVec<[usize; 3]> = (0..image.len()).map(after).collect();
    Window { after, ..window.clone() }
}
