//! Kernels that add to a state where it lies: products of every form, and rows. What may not be done there is copied, and says why.

use std::io::Write;

use wgfuse::{
    DType, Device, Model, Session, Shape, Tensor, Tune, Type,
    compiler::{
        error::Error,
        graph::{
            Graph, Op, Value, Window,
            builder::{Geometry, GraphBuilder},
            eval::eval,
        },
        options::Options,
        schedule::{self, Skeleton, Tile, Why, in_place, verify::verify},
        target::Target,
    },
};
use wgfuse_tests::{
    compare::assert_close,
    device::{gpu, opened, options},
    random::Random,
    stages::stages,
};

type B = GraphBuilder;
type Made = Result<(), Error>;

fn graph(make: impl Fn(&mut B) -> Made) -> Graph {
    let mut b = GraphBuilder::new();
    make(&mut b).unwrap();
    b.finish().unwrap()
}

fn constant(b: &mut B, dtype: DType, shape: &[usize], seed: u64) -> Value {
    b.constant(Random::new(seed).tensor(&Type::new(dtype, shape), 1))
}

/// The state "sum" becomes what it was and `made`.
fn added(b: &mut B, made: Value, dtype: DType, shape: &[usize], first: bool) -> Made {
    let old = b.state("sum", dtype, shape)?;
    let new = if first { b.add(old, made)? } else { b.add(made, old)? };
    b.update(old, new)
}

/// Three runs of a graph: what is given, and what states, random before, are after.
struct Runs<'g> {
    graph: &'g Graph,
    before: Vec<Tensor>,
    runs: Vec<(Vec<Tensor>, Vec<Tensor>)>,
}

impl Runs<'_> {
    fn of(graph: &Graph) -> Runs<'_> {
        let value = |at: usize, seed: u64| Random::new(seed).tensor(&graph.inputs()[at].ty, 1);
        let before: Vec<Tensor> = (0..graph.inputs().len()).map(|it| value(it, it as u64)).collect();
        let (mut all, mut runs) = (before.clone(), Vec::new());
        for run in 0..3 {
            for (at, it) in all.iter_mut().enumerate().filter(|it| !is_state(graph, it.0)) {
                *it = value(at, 100 * run + at as u64);
            }
            let next = eval(graph, &all).unwrap();
            let given = all.clone();
            graph.states.iter().for_each(|it| all[it.input as usize] = next[it.output as usize].clone());
            runs.push((given, next));
        }
        Runs { graph, before, runs }
    }

    /// The session's states are the same after each.
    fn check(&self, what: &str, session: &Session, tolerance: f64) {
        let inputs = self.graph.inputs();
        let states = || self.graph.states.iter().map(|it| (&inputs[it.input as usize].name, it));
        states().for_each(|(name, it)| session.set_state(name, &self.before[it.input as usize]).unwrap());
        for (run, (given, next)) in self.runs.iter().enumerate() {
            let given: Vec<(&str, Tensor)> = (inputs.iter().zip(given).enumerate())
                .filter(|it| !is_state(self.graph, it.0))
                .map(|(_, (input, value))| (input.name.as_str(), value.clone()))
                .collect();
            session.run(&given).unwrap();
            for (name, it) in states() {
                let (have, want) = ([session.state(name).unwrap()], [next[it.output as usize].clone()]);
                assert_close(&format!("{what}, {name}, run {run}"), &have, &want, tolerance, tolerance);
            }
        }
    }
}

fn is_state(graph: &Graph, input: usize) -> bool {
    graph.states.iter().any(|it| it.input as usize == input)
}

fn kernels(session: &Session, graph: &Graph) -> Vec<String> {
    let given = graph.inputs().iter().enumerate();
    let shapes: Vec<Shape> = given
        .filter(|it| graph.states.iter().all(|state| state.input as usize != it.0))
        .map(|it| it.1.ty.shape.clone())
        .collect();
    session.plan_for(&shapes).unwrap().kernels.iter().map(|it| it.kernel.name.clone()).collect()
}

