//! One step of an optimiser (ai.onnx.preview.training).

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::Value,
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
};

type Made = Result<Value, Error>;

/// The rate, and whether there were updates before.
struct Step {
    rate: Value,
    count: Value,
}

/// Calls `one` with the `kinds` operands of each tensor that is optimised; its results, kind after kind.
fn each(
    e: &mut Emit,
    n: &Node,
    kinds: usize,
    mut one: impl FnMut(&mut Emit, &Step, &[Value]) -> Result<Vec<Value>, Error>,
) -> Result<Vec<Value>, Error> {
    let all = n.all()?;
    if all.len() < 2 || !(all.len() - 2).is_multiple_of(kinds) {
        return Err(n.error(format!("{} operands, 2 and a multiple of {kinds} were expected", all.len())));
    }
    let step = Step { rate: e.reshape(all[0], [])?, count: e.reshape(all[1], [])? };
    let tensors = (all.len() - 2) / kinds;
    let made = (0..tensors)
        .map(|at| {
            let own: Vec<Value> = (0..kinds).map(|kind| all[2 + kind * tensors + at]).collect();
            one(e, &step, &own)
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok((0..kinds - 1).flat_map(|kind| made.iter().map(move |it| it[kind])).collect())
}

/// gradient + norm_coefficient x
fn regularised(e: &mut Emit, n: &Node, x: Value, gradient: Value) -> Made {
    let own = e.with(BinaryOp::Mul, x, n.float("norm_coefficient", 0.0)?)?;
    e.binary(BinaryOp::Add, own, gradient)
}

/// a x + b y
fn blend(e: &mut Emit, a: f64, x: Value, b: f64, y: Value) -> Made {
    let (x, y) = (e.with(BinaryOp::Mul, x, a)?, e.with(BinaryOp::Mul, y, b)?);
    e.binary(BinaryOp::Add, x, y)
}

/// sqrt(x) + epsilon
fn rooted(e: &mut Emit, n: &Node, x: Value) -> Made {
    let root = e.unary(UnaryOp::Sqrt, x)?;
    e.with(BinaryOp::Add, root, n.float("epsilon", 1e-6)?)
}

pub fn adagrad(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    each(e, n, 3, |e, step, own| {
        let (x, squares) = (own[0], own[2]);
        let gradient = regularised(e, n, x, own[1])?;
        let count = e.cast(step.count, e.dtype(x))?;
        let decay = e.with(BinaryOp::Mul, count, n.float("decay_factor", 0.0)?)?;
        let decay = e.with(BinaryOp::Add, decay, 1.0)?;
        let rate = e.cast(step.rate, e.dtype(x))?;
        let rate = e.binary(BinaryOp::Div, rate, decay)?;
        let square = e.binary(BinaryOp::Mul, gradient, gradient)?;
        let squares = e.binary(BinaryOp::Add, squares, square)?;
        let below = rooted(e, n, squares)?;
        let way = e.binary(BinaryOp::Mul, rate, gradient)?;
        let way = e.binary(BinaryOp::Div, way, below)?;
        Ok(vec![e.binary(BinaryOp::Sub, x, way)?, squares])
    })
}

pub fn adam(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (alpha, beta) = (n.float("alpha", 0.9f32 as f64)?, n.float("beta", 0.999f32 as f64)?);
    let after = n.float("norm_coefficient_post", 0.0)?;
    each(e, n, 4, |e, step, own| {
        let (x, dtype) = (own[0], e.dtype(own[0]));
        let gradient = regularised(e, n, x, own[1])?;
        let momentum = blend(e, alpha, own[2], 1.0 - alpha, gradient)?;
        let square = e.binary(BinaryOp::Mul, gradient, gradient)?;
        let squares = blend(e, beta, own[3], 1.0 - beta, square)?;
        let below = rooted(e, n, squares)?;
        let rate = e.cast(step.rate, dtype)?;
        let count = e.cast(step.count, DType::F32)?;
        let missing = |e: &mut Emit, base: f64| -> Made {
            let (base, one) = (e.scalar(DType::F32, base), e.scalar(DType::F32, 1.0));
            let power = e.binary(BinaryOp::Pow, base, count)?;
            e.binary(BinaryOp::Sub, one, power)
        };
        let (above, under) = (missing(e, beta)?, missing(e, alpha)?);
        let above = e.unary(UnaryOp::Sqrt, above)?;
        let factor = e.binary(BinaryOp::Div, above, under)?;
        let (started, one) = (e.with(BinaryOp::Gt, count, 0.0)?, e.scalar(DType::F32, 1.0));
        let factor = e.select(started, factor, one)?;
        let factor = e.cast(factor, dtype)?;
        let rate = e.binary(BinaryOp::Mul, rate, factor)?;
        let way = e.binary(BinaryOp::Mul, rate, momentum)?;
        let way = e.binary(BinaryOp::Div, way, below)?;
        let x = e.binary(BinaryOp::Sub, x, way)?;
        Ok(vec![e.with(BinaryOp::Mul, x, 1.0 - after)?, momentum, squares])
    })
}

pub fn momentum(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let needed = |name: &str| -> Result<f64, Error> {
        n.opt_float(name)?.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))
    };
    let (alpha, beta) = (needed("alpha")?, needed("beta")?);
    let nesterov = match n.text("mode", "")? {
        "nesterov" => true,
        "standard" => false,
        other => return Err(n.error(format!("mode '{other}' is neither 'standard' nor 'nesterov'"))),
    };
    each(e, n, 3, |e, step, own| {
        let (x, dtype) = (own[0], e.dtype(own[0]));
        let gradient = regularised(e, n, x, own[1])?;
        let started = e.with(BinaryOp::Gt, step.count, 0.0)?;
        let (beta, one) = (e.scalar(dtype, beta), e.scalar(dtype, 1.0));
        let beta = e.select(started, beta, one)?;
        let (old, new) = (e.with(BinaryOp::Mul, own[2], alpha)?, e.binary(BinaryOp::Mul, beta, gradient)?);
        let momentum = e.binary(BinaryOp::Add, old, new)?;
        let way = match nesterov {
            true => {
                let ahead = e.with(BinaryOp::Mul, momentum, alpha)?;
                e.binary(BinaryOp::Add, gradient, ahead)?
            }
            false => momentum,
        };
        let rate = e.cast(step.rate, dtype)?;
        let way = e.binary(BinaryOp::Mul, rate, way)?;
        Ok(vec![e.binary(BinaryOp::Sub, x, way)?, momentum])
    })
}
