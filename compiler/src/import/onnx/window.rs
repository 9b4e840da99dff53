//! Convolutions and poolings: auto_pad and ceil_mode become explicit padding and output sizes.

use smallvec::SmallVec;

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, PoolKind, Value, Window},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::{Axes, Shape},
    tensor::Tensor,
};

type Made = Result<Value, Error>;

#[derive(Clone, Copy, PartialEq)]
enum AutoPad {
    Explicit,
    SameUpper,
    SameLower,
    Valid,
}

fn auto_pad(n: &Node) -> Result<AutoPad, Error> {
    Ok(match n.text("auto_pad", "NOTSET")? {
        "NOTSET" | "" => AutoPad::Explicit,
        "SAME_UPPER" => AutoPad::SameUpper,
        "SAME_LOWER" => AutoPad::SameLower,
        "VALID" => AutoPad::Valid,
        other => return Err(n.error(format!("unknown auto_pad '{other}'"))),
    })
}

/// The spatial sizes of [n, c, spatial..].
fn spatial(e: &Emit, n: &Node, x: Value) -> Result<Vec<usize>, Error> {
    let shape = e.shape(x);
    match shape.rank() {
        3.. => Ok(shape[2..].to_vec()),
        rank => Err(n.error(format!("{shape} has rank {rank}, at least 3 is needed"))),
    }
}

/// Strides, dilations and explicit pads, with `auto_pad` still to come.
fn window(n: &Node, rank: usize) -> Result<Box<Window>, Error> {
    let per_axis = |name: &str, default: usize, want: usize| -> Result<SmallVec<[usize; 3]>, Error> {
        let found = n.sizes(name)?.unwrap_or_else(|| vec![default; want]);
        match found.len() == want {
            true => Ok(found.into()),
            false => Err(n.error(format!("{} {name} for {rank} spatial axes", found.len()))),
        }
    };
    let pads = per_axis("pads", 0, 2 * rank)?;
    let (strides, dilations) = (per_axis("strides", 1, rank)?, per_axis("dilations", 1, rank)?);
    if strides.iter().chain(&dilations).any(|&it| it == 0) {
        return Err(n.error("a stride or dilation is 0"));
    }
    Ok(Box::new(Window { strides, dilations, before: pads[..rank].into(), after: pads[rank..].into() }))
}

/// Elements between the first and the last that a kernel covers, both included.
fn reach(n: &Node, window: &Window, axis: usize, kernel: usize) -> Result<usize, Error> {
    (kernel.checked_sub(1).and_then(|it| it.checked_mul(window.dilations[axis])))
        .and_then(|it| it.checked_add(1))
        .ok_or_else(|| n.error(format!("a kernel of {kernel} elements")))
}

/// Sets the padding that `auto` asks for.
fn resolve(
    n: &Node,
    auto: AutoPad,
    window: &mut Window,
    sizes: &[usize],
    kernel: &[usize],
) -> Result<(), Error> {
    for axis in 0..sizes.len() {
        let total = match auto {
            AutoPad::Explicit => continue,
            AutoPad::Valid => 0,
            AutoPad::SameUpper | AutoPad::SameLower => {
                let positions = sizes[axis].div_ceil(window.strides[axis]);
                let way = positions.saturating_sub(1).saturating_mul(window.strides[axis]);
                way.saturating_add(reach(n, window, axis, kernel[axis])?).saturating_sub(sizes[axis])
            }
        };
        (window.before[axis], window.after[axis]) = share(auto, total);
    }
    Ok(())
}

/// `total` before and after; an odd one goes after for SAME_UPPER.
fn share(auto: AutoPad, total: usize) -> (usize, usize) {
    match auto {
        AutoPad::SameLower => (total - total / 2, total / 2),
        AutoPad::SameUpper | AutoPad::Valid | AutoPad::Explicit => (total / 2, total - total / 2),
    }
}

pub fn conv(e: &mut Emit, n: &Node) -> Made {
    conv_of(e, n, n.input(0)?, n.input(1)?, n.opt(2))
}

/// The convolution that the node's attributes describe.
pub fn conv_of(e: &mut Emit, n: &Node, x: Value, w: Value, bias: Option<Value>) -> Made {
    let sizes = spatial(e, n, x)?;
    let kernel = kernel(e, n, w, sizes.len())?;
    let mut window = window(n, sizes.len())?;
    resolve(n, auto_pad(n)?, &mut window, &sizes, &kernel)?;
    let groups = n.size(n.int("group", 1)?)?;
    e.add(Op::Conv { window, groups, x, w, bias })
}

