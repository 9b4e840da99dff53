//! An allocator with a bound: what asks for more gets nothing, so that a program that does not expect this ends at once.
//!
//! A test, or a fuzz target, that installs it (`#[global_allocator]`) shows that no input makes the code under test ask for more.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator, with bounds in bytes.
pub struct Bounded {
    one: usize,
    all: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Bounded {
    /// At most `one` byte at once, at most `all` together.
    pub const fn new(one: usize, all: usize) -> Bounded {
        Bounded { one, all, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// The most that was in use at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Whether there is room for so many bytes more; they count as used if so.
    fn take(&self, size: usize) -> bool {
        if size > self.one {
            return false;
        }
        let used = self.used.fetch_add(size, Relaxed) + size;
        if used > self.all {
            self.used.fetch_sub(size, Relaxed);
            return false;
        }
        self.peak.fetch_max(used, Relaxed);
        true
    }

    fn counted(&self, size: usize, memory: *mut u8) -> *mut u8 {
        if memory.is_null() {
            self.used.fetch_sub(size, Relaxed);
        }
        memory
    }
}

// SAFETY: memory comes from and goes back to `System` with the layouts that callers give; a null pointer says that there is none.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        self.counted(layout.size(), unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !self.take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        self.counted(layout.size(), unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > self.one || size > layout.size() && !self.take(size - layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        let moved = unsafe { System.realloc(memory, layout, size) };
        match moved.is_null() {
            true => drop(self.used.fetch_sub(size.saturating_sub(layout.size()), Relaxed)),
            false => drop(self.used.fetch_sub(layout.size().saturating_sub(size), Relaxed)),
        }
        moved
    }
}
