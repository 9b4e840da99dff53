//! The digits that `wgfuse demo` classifies, on both devices.

use bytes::Bytes;
use safetensors::SafeTensors;
use wgfuse::{DType, Device, Model, Session, Shape, Tensor, Type, inputs};
use wgfuse_tests::{
    device::{gpu, options},
    folder,
};

const COUNT: usize = 450;

fn classify(device: &Device) {
    let assets = folder::tests().join("../cli/assets");
    let model = Model::open(assets.join("digits.onnx")).unwrap();
    let session = Session::with_options(&model, device, options()).unwrap();
    let bytes = std::fs::read(assets.join("test_set.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names();
    let data =
        |name: &str| tensors.tensor(name).unwrap_or_else(|_| panic!("{name} is not in {names:?}")).data();
    let (images, expected) = (data("image"), data("probability"));
    assert_eq!((images.len(), expected.len()), (4 * 64 * COUNT, 4 * 10 * COUNT));
    let labels: Vec<usize> =
        data("label").chunks(data("label").len() / COUNT).map(|it| it[0].into()).collect();

    // All at once, and batches of one and of three that are no part of the set in its order.
    let all: Vec<usize> = (0..COUNT).collect();
    for numbers in [&all[..], &[0], &[449, 7, 7]] {
        let picked = |of: &[u8]| -> Vec<u8> {
            let each = of.len() / COUNT;
            numbers.iter().flat_map(|it| &of[it * each..(it + 1) * each]).copied().collect()
        };
        let tensor = |of: &[u8], shape: Shape| {
            Tensor::new(Type::new(DType::F32, shape), Bytes::from(picked(of))).unwrap()
        };
        let image = tensor(images, Shape::from([numbers.len(), 1, 8, 8]));
        let want = tensor(expected, Shape::from([numbers.len(), 10])).to_f64();
        let outputs = session.run(inputs! { "image" => image }).unwrap();
        let have = outputs["probability"].to_f64();
        assert_eq!(have.len(), want.len());
        have.iter().zip(&want).for_each(|(a, b)| assert!((a - b).abs() <= 1e-4, "{a} against {b}"));

        let best = |row: &[f64]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let right = have.chunks(10).zip(numbers).filter(|(row, at)| best(row) == labels[**at]).count();
        if numbers.len() == COUNT {
            assert_eq!(right, 442);
        }
    }
}

#[test]
fn digits_on_the_processor() {
    classify(&Device::cpu());
}

#[test]
fn digits_on_the_gpu() {
    classify(&gpu());
}
