//! How kernels other than products run on their target: workgroups, tiles, neighbours. Every tuned number of these choices is
//! here.

use slotmap::SlotMap;

use super::{
    kernel::{PlainAttention, RowForm, Stage, Store, Team},
    lanes::Lanes,
};
use crate::{
    index::{Atom, Index},
    lower::{Body, Expr, ExprId, TensorId, TensorInfo},
    shape::Shape,
    target::Target,
};

/// Workgroups that keep a large GPU busy: measured for products on one of 132 cores, where 72 of a larger tile took less time than 144 of a
/// smaller one, and 64 more than 128.
pub const BUSY: usize = 70;

/// Rows shorter than this are reduced by one invocation each.
const SHORT_ROW: usize = 32;

/// Groups of neighbours below which a map leaves each element to an invocation of its own.
const FEW_VECTORS: usize = 2048;

/// Invocations of one workgroup on each of a large GPU's cores, a few times over. With fewer, small workgroups reach more cores.
const FEW_INVOCATIONS: usize = 1 << 14;

/// Expressions that neighbours may take together, all written out.
const EXPRESSIONS: usize = 1024;

/// Elements of a row that an invocation may keep in registers.
const KEPT: usize = 64;

/// Groups of neighbours that are read ahead where a row is too long to be kept.
pub const AHEAD: usize = 4;

/// Groups of neighbours in all rows that the device handles at once, one an invocation. Up to that, the time of one row
/// counts; beyond, how much is on its way.
const AT_ONCE: usize = 1 << 17;

/// Invocations of a workgroup of which several still fit one core with their registers.
const MOST: u32 = 512;

/// Invocations of a workgroup whose subgroups have rows of their own.
pub const SUBGROUPS_TOGETHER: u32 = 128;

