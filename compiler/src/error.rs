//! The user's faults, and ours.
//!
//! `Error` is the user's: the model, the input or the device is at fault, and the text says what, where (the
//! node's name in the source file) and what to do. `bug!` is ours: an invariant of the compiler does not hold.

/// What is wrong with a model or with what it was given.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not hold what its format asks for.
    #[error("malformed model: {at}: {what}")]
    Malformed { at: String, what: String },
    /// An operator, or a use of one, that wgfuse does not know.
    #[error("node '{node}': {op} is not supported: {what}")]
    Unsupported { op: String, node: String, what: String },
    /// What the format allows and wgfuse does not know: an element type, a version, a kind of value.
    #[error("{at}: {what}")]
    Foreign { at: String, what: String },
    /// A node whose operands do not fit together.
    #[error("node '{node}': {what}")]
    Node { node: String, what: String },
    /// An input that the model does not take, or one of the wrong type or shape.
    #[error("input '{input}': {what}")]
    Input { input: String, what: String },
    /// More of something (`at` says of what, and where) than the device has or than can be addressed.
    #[error("{at}: {need} are needed, {have} are allowed")]
    TooLarge { at: String, need: u64, have: u64 },
    /// More memory, in bytes, than `Options::memory_limit`.
    #[error("{at}: {need} bytes are needed, the option memory_limit allows {have}")]
    MemoryLimit { at: String, need: u64, have: u64 },
    /// More operations on elements than `Options::work_limit`.
    #[error("{at}: {need} operations on elements are needed, the option work_limit allows {have}")]
    WorkLimit { at: String, need: u64, have: u64 },
    /// A part would have to run on the CPU and the options forbid it.
    #[error("node '{node}' cannot run on the GPU: {reason} (allow it with the fallback option `cpu`)")]
    Fallback { node: String, reason: String },
    /// A pass that the options name and that does not exist, or a pass of the user's own that broke the graph.
    #[error("pass '{pass}': {what}")]
    Pass { pass: String, what: String },
    /// An invariant of the compiler does not hold (`bug!`), or a pass of the user's own panicked; the model is not at fault.
    #[error("{what}")]
    Bug { what: String },
}

impl Error {
    pub fn malformed(at: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Malformed { at: at.into(), what: what.into() }
    }
    pub fn foreign(at: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Foreign { at: at.into(), what: what.into() }
    }
    pub fn node(node: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Node { node: node.into(), what: what.into() }
    }
    pub fn input(input: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Input { input: input.into(), what: what.into() }
    }
    pub fn unsupported(op: impl Into<String>, node: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Unsupported { op: op.into(), node: node.into(), what: what.into() }
    }
}

/// An invariant of the compiler is broken; the model is not at fault.
#[macro_export]
macro_rules! bug {
    ($($arg:tt)*) => { panic!("bug in wgfuse, please report it: {}", format_args!($($arg)*)) };
}
