//! Skeleton: reductions along rows, then stores for each row or each element of it.
//!
//! A row is walked by an invocation, a subgroup or a workgroup. Short walks are written out step by step; what a step has
//! read and computed is then at hand in all later stages, so that a row is read once and stays in registers.

use naga::{BinaryOperator as B, Block, BuiltIn, MathFunction, SubgroupOperation};

use super::{
    body::{Frame, Scope, Step},
    grid,
    library::{self, File},
    memory::Memory,
    ops,
    types::Word,
    writer::{Code, Handle, Writer},
};
use crate::{
    bug,
    error::Error,
    index::{Index, delinearise},
    lower::ExprId,
    scalar::ReduceOp,
    schedule::{Kernel, Lanes, RowForm, Stage, Team},
    shape::Shape,
    target::Target,
};

/// One reduction over a row.
#[derive(Clone, Copy)]
pub enum Reduction {
    Stage {
        op: ReduceOp,
        value: ExprId,
    },
    /// The sum of products.
    Product {
        a: ExprId,
        b: ExprId,
    },
}

impl From<&Stage> for Reduction {
    fn from(stage: &Stage) -> Reduction {
        Reduction::Stage { op: stage.op, value: stage.value }
    }
}

impl Reduction {
    fn op(self) -> ReduceOp {
        match self {
            Reduction::Stage { op, .. } => op,
            Reduction::Product { .. } => ReduceOp::Sum,
        }
    }

    fn roots(self) -> Vec<ExprId> {
        match self {
            Reduction::Stage { value, .. } => vec![value],
            Reduction::Product { a, b } => vec![a, b],
        }
    }
}

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    (outer, inner): (&Shape, &Shape),
    reductions: &[Reduction],
    form: RowForm,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let rows = outer.count() as u64;
    let (rows_each, size) = match form.team {
        Team::Invocation { workgroup } => (workgroup, workgroup),
        Team::Subgroup { size, rows } => (rows, size * rows),
        Team::Workgroup { size, .. } => (1, size),
    };
    let groups = grid::fold(rows.div_ceil(rows_each as u64), size, &kernel.name, target)?;
    let mut code = Code::new(writer, "main");
    let mut member = Member::new(&mut code, form.team);
    let row = match form.team {
        Team::Invocation { workgroup } => grid::invocation(&mut code, groups, workgroup),
        Team::Workgroup { .. } => grid::group(&mut code, groups),
        Team::Subgroup { rows, .. } => {
            let group = grid::group(&mut code, groups);
            let (by, own) = (code.u32(rows), code.builtin("subgroup", BuiltIn::SubgroupId));
            let first = code.binary(B::Multiply, group, by);
            code.binary(B::Add, first, own)
        }
    };
    let below = grid::open_below(&mut code, row, rows, grid::total(groups, rows_each));
    let mut scope = Scope::new(&kernel.body, memory);
    let point = scope.leaf(row, rows as usize);
    scope.bind(0.., delinearise(&point, outer));
    scope.step_through(&Lanes::anywhere(outer.rank(), inner, form.lanes));
    let mut walk = Walk::new(&mut code, &mut scope, member.place, (outer.rank(), inner), form);
    if form.early {
        let roots = crate::schedule::verify::roots(kernel);
        walk.read(&mut code, &mut scope, &roots);
    }
    for &reduction in reductions {
        let (value, word) = walk.reduce(&mut code, &mut scope, reduction);
        let (value, word) = member.together(&mut code, reduction.op(), value, word);
        scope.param(value, word);
    }
    let one_writes = member.place.map(|it| {
        let zero = code.u32(0);
        code.binary(B::Equal, it, zero)
    });
    walk.stores(&mut code, &mut scope, kernel, one_writes);
    grid::close_below(&mut code, below);
    code.entry_point([size, 1, 1]);
    Ok(groups)
}

/// An invocation among those that share a row.
struct Member {
    team: Team,
    /// Its number among them, where they are several.
    place: Option<Handle>,
    /// Its subgroup in the workgroup, and its number there, where rows are reduced over both.
    subgroup: Option<(Handle, Handle)>,
    turn: u32,
}

