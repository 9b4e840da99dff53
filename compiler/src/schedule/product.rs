//! How products run on their target: what are rows and columns, which template, which tiles. Every tuned number of these
//! choices is here, but for those of few rows (`few.rs`), of `matmul.wgsl` (`matmul.rs`) and of `matmul_coop.wgsl` (`cooperative.rs`).

use slotmap::SlotMap;

use super::{
    cooperative::{self, Operands},
    few,
    kernel::{Kernel, Skeleton, Stage, Store, Tile, Vars},
    matmul,
    tile::{limited, row_form},
};
use crate::{
    dtype::DType,
    index::{Atom, linearise},
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
    let (by_a, by_b) = (body.variables(a), body.variables(b));
    let (mut batch, mut rows, mut cols) = (Vars::new(), Vars::new(), Vars::new());
    for var in 0..space.rank() {
        match (by_a.contains(&var), by_b.contains(&var)) {
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
        let along = body.variables(*it);
        cols.iter().any(|col| along.contains(col))
    }) {
        return as_rows((space, depth), body, (a, b), &sums, stores, tensors, target);
    }
    let sizes = Sizes::of([&batch, &rows, &cols], (space, depth));
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
        None => {
            let inner = neighbours(&extents, [&rows, &cols, &steps], along);
            let operands = on_matrices(body, [a, b], inner, along, target);
            contract_tile(&sizes, along, body.dtype(a), operands, target)
        }
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

/// Of a product on tiles: its sizes, the axes that its operands are read along, and how the template for cooperative matrices
/// reads them.
fn asked(skeleton: &Skeleton, body: &Body, target: &Target) -> Option<(Sizes, [bool; 2], Option<Operands>)> {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, tile, .. } = skeleton else {
        return None;
    };
    let along = match *tile {
        Tile::Matmul { a_along_rows, b_along_cols, .. }
        | Tile::Cooperative { a_along_rows, b_along_cols, .. } => [a_along_rows, b_along_cols],
        Tile::Few(_) | Tile::Direct { .. } => return None,
    };
    let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
    let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
    let inner = neighbours(&extents, [rows, cols, &steps], along);
    let sizes = Sizes::of([batch, rows, cols], (space, depth));
    Some((sizes, along, on_matrices(body, [*a, *b], inner, along, target)))
}

/// Why a product that the GPU makes in tiles is not on cooperative matrices; `None` of what is no such product, and where not
/// the estimate decided but what was measured: of pieces, or of this very kernel.
pub fn why_not_on_matrices(kernel: &Kernel, target: &Target) -> Option<cooperative::Why> {
    let Skeleton::Contract { tile: Tile::Matmul { .. }, .. } = kernel.skeleton else { return None };
    let (sizes, along, operands) = asked(&kernel.skeleton, &kernel.body, target)?;
    match fastest(&sizes, along, operands, target) {
        Some((Tile::Cooperative { .. }, _)) => None,
        _ => Some(cooperative::why_not(&sizes, operands, target)),
    }
}

