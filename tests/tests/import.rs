//! ONNX import: graphs of the zoo, evaluated; other shapes; bad files; names and symbols.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use prost::Message;
use wgfuse_compiler::{
    dtype::DType,
    error::Error,
    graph::{Op, eval::eval, verify::verify},
    import::{Model, Signature, onnx::proto::*},
    shape::{Dim, Shape},
    tensor::Tensor,
};
use wgfuse_tests::zoo::{self, ZOO};

fn evaluated(name: &str) {
    let case = zoo::load(name).unwrap();
    let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
    let graph = case.model.graph(&shapes).unwrap();
    assert!(verify(&graph).is_empty(), "{:?}", verify(&graph));
    let made = eval(&graph, &case.inputs).unwrap();
    assert_eq!((made.len(), case.expected.len()), (1, 1));
    for (made, want) in made.iter().zip(&case.expected) {
        assert_eq!(zoo::beyond(made, want, 1e-3, 1e-4), None, "{name}");
    }
}

#[test]
fn bert() {
    evaluated("bert_tiny");
}

#[test]
fn gpt2() {
    evaluated("gpt2_tiny");
}

#[test]
fn llama() {
    evaluated("llama_tiny");
}

#[test]
fn t5() {
    evaluated("t5_encoder_tiny");
}

#[test]
fn unet() {
    evaluated("unet_tiny");
}

#[test]
fn efficientnet() {
    evaluated("test_efficientnet");
}

#[test]
fn resnet() {
    evaluated("test_resnet");
}

#[test]
fn vit() {
    evaluated("test_vit");
}

#[test]
fn convnext() {
    evaluated("test_convnext");
}

#[test]
fn mobilenet() {
    evaluated("mobilenetv3_small_050");
}

/// Symbols take any size, and the result's symbols follow.
#[test]
fn other_shapes() {
    for name in ZOO {
        let model = Model::from_bytes(zoo::onnx(name).unwrap()).unwrap();
        for step in [1, 5] {
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(name) if name == "batch" => step,
                Dim::Symbol(_) | Dim::Unknown => 3 * step + 4,
            };
            let shapes: Vec<Shape> =
                model.inputs.iter().map(|it| it.dims.iter().map(size).collect()).collect();
            let graph = model.graph(&shapes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(verify(&graph).is_empty(), "{name}: {:?}", verify(&graph));
            for (output, signature) in graph.outputs.iter().zip(&model.outputs) {
                let want: Shape = signature.dims.iter().map(size).collect();
                assert_eq!(graph.ty(output.value).shape, want, "{name}");
            }
        }
    }
}

/// Files of other formats, by how they begin: what is said of each, and what to do.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"", "empty", "download"),
    (b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl", "zip archive", "torch.onnx.export"),
    (b"\x80\x02}q\x00(X\x06\x00\x00\x00weight", "pickle", "torch.onnx.export"),
    (b"\x89HDF\r\n\x1a\n\x00", "HDF5", "tf2onnx"),
    (b"GGUF\x03\x00\x00\x00\x23\x01\x00\x00", "GGUF", "made from"),
    (b"\x1c\x00\x00\x00TFL3\x14\x00", "TensorFlow Lite", "tf2onnx"),
    (b"\x18\x00\x00\x00ORTM\x00\x00", ".ort", ".onnx"),
    (b"\x93NUMPY\x01\x00v\x00{'descr'", "NumPy", "no model"),
    (b"\x1f\x8b\x08\x08model.onnx", "compressed", "unpack"),
    (b"<!DOCTYPE html>\n<html lang=\"en\">", "web page", "link"),
    (b"\n  <html><head>", "web page", "link"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS", "git lfs pull"),
    (b"\xef\xbb\xbf{\"architectures\": []}", "text", "ONNX"),
];

/// Both doors say the same, and a real safetensors file is known too.
#[test]
fn files_of_other_formats_are_named() {
    let tensors = std::fs::read(zoo::folder("bert_tiny").join("expected.safetensors")).unwrap();
    let tensors: (&[u8], _, _) = (&tensors, "safetensors", "optimum-cli");
    let path = std::env::temp_dir().join(format!("wgfuse-other-{}", std::process::id()));
    for (bytes, what, advice) in OTHERS.iter().copied().chain([tensors]) {
        let error = Model::from_bytes(Bytes::copy_from_slice(bytes)).expect_err(what).to_string();
        assert!(error.contains("an ONNX model was expected"), "{what}: {error}");
        assert!(error.contains(what) && error.contains(advice), "{what}: {error}");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(wgfuse::Model::open(&path).expect_err(what).to_string(), error);
    }
    // What is none of these is told where it stops to be a model.
    std::fs::write(&path, &zoo::onnx("bert_tiny").unwrap()[..5000]).unwrap();
    let error = wgfuse::Model::open(&path).expect_err("cut").to_string();
    assert!(error.contains("byte") && error.contains("of 5000"), "{error}");
    let error = Model::from_bytes(Bytes::from_static(b"\x08\x0a")).expect_err("no graph").to_string();
    assert!(error.contains("holds no graph"), "{error}");
    std::fs::remove_file(&path).unwrap();
}

/// Truncated and mutated files are errors or graphs, never panics.
#[test]
fn bad_files() {
    let small = ["bert_tiny", "t5_encoder_tiny", "unet_tiny"].map(|it| zoo::onnx(it).unwrap());
    for seed in 0..1000u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize
        };
        let mut bytes = small[seed as usize % small.len()].to_vec();
        match next() % 3 {
            0 => bytes.truncate(next() % bytes.len()),
            kind => {
                // Nodes stand at the front: that is where most mutations bite.
                let reach = if kind == 1 { bytes.len() } else { bytes.len().min(30_000) };
                for _ in 0..1 + next() % 8 {
                    bytes[next() % reach] = next() as u8;
                }
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let model = Model::from_bytes(bytes.into())?;
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(_) | Dim::Unknown => 2,
            };
            let shapes: Vec<Shape> =
                model.inputs.iter().map(|it| it.dims.iter().map(size).collect()).collect();
            model.graph(&shapes)
        }));
        match outcome {
            Ok(Ok(graph)) => assert!(verify(&graph).is_empty(), "seed {seed}: {:?}", verify(&graph)),
            Ok(Err(error)) => assert!(!error.to_string().is_empty()),
            Err(_) => panic!("seed {seed} panicked"),
        }
    }
}

