//! Models written in Rust.
//!
//! Methods take and give `Value`s under the names that the field uses. Axes may be negative and then count from the end;
//! elementwise operands broadcast under NumPy's rules. Every mistake is an error that names the node: the name given by
//! [`GraphBuilder::name`], or else the method's and a number.

mod views;
mod layers;
mod random;
mod gradient;

use super::{Graph, Op, Output, State, Value, random::KEY};
use crate::{
    bug,
    dtype::DType,
    error::Error,
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Axes, Shape, Type},
    tensor::Tensor,
};

pub use layers::Geometry;

/// Builds a [`Graph`] node by node.
///
/// ```
/// use wgfuse_compiler::{dtype::DType, graph::{builder::GraphBuilder, eval::eval}, tensor::Tensor};
///
/// # fn main() -> Result<(), wgfuse_compiler::error::Error> {
/// let mut b = GraphBuilder::new();
/// let x = b.input("x", DType::F32, [2, 3])?;
/// let weight = b.constant(Tensor::f32([2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, -1.0]).unwrap());
/// let bias = b.constant(Tensor::f32([2], &[0.5, 0.0]).unwrap());
/// let hidden = b.name("first").linear(x, weight, Some(bias))?;
/// let y = b.relu(hidden)?;
/// b.output("y", y)?;
/// let graph = b.finish()?;
///
/// let x = Tensor::f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
/// let y = eval(&graph, &[x])?;
/// assert_eq!(y[0].to_f32().unwrap(), [1.5, 0.0, 4.5, 0.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default, Debug)]
pub struct GraphBuilder {
    graph: Graph,
    name: Option<String>,
    made: usize,
    /// Random values made so far.
    randoms: u32,
    /// Each with whether it was updated.
    states: Vec<(Value, bool)>,
}

