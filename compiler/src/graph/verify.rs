//! All faults of a graph. A graph from `Graph::add` has none; this finds mistakes of the compiler.
//!
//! Checked: every operand is in the graph and precedes its user; every type is the one that `infer` gives; equal ops
//! share one node; inputs and outputs have different names each; every output is in the graph; constants hold the bytes
//! of their type, and `Bool` ones only 0 and 1; a state is an input and an output of one type, each in no other.

use std::{collections::HashSet, fmt};

use super::{Graph, Op, Value, infer, number};
use crate::dtype::DType;

/// One thing that is wrong, and the node at which it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    pub node: Option<Value>,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "%{}: {}", number(node), self.what),
            None => f.write_str(&self.what),
        }
    }
}

pub fn verify(graph: &Graph) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |node, what| faults.push(Fault { node, what });
    let mut ops = HashSet::new();
    for (value, node) in graph.nodes() {
        if !ops.insert(&node.op) {
            fault(Some(value), format!("another node is the same {}", node.op.name()));
        }
        for operand in node.op.operands() {
            if !graph.nodes.contains_key(operand) {
                fault(Some(value), format!("operand %{} does not exist", number(operand)));
            } else if number(operand) >= number(value) {
                fault(Some(value), format!("operand %{} comes later", number(operand)));
            }
        }
        match infer::infer(graph, &node.op) {
            Ok(ty) if ty == node.ty => {}
            Ok(ty) => fault(Some(value), format!("its type is {}, but {ty} follows", node.ty)),
            Err(what) => fault(Some(value), format!("{}: {what}", node.op.name())),
        }
        if let Op::Constant(id) = node.op
            && let Some(tensor) = graph.constants.get(id)
        {
            let (have, need) = (tensor.data().len(), tensor.ty().bytes());
            if have != need {
                fault(Some(value), format!("a constant of {have} bytes, not {need}"));
            }
            if tensor.dtype() == DType::Bool && tensor.data().iter().any(|&it| it > 1) {
                fault(Some(value), "a bool constant with a byte above 1".to_string());
            }
        }
    }
    let mut names = HashSet::new();
    for input in &graph.inputs {
        if !names.insert(&input.name) {
            fault(None, format!("two inputs are named '{}'", input.name));
        }
    }
    let mut names = HashSet::new();
    for output in &graph.outputs {
        if !graph.nodes.contains_key(output.value) {
            fault(None, format!("output '{}' is no node", output.name));
        }
        if !names.insert(&output.name) {
            fault(None, format!("two outputs are named '{}'", output.name));
        }
    }
    faults.extend(states(graph).into_iter().map(|what| Fault { node: None, what }));
    faults
}

/// What is wrong with the graph's states.
pub fn states(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, state) in graph.states.iter().enumerate() {
        let (input, output) =
            (graph.inputs.get(state.input as usize), graph.outputs.get(state.output as usize));
        let (Some(input), Some(output)) = (input, output) else {
            faults.push(format!("state {at} is no input and output"));
            continue;
        };
        let became = graph.nodes.get(output.value).map(|it| &it.ty);
        if let Some(became) = became.filter(|it| **it != input.ty) {
            let (old, new) = (&input.name, &output.name);
            faults.push(format!(
                "the state '{old}' is {}, but '{new}', which it becomes, is {became}",
                input.ty
            ));
        }
        if graph.states[..at].iter().any(|it| it.input == state.input || it.output == state.output) {
            faults.push(format!("the state '{}' or what it becomes is in two states", input.name));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::Output, scalar::UnaryOp, shape::Type, tensor::Tensor};

    #[test]
    fn each_fault_is_found() {
        let mut graph = Graph::new();
        let x = graph.add_input("x", Type::new(DType::F32, [2])).unwrap();
        let y = graph.add(Op::Unary(UnaryOp::Relu, x)).unwrap();
        let z = graph.add(Op::Unary(UnaryOp::Exp, y)).unwrap();
        graph.outputs.push(Output { name: "z".into(), value: z });
        assert_eq!(verify(&graph), []);
        let found = |damage: &dyn Fn(&mut Graph)| {
            let mut graph = graph.clone();
            damage(&mut graph);
            let faults: Vec<String> = verify(&graph).iter().map(Fault::to_string).collect();
            faults.join("; ")
        };
        assert_eq!(
            found(&|it| it.nodes[y].ty = Type::new(DType::F32, [3])),
            "%1: its type is f32[3], but f32[2] follows; %2: its type is f32[2], but f32[3] follows"
        );
        assert_eq!(found(&|it| it.nodes[y].op = Op::Unary(UnaryOp::Relu, z)), "%1: operand %2 comes later");
        assert!(found(&|it| it.nodes[z].op = Op::Unary(UnaryOp::Relu, x)).contains("the same relu"));
        // As if they were of another graph: none is ever removed.
        let other = crate::graph::key(7);
        assert!(
            found(&|it| it.nodes[z].op = Op::Unary(UnaryOp::Exp, other))
                .contains("operand %7 does not exist")
        );
        assert!(found(&|it| it.outputs[0].value = other).contains("output 'z' is no node"));
        assert!(found(&|it| it.outputs.push(it.outputs[0].clone())).contains("two outputs"));
        assert!(found(&|it| it.inputs.push(it.inputs[0].clone())).contains("two inputs"));
        let truth = Tensor::from_slice(DType::Bool, [1], &[2u8]).unwrap();
        assert!(found(&|it| _ = it.add_constant(truth.clone())).contains("a byte above 1"));
    }
}
