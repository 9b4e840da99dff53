//! The models under `tests/models`, with the tensors that go in and those that must come out.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};
use wgfuse_compiler::{
    dtype::DType,
    import::Model,
    shape::{Shape, Type},
    tensor::Tensor,
};

use crate::folder;

/// Models with inputs and with torch's values.
pub const ZOO: [&str; 11] = [
    "bert_tiny",
    "gpt2_tiny",
    "llama_tiny",
    "t5_encoder_tiny",
    "unet_tiny",
    "lstm_gru",
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "mobilenetv3_small_050",
];

pub struct Case {
    pub model: Model,
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    pub expected: Vec<Tensor>,
}

pub fn folder(name: &str) -> PathBuf {
    folder::tests().join("models").join(name)
}

pub fn onnx(name: &str) -> Result<Bytes> {
    let path = folder(name).join("model.onnx");
    Ok(std::fs::read(&path).with_context(|| path.display().to_string())?.into())
}

pub fn load(name: &str) -> Result<Case> {
    let model = Model::from_bytes(onnx(name)?)?;
    let inputs = tensors(name, "inputs.safetensors")?;
    let expected = tensors(name, "expected.safetensors")?;
    let pick = |all: &[(String, Tensor)], name: &str| {
        let found = all.iter().find(|it| it.0 == name).map(|it| it.1.clone());
        found.ok_or_else(|| anyhow!("no tensor '{name}'"))
    };
    let inputs = model.inputs.iter().map(|it| pick(&inputs, &it.name)).collect::<Result<_>>()?;
    let expected = model.outputs.iter().map(|it| pick(&expected, &it.name)).collect::<Result<_>>()?;
    Ok(Case { model, inputs, expected })
}

fn tensors(name: &str, file: &str) -> Result<Vec<(String, Tensor)>> {
    let bytes = std::fs::read(folder(name).join(file)).with_context(|| format!("{name}/{file}"))?;
    let all = SafeTensors::deserialize(&bytes)?;
    (all.iter())
        .map(|(name, view)| {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::I64 => DType::I64,
                Dtype::I32 => DType::I32,
                Dtype::BOOL => DType::Bool,
                other => return Err(anyhow!("{name}: {other:?}")),
            };
            let ty = Type { dtype, shape: Shape::new(view.shape()) };
            let tensor = Tensor::new(ty, Bytes::copy_from_slice(view.data()));
            Ok((name.to_string(), tensor.ok_or_else(|| anyhow!("{name}: wrong size"))?))
        })
        .collect()
}

/// The largest difference beyond `rtol |b| + atol`, or `None`; values that are not finite must be equal.
pub fn beyond(a: &Tensor, b: &Tensor, rtol: f64, atol: f64) -> Option<f64> {
    if a.ty() != b.ty() {
        return Some(f64::INFINITY);
    }
    (a.to_f64().iter().zip(b.to_f64()))
        .filter(|(a, b)| **a != *b && !(a.is_nan() && b.is_nan()))
        .map(
            |(a, b)| {
                if a.is_finite() && b.is_finite() { (a - b).abs() - rtol * b.abs() } else { f64::INFINITY }
            },
        )
        .filter(|it| *it > atol)
        .max_by(f64::total_cmp)
}
