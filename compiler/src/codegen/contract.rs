//! Skeleton: sums of products. Either a template's holes are filled (`matmul.wgsl`, `matmul_coop.wgsl`, `matvec.wgsl`,
//! `conv.wgsl`), with everything that was fused before the product in `load_a` and `load_b` and everything after it in
//! `store`, or each result is a row of its own: vectors by matrices, sums of integers, and sums so short that they are
//! written out.

use naga::{BinaryOperator, Block, MathFunction, Statement};

use super::{
    body::{Frame, Scope, Step},
    grid,
    library::{self, File},
    memory::Memory,
    rows::{self, Reduction},
    types::Word,
    writer::{Code, FunctionHandle, Handle, Writer},
};
use crate::{
    bug,
    error::Error,
    index::{Atom, Index, delinearise},
    lower::{Coords, Expr, ExprId},
    schedule::{Kernel, Lanes, RowForm, Skeleton, Team, Tile, Vars},
    shape::Shape,
    target::Target,
};

/// Matvec workgroups make this many rows at once at most: each element of b is read once for all of them.
const ROWS_AT_ONCE: usize = 4;

/// Sums up to this many terms are written out rather than looped over.
const WRITTEN_OUT: usize = 16;

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, tile } = &kernel.skeleton else {
        bug!("{}: not a product", kernel.name)
    };
    let (a, b) = (*a, *b);
    let floats = [a, b].iter().all(|it| Word::of(kernel.body.dtype(*it)) == Word::F32);
    if let Tile::Direct { workgroup } = *tile
        && (!floats || depth.count() <= WRITTEN_OUT)
    {
        let product = [Reduction::Product { a, b }];
        let steps = if depth.count() <= WRITTEN_OUT { depth.count() as u32 } else { 1 };
        let form = RowForm { team: Team::Invocation { workgroup }, lanes: 1, steps, early: false };
        return rows::write(writer, memory, kernel, (space, depth), &product, form, target);
    }
    if let Tile::Dots(form) = *tile {
        let product = [Reduction::Product { a, b }];
        return rows::write(writer, memory, kernel, (space, depth), &product, form, target);
    }
    if !floats {
        bug!("{}: templates multiply floats", kernel.name);
    }
    let axes = Axes {
        extents: space.iter().chain(depth.iter()).copied().collect(),
        groups: [
            batch.clone(),
            rows.clone(),
            cols.clone(),
            (space.rank()..space.rank() + depth.rank()).collect(),
        ],
    };
    let [batches, row_count, col_count, _] = [0, 1, 2, 3].map(|it| axes.count(it));
    let b_along_depth = !axes.along(memory, kernel, b, COL);
    let (file, constants, per_group) = match *tile {
        Tile::Matmul {
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            block_rows,
            block_cols,
            a_along_rows,
            b_along_cols,
            split,
            buffers,
        } => (
            File::Matmul,
            vec![
                ("TILE_ROWS", rows),
                ("TILE_COLS", cols),
                ("TILE_DEPTH", depth),
                ("ROWS_EACH", rows_each),
                ("COLS_EACH", cols_each),
                ("SPLIT", split),
                ("BUFFERS", buffers),
                ("BLOCK_ROWS", block_rows),
                ("BLOCK_COLS", block_cols),
                ("A_ALONG_ROWS", a_along_rows as u32),
                ("B_ALONG_COLS", b_along_cols as u32),
                ("DEPTH_WHOLE", axes.count(DEPTH).is_multiple_of((depth * split) as usize) as u32),
            ],
            (rows, cols),
        ),
        Tile::Cooperative {
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            subgroup,
            a_along_rows,
            b_along_cols,
        } => (
            File::MatmulCoop,
            vec![
                ("TILE_ROWS", rows),
                ("TILE_COLS", cols),
                ("TILE_DEPTH", depth),
                ("SUB_ROWS", rows_each),
                ("SUB_COLS", cols_each),
                ("SUBGROUP", subgroup),
                ("A_ALONG_ROWS", a_along_rows as u32),
                ("B_ALONG_COLS", b_along_cols as u32),
                ("DEPTH_WHOLE", axes.count(DEPTH).is_multiple_of(depth as usize) as u32),
            ],
            (rows, cols),
        ),
        Tile::Matvec { size, cols } => {
            let rows = if row_count <= ROWS_AT_ONCE { row_count as u32 } else { 1 };
            let constants =
                vec![("SIZE", size), ("COLS", cols), ("ROWS", rows), ("ALONG_DEPTH", b_along_depth as u32)];
            (File::Matvec, constants, (rows, cols))
        }
        Tile::Dots(_) => bug!("{}: no template", kernel.name),
        Tile::Direct { workgroup } => {
            (File::Conv, vec![("SIZE", workgroup), ("ALONG_ROWS", 0)], (1, workgroup))
        }
    };
    let template = library::library(file, &constants);
    for (group, name) in ["batches", "rows", "cols", "depth"].into_iter().enumerate() {
        let mut code = Code::new(writer, name);
        code.result(Word::U32);
        let count = code.u32(axes.count(group) as u32);
        code.give(Some(count));
        let function = code.function();
        template.fill(writer, name, function);
    }
    let holes = Holes { axes: &axes, memory, kernel };
    let (in_a, in_b) = ([BATCH, ROW, DEPTH], [BATCH, DEPTH, COL]);
    let [load_a, load_b, store] = match *tile {
        Tile::Matmul { a_along_rows, b_along_cols, .. }
        | Tile::Cooperative { a_along_rows, b_along_cols, .. } => [
            holes.load_four(writer, "load_a", in_a, if a_along_rows { ROW } else { DEPTH }, a),
            holes.load_four(writer, "load_b", in_b, if b_along_cols { COL } else { DEPTH }, b),
            holes.store_four(writer),
        ],
        Tile::Matvec { .. } | Tile::Dots(_) | Tile::Direct { .. } => [
            holes.load(writer, "load_a", in_a, a),
            holes.load(writer, "load_b", in_b, b),
            holes.store(writer),
        ],
    };
    template.fill(writer, "load_a", load_a);
    template.fill(writer, "load_b", load_b);
    template.fill(writer, "store", store);

    template.entry_point(writer);
    let tiles = |count: usize, each: u32| (count as u64).div_ceil(each as u64);
    let workgroups = match tile {
        Tile::Matmul { .. } | Tile::Cooperative { .. } | Tile::Matvec { .. } | Tile::Dots(_) => {
            batches as u64 * tiles(row_count, per_group.0) * tiles(col_count, per_group.1)
        }
        Tile::Direct { .. } => tiles(batches * row_count * col_count, per_group.1),
    };
    let size = writer.module.entry_points[0].workgroup_size[0];
    grid::fold(workgroups, size, &kernel.name, target)
}

