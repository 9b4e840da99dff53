//! Derivatives by reverse-mode differentiation.
//!
//! In: a graph under construction, a value y of it and values xs. Out: for each x a value of its type, the derivative of the sum
//! of y's elements by x, made of nodes that are added; they are ops like any others, so that they can be derived again.
//! `pull` has the rule of every op: from the derivative by the op's result, those by its operands.
//!
//! Integers and `Bool` carry no derivative, and what is computed of them has none. An op whose rule existing ops cannot say is an
//! error, never a zero. Where a function has no derivative, the value is that of torch:
//!
//! - 0 for relu, abs and sign at 0, and for rounding everywhere; prod is derived exactly where factors are 0;
//! - the larger or smaller of two equal elements: half each (torch.maximum); of a reduction: the same share each (torch.amax);
//!   of a pooling: the first of a window;
//! - hardswish: 0 at -3 and 1 at 3.
//!
//! Norms and attention of f16 and bf16 are derived in f32.

mod scalar;
mod along;
mod views;
mod reads;
mod products;
mod windows;
mod norms;

use slotmap::SecondaryMap;

use super::{Graph, Op, Value, number};
use crate::{
    dtype::DType,
    error::Error,
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Axes, Shape, Type},
    tensor::Tensor,
};

/// The most nodes of one derivative: windows and long chains multiply.
const MAX_MADE: usize = 1 << 19;

/// For each of `xs` the derivative of the sum of `y`'s elements by it, of its type; 0 where `y` does not depend on it. Of an x that
/// depends on another x both have their whole derivative. Errors name the graph's origin.
pub fn gradient(graph: &mut Graph, y: Value, xs: &[Value]) -> Result<Vec<Value>, Error> {
    for (what, value) in xs.iter().map(|it| ("what is derived by", *it)).chain([("what is derived", y)]) {
        let ty = graph.nodes.get(value).map(|it| it.ty.clone());
        let ty = ty.ok_or_else(|| Error::node(&*graph.origin(), "an operand was made by another builder"))?;
        if !carries(ty.dtype) {
            let text = format!("gradient: {what} is {ty}, and {CARRYING} have derivatives");
            return Err(Error::node(&*graph.origin(), text));
        }
    }
    let Some(first) = xs.iter().map(|it| number(*it)).min() else { return Ok(Vec::new()) };
    let between = between(graph, y, first);
    let flows = flows(graph, &between, xs)?;
    let before = graph.len();
    let mut reverse = Reverse { graph, flows, derivatives: SecondaryMap::new() };
    reverse.give(y, |r| {
        let one = r.number(r.ty(y).dtype, 1.0);
        r.expand(one, &r.shape(y))
    })?;
    for value in between.into_iter().rev() {
        let Some(&g) = reverse.derivatives.get(value) else { continue };
        reverse.pull(value, g)?;
        if reverse.graph.len() - before > MAX_MADE {
            return Err(refuse(
                reverse.graph,
                value,
                &format!("and what follows take more than {MAX_MADE} nodes"),
            ));
        }
    }
    let of = |x: &Value| match reverse.derivatives.get(*x) {
        Some(found) => Ok(*found),
        None => {
            let zero = reverse.number(reverse.ty(*x).dtype, 0.0);
            reverse.expand(zero, &reverse.shape(*x))
        }
    };
    xs.iter().map(of).collect()
}

/// What `carries`, in words.
pub const CARRYING: &str = "only f16, bf16, f32 and f64";

/// Whether derivatives by values of this type are values of it.
pub fn carries(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

/// What `y` depends on and itself, operands before users, without nodes that are older than number `first`.
fn between(graph: &Graph, y: Value, first: u32) -> Vec<Value> {
    let mut seen = SecondaryMap::new();
    let mut all = Vec::new();
    let mut open = vec![y];
    while let Some(value) = open.pop() {
        if number(value) >= first && seen.insert(value, ()).is_none() {
            all.push(value);
            open.extend(graph.op(value).operands());
        }
    }
    all.sort_unstable_by_key(|it| number(*it));
    all
}

/// How a value depends on xs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// By floats all the way.
    Real,
    /// Only through integers or `Bool`: without derivative.
    Whole,
}

