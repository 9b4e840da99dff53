//! Models whose sizes, branches and turns follow from values: they run in stretches, on every device, and say so.

use prost::Message;
use wgfuse::{
    Datum, Device, DisabledReason, Fallback, Model, Options, Session, Tensor,
    compiler::import::onnx::proto::{
        AttributeProto, DimensionProto, ElementTypeProto, GraphProto, ModelProto, NodeProto,
        OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
        attribute,
    },
};
use wgfuse_tests::device::{opened, options};

const FLOAT: i32 = 1;
const INT: i32 = 7;
const BOOL: i32 = 9;

fn value(name: &str, of: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |it: &&str| match it.parse() {
        Ok(size) => DimensionProto { dim_value: Some(size), dim_param: None },
        Err(_) => DimensionProto { dim_value: None, dim_param: Some(it.to_string()) },
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: of, shape: Some(shape) };
    let ty = TypeProto { tensor_type: Some(tensor), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty) }
}

fn node(op: &str, input: &[&str], output: &[&str]) -> NodeProto {
    let all = |names: &[&str]| names.iter().map(|it| it.to_string()).collect();
    NodeProto {
        op_type: op.into(),
        name: format!("{op} {}", output[0]),
        input: all(input),
        output: all(output),
        ..Default::default()
    }
}

fn with(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.into(),
        r#type: attribute::GRAPH,
        g: Some(Box::new(graph)),
        ..Default::default()
    });
    node
}

