//! Convolution and pooling: sums and extremes over a window of the image.
//!
//! A place outside the image is a guarded read, which gives 0.

use smallvec::smallvec;

use super::{Body, Coords, Expr, ExprId, Lowering, NestKind, TensorId, vars, vars_from, wide};
use crate::{
    dtype::DType,
    graph::{PoolKind, Value, Window},
    index::{Index, delinearise, linearise},
    scalar::{BinaryOp, ReduceOp},
    shape::{Shape, Type},
};

impl Lowering<'_> {
    pub(super) fn conv(
        &mut self,
        window: &Window,
        groups: usize,
        x: Value,
        w: Value,
        bias: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let (image, kernel) = (self.shape(x).clone(), self.shape(w).clone());
        let (each_in, each_out) = (kernel[1], ty.shape[1] / groups.max(1));
        let split = GroupedSpace::new(&ty.shape, groups, each_out);
        let depth = Shape::new(&kernel[1..]);
        let (at, along) = (vars(&split.space), vars_from(split.space.rank(), &depth));
        let (group, out) = split.channel(&at);

        let mut x_at: Coords = smallvec![at[0].clone(), group.mul(each_in as i64).add(&along[0])];
        for (axis, place) in split.spatial(&at).iter().enumerate() {
            let reached = place.mul(window.strides[axis] as i64);
            let reached = reached.add(&along[1 + axis].mul(window.dilations[axis] as i64));
            x_at.push(reached.offset_by(-(window.before[axis] as i64)));
        }
        let w_at: Coords =
            [group.mul(each_out as i64).add(&out)].into_iter().chain(along.iter().cloned()).collect();

        let mut body = Body::default();
        let inside = self.inside(&mut body, &x_at, &image);
        let b = self.read_if(&mut body, x, x_at, inside);
        self.convolution(split, depth, w, w_at, body, b, bias, ty)
    }

    pub(super) fn conv_transpose(
        &mut self,
        window: &Window,
        groups: usize,
        x: Value,
        w: Value,
        bias: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let (image, kernel) = (self.shape(x).clone(), self.shape(w).clone());
        let (each_in, each_out) = (image[1] / groups.max(1), kernel[1]);
        let split = GroupedSpace::new(&ty.shape, groups, each_out);
        let depth: Shape = [each_in].into_iter().chain(kernel[2..].iter().copied()).collect();
        let (at, along) = (vars(&split.space), vars_from(split.space.rank(), &depth));
        let (group, out) = split.channel(&at);
        let channel = group.mul(each_in as i64).add(&along[0]);

        // Result place p gets x[i] where i * stride = p + before - k * dilation.
        let mut body = Body::default();
        let mut x_at: Coords = smallvec![at[0].clone(), channel.clone()];
        let mut guard = None;
        for (axis, place) in split.spatial(&at).iter().enumerate() {
            let stride = window.strides[axis] as i64;
            let reached = place.offset_by(window.before[axis] as i64);
            let reached = reached.add(&along[1 + axis].mul(-(window.dilations[axis] as i64)));
            x_at.push(reached.div(stride));
            if stride > 1 {
                let rest = body.add(Expr::Coord(reached.modulo(stride)), DType::I64);
                let zero = body.constant(DType::I64, 0.0);
                let whole = body.binary(BinaryOp::Eq, rest, zero);
                guard = body.and(guard, Some(whole));
            }
        }
        let inside = self.inside(&mut body, &x_at, &image);
        let guard = body.and(guard, inside);
        let b = self.read_if(&mut body, x, x_at, guard);
        let w_at: Coords = [channel, out].into_iter().chain(along[1..].iter().cloned()).collect();
        self.convolution(split, depth, w, w_at, body, b, bias, ty)
    }

    /// The sum over `depth` of `w` times what `body` reads of the image, the bias, and the grouped space seen as `ty`.
    #[expect(clippy::too_many_arguments, reason = "what both convolutions have found out")]
    fn convolution(
        &mut self,
        split: GroupedSpace,
        depth: Shape,
        w: Value,
        w_at: Coords,
        mut body: Body,
        b: ExprId,
        bias: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let a = self.read_wide(&mut body, w, w_at);
        let b = body.cast(dtype, b);
        let sum = Type { dtype, shape: split.space.clone() };
        let sum = self.nest(sum, body, NestKind::Contract { depth, a, b });

        let mut body = Body::default();
        let point = vars(&ty.shape);
        let own = delinearise(&linearise(&point, &ty.shape), &split.space);
        let mut value = self.load(&mut body, sum, own);
        if let Some(bias) = bias {
            let bias = self.read_wide(&mut body, bias, point[1..2].into());
            value = body.binary(BinaryOp::Add, value, bias);
        }
        let value = body.cast(ty.dtype, value);
        if bias.is_none() && ty.dtype == dtype && split.space == ty.shape {
            return sum;
        }
        self.map(ty, body, value)
    }

    pub(super) fn pool(
        &mut self,
        kind: PoolKind,
        window: &Window,
        kernel: &Shape,
        x: Value,
        ty: Type,
    ) -> TensorId {
        let dtype = wide(ty.dtype);
        let image = self.shape(x).clone();
        let (at, along) = (vars(&ty.shape), vars_from(ty.shape.rank(), kernel));
        let mut x_at: Coords = at[..2].into();
        for axis in 0..kernel.rank() {
            let first =
                at[2 + axis].mul(window.strides[axis] as i64).offset_by(-(window.before[axis] as i64));
            x_at.push(first.add(&along[axis].mul(window.dilations[axis] as i64)));
        }
        let mut body = Body::default();
        let inside = self.inside(&mut body, &x_at, &image);
        let read = self.read_if(&mut body, x, x_at, inside);
        let read = body.cast(dtype, read);
        let wide = Type { dtype, shape: ty.shape.clone() };
        let depth = kernel.clone();
        let count_padding = match kind {
            PoolKind::Max => {
                let lowest = body.add(Expr::Const(ReduceOp::Max.identity(dtype)), dtype);
                let value = inside.map_or(read, |it| body.select(it, read, lowest));
                let max = self.nest(wide, body, NestKind::Reduce { depth, op: ReduceOp::Max, value });
                return self.narrow(max, ty);
            }
            PoolKind::Average { count_padding } => count_padding,
        };
        let sum = self.nest(wide, body, NestKind::Reduce { depth, op: ReduceOp::Sum, value: read });
        let mut body = Body::default();
        let value = self.load(&mut body, sum, at.clone());
        let mut count = body.constant(dtype, 1.0);
        for axis in 0..kernel.rank() {
            let padding = if count_padding { (window.before[axis], window.after[axis]) } else { (0, 0) };
            let own =
                window_count(&mut body, window, axis, kernel[axis], image[2 + axis], &at[2 + axis], padding);
            let own = body.cast(dtype, own);
            count = body.binary(BinaryOp::Mul, count, own);
        }
        let value = body.binary(BinaryOp::Div, value, count);
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }
}

