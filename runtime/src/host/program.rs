//! A kernel's body as a linear program over blocks of elements.
//!
//! In: a body and which expressions are wanted in which phase. Out: instructions over registers, each register a block of
//! elements at a fixed offset in scratch memory. There are two domains of points: `Rows`, and `Points`, which has `inner`
//! points for each row. What does not depend on a variable of `Points` alone is computed once a row. Kernels without rows
//! and points use `Rows` alone.

use std::{collections::HashMap, ops::Range};

use wgfuse_compiler::{
    bug,
    dtype::DType,
    index::{Atom, Index, linearise},
    lower::{Body, Expr, ExprId, TensorId},
    scalar::{BinaryOp, Scalar, UnaryOp},
    schedule::kernel::Store,
    shape::Type,
};

use super::{
    levels::{Level, conditions, levels, position},
    loops::{Lane, rounds},
    walk::{Form, Space, Walk},
};

/// A register: first by number, then by its offset in scratch memory.
pub type Reg = u32;

/// No register.
pub const NONE: Reg = Reg::MAX;

pub enum Op {
    /// The values of a form.
    Coord {
        walk: Walk,
        lane: Lane,
    },
    /// `a + by * b`, of I64.
    AddScaled(i64),
    /// Rounded down, of I64.
    DivFloor(i64),
    ModFloor(i64),
    /// Whether every condition of the walk holds.
    Holds {
        walk: Walk,
    },
    /// `other` where a condition of the walk is false, 0 where the register `a` is.
    Load {
        tensor: usize,
        dtype: DType,
        walk: Walk,
        other: Scalar,
    },
    /// From the element whose number is in `a`; 0 where `b` is false.
    Gather {
        tensor: usize,
        dtype: DType,
    },
    Unary(UnaryOp, DType),
    Binary(BinaryOp, DType),
    Select(Lane),
    /// Of the op with this number: the key in `a` and `b`, the place in `c`.
    Random(u32),
    Cast {
        from: DType,
        to: DType,
    },
    /// In place, of f32.
    Round(DType),
    /// Each row's element for all of its points.
    Repeat(Lane),
    /// `a` to the tensor.
    Store {
        tensor: usize,
        dtype: DType,
        walk: Walk,
    },
    /// `a` to the elements whose numbers are in `b`.
    Scatter {
        tensor: usize,
        dtype: DType,
    },
}

pub struct Ins {
    pub op: Op,
    pub level: Level,
    pub out: Reg,
    pub args: [Reg; 3],
}

/// What is wanted of one phase: values left in registers, and stores.
#[derive(Default)]
pub struct Phase<'a> {
    pub roots: Vec<(ExprId, Level)>,
    pub stores: Vec<(&'a Store, Level)>,
}

pub struct Program {
    pub ins: Vec<Ins>,
    /// Instructions of each phase.
    pub phases: Vec<Range<usize>>,
    /// Registers of each phase's roots.
    pub roots: Vec<Vec<Reg>>,
    /// Registers that the caller fills, at the level that it stated, and their types.
    pub params: Vec<(Reg, DType)>,
    /// Registers that keep their value: filled once before the first phase.
    pub constants: Vec<(Reg, Lane, Scalar)>,
    /// Elements of a register at each level.
    pub capacity: [usize; 2],
    /// Bytes of all registers.
    pub bytes: usize,
}

/// What a program is made from.
pub struct Source<'a> {
    pub body: &'a Body,
    pub space: &'a Space,
    pub tensors: &'a [TensorId],
    pub types: &'a [Type],
    /// Variables of a row, in order.
    pub rows: &'a [usize],
    /// Variables that follow those of a row in `Points`.
    pub inner: &'a [usize],
    /// Types of `Param(0)`, ...
    pub params: &'a [DType],
    pub params_at: Level,
    /// Values of one phase are still there in the next.
    pub resident: bool,
    /// Elements of a register at each level.
    pub capacity: [usize; 2],
}

struct Builder<'a> {
    source: &'a Source<'a>,
    points: Vec<usize>,
    ins: Vec<Ins>,
    /// Bytes of each register, and whether it lives throughout.
    regs: Vec<(usize, bool)>,
    values: HashMap<(ExprId, Level), Reg>,
    indices: HashMap<(Index, Level), Reg>,
    levels: Vec<Level>,
    constants: Vec<(Reg, Lane, Scalar)>,
    constant_of: HashMap<(ExprId, Lane), Reg>,
    params: Vec<(Reg, DType)>,
}

