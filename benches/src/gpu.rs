//! The suite for a GPU: every workload is checked, then timed, and shown beside a reference.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, ensure};
use wgfuse::{Ceilings, Device, KernelTime, Session, Tensor};

use crate::{
    kernels::{self, Case, Work},
    measure::Bench,
    models::{self, ModelCase},
    random::{Values, poison},
    replay,
    results::{self, Report, Run, Table, ratio, shown},
    truth,
};

#[derive(clap::Args)]
pub struct Args {
    /// What torch_reference.py, or this program with --json, wrote
    #[arg(long, value_name = "FILE.json")]
    against: Option<PathBuf>,
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
    /// Print each kernel's time
    #[arg(long)]
    kernels: bool,
    /// Of the random values
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Whether everything gave right values.
pub fn run(args: &Args) -> Result<bool> {
    ensure!(
        !(args.write && args.small),
        "small workloads are no results to keep: leave out --write or --small"
    );
    let reference = args.against.as_deref().map(Report::read).transpose()?;
    let device = Device::gpu()?;
    let machine = machine(&device);
    println!("{machine}\nseed {}\n", args.seed);
    let ceilings = device.ceilings()?;
    say_ceilings("copying", &ceilings);

    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|it| name.contains(it.as_str()));
    let mut suite =
        Suite { args, machine: machine.clone(), device: device.name().to_owned(), runs: Vec::new() };
    let cases: Vec<Case> = kernels::all(args.small).into_iter().filter(|it| wanted(&it.name)).collect();
    for case in &cases {
        suite.kernel(case, &device)?;
    }
    if let Some(first) = cases.first() {
        let before = suite.runs[0].1.gpu_ms;
        suite.kernel(first, &device)?;
        let (_, again) = suite.runs.pop().expect("just measured");
        println!("{} once more: {} of its first time", first.name, ratio(again.gpu_ms, before));
    }
    say_ceilings("copying once more", &device.ceilings()?);

    // What the processor gives, for the cases that follow with other dtypes and batch sizes.
    let mut known: Option<(ModelCase, Vec<Tensor>)> = None;
    for case in models::all(args.small).iter().filter(|it| wanted(&it.name)) {
        suite.model(case, &mut known)?;
    }

    let mut text = format!("{machine}\n\n");
    text += &format!(
        "Copying: {:.0} GB/s; f32 multiply-adds by the shader cores: {:.1} TFLOP/s.",
        ceilings.copy / 1e9,
        ceilings.arithmetic / 1e12
    );
    if let Some(it) = &reference {
        text += &format!(" Reference: {}. Ratios are times over the reference's.", it.name);
    }
    let kernels = suite.kernel_table(&ceilings, reference.as_ref());
    if !kernels.is_empty() {
        text += &format!("\n\n{}", kernels.text());
    }
    let models = suite.model_table(reference.as_ref());
    if !models.is_empty() {
        text += &format!("\n{MODEL_COLUMNS}\n\n{}", models.text());
    }
    if wanted(REPLAY) {
        let launches = if args.small { 100 } else { 1000 };
        text += &format!("\n{}", replay::table(&device, launches)?.text());
    }
    println!("\n{text}");
    if args.write {
        results::record(&format!("{}, `gpu`", device.name()), &text)?;
    }
    let wrong: Vec<&str> = suite.runs.iter().filter(|it| it.1.wrong()).map(|it| it.0.as_str()).collect();
    if !wrong.is_empty() {
        println!("WRONG: {}", wrong.join("; "));
    }
    Ok(wrong.is_empty())
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

const MODEL_COLUMNS: &str = "Models: `gpu` is a run on the device, back to back; `answer` from inputs in host memory to \
    outputs in host memory, waited for; `first` compiles, uploads the weights, makes the pipelines (none kept on disk) and answers once; MB is \
    device memory; the error is that of the last example to the processor in f32.";

struct Suite<'a> {
    args: &'a Args,
    machine: String,
    device: String,
    runs: Vec<(String, Run)>,
}

