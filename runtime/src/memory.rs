//! Host memory of a captured plan: zeroed, aligned for every kernel, at one address for as long as it lives.

use bytemuck::{Pod, Zeroable};

use crate::error::DeviceError;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: bytes without padding; every pattern is a value.
unsafe impl Zeroable for Line {}
unsafe impl Pod for Line {}

/// Bytes that start at a multiple of 64.
pub(crate) struct Lines {
    lines: Vec<Line>,
}

impl Lines {
    pub fn zeroed(len: usize) -> Result<Lines, DeviceError> {
        let lines = bytemuck::allocation::try_zeroed_vec(len.div_ceil(64))
            .map_err(|()| DeviceError::OutOfMemory(format!("{len} bytes on the processor")))?;
        Ok(Lines { lines })
    }

    pub fn copy_of(bytes: &[u8]) -> Result<Lines, DeviceError> {
        let mut lines = Lines::zeroed(bytes.len())?;
        bytemuck::cast_slice_mut(&mut lines.lines)[..bytes.len()].copy_from_slice(bytes);
        Ok(lines)
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }
}
