//! Reductions, scans, and what is made of them.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Axes,
};

type Made = Result<Value, Error>;

#[derive(Clone, Copy)]
pub enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

pub fn reduce(kind: Kind, e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let rank = e.rank(x);
    let since = if matches!(kind, Kind::Sum) { 13 } else { 18 };
    let axes = n.ints_at(e, "axes", since, 1)?.unwrap_or_default();
    let noop = n.flag("noop_with_empty_axes", false)?;
    let axes = match axes.is_empty() && !noop {
        true => (0..rank).collect(),
        false => n.axes(&axes, rank)?,
    };
    over(kind, e, x, &axes, n.flag("keepdims", true)?)
}

/// Integers are averaged and rooted in f32, then cut.
pub fn over(kind: Kind, e: &mut Emit, x: Value, axes: &Axes, keep: bool) -> Made {
    let dtype = e.dtype(x);
    match kind {
        Kind::Sum => e.reduce(ReduceOp::Sum, x, axes, keep),
        Kind::Prod => e.reduce(ReduceOp::Prod, x, axes, keep),
        Kind::Max => e.reduce(ReduceOp::Max, x, axes, keep),
        Kind::Min => e.reduce(ReduceOp::Min, x, axes, keep),
        Kind::Mean if dtype.is_float() => e.mean(x, axes, keep),
        Kind::Mean => {
            let sum = e.reduce(ReduceOp::Sum, x, axes, keep)?;
            let shape = e.shape(x);
            let count: usize = axes.iter().map(|&it| shape[it]).product();
            e.with(BinaryOp::Div, sum, count as f64)
        }
        Kind::L1 => {
            let x = e.unary(UnaryOp::Abs, x)?;
            e.reduce(ReduceOp::Sum, x, axes, keep)
        }
        Kind::SumSquare => {
            let x = e.binary(BinaryOp::Mul, x, x)?;
            e.reduce(ReduceOp::Sum, x, axes, keep)
        }
        _ if !dtype.is_float() => {
            let x = e.cast(x, DType::F32)?;
            let y = over(kind, e, x, axes, keep)?;
            e.cast(y, dtype)
        }
        Kind::L2 => {
            let y = over(Kind::SumSquare, e, x, axes, keep)?;
            e.unary(UnaryOp::Sqrt, y)
        }
        Kind::LogSum => {
            let y = e.reduce(ReduceOp::Sum, x, axes, keep)?;
            e.unary(UnaryOp::Log, y)
        }
        Kind::LogSumExp => {
            // An infinite maximum would make inf - inf; without it exp and log do the right thing.
            let most = e.reduce(ReduceOp::Max, x, axes, true)?;
            let infinite = e.unary(UnaryOp::IsInf, most)?;
            let zero = e.scalar(dtype, 0.0);
            let most = e.select(infinite, zero, most)?;
            let y = e.binary(BinaryOp::Sub, x, most)?;
            let y = e.unary(UnaryOp::Exp, y)?;
            let y = e.reduce(ReduceOp::Sum, y, axes, true)?;
            let y = e.unary(UnaryOp::Log, y)?;
            let y = e.binary(BinaryOp::Add, y, most)?;
            let shape = e.shape(y);
            match keep {
                true => Ok(y),
                false => e.reshape(
                    y,
                    (0..shape.rank())
                        .filter(|it| !axes.contains(it))
                        .map(|it| shape[it])
                        .collect::<crate::shape::Shape>(),
                ),
            }
        }
    }
}

pub fn arg(largest: bool, e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axis = n.axis(n.int("axis", 0)?, e.rank(x))?;
    let last = n.flag("select_last_index", false)?;
    e.add(Op::ArgReduce { largest, last, axis, keep: n.flag("keepdims", true)?, x })
}

pub fn cumsum(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axis = n.literal_ints(e, 1)?.and_then(|it| it.first().copied());
    let axis = axis.ok_or_else(|| n.error("the axis is missing"))?;
    let axis = n.axis(axis, e.rank(x))?;
    let (exclusive, reverse) = (n.flag("exclusive", false)?, n.flag("reverse", false)?);
    e.add(Op::CumSum { axis, exclusive, reverse, x })
}

/// As `Op::CumSum` is lowered: each element a product over the axis of what stands before it.
pub fn cumprod(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axis = n.literal_ints(e, 1)?.and_then(|it| it.first().copied());
    let axis = n.axis(axis.ok_or_else(|| n.error("the axis is missing"))?, shape.rank())?;
    let rank = shape.rank() + 1;
    let (own, other) =
        (e.iota(DType::I32, shape[axis], axis, rank)?, e.iota(DType::I32, shape[axis], axis + 1, rank)?);
    let compare = match (n.flag("reverse", false)?, n.flag("exclusive", false)?) {
        (false, false) => BinaryOp::Le,
        (false, true) => BinaryOp::Lt,
        (true, false) => BinaryOp::Ge,
        (true, true) => BinaryOp::Gt,
    };
    let counts = e.binary(compare, other, own)?;
    let mut wide = shape.to_vec();
    wide.insert(axis, 1);
    let (x, one) = (e.reshape(x, &wide[..])?, e.scalar(e.dtype(x), 1.0));
    let terms = e.select(counts, x, one)?;
    e.reduce(ReduceOp::Prod, terms, &[axis + 1].into_iter().collect(), false)
}

