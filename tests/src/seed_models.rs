//! Small models of every part of the ONNX format that decides about sizes, recursion or memory: what mutated files are made of.

use bytes::Bytes;
use wgfuse_compiler::import::onnx::proto::*;

pub const FLOAT: i32 = 1;
pub const INT8: i32 = 3;
pub const UINT8: i32 = 2;
pub const INT: i32 = 7;
pub const STRING: i32 = 8;
pub const BOOL: i32 = 9;

/// Each with its name.
pub fn seed_models() -> Vec<(&'static str, ModelProto)> {
    vec![
        ("branch", branch()),
        ("turns", turns(Some(3))),
        ("turns by values", turns(None)),
        ("collected", collected(5)),
        ("scan", scan()),
        ("mapped", mapped()),
        ("sequences", sequences()),
        ("pieces", pieces()),
        ("optional", optional()),
        ("functions", functions()),
        ("sparse", sparse()),
        ("external", external()),
        ("quantised", quantised()),
        ("shapes", shapes()),
        ("made", made()),
        ("chosen", chosen()),
        ("boxes", boxes()),
        ("strings", strings()),
        ("image", image()),
        ("recurrent", recurrent()),
        ("signal", signal()),
        ("attention", attention()),
        ("scattered", scattered()),
        ("gradient", derived()),
    ]
}

/// The contents of the external files of `seed_models`.
pub fn beside(name: &str) -> Option<Bytes> {
    (name == "weights").then(|| Bytes::from_static(&[0x3f; 64]))
}

