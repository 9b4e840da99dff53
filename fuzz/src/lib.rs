//! What the fuzz targets do with bytes: whatever they are, an error or a result, in bounded time and memory.

#[path = "../../tests/src/bounded.rs"]
pub mod bounded;
#[path = "../../tests/src/mutant.rs"]
pub mod mutant;
#[path = "../../tests/src/random.rs"]
pub mod random;

use bytes::Bytes;
use prost::Message;
use wgfuse::{
    DType, Datum, Device, Form, Model, Options, Scalar, Session, Shape, Strings, Target, Tensor, Type,
};
use wgfuse_compiler::{
    artefact::{Artefact, MAGIC},
    compile_graph,
    graph::{self, Graph},
    import::{self, Begin, Signature, onnx::proto::ModelProto},
    lower,
    plan::kept,
    schedule::{self, Choices},
    shape::Dim,
};
use xxhash_rust::xxh3::xxh3_128;

/// What models may ask for.
const MEMORY: u64 = 64 << 20;
const WORK: u64 = 1 << 28;
const TURNS: u64 = 1 << 8;

/// What nothing here should come near.
#[global_allocator]
static ALLOCATOR: bounded::Bounded = bounded::Bounded::new(4 * MEMORY as usize, 32 * MEMORY as usize);

fn options() -> Options {
    Options { memory_limit: MEMORY, work_limit: WORK, turn_limit: TURNS, ..Options::default() }
}

fn shape(input: &Signature) -> Shape {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) => 1 + name.len() % 4,
        Dim::Unknown => 2,
    };
    input.dims.iter().map(size).collect()
}

/// Reads an ONNX file and compiles its first stretch for both places.
pub fn onnx(data: &[u8]) {
    // What other files hold: enough for a small tensor, too little for most.
    let external = |_: &str| Some(Bytes::from_static(&[1; 256]));
    let Ok(model) = import::Model::from_onnx(Bytes::copy_from_slice(data), &external) else { return };
    let shapes: Vec<Shape> = model.inputs.iter().map(shape).collect();
    for target in [Target::cpu(), Target::webgpu_minimum()] {
        let graph = match model.begin(&shapes) {
            Ok(Begin::Graph(graph)) => graph,
            Ok(Begin::Stretch(stretch)) => stretch.graph,
            Err(_) => return,
        };
        let _ = compile_graph(graph, &target, &options(), &Choices::default());
    }
}

/// Runs an ONNX file on the processor.
pub fn run(data: &[u8]) {
    let Ok(model) = Model::from_bytes(data.to_vec()) else { return };
    let [forms, _] = model.forms();
    let mut given: Vec<(&str, Datum)> = Vec::new();
    for (at, input) in model.inputs.iter().enumerate() {
        let shape = shape(input);
        let bytes = shape.checked_count().and_then(|it| it.checked_mul(input.dtype.size()));
        let Some(_) = bytes.filter(|it| *it as u64 <= MEMORY / 4) else { return };
        let ty = Type { dtype: input.dtype, shape };
        let Some(value) = value(forms.get(at).unwrap_or(&Form::Tensor), &ty) else { return };
        given.push((&input.name, value));
    }
    let Ok(session) = Session::with_options(&model, &Device::cpu(), options()) else { return };
    let _ = session.run_values(&given);
}

fn value(form: &Form, ty: &Type) -> Option<Datum> {
    Some(match form {
        Form::Tensor => {
            let number = |at: usize| match ty.dtype {
                DType::Bool => Scalar::Int((at % 2) as i64),
                it if it.is_float() => Scalar::of(it, at as f64 * 0.25 - 1.0),
                _ => Scalar::Int((at % 4) as i64),
            };
            Datum::Tensor(Tensor::from_scalars(ty.clone(), (0..ty.shape.count()).map(number)))
        }
        Form::Strings => {
            let all = ["", "wgfuse", "Ünïcödé", "-1.5e3", "a b  c"];
            let values = (0..ty.shape.count()).map(|at| all[at % all.len()]);
            Datum::Strings(Strings::new(ty.shape.clone(), values)?)
        }
        Form::Sequence(of) => {
            // One of each further level: two would be too many.
            let one = value(of, ty)?;
            match &one {
                Datum::Tensor(_) => Datum::Sequence(vec![one.clone(), one]),
                _ => Datum::Sequence(vec![one]),
            }
        }
        Form::Optional(of) => Datum::Optional(Some(Box::new(value(of, ty)?))),
    })
}

/// Reads an artefact: as it is, and with the header that its contents ask for.
pub fn artefact(data: &[u8]) {
    read(data.to_vec());
    read(summed(data.to_vec()));
}

fn read(bytes: Vec<u8>) {
    let Ok(artefact) = Artefact::parse(bytes.into()) else { return };
    for compiled in &artefact.compiled {
        let _ = artefact.plan(compiled);
        let _ = artefact.choose(&compiled.shapes, &Target::webgpu_minimum());
    }
}

/// The bytes with the header of an artefact that is whole.
pub fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some((header, contents)) = bytes.split_at_mut_checked(64) {
        header[..8].copy_from_slice(MAGIC);
        header[16..24].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        header[24..40].copy_from_slice(&xxh3_128(contents).to_le_bytes());
    }
    bytes
}

/// Reads what the first byte says: a graph, loops, a schedule, or a kept plan.
pub fn texts(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if *kind == b'p' {
        let _ = kept::read(rest, &small(), &Target::webgpu_minimum());
        return;
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind {
        b'g' => {
            if let Ok(graph) = graph::text::parse(text) {
                let _ = compile_graph(graph, &Target::cpu(), &options(), &Choices::default());
            }
        }
        b'l' => drop(lower::text::parse(text)),
        b's' => drop(schedule::text::parse(text)),
        _ => {}
    }
}

/// The graph that kept plans are of.
fn small() -> Graph {
    let text = include_str!("small.graph");
    graph::text::parse(text).expect("it is whole")
}

/// An ONNX file with a few others of its statements in place of what it says; now and then with other bytes.
pub fn mutated(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let random = &mut random::Random::new(seed.into());
    if random.below(4) > 0
        && let Ok(model) = ModelProto::decode(Bytes::copy_from_slice(&data[..size]))
    {
        let made = mutant::mutant(&model, random).encode_to_vec();
        if made.len() <= most {
            data[..made.len()].copy_from_slice(&made);
            return made.len();
        }
    }
    libfuzzer_sys::fuzzer_mutate(data, size, most)
}
