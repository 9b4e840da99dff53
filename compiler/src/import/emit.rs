//! Adding ops to a graph while importing: what follows from constants alone is computed at once, so that arithmetic on
//! shapes never reaches the graph. Weights are left as they are.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::{
    dtype::DType,
    error::Error,
    graph::{Graph, Op, Value, eval, infer},
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Axes, Shape, Type},
    tensor::Tensor,
};

/// The most elements that a folded op may read or make: integers and booleans, floats.
const MAX_INTS: usize = 1 << 20;
const MAX_FLOATS: usize = 1 << 15;
/// The most multiplications in a folded matrix product or convolution.
const MAX_WORK: usize = 1 << 16;
/// The most elements folded in one import; beyond it nothing more is folded.
const BUDGET: usize = 1 << 26;
/// Constants of at most this many bytes are compared by value.
const SMALL: usize = 1 << 12;
/// Broadcasts of a constant to more elements stay broadcasts.
const MAX_EXPANDED: usize = 64;

/// The longest sequence of places.
const MAX_IOTA: usize = 1 << 24;

/// A graph under construction.
pub struct Emit {
    pub graph: Graph,
    /// Sources of random values so far.
    pub randoms: u32,
    /// Bytes of constants that are not the file's.
    pub made: u64,
    small: HashMap<SmallKey, Value>,
    budget: usize,
}

type SmallKey = (Type, bytes::Bytes);

impl Default for Emit {
    fn default() -> Emit {
        Emit { graph: Graph::new(), randoms: 0, made: 0, small: HashMap::new(), budget: BUDGET }
    }
}

impl Emit {
    pub fn dtype(&self, x: Value) -> DType {
        self.graph.ty(x).dtype
    }

    pub fn shape(&self, x: Value) -> Shape {
        self.graph.ty(x).shape.clone()
    }

    pub fn rank(&self, x: Value) -> usize {
        self.graph.ty(x).shape.rank()
    }

    /// Adds `op`, or the constant that it makes.
    pub fn add(&mut self, op: Op) -> Result<Value, Error> {
        if let Some(tensor) = self.fold(&op)? {
            return Ok(self.compact(tensor));
        }
        self.graph.add(op)
    }

    /// The values of `x` if they are known now and few.
    pub fn literal(&self, x: Value) -> Option<Tensor> {
        if !is_small(self.graph.ty(x)) {
            return None;
        }
        match self.graph.op(x) {
            op @ Op::Expand { x: from, .. } => {
                let from = self.graph.as_constant(*from)?;
                Some(eval::eval_op(op, self.graph.ty(x), &[from]))
            }
            _ => self.graph.as_constant(x).cloned(),
        }
    }

    /// Whether `literal` gives values of this type once they are known.
    pub fn may_be_literal(ty: &Type) -> bool {
        is_small(ty)
    }

    fn is_known(&self, x: Value) -> bool {
        match *self.graph.op(x) {
            Op::Constant(_) => true,
            Op::Expand { x, .. } => self.graph.as_constant(x).is_some(),
            _ => false,
        }
    }

