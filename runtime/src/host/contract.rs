//! Kernels that sum products: matrix products and convolutions.
//!
//! Rows and columns are swapped where needed so that the last variable of the results is a column. Work is cut into tiles
//! of rows or of columns, whole in the summed axis; a tile is made by the matrix product of the `gemm` crate, in the tensor
//! itself if it is stored as it is, else in scratch memory from where the stores read it.

use smallvec::SmallVec;
use wgfuse_compiler::{
    dtype::DType,
    lower::{Body, Expr, ExprId},
    scalar::{BinaryOp, ReduceOp},
    schedule::kernel::{Stage, Vars},
    shape::Shape,
};

use super::{
    Operand, Parts,
    finish::{Finish, Tile},
    loops::Lane,
    rows::Rows,
    scratch::{self, Shared},
    side::{self, Axis, Matrix, Product, Side},
};

/// Bytes of a computed panel, about half of a second-level cache.
pub const PANEL: usize = 512 * 1024;

/// Most bytes of a factor that is computed whole although the other one is not computed.
const AHEAD: usize = 8 << 20;

pub struct Contract {
    vars: usize,
    lane: Lane,
    batch: Axis,
    rows: Axis,
    cols: Axis,
    depth: Axis,
    a: Side,
    b: Side,
    finish: Finish,
}

/// The sum of `a * b` as a reduction of rows.
pub fn as_rows(parts: &Parts, space: &Shape, depth: &Shape, [a, b]: [ExprId; 2], sums: &[ExprId]) -> Rows {
    let mut body = parts.body.clone();
    let dtype = result_type(parts, a);
    let [a, b] = [a, b].map(|it| match dtype {
        float if float.is_narrow_float() => side::widened(&mut body, it),
        _ => body.cast(dtype, it),
    });
    let value = body.binary(BinaryOp::Mul, a, b);
    let values = [value].into_iter().chain(sums.iter().copied());
    let stages: Vec<Stage> = values.map(|value| Stage { op: ReduceOp::Sum, value }).collect();
    let types = [dtype].into_iter().chain(sums.iter().map(|it| body.dtype(*it))).collect();
    let parts = Parts { body: &body, ..*parts };
    Rows::with_params(&parts, space, depth, &stages, types)
}

/// The type of `Param(0)`.
pub fn result_type(parts: &Parts, a: ExprId) -> DType {
    let param = parts.body.iter().find(|(_, expr, _)| matches!(expr, Expr::Param(0)));
    param.map_or(parts.body.dtype(a), |(.., dtype)| dtype)
}

impl Contract {
    /// `None` where sums of products one by one are the better way, or the only one.
    pub fn new(
        parts: &Parts,
        depth: &Shape,
        [batch, rows, cols]: [&Vars; 3],
        [a, b]: [ExprId; 2],
    ) -> Option<Contract> {
        let dtype = result_type(parts, a);
        let mut body: Body = parts.body.clone();
        let (a, b) = (side::widened(&mut body, a), side::widened(&mut body, b));
        let lane = Lane::of(dtype);
        let fits = [a, b].iter().all(|it| Lane::of(body.dtype(*it)) == lane);
        if !fits || !matches!(lane, Lane::F32 | Lane::F64) {
            return None;
        }
        let parts = &Parts { body: &body, ..*parts };
        let rank = batch.len() + rows.len() + cols.len();
        let axis = |vars: &[usize]| Axis::new(vars, parts.space);
        let last = |vars: &Vars| vars.iter().filter(|it| parts.space.extents()[**it] > 1).max().copied();
        let ((rows, a), (cols, b)) = match last(rows) > last(cols) {
            true => ((axis(cols), b), (axis(rows), a)),
            false => ((axis(rows), a), (axis(cols), b)),
        };
        let depth_vars: Vec<usize> = (rank..rank + depth.rank()).collect();
        let depth = axis(&depth_vars);
        // Few results of a short sum: packing would cost more than multiplying.
        let thin = rows.count.min(cols.count) < 4;
        let short = depth.count < 32 || (rows.count < 4 && cols.count < 4);
        if depth.count == 0 || (thin && short) {
            return None;
        }
        Some(Contract {
            vars: parts.space.extents().len(),
            lane,
            batch: axis(batch),
            a: Side::new(parts, &rows, &depth, a, lane),
            b: Side::new(parts, &cols, &depth, b, lane),
            finish: Finish::new(parts, dtype, lane, &rows, &cols),
            rows,
            cols,
            depth,
        })
    }

