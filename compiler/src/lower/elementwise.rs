//! Elementwise ops and reductions along axes.

use super::{Body, Expr, Lowering, NestKind, TensorId, vars, vars_from, wide};
use crate::{
    dtype::DType,
    graph::{Op, Value},
    index::{Index, linearise},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::{Shape, Type},
};

impl Lowering<'_> {
    /// A constant of one element, which somebody reads as a tensor.
    pub(super) fn copy(&mut self, value: Value, ty: Type) -> TensorId {
        let mut body = Body::default();
        let read = self.read(&mut body, value, vars(&ty.shape));
        self.map(ty, body, read)
    }

    pub(super) fn elementwise(&mut self, op: Op, ty: Type) -> TensorId {
        let mut body = Body::default();
        let at = vars(&ty.shape);
        let read = |body: &mut Body, value| self.read_broadcast(body, value, &at);
        let value = match op {
            Op::Unary(op, x) => {
                let x = read(&mut body, x);
                body.unary(op, x)
            }
            Op::Binary(op, x, y) => {
                let (x, y) = (read(&mut body, x), read(&mut body, y));
                body.binary(op, x, y)
            }
            Op::Select { cond, yes, no } => {
                let (cond, yes, no) = (read(&mut body, cond), read(&mut body, yes), read(&mut body, no));
                body.select(cond, yes, no)
            }
            Op::Cast { to, x } => {
                let x = read(&mut body, x);
                body.cast(to, x)
            }
            other => crate::bug!("{} is not elementwise", other.name()),
        };
        self.map(ty, body, value)
    }

    pub(super) fn random(&mut self, number: u32, key: Value, ty: Type) -> TensorId {
        let mut body = Body::default();
        let [low, high] =
            [0, 1].map(|word| self.read(&mut body, key, [Index::constant(word)].into_iter().collect()));
        let place = linearise(&vars(&ty.shape), &ty.shape);
        let place = body.add(Expr::Coord(place), DType::I32);
        let at = body.cast(DType::U32, place);
        let bits = body.add(Expr::Random { number, key: [low, high], at }, DType::U32);
        self.map(ty, body, bits)
    }

    pub(super) fn reduce(
        &mut self,
        op: ReduceOp,
        axes: &[usize],
        keep: bool,
        x: Value,
        ty: Type,
    ) -> TensorId {
        let sum = self.reduce_with(op, axes, keep, x, &ty.shape);
        self.narrow(sum, ty)
    }

    pub(super) fn mean(&mut self, axes: &[usize], keep: bool, x: Value, ty: Type) -> TensorId {
        let count: usize = axes.iter().map(|&axis| self.shape(x)[axis]).product();
        let sum = self.reduce_with(ReduceOp::Sum, axes, keep, x, &ty.shape);
        let mut body = Body::default();
        let sum = self.load(&mut body, sum, vars(&ty.shape));
        let count = body.constant(body.dtype(sum), count as f64);
        let mean = body.binary(BinaryOp::Div, sum, count);
        let mean = body.cast(ty.dtype, mean);
        self.map(ty, body, mean)
    }

    fn reduce_with(&mut self, op: ReduceOp, axes: &[usize], keep: bool, x: Value, out: &Shape) -> TensorId {
        let dtype = wide(self.dtype(x));
        let (at, depth) = self.reduced_point(axes, keep, x, out);
        let mut body = Body::default();
        let value = self.read(&mut body, x, at);
        let value = body.cast(dtype, value);
        let ty = Type { dtype, shape: out.clone() };
        self.nest(ty, body, NestKind::Reduce { depth, op, value })
    }

    /// Coordinates of `x` at a point of `out` and a point of the axes that are reduced, and the extents of these.
    fn reduced_point(&self, axes: &[usize], keep: bool, x: Value, out: &Shape) -> (super::Coords, Shape) {
        let shape = self.shape(x);
        let (mut depth, mut kept) = (Shape::scalar(), 0);
        let at = (0..shape.rank())
            .map(|axis| match axes.contains(&axis) {
                true => {
                    depth.0.push(shape[axis]);
                    kept += keep as usize;
                    Index::var(out.rank() + depth.rank() - 1, shape[axis])
                }
                false => {
                    kept += 1;
                    Index::var(kept - 1, shape[axis])
                }
            })
            .collect();
        (at, depth)
    }

    /// The extreme value first, then the first or last place that holds it.
    pub(super) fn arg_reduce(
        &mut self,
        largest: bool,
        last: bool,
        axis: usize,
        keep: bool,
        x: Value,
        ty: Type,
    ) -> TensorId {
        let extreme = if largest { ReduceOp::Max } else { ReduceOp::Min };
        let best = self.reduce_with(extreme, &[axis], keep, x, &ty.shape);
        let (at, depth) = self.reduced_point(&[axis], keep, x, &ty.shape);
        let mut body = Body::default();
        let dtype = wide(self.dtype(x));
        let here = self.read(&mut body, x, at.clone());
        let here = body.cast(dtype, here);
        let best = self.load(&mut body, best, vars(&ty.shape));
        let mut found = body.binary(BinaryOp::Eq, here, best);
        if dtype.is_float() {
            // NaN is the extreme value where there is one, and equals nothing.
            let nan = body.unary(UnaryOp::IsNan, here);
            found = body.binary(BinaryOp::Or, found, nan);
        }
        let place = body.add(Expr::Coord(at[axis].clone()), DType::I64);
        let never = body.constant(DType::I64, if last { -1.0 } else { depth.count() as f64 });
        let value = body.select(found, place, never);
        let op = if last { ReduceOp::Max } else { ReduceOp::Min };
        self.nest(ty, body, NestKind::Reduce { depth, op, value })
    }

    /// Each element is a sum over the axis of what stands before it.
    pub(super) fn cumsum(
        &mut self,
        axis: usize,
        exclusive: bool,
        reverse: bool,
        x: Value,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let depth = Shape::new(&[ty.shape[axis]]);
        let mut body = Body::default();
        let own = body.add(Expr::Coord(Index::var(axis, ty.shape[axis])), DType::I64);
        let mut at = vars(&ty.shape);
        at[axis] = vars_from(ty.shape.rank(), &depth)[0].clone();
        let other = body.add(Expr::Coord(at[axis].clone()), DType::I64);
        let compare = match (reverse, exclusive) {
            (false, false) => BinaryOp::Le,
            (false, true) => BinaryOp::Lt,
            (true, false) => BinaryOp::Ge,
            (true, true) => BinaryOp::Gt,
        };
        let counts = body.binary(compare, other, own);
        let term = self.read(&mut body, x, at);
        let term = body.cast(dtype, term);
        let zero = body.constant(dtype, 0.0);
        let value = body.select(counts, term, zero);
        let wide = Type { dtype, shape: ty.shape.clone() };
        let sum = self.nest(wide, body, NestKind::Reduce { depth, op: ReduceOp::Sum, value });
        self.narrow(sum, ty)
    }
}
