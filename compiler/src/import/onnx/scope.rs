//! What a node can see: names of its own graph, of the graphs around it, and the call that it is in.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
};

use super::{Opsets, node::Arguments, proto::NodeProto};
use crate::{
    graph::Value,
    import::stretch::{Key, part_key},
};

/// A value while its model is imported.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Empty for a part that was just made, until the whole gets its own.
    pub key: Key,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// An operand that a call leaves out.
    Absent,
    Tensor(Value),
    /// A tensor of strings: their numbers.
    Strings(Value),
    Sequence(Vec<Slot>),
    Optional(Option<Box<Slot>>),
    /// It depends on what is not known yet.
    Pending,
    /// It was there in an earlier stretch, and nothing needs it any more.
    Gone,
}

impl What {
    /// A tensor of strings if this is one, else of numbers.
    pub fn of_kind(&self, value: Value) -> What {
        if matches!(self, What::Strings(_)) { What::Strings(value) } else { What::Tensor(value) }
    }

    /// How many values a sequence consists of, those of which its parts consist included; 0 of what is no sequence.
    pub fn parts(&self) -> usize {
        match self {
            What::Sequence(all) => all.iter().map(|it| 1 + it.what.parts()).sum(),
            What::Optional(one) => one.iter().map(|it| it.what.parts()).sum(),
            _ => 0,
        }
    }

    /// The value as what the key `key` stands for: parts that were just made get keys of their own.
    pub fn keyed(self, key: &Key) -> What {
        let What::Sequence(mut all) = self else { return self };
        for (at, slot) in all.iter_mut().enumerate().filter(|it| it.1.key.is_empty()) {
            slot.key = part_key(key, at);
        }
        What::Sequence(all)
    }
}

/// The graph, or the function's body, that nodes are written in.
pub struct Home<'a> {
    /// Operands before users.
    pub nodes: &'a [NodeProto],
    /// Names of the inputs.
    pub given: HashSet<&'a str>,
    makers: OnceCell<HashMap<String, usize>>,
}

impl<'a> Home<'a> {
    pub fn new(nodes: &'a [NodeProto], given: impl IntoIterator<Item = &'a str>) -> Home<'a> {
        Home { nodes, given: given.into_iter().collect(), makers: OnceCell::new() }
    }

    /// Number of the node that makes `name`.
    pub fn maker(&self, name: &str) -> Option<usize> {
        let makers = self.makers.get_or_init(|| {
            let outputs = self.nodes.iter().enumerate();
            outputs.flat_map(|(at, node)| node.output.iter().map(move |it| (it.clone(), at))).collect()
        });
        makers.get(name).copied()
    }
}

pub struct Scope<'a> {
    pub values: HashMap<&'a str, Slot>,
    pub outer: Option<&'a Scope<'a>>,
    pub home: &'a Home<'a>,
    pub opsets: &'a Opsets,
    pub arguments: &'a Arguments,
    /// Names of the calls around, with '/' behind each.
    pub prefix: &'a str,
    /// Numbers of the nodes around, and of the turns of loops, with '.' behind each.
    pub path: &'a str,
    pub depth: usize,
}

impl Scope<'_> {
    /// No two values of a model have one key: names may hold anything, paths are digits and dots.
    pub fn key(&self, name: &str) -> Key {
        format!("{}:{name}", self.path).into()
    }
}
