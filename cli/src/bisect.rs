//! `wgfuse bisect` and `wgfuse minimise`: which step of a compilation makes results wrong, and the least of the model that shows it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use wgfuse::{
    Options,
    bisect::{self, Against, Culprit, Found, Subject, far, told},
    compare::Tolerance,
    compiler::{
        arguments::{Arguments, Example, this_build},
        schedule::Choices,
    },
};

use crate::{
    Verdict,
    open::{self, DeviceChoice},
    print::{self, say},
    progress::progress,
    replay_args,
    run::inputs,
    tensor_file,
    values::tensors,
};

/// What to look into, and what its results are held against.
#[derive(clap::Args)]
pub struct What {
    /// The model file, or a folder that WGFUSE_SAVE_ARGS or WGFUSE_DEBUG has made
    model: PathBuf,
    /// Inputs of a model file, as for `run`
    #[arg(long, value_name = "FILE")]
    inputs: Vec<String>,
    /// auto, gpu, cpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What is right: another device, or the same without any optimisation (`plain`)
    #[arg(long, value_name = "DEVICE|plain", default_value = "plain")]
    against: replay_args::Against,
    /// Allowed difference relative to the expected value
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allowed absolute difference, added to the relative one
    #[arg(long, default_value_t = 1e-4)]
    atol: f64,
    /// Build kernels with every run-time check
    #[arg(long)]
    checked: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct BisectArgs {
    #[command(flatten)]
    what: What,
}

#[derive(clap::Args)]
pub struct MinimiseArgs {
    #[command(flatten)]
    what: What,
    /// Where to write the folder that repeats it
    #[arg(long, short, value_name = "FOLDER")]
    outputs: PathBuf,
    /// Smaller versions to try
    #[arg(long, default_value_t = 400)]
    tries: usize,
}

fn subject(what: &What) -> Result<Subject> {
    ensure!(what.rtol >= 0.0 && what.atol >= 0.0, "--rtol and --atol must be at least 0");
    let device = open::device(what.device)?;
    let mut arguments = if what.model.is_dir() {
        ensure!(what.inputs.is_empty(), "--inputs are for model files: the folder has its own");
        wgfuse::load_arguments(&what.model, 16 << 30)?
    } else {
        let model = open::model(&what.model)?;
        let given = tensors("bisect", inputs(&model, tensor_file::load(&what.inputs)?)?)?;
        let shapes: Vec<_> = given.iter().map(|it| it.1.shape().clone()).collect();
        let mut examples: Vec<Example> = (given.into_iter())
            .map(|(_, value)| Example { device: "host".to_owned(), value: Some(value) })
            .collect();
        let graph = model.graph(&shapes).with_context(|| format!("'{}'", what.model.display()))?;
        // The key of random ops, which no model lists.
        examples.resize(graph.inputs().len(), Example { device: "host".to_owned(), value: None });
        Arguments {
            graph,
            examples,
            options: Options::default(),
            device: device.name().to_owned(),
            target: device.target().clone(),
            choices: Choices::default(),
            own_passes: Vec::new(),
            build: this_build(),
        }
    };
    arguments.options.checked |= what.checked;
    for name in &arguments.own_passes {
        eprintln!("wgfuse: the pass '{name}' was a program's own: it is not in the folder, and left out");
    }
    let against = match what.against {
        replay_args::Against::Plain => Against::Plain,
        replay_args::Against::Device(choice) => Against::Device(open::device(choice)?),
    };
    Ok(Subject::new(arguments, device, against, Tolerance { rtol: what.rtol, atol: what.atol }))
}

pub fn bisect(args: BisectArgs) -> Result<Verdict> {
    let subject = subject(&args.what)?;
    let found = {
        let _progress = progress("bisecting");
        bisect::bisect(&subject, &mut |it| eprintln!("wgfuse: {it}"))?
    };
    if args.what.json {
        print::json(&found_json(&found));
    } else {
        say!("device   {}", open::describe(&subject.device));
        say!("results  {}", told(&found.outcome));
        say!("culprit  {}", culprit(&found.culprit));
        found.notes.iter().for_each(|it| say!("         not looked at: {it}"));
        let rewrites = print::count(found.applications as usize, "rewrite");
        say!("runs     {} compiled and run; {rewrites} by the passes", found.runs);
    }
    Ok(if found.outcome.is_fault() { Verdict::Differs } else { Verdict::Done })
}

fn culprit(it: &Culprit) -> String {
    match it {
        Culprit::None => "none: the results agree".to_owned(),
        Culprit::Applied { number, time, what } => format!(
            "rewrite {number}: '{}' of pass '{}' for the {time}. time, at node '{}'",
            what.rule, what.pass, what.at
        ),
        Culprit::Kernel(it) => {
            let checks = match it.wrong_with_checks {
                true => "",
                false => "; it is right with run-time checks: an index is out of range",
            };
            let what = match it.store {
                0 => "what it writes".to_owned(),
                other => format!("what it writes as number {other}"),
            };
            let far = far(&what, &it.difference);
            format!("kernel {}, made for {}: {far}{checks}", it.name, it.origins.join(", "))
        }
        Culprit::Fusion => {
            "fusion: each kernel is right by itself, and so are the results where nothing is fused".to_owned()
        }
        Culprit::Elsewhere => "neither a pass nor a kernel by itself".to_owned(),
    }
}

fn found_json(found: &Found) -> Value {
    let culprit = match &found.culprit {
        Culprit::None => json!({ "kind": "none" }),
        Culprit::Applied { number, time, what } => json!({
            "kind": "rewrite", "number": number, "rule": what.rule, "time": time, "pass": what.pass, "node": &*what.at
        }),
        Culprit::Kernel(it) => json!({
            "kind": "kernel", "kernel": it.name, "nodes": it.origins, "wrong_with_checks": it.wrong_with_checks
        }),
        Culprit::Fusion => json!({ "kind": "fusion" }),
        Culprit::Elsewhere => json!({ "kind": "elsewhere" }),
    };
    json!({
        "culprit": culprit,
        "results": told(&found.outcome),
        "differs": found.outcome.is_fault(),
        "runs": found.runs,
        "rewrites": found.applications,
        "notes": found.notes,
    })
}

pub fn minimise(args: MinimiseArgs) -> Result<Verdict> {
    let subject = subject(&args.what)?;
    let before = subject.arguments.graph.len();
    let small = {
        let _progress = progress("minimising");
        bisect::minimise(&subject, args.tries, &mut |it| eprintln!("wgfuse: {it}"))?
    };
    if !small.outcome.is_fault() {
        bail!("{}: there is nothing to minimise", told(&small.outcome));
    }
    let folder = wgfuse::keep_arguments(&args.outputs, &small.arguments, u64::MAX)?;
    let after = small.arguments.graph.len();
    if args.what.json {
        print::json(&json!({
            "folder": folder.display().to_string(),
            "results": told(&small.outcome),
            "nodes": [before, after],
            "tried": small.tried,
        }));
    } else {
        say!("results  {}", told(&small.outcome));
        say!(
            "nodes    {before} before, {after} left; {} tried",
            print::count(small.tried, "smaller version")
        );
        say!("{}", small.arguments.graph.to_string().trim_end());
        let against = match args.what.against {
            replay_args::Against::Plain => "plain".to_owned(),
            replay_args::Against::Device(it) => it.to_string(),
        };
        say!(
            "repeat   wgfuse replay-args {} --run --device {} --against {against}",
            folder.display(),
            args.what.device
        );
    }
    Ok(Verdict::Differs)
}
