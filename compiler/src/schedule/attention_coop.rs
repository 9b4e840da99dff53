//! Which template attention gets, and the sizes of `attention_coop.wgsl`. Every tuned number of these is here.
//!
//! In: an attention's sizes and operands. Out: its tile.

use super::{
    kernel::{AttentionTile, CooperativeAttention},
    product::{is_half, subgroup},
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
    /// Channels of keys or of values that registers do not hold, or none.
    Channels,
    /// So few queries have the same keys.
    Queries(usize),
    /// Few queries over many keys are done in pieces.
    Pieces,
    /// No tile fits the target.
    Memory,
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

/// `heads` neighbours have the same keys and values; `operands` are queries, keys, values and the mask, if there is one.
pub fn attention(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    body: &Body,
    operands: &[ExprId],
    target: &Target,
) -> AttentionTile {
    match cooperative(space, keys, channels, heads, body, operands, target) {
        Ok(it) => AttentionTile::Cooperative(it),
        Err(_) => AttentionTile::Plain(tile::attention(space, keys, channels, heads, target)),
    }
}

fn cooperative(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    body: &Body,
    operands: &[ExprId],
    target: &Target,
) -> Result<CooperativeAttention, Why> {
    let fitting = fitting(space, keys, channels, heads, body, operands, target)?;
    let planes = space[0] * space[1] / heads.max(1);
    let rows = space[2] * heads;
    let busy = |(it, wanted): &&(CooperativeAttention, usize)| {
        planes * rows.div_ceil((it.teams * it.sub_rows) as usize) >= *wanted
    };
    fitting.iter().find(busy).or(fitting.last()).map(|it| it.0).ok_or(Why::Memory)
}

/// Every way in which attention may run, of both templates.
pub fn attentions(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    body: &Body,
    operands: &[ExprId],
    target: &Target,
) -> Vec<AttentionTile> {
    let fitting = fitting(space, keys, channels, heads, body, operands, target).unwrap_or_default();
    let plain = tile::attentions(space, keys, channels, heads, target).into_iter().map(AttentionTile::Plain);
    fitting.into_iter().map(|it| AttentionTile::Cooperative(it.0)).chain(plain).collect()
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

/// Those of `SIZES` that the target can run, each with the workgroups that it asks for.
fn fitting(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    body: &Body,
    operands: &[ExprId],
    target: &Target,
) -> Result<Vec<(CooperativeAttention, usize)>, Why> {
    let subgroup = subgroup(target).ok_or(Why::Target)?;
    if !operands.iter().take(3).all(|it| is_half(body, *it)) {
        return Err(Why::Operands);
    }
    // Nothing to load at all.
    if keys == 0 {
        return Err(Why::Queries(0));
    }
    if [channels, space[3]].iter().any(|it| !(LEAST_CHANNELS..=MOST_CHANNELS).contains(it)) {
        return Err(Why::Channels);
    }
    let rows = space[2] * heads;
    if rows < LEAST_ROWS {
        return Err(Why::Queries(rows));
    }
    if attention_pieces(space, keys, heads).is_some() {
        return Err(Why::Pieces);
    }
    let fitting = SIZES.iter().filter(|it| it.fits([channels, space[3]], subgroup, target));
    let heads = heads as u32;
    let tile = |&Sizes { teams, parts, sub_rows, keys, sub_keys, workgroups }: &Sizes| {
        (CooperativeAttention { teams, parts, sub_rows, keys, sub_keys, heads, subgroup }, workgroups)
    };
    Ok(fitting.map(tile).collect())
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
