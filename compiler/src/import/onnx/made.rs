//! Operators made of comparisons of places, and rearrangements of blocks.

use super::node::Node;
use crate::{dtype::DType, error::Error, graph::Value, import::emit::Emit, scalar::BinaryOp};

type Made = Result<Value, Error>;

pub fn eye_like(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let [rows, columns] = shape[..] else {
        return Err(n.error(format!("{shape} is no matrix")));
    };
    let to = match n.opt_int("dtype")? {
        Some(code) => {
            super::tensor::dtype(code as i32).map_err(|what| n.unsupported(format!("the result {what}")))?
        }
        None => e.dtype(x),
    };
    let (row, column) = (e.iota(DType::I64, rows, 0, 2)?, e.iota(DType::I64, columns, 1, 2)?);
    let shift = e.ints(&[n.int("k", 0)?]);
    let row = e.binary(BinaryOp::Add, row, shift)?;
    let hit = e.binary(BinaryOp::Eq, row, column)?;
    e.cast(hit, to)
}

pub fn trilu(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (shape, rank) = (e.shape(x), e.rank(x));
    if rank < 2 {
        return Err(n.error(format!("{shape} is no matrix")));
    }
    let shift = n.literal_ints(e, 1)?.and_then(|it| it.first().copied()).unwrap_or(0);
    let row = e.iota(DType::I64, shape[rank - 2], 0, 2)?;
    let column = e.iota(DType::I64, shape[rank - 1], 1, 2)?;
    let shift = e.ints(&[shift]);
    let row = e.binary(BinaryOp::Add, row, shift)?;
    let op = if n.flag("upper", true)? { BinaryOp::Ge } else { BinaryOp::Le };
    let stays = e.binary(op, column, row)?;
    let zero = e.scalar(e.dtype(x), 0.0);
    e.select(stays, x, zero)
}

pub fn one_hot(e: &mut Emit, n: &Node) -> Made {
    let (indices, values) = (n.input(0)?, n.input(2)?);
    let depth = n.literal_ints(e, 1)?.and_then(|it| it.first().copied());
    let depth = n.size(depth.ok_or_else(|| n.error("the depth is missing"))?)?;
    if depth > 1 << 24 {
        return Err(n.unsupported(format!("a depth of {depth}")));
    }
    let mut shape = e.shape(indices).to_vec();
    let rank = shape.len() + 1;
    let axis = n.axis(n.int("axis", -1)?, rank)?;
    shape.insert(axis, 1);
    if e.shape(values)[..] != [2] {
        return Err(n.error(format!("values are {}, not [off, on]", e.graph.ty(values))));
    }
    let indices = e.cast(indices, DType::I64)?;
    let indices = e.reshape(indices, &shape[..])?;
    let negative = e.with(BinaryOp::Lt, indices, 0.0)?;
    let from_end = e.with(BinaryOp::Add, indices, depth as f64)?;
    let indices = e.select(negative, from_end, indices)?;
    let places = e.iota(DType::I64, depth, axis, rank)?;
    let hit = e.binary(BinaryOp::Eq, indices, places)?;
    let (off, on) = (e.slice(values, 0, 0, 1, 1)?, e.slice(values, 0, 1, 1, 1)?);
    let (off, on) = (e.reshape(off, [])?, e.reshape(on, [])?);
    e.select(hit, on, off)
}

pub fn depth_to_space(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (b, c, h, w, size) = image(e, n, x)?;
    if !c.is_multiple_of(size * size) {
        return Err(n.error(format!("{c} channels do not divide into blocks of {size}x{size}")));
    }
    let deep = c / (size * size);
    let (split, order) = match n.text("mode", "DCR")? {
        "DCR" => ([b, size, size, deep, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([b, deep, size, size, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(n.error(format!("mode '{other}' is neither DCR nor CRD"))),
    };
    let y = e.reshape(x, split)?;
    let y = e.permute(y, &order)?;
    e.reshape(y, [b, deep, h * size, w * size])
}

pub fn space_to_depth(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (b, c, h, w, size) = image(e, n, x)?;
    if !h.is_multiple_of(size) || !w.is_multiple_of(size) {
        return Err(n.error(format!("{h}x{w} does not divide into blocks of {size}x{size}")));
    }
    let y = e.reshape(x, [b, c, h / size, size, w / size, size])?;
    let order = match n.text("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(n.error(format!("mode '{other}' is neither DCR nor CRD"))),
    };
    let y = e.permute(y, &order)?;
    e.reshape(y, [b, c * size * size, h / size, w / size])
}

fn image(e: &Emit, n: &Node, x: Value) -> Result<(usize, usize, usize, usize, usize), Error> {
    let size = n.opt_int("blocksize")?.ok_or_else(|| n.error("attribute 'blocksize' is missing"))?;
    let shape = e.shape(x);
    match (&shape[..], n.size(size)?) {
        (&[b, c, h, w], size @ 1..=65536) => Ok((b, c, h, w, size)),
        (_, size) => Err(n.error(format!("{shape} in blocks of {size}"))),
    }
}