impl Member {
    fn new(code: &mut Code, team: Team) -> Member {
        let mut subgroup = None;
        let place = match team {
            Team::Invocation { .. } => None,
            Team::Subgroup { .. } => Some(code.builtin("place", BuiltIn::SubgroupInvocationId)),
            Team::Workgroup { subgroup: None, .. } => {
                Some(code.builtin("local", BuiltIn::LocalInvocationIndex))
            }
            Team::Workgroup { subgroup: Some(size), .. } => {
                let own = code.builtin("subgroup", BuiltIn::SubgroupId);
                let place = code.builtin("place", BuiltIn::SubgroupInvocationId);
                subgroup = Some((own, place));
                // Not the local index: how invocations are dealt to subgroups is the device's affair.
                let size = code.u32(size);
                let first = code.binary(B::Multiply, own, size);
                Some(code.binary(B::Add, first, place))
            }
        };
        Member { team, place, subgroup, turn: 0 }
    }

    /// The values of all that share the row put together, and what that is computed in.
    fn together(&mut self, code: &mut Code, op: ReduceOp, value: Handle, word: Word) -> (Handle, Word) {
        let (size, subgroup) = match self.team {
            Team::Invocation { .. } => return (value, word),
            Team::Subgroup { .. } => (0, None),
            Team::Workgroup { size, subgroup } => (size, subgroup),
        };
        let (value, word) = match word {
            Word::Bool => (code.convert(value, Word::U32), Word::U32),
            Word::F32 | Word::I32 | Word::U32 => (value, word),
        };
        let Team::Workgroup { .. } = self.team else { return (within(code, op, value, word), word) };
        let turn = code.u32(self.turn);
        self.turn = 1 - self.turn;
        let (Some(subgroup), Some((own, place))) = (subgroup, self.subgroup) else {
            // Few values are put together by everyone at once; more in two steps.
            let left = if size <= AT_ONCE { size } else { size.min(LEFT) };
            let library = library::library(File::Reduce, &[("WG_SIZE", size), ("LEFT", left)]);
            let name = format!("wg_reduce_{}_{}", op.name(), word.name());
            let function = library.copy(code.writer, &name);
            let place = self.place.unwrap_or_else(|| bug!("a workgroup's invocations have places"));
            return (code.call(function, &[value, place, turn]), word);
        };
        let value = within(code, op, value, word);
        let parts = size / subgroup;
        if parts <= 1 {
            return (value, word);
        }
        let library = library::library(File::Reduce, &[("WG_SIZE", parts), ("LEFT", 1)]);
        let function = library.copy(code.writer, &format!("wg_pass_{}", word.name()));
        let (zero, last) = (code.u32(0), code.u32(parts - 1));
        let first = code.binary(B::Equal, place, zero);
        let takes = code.math(MathFunction::Min, &[place, last]);
        let mut part = code.call(function, &[value, first, own, takes, turn]);
        if parts < subgroup && matches!(op, ReduceOp::Sum | ReduceOp::Prod) {
            let count = code.u32(parts);
            let counted = code.binary(B::Less, place, count);
            let nothing = match (op, word) {
                (ReduceOp::Sum, _) => ops::zero(code, word),
                (_, Word::F32) => code.f32(1.0),
                (_, Word::I32) => code.i32(1),
                (_, Word::U32 | Word::Bool) => code.u32(1),
            };
            part = code.select(counted, part, nothing);
        }
        (within(code, op, part, word), word)
    }
}

/// So many values every invocation of a workgroup puts together by itself; of more, so many invocations do a part first.
const AT_ONCE: u32 = 32;
const LEFT: u32 = 16;

/// The values of a subgroup put together. Maximum and minimum are NaN if any value is.
fn within(code: &mut Code, op: ReduceOp, value: Handle, word: Word) -> Handle {
    let (operation, extreme) = match op {
        ReduceOp::Sum => (SubgroupOperation::Add, false),
        ReduceOp::Prod => (SubgroupOperation::Mul, false),
        ReduceOp::Max => (SubgroupOperation::Max, true),
        ReduceOp::Min => (SubgroupOperation::Min, true),
    };
    let result = code.subgroup(operation, word, value);
    if !extreme || word != Word::F32 {
        return result;
    }
    let nan = code.is_nan(value);
    let any = code.subgroup(SubgroupOperation::Any, Word::Bool, nan);
    let not_a_number = code.f32_any(f32::NAN);
    code.select(any, not_a_number, result)
}

