//! Operators that move elements or state sizes.

use smallvec::SmallVec;

use super::{node::Node, tensor::MAX_SPARSE_BYTES};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, Steps, Value},
    import::emit::Emit,
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// The most elements that a Range or NonZero may make.
const MAX_MADE: usize = 1 << 24;

pub fn shape(e: &mut Emit, n: &Node) -> Made {
    let dims: Vec<i64> = e.shape(n.input(0)?).iter().map(|&it| it as i64).collect();
    let rank = dims.len() as i64;
    let at = |raw: i64| if raw < 0 { raw.saturating_add(rank) } else { raw }.clamp(0, rank) as usize;
    let (start, end) = (at(n.int("start", 0)?), at(n.int("end", rank)?));
    Ok(e.ints(&dims[start..end.max(start)]))
}

pub fn size(e: &mut Emit, n: &Node) -> Made {
    let count = e.shape(n.input(0)?).count();
    Ok(e.scalar(DType::I64, count as f64))
}

pub fn reshape(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let from = e.shape(x);
    let dims = n.ints_at(e, "shape", 5, 1)?.ok_or_else(|| n.error("the shape is missing"))?;
    let copy = !n.flag("allowzero", false)?;
    let mut to = Vec::with_capacity(dims.len());
    let mut open = None;
    for (axis, &dim) in dims.iter().enumerate() {
        to.push(match dim {
            0 if copy => *from
                .get(axis)
                .ok_or_else(|| n.error(format!("{dims:?} copies an axis that {from} has not")))?,
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            _ => n.size(dim)?,
        });
    }
    if let Some(axis) = open {
        let rest = Shape::new(&to).checked_count().unwrap_or(0);
        let count = from.count();
        to[axis] = match count.checked_rem(rest) {
            Some(0) => count / rest,
            _ => return Err(n.error(format!("{from} cannot take the shape {dims:?}"))),
        };
    }
    e.reshape(x, &to[..])
}

pub fn flatten(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axis = match n.int("axis", 1)? {
        raw if raw < 0 => n.axis(raw, shape.rank())?,
        raw => n.axis(raw, shape.rank() + 1)?,
    };
    e.reshape(x, [shape[..axis].iter().product(), shape[axis..].iter().product()])
}

