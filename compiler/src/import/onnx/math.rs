//! Elementwise operators.

use super::node::Node;
use crate::{
    dtype::{Class, DType},
    error::Error,
    graph::Value,
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
    small_float::Format,
};

type Made = Result<Value, Error>;

pub fn unary(op: UnaryOp, e: &mut Emit, n: &Node) -> Made {
    e.unary(op, n.input(0)?)
}

pub fn binary(op: BinaryOp, e: &mut Emit, n: &Node) -> Made {
    let (x, y) = operands(e, n)?;
    e.binary(op, x, y)
}

/// Both operands. Before opset 7 the second stands along the axes of the first from `axis` on, if `broadcast` says so.
fn operands(e: &mut Emit, n: &Node) -> Result<(Value, Value), Error> {
    let (x, y) = (n.input(0)?, n.input(1)?);
    if n.opset >= 7 {
        return Ok((x, y));
    }
    let (full, own) = (e.shape(x), e.shape(y));
    let (axis, broadcast) = (n.opt_int("axis")?, n.flag("broadcast", false)?);
    if !broadcast {
        return match full == own {
            true => Ok((x, y)),
            false => Err(n.error(format!("{full} and {own} differ, and broadcasting is not asked for"))),
        };
    }
    let axis = match axis {
        Some(axis) => n.axis(axis, full.rank() + 1)?,
        None => full.rank().saturating_sub(own.rank()),
    };
    let Some(behind) = full.rank().checked_sub(axis + own.rank()) else {
        return Err(n.error(format!("{own} does not stand along the axes of {full} from {axis} on")));
    };
    let wide: Vec<usize> = own.iter().copied().chain(std::iter::repeat_n(1, behind)).collect();
    let y = e.reshape(y, &wide[..])?;
    Ok((x, y))
}

/// Max, Min and Sum of any number of operands.
pub fn variadic(op: BinaryOp, e: &mut Emit, n: &Node) -> Made {
    let all = n.all()?;
    all[1..].iter().try_fold(all[0], |so_far, &it| e.binary(op, so_far, it))
}

pub fn mean(e: &mut Emit, n: &Node) -> Made {
    let sum = variadic(BinaryOp::Add, e, n)?;
    e.with(BinaryOp::Div, sum, n.inputs.len() as f64)
}

/// The same bits as another type of the same width.
pub fn bit_cast(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let code = n.opt_int("to")?.ok_or_else(|| n.error("attribute 'to' is missing"))?;
    let code = i32::try_from(code).unwrap_or(-1);
    let to = super::tensor::dtype(code).map_err(|what| n.unsupported(format!("the result {what}")))?;
    let from = e.dtype(x);
    if from.bits() != to.bits() {
        return Err(n.error(format!("{from} and {to} differ in width")));
    }
    if from == to {
        return Ok(x);
    }
    if Format::of(from).or(Format::of(to)).is_some() || from == DType::F8E8M0 || to == DType::F8E8M0 {
        return Err(n.unsupported(format!("the bits of {from} as {to}")));
    }
    let bits = if from.is_float() { e.unary(UnaryOp::ToBits, x)? } else { x };
    match to {
        DType::BF16 => {
            let wide = e.cast(bits, DType::U32)?;
            let wide = e.with(BinaryOp::Shl, wide, 16.0)?;
            let wide = e.unary(UnaryOp::FromBits, wide)?;
            e.cast(wide, to)
        }
        DType::F16 => from_unsigned(e, bits, DType::U16),
        DType::F32 => from_unsigned(e, bits, DType::U32),
        DType::F64 => from_unsigned(e, bits, DType::U64),
        _ => e.cast(bits, to),
    }
}

fn from_unsigned(e: &mut Emit, bits: Value, width: DType) -> Made {
    let bits = e.cast(bits, width)?;
    e.unary(UnaryOp::FromBits, bits)
}

pub fn leaky_relu(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let low = e.with(BinaryOp::Mul, x, n.float("alpha", 0.01)?)?;
    where_negative(e, x, low, x)
}

