//! Kernels of rows that are reduced in stages.
//!
//! Three ways, by the shape of the kernel: `Whole` keeps complete rows in registers, so that what one stage computes the next
//! ones use; `Along` goes through a long row in pieces, once a stage; `Across` takes one point of many neighbouring rows at
//! a time, for short rows and those whose neighbours in memory belong to other rows.

use smallvec::SmallVec;
use wgfuse_compiler::{
    dtype::DType,
    index::linearise,
    lower::Expr,
    scalar::{BinaryOp, ReduceOp},
    schedule::kernel::Stage,
    shape::Shape,
};

use super::{
    Operand, Parts,
    exec::Frame,
    levels::{self, Level},
    loops::{self, Lane},
    map::BLOCK,
    program::{Phase, Program, Source},
    scratch, vector,
};

/// Longest row that is kept in registers.
const LONGEST: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Whole,
    Along,
    Across,
}

pub struct Rows {
    rows: usize,
    inner: Shape,
    rank: usize,
    stages: Vec<(ReduceOp, DType)>,
    way: Way,
    /// A phase a stage, whose root is its value or, where a sum is of products, the two factors; then the stores at every point; then those once a row.
    program: Program,
    /// Whether there are stores at every point, and once a row.
    stores: [bool; 2],
    /// Rows of a block.
    block: usize,
}

impl Rows {
    pub fn new(parts: &Parts, outer: &Shape, inner: &Shape, stages: &[Stage]) -> Rows {
        let params: Vec<DType> = stages.iter().map(|it| parts.body.dtype(it.value)).collect();
        Rows::with_params(parts, outer, inner, stages, params)
    }

    /// With the types of `Param(0)`, ...: at most narrower than those that stages are reduced in.
    pub fn with_params(
        parts: &Parts,
        outer: &Shape,
        inner: &Shape,
        stages: &[Stage],
        params: Vec<DType>,
    ) -> Rows {
        let rank = outer.rank();
        let inner_vars: Vec<usize> = (rank..rank + inner.rank()).collect();
        let outer_vars: Vec<usize> = (0..rank).collect();
        let (rows, points) = (outer.count(), inner.count());
        let way = choose(parts, rows, points, &outer_vars, &inner_vars);
        let block = match way {
            Way::Whole => (BLOCK / points.max(1)).clamp(1, rows.max(1)),
            Way::Along => 1,
            Way::Across => BLOCK.min(rows.max(1)),
        };
        let levels = levels::levels(parts.body, &inner_vars, Level::Rows);
        // Across, a point of the rows is all there is at a time.
        let at_points = if way == Way::Across { Level::Rows } else { Level::Points };
        let factors = |stage: &Stage| match parts.body.expr(stage.value) {
            Expr::Binary(BinaryOp::Mul, x, y)
                if way == Way::Across
                    && stage.op == ReduceOp::Sum
                    && parts.body.dtype(stage.value) == DType::F32 =>
            {
                vec![*x, *y]
            }
            _ => vec![stage.value],
        };
        let mut phases: Vec<Phase> = stages
            .iter()
            .map(|it| Phase {
                roots: factors(it).into_iter().map(|it| (it, at_points)).collect(),
                stores: Vec::new(),
            })
            .collect();
        let level = |it: &super::Store| {
            let at = it.at.iter().map(|it| levels::index_level(it, &levels, &inner_vars)).max();
            at.unwrap_or(Level::Rows).max(levels[it.value.0 as usize])
        };
        let (each, once): (Vec<_>, Vec<_>) = parts.stores.iter().partition(|it| level(it) == Level::Points);
        let stores = [!each.is_empty(), !once.is_empty()];
        let phase = |stores: Vec<_>, level| Phase {
            roots: Vec::new(),
            stores: stores.into_iter().map(|it| (it, level)).collect(),
        };
        phases.push(phase(each, at_points));
        phases.push(phase(once, Level::Rows));
        let source = Source {
            body: parts.body,
            space: parts.space,
            tensors: parts.tensors,
            types: parts.types,
            rows: &outer_vars,
            inner: if way == Way::Across { &[] } else { &inner_vars },
            params: &params,
            params_at: Level::Rows,
            resident: way == Way::Whole,
            capacity: match way {
                Way::Whole => [block, block * points.max(1)],
                Way::Along => [1, BLOCK],
                Way::Across => [block, 0],
            },
        };
        let program = Program::new(&source, &phases);
        let stages = stages.iter().map(|it| it.op).zip(params).collect();
        Rows { rows, inner: inner.clone(), rank, stages, way, program, stores, block }
    }

