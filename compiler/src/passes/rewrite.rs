//! Applies rules by rebuilding the graph front to back.
//!
//! A node is offered to the rules when its operands are final. There is no worklist, and nothing is changed in place:
//! what a rule replaces is left behind by the next rebuild. Rounds are made until no rule fires. Every rule goes
//! downhill, so that they end.

use slotmap::SecondaryMap;

use crate::{
    bug,
    error::Error,
    graph::{Graph, Op, Value},
};

/// What a rule may change about the result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Licence {
    /// Nothing: the same bits.
    Exact,
    /// Rounding, signs of zero, and what overflows on the way.
    Relaxed,
}

/// A node's better form, if there is one.
pub type Better = Result<Option<Value>, Error>;

pub struct Rule {
    pub name: &'static str,
    pub licence: Licence,
    /// Offered a node of the graph; adds what replaces it.
    pub apply: fn(&mut Site, Value) -> Better,
}

/// The graph under construction, as a rule sees it.
pub struct Site<'a> {
    pub graph: &'a mut Graph,
    uses: &'a SecondaryMap<Value, u32>,
}

impl Site<'_> {
    pub fn add(&mut self, op: Op) -> Result<Value, Error> {
        self.graph.add(op)
    }

    /// How many operands and outputs are `value`, as far as they are older than this round's rewrites.
    pub fn uses(&self, value: Value) -> u32 {
        self.uses.get(value).copied().unwrap_or(1)
    }
}

/// Rewrites of one node before the rules must be going in circles.
const FUEL: usize = 64;

/// Rounds before the rules must be going in circles.
const ROUNDS: usize = 256;

/// The graph with all licensed rules applied until none fires.
pub fn rewrite<'a>(
    from: &Graph,
    rules: impl IntoIterator<Item = &'a Rule>,
    allowed: Licence,
) -> Result<Graph, Error> {
    rewrite_named(from, rules, allowed).map(|it| it.0)
}

/// As `rewrite`; also the names of the rules that fired.
pub fn rewrite_named<'a>(
    from: &Graph,
    rules: impl IntoIterator<Item = &'a Rule>,
    allowed: Licence,
) -> Result<(Graph, Vec<&'static str>), Error> {
    let rules: Vec<&Rule> = rules.into_iter().filter(|it| it.licence <= allowed).collect();
    let (mut graph, mut fired) = round(from, &rules)?;
    let mut all = fired.clone();
    for _ in 0..ROUNDS {
        if fired.is_empty() {
            return Ok((graph, all));
        }
        (graph, fired) = round(&graph, &rules)?;
        all.extend(&fired);
    }
    bug!("rules go in circles: {fired:?}")
}

/// One rebuild, and the names of the rules that fired.
fn round(from: &Graph, rules: &[&Rule]) -> Result<(Graph, Vec<&'static str>), Error> {
    let old_uses = uses(from);
    let mut new_uses: SecondaryMap<Value, u32> = SecondaryMap::new();
    let mut fired = Vec::new();
    let rewritten = from.rebuild_with(|graph, old, op| {
        let mut value = graph.add(op)?;
        let mut fuel = FUEL;
        let mut site = Site { graph, uses: &new_uses };
        'offer: loop {
            for rule in rules {
                let Some(next) = (rule.apply)(&mut site, value)? else { continue };
                if next == value {
                    continue;
                }
                if site.graph.ty(next) != site.graph.ty(value) {
                    bug!("rule {} turned {} into {}", rule.name, site.graph.ty(value), site.graph.ty(next));
                }
                fired.push(rule.name);
                fuel -= 1;
                if fuel == 0 {
                    bug!("rules go in circles: {:?}", &fired[fired.len() - FUEL + 1..]);
                }
                value = next;
                continue 'offer;
            }
            break;
        }
        *new_uses.entry(value).expect("never removed").or_insert(0) += old_uses[old];
        Ok(value)
    })?;
    // A rule leaves what it replaced in the graph.
    Ok((rewritten.rebuild(Graph::add)?, fired))
}

/// How many operands and outputs each node is.
fn uses(graph: &Graph) -> SecondaryMap<Value, u32> {
    let mut uses = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        uses.insert(value, 0);
        for operand in node.op.operands() {
            uses[operand] += 1;
        }
    }
    for output in &graph.outputs {
        uses[output.value] += 1;
    }
    uses
}
