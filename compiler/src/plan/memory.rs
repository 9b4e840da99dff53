//! Lifetimes to offsets. In: how many bytes each tensor needs and from which step to which it is live. Out: a buffer and
//! an offset for each. Two tensors that are live at one step never share a byte; offsets are aligned; no tensor straddles
//! buffers; no buffer is larger than allowed.

use std::cmp::Reverse;

/// Bytes that are needed from step `first` to step `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packing {
    /// Number of the buffer, and the offset in it, of each life.
    pub spots: Vec<(usize, u64)>,
    pub sizes: Vec<u64>,
}

impl Life {
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn steps(&self) -> u64 {
        (self.last - self.first + 1) as u64
    }
}

/// Largest sum of bytes, each rounded up to `alignment`, that are live at one step: no packing is smaller.
pub fn peak(lives: &[Life], alignment: u64) -> u64 {
    let steps = lives.iter().map(|it| it.last + 1).max().unwrap_or(0);
    let mut change = vec![0i128; steps + 1];
    for life in lives {
        let bytes = life.bytes.next_multiple_of(alignment) as i128;
        change[life.first] += bytes;
        change[life.last + 1] -= bytes;
    }
    let live = change.into_iter().scan(0i128, |sum, it| {
        *sum += it;
        Some(*sum)
    });
    live.max().unwrap_or(0) as u64
}

/// The smallest of several greedy packings, or the number of a life that is larger than `largest`, the size that no
/// buffer may exceed.
pub fn pack(lives: &[Life], alignment: u64, largest: u64) -> Result<Packing, usize> {
    if let Some(at) = lives.iter().position(|it| it.bytes > largest) {
        return Err(at);
    }
    let least = peak(lives, alignment);
    let mut best: Option<(u64, Packing)> = None;
    let weights: [fn(&Life) -> u64; 4] =
        [|it| it.bytes, |it| it.bytes.saturating_mul(it.steps()), |it| it.steps(), |_| 0];
    // Where the plain orders leave gaps, shuffled ones are tried for about as long as a packing of a thousand lives takes.
    let shuffles = (1_000_000 / (lives.len() * lives.len()).max(1)).min(100);
    for turn in 0..weights.len() + shuffles {
        let weigh = weights.get(turn).unwrap_or(&weights[turn % 2]);
        let mut turns: Vec<usize> = (0..lives.len()).collect();
        turns.sort_by_cached_key(|&at| {
            let noise = if turn < weights.len() { 0 } else { scramble(turn, at) % 48 };
            (Reverse(weigh(&lives[at]) as u128 * (64 - noise) as u128), lives[at].first)
        });
        let packing = place(lives, &turns, alignment, largest);
        let size = packing.sizes.iter().sum();
        if best.as_ref().is_none_or(|(least, _)| size < *least) {
            best = Some((size, packing));
        }
        // Within a few hundredths of the bound nothing worth having is left.
        if best.as_ref().is_some_and(|(size, _)| *size <= least + least / 16) {
            break;
        }
    }
    Ok(best.expect("at least one order").1)
}

