//! What must hold of a schedule. `verify` returns every fault:
//! - each output and everything that is read is an input, a constant, or written by an earlier kernel;
//! - no tensor is written twice, or read and written by one kernel, but for what a state becomes, which its writer may read where
//!   it writes (`in_place`);
//! - what a state was is not read after what it becomes is written;
//! - `Kernel::tensors` lists what is only read, then what is written, each once;
//! - a kernel of several operators binds no more buffers than the target allows (of one that does, nothing can be done here:
//!   making its shader is an error of the limit's name);
//! - sums beside a product are of its rows, which are few;
//! - products write components of vectors only where the target allows it;
//! - rows, products and attention have tiles that the target can run;
//! - few rows are shared out as `Few` says, in the memory that there is;
//! - of attention, keys that are left out are hidden, and heads that share keys and values do;
//! - what `lower::verify` says of bodies holds, and stores are inside their tensors and of their type.

use std::collections::BTreeSet;

use slotmap::SlotMap;

use super::{
    attention::{last_key as last_key_of, sharing_heads},
    attention_coop,
    expand::loads,
    in_place::in_place,
    kernel::{AttentionTile, Kernel, Schedule, Skeleton, Store, Tile},
    product,
    tile::row_fault,
};
use crate::{
    index::Atom,
    lower::{Definition, ExprId, TensorId, TensorInfo, verify::Scope},
    target::{Place, Target},
};

