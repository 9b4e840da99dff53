//! Images read at computed places between their elements.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
};

type Made = Result<Value, Error>;

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Where along one axis elements are read, and with which weight: the place (I32, in range), the weight, and whether there
/// is such an element (`None`: always).
#[derive(Clone, Copy)]
pub struct Tap {
    pub at: Value,
    pub weight: Option<Value>,
    pub there: Option<Value>,
}

/// x [n, c, spatial..] at grid [n, out.., d]: [n, c, out..]. Work: one read for each tap, 2^d or 4^d of them.
pub fn grid_sample(e: &mut Emit, n: &Node) -> Made {
    let (x, grid) = (n.input(0)?, n.input(1)?);
    let (shape, places, dtype) = (e.shape(x), e.shape(grid), e.dtype(x));
    let d = shape.rank().saturating_sub(2);
    if d == 0 || places.rank() != shape.rank() || places.last() != Some(&d) || places[0] != shape[0] {
        return Err(n.error(format!("a grid of shape {places} for {shape}")));
    }
    let padding = match n.text("padding_mode", "zeros")? {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(n.error(format!("unknown padding_mode '{other}'"))),
    };
    let mode = match n.text("mode", "linear")? {
        mode @ ("nearest" | "linear" | "cubic") => mode,
        "bilinear" => "linear",
        "bicubic" => "cubic",
        other => return Err(n.error(format!("unknown mode '{other}'"))),
    };
    let align = n.flag("align_corners", false)?;
    if shape[2..].contains(&0) {
        return Err(n.error(format!("there is nothing to read in {shape}")));
    }
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let grid = e.cast(grid, wide)?;
    let out = places[1..=d].to_vec();
    let each = [&[shape[0]], &out[..]].concat();
    let mut axes = Vec::new();
    for axis in 0..d {
        // The innermost axis stands first.
        let own = e.slice(grid, d + 1, d - 1 - axis, 1, 1)?;
        let own = e.reshape(own, &each[..])?;
        axes.push(taps(e, own, shape[2 + axis], mode, padding, align)?);
    }
    let y = at_taps(e, n, x, &axes, BinaryOp::Add)?;
    e.cast(y, dtype)
}

/// The two elements around places along an axis of `size`, those outside of it not there.
pub fn linear(e: &mut Emit, place: Value, size: usize) -> Result<Vec<Tap>, Error> {
    taps_around(e, place, size as f64, "linear", Padding::Zeros, false)
}

/// The taps along an axis of `size` for places `own` from -1 to 1.
fn taps(
    e: &mut Emit,
    own: Value,
    size: usize,
    mode: &str,
    padding: Padding,
    align: bool,
) -> Result<Vec<Tap>, Error> {
    let size = size as f64;
    let own = e.with(BinaryOp::Add, own, 1.0)?;
    let own = match align {
        true => e.with(BinaryOp::Mul, own, (size - 1.0) / 2.0)?,
        false => {
            let own = e.with(BinaryOp::Mul, own, size)?;
            let own = e.with(BinaryOp::Sub, own, 1.0)?;
            e.with(BinaryOp::Mul, own, 0.5)?
        }
    };
    let own = if mode == "nearest" { e.unary(UnaryOp::Round, own)? } else { own };
    taps_around(e, own, size, mode, padding, align)
}

/// The same for places counted in elements.
fn taps_around(
    e: &mut Emit,
    own: Value,
    size: f64,
    mode: &str,
    padding: Padding,
    align: bool,
) -> Result<Vec<Tap>, Error> {
    let own = fold_back(e, own, size, padding, align)?;
    if mode == "nearest" {
        return Ok(vec![tap(e, own, None, size, padding, align)?]);
    }
    let below = e.unary(UnaryOp::Floor, own)?;
    let t = e.binary(BinaryOp::Sub, own, below)?;
    let (first, weights) = match mode {
        "linear" => {
            let rest = rest_of(e, t)?;
            (0, vec![rest, t])
        }
        _ => (-1, cubic(e, t)?),
    };
    let tap = |(k, weight): (usize, Value)| {
        let place = e.with(BinaryOp::Add, below, (first + k as i64) as f64)?;
        tap(e, place, Some(weight), size, padding, align)
    };
    weights.into_iter().enumerate().map(tap).collect()
}

