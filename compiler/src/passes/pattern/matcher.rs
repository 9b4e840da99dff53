//! One search at one place of a graph.
//!
//! Goals are pairs of a node of the search and a node of the graph. A node of the search stands for one node of the graph
//! wherever it is used. Operands of commutative operators are tried in both orders.

use std::fmt;

use slotmap::SecondaryMap;

use super::super::matching::{near, uniform};
use crate::{
    graph::{Graph, Op, Value, number},
    scalar::{
        BinaryOp::{self, *},
        Scalar,
    },
};

/// Pairs that are looked at for one search at one place.
const FUEL: u64 = 4096;

/// A search's graph, and what its nodes stand for.
#[derive(Debug)]
pub struct Form {
    pub graph: Graph,
    /// Of the function, in order.
    pub inputs: Vec<Value>,
    pub results: Vec<Value>,
    /// The numbers of its example.
    pub numbers: Vec<f64>,
    /// Constants that stand for a number, or for its reciprocal.
    wild: SecondaryMap<Value, (usize, bool)>,
    /// What is the same everywhere.
    uniform: SecondaryMap<Value, Scalar>,
    uses: SecondaryMap<Value, u32>,
}

impl Form {
    /// `wild`: constants that equal one of the numbers stand for any.
    pub fn new(graph: Graph, numbers: &[f64], wild: bool) -> Result<Form, String> {
        let mut inputs = vec![None; graph.inputs().len()];
        let (mut wilds, mut uniforms) = (SecondaryMap::new(), SecondaryMap::new());
        let mut uses: SecondaryMap<Value, u32> = SecondaryMap::new();
        for (value, node) in graph.nodes() {
            uses.insert(value, 0);
            for operand in node.op.operands() {
                uses[operand] += 1;
            }
            if let Op::Input { slot } = node.op {
                inputs[slot as usize] = Some(value);
            }
            let Some(scalar) = uniform(&graph, value) else { continue };
            uniforms.insert(value, scalar);
            let dtype = node.ty.dtype;
            let same = |it: f64| dtype.is_float() && Scalar::of(dtype, it) == scalar;
            let meant = numbers.iter().enumerate().find_map(|(at, it)| {
                [(at, false, *it), (at, true, 1.0 / it)].into_iter().find(|it| same(it.2))
            });
            if let Some((number, inverse, _)) = meant.filter(|_| wild) {
                wilds.insert(value, (number, inverse));
            }
        }
        let is_used = |it: &Option<Value>| it.filter(|it| uses[*it] > 0);
        let inputs: Option<Vec<Value>> = inputs.iter().map(is_used).collect();
        let Some(inputs) = inputs else { return Err("an input of the search decides nothing in it".into()) };
        let results: Vec<Value> = graph.outputs.iter().map(|it| it.value).collect();
        let is_leaf = |it: &Value| matches!(graph.op(*it), Op::Input { .. }) || uniforms.contains_key(*it);
        if results.iter().any(is_leaf) {
            return Err("simplified, a result of the search is an input or a constant".into());
        }
        for result in &results {
            uses[*result] += 1;
        }
        Ok(Form { graph, inputs, results, numbers: numbers.to_vec(), wild: wilds, uniform: uniforms, uses })
    }

    /// The result that is looked for first: the last one.
    pub fn root(&self) -> Value {
        *self.results.iter().max_by_key(|it| number(**it)).expect("a search has results")
    }

    pub fn is_uniform(&self, pattern: Value) -> bool {
        self.uniform.contains_key(pattern)
    }

    pub fn uses(&self, pattern: Value) -> u32 {
        self.uses[pattern]
    }

    /// How many operators and constants there are to find.
    pub fn size(&self) -> usize {
        let leaf = |it: &Op| matches!(it, Op::Input { .. });
        let inside = |value: Value| {
            // What a uniform value is made of is not looked at.
            self.graph.nodes().any(|it| it.1.op.operands().contains(&value) && !self.is_uniform(it.0))
        };
        let counted = |it: &(Value, &crate::graph::Node)| {
            !leaf(&it.1.op) && (self.results.contains(&it.0) || inside(it.0))
        };
        self.graph.nodes().filter(counted).count()
    }

    /// Whether both find the same where attributes do not count.
    pub fn is_like(&self, other: &Form) -> bool {
        let kind = |form: &Form, (value, node): (Value, &crate::graph::Node)| {
            let operands: Vec<u32> = node.op.operands().iter().map(|it| number(*it)).collect();
            let scalar = form.uniform.get(value).copied().filter(|_| !form.wild.contains_key(value));
            (node.op.name(), operands, form.wild.get(value).copied(), scalar)
        };
        let results = |it: &Form| it.results.iter().map(|it| number(*it)).collect::<Vec<_>>();
        self.graph.len() == other.graph.len()
            && results(self) == results(other)
            && self.graph.nodes().zip(other.graph.nodes()).all(|(a, b)| kind(self, a) == kind(other, b))
    }
}

