//! Few long rows, of which each would keep one workgroup busy and leave the rest of the device idle: kernels of them become
//! two. The first reduces pieces of each row into a new tensor, the second the results of the pieces.
//!
//! Sums, products, maxima and minima of parts make up those of the whole, NaN included.

use slotmap::SlotMap;

use super::{
    build::kernel_tensors,
    kernel::{Kernel, Skeleton, Stage, Store},
    splice::splice,
    tile,
};
use crate::{
    dtype::DType,
    index::{Atom, Index, delinearise},
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    shape::{Shape, Type},
    target::{Place, Target},
};

/// Each kernel, or the two that it becomes. Their tensors are added to `tensors`.
pub fn split(
    kernels: Vec<Kernel>,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Vec<Kernel> {
    let mut split = Vec::new();
    for kernel in kernels {
        match (&kernel.skeleton, kernel.place) {
            (Skeleton::Rows { outer, inner, stages, .. }, Place::Gpu)
                if can_split(&kernel, outer.rank(), stages) =>
            {
                match tile::pieces(outer.count(), inner.count()) {
                    Some(pieces) => {
                        split.extend(in_two(&kernel, (outer, inner), stages, pieces, tensors, target))
                    }
                    None => split.push(kernel),
                }
            }
            _ => split.push(kernel),
        }
    }
    split
}

/// Whether no stage waits for another, and only results of rows are stored. `first` is the first variable of a row.
fn can_split(kernel: &Kernel, first: usize, stages: &[Stage]) -> bool {
    let body = &kernel.body;
    let within = |index: &Index| {
        let mut found = false;
        index.leaves(&mut |leaf| found |= matches!(leaf, Atom::Var { axis, .. } if *axis as usize >= first));
        found
    };
    let values = body.needed(stages.iter().map(|it| it.value));
    let results = body.needed(kernel.stores.iter().map(|it| it.value));
    kernel.stores.iter().all(|it| !it.at.iter().any(within))
        && body.iter().all(|(id, expr, _)| {
            let inside = match expr {
                Expr::Coord(at) => within(at),
                Expr::Load { at, .. } => at.iter().any(within),
                Expr::Const(_)
                | Expr::Param(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Select(..)
                | Expr::Random { .. }
                | Expr::Cast(_) => false,
            };
            let waits = matches!(expr, Expr::Param(_));
            !(results[id.0 as usize] && inside || values[id.0 as usize] && waits)
        })
}

fn in_two(
    kernel: &Kernel,
    (outer, inner): (&Shape, &Shape),
    stages: &[Stage],
    pieces: usize,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> [Kernel; 2] {
    let rank = outer.rank();
    let chunk = inner.count() / pieces;
    let rows = |axis: usize| Index::var(axis, outer[axis]);
    let piece: Coords = (0..rank).map(rows).chain([Index::var(rank, pieces)]).collect();
    let of_pieces: Shape = outer.iter().copied().chain([pieces]).collect();

    // The parts: each piece is a row.
    let position = Index::var(rank, pieces).mul(chunk as i64).add(&Index::var(rank + 1, chunk));
    let point: Vec<Index> = (0..rank).map(rows).chain(delinearise(&position, inner)).collect();
    let values: Vec<ExprId> = stages.iter().map(|it| it.value).collect();
    let mut body = Body::default();
    let made = copy(&mut body, kernel, &values, Some(&point), tensors);
    let made: Vec<Stage> = stages.iter().zip(made).map(|(it, value)| Stage { op: it.op, value }).collect();
    let origin = &tensors[kernel.stores[0].tensor];
    let (definition, origin) = (origin.definition, origin.origin.clone());
    let mut stores = Vec::new();
    for (number, stage) in made.iter().enumerate() {
        // Sums of 16-bit floats are rounded once, at the end.
        let dtype = match body.dtype(stage.value) {
            it if it.is_float() => DType::F32,
            it => it,
        };
        let ty = Type::new(dtype, of_pieces.clone());
        let info = TensorInfo { ty, definition, origin: origin.clone() };
        let value = body.add(Expr::Param(number as u32), dtype);
        stores.push(Store { tensor: tensors.insert(info), at: piece.clone(), value });
    }
    let parts: Vec<TensorId> = stores.iter().map(|it| it.tensor).collect();
    let first = rows_kernel(kernel, (of_pieces, [chunk].into()), body, made, stores, tensors, target);

    // The whole: each row is one of results.
    let mut body = Body::default();
    let results: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
    let results = copy(&mut body, kernel, &results, None, tensors);
    let stores = kernel.stores.iter().zip(results);
    let stores: Vec<Store> = stores.map(|(it, value)| Store { value, ..it.clone() }).collect();
    let mut part = |(stage, tensor): (&Stage, TensorId)| {
        let load = Expr::Load { tensor, at: piece.clone(), guard: None };
        Stage { op: stage.op, value: body.add(load, tensors[tensor].ty.dtype) }
    };
    let whole: Vec<Stage> = stages.iter().zip(parts).map(&mut part).collect();
    let second = rows_kernel(kernel, (outer.clone(), [pieces].into()), body, whole, stores, tensors, target);
    [Kernel { name: format!("{}_parts", kernel.name), ..first }, second]
}

fn copy(
    body: &mut Body,
    kernel: &Kernel,
    roots: &[ExprId],
    point: Option<&[Index]>,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Vec<ExprId> {
    splice(body, &kernel.body, roots, point, None, &mut |out, tensor, at, guard| {
        out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
    })
}

fn rows_kernel(
    kernel: &Kernel,
    (outer, inner): (Shape, Shape),
    body: Body,
    stages: Vec<Stage>,
    stores: Vec<Store>,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Kernel {
    let form = tile::row_form((&outer, &inner), &body, &stages, &stores, false, tensors, target);
    let roots = stores.iter().map(|it| it.value).chain(stages.iter().map(|it| it.value)).collect::<Vec<_>>();
    Kernel {
        name: kernel.name.clone(),
        place: kernel.place,
        origins: kernel.origins.clone(),
        ops: kernel.ops.clone(),
        tensors: kernel_tensors(&body, &roots, &stores),
        body,
        skeleton: Skeleton::Rows { outer, inner, stages, form },
        stores,
    }
}
