//! Which template attention gets, and the sizes of `attention_coop.wgsl`. Every tuned number of these is here.
//!
//! In: an attention's sizes and operands. Out: its tile, and why it is not on cooperative matrices.

use std::fmt::{self, Display, Formatter};

use super::{
    cooperative::subgroup,
    kernel::{AttentionTile, CooperativeAttention, Kernel, Skeleton},
    product::is_half,
    tile::{self, attention_pieces, limited},
};
use crate::{
    lower::{Body, ExprId},
    shape::Shape,
    target::Target,
};

/// Why attention is not done on cooperative matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The target multiplies no matrices of f16 of 16 x 16 in subgroups of one size.
    Target,
    /// An operand has values that f16 does not hold.
    Operands,
    /// There is nothing to attend to.
    Keys,
    /// So many channels of keys and of values, which registers do not hold, or too few.
    Channels([usize; 2]),
    /// So few queries have the same keys.
    Queries(usize),
    /// Few queries over many keys are done in pieces.
    Pieces,
    /// No tile fits the target.
    Memory,
}

impl Display for Why {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Why::Target => f.write_str("the device multiplies no such matrices"),
            Why::Operands => f.write_str("queries, keys and values are not all f16"),
            Why::Keys => f.write_str("there are no keys"),
            Why::Channels([keys, values]) => {
                write!(
                    f,
                    "keys have {keys} channels and values {values}, not {LEAST_CHANNELS} to {MOST_CHANNELS} each"
                )
            }
            Why::Queries(count) => write!(f, "only {count} queries have the same keys"),
            Why::Pieces => f.write_str("so few queries go through so many keys in pieces"),
            Why::Memory => f.write_str("no tile fits a workgroup of the device"),
        }
    }
}

/// A row of the table: subgroups down, subgroups that share rows, rows of a subgroup, keys held, scores made at once; and how
/// many workgroups there must be.
struct Sizes {
    teams: u32,
    parts: u32,
    sub_rows: u32,
    keys: u32,
    sub_keys: u32,
    workgroups: usize,
}

const fn sizes(
    [teams, parts]: [u32; 2],
    sub_rows: u32,
    [keys, sub_keys]: [u32; 2],
    workgroups: usize,
) -> Sizes {
    Sizes { teams, parts, sub_rows, keys, sub_keys, workgroups }
}

/// Most rows first, which read least.
const SIZES: [Sizes; 4] = [
    sizes([8, 1], 16, [64, 32], 100),
    sizes([4, 1], 16, [64, 32], 100),
    sizes([2, 2], 16, [64, 32], 64),
    sizes([1, 4], 16, [64, 16], 0),
];

/// More channels than this do not fit a subgroup's registers with everything else.
const MOST_CHANNELS: usize = 128;
const LEAST_CHANNELS: usize = 16;
/// Fewer rows leave most of a matrix empty.
const LEAST_ROWS: usize = 12;

/// What attention is asked for. `heads` neighbours have the same keys and values.
pub struct Asked<'a> {
    pub space: &'a Shape,
    pub keys: usize,
    pub channels: usize,
    pub heads: usize,
    pub body: &'a Body,
    /// Queries, keys and values.
    pub operands: [ExprId; 3],
}

/// Why `kernel`, attention on tiles of rows, is not on cooperative matrices; `None` where it was chosen by measurement.
pub fn why_not(kernel: &Kernel, target: &Target) -> Option<Why> {
    let Skeleton::Attention { tile: AttentionTile::Plain(_), .. } = kernel.skeleton else { return None };
    match Asked::of(kernel)?.cooperative(target) {
        Err(why) => Some(why),
        // Of pieces the sums are stored too.
        Ok(_) => kernel.stores.iter().any(|it| kernel.stores_param(it, 1)).then_some(Why::Pieces),
    }
}