pub fn prelu(e: &mut Emit, n: &Node) -> Made {
    let (x, mut slope) = (n.input(0)?, n.input(1)?);
    let (full, own) = (e.shape(x), e.shape(slope));
    // Before opset 7 a vector is one of channels.
    if n.opset < 7 && own.rank() == 1 && own.count() > 1 && full.rank() > 2 {
        let wide: Vec<usize> = own.iter().copied().chain(std::iter::repeat_n(1, full.rank() - 2)).collect();
        slope = e.reshape(slope, &wide[..])?;
    }
    let low = e.binary(BinaryOp::Mul, x, slope)?;
    if e.shape(low) != e.shape(x) {
        return Err(n.error(format!("slope {} does not broadcast to {}", e.shape(slope), e.shape(x))));
    }
    where_negative(e, x, low, x)
}

pub fn elu(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let low = exp_minus_one(e, x)?;
    let low = e.with(BinaryOp::Mul, low, n.float("alpha", 1.0)?)?;
    where_negative(e, x, low, x)
}

pub fn selu(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (alpha, gamma) = match n.opset < 6 {
        true => (1.6732, 1.0507),
        false => (1.673_263_192_176_818_8, 1.050_701_022_148_132_3),
    };
    let low = exp_minus_one(e, x)?;
    let low = e.with(BinaryOp::Mul, low, n.float("alpha", alpha)?)?;
    let y = where_negative(e, x, low, x)?;
    e.with(BinaryOp::Mul, y, n.float("gamma", gamma)?)
}

pub fn celu(e: &mut Emit, n: &Node) -> Made {
    let (x, alpha) = (n.input(0)?, n.float("alpha", 1.0)?);
    let scaled = e.with(BinaryOp::Div, x, alpha)?;
    let low = exp_minus_one(e, scaled)?;
    let low = e.with(BinaryOp::Mul, low, alpha)?;
    where_negative(e, x, low, x)
}

pub fn thresholded_relu(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let above = e.with(BinaryOp::Gt, x, n.float("alpha", 1.0)?)?;
    let zero = e.scalar(e.dtype(x), 0.0);
    e.select(above, x, zero)
}

pub fn hard_sigmoid(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let y = e.with(BinaryOp::Mul, x, n.float("alpha", 0.2)?)?;
    let y = e.with(BinaryOp::Add, y, n.float("beta", 0.5)?)?;
    let y = e.with(BinaryOp::Max, y, 0.0)?;
    e.with(BinaryOp::Min, y, 1.0)
}

pub fn softsign(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let size = e.unary(UnaryOp::Abs, x)?;
    let below = e.with(BinaryOp::Add, size, 1.0)?;
    e.binary(BinaryOp::Div, x, below)
}

pub fn mish(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let y = e.unary(UnaryOp::Softplus, x)?;
    let y = e.unary(UnaryOp::Tanh, y)?;
    e.binary(BinaryOp::Mul, x, y)
}

/// x sigmoid(alpha x); also com.microsoft's QuickGelu.
pub fn swish(e: &mut Emit, n: &Node) -> Made {
    let default = if n.op == "QuickGelu" { 1.702 } else { 1.0 };
    let (x, alpha) = (n.input(0)?, n.float("alpha", default)?);
    if alpha == 1.0 {
        return e.unary(UnaryOp::Silu, x);
    }
    let y = e.with(BinaryOp::Mul, x, alpha)?;
    let y = e.unary(UnaryOp::Sigmoid, y)?;
    e.binary(BinaryOp::Mul, x, y)
}

/// swish(a) b
pub fn swiglu(e: &mut Emit, n: &Node) -> Made {
    let (a, b) = (swish(e, n)?, n.input(1)?);
    match e.shape(a) == e.shape(b) {
        true => e.binary(BinaryOp::Mul, a, b),
        false => Err(n.error(format!("a gate of shape {} for {}", e.shape(a), e.shape(b)))),
    }
}

/// ai.onnx.ml: 1 above the threshold, else 0.
pub fn binarizer(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let above = e.with(BinaryOp::Gt, x, n.float("threshold", 0.0)?)?;
    e.cast(above, e.dtype(x))
}

pub fn shrink(e: &mut Emit, n: &Node) -> Made {
    let (x, bias, limit) = (n.input(0)?, n.float("bias", 0.0)?, n.float("lambd", 0.5)?);
    let zero = e.scalar(e.dtype(x), 0.0);
    let (below, above) = (e.with(BinaryOp::Lt, x, -limit)?, e.with(BinaryOp::Gt, x, limit)?);
    let (up, down) = (e.with(BinaryOp::Add, x, bias)?, e.with(BinaryOp::Sub, x, bias)?);
    let y = e.select(above, down, zero)?;
    e.select(below, up, y)
}

