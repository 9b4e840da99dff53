//! Skeleton: reductions along rows, then stores for each row or each element of it.
//!
//! A row is walked by one invocation or by a workgroup. Short walks are written out step by step; what a step has read
//! and computed is then at hand in all later stages, so that a row is read once and stays in registers.

use naga::{BinaryOperator as B, Block, BuiltIn, MathFunction};

use super::{
    body::{Frame, Scope},
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
    schedule::{Kernel, Stage},
    shape::Shape,
    target::Target,
};

/// Walks of at most this many steps are written out, if their steps times expressions are few enough.
const UNROLLED_STEPS: usize = 16;
const UNROLLED_EXPRESSIONS: usize = 400;

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

/// One invocation a row. Writes the entry point; gives the workgroups to dispatch.
pub fn by_invocation(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    (outer, inner): (&Shape, &Shape),
    reductions: &[Reduction],
    workgroup: u32,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let rows = outer.count() as u64;
    let groups = grid::fold(rows.div_ceil(workgroup as u64), workgroup, &kernel.name, target)?;
    let mut code = Code::new(writer, "main");
    let row = grid::invocation(&mut code, groups, workgroup);
    let below = grid::open_below(&mut code, row, rows, grid::total(groups, workgroup));
    let mut scope = Scope::new(&kernel.body, memory);
    let point = scope.leaf(row, rows as usize);
    scope.bind(0.., delinearise(&point, outer));

    let count = inner.count();
    let steps = if written_out(kernel, count) {
        let step = |at| (Index::constant(at as i64), None, Frame::default());
        Steps::WrittenOut((0..count).map(step).collect())
    } else {
        Steps::Loop { start: code.u32(0), step: 1 }
    };
    let mut walk = Walk { first: outer.rank(), inner, steps };
    for &reduction in reductions {
        let (value, word) = walk.reduce(&mut code, &mut scope, reduction);
        scope.param(value, word);
    }
    walk.stores(&mut code, &mut scope, kernel, None);
    grid::close_below(&mut code, below);
    code.entry_point([workgroup, 1, 1]);
    Ok(groups)
}

/// One workgroup of `size` invocations a row. Writes the entry point; gives the workgroups to dispatch.
pub fn by_workgroup(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    (outer, inner): (&Shape, &Shape),
    reductions: &[Reduction],
    size: u32,
    target: &Target,
) -> Result<[u32; 3], Error> {
    if !size.is_power_of_two() {
        bug!("{}: a workgroup of {size} does not halve", kernel.name);
    }
    let rows = outer.count() as u64;
    let groups = grid::fold(rows, 1, &kernel.name, target)?;
    let reduce = library::library(File::Reduce, &[("WG_SIZE", size)]);
    let mut code = Code::new(writer, "main");
    let row = grid::group(&mut code, groups);
    let local = code.builtin("local", BuiltIn::LocalInvocationIndex);
    let below = grid::open_below(&mut code, row, rows, grid::total(groups, 1));
    let mut scope = Scope::new(&kernel.body, memory);
    let point = scope.leaf(row, rows as usize);
    scope.bind(0.., delinearise(&point, outer));

    let count = inner.count();
    let trips = count.div_ceil(size as usize);
    let steps = if written_out(kernel, trips) {
        let lane = scope.leaf(local, size as usize);
        let mut step = |trip: usize| {
            let first = trip * size as usize;
            let position = lane.offset_by(first as i64);
            if first + size as usize <= count {
                return (position, None, Frame::default());
            }
            // Past the end, the row's last element is read again and not counted.
            let at = scope.index(&mut code, &position);
            let (end, last) = (code.u32(count as u32), code.u32(count as u32 - 1));
            let inside = code.binary(B::Less, at, end);
            let at = code.math(MathFunction::Min, &[at, last]);
            (scope.leaf(at, count), Some(inside), Frame::default())
        };
        Steps::WrittenOut((0..trips).map(&mut step).collect())
    } else {
        Steps::Loop { start: local, step: size }
    };
    let mut walk = Walk { first: outer.rank(), inner, steps };
    for &reduction in reductions {
        let (value, word) = walk.reduce(&mut code, &mut scope, reduction);
        let name = reduction.op().name();
        let (value, shared) = match word {
            Word::Bool => (code.convert(value, Word::U32), Word::U32),
            Word::F32 | Word::I32 | Word::U32 => (value, word),
        };
        let function = reduce.copy(code.writer, &format!("wg_reduce_{name}_{}", shared.name()));
        let value = code.call(function, &[value, local]);
        scope.param(value, shared);
    }
    let zero = code.u32(0);
    let one_writes = code.binary(B::Equal, local, zero);
    walk.stores(&mut code, &mut scope, kernel, Some(one_writes));
    grid::close_below(&mut code, below);
    code.entry_point([size, 1, 1]);
    Ok(groups)
}