/// What nodes and numbers of a search stand for.
#[derive(Clone)]
pub struct Bound {
    nodes: Vec<Option<Value>>,
    numbers: Vec<Option<f64>>,
    depth: usize,
}

impl Bound {
    pub fn new(form: &Form) -> Bound {
        let nodes = vec![None; form.graph.len()];
        Bound { nodes, numbers: vec![None; form.numbers.len()], depth: 0 }
    }

    pub fn get(&self, pattern: Value) -> Option<Value> {
        self.nodes[number(pattern) as usize]
    }

    pub fn set(&mut self, pattern: Value, value: Value) {
        self.nodes[number(pattern) as usize] = Some(value);
    }

    /// The numbers found, and those of the example that were not.
    pub fn numbers(&self, example: &[f64]) -> Vec<f64> {
        self.numbers.iter().zip(example).map(|(found, it)| found.unwrap_or(*it)).collect()
    }

    /// How many operators and constants of the search were found.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

/// Why a search was not found.
#[derive(Clone, PartialEq, Debug)]
pub enum Why {
    /// Another operator, or another number of operands.
    Op {
        want: &'static str,
        have: &'static str,
    },
    Number {
        want: f64,
        have: Option<f64>,
    },
    /// A constant of other values, or none.
    Constant,
    /// Two uses of one part of the search are different nodes here.
    Differs,
    /// The same operator with other attributes.
    Attributes,
    /// With the types of what was found the search cannot be built.
    Untraceable(String),
    /// Something else uses it, so that it would be computed twice.
    Used,
    /// Another result of the search is not there.
    Result,
    /// The check of the pattern said no.
    Check,
    /// Every operator is there, and the rule that recognises it does not take it.
    Refused,
    /// There are too many orders of operands.
    Fuel,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Op { want, have } => write!(f, "{want} was looked for, here is {have}"),
            Why::Number { want, have: Some(have) } => write!(f, "{want} was looked for, here is {have}"),
            Why::Number { want, have: None } => write!(f, "{want} was looked for, here is no single number"),
            Why::Constant => f.write_str("a constant of other values was looked for"),
            Why::Differs => f.write_str("this is used where another value was used before"),
            Why::Attributes => f.write_str("the operator is right, its attributes or shapes are others"),
            Why::Untraceable(what) => write!(f, "the search cannot be built with what was found: {what}"),
            Why::Used => f.write_str("something else uses it, so that it would be computed twice"),
            Why::Result => f.write_str("another result of the search is not there"),
            Why::Check => f.write_str("everything fits, but the pattern's own check says no"),
            Why::Refused => {
                f.write_str("every operator is there, but the rule refuses its axes, shapes or other users")
            }
            Why::Fuel => f.write_str("there are too many orders of operands to try"),
        }
    }
}

/// The failure behind which most was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Miss {
    /// How many operators and constants of the search had been found.
    pub depth: usize,
    /// A node of the search, and the node of the graph that is not it.
    pub pattern: Value,
    pub at: Value,
    pub why: Why,
}

pub struct Matcher<'a> {
    form: &'a Form,
    graph: &'a Graph,
    strict: bool,
    bound: Bound,
    pub steps: u64,
    best: Option<Miss>,
}

