//! Ops with windows over one to three spatial axes. All are seen as three: missing ones stand in front, of size 1.

use std::{num::Wrapping, ops::Range};

use super::contract::Number;
use crate::{
    graph::{PoolKind, Window},
    scalar::{ReduceOp, Scalar},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// One spatial axis: windows step over an image of `size` elements.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    kernel: usize,
    positions: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    /// Where element `tap` of the window at `position` lies in the image; outside it may be negative.
    fn at(&self, position: usize, tap: usize) -> i64 {
        (position * self.stride + tap * self.dilation) as i64 - self.before as i64
    }

    /// Positions whose element `tap` lies in the image, each with its place there.
    fn inside(&self, tap: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let axis = *self;
        (0..axis.positions).filter_map(move |position| {
            let at = usize::try_from(axis.at(position, tap)).ok()?;
            (at < axis.size).then_some((position, at))
        })
    }
}

type Axes = [Axis; 3];

fn axes(window: &Window, image: &[usize], kernel: &[usize], positions: &[usize]) -> Axes {
    std::array::from_fn(|at| match (at + image.len()).checked_sub(3) {
        Some(own) => Axis {
            size: image[own],
            kernel: kernel[own],
            positions: positions[own],
            stride: window.strides[own],
            dilation: window.dilations[own],
            before: window.before[own],
            after: window.after[own],
        },
        None => Axis { size: 1, kernel: 1, positions: 1, stride: 1, dilation: 1, before: 0, after: 0 },
    })
}

fn volume(axes: &Axes, of: fn(&Axis) -> usize) -> usize {
    axes.iter().map(of).product()
}

/// Calls `see` with position and place in the image wherever element `tap` of a window lies inside, both row-major.
fn pairs(axes: &Axes, tap: [usize; 3], see: &mut impl FnMut(usize, usize)) {
    let [z, y, x] = axes;
    for (pz, iz) in z.inside(tap[0]) {
        for (py, iy) in y.inside(tap[1]) {
            for (px, ix) in x.inside(tap[2]) {
                see((pz * y.positions + py) * x.positions + px, (iz * y.size + iy) * x.size + ix);
            }
        }
    }
}

/// Every element of the window, with its row-major number.
fn taps(axes: &Axes) -> impl Iterator<Item = (usize, [usize; 3])> + use<> {
    let [z, y, x] = axes.map(|it| it.kernel);
    (0..z * y * x).map(move |at| (at, [at / x / y, at / x % y, at % x]))
}

pub fn conv(
    window: &Window,
    groups: usize,
    ty: &Type,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    match ty.dtype.is_float() {
        true => forward::<f64>(window, groups, ty, x, w, bias),
        false => forward::<Wrapping<i64>>(window, groups, ty, x, w, bias),
    }
}

fn forward<T: Number>(
    window: &Window,
    groups: usize,
    ty: &Type,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let axes = axes(window, &x.shape()[2..], &w.shape()[2..], &ty.shape[2..]);
    let (image, kernel) = (volume(&axes, |it| it.size), volume(&axes, |it| it.kernel));
    let positions = volume(&axes, |it| it.positions);
    let (features, channels) = (ty.shape[1], x.shape()[1]);
    let each = channels / groups;
    let (x, w) = (T::all(x), T::all(w));
    let mut sums = with_bias::<T>(ty, bias);
    for (plane, sums) in sums.chunks_exact_mut(positions.max(1)).enumerate() {
        let (n, m) = (plane / features, plane % features);
        let group = m / (features / groups);
        for c in 0..each {
            let x = &x[(n * channels + group * each + c) * image..][..image];
            for (tap, at) in taps(&axes) {
                let factor = w[(m * each + c) * kernel + tap];
                pairs(&axes, at, &mut |position, place| sums[position] += factor * x[place]);
            }
        }
    }
    T::tensor(ty, sums)
}

pub fn conv_transpose(
    window: &Window,
    groups: usize,
    ty: &Type,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    match ty.dtype.is_float() {
        true => transposed::<f64>(window, groups, ty, x, w, bias),
        false => transposed::<Wrapping<i64>>(window, groups, ty, x, w, bias),
    }
}

