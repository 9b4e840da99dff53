//! Every rule: it fires, the graph becomes what was expected, keeps its meaning and then stays as it is.

use std::collections::BTreeSet;

use super::*;
use crate::{
    dtype::DType,
    graph::{Op, Value, builder::*, eval::eval},
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Floats in -2..2, integers in -3..3.
    fn tensor(&mut self, dtype: DType, shape: impl Into<Shape>) -> Tensor {
        let ty = Type::new(dtype, shape);
        let values = (0..ty.shape.count()).map(|_| match dtype {
            DType::Bool => Scalar::Int(self.below(2) as i64),
            it if it.is_float() => Scalar::of(it, self.below(1 << 16) as f64 / 16384.0 - 2.0),
            _ => Scalar::Int(self.below(7) as i64 - 3),
        });
        Tensor::from_scalars(ty.clone(), values.collect::<Vec<_>>())
    }
}

const F: DType = DType::F32;

type B = GraphBuilder;

/// What is computed, in order, without inputs, constants and what only constants need.
fn ops(graph: &Graph) -> String {
    let variable: BTreeSet<Value> = graph.nodes().fold(BTreeSet::new(), |mut set, (value, node)| {
        if matches!(node.op, Op::Input { .. }) || node.op.operands().iter().any(|it| set.contains(it)) {
            set.insert(value);
        }
        set
    });
    let computed =
        graph.nodes().filter(|it| variable.contains(&it.0) && !matches!(it.1.op, Op::Input { .. }));
    computed.map(|it| it.1.op.name()).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_same(before: &Graph, after: &Graph, exact: bool, seed: u64) {
    let mut random = Random(seed);
    let inputs: Vec<Tensor> =
        before.inputs().iter().map(|it| random.tensor(it.ty.dtype, it.ty.shape.clone())).collect();
    let (old, new) = (eval(before, &inputs).unwrap(), eval(after, &inputs).unwrap());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!(old.ty(), new.ty());
        for (at, (a, b)) in old.scalars().zip(new.scalars()).enumerate() {
            let (x, y) = (a.as_f64(), b.as_f64());
            let near = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= 2e-5 * (1.0 + x.abs());
            let same = if exact { a == b || x.is_nan() && y.is_nan() } else { near };
            assert!(same, "seed {seed}, element {at}: {a:?} became {b:?}\n{before}\n{after}");
        }
    }
}

/// The graph of `make`'s value, optimised; and the names of the rules that fired.
#[track_caller]
fn run(make: impl FnOnce(&mut B) -> Result<Value, Error>, licence: Licence) -> (Graph, Vec<&'static str>) {
    let mut b = GraphBuilder::new();
    let y = make(&mut b).unwrap();
    b.output("y", y).unwrap();
    let before = b.finish().unwrap();
    let (mut graph, mut fired) = (before.clone(), Vec::new());
    for pass in PIPELINE {
        if let Some(whole) = pass.whole {
            graph = whole(&graph, &Target::cpu(), &Options::default()).unwrap();
        }
        let rules = pass.rules.iter().copied().flatten().copied().flatten();
        let (next, names) = rewrite_named(&graph, rules, licence).unwrap();
        assert_eq!(fault(&next), None, "after {}", pass.name);
        graph = next;
        fired.extend(names);
    }
    for seed in 0..3 {
        assert_same(&before, &graph, licence == Licence::Exact, seed);
    }
    for pass in PIPELINE {
        let rules = pass.rules.iter().copied().flatten().copied().flatten();
        let again = rewrite_named(&graph, rules, licence).unwrap().1;
        assert_eq!(again, Vec::<&str>::new(), "{} is not idempotent:\n{graph}", pass.name);
    }
    (graph, fired)
}

fn x(b: &mut B, shape: impl Into<Shape>) -> Value {
    b.input("x", F, shape).unwrap()
}

fn weights(b: &mut B, shape: impl Into<Shape>, seed: u64) -> Value {
    b.constant(Random(seed).tensor(F, shape))
}

fn c(b: &mut B, value: f64) -> Value {
    b.scalar(F, value)
}

type Make = fn(&mut B) -> Result<Value, Error>;

