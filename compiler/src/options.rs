//! What the user decides about a compilation.

use std::{fmt, sync::Arc};

use crate::{error::Error, graph::Graph, replacement::Replacement, text::spelled};

pub use crate::replacement::Hook;

/// What happens to a part that the GPU cannot run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fallback {
    /// It runs on the CPU and is reported.
    #[default]
    Cpu,
    /// It is an error that names the node.
    Error,
}

spelled!(enum Fallback { Cpu "cpu"; Error "error"; });

#[derive(Clone, Debug)]
pub struct Options {
    pub fallback: Fallback,
    /// Build kernels with every run-time check: indices, loops, divisors. For finding faults, not for speed.
    pub checked: bool,
    /// Off: every nest is a kernel of its own. For finding faults.
    pub fuse: bool,
    /// Names of passes to leave out. For finding faults.
    pub without_passes: Vec<String>,
    /// Only so many rewrites, of all passes together, are done. For finding faults.
    pub rule_limit: Option<u64>,
    /// Only rewrites that keep every bit of the result. For finding faults.
    pub exact: bool,
    /// Products of f32 may run on cooperative matrices of f16, each number as a pair of them, where the target has such matrices:
    /// about as exact as f32, and faster. Off: in f32 alone.
    pub pairs: bool,
    /// The user's own passes; those at one place run in this order.
    pub passes: Vec<UserPass>,
    /// The user's own patterns; those at one place are tried in this order, behind the passes there.
    pub patterns: Vec<Replacement>,
    /// Largest sum of bytes that one compiled shape may ask for; one that asks for more is an `Error::MemoryLimit`.
    pub memory_limit: u64,
    /// The most operations on elements, as `Plan::work` counts them, that one compiled shape and all stretches of one run may ask for;
    /// more is an `Error::WorkLimit`.
    pub work_limit: u64,
    /// The most turns that all loops of one run take together; a run with more is an error. A loop whose condition never changes
    /// would have no end.
    pub turn_limit: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fallback: Fallback::Cpu,
            checked: false,
            fuse: true,
            without_passes: Vec::new(),
            rule_limit: None,
            exact: false,
            pairs: true,
            passes: Vec::new(),
            patterns: Vec::new(),
            memory_limit: 64 << 30,
            work_limit: u64::MAX,
            turn_limit: 1 << 24,
        }
    }
}

/// A graph to a graph of the same inputs and outputs.
pub type PassFn = dyn Fn(&Graph) -> Result<Graph, Error> + Send + Sync;

/// A pass of the user's own. What it returns is verified; a broken graph is an error that names the pass.
#[derive(Clone)]
pub struct UserPass {
    pub name: String,
    pub at: Hook,
    pub run: Arc<PassFn>,
}

impl fmt::Debug for UserPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPass").field("name", &self.name).field("at", &self.at).finish_non_exhaustive()
    }
}
