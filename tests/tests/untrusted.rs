//! Small files that ask for much: sizes, counts, turns and depths are refused before memory is asked for, in words that name the node.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use prost::Message;
use wgfuse::{
    Device, Model, Options, Session, Shape, Target, Tensor,
    compiler::{
        artefact::Artefact,
        compile_graph,
        import::{self, Begin, onnx::proto::*},
        schedule::Choices,
    },
};
use wgfuse_tests::{
    bounded::Bounded,
    random::Random,
    seed_models::{
        BOOL, FLOAT, INT, With, collected, floats, graph, info, ints, model, node, scalar, seed_models,
    },
    spent::spent,
};
use xxhash_rust::xxh3::xxh3_128;

const MEMORY: u64 = 64 << 20;
/// No case may work for longer, in a build for development.
const LONGEST: Duration = Duration::from_secs(10);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(4 * MEMORY as usize, 16 * MEMORY as usize);

/// One case at a time: they share a bound.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|it| it.into_inner())
}

fn options() -> Options {
    Options { memory_limit: MEMORY, work_limit: 1 << 30, turn_limit: 1000, ..Options::default() }
}

/// What is said of a file when it is compiled for x f32[2,4].
fn refused(file: &ModelProto) -> String {
    let begin = spent();
    let bytes = file.encode_to_vec();
    assert!(bytes.len() < 1 << 20, "{} bytes are no small file", bytes.len());
    let compile = || {
        let model = import::Model::from_bytes(bytes.into())?;
        let shapes: Vec<Shape> = vec![[2, 4].into(); model.inputs.len()];
        let graph = match model.begin(&shapes)? {
            Begin::Graph(graph) => graph,
            Begin::Stretch(stretch) => stretch.graph,
        };
        compile_graph(graph, &Target::webgpu_minimum(), &options(), &Choices::default())
    };
    let error = compile().expect_err("refused").to_string();
    let took = spent() - begin;
    assert!(took < LONGEST, "{took:?}: {error}");
    error
}

/// What is said of a run of a file on the processor.
fn stopped(file: &ModelProto) -> String {
    let begin = spent();
    let model = Model::from_bytes(file.encode_to_vec()).expect("a model");
    let session = Session::with_options(&model, &Device::cpu(), options()).expect("a session");
    let x = Tensor::f32([2, 4], &[1.0; 8]).expect("8 values");
    let error = session.run(&[("x", x)]).expect_err("stopped").to_string();
    let took = spent() - begin;
    assert!(took < LONGEST, "{took:?}: {error}");
    error
}

fn says(error: &str, all: &[&str]) {
    assert!(all.iter().all(|it| error.contains(it)), "{all:?} are not in: {error}");
}

#[test]
fn results_of_huge_sizes() {
    let _alone = alone();
    let big = ints("big", &[1 << 20, 1 << 20]);
    let huge = ints("huge", &[1 << 31, 1 << 31, 1 << 31]);
    let cases: Vec<(NodeProto, Vec<TensorProto>)> = vec![
        (node("ConstantOfShape", "big", "y"), vec![big.clone()]),
        (node("ConstantOfShape", "huge", "y"), vec![huge.clone()]),
        (node("Expand", "one big", "y"), vec![floats("one", &[1]), big.clone()]),
        (node("Expand", "one huge", "y"), vec![floats("one", &[1]), huge]),
        (node("Tile", "x big", "y"), vec![big.clone()]),
        (node("Pad", "x pads", "y"), vec![ints("pads", &[1 << 40, 0, 0, 1 << 40])]),
        (node("Pad", "x pads", "y"), vec![ints("pads", &[i64::MAX, 0, i64::MAX, 0])]),
        (node("Resize", "x _ _ big", "y"), vec![big]),
        (
            node("Resize", "x _ scales", "y").text("mode", "linear"),
            vec![TensorProto {
                raw_data: [1e9f32, 1e9].iter().flat_map(|it| it.to_le_bytes()).collect(),
                ..floats("scales", &[2])
            }],
        ),
        (
            node("Range", "zero most one", "y"),
            vec![scalar("zero", 0), scalar("most", 1 << 40), scalar("one", 1)],
        ),
        (
            node("OneHot", "i depth values", "y"),
            vec![ints("i", &[0, 1]), scalar("depth", 1 << 40), floats("values", &[2])],
        ),
        (node("HannWindow", "size", "y"), vec![scalar("size", 1 << 40)]),
        (
            node("SplitToSequence", "wide", "s").int("axis", 1),
            vec![TensorProto {
                // Nothing, in very many columns.
                dims: vec![0, 1 << 40],
                ..floats("wide", &[0])
            }],
        ),
    ];
    for (node, initializer) in cases {
        let op = node.op_type.clone();
        let mut nodes = vec![node];
        if op == "SplitToSequence" {
            nodes.push(self::node("SequenceLength", "s", "y"));
        }
        let error = refused(&model(graph(nodes, initializer, &["y"])));
        says(&error, &["node '", &op]);
    }
}

