//! ONNX's operator Gradient: at the tensors that it names and at others, once and twice, in functions and branches, and what it refuses.

use prost::Message;
use wgfuse::{Device, Model, Session};
use wgfuse_compiler::{import::onnx::proto::*, tensor::Tensor};
use wgfuse_tests::{
    device::{gpu, options},
    seed_models::{
        BOOL, FLOAT, INT, TRAINING, With, floats, gradient, graph, info, ints, model, node, scalar,
    },
};

fn file(nodes: Vec<NodeProto>, inputs: &[(&str, i32, &[&str])], outputs: &[&str]) -> ModelProto {
    let mut file = model(GraphProto {
        input: inputs.iter().map(|(name, of, dims)| info(name, *of, dims)).collect(),
        ..graph(nodes, vec![], outputs)
    });
    file.opset_import.push(OperatorSetIdProto { domain: TRAINING.into(), version: 1 });
    file
}

fn f(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::f32(shape, values).unwrap()
}

/// What a processor and a GPU make of it, which is the same.
fn run(file: &ModelProto, inputs: &[(&str, Tensor)]) -> Vec<Vec<f64>> {
    let [first, second] = [Device::cpu(), gpu()].map(|device| {
        let model = Model::from_bytes(file.encode_to_vec()).unwrap();
        let session = Session::with_options(&model, &device, options()).unwrap();
        let made = session.run(inputs).unwrap();
        made.into_iter().map(|it| it.1.to_f64()).collect::<Vec<_>>()
    });
    for (a, b) in first.iter().flatten().zip(second.iter().flatten()) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{first:?} and {second:?}");
    }
    first
}

fn near(made: &[f64], want: &[f64]) {
    let close = made.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()));
    assert!(made.len() == want.len() && close, "{made:?} is not {want:?}");
}

const VECTOR: &[&str] = &["3"];

fn vector(name: &str) -> (&str, i32, &[&str]) {
    (name, FLOAT, VECTOR)
}

