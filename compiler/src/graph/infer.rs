//! The type of every op, and what each demands of its operands.
//!
//! This is the gatekeeper for everything that comes from files: an op that passes has operands that exist, dtypes for
//! which it has a meaning, axes and places in range, and a result whose bytes can be addressed, where extents of 0 count
//! as 1, so that strides can be computed too. Nothing after it checks these again.

use smallvec::SmallVec;

use super::{Graph, Op, PadMode, PoolKind, Value, Window};
use crate::{
    dtype::{Class, DType},
    scalar::ReduceOp,
    shape::{Shape, Type},
};

/// Strides, dilations and padding of windows may not be larger.
const WINDOW_LIMIT: usize = i32::MAX as usize;

/// Elements of one random op.
const RANDOM_LIMIT: usize = i32::MAX as usize;

/// The type of `op`, or what is wrong with its operands.
pub fn infer(graph: &Graph, op: &Op) -> Result<Type, String> {
    let ty = result(graph, op)?;
    addressable(&ty)?;
    Ok(ty)
}

/// Whether the bytes of a tensor of this type can be addressed and its strides computed.
pub fn addressable(ty: &Type) -> Result<(), String> {
    let bytes = ty.shape.iter().try_fold(ty.dtype.size(), |bytes, &dim| bytes.checked_mul(dim.max(1)));
    match bytes {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(format!("a tensor of type {ty} is larger than memory can be")),
    }
}

