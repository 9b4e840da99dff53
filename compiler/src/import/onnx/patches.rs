//! Images put together from windows, and windows that lie where computed places say.

use super::{
    grid::{self, Tap},
    node::Node,
};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Axes,
};

type Made = Result<Value, Error>;

/// Strides, dilations, padding before and after, one each an axis.
struct Geometry {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    /// How often a kernel finds place along each axis.
    positions: Vec<usize>,
}

fn geometry(n: &Node, image: &[usize], kernel: &[usize]) -> Result<Geometry, Error> {
    let d = image.len();
    let sizes = |name: &str, default: usize, count: usize| -> Result<Vec<usize>, Error> {
        let found = n.sizes(name)?.unwrap_or_else(|| vec![default; count]);
        match found.len() == count && found.iter().all(|it| i32::try_from(*it).is_ok()) {
            true => Ok(found),
            false => Err(n.error(format!("{name} {found:?} for {d} spatial axes"))),
        }
    };
    let (strides, dilations, pads) =
        (sizes("strides", 1, d)?, sizes("dilations", 1, d)?, sizes("pads", 0, 2 * d)?);
    if strides.iter().chain(&dilations).any(|&it| it == 0) {
        return Err(n.error("a stride or dilation is 0"));
    }
    let place = |axis: usize| {
        let reach = dilations[axis].checked_mul(kernel[axis].checked_sub(1)?)?.checked_add(1)?;
        let padded = image[axis].checked_add(pads[axis])?.checked_add(pads[d + axis])?;
        Some(padded.checked_sub(reach)? / strides[axis] + 1)
    };
    let positions = (0..d).map(place).collect::<Option<Vec<_>>>();
    let positions =
        positions.ok_or_else(|| n.error(format!("a kernel {kernel:?} finds no place in {image:?}")))?;
    Ok(Geometry { strides, dilations, before: pads[..d].to_vec(), positions })
}

/// Windows [n, c * kernel, windows] added up where they lie in an image. Each element of the image reads from the windows
/// that cover it: one read for each element of the kernel.
pub fn col2im(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let needed =
        |at: usize| n.literal_shape(e, at)?.ok_or_else(|| n.error(format!("operand {at} is missing")));
    let (image, kernel) = (needed(1)?, needed(2)?);
    let d = image.rank();
    let whole = kernel.checked_count().filter(|it| *it > 0);
    let (Some(taps), [batch, rows, windows]) = (whole, &shape[..]) else {
        return Err(n.error(format!("windows of shape {shape} with a kernel {kernel}")));
    };
    if kernel.rank() != d || d == 0 || !rows.is_multiple_of(taps) || image.contains(&0) {
        return Err(n.error(format!("windows of shape {shape} with a kernel {kernel} for an image {image}")));
    }
    let (batch, channels) = (*batch, rows / taps);
    let Geometry { strides, dilations, before, positions } = geometry(n, &image, &kernel)?;
    let count = positions.iter().try_fold(1usize, |all, it| all.checked_mul(*it));
    let own = taps.checked_mul(*windows).and_then(|it| i32::try_from(it).ok());
    if count != Some(*windows) || own.is_none() {
        return Err(n.error(format!("{windows} windows, {positions:?} find place")));
    }
    // For each element of the kernel and of the image: which window, and whether there is one.
    let rank = 2 * d;
    let (mut tap, mut window, mut there) = (None, None, None);
    for axis in 0..d {
        let own_tap = e.iota(DType::I32, kernel[axis], axis, rank)?;
        let place = e.iota(DType::I32, image[axis], d + axis, rank)?;
        let back = e.with(BinaryOp::Mul, own_tap, dilations[axis] as f64)?;
        let place = e.with(BinaryOp::Add, place, before[axis] as f64)?;
        let way = e.binary(BinaryOp::Sub, place, back)?;
        let low = e.with(BinaryOp::Ge, way, 0.0)?;
        let rest = e.with(BinaryOp::Mod, way, strides[axis] as f64)?;
        let exact = e.with(BinaryOp::Eq, rest, 0.0)?;
        let own = e.with(BinaryOp::Div, way, strides[axis] as f64)?;
        let high = e.with(BinaryOp::Lt, own, positions[axis] as f64)?;
        for condition in [low, exact, high] {
            there = grid::joined(e, BinaryOp::And, there, Some(condition))?;
        }
        let own = e.with(BinaryOp::Max, own, 0.0)?;
        let own = e.with(BinaryOp::Min, own, positions[axis] as f64 - 1.0)?;
        tap = Some(counted(e, tap, own_tap, kernel[axis])?);
        window = Some(counted(e, window, own, positions[axis])?);
    }
    let (Some(tap), Some(window), Some(there)) = (tap, window, there) else {
        return Err(n.error("an image without axes"));
    };
    let indices = counted(e, Some(tap), window, *windows)?;
    let flat = e.reshape(x, [batch * channels, taps * windows])?;
    let read = e.add(Op::Gather { axis: 1, x: flat, indices })?;
    let zero = e.scalar(e.dtype(x), 0.0);
    let read = e.select(there, read, zero)?;
    let axes: Axes = (1..=d).collect();
    let y = e.reduce(ReduceOp::Sum, read, &axes, false)?;
    e.reshape(y, &[&[batch, channels], &image[..]].concat()[..])
}

