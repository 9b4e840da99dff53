//! One factor of a product as a matrix with two strides: where it lies in memory if its reads allow that, else computed
//! into scratch memory piece by piece.

use std::ops::Range;

use wgfuse_compiler::{
    dtype::DType,
    index::linearise,
    lower::{Body, Expr, ExprId},
};

use super::{
    Operand, Parts,
    exec::Frame,
    levels::{self, Level},
    loops::Lane,
    map::BLOCK,
    program::{Phase, Program, Source},
    rows,
    walk::{Space, Walk},
};

/// A matrix: address of its first element, distances in elements along `side` and along the summed axis.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub at: *const u8,
    pub side: isize,
    pub depth: isize,
}

pub enum Side {
    /// A tensor's own memory.
    InPlace { tensor: usize, size: usize, walk: Walk, side: isize, depth: isize },
    /// Computed: the summed axis is innermost, in one walk over both.
    Panel { program: Program },
    /// Computed for one position of the summed axis at a time.
    Lines { program: Program },
}

/// Loop variables that are numbered through, row-major.
pub struct Axis {
    pub vars: Vec<usize>,
    extents: Vec<usize>,
    pub count: usize,
}

impl Axis {
    pub fn new(vars: &[usize], space: &Space) -> Axis {
        let extents: Vec<usize> = vars.iter().map(|it| space.extents()[*it]).collect();
        Axis { vars: vars.to_vec(), count: extents.iter().product(), extents }
    }

    /// Gives the variables their values at position `at`.
    pub fn set(&self, values: &mut [i64], mut at: usize) {
        for (var, extent) in self.vars.iter().zip(&self.extents).rev() {
            values[*var] = (at % extent) as i64;
            at /= extent;
        }
    }
}

impl Side {
    /// The factor `value`, held as `lane`, with these axes.
    pub fn new(parts: &Parts, side: &Axis, depth: &Axis, value: ExprId, lane: Lane) -> Side {
        if let Some(side) = strided(parts, side, depth, value, lane) {
            return side;
        }
        // Reads in short runs and with strides cost more.
        let mut cost = [0.0f64; 2];
        let needed = parts.body.needed([value]);
        for (_, expr, _) in parts.body.iter().filter(|(id, ..)| needed[id.0 as usize]) {
            let domains = [&side.vars[..], &depth.vars[..]];
            if let Some(runs) = rows::neighbours(parts, expr, domains) {
                for (cost, (stride, len)) in cost.iter_mut().zip(runs) {
                    *cost +=
                        16.0 / len as f64 + if stride.abs() > 1 { 0.1 * stride.min(16) as f64 } else { 0.0 };
                }
            }
        }
        let by_side = side.count >= 16 && (cost[0] < cost[1] || depth.count < 16);
        let both: Vec<usize> = side.vars.iter().chain(&depth.vars).copied().collect();
        let source = Source {
            body: parts.body,
            space: parts.space,
            tensors: parts.tensors,
            types: parts.types,
            rows: if by_side { &side.vars } else { &both },
            inner: &[],
            params: &[],
            params_at: Level::Rows,
            resident: true,
            capacity: [BLOCK, 0],
        };
        let phase = Phase { roots: vec![(value, Level::Rows)], stores: Vec::new() };
        let program = Program::new(&source, &[phase]);
        if by_side { Side::Lines { program } } else { Side::Panel { program } }
    }

    pub fn is_strided(&self) -> bool {
        matches!(self, Side::InPlace { .. })
    }

    /// Bytes of scratch memory for the registers.
    pub fn registers(&self) -> usize {
        match self {
            Side::InPlace { .. } => 0,
            Side::Panel { program } | Side::Lines { program } => program.bytes,
        }
    }

    /// Bytes of scratch memory for `count` side points.
    pub fn panel_bytes(&self, count: usize, depth: usize, size: usize) -> usize {
        match self {
            Side::InPlace { .. } => 0,
            Side::Panel { .. } | Side::Lines { .. } => count * depth * size,
        }
    }

