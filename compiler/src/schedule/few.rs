//! Products of few rows by a matrix: who reads which part of the matrix, and who puts sums together.
//!
//! In: a product of at most `ROWS` rows. Out: `Few`, or `None` where tiles or single sums do better. Each element of the matrix
//! is read once, in vectors where it lies so in memory, for all rows. Every tuned number of this choice is here.

use slotmap::SlotMap;

use super::{
    kernel::{Store, Vars},
    lanes::Lanes,
    product::{SHORT_SUM, Sizes},
    tile::limited,
};
use crate::{
    dtype::DType,
    index::Index,
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    shape::Shape,
    target::Target,
};

/// A workgroup of `size` invocations makes all rows of some columns; `deep` of them share the depth of one column: neighbours
/// where b lies along the depth, else those `size / deep` apart, and neighbours have neighbouring columns. An invocation
/// takes a block of b at a time, `depth` by `cols` neighbours, and reads `ahead` blocks before it multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Few {
    pub size: u32,
    /// A divisor of `size`.
    pub deep: u32,
    /// A divisor of the product's depth.
    pub depth: u32,
    /// Where b lies along the columns, a divisor of their number.
    pub cols: u32,
    pub along_cols: bool,
    pub ahead: u32,
    /// Before a round of blocks is multiplied, what the next reads of b is on its way.
    pub early: bool,
    /// The size of all subgroups of the target, a divisor of `deep`, where subgroups put sums together before workgroup
    /// memory does. They are neighbours, so b lies along the depth.
    pub subgroup: Option<u32>,
    /// Rows whose sums lie in workgroup memory at a time.
    pub held: u32,
    /// Neighbouring columns that an invocation stores together: a divisor of the number of columns and of a workgroup's.
    pub stored: u32,
}

impl Few {
    /// Columns of a workgroup.
    pub fn across(&self) -> u32 {
        self.size / self.deep * self.cols
    }

    /// Partial sums of one result in workgroup memory.
    pub fn parts(&self) -> u32 {
        self.deep / self.subgroup.unwrap_or(1)
    }

    /// Sums in workgroup memory of one share of the depth: of each row, those of its results with each of `factors` matrices,
    /// and `sums` of its own.
    pub fn partial(&self, factors: usize, sums: usize) -> u32 {
        self.held * (self.across() * factors as u32 + sums as u32)
    }

    /// Bytes of workgroup memory.
    pub fn memory(&self, factors: usize, sums: usize) -> u32 {
        4 * self.parts() * self.partial(factors, sums)
    }

    /// The same with columns stored in pairs, if that may be, and as many rows in memory as it holds.
    fn settled(self, pairs: bool, rows: usize, (factors, sums): (usize, usize), target: &Target) -> Few {
        let stored = if pairs && self.across().is_multiple_of(2) { 2 } else { 1 };
        let one = Few { stored, held: 1, ..self };
        let fitting = target.max_workgroup_memory / one.memory(factors, sums).max(1);
        Few { held: fitting.clamp(1, rows as u32), ..one }
    }

    /// What of the above does not hold.
    pub fn fault(
        &self,
        cols: usize,
        depth: usize,
        (factors, sums): (usize, usize),
        target: &Target,
    ) -> Option<&'static str> {
        let &Few { size, deep, depth: each, cols: own, along_cols, ahead, early: _, subgroup, held, stored } =
            self;
        let divides = |part: u32, whole: usize| part > 0 && whole.is_multiple_of(part as usize);
        let checks = [
            (divides(deep, size as usize), "the depth is shared by a part of a workgroup"),
            (divides(each, depth), "blocks are no part of the depth"),
            (own > 0 && (!along_cols || divides(own, cols)), "blocks are no part of the columns"),
            (ahead > 0 && held > 0, "nothing is read ahead, or no row held"),
            (
                subgroup.is_none_or(|it| !along_cols && divides(it, deep as usize)),
                "subgroups do not share the depth",
            ),
            (
                subgroup.is_none_or(|it| target.subgroup == Some((it, it))),
                "subgroups of the target are of another size",
            ),
            (divides(stored, cols) && divides(stored, self.across() as usize), "columns stored together"),
        ];
        let broken = checks.into_iter().find(|it| !it.0).map(|it| it.1);
        // What follows divides by what was checked.
        broken.or_else(|| {
            (self.memory(factors, sums) > target.max_workgroup_memory)
                .then_some("more workgroup memory than there is")
        })
    }
}

