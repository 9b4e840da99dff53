//! Batches, lengths and image sizes other than those that a model was exported with, by value, on both devices.
//!
//! The zoo's stored values are torch's, for one batch of one length. More follows from them: models treat the samples of a
//! batch independently, and a position of a causal model does not depend on later ones. For the rest the slow evaluator
//! says what is right.

use std::collections::BTreeSet;

use bytes::Bytes;
use wgfuse::{
    DType, Device, Dim, Error, ErrorKind, GraphBuilder, Model, ModelError, Session, Shape, Signature, Tensor,
    Type, compiler::graph::Op, compiler::graph::Value, compiler::graph::Window,
};
use wgfuse_compiler::graph::{builder::Geometry, eval::eval};
use wgfuse_tests::{
    compare::assert_close,
    device::{gpu, options},
    random::Random,
    zoo::{Case, ZOO, load},
};

/// Of every model, against torch.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-4;

/// Models in which no position depends on a later one.
const CAUSAL: [&str; 2] = ["gpt2_tiny", "llama_tiny"];

/// These samples of a batch, in this order.
fn samples(of: &Tensor, numbers: &[usize]) -> Tensor {
    let each = of.data().len() / of.shape()[0];
    let data: Vec<u8> =
        numbers.iter().flat_map(|at| &of.data()[at * each..(at + 1) * each]).copied().collect();
    let shape: Shape = [numbers.len()].into_iter().chain(of.shape().iter().copied().skip(1)).collect();
    Tensor::new(Type::new(of.dtype(), shape), Bytes::from(data)).unwrap()
}

/// The first `length` positions of every sample of a batch [b, s, ..].
fn first(of: &Tensor, length: usize) -> Tensor {
    let (batch, whole) = (of.shape()[0], of.shape()[1]);
    let positions = of.shape().iter().skip(2).copied();
    let flat: Shape = [batch * whole].into_iter().chain(positions.clone()).collect();
    let kept: Vec<usize> = (0..batch).flat_map(|it| it * whole..it * whole + length).collect();
    let shape: Shape = [batch, length].into_iter().chain(positions).collect();
    samples(&of.reshaped(flat).unwrap(), &kept).reshaped(shape).unwrap()
}

fn run(session: &Session, inputs: &[Tensor]) -> wgfuse::Result<Vec<Tensor>> {
    let names = session.model().inputs.iter().map(|it| it.name.as_str());
    let given: Vec<_> = names.zip(inputs.iter().cloned()).collect();
    Ok(session.run(&given)?.into_iter().map(|it| it.1).collect())
}

/// Whether the file fixes every size: such a model has one batch and one length.
fn is_static(case: &Case) -> bool {
    case.model.inputs.iter().flat_map(|it| &it.dims).all(|it| matches!(it, Dim::Fixed(_)))
}

fn session(case: &Case, device: &Device) -> Session {
    Session::with_options(&Model::from(case.model.clone()), device, options()).unwrap()
}

fn other_batches(device: &Device) {
    let mut fixed = BTreeSet::new();
    for name in ZOO {
        let case = load(name).unwrap();
        let session = session(&case, device);
        for numbers in [&[0][..], &[1, 0, 1]] {
            let inputs: Vec<Tensor> = case.inputs.iter().map(|it| samples(it, numbers)).collect();
            let made = run(&session, &inputs);
            if is_static(&case) && numbers.len() != case.inputs[0].shape()[0] {
                let error = made.expect_err("a file without symbols has no other batch");
                assert_eq!(error.kind(), ErrorKind::Input, "{name}: {error}");
                assert!(error.to_string().contains(&case.model.inputs[0].name), "{name}: {error}");
                fixed.insert(name);
                continue;
            }
            let expected: Vec<Tensor> = case.expected.iter().map(|it| samples(it, numbers)).collect();
            let what = format!("{name} on {}, samples {numbers:?}", device.name());
            assert_close(&what, &made.unwrap_or_else(|it| panic!("{what}: {it}")), &expected, RTOL, ATOL);
        }
    }
    // Those whose files were exported so.
    assert_eq!(fixed, BTreeSet::from(["lstm_gru", "t5_encoder_tiny", "unet_tiny"]));
}

#[test]
fn other_batches_on_the_processor() {
    other_batches(&Device::cpu());
}

#[test]
fn other_batches_on_the_gpu() {
    other_batches(&gpu());
}

/// Shorter texts against the first positions of torch's values; longer ones, whose first positions are the stored text,
/// likewise.
fn other_lengths_of_causal_models(device: &Device) {
    for name in CAUSAL {
        let case = load(name).unwrap();
        let session = session(&case, device);
        let stored = case.inputs[0].shape()[1];
        for (length, numbers) in [(1, &[0][..]), (5, &[1, 0, 1]), (19, &[1])] {
            let inputs: Vec<Tensor> = (case.inputs.iter())
                .map(|it| {
                    let ids = samples(it, numbers).to_i64();
                    let text = ids.chunks(stored).flat_map(|it| it.iter().copied().cycle().take(length));
                    Tensor::i64([numbers.len(), length], &text.collect::<Vec<_>>()).unwrap()
                })
                .collect();
            let known = length.min(stored);
            let expected: Vec<Tensor> =
                case.expected.iter().map(|it| first(&samples(it, numbers), known)).collect();
            let made = run(&session, &inputs).unwrap_or_else(|it| panic!("{name}: {it}"));
            let made: Vec<Tensor> = made.iter().map(|it| first(it, known)).collect();
            let what = format!("{name} on {}, {length} positions", device.name());
            assert_close(&what, &made, &expected, RTOL, ATOL);
        }
    }
}

