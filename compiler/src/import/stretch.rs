//! A model in stretches: how far it can be imported with what is known of its values, and what has to become known to go on.
//!
//! Sizes, and which branch is taken, may follow from values. A model is then imported up to there; that stretch is compiled and run like
//! any graph; what it was stopped by is read, or computed on the host; and with that known the model is imported on.
//! What always holds: a stretch follows from the model and from what is known alone; the key of a value is its own in all of the
//! model, and what it is bound to never changes.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{host::Datum, onnx::Program, strings::Pool};
use crate::{bug, error::Error, graph::Graph, shape::Type, tensor::Tensor};

/// Names a value in all of a model, those in branches, functions and turns of loops included.
pub type Key = Arc<str>;

/// Of which tensors a value consists.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bound {
    Tensor(Key),
    /// The tensor has the numbers of strings.
    Strings(Key),
    Sequence(Vec<Bound>),
    Optional(Option<Box<Bound>>),
}

impl Bound {
    /// The tensors, in order.
    pub fn leaves(&self) -> Vec<&Key> {
        match self {
            Bound::Tensor(key) | Bound::Strings(key) => vec![key],
            Bound::Sequence(all) => all.iter().flat_map(Bound::leaves).collect(),
            Bound::Optional(one) => one.iter().flat_map(|it| it.leaves()).collect(),
        }
    }
}

/// What is known of a tensor before it is there.
#[derive(Clone, PartialEq, Debug)]
pub enum Known {
    Type(Type),
    /// Its values, which decide what is imported.
    Literal(Tensor),
}

/// What is known of a model's values.
#[derive(Clone, Default, Debug)]
pub struct Knowledge {
    pub(super) bindings: HashMap<Key, Bound>,
    pub(super) tensors: HashMap<Key, Known>,
    /// The keys of the model's inputs, as long as nothing else is known.
    pub(super) untouched: Option<Vec<Key>>,
}

impl Knowledge {
    /// What `inputs`, in order, are; tensors have the keys that their bindings give.
    pub fn of(program: &Program, inputs: impl IntoIterator<Item = (Bound, Vec<Known>)>) -> Knowledge {
        let mut all = Knowledge::default();
        let mut plain = Some(Vec::new());
        for (input, (bound, known)) in program.inputs.iter().zip(inputs) {
            match (&bound, plain.as_mut()) {
                (Bound::Tensor(key), Some(plain)) => plain.push(key.clone()),
                _ => plain = None,
            }
            all.tensors.extend(bound.leaves().into_iter().cloned().zip(known));
            all.bindings.insert(input_key(&input.name), bound);
        }
        let literal = |it: &Known| matches!(it, Known::Literal(_));
        all.untouched = plain.filter(|_| !all.tensors.values().any(literal));
        all
    }

    /// The tensor of this key, if its values are known.
    pub fn literal(&self, key: &Key) -> Option<&Tensor> {
        match self.tensors.get(key)? {
            Known::Literal(tensor) => Some(tensor),
            Known::Type(_) => None,
        }
    }

    /// The tensor of this key is known to be this.
    pub fn learn(&mut self, key: Key, known: Known) {
        self.tensors.insert(key, known);
        self.untouched = None;
    }

    /// The value of this key is of these tensors.
    pub fn bind(&mut self, key: Key, bound: Bound) {
        self.bindings.insert(key, bound);
        self.untouched = None;
    }
}

impl Stretch {
    /// How far `program` can be imported with what is known.
    pub fn of(program: &Arc<Program>, known: &Knowledge) -> Result<Stretch, Error> {
        program.stretch(known)
    }

    /// The strings of the model.
    pub fn strings(&self) -> &Arc<Pool> {
        self.program.strings()
    }

    /// The error for who needs the whole model in one.
    pub fn stopped(&self) -> Error {
        match self.stopped.clone() {
            Some(Error::Unsupported { op, node, what }) => {
                let what =
                    format!("{what}; such a model is run stretch by stretch, and has no graph as a whole");
                Error::Unsupported { op, node, what }
            }
            Some(other) => other,
            None => bug!("nothing has stopped it"),
        }
    }

