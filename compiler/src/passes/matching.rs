//! What rules ask about a graph.

use crate::{
    dtype::DType,
    graph::{Graph, Op, Value},
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Shape,
    tensor::Tensor,
};

/// Constants of more elements are not searched.
const SEARCHED: usize = 4096;

/// Nodes looked at before a value counts as not fixed.
const FIXED_LIMIT: usize = 64;

/// The one scalar that every element of a tensor is.
pub fn only(tensor: &Tensor) -> Option<Scalar> {
    let mut all = tensor.scalars();
    let first = all.next()?;
    all.all(|it| it == first).then_some(first)
}

/// The one scalar that every element of `value` is, if it is a small constant or a view of one.
pub fn uniform(graph: &Graph, mut value: Value) -> Option<Scalar> {
    loop {
        match graph.op(value) {
            Op::Expand { x, .. } | Op::Reshape { x, .. } | Op::Permute { x, .. } => value = *x,
            Op::Constant(_) if graph.ty(value).shape.count() <= SEARCHED => {
                return only(graph.known(value)?);
            }
            _ => return None,
        }
    }
}

/// As `uniform`, of floats.
pub fn number(graph: &Graph, value: Value) -> Option<f64> {
    if !graph.ty(value).dtype.is_float() {
        return None;
    }
    uniform(graph, value).map(Scalar::as_f64)
}

pub fn unary(graph: &Graph, value: Value, op: UnaryOp) -> Option<Value> {
    match *graph.op(value) {
        Op::Unary(it, x) if it == op => Some(x),
        _ => None,
    }
}

pub fn binary(graph: &Graph, value: Value, op: BinaryOp) -> Option<(Value, Value)> {
    match *graph.op(value) {
        Op::Binary(it, a, b) if it == op => Some((a, b)),
        _ => None,
    }
}

/// The first answer of `f` for the operands of a commutative `op` in either order.
pub fn either<T>(
    graph: &Graph,
    value: Value,
    op: BinaryOp,
    f: impl Fn(Value, Value) -> Option<T>,
) -> Option<T> {
    let (a, b) = binary(graph, value, op)?;
    f(a, b).or_else(|| f(b, a))
}

/// `x` and `c` of `x op c` with a uniform float `c`, in either order, where `x` has the shape of the whole.
pub fn with_number(graph: &Graph, value: Value, op: BinaryOp) -> Option<(Value, f64)> {
    either(graph, value, op, |x, c| {
        let whole = graph.ty(x).shape == graph.ty(value).shape;
        number(graph, c).filter(|_| whole).map(|c| (x, c))
    })
}

/// `x` and `c` where `value` is `x * c` or `x / (1/c)` with a uniform `c`.
pub fn scaled(graph: &Graph, value: Value) -> Option<(Value, f64)> {
    if let Some((x, by)) = binary(graph, value, BinaryOp::Div) {
        let by = number(graph, by)?;
        return (graph.ty(x).shape == graph.ty(value).shape && by != 0.0).then_some((x, 1.0 / by));
    }
    with_number(graph, value, BinaryOp::Mul)
}

/// The factors of a product, each product among them taken apart unless it is `whole`, and the product of those that are
/// uniform constants. A product of tensors of different shapes is not taken apart.
pub fn factors(graph: &Graph, value: Value, whole: Option<Value>) -> (Vec<Value>, f64) {
    let (mut found, mut by) = (Vec::new(), 1.0);
    let mut open = vec![value];
    while let Some(next) = open.pop() {
        if Some(next) != whole && found.len() + open.len() < 8 {
            if let Some((x, c)) = scaled(graph, next) {
                by *= c;
                open.push(x);
                continue;
            }
            if let Some((a, b)) = binary(graph, next, BinaryOp::Mul)
                && graph.ty(a).shape == graph.ty(b).shape
            {
                open.extend([b, a]);
                continue;
            }
        }
        found.push(next);
    }
    (found, by)
}

/// A product, its factors, theirs and so on.
pub fn products(graph: &Graph, value: Value) -> Vec<Value> {
    let mut found = vec![value];
    let mut next = 0;
    while let Some(&value) = found.get(next).filter(|_| found.len() < 16) {
        next += 1;
        if let Some((a, b)) = binary(graph, value, BinaryOp::Mul) {
            found.extend([a, b]);
        }
    }
    found
}

/// Whether two constants of a formula are the same, written with the digits of `dtype`.
pub fn near(dtype: DType, a: f64, b: f64) -> bool {
    let tolerance = match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1e-2,
        _ => 1e-5,
    };
    (a - b).abs() <= tolerance * b.abs()
}

/// Whether `value` is small work on constants alone.
pub fn is_fixed(graph: &Graph, value: Value) -> bool {
    let mut seen = vec![value];
    let mut next = 0;
    while let Some(&value) = seen.get(next) {
        next += 1;
        if matches!(graph.op(value), Op::Input { .. }) || seen.len() > FIXED_LIMIT {
            return false;
        }
        for operand in graph.op(value).operands() {
            if !seen.contains(&operand) {
                seen.push(operand);
            }
        }
    }
    true
}

/// `shape` without its leading 1s.
pub fn significant(shape: &Shape) -> &[usize] {
    let first = shape.iter().position(|&it| it != 1).unwrap_or(shape.rank());
    &shape[first..]
}