/// Rule, what is built, what is left of it.
const CASES: &[(&str, Make, &str)] = &[
    (
        "fold",
        |b| {
            let (x, two) = (x(b, [3]), c(b, 2.0));
            let four = b.mul(two, two)?;
            b.add(x, four)
        },
        "add",
    ),
    (
        "fold-reshape",
        |b| {
            let (x, w) = (x(b, [300, 300]), weights(b, [90_000], 1));
            let w = b.reshape(w, &[300, 300])?;
            b.add(x, w)
        },
        "add",
    ),
    (
        "neutral",
        |b| {
            let x = x(b, [2, 3]);
            let one = b.full(F, [2, 3], 1.0)?;
            let y = b.mul(one, x)?;
            let y = b.div(y, one)?;
            let zero = c(b, 0.0);
            let y = b.sub(y, zero)?;
            let one = c(b, 1.0);
            b.pow(y, one)
        },
        "",
    ),
    (
        "neutral",
        |b| {
            let x = b.input("x", DType::I64, [3])?;
            let zero = b.scalar(DType::I64, 0.0);
            let zero = b.expand(zero, [2, 3])?;
            b.add(zero, x)
        },
        "expand",
    ),
    (
        "add-zero",
        |b| {
            let (x, zero) = (x(b, [3]), c(b, 0.0));
            b.add(zero, x)
        },
        "",
    ),
    (
        "logic",
        |b| {
            let x = b.input("x", DType::Bool, [3])?;
            let yes = b.full(DType::Bool, [2, 1], 1.0)?;
            let y = b.logical_and(yes, x)?;
            let no = b.scalar(DType::Bool, 0.0);
            b.logical_or(y, no)
        },
        "expand",
    ),
    (
        "logic",
        |b| {
            let x = b.input("x", DType::Bool, [3])?;
            let yes = b.scalar(DType::Bool, 1.0);
            b.logical_or(yes, x)
        },
        "",
    ),
    (
        "same-operands",
        |b| {
            let x = x(b, [3]);
            b.maximum(x, x)
        },
        "",
    ),
    (
        "twice",
        |b| {
            let x = x(b, [3]);
            let y = b.neg(x)?;
            let y = b.neg(y)?;
            let y = b.abs(y)?;
            b.abs(y)
        },
        "abs",
    ),
    (
        "twice",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [3])?);
            let y = b.eq(x, z)?;
            b.logical_not(y)
        },
        "ne",
    ),
    (
        "select",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [2, 3])?);
            let no = b.scalar(DType::Bool, 0.0);
            let y = b.select(no, z, x)?;
            let cond = b.input("cond", DType::Bool, [2, 3])?;
            b.select(cond, y, y)
        },
        "expand",
    ),
    (
        "cast-same",
        |b| {
            let x = x(b, [3]);
            b.cast(x, F)
        },
        "",
    ),
    (
        "cast-cast",
        |b| {
            let x = b.input("x", DType::I16, [5])?;
            let y = b.cast(x, F)?;
            let y = b.cast(y, DType::I64)?;
            let y = b.cast(y, DType::I16)?;
            b.cast(y, DType::U8)
        },
        "cast",
    ),
    (
        "one-over",
        |b| {
            let (x, one) = (x(b, [3]), c(b, 1.0));
            b.div(one, x)
        },
        "recip",
    ),
    (
        "div-power-of-two",
        |b| {
            let (x, eight) = (x(b, [3]), c(b, 8.0));
            b.div(x, eight)
        },
        "mul",
    ),
    (
        "div-constant",
        |b| {
            let (x, by) = (x(b, [3]), c(b, 3.0));
            b.div(x, by)
        },
        "mul",
    ),
    (
        "pow",
        |b| {
            let x = x(b, [3]);
            let y = b.with_scalar(BinaryOp::Pow, x, 2.0)?;
            b.with_scalar(BinaryOp::Pow, y, 0.5)
        },
        "mul sqrt",
    ),
    (
        "rsqrt",
        |b| {
            let (x, z) = (x(b, [3]), b.input("z", F, [3])?);
            let z = b.abs(z)?;
            let root = b.sqrt(z)?;
            let y = b.div(x, root)?;
            let other = b.reciprocal(root)?;
            b.add(y, other)
        },
        "abs rsqrt mul add",
    ),
    (
        "relu",
        |b| {
            let x = x(b, [3]);
            b.with_scalar(BinaryOp::Max, x, 0.0)
        },
        "relu",
    ),
    (
        "mean",
        |b| {
            let x = x(b, [3, 5]);
            let sum = b.sum(x, &[-1], true)?;
            b.with_scalar(BinaryOp::Div, sum, 5.0)
        },
        "mean",
    ),
    (
        "reduce-nothing",
        |b| {
            let x = x(b, [3, 1]);
            b.max(x, &[1], false)
        },
        "reshape",
    ),
    (
        "view-nothing",
        |b| {
            let x = x(b, [3, 2]);
            let y = b.reshape(x, &[3, 2])?;
            let y = b.permute(y, &[0, 1])?;
            let y = b.expand(y, [3, 2])?;
            b.slice(y, 1, 0, 2)
        },
        "",
    ),
    (
        "view-view",
        |b| {
            let x = x(b, [6, 4]);
            let y = b.slice(x, 0, 1, 6)?;
            let y = b.slice(y, 0, 1, 4)?;
            let y = b.permute(y, &[1, 0])?;
            b.permute(y, &[1, 0])
        },
        "slice",
    ),
    (
        "view-view",
        |b| {
            let x = x(b, [9]);
            let steps = |starts: usize, size: usize, step: i64, x| Op::Slice {
                starts: smallvec::smallvec![starts],
                sizes: [size].into(),
                steps: smallvec::smallvec![step],
                x,
            };
            let y = b.op(steps(8, 5, -2, x))?;
            b.op(steps(1, 2, 2, y))
        },
        "slice",
    ),
    (
        "expand-units",
        |b| {
            let x = x(b, [3]);
            let y = b.expand(x, [1, 3])?;
            b.exp(y)
        },
        "reshape exp",
    ),
    (
        "permute-units",
        |b| {
            let x = x(b, [1, 3, 2]);
            b.permute(x, &[1, 0, 2])
        },
        "reshape",
    ),
    (
        "reshape-permute",
        |b| {
            let x = x(b, [6, 4, 5]);
            let y = b.permute(x, &[0, 2, 1])?;
            let y = b.reshape(y, &[2, 3, 5, 4])?;
            b.permute(y, &[0, 1, 3, 2])
        },
        "reshape",
    ),
    (
        "view-uniform",
        |b| {
            let x = x(b, []);
            let y = b.expand(x, [2, 3])?;
            let y = b.permute(y, &[1, 0])?;
            b.reshape(y, &[6])
        },
        "expand",
    ),
    (
        "slice-concat",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 4])?);
            let y = b.concat(&[x, z], 1)?;
            let a = b.slice(y, 1, 0, 3)?;
            let z = b.slice(y, 1, 4, 7)?;
            b.add(a, z)
        },
        "slice add",
    ),
    (
        "concat-nothing",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 0])?);
            b.concat(&[z, x], 1)
        },
        "",
    ),
    (
        "pad-nothing",
        |b| {
            let x = x(b, [2, 3]);
            b.pad(x, &[(0, 0), (0, 0)], 0.0)
        },
        "",
    ),
    (
        "expand-operand",
        |b| {
            let (x, z) = (x(b, [1, 3]), b.input("z", F, [2, 3])?);
            let y = b.expand(x, [2, 3])?;
            let y = b.add(y, z)?;
            let y = b.expand(y, [4, 2, 3])?;
            b.exp(y)
        },
        "add exp expand",
    ),
    (
        "expand-operand",
        |b| {
            let (x, z) = (x(b, [3, 4]), b.input("z", F, [2, 4, 5])?);
            let y = b.expand(x, [2, 3, 4])?;
            b.matmul(y, z)
        },
        "matmul",
    ),
    (
        "gather-range",
        |b| {
            let x = x(b, [5, 7]);
            let indices = b.constant(Tensor::i64([2], &[5, 3]).unwrap());
            let y = b.gather(x, 1, indices)?;
            let last = b.constant(Tensor::i64([], &[-1]).unwrap());
            b.gather(y, 0, last)
        },
        "slice reshape",
    ),
    (
        "gather-nd-grid",
        |b| {
            // As models read the mask of row i at key l: [b, 1, 1, s, 2].
            let x = x(b, [2, 5]);
            let places: Vec<i64> = (0..2).flat_map(|i| (0..5).flat_map(move |l| [i, l])).collect();
            let indices = b.constant(Tensor::i64([2, 1, 1, 5, 2], &places).unwrap());
            b.op(Op::GatherNd { batch: 0, x, indices })
        },
        "reshape",
    ),
    (
        "gather-nd-grid",
        |b| {
            // Transposed, backwards, repeated, and one coordinate fixed.
            let x = x(b, [4, 3, 2, 6]);
            let places: Vec<i64> = (0..3)
                .flat_map(|i| (0..2).flat_map(move |_| (0..2).flat_map(move |k| [3 - 2 * k, i, -1])))
                .collect();
            let indices = b.constant(Tensor::i64([3, 2, 2, 3], &places).unwrap());
            b.op(Op::GatherNd { batch: 0, x, indices })
        },
        "slice permute reshape expand",
    ),
    (
        "sigmoid",
        |b| {
            let x = x(b, [3]);
            let e = b.neg(x)?;
            let e = b.exp(e)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.reciprocal(sum)
        },
        "sigmoid",
    ),
    (
        "silu",
        |b| {
            let x = x(b, [3]);
            let s = b.sigmoid(x)?;
            b.mul(s, x)
        },
        "silu",
    ),
    (
        "softplus",
        |b| {
            let x = x(b, [3]);
            let e = b.exp(x)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.log(sum)
        },
        "softplus",
    ),
    (
        "hardswish",
        |b| {
            let x = x(b, [9]);
            let y = b.add_scalar(x, 3.0)?;
            let y = b.with_scalar(BinaryOp::Max, y, 0.0)?;
            let y = b.with_scalar(BinaryOp::Min, y, 6.0)?;
            let y = b.mul(x, y)?;
            b.with_scalar(BinaryOp::Div, y, 6.0)
        },
        "hardswish",
    ),
    (
        "hardswish",
        |b| {
            // hard_sigmoid, then a product
            let x = x(b, [9]);
            let y = b.mul_scalar(x, 1.0 / 6.0)?;
            let y = b.add_scalar(y, 0.5)?;
            let y = b.with_scalar(BinaryOp::Min, y, 1.0)?;
            let y = b.with_scalar(BinaryOp::Max, y, 0.0)?;
            b.mul(y, x)
        },
        "hardswish",
    ),
    (
        "softmax",
        |b| {
            let x = x(b, [3, 4]);
            let most = b.max(x, &[0], true)?;
            let y = b.sub(x, most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[0], true)?;
            b.div(e, sum)
        },
        "softmax",
    ),
    (
        "log-softmax",
        |b| {
            let x = x(b, [3, 4]);
            let most = b.max(x, &[1], true)?;
            let y = b.sub(x, most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[1], true)?;
            let log = b.log(sum)?;
            b.sub(y, log)
        },
        "softmax",
    ),
    (
        "log-softmax",
        |b| {
            let x = x(b, [3, 4]);
            let y = b.softmax(x, 1)?;
            b.log(y)
        },
        "softmax",
    ),
    (
        "rms-norm",
        |b| {
            let (x, w) = (x(b, [3, 4]), weights(b, [4], 5));
            let square = b.with_scalar(BinaryOp::Pow, x, 2.0)?;
            let mean = b.mean(square, &[-1], true)?;
            let sum = b.add_scalar(mean, 1e-6)?;
            let root = b.sqrt(sum)?;
            let by = b.reciprocal(root)?;
            let y = b.mul(x, by)?;
            b.mul(w, y)
        },
        "rms_norm",
    ),
    (
        "layer-norm",
        |b| {
            let (x, w) = (x(b, [2, 3, 4]), weights(b, [3, 4], 5));
            let bias = weights(b, [1, 3, 4], 6);
            let mean = b.mean(x, &[1, 2], true)?;
            let d = b.sub(x, mean)?;
            let square = b.mul(d, d)?;
            let var = b.mean(square, &[1, 2], true)?;
            let sum = b.add_scalar(var, 1e-5)?;
            let root = b.sqrt(sum)?;
            let y = b.div(d, root)?;
            let y = b.mul(y, w)?;
            b.add(bias, y)
        },
        "layer_norm",
    ),
    (
        "norm-scale",
        |b| {
            let (x, w) = (x(b, [2, 4, 5]), weights(b, [4, 1], 5));
            let y = b.group_norm(x, 2, None, None, 1e-5)?;
            b.mul(y, w)
        },
        "group_norm",
    ),
    (
        "norm-bias",
        |b| {
            let (x, w) = (x(b, [2, 4]), weights(b, [4], 5));
            let y = b.layer_norm(x, -1, Some(w), None, 1e-5)?;
            b.add(w, y)
        },
        "layer_norm",
    ),
    (
        "batch-norm",
        |b| {
            let x = x(b, [2, 3, 4]);
            let y = b.exp(x)?;
            norm(b, y)
        },
        "exp mul add",
    ),
    (
        "weight-scale",
        |b| {
            let (x, w, bias) = (x(b, [1, 2, 5, 5]), weights(b, [3, 2, 3, 3], 1), weights(b, [3], 2));
            let y = b.conv2d(x, w, Some(bias), Geometry::default())?;
            let y = norm(b, y)?;
            b.relu(y)
        },
        "conv relu",
    ),
    (
        "weight-shift",
        |b| {
            let (x, w, k) = (x(b, [1, 2, 5]), weights(b, [2, 3, 2], 1), weights(b, [3, 1], 2));
            let y = b.op(Op::ConvTranspose {
                window: crate::graph::Window::unit(1),
                groups: 1,
                output: [6].into(),
                x,
                w,
                bias: None,
            })?;
            let y = b.mul(y, k)?;
            let y = b.add(k, y)?;
            b.add_scalar(y, 2.0)
        },
        "conv_transpose",
    ),
    (
        "scale-before-shift",
        |b| {
            let (x, w, bias) = (x(b, [4, 2]), weights(b, [2, 3], 1), weights(b, [3], 2));
            let y = b.matmul(x, w)?;
            let y = b.add(y, bias)?;
            norm(b, y)
        },
        "matmul add add",
    ),
];