/// Rows up to which a product is one of few rows, and those of products whose matrix is not read in vectors.
const ROWS: usize = 8;
const ROWS_OF_SINGLES: usize = 4;

/// Where b lies along the depth, up to so many rows and factors: invocations, how many of them share a column at most, columns
/// of one, blocks that are read together, whether blocks of 8 elements are read a round early, and whether this is only for depths of
/// which all have as many blocks: of others, some would wait for the rest.
struct Along {
    rows: usize,
    factors: usize,
    size: u32,
    deep: u32,
    cols: u32,
    ahead: u32,
    early: bool,
    whole: bool,
}

impl Along {
    /// How many invocations share a column of so many blocks.
    fn deep(&self, blocks: usize) -> u32 {
        blocks.next_power_of_two().min(self.deep as usize) as u32
    }
}

/// The first that has at least as many rows and factors, as measured on a large GPU with subgroups of 32: of one row, many
/// invocations that read little each keep more of memory busy than few that read much.
const ALONG_DEPTH: [Along; 9] = [
    Along { rows: 1, factors: 1, size: 256, deep: 128, cols: 2, ahead: 1, early: false, whole: true },
    Along { rows: 1, factors: 1, size: 128, deep: 64, cols: 1, ahead: 2, early: false, whole: true },
    Along { rows: 1, factors: 1, size: 256, deep: 128, cols: 2, ahead: 1, early: false, whole: false },
    Along { rows: 1, factors: 2, size: 256, deep: 128, cols: 1, ahead: 1, early: false, whole: false },
    Along { rows: 2, factors: 1, size: 128, deep: 32, cols: 2, ahead: 2, early: false, whole: false },
    Along { rows: 2, factors: 2, size: 128, deep: 32, cols: 1, ahead: 2, early: false, whole: false },
    Along { rows: 4, factors: 1, size: 128, deep: 32, cols: 4, ahead: 1, early: false, whole: false },
    Along { rows: 8, factors: 1, size: 128, deep: 32, cols: 4, ahead: 1, early: true, whole: false },
    Along { rows: 8, factors: 2, size: 128, deep: 32, cols: 2, ahead: 1, early: false, whole: false },
];

/// Rows from which on elements of a word are read a round early there.
const EARLY: usize = 3;

/// Where b lies along the columns: up to so many sums of an invocation, how many invocations there are, and how many of them
/// are next to each other at most and at least.
struct Across {
    sums: usize,
    size: u32,
    most: u32,
    early: bool,
}

/// Sums of an invocation at most.
const SUMS: usize = 64;

/// Matrices by which one kernel multiplies. Pairs are what gates are.
pub const FACTORS: usize = 2;

/// The first that has at least as many sums, measured like the above.
const ALONG_COLS: [Across; 3] = [
    Across { sums: 8, size: 1024, most: 32, early: true },
    Across { sums: 16, size: 1024, most: 32, early: false },
    Across { sums: 64, size: 512, most: 16, early: true },
];

/// Fewer next to each other read too little of a line of memory; workgroups there that keep a large GPU busy.
const LEAST_ACROSS: u32 = 4;
const WORKGROUPS: usize = 100;

