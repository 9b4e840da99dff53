//! Whole networks and random graphs, derived by what goes in.

use wgfuse::{Device, Model, Session};
use wgfuse_compiler::{
    dtype::DType,
    graph::{
        Graph, Op, Output, Value,
        eval::eval,
        gradient::gradient,
        text::{Constants, parse, print},
    },
    scalar::{BinaryOp, ReduceOp, Scalar},
    shape::Type,
    tensor::Tensor,
};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
    random_graph::random_graph,
    zoo,
};

/// The sum of the first output's elements by random weights.
fn weighed(graph: &mut Graph) -> Value {
    let y = graph.outputs[0].value;
    let ty = graph.ty(y).clone();
    let weights = graph.add_constant(Random::new(3).tensor(&ty, 1));
    let terms = graph.add(Op::Binary(BinaryOp::Mul, y, weights)).unwrap();
    let axes = (0..ty.shape.rank()).collect();
    graph.add(Op::Reduce { op: ReduceOp::Sum, axes, keep: false, x: terms }).unwrap()
}

/// That sum, and its derivative by the first input.
fn derived(graph: &mut Graph) {
    let x = graph.add(Op::Input { slot: 0 }).unwrap();
    let sum = weighed(graph);
    let by = gradient(graph, sum, &[x]).unwrap()[0];
    let output = |name: &str, value: Value| Output { name: name.into(), value };
    graph.outputs = vec![output("sum", sum), output("by", by)];
}

/// The largest difference of two tensors, in parts of the largest element.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.ty(), b.ty());
    let (a, b) = (a.to_f64(), b.to_f64());
    let most = b.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
    // NaN is as far as can be.
    let far = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() };
    a.iter().zip(&b).map(far).fold(0.0, |most, it| if it <= most { most } else { it }) / most
}

#[test]
fn networks_by_their_images() {
    for name in ["test_resnet", "test_vit", "test_convnext", "unet_tiny", "mobilenetv3_small_050"] {
        let case = zoo::load(name).unwrap();
        let shapes: Vec<_> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        let mut graph = case.model.graph(&shapes).unwrap();
        let before = graph.len();
        derived(&mut graph);
        let graph = graph.rebuild(|to, op| to.add(op)).unwrap();
        let want = eval(&graph, &case.inputs).unwrap();

        // Up the derivative, where single elements' rounding hides nothing.
        let by = want[1].to_f64();
        let most = by.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
        let way: Vec<f64> = by.iter().map(|it| it / most).collect();
        let step = 1e-3;
        let sum = |by: f64| {
            let values = case.inputs[0].to_f64().into_iter().zip(&way);
            let moved = values.map(|(it, way)| Scalar::of(case.inputs[0].dtype(), it + by * way));
            let mut inputs = case.inputs.clone();
            inputs[0] = Tensor::from_scalars(case.inputs[0].ty().clone(), moved.collect::<Vec<_>>());
            let mut forward = graph.clone();
            forward.outputs.truncate(1);
            eval(&forward, &inputs).unwrap()[0].to_f64()[0]
        };
        let slope = (sum(step) - sum(-step)) / (2.0 * step);
        let along: f64 = by.iter().zip(&way).map(|(a, b)| a * b).sum();
        println!(
            "{name}: {before} nodes, {} with the derivative; {along} along a way, {slope} by differences",
            graph.len()
        );
        assert!((along - slope).abs() <= 0.02 * along, "{name}: {along}, not {slope}");

        for device in [Device::cpu(), gpu()] {
            let model = Model::from_graph(graph.clone());
            let session = Session::with_options(&model, &device, options()).unwrap();
            let names = graph.inputs().iter().map(|it| it.name.as_str());
            let given: Vec<_> = names.zip(case.inputs.iter().cloned()).collect();
            let made = session.run(&given).unwrap();
            let far = apart(&made[1], &want[1]);
            println!("{name}: {far} apart");
            assert!(far < 1e-3, "{name}: {far} apart");
        }
    }
}

/// Ops in any order, in f64, along random ways.
#[test]
fn random_graphs_by_their_inputs() {
    let mut derivatives = 0;
    for seed in 0..300 {
        let (graph, inputs) = random_graph(seed);
        let mut graph = parse(&print(&graph, Constants::All).replace("f32", "f64")).unwrap();
        let inputs: Vec<Tensor> = inputs.iter().map(|it| wide(it, &vec![0.0; it.shape().count()])).collect();
        let xs: Vec<Value> =
            (0..inputs.len() as u32).map(|slot| graph.add(Op::Input { slot }).unwrap()).collect();
        let sum = weighed(&mut graph);
        let by = gradient(&mut graph, sum, &xs).unwrap();
        let all = [sum].into_iter().chain(by);
        graph.outputs = all.map(|value| Output { name: format!("{value:?}"), value }).collect();
        let made = eval(&graph, &inputs).unwrap();
        graph.outputs.truncate(1);
        let mut random = Random::new(seed);
        let ways: Vec<Vec<f64>> =
            inputs.iter().map(|it| (0..it.shape().count()).map(|_| random.unit()).collect()).collect();
        let at = |step: f64| {
            let moved = |(it, way): (&Tensor, &Vec<f64>)| {
                wide(it, &way.iter().map(|it| it * step).collect::<Vec<f64>>())
            };
            let inputs: Vec<Tensor> = inputs.iter().zip(&ways).map(moved).collect();
            eval(&graph, &inputs).unwrap()[0].to_f64()[0]
        };
        let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
        let each = made[1..].iter().zip(&ways).flat_map(|(by, way)| {
            let by = by.to_f64();
            way.iter().zip(by).map(|(way, by)| way * by).collect::<Vec<f64>>()
        });
        let along: f64 = each.sum();
        derivatives += usize::from(along != 0.0);
        assert!(
            (along - slope).abs() <= 1e-5 * (1.0 + slope.abs()),
            "seed {seed}: {along}, not {slope}, of\n{}",
            print(&graph, Constants::Small)
        );
    }
    assert!(derivatives > 200, "only {derivatives} depend on their inputs");
}

/// The tensor in f64, and `more` to each element.
fn wide(tensor: &Tensor, more: &[f64]) -> Tensor {
    let values = tensor.to_f64().into_iter().zip(more).map(|(it, more)| Scalar::Float(it + more));
    Tensor::from_scalars(Type::new(DType::F64, tensor.shape().clone()), values.collect::<Vec<_>>())
}
