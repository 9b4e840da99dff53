//! In which order the axes of intermediate images lie in memory.
//!
//! In: loops. Out: the same loops, in which some tensors have their axes in another order: the tensor's shape, the space of
//! the nest that writes it and the coordinates of everything that reads it change together, so that everything after sees
//! tensors in the order of their axes, as always. Inputs, constants and outputs stay as they are, and so does what the
//! processor touches.
//!
//! A convolution by a window sums over the channels of its image: next to each other in memory they are read as vectors under
//! one guard, and what is computed for one of them serves all. So its image has its channels last, and so has everything in
//! the same chain: what is read at its own points, pooled, or convolved without a window.

use slotmap::SecondaryMap;
use smallvec::SmallVec;

use super::splice::splice;
use crate::{
    index::{Atom, Index},
    lower::{Body, Coords, Expr, ExprId, Loops, Nest, NestKind, TensorId},
    shape::Shape,
    target::Place,
};

/// For each place in memory, outermost first, the axis that lies there.
type Order = SmallVec<[usize; 4]>;

/// Vectors are of this many elements: an order that gives no whole ones is not worth a change.
const VECTOR: usize = 4;

pub fn laid_out(loops: Loops) -> Loops {
    let orders = orders(&loops);
    if orders.is_empty() { loops } else { reordered(loops, &orders) }
}

/// The tensors whose axes change their order.
fn orders(loops: &Loops) -> SecondaryMap<TensorId, Order> {
    let free = free(loops);
    let accesses: Vec<(TensorId, Access)> =
        loops.nests.iter().flat_map(|nest| of_nest(nest, &free)).collect();
    let mut orders: SecondaryMap<TensorId, Order> = SecondaryMap::new();
    let mut open: Vec<(TensorId, Order)> = Vec::new();
    for (_, access) in accesses.iter().filter(|it| it.1.window) {
        if let Some(last) = access.axes.iter().position(|it| it.is_channel()) {
            let rest = (0..access.axes.len()).filter(|&it| it != last);
            open.push((access.read, rest.chain([last]).collect()));
        }
    }
    open.reverse();
    while let Some((tensor, order)) = open.pop() {
        let shape = &loops.tensors[tensor].ty.shape;
        if !free.contains_key(tensor) || orders.contains_key(tensor) || !is_worth(&order, shape) {
            continue;
        }
        for (written, access) in &accesses {
            if access.read == tensor
                && let Some(own) = access.order_of_written(&order)
            {
                open.push((*written, own));
            }
            if *written == tensor {
                open.push((access.read, access.order_of_read(&order)));
            }
        }
        orders.insert(tensor, order);
    }
    orders
}

/// Whether memory changes, and what then lies innermost makes whole vectors.
fn is_worth(order: &Order, shape: &Shape) -> bool {
    let after = order.iter().position(|&it| it + 1 == order.len()).map_or(0, |it| it + 1);
    let moved: usize = order[after..].iter().map(|&axis| shape[axis]).product();
    after < order.len() && moved > 1 && moved.is_multiple_of(VECTOR)
}

/// Tensors that kernels of the GPU alone write and read, and that nobody else sees.
fn free(loops: &Loops) -> SecondaryMap<TensorId, ()> {
    let mut free: SecondaryMap<TensorId, ()> = SecondaryMap::new();
    for (nest, place) in loops.nests.iter().zip(&loops.places) {
        if *place == Place::Gpu && loops.tensors[nest.tensor].ty.shape.rank() >= 3 {
            free.insert(nest.tensor, ());
        }
        // Attention numbers its variables by their meaning.
        if *place != Place::Gpu || matches!(nest.kind, NestKind::Attention { .. }) {
            reads(&nest.body, &nest.kind.roots(), &mut |tensor, _| {
                free.remove(tensor);
            });
        }
    }
    for nest in loops.nests.iter().filter(|it| matches!(it.kind, NestKind::Attention { .. })) {
        free.remove(nest.tensor);
    }
    for output in &loops.outputs {
        free.remove(*output);
    }
    free
}