/// The graph on the processor, in one kernel, and on the GPU, in `count`. The schedules mean the same.
fn check(what: &str, graph: &Graph, count: usize, checked: bool, tolerance: f64) {
    let runs = Runs::of(graph);
    for device in [Device::cpu(), gpu()] {
        let what = format!("{what} on {}, checked {checked}", device.name());
        let options = Options { checked, ..options() };
        let session = Session::with_options(&Model::from_graph(graph.clone()), &device, options).unwrap();
        runs.check(&what, &session, tolerance);
        let names = kernels(&session, graph);
        assert_eq!(names.len(), if device.is_gpu() { count } else { 1 }, "{what}: {names:?}");
        let made = stages(graph.clone(), device.target(), &Options::default()).unwrap();
        let (given, next) = &runs.runs[0];
        let have = schedule::eval::eval(&made.schedule, given, &eval(&made.parts.constants, &[]).unwrap());
        assert_close(&format!("{what}: {}", made.schedule), &have, next, tolerance, tolerance);
    }
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-2,
        DType::BF16 => 1e-1,
        _ => 2e-4,
    }
}

fn matmul(dtype: DType, [rows, cols, depth]: [usize; 3], first: bool) -> Graph {
    graph(|b| {
        let x = b.input("x", dtype, [rows, depth])?;
        let w = constant(b, dtype, &[depth, cols], 7);
        let scale = b.scalar(dtype, 0.25);
        let x = b.mul(x, scale)?;
        let made = b.matmul(x, w)?;
        added(b, made, dtype, &[rows, cols], first)
    })
}

#[test]
fn products_of_all_tiles_add_to_a_state() {
    // Whole tiles and ragged ones, few rows, columns that no vector divides, sums that are written out, and long ones.
    let sizes = [
        ([64, 64, 32], 1),
        ([70, 150, 90], 1),
        ([128, 96, 64], 1),
        ([33, 31, 40], 1),
        ([1, 100, 520], 1),
        ([2, 37, 520], 1),
        ([5, 64, 256], 1),
        ([9, 7, 5], 1),
        ([12, 16, 2048], 2),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (number, (size, count)) in sizes.into_iter().enumerate() {
            let graph = matmul(dtype, size, number % 2 == 0);
            check(&format!("{dtype} {size:?}"), &graph, count, dtype == DType::F16, tolerance(dtype));
        }
    }
    let sums = graph(|b| {
        let x = b.input("x", DType::I32, [9, 21])?;
        let w = b.input("w", DType::I32, [21, 10])?;
        let made = b.matmul(x, w)?;
        added(b, made, DType::I32, &[9, 10], true)
    });
    check("integers", &sums, 1, false, 0.0);
}

#[test]
fn layers_add_to_a_state() {
    for dtype in [DType::F32, DType::F16] {
        for relu in [false, true] {
            for first in [relu, !relu].into_iter().take(if dtype == DType::F32 { 2 } else { 1 }) {
                let finish = |b: &mut B, made: Value, shape: &[usize]| {
                    let old = b.state("sum", dtype, shape)?;
                    let new = if first { b.add(old, made)? } else { b.add(made, old)? };
                    let new = if relu { b.relu(new)? } else { new };
                    b.update(old, new)
                };
                let linear = graph(|b| {
                    let x = b.input("x", dtype, [1, 2, 7, 11])?;
                    let (w, bias) = (constant(b, dtype, &[13, 11], 1), constant(b, dtype, &[13], 2));
                    let made = b.linear(x, w, Some(bias))?;
                    finish(b, made, &[1, 2, 7, 13])
                });
                let convolution = graph(|b| {
                    let x = b.input("x", dtype, [2, 3, 6, 7])?;
                    let (w, bias) = (constant(b, dtype, &[5, 3, 3, 3], 1), constant(b, dtype, &[5], 2));
                    let made = b.conv2d(x, w, Some(bias), Geometry { padding: 1, ..Geometry::default() })?;
                    finish(b, made, &[2, 5, 6, 7])
                });
                let transposed = graph(|b| {
                    let x = b.input("x", dtype, [2, 3, 4, 5])?;
                    let (w, bias) = (constant(b, dtype, &[3, 5, 2, 2], 1), constant(b, dtype, &[5], 2));
                    let window = Window { strides: [2, 2].into_iter().collect(), ..Window::unit(2) };
                    let output = [8, 10].into();
                    let op = Op::ConvTranspose {
                        window: window.into(),
                        groups: 1,
                        output,
                        x,
                        w,
                        bias: Some(bias),
                    };
                    let made = b.op(op)?;
                    finish(b, made, &[2, 5, 8, 10])
                });
                let all = [("linear", linear), ("convolution", convolution), ("transposed", transposed)];
                for (what, graph) in &all {
                    check(&format!("{what} {dtype} relu {relu} {first}"), graph, 1, first, tolerance(dtype));
                }
            }
        }
    }
}