fn kernel(e: &Emit, n: &Node, w: Value, rank: usize) -> Result<Vec<usize>, Error> {
    let shape = e.shape(w);
    if shape.rank() != rank + 2 {
        return Err(n.error(format!("the weight {shape} does not have {rank} spatial axes")));
    }
    let kernel = shape[2..].to_vec();
    match n.sizes("kernel_shape")? {
        Some(stated) if stated != kernel => {
            Err(n.error(format!("kernel_shape {stated:?} is not that of the weight {shape}")))
        }
        _ => Ok(kernel),
    }
}

pub fn conv_transpose(e: &mut Emit, n: &Node) -> Made {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let sizes = spatial(e, n, x)?;
    let rank = sizes.len();
    let kernel = kernel(e, n, w, rank)?;
    let mut window = window(n, rank)?;
    let auto = auto_pad(n)?;
    let extra = n.sizes("output_padding")?.unwrap_or_else(|| vec![0; rank]);
    let stated = n.sizes("output_shape")?;
    if extra.len() != rank || stated.as_ref().is_some_and(|it| it.len() != rank && it.len() != rank + 2) {
        return Err(n.error("output_padding or output_shape does not have one entry a spatial axis"));
    }
    let mut output = Shape::default();
    for axis in 0..rank {
        // What the kernel reaches before padding is cut away.
        let full = (sizes[axis].saturating_sub(1).checked_mul(window.strides[axis]))
            .zip(reach(n, &window, axis, kernel[axis]).ok())
            .and_then(|(way, reach)| way.checked_add(reach)?.checked_add(extra[axis]))
            .ok_or_else(|| n.error("the result is too large"))?;
        let want = match (&stated, auto) {
            (Some(stated), _) => Some(stated[stated.len() - rank + axis]),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => sizes[axis].checked_mul(window.strides[axis]),
            (None, AutoPad::Valid) => Some(full),
            (None, AutoPad::Explicit) => None,
        };
        match want {
            Some(want) => {
                // Unlike elsewhere, an odd one goes before unless SAME_UPPER is stated.
                let total = full.saturating_sub(want);
                (window.before[axis], window.after[axis]) = match auto {
                    AutoPad::SameUpper => (total / 2, total - total / 2),
                    AutoPad::SameLower | AutoPad::Valid | AutoPad::Explicit => (total - total / 2, total / 2),
                };
                output.0.push(want);
            }
            None => {
                let cut = window.before[axis].checked_add(window.after[axis]);
                let left = cut.and_then(|it| full.checked_sub(it));
                output.0.push(left.ok_or_else(|| n.error("the padding cuts the whole result away"))?);
            }
        }
    }
    let groups = n.size(n.int("group", 1)?)?;
    e.add(Op::ConvTranspose { window, groups, output, x, w, bias: n.opt(2) })
}

struct Pooling {
    window: Box<Window>,
    kernel: Shape,
    output: Shape,
}

fn pooling(e: &Emit, n: &Node, x: Value) -> Result<Pooling, Error> {
    let sizes = spatial(e, n, x)?;
    let kernel = n.sizes("kernel_shape")?.ok_or_else(|| n.error("attribute 'kernel_shape' is missing"))?;
    if kernel.len() != sizes.len() {
        return Err(n.error(format!("kernel_shape {kernel:?} for {} spatial axes", sizes.len())));
    }
    let mut window = window(n, sizes.len())?;
    let auto = auto_pad(n)?;
    resolve(n, auto, &mut window, &sizes, &kernel)?;
    let ceil = n.flag("ceil_mode", false)? && auto == AutoPad::Explicit;
    let mut output = Shape::default();
    for axis in 0..sizes.len() {
        let (stride, before) = (window.strides[axis], window.before[axis]);
        let reach = reach(n, &window, axis, kernel[axis])?;
        let padded = sizes[axis].checked_add(before).and_then(|it| it.checked_add(window.after[axis]));
        let room = padded.and_then(|it| it.checked_sub(reach));
        let room = room.ok_or_else(|| {
            n.error(format!("a kernel of {} is larger than axis {axis} of {sizes:?}", kernel[axis]))
        })?;
        let mut count = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // The last window must start inside the image or the padding before it.
        if ceil && (count - 1).saturating_mul(stride) >= sizes[axis] + before {
            count -= 1;
        }
        output.0.push(count);
    }
    Ok(Pooling { window, kernel: Shape::new(&kernel), output })
}

