//! How many objects of the graphics API, and how many plans, were made: after the first run of a shape the numbers stand still.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub shader_modules: AtomicU64,
    pub pipelines: AtomicU64,
    pub bind_groups: AtomicU64,
    pub buffers: AtomicU64,
    pub plans: AtomicU64,
}

/// What was made for a device so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub shader_modules: u64,
    pub pipelines: u64,
    pub bind_groups: u64,
    pub buffers: u64,
    /// Plans compiled, not those that were read from disk.
    pub plans: u64,
}

impl Counters {
    pub fn counts(&self) -> Counts {
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Counts {
            shader_modules: read(&self.shader_modules),
            pipelines: read(&self.pipelines),
            bind_groups: read(&self.bind_groups),
            buffers: read(&self.buffers),
            plans: read(&self.plans),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
