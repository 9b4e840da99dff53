//! Memory that a thread keeps between kernels, and the splitting of work over threads.

use std::cell::RefCell;

/// Alignment of every piece of scratch memory and of the registers in it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Gives `f` at least `bytes` bytes, aligned to 64, of arbitrary content. Uses may nest.
pub fn with<R>(bytes: usize, f: impl FnOnce(*mut u8) -> R) -> R {
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let lines = bytes.div_ceil(64);
    if memory.len() < lines {
        memory = vec![Line([0; 64]); lines];
    }
    let result = f(memory.as_mut_ptr().cast());
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}

/// `f` for every number below `count`, on several threads if `work` (in elementary operations) is worth it. Every number
/// is one unit of work whose result must not depend on the thread.
pub fn each(count: usize, work: usize, f: impl Fn(usize) + Sync) {
    #[cfg(not(target_arch = "wasm32"))]
    if count > 1 && work >= 32_768 {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        return (0..count).into_par_iter().for_each(&f);
    }
    let _ = work;
    (0..count).for_each(f);
}

/// Threads that `each` may use.
pub fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    return rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    return 1;
}

/// A pointer that tasks share; they write to different places.
#[derive(Clone, Copy)]
pub struct Shared(pub *mut u8);

// SAFETY: only an address; whoever dereferences it states why that is sound.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    /// The address. A method, so that closures capture the whole `Shared`.
    pub fn at(self) -> *mut u8 {
        self.0
    }
}
