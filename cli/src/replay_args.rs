//! `wgfuse replay-args`: a folder with what one compilation was given, compiled again and, if asked for, run again.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use wgfuse::{
    Datum, Device, Options, Tensor,
    compare::{Tolerance, compare},
    compiler::{
        arguments::{Arguments, this_build},
        passes::plain,
    },
};

use crate::{
    Verdict,
    open::{self, DeviceChoice},
    print::{self, say},
    progress::progress,
    run::{Compared, compared_text},
    tensor_file,
};

#[derive(clap::Args)]
pub struct Args {
    /// A folder that WGFUSE_SAVE_ARGS or WGFUSE_DEBUG has made
    folder: PathBuf,
    /// Run what was compiled too, on the inputs that were kept or on others of the same statistics
    #[arg(long)]
    run: bool,
    /// auto, gpu, cpu or an adapter's number; without it, and without --run, compile for the target that was kept
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Run on this device too, or without any optimisation (`plain`), and compare
    #[arg(long, value_name = "DEVICE|plain", requires = "run")]
    against: Option<Against>,
    /// Where to write the outputs, as for `run`
    #[arg(long, value_name = "FILE", requires = "run")]
    outputs: Vec<String>,
    /// Allowed difference relative to the expected value
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allowed absolute difference, added to the relative one
    #[arg(long, default_value_t = 1e-4)]
    atol: f64,
    /// Largest folder to read, and largest sum of tensors to make, in GiB
    #[arg(long, default_value_t = 16)]
    most: u64,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// What a run is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    Device(DeviceChoice),
    /// The same device; no pass, no fusion.
    Plain,
}

impl std::str::FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Against, String> {
        match text {
            "plain" => Ok(Against::Plain),
            other => other.parse().map(Against::Device),
        }
    }
}

pub fn replay_args(args: Args) -> Result<Verdict> {
    ensure!(args.rtol >= 0.0 && args.atol >= 0.0, "--rtol and --atol must be at least 0");
    let arguments = {
        let _progress = progress("reading the folder");
        wgfuse::load_arguments(&args.folder, args.most.saturating_mul(1 << 30))?
    };
    for name in &arguments.own_passes {
        eprintln!("wgfuse: the pass '{name}' was a program's own: it is not in the folder, and left out");
    }
    if arguments.build != this_build() {
        eprintln!("wgfuse: kept by build {}, this is {}", arguments.build, this_build());
    }
    let device = match (args.run, args.device) {
        (true, choice) => Some(open::device(choice.unwrap_or(DeviceChoice::Auto))?),
        (false, Some(choice)) => Some(open::device(choice)?),
        (false, None) => None,
    };
    let target = device.as_ref().map_or(&arguments.target, Device::target);
    let plan = {
        let _progress = progress("compiling");
        wgfuse::compile_arguments(&arguments, target)?
    };
    let outputs = match (&device, args.run) {
        (Some(device), true) => Some(run(&arguments, device, arguments.options.clone())?),
        _ => None,
    };
    let values: Vec<(String, Datum)> =
        outputs.iter().flatten().map(|(name, it)| (name.clone(), Datum::Tensor(it.clone()))).collect();
    let written = tensor_file::save(&args.outputs, &values)?;
    let mut compared = Vec::new();
    if let (Some(outputs), Some(against), Some(device)) = (&outputs, args.against, &device) {
        let expected = match against {
            Against::Plain => run(&arguments, device, plain(&arguments.options))?,
            Against::Device(choice) => run(&arguments, &open::device(choice)?, arguments.options.clone())?,
        };
        let tolerance = Tolerance { rtol: args.rtol, atol: args.atol };
        compared = (outputs.iter().zip(&expected))
            .map(|((name, actual), (_, expected))| Compared {
                output: name.clone(),
                expected: name.clone(),
                shape: actual.shape().clone(),
                difference: compare(actual, expected, tolerance),
            })
            .collect();
    }
    let differs = compared.iter().any(|it| !it.difference.allowed());
    let named = device.as_ref().map_or("the target that was kept".to_owned(), open::describe);
    if args.json {
        print::json(&json!({
            "folder": args.folder.display().to_string(),
            "device": named,
            "kept_for": arguments.device,
            "nodes": arguments.graph.len(),
            "own_passes": arguments.own_passes,
            "build": arguments.build,
            "kernels": plan.kernels.len(),
            "ran": args.run,
            "compared": compared.iter().map(crate::run::compared_json).collect::<Vec<_>>(),
            "differs": differs,
            "files": written,
        }));
    } else {
        say!("folder   {}", args.folder.display());
        say!("device   {named}");
        say!("kept for {}", arguments.device);
        for (input, example) in arguments.graph.inputs().iter().zip(&arguments.examples) {
            say!("input    {}  {}  from {}", input.name, input.ty, example.device);
        }
        let (nodes, kernels) = (arguments.graph.len(), plan.kernels.len());
        say!("compiled {} to {}", print::count(nodes, "node"), print::count(kernels, "kernel"));
        outputs.iter().flatten().for_each(|(name, it)| say!("output   {name}  {}  {}", it.ty(), about(it)));
        written.iter().for_each(|it| say!("written  {}", it.display()));
        compared.iter().for_each(|it| say!("{}", compared_text(it)));
    }
    Ok(if differs { Verdict::Differs } else { Verdict::Done })
}

fn run(arguments: &Arguments, device: &Device, options: Options) -> Result<Vec<(String, Tensor)>> {
    let _progress = progress("running");
    Ok(wgfuse::run_arguments(arguments, device, options)?)
}

/// What a tensor is like, in a few words.
fn about(tensor: &Tensor) -> String {
    let values = tensor.to_f64();
    let finite = || values.iter().copied().filter(|it| it.is_finite());
    let count = finite().count();
    let odd = match values.len() - count {
        0 => String::new(),
        odd => format!(", {odd} not finite"),
    };
    let (low, high) = finite().fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
    match count {
        0 => format!("no finite values{odd}"),
        _ => {
            let mean = finite().sum::<f64>() / count as f64;
            format!("{} to {}, mean {}{odd}", print::number(low), print::number(high), print::number(mean))
        }
    }
}