pub fn softmax(log: bool, e: &mut Emit, n: &Node) -> Made {
    along_axis(e, n, |e, x, axis| e.add(Op::Softmax { axis, log, x }))
}

/// 1 where the first of the largest elements stands, else 0.
pub fn hardmax(e: &mut Emit, n: &Node) -> Made {
    along_axis(e, n, |e, x, axis| {
        let (shape, dtype) = (e.shape(x), e.dtype(x));
        let most = e.add(Op::ArgReduce { largest: true, last: false, axis, keep: true, x })?;
        let places = e.iota(DType::I64, shape[axis], axis, shape.rank())?;
        let hit = e.binary(BinaryOp::Eq, places, most)?;
        e.cast(hit, dtype)
    })
}

/// Before opset 13 everything from the axis on is one axis.
fn along_axis(e: &mut Emit, n: &Node, f: impl Fn(&mut Emit, Value, usize) -> Made) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let axis = n.int("axis", if n.opset < 13 { 1 } else { -1 })?;
    if n.opset >= 13 || axis == -1 || axis == shape.rank() as i64 - 1 {
        return f(e, x, n.axis(axis, shape.rank())?);
    }
    let axis = n.axis(axis, shape.rank() + 1)?;
    let (outer, inner) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    let flat = e.reshape(x, [outer, inner])?;
    let y = f(e, flat, 1)?;
    e.reshape(y, shape)
}

/// The `k` largest or smallest along an axis, in order. Each element's rank is the number of elements that come
/// before it, so the work grows with the square of the axis.
pub fn top_k(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    const MAX_AXIS: usize = 1 << 14;
    let x = n.input(0)?;
    let shape = e.shape(x);
    let rank = shape.rank();
    let axis = n.axis(n.int("axis", -1)?, rank)?;
    let k = match n.opset < 10 {
        true => n.opt_int("k")?,
        false => n.literal_ints(e, 1)?.and_then(|it| it.first().copied()),
    };
    let k = n.size(k.ok_or_else(|| n.error("k is missing"))?)?;
    let size = shape[axis];
    if k > size {
        return Err(n.error(format!("k is {k}, the axis has {size} elements")));
    }
    if size > MAX_AXIS {
        return Err(n.unsupported(format!("an axis of {size} elements (at most {MAX_AXIS})")));
    }
    let largest = n.flag("largest", true)?;
    let one: Axes = [axis].into_iter().collect();
    if k == 1 && e.dtype(x) != DType::Bool {
        let values = e.reduce(if largest { ReduceOp::Max } else { ReduceOp::Min }, x, &one, true)?;
        let places = e.add(Op::ArgReduce { largest, last: false, axis, keep: true, x })?;
        return Ok(vec![values, places]);
    }
    // x as [.., mine, 1, ..] against [.., 1, other, ..].
    let mut wide: Vec<usize> = shape.to_vec();
    wide.insert(axis + 1, 1);
    let mine = e.reshape(x, &wide[..])?;
    (wide[axis], wide[axis + 1]) = (1, size);
    let other = e.reshape(x, &wide[..])?;
    let before = e.binary(if largest { BinaryOp::Gt } else { BinaryOp::Lt }, other, mine)?;
    let tie = e.binary(BinaryOp::Eq, other, mine)?;
    let (before, tie) = match e.dtype(x).is_float() {
        false => (before, tie),
        true => {
            let (a, b) = (e.unary(UnaryOp::IsNan, mine)?, e.unary(UnaryOp::IsNan, other)?);
            let both = e.binary(BinaryOp::And, a, b)?;
            let tie = e.binary(BinaryOp::Or, tie, both)?;
            let (nan, number) = if largest { (b, a) } else { (a, b) };
            let number = e.unary(UnaryOp::Not, number)?;
            let first = e.binary(BinaryOp::And, nan, number)?;
            (e.binary(BinaryOp::Or, before, first)?, tie)
        }
    };
    let place_mine = e.iota(DType::I32, size, axis, rank + 1)?;
    let place_other = e.iota(DType::I32, size, axis + 1, rank + 1)?;
    let earlier = e.binary(BinaryOp::Lt, place_other, place_mine)?;
    let tie = e.binary(BinaryOp::And, tie, earlier)?;
    let before = e.binary(BinaryOp::Or, before, tie)?;
    let before = e.cast(before, DType::I32)?;
    let order = e.reduce(ReduceOp::Sum, before, &[axis + 1].into_iter().collect(), true)?;
    // Exactly one element has each rank.
    let wanted = e.iota(DType::I32, k, axis + 1, rank + 1)?;
    let hit = e.binary(BinaryOp::Eq, order, wanted)?;
    let zero = e.scalar(e.dtype(x), 0.0);
    let values = e.select(hit, mine, zero)?;
    let values = e.reduce(ReduceOp::Sum, values, &one, false)?;
    let (none, place) = (e.scalar(DType::I64, 0.0), e.iota(DType::I64, size, axis, rank + 1)?);
    let places = e.select(hit, place, none)?;
    let places = e.reduce(ReduceOp::Sum, places, &one, false)?;
    Ok(vec![values, places])
}