/// Outputs: the maxima, and where in the whole image each first stands.
pub fn max_pool(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    let Pooling { window, kernel, output } = pooling(e, n, x)?;
    let places = match n.wants(1) {
        true => Some(places_of_maxima(e, n, x, &window, &kernel, &output)?),
        false => None,
    };
    let y = e.add(Op::Pool { kind: PoolKind::Max, window, kernel, output, x })?;
    Ok([y].into_iter().chain(places).collect())
}

/// The elements of a kernel that are compared one by one, by some five nodes each.
const MAX_COMPARED: usize = 1 << 10;

fn places_of_maxima(
    e: &mut Emit,
    n: &Node,
    x: Value,
    window: &Window,
    kernel: &Shape,
    output: &Shape,
) -> Made {
    let (shape, sizes, d) = (e.shape(x), spatial(e, n, x)?, kernel.rank());
    let taps = kernel.checked_count().filter(|it| (1..=MAX_COMPARED).contains(it));
    let taps =
        taps.ok_or_else(|| n.unsupported(format!("Indices for a kernel {kernel} (at most {MAX_COMPARED})")))?;
    if i32::try_from(shape.count()).is_err() || shape.contains(&0) || output.contains(&0) {
        return Err(n.unsupported(format!("Indices into {shape}")));
    }
    // How far apart elements along each axis count.
    let mut steps = vec![1; d];
    match n.flag("storage_order", false)? {
        false => (1..d).rev().for_each(|axis| steps[axis - 1] = steps[axis] * sizes[axis]),
        true => (1..d).for_each(|axis| steps[axis] = steps[axis - 1] * sizes[axis - 1]),
    }
    // Every window has all its elements, as far as the last one reaches.
    let fill = match e.dtype(x).is_float() {
        true => e.scalar(e.dtype(x), f64::NEG_INFINITY),
        false => e.constant(Tensor::scalar(e.dtype(x), ReduceOp::Max.identity(e.dtype(x)))),
    };
    let (mut before, mut after): (Places, Places) =
        (SmallVec::from_elem(0, d + 2), SmallVec::from_elem(0, d + 2));
    for axis in 0..d {
        let end = (output[axis] - 1).saturating_mul(window.strides[axis]);
        let end = end.saturating_add(reach(n, window, axis, kernel[axis])?);
        before[2 + axis] = window.before[axis];
        after[2 + axis] = end.saturating_sub(sizes[axis].saturating_add(window.before[axis]));
    }
    let padded = match before.iter().chain(&after).all(|&it| it == 0) {
        true => x,
        false => e.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill: Some(fill) })?,
    };
    let rank = d + 2;
    let mut best: Option<(Value, Value)> = None;
    for tap in 0..taps {
        let (mut rest, mut own, mut place, mut inside) = (tap, padded, None, None);
        for axis in (0..d).rev() {
            let at = rest % kernel[axis] * window.dilations[axis];
            rest /= kernel[axis];
            let (step, count) = (window.strides[axis], output[axis]);
            own = e.slice(own, 2 + axis, at, count, step as i64)?;
            let here = e.iota(DType::I32, count, 2 + axis, rank)?;
            let here = e.with(BinaryOp::Mul, here, step as f64)?;
            let here = e.with(BinaryOp::Add, here, at as f64 - window.before[axis] as f64)?;
            let (low, high) =
                (e.with(BinaryOp::Ge, here, 0.0)?, e.with(BinaryOp::Lt, here, sizes[axis] as f64)?);
            for condition in [low, high] {
                inside = super::grid::joined(e, BinaryOp::And, inside, Some(condition))?;
            }
            let part = e.with(BinaryOp::Mul, here, steps[axis] as f64)?;
            place = super::grid::joined(e, BinaryOp::Add, place, Some(part))?;
        }
        let (Some(place), Some(inside)) = (place, inside) else { return Err(n.error("no spatial axes")) };
        let missing = e.scalar(DType::I32, -1.0);
        best = Some(match best {
            None => (own, e.select(inside, place, missing)?),
            Some((most, at)) => {
                let mut ahead = e.binary(BinaryOp::Gt, own, most)?;
                if e.dtype(x).is_float() {
                    let (nan, before) = (e.unary(UnaryOp::IsNan, own)?, e.unary(UnaryOp::IsNan, most)?);
                    let before = e.unary(UnaryOp::Not, before)?;
                    let first = e.binary(BinaryOp::And, nan, before)?;
                    ahead = e.binary(BinaryOp::Or, ahead, first)?;
                }
                let none = e.with(BinaryOp::Lt, at, 0.0)?;
                let ahead = e.binary(BinaryOp::Or, ahead, none)?;
                let ahead = e.binary(BinaryOp::And, ahead, inside)?;
                (e.select(ahead, own, most)?, e.select(ahead, place, at)?)
            }
        });
    }
    let (_, place) = best.ok_or_else(|| n.error("an empty kernel"))?;
    // Images and channels count too.
    let plane: usize = sizes.iter().product();
    let (image, channel) = (e.iota(DType::I32, shape[0], 0, rank)?, e.iota(DType::I32, shape[1], 1, rank)?);
    let image = e.with(BinaryOp::Mul, image, shape[1] as f64)?;
    let image = e.binary(BinaryOp::Add, image, channel)?;
    let image = e.with(BinaryOp::Mul, image, plane as f64)?;
    let place = e.binary(BinaryOp::Add, place, image)?;
    e.cast(place, DType::I64)
}

