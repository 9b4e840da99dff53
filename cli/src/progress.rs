//! A spinner on standard error for work that takes longer than a second. Not on a terminal: nothing.

use std::{fmt::Write, time::Duration};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Work in progress; the spinner goes when it is dropped.
pub struct Progress(ProgressBar);

pub fn progress(what: impl Into<String>) -> Progress {
    let what = what.into();
    let style = ProgressStyle::with_template("{line}").expect("a valid template").with_key(
        "line",
        move |state: &ProgressState, out: &mut dyn Write| {
            if state.elapsed() > SHOWN_AFTER {
                let of = match state.len() {
                    Some(len) if len > 0 => format!(", {} of {len}", state.pos()),
                    _ => String::new(),
                };
                let turn = ["|", "/", "-", "\\"][state.elapsed().as_millis() as usize / 150 % 4];
                // A terminal that is gone is no reason to stop the work.
                let _ = write!(out, "{turn} {what}{of} ({:.0} s)", state.elapsed().as_secs_f64());
            }
        },
    );
    let bar = ProgressBar::no_length().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(150));
    Progress(bar)
}

impl Progress {
    /// `done` of `all` rounds are done.
    pub fn at(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