#[test]
fn other_lengths_of_causal_models_on_the_processor() {
    other_lengths_of_causal_models(&Device::cpu());
}

#[test]
fn other_lengths_of_causal_models_on_the_gpu() {
    other_lengths_of_causal_models(&gpu());
}

/// Whatever the shape, and back again, against the slow evaluator.
fn texts_as_evaluated(device: &Device) {
    for name in ["bert_tiny", "gpt2_tiny", "llama_tiny"] {
        let case = load(name).unwrap();
        let session = session(&case, device);
        for (batch, length) in [(1, 7), (3, 5), (1, 7)] {
            let inputs: Vec<Tensor> = (case.inputs.iter())
                .map(|it| {
                    let values = it.to_i64().into_iter().cycle().take(batch * length);
                    Tensor::i64([batch, length], &values.collect::<Vec<_>>()).unwrap()
                })
                .collect();
            let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
            let expected = eval(&case.model.graph(&shapes).unwrap(), &inputs).unwrap();
            let what = format!("{name} on {} at {batch}x{length}", device.name());
            assert_close(&what, &run(&session, &inputs).unwrap(), &expected, RTOL, ATOL);
        }
    }
}

#[test]
fn texts_on_the_processor() {
    texts_as_evaluated(&Device::cpu());
}

#[test]
fn texts_on_the_gpu() {
    texts_as_evaluated(&gpu());
}

/// Convolutions of every kind, pools and a norm over an image of any size. No model of the zoo leaves its image's size open.
fn any_image() -> Model {
    let weights = |b: &mut GraphBuilder, seed: u64, shape: &[usize]| {
        b.constant(Random::new(seed).tensor(&Type::new(DType::F32, shape), 1))
    };
    let build = move |b: &mut GraphBuilder, inputs: &[Value]| -> Result<Vec<(String, Value)>, ModelError> {
        let w = weights(b, 1, &[8, 3, 3, 3]);
        let half = Geometry { stride: 2, padding: 1, ..Geometry::default() };
        let x = b.conv2d(inputs[0], w, None, half)?;
        let x = b.relu(x)?;
        let w = weights(b, 2, &[8, 1, 3, 3]);
        let depthwise = Geometry { padding: 1, groups: 8, ..Geometry::default() };
        let y = b.conv2d(x, w, None, depthwise)?;
        let y = b.add(x, y)?;
        let (w, bias) = (weights(b, 3, &[12, 8, 1, 1]), weights(b, 4, &[12]));
        let y = b.conv2d(y, w, Some(bias), Geometry::default())?;
        let y = b.group_norm(y, 3, None, None, 1e-5)?;
        let y = b.max_pool(y, &[3, 3], half)?;
        let w = weights(b, 5, &[12, 6, 3, 3]);
        let y =
            b.conv2d(y, w, None, Geometry { padding: 2, dilation: 2, groups: 2, ..Geometry::default() })?;
        let shape = b.ty(y)?.shape.clone();
        let w = weights(b, 6, &[12, 4, 2, 2]);
        let doubled = Window { strides: [2, 2].into_iter().collect(), ..Window::unit(2) };
        let output = [2 * shape[2], 2 * shape[3]].into();
        let map =
            b.op(Op::ConvTranspose { window: doubled.into(), groups: 1, output, x: y, w, bias: None })?;
        let mean = b.mean(y, &[2, 3], false)?;
        let w = weights(b, 7, &[5, 12]);
        let classes = b.linear(mean, w, None)?;
        Ok(vec![("map".into(), map), ("classes".into(), classes)])
    };
    let symbol = |it: &str| Dim::Symbol(it.into());
    let dims = vec![symbol("batch"), Dim::Fixed(3), symbol("height"), symbol("width")];
    Model::build(vec![Signature { name: "image".into(), dtype: DType::F32, dims }], build).unwrap()
}

fn any_image_size(device: &Device) {
    let model = any_image();
    let session = Session::with_options(&model, device, options()).unwrap();
    for (seed, shape) in
        [[1, 3, 32, 32], [2, 3, 17, 23], [1, 3, 5, 64], [3, 3, 9, 3], [1, 3, 32, 32]].iter().enumerate()
    {
        let image = Random::new(seed as u64).tensor(&Type::new(DType::F32, *shape), 1);
        let inputs = [image];
        let expected = eval(&model.graph(&[Shape::from(*shape)]).unwrap(), &inputs).unwrap();
        let what = format!("an image {shape:?} on {}", device.name());
        assert_close(&what, &run(&session, &inputs).unwrap(), &expected, RTOL, ATOL);
    }
}

#[test]
fn any_image_size_on_the_processor() {
    any_image_size(&Device::cpu());
}

#[test]
fn any_image_size_on_the_gpu() {
    any_image_size(&gpu());
}

#[test]
fn a_size_that_leaves_nothing_is_an_error() {
    let session = Session::with_options(&any_image(), &Device::cpu(), options()).unwrap();
    let image = Tensor::f32([1, 3, 0, 8], &[]).unwrap();
    let error = session.run(&[("image", image)]).expect_err("no window fits");
    assert!(matches!(error, Error::Model(_)), "{error}");
}
