//! Images: files' bytes to pixels, on the processor. What JPEG files give is held to what libjpeg-turbo 2.1.5 made of them
//! (`tests/files/images`), to the bit.

use std::{fs, path::Path};

use prost::Message;
use wgfuse::{
    DType, Datum, Device, Model, ModelError, Options, Session, Tensor,
    compiler::import::onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
        TensorTypeProto, TypeProto, ValueInfoProto, attribute,
    },
};

fn decoder(format: &str) -> Model {
    let bytes = |name: &str, rank: usize| {
        let shape = TensorShapeProto { dim: vec![Default::default(); rank] };
        let tensor = TensorTypeProto { elem_type: 2, shape: Some(shape) };
        let ty = TypeProto { tensor_type: Some(tensor), ..Default::default() };
        ValueInfoProto { name: name.into(), r#type: Some(ty) }
    };
    let pixel_format = AttributeProto {
        name: "pixel_format".into(),
        r#type: attribute::STRING,
        s: format.to_owned().into(),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: "ImageDecoder".into(),
        name: "the decoder".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        attribute: vec![pixel_format],
        ..Default::default()
    };
    let graph = GraphProto {
        input: vec![bytes("x", 1)],
        output: vec![bytes("y", 3)],
        node: vec![node],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
    let file =
        ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), functions: vec![] };
    Model::from_bytes(file.encode_to_vec()).expect("a model")
}

fn decoded(format: &str, bytes: &[u8], options: Options) -> Result<Tensor, wgfuse::Error> {
    let session = Session::with_options(&decoder(format), &Device::cpu(), options)?;
    let x = Tensor::from_slice(DType::U8, [bytes.len()], bytes).expect("as many");
    let made = session.run_values(&[("x", Datum::Tensor(x))])?;
    match made.into_iter().next() {
        Some((_, Datum::Tensor(it))) => Ok(it),
        other => panic!("{other:?}"),
    }
}

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("files/images").join(name)).expect("a fixture")
}

#[test]
fn jpeg_is_decoded_as_libjpeg_turbo_does_it() {
    for name in ["420", "422", "440", "444", "grey", "progressive"] {
        let made = decoded("RGB", &file(&format!("{name}.jpg")), Options::default()).expect("an image");
        let wanted = decoded("RGB", &file(&format!("{name}.ppm")), Options::default()).expect("an image");
        assert_eq!(&made.shape()[..], [29, 37, 3]);
        let differ = made.data().iter().zip(wanted.data()).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{name}: {differ} of {} bytes", made.data().len());
    }
}

#[test]
fn pixels_have_the_channels_that_are_asked_for() {
    let image = b"P6\n2 1\n255\n\x0a\x14\x1e\xff\x00\x80";
    let made = |format| decoded(format, image, Options::default()).expect("an image");
    assert_eq!(&made("RGB").data()[..], [10, 20, 30, 255, 0, 128]);
    assert_eq!(&made("BGR").data()[..], [30, 20, 10, 128, 0, 255]);
    let grey = made("Grayscale");
    assert_eq!(&grey.shape()[..], [1, 2, 1]);
    assert_eq!(&grey.data()[..], [18, 91]);
    let flat = decoded("RGB", b"P5\n2 1\n255\n\x07\xff", Options::default()).expect("an image");
    assert_eq!(&flat.data()[..], [7, 7, 7, 255, 255, 255]);
}

#[test]
fn what_is_no_image_or_too_large_is_refused_with_the_nodes_name() {
    let fails = |bytes: &[u8], options| decoded("RGB", bytes, options).expect_err("refused");
    for bytes in [
        &b""[..],
        b"no image",
        b"P6\n2 1\n255\n\x0a",
        &file("420.jpg")[..40],
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ] {
        let error = fails(bytes, Options::default()).to_string();
        assert!(error.contains("the decoder"), "{error}");
    }
    let deep = fails(b"P6\n1 1\n65535\n\x00\x01\x02\x03\x04\x05", Options::default()).to_string();
    assert!(deep.contains("8 bits"), "{deep}");
    // A few bytes that claim gigabytes.
    let small = || Options { memory_limit: 1 << 20, ..Options::default() };
    for bytes in [&b"P6\n60000 60000\n255\n\x0a"[..], b"P5\n2000000000 2\n255\n"] {
        let error = fails(bytes, small());
        assert!(matches!(error, wgfuse::Error::Model(ModelError::MemoryLimit { .. })), "{error}");
    }
    let mut large = file("444.jpg");
    let frame = large.windows(2).position(|it| it == [0xff, 0xc0]).expect("a frame") + 5;
    large[frame..frame + 4].copy_from_slice(&[0xf0, 0, 0xf0, 0]);
    let error = fails(&large, small());
    assert!(matches!(error, wgfuse::Error::Model(ModelError::MemoryLimit { .. })), "{error}");
}