/// How the elements of a row are visited: again for each stage.
struct Walk<'k> {
    /// The first of the row's variables.
    first: usize,
    steps: Steps<'k>,
}

enum Steps<'k> {
    /// Written out: what was read and computed stays at hand.
    Kept(Vec<Step>),
    /// In rounds of some steps, each a team's width from the last; then one at a time.
    Long {
        inner: &'k Shape,
        place: Option<Handle>,
        /// Invocations that share the row.
        team: u32,
        lanes: u32,
        steps: u32,
    },
}

impl<'k> Walk<'k> {
    fn new(
        code: &mut Code,
        scope: &mut Scope,
        place: Option<Handle>,
        (first, inner): (usize, &'k Shape),
        form: RowForm,
    ) -> Walk<'k> {
        let RowForm { lanes, steps, .. } = form;
        let team = match form.team {
            Team::Invocation { .. } => 1,
            Team::Subgroup { size, .. } | Team::Workgroup { size, .. } => size,
        };
        let vectors = inner.count() / lanes as usize;
        if vectors > team as usize * steps as usize {
            return Walk { first, steps: Steps::Long { inner, place, team, lanes, steps } };
        }
        let place = place.map_or(Index::constant(0), |it| scope.leaf(it, team as usize));
        let mut step = |number: usize| {
            let before = number * team as usize;
            let vector = place.offset_by(before as i64);
            if before + team as usize <= vectors {
                return Step::new(Lanes::at(first, inner, lanes, &vector), None);
            }
            // Past the end, the row's last elements are read again and not counted.
            let at = scope.index(code, &vector);
            let (end, last) = (code.u32(vectors as u32), code.u32(vectors as u32 - 1));
            let inside = code.binary(B::Less, at, end);
            let at = code.math(MathFunction::Min, &[at, last]);
            let vector = scope.leaf(at, vectors);
            Step::new(Lanes::at(first, inner, lanes, &vector), Some(inside))
        };
        let steps = (0..vectors.div_ceil(team as usize)).map(&mut step).collect();
        Walk { first, steps: Steps::Kept(steps) }
    }

    /// Runs `act` with all elements that are at hand together.
    fn each(
        &mut self,
        code: &mut Code,
        scope: &mut Scope,
        act: &mut dyn FnMut(&mut Code, &mut Scope, &mut [Step]),
    ) {
        let first = self.first;
        let (inner, place, team, lanes, steps) = match &mut self.steps {
            Steps::Kept(kept) => return act(code, scope, kept),
            Steps::Long { inner, place, team, lanes, steps } => (*inner, *place, *team, *lanes, *steps),
        };
        let vectors = (inner.count() / lanes as usize) as u32;
        let round = team * steps;
        let whole = vectors / round * round;
        for (from, to, steps) in [(0, whole, steps), (whole, vectors, 1)] {
            if from == to {
                continue;
            }
            let (start, end) = (code.u32(from), code.u32(to));
            let start = match place {
                Some(place) if from == 0 => place,
                Some(place) => code.binary(B::Add, start, place),
                None => start,
            };
            let counter = code.open_loop(start, end);
            // The counter stays that far below the end.
            let below = (steps - 1) * team;
            let number = scope.leaf(counter.1, (to - below) as usize);
            let mut batch: Vec<Step> = (0..steps)
                .map(|it| number.offset_by((it * team) as i64))
                .map(|it| Step::new(Lanes::at(first, inner, lanes, &it), None))
                .collect();
            scope.enter(Frame::default());
            act(code, scope, &mut batch);
            scope.leave();
            code.close_loop(counter, steps * team);
        }
    }

    /// Reads what `roots` need and what can be read already, if the row stays at hand.
    fn read(&mut self, code: &mut Code, scope: &mut Scope, roots: &[ExprId]) {
        let Steps::Kept(steps) = &mut self.steps else { return };
        for id in scope.reads(roots, false) {
            for step in steps.iter_mut() {
                for lane in 0..step.lanes() {
                    scope.at_lane(step, lane, |scope| scope.value(code, id));
                }
            }
        }
    }