    /// # Safety
    /// As `host::run`.
    pub unsafe fn run(&self, operands: &[Operand]) {
        let points = self.inner.count();
        let blocks = self.rows.div_ceil(self.block);
        let tasks = blocks.min(8 * scratch::threads());
        let work = self.rows * points.max(1) * self.program.ins.len().max(1);
        // One block more than the registers: accumulation of integers needs a spare.
        let spare = self.program.bytes;
        let bytes = spare + self.block * 8 + 64;
        scratch::each(tasks, work, |task| {
            scratch::with(bytes, |base| unsafe {
                self.program.start(base);
                let mut values: SmallVec<[i64; 8]> = SmallVec::from_elem(0, self.rank + self.inner.rank());
                for block in blocks * task / tasks..blocks * (task + 1) / tasks {
                    let first = block * self.block;
                    let count = self.block.min(self.rows - first);
                    match self.way {
                        Way::Whole => self.whole(operands, base, &values, first, count),
                        Way::Along => self.along(operands, base, &values, first),
                        Way::Across => self.across(operands, base, &mut values, first, count),
                    }
                }
            })
        });
    }

    unsafe fn whole(&self, operands: &[Operand], base: *mut u8, values: &[i64], first: usize, count: usize) {
        let points = self.inner.count();
        let frame = Frame {
            base,
            operands,
            values,
            start: [first, first * points],
            count: [count, count * points],
            inner: points.max(1),
        };
        for (number, (op, dtype)) in self.stages.iter().enumerate() {
            unsafe {
                self.program.phase(number, &frame);
                let from = frame.reg(self.program.roots[number][0]);
                let to = frame.reg(self.program.params[number].0);
                let size = Lane::of(*dtype).size();
                for row in 0..count {
                    loops::reduce(*op, *dtype, to.add(row * size), from.add(row * points * size), points);
                }
                loops::round(*dtype, to, count);
            }
        }
        unsafe {
            self.program.phase(self.stages.len(), &frame);
            self.program.phase(self.stages.len() + 1, &frame);
        }
    }

    unsafe fn along(&self, operands: &[Operand], base: *mut u8, values: &[i64], row: usize) {
        let points = self.inner.count();
        let frame = |from: usize| {
            let count = BLOCK.min(points - from);
            Frame {
                base,
                operands,
                values,
                start: [row, row * points + from],
                count: [1, count],
                inner: count.max(1),
            }
        };
        let spare = base.wrapping_add(self.program.bytes);
        for (number, (op, dtype)) in self.stages.iter().enumerate() {
            let param = base.wrapping_add(self.program.params[number].0 as usize);
            let mut part = [0u64; 1];
            let part = part.as_mut_ptr().cast::<u8>();
            unsafe { loops::fill(Lane::of(*dtype), param, 1, op.identity(*dtype)) };
            for from in (0..points).step_by(BLOCK) {
                let frame = frame(from);
                unsafe {
                    self.program.phase(number, &frame);
                    let root = frame.reg(self.program.roots[number][0]);
                    loops::reduce(*op, *dtype, part, root, frame.count[1]);
                    loops::accumulate(*op, *dtype, param, part, spare, 1);
                }
            }
            unsafe { loops::round(*dtype, param, 1) };
        }
        unsafe {
            if self.stores[0] {
                for from in (0..points).step_by(BLOCK) {
                    self.program.phase(self.stages.len(), &frame(from));
                }
            }
            self.program.phase(self.stages.len() + 1, &frame(0));
        }
    }

