//! Products of one input become one product.
//!
//! In: any graph. Out: the same values, where matrix products and convolutions of one input by weights are one product by
//! the weights side by side, and each result is a slice of the wide one, which its readers see as an address. What each of
//! them is followed by at its own points (a bias, an activation) is done once, to the wide one. `decide` says which, and
//! why others stay apart; `merge` obeys.

mod branch;
mod rebuild;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use crate::{
    error::Error,
    graph::{Graph, Op, Value},
    options::Options,
    shape::Shape,
    target::Target,
};

use branch::{Branch, Factor, Uses};
use rebuild::rebuild;

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
