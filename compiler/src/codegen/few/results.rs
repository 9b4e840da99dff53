//! The sums of all shares put together, in subgroups and in workgroup memory, and results stored.
//!
//! Where an invocation stores one group of neighbours at most, what that needs beside sums is read before anything is summed: it
//! would be waited for at the end otherwise.

use naga::{Barrier, BinaryOperator as B, Block, GlobalVariable, MathFunction, Statement, SubgroupOperation};

use super::{Product, put};
use crate::{
    codegen::{
        body::{Frame, Scope, Step},
        grid,
        types::Word,
        writer::{Code, Handle},
    },
    index::Index,
    lower::ExprId,
    schedule::{Few, Kernel, Lanes},
};

/// What a result needs beside sums: its number among the workgroup's, the number of its columns, and what was read.
pub struct Early {
    number: Index,
    column: Index,
    step: Step,
}

impl Product<'_> {
    pub fn early(&self, code: &mut Code, scope: &mut Scope, kernel: &Kernel) -> Option<Early> {
        let Few { size, held, stored, .. } = self.few;
        let count = self.row_count as u32 * self.few.across() / stored;
        if count > size || self.row_count as u32 > held {
            return None;
        }
        let values: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
        let whole = count == size && self.col_count.is_multiple_of(self.few.across() as usize);
        if scope.reads(&values, whole).is_empty() {
            return None;
        }
        // Other invocations read what the last one does.
        let mut near = |scope: &mut Scope, number: &Index, count: usize| {
            let number = scope.index(code, number);
            let last = code.u32(count as u32 - 1);
            let number = code.math(MathFunction::Min, &[number, last]);
            scope.leaf(number, count)
        };
        let number = near(scope, &self.member, count as usize);
        let (_, column) = self.place_of(&number);
        let column = near(scope, &column, self.col_count / stored as usize);
        let lanes = self.neighbours(scope, (&number, &column), 0);
        let mut step = Step::new(lanes, None);
        scope.read_units(code, &values, &mut step, whole);
        Some(Early { number, column, step })
    }

    /// Row of a result by its number among those in memory, and the number of its columns.
    fn place_of(&self, number: &Index) -> (Index, Index) {
        let groups = (self.few.across() / self.few.stored) as i64;
        (number.div(groups), self.tile.mul(groups).add(&number.modulo(groups)))
    }

    /// The points of a result, of which `first` is the first row in memory. The scope steps through them.
    fn neighbours(&self, scope: &mut Scope, (number, column): (&Index, &Index), first: u32) -> Lanes {
        let mut here = self.here.clone();
        put(&mut here, self.rows, self.extents, &self.place_of(number).0.offset_by(first as i64));
        let lanes = Lanes::along(&here, self.extents, self.cols, self.few.stored, column);
        scope.bind(0.., here);
        scope.step_with(&lanes, 0);
        lanes
    }

    /// Puts the sums of all shares together, rows of `held` at a time, and stores the results.
    pub fn finish(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        kernel: &Kernel,
        (mut sums, early): (Vec<Handle>, Option<Early>),
        memory: naga::Handle<GlobalVariable>,
    ) {
        let Few { size, cols, subgroup, held, stored, .. } = self.few;
        let across = self.few.across();
        let mut part = self.share.clone();
        let mut first = None;
        if let Some(width) = subgroup {
            for sum in &mut sums {
                *sum = code.subgroup(SubgroupOperation::Add, Word::F32, *sum);
            }
            part = part.div(width as i64);
            let place = scope.index(code, &self.member.modulo(width as i64));
            let zero = code.u32(0);
            first = Some(code.binary(B::Equal, place, zero));
        }
        let memory = code.global(memory);
        let results = self.few.partial(self.factors.len(), self.alone.len());
        for round in 0..(self.row_count as u32).div_ceil(held) {
            let rows = held.min(self.row_count as u32 - round * held);
            if round > 0 {
                code.stmt(Statement::ControlBarrier(Barrier::WORK_GROUP));
            }
            if first.is_some() {
                code.open();
            }
            scope.enter(Frame::default());
            let own = part.mul(results as i64).add(&self.place.mul(cols as i64));
            for factor in 0..self.factors.len() as u32 {
                for row in 0..rows {
                    for col in 0..cols {
                        let at = (factor * held + row) * across + col;
                        let at = scope.index(code, &own.offset_by(at as i64));
                        let of = factor * self.row_count as u32 + round * held + row;
                        let to = code.element(memory, at);
                        code.store(to, sums[(of * cols + col) as usize]);
                    }
                }
            }
            self.keep_alone(code, scope, &sums, (round * held, rows), &part.mul(results as i64), memory);
            scope.leave();
            if let Some(first) = first {
                let body = code.close();
                code.when(first, body, Block::new());
            }
            code.stmt(Statement::ControlBarrier(Barrier::WORK_GROUP));
            let count = rows * across / stored;
            for start in (0..count).step_by(size as usize) {
                code.open();
                scope.enter(Frame::default());
                let number = match &early {
                    Some(early) => early.number.clone(),
                    None => {
                        let number = scope.index(code, &self.member.offset_by(start as i64));
                        scope.leaf(number, count as usize)
                    }
                };
                self.result(code, scope, kernel, (&number, early.as_ref()), round * held, memory);
                scope.leave();
                let body = code.close();
                match start + size <= count {
                    true => code.stmt(Statement::Block(body)),
                    false => {
                        let (number, end) = (scope.index(code, &self.member), code.u32(count - start));
                        let inside = code.binary(B::Less, number, end);
                        code.when(inside, body, Block::new());
                    }
                }
            }
        }
    }

    /// Puts what was summed alone in memory: it is the same for all columns of a share, whose first invocation writes it.
    fn keep_alone(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        sums: &[Handle],
        (first, rows): (u32, u32),
        own: &Index,
        memory: Handle,
    ) {
        if self.alone.is_empty() {
            return;
        }
        let (place, zero) = (scope.index(code, &self.place), code.u32(0));
        let one = code.binary(B::Equal, place, zero);
        code.open();
        scope.enter(Frame::default());
        let before = self.factors.len() as u32 * self.row_count as u32 * self.few.cols;
        for number in 0..self.alone.len() as u32 {
            for row in 0..rows {
                let at = self.alone_at(number) + row;
                let at = scope.index(code, &own.offset_by(at as i64));
                let to = code.element(memory, at);
                code.store(to, sums[(before + number * self.row_count as u32 + first + row) as usize]);
            }
        }
        scope.leave();
        let body = code.close();
        code.when(one, body, Block::new());
    }

    /// Where, among the sums of a share in memory, those stand that are summed alone.
    fn alone_at(&self, number: u32) -> u32 {
        let Few { held, .. } = self.few;
        held * (self.few.across() * self.factors.len() as u32 + number)
    }

    /// Finishes and stores the results number `number`, a leaf, of the rows in memory, of which `first` is the first.
    fn result(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        kernel: &Kernel,
        (number, early): (&Index, Option<&Early>),
        first: u32,
        memory: Handle,
    ) {
        let Few { held, stored, .. } = self.few;
        let across = self.few.across();
        let groups = (across / stored) as i64;
        let (row, group) = (number.div(groups), number.modulo(groups));
        let (_, column) = self.place_of(number);
        let columns = self.col_count / stored as usize;
        let column = scope.index(code, &column);
        let below = grid::open_below(
            code,
            column,
            columns as u64,
            self.tile.range().1 as u64 * groups as u64 + groups as u64,
        );
        scope.enter(Frame::default());
        let column = match early {
            Some(early) => early.column.clone(),
            None => scope.leaf(column, columns),
        };
        let results = self.few.partial(self.factors.len(), self.alone.len());
        let at = row.mul(across as i64).add(&group.mul(stored as i64));
        let mut sums: Vec<Vec<(Handle, Word)>> = Vec::new();
        for lane in 0..stored {
            let mut total = |at: &Index| {
                let mut parts: Vec<Handle> = (0..self.few.parts())
                    .map(|part| {
                        let at = at.offset_by((part * results) as i64);
                        let at = scope.index(code, &at);
                        let from = code.element(memory, at);
                        code.load(from)
                    })
                    .collect();
                while parts.len() > 1 {
                    let pair = |it: &[Handle]| match *it {
                        [x, y] => code.binary(B::Add, x, y),
                        _ => it[0],
                    };
                    parts = parts.chunks(2).map(pair).collect();
                }
                (parts[0], Word::F32)
            };
            let of = |factor: u32| at.offset_by((factor * held * across + lane) as i64);
            let mut params: Vec<_> = (0..self.factors.len() as u32).map(|it| total(&of(it))).collect();
            let alone = 0..self.alone.len() as u32;
            params.extend(alone.map(|it| total(&row.offset_by(self.alone_at(it) as i64))));
            sums.push(params);
        }
        let lanes = self.neighbours(scope, (number, &column), first);
        let mut step = match early {
            Some(early) => {
                let units: Vec<Handle> = early.step.units().map(|it| it.1).collect();
                early.step.with_units(&units).given(sums)
            }
            None => Step::of_params(lanes, sums),
        };
        for store in &kernel.stores {
            scope.store_step(code, store, &mut step);
        }
        scope.leave();
        grid::close_below(code, below);
    }
}