/// What fills a template's holes.
struct Holes<'k> {
    axes: &'k Axes,
    memory: &'k Memory,
    kernel: &'k Kernel,
}

impl Holes<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope::new(&self.kernel.body, self.memory)
    }

    /// An argument for each of `groups`.
    fn arguments(&self, code: &mut Code, groups: [usize; 3]) -> [(usize, Handle); 3] {
        groups.map(|group| (group, code.argument(NAMES[group], Word::U32)))
    }

    /// The variables of a group follow from its number.
    fn bind(&self, scope: &mut Scope, group: usize, number: Handle) {
        let number = scope.leaf(number, self.axes.count(group));
        scope.bind(self.axes.groups[group].iter().copied(), delinearise(&number, &self.axes.shape(group)));
    }

    fn load(&self, writer: &mut Writer, name: &str, groups: [usize; 3], value: ExprId) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        let mut scope = self.scope();
        for (group, number) in self.arguments(&mut code, groups) {
            self.bind(&mut scope, group, number);
        }
        code.result(Word::F32);
        let value = scope.value(&mut code, value);
        code.give(Some(value));
        code.function()
    }

    fn store(&self, writer: &mut Writer) -> FunctionHandle {
        let mut code = Code::new(writer, "store");
        let mut scope = self.scope();
        for (group, number) in self.arguments(&mut code, [BATCH, ROW, COL]) {
            self.bind(&mut scope, group, number);
        }
        let sum = code.argument("value", Word::F32);
        scope.param(sum, Word::F32);
        self.kernel.stores.iter().for_each(|it| scope.store(&mut code, it));
        code.function()
    }

    /// Four elements, neighbours along the group `along`, of which the first is in range.
    fn load_four(
        &self,
        writer: &mut Writer,
        name: &str,
        groups: [usize; 3],
        along: usize,
        value: ExprId,
    ) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        let mut scope = self.scope();
        let numbers = self.arguments(&mut code, groups);
        code.results(Word::F32, 4);
        let mut values = Vec::new();
        match self.lanes(&mut code, &mut scope, numbers, along) {
            Ok(lanes) => {
                scope.step_through(&lanes);
                let mut step = Step::new(lanes, None);
                for lane in 0..step.lanes() {
                    values.push(scope.at_lane(&mut step, lane, |scope| scope.value(&mut code, value)));
                }
            }
            Err(first) => {
                for lane in 0..4 {
                    let (number, inside) = self.near(&mut code, along, first, lane);
                    scope.enter(Frame::default());
                    self.bind(&mut scope, along, number);
                    let found = scope.value(&mut code, value);
                    scope.leave();
                    let zero = code.f32(0.0);
                    values.push(inside.map_or(found, |inside| code.select(inside, found, zero)));
                }
            }
        }
        let four = code.vector(Word::F32, values);
        code.give(Some(four));
        code.function()
    }

    /// Four results, neighbours along the columns, of which the first is in range.
    fn store_four(&self, writer: &mut Writer) -> FunctionHandle {
        let mut code = Code::new(writer, "store");
        let mut scope = self.scope();
        let numbers = self.arguments(&mut code, [BATCH, ROW, COL]);
        let sums = code.arguments("values", Word::F32, 4);
        match self.lanes(&mut code, &mut scope, numbers, COL) {
            Ok(lanes) => {
                scope.step_with(&lanes, 0);
                let sums = (0..4).map(|it| code.component(sums, it)).collect();
                let mut step = Step::of_sums(lanes, sums);
                for store in &self.kernel.stores {
                    scope.store_step(&mut code, store, &mut step);
                }
            }
            Err(first) => {
                for lane in 0..4 {
                    let (number, inside) = self.near(&mut code, COL, first, lane);
                    let sum = code.component(sums, lane);
                    code.open();
                    scope.enter(Frame::default());
                    self.bind(&mut scope, COL, number);
                    scope.sum(sum);
                    self.kernel.stores.iter().for_each(|it| scope.store(&mut code, it));
                    scope.leave();
                    let body = code.close();
                    match inside {
                        Some(inside) => code.when(inside, body, Block::new()),
                        None => code.stmt(Statement::Block(body)),
                    }
                }
            }
        }
        code.function()
    }

    /// The four neighbours along `along` from the number given for it on; that number, if they may be out of range. Binds
    /// the variables of the other groups.
    fn lanes(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        numbers: [(usize, Handle); 3],
        along: usize,
    ) -> Result<Lanes, Handle> {
        let mut here: Coords = self.axes.extents.iter().map(|_| Index::constant(0)).collect();
        let mut first = None;
        for (group, number) in numbers {
            if group == along {
                first = Some(number);
                continue;
            }
            let number = scope.leaf(number, self.axes.count(group));
            let values = delinearise(&number, &self.axes.shape(group));
            self.axes.groups[group].iter().zip(values).for_each(|(&var, value)| here[var] = value);
        }
        scope.bind(0.., here.iter().cloned());
        let Some(first) = first else { bug!("{}: fours along what is no argument", self.kernel.name) };
        let count = self.axes.count(along);
        if !count.is_multiple_of(4) {
            return Err(first);
        }
        let two = code.u32(2);
        let four = code.binary(BinaryOperator::ShiftRight, first, two);
        let four = scope.leaf(four, count / 4);
        Ok(Lanes::along(&here, &self.axes.extents, &self.axes.groups[along], 4, &four))
    }

    /// Number `first + lane` of a group, or the last one; and whether it is in range, where it may not be.
    fn near(&self, code: &mut Code, group: usize, first: Handle, lane: u32) -> (Handle, Option<Handle>) {
        if lane == 0 {
            return (first, None);
        }
        let count = self.axes.count(group) as u32;
        let (by, end, last) = (code.u32(lane), code.u32(count), code.u32(count - 1));
        let number = code.binary(BinaryOperator::Add, first, by);
        let inside = code.binary(BinaryOperator::Less, number, end);
        (code.math(MathFunction::Min, &[number, last]), Some(inside))
    }
}