impl<'a> Asked<'a> {
    /// What `kernel` does, if it is attention.
    pub fn of(kernel: &'a Kernel) -> Option<Asked<'a>> {
        let Skeleton::Attention { space, keys, channels, q, k, v, tile, .. } = &kernel.skeleton else {
            return None;
        };
        let (heads, operands) = (tile.heads() as usize, [*q, *k, *v]);
        Some(Asked { space, keys: *keys, channels: *channels, heads, body: &kernel.body, operands })
    }

    pub fn tile(&self, target: &Target) -> AttentionTile {
        match self.cooperative(target) {
            Ok(it) => AttentionTile::Cooperative(it),
            Err(_) => AttentionTile::Plain(tile::attention(
                self.space,
                self.keys,
                self.channels,
                self.heads,
                target,
            )),
        }
    }

    /// Every way in which it may run, of both templates.
    pub fn tiles(&self, target: &Target) -> Vec<AttentionTile> {
        let fitting = self.fitting(target).unwrap_or_default();
        let plain = tile::attentions(self.space, self.keys, self.channels, self.heads, target);
        let plain = plain.into_iter().map(AttentionTile::Plain);
        fitting.into_iter().map(|it| AttentionTile::Cooperative(it.0)).chain(plain).collect()
    }

    /// The tile on cooperative matrices, or why there is none.
    fn cooperative(&self, target: &Target) -> Result<CooperativeAttention, Why> {
        let fitting = self.fitting(target)?;
        let planes = self.space[0] * self.space[1] / self.heads.max(1);
        let busy = |(it, wanted): &&(CooperativeAttention, usize)| {
            planes * self.rows().div_ceil((it.teams * it.sub_rows) as usize) >= *wanted
        };
        fitting.iter().find(busy).or(fitting.last()).map(|it| it.0).ok_or(Why::Memory)
    }

    /// Those of `SIZES` that the target can run, each with the workgroups that it asks for.
    fn fitting(&self, target: &Target) -> Result<Vec<(CooperativeAttention, usize)>, Why> {
        let subgroup = subgroup(target).ok_or(Why::Target)?;
        let channels = [self.channels, self.space[3]];
        let held = |it: &usize| (LEAST_CHANNELS..=MOST_CHANNELS).contains(it);
        if !self.operands.iter().all(|it| is_half(self.body, *it)) {
            return Err(Why::Operands);
        }
        if self.keys == 0 {
            return Err(Why::Keys);
        }
        if !channels.iter().all(held) {
            return Err(Why::Channels(channels));
        }
        if self.rows() < LEAST_ROWS {
            return Err(Why::Queries(self.rows()));
        }
        if attention_pieces(self.space, self.keys, self.heads).is_some() {
            return Err(Why::Pieces);
        }
        let fitting = SIZES.iter().filter(|it| it.fits(channels, subgroup, target));
        let heads = self.heads as u32;
        let tile = |&Sizes { teams, parts, sub_rows, keys, sub_keys, workgroups }: &Sizes| {
            (CooperativeAttention { teams, parts, sub_rows, keys, sub_keys, heads, subgroup }, workgroups)
        };
        Ok(fitting.map(tile).collect())
    }

    /// Queries with the same keys.
    fn rows(&self) -> usize {
        self.space[2] * self.heads
    }
}

/// Why the target cannot run attention in `tile`.
pub fn fault(tile: &AttentionTile, space: &Shape, channels: usize, target: &Target) -> Option<&'static str> {
    let it = match tile {
        AttentionTile::Plain(it) => return tile::attention_fault(it, space, channels, target),
        // What a row may be follows from its keys: `RowAttention::fault`.
        AttentionTile::Row(_) => return None,
        AttentionTile::Cooperative(it) => it,
    };
    let &CooperativeAttention { teams, parts, sub_rows, keys, sub_keys, heads: _, subgroup: size } = it;
    if subgroup(target) != Some(size) {
        return Some("the target multiplies no such matrices");
    }
    let sane = [teams, parts, sub_rows, keys, sub_keys].iter().all(|it| (1..=1 << 10).contains(it));
    if !sane || !sub_rows.is_multiple_of(16) || !sub_keys.is_multiple_of(16) || !keys.is_multiple_of(sub_keys)
    {
        return Some("tiles are no multiples of matrices");
    }
    let sizes = Sizes { teams, parts, sub_rows, keys, sub_keys, workgroups: 0 };
    (!sizes.fits([channels, space[3]], size, target)).then_some("more than a workgroup of the target has")
}

impl Sizes {
    fn fits(&self, channels: [usize; 2], subgroup: u32, target: &Target) -> bool {
        self.sub_rows <= subgroup
            && self.sub_keys.is_multiple_of(4 * subgroup / self.sub_rows)
            && self.teams * self.parts * subgroup <= limited(u32::MAX, target)
            && self.memory(channels) <= target.max_workgroup_memory
    }

    /// Bytes of workgroup memory, as `attention_coop.wgsl` counts them.
    fn memory(&self, channels: [usize; 2]) -> u32 {
        let [key_stride, value_stride] = channels.map(|it| 4 * (it as u32).div_ceil(16) + 2);
        let rows = self.teams * self.sub_rows;
        let tile = (rows * key_stride).max(self.keys * (key_stride + value_stride));
        let scratch = rows * self.parts * (self.sub_keys / 4 + 1);
        let weights = rows * self.parts * (self.sub_keys / 4 + 2);
        8 * (tile + weights) + 16 * scratch + 4 * rows * (2 * self.parts + 1)
    }
}