/// Every tile of a product that the target can run and that does not compute many times what is wanted, with an estimate of
/// its time. Products that run in no tile stay as they are.
pub fn tiles(skeleton: &Skeleton, body: &Body, target: &Target) -> Vec<(Tile, f64)> {
    if let Skeleton::Contract {
        space, depth, batch, rows, cols, others, sums, tile: Tile::Few(own), ..
    } = skeleton
    {
        let sizes = Sizes::of([batch, rows, cols], (space, depth));
        let all = few::others(own, &sizes, (1 + others.len(), sums.len()), target);
        return all.into_iter().map(|(it, cost)| (Tile::Few(it), cost)).collect();
    }
    let Some((sizes, along, operands)) = asked(skeleton, body, target) else { return Vec::new() };
    // Families of tiles are no two of them compared: each has its best among the first.
    let mut all = Vec::new();
    let mut family = |mut tiles: Vec<(Tile, f64)>| {
        tiles.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.extend(tiles.into_iter().enumerate().map(|(rank, (tile, _))| (tile, rank as f64)));
    };
    family(matmul::fitting(&sizes, target).map(|(it, time)| (it.tile(along, target), time)).collect());
    if let Some(operands) = operands {
        let fitting = cooperative::fitting(&sizes, operands, target);
        family(fitting.map(|(it, time)| (it.tile(operands, target), time)).collect());
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
        Tile::Cooperative { .. } => match cooperative::fault(tile, target) {
            Ok(found) => found,
            Err(why) => return Some(why),
        },
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
    fn of([batch, rows, cols]: [&Vars; 3], (space, depth): (&Shape, &Shape)) -> Sizes {
        let count = |vars: &Vars| vars.iter().map(|&it| space[it]).product::<usize>();
        Sizes { batch: count(batch), rows: count(rows), cols: count(cols), depth: depth.count() }
    }

    pub fn results(&self) -> usize {
        self.batch * self.rows * self.cols
    }

    pub fn tiles(&self, [rows, cols]: [u32; 2]) -> usize {
        self.batch * self.rows.div_ceil(rows as usize) * self.cols.div_ceil(cols as usize)
    }
}

fn contract_tile(
    sizes: &Sizes,
    along: [bool; 2],
    dtype: DType,
    operands: Option<Operands>,
    target: &Target,
) -> Tile {
    let direct = Tile::Direct { workgroup: limited(64, target) };
    // The templates sum in f32.
    if dtype != DType::F32 || sizes.depth == 0 {
        return direct;
    }
    if sizes.rows <= 4 || (sizes.cols < 8 && sizes.depth < SHORT_SUM) {
        return direct;
    }
    fastest(sizes, along, operands, target).map_or(direct, |it| it.0)
}

/// Whether every value of an operand is one of f16.
pub fn is_half(body: &Body, operand: ExprId) -> bool {
    matches!(body.expr(operand), Expr::Cast(from) if body.dtype(*from) == DType::F16)
}

/// How the template for cooperative matrices reads the operands, if it multiplies such. `inner`: how many neighbours each has
/// along the variable that it is read along.
fn on_matrices(
    body: &Body,
    operands: [ExprId; 2],
    inner: [usize; 2],
    along: [bool; 2],
    target: &Target,
) -> Option<Operands> {
    let both = |holds: fn(&Body, ExprId) -> bool| operands.iter().all(|it| holds(body, *it));
    let parts = match () {
        _ if both(is_half) => 1,
        _ if target.pairs && both(|body, it| body.dtype(it) == DType::F32) => 2,
        _ => return None,
    };
    let apart = operands.iter().zip(inner).any(|(it, inner)| inner % 4 != 0 && is_guarded(body, *it));
    let eights = parts == 1 && inner.iter().all(|it| it.is_multiple_of(8));
    Some(Operands { parts, along, eights, apart })
}

/// Whether what an operand reads may lie outside of a tensor, as a window's elements do.
fn is_guarded(body: &Body, operand: ExprId) -> bool {
    let needed = body.needed([operand]);
    body.iter()
        .any(|(id, expr, _)| needed[id.0 as usize] && matches!(expr, Expr::Load { guard: Some(_), .. }))
}

/// Neighbours that the operands of a product have along the innermost of the variables that they are read along.
fn neighbours(extents: &Shape, [rows, cols, steps]: [&[usize]; 3], along: [bool; 2]) -> [usize; 2] {
    [(along[0], rows), (along[1], cols)].map(|(along, own)| {
        let vars = if along { own } else { steps };
        vars.iter().rev().map(|&it| extents[it]).find(|it| *it > 1).unwrap_or(1)
    })
}

/// The tile that takes the shortest time, if the target can run any, and the microseconds.
fn fastest(
    sizes: &Sizes,
    along: [bool; 2],
    operands: Option<Operands>,
    target: &Target,
) -> Option<(Tile, f64)> {
    let matrices = operands.and_then(|it| Some((it, cooperative::fastest(sizes, it, target)?)));
    let plain = matmul::fastest(sizes, target);
    match (matrices, plain) {
        (Some((operands, (it, time))), plain) if plain.as_ref().is_none_or(|it| time <= it.1) => {
            Some((it.tile(operands, target), time))
        }
        (_, plain) => plain.map(|(it, time)| (it.tile(along, target), time)),
    }
}

/// What a kernel that adds pieces of sums up takes in microseconds, and what a partial sum costs in bytes.
const SECOND_KERNEL: f64 = 4.5;
const PARTIAL: usize = 16;

/// The fewest terms of a piece of a sum, what their number is a multiple of, and the most pieces.
const SHORTEST_PIECE: usize = 64;
const WHOLE_PIECE: usize = 16;
const MOST_PIECES: usize = 16;

/// In how many pieces the depth of a product is gone through, by a kernel of its own, if that pays. `joined`: what adds them
/// up is a kernel that there is anyway.
pub fn pieces(skeleton: &Skeleton, body: &Body, joined: bool, target: &Target) -> Option<usize> {
    let (sizes, along, operands) = asked(skeleton, body, target)?;
    // With pairs in pieces a whole model of such products, BERT-base of one sentence, took a fifth longer than with f32 in pieces.
    let in_pieces = operands.filter(|it| it.parts == 1);
    let time = |pieces: usize| {
        let each = Sizes { batch: sizes.batch * pieces, depth: sizes.depth / pieces, ..sizes };
        let (operands, second) = match pieces {
            1 => (operands, 0.0),
            _ => {
                let launch = if joined { 0.0 } else { SECOND_KERNEL };
                (in_pieces, launch + (each.results() * PARTIAL) as f64 / matmul::BYTES)
            }
        };
        Some((fastest(&each, along, operands, target)?.1 + second, pieces))
    };
    let fits =
        |it: &usize| sizes.depth.is_multiple_of(it * WHOLE_PIECE) && sizes.depth / it >= SHORTEST_PIECE;
    let all = [1].into_iter().chain((2..=MOST_PIECES).filter(fits)).filter_map(time);
    let best = all.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.1 > 1).then_some(best.1)
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
