//! The digits that `wgfuse demo` classifies, on both devices.

use bytes::Bytes;
use safetensors::SafeTensors;
use wgfuse::{Device, Model, Session, Shape, Tensor, inputs};

fn classify(device: &Device) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/assets");
    let model = Model::open(format!("{folder}/digits.onnx")).unwrap();
    let session = Session::new(&model, device).unwrap();
    let bytes = std::fs::read(format!("{folder}/test_set.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names();
    let floats = |name: &str| {
        let view = tensors.tensor(name).unwrap_or_else(|_| panic!("{name} is not in {names:?}"));
        let ty = wgfuse::Type::new(wgfuse::DType::F32, Shape::new(view.shape()));
        Tensor::new(ty, Bytes::copy_from_slice(view.data())).unwrap()
    };
    let (images, expected) = (floats("image"), floats("probability"));
    let outputs = session.run(inputs! { "image" => images }).unwrap();
    let (have, want) = (outputs["probability"].to_f64(), expected.to_f64());
    assert_eq!(have.len(), want.len());
    have.iter().zip(&want).for_each(|(a, b)| assert!((a - b).abs() <= 1e-4, "{a} against {b}"));

    let labels = tensors.tensor("label").unwrap();
    let width = labels.data().len() / 450;
    let label = |at: usize| labels.data()[at * width] as usize;
    let best = |row: &[f64]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let right = have.chunks(10).enumerate().filter(|(at, row)| best(row) == label(*at)).count();
    assert_eq!(right, 442, "of {}", have.len() / 10);
}

#[test]
fn digits_on_the_processor() {
    classify(&Device::cpu());
}

#[test]
fn digits_on_the_gpu() {
    classify(&Device::gpu().expect("a Vulkan driver; a software one will do"));
}
