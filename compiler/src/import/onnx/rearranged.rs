//! Elements moved to other places, by sizes or by given lengths.

use smallvec::SmallVec;

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Places, Value},
    import::emit::Emit,
    scalar::BinaryOp,
};

type Made = Result<Value, Error>;

/// The middle of `x` in a given size, zeros around what is smaller.
pub fn center_crop_pad(e: &mut Emit, n: &Node) -> Made {
    let mut x = n.input(0)?;
    let rank = e.rank(x);
    let sizes = n.literal_shape(e, 1)?.ok_or_else(|| n.error("the shape is missing"))?;
    let axes = match n.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => (0..rank as i64).collect(),
    };
    n.axes(&axes, rank)?;
    if axes.len() != sizes.rank() {
        return Err(n.error(format!("{} sizes for {} axes", sizes.rank(), axes.len())));
    }
    let mut before: Places = SmallVec::from_elem(0, rank);
    let mut after = before.clone();
    for (&axis, &want) in axes.iter().zip(sizes.iter()) {
        let axis = n.axis(axis, rank)?;
        let have = e.shape(x)[axis];
        match have.checked_sub(want) {
            Some(more) => x = e.slice(x, axis, more / 2, want, 1)?,
            None => {
                before[axis] = (want - have) / 2;
                after[axis] = want - have - before[axis];
            }
        }
    }
    if before.iter().chain(&after).all(|&it| it == 0) {
        return Ok(x);
    }
    let fill = Some(e.scalar(e.dtype(x), 0.0));
    e.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill })
}

/// The first `lengths[b]` elements along time backwards, the others as they are.
pub fn reverse_sequence(e: &mut Emit, n: &Node) -> Made {
    let (x, lengths) = (n.input(0)?, n.input(1)?);
    let (shape, rank) = (e.shape(x), e.rank(x));
    let (time, batch) = (n.axis(n.int("time_axis", 0)?, rank)?, n.axis(n.int("batch_axis", 1)?, rank)?);
    if time == batch || *e.shape(lengths) != [shape[batch]] {
        let own = e.shape(lengths);
        return Err(n.error(format!("lengths of shape {own} of {shape}, batch {batch} and time {time}")));
    }
    if shape.contains(&0) {
        return Ok(x);
    }
    let most = shape[time] as f64;
    let lengths = e.with(BinaryOp::Max, lengths, 0.0)?;
    let lengths = e.with(BinaryOp::Min, lengths, most)?;
    let lengths = e.cast(lengths, DType::I32)?;
    let mut row = vec![1; rank];
    row[batch] = shape[batch];
    let lengths = e.reshape(lengths, &row[..])?;
    let own = e.iota(DType::I32, shape[time], time, rank)?;
    let back = e.binary(BinaryOp::Sub, lengths, own)?;
    let back = e.with(BinaryOp::Sub, back, 1.0)?;
    let inside = e.binary(BinaryOp::Lt, own, lengths)?;
    let from = e.select(inside, back, own)?;
    let indices = e.expand(from, shape)?;
    e.add(Op::GatherElements { axis: time, x, indices })
}

/// ai.onnx.ml: the named elements of the last axis.
pub fn array_feature_extractor(e: &mut Emit, n: &Node) -> Made {
    let (x, y) = (n.input(0)?, n.input(1)?);
    let rank = e.rank(x);
    let Some(axis) = rank.checked_sub(1) else { return Err(n.error("a scalar has no features")) };
    let indices = e.reshape(y, [e.shape(y).count()])?;
    let y = e.add(Op::Gather { axis, x, indices })?;
    // A vector counts as one row.
    let shape = e.shape(y);
    if rank == 1 { e.reshape(y, [1, shape[0]]) } else { Ok(y) }
}
