//! Steps down from the best way to run a graph: each has a reason, is counted, and is logged the first time.

use std::sync::Mutex;

/// Why a graph, or a part of it, does not run in the best way there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DisabledReason {
    #[error("no GPU adapter was found{0}")]
    NoAdapter(String),
    #[error("the adapter lacks {0}")]
    FeatureMissing(String),
    /// `at` says of what, and where.
    #[error("{at}: {need} are needed, the device allows {have}")]
    LimitExceeded { at: String, need: u64, have: u64 },
    #[error("'{name}' holds integers that do not fit 32 bits")]
    DType { name: String },
    #[error("node '{node}': {why}")]
    Operator { node: String, why: String },
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    #[error("the device is out of memory")]
    OutOfMemory,
    #[error("launches are encoded anew by every run: {0}")]
    NotRecorded(String),
    #[error("the CPU was asked for")]
    SwitchedOff,
}

/// A reason and how often it applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disabled {
    pub reason: DisabledReason,
    pub count: u64,
}

#[derive(Default, Debug)]
pub(crate) struct DisabledLog(Mutex<Vec<Disabled>>);

impl DisabledLog {
    pub fn add(&self, reason: DisabledReason) {
        let mut all = self.0.lock().expect("nothing panics inside");
        match all.iter_mut().find(|it| it.reason == reason) {
            Some(it) => it.count += 1,
            None => {
                tracing::warn!("{reason}");
                all.push(Disabled { reason, count: 1 });
            }
        }
    }

    pub fn all(&self) -> Vec<Disabled> {
        self.0.lock().expect("nothing panics inside").clone()
    }
}
