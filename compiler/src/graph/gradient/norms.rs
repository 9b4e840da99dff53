//! Rules of norms and of attention.

use super::{Made, Reverse, refuse};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Axes,
};

impl Reverse<'_> {
    /// Halves as f32.
    fn wide(&mut self, x: Value) -> Made {
        match self.ty(x).dtype {
            DType::F16 | DType::BF16 => self.cast(x, DType::F32),
            _ => Ok(x),
        }
    }

    fn mean_of(&mut self, x: Value, axes: &[usize]) -> Made {
        self.add(Op::Mean { axes: Axes::from_slice(axes), keep: true, x })
    }

    /// 1 / sqrt(mean(x^2) + eps) along `axes`.
    fn scale_of(&mut self, x: Value, axes: &[usize], eps: f64) -> Made {
        let square = self.mul(x, x)?;
        let mean = self.mean_of(square, axes)?;
        let sum = self.with(BinaryOp::Add, mean, eps)?;
        self.unary_of(UnaryOp::Rsqrt, sum)
    }

    /// The derivative by what was `n` before it was divided by its root mean square, `r` being the reciprocal of that, of that by `n`.
    fn through_scale(&mut self, n: Value, r: Value, g: Value, axes: &[usize]) -> Made {
        let along = self.mul(g, n)?;
        let along = self.mean_of(along, axes)?;
        let along = self.mul(n, along)?;
        let rest = self.sub(g, along)?;
        self.mul(r, rest)
    }

    /// As `through_scale`, where the mean was taken away first.
    fn through_norm(&mut self, n: Value, r: Value, g: Value, axes: &[usize]) -> Made {
        let mean = self.mean_of(g, axes)?;
        let g = self.sub(g, mean)?;
        self.through_scale(n, r, g, axes)
    }

    /// `x` with mean 0 and variance 1 along `axes`, and the reciprocal of its deviation.
    fn standardised(&mut self, x: Value, axes: &[usize], eps: f64) -> Result<(Value, Value), Error> {
        let mean = self.mean_of(x, axes)?;
        let centred = self.sub(x, mean)?;
        let r = self.scale_of(centred, axes, eps)?;
        Ok((self.mul(centred, r)?, r))
    }

    /// `part` in the type of `x`, added up to its shape.
    fn give_wide(&mut self, x: Value, part: impl FnOnce(&mut Self) -> Made) -> Result<(), Error> {
        self.give(x, |r| {
            let part = part(r)?;
            let part = r.sum_to(part, &r.shape(x))?;
            r.cast(part, r.ty(x).dtype)
        })
    }

    pub fn layer_norm(
        &mut self,
        axis: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        let axes: Axes = (axis..self.shape(x).rank()).collect();
        let (from, g) = (self.wide(x)?, self.wide(g)?);
        let (n, r) = self.standardised(from, &axes, eps)?;
        if let Some(bias) = bias {
            self.give_wide(bias, |_| Ok(g))?;
        }
        let scaled = self.scaled_by(scale, n, g)?;
        self.give_wide(x, |it| it.through_norm(n, r, scaled, &axes))
    }

    pub fn rms_norm(
        &mut self,
        axis: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        let axes: Axes = (axis..self.shape(x).rank()).collect();
        let (from, g) = (self.wide(x)?, self.wide(g)?);
        let r = self.scale_of(from, &axes, eps)?;
        let n = self.mul(from, r)?;
        let scaled = self.scaled_by(scale, n, g)?;
        self.give_wide(x, |it| it.through_scale(n, r, scaled, &axes))
    }

    /// The derivative by `n` of that by `n` times `scale`, which gets its own.
    fn scaled_by(&mut self, scale: Option<Value>, n: Value, g: Value) -> Made {
        let Some(scale) = scale else { return Ok(g) };
        self.give_wide(scale, |r| r.mul(g, n))?;
        let scale = self.wide(scale)?;
        self.mul(g, scale)
    }

    pub fn group_norm(
        &mut self,
        groups: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
        g: Value,
    ) -> Result<(), Error> {
        let shape = self.shape(x);
        let each = shape[1..].iter().product::<usize>() / groups;
        let rows = [shape[0], groups, each];
        let (from, g) = (self.wide(x)?, self.wide(g)?);
        let from = self.reshape(from, &rows)?;
        let (n, r) = self.standardised(from, &[2], eps)?;
        if let Some(bias) = bias {
            self.give_wide(bias, |r| r.sum_but_channels(g))?;
        }
        let mut scaled = g;
        if let Some(scale) = scale {
            self.give_wide(scale, |r| {
                let n = r.reshape(n, &shape)?;
                let part = r.mul(g, n)?;
                r.sum_but_channels(part)
            })?;
            let scale = self.wide(scale)?;
            let scale = self.channels(scale, shape.rank())?;
            scaled = self.mul(g, scale)?;
        }
        self.give_wide(x, |it| {
            let scaled = it.reshape(scaled, &rows)?;
            let part = it.through_norm(n, r, scaled, &[2])?;
            it.reshape(part, &shape)
        })
    }

    /// One element a channel, to broadcast with tensors of `rank` axes.
    fn channels(&mut self, x: Value, rank: usize) -> Made {
        let mut shape = vec![1; rank];
        shape[1] = self.shape(x)[0];
        self.reshape(x, &shape)
    }

    /// `operands` are x, scale, bias, mean and variance.
    pub fn batch_norm(&mut self, eps: f64, operands: [Value; 5], g: Value) -> Result<(), Error> {
        let [x, scale, bias, mean, var] = operands;
        let rank = self.shape(x).rank();
        let g = self.wide(g)?;
        let spread = self.wide(var)?;
        let spread = self.with(BinaryOp::Add, spread, eps)?;
        let r = self.unary_of(UnaryOp::Rsqrt, spread)?;
        let factor = self.wide(scale)?;
        let factor = self.mul(factor, r)?;
        self.give_wide(x, |it| {
            let factor = it.channels(factor, rank)?;
            it.mul(g, factor)
        })?;
        self.give_wide(bias, |it| it.sum_but_channels(g))?;
        self.give_wide(mean, |it| {
            let sum = it.sum_but_channels(g)?;
            let sum = it.mul(sum, factor)?;
            it.neg(sum)
        })?;
        if !self.is_wanted(scale) && !self.is_wanted(var) {
            return Ok(());
        }
        let (from, middle) = (self.wide(x)?, self.wide(mean)?);
        let middle = self.channels(middle, rank)?;
        let centred = self.sub(from, middle)?;
        let along = self.mul(g, centred)?;
        let along = self.sum_but_channels(along)?;
        let along = self.mul(along, r)?;
        self.give_wide(scale, |_| Ok(along))?;
        self.give_wide(var, |it| {
            let part = it.mul(factor, r)?;
            let part = it.mul(part, along)?;
            it.with(BinaryOp::Mul, part, -0.5)
        })
    }

    pub fn attention(
        &mut self,
        scale: f64,
        [causal, zero_masked]: [bool; 2],
        [q, k, v]: [Value; 3],
        mask: Option<Value>,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        let (&[b, h, s, d], &[_, few, t, e]) = (&self.shape(q)[..], &self.shape(v)[..]) else {
            crate::bug!("attention without four axes")
        };
        // Heads that share keys beside each other: [b, few, h / few, .., ..].
        let each = h / few;
        let queries = self.wide(q)?;
        let queries = self.reshape(queries, &[b, few, each, s, d])?;
        let (keys, values) = (self.wide(k)?, self.wide(v)?);
        let keys = self.reshape(keys, &[b, few, 1, t, d])?;
        let values = self.reshape(values, &[b, few, 1, t, e])?;
        let g = self.wide(g)?;
        let g = self.reshape(g, &[b, few, each, s, e])?;

        let scaled = self.with(BinaryOp::Mul, queries, scale)?;
        let turned = self.turned(keys)?;
        let mut scores = self.add(Op::MatMul { a: scaled, b: turned })?;
        if let Some(mask) = mask {
            let mask = self.wide(mask)?;
            let mask = self.expand(mask, &[b, h, s, t])?;
            let mask = self.reshape(mask, &[b, few, each, s, t])?;
            scores = self.binary_of(BinaryOp::Add, scores, mask)?;
        }
        let low = self.number(self.ty(scores).dtype, f64::NEG_INFINITY);
        if causal {
            let (Some(row), Some(column)) = (self.iota(s, 0, 2), self.iota(t, 1, 2)) else {
                return Err(refuse(self.graph, y, "is causal over too many places"));
            };
            let last = self.with(BinaryOp::Add, row, t as f64 - s as f64)?;
            let seen = self.binary_of(BinaryOp::Le, column, last)?;
            scores = self.select(seen, scores, low)?;
        }
        let shares = match zero_masked {
            false => self.add(Op::Softmax { axis: 4, log: false, x: scores })?,
            true => {
                let axes = Axes::from_slice(&[4]);
                let most = self.add(Op::Reduce { op: ReduceOp::Max, axes, keep: true, x: scores })?;
                let none = self.binary_of(BinaryOp::Eq, most, low)?;
                let scores = self.unless(none, scores)?;
                let shares = self.add(Op::Softmax { axis: 4, log: false, x: scores })?;
                self.unless(none, shares)?
            }
        };

        self.give_wide(v, |r| {
            let turned = r.turned(shares)?;
            let part = r.add(Op::MatMul { a: turned, b: g })?;
            let part = r.sum(part, &[2], false)?;
            r.reshape(part, &[b, few, t, e])
        })?;
        if ![q, k].into_iter().chain(mask).any(|it| self.is_wanted(it)) {
            return Ok(());
        }
        let turned = self.turned(values)?;
        let by_shares = self.add(Op::MatMul { a: g, b: turned })?;
        let by_scores = self.through_softmax(4, shares, by_shares)?;
        if let Some(mask) = mask {
            self.give_wide(mask, |r| r.reshape(by_scores, &[b, h, s, t]))?;
        }
        self.give_wide(q, |r| {
            let part = r.add(Op::MatMul { a: by_scores, b: keys })?;
            let part = r.with(BinaryOp::Mul, part, scale)?;
            r.reshape(part, &[b, h, s, d])
        })?;
        self.give_wide(k, |r| {
            let turned = r.turned(by_scores)?;
            let part = r.add(Op::MatMul { a: turned, b: scaled })?;
            let part = r.sum(part, &[2], false)?;
            r.reshape(part, &[b, few, t, d])
        })
    }
}
