//! Casts: those that ONNX asks for by attributes, of the one that the graph has.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::Value,
    import::emit::Emit,
    scalar::{BinaryOp, Scalar, UnaryOp},
    small_float::{Format, Specials},
    tensor::Tensor,
};

type Made = Result<Value, Error>;

pub fn cast(e: &mut Emit, n: &Node) -> Made {
    let code = n.opt_int("to")?.ok_or_else(|| n.error("attribute 'to' is missing"))?;
    let code = i32::try_from(code).unwrap_or(-1);
    let to = super::tensor::dtype(code).map_err(|what| n.unsupported(format!("the result {what}")))?;
    converted(e, n, n.input(0)?, to)
}

pub fn cast_like(e: &mut Emit, n: &Node) -> Made {
    let to = e.dtype(n.input(1)?);
    converted(e, n, n.input(0)?, to)
}

/// As the attributes `saturate` and `round_mode` say, which matter to floats of eight bits alone.
pub fn converted(e: &mut Emit, n: &Node, x: Value, to: DType) -> Made {
    let (saturates, mode) = (n.flag("saturate", true)?, n.text("round_mode", "up")?);
    if to == DType::F8E8M0 {
        return power(e, n, x, saturates, mode);
    }
    let format = Format::of(to).filter(|it| !saturates && it.specials != Specials::None);
    let Some(format) = format else { return e.cast(x, to) };
    let wide = if e.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
    let x = e.cast(x, wide)?;
    let size = e.unary(UnaryOp::Abs, x)?;
    let (bound, itself) = format.bound();
    let beyond = e.with(if itself { BinaryOp::Ge } else { BinaryOp::Gt }, size, bound)?;
    let special = match format.specials {
        Specials::Ieee => {
            let negative = e.with(BinaryOp::Lt, x, 0.0)?;
            let [minus, plus] = [f64::NEG_INFINITY, f64::INFINITY]
                .map(|it| e.constant(Tensor::scalar(to, Scalar::Float(it))));
            e.select(negative, minus, plus)?
        }
        Specials::AllOnes | Specials::NegativeZero | Specials::None => e.scalar(to, f64::NAN),
    };
    let inside = e.cast(x, to)?;
    e.select(beyond, special, inside)
}

/// To a power of two: the next above, which is the graph's cast; that below, or the nearer of both.
fn power(e: &mut Emit, n: &Node, x: Value, saturates: bool, mode: &str) -> Made {
    let to = DType::F8E8M0;
    let most = f64::powi(2.0, 127);
    let wide = if e.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
    let x = e.cast(x, wide)?;
    let above = e.cast(x, to)?;
    // The part of the power above from which on it is taken, and the size from which on there is none.
    let (part, bound) = match mode {
        "up" => (None, BinaryOp::Gt),
        "down" => (Some(1.0), BinaryOp::Gt),
        "nearest" => (Some(0.75), BinaryOp::Ge),
        other => return Err(n.error(format!("round_mode '{other}'"))),
    };
    let size = e.unary(UnaryOp::Abs, x)?;
    let made = match part {
        None => above,
        Some(part) => {
            let power = e.cast(above, wide)?;
            let least = e.with(BinaryOp::Mul, power, part)?;
            let taken = e.binary(BinaryOp::Ge, size, least)?;
            let below = e.with(BinaryOp::Mul, power, 0.5)?;
            let chosen = e.select(taken, power, below)?;
            e.cast(chosen, to)?
        }
    };
    if saturates || mode == "down" {
        return Ok(made);
    }
    let beyond = e.with(bound, size, if mode == "up" { most } else { most * 1.5 })?;
    let nan = e.scalar(to, f64::NAN);
    e.select(beyond, nan, made)
}
