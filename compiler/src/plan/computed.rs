//! How many bytes it takes to compute a plan's constants.
//!
//! In: the graph of the constants. Out: an upper bound of what is there at once, values of the file left out. Parts of the graph that
//! share no work may be computed at the same time; each is computed in the order of its nodes, and a value leaves behind its last
//! reader unless it is an output.

use slotmap::SecondaryMap;

use crate::graph::{Graph, Op, Value, number};

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
}
