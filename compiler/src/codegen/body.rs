//! Bodies to naga expressions: what a kernel's expressions and indices are at one point of its loops.
//!
//! A `Scope` knows the values of the loop variables, each an `Index` over *leaves*: numbers that the code has at hand, as
//! the number of an invocation or a loop's counter. Coordinates are rewritten in terms of leaves before anything is
//! emitted, so that a contiguous access becomes the invocation's number itself. Everything is computed at most
//! once a frame; a frame sees those around it. At a `Step`, several neighbouring points in turn, what is the same at all of
//! them is computed once for all, and what they read next to each other is read at once.
//!
//! Indices are computed in u32 modulo 2^32. That is right because the result is in range even where a part is
//! negative; quotients and remainders of what may be negative are moved up by a multiple of the divisor first.

use std::collections::{HashMap, HashSet};

use naga::{BinaryOperator as B, MathFunction, ScalarKind};

use super::{
    library,
    memory::Memory,
    ops,
    types::Word,
    writer::{Code, Handle},
};
use crate::{
    bug,
    dtype::DType,
    index::{Atom, Index, linearise},
    lower::{Body, Coords, Expr, ExprId, TensorId},
    scalar::{BinaryOp, UnaryOp},
    schedule::{Lanes, Store},
    shape::Shape,
};

/// Leaves are numbered from here; loop variables are below.
const FIRST_LEAF: u32 = 1 << 16;

/// What has been computed at one nesting of loops.
#[derive(Default)]
pub struct Frame {
    exprs: HashMap<ExprId, Handle>,
    indices: HashMap<Index, Handle>,
    units: HashMap<(TensorId, Index), Handle>,
}

/// Neighbouring points, and what has been computed at them; all of it in one block.
pub struct Step {
    lanes: Lanes,
    /// For all points, and for each.
    shared: Frame,
    each: Vec<Frame>,
    /// Whether the points are in the loop's space, where they are not always.
    pub inside: Option<Handle>,
    /// All `Param`s at each point, where they are not the same at all.
    params: Vec<Vec<(Handle, Word)>>,
    /// What `Scope::read_units` has read, each unit once.
    units: Vec<((TensorId, Index), Handle)>,
}

impl Step {
    pub fn new(lanes: Lanes, inside: Option<Handle>) -> Step {
        let each = lanes.points.iter().map(|_| Frame::default()).collect();
        Step { lanes, shared: Frame::default(), each, inside, params: Vec::new(), units: Vec::new() }
    }

    /// Neighbouring results of a product: `sums` has one `Param(0)` a point.
    pub fn of_sums(lanes: Lanes, sums: Vec<Handle>) -> Step {
        Step::of_params(lanes, sums.into_iter().map(|it| vec![(it, Word::F32)]).collect())
    }

    /// `params` has all `Param`s of each point.
    pub fn of_params(lanes: Lanes, params: Vec<Vec<(Handle, Word)>>) -> Step {
        Step::new(lanes, None).given(params)
    }

    /// The same with all `Param`s of each point.
    pub fn given(self, params: Vec<Vec<(Handle, Word)>>) -> Step {
        Step { params, ..self }
    }

    pub fn lanes(&self) -> usize {
        self.each.len()
    }

    /// The same points with the units of `other`, which were read at points with the same numbers in another function.
    pub fn holding(mut self, other: &Step, units: &[Handle]) -> Step {
        self.shared.units.extend(other.units.iter().map(|it| it.0.clone()).zip(units.iter().copied()));
        self
    }

    /// Units that were read, with the tensors that they are of.
    pub fn units(&self) -> impl Iterator<Item = (TensorId, Handle)> {
        self.units.iter().map(|it| (it.0.0, it.1))
    }

    /// The same points, of which nothing is known but that their units are `units`.
    pub fn with_units(&self, units: &[Handle]) -> Step {
        let mut step = Step::new(self.lanes.clone(), self.inside);
        step.shared.units = self.units.iter().map(|it| it.0.clone()).zip(units.iter().copied()).collect();
        step
    }
}