fn flows(graph: &Graph, between: &[Value], xs: &[Value]) -> Result<SecondaryMap<Value, Flow>, Error> {
    let mut flows: SecondaryMap<Value, Flow> = xs.iter().map(|it| (*it, Flow::Real)).collect();
    for &value in between {
        if flows.contains_key(value) {
            continue;
        }
        let op = graph.op(value);
        let (mut any, mut real) = (false, false);
        for operand in op.operands() {
            let flow = flows.get(operand).copied();
            any |= flow.is_some();
            real |= flow == Some(Flow::Real);
        }
        let dtype = graph.ty(value).dtype;
        if any && matches!(op, Op::Unary(UnaryOp::FromBits, _)) {
            return Err(refuse(graph, value, "reads bits, which are no function that has a derivative"));
        }
        if real && dtype.is_float() && !carries(dtype) {
            return Err(refuse(graph, value, "gives numbers that are too coarse to have derivatives"));
        }
        if any {
            flows.insert(value, if real && dtype.is_float() { Flow::Real } else { Flow::Whole });
        }
    }
    Ok(flows)
}

fn refuse(graph: &Graph, value: Value, why: &str) -> Error {
    let node = graph.node(value);
    let what = format!("gradient: {} of '{}' {why}", node.op.name(), node.origin);
    Error::node(&*graph.origin(), what)
}

type Made = Result<Value, Error>;

/// A graph that is derived, with what is known so far of the derivatives by its values.
struct Reverse<'a> {
    graph: &'a mut Graph,
    flows: SecondaryMap<Value, Flow>,
    derivatives: SecondaryMap<Value, Value>,
}

