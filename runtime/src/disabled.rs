//! Steps down from the best way to run a graph: each has a reason, is counted, and is logged the first time.

use std::sync::Mutex;

use wgfuse_compiler::partition::CpuReason;

/// Why a graph, or a part of it, does not run in the best way there is.
///
/// Some reasons of other systems cannot occur here. Every operator of a graph has kernels of all kinds of devices, so that one which an
/// importer does not know is an error of the model, in words. Inputs that are on the device already are copied to where the plan has
/// them, and graphs are functional, so that nothing can be changed or aliased behind a plan's back; what one run leaves to the next are states.
/// Kernels get tiles that the target's workgroup memory and invocations allow, so that these are exceeded only by artefacts that were compiled
/// for more than the device has.
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
    /// Elements that GPUs cannot hold, or integers that do not fit 32 bits, in a node or constant.
    #[error("'{name}': {why}")]
    DType { name: String, why: String },
    /// The node could run on the GPU, at the price of copies there and back.
    #[error("node '{node}': {why}")]
    Neighbours { node: String, why: String },
    /// Sizes follow from what the node reads, so that the GPU waits until they are known; the node itself may be the processor's.
    #[error(
        "sizes follow from the values that node '{node}' reads: the processor looks at them in the middle of every run"
    )]
    DataDependent { node: String },
    /// The GPU waits for what the processor makes of strings.
    #[error(
        "node '{node}' computes strings, which GPUs do not know: the processor does it in the middle of every run"
    )]
    Strings { node: String },
    /// The GPU waits until the processor knows which way it goes.
    #[error(
        "the values that node '{node}' reads decide what is done next: the processor looks at them in the middle of every run"
    )]
    ControlFlow { node: String },
    /// The GPU waits for the processor in the middle of every run.
    #[error("the processor reads '{tensor}' in the middle of every run")]
    HostRead { tensor: String },
    /// `Session::keep_shapes` says how many.
    #[error(
        "runs have more than {kept} shapes in turns; the one that was used longest ago is compiled anew when it comes back"
    )]
    ShapeBudget { kept: usize },
    #[error("the driver refused what was compiled: {0}")]
    Validation(String),
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    #[error("the device is out of memory")]
    OutOfMemory,
    #[error("launches are encoded anew by every run: {0}")]
    NotRecorded(String),
    #[error("the CPU was asked for")]
    SwitchedOff,
}

impl DisabledReason {
    /// The node, where it is about one.
    pub fn node(&self) -> Option<&str> {
        match self {
            DisabledReason::DType { name: node, .. }
            | DisabledReason::Neighbours { node, .. }
            | DisabledReason::DataDependent { node }
            | DisabledReason::Strings { node }
            | DisabledReason::ControlFlow { node } => Some(node),
            DisabledReason::NoAdapter(_)
            | DisabledReason::FeatureMissing(_)
            | DisabledReason::LimitExceeded { .. }
            | DisabledReason::HostRead { .. }
            | DisabledReason::ShapeBudget { .. }
            | DisabledReason::Validation(_)
            | DisabledReason::DeviceLost(_)
            | DisabledReason::OutOfMemory
            | DisabledReason::NotRecorded(_)
            | DisabledReason::SwitchedOff => None,
        }
    }

    /// Why a node runs on the processor.
    pub(crate) fn of_node(node: &str, why: &CpuReason) -> DisabledReason {
        let (name, said) = (node.to_owned(), why.to_string());
        match why {
            CpuReason::Double { .. } | CpuReason::NoForm { .. } | CpuReason::Wide { .. } => {
                DisabledReason::DType { name, why: said }
            }
            CpuReason::Large { op, need, have } => {
                let at = format!("bytes of a tensor of node '{name}' ({op})");
                DisabledReason::LimitExceeded { at, need: *need, have: *have }
            }
            CpuReason::Seam { .. } => DisabledReason::Neighbours { node: name, why: said },
        }
    }
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
