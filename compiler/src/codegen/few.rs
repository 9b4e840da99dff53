//! Skeleton: products of few rows. `schedule::Few` says who does what.
//!
//! An invocation keeps a sum for each of its columns and rows over its share of the depth (`sums`). Then sums are put together,
//! and each result is finished and stored by one invocation (`results`).

mod results;
mod sums;

use naga::{BinaryOperator as B, BuiltIn, MathFunction};

use super::{
    body::Scope,
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
    schedule::{Few, Kernel, Skeleton},
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
    let early = product.early(&mut code, &mut scope, kernel);
    let sums = product.sums(&mut code, &mut scope, &columns);
    product.finish(&mut code, &mut scope, kernel, (sums, early), held);
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
}
