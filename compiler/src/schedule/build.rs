//! Groups to kernels: bodies put together, stores for what others need.

use std::{collections::BTreeSet, sync::Arc};

use slotmap::SecondaryMap;

use super::{
    attention,
    attention_coop::Asked,
    attention_row,
    expand::loads,
    fuse::Fused,
    group::{Form, Group, Level, Member},
    kernel::{AttentionTile, Kernel, Skeleton, Stage, Store},
    product,
    splice::splice_with,
    tile,
};
use crate::{
    dtype::DType,
    index::Index,
    lower::{Body, Coords, Expr, ExprId, Loops, NestKind, TensorId},
    scalar::BinaryOp,
    target::Target,
};

/// One kernel for each group that anything needs, in no particular order.
pub fn kernels(loops: &Loops, fused: &Fused, target: &Target) -> Vec<Kernel> {
    let parts: Vec<Computed> = fused.groups.iter().map(|it| compute(loops, fused, it)).collect();
    let needed = needed(loops, fused, &parts);
    let kept = fused
        .groups
        .iter()
        .zip(parts)
        .filter(|(group, _)| group.members.iter().any(|it| needed.contains(&it.tensor)));
    kept.map(|(group, part)| kernel(loops, group, part, &needed, target)).collect()
}

/// A group's body: the values of its members, in the group's variables.
struct Computed {
    body: Body,
    /// One a member, in order.
    values: Vec<ExprId>,
    stages: Vec<Stage>,
    /// Operands of the anchor, if it is a product or attention.
    operands: Vec<ExprId>,
    /// What a product's kernel sums beside it.
    sums: Vec<ExprId>,
}

fn compute(loops: &Loops, fused: &Fused, group: &Group) -> Computed {
    let mut part = Computed {
        body: Body::default(),
        values: Vec::new(),
        stages: Vec::new(),
        operands: Vec::new(),
        sums: Vec::new(),
    };
    let mut held: SecondaryMap<TensorId, (Coords, ExprId)> = SecondaryMap::new();
    for member in &group.members {
        let nest = &loops.nests[member.nest];
        let expanded = &fused.expanded[member.nest];
        let extra: &[usize] = match &nest.kind {
            NestKind::Map { .. } => &[],
            NestKind::Reduce { depth, .. } | NestKind::Contract { depth, .. } => depth,
            NestKind::Attention { keys, channels, .. } => &[*keys, *channels],
        };
        let rank = nest.space.rank();
        let along = extra.iter().enumerate().map(|(axis, &extent)| Index::var(rank + axis, extent));
        let point: Vec<Index> = member.at.iter().cloned().chain(along).collect();
        // Sums beside products are numbered after those of all products.
        let products = |it: &&Member| matches!(loops.nests[it.nest].kind, NestKind::Contract { .. });
        let before = group.members.iter().filter(products).count() as u32;
        let params: Option<Vec<ExprId>> = expanded.scaled.then(|| {
            let number = |it: u32| if it == 0 { 0 } else { before + it - 1 };
            let beside = expanded.roots.len() as u32 - 3;
            let dtype = |param: u32| {
                let found = expanded.body.iter().find(|(_, expr, _)| **expr == Expr::Param(param));
                found.map_or(DType::F32, |it| it.2)
            };
            (0..=beside).map(|it| part.body.add(Expr::Param(number(it)), dtype(it))).collect()
        });
        let made = splice_with(
            &mut part.body,
            &expanded.body,
            &expanded.roots,
            Some(&point),
            None,
            params.as_deref(),
            &mut |out, tensor, at, guard| match held.get(tensor) {
                Some((own, value)) => {
                    assert_eq!(&at, own, "members are read at their own points");
                    match guard {
                        None => *value,
                        Some(guard) => {
                            let zero = out.constant(out.dtype(*value), 0.0);
                            out.select(guard, *value, zero)
                        }
                    }
                }
                None => out.add(Expr::Load { tensor, at, guard }, loops.tensors[tensor].ty.dtype),
            },
        );
        let dtype = loops.tensors[member.tensor].ty.dtype;
        let value = match &nest.kind {
            NestKind::Map { .. } => made[0],
            NestKind::Reduce { op, .. } => {
                part.stages.push(Stage { op: *op, value: made[0] });
                part.body.add(Expr::Param(part.stages.len() as u32 - 1), dtype)
            }
            NestKind::Contract { .. } => {
                if part.operands.is_empty() {
                    part.operands.push(made[0]);
                }
                assert_eq!(made[0], part.operands[0], "products of one factor");
                part.operands.push(made[1]);
                let product = part.body.add(Expr::Param(part.operands.len() as u32 - 2), dtype);
                if expanded.scaled {
                    part.sums = made[2..made.len() - 1].to_vec();
                    part.body.binary(BinaryOp::Mul, product, made[made.len() - 1])
                } else {
                    product
                }
            }
            NestKind::Attention { .. } => {
                part.operands = made;
                part.body.add(Expr::Param(0), dtype)
            }
        };
        held.insert(member.tensor, (member.at.clone(), value));
        part.values.push(value);
    }
    part
}