/// outer * size + own
fn counted(e: &mut Emit, outer: Option<Value>, own: Value, size: usize) -> Made {
    match outer {
        None => Ok(own),
        Some(outer) => {
            let outer = e.with(BinaryOp::Mul, outer, size as f64)?;
            e.binary(BinaryOp::Add, outer, own)
        }
    }
}

/// A convolution whose kernel's elements lie at offsets of their own. The image is read 2^d times for each of them, then it
/// is a matrix product; the values read are as many as those of an image unfolded.
pub fn deform_conv(e: &mut Emit, n: &Node) -> Made {
    let (x, w, offset) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, weight, given, dtype) = (e.shape(x), e.shape(w), e.shape(offset), e.dtype(x));
    let d = shape.rank().saturating_sub(2);
    if d == 0 || weight.rank() != d + 2 || given.rank() != d + 2 {
        return Err(n.error(format!("a kernel {weight} and offsets {given} for {shape}")));
    }
    let kernel = weight[2..].to_vec();
    if n.sizes("kernel_shape")?.is_some_and(|it| it != kernel) {
        return Err(n.error(format!("kernel_shape is not that of the kernel {weight}")));
    }
    let (groups, parts) = (n.size(n.int("group", 1)?)?, n.size(n.int("offset_group", 1)?)?);
    let taps: usize = kernel.iter().product();
    let (batch, channels, features) = (shape[0], shape[1], weight[0]);
    let Geometry { strides, dilations, before, positions } = geometry(n, &shape[2..], &kernel)?;
    let fits = groups > 0
        && parts > 0
        && features.is_multiple_of(groups)
        && weight[1].checked_mul(groups) == Some(channels)
        && channels.is_multiple_of(parts)
        && given[0] == batch
        && given[1] == parts * taps * d
        && given[2..] == positions;
    if !fits || shape[2..].contains(&0) || taps == 0 {
        return Err(n.error(format!("a kernel {weight} and offsets {given} for {shape}")));
    }
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let offset = e.cast(offset, wide)?;
    let split = [&[batch * parts], &kernel[..], &[d], &positions[..]].concat();
    let offset = e.reshape(offset, &split[..])?;
    let mut axes = Vec::new();
    for axis in 0..d {
        let own = e.slice(offset, d + 1, axis, 1, 1)?;
        let own = e.reshape(own, &[&[batch * parts], &kernel[..], &positions[..]].concat()[..])?;
        let tap = e.iota(wide, kernel[axis], 1 + axis, 1 + 2 * d)?;
        let place = e.iota(wide, positions[axis], 1 + d + axis, 1 + 2 * d)?;
        let tap = e.with(BinaryOp::Mul, tap, dilations[axis] as f64)?;
        let place = e.with(BinaryOp::Mul, place, strides[axis] as f64)?;
        let place = e.with(BinaryOp::Sub, place, before[axis] as f64)?;
        let place = e.binary(BinaryOp::Add, place, tap)?;
        let place = e.binary(BinaryOp::Add, own, place)?;
        let place = e.reshape(place, [&[batch * parts, taps], &positions[..]].concat().as_slice())?;
        axes.push(grid::linear(e, place, shape[2 + axis])?);
    }
    let image = e.reshape(x, &[&[batch * parts, channels / parts], &shape[2..]].concat()[..])?;
    // [batch * parts, channels / parts, taps, out..]
    let mut read = grid::at_taps(e, n, image, &axes, BinaryOp::Add)?;
    if let Some(mask) = n.opt(4) {
        let own = e.shape(mask);
        if own.rank() != d + 2 || own[..2] != [batch, parts * taps] || own[2..] != positions {
            return Err(n.error(format!("a mask of shape {own}")));
        }
        let mask = e.cast(mask, wide)?;
        let mask = e.reshape(mask, &[&[batch * parts, 1, taps], &positions[..]].concat()[..])?;
        read = e.binary(BinaryOp::Mul, read, mask)?;
    }
    let read = e.cast(read, dtype)?;
    let out: usize = positions.iter().product();
    let depth = weight[1] * taps;
    let read = e.reshape(read, [batch, groups, depth, out])?;
    let w = e.reshape(w, [1, groups, features / groups, depth])?;
    let mut y = e.matmul(w, read)?;
    y = e.reshape(y, [batch, features, out])?;
    if let Some(bias) = n.opt(3) {
        let bias = e.reshape(bias, [features, 1])?;
        y = e.binary(BinaryOp::Add, y, bias)?;
    }
    e.reshape(y, &[&[batch, features], &positions[..]].concat()[..])
}

