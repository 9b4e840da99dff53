//! What depends on constants alone moves to a graph of its own, whose outputs become inputs of the other.
//!
//! Expansions and permutations at the border stay on the side of the runs: they cost nothing where they are read, and
//! an expansion would only cost memory. Weights of convolutions are held in the order in which those go through them.

use std::collections::HashSet;

use slotmap::SecondaryMap;

use super::weights;
use crate::{
    error::Error,
    graph::{Graph, Op, Output, Value},
    shape::Axes,
    target::Target,
};

/// The graph of every run, and the graph of the constants.
pub fn separate(from: &Graph, target: &Target) -> Result<(Graph, Graph), Error> {
    let fixed = fixed(from);
    let mut cut = Cut {
        from,
        seen_through: seen_through(from),
        orders: weights::orders(from, &fixed, target),
        to: Graph::new(),
        in_run: SecondaryMap::new(),
        constants: Graph::new(),
        in_constants: SecondaryMap::new(),
        names: from.inputs().iter().map(|it| it.name.clone()).collect(),
    };
    for input in from.inputs() {
        cut.to.add_input(&*input.name, input.ty.clone())?;
    }

    // The border first, so that the further inputs precede everything that runs compute.
    let live = live(from);
    for (_, node) in from.nodes().filter(|(it, _)| live.contains_key(*it) && !fixed[*it]) {
        for operand in node.op.operands() {
            if fixed[operand] {
                cut.border(operand)?;
            }
        }
    }
    for output in from.outputs.iter().filter(|it| fixed[it.value]) {
        cut.border(output.value)?;
    }
    for (value, node) in from.nodes().filter(|(it, _)| live.contains_key(*it) && !fixed[*it]) {
        cut.to.set_origin(node.origin.clone());
        let new = cut.to.add(node.op.clone().map_operands(|it| cut.in_run[it]))?;
        cut.in_run.insert(value, new);
    }
    cut.to.outputs = (from.outputs.iter())
        .map(|it| Output { name: it.name.clone(), value: cut.in_run[it.value] })
        .collect();
    Ok((cut.to, cut.constants))
}

struct Cut<'a> {
    from: &'a Graph,
    seen_through: SecondaryMap<Value, usize>,
    /// In which order of their axes some of the constants are held.
    orders: SecondaryMap<Value, Axes>,
    to: Graph,
    in_run: SecondaryMap<Value, Value>,
    constants: Graph,
    in_constants: SecondaryMap<Value, Value>,
    names: HashSet<String>,
}

impl Cut<'_> {
    /// Makes `value`, which depends on constants alone, available to the runs.
    fn border(&mut self, value: Value) -> Result<(), Error> {
        let mut views = Vec::new();
        let mut base = value;
        while !self.in_run.contains_key(base) && self.stays_view(base) {
            views.push(base);
            base = self.from.op(base).operands()[0];
        }
        if !self.in_run.contains_key(base) {
            let node = self.from.node(base);
            self.to.set_origin(node.origin.clone());
            let new = match &node.op {
                Op::Constant(id) if node.ty.shape.count() == 1 => {
                    self.to.add_constant(self.from.constant(*id).clone())
                }
                _ => {
                    let made = self.once(base)?;
                    let name = self.fresh_name(&node.origin);
                    match self.orders.get(base).cloned() {
                        None => {
                            self.constants.outputs.push(Output { name: name.clone(), value: made });
                            self.to.add_input(name, node.ty.clone())?
                        }
                        Some(order) => {
                            let back = inverse(&order);
                            let made = self.constants.add(Op::Permute { order, x: made })?;
                            let ty = self.constants.ty(made).clone();
                            self.constants.outputs.push(Output { name: name.clone(), value: made });
                            let x = self.to.add_input(name, ty)?;
                            self.to.set_origin(node.origin.clone());
                            self.to.add(Op::Permute { order: back, x })?
                        }
                    }
                }
            };
            self.in_run.insert(base, new);
        }
        for view in views.into_iter().rev() {
            let node = self.from.node(view);
            self.to.set_origin(node.origin.clone());
            let new = self.to.add(node.op.clone().map_operands(|it| self.in_run[it]))?;
            self.in_run.insert(view, new);
        }
        Ok(())
    }

    /// Whether a node that depends on constants alone is left as a view for its readers.
    fn stays_view(&self, value: Value) -> bool {
        let node = self.from.node(value);
        match node.op {
            Op::Expand { .. } | Op::Permute { .. } => true,
            Op::Reshape { .. } | Op::Slice { .. } => node.ty.shape.count() > self.seen_through[value],
            _ => false,
        }
    }

    /// `value` and all that it needs, in the graph of the constants.
    fn once(&mut self, value: Value) -> Result<Value, Error> {
        // An explicit stack: chains of nodes are as long as the model's author likes.
        let mut open = vec![value];
        while let Some(&next) = open.last() {
            if self.in_constants.contains_key(next) {
                open.pop();
                continue;
            }
            let node = self.from.node(next);
            let missing = node.op.operands().into_iter().filter(|it| !self.in_constants.contains_key(*it));
            let before = open.len();
            open.extend(missing);
            if open.len() > before {
                continue;
            }
            self.constants.set_origin(node.origin.clone());
            let new = match &node.op {
                Op::Constant(id) => self.constants.add_constant(self.from.constant(*id).clone()),
                op => self.constants.add(op.clone().map_operands(|it| self.in_constants[it]))?,
            };
            self.in_constants.insert(next, new);
            open.pop();
        }
        Ok(self.in_constants[value])
    }

    fn fresh_name(&mut self, origin: &str) -> String {
        let wanted = if origin.is_empty() { "constant" } else { origin };
        let mut name = wanted.to_string();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}#{count}");
        }
        name
    }
}

/// The order that undoes `order`.
fn inverse(order: &Axes) -> Axes {
    let mut back = order.clone();
    order.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
    back
}

/// For each node the number of elements of what it looks at through a chain of views, itself if it is no view.
fn seen_through(graph: &Graph) -> SecondaryMap<Value, usize> {
    let mut counts = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let count = match &node.op {
            Op::Expand { x, .. } | Op::Permute { x, .. } | Op::Reshape { x, .. } | Op::Slice { x, .. } => {
                counts[*x]
            }
            _ => node.ty.shape.count(),
        };
        counts.insert(value, count);
    }
    counts
}

/// Which nodes depend on constants alone.
fn fixed(graph: &Graph) -> SecondaryMap<Value, bool> {
    let mut fixed = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let it = match node.op {
            Op::Input { .. } => false,
            _ => node.op.operands().iter().all(|it| fixed[*it]),
        };
        fixed.insert(value, it);
    }
    fixed
}

/// The nodes that the outputs need.
fn live(graph: &Graph) -> SecondaryMap<Value, ()> {
    let mut live = SecondaryMap::new();
    live.extend(graph.outputs.iter().map(|it| (it.value, ())));
    for (value, node) in graph.nodes().rev() {
        if live.contains_key(value) {
            live.extend(node.op.operands().into_iter().map(|it| (it, ())));
        }
    }
    live
}