/// A running mean of every row, and a pair of products of few rows.
#[test]
fn rows_and_gates_add_to_a_state() {
    for (rows, length) in [(3, 5), (7, 300), (2, 5000), (70, 64)] {
        for dtype in [DType::F32, DType::F16] {
            let means = graph(|b| {
                let x = b.input("x", dtype, [rows, length])?;
                let mean = b.mean(x, &[1], false)?;
                let old = b.state("mean", dtype, [rows])?;
                let (old_part, new_part) = (b.mul_scalar(old, 0.75)?, b.mul_scalar(mean, 0.25)?);
                let new = b.add(old_part, new_part)?;
                b.update(old, new)
            });
            check(&format!("means {dtype} {rows} {length}"), &means, 1, rows == 7, tolerance(dtype));
        }
    }
    let gate = graph(|b| {
        let x = b.input("x", DType::F32, [1, 256])?;
        let (u, v) = (constant(b, DType::F32, &[48, 256], 1), constant(b, DType::F32, &[48, 256], 2));
        let (u, v) = (b.linear(x, u, None)?, b.linear(x, v, None)?);
        let u = b.sigmoid(u)?;
        let made = b.mul(u, v)?;
        added(b, made, DType::F32, &[1, 48], true)
    });
    let device = gpu();
    let session = Session::with_options(&Model::from_graph(gate.clone()), &device, options()).unwrap();
    Runs::of(&gate).check("gate", &session, 1e-3);
    assert_eq!(kernels(&session, &gate).len(), 1, "{:?}", kernels(&session, &gate));
}

/// Of whole tiles and of ragged ones. Where the adapter has no such matrices, kernels are only made and verified.
#[test]
fn matrix_units_add_to_a_state() {
    let large = Target {
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 49_152,
        subgroup: Some((32, 32)),
        f16: true,
        cooperative: vec![[16, 16, 16]],
        components_apart: true,
        ..Target::webgpu_minimum()
    };
    let runs = !gpu().target().cooperative.is_empty();
    if !runs {
        // Not by `eprintln!`, which the test harness would swallow.
        let text = "\nNOT RUN: the adapter has no cooperative matrices of f16; sums in place on them were only made\n";
        std::io::stderr().write_all(text.as_bytes()).expect("a standard error");
    }
    for (pairs, dtype) in [(false, DType::F16), (true, DType::F32)] {
        for size @ [rows, cols, depth] in [[1024, 1024, 512], [2056, 1992, 1000]] {
            let target = Target { pairs, ..large.clone() };
            let graph = matmul(dtype, size, true);
            let made = stages(graph.clone(), &target, &Options::default()).unwrap();
            let [kernel] = &made.schedule.kernels[..] else { panic!("{}", made.schedule) };
            let cooperative =
                matches!(&kernel.skeleton, Skeleton::Contract { tile: Tile::Cooperative { .. }, .. });
            assert!(cooperative, "{size:?} {dtype}: {}", made.schedule);
            assert_eq!(verify(&made.schedule, &target), Vec::<String>::new());
            if runs {
                let sums = [Device::cpu(), gpu()].map(|device| {
                    let session = Session::new(&Model::from_graph(graph.clone()), &device).unwrap();
                    session
                        .set_state("sum", &Random::new(1).tensor(&Type::new(dtype, [rows, cols]), 1))
                        .unwrap();
                    for run in 0..3 {
                        let x = Random::new(run).tensor(&Type::new(dtype, [rows, depth]), 1);
                        session.run(&[("x", x)]).unwrap();
                    }
                    assert_eq!(kernels(&session, &graph).len(), 1);
                    [session.state("sum").unwrap()]
                });
                assert_close(&format!("{dtype} {size:?}"), &sums[1], &sums[0], tolerance(dtype), 4e-2);
            }
        }
    }
}

