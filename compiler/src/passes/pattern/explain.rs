//! Why a pattern was not found where it nearly is.

use std::{borrow::Cow, sync::Arc};

use slotmap::SecondaryMap;

use super::{
    Around, Pattern,
    builtin::{WRITTEN, patterns},
    matcher::{Bound, Form, Matcher, Miss, Why},
    plain_before,
};
use crate::{
    error::Error,
    graph::{Graph, Value},
    options::Options,
    passes::{
        PIPELINE, optimise_until,
        pipeline::licence,
        rewrite::{Ledger, rewrite},
        rewrites,
    },
    replacement::Hook,
    target::Target,
};

/// Where a pattern was found, and where nearly.
#[derive(Debug)]
pub struct Explanation {
    /// The nodes of the source file at which it was applied.
    pub applied: Vec<Arc<str>>,
    /// The nearest first.
    pub near: Vec<Near>,
}

/// A node whose operator is that of the search's result, and at which more than it was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Near {
    /// The node of the source file that it was made for.
    pub root: Arc<str>,
    /// How many of the search's operators and constants were found, of how many.
    pub found: usize,
    pub of: usize,
    /// The node of the source file at which it failed, and its operator.
    pub at: Arc<str>,
    pub op: &'static str,
    /// The operator that was looked for there.
    pub wanted: &'static str,
    pub why: String,
}

/// The names of everything that can be explained: patterns, and composites that rules recognise.
pub fn names(options: &Options) -> Vec<String> {
    let mut all: Vec<String> = patterns().iter().map(|it| it.replacement.name.clone()).collect();
    for name in
        WRITTEN.iter().map(|it| it.name.to_string()).chain(options.patterns.iter().map(|it| it.name.clone()))
    {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// What becomes of a pattern in a graph that comes from a model (`Model::graph`): of one that comes with the compiler, of a composite that a
/// rule recognises, or, before those, of one of `Options::patterns` by its name.
pub fn explain(graph: Graph, target: &Target, options: &Options, name: &str) -> Result<Explanation, Error> {
    let own = options.patterns.iter().find(|it| it.name == name);
    let built_in = patterns().iter().filter(|it| it.replacement.name == name);
    let written: Vec<Pattern> =
        WRITTEN.iter().filter(|it| it.name == name).map(|it| it.pattern()).collect::<Result<_, _>>()?;
    if let Some(own) = own {
        let graph = optimise_until(graph, target, options, &own.at)?;
        let plain = plain_before(&own.at, &options.without_passes);
        let pattern = Pattern::new(Cow::Borrowed(own), plain, licence(options), true)?;
        let graph = super::super::plain_copy(&graph)?;
        let (applied, near) = scan(&graph, &[&pattern]);
        return Ok(Explanation { applied, near });
    }
    let built_in: Vec<&Pattern> = built_in.collect();
    let is_here = |it: &super::super::Pass| {
        it.sets.iter().any(|set| {
            set.rules.iter().any(|rule| rule.name == name)
                || (set.patterns)().iter().any(|it| it.replacement.name == name)
        })
    };
    let Some(pass) = PIPELINE.iter().find(|it| is_here(it)).filter(|_| built_in.len() + written.len() > 0)
    else {
        let what = format!("there is no such pattern; there are {}", names(options).join(", "));
        return Err(Error::Pass { pass: name.to_string(), what });
    };
    let graph = optimise_until(graph, target, options, &Hook::Before(pass.name.into()))?;
    let mut ledger = Ledger::default();
    let graph = rewrite(graph, &rewrites(pass), licence(options), Cow::Borrowed(pass.name), &mut ledger)?;
    let applied = ledger.applied.iter().filter(|it| it.rule == name).map(|it| it.at.clone()).collect();
    let all: Vec<&Pattern> = built_in.into_iter().chain(&written).collect();
    Ok(Explanation { applied, near: scan(&graph, &all).1 })
}

/// Where patterns are, and nearly are, in a graph without dead nodes.
fn scan(graph: &Graph, patterns: &[&Pattern]) -> (Vec<Arc<str>>, Vec<Near>) {
    let mut users: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        for operand in node.op.operands() {
            users.entry(operand).expect("never removed").or_default().push(value);
        }
    }
    let outputs = |value: Value| graph.outputs.iter().filter(|it| it.value == value).count();
    let uses = |value: Value| (users.get(value).map_or(0, Vec::len) + outputs(value)) as u32;
    let (mut applied, mut near) = (Vec::new(), Vec::new());
    for (value, node) in graph.nodes() {
        let mut best: Option<(Miss, &Form)> = None;
        for pattern in patterns {
            for form in pattern.forms.iter().filter(|it| it.graph.op(it.root()).name() == node.op.name()) {
                let mut around = Around { uses: &uses, users: Some(&users), steps: 0 };
                let miss = match pattern.find(form, graph, value, &mut around) {
                    Ok(_) => {
                        applied.push(node.origin.clone());
                        continue;
                    }
                    Err(miss) => rule_refused(pattern, form, graph, value).unwrap_or(miss),
                };
                if best.as_ref().is_none_or(|it| it.0.depth < miss.depth) {
                    best = Some((miss, form));
                }
            }
        }
        let Some((miss, form)) = best.filter(|it| it.0.depth > 1) else { continue };
        near.push(Near {
            root: node.origin.clone(),
            found: miss.depth,
            of: form.size(),
            at: graph.node(miss.at).origin.clone(),
            op: graph.op(miss.at).name(),
            wanted: form.graph.op(miss.pattern).name(),
            why: miss.why.to_string(),
        });
    }
    near.sort_by_key(|it| std::cmp::Reverse((it.found * 1000) / it.of.max(1)));
    (applied, near)
}

/// For a composite that a rule recognises: that every operator is there.
fn rule_refused(pattern: &Pattern, form: &Form, graph: &Graph, value: Value) -> Option<Miss> {
    let is_rule = WRITTEN.iter().any(|it| it.name == pattern.replacement.name);
    let mut matcher = Matcher::new(form, graph, false, Bound::new(form));
    (is_rule && matcher.finds(&[(form.root(), value)])).then(|| Miss {
        depth: matcher.bound().depth(),
        pattern: form.root(),
        at: value,
        why: Why::Refused,
    })
}
