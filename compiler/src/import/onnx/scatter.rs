//! Writes at computed places, told from where they arrive: each element of the result looks for the updates that name it.
//!
//! So the order of threads does not matter, floats need no atomic operations and results are the same on every device. It
//! costs places times updates comparisons, where writing would cost their sum; beyond `MAX_WORK` of them it is refused.
//! No memory is needed beyond the result and, for each place, the number of an update.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp},
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// The most comparisons, a few seconds on one processor.
const MAX_WORK: u64 = 1 << 34;

/// What becomes of an element and the updates that name it; without a reduction the last of them takes its place.
fn reduction(n: &Node) -> Result<Option<ReduceOp>, Error> {
    Ok(match n.text("reduction", "none")? {
        "none" => None,
        "add" => Some(ReduceOp::Sum),
        "mul" => Some(ReduceOp::Prod),
        "max" => Some(ReduceOp::Max),
        "min" => Some(ReduceOp::Min),
        other => return Err(n.error(format!("unknown reduction '{other}'"))),
    })
}

/// `indices` along an axis of `size`, the negative ones from the end, clamped, as I32.
fn from_start(e: &mut Emit, indices: Value, size: usize) -> Made {
    let size = size as f64;
    let x = e.with(BinaryOp::Max, indices, -size)?;
    let x = e.with(BinaryOp::Min, x, size - 1.0)?;
    let x = e.cast(x, DType::I32)?;
    let (negative, wrapped) = (e.with(BinaryOp::Lt, x, 0.0)?, e.with(BinaryOp::Add, x, size)?);
    e.select(negative, wrapped, x)
}

fn check_work(n: &Node, factors: &[usize]) -> Result<(), Error> {
    let work = factors.iter().try_fold(1usize, |all, it| all.checked_mul(*it));
    match work {
        Some(work) if work as u64 <= MAX_WORK && factors.iter().all(|&it| i32::try_from(it).is_ok()) => {
            Ok(())
        }
        _ => {
            Err(n
                .unsupported(format!("{factors:?} places and updates to compare, at most {MAX_WORK} in all")))
        }
    }
}

/// x with `updates` joined in along axis `at` of both, where `hit` (rank one more: `at` is the place, `at + 1` the update)
/// says so. `x` and `updates` differ along this axis only.
fn place(e: &mut Emit, [x, hit, updates]: [Value; 3], at: usize, reduction: Option<ReduceOp>) -> Made {
    let (count, rank, dtype) = (e.shape(updates)[at], e.rank(x), e.dtype(x));
    let along = [at + 1].into_iter().collect();
    match reduction {
        None => {
            let (number, none) = (e.iota(DType::I32, count, at + 1, rank + 1)?, e.scalar(DType::I32, -1.0));
            let last = e.select(hit, number, none)?;
            let last = e.reduce(ReduceOp::Max, last, &along, false)?;
            let found = e.with(BinaryOp::Ge, last, 0.0)?;
            let last = e.with(BinaryOp::Max, last, 0.0)?;
            let last = e.expand(last, e.shape(x))?;
            let new = e.add(Op::GatherElements { axis: at, x: updates, indices: last })?;
            e.select(found, new, x)
        }
        Some(op) => {
            let mut wide = e.shape(updates).to_vec();
            wide.insert(at, 1);
            let updates = e.reshape(updates, &wide[..])?;
            let neutral = match op {
                ReduceOp::Sum | ReduceOp::Prod => e.constant(Tensor::scalar(dtype, op.identity(dtype))),
                // An integer's own end would say of the result that it may be any.
                ReduceOp::Max | ReduceOp::Min => {
                    let mut own = e.shape(x).to_vec();
                    own.insert(at + 1, 1);
                    e.reshape(x, &own[..])?
                }
            };
            let terms = e.select(hit, updates, neutral)?;
            let joined = e.reduce(op, terms, &along, false)?;
            e.binary(op.combine(), joined, x)
        }
    }
}