/// The variables of a product in the four groups that the templates number through.
struct Axes {
    /// Of every variable.
    extents: Shape,
    groups: [Vars; 4],
}

const BATCH: usize = 0;
const ROW: usize = 1;
const COL: usize = 2;
const DEPTH: usize = 3;
const NAMES: [&str; 4] = ["batch", "row", "col", "k"];

impl Axes {
    fn shape(&self, group: usize) -> Shape {
        self.groups[group].iter().map(|&it| self.extents[it]).collect()
    }

    fn count(&self, group: usize) -> usize {
        self.shape(group).count()
    }

    /// Whether neighbours in memory of what `operand` reads are neighbours along `group` rather than along the depth.
    fn along(&self, memory: &Memory, kernel: &Kernel, operand: ExprId, group: usize) -> bool {
        let needed = kernel.body.needed([operand]);
        let mut widest: Option<(usize, Index)> = None;
        for (id, expr, _) in kernel.body.iter() {
            if let Expr::Load { tensor, at, .. } = expr
                && needed[id.0 as usize]
            {
                let shape = &memory.held(*tensor).shape;
                if widest.as_ref().is_none_or(|(count, _)| *count < shape.count()) {
                    widest = Some((shape.count(), crate::index::linearise(at, shape)));
                }
            }
        }
        let Some((_, address)) = widest else { return false };
        let runs = |group: usize| {
            let inner = self.groups[group].iter().copied().rev().find(|&it| self.extents[it] > 1)?;
            let at = |number: i64| {
                address.eval(&mut |leaf| match leaf {
                    Atom::Var { axis, .. } => (*axis as usize == inner) as i64 * number,
                    Atom::Data { low, .. } => *low,
                    Atom::Div(..) | Atom::Mod(..) => bug!("not a leaf"),
                })
            };
            (at(1) - at(0) == 1).then_some(self.extents[inner])
        };
        // Where both are neighbours, as in a convolution's windows, the longer run wins.
        runs(group).unwrap_or(0) > runs(DEPTH).unwrap_or(0)
    }
}
