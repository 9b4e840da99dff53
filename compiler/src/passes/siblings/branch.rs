//! Products by weights, what follows each of them, and where that gets to.

use std::collections::BTreeSet;

use slotmap::{Key as _, SecondaryMap};

use super::Why;
use crate::{
    graph::{Graph, Op, Value},
    shape::Shape,
};

/// A product by weights, and what is done to its result.
pub struct Branch {
    pub product: Value,
    pub factor: Factor,
    /// Nodes that the result passes in turn, each read by the next alone.
    pub steps: Vec<Step>,
    /// Where it gets to then, without passing another product.
    pub ends: BTreeSet<End>,
}

#[derive(Clone, Copy)]
pub struct Factor {
    pub weight: Value,
    pub bias: Option<Value>,
    /// The axis of `weight` along which its parts make parts of the result, and the result's axis.
    pub weight_axis: usize,
    pub axis: usize,
}

pub struct Step {
    pub node: Value,
    /// The other operand, which depends on constants alone.
    pub with: Option<Value>,
    pub form: StepForm,
}

/// What two steps must have in common: the operator, whether the result is its first operand, and the other operand's shape
/// but for the axis that is widened.
#[derive(Clone, PartialEq, Eq)]
pub struct StepForm {
    pub op: Op,
    pub first: bool,
    pub with: Option<Shape>,
}

impl Branch {
    pub fn result(&self) -> Value {
        self.steps.last().map_or(self.product, |it| it.node)
    }
}

/// Where a value ends up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Output(usize),
    Node(Value),
}

/// Who uses what.
pub struct Uses<'a> {
    pub graph: &'a Graph,
    /// Live nodes, operands before users.
    pub live: Vec<Value>,
    /// What depends on constants alone.
    pub fixed: SecondaryMap<Value, bool>,
    /// Once an operand.
    pub users: SecondaryMap<Value, Vec<Value>>,
    pub outputs: SecondaryMap<Value, usize>,
}

