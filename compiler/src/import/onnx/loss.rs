//! Losses of training graphs.

use super::node::Node;
use crate::{
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Shape,
};

type Made = Result<Value, Error>;

pub fn negative_log_likelihood(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    likelihood(e, n, x)
}

/// Outputs: the loss, and the logarithms of the probabilities.
pub fn softmax_cross_entropy(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    if e.rank(x) < 2 {
        return Err(n.error(format!("scores of shape {} have no classes", e.shape(x))));
    }
    let log = e.add(Op::Softmax { axis: 1, log: true, x })?;
    Ok(vec![likelihood(e, n, log)?, log])
}

/// Of `x` [n, classes, ..] what stands at the classes of operand 1 [n, ..], weighted by operand 2 [classes].
fn likelihood(e: &mut Emit, n: &Node, x: Value) -> Made {
    let (target, shape, dtype) = (n.input(1)?, e.shape(x), e.dtype(x));
    let places: Shape = shape.iter().enumerate().filter(|it| it.0 != 1).map(|it| *it.1).collect();
    if shape.rank() < 2 || e.shape(target) != places {
        return Err(n.error(format!("targets of shape {} for {shape}", e.shape(target))));
    }
    let (zero, one) = (e.scalar(dtype, 0.0), e.scalar(dtype, 1.0));
    let ignored = match n.opt_int("ignore_index")? {
        Some(class) => {
            let class = e.scalar(e.dtype(target), class as f64);
            Some(e.binary(BinaryOp::Eq, target, class)?)
        }
        None => None,
    };
    let mut column = shape.clone();
    column.0[1] = 1;
    let indices = e.reshape(target, column)?;
    let found = e.add(Op::GatherElements { axis: 1, x, indices })?;
    let found = e.reshape(found, places.clone())?;
    let mut loss = e.unary(UnaryOp::Neg, found)?;
    let mut weight = match n.opt(2) {
        Some(weight) if *e.shape(weight) == [shape[1]] => {
            let weight = e.add(Op::Gather { axis: 0, x: weight, indices: target })?;
            loss = e.binary(BinaryOp::Mul, loss, weight)?;
            Some(weight)
        }
        Some(weight) => {
            return Err(n.error(format!("weights of shape {} for {} classes", e.shape(weight), shape[1])));
        }
        None => None,
    };
    if let Some(ignored) = ignored {
        loss = e.select(ignored, zero, loss)?;
        weight = Some(e.select(ignored, zero, weight.unwrap_or(one))?);
    }
    let all = (0..places.rank()).collect();
    match (n.text("reduction", "mean")?, weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => e.reduce(ReduceOp::Sum, loss, &all, false),
        ("mean", None) => e.mean(loss, &all, false),
        ("mean", Some(weight)) => {
            let sum = e.reduce(ReduceOp::Sum, loss, &all, false)?;
            let weight = e.reduce(ReduceOp::Sum, weight, &all, false)?;
            e.binary(BinaryOp::Div, sum, weight)
        }
        (other, _) => Err(n.error(format!("reduction '{other}' is neither 'none', 'sum' nor 'mean'"))),
    }
}