fn tap(
    e: &mut Emit,
    place: Value,
    weight: Option<Value>,
    size: f64,
    padding: Padding,
    align: bool,
) -> Result<Tap, Error> {
    let place = fold_back(e, place, size, padding, align)?;
    let there = match padding {
        Padding::Zeros => {
            let (low, high) = (e.with(BinaryOp::Ge, place, 0.0)?, e.with(BinaryOp::Lt, place, size)?);
            Some(e.binary(BinaryOp::And, low, high)?)
        }
        Padding::Border | Padding::Reflection => None,
    };
    Ok(Tap { at: inside(e, place, size)?, weight, there })
}

/// A float place clamped to an axis, as I32.
fn inside(e: &mut Emit, place: Value, size: f64) -> Made {
    let place = e.with(BinaryOp::Max, place, 0.0)?;
    let place = e.with(BinaryOp::Min, place, size - 1.0)?;
    let place = e.cast(place, DType::I32)?;
    // What is no number becomes 0 on some targets and anything on others; this also states the range.
    let place = e.with(BinaryOp::Max, place, 0.0)?;
    e.with(BinaryOp::Min, place, size - 1.0)
}

/// Places outside an axis brought back into it, as the padding says.
fn fold_back(e: &mut Emit, place: Value, size: f64, padding: Padding, align: bool) -> Made {
    let place = match padding {
        Padding::Zeros => return Ok(place),
        Padding::Border => place,
        Padding::Reflection => {
            let (low, way) = if align { (0.0, size - 1.0) } else { (-0.5, size) };
            if way == 0.0 {
                return e.with(BinaryOp::Mul, place, 0.0);
            }
            let x = e.with(BinaryOp::Sub, place, low)?;
            let x = e.unary(UnaryOp::Abs, x)?;
            let x = e.with(BinaryOp::Rem, x, 2.0 * way)?;
            let back = e.scalar(e.dtype(x), 2.0 * way);
            let back = e.binary(BinaryOp::Sub, back, x)?;
            let x = e.binary(BinaryOp::Min, x, back)?;
            e.with(BinaryOp::Add, x, low)?
        }
    };
    let place = e.with(BinaryOp::Max, place, 0.0)?;
    e.with(BinaryOp::Min, place, size - 1.0)
}

/// 1 - t
fn rest_of(e: &mut Emit, t: Value) -> Made {
    let one = e.scalar(e.dtype(t), 1.0);
    e.binary(BinaryOp::Sub, one, t)
}

/// Weights of the four neighbours of a place `t` behind the second: Keys' cubic convolution with a = -0.75.
fn cubic(e: &mut Emit, t: Value) -> Result<Vec<Value>, Error> {
    const A: f64 = -0.75;
    let poly = |e: &mut Emit, x: Value, by: [f64; 4]| -> Made {
        let mut y = e.with(BinaryOp::Mul, x, by[0])?;
        for add in &by[1..3] {
            y = e.with(BinaryOp::Add, y, *add)?;
            y = e.binary(BinaryOp::Mul, y, x)?;
        }
        e.with(BinaryOp::Add, y, by[3])
    };
    let (near, far) = ([A + 2.0, -(A + 3.0), 0.0, 1.0], [A, -5.0 * A, 8.0 * A, -4.0 * A]);
    let back = rest_of(e, t)?;
    let (out, beyond) = (e.with(BinaryOp::Add, t, 1.0)?, e.with(BinaryOp::Add, back, 1.0)?);
    Ok(vec![poly(e, out, far)?, poly(e, t, near)?, poly(e, back, near)?, poly(e, beyond, far)?])
}

