//! Views, and reads at computed places: both are index arithmetic.

use super::{Body, Coords, Expr, ExprId, Lowering, TensorId, broadcast, vars};
use crate::{
    dtype::DType,
    graph::{Op, PadMode, Value},
    index::{Index, delinearise, linearise},
    scalar::{BinaryOp, UnaryOp},
    shape::{Shape, Type},
};

/// Operands of one concatenation: each is a buffer that the kernel binds, and a device may allow as few as eight.
const CONCAT_OPERANDS: usize = 6;

impl Lowering<'_> {
    pub(super) fn view(&mut self, op: Op, ty: Type) -> TensorId {
        let point = vars(&ty.shape);
        let (x, at): (Value, Coords) = match op {
            Op::Reshape { x, .. } => (x, delinearise(&linearise(&point, &ty.shape), self.shape(x))),
            Op::Permute { order, x } => {
                let mut at: Coords = point.clone();
                order.iter().zip(&point).for_each(|(&axis, it)| at[axis] = it.clone());
                (x, at)
            }
            Op::Expand { x, .. } => (x, broadcast(self.shape(x), &point)),
            Op::Slice { starts, steps, x, .. } => {
                let along = point.iter().zip(&starts).zip(&steps);
                (x, along.map(|((it, &start), &step)| it.mul(step).offset_by(start as i64)).collect())
            }
            other => crate::bug!("{} is not a view", other.name()),
        };
        let mut body = Body::default();
        let value = self.read(&mut body, x, at);
        self.map(ty, body, value)
    }

    pub(super) fn pad(
        &mut self,
        before: &[usize],
        mode: PadMode,
        x: Value,
        fill: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let shape = self.shape(x).clone();
        let mut body = Body::default();
        let moved: Coords =
            vars(&ty.shape).iter().zip(before).map(|(it, &by)| it.offset_by(-(by as i64))).collect();
        let value = match mode {
            PadMode::Constant => {
                let inside = self.inside(&mut body, &moved, &shape);
                let read = self.read_if(&mut body, x, moved, inside);
                match (inside, fill) {
                    (Some(inside), Some(fill)) => {
                        let fill = self.read_broadcast(&mut body, fill, &[]);
                        body.select(inside, read, fill)
                    }
                    (_, _) => read,
                }
            }
            PadMode::Edge | PadMode::Reflect | PadMode::Wrap => {
                let at = moved
                    .iter()
                    .zip(shape.iter())
                    .map(|(at, &dim)| folded(&mut body, mode, at, dim))
                    .collect();
                self.read(&mut body, x, at)
            }
        };
        self.map(ty, body, value)
    }

    pub(super) fn concat(&mut self, axis: usize, xs: &[Value], ty: Type) -> TensorId {
        let parts: Vec<(TensorId, usize)> =
            xs.iter().map(|&it| (self.tensors[it], self.shape(it)[axis])).collect();
        self.concat_tensors(axis, parts, ty)
    }

    fn concat_tensors(&mut self, axis: usize, mut parts: Vec<(TensorId, usize)>, ty: Type) -> TensorId {
        while parts.len() > CONCAT_OPERANDS {
            parts = parts
                .chunks(CONCAT_OPERANDS)
                .map(|chunk| {
                    let size = chunk.iter().map(|(_, size)| size).sum();
                    let mut ty = ty.clone();
                    ty.shape.0[axis] = size;
                    (self.concat_tensors(axis, chunk.to_vec(), ty), size)
                })
                .collect();
        }
        let mut body = Body::default();
        let point = vars(&ty.shape);
        let along = body.add(Expr::Coord(point[axis].clone()), DType::I64);
        let mut value = body.constant(ty.dtype, 0.0);
        let mut start = ty.shape[axis];
        for (at, (tensor, size)) in parts.into_iter().enumerate().rev() {
            let end = start;
            start -= size;
            if size == 0 {
                continue;
            }
            let (first, bound) =
                (body.constant(DType::I64, start as f64), body.constant(DType::I64, end as f64));
            let below = body.binary(BinaryOp::Lt, along, bound);
            let guard = match at {
                0 => below,
                _ => {
                    let above = body.binary(BinaryOp::Ge, along, first);
                    body.binary(BinaryOp::And, above, below)
                }
            };
            let mut own = point.clone();
            own[axis] = own[axis].offset_by(-(start as i64));
            let read = body.add(Expr::Load { tensor, at: own, guard: Some(guard) }, ty.dtype);
            value = match end == ty.shape[axis] {
                true => read,
                false => body.select(below, read, value),
            };
        }
        self.map(ty, body, value)
    }

    pub(super) fn gather(&mut self, axis: usize, x: Value, indices: Value, ty: Type) -> TensorId {
        let (shape, rank) = (self.shape(x).clone(), self.shape(indices).rank());
        let point = vars(&ty.shape);
        let mut body = Body::default();
        let place = self.place_of(&mut body, indices, point[axis..axis + rank].into(), shape[axis]);
        let at = (point[..axis].iter().cloned()).chain([place]).chain(point[axis + rank..].iter().cloned());
        let value = self.read(&mut body, x, at.collect());
        self.map(ty, body, value)
    }

    pub(super) fn gather_elements(&mut self, axis: usize, x: Value, indices: Value, ty: Type) -> TensorId {
        let size = self.shape(x)[axis];
        let mut at = vars(&ty.shape);
        let mut body = Body::default();
        at[axis] = self.place_of(&mut body, indices, at.clone(), size);
        let value = self.read(&mut body, x, at);
        self.map(ty, body, value)
    }

    pub(super) fn gather_nd(&mut self, batch: usize, x: Value, indices: Value, ty: Type) -> TensorId {
        let (shape, of) = (self.shape(x).clone(), self.shape(indices).clone());
        let (outer, depth) = (of.rank() - 1, of[of.rank() - 1]);
        let point = vars(&ty.shape);
        let mut body = Body::default();
        let mut at: Coords = point[..batch].into();
        for number in 0..depth {
            let mut own: Coords = point[..outer].into();
            own.push(Index::constant(number as i64));
            at.push(self.place_of(&mut body, indices, own, shape[batch + number]));
        }
        at.extend(point[outer..].iter().cloned());
        let value = self.read(&mut body, x, at);
        self.map(ty, body, value)
    }

    /// The index that stands in `indices` at `at`, for an axis of `size` elements: negative ones from the end, clamped.
    fn place_of(&self, body: &mut Body, indices: Value, at: Coords, size: usize) -> Index {
        let read = self.read(body, indices, at);
        let index = body.cast(DType::I64, read);
        let (zero, count) = (body.constant(DType::I64, 0.0), body.constant(DType::I64, size as f64));
        let negative = body.binary(BinaryOp::Lt, index, zero);
        let wrapped = body.binary(BinaryOp::Add, index, count);
        let index = body.select(negative, wrapped, index);
        clamped(body, index, size)
    }

    /// Whether `at` lies inside `shape`; `None` where that is always so.
    pub(super) fn inside(&self, body: &mut Body, at: &[Index], shape: &Shape) -> Option<ExprId> {
        at.iter().zip(shape.iter()).fold(None, |all, (at, &dim)| {
            let (low, high) = at.range();
            let mut all = all;
            for (needed, op, bound) in
                [(low < 0, BinaryOp::Ge, 0.0), (high >= dim as i64, BinaryOp::Lt, dim as f64)]
            {
                if needed {
                    let at = body.add(Expr::Coord(at.clone()), DType::I64);
                    let bound = body.constant(DType::I64, bound);
                    let holds = body.binary(op, at, bound);
                    all = body.and(all, Some(holds));
                }
            }
            all
        })
    }
}

