//! States: what an input becomes in the next run is written to the memory in which it lies.
//!
//! In: kernels, and which input and output are one state. Out: kernels of which one writes what each state becomes, after
//! all others have read what it was. That is the kernel which computes it, where it may (`in_place`); otherwise a copy, and why. Where all but a slice stays as it is, only the slice is written.

use slotmap::SlotMap;

use super::{
    build::kernel_tensors,
    expand::loads,
    flow::Flow,
    in_place::{Why, in_place},
    kernel::{self, Kept, Kernel, Refusal, Skeleton, Store},
    replaced::{Replaced, replaced},
    splice::splice,
    tile, unwritten,
};
use crate::{
    dtype::DType,
    graph::State,
    index::Index,
    lower::{Body, Coords, Definition, Expr, ExprId, TensorId, TensorInfo},
    scalar::BinaryOp,
    shape::Shape,
    target::{Place, Target},
};

/// Changes `kernels`, and `outputs` where an output has to be a copy.
pub fn settle(
    kernels: &mut Vec<Kernel>,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    outputs: &mut [TensorId],
    states: &[State],
    target: &Target,
    refusals: &mut Vec<Refusal>,
) -> Vec<Kept> {
    let olds: Vec<TensorId> = states.iter().map(|it| entering(tensors, it, outputs)).collect();
    // What leaves, or becomes another state, is as it was when the run began.
    for (number, output) in outputs.iter_mut().enumerate() {
        let own = states.iter().zip(&olds).any(|(it, old)| it.output as usize == number && old == output);
        if olds.contains(output) && !own {
            *output = copy(kernels, tensors, *output, target);
        }
    }
    let mut kept: Vec<Kept> = Vec::new();
    for (&State { input, output }, &old) in states.iter().zip(&olds) {
        let new = outputs[output as usize];
        let taken = kept.iter().any(|it| outputs[it.output as usize] == new);
        kept.push(Kept { input, output, old });
        if new == old {
            continue;
        }
        if !taken {
            refusals.extend(unwritten::read_old(kernels, (old, new), tensors, target));
        }
        let flow = Flow::of(kernels, outputs, &kept[..kept.len() - 1]);
        let writer = flow.writer(new).filter(|_| !taken);
        let first = |at: usize| {
            let others =
                kernels.iter().enumerate().filter(|(it, kernel)| *it != at && kernel.tensors.contains(&old));
            others.into_iter().all(|(it, _)| !flow.waits(it, at))
        };
        let own = writer.map(|at| {
            let kernel = &kernels[at];
            match first(at) {
                false => Err(Why::Awaited),
                true if !kernel.tensors.contains(&old) => Ok((at, kernel.clone())),
                true => in_place(kernel, old, new, tensors).map(|()| (at, moved(kernel, old, new))),
            }
        });
        match own {
            Some(Ok((at, kernel))) => {
                kernels[at] = slice_alone(&kernel, new, tensors, target).unwrap_or(kernel);
                continue;
            }
            Some(Err(why)) => refusals.push(Refusal {
                producer: tensors[new].origin.clone(),
                consumer: tensors[old].origin.clone(),
                why: kernel::Why::State(why),
            }),
            // What it becomes is given, or another state.
            None => {}
        }
        outputs[output as usize] = copy(kernels, tensors, new, target);
    }
    kept
}

/// The tensor that a state is when the run begins.
fn entering(tensors: &mut SlotMap<TensorId, TensorInfo>, state: &State, outputs: &[TensorId]) -> TensorId {
    let definition = Definition::Input(state.input);
    let found = tensors.iter().find(|(_, it)| it.definition == definition).map(|(id, _)| id);
    found.unwrap_or_else(|| {
        let ty = tensors[outputs[state.output as usize]].ty.clone();
        tensors.insert(TensorInfo { ty, definition, origin: "".into() })
    })
}

