//! Patterns: rewrites that were registered as functions, made ready to be found in a graph.
//!
//! A search is found in two steps. Its graph, traced with an example and simplified as graphs are where it is applied, says
//! which operators read which (`matcher`, not strict). What was found gives the types of its inputs and the numbers;
//! traced with those and simplified, the search must be what was found to the last attribute (strict).

pub mod builtin;
pub mod explain;
pub mod matcher;
pub mod several;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex},
};

use slotmap::SecondaryMap;

use super::{
    pipeline::PIPELINE,
    rewrite::{Better, Ledger, Licence, Rewrite, Site, rewrite},
};
use crate::{
    error::Error,
    graph::{Graph, Op, Value},
    replacement::{Hook, Match, Replacement, trace},
    shape::Type,
};
use matcher::{Bound, Form, Matcher, Miss, Why};

/// Most traced searches that are kept; the oldest go all at once.
const KEPT: usize = 4096;

/// What simplifies graphs before the place where a pattern is applied.
pub type Plain = Vec<Vec<&'static dyn Rewrite>>;

/// Types of inputs, and numbers by their bits.
type Given = (Vec<Type>, Vec<u64>);

/// A search with those, or why it cannot be built.
type Traced = Arc<Result<Form, String>>;

/// A replacement, ready for graphs.
pub struct Pattern<'a> {
    pub replacement: Cow<'a, Replacement>,
    /// One for each way in which the examples are written when they are simplified.
    pub forms: Vec<Form>,
    roots: Vec<&'static str>,
    plain: Plain,
    licence: Licence,
    /// It is not applied to what it has made.
    once: bool,
    traced: Mutex<HashMap<Given, Traced>>,
}

/// What is around the place where a search is looked for.
pub struct Around<'a> {
    /// How often a value is used.
    pub uses: &'a dyn Fn(Value) -> u32,
    /// Who uses it, where the whole graph is known. Needed for further results.
    pub users: Option<&'a SecondaryMap<Value, Vec<Value>>>,
    /// Nodes that were looked at.
    pub steps: u64,
}

/// A place where a search was found.
pub struct Found {
    pub inputs: Vec<Value>,
    pub numbers: Vec<f64>,
    pub results: Vec<Value>,
    /// What the search computes inside.
    pub inner: Vec<Value>,
}

