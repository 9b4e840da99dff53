//! A plan without the weights of the model that it was compiled from, to be given to any graph of the same key.
//!
//! In: a plan and its graph, later another graph. Out: the plan of that one, verified, whose kernels and modules are the first one's. A template
//! holds no constant of a graph, so that keeping it keeps no model in memory, but for the few values that passes have made.

use std::collections::HashMap;

use slotmap::SecondaryMap;

use super::{
    keys::keys,
    step::{Constant, Plan},
    verify::verify,
};
use crate::{
    bug,
    graph::{Graph, Op, Output, Value, number},
    shape::Type,
    tensor::Tensor,
};

pub struct Template {
    /// Its constant graph is empty, and the keys of its constants are not theirs.
    plan: Plan,
    outline: Graph,
    leaves: Vec<Leaf>,
}

/// A constant of a plan's constant graph.
enum Leaf {
    /// Of the compiled graph, by its number there.
    Given(u32, Type),
    /// One that passes have made.
    Own(Tensor),
}

impl Template {
    /// Of a plan that was compiled from `graph`.
    pub fn of(plan: &Plan, graph: &Graph) -> Template {
        let (outline, leaves) = outline(plan, graph);
        let leaf = |(tensor, from): (&Tensor, Option<u32>)| match from {
            Some(number) => Leaf::Given(number, tensor.ty().clone()),
            None => Leaf::Own(tensor.clone()),
        };
        let leaves = leaves.into_iter().map(leaf).collect();
        let constants = plan.constants.iter().map(|it| Constant { key: 0, ..it.clone() }).collect();
        let plan = Plan { constant_graph: Graph::new(), constants, ..plan.clone() };
        Template { plan, outline, leaves }
    }

    /// The plan of `graph`, whose key is that of the graph that this was made of.
    pub fn plan(&self, graph: &Graph) -> Result<Plan, String> {
        let known = constants(graph);
        let leaf = |leaf: &Leaf| match leaf {
            Leaf::Own(tensor) => Ok(tensor.clone()),
            Leaf::Given(number, ty) => {
                let data = known.get(number).ok_or("no such constant")?.data().clone();
                Tensor::new(ty.clone(), data).ok_or("a constant of another size")
            }
        };
        let leaves = self.leaves.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let constant_graph = filled(&self.outline, leaves)?;
        let keys = keys(&constant_graph);
        let mut plan = Plan { constant_graph, ..self.plan.clone() };
        plan.constants.iter_mut().for_each(|it| it.key = keys[it.value]);
        match verify(&plan).into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(plan),
        }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let own = self.leaves.iter().map(|it| match it {
            Leaf::Own(tensor) => tensor.data().len(),
            Leaf::Given(..) => 0,
        });
        let expressions: usize = self.plan.kernels.iter().map(|it| it.kernel.body.len()).sum();
        let parts = expressions + self.plan.steps.len() + self.plan.tensors.len() + self.outline.len();
        own.sum::<usize>() + parts * EXPRESSION
    }
}

/// Bytes of an expression, or of a step, in its containers.
const EXPRESSION: usize = 512;

/// The constants of a graph by their numbers.
pub(super) fn constants(graph: &Graph) -> HashMap<u32, &Tensor> {
    graph.nodes().filter_map(|(value, _)| Some((number(value), graph.as_constant(value)?))).collect()
}

/// The constant graph of a plan that was compiled from `graph`, with an input for each leaf; and the leaves, each with its number in
/// `graph` where it is from there.
pub(super) fn outline<'a>(plan: &'a Plan, graph: &Graph) -> (Graph, Vec<(&'a Tensor, Option<u32>)>) {
    let place = |tensor: &Tensor| (tensor.data().as_ptr() as usize, tensor.data().len());
    let known: HashMap<_, u32> = (graph.nodes())
        .filter_map(|(value, _)| Some((place(graph.as_constant(value)?), number(value))))
        .collect();
    let mut leaves = Vec::new();
    let mut outline = Graph::new();
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    for (value, node) in plan.constant_graph.nodes() {
        outline.set_origin(node.origin.clone());
        let new = match &node.op {
            Op::Constant(id) => {
                let tensor = plan.constant_graph.constant(*id);
                let from = known.get(&place(tensor)).copied().filter(|_| !tensor.data().is_empty());
                leaves.push((tensor, from));
                outline.add_input(format!("{}", number(value)), node.ty.clone())
            }
            op => outline.add(op.clone().map_operands(|it| moved[it])),
        };
        moved.insert(value, new.unwrap_or_else(|it| bug!("a constant graph does not fit together: {it}")));
    }
    outline.outputs = (plan.constant_graph.outputs.iter())
        .map(|it| Output { name: it.name.clone(), value: moved[it.value] })
        .collect();
    (outline, leaves)
}

/// The graph of this outline with these leaves; the numbers of its nodes stay.
pub(super) fn filled(outline: &Graph, leaves: Vec<Tensor>) -> Result<Graph, String> {
    if outline.inputs().len() != leaves.len() {
        return Err("as many constants as leaves are needed".into());
    }
    let mut graph = Graph::new();
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    for (value, node) in outline.nodes() {
        graph.set_origin(node.origin.clone());
        let new = match &node.op {
            Op::Input { slot } => {
                let leaf = leaves.get(*slot as usize).ok_or("no such leaf")?;
                if *leaf.ty() != node.ty {
                    return Err("a leaf of another type".into());
                }
                graph.add_constant(leaf.clone())
            }
            op => graph.add(op.clone().map_operands(|it| moved[it])).map_err(|it| it.to_string())?,
        };
        // Texts name nodes by their numbers.
        if new != value {
            return Err("two nodes are the same".into());
        }
        moved.insert(value, new);
    }
    graph.outputs = outline.outputs.clone();
    Ok(graph)
}