/// Also Scatter, as it was called before opset 11.
pub fn elements(e: &mut Emit, n: &Node) -> Made {
    let (x, indices, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, given) = (e.shape(x), e.shape(indices));
    let rank = shape.rank();
    let axis = n.axis(n.int("axis", 0)?, rank)?;
    let op = reduction(n)?;
    let fits = given.rank() == rank && (0..rank).all(|it| it == axis || given[it] <= shape[it]);
    if e.shape(updates) != given || !fits {
        let own = e.shape(updates);
        return Err(n.error(format!("updates of shape {own} at indices of shape {given} of {shape}")));
    }
    if given.contains(&0) || shape.contains(&0) {
        return Ok(x);
    }
    check_work(n, &[shape.count(), given[axis]])?;
    let mut index = from_start(e, indices, shape[axis])?;
    let mut new = updates;
    if (0..rank).any(|it| it != axis && given[it] < shape[it]) {
        // Where there are no indices there is one that names nothing.
        let after = (0..rank).map(|it| if it == axis { 0 } else { shape[it] - given[it] }).collect();
        let pads = (smallvec::SmallVec::from_elem(0, rank), after);
        index = padded(e, index, &pads, -1.0)?;
        new = padded(e, new, &pads, 0.0)?;
    }
    let mut wide = e.shape(index).to_vec();
    wide.insert(axis, 1);
    let index = e.reshape(index, &wide[..])?;
    let own = e.iota(DType::I32, shape[axis], axis, rank + 1)?;
    let hit = e.binary(BinaryOp::Eq, index, own)?;
    place(e, [x, hit, new], axis, op)
}

type Pads = (Places, Places);

fn padded(e: &mut Emit, x: Value, pads: &Pads, fill: f64) -> Made {
    let fill = Some(e.scalar(e.dtype(x), fill));
    let (before, after) = pads.clone();
    e.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill })
}

pub fn nd(e: &mut Emit, n: &Node) -> Made {
    let (x, indices, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, given) = (e.shape(x), e.shape(indices));
    let op = reduction(n)?;
    let Some((&width, outer)) = given.split_last() else { return Err(n.error("the indices are a scalar")) };
    let want = (width <= shape.rank()).then(|| [outer, &shape[width..]].concat());
    if want.as_deref() != Some(&e.shape(updates)[..]) {
        let own = e.shape(updates);
        return Err(n.error(format!("updates of shape {own} at indices of shape {given} of {shape}")));
    }
    if e.shape(updates).contains(&0) || shape.contains(&0) {
        return Ok(x);
    }
    let places: usize = shape[..width].iter().product();
    let run: usize = shape[width..].iter().product();
    let count: usize = outer.iter().product();
    check_work(n, &[places, count, if op.is_some() { run } else { 1 }])?;
    let indices = e.reshape(indices, [count, width])?;
    let mut place_of = e.scalar(DType::I32, 0.0);
    for axis in 0..width {
        let own = e.slice(indices, 1, axis, 1, 1)?;
        let own = from_start(e, own, shape[axis])?;
        let outer = e.with(BinaryOp::Mul, place_of, shape[axis] as f64)?;
        place_of = e.binary(BinaryOp::Add, outer, own)?;
    }
    let place_of = e.expand(place_of, [count, 1])?;
    let place_of = e.reshape(place_of, [1, count, 1])?;
    let own = e.iota(DType::I32, places, 0, 3)?;
    let hit = e.binary(BinaryOp::Eq, place_of, own)?;
    let (flat, new) = (e.reshape(x, [places, run])?, e.reshape(updates, [count, run])?);
    let y = match op {
        Some(_) => place(e, [flat, hit, new], 0, op)?,
        // Which update is looked for once a place, not once an element.
        None => {
            let number = e.iota(DType::I32, count, 1, 3)?;
            let none = e.scalar(DType::I32, -1.0);
            let last = e.select(hit, number, none)?;
            let last = e.reduce(ReduceOp::Max, last, &[1, 2].into_iter().collect(), false)?;
            let found = e.with(BinaryOp::Ge, last, 0.0)?;
            let found = e.reshape(found, [places, 1])?;
            let last = e.with(BinaryOp::Max, last, 0.0)?;
            let new = e.add(Op::Gather { axis: 0, x: new, indices: last })?;
            e.select(found, new, flat)?
        }
    };
    e.reshape(y, shape)
}

