//! Tiles of the template `matmul_coop.wgsl`: which of them the target can run, how long each takes, and why a product has none. Every
//! tuned number of these choices is here.

use std::fmt::{self, Display, Formatter};

use super::{
    kernel::Tile,
    matmul::{BYTES, CORES, LAUNCH, MULTIPLY_ADDS},
    product::Sizes,
    tile::limited,
};
use crate::target::Target;

/// Sizes of the template, and how long a workgroup takes on a large GPU.
pub struct Cooperative {
    /// Of f16 that an element is made of: 1 or 2.
    parts: u32,
    /// Of the results of a workgroup and of a subgroup.
    tile: [u32; 2],
    each: [u32; 2],
    depth: u32,
    buffers: u32,
    strip: u32,
    /// As those of `Matmul`, in multiples of what a core's invocations multiply and add up in f32.
    around: f64,
    alone: f64,
    together: f64,
}

const fn matrices(
    parts: u32,
    tile: [u32; 2],
    each: [u32; 2],
    [depth, buffers, strip]: [u32; 3],
    [around, alone, together]: [f64; 3],
) -> Cooperative {
    Cooperative { parts, tile, each, depth, buffers, strip, around, alone, together }
}

/// Times were fitted to those of 90 products and convolutions on a GPU of 132 cores with subgroups of 32 (the mean error is a
/// sixth): what is round the sums is hidden behind nothing, because a large workgroup has a core for itself. Smaller tiles of pairs
/// were no faster there than f32 itself. Those that store single matrices fit where both operands lie along the depth. By
/// hand, so that what is faster there is chosen: the tile of slabs of 128 (128 rows), and large pairs together (8192 a side).
const COOPERATIVES: [Cooperative; 17] = [
    matrices(1, [128, 256], [64, 64], [32, 1, 2], [8.0, 5.25, 5.25]),
    matrices(1, [256, 128], [64, 64], [32, 1, 2], [8.0, 4.75, 4.25]),
    matrices(1, [128, 192], [64, 48], [32, 1, 1], [7.0, 4.5, 4.75]),
    matrices(1, [128, 128], [64, 32], [64, 1, 1], [5.0, 4.0, 4.5]),
    matrices(1, [256, 64], [64, 32], [32, 1, 2], [5.0, 3.25, 3.0]),
    matrices(1, [128, 64], [32, 32], [64, 1, 2], [3.5, 2.9, 3.5]),
    matrices(1, [64, 128], [32, 32], [64, 1, 2], [3.0, 3.0, 3.5]),
    matrices(1, [64, 64], [32, 16], [32, 1, 1], [1.5, 1.4, 2.2]),
    matrices(1, [64, 64], [32, 16], [64, 2, 1], [2.5, 2.0, 2.5]),
    matrices(1, [64, 64], [32, 16], [128, 1, 1], [1.5, 2.2, 2.5]),
    matrices(1, [32, 32], [16, 16], [64, 2, 1], [0.75, 0.6, 1.3]),
    matrices(1, [32, 32], [16, 16], [256, 1, 1], [1.5, 0.6, 1.1]),
    matrices(2, [128, 128], [64, 32], [32, 1, 1], [10.0, 1.2, 0.93]),
    matrices(2, [64, 128], [32, 32], [32, 1, 2], [6.0, 1.0, 0.9]),
    matrices(2, [64, 128], [32, 32], [32, 1, 1], [6.0, 1.0, 0.9]),
    matrices(2, [128, 64], [32, 32], [32, 1, 2], [6.0, 0.95, 0.85]),
    matrices(2, [128, 64], [32, 32], [32, 1, 1], [6.0, 0.95, 0.85]),
];

/// Fewer tiles than this, of f16 and of pairs, take longer than invocations that share the depth.
const FEW_TILES: [usize; 2] = [32, 96];

/// Where elements lie apart, each of four is read under a guard of its own: so many fours an invocation, beyond which computing
/// guards and addresses takes longer than anything else. Of pairs none.
const FOURS_APART: u32 = 4;