/// Equal arguments, equal noise.
fn scramble(turn: usize, at: usize) -> u64 {
    let mut bits = (turn as u64) << 32 ^ at as u64;
    for _ in 0..2 {
        bits = (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    bits ^ bits >> 32
}

/// Each life in turn goes where the gap between those already placed fits it best, in the first buffer that has room.
fn place(lives: &[Life], turns: &[usize], alignment: u64, largest: u64) -> Packing {
    let mut buffers: Vec<Vec<usize>> = Vec::new();
    let mut spots = vec![(0, 0); lives.len()];
    let mut sizes: Vec<u64> = Vec::new();
    for &at in turns {
        let life = &lives[at];
        let found = buffers.iter().enumerate().find_map(|(buffer, placed)| {
            let mut taken: Vec<(u64, u64)> = (placed.iter())
                .filter(|&&it| lives[it].meets(life))
                .map(|&it| (spots[it].1, spots[it].1 + lives[it].bytes))
                .collect();
            taken.sort_unstable();
            Some((buffer, gap(&taken, life.bytes, alignment, largest)?))
        });
        let (buffer, offset) = found.unwrap_or_else(|| {
            buffers.push(Vec::new());
            sizes.push(0);
            (buffers.len() - 1, 0)
        });
        buffers[buffer].push(at);
        spots[at] = (buffer, offset);
        sizes[buffer] = sizes[buffer].max(offset + life.bytes);
    }
    Packing { spots, sizes }
}

/// The offset of the smallest gap between `taken`, sorted, that holds `bytes`; the end counts as a gap that is used last.
fn gap(taken: &[(u64, u64)], bytes: u64, alignment: u64, largest: u64) -> Option<u64> {
    let mut best: Option<(u64, u64)> = None;
    let mut free = 0u64;
    for &(start, end) in taken {
        if let Some(room) = start.checked_sub(free).filter(|&it| bytes <= it)
            && best.is_none_or(|(least, _)| room < least)
        {
            best = Some((room, free));
        }
        free = free.max(end.next_multiple_of(alignment));
    }
    match best {
        Some((_, offset)) => Some(offset),
        None => (free.checked_add(bytes)? <= largest).then_some(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lives: &[Life], alignment: u64, largest: u64, what: &str) -> Packing {
        let packing = pack(lives, alignment, largest).expect(what);
        for (at, a) in lives.iter().enumerate() {
            let (buffer, offset) = packing.spots[at];
            assert_eq!(offset % alignment, 0, "{what}");
            assert!(offset + a.bytes <= packing.sizes[buffer], "{what}");
            assert!(packing.sizes[buffer] <= largest, "{what}");
            for (other, b) in lives.iter().enumerate().skip(at + 1) {
                let (its_buffer, its_offset) = packing.spots[other];
                let apart = buffer != its_buffer
                    || a.last < b.first
                    || b.last < a.first
                    || offset + a.bytes <= its_offset
                    || its_offset + b.bytes <= offset;
                assert!(apart, "{what}: {a:?} and {b:?} share bytes");
            }
        }
        packing
    }

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % below
        }
    }

    #[test]
    fn random_lives_never_meet() {
        for seed in 0..200 {
            let mut next = random(seed);
            let count = 1 + next(60) as usize;
            let lives: Vec<Life> = (0..count)
                .map(|_| {
                    let first = next(80) as usize;
                    Life { bytes: next(5000), first, last: first + next(12) as usize }
                })
                .collect();
            let alignment = 1 << next(9);
            let least = peak(&lives, alignment);
            let whole = check(&lives, alignment, u64::MAX, &format!("seed {seed}"));
            assert!(whole.sizes.len() <= 1, "seed {seed}");
            assert!(whole.sizes.iter().sum::<u64>() <= least * 3 / 2, "seed {seed}");
            check(&lives, alignment, 6000, &format!("seed {seed}, split"));
        }
    }

    /// What a network makes: a value lives until the next layer or the next residual sum.
    #[test]
    fn layers_stay_close_to_the_peak() {
        for seed in 0..200 {
            let mut next = random(seed);
            let mut lives = Vec::new();
            for layer in 0..40 {
                let bytes = 256 * (1 + next(64));
                let last = layer + 1 + if next(3) == 0 { next(5) as usize } else { 0 };
                lives.push(Life { bytes, first: layer, last });
            }
            let packing = check(&lives, 256, u64::MAX, &format!("seed {seed}"));
            let (size, least) = (packing.sizes[0], peak(&lives, 256));
            assert!(size * 10 <= least * 12, "seed {seed}: {size} for a peak of {least}");
        }
    }

    #[test]
    fn what_fits_no_buffer_is_named() {
        let life = |bytes| Life { bytes, first: 0, last: 0 };
        assert_eq!(pack(&[life(10), life(101)], 4, 100), Err(1));
    }
}
