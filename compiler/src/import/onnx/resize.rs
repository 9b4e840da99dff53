//! Resize: along each axis a place of the result becomes places of the operand with weights, which are known now. One
//! place is a Gather (or a view, where the places are regular), a few are a weighted sum, many a matrix product.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::BinaryOp,
    shape::Type,
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// Up to here a weighted sum of gathers, from here on a matrix product.
const MAX_TAPS: usize = 4;
/// The most elements of one axis of the result: each has a list of its own while it is worked out.
const MAX_SIZE: usize = 1 << 21;
/// The most elements of the matrix for one axis.
const MAX_MATRIX: usize = 1 << 24;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

struct Spec<'a> {
    mode: Mode,
    place: &'a str,
    nearest: &'a str,
    cubic_a: f64,
    exclude_outside: bool,
    antialias: bool,
    extrapolation: f64,
}

/// One axis: its size before and after, their ratio, and the part of it that is looked at.
#[derive(Clone, Copy)]
struct Axis {
    from: usize,
    to: usize,
    scale: f64,
    crop: (f64, f64),
}

/// Places of the operand, clamped to it, and their weights; nothing for a place outside.
type Taps = Vec<(usize, f64)>;

pub fn resize(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let old = n.opset < 11;
    let spec = Spec {
        mode: mode(n)?,
        place: if old { "asymmetric" } else { n.text("coordinate_transformation_mode", "half_pixel")? },
        nearest: if old { "floor" } else { n.text("nearest_mode", "round_prefer_floor")? },
        cubic_a: n.float("cubic_coeff_a", -0.75)?,
        exclude_outside: n.flag("exclude_outside", false)?,
        antialias: n.flag("antialias", false)?,
        extrapolation: n.float("extrapolation_value", 0.0)?,
    };
    let shape = e.shape(x);
    let axes = match n.ints("axes")? {
        Some(axes) => axes.iter().map(|&it| n.axis(it, shape.rank())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.rank()).collect(),
    };
    let floats = |e: &Emit, at: usize| -> Result<Option<Vec<f64>>, Error> {
        let Some(value) = n.opt(at).filter(|it| e.shape(*it).count() > 0) else { return Ok(None) };
        let found = match e.literal(value) {
            Some(found) => found.to_f64(),
            None => n.literal(e, at)?.map(|it| it.to_f64()).unwrap_or_default(),
        };
        Ok(Some(found))
    };
    let (roi, scales, sizes) = match old {
        true => (None, floats(e, 1)?, None),
        false => (floats(e, 1)?, floats(e, 2)?, floats(e, 3)?),
    };
    let fits =
        |list: &Option<Vec<f64>>, times: usize| list.as_ref().is_none_or(|it| it.len() == times * axes.len());
    let cropped = spec.place == "tf_crop_and_resize";
    if !fits(&scales, 1) || !fits(&sizes, 1) || (cropped && (roi.is_none() || !fits(&roi, 2))) {
        return Err(n.error(format!("roi, scales or sizes do not fit {} axes", axes.len())));
    }
    let crop = |at: usize| match &roi {
        Some(roi) if cropped => (roi[at], roi[at + axes.len()]),
        _ => (0.0, 1.0),
    };
    let policy = n.text("keep_aspect_ratio_policy", "stretch")?;
    let mut changes = Vec::new();
    for (at, &axis) in axes.iter().enumerate() {
        let from = shape[axis];
        let (to, scale) = match (&sizes, &scales) {
            (Some(sizes), _) => {
                let to = sizes[at];
                match policy {
                    "stretch" => (to, to / from as f64),
                    policy => {
                        let ratios = axes.iter().zip(sizes).map(|(&axis, to)| to / shape[axis] as f64);
                        let scale = match policy {
                            "not_larger" => ratios.fold(f64::INFINITY, f64::min),
                            "not_smaller" => ratios.fold(0.0, f64::max),
                            other => {
                                return Err(n.error(format!("unknown keep_aspect_ratio_policy '{other}'")));
                            }
                        };
                        ((scale * from as f64 + 0.5).floor(), scale)
                    }
                }
            }
            (None, Some(scales)) => {
                let (low, high) = crop(at);
                ((from as f64 * (high - low) * scales[at]).floor(), scales[at])
            }
            (None, None) => return Err(n.error("neither scales nor sizes are given")),
        };
        if !(to >= 0.0 && to <= MAX_SIZE as f64) || (from == 0 && to > 0.0) {
            return Err(n.error(format!("axis {axis} of {shape} cannot have the size {to}")));
        }
        changes.push((axis, Axis { from, to: to as usize, scale, crop: crop(at) }));
    }
    apply(e, n, x, &spec, &changes)
}

