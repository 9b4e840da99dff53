//! Neighbouring elements that an invocation handles together: where their accesses lie in memory.
//!
//! An invocation takes `count` neighbours of a space, numbers `count * n` to `count * n + count - 1` for some `n`. An access
//! *runs* if it moves from neighbour to neighbour in steps of one element; then it can be done for several at once.

use super::{
    kernel::{AttentionTile, Kernel, Skeleton, Tile},
    verify::roots,
};
use crate::{
    index::{Atom, Index, delinearise, linearise},
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    shape::Shape,
};

/// A variable for the number of some neighbours. No kernel has so many.
const SOMEWHERE: usize = 1 << 15;

/// What a kernel computes at neighbouring points together.
pub struct Walk {
    pub lanes: Lanes,
    pub roots: Vec<ExprId>,
    /// Whether the stores are among it.
    pub writes: bool,
}

/// Everything that `kernel` computes at neighbouring points together.
pub fn walks(kernel: &Kernel) -> Vec<Walk> {
    let all = |lanes| vec![Walk { lanes, roots: roots(kernel), writes: true }];
    match &kernel.skeleton {
        Skeleton::Map { space, lanes, .. } => all(Lanes::anywhere(0, space, *lanes)),
        Skeleton::Rows { outer, inner, form, .. } => all(Lanes::anywhere(outer.rank(), inner, form.lanes)),
        Skeleton::Contract { space, depth, rows, cols, a, b, others, sums, tile, .. } => {
            let (a_along_rows, b_along_cols) = match *tile {
                Tile::Matmul { a_along_rows, b_along_cols, .. }
                | Tile::Cooperative { a_along_rows, b_along_cols, .. } => (a_along_rows, b_along_cols),
                Tile::Few(_) | Tile::Direct { .. } => (false, false),
            };
            let extents: Shape = space.iter().chain(depth.iter()).copied().collect();
            let steps: Vec<usize> = (space.rank()..extents.rank()).collect();
            let stored: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
            if let Tile::Few(few) = tile {
                let along = |vars: &[usize], each: u32, roots: Vec<ExprId>, writes: bool| {
                    Lanes::some(&extents, vars, each).map(|lanes| Walk { lanes, roots, writes })
                };
                let b_along = if few.along_cols { (cols.as_slice(), few.cols) } else { (&*steps, few.depth) };
                let parts = [
                    along(&steps, few.depth, [*a].into_iter().chain(sums.iter().copied()).collect(), false),
                    along(b_along.0, b_along.1, [b].into_iter().chain(others).copied().collect(), false),
                    along(cols, few.stored, stored, true),
                ];
                return parts.into_iter().flatten().collect();
            }
            if let Tile::Direct { .. } = tile {
                return Vec::new();
            }
            let at_once = match *tile {
                Tile::Cooperative { at_once, .. } => at_once,
                Tile::Matmul { .. } | Tile::Few(_) | Tile::Direct { .. } => 4,
            };
            let along = |vars: &[usize], each: u32, roots: Vec<ExprId>, writes: bool| {
                Lanes::some(&extents, vars, each).map(|lanes| Walk { lanes, roots, writes })
            };
            let parts = [
                along(if a_along_rows { rows } else { &steps }, at_once, vec![*a], false),
                along(if b_along_cols { cols } else { &steps }, at_once, vec![*b], false),
                along(cols, 4, stored, true),
            ];
            parts.into_iter().flatten().collect()
        }
        Skeleton::Attention { space, keys, channels, q, k, v, mask, tile, .. } => {
            let extents: Shape = space.iter().chain([keys, channels]).copied().collect();
            let results = kernel.stores.iter().filter(|it| !kernel.stores_param(it, 1));
            let stored: Vec<ExprId> = results.map(|it| it.value).collect();
            let along = |var: usize, roots: Vec<ExprId>, writes: bool| {
                Lanes::fours(&extents, &[var]).map(|lanes| Walk { lanes, roots, writes })
            };
            // Channels are variable 5, value channels 3.
            let masks = match tile {
                AttentionTile::Plain(_) | AttentionTile::Row(_) => None,
                AttentionTile::Cooperative(_) => along(4, mask.iter().copied().collect(), false),
            };
            let parts =
                [along(5, vec![*q, *k], false), along(3, vec![*v], false), along(3, stored, true), masks];
            parts.into_iter().flatten().collect()
        }
    }
}

/// Words (1, 2 or 4) that `kernel` takes at once of a tensor. A written tensor has more than one only where every store
/// covers whole vectors: invocations do not write parts of one.
pub fn width(kernel: &Kernel, walks: &[Walk], tensor: TensorId, info: &TensorInfo) -> u32 {
    let (shape, per_word) = (&info.ty.shape, info.ty.dtype.per_word());
    let written = kernel.stores.iter().any(|it| it.tensor == tensor);
    let fits = |width: u32| {
        let unit = width as u64 * per_word;
        let in_units = |it: &Walk| match written {
            true => it.writes && it.lanes.covers(kernel, tensor, shape, unit),
            false => it.lanes.reads(&kernel.body, &it.roots, tensor, shape, unit),
        };
        (shape.count() as u64).is_multiple_of(unit) && walks.iter().any(in_units)
    };
    [4, 2].into_iter().find(|it| fits(*it)).unwrap_or(1)
}

