//! The stretches that a run came to, as a table and for programs.

use serde_json::{Value, json};
use wgfuse::{StretchRun, report};

use crate::print::{self, Align, Table};

/// Kernels on the GPU and on the CPU, and bytes that move between them in every run.
fn work(run: &StretchRun) -> (usize, usize, u64) {
    let Some(plan) = &run.plan else { return (0, 0, 0) };
    let gpu = plan.kernels.iter().filter(|it| it.shader.is_some()).count();
    let moved = report::crossings(plan).iter().map(|it| it.bytes).sum();
    (gpu, plan.kernels.len() - gpu, moved)
}

/// A row a stretch, and one more for each further node that it ends at.
pub fn table(runs: &[StretchRun]) -> Table {
    let mut table = Table::new(&[
        ("stretch", Align::Right),
        ("in loops", Align::Right),
        ("on the GPU", Align::Right),
        ("on the CPU", Align::Right),
        ("moved", Align::Right),
        ("ends at", Align::Left),
        ("because", Align::Left),
        ("read there", Align::Right),
    ])
    .give(6);
    for (number, run) in runs.iter().enumerate() {
        let (gpu, cpu, moved) = work(run);
        let mut cells = [
            (number + 1).to_string(),
            run.depth.to_string(),
            gpu.to_string(),
            cpu.to_string(),
            print::bytes(moved),
        ];
        let ends = run.ends.iter().map(|it| [it.node.clone(), it.why.to_string(), print::bytes(it.bytes)]);
        let none = || ["".into(), "nothing is left to do".into(), "".into()];
        let ends: Vec<[String; 3]> = ends.collect();
        for end in if ends.is_empty() { vec![none()] } else { ends } {
            table.row(cells.iter().cloned().chain(end).collect());
            cells = Default::default();
        }
    }
    table
}

pub fn json(runs: &[StretchRun]) -> Vec<Value> {
    let row = |run: &StretchRun| {
        let (gpu, cpu, moved) = work(run);
        let ends = run.ends.iter();
        let ends = ends.map(|it| json!({ "node": it.node, "why": it.why.to_string(), "bytes": it.bytes }));
        json!({
            "in_loops": run.depth,
            "gpu_kernels": gpu,
            "cpu_kernels": cpu,
            "moved_bytes": moved,
            "ends": ends.collect::<Vec<_>>(),
        })
    };
    runs.iter().map(row).collect()
}