/// A further kernel, which copies `tensor`; gives what it writes.
fn copy(
    kernels: &mut Vec<Kernel>,
    tensors: &mut SlotMap<TensorId, TensorInfo>,
    tensor: TensorId,
    target: &Target,
) -> TensorId {
    let TensorInfo { ty, definition, origin } = tensors[tensor].clone();
    let nest = match definition {
        Definition::Nest(at) => at,
        Definition::Input(_) | Definition::Constant(_) => 0,
    };
    let maker = kernels.iter().find(|it| it.stores.iter().any(|it| it.tensor == tensor));
    let place = match maker {
        Some(it) => it.place,
        // Values of 64 bits need not fit the device's 32.
        None if !ty.dtype.has_device_form() || matches!(ty.dtype, DType::I64 | DType::U64) => Place::Cpu,
        None => target.place,
    };
    let to = TensorInfo { ty: ty.clone(), definition: Definition::Nest(nest), origin: origin.clone() };
    let to = tensors.insert(to);
    let at: Coords = ty.shape.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
    let mut body = Body::default();
    let value = body.add(Expr::Load { tensor, at: at.clone(), guard: None }, ty.dtype);
    let stores = vec![Store { tensor: to, at, value }];
    let (workgroup, lanes) = tile::map_form(&ty.shape, &body, &stores, tensors, target);
    kernels.push(Kernel {
        name: "map_state".into(),
        place,
        origins: vec![origin],
        ops: vec!["input"],
        tensors: vec![tensor, to],
        body,
        skeleton: Skeleton::Map { space: ty.shape, workgroup, lanes },
        stores,
    });
    to
}

/// The kernel with `new` in place of `old`.
fn moved(kernel: &Kernel, old: TensorId, new: TensorId) -> Kernel {
    let body = kernel.body.redirected(|it| if it == old { new } else { it });
    let tensors = kernel.tensors.iter().copied().filter(|it| *it != old).collect();
    Kernel { body, tensors, ..kernel.clone() }
}

/// The axis along which `kernel` replaces a slice of `from`, and how, if it writes nothing else.
pub fn slice(kernel: &Kernel, from: TensorId) -> Option<(usize, Replaced)> {
    let (Skeleton::Map { space, .. }, [store]) = (&kernel.skeleton, &kernel.stores[..]) else { return None };
    let body = &kernel.body;
    let axes = (0..space.rank()).filter(|&it| space[it] > 1 && store.at.contains(&Index::var(it, space[it])));
    let (axis, parts) = axes.into_iter().find_map(|it| Some((it, replaced(body, store.value, it)?)))?;
    let Expr::Load { tensor, at, .. } = body.expr(parts.there) else { return None };
    let elsewhere = loads(body, &[parts.place, parts.value]).iter().any(|it| it.0 == from);
    let plain = |it: &Index| it.as_var().is_some() || it.as_constant().is_some();
    (*tensor == from && *at == store.at && !elsewhere && store.at.iter().all(plain)).then_some((axis, parts))
}

/// Where the kernel replaces a slice of `new`, and does nothing else: the kernel that writes the elements of that number alone.
/// A place outside the axis writes what is there to the nearest one.
fn slice_alone(
    kernel: &Kernel,
    new: TensorId,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) -> Option<Kernel> {
    let (Skeleton::Map { space, .. }, [store]) = (&kernel.skeleton, &kernel.stores[..]) else { return None };
    let (body, (axis, Replaced { place, value, there })) = (&kernel.body, slice(kernel, new)?);
    let mut to = Body::default();
    let mut read = |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
        out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
    };
    let own: Shape =
        space.iter().enumerate().map(|(it, &extent)| if it == axis { 1 } else { extent }).collect();
    let mut point: Vec<Index> = own.iter().enumerate().map(|(it, &extent)| Index::var(it, extent)).collect();
    let place = splice(&mut to, body, &[place], Some(&point), None, &mut read)[0];
    let dtype = to.dtype(place);
    let (zero, last) = (to.constant(dtype, 0.0), to.constant(dtype, space[axis] as f64 - 1.0));
    let (above, below) = (to.binary(BinaryOp::Ge, place, zero), to.binary(BinaryOp::Le, place, last));
    let inside = to.and(Some(above), Some(below)).expect("two");
    let least = to.binary(BinaryOp::Max, place, zero);
    let near = to.binary(BinaryOp::Min, least, last);
    point[axis] = Index::data(near.0, 0, space[axis] as i64 - 1);
    let made = splice(&mut to, body, &[value, there], Some(&point), None, &mut read);
    let value = to.select(inside, made[0], made[1]);
    let at: Coords = (store.at.iter())
        .map(|it| match it.as_var() {
            Some(var) => point[var].clone(),
            None => it.clone(),
        })
        .collect();
    let stores = vec![Store { tensor: new, at, value }];
    let (workgroup, lanes) = tile::map_form(&own, &to, &stores, tensors, target);
    let written = kernel_tensors(&to, &[value], &stores);
    let skeleton = Skeleton::Map { space: own, workgroup, lanes };
    Some(Kernel { body: to, stores, skeleton, tensors: written, ..kernel.clone() })
}
