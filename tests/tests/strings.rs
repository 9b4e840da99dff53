//! Strings: they go in and come out, what moves them does to them what it does to numbers, and their own operators mean what ONNX says.

use std::collections::HashMap;

use prost::Message;
use wgfuse::{
    DType, Datum, Device, DisabledReason, Fallback, Model, Options, Session, Strings, Tensor,
    compiler::{
        import::onnx::proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute,
        },
        scalar::Scalar,
        shape::Type,
    },
};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
};

const FLOAT: i32 = 1;
const INT: i32 = 7;
const STRING: i32 = 8;
const BOOL: i32 = 9;

fn info(name: &str, of: i32, dims: Option<&[usize]>) -> ValueInfoProto {
    use wgfuse::compiler::import::onnx::proto::DimensionProto;
    let dim = |it: &usize| DimensionProto { dim_value: Some(*it as i64), dim_param: None };
    let shape = dims.map(|it| TensorShapeProto { dim: it.iter().map(dim).collect() });
    let tensor = TensorTypeProto { elem_type: of, shape };
    let ty = TypeProto { tensor_type: Some(tensor), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty) }
}

fn node(op: &str, input: &[&str], output: &[&str]) -> NodeProto {
    let all = |names: &[&str]| names.iter().map(|it| it.to_string()).collect();
    let domain = if matches!(op, "LabelEncoder" | "CategoryMapper") { "ai.onnx.ml" } else { "" };
    NodeProto {
        op_type: op.into(),
        domain: domain.into(),
        name: format!("the {op}"),
        input: all(input),
        output: all(output),
        ..Default::default()
    }
}

enum Is<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Texts(&'a [&'a str]),
    Tensor(TensorProto),
    Graph(GraphProto),
}

