//! Products of one input become one product.
//!
//! In: any graph. Out: the same values, where matrix products and convolutions of one input by weights are one product by
//! the weights side by side, and each result is a slice of the wide one, which its readers see as an address. What each of
//! them is followed by at its own points (a bias, an activation) is done once, to the wide one. `decide` says which, and
//! why others stay apart; `merge` obeys.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use slotmap::{Key as _, SecondaryMap};
use smallvec::{SmallVec, smallvec};

use crate::{
    error::Error,
    graph::{Graph, Op, Value},
    options::Options,
    shape::Shape,
    target::Target,
};

/// Why a product is not one with others of the same input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its other factor is computed in every run.
    Computed,
    /// Its weights are read elsewhere too, so that they would be held twice.
    Held,
    /// Its result is an output of the graph, or a reshape of one: it would have to be copied there.
    Output,
    /// What follows it reads other results too, so that it can be computed with it but not with the wide product.
    Followed,
    /// The others are followed by other operations, or by none.
    Steps,
    /// Its result is needed elsewhere than those of the others, and would be held until then.
    Apart,
    /// It has this many results, enough to keep a device busy by itself.
    Busy(usize),
    /// One tensor would have this many bytes.
    Size(u64),
}

/// Results beyond which a product gains nothing by company. Measured on a GPU of 132 cores, f32: three products of 2^15 to 2^18
/// results each took 20 to 40 % less time as one, one of 2^20 beside two of 2^17 took 11 % less, three of 1.5 x 2^20 18 % more.
const BUSY: usize = 1 << 20;

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Computed => f.write_str("its other factor is computed in every run"),
            Why::Held => f.write_str("its weights are read elsewhere too, and would be held twice"),
            Why::Output => f.write_str("its result is an output, and would have to be copied there"),
            Why::Followed => f.write_str("what follows it is computed with it alone"),
            Why::Steps => f.write_str("different operations follow them"),
            Why::Apart => f.write_str("their results are needed at different times"),
            Why::Busy(results) => write!(f, "its {results} results keep a device busy by themselves"),
            Why::Size(bytes) => write!(f, "a tensor of {bytes} bytes is more than a buffer may hold"),
        }
    }
}

/// Two products of one input, by the names of their origins, of which the second might have been one with the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apart {
    pub first: Arc<str>,
    pub second: Arc<str>,
    pub why: Why,
}

/// The graph with every set of products merged that `decide` finds.
pub fn merge(graph: &Graph, target: &Target, options: &Options) -> Result<Graph, Error> {
    let uses = Uses::new(graph);
    let sets = decide(&uses, target, options).0;
    if sets.is_empty() { Ok(graph.clone()) } else { rebuild(&uses, &sets) }
}

/// Products of one input that `merge` would leave apart.
pub fn apart(graph: &Graph, target: &Target, options: &Options) -> Vec<Apart> {
    decide(&Uses::new(graph), target, options).1
}

/// A product by weights, and what is done to its result.
struct Branch {
    product: Value,
    factor: Factor,
    /// Nodes that the result passes in turn, each read by the next alone.
    steps: Vec<Step>,
    /// Where it gets to then, without passing another product.
    ends: BTreeSet<End>,
}

#[derive(Clone, Copy)]
struct Factor {
    weight: Value,
    bias: Option<Value>,
    /// The axis of `weight` along which its parts make parts of the result, and the result's axis.
    weight_axis: usize,
    axis: usize,
}

struct Step {
    node: Value,
    /// The other operand, which depends on constants alone.
    with: Option<Value>,
    form: StepForm,
}

/// What two steps must have in common: the operator, whether the result is its first operand, and the other operand's shape
/// but for the axis that is widened.
#[derive(Clone, PartialEq, Eq)]
struct StepForm {
    op: Op,
    first: bool,
    with: Option<Shape>,
}

impl Branch {
    fn result(&self) -> Value {
        self.steps.last().map_or(self.product, |it| it.node)
    }
}

/// Where a value ends up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Output(usize),
    Node(Value),
}

