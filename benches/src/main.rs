//! Speeds, each beside what it is compared to.
//!
//! `cargo run -p wgfuse-benches --release -- gpu`: kernels and whole models on the GPU, checked, then timed.
//! `cargo run -p wgfuse-benches --release -- passes`: the passes over large graphs.
//! `cargo run -p wgfuse-benches --release -- --models DIR`: model files on either device.
//! `cargo run -p wgfuse-benches --release -- compile --models DIR`: how long plans take, compiled and from the caches.
//!
//! What was measured on a machine without these sources is shown here, and kept, by `gpu --from measured.json --write`.
//!
//! References are JSON files that the Python programs beside this one write. Tables go to RESULTS.md with `--write`.

mod random;
mod truth;
mod results;
mod kernels;
mod models;
mod summary;
mod measure;
mod replay;
mod gpu;
mod files;
mod passes;
mod compile;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: files::Args,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Kernels and whole models on the GPU; exit code 2 if any gives wrong values
    Gpu(gpu::Args),
    /// The passes over graphs of 10,000 and 20,000 nodes; exit code 2 if they take longer than they may
    Passes(passes::Args),
    /// How long plans take: compiled, from disk, from memory
    Compile(compile::Args),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        None => files::run(&cli.files),
        Some(Command::Passes(args)) => match passes::run(&args)? {
            true => Ok(()),
            false => std::process::exit(2),
        },
        Some(Command::Compile(args)) => compile::run(&args),
        Some(Command::Gpu(args)) => match gpu::run(&args)? {
            true => Ok(()),
            false => std::process::exit(2),
        },
    }
}
