//! How many objects of the graphics API were made: after the first run of a shape the numbers stand still.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub shader_modules: AtomicU64,
    pub pipelines: AtomicU64,
    pub bind_groups: AtomicU64,
    pub buffers: AtomicU64,
}

/// Objects that a device has made so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub shader_modules: u64,
    pub pipelines: u64,
    pub bind_groups: u64,
    pub buffers: u64,
}

impl Counters {
    pub fn counts(&self) -> Counts {
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Counts {
            shader_modules: read(&self.shader_modules),
            pipelines: read(&self.pipelines),
            bind_groups: read(&self.bind_groups),
            buffers: read(&self.buffers),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
