//! Small maps that do not need each other become one: a launch costs more than what they compute.
//!
//! In: kernels in no particular order. Out: the same, where maps of one space that could run at the same time are one kernel with
//! all their stores. Nothing waits longer for it: they stand as deep as each other.

use slotmap::SlotMap;

use super::{
    build::{kernel_tensors, named},
    cost,
    flow::Flow,
    kernel::{Kept, Kernel, Skeleton, Store},
    splice::splice,
    tile,
};
use crate::{
    index::{Atom, Index},
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    shape::Shape,
    target::{Place, Target},
};

pub fn merge(
    mut kernels: Vec<Kernel>,
    tensors: &SlotMap<TensorId, TensorInfo>,
    outputs: &[TensorId],
    states: &[Kept],
    target: &Target,
) -> Vec<Kernel> {
    let levels = Flow::of(&kernels, outputs, states).levels();
    let mut kept: Vec<(usize, Kernel)> = Vec::new();
    for (kernel, level) in kernels.drain(..).zip(levels) {
        // Of one level, neither needs the other.
        let joined = kept.iter_mut().filter(|it| it.0 == level).find_map(|(_, host)| {
            let both = together(host, &kernel, tensors, target)?;
            *host = both;
            Some(())
        });
        if joined.is_none() {
            kept.push((level, kernel));
        }
    }
    kept.into_iter().map(|it| it.1).collect()
}

fn together(
    one: &Kernel,
    other: &Kernel,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Option<Kernel> {
    let space = small_map(one)?;
    let fits = small_map(other)? == space && one.body.len() + other.body.len() <= cost::BODY;
    let bindings: u64 =
        (one.tensors.iter().chain(other.tensors.iter().filter(|it| !one.tensors.contains(it))))
            .map(|it| (tensors[*it].ty.bytes() as u64).div_ceil(target.max_binding_size).max(1))
            .sum();
    if !fits || bindings > u64::from(target.max_storage_buffers) {
        return None;
    }
    let (mut body, mut stores) = (Body::default(), Vec::new());
    for kernel in [one, other] {
        let mut roots: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
        let written = roots.len();
        // What addresses depend on moves along.
        for store in &kernel.stores {
            let mut see = |leaf: &Atom| {
                if let Atom::Data { expr, .. } = leaf {
                    roots.push(ExprId(*expr));
                }
            };
            store.at.iter().for_each(|it| it.leaves(&mut see));
        }
        let made = splice(&mut body, &kernel.body, &roots, None, None, &mut |out, tensor, at, guard| {
            out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
        });
        let moved = |old: u32| made[roots.iter().position(|it| it.0 == old).expect("a root")].0;
        stores.extend(kernel.stores.iter().zip(&made[..written]).map(|(store, &value)| {
            let at: Coords = (store.at.iter())
                .map(|it| {
                    it.substitute(&mut |leaf| match leaf {
                        Atom::Data { expr, low, high } => Index::data(moved(*expr), *low, *high),
                        Atom::Var { .. } | Atom::Div(..) | Atom::Mod(..) => Index::atom(leaf.clone()),
                    })
                })
                .collect();
            Store { tensor: store.tensor, at, value }
        }));
    }
    let values: Vec<ExprId> = stores.iter().map(|it| it.value).collect();
    let (workgroup, lanes) = tile::map_form(&space, &body, &stores, tensors, target);
    let (mut origins, mut ops) = (one.origins.clone(), one.ops.clone());
    origins.extend(other.origins.iter().filter(|it| !one.origins.contains(it)).cloned());
    ops.extend(&other.ops);
    Some(Kernel {
        name: named("map", &ops),
        place: one.place,
        origins,
        ops,
        tensors: kernel_tensors(&body, &values, &stores),
        body,
        skeleton: Skeleton::Map { space, workgroup, lanes },
        stores,
    })
}

fn small_map(kernel: &Kernel) -> Option<Shape> {
    match &kernel.skeleton {
        Skeleton::Map { space, .. } if kernel.place == Place::Gpu && space.count() <= cost::LAUNCHED => {
            Some(space.clone())
        }
        _ => None,
    }
}
