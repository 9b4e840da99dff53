//! How products run on their target: what are rows and columns, which template, which tiles. Every tuned number of these
//! choices is here, but for those of few rows (`few.rs`) and of `matmul.wgsl` (`matmul.rs`).

use slotmap::SlotMap;

use super::{
    few,
    kernel::{Skeleton, Stage, Store, Tile, Vars},
    matmul::{self, CORES, fastest},
    tile::{BUSY, limited, row_form},
};
use crate::{
    dtype::DType,
    index::{Atom, Index, linearise},
    lower::{Body, Expr, ExprId, TensorId, TensorInfo},
    scalar::{BinaryOp, ReduceOp},
    shape::Shape,
    target::Target,
};

/// Sums shorter than this over few results a batch are not worth a tile.
pub const SHORT_SUM: usize = 128;

#[expect(clippy::too_many_arguments, reason = "what a group has found out")]
pub fn contract(
    space: &Shape,
    depth: &Shape,
    body: &mut Body,
    (a, factors): (ExprId, &[ExprId]),
    sums: Vec<ExprId>,
    stores: &[Store],
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Skeleton {
    let (&b, others) = factors.split_first().unwrap_or_else(|| crate::bug!("a product of one factor"));
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
    if others.is_empty() && (turned || is_column) {
        std::mem::swap(&mut rows, &mut cols);
        std::mem::swap(&mut a, &mut b);
    }
    if sums.iter().any(|it| {
        let along = variables(body, *it, space.rank());
        cols.iter().any(|col| along[*col])
    }) {
        return as_rows((space, depth), body, (a, b), &sums, stores, tensors, target);
    }
    let sizes = Sizes { batch: count(&batch), rows: count(&rows), cols: count(&cols), depth: depth.count() };
    let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
    let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
    let along = along((space, depth), [(a, &rows), (b, &cols)], body, tensors);
    let others = others.to_vec();
    let factors: Vec<ExprId> = [b].into_iter().chain(others.iter().copied()).collect();
    let (all, place) = ((a, &factors[..]), (&cols, &steps[..]));
    let few = few::few(
        &sizes,
        along[1],
        all,
        sums.len(),
        body,
        &extents,
        (place.0, place.1),
        stores,
        tensors,
        target,
    );
    if few.is_none() && !sums.is_empty() && others.is_empty() {
        return as_rows((space, depth), body, (a, b), &sums, stores, tensors, target);
    }
    let tile = match few {
        Some(form) => Tile::Few(form),
        None => match cooperative(&sizes, along, (a, b), body, target) {
            Some(it) => it.tile(along, target),
            None => contract_tile(&sizes, along, body.dtype(a), target),
        },
    };
    Skeleton::Contract {
        space: space.clone(),
        depth: depth.clone(),
        batch,
        rows,
        cols,
        a,
        b,
        others,
        sums,
        tile,
    }
}

/// The product and the sums beside it as reductions of rows, one a result.
fn as_rows(
    (space, depth): (&Shape, &Shape),
    body: &mut Body,
    (a, b): (ExprId, ExprId),
    sums: &[ExprId],
    stores: &[Store],
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Skeleton {
    let product = body.binary(BinaryOp::Mul, a, b);
    let values = [product].into_iter().chain(sums.iter().copied());
    let stages: Vec<Stage> = values.map(|value| Stage { op: ReduceOp::Sum, value }).collect();
    let form = row_form((space, depth), body, &stages, stores, false, tensors, target);
    Skeleton::Rows { outer: space.clone(), inner: depth.clone(), stages, form }
}

/// Batch, rows and columns of a product that would be one of few rows with its first factor for rows; and whether its second
/// lies along the columns.
pub fn few_of(
    space: &Shape,
    depth: &Shape,
    body: &Body,
    factors: (ExprId, &[ExprId]),
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Option<([Vars; 3], bool)> {
    match contract(space, depth, &mut body.clone(), factors, Vec::new(), &[], tensors, target) {
        Skeleton::Contract { batch, rows, cols, a, tile: Tile::Few(few), .. } => {
            (a == factors.0).then_some(([batch, rows, cols], few.along_cols))
        }
        _ => None,
    }
}

/// Whether the longer runs in memory of each operand are those along its rows or columns, not along the depth.
fn along(
    (space, depth): (&Shape, &Shape),
    operands: [(ExprId, &Vars); 2],
    body: &Body,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> [bool; 2] {
    let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
    let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
    operands.map(|(operand, vars)| {
        run_along(body, operand, &extents, vars, tensors)
            > run_along(body, operand, &extents, &steps, tensors)
    })
}

/// Every tile of a product that the target can run and that does not compute many times what is wanted, with an estimate of
/// its time. Products that run in no tile stay as they are.
pub fn tiles(
    skeleton: &Skeleton,
    body: &Body,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Vec<(Tile, f64)> {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, others, sums, tile } = skeleton else {
        return Vec::new();
    };
    let count = |vars: &Vars| vars.iter().map(|&it| space[it]).product::<usize>();
    let sizes = Sizes { batch: count(batch), rows: count(rows), cols: count(cols), depth: depth.count() };
    match tile {
        Tile::Matmul { .. } | Tile::Cooperative { .. } => {}
        Tile::Few(own) => {
            let all = few::others(own, &sizes, (1 + others.len(), sums.len()), target);
            return all.into_iter().map(|(it, cost)| (Tile::Few(it), cost)).collect();
        }
        Tile::Direct { .. } => return Vec::new(),
    }
    let along = along((space, depth), [(*a, rows), (*b, cols)], body, tensors);
    // Families of tiles are no two of them compared: each has its best among the first.
    let mut all = Vec::new();
    let mut family = |mut tiles: Vec<(Tile, f64)>| {
        tiles.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.extend(tiles.into_iter().enumerate().map(|(rank, (tile, _))| (tile, rank as f64)));
    };
    family(matmul::fitting(&sizes, target).map(|(it, time)| (it.tile(along, target), time)).collect());
    if let Some(size) = subgroup(target) {
        let both = |holds: fn(&Body, ExprId) -> bool| holds(body, *a) && holds(body, *b);
        let pairs = target.pairs && both(|body, it| body.dtype(it) == DType::F32 && !is_guarded(body, it));
        let table: &[Cooperative] = match both(is_half) {
            true => &COOPERATIVES,
            false if pairs => &PAIRS,
            false => &[],
        };
        let fitting = table.iter().filter(|it| it.fits(&sizes, along, size, target));
        family(fitting.map(|it| (it.tile(along, target), it.cost(&sizes) as f64)).collect());
    }
    all
}

/// Why the target cannot run a product in `tile`.
pub fn fault(tile: &Tile, target: &Target) -> Option<&'static str> {
    let (invocations, memory) = match *tile {
        Tile::Matmul { .. } => match matmul::fault(tile) {
            Ok(found) => found,
            Err(why) => return Some(why),
        },
        Tile::Cooperative {
            parts,
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            buffers,
            strip,
            subgroup,
            a_along_rows,
            b_along_cols,
        } => {
            let it = matrices(parts, [rows, cols], [rows_each, cols_each], [depth, buffers, strip], 1);
            match it.fault(subgroup, [a_along_rows, b_along_cols], target) {
                Ok(found) => found,
                Err(why) => return Some(why),
            }
        }
        Tile::Few(_) => return None,
        Tile::Direct { workgroup } => (workgroup, 0),
    };
    if invocations == 0 || invocations > limited(u32::MAX, target) {
        return Some("more invocations than a workgroup may have");
    }
    (memory > target.max_workgroup_memory).then_some("more workgroup memory than there is")
}

#[derive(Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
}

impl Sizes {
    pub fn results(&self) -> usize {
        self.batch * self.rows * self.cols
    }

    pub fn tiles(&self, [rows, cols]: [u32; 2]) -> usize {
        self.batch * self.rows.div_ceil(rows as usize) * self.cols.div_ceil(cols as usize)
    }
}

fn contract_tile(sizes: &Sizes, along: [bool; 2], dtype: DType, target: &Target) -> Tile {
    let direct = Tile::Direct { workgroup: limited(64, target) };
    // The templates sum in f32.
    if dtype != DType::F32 || sizes.depth == 0 {
        return direct;
    }
    if sizes.rows <= 4 || (sizes.cols < 8 && sizes.depth < SHORT_SUM) {
        return direct;
    }
    fastest(sizes, target).map_or(direct, |it| it.0.tile(along, target))
}

/// Whether every value of an operand is one of f16.
pub fn is_half(body: &Body, operand: ExprId) -> bool {
    matches!(body.expr(operand), Expr::Cast(from) if body.dtype(*from) == DType::F16)
}

/// Whether what an operand reads may lie outside of a tensor, as a window's elements do.
fn is_guarded(body: &Body, operand: ExprId) -> bool {
    let needed = body.needed([operand]);
    body.iter()
        .any(|(id, expr, _)| needed[id.0 as usize] && matches!(expr, Expr::Load { guard: Some(_), .. }))
}

/// Sizes of the template `matmul_coop.wgsl`.
struct Cooperative {
    /// Of f16 that an element is made of: 1 or 2.
    parts: u32,
    /// Of the results of a workgroup and of a subgroup.
    tile: [u32; 2],
    each: [u32; 2],
    depth: u32,
    buffers: u32,
    strip: u32,
    /// Multiply-adds in a unit of time, of many tiles on all cores.
    speed: usize,
}

const fn matrices(
    parts: u32,
    tile: [u32; 2],
    each: [u32; 2],
    [depth, buffers, strip]: [u32; 3],
    speed: usize,
) -> Cooperative {
    Cooperative { parts, tile, each, depth, buffers, strip, speed }
}

/// For operands of f16, as measured on a large GPU with subgroups of 32. Of equal cost the first is taken.
const COOPERATIVES: [Cooperative; 6] = [
    matrices(1, [128, 256], [64, 64], [32, 1, 2], 260),
    matrices(1, [128, 192], [64, 48], [32, 1, 1], 230),
    matrices(1, [64, 64], [32, 32], [64, 1, 2], 189),
    matrices(1, [64, 64], [32, 32], [128, 1, 2], 180),
    matrices(1, [32, 32], [16, 16], [256, 1, 1], 80),
    matrices(1, [32, 32], [16, 16], [64, 1, 1], 109),
];

/// How long a slab takes at least, in the same units of time a core: reading it from memory.
const SLAB: usize = 1600;

/// Fewer of them than this take longer than invocations that share the depth.
const FEW_TILES: usize = 32;

/// For operands of f32, largest first. Smaller tiles are no faster than f32 itself.
const PAIRS: [Cooperative; 2] =
    [matrices(2, [128, 128], [64, 32], [32, 1, 1], 1), matrices(2, [64, 128], [32, 32], [32, 1, 1], 1)];

/// Fewer of the smaller of them leave so much of a device idle that f32 is faster.
const FEW_PAIRS: usize = 96;

/// The tile of cooperative matrices that takes least time, where the target has such matrices and they are faster.
fn cooperative(
    sizes: &Sizes,
    along: [bool; 2],
    (a, b): (ExprId, ExprId),
    body: &Body,
    target: &Target,
) -> Option<&'static Cooperative> {
    let size = subgroup(target)?;
    let both = |holds: fn(&Body, ExprId) -> bool| holds(body, a) && holds(body, b);
    if both(is_half) {
        let fitting = COOPERATIVES.iter().filter(|it| it.fits(sizes, along, size, target));
        return fitting.filter(|it| it.workgroups(sizes) >= FEW_TILES).min_by_key(|it| it.cost(sizes));
    }
    if !target.pairs || !both(|body, it| body.dtype(it) == DType::F32 && !is_guarded(body, it)) {
        return None;
    }
    let fitting: Vec<&Cooperative> = PAIRS.iter().filter(|it| it.fits(sizes, along, size, target)).collect();
    let busy = fitting.iter().find(|it| it.workgroups(sizes) >= BUSY).or(fitting.last())?;
    (busy.workgroups(sizes) >= FEW_PAIRS).then_some(*busy)
}

/// The size of all subgroups of a target whose subgroups multiply matrices of 16 x 16.
pub fn subgroup(target: &Target) -> Option<u32> {
    let (least, most) = target.subgroup?;
    let multiplies = target.f16 && target.cooperative.contains(&[16, 16, 16]);
    (multiplies && least == most).then_some(most)
}

impl Cooperative {
    fn subgroups(&self) -> u32 {
        self.tile[0] / self.each[0] * (self.tile[1] / self.each[1])
    }

    fn workgroups(&self, sizes: &Sizes) -> usize {
        sizes.tiles(self.tile)
    }

    /// Invocations and bytes of workgroup memory, or why the target cannot run it with subgroups of `size`.
    fn fault(&self, size: u32, along: [bool; 2], target: &Target) -> Result<(u32, u32), &'static str> {
        let [rows, cols] = self.tile;
        let [rows_each, cols_each] = self.each;
        let sizes = [rows, cols, rows_each, cols_each, self.depth];
        if sizes.iter().any(|it| *it == 0 || *it > 1 << 12 || !it.is_multiple_of(16))
            || !rows.is_multiple_of(rows_each)
            || !cols.is_multiple_of(cols_each)
            || !(1..=2).contains(&self.parts)
            || !(1..=2).contains(&self.buffers)
            || self.strip == 0
            || !(cols_each / 16).is_multiple_of(self.strip)
        {
            return Err("tiles are no multiples of matrices or of a subgroup's");
        }
        if subgroup(target) != Some(size) {
            return Err("the target multiplies no such matrices");
        }
        Ok((self.subgroups() * size, self.memory(along)))
    }

    /// Time for a thousand steps along the depth.
    fn cost(&self, sizes: &Sizes) -> usize {
        let [rows, cols] = self.tile.map(|it| it as usize);
        let turns = self.workgroups(sizes).div_ceil(CORES);
        (1000 * turns * rows * cols / self.speed).max(1000 * SLAB / self.depth as usize)
    }

    /// Whether the target, with subgroups of `size`, can run it: every invocation loads as much as any other.
    fn fits(&self, sizes: &Sizes, along: [bool; 2], size: u32, target: &Target) -> bool {
        let invocations = self.subgroups() * size;
        self.tile.iter().all(|it| (self.depth / 4 * it).is_multiple_of(invocations))
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

    fn tile(&self, [a_along_rows, b_along_cols]: [bool; 2], target: &Target) -> Tile {
        let &Cooperative { parts, tile: [rows, cols], each: [rows_each, cols_each], depth, .. } = self;
        let &Cooperative { buffers, strip, .. } = self;
        let subgroup = subgroup(target).unwrap_or_else(|| crate::bug!("no subgroups of one size"));
        Tile::Cooperative {
            parts,
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            buffers,
            strip,
            subgroup,
            a_along_rows,
            b_along_cols,
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
pub fn variables(body: &Body, root: ExprId, rank: usize) -> Vec<bool> {
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