#[test]
fn sizes_of_stored_tensors() {
    let _alone = alone();
    let with = |it: TensorProto| model(graph(vec![node("Add", "x w", "y")], vec![it], &["y"]));
    for dims in [vec![1 << 40], vec![1 << 33, 1 << 33], vec![i64::MAX, 2], vec![-1], vec![1 << 62, 4, 0]] {
        says(&refused(&with(TensorProto { dims, ..floats("w", &[4]) })), &["initialiser 'w'"]);
    }
    // Each is little, all together are not.
    let sparse = |at: usize| SparseTensorProto {
        values: Some(floats(&format!("w{at}"), &[1])),
        indices: Some(ints("", &[7])),
        dims: vec![1 << 24],
    };
    let mut many = model(graph(vec![node("Identity", "x", "y")], vec![], &["y"]));
    many.graph.as_mut().expect("a graph").sparse_initializer = (0..64).map(sparse).collect();
    says(&refused(&many), &["sparse initialiser 'w4'", "dense form"]);
}

/// Each is allowed; so many are not.
#[test]
fn constants_that_follow_from_others() {
    let _alone = alone();
    let ranges: Vec<NodeProto> =
        (0..64).map(|at| node("Range", &format!("zero most{at} one"), &format!("r{at}"))).collect();
    let mut initializer = vec![scalar("zero", 0), scalar("one", 1)];
    initializer.extend((0..64).map(|at| scalar(&format!("most{at}"), (1 << 22) - at)));
    let outputs: Vec<String> = (0..64).map(|at| format!("r{at}")).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    says(&refused(&model(graph(ranges, initializer, &outputs))), &["node 'Range_", "importing makes"]);

    // Computed once for all runs: 32 tensors of 4 MiB.
    let mut nodes = Vec::new();
    for at in 0..32 {
        nodes.push(node("Expand", &format!("w{at} wide"), &format!("e{at}")));
        nodes.push(node("Exp", &format!("e{at}"), &format!("y{at}")));
    }
    let mut initializer = vec![ints("wide", &[1 << 20])];
    initializer.extend((0..32).map(|at| TensorProto {
        raw_data: (at as f32).to_le_bytes().to_vec().into(),
        ..floats(&format!("w{at}"), &[1])
    }));
    let outputs: Vec<String> = (0..32).map(|at| format!("y{at}")).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    says(&refused(&model(graph(nodes, initializer, &outputs))), &["memory_limit"]);
}

#[test]
fn what_unfolds_without_bound() {
    let _alone = alone();
    // A sequence that holds itself twice, again and again.
    let mut nodes = vec![node("SequenceConstruct", "x x", "s0")];
    for at in 0..60 {
        nodes.push(node("SequenceInsert", &format!("s{at} s{at}"), &format!("s{}", at + 1)));
    }
    nodes.push(node("SequenceLength", "s60", "y"));
    says(&refused(&model(graph(nodes, vec![], &["y"]))), &["SequenceInsert_", "parts of sequences"]);

    // Functions that call the next one twice.
    let call = |at: usize, from: &str, to: &str| NodeProto {
        domain: "own".into(),
        ..node(&format!("F{at}"), from, to)
    };
    let own = OperatorSetIdProto { domain: "own".into(), version: 1 };
    let mut file = model(graph(vec![call(0, "x", "y")], vec![], &["y"]));
    file.opset_import.push(own.clone());
    for at in 0..30 {
        let node = match at {
            29 => vec![node("Neg", "a", "b"), node("Neg", "b", "c")],
            _ => vec![call(at + 1, "a", "b"), call(at + 1, "b", "c")],
        };
        file.functions.push(FunctionProto {
            name: format!("F{at}"),
            domain: "own".into(),
            input: vec!["a".into()],
            output: vec!["c".into()],
            node,
            ..Default::default()
        });
    }
    says(&refused(&file), &["unfolds without bound"]);

    // Loops of 1,000 turns in each other.
    let mut nodes = vec![node("Neg", "x", "v")];
    let mut result = "v".to_owned();
    for depth in 0..8 {
        nodes.push(node("Identity", "on", "goes"));
        let body = GraphProto {
            node: nodes,
            input: vec![info("turn", INT, &[]), info("on", BOOL, &[])],
            output: vec![info("goes", BOOL, &[]), info(&result, FLOAT, &[])],
            ..Default::default()
        };
        result = format!("y{depth}");
        nodes = vec![node("Loop", "most", &result).graph("body", body)];
    }
    says(&refused(&model(graph(nodes, vec![scalar("most", 100)], &[&result]))), &["node 'Loop_0"]);
}