/// Before Resize: scales only, places cut down.
pub fn upsample(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let scales = match n.floats("scales")? {
        Some(scales) => scales,
        None => n.literal(e, 1)?.map(|it| it.to_f64()).unwrap_or_default(),
    };
    if scales.len() != shape.rank() {
        return Err(n.error(format!("{} scales for {shape}", scales.len())));
    }
    let spec = Spec {
        mode: mode(n)?,
        place: "asymmetric",
        nearest: "floor",
        cubic_a: -0.75,
        exclude_outside: false,
        antialias: false,
        extrapolation: 0.0,
    };
    let mut changes = Vec::new();
    for (axis, &scale) in scales.iter().enumerate() {
        let to = (shape[axis] as f64 * scale).floor();
        if !(to >= 0.0 && to <= MAX_SIZE as f64) {
            return Err(n.error(format!("axis {axis} of {shape} cannot have the size {to}")));
        }
        changes.push((axis, Axis { from: shape[axis], to: to as usize, scale, crop: (0.0, 1.0) }));
    }
    apply(e, n, x, &spec, &changes)
}

fn mode(n: &Node) -> Result<Mode, Error> {
    Ok(match n.text("mode", "nearest")? {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" => Mode::Cubic,
        other => return Err(n.error(format!("unknown mode '{other}'"))),
    })
}

fn apply(e: &mut Emit, n: &Node, x: Value, spec: &Spec, changes: &[(usize, Axis)]) -> Made {
    let dtype = e.dtype(x);
    let mut y = x;
    if spec.mode != Mode::Nearest && dtype != DType::F64 {
        y = e.cast(y, DType::F32)?;
    }
    let mut outside = None;
    for &(axis, change) in changes {
        if change.from == change.to && change.scale == 1.0 && change.crop == (0.0, 1.0) {
            continue;
        }
        let taps = (0..change.to).map(|at| taps(n, spec, change, at)).collect::<Result<Vec<_>, _>>()?;
        if taps.iter().any(Vec::is_empty) {
            let ty = Type::new(DType::Bool, [change.to]);
            let hit = taps.iter().map(|it| crate::scalar::Scalar::Int(it.is_empty() as i64));
            let hit = e.constant(Tensor::from_scalars(ty, hit));
            let mut dims = vec![1; e.rank(y)];
            dims[axis] = change.to;
            let hit = e.reshape(hit, &dims[..])?;
            outside = Some(match outside {
                Some(so_far) => e.binary(BinaryOp::Or, so_far, hit)?,
                None => hit,
            });
        }
        y = along(e, n, y, axis, &taps)?;
    }
    if let Some(outside) = outside {
        let fill = e.scalar(e.dtype(y), spec.extrapolation);
        y = e.select(outside, fill, y)?;
    }
    e.cast(y, dtype)
}

/// Where in the operand place `at` of the result lies.
fn original(n: &Node, spec: &Spec, axis: Axis, at: usize) -> Result<f64, Error> {
    let (at, from, to, scale) = (at as f64, axis.from as f64, axis.to as f64, axis.scale);
    Ok(match spec.place {
        "half_pixel" => (at + 0.5) / scale - 0.5,
        "half_pixel_symmetric" => {
            let adjusted = to / (scale * from);
            from / 2.0 * (1.0 - adjusted) + (at + 0.5) / scale - 0.5
        }
        "pytorch_half_pixel" if to > 1.0 => (at + 0.5) / scale - 0.5,
        "pytorch_half_pixel" => 0.0,
        // The standard's reference takes the size before it is cut down to an integer.
        "align_corners" if to > 1.0 => at * (from - 1.0) / (from * scale - 1.0),
        "align_corners" => 0.0,
        "asymmetric" => at / scale,
        "tf_half_pixel_for_nn" => (at + 0.5) / scale,
        "tf_crop_and_resize" => {
            let (low, high) = axis.crop;
            match to > 1.0 {
                true => low * (from - 1.0) + at * (high - low) * (from - 1.0) / (to - 1.0),
                false => 0.5 * (low + high) * (from - 1.0),
            }
        }
        other => return Err(n.error(format!("unknown coordinate_transformation_mode '{other}'"))),
    })
}