/// A batch norm of fixed statistics over 3 channels.
fn norm(b: &mut B, x: Value) -> Result<Value, Error> {
    let [scale, bias, mean] = [11, 12, 13].map(|seed| weights(b, [3], seed));
    let var = b.constant(Tensor::f32([3], &[0.5, 1.0, 2.0]).unwrap());
    b.batch_norm(x, scale, bias, mean, var, 1e-3)
}

#[test]
fn each_rule() {
    for (rule, make, left) in CASES {
        let licence = match all_rules().find(|it| it.name == *rule) {
            Some(it) => it.licence,
            None => panic!("there is no rule {rule}"),
        };
        let (graph, fired) = run(make, licence);
        assert!(fired.contains(rule), "{rule} does not fire, but {fired:?} do:\n{graph}");
        assert_eq!(ops(&graph), *left, "{rule}: {fired:?}\n{graph}");
        if licence == Licence::Exact {
            run(make, Licence::Relaxed);
        }
    }
}

fn all_rules() -> impl Iterator<Item = &'static Rule> {
    PIPELINE.iter().flat_map(|it| it.rules.iter().copied().flatten().copied().flatten())
}

/// Every way in which 0.5 * x * (1 + f) can be written.
#[test]
fn gelu_in_every_order() {
    for order in 0..6 {
        for exact in [true, false] {
            let (graph, _) = run(
                |b| {
                    let x = x(b, [5]);
                    let f = if exact {
                        let y = b.with_scalar(BinaryOp::Div, x, std::f64::consts::SQRT_2)?;
                        b.erf(y)?
                    } else {
                        let cube = b.with_scalar(BinaryOp::Pow, x, 3.0)?;
                        let cube = b.mul_scalar(cube, 0.044715)?;
                        let y = b.add(x, cube)?;
                        let y = b.mul_scalar(y, 0.797_884_583_473_205_6)?;
                        b.tanh(y)?
                    };
                    if order == 5 {
                        let half = b.mul_scalar(f, 0.5)?;
                        let half = b.add_scalar(half, 0.5)?;
                        return b.mul(half, x);
                    }
                    let sum = b.add_scalar(f, 1.0)?;
                    let half = c(b, 0.5);
                    let [p, q, r] =
                        [[x, half, sum], [half, sum, x], [sum, x, half], [half, x, sum], [x, sum, half]]
                            [order];
                    let y = b.mul(p, q)?;
                    if order % 2 == 0 { b.mul(y, r) } else { b.mul(r, y) }
                },
                Licence::Relaxed,
            );
            assert_eq!(ops(&graph), if exact { "gelu" } else { "gelu_tanh" }, "order {order}\n{graph}");
        }
    }
}