#[test]
fn depths() {
    let _alone = alone();
    let mut nodes = vec![node("Neg", "x", "y")];
    for _ in 0..300 {
        let branch = |nodes: &[NodeProto]| GraphProto {
            node: nodes.to_vec(),
            output: vec![info("y", FLOAT, &[])],
            ..Default::default()
        };
        let other = branch(&[node("Abs", "x", "y")]);
        nodes = vec![node("If", "c", "y").graph("then_branch", branch(&nodes)).graph("else_branch", other)];
    }
    says(&refused(&model(graph(nodes, vec![], &["y"]))), &["recursion"]);

    let mut ty = info("x", FLOAT, &["2"]).r#type.expect("a type");
    for _ in 0..300 {
        let inner = ElementTypeProto { elem_type: Some(Box::new(ty)) };
        ty = TypeProto { sequence_type: Some(inner), ..Default::default() };
    }
    let mut file = model(graph(vec![node("SequenceLength", "x", "y")], vec![], &["y"]));
    file.graph.as_mut().expect("a graph").input[0].r#type = Some(ty);
    says(&refused(&file), &["recursion"]);
}

#[test]
fn an_output_stated_twice() {
    let _alone = alone();
    says(&refused(&model(graph(vec![node("Neg", "x", "y")], vec![], &["y", "y"]))), &["output 'y'", "twice"]);
}

#[test]
fn loops_that_collect_too_much() {
    let _alone = alone();
    let mut file = collected(1 << 40);
    let main = file.graph.as_mut().expect("a graph");
    // x of 8 elements is made large first.
    main.node.insert(0, node("Expand", "x wide", "more"));
    main.initializer.push(ints("wide", &[1 << 16, 2, 4]));
    let body = main.node.iter_mut().find(|it| it.op_type == "Loop").expect("a loop");
    body.attribute[0].g.as_mut().expect("its body").node[1].input[0] = "more".into();
    says(&stopped(&file), &["node 'Loop_5'", "memory_limit"]);
}

#[test]
fn sequences_that_grow_in_a_loop() {
    let _alone = alone();
    let body = GraphProto {
        node: vec![node("SequenceInsert", "s more", "t"), node("Identity", "on", "goes")],
        input: ["turn", "on", "s"].map(|it| info(it, FLOAT, &[])).to_vec(),
        output: ["goes", "t"].map(|it| info(it, FLOAT, &[])).to_vec(),
        ..Default::default()
    };
    let nodes = vec![
        node("Expand", "x wide", "more"),
        node("SequenceConstruct", "more", "first"),
        node("ReduceSum", "x", "sum").int("keepdims", 0),
        node("Cast", "sum", "i").int("to", INT.into()),
        node("Mul", "i times", "most"),
        node("Loop", "most _ first", "last").graph("body", body),
        node("SequenceLength", "last", "y"),
    ];
    let initializer = vec![ints("wide", &[1 << 16, 2, 4]), scalar("times", 1 << 30)];
    says(&stopped(&model(graph(nodes, initializer, &["y"]))), &["Loop_5", "memory_limit"]);
}

#[test]
fn work_beyond_the_limit() {
    let _alone = alone();
    // 2 * 2048^3 operations, of what runs give and of what constants give.
    for (from, more) in [("x", vec![]), ("w", vec![floats("w", &[2, 4])])] {
        let nodes = vec![
            node("ReduceSum", from, "sum"),
            node("Expand", "sum wide", "large"),
            node("Sin", "large", "a"),
            node("Cos", "large", "b"),
            node("MatMul", "a b", "product"),
            node("ReduceMax", "product", "most"),
            node("Add", "x most", "y"),
        ];
        let initializer = [vec![ints("wide", &[2048, 2048])], more].concat();
        says(&refused(&model(graph(nodes, initializer, &["y"]))), &["the whole model", "work_limit"]);
    }

    // 2 * 128^3 a turn.
    let body = GraphProto {
        node: vec![node("MatMul", "from large", "to"), node("Identity", "on", "goes")],
        input: vec![info("turn", INT, &[]), info("on", BOOL, &[]), info("from", FLOAT, &[])],
        output: vec![info("goes", BOOL, &[]), info("to", FLOAT, &[])],
        ..Default::default()
    };
    let nodes = vec![
        node("ReduceSum", "x", "sum"),
        node("Expand", "sum wide", "large"),
        node("Loop", "_ _ large", "last").graph("body", body),
        node("ReduceMax", "last", "y"),
    ];
    let file = model(graph(nodes, vec![ints("wide", &[128, 128])], &["y"]));
    says(&stopped(&file), &["the last stretch", "work_limit"]);
}

