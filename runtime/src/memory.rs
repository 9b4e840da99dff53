//! Host memory of a captured plan: zeroed, aligned for every kernel, at one address for as long as it lives; and memory of what
//! runs give, which comes back.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use bytes::Bytes;

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

/// The memory of an output. Once whoever got it has dropped it, the next run fills it again: the first touch of fresh memory
/// takes longer than filling it.
#[derive(Default)]
pub(crate) struct Spare(Option<Arc<Vec<u8>>>);

impl Spare {
    /// `len` bytes, every one of which `fill` sets.
    pub fn bytes(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
        let earlier = self.0.take().and_then(|it| Arc::try_unwrap(it).ok());
        let mut memory = earlier.filter(|it| it.len() == len).unwrap_or_else(|| vec![0; len]);
        fill(&mut memory);
        let memory = Arc::new(memory);
        self.0 = Some(memory.clone());
        Bytes::from_owner(Shared(memory))
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_once_nobody_holds_it() {
        let mut spare = Spare::default();
        let first = spare.bytes(8, |it| it.fill(1));
        let second = spare.bytes(8, |it| it.fill(2));
        assert_eq!((&first[..], &second[..]), (&[1; 8][..], &[2; 8][..]));
        let (at, part) = (second.as_ptr(), second.slice(4..));
        drop(second);
        // A part of it is still held.
        assert_ne!(spare.bytes(8, |it| it.fill(3)).as_ptr(), at);
        assert_eq!(part[..], [2; 4]);
        let third = spare.bytes(8, |it| it.fill(4));
        let at = third.as_ptr();
        drop(third);
        let fourth = spare.bytes(8, |it| it.fill(5));
        assert_eq!((fourth.as_ptr(), &fourth[..]), (at, &[5; 8][..]));
    }
}