/// A layer, a loss and its derivative by the weights, against differences in f64.
#[test]
fn a_layer_against_differences() {
    let (x, w) = ([0.5f32, -1.0, 2.0, 0.25, 1.5, -0.75], [0.3f32, -0.2, 0.9, 0.4, -0.6, 0.1]);
    let loss = |x: &[f64], w: &[f64]| -> f64 {
        let mut sum = 0.0;
        for row in 0..2 {
            for column in 0..2 {
                let made: f64 = (0..3).map(|at| x[row * 3 + at] * w[at * 2 + column]).sum();
                sum += made.tanh() * made.tanh();
            }
        }
        sum / 4.0
    };
    let nodes = vec![
        node("MatMul", "x w", "h"),
        node("Tanh", "h", "t"),
        node("Mul", "t t", "squares"),
        node("ReduceMean", "squares", "loss").int("keepdims", 0),
        gradient("w x", "", "loss", "w x", "by_w by_x"),
    ];
    let file =
        file(nodes, &[("x", FLOAT, &["2", "3"]), ("w", FLOAT, &["3", "2"])], &["by_w", "by_x", "loss"]);
    let made = run(&file, &[("x", f(&[2, 3], &x)), ("w", f(&[3, 2], &w))]);
    let (x, w) = (x.map(f64::from), w.map(f64::from));
    let by = |at: usize, of_x: bool| {
        let moved = |by: f64| {
            let (mut x, mut w) = (x, w);
            if of_x {
                x[at] += by
            } else {
                w[at] += by
            }
            loss(&x, &w)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    };
    near(&made[0], &(0..6).map(|at| by(at, false)).collect::<Vec<_>>());
    near(&made[1], &(0..6).map(|at| by(at, true)).collect::<Vec<_>>());
    near(&made[2], &[loss(&x, &w)]);
}

#[test]
fn at_other_tensors() {
    let product = || node("Mul", "a b", "y");
    let inputs = &[vector("a"), vector("b"), vector("c")][..];
    let given = [
        ("a", f(&[3], &[1.0, 2.0, 3.0])),
        ("b", f(&[3], &[4.0, 5.0, 6.0])),
        ("c", f(&[3], &[7.0, 8.0, 9.0])),
    ];
    let made = |nodes: Vec<NodeProto>| run(&file(nodes, inputs, &["p", "q"]), &given);
    // One tensor for two names: neither is the other.
    let twice = made(vec![product(), gradient("a b", "", "y", "c c", "p q")]);
    assert_eq!(twice, [[7.0, 8.0, 9.0], [7.0, 8.0, 9.0]]);
    let held =
        made(vec![product(), gradient("a", "b", "y", "c c", "p"), gradient("b", "a", "y", "a b", "q")]);
    assert_eq!(held, [[7.0, 8.0, 9.0], [4.0, 5.0, 6.0]]);
    // What follows from another at the place of y's operands does not there.
    let follows = made(vec![product(), node("Mul", "c c", "s"), gradient("a b", "", "y", "c s", "p q")]);
    assert_eq!(follows, [[49.0, 64.0, 81.0], [7.0, 8.0, 9.0]]);
    // By a tensor between, at another value; y itself; nothing of an x.
    let nodes =
        vec![node("Add", "a b", "h"), node("Mul", "h h", "y"), gradient("h c", "", "y", "b a", "p q")];
    assert_eq!(made(nodes), [[8.0, 10.0, 12.0], [0.0; 3]]);
    let own = made(vec![product(), gradient("y", "a", "y", "c a", "p"), node("Identity", "a", "q")]);
    assert_eq!(own[0], [1.0; 3]);
}

#[test]
fn twice_and_thrice() {
    let nodes = vec![
        node("Mul", "x x", "s"),
        node("Mul", "s x", "y"),
        gradient("x", "", "y", "x", "once"),
        gradient("x", "", "once", "x", "twice"),
        gradient("x", "", "twice", "x", "thrice"),
    ];
    let made =
        run(&file(nodes, &[vector("x")], &["once", "twice", "thrice"]), &[("x", f(&[3], &[1.0, 2.0, -3.0]))]);
    near(&made[0], &[3.0, 12.0, 27.0]);
    near(&made[1], &[6.0, 12.0, -18.0]);
    near(&made[2], &[6.0; 3]);
    // As in the operator's text: of a product by both, and the derivative of one by both.
    let nodes = vec![
        node("Mul", "w x", "y"),
        node("Sub", "y l", "d"),
        node("Mul", "d d", "o"),
        gradient("x w", "l", "o", "x w l", "_ by_w"),
        gradient("x w", "l", "by_w", "x w l", "mixed pure"),
    ];
    let given = [
        ("w", f(&[3], &[1.0, 2.0, 3.0])),
        ("x", f(&[3], &[0.5, -1.0, 2.0])),
        ("l", f(&[3], &[1.0, 1.0, -1.0])),
    ];
    let made =
        run(&file(nodes, &[vector("w"), vector("x"), vector("l")], &["by_w", "mixed", "pure"]), &given);
    // o = (w x - l)^2
    near(&made[0], &[-0.5, 6.0, 28.0]);
    near(&made[1], &[0.0, -10.0, 26.0]);
    near(&made[2], &[0.5, 2.0, 8.0]);
}

#[test]
fn constants_functions_and_branches() {
    let given = [("x", f(&[3], &[1.0, 2.0, -3.0]))];
    // Initialisers and constants between, one as x; the first output left out.
    let nodes = vec![
        node("Mul", "x w", "h"),
        node("Gather", "h last", "g").int("axis", 0),
        node("Mul", "g h", "y"),
        gradient("w x", "", "y", "w x", "_ by_x"),
    ];
    let mut whole = file(nodes, &[vector("x")], &["by_x"]);
    let held = whole.graph.as_mut().unwrap();
    held.initializer = vec![floats("w", &[3]), ints("last", &[-1])];
    // w is -0.5, -0.25, 0.
    near(&run(&whole, &given)[0], &[0.0, 0.0, 0.0]);

    // In a function, whose names are its own.
    let own = OperatorSetIdProto { domain: "own".into(), version: 1 };
    let call = NodeProto { domain: "own".into(), ..node("Slope", "x", "y") };
    let mut called = file(vec![call], &[vector("x")], &["y"]);
    called.opset_import.push(own);
    called.functions.push(FunctionProto {
        name: "Slope".into(),
        domain: "own".into(),
        input: vec!["a".into()],
        output: vec!["d".into()],
        node: vec![node("Mul", "a a", "s"), gradient("a", "", "s", "a", "d")],
        ..Default::default()
    });
    assert_eq!(run(&called, &given), [[2.0, 4.0, -6.0]]);

    // In a branch that values choose, of names that are the branch's.
    let inside = |nodes: Vec<NodeProto>, output: &str| GraphProto {
        node: nodes,
        output: vec![info(output, FLOAT, &[])],
        ..Default::default()
    };
    let derived = vec![node("Identity", "x", "a"), node("Mul", "a a", "s"), gradient("a", "", "s", "a", "d")];
    let nodes = vec![
        node("ReduceSum", "x", "sum").int("keepdims", 0),
        node("Cast", "sum", "c").int("to", BOOL.into()),
        node("If", "c", "y")
            .graph("then_branch", inside(vec![node("Neg", "x", "n")], "n"))
            .graph("else_branch", inside(derived, "d")),
    ];
    assert_eq!(run(&file(nodes, &[vector("x")], &["y"]), &given), [[2.0, 4.0, -6.0]]);

    // At a tensor whose shape only values say.
    let nodes = vec![
        node("Relu", "x", "r"),
        node("NonZero", "r", "places"),
        node("Squeeze", "places", "at"),
        node("Gather", "x at", "v"),
        node("Mul", "x x", "s"),
        gradient("x", "", "s", "v", "y"),
    ];
    assert_eq!(run(&file(nodes, &[vector("x")], &["y"]), &given), [[2.0, 4.0]]);

    // A branch between, by a condition that is known.
    let nodes = vec![
        node("If", "yes", "b")
            .graph("then_branch", inside(vec![node("Mul", "x x", "n")], "n"))
            .graph("else_branch", inside(vec![node("Neg", "x", "m")], "m")),
        node("SequenceConstruct", "b x", "q"),
        node("SequenceAt", "q zero", "y"),
        gradient("x", "", "y", "x", "d"),
    ];
    let mut chosen = file(nodes, &[vector("x")], &["d"]);
    let yes =
        TensorProto { name: "yes".into(), data_type: BOOL, raw_data: vec![1].into(), ..Default::default() };
    chosen.graph.as_mut().unwrap().initializer = vec![yes, scalar("zero", 0)];
    assert_eq!(run(&chosen, &given), [[2.0, 4.0, -6.0]]);
}

fn refused(file: &ModelProto) -> String {
    let parsed = wgfuse_compiler::import::Model::from_bytes(file.encode_to_vec().into()).unwrap();
    let shapes: Vec<_> = parsed.inputs.iter().map(|_| [3].into()).collect();
    parsed.graph(&shapes).map(|it| it.len()).expect_err("nodes were made").to_string()
}

#[test]
fn what_is_refused_says_why() {
    let inputs = &[vector("a"), vector("b"), ("i", INT, VECTOR)][..];
    let says = |nodes: Vec<NodeProto>, words: &[&str]| {
        let text = refused(&file(nodes, inputs, &["p"]));
        assert!(text.contains("'Gradient_1'") && words.iter().all(|it| text.contains(it)), "{text}");
    };
    let product = || node("Mul", "a b", "y");
    let one = |node: NodeProto, words: &[&str]| says(vec![product(), node], words);
    one(gradient("", "a", "y", "a", "p"), &["names nothing"]);
    one(gradient("a", "b", "", "a b", "p"), &["names nothing"]);
    one(gradient("a", "q", "y", "a b", "p"), &["there is no tensor 'q'"]);
    one(gradient("a", "b", "q", "a b", "p"), &["there is no tensor 'q'"]);
    one(gradient("a", "b", "y", "a", "p"), &["1 operands for 2 names"]);
    one(gradient("a", "a", "y", "a a", "p"), &["name a tensor twice"]);
    one(gradient("a", "b", "y", "a b", "p q"), &["2 outputs for 1 names"]);
    one(gradient("a", "", "y", "a", "p"), &["'y' depends on the input 'b'"]);
    one(gradient("a", "b", "y", "i b", "p"), &["'a' is i64[3], and only f16"]);
    one(gradient("a", "b", "y", "a b", "p").int("deep", 1), &["the attribute 'deep'"]);
    one(gradient("i", "", "i", "i", "p"), &["only f16, bf16, f32 and f64"]);
    let sequence = node("SequenceConstruct", "a b", "y");
    says(vec![sequence.clone(), gradient("a b", "", "y", "a b", "p _")], &["'y' names no tensor"]);
    says(vec![sequence, gradient("y", "", "y", "y", "p")], &["'y' is no tensor"]);
    let nodes = vec![node("NonZero", "a", "n"), node("Gather", "a n", "g"), gradient("a", "", "g", "a", "p")];
    let text = refused(&file(nodes, inputs, &["p"]));
    assert!(text.contains("Gradient") && text.contains("decided by values"), "{text}");
    let random = node("RandomNormalLike", "a", "y");
    says(vec![random, gradient("a", "", "y", "a", "p")], &["random values lie between"]);
    let rounded = node("Cast", "a", "e").int("to", 17);
    let nodes =
        vec![rounded, gradient("a", "", "y", "a", "p"), node("Cast", "e", "y").int("to", FLOAT.into())];
    let text = refused(&file(nodes, inputs, &["p"]));
    assert!(text.contains("Gradient") && text.contains("too coarse"), "{text}");

    // A graph inside of a node has names of its own only.
    let inside = |of: NodeProto| GraphProto {
        node: vec![node("Mul", "a a", "s"), of],
        output: vec![info("d", FLOAT, &[])],
        ..Default::default()
    };
    let branch = |of: NodeProto| {
        let other = inside(node("Neg", "a", "d"));
        let nodes = vec![node("If", "yes", "p").graph("then_branch", inside(of)).graph("else_branch", other)];
        let mut it = file(nodes, inputs, &["p"]);
        let yes = TensorProto {
            name: "yes".into(),
            data_type: BOOL,
            raw_data: vec![1].into(),
            ..Default::default()
        };
        it.graph.as_mut().unwrap().initializer = vec![yes];
        refused(&it)
    };
    let text = branch(gradient("a", "", "s", "a", "d"));
    assert!(text.contains("'If_0/Gradient_1'") && text.contains("'a' is of a graph around"), "{text}");
}

/// Each order takes some times the nodes of the one before.
#[test]
fn orders_end() {
    let mut nodes = vec![node("Sin", "x", "s"), node("Mul", "s x", "y0")];
    let names: Vec<&'static str> = (0..40).map(|at| &*format!("y{at}").leak()).collect();
    for at in 1..40 {
        nodes.push(gradient("x", "", names[at - 1], "x", names[at]));
    }
    let text = refused(&file(nodes, &[vector("x")], &["y39"]));
    assert!(text.contains("unfolds without bound") || text.contains("nested deeper"), "{text}");
}

/// Windows of 1024 elements are some ten thousand nodes each.
#[test]
fn windows_end() {
    let names: Vec<&'static str> = (0..200).map(|at| &*format!("y{at}").leak()).collect();
    let pool = |at: usize| {
        let pool = node("MaxPool", names[at - 1], names[at]).ints("kernel_shape", &[32, 32]);
        pool.ints("pads", &[15, 15, 16, 16])
    };
    let mut nodes: Vec<NodeProto> = (1..200).map(pool).collect();
    nodes.push(gradient("y0", "", names[199], "y0", "p"));
    let mut file = file(nodes, &[vector("x")], &["p"]);
    file.graph.as_mut().unwrap().initializer = vec![floats("y0", &[1, 1, 32, 32])];
    let text = refused(&file);
    assert!(text.contains("'Gradient_199'") && text.contains("take more than 524288 nodes"), "{text}");
}