    fn fold(&mut self, op: &Op) -> Result<Option<Tensor>, Error> {
        let operands = op.operands();
        if operands.is_empty() || !operands.iter().all(|it| self.is_known(*it)) {
            return Ok(None);
        }
        let ty = infer::infer(&self.graph, op)
            .map_err(|what| Error::node(&*self.graph.origin(), format!("{}: {what}", op.name())))?;
        if let Op::Reshape { x, .. } = op
            && let Some(tensor) = self.graph.as_constant(*x)
        {
            return Ok(tensor.reshaped(ty.shape));
        }
        if !is_small(&ty) || operands.iter().any(|it| !is_small(self.graph.ty(*it))) {
            return Ok(None);
        }
        let cost = match op {
            Op::Expand { .. } if ty.shape.count() > MAX_EXPANDED => return Ok(None),
            Op::MatMul { a, .. } => {
                let depth = self.graph.ty(*a).shape.last().copied().unwrap_or(1);
                let cost = depth.saturating_mul(ty.shape.count());
                if cost > MAX_WORK {
                    return Ok(None);
                }
                cost
            }
            Op::Conv { w: by, .. } | Op::ConvTranspose { w: by, .. } | Op::Attention { k: by, .. } => {
                let cost = self.graph.ty(*by).shape.count().saturating_mul(ty.shape.count());
                if cost > MAX_WORK {
                    return Ok(None);
                }
                cost
            }
            Op::Pool { kernel, .. } => {
                let cost = kernel.checked_count().unwrap_or(usize::MAX).saturating_mul(ty.shape.count());
                if cost > MAX_WORK {
                    return Ok(None);
                }
                cost
            }
            _ => ty.shape.count() + operands.iter().map(|it| self.graph.ty(*it).shape.count()).sum::<usize>(),
        };
        let Some(left) = self.budget.checked_sub(cost) else {
            return Ok(None);
        };
        self.budget = left;
        let Some(tensors) = operands.iter().map(|it| self.literal(*it)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let tensors: Vec<_> = tensors.iter().collect();
        Ok(Some(eval::eval_op(op, &ty, &tensors)))
    }

    /// `tensor` as a constant, broadcast along the axes on which it does not vary.
    fn compact(&mut self, tensor: Tensor) -> Value {
        if tensor.shape().count() <= MAX_EXPANDED {
            return self.constant(tensor);
        }
        let full = tensor.shape().clone();
        let mut shape = full.clone();
        let mut data = tensor.data().clone();
        for axis in 0..full.rank() {
            let inner = shape[axis + 1..].iter().product::<usize>() * tensor.dtype().size();
            let row = inner * shape[axis];
            let same = |row: &[u8]| row[..row.len() - inner] == row[inner..];
            if shape[axis] > 1 && data.chunks_exact(row).all(same) {
                data = data.chunks_exact(row).flat_map(|it| it[..inner].iter().copied()).collect();
                shape.0[axis] = 1;
            }
        }
        let ty = Type { dtype: tensor.dtype(), shape };
        match Tensor::new(ty, data) {
            Some(less) if *less.shape() != full => {
                let x = self.constant(less);
                self.graph.add(Op::Expand { shape: full, x }).unwrap_or_else(|_| self.constant(tensor))
            }
            _ => self.constant(tensor),
        }
    }

    pub fn constant(&mut self, tensor: Tensor) -> Value {
        // What nobody else holds was made here.
        if tensor.data().is_unique() {
            self.made += tensor.data().len() as u64;
        }
        if tensor.data().len() > SMALL {
            return self.graph.add_constant(tensor);
        }
        let key = (tensor.ty().clone(), tensor.data().clone());
        match self.small.get(&key) {
            Some(&value) => value,
            None => {
                let value = self.graph.add_constant(tensor);
                self.small.insert(key, value);
                value
            }
        }
    }

    pub fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        self.constant(Tensor::scalar(dtype, Scalar::of(dtype, value)))
    }

    pub fn ints(&mut self, values: &[i64]) -> Value {
        let ty = Type::new(DType::I64, [values.len()]);
        self.constant(Tensor::from_scalars(ty, values.iter().map(|&it| Scalar::Int(it))))
    }

    /// Floats of `dtype`, as a vector.
    pub fn floats(&mut self, dtype: DType, values: &[f64]) -> Value {
        let ty = Type::new(dtype, [values.len()]);
        self.constant(Tensor::from_scalars(ty, values.iter().map(|&it| Scalar::of(dtype, it))))
    }

