//! Whether a kernel may write the memory that it reads.
//!
//! In: a kernel, what it reads, and what it writes that has the same memory. It may where each element that it reads is
//! the one that it writes then, and nobody else's: whatever order its invocations run in, each finds its element as it was. A store
//! of such a kernel must run once for each element, since what is written again would be computed of what was written.

use slotmap::SlotMap;

use super::{
    expand::loads,
    kernel::{Kernel, Skeleton},
    verify::operands,
};
use crate::{
    index::{Atom, Index},
    lower::{Expr, TensorId, TensorInfo},
    shape::Shape,
};

/// Why a kernel may not write what it reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is reduced or multiplied: elements are read for the results of others.
    Reduced,
    /// Another result is made of it.
    Beside,
    /// Other elements are read than are written, or some may be written more than once.
    Elsewhere,
    /// Several invocations go through a row, and read its last elements together.
    Row,
    /// Attention's results are finished by several invocations.
    Attention,
    /// Another kernel that reads what it was needs what is written.
    Awaited,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Reduced => "it is summed over as it was",
            Why::Beside => "something else is made of it as it was",
            Why::Elsewhere => {
                "other elements of it are read than are written, or some are written more than once"
            }
            Why::Row => "elements of rows are read by several invocations",
            Why::Attention => "attention finishes its results in several invocations",
            Why::Awaited => "what reads it as it was waits for what is written",
        })
    }
}

/// Whether `kernel` may write `new` where what it reads of `old` lies.
pub fn in_place(
    kernel: &Kernel,
    old: TensorId,
    new: TensorId,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Result<(), Why> {
    let body = &kernel.body;
    let reads = |roots: &[_]| loads(body, roots).iter().any(|it| it.0 == old);
    if reads(&operands(kernel)) {
        return Err(Why::Reduced);
    }
    if kernel.stores.iter().any(|it| it.tensor != new && reads(&[it.value])) {
        return Err(Why::Beside);
    }
    let own = kernel.stores.iter().find(|it| it.tensor == new).ok_or(Why::Elsewhere)?;
    let needed = body.needed([own.value]);
    let same = body.iter().filter(|(id, ..)| needed[id.0 as usize]).all(|(_, expr, _)| match expr {
        Expr::Load { tensor, at, guard } if *tensor == old => *at == own.at && guard.is_none(),
        _ => true,
    });
    if !same {
        return Err(Why::Elsewhere);
    }
    // As many points as there are elements, all of which are written, or points that the coordinates name: one for each.
    let all = |space: &Shape| {
        tensors[new].ty.shape.count() == space.count() && !own.at.iter().any(Index::reads_data)
    };
    let named = |(axis, &extent): (usize, &usize)| extent == 1 || own.at.contains(&Index::var(axis, extent));
    let once = |space: &Shape| match all(space) || space.iter().enumerate().all(named) {
        true => Ok(()),
        false => Err(Why::Elsewhere),
    };
    match &kernel.skeleton {
        Skeleton::Map { space, .. } | Skeleton::Contract { space, .. } => once(space),
        Skeleton::Rows { outer, .. } => {
            let mut along = body.variables(own.value).range(outer.rank()..).next().is_some();
            let mut see = |leaf: &Atom| {
                along |= matches!(leaf, Atom::Var { axis, .. } if *axis as usize >= outer.rank())
            };
            own.at.iter().for_each(|it| it.leaves(&mut see));
            if along { Err(Why::Row) } else { once(outer) }
        }
        Skeleton::Attention { .. } => Err(Why::Attention),
    }
}
