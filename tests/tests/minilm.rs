//! all-MiniLM-L6-v2 with its real weights, which are too large to be kept here. `WGFUSE_MINILM` names a folder that holds
//! `model.onnx` and `expected.json` (sentences' `input_ids` and `attention_mask`, and their pooled, normalised embeddings).

use std::path::PathBuf;

use wgfuse::{Device, Model, Session, Shape, Tensor};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
};

const HIDDEN: usize = 384;

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("WGFUSE_MINILM").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("NOT RUN: set WGFUSE_MINILM to a folder with MiniLM's model.onnx and expected.json");
    }
    folder
}

/// Mean over the tokens that count, to length 1.
fn embeddings(hidden: &Tensor, mask: &[i64]) -> Vec<Vec<f64>> {
    let (batch, length) = (hidden.shape()[0], hidden.shape()[1]);
    let values = hidden.to_f64();
    let pooled = |row: usize| -> Vec<f64> {
        let mut sum = vec![0.0; HIDDEN];
        for token in (0..length).filter(|it| mask[row * length + it] != 0) {
            let at = (row * length + token) * HIDDEN;
            sum.iter_mut().zip(&values[at..at + HIDDEN]).for_each(|(sum, it)| *sum += it);
        }
        let norm = sum.iter().map(|it| it * it).sum::<f64>().sqrt();
        sum.iter().map(|it| it / norm).collect()
    };
    (0..batch).map(pooled).collect()
}

fn furthest(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |most, it| if it > most || it.is_nan() { it } else { most })
}

fn run(session: &Session, shape: [usize; 2], ids: &[i64], mask: &[i64]) -> Vec<Vec<f64>> {
    let given = [
        ("input_ids", Tensor::i64(shape, ids).unwrap()),
        ("attention_mask", Tensor::i64(shape, mask).unwrap()),
    ];
    let outputs = session.run(&given).unwrap();
    embeddings(outputs.get("last_hidden_state").unwrap(), mask)
}

#[test]
fn sentences_have_the_embeddings_that_torch_gives() {
    let Some(folder) = folder() else { return };
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows =
        |key: &str| expected[key].as_array().unwrap_or_else(|| panic!("expected.json has no {key}")).clone();
    let flat = |key: &str| -> Vec<i64> {
        rows(key)
            .iter()
            .flat_map(|it| it.as_array().unwrap().clone())
            .map(|it| it.as_i64().unwrap())
            .collect()
    };
    let (ids, mask) = (flat("input_ids"), flat("attention_mask"));
    let shape = [3, ids.len() / 3];
    assert_eq!(shape, [3, 128]);
    let wanted: Vec<Vec<f64>> = rows("embeddings")
        .iter()
        .map(|it| it.as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect())
        .collect();
    let model = Model::open(folder.join("model.onnx")).unwrap();
    for device in [Device::cpu(), gpu()] {
        let session = Session::with_options(&model, &device, options()).unwrap();
        let far = furthest(&run(&session, shape, &ids, &mask), &wanted);
        println!("{}: {far:.2e} from torch", device.name());
        assert!(far <= 1e-4, "{}: {far}", device.name());
    }
}

#[test]
fn other_lengths_agree_and_take_few_dispatches() {
    let Some(folder) = folder() else { return };
    let model = Model::open(folder.join("model.onnx")).unwrap();
    let cpu = Session::with_options(&model, &Device::cpu(), options()).unwrap();
    let gpu = Session::with_options(&model, &gpu(), options()).unwrap();
    for length in [7, 33, 128, 512] {
        let mut random = Random::new(length as u64);
        let ids: Vec<i64> = (0..length).map(|_| random.below(30_000) as i64).collect();
        let mask: Vec<i64> = (0..length).map(|it| i64::from(it < length - length / 4)).collect();
        let far = furthest(&run(&cpu, [1, length], &ids, &mask), &run(&gpu, [1, length], &ids, &mask));
        println!("length {length}: {far:.2e} between the devices");
        assert!(far <= 1e-4, "length {length}: {far}");
        let shape = Shape::from([1, length]);
        let plan = gpu.plan_for(&[shape.clone(), shape]).unwrap();
        assert!(plan.steps.len() <= 45, "length {length}: {} dispatches", plan.steps.len());
    }
}
