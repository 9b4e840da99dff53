//! What the library tells of its steps, on standard error as each ends: its counters, and how long it was busy.

use anyhow::{Context, Result};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{self, format::FmtSpan},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The environment variable `RUST_LOG` says what is told, by target and level; else `verbose`, from nothing at 0 to every pass at 2.
pub fn listen(verbose: u8) -> Result<()> {
    let asked = std::env::var("RUST_LOG").ok().filter(|it| !it.trim().is_empty());
    let targets = match (asked, verbose) {
        (Some(text), _) => text.parse().with_context(|| format!("RUST_LOG is '{text}'"))?,
        (None, 0) => return Ok(()),
        (None, 1) => told(LevelFilter::INFO),
        (None, _) => told(LevelFilter::DEBUG),
    };
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_timer(fmt::time::uptime())
        .with_span_events(FmtSpan::CLOSE)
        .with_filter(targets);
    tracing_subscriber::registry().with(layer).try_init().context("somebody listens already")
}

/// Of the library's own crates; of others what is wrong.
fn told(level: LevelFilter) -> Targets {
    Targets::new().with_default(LevelFilter::WARN).with_target("wgfuse", level)
}