#[test]
fn errors_name_the_input() {
    let model = Model::from_bytes(zoo::onnx("bert_tiny").unwrap()).unwrap();
    let text = |shapes: &[Shape]| match model.graph(shapes) {
        Err(error @ Error::Input { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let one = text(&[[2, 3].into()]);
    assert!(one.contains("attention_mask") && one.contains("i64[batch,seq]"), "{one}");
    let rank = text(&[[2, 3].into(), [2].into()]);
    assert!(rank.contains("attention_mask") && rank.contains("rank"), "{rank}");
    let symbol = text(&[[2, 3].into(), [2, 4].into()]);
    assert!(symbol.contains("'seq' is 4, but 3 in input 'input_ids'"), "{symbol}");
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|it| it.to_string()).collect();
    NodeProto { op_type: op.into(), input: owned(inputs), output: owned(outputs), ..Default::default() }
}

fn info(name: &str) -> ValueInfoProto {
    let dim = vec![DimensionProto { dim_value: Some(3), ..Default::default() }];
    let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

/// x f32[3] to y, opset 20.
fn model(nodes: Vec<NodeProto>) -> ModelProto {
    ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 20 }],
        graph: Some(GraphProto {
            node: nodes,
            input: vec![info("x")],
            output: vec![info("y")],
            ..Default::default()
        }),
        functions: vec![],
    }
}

fn run(model: &ModelProto) -> Result<Vec<f32>, Error> {
    let model = Model::from_bytes(model.encode_to_vec().into())?;
    let x = Tensor::f32([3], &[1.0, -2.0, 3.0]).unwrap();
    let graph = model.graph(&[[3].into()])?;
    Ok(eval(&graph, &[x])?[0].to_f32().unwrap())
}

fn fault(model: &ModelProto) -> String {
    run(model).unwrap_err().to_string()
}

#[test]
fn nodes_in_any_order() {
    let nodes = vec![node("Neg", &["a"], &["y"]), node("Abs", &["x"], &["a"])];
    assert_eq!(run(&model(nodes)).unwrap(), [-1.0, -2.0, -3.0]);
    let cycle = vec![node("Neg", &["a"], &["y"]), node("Abs", &["y"], &["a"])];
    assert!(fault(&model(cycle)).contains("cycle"));
}