impl Program {
    pub fn new(source: &Source, phases: &[Phase]) -> Program {
        let points = source.rows.iter().chain(source.inner).copied().collect();
        let mut builder = Builder {
            source,
            points,
            ins: Vec::new(),
            regs: Vec::new(),
            values: HashMap::new(),
            indices: HashMap::new(),
            levels: levels(source.body, source.inner, source.params_at),
            constants: Vec::new(),
            constant_of: HashMap::new(),
            params: Vec::new(),
        };
        for dtype in source.params {
            let reg = builder.reg(Lane::of(*dtype).size(), source.params_at);
            builder.regs[reg as usize].1 = true;
            builder.params.push((reg, *dtype));
        }
        let (mut ranges, mut roots) = (Vec::new(), Vec::new());
        for phase in phases {
            if !source.resident {
                builder.values.clear();
                builder.indices.clear();
            }
            let first = builder.ins.len();
            let own =
                phase.roots.iter().map(|(root, level)| builder.value(*root, *level)).collect::<Vec<_>>();
            phase.stores.iter().for_each(|(store, level)| builder.store(store, *level));
            ranges.push(first..builder.ins.len());
            roots.push(own);
        }
        builder.finish(ranges, roots)
    }
}

impl Builder<'_> {
    fn reg(&mut self, size: usize, level: Level) -> Reg {
        let bytes = (self.source.capacity[level as usize] * size).next_multiple_of(64);
        self.regs.push((bytes, false));
        (self.regs.len() - 1) as Reg
    }

    fn emit(&mut self, op: Op, level: Level, size: usize, args: [Reg; 3]) -> Reg {
        let out = self.reg(size, level);
        self.ins.push(Ins { op, level, out, args });
        out
    }

    /// The register of `expr` over the points of `level`.
    fn value(&mut self, id: ExprId, level: Level) -> Reg {
        let dtype = self.source.body.dtype(id);
        let lane = Lane::of(dtype);
        if let Expr::Const(value) = self.source.body.expr(id) {
            return self.constant(id, lane, *value);
        }
        if let Some(&reg) = self.values.get(&(id, level)) {
            return reg;
        }
        let own = self.levels[id.0 as usize];
        let reg = if own < level {
            let row = self.value(id, own);
            self.emit(Op::Repeat(lane), level, lane.size(), [row, NONE, NONE])
        } else {
            self.compute(id, own)
        };
        self.values.insert((id, level), reg);
        reg
    }

    fn constant(&mut self, id: ExprId, lane: Lane, value: Scalar) -> Reg {
        if let Some(&reg) = self.constant_of.get(&(id, lane)) {
            return reg;
        }
        let widest = match self.source.capacity[0] > self.source.capacity[1] {
            true => Level::Rows,
            false => Level::Points,
        };
        let reg = self.reg(lane.size(), widest);
        self.regs[reg as usize].1 = true;
        self.constants.push((reg, lane, value));
        self.constant_of.insert((id, lane), reg);
        reg
    }

    fn compute(&mut self, id: ExprId, level: Level) -> Reg {
        let body = self.source.body;
        let dtype = body.dtype(id);
        let size = Lane::of(dtype).size();
        let narrow = rounds(dtype);
        let reg = match body.expr(id) {
            Expr::Const(_) => bug!("a constant is not computed"),
            Expr::Param(number) => return self.params[*number as usize].0,
            Expr::Coord(index) => match self.source.space.form(index) {
                Some(form) => {
                    let walk = self.walk(level, &form, &[]);
                    return self.emit(Op::Coord { walk, lane: Lane::of(dtype) }, level, size, [NONE; 3]);
                }
                None => {
                    let index = self.index(index, level);
                    let op = Op::Cast { from: DType::I64, to: dtype };
                    return self.emit(op, level, size, [index, NONE, NONE]);
                }
            },
            Expr::Load { tensor, at, guard } => {
                let tensor = position(self.source.tensors, *tensor);
                let ty = &self.source.types[tensor];
                let zero = Scalar::of(ty.dtype, 0.0);
                return self.load(tensor, linearise(at, &ty.shape), *guard, ty.dtype, zero, level);
            }
            Expr::Unary(op, x) => {
                let of = body.dtype(*x);
                let x = self.value(*x, level);
                self.emit(Op::Unary(*op, of), level, size, [x, NONE, NONE])
            }
            Expr::Binary(op, x, y) => {
                let of = body.dtype(*x);
                let square = *op == BinaryOp::Pow
                    && of.is_float()
                    && matches!(body.expr(*y), Expr::Const(it) if it.as_f64() == 2.0);
                if dtype == DType::Bool
                    && let Some(known) = conditions(body, self.source.space, id)
                {
                    let nowhere = self.known(&Index::constant(0));
                    let walk = self.walk(level, &nowhere, &known);
                    return self.emit(Op::Holds { walk }, level, size, [NONE; 3]);
                }
                let op = if square { BinaryOp::Mul } else { *op };
                let a = self.value(*x, level);
                let b = if square { a } else { self.value(*y, level) };
                self.emit(Op::Binary(op, of), level, size, [a, b, NONE])
            }
            Expr::Select(c, x, y) => {
                if let Some(reg) = self.padded(*c, *x, *y, level) {
                    return reg;
                }
                let args = [self.value(*c, level), self.value(*x, level), self.value(*y, level)];
                return self.emit(Op::Select(Lane::of(dtype)), level, size, args);
            }
            Expr::Random { number, key: [low, high], at } => {
                let args = [*low, *high, *at].map(|it| self.value(it, level));
                return self.emit(Op::Random(*number), level, size, args);
            }
            Expr::Cast(x) => {
                let from = body.dtype(*x);
                let x = self.value(*x, level);
                if dtype == DType::F32 && from.is_narrow_float() {
                    return x;
                }
                return self.emit(Op::Cast { from, to: dtype }, level, size, [x, NONE, NONE]);
            }
        };
        if narrow {
            self.ins.push(Ins { op: Op::Round(dtype), level, out: reg, args: [NONE; 3] });
        }
        reg
    }

    fn load(
        &mut self,
        tensor: usize,
        at: Index,
        guard: Option<ExprId>,
        dtype: DType,
        other: Scalar,
        level: Level,
    ) -> Reg {
        let size = Lane::of(dtype).size();
        let known = guard.map(|it| conditions(self.source.body, self.source.space, it));
        let form = self.source.space.form(&at);
        match (form, guard, known) {
            (Some(form), None, _) => {
                let walk = self.walk(level, &form, &[]);
                self.emit(Op::Load { tensor, dtype, walk, other }, level, size, [NONE; 3])
            }
            (Some(form), Some(_), Some(Some(known))) => {
                let walk = self.walk(level, &form, &known);
                self.emit(Op::Load { tensor, dtype, walk, other }, level, size, [NONE; 3])
            }
            (Some(form), Some(guard), _) => {
                let guard = self.value(guard, level);
                let walk = self.walk(level, &form, &[]);
                self.emit(Op::Load { tensor, dtype, walk, other }, level, size, [guard, NONE, NONE])
            }
            (None, guard, _) => {
                let guard = guard.map_or(NONE, |it| self.value(it, level));
                let index = self.index(&at, level);
                self.emit(Op::Gather { tensor, dtype }, level, size, [index, guard, NONE])
            }
        }
    }

    /// `c ? x : y` where `x` is a read that `c` guards and `y` a constant: one read.
    fn padded(&mut self, c: ExprId, x: ExprId, y: ExprId, level: Level) -> Option<Reg> {
        let (Expr::Load { tensor, at, guard: Some(guard) }, Expr::Const(other)) =
            (self.source.body.expr(x), self.source.body.expr(y))
        else {
            return None;
        };
        if *guard != c {
            return None;
        }
        conditions(self.source.body, self.source.space, c)?;
        let tensor = position(self.source.tensors, *tensor);
        let ty = &self.source.types[tensor];
        let at = linearise(at, &ty.shape);
        self.source.space.form(&at)?;
        Some(self.load(tensor, at, Some(c), ty.dtype, *other, level))
    }

    fn known(&self, index: &Index) -> Form {
        self.source.space.form(index).unwrap_or_else(|| bug!("{index} is not a sum of digits"))
    }

    fn walk(&self, level: Level, form: &Form, conditions: &[Form]) -> Walk {
        let domain = match level {
            Level::Rows => self.source.rows,
            Level::Points => &self.points,
        };
        self.source.space.walk(domain, form, conditions)
    }

    /// The register of `index` as I64.
    fn index(&mut self, index: &Index, level: Level) -> Reg {
        if let Some(&reg) = self.indices.get(&(index.clone(), level)) {
            return reg;
        }
        let mut known = Index::constant(index.offset());
        let mut parts: Vec<(Reg, i64)> = Vec::new();
        for (atom, by) in index.terms() {
            let alone = Index::atom(atom.clone());
            if self.source.space.form(&alone).is_some() {
                known = known.add(&alone.mul(*by));
                continue;
            }
            let reg = match atom {
                Atom::Var { .. } => bug!("a variable is a form"),
                Atom::Data { expr, .. } => {
                    let id = ExprId(*expr);
                    let from = self.source.body.dtype(id);
                    let reg = self.value(id, level);
                    match from {
                        DType::I64 => reg,
                        _ => self.emit(Op::Cast { from, to: DType::I64 }, level, 8, [reg, NONE, NONE]),
                    }
                }
                Atom::Div(inner, own) => {
                    let inner = self.index(inner, level);
                    self.emit(Op::DivFloor(*own), level, 8, [inner, NONE, NONE])
                }
                Atom::Mod(inner, own) => {
                    let inner = self.index(inner, level);
                    self.emit(Op::ModFloor(*own), level, 8, [inner, NONE, NONE])
                }
            };
            parts.push((reg, *by));
        }
        let form = self.known(&known);
        let walk = self.walk(level, &form, &[]);
        let mut sum = self.emit(Op::Coord { walk, lane: Lane::I64 }, level, 8, [NONE; 3]);
        for (reg, by) in parts {
            sum = self.emit(Op::AddScaled(by), level, 8, [sum, reg, NONE]);
        }
        self.indices.insert((index.clone(), level), sum);
        sum
    }

    fn store(&mut self, store: &Store, level: Level) {
        let tensor = position(self.source.tensors, store.tensor);
        let ty = &self.source.types[tensor];
        let dtype = ty.dtype;
        let value = self.value(store.value, level);
        let at = linearise(&store.at, &ty.shape);
        let (op, args) = match self.source.space.form(&at) {
            Some(form) => {
                let walk = self.walk(level, &form, &[]);
                (Op::Store { tensor, dtype, walk }, [value, NONE, NONE])
            }
            None => (Op::Scatter { tensor, dtype }, [value, self.index(&at, level), NONE]),
        };
        self.ins.push(Ins { op, level, out: NONE, args });
    }

    /// Registers get offsets; one whose value is not needed any more gives way to another.
    fn finish(mut self, phases: Vec<Range<usize>>, mut roots: Vec<Vec<Reg>>) -> Program {
        let mut last: Vec<usize> = vec![0; self.regs.len()];
        for (at, ins) in self.ins.iter().enumerate() {
            ins.args
                .iter()
                .chain([&ins.out])
                .filter(|it| **it != NONE)
                .for_each(|it| last[*it as usize] = at);
        }
        for (range, roots) in phases.iter().zip(&roots) {
            roots.iter().for_each(|it| last[*it as usize] = last[*it as usize].max(range.end));
        }
        let mut offsets: Vec<Reg> = vec![NONE; self.regs.len()];
        let mut bytes = 0usize;
        // A line between registers, so that equal positions do not fall into one set of the cache.
        let fresh = |size: usize, bytes: &mut usize| {
            let at = *bytes;
            *bytes += size + 64;
            at as Reg
        };
        for (reg, (size, pinned)) in self.regs.iter().enumerate() {
            if *pinned {
                offsets[reg] = fresh(*size, &mut bytes);
            }
        }
        // Free offsets by size.
        let mut free: Vec<(usize, Reg)> = Vec::new();
        let mut live: Vec<Reg> = Vec::new();
        for (at, ins) in self.ins.iter().enumerate() {
            live.retain(|&reg| {
                let keeps = last[reg as usize] >= at;
                if !keeps {
                    free.push((self.regs[reg as usize].0, offsets[reg as usize]));
                }
                keeps
            });
            let out = ins.out as usize;
            if ins.out == NONE || offsets[out] != NONE {
                continue;
            }
            let size = self.regs[out].0;
            offsets[out] = match free.iter().rposition(|it| it.0 == size) {
                Some(found) => free.remove(found).1,
                None => fresh(size, &mut bytes),
            };
            live.push(ins.out);
        }
        let offset = |reg: &mut Reg| {
            if *reg != NONE {
                *reg = offsets[*reg as usize];
            }
        };
        for ins in &mut self.ins {
            offset(&mut ins.out);
            ins.args.iter_mut().for_each(offset);
        }
        roots.iter_mut().flatten().for_each(offset);
        self.params.iter_mut().for_each(|it| offset(&mut it.0));
        self.constants.iter_mut().for_each(|it| offset(&mut it.0));
        Program {
            ins: self.ins,
            phases,
            roots,
            params: self.params,
            constants: self.constants,
            capacity: self.source.capacity,
            bytes: bytes + 64,
        }
    }
}
