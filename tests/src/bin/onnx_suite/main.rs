//! `onnx-suite DIR`: the cases of ONNX's backend test suite below DIR (`tests/onnx/materialise.py` writes them) through
//! `wgfuse::Session`, each counted as what it ended as, and compared with the committed list of what each should end as.
//!
//! Cases run in processes of their own, so that one that aborts, hangs or eats the memory is one case's fault and no more.

mod case;
mod docs;
mod folder;
mod list;
mod outcome;
mod pool;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use wgfuse::Fallback;

use crate::{list::List, outcome::Status};

/// Runs ONNX's backend test suite and says what each case ends as.
///
/// Exit codes: 0 every case ends as its list says, 1 the program could not do its work, 2 cases end otherwise than listed.
#[derive(Parser, Clone)]
#[command(name = "onnx-suite")]
pub struct Args {
    /// The folder with `<kind>/<case>/model.onnx`
    folder: PathBuf,
    #[arg(long, default_value = "gpu")]
    device: Place,
    /// What becomes of what the GPU cannot run
    #[arg(long, default_value = "cpu")]
    fallback: OrError,
    /// Only cases in whose `<kind>/<case>` this text is
    #[arg(long)]
    filter: Option<String>,
    /// Hold the graph's and the schedule's slow evaluators to the expected outputs too, and read every stage's text again
    #[arg(long)]
    stages: bool,
    /// Write outcomes, reasons and times to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the list of what cases end as; with --filter, the lines of these cases
    #[arg(long)]
    write: bool,
    /// Run nothing: write docs/operators.md from the lists
    #[arg(long)]
    docs: bool,
    /// Show what the processes of the cases print
    #[arg(short, long)]
    verbose: bool,
    /// Cases that run at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// MiB of memory that a process of the cases may have
    #[arg(long, default_value_t = 4096)]
    memory: u64,
    /// Lists of other folders than the suite's
    #[arg(long, hide = true)]
    lists: Option<PathBuf>,
    /// Runs the cases that standard input names
    #[arg(long, hide = true)]
    child: bool,
    /// `<kind>/<case>=abort|overflow|hang|memory|panic`: how a case ends, to be found
    #[arg(long, hide = true)]
    plant: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    Cpu,
    Gpu,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OrError {
    Cpu,
    Error,
}

impl Args {
    fn fallback(&self) -> Fallback {
        match self.fallback {
            OrError::Cpu => Fallback::Cpu,
            OrError::Error => Fallback::Error,
        }
    }

    /// The list's name.
    fn name(&self) -> &'static str {
        match (self.device, self.fallback) {
            (Place::Cpu, _) => "cpu",
            (Place::Gpu, OrError::Cpu) => "gpu",
            (Place::Gpu, OrError::Error) => "gpu-only",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.child {
        true => pool::child(&args).map(|()| true),
        false => suite(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("onnx-suite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every case ended as listed.
fn suite(args: &Args) -> Result<bool> {
    let mut cases = folder::cases(&args.folder)?;
    cases.retain(|it| args.filter.as_ref().is_none_or(|text| it.contains(text)));
    ensure!(!cases.is_empty(), "no case is called that");
    let lists = args.lists.clone().unwrap_or_else(|| wgfuse_tests::folder::tests().join("onnx"));
    if args.docs {
        let path = wgfuse_tests::folder::tests().join("../docs/operators.md");
        fs::write(&path, docs::page(&args.folder, &cases, &lists)?)
            .with_context(|| path.display().to_string())?;
        return Ok(true);
    }
    let start = Instant::now();
    let outcomes = pool::run(args, cases)?;

    let mut counts: BTreeMap<Status, usize> = Status::ALL.map(|it| (it, 0)).into();
    for outcome in outcomes.values() {
        *counts.entry(outcome.status).or_default() += 1;
    }
    for status in [Status::Wrong, Status::Error, Status::Crash] {
        for (name, it) in outcomes.iter().filter(|it| it.1.status == status) {
            println!("{status}\t{name}\t{}", it.reason);
        }
    }
    let counted: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let seconds = start.elapsed().as_secs_f64();
    println!("{}: {} of {} cases in {seconds:.0} s", args.name(), counted.join(", "), outcomes.len());
    if let Some(path) = &args.json {
        let cases: Vec<_> = outcomes.iter().map(|(name, it)| it.to_json(name)).collect();
        let counts: BTreeMap<_, _> = counts.iter().map(|(status, count)| (status.name(), count)).collect();
        let all =
            json!({ "list": args.name(), "seconds": seconds, "counts": counts, "cases": cases }).to_string();
        fs::write(path, all).with_context(|| path.display().to_string())?;
    }

    let path = lists.join(format!("{}.txt", args.name()));
    let mut list = List::read(&path)?;
    if args.write {
        list.update(&outcomes, args.filter.is_none());
        list.write(&path)?;
        println!("written: {}", path.display());
        return Ok(true);
    }
    let changes = list.changes(&outcomes, args.filter.is_none());
    for it in &changes {
        println!("changed\t{it}");
    }
    if !changes.is_empty() {
        println!(
            "{} cases end otherwise than {} says. Where that is right, the same command with --write writes it anew.",
            changes.len(),
            path.display()
        );
    }
    Ok(changes.is_empty())
}
