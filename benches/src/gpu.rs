//! The suite for a GPU: every workload is checked, then timed, and shown beside a reference.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, ensure};
use wgfuse::{Ceilings, Device, KernelTime, Model, Session, Tensor, Tune};

use crate::{
    kernels::{self, Case, Work},
    measure::Bench,
    models::{self, ModelCase},
    random::{Values, poison},
    replay,
    results::{self, Report, Run, ratio, shown},
    summary, truth,
};

#[derive(clap::Args)]
pub struct Args {
    /// What torch_reference.py, or this program with --json, wrote; of several files the workloads are joined
    #[arg(long, value_name = "FILE.json")]
    against: Vec<PathBuf>,
    /// Measure nothing, show what this program wrote with --json; of several files the workloads are joined
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["only", "json", "small", "kernels"])]
    from: Vec<PathBuf>,
    /// Only workloads whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write what was measured as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Put the tables into RESULTS.md
    #[arg(long)]
    write: bool,
    /// Workloads small enough for a software adapter
    #[arg(long)]
    small: bool,
    /// Print the kernels' times, of like ones together
    #[arg(long)]
    kernels: bool,
    /// Measure kernels to find how they run fastest, and say what was gained; what is reported is tuned
    #[arg(long)]
    tune: bool,
    /// Of the random values
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Whether everything gave right values.
pub fn run(args: &Args) -> Result<bool> {
    let part = args.from.is_empty() && (args.small || !args.only.is_empty());
    ensure!(!(args.write && part), "--write is for the whole suite: leave out --small and --only");
    let reference = Report::read_all(&args.against)?;
    let report = match Report::read_all(&args.from)? {
        Some(report) => report,
        None => measured(args)?,
    };
    let text = summary::text(&report, reference.as_ref());
    println!("\n{text}");
    if args.write {
        results::record(&summary::heading(&report), &text)?;
    }
    let wrong: Vec<&str> = report.runs.iter().filter(|it| it.1.wrong).map(|it| it.0.as_str()).collect();
    if !wrong.is_empty() {
        println!("WRONG: {}", wrong.join("; "));
    }
    Ok(wrong.is_empty())
}

fn measured(args: &Args) -> Result<Report> {
    let device = Device::gpu()?.cache_in(None);
    let machine = machine(&device);
    println!("{machine}\nseed {}\n", args.seed);
    let ceilings = device.ceilings()?;
    say_ceilings("copying", &ceilings);
    let report = Report {
        name: format!("wgfuse {}, {}", env!("CARGO_PKG_VERSION"), device.name()),
        device: device.name().to_owned(),
        machine,
        copy: Some(ceilings.copy),
        arithmetic: Some(ceilings.arithmetic),
        runs: BTreeMap::new(),
    };
    let mut suite = Suite { args, report };

    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|it| name.contains(it.as_str()));
    let cases: Vec<Case> = kernels::all(args.small).into_iter().filter(|it| wanted(&it.name)).collect();
    for case in &cases {
        let run = suite.kernel(case, &device)?;
        suite.keep(&case.name, run)?;
    }
    if let Some(first) = cases.first() {
        let again = suite.kernel(first, &device)?;
        let before = suite.report.runs[&first.name].gpu_ms;
        println!("{} once more: {} of its first time", first.name, ratio(again.gpu_ms, before));
    }
    say_ceilings("copying once more", &device.ceilings()?);

    // What the processor gives, for the cases that follow with other dtypes and batch sizes.
    let mut known: Option<(ModelCase, Vec<Tensor>)> = None;
    for case in models::all(args.small).iter().filter(|it| wanted(&it.name)) {
        let run = suite.model(case, &mut known)?;
        suite.keep(&case.name, run)?;
    }
    if wanted(REPLAY) {
        for (name, run) in replay::runs(&device, if args.small { 100 } else { 1000 })? {
            suite.keep(&name, run)?;
        }
    }
    Ok(suite.report)
}

fn say_ceilings(what: &str, ceilings: &Ceilings) {
    let (copy, arithmetic) = (ceilings.copy / 1e9, ceilings.arithmetic / 1e12);
    println!("{what}: {copy:.1} GB/s, multiply-adds {arithmetic:.2} TFLOP/s");
}

