//! The patterns that come with the compiler, traced once in a process; and how the composites that rules recognise in code
//! are written most often, to explain near matches by.
//!
//! Rules in code stay where factors come in any order and number (gelu, hardswish) or where axes, shapes and heads are free (softmax,
//! norms, attention): a pattern would be needed for each way of writing them.

use std::{borrow::Cow, sync::LazyLock};

use super::{Pattern, Plain};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Value, builder::GraphBuilder},
    passes::{pipeline::SIMPLIFY, rewrite::Licence, rewrites_of},
    replacement::{Example, Match, Replacement, register_replacement},
    scalar::BinaryOp,
    shape::Type,
};

type B = GraphBuilder;
type Traced = Result<Vec<Value>, Error>;
type Make = fn(&mut B, &[Value], &[f64]) -> Traced;

/// Name, what is searched, what takes its place.
const ELEMENTWISE: &[(&str, Make, Make)] = &[
    ("sigmoid", |b, x, _| one(one_over_one_plus_exp(b, x[0])), |b, x, _| one(b.sigmoid(x[0]))),
    (
        "silu",
        |b, x, _| {
            let s = b.sigmoid(x[0])?;
            one(b.mul(x[0], s))
        },
        |b, x, _| one(b.silu(x[0])),
    ),
    (
        "silu-division",
        |b, x, _| {
            let sum = one_plus_exp_of_minus(b, x[0])?;
            one(b.div(x[0], sum))
        },
        |b, x, _| one(b.silu(x[0])),
    ),
    (
        "softplus",
        |b, x, _| {
            let e = b.exp(x[0])?;
            let sum = b.add_scalar(e, 1.0)?;
            one(b.log(sum))
        },
        |b, x, _| one(b.softplus(x[0])),
    ),
    (
        "tanh-sigmoid",
        |b, x, _| {
            let y = b.mul_scalar(x[0], 2.0)?;
            let s = b.sigmoid(y)?;
            let twice = b.mul_scalar(s, 2.0)?;
            one(b.with_scalar(BinaryOp::Sub, twice, 1.0))
        },
        |b, x, _| one(b.tanh(x[0])),
    ),
];

fn one(value: Result<Value, Error>) -> Traced {
    value.map(|it| vec![it])
}

fn one_plus_exp_of_minus(b: &mut B, x: Value) -> Result<Value, Error> {
    let e = b.neg(x)?;
    let e = b.exp(e)?;
    b.add_scalar(e, 1.0)
}

fn one_over_one_plus_exp(b: &mut B, x: Value) -> Result<Value, Error> {
    let sum = one_plus_exp_of_minus(b, x)?;
    b.reciprocal(sum)
}

/// Applied with the composites.
pub fn patterns() -> &'static [Pattern<'static>] {
    static PATTERNS: LazyLock<Vec<Pattern<'static>>> = LazyLock::new(|| {
        let made = ELEMENTWISE.iter().map(|(name, search, replacement)| {
            let example = Example::new([Type::new(DType::F32, [3, 5])]);
            let mut made = register_replacement(*name, search, replacement, &[example], |_: &Match| true)?;
            // One more evaluation of an elementwise operator costs less than what keeps it from being one.
            made.even_if_used = true;
            Pattern::new(Cow::Owned(made), plain(), Licence::Relaxed, false)
        });
        made.collect::<Result<_, Error>>().expect("a test builds each")
    });
    &PATTERNS
}

fn plain() -> Plain {
    vec![SIMPLIFY.iter().flat_map(rewrites_of).collect()]
}

/// How a composite that a rule recognises is written.
pub struct Written {
    /// The rule.
    pub name: &'static str,
    pub search: Make,
    /// Shapes of its inputs.
    inputs: &'static [&'static [usize]],
    numbers: &'static [f64],
}

/// Stands for any scale.
const SCALE: f64 = 0.113_377;

/// Stands for any eps.
const EPS: f64 = 0.001_377;

