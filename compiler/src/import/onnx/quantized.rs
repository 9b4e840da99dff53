//! Operators on quantised numbers: `(q - zero) * scale`, with parameters for all, along an axis, or in blocks along it.

use super::{cast, node::Node, window};
use crate::{
    dtype::DType,
    error::Error,
    graph::Value,
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
};

type Made = Result<Value, Error>;

pub fn dequantize(e: &mut Emit, n: &Node) -> Made {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    // Differences of integers are exact.
    let wide = if e.dtype(x).is_float() { DType::F32 } else { DType::I32 };
    let mut y = e.cast(x, wide)?;
    if let Some(zero) = n.opt(2) {
        let zero = e.cast(zero, wide)?;
        let zero = along(e, n, zero, x)?;
        y = e.binary(BinaryOp::Sub, y, zero)?;
    }
    let to = result(n)?.unwrap_or(e.dtype(scale));
    let y = e.cast(y, DType::F32)?;
    let scale = e.cast(scale, DType::F32)?;
    let scale = along(e, n, scale, x)?;
    let y = e.binary(BinaryOp::Mul, y, scale)?;
    e.cast(y, to)
}

/// saturate(round(x / scale) + zero); floats are not made whole numbers.
pub fn quantize(e: &mut Emit, n: &Node) -> Made {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let to = match (n.opt(2), result(n)?) {
        (Some(zero), _) => e.dtype(zero),
        (None, to) => to.unwrap_or(DType::U8),
    };
    let precision = match n.int("precision", 0)? {
        0 => DType::F32,
        code => dtype(n, code)?,
    };
    if !precision.is_float() {
        return Err(n.error(format!("precision is {precision}, which is no float")));
    }
    let float = e.cast(x, precision)?;
    let scale = e.cast(scale, precision)?;
    let scale = along(e, n, scale, x)?;
    let y = e.binary(BinaryOp::Div, float, scale)?;
    let mut y = e.cast(y, DType::F32)?;
    if to.is_int() {
        y = e.unary(UnaryOp::Round, y)?;
    }
    if let Some(zero) = n.opt(2) {
        let zero = e.cast(zero, DType::F32)?;
        let zero = along(e, n, zero, x)?;
        y = e.binary(BinaryOp::Add, y, zero)?;
    }
    match to.is_int() {
        true => saturate(e, y, to),
        false => cast::converted(e, n, y, to),
    }
}

/// To u8 with the scale and zero point that fit the range of `x` and 0.
pub fn dynamic_quantize(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    let axes = (0..e.rank(x)).collect();
    let high = e.reduce(ReduceOp::Max, x, &axes, false)?;
    let high = e.with(BinaryOp::Max, high, 0.0)?;
    let low = e.reduce(ReduceOp::Min, x, &axes, false)?;
    let low = e.with(BinaryOp::Min, low, 0.0)?;
    let width = e.binary(BinaryOp::Sub, high, low)?;
    let scale = e.with(BinaryOp::Div, width, 255.0)?;
    let zero = e.binary(BinaryOp::Div, low, scale)?;
    let zero = e.unary(UnaryOp::Neg, zero)?;
    let zero = e.unary(UnaryOp::Round, zero)?;
    let y = e.binary(BinaryOp::Div, x, scale)?;
    let y = e.unary(UnaryOp::Round, y)?;
    let y = e.binary(BinaryOp::Add, y, zero)?;
    Ok(vec![saturate(e, y, DType::U8)?, scale, saturate(e, zero, DType::U8)?])
}

/// In i32, each operand less its zero point.
pub fn matmul_integer(e: &mut Emit, n: &Node) -> Made {
    let (zero_a, zero_b) = (rows(e, n.opt(2))?, n.opt(3));
    let a = shifted(e, n.input(0)?, zero_a)?;
    let b = shifted(e, n.input(1)?, zero_b)?;
    e.matmul(a, b)
}

pub fn matmul(e: &mut Emit, n: &Node) -> Made {
    let (zero_a, zero_b) = (rows(e, Some(n.input(2)?))?, Some(n.input(5)?));
    let a = shifted(e, n.input(0)?, zero_a)?;
    let b = shifted(e, n.input(3)?, zero_b)?;
    let y = e.matmul(a, b)?;
    let scale_a = rows(e, Some(n.input(1)?))?;
    let [zero, scale] = [rows(e, Some(n.input(7)?))?, rows(e, Some(n.input(6)?))?];
    let scales = [scale_a, Some(n.input(4)?), scale].map(|it| it.expect("given"));
    rescaled(e, y, scales, zero.expect("given"))
}

/// In i32; what the window reads beyond the image is the zero point.
pub fn conv_integer(e: &mut Emit, n: &Node) -> Made {
    let w = n.input(1)?;
    let zero_w = channels(e, n.opt(3), e.rank(w))?;
    let x = shifted(e, n.input(0)?, n.opt(2))?;
    let w = shifted(e, w, zero_w)?;
    window::conv_of(e, n, x, w, None)
}

