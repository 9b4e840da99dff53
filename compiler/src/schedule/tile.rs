//! How each kernel runs on its target: workgroups, tiles, which template. Every tuned number of these choices is here.

use slotmap::SlotMap;

use super::{
    kernel::{AttentionTile, RowForm, Skeleton, Stage, Store, Team, Tile, Vars},
    lanes::Lanes,
};
use crate::{
    dtype::DType,
    index::{Atom, Index, linearise},
    lower::{Body, Expr, ExprId, TensorId, TensorInfo},
    scalar::ReduceOp,
    shape::Shape,
    target::Target,
};

/// Workgroups that keep a large GPU busy: measured on one of 132 cores, where 72 of a larger tile took less time than 144 of a
/// smaller one, and 64 more than 128.
const BUSY: usize = 70;

/// Rows and columns of a block of 32 invocations over a tile.
const BLOCK: [u32; 2] = [4, 8];

/// Rows shorter than this are reduced by one invocation each.
const SHORT_ROW: usize = 32;

/// Sums shorter than this over few results a batch are not worth a tile.
const SHORT_SUM: usize = 128;

/// Groups of neighbours below which a map leaves each element to an invocation of its own.
const FEW_VECTORS: usize = 2048;

/// Invocations of one workgroup on each of a large GPU's cores, a few times over. With fewer, small workgroups reach more cores.
const FEW_INVOCATIONS: usize = 1 << 14;

/// Expressions that neighbours may take together, all written out.
const EXPRESSIONS: usize = 1024;

/// Elements of a row that an invocation may keep in registers.
const KEPT: usize = 64;

/// Groups of neighbours that are read ahead where a row is too long to be kept.
const AHEAD: usize = 4;

/// Groups of neighbours in all rows that the device handles at once, one an invocation. Up to that, the time of one row
/// counts; beyond, how much is on its way.
const AT_ONCE: usize = 1 << 17;

/// Invocations of a workgroup of which several still fit one core with their registers.
const MOST: u32 = 512;

