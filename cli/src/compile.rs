//! `wgfuse compile`: a model to a file that runs without importer and compiler.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use wgfuse::{Options, Place, Shape, Target, compiler::artefact::Artefact};

use crate::{
    open::{self, DeviceChoice},
    print::say,
    progress::progress,
    shapes::{self, ShapeArg},
};

#[derive(clap::Args)]
pub struct Args {
    /// The model file
    model: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE.wgf")]
    output: PathBuf,
    /// Shape of an input, as name=1x128; may be repeated. An input that is named again begins another set of shapes, and what
    /// a set does not name is as in the set before
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    shapes: Vec<ShapeArg>,
    /// What to compile for, the best first; may be repeated: `portable` runs wherever WebGPU does, `this` is the device, else a
    /// file with what `wgfuse devices --target` prints. The processor is always among them
    #[arg(long = "target", value_name = "portable|this|FILE", default_value = "portable")]
    targets: Vec<String>,
    /// The device that `--target this` means: auto, gpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Only rewrites that keep every bit of the result
    #[arg(long)]
    exact: bool,
}

pub fn compile(args: Args) -> Result<()> {
    let model = open::model(&args.model)?;
    ensure!(model.compiled().is_none(), "'{}' is compiled already", args.model.display());
    let targets = args.targets.iter().map(|it| target(it, args.device)).collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Vec<Shape>> = Vec::new();
    for set in sets(&args.shapes) {
        let found = shapes::shapes(&model.inputs, &set)?;
        if !found.assumed.is_empty() {
            eprintln!("wgfuse: assumed {}", found.assumed.join(", "));
        }
        if !all.contains(&found.shapes) {
            all.push(found.shapes);
        }
    }
    let bytes = {
        let _progress = progress("compiling");
        model.compile(&all, &targets, &Options { exact: args.exact, ..Options::default() })?
    };
    std::fs::write(&args.output, &bytes)
        .with_context(|| format!("'{}' cannot be written", args.output.display()))?;
    let artefact = Artefact::parse(bytes.clone().into())?;
    say!("{}: {:.1} MB", args.output.display(), bytes.len() as f64 / 1e6);
    list(&artefact)
}

/// What an artefact holds.
pub fn list(artefact: &Artefact) -> Result<()> {
    let ports = |all: &[wgfuse::Signature]| {
        all.iter().map(|it| format!("{} {it}", it.name)).collect::<Vec<_>>().join(", ")
    };
    say!("inputs      {}", ports(&artefact.inputs));
    say!("outputs     {}", ports(&artefact.outputs));
    for it in &artefact.compiled {
        let plan = artefact.plan(it)?;
        let shapes = artefact.inputs.iter().zip(&it.shapes).map(|(it, shape)| format!("{} {shape}", it.name));
        let bytes: u64 = plan.buffers.iter().map(|it| it.size).sum();
        say!(
            "plan        {} for {}: {} kernels, {:.1} MB of memory",
            match it.target.place {
                Place::Gpu => "gpu",
                Place::Cpu => "cpu",
            },
            shapes.collect::<Vec<_>>().join(", "),
            plan.kernels.len(),
            bytes as f64 / 1e6
        );
    }
    Ok(())
}

/// The shapes of each set, in order.
fn sets(given: &[ShapeArg]) -> Vec<Vec<ShapeArg>> {
    let mut sets: Vec<Vec<ShapeArg>> = vec![Vec::new()];
    let mut named: Vec<&str> = Vec::new();
    for it in given {
        if named.contains(&&*it.name) {
            named.clear();
            sets.push(sets[sets.len() - 1].clone());
        }
        named.push(&it.name);
        let set = sets.last_mut().expect("never empty");
        set.retain(|other| other.name != it.name);
        set.push(it.clone());
    }
    sets
}

fn target(text: &str, device: DeviceChoice) -> Result<Target> {
    match text {
        "portable" => Ok(Target::webgpu_minimum()),
        "this" => Ok(open::device(device)?.target().clone()),
        path => {
            let text = std::fs::read_to_string(path).with_context(|| {
                format!("--target: expected portable, this or a file, and '{path}' is none")
            })?;
            Target::parse(&text).with_context(|| format!("--target '{path}'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_again_begins_a_set() {
        let given = ["a=1", "b=2", "a=3", "b=4", "b=5"].map(|it| it.parse().expect("a shape"));
        let said = |set: &[ShapeArg]| {
            let mut all: Vec<String> = set.iter().map(|it| format!("{}={}", it.name, it.shape)).collect();
            all.sort();
            all.join(" ")
        };
        let sets: Vec<String> = sets(&given).iter().map(|it| said(it)).collect();
        assert_eq!(sets, ["a=[1] b=[2]", "a=[3] b=[4]", "a=[3] b=[5]"]);
    }
}