pub fn gelu(e: &mut Emit, n: &Node) -> Made {
    let op = match n.text("approximate", "none")? {
        "none" => UnaryOp::Gelu,
        "tanh" => UnaryOp::GeluTanh,
        other => return Err(n.error(format!("approximate '{other}' is neither 'none' nor 'tanh'"))),
    };
    e.unary(op, n.input(0)?)
}

/// com.microsoft: gelu(x + bias), by erf for BiasGelu and by tanh for FastGelu.
pub fn bias_gelu(e: &mut Emit, n: &Node) -> Made {
    let x = match n.opt(1) {
        Some(bias) => e.binary(BinaryOp::Add, n.input(0)?, bias)?,
        None => n.input(0)?,
    };
    e.unary(if n.op == "FastGelu" { UnaryOp::GeluTanh } else { UnaryOp::Gelu }, x)
}

pub fn clip(e: &mut Emit, n: &Node) -> Made {
    let mut x = n.input(0)?;
    if n.opset < 11 {
        if let Some(low) = n.opt_float("min")? {
            x = e.with(BinaryOp::Max, x, low)?;
        }
        if let Some(high) = n.opt_float("max")? {
            x = e.with(BinaryOp::Min, x, high)?;
        }
        return Ok(x);
    }
    if let Some(low) = n.opt(1) {
        x = e.binary(BinaryOp::Max, x, low)?;
    }
    if let Some(high) = n.opt(2) {
        x = e.binary(BinaryOp::Min, x, high)?;
    }
    Ok(x)
}

pub fn modulo(e: &mut Emit, n: &Node) -> Made {
    let op = if n.flag("fmod", false)? { BinaryOp::Rem } else { BinaryOp::Mod };
    e.binary(op, n.input(0)?, n.input(1)?)
}

/// The result has the base's type, whatever that of the exponent.
pub fn pow(e: &mut Emit, n: &Node) -> Made {
    let (x, y) = operands(e, n)?;
    let (base, exponent) = (e.dtype(x), e.dtype(y));
    if base.is_int() && exponent.is_float() {
        let x = e.cast(x, exponent)?;
        let power = e.binary(BinaryOp::Pow, x, y)?;
        return e.cast(power, base);
    }
    let y = e.cast(y, base)?;
    e.binary(BinaryOp::Pow, x, y)
}

pub fn bit_shift(e: &mut Emit, n: &Node) -> Made {
    let op = match n.text("direction", "")? {
        "LEFT" => BinaryOp::Shl,
        "RIGHT" => BinaryOp::Shr,
        other => return Err(n.error(format!("direction '{other}' is neither LEFT nor RIGHT"))),
    };
    e.binary(op, n.input(0)?, n.input(1)?)
}

pub fn is_inf(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let found = e.unary(UnaryOp::IsInf, x)?;
    let side = match (n.flag("detect_negative", true)?, n.flag("detect_positive", true)?) {
        (true, true) => return Ok(found),
        (true, false) => e.with(BinaryOp::Lt, x, 0.0)?,
        (false, true) => e.with(BinaryOp::Gt, x, 0.0)?,
        (false, false) => e.scalar(DType::Bool, 0.0),
    };
    e.binary(BinaryOp::And, found, side)
}

pub fn select(e: &mut Emit, n: &Node) -> Made {
    e.select(n.input(0)?, n.input(1)?, n.input(2)?)
}

/// Integers that keep their own sign rules: unsigned ones have no negative.
pub fn negate(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    match e.dtype(x).class() {
        Class::Signed | Class::Float => e.unary(UnaryOp::Neg, x),
        Class::Bool | Class::Unsigned => Err(n.error(format!("{} cannot be negated", e.dtype(x)))),
    }
}

fn exp_minus_one(e: &mut Emit, x: Value) -> Made {
    let y = e.unary(UnaryOp::Exp, x)?;
    e.with(BinaryOp::Sub, y, 1.0)
}

fn where_negative(e: &mut Emit, x: Value, yes: Value, no: Value) -> Made {
    let negative = e.with(BinaryOp::Lt, x, 0.0)?;
    e.select(negative, yes, no)
}
