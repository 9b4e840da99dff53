//! Which passes there are, in which order, and what is done elsewhere that other compilers have passes for.

use super::{
    algebra, attention, batch_norm, causal, composite, fold, gather, join, norm_before,
    pattern::{Pattern, builtin},
    rewrite::{Licence, Rule},
    siblings, uniform, view,
};
use crate::{error::Error, graph::Graph, options::Options, target::Target};

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
    pub const ALL: [Stage; 3] = [Stage::PreGrad, Stage::Joint, Stage::PostGrad];

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
    /// What it does, in one line.
    pub about: &'static str,
    pub stage: Stage,
    /// Comes before the rules, on the graph as a whole.
    pub whole: Option<Whole>,
    /// Applied together, until none fires.
    pub sets: &'static [RuleSet],
}

/// Rules of one kind.
pub struct RuleSet {
    pub name: &'static str,
    pub rules: &'static [Rule],
    /// Those that are traced, once in a process. Tried after the rules.
    pub patterns: fn() -> &'static [Pattern<'static>],
}

/// No patterns.
const fn none() -> &'static [Pattern<'static>] {
    &[]
}

/// What rules cannot say, because it looks at several nodes that do not read each other.
pub type Whole = fn(&Graph, &Target, &Options) -> Result<Graph, Error>;

/// What brings a graph to its plain form. It is part of every pass, so that each leaves a plain graph.
pub const SIMPLIFY: &[RuleSet] = &[FOLD, UNIFORM, ALGEBRA, VIEWS, JOINS, GATHERS];

const FOLD: RuleSet = RuleSet { name: "constants", rules: fold::RULES, patterns: none };
const UNIFORM: RuleSet = RuleSet { name: "uniform values", rules: uniform::RULES, patterns: none };
const ALGEBRA: RuleSet = RuleSet { name: "algebra", rules: algebra::RULES, patterns: none };
const VIEWS: RuleSet = RuleSet { name: "views", rules: view::RULES, patterns: none };
const JOINS: RuleSet =
    RuleSet { name: "splits, concatenations and stacks", rules: join::RULES, patterns: none };
const GATHERS: RuleSet = RuleSet { name: "reads at known places", rules: gather::RULES, patterns: none };
pub const COMPOSITES: RuleSet =
    RuleSet { name: "composites", rules: composite::RULES, patterns: builtin::patterns };
const BATCH_NORM: RuleSet = RuleSet { name: "batch norms", rules: batch_norm::RULES, patterns: none };
const NORM_BEFORE: RuleSet =
    RuleSet { name: "scales and shifts before products", rules: norm_before::RULES, patterns: none };
const CAUSAL: RuleSet = RuleSet { name: "causal masks", rules: causal::RULES, patterns: none };
const ATTENTION: RuleSet = RuleSet { name: "attention", rules: attention::RULES, patterns: none };

/// Read top to bottom; the only place that knows the order.
pub const PIPELINE: &[Pass] = &[
    // First, so that every later pattern is written in one way only and sees constants as constants.
    Pass {
        name: "simplify",
        about: "constants and uniform values are computed; casts, views, splits and concatenations that do nothing go",
        stage: Stage::PreGrad,
        whole: None,
        sets: SIMPLIFY,
    },
    // Before the products and sums that the pieces consist of are used up by other patterns.
    Pass {
        name: "composites",
        about: "activations, softmax and norms that are written out become one operator each",
        stage: Stage::PreGrad,
        whole: None,
        sets: &[COMPOSITES, FOLD, UNIFORM, ALGEBRA, VIEWS, JOINS, GATHERS],
    },
    // Behind the composites, so that a norm's own scale is not taken for one of these.
    Pass {
        name: "batch-norm",
        about: "batch norms of fixed statistics, scales and shifts move into the convolution or linear layer before or behind them",
        stage: Stage::PreGrad,
        whole: None,
        sets: &[BATCH_NORM, NORM_BEFORE, FOLD, UNIFORM, ALGEBRA, VIEWS, JOINS, GATHERS],
    },
    // Needs a whole softmax, which `composites` may have made.
    Pass {
        name: "attention",
        about: "softmax(q k^T * scale + mask) v becomes one operator, whatever its mask and scale are written as",
        stage: Stage::Joint,
        whole: None,
        sets: &[ATTENTION, CAUSAL, FOLD, UNIFORM, ALGEBRA, VIEWS, JOINS, GATHERS],
    },
    // When everything that weights are multiplied by, and everything that follows a product, is in its place.
    Pass {
        name: "siblings",
        about: "products of one input by several weights become one product",
        stage: Stage::PostGrad,
        whole: Some(siblings::merge),
        sets: SIMPLIFY,
    },
];

/// Something that TorchInductor has a pass for, and that is done, or need not be, at another place here.
pub struct Elsewhere {
    pub stage: Stage,
    pub what: &'static str,
    pub place: &'static str,
}

pub const ELSEWHERE: &[Elsewhere] = &[
    Elsewhere {
        stage: Stage::PreGrad,
        what: "dropout in inference",
        place: "the importer gives its input where training is off, so that no graph holds one",
    },
    Elsewhere {
        stage: Stage::PreGrad,
        what: "mutations, aliases, spelling of arguments",
        place: "graphs are functional and equal nodes are one: there is nothing to functionalise, and operands precede users",
    },
    Elsewhere {
        stage: Stage::Joint,
        what: "random numbers",
        place: "they are functions of a key that is an input, from the start: nothing is replaced, and nothing has a state",
    },
    Elsewhere {
        stage: Stage::PostGrad,
        what: "dead code",
        place: "every pass rebuilds the graph from what its outputs need",
    },
    Elsewhere {
        stage: Stage::PostGrad,
        what: "reordering for locality",
        place: "the schedule orders kernels for the least memory (schedule/order.rs)",
    },
    Elsewhere {
        stage: Stage::PostGrad,
        what: "products and what is done to each result",
        place: "the schedule fuses what follows a product into its kernel, whatever it is (schedule/fuse.rs)",
    },
    Elsewhere {
        stage: Stage::PostGrad,
        what: "constructors moved to the device",
        place: "what depends on constants alone is a graph of its own, computed once where its readers run (partition)",
    },
    Elsewhere {
        stage: Stage::PostGrad,
        what: "re-inplacing",
        place: "the schedule proves which kernel may write a state in place (schedule/state.rs), the plan which may reuse memory",
    },
];

/// The rules of some sets, those of the first set first.
pub fn rules_of(sets: &'static [RuleSet]) -> impl Iterator<Item = &'static Rule> {
    sets.iter().flat_map(|it| it.rules)
}

/// What the options allow rules to change.
pub fn licence(options: &Options) -> Licence {
    if options.exact { Licence::Exact } else { Licence::Relaxed }
}