#[test]
fn tanh_gelu_of_a_product() {
    let (graph, _) = run(
        |b| {
            let (x, z) = (x(b, [5]), b.input("z", F, [5])?);
            let x = b.mul(x, z)?;
            let square = b.mul(x, x)?;
            let y = b.mul_scalar(square, 0.044715)?;
            let y = b.add_scalar(y, 1.0)?;
            let y = b.mul(x, y)?;
            let y = b.mul_scalar(y, 0.797_884_583_473_205_6)?;
            let y = b.tanh(y)?;
            let y = b.add_scalar(y, 1.0)?;
            let y = b.mul(x, y)?;
            b.mul_scalar(y, 0.5)
        },
        Licence::Relaxed,
    );
    assert_eq!(ops(&graph), "mul gelu_tanh");
}

/// What is written around the product, and what becomes of it.
struct Written {
    mask: &'static str,
    scale: &'static str,
    keys: &'static str,
    kv_heads: usize,
}

fn attention(b: &mut B, it: &Written) -> Result<Value, Error> {
    let (batch, h, s, t, d) = (2usize, 4usize, 3usize, 5usize, 4usize);
    let g = it.kv_heads;
    let flat = it.keys == "flat";
    let shape = |heads: usize, rows: usize| -> Shape {
        if flat { [batch * heads, rows, d].into() } else { [batch, heads, rows, d].into() }
    };
    let q = b.input("q", F, shape(h, s))?;
    let (mut k, mut v) = (b.input("k", F, shape(g, t))?, b.input("v", F, shape(g, t))?);
    if g < h {
        for it in [&mut k, &mut v] {
            let x = b.unsqueeze(*it, 2)?;
            let x = b.expand(x, [batch, g, h / g, t, d])?;
            *it = b.reshape(x, &[batch as isize, h as isize, t as isize, d as isize])?;
        }
    }
    let k = match it.keys {
        "wrapped" => {
            let x = b.reshape(k, &[-1, t as isize, d as isize])?;
            let x = b.permute(x, &[0, 2, 1])?;
            b.reshape(x, &[batch as isize, h as isize, d as isize, t as isize])?
        }
        "scaled" => {
            let k = b.mul_scalar(k, 3.0)?;
            b.transpose(k, -1, -2)?
        }
        _ => b.transpose(k, -1, -2)?,
    };
    let (q, k) = match it.scale {
        "both" => (b.mul_scalar(q, 0.7)?, b.mul_scalar(k, 0.7)?),
        _ => (q, k),
    };
    let mut scores = b.matmul(q, k)?;
    if it.scale == "behind" {
        scores = b.with_scalar(BinaryOp::Div, scores, 2.0)?;
    }
    let least = if it.mask == "zeroed" { f64::NEG_INFINITY } else { -3.402_823_466_385_288_6e38 };
    let masked = match it.mask {
        "added" => {
            let mask = b.input("mask", F, [s, t])?;
            b.add(mask, scores)?
        }
        "chosen" | "zeroed" => {
            let cond = b.input(
                "cond",
                DType::Bool,
                if flat { vec![s, t] } else { vec![batch, 1, s, t] }.as_slice(),
            )?;
            let least = c(b, least);
            b.select(cond, scores, least)?
        }
        "refused" => {
            let cond = b.input(
                "cond",
                DType::Bool,
                if flat { vec![s, t] } else { vec![batch, 1, s, t] }.as_slice(),
            )?;
            let least = c(b, least);
            b.select(cond, least, scores)?
        }
        "causal" => {
            let keep: Vec<f32> =
                (0..s * t).map(|it| if it % t <= it / t + t - s { 0.0 } else { -1e38 }).collect();
            let mask = b.constant(Tensor::f32([1, 1, s, t], &keep).unwrap());
            b.add(scores, mask)?
        }
        _ => scores,
    };
    let mut p = b.softmax(masked, -1)?;
    if it.mask == "zeroed" {
        let nan = b.isnan(p)?;
        let zero = c(b, 0.0);
        p = b.select(nan, zero, p)?;
    }
    b.matmul(p, v)
}

