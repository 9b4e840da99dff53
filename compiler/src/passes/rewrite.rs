//! Applies rules by rebuilding the graph front to back.
//!
//! A node is offered, when its operands are final, to the rules that name its op, and what a rule puts in its place is
//! brought to its final form before the next node is looked at, its new operands first. Nothing is changed in place: what a
//! rule replaces is left behind by the next rebuild. Another round is made only where fewer nodes use a value than rules were
//! told, and offers only what can see that. Every rule goes downhill, so that rounds end.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use slotmap::SecondaryMap;
use smallvec::SmallVec;

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

impl Licence {
    pub const fn name(self) -> &'static str {
        match self {
            Licence::Exact => "exact",
            Licence::Relaxed => "relaxed",
        }
    }
}

/// A node's better form, if there is one.
pub type Better = Result<Option<Value>, Error>;

/// A rewrite in code.
pub struct Rule {
    pub name: &'static str,
    /// What becomes what.
    pub about: &'static str,
    pub licence: Licence,
    /// The ops that it is offered, by `Op::name`; none: all.
    pub roots: &'static [&'static str],
    /// Offered a node of the graph; adds what replaces it.
    pub apply: fn(&mut Site, Value) -> Better,
}

/// What the driver asks of a rewrite, whether it is code or a pattern.
pub trait Rewrite: Send + Sync {
    fn name(&self) -> Cow<'static, str>;
    fn licence(&self) -> Licence;
    /// The ops that it is offered, by `Op::name`; none: all.
    fn roots(&self) -> &[&'static str];
    /// It is not tried on what it has made.
    fn once(&self) -> bool {
        false
    }
    fn apply(&self, site: &mut Site, value: Value) -> Better;
}

impl Rewrite for Rule {
    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.name)
    }

    fn licence(&self) -> Licence {
        self.licence
    }

    fn roots(&self) -> &[&'static str] {
        self.roots
    }

    fn apply(&self, site: &mut Site, value: Value) -> Better {
        (self.apply)(site, value)
    }
}

/// The graph under construction, as a rule sees it.
pub struct Site<'a> {
    pub graph: &'a mut Graph,
    uses: &'a SecondaryMap<Value, u32>,
    /// Nodes that patterns looked at.
    pub steps: u64,
    /// What a rule has found out about a value of the graph, which it need not find out again.
    pub verdicts: &'a mut SecondaryMap<Value, bool>,
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

/// One rewrite that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    pub pass: Cow<'static, str>,
    /// A rule, a pattern, or the pass itself where it works on the graph as a whole or is the user's.
    pub rule: Cow<'static, str>,
    /// The node of the source file that the rewritten node was made for.
    pub at: Arc<str>,
}

/// What was done to a graph, in order, and how much may be. The one place where rewrites are counted.
#[derive(Default, Debug)]
pub struct Ledger {
    /// Rewrites after so many are not done.
    pub limit: Option<u64>,
    pub applied: Vec<Applied>,
    /// How often a node was offered to a rule or pattern.
    pub attempts: u64,
    /// How many nodes patterns looked at.
    pub steps: u64,
}

impl Ledger {
    /// Whether one more rewrite may be done.
    pub fn is_open(&self) -> bool {
        self.limit.is_none_or(|limit| (self.applied.len() as u64) < limit)
    }
}

/// Rewrites of one node before the rules must be going in circles.
const FUEL: usize = 64;

/// Rounds before the rules must be going in circles, beside one for each node of the graph.
const ROUNDS: usize = 256;

/// New nodes inside new nodes before the rest waits for another round.
const DEPTH: usize = 64;

/// Operands of operands that rules and patterns look at, at most, where something else than constants decides.
const REACH: u32 = 16;

/// Rules by the op that they are offered.
struct Index<'a> {
    everywhere: Vec<(usize, &'a dyn Rewrite)>,
    by_root: HashMap<&'static str, Vec<(usize, &'a dyn Rewrite)>>,
}

