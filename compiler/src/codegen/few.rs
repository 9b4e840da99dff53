//! Skeleton: products of few rows. `schedule::Few` says who does what.
//!
//! An invocation goes through its share of the depth in blocks, reads all of some blocks before it multiplies, and keeps a
//! sum for each of its columns and rows. Then sums are put together, in subgroups and in workgroup memory, and each result
//! is finished and stored by one invocation.

use naga::{
    Barrier, BinaryOperator as B, Block, BuiltIn, GlobalVariable, MathFunction, Statement, SubgroupOperation,
};

use super::{
    body::{Frame, Scope, Step},
    grid,
    memory::Memory,
    types::Word,
    writer::{Code, Handle, Writer},
};
use crate::{
    bug,
    error::Error,
    index::{Index, delinearise},
    lower::{Coords, ExprId},
    schedule::{Few, Kernel, Lanes, Skeleton},
    shape::Shape,
    target::Target,
};

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    few: Few,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, others, sums: alone, .. } =
        &kernel.skeleton
    else {
        bug!("{}: not a product", kernel.name)
    };
    let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
    let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
    let groups = [batch, rows, cols, &steps[..]];
    let [batches, row_count, col_count, deep] =
        groups.map(|vars| vars.iter().map(|&it| extents[it]).product::<usize>());
    let tiles = col_count.div_ceil(few.across() as usize);
    let total = (batches * tiles) as u64;
    let folded = grid::fold(total, few.size, &kernel.name, target)?;
    let factors: Vec<ExprId> = [b].into_iter().chain(others).copied().collect();
    let held = writer.workgroup(Word::F32, few.memory(factors.len(), alone.len()) / 4);
    let mut code = Code::new(writer, "main");
    let mut scope = Scope::new(&kernel.body, memory);
    let local = match few.subgroup {
        None => code.builtin("local", BuiltIn::LocalInvocationIndex),
        Some(size) => {
            let own = code.builtin("subgroup", BuiltIn::SubgroupId);
            let place = code.builtin("place", BuiltIn::SubgroupInvocationId);
            // Not the local index: how invocations are dealt to subgroups is the device's affair.
            let size = code.u32(size);
            let first = code.binary(B::Multiply, own, size);
            code.binary(B::Add, first, place)
        }
    };
    let group = grid::group(&mut code, folded);
    let below = grid::open_below(&mut code, group, total, grid::total(folded, 1));
    let group = scope.leaf(group, batches * tiles);
    let member = scope.leaf(local, few.size as usize);
    let (across, shares) = ((few.size / few.deep) as i64, few.deep as i64);
    let (share, place) = match few.along_cols {
        true => (member.div(across), member.modulo(across)),
        false => (member.modulo(shares), member.div(shares)),
    };
    let mut here: Coords = extents.iter().map(|_| Index::constant(0)).collect();
    put(&mut here, batch, &extents, &group.div(tiles as i64));
    let product = Product {
        memory,
        few,
        a: *a,
        factors,
        alone,
        rows,
        cols,
        steps: &steps,
        extents: &extents,
        here,
        tile: group.modulo(tiles as i64),
        member,
        share,
        place,
        row_count,
        col_count,
        vectors: deep / few.depth as usize,
    };
    let columns = product.columns(&mut code, &mut scope);
    let sums = product.sums(&mut code, &mut scope, &columns);
    product.finish(&mut code, &mut scope, kernel, sums, held);
    grid::close_below(&mut code, below);
    code.entry_point([few.size, 1, 1]);
    Ok(folded)
}

/// The variables `vars` of a point are those of their number `number`.
fn put(point: &mut Coords, vars: &[usize], extents: &Shape, number: &Index) {
    let shape: Shape = vars.iter().map(|&it| extents[it]).collect();
    vars.iter().zip(delinearise(number, &shape)).for_each(|(&var, value)| point[var] = value);
}

struct Product<'k> {
    memory: &'k Memory,
    few: Few,
    a: ExprId,
    /// Second factors; each has sums of its own.
    factors: Vec<ExprId>,
    /// What is summed along the rows beside the products.
    alone: &'k [ExprId],
    rows: &'k [usize],
    cols: &'k [usize],
    steps: &'k [usize],
    extents: &'k Shape,
    /// A point of the workgroup's batch.
    here: Coords,
    /// Number of the workgroup among those of its batch, of the invocation in it, of its share of the depth and of its columns.
    tile: Index,
    member: Index,
    share: Index,
    place: Index,
    row_count: usize,
    col_count: usize,
    /// Blocks in the depth.
    vectors: usize,
}

/// A block of the depth by its number; where it may be past the last one, whether it is not.
struct Part {
    number: Index,
    inside: Option<Handle>,
}

impl Product<'_> {
    /// The columns of the invocation. Past the last one they are others again, and not stored.
    fn columns(&self, code: &mut Code, scope: &mut Scope) -> Vec<Index> {
        let own = self.few.cols;
        let mut near = |number: Index, count: usize| {
            if number.range().1 < count as i64 {
                return number;
            }
            let (number, last) = (scope.index(code, &number), code.u32(count as u32 - 1));
            let number = code.math(MathFunction::Min, &[number, last]);
            scope.leaf(number, count)
        };
        let across = (self.few.size / self.few.deep) as i64;
        let block = self.tile.mul(across).add(&self.place);
        if self.few.along_cols {
            let block = near(block, self.col_count / own as usize);
            return (0..own).map(|it| block.mul(own as i64).offset_by(it as i64)).collect();
        }
        (0..own).map(|it| near(block.mul(own as i64).offset_by(it as i64), self.col_count)).collect()
    }

    /// The invocation's sums over its share of the depth: for each factor, row and column of it; then, for each row, of what is
    /// summed alone.
    fn sums(&self, code: &mut Code, scope: &mut Scope, columns: &[Index]) -> Vec<Handle> {
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
            scope.read_units(code, factor, &mut step);
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

    /// Puts the sums of all shares together, rows of `held` at a time, and stores the results.
    fn finish(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        kernel: &Kernel,
        mut sums: Vec<Handle>,
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
                let number = self.member.offset_by(start as i64);
                code.open();
                scope.enter(Frame::default());
                self.result(code, scope, kernel, (number, count), round * held, memory);
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

    /// Finishes and stores the results number `number` of the rows in memory, of which `first` is the first.
    fn result(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        kernel: &Kernel,
        (number, count): (Index, u32),
        first: u32,
        memory: Handle,
    ) {
        let Few { held, stored, .. } = self.few;
        let across = self.few.across();
        let number = scope.index(code, &number);
        let number = scope.leaf(number, count as usize);
        let groups = (across / stored) as i64;
        let (row, group) = (number.div(groups), number.modulo(groups));
        let column = self.tile.mul(groups).add(&group);
        let columns = self.col_count / stored as usize;
        let column = scope.index(code, &column);
        let below = grid::open_below(
            code,
            column,
            columns as u64,
            self.tile.range().1 as u64 * groups as u64 + groups as u64,
        );
        scope.enter(Frame::default());
        let column = scope.leaf(column, columns);
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
        let mut here = self.here.clone();
        put(&mut here, self.rows, self.extents, &row.offset_by(first as i64));
        let lanes = Lanes::along(&here, self.extents, self.cols, stored, &column);
        scope.bind(0.., here);
        scope.step_with(&lanes, 0);
        let mut step = Step::of_params(lanes, sums);
        for store in &kernel.stores {
            scope.store_step(code, store, &mut step);
        }
        scope.leave();
        grid::close_below(code, below);
    }
}
