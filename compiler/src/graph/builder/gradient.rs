//! Derivatives of what was built.

use super::{GraphBuilder, ty};
use crate::{
    error::Error,
    graph::{Value, gradient::gradient},
};

impl GraphBuilder {
    /// The derivative of `y` by each of `xs`, which are values that `y` was made from: inputs, states, constants, or anything between.
    /// Each has the type of its x. Where `y` has many elements it is that of their sum; where it does not depend on x, 0. Derivatives
    /// are values like others, so that they can be derived again.
    ///
    /// `y` and `xs` are f16, bf16, f32 or f64. An operator whose derivative other operators cannot say is an error that names it, as is
    /// a value of another builder. [`gradient`](crate::graph::gradient) says what holds at points where there is no derivative.
    ///
    /// ```
    /// use wgfuse_compiler::{dtype::DType, graph::{builder::GraphBuilder, eval::eval}, tensor::Tensor};
    ///
    /// # fn main() -> Result<(), wgfuse_compiler::error::Error> {
    /// let mut b = GraphBuilder::new();
    /// let x = b.input("x", DType::F32, [1, 2])?;
    /// let weight = b.input("weight", DType::F32, [3, 2])?;
    /// let made = b.linear(x, weight, None)?;
    /// let squares = b.mul(made, made)?;
    /// let loss = b.sum(squares, &[0, 1], false)?;
    /// let by_weight = b.gradient(loss, &[weight])?[0];
    /// b.output("by_weight", by_weight)?;
    ///
    /// let x = Tensor::f32([1, 2], &[1.0, 2.0]).unwrap();
    /// let weight = Tensor::f32([3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]).unwrap();
    /// let made = eval(&b.finish()?, &[x, weight])?;
    /// // 2 (x weight^T) x
    /// assert_eq!(made[0].to_f32().unwrap(), [2.0, 4.0, 4.0, 8.0, 6.0, 12.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn gradient(&mut self, y: Value, xs: &[Value]) -> Result<Vec<Value>, Error> {
        self.node("gradient", |graph| {
            xs.iter().chain([&y]).try_for_each(|it| ty(graph, *it).map(drop))?;
            gradient(graph, y, xs)
        })
    }
}