fn result(graph: &Graph, op: &Op) -> Result<Type, String> {
    let of = |value: Value| match graph.nodes.get(value) {
        Some(node) => Ok(&node.ty),
        None => Err("an operand is not in the graph".to_string()),
    };
    match op {
        Op::Input { slot } => match graph.inputs.get(*slot as usize) {
            Some(input) => Ok(input.ty.clone()),
            None => Err(format!("the graph has no input number {slot}")),
        },
        Op::Constant(id) => match graph.constants.get(*id) {
            Some(tensor) => Ok(tensor.ty().clone()),
            None => Err("the constant is not in the graph".to_string()),
        },
        Op::Unary(op, x) => {
            let x = of(*x)?;
            let dtype = op.result(x.dtype).ok_or_else(|| no_meaning(x.dtype))?;
            Ok(Type { dtype, shape: x.shape.clone() })
        }
        Op::Binary(op, a, b) => {
            let (a, b) = (of(*a)?, of(*b)?);
            same_dtype(a, b)?;
            let dtype = op.result(a.dtype).ok_or_else(|| no_meaning(a.dtype))?;
            Ok(Type { dtype, shape: broadcast(&a.shape, &b.shape)? })
        }
        Op::Select { cond, yes, no } => {
            let (cond, yes, no) = (of(*cond)?, of(*yes)?, of(*no)?);
            demand(cond.dtype == DType::Bool, || format!("the condition is {}, not bool", cond.dtype))?;
            same_dtype(yes, no)?;
            let shape = broadcast(&broadcast(&cond.shape, &yes.shape)?, &no.shape)?;
            Ok(Type { dtype: yes.dtype, shape })
        }
        Op::Cast { to, x } => Ok(Type { dtype: *to, shape: of(*x)?.shape.clone() }),

        Op::Random { shape, key, .. } => {
            let key = of(*key)?;
            let whole = key.dtype == DType::U32 && *key.shape == [2];
            demand(whole, || format!("the key is {key}, not u32[2]"))?;
            // Places are numbered by 31 bits.
            let few = shape.checked_count().is_some_and(|it| it <= RANDOM_LIMIT);
            demand(few, || format!("{shape} has more than {RANDOM_LIMIT} elements"))?;
            Ok(Type { dtype: DType::U32, shape: shape.clone() })
        }

        Op::Reduce { op, axes, keep, x } => {
            let x = of(*x)?;
            match op {
                ReduceOp::Sum | ReduceOp::Prod => numeric(x)?,
                ReduceOp::Max | ReduceOp::Min => {}
            }
            Ok(Type { dtype: x.dtype, shape: reduced(&x.shape, axes, *keep)? })
        }
        Op::Mean { axes, keep, x } => {
            let x = of(*x)?;
            float(x)?;
            Ok(Type { dtype: x.dtype, shape: reduced(&x.shape, axes, *keep)? })
        }
        Op::ArgReduce { axis, keep, x, .. } => {
            let x = of(*x)?;
            numeric(x)?;
            let shape = reduced(&x.shape, &[*axis], *keep)?;
            let some = x.shape[*axis] > 0 || shape.contains(&0);
            demand(some, || format!("axis {axis} of {} has no elements to choose from", x.shape))?;
            Ok(Type { dtype: DType::I64, shape })
        }
        Op::CumSum { axis, x, .. } => {
            let x = of(*x)?;
            numeric(x)?;
            axis_of(&x.shape, *axis)?;
            Ok(x.clone())
        }

        Op::Reshape { shape, x } => {
            let x = of(*x)?;
            let same = shape.checked_count() == x.shape.checked_count();
            demand(same, || format!("{} and {shape} have different numbers of elements", x.shape))?;
            Ok(Type { dtype: x.dtype, shape: shape.clone() })
        }
        Op::Permute { order, x } => {
            let x = of(*x)?;
            let rank = x.shape.rank();
            let mut seen: SmallVec<[bool; 6]> = SmallVec::from_elem(false, rank);
            for &axis in order {
                axis_of(&x.shape, axis)?;
                seen[axis] = true;
            }
            let whole = order.len() == rank && seen.iter().all(|&it| it);
            demand(whole, || format!("{order:?} is not an order of the {rank} axes of {}", x.shape))?;
            Ok(Type { dtype: x.dtype, shape: order.iter().map(|&axis| x.shape[axis]).collect() })
        }
        Op::Expand { shape, x } => {
            let x = of(*x)?;
            demand(x.shape.broadcast(shape).as_ref() == Some(shape), || {
                format!("{} does not broadcast to {shape}", x.shape)
            })?;
            Ok(Type { dtype: x.dtype, shape: shape.clone() })
        }
        Op::Slice { starts, sizes, steps, x } => {
            let x = of(*x)?;
            let rank = x.shape.rank();
            per_axis("starts", starts.len(), rank)?;
            per_axis("sizes", sizes.len(), rank)?;
            per_axis("steps", steps.len(), rank)?;
            for axis in 0..rank {
                let (dim, start, size, step) = (x.shape[axis], starts[axis], sizes[axis], steps[axis]);
                demand(step != 0, || format!("the step along axis {axis} is 0"))?;
                let inside = match size {
                    0 => start <= dim,
                    _ => start < dim && last_of(start, size, step).is_some_and(|last| last < dim),
                };
                demand(inside, || {
                    format!(
                        "{size} elements from {start} in steps of {step} leave axis {axis} of {}",
                        x.shape
                    )
                })?;
            }
            Ok(Type { dtype: x.dtype, shape: sizes.clone() })
        }
        Op::Pad { before, after, mode, x, fill } => {
            let x = of(*x)?;
            let rank = x.shape.rank();
            per_axis("paddings before", before.len(), rank)?;
            per_axis("paddings after", after.len(), rank)?;
            match (mode, fill) {
                (PadMode::Constant, Some(fill)) => {
                    let fill = of(*fill)?;
                    same_dtype(x, fill)?;
                    demand(fill.shape.rank() == 0, || format!("the fill is {fill}, not a scalar"))?;
                }
                (PadMode::Edge | PadMode::Reflect | PadMode::Wrap, None) => {}
                (PadMode::Constant, None) => return Err("a constant padding without a fill".to_string()),
                (PadMode::Edge | PadMode::Reflect | PadMode::Wrap, Some(_)) => {
                    return Err("a fill for a padding that has no use for one".to_string());
                }
            }
            let mut shape = Shape::scalar();
            for axis in 0..rank {
                let (dim, most) = (x.shape[axis], before[axis].max(after[axis]));
                let limit = match mode {
                    PadMode::Constant => usize::MAX,
                    PadMode::Edge if dim > 0 => usize::MAX,
                    PadMode::Edge => 0,
                    PadMode::Reflect => dim.saturating_sub(1),
                    PadMode::Wrap => dim,
                };
                demand(most <= limit, || {
                    format!("{most} elements of padding along axis {axis} of {}: at most {limit}", x.shape)
                })?;
                let size = dim.checked_add(before[axis]).and_then(|it| it.checked_add(after[axis]));
                shape.0.push(size.ok_or("the padded size overflows")?);
            }
            Ok(Type { dtype: x.dtype, shape })
        }
        Op::Concat { axis, xs } => {
            let (first, rest) = xs.split_first().ok_or("nothing to concatenate")?;
            let first = of(*first)?;
            axis_of(&first.shape, *axis)?;
            let mut ty = first.clone();
            for &other in rest {
                let other = of(other)?;
                same_dtype(first, other)?;
                let fits = other.shape.rank() == ty.shape.rank()
                    && (0..ty.shape.rank()).all(|it| it == *axis || ty.shape[it] == other.shape[it]);
                demand(fits, || {
                    format!("{} and {} differ in more than axis {axis}", first.shape, other.shape)
                })?;
                let sum = ty.shape[*axis].checked_add(other.shape[*axis]);
                ty.shape.0[*axis] = sum.ok_or("the joined size overflows")?;
            }
            Ok(ty)
        }

        Op::Gather { axis, x, indices } => {
            let (x, indices) = (of(*x)?, of(*indices)?);
            index_dtype(indices)?;
            axis_of(&x.shape, *axis)?;
            let shape: Shape =
                [&x.shape[..*axis], &indices.shape, &x.shape[*axis + 1..]].concat().into_iter().collect();
            readable(&x.shape[*axis..=*axis], &shape)?;
            Ok(Type { dtype: x.dtype, shape })
        }
        Op::GatherElements { axis, x, indices } => {
            let (x, indices) = (of(*x)?, of(*indices)?);
            index_dtype(indices)?;
            axis_of(&x.shape, *axis)?;
            let fits = indices.shape.rank() == x.shape.rank()
                && (0..x.shape.rank()).all(|it| it == *axis || indices.shape[it] <= x.shape[it]);
            demand(fits, || format!("indices {} reach past {} off axis {axis}", indices.shape, x.shape))?;
            readable(&x.shape[*axis..=*axis], &indices.shape)?;
            Ok(Type { dtype: x.dtype, shape: indices.shape.clone() })
        }
        Op::GatherNd { batch, x, indices } => {
            let (x, indices) = (of(*x)?, of(*indices)?);
            index_dtype(indices)?;
            let (&width, outer) = indices.shape.split_last().ok_or("the indices are a scalar")?;
            let shared = *batch <= outer.len() && *batch <= x.shape.rank();
            let shared = shared && outer[..*batch] == x.shape[..*batch];
            demand(shared, || {
                format!("{} and {} do not share {batch} leading axes", x.shape, indices.shape)
            })?;
            demand(width <= x.shape.rank() - batch, || {
                format!("{width} coordinates, but {} has {} axes for them", x.shape, x.shape.rank() - batch)
            })?;
            let shape: Shape = [outer, &x.shape[batch + width..]].concat().into_iter().collect();
            readable(&x.shape[*batch..batch + width], &shape)?;
            Ok(Type { dtype: x.dtype, shape })
        }

        Op::MatMul { a, b } => {
            let (a, b) = (of(*a)?, of(*b)?);
            same_dtype(a, b)?;
            numeric(a)?;
            Ok(Type { dtype: a.dtype, shape: matmul(&a.shape, &b.shape)? })
        }
        Op::Conv { window, groups, x, w, bias } => {
            let (x, w) = (of(*x)?, of(*w)?);
            same_dtype(x, w)?;
            numeric(x)?;
            let spatial = spatial_rank(x)?;
            check_window(window, spatial)?;
            demand(w.shape.rank() == x.shape.rank(), || {
                format!("input {} and weight {} differ in rank", x.shape, w.shape)
            })?;
            let (channels, features) = (x.shape[1], w.shape[0]);
            demand(*groups > 0 && features.is_multiple_of(*groups), || {
                format!("{features} output channels in {groups} groups")
            })?;
            demand(w.shape[1].checked_mul(*groups) == Some(channels), || {
                format!("{channels} input channels, but weight {} in {groups} groups", w.shape)
            })?;
            channel_vector("bias", bias.map(of).transpose()?, x.dtype, features)?;
            let mut shape = Shape::from([x.shape[0], features]);
            for axis in 0..spatial {
                let (size, kernel) = (x.shape[axis + 2], w.shape[axis + 2]);
                let positions = window.positions(axis, size, kernel);
                shape.0.push(positions.ok_or_else(|| {
                    format!("a kernel of {kernel} along spatial axis {axis} finds no place in {}", x.shape)
                })?);
            }
            Ok(Type { dtype: x.dtype, shape })
        }
        Op::ConvTranspose { window, groups, output, x, w, bias } => {
            let (x, w) = (of(*x)?, of(*w)?);
            same_dtype(x, w)?;
            numeric(x)?;
            let spatial = spatial_rank(x)?;
            check_window(window, spatial)?;
            per_axis("output sizes", output.len(), spatial)?;
            demand(w.shape.rank() == x.shape.rank(), || {
                format!("input {} and weight {} differ in rank", x.shape, w.shape)
            })?;
            let channels = x.shape[1];
            demand(*groups > 0 && channels.is_multiple_of(*groups), || {
                format!("{channels} input channels in {groups} groups")
            })?;
            demand(w.shape[0] == channels, || format!("{channels} input channels, but weight {}", w.shape))?;
            let features =
                w.shape[1].checked_mul(*groups).ok_or("the number of output channels overflows")?;
            channel_vector("bias", bias.map(of).transpose()?, x.dtype, features)?;
            for axis in 0..spatial {
                let (size, kernel) = (x.shape[axis + 2], w.shape[axis + 2]);
                demand(kernel > 0, || format!("the kernel {} is empty", w.shape))?;
                let reach = reach(window, axis, kernel);
                let last = size.saturating_sub(1).checked_mul(window.strides[axis]);
                let whole = reach.zip(last).and_then(|(a, b)| a.checked_add(b));
                demand(whole.is_some_and(|it| isize::try_from(it).is_ok()), || {
                    format!("the result of spatial axis {axis} overflows")
                })?;
            }
            let shape = [x.shape[0], features].into_iter().chain(output.iter().copied()).collect();
            Ok(Type { dtype: x.dtype, shape })
        }
        Op::Pool { kind, window, kernel, output, x } => {
            let x = of(*x)?;
            match kind {
                PoolKind::Max => numeric(x)?,
                PoolKind::Average { .. } => float(x)?,
            }
            let spatial = spatial_rank(x)?;
            check_window(window, spatial)?;
            per_axis("kernel sizes", kernel.len(), spatial)?;
            per_axis("output sizes", output.len(), spatial)?;
            for axis in 0..spatial {
                demand(kernel[axis] > 0, || format!("the kernel {kernel} is empty"))?;
                let reach = reach(window, axis, kernel[axis]);
                let padded = x.shape[axis + 2]
                    .checked_add(window.before[axis] + window.after[axis])
                    .ok_or("the padded size overflows")?;
                let last = output[axis].saturating_sub(1).checked_mul(window.strides[axis]);
                let end = reach.zip(last).and_then(|(a, b)| a.checked_add(b));
                demand(end.is_some_and(|it| isize::try_from(it).is_ok()), || {
                    format!("the windows of spatial axis {axis} overflow")
                })?;
                demand(output[axis] == 0 || last.is_some_and(|it| it < padded), || {
                    format!("{} windows along spatial axis {axis} leave {}", output[axis], x.shape)
                })?;
            }
            let shape = x.shape[..2].iter().chain(output.iter()).copied().collect();
            Ok(Type { dtype: x.dtype, shape })
        }
        Op::Softmax { axis, x, .. } => {
            let x = of(*x)?;
            float(x)?;
            axis_of(&x.shape, *axis)?;
            Ok(x.clone())
        }
        Op::LayerNorm { axis, x, scale, bias, .. } => {
            let x = of(*x)?;
            float(x)?;
            axis_of(&x.shape, *axis)?;
            row_vector("scale", scale.map(of).transpose()?, x, *axis)?;
            row_vector("bias", bias.map(of).transpose()?, x, *axis)?;
            Ok(x.clone())
        }
        Op::RmsNorm { axis, x, scale, .. } => {
            let x = of(*x)?;
            float(x)?;
            axis_of(&x.shape, *axis)?;
            row_vector("scale", scale.map(of).transpose()?, x, *axis)?;
            Ok(x.clone())
        }
        Op::GroupNorm { groups, x, scale, bias, .. } => {
            let x = of(*x)?;
            float(x)?;
            axis_of(&x.shape, 1)?;
            let channels = x.shape[1];
            demand(*groups > 0 && channels.is_multiple_of(*groups), || {
                format!("{channels} channels in {groups} groups")
            })?;
            channel_vector("scale", scale.map(of).transpose()?, x.dtype, channels)?;
            channel_vector("bias", bias.map(of).transpose()?, x.dtype, channels)?;
            Ok(x.clone())
        }
        Op::BatchNorm { x, scale, bias, mean, var, .. } => {
            let x = of(*x)?;
            float(x)?;
            axis_of(&x.shape, 1)?;
            for (what, value) in [("scale", scale), ("bias", bias), ("mean", mean), ("variance", var)] {
                channel_vector(what, Some(of(*value)?), x.dtype, x.shape[1])?;
            }
            Ok(x.clone())
        }
        Op::Attention { q, k, v, mask, .. } => {
            let (q, k, v) = (of(*q)?, of(*k)?, of(*v)?);
            float(q)?;
            same_dtype(q, k)?;
            same_dtype(q, v)?;
            let wrong = || format!("query {}, key {} and value {} do not fit", q.shape, k.shape, v.shape);
            let ([b, h, s, d], [kb, g, t, kd], [vb, vg, vt, e]) = (&q.shape[..], &k.shape[..], &v.shape[..])
            else {
                return Err(wrong());
            };
            let fits = (b, d) == (kb, kd) && (b, g, t) == (vb, vg, vt) && *g > 0 && h.is_multiple_of(*g);
            demand(fits, wrong)?;
            let scores = Type::new(q.dtype, [*b, *h, *s, *t]);
            addressable(&scores)?;
            if let Some(mask) = mask.map(of).transpose()? {
                same_dtype(q, mask)?;
                demand(mask.shape.broadcast(&scores.shape).as_ref() == Some(&scores.shape), || {
                    format!("mask {} does not broadcast to {}", mask.shape, scores.shape)
                })?;
            }
            Ok(Type::new(q.dtype, [*b, *h, *s, *e]))
        }
    }
}