    unsafe fn across(
        &self,
        operands: &[Operand],
        base: *mut u8,
        values: &mut [i64],
        first: usize,
        count: usize,
    ) {
        let spare = base.wrapping_add(self.program.bytes);
        for (number, (op, dtype)) in self.stages.iter().enumerate() {
            let param = base.wrapping_add(self.program.params[number].0 as usize);
            unsafe { loops::fill(Lane::of(*dtype), param, count, op.identity(*dtype)) };
            self.points(values, |values| unsafe {
                let frame = one_level(base, operands, values, first, count);
                self.program.phase(number, &frame);
                match self.program.roots[number][..] {
                    [x, y] => vector::accumulate_product(
                        loops::slice_mut(param, count),
                        loops::slice(frame.reg(x), count),
                        loops::slice(frame.reg(y), count),
                    ),
                    _ => {
                        let root = frame.reg(self.program.roots[number][0]);
                        loops::accumulate(*op, *dtype, param, root, spare, count);
                    }
                }
            });
            unsafe { loops::round(*dtype, param, count) };
        }
        if self.stores[0] {
            self.points(values, |values| unsafe {
                self.program.phase(self.stages.len(), &one_level(base, operands, values, first, count));
            });
        }
        unsafe {
            self.program.phase(self.stages.len() + 1, &one_level(base, operands, values, first, count))
        };
    }

    /// `f` with the inner variables at every point.
    fn points(&self, values: &mut [i64], mut f: impl FnMut(&[i64])) {
        let count = self.inner.count();
        values[self.rank..].fill(0);
        for _ in 0..count {
            f(values);
            for axis in (0..self.inner.rank()).rev() {
                let value = &mut values[self.rank + axis];
                *value += 1;
                if *value < self.inner[axis] as i64 {
                    break;
                }
                *value = 0;
            }
        }
    }
}

fn one_level<'a>(
    base: *mut u8,
    operands: &'a [Operand],
    values: &'a [i64],
    start: usize,
    count: usize,
) -> Frame<'a> {
    Frame { base, operands, values, start: [start, 0], count: [count, 0], inner: 1 }
}

fn choose(parts: &Parts, rows: usize, points: usize, outer: &[usize], inner: &[usize]) -> Way {
    if points == 0 {
        return Way::Whole;
    }
    // Elements of loads whose neighbours in memory are the next point of the same row, and of the next row.
    let (mut along, mut across) = (0usize, 0usize);
    for (_, expr, _) in parts.body.iter() {
        if let Some([side, next]) = neighbours(parts, expr, [outer, inner]) {
            let close = |(stride, len): (i64, i64)| usize::from(stride == 1 && len > 1);
            across += close(side);
            along += close(next);
        }
    }
    let short = points < 32 && rows >= 256;
    let strided = across > along && rows >= 32;
    match points {
        _ if short || strided => Way::Across,
        _ if points <= LONGEST => Way::Whole,
        _ => Way::Along,
    }
}

/// For a load that something needs, the stride between neighbours and the length of such runs in each of two domains.
pub fn neighbours(parts: &Parts, expr: &Expr, domains: [&[usize]; 2]) -> Option<[(i64, i64); 2]> {
    let Expr::Load { tensor, at, .. } = expr else { return None };
    let listed = parts.tensors.iter().position(|it| it == tensor)?;
    let form = parts.space.form(&linearise(at, &parts.types[listed].shape))?;
    Some(domains.map(|domain| {
        let walk = parts.space.walk(domain, &form, &[]);
        (walk.inner_stride(), walk.inner_extent())
    }))
}