impl<'a> Index<'a> {
    fn new(rules: &[&'a dyn Rewrite], allowed: Licence) -> Index<'a> {
        let mut by_root: HashMap<&'static str, Vec<(usize, &'a dyn Rewrite)>> = HashMap::new();
        let rules = || rules.iter().copied().enumerate().filter(|it| it.1.licence() <= allowed);
        let everywhere: Vec<_> = rules().filter(|it| it.1.roots().is_empty()).collect();
        for (at, rule) in rules() {
            for root in rule.roots() {
                by_root.entry(root).or_insert_with(|| everywhere.clone()).push((at, rule));
            }
        }
        by_root.values_mut().for_each(|it| it.sort_by_key(|it| it.0));
        Index { everywhere, by_root }
    }

    /// In the order in which they were given.
    fn of(&self, op: &Op) -> &[(usize, &'a dyn Rewrite)] {
        self.by_root.get(op.name()).unwrap_or(&self.everywhere)
    }
}

/// The graph with all licensed rules applied until none fires, or the ledger is full.
pub fn rewrite(
    mut graph: Graph,
    rules: &[&dyn Rewrite],
    allowed: Licence,
    pass: Cow<'static, str>,
    ledger: &mut Ledger,
) -> Result<Graph, Error> {
    let index = Index::new(rules, allowed);
    let once = rules.iter().any(|it| it.once());
    let mut dirty = None;
    for _ in 0..ROUNDS + graph.len() {
        let size = graph.len();
        let mut round = Round {
            index: &index,
            pass: &pass,
            ledger,
            uses: SecondaryMap::with_capacity(size),
            done: SecondaryMap::with_capacity(size),
            fresh: SecondaryMap::with_capacity(size),
            unseen: SecondaryMap::new(),
            verdicts: SecondaryMap::new(),
            fired: false,
        };
        let next = round.rebuild(graph, dirty.as_ref())?;
        let uses = uses(&next);
        let again = round.again(&next, &uses);
        if !round.fired || again.is_empty() || once {
            // Rules leave in the graph what they replaced, and what they added in vain.
            return if uses.len() == next.len() {
                Ok(next)
            } else {
                next.into_rebuilt(|to, _, op| to.add(op))
            };
        }
        (graph, dirty) = (next, Some(again));
    }
    let last = ledger.applied.iter().rev().take(8).map(|it| &it.rule).collect::<Vec<_>>();
    bug!("rules go in circles: {last:?}")
}

/// One rebuild.
struct Round<'a> {
    index: &'a Index<'a>,
    pass: &'a Cow<'static, str>,
    ledger: &'a mut Ledger,
    /// Of nodes of the new graph, as far as it is built.
    uses: SecondaryMap<Value, u32>,
    /// Nodes of the new graph that rules have seen, each with what it became.
    done: SecondaryMap<Value, Value>,
    /// How far below a node something is that this round, or what made it necessary, has changed; absent beyond `REACH`.
    fresh: SecondaryMap<Value, u32>,
    /// What was too deep inside new nodes, and is left for another round.
    unseen: SecondaryMap<Value, ()>,
    verdicts: SecondaryMap<Value, bool>,
    fired: bool,
}

impl Round<'_> {
    /// Only nodes that can see a member of `dirty` are offered, or all.
    fn rebuild(&mut self, from: Graph, dirty: Option<&SecondaryMap<Value, ()>>) -> Result<Graph, Error> {
        let old_uses = uses(&from);
        from.into_rebuilt(|graph, old, op| {
            let added = graph.add(op)?;
            let near = match dirty {
                None => Some(0),
                Some(dirty) if dirty.contains_key(old) => Some(0),
                Some(_) => self.distance(graph, added),
            };
            let value = match near {
                Some(distance) => {
                    self.fresh.insert(added, distance);
                    self.settle(graph, added, 0)?
                }
                None => *self.done.entry(added).expect("never removed").or_insert(added),
            };
            *self.uses.entry(value).expect("never removed").or_insert(0) +=
                old_uses.get(old).copied().unwrap_or(0);
            Ok(value)
        })
    }

    fn distance(&self, graph: &Graph, value: Value) -> Option<u32> {
        let operands = graph.op(value).operands();
        let nearest = operands.iter().filter_map(|it| self.fresh.get(*it)).min()?;
        Some(nearest + 1).filter(|it| *it <= REACH)
    }

