//! Nodes in an order in which what a node reads has been made before it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::{node_name, proto::NodeProto};
use crate::error::Error;

/// The nodes in their own order if it serves, else in the nearest that does. A cycle is an error.
pub fn sorted(nodes: Vec<NodeProto>, at: &str) -> Result<Vec<NodeProto>, Error> {
    let maker: HashMap<&str, usize> = (nodes.iter().enumerate())
        .flat_map(|(at, node)| node.output.iter().map(move |name| (name.as_str(), at)))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let mut before: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let mut names = Vec::new();
        reads(node, &mut names);
        let mut from: Vec<usize> = names.iter().filter_map(|name| maker.get(name).copied()).collect();
        from.sort_unstable();
        from.dedup();
        before.push(from);
    }
    if before.iter().enumerate().all(|(at, from)| from.iter().all(|it| *it < at)) {
        return Ok(nodes);
    }
    let mut after: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (at, from) in before.iter().enumerate() {
        from.iter().for_each(|it| after[*it].push(at));
    }
    let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|it| waits[*it] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(at)) = ready.pop() {
        order.push(at);
        for &next in &after[at] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    if let Some(stuck) = (0..nodes.len()).find(|it| waits[*it] > 0) {
        let name = node_name(&nodes[stuck], stuck);
        return Err(Error::malformed(at, format!("node '{name}' is on a cycle or behind one")));
    }
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|it| nodes[it].take()).collect())
}

/// The names that `node` may read: its operands, and what its subgraphs read, which includes what they make themselves.
pub fn reads<'a>(node: &'a NodeProto, names: &mut Vec<&'a str>) {
    names.extend(node.input.iter().filter(|it| !it.is_empty()).map(String::as_str));
    for graph in node.attribute.iter().filter_map(|it| it.g.as_deref()) {
        graph.node.iter().for_each(|it| reads(it, names));
        names.extend(graph.output.iter().map(|it| it.name.as_str()));
    }
}
