//! What a schedule means, slowly: every kernel at every point, one scalar at a time. The oracle for code generation and
//! for the CPU path.

use slotmap::SlotMap;

use super::kernel::{Kernel, Schedule, Skeleton};
use crate::{
    lower::{
        ExprId, TensorId, TensorInfo,
        eval::{
            Attention, Memory, attend, eval_body, eval_coords, given, joined, points, position, product,
            reduced, taken,
        },
    },
    scalar::{ReduceOp, Scalar},
    tensor::Tensor,
};

/// The outputs for the given inputs and constants of the partition.
pub fn eval(schedule: &Schedule, inputs: &[Tensor], constants: &[Tensor]) -> Vec<Tensor> {
    let mut memory = given(&schedule.tensors, inputs, constants);
    for (state, new) in schedule.becoming() {
        let old = memory[state.old].clone();
        memory.insert(new, old);
    }
    for kernel in &schedule.kernels {
        eval_kernel(kernel, &schedule.tensors, &mut memory);
    }
    taken(&schedule.tensors, &schedule.outputs, &memory)
}

/// Runs one kernel. An element that it does not write keeps the value that it had; where it had none, that panics.
pub fn eval_kernel(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>, memory: &mut Memory) {
    let mut written: Vec<Vec<Option<Scalar>>> =
        kernel.stores.iter().map(|it| vec![None; tensors[it.tensor].ty.shape.count()]).collect();
    let at = |roots: &[ExprId], vars: &[i64], params: &[Scalar], memory: &Memory| {
        eval_body(&kernel.body, roots, vars, params, tensors, memory)
    };
    let mut store = |vars: &[i64], params: &[Scalar], memory: &Memory| {
        for (store, to) in kernel.stores.iter().zip(&mut written) {
            let value = at(&[store.value], vars, params, memory)[0];
            let mut data = |it: ExprId| at(&[it], vars, params, memory)[0].as_i64();
            let place = eval_coords(&store.at, vars, &mut data);
            let place = position(&place, &tensors[store.tensor].ty.shape);
            let same = |it: Scalar| it == value || (it.as_f64().is_nan() && value.as_f64().is_nan());
            assert!(to[place].is_none_or(same), "{}: one element, two values", kernel.name);
            to[place] = Some(value);
        }
    };
    match &kernel.skeleton {
        Skeleton::Map { space, .. } => points(space).for_each(|point| store(&point, &[], memory)),
        Skeleton::Rows { outer, inner, stages, .. } => {
            for row in points(outer) {
                let mut params: Vec<Scalar> = Vec::new();
                for stage in stages {
                    let dtype = kernel.body.dtype(stage.value);
                    let along =
                        points(inner).map(|it| at(&[stage.value], &joined(&row, &it), &params, memory)[0]);
                    let value = reduced(stage.op, dtype, along);
                    params.push(value);
                }
                // A row of no elements still has its own results.
                match inner.count() {
                    0 => store(&joined(&row, &vec![0; inner.rank()]), &params, memory),
                    _ => points(inner).for_each(|it| store(&joined(&row, &it), &params, memory)),
                }
            }
        }
        Skeleton::Contract { space, depth, a, b, others, sums, .. } => {
            for point in points(space) {
                let sum = |b: &ExprId| {
                    let pairs = points(depth).map(|it| {
                        let it = at(&[*a, *b], &joined(&point, &it), &[], memory);
                        (it[0], it[1])
                    });
                    product(kernel.body.dtype(*a), pairs)
                };
                let mut params: Vec<Scalar> = [b].into_iter().chain(others).map(sum).collect();
                for &it in sums {
                    let along = points(depth).map(|inner| at(&[it], &joined(&point, &inner), &[], memory)[0]);
                    params.push(reduced(ReduceOp::Sum, kernel.body.dtype(it), along));
                }
                store(&point, &params, memory);
            }
        }
        Skeleton::Attention { space, keys, channels, scale, zero_masked, q, k, v, mask, .. } => {
            let spec =
                Attention { keys: *keys, channels: *channels, scale: *scale, zero_masked: *zero_masked };
            let roots: Vec<ExprId> = [*q, *k, *v].into_iter().chain(*mask).collect();
            for point in points(space) {
                let dtype = kernel.body.dtype(*q);
                let (value, log) = attend(&spec, dtype, &point, |vars| at(&roots, vars, &[], memory));
                store(&point, &[value, log], memory);
            }
        }
    }
    for (store, values) in kernel.stores.iter().zip(written) {
        let before = memory.get(store.tensor).cloned();
        let kept = |at: usize| before.as_ref().map(|it| it[at]);
        let all = (values.into_iter().enumerate()).map(|(at, it)| {
            it.or_else(|| kept(at)).unwrap_or_else(|| crate::bug!("{} leaves a gap", kernel.name))
        });
        memory.insert(store.tensor, all.collect());
    }
}
