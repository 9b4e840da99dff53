//! What every op means, computed plainly: the reference for tests, and what folds constants.
//!
//! In: a graph and one tensor an input; out: one tensor an output. Sums of floats are accumulated in f64 and rounded
//! once; integers wrap. Views and casts are quick enough for a model's weights, matrix products are not. An op that
//! passed `infer` is evaluated without fail.

mod contract;
mod norm;
mod pointwise;
mod read;
mod reduce;
mod view;
mod window;

use slotmap::SecondaryMap;

use super::{Graph, Op, Value};
use crate::{bug, error::Error, shape::Type, tensor::Tensor};

/// The outputs of `graph`, in order, for one tensor an input, in order.
pub fn eval(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    let wanted = graph.inputs();
    for (at, input) in wanted.iter().enumerate() {
        let Some(have) = inputs.get(at) else {
            return Err(Error::input(&*input.name, "is missing"));
        };
        if *have.ty() != input.ty {
            return Err(Error::input(&*input.name, format!("is {}, but {} is needed", have.ty(), input.ty)));
        }
    }
    if inputs.len() > wanted.len() {
        let what = format!("{} tensors were given for {} inputs", inputs.len(), wanted.len());
        return Err(Error::input("", what));
    }

    let wanted: Vec<Value> = graph.outputs.iter().map(|it| it.value).collect();
    Ok(values(graph, &wanted, inputs))
}

/// The values of these nodes, for inputs of the graph's types.
pub fn values(graph: &Graph, wanted: &[Value], inputs: &[Tensor]) -> Vec<Tensor> {
    let mut uses: SecondaryMap<Value, usize> = SecondaryMap::new();
    let mut live = Vec::new();
    let count = |uses: &mut SecondaryMap<Value, usize>, value| {
        *uses.entry(value).expect("nothing is removed").or_insert(0) += 1;
    };
    wanted.iter().for_each(|it| count(&mut uses, *it));
    for (value, node) in graph.nodes().rev() {
        if uses.contains_key(value) {
            live.push((value, node));
            node.op.operands().into_iter().for_each(|it| count(&mut uses, it));
        }
    }
    let mut values: SecondaryMap<Value, Tensor> = SecondaryMap::new();
    for (value, node) in live.into_iter().rev() {
        let operands = node.op.operands();
        let result = match node.op {
            Op::Input { slot } => inputs[slot as usize].clone(),
            Op::Constant(id) => graph.constant(id).clone(),
            _ => {
                let operands: Vec<&Tensor> = operands.iter().map(|&it| &values[it]).collect();
                eval_op(&node.op, &node.ty, &operands)
            }
        };
        values.insert(value, result);
        for operand in operands {
            uses[operand] -= 1;
            if uses[operand] == 0 {
                values.remove(operand);
            }
        }
    }
    wanted.iter().map(|it| values[*it].clone()).collect()
}

/// The value of `op`, of type `ty`, for the values of its operands in the order of `Op::operands`. Inputs and constants
/// have no operands to compute from and are not allowed.
pub fn eval_op(op: &Op, ty: &Type, operands: &[&Tensor]) -> Tensor {
    let at = |number: usize| operands[number];
    // Optional operands stand behind the others, so that each is there if all before it are.
    let after = |number: usize, present: bool| present.then(|| operands[number]);
    match op {
        Op::Input { .. } | Op::Constant(_) => bug!("an input or constant is not computed"),
        Op::Unary(op, _) => pointwise::unary(*op, at(0)),
        Op::Binary(op, ..) => pointwise::binary(*op, ty, at(0), at(1)),
        Op::Select { .. } => pointwise::select(ty, at(0), at(1), at(2)),
        Op::Cast { to, .. } => pointwise::cast(at(0), *to),
        Op::Random { number, .. } => pointwise::random(*number, ty, at(0)),
        Op::Reduce { op, axes, .. } => reduce::reduce(*op, axes, ty, at(0)),
        Op::Mean { axes, .. } => reduce::mean(axes, ty, at(0)),
        Op::ArgReduce { largest, last, axis, .. } => reduce::arg_reduce(*largest, *last, *axis, ty, at(0)),
        Op::CumSum { axis, exclusive, reverse, .. } => reduce::cumsum(*axis, *exclusive, *reverse, at(0)),
        Op::Reshape { shape, .. } => view::reshape(at(0), shape),
        Op::Permute { order, .. } => view::permute(at(0), order),
        Op::Expand { shape, .. } => view::expand(at(0), shape),
        Op::Slice { starts, sizes, steps, .. } => view::slice(at(0), starts, sizes, steps),
        Op::Pad { before, mode, fill, .. } => view::pad(at(0), before, *mode, after(1, fill.is_some()), ty),
        Op::Concat { axis, .. } => view::concat(*axis, ty, operands),
        Op::Gather { axis, .. } => read::gather(*axis, ty, at(0), at(1)),
        Op::GatherElements { axis, .. } => read::gather_elements(*axis, ty, at(0), at(1)),
        Op::GatherNd { batch, .. } => read::gather_nd(*batch, ty, at(0), at(1)),
        Op::MatMul { .. } => contract::matmul(ty, at(0), at(1)),
        Op::Conv { window, groups, bias, .. } => {
            window::conv(window, *groups, ty, at(0), at(1), after(2, bias.is_some()))
        }
        Op::ConvTranspose { window, groups, bias, .. } => {
            window::conv_transpose(window, *groups, ty, at(0), at(1), after(2, bias.is_some()))
        }
        Op::Pool { kind, window, kernel, .. } => window::pool(*kind, window, kernel, ty, at(0)),
        Op::Softmax { axis, log, .. } => norm::softmax(*axis, *log, at(0)),
        Op::LayerNorm { axis, eps, scale, bias, .. } => {
            let scale = after(1, scale.is_some());
            let bias = after(1 + scale.is_some() as usize, bias.is_some());
            norm::layer_norm(*axis, eps.0, at(0), scale, bias)
        }
        Op::RmsNorm { axis, eps, scale, .. } => {
            norm::rms_norm(*axis, eps.0, at(0), after(1, scale.is_some()))
        }
        Op::GroupNorm { groups, eps, scale, bias, .. } => {
            let scale = after(1, scale.is_some());
            let bias = after(1 + scale.is_some() as usize, bias.is_some());
            norm::group_norm(*groups, eps.0, at(0), scale, bias)
        }
        Op::BatchNorm { eps, .. } => norm::batch_norm(eps.0, at(0), [at(1), at(2), at(3), at(4)]),
        Op::Attention { scale, causal, zero_masked, mask, .. } => {
            let mask = after(3, mask.is_some());
            contract::attention(scale.0, *causal, *zero_masked, ty, [at(0), at(1), at(2)], mask)
        }
    }
}

/// Floats, rounded to `ty`.
fn floats(ty: &Type, values: &[f64]) -> Tensor {
    Tensor::from_scalars(ty.clone(), values.iter().map(|&it| crate::scalar::Scalar::Float(it)))
}

/// Calls `see` with every place of `shape`, row-major.
fn places(shape: &[usize], mut see: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0; shape.len()];
    loop {
        see(&at);
        let Some(axis) = (0..shape.len()).rev().find(|&axis| at[axis] + 1 < shape[axis]) else { return };
        at[axis] += 1;
        at[axis + 1..].fill(0);
    }
}