/// Adapter, driver, versions and date, in one line.
fn machine(device: &Device) -> String {
    let adapters = Device::adapters();
    let adapter = adapters.iter().find(|it| it.name == device.name());
    let driver = adapter.map_or_else(String::new, |it| format!(", {} {}", it.backend, it.driver));
    // Cargo tells no program the versions of its dependencies.
    let locked = include_str!("../../Cargo.lock");
    let wgpu = locked.split("name = \"wgpu\"\nversion = \"").nth(1).and_then(|it| it.split('"').next());
    format!(
        "{}{driver}; wgfuse {}, wgpu {}; {}",
        device.name(),
        env!("CARGO_PKG_VERSION"),
        wgpu.unwrap_or("unknown"),
        time::OffsetDateTime::now_utc().date()
    )
}

/// What `--only` calls the cost of launches.
const REPLAY: &str = "replay";

struct Suite<'a> {
    args: &'a Args,
    report: Report,
}

impl Suite<'_> {
    fn kernel(&self, case: &Case, device: &Device) -> Result<Run> {
        let run = self.measured(case, device).with_context(|| case.name.clone())?;
        let gpu = run.gpu_ms.unwrap_or(f64::NAN) * 1e3;
        let (rate, unit) = summary::rate(&run);
        println!("{:<44} {gpu:>10.1} us {rate:>9.2} {unit:<8} error {}", case.name, run.error_text());
        Ok(run)
    }

    fn measured(&self, case: &Case, device: &Device) -> Result<Run> {
        let made = case.make(self.args.seed)?;
        let given = named(&made.inputs);
        // Leaves numbers that are none wherever a kernel writes, so that what is not written shows.
        let poisoned: Vec<(&str, Tensor)> = given.iter().map(|(name, it)| (*name, poison(it))).collect();
        let untuned = self.untuned(&made.model, device, &given)?;
        let mut bench = Bench::new(&made.model, device, &poisoned, self.tune())?;
        drop(poisoned);
        let outputs = bench.session.run(&given)?;
        let operands: Vec<Values> = made.operands.iter().map(Values::of).collect();
        let error = truth::error(case.truth, &operands, Values::of(&outputs[0]), self.args.seed);
        bench.run.judge(error, case.bound());
        drop(outputs);
        let kernels = bench.on_device(&given)?;
        say_gain(&case.name, untuned, &bench);
        if self.args.kernels {
            say_kernels(&kernels);
        }
        match case.work {
            Work::Bytes(it) => bench.run.bytes = Some(it),
            Work::Operations(it) => bench.run.operations = Some(it),
        }
        Ok(bench.run)
    }

    fn model(&self, case: &ModelCase, known: &mut Option<(ModelCase, Vec<Tensor>)>) -> Result<Run> {
        let run = self.measured_model(case, known).with_context(|| case.name.clone())?;
        println!(
            "{:<32} gpu {:>8} ms, {:>4} dispatches, run {:>8} ms, answer {:>8} ms, compile {:>7} ms, first {:>9} ms, {:>6} MB, error {}",
            case.name,
            shown(run.gpu_ms, 3),
            run.dispatches.unwrap_or(0),
            shown(run.run_ms, 3),
            shown(run.answer_ms, 3),
            shown(run.compile_ms, 1),
            shown(run.first_ms, 1),
            shown(run.memory_mb, 0),
            run.error_text()
        );
        Ok(run)
    }

    fn measured_model(&self, case: &ModelCase, known: &mut Option<(ModelCase, Vec<Tensor>)>) -> Result<Run> {
        if !known.as_ref().is_some_and(|it| it.0.alike(case)) {
            let plain = case.plain();
            let made = plain.make(self.args.seed)?;
            let session = Session::new(&made.model, &Device::cpu())?;
            *known = Some((plain, made.answer(&session)?));
        }
        let (_, want) = known.as_ref().expect("just made");
        let made = case.make(self.args.seed)?;
        let given = named(&made.inputs);
        // A device of its own, and nothing kept from earlier: its pipelines are made anew, its memory is this model's.
        let device = Device::gpu()?.cache_in(None);
        let untuned = self.untuned(&made.model, &device, &given)?;
        let mut bench = Bench::new(&made.model, &device, &given, self.tune())?;
        let outputs = made.answer(&bench.session)?;
        ensure!(outputs.len() == want.len(), "as many outputs as on the processor");
        let errors = (outputs.iter().zip(want))
            .map(|(have, want)| truth::error_of_last(Values::of(have), Values::of(want)));
        // NaN stays.
        let error = errors.fold(0.0, |most, it| if it > most || it.is_nan() { it } else { most });
        bench.run.judge(error, case.bound());
        drop(outputs);
        let kernels = bench.on_device(&given)?;
        say_gain(&case.name, untuned, &bench);
        if self.args.kernels {
            say_kernels(&kernels);
        }
        bench.answers(&given)?;
        Ok(bench.run)
    }

    fn tune(&self) -> Tune {
        if self.args.tune { Tune::On } else { Tune::Off }
    }

    /// Milliseconds on the device without tuning, if there is to be tuning.
    fn untuned(&self, model: &Model, device: &Device, given: &[(&str, Tensor)]) -> Result<Option<f64>> {
        if !self.args.tune {
            return Ok(None);
        }
        let mut bench = Bench::new(model, device, given, Tune::Off)?;
        bench.on_device(given)?;
        Ok(bench.run.gpu_ms)
    }

    /// Written after every workload, so that nothing is lost if a later one ends the program.
    fn keep(&mut self, name: &str, run: Run) -> Result<()> {
        self.report.runs.insert(name.to_owned(), run);
        match &self.args.json {
            Some(path) => self.report.write(path),
            None => Ok(()),
        }
    }
}