pub const WRITTEN: &[Written] = &[
    Written {
        name: "gelu",
        search: |b, x, _| {
            let y = b.mul_scalar(x[0], std::f64::consts::FRAC_1_SQRT_2)?;
            let y = b.erf(y)?;
            let y = b.add_scalar(y, 1.0)?;
            let half = b.mul_scalar(x[0], 0.5)?;
            one(b.mul(half, y))
        },
        inputs: &[&[3, 5]],
        numbers: &[],
    },
    Written {
        name: "gelu-tanh",
        search: |b, x, _| {
            let cube = b.with_scalar(BinaryOp::Pow, x[0], 3.0)?;
            let cube = b.mul_scalar(cube, 0.044715)?;
            let y = b.add(x[0], cube)?;
            let y = b.mul_scalar(y, (2.0 / std::f64::consts::PI).sqrt())?;
            let y = b.tanh(y)?;
            let y = b.add_scalar(y, 1.0)?;
            let half = b.mul_scalar(x[0], 0.5)?;
            one(b.mul(half, y))
        },
        inputs: &[&[3, 5]],
        numbers: &[],
    },
    Written {
        name: "hardswish",
        search: |b, x, _| {
            let y = b.add_scalar(x[0], 3.0)?;
            let y = b.relu(y)?;
            let y = b.with_scalar(BinaryOp::Min, y, 6.0)?;
            let y = b.mul(x[0], y)?;
            one(b.mul_scalar(y, 1.0 / 6.0))
        },
        inputs: &[&[3, 5]],
        numbers: &[],
    },
    Written {
        name: "softmax",
        search: |b, x, _| {
            let most = b.max(x[0], &[-1], true)?;
            let y = b.sub(x[0], most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[-1], true)?;
            one(b.div(e, sum))
        },
        inputs: &[&[3, 5]],
        numbers: &[],
    },
    Written {
        name: "log-softmax",
        search: |b, x, _| {
            let most = b.max(x[0], &[-1], true)?;
            let y = b.sub(x[0], most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[-1], true)?;
            let log = b.log(sum)?;
            one(b.sub(y, log))
        },
        inputs: &[&[3, 5]],
        numbers: &[],
    },
    Written {
        name: "layer-norm",
        search: |b, x, eps| {
            let mean = b.mean(x[0], &[-1], true)?;
            let d = b.sub(x[0], mean)?;
            let square = b.mul(d, d)?;
            let var = b.mean(square, &[-1], true)?;
            let sum = b.add_scalar(var, eps[0])?;
            let root = b.sqrt(sum)?;
            one(b.div(d, root))
        },
        inputs: &[&[3, 5]],
        numbers: &[EPS],
    },
    Written {
        name: "rms-norm",
        search: |b, x, eps| {
            let square = b.mul(x[0], x[0])?;
            let mean = b.mean(square, &[-1], true)?;
            let sum = b.add_scalar(mean, eps[0])?;
            let root = b.rsqrt(sum)?;
            one(b.mul(x[0], root))
        },
        inputs: &[&[3, 5]],
        numbers: &[EPS],
    },
    Written {
        name: "attention",
        search: |b, x, _| weighted(b, x, |_, scores| Ok(scores)),
        inputs: &[&[2, 3, 4, 5], &[2, 3, 5, 6], &[2, 3, 6, 7]],
        numbers: &[],
    },
    Written {
        name: "attention",
        search: |b, x, scale| weighted(b, x, |b, scores| b.mul_scalar(scores, scale[0])),
        inputs: &[&[2, 3, 4, 5], &[2, 3, 5, 6], &[2, 3, 6, 7]],
        numbers: &[SCALE],
    },
    Written {
        name: "attention",
        search: |b, x, scale| {
            weighted(b, x, |b, scores| {
                let scores = b.mul_scalar(scores, scale[0])?;
                b.add(scores, x[3])
            })
        },
        inputs: &[&[2, 3, 4, 5], &[2, 3, 5, 6], &[2, 3, 6, 7], &[4, 6]],
        numbers: &[SCALE],
    },
];

/// softmax(q k) v, with something done to the scores.
fn weighted(b: &mut B, x: &[Value], scored: impl FnOnce(&mut B, Value) -> Result<Value, Error>) -> Traced {
    let scores = b.matmul(x[0], x[1])?;
    let scores = scored(b, scores)?;
    let p = b.softmax(scores, -1)?;
    one(b.matmul(p, x[2]))
}

impl Written {
    /// Finds it; replaces nothing.
    pub fn pattern(&self) -> Result<Pattern<'static>, Error> {
        let inputs = self.inputs.iter().map(|it| Type::new(DType::F32, *it));
        let example = Example::new(inputs).with_numbers(self.numbers.iter().copied());
        let made = register_replacement(self.name, self.search, self.search, &[example], |_: &Match| false)?;
        Pattern::new(Cow::<Replacement>::Owned(made), plain(), Licence::Relaxed, false)
    }
}
