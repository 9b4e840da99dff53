//! Rows that are scaled by a sum over themselves before a product of few rows: as after the root mean square norm,
//! `sum(x * r * g * w) = r * sum(x * g * w)`, where `r` follows from `sum(x * x)`. The kernel of the product, which reads the
//! rows anyway, makes both sums in one loop and scales its results; the norm is no kernel of its own.
//!
//! In: the operand of a product, with what makes it in sight. Out: the operand without the scale, the scale, and the sums that
//! the scale is computed from. What was rounded to 16 bits before the product no longer is.

use slotmap::SlotMap;

use super::{
    cost,
    expand::{Expanded, loads},
    fuse::Fusion,
    group::{Form, Group, Member},
    kernel::Why,
    product::SHORT_SUM,
    splice::{Read, splice},
};
use crate::{
    index::{Index, delinearise, linearise},
    lower::{Body, Coords, Expr, ExprId, NestKind, TensorId, TensorInfo},
    scalar::{BinaryOp, ReduceOp},
    shape::Shape,
    target::Place,
};

impl Fusion<'_> {
    /// Rows that only products of few rows read, and that are scaled by sums over themselves, are computed in those.
    pub(super) fn scale_products(&mut self) {
        for rows in 0..self.groups.len() {
            let Some(host) = &self.groups[rows] else { continue };
            let wanted = |it: &Member| self.loops.outputs.contains(&it.tensor);
            if !matches!(host.form, Form::Rows { .. })
                || host.place != Place::Gpu
                || host.members.iter().any(wanted)
            {
                continue;
            }
            let readers = self.readers(rows);
            let products = |it: &usize| matches!(self.group(*it).form, Form::Contract { .. });
            if readers.is_empty() || !readers.iter().all(products) {
                continue;
            }
            let products: Vec<(usize, usize)> =
                readers.iter().flat_map(|&it| self.products(it).map(move |nest| (it, nest))).collect();
            let all: Vec<Result<Scaled, Why>> =
                products.iter().map(|&(it, nest)| self.scaled_product(host, self.group(it), nest)).collect();
            if all.iter().all(Result::is_ok) {
                for (&(_, nest), scaled) in products.iter().zip(all.into_iter().flatten()) {
                    let Scaled { body, operands, sums, scale } = scaled;
                    let roots = operands.into_iter().chain(sums).chain([scale]).collect();
                    self.replace(nest, Expanded { body, roots, scaled: true });
                }
                for &reader in &readers {
                    let inlined: Vec<usize> = self.group(rows).nests();
                    self.groups[reader].as_mut().expect("the group stands").inlined.extend(inlined);
                }
                // Nobody reads it any more.
                for member in self.groups[rows].take().expect("the group stands").members {
                    self.group_of.remove(member.tensor);
                }
                continue;
            }
            for (&(_, nest), why) in products.iter().zip(all) {
                if let Err(why) = why {
                    self.refuse(rows, nest, why);
                }
            }
        }
    }

    /// The products of a group.
    fn products(&self, group: usize) -> impl Iterator<Item = usize> {
        let is_product = |it: &usize| matches!(self.loops.nests[*it].kind, NestKind::Contract { .. });
        self.group(group).members.iter().map(|it| it.nest).filter(is_product)
    }

    fn scaled_product(&self, host: &Group, product: &Group, nest: usize) -> Result<Scaled, Why> {
        let it = &self.loops.nests[nest];
        let NestKind::Contract { depth, .. } = &it.kind else { return Err(Why::NoScale) };
        // What follows the product may not read the rows too.
        let follows = |it: &&Member| !matches!(self.loops.nests[it.nest].kind, NestKind::Contract { .. });
        let others = product.members.iter().filter(follows).flat_map(|it| self.loads(it.nest));
        if host.place != product.place || others.into_iter().any(|it| host.member(it.0).is_some()) {
            return Err(Why::ReadElsewhere);
        }
        let rank = it.space.rank();
        let own = &self.expanded[nest];
        let operands = [own.roots[0], own.roots[1]];
        let [by_a, by_b] = operands.map(|it| own.body.variables(it));
        let reads = |root: ExprId| loads(&own.body, &[root]).iter().any(|it| host.member(it.0).is_some());
        let extent = |it: usize| self.loops.nests[nest].space[it];
        let count =
            |of: &dyn Fn(usize) -> bool| (0..rank).filter(|it| of(*it)).map(extent).product::<usize>();
        let (mine, theirs) = if reads(operands[0]) { (&by_a, &by_b) } else { (&by_b, &by_a) };
        let rows = count(&|it| mine.contains(&it));
        let cols = count(&|it| theirs.contains(&it) && !mine.contains(&it));
        if rows > cost::SCALED_ROWS || depth.count() < SHORT_SUM || cols < depth.count() / 8 {
            return Err(Why::Recompute((cols * rows) as u64));
        }
        let mut body = Body::default();
        let mut guarded = false;
        let roots = splice(&mut body, &own.body, &operands, None, None, &mut |out, tensor, at, guard| {
            self.inside(host, out, tensor, at, guard, &mut guarded)
        });
        let sums: Vec<Sum> = (host.members.iter())
            .filter_map(|it| match &self.loops.nests[it.nest].kind {
                NestKind::Reduce { depth, op: ReduceOp::Sum, .. } => {
                    let Expanded { body, roots, .. } = &self.expanded[it.nest];
                    Some(Sum { tensor: it.tensor, depth, body, value: roots[0] })
                }
                _ => None,
            })
            .collect();
        let reads_rows = |it: &Sum| loads(it.body, &[it.value]).iter().any(|it| host.member(it.0).is_some());
        if guarded || sums.iter().any(reads_rows) {
            return Err(Why::NoScale);
        }
        let scaled = scaled(&body, [roots[0], roots[1]], (&it.space, depth), &sums, &self.loops.tensors)?;
        let left = [scaled.operands[0], scaled.operands[1], scaled.scale]
            .into_iter()
            .chain(scaled.sums.iter().copied());
        let left: Vec<ExprId> = left.collect();
        let all = loads(&scaled.body, &left);
        if all.iter().any(|it| host.member(it.0).is_some()) {
            return Err(Why::NoScale);
        }
        let weight = cost::weight(&scaled.body, &scaled.sums);
        if weight > cost::CHEAP_IN_PRODUCT {
            return Err(Why::Recompute(weight));
        }
        let mut bound: Vec<TensorId> = all.into_iter().map(|it| it.0).collect();
        let rest = product.members.iter().filter(|it| it.nest != nest);
        let read = rest.flat_map(|it| self.loads(it.nest)).map(|it| it.0);
        bound.extend(read.filter(|it| host.member(*it).is_none()));
        bound.extend(product.members.iter().map(|it| it.tensor));
        bound.sort_unstable();
        bound.dedup();
        let count = bound.len() as u32;
        if count > self.target.max_storage_buffers { Err(Why::Bindings(count)) } else { Ok(scaled) }
    }

    /// An element of a tensor: computed, where a map of `host` makes it.
    fn inside(
        &self,
        host: &Group,
        out: &mut Body,
        tensor: TensorId,
        at: Coords,
        guard: Option<ExprId>,
        guarded: &mut bool,
    ) -> ExprId {
        let member = host.member(tensor);
        *guarded |= member.is_some() && guard.is_some();
        match member.map(|it| (it.nest, &self.loops.nests[it.nest].kind)) {
            Some((nest, NestKind::Map { .. })) => {
                let Expanded { body, roots, .. } = &self.expanded[nest];
                splice(out, body, &roots[..1], Some(&at), guard, &mut |out, tensor, at, guard| {
                    self.inside(host, out, tensor, at, guard, guarded)
                })[0]
            }
            _ => {
                let dtype = self.loops.tensors[tensor].ty.dtype;
                out.add(Expr::Load { tensor, at, guard }, dtype)
            }
        }
    }
}