/// How the product of few rows runs on the target. `b_along_cols`: b's longer runs in memory are those along the columns.
#[expect(clippy::too_many_arguments, reason = "a product is this much")]
pub fn few(
    sizes: &Sizes,
    b_along_cols: bool,
    (a, factors): (ExprId, &[ExprId]),
    sums: usize,
    body: &Body,
    extents: &Shape,
    (cols, steps): (&Vars, &[usize]),
    stores: &[Store],
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Option<Few> {
    // Sums are of f32.
    if sizes.rows > ROWS || sizes.depth < SHORT_SUM || body.dtype(a) != DType::F32 {
        return None;
    }
    let along = if b_along_cols { cols } else { steps };
    let run = factors.iter().map(|it| vector(body, *it, extents, along, tensors)).min()?;
    let count = factors.len();
    if count == 1 && sizes.rows > ROWS_OF_SINGLES && run < 4 {
        return None;
    }
    // Columns of an invocation, whose sums must be in registers.
    let columns = |most: u32| {
        let fits = |it: &u32| *it == 1 || sizes.rows * *it as usize * count <= SUMS;
        std::iter::successors(Some(most), |it| Some(it / 2)).find(fits).unwrap_or(1)
    };
    let most = limited(u32::MAX, target);
    let pairs = pairs(extents, cols, stores, tensors);
    let finish = |it: Few| it.settled(pairs, sizes.rows, (count, sums), target);
    let fits = |it: &Few| it.memory(count, sums) <= target.max_workgroup_memory;
    let one = Few {
        size: 1,
        deep: 1,
        depth: 1,
        cols: 1,
        along_cols: b_along_cols,
        ahead: 1,
        early: false,
        subgroup: None,
        held: 1,
        stored: 1,
    };
    if b_along_cols {
        let depth = [4, 2, 1].into_iter().find(|it| sizes.depth.is_multiple_of(*it))? as u32;
        let run = columns(run);
        let it = ALONG_COLS.iter().find(|it| it.sums >= sizes.rows * run as usize * count)?;
        // Every invocation has partial sums of one row at least in memory.
        let most = most.min(target.max_workgroup_memory / (4 * run * count as u32));
        let size = it.size.min(1 << most.max(1).ilog2());
        // Few columns leave invocations for the depth.
        let vectors = (sizes.cols / run as usize).next_power_of_two().min(it.most.min(size) as usize) as u32;
        let form = |across: u32| {
            let deep = size / across;
            finish(Few { size, deep, depth, cols: run, early: it.early, ..one })
        };
        let halved = std::iter::successors(Some(vectors), |it| Some(it / 2).filter(|it| *it >= LEAST_ACROSS));
        let fitting: Vec<Few> = halved.map(form).filter(fits).collect();
        let busy = |it: &&Few| sizes.batch * sizes.cols.div_ceil(it.across() as usize) >= WORKGROUPS;
        return fitting.iter().find(busy).or(fitting.last()).copied();
    }
    let blocks = sizes.depth / run as usize;
    let even = |it: &Along| blocks.is_multiple_of(it.deep(blocks) as usize);
    let it = (ALONG_DEPTH.iter())
        .find(|it| it.rows >= sizes.rows && it.factors >= count && (!it.whole || even(it)))?;
    let size = it.size.min(1 << most.ilog2());
    let subgroup =
        (target.subgroup).filter(|(least, most)| least == most && size.is_multiple_of(*least)).map(|it| it.0);
    let deep = it.deep(blocks).max(subgroup.unwrap_or(1)).min(size);
    let cols = it.cols.min(sizes.cols.next_power_of_two() as u32);
    let early = if run <= 4 { sizes.rows >= EARLY } else { it.early };
    let form = Few { size, deep, depth: run, cols, ahead: it.ahead, early, subgroup, ..one };
    Some(finish(form)).filter(fits)
}

/// Other ways to run what runs as `own`, a product of so many factors and sums, and how little each promises: most promise those
/// of as many columns an invocation.
pub fn others(own: &Few, sizes: &Sizes, (factors, sums): (usize, usize), target: &Target) -> Vec<(Few, f64)> {
    let along_depth = OTHERS_ALONG_DEPTH.iter().map(|&[size, deep, cols, ahead, early]| {
        let deep = deep.max(own.subgroup.unwrap_or(1)).min(size);
        Few { size, deep, cols, ahead, early: early == 1, ..*own }
    });
    let along_cols = OTHERS_ALONG_COLS.iter().map(|&[size, across, ahead, early]| {
        let deep = size / across;
        Few { size, deep, ahead, early: early == 1, ..*own }
    });
    let all: Vec<Few> = if own.along_cols { along_cols.collect() } else { along_depth.collect() };
    let finish = |it: Few| it.settled(own.stored == 2, sizes.rows, (factors, sums), target);
    let fits = |it: &Few| {
        it.size <= limited(u32::MAX, target)
            && sizes.rows * it.cols as usize * factors <= SUMS
            && (it.deep * it.depth) as usize <= sizes.depth.next_power_of_two()
            && it.fault(sizes.cols, sizes.depth, (factors, sums), target).is_none()
    };
    let cost = |(rank, it): (usize, Few)| {
        let apart = it.cols.ilog2().abs_diff(own.cols.ilog2()) as usize;
        (it, (apart * all.len() + rank) as f64)
    };
    all.iter().copied().map(finish).enumerate().filter(|it| fits(&it.1)).map(cost).collect()
}

/// Invocations, how many share a column, columns of one, blocks read together, and whether a round early: those that were among
/// the fastest for some product and number of rows on a large GPU.
const OTHERS_ALONG_DEPTH: [[u32; 5]; 14] = [
    [256, 128, 2, 1, 0],
    [128, 32, 1, 4, 0],
    [256, 256, 2, 1, 0],
    [256, 128, 1, 2, 0],
    [128, 32, 2, 4, 0],
    [128, 32, 4, 1, 0],
    [128, 32, 4, 1, 1],
    [128, 32, 2, 2, 0],
    [128, 128, 2, 2, 0],
    [256, 128, 1, 1, 0],
    [128, 64, 1, 2, 0],
    [256, 32, 4, 1, 0],
    [512, 128, 2, 1, 0],
    [64, 32, 1, 8, 0],
];

/// Invocations, how many of them are next to each other, blocks read together, and whether a round early.
const OTHERS_ALONG_COLS: [[u32; 4]; 8] = [
    [1024, 32, 1, 1],
    [1024, 32, 1, 0],
    [512, 16, 1, 1],
    [512, 16, 2, 0],
    [512, 32, 1, 0],
    [256, 16, 1, 1],
    [256, 8, 2, 0],
    [1024, 16, 1, 0],
];

/// How many neighbours along `vars` of the largest tensor that `operand` reads are one access: 8 of 16 bits, or 4, 2, 1.
fn vector(
    body: &Body,
    operand: ExprId,
    extents: &Shape,
    vars: &[usize],
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> u32 {
    let needed = body.needed([operand]);
    let reads = body.iter().filter_map(|(id, expr, _)| match expr {
        Expr::Load { tensor, at, .. } if needed[id.0 as usize] => Some((&tensors[*tensor].ty, at)),
        _ => None,
    });
    let Some((ty, at)) = reads.reduce(|most, it| if it.0.bytes() > most.0.bytes() { it } else { most })
    else {
        return 1;
    };
    let fits = |count: u32| {
        let (unit, count) = (4 * ty.dtype.per_word(), count as u64);
        let lanes = Lanes::some(extents, vars, count as u32).filter(|_| count <= unit);
        lanes.is_some_and(|it| {
            (ty.shape.count() as u64).is_multiple_of(count)
                && matches!(it.run(at, &ty.shape, count), Some(Some(0)))
        })
    };
    [8, 4, 2].into_iter().find(|it| fits(*it)).unwrap_or(1)
}

/// Whether something of 16 bits is stored, and columns in pairs are whole words of it.
fn pairs(extents: &Shape, cols: &Vars, stores: &[Store], tensors: &SlotMap<TensorId, TensorInfo>) -> bool {
    let Some(lanes) = Lanes::some(extents, cols, 2) else { return false };
    let fixed = |at: &Coords| !at.iter().any(Index::reads_data);
    let mut halves = stores.iter().filter(|it| tensors[it.tensor].ty.dtype.per_word() == 2).peekable();
    halves.peek().is_some()
        && halves.all(|it| {
            let shape = &tensors[it.tensor].ty.shape;
            fixed(&it.at) && shape.count().is_multiple_of(2) && lanes.run(&it.at, shape, 2) == Some(Some(0))
        })
}