    /// The final form of a node whose operands are final.
    fn settle(&mut self, graph: &mut Graph, mut value: Value, depth: usize) -> Result<Value, Error> {
        let mut passed: SmallVec<[Value; 4]> = SmallVec::new();
        loop {
            if let Some(&it) = self.done.get(value) {
                value = it;
                break;
            }
            passed.push(value);
            let Some((next, once)) = self.offer(graph, value)? else { break };
            self.fired = true;
            if once {
                value = next;
                break;
            }
            if passed.len() > FUEL {
                let last = self.ledger.applied.iter().rev().take(8).map(|it| &it.rule).collect::<Vec<_>>();
                bug!("rules go in circles: {last:?}");
            }
            value = self.inner(graph, next, depth)?;
            self.fresh.insert(value, 0);
        }
        passed.push(value);
        for it in passed {
            self.done.insert(it, value);
        }
        Ok(value)
    }

    /// `root` with what below it is new in its final form.
    fn inner(&mut self, graph: &mut Graph, root: Value, depth: usize) -> Result<Value, Error> {
        let is_open = |it: &Self, graph: &Graph, value: Value| {
            let leaf = matches!(graph.op(value), Op::Input { .. } | Op::Constant(_));
            !leaf && !it.done.contains_key(value)
        };
        let mut open: SmallVec<[(Value, bool); 8]> = SmallVec::new();
        open.push((root, false));
        while let Some((value, ready)) = open.pop() {
            if !is_open(self, graph, value) {
                continue;
            }
            if !ready {
                open.push((value, true));
                let operands = graph.op(value).operands();
                open.extend(
                    operands.into_iter().filter(|it| is_open(self, graph, *it)).map(|it| (it, false)),
                );
                continue;
            }
            let op = graph.op(value).clone().map_operands(|it| self.done.get(it).copied().unwrap_or(it));
            let whole = graph.add(op)?;
            if value == root {
                return Ok(whole);
            }
            self.fresh.insert(whole, 0);
            let settled = if depth < DEPTH {
                self.settle(graph, whole, depth + 1)?
            } else {
                self.unseen.insert(whole, ());
                whole
            };
            self.done.insert(value, settled);
        }
        Ok(self.done.get(root).copied().unwrap_or(root))
    }

    /// What the first rule that fires makes of a node, and whether that is not to be offered again.
    fn offer(&mut self, graph: &mut Graph, value: Value) -> Result<Option<(Value, bool)>, Error> {
        if !self.ledger.is_open() {
            return Ok(None);
        }
        for (_, rule) in self.index.of(graph.op(value)) {
            self.ledger.attempts += 1;
            let mut site = Site { graph, uses: &self.uses, steps: 0, verdicts: &mut self.verdicts };
            let next = rule.apply(&mut site, value)?;
            self.ledger.steps += site.steps;
            let Some(next) = next.filter(|it| *it != value) else { continue };
            if graph.ty(next) != graph.ty(value) {
                bug!("rule {} turned {} into {}", rule.name(), graph.ty(value), graph.ty(next));
            }
            self.ledger.applied.push(Applied {
                pass: self.pass.clone(),
                rule: rule.name(),
                at: graph.node(value).origin.clone(),
            });
            return Ok(Some((next, rule.once())));
        }
        Ok(None)
    }

    /// The live nodes of `made` that fewer nodes use than rules were told, or that no rule has seen.
    fn again(&self, made: &Graph, uses: &SecondaryMap<Value, u32>) -> SecondaryMap<Value, ()> {
        let changed = |&(value, count): &(Value, &u32)| {
            let told = self.uses.get(value).copied().unwrap_or(1);
            let leaf = matches!(made.op(value), Op::Input { .. } | Op::Constant(_));
            let seen = !self.unseen.contains_key(value) && self.done.get(value) == Some(&value);
            !leaf && (*count < told || !seen)
        };
        uses.iter().filter(changed).map(|it| (it.0, ())).collect()
    }
}

/// How many operands of live nodes and outputs each live node is.
fn uses(graph: &Graph) -> SecondaryMap<Value, u32> {
    let mut uses: SecondaryMap<Value, u32> = SecondaryMap::with_capacity(graph.len());
    for output in &graph.outputs {
        *uses.entry(output.value).expect("never removed").or_insert(0) += 1;
    }
    for (value, node) in graph.nodes().rev() {
        if uses.contains_key(value) {
            for operand in node.op.operands() {
                *uses.entry(operand).expect("never removed").or_insert(0) += 1;
            }
        }
    }
    uses
}