fn written_out(kernel: &Kernel, steps: usize) -> bool {
    steps <= UNROLLED_STEPS && steps * kernel.body.len() <= UNROLLED_EXPRESSIONS
}

/// How the elements of a row are visited: again for each stage.
struct Walk<'k> {
    /// The first of the row's variables.
    first: usize,
    inner: &'k Shape,
    steps: Steps,
}

enum Steps {
    /// Position in the row; where it is not always inside, whether it is; what was computed there.
    WrittenOut(Vec<(Index, Option<Handle>, Frame)>),
    Loop {
        start: Handle,
        step: u32,
    },
}

impl Walk<'_> {
    fn each(
        &mut self,
        code: &mut Code,
        scope: &mut Scope,
        act: &mut dyn FnMut(&mut Code, &mut Scope, Option<Handle>),
    ) {
        match &mut self.steps {
            Steps::WrittenOut(steps) => {
                for (position, inside, frame) in steps {
                    scope.bind(self.first.., delinearise(position, self.inner));
                    scope.enter(std::mem::take(frame));
                    act(code, scope, *inside);
                    *frame = scope.leave();
                }
            }
            Steps::Loop { start, step } => {
                let count = self.inner.count();
                let end = code.u32(count as u32);
                let counter = code.open_loop(*start, end);
                let position = scope.leaf(counter.1, count);
                scope.bind(self.first.., delinearise(&position, self.inner));
                scope.enter(Frame::default());
                act(code, scope, None);
                scope.leave();
                code.close_loop(counter, *step);
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
            Steps::WrittenOut(_) => None,
            Steps::Loop { .. } => {
                let sum = code.local(op.name(), word);
                code.store(sum, identity);
                Some(sum)
            }
        };
        let mut result = identity;
        self.each(code, scope, &mut |code, scope, inside| {
            let mut value = match reduction {
                Reduction::Stage { value, .. } => scope.value(code, value),
                Reduction::Product { a, b } => {
                    let (a, b) = (scope.value(code, a), scope.value(code, b));
                    code.binary(B::Multiply, a, b)
                }
            };
            if let Some(inside) = inside {
                value = code.select(inside, value, identity);
            }
            let before = looped.map_or(result, |it| code.load(it));
            result = match op {
                // The first value takes the identity's place.
                _ if before == identity => value,
                ReduceOp::Sum => code.binary(B::Add, before, value),
                ReduceOp::Prod => code.binary(B::Multiply, before, value),
                ReduceOp::Max | ReduceOp::Min => ops::extreme(code, op == ReduceOp::Max, word, before, value),
            };
            if let Some(sum) = looped {
                code.store(sum, result);
            }
        });
        (looped.map_or(result, |it| code.load(it)), word)
    }

    /// Every store of `kernel`: those of elements at every step, those of the row where `one_writes`.
    fn stores(&mut self, code: &mut Code, scope: &mut Scope, kernel: &Kernel, one_writes: Option<Handle>) {
        let varying = scope.varying(self.first);
        let (elements, row): (Vec<_>, Vec<_>) =
            kernel.stores.iter().partition(|it| scope.store_varies(it, &varying, self.first));
        let roots: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
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
        self.each(code, scope, &mut |code, scope, inside| {
            if inside.is_some() {
                // The values first: they stay known to the frame outside of the condition's block.
                elements.iter().for_each(|it| {
                    scope.value(code, it.value);
                });
                code.open();
                scope.enter(Frame::default());
            }
            elements.iter().for_each(|it| scope.store(code, it));
            if let Some(inside) = inside {
                scope.leave();
                let body = code.close();
                code.when(inside, body, Block::new());
            }
        });
    }
}