pub fn info(name: &str, of: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |it: &&str| match it.parse() {
        Ok(size) => DimensionProto { dim_value: Some(size), dim_param: None },
        Err(_) => DimensionProto { dim_value: None, dim_param: Some(it.to_string()) },
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: of, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

pub fn node(op: &str, input: &str, output: &str) -> NodeProto {
    let names = |all: &str| all.split_whitespace().map(|it| it.trim_matches('_').to_owned()).collect();
    NodeProto { op_type: op.into(), input: names(input), output: names(output), ..Default::default() }
}

pub trait With: Sized {
    fn with(self, name: &str, attribute: AttributeProto) -> Self;

    fn int(self, name: &str, i: i64) -> Self {
        self.with(name, AttributeProto { r#type: attribute::INT, i, ..Default::default() })
    }

    fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.with(name, AttributeProto { r#type: attribute::INTS, ints: ints.to_vec(), ..Default::default() })
    }

    fn text(self, name: &str, s: &'static str) -> Self {
        let s = Bytes::from_static(s.as_bytes());
        self.with(name, AttributeProto { r#type: attribute::STRING, s, ..Default::default() })
    }

    /// Words.
    fn texts(self, name: &str, all: &str) -> Self {
        let strings = all.split_whitespace().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect();
        self.with(name, AttributeProto { r#type: attribute::STRINGS, strings, ..Default::default() })
    }

    fn graph(self, name: &str, graph: GraphProto) -> Self {
        let g = Some(Box::new(graph));
        self.with(name, AttributeProto { r#type: attribute::GRAPH, g, ..Default::default() })
    }
}

impl With for NodeProto {
    fn with(mut self, name: &str, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(AttributeProto { name: name.into(), ..attribute });
        self
    }
}

fn raw(name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type,
        dims: dims.to_vec(),
        raw_data: raw.into(),
        ..Default::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> TensorProto {
    raw(name, INT, &[values.len() as i64], values.iter().flat_map(|it| it.to_le_bytes()).collect())
}

pub fn scalar(name: &str, value: i64) -> TensorProto {
    raw(name, INT, &[], value.to_le_bytes().to_vec())
}

/// Some floats.
pub fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let value = |at: i64| (at % 7) as f32 * 0.25 - 0.5;
    raw(name, FLOAT, dims, (0..count).flat_map(|at| value(at).to_le_bytes()).collect())
}

pub fn model(graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { domain: String::new(), version: 21 };
    ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), functions: vec![] }
}

/// x f32[n,4] to `outputs`.
pub fn graph(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        node: nodes,
        initializer,
        input: vec![info("x", FLOAT, &["n", "4"])],
        output: outputs.iter().map(|it| info(it, FLOAT, &[])).collect(),
        ..Default::default()
    }
}

fn inner(nodes: Vec<NodeProto>, inputs: &[(&str, i32)], outputs: &[&str]) -> GraphProto {
    GraphProto {
        node: nodes,
        input: inputs.iter().map(|(name, of)| info(name, *of, &[])).collect(),
        output: outputs.iter().map(|it| info(it, FLOAT, &[])).collect(),
        ..Default::default()
    }
}

fn branch() -> ModelProto {
    let deeper = node("If", "c", "t")
        .graph("then_branch", inner(vec![node("Neg", "x", "a")], &[], &["a"]))
        .graph("else_branch", inner(vec![node("Abs", "x", "b")], &[], &["b"]));
    let nodes = vec![
        node("ReduceSum", "x", "s").int("keepdims", 0),
        node("Cast", "s", "c").int("to", BOOL.into()),
        node("If", "c", "y")
            .graph("then_branch", inner(vec![deeper], &[], &["t"]))
            .graph("else_branch", inner(vec![node("Exp", "x", "e")], &[], &["e"])),
    ];
    model(graph(nodes, vec![], &["y"]))
}

/// Turns of a sum, as many as are stated or until it is large.
pub fn turns(most: Option<i64>) -> ModelProto {
    let mut body = vec![node("Add", "v w", "next")];
    match most {
        Some(_) => body.push(node("Identity", "on", "goes")),
        None => {
            body.extend([node("ReduceMax", "next", "m").int("keepdims", 0), node("Less", "m ten", "goes")])
        }
    }
    let body = inner(body, &[("turn", INT), ("on", BOOL), ("v", FLOAT)], &["goes", "next"]);
    let nodes = vec![
        node("Exp", "x", "w"),
        node("Loop", if most.is_some() { "most _ x" } else { "_ _ x" }, "y").graph("body", body),
    ];
    let ten = raw("ten", FLOAT, &[], 10f32.to_le_bytes().to_vec());
    model(graph(nodes, vec![scalar("most", most.unwrap_or(0)), ten], &["y"]))
}

/// A loop that collects x, `times` times, and whose number of turns follows from values.
pub fn collected(times: i64) -> ModelProto {
    let body = vec![node("Identity", "on", "goes"), node("Neg", "x", "row")];
    let body = inner(body, &[("turn", INT), ("on", BOOL)], &["goes", "row"]);
    let nodes = vec![
        node("ReduceSum", "x", "s").int("keepdims", 0),
        node("Mul", "s zero", "none"),
        node("Cast", "none", "i").int("to", INT.into()),
        node("Add", "i times", "most"),
        node("Loop", "most", "y").graph("body", body),
    ];
    let zero = raw("zero", FLOAT, &[], vec![0; 4]);
    model(graph(nodes, vec![scalar("times", times), zero], &["y"]))
}

fn scan() -> ModelProto {
    let body = vec![node("Add", "state row", "next"), node("Neg", "next", "made")];
    let body = inner(body, &[("state", FLOAT), ("row", FLOAT)], &["next", "made"]);
    let scan = node("Scan", "first x", "last y").int("num_scan_inputs", 1).graph("body", body);
    model(graph(vec![scan.ints("scan_output_directions", &[1])], vec![floats("first", &[4])], &["last", "y"]))
}

fn mapped() -> ModelProto {
    let body =
        inner(vec![node("Add", "part other", "made")], &[("part", FLOAT), ("other", FLOAT)], &["made"]);
    let nodes = vec![
        node("SplitToSequence", "x", "all").int("axis", 1),
        node("SequenceMap", "all one", "more").graph("body", body),
        node("ConcatFromSequence", "more", "y").int("axis", 0).int("new_axis", 1),
    ];
    model(graph(nodes, vec![floats("one", &[1])], &["y"]))
}

fn sequences() -> ModelProto {
    let nodes = vec![
        node("SequenceConstruct", "x x", "one"),
        node("Neg", "x", "z"),
        node("SequenceInsert", "one z at", "two"),
        node("SequenceErase", "two at", "three"),
        node("SequenceLength", "three", "l"),
        node("SequenceAt", "two at", "y"),
        node("SequenceEmpty", "", "none"),
        node("SequenceInsert", "none y", "last"),
        node("ConcatFromSequence", "last", "c").int("axis", 0),
    ];
    model(graph(nodes, vec![scalar("at", 1)], &["y", "l", "c"]))
}

fn pieces() -> ModelProto {
    let nodes = vec![
        node("SplitToSequence", "x sizes", "all").int("axis", 1),
        node("SequenceAt", "all at", "a"),
        node("Split", "a parts", "b c").int("axis", 1),
        node("Concat", "c b b", "y").int("axis", 1),
    ];
    model(graph(nodes, vec![ints("sizes", &[1, 3]), scalar("at", 1), ints("parts", &[1, 2])], &["y"]))
}

fn optional() -> ModelProto {
    let nodes = vec![
        node("SequenceConstruct", "x", "s"),
        node("Optional", "s", "o"),
        node("OptionalHasElement", "o", "has"),
        node("OptionalGetElement", "o", "t"),
        node("SequenceAt", "t zero", "y"),
    ];
    let mut file = model(graph(nodes, vec![scalar("zero", 0)], &["y", "has"]));
    let tensor = info("", FLOAT, &["2"]).r#type;
    let sequence = TypeProto {
        sequence_type: Some(ElementTypeProto { elem_type: tensor.map(Box::new) }),
        ..Default::default()
    };
    let optional = TypeProto {
        optional_type: Some(ElementTypeProto { elem_type: Some(Box::new(sequence)) }),
        ..Default::default()
    };
    let graph = file.graph.as_mut().expect("a model");
    graph.input.push(ValueInfoProto { name: "given".into(), r#type: Some(optional) });
    graph.node.push(node("OptionalHasElement", "given", "there"));
    graph.output.push(info("there", BOOL, &[]));
    file
}

fn functions() -> ModelProto {
    let own = |it: NodeProto| NodeProto { domain: "own".into(), ..it };
    let function = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: name.into(),
        domain: "own".into(),
        input: vec!["a".into()],
        output: vec!["c".into()],
        attribute: vec!["slope".into()],
        node: nodes,
        opset_import: vec![
            OperatorSetIdProto { domain: String::new(), version: 21 },
            OperatorSetIdProto { domain: "own".into(), version: 1 },
        ],
        ..Default::default()
    };
    let slope = AttributeProto { r#type: attribute::FLOAT, f: 0.5, ..Default::default() };
    let by_name =
        AttributeProto { r#type: attribute::FLOAT, ref_attr_name: "slope".into(), ..Default::default() };
    let mut file = model(graph(vec![own(node("Outer", "x", "y").with("slope", slope))], vec![], &["y"]));
    file.opset_import.push(OperatorSetIdProto { domain: "own".into(), version: 1 });
    file.functions = vec![
        function(
            "Outer",
            vec![own(node("Inner", "a", "b").with("slope", by_name.clone())), node("Add", "a b", "c")],
        ),
        function("Inner", vec![node("LeakyRelu", "a", "c").with("alpha", by_name)]),
    ];
    file
}

fn sparse() -> ModelProto {
    let sparse = |name: &str, dims: &[i64]| SparseTensorProto {
        values: Some(floats(name, &[2])),
        indices: Some(ints("", &[1, 6])),
        dims: dims.to_vec(),
    };
    let constant =
        AttributeProto { r#type: 11, sparse_tensor: Some(Box::new(sparse("", &[8]))), ..Default::default() };
    let nodes = vec![
        node("MatMul", "x w", "a"),
        node("Constant", "", "b").with("sparse_value", constant),
        node("Add", "a b", "y"),
    ];
    let mut graph = graph(nodes, vec![], &["y"]);
    graph.sparse_initializer = vec![sparse("w", &[4, 8])];
    model(graph)
}

fn external() -> ModelProto {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let weights = TensorProto {
        name: "w".into(),
        data_type: FLOAT,
        dims: vec![4, 3],
        data_location: 1,
        external_data: vec![entry("location", "weights"), entry("offset", "8"), entry("length", "48")],
        ..Default::default()
    };
    model(graph(vec![node("MatMul", "x w", "y")], vec![weights], &["y"]))
}

fn quantised() -> ModelProto {
    let one = |name: &str, of: i32, value: u8| raw(name, of, &[], vec![value]);
    let nodes = vec![
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearMatMul", "q s z w s zw s z", "p"),
        node("DequantizeLinear", "p s z", "y"),
        node("MatMulInteger", "q w z zw", "i"),
        node("DynamicQuantizeLinear", "y", "d ds dz"),
    ];
    let initializer = vec![
        raw("s", FLOAT, &[], 0.125f32.to_le_bytes().to_vec()),
        one("z", UINT8, 3),
        one("zw", INT8, 0xff),
        raw("w", INT8, &[4, 3], (0..12).collect()),
    ];
    model(graph(nodes, initializer, &["y", "i", "d"]))
}

fn shapes() -> ModelProto {
    let nodes = vec![
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n two two", "to").int("axis", 0),
        node("Reshape", "x to", "a"),
        node("Transpose", "a", "b").ints("perm", &[2, 0, 1]),
        node("Slice", "b from end axes steps", "c"),
        node("Pad", "c pads", "d").text("mode", "constant"),
        node("Unsqueeze", "d axes", "e"),
        node("Squeeze", "e axes", "f"),
        node("Tile", "f times", "g"),
        node("Expand", "two as", "h"),
        node("Flatten", "g", "y").int("axis", 1),
    ];
    let initializer = vec![
        ints("zero", &[0]),
        ints("two", &[2]),
        ints("from", &[-1]),
        ints("end", &[-9]),
        ints("axes", &[0]),
        ints("steps", &[-1]),
        ints("pads", &[0, 1, 0, 1, 0, 0]),
        ints("times", &[1, 2, 1]),
        ints("as", &[3, 2]),
    ];
    model(graph(nodes, initializer, &["y", "h"]))
}

fn made() -> ModelProto {
    let nodes = vec![
        node("Range", "zero end one", "r"),
        node("OneHot", "r depth values", "o").int("axis", -1),
        node("ConstantOfShape", "shape", "c"),
        node("EyeLike", "x", "e").int("k", 1),
        node("Trilu", "c k", "t"),
        node("CumSum", "x zero", "u"),
        node("TopK", "u depth", "v i"),
        node("Einsum", "x x", "m").text("equation", "ij,kj->ik"),
        node("Bernoulli", "x", "z"),
    ];
    let initializer = vec![
        scalar("zero", 0),
        scalar("end", 3),
        scalar("one", 1),
        ints("depth", &[3]),
        floats("values", &[2]),
        ints("shape", &[3, 4]),
        scalar("k", -1),
    ];
    model(graph(nodes, initializer, &["o", "e", "t", "v", "i", "m", "z"]))
}

fn chosen() -> ModelProto {
    let nodes = vec![
        node("Relu", "x", "p"),
        node("NonZero", "p", "at"),
        node("Transpose", "at", "places").ints("perm", &[1, 0]),
        node("GatherND", "x places", "y"),
        node("Unique", "y", "u f i c"),
        node("Cast", "p", "b").int("to", BOOL.into()),
        node("Reshape", "b flat", "hold"),
        node("Compress", "x hold", "z"),
        node("Shape", "u", "s"),
        node("ConstantOfShape", "s", "w"),
    ];
    model(graph(nodes, vec![ints("flat", &[-1])], &["y", "u", "i", "z", "w"]))
}

fn boxes() -> ModelProto {
    let nodes = vec![
        node("Unsqueeze", "x zero", "all"),
        node("ReduceMax", "all last", "best").int("keepdims", 0),
        node("Unsqueeze", "best zero", "scores"),
        node("NonMaxSuppression", "all scores most limit", "y"),
    ];
    let limit = raw("limit", FLOAT, &[1], 0.5f32.to_le_bytes().to_vec());
    model(graph(nodes, vec![ints("zero", &[0]), ints("last", &[2]), ints("most", &[2]), limit], &["y"]))
}

fn strings() -> ModelProto {
    let nodes = vec![
        node("Cast", "x", "t").int("to", STRING.into()),
        node("StringConcat", "t t", "u"),
        node("Reshape", "u flat", "v"),
        node("Cast", "t", "y").int("to", FLOAT.into()),
    ];
    let mut graph = graph(nodes, vec![ints("flat", &[-1])], &["v", "y"]);
    graph.output[0] = info("v", STRING, &["k"]);
    model(graph)
}

fn image() -> ModelProto {
    let nodes = vec![
        node("Reshape", "x image", "i"),
        node("Conv", "i w", "a")
            .ints("kernel_shape", &[3, 3])
            .ints("pads", &[1, 1, 1, 1])
            .ints("strides", &[1, 2]),
        node("MaxPool", "a", "b").ints("kernel_shape", &[2, 2]).int("ceil_mode", 1),
        node("Resize", "b _ scales", "c").text("mode", "linear"),
        node("ConvTranspose", "c v", "d").ints("strides", &[2, 2]),
        node("GridSample", "d grid", "y"),
        node("RoiAlign", "d roi which", "z").int("output_height", 2).int("output_width", 2),
        node("DepthToSpace", "d", "e").int("blocksize", 1),
        node("GlobalAveragePool", "e", "g"),
    ];
    let initializer = vec![
        ints("image", &[1, 2, -1, 4]),
        floats("w", &[3, 2, 3, 3]),
        floats("scales", &[4]),
        floats("v", &[3, 2, 2, 2]),
        floats("grid", &[1, 2, 2, 2]),
        floats("roi", &[1, 4]),
        ints("which", &[0]),
    ];
    let mut file = model(graph(nodes, initializer, &["y", "z", "g"]));
    let graph = file.graph.as_mut().expect("a model");
    graph.input[0] = info("x", FLOAT, &["8", "4"]);
    graph.initializer[2].raw_data = [1f32, 1.0, 2.0, 1.5].iter().flat_map(|it| it.to_le_bytes()).collect();
    file
}

fn recurrent() -> ModelProto {
    let nodes = vec![
        node("Unsqueeze", "x one", "s"),
        node("LSTM", "s w r", "y h c").int("hidden_size", 2),
        node("GRU", "s wg rg", "z").int("hidden_size", 2).int("linear_before_reset", 1),
    ];
    let initializer = vec![
        ints("one", &[1]),
        floats("w", &[1, 8, 4]),
        floats("r", &[1, 8, 2]),
        floats("wg", &[1, 6, 4]),
        floats("rg", &[1, 6, 2]),
    ];
    model(graph(nodes, initializer, &["y", "c", "z"]))
}

fn signal() -> ModelProto {
    let nodes = vec![
        node("Unsqueeze", "x last", "s"),
        node("DFT", "s length", "d"),
        node("HannWindow", "length", "w"),
        node("MelWeightMatrix", "bands length rate low high", "m"),
        node("Det", "square", "y"),
    ];
    let one = |name: &str, value: f32| raw(name, FLOAT, &[], value.to_le_bytes().to_vec());
    let initializer = vec![
        ints("last", &[2]),
        scalar("length", 8),
        scalar("bands", 2),
        scalar("rate", 8000),
        one("low", 0.0),
        one("high", 4000.0),
        floats("square", &[2, 3, 3]),
    ];
    model(graph(nodes, initializer, &["d", "w", "m", "y"]))
}

fn attention() -> ModelProto {
    let mut file = model(graph(
        vec![
            node("Unsqueeze", "x zero", "q"),
            node("Attention", "q q q", "a").int("q_num_heads", 2).int("kv_num_heads", 2).int("is_causal", 1),
            node("LayerNormalization", "a w b", "l"),
            node("Softmax", "l", "y"),
        ],
        vec![ints("zero", &[0]), floats("w", &[4]), floats("b", &[4])],
        &["y"],
    ));
    file.opset_import[0].version = 23;
    file
}

fn scattered() -> ModelProto {
    let nodes = vec![
        node("ScatterND", "big places rows", "a").text("reduction", "add"),
        node("ScatterElements", "a index new", "b").int("axis", 1),
        node("GatherElements", "b index", "c").int("axis", 1),
        node("Mod", "index three", "d"),
        node("Where", "t c new", "y"),
    ];
    let initializer = vec![
        floats("big", &[3, 4]),
        TensorProto { dims: vec![2, 1], ..ints("places", &[0, 2]) },
        floats("rows", &[2, 4]),
        TensorProto { dims: vec![1, 2], ..ints("index", &[-1, 0]) },
        floats("new", &[1, 2]),
        scalar("three", 3),
        raw("t", BOOL, &[1, 2], vec![1, 0]),
    ];
    model(graph(nodes, initializer, &["y", "d"]))
}

/// The derivative of `y` by `xs`, at `given`.
pub fn gradient(xs: &str, zs: &str, y: &'static str, given: &str, made: &str) -> NodeProto {
    let node = node("Gradient", given, made).texts("xs", xs).texts("zs", zs).text("y", y);
    NodeProto { domain: TRAINING.into(), ..node }
}

pub const TRAINING: &str = "ai.onnx.preview.training";

fn derived() -> ModelProto {
    let nodes = vec![
        node("MatMul", "x w", "h"),
        node("Softmax", "h", "s"),
        node("Mul", "s s", "l"),
        gradient("w", "x", "l", "w x", "by_w"),
        gradient("x w", "", "by_w", "x w", "twice _"),
        node("MaxPool", "image", "p").ints("kernel_shape", &[2, 2]),
        gradient("image", "", "p", "image", "by_image"),
        node("Add", "twice x", "y"),
    ];
    let initializer = vec![floats("w", &[4, 4]), floats("image", &[1, 1, 3, 3])];
    let mut file = model(graph(nodes, initializer, &["y", "by_w", "by_image"]));
    file.opset_import.push(OperatorSetIdProto { domain: TRAINING.into(), version: 1 });
    file
}