    /// What ends it: a node's name, why, and how many bytes the host reads for that.
    pub fn stops(&self) -> impl Iterator<Item = (&str, Stop, u64)> {
        let asks = self.asks.iter().map(|it| {
            let stop = if it.control { Stop::Control } else { Stop::Sizes };
            (&*it.node, stop, it.bytes)
        });
        let calls = self.calls.iter().map(|it| {
            let stop = match it.work {
                Work::Host(_) if it.strings => Stop::Strings,
                Work::Host(_) => Stop::Host,
                Work::Loop { .. } => Stop::Turns,
            };
            (&*it.node, stop, it.bytes)
        });
        asks.chain(calls)
    }

    /// The next one, once more is known than `self.after`; or another in its place, once more is known than `self.before`.
    pub fn next(&self, known: &Knowledge) -> Result<Stretch, Error> {
        self.program.stretch(known)
    }
}

/// The key of an input of the model.
pub fn input_key(name: &str) -> Key {
    format!(":{name}").into()
}

/// How far a model can be imported.
#[derive(Clone, Debug)]
pub struct Stretch {
    pub(super) program: Arc<Program>,
    pub graph: Graph,
    /// The tensors that are the graph's inputs, in order.
    pub reads: Vec<Key>,
    /// The tensors that are its outputs, in order.
    pub makes: Vec<Key>,
    /// What to read after it ran.
    pub asks: Vec<Ask>,
    /// What to do on the host after it ran.
    pub calls: Vec<Call>,
    /// Tensors that later stretches may read.
    pub keeps: Vec<Key>,
    /// Of what the model's outputs consist, in order, once there is nothing left to import.
    pub outputs: Option<Vec<Bound>>,
    /// What was known when it was imported.
    pub before: Knowledge,
    /// What is known when it ran, but for what `asks` and `calls` bring.
    pub after: Knowledge,
    /// Why it is not the whole model.
    pub stopped: Option<Error>,
}

/// Why a stretch ends at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Sizes follow from values.
    Sizes,
    /// A branch follows from a value.
    Control,
    /// The host computes it.
    Host,
    /// The host computes it, since it is about strings.
    Strings,
    /// It is a loop, whose body runs as a model of its own.
    Turns,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Sizes => "sizes follow from values that it reads",
            Stop::Control => "a value that it reads says which branch is taken",
            Stop::Host => "the processor does it, since the shape of its result follows from values",
            Stop::Strings => "the processor does it, since GPUs know no strings",
            Stop::Turns => "its body runs as a model of its own, turn by turn",
        })
    }
}

/// The values of a tensor have to be known.
#[derive(Clone, Debug)]
pub struct Ask {
    pub key: Key,
    /// The name of the node that asks.
    pub node: Arc<str>,
    /// Whether a branch, or the end of a loop, depends on it; else sizes do.
    pub control: bool,
    pub bytes: u64,
}

/// Something that only the host does.
#[derive(Clone, Debug)]
pub struct Call {
    /// The node's name.
    pub node: Arc<str>,
    pub op: String,
    /// `None` where an operand is left out.
    pub operands: Vec<Option<Bound>>,
    /// The keys that the results are bound to; those of what a result consists of are `part_key`'s.
    pub results: Vec<Key>,
    pub work: Work,
    /// Whether it is left to the host for being about strings.
    pub strings: bool,
    /// Of operands that the program itself does not give.
    pub bytes: u64,
}

#[derive(Clone)]
pub enum Work {
    /// A function of values, and of how many bytes its results may take. Results go by `Call::results`.
    Host(Arc<HostWork>),
    /// Turns of a body, which is a model of its own. Operands: the number of turns, whether to begin, what is carried from turn to
    /// turn, and what the body reads of its surroundings. The body's inputs: the number of the turn, the condition, the rest alike. Its
    /// outputs: whether to go on, what is carried, and what is collected of each turn, with what this is after no turn.
    Loop { body: Arc<Program>, carried: usize, collected: Vec<Option<Nothing>> },
}

/// What is collected in no turn.
#[derive(Clone, PartialEq, Debug)]
pub struct Nothing {
    pub ty: Type,
    /// Whether it is of the numbers of strings.
    pub strings: bool,
}

type HostWork = dyn Fn(&[Option<Datum>], u64) -> Result<Vec<Datum>, Error> + Send + Sync;

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Host(_) => "host",
            Work::Loop { .. } => "loop",
        })
    }
}

/// The key of part `at` of the value of key `of`.
pub fn part_key(of: &Key, at: usize) -> Key {
    format!("{of}[{at}]").into()
}