/// Methods that are one operator.
macro_rules! operators {
    (unary $($(#[$doc:meta])* $name:ident $op:ident;)+) => {
        impl GraphBuilder {
            $($(#[$doc])* pub fn $name(&mut self, x: Value) -> Result<Value, Error> {
                self.unary(UnaryOp::$op, x)
            })+
        }
    };
    (binary $($(#[$doc:meta])* $name:ident $op:ident;)+) => {
        impl GraphBuilder {
            $($(#[$doc])* pub fn $name(&mut self, a: Value, b: Value) -> Result<Value, Error> {
                self.binary(BinaryOp::$op, a, b)
            })+
        }
    };
}

operators! { unary
    neg Neg; abs Abs; sign Sign; exp Exp; log Log; sqrt Sqrt; rsqrt Rsqrt; reciprocal Recip; sin Sin; cos Cos; tanh Tanh;
    erf Erf; floor Floor; ceil Ceil;
    /// Halfway cases to even.
    round Round;
    logical_not Not; isnan IsNan; isinf IsInf; relu Relu; sigmoid Sigmoid; silu Silu; gelu Gelu;
    /// The tanh approximation of gelu.
    gelu_tanh GeluTanh;
    hardswish HardSwish; softplus Softplus;
}

operators! { binary
    add Add; sub Sub; mul Mul; div Div;
    /// With the sign of the divisor.
    remainder Mod;
    pow Pow; maximum Max; minimum Min; logical_and And; logical_or Or; eq Eq; ne Ne; lt Lt; le Le; gt Gt; ge Ge;
}

/// Leaves, elementwise ops and reductions.
impl GraphBuilder {
    pub fn new() -> GraphBuilder {
        GraphBuilder::default()
    }

    /// The next node is called `name` in errors and reports.
    pub fn name(&mut self, name: impl Into<String>) -> &mut GraphBuilder {
        self.name = Some(name.into());
        self
    }

    /// The type of a value made by this builder.
    pub fn ty(&self, value: Value) -> Result<&Type, Error> {
        ty(&self.graph, value)
    }

    /// Any op, whole.
    pub fn op(&mut self, op: Op) -> Result<Value, Error> {
        self.node(op.name(), |graph| graph.add(op))
    }

    pub fn input(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> Result<Value, Error> {
        let name = name.into();
        if name == KEY {
            return Err(Error::input(name, "the name is that of the random ops' key"));
        }
        if self.graph.inputs().iter().any(|it| it.name == name) {
            return Err(Error::input(name, "there is already an input of this name"));
        }
        self.graph.set_origin(&*name);
        self.graph.add_input(name, Type::new(dtype, shape))
    }

    /// A tensor that stays where the model runs, from one run to the next: what it is in this run. It is 0 before the first
    /// run, unless the session is told otherwise. `update` says what it is in the next.
    pub fn state(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> Result<Value, Error> {
        let value = self.input(name, dtype, shape)?;
        self.states.push((value, false));
        Ok(value)
    }

    /// `state` is `value`, which has its type, in the next run. One that is only ever read is updated with itself.
    pub fn update(&mut self, state: Value, value: Value) -> Result<(), Error> {
        let fail = |name: &str, what: String| Err(Error::node(name, what));
        let Some(number) = self.states.iter().position(|it| it.0 == state) else {
            return fail("update", "what is updated is no state".into());
        };
        let Op::Input { slot } = *self.graph.op(state) else { bug!("a state is an input") };
        let name = self.graph.inputs()[slot as usize].name.clone();
        if self.states[number].1 {
            return fail(&name, "the state is updated twice".into());
        }
        let (have, want) = (self.ty(value)?, self.ty(state)?);
        if have != want {
            return fail(&name, format!("the state is {want}, but {have} in the next run"));
        }
        self.output(name, value)?;
        self.states[number].1 = true;
        let output = self.graph.outputs.len() as u32 - 1;
        self.graph.states.push(State { input: slot, output });
        Ok(())
    }

    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let name = self.next_name("constant");
        self.graph.set_origin(name);
        self.graph.add_constant(tensor)
    }

    /// A scalar of `value`, rounded to `dtype`.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        self.constant(Tensor::scalar(dtype, Scalar::of(dtype, value)))
    }

    /// `value` everywhere.
    pub fn full(&mut self, dtype: DType, shape: impl Into<Shape>, value: f64) -> Result<Value, Error> {
        let shape = shape.into();
        self.node("full", |graph| {
            let x = graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, value)));
            graph.add(Op::Expand { shape, x })
        })
    }

    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value, Error> {
        self.op(Op::Unary(op, x))
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Value, Error> {
        self.op(Op::Binary(op, a, b))
    }

    /// `op` of `x` and a scalar of its dtype.
    pub fn with_scalar(&mut self, op: BinaryOp, x: Value, scalar: f64) -> Result<Value, Error> {
        self.node(op.name(), |graph| {
            let dtype = ty(graph, x)?.dtype;
            let scalar = graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, scalar)));
            graph.add(Op::Binary(op, x, scalar))
        })
    }

    pub fn add_scalar(&mut self, x: Value, scalar: f64) -> Result<Value, Error> {
        self.with_scalar(BinaryOp::Add, x, scalar)
    }

    pub fn mul_scalar(&mut self, x: Value, scalar: f64) -> Result<Value, Error> {
        self.with_scalar(BinaryOp::Mul, x, scalar)
    }

    /// `yes` where `cond`, else `no`.
    pub fn select(&mut self, cond: Value, yes: Value, no: Value) -> Result<Value, Error> {
        self.op(Op::Select { cond, yes, no })
    }

    pub fn cast(&mut self, x: Value, to: DType) -> Result<Value, Error> {
        self.op(Op::Cast { to, x })
    }

    pub fn reduce(&mut self, op: ReduceOp, x: Value, axes: &[isize], keep: bool) -> Result<Value, Error> {
        self.node("reduce", |graph| {
            let axes = all_axes(graph, x, axes)?;
            graph.add(Op::Reduce { op, axes, keep, x })
        })
    }

    pub fn sum(&mut self, x: Value, axes: &[isize], keep: bool) -> Result<Value, Error> {
        self.reduce(ReduceOp::Sum, x, axes, keep)
    }

    pub fn max(&mut self, x: Value, axes: &[isize], keep: bool) -> Result<Value, Error> {
        self.reduce(ReduceOp::Max, x, axes, keep)
    }

    pub fn min(&mut self, x: Value, axes: &[isize], keep: bool) -> Result<Value, Error> {
        self.reduce(ReduceOp::Min, x, axes, keep)
    }

    pub fn mean(&mut self, x: Value, axes: &[isize], keep: bool) -> Result<Value, Error> {
        self.node("mean", |graph| {
            let axes = all_axes(graph, x, axes)?;
            graph.add(Op::Mean { axes, keep, x })
        })
    }

    /// The first of the largest.
    pub fn argmax(&mut self, x: Value, axis: isize, keep: bool) -> Result<Value, Error> {
        self.node("argmax", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::ArgReduce { largest: true, last: false, axis, keep, x })
        })
    }

    /// The first of the smallest.
    pub fn argmin(&mut self, x: Value, axis: isize, keep: bool) -> Result<Value, Error> {
        self.node("argmin", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::ArgReduce { largest: false, last: false, axis, keep, x })
        })
    }

    pub fn cumsum(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("cumsum", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::CumSum { axis, exclusive: false, reverse: false, x })
        })
    }

    pub fn output(&mut self, name: impl Into<String>, value: Value) -> Result<(), Error> {
        let name = name.into();
        if self.graph.outputs.iter().any(|it| it.name == name) {
            return Err(Error::node(name, "there is already an output of this name"));
        }
        self.ty(value)?;
        self.graph.outputs.push(Output { name, value });
        Ok(())
    }

    /// The graph; one without outputs, or with a state that is never updated, is an error.
    pub fn finish(self) -> Result<Graph, Error> {
        if self.graph.outputs.is_empty() {
            return Err(Error::malformed("graph", "it has no outputs"));
        }
        if let Some((state, _)) = self.states.iter().find(|it| !it.1) {
            return Err(Error::node(&*self.graph.node(*state).origin, "the state is never updated"));
        }
        self.graph.with_key_last()
    }

    fn node<T>(&mut self, what: &str, make: impl FnOnce(&mut Graph) -> Result<T, Error>) -> Result<T, Error> {
        let name = self.next_name(what);
        self.graph.set_origin(name);
        make(&mut self.graph)
    }

    fn next_name(&mut self, what: &str) -> String {
        self.made += 1;
        self.name.take().unwrap_or_else(|| format!("{what}_{}", self.made))
    }
}