#[test]
fn faults_name_node_and_operator() {
    let unknown = fault(&model(vec![node("Frobnicate", &["x"], &["y"])]));
    assert!(
        unknown.contains("'Frobnicate_0'") && unknown.contains("ai.onnx::Frobnicate (opset 20)"),
        "{unknown}"
    );
    let mut other = node("Abs", &["x"], &["y"]);
    other.domain = "org.example".into();
    assert!(fault(&model(vec![other])).contains("org.example"));
    let missing = fault(&model(vec![node("Abs", &["nowhere"], &["y"])]));
    assert!(missing.contains("'nowhere'"), "{missing}");
    let twice = fault(&model(vec![node("Abs", &["x"], &["y"]), node("Neg", &["x"], &["y"])]));
    assert!(twice.contains("'Neg_1'") && twice.contains("'y'"), "{twice}");
    let mut old = model(vec![node("Abs", &["x"], &["y"])]);
    old.opset_import[0].version = 0;
    assert!(fault(&old).contains("opset version 0"));
    let mut attribute = node("Abs", &["x"], &["y"]);
    attribute.attribute =
        vec![AttributeProto { name: "mystery".into(), i: 1, r#type: 2, ..Default::default() }];
    assert!(fault(&model(vec![attribute])).contains("'mystery'"));
}

#[test]
fn input_as_output() {
    let mut model = model(vec![]);
    model.graph.as_mut().unwrap().output = vec![info("x")];
    assert_eq!(run(&model).unwrap(), [1.0, -2.0, 3.0]);
}

#[test]
fn functions_are_inlined() {
    let mut call = node("Twice", &["x"], &["y"]);
    call.domain = "org.example".into();
    let slope = AttributeProto { name: "slope".into(), f: 0.5, r#type: 1, ..Default::default() };
    call.attribute = vec![slope];
    let mut body = node("LeakyRelu", &["a"], &["b"]);
    body.attribute = vec![AttributeProto {
        name: "alpha".into(),
        r#type: 1,
        ref_attr_name: "slope".into(),
        ..Default::default()
    }];
    let mut model = model(vec![call]);
    model.functions = vec![FunctionProto {
        name: "Twice".into(),
        domain: "org.example".into(),
        input: vec!["a".into()],
        output: vec!["c".into()],
        attribute: vec!["slope".into()],
        node: vec![body, node("Add", &["b", "b"], &["c"])],
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 20 }],
        ..Default::default()
    }];
    assert_eq!(run(&model).unwrap(), [2.0, -2.0, 6.0]);
    // A function that calls itself.
    let mut again = node("Twice", &["a"], &["c"]);
    again.domain = "org.example".into();
    model.functions[0].node = vec![again];
    assert!(fault(&model).contains("deeper"));
}

/// A weight in another file, reached only through the caller, and never outside the model's folder.
#[test]
fn external_data() {
    let with_path = |path: &str| {
        let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
        let mut model = model(vec![node("Add", &["x", "w"], &["y"])]);
        model.graph.as_mut().unwrap().initializer = vec![TensorProto {
            name: "w".into(),
            dims: vec![3],
            data_type: 1,
            data_location: 1,
            external_data: vec![entry("location", path), entry("offset", "4"), entry("length", "12")],
            ..Default::default()
        }];
        let data: Vec<u8> = [9.0f32, 1.0, 2.0, 3.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        let data = Bytes::from(data);
        let model = Model::from_onnx(model.encode_to_vec().into(), &|asked| {
            assert_eq!(asked, "weights.bin");
            Some(data.clone())
        })?;
        let graph = model.graph(&[[3].into()])?;
        Ok::<_, Error>(eval(&graph, &[Tensor::f32([3], &[0.0; 3]).unwrap()])?[0].to_f32().unwrap())
    };
    assert_eq!(with_path("weights.bin").unwrap(), [1.0, 2.0, 3.0]);
    for path in ["/etc/passwd", "../weights.bin", "a/../../b", "C:\\weights.bin", ""] {
        assert!(with_path(path).is_err(), "{path}");
    }
}

/// Weights are borrowed from the file.
#[test]
fn weights_are_not_copied() {
    let bytes = zoo::onnx("bert_tiny").unwrap();
    let file = bytes.as_ptr_range();
    let model = Model::from_bytes(bytes.clone()).unwrap();
    let graph = model.graph(&[[2, 5].into(), [2, 5].into()]).unwrap();
    let large: Vec<_> = (graph.nodes())
        .filter_map(|(_, node)| match node.op {
            Op::Constant(id) => Some(graph.constant(id)),
            _ => None,
        })
        .filter(|it| it.data().len() > 8000)
        .collect();
    assert!(large.len() > 10);
    assert!(large.iter().all(|it| file.contains(&it.data().as_ptr())));
}

#[test]
fn models_written_in_rust() {
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(4)];
    let input = Signature { name: "x".into(), dtype: DType::F32, dims: dims.clone() };
    let model = Model::from_builder(vec![input], |b, x| Ok(vec![("y".into(), b.relu(x[0])?)])).unwrap();
    assert_eq!(model.outputs, [Signature { name: "y".into(), dtype: DType::F32, dims }]);
    let graph = model.graph(&[[2, 4].into()]).unwrap();
    let x = Tensor::f32([2, 4], &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0]).unwrap();
    let y = eval(&graph, &[x]).unwrap();
    assert_eq!(y[0].to_f32().unwrap(), [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
    assert!(model.graph(&[[2, 5].into()]).is_err());
}
