//! A report of the GPU suite, beside a reference's, as text for people and RESULTS.md.

use std::collections::BTreeSet;

use crate::{
    kernels, models,
    results::{Report, Run, Table, ratio, shown},
};

/// The section of RESULTS.md that the text belongs to.
pub fn heading(report: &Report) -> String {
    format!("{}, `gpu`", report.device)
}

pub fn text(report: &Report, reference: Option<&Report>) -> String {
    let mut text = format!("{}\n\n", report.machine);
    if let (Some(copy), Some(arithmetic)) = (report.copy, report.arithmetic) {
        let (copy, arithmetic) = (copy / 1e9, arithmetic / 1e12);
        text += &format!(
            "Copying: {copy:.0} GB/s; f32 multiply-adds by the shader cores: {arithmetic:.1} TFLOP/s."
        );
    }
    if let Some(it) = reference {
        text += &format!(" Reference: {}. Ratios are times over the reference's.", it.name);
    }
    text += "\n";
    let kernels = kernel_table(report, reference);
    if !kernels.is_empty() {
        text += &format!("\n{}", kernels.text());
    }
    let models = model_table(report, reference);
    if !models.is_empty() {
        text += &format!("\n{MODEL_COLUMNS}\n\n{}", models.text());
    }
    let replays = replay_table(report);
    if !replays.is_empty() {
        text += &format!("\n{REPLAY_COLUMNS}\n\n{}", replays.text());
    }
    text
}

/// In the order of the suite; workloads that it does not know any more come last.
fn ordered(report: &Report) -> impl Iterator<Item = (&str, &Run)> {
    let sizes = [false, true];
    let kernels = sizes.iter().flat_map(|&small| kernels::all(small)).map(|it| it.name);
    let models = sizes.iter().flat_map(|&small| models::all(small)).map(|it| it.name);
    let known: Vec<String> = kernels.chain(models).collect();
    let mut seen = BTreeSet::new();
    let all = known.iter().chain(report.runs.keys()).filter_map(|it| report.runs.get_key_value(it));
    let all: Vec<_> = all.filter(|it| seen.insert(it.0)).map(|(name, run)| (name.as_str(), run)).collect();
    all.into_iter()
}

fn kernel_table(report: &Report, reference: Option<&Report>) -> Table {
    let titles = ["workload", "dispatches", "us", "rate", "of copy", "error"];
    let mut header: Vec<String> = titles.map(str::to_owned).into();
    if reference.is_some() {
        header.extend(["reference, us".to_owned(), "ratio".to_owned()]);
    }
    let mut table = Table::new(header);
    for (name, run) in ordered(report).filter(|it| it.1.bytes.or(it.1.operations).is_some()) {
        let (rate, unit) = rate(run);
        let of_copy = run.bytes.and(report.copy).map(|copy| rate * 1e9 / copy * 100.0);
        let mut cells = vec![
            name.to_owned(),
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

fn model_table(report: &Report, reference: Option<&Report>) -> Table {
    let titles = [
        "model",
        "dispatches",
        "gpu, ms",
        "run, ms",
        "answer, ms",
        "compile, ms",
        "first, ms",
        "MB",
        "error",
    ];
    let mut header: Vec<String> = titles.map(str::to_owned).into();
    if reference.is_some() {
        let titles = [
            "its gpu, ms",
            "ratio",
            "its run, ms",
            "ratio",
            "its answer, ms",
            "ratio",
            "its first, ms",
            "its MB",
        ];
        header.extend(titles.map(str::to_owned));
    }
    let mut table = Table::new(header);
    for (name, run) in ordered(report).filter(|it| it.1.answer_ms.is_some() && it.1.submit_ms.is_none()) {
        let mut cells = vec![
            name.to_owned(),
            run.dispatches.map_or_else(String::new, |it| it.to_string()),
            shown(run.gpu_ms, 3),
            shown(run.run_ms, 3),
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
                shown(its.run_ms, 3),
                ratio(run.run_ms, its.run_ms),
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

fn replay_table(report: &Report) -> Table {
    let mut table =
        Table::new(["replay", "submitted, us", "in a row, us", "answer, us"].map(str::to_owned).into());
    for (name, run) in ordered(report).filter(|it| it.1.submit_ms.is_some()) {
        let us = |time: Option<f64>| shown(time.map(|it| it * 1e3), 0);
        table.row(vec![name.to_owned(), us(run.submit_ms), us(run.queued_ms), us(run.answer_ms)]);
    }
    table
}

const REPLAY_COLUMNS: &str = "What many launches cost that depend on each other and compute next to nothing: until the calling thread has submitted \
    all, just after it waited for another run and, a run, of many that it submits in a row; and until the answer is there.";

const MODEL_COLUMNS: &str = "Models: `gpu` is a run on the device, back to back; `run` a call whose inputs and outputs stay on the \
    device, waited for; `answer` from inputs in host memory to outputs in host memory, waited for; `first` compiles, uploads the weights, makes the pipelines (none kept on disk) and answers once; MB is \
    device memory; the error is that of the last example to the processor in f32.";

/// What a workload does in a second.
pub fn rate(run: &Run) -> (f64, &'static str) {
    let seconds = run.gpu_ms.unwrap_or(f64::NAN) / 1e3;
    match (run.bytes, run.operations) {
        (Some(bytes), _) => (bytes / seconds / 1e9, "GB/s"),
        (None, Some(operations)) => (operations / seconds / 1e12, "TFLOP/s"),
        (None, None) => (f64::NAN, ""),
    }
}