/// Invocations of a workgroup whose subgroups have rows of their own.
const SUBGROUPS_TOGETHER: u32 = 128;

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
fn lanes(
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

fn limited(wanted: u32, target: &Target) -> u32 {
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
    let members = match team {
        Team::Invocation { .. } => 1,
        Team::Subgroup { size, .. } | Team::Workgroup { size, .. } => size as usize,
    };
    let share = vectors.div_ceil(members).max(1);
    let elements = share * lanes as usize;
    let kept = elements <= KEPT && elements * body.len() <= EXPRESSIONS;
    let steps = if kept { share } else { share.min(AHEAD) };
    let loads = body.iter().filter(|(_, expr, _)| matches!(expr, Expr::Load { .. })).count();
    let early = kept && few && elements * loads <= KEPT;
    RowForm { team, lanes, steps: steps as u32, early }
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

pub fn contract(
    space: &Shape,
    depth: &Shape,
    body: &Body,
    (a, b): (ExprId, ExprId),
    tensors: &SlotMap<TensorId, TensorInfo>,
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
    let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
    let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
    let longer = |operand, vars: &[usize]| {
        run_along(body, operand, &extents, vars, tensors)
            > run_along(body, operand, &extents, &steps, tensors)
    };
    let along = [longer(a, &rows), longer(b, &cols)];
    let tile = match dots(&sizes, along, (a, b), body, (space, depth), tensors, target) {
        Some(form) => Tile::Dots(form),
        None => contract_tile(&sizes, along, body.dtype(a), target),
    };
    Skeleton::Contract { space: space.clone(), depth: depth.clone(), batch, rows, cols, a, b, tile }
}

struct Sizes {
    batch: usize,
    rows: usize,
    cols: usize,
    depth: usize,
}

/// How the products of one vector by a matrix that lies along the depth are shared out, where vectors of words can be read
/// there: each element of the matrix is then read once, in the order of memory.
fn dots(
    sizes: &Sizes,
    along: [bool; 2],
    (a, b): (ExprId, ExprId),
    body: &Body,
    (space, depth): (&Shape, &Shape),
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Option<RowForm> {
    if sizes.rows != 1 || sizes.depth < SHORT_SUM || along[1] || body.dtype(a) != DType::F32 {
        return None;
    }
    let factors = [a, b].map(|value| Stage { op: ReduceOp::Sum, value });
    let lanes = lanes((space.rank(), depth), body, &factors, &[], tensors, &|_| true);
    if lanes < 4 {
        return None;
    }
    let vectors = sizes.depth / lanes as usize;
    let most = limited(SUBGROUPS_TOGETHER, target);
    let wanted = vectors.div_ceil(AHEAD);
    let (size, subgroup) = match target.subgroup {
        Some((size, largest)) if size == largest && (4..=most).contains(&size) => {
            let most = (most / size * size).min(size * size) as usize;
            (wanted.next_multiple_of(size as usize).min(most) as u32, Some(size))
        }
        Some(_) | None => (wanted.next_power_of_two().max(32).min(1 << most.ilog2()) as u32, None),
    };
    let team = Team::Workgroup { size, subgroup };
    let share = vectors.div_ceil(size as usize);
    Some(RowForm { team, lanes, steps: share.min(AHEAD) as u32, early: false })
}

fn contract_tile(sizes: &Sizes, along: [bool; 2], dtype: DType, target: &Target) -> Tile {
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
    // A large tile reads least; one that leaves a part of the device idle takes longer than a smaller one.
    let fitting: Vec<&Matmul> = MATMULS.iter().filter(|it| it.fits(sizes, target)).collect();
    let busy = fitting.iter().find(|it| it.workgroups(sizes) >= BUSY).or(fitting.last());
    busy.map_or(direct, |it| it.tile(along))
}

/// Sizes of the template `matmul.wgsl`.
struct Matmul {
    /// Of the results of a workgroup and of an invocation.
    tile: [u32; 2],
    each: [u32; 2],
    depth: u32,
    split: u32,
    buffers: u32,
}

const fn matmul(tile: [u32; 2], each: [u32; 2], depth: u32, split: u32, buffers: u32) -> Matmul {
    Matmul { tile, each, depth, split, buffers }
}

/// Largest tiles first; of one size, the fastest first that was measured on a large GPU, then those that need less memory or
/// less depth.
const MATMULS: [Matmul; 19] = [
    matmul([128, 256], [8, 16], 16, 1, 1),
    matmul([128, 128], [8, 8], 16, 1, 2),
    matmul([128, 128], [8, 8], 8, 1, 1),
    matmul([64, 128], [8, 8], 8, 2, 2),
    matmul([64, 128], [8, 8], 8, 1, 2),
    matmul([64, 64], [8, 8], 8, 4, 2),
    matmul([64, 64], [8, 8], 8, 2, 1),
    matmul([64, 64], [4, 4], 8, 1, 2),
    matmul([32, 64], [8, 8], 8, 8, 1),
    matmul([32, 64], [8, 4], 8, 2, 2),
    matmul([32, 64], [4, 4], 8, 1, 2),
    matmul([32, 32], [8, 4], 8, 8, 2),
    matmul([32, 32], [8, 4], 8, 4, 1),
    matmul([32, 32], [4, 4], 8, 2, 2),
    matmul([32, 32], [4, 4], 8, 1, 2),
    matmul([16, 32], [4, 4], 8, 8, 2),
    matmul([16, 32], [4, 4], 8, 4, 2),
    matmul([16, 32], [4, 4], 8, 2, 2),
    matmul([16, 32], [4, 4], 8, 1, 2),
];

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

    fn workgroups(&self, sizes: &Sizes) -> usize {
        let [rows, cols] = self.tile.map(|it| it as usize);
        sizes.batch * sizes.rows.div_ceil(rows) * sizes.cols.div_ceil(cols)
    }

    /// Whether the target can run it, and every group of invocations has at least two slabs to add up.
    fn fits(&self, sizes: &Sizes, target: &Target) -> bool {
        self.invocations() <= limited(u32::MAX, target)
            && self.memory() <= target.max_workgroup_memory
            && (self.split == 1 || sizes.depth >= 2 * (self.split * self.depth) as usize)
    }

    fn tile(&self, [a_along_rows, b_along_cols]: [bool; 2]) -> Tile {
        let &Matmul { tile: [rows, cols], each: [rows_each, cols_each], depth, split, buffers } = self;
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
        }
    }
}

/// How many elements of the largest tensor that `operand` reads lie next to each other in memory along `vars`: 0 if
/// neighbours there are none in memory.
fn run_along(
    body: &Body,
    operand: ExprId,
    extents: &Shape,
    vars: &[usize],
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> usize {
    let needed = body.needed([operand]);
    let reads = body.iter().filter_map(|(id, expr, _)| match expr {
        Expr::Load { tensor, at, .. } if needed[id.0 as usize] => Some((&tensors[*tensor].ty.shape, at)),
        _ => None,
    });
    let widest = reads.reduce(|most, it| if it.0.count() > most.0.count() { it } else { most });
    let inner = vars.iter().copied().rev().find(|&it| extents[it] > 1);
    let (Some((shape, at)), Some(inner)) = (widest, inner) else { return 0 };
    let address = linearise(at, shape);
    let place = |number: i64| {
        address.eval(&mut |leaf| match leaf {
            Atom::Var { axis, .. } => (*axis as usize == inner) as i64 * number,
            Atom::Data { low, .. } => *low,
            Atom::Div(..) | Atom::Mod(..) => crate::bug!("not a leaf"),
        })
    };
    if place(1) - place(0) == 1 { extents[inner] } else { 0 }
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
