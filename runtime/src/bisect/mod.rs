//! Which step of a compilation makes results wrong, and the smallest graph of which they are.
//!
//! In: what a compilation was given, a device, and what its results are held against: another device, or the same without any
//! optimisation. Out: the application of a rule or pattern, the pass, or the kernel from which they differ (`bisect`); a graph, shapes and
//! values from which nothing can be taken away without the difference going too (`minimise`).

mod kernels;
mod minimise;
mod shrink;

use std::sync::Arc;

use wgfuse_compiler::{
    arguments::Arguments,
    options::Options,
    passes::{
        optimise_logged, plain,
        rewrite::{Applied, Ledger},
    },
    plan::Plan,
    target::Place,
    tensor::Tensor,
};

pub use kernels::WrongKernel;
pub use minimise::{Minimised, minimise};

use crate::{
    caught::caught,
    compare::{Difference, Tolerance, compare},
    device::Device,
    error::{Error, Result},
    model::Model,
    report::count,
    session::{Planted, Session},
};

/// What results are held against.
#[derive(Clone, Debug)]
pub enum Against {
    /// The same device, without any optimisation (`passes::plain`).
    Plain,
    Device(Device),
}

/// What is looked into.
#[derive(Clone)]
pub struct Subject {
    pub arguments: Arguments,
    pub device: Device,
    pub against: Against,
    pub tolerance: Tolerance,
    planted: Option<Planted>,
}

/// What a run came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Same,
    /// Of the first output that is too far from what was expected.
    Differs {
        output: String,
        difference: Difference,
    },
    /// The compiler or the run failed.
    Failed(String),
}

impl Outcome {
    pub fn is_fault(&self) -> bool {
        *self != Outcome::Same
    }

    /// Whether it is what `whole` was: a failure is another thing than a difference.
    fn is_like(&self, whole: &Outcome) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(whole)
    }
}

/// Where results begin to be wrong.
#[derive(Clone, PartialEq, Debug)]
pub enum Culprit {
    /// Nowhere: they agree.
    None,
    /// A rule, a pattern, or a pass that works on the whole graph or is a program's own.
    Applied {
        /// Among all applications to this graph, from 1.
        number: u64,
        /// Among those of the rule.
        time: usize,
        what: Applied,
    },
    Kernel(std::boxed::Box<WrongKernel>),
    /// Every kernel computes what it should from what it is given, and no difference is left where no two nodes are one kernel.
    Fusion,
    /// Neither: how nodes become kernels, what the plan says of memory and order, or what the two are compared with.
    Elsewhere,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    pub culprit: Culprit,
    /// Of the compilation as it was given.
    pub outcome: Outcome,
    /// Compiled and run, the run that the others were compared with too.
    pub runs: usize,
    /// Rewrites that the passes do in all.
    pub applications: u64,
    /// What could not be looked at.
    pub notes: Vec<String>,
}

impl Subject {
    pub fn new(arguments: Arguments, device: Device, against: Against, tolerance: Tolerance) -> Subject {
        Subject { arguments, device, against, tolerance, planted: None }
    }

    /// For tests: `change` spoils every plan for the device.
    #[doc(hidden)]
    pub fn planted(mut self, change: impl Fn(&mut Plan) + Send + Sync + 'static) -> Subject {
        self.planted = Some(Arc::new(change));
        self
    }

    fn run(&self, options: Options) -> Result<Vec<(String, Tensor)>> {
        self.run_on(&self.device, options, self.planted.as_ref())
    }

    fn run_on(
        &self,
        device: &Device,
        options: Options,
        planted: Option<&Planted>,
    ) -> Result<Vec<(String, Tensor)>> {
        let session = session(&self.arguments, device, options)?.quiet();
        let session = match planted {
            Some(it) => session.planted(it.clone()),
            None => session,
        };
        run(&session, &self.arguments)
    }

