//! Distributions as ops on random bits.
//!
//! Everything is made of operations on integers, products that are exact, and at most one sum of floats, the last: drivers join
//! products with sums, and some add up in another order, and still give the same bits. Elements of f16 and bf16 are those of f32,
//! rounded; those of f64 have 53 random bits where they are uniform, and run on the processor.

use super::{Graph, Op, Value};
use crate::{
    dtype::DType,
    error::Error,
    random::NORMAL_STEP,
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// The input that holds the key of random ops, a U32 of two elements, which sessions fill.
pub const KEY: &str = "wgfuse.random_key";

impl Graph {
    /// The key of this graph's random ops: an input that is added when it is first asked for.
    pub fn random_key(&mut self) -> Result<Value, Error> {
        match self.random_key_slot() {
            Some(slot) => self.add(Op::Input { slot }),
            None => {
                let origin = self.origin.replace(KEY.into());
                let key = self.add_input(KEY, Type::new(DType::U32, [2]));
                self.origin = origin;
                key
            }
        }
    }

    /// Number of the input that holds the key, if there is one.
    pub fn random_key_slot(&self) -> Option<u32> {
        self.inputs.iter().position(|it| it.name == KEY).map(|it| it as u32)
    }

    /// The same graph, whose key is its last input: callers count the others.
    pub fn with_key_last(self) -> Result<Graph, Error> {
        let last = self.inputs.len() as u32;
        let Some(slot) = self.random_key_slot().filter(|it| it + 1 != last) else { return Ok(self) };
        let place = |it: u32| match it {
            it if it == slot => last - 1,
            it if it > slot => it - 1,
            it => it,
        };
        let mut inputs = self.inputs.clone();
        let key = inputs.remove(slot as usize);
        inputs.push(key);
        let mut to = self.with_inputs(inputs, place)?;
        to.states = self.states.clone();
        to.states.iter_mut().for_each(|it| it.input = place(it.input));
        Ok(to)
    }
}

/// Makes the values of one source of randomness.
pub struct Random<'a> {
    pub graph: &'a mut Graph,
    pub key: Value,
    /// Two numbers of ops are this one's, counted from twice this.
    pub number: u32,
}

