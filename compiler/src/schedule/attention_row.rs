//! Attention of few queries, some workgroups for each row of the result: the invocations of each share the keys.
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

/// Workgroups of a row where there are few rows, most first, and workgroups of all rows up to which that is worth it: each has fewer values
/// to read, and has them on their way before the weights are known, but all read all keys.
const SLICES: [u32; 3] = [4, 2, 1];
const WORKGROUPS: usize = 64;

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
    let slices = SLICES.into_iter().filter(|it| *it == 1 || rows * *it as usize <= WORKGROUPS);
    let form = |(size, ahead)| slices.clone().map(move |slices| RowAttention { size, across, ahead, slices });
    FORMS.into_iter().flat_map(form).find(fits)
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
        let &RowAttention { size, across, ahead, slices } = self;
        // As `attention_row.wgsl` counts them.
        let sums = ((self.step() as u64 + 1) * (across as u64 + 1)).max(5 * size as u64);
        let memory = 4 * (keys as u64 + size as u64 + sums + 16);
        let checks = [
            (
                across > 0 && ahead > 0 && size.is_multiple_of(across.max(1)),
                "a row's invocations share no keys",
            ),
            (size.is_multiple_of(16), "a row's invocations are no multiple of 16"),
            (
                [channels[1].div_ceil(4) as u32, across, ahead]
                    .iter()
                    .all(|it| slices > 0 && it.is_multiple_of(slices)),
                "slices of a row are not of the same size",
            ),
            (across >= fours(channels[0], channels[1]), "channels that nobody has"),
            (size <= limited(u32::MAX, target), "more invocations than there are"),
            (memory <= target.max_workgroup_memory as u64, "more workgroup memory than there is"),
        ];
        checks.into_iter().find(|it| !it.0).map(|it| it.1)
    }
}