/// How a nest reads a tensor.
struct Access {
    read: TensorId,
    /// One an axis of the tensor.
    axes: Vec<Axis>,
    /// Extents of the nest's space.
    space: Shape,
    product: bool,
    /// The product is a convolution by a window, which sums over whole vectors of channels.
    window: bool,
}

/// What a coordinate moves with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Fixed,
    /// One variable of the space, and maybe variables that are summed over.
    Var(usize),
    /// Only variables that are summed over.
    Summed,
    /// Variables that are summed over, and one of the space with which both factors move: channels of groups.
    Grouped(usize),
}

impl Axis {
    fn var(self) -> Option<usize> {
        match self {
            Axis::Var(it) | Axis::Grouped(it) => Some(it),
            Axis::Fixed | Axis::Summed => None,
        }
    }

    fn is_channel(self) -> bool {
        matches!(self, Axis::Summed | Axis::Grouped(_))
    }
}

/// The reads of free tensors of which each axis moves with one variable at most.
fn of_nest(nest: &Nest, free: &SecondaryMap<TensorId, ()>) -> Vec<(TensorId, Access)> {
    let rank = nest.space.rank();
    let extents = nest.extents();
    let roots = nest.kind.roots();
    let product = matches!(nest.kind, NestKind::Contract { .. });
    let shared: Vec<bool> = match product {
        true => (0..rank).map(|var| roots.iter().all(|&it| moves_with(&nest.body, it, var))).collect(),
        false => vec![false; rank],
    };
    let mut found: Vec<(TensorId, Access)> = Vec::new();
    reads(&nest.body, &roots, &mut |read, at| {
        if !free.contains_key(read) || found.iter().any(|it| it.1.read == read) {
            return;
        }
        let (mut window, mut vectors) = (false, false);
        let axis = |index: &Index| {
            let (mut var, mut summed, mut known) = (None, None, true);
            index.leaves(&mut |leaf| match leaf {
                Atom::Var { axis, .. } if *axis as usize >= rank => summed = Some(*axis as usize),
                Atom::Var { axis, .. } => {
                    let axis = *axis as usize;
                    known &= var.is_none_or(|it| it == axis);
                    var = Some(axis);
                }
                Atom::Data { .. } | Atom::Div(..) | Atom::Mod(..) => known = false,
            });
            let axis = match (var, summed) {
                (None, None) => Axis::Fixed,
                (None, Some(_)) => Axis::Summed,
                (Some(var), Some(_)) if shared[var] => Axis::Grouped(var),
                (Some(var), _) => Axis::Var(var),
            };
            window |= matches!(axis, Axis::Var(_)) && summed.is_some();
            vectors |= axis.is_channel() && summed.is_some_and(|it| extents[it].is_multiple_of(VECTOR));
            known.then_some(axis)
        };
        if let Some(axes) = at.iter().map(axis).collect::<Option<Vec<_>>>() {
            let window = product && window && vectors;
            found.push((nest.tensor, Access { read, axes, space: nest.space.clone(), product, window }));
        }
    });
    found
}

impl Access {
    /// The order of the written tensor's axes, where that read has `order`: as in what is read; what else a product's results
    /// move with comes last.
    fn order_of_written(&self, order: &Order) -> Option<Order> {
        let place = |var: usize| order.iter().position(|&axis| self.axes[axis].var() == Some(var));
        let mut all: Vec<(usize, usize)> = Vec::new();
        for (var, &extent) in self.space.iter().enumerate() {
            match place(var) {
                Some(it) => all.push((it, var)),
                None if extent == 1 => all.push((0, var)),
                None if self.product => all.push((usize::MAX, var)),
                None => return None,
            }
        }
        all.sort_unstable();
        Some(all.into_iter().map(|it| it.1).collect())
    }

