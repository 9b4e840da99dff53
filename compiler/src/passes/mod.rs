//! Graph to better graph: the driver that runs the pipeline, the user's passes among it, and shows and checks each step.

mod algebra;
mod attention;
mod batch_norm;
mod causal;
mod composite;
mod fold;
mod gather;
mod join;
mod matching;
mod norm_before;
pub mod pattern;
pub mod pipeline;
pub mod rewrite;
pub mod siblings;
#[cfg(test)]
mod tests;
mod uniform;
mod view;

use std::borrow::Cow;

pub use causal::is_causal_mask;
pub use pipeline::{ELSEWHERE, PIPELINE, Pass, Stage};
pub use rewrite::{Applied, Ledger, Licence, Rule};

use tracing::{Span, debug_span, field::Empty, info_span};

use crate::{
    bug,
    error::Error,
    graph::{
        Graph,
        verify::{Fault, verify},
    },
    options::{Hook, Options, UserPass},
    passes::{
        pattern::{Pattern, plain_before, several::replace_all},
        pipeline::{RuleSet, licence},
        rewrite::{Rewrite, rewrite},
    },
    replacement::Replacement,
    target::Target,
};

/// The same options without any optimisation: every node as the model has it, a kernel each, every bit kept. For finding faults.
pub fn plain(options: &Options) -> Options {
    Options {
        fuse: false,
        exact: true,
        pairs: false,
        without_passes: PIPELINE.iter().map(|it| it.name.to_owned()).collect(),
        passes: Vec::new(),
        patterns: Vec::new(),
        ..options.clone()
    }
}

/// The graph after all passes that `options` do not leave out, and after the user's own.
pub fn optimise(graph: Graph, target: &Target, options: &Options) -> Result<Graph, Error> {
    optimise_observed(graph, target, options, &mut |_, _| {})
}

