//! How long a plan takes: compiled, read from disk, and taken from another session of the process.

use std::{
    hint::black_box,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use wgfuse::{
    Device, Model, Options, Plan, Session, Shape, Tally,
    compiler::{compile_graph, graph::Graph, schedule::Choices},
};

use crate::files;

#[derive(clap::Args)]
pub struct Args {
    /// Where the models are [default: those of the tests]
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// cpu, gpu or best
    #[arg(long, default_value = "gpu")]
    device: String,
    /// Size of an input's first axis where the model leaves it open
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Size of the other axes that the model leaves open
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// How often each is timed
    #[arg(long, default_value_t = 30)]
    rounds: usize,
}

/// Milliseconds, medians.
struct Row {
    model: String,
    kernels: usize,
    import: f64,
    compiled: f64,
    disk: f64,
    memory: f64,
    /// What spans and counters cost that nobody listens to, in nanoseconds a compilation.
    told: f64,
    spans: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let device = files::device(&args.device)?;
    println!("{} ({} rounds, medians in ms)\n", device.name(), args.rounds);
    let unheard = unheard();
    println!(
        "Of spans and counters, when nobody listens: {:.1} ns a span with its fields, {:.1} ns a counter.\n",
        unheard.span, unheard.counter
    );
    println!(
        "| model | kernels | import | import and compile | plan from disk | plan from memory | spans | spans and counters, us | of compiling |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for path in files::models(&args.models)? {
        let name =
            path.parent().and_then(|it| it.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        let row = measure(name, &Model::open(&path)?, &device, args, &unheard)
            .with_context(|| path.display().to_string())?;
        let Row { model, kernels, import, compiled, disk, memory, told, spans } = row;
        let (told, share) = (told / 1e3, told / 1e4 / compiled);
        println!(
            "| {model} | {kernels} | {import:.2} | {compiled:.2} | {disk:.2} | {memory:.2} | {spans} | {told:.2} | {share:.4} % |"
        );
    }
    Ok(())
}

fn measure(model: String, file: &Model, device: &Device, args: &Args, unheard: &Unheard) -> Result<Row> {
    let shapes = files::shapes(file, args.batch, args.length);
    let folder = tempfile::tempdir()?;
    let kept = device.cache_in(Some(folder.path())).share_plans(false);
    let graph = || -> Result<Graph> { Ok(file.graph(&shapes)?) };
    let import = median(args.rounds, || graph().map(drop))?;
    let (target, options, choices) = (device.target(), Options::default(), Choices::default());
    let compiled = median(args.rounds, || {
        drop(compile_graph(graph()?, target, &options, &choices)?);
        Ok(())
    })?;
    let first = planned(file, &kept, &shapes)?.0;
    let disk = median(args.rounds, || {
        let (plan, tally) = planned(file, &kept, &shapes)?;
        let new = plan.kernels.iter().any(|it| it.shader.as_ref().is_some_and(|it| it.module.is_made()));
        ensure!(tally.compiled == 0 && tally.disk.hits == 1 && !new, "not read from disk: {tally:?}");
        Ok(())
    })?;
    let shared = device.cache_in(Some(folder.path()));
    planned(file, &shared, &shapes)?;
    let memory = median(args.rounds, || {
        let (_, tally) = planned(file, &shared, &shapes)?;
        ensure!(tally.compiled == 0 && tally.memory.hits == 1, "not taken from memory: {tally:?}");
        Ok(())
    })?;
    let spans = {
        let count = Count::default();
        let (graph, heard) = (graph()?, count.0.clone());
        tracing::subscriber::with_default(count, || compile_graph(graph, target, &options, &choices))?;
        heard.load(Ordering::Relaxed)
    };
    let told = spans as f64 * unheard.span + COUNTERS as f64 * unheard.counter;
    Ok(Row { model, kernels: first.kernels.len(), import, compiled, disk, memory, told, spans })
}

/// The plan of a new session, from opening the session on.
fn planned(model: &Model, device: &Device, shapes: &[Shape]) -> Result<(Arc<Plan>, Tally)> {
    let session = Session::new(model, device)?;
    let plan = session.plan_for(shapes)?;
    Ok((plan, session.tally()))
}

fn median(rounds: usize, mut one: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        one()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Counters that one compilation of a session moves, of the session's and of the device's.
const COUNTERS: u64 = 8;

/// Nanoseconds.
struct Unheard {
    span: f64,
    counter: f64,
}

/// What a span like those of the compiler costs that nobody listens to: made, entered, recorded twice and left; and a counter.
fn unheard() -> Unheard {
    const TIMES: u64 = 1_000_000;
    let each = |one: &dyn Fn(u64)| {
        let start = Instant::now();
        (0..TIMES).for_each(one);
        start.elapsed().as_secs_f64() * 1e9 / TIMES as f64
    };
    let counter = AtomicU64::new(0);
    let span = each(&|number| {
        let span = tracing::info_span!("unheard", nodes = black_box(number), after = tracing::field::Empty);
        let span = span.entered();
        span.record("after", black_box(number));
        span.record("nodes", black_box(number));
    });
    let counted = each(&|_| _ = black_box(&counter).fetch_add(1, Ordering::Relaxed));
    Unheard { span, counter: counted }
}

/// Counts spans.
#[derive(Default)]
struct Count(Arc<AtomicU64>);

impl tracing::Subscriber for Count {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}