/// The values of variables `first..` at each of some neighbours.
#[derive(Clone, Debug)]
pub struct Lanes {
    pub first: usize,
    /// One a neighbour, in order.
    pub points: Vec<Coords>,
}

impl Lanes {
    /// `count` neighbours of `space`, whose axes are the variables `first..`, from number `count * vector` on.
    pub fn at(first: usize, space: &Shape, count: u32, vector: &Index) -> Lanes {
        let point = |lane| delinearise(&vector.mul(count as i64).offset_by(lane as i64), space);
        Lanes { first, points: (0..count).map(point).collect() }
    }

    /// Neighbours somewhere in `space`, of which `count` must be a divisor.
    pub fn anywhere(first: usize, space: &Shape, count: u32) -> Lanes {
        let vector = Index::var(SOMEWHERE, space.count() / count as usize);
        Lanes::at(first, space, count, &vector)
    }

    /// `count` neighbours along `vars`, which are numbered together, from number `count * vector` on. All variables have
    /// `extents`; `here` are their values, those of `vars` aside.
    pub fn along(here: &Coords, extents: &Shape, vars: &[usize], count: u32, vector: &Index) -> Lanes {
        let shape: Shape = vars.iter().map(|&it| extents[it]).collect();
        let own = Lanes::at(0, &shape, count, vector);
        let point = |values: &Coords| {
            let mut point = here.clone();
            vars.iter().zip(values).for_each(|(&var, value)| point[var] = value.clone());
            point
        };
        Lanes { first: 0, points: own.points.iter().map(point).collect() }
    }

    /// Four neighbours anywhere along `vars`, if those make whole fours.
    pub fn fours(extents: &Shape, vars: &[usize]) -> Option<Lanes> {
        Lanes::some(extents, vars, 4)
    }

    /// `each` neighbours anywhere along `vars`, if the numbers of those are a multiple of it.
    pub fn some(extents: &Shape, vars: &[usize], each: u32) -> Option<Lanes> {
        let count: usize = vars.iter().map(|&it| extents[it]).product();
        let here = extents.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
        let vector = Index::var(SOMEWHERE, count / each as usize);
        let whole = count > 0 && count.is_multiple_of(each as usize);
        whole.then(|| Lanes::along(&here, extents, vars, each, &vector))
    }

    /// Which variables are not the same at all neighbours, counted from `first`.
    pub fn moving(&self) -> Vec<bool> {
        let here = self.points.first().map_or(&[][..], |it| it);
        (0..here.len()).map(|axis| self.points.iter().any(|it| it[axis] != here[axis])).collect()
    }

    /// The number of the element of a tensor of `shape` at `at`, for each neighbour.
    fn addresses(&self, at: &[Index], shape: &Shape) -> Vec<Index> {
        let address = linearise(at, shape);
        let here = |point: &Coords| {
            address.substitute(&mut |leaf| match leaf {
                Atom::Var { axis, .. } if *axis as usize >= self.first => {
                    point[*axis as usize - self.first].clone()
                }
                Atom::Var { .. } | Atom::Data { .. } | Atom::Div(..) | Atom::Mod(..) => {
                    Index::atom(leaf.clone())
                }
            })
        };
        self.points.iter().map(here).collect()
    }

    /// Whether the access runs, and if so where in a unit of `unit` elements it starts; `None` there if that is not always
    /// the same.
    pub fn run(&self, at: &[Index], shape: &Shape, unit: u64) -> Option<Option<u64>> {
        let addresses = self.addresses(at, shape);
        let first = addresses.first()?;
        let runs = addresses.iter().enumerate().all(|(lane, it)| *it == first.offset_by(lane as i64));
        runs.then(|| first.modulo(unit as i64).as_constant().map(|it| it as u64))
    }

    /// Whether something that `roots` read of a tensor of `shape` lies in one unit of `unit` elements.
    pub fn reads(&self, body: &Body, roots: &[ExprId], tensor: TensorId, shape: &Shape, unit: u64) -> bool {
        let needed = body.needed(roots.iter().copied());
        unit <= self.points.len() as u64
            && body.iter().any(|(id, expr, _)| match expr {
                Expr::Load { tensor: read, at, .. } if needed[id.0 as usize] && *read == tensor => {
                    matches!(self.run(at, shape, unit), Some(Some(_)))
                }
                _ => false,
            })
    }

    /// Whether everything that `kernel` writes of a tensor is written in whole units of `unit` elements.
    pub fn covers(&self, kernel: &Kernel, tensor: TensorId, shape: &Shape, unit: u64) -> bool {
        let count = self.points.len() as u64;
        let whole =
            |at: &Coords| !at.iter().any(Index::reads_data) && self.run(at, shape, unit) == Some(Some(0));
        count.is_multiple_of(unit)
            && (shape.count() as u64).is_multiple_of(unit)
            && kernel.stores.iter().filter(|it| it.tensor == tensor).all(|it| whole(&it.at))
    }
}
