//! `wgfuse demo`: a trained classifier of handwritten digits and its 450 test digits, both part of this program.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use wgfuse::{KernelTime, Model, Session, Tensor};

use crate::{
    bench,
    open::{self, DeviceChoice},
    print::{self, Align, Table, say},
    progress::progress,
    tensor_file,
};

static MODEL: &[u8] = include_bytes!("../assets/digits.onnx");
static TEST_SET: &[u8] = include_bytes!("../assets/test_set.safetensors");

#[derive(clap::Args)]
pub struct Args {
    /// auto, gpu, cpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// For programs: one JSON object, times in seconds
    #[arg(long)]
    json: bool,
}

const SIDE: usize = 8;
const CLASSES: usize = 10;
/// Digits shown in a row; four fit 80 columns.
const SHOWN: usize = 4;

/// Images, what they are, and the probabilities that the model had when it was trained.
struct TestSet {
    images: Tensor,
    pixels: Vec<f32>,
    labels: Vec<i64>,
    probabilities: Vec<f32>,
}

pub fn demo(args: Args) -> Result<()> {
    let set = test_set().context("the embedded digits")?;
    let device = open::device(args.device)?;
    let start = Instant::now();
    let model = Model::from_bytes(MODEL).context("the embedded model")?;
    let session = Session::new(&model, &device)?;
    let input = model.inputs.first().context("the embedded model takes an image")?.name.clone();
    let given = [(input.as_str(), set.images.clone())];
    let run = || -> Result<Vec<f32>> {
        let outputs = session.run(&given)?;
        let values = outputs.iter().next().and_then(|(_, it)| it.to_f32());
        values.filter(|it| it.len() == set.probabilities.len()).context("one probability a digit and class")
    };
    let first = {
        let _progress = progress("compiling");
        run()?;
        start.elapsed().as_secs_f64()
    };
    let start = Instant::now();
    let found = run()?;
    let replay = start.elapsed().as_secs_f64();
    let kernels = bench::profile(&session, &given)?.kernels;

    let said: Vec<usize> = found.chunks_exact(CLASSES).map(largest).collect();
    let right = |at: &usize| said[*at] as i64 == set.labels[*at];
    let count = (0..said.len()).filter(right).count();
    let apart = found.iter().zip(&set.probabilities).map(|(a, b)| (a - b).abs());
    // NaN must not look like agreement.
    let apart = apart.fold(0.0, |most: f32, it| if it.is_nan() || it > most { it } else { most });

    if args.json {
        print::json(&json!({
            "device": open::describe(&device),
            "digits": said.len(),
            "right": count,
            "largest_difference": apart,
            "first_answer": first,
            "replay": replay,
            "kernels": kernels.iter().map(|it| json!({
                "name": it.name,
                "ops": it.ops,
                "place": wgfuse::report::place(it.place),
                "bytes": it.bytes,
                "seconds": it.seconds,
            })).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    say!("Handwritten digits, {SIDE}x{SIDE} pixels each, through a small convolutional network.\n");
    say!("device      {}", device.name());
    if let Some(reason) = device.disabled_reason() {
        say!("            because {reason}");
    }
    open::steps_down(&session).iter().for_each(|it| say!("            {}", it.reason));
    let percent = 100.0 * count as f64 / said.len() as f64;
    say!("right       {count} of {} ({percent:.1} %)", said.len());
    say!("difference  at most {apart:.1e} from the probabilities known for them");
    say!(
        "time        first answer {}, every further one {} for all {} digits",
        print::seconds(first),
        print::seconds(replay),
        said.len()
    );
    say!("\nSome that it reads right:\n");
    // One of each of the first few digits.
    let some = (0..SHOWN as i64)
        .filter_map(|digit| (0..said.len()).find(|it| said[*it] as i64 == digit && right(it)));
    gallery(&some.collect::<Vec<_>>(), &set, &found);
    let wrong: Vec<usize> = (0..said.len()).filter(|it| !right(it)).take(SHOWN).collect();
    if !wrong.is_empty() {
        say!("\nSome that it reads wrong:\n");
        gallery(&wrong, &set, &found);
    }
    say!("\nKernels, each of them one launch for all digits:\n");
    kernel_table(&kernels).print();
    say!("\nNext: wgfuse inspect MODEL.onnx, wgfuse bench MODEL.onnx, wgfuse devices");
    Ok(())
}

fn test_set() -> Result<TestSet> {
    let tensors = tensor_file::named(TEST_SET)?;
    let find = |name: &str| {
        let found = tensors.iter().find(|it| it.0 == name);
        found.map(|it| it.1.clone()).with_context(|| format!("no tensor '{name}'"))
    };
    let images = find("image")?;
    Ok(TestSet {
        pixels: images.to_f32().context("images are f32")?,
        images,
        labels: find("label")?.to_i64(),
        probabilities: find("probability")?.to_f32().context("probabilities are f32")?,
    })
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
}

/// Digits side by side, and below each what the model takes it for.
fn gallery(which: &[usize], set: &TestSet, found: &[f32]) {
    const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
    const WIDTH: usize = 2 * SIDE;
    let across = |cell: &dyn Fn(usize) -> String| {
        let cells = which.iter().map(|at| format!("{:<WIDTH$}", cell(*at)));
        say!("  {}", cells.collect::<Vec<_>>().join("   ").trim_end());
    };
    for y in 0..SIDE {
        across(&|at| {
            let row = &set.pixels[(at * SIDE + y) * SIDE..][..SIDE];
            let shade = |it: &f32| SHADES[((it * SHADES.len() as f32) as usize).min(SHADES.len() - 1)];
            // Characters are twice as tall as wide.
            row.iter().flat_map(|it| [shade(it); 2]).collect()
        });
    }
    say!("");
    let ranked = |at: usize| {
        let row = &found[at * CLASSES..][..CLASSES];
        let mut order: Vec<usize> = (0..CLASSES).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.into_iter().map(|it| (it, 100.0 * row[it])).collect::<Vec<_>>()
    };
    across(&|at| format!("is a {}", set.labels[at]));
    for place in 0..2 {
        across(&|at| {
            let (digit, percent) = ranked(at)[place];
            format!("{} {digit}: {percent:5.1} %", ["read", "  or"][place])
        });
    }
}

fn kernel_table(kernels: &[KernelTime]) -> Table {
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("fused", Align::Left),
        ("bytes", Align::Right),
        ("time", Align::Right),
    ])
    .give(1);
    for it in kernels {
        let cells = [it.name.clone(), it.ops.join(" + "), print::bytes(it.bytes), print::seconds(it.seconds)];
        table.row(cells.to_vec());
    }
    table
}
