//! The rule of every op.

use std::collections::BTreeSet;

use wgfuse::{Device, Model, Session};
use wgfuse_compiler::{
    dtype::DType,
    error::Error,
    graph::{
        Graph, Op, PoolKind, Value, Window,
        builder::{Geometry, GraphBuilder},
        eval::eval,
        op::NAMES,
    },
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};
use wgfuse_tests::{
    compare::difference,
    device::{gpu, options},
    random::Random,
};

use crate::cases::{Case, Input, WITHOUT, cases};

/// How far apart two points are of which a difference is taken.
const STEP: f64 = 1e-5;

fn point(input: &Input, dtype: DType, random: &mut Random) -> Tensor {
    let ty = Type::new(dtype, &input.shape[..]);
    let mut one = || loop {
        let it = input.low + (input.high - input.low) * (random.unit() + 1.0) / 2.0;
        if input.kinks.iter().all(|kink| (it - kink).abs() > 0.02) {
            return Scalar::of(dtype, it);
        }
    };
    let values: Vec<Scalar> = (0..ty.shape.count()).map(|_| one()).collect();
    Tensor::from_scalars(ty, values)
}

/// The sum of `y`'s elements by random weights.
fn weighed(b: &mut GraphBuilder, y: Value, random: &mut Random) -> Result<Value, Error> {
    let weights = b.constant(random.tensor(&b.ty(y)?.clone(), 1));
    let terms = b.mul(y, weights)?;
    let axes: Vec<isize> = (0..b.ty(y)?.shape.rank() as isize).collect();
    b.sum(terms, &axes, false)
}

/// A number that follows from the inputs, and its derivative by each. Of `order` 2 the number is made of the derivatives of another.
fn derived(case: &Case, dtype: DType, order: usize, seed: u64) -> Result<Graph, Error> {
    let mut random = Random::new(seed);
    let mut b = GraphBuilder::new();
    let inputs = case.inputs.iter().enumerate();
    let xs: Vec<Value> =
        inputs.map(|(at, it)| b.input(format!("x{at}"), dtype, &it.shape[..])).collect::<Result<_, _>>()?;
    let y = (case.build)(&mut b, &xs)?;
    let mut sum = weighed(&mut b, y, &mut random)?;
    let mut by = b.gradient(sum, &xs)?;
    for _ in 1..order {
        let mut terms = Vec::new();
        for it in by {
            terms.push(weighed(&mut b, it, &mut random)?);
        }
        let mut all = terms[0];
        for term in &terms[1..] {
            all = b.add(all, *term)?;
        }
        sum = all;
        by = b.gradient(sum, &xs)?;
    }
    b.output("sum", sum)?;
    for (at, it) in by.iter().enumerate() {
        b.output(format!("d{at}"), *it)?;
    }
    b.finish()
}

fn check(case: &Case, order: usize, seed: u64) -> Result<(), String> {
    let graph = derived(case, DType::F64, order, seed).map_err(|it| it.to_string())?;
    let mut random = Random::new(seed + 1);
    compare(&graph, case.inputs.iter().map(|it| point(it, DType::F64, &mut random)).collect())
}

/// What is wrong with a graph's derivatives of its first output at a point.
fn compare(graph: &Graph, points: Vec<Tensor>) -> Result<(), String> {
    let made = eval(graph, &points).map_err(|it| it.to_string())?;
    let mut sums = graph.clone();
    sums.outputs.truncate(1);
    let value = |points: &[Tensor]| eval(&sums, points).expect("evaluated before")[0].to_f64()[0];
    for (at, found) in made[1..].iter().enumerate() {
        if found.ty() != points[at].ty() {
            return Err(format!("by x{at} it is {}, which is {}", found.ty(), points[at].ty()));
        }
        let values = points[at].to_f64();
        for (place, found) in found.to_f64().into_iter().enumerate() {
            let moved = |by: f64| {
                let mut own = values.clone();
                own[place] += by;
                let mut all = points.clone();
                all[at] = Tensor::from_scalars(points[at].ty().clone(), own.into_iter().map(Scalar::Float));
                value(&all)
            };
            let want = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            // NaN is not near.
            let near = (found - want).abs() <= 1e-6 * (1.0 + want.abs());
            if !near {
                return Err(format!("by element {place} of x{at} it is {found}, not {want}"));
            }
        }
    }
    Ok(())
}

