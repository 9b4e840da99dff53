//! Every rule: it fires, the graph becomes what was expected, keeps its meaning and then stays as it is. The files of cases are
//! named after those of the rules; folding is with algebra, gathers are with views.

mod algebra;
mod attention;
mod batch_norm;
mod composite;
mod join;
mod linear;
mod norm_before;
mod options;
mod pattern;
mod random;
mod uniform;
mod view;

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

/// The graph after the rewrites of one pass, and their names.
fn applied(pass: &'static Pass, graph: &Graph, licence: Licence) -> (Graph, Vec<String>) {
    let mut ledger = Ledger::default();
    let next =
        rewrite(graph.clone(), &rewrites(pass), licence, Cow::Borrowed(pass.name), &mut ledger).unwrap();
    (next, ledger.applied.iter().map(|it| it.rule.to_string()).collect())
}

/// The graph of `make`'s value, optimised; and the names of the rules that fired.
#[track_caller]
fn run(make: impl FnOnce(&mut B) -> Result<Value, Error>, licence: Licence) -> (Graph, Vec<String>) {
    let mut b = GraphBuilder::new();
    let y = make(&mut b).unwrap();
    b.output("y", y).unwrap();
    let before = b.finish().unwrap();
    let (mut graph, mut fired) = (before.clone(), Vec::new());
    for pass in PIPELINE {
        if let Some(whole) = pass.whole {
            graph = whole(&graph, &Target::cpu(), &Options::default()).unwrap();
        }
        let (next, names) = applied(pass, &graph, licence);
        assert_eq!(fault(&next), None, "after {}", pass.name);
        graph = next;
        fired.extend(names);
    }
    for seed in 0..3 {
        assert_same(&before, &graph, licence == Licence::Exact, seed);
    }
    for pass in PIPELINE {
        let again = applied(pass, &graph, licence).1;
        assert_eq!(again, Vec::<String>::new(), "{} is not idempotent:\n{graph}", pass.name);
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
type Case = (&'static str, Make, &'static str);

const CASES: [&[Case]; 7] = [
    algebra::CASES,
    view::CASES,
    join::CASES,
    uniform::CASES,
    composite::CASES,
    batch_norm::CASES,
    norm_before::CASES,
];

#[test]
fn each_rule() {
    for (rule, make, left) in CASES.into_iter().flatten() {
        let licence = match all_rules().find(|it| it.name() == *rule) {
            Some(it) => it.licence(),
            None => panic!("there is no rule {rule}"),
        };
        let (graph, fired) = run(make, licence);
        assert!(fired.iter().any(|it| it == rule), "{rule} does not fire, but {fired:?} do:\n{graph}");
        assert_eq!(ops(&graph), *left, "{rule}: {fired:?}\n{graph}");
        if licence == Licence::Exact {
            run(make, Licence::Relaxed);
        }
    }
}

fn all_rules() -> impl Iterator<Item = &'static dyn Rewrite> {
    PIPELINE.iter().flat_map(rewrites)
}

#[test]
fn every_rule_has_a_test() {
    let elsewhere = ["gelu", "gelu-tanh", "attention", "attention-scale", "grouped-heads", "causal-mask"];
    for rule in all_rules() {
        let name = &*rule.name();
        let tested = CASES.into_iter().flatten().any(|it| it.0 == name) || elsewhere.contains(&name);
        assert!(tested, "{name} has no test");
    }
}
