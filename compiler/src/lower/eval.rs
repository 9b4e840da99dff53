//! What loops mean, slowly: every nest at every point, one scalar at a time. The oracle for the scheduler.

use slotmap::{SecondaryMap, SlotMap};

use super::{Body, Coords, Definition, Expr, ExprId, Loops, NestKind, TensorId, TensorInfo};
use crate::{
    dtype::DType,
    index::{Atom, Index},
    random,
    scalar::{BinaryOp, ReduceOp, Scalar},
    tensor::Tensor,
};

/// Values of tensors, one scalar an element.
pub type Memory = SecondaryMap<TensorId, Vec<Scalar>>;

/// The outputs for the given inputs and constants of the partition.
pub fn eval(loops: &Loops, inputs: &[Tensor], constants: &[Tensor]) -> Vec<Tensor> {
    let mut memory = given(&loops.tensors, inputs, constants);
    for nest in &loops.nests {
        let roots = nest.kind.roots();
        let at = |body: &Body, vars: &[i64], memory: &Memory| {
            eval_body(body, &roots, vars, &[], &loops.tensors, memory)
        };
        let dtype = loops.tensors[nest.tensor].ty.dtype;
        let values = points(&nest.space)
            .map(|point| match &nest.kind {
                NestKind::Map { .. } => at(&nest.body, &point, &memory)[0],
                NestKind::Reduce { depth, op, .. } => {
                    let along =
                        points(depth).map(|inner| at(&nest.body, &joined(&point, &inner), &memory)[0]);
                    reduced(*op, dtype, along)
                }
                NestKind::Contract { depth, .. } => product(
                    dtype,
                    points(depth).map(|inner| {
                        let it = at(&nest.body, &joined(&point, &inner), &memory);
                        (it[0], it[1])
                    }),
                ),
                NestKind::Attention { keys, channels, scale, zero_masked, .. } => {
                    let spec = Attention {
                        keys: *keys,
                        channels: *channels,
                        scale: *scale,
                        zero_masked: *zero_masked,
                    };
                    attend(&spec, dtype, &point, |vars| at(&nest.body, vars, &memory)).0
                }
            })
            .collect();
        memory.insert(nest.tensor, values);
    }
    taken(&loops.tensors, &loops.outputs, &memory)
}

/// Memory that holds inputs and constants.
pub fn given(tensors: &SlotMap<TensorId, TensorInfo>, inputs: &[Tensor], constants: &[Tensor]) -> Memory {
    let mut memory = Memory::new();
    for (id, info) in tensors {
        let from = match info.definition {
            Definition::Input(slot) => &inputs[slot as usize],
            Definition::Constant(number) => &constants[number as usize],
            Definition::Nest(_) => continue,
        };
        memory.insert(id, from.scalars().collect());
    }
    memory
}

/// Tensors out of memory.
pub fn taken(tensors: &SlotMap<TensorId, TensorInfo>, ids: &[TensorId], memory: &Memory) -> Vec<Tensor> {
    ids.iter().map(|&id| Tensor::from_scalars(tensors[id].ty.clone(), memory[id].iter().copied())).collect()
}

/// `roots` at one point of the loop variables, where `Param(i)` is `params[i]`.
pub fn eval_body(
    body: &Body,
    roots: &[ExprId],
    vars: &[i64],
    params: &[Scalar],
    tensors: &SlotMap<TensorId, TensorInfo>,
    memory: &Memory,
) -> Vec<Scalar> {
    let needed = body.needed(roots.iter().copied());
    let mut values = vec![Scalar::Int(0); body.len()];
    for (id, expr, dtype) in body.iter() {
        if !needed[id.0 as usize] {
            continue;
        }
        let value = |it: ExprId| values[it.0 as usize];
        let index = |it: &Index| {
            it.eval(&mut |leaf| match leaf {
                Atom::Var { axis, .. } => vars[*axis as usize],
                Atom::Data { expr, .. } => value(ExprId(*expr)).as_i64(),
                Atom::Div(..) | Atom::Mod(..) => crate::bug!("{leaf} is not a leaf"),
            })
        };
        values[id.0 as usize] = match expr {
            Expr::Const(it) => *it,
            Expr::Coord(at) => Scalar::Int(index(at)),
            Expr::Load { guard: Some(guard), .. } if !value(*guard).as_bool() => Scalar::of(dtype, 0.0),
            Expr::Load { tensor, at, .. } => {
                let at: Vec<i64> = at.iter().map(index).collect();
                memory[*tensor][position(&at, &tensors[*tensor].ty.shape)]
            }
            Expr::Param(number) => params[*number as usize],
            Expr::Unary(op, x) => op.eval(body.dtype(*x), value(*x)),
            Expr::Binary(op, x, y) => op.eval(body.dtype(*x), value(*x), value(*y)),
            Expr::Select(cond, yes, no) => {
                if value(*cond).as_bool() {
                    value(*yes)
                } else {
                    value(*no)
                }
            }
            Expr::Random { number, key, at } => {
                let word = |it: ExprId| value(it).as_i64() as u32;
                Scalar::Int(i64::from(random::bits(key.map(word), *number, word(*at))))
            }
            Expr::Cast(x) => value(*x).cast(body.dtype(*x), dtype),
        };
    }
    roots.iter().map(|it| values[it.0 as usize]).collect()
}

