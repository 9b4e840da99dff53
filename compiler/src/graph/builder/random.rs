//! Methods that make random values.

use super::{GraphBuilder, Value};
use crate::{dtype::DType, error::Error, graph::random::Random, shape::Shape};

/// Random values. They follow from the seed of the session (`Session::set_seed`), the number of the run, and the order in which these
/// methods are called; every device makes the same bits of them, but for `multinomial`, whose logarithms may differ in the last place.
impl GraphBuilder {
    /// Bits (U32), all equally probable.
    pub fn random_bits(&mut self, shape: impl Into<Shape>) -> Result<Value, Error> {
        self.random("random_bits", |it| it.bits(&shape.into()))
    }

    /// Uniform from 0 to 1, without 1.
    pub fn rand(&mut self, dtype: DType, shape: impl Into<Shape>) -> Result<Value, Error> {
        self.random("rand", |it| it.uniform(dtype, &shape.into()))
    }

    /// Uniform from `low` to `high`, without `high`.
    pub fn uniform(
        &mut self,
        dtype: DType,
        shape: impl Into<Shape>,
        low: f64,
        high: f64,
    ) -> Result<Value, Error> {
        self.random("uniform", |it| it.between(dtype, &shape.into(), low, high))
    }

    /// Of the normal distribution with mean 0 and deviation 1: 2^32 different values, none beyond 6.34.
    pub fn randn(&mut self, dtype: DType, shape: impl Into<Shape>) -> Result<Value, Error> {
        self.random("randn", |it| it.normal(dtype, &shape.into(), 0.0, 1.0))
    }

    /// Of the normal distribution with this mean and standard deviation.
    pub fn normal(
        &mut self,
        dtype: DType,
        shape: impl Into<Shape>,
        mean: f64,
        deviation: f64,
    ) -> Result<Value, Error> {
        self.random("normal", |it| it.normal(dtype, &shape.into(), mean, deviation))
    }

    /// Whole numbers (I32 or I64) from `low` to `high`, without `high`.
    pub fn randint(
        &mut self,
        dtype: DType,
        shape: impl Into<Shape>,
        low: i64,
        high: i64,
    ) -> Result<Value, Error> {
        self.random("randint", |it| it.whole(dtype, &shape.into(), low, high))
    }

    /// True where chance has it, with the probabilities `p`.
    pub fn bernoulli(&mut self, p: Value) -> Result<Value, Error> {
        self.ty(p)?;
        self.random("bernoulli", |it| it.bernoulli(p))
    }

    /// As in training: each element of `x` becomes 0 with probability `ratio`; the others are divided by 1 - `ratio`. A model for
    /// inference leaves it out.
    pub fn dropout(&mut self, x: Value, ratio: f64) -> Result<Value, Error> {
        self.ty(x)?;
        self.random("dropout", |it| Ok(it.dropout(x, ratio)?.0))
    }

    /// For each row of `logits` [n, c] `samples` of the numbers from 0 to c (I64), with the probabilities that softmax gives them.
    pub fn multinomial(&mut self, logits: Value, samples: usize) -> Result<Value, Error> {
        self.ty(logits)?;
        self.random("multinomial", |it| it.multinomial(logits, samples))
    }

    fn random<T>(
        &mut self,
        what: &str,
        make: impl FnOnce(&mut Random) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let name = self.next_name(what);
        self.graph.set_origin(name);
        let key = self.graph.random_key()?;
        let number = self.randoms;
        self.randoms += 1;
        make(&mut Random { graph: &mut self.graph, key, number })
    }
}