pub struct Scope<'k> {
    body: &'k Body,
    memory: &'k Memory,
    /// The values of the loop variables, where known.
    vars: Vec<Option<Index>>,
    leaves: Vec<Handle>,
    params: Vec<(Handle, Word)>,
    frames: Vec<Frame>,
    /// At a point of a step: the number of its frame, which stands above that of all points; and for each expression
    /// whether it is the same at all of them.
    lane: Option<usize>,
    still: Vec<bool>,
    /// Units being read.
    read: Vec<((TensorId, Index), Handle)>,
}

impl<'k> Scope<'k> {
    pub fn new(body: &'k Body, memory: &'k Memory) -> Scope<'k> {
        let frames = vec![Frame::default()];
        let (vars, leaves, params) = (Vec::new(), Vec::new(), Vec::new());
        Scope { body, memory, vars, leaves, params, frames, lane: None, still: Vec::new(), read: Vec::new() }
    }

    /// `value`, a u32 below `extent`, as an index.
    pub fn leaf(&mut self, value: Handle, extent: usize) -> Index {
        let axis = FIRST_LEAF + self.leaves.len() as u32;
        self.leaves.push(value);
        Index::var(axis as usize, extent)
    }

    /// From here on a leaf that `leaf` gave stands for `value`. What was computed of it is forgotten with its frames only.
    pub fn put_leaf(&mut self, leaf: &Index, value: Handle) {
        let Some(axis) = leaf.as_var() else { bug!("{leaf} is no leaf") };
        self.leaves[axis - FIRST_LEAF as usize] = value;
    }

    /// Each of the loop variables `vars` is the value beside it.
    pub fn bind(&mut self, vars: impl IntoIterator<Item = usize>, values: impl IntoIterator<Item = Index>) {
        for (var, value) in vars.into_iter().zip(values) {
            if self.vars.len() <= var {
                self.vars.resize(var + 1, None);
            }
            self.vars[var] = Some(value);
        }
    }

    /// The value of the next `Param`, not yet rounded to the type that the body gives it.
    pub fn param(&mut self, value: Handle, word: Word) {
        self.params.push((value, word));
    }

    /// The sum of a product, its `Param(0)`.
    pub fn sum(&mut self, value: Handle) {
        self.params = vec![(value, Word::F32)];
    }

    pub fn enter(&mut self, frame: Frame) {
        self.frames.push(frame);
    }

    pub fn leave(&mut self) -> Frame {
        self.frames.pop().expect("a frame was entered")
    }

    /// Says which expressions are the same at all points of a step, for the steps to come: their points differ in the same
    /// variables.
    pub fn step_through(&mut self, lanes: &Lanes) {
        self.step_with(lanes, u32::MAX);
    }

    /// The same where `Param(params)` and later ones are not the same at all points.
    pub fn step_with(&mut self, lanes: &Lanes, params: u32) {
        let moving = lanes.moving();
        let moves = |axis: usize| axis >= lanes.first && moving[axis - lanes.first];
        self.still = self.changing(&moves, params).iter().map(|it| !it).collect();
    }

    /// What `act` gives at point `lane` of `step`.
    pub fn at_lane<T>(&mut self, step: &mut Step, lane: usize, act: impl FnOnce(&mut Scope<'k>) -> T) -> T {
        self.bind(step.lanes.first.., step.lanes.points[lane].iter().cloned());
        if let Some(params) = step.params.get(lane) {
            self.params.clone_from(params);
        }
        self.frames.push(std::mem::take(&mut step.shared));
        self.lane = Some(self.frames.len());
        self.frames.push(std::mem::take(&mut step.each[lane]));
        let made = act(self);
        self.lane = None;
        step.each[lane] = self.leave();
        step.shared = self.leave();
        made
    }

    /// For each expression whether it changes with variables `first..`, or with a `Param` that is not known yet.
    pub fn varying(&self, first: usize) -> Vec<bool> {
        self.changing(&|axis| axis >= first, self.params.len() as u32)
    }

    /// For each expression whether it changes with the variables that `moves` names, or with `Param(params)` and later ones.
    fn changing(&self, moves: &dyn Fn(usize) -> bool, params: u32) -> Vec<bool> {
        let mut varying: Vec<bool> = Vec::with_capacity(self.body.len());
        for (_, expr, _) in self.body.iter() {
            let changes = |index: &Index| {
                let mut found = false;
                index.leaves(&mut |leaf| {
                    found |= match leaf {
                        Atom::Var { axis, .. } => moves(*axis as usize),
                        Atom::Data { .. } | Atom::Div(..) | Atom::Mod(..) => false,
                    }
                });
                found
            };
            let mut it = match expr {
                Expr::Param(number) => *number >= params,
                Expr::Coord(at) => changes(at),
                Expr::Load { at, .. } => at.iter().any(changes),
                Expr::Const(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Select(..)
                | Expr::Random { .. }
                | Expr::Cast(_) => false,
            };
            expr.operands(&mut |operand| it |= varying[operand.0 as usize]);
            varying.push(it);
        }
        varying
    }

    /// Everything read on the way to `roots` that does not wait for a `Param`, in an order in which it can be read. What the
    /// kernel writes is only among it if `own`: an invocation reads here what none but itself stores.
    pub fn reads(&self, roots: &[ExprId], own: bool) -> Vec<ExprId> {
        let waiting = self.changing(&|_| false, self.params.len() as u32);
        let needed = self.body.needed(roots.iter().copied());
        (self.body.iter())
            .filter(|(id, expr, _)| match expr {
                Expr::Load { tensor, .. } => {
                    needed[id.0 as usize]
                        && !waiting[id.0 as usize]
                        && (own || !self.memory.held(*tensor).written)
                }
                _ => false,
            })
            .map(|(id, ..)| id)
            .collect()
    }

    /// Whether `root` needs something that the kernel writes.
    pub fn reads_written(&self, root: ExprId) -> bool {
        let needed = self.body.needed([root]);
        self.body.iter().any(|(id, expr, _)| match expr {
            Expr::Load { tensor, .. } => needed[id.0 as usize] && self.memory.held(*tensor).written,
            _ => false,
        })
    }

    /// Computes what `roots` need and what does not change with variables `first..`, before their loops are opened.
    pub fn hoist(&mut self, code: &mut Code, roots: &[ExprId], first: usize) {
        let varying = self.varying(first);
        let needed = self.body.needed(roots.iter().copied());
        let mut early: Vec<ExprId> = roots.iter().copied().filter(|it| !varying[it.0 as usize]).collect();
        for (id, expr, _) in self.body.iter() {
            if needed[id.0 as usize] && varying[id.0 as usize] {
                expr.operands(&mut |it| {
                    if !varying[it.0 as usize] {
                        early.push(it);
                    }
                });
            }
        }
        early.sort_unstable();
        early.dedup();
        for id in early {
            self.value(code, id);
        }
    }

    /// Whether `store` is of an element of the row rather than of the row. `varying` is that of `first`.
    pub fn store_varies(&self, store: &Store, varying: &[bool], first: usize) -> bool {
        let mut found = varying[store.value.0 as usize];
        for index in &store.at {
            index.leaves(&mut |leaf| {
                found |= match leaf {
                    Atom::Var { axis, .. } => *axis as usize >= first,
                    Atom::Data { expr, .. } => varying[*expr as usize],
                    Atom::Div(..) | Atom::Mod(..) => false,
                }
            });
        }
        found
    }

    pub fn dtype(&self, id: ExprId) -> DType {
        self.body.dtype(id)
    }

    /// Whether something rounds a float to a whole number.
    fn is_made_whole(&self, id: ExprId) -> bool {
        self.body.iter().any(|(user, expr, _)| match expr {
            Expr::Unary(op, x) => {
                *x == id && matches!(op, UnaryOp::Round | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc)
            }
            Expr::Cast(x) => {
                *x == id && !self.body.dtype(user).is_float() && self.body.dtype(user) != DType::Bool
            }
            _ => false,
        })
    }

    pub fn value(&mut self, code: &mut Code, id: ExprId) -> Handle {
        if let Some(&found) = self.frames.iter().rev().find_map(|it| it.exprs.get(&id)) {
            return found;
        }
        let body = self.body;
        let dtype = body.dtype(id);
        let value = match body.expr(id) {
            Expr::Const(it) => ops::constant(code, *it, dtype),
            Expr::Coord(at) => {
                let at = self.here(at);
                let value = self.index(code, &at);
                ops::cast(code, DType::U32, dtype, value)
            }
            Expr::Load { tensor, at, guard } => self.load(code, *tensor, at, *guard),
            Expr::Param(number) => {
                let &(value, word) = self
                    .params
                    .get(*number as usize)
                    .unwrap_or_else(|| bug!("parameter {number} is used before it is computed"));
                let from = match word {
                    Word::F32 => DType::F32,
                    Word::I32 => DType::I32,
                    Word::U32 => DType::U32,
                    Word::Bool => DType::Bool,
                };
                ops::cast(code, from, dtype, value)
            }
            Expr::Unary(op, x) => {
                let operand = self.value(code, *x);
                ops::unary(code, *op, body.dtype(*x), operand)
            }
            Expr::Binary(op, x, y) => {
                let (left, right) = (self.value(code, *x), self.value(code, *y));
                match *op == BinaryOp::Div && dtype == DType::F32 && self.is_made_whole(id) {
                    true => ops::quotient(code, left, right),
                    false => ops::binary(code, *op, body.dtype(*x), left, right),
                }
            }
            Expr::Select(cond, yes, no) => {
                let cond = self.value(code, *cond);
                let (yes, no) = (self.value(code, *yes), self.value(code, *no));
                code.select(cond, yes, no)
            }
            Expr::Random { number, key: [low, high], at } => {
                let number = code.u32(*number);
                let args = [*low, *high, *at].map(|it| self.value(code, it));
                let function = library::math(code.writer, "wg_random_u32");
                code.call(function, &[args[0], args[1], number, args[2]])
            }
            Expr::Cast(x) => {
                let operand = self.value(code, *x);
                ops::cast(code, body.dtype(*x), dtype, operand)
            }
        };
        let still = self.still.get(id.0 as usize).copied().unwrap_or(false);
        self.frame(still).exprs.insert(id, value);
        value
    }

    fn load(&mut self, code: &mut Code, tensor: TensorId, at: &Coords, guard: Option<ExprId>) -> Handle {
        let inside = guard.map(|it| self.value(code, it));
        let held = self.memory.held(tensor);
        let linear = self.linear(at, &held.shape);
        let value = match linear.modulo(held.unit as i64).as_constant() {
            Some(element) => {
                let at = linear.div(held.unit as i64);
                let unit = self.unit(code, tensor, at);
                self.memory.element(code, tensor, unit, element as u64)
            }
            None => {
                let at = self.clamped(code, &linear, held.shape.count());
                self.memory.load(code, tensor, at)
            }
        };
        match inside {
            None => value,
            Some(inside) => {
                let zero = ops::zero(code, Word::of(held.dtype));
                code.select(inside, value, zero)
            }
        }
    }

    /// Unit number `at` of `tensor`.
    fn unit(&mut self, code: &mut Code, tensor: TensorId, at: Index) -> Handle {
        let key = (tensor, at);
        if let Some(&found) = self.frames.iter().rev().find_map(|it| it.units.get(&key)) {
            return found;
        }
        let held = self.memory.held(tensor);
        let number = self.clamped(code, &key.1, held.shape.count().div_ceil(held.unit as usize));
        let unit = self.memory.load_unit(code, tensor, number);
        let still = self.is_still(&key.1);
        self.frame(still).units.insert(key, unit);
        unit
    }

    pub fn store(&mut self, code: &mut Code, store: &Store) {
        let value = self.stored(code, store);
        let shape = &self.memory.held(store.tensor).shape;
        let linear = self.linear(&store.at, shape);
        let at = self.clamped(code, &linear, shape.count());
        self.memory.store(code, store.tensor, at, value);
    }

    /// Reads the units of all that `roots` read at the points of `step`, where those are known to lie in units, and that waits for no
    /// `Param`; `own` as for `reads`.
    pub fn read_units(&mut self, code: &mut Code, roots: &[ExprId], step: &mut Step, own: bool) {
        let reads = self.reads(roots, own);
        for lane in 0..step.lanes() {
            self.at_lane(step, lane, |scope| {
                for &id in &reads {
                    if let Some((tensor, at)) = scope.unit_of(id) {
                        let unit = scope.unit(code, tensor, at.clone());
                        scope.read.push(((tensor, at), unit));
                    }
                }
            });
        }
        let mut seen = HashSet::new();
        step.units = std::mem::take(&mut self.read);
        step.units.retain(|it| seen.insert(it.1));
    }

    /// The unit in which the load `id` lies here, if it always lies at the same place of one and nothing but loop variables says where.
    fn unit_of(&self, id: ExprId) -> Option<(TensorId, Index)> {
        let Expr::Load { tensor, at, .. } = self.body.expr(id) else { return None };
        let held = self.memory.held(*tensor);
        let linear = self.linear(at, &held.shape);
        let unit = held.unit as i64;
        (!linear.reads_data() && linear.modulo(unit).as_constant().is_some())
            .then(|| (*tensor, linear.div(unit)))
    }

    /// `store` at every point of `step`.
    pub fn store_step(&mut self, code: &mut Code, store: &Store, step: &mut Step) {
        let held = self.memory.held(store.tensor);
        if !held.whole {
            for lane in 0..step.lanes() {
                self.at_lane(step, lane, |scope| scope.store(code, store));
            }
            return;
        }
        let mut values: Vec<Handle> = Vec::new();
        for lane in 0..step.lanes() {
            values.push(self.at_lane(step, lane, |scope| scope.stored(code, store)));
        }
        for (number, values) in values.chunks_exact(held.unit as usize).enumerate() {
            self.at_lane(step, number * held.unit as usize, |scope| {
                let at = scope.linear(&store.at, &held.shape).div(held.unit as i64);
                let at = scope.clamped(code, &at, held.shape.count() / held.unit as usize);
                scope.memory.store_unit(code, store.tensor, at, values);
            });
        }
    }

    /// The value that `store` stores, of the tensor's dtype.
    fn stored(&mut self, code: &mut Code, store: &Store) -> Handle {
        let value = self.value(code, store.value);
        let to = self.memory.held(store.tensor).dtype;
        ops::cast(code, self.dtype(store.value), to, value)
    }

    /// The number of the element at `at` of a tensor of `shape`.
    fn linear(&self, at: &Coords, shape: &Shape) -> Index {
        let at: Coords = at.iter().map(|it| self.here(it)).collect();
        linearise(&at, shape)
    }

    /// `number`, in bounds of `count` whatever the coordinates are.
    fn clamped(&mut self, code: &mut Code, number: &Index, count: usize) -> Handle {
        let value = self.index(code, number);
        let (low, high) = number.range();
        let last = count.saturating_sub(1) as i64;
        if low < 0 || high > last {
            let last = code.u32(last as u32);
            return code.math(MathFunction::Min, &[value, last]);
        }
        value
    }

    /// `index` in terms of leaves.
    pub fn here(&self, index: &Index) -> Index {
        index.substitute(&mut |atom| match atom {
            Atom::Var { axis, .. } if *axis < FIRST_LEAF => match self.vars.get(*axis as usize) {
                Some(Some(value)) => value.clone(),
                _ => bug!("loop variable {axis} is used outside of its loop"),
            },
            Atom::Var { .. } | Atom::Data { .. } | Atom::Div(..) | Atom::Mod(..) => Index::atom(atom.clone()),
        })
    }

    /// An index over leaves as a u32, modulo 2^32.
    pub fn index(&mut self, code: &mut Code, index: &Index) -> Handle {
        if let Some(&found) = self.frames.iter().rev().find_map(|it| it.indices.get(index)) {
            return found;
        }
        let mut sum: Option<Handle> = None;
        // Positive terms first: then no sum begins with a negation unless it must. Among those, by the last leaf that they need:
        // what is given first changes least often, and drivers then find a part of the sum that stays.
        let mut ordered: Vec<&(Atom, i64)> = index.terms().iter().collect();
        ordered.sort_by_key(|(atom, by)| (*by < 0, last_leaf(atom)));
        for (atom, by) in ordered {
            let mut term = self.atom(code, atom);
            if by.unsigned_abs() != 1 {
                let factor = code.u32(by.unsigned_abs() as u32);
                term = code.binary(B::Multiply, term, factor);
            }
            sum = Some(match (sum, *by > 0) {
                (None, true) => term,
                (Some(sum), true) => code.binary(B::Add, sum, term),
                (sum, false) => {
                    let sum = sum.unwrap_or_else(|| code.u32(0));
                    code.binary(B::Subtract, sum, term)
                }
            });
        }
        let value = match (sum, index.offset()) {
            (None, offset) => code.u32(offset as u32),
            (Some(sum), 0) => sum,
            (Some(sum), offset) => {
                let by = code.u32(offset.unsigned_abs() as u32);
                code.binary(if offset > 0 { B::Add } else { B::Subtract }, sum, by)
            }
        };
        let still = self.is_still(index);
        self.frame(still).indices.insert(index.clone(), value);
        value
    }

    fn atom(&mut self, code: &mut Code, atom: &Atom) -> Handle {
        match atom {
            Atom::Var { axis, .. } => self.leaves[(axis - FIRST_LEAF) as usize],
            Atom::Data { expr, .. } => {
                let expr = ExprId(*expr);
                let value = self.value(code, expr);
                match Word::of(self.dtype(expr)) {
                    Word::U32 => value,
                    Word::I32 => code.bitcast(value, ScalarKind::Uint),
                    Word::Bool => code.convert(value, Word::U32),
                    Word::F32 => bug!("an index is a float"),
                }
            }
            Atom::Div(inner, by) => {
                let (value, lift) = self.lifted(code, inner, *by);
                let by = *by as u32;
                let quotient = if by.is_power_of_two() {
                    let places = code.u32(by.trailing_zeros());
                    code.binary(B::ShiftRight, value, places)
                } else {
                    let by = code.u32(by);
                    code.binary(B::Divide, value, by)
                };
                match lift {
                    0 => quotient,
                    _ => {
                        let lift = code.u32(lift);
                        code.binary(B::Subtract, quotient, lift)
                    }
                }
            }
            Atom::Mod(inner, by) if (*by as u32).is_power_of_two() && *by <= u32::MAX as i64 => {
                let value = self.index(code, inner);
                let mask = code.u32(*by as u32 - 1);
                code.binary(B::And, value, mask)
            }
            Atom::Mod(inner, by) => {
                let (value, _) = self.lifted(code, inner, *by);
                let by = code.u32(*by as u32);
                code.binary(B::Modulo, value, by)
            }
        }
    }

    /// `inner` plus `lift * by`, which is not negative.
    fn lifted(&mut self, code: &mut Code, inner: &Index, by: i64) -> (Handle, u32) {
        let (low, high) = inner.range();
        let lift = if low < 0 { -low.div_euclid(by) } else { 0 };
        if high.saturating_add(lift.saturating_mul(by)) > u32::MAX as i64 || by > u32::MAX as i64 {
            bug!("index {inner} / {by} does not fit 32 bits");
        }
        (self.index(code, &inner.offset_by(lift * by)), lift as u32)
    }

    /// Whether an index over leaves is the same at all points of a step at which it occurs.
    fn is_still(&self, index: &Index) -> bool {
        let mut still = true;
        index.leaves(&mut |leaf| {
            if let Atom::Data { expr, .. } = leaf {
                still &= self.still.get(*expr as usize).copied().unwrap_or(false);
            }
        });
        still
    }

    /// Where to keep what is computed now. `still`: it is the same at all points of the step.
    fn frame(&mut self, still: bool) -> &mut Frame {
        let last = self.frames.len() - 1;
        // In a block of its own, nothing outlives the block.
        let at = if still && self.lane == Some(last) { last - 1 } else { last };
        &mut self.frames[at]
    }
}

/// The last of the leaves that an atom needs, by number.
fn last_leaf(atom: &Atom) -> u32 {
    match atom {
        Atom::Var { axis, .. } => *axis,
        Atom::Data { .. } => u32::MAX,
        Atom::Div(inner, _) | Atom::Mod(inner, _) => {
            inner.terms().iter().map(|it| last_leaf(&it.0)).max().unwrap_or(0)
        }
    }
}