impl<'a> Matcher<'a> {
    pub fn new(form: &'a Form, graph: &'a Graph, strict: bool, start: Bound) -> Matcher<'a> {
        Matcher { form, graph, strict, bound: start, steps: 0, best: None }
    }

    /// Whether the nodes of the search on the left are those on the right, together with all that was found before. If not,
    /// nothing is forgotten of that.
    pub fn finds(&mut self, goals: &[(Value, Value)]) -> bool {
        let before = self.bound.clone();
        let found = self.solve(goals.to_vec());
        if !found {
            self.bound = before;
        }
        found
    }

    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// The failure behind which most was found.
    pub fn best(self) -> Option<Miss> {
        self.best
    }

    fn solve(&mut self, mut goals: Vec<(Value, Value)>) -> bool {
        while let Some((pattern, value)) = goals.pop() {
            self.steps += 1;
            let next = if self.steps > FUEL { Err(Why::Fuel) } else { self.pair(pattern, value) };
            match next {
                Ok(Next::Done) => {}
                Ok(Next::All(mut more)) => {
                    more.sort_by_key(|it| self.rank(it.0));
                    goals.extend(more);
                }
                Ok(Next::Either([p, q], [a, b])) => {
                    let before = self.bound.clone();
                    let mut first = goals.clone();
                    first.extend(self.ordered([(p, a), (q, b)]));
                    if self.solve(first) {
                        return true;
                    }
                    self.bound = before;
                    goals.extend(self.ordered([(p, b), (q, a)]));
                }
                Err(why) => {
                    if self.best.as_ref().is_none_or(|it| it.depth < self.bound.depth) {
                        self.best = Some(Miss { depth: self.bound.depth, pattern, at: value, why });
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Operators are looked at first, numbers then, and what binds anything last: goals are taken from the end.
    fn rank(&self, pattern: Value) -> u8 {
        match self.form.graph.op(pattern) {
            Op::Input { .. } => 0,
            _ if self.form.is_uniform(pattern) => 1,
            _ => 2,
        }
    }

    fn ordered(&self, mut pairs: [(Value, Value); 2]) -> [(Value, Value); 2] {
        pairs.sort_by_key(|it| self.rank(it.0));
        pairs
    }

    fn pair(&mut self, pattern: Value, value: Value) -> Result<Next, Why> {
        if let Some(known) = self.bound.get(pattern) {
            return if known == value { Ok(Next::Done) } else { Err(Why::Differs) };
        }
        let op = self.form.graph.op(pattern);
        if let Op::Input { .. } = op {
            self.bound.set(pattern, value);
            return Ok(Next::Done);
        }
        if let Some(&want) = self.form.uniform.get(pattern) {
            return self.number(pattern, want, value);
        }
        if let Op::Constant(id) = *op {
            let have = self.graph.as_constant(value).ok_or(Why::Constant)?;
            let want = self.form.graph.constant(id);
            if want.ty() != have.ty() || want.data() != have.data() {
                return Err(Why::Constant);
            }
            self.bound.set(pattern, value);
            self.bound.depth += 1;
            return Ok(Next::Done);
        }
        let here = self.graph.op(value);
        let (want, have) = (op.operands(), here.operands());
        if op.name() != here.name() || want.len() != have.len() {
            return Err(Why::Op { want: op.name(), have: here.name() });
        }
        if self.strict {
            let same = self.form.graph.ty(pattern) == self.graph.ty(value);
            let blank = |op: &Op| op.clone().map_operands(|_| Value::default());
            if !same || blank(op) != blank(here) {
                return Err(Why::Attributes);
            }
        }
        self.bound.set(pattern, value);
        self.bound.depth += 1;
        if let (Op::Binary(it, ..), [p, q], [a, b]) = (op, &want[..], &have[..])
            && is_commutative(*it)
            && p != q
        {
            return Ok(Next::Either([*p, *q], [*a, *b]));
        }
        Ok(Next::All(want.into_iter().zip(have).collect()))
    }

    fn number(&mut self, pattern: Value, want: Scalar, value: Value) -> Result<Next, Why> {
        let have = uniform(self.graph, value);
        let dtype = self.graph.ty(value).dtype;
        let wrong = Why::Number { want: want.as_f64(), have: have.map(Scalar::as_f64) };
        let Some(have) = have else { return Err(wrong) };
        if dtype.is_float() != self.form.graph.ty(pattern).dtype.is_float() {
            return Err(wrong);
        }
        let (a, b) = (have.as_f64(), want.as_f64());
        match self.form.wild.get(pattern) {
            Some(&(number, inverse)) => {
                let found = if inverse { 1.0 / a } else { a };
                let slot = &mut self.bound.numbers[number];
                if slot.is_some_and(|it| !near(dtype, found, it)) {
                    return Err(Why::Differs);
                }
                slot.get_or_insert(found);
            }
            None => {
                let same = if dtype.is_float() { a == b || near(dtype, a, b) } else { have == want };
                let typed = !self.strict || self.form.graph.ty(pattern).dtype == dtype;
                if !same || !typed {
                    return Err(wrong);
                }
            }
        }
        self.bound.set(pattern, value);
        self.bound.depth += 1;
        Ok(Next::Done)
    }
}

/// What is to be found next.
enum Next {
    Done,
    All(Vec<(Value, Value)>),
    /// Two operands in either order.
    Either([Value; 2], [Value; 2]),
}

const fn is_commutative(op: BinaryOp) -> bool {
    matches!(op, Add | Mul | Max | Min | And | Or | Xor | Eq | Ne)
}
