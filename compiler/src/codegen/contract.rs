//! Skeleton: sums of products. Either a template's holes are filled (`matmul.wgsl`, `matvec.wgsl`, `conv.wgsl`), with
//! everything that was fused before the product in `load_a` and `load_b` and everything after it in `store`, or each result
//! is a row of its own: sums of integers, and sums so short that they are written out.

use super::{
    body::Scope,
    grid,
    library::{self, File},
    memory::Memory,
    rows::{self, Reduction},
    types::Word,
    writer::{Code, Writer},
};
use crate::{
    bug,
    error::Error,
    index::{Atom, Index, delinearise},
    lower::{Expr, ExprId},
    schedule::{Kernel, RowForm, Skeleton, Team, Tile, Vars},
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
    let a_along_rows = axes.along(memory, kernel, a, ROW);
    let b_along_depth = !axes.along(memory, kernel, b, COL);
    let (file, constants, per_group) = match *tile {
        Tile::Matmul { rows, cols, depth, rows_each, cols_each, split } => (
            File::Matmul,
            vec![
                ("TILE_ROWS", rows),
                ("TILE_COLS", cols),
                ("TILE_DEPTH", depth),
                ("ROWS_EACH", rows_each),
                ("COLS_EACH", cols_each),
                ("SPLIT", split),
                ("A_ALONG_ROWS", a_along_rows as u32),
                ("B_ALONG_DEPTH", b_along_depth as u32),
            ],
            (rows, cols),
        ),
        Tile::Matvec { size, cols } => {
            let rows = if row_count <= ROWS_AT_ONCE { row_count as u32 } else { 1 };
            let constants =
                vec![("SIZE", size), ("COLS", cols), ("ROWS", rows), ("ALONG_DEPTH", b_along_depth as u32)];
            (File::Matvec, constants, (rows, cols))
        }
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
    for (name, groups, value) in [("load_a", [BATCH, ROW, DEPTH], a), ("load_b", [BATCH, DEPTH, COL], b)] {
        let mut code = Code::new(writer, name);
        let mut scope = Scope::new(&kernel.body, memory);
        axes.arguments(&mut code, &mut scope, groups);
        code.result(Word::F32);
        let value = scope.value(&mut code, value);
        code.give(Some(value));
        let function = code.function();
        template.fill(writer, name, function);
    }
    let mut code = Code::new(writer, "store");
    let mut scope = Scope::new(&kernel.body, memory);
    axes.arguments(&mut code, &mut scope, [BATCH, ROW, COL]);
    let sum = code.argument("value", Word::F32);
    scope.param(sum, Word::F32);
    for store in &kernel.stores {
        scope.store(&mut code, store);
    }
    let function = code.function();
    template.fill(writer, "store", function);

    template.entry_point(writer);
    let tiles = |count: usize, each: u32| (count as u64).div_ceil(each as u64);
    let workgroups = match tile {
        Tile::Matmul { .. } | Tile::Matvec { .. } => {
            batches as u64 * tiles(row_count, per_group.0) * tiles(col_count, per_group.1)
        }
        Tile::Direct { .. } => tiles(batches * row_count * col_count, per_group.1),
    };
    let size = writer.module.entry_points[0].workgroup_size[0];
    grid::fold(workgroups, size, &kernel.name, target)
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

    /// An argument for each of `groups`: the number from which its variables follow.
    fn arguments(&self, code: &mut Code, scope: &mut Scope, groups: [usize; 3]) {
        for group in groups {
            let number = code.argument(NAMES[group], Word::U32);
            let number = scope.leaf(number, self.count(group));
            scope.bind(self.groups[group].iter().copied(), delinearise(&number, &self.shape(group)));
        }
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
