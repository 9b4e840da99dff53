//! What must hold of a schedule. `verify` returns every fault:
//! - each output and everything that is read is an input, a constant, or written by an earlier kernel;
//! - no tensor is written twice, or read and written by one kernel;
//! - `Kernel::tensors` lists reads, then writes, each once;
//! - coordinates of reads and stores are as many as the tensor has axes, and inside it unless guarded, by their ranges;
//! - a kernel binds no more buffers than the target allows;
//! - loop variables and params exist, and variables have the extents that the skeleton says.

use std::collections::BTreeSet;

use super::{
    fuse::loads,
    kernel::{Kernel, Schedule, Skeleton},
};
use crate::{
    index::{Atom, Index},
    lower::{Definition, Expr, ExprId, TensorId},
    target::{Place, Target},
};

/// Every broken invariant, each with the kernel that breaks it.
pub fn verify(schedule: &Schedule, target: &Target) -> Vec<String> {
    let mut faults = Vec::new();
    let mut written: BTreeSet<TensorId> = (schedule.tensors.iter())
        .filter(|(_, it)| !matches!(it.definition, Definition::Nest(_)))
        .map(|(id, _)| id)
        .collect();
    for kernel in &schedule.kernels {
        let mut fault = |what: String| faults.push(format!("{}: {what}", kernel.name));
        let roots = roots(kernel);
        let stored: Vec<TensorId> = kernel.stores.iter().map(|it| it.tensor).collect();
        let read: BTreeSet<TensorId> =
            loads(&kernel.body, &roots).into_iter().map(|(tensor, _)| tensor).collect();
        for tensor in &read {
            if !written.contains(tensor) {
                fault(format!("reads {tensor:?}, which nobody has written"));
            }
            if stored.contains(tensor) {
                fault(format!("reads and writes {tensor:?}"));
            }
        }
        if stored.is_empty() {
            fault("stores nothing".to_owned());
        }
        for tensor in &stored {
            if !written.insert(*tensor) {
                fault(format!("writes {tensor:?} again"));
            }
        }
        let (reads, writes) =
            kernel.tensors.split_at(kernel.tensors.len() - stored.len().min(kernel.tensors.len()));
        if writes != stored
            || reads.iter().copied().collect::<BTreeSet<_>>() != read
            || reads.len() != read.len()
        {
            fault("its list of tensors is not what it reads and writes".to_owned());
        }
        let bindings: u64 = (kernel.tensors.iter())
            .map(|it| (schedule.tensors[*it].ty.bytes() as u64).div_ceil(target.max_binding_size).max(1))
            .sum();
        if kernel.place == Place::Gpu && bindings > u64::from(target.max_storage_buffers) {
            fault(format!("binds {bindings} buffers"));
        }
        let (extents, params) = (kernel.skeleton.extents(), kernel.skeleton.params());
        let needed = kernel.body.needed(roots.iter().copied());
        let mut indices: Vec<&Index> = Vec::new();
        let mut inside = |at: &[Index], tensor: TensorId, guarded: bool| {
            let shape = &schedule.tensors[tensor].ty.shape;
            if at.len() != shape.rank() {
                return fault(format!("{at:?} are no coordinates in {shape} of {tensor:?}"));
            }
            for (index, &dim) in at.iter().zip(shape.iter()) {
                let (low, high) = index.range();
                if !guarded && dim > 0 && (low < 0 || high >= dim as i64) {
                    fault(format!("{index} leaves an axis of {dim} of {tensor:?}"));
                }
            }
        };
        let mut missing = false;
        for (_, expr, _) in kernel.body.iter().filter(|(id, ..)| needed[id.0 as usize]) {
            match expr {
                Expr::Load { tensor, at, guard } => {
                    inside(at, *tensor, guard.is_some());
                    indices.extend(at);
                }
                Expr::Coord(at) => indices.push(at),
                Expr::Param(number) => missing |= *number as usize >= params,
                Expr::Const(_) | Expr::Unary(..) | Expr::Binary(..) | Expr::Select(..) | Expr::Cast(_) => {}
            }
        }
        for store in &kernel.stores {
            inside(&store.at, store.tensor, false);
            indices.extend(&store.at);
        }
        for index in indices {
            index.leaves(&mut |leaf| {
                if let Atom::Var { axis, extent } = leaf
                    && extents.get(*axis as usize).is_none_or(|it| *it as i64 != *extent)
                {
                    fault(format!("{index} uses a variable that does not exist or has another extent"));
                }
            });
        }
        if missing {
            fault("uses a param that does not exist".to_owned());
        }
    }
    for output in &schedule.outputs {
        if !written.contains(output) {
            faults.push(format!("output {output:?} is not written"));
        }
    }
    faults
}

/// Everything that a kernel evaluates.
pub fn roots(kernel: &Kernel) -> Vec<ExprId> {
    let stores = kernel.stores.iter().map(|it| it.value);
    let own: Vec<ExprId> = match &kernel.skeleton {
        Skeleton::Map { .. } => Vec::new(),
        Skeleton::Rows { stages, .. } => stages.iter().map(|it| it.value).collect(),
        Skeleton::Contract { a, b, .. } => vec![*a, *b],
        Skeleton::Attention { q, k, v, mask, .. } => [*q, *k, *v].into_iter().chain(*mask).collect(),
    };
    stores.chain(own).collect()
}