/// The most samples along one side of a bin of a region.
const MAX_SAMPLES: usize = 1 << 10;

/// Averages or maxima of samples between the elements of an image, for each bin of each region.
pub fn roi_align(e: &mut Emit, n: &Node) -> Made {
    let (x, rois, batch) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, given, dtype) = (e.shape(x), e.shape(rois), e.dtype(x));
    let ([images, channels, height, width], [count, 4]) = (&shape[..], &given[..]) else {
        return Err(n.error(format!("regions of shape {given} in {shape}")));
    };
    let (images, channels, sides, count) = (*images, *channels, [*height, *width], *count);
    if *e.shape(batch) != [count] || shape.contains(&0) {
        return Err(n.error(format!("{count} regions of images {} in {shape}", e.shape(batch))));
    }
    let largest = match n.text("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(n.error(format!("mode '{other}' is neither 'avg' nor 'max'"))),
    };
    let default = if n.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let shifted = match n.text("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(n.error(format!("unknown coordinate_transformation_mode '{other}'"))),
    };
    let scale = n.float("spatial_scale", 1.0)?;
    let ratio = n.size(n.int("sampling_ratio", 0)?)?;
    let bins = [n.size(n.int("output_height", 1)?)?, n.size(n.int("output_width", 1)?)?];
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let rois = e.cast(rois, wide)?;
    let image = e.with(BinaryOp::Max, batch, 0.0)?;
    let image = e.with(BinaryOp::Min, image, images as f64 - 1.0)?;
    let image = e.cast(image, DType::I32)?;
    let image = e.reshape(image, [1, count, 1, 1, 1, 1])?;
    let mut axes = vec![vec![Tap { at: image, weight: None, there: None }]];
    // Which samples there are, and how many, where that differs from region to region.
    let (mut there, mut number) = (None, None);
    for (axis, (side, bins)) in sides.into_iter().zip(bins).enumerate() {
        let corner = |e: &mut Emit, at: usize| -> Made {
            let it = e.slice(rois, 1, at, 1, 1)?;
            let it = e.reshape(it, [1, count, 1, 1, 1, 1])?;
            let it = e.with(BinaryOp::Mul, it, scale)?;
            if shifted { e.with(BinaryOp::Sub, it, 0.5) } else { Ok(it) }
        };
        let (start, end) = (corner(e, 1 - axis)?, corner(e, 3 - axis)?);
        let mut way = e.binary(BinaryOp::Sub, end, start)?;
        if !shifted {
            way = e.with(BinaryOp::Max, way, 1.0)?;
        }
        let bin = e.with(BinaryOp::Div, way, bins as f64)?;
        let samples = match ratio {
            0 => samples(e, n, axis, scale, bins)?,
            ratio => ratio,
        };
        if samples > MAX_SAMPLES {
            return Err(n.unsupported(format!("{samples} samples along a bin (at most {MAX_SAMPLES})")));
        }
        let own = e.iota(wide, bins, 2 + 2 * axis, 6)?;
        let sample = e.iota(wide, samples, 3 + 2 * axis, 6)?;
        let middle = e.with(BinaryOp::Add, sample, 0.5)?;
        let part = match ratio {
            0 => {
                let own = e.unary(UnaryOp::Ceil, bin)?;
                let inside = e.binary(BinaryOp::Lt, sample, own)?;
                there = grid::joined(e, BinaryOp::And, there, Some(inside))?;
                let own = e.with(BinaryOp::Max, own, 1.0)?;
                number = grid::joined(e, BinaryOp::Mul, number, Some(own))?;
                e.binary(BinaryOp::Div, middle, own)?
            }
            ratio => e.with(BinaryOp::Div, middle, ratio as f64)?,
        };
        let place = e.binary(BinaryOp::Add, own, part)?;
        let place = e.binary(BinaryOp::Mul, place, bin)?;
        let place = e.binary(BinaryOp::Add, place, start)?;
        let (low, high) = (e.with(BinaryOp::Ge, place, -1.0)?, e.with(BinaryOp::Le, place, side as f64)?);
        let near = e.binary(BinaryOp::And, low, high)?;
        let place = e.with(BinaryOp::Max, place, 0.0)?;
        let place = e.with(BinaryOp::Min, place, side as f64 - 1.0)?;
        let mut taps = grid::linear(e, place, side)?;
        taps.iter_mut().for_each(|it| it.there = Some(near));
        axes.push(taps);
    }
    let planes = e.permute(x, &[1, 0, 2, 3])?;
    let planes = e.reshape(planes, [1, channels, images, sides[0], sides[1]])?;
    let join = if largest { BinaryOp::Max } else { BinaryOp::Add };
    // [1, channels, regions, bins, samples, bins, samples]
    let mut read = grid::at_taps(e, n, planes, &axes, join)?;
    if let Some(there) = there {
        let there = e.reshape(there, &[&[1], &e.shape(there)[..]].concat()[..])?;
        let none = e.scalar(wide, if largest { f64::NEG_INFINITY } else { 0.0 });
        read = e.select(there, read, none)?;
    }
    let samples: Axes = [4, 6].into_iter().collect();
    let y = match (largest, number) {
        (true, _) => e.reduce(ReduceOp::Max, read, &samples, false)?,
        (false, None) => e.mean(read, &samples, false)?,
        (false, Some(number)) => {
            let sum = e.reduce(ReduceOp::Sum, read, &samples, false)?;
            let number = e.reshape(number, [1, 1, count, 1, 1])?;
            e.binary(BinaryOp::Div, sum, number)?
        }
    };
    let y = e.reshape(y, [channels, count, bins[0], bins[1]])?;
    let y = e.permute(y, &[1, 0, 2, 3])?;
    e.cast(y, dtype)
}

