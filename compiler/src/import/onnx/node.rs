//! One node of the file, as its conversion sees it: operands already made, attributes checked when asked for.

use std::{cell::Cell, collections::HashMap};

use super::{
    proto::{AttributeProto, TensorProto, attribute},
    tensor,
};
use crate::{
    bug,
    error::Error,
    graph::Value,
    import::{
        emit::Emit,
        host::Datum,
        strings::{Pool, Strings},
    },
    shape::{Axes, Shape},
    tensor::Tensor,
};

/// Attributes of a function's call, by the names that its body refers to.
pub type Arguments = HashMap<String, AttributeProto>;

pub struct Node<'a> {
    /// The name that errors give.
    pub name: &'a str,
    pub op: &'a str,
    pub domain: &'a str,
    /// The version of the node's domain.
    pub opset: i64,
    pub inputs: Vec<Option<Value>>,
    pub outputs: &'a [String],
    pub attributes: &'a [AttributeProto],
    pub arguments: &'a Arguments,
    /// Which of `attributes`, of the first 64, have been asked for.
    pub asked: Cell<u64>,
    /// Which of `inputs` are strings.
    pub strings: Vec<bool>,
    /// Whether the results are strings; where operands of operators that only move them are, they are in any case.
    pub makes_strings: Cell<bool>,
    /// The model's.
    pub pool: &'a Pool,
    /// How many bytes what the host computes may take.
    pub most: u64,
    /// The operand whose values the conversion has to know and does not.
    pub unknown: Cell<Option<usize>>,
}

/// Attributes that change nothing in an inference, or nothing for the types that are supported.
const WITHOUT_EFFECT: [&str; 12] = [
    "consumed_inputs",
    "is_test",
    "momentum",
    "precision",
    "ratio",
    "round_mode",
    "saturate",
    "seed",
    "softmax_precision",
    "sorted",
    "stash_type",
    "storage_order",
];