impl Reverse<'_> {
    /// Gives each operand of `y` its part of the derivative `g` by `y`.
    fn pull(&mut self, y: Value, g: Value) -> Result<(), Error> {
        let op = self.graph.op(y).clone();
        match op {
            Op::Input { slot: _ } | Op::Constant(_) => Ok(()),
            Op::Unary(op, x) => self.unary(op, x, y, g),
            Op::Binary(op, a, b) => self.binary(op, a, b, y, g),
            Op::Select { cond, yes, no } => self.select_by(cond, yes, no, g),
            Op::Cast { to: _, x } => self.give(x, |r| r.cast(g, r.ty(x).dtype)),
            // Integers.
            Op::Random { number: _, shape: _, key: _ }
            | Op::ArgReduce { largest: _, last: _, axis: _, keep: _, x: _ } => Ok(()),
            Op::Reduce { op, axes, keep: _, x } => self.reduce(op, &axes, x, y, g),
            Op::Mean { axes, keep: _, x } => self.mean(&axes, x, g),
            Op::CumSum { axis, exclusive, reverse, x } => {
                self.give(x, |r| r.add(Op::CumSum { axis, exclusive, reverse: !reverse, x: g }))
            }
            Op::Reshape { shape: _, x } => self.give(x, |r| r.reshape(g, &r.shape(x))),
            Op::Permute { order, x } => self.permuted(&order, x, g),
            // `give` adds up what was broadcast.
            Op::Expand { shape: _, x } => self.give(x, |_| Ok(g)),
            Op::Slice { starts, sizes: _, steps, x } => self.sliced(&starts, &steps, x, g),
            Op::Pad { before, after: _, mode, x, fill } => self.padded(&before, mode, x, fill, g),
            Op::Concat { axis, xs } => self.joined(axis, &xs, g),
            Op::Gather { axis, x, indices } => self.gathered(axis, x, indices, y, g),
            Op::GatherElements { axis, x, indices } => self.gathered_elements(axis, x, indices, y, g),
            Op::GatherNd { batch, x, indices } => self.gathered_nd(batch, x, indices, y, g),
            Op::MatMul { a, b } => self.product(a, b, g),
            Op::Conv { window, groups, x, w, bias } => self.conv(&window, groups, [x, w], bias, g),
            Op::ConvTranspose { window, groups, output: _, x, w, bias } => {
                self.conv_transpose(&window, groups, [x, w], bias, g)
            }
            Op::Pool { kind, window, kernel, output: _, x } => self.pool(kind, &window, &kernel, x, y, g),
            Op::Softmax { axis, log, x } => self.softmax(axis, log, x, y, g),
            Op::LayerNorm { axis, eps, x, scale, bias } => self.layer_norm(axis, eps.0, x, scale, bias, g),
            Op::RmsNorm { axis, eps, x, scale } => self.rms_norm(axis, eps.0, x, scale, g),
            Op::GroupNorm { groups, eps, x, scale, bias } => {
                self.group_norm(groups, eps.0, x, scale, bias, g)
            }
            Op::BatchNorm { eps, x, scale, bias, mean, var } => {
                self.batch_norm(eps.0, [x, scale, bias, mean, var], g)
            }
            Op::Attention { scale, causal, zero_masked, q, k, v, mask } => {
                self.attention(scale.0, [causal, zero_masked], [q, k, v], mask, y, g)
            }
        }
    }

    /// One more part of the derivative by `x`, added up where `x` was broadcast. It is made only if it is needed.
    fn give(&mut self, x: Value, part: impl FnOnce(&mut Self) -> Made) -> Result<(), Error> {
        if self.flows.get(x) != Some(&Flow::Real) || self.shape(x).contains(&0) {
            return Ok(());
        }
        let part = part(self)?;
        let part = self.sum_to(part, &self.shape(x))?;
        let whole = match self.derivatives.get(x) {
            Some(&other) => self.binary_of(BinaryOp::Add, other, part)?,
            None => part,
        };
        self.derivatives.insert(x, whole);
        Ok(())
    }

    fn is_wanted(&self, x: Value) -> bool {
        self.flows.get(x) == Some(&Flow::Real)
    }

    fn ty(&self, x: Value) -> &Type {
        self.graph.ty(x)
    }

    fn shape(&self, x: Value) -> Shape {
        self.ty(x).shape.clone()
    }

    fn add(&mut self, op: Op) -> Made {
        self.graph.add(op)
    }

    fn number(&mut self, dtype: DType, number: f64) -> Value {
        self.graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, number)))
    }

    fn unary_of(&mut self, op: UnaryOp, x: Value) -> Made {
        self.add(Op::Unary(op, x))
    }

    fn binary_of(&mut self, op: BinaryOp, a: Value, b: Value) -> Made {
        self.add(Op::Binary(op, a, b))
    }

    fn mul(&mut self, a: Value, b: Value) -> Made {
        self.binary_of(BinaryOp::Mul, a, b)
    }

    fn sub(&mut self, a: Value, b: Value) -> Made {
        self.binary_of(BinaryOp::Sub, a, b)
    }

    fn div(&mut self, a: Value, b: Value) -> Made {
        self.binary_of(BinaryOp::Div, a, b)
    }

    fn neg(&mut self, x: Value) -> Made {
        self.unary_of(UnaryOp::Neg, x)
    }

    /// `op` of `x` and a number of its type.
    fn with(&mut self, op: BinaryOp, x: Value, number: f64) -> Made {
        let number = self.number(self.ty(x).dtype, number);
        self.binary_of(op, x, number)
    }

    /// `number - x`
    fn minus(&mut self, number: f64, x: Value) -> Made {
        let number = self.number(self.ty(x).dtype, number);
        self.sub(number, x)
    }

    fn select(&mut self, cond: Value, yes: Value, no: Value) -> Made {
        self.add(Op::Select { cond, yes, no })
    }

    /// `x` where `cond`, else 0.
    fn only(&mut self, cond: Value, x: Value) -> Made {
        let zero = self.number(self.ty(x).dtype, 0.0);
        self.select(cond, x, zero)
    }

    /// 0 where `cond`, else `x`.
    fn unless(&mut self, cond: Value, x: Value) -> Made {
        let zero = self.number(self.ty(x).dtype, 0.0);
        self.select(cond, zero, x)
    }

    fn cast(&mut self, x: Value, to: DType) -> Made {
        if self.ty(x).dtype == to { Ok(x) } else { self.add(Op::Cast { to, x }) }
    }

    fn reshape(&mut self, x: Value, shape: &[usize]) -> Made {
        let shape = Shape::new(shape);
        if self.ty(x).shape == shape { Ok(x) } else { self.add(Op::Reshape { shape, x }) }
    }

    fn permute(&mut self, x: Value, order: &[usize]) -> Made {
        match order.iter().enumerate().all(|(at, axis)| at == *axis) {
            true => Ok(x),
            false => self.add(Op::Permute { order: Axes::from_slice(order), x }),
        }
    }

    fn expand(&mut self, x: Value, shape: &[usize]) -> Made {
        let shape = Shape::new(shape);
        if self.ty(x).shape == shape { Ok(x) } else { self.add(Op::Expand { shape, x }) }
    }

    fn sum(&mut self, x: Value, axes: &[usize], keep: bool) -> Made {
        match axes {
            [] => Ok(x),
            _ => self.add(Op::Reduce { op: ReduceOp::Sum, axes: Axes::from_slice(axes), keep, x }),
        }
    }

    /// What was broadcast from `shape`, added up to it.
    fn sum_to(&mut self, x: Value, shape: &[usize]) -> Made {
        let own = self.shape(x);
        let more = own.rank() - shape.len();
        let axes: Axes =
            (0..own.rank()).filter(|&it| it < more || shape[it - more] == 1 && own[it] != 1).collect();
        let summed = self.sum(x, &axes, false)?;
        self.reshape(summed, shape)
    }

    /// With an axis of size 1 wherever `axes` of `shape` were reduced.
    fn kept(&mut self, x: Value, axes: &[usize], shape: &[usize]) -> Made {
        let mut shape = Shape::new(shape);
        axes.iter().for_each(|it| shape.0[*it] = 1);
        self.reshape(x, &shape)
    }
}