/// The most samples that a bin of any region takes where their number follows from the regions' sizes.
fn samples(e: &Emit, n: &Node, axis: usize, scale: f64, bins: usize) -> Result<usize, Error> {
    let rois = n.literal(e, 1)?.ok_or_else(|| n.error("the regions are missing"))?.to_f64();
    let sizes = rois.chunks_exact(4).map(|it| (it[3 - axis] - it[1 - axis]) * scale);
    let most = sizes.fold(1.0, f64::max) / bins.max(1) as f64;
    // One more than rounding could ask for.
    Ok((most.ceil() as usize).saturating_add(1))
}

/// Maxima of the elements of each bin of each region [image, x1, y1, x2, y2]. Every bin looks at its whole image, which is
/// more work than there is in the bins by the part that they take of it.
pub fn max_roi_pool(e: &mut Emit, n: &Node) -> Made {
    let (x, rois) = (n.input(0)?, n.input(1)?);
    let (shape, given, dtype) = (e.shape(x), e.shape(rois), e.dtype(x));
    let ([images, channels, height, width], [count, 5]) = (&shape[..], &given[..]) else {
        return Err(n.error(format!("regions of shape {given} in {shape}")));
    };
    let (images, channels, sides, count) = (*images, *channels, [*height, *width], *count);
    let bins = n.sizes("pooled_shape")?.filter(|it| it.len() == 2);
    let bins = bins.ok_or_else(|| n.error("attribute 'pooled_shape' is missing"))?;
    let scale = n.float("spatial_scale", 1.0)?;
    if shape.contains(&0) || !dtype.is_float() {
        return Err(n.error(format!("regions in {shape}")));
    }
    let column = |e: &mut Emit, at: usize| -> Made {
        let it = e.slice(rois, 1, at, 1, 1)?;
        e.reshape(it, [count, 1, 1])
    };
    let image = column(e, 0)?;
    let image = e.with(BinaryOp::Max, image, 0.0)?;
    let image = e.with(BinaryOp::Min, image, images as f64 - 1.0)?;
    let image = e.cast(image, DType::I32)?;
    let image = e.reshape(image, [count])?;
    let rounded = |e: &mut Emit, at: usize| -> Made {
        let it = column(e, at)?;
        let it = e.with(BinaryOp::Mul, it, scale)?;
        e.unary(UnaryOp::Round, it)
    };
    let mut inside = None;
    for axis in 0..2 {
        let (start, end) = (rounded(e, 2 - axis)?, rounded(e, 4 - axis)?);
        let way = e.binary(BinaryOp::Sub, end, start)?;
        let way = e.with(BinaryOp::Add, way, 1.0)?;
        let way = e.with(BinaryOp::Max, way, 1.0)?;
        let bin = e.with(BinaryOp::Div, way, bins[axis] as f64)?;
        let own = e.iota(dtype, bins[axis], 1, 3)?;
        let (low, next) = (e.binary(BinaryOp::Mul, own, bin)?, e.with(BinaryOp::Add, own, 1.0)?);
        let high = e.binary(BinaryOp::Mul, next, bin)?;
        let (low, high) = (e.unary(UnaryOp::Floor, low)?, e.unary(UnaryOp::Ceil, high)?);
        let (low, high) = (e.binary(BinaryOp::Add, low, start)?, e.binary(BinaryOp::Add, high, start)?);
        let place = e.iota(dtype, sides[axis], 2, 3)?;
        let (from, to) = (e.binary(BinaryOp::Ge, place, low)?, e.binary(BinaryOp::Lt, place, high)?);
        // [regions, 1, bins, 1, side, 1] and [regions, 1, 1, bins, 1, side]
        let mut wide = [count, 1, 1, 1, 1, 1];
        (wide[2 + axis], wide[4 + axis]) = (bins[axis], sides[axis]);
        let own = e.binary(BinaryOp::And, from, to)?;
        let own = e.reshape(own, wide)?;
        inside = grid::joined(e, BinaryOp::And, inside, Some(own))?;
    }
    let inside = inside.ok_or_else(|| n.error("an image without axes"))?;
    let planes = e.add(Op::Gather { axis: 0, x, indices: image })?;
    let planes = e.reshape(planes, [count, channels, 1, 1, sides[0], sides[1]])?;
    let none = e.scalar(dtype, f64::NEG_INFINITY);
    let held = e.select(inside, planes, none)?;
    let most = e.reduce(ReduceOp::Max, held, &[4, 5].into_iter().collect(), false)?;
    // A bin without elements.
    let (empty, zero) = (e.binary(BinaryOp::Eq, most, none)?, e.scalar(dtype, 0.0));
    e.select(empty, zero, most)
}