    /// The matrix of side points `first..first + count`.
    ///
    /// # Safety
    /// As `host::run`. `registers` is scratch memory of that many bytes and `out` of `count * depth` elements of `size`
    /// bytes, both aligned to 64. `values` are those of the batch's variables, others 0 before and after.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn matrix(
        &self,
        operands: &[Operand],
        values: &mut [i64],
        depth: &Axis,
        size: usize,
        first: usize,
        count: usize,
        registers: *mut u8,
        out: *mut u8,
    ) -> Matrix {
        match self {
            Side::InPlace { tensor, size, walk, side, depth } => {
                let at = walk.base(values) as isize + first as isize * side;
                let at = operands[*tensor].data.wrapping_offset(at * *size as isize);
                Matrix { at, side: *side, depth: *depth }
            }
            Side::Panel { program } => {
                unsafe { program.start(registers) };
                let total = count * depth.count;
                for done in (0..total).step_by(BLOCK) {
                    let now = BLOCK.min(total - done);
                    let start = first * depth.count + done;
                    unsafe {
                        evaluate(program, operands, values, start, now, registers, out.add(done * size), size)
                    };
                }
                Matrix { at: out, side: depth.count as isize, depth: 1 }
            }
            Side::Lines { .. } => {
                let all = 0..depth.count;
                unsafe { self.lines(operands, values, depth, size, first, count, all, registers, out) };
                Matrix { at: out, side: 1, depth: count as isize }
            }
        }
    }

    /// Positions `depths` of the summed axis of an `Lines`, one line of `count` elements each.
    ///
    /// # Safety
    /// As `matrix`.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn lines(
        &self,
        operands: &[Operand],
        values: &mut [i64],
        depth: &Axis,
        size: usize,
        first: usize,
        count: usize,
        depths: Range<usize>,
        registers: *mut u8,
        out: *mut u8,
    ) {
        let Side::Lines { program } = self else { return };
        unsafe { program.start(registers) };
        for k in depths {
            depth.set(values, k);
            for done in (0..count).step_by(BLOCK) {
                let now = BLOCK.min(count - done);
                let to = out.wrapping_add((k * count + done) * size);
                unsafe { evaluate(program, operands, values, first + done, now, registers, to, size) };
            }
        }
        depth.set(values, 0);
    }
}

#[allow(clippy::too_many_arguments)]
unsafe fn evaluate(
    program: &Program,
    operands: &[Operand],
    values: &[i64],
    start: usize,
    count: usize,
    registers: *mut u8,
    out: *mut u8,
    size: usize,
) {
    let frame = Frame { base: registers, operands, values, start: [start, 0], count: [count, 0], inner: 1 };
    unsafe {
        program.phase(0, &frame);
        std::ptr::copy_nonoverlapping(frame.reg(program.roots[0][0]), out, count * size);
    }
}

/// A plain read of one tensor whose address has one stride along each axis.
fn strided(parts: &Parts, side: &Axis, depth: &Axis, value: ExprId, lane: Lane) -> Option<Side> {
    let Expr::Load { tensor, at, guard } = parts.body.expr(value) else { return None };
    let tensor = levels::position(parts.tensors, *tensor);
    let ty = &parts.types[tensor];
    if guard.is_some() || !is_native(ty.dtype) || Lane::of(ty.dtype) != lane {
        return None;
    }
    let form = parts.space.form(&linearise(at, &ty.shape))?;
    let walk = parts.space.walk(&side.vars, &form, &[]);
    let side = walk.stride()? as isize;
    let depth = parts.space.walk(&depth.vars, &form, &[]).stride()? as isize;
    Some(Side::InPlace { tensor, size: lane.size(), walk, side, depth })
}

/// Whether elements in memory are what a block holds.
pub fn is_native(dtype: DType) -> bool {
    !dtype.is_narrow_float()
}

/// Sizes and strides of `dst = lhs * rhs` (scaled by `by`), all in elements; `dst` is written, not read.
pub struct Product {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    pub by: f64,
}

impl Product {
    /// `a` has its rows along `side`, `b` its columns.
    ///
    /// # Safety
    /// The matrices hold `lane` elements (F32 or F64) at every point; `to` is written at every point and used by nothing
    /// else meanwhile.
    pub unsafe fn run(&self, lane: Lane, a: Matrix, b: Matrix, to: *mut u8, row: isize, col: isize) {
        macro_rules! gemm {
            ($t:ty) => {
                unsafe {
                    gemm::gemm::<$t>(
                        self.rows,
                        self.cols,
                        self.depth,
                        to.cast(),
                        col,
                        row,
                        false,
                        a.at.cast(),
                        a.depth,
                        a.side,
                        b.at.cast(),
                        b.side,
                        b.depth,
                        0.0,
                        self.by as $t,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    )
                }
            };
        }
        if self.depth == 0 {
            for at in 0..self.rows * self.cols {
                let (r, c) = ((at / self.cols) as isize, (at % self.cols) as isize);
                let to = to.wrapping_offset((r * row + c * col) * lane.size() as isize);
                unsafe { std::ptr::write_bytes(to, 0, lane.size()) };
            }
            return;
        }
        match lane {
            Lane::F64 => gemm!(f64),
            _ => gemm!(f32),
        }
    }
}

/// `body` with what `value` is cast to the type that products of it are summed in, and that type.
pub fn widened(body: &mut Body, value: ExprId) -> ExprId {
    match body.dtype(value) {
        it if it.is_narrow_float() => body.cast(DType::F32, value),
        _ => value,
    }
}
