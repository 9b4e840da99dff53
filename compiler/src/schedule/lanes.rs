//! Neighbouring elements that an invocation handles together: where their accesses lie in memory.
//!
//! An invocation takes `count` neighbours of a space, numbers `count * n` to `count * n + count - 1` for some `n`. An access
//! *runs* if it moves from neighbour to neighbour in steps of one element; then it can be done for several at once.

use super::{kernel::Kernel, verify::roots};
use crate::{
    index::{Atom, Index, delinearise, linearise},
    lower::{Coords, Expr, TensorId, TensorInfo},
    shape::Shape,
};

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
        // No kernel has so many variables.
        let vector = Index::var(1 << 15, space.count() / count as usize);
        Lanes::at(first, space, count, &vector)
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

    /// Words (1, 2 or 4) that `kernel` takes at once of a tensor. A written tensor has more than one only where every store
    /// covers whole vectors: invocations do not write parts of one.
    pub fn width(&self, kernel: &Kernel, tensor: TensorId, info: &TensorInfo) -> u32 {
        let (shape, per_word) = (&info.ty.shape, info.ty.dtype.per_word());
        let needed = kernel.body.needed(roots(kernel));
        let fits = |width: u32| {
            let unit = width as u64 * per_word;
            if !(shape.count() as u64).is_multiple_of(unit) {
                return false;
            }
            if kernel.stores.iter().any(|it| it.tensor == tensor) {
                return self.covers(kernel, tensor, shape, unit);
            }
            unit <= self.points.len() as u64
                && kernel.body.iter().any(|(id, expr, _)| match expr {
                    Expr::Load { tensor: read, at, .. } if needed[id.0 as usize] && *read == tensor => {
                        matches!(self.run(at, shape, unit), Some(Some(_)))
                    }
                    _ => false,
                })
        };
        [4, 2].into_iter().find(|it| fits(*it)).unwrap_or(1)
    }

    /// Whether everything that `kernel` writes of a tensor is written in whole units of `unit` elements.
    pub fn covers(&self, kernel: &Kernel, tensor: TensorId, shape: &Shape, unit: u64) -> bool {
        let count = self.points.len() as u64;
        let whole = |at: &Coords| {
            let mut data = false;
            at.iter().for_each(|it| it.leaves(&mut |leaf| data |= matches!(leaf, Atom::Data { .. })));
            !data && self.run(at, shape, unit) == Some(Some(0))
        };
        count.is_multiple_of(unit)
            && (shape.count() as u64).is_multiple_of(unit)
            && kernel.stores.iter().filter(|it| it.tensor == tensor).all(|it| whole(&it.at))
    }
}