/// Operands as the template reads them.
#[derive(Clone, Copy)]
pub struct Operands {
    /// f16 that an element is made of.
    pub parts: u32,
    /// Fours of a are neighbours along the rows, fours of b along the columns, not along the depth.
    pub along: [bool; 2],
    /// Neighbours are whole eights.
    pub eights: bool,
    /// Some four is no vector in memory, and its elements may lie outside of a tensor.
    pub apart: bool,
}

/// The tile that takes the shortest time where the target can run any, and the microseconds. Of equals the first.
pub fn fastest(sizes: &Sizes, operands: Operands, target: &Target) -> Option<(&'static Cooperative, f64)> {
    fitting(sizes, operands, target).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Every tile that the target can run and that there are enough of, with the microseconds that it takes.
pub fn fitting(
    sizes: &Sizes,
    operands: Operands,
    target: &Target,
) -> impl Iterator<Item = (&'static Cooperative, f64)> {
    let size = subgroup(target).unwrap_or(0);
    let fits = move |it: &&Cooperative| {
        it.reads(operands, size)
            && sizes.tiles(it.tile) >= it.few()
            && it.fits(sizes, operands.along, size, target)
    };
    COOPERATIVES.iter().filter(fits).map(|it| (it, it.time(sizes)))
}

/// Why a product is not on cooperative matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The target multiplies no matrices of f16 of 16 x 16 in subgroups of one size.
    Target,
    /// An operand has values that neither f16 nor pairs of f16 hold, or pairs are off.
    Operands,
    /// Each element of a window has a guard of its own.
    Apart,
    /// No tile fits the target, or its slab the depth.
    Size,
    /// There are so few tiles.
    Few,
    /// Tiles of f32 are estimated to take less time.
    Slower,
}

impl Display for Why {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Target => "the device multiplies no such matrices",
            Why::Operands => "the factors are not both f16, nor f32 that may be pairs of f16",
            Why::Apart => "the elements of a window are no vectors in memory",
            Why::Size => "no tile fits the product and a workgroup of the device",
            Why::Few => "there would be too few tiles",
            Why::Slower => "f32 is estimated to take less time",
        })
    }
}

/// Why a product that is not on cooperative matrices is not.
pub fn why_not(sizes: &Sizes, operands: Option<Operands>, target: &Target) -> Why {
    let Some(size) = subgroup(target) else { return Why::Target };
    let Some(operands) = operands else { return Why::Operands };
    let mut left: Vec<&Cooperative> = COOPERATIVES.iter().filter(|it| it.reads(operands, size)).collect();
    if left.is_empty() {
        return Why::Apart;
    }
    left.retain(|it| it.fits(sizes, operands.along, size, target));
    if left.is_empty() {
        return Why::Size;
    }
    left.retain(|it| sizes.tiles(it.tile) >= it.few());
    if left.is_empty() { Why::Few } else { Why::Slower }
}

/// The size of all subgroups of a target whose subgroups multiply matrices of 16 x 16.
pub fn subgroup(target: &Target) -> Option<u32> {
    let (least, most) = target.subgroup?;
    let multiplies = target.f16 && target.cooperative.contains(&[16, 16, 16]);
    (multiplies && least == most).then_some(most)
}

/// Invocations and bytes of workgroup memory of a tile, or why it is none of the template, or none that the target can run.
pub fn fault(tile: &Tile, target: &Target) -> Result<(u32, u32), &'static str> {
    let Tile::Cooperative {
        parts,
        rows,
        cols,
        depth,
        rows_each,
        cols_each,
        buffers,
        strip,
        at_once,
        subgroup: size,
        a_along_rows,
        b_along_cols,
    } = *tile
    else {
        return Err("another template");
    };
    let sizes = [rows, cols, rows_each, cols_each, depth];
    if sizes.iter().any(|it| *it == 0 || *it > 1 << 12 || !it.is_multiple_of(16))
        || !rows.is_multiple_of(rows_each)
        || !cols.is_multiple_of(cols_each)
        || !(1..=2).contains(&parts)
        || !(1..=2).contains(&buffers)
        || strip == 0
        || !(cols_each / 16).is_multiple_of(strip)
    {
        return Err("tiles are no multiples of matrices or of a subgroup's");
    }
    if subgroup(target) != Some(size) {
        return Err("the target multiplies no such matrices");
    }
    let it = matrices(parts, [rows, cols], [rows_each, cols_each], [depth, buffers, strip], [0.0; 3]);
    if !(at_once == 4 || (at_once == 8 && parts == 1 && it.in_eights(size))) {
        return Err("invocations do not load as many elements as each other");
    }
    let large = u64::from(it.subgroups()) * u64::from(size) > 1 << 20;
    if large {
        Err("more than any workgroup has")
    } else {
        Ok((it.subgroups() * size, it.memory([a_along_rows, b_along_cols])))
    }
}

