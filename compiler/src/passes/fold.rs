//! Operators on constants, computed now.

use super::{
    matching::only,
    rewrite::{Better, Licence::Exact, Rule, Site},
};
use crate::{
    graph::{KNOWN, Op, Value, eval::eval_op},
    shape::Type,
    tensor::Tensor,
};

pub const RULES: &[Rule] = &[
    Rule { name: "fold", about: "c1 + c2 => c", licence: Exact, roots: &[], apply: fold },
    Rule {
        name: "fold-reshape",
        about: "A constant of any size under another shape shares its bytes",
        licence: Exact,
        roots: &["reshape"],
        apply: fold_reshape,
    },
];

/// Most elements of a tensor that is computed here; weights are left to the graph of constants. Integers decide what is
/// read where, so more of them are worth knowing.
fn small(ty: &Type) -> bool {
    let limit = if ty.dtype.is_float() { KNOWN } else { 1 << 16 };
    ty.shape.count() <= limit
}

fn fold(site: &mut Site, value: Value) -> Better {
    let node = site.graph.node(value);
    let worth_it = match node.op {
        Op::Input { .. } | Op::Constant(_) => false,
        // What is the same everywhere stays one element.
        Op::Expand { .. } => node.ty.shape.count() == 1,
        // Much work for few elements.
        Op::MatMul { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Attention { .. } => {
            !node.ty.dtype.is_float()
        }
        _ => true,
    };
    if !worth_it || !small(&node.ty) {
        return Ok(None);
    }
    let operands = node.op.operands();
    let Some(known) = operands.iter().map(|it| known(site, *it)).collect::<Option<Vec<Tensor>>>() else {
        return Ok(None);
    };
    let result = eval_op(&node.op, &node.ty, &known.iter().collect::<Vec<_>>());
    let (dtype, shape) = (result.dtype(), result.shape().clone());
    match only(&result) {
        Some(it) if shape.count() > 1 => {
            let x = site.graph.add_constant(Tensor::scalar(dtype, it));
            site.add(Op::Expand { shape, x }).map(Some)
        }
        _ => Ok(Some(site.graph.add_constant(result))),
    }
}

/// The values of a small constant or of an expansion of one.
fn known(site: &Site, value: Value) -> Option<Tensor> {
    let node = site.graph.node(value);
    if !small(&node.ty) {
        return None;
    }
    match node.op {
        Op::Constant(_) => site.graph.known(value).cloned(),
        Op::Expand { x, .. } => {
            let x = site.graph.known(x)?;
            Some(eval_op(&node.op, &node.ty, &[x]))
        }
        _ => None,
    }
}

fn fold_reshape(site: &mut Site, value: Value) -> Better {
    let Op::Reshape { ref shape, x } = *site.graph.op(value) else { return Ok(None) };
    let Some(tensor) = site.graph.as_constant(x).and_then(|it| it.reshaped(shape.clone())) else {
        return Ok(None);
    };
    Ok(Some(site.graph.add_constant(tensor)))
}
