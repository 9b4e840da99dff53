//! Products of few results with long sums, whose tiles would leave most of the device idle: kernels of them become two. The
//! first makes the sums of pieces of the depth, each piece a batch of its own, the second adds those up and does what follows.

use slotmap::SlotMap;

use super::{
    build::kernel_tensors,
    kernel::{Kernel, Skeleton, Store},
    matmul, product,
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

/// Each kernel, or the two that it becomes. Their tensors are added to `tensors`.
pub fn split(
    kernels: Vec<Kernel>,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Vec<Kernel> {
    let mut split = Vec::new();
    for kernel in kernels {
        let pieces = match kernel.place {
            Place::Gpu => matmul::pieces(&kernel.skeleton, target),
            Place::Cpu => None,
        };
        match pieces {
            Some(pieces) => split.extend(in_two(&kernel, pieces, tensors, target)),
            None => split.push(kernel),
        }
    }
    split
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
    let skeleton = product::contract(
        &of_pieces,
        &[chunk].into(),
        &mut body,
        (operands[0], &operands[1..]),
        Vec::new(),
        std::slice::from_ref(&store),
        tensors,
        target,
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