    /// # Safety
    /// As `host::run`.
    pub unsafe fn run(&self, operands: &[Operand]) {
        let (rows, cols, depth) = (self.rows.count, self.cols.count, self.depth.count);
        if rows == 0 || cols == 0 || self.batch.count == 0 {
            return;
        }
        let size = self.lane.size();
        let work = rows * cols * depth;
        let (a, b) = (self.a.is_strided(), self.b.is_strided());
        // The factor with columns is computed whole before the tiles where both are computed, and where tiles of few
        // columns would each pack a larger factor with rows.
        let narrow = 2 * cols <= rows && cols * depth * size <= AHEAD;
        let ahead = !b && (!a || narrow);
        let by_rows = ahead || !a || (b && cols < 2 * rows);
        let (total, unit) = if by_rows { (rows, 16) } else { (cols, 64) };
        let many_batches = self.batch.count >= 2 * scratch::threads();
        let tile = self.tile(by_rows, total, unit, many_batches, work);
        let tiles = total.div_ceil(tile);
        let one = |batch: usize, tile_number: usize, b: Option<Matrix>| {
            let first = tile_number * tile;
            let count = tile.min(total - first);
            unsafe { self.tile_at(operands, batch, by_rows, first, count, b) };
        };
        if !ahead {
            return scratch::each(self.batch.count * tiles, self.batch.count * work, |at| {
                one(at / tiles, at % tiles, None);
            });
        }
        let batches = |batch: usize| {
            scratch::with(cols * depth * size, |panel| {
                let b = unsafe { self.whole(operands, batch, panel) };
                let matrix = (Shared(b.at.cast_mut()), b.side, b.depth);
                scratch::each(tiles, work, |at| {
                    let (at_memory, side, depth) = matrix;
                    one(batch, at, Some(Matrix { at: at_memory.at(), side, depth }));
                });
            });
        };
        if many_batches {
            scratch::each(self.batch.count, self.batch.count * work, batches);
        } else {
            (0..self.batch.count).for_each(batches);
        }
    }

    /// Rows or columns of a tile.
    fn tile(&self, by_rows: bool, total: usize, unit: usize, many_batches: bool, work: usize) -> usize {
        let (computed, other) = match by_rows {
            true => (!self.a.is_strided(), self.cols.count),
            false => (!self.b.is_strided(), self.rows.count),
        };
        let size = self.lane.size();
        let stored = self.finish.result_bytes(1, 1, size) > 0;
        let bytes = size * (if computed { self.depth.count } else { 0 } + if stored { other } else { 0 });
        let fits = (PANEL / bytes.max(1)).max(unit);
        // Strided factors are packed again for every tile, so that there are no more than threads.
        let share = match (many_batches || work < 64 * 1024, computed) {
            (true, _) => total,
            (false, false) => total.div_ceil(scratch::threads()),
            (false, true) => total.div_ceil(2 * scratch::threads()),
        };
        let fits = if computed || stored && fits < share / 4 { fits } else { total };
        share.min(fits).next_multiple_of(unit).min(total)
    }

    fn values(&self, batch: usize) -> SmallVec<[i64; 8]> {
        let mut values = SmallVec::from_elem(0, self.vars);
        self.batch.set(&mut values, batch);
        values
    }

    /// The whole factor with columns, computed into `panel`.
    unsafe fn whole(&self, operands: &[Operand], batch: usize, panel: *mut u8) -> Matrix {
        let (cols, depth, size) = (self.cols.count, self.depth.count, self.lane.size());
        let along_side = matches!(self.b, Side::Lines { .. });
        let total = if along_side { depth } else { cols };
        let pieces = total.min(4 * scratch::threads());
        let shared = Shared(panel);
        scratch::each(pieces, cols * depth * 8, |piece| {
            let (from, to) = (total * piece / pieces, total * (piece + 1) / pieces);
            let mut values = self.values(batch);
            scratch::with(self.b.registers(), |registers| unsafe {
                if along_side {
                    let (out, lines) = (shared.at(), from..to);
                    self.b.lines(operands, &mut values, &self.depth, size, 0, cols, lines, registers, out);
                } else {
                    let out = shared.at().wrapping_add(from * depth * size);
                    self.b.matrix(operands, &mut values, &self.depth, size, from, to - from, registers, out);
                }
            });
        });
        match &self.b {
            Side::Panel { .. } => Matrix { at: panel, side: depth as isize, depth: 1 },
            Side::Lines { .. } | Side::InPlace { .. } => Matrix { at: panel, side: 1, depth: cols as isize },
        }
    }

    unsafe fn tile_at(
        &self,
        operands: &[Operand],
        batch: usize,
        by_rows: bool,
        first: usize,
        count: usize,
        whole_b: Option<Matrix>,
    ) {
        let size = self.lane.size();
        let mut values = self.values(batch);
        let (row, rows) = if by_rows { (first, count) } else { (0, self.rows.count) };
        let (col, cols) = if by_rows { (0, self.cols.count) } else { (first, count) };
        let panel = |side: &Side, count: usize| side.panel_bytes(count, self.depth.count, size);
        let b_bytes = if whole_b.is_some() { 0 } else { panel(&self.b, cols) };
        let registers = self.finish.registers().max(self.a.registers()).max(self.b.registers());
        let result = self.finish.result_bytes(rows, cols, size);
        let parts = [registers, panel(&self.a, rows), b_bytes, result].map(|it| it.next_multiple_of(64) + 64);
        scratch::with(parts.iter().sum(), |base| unsafe {
            let at_a = base.add(parts[0]);
            let at_b = at_a.add(parts[1]);
            let at_result = at_b.add(parts[2]);
            let a = self.a.matrix(operands, &mut values, &self.depth, size, row, rows, base, at_a);
            let b = whole_b.unwrap_or_else(|| {
                self.b.matrix(operands, &mut values, &self.depth, size, col, cols, base, at_b)
            });
            let product = Product { rows, cols, depth: self.depth.count, by: 1.0 };
            let tile = Tile { row, rows, col, cols };
            let (to, by_row, by_col) = self.finish.target(operands, &values, &tile, size, at_result);
            product.run(self.lane, a, b, to, by_row, by_col);
            self.finish.run(operands, &mut values, &tile, [&self.rows, &self.cols], size, base, at_result);
        });
    }
}
