//! `wgfuse bench`: how long the first answer takes, every further one, and each kernel of it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use wgfuse::{Ceilings, DType, Effort, KernelTime, Place, Profile, Scalar, Session, Signature, Tensor, Type};

use crate::{
    open::{self, DeviceChoice},
    print::{self, Align, Table, say},
    progress::progress,
    shapes::{self, ShapeArg},
    tally, trace,
};

#[derive(clap::Args)]
pub struct Args {
    /// The model file
    model: PathBuf,
    /// Shape of an input, as name=1x128; may be repeated
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    shapes: Vec<ShapeArg>,
    /// Runs to time [default: as many as fit in two seconds, from 10 to 1000]
    #[arg(long)]
    iters: Option<u32>,
    /// auto, gpu, cpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Measure kernels to find how they run fastest; what is found is kept and used again
    #[arg(long)]
    tune: bool,
    /// For programs: one JSON object, times in seconds
    #[arg(long)]
    json: bool,
    /// Write the kernels of one run as a trace for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
}

/// What a kernel reached, in its units a second and as shares of what its device can do at most. No rates without a time,
/// no shares on a processor that only helps a GPU.
pub struct Reached {
    pub bytes: Option<f64>,
    pub operations: Option<f64>,
    pub of_copy: Option<f64>,
    pub of_arithmetic: Option<f64>,
}

impl Reached {
    /// `ceilings` are those of `place`.
    pub fn new(it: &KernelTime, ceilings: &Ceilings, place: Place) -> Reached {
        let rate = |count: u64| (it.seconds > 0.0).then(|| count as f64 / it.seconds);
        let share = |rate: Option<f64>, most: f64| {
            rate.filter(|_| it.place == place && most > 0.0).map(|it| it / most)
        };
        let (bytes, operations) = (rate(it.bytes), rate(it.flops));
        Reached {
            bytes,
            operations,
            of_copy: share(bytes, ceilings.copy),
            of_arithmetic: share(operations, ceilings.arithmetic),
        }
    }
}

const WARM_UP: Duration = Duration::from_millis(300);
const BUDGET: Duration = Duration::from_secs(2);
/// Rounds of timing every kernel; each kernel's time is the median.
const PROFILES: usize = 9;

#[derive(Serialize)]
struct FirstCall {
    /// Reading the file.
    open: f64,
    /// The plan for this shape.
    compile: f64,
    /// Weights, pipelines, capture, and the first answer.
    first_run: f64,
    total: f64,
}

#[derive(Serialize)]
struct Replay {
    iters: usize,
    min: f64,
    median: f64,
    p95: f64,
}

