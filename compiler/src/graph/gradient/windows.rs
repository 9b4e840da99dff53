//! Rules of poolings.

use super::{Made, Reverse, refuse};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, PoolKind, Value, Window},
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// The most elements of a window whose largest is looked for: each is some nodes.
const MAX_TAPS: usize = 1024;
/// The most positions along one axis whose elements are counted.
const MAX_POSITIONS: usize = 1 << 24;

/// One spatial axis of a pooling.
#[derive(Clone, Copy)]
struct Along {
    size: usize,
    kernel: usize,
    positions: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Along {
    /// The first and the last position whose element `tap` lies in the image.
    fn inside(&self, tap: usize) -> Option<(usize, usize)> {
        let way = tap * self.dilation;
        let first = self.before.saturating_sub(way).div_ceil(self.stride);
        let last = (self.size + self.before).checked_sub(way + 1)? / self.stride;
        let last = last.min(self.positions.checked_sub(1)?);
        (first <= last).then_some((first, last))
    }

    /// Elements of the window at `position` that lie in the image, in the padded one if `padded`.
    fn count(&self, position: usize, padded: bool) -> usize {
        let start = position * self.stride;
        let (low, high) = match padded {
            true => (0, self.before + self.size + self.after),
            false => (self.before, self.before + self.size),
        };
        let first = low.saturating_sub(start).div_ceil(self.dilation);
        let end = high.saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        end.saturating_sub(first)
    }
}

impl Reverse<'_> {
    pub fn pool(
        &mut self,
        kind: PoolKind,
        window: &Window,
        kernel: &[usize],
        x: Value,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        let (image, made) = (self.shape(x), self.shape(y));
        let axes: Vec<Along> = (0..kernel.len())
            .map(|at| Along {
                size: image[2 + at],
                kernel: kernel[at],
                positions: made[2 + at],
                stride: window.strides[at],
                dilation: window.dilations[at],
                before: window.before[at],
                after: window.after[at],
            })
            .collect();
        self.give(x, |r| match kind {
            PoolKind::Max => r.largest(&axes, x, y, g),
            PoolKind::Average { count_padding } => {
                r.averaged(&axes, window, count_padding, kernel, (x, y), g)
            }
        })
    }

    /// Each window's share of `g` to its elements: a transposed convolution, planes as a batch.
    fn averaged(
        &mut self,
        axes: &[Along],
        window: &Window,
        padded: bool,
        kernel: &[usize],
        (x, y): (Value, Value),
        g: Value,
    ) -> Made {
        let (image, made, dtype) = (self.shape(x), self.shape(y), self.ty(x).dtype);
        let mut share = g;
        for (at, axis) in axes.iter().enumerate() {
            let counts: Vec<usize> = match axis.positions <= MAX_POSITIONS {
                true => (0..axis.positions).map(|it| axis.count(it, padded).max(1)).collect(),
                false => return Err(refuse(self.graph, y, "has too many positions to count")),
            };
            let mut shape = Shape::new(&vec![1; made.rank()]);
            let uniform = counts.iter().all(|it| *it == counts[0]);
            if !uniform {
                shape.0[2 + at] = counts.len();
            }
            let few = if uniform { &counts[..1] } else { &counts[..] };
            let values = few.iter().map(|it| Scalar::of(dtype, *it as f64));
            let counts = self.graph.add_constant(Tensor::from_scalars(Type { dtype, shape }, values));
            share = self.div(share, counts)?;
        }
        let planes = image[0] * image[1];
        let share = self.reshape(share, &[&[planes, 1], &made[2..]].concat())?;
        let one = self.number(dtype, 1.0);
        let ones = self.expand(one, &[&[1, 1], kernel].concat())?;
        let spread = self.add(Op::ConvTranspose {
            window: Box::new(window.clone()),
            groups: 1,
            output: Shape::new(&image[2..]),
            x: share,
            w: ones,
            bias: None,
        })?;
        self.reshape(spread, &image)
    }

    /// `g` to the first element of each window that no other exceeds.
    fn largest(&mut self, axes: &[Along], x: Value, y: Value, g: Value) -> Made {
        let (image, made) = (self.shape(x), self.shape(y));
        let taps = axes.iter().try_fold(1usize, |all, it| all.checked_mul(it.kernel));
        let taps = taps
            .filter(|it| *it <= MAX_TAPS)
            .ok_or_else(|| refuse(self.graph, y, &format!("has windows of more than {MAX_TAPS} elements")))?;
        let fill = self.graph.add_constant(Tensor::scalar(DType::Bool, Scalar::Int(0)));
        let mut found: Option<Value> = None;
        let mut whole: Option<Value> = None;
        for tap in 0..taps {
            let (mut rest, mut inside) = (tap, Vec::with_capacity(axes.len()));
            for axis in axes.iter().rev() {
                inside.push((rest % axis.kernel, axis.inside(rest % axis.kernel)));
                rest /= axis.kernel;
            }
            inside.reverse();
            // Along each axis: where in the image, which positions.
            let (mut starts, mut steps) = (Places::from_slice(&[0, 0]), vec![1, 1]);
            let (mut firsts, mut sizes) = (Places::from_slice(&[0, 0]), Shape::new(&made[..2]));
            for (axis, (tap, range)) in axes.iter().zip(&inside) {
                let Some((first, last)) = *range else { break };
                starts.push(first * axis.stride + tap * axis.dilation - axis.before);
                steps.push(axis.stride as i64);
                firsts.push(first);
                sizes.0.push(last - first + 1);
            }
            if sizes.rank() < made.rank() {
                continue;
            }
            let own = self.add(Op::Slice {
                starts: starts.clone(),
                sizes: sizes.clone(),
                steps: steps.iter().copied().collect(),
                x,
            })?;
            let best = self.part(y, &firsts, &sizes)?;
            let less = self.binary_of(BinaryOp::Lt, own, best)?;
            let hit = self.unary_of(UnaryOp::Not, less)?;
            let after: Places = (0..made.rank()).map(|it| made[it] - firsts[it] - sizes[it]).collect();
            let hit = match firsts.iter().chain(&after).all(|it| *it == 0) {
                true => hit,
                false => self.add(Op::Pad {
                    before: firsts.clone(),
                    after,
                    mode: PadMode::Constant,
                    x: hit,
                    fill: Some(fill),
                })?,
            };
            let first = match found {
                Some(found) => {
                    let open = self.unary_of(UnaryOp::Not, found)?;
                    self.binary_of(BinaryOp::And, hit, open)?
                }
                None => hit,
            };
            found = Some(match found {
                Some(found) => self.binary_of(BinaryOp::Or, found, hit)?,
                None => hit,
            });
            let taken = self.only(first, g)?;
            let taken = self.part(taken, &firsts, &sizes)?;
            let part = self.put(taken, &starts, &steps, &image)?;
            whole = Some(match whole {
                Some(whole) => self.binary_of(BinaryOp::Add, whole, part)?,
                None => part,
            });
        }
        match whole {
            Some(whole) => Ok(whole),
            None => {
                let zero = self.number(self.ty(x).dtype, 0.0);
                self.expand(zero, &image)
            }
        }
    }

    /// `sizes` elements from `starts` on.
    fn part(&mut self, mut x: Value, starts: &[usize], sizes: &[usize]) -> Made {
        for axis in 0..sizes.len() {
            x = self.cut(x, axis, starts[axis], sizes[axis])?;
        }
        Ok(x)
    }
}
