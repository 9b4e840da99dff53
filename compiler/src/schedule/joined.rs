//! A map computed inside the kernel of rows that reads what it makes.
//!
//! In: a map, and a kernel of rows that reads its result, each element at one point. Out: the kernel of rows that reads what
//! the map read, and that stores the map's result if others read it; or why that would not pay.

use slotmap::SlotMap;

use super::{
    build::{kernel_tensors, named},
    cost,
    kernel::{Kernel, Skeleton, Stage, Store, Why},
    splice::splice,
    tile,
    verify::{bindings, roots},
};
use crate::{
    index::{Atom, Index, delinearise, linearise},
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    shape::Shape,
    target::Target,
};

/// `kept`: others read what the map makes.
pub fn joined(
    map: &Kernel,
    rows: &Kernel,
    kept: bool,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Result<Kernel, Why> {
    let (Skeleton::Map { space, .. }, Skeleton::Rows { outer, inner, stages, .. }, [made]) =
        (&map.skeleton, &rows.skeleton, &map.stores[..])
    else {
        return Err(Why::Spaces);
    };
    let shape = &tensors[made.tensor].ty.shape;
    let extents: Shape = outer.iter().chain(inner.iter()).copied().collect();
    let (all, number) = (roots(rows), in_order(&extents));
    let needed = rows.body.needed(all.iter().copied());
    let in_its_order = rows.body.iter().all(|(id, expr, _)| match expr {
        Expr::Load { tensor, at, guard } if needed[id.0 as usize] && *tensor == made.tensor => {
            guard.is_none() && linearise(at, shape) == number
        }
        _ => true,
    });
    if shape.count() != extents.count() || linearise(&made.at, shape) != in_order(space) || !in_its_order {
        return Err(Why::ReadElsewhere);
    }
    let point = delinearise(&number, space);
    let mut body = Body::default();
    let mut value = None;
    let read = &mut |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
        if tensor != made.tensor {
            return out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype);
        }
        let plain = &mut |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
            out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
        };
        *value.insert(splice(out, &map.body, &[made.value], Some(&point), None, plain)[0])
    };
    let moved = splice(&mut body, &rows.body, &all, None, None, read);
    let (values, reduced) = moved.split_at(rows.stores.len());
    let mut stores: Vec<Store> =
        rows.stores.iter().zip(values).map(|(it, &value)| Store { value, ..it.clone() }).collect();
    if kept && let Some(value) = value {
        stores.push(Store { tensor: made.tensor, at: delinearise(&number, shape), value });
    }
    let stages: Vec<Stage> =
        stages.iter().zip(reduced).map(|(it, &value)| Stage { op: it.op, value }).collect();
    if body.len() > cost::BODY {
        return Err(Why::Body(body.len()));
    }
    let mut along = false;
    let mut see =
        |leaf: &Atom| along |= matches!(leaf, Atom::Var { axis, .. } if *axis as usize >= outer.rank());
    stores.iter().flat_map(|it| &it.at).for_each(|it| it.leaves(&mut see));
    let form = tile::row_form((outer, inner), &body, &stages, &stores, along, tensors, target);
    if !tile::is_kept(&form, inner.count()) {
        return Err(Why::Recompute(stages.len() as u64 + 1));
    }
    let moved: Vec<ExprId> =
        stores.iter().map(|it| it.value).chain(stages.iter().map(|it| it.value)).collect();
    let bound = kernel_tensors(&body, &moved, &stores);
    let bindings = bindings(&bound, tensors, target);
    if bindings > u64::from(target.max_storage_buffers) {
        return Err(Why::Bindings(bindings.min(u32::MAX.into()) as u32));
    }
    let origins = map.origins.iter().filter(|it| !rows.origins.contains(it));
    let ops: Vec<&'static str> = map.ops.iter().skip(1).chain(&rows.ops).copied().collect();
    Ok(Kernel {
        name: named("rows", &ops),
        place: rows.place,
        origins: origins.chain(&rows.origins).cloned().collect(),
        ops,
        body,
        skeleton: Skeleton::Rows { outer: outer.clone(), inner: inner.clone(), stages, form },
        stores,
        tensors: bound,
    })
}

/// The number, row-major, of the point of a space.
fn in_order(space: &Shape) -> Index {
    let point: Coords = space.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
    linearise(&point, space)
}