#[test]
fn derivatives_are_the_limits_of_differences() {
    let mut failures = Vec::new();
    for case in cases() {
        for (order, seed) in [(1, 1), (1, 20), (1, 300), (2, 4000)] {
            if let Err(what) = check(&case, order, seed) {
                failures.push(format!("{} (order {order}, seed {seed}): {what}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_derivative_is_seen() {
    let seen = |factor: f64| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F64, [1]).unwrap();
        let square = b.mul(x, x).unwrap();
        let sum = b.sum(square, &[0], false).unwrap();
        let by = b.mul_scalar(x, factor).unwrap();
        b.output("sum", sum).unwrap();
        b.output("by", by).unwrap();
        compare(&b.finish().unwrap(), vec![Tensor::from_slice(DType::F64, [1], &[0.7]).unwrap()])
    };
    assert_eq!(seen(2.0), Ok(()));
    assert!(seen(2.0001).is_err() && seen(f64::NAN).is_err());
}

#[test]
fn every_op_has_a_case_or_a_reason() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let mut b = GraphBuilder::new();
        let mut xs = Vec::new();
        for (at, it) in case.inputs.iter().enumerate() {
            xs.push(b.input(format!("x{at}"), DType::F64, &it.shape[..]).unwrap());
        }
        let y = (case.build)(&mut b, &xs).unwrap();
        b.output("y", y).unwrap();
        let graph = b.finish().unwrap();
        // What an op is read for by others only, as a condition is, does not count.
        let of_floats = |op: &Op| op.operands().iter().any(|it| graph.ty(*it).dtype.is_float());
        let own = graph.nodes().filter(|it| it.1.ty.dtype.is_float() && of_floats(&it.1.op));
        seen.extend(own.map(|it| it.1.op.name()));
    }
    let scalar = UnaryOp::ALL.iter().map(|it| it.name()).chain(BinaryOp::ALL.iter().map(|it| it.name()));
    for name in scalar.chain(NAMES) {
        let reason = WITHOUT.iter().any(|it| it.0 == name);
        assert!(seen.contains(name) != reason, "{name}: a case {}, a reason {reason}", seen.contains(name));
    }
}

#[test]
fn every_device_derives_alike() {
    let mut failures = Vec::new();
    for case in cases() {
        let graph = derived(&case, DType::F32, 1, 7).unwrap();
        let mut random = Random::new(8);
        let points: Vec<Tensor> = case.inputs.iter().map(|it| point(it, DType::F32, &mut random)).collect();
        let want = eval(&graph, &points).unwrap();
        for device in [Device::cpu(), gpu()] {
            let model = Model::from_graph(graph.clone());
            let session = Session::with_options(&model, &device, options()).unwrap();
            let names: Vec<String> = (0..points.len()).map(|it| format!("x{it}")).collect();
            let given: Vec<_> = names.iter().map(String::as_str).zip(points.iter().cloned()).collect();
            let made = session.run(&given).unwrap();
            for (at, want) in want.iter().enumerate() {
                if let Some(what) = difference(&made[at], want, 1e-4, 1e-4) {
                    failures.push(format!("{} output {at}: {what}", case.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The derivatives of the sum of what `build` makes of `values`, in f64.
fn at(values: &[f64], build: impl Fn(&mut GraphBuilder, Value) -> Result<Value, Error>) -> Vec<f64> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F64, [values.len()]).unwrap();
    let y = build(&mut b, x).unwrap();
    let by = b.gradient(y, &[x]).unwrap()[0];
    b.output("by", by).unwrap();
    let point = Tensor::from_slice(DType::F64, [values.len()], values).unwrap();
    eval(&b.finish().unwrap(), &[point]).unwrap()[0].to_f64()
}

#[test]
fn where_there_is_no_derivative() {
    assert_eq!(at(&[0.0, -0.0], |b, x| b.relu(x)), [0.0, 0.0]);
    assert_eq!(at(&[0.0], |b, x| b.abs(x)), [0.0]);
    assert_eq!(at(&[-3.0, 3.0], |b, x| b.hardswish(x)), [0.0, 1.0]);
    assert_eq!(at(&[2.0, 1.0], |b, x| b.with_scalar(BinaryOp::Max, x, 2.0)), [0.5, 0.0]);
    assert_eq!(at(&[2.0, 1.0], |b, x| b.with_scalar(BinaryOp::Min, x, 2.0)), [0.5, 1.0]);
    assert_eq!(at(&[1.0, 3.0, 3.0, 2.0], |b, x| b.max(x, &[0], false)), [0.0, 0.5, 0.5, 0.0]);
    assert_eq!(
        at(&[1.0, 1.0, 3.0, 1.0], |b, x| b.min(x, &[0], false)),
        [1.0 / 3.0, 1.0 / 3.0, 0.0, 1.0 / 3.0]
    );
    assert_eq!(at(&[0.0, 2.0, 3.0], |b, x| b.reduce(ReduceOp::Prod, x, &[0], false)), [6.0, 0.0, 0.0]);
    assert_eq!(at(&[0.0, 2.0, 0.0], |b, x| b.reduce(ReduceOp::Prod, x, &[0], false)), [0.0, 0.0, 0.0]);
    assert_eq!(at(&[0.0, -2.0], |b, x| b.with_scalar(BinaryOp::Pow, x, 0.0)), [0.0, 0.0]);
    assert_eq!(at(&[0.0, -2.0], |b, x| b.with_scalar(BinaryOp::Pow, x, 2.0)), [0.0, -4.0]);
    let pooled = at(&[1.0, 5.0, 5.0, 5.0, 0.0, f64::NEG_INFINITY], |b, x| {
        let x = b.reshape(x, &[1, 1, 6])?;
        b.max_pool(x, &[2], Geometry { stride: 2, padding: 0, ..Geometry::default() })
    });
    assert_eq!(pooled, [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    // A window with nothing but the least number in it.
    let least = at(&[f64::NEG_INFINITY; 2], |b, x| {
        let x = b.reshape(x, &[1, 1, 2])?;
        b.max_pool(x, &[3], Geometry { stride: 2, padding: 1, ..Geometry::default() })
    });
    assert_eq!(least, [1.0, 0.0]);
}

/// Twice through the elements of a product of which two are 0.
#[test]
fn products_of_zeros_are_derived_twice() {
    let by = at(&[0.0, 2.0, 0.0], |b, x| {
        let product = b.reduce(ReduceOp::Prod, x, &[0], false)?;
        let by = b.gradient(product, &[x])?[0];
        b.sum(by, &[0], false)
    });
    assert_eq!(by, [2.0, 0.0, 2.0]);
}

#[test]
fn integers_carry_nothing() {
    let cut = at(&[1.5, -2.5], |b, x| {
        let whole = b.cast(x, DType::I32)?;
        b.cast(whole, DType::F64)
    });
    assert_eq!(cut, [0.0, 0.0]);
    let apart = at(&[1.5, -2.5], |b, _| Ok(b.scalar(DType::F64, 3.0)));
    assert_eq!(apart, [0.0, 0.0]);
    // Only what is read is derived, not where.
    let read = at(&[1.5, -2.5], |b, x| {
        let place = b.argmin(x, 0, false)?;
        b.gather(x, 0, place)
    });
    assert_eq!(read, [0.0, 1.0]);
    let nothing = at(&[], |b, x| b.sum(x, &[0], false));
    assert_eq!(nothing, [0.0; 0]);
}

/// Of values that follow from one another, each has its whole derivative.
#[test]
fn by_values_between() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F64, []).unwrap();
    let square = b.mul(x, x).unwrap();
    let y = b.mul(square, x).unwrap();
    let by = b.gradient(y, &[square, x, y, x]).unwrap();
    for (at, it) in by.iter().enumerate() {
        b.output(format!("{at}"), *it).unwrap();
    }
    let three = Tensor::scalar(DType::F64, Scalar::Float(3.0));
    let made = eval(&b.finish().unwrap(), &[three]).unwrap();
    let made: Vec<f64> = made.iter().map(|it| it.to_f64()[0]).collect();
    assert_eq!(made, [3.0, 27.0, 1.0, 27.0]);
}

/// What is made of halves has the type of its x and is nearly what it is in f64.
#[test]
fn halves() {
    let wanted =
        ["layer_norm", "rms_norm", "group_norm", "batch_norm", "attention", "matmul [2, 3] [3, 4]", "gelu"];
    for case in cases().iter().filter(|it| wanted.contains(&&*it.name)) {
        let mut random = Random::new(5);
        let points: Vec<Tensor> = case.inputs.iter().map(|it| point(it, DType::F16, &mut random)).collect();
        let exact: Vec<Tensor> = points
            .iter()
            .map(|it| {
                let values = it.to_f64().into_iter().map(Scalar::Float);
                Tensor::from_scalars(Type::new(DType::F64, it.shape().clone()), values)
            })
            .collect();
        let made = eval(&derived(case, DType::F16, 1, 9).unwrap(), &points).unwrap();
        let want = eval(&derived(case, DType::F64, 1, 9).unwrap(), &exact).unwrap();
        for (at, (made, want)) in made.iter().zip(&want).enumerate().skip(1) {
            assert_eq!(made.ty(), points[at - 1].ty(), "{}", case.name);
            for (made, want) in made.to_f64().into_iter().zip(want.to_f64()) {
                assert!(
                    (made - want).abs() <= 0.02 * (1.0 + want.abs()),
                    "{}: {made}, not {want}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn what_has_no_rule_says_why() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, 1, 40, 40]).unwrap();
    let whole = b.input("whole", DType::I32, [2]).unwrap();
    let message = |it: Result<Vec<Value>, Error>| it.unwrap_err().to_string();

    let coarse = b.name("coarse").cast(x, DType::F8E4M3).unwrap();
    let back = b.cast(coarse, DType::F32).unwrap();
    let text = message(b.name("d").gradient(back, &[x]));
    assert_eq!(
        text,
        "node 'd': gradient: cast of 'coarse' gives numbers that are too coarse to have derivatives"
    );

    let bits = b.unary(UnaryOp::ToBits, x).unwrap();
    let again = b.name("again").unary(UnaryOp::FromBits, bits).unwrap();
    let text = message(b.name("d").gradient(again, &[x]));
    assert_eq!(
        text,
        "node 'd': gradient: from_bits of 'again' reads bits, which are no function that has a derivative"
    );

    let window = Box::new(Window::unit(2));
    let (kernel, output) = ([33, 32].into(), [8, 9].into());
    let pooled = b.name("pooled").op(Op::Pool { kind: PoolKind::Max, window, kernel, output, x }).unwrap();
    let text = message(b.gradient(pooled, &[x]));
    assert!(text.ends_with("gradient: pool of 'pooled' has windows of more than 1024 elements"), "{text}");

    let flat = b.reshape(x, &[-1]).unwrap();
    let wide = b.expand(flat, [1 << 16, 1600]).unwrap();
    let places = b.input("places", DType::I64, [1 << 20]).unwrap();
    let many = b.name("many").gather(wide, 0, places).unwrap();
    let text = message(b.gradient(many, &[x]));
    assert!(text.contains("gather of 'many' compares") && text.ends_with("too many"), "{text}");

    for (y, by) in [(x, whole), (whole, x)] {
        let text = message(b.name("d").gradient(y, &[by]));
        assert!(text.starts_with("node 'd'") && text.contains("is i32[2], and only f16"), "{text}");
    }
    let other = GraphBuilder::new();
    assert!(message(other.clone().gradient(x, &[])).contains("made by another builder"));
    assert!(b.gradient(x, &[]).unwrap().is_empty());
}
