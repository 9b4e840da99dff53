//! `cargo xtask test`: everything that must pass, and a summary of what ran, what did not, and what it took.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::setup;

enum Outcome {
    /// Counts of tests, where the step has tests.
    Ran { passed: bool, tests: Tests },
    /// The machine lacks something; the text says what.
    NotRun(String),
}

#[derive(Default)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs all; `false` where something failed.
pub fn test() -> Result<bool> {
    let mut steps: Vec<(&str, Outcome, Duration)> = Vec::new();
    let mut step = |name, run: &mut dyn FnMut() -> Result<Outcome>| -> Result<()> {
        println!("\nxtask: {name}");
        let start = Instant::now();
        let outcome = run()?;
        if let Outcome::NotRun(why) = &outcome {
            println!("xtask: not run: {why}");
        }
        steps.push((name, outcome, start.elapsed()));
        Ok(())
    };

    // Every step names the whole workspace: for a part of it cargo would build the dependencies anew, with fewer features.
    step("build", &mut || cargo(&["test", "--workspace", "--no-run"], &[], &[]))?;
    step("an adapter for the kernels", &mut || {
        Ok(match setup::adapter() {
            Ok(()) => Outcome::Ran { passed: true, tests: Tests::default() },
            Err(why) => Outcome::NotRun(format!("kernels are tested on the CPU only: {why}")),
        })
    })?;
    step("WebAssembly build of compiler and runtime", &mut || {
        Ok(match setup::wasm_target() {
            Ok(target) => {
                cargo(&["check", "--target", target, "-p", "wgfuse-compiler", "-p", "wgfuse"], &[], &[])?
            }
            Err(why) => Outcome::NotRun(why),
        })
    })?;
    step("runtime without the compiler", &mut || {
        let example = ["check", "-p", "wgfuse", "--no-default-features", "--example", "embedded"];
        cargo(&example, &[], &[])
    })?;
    step("all tests", &mut || cargo(&["test", "--workspace", "--no-fail-fast"], &[], &[]))?;
    step("tests of kernels, checked and replayed portably", &mut || {
        let env = [("WGFUSE_CHECKED", "1"), ("WGFUSE_REPLAY", "portable")];
        cargo(&["test", "--workspace", "--test", "*", "--no-fail-fast"], &env, &[])
    })?;
    for (name, args) in ONNX_SUITE {
        step(name, &mut || {
            Ok(match setup::onnx_suite() {
                Ok(folder) => onnx_suite(&folder, args)?,
                Err(why) => Outcome::NotRun(why),
            })
        })?;
    }
    step("runs under Vulkan's validation layer", &mut || {
        Ok(match setup::validation_layer() {
            Ok(()) => {
                let tests = ["test", "--workspace", "--test", "running", "--test", "state"];
                cargo(&tests, &VALIDATION, &["VUID-", "SYNC-HAZARD"])?
            }
            Err(why) => Outcome::NotRun(why),
        })
    })?;

    println!("\nsummary");
    for (name, outcome, time) in &steps {
        let (state, more) = match outcome {
            Outcome::Ran { passed, tests } => (
                if *passed { "ok" } else { "FAILED" },
                if tests.any() { tests.text() } else { String::new() },
            ),
            Outcome::NotRun(why) => ("NOT RUN", why.clone()),
        };
        println!("  {state:<8}{:>6.0} s  {name:<54}{more}", time.as_secs_f64());
    }
    let failed = |it: &Outcome| matches!(it, Outcome::Ran { passed: false, .. });
    let ok = !steps.iter().any(|(_, it, _)| failed(it));
    println!("{}", if ok { "test result: ok" } else { "test result: FAILED" });
    Ok(ok)
}

/// Runs of ONNX's backend test suite, each with a list in `tests/onnx` of what every case ends as.
const ONNX_SUITE: [(&str, &[&str]); 3] = [
    ("ONNX's backend test suite on the CPU path", &["--device", "cpu", "--stages"]),
    ("the same on the GPU", &["--device", "gpu"]),
    ("the same on the GPU alone", &["--device", "gpu", "--fallback", "error"]),
];

fn onnx_suite(folder: &Path, args: &[&str]) -> Result<Outcome> {
    // Software drivers keep to the thread that calls: see `cargo`.
    let status = Command::new(setup::built("onnx-suite")?)
        .arg(folder)
        .args(args)
        .env("LP_NUM_THREADS", "0")
        .env_remove("WGFUSE_CHECKED")
        .status()
        .context("onnx-suite did not start")?;
    Ok(Outcome::Ran { passed: status.success(), tests: Tests::default() })
}

/// The layer, and with it its checks of barriers. It prints what it finds, naming the rule. Version 1.3.239 is silent where a barrier
/// is taken out of a recording; that those are enough is for the plan's verifier to say.
const VALIDATION: [(&str, &str); 2] = [
    ("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation"),
    ("VK_LAYER_ENABLES", "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT"),
];

/// Runs cargo, shows what it prints, and adds up the test runners' results. A line with one of `marks` in it is a failure.
fn cargo(args: &[&str], env: &[(&str, &str)], marks: &[&str]) -> Result<Outcome> {
    let mut child = Command::new(cargo_sibling("cargo"))
        .args(args)
        // Small dispatches of the software Vulkan driver are many times faster on the calling thread.
        .env("LP_NUM_THREADS", "0")
        .env_remove("WGFUSE_CHECKED")
        .env_remove("WGFUSE_REPLAY")
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo did not start")?;
    let (mut tests, mut faults) = (Tests::default(), 0);
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(child.stdout.take().expect("piped")).split(b'\n') {
        let mut line = line?;
        let text = String::from_utf8_lossy(&line);
        tests.add(&text);
        faults += u64::from(marks.iter().any(|it| text.contains(it)));
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(Outcome::Ran { passed: child.wait()?.success() && faults == 0, tests })
}

/// A program of the toolchain that runs this one.
pub fn cargo_sibling(name: &str) -> OsString {
    std::env::var_os(name.to_uppercase()).unwrap_or_else(|| name.into())
}

impl Tests {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = counts.split([' ', ';']).filter(|it| !it.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    fn any(&self) -> bool {
        self.passed + self.failed + self.ignored > 0
    }

    fn text(&self) -> String {
        format!("{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::Tests;

    #[test]
    fn results_add_up() {
        let mut tests = Tests::default();
        tests.add("running 3 tests");
        tests.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
        );
        tests.add(
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        assert_eq!(tests.text(), "7 passed, 2 failed, 1 ignored");
    }
}
