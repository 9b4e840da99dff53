//! Model files: every DIR/*/model.onnx (or DIR/model.onnx) is compiled, run for the first time and replayed with random
//! inputs, on either device.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use wgfuse::{DType, Device, Dim, Model, Options, Scalar, Session, Shape, Tensor, Type, compiler::compile};

use crate::results::{self, Report};

#[derive(clap::Args)]
pub struct Args {
    /// Where the models are [default: those of the tests]
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// cpu, gpu or best
    #[arg(long, default_value = "best")]
    device: String,
    /// Size of an input's first axis where the model leaves it open
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Size of the other axes that the model leaves open
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// What a reference program wrote
    #[arg(long, value_name = "FILE.json")]
    against: Vec<PathBuf>,
    /// Print each kernel's time
    #[arg(long)]
    kernels: bool,
    /// Put the table into RESULTS.md
    #[arg(long)]
    write: bool,
}

/// One model on one device, in milliseconds.
struct Row {
    model: String,
    shape: String,
    kernels: usize,
    compile: f64,
    recompile: f64,
    first: f64,
    run: f64,
    arena_ratio: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let device = device(&args.device)?;
    let references: Vec<Report> = args.against.iter().map(|it| Report::read(it)).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    for path in models(&args.models)? {
        eprintln!("{}", path.display());
        rows.push(measure(&path, &device, args).with_context(|| path.display().to_string())?);
    }
    let table = table(&rows, &references);
    let heading = format!("{} ({} threads)", device.name(), threads());
    println!("{heading}\n\n{table}");
    if args.write {
        results::record(&heading, &table)?;
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |it| it.get())
}

/// `--device`.
pub fn device(name: &str) -> Result<Device> {
    Ok(match name {
        "cpu" => Device::cpu(),
        "gpu" => Device::gpu()?,
        "best" => Device::best()?,
        other => bail!("--device {other}: expected cpu, gpu or best"),
    })
}

/// Model files at the given places, or those of the tests, sorted by name.
pub fn models(places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let tests = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models")];
    let places = if places.is_empty() { &tests[..] } else { places };
    let mut found = Vec::new();
    for place in places {
        if place.is_file() {
            found.push(place.clone());
            continue;
        }
        if place.join("model.onnx").is_file() {
            found.push(place.join("model.onnx"));
            continue;
        }
        let entries = std::fs::read_dir(place).with_context(|| place.display().to_string())?;
        let mut inside: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry?.path().join("model.onnx");
            if path.is_file() {
                inside.push(path);
            }
        }
        inside.sort();
        found.extend(inside);
    }
    if found.is_empty() {
        bail!("no model.onnx at {places:?}");
    }
    Ok(found)
}

fn measure(path: &Path, device: &Device, arguments: &Args) -> Result<Row> {
    let name =
        path.parent().and_then(Path::file_name).map_or_else(String::new, |it| it.to_string_lossy().into());
    let start = Instant::now();
    let model = Model::open(path)?;
    let session = Session::new(&model, device)?;
    let shapes = shapes(&model, arguments.batch, arguments.length);
    let inputs = inputs(&model, &shapes);
    let given: Vec<(&str, Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    session.run(&given)?;
    let first = millis(start);

    let options = Options::default();
    let start = Instant::now();
    let plan = compile(&model, &shapes, device.target(), &options)?;
    let compiled = millis(start);
    let other = self::shapes(&model, arguments.batch + 1, arguments.length + 1);
    let start = Instant::now();
    compile(&model, &other, device.target(), &options)?;
    let recompile = millis(start);

    let warm = Instant::now();
    while millis(warm) < 300.0 {
        session.run(&given)?;
    }
    let mut times: Vec<f64> = Vec::new();
    let begun = Instant::now();
    while times.len() < 10 || (times.len() < 200 && millis(begun) < 2000.0) {
        let start = Instant::now();
        session.run(&given)?;
        times.push(millis(start));
    }
    times.sort_by(f64::total_cmp);
    if arguments.kernels {
        print_kernels(&session, &given)?;
    }
    let arena: u64 = (plan.buffers.iter())
        .filter(|it| it.role == wgfuse::compiler::plan::BufferRole::Activations)
        .map(|it| it.size)
        .sum();
    Ok(Row {
        model: name,
        shape: shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" "),
        kernels: plan.kernels.len(),
        compile: compiled,
        recompile,
        first,
        run: times[times.len() / 2],
        arena_ratio: arena as f64 / plan.live_peak.max(1) as f64,
    })
}