fn with(mut node: NodeProto, all: Vec<(&str, Is)>) -> NodeProto {
    for (name, is) in all {
        let mut it = AttributeProto { name: name.into(), ..Default::default() };
        match is {
            Is::Int(i) => (it.r#type, it.i) = (attribute::INT, i),
            Is::Float(f) => (it.r#type, it.f) = (attribute::FLOAT, f),
            Is::Text(text) => (it.r#type, it.s) = (attribute::STRING, text.to_owned().into()),
            Is::Ints(all) => (it.r#type, it.ints) = (attribute::INTS, all.to_vec()),
            Is::Floats(all) => (it.r#type, it.floats) = (attribute::FLOATS, all.to_vec()),
            Is::Texts(all) => {
                it.r#type = attribute::STRINGS;
                it.strings = all.iter().map(|it| it.to_string().into()).collect();
            }
            Is::Tensor(t) => (it.r#type, it.t) = (attribute::TENSOR, Some(t.into())),
            Is::Graph(g) => (it.r#type, it.g) = (attribute::GRAPH, Some(g.into())),
        }
        node.attribute.push(it);
    }
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

fn texts(name: &str, dims: &[i64], values: &[&str]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: STRING,
        dims: dims.to_vec(),
        string_data: values.iter().map(|it| it.to_string().into()).collect(),
        ..Default::default()
    }
}

fn file(graph: GraphProto) -> Vec<u8> {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let opset_import = vec![opset("", 20), opset("ai.onnx.ml", 4)];
    ModelProto { ir_version: 10, opset_import, graph: Some(graph), functions: vec![] }.encode_to_vec()
}

fn strings(shape: &[usize], values: &[&str]) -> Datum {
    Datum::Strings(Strings::new(shape, values.iter().copied()).expect("as many"))
}

fn whole(shape: &[usize], values: &[i64]) -> Datum {
    Datum::Tensor(Tensor::i64(shape, values).expect("as many"))
}

fn bools(shape: &[usize], values: &[bool]) -> Datum {
    let ty = Type::new(DType::Bool, shape);
    Datum::Tensor(Tensor::from_scalars(ty, values.iter().map(|it| Scalar::Int(i64::from(*it)))))
}

fn code(datum: &Datum) -> (i32, &[usize]) {
    match datum {
        Datum::Strings(it) => (STRING, it.shape()),
        Datum::Tensor(it) => {
            let of = match it.dtype() {
                DType::F32 => FLOAT,
                DType::I64 => INT,
                DType::Bool => BOOL,
                other => panic!("{other}"),
            };
            (of, it.shape())
        }
        other => panic!("{other:?}"),
    }
}

/// A model that makes `outputs`, each with its type, of what it is given.
fn model(
    nodes: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    given: &[(&str, Datum)],
    outputs: &[(&str, i32)],
) -> Model {
    let input = given.iter().map(|(name, it)| info(name, code(it).0, Some(code(it).1)));
    let graph = GraphProto {
        input: input.collect(),
        output: outputs.iter().map(|(name, of)| info(name, *of, None)).collect(),
        node: nodes,
        initializer,
        ..Default::default()
    };
    Model::from_bytes(file(graph)).expect("a model")
}

/// What the model gives, on the GPU and on the processor alike.
fn run(model: &Model, given: &[(&str, Datum)]) -> Vec<Datum> {
    let [gpu, cpu] = [gpu(), Device::cpu()].map(|device| {
        let session = Session::with_options(model, &device, options()).expect("options");
        let mut made = (0..2).map(|_| session.run_values(given).unwrap_or_else(|it| panic!("{it}")));
        let (first, second) = (made.next().expect("two"), made.next().expect("two"));
        assert_eq!(first, second);
        first.into_iter().map(|it| it.1).collect::<Vec<_>>()
    });
    assert_eq!(gpu, cpu);
    cpu
}

fn refused(model: &Model, given: &[(&str, Datum)]) -> String {
    let session = Session::with_options(model, &Device::cpu(), options()).expect("options");
    session.run_values(given).map(|_| ()).expect_err("not for strings").to_string()
}

#[test]
fn strings_go_in_and_come_out() {
    let given = [("x", strings(&[2, 1], &["a", "ß"])), ("y", strings(&[3], &["x", "", "a"]))];
    let nodes = vec![
        node("StringConcat", &["x", "y"], &["xy"]),
        node("Equal", &["xy", "y"], &["same"]),
        node("Equal", &["xy", "constant"], &["known"]),
        node("Transpose", &["xy"], &["turned"]),
        node("Shape", &["turned"], &["shape"]),
    ];
    let outputs = [("turned", STRING), ("same", BOOL), ("known", BOOL), ("shape", INT), ("y", STRING)];
    let model = model(nodes, vec![texts("constant", &[], &["ßa"])], &given, &outputs);
    let made = run(&model, &given);
    assert_eq!(made[0], strings(&[3, 2], &["ax", "ßx", "a", "ß", "aa", "ßa"]));
    assert_eq!(made[1], bools(&[2, 3], &[false; 6]));
    assert_eq!(made[2], bools(&[2, 3], &[false, false, false, false, false, true]));
    assert_eq!(made[3], whole(&[2], &[3, 2]));
    assert_eq!(made[4], given[1].1);
    let numbers = [("x", whole(&[2, 1], &[1, 2])), given[1].clone()];
    assert!(refused(&model, &numbers).contains("string[2,1]"), "{}", refused(&model, &numbers));
    let other = [("x", strings(&[1], &["a"])), given[1].clone()];
    assert!(refused(&model, &other).contains("string[2,1]"), "{}", refused(&model, &other));
    let session = Session::new(&model, &Device::cpu()).expect("options");
    let tensors =
        [("x", Tensor::i64([2, 1], &[1, 2]).expect("two")), ("y", Tensor::i64([3], &[1; 3]).expect("three"))];
    assert!(session.run(&tensors).is_err());
}

#[test]
fn a_session_meets_other_strings_in_every_run() {
    let given = |x: &[&str]| [("x", strings(&[3], x))];
    let nodes = vec![
        node("StringConcat", &["x", "suffix"], &["longer"]),
        node("Equal", &["longer", "known"], &["hit"]),
    ];
    let first = given(&["a", "b", "c"]);
    let initialisers = vec![texts("suffix", &[1], &["!"]), texts("known", &[2, 1], &["b!", "d!"])];
    let model = model(nodes, initialisers, &first, &[("longer", STRING), ("hit", BOOL)]);
    for device in [gpu(), Device::cpu()] {
        let session = Session::with_options(&model, &device, options()).expect("options");
        for words in [["a", "b", "c"], ["d", "d", "b"], ["e", "", "d!"], ["a", "b", "c"]] {
            let made = session.run_values(&given(&words)).expect("strings");
            let longer: Vec<String> = words.iter().map(|it| format!("{it}!")).collect();
            let longer: Vec<&str> = longer.iter().map(String::as_str).collect();
            assert_eq!(made[0], strings(&[3], &longer));
            let hits = ["b", "d"].map(|known| words.map(|it| it == known));
            assert_eq!(made[1], bools(&[2, 3], &hits.concat()));
        }
    }
}

/// A node, initialisers, and what it is given.
type Case<'a> = (NodeProto, Vec<TensorProto>, Vec<(&'a str, Datum)>);

/// 0 is the empty string.
fn named(numbers: &Datum) -> Datum {
    let Datum::Tensor(it) = numbers else { panic!("{numbers:?}") };
    let name = |it: i64| if it == 0 { String::new() } else { format!("s{it:03}") };
    Datum::Strings(Strings::new(it.shape().clone(), it.to_i64().into_iter().map(name)).expect("as many"))
}

#[test]
fn what_moves_strings_does_to_them_what_it_does_to_numbers() {
    let mut random = Random::new(11);
    let mut numbers = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<i64> = (0..count).map(|_| random.below(9) as i64).collect();
        whole(shape, &values)
    };
    let x = ("x", numbers(&[3, 4]));
    let y = ("y", numbers(&[3, 4]));
    let places = ("i", whole(&[2, 2], &[2, 0, 1, 2]));
    let rows = ("i", whole(&[3, 4], &[2, 0, 1, 2, 0, 1, 2, 0, 1, 1, 1, 0]));
    let pairs = ("i", whole(&[2, 2], &[2, 3, 0, 1]));
    let mask =
        ("m", bools(&[3, 4], &[true, false, true, false, false, true, true, true, false, true, false, true]));
    let row = ("m", bools(&[3], &[true, false, true]));
    let image = ("x", numbers(&[1, 4, 2, 2]));
    let init = |values: &[i64]| vec![ints("p", &[values.len() as i64], values)];
    let int = |name: &'static str, it| vec![(name, Is::Int(it))];
    let cases: Vec<Case> = vec![
        (node("Identity", &["x"], &["z"]), vec![], vec![x.clone()]),
        (node("Reshape", &["x", "p"], &["z"]), init(&[2, -1]), vec![x.clone()]),
        (node("Flatten", &["x"], &["z"]), vec![], vec![x.clone()]),
        (node("Transpose", &["x"], &["z"]), vec![], vec![x.clone()]),
        (node("Unsqueeze", &["x", "p"], &["z"]), init(&[1]), vec![x.clone()]),
        (node("Squeeze", &["x", "p"], &["z"]), init(&[0]), vec![image.clone()]),
        (
            node("Slice", &["x", "a", "b", "p"], &["z"]),
            vec![ints("a", &[1], &[1]), ints("b", &[1], &[3]), ints("p", &[1], &[1])],
            vec![x.clone()],
        ),
        (with(node("Concat", &["x", "y", "x"], &["z"]), int("axis", 1)), vec![], vec![x.clone(), y.clone()]),
        (node("Expand", &["x", "p"], &["z"]), init(&[2, 3, 4]), vec![x.clone()]),
        (node("Tile", &["x", "p"], &["z"]), init(&[2, 3]), vec![x.clone()]),
        (
            with(node("Split", &["x"], &["z", "w"]), vec![("axis", Is::Int(1)), ("num_outputs", Is::Int(2))]),
            vec![],
            vec![x.clone()],
        ),
        (with(node("Gather", &["x", "i"], &["z"]), int("axis", 1)), vec![], vec![x.clone(), places.clone()]),
        (node("GatherElements", &["x", "i"], &["z"]), vec![], vec![x.clone(), rows.clone()]),
        (node("GatherND", &["x", "i"], &["z"]), vec![], vec![x.clone(), pairs.clone()]),
        (node("ScatterElements", &["x", "i", "y"], &["z"]), vec![], vec![x.clone(), rows.clone(), y.clone()]),
        (
            node("ScatterND", &["x", "i", "u"], &["z"]),
            vec![],
            vec![x.clone(), pairs.clone(), ("u", numbers(&[2]))],
        ),
        (node("Where", &["m", "x", "y"], &["z"]), vec![], vec![x.clone(), y.clone(), mask.clone()]),
        (node("Pad", &["x", "p"], &["z"]), init(&[0, 1, 2, 0]), vec![x.clone()]),
        (node("Pad", &["x", "p", "f"], &["z"]), init(&[0, 1, 2, 0]), vec![x.clone(), ("f", numbers(&[1]))]),
        (node("CenterCropPad", &["x", "p"], &["z"]), init(&[5, 2]), vec![x.clone()]),
        (with(node("DepthToSpace", &["x"], &["z"]), int("blocksize", 2)), vec![], vec![image.clone()]),
        (with(node("SpaceToDepth", &["x"], &["z"]), int("blocksize", 2)), vec![], vec![image]),
        (node("Trilu", &["x"], &["z"]), vec![], vec![x.clone()]),
        (node("ReverseSequence", &["x", "p"], &["z"]), init(&[3, 1, 2, 0]), vec![x.clone()]),
        (node("OneHot", &["i", "p", "v"], &["z"]), init(&[3]), vec![places.clone(), ("v", numbers(&[2]))]),
        (with(node("Compress", &["x", "m"], &["z"]), int("axis", 0)), vec![], vec![x.clone(), row]),
        (with(node("Unique", &["x"], &["z", "", "j"]), int("sorted", 0)), vec![], vec![x.clone()]),
        (with(node("Unique", &["x"], &["z", "k", "j", "c"]), int("sorted", 1)), vec![], vec![x]),
    ];
    for (case, initialisers, given) in cases {
        let moved = |name: &str| !matches!(name, "i" | "m");
        let texts: Vec<(&str, Datum)> = given
            .iter()
            .map(|(name, it)| (*name, if moved(name) { named(it) } else { it.clone() }))
            .collect();
        let outputs = |of: i32| -> Vec<(&str, i32)> {
            let own = |name: &str| if matches!(name, "z" | "w") { of } else { INT };
            let names = case.output.iter().filter(|it| !it.is_empty());
            names.map(|it| (it.as_str(), own(it))).collect()
        };
        let of_numbers = run(&model(vec![case.clone()], initialisers.clone(), &given, &outputs(INT)), &given);
        let of_texts = run(&model(vec![case.clone()], initialisers, &texts, &outputs(STRING)), &texts);
        for ((numbers, texts), (name, _)) in of_numbers.iter().zip(&of_texts).zip(outputs(INT)) {
            let wanted = if matches!(name, "z" | "w") { named(numbers) } else { numbers.clone() };
            assert_eq!(*texts, wanted, "{} {name}", case.op_type);
        }
    }
}

#[test]
fn numbers_stand_for_strings_nowhere_else() {
    let x = ("x", strings(&[2], &["a", "b"]));
    let y = ("y", whole(&[2], &[0, 1]));
    let case = |nodes: Vec<NodeProto>, of: i32| {
        let given = [x.clone(), y.clone()];
        refused(&model(nodes, vec![], &given, &[("z", of)]), &given)
    };
    for (op, input, of) in [
        ("Add", ["x", "x"], STRING),
        ("Greater", ["x", "x"], BOOL),
        ("Gather", ["y", "x"], INT),
        ("Reshape", ["y", "x"], INT),
        ("Equal", ["x", "y"], BOOL),
        ("StringConcat", ["x", "y"], STRING),
    ] {
        let error = case(vec![node(op, &input, &["z"])], of);
        assert!(error.contains(&format!("the {op}")) && error.contains("strings"), "{error}");
    }
    let mixed = with(node("Concat", &["x", "y"], &["z"]), vec![("axis", Is::Int(0))]);
    assert!(case(vec![mixed], STRING).contains("operand 1 is not"));
    let summed =
        with(node("ScatterElements", &["x", "y", "x"], &["z"]), vec![("reduction", Is::Text("add"))]);
    assert!(case(vec![summed], STRING).contains("added"));
    let chosen = node("SequenceAt", &["all", "x"], &["z"]);
    assert!(case(vec![node("SequenceConstruct", &["y", "y"], &["all"]), chosen], INT).contains("operand 1"));
    let turns = GraphProto {
        input: vec![info("turn", INT, Some(&[])), info("on", BOOL, Some(&[]))],
        output: vec![info("on", BOOL, Some(&[])), info("turn", INT, Some(&[]))],
        ..Default::default()
    };
    let repeat = with(node("Loop", &["x", ""], &["z"]), vec![("body", Is::Graph(turns))]);
    assert!(case(vec![repeat], INT).contains("operand 0 is of strings"));
}

#[test]
fn casts_spell_numbers_and_read_them() {
    let given = [("x", Datum::Tensor(Tensor::f32([4], &[0.1, -2.0, f32::NAN, 1e10]).expect("four")))];
    let cast = |from: &str, to: &str, code: i32| {
        with(node("Cast", &[from], &[to]), vec![("to", Is::Int(i64::from(code)))])
    };
    let nodes = vec![cast("x", "t", STRING), cast("t", "y", FLOAT), node("CastLike", &["i", "t"], &["j"])];
    let initialisers = vec![ints("i", &[2], &[-7, 8])];
    let outputs = [("t", STRING), ("y", FLOAT), ("j", STRING)];
    let made = run_bits(&model(nodes, initialisers, &given, &outputs), &given);
    assert_eq!(made[0], strings(&[4], &["0.1", "-2.0", "NaN", "10000000000.0"]));
    assert_eq!(made[2], strings(&[2], &["-7", "8"]));
    let Datum::Tensor(y) = &made[1] else { panic!("{made:?}") };
    assert!(
        y.to_f64()
            .iter()
            .zip([0.1f32, -2.0, f32::NAN, 1e10])
            .all(|(a, b)| { *a == f64::from(b) || (a.is_nan() && b.is_nan()) })
    );
    let words = [("x", strings(&[1], &["Hello World!"]))];
    let error = refused(&model(vec![cast("x", "y", FLOAT)], vec![], &words, &[("y", FLOAT)]), &words);
    assert!(error.contains("the Cast") && error.contains("Hello World!"), "{error}");
}

/// As `run`, where NaN is what it is.
fn run_bits(model: &Model, given: &[(&str, Datum)]) -> Vec<Datum> {
    let session = Session::with_options(model, &gpu(), options()).expect("options");
    session.run_values(given).unwrap_or_else(|it| panic!("{it}")).into_iter().map(|it| it.1).collect()
}

#[test]
fn constants_that_are_strings_are_computed_with_at_once() {
    let given = [("x", strings(&[2], &["b", "c"]))];
    let nodes = vec![
        with(node("Constant", &[], &["one"]), vec![("value_string", Is::Text("c"))]),
        with(node("Constant", &[], &["all"]), vec![("value_strings", Is::Texts(&["b", "c"]))]),
        with(
            node("Constant", &[], &["table"]),
            vec![("value", Is::Tensor(texts("", &[1, 2], &["1.5", "-3"])))],
        ),
        with(node("Cast", &["table"], &["numbers"]), vec![("to", Is::Int(i64::from(FLOAT)))]),
        with(
            node("ConstantOfShape", &["p"], &["many"]),
            vec![("value", Is::Tensor(texts("", &[1], &["ü"])))],
        ),
        node("Equal", &["x", "one"], &["hit"]),
        node("Equal", &["x", "all"], &["same"]),
    ];
    let outputs = [("hit", BOOL), ("same", BOOL), ("numbers", FLOAT), ("many", STRING)];
    let model = model(nodes, vec![ints("p", &[2], &[2, 1])], &given, &outputs);
    let made = run(&model, &given);
    assert_eq!(made[0], bools(&[2], &[false, true]));
    assert_eq!(made[1], bools(&[2], &[true, true]));
    assert_eq!(made[2], Datum::Tensor(Tensor::f32([1, 2], &[1.5, -3.0]).expect("two")));
    assert_eq!(made[3], strings(&[2, 1], &["ü", "ü"]));
}

#[test]
fn strings_pass_through_branches_loops_and_sequences() {
    let scalar = |name: &str, of| info(name, of, Some(&[]));
    let branch = |suffix: &str| GraphProto {
        node: vec![node("StringConcat", &["x", "c"], &["out"])],
        initializer: vec![texts("c", &[], &[suffix])],
        output: vec![info("out", STRING, None)],
        ..Default::default()
    };
    let body = GraphProto {
        input: vec![scalar("turn", INT), scalar("on", BOOL), info("text", STRING, Some(&[2]))],
        node: vec![node("StringConcat", &["text", "dot"], &["next"]), node("Identity", &["next"], &["each"])],
        initializer: vec![texts("dot", &[], &["."])],
        output: vec![scalar("on", BOOL), info("next", STRING, Some(&[2])), info("each", STRING, Some(&[2]))],
        ..Default::default()
    };
    let nodes = vec![
        with(
            node("If", &["flag"], &["chosen"]),
            vec![("then_branch", Is::Graph(branch("+"))), ("else_branch", Is::Graph(branch("-")))],
        ),
        with(node("Loop", &["turns", "", "chosen"], &["last", "all"]), vec![("body", Is::Graph(body))]),
        node("SequenceConstruct", &["last", "x"], &["pair"]),
        with(node("ConcatFromSequence", &["pair"], &["joined"]), vec![("axis", Is::Int(0))]),
        node("SplitToSequence", &["joined"], &["parts"]),
        node("SequenceAt", &["parts", "place"], &["third"]),
    ];
    let given = |flag: bool, turns: i64| {
        [("x", strings(&[2], &["a", "b"])), ("flag", bools(&[], &[flag])), ("turns", whole(&[], &[turns]))]
    };
    let outputs = [("last", STRING), ("all", STRING), ("joined", STRING), ("third", STRING)];
    let model = model(nodes, vec![ints("place", &[], &[2])], &given(true, 1), &outputs);
    let made = run(&model, &given(true, 2));
    assert_eq!(made[0], strings(&[2], &["a+..", "b+.."]));
    assert_eq!(made[1], strings(&[2, 2], &["a+.", "b+.", "a+..", "b+.."]));
    assert_eq!(made[2], strings(&[4], &["a+..", "b+..", "a", "b"]));
    assert_eq!(made[3], strings(&[1], &["a"]));
    let made = run(&model, &given(false, 0));
    assert_eq!(made[0], strings(&[2], &["a-", "b-"]));
    assert_eq!(made[1], strings(&[0, 2], &[]));
}

#[test]
fn encoders_give_what_a_map_gives() {
    let keys: Vec<i64> = (0..37).map(|it| it * 7 % 23 - 5).collect();
    let words: Vec<String> = keys.iter().map(|it| format!("k{it}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let values: Vec<i64> = (0..37).map(|it| 100 - it).collect();
    // Of a key that is there twice, the last holds.
    let map: HashMap<i64, i64> = keys.iter().copied().zip(values.iter().copied()).collect();
    let asked: Vec<i64> = (-12..24).collect();
    let asked_words: Vec<String> = asked.iter().map(|it| format!("k{it}")).collect();
    let asked_words: Vec<&str> = asked_words.iter().map(String::as_str).collect();
    let wanted: Vec<i64> = asked.iter().map(|it| map.get(it).copied().unwrap_or(-1)).collect();
    let text = |it: &i64| map.get(it).map_or("_Unused".to_owned(), |it| format!("v{it}"));
    let wanted_words: Vec<String> = asked.iter().map(text).collect();
    let wanted_words: Vec<&str> = wanted_words.iter().map(String::as_str).collect();
    let value_words: Vec<String> = values.iter().map(|it| format!("v{it}")).collect();
    let value_words: Vec<&str> = value_words.iter().map(String::as_str).collect();
    let encoder = |all: Vec<(&'static str, Is)>| with(node("LabelEncoder", &["x"], &["y"]), all);
    let whole_x = [("x", whole(&[2, 18], &asked))];
    let words_x = [("x", strings(&[2, 18], &asked_words))];

    let case = encoder(vec![("keys_int64s", Is::Ints(&keys)), ("values_int64s", Is::Ints(&values))]);
    assert_eq!(
        run(&model(vec![case], vec![], &whole_x, &[("y", INT)]), &whole_x)[0],
        whole(&[2, 18], &wanted)
    );
    let case = encoder(vec![("keys_strings", Is::Texts(&words)), ("values_int64s", Is::Ints(&values))]);
    assert_eq!(
        run(&model(vec![case], vec![], &words_x, &[("y", INT)]), &words_x)[0],
        whole(&[2, 18], &wanted)
    );
    let case = encoder(vec![("keys_int64s", Is::Ints(&keys)), ("values_strings", Is::Texts(&value_words))]);
    let made = run(&model(vec![case], vec![], &whole_x, &[("y", STRING)]), &whole_x);
    assert_eq!(made[0], strings(&[2, 18], &wanted_words));
    let tensors = encoder(vec![
        ("keys_tensor", Is::Tensor(texts("", &[37], &words))),
        ("values_tensor", Is::Tensor(texts("", &[37], &value_words))),
        ("default_tensor", Is::Tensor(texts("", &[1], &["none"]))),
    ]);
    let made = run(&model(vec![tensors], vec![], &words_x, &[("y", STRING)]), &words_x);
    let none: Vec<&str> = wanted_words.iter().map(|it| if *it == "_Unused" { "none" } else { it }).collect();
    assert_eq!(made[0], strings(&[2, 18], &none));

    let floats =
        [("x", Datum::Tensor(Tensor::f32([5], &[1.5, f32::NAN, -0.0, 3.0, f32::INFINITY]).expect("five")))];
    let case = encoder(vec![
        ("keys_floats", Is::Floats(&[f32::NAN, 0.0, 1.5, f32::INFINITY])),
        ("values_strings", Is::Texts(&["nan", "zero", "more", "most"])),
        ("default_string", Is::Text("other")),
    ]);
    let made = run(&model(vec![case], vec![], &floats, &[("y", STRING)]), &floats);
    assert_eq!(made[0], strings(&[5], &["more", "nan", "zero", "other", "most"]));
    let case = encoder(vec![
        ("keys_floats", Is::Floats(&[1.5])),
        ("values_floats", Is::Floats(&[2.5])),
        ("default_float", Is::Float(-4.0)),
    ]);
    let made = run(&model(vec![case], vec![], &floats, &[("y", FLOAT)]), &floats);
    assert_eq!(made[0], Datum::Tensor(Tensor::f32([5], &[2.5, -4.0, -4.0, -4.0, -4.0]).expect("five")));

    let mapper = |default: (&'static str, Is<'static>)| {
        let cats =
            vec![("cats_int64s", Is::Ints(&[3, 1])), ("cats_strings", Is::Texts(&["three", "one"])), default];
        with(node("CategoryMapper", &["x"], &["y"]), cats)
    };
    let some = [("x", strings(&[3], &["one", "two", "three"]))];
    let case = mapper(("default_int64", Is::Int(-2)));
    assert_eq!(run(&model(vec![case], vec![], &some, &[("y", INT)]), &some)[0], whole(&[3], &[1, -2, 3]));
    let some = [("x", whole(&[3], &[1, 2, 3]))];
    let case = mapper(("default_string", Is::Text("?")));
    let made = run(&model(vec![case], vec![], &some, &[("y", STRING)]), &some);
    assert_eq!(made[0], strings(&[3], &["one", "?", "three"]));

    let unlike = encoder(vec![("keys_int64s", Is::Ints(&[1])), ("values_int64s", Is::Ints(&[1]))]);
    assert!(refused(&model(vec![unlike], vec![], &words_x, &[("y", INT)]), &words_x).contains("strings"));
    let uneven = encoder(vec![("keys_int64s", Is::Ints(&[1])), ("values_int64s", Is::Ints(&[1, 2]))]);
    assert!(refused(&model(vec![uneven], vec![], &whole_x, &[("y", INT)]), &whole_x).contains("2 values"));
}

#[test]
fn the_normaliser_drops_stop_words_and_changes_case() {
    let case = |x: Datum, all: Vec<(&str, Is)>| {
        let given = [("x", x)];
        let normaliser = with(node("StringNormalizer", &["x"], &["y"]), all);
        run(&model(vec![normaliser], vec![], &given, &[("y", STRING)]), &given).remove(0)
    };
    let upper = || ("case_change_action", Is::Text("UPPER"));
    let lower = || ("case_change_action", Is::Text("LOWER"));
    let stops = |all: &'static [&'static str]| ("stopwords", Is::Texts(all));
    let words = ["Straße", "ΣΑΣ", "die", "DIE"];
    assert_eq!(case(strings(&[4], &words), vec![upper()]), strings(&[4], &["STRASSE", "ΣΑΣ", "DIE", "DIE"]));
    assert_eq!(case(strings(&[4], &words), vec![lower()]), strings(&[4], &["straße", "σας", "die", "die"]));
    assert_eq!(case(strings(&[4], &words), vec![stops(&["Die"])]), strings(&[2], &words[..2]));
    let sensitive = vec![stops(&["die"]), ("is_case_sensitive", Is::Int(1)), upper()];
    assert_eq!(case(strings(&[1, 4], &words), sensitive), strings(&[1, 3], &["STRASSE", "ΣΑΣ", "DIE"]));
    assert_eq!(case(strings(&[1, 2], &words[2..]), vec![stops(&["die"])]), strings(&[1, 1], &[""]));
    assert_eq!(case(strings(&[0], &[]), vec![]), strings(&[1], &[""]));
    let given = [("x", strings(&[2, 2], &words))];
    let normaliser = |all| with(node("StringNormalizer", &["x"], &["y"]), all);
    let error = refused(&model(vec![normaliser(vec![])], vec![], &given, &[("y", STRING)]), &given);
    assert!(error.contains("[2,2]"), "{error}");
    let given = [("x", strings(&[4], &words))];
    let turkish = normaliser(vec![("locale", Is::Text("tr_TR.UTF-8")), upper()]);
    assert!(refused(&model(vec![turkish], vec![], &given, &[("y", STRING)]), &given).contains("tr_TR"));
}

#[test]
fn splits_and_matches_go_element_by_element() {
    let given = [("x", strings(&[2, 2], &["a b", "", "  c  ", "d e f"]))];
    let nodes = vec![
        node("StringSplit", &["x"], &["parts", "counts"]),
        with(node("RegexFullMatch", &["x"], &["hit"]), vec![("pattern", Is::Text(r"\w \w"))]),
    ];
    let outputs = [("parts", STRING), ("counts", INT), ("hit", BOOL)];
    let made = run(&model(nodes, vec![], &given, &outputs), &given);
    let parts = ["a", "b", "", "", "", "", "c", "", "", "d", "e", "f"];
    assert_eq!(made[0], strings(&[2, 2, 3], &parts));
    assert_eq!(made[1], whole(&[2, 2], &[2, 0, 1, 3]));
    assert_eq!(made[2], bools(&[2, 2], &[true, false, false, false]));
    let nothing = [("x", strings(&[0, 3], &[]))];
    let nodes = vec![node("StringSplit", &["x"], &["parts", "counts"])];
    let made = run(&model(nodes, vec![], &nothing, &outputs[..2]), &nothing);
    assert_eq!(made[0], strings(&[0, 3, 0], &[]));
    assert_eq!(made[1], whole(&[0, 3], &[]));
    let open = with(node("RegexFullMatch", &["x"], &["hit"]), vec![("pattern", Is::Text("("))]);
    let error = refused(&model(vec![open], vec![], &given, &[("hit", BOOL)]), &given);
    assert!(error.contains("the RegexFullMatch"), "{error}");
}

#[test]
fn n_grams_of_words_are_counted() {
    let given = [("x", strings(&[2, 4], &["a", "b", "a", "b", "c", "a", "x", "b"]))];
    let counter = with(
        node("TfIdfVectorizer", &["x"], &["y"]),
        vec![
            ("mode", Is::Text("TF")),
            ("min_gram_length", Is::Int(1)),
            ("max_gram_length", Is::Int(2)),
            ("max_skip_count", Is::Int(0)),
            ("ngram_counts", Is::Ints(&[0, 2])),
            ("ngram_indexes", Is::Ints(&[0, 1, 2])),
            ("pool_strings", Is::Texts(&["a", "c", "a", "b"])),
        ],
    );
    let made = run(&model(vec![counter], vec![], &given, &[("y", FLOAT)]), &given);
    assert_eq!(made[0], Datum::Tensor(Tensor::f32([2, 3], &[2.0, 0.0, 2.0, 1.0, 1.0, 0.0]).expect("six")));
}

#[test]
fn a_gpu_alone_moves_and_compares_strings_and_says_what_it_cannot() {
    let given = [("x", strings(&[3], &["a", "b", "a"]))];
    let options = Options { fallback: Fallback::Error, ..options() };
    let moved = vec![node("Equal", &["x", "k"], &["hit"]), node("Gather", &["x", "p"], &["y"])];
    let initialisers = vec![texts("k", &[], &["a"]), ints("p", &[2], &[1, 2])];
    let moves = model(moved, initialisers, &given, &[("hit", BOOL), ("y", STRING)]);
    let device = gpu();
    if !device.is_gpu() {
        return;
    }
    let session = Session::with_options(&moves, &device, options.clone()).expect("options");
    let made = session.run_values(&given).expect("on the GPU alone");
    assert_eq!(made[0], bools(&[3], &[true, false, true]));
    assert_eq!(made[1], strings(&[2], &["b", "a"]));
    let joined = model(vec![node("StringConcat", &["x", "x"], &["y"])], vec![], &given, &[("y", STRING)]);
    let session = Session::with_options(&joined, &device, options).expect("options");
    let error = session.run_values(&given).map(|_| ()).expect_err("forbidden").to_string();
    assert!(error.contains("the StringConcat") && error.contains("strings"), "{error}");
    let session = Session::new(&joined, &device).expect("options");
    session.run_values(&given).expect("with the processor");
    let told = session.disabled();
    assert!(
        told.iter()
            .any(|it| matches!(&it.reason, DisabledReason::Strings { node } if node == "the StringConcat"))
    );
}

#[test]
fn strings_count_against_the_memory_limit() {
    let words: Vec<String> = (0..1000).map(|it| format!("word {it}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let given = [("x", strings(&[1000, 1], &words)), ("y", strings(&[1, 1000], &words))];
    let model = model(vec![node("StringConcat", &["x", "y"], &["z"])], vec![], &given, &[("z", STRING)]);
    let limited =
        |memory_limit| Session::with_options(&model, &Device::cpu(), Options { memory_limit, ..options() });
    let error = limited(16 << 20).expect("options").run_values(&given).map(|_| ()).expect_err("too many");
    assert!(error.to_string().contains("memory_limit"), "{error}");
    let error = limited(1 << 10).expect("options").run_values(&given).map(|_| ()).expect_err("too many");
    assert!(error.to_string().contains("memory_limit"), "{error}");
}

#[test]
fn strings_of_a_file_have_to_be_text_and_as_many_as_it_says() {
    let parsed = |constant: TensorProto| {
        let graph = GraphProto {
            node: vec![node("Identity", &["c"], &["y"])],
            initializer: vec![constant],
            output: vec![info("y", STRING, None)],
            ..Default::default()
        };
        Model::from_bytes(file(graph)).map(|_| ()).map_err(|it| it.to_string())
    };
    assert_eq!(parsed(texts("c", &[2], &["a", "b"])), Ok(()));
    let error = parsed(texts("c", &[3], &["a", "b"])).expect_err("too few");
    assert!(error.contains("'c'") && error.contains("2 strings"), "{error}");
    let mut bytes = texts("c", &[1], &[""]);
    bytes.string_data[0] = vec![0xff, 0xfe].into();
    let error = parsed(bytes).expect_err("no text");
    assert!(error.contains("'c'") && error.contains("UTF-8"), "{error}");
    let error = parsed(texts("c", &[i64::MAX, 2], &[])).expect_err("too large");
    assert!(error.contains("'c'"), "{error}");
}
