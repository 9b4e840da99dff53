//! ONNX import: graphs of the zoo, evaluated; other shapes; bad files; names and symbols.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use wgfuse_compiler::{
    error::Error,
    graph::{eval::eval, verify::verify},
    import::Model,
    shape::{Dim, Shape},
};
use wgfuse_tests::zoo;

const ZOO: [&str; 10] = [
    "bert_tiny",
    "gpt2_tiny",
    "llama_tiny",
    "t5_encoder_tiny",
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "unet_tiny",
];

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

/// Truncated and mutated files are errors or graphs, never panics.
#[test]
fn bad_files() {
    let small = ["bert_tiny", "t5_encoder_tiny", "unet_tiny"].map(|it| zoo::onnx(it).unwrap());
    for seed in 0..300u64 {
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

#[test]
fn other_formats_are_named() {
    let of = |bytes: &'static [u8]| Model::from_bytes(Bytes::from_static(bytes)).unwrap_err().to_string();
    assert!(of(b"").contains("empty"));
    assert!(of(b"PK\x03\x04....").contains("zip"));
    assert!(of(b"{\"a\": 1}").contains("text"));
    assert!(of(b"\x08\x0a").contains("graph"));
}
