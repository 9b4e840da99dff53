//! wgfuse on the command line: arguments in, exit codes out.
//!
//! 0: all is well. 1: the model, an input or an argument is at fault. 2: values differ from what was expected. 3: the
//! device is at fault.

mod bench;
mod bisect;
mod compile;
mod demo;
mod devices;
mod explain_match;
mod inspect;
mod listen;
mod open;
mod pair;
mod passes;
mod print;
mod progress;
mod replay_args;
mod run;
mod shapes;
mod tally;
mod tensor_file;
mod trace;
mod values;
mod way;

use std::process::ExitCode;

use clap::Parser;
use wgfuse::ErrorKind;

/// Runs tensor programs on any GPU, and on the CPU where there is none.
#[derive(Parser)]
#[command(
    name = "wgfuse",
    version,
    after_help = "\
Exit codes: 0 ok, 1 the model or an input is at fault, 2 the values differ from --expect, 3 the device is at fault"
)]
struct Cli {
    /// Tell each step with its time and counters on standard error; twice: each pass too. RUST_LOG says more exactly what
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Classify handwritten digits with a small trained model that comes with this program
    Demo(demo::Args),
    /// Run a model on tensors from files, and compare its outputs with expected ones
    Run(run::Args),
    /// Show what a model is and what the compiler makes of it
    Inspect(inspect::Args),
    /// Measure the first call, the replay and every kernel of a model
    Bench(bench::Args),
    /// Compile a model to a file that runs without importer and compiler
    Compile(compile::Args),
    /// Compile again, and run again, what WGFUSE_SAVE_ARGS or a debug folder has kept
    ReplayArgs(replay_args::Args),
    /// List what is done to a graph before it is lowered, in order
    Passes(passes::Args),
    /// Find the rewrite or kernel from which a model's results are wrong on a device
    Bisect(bisect::BisectArgs),
    /// Find the smallest part of a model whose results are wrong, and write a folder that repeats it
    Minimise(bisect::MinimiseArgs),
    /// Show where a pattern was found in a model, and why not where it nearly was
    ExplainMatch(explain_match::Args),
    /// List the adapters there are
    Devices(devices::Args),
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Done,
    /// Values differ from the expected ones.
    Differs,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard output or error is no reason to fail.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    let done = listen::listen(cli.verbose).and_then(|()| match cli.command {
        Command::Demo(args) => demo::demo(args).map(|()| Verdict::Done),
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => inspect::inspect(args).map(|()| Verdict::Done),
        Command::Bench(args) => bench::bench(args).map(|()| Verdict::Done),
        Command::Compile(args) => compile::compile(args).map(|()| Verdict::Done),
        Command::ReplayArgs(args) => replay_args::replay_args(args),
        Command::Passes(args) => passes::passes(args).map(|()| Verdict::Done),
        Command::Bisect(args) => bisect::bisect(args),
        Command::Minimise(args) => bisect::minimise(args),
        Command::ExplainMatch(args) => explain_match::explain_match(args).map(|()| Verdict::Done),
        Command::Devices(args) => devices::devices(args).map(|()| Verdict::Done),
    });
    match done {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Differs) => ExitCode::from(2),
        Err(error) => {
            eprintln!("wgfuse: {error:#}");
            let kind = error.chain().find_map(|it| it.downcast_ref::<wgfuse::Error>()).map(|it| it.kind());
            ExitCode::from(if kind == Some(ErrorKind::Device) { 3 } else { 1 })
        }
    }
}
