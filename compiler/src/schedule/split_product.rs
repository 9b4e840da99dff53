//! Products of few results with long sums, whose tiles would leave most of the device idle: kernels of them become two. The
//! first makes the sums of pieces of the depth, each piece a batch of its own, the second adds those up and does what follows.
//! Where rows are made of the results (a norm, a softmax), the rows' kernel is the second.

use slotmap::SlotMap;

use super::{
    build::kernel_tensors,
    flow::Flow,
    joined::joined,
    kernel::{Kernel, Refusal, Skeleton, Store},
    product,
    splice::splice_with,
    tile,
};
use crate::{
    dtype::DType,
    index::{Index, delinearise},
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    scalar::BinaryOp,
    shape::{Shape, Type},
    target::{Place, Target},
};

/// Each kernel, or the two that it becomes. Their tensors are added to `tensors`, and why rows stayed apart to `refusals`.
pub fn split(
    mut kernels: Vec<Kernel>,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    outputs: &[TensorId],
    refusals: &mut Vec<Refusal>,
    target: &Target,
) -> Vec<Kernel> {
    // What a kernel becomes has its place.
    let mut places: Vec<usize> = (0..kernels.len()).collect();
    for at in 0..kernels.len() {
        if kernels[at].place == Place::Cpu {
            continue;
        }
        if let Some(pieces) = product::pieces(&kernels[at].skeleton, &kernels[at].body, true, target)
            && let Some(rows) = rows_after(at, &kernels, outputs)
        {
            let made = kernels[at].stores[0].tensor;
            // Taken over only if the rows add the pieces up.
            let mut with_parts = tensors.clone();
            let [first, second] = in_two(&kernels[at], pieces, &mut with_parts, target);
            let wanted = |(number, it): (usize, &Kernel)| number != rows && it.tensors.contains(&made);
            let kept =
                outputs.contains(&made) || kernels.iter().enumerate().filter(|it| it.0 != at).any(wanted);
            match joined(&second, &kernels[rows], kept, &with_parts, target) {
                Ok(both) => {
                    *tensors = with_parts;
                    kernels[rows] = both;
                    kernels[at] = first;
                    continue;
                }
                Err(why) => {
                    let name = |it: &Kernel| it.origins.last().cloned().unwrap_or_default();
                    let (producer, consumer) = (name(&kernels[at]), name(&kernels[rows]));
                    refusals.push(Refusal { producer, consumer, why });
                }
            }
        }
        if let Some(pieces) = product::pieces(&kernels[at].skeleton, &kernels[at].body, false, target) {
            let [first, second] = in_two(&kernels[at], pieces, tensors, target);
            kernels[at] = first;
            kernels.push(second);
            places.push(at);
        }
    }
    let mut all: Vec<(usize, Kernel)> = places.into_iter().zip(kernels).collect();
    all.sort_by_key(|it| it.0);
    all.into_iter().map(|it| it.1).collect()
}

/// The kernel of rows that reads the one tensor which kernel `at` makes, where no other that does so must run before it.
fn rows_after(at: usize, kernels: &[Kernel], outputs: &[TensorId]) -> Option<usize> {
    let [Store { tensor, .. }] = kernels[at].stores[..] else { return None };
    let readers: Vec<usize> =
        (0..kernels.len()).filter(|&it| it != at && kernels[it].tensors.contains(&tensor)).collect();
    let is_rows = |it: &usize| {
        kernels[*it].place == Place::Gpu && matches!(kernels[*it].skeleton, Skeleton::Rows { .. })
    };
    let flow = Flow::of(kernels, outputs, &[]);
    let first = |rows: &usize| readers.iter().all(|it| it == rows || !flow.waits(*rows, *it));
    readers.iter().copied().filter(is_rows).find(first)
}

fn in_two(
    kernel: &Kernel,
    pieces: usize,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> [Kernel; 2] {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, .. } = &kernel.skeleton else {
        crate::bug!("{} is not a product", kernel.name)
    };
    let rank = space.rank();
    let point = |first: usize| (0..rank).map(move |axis| Index::var(first + axis, space[axis]));

    // The parts: variable 0 is the piece. Results lie in memory as the product makes them.
    let chunk = depth.count() / pieces;
    let position = Index::var(0, pieces).mul(chunk as i64).add(&Index::var(1 + rank, chunk));
    let moved: Vec<Index> = point(1).chain(delinearise(&position, depth)).collect();
    let mut body = Body::default();
    let operands = copy(&mut body, kernel, &[*a, *b], Some(&moved), None, tensors);
    let of_pieces: Shape = [pieces].into_iter().chain(space.iter().copied()).collect();
    let order: Vec<usize> = batch.iter().chain(rows).chain(cols).copied().collect();
    let shape: Shape = [pieces].into_iter().chain(order.iter().map(|&it| space[it])).collect();
    let at = |piece: Index, first: usize| -> Coords {
        [piece].into_iter().chain(order.iter().map(|&it| Index::var(first + it, space[it]))).collect()
    };
    let origin = &tensors[kernel.stores[0].tensor];
    let (definition, origin) = (origin.definition, origin.origin.clone());
    let parts = tensors.insert(TensorInfo { ty: Type::new(DType::F32, shape), definition, origin });
    let value = body.add(Expr::Param(0), DType::F32);
    let store = Store { tensor: parts, at: at(Index::var(0, pieces), 1), value };
    // As `product::pieces` reckons: not of pairs.
    let plain = Target { pairs: false, ..target.clone() };
    let skeleton = product::contract(
        &of_pieces,
        &[chunk].into(),
        &mut body,
        (operands[0], &operands[1..]),
        Vec::new(),
        std::slice::from_ref(&store),
        tensors,
        &plain,
    );
    let roots = [operands[0], operands[1], value];
    let first = Kernel {
        name: format!("{}_parts", kernel.name),
        tensors: kernel_tensors(&body, &roots, std::slice::from_ref(&store)),
        body,
        skeleton,
        stores: vec![store],
        ..kernel.clone()
    };

    // The whole: a map over the results.
    let mut body = Body::default();
    let part = |piece: usize, body: &mut Body| {
        let at = at(Index::constant(piece as i64), 0);
        body.add(Expr::Load { tensor: parts, at, guard: None }, DType::F32)
    };
    let mut sum = part(0, &mut body);
    for piece in 1..pieces {
        let next = part(piece, &mut body);
        sum = body.binary(BinaryOp::Add, sum, next);
    }
    let values: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
    let made = copy(&mut body, kernel, &values, None, Some(&[sum]), tensors);
    let stores = kernel.stores.iter().zip(&made);
    let stores: Vec<Store> = stores.map(|(it, &value)| Store { value, ..it.clone() }).collect();
    let (workgroup, lanes) = tile::map_form(space, &body, &stores, tensors, target);
    let second = Kernel {
        tensors: kernel_tensors(&body, &made, &stores),
        body,
        skeleton: Skeleton::Map { space: space.clone(), workgroup, lanes },
        stores,
        ..kernel.clone()
    };
    [first, second]
}

fn copy(
    body: &mut Body,
    kernel: &Kernel,
    roots: &[ExprId],
    point: Option<&[Index]>,
    params: Option<&[ExprId]>,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Vec<ExprId> {
    splice_with(body, &kernel.body, roots, point, None, params, &mut |out, tensor, at, guard| {
        out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
    })
}
