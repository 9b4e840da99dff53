//! What the user decides about a compilation.

/// What happens to a part that the GPU cannot run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fallback {
    /// It runs on the CPU and is reported.
    #[default]
    Cpu,
    /// It is an error that names the node.
    Error,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub fallback: Fallback,
    /// Build kernels with every run-time check: indices, loops, divisors. For finding faults, not for speed.
    pub checked: bool,
    /// Off: every nest is a kernel of its own. For finding faults.
    pub fuse: bool,
    /// Names of passes to leave out. For finding faults.
    pub without_passes: Vec<String>,
    /// Largest sum of bytes that one compiled shape may ask for.
    pub memory_limit: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fallback: Fallback::Cpu,
            checked: false,
            fuse: true,
            without_passes: Vec::new(),
            memory_limit: 64 << 30,
        }
    }
}