impl<'a> Uses<'a> {
    pub fn new(graph: &'a Graph) -> Uses<'a> {
        let mut outputs = SecondaryMap::new();
        let mut users: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
        for (number, output) in graph.outputs.iter().enumerate() {
            outputs.insert(output.value, number);
            users.insert(output.value, Vec::new());
        }
        let mut live = Vec::new();
        for (value, node) in graph.nodes().rev() {
            if users.contains_key(value) {
                live.push(value);
                for operand in node.op.operands() {
                    users.entry(operand).expect("nothing is removed").or_default().push(value);
                }
            }
        }
        live.reverse();
        let mut fixed = SecondaryMap::new();
        for &value in &live {
            let op = graph.op(value);
            let it = !matches!(op, Op::Input { .. }) && op.operands().iter().all(|it| fixed[*it]);
            fixed.insert(value, it);
        }
        Uses { graph, live, fixed, users, outputs }
    }

    pub fn shape(&self, value: Value) -> &Shape {
        &self.graph.ty(value).shape
    }

    /// The second factor of a product that computes something in every run.
    pub fn factor(&self, value: Value) -> Option<Factor> {
        let shape = self.shape(value);
        if self.fixed[value] || shape.count() == 0 {
            return None;
        }
        match *self.graph.op(value) {
            Op::MatMul { a, b } if a != b && self.shape(b).rank() >= 2 => Some(Factor {
                weight: b,
                bias: None,
                weight_axis: self.shape(b).rank() - 1,
                axis: shape.rank() - 1,
            }),
            Op::Conv { groups: 1, x, w, bias, .. } if x != w => {
                Some(Factor { weight: w, bias, weight_axis: 0, axis: 1 })
            }
            _ => None,
        }
    }

    /// What products that might be one have in common.
    pub fn family(&self, value: Value, factor: Factor) -> (Op, Shape) {
        let own = |it: Value| it == factor.weight || Some(it) == factor.bias;
        let op = self.graph.op(value).clone().map_operands(|it| if own(it) { Value::null() } else { it });
        let mut shape = self.shape(factor.weight).clone();
        shape.0[factor.weight_axis] = 0;
        (op, shape)
    }

    pub fn branch(&self, product: Value, factor: Factor) -> Branch {
        let mut branch = Branch { product, factor, steps: Vec::new(), ends: BTreeSet::new() };
        loop {
            let at = branch.result();
            let [user] = self.users[at][..] else { break };
            let Some(step) = self.step(at, user, factor.axis).filter(|_| !self.outputs.contains_key(at))
            else {
                break;
            };
            branch.steps.push(step);
        }
        branch.ends = self.ends(branch.result());
        branch
    }

    /// What `user`, the only one of `from`, does to it, if that is done at each of its points with constants.
    pub fn step(&self, from: Value, user: Value, axis: usize) -> Option<Step> {
        let (with, first) = match *self.graph.op(user) {
            Op::Unary(..) | Op::Cast { .. } => (None, true),
            Op::Binary(_, x, with) if x == from && self.fixed[with] => (Some(with), true),
            Op::Binary(_, with, x) if x == from && self.fixed[with] => (Some(with), false),
            _ => return None,
        };
        let shape = self.shape(user);
        let op = self.graph.op(user).clone().map_operands(|_| Value::null());
        let blank = |with: Value| {
            let mut blank = raised(self.shape(with), shape.rank());
            blank.0[axis] = 0;
            blank
        };
        let form = StepForm { op, first, with: with.map(blank) };
        (shape == self.shape(from)).then_some(Step { node: user, with, form })
    }

    /// Why what reads `result` would lose by reading a slice of something wider.
    pub fn loss(&self, result: Value) -> Option<Why> {
        let (mut at_points, mut elsewhere) = (false, false);
        let mut open = vec![result];
        while let Some(value) = open.pop() {
            if self.outputs.contains_key(value) {
                return Some(Why::Output);
            }
            for &user in &self.users[value] {
                match self.graph.op(user) {
                    Op::Reshape { .. } | Op::Permute { .. } => open.push(user),
                    // What is wider, as an update of a slice, is no epilogue.
                    Op::Unary(..) | Op::Binary(..) | Op::Select { .. } | Op::Cast { .. } => {
                        at_points |= self.shape(user).count() == self.shape(value).count();
                    }
                    // Whoever reads the result at other points than its own runs after the product anyway, and what is
                    // done at its points joins that.
                    Op::Slice { .. } | Op::Concat { .. } | Op::Pad { .. } | Op::Gather { .. } => {
                        elsewhere = true;
                    }
                    _ => {}
                }
            }
        }
        (at_points && !elsewhere).then_some(Why::Followed)
    }

    /// The products and outputs that `result` gets to without passing another product.
    pub fn ends(&self, result: Value) -> BTreeSet<End> {
        let (mut ends, mut seen, mut open) = (BTreeSet::new(), SecondaryMap::new(), vec![result]);
        while let Some(value) = open.pop() {
            if seen.insert(value, ()).is_some() {
                continue;
            }
            ends.extend(self.outputs.get(value).map(|&it| End::Output(it)));
            for &user in &self.users[value] {
                match self.graph.op(user) {
                    Op::MatMul { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Attention { .. } => {
                        ends.insert(End::Node(user));
                    }
                    _ => open.push(user),
                }
            }
        }
        ends
    }

    /// Every user of `weight`, seen through views of it that nothing else reads.
    pub fn readers(&self, mut weight: Value) -> &[Value] {
        let users = &self.users[weight];
        while let Op::Reshape { x, .. } | Op::Permute { x, .. } | Op::Slice { x, .. } = *self.graph.op(weight)
        {
            if self.users[x].len() > 1 {
                return &self.users[x];
            }
            weight = x;
        }
        users
    }
}

/// `shape` with axes of one element before it.
pub fn raised(shape: &Shape, rank: usize) -> Shape {
    std::iter::repeat_n(1, rank - shape.rank()).chain(shape.iter().copied()).collect()
}