pub fn transpose(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let rank = e.rank(x);
    let order = match n.ints("perm")? {
        Some(order) => order.iter().map(|&it| n.axis(it, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    e.permute(x, &order)
}

pub fn squeeze(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axes = match n.ints_at(e, "axes", 13, 1)? {
        Some(axes) => n.axes(&axes, shape.rank())?,
        None => (0..shape.rank()).filter(|&it| shape[it] == 1).collect(),
    };
    if let Some(&axis) = axes.iter().find(|it| shape[**it] != 1) {
        return Err(n.error(format!("axis {axis} of {shape} is not 1")));
    }
    let left: Shape = (0..shape.rank()).filter(|it| !axes.contains(it)).map(|it| shape[it]).collect();
    e.reshape(x, left)
}

pub fn unsqueeze(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axes = n.ints_at(e, "axes", 13, 1)?.ok_or_else(|| n.error("the axes are missing"))?;
    let rank = shape.rank() + axes.len();
    let axes = n.axes(&axes, rank)?;
    let mut old = shape.iter();
    let wide: Shape =
        (0..rank).map(|it| if axes.contains(&it) { 1 } else { *old.next().unwrap_or(&1) }).collect();
    e.reshape(x, wide)
}

pub fn expand(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let to = n.literal_shape(e, 1)?.ok_or_else(|| n.error("the shape is missing"))?;
    let from = e.shape(x);
    let full = from.broadcast(&to).ok_or_else(|| n.error(format!("{from} does not broadcast to {to}")))?;
    e.expand(x, full)
}

pub fn tile(e: &mut Emit, n: &Node) -> Made {
    if n.opset < 6 {
        return Err(n.unsupported("repeats along one axis, as before opset 6"));
    }
    let x = n.input(0)?;
    let shape = e.shape(x);
    let repeats = n.literal_shape(e, 1)?.ok_or_else(|| n.error("the repeats are missing"))?;
    if repeats.rank() != shape.rank() {
        return Err(n.error(format!("{} repeats for {} axes", repeats.rank(), shape.rank())));
    }
    let (mut split, mut wide, mut merged) = (vec![], vec![], vec![]);
    for (&dim, &times) in shape.iter().zip(repeats.iter()) {
        if times != 1 && dim != 1 {
            split.push(1);
            wide.push(times);
        }
        split.push(dim);
        wide.push(if dim == 1 { times } else { dim });
        merged.push(dim.checked_mul(times).ok_or_else(|| n.error("the result is too large"))?);
    }
    let x = e.reshape(x, &split[..])?;
    let x = e.expand(x, &wide[..])?;
    e.reshape(x, &merged[..])
}

pub fn slice(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let rank = shape.rank();
    let (starts, ends) = (n.ints_at(e, "starts", 10, 1)?, n.ints_at(e, "ends", 10, 2)?);
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return Err(n.error("starts and ends are missing"));
    };
    let axes = match n.ints_at(e, "axes", 10, 3)? {
        Some(axes) => axes,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = if n.opset < 10 { None } else { n.literal_ints(e, 4)? };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(n.error("starts, ends, axes and steps differ in length"));
    }
    n.axes(&axes, rank)?;
    let mut from: Places = SmallVec::from_elem(0, rank);
    let mut by: Steps = SmallVec::from_elem(1, rank);
    let mut sizes = shape.clone();
    for at in 0..starts.len() {
        let axis = n.axis(axes[at], rank)?;
        let (dim, step) = (shape[axis] as i64, steps[at]);
        let place = |raw: i64| if raw < 0 { raw.saturating_add(dim) } else { raw };
        let (start, end) = match step {
            0 => return Err(n.error("a step is 0")),
            1.. => (place(starts[at]).clamp(0, dim), place(ends[at]).clamp(0, dim)),
            _ => (place(starts[at]).clamp(-1, dim - 1), place(ends[at]).clamp(-1, dim - 1)),
        };
        let way = if step > 0 { end - start } else { start - end };
        let size = (way.max(0) as u64).div_ceil(step.unsigned_abs()) as usize;
        sizes.0[axis] = size;
        from[axis] = if size == 0 { 0 } else { start as usize };
        by[axis] = if size <= 1 { 1 } else { step };
    }
    if sizes == shape && by.iter().all(|&it| it == 1) {
        return Ok(x);
    }
    e.add(Op::Slice { starts: from, sizes, steps: by, x })
}

pub fn split(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axis = n.axis(n.int("axis", 0)?, shape.rank())?;
    let total = shape[axis];
    if n.opset < 2 && n.opt(1).is_some() {
        return Err(n.unsupported("sizes as an operand, as in opset 1"));
    }
    let parts = match n.ints_at(e, "split", 13, 1)? {
        Some(sizes) => sizes.into_iter().map(|it| n.size(it)).collect::<Result<Vec<_>, _>>()?,
        None => {
            let count = n.size(n.int("num_outputs", n.outputs.len() as i64)?)?;
            if count == 0 || count > n.outputs.len().max(1) {
                return Err(n.error(format!("{count} parts for {} outputs", n.outputs.len())));
            }
            // The last part is smaller where the axis does not divide.
            let part = total.div_ceil(count);
            (0..count).map(|it| part.min(total.saturating_sub(it * part))).collect()
        }
    };
    let sum = parts.iter().try_fold(0usize, |sum, it| sum.checked_add(*it));
    if sum != Some(total) {
        return Err(n.error(format!("parts {parts:?} of an axis of {total}")));
    }
    let mut start = 0;
    (parts.into_iter())
        .map(|size| {
            let part = e.slice(x, axis, if size == 0 { 0 } else { start }, size, 1);
            start += size;
            part
        })
        .collect()
}

pub fn concat(e: &mut Emit, n: &Node) -> Made {
    let all = n.all()?;
    let axis = match n.opt_int("axis")? {
        Some(axis) => axis,
        None if n.opset < 4 => 1,
        None => return Err(n.error("attribute 'axis' is missing")),
    };
    let axis = n.axis(axis, e.rank(all[0]))?;
    e.concat(axis, &all)
}

pub fn gather(e: &mut Emit, n: &Node) -> Made {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let axis = n.axis(n.int("axis", 0)?, e.rank(x))?;
    e.add(Op::Gather { axis, x, indices })
}

pub fn gather_elements(e: &mut Emit, n: &Node) -> Made {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let axis = n.axis(n.int("axis", 0)?, e.rank(x))?;
    e.add(Op::GatherElements { axis, x, indices })
}

pub fn gather_nd(e: &mut Emit, n: &Node) -> Made {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let batch = n.size(n.int("batch_dims", 0)?)?;
    if batch == 0
        && let Some(shape) = reads_all_in_order(e, x, indices)
    {
        return e.reshape(x, shape);
    }
    e.add(Op::GatherNd { batch, x, indices })
}

/// The shape of the result if `indices`, known now, name every element of `x` in its order. Masks are often read so.
fn reads_all_in_order(e: &Emit, x: Value, indices: Value) -> Option<Shape> {
    let (from, to) = (e.shape(x), e.shape(indices));
    let (&width, outer) = to.split_last()?;
    if width == 0 || width != from.rank() || outer.iter().product::<usize>() != from.count() {
        return None;
    }
    let (places, strides) = (e.literal(indices)?.to_i64(), from.strides());
    let in_order = places.chunks_exact(width).enumerate().all(|(at, place)| {
        let own = |axis: usize| at / strides[axis] % from[axis];
        (0..width).all(|axis| usize::try_from(place[axis]) == Ok(own(axis)))
    });
    in_order.then(|| Shape::from(outer))
}

/// The slices of `x` along an axis at which a condition, known now, holds.
pub fn pad(e: &mut Emit, n: &Node) -> Made {
    let mut x = n.input(0)?;
    let rank = e.rank(x);
    let mode = match n.text("mode", "constant")? {
        "constant" => PadMode::Constant,
        "edge" => PadMode::Edge,
        "reflect" => PadMode::Reflect,
        "wrap" => PadMode::Wrap,
        other => return Err(n.error(format!("unknown mode '{other}'"))),
    };
    let value = if n.opset < 11 { n.float("value", 0.0)? } else { 0.0 };
    let pads = n.ints_at(e, "pads", 11, 1)?.ok_or_else(|| n.error("the pads are missing"))?;
    let axes = match n.opset < 18 {
        true => None,
        false => n.literal_ints(e, 3)?,
    };
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    n.axes(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(n.error(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mut before: Places = SmallVec::from_elem(0, rank);
    let mut after = before.clone();
    for (at, &axis) in axes.iter().enumerate() {
        let axis = n.axis(axis, rank)?;
        let (low, high) = (pads[at], pads[at + axes.len()]);
        before[axis] = low.max(0) as usize;
        after[axis] = high.max(0) as usize;
        // A negative pad takes elements away.
        if low < 0 || high < 0 {
            let dim = e.shape(x)[axis];
            let (start, cut) = (low.min(0).unsigned_abs() as usize, high.min(0).unsigned_abs() as usize);
            let left = dim.checked_sub(start).and_then(|it| it.checked_sub(cut));
            let left =
                left.ok_or_else(|| n.error(format!("pads {pads:?} take more than axis {axis} has")))?;
            x = e.slice(x, axis, if left == 0 { 0 } else { start }, left, 1)?;
        }
    }
    if before.iter().chain(&after).all(|&it| it == 0) {
        return Ok(x);
    }
    let fill = match (mode, n.opset < 11) {
        (PadMode::Constant, true) => Some(e.scalar(e.dtype(x), value)),
        (PadMode::Constant, false) => Some(match n.opt(2) {
            Some(fill) => e.reshape(fill, [])?,
            None => e.scalar(e.dtype(x), 0.0),
        }),
        (PadMode::Edge | PadMode::Reflect | PadMode::Wrap, _) => None,
    };
    e.add(Op::Pad { before, after, mode, x, fill })
}

pub fn range(e: &mut Emit, n: &Node) -> Made {
    let mut ends = [Scalar::Int(0); 3];
    for (at, end) in ends.iter_mut().enumerate() {
        let tensor = n.literal(e, at)?.ok_or_else(|| n.error(format!("operand {at} is missing")))?;
        if tensor.shape().count() != 1 {
            return Err(n.error(format!("operand {at} is no scalar but {}", tensor.ty())));
        }
        *end = tensor.get(0);
    }
    let dtype = e.dtype(n.input(0)?);
    let [start, limit, delta] = ends;
    let count = match (start, limit, delta) {
        (_, _, delta) if delta.as_f64() == 0.0 => return Err(n.error("the step is 0")),
        (Scalar::Int(start), Scalar::Int(limit), Scalar::Int(delta)) => {
            let way = (limit as i128 - start as i128) * (delta as i128).signum();
            (way.max(0) as u128).div_ceil(delta.unsigned_abs() as u128) as f64
        }
        _ => ((limit.as_f64() - start.as_f64()) / delta.as_f64()).ceil().max(0.0),
    };
    if count.is_nan() || count > MAX_MADE as f64 {
        return Err(n.error(format!("{count} elements, at most {MAX_MADE} are made")));
    }
    let values = (0..count as i64).map(|at| match (start, delta) {
        (Scalar::Int(start), Scalar::Int(delta)) => Scalar::Int(start.wrapping_add(at.wrapping_mul(delta))),
        _ => Scalar::of(dtype, start.as_f64() + at as f64 * delta.as_f64()),
    });
    Ok(e.constant(Tensor::from_scalars(Type::new(dtype, [count as usize]), values)))
}

pub fn constant_of_shape(e: &mut Emit, n: &Node) -> Made {
    let shape = n.literal_shape(e, 0)?.ok_or_else(|| n.error("the shape is missing"))?;
    let value = match n.either("value")? {
        Some(value) if value.shape().count() == 1 => Tensor::scalar(value.dtype(), value.get(0)),
        Some(value) => {
            return Err(n.error(format!("the value has the shape {}, not one element", value.shape())));
        }
        None => Tensor::scalar(DType::F32, Scalar::Float(0.0)),
    };
    let value = e.constant(value);
    e.expand(value, shape)
}

pub fn constant(e: &mut Emit, n: &Node) -> Made {
    if let Some(tensor) = n.either("value")? {
        return Ok(e.constant(tensor));
    }
    if n.has("value_string") {
        let text = n.text("value_string", "")?;
        return Ok(e.constant(n.entered(Shape::scalar(), &[text])?));
    }
    if let Some(all) = n.texts("value_strings")? {
        return Ok(e.constant(n.entered([all.len()], &all)?));
    }
    if let Some(value) = n.opt_int("value_int")? {
        return Ok(e.constant(Tensor::scalar(DType::I64, Scalar::Int(value))));
    }
    if let Some(value) = n.opt_float("value_float")? {
        return Ok(e.scalar(DType::F32, value));
    }
    if let Some(values) = n.ints("value_ints")? {
        return Ok(e.ints(values));
    }
    if let Some(values) = n.floats("value_floats")? {
        return Ok(e.floats(DType::F32, &values));
    }
    if let Some(sparse) = n.attribute("sparse_value").and_then(|it| it.sparse_tensor.as_deref()) {
        let at = format!("attribute 'sparse_value' of node '{}'", n.name);
        return Ok(e.constant(super::tensor::sparse(sparse, &at, &|_| None, &mut { MAX_SPARSE_BYTES })?));
    }
    match n.attributes.first() {
        Some(it) => Err(n.unsupported(format!("attribute '{}'", it.name))),
        None => Err(n.error("states no value")),
    }
}