/// What the forward convolution reads is written here: the result is its image, `x` has its positions.
fn transposed<T: Number>(
    window: &Window,
    groups: usize,
    ty: &Type,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let axes = axes(window, &ty.shape[2..], &w.shape()[2..], &x.shape()[2..]);
    let (image, kernel) = (volume(&axes, |it| it.size), volume(&axes, |it| it.kernel));
    let positions = volume(&axes, |it| it.positions);
    let (features, channels) = (ty.shape[1], x.shape()[1]);
    let (each, made) = (channels / groups, features / groups);
    let (x, w) = (T::all(x), T::all(w));
    let mut sums = with_bias::<T>(ty, bias);
    for (plane, sums) in sums.chunks_exact_mut(image.max(1)).enumerate() {
        let (n, m) = (plane / features, plane % features);
        for c in m / made * each..(m / made + 1) * each {
            let x = &x[(n * channels + c) * positions..][..positions];
            for (tap, at) in taps(&axes) {
                let factor = w[(c * made + m % made) * kernel + tap];
                pairs(&axes, at, &mut |position, place| sums[place] += factor * x[position]);
            }
        }
    }
    T::tensor(ty, sums)
}

fn with_bias<T: Number>(ty: &Type, bias: Option<&Tensor>) -> Vec<T> {
    let inner: usize = ty.shape[2..].iter().product();
    match bias {
        None => vec![T::default(); ty.shape.count()],
        Some(bias) => {
            let bias = T::all(bias);
            let planes = (0..ty.shape[0] * ty.shape[1]).map(|plane| bias[plane % bias.len()]);
            planes.flat_map(|it| std::iter::repeat_n(it, inner)).collect()
        }
    }
}

/// A window wholly in the padding: the largest of no elements is the smallest value, their average NaN.
pub fn pool(kind: PoolKind, window: &Window, kernel: &Shape, ty: &Type, x: &Tensor) -> Tensor {
    let axes = axes(window, &x.shape()[2..], kernel, &ty.shape[2..]);
    let [az, ay, ax] = &axes;
    let mut out: Vec<Scalar> = Vec::with_capacity(ty.shape.count());
    for plane in 0..ty.shape[0] * ty.shape[1] {
        let first = plane * volume(&axes, |it| it.size);
        super::places(&[az.positions, ay.positions, ax.positions], |at| {
            let z = covered(az, at[0]);
            let places = z.flat_map(|z| {
                covered(ay, at[1])
                    .flat_map(move |y| covered(ax, at[2]).map(move |x| (z * ay.size + y) * ax.size + x))
            });
            let values = places.map(|place| x.get(first + place));
            out.push(match kind {
                PoolKind::Max => values.fold(ReduceOp::Max.identity(ty.dtype), |most, it| {
                    ReduceOp::Max.combine().eval(ty.dtype, most, it)
                }),
                PoolKind::Average { count_padding } => {
                    let (sum, count) =
                        values.fold((0.0, 0), |(sum, count), it| (sum + it.as_f64(), count + 1));
                    let padded = || [0, 1, 2].map(|axis| in_padded(&axes[axis], at[axis])).iter().product();
                    Scalar::Float(sum / if count_padding { padded() } else { count } as f64)
                }
            });
        });
    }
    Tensor::from_scalars(ty.clone(), out)
}

/// Places of the image that the window at `position` covers.
fn covered(axis: &Axis, position: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    let axis = *axis;
    let taps: Range<usize> = 0..axis.kernel;
    taps.filter_map(move |tap| usize::try_from(axis.at(position, tap)).ok().filter(|&at| at < axis.size))
}

/// Elements of the window at `position` that lie in the padded image.
fn in_padded(axis: &Axis, position: usize) -> usize {
    let end = (axis.size + axis.after) as i64;
    (0..axis.kernel).filter(|&tap| axis.at(position, tap) < end).count()
}