pub fn bench(args: Args) -> Result<()> {
    ensure!(args.iters != Some(0), "--iters must be at least 1");
    let device = open::device(args.device)?;
    let start = Instant::now();
    let model = open::model(&args.model)?;
    let open = start.elapsed().as_secs_f64();
    let found = shapes::shapes(&model.inputs, &args.shapes)?;
    let inputs = random_inputs(&model.inputs, &found.shapes)?;
    let given: Vec<(&str, Tensor)> = inputs.iter().map(|(name, it)| (*name, it.clone())).collect();

    let start = Instant::now();
    let session = open::tuned(Session::new(&model, &device)?, args.tune);
    let (compile, first_run) = {
        let _progress = progress("compiling and running for the first time");
        session.plan_for(&found.shapes)?;
        let compile = start.elapsed().as_secs_f64();
        let start = Instant::now();
        session.run(&given)?;
        (compile, start.elapsed().as_secs_f64())
    };
    let plans = session.tally();
    let first = FirstCall { open, compile, first_run, total: open + compile + first_run };
    let replay = replays(&session, &given, args.iters)?;
    let Profile { kernels, back_to_back } = profile(&session, &given)?;
    let ceilings = {
        let _progress = progress("measuring what the device can do");
        device.ceilings()?
    };
    let reached = |it: &KernelTime| Reached::new(it, &ceilings, device.target().place);
    if let Some(path) = &args.trace {
        let text = trace::trace(&kernels, reached);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }

    let name = args.model.display().to_string();
    let steps_down = open::steps_down(&session);
    if args.json {
        let kernels = kernels.iter().map(|it| {
            let reached = reached(it);
            json!({
                "name": it.name,
                "ops": it.ops,
                "place": wgfuse::report::place(it.place),
                "seconds": it.seconds,
                "bytes": it.bytes,
                "flops": it.flops,
                "bytes_per_second": reached.bytes,
                "operations_per_second": reached.operations,
                "share_of_copy": reached.of_copy,
                "share_of_arithmetic": reached.of_arithmetic,
            })
        });
        print::json(&json!({
            "model": name,
            "device": open::describe(&device),
            "steps_down": steps_down.iter().map(|it| it.reason.to_string()).collect::<Vec<_>>(),
            "inputs": inputs.iter().map(|(name, it)| json!({
                "name": name, "dtype": it.dtype().name(), "shape": it.shape().to_vec(),
            })).collect::<Vec<_>>(),
            "assumed": found.assumed,
            "first_call": first,
            "plans": tally::json(&plans),
            "replay": replay,
            "back_to_back": back_to_back,
            "copy_bytes_per_second": ceilings.copy,
            "arithmetic_per_second": ceilings.arithmetic,
            "kernels": kernels.collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    say!("model       {name}");
    say!("device      {}", open::describe(&device));
    steps_down.iter().for_each(|it| say!("            {}", it.reason));
    let shown = inputs.iter().map(|(name, it)| format!("{name} {}", it.ty()));
    say!("inputs      {}", shown.collect::<Vec<_>>().join(", "));
    if !found.assumed.is_empty() {
        say!("            assumed: {} (set others with --shape name=1x128)", found.assumed.join(", "));
    }
    say!(
        "first call  {}: open {}, compile {}, pipelines and first answer {}",
        print::seconds(first.total),
        print::seconds(first.open),
        print::seconds(first.compile),
        print::seconds(first.first_run)
    );
    say!("plans       {}", tally::text(&plans));
    say!(
        "replay      median {}, fastest {}, 95 of 100 within {} ({} runs)",
        print::seconds(replay.median),
        print::seconds(replay.min),
        print::seconds(replay.p95),
        replay.iters
    );
    let (total, bytes) = kernels.iter().fold((0.0, 0), |sum, it| (sum.0 + it.seconds, sum.1 + it.bytes));
    say!(
        "kernels     {} in {}, back to back {}, {} read and written",
        kernels.len(),
        print::seconds(total),
        print::seconds(back_to_back),
        print::bytes(bytes)
    );
    say!("copying     {:.1} GB/s; data that a cache holds may move faster", ceilings.copy / 1e9);
    say!("arithmetic  {:.1} GFLOP/s; matrix units may be faster", ceilings.arithmetic / 1e9);
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("on", Align::Left),
        ("time", Align::Right),
        ("of all", Align::Right),
        ("bytes", Align::Right),
        ("GB/s", Align::Right),
        ("of copy", Align::Right),
        ("GFLOP/s", Align::Right),
        ("of arithmetic", Align::Right),
    ]);
    let mut sorted: Vec<&KernelTime> = kernels.iter().collect();
    sorted.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for it in sorted {
        let percent = |share: Option<f64>| share.map_or("-".into(), |it| format!("{:.0} %", it * 100.0));
        let billions = |rate: Option<f64>| rate.map_or("-".into(), |it| format!("{:.1}", it / 1e9));
        let reached = reached(it);
        table.row(vec![
            it.name.clone(),
            wgfuse::report::place(it.place).into(),
            print::seconds(it.seconds),
            percent((total > 0.0).then(|| it.seconds / total)),
            print::bytes(it.bytes),
            billions(reached.bytes),
            percent(reached.of_copy),
            billions(reached.operations),
            percent(reached.of_arithmetic),
        ]);
    }
    say!("");
    table.print();
    Ok(())
}

fn replays(session: &Session, given: &[(&str, Tensor)], iters: Option<u32>) -> Result<Replay> {
    let progress = progress("timing");
    let one = || -> Result<Duration> {
        let start = Instant::now();
        session.run(given)?;
        Ok(start.elapsed())
    };
    let start = Instant::now();
    let mut last = one()?;
    while start.elapsed() < WARM_UP {
        last = one()?;
    }
    let fitting = BUDGET.as_secs_f64() / last.as_secs_f64().max(1e-9);
    let iters = iters.unwrap_or(fitting.clamp(10.0, 1000.0) as u32);
    let mut times = Vec::new();
    for at in 0..iters {
        times.push(one()?.as_secs_f64());
        progress.at(at as u64 + 1, iters as u64);
    }
    times.sort_by(f64::total_cmp);
    // The smallest time that this share of the runs did not exceed.
    let within = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
    Ok(Replay { iters: times.len(), min: times[0], median: within(0.5), p95: within(0.95) })
}

/// Every launch with the median of its times.
pub fn profile(session: &Session, given: &[(&str, Tensor)]) -> Result<Profile> {
    let _progress = progress("timing kernels");
    Ok(session.measure(given, Effort { warm_up: WARM_UP.as_secs_f64(), rounds: PROFILES })?)
}

/// Values that a model can take: masks that let everything through, small whole numbers, floats from -1 to 1.
fn random_inputs<'a>(inputs: &'a [Signature], shapes: &[wgfuse::Shape]) -> Result<Vec<(&'a str, Tensor)>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    let mut all = Vec::new();
    for (input, shape) in inputs.iter().zip(shapes) {
        let ty = Type { dtype: input.dtype, shape: shape.clone() };
        let bytes = shape.checked_count().and_then(|it| it.checked_mul(input.dtype.size()));
        ensure!(bytes.is_some_and(|it| it <= 16 << 30), "input '{}' of {ty} is too large", input.name);
        let name = input.name.to_lowercase();
        let value = |_| match input.dtype {
            _ if name.contains("mask") => Scalar::of(input.dtype, 1.0),
            DType::Bool => Scalar::Int((next() % 2) as i64),
            it if it.is_float() => Scalar::Float(next() as f64 / (1u64 << 52) as f64 - 1.0),
            // Kinds of tokens are few; larger numbers would all mean the last one.
            it if name.contains("type") => Scalar::of(it, 0.0),
            _ => Scalar::Int((next() % 100) as i64),
        };
        let tensor = Tensor::from_scalars(ty.clone(), (0..shape.count()).map(value));
        all.push((input.name.as_str(), tensor));
    }
    Ok(all)
}
