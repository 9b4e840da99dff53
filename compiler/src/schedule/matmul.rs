//! Tiles of the template `matmul.wgsl`: which of them takes the shortest time. Every tuned number of these choices is here.

use super::{kernel::Tile, product::Sizes, tile::limited};
use crate::target::Target;

/// Rows and columns of a block of 32 invocations over a tile.
const BLOCK: [u32; 2] = [4, 8];

/// Sizes of the template `matmul.wgsl`, and how long a workgroup takes on a large GPU.
pub struct Matmul {
    /// Of the results of a workgroup and of an invocation.
    tile: [u32; 2],
    each: [u32; 2],
    depth: u32,
    split: u32,
    buffers: u32,
    /// Microseconds before and after the sums, and what part of a core's multiply-adds a workgroup gets done by itself, and
    /// several on one core together.
    around: f64,
    alone: f64,
    together: f64,
}

const fn matmul(
    tile: [u32; 2],
    each: [u32; 2],
    [depth, split, buffers]: [u32; 3],
    [around, alone, together]: [f64; 3],
) -> Matmul {
    Matmul { tile, each, depth, split, buffers, around, alone, together }
}

/// Times were fitted to those of 35 products and convolutions on a GPU of 132 cores (the mean error is a fifteenth); those of
/// tiles that others beat there, which are for targets with less memory or fewer invocations, and for short sums, are estimates.
const MATMULS: [Matmul; 29] = [
    matmul([128, 256], [8, 16], [16, 1, 1], [20.0, 0.78, 0.78]),
    matmul([128, 128], [8, 8], [16, 1, 2], [8.0, 0.70, 0.66]),
    matmul([128, 128], [8, 8], [16, 1, 1], [8.0, 0.60, 0.74]),
    matmul([128, 128], [8, 8], [8, 1, 2], [5.0, 0.54, 0.72]),
    matmul([128, 128], [8, 8], [8, 1, 1], [6.0, 0.50, 0.64]),
    matmul([128, 64], [8, 8], [8, 2, 2], [3.0, 0.54, 0.60]),
    matmul([128, 64], [8, 8], [8, 1, 2], [4.0, 0.42, 0.70]),
    matmul([64, 128], [8, 8], [8, 2, 2], [3.0, 0.50, 0.60]),
    matmul([64, 128], [8, 8], [8, 1, 2], [4.0, 0.40, 0.60]),
    matmul([64, 64], [8, 8], [16, 4, 1], [6.0, 0.58, 0.56]),
    matmul([64, 64], [8, 8], [8, 4, 2], [3.0, 0.48, 0.58]),
    matmul([64, 64], [8, 8], [8, 2, 1], [4.0, 0.36, 0.50]),
    matmul([64, 64], [8, 4], [16, 2, 1], [1.5, 0.46, 0.54]),
    matmul([64, 64], [4, 4], [16, 1, 2], [1.0, 0.32, 0.46]),
    matmul([64, 64], [4, 4], [8, 1, 2], [1.0, 0.30, 0.42]),
    matmul([32, 64], [8, 4], [16, 4, 1], [3.0, 0.44, 0.46]),
    matmul([32, 64], [4, 4], [16, 2, 1], [1.0, 0.32, 0.44]),
    matmul([32, 64], [8, 4], [8, 2, 2], [3.0, 0.32, 0.40]),
    matmul([32, 64], [4, 4], [8, 1, 2], [1.0, 0.20, 0.36]),
    matmul([32, 32], [8, 4], [16, 8, 1], [3.0, 0.38, 0.40]),
    matmul([32, 32], [4, 4], [16, 4, 1], [1.0, 0.30, 0.34]),
    matmul([32, 32], [4, 4], [8, 2, 2], [1.0, 0.20, 0.30]),
    matmul([32, 32], [4, 4], [8, 1, 2], [1.0, 0.12, 0.26]),
    matmul([16, 32], [8, 4], [8, 16, 1], [1.6, 0.28, 0.26]),
    matmul([16, 32], [4, 4], [16, 8, 1], [2.0, 0.28, 0.26]),
    matmul([16, 32], [4, 4], [8, 8, 2], [2.0, 0.24, 0.24]),
    matmul([16, 32], [4, 4], [8, 4, 2], [1.0, 0.18, 0.22]),
    matmul([16, 32], [4, 4], [8, 2, 2], [1.0, 0.12, 0.20]),
    matmul([16, 32], [4, 4], [8, 1, 2], [1.0, 0.07, 0.16]),
];

/// Cores of that GPU, each of which makes one tile after another: the last ones to be made leave some of them idle.
pub const CORES: usize = 132;