/// A product's first factors and what else its kernel computes, all over the product's variables.
#[derive(Debug)]
pub struct Scaled {
    pub body: Body,
    /// In their order. The one that was scaled is so no more.
    pub operands: [ExprId; 2],
    /// Values whose sums over the depth are `Param(1)` and so on.
    pub sums: Vec<ExprId>,
    /// What the product is multiplied by, a function of those `Param`s.
    pub scale: ExprId,
}

/// A sum that an operand reads: its tensor, and how its terms follow from the point of the result and of the depth.
pub struct Sum<'a> {
    pub tensor: TensorId,
    pub depth: &'a Shape,
    pub body: &'a Body,
    pub value: ExprId,
}

/// `body` has the operands `[a, b]` over the variables of `space` and then `depth`, in which sums are read and everything else
/// that stands between a sum and an operand is computed.
pub fn scaled(
    body: &Body,
    operands: [ExprId; 2],
    (space, depth): (&Shape, &Shape),
    sums: &[Sum],
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Result<Scaled, Why> {
    let sum_of = |tensor: TensorId| sums.iter().find(|it| it.tensor == tensor);
    let mut to = Body::default();
    // The same expressions once more, where products are split.
    let [a, b] = operands.map(|it| whole(&mut to, body, it, tensors));
    let reads = |to: &Body, root: ExprId| -> Vec<(TensorId, Coords)> {
        let all = loads(to, &[root]);
        all.into_iter().filter(|it| sum_of(it.0).is_some()).collect()
    };
    let (which, operand) = match (reads(&to, a).is_empty(), reads(&to, b).is_empty()) {
        (false, true) => (0, a),
        (true, false) => (1, b),
        (true, true) | (false, false) => return Err(Why::NoScale),
    };
    let first = space.rank();
    let (scale, rest) = split(&mut to, operand, first);
    let (Some(scale), Some(rest)) = (scale, rest) else { return Err(Why::NoScale) };
    if !reads(&to, rest).is_empty() {
        return Err(Why::NoScale);
    }
    let dtype = body.dtype(operands[0]);
    let rest = to.cast(dtype, rest);
    // Each sum at the places where the scale reads it.
    let mut known: Vec<((TensorId, Coords), ExprId)> = Vec::new();
    let along: Coords =
        depth.iter().enumerate().map(|(axis, &extent)| Index::var(first + axis, extent)).collect();
    for (tensor, at) in reads(&to, scale) {
        let sum = sum_of(tensor).expect("one of them");
        if sum.depth.count() != depth.count() {
            return Err(Why::NoScale);
        }
        let inner = delinearise(&linearise(&along, depth), sum.depth);
        let point: Vec<Index> = at.iter().cloned().chain(inner).collect();
        let value = splice(&mut to, sum.body, &[sum.value], Some(&point), None, &mut plain(tensors))[0];
        known.push(((tensor, at), value));
    }
    let numbered =
        |tensor: TensorId, at: &Coords| known.iter().position(|it| it.0.0 == tensor && it.0.1 == *at);
    let from = to.clone();
    let scale = splice(&mut to, &from, &[scale], None, None, &mut |out, tensor, at, guard| {
        let dtype = tensors[tensor].ty.dtype;
        match numbered(tensor, &at) {
            Some(number) => out.add(Expr::Param(1 + number as u32), dtype),
            None => out.add(Expr::Load { tensor, at, guard }, dtype),
        }
    })[0];
    let scale = to.cast(dtype, scale);
    let operands = if which == 0 { [rest, b] } else { [a, rest] };
    Ok(Scaled { operands, sums: known.into_iter().map(|it| it.1).collect(), scale, body: to })
}

fn plain(tensors: &SlotMap<TensorId, TensorInfo>) -> Box<Read<'_>> {
    Box::new(|out, tensor, at, guard| out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype))
}

