//! The project's own chores, run as `cargo xtask <command>`.

mod setup;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
The project's chores.

Usage: cargo xtask <command>

Commands:
  test    Set up what the tests need (a Vulkan driver, the WebAssembly target, ONNX's test suite), then run them
          all: the WebAssembly build, the whole suite, the tests of kernels once more with checked kernels, and
          ONNX's backend test suite against the lists in tests/onnx
  help    Show this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test::test(),
        [] | ["help" | "-h" | "--help"] | ["test", "-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("xtask: no such command: {}\n\n{HELP}", args.join(" "));
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
