//! Attention of few queries, a workgroup for each row of the result: its invocations share the keys.
//!
//! In: the sizes of attention. Out: those of the template `attention_row.wgsl`, or `None` where tiles of rows or pieces of the
//! keys do better. Every tuned number of this choice is here.

use super::{kernel::RowAttention, tile::limited};
use crate::{shape::Shape, target::Target};

/// Queries of a head up to which each has a workgroup, and rows of all heads beyond which tiles fill the device.
const QUERIES: usize = 2;
const ROWS: usize = 256;

/// Keys that are worth a workgroup, and steps that one may take: more are shared out between workgroups.
const FEWEST_KEYS: usize = 128;
const STEPS: usize = 4;

/// Invocations, and keys of which one reads a part ahead; those that take most keys at a time first.
const FORMS: [(u32, u32); 7] = [(512, 16), (512, 8), (256, 16), (256, 8), (256, 4), (128, 8), (128, 4)];

pub fn row(space: &Shape, keys: usize, channels: usize, target: &Target) -> Option<RowAttention> {
    let rows = space[0] * space[1] * space[2];
    if space[2] > QUERIES || keys < FEWEST_KEYS || rows == 0 || rows > ROWS {
        return None;
    }
    let across = fours(channels, space[3]).next_power_of_two();
    let fits = |it: &RowAttention| {
        let step = it.step() as usize;
        it.fault(keys, [channels, space[3]], target).is_none()
            && step <= keys.next_power_of_two()
            && keys.div_ceil(step) <= STEPS
    };
    FORMS.iter().map(|&(size, ahead)| RowAttention { size, across, ahead }).find(fits)
}

/// Vectors of four channels, of queries and of values.
fn fours(channels: usize, value_channels: usize) -> u32 {
    channels.max(value_channels).max(1).div_ceil(4) as u32
}

impl RowAttention {
    /// Keys that a workgroup takes at a time.
    pub fn step(&self) -> u32 {
        self.ahead * (self.size / self.across.max(1))
    }

    /// What of its description does not hold.
    pub fn fault(&self, keys: usize, channels: [usize; 2], target: &Target) -> Option<&'static str> {
        let &RowAttention { size, across, ahead } = self;
        // As `attention_row.wgsl` counts them.
        let sums = (self.step() as u64 * (across as u64 + 1)).max(4 * size as u64);
        let memory = 4 * (4 * channels[0].div_ceil(4) as u64 + keys as u64 + sums) + 8 * 16;
        let checks = [
            (
                across > 0 && ahead > 0 && size.is_multiple_of(across.max(1)),
                "a row's invocations share no keys",
            ),
            (size.is_multiple_of(16), "a row's invocations are no multiple of 16"),
            (across >= fours(channels[0], channels[1]), "channels that nobody has"),
            (size <= limited(u32::MAX, target), "more invocations than there are"),
            (memory <= target.max_workgroup_memory as u64, "more workgroup memory than there is"),
        ];
        checks.into_iter().find(|it| !it.0).map(|it| it.1)
    }
}
