//! Cases in files: a graph, and below it what each stage makes of it, compared to the letter. Values are compared too, so that
//! no wrong result is blessed.
//!
//! A file of `tests/files/lowering` is a graph's text and then sections, each under a line `==== name`; which ones there are
//! is the file's choice. `BLESS=1` rewrites what stands in the sections that are there.

use std::{fmt::Write, fs, path::PathBuf};

use similar::TextDiff;
use wgfuse_compiler::{
    graph::{
        eval::eval,
        text::{Constants, parse, print},
    },
    lower,
    options::Options,
    schedule,
    target::Target,
    text::Show,
};
use wgfuse_tests::{
    compare::assert_close,
    folder,
    random::Random,
    stages::{Stages, stages},
};

const BLESS: &str = "BLESS=1 cargo test -p wgfuse-tests --test files";
const MARK: &str = "==== ";

fn cases() -> Vec<PathBuf> {
    let folder = folder::tests().join("files/lowering");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    all.sort();
    all
}

/// What `stages` say under the name of a section.
fn section(name: &str, stages: &Stages) -> String {
    let Stages { parts, loops, schedule, plan } = stages;
    match name {
        "passes" => print(&parts.graph, Constants::Small),
        "loops" => loops.to_string(),
        "schedule" => schedule.to_string(),
        "refusals" => schedule.refusals.iter().map(|it| format!("{}\n", Show(it))).collect(),
        "plan" => plan.to_string(),
        "wgsl" => {
            let mut text = String::new();
            for kernel in &plan.kernels {
                let Some(shader) = &kernel.shader else { continue };
                write!(text, "// {}\n{}", kernel.kernel.name, shader.wgsl()).unwrap();
            }
            text
        }
        _ => panic!("there is no section '{name}': passes, loops, schedule, refusals, plan, wgsl"),
    }
}

/// The file as it should be.
fn expected(text: &str, path: &str) -> String {
    let separator = format!("\n{MARK}");
    let mut parts = text.split(&separator);
    let head = parts.next().unwrap_or_default();
    let graph = parse(head).unwrap_or_else(|it| panic!("{path}: {it}"));
    let mut random = Random::new(7);
    let inputs: Vec<_> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 5)).collect();
    let values = eval(&graph, &inputs).unwrap();
    let made = stages(graph, &Target::webgpu_minimum(), &Options::default())
        .unwrap_or_else(|it| panic!("{path}: {it}"));
    let constants = eval(&made.parts.constants, &[]).unwrap();
    assert_close(path, &lower::eval::eval(&made.loops, &inputs, &constants), &values, 1e-5, 1e-6);
    assert_close(path, &schedule::eval::eval(&made.schedule, &inputs, &constants), &values, 1e-5, 1e-6);

    let mut whole = format!("{head}\n");
    for part in parts {
        let name = part.lines().next().unwrap_or_default();
        write!(whole, "{MARK}{name}\n{}", section(name, &made)).unwrap();
    }
    whole
}

#[test]
fn stages_make_what_the_files_say() {
    let bless = std::env::var_os("BLESS").is_some_and(|it| it != "0");
    let mut differences = String::new();
    let mut seen = 0;
    for path in cases() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let have = fs::read_to_string(&path).unwrap();
        let want = expected(&have, &name);
        seen += 1;
        if have != want && bless {
            fs::write(&path, want).unwrap();
        } else if have != want {
            let diff = TextDiff::from_lines(&have, &want);
            let diff = diff
                .unified_diff()
                .context_radius(3)
                .header(&name, "what the compiler makes now")
                .to_string();
            differences += &diff;
        }
    }
    assert!(seen >= 12, "{seen} cases");
    assert!(differences.is_empty(), "{differences}\nIf that is as it should be: {BLESS}");
}