/// Workgroup and neighbours an invocation of a map.
pub fn map_form(
    space: &Shape,
    body: &Body,
    stores: &[Store],
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> (u32, u32) {
    let kept = |it: &u32| *it == 2 || space.count() / *it as usize >= FEW_VECTORS;
    let lanes = lanes((0, space), body, &[], stores, tensors, &kept);
    let invocations = space.count() / lanes as usize;
    (limited(if invocations < FEW_INVOCATIONS { 64 } else { 256 }, target), lanes)
}

/// How many neighbours of `space` (variables `first..`) an invocation handles together: as many as a vector of four words
/// holds, if what is written lies in whole vectors, or if nothing but rows is written and something is read in vectors.
pub fn lanes(
    (first, space): (usize, &Shape),
    body: &Body,
    stages: &[Stage],
    stores: &[Store],
    tensors: &SlotMap<TensorId, TensorInfo>,
    worth: &dyn Fn(&u32) -> bool,
) -> u32 {
    let roots = stores.iter().map(|it| it.value).chain(stages.iter().map(|it| it.value));
    let needed = body.needed(roots);
    let inside = |at: &[Index]| {
        let mut found = false;
        let mut see =
            |leaf: &Atom| found |= matches!(leaf, Atom::Var { axis, .. } if *axis as usize >= first);
        at.iter().for_each(|it| it.leaves(&mut see));
        found
    };
    let fits = |count: &u32| {
        let count = *count;
        if !space.count().is_multiple_of(count as usize) || count as usize * body.len() > EXPRESSIONS {
            return false;
        }
        let lanes = Lanes::anywhere(first, space, count);
        // Of a unit as large as an access may be: whether it runs, and whether it starts at one.
        let run = |tensor: TensorId, at: &[Index]| {
            let ty = &tensors[tensor].ty;
            let unit = ty.dtype.per_word() * 4;
            (unit, lanes.run(at, &ty.shape, unit.min(count as u64)))
        };
        let mut written = false;
        for store in stores.iter().filter(|it| inside(&it.at)) {
            written = true;
            match run(store.tensor, &store.at) {
                (unit, Some(Some(0))) if unit >= count as u64 || count == 4 => {}
                _ => return false,
            }
        }
        let mut read = false;
        for (id, expr, _) in body.iter() {
            if let Expr::Load { tensor, at, .. } = expr
                && needed[id.0 as usize]
            {
                match run(*tensor, at) {
                    (unit, Some(_)) if count == 8 && unit < 8 => return false,
                    (_, Some(Some(_))) => read = true,
                    _ => {}
                }
            }
        }
        written || (read && !stages.is_empty())
    };
    [8, 4, 2].into_iter().find(|it| worth(it) && fits(it)).unwrap_or(1)
}

pub fn limited(wanted: u32, target: &Target) -> u32 {
    wanted.min(target.max_workgroup_invocations).min(target.max_workgroup_size[0])
}

pub fn row_form(
    (outer, inner): (&Shape, &Shape),
    body: &Body,
    stages: &[Stage],
    stores: &[Store],
    writes_points: bool,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> RowForm {
    let (rows, length) = (outer.count(), inner.count());
    let first_inner = outer.rank();
    // Neighbouring invocations then read neighbouring elements, where they would be a row's length apart.
    let across = !writes_points
        && rows >= 4096
        && stages.iter().all(|it| !runs_along(body, it.value, first_inner, inner));
    let lanes = match across {
        true => 1,
        false => lanes((first_inner, inner), body, stages, stores, tensors, &|_| true),
    };
    let vectors = length / lanes as usize;
    let few = rows.saturating_mul(vectors) <= AT_ONCE;
    let team = match length < SHORT_ROW || across {
        true => Team::Invocation { workgroup: limited(64, target) },
        false => row_team(vectors, few, target),
    };
    shared_form(team, lanes, (rows, length), body)
}

/// How the members of `team` go through rows of that length.
fn shared_form(team: Team, lanes: u32, (rows, length): (usize, usize), body: &Body) -> RowForm {
    let vectors = length / lanes as usize;
    let few = rows.saturating_mul(vectors) <= AT_ONCE;
    let share = share(team, vectors);
    let elements = share * lanes as usize;
    let kept = elements <= KEPT && elements * body.len() <= EXPRESSIONS;
    let steps = if kept { share } else { share.min(AHEAD) };
    let loads = body.iter().filter(|(_, expr, _)| matches!(expr, Expr::Load { .. })).count();
    let early = kept && few && elements * loads <= KEPT;
    RowForm { team, lanes, steps: steps as u32, early }
}

/// Of a row's groups of neighbours, how many an invocation handles.
fn share(team: Team, vectors: usize) -> usize {
    let members = match team {
        Team::Invocation { .. } => 1,
        Team::Subgroup { size, .. } | Team::Workgroup { size, .. } => size as usize,
    };
    vectors.div_ceil(members).max(1)
}

/// Whether rows of that length are read once and stay in registers.
pub fn is_kept(form: &RowForm, length: usize) -> bool {
    form.steps as usize == share(form.team, length / form.lanes as usize)
}

/// Rows shared by smaller and larger teams than `own`, in the same vectors, those next to it first.
pub fn row_forms(
    (outer, inner): (&Shape, &Shape),
    body: &Body,
    own: RowForm,
    target: &Target,
) -> Vec<(RowForm, f64)> {
    let sizes = (2..=10).map(|it| 1u32 << it).filter(|it| *it <= limited(u32::MAX, target));
    let uniform = target.subgroup.filter(|(least, most)| least == most && *least >= 4).map(|it| it.0);
    let members = |team: Team| match team {
        Team::Invocation { workgroup } => workgroup,
        Team::Subgroup { size, rows } => size * rows,
        Team::Workgroup { size, .. } => size,
    };
    let teams: Vec<Team> = match own.team {
        Team::Invocation { .. } => sizes.map(|workgroup| Team::Invocation { workgroup }).collect(),
        Team::Subgroup { .. } | Team::Workgroup { .. } => {
            let workgroups = sizes.clone().filter_map(|size| match uniform {
                Some(it) => (size.is_multiple_of(it) && size / it <= it && size > it)
                    .then_some(Team::Workgroup { size, subgroup: Some(it) }),
                None => Some(Team::Workgroup { size, subgroup: None }),
            });
            let subgroups = uniform.into_iter().flat_map(|size| {
                let most = limited(u32::MAX, target) / size;
                [1, 2, 4, 8]
                    .into_iter()
                    .filter(move |it| *it <= most)
                    .map(move |rows| Team::Subgroup { size, rows })
            });
            workgroups.chain(subgroups).collect()
        }
    };
    let own_members = f64::from(members(own.team));
    let form = |team: Team| shared_form(team, own.lanes, (outer.count(), inner.count()), body);
    let far = |team: Team| (f64::from(members(team)) / own_members).log2().abs();
    teams.into_iter().map(|team| (form(team), far(team))).collect()
}

/// Why the target cannot share out rows of `length` elements so.
pub fn row_fault(form: &RowForm, length: usize, target: &Target) -> Option<&'static str> {
    let RowForm { team, lanes, steps, early: _ } = *form;
    let most = limited(u32::MAX, target);
    let uniform = |size: u32| target.subgroup == Some((size, size));
    let fits = match team {
        Team::Invocation { workgroup } => (1..=most).contains(&workgroup),
        Team::Subgroup { size, rows } => {
            uniform(size) && rows > 0 && size.checked_mul(rows).is_some_and(|it| it <= most)
        }
        Team::Workgroup { size, subgroup: None } => size.is_power_of_two() && size <= most,
        Team::Workgroup { size, subgroup: Some(it) } => {
            uniform(it) && size.is_multiple_of(it) && (1..=most).contains(&size) && size / it <= it
        }
    };
    if !fits {
        return Some("the target has no such teams");
    }
    let whole = lanes > 0 && steps > 0 && length.is_multiple_of(lanes as usize);
    (!whole).then_some("rows are not shared out in whole vectors")
}

/// Rows from this length on are reduced in pieces where they are too few to fill the device: one workgroup reads as much in
/// about the time of a launch.
const LONG_ROW: usize = 1 << 15;

/// Pieces of all rows together, and the shortest piece: several workgroups for each core, and few results to put together.
const PIECES: usize = 2048;
const SHORTEST_PIECE: usize = 4096;

/// How many equal pieces each of `rows` rows of that length is reduced in, if that pays.
pub fn pieces(rows: usize, length: usize) -> Option<usize> {
    if rows == 0 || rows >= BUSY || length < LONG_ROW {
        return None;
    }
    let most = (PIECES / rows).min(length / SHORTEST_PIECE);
    let fits = |lanes: usize| (2..=most).rev().find(|it| length.is_multiple_of(it * lanes));
    // Pieces that start at whole vectors, unless those are much larger.
    let (aligned, any) = (fits(8), fits(1));
    aligned.filter(|it| any.is_none_or(|any| it * 4 >= any)).or(any).filter(|it| *it >= 4)
}

/// Who shares a row of that many groups of neighbours. `few`: the device handles all rows at once.
fn row_team(vectors: usize, few: bool, target: &Target) -> Team {
    let wanted = if few { vectors } else { vectors.div_ceil(2) };
    let most = limited(MOST, target);
    match target.subgroup {
        Some((size, largest)) if size == largest && (4..=most).contains(&size) => {
            if vectors <= if few { 1 } else { 4 } * size as usize {
                return Team::Subgroup { size, rows: (limited(SUBGROUPS_TOGETHER, target) / size).max(1) };
            }
            // Subgroups put their results together in a subgroup.
            let most = (most / size * size).min(size * size);
            let wanted = wanted.next_multiple_of(size as usize);
            Team::Workgroup { size: wanted.min(most as usize) as u32, subgroup: Some(size) }
        }
        Some(_) | None => {
            let most = 1 << most.ilog2();
            let wanted = wanted.next_power_of_two();
            Team::Workgroup {
                size: wanted.min(most as usize).max(32.min(most as usize)) as u32,
                subgroup: None,
            }
        }
    }
}

/// Whether the innermost variable of a row is the innermost coordinate of something that is read.
fn runs_along(body: &Body, root: ExprId, first_inner: usize, inner: &Shape) -> bool {
    let last = (0..inner.rank()).rev().find(|&axis| inner[axis] > 1).map(|axis| first_inner + axis);
    let needed = body.needed([root]);
    body.iter().any(|(id, expr, _)| match expr {
        Expr::Load { at, .. } if needed[id.0 as usize] => at.last().is_some_and(|it| {
            let mut found = false;
            it.leaves(&mut |leaf| {
                found |= matches!(leaf, Atom::Var { axis, .. } if Some(*axis as usize) == last);
            });
            found
        }),
        _ => false,
    })
}

/// Sizes of the template `attention.wgsl`: invocations, rows, invocations that share a row; and how many workgroups there
/// must be.
struct Attention(u32, u32, u32, usize);

/// Most rows first, which read least; for each number the fastest first that was measured on a large GPU, then those that need
/// less memory.
const ATTENTIONS: [Attention; 12] = [
    Attention(128, 64, 8, 512),
    Attention(128, 32, 16, 256),
    Attention(128, 32, 8, 256),
    Attention(256, 16, 32, 64),
    Attention(128, 16, 16, 64),
    Attention(64, 16, 8, 64),
    Attention(64, 16, 4, 64),
    Attention(64, 8, 16, 64),
    Attention(64, 8, 8, 64),
    Attention(32, 8, 4, 64),
    Attention(64, 4, 16, 0),
    Attention(16, 4, 4, 0),
];

/// Keys from which on attention of few rows is done in pieces, the keys of a piece, and the workgroups from which on it is not.
/// Estimated: one step of 64 keys took 1.7 microseconds on a large GPU, a second kernel takes about two such steps.
const MANY_KEYS: usize = 512;
const PIECE_KEYS: usize = 64;
const PIECE_GROUPS: usize = 64;

/// In how many pieces the keys of attention are gone through, if that pays. `heads` neighbours have the same keys.
pub fn attention_pieces(space: &Shape, keys: usize, heads: usize) -> Option<usize> {
    let groups = space[0] * space[1] / heads.max(1) * (space[2] * heads).div_ceil(8);
    if keys < MANY_KEYS || groups == 0 || groups >= PIECE_GROUPS {
        return None;
    }
    Some(keys.div_ceil(PIECE_KEYS).min(8 * PIECE_GROUPS / groups))
}

/// For channels so many that workgroup memory holds not even a few of them.
const NOTHING_HELD: Attention = Attention(64, 4, 16, 0);

/// The sizes of `attention.wgsl`. `heads` neighbours have the same keys and values.
pub fn attention(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    target: &Target,
) -> PlainAttention {
    let rows = space[2] * heads;
    let groups = (space[0] * space[1] / heads.max(1)).max(1);
    for held in [(true, true), (true, false)] {
        let fitting = fitting(space, keys, channels, heads, held, target);
        let enough =
            |(it, wanted): &&(PlainAttention, usize)| groups * rows.div_ceil(it.rows as usize) >= *wanted;
        if let Some((found, _)) = fitting.iter().find(enough).or(fitting.last()) {
            return *found;
        }
    }
    attention_tile(&NOTHING_HELD, space, heads, (false, false))
}

fn fours(channels: usize) -> u32 {
    channels.div_ceil(4) as u32
}

fn attention_tile(
    &Attention(size, rows, across, _): &Attention,
    space: &Shape,
    heads: usize,
    (hold_keys, hold_values): (bool, bool),
) -> PlainAttention {
    let values_across = fours(space[3]).max(1).next_power_of_two().min(across);
    let parts = across / values_across;
    PlainAttention { size, rows, across, heads: heads as u32, parts, hold_keys, hold_values }
}

/// Bytes of workgroup memory, as `attention.wgsl` counts them.
fn attention_memory(it: &PlainAttention, space: &Shape, channels: usize) -> u64 {
    let (fours, value_fours) = (fours(channels), fours(space[3]).max(1));
    let (rows, across, fours) = (it.rows as u64, it.across as u64, fours as u64);
    let (held, keys) = (it.hold_keys as u64, 4 * across);
    let in_turn = (held * keys * (fours | 1)).max(rows * (across | 1));
    let values = it.hold_values as u64 * keys * value_fours as u64;
    16 * (held * rows * (fours | 1) + in_turn + values + rows * across / 4 + 2)
}

/// Why the target cannot run attention in `tile`.
pub fn attention_fault(
    tile: &PlainAttention,
    space: &Shape,
    channels: usize,
    target: &Target,
) -> Option<&'static str> {
    let PlainAttention { size, rows, across, heads: _, parts, .. } = *tile;
    if !(1..=limited(u32::MAX, target)).contains(&size) || across == 0 || rows == 0 || parts == 0 {
        return Some("the target has no such workgroups");
    }
    let fits = attention_memory(tile, space, channels) <= target.max_workgroup_memory as u64;
    // Where nothing is held, there is nothing smaller.
    (!fits && (tile.hold_keys || tile.hold_values)).then_some("more workgroup memory than there is")
}

/// Every tile that the target can run and that is no larger than what there is.
pub fn attentions(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    target: &Target,
) -> Vec<PlainAttention> {
    let held = [(true, true), (true, false)].into_iter();
    held.flat_map(|held| fitting(space, keys, channels, heads, held, target)).map(|it| it.0).collect()
}

/// Those of `ATTENTIONS` that the target can run, each with the workgroups that it asks for.
fn fitting(
    space: &Shape,
    keys: usize,
    channels: usize,
    heads: usize,
    held: (bool, bool),
    target: &Target,
) -> Vec<(PlainAttention, usize)> {
    let rows = space[2] * heads;
    // Steps and tiles no larger than what there is.
    let close = |it: &&Attention| {
        let (first, few) = (it.1 as usize <= rows.next_power_of_two().max(4), 4 * it.2 as usize);
        first && few <= keys.next_power_of_two().max(16)
    };
    let fits = |it: &PlainAttention| {
        let memory = attention_memory(it, space, channels);
        it.size <= limited(u32::MAX, target) && memory <= target.max_workgroup_memory as u64
    };
    (ATTENTIONS.iter().filter(close))
        .map(|it| (attention_tile(it, space, heads, held), it.3))
        .filter(|(it, _)| fits(it))
        .collect()
}