#[test]
fn loops_without_end() {
    let _alone = alone();
    // Turns of a loop in a loop that has no end count together.
    let body = |own: &str, work: NodeProto| {
        let [turn, on, from, goes, to] = ["turn", "on", "from", "goes", "to"].map(|it| format!("{own}_{it}"));
        GraphProto {
            node: vec![work, node("Identity", &on, &goes)],
            input: vec![info(&turn, INT, &[]), info(&on, BOOL, &[]), info(&from, FLOAT, &[])],
            output: vec![info(&goes, BOOL, &[]), info(&to, FLOAT, &[])],
            ..Default::default()
        }
    };
    let inner = node("Loop", "most _ outer_from", "outer_to");
    let inner = inner.graph("body", body("inner", node("Neg", "inner_from", "inner_to")));
    let nodes = vec![
        node("ReduceSum", "x", "sum").int("keepdims", 0),
        node("Cast", "sum", "most").int("to", INT.into()),
        node("Loop", "_ _ x", "y").graph("body", body("outer", inner)),
    ];
    says(&stopped(&model(graph(nodes, vec![], &["y"]))), &["'Loop_", "turn_limit", "1000 turns"]);
}

/// What a loop reads of its surroundings is not taken for a condition that is left out.
#[test]
fn a_loop_without_a_condition_reads_its_surroundings() {
    let _alone = alone();
    let (_, file) = seed_models().into_iter().find(|it| it.0 == "collected").expect("it is there");
    let model = Model::from_bytes(file.encode_to_vec()).expect("a model");
    let session = Session::with_options(&model, &Device::cpu(), options()).expect("a session");
    let x = Tensor::f32([1, 4], &[0.0, 1.0, 2.0, 3.0]).expect("4 values");
    let made = session.run(&[("x", x)]).expect("it runs");
    assert_eq!(made[0].shape()[..], [5, 1, 4]);
    assert_eq!(made[0].to_f64(), [0.0, -1.0, -2.0, -3.0].repeat(5));
}

/// Nothing of it is a plan, and each is an error rather than a panic of a validator that takes such things for granted.
#[test]
fn artefacts_that_say_what_cannot_be() {
    let _alone = alone();
    let (_, file) = seed_models().into_iter().find(|it| it.0 == "external").expect("it is there");
    let mut file = file;
    file.graph.as_mut().expect("a graph").initializer = vec![floats("w", &[4, 3])];
    let model = Model::from_bytes(file.encode_to_vec()).expect("a model");
    let shapes: Vec<Shape> = vec![[2, 4].into()];
    let whole = model.compile(&[shapes], &[Target::webgpu_minimum()], &options()).expect("an artefact");
    let plans = |bytes: &[u8]| {
        let artefact = Artefact::parse(bytes.to_vec().into()).map_err(|it| vec![it.to_string()])?;
        let faults = artefact.compiled.iter().filter_map(|it| Some(artefact.plan(it).err()?.to_string()));
        let faults: Vec<String> = faults.collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    };
    assert_eq!(plans(&summed(whole.clone())), Ok(()));
    // A limit of the target, in text.
    let at = whole.windows(17).position(|it| it == b"max_binding_size=").expect("a target") + 17;
    let mut none = whole.clone();
    none[at..].iter_mut().take_while(|it| it.is_ascii_digit()).for_each(|it| *it = b'0');
    let said = plans(&summed(none)).expect_err("refused");
    assert!(said.iter().any(|it| it.contains("binds nothing")), "{said:?}");
    // Any byte of the rest, the kernels' modules among it.
    let (mut refused, mut random) = (0, Random::new(1));
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = 64 + random.below(bytes.len() - 64);
            bytes[at] = random.bits() as u8;
        }
        refused += usize::from(plans(&summed(bytes)).is_err());
    }
    assert!(refused > 500, "{refused}");
}

/// The bytes with the sum that they ask for.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_128(&bytes[64..]).to_le_bytes();
    bytes[24..40].copy_from_slice(&sum);
    bytes
}

#[test]
fn what_is_chosen_costs_memory_and_work() {
    let _alone = alone();
    // All of 2^23 elements of six axes are found.
    let nodes = vec![
        node("Abs", "x", "a"),
        node("Exp", "a", "e"),
        node("Expand", "e wide", "w"),
        node("NonZero", "w", "at"),
        node("ReduceMax", "at", "y").int("keepdims", 0),
    ];
    let file =
        model(graph(nodes.clone(), vec![ints("wide", &[1 << 5, 1 << 5, 1 << 5, 1 << 5, 2, 4])], &["y"]));
    says(&stopped(&file), &["node 'NonZero_3'", "memory_limit"]);
    let mut file = file;
    file.graph.as_mut().expect("a graph").node[3] = node("Unique", "w", "at");
    says(&stopped(&file), &["node 'Unique_3'", "memory_limit"]);
}
