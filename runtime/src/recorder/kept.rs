//! What is kept on disk of the pipelines of one plan: their shaders as SPIR-V, so that no module need be made for them, and
//! what the driver made of those.

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Kept<'a> {
    /// One a pipeline, in order; none where nothing was kept.
    pub shaders: Vec<Vec<u32>>,
    pub driver: &'a [u8],
}

impl Kept<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for words in &self.shaders {
            bytes.extend((words.len() as u32).to_le_bytes());
            bytes.extend(words.iter().flat_map(|it| it.to_le_bytes()));
        }
        bytes.extend(self.driver);
        bytes
    }

    /// With `count` shaders; `None` for bytes that hold fewer.
    pub fn read(mut bytes: &[u8], count: usize) -> Option<Kept<'_>> {
        let mut shaders = Vec::new();
        for _ in 0..count {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let (words, rest) = rest.split_at_checked((u32::from_le_bytes(*len) as usize).checked_mul(4)?)?;
            shaders.push(words.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it)).collect());
            bytes = rest;
        }
        Some(Kept { shaders, driver: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_or_is_refused() {
        let kept = Kept { shaders: vec![vec![1, 2, 3], vec![], vec![u32::MAX]], driver: b"driver" };
        let bytes = kept.bytes();
        assert_eq!(Kept::read(&bytes, 3), Some(kept));
        for len in 0..bytes.len() - b"driver".len() {
            assert_eq!(Kept::read(&bytes[..len], 3), None, "{len}");
        }
    }
}