/// As `optimise`; `observe` is shown the graph after each pass, by the pass's name.
pub fn optimise_observed(
    graph: Graph,
    target: &Target,
    options: &Options,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<Graph, Error> {
    optimise_logged(graph, target, options, &mut Ledger::default(), observe)
}

/// As `optimise_observed`; what was done is added to `ledger`, whose limit is that of the options from here on, if they
/// give one.
pub fn optimise_logged(
    graph: Graph,
    target: &Target,
    options: &Options,
    ledger: &mut Ledger,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<Graph, Error> {
    check_names(options)?;
    ledger.limit = options.rule_limit.or(ledger.limit);
    let mut driver = Driver { target, options, ledger, observe, graph };
    driver.run(None)?;
    Ok(driver.graph)
}

/// The graph as it comes to a place: the user's own passes and patterns there are still to come.
fn optimise_until(graph: Graph, target: &Target, options: &Options, until: &Hook) -> Result<Graph, Error> {
    check_names(options)?;
    let ledger = &mut Ledger { limit: options.rule_limit, ..Ledger::default() };
    let mut driver = Driver { target, options, ledger, observe: &mut |_, _| {}, graph };
    driver.run(Some(until))?;
    Ok(driver.graph)
}

/// One graph's way through the pipeline.
struct Driver<'a> {
    target: &'a Target,
    options: &'a Options,
    ledger: &'a mut Ledger,
    observe: &'a mut dyn FnMut(&str, &Graph),
    graph: Graph,
}

impl Driver<'_> {
    fn is_left_out(&self, name: &str) -> bool {
        self.options.without_passes.iter().any(|it| it == name)
    }

    fn run(&mut self, until: Option<&Hook>) -> Result<(), Error> {
        let states = self.graph.states.clone();
        let mut span = Span::none().entered();
        for (at, pass) in PIPELINE.iter().enumerate() {
            let stage = |at: usize| PIPELINE.get(at).map(|it| it.stage);
            let mut before = vec![Hook::Before(pass.name.into())];
            if at == 0 || stage(at - 1) != Some(pass.stage) {
                let nodes = self.graph.len();
                span = info_span!("stage", name = pass.stage.name(), nodes, after = Empty).entered();
                before.insert(0, Hook::Before(pass.stage.name().into()));
            }
            let mut after = vec![Hook::After(pass.name.into())];
            let ends = stage(at + 1) != Some(pass.stage);
            if ends {
                after.push(Hook::After(pass.stage.name().into()));
            }
            for (hooks, is_last) in [(before, false), (after, true)] {
                for hook in hooks {
                    if Some(&hook) == until {
                        return Ok(());
                    }
                    self.hooks(&hook)?;
                }
                if !is_last && !self.is_left_out(pass.name) {
                    self.pass(pass)?;
                }
            }
            // Passes keep inputs and outputs, each with its number.
            self.graph.states.clone_from(&states);
            if ends {
                span.record("after", self.graph.len());
                span = Span::none().entered();
            }
        }
        Ok(())
    }

    fn pass(&mut self, pass: &'static Pass) -> Result<(), Error> {
        let (nodes, applied) = (self.graph.len(), self.ledger.applied.len());
        let span = debug_span!(
            "pass",
            name = pass.name,
            stage = pass.stage.name(),
            nodes,
            after = Empty,
            applied = Empty
        );
        let span = span.entered();
        if let Some(whole) = pass.whole.filter(|_| self.ledger.is_open()) {
            let next = whole(&self.graph, self.target, self.options)?;
            if !same(&self.graph, &next) {
                self.note(Cow::Borrowed(pass.name));
            }
            self.graph = next;
        }
        let name = Cow::Borrowed(pass.name);
        let graph = std::mem::take(&mut self.graph);
        self.graph = rewrite(graph, &rewrites(pass), licence(self.options), name, self.ledger)?;
        if cfg!(debug_assertions)
            && let Some(what) = fault(&self.graph)
        {
            bug!("after pass {}: {what}", pass.name);
        }
        span.record("after", self.graph.len());
        span.record("applied", self.ledger.applied.len() - applied);
        drop(span);
        (self.observe)(pass.name, &self.graph);
        Ok(())
    }

    /// The user's own passes at one place.
    fn hooks(&mut self, at: &Hook) -> Result<(), Error> {
        let options = self.options;
        for pass in options.passes.iter().filter(|it| it.at == *at) {
            if self.is_left_out(&pass.name) || !self.ledger.is_open() {
                continue;
            }
            self.graph = run_own(pass, &self.graph)?;
            self.note(Cow::Owned(pass.name.clone()));
            (self.observe)(&pass.name, &self.graph);
        }
        let patterns = options.patterns.iter().filter(|it| it.at == *at);
        let patterns: Vec<&Replacement> = patterns.filter(|it| !self.is_left_out(&it.name)).collect();
        if patterns.is_empty() || !self.ledger.is_open() {
            return Ok(());
        }
        let name = match at {
            Hook::Before(place) => format!("patterns before {place}"),
            Hook::After(place) => format!("patterns after {place}"),
        };
        let plain = || plain_before(at, &options.without_passes);
        let patterns =
            patterns.into_iter().map(|it| Pattern::new(Cow::Borrowed(it), plain(), licence(options), true));
        let (several, single): (Vec<Pattern>, Vec<Pattern>) =
            patterns.collect::<Result<Vec<_>, Error>>()?.into_iter().partition(Pattern::has_several);
        let single: Vec<&dyn Rewrite> = single.iter().map(|it| it as &dyn Rewrite).collect();
        let (pass, allowed): (Cow<'static, str>, _) = (Cow::Owned(name.clone()), licence(options));
        let mut graph =
            rewrite(std::mem::take(&mut self.graph), &single, allowed, pass.clone(), self.ledger)?;
        for pattern in several.iter().filter(|it| it.licence() <= allowed) {
            graph = replace_all(pattern, graph, pass.clone(), self.ledger)?;
        }
        self.graph = graph;
        if let Some(what) = fault(&self.graph) {
            return Err(Error::Pass { pass: name, what });
        }
        (self.observe)(&name, &self.graph);
        Ok(())
    }

    /// Something was done to the graph as a whole.
    fn note(&mut self, pass: Cow<'static, str>) {
        let at = self.graph.outputs.first().map(|it| self.graph.node(it.value).origin.clone());
        self.ledger.applied.push(Applied { rule: pass.clone(), pass, at: at.unwrap_or_default() });
    }
}

/// What a pass does to single nodes, in the order in which it is tried.
fn rewrites(pass: &'static Pass) -> Vec<&'static dyn Rewrite> {
    pass.sets.iter().flat_map(rewrites_of).collect()
}

fn rewrites_of(set: &'static RuleSet) -> impl Iterator<Item = &'static dyn Rewrite> {
    let patterns = (set.patterns)().iter().map(|it| it as &dyn Rewrite);
    set.rules.iter().map(|it| it as &dyn Rewrite).chain(patterns)
}

/// A graph without dead nodes.
fn plain_copy(graph: &Graph) -> Result<Graph, Error> {
    graph.rebuild(Graph::add)
}

/// Whether two graphs are written alike.
fn same(a: &Graph, b: &Graph) -> bool {
    a.len() == b.len() && a.outputs == b.outputs && a.nodes().zip(b.nodes()).all(|(a, b)| a.1.op == b.1.op)
}

/// Every name in `options` is that of a pass or, for places, of a stage.
pub(crate) fn check_names(options: &Options) -> Result<(), Error> {
    let passes: Vec<&str> = PIPELINE.iter().map(|it| it.name).collect();
    let unknown = |pass: &str, known: &[&str]| {
        let what = format!("there is no such pass; there are {}", known.join(", "));
        Err(Error::Pass { pass: pass.to_string(), what })
    };
    let names = options.passes.iter().map(|it| &*it.name);
    let own: Vec<&str> = names.chain(options.patterns.iter().map(|it| &*it.name)).collect();
    let all = [&passes[..], &own].concat();
    for name in &options.without_passes {
        if !all.contains(&&**name) {
            return unknown(name, &all);
        }
    }
    let stages = Stage::ALL.map(Stage::name);
    let places = [&stages[..], &passes].concat();
    let own = options.passes.iter().map(|it| &it.at);
    for at in own.chain(options.patterns.iter().map(|it| &it.at)) {
        let (Hook::Before(at) | Hook::After(at)) = at;
        if !places.contains(&&**at) {
            return unknown(at, &places);
        }
    }
    Ok(())
}

/// Runs a pass of the user's own and checks what it returns.
fn run_own(pass: &UserPass, from: &Graph) -> Result<Graph, Error> {
    let to = (pass.run)(from)?;
    let broken = |what: String| Error::Pass { pass: pass.name.clone(), what };
    if let Some(what) = fault(&to) {
        return Err(broken(what));
    }
    if to.inputs() != from.inputs() {
        return Err(broken("the graph's inputs have changed".into()));
    }
    let outputs = |graph: &Graph| -> Vec<_> {
        graph.outputs.iter().map(|it| (it.name.clone(), graph.ty(it.value).clone())).collect()
    };
    if outputs(&to) != outputs(from) {
        return Err(broken("the names or types of the graph's outputs have changed".into()));
    }
    Ok(to)
}

/// What is wrong with a graph, if anything is.
fn fault(graph: &Graph) -> Option<String> {
    let faults = verify(graph);
    (!faults.is_empty()).then(|| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))
}