    /// The result for the elements that this invocation visits, and what it is computed in.
    fn reduce(&mut self, code: &mut Code, scope: &mut Scope, reduction: Reduction) -> (Handle, Word) {
        let roots = reduction.roots();
        let dtype = scope.dtype(roots[0]);
        let word = Word::of(dtype);
        let op = reduction.op();
        if word == Word::Bool && matches!(op, ReduceOp::Sum | ReduceOp::Prod) {
            bug!("a {} of bools", op.name());
        }
        scope.hoist(code, &roots, self.first);
        let identity = ops::constant(code, op.identity(dtype), dtype);
        let looped = match self.steps {
            Steps::Kept(_) => None,
            Steps::Long { .. } => {
                let sum = code.local(op.name(), word);
                code.store(sum, identity);
                Some(sum)
            }
        };
        let combine = |code: &mut Code, x, y| match op {
            ReduceOp::Sum => code.binary(B::Add, x, y),
            ReduceOp::Prod => code.binary(B::Multiply, x, y),
            ReduceOp::Max | ReduceOp::Min => ops::extreme(code, op == ReduceOp::Max, word, x, y),
        };
        let mut result = identity;
        self.each(code, scope, &mut |code, scope, steps| {
            let mut values = Vec::new();
            for step in steps {
                for lane in 0..step.lanes() {
                    let mut value = scope.at_lane(step, lane, |scope| match reduction {
                        Reduction::Stage { value, .. } => scope.value(code, value),
                        Reduction::Product { a, b } => {
                            let (a, b) = (scope.value(code, a), scope.value(code, b));
                            code.binary(B::Multiply, a, b)
                        }
                    });
                    if let Some(inside) = step.inside {
                        value = code.select(inside, value, identity);
                    }
                    values.push(value);
                }
            }
            // Two by two: short chains, and small errors.
            while values.len() > 1 {
                let pair = |it: &[Handle]| match *it {
                    [x, y] => combine(code, x, y),
                    _ => it[0],
                };
                values = values.chunks(2).map(pair).collect();
            }
            let Some(&value) = values.first() else { return };
            result = match looped {
                None => value,
                Some(sum) => {
                    let before = code.load(sum);
                    let after = combine(code, before, value);
                    code.store(sum, after);
                    after
                }
            };
        });
        (looped.map_or(result, |it| code.load(it)), word)
    }

    /// Every store of `kernel`: those of elements at every step, those of the row where `one_writes`.
    fn stores(&mut self, code: &mut Code, scope: &mut Scope, kernel: &Kernel, one_writes: Option<Handle>) {
        let varying = scope.varying(self.first);
        let (elements, row): (Vec<_>, Vec<_>) =
            kernel.stores.iter().partition(|it| scope.store_varies(it, &varying, self.first));
        // What is read where it is written is left to the invocation that writes it.
        let hoisted = kernel.stores.iter().map(|it| it.value).filter(|it| !scope.reads_written(*it));
        let roots: Vec<ExprId> = hoisted.collect();
        scope.hoist(code, &roots, self.first);
        if !row.is_empty() {
            if one_writes.is_some() {
                code.open();
            }
            scope.enter(Frame::default());
            row.iter().for_each(|it| scope.store(code, it));
            scope.leave();
            if let Some(condition) = one_writes {
                let body = code.close();
                code.when(condition, body, Block::new());
            }
        }
        if elements.is_empty() {
            return;
        }
        self.each(code, scope, &mut |code, scope, steps| {
            // The values of all steps first: what they read is then on its way together.
            for step in &mut *steps {
                for store in &elements {
                    for lane in 0..step.lanes() {
                        scope.at_lane(step, lane, |scope| scope.value(code, store.value));
                    }
                }
            }
            for step in steps {
                match step.inside {
                    None => elements.iter().for_each(|it| scope.store_step(code, it, step)),
                    // The step's frames now hold what is known in this block alone; nobody looks at them again.
                    Some(inside) => {
                        code.open();
                        elements.iter().for_each(|it| scope.store_step(code, it, step));
                        let body = code.close();
                        code.when(inside, body, Block::new());
                    }
                }
            }
        });
    }
}