impl<'a> Node<'a> {
    /// The node without operands, its attributes not asked for.
    pub fn again(&self) -> Node<'a> {
        Node {
            inputs: Vec::new(),
            strings: Vec::new(),
            makes_strings: Cell::new(false),
            asked: Cell::new(0),
            unknown: Cell::new(None),
            ..*self
        }
    }

    pub fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::node(self.name, format!("{}: {what}", self.op))
    }

    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        let domain = if self.domain.is_empty() { "ai.onnx" } else { self.domain };
        Error::unsupported(format!("{domain}::{} (opset {})", self.op, self.opset), self.name, what)
    }

    pub fn input(&self, at: usize) -> Result<Value, Error> {
        self.opt(at).ok_or_else(|| self.error(format!("operand {at} is missing")))
    }

    pub fn opt(&self, at: usize) -> Option<Value> {
        self.inputs.get(at).copied().flatten()
    }

    /// Every operand; none may be missing.
    pub fn all(&self) -> Result<Vec<Value>, Error> {
        match self.inputs.is_empty() {
            true => Err(self.error("needs at least one operand")),
            false => (0..self.inputs.len()).map(|at| self.input(at)).collect(),
        }
    }

    /// Whether output `at` is named, and so may be used.
    pub fn wants(&self, at: usize) -> bool {
        self.outputs.get(at).is_some_and(|it| !it.is_empty())
    }

    /// The attribute `name`, with the value that the call gives if the node is in a function's body.
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        let at = self.attributes.iter().position(|it| it.name == name)?;
        let found = &self.attributes[at];
        if at < 64 {
            self.asked.set(self.asked.get() | 1 << at);
        }
        match found.ref_attr_name.is_empty() {
            true => Some(found),
            false => self.arguments.get(&found.ref_attr_name),
        }
    }

    /// An attribute that the conversion has not asked for would change the meaning.
    pub fn all_asked(&self) -> Result<(), Error> {
        let unknown = self.attributes.iter().enumerate().find(|(at, it)| {
            *at < 64 && self.asked.get() & 1 << at == 0 && !WITHOUT_EFFECT.contains(&it.name.as_str())
        });
        match unknown {
            Some((_, it)) => Err(self.unsupported(format!("the attribute '{}'", it.name))),
            None => Ok(()),
        }
    }

    fn typed(&self, name: &str, code: i32) -> Result<Option<&'a AttributeProto>, Error> {
        match self.attribute(name) {
            // Files older than IR version 2 leave the type out.
            Some(it) if it.r#type == code || it.r#type == 0 => Ok(Some(it)),
            Some(it) => {
                Err(self.error(format!("attribute '{name}' has type {}, {code} was expected", it.r#type)))
            }
            None => Ok(None),
        }
    }

    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, Error> {
        Ok(self.typed(name, attribute::INT)?.map(|it| it.i))
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, Error> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Error> {
        Ok(self.int(name, default as i64)? != 0)
    }

    pub fn opt_float(&self, name: &str) -> Result<Option<f64>, Error> {
        Ok(self.typed(name, attribute::FLOAT)?.map(|it| it.f as f64))
    }

    pub fn float(&self, name: &str, default: f64) -> Result<f64, Error> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    pub fn text(&self, name: &str, default: &'a str) -> Result<&'a str, Error> {
        match self.typed(name, attribute::STRING)? {
            None => Ok(default),
            Some(it) => std::str::from_utf8(&it.s)
                .map_err(|_| self.error(format!("attribute '{name}' is not text in UTF-8"))),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Error> {
        Ok(self.typed(name, attribute::INTS)?.map(|it| &it.ints[..]))
    }

    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>, Error> {
        Ok(self.typed(name, attribute::FLOATS)?.map(|it| it.floats.iter().map(|&it| it as f64).collect()))
    }

    /// Sizes: ints that may not be negative.
    pub fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, Error> {
        let Some(ints) = self.ints(name)? else { return Ok(None) };
        let sizes = ints.iter().map(|&it| self.size(it)).collect::<Result<_, _>>()?;
        Ok(Some(sizes))
    }

    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, Error> {
        let Some(found) = self.typed(name, attribute::TENSOR)? else { return Ok(None) };
        let proto: &TensorProto =
            found.t.as_deref().ok_or_else(|| self.error(format!("attribute '{name}' holds no tensor")))?;
        let at = format!("attribute '{name}' of node '{}'", self.name);
        tensor::tensor(proto, &at, &|_| None).map(Some)
    }

    /// Strings of an attribute.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, Error> {
        let Some(found) = self.typed(name, attribute::STRINGS)? else { return Ok(None) };
        let all = found.strings.iter().map(|it| std::str::from_utf8(it)).collect::<Result<_, _>>();
        all.map(Some).map_err(|_| self.error(format!("attribute '{name}' is not text in UTF-8")))
    }

    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// A tensor of numbers, those of strings included: the node's results are strings then.
    pub fn either(&self, name: &str) -> Result<Option<Tensor>, Error> {
        Ok(match self.value(name)? {
            None => None,
            Some(Datum::Tensor(tensor)) => Some(tensor),
            Some(Datum::Strings(strings)) => {
                self.makes_strings.set(true);
                Some(self.numbers(&strings)?)
            }
            Some(Datum::Sequence(_) | Datum::Optional(_)) => bug!("an attribute's tensor is none"),
        })
    }

    /// The numbers of strings that the model has, which are the node's results then.
    pub fn entered(&self, shape: impl Into<Shape>, all: &[&str]) -> Result<Tensor, Error> {
        let strings = Strings::new(shape, all.iter().copied());
        self.makes_strings.set(true);
        self.numbers(&strings.ok_or_else(|| self.error("has strings of another number"))?)
    }

    /// A tensor of any type.
    pub fn value(&self, name: &str) -> Result<Option<Datum>, Error> {
        let Some(found) = self.typed(name, attribute::TENSOR)? else { return Ok(None) };
        let proto: &TensorProto =
            found.t.as_deref().ok_or_else(|| self.error(format!("attribute '{name}' holds no tensor")))?;
        let at = format!("attribute '{name}' of node '{}'", self.name);
        tensor::value(proto, &at, &|_| None).map(Some)
    }

    /// The numbers of strings that the model has.
    pub fn numbers(&self, strings: &Strings) -> Result<Tensor, Error> {
        self.pool.numbers(strings).ok_or_else(|| self.error("has strings that the model has not"))
    }

    /// Whether operand `at` is of strings.
    pub fn is_strings(&self, at: usize) -> bool {
        self.strings.get(at).is_some_and(|it| *it)
    }

    pub fn size(&self, value: i64) -> Result<usize, Error> {
        usize::try_from(value).map_err(|_| self.error(format!("{value} is no size")))
    }

    /// Axis `raw` of `rank`, counted from the end if negative.
    pub fn axis(&self, raw: i64, rank: usize) -> Result<usize, Error> {
        let axis = if raw < 0 { raw.checked_add(rank as i64) } else { Some(raw) };
        (axis.and_then(|it| usize::try_from(it).ok()).filter(|it| *it < rank))
            .ok_or_else(|| self.error(format!("axis {raw} does not exist in rank {rank}")))
    }

    /// Sorted; each once.
    pub fn axes(&self, raw: &[i64], rank: usize) -> Result<Axes, Error> {
        let mut axes = raw.iter().map(|&it| self.axis(it, rank)).collect::<Result<Axes, Error>>()?;
        axes.sort_unstable();
        match axes.windows(2).all(|it| it[0] != it[1]) {
            true => Ok(axes),
            false => Err(self.error(format!("axes {raw:?} name one axis twice"))),
        }
    }

    /// The values of operand `at`, which must not depend on the model's inputs.
    pub fn literal(&self, e: &Emit, at: usize) -> Result<Option<Tensor>, Error> {
        let Some(value) = self.opt(at) else { return Ok(None) };
        match e.literal(value) {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(self.unknown(e, at, value)),
        }
    }

    fn unknown(&self, e: &Emit, at: usize, value: Value) -> Error {
        self.unknown.set(Some(at));
        self.unsupported(format!(
            "operand {at} ({}) must follow from the shapes of the inputs alone, not from their values",
            e.graph.ty(value)
        ))
    }

    pub fn literal_ints(&self, e: &Emit, at: usize) -> Result<Option<Vec<i64>>, Error> {
        Ok(self.literal(e, at)?.map(|it| it.to_i64()))
    }

    pub fn literal_shape(&self, e: &Emit, at: usize) -> Result<Option<Shape>, Error> {
        let Some(dims) = self.literal_ints(e, at)? else { return Ok(None) };
        let dims = dims.into_iter().map(|it| self.size(it)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Shape::new(&dims)))
    }

    /// Ints that were an attribute before `since` and an operand from then on.
    pub fn ints_at(&self, e: &Emit, name: &str, since: i64, at: usize) -> Result<Option<Vec<i64>>, Error> {
        match self.opset < since {
            true => Ok(self.ints(name)?.map(<[i64]>::to_vec)),
            false => self.literal_ints(e, at),
        }
    }
}