/// The coordinates `at` in numbers, at one point of the loop variables; `data` gives the values of expressions.
pub fn eval_coords(at: &Coords, vars: &[i64], data: &mut dyn FnMut(ExprId) -> i64) -> Vec<i64> {
    let mut leaf = |leaf: &Atom| match leaf {
        Atom::Var { axis, .. } => vars[*axis as usize],
        Atom::Data { expr, .. } => data(ExprId(*expr)),
        Atom::Div(..) | Atom::Mod(..) => crate::bug!("{leaf} is not a leaf"),
    };
    at.iter().map(|it| it.eval(&mut leaf)).collect()
}

/// Row-major position. Panics outside the shape: bodies never read there.
pub fn position(at: &[i64], shape: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |sum, (&at, &dim)| {
        assert!((0..dim as i64).contains(&at), "{at} in an extent of {dim}");
        sum * dim + at as usize
    })
}

/// Every point of a space in row-major order.
pub fn points(space: &[usize]) -> impl Iterator<Item = Vec<i64>> {
    let space = space.to_vec();
    (0..space.iter().product::<usize>()).map(move |mut linear| {
        let mut point = vec![0; space.len()];
        for axis in (0..space.len()).rev() {
            point[axis] = (linear % space[axis]) as i64;
            linear /= space[axis];
        }
        point
    })
}

pub fn joined(a: &[i64], b: &[i64]) -> Vec<i64> {
    a.iter().chain(b).copied().collect()
}

/// Summed in f64 where `dtype` is a float, rounded once.
pub fn reduced(op: ReduceOp, dtype: DType, values: impl Iterator<Item = Scalar>) -> Scalar {
    let (of, start) = match dtype.is_float() {
        true => (DType::F64, op.identity(DType::F64)),
        false => (dtype, op.identity(dtype)),
    };
    let all = values.fold(start, |sum, it| op.combine().eval(of, sum, it));
    if dtype.is_float() { all.cast(DType::F64, dtype) } else { all }
}

pub fn product(dtype: DType, pairs: impl Iterator<Item = (Scalar, Scalar)>) -> Scalar {
    let of = if dtype.is_float() { DType::F64 } else { dtype };
    reduced(ReduceOp::Sum, dtype, pairs.map(|(a, b)| BinaryOp::Mul.eval(of, a, b)))
}

pub struct Attention {
    pub keys: usize,
    pub channels: usize,
    pub scale: f64,
    pub zero_masked: bool,
}

/// The result, and the logarithm of the sum of the exponentials of the scores. `at` gives q, k, v and, where there is one, the
/// mask at variables (batch, head, query, value channel, key, channel).
pub fn attend(
    spec: &Attention,
    dtype: DType,
    point: &[i64],
    at: impl Fn(&[i64]) -> Vec<Scalar>,
) -> (Scalar, Scalar) {
    let scores: Vec<f64> = (0..spec.keys as i64)
        .map(|key| {
            let parts = (0..spec.channels as i64).map(|channel| at(&joined(point, &[key, channel])));
            let dot: f64 = parts.map(|it| it[0].as_f64() * it[1].as_f64()).sum();
            let mask = at(&joined(point, &[key, 0])).get(3).map_or(0.0, |it| it.as_f64());
            dot * spec.scale + mask
        })
        .collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if spec.zero_masked && top == f64::NEG_INFINITY {
        return (Scalar::of(dtype, 0.0), Scalar::of(dtype, top));
    }
    let weights: Vec<f64> = scores.iter().map(|it| (it - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let value = |key: usize| at(&joined(point, &[key as i64, 0]))[2].as_f64();
    let total: f64 = weights.iter().enumerate().map(|(key, weight)| weight / sum * value(key)).sum();
    let log = if top == f64::NEG_INFINITY { top } else { top + sum.ln() };
    (Scalar::of(dtype, total), Scalar::of(dtype, log))
}