/// Each trial begins with what it is given: runs of one do not add up, so that other tiles agree with the first.
#[test]
fn tuning_measures_beside_the_state() {
    let graph = matmul(DType::F32, [70, 150, 90], true);
    let session =
        Session::new(&Model::from_graph(graph.clone()), &opened().cache_in(None)).unwrap().tune(Tune::On);
    Runs::of(&graph).check("tuned", &session, 1e-3);
    let tuned = session.tuned();
    let measured = tuned.iter().find(|it| it.kernel.contains("product")).and_then(|it| it.measured).unwrap();
    assert!(measured.tried > 1 && measured.wrong == 0, "{measured:?}");
}

fn refused(why: in_place::Why, make: impl Fn(&mut B) -> Made) {
    let graph = graph(make);
    for target in [gpu().target().clone(), Target::cpu()] {
        let schedule = stages(graph.clone(), &target, &Options::default()).unwrap().schedule;
        let found = schedule.refusals.iter().any(|it| it.why == Why::State(why));
        assert!(found, "{why:?}: {schedule}");
        assert_eq!(schedule::text::parse(&schedule.to_string()).unwrap(), schedule);
        // It says so in words.
        assert!(Why::State(why).to_string().contains(&why.to_string()));
    }
    let runs = Runs::of(&graph);
    for device in [Device::cpu(), gpu()] {
        let session = Session::with_options(&Model::from_graph(graph.clone()), &device, options()).unwrap();
        runs.check(&format!("{why:?} on {}", device.name()), &session, 1e-3);
    }
}

#[test]
fn what_is_copied_says_why() {
    let square = |b: &mut B| -> Result<(Value, Value, Value), Error> {
        let x = b.input("x", DType::F32, [6, 6])?;
        let old = b.state("sum", DType::F32, [6, 6])?;
        let w = constant(b, DType::F32, &[6, 6], 5);
        Ok((x, old, w))
    };
    refused(in_place::Why::Reduced, |b| {
        let (x, old, w) = square(b)?;
        let made = b.matmul(old, w)?;
        let new = b.add(made, x)?;
        b.update(old, new)
    });
    refused(in_place::Why::Elsewhere, |b| {
        let (x, old, w) = square(b)?;
        let made = b.matmul(x, w)?;
        let turned = b.transpose(old, 0, 1)?;
        let new = b.add(made, turned)?;
        b.update(old, new)
    });
    refused(in_place::Why::Beside, |b| {
        let (x, old, w) = square(b)?;
        let made = b.matmul(x, w)?;
        let new = b.add(made, old)?;
        b.update(old, new)?;
        let other = b.mul(made, old)?;
        b.output("other", other)
    });
    refused(in_place::Why::Row, |b| {
        let (x, old, _) = square(b)?;
        let made = b.softmax(x, 1)?;
        let new = b.add(made, old)?;
        b.update(old, new)
    });
    refused(in_place::Why::Awaited, |b| {
        let (x, old, w) = square(b)?;
        let made = b.matmul(x, w)?;
        let new = b.add(made, old)?;
        b.update(old, new)?;
        let both = b.matmul(new, old)?;
        b.output("both", both)
    });
    refused(in_place::Why::Attention, |b| {
        let q = b.input("q", DType::F32, [1, 2, 9, 8])?;
        let k = b.input("k", DType::F32, [1, 2, 9, 8])?;
        let old = b.state("sum", DType::F32, [1, 2, 9, 8])?;
        let made = b.attention(q, k, k, None, false)?;
        let new = b.add(made, old)?;
        b.update(old, new)
    });
}
