//! Attention that reads what a state becomes, where that is the state with a slice of it replaced, as a cache of keys is with
//! those of the newest token: it reads the state as it was and computes the slice itself. So it need not wait for the kernel
//! that writes the state, which then runs beside whatever follows.
//!
//! In: kernels, of which one computes what a state becomes. Out: the same kernels; those of one or two queries with their reads of the
//! new state replaced by what its writer computes, or why not.

use slotmap::SlotMap;

use super::{
    build::kernel_tensors,
    cost,
    expand::loads,
    kernel::{AttentionTile, Kernel, Refusal, Skeleton, Store, Why},
    splice::splice,
    state::slice,
};
use crate::{
    index::Index,
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    target::{Place, Target},
};

/// Kernels that read `new`, which a state that was `old` becomes, read `old` instead, if that is worth it for all of them.
pub fn read_old(
    kernels: &mut [Kernel],
    (old, new): (TensorId, TensorId),
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Vec<Refusal> {
    let writes = |it: &Kernel| it.stores.iter().any(|it| it.tensor == new);
    let Some(writer) = kernels.iter().find(|it| writes(it)).cloned() else { return Vec::new() };
    let readers: Vec<usize> = (0..kernels.len())
        .filter(|&it| !writes(&kernels[it]) && kernels[it].tensors.contains(&new))
        .collect();
    let attention = |it: &usize| {
        matches!(kernels[*it].skeleton, Skeleton::Attention { tile: AttentionTile::Row(_), .. })
            && kernels[*it].place == Place::Gpu
    };
    if readers.is_empty() || !readers.iter().all(attention) || slice(&writer, old).is_none() {
        return Vec::new();
    }
    let made = readers.iter().map(|&it| reading(&kernels[it], &writer, new, tensors, target));
    match made.collect::<Result<Vec<Kernel>, Why>>() {
        Ok(made) => {
            readers.iter().zip(made).for_each(|(&at, it)| kernels[at] = it);
            Vec::new()
        }
        Err(why) => {
            let origin = |it: &Kernel| it.origins.last().cloned().unwrap_or_default();
            let consumer = origin(&kernels[readers[0]]);
            vec![Refusal { producer: origin(&writer), consumer, why }]
        }
    }
}

/// `reader`, an attention, with what `writer` stores in `new` in place of what it reads of it.
fn reading(
    reader: &Kernel,
    writer: &Kernel,
    new: TensorId,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Result<Kernel, Why> {
    let store = writer.stores.iter().find(|it| it.tensor == new);
    let store = store.unwrap_or_else(|| crate::bug!("{} does not write", writer.name));
    let stored = store.value;
    // The point of the writer that makes an element.
    let point = |at: &Coords| -> Vec<Index> {
        let mut point = vec![Index::constant(0); writer.skeleton.extents().len()];
        for (own, at) in store.at.iter().zip(at) {
            if let Some(var) = own.as_var() {
                point[var] = at.clone();
            }
        }
        point
    };
    let weight = cost::weight(&writer.body, &[stored]);
    if weight > cost::CHEAP_IN_QUERIES {
        return Err(Why::Recompute(weight));
    }
    if reader.stores.iter().any(|it| it.at.iter().any(Index::reads_data)) {
        return Err(Why::ReadElsewhere);
    }
    let mut kernel = reader.clone();
    let Skeleton::Attention { q, k, v, mask, .. } = &mut kernel.skeleton else {
        crate::bug!("{}: not attention", reader.name)
    };
    let values: Vec<ExprId> = reader.stores.iter().map(|it| it.value).collect();
    let operands: Vec<ExprId> = [*q, *k, *v].into_iter().chain(*mask).collect();
    let roots: Vec<ExprId> = operands.iter().chain(&values).copied().collect();
    let plain = |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
        out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
    };
    let mut body = Body::default();
    let mut made = splice(&mut body, &reader.body, &roots, None, None, &mut |out, tensor, at, guard| {
        if tensor != new {
            return plain(out, tensor, at, guard);
        }
        let value = splice(out, &writer.body, &[stored], Some(&point(&at)), guard, &mut { plain })[0];
        match guard {
            None => value,
            Some(inside) => {
                let zero = out.constant(out.dtype(value), 0.0);
                out.select(inside, value, zero)
            }
        }
    });
    if body.len() > cost::BODY {
        return Err(Why::Body(body.len()));
    }
    // Keys and values are selected last, so that it is seen what is replaced.
    for it in &mut made[1..3] {
        let (Expr::Cast(from), dtype) = (body.expr(*it).clone(), body.dtype(*it)) else { continue };
        if let Expr::Select(cond, yes, no) = *body.expr(from) {
            let (yes, no) = (body.cast(dtype, yes), body.cast(dtype, no));
            *it = body.select(cond, yes, no);
        }
    }
    let mut own = made.iter().copied();
    let mut next = || own.next().unwrap_or_else(|| crate::bug!("as many roots"));
    (*q, *k, *v) = (next(), next(), next());
    *mask = mask.map(|_| next());
    kernel.stores = reader.stores.iter().map(|it| Store { value: next(), ..it.clone() }).collect();
    let roots: Vec<ExprId> =
        made[..operands.len()].iter().copied().chain(kernel.stores.iter().map(|it| it.value)).collect();
    kernel.tensors = kernel_tensors(&body, &roots, &kernel.stores);
    kernel.body = body;
    let bindings = (kernel.tensors.iter())
        .map(|it| (tensors[*it].ty.bytes() as u64).div_ceil(target.max_binding_size).max(1))
        .sum::<u64>();
    if bindings > u64::from(target.max_storage_buffers) {
        return Err(Why::Bindings(bindings as u32));
    }
    debug_assert!(loads(&kernel.body, &roots).iter().all(|it| it.0 != new));
    Ok(kernel)
}