fn taps(n: &Node, spec: &Spec, axis: Axis, at: usize) -> Result<Taps, Error> {
    let place = original(n, spec, axis, at)?;
    let last = axis.from as f64 - 1.0;
    if spec.place == "tf_crop_and_resize" && !(0.0..=last).contains(&place) {
        return Ok(vec![]);
    }
    let clamp = |at: f64| at.clamp(0.0, last) as usize;
    if spec.mode == Mode::Nearest {
        let low = place.floor();
        let whole = match spec.nearest {
            "round_prefer_floor" if place - low == 0.5 => low,
            "round_prefer_ceil" if place - low == 0.5 => low + 1.0,
            "round_prefer_floor" | "round_prefer_ceil" => place.round(),
            "floor" => low,
            "ceil" => place.ceil(),
            other => return Err(n.error(format!("unknown nearest_mode '{other}'"))),
        };
        return Ok(vec![(clamp(whole), 1.0)]);
    }
    // With antialias the kernel is as wide as the places of the result are apart.
    let squeeze = if spec.antialias { axis.scale.min(1.0) } else { 1.0 };
    let radius = if spec.mode == Mode::Cubic { 2.0 } else { 1.0 } / squeeze;
    let (first, end) = ((place - radius).floor() + 1.0, (place + radius).ceil());
    let mut taps = Taps::new();
    if (end - first).is_nan() || end - first > MAX_SIZE as f64 {
        return Err(n.error("a scale is too small"));
    }
    for step in 0..(end - first).max(1.0) as usize {
        let at = first + step as f64;
        let weight = weight(spec, (at - place) * squeeze);
        if weight == 0.0 || (spec.exclude_outside && !(0.0..=last).contains(&at)) {
            continue;
        }
        match taps.last_mut() {
            Some(tap) if tap.0 == clamp(at) => tap.1 += weight,
            _ => taps.push((clamp(at), weight)),
        }
    }
    let sum: f64 = taps.iter().map(|it| it.1).sum();
    if taps.is_empty() || sum == 0.0 {
        return Ok(vec![(clamp(place.round()), 1.0)]);
    }
    taps.iter_mut().for_each(|it| it.1 /= sum);
    Ok(taps)
}

fn weight(spec: &Spec, away: f64) -> f64 {
    let (away, a) = (away.abs(), spec.cubic_a);
    match spec.mode {
        Mode::Nearest | Mode::Linear => (1.0 - away).max(0.0),
        Mode::Cubic if away <= 1.0 => ((a + 2.0) * away - (a + 3.0)) * away * away + 1.0,
        Mode::Cubic if away < 2.0 => ((a * away - 5.0 * a) * away + 8.0 * a) * away - 4.0 * a,
        Mode::Cubic => 0.0,
    }
}

fn along(e: &mut Emit, n: &Node, x: Value, axis: usize, taps: &[Taps]) -> Made {
    let most = taps.iter().map(Vec::len).max().unwrap_or(0);
    let (rank, from) = (e.rank(x), e.shape(x)[axis]);
    if most <= 1 {
        let places: Vec<usize> = taps.iter().map(|it| it.first().map_or(0, |it| it.0)).collect();
        return gather(e, x, axis, &places);
    }
    let dtype = e.dtype(x);
    if most > MAX_TAPS {
        if taps.len().checked_mul(from).is_none_or(|it| it > MAX_MATRIX) {
            return Err(n.unsupported("an antialiased axis of this size"));
        }
        let mut matrix = vec![0.0; taps.len() * from];
        for (to, row) in taps.iter().enumerate() {
            row.iter().for_each(|&(at, weight)| matrix[at * taps.len() + to] += weight);
        }
        let matrix = e.floats(dtype, &matrix);
        let matrix = e.reshape(matrix, [from, taps.len()])?;
        let mut order: Vec<usize> = (0..rank).filter(|it| *it != axis).chain([axis]).collect();
        let y = e.permute(x, &order)?;
        let y = e.matmul(y, matrix)?;
        order = (0..rank - 1).collect();
        order.insert(axis, rank - 1);
        return e.permute(y, &order);
    }
    let mut sum = None;
    for tap in 0..most {
        let places: Vec<usize> =
            taps.iter().map(|it| it.get(tap).or(it.first()).map_or(0, |it| it.0)).collect();
        let weights: Vec<f64> = taps.iter().map(|it| it.get(tap).map_or(0.0, |it| it.1)).collect();
        let weights = e.floats(dtype, &weights);
        let mut dims = vec![1; rank];
        dims[axis] = taps.len();
        let weights = e.reshape(weights, &dims[..])?;
        let part = gather(e, x, axis, &places)?;
        let part = e.binary(BinaryOp::Mul, part, weights)?;
        sum = Some(match sum {
            Some(sum) => e.binary(BinaryOp::Add, sum, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| n.error("an axis without places"))
}

/// Elements `places` along an axis: as a view where each element is repeated, or where steps are equal.
fn gather(e: &mut Emit, x: Value, axis: usize, places: &[usize]) -> Made {
    let shape = e.shape(x);
    let from = shape[axis];
    let times = places.len().checked_div(from).unwrap_or(0);
    if times > 0
        && places.len() == from * times
        && places.iter().enumerate().all(|(at, &it)| it == at / times)
    {
        let mut wide = shape.to_vec();
        wide.insert(axis + 1, 1);
        let y = e.reshape(x, &wide[..])?;
        wide[axis + 1] = times;
        let y = e.expand(y, &wide[..])?;
        wide.remove(axis + 1);
        wide[axis] = places.len();
        return e.reshape(y, &wide[..]);
    }
    if let [first, second, ..] = *places
        && second > first
        && places.windows(2).all(|it| it[1] > it[0] && it[1] - it[0] == second - first)
    {
        return e.slice(x, axis, first, places.len(), (second - first) as i64);
    }
    let indices = places.iter().map(|&it| it as i64).collect::<Vec<_>>();
    let indices = e.ints(&indices);
    e.add(Op::Gather { axis, x, indices })
}
