//! Graph to better graph: the pipeline, top to bottom, and the driver that shows and checks each step.

mod algebra;
mod attention;
mod batch_norm;
mod composite;
mod fold;
mod gather;
mod matching;
mod rewrite;
pub mod siblings;
#[cfg(test)]
mod tests;
mod view;

pub use attention::is_causal_mask;
#[cfg(test)]
use rewrite::rewrite_named;
pub use rewrite::{Licence, Rule, rewrite};

use crate::{
    bug,
    error::Error,
    graph::{
        Graph,
        verify::{Fault, verify},
    },
    options::{Hook, Options, UserPass},
    target::Target,
};

/// Which of the three families a pass belongs to. They run in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// On the model as its author wrote it: bring what is written in many ways to one way.
    PreGrad,
    /// On the model as mathematics: replace parts by better ones with the same meaning.
    Joint,
    /// For the run to come: what only pays when nothing but the result is wanted.
    PostGrad,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Stage::PreGrad => "pre-grad",
            Stage::Joint => "joint",
            Stage::PostGrad => "post-grad",
        }
    }
}

pub struct Pass {
    pub name: &'static str,
    pub stage: Stage,
    /// Comes before the rules, on the graph as a whole.
    pub whole: Option<Whole>,
    /// Applied together, until none fires.
    pub rules: &'static [&'static [&'static [Rule]]],
}

/// What rules cannot say, because it looks at several nodes that do not read each other.
pub type Whole = fn(&Graph, &Target, &Options) -> Result<Graph, Error>;

/// Read top to bottom; the only place that knows the order.
pub const PIPELINE: &[Pass] = &[
    // First, so that every later pattern is written in one way only and sees constants as constants.
    Pass { name: "simplify", stage: Stage::PreGrad, whole: None, rules: &[SIMPLIFY] },
    // Before the products and sums that the pieces consist of are used up by other patterns.
    Pass { name: "composites", stage: Stage::PreGrad, whole: None, rules: &[&[composite::RULES], SIMPLIFY] },
    // Needs a whole softmax, which `composites` may have made.
    Pass { name: "attention", stage: Stage::Joint, whole: None, rules: &[&[attention::RULES], SIMPLIFY] },
    // Only a run for its result may take running statistics as constants.
    Pass {
        name: "batch-norm",
        stage: Stage::PostGrad,
        whole: None,
        rules: &[&[batch_norm::RULES], SIMPLIFY],
    },
    // When everything that weights are multiplied by, and everything that follows a product, is in its place.
    Pass { name: "siblings", stage: Stage::PostGrad, whole: Some(siblings::merge), rules: &[SIMPLIFY] },
];

/// What brings a graph to its plain form.
const SIMPLIFY: &[&[Rule]] = &[fold::RULES, algebra::RULES, view::RULES, gather::RULES];

fn licence(options: &Options) -> Licence {
    if options.exact { Licence::Exact } else { Licence::Relaxed }
}

/// The same options without any optimisation: every node as the model has it, a kernel each, every bit kept. For finding faults.
pub fn plain(options: &Options) -> Options {
    Options {
        fuse: false,
        exact: true,
        pairs: false,
        without_passes: PIPELINE.iter().map(|it| it.name.to_owned()).collect(),
        passes: Vec::new(),
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
    check_names(options)?;
    let left_out = |name: &str| options.without_passes.iter().any(|it| it == name);
    let hooks = |mut graph: Graph, at: Hook, observe: &mut dyn FnMut(&str, &Graph)| {
        for pass in options.passes.iter().filter(|it| it.at == at && !left_out(&it.name)) {
            graph = run_own(pass, &graph)?;
            observe(&pass.name, &graph);
        }
        Ok::<Graph, Error>(graph)
    };
    let states = graph.states.clone();
    let mut graph = graph;
    for (at, pass) in PIPELINE.iter().enumerate() {
        let stage = |at: usize| PIPELINE.get(at).map(|it| it.stage);
        if at == 0 || stage(at - 1) != Some(pass.stage) {
            graph = hooks(graph, Hook::Before(pass.stage.name().into()), observe)?;
        }
        graph = hooks(graph, Hook::Before(pass.name.into()), observe)?;
        if !left_out(pass.name) {
            if let Some(whole) = pass.whole {
                graph = whole(&graph, target, options)?;
            }
            graph =
                rewrite(&graph, pass.rules.iter().copied().flatten().copied().flatten(), licence(options))?;
            if cfg!(debug_assertions)
                && let Some(what) = fault(&graph)
            {
                bug!("after pass {}: {what}", pass.name);
            }
            observe(pass.name, &graph);
        }
        graph = hooks(graph, Hook::After(pass.name.into()), observe)?;
        if stage(at + 1) != Some(pass.stage) {
            graph = hooks(graph, Hook::After(pass.stage.name().into()), observe)?;
        }
    }
    // Passes keep inputs and outputs, each with its number.
    graph.states = states;
    Ok(graph)
}

/// Every name in `options` is that of a pass or, for places, of a stage.
pub(crate) fn check_names(options: &Options) -> Result<(), Error> {
    let passes: Vec<&str> = PIPELINE.iter().map(|it| it.name).collect();
    let unknown = |pass: &str, known: &[&str]| {
        let what = format!("there is no such pass; there are {}", known.join(", "));
        Err(Error::Pass { pass: pass.to_string(), what })
    };
    let own: Vec<&str> = options.passes.iter().map(|it| &*it.name).collect();
    let all = [&passes[..], &own].concat();
    for name in &options.without_passes {
        if !all.contains(&&**name) {
            return unknown(name, &all);
        }
    }
    let stages = [Stage::PreGrad, Stage::Joint, Stage::PostGrad].map(Stage::name);
    let places = [&stages[..], &passes].concat();
    for pass in &options.passes {
        let (Hook::Before(at) | Hook::After(at)) = &pass.at;
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