/// `value` cut to 0..size, as an index.
fn clamped(body: &mut Body, value: ExprId, size: usize) -> Index {
    let last = size.saturating_sub(1);
    let (low, high) = (body.constant(DType::I64, 0.0), body.constant(DType::I64, last as f64));
    let value = body.binary(BinaryOp::Max, value, low);
    let value = body.binary(BinaryOp::Min, value, high);
    Index::data(value.0, 0, last as i64)
}

/// The place inside 0..dim that padding by `mode` reads for the place `at`.
fn folded(body: &mut Body, mode: PadMode, at: &Index, dim: usize) -> Index {
    let (low, high) = at.range();
    if 0 <= low && high < dim as i64 {
        return at.clone();
    }
    let last = dim as i64 - 1;
    match mode {
        PadMode::Wrap => at.modulo(dim as i64),
        PadMode::Edge | PadMode::Constant => {
            let value = body.add(Expr::Coord(at.clone()), DType::I64);
            clamped(body, value, dim)
        }
        PadMode::Reflect if last == 0 => Index::constant(0),
        // Mirrored with period 2*last: last - |last - (at mod period)|.
        PadMode::Reflect => {
            let value = body.add(Expr::Coord(at.modulo(2 * last)), DType::I64);
            let last = body.constant(DType::I64, last as f64);
            let value = body.binary(BinaryOp::Sub, last, value);
            let value = body.unary(UnaryOp::Abs, value);
            let value = body.binary(BinaryOp::Sub, last, value);
            clamped(body, value, dim)
        }
    }
}