    /// The order of the read tensor's axes, where that written has `order`: what is summed over comes last.
    fn order_of_read(&self, order: &Order) -> Order {
        let place = |axis: usize| match self.axes[axis] {
            Axis::Var(var) | Axis::Grouped(var) => order.iter().position(|&it| it == var).unwrap_or(0),
            Axis::Fixed => 0,
            Axis::Summed => usize::MAX,
        };
        let mut all: Order = (0..self.axes.len()).collect();
        all.sort_by_key(|&axis| place(axis));
        all
    }
}

fn moves_with(body: &Body, root: ExprId, var: usize) -> bool {
    let mut found = false;
    reads(body, &[root], &mut |_, at| found |= at.iter().any(|it| it.moves_with(var)));
    found
}

fn reads(body: &Body, roots: &[ExprId], see: &mut dyn FnMut(TensorId, &[Index])) {
    let needed = body.needed(roots.iter().copied());
    for (id, expr, _) in body.iter() {
        if let Expr::Load { tensor, at, .. } = expr
            && needed[id.0 as usize]
        {
            see(*tensor, at);
        }
    }
}

fn reordered(loops: Loops, orders: &SecondaryMap<TensorId, Order>) -> Loops {
    let Loops { mut tensors, nests, outputs, places, states } = loops;
    let moved = |order: &Order, from: &[usize]| -> Shape { order.iter().map(|&it| from[it]).collect() };
    let nests = nests.into_iter().map(|nest| {
        let depth = depth_order(&nest, orders);
        let own: Order = match orders.get(nest.tensor) {
            Some(order) => order.clone(),
            None => (0..nest.space.rank()).collect(),
        };
        let rank = own.len();
        let extents = nest.extents();
        let places = own.iter().copied().chain(depth.iter().map(|it| rank + it));
        let mut point: Vec<Index> = extents.iter().map(|_| Index::constant(0)).collect();
        places.enumerate().for_each(|(place, var)| point[var] = Index::var(place, extents[var]));
        let (mut body, roots) = (Body::default(), nest.kind.roots());
        let read = &mut |out: &mut Body, tensor: TensorId, at: Coords, guard| {
            let at = match orders.get(tensor) {
                Some(order) => order.iter().map(|&axis| at[axis].clone()).collect(),
                None => at,
            };
            out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
        };
        let made = splice(&mut body, &nest.body, &roots, Some(&point), None, read);
        let kind = match nest.kind {
            NestKind::Map { .. } => NestKind::Map { value: made[0] },
            NestKind::Reduce { depth, op, .. } => NestKind::Reduce { depth, op, value: made[0] },
            NestKind::Contract { depth: from, .. } => {
                NestKind::Contract { depth: moved(&depth, &from), a: made[0], b: made[1] }
            }
            NestKind::Attention { keys, channels, scale, zero_masked, .. } => NestKind::Attention {
                keys,
                channels,
                scale,
                zero_masked,
                q: made[0],
                k: made[1],
                v: made[2],
                mask: made.get(3).copied(),
            },
        };
        Nest { space: moved(&own, &nest.space), body, kind, ..nest }
    });
    let nests: Vec<Nest> = nests.collect();
    for (tensor, order) in orders {
        tensors[tensor].ty.shape = moved(order, &tensors[tensor].ty.shape);
    }
    Loops { tensors, nests, outputs, places, states }
}

/// The order of what a nest sums over: in a product, as it lies in the memory of what has changed its order.
fn depth_order(nest: &Nest, orders: &SecondaryMap<TensorId, Order>) -> Order {
    let rank = nest.space.rank();
    let mut all: Order = (0..nest.extents().len() - rank).collect();
    if !matches!(nest.kind, NestKind::Contract { .. }) {
        return all;
    }
    let mut found = false;
    reads(&nest.body, &nest.kind.roots(), &mut |tensor, at| {
        let Some(order) = orders.get(tensor) else { return };
        if std::mem::replace(&mut found, true) {
            return;
        }
        all.sort_by_key(|&var| order.iter().position(|&axis| at[axis].moves_with(rank + var)));
    });
    all
}