/// How many elements of the window at `place` lie inside the image widened by `padding`.
fn window_count(
    body: &mut Body,
    window: &Window,
    axis: usize,
    kernel: usize,
    size: usize,
    place: &Index,
    padding: (usize, usize),
) -> ExprId {
    let dilation = window.dilations[axis] as i64;
    let first =
        place.mul(window.strides[axis] as i64).offset_by(padding.0 as i64 - window.before[axis] as i64);
    let size = (size + padding.0 + padding.1) as i64;
    let (low, high) = first.range();
    if low >= 0 && high + (kernel as i64 - 1) * dilation < size {
        return body.constant(DType::I64, kernel as f64);
    }
    // Element k stands at first + k * dilation: from the first that is not negative to the last below size.
    let mut fixed = |value: i64| body.constant(DType::I64, value as f64);
    let (zero, one, minus_one) = (fixed(0), fixed(1), fixed(-1));
    let (round_up, by, end, last) =
        (fixed(dilation - 1), fixed(dilation), fixed(size - 1), fixed(kernel as i64 - 1));
    let first = body.add(Expr::Coord(first), DType::I64);
    let missing = body.binary(BinaryOp::Sub, zero, first);
    let missing = body.binary(BinaryOp::Max, missing, zero);
    let missing = body.binary(BinaryOp::Add, missing, round_up);
    let from = body.binary(BinaryOp::Div, missing, by);
    let room = body.binary(BinaryOp::Sub, end, first);
    let negative = body.binary(BinaryOp::Lt, room, zero);
    let steps = body.binary(BinaryOp::Div, room, by);
    let to = body.select(negative, minus_one, steps);
    let to = body.binary(BinaryOp::Min, to, last);
    let count = body.binary(BinaryOp::Sub, to, from);
    let count = body.binary(BinaryOp::Add, count, one);
    body.binary(BinaryOp::Max, count, zero)
}

/// The space of a convolution's result. With several groups of several channels each, [n, group, channel, spatial..]:
/// the group then is a variable of its own and the channels of a group are rows of a product.
struct GroupedSpace {
    space: Shape,
    groups: usize,
    is_split: bool,
}

impl GroupedSpace {
    fn new(out: &Shape, groups: usize, each: usize) -> GroupedSpace {
        let is_split = groups > 1 && each > 1;
        let space = match is_split {
            true => [out[0], groups, each].into_iter().chain(out[2..].iter().copied()).collect(),
            false => out.clone(),
        };
        GroupedSpace { space, groups, is_split }
    }

    /// Group, and channel within the group.
    fn channel(&self, at: &[Index]) -> (Index, Index) {
        match (self.is_split, self.groups) {
            (true, _) => (at[1].clone(), at[2].clone()),
            (false, 1) => (Index::constant(0), at[1].clone()),
            (false, _) => (at[1].clone(), Index::constant(0)),
        }
    }

    fn spatial<'a>(&self, at: &'a [Index]) -> &'a [Index] {
        &at[if self.is_split { 3 } else { 2 }..]
    }
}
