//! What becomes of a tile of results: it is made in place in a tensor, or stored through the kernel's expressions.

use wgfuse_compiler::{dtype::DType, index::linearise, lower::Expr};

use super::{
    Operand, Parts,
    exec::Frame,
    levels::{self, Level},
    loops::{self, Lane},
    map::BLOCK,
    program::{Phase, Program, Source},
    side::{Axis, is_native},
    walk::Walk,
};

pub enum Finish {
    /// The result is stored as it is, in one tensor with one stride a row and a column.
    Direct { tensor: usize, walk: Walk, row: isize, col: isize },
    /// `wide` goes through whole rows one after the other, `narrow` through a part of one row.
    Stores { wide: Program, narrow: Program, dtype: DType },
}

/// A rectangle of results.
pub struct Tile {
    pub row: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

impl Finish {
    /// For results of type `dtype` at the points of `rows` and `cols`.
    pub fn new(parts: &Parts, dtype: DType, lane: Lane, rows: &Axis, cols: &Axis) -> Finish {
        if let Some(direct) = direct(parts, dtype, lane, rows, cols) {
            return direct;
        }
        let both: Vec<usize> = rows.vars.iter().chain(&cols.vars).copied().collect();
        let program = |vars: &[usize]| {
            let source = Source {
                body: parts.body,
                space: parts.space,
                tensors: parts.tensors,
                types: parts.types,
                rows: vars,
                inner: &[],
                params: &[dtype],
                params_at: Level::Rows,
                resident: true,
                capacity: [BLOCK, 0],
            };
            let stores = parts.stores.iter().map(|it| (it, Level::Rows)).collect();
            Program::new(&source, &[Phase { roots: Vec::new(), stores }])
        };
        Finish::Stores { wide: program(&both), narrow: program(&cols.vars), dtype }
    }

    /// Bytes of scratch memory for the registers.
    pub fn registers(&self) -> usize {
        match self {
            Finish::Direct { .. } => 0,
            Finish::Stores { wide, narrow, .. } => wide.bytes.max(narrow.bytes),
        }
    }

    /// Bytes of scratch memory for the results of a tile, of `size` bytes each.
    pub fn result_bytes(&self, rows: usize, cols: usize, size: usize) -> usize {
        match self {
            Finish::Direct { .. } => 0,
            Finish::Stores { .. } => rows * cols * size,
        }
    }

    /// Where the results of `tile` are to be written, with the distances between rows and between columns.
    pub fn target(
        &self,
        operands: &[Operand],
        values: &[i64],
        tile: &Tile,
        size: usize,
        scratch: *mut u8,
    ) -> (*mut u8, isize, isize) {
        match self {
            Finish::Direct { tensor, walk, row, col } => {
                let at = walk.base(values) as isize + tile.row as isize * row + tile.col as isize * col;
                (operands[*tensor].data.wrapping_offset(at * size as isize), *row, *col)
            }
            Finish::Stores { .. } => (scratch, tile.cols as isize, 1),
        }
    }

    /// Stores the results of `tile`, which are at its `target`.
    ///
    /// # Safety
    /// As `host::run`; `base` is scratch memory for the registers.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run(
        &self,
        operands: &[Operand],
        values: &mut [i64],
        tile: &Tile,
        [rows, cols]: [&Axis; 2],
        size: usize,
        base: *mut u8,
        result: *mut u8,
    ) {
        let Finish::Stores { wide, narrow, dtype } = self else { return };
        unsafe {
            loops::round(*dtype, result, tile.rows * tile.cols);
            if tile.cols == cols.count {
                wide.start(base);
                let first = tile.row * tile.cols;
                return stores(wide, operands, values, base, result, first, tile.rows * tile.cols, size);
            }
            narrow.start(base);
            for row in 0..tile.rows {
                rows.set(values, tile.row + row);
                let from = result.add(row * tile.cols * size);
                stores(narrow, operands, values, base, from, tile.col, tile.cols, size);
            }
            rows.set(values, 0);
        }
    }
}

/// The stores at points `first..first + count` of the program's domain, for results in `from`.
#[allow(clippy::too_many_arguments)]
unsafe fn stores(
    program: &Program,
    operands: &[Operand],
    values: &[i64],
    base: *mut u8,
    from: *const u8,
    first: usize,
    count: usize,
    size: usize,
) {
    let param = base.wrapping_add(program.params[0].0 as usize);
    for done in (0..count).step_by(BLOCK) {
        let now = BLOCK.min(count - done);
        let frame = Frame { base, operands, values, start: [first + done, 0], count: [now, 0], inner: 1 };
        unsafe {
            std::ptr::copy_nonoverlapping(from.add(done * size), param, now * size);
            program.phase(0, &frame);
        }
    }
}

/// The one store of the bare result, if its addresses allow writing it in place.
fn direct(parts: &Parts, dtype: DType, lane: Lane, rows: &Axis, cols: &Axis) -> Option<Finish> {
    let [store] = parts.stores else { return None };
    let tensor = levels::position(parts.tensors, store.tensor);
    let ty = &parts.types[tensor];
    let bare = matches!(parts.body.expr(store.value), Expr::Param(0));
    if !bare || !is_native(ty.dtype) || ty.dtype != dtype || Lane::of(ty.dtype) != lane {
        return None;
    }
    let form = parts.space.form(&linearise(&store.at, &ty.shape))?;
    let walk = parts.space.walk(&rows.vars, &form, &[]);
    let row = walk.stride()? as isize;
    let col = parts.space.walk(&cols.vars, &form, &[]).stride()? as isize;
    Some(Finish::Direct { tensor, walk, row, col })
}