/// Its multiply-adds of each a microsecond, bytes a microsecond from and to memory, and microseconds of a launch.
pub const MULTIPLY_ADDS: f64 = 224_600.0;
pub const BYTES: f64 = 4e6;
pub const LAUNCH: f64 = 3.0;

/// Workgroups one after the other on a core, from which on what is round their sums is hidden behind the sums of others.
const HIDDEN: usize = 3;

/// The tile that takes the shortest time where the target can run any, and the microseconds. Of equals the first.
pub fn fastest(sizes: &Sizes, target: &Target) -> Option<(&'static Matmul, f64)> {
    fitting(sizes, target).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Every tile that the target can run, with the microseconds that it takes.
pub fn fitting(sizes: &Sizes, target: &Target) -> impl Iterator<Item = (&'static Matmul, f64)> {
    MATMULS.iter().filter(|it| it.fits(sizes, target)).map(|it| (it, it.time(sizes)))
}

/// Invocations and bytes of workgroup memory of a tile, or why it is none of the template.
pub fn fault(tile: &Tile) -> Result<(u32, u32), &'static str> {
    let Tile::Matmul {
        rows, cols, depth, rows_each, cols_each, block_rows, block_cols, split, buffers, ..
    } = *tile
    else {
        return Err("another template");
    };
    let sizes = [rows, cols, depth, rows_each, cols_each, split, buffers, block_rows, block_cols];
    let sane = sizes.iter().all(|it| (1..=1 << 12).contains(it));
    if !sane || rows_each.max(cols_each) > 64 || sizes[..5].iter().any(|it| !it.is_multiple_of(4)) {
        return Err("tiles are no multiples of fours");
    }
    if !rows.is_multiple_of(rows_each) || !cols.is_multiple_of(cols_each) {
        return Err("tiles are no multiples of an invocation's");
    }
    let (down, across) = (rows / rows_each, cols / cols_each);
    if !down.is_multiple_of(block_rows) || !across.is_multiple_of(block_cols) {
        return Err("blocks of invocations do not fill a tile");
    }
    let it = matmul([rows, cols], [rows_each, cols_each], [depth, split, buffers], [0.0; 3]);
    // What is below fits 64 bits where it does not fit 32.
    let slabs = u64::from(buffers * depth) * u64::from(rows + cols + 8);
    let large = u64::from(down * across) * u64::from(split) > 1 << 20 || slabs * u64::from(split) > 1 << 28;
    if large { Err("more than any workgroup has") } else { Ok((it.invocations(), it.memory())) }
}

impl Matmul {
    fn invocations(&self) -> u32 {
        self.tile[0] / self.each[0] * (self.tile[1] / self.each[1]) * self.split
    }

    /// Bytes of workgroup memory, as `matmul.wgsl` counts them.
    fn memory(&self) -> u32 {
        let [rows, cols] = self.tile;
        let slabs = self.buffers * self.depth * (rows + cols + 8);
        let sums = if self.split > 1 { 4 * rows / self.each[0] * cols } else { 0 };
        4 * self.split * slabs.max(sums)
    }

    /// Microseconds that a large GPU takes.
    fn time(&self, sizes: &Sizes) -> f64 {
        let [rows, cols] = self.tile;
        let turns = sizes.tiles(self.tile).div_ceil(CORES);
        let rate = MULTIPLY_ADDS * if turns > 1 { self.together } else { self.alone };
        let sums = turns as f64 * f64::from(rows * cols) * sizes.depth as f64 / rate;
        let memory = (sizes.results() * 8) as f64 / BYTES;
        LAUNCH + sums.max(memory) + turns.min(HIDDEN) as f64 * self.around
    }

    /// Whether the target can run it, and every group of invocations has at least two slabs to add up.
    fn fits(&self, sizes: &Sizes, target: &Target) -> bool {
        self.invocations() <= limited(u32::MAX, target)
            && self.memory() <= target.max_workgroup_memory
            && (self.split == 1 || sizes.depth >= 2 * (self.split * self.depth) as usize)
    }

    pub fn tile(&self, [a_along_rows, b_along_cols]: [bool; 2], target: &Target) -> Tile {
        let &Matmul { tile: [rows, cols], each: [rows_each, cols_each], depth, split, buffers, .. } = self;
        let (down, across) = (rows / rows_each, cols / cols_each);
        // Invocations of a subgroup that form a block read fewer elements than those in a line.
        let (block_rows, block_cols) = match down % BLOCK[0] == 0 && across % BLOCK[1] == 0 {
            true => (BLOCK[0], BLOCK[1]),
            false => (1, across),
        };
        Tile::Matmul {
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            block_rows,
            block_cols,
            a_along_rows,
            b_along_cols,
            split,
            buffers,
            scalars: !target.components_apart,
        }
    }
}
