//! In which order weights of convolutions are held: that in which the sums of `schedule::layout` go through them, with the
//! channels of the result innermost, where neighbouring results of a product read neighbouring weights.

use slotmap::SecondaryMap;

use crate::{
    graph::{Graph, Op, Value},
    shape::Axes,
    target::{Place, Target},
};

/// Channels that make no whole vectors of this many elements stay where they are.
const VECTOR: usize = 4;

/// With fewer results a channel, sums are shared out along the depth, where the weights lie already.
const FEW_RESULTS: usize = 8;

/// The order of the axes of every constant that convolutions, and nothing else, have for weights.
pub fn orders(
    graph: &Graph,
    fixed: &SecondaryMap<Value, bool>,
    target: &Target,
) -> SecondaryMap<Value, Axes> {
    let mut orders: SecondaryMap<Value, Axes> = SecondaryMap::new();
    if target.place != Place::Gpu {
        return orders;
    }
    let mut otherwise: SecondaryMap<Value, ()> =
        graph.outputs.iter().map(|output| (output.value, ())).collect();
    for (value, node) in graph.nodes() {
        for operand in node.op.operands() {
            let order = match &node.op {
                Op::Conv { x, w, .. } if *w == operand => order(graph, *x, *w, value),
                _ => None,
            };
            match order {
                Some(it) if orders.get(operand).is_none_or(|known| *known == it) => {
                    orders.insert(operand, it);
                }
                Some(_) | None => {
                    otherwise.insert(operand, ());
                }
            }
        }
    }
    orders.retain(|value, _| fixed[value] && !otherwise.contains_key(value));
    orders
}

/// The order that suits the convolution `result` of `x` by the weights `w`, if it is another than theirs.
fn order(graph: &Graph, x: Value, w: Value, result: Value) -> Option<Axes> {
    let (weight, made) = (&graph.ty(w).shape, &graph.ty(result).shape);
    let (out, from, rank) = (weight[0], weight[1], weight.rank());
    if !out.is_multiple_of(VECTOR) || weight[1..].iter().product::<usize>() == 1 {
        return None;
    }
    // One weight a channel, window or not, has no depth of channels: what is left is a window for each result.
    let depthwise = from == 1 && made[1] == graph.ty(x).shape[1];
    if depthwise || made.count() / made[1].max(1) < FEW_RESULTS {
        return None;
    }
    // Images that the caller gives have their channels outermost.
    let given = matches!(graph.op(x), Op::Input { .. });
    Some(match given || !from.is_multiple_of(VECTOR) {
        true => (1..rank).chain([0]).collect(),
        false => (2..rank).chain([1, 0]).collect(),
    })
}
