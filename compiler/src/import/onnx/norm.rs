//! Normalisations, kept whole.

use super::{node::Node, reduce};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Real, Value},
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
    shape::Axes,
};

type Made = Result<Value, Error>;

/// Outputs: the result; in training, with the statistics of the batch, the running mean and variance too.
pub fn batch(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let training = n.flag("training_mode", false)?;
    if !n.flag("spatial", true)? {
        return Err(n.unsupported("statistics for each element (spatial = 0)"));
    }
    if n.opset < 7 && !n.flag("is_test", false)? {
        return Err(n.unsupported("training, which is meant before opset 7 unless is_test is stated"));
    }
    let momentum = n.float("momentum", 0.9f32 as f64)?;
    if !training && (1..5).any(|at| n.wants(at)) {
        return Err(n.unsupported("the outputs of training"));
    }
    let (x, eps) = (n.input(0)?, Real(n.float("epsilon", 1e-5)?));
    let dtype = e.dtype(x);
    let mut parameter = |at| e.cast(n.input(at)?, dtype);
    let (scale, bias, mean, var) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    if !training {
        return Ok(vec![e.add(Op::BatchNorm { eps, x, scale, bias, mean, var })?]);
    }
    let axes: Axes = (0..e.rank(x)).filter(|&it| it != 1).collect();
    let own_mean = e.mean(x, &axes, true)?;
    let apart = e.binary(BinaryOp::Sub, x, own_mean)?;
    let square = e.binary(BinaryOp::Mul, apart, apart)?;
    let channels = e.shape(x).get(1).copied().unwrap_or(1);
    let (own_mean, own_var) = (e.reshape(own_mean, [channels])?, e.mean(square, &axes, false)?);
    let y = e.add(Op::BatchNorm { eps, x, scale, bias, mean: own_mean, var: own_var })?;
    let mut outputs = vec![y];
    for (at, own) in [(3, own_mean), (4, own_var)] {
        let to = e.dtype(n.input(at)?);
        let (old, own) = (n.input(at)?, e.cast(own, to)?);
        let (old, own) = (e.with(BinaryOp::Mul, old, momentum)?, e.with(BinaryOp::Mul, own, 1.0 - momentum)?);
        outputs.push(e.binary(BinaryOp::Add, old, own)?);
    }
    Ok(outputs)
}

pub fn instance(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let groups = e.shape(x).get(1).copied().unwrap_or(0);
    let eps = Real(n.float("epsilon", 1e-5)?);
    e.add(Op::GroupNorm { groups, eps, x, scale: Some(n.input(1)?), bias: Some(n.input(2)?) })
}

pub fn group(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let groups = n.opt_int("num_groups")?.ok_or_else(|| n.error("attribute 'num_groups' is missing"))?;
    let groups = n.size(groups)?;
    let channels = e.shape(x).get(1).copied().unwrap_or(0);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(n.error(format!("{channels} channels in {groups} groups")));
    }
    // Before opset 21 there was one parameter a group, which means the same for each of its channels.
    let mut parameter = |at| {
        let value = n.input(at)?;
        if n.opset >= 21 || e.shape(value)[..] != [groups] {
            return Ok(value);
        }
        let value = e.reshape(value, [groups, 1])?;
        let value = e.expand(value, [groups, channels / groups])?;
        e.reshape(value, [channels])
    };
    let (scale, bias) = (Some(parameter(1)?), Some(parameter(2)?));
    e.add(Op::GroupNorm { groups, eps: Real(n.float("epsilon", 1e-5)?), x, scale, bias })
}

pub fn layer(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    let (rank, epsilon) = (e.rank(x), n.float("epsilon", 1e-5)?);
    let axis = n.axis(n.int("axis", -1)?, rank)?;
    let (scale, bias) = (n.opt(1), n.opt(2));
    let mut made = vec![e.add(Op::LayerNorm { axis, eps: Real(epsilon), x, scale, bias })?];
    if n.wants(1) || n.wants(2) {
        let x = e.cast(x, DType::F32)?;
        let axes: Axes = (axis..rank).collect();
        let mean = e.mean(x, &axes, true)?;
        let away = e.binary(BinaryOp::Sub, x, mean)?;
        let square = e.binary(BinaryOp::Mul, away, away)?;
        let var = e.mean(square, &axes, true)?;
        let var = e.with(BinaryOp::Add, var, epsilon)?;
        made.extend([mean, e.unary(UnaryOp::Rsqrt, var)?]);
    }
    Ok(made)
}

pub fn rms(e: &mut Emit, n: &Node) -> Made {
    if n.wants(1) {
        return Err(n.unsupported("the output of the inverse deviation"));
    }
    let x = n.input(0)?;
    let axis = n.axis(n.int("axis", -1)?, e.rank(x))?;
    let eps = Real(n.float("epsilon", 1e-5)?);
    let scale = e.cast(n.input(1)?, e.dtype(x))?;
    e.add(Op::RmsNorm { axis, eps, x, scale: Some(scale) })
}

/// com.microsoft: the norm of x + skip (+ bias); output 3 is that sum.
pub fn skip(simplified: bool, e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    if n.wants(1) || n.wants(2) {
        return Err(n.unsupported("the outputs of the mean and the inverse deviation"));
    }
    let mut x = e.binary(BinaryOp::Add, n.input(0)?, n.input(1)?)?;
    let (beta, bias) = if simplified { (None, n.opt(3)) } else { (n.opt(3), n.opt(4)) };
    if let Some(bias) = bias {
        x = e.binary(BinaryOp::Add, x, bias)?;
    }
    let axis = n.axis(-1, e.rank(x))?;
    let (eps, scale) = (Real(n.float("epsilon", 1e-12)?), Some(n.input(2)?));
    let y = match simplified {
        true => e.add(Op::RmsNorm { axis, eps, x, scale })?,
        false => e.add(Op::LayerNorm { axis, eps, x, scale, bias: beta })?,
    };
    Ok(vec![y, y, y, x])
}

/// (x - mean) / (deviation + 1e-9) over `axes`.
pub fn mean_variance(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axes = n.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let axes = n.axes(axes, e.rank(x))?;
    let mean = e.mean(x, &axes, true)?;
    let away = e.binary(BinaryOp::Sub, x, mean)?;
    let square = e.binary(BinaryOp::Mul, away, away)?;
    let var = e.mean(square, &axes, true)?;
    let deviation = e.unary(UnaryOp::Sqrt, var)?;
    let deviation = e.with(BinaryOp::Add, deviation, 1e-9)?;
    e.binary(BinaryOp::Div, away, deviation)
}

/// x / |x|_p along an axis; 0 where the norm is.
pub fn lp(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let axis = n.axis(n.int("axis", -1)?, e.rank(x))?;
    let kind = match n.int("p", 2)? {
        1 => reduce::Kind::L1,
        2 => reduce::Kind::L2,
        p => return Err(n.error(format!("p is {p}, neither 1 nor 2"))),
    };
    let norm = reduce::over(kind, e, x, &[axis].into_iter().collect(), true)?;
    let zero = e.scalar(e.dtype(x), 0.0);
    let none = e.binary(BinaryOp::Eq, norm, zero)?;
    let y = e.binary(BinaryOp::Div, x, norm)?;
    e.select(none, zero, y)
}
