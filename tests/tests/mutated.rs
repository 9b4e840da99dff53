//! Files that are damaged or made to do harm: whatever they say, a plan, a run on the processor, or an error that says where; never a
//! panic, nor more memory than a bound, nor much time. `fuzz` does the same with coverage, for as long as one likes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use wgfuse::{
    Datum, Device, Form, Model, Options, Session, Shape, Target, Tensor, Type,
    compiler::{
        compile_graph,
        error::Error,
        import::{self, Begin, onnx::proto::ModelProto},
        schedule::Choices,
    },
};
use wgfuse_compiler::shape::Dim;
use wgfuse_tests::{
    bounded::Bounded,
    mutant::{damaged, mutant},
    random::Random,
    seed_models::{beside, seed_models},
    spent::spent,
    zoo,
};

const SEEDS: u64 = 2000;
const MEMORY: u64 = 64 << 20;

/// Of all threads of the test together.
#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(4 * MEMORY as usize, 16 * MEMORY as usize);

fn options() -> Options {
    Options { memory_limit: MEMORY, work_limit: 1 << 30, turn_limit: 256, ..Options::default() }
}

/// What becomes of a file: whether it compiles for either place, and runs if it is small.
fn outcome(bytes: &[u8], seed: u64) -> Result<(), wgfuse::Error> {
    let model = import::Model::from_onnx(Bytes::copy_from_slice(bytes), &beside)?;
    let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 2 };
    let shapes: Vec<Shape> = model.inputs.iter().map(|it| it.dims.iter().map(size).collect()).collect();
    // Others have no graph of their own.
    let tensors = model.forms().into_iter().flatten().all(|it| *it == Form::Tensor);
    if tensors {
        let graph = match model.begin(&shapes)? {
            Begin::Graph(graph) => graph,
            Begin::Stretch(stretch) => stretch.graph,
        };
        let target = if seed.is_multiple_of(2) { Target::cpu() } else { Target::webgpu_minimum() };
        compile_graph(graph, &target, &options(), &Choices::default())?;
    }
    let model = Model::from(model);
    let few = |it: &Shape| it.checked_count().is_some_and(|it| it < 1 << 12);
    if (seed.is_multiple_of(4) || !tensors) && shapes.iter().all(few) {
        let mut random = Random::new(seed);
        let given: Vec<(&str, Tensor)> = (model.inputs.iter().zip(shapes))
            .filter(|(it, _)| it.name == "x")
            .map(|(it, shape)| (&*it.name, random.tensor(&Type { dtype: it.dtype, shape }, 4)))
            .collect();
        let given: Vec<(&str, Datum)> = given.into_iter().map(|it| (it.0, Datum::Tensor(it.1))).collect();
        Session::with_options(&model, &Device::cpu(), options())?.run_values(&given)?;
    }
    Ok(())
}

#[test]
fn mutated_files_are_refused_or_understood() {
    // Plans on disk would be others' work.
    unsafe { std::env::set_var("WGFUSE_CACHE", "off") };
    let files = [("digits", zoo::onnx("digits").unwrap()), ("t5", zoo::onnx("t5_encoder_tiny").unwrap())];
    let mut models = seed_models();
    for (name, file) in &files {
        models.push((name, ModelProto::decode(file.clone()).unwrap()));
    }
    let (mut refused, mut understood, mut wrong) = (0, 0, Vec::new());
    let whole = Instant::now();
    for seed in 0..SEEDS {
        let (name, model) = &models[(seed % models.len() as u64) as usize];
        let mut random = Random::new(seed);
        let bytes = match random.below(4) {
            0 => damaged(&model.encode_to_vec(), &mut random),
            _ => mutant(model, &mut random).encode_to_vec(),
        };
        let begin = spent();
        match catch_unwind(AssertUnwindSafe(|| outcome(&bytes, seed))) {
            Ok(Ok(())) => understood += 1,
            Ok(Err(wgfuse::Error::Model(Error::Bug { what }))) => {
                wrong.push(format!("{name}, seed {seed}: {what}"))
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                assert!(text.len() > 8 && text.contains(' '), "{name}, seed {seed}: {text}");
                refused += 1;
            }
            Err(_) => wrong.push(format!("{name}, seed {seed} panicked")),
        }
        let took = spent() - begin;
        if took > Duration::from_secs(5) {
            wrong.push(format!("{name}, seed {seed} took {took:?}"));
        }
    }
    println!(
        "{refused} refused, {understood} understood in {:?}, at most {} MiB",
        whole.elapsed(),
        ALLOCATOR.peak() >> 20
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 500 && understood > 300, "{refused} refused, {understood} understood");
}

/// What is mutated is whole before.
#[test]
fn seed_models_are_whole() {
    let fault = |(name, model): (&str, ModelProto)| {
        outcome(&model.encode_to_vec(), 0).err().map(|error| format!("{name}: {error}"))
    };
    let faults: Vec<String> = seed_models().into_iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