    /// What results should be.
    fn expected(&self) -> Result<Vec<(String, Tensor)>> {
        let options = &self.arguments.options;
        match &self.against {
            Against::Plain => self.run_on(&self.device, plain(options), None),
            Against::Device(device) => self.run_on(device, options.clone(), None),
        }
    }

    fn outcome(&self, options: Options, expected: &[(String, Tensor)]) -> Result<Outcome> {
        match self.run(options) {
            Ok(actual) => Ok(differs(&actual, expected, self.tolerance)),
            // A device that is gone, or its memory, says nothing about what was compiled.
            Err(error @ (Error::Model(_) | Error::Device(crate::DeviceError::Refused { .. }))) => {
                Ok(Outcome::Failed(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }
}

fn differs(actual: &[(String, Tensor)], expected: &[(String, Tensor)], tolerance: Tolerance) -> Outcome {
    for ((name, actual), (_, expected)) in actual.iter().zip(expected) {
        let difference = compare(actual, expected, tolerance);
        if !difference.allowed() {
            return Outcome::Differs { output: name.clone(), difference };
        }
    }
    Outcome::Same
}

/// Compiles what a compilation was given for a device.
fn session(arguments: &Arguments, device: &Device, options: Options) -> Result<Session> {
    let graph = &arguments.graph;
    let model = Model::from_graph(graph.clone());
    let session = Session::with_options(&model, device, options)?.choices(arguments.choices.clone());
    let key = graph.random_key_slot().and_then(|it| arguments.examples[it as usize].value.clone());
    Ok(match key {
        Some(key) => session.with_key(key),
        None => session,
    })
}

/// Outputs for the examples that were kept.
fn run(session: &Session, arguments: &Arguments) -> Result<Vec<(String, Tensor)>> {
    let graph = &arguments.graph;
    let mut given = Vec::new();
    for (number, (input, example)) in graph.inputs().iter().zip(&arguments.examples).enumerate() {
        let Some(value) = example.value.as_ref().filter(|_| graph.random_key_slot() != Some(number as u32))
        else {
            continue;
        };
        match graph.states.iter().any(|it| it.input as usize == number) {
            true => session.set_state(&input.name, value)?,
            false => given.push((input.name.as_str(), value.clone())),
        }
    }
    Ok(session.run(&given)?.into_iter().collect())
}

/// Compiles and runs what a compilation was given, on the examples that were kept of its inputs.
pub fn run_arguments(
    arguments: &Arguments,
    device: &Device,
    options: Options,
) -> Result<Vec<(String, Tensor)>> {
    run(&session(arguments, device, options)?, arguments)
}

/// The rewrites of the passes, and whether one more failed.
fn applications(
    arguments: &Arguments,
    device: &Device,
    limit: Option<u64>,
) -> (Vec<Applied>, Option<String>) {
    let mut ledger = Ledger::default();
    let options = Options { rule_limit: limit, ..arguments.options.clone() };
    let done = caught(|| {
        let graph = arguments.graph.clone();
        Ok(optimise_logged(graph, device.target(), &options, &mut ledger, &mut |_, _| {})?)
    });
    (ledger.applied, done.err().map(|it| it.to_string()))
}

/// Compiled runs, counted.
struct Runs<'a> {
    subject: &'a Subject,
    expected: Vec<(String, Tensor)>,
    count: usize,
}

impl Runs<'_> {
    fn outcome(&mut self, change: impl FnOnce(&mut Options)) -> Result<Outcome> {
        let mut options = self.subject.arguments.options.clone();
        change(&mut options);
        self.count += 1;
        self.subject.outcome(options, &self.expected)
    }
}

/// Where results begin to be wrong; `say` is told of each step.
pub fn bisect(subject: &Subject, say: &mut dyn FnMut(&str)) -> Result<Found> {
    let mut runs = Runs { subject, expected: subject.expected()?, count: 1 };
    let outcome = runs.outcome(|_| {})?;
    let limit = subject.arguments.options.rule_limit;
    let (applied, failure) = applications(&subject.arguments, &subject.device, limit);
    let all = applied.len() as u64 + failure.is_some() as u64;
    let found = |culprit, runs: &Runs, notes| Found {
        culprit,
        outcome: outcome.clone(),
        runs: runs.count,
        applications: all,
        notes,
    };
    if !outcome.is_fault() {
        return Ok(found(Culprit::None, &runs, Vec::new()));
    }
    say(&format!("{}; {}", count(all as usize, "rewrite"), told(&outcome)));
    // Another device may differ whatever the passes do: that is asked first. Without optimisation there is another kernel for every node, and
    // the passes are the likelier cause: then it is asked only if it comes to that.
    let mut good: Option<u64> = None;
    if matches!(subject.against, Against::Device(_)) || all == 0 {
        let without = runs.outcome(|it| it.rule_limit = Some(0))?;
        if without.is_like(&outcome) {
            return kernels(subject, &mut runs, say).map(|(it, notes)| found(it, &runs, notes));
        }
        good = Some(0);
    }
    let mut bad = all;
    while bad > good.unwrap_or(0) + 1 {
        let middle = good.unwrap_or(0).midpoint(bad);
        let outcome_here = runs.outcome(|it| it.rule_limit = Some(middle))?;
        let fault = outcome_here.is_like(&outcome);
        say(&format!(
            "after {}: {}",
            count(middle as usize, "rewrite"),
            if fault { "wrong" } else { "right" }
        ));
        match fault {
            true => bad = middle,
            false => good = Some(middle),
        }
    }
    if good.is_none() && runs.outcome(|it| it.rule_limit = Some(0))?.is_like(&outcome) {
        return kernels(subject, &mut runs, say).map(|(it, notes)| found(it, &runs, notes));
    }
    // With a limit, what comes before is the same: rules see no more than what earlier ones have made.
    let what = applied.get(bad as usize - 1).cloned().unwrap_or_else(|| Applied {
        pass: "passes".into(),
        rule: failure.clone().unwrap_or_default().into(),
        at: "".into(),
    });
    let time = applied[..(bad as usize).min(applied.len())].iter().filter(|it| it.rule == what.rule).count();
    Ok(found(Culprit::Applied { number: bad, time, what }, &runs, Vec::new()))
}

/// As far as passes are not to blame.
fn kernels(
    subject: &Subject,
    runs: &mut Runs<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<(Culprit, Vec<String>)> {
    say("the passes are not to blame: looking at kernels");
    runs.count += 1;
    let (wrong, notes) = kernels::first_wrong(subject, subject.planted.as_deref())?;
    if let Some(mut wrong) = wrong {
        if wrong.place == Place::Gpu {
            let checked = runs.outcome(|it| it.checked = true)?;
            wrong.wrong_with_checks = checked.is_fault();
        }
        return Ok((Culprit::Kernel(wrong.into()), notes));
    }
    if subject.arguments.options.fuse && !runs.outcome(|it| it.fuse = false)?.is_fault() {
        return Ok((Culprit::Fusion, notes));
    }
    Ok((Culprit::Elsewhere, notes))
}

/// An outcome in a few words.
pub fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Same => "the results agree".to_owned(),
        Outcome::Failed(what) => format!("it fails: {what}"),
        Outcome::Differs { output, difference } => far(&format!("output '{output}'"), difference),
    }
}

/// A difference of `what` in a few words.
pub fn far(what: &str, difference: &Difference) -> String {
    match difference {
        Difference::Type(other) => format!("{what} {other}"),
        Difference::Values(it) => {
            let most = it.absolute.map_or(String::new(), |it| {
                format!(", most at element {}: {} for {}", it.at, it.actual, it.expected)
            });
            format!("{} of {} elements of {what} are too far apart{most}", it.beyond, it.count)
        }
    }
}
