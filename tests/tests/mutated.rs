//! Damaged files: whatever the bytes, a plan or an error that says where; never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use wgfuse::{
    Options, Shape, Target,
    compiler::{compile, import::Model},
};
use wgfuse_tests::{random::Random, zoo};

const SEEDS: u64 = 1000;

/// A few bytes changed, a piece cut out, or the end cut off.
fn damaged(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    match random.below(4) {
        0 => bytes.truncate(random.below(original.len())),
        1 => {
            let start = random.below(original.len());
            let end = (start + 1 + random.below(64)).min(original.len());
            bytes.drain(start..end);
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(3) {
                    0 => random.bits() as u8,
                    1 => bytes[at] ^ (1 << random.below(8)),
                    _ => *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                };
            }
        }
    }
    bytes
}

/// The bytes of a file that are not raw weights: damage there would not be noticed.
fn structure(name: &str) -> Vec<u8> {
    zoo::onnx(name).unwrap().to_vec()
}

#[test]
fn damaged_files_are_refused_or_understood() {
    let options = Options { memory_limit: 64 << 20, ..Options::default() };
    let (mut refused, mut understood, mut panicked) = (0, 0, Vec::new());
    for (name, shapes) in
        [("digits", vec![Shape::from([2, 1, 8, 8])]), ("t5_encoder_tiny", vec![Shape::from([2, 12]); 2])]
    {
        let original = structure(name);
        for seed in 0..SEEDS / 2 {
            let bytes = damaged(&original, &mut Random::new(seed));
            let compiled = catch_unwind(AssertUnwindSafe(|| {
                let model = Model::from_bytes(Bytes::from(bytes))?;
                model.bind(&shapes)?;
                compile(&model, &shapes, &Target::webgpu_minimum(), &options)
            }));
            match compiled {
                Ok(Ok(_)) => understood += 1,
                Ok(Err(error)) => {
                    assert!(error.to_string().len() > 8, "{name} seed {seed}: {error}");
                    refused += 1;
                }
                Err(_) => panicked.push(format!("{name} seed {seed}")),
            }
        }
    }
    println!("{refused} refused, {understood} understood");
    assert!(panicked.is_empty(), "{panicked:?}");
    assert!(refused > 100, "{refused} refused, {understood} understood");
}