fn named(inputs: &[(String, Tensor)]) -> Vec<(&str, Tensor)> {
    inputs.iter().map(|(name, it)| (name.as_str(), it.clone())).collect()
}

/// What tuning gained, in all and by kernel.
fn say_gain(name: &str, untuned: Option<f64>, bench: &Bench) {
    let Some(untuned) = untuned else { return };
    let tuned = bench.run.gpu_ms.unwrap_or(f64::NAN);
    let all = bench.session.tuned();
    let compiled = bench.run.compile_ms.unwrap_or(f64::NAN) / 1e3;
    println!(
        "  {name}: {:.1} us untuned, {:.1} us tuned, {:.3} of it; {} classes in {compiled:.1} s",
        untuned * 1e3,
        tuned * 1e3,
        tuned / untuned,
        all.len()
    );
    for it in all {
        let Some(measured) = it.measured else { continue };
        let (default, chosen) = (measured.default * 1e6, measured.chosen * 1e6);
        if it.chosen != it.default || measured.broken + measured.wrong > 0 {
            let (tried, broken, wrong) = (measured.tried, measured.broken, measured.wrong);
            println!(
                "    {default:>9.1} -> {chosen:>9.1} us of {tried} ({broken} broken, {wrong} wrong) {}",
                it.kernel
            );
            println!("      {}\n      {}", it.default, it.chosen);
        }
    }
}

/// Kernels that differ in their numbers alone count as one, the slowest sum first.
fn say_kernels(kernels: &[KernelTime]) {
    let mut groups: BTreeMap<&str, (usize, [f64; 3])> = BTreeMap::new();
    for it in kernels {
        let name = it.name.split_once('_').map_or(it.name.as_str(), |it| it.1);
        let (count, sums) = groups.entry(name).or_default();
        *count += 1;
        for (sum, value) in sums.iter_mut().zip([it.seconds, it.bytes as f64, it.flops as f64]) {
            *sum += value;
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.1.1[0].total_cmp(&a.1.1[0]));
    for (name, (count, [seconds, bytes, operations])) in groups {
        let (gb, tflop) = (bytes / seconds / 1e9, operations / seconds / 1e12);
        println!("    {:>9.1} us {gb:>8.1} GB/s {tflop:>8.2} TFLOP/s {count:>4} x {name}", seconds * 1e6);
    }
}