impl Random<'_> {
    /// All bits are equally probable.
    pub fn bits(&mut self, shape: &Shape) -> Result<Value, Error> {
        let number = self.number.wrapping_mul(2);
        self.graph.add(Op::Random { number, shape: shape.clone(), key: self.key })
    }

    /// From 0 to 1, without 1: multiples of 2^-24 in f32, 2^-11 in f16, 2^-8 in bf16, 2^-53 in f64.
    pub fn uniform(&mut self, dtype: DType, shape: &Shape) -> Result<Value, Error> {
        let bits = self.bits(shape)?;
        match dtype {
            DType::F32 => self.fraction(bits, 24, dtype),
            DType::F16 => self.fraction(bits, 11, dtype),
            DType::BF16 => self.fraction(bits, 8, dtype),
            DType::F64 => {
                let number = self.number.wrapping_mul(2).wrapping_add(1);
                let rest = self.graph.add(Op::Random { number, shape: shape.clone(), key: self.key })?;
                let high = self.fraction(bits, 27, dtype)?;
                let low = self.fraction(rest, 26, dtype)?;
                let low = self.with(BinaryOp::Mul, low, 2f64.powi(-27))?;
                self.graph.add(Op::Binary(BinaryOp::Add, high, low))
            }
            _ => Err(self.refused(format!("{dtype} is no float"))),
        }
    }

    /// From `low` to `high`, without `high`.
    pub fn between(&mut self, dtype: DType, shape: &Shape, low: f64, high: f64) -> Result<Value, Error> {
        let (bottom, width) = (low as f32, (high - low) as f32);
        if !(low <= high && bottom.is_finite() && width.is_finite()) {
            return Err(self.refused(format!("from {low} to {high} is no range")));
        }
        if (low, high) == (0.0, 1.0) || dtype == DType::F64 {
            let uniform = self.uniform(dtype, shape)?;
            return match (low, high) {
                (0.0, 1.0) => Ok(uniform),
                _ => {
                    let scaled = self.with(BinaryOp::Mul, uniform, high - low)?;
                    self.with(BinaryOp::Add, scaled, low)
                }
            };
        }
        let bits = self.bits(shape)?;
        let steps = self.with(BinaryOp::Shr, bits, 8.0)?;
        let steps = self.cast(steps, DType::I32)?;
        let sum = self.scaled(steps, (2f64.powi(-24), 0.0), width, bottom)?;
        // Rounding may reach the end.
        let most = if width > 0.0 { (high as f32).next_down().max(bottom) } else { bottom };
        let inside = self.with(BinaryOp::Min, sum, f64::from(most))?;
        self.cast(inside, dtype)
    }

    /// Of the normal distribution with this mean and this standard deviation.
    pub fn normal(&mut self, dtype: DType, shape: &Shape, mean: f64, scale: f64) -> Result<Value, Error> {
        let (middle, width) = (mean as f32, scale as f32);
        if !dtype.is_float() || !middle.is_finite() || !width.is_finite() || scale < 0.0 {
            return Err(self.refused(format!("{dtype} with mean {mean} and deviation {scale}")));
        }
        let bits = self.bits(shape)?;
        let normal = self.graph.add(Op::Unary(UnaryOp::Normal, bits))?;
        if dtype == DType::F64 {
            let normal = self.cast(normal, dtype)?;
            let scaled = self.with(BinaryOp::Mul, normal, scale)?;
            return self.with(BinaryOp::Add, scaled, mean);
        }
        let step = f64::from(NORMAL_STEP);
        let made = match (mean, scale) {
            (0.0, 1.0) => normal,
            _ => {
                let steps = self.with(BinaryOp::Mul, normal, 1.0 / step)?;
                let steps = self.cast(steps, DType::I32)?;
                self.scaled(steps, (step, 2048.0), width, middle)?
            }
        };
        self.cast(made, dtype)
    }

    /// Whole numbers from `low` to `high`, without `high`: of a range of n each is as probable as any other to one part in 2^32/n.
    pub fn whole(&mut self, dtype: DType, shape: &Shape, low: i64, high: i64) -> Result<Value, Error> {
        let range = high.checked_sub(low).filter(|it| (1..=1 << 32).contains(it));
        let (true, Some(range)) = (matches!(dtype, DType::I32 | DType::I64), range) else {
            return Err(self.refused(format!("{dtype} from {low} to {high}")));
        };
        let ends = if dtype == DType::I32 { i64::from(i32::MIN)..1 << 31 } else { i64::MIN..i64::MAX };
        if !(ends.contains(&low) && ends.contains(&(high - 1))) {
            return Err(self.refused(format!("{dtype} does not hold {low} to {high}")));
        }
        let mut bits = self.bits(shape)?;
        if range < 1 << 32 {
            bits = self.with(BinaryOp::Rem, bits, range as f64)?;
        }
        let bits = self.cast(bits, dtype)?;
        let low = self.graph.add_constant(Tensor::scalar(dtype, Scalar::Int(low)));
        self.graph.add(Op::Binary(BinaryOp::Add, bits, low))
    }

    /// True with the probabilities `p`, which are floats.
    pub fn bernoulli(&mut self, p: Value) -> Result<Value, Error> {
        let shape = self.graph.ty(p).shape.clone();
        let (p, uniform) = (self.cast(p, DType::F32)?, self.uniform(DType::F32, &shape)?);
        self.graph.add(Op::Binary(BinaryOp::Lt, uniform, p))
    }

    /// `x` with each element 0 with probability `ratio` and else divided by 1 - `ratio`; and which elements are left.
    pub fn dropout(&mut self, x: Value, ratio: f64) -> Result<(Value, Value), Error> {
        let ty = self.graph.ty(x).clone();
        if !(0.0..1.0).contains(&ratio) || !ty.dtype.is_float() {
            return Err(self.refused(format!("{ty} with a ratio of {ratio}")));
        }
        let uniform = self.uniform(DType::F32, &ty.shape)?;
        let left = self.with(BinaryOp::Ge, uniform, f64::from(ratio as f32))?;
        let scaled = self.with(BinaryOp::Mul, x, 1.0 / (1.0 - ratio))?;
        let zero = self.graph.add_constant(Tensor::scalar(ty.dtype, Scalar::of(ty.dtype, 0.0)));
        Ok((self.graph.add(Op::Select { cond: left, yes: scaled, no: zero })?, left))
    }

    /// For each row of `logits` [n, c] `samples` numbers from 0 to c (I64), each with the probability that softmax gives it.
    pub fn multinomial(&mut self, logits: Value, samples: usize) -> Result<Value, Error> {
        let ty = self.graph.ty(logits).clone();
        let (&[rows, classes], true) = (&ty.shape[..], ty.dtype.is_float()) else {
            return Err(self.refused(format!("the logits are {ty}, not floats [rows, classes]")));
        };
        let wide = self.cast(logits, if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
        let x = self.graph.add(Op::Reshape { shape: [rows, 1, classes].into(), x: wide })?;
        // The largest of the logits, each with Gumbel's -ln(-ln u), u from 2^-24 to 1 - 2^-24.
        let bits = self.bits(&[rows, samples, classes].into())?;
        let odd = self.with(BinaryOp::Shr, bits, 9.0)?;
        let odd = self.cast(odd, DType::F32)?;
        let odd = self.with(BinaryOp::Add, odd, 0.5)?;
        let mut gumbel = self.with(BinaryOp::Mul, odd, 2f64.powi(-23))?;
        for _ in 0..2 {
            gumbel = self.graph.add(Op::Unary(UnaryOp::Log, gumbel))?;
            gumbel = self.graph.add(Op::Unary(UnaryOp::Neg, gumbel))?;
        }
        let gumbel = self.cast(gumbel, self.graph.ty(x).dtype)?;
        let sum = self.graph.add(Op::Binary(BinaryOp::Add, x, gumbel))?;
        self.graph.add(Op::ArgReduce { largest: true, last: false, axis: 2, keep: false, x: sum })
    }

    /// The upper `count` bits as a fraction.
    fn fraction(&mut self, bits: Value, count: u32, dtype: DType) -> Result<Value, Error> {
        let upper = self.with(BinaryOp::Shr, bits, f64::from(32 - count))?;
        let upper = self.cast(upper, dtype)?;
        self.with(BinaryOp::Mul, upper, 2f64.powi(-(count as i32)))
    }

    /// `offset + scale * step * steps` in f32, of `steps` (I32) of up to 24 bits and a sign. The product is one of integers, in steps
    /// of `step` times a power of two that is at most twice `scale`, rounded down after `add` 2^-12 of them were added.
    fn scaled(
        &mut self,
        steps: Value,
        (step, add): (f64, f64),
        scale: f32,
        offset: f32,
    ) -> Result<Value, Error> {
        let (mantissa, exponent) = parts(scale);
        let (upper, lower) = (f64::from(mantissa >> 12), f64::from(mantissa & 4095));
        let high = self.with(BinaryOp::Shr, steps, 12.0)?;
        let low = self.with(BinaryOp::And, steps, 4095.0)?;
        let least = self.with(BinaryOp::Mul, low, lower)?;
        let least = self.with(BinaryOp::Shr, least, 12.0)?;
        let (a, b) = (self.with(BinaryOp::Mul, high, lower)?, self.with(BinaryOp::Mul, low, upper)?);
        let middle = self.graph.add(Op::Binary(BinaryOp::Add, a, b))?;
        let middle = self.graph.add(Op::Binary(BinaryOp::Add, middle, least))?;
        let middle = self.with(BinaryOp::Add, middle, add)?;
        let middle = self.with(BinaryOp::Shr, middle, 12.0)?;
        let most = self.with(BinaryOp::Mul, high, upper)?;
        let product = self.graph.add(Op::Binary(BinaryOp::Add, most, middle))?;
        let product = self.cast(product, DType::F32)?;
        let product = self.with(BinaryOp::Mul, product, step * 2f64.powi(exponent))?;
        self.with(BinaryOp::Add, product, f64::from(offset))
    }

    fn with(&mut self, op: BinaryOp, x: Value, scalar: f64) -> Result<Value, Error> {
        let dtype = self.graph.ty(x).dtype;
        let scalar = self.graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, scalar)));
        self.graph.add(Op::Binary(op, x, scalar))
    }

    fn cast(&mut self, x: Value, to: DType) -> Result<Value, Error> {
        match self.graph.ty(x).dtype == to {
            true => Ok(x),
            false => self.graph.add(Op::Cast { to, x }),
        }
    }

    fn refused(&self, what: String) -> Error {
        Error::node(&*self.graph.origin(), what)
    }
}

/// `x` as a number of up to 2^24 times 2^-24 and a power of two. `x` is not negative.
fn parts(x: f32) -> (u32, i32) {
    if x < f32::MIN_POSITIVE {
        return (0, 0);
    }
    let (fraction, exponent) = (x.to_bits() & 0x007f_ffff, (x.to_bits() >> 23) as i32 - 126);
    match fraction {
        // Of a power of two no bit of the product is lost.
        0 => (1 << 24, exponent - 1),
        _ => (fraction | 0x0080_0000, exponent),
    }
}