fn ty(graph: &Graph, value: Value) -> Result<&Type, Error> {
    match graph.nodes.get(value) {
        Some(node) => Ok(&node.ty),
        None => Err(Error::node(&*graph.origin(), "an operand was made by another builder")),
    }
}

fn resolve(graph: &Graph, axis: isize, rank: usize) -> Result<usize, Error> {
    let at = if axis < 0 { axis.checked_add_unsigned(rank).unwrap_or(-1) } else { axis };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => Err(Error::node(&*graph.origin(), format!("there is no axis {axis} of {rank}"))),
    }
}

fn one_axis(graph: &Graph, x: Value, axis: isize) -> Result<usize, Error> {
    resolve(graph, axis, ty(graph, x)?.shape.rank())
}

fn all_axes(graph: &Graph, x: Value, axes: &[isize]) -> Result<Axes, Error> {
    axes.iter().map(|&axis| one_axis(graph, x, axis)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval::eval;

    #[test]
    fn mistakes_name_the_node() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3]).unwrap();
        let y = b.input("y", DType::F32, [4]).unwrap();
        let message = |it: Result<Value, Error>| it.unwrap_err().to_string();
        let text = message(b.name("layer.0").add(x, y));
        assert_eq!(text, "node 'layer.0': add: [2,3] and [4] do not broadcast");
        assert_eq!(message(b.softmax(x, 2)), "node 'softmax_2': there is no axis 2 of 2");
        assert!(message(b.reshape(x, &[-1, 4])).contains("different numbers of elements"));
        assert!(message(b.reshape(x, &[-1, -1])).contains("not a shape"));
        assert!(message(b.reshape(x, &[-1, 0])).contains("cannot be told"));
        assert!(b.input("x", DType::F32, [1]).is_err());
        assert!(b.input("huge", DType::F32, [1 << 40, 1 << 40]).is_err());
        let mut other = GraphBuilder::new();
        assert!(message(other.relu(x)).contains("not in the graph"));
        assert!(b.max_pool(x, &[2], Geometry { stride: 0, ..Geometry::default() }).is_err());
        assert!(b.finish().is_err());
    }

    #[test]
    fn views_follow_python() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::I64, [2, 6]).unwrap();
        let tail = b.slice(x, -1, -2, 100).unwrap();
        let parts = b.split(x, 1, &[1, 5]).unwrap();
        let moved = b.transpose(parts[1], 0, 1).unwrap();
        let open = b.reshape(x, &[3, -1]).unwrap();
        for (name, value) in [("tail", tail), ("moved", moved), ("open", open)] {
            b.output(name, value).unwrap();
        }
        let values: Vec<i64> = (0..12).collect();
        let out = eval(&b.finish().unwrap(), &[Tensor::i64([2, 6], &values).unwrap()]).unwrap();
        assert_eq!(out[0].to_i64(), [4, 5, 10, 11]);
        assert_eq!(out[1].to_i64(), [1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
        assert_eq!(out[2].shape(), &Shape::from([3, 4]));
    }
}
