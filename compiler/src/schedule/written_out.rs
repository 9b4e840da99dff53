//! Reductions over small windows as maps.
//!
//! In: loops. Out: the same loops, in which a reduction over few elements of a window is a map that has a term for each of them,
//! where neighbouring results read neighbouring elements: as points of a map, neighbours are read and written as vectors.
//! Pooling of images whose channels lie last is such a reduction.

use slotmap::SlotMap;

use super::{cost, splice::splice};
use crate::{
    index::{Index, delinearise},
    lower::{Body, Expr, Loops, Nest, NestKind, TensorId, TensorInfo},
    target::Place,
};

/// Windows of more elements stay reductions.
const TERMS: usize = 16;

pub fn written_out(mut loops: Loops) -> Loops {
    for (nest, place) in loops.nests.iter_mut().zip(&loops.places) {
        if *place == Place::Gpu
            && let Some(made) = terms(nest, &loops.tensors)
        {
            *nest = made;
        }
    }
    loops
}

/// The reduction as a map, if it has few terms, which read neighbours where neighbours are made.
fn terms(nest: &Nest, tensors: &SlotMap<TensorId, TensorInfo>) -> Option<Nest> {
    let NestKind::Reduce { depth, op, value } = &nest.kind else { return None };
    let count = depth.count();
    // Narrow floats are added up in wider ones, which a map of their type does not.
    let narrow = tensors[nest.tensor].ty.dtype.is_narrow_float();
    let small = (2..=TERMS).contains(&count) && count * nest.body.len() <= cost::BODY / 2;
    if narrow || !small || !reads_windows_of_neighbours(nest) {
        return None;
    }
    let mut body = Body::default();
    let own: Vec<Index> =
        nest.space.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
    let mut made = None;
    for term in 0..count {
        let at = delinearise(&Index::constant(term as i64), depth);
        let point: Vec<Index> = own.iter().cloned().chain(at).collect();
        let read = &mut |out: &mut Body, tensor: TensorId, at, guard| {
            out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
        };
        let term = splice(&mut body, &nest.body, &[*value], Some(&point), None, read)[0];
        made = Some(made.map_or(term, |it| body.binary(op.combine(), it, term)));
    }
    Some(Nest { body, kind: NestKind::Map { value: made? }, ..nest.clone() })
}

/// Whether something is read by a window, and everything where the elements of neighbouring results, if they differ, lie next to
/// each other.
fn reads_windows_of_neighbours(nest: &Nest) -> bool {
    let rank = nest.space.rank();
    let Some(next) = rank.checked_sub(1) else { return false };
    let needed = nest.body.needed(nest.kind.roots());
    let (mut window, mut together, mut apart) = (false, false, false);
    for (id, expr, _) in nest.body.iter() {
        let Expr::Load { at, .. } = expr else { continue };
        if !needed[id.0 as usize] {
            continue;
        }
        for (axis, index) in at.iter().enumerate() {
            window |= index.is_of_window(rank);
            let beside = axis + 1 == at.len() && index.as_var() == Some(next);
            together |= beside;
            apart |= index.moves_with(next) && !beside;
        }
    }
    window && together && !apart
}