/// A cache [b, .., length, ..] with updates [b, .., some, ..] written from place `write_indices[b]` on. Each element of the
/// cache knows which update it takes: the work is that of a copy.
pub fn tensor(e: &mut Emit, n: &Node) -> Made {
    let (past, updates) = (n.input(0)?, n.input(1)?);
    let (shape, new) = (e.shape(past), e.shape(updates));
    let rank = shape.rank();
    let axis = n.axis(n.int("axis", -2)?, rank)?;
    let circular = match n.text("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(n.error(format!("mode '{other}' is neither 'linear' nor 'circular'"))),
    };
    let fits = new.rank() == rank && (0..rank).all(|it| it == axis || new[it] == shape[it]);
    if axis == 0 || !fits || new[axis] > shape[axis] {
        return Err(n.error(format!("updates of shape {new} along axis {axis} of {shape}")));
    }
    if new.contains(&0) {
        return Ok(past);
    }
    let length = shape[axis];
    let own = e.iota(DType::I32, length, axis, rank)?;
    let at = match n.opt(2) {
        Some(first) if *e.shape(first) == [shape[0]] => {
            let first = match circular {
                true => e.with(BinaryOp::Mod, first, length as f64)?,
                false => e.with(BinaryOp::Max, first, 0.0)?,
            };
            let first = e.with(BinaryOp::Min, first, length as f64)?;
            let first = e.cast(first, DType::I32)?;
            let mut column = vec![1; rank];
            column[0] = shape[0];
            let first = e.reshape(first, &column[..])?;
            e.binary(BinaryOp::Sub, own, first)?
        }
        Some(first) => {
            return Err(n.error(format!("write indices of shape {} for {shape}", e.shape(first))));
        }
        None => own,
    };
    let at = if circular { e.with(BinaryOp::Mod, at, length as f64)? } else { at };
    let (low, high) = (e.with(BinaryOp::Ge, at, 0.0)?, e.with(BinaryOp::Lt, at, new[axis] as f64)?);
    let there = e.binary(BinaryOp::And, low, high)?;
    let at = e.with(BinaryOp::Max, at, 0.0)?;
    let at = e.with(BinaryOp::Min, at, new[axis] as f64 - 1.0)?;
    let indices = e.expand(at, shape)?;
    let new = e.add(Op::GatherElements { axis, x: updates, indices })?;
    e.select(there, new, past)
}

/// The elements of operand 0 at the places that operand 1 names in the image that was pooled, elsewhere 0. Each of an image's
/// planes is searched by itself.
pub fn max_unpool(e: &mut Emit, n: &Node) -> Made {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let shape = e.shape(x);
    if shape.rank() < 3 || e.shape(indices) != shape {
        return Err(n.error(format!("indices of shape {} for {shape}", e.shape(indices))));
    }
    let spatial = shape.rank() - 2;
    let sizes = |name: &str, default: usize, count: usize| -> Result<Vec<usize>, Error> {
        let found = n.sizes(name)?.unwrap_or_else(|| vec![default; count]);
        match found.len() == count {
            true => Ok(found),
            false => Err(n.error(format!("{} {name} for {spatial} spatial axes", found.len()))),
        }
    };
    let kernel = sizes("kernel_shape", 0, spatial)?;
    let (strides, pads) = (sizes("strides", 1, spatial)?, sizes("pads", 0, 2 * spatial)?);
    let mut image = Vec::new();
    for axis in 0..spatial {
        let way = shape[2 + axis].saturating_sub(1).checked_mul(strides[axis]);
        let full = way.and_then(|it| it.checked_add(kernel[axis]));
        let cut = pads[axis].checked_add(pads[spatial + axis]);
        let own = full.zip(cut).and_then(|(full, cut)| full.checked_sub(cut));
        image.push(own.ok_or_else(|| n.error("the sizes of the image overflow"))?);
    }
    let plane = image.iter().try_fold(1usize, |all, it| all.checked_mul(*it));
    let plane = plane.ok_or_else(|| n.error("the image is too large"))?;
    let (planes, each) = (shape[0] * shape[1], shape[2..].iter().product::<usize>());
    check_work(n, &[planes, plane, each])?;
    let wide: Vec<usize> = shape[..2].iter().chain(&image).copied().collect();
    if planes * plane * each == 0 {
        return Err(n.error(format!("nothing to put into {wide:?}")));
    }
    let index = e.reshape(indices, [planes, 1, each])?;
    let index = e.with(BinaryOp::Mod, index, plane as f64)?;
    let index = e.cast(index, DType::I32)?;
    let own = e.iota(DType::I32, plane, 1, 3)?;
    let hit = e.binary(BinaryOp::Eq, index, own)?;
    let zero = e.scalar(e.dtype(x), 0.0);
    let blank = e.expand(zero, [planes, plane])?;
    let new = e.reshape(x, [planes, each])?;
    let mut y = place(e, [blank, hit, new], 1, None)?;
    y = e.reshape(y, &wide[..])?;
    let Some(stated) = n.literal_shape(e, 2)? else { return Ok(y) };
    if stated.rank() != shape.rank() || stated[..2] != shape[..2] {
        return Err(n.error(format!("an output shape of {stated} for {wide:?}")));
    }
    for axis in 2..stated.rank() {
        y = e.slice(y, axis, 0, wide[axis].min(stated[axis]), 1)?;
    }
    let before = smallvec::SmallVec::from_elem(0, stated.rank());
    let after = (0..stated.rank()).map(|it| stated[it].saturating_sub(wide[it])).collect();
    padded(e, y, &(before, after), 0.0)
}