impl Suite<'_> {
    fn kernel(&mut self, case: &Case, device: &Device) -> Result<()> {
        let run = self.measured(case, device).with_context(|| case.name.clone())?;
        let gpu = run.gpu_ms.unwrap_or(f64::NAN) * 1e3;
        let (rate, unit) = rate(&run);
        println!("{:<44} {gpu:>10.1} us {rate:>9.2} {unit:<8} error {}", case.name, run.error_text());
        self.runs.push((case.name.clone(), run));
        self.save()
    }

    fn measured(&self, case: &Case, device: &Device) -> Result<Run> {
        let made = case.make(self.args.seed)?;
        let given = named(&made.inputs);
        // Leaves numbers that are none wherever a kernel writes, so that what is not written shows.
        let poisoned: Vec<(&str, Tensor)> = given.iter().map(|(name, it)| (*name, poison(it))).collect();
        let mut bench = Bench::new(&made.model, device, &poisoned)?;
        drop(poisoned);
        let outputs = bench.session.run(&given)?;
        let operands: Vec<Values> = made.operands.iter().map(Values::of).collect();
        bench.run.error = Some(truth::error(case.truth, &operands, Values::of(&outputs[0]), self.args.seed));
        bench.run.bound = Some(case.bound());
        drop(outputs);
        let kernels = bench.on_device(&given)?;
        if self.args.kernels {
            kernels.iter().for_each(say_kernel);
        }
        match case.work {
            Work::Bytes(it) => bench.run.bytes = Some(it),
            Work::Operations(it) => bench.run.operations = Some(it),
        }
        Ok(bench.run)
    }

    fn model(&mut self, case: &ModelCase, known: &mut Option<(ModelCase, Vec<Tensor>)>) -> Result<()> {
        let run = self.measured_model(case, known).with_context(|| case.name.clone())?;
        println!(
            "{:<32} gpu {:>8} ms, {:>4} dispatches, answer {:>8} ms, compile {:>7} ms, first {:>9} ms, {:>6} MB, error {}",
            case.name,
            shown(run.gpu_ms, 3),
            run.dispatches.unwrap_or(0),
            shown(run.answer_ms, 3),
            shown(run.compile_ms, 1),
            shown(run.first_ms, 1),
            shown(run.memory_mb, 0),
            run.error_text()
        );
        self.runs.push((case.name.clone(), run));
        self.save()
    }

    fn measured_model(&self, case: &ModelCase, known: &mut Option<(ModelCase, Vec<Tensor>)>) -> Result<Run> {
        if !known.as_ref().is_some_and(|it| it.0.alike(case)) {
            let plain = case.plain();
            let made = plain.make(self.args.seed)?;
            let session = Session::new(&made.model, &Device::cpu())?;
            let outputs = session.run(&named(&made.inputs))?;
            *known = Some((plain, outputs.into_iter().map(|it| it.1).collect()));
        }
        let (_, want) = known.as_ref().expect("just made");
        let made = case.make(self.args.seed)?;
        let given = named(&made.inputs);
        // A device of its own, and nothing kept from earlier: its pipelines are made anew, its memory is this model's.
        let mut bench = Bench::new(&made.model, &Device::gpu()?.cache_in(None), &given)?;
        let outputs = bench.session.run(&given)?;
        ensure!(outputs.len() == want.len(), "as many outputs as on the processor");
        let errors = (outputs.iter().zip(want))
            .map(|((_, have), want)| truth::error_of_last(Values::of(have), Values::of(want)));
        // NaN stays.
        bench.run.error = Some(errors.fold(0.0, |most, it| if it > most || it.is_nan() { it } else { most }));
        bench.run.bound = Some(case.bound());
        drop(outputs);
        let kernels = bench.on_device(&given)?;
        if self.args.kernels {
            kernels.iter().for_each(say_kernel);
        }
        bench.answers(&given)?;
        Ok(bench.run)
    }

    fn model_table(&self, reference: Option<&Report>) -> Table {
        let titles =
            ["model", "dispatches", "gpu, ms", "answer, ms", "compile, ms", "first, ms", "MB", "error"];
        let mut header: Vec<String> = titles.map(str::to_owned).into();
        if reference.is_some() {
            let titles = ["its gpu, ms", "ratio", "its answer, ms", "ratio", "its first, ms", "its MB"];
            header.extend(titles.map(str::to_owned));
        }
        let mut table = Table::new(header);
        for (name, run) in self.runs.iter().filter(|it| it.1.answer_ms.is_some()) {
            let mut cells = vec![
                name.clone(),
                run.dispatches.map_or_else(String::new, |it| it.to_string()),
                shown(run.gpu_ms, 3),
                shown(run.answer_ms, 3),
                shown(run.compile_ms, 1),
                shown(run.first_ms, 0),
                shown(run.memory_mb, 0),
                run.error_text(),
            ];
            if let Some(reference) = reference {
                let its = reference.runs.get(name).cloned().unwrap_or_default();
                cells.extend([
                    shown(its.gpu_ms, 3),
                    ratio(run.gpu_ms, its.gpu_ms),
                    shown(its.answer_ms, 3),
                    ratio(run.answer_ms, its.answer_ms),
                    shown(its.first_ms, 0),
                    shown(its.memory_mb, 0),
                ]);
            }
            table.row(cells);
        }
        table
    }

    /// After every workload, so that nothing is lost if a later one ends the program.
    fn save(&self) -> Result<()> {
        let Some(path) = &self.args.json else { return Ok(()) };
        let runs: BTreeMap<String, Run> = self.runs.iter().cloned().collect();
        let name = format!("wgfuse {}, {}", env!("CARGO_PKG_VERSION"), self.device);
        Report { name, machine: self.machine.clone(), runs }.write(path)
    }

    fn kernel_table(&self, ceilings: &Ceilings, reference: Option<&Report>) -> Table {
        let titles = ["workload", "dispatches", "us", "rate", "of copy", "error"];
        let mut header: Vec<String> = titles.map(str::to_owned).into();
        if reference.is_some() {
            header.extend(["reference, us".to_owned(), "ratio".to_owned()]);
        }
        let mut table = Table::new(header);
        for (name, run) in self.runs.iter().filter(|it| it.1.bytes.or(it.1.operations).is_some()) {
            let (rate, unit) = rate(run);
            let of_copy = run.bytes.map(|_| rate * 1e9 / ceilings.copy * 100.0);
            let mut cells = vec![
                name.clone(),
                run.dispatches.map_or_else(String::new, |it| it.to_string()),
                shown(run.gpu_ms.map(|it| it * 1e3), 1),
                format!("{rate:.*} {unit}", if run.bytes.is_some() { 0 } else { 1 }),
                of_copy.map_or_else(|| "-".to_owned(), |it| format!("{it:.0} %")),
                run.error_text(),
            ];
            if let Some(reference) = reference {
                let its = reference.runs.get(name).and_then(|it| it.gpu_ms);
                cells.extend([shown(its.map(|it| it * 1e3), 1), ratio(run.gpu_ms, its)]);
            }
            table.row(cells);
        }
        table
    }
}

fn named(inputs: &[(String, Tensor)]) -> Vec<(&str, Tensor)> {
    inputs.iter().map(|(name, it)| (name.as_str(), it.clone())).collect()
}

/// What a workload does in a second.
fn rate(run: &Run) -> (f64, &'static str) {
    let seconds = run.gpu_ms.unwrap_or(f64::NAN) / 1e3;
    match (run.bytes, run.operations) {
        (Some(bytes), _) => (bytes / seconds / 1e9, "GB/s"),
        (None, Some(operations)) => (operations / seconds / 1e12, "TFLOP/s"),
        (None, None) => (f64::NAN, ""),
    }
}

fn say_kernel(it: &KernelTime) {
    let (us, bytes, operations) = (it.seconds * 1e6, it.bytes as f64, it.flops as f64);
    let (gb, tflop) = (bytes / it.seconds / 1e9, operations / it.seconds / 1e12);
    println!("    {us:>9.1} us {gb:>8.1} GB/s {tflop:>8.2} TFLOP/s  {}", it.name);
}
