//! The graph with sets of products made one product each.

use slotmap::SecondaryMap;
use smallvec::{SmallVec, smallvec};

use super::branch::{Branch, Uses, raised};
use crate::{
    error::Error,
    graph::{Graph, Op, Places, Value},
    shape::Shape,
};

pub fn rebuild(uses: &Uses, sets: &[Vec<Branch>]) -> Result<Graph, Error> {
    let from = uses.graph;
    let mut to = Graph::new();
    for input in from.inputs() {
        to.add_input(&*input.name, input.ty.clone())?;
    }
    // The set whose member's result a node is, and the member's offset in the wide one.
    let mut results: SecondaryMap<Value, (usize, usize)> = SecondaryMap::new();
    let mut inside: SecondaryMap<Value, ()> = SecondaryMap::new();
    for (number, set) in sets.iter().enumerate() {
        let mut offset = 0;
        for branch in set {
            inside.insert(branch.product, ());
            inside.extend(branch.steps.iter().map(|it| (it.node, ())));
            results.insert(branch.result(), (number, offset));
            offset += uses.shape(branch.product)[branch.factor.axis];
        }
    }
    let mut wides: Vec<Option<Value>> = vec![None; sets.len()];
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    // Weights first, so that all of them are there for the first product of a set.
    let (fixed, others): (Vec<_>, Vec<_>) = uses.live.iter().partition(|it| uses.fixed[**it]);
    for value in fixed.into_iter().chain(others) {
        let node = from.node(value);
        to.set_origin(node.origin.clone());
        let new = match (&node.op, results.get(value)) {
            (_, Some(&(number, offset))) => {
                let wide = match wides[number] {
                    Some(wide) => wide,
                    None => *wides[number].insert(widen(uses, &sets[number], &moved, &mut to)?),
                };
                to.set_origin(node.origin.clone());
                let mut starts: Places = smallvec![0; node.ty.shape.rank()];
                starts[sets[number][0].factor.axis] = offset;
                let steps = smallvec![1; node.ty.shape.rank()];
                to.add(Op::Slice { starts, sizes: node.ty.shape.clone(), steps, x: wide })?
            }
            _ if inside.contains_key(value) => continue,
            (Op::Constant(id), None) => to.add_constant(from.constant(*id).clone()),
            (op, None) => to.add(op.clone().map_operands(|it| moved[it]))?,
        };
        moved.insert(value, new);
    }
    to.outputs = from.outputs.clone();
    to.outputs.iter_mut().for_each(|it| it.value = moved[it.value]);
    // Without what only the narrow products read.
    to.into_rebuilt(|to, _, op| to.add(op))
}

/// The one product of a set, with all steps.
fn widen(
    uses: &Uses,
    set: &[Branch],
    moved: &SecondaryMap<Value, Value>,
    to: &mut Graph,
) -> Result<Value, Error> {
    let first = &set[0];
    let mut names: Vec<&str> = Vec::new();
    for branch in set {
        let name = &*uses.graph.node(branch.product).origin;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    to.set_origin(names.join(", "));
    let weights: Vec<Value> = set.iter().map(|it| moved[it.factor.weight]).collect();
    let weight = beside(to, &weights, first.factor.weight_axis)?;
    let biases: Option<Vec<Value>> = set.iter().map(|it| it.factor.bias.map(|it| moved[it])).collect();
    let bias = biases.map(|it| beside(to, &it, 0)).transpose()?;
    let op = uses.graph.op(first.product).clone();
    let mut wide = to.add(op.map_operands(|it| match it {
        _ if it == first.factor.weight => weight,
        _ if Some(it) == first.factor.bias => bias.expect("a family has biases or none"),
        _ => moved[it],
    }))?;
    for (at, step) in first.steps.iter().enumerate() {
        let withs: Option<Vec<Value>> = set.iter().map(|it| it.steps[at].with.map(|it| moved[it])).collect();
        let with = match withs {
            Some(withs) => {
                let parts: Vec<usize> =
                    set.iter().map(|it| uses.shape(it.product)[first.factor.axis]).collect();
                Some(operand(to, &withs, &parts, first.factor.axis, uses.shape(step.node).rank())?)
            }
            None => None,
        };
        let mut operands = match step.form.first {
            true => [Some(wide), with],
            false => [with, Some(wide)],
        }
        .into_iter();
        let op = uses.graph.op(step.node).clone();
        wide = to.add(op.map_operands(|_| operands.next().flatten().expect("as many as the step has")))?;
    }
    Ok(wide)
}

/// The operands of one step side by side along `axis` of results of this rank, of which each branch has `parts[i]`.
fn operand(to: &mut Graph, all: &[Value], parts: &[usize], axis: usize, rank: usize) -> Result<Value, Error> {
    let own = |it: &Value| to.ty(*it).shape.rank();
    let held = all.iter().map(own).fold(rank - axis, usize::max);
    let axis = axis - (rank - held);
    let shapes: Vec<Shape> = all.iter().map(|it| raised(&to.ty(*it).shape, held)).collect();
    if all.iter().all(|it| *it == all[0]) && shapes[0][axis] == 1 {
        return Ok(all[0]);
    }
    let mut expanded = Vec::new();
    for ((&x, mut shape), &part) in all.iter().zip(shapes).zip(parts) {
        shape.0[axis] = part;
        expanded.push(if to.ty(x).shape == shape { x } else { to.add(Op::Expand { shape, x })? });
    }
    beside(to, &expanded, axis)
}

/// Tensors joined along `axis`: behind a permutation, if they are all seen through the same one.
fn beside(to: &mut Graph, all: &[Value], axis: usize) -> Result<Value, Error> {
    let permuted = |it: &Value| match to.op(*it) {
        Op::Permute { order, x } => Some((order.clone(), *x)),
        _ => None,
    };
    let bases: Option<Vec<_>> = all.iter().map(permuted).collect();
    match bases {
        Some(bases) if bases.iter().all(|it| it.0 == bases[0].0) => {
            let order = bases[0].0.clone();
            let xs = bases.iter().map(|it| it.1).collect();
            let x = to.add(Op::Concat { axis: order[axis], xs })?;
            to.add(Op::Permute { order, x })
        }
        _ => to.add(Op::Concat { axis, xs: SmallVec::from_slice(all) }),
    }
}
