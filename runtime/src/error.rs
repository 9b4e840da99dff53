//! What can go wrong while running: the model or the input, the device, or a file.

use std::path::PathBuf;

use wgfuse_compiler::dtype::DType;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model or an input is at fault.
    #[error(transparent)]
    Model(#[from] wgfuse_compiler::error::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What a state held is gone: with the device, or with a run that was given up. Runs fail so until every lost state is set
    /// (`Session::set_state`), or all are reset (`Session::reset_states`).
    #[error("the state '{state}' is lost: {why}")]
    StateLost { state: String, why: String },
    /// An environment variable that wgfuse reads says what it cannot say.
    #[error("{name}: {what}")]
    Setting { name: String, what: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error("no such adapter: {0}")]
    NoAdapter(String),
    /// The next run opens the device again, unless it is the application's own (`Device::from_wgpu`): then every run fails.
    #[error("the device was lost: {0}")]
    Lost(String),
    /// What was to be made and had no room. Where `Options::fallback` allows it, further runs of the same shapes use the
    /// processor instead of the GPU.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),
    /// The driver refused something that the compiler made.
    #[error("the driver refused {at}: {what}")]
    Refused { at: String, what: String },
}

/// Who is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    Model,
    Input,
    Device,
    Io,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Model(wgfuse_compiler::error::Error::Input { .. }) | Error::Setting { .. } => {
                ErrorKind::Input
            }
            Error::Model(_) => ErrorKind::Model,
            Error::Device(_) | Error::StateLost { .. } => ErrorKind::Device,
            Error::Io { .. } => ErrorKind::Io,
        }
    }

    pub(crate) fn input(input: &str, what: impl Into<String>) -> Error {
        Error::Model(wgfuse_compiler::error::Error::input(input, what))
    }

    /// An element of an input or state is larger than its device form.
    pub(crate) fn unfit(input: &str, element: usize, dtype: DType) -> Error {
        Error::input(
            input,
            format!("element {element} does not fit 32 bits, which is what {dtype} has on the GPU"),
        )
    }
}