impl Cooperative {
    fn subgroups(&self) -> u32 {
        self.tile[0] / self.each[0] * (self.tile[1] / self.each[1])
    }

    /// Whether it is for such operands, with subgroups of `size`.
    fn reads(&self, Operands { parts, apart, along: _, eights: _ }: Operands, size: u32) -> bool {
        let fours = (self.tile[0] + self.tile[1]) * self.depth / 4;
        self.parts == parts && (!apart || (parts == 1 && fours <= FOURS_APART * self.subgroups() * size))
    }

    fn few(&self) -> usize {
        FEW_TILES[(self.parts == 2) as usize]
    }

    /// Microseconds that a large GPU takes.
    fn time(&self, sizes: &Sizes) -> f64 {
        let [rows, cols] = self.tile;
        let turns = sizes.tiles(self.tile).div_ceil(CORES);
        let rate = MULTIPLY_ADDS * if turns > 1 { self.together } else { self.alone };
        let sums = turns as f64 * f64::from(rows * cols) * sizes.depth as f64 / rate;
        let memory = (sizes.results() * 4 * self.parts as usize) as f64 / BYTES;
        LAUNCH + sums.max(memory) + turns as f64 * self.around
    }

    /// Whether the target, with subgroups of `size`, can run it: every invocation loads as much as any other.
    fn fits(&self, sizes: &Sizes, along: [bool; 2], size: u32, target: &Target) -> bool {
        let invocations = self.subgroups() * size;
        size > 0
            && self.tile.iter().all(|it| (self.depth / 4 * it).is_multiple_of(invocations))
            && sizes.depth >= self.depth as usize
            && invocations <= limited(u32::MAX, target)
            && self.memory(along) <= target.max_workgroup_memory
    }

    /// Bytes of workgroup memory, as the template counts them.
    fn memory(&self, along: [bool; 2]) -> u32 {
        let padded = |size: u32, along| size * self.depth + 8 * if along { self.depth } else { size };
        let halves: u32 = self.tile.iter().zip(along).map(|(&size, along)| padded(size, along)).sum();
        let sizes = if self.parts == 2 { 4 * (self.tile[0] + self.tile[1]) } else { 0 };
        2 * self.buffers * self.parts * halves + 256 * (4 * self.strip + 1) * self.subgroups() + sizes
    }

    /// Whether every invocation, in subgroups of `size`, loads as many eights as any other.
    fn in_eights(&self, size: u32) -> bool {
        let invocations = self.subgroups() * size;
        self.tile.iter().all(|it| (self.depth / 8 * it).is_multiple_of(invocations))
    }

    /// Neighbours are loaded in eights where they are whole ones: a slab is as many bytes, in half of the loads and stores.
    pub fn tile(&self, operands: Operands, target: &Target) -> Tile {
        let [a_along_rows, b_along_cols] = operands.along;
        let &Cooperative { parts, tile: [rows, cols], each: [rows_each, cols_each], depth, .. } = self;
        let &Cooperative { buffers, strip, .. } = self;
        let subgroup = subgroup(target).unwrap_or_else(|| crate::bug!("no subgroups of one size"));
        let at_once = if operands.eights && parts == 1 && self.in_eights(subgroup) { 8 } else { 4 };
        Tile::Cooperative {
            parts,
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            buffers,
            strip,
            at_once,
            subgroup,
            a_along_rows,
            b_along_cols,
        }
    }
}