impl<'a> Pattern<'a> {
    /// `plain` is what graphs have gone through where it is applied.
    pub fn new(
        replacement: Cow<'a, Replacement>,
        plain: Plain,
        licence: Licence,
        once: bool,
    ) -> Result<Pattern<'a>, Error> {
        let mut forms: Vec<Form> = Vec::new();
        for specimen in &replacement.specimens {
            let graph = simplified(&specimen.graph, &plain, licence)?;
            let form = Form::new(graph, &specimen.numbers, true)
                .map_err(|what| Error::Pass { pass: replacement.name.clone(), what })?;
            if !forms.iter().any(|it| it.is_like(&form)) {
                forms.push(form);
            }
        }
        let mut roots: Vec<&'static str> = forms.iter().map(|it| it.graph.op(it.root()).name()).collect();
        roots.sort_unstable();
        roots.dedup();
        Ok(Pattern { replacement, forms, roots, plain, licence, once, traced: Mutex::default() })
    }

    /// Whether it has more than one result, so that it is found in a whole graph only.
    pub fn has_several(&self) -> bool {
        self.forms.iter().any(|it| it.results.len() > 1)
    }

    /// What `form` finds with its root at `value`; else how far it got.
    pub fn find(&self, form: &Form, graph: &Graph, value: Value, around: &mut Around) -> Result<Found, Miss> {
        let mut matcher = Matcher::new(form, graph, false, Bound::new(form));
        let found = matcher.finds(&[(form.root(), value)])
            && form.results.iter().all(|it| several::result(&mut matcher, form, graph, *it, around.users));
        around.steps += matcher.steps;
        if !found {
            let lost = Miss { depth: 0, pattern: form.root(), at: value, why: Why::Result };
            return Err(matcher.best().unwrap_or(lost));
        }
        let bound = matcher.bound();
        let depth = bound.depth();
        let miss = |pattern: Value, at: Value, why: Why| Miss { depth, pattern, at, why };
        let of = |it: &Value| bound.get(*it).expect("all inputs and results are found");
        let inputs: Vec<Value> = form.inputs.iter().map(of).collect();
        let results: Vec<Value> = form.results.iter().map(of).collect();
        let numbers = bound.numbers(&form.numbers);

        // The same with every attribute.
        let types: Vec<Type> = inputs.iter().map(|it| graph.ty(*it).clone()).collect();
        let exact = self.traced(types, &numbers);
        let exact = match &*exact {
            Ok(exact) => exact,
            Err(what) => return Err(miss(form.root(), value, Why::Untraceable(what.clone()))),
        };
        let mut start = Bound::new(exact);
        exact.inputs.iter().zip(&inputs).for_each(|it| start.set(*it.0, *it.1));
        let mut strict = Matcher::new(exact, graph, true, start);
        let goals: Vec<(Value, Value)> = exact.results.iter().copied().zip(results.iter().copied()).collect();
        let found = strict.finds(&goals);
        around.steps += strict.steps;
        if !found {
            // The search that was traced exists for this moment alone; its nodes are those of the form by name.
            return Err(miss(form.root(), strict.best().map_or(value, |it| it.at), Why::Attributes));
        }
        let bound = strict.bound();
        let mut inner = Vec::new();
        for (pattern, node) in exact.graph.nodes() {
            let Some(at) = bound.get(pattern) else { continue };
            let border = exact.results.contains(&pattern) || exact.is_uniform(pattern);
            if border || node.op.operands().is_empty() {
                continue;
            }
            if !self.replacement.even_if_used && (around.uses)(at) > exact.uses(pattern) {
                return Err(miss(form.root(), at, Why::Used));
            }
            inner.push(at);
        }
        let matched = Match { graph, inputs: &inputs, numbers: &numbers, results: &results };
        if !(self.replacement.check)(&matched) {
            return Err(miss(form.root(), value, Why::Check));
        }
        Ok(Found { inputs, numbers, results, inner })
    }

    /// The search with these inputs and numbers, simplified.
    fn traced(&self, types: Vec<Type>, numbers: &[f64]) -> Traced {
        let key = (types, numbers.iter().map(|it| it.to_bits()).collect::<Vec<u64>>());
        let known = self.traced.lock().unwrap_or_else(|it| it.into_inner()).get(&key).cloned();
        if let Some(known) = known {
            return known;
        }
        let made = trace(&*self.replacement.search, &key.0, numbers)
            .and_then(|it| simplified(&it, &self.plain, self.licence))
            .map_err(|it| it.to_string())
            .and_then(|it| Form::new(it, numbers, false));
        let made = Arc::new(made);
        let mut traced = self.traced.lock().unwrap_or_else(|it| it.into_inner());
        if traced.len() >= KEPT {
            traced.clear();
        }
        traced.insert(key, made.clone());
        made
    }

    /// Adds what takes the place of `found` to `to`, where `moved` says what its inputs are.
    pub fn replace(
        &self,
        to: &mut Graph,
        types: &[Type],
        results: &[Type],
        moved: &[Value],
        numbers: &[f64],
    ) -> Result<Vec<Value>, Error> {
        let wrong = |what: String| Error::Pass { pass: self.replacement.name.clone(), what };
        let graph = trace(&*self.replacement.replacement, types, numbers)
            .map_err(|it| wrong(format!("the replacement: {it}")))?;
        let made: Vec<&Type> = graph.outputs.iter().map(|it| graph.ty(it.value)).collect();
        if made.len() != results.len() || made.iter().zip(results).any(|it| *it.0 != it.1) {
            let all = |it: &mut dyn Iterator<Item = String>| it.collect::<Vec<_>>().join(", ");
            return Err(wrong(format!(
                "the replacement gives {}, where {} was found",
                all(&mut made.iter().map(|it| it.to_string())),
                all(&mut results.iter().map(|it| it.to_string()))
            )));
        }
        let mut new: HashMap<Value, Value> = HashMap::new();
        for (value, node) in graph.nodes() {
            let added = match node.op {
                Op::Input { slot } => moved[slot as usize],
                Op::Constant(id) => to.add_constant(graph.constant(id).clone()),
                _ => to.add(node.op.clone().map_operands(|it| new[&it]))?,
            };
            new.insert(value, added);
        }
        Ok(graph.outputs.iter().map(|it| new[&it.value]).collect())
    }
}

impl Rewrite for Pattern<'_> {
    fn name(&self) -> Cow<'static, str> {
        Cow::Owned(self.replacement.name.clone())
    }

    fn licence(&self) -> Licence {
        if self.replacement.exact { Licence::Exact } else { Licence::Relaxed }
    }

    fn roots(&self) -> &[&'static str] {
        &self.roots
    }

    fn once(&self) -> bool {
        self.once
    }

    fn apply(&self, site: &mut Site, value: Value) -> Better {
        for form in self.forms.iter().filter(|it| it.results.len() == 1) {
            let (found, steps) = {
                let here = &*site;
                let uses = |it: Value| here.uses(it);
                let mut around = Around { uses: &uses, users: None, steps: 0 };
                (self.find(form, here.graph, value, &mut around), around.steps)
            };
            site.steps += steps;
            let Ok(found) = found else { continue };
            let types: Vec<Type> = found.inputs.iter().map(|it| site.graph.ty(*it).clone()).collect();
            let result = [site.graph.ty(value).clone()];
            let made = self.replace(site.graph, &types, &result, &found.inputs, &found.numbers)?;
            return Ok(made.first().copied());
        }
        Ok(None)
    }
}

/// The rules of all passes before a place, pass by pass.
pub fn plain_before(at: &Hook, without: &[String]) -> Plain {
    let (name, after) = match at {
        Hook::Before(name) => (name, false),
        Hook::After(name) => (name, true),
    };
    let is_here = |it: &super::Pass| it.name == name || it.stage.name() == name;
    let end = match after {
        true => PIPELINE.iter().rposition(is_here).map_or(0, |it| it + 1),
        false => PIPELINE.iter().position(is_here).unwrap_or(0),
    };
    let passes = PIPELINE[..end].iter().filter(|it| !without.iter().any(|name| name == it.name));
    passes.map(super::rewrites).collect()
}

/// A graph after some rewrites.
pub fn simplified(graph: &Graph, plain: &Plain, licence: Licence) -> Result<Graph, Error> {
    let mut graph = graph.rebuild(Graph::add)?;
    for rules in plain {
        graph = rewrite(graph, rules, licence, Cow::Borrowed("pattern"), &mut Ledger::default())?;
    }
    Ok(graph)
}