fn demand(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn no_meaning(dtype: DType) -> String {
    format!("has no meaning for {dtype}")
}

fn same_dtype(a: &Type, b: &Type) -> Result<(), String> {
    demand(a.dtype == b.dtype, || format!("operands are {a} and {b}, of different dtypes"))
}

fn numeric(x: &Type) -> Result<(), String> {
    demand(x.dtype.class() != Class::Bool, || no_meaning(x.dtype))
}

fn float(x: &Type) -> Result<(), String> {
    demand(x.dtype.is_float(), || no_meaning(x.dtype))
}

fn index_dtype(indices: &Type) -> Result<(), String> {
    demand(matches!(indices.dtype, DType::I32 | DType::I64), || {
        format!("indices are {}, not i32 or i64", indices.dtype)
    })
}

fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    a.broadcast(b).ok_or_else(|| format!("{a} and {b} do not broadcast"))
}

fn axis_of(shape: &Shape, axis: usize) -> Result<(), String> {
    demand(axis < shape.rank(), || format!("axis {axis} of {shape}"))
}

fn per_axis(what: &str, have: usize, rank: usize) -> Result<(), String> {
    demand(have == rank, || format!("{have} {what} for {rank} axes"))
}

/// Values can be read along axes of these sizes, or none is wanted.
fn readable(sizes: &[usize], result: &Shape) -> Result<(), String> {
    demand(!sizes.contains(&0) || result.contains(&0), || {
        format!("a result of shape {result} is read from an axis without elements")
    })
}

