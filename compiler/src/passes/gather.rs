//! Reads at places that are known: views.

use smallvec::smallvec;

use super::rewrite::{Better, Licence::Exact, Rule, Site};
use crate::{
    graph::{Graph, Op, Places, Steps, Value},
    shape::{Axes, Shape},
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "gather-range",
        about: "gather x [3, 4, 5] => slice x",
        licence: Exact,
        roots: &["gather"],
        apply: gather_range,
    },
    Rule {
        name: "gather-cast",
        about: "gather (cast x) i => cast (gather x i)",
        licence: Exact,
        roots: &["gather"],
        apply: gather_cast,
    },
    Rule {
        name: "gather-nd-grid",
        about: "Every coordinate follows one axis of the indices in equal steps, or none",
        licence: Exact,
        roots: &["gather_nd"],
        apply: gather_nd_grid,
    },
];

/// Indices of more elements are not searched.
const SEARCHED: usize = 1 << 17;

/// The values of constant indices into an axis of `size`, if all lie inside. Negative ones count from the end.
fn places(graph: &Graph, indices: Value, size: impl Fn(usize) -> usize) -> Option<Vec<i64>> {
    let tensor = graph.known(indices)?;
    if tensor.shape().count() > SEARCHED {
        return None;
    }
    let place = |(at, it): (usize, i64)| {
        let size = i64::try_from(size(at)).ok()?;
        let it = if it < 0 { it + size } else { it };
        (0..size).contains(&it).then_some(it)
    };
    tensor.to_i64().into_iter().enumerate().map(place).collect()
}

fn gather_range(site: &mut Site, value: Value) -> Better {
    let Op::Gather { axis, x, indices } = *site.graph.op(value) else { return Ok(None) };
    let from = site.graph.ty(x).shape.clone();
    let Some(places) = places(site.graph, indices, |_| from[axis]) else { return Ok(None) };
    let (Some(&first), step) = (places.first(), places.get(1).map_or(1, |it| it - places[0])) else {
        return Ok(None);
    };
    if step == 0 || places.windows(2).any(|it| it[1] - it[0] != step) {
        return Ok(None);
    }
    let shape = site.graph.ty(value).shape.clone();
    let mut starts: Places = smallvec![0; from.rank()];
    let mut steps: Steps = smallvec![1; from.rank()];
    let mut sizes = from.clone();
    (starts[axis], steps[axis], sizes.0[axis]) = (first as usize, step, places.len());
    let x = site.add(Op::Slice { starts, sizes, steps, x })?;
    site.add(Op::Reshape { shape, x }).map(Some)
}

/// Of a table that is kept in halves only what is read is widened.
fn gather_cast(site: &mut Site, value: Value) -> Better {
    let Op::Gather { axis, x, indices } = *site.graph.op(value) else { return Ok(None) };
    let Op::Cast { to, x: table } = *site.graph.op(x) else { return Ok(None) };
    let from = site.graph.ty(table);
    let widens = from.dtype.is_float() && to.is_float() && from.dtype.size() < to.size();
    if !widens || site.uses(x) > 1 || site.graph.ty(value).shape.count() >= from.shape.count() {
        return Ok(None);
    }
    let x = site.add(Op::Gather { axis, x: table, indices })?;
    site.add(Op::Cast { to, x }).map(Some)
}

/// How one coordinate depends on the place in the result: `start + step * place[axis]`.
struct Walk {
    start: usize,
    /// `None` if it is the same everywhere.
    along: Option<(usize, i64)>,
}

fn gather_nd_grid(site: &mut Site, value: Value) -> Better {
    let Op::GatherNd { batch: 0, x, indices } = *site.graph.op(value) else { return Ok(None) };
    let from = site.graph.ty(x).shape.clone();
    let shape = site.graph.ty(indices).shape.clone();
    let Some((&width, outer)) = shape.split_last() else { return Ok(None) };
    if width == 0 || outer.contains(&0) {
        return Ok(None);
    }
    let Some(places) = places(site.graph, indices, |at| from[at % width]) else { return Ok(None) };
    let Some(walks) = (0..width).map(|it| walk(&places, outer, width, it)).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let mut taken: Axes = walks.iter().filter_map(|it| Some(it.along?.0)).collect();
    taken.sort_unstable();
    if taken.windows(2).any(|it| it[0] == it[1]) {
        return Ok(None);
    }

    // Cut out what the coordinates reach, order its axes as the result has them, give those that no coordinate follows
    // one element, and repeat it along them.
    let mut starts: Places = smallvec![0; from.rank()];
    let mut steps: Steps = smallvec![1; from.rank()];
    let mut sizes = from.clone();
    for (axis, walk) in walks.iter().enumerate() {
        starts[axis] = walk.start;
        steps[axis] = walk.along.map_or(1, |it| it.1);
        sizes.0[axis] = walk.along.map_or(1, |it| outer[it.0]);
    }
    let mut order: Axes = (0..width).collect();
    order.sort_by_key(|&it| walks[it].along.map(|it| it.0));
    order.extend(width..from.rank());
    let rest = &from[width..];
    let held = (0..outer.len()).map(|it| if taken.contains(&it) { outer[it] } else { 1 });
    let narrow: Shape = held.chain(rest.iter().copied()).collect();
    let shape = site.graph.ty(value).shape.clone();
    let x = site.add(Op::Slice { starts, sizes, steps, x })?;
    let x = site.add(Op::Permute { order, x })?;
    let x = site.add(Op::Reshape { shape: narrow, x })?;
    site.add(Op::Expand { shape, x }).map(Some)
}

/// How coordinate number `which` of `width` runs over a result of shape `outer`, if in equal steps along one axis.
fn walk(places: &[i64], outer: &[usize], width: usize, which: usize) -> Option<Walk> {
    let strides = Shape::from(outer).strides();
    let at = |place: usize| places[place * width + which];
    let start = at(0);
    let mut steps =
        (0..outer.len()).filter(|&axis| outer[axis] > 1).map(|axis| (axis, at(strides[axis]) - start));
    let along = steps.find(|it| it.1 != 0);
    let expected = |place: usize| match along {
        Some((axis, step)) => start + step * (place / strides[axis] % outer[axis]) as i64,
        None => start,
    };
    let count = outer.iter().product();
    (0..count).all(|it| at(it) == expected(it)).then_some(Walk { start: start as usize, along })
}
