//! One dispatch with its memory looked up: what both ways of replaying start from.

use std::str::FromStr;

use crate::{
    buffers::Chunk,
    error::{Error, Result},
};

/// How the launches of a session are replayed. The results are the same, bit for bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Replay {
    /// Recorded where the device can, else portable.
    #[default]
    Auto,
    /// Every run encodes its launches through wgpu. Works on every backend.
    Portable,
    /// Launches are recorded once, as a Vulkan command buffer that every run executes inside wgpu's own submission, with
    /// the barriers of the plan and no others. An error where the device is not Vulkan.
    Recorded,
}

impl FromStr for Replay {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Replay, String> {
        match text.trim() {
            "" | "auto" => Ok(Replay::Auto),
            "portable" => Ok(Replay::Portable),
            "recorded" => Ok(Replay::Recorded),
            other => Err(format!("'{other}' is not auto, portable or recorded")),
        }
    }
}

impl Replay {
    /// What `WGFUSE_REPLAY` says.
    pub(crate) fn from_environment() -> Result<Replay> {
        let text = std::env::var("WGFUSE_REPLAY").unwrap_or_default();
        text.parse().map_err(|what| Error::Setting { name: "WGFUSE_REPLAY".into(), what })
    }
}

/// One dispatch.
pub(crate) struct Launch {
    /// Number in `Plan::kernels`.
    pub kernel: usize,
    /// Places and lengths in bytes, by binding.
    pub bindings: Vec<(Chunk, u64)>,
    pub groups: [u32; 3],
    /// Reads or overwrites what launches since the last barrier wrote or read.
    #[cfg_attr(any(target_arch = "wasm32", target_vendor = "apple"), allow(dead_code))]
    pub barrier: bool,
}