fn reduced(shape: &Shape, axes: &[usize], keep: bool) -> Result<Shape, String> {
    let mut gone: SmallVec<[bool; 6]> = SmallVec::from_elem(false, shape.rank());
    for &axis in axes {
        axis_of(shape, axis)?;
        demand(!gone[axis], || format!("axis {axis} is named twice"))?;
        gone[axis] = true;
    }
    let sizes = shape.iter().zip(gone).filter(|(_, gone)| keep || !gone);
    Ok(sizes.map(|(&dim, gone)| if gone { 1 } else { dim }).collect())
}

/// The place of the last of `size > 0` elements, if it is not negative.
fn last_of(start: usize, size: usize, step: i64) -> Option<usize> {
    let way = usize::try_from(step.unsigned_abs()).ok()?.checked_mul(size - 1)?;
    if step > 0 { start.checked_add(way) } else { start.checked_sub(way) }
}

fn matmul(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let wrong = || format!("{a} and {b} do not multiply");
    demand(a.rank() > 0 && b.rank() > 0, wrong)?;
    let rows = a.rank().checked_sub(2).map(|at| a[at]);
    let columns = (b.rank() > 1).then(|| b[b.rank() - 1]);
    demand(a[a.rank() - 1] == b[b.rank().saturating_sub(2)], wrong)?;
    let outer_a = Shape::from(&a[..a.rank().saturating_sub(2)]);
    let outer_b = Shape::from(&b[..b.rank().saturating_sub(2)]);
    let outer = outer_a.broadcast(&outer_b).ok_or_else(wrong)?;
    Ok(outer.iter().copied().chain(rows).chain(columns).collect())
}