    /// 0, 1, .. `count` - 1 along `axis` of `rank`, elsewhere 1.
    pub fn iota(&mut self, dtype: DType, count: usize, axis: usize, rank: usize) -> Result<Value, Error> {
        if count > MAX_IOTA {
            let what = format!("counts {count} places, at most {MAX_IOTA} are counted");
            return Err(Error::node(&*self.graph.origin(), what));
        }
        let mut shape = Shape(SmallVec::from_elem(1, rank));
        shape.0[axis] = count;
        let values = (0..count as i64).map(|it| match dtype.is_float() {
            true => Scalar::Float(it as f64),
            false => Scalar::Int(it),
        });
        Ok(self.constant(Tensor::from_scalars(Type { dtype, shape }, values)))
    }

    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value, Error> {
        self.add(Op::Unary(op, x))
    }

    pub fn binary(&mut self, op: BinaryOp, x: Value, y: Value) -> Result<Value, Error> {
        self.add(Op::Binary(op, x, y))
    }

    /// `op` of `x` and a number of its type.
    pub fn with(&mut self, op: BinaryOp, x: Value, number: f64) -> Result<Value, Error> {
        let number = self.scalar(self.dtype(x), number);
        self.binary(op, x, number)
    }

    pub fn select(&mut self, cond: Value, yes: Value, no: Value) -> Result<Value, Error> {
        self.add(Op::Select { cond, yes, no })
    }

    pub fn cast(&mut self, x: Value, to: DType) -> Result<Value, Error> {
        match self.dtype(x) == to {
            true => Ok(x),
            false => self.add(Op::Cast { to, x }),
        }
    }

    /// Over no axes at all it is `x`.
    pub fn reduce(&mut self, op: ReduceOp, x: Value, axes: &Axes, keep: bool) -> Result<Value, Error> {
        match axes.is_empty() {
            true => Ok(x),
            false => self.add(Op::Reduce { op, axes: axes.clone(), keep, x }),
        }
    }

    pub fn mean(&mut self, x: Value, axes: &Axes, keep: bool) -> Result<Value, Error> {
        match axes.is_empty() {
            true => Ok(x),
            false => self.add(Op::Mean { axes: axes.clone(), keep, x }),
        }
    }

    pub fn reshape(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value, Error> {
        let shape = shape.into();
        match self.graph.ty(x).shape == shape {
            true => Ok(x),
            false => self.add(Op::Reshape { shape, x }),
        }
    }

    pub fn permute(&mut self, x: Value, order: &[usize]) -> Result<Value, Error> {
        match order.iter().enumerate().all(|(at, &it)| at == it) && order.len() == self.rank(x) {
            true => Ok(x),
            false => self.add(Op::Permute { order: order.into(), x }),
        }
    }

    /// `x` broadcast to exactly `shape`.
    pub fn expand(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value, Error> {
        let shape = shape.into();
        match self.graph.ty(x).shape == shape {
            true => Ok(x),
            false => self.add(Op::Expand { shape, x }),
        }
    }

    /// Elements `start`, `start + step`, .. along one axis.
    pub fn slice(
        &mut self,
        x: Value,
        axis: usize,
        start: usize,
        size: usize,
        step: i64,
    ) -> Result<Value, Error> {
        let shape = self.shape(x);
        if axis < shape.rank() && start == 0 && size == shape[axis] && step == 1 {
            return Ok(x);
        }
        let mut starts = SmallVec::from_elem(0, shape.rank());
        let mut steps = SmallVec::from_elem(1, shape.rank());
        let mut sizes = shape;
        // Of nothing, no start leaves the axis.
        (starts[axis], sizes.0[axis], steps[axis]) = (if size == 0 { 0 } else { start }, size, step);
        self.add(Op::Slice { starts, sizes, steps, x })
    }

    pub fn concat(&mut self, axis: usize, xs: &[Value]) -> Result<Value, Error> {
        match xs {
            [x] => Ok(*x),
            _ => self.add(Op::Concat { axis, xs: xs.into() }),
        }
    }

    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.add(Op::MatMul { a, b })
    }
}

fn is_small(ty: &Type) -> bool {
    let most = if ty.dtype.is_float() { MAX_FLOATS } else { MAX_INTS };
    ty.shape.checked_count().is_some_and(|it| it <= most)
}
