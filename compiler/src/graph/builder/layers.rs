//! Methods that are layers of networks.

use smallvec::SmallVec;

use super::{GraphBuilder, one_axis, ty};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Graph, Op, PoolKind, Real, Value, Window},
    scalar::BinaryOp,
    shape::{Axes, Shape},
    tensor::Tensor,
};

/// Geometry of a convolution or pooling, the same along every spatial axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub stride: usize,
    /// Before and after.
    pub padding: usize,
    pub dilation: usize,
    /// Of convolutions only.
    pub groups: usize,
}

impl Default for Geometry {
    fn default() -> Geometry {
        Geometry { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// Layers.
impl GraphBuilder {
    /// `x` with `value`, of one element along `axis`, in place of its elements number `at` there; `at` is an integer of one
    /// element. Nothing is replaced where there is no such number. Of a state that becomes this only those elements are
    /// written.
    pub fn update_slice(&mut self, x: Value, axis: isize, at: Value, value: Value) -> Result<Value, Error> {
        let (of, by) = (self.ty(x)?.clone(), self.ty(at)?.clone());
        let axis = one_axis(&self.graph, x, axis)?;
        if by.shape.count() != 1 || !matches!(by.dtype, DType::I32 | DType::I64) {
            return Err(Error::node("update_slice", format!("the place is {by}, not one i32 or i64")));
        }
        let numbers: Vec<i64> = (0..of.shape[axis] as i64).collect();
        let mut shape = vec![1isize; of.shape.rank()];
        shape[axis] = -1;
        let numbers = self.constant(Tensor::i64([numbers.len()], &numbers).expect("as many"));
        let numbers = self.cast(numbers, by.dtype)?;
        let numbers = self.reshape(numbers, &shape)?;
        let at = self.reshape(at, &[])?;
        let here = self.eq(numbers, at)?;
        self.select(here, value, x)
    }

    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.op(Op::MatMul { a, b })
    }

    /// x [.., in], weight [out, in], bias [out]: x weight^T + bias.
    pub fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Result<Value, Error> {
        self.node("linear", |graph| {
            let b = graph.add(Op::Permute { order: Axes::from_slice(&[1, 0]), x: weight })?;
            let product = graph.add(Op::MatMul { a: x, b })?;
            match bias {
                Some(bias) => graph.add(Op::Binary(BinaryOp::Add, product, bias)),
                None => Ok(product),
            }
        })
    }

    /// x [n, c, spatial..], weight [m, c/groups, spatial..], bias [m]; one to three spatial axes.
    pub fn conv(
        &mut self,
        x: Value,
        weight: Value,
        bias: Option<Value>,
        geometry: Geometry,
    ) -> Result<Value, Error> {
        self.node("conv", |graph| {
            let window = geometry.window(ty(graph, x)?.shape.rank());
            graph.add(Op::Conv { window, groups: geometry.groups, x, w: weight, bias })
        })
    }

    /// [`GraphBuilder::conv`] with two spatial axes.
    pub fn conv2d(
        &mut self,
        x: Value,
        weight: Value,
        bias: Option<Value>,
        geometry: Geometry,
    ) -> Result<Value, Error> {
        self.node("conv2d", |graph| {
            let window = geometry.window(4);
            graph.add(Op::Conv { window, groups: geometry.groups, x, w: weight, bias })
        })
    }

    /// x [n, c, spatial..]; whole windows only.
    pub fn max_pool(&mut self, x: Value, kernel: &[usize], geometry: Geometry) -> Result<Value, Error> {
        self.node("max_pool", |graph| pool(graph, x, PoolKind::Max, kernel, geometry))
    }

    /// x [n, c, spatial..]; whole windows only, padding is counted as zeros.
    pub fn avg_pool(&mut self, x: Value, kernel: &[usize], geometry: Geometry) -> Result<Value, Error> {
        let kind = PoolKind::Average { count_padding: true };
        self.node("avg_pool", |graph| pool(graph, x, kind, kernel, geometry))
    }

    /// x [n, c, ..], the others [c].
    pub fn batch_norm(
        &mut self,
        x: Value,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
        eps: f64,
    ) -> Result<Value, Error> {
        self.op(Op::BatchNorm { eps: Real(eps), x, scale, bias, mean, var })
    }

    /// Over all axes from `axis` on.
    pub fn layer_norm(
        &mut self,
        x: Value,
        axis: isize,
        scale: Option<Value>,
        bias: Option<Value>,
        eps: f64,
    ) -> Result<Value, Error> {
        self.node("layer_norm", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::LayerNorm { axis, eps: Real(eps), x, scale, bias })
        })
    }

    /// Over all axes from `axis` on.
    pub fn rms_norm(
        &mut self,
        x: Value,
        axis: isize,
        scale: Option<Value>,
        eps: f64,
    ) -> Result<Value, Error> {
        self.node("rms_norm", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::RmsNorm { axis, eps: Real(eps), x, scale })
        })
    }

    /// x [n, c, ..], scale and bias [c].
    pub fn group_norm(
        &mut self,
        x: Value,
        groups: usize,
        scale: Option<Value>,
        bias: Option<Value>,
        eps: f64,
    ) -> Result<Value, Error> {
        self.op(Op::GroupNorm { groups, eps: Real(eps), x, scale, bias })
    }

    pub fn softmax(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("softmax", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::Softmax { axis, log: false, x })
        })
    }

    pub fn log_softmax(&mut self, x: Value, axis: isize) -> Result<Value, Error> {
        self.node("log_softmax", |graph| {
            let axis = one_axis(graph, x, axis)?;
            graph.add(Op::Softmax { axis, log: true, x })
        })
    }

    /// Scaled dot product attention: q [b, h, s, d], k [b, g, t, d], v [b, g, t, e], scores scaled by 1/sqrt(d), `mask`
    /// (floats) added to them.
    pub fn attention(
        &mut self,
        q: Value,
        k: Value,
        v: Value,
        mask: Option<Value>,
        causal: bool,
    ) -> Result<Value, Error> {
        self.node("attention", |graph| {
            let width = ty(graph, q)?.shape.last().copied().unwrap_or(1);
            let scale = Real(1.0 / (width.max(1) as f64).sqrt());
            graph.add(Op::Attention { scale, causal, zero_masked: false, q, k, v, mask })
        })
    }
}

impl Geometry {
    /// For operands of rank `rank`.
    fn window(self, rank: usize) -> Box<Window> {
        let all = |it| SmallVec::from_elem(it, rank.saturating_sub(2));
        Box::new(Window {
            strides: all(self.stride),
            dilations: all(self.dilation),
            before: all(self.padding),
            after: all(self.padding),
        })
    }
}

fn pool(
    graph: &mut Graph,
    x: Value,
    kind: PoolKind,
    kernel: &[usize],
    geometry: Geometry,
) -> Result<Value, Error> {
    let shape = ty(graph, x)?.shape.clone();
    let window = geometry.window(shape.rank());
    let fits = shape.rank() == kernel.len() + 2 && geometry.stride > 0;
    let sizes = (0..kernel.len()).map(|axis| window.positions(axis, shape[axis + 2], kernel[axis]));
    let output: Option<Shape> = if fits { sizes.collect() } else { None };
    let Some(output) = output else {
        let what = format!("a window of {kernel:?} and {geometry:?} finds no place in {shape}");
        return Err(Error::node(&*graph.origin(), what));
    };
    graph.add(Op::Pool { kind, window, kernel: Shape::new(kernel), output, x })
}