/// Tensors that must be in memory: what any needed group reads, and the outputs.
fn needed(loops: &Loops, fused: &Fused, parts: &[Computed]) -> BTreeSet<TensorId> {
    let reads: Vec<BTreeSet<TensorId>> = (fused.groups.iter().zip(parts))
        .map(|(group, part)| {
            let stages = part.stages.iter().map(|it| it.value);
            let roots: Vec<ExprId> = part
                .values
                .iter()
                .copied()
                .chain(stages)
                .chain(part.operands.iter().chain(&part.sums).copied())
                .collect();
            let all = loads(&part.body, &roots).into_iter().map(|(tensor, _)| tensor);
            all.filter(|it| group.member(*it).is_none()).collect()
        })
        .collect();
    let mut needed: BTreeSet<TensorId> = loops.outputs.iter().copied().collect();
    let mut open: Vec<usize> = (0..parts.len()).collect();
    loop {
        let (now, later): (Vec<usize>, Vec<usize>) = open
            .iter()
            .partition(|&&it| fused.groups[it].members.iter().any(|it| needed.contains(&it.tensor)));
        if now.is_empty() {
            return needed;
        }
        now.iter().for_each(|&it| needed.extend(&reads[it]));
        open = later;
    }
}

fn kernel(
    loops: &Loops,
    group: &Group,
    part: Computed,
    needed: &BTreeSet<TensorId>,
    target: &Target,
) -> Kernel {
    let Computed { mut body, values, stages, operands, sums } = part;
    let stores: Vec<Store> = (group.members.iter().zip(&values))
        .filter(|(member, _)| needed.contains(&member.tensor))
        .map(|(member, &value)| Store { tensor: member.tensor, at: member.at.clone(), value })
        .collect();
    let anchor = &loops.nests[group.members[0].nest];
    let own_sums = sums.clone();
    let skeleton = match (&group.form, &anchor.kind) {
        (Form::Map { space }, _) => {
            let (workgroup, lanes) = tile::map_form(space, &body, &stores, &loops.tensors, target);
            Skeleton::Map { space: space.clone(), workgroup, lanes }
        }
        (Form::Rows { outer, inner }, _) => {
            // Results of points, not of rows, are stored as the row runs.
            let writes_points =
                group.members.iter().any(|it| it.level == Level::Point && needed.contains(&it.tensor));
            let shapes = (outer, inner);
            let form = tile::row_form(shapes, &body, &stages, &stores, writes_points, &loops.tensors, target);
            Skeleton::Rows { outer: outer.clone(), inner: inner.clone(), stages: stages.clone(), form }
        }
        (Form::Contract { space }, NestKind::Contract { depth, .. }) => product::contract(
            space,
            depth,
            &mut body,
            (operands[0], &operands[1..]),
            sums,
            &stores,
            &loops.tensors,
            target,
        ),
        (Form::Attention { space }, NestKind::Attention { keys, channels, scale, zero_masked, .. }) => {
            Skeleton::Attention {
                space: space.clone(),
                keys: *keys,
                channels: *channels,
                scale: *scale,
                zero_masked: *zero_masked,
                q: operands[0],
                k: operands[1],
                v: operands[2],
                mask: operands.get(3).copied(),
                last_key: operands.get(3).and_then(|&mask| attention::last_key(&body, mask)),
                tile: {
                    let heads = attention::sharing_heads(&body, [operands[1], operands[2]], space[1]);
                    let (keys, channels) = (*keys, *channels);
                    let operands = [operands[0], operands[1], operands[2]];
                    match attention_row::row(space, keys, channels, target) {
                        Some(row) => AttentionTile::Row(row),
                        None => Asked { space, keys, channels, heads, body: &body, operands }.tile(target),
                    }
                },
            }
        }
        (Form::Contract { .. } | Form::Attention { .. }, _) => crate::bug!("an anchor of another kind"),
    };
    let roots: Vec<ExprId> = (stores.iter().map(|it| it.value))
        .chain(stages.iter().map(|it| it.value))
        .chain(operands.iter().copied())
        .chain(own_sums)
        .collect();
    let tensors = kernel_tensors(&body, &roots, &stores);
    let ops = ops(loops, group);
    Kernel {
        name: name(&group.form, &ops),
        place: group.place,
        origins: group.origins(loops),
        ops,
        body,
        skeleton,
        stores,
        tensors,
    }
}

/// What a kernel only reads, then what it writes, each once.
pub fn kernel_tensors(body: &Body, roots: &[ExprId], stores: &[Store]) -> Vec<TensorId> {
    let mut tensors: Vec<TensorId> = Vec::new();
    for (tensor, _) in loads(body, roots) {
        if !tensors.contains(&tensor) && stores.iter().all(|it| it.tensor != tensor) {
            tensors.push(tensor);
        }
    }
    tensors.extend(stores.iter().map(|it| it.tensor));
    tensors
}

/// What was fused: op names in order, each run of nests of one node once.
fn ops(loops: &Loops, group: &Group) -> Vec<&'static str> {
    let mut last: Option<Arc<str>> = None;
    let mut ops: Vec<&'static str> = Vec::new();
    for nest in group.nests() {
        let it = &loops.nests[nest];
        if last.as_ref() != Some(&it.origin) || ops.last() != Some(&it.op) {
            ops.push(it.op);
        }
        last = Some(it.origin.clone());
    }
    ops
}

/// Ops in a kernel's name; more are not told.
const NAMED: usize = 4;

fn name(form: &Form, ops: &[&'static str]) -> String {
    let kind = match form {
        Form::Map { .. } => "map",
        Form::Rows { .. } => "rows",
        Form::Contract { .. } => "product",
        Form::Attention { .. } => "attention",
    };
    named(kind, ops)
}

/// The name of a kernel of this kind.
pub fn named(kind: &str, ops: &[&'static str]) -> String {
    let mut told: Vec<&str> = ops.iter().copied().take(NAMED).collect();
    if ops.len() > NAMED {
        told.push("etc");
    }
    format!("{kind}_{}", told.join("_"))
}