fn whole(to: &mut Body, from: &Body, root: ExprId, tensors: &SlotMap<TensorId, TensorInfo>) -> ExprId {
    splice(to, from, &[root], None, None, &mut plain(tensors))[0]
}

/// `value` as a product of what does not change with variables `first..` and of the rest; `None` for 1.
fn split(body: &mut Body, value: ExprId, first: usize) -> (Option<ExprId>, Option<ExprId>) {
    let changes = |it: ExprId| body.variables(it).range(first..).next().is_some();
    if !changes(value) {
        return (Some(value), None);
    }
    match body.expr(value).clone() {
        Expr::Binary(BinaryOp::Mul, x, y) => {
            let ((x_scale, x), (y_scale, y)) = (split(body, x, first), split(body, y, first));
            (product(body, x_scale, y_scale), product(body, x, y))
        }
        Expr::Binary(BinaryOp::Div, x, y) if !changes(y) => {
            let (scale, x) = split(body, x, first);
            let one = body.constant(body.dtype(y), 1.0);
            let scale = scale.unwrap_or(one);
            let dtype = body.dtype(y);
            let scale = body.cast(dtype, scale);
            (Some(body.binary(BinaryOp::Div, scale, y)), x)
        }
        // Wider than the types that are rounded to.
        Expr::Cast(x) if body.dtype(x).is_float() && body.dtype(value).is_float() => {
            match split(body, x, first) {
                (Some(scale), rest) => (Some(scale), rest),
                (None, _) => (None, Some(value)),
            }
        }
        _ => (None, Some(value)),
    }
}

/// In the wider of their types.
fn product(body: &mut Body, x: Option<ExprId>, y: Option<ExprId>) -> Option<ExprId> {
    match (x, y) {
        (Some(x), Some(y)) => {
            let dtype =
                if body.dtype(x).size() >= body.dtype(y).size() { body.dtype(x) } else { body.dtype(y) };
            let (x, y) = (body.cast(dtype, x), body.cast(dtype, y));
            Some(body.binary(BinaryOp::Mul, x, y))
        }
        (x, y) => x.or(y),
    }
}
