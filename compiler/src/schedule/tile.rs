//! How each kernel runs on its target: workgroups, tiles, which template. Every tuned number of these choices is here.

use super::kernel::{AttentionTile, RowForm, Skeleton, Stage, Tile, Vars};
use crate::{
    dtype::DType,
    index::{Atom, Index},
    lower::{Body, Expr, ExprId},
    shape::Shape,
    target::Target,
};

/// Workgroups that keep a large GPU busy.
const BUSY: usize = 128;

/// Rows shorter than this are reduced by one invocation each.
const SHORT_ROW: usize = 32;

/// Sums shorter than this over few results a batch are not worth a tile.
const SHORT_SUM: usize = 128;

pub fn map_workgroup(space: &Shape, target: &Target) -> u32 {
    let wanted = if space.count() < 4096 { 64 } else { 256 };
    limited(wanted, target)
}

fn limited(wanted: u32, target: &Target) -> u32 {
    wanted.min(target.max_workgroup_invocations).min(target.max_workgroup_size[0])
}

pub fn row_form(
    outer: &Shape,
    inner: &Shape,
    body: &Body,
    stages: &[Stage],
    writes_points: bool,
    target: &Target,
) -> RowForm {
    let (rows, length) = (outer.count(), inner.count());
    let first_inner = outer.rank();
    // Neighbouring invocations then read neighbouring elements, where they would be a row's length apart.
    let across = !writes_points
        && rows >= 4096
        && stages.iter().all(|it| !runs_along(body, it.value, first_inner, inner));
    if length < SHORT_ROW || across {
        return RowForm::Invocation { workgroup: limited(64, target) };
    }
    let size = (length.div_ceil(4).next_power_of_two() as u32).clamp(32, 256);
    RowForm::Workgroup { size: limited(size, target) }
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

pub fn contract(
    space: &Shape,
    depth: &Shape,
    body: &Body,
    a: ExprId,
    b: ExprId,
    target: &Target,
) -> Skeleton {
    let (mut a, mut b) = (a, b);
    let (by_a, by_b) = (variables(body, a, space.rank()), variables(body, b, space.rank()));
    let (mut batch, mut rows, mut cols) = (Vars::new(), Vars::new(), Vars::new());
    for var in 0..space.rank() {
        match (by_a[var], by_b[var]) {
            (true, true) => batch.push(var),
            (true, false) => rows.push(var),
            (false, _) => cols.push(var),
        }
    }
    let count = |vars: &Vars| vars.iter().map(|&it| space[it]).product::<usize>();
    // Columns lie next to each other in memory, and a vector is a row.
    let innermost = (0..space.rank()).rev().find(|&it| space[it] > 1);
    let turned = innermost.is_some_and(|it| rows.contains(&it)) && count(&cols) > 1;
    let is_column = count(&cols) == 1 && count(&rows) > 1;
    if turned || is_column {
        std::mem::swap(&mut rows, &mut cols);
        std::mem::swap(&mut a, &mut b);
    }
    let sizes = Sizes { batch: count(&batch), rows: count(&rows), cols: count(&cols), depth: depth.count() };
    let tile = contract_tile(&sizes, body.dtype(a), target);
    Skeleton::Contract { space: space.clone(), depth: depth.clone(), batch, rows, cols, a, b, tile }
}

struct Sizes {
    batch: usize,
    rows: usize,
    cols: usize,
    depth: usize,
}

fn contract_tile(sizes: &Sizes, dtype: DType, target: &Target) -> Tile {
    let direct = Tile::Direct { workgroup: limited(64, target) };
    // The templates sum in f32.
    if dtype != DType::F32 || sizes.depth == 0 {
        return direct;
    }
    if sizes.rows <= 4 {
        let deep = sizes.depth >= SHORT_SUM;
        return match (deep, sizes.rows) {
            (true, _) => Tile::Matvec { size: limited(64, target), cols: 8 },
            (false, _) => direct,
        };
    }
    if sizes.cols < 8 && sizes.depth < SHORT_SUM {
        return direct;
    }
    // Largest first: the first that still keeps the device busy.
    let candidates = [
        Tile::Matmul { rows: 128, cols: 128, depth: 8, rows_each: 8, cols_each: 8, split: 1 },
        Tile::Matmul { rows: 64, cols: 64, depth: 16, rows_each: 4, cols_each: 4, split: 1 },
        Tile::Matmul { rows: 32, cols: 32, depth: 16, rows_each: 4, cols_each: 4, split: 4 },
        Tile::Matmul { rows: 16, cols: 32, depth: 16, rows_each: 2, cols_each: 4, split: 4 },
        Tile::Matmul { rows: 16, cols: 32, depth: 16, rows_each: 2, cols_each: 4, split: 8 },
    ];
    let fits = |tile: &&Tile| match **tile {
        Tile::Matmul { rows, cols, depth, rows_each, cols_each, split } => {
            let invocations = rows / rows_each * (cols / cols_each) * split;
            let staged = (rows + 4 + cols + 4) * depth * split * 4;
            let partial = if split > 1 { invocations * cols_each * 4 } else { 0 };
            invocations <= limited(u32::MAX, target) && staged.max(partial) <= target.max_workgroup_memory
        }
        Tile::Matvec { .. } | Tile::Direct { .. } => true,
    };
    let workgroups = |tile: &Tile| match *tile {
        Tile::Matmul { rows, cols, .. } => {
            sizes.batch * sizes.rows.div_ceil(rows as usize) * sizes.cols.div_ceil(cols as usize)
        }
        Tile::Matvec { .. } | Tile::Direct { .. } => usize::MAX,
    };
    let fitting: Vec<&Tile> = candidates.iter().filter(fits).collect();
    let busy = fitting.iter().find(|it| workgroups(it) >= BUSY).or(fitting.last());
    busy.map_or(direct, |it| **it)
}

/// Which of the variables 0..rank `root` depends on.
fn variables(body: &Body, root: ExprId, rank: usize) -> Vec<bool> {
    let needed = body.needed([root]);
    let mut found = vec![false; rank];
    let mut see = |index: &Index| {
        index.leaves(&mut |leaf| {
            if let Atom::Var { axis, .. } = leaf
                && (*axis as usize) < rank
            {
                found[*axis as usize] = true;
            }
        })
    };
    for (id, expr, _) in body.iter() {
        match expr {
            _ if !needed[id.0 as usize] => {}
            Expr::Coord(at) => see(at),
            Expr::Load { at, .. } => at.iter().for_each(&mut see),
            Expr::Const(_)
            | Expr::Param(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Select(..)
            | Expr::Cast(_) => {}
        }
    }
    found
}

pub fn attention(space: &Shape, keys: usize, channels: usize, target: &Target) -> AttentionTile {
    let (queries, value_channels) = (space[2], space[3]);
    let widest = channels.max(value_channels) as u32;
    let mut tile = AttentionTile { size: limited(256, target), queries: 8, keys: 32 };
    // Query rows, one step of keys or values, and the scores between them: see `attention.wgsl`.
    let memory =
        |it: &AttentionTile| 4 * (it.queries * widest + it.keys * (widest + 1) + it.queries * it.keys);
    while memory(&tile) > target.max_workgroup_memory && (tile.keys > 1 || tile.queries > 1) {
        if tile.keys > 1 && tile.keys >= tile.queries { tile.keys /= 2 } else { tile.queries /= 2 }
    }
    while tile.queries as usize >= 2 * queries.max(1) {
        tile.queries /= 2;
    }
    while tile.keys as usize >= 2 * keys.max(1) {
        tile.keys /= 2;
    }
    tile
}
