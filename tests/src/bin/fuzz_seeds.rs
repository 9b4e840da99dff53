//! `fuzz-seeds SUITE FUZZ`: writes what the fuzz targets begin with to the folders `FUZZ/corpus/TARGET`.
//!
//! In: ONNX's backend test suite below SUITE (`tests/onnx/materialise.py` writes it) and this tree's own models. Out: files for
//! `onnx` and `run` as they are; artefacts of some of them; texts of the stages and kept plans of `fuzz/src/small.graph`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use prost::Message;
use wgfuse::{Model, Options, Shape, Target, compiler::graph::text};
use wgfuse_compiler::{plan::kept, shape::Dim};
use wgfuse_tests::{
    folder,
    seed_models::seed_models,
    stages::{Stages, stages},
};

/// Larger files are no seeds: each input of a fuzzer costs its length.
const LARGEST: u64 = 1 << 15;
/// An artefact of every so many files, and the texts of it.
const EVERY: usize = 8;

#[derive(Parser)]
#[command(name = "fuzz-seeds")]
struct Args {
    /// The folder with KIND/CASE/model.onnx
    suite: PathBuf,
    /// The folder `fuzz` of the source tree
    fuzz: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut files = Vec::new();
    models(&args.suite, &mut files)?;
    ensure!(!files.is_empty(), "no model.onnx lies below {}", args.suite.display());
    models(&folder::tests().join("models"), &mut files)?;
    files.sort();
    let own = seed_models().into_iter().map(|it| it.1.encode_to_vec());
    let all = files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?.into_iter().chain(own);
    let write = |target: &str, name: &str, bytes: &[u8]| -> Result<()> {
        let folder = args.fuzz.join("corpus").join(target);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(fs::write(folder.join(name), bytes)?)
    };
    let mut artefacts = 0;
    let mut models = 0;
    for (at, bytes) in all.enumerate() {
        models += 1;
        let name = format!("{at:04}");
        for target in ["onnx", "run"] {
            write(target, &name, &bytes)?;
        }
        if at % EVERY > 0 {
            continue;
        }
        let Ok(model) = Model::from_bytes(bytes) else { continue };
        let shapes: Vec<Shape> = (model.inputs.iter())
            .map(|it| it.dims.iter().map(|it| if let Dim::Fixed(it) = it { *it } else { 2 }).collect())
            .collect();
        let options = Options::default();
        if let Ok(bytes) = model.compile(std::slice::from_ref(&shapes), &[Target::webgpu_minimum()], &options)
        {
            write("artefact", &name, &bytes)?;
            artefacts += 1;
        }
        let Ok(graph) = model.graph(&shapes) else { continue };
        write("texts", &format!("{name}g"), format!("g{graph}").as_bytes())?;
        if let Ok(Stages { loops, schedule, .. }) = stages(graph, &Target::webgpu_minimum(), &options) {
            write("texts", &format!("{name}l"), format!("l{loops}").as_bytes())?;
            write("texts", &format!("{name}s"), format!("s{schedule}").as_bytes())?;
        }
    }
    let small = fs::read_to_string(args.fuzz.join("src").join("small.graph"))?;
    let graph = text::parse(&small)?;
    let plan = stages(graph.clone(), &Target::webgpu_minimum(), &Options::default())?.plan;
    write("texts", "plan", &[b"p".as_slice(), &kept::write(&plan, &graph)].concat())?;
    println!("{models} models, {artefacts} artefacts in {}", args.fuzz.join("corpus").display());
    Ok(())
}

/// The small `*.onnx` files below `folder`.
fn models(folder: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            models(&path, all)?;
        } else if path.extension().is_some_and(|it| it == "onnx") && path.metadata()?.len() <= LARGEST {
            all.push(path);
        }
    }
    Ok(())
}