/// Every broken invariant, each with the kernel that breaks it.
pub fn verify(schedule: &Schedule, target: &Target) -> Vec<String> {
    let mut faults = Vec::new();
    let mut written: BTreeSet<TensorId> = (schedule.tensors.iter())
        .filter(|(_, it)| !matches!(it.definition, Definition::Nest(_)))
        .map(|(id, _)| id)
        .collect();
    let mut gone: BTreeSet<TensorId> = BTreeSet::new();
    for kernel in &schedule.kernels {
        let mut fault = |what: String| faults.push(format!("{}: {what}", kernel.name));
        let roots = roots(kernel);
        let stored: Vec<TensorId> = kernel.stores.iter().map(|it| it.tensor).collect();
        let read: BTreeSet<TensorId> =
            loads(&kernel.body, &roots).into_iter().map(|(tensor, _)| tensor).collect();
        for tensor in &read {
            if stored.contains(tensor) {
                let state = schedule.becoming().any(|it| it.1 == *tensor);
                match in_place(kernel, *tensor, *tensor, &schedule.tensors) {
                    Ok(()) if state => {}
                    Ok(()) => fault(format!("reads and writes {tensor:?}")),
                    Err(why) => fault(format!("reads and writes {tensor:?}: {why}")),
                }
            } else if !written.contains(tensor) {
                fault(format!("reads {tensor:?}, which nobody has written"));
            } else if gone.contains(tensor) {
                fault(format!("reads {tensor:?}, which is no more what it was"));
            }
        }
        for (state, new) in schedule.becoming().filter(|it| stored.contains(&it.1) && it.1 != it.0.old) {
            if read.contains(&state.old) {
                fault(format!("reads {:?} and writes {new:?}, which has its memory", state.old));
            }
            gone.insert(state.old);
        }
        if stored.is_empty() {
            fault("stores nothing".to_owned());
        }
        for tensor in &stored {
            if !written.insert(*tensor) {
                fault(format!("writes {tensor:?} again"));
            }
        }
        let only_read: BTreeSet<TensorId> = read.iter().copied().filter(|it| !stored.contains(it)).collect();
        let (reads, writes) =
            kernel.tensors.split_at(kernel.tensors.len() - stored.len().min(kernel.tensors.len()));
        if writes != stored
            || reads.iter().copied().collect::<BTreeSet<_>>() != only_read
            || reads.len() != only_read.len()
        {
            fault("its list of tensors is not what it reads and writes".to_owned());
        }
        let bindings = bindings(&kernel.tensors, &schedule.tensors, target);
        let several = kernel.ops.len() > 1;
        if several && kernel.place == Place::Gpu && bindings > u64::from(target.max_storage_buffers) {
            fault(format!("binds {bindings} buffers"));
        }
        let scope = Scope {
            tensors: &schedule.tensors,
            extents: &kernel.skeleton.extents(),
            params: kernel.skeleton.params(),
        };
        scope.body(&kernel.body, &roots, &mut fault);
        if let Skeleton::Contract { tile: Tile::Matmul { scalars: false, .. }, .. } = &kernel.skeleton
            && !target.components_apart
        {
            fault("writes components of vectors".to_owned());
        }
        let unfit = match &kernel.skeleton {
            _ if kernel.place == Place::Cpu => None,
            Skeleton::Map { .. } => None,
            Skeleton::Rows { inner, form, .. } => row_fault(form, inner.count(), target),
            Skeleton::Contract { tile, .. } => product::fault(tile, target),
            Skeleton::Attention { space, channels, tile, .. } => {
                attention_coop::fault(tile, space, *channels, target)
            }
        };
        if let Some(what) = unfit {
            fault(what.to_owned());
        }
        if let Skeleton::Contract { space, depth, cols, others, sums, tile: Tile::Few(few), .. } =
            &kernel.skeleton
        {
            let cols = cols.iter().filter_map(|&it| space.get(it)).product();
            if let Some(what) = few.fault(cols, depth.count(), (1 + others.len(), sums.len()), target) {
                fault(what.to_owned());
            }
        }
        if let Skeleton::Contract { sums, cols, tile, .. } = &kernel.skeleton
            && !sums.is_empty()
        {
            let along = |it: &ExprId| kernel.body.variables(*it);
            let exist = sums.iter().all(|it| (it.0 as usize) < kernel.body.len());
            if !matches!(tile, Tile::Few(_)) {
                fault("sums beside a product of many rows".to_owned());
            } else if exist && sums.iter().any(|it| cols.iter().any(|col| along(it).contains(col))) {
                fault("a sum beside the product changes along the columns".to_owned());
            }
        }
        if let Skeleton::Contract { others, tile, .. } = &kernel.skeleton
            && !(others.is_empty() || (matches!(tile, Tile::Few(_)) && kernel.place == Place::Gpu))
        {
            fault("sums of several products, which its tile does not make".to_owned());
        }
        if let Skeleton::Attention { space, keys, channels, k, v, mask, last_key, tile, .. } =
            &kernel.skeleton
        {
            if let (AttentionTile::Row(row), Place::Gpu) = (tile, kernel.place)
                && let Some(what) = row.fault(*keys, [*channels, space[3]], target)
            {
                fault(what.to_owned());
            }
            let exist = roots.iter().all(|it| (it.0 as usize) < kernel.body.len());
            if exist && last_key.is_some() && *last_key != mask.and_then(|it| last_key_of(&kernel.body, it)) {
                fault("leaves out keys that are not hidden".to_owned());
            }
            let rows = kernel.stores.iter().filter(|it| exist && kernel.stores_param(it, 1));
            for store in rows {
                let mut channel = false;
                let mut see = |leaf: &Atom| channel |= matches!(leaf, Atom::Var { axis: 3, .. });
                store.at.iter().for_each(|it| it.leaves(&mut see));
                if channel || kernel.stores_param(store, 0) {
                    fault("stores results in a store of a row".to_owned());
                }
            }
            if exist && !sharing_heads(&kernel.body, [*k, *v], space[1]).is_multiple_of(tile.heads() as usize)
            {
                fault(format!("{} heads do not share keys and values", tile.heads()));
            }
        }
        for Store { tensor, at, value } in &kernel.stores {
            scope.coords(&kernel.body, *tensor, at, false, &mut fault);
            if kernel.body.dtype(*value) != schedule.tensors[*tensor].ty.dtype {
                fault(format!("stores e{} in {tensor:?}, of another type", value.0));
            }
        }
    }
    let mut taken: BTreeSet<TensorId> = BTreeSet::new();
    for (state, new) in schedule.becoming() {
        let (old, made) = (&schedule.tensors[state.old], &schedule.tensors[new]);
        let enters = old.definition == Definition::Input(state.input);
        if !enters || old.ty != made.ty || !taken.insert(new) {
            faults.push(format!("state {state:?} is no input and output of one type"));
        }
        if new != state.old && matches!(made.definition, Definition::Input(_) | Definition::Constant(_)) {
            faults.push(format!("state {state:?} becomes what no kernel writes"));
        }
        let leaves = |(number, it): (usize, &TensorId)| *it == state.old && number != state.output as usize;
        if new != state.old && schedule.outputs.iter().enumerate().any(leaves) {
            faults.push(format!("state {state:?} leaves as it was"));
        }
    }
    for output in &schedule.outputs {
        if !written.contains(output) {
            faults.push(format!("output {output:?} is not written"));
        }
    }
    faults
}

/// Buffers that `bound` are bound as.
pub fn bindings(bound: &[TensorId], tensors: &SlotMap<TensorId, TensorInfo>, target: &Target) -> u64 {
    bound.iter().map(|it| (tensors[*it].ty.bytes() as u64).div_ceil(target.max_binding_size).max(1)).sum()
}

/// Everything that a kernel evaluates.
pub fn roots(kernel: &Kernel) -> Vec<ExprId> {
    kernel.stores.iter().map(|it| it.value).chain(operands(kernel)).collect()
}

/// What is evaluated for reductions, products and attention, before anything is stored.
pub fn operands(kernel: &Kernel) -> Vec<ExprId> {
    match &kernel.skeleton {
        Skeleton::Map { .. } => Vec::new(),
        Skeleton::Rows { stages, .. } => stages.iter().map(|it| it.value).collect(),
        Skeleton::Contract { a, b, others, sums, .. } => {
            [a, b].into_iter().chain(others).chain(sums).copied().collect()
        }
        Skeleton::Attention { q, k, v, mask, .. } => [*q, *k, *v].into_iter().chain(*mask).collect(),
    }
}