fn int(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    let attribute = AttributeProto { name: name.into(), r#type: attribute::INT, i, ..Default::default() };
    node.attribute.push(attribute);
    node
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: INT,
        dims: dims.to_vec(),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: FLOAT,
        dims: dims.to_vec(),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(graph: GraphProto) -> Model {
    let opset = OperatorSetIdProto { domain: String::new(), version: 18 };
    let file = ModelProto { ir_version: 9, opset_import: vec![opset], graph: Some(graph), functions: vec![] };
    Model::from_bytes(file.encode_to_vec()).expect("a model")
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::f32([values.len()], values).expect("as many")
}

/// The model on the GPU and on the processor, which have to agree; and what the GPU's session says.
fn on_both(model: &Model, runs: &[&[(&str, Tensor)]]) -> (Vec<Vec<Vec<f64>>>, Vec<DisabledReason>) {
    let sessions =
        [opened(), Device::cpu()].map(|device| Session::with_options(model, &device, options()).unwrap());
    let mut all = Vec::new();
    for given in runs {
        let [gpu, cpu] = [0, 1].map(|at| {
            let made = sessions[at].run(given).unwrap();
            made.iter().map(|it| it.1.to_f64()).collect::<Vec<_>>()
        });
        let close = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-6 * b.abs();
        for (gpu, cpu) in gpu.iter().zip(&cpu) {
            assert!(gpu.len() == cpu.len() && gpu.iter().zip(cpu).all(close), "{gpu:?} {cpu:?}");
        }
        all.push(gpu);
    }
    assert!(sessions[1].disabled().iter().all(|it| it.reason.node().is_none()));
    (all, sessions[0].disabled().into_iter().map(|it| it.reason).collect())
}

/// y = exp(x)[places where x > 0]; z = sum(y)
fn chosen() -> Model {
    model(GraphProto {
        input: vec![value("x", FLOAT, &["n"])],
        output: vec![value("y", FLOAT, &["k"]), value("z", FLOAT, &[])],
        initializer: vec![floats("zero", &[], &[0.0]), ints("flat", &[1], &[-1])],
        node: vec![
            node("Exp", &["x"], &["e"]),
            node("Greater", &["x", "zero"], &["positive"]),
            node("NonZero", &["positive"], &["at"]),
            node("Reshape", &["at", "flat"], &["places"]),
            int(node("Gather", &["e", "places"], &["y"]), "axis", 0),
            int(node("ReduceSum", &["y"], &["z"]), "keepdims", 0),
        ],
        ..Default::default()
    })
}

#[test]
fn sizes_that_follow_from_values() {
    let model = chosen();
    let runs = [vec![1.0, -2.0, 0.5, 3.0], vec![-1.0, -2.0, -0.5, -3.0], vec![2.0, 1.0, 0.0, 4.0]];
    let given: Vec<_> = runs.iter().map(|it| [("x", vector(it))]).collect();
    let given: Vec<&[_]> = given.iter().map(|it| &it[..]).collect();
    let (made, told) = on_both(&model, &given);
    for (x, made) in runs.iter().zip(made) {
        let y: Vec<f64> = x.iter().filter(|it| **it > 0.0).map(|it| f64::from(*it).exp()).collect();
        assert_eq!(made[0].len(), y.len());
        assert!(made[0].iter().zip(&y).all(|(a, b)| (a - b).abs() <= 1e-5 * b));
        assert!((made[1][0] - y.iter().sum::<f64>()).abs() <= 1e-4);
    }
    let node = "NonZero at".to_owned();
    assert!(told.contains(&DisabledReason::DataDependent { node }), "{told:?}");
}

#[test]
fn a_stretch_is_compiled_once_for_what_is_known() {
    let session = Session::new(&chosen(), &Device::cpu()).unwrap();
    for x in [[1.0, -2.0, 0.5, 3.0], [1.0, 2.0, 3.0, -4.0], [-1.0, 2.0, 3.0, 4.0]] {
        session.run(&[("x", vector(&x))]).unwrap();
    }
    let tally = session.tally();
    assert_eq!(tally.runs, 3);
    // The first stretch, and the second for three places.
    assert_eq!(tally.compiled + tally.memory.hits, 2, "{tally:?}");
}

#[test]
fn values_that_the_caller_gives_are_no_reason_to_wait() {
    let model = model(GraphProto {
        input: vec![value("x", FLOAT, &["n"]), value("shape", INT, &["r"])],
        output: vec![value("y", FLOAT, &["?"])],
        node: vec![node("Neg", &["x"], &["n"]), node("Reshape", &["n", "shape"], &["y"])],
        ..Default::default()
    });
    let device = opened();
    let strict = Options { fallback: Fallback::Error, ..options() };
    let session = Session::with_options(&model, &device, strict).unwrap();
    let shape = |dims: &[i64]| Tensor::i64([dims.len()], dims).unwrap();
    for dims in [&[2, 3][..], &[3, 2], &[6]] {
        let made = session.run(&[("x", vector(&[1.0; 6])), ("shape", shape(dims))]).unwrap();
        let want: Vec<usize> = dims.iter().map(|it| *it as usize).collect();
        assert_eq!(made[0].shape()[..], want[..]);
        assert_eq!(made[0].to_f64(), [-1.0; 6]);
    }
    // On the device they are read first.
    let there = [
        ("x", device.upload(&vector(&[1.0; 6])).unwrap()),
        ("shape", device.upload(&shape(&[3, 2])).unwrap()),
    ];
    let error = session.run_on_device(&there).map(|_| ()).expect_err("forbidden").to_string();
    assert!(error.contains("Reshape y"), "{error}");
    let session = Session::with_options(&model, &device, options()).unwrap();
    let made = session.run_on_device(&there).unwrap();
    assert_eq!(made[0].shape()[..], [3, 2]);
    assert_eq!(made[0].read().unwrap().to_f64(), [-1.0; 6]);
}

/// y = x + 1 if sum(x) > 0 else x * x, where both branches read x from outside
fn branched() -> Model {
    let branch = |op: &str, other: &str| GraphProto {
        output: vec![value(op, FLOAT, &["n"])],
        node: vec![node(op, &["x", other], &[op])],
        ..Default::default()
    };
    let choose = node("If", &["cond"], &["made"]);
    let choose = with(with(choose, "then_branch", branch("Add", "one")), "else_branch", branch("Mul", "x"));
    model(GraphProto {
        input: vec![value("x", FLOAT, &["n"])],
        output: vec![value("y", FLOAT, &["n"])],
        initializer: vec![floats("zero", &[], &[0.0]), floats("one", &[], &[1.0])],
        node: vec![
            int(node("ReduceSum", &["x"], &["sum"]), "keepdims", 0),
            node("Greater", &["sum", "zero"], &["cond"]),
            choose,
            node("Neg", &["made"], &["y"]),
        ],
        ..Default::default()
    })
}

#[test]
fn branches_that_follow_from_values() {
    let (plus, minus) = ([("x", vector(&[1.0, 2.0]))], [("x", vector(&[1.0, -2.0]))]);
    let (made, told) = on_both(&branched(), &[&plus, &minus, &plus]);
    assert_eq!(made, [[[-2.0, -3.0]], [[-1.0, -4.0]], [[-2.0, -3.0]]]);
    assert!(told.contains(&DisabledReason::ControlFlow { node: "If made".into() }), "{told:?}");
    let strict = Options { fallback: Fallback::Error, ..options() };
    let session = Session::with_options(&branched(), &opened(), strict).unwrap();
    let error = session.run(&plus).map(|_| ()).expect_err("forbidden").to_string();
    assert!(error.contains("If made"), "{error}");
    let session = Session::with_options(&branched(), &opened(), options()).unwrap();
    let session = session.forbid(|it| matches!(it, DisabledReason::ControlFlow { .. }));
    assert!(session.run(&plus).is_err());
}

/// Doubles x until its sum is at least `limit`, at most `most` times; collects the sums.
fn doubled(most: Option<i64>) -> Model {
    let body = GraphProto {
        input: vec![value("turn", INT, &[]), value("on", BOOL, &[]), value("state", FLOAT, &["n"])],
        output: vec![value("goes", BOOL, &[]), value("twice", FLOAT, &["n"]), value("sum", FLOAT, &[])],
        node: vec![
            node("Add", &["state", "state"], &["twice"]),
            int(node("ReduceSum", &["twice"], &["sum"]), "keepdims", 0),
            node("Less", &["sum", "limit"], &["goes"]),
        ],
        ..Default::default()
    };
    let (mut input, mut initializer) =
        (vec![value("x", FLOAT, &["n"]), value("limit", FLOAT, &[])], Vec::new());
    match most {
        Some(most) => initializer.push(ints("most", &[], &[most])),
        None => input.push(value("most", INT, &[])),
    }
    model(GraphProto {
        input,
        initializer,
        output: vec![value("y", FLOAT, &["n"]), value("sums", FLOAT, &["t"])],
        node: vec![with(node("Loop", &["most", "", "x"], &["y", "sums"]), "body", body)],
        ..Default::default()
    })
}

#[test]
fn loops_that_end_by_values() {
    let limit = |it: f32| Tensor::f32([], &[it]).unwrap();
    let given = |x: &[f32], to: f32| [("x", vector(x)), ("limit", limit(to))];
    let (made, told) = on_both(&doubled(Some(1000)), &[&given(&[1.0, 2.0], 20.0), &given(&[1.0, 2.0], 5.0)]);
    assert_eq!(made[0], [vec![8.0, 16.0], vec![6.0, 12.0, 24.0]]);
    assert_eq!(made[1], [vec![2.0, 4.0], vec![6.0]]);
    assert!(told.contains(&DisabledReason::ControlFlow { node: "Loop y".into() }), "{told:?}");
    // Without a turn, what is carried stays as it is.
    let most = |it: i64| Tensor::i64([], &[it]).unwrap();
    let none = [("x", vector(&[1.0, 2.0])), ("limit", limit(9.0)), ("most", most(0))];
    let two = [("x", vector(&[1.0, 2.0])), ("limit", limit(1e9)), ("most", most(2))];
    let (made, _) = on_both(&doubled(None), &[&none, &two]);
    assert_eq!(made[0], [vec![1.0, 2.0], vec![]]);
    assert_eq!(made[1], [vec![4.0, 8.0], vec![6.0, 12.0]]);
}

#[test]
fn a_loop_runs_one_plan_for_all_turns() {
    let session = Session::new(&doubled(Some(1000)), &Device::cpu()).unwrap();
    let given = [("x", vector(&[1.0])), ("limit", Tensor::f32([], &[1e6]).unwrap())];
    assert_eq!(session.run(&given).unwrap()[1].shape()[..], [20]);
    let tally = session.tally();
    assert_eq!((tally.runs, tally.compiled + tally.memory.hits), (1, 1), "{tally:?}");
}

#[test]
fn short_loops_of_known_turns_are_one_graph() {
    let body = GraphProto {
        input: vec![value("turn", INT, &[]), value("on", BOOL, &[]), value("state", FLOAT, &["n"])],
        output: vec![value("on", BOOL, &[]), value("next", FLOAT, &["n"]), value("next", FLOAT, &["n"])],
        node: vec![node("Mul", &["state", "x"], &["next"])],
        ..Default::default()
    };
    let model = model(GraphProto {
        input: vec![value("x", FLOAT, &["n"])],
        initializer: vec![ints("most", &[], &[3])],
        output: vec![value("y", FLOAT, &["n"]), value("all", FLOAT, &["3", "n"])],
        node: vec![with(node("Loop", &["most", "", "x"], &["y", "all"]), "body", body)],
        ..Default::default()
    });
    assert!(model.graph(&[[2].into()]).is_ok());
    let given = [("x", vector(&[2.0, 3.0]))];
    let (made, told) = on_both(&model, &[&given]);
    assert_eq!(made[0], [vec![16.0, 81.0], vec![4.0, 9.0, 8.0, 27.0, 16.0, 81.0]]);
    assert!(told.iter().all(|it| it.node().is_none()), "{told:?}");
}

#[test]
fn what_is_summed_over_nothing_reads_nothing() {
    let model = model(GraphProto {
        input: vec![value("x", FLOAT, &["a", "b"]), value("w", FLOAT, &["b", "2"])],
        initializer: vec![ints("axes", &[1], &[1]), ints("from", &[1], &[5]), ints("to", &[1], &[9])],
        output: vec![
            value("sum", FLOAT, &["a"]),
            value("most", FLOAT, &["a"]),
            value("product", FLOAT, &["a", "2"]),
            value("end", FLOAT, &["a"]),
        ],
        node: vec![
            int(node("ReduceSum", &["x", "axes"], &["sum"]), "keepdims", 0),
            int(node("ReduceMax", &["x", "axes"], &["most"]), "keepdims", 0),
            node("MatMul", &["x", "w"], &["product"]),
            node("Slice", &["x", "from", "to", "axes"], &["behind"]),
            int(node("ReduceSum", &["behind", "axes"], &["end"]), "keepdims", 0),
        ],
        ..Default::default()
    });
    let zeros = |dims: [usize; 2]| Tensor::f32(dims, &vec![1.0; dims[0] * dims[1]]).unwrap();
    let given = [("x", zeros([3, 0])), ("w", zeros([0, 2]))];
    let full = [("x", zeros([3, 5])), ("w", zeros([5, 2]))];
    let (made, _) = on_both(&model, &[&given, &full]);
    assert_eq!(made[0], [vec![0.0; 3], vec![f64::NEG_INFINITY; 3], vec![0.0; 6], vec![0.0; 3]]);
    assert_eq!(made[1], [vec![5.0; 3], vec![1.0; 3], vec![5.0; 6], vec![0.0; 3]]);
}

/// last = all[-1]; more = all with x behind it
fn appended() -> Model {
    let sequence = |name: &str| {
        let tensor = value("", FLOAT, &["n"]).r#type.map(Box::new);
        let of =
            TypeProto { sequence_type: Some(ElementTypeProto { elem_type: tensor }), ..Default::default() };
        ValueInfoProto { name: name.into(), r#type: Some(of) }
    };
    model(GraphProto {
        input: vec![sequence("all"), value("x", FLOAT, &["n"])],
        initializer: vec![ints("place", &[], &[-1])],
        output: vec![value("last", FLOAT, &["n"]), sequence("more")],
        node: vec![
            node("SequenceAt", &["all", "place"], &["end"]),
            node("Neg", &["end"], &["last"]),
            node("SequenceInsert", &["all", "x"], &["more"]),
        ],
        ..Default::default()
    })
}

#[test]
fn sequences_go_in_and_come_out() {
    let tensor = |values: &[f32]| Datum::Tensor(vector(values));
    for device in [opened(), Device::cpu()] {
        let session = Session::with_options(&appended(), &device, options()).unwrap();
        for _ in 0..2 {
            let all = Datum::Sequence(vec![tensor(&[1.0]), tensor(&[2.0, 3.0])]);
            let made = session.run_values(&[("all", all), ("x", tensor(&[4.0]))]).unwrap();
            assert_eq!(made[0], tensor(&[-2.0, -3.0]));
            assert_eq!(made[1], Datum::Sequence(vec![tensor(&[1.0]), tensor(&[2.0, 3.0]), tensor(&[4.0])]));
        }
        let fails =
            |given: &[(&str, Datum)]| session.run_values(given).map(|_| ()).expect_err("unfit").to_string();
        assert!(fails(&[("x", tensor(&[4.0]))]).contains("'all'"));
        assert!(fails(&[("x", tensor(&[4.0])), ("all", tensor(&[1.0]))]).contains("sequence of f32[n]"));
        let whole = Datum::Sequence(vec![Datum::Tensor(Tensor::i64([1], &[1]).unwrap())]);
        assert!(fails(&[("x", tensor(&[4.0])), ("all", whole)]).contains("i64[1]"));
        let none = Datum::Sequence(vec![]);
        assert!(fails(&[("x", tensor(&[4.0])), ("all", none)]).contains("SequenceAt end"));
        assert!(fails(&[("y", tensor(&[4.0]))]).contains("no such input"));
        let error = session.run(&[("x", vector(&[4.0]))]).map(|_| ()).expect_err("unfit").to_string();
        assert!(error.contains("all"), "{error}");
    }
}

#[test]
fn parts_of_values_are_told_apart_by_more_than_the_names_of_nodes() {
    let named = |mut node: NodeProto| {
        node.name = "split".into();
        int(node, "keepdims", 0)
    };
    // What is chosen comes from the host, so that both sequences are read in a later stretch.
    let model = model(GraphProto {
        input: vec![value("x", FLOAT, &["2"]), value("y", FLOAT, &["2"])],
        initializer: vec![ints("flat", &[1], &[-1])],
        output: vec![value("a", FLOAT, &["k"]), value("b", FLOAT, &["k"])],
        node: vec![
            node("Exp", &["x"], &["ex"]),
            node("Neg", &["y"], &["ny"]),
            named(node("SplitToSequence", &["ex"], &["s"])),
            named(node("SplitToSequence", &["ny"], &["t"])),
            node("NonZero", &["ex"], &["at"]),
            node("Reshape", &["at", "flat"], &["places"]),
            int(node("ReduceMin", &["places"], &["at0"]), "keepdims", 0),
            int(node("Cast", &["places"], &["shifts"]), "to", FLOAT.into()),
            // The sequences wait too: they are carried, not the elements.
            int(node("Cast", &["at0"], &["place"]), "to", INT.into()),
            node("SequenceAt", &["s", "place"], &["s0"]),
            node("SequenceAt", &["t", "place"], &["t0"]),
            node("Add", &["shifts", "s0"], &["a"]),
            node("Add", &["shifts", "t0"], &["b"]),
        ],
        ..Default::default()
    });
    let (made, _) = on_both(&model, &[&[("x", vector(&[0.0, 1.0])), ("y", vector(&[7.0, 8.0]))]]);
    assert_eq!(made[0], [vec![1.0, 2.0], vec![-7.0, -6.0]]);
}

/// Before opset 9: x [batch, length, 1] summed backwards, each as far as its own length says.
fn summed_in_batches() -> GraphProto {
    let body = GraphProto {
        input: vec![value("sum", FLOAT, &["1"]), value("next", FLOAT, &["1"])],
        node: vec![node("Add", &["sum", "next"], &["sum_out"]), node("Identity", &["sum_out"], &["each"])],
        output: vec![value("sum_out", FLOAT, &["1"]), value("each", FLOAT, &["1"])],
        ..Default::default()
    };
    let mut scan = with(node("Scan", &["lengths", "start", "x"], &["y", "z"]), "body", body);
    scan = int(scan, "num_scan_inputs", 1);
    scan.attribute.push(AttributeProto {
        name: "directions".into(),
        r#type: attribute::INTS,
        ints: vec![1],
        ..Default::default()
    });
    GraphProto {
        input: vec![
            value("x", FLOAT, &["b", "n", "1"]),
            value("start", FLOAT, &["b", "1"]),
            value("lengths", INT, &["b"]),
        ],
        output: vec![value("y", FLOAT, &["b", "1"]), value("z", FLOAT, &["b", "n", "1"])],
        node: vec![scan],
        ..Default::default()
    }
}

#[test]
fn scans_of_batches_go_as_far_as_each_is_long() {
    let file = |graph: GraphProto| {
        let opset = OperatorSetIdProto { domain: String::new(), version: 8 };
        let file =
            ModelProto { ir_version: 3, opset_import: vec![opset], graph: Some(graph), functions: vec![] };
        Model::from_bytes(file.encode_to_vec()).expect("a model")
    };
    let x = Tensor::f32([2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let start = Tensor::f32([2, 1], &[0.0, 10.0]).unwrap();
    let given = |lengths: [i64; 2]| {
        [("x", x.clone()), ("start", start.clone()), ("lengths", Tensor::i64([2], &lengths).unwrap())]
    };
    let model = file(summed_in_batches());
    let (made, _) = on_both(&model, &[&given([3, 2]), &given([1, 0])]);
    assert_eq!(made[0][0], [6.0, 19.0]);
    assert_eq!(made[0][1], [3.0, 5.0, 6.0, 15.0, 19.0, 0.0]);
    assert_eq!(made[1][0], [1.0, 10.0]);
    assert_eq!(made[1][1], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let session = Session::new(&model, &Device::cpu()).unwrap();
    let error = session.run(&given([4, 1])).map(|_| ()).expect_err("too long").to_string();
    assert!(error.contains("Scan") && error.contains("lengths"), "{error}");
    // Without lengths all are whole.
    let mut graph = summed_in_batches();
    graph.input.pop();
    graph.node[0].input[0].clear();
    let (made, _) = on_both(&file(graph), &[&given([0, 0])[..2]]);
    assert_eq!(made[0][0], [6.0, 25.0]);
    assert_eq!(made[0][1], [3.0, 5.0, 6.0, 16.0, 21.0, 25.0]);
}
