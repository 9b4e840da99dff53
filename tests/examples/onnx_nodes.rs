//! `onnx_nodes FOLDER`: every case of the ONNX backend suite below FOLDER (`*/model.onnx`,
//! `*/test_data_set_0/{input,output}_*.pb`) imported, evaluated as a graph and as its schedule, compared, and counted. The
//! texts of its stages must parse again.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use wgfuse_compiler::{
    dtype::DType,
    graph::eval::eval,
    import::{
        Model,
        onnx::{proto::TensorProto, tensor},
    },
    lower,
    options::Options,
    schedule,
    shape::Shape,
    target::Target,
    tensor::Tensor,
};
use wgfuse_tests::{
    stages::{Stages, stages},
    zoo::beyond,
};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("which folder?")?;
    let mut names: Vec<_> = std::fs::read_dir(&folder)?.map(|it| Ok(it?.path())).collect::<Result<_>>()?;
    names.sort();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for path in &names {
        let outcome = std::panic::catch_unwind(|| case(path));
        let (kind, what) = match outcome {
            Ok(Ok(())) => ("pass", String::new()),
            Ok(Err(error)) => {
                let text = format!("{error:#}");
                let refused = text.contains("not supported")
                    || text.contains("no type")
                    || text.contains("has element type");
                (if refused { "refused" } else { "fail" }, text)
            }
            Err(_) => ("panic", String::new()),
        };
        *counts.entry(kind).or_default() += 1;
        if kind != "pass" {
            println!("{kind}\t{}\t{what}", path.file_name().unwrap_or_default().to_string_lossy());
        }
    }
    println!("{counts:?} of {}", names.len());
    Ok(())
}

fn case(path: &Path) -> Result<()> {
    let model = Model::from_bytes(std::fs::read(path.join("model.onnx"))?.into())?;
    let data = path.join("test_data_set_0");
    let read = |kind: &str, count: usize| {
        (0..count).map(|at| pb(&data.join(format!("{kind}_{at}.pb")))).collect::<Result<Vec<_>>>()
    };
    let (inputs, want) = (read("input", model.inputs.len())?, read("output", model.outputs.len())?);
    let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
    let graph = model.graph(&shapes)?;
    let made = eval(&graph, &inputs)?;
    let Stages { parts, loops, schedule, .. } =
        stages(graph, &Target::webgpu_minimum(), &Options::default())?;
    if lower::text::parse(&loops.to_string())? != loops
        || schedule::text::parse(&schedule.to_string())? != schedule
    {
        bail!("the text of a stage is of another value");
    }
    let constants = eval(&parts.constants, &[])?;
    let scheduled = schedule::eval::eval(&schedule, &inputs, &constants);
    for (at, (made, want)) in made.iter().zip(&want).enumerate() {
        if made.ty() != want.ty() {
            bail!("output {at} is {}, not {}", made.ty(), want.ty());
        }
        // A few units in the last place of the type.
        let rtol = match want.dtype() {
            DType::BF16 => 2e-2,
            DType::F16 => 2e-3,
            _ => 1e-4,
        };
        if let Some(by) = beyond(made, want, rtol, rtol / 10.0) {
            bail!("output {at} differs by {by}");
        }
        if let Some(by) = beyond(&scheduled[at], want, rtol, rtol / 10.0) {
            bail!("output {at} of the schedule differs by {by}");
        }
    }
    Ok(())
}

fn pb(path: &Path) -> Result<Tensor> {
    let bytes: Bytes = std::fs::read(path).with_context(|| path.display().to_string())?.into();
    Ok(tensor::tensor(&TensorProto::decode(bytes)?, "file", &|_| None)?)
}
