//! Attention of few queries over many keys, which would keep a few workgroups busy and leave the rest of the device idle:
//! its kernel becomes two. The first attends to pieces of the keys, each as if it were a batch of its own, the second puts
//! the results of the pieces together.
//!
//! With l the logarithm of the sum of the exponentials of a piece's scores, the whole is the mean of the pieces' results with
//! weights exp(l - the largest l). A piece without any key that is seen has l = -inf and counts nothing.

use slotmap::SlotMap;

use super::{
    attention::sharing_heads,
    build::kernel_tensors,
    kernel::{AttentionTile, Kernel, Skeleton, Stage, Store},
    splice::{splice, splice_with},
    tile,
};
use crate::{
    dtype::DType,
    index::Index,
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
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
        let pieces = match (&kernel.skeleton, kernel.place) {
            (Skeleton::Attention { space, keys, q, tile: AttentionTile::Plain(tile), .. }, Place::Gpu)
                if kernel.body.dtype(*q) == DType::F32 =>
            {
                tile::attention_pieces(space, *keys, tile.heads as usize)
            }
            _ => None,
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
    let Skeleton::Attention { space, keys, channels, scale, zero_masked, q, k, v, mask, .. } =
        &kernel.skeleton
    else {
        crate::bug!("{}: not attention", kernel.name)
    };
    let chunk = keys.div_ceil(pieces);
    let parts: Shape = [space[0] * pieces, space[1], space[2], space[3]].into();

    // The pieces of the keys, each as long as the longest.
    let (batch, key) = (Index::var(0, parts[0]), Index::var(4, chunk));
    let at = batch.modulo(pieces as i64).mul(chunk as i64).add(&key);
    let mut point: Vec<Index> = (0..4).map(|axis| Index::var(axis, parts[axis])).collect();
    point[0] = batch.div(pieces as i64);
    point.extend([at.clone(), Index::var(5, *channels)]);
    let mut body = Body::default();
    let there = (chunk * pieces > *keys).then(|| {
        let at = body.add(Expr::Coord(at), DType::I32);
        let end = body.constant(DType::I32, *keys as f64);
        body.binary(BinaryOp::Lt, at, end)
    });
    let roots: Vec<ExprId> = [*q, *k, *v].into_iter().chain(*mask).collect();
    let mut read = |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
        out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
    };
    let mut made = splice(&mut body, &kernel.body, &roots[..1], Some(&point), None, &mut read);
    made.extend(splice(&mut body, &kernel.body, &roots[1..], Some(&point), there, &mut read));
    let mut mask = made.get(3).copied();
    if let Some(there) = there {
        let open = mask.unwrap_or_else(|| body.constant(DType::F32, 0.0));
        let shut = body.constant(DType::F32, f64::NEG_INFINITY);
        mask = Some(body.select(there, open, shut));
    }
    let TensorInfo { definition, origin, .. } = tensors[kernel.stores[0].tensor].clone();
    let mut part = |rank: usize, number: u32, body: &mut Body| {
        let ty = Type::new(DType::F32, Shape::new(&parts[..rank]));
        let tensor = tensors.insert(TensorInfo { ty, definition, origin: origin.clone() });
        let at = (0..rank).map(|axis| Index::var(axis, parts[axis])).collect();
        Store { tensor, at, value: body.add(Expr::Param(number), DType::F32) }
    };
    let stores = vec![part(4, 0, &mut body), part(3, 1, &mut body)];
    let (results, logs) = (stores[0].tensor, stores[1].tensor);
    let heads = sharing_heads(&body, [made[1], made[2]], parts[1]);
    let tile = AttentionTile::Plain(tile::attention(&parts, chunk, *channels, heads, target));
    let (scale, channels) = (*scale, *channels);
    let [q, k, v] = [made[0], made[1], made[2]];
    let (space_of_parts, last_key) = (parts.clone(), None);
    // A piece without any key must not spoil the others.
    let skeleton = Skeleton::Attention {
        space: space_of_parts,
        keys: chunk,
        channels,
        scale,
        zero_masked: true,
        q,
        k,
        v,
        mask,
        last_key,
        tile,
    };
    let operands: Vec<ExprId> = [q, k, v].into_iter().chain(mask).collect();
    let first = Kernel {
        name: format!("{}_parts", kernel.name),
        tensors: kernel_tensors(&body, &operands, &stores),
        body,
        skeleton,
        stores,
        ..kernel.clone()
    };

    // The whole: each element of the result is a row of pieces.
    let mut body = Body::default();
    let mut piece: Coords = (0..4).map(|axis| Index::var(axis, space[axis])).collect();
    piece[0] = piece[0].mul(pieces as i64).add(&Index::var(4, pieces));
    let result = body.add(Expr::Load { tensor: results, at: piece.clone(), guard: None }, DType::F32);
    piece.truncate(3);
    let log = body.add(Expr::Load { tensor: logs, at: piece, guard: None }, DType::F32);
    let [most, total, sum] = [0, 1, 2].map(|it| body.add(Expr::Param(it), DType::F32));
    let below = body.binary(BinaryOp::Sub, log, most);
    let weight = body.unary(UnaryOp::Exp, below);
    let weighted = body.binary(BinaryOp::Mul, weight, result);
    let mut mean = body.binary(BinaryOp::Div, sum, total);
    if *zero_masked {
        let nothing = body.constant(DType::F32, f64::NEG_INFINITY);
        let empty = body.binary(BinaryOp::Eq, most, nothing);
        let zero = body.constant(DType::F32, 0.0);
        mean = body.select(empty, zero, mean);
    }
    let stages = [(ReduceOp::Max, log), (ReduceOp::Sum, weight), (ReduceOp::Sum, weighted)];
    let stages: Vec<Stage> = stages.into_iter().map(|(op, value)| Stage { op, value }).collect();
    let values: Vec<ExprId> = kernel.stores.iter().map(|it| it.value).collect();
    let values = splice_with(
        &mut body,
        &kernel.body,
        &values,
        None,
        None,
        Some(&[mean]),
        &mut |out, tensor, at, guard| out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype),
    );
    let stores = kernel.stores.iter().zip(values);
    let stores: Vec<Store> = stores.map(|(it, value)| Store { value, ..it.clone() }).collect();
    let inner: Shape = [pieces].into();
    let form = tile::row_form((space, &inner), &body, &stages, &stores, false, tensors, target);
    let needed: Vec<ExprId> =
        stores.iter().map(|it| it.value).chain(stages.iter().map(|it| it.value)).collect();
    let second = Kernel {
        tensors: kernel_tensors(&body, &needed, &stores),
        body,
        skeleton: Skeleton::Rows { outer: space.clone(), inner, stages, form },
        stores,
        ..kernel.clone()
    };
    [first, second]
}