/// Who uses what.
struct Uses<'a> {
    graph: &'a Graph,
    /// Live nodes, operands before users.
    live: Vec<Value>,
    /// What depends on constants alone.
    fixed: SecondaryMap<Value, bool>,
    /// Once an operand.
    users: SecondaryMap<Value, Vec<Value>>,
    outputs: SecondaryMap<Value, usize>,
}

impl<'a> Uses<'a> {
    fn new(graph: &'a Graph) -> Uses<'a> {
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

    fn shape(&self, value: Value) -> &Shape {
        &self.graph.ty(value).shape
    }

    /// The second factor of a product that computes something in every run.
    fn factor(&self, value: Value) -> Option<Factor> {
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
    fn family(&self, value: Value, factor: Factor) -> (Op, Shape) {
        let own = |it: Value| it == factor.weight || Some(it) == factor.bias;
        let op = self.graph.op(value).clone().map_operands(|it| if own(it) { Value::null() } else { it });
        let mut shape = self.shape(factor.weight).clone();
        shape.0[factor.weight_axis] = 0;
        (op, shape)
    }

    fn branch(&self, product: Value, factor: Factor) -> Branch {
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
    fn step(&self, from: Value, user: Value, axis: usize) -> Option<Step> {
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
    fn loss(&self, result: Value) -> Option<Why> {
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
    fn ends(&self, result: Value) -> BTreeSet<End> {
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
    fn readers(&self, mut weight: Value) -> &[Value] {
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
fn raised(shape: &Shape, rank: usize) -> Shape {
    std::iter::repeat_n(1, rank - shape.rank()).chain(shape.iter().copied()).collect()
}

/// The sets of branches to merge, each of two at least, and why other products of one input stay apart.
fn decide(uses: &Uses, target: &Target, options: &Options) -> (Vec<Vec<Branch>>, Vec<Apart>) {
    let mut families: Vec<Vec<(Value, Factor)>> = Vec::new();
    let mut known: HashMap<(Op, Shape), usize> = HashMap::new();
    for &value in &uses.live {
        let Some(factor) = uses.factor(value) else { continue };
        let at = *known.entry(uses.family(value, factor)).or_insert(families.len());
        families.resize_with(families.len().max(at + 1), Vec::new);
        families[at].push((value, factor));
    }
    let mut sets: Vec<Vec<Branch>> = Vec::new();
    let mut refused: Vec<Apart> = Vec::new();
    for family in families.iter().filter(|it| it.len() > 1) {
        let mut refuse = |value: Value, why: Why| {
            let other = family.iter().map(|it| it.0).find(|it| *it != value).expect("a family has two");
            let origin = |it: Value| uses.graph.node(it).origin.clone();
            refused.push(Apart { first: origin(other), second: origin(value), why });
        };
        let mut branches = Vec::new();
        for &(value, factor) in family {
            let branch = uses.branch(value, factor);
            if !uses.fixed[factor.weight] || factor.bias.is_some_and(|it| !uses.fixed[it]) {
                refuse(value, Why::Computed);
            } else if uses.shape(value).count() > BUSY {
                refuse(value, Why::Busy(uses.shape(value).count()));
            } else if let Some(why) = uses.loss(branch.result()) {
                refuse(value, why);
            } else {
                branches.push(branch);
            }
        }
        let forms = |it: &Branch| it.steps.iter().map(|it| it.form.clone()).collect::<Vec<_>>();
        for alike in parted(branches, |a, b| forms(a) == forms(b), &mut |it| refuse(it.product, Why::Steps)) {
            let meet = |a: &Branch, b: &Branch| !a.ends.is_disjoint(&b.ends);
            for near in parted(alike, meet, &mut |it| refuse(it.product, Why::Apart)) {
                sets.extend(fitting(uses, near, target, options, &mut refuse));
            }
        }
    }
    held_once(uses, &mut sets, &mut refused);
    (sets, refused)
}

/// `all` in parts whose members are joined, directly or through others, by `joined`, in the order of their first members.
/// `alone` is told as `several` says.
fn parted(
    all: Vec<Branch>,
    joined: impl Fn(&Branch, &Branch) -> bool,
    alone: &mut dyn FnMut(&Branch),
) -> Vec<Vec<Branch>> {
    let mut parts: Vec<Vec<Branch>> = Vec::new();
    for branch in all {
        let meets = |part: &Vec<Branch>| part.iter().any(|it| joined(it, &branch));
        let Some(first) = parts.iter().position(meets) else {
            parts.push(vec![branch]);
            continue;
        };
        let (mut met, others): (Vec<_>, Vec<_>) = parts.split_off(first).into_iter().partition(meets);
        let mut part: Vec<Branch> = met.drain(..).flatten().collect();
        part.push(branch);
        parts.push(part);
        parts.extend(others);
    }
    several(parts, alone)
}

/// The parts of more than one. `alone` is told every other member that has somebody to be apart from: where all are parts
/// of one, not the first.
fn several(parts: Vec<Vec<Branch>>, alone: &mut dyn FnMut(&Branch)) -> Vec<Vec<Branch>> {
    let (several, single): (Vec<_>, Vec<_>) = parts.into_iter().partition(|it| it.len() > 1);
    single.iter().flatten().skip(usize::from(several.is_empty())).for_each(alone);
    several
}

/// `all` in sets whose wide tensors are no larger than a tensor may be.
fn fitting(
    uses: &Uses,
    all: Vec<Branch>,
    target: &Target,
    options: &Options,
    refuse: &mut dyn FnMut(Value, Why),
) -> Vec<Vec<Branch>> {
    let limit = target.max_binding_size.min(target.max_buffer_size).min(options.memory_limit);
    let bytes = |value: Value| uses.graph.ty(value).bytes() as u64;
    let sizes = |it: &Branch| [it.factor.weight, it.product, it.result()].map(bytes);
    let mut sets: Vec<(Vec<Branch>, [u64; 3])> = Vec::new();
    let mut most = 0;
    for branch in all {
        let own = sizes(&branch);
        let sum = |held: &[u64; 3]| [0, 1, 2].map(|it| held[it].saturating_add(own[it]));
        let largest = |held: &[u64; 3]| sum(held).into_iter().max().unwrap_or(0);
        most = sets.iter().map(|it| largest(&it.1)).fold(most, u64::max);
        match sets.iter_mut().find(|it| largest(&it.1) <= limit) {
            Some((set, held)) => {
                *held = sum(held);
                set.push(branch);
            }
            None => sets.push((vec![branch], own)),
        }
    }
    several(sets.into_iter().map(|it| it.0).collect(), &mut |it| refuse(it.product, Why::Size(most)))
}

/// Leaves out branches whose weights something else reads too, until there is none.
fn held_once(uses: &Uses, sets: &mut Vec<Vec<Branch>>, refused: &mut Vec<Apart>) {
    loop {
        let taken: BTreeSet<Value> = sets.iter().flatten().map(|it| it.product).collect();
        let shares = |it: &Branch| !uses.readers(it.factor.weight).iter().all(|it| taken.contains(it));
        let Some(at) = sets.iter().position(|it| it.iter().any(shares)) else { return };
        let names: Vec<Arc<str>> =
            sets[at].iter().map(|it| uses.graph.node(it.product).origin.clone()).collect();
        let out: Vec<bool> = sets[at].iter().map(shares).collect();
        for (which, _) in out.iter().enumerate().filter(|it| *it.1) {
            let first = names[usize::from(which == 0)].clone();
            refused.push(Apart { first, second: names[which].clone(), why: Why::Held });
        }
        let mut out = out.into_iter();
        sets[at].retain(|_| !out.next().expect("one a branch"));
        if sets[at].len() < 2 {
            sets.remove(at);
        }
    }
}

fn rebuild(uses: &Uses, sets: &[Vec<Branch>]) -> Result<Graph, Error> {
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
                let mut starts: SmallVec<[usize; 6]> = smallvec![0; node.ty.shape.rank()];
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
    to.rebuild(Graph::add)
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
