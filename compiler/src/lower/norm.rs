//! Softmax and the normalisations: statistics of a row, then the row.

use super::{Body, Coords, Lowering, NestKind, TensorId, vars, vars_from, wide};
use crate::{
    dtype::DType,
    graph::Value,
    index::Index,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::{Shape, Type},
};

/// Rows of a tensor: `space` numbers them, keeping an extent of 1 for each axis inside a row; `depth` is one row.
struct Rows {
    space: Shape,
    depth: Shape,
    /// Coordinates in the tensor of a row's element.
    at: Coords,
}

fn rows(shape: &Shape, inner: impl Fn(usize) -> bool) -> Rows {
    let space: Shape =
        shape.iter().enumerate().map(|(axis, &dim)| if inner(axis) { 1 } else { dim }).collect();
    let depth: Shape =
        shape.iter().enumerate().filter(|(axis, _)| inner(*axis)).map(|(_, &dim)| dim).collect();
    let (mut at, mut next) = (vars(&space), shape.rank());
    for axis in (0..shape.rank()).filter(|&it| inner(it)) {
        at[axis] = Index::var(next, shape[axis]);
        next += 1;
    }
    Rows { space, depth, at }
}

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, axis: usize, log: bool, x: Value, ty: Type) -> TensorId {
        let dtype = wide(ty.dtype);
        let Rows { space, depth, at } = rows(&ty.shape, |it| it == axis);
        let stat = Type { dtype, shape: space.clone() };

        let mut body = Body::default();
        let value = self.read_wide(&mut body, x, at.clone());
        let reduce = NestKind::Reduce { depth: depth.clone(), op: ReduceOp::Max, value };
        let max = self.nest(stat.clone(), body, reduce);

        let mut body = Body::default();
        let value = self.read_wide(&mut body, x, at);
        let top = self.load(&mut body, max, vars(&space));
        let value = body.binary(BinaryOp::Sub, value, top);
        let value = body.unary(UnaryOp::Exp, value);
        let sum = self.nest(stat, body, NestKind::Reduce { depth, op: ReduceOp::Sum, value });

        let mut body = Body::default();
        let point = vars(&ty.shape);
        let row = super::broadcast(&space, &point);
        let value = self.read_wide(&mut body, x, point);
        let (max, sum) = (self.load(&mut body, max, row.clone()), self.load(&mut body, sum, row));
        let value = body.binary(BinaryOp::Sub, value, max);
        let value = if log {
            let sum = body.unary(UnaryOp::Log, sum);
            body.binary(BinaryOp::Sub, value, sum)
        } else {
            let value = body.unary(UnaryOp::Exp, value);
            body.binary(BinaryOp::Div, value, sum)
        };
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }

    pub(super) fn layer_norm(
        &mut self,
        axis: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let Rows { space, depth, at } = rows(&ty.shape, |it| axis <= it);
        let count = depth.count() as f64;
        let stat = Type { dtype, shape: space.clone() };
        let (sum, squares) = self.moments(x, at, &space, depth, &stat);

        let mut body = Body::default();
        let point = vars(&ty.shape);
        let row = super::broadcast(&space, &point);
        let value = self.read_wide(&mut body, x, point.clone());
        let value = self.normalised(&mut body, value, sum, squares, row, count, eps);
        let value = self.scaled(&mut body, value, dtype, scale, bias, &point);
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }

    pub(super) fn rms_norm(
        &mut self,
        axis: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let Rows { space, depth, at } = rows(&ty.shape, |it| axis <= it);
        let count = depth.count() as f64;
        let mut body = Body::default();
        let value = self.read_wide(&mut body, x, at);
        let value = body.binary(BinaryOp::Mul, value, value);
        let stat = Type { dtype, shape: space.clone() };
        let squares = self.nest(stat, body, NestKind::Reduce { depth, op: ReduceOp::Sum, value });

        let mut body = Body::default();
        let point = vars(&ty.shape);
        let value = self.read_wide(&mut body, x, point.clone());
        let by = self.inverse_deviation(&mut body, squares, super::broadcast(&space, &point), count, eps);
        let value = body.binary(BinaryOp::Mul, value, by);
        let value = self.scaled(&mut body, value, dtype, scale, None, &point);
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }

    /// Normalised in the shape [n, group, channel of the group, spatial..], then seen as [n, c, spatial..].
    pub(super) fn group_norm(
        &mut self,
        groups: usize,
        eps: f64,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let (n, each) = (ty.shape[0], ty.shape[1] / groups);
        let split: Shape = [n, groups, each].into_iter().chain(ty.shape[2..].iter().copied()).collect();
        let space = Shape::new(&[n, groups]);
        let depth = Shape::new(&split[2..]);
        let joined = |point: &[Index]| -> Coords {
            let channel = point[1].mul(each as i64).add(&point[2]);
            [point[0].clone(), channel].into_iter().chain(point[3..].iter().cloned()).collect()
        };
        let row: Coords = vars(&space).into_iter().chain(vars_from(2, &depth)).collect();
        let stat = Type { dtype, shape: space.clone() };
        let count = depth.count() as f64;
        let (sum, squares) = self.moments(x, joined(&row), &space, depth, &stat);

        let mut body = Body::default();
        let point = vars(&split);
        let at = joined(&point);
        let value = self.read_wide(&mut body, x, at.clone());
        let value = self.normalised(&mut body, value, sum, squares, point[..2].into(), count, eps);
        let channel = &at[1..2];
        let value = self.scaled(&mut body, value, dtype, scale, bias, channel);
        let value = body.cast(ty.dtype, value);
        let normal = self.map(Type { dtype: ty.dtype, shape: split.clone() }, body, value);

        let mut body = Body::default();
        let linear = crate::index::linearise(&vars(&ty.shape), &ty.shape);
        let value = self.load(&mut body, normal, crate::index::delinearise(&linear, &split));
        self.map(ty, body, value)
    }

    pub(super) fn batch_norm(
        &mut self,
        eps: f64,
        x: Value,
        [scale, bias, mean, var]: [Value; 4],
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let mut body = Body::default();
        let point = vars(&ty.shape);
        let channel: Coords = point[1..2].into();
        let value = self.read_wide(&mut body, x, point);
        let mean = self.read_wide(&mut body, mean, channel.clone());
        let var = self.read_wide(&mut body, var, channel.clone());
        let var = body.cast(dtype, var);
        let eps = body.constant(dtype, eps);
        let var = body.binary(BinaryOp::Add, var, eps);
        let by = body.unary(UnaryOp::Rsqrt, var);
        let mean = body.cast(dtype, mean);
        let value = body.binary(BinaryOp::Sub, value, mean);
        let value = body.binary(BinaryOp::Mul, value, by);
        let value = self.scaled(&mut body, value, dtype, Some(scale), Some(bias), &channel);
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }

    /// Sum of each row, and sum of squared distances from its mean.
    fn moments(
        &mut self,
        x: Value,
        at: Coords,
        space: &Shape,
        depth: Shape,
        stat: &Type,
    ) -> (TensorId, TensorId) {
        let mut body = Body::default();
        let value = self.read_wide(&mut body, x, at.clone());
        let reduce = NestKind::Reduce { depth: depth.clone(), op: ReduceOp::Sum, value };
        let sum = self.nest(stat.clone(), body, reduce);

        let mut body = Body::default();
        let value = self.read_wide(&mut body, x, at);
        let distance = self.centred(&mut body, value, sum, vars(space), depth.count() as f64);
        let value = body.binary(BinaryOp::Mul, distance, distance);
        let squares = self.nest(stat.clone(), body, NestKind::Reduce { depth, op: ReduceOp::Sum, value });
        (sum, squares)
    }

    fn centred(
        &self,
        body: &mut Body,
        value: super::ExprId,
        sum: TensorId,
        row: Coords,
        count: f64,
    ) -> super::ExprId {
        let sum = self.load(body, sum, row);
        let count = body.constant(body.dtype(sum), count);
        let mean = body.binary(BinaryOp::Div, sum, count);
        body.binary(BinaryOp::Sub, value, mean)
    }

    fn inverse_deviation(
        &self,
        body: &mut Body,
        squares: TensorId,
        row: Coords,
        count: f64,
        eps: f64,
    ) -> super::ExprId {
        let squares = self.load(body, squares, row);
        let dtype = body.dtype(squares);
        let (count, eps) = (body.constant(dtype, count), body.constant(dtype, eps));
        let var = body.binary(BinaryOp::Div, squares, count);
        let var = body.binary(BinaryOp::Add, var, eps);
        body.unary(UnaryOp::Rsqrt, var)
    }

    #[expect(clippy::too_many_arguments, reason = "the terms of one formula")]
    fn normalised(
        &self,
        body: &mut Body,
        value: super::ExprId,
        sum: TensorId,
        squares: TensorId,
        row: Coords,
        count: f64,
        eps: f64,
    ) -> super::ExprId {
        let distance = self.centred(body, value, sum, row.clone(), count);
        let by = self.inverse_deviation(body, squares, row, count, eps);
        body.binary(BinaryOp::Mul, distance, by)
    }

    fn scaled(
        &self,
        body: &mut Body,
        mut value: super::ExprId,
        dtype: DType,
        scale: Option<Value>,
        bias: Option<Value>,
        at: &[Index],
    ) -> super::ExprId {
        for (operand, op) in [(scale, BinaryOp::Mul), (bias, BinaryOp::Add)] {
            if let Some(operand) = operand {
                let read = self.read_broadcast(body, operand, at);
                let read = body.cast(dtype, read);
                value = body.binary(op, value, read);
            }
        }
        value
    }

    /// The element of `value` at `at`, in the type that statistics are kept in.
    pub(super) fn read_wide(&self, body: &mut Body, value: Value, at: Coords) -> super::ExprId {
        let read = self.read(body, value, at);
        body.cast(wide(self.dtype(value)), read)
    }
}