pub fn conv(e: &mut Emit, n: &Node) -> Made {
    let (scale_x, w, scale_w) = (n.input(1)?, n.input(3)?, n.input(4)?);
    let zero_w = channels(e, Some(n.input(5)?), e.rank(w))?;
    let x = shifted(e, n.input(0)?, Some(n.input(2)?))?;
    let wide = shifted(e, w, zero_w)?;
    let y = window::conv_of(e, n, x, wide, n.opt(8))?;
    // Along the results' channels, which come second.
    let scale_w = channels(e, Some(scale_w), e.rank(w) - 1)?.expect("given");
    rescaled(e, y, [scale_x, scale_w, n.input(6)?], n.input(7)?)
}

/// saturate(round(x * a * b / y) + zero), to the type of `zero`.
fn rescaled(e: &mut Emit, x: Value, scales: [Value; 3], zero: Value) -> Made {
    let to = e.dtype(zero);
    let mut wide = Vec::new();
    for it in scales {
        wide.push(e.cast(it, DType::F32)?);
    }
    let scale = e.binary(BinaryOp::Mul, wide[0], wide[1])?;
    let scale = e.binary(BinaryOp::Div, scale, wide[2])?;
    let y = e.cast(x, DType::F32)?;
    let y = e.binary(BinaryOp::Mul, y, scale)?;
    let y = e.unary(UnaryOp::Round, y)?;
    let zero = e.cast(zero, DType::F32)?;
    let y = e.binary(BinaryOp::Add, y, zero)?;
    saturate(e, y, to)
}

/// x - zero in i32.
fn shifted(e: &mut Emit, x: Value, zero: Option<Value>) -> Made {
    let x = e.cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(x) };
    let zero = match e.shape(zero).count() {
        1 => e.reshape(zero, [])?,
        _ => zero,
    };
    let zero = e.cast(zero, DType::I32)?;
    e.binary(BinaryOp::Sub, x, zero)
}

/// A parameter of one number a row.
fn rows(e: &mut Emit, parameter: Option<Value>) -> Result<Option<Value>, Error> {
    let Some(it) = parameter else { return Ok(None) };
    match e.shape(it)[..] {
        [1] => e.reshape(it, []).map(Some),
        [count] => e.reshape(it, [count, 1]).map(Some),
        _ => Ok(Some(it)),
    }
}

/// A parameter of one number for each of the first of `rank` axes.
fn channels(e: &mut Emit, parameter: Option<Value>, rank: usize) -> Result<Option<Value>, Error> {
    let Some(it) = parameter else { return Ok(None) };
    match e.shape(it)[..] {
        [1] => e.reshape(it, []).map(Some),
        [count] => {
            let mut shape = vec![1; rank.max(1)];
            shape[0] = count;
            e.reshape(it, &shape[..]).map(Some)
        }
        _ => Ok(Some(it)),
    }
}

/// What the attribute `output_dtype` asks for.
fn result(n: &Node) -> Result<Option<DType>, Error> {
    match n.int("output_dtype", 0)? {
        0 => Ok(None),
        code => dtype(n, code).map(Some),
    }
}

fn dtype(n: &Node, code: i64) -> Result<DType, Error> {
    let code = i32::try_from(code).unwrap_or(-1);
    super::tensor::dtype(code).map_err(|what| n.unsupported(format!("the result {what}")))
}

/// To the nearer end of an integer type's range, where `x` lies outside.
pub fn saturate(e: &mut Emit, x: Value, to: DType) -> Made {
    let (low, high) = crate::scalar::int_range(to);
    let x = e.with(BinaryOp::Max, x, low as f64)?;
    let x = e.with(BinaryOp::Min, x, high as f64)?;
    e.cast(x, to)
}

/// A quantisation parameter in a shape that broadcasts to that of `x`.
fn along(e: &mut Emit, n: &Node, parameter: Value, x: Value) -> Made {
    let (own, full) = (e.shape(parameter), e.shape(x));
    let (block, axis) = (n.int("block_size", 0)?, n.int("axis", 1)?);
    if own.count() == 1 {
        return e.reshape(parameter, []);
    }
    let axis = n.axis(axis, full.rank())?;
    if block == 0 && own.rank() == 1 {
        let mut shape = vec![1; full.rank()];
        shape[axis] = own[0];
        return e.reshape(parameter, &shape[..]);
    }
    let block = n.size(block)?;
    if block == 0
        || own.rank() != full.rank()
        || own[axis].checked_mul(block).is_none_or(|it| it < full[axis])
    {
        return Err(n.error(format!("parameters of shape {own} do not fit {full} in blocks of {block}")));
    }
    let mut split: Vec<usize> = own.to_vec();
    split.insert(axis + 1, 1);
    let y = e.reshape(parameter, &split[..])?;
    split[axis + 1] = block;
    let y = e.expand(y, &split[..])?;
    let mut merged: Vec<usize> = own.to_vec();
    merged[axis] *= block;
    let y = e.reshape(y, &merged[..])?;
    e.slice(y, axis, 0, full[axis], 1)
}