/// Each kernel's share of a run: microseconds, rates of memory and arithmetic.
fn print_kernels(session: &Session, given: &[(&str, Tensor)]) -> Result<()> {
    let times = session.profile(given)?;
    let total: f64 = times.iter().map(|it| it.seconds).sum();
    println!("{:>9} {:>8} {:>9}  kernel ({:.1} us in all)", "us", "GB/s", "GFLOP/s", total * 1e6);
    for it in &times {
        let (bytes, flops) = (it.bytes as f64 / it.seconds / 1e9, it.flops as f64 / it.seconds / 1e9);
        println!("{:>9.1} {bytes:>8.1} {flops:>9.1}  {}", it.seconds * 1e6, it.name);
    }
    Ok(())
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The first symbol of an input is its batch, the others are lengths.
pub fn shapes(model: &Model, batch: usize, length: usize) -> Vec<Shape> {
    let size = |(axis, dim): (usize, &Dim)| match (dim, axis) {
        (Dim::Fixed(size), _) => *size,
        (Dim::Symbol(_) | Dim::Unknown, 0) => batch,
        (Dim::Symbol(_) | Dim::Unknown, _) => length,
    };
    model.inputs.iter().map(|it| it.dims.iter().enumerate().map(size).collect()).collect()
}

/// Integers that are a mask are 1, others below 100; floats between -1 and 1. The same in every run.
fn inputs(model: &Model, shapes: &[Shape]) -> Vec<(String, Tensor)> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let tensor = |(input, shape): (&wgfuse::Signature, &Shape)| {
        let values: Vec<Scalar> = (0..shape.count())
            .map(|_| match input.dtype {
                it if it.is_float() => Scalar::of(it, next() as f64 / (1u64 << 30) as f64 - 1.0),
                DType::Bool => Scalar::Int(1),
                _ if input.name.contains("mask") => Scalar::Int(1),
                _ => Scalar::Int((next() % 100) as i64),
            })
            .collect();
        let ty = Type { dtype: input.dtype, shape: shape.clone() };
        (input.name.clone(), Tensor::from_scalars(ty, values))
    };
    model.inputs.iter().zip(shapes).map(tensor).collect()
}

fn table(rows: &[Row], references: &[Report]) -> String {
    let mut out = String::from(
        "| model | inputs | kernels | compile, ms | second shape, ms | first answer, ms | run, ms | arena / live peak |",
    );
    references
        .iter()
        .for_each(|it| write!(out, " {}: first, ms | run, ms | ratio |", it.name).expect("a string"));
    out.push_str("\n|---|---|---|---|---|---|---|---|");
    references.iter().for_each(|_| out.push_str("---|---|---|"));
    for row in rows {
        write!(
            out,
            "\n| {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.3} | {:.2} |",
            row.model,
            row.shape,
            row.kernels,
            row.compile,
            row.recompile,
            row.first,
            row.run,
            row.arena_ratio
        )
        .expect("a string");
        for reference in references {
            let its = reference.runs.get(&row.model).cloned().unwrap_or_default();
            let (first, run) = (results::shown(its.first_ms, 1), results::shown(its.run_ms, 3));
            let ratio = results::ratio(Some(row.run), its.run_ms);
            write!(out, " {first} | {run} | {ratio} |").expect("a string");
        }
    }
    out.push('\n');
    out
}
