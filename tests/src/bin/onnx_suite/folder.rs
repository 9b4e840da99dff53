//! The suite's folder: names of cases, and a case's model, data and tolerances.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use wgfuse::compiler::import::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};

/// What the suite's own runner allows.
pub const TOLERANCE: (f64, f64) = (1e-3, 1e-7);

/// `<kind>/<case>` of every model below `folder`, sorted.
pub fn cases(folder: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for kind in names(folder)? {
        let below = folder.join(&kind);
        for case in names(&below)?.into_iter().filter(|it| below.join(it).join("model.onnx").is_file()) {
            all.push(format!("{kind}/{case}"));
        }
    }
    ensure!(!all.is_empty(), "no <kind>/<case>/model.onnx in {}", folder.display());
    all.sort();
    Ok(all)
}

/// Names of the folders in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let found = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut all = Vec::new();
    for entry in found {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(all)
}

/// What a case's file says beside what the session makes of it.
#[derive(Clone)]
pub struct Case {
    pub inputs: Vec<ValueInfoProto>,
    pub outputs: Vec<ValueInfoProto>,
    /// Names that the file gives values.
    pub initialised: Vec<String>,
    /// Whether values follow from a generator of random numbers, which ONNX leaves open.
    pub random: bool,
    pub tolerance: (f64, f64),
}

impl Case {
    pub fn read(folder: &Path) -> Result<Case> {
        let model = ModelProto::decode(Bytes::from(fs::read(folder.join("model.onnx"))?))?;
        let random = model.functions.iter().any(|it| it.node.iter().any(draws))
            || model.graph.as_ref().is_some_and(|it| it.node.iter().any(draws));
        let graph = model.graph.unwrap_or_default();
        let tolerance = match fs::read_to_string(folder.join("tolerance.txt")) {
            Err(_) => TOLERANCE,
            Ok(text) => tolerance(&text).with_context(|| format!("tolerance.txt says '{text}'"))?,
        };
        Ok(Case {
            initialised: graph.initializer.iter().map(|it| it.name.clone()).collect(),
            inputs: graph.input,
            outputs: graph.output,
            random,
            tolerance,
        })
    }
}

fn tolerance(text: &str) -> Option<(f64, f64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?, numbers.next()) {
        (Ok(rtol), Ok(atol), None) => Some((rtol, atol)),
        _ => None,
    }
}

/// Whether a node, or one in its bodies, draws random numbers.
fn draws(node: &NodeProto) -> bool {
    let itself = match node.op_type.as_str() {
        "Bernoulli" | "Multinomial" => true,
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" => true,
        // In training, which its third input says.
        "Dropout" => node.input.len() > 2,
        _ => false,
    };
    let inside = |it: &GraphProto| it.node.iter().any(draws);
    itself || node.attribute.iter().any(|it| it.g.as_deref().is_some_and(inside))
}

/// Folders of data in order.
pub fn data_sets(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = names(folder)?;
    all.retain(|it| it.starts_with("test_data_set"));
    // `test_data_set_10` comes behind `test_data_set_9`.
    all.sort_by_key(|it| (it.len(), it.clone()));
    Ok(all.iter().map(|it| folder.join(it)).collect())
}
