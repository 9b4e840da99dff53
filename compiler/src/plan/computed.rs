//! How many bytes and how many operations it takes to compute a plan's constants.
//!
//! In: the graph of the constants. Out: an upper bound of what is there at once, values of the file left out; and how often an element
//! is read or written. Parts of the graph that share no work may be computed at the same time; each is computed in the order of its
//! nodes, and a value leaves behind its last reader unless it is an output.

use slotmap::SecondaryMap;

use crate::graph::{Graph, Node, Op, Value, number};

#[cfg(feature = "compile")]
pub fn bytes(graph: &Graph) -> u64 {
    let made = |value: Value| !matches!(graph.op(value), Op::Constant(_) | Op::Input { .. });
    // For each node one with a lower number, or itself.
    let mut lower: Vec<usize> = (0..graph.len()).collect();
    let first = |lower: &mut Vec<usize>, mut at: usize| {
        while lower[at] != at {
            lower[at] = lower[lower[at]];
            at = lower[at];
        }
        at
    };
    let mut readers: SecondaryMap<Value, usize> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        readers.insert(value, 0);
        for operand in node.op.operands() {
            readers[operand] += 1;
            if made(operand) {
                let (a, b) = (number(value) as usize, number(operand) as usize);
                let (a, b) = (first(&mut lower, a), first(&mut lower, b));
                lower[a.max(b)] = a.min(b);
            }
        }
    }
    graph.outputs.iter().for_each(|it| readers[it.value] += 1);
    // Of each part: what is there, and the most that was.
    let mut parts = vec![(0u64, 0u64); graph.len()];
    for (value, node) in graph.nodes().filter(|it| made(it.0)) {
        let (now, most) = &mut parts[first(&mut lower, number(value) as usize)];
        *now = now.saturating_add(node.ty.bytes() as u64);
        *most = (*most).max(*now);
        for operand in node.op.operands() {
            readers[operand] -= 1;
            if readers[operand] == 0 && made(operand) {
                *now -= graph.ty(operand).bytes() as u64;
            }
        }
    }
    parts.iter().fold(0, |sum, it| sum.saturating_add(it.1))
}

/// Operations on elements.
pub fn work(graph: &Graph) -> u64 {
    let each = graph.nodes().filter(|it| !matches!(it.1.op, Op::Constant(_) | Op::Input { .. }));
    let count = |value: Value| graph.ty(value).shape.count() as u64;
    let all = each.map(|(_, Node { op, ty, .. })| {
        let made = ty.shape.count() as u64;
        let read = op.operands().iter().map(|it| count(*it)).fold(0, u64::saturating_add);
        // How many elements each result is made of, where that is not a part of what is read.
        let depth = match op {
            Op::MatMul { a, .. } => graph.ty(*a).shape.last().map_or(1, |it| *it as u64),
            Op::Conv { w, .. } => count(*w) / graph.ty(*w).shape.first().map_or(1, |it| (*it as u64).max(1)),
            Op::ConvTranspose { w, groups, .. } => {
                count(*w) / (graph.ty(*w).shape.get(1).map_or(1, |it| *it as u64) * *groups as u64).max(1)
            }
            Op::Pool { kernel, .. } => kernel.count() as u64,
            Op::Attention { q, k, .. } => {
                let (q, k) = (&graph.ty(*q).shape, &graph.ty(*k).shape);
                2 * (k[2] as u64).saturating_mul(1 + q[3] as u64)
            }
            Op::Input { .. }
            | Op::Constant(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Select { .. }
            | Op::Cast { .. }
            | Op::Random { .. }
            | Op::Reduce { .. }
            | Op::Mean { .. }
            | Op::ArgReduce { .. }
            | Op::CumSum { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Expand { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::Softmax { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::GroupNorm { .. }
            | Op::BatchNorm { .. } => 1,
        };
        made.saturating_mul(depth).saturating_add(read)
    });
    all.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::text::parse;

    #[test]
    fn chains_share_memory_and_parts_do_not() {
        let of = |text: &str| bytes(&parse(text).expect("a graph"));
        let chain = "%0 = constant {1.0,2.0} : f32[2]\n%1 = expand %0 shape=[100,2] : f32[100,2]\n%2 = neg %1 : f32[100,2]\n\
                     %3 = neg %2 : f32[100,2]\n%4 = neg %3 : f32[100,2]\n";
        assert_eq!(of(&format!("{chain}output \"a\" = %4\n")), 1600);
        assert_eq!(of(&format!("{chain}output \"a\" = %4\noutput \"b\" = %2\n")), 2400);
        let other = "%5 = expand %0 shape=[10,2] : f32[10,2]\n";
        assert_eq!(of(&format!("{chain}{other}output \"a\" = %4\noutput \"b\" = %5\n")), 1680);
        assert_eq!(of("%0 = constant {1.0,2.0} : f32[2]\noutput \"a\" = %0\n"), 0);
    }

    #[test]
    fn work_is_what_every_element_takes() {
        let of = |text: &str| work(&parse(text).expect("a graph"));
        let product = "%0 = constant {1.0,2.0} : f32[2]\n%1 = expand %0 shape=[100,2] : f32[100,2]\n\
                       %2 = permute %1 order=[1,0] : f32[2,100]\n%3 = matmul %2 %1 : f32[2,2]\noutput \"a\" = %3\n";
        // Made and read: 200 + 2, 200 + 200, and 4 of 100 each, of 400.
        assert_eq!(of(product), 202 + 400 + 4 * 100 + 400);
    }
}
