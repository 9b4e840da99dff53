//! What was asked of sessions and what came of it: numbers that a program reads without listening to anything.
//!
//! Every session counts for itself and for its device. Where a plan was asked for and the session had none yet, exactly one of these
//! is counted: found in memory, found on disk, compiled. Each level of the cache counts a hit, a miss or a bypass with its reason.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Why a plan was neither looked for in a cache of compiled graphs nor kept there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Bypass {
    /// Passes or patterns of the user's own decide about it, and nobody knows what those depend on.
    OwnPasses,
    /// The cache is switched off.
    Off,
    /// Plans for the processor are not kept on disk: compiling them takes no longer than reading.
    Processor,
    /// The compilation is to be shown, step by step.
    Shown,
    /// It takes more room than the cache may fill.
    TooLarge,
    /// The folder cannot be written, or others may write there.
    Unwritable,
}

impl Bypass {
    pub const ALL: [Bypass; 6] = [
        Bypass::OwnPasses,
        Bypass::Off,
        Bypass::Processor,
        Bypass::Shown,
        Bypass::TooLarge,
        Bypass::Unwritable,
    ];
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bypass::OwnPasses => "own passes or patterns decide about the plan",
            Bypass::Off => "the cache is off",
            Bypass::Processor => "the plan is for the processor",
            Bypass::Shown => "the compilation is shown in a folder",
            Bypass::TooLarge => "the plan is too large",
            Bypass::Unwritable => "the folder is not to be used",
        })
    }
}

/// What became of looking for plans at one level of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Found {
    pub hits: u64,
    /// Nothing was there, or what was there was damaged, foreign or of another version.
    pub misses: u64,
    /// By `Bypass::ALL`.
    bypasses: [u64; Bypass::ALL.len()],
}

impl Found {
    /// How often this level was passed by for this reason.
    pub fn bypassed(&self, why: Bypass) -> u64 {
        self.bypasses[why as usize]
    }

    /// The reasons that there were, and how often each.
    pub fn bypasses(&self) -> impl Iterator<Item = (Bypass, u64)> {
        Bypass::ALL.into_iter().zip(self.bypasses).filter(|it| it.1 > 0)
    }
}

/// Counters of a session (`Session::tally`), or of all sessions of a device (`Device::tally`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Tally {
    /// Runs that gave outputs, those that handed inputs through too.
    pub runs: u64,
    /// Runs of graphs without any operation: neither a plan nor a device was needed.
    pub handed_through: u64,
    /// Plans compiled.
    pub compiled: u64,
    /// The cache that the sessions of a process share.
    pub memory: Found,
    /// The cache that processes share.
    pub disk: Found,
}

#[derive(Default, Debug)]
pub(crate) struct Tallies {
    pub runs: AtomicU64,
    pub handed_through: AtomicU64,
    pub compiled: AtomicU64,
    pub memory: Level,
    pub disk: Level,
    /// Whoever counts all that is counted here too.
    all: Option<Arc<Tallies>>,
}

#[derive(Default, Debug)]
pub(crate) struct Level {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    bypasses: [AtomicU64; Bypass::ALL.len()],
}

impl Level {
    #[cfg(feature = "compiler")]
    pub fn bypass(&self, why: Bypass) -> &AtomicU64 {
        &self.bypasses[why as usize]
    }

    fn found(&self) -> Found {
        Found {
            hits: read(&self.hits),
            misses: read(&self.misses),
            bypasses: std::array::from_fn(|at| read(&self.bypasses[at])),
        }
    }
}

impl Tallies {
    pub fn within(all: &Arc<Tallies>) -> Tallies {
        Tallies { all: Some(all.clone()), ..Tallies::default() }
    }

    /// One more of what `which` points to.
    pub fn count(&self, which: impl Fn(&Tallies) -> &AtomicU64) {
        which(self).fetch_add(1, Ordering::Relaxed);
        if let Some(all) = &self.all {
            all.count(which);
        }
    }

    pub fn tally(&self) -> Tally {
        Tally {
            runs: read(&self.runs),
            handed_through: read(&self.handed_through),
            compiled: read(&self.compiled),
            memory: self.memory.found(),
            disk: self.disk.found(),
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