fn spatial_rank(x: &Type) -> Result<usize, String> {
    match x.shape.rank() {
        3..=5 => Ok(x.shape.rank() - 2),
        rank => Err(format!("{} has rank {rank}: batch, channels and one to three axes are needed", x.shape)),
    }
}

fn check_window(window: &Window, spatial: usize) -> Result<(), String> {
    per_axis("strides", window.strides.len(), spatial)?;
    per_axis("dilations", window.dilations.len(), spatial)?;
    per_axis("paddings before", window.before.len(), spatial)?;
    per_axis("paddings after", window.after.len(), spatial)?;
    let steps = window.strides.iter().chain(&window.dilations);
    demand(steps.clone().all(|&it| it > 0), || "a stride or dilation is 0".to_string())?;
    let all = steps.chain(&window.before).chain(&window.after);
    demand(all.into_iter().all(|&it| it <= WINDOW_LIMIT), || {
        format!("a stride, dilation or padding is larger than {WINDOW_LIMIT}")
    })
}

/// Elements between the first and the last that a kernel of `kernel > 0` elements covers, both included.
fn reach(window: &Window, axis: usize, kernel: usize) -> Option<usize> {
    window.dilations[axis].checked_mul(kernel - 1)?.checked_add(1)
}

/// An operand with one element a channel.
fn channel_vector(what: &str, value: Option<&Type>, dtype: DType, channels: usize) -> Result<(), String> {
    let want = Type::new(dtype, [channels]);
    match value {
        Some(ty) if *ty != want => Err(format!("{what} is {ty}, not {want}")),
        _ => Ok(()),
    }
}

/// An operand that broadcasts to the axes of `x` from `axis` on.
fn row_vector(what: &str, value: Option<&Type>, x: &Type, axis: usize) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    same_dtype(x, value)?;
    let row = Shape::from(&x.shape[axis..]);
    demand(value.shape.broadcast(&row).as_ref() == Some(&row), || {
        format!("{what} {} does not broadcast to {row}", value.shape)
    })
}