#[test]
fn attention_in_every_form() {
    for mask in ["none", "added", "chosen", "refused", "zeroed", "causal"] {
        for scale in ["none", "both", "behind"] {
            for keys in ["plain", "wrapped", "scaled", "flat"] {
                for kv_heads in [4, 2, 1] {
                    if keys == "flat" && (kv_heads < 4 || mask == "causal") {
                        continue;
                    }
                    let it = Written { mask, scale, keys, kv_heads };
                    let (graph, fired) = run(|b| attention(b, &it), Licence::Relaxed);
                    let what = format!("{mask} {scale} {keys} {kv_heads}: {fired:?}\n{graph}");
                    let select = if matches!(mask, "chosen" | "refused" | "zeroed") { "select " } else { "" };
                    let left = ops(&graph);
                    let words: Vec<&str> = left.split(' ').filter(|it| *it != "reshape").collect();
                    assert_eq!(words.join(" "), format!("{select}attention"), "{what}");
                    let Some(Op::Attention { zero_masked, causal, k, .. }) =
                        graph.nodes().map(|it| it.1.op.clone()).find(|it| matches!(it, Op::Attention { .. }))
                    else {
                        unreachable!()
                    };
                    assert_eq!((zero_masked, causal), (mask == "zeroed", mask == "causal"), "{what}");
                    if keys != "flat" {
                        assert_eq!(graph.ty(k).shape[1], kv_heads, "{what}");
                        assert!(!left.contains("reshape"), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn weights_that_are_used_again_stay() {
    let (graph, _) = run(
        |b| {
            let (q, k) = (b.input("q", F, [1, 2, 3, 4])?, b.input("k", F, [1, 2, 4, 5])?);
            let v = b.input("v", F, [1, 2, 5, 4])?;
            let scores = b.matmul(q, k)?;
            let p = b.softmax(scores, -1)?;
            let y = b.matmul(p, v)?;
            let sum = b.sum(p, &[-1], true)?;
            b.add(y, sum)
        },
        Licence::Relaxed,
    );
    assert_eq!(ops(&graph), "matmul softmax matmul reduce_sum add");
}

#[test]
fn every_rule_has_a_test() {
    let elsewhere = ["gelu", "gelu-tanh", "attention", "attention-scale", "grouped-heads", "causal-mask"];
    for rule in all_rules() {
        let tested = CASES.iter().any(|it| it.0 == rule.name) || elsewhere.contains(&rule.name);
        assert!(tested, "{} has no test", rule.name);
    }
}

/// A random graph of small tensors.
fn random_graph(seed: u64) -> Graph {
    let mut r = Random(seed);
    let mut b = GraphBuilder::new();
    let mut floats = vec![x(&mut b, [2, 3, 4]), b.input("z", F, [3, 1]).unwrap()];
    for value in [0.0, 1.0, 0.5, 2.0, -1.0] {
        floats.push(c(&mut b, value));
    }
    floats.push(weights(&mut b, [3, 4], seed));
    let mut truths = vec![b.input("t", DType::Bool, [3, 4]).unwrap(), b.scalar(DType::Bool, 1.0)];
    use BinaryOp::*;
    while floats.len() < 28 {
        let pick = |r: &mut Random, of: &[Value]| of[r.below(of.len())];
        let (p, q) = (pick(&mut r, &floats), pick(&mut r, &floats));
        let (m, n) = (pick(&mut r, &truths), pick(&mut r, &truths));
        let shape = b.ty(p).unwrap().shape.clone();
        let rank = shape.rank();
        let axis = r.below(rank.max(1)) as isize;
        let made = match r.below(14) {
            0 => b.binary([Add, Sub, Mul, Max, Min, Div][r.below(6)], p, q),
            1 => b.binary([Add, Mul, Sub][r.below(3)], q, p),
            2 => b.unary([UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Relu, UnaryOp::Floor][r.below(4)], p),
            3 => b.select(m, p, q),
            4 => {
                let truth = b.binary([Lt, Ge, Eq][r.below(3)], p, q);
                truths.extend(truth);
                continue;
            }
            5 => {
                let truth = b.binary([And, Or, Xor][r.below(3)], m, n);
                truths.extend(truth);
                continue;
            }
            6 => b.reshape(p, &[-1]),
            7 if rank > 1 => {
                let order: Vec<isize> = (0..rank).map(|it| ((it + 1) % rank) as isize).collect();
                b.permute(p, &order)
            }
            8 if rank > 0 && shape[axis as usize] > 1 => b.slice(p, axis, 1, shape[axis as usize] as isize),
            9 if rank > 0 => b.concat(&[p, p], axis),
            10 if rank < 3 => {
                let wide: Shape = [2].into_iter().chain(shape.iter().copied()).collect();
                b.expand(p, wide)
            }
            11 if rank > 0 => {
                b.reduce([ReduceOp::Max, ReduceOp::Sum][r.below(2)], p, &[axis], r.below(2) == 0)
            }
            12 if rank > 0 => {
                let size = shape[axis as usize] as i64;
                let at: Vec<i64> =
                    (0..size).map(|it| if seed.is_multiple_of(2) { size - 1 - it } else { it }).collect();
                let indices = b.constant(Tensor::i64([at.len()], &at).unwrap());
                b.gather(p, axis, indices)
            }
            13 if rank > 0 => b.unsqueeze(p, axis),
            _ => continue,
        };
        if let Ok(made) = made
            && b.ty(made).unwrap().shape.count() <= 512
        {
            floats.push(made);
        }
    }
    for (at, &value) in floats[floats.len() - 3..].iter().enumerate() {
        b.output(format!("y{at}"), value).unwrap();
    }
    b.finish().unwrap()
}

#[test]
fn random_graphs_keep_every_bit() {
    for seed in 0..400 {
        let before = random_graph(seed);
        let options = Options { exact: true, ..Options::default() };
        let after = optimise(before.clone(), &Target::cpu(), &options).unwrap();
        assert_same(&before, &after, true, seed);
        let again = optimise(after.clone(), &Target::cpu(), &options).unwrap();
        assert_eq!(again.to_string(), after.to_string(), "seed {seed}");
        optimise(before, &Target::cpu(), &Options::default()).unwrap();
    }
}

#[test]
fn users_passes_run_where_they_ask_and_are_checked() {
    let mut b = GraphBuilder::new();
    let x = x(&mut b, [2]);
    let y = b.relu(x).unwrap();
    b.output("y", y).unwrap();
    let graph = b.finish().unwrap();
    let own = |name: &str, at: Hook, run: fn(&Graph) -> Result<Graph, Error>| UserPass {
        name: name.into(),
        at,
        run: std::sync::Arc::new(run),
    };
    let plain = |graph: &Graph| graph.rebuild(Graph::add);
    let order = |passes: Vec<UserPass>, without: &[&str]| -> Result<Vec<String>, Error> {
        let without_passes = without.iter().map(|it| it.to_string()).collect();
        let options = Options { passes, without_passes, ..Options::default() };
        let mut seen = Vec::new();
        optimise_observed(graph.clone(), &Target::cpu(), &options, &mut |name, _| {
            seen.push(name.to_string())
        })?;
        Ok(seen)
    };
    let passes = vec![
        own("a", Hook::Before("joint".into()), plain),
        own("b", Hook::After("simplify".into()), plain),
        own("c", Hook::After("post-grad".into()), plain),
        own("d", Hook::Before("pre-grad".into()), plain),
    ];
    let seen = order(passes, &["attention"]).unwrap();
    assert_eq!(seen, ["d", "simplify", "b", "composites", "a", "batch-norm", "siblings", "c"]);

    let message = |it: Result<Vec<String>, Error>| it.unwrap_err().to_string();
    let text = message(order(Vec::new(), &["nothing"]));
    assert!(text.contains("'nothing'") && text.contains("simplify, composites, attention"), "{text}");
    let text = message(order(vec![own("a", Hook::Before("later".into()), plain)], &[]));
    assert!(text.contains("'later'") && text.contains("pre-grad"), "{text}");
    let loses = own("loser", Hook::Before("joint".into()), |graph| {
        let mut graph = graph.clone();
        graph.outputs.clear();
        Ok(graph)
    });
    assert_eq!(
        message(order(vec![loses], &[])),
        "pass 'loser': the names or types of the graph's outputs have changed"
    );
    let breaks = own("breaker", Hook::Before("joint".into()), |graph| {
        let mut graph = graph.clone();
        let twin = graph.outputs[0].clone();
        graph.outputs.push(twin);
        Ok(graph)
    });
    assert_eq!(message(order(vec![breaks], &[])), "pass 'breaker': two outputs are named 'y'");
}

#[test]
fn pools_and_casts_of_constants_fold() {
    let (graph, _) = run(
        |b| {
            let (x, w) = (x(b, [1, 1, 2, 2]), weights(b, [1, 1, 4, 4], 1));
            let y = b.max_pool(w, &[2, 2], Geometry { stride: 2, ..Geometry::default() })?;
            let y = b.cast(y, DType::F16)?;
            let y = b.cast(y, F)?;
            b.add(x, y)
        },
        Licence::Exact,
    );
    assert_eq!(ops(&graph), "add");
    assert_eq!(graph.len(), 3);
}