pub fn average_pool(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let Pooling { window, kernel, output } = pooling(e, n, x)?;
    let kind = PoolKind::Average { count_padding: n.flag("count_include_pad", false)? };
    e.add(Op::Pool { kind, window, kernel, output, x })
}

/// The p-norm of each window: an average over all its places, times their number, rooted.
pub fn lp_pool(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let Pooling { mut window, kernel, output } = pooling(e, n, x)?;
    let sizes = spatial(e, n, x)?;
    for axis in 0..kernel.rank() {
        // Padding as far as the last window reaches, so that every window has all its places.
        let end = output[axis].saturating_sub(1).saturating_mul(window.strides[axis]);
        let end = end.saturating_add(reach(n, &window, axis, kernel[axis])?);
        let after = end.saturating_sub(sizes[axis].saturating_add(window.before[axis]));
        window.after[axis] = window.after[axis].max(after);
    }
    let places = kernel.checked_count().ok_or_else(|| n.error("the kernel is too large"))?;
    let p = n.int("p", 2)? as f64;
    let x = power(e, x, p)?;
    let kind = PoolKind::Average { count_padding: true };
    let y = e.add(Op::Pool { kind, window, kernel, output, x })?;
    let y = e.with(BinaryOp::Mul, y, places as f64)?;
    root(e, y, p)
}

/// |x|^p
fn power(e: &mut Emit, x: Value, p: f64) -> Made {
    match p {
        2.0 => e.binary(BinaryOp::Mul, x, x),
        _ => {
            let x = e.unary(UnaryOp::Abs, x)?;
            if p == 1.0 { Ok(x) } else { e.with(BinaryOp::Pow, x, p) }
        }
    }
}

fn root(e: &mut Emit, x: Value, p: f64) -> Made {
    match p {
        1.0 => Ok(x),
        2.0 => e.unary(UnaryOp::Sqrt, x),
        _ => e.with(BinaryOp::Pow, x, 1.0 / p),
    }
}

fn all_spatial(e: &Emit, n: &Node, x: Value) -> Result<Axes, Error> {
    Ok((2..spatial(e, n, x)?.len() + 2).collect())
}

pub fn global_average_pool(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axes = all_spatial(e, n, x)?;
    e.mean(x, &axes, true)
}

pub fn global_max_pool(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axes = all_spatial(e, n, x)?;
    e.reduce(ReduceOp::Max, x, &axes, true)
}

pub fn global_lp_pool(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axes = all_spatial(e, n, x)?;
    let p = n.int("p", 2)? as f64;
    let y = power(e, x, p)?;
    let y = e.reduce(ReduceOp::Sum, y, &axes, true)?;
    root(e, y, p)
}

/// x / (bias + alpha / size * (sum of squares over `size` neighbouring channels))^beta.
pub fn local_response_norm(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let size = n.size(n.int("size", 0)?)?;
    if shape.rank() < 2 || size == 0 {
        return Err(n.error(format!("{size} neighbours in {shape}")));
    }
    let rest: usize = shape[2..].iter().product();
    let square = e.binary(BinaryOp::Mul, x, x)?;
    let square = e.reshape(square, [shape[0], 1, shape[1], rest])?;
    let mut window = Box::new(Window::unit(2));
    (window.before[0], window.after[0]) = ((size - 1) / 2, size / 2);
    let (kernel, output) = (Shape::from([size, 1]), Shape::from([shape[1], rest]));
    let kind = PoolKind::Average { count_padding: true };
    let mean = e.add(Op::Pool { kind, window, kernel, output, x: square })?;
    let mean = e.reshape(mean, shape)?;
    let y = e.with(BinaryOp::Mul, mean, n.float("alpha", 1e-4)?)?;
    let y = e.with(BinaryOp::Add, y, n.float("bias", 1.0)?)?;
    let y = e.with(BinaryOp::Pow, y, n.float("beta", 0.75)?)?;
    e.binary(BinaryOp::Div, x, y)
}
