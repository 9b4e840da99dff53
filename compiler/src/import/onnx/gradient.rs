//! Derivatives by tensors of the same graph (ai.onnx.preview.training's Gradient).
//!
//! The nodes between xs, zs and y are converted once more: with variables for xs, so that no x follows from another, and with the
//! operands for zs. That is derived by the variables, and the operands take their places; what was made of them before is shared.
//! A result is a value like others, so that its own derivative needs nothing more.

use std::collections::{HashMap, HashSet};

use super::{
    control::Made,
    convert::{Convert, deeper, named},
    node::Node,
    order,
    proto::NodeProto,
    scope::{Scope, Slot, What},
};
use crate::{
    error::Error,
    graph::{
        Value,
        gradient::{CARRYING, carries, gradient},
    },
};

impl Convert<'_> {
    pub fn gradient(
        &mut self,
        node: &NodeProto,
        n: &Node,
        slots: &[Slot],
        path: &str,
        scope: &Scope,
    ) -> Made {
        let xs = n.texts("xs")?.unwrap_or_default();
        let zs = n.texts("zs")?.unwrap_or_default();
        let y = n.text("y", "")?;
        n.all_asked()?;
        if xs.is_empty() || y.is_empty() {
            return Err(n.error("attribute 'xs' or 'y' names nothing"));
        }
        let names: Vec<&str> = xs.iter().chain(&zs).copied().collect();
        let bound: HashSet<&str> = names.iter().copied().collect();
        if bound.len() < names.len() {
            return Err(n.error("attributes 'xs' and 'zs' name a tensor twice"));
        }
        if slots.len() != names.len() {
            let what = format!("{} operands for {} names in 'xs' and 'zs'", slots.len(), names.len());
            return Err(n.error(what));
        }
        if node.output.len() > xs.len() {
            return Err(n.error(format!("{} outputs for {} names in 'xs'", node.output.len(), xs.len())));
        }
        for name in &names {
            check_name(name, n, scope)?;
        }
        let between = between(y, &bound, n, scope)?;
        if let Some(made) = self.waiting(node, slots, scope) {
            return Ok(made);
        }

        let prefix = format!("{}/", n.name);
        let depth = deeper(scope, n.name)?;
        let mut inner = Scope {
            values: HashMap::new(),
            outer: Some(scope),
            home: scope.home,
            opsets: scope.opsets,
            arguments: scope.arguments,
            prefix: &prefix,
            path,
            depth,
        };
        let mut variables = Vec::with_capacity(xs.len());
        for (name, slot) in names.iter().zip(slots) {
            let mut own = Slot { key: inner.key(name), what: slot.what.clone() };
            if variables.len() < xs.len() {
                let value =
                    tensor(&slot.what).ok_or_else(|| n.error(format!("'{name}' is no tensor of numbers")))?;
                let ty = self.emit.graph.ty(value).clone();
                if !carries(ty.dtype) {
                    return Err(n.error(format!("'{name}' is {ty}, and {CARRYING} have derivatives")));
                }
                let variable = self.emit.graph.variable(ty);
                own.what = What::Tensor(variable);
                variables.push((variable, value));
            }
            inner.values.insert(name, own);
        }
        let randoms = self.emit.randoms;
        let before = std::mem::take(&mut self.breaks);
        let made = self.body(&between, &[y], &mut inner);
        let own = std::mem::replace(&mut self.breaks, before);
        let made = made?;
        if let Some(why) = own.first {
            return Err(n.unsupported(format!("what lies between is decided by values: {why}")));
        }
        if self.emit.randoms != randoms {
            return Err(n.unsupported("random values lie between, which would be others than those of y"));
        }
        let y = made.first().and_then(|it| tensor(&it.what));
        let y = y.ok_or_else(|| n.error("attribute 'y' names no tensor of numbers"))?;

        let graph = &mut self.emit.graph;
        graph.set_origin(n.name);
        let before = graph.len();
        let wanted: Vec<usize> = (0..xs.len()).filter(|it| n.wants(*it)).collect();
        let by: Vec<Value> = wanted.iter().map(|it| variables[*it].0).collect();
        let derived = gradient(graph, y, &by)?;
        let settled = graph.settle(&derived, &variables)?;
        let more = graph.len() - before;
        self.count(more, n.name)?;
        let mut whats = vec![What::Absent; xs.len()];
        for (at, value) in wanted.into_iter().zip(settled) {
            whats[at] = What::Tensor(value);
        }
        Ok(named(node, scope, whats))
    }
}

fn tensor(what: &What) -> Option<Value> {
    match what {
        What::Tensor(value) => Some(*value),
        What::Absent
        | What::Strings(_)
        | What::Sequence(_)
        | What::Optional(_)
        | What::Pending
        | What::Gone => None,
    }
}

/// Where a name comes from, as a node of a graph sees it.
enum Source {
    /// Number of the node.
    Node(usize),
    Input,
    Constant,
    /// A graph around this one, which does not make it anew.
    Outer,
    Nowhere,
}

fn source(name: &str, scope: &Scope) -> Source {
    if let Some(at) = scope.home.maker(name) {
        return Source::Node(at);
    }
    if scope.home.given.contains(name) {
        return Source::Input;
    }
    let mut at = Some(scope);
    while let Some(scope) = at {
        if scope.home.maker(name).is_some() || scope.home.given.contains(name) {
            return Source::Outer;
        }
        if scope.values.contains_key(name) {
            return Source::Constant;
        }
        at = scope.outer;
    }
    Source::Nowhere
}

/// A name in 'xs' or 'zs' is that of a tensor of the node's own graph.
fn check_name(name: &str, n: &Node, scope: &Scope) -> Result<(), Error> {
    match source(name, scope) {
        Source::Node(_) | Source::Input | Source::Constant => Ok(()),
        Source::Outer => Err(n.error(format!("'{name}' is of a graph around the node's"))),
        Source::Nowhere => Err(n.error(format!("there is no tensor '{name}'"))),
    }
}

/// The nodes by which `y` follows from the `bound` names.
fn between(y: &str, bound: &HashSet<&str>, n: &Node, scope: &Scope) -> Result<Vec<NodeProto>, Error> {
    if let Source::Nowhere = source(y, scope) {
        return Err(n.error(format!("there is no tensor '{y}'")));
    }
    let mut wanted = HashSet::new();
    let mut open = vec![y];
    let mut seen: HashSet<&str> = HashSet::new();
    while let Some(name) = open.pop() {
        if bound.contains(name) || !seen.insert(name) {
            continue;
        }
        match source(name, scope) {
            Source::Node(at) => {
                if wanted.insert(at) {
                    order::reads(&scope.home.nodes[at], &mut open);
                }
            }
            Source::Input => {
                let what = format!("'{y}' depends on the input '{name}', which is not among 'xs' and 'zs'");
                return Err(n.error(what));
            }
            Source::Outer => {
                let what = format!("'{y}' depends on '{name}', which is of a graph around the node's");
                return Err(n.error(what));
            }
            // Graphs inside of nodes make names of their own; any other is missed when its reader is converted.
            Source::Constant | Source::Nowhere => {}
        }
    }
    let mut wanted: Vec<usize> = wanted.into_iter().collect();
    wanted.sort_unstable();
    Ok(wanted.into_iter().map(|it| scope.home.nodes[it].clone()).collect())
}