/// x [n, c, spatial..] at each combination of taps [n, out..], times its weights, all of them joined: [n, c, out..], in f32 at
/// least where there are weights.
pub fn at_taps(e: &mut Emit, n: &Node, x: Value, axes: &[Vec<Tap>], join: BinaryOp) -> Made {
    let shape = e.shape(x);
    let spatial: usize = shape[2..].iter().product();
    if i32::try_from(spatial).is_err() {
        return Err(n.error(format!("an image of {spatial} elements")));
    }
    let wide = axes.iter().find_map(|it| it[0].weight).map(|it| e.dtype(it));
    let flat = e.reshape(x, [shape[0], shape[1], spatial])?;
    let flat = e.permute(flat, &[0, 2, 1])?;
    let mut sum: Option<Value> = None;
    for number in 0..axes.iter().map(Vec::len).product() {
        let (mut rest, mut place, mut weight, mut there) = (number, None, None, None);
        for (axis, taps) in axes.iter().enumerate() {
            let tap = &taps[rest % taps.len()];
            rest /= taps.len();
            place = Some(match place {
                None => tap.at,
                Some(place) => {
                    let place = e.with(BinaryOp::Mul, place, shape[2 + axis] as f64)?;
                    e.binary(BinaryOp::Add, place, tap.at)?
                }
            });
            weight = joined(e, BinaryOp::Mul, weight, tap.weight)?;
            there = joined(e, BinaryOp::And, there, tap.there)?;
        }
        let place = place.ok_or_else(|| n.error("an image without spatial axes"))?;
        let out = e.shape(place).to_vec();
        let indices = e.reshape(place, &[&out[..], &[1]].concat()[..])?;
        // [n, out.., c]
        let mut read = e.add(Op::GatherNd { batch: 1, x: flat, indices })?;
        if let Some(wide) = wide {
            read = e.cast(read, wide)?;
        }
        if let Some(there) = there {
            let there = e.reshape(there, &[&e.shape(there)[..], &[1]].concat()[..])?;
            let zero = e.scalar(e.dtype(read), 0.0);
            read = e.select(there, read, zero)?;
        }
        if let Some(weight) = weight {
            let weight = e.reshape(weight, &[&e.shape(weight)[..], &[1]].concat()[..])?;
            read = e.binary(BinaryOp::Mul, read, weight)?;
        }
        sum = joined(e, join, sum, Some(read))?;
    }
    let sum = sum.ok_or_else(|| n.error("an image without spatial axes"))?;
    let rank = e.rank(sum);
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    e.permute(sum, &order)
}

/// Both by `op`, where there are both.
pub fn joined(
    e: &mut Emit,
    op: BinaryOp,
    a: Option<Value>,
    b: Option<Value>,
) -> Result<Option<Value>, Error> {
    match (a, b) {
        (Some(a), Some(b)) => e.binary(op, a, b).map(Some),
        (a, b) => Ok(a.or(b)),
    }
}

/// theta [n, d, d + 1] at every place of an image of operand 1's spatial size: [n, spatial.., d].
pub fn affine_grid(e: &mut Emit, n: &Node) -> Made {
    let theta = n.input(0)?;
    let size = n.literal_shape(e, 1)?.ok_or_else(|| n.error("the size is missing"))?;
    let (d, dtype) = (size.rank().saturating_sub(2), e.dtype(theta));
    if d == 0 || *e.shape(theta) != [size[0], d, d + 1] {
        return Err(n.error(format!("theta of shape {} for an image of {size}", e.shape(theta))));
    }
    let align = n.flag("align_corners", false)?;
    let count = size[2..].iter().try_fold(1usize, |all, it| all.checked_mul(*it));
    let count = count.ok_or_else(|| n.error("the size is too large"))?;
    // Coordinates of the innermost axis stand first, 1 last.
    let mut sum: Option<Value> = None;
    for axis in 0..=d {
        let factor = e.slice(theta, 2, axis, 1, 1)?;
        let factor = e.reshape(factor, [size[0], 1, d])?;
        let term = match d.checked_sub(axis + 1) {
            None => factor,
            Some(own) => {
                let dim = size[2 + own];
                let place = e.iota(dtype, dim, own, d)?;
                let place = match align {
                    true => {
                        let step = if dim > 1 { 2.0 / (dim as f64 - 1.0) } else { 0.0 };
                        let place = e.with(BinaryOp::Mul, place, step)?;
                        e.with(BinaryOp::Sub, place, 1.0)?
                    }
                    false => {
                        let place = e.with(BinaryOp::Mul, place, 2.0)?;
                        let place = e.with(BinaryOp::Add, place, 1.0 - dim as f64)?;
                        e.with(BinaryOp::Div, place, dim as f64)?
                    }
                };
                let place = e.expand(place, &size[2..])?;
                let place = e.reshape(place, [1, count, 1])?;
                e.binary(BinaryOp::Mul, place, factor)?
            }
        };
        sum = joined(e, BinaryOp::Add, sum, Some(term))?;
    }
    let sum = sum.ok_or_else(|| n.error("an image without spatial axes"))?;
    e.reshape(sum, &[&[size[0]], &size[2..], &[d]].concat()[..])
}
