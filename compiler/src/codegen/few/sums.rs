//! What an invocation sums: it goes through its share of the depth in blocks and reads all of some blocks before it multiplies.

use naga::{BinaryOperator as B, Block, MathFunction};

use super::{Part, Product, put};
use crate::{
    codegen::{
        body::{Frame, Scope, Step},
        types::Word,
        writer::{Code, Handle},
    },
    index::Index,
    lower::{Coords, ExprId},
    schedule::{Few, Lanes},
};

impl Product<'_> {
    /// The invocation's sums over its share of the depth: for each factor, row and column of it; then, for each row, of what is
    /// summed alone.
    pub fn sums(&self, code: &mut Code, scope: &mut Scope, columns: &[Index]) -> Vec<Handle> {
        let count = (self.factors.len() * columns.len() + self.alone.len()) * self.row_count;
        let zero = code.f32(0.0);
        let sums: Vec<Handle> = (0..count).map(|_| code.local("sum", Word::F32)).collect();
        sums.iter().for_each(|it| code.store(*it, zero));
        // What is the same all along a row is computed once.
        let mut frames: Vec<Frame> = Vec::new();
        for row in 0..self.row_count {
            scope.bind(0.., self.row(row));
            scope.enter(Frame::default());
            let roots: Vec<ExprId> = [self.a].into_iter().chain(self.alone.iter().copied()).collect();
            scope.hoist(code, &roots, self.extents.rank() - self.steps.len());
            frames.push(scope.leave());
        }
        let Few { deep, ahead, early, .. } = self.few;
        let (deep, ahead) = (deep as usize, ahead as usize);
        let round = deep * ahead;
        let rounds = self.vectors / round;
        let whole = rounds * round;
        let parts = |number: &Index| -> Vec<Part> {
            let part = |it: usize| Part { number: number.offset_by((it * deep) as i64), inside: None };
            (0..ahead).map(part).collect()
        };
        if rounds > 1 {
            // Of what is read early, the last round is multiplied after the loop.
            let end = if early { whole - round } else { whole };
            let start = scope.index(code, &self.share);
            let number = scope.leaf(start, whole - (ahead - 1) * deep);
            let parts = parts(&number);
            let mut held: Vec<(Step, Vec<Handle>)> = Vec::new();
            if early {
                scope.enter(Frame::default());
                for step in self.read(code, scope, columns, &parts) {
                    let mut keep = |(tensor, unit)| {
                        let kept = self.memory.local_unit(code, tensor);
                        code.store(kept, unit);
                        kept
                    };
                    let kept = step.units().map(&mut keep).collect();
                    held.push((step, kept));
                }
                scope.leave();
            }
            let end = code.u32(end as u32);
            let counter = code.open_loop(start, end);
            scope.enter(Frame::default());
            let mut after: Vec<Handle> = Vec::new();
            if early {
                let round = code.u32(round as u32);
                let next = code.binary(B::Add, counter.1, round);
                scope.put_leaf(&number, next);
                for step in self.read(code, scope, columns, &parts) {
                    after.extend(step.units().map(|it| it.1));
                }
                scope.leave();
                scope.enter(Frame::default());
            }
            scope.put_leaf(&number, counter.1);
            self.multiply(code, scope, columns, &parts, &held, &mut frames, &sums);
            for (kept, next) in held.iter().flat_map(|it| &it.1).zip(after) {
                code.store(*kept, next);
            }
            scope.leave();
            code.close_loop(counter, round as u32);
            if early {
                let last = scope.index(code, &self.share.offset_by((whole - round) as i64));
                scope.put_leaf(&number, last);
                scope.enter(Frame::default());
                self.multiply(code, scope, columns, &parts, &held, &mut frames, &sums);
                scope.leave();
            }
        }
        // The last blocks; a single round needs no loop.
        let mut first = if rounds > 1 { whole } else { 0 };
        while first < self.vectors {
            let mut parts: Vec<Part> = Vec::new();
            while parts.len() < ahead && first < self.vectors {
                let number = self.share.offset_by(first as i64);
                first += deep;
                parts.push(match first <= self.vectors {
                    true => Part { number, inside: None },
                    false => {
                        let (end, last) = (code.u32(self.vectors as u32), code.u32(self.vectors as u32 - 1));
                        let number = scope.index(code, &number);
                        let inside = code.binary(B::Less, number, end);
                        let number = code.math(MathFunction::Min, &[number, last]);
                        Part { number: scope.leaf(number, self.vectors), inside: Some(inside) }
                    }
                });
            }
            self.multiply(code, scope, columns, &parts, &[], &mut frames, &sums);
        }
        sums.into_iter().map(|it| code.load(it)).collect()
    }

    fn row(&self, row: usize) -> Coords {
        let mut point = self.here.clone();
        put(&mut point, self.rows, self.extents, &Index::constant(row as i64));
        point
    }

    /// A point of each number of a block's depth.
    fn along(&self, point: &Coords, part: &Part) -> Vec<Coords> {
        let each = self.few.depth as i64;
        let at = |step: i64| {
            let mut point = point.clone();
            put(&mut point, self.steps, self.extents, &part.number.mul(each).offset_by(step));
            point
        };
        (0..each).map(at).collect()
    }

    /// For each block and factor: its points, those of the depth and of each of these those of the columns.
    fn blocks(&self, scope: &mut Scope, columns: &[Index], parts: &[Part]) -> Vec<(ExprId, Step)> {
        let mut blocks = Vec::new();
        for part in parts {
            let mut points = Vec::new();
            for point in self.along(&self.here, part) {
                for column in columns {
                    let mut point = point.clone();
                    put(&mut point, self.cols, self.extents, column);
                    points.push(point);
                }
            }
            let lanes = Lanes { first: 0, points };
            scope.step_through(&lanes);
            blocks.extend(self.factors.iter().map(|&it| (it, Step::new(lanes.clone(), None))));
        }
        blocks
    }

    /// Reads the units of some blocks.
    fn read(&self, code: &mut Code, scope: &mut Scope, columns: &[Index], parts: &[Part]) -> Vec<Step> {
        let blocks = self.blocks(scope, columns, parts);
        let read = |(factor, mut step)| {
            scope.read_units(code, &[factor], &mut step, false);
            step
        };
        blocks.into_iter().map(read).collect()
    }

    /// Adds the products of some blocks to the sums: everything is read first. `held` has variables of what was read before,
    /// if anything was.
    #[expect(clippy::too_many_arguments, reason = "a round is this much")]
    fn multiply(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        columns: &[Index],
        parts: &[Part],
        held: &[(Step, Vec<Handle>)],
        frames: &mut [Frame],
        sums: &[Handle],
    ) {
        let each = self.few.depth as usize;
        // Of each root, the values at all points.
        let all = |code: &mut Code, scope: &mut Scope, roots: &[ExprId], mut step: Step| {
            let count = step.lanes();
            let mut values = |root| {
                let value = |lane| scope.at_lane(&mut step, lane, |scope| scope.value(code, root));
                (0..count).map(value).collect::<Vec<_>>()
            };
            roots.iter().map(|it| values(*it)).collect::<Vec<_>>()
        };
        let mut factors: Vec<Vec<Handle>> = Vec::new();
        for (number, (factor, mut step)) in self.blocks(scope, columns, parts).into_iter().enumerate() {
            if let Some((read, kept)) = held.get(number) {
                let units: Vec<Handle> = kept.iter().map(|it| code.load(*it)).collect();
                step = read.with_units(&units);
            }
            factors.extend(all(code, scope, &[factor], step));
        }
        let mut rows: Vec<Vec<Handle>> = Vec::new();
        // For each block and row: those of the depth of each that is summed alone.
        let mut alone: Vec<Vec<Vec<Handle>>> = Vec::new();
        let roots: Vec<ExprId> = [self.a].into_iter().chain(self.alone.iter().copied()).collect();
        for part in parts {
            for (row, frame) in frames.iter_mut().enumerate() {
                let row = self.row(row);
                scope.enter(std::mem::take(frame));
                let lanes = Lanes { first: 0, points: self.along(&row, part) };
                scope.step_through(&lanes);
                let mut values = all(code, scope, &roots, Step::new(lanes, None)).into_iter();
                rows.extend(values.next());
                alone.push(values.collect());
                *frame = scope.leave();
            }
        }
        let (factor_count, row_count) = (self.factors.len(), self.row_count);
        let add = |code: &mut Code, held: &mut [Handle], number: usize| {
            for step in 0..each {
                for (at, sum) in held.iter_mut().enumerate() {
                    if let Some(at) = at.checked_sub(factor_count * row_count * columns.len()) {
                        let value = alone[number * row_count + at % row_count][at / row_count][step];
                        *sum = code.binary(B::Add, *sum, value);
                        continue;
                    }
                    let (column, of) = (at % columns.len(), at / columns.len());
                    let a = rows[number * row_count + of % row_count][step];
                    let b = factors[number * factor_count + of / row_count][step * columns.len() + column];
                    *sum = code.math(MathFunction::Fma, &[a, b, *sum]);
                }
            }
        };
        for (number, part) in parts.iter().enumerate() {
            if part.inside.is_some() {
                code.open();
            }
            let mut held: Vec<Handle> = sums.iter().map(|it| code.load(*it)).collect();
            add(code, &mut held, number);
            sums.iter().zip(held).for_each(|(to, value)| code.store(*to, value));
            if let Some(inside) = part.inside {
                let body = code.close();
                code.when(inside, body, Block::new());
            }
        }
    }
}
