//! Slices, concatenations and stacks that undo each other, or that are one.

use smallvec::SmallVec;

use super::rewrite::{Better, Licence::Exact, Rule, Site};
use crate::{
    graph::{Graph, Op, Places, Steps, Value},
    shape::{Axes, Shape},
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "slice-concat",
        about: "A slice of a concatenation that lies within one part",
        licence: Exact,
        roots: &["slice"],
        apply: slice_concat,
    },
    Rule {
        name: "concat-nothing",
        about: "Parts without elements, and concatenations of one part",
        licence: Exact,
        roots: &["concat"],
        apply: concat_nothing,
    },
    Rule {
        name: "concat-concat",
        about: "concat .. (concat x y) .. along the same axis => concat .. x y ..",
        licence: Exact,
        roots: &["concat"],
        apply: concat_concat,
    },
    Rule {
        name: "concat-slices",
        about: "concat of slices that lie one behind the other => one slice",
        licence: Exact,
        roots: &["concat"],
        apply: concat_slices,
    },
    Rule {
        name: "stack-unbind",
        about: "stack along one axis of what was unbound along another => permute of a slice",
        licence: Exact,
        roots: &["concat"],
        apply: stack_unbind,
    },
    Rule {
        name: "slice-parts",
        about: "the only slice of a concatenation, over some of its parts => concatenation of those",
        licence: Exact,
        roots: &["slice"],
        apply: slice_parts,
    },
    Rule {
        name: "concat-repeat",
        about: "concat x x .. along an axis of one element => expand x",
        licence: Exact,
        roots: &["concat"],
        apply: concat_repeat,
    },
];

fn slice_concat(site: &mut Site, value: Value) -> Better {
    let Op::Slice { ref starts, ref sizes, ref steps, x } = *site.graph.op(value) else { return Ok(None) };
    let Op::Concat { axis, ref xs } = *site.graph.op(x) else { return Ok(None) };
    if sizes.contains(&0) {
        return Ok(None);
    }
    let first = starts[axis] as i64;
    let last = first + (sizes[axis] as i64 - 1) * steps[axis];
    let (low, high) = (first.min(last), first.max(last));
    let mut offset = 0;
    for &part in xs {
        let end = offset + site.graph.ty(part).shape[axis] as i64;
        if offset <= low && high < end {
            let (mut starts, sizes, steps) = (starts.clone(), sizes.clone(), steps.clone());
            starts[axis] -= offset as usize;
            return site.add(Op::Slice { starts, sizes, steps, x: part }).map(Some);
        }
        offset = end;
    }
    Ok(None)
}

fn concat_nothing(site: &mut Site, value: Value) -> Better {
    let Op::Concat { axis, ref xs } = *site.graph.op(value) else { return Ok(None) };
    if let [only] = xs[..] {
        return Ok(Some(only));
    }
    let some = |it: &Value| site.graph.ty(*it).shape[axis] > 0;
    let kept: SmallVec<[Value; 4]> = xs.iter().copied().filter(some).collect();
    if kept.len() == xs.len() || kept.is_empty() {
        return Ok(None);
    }
    site.add(Op::Concat { axis, xs: kept }).map(Some)
}

/// Most parts of a concatenation that is made of others: a chain of them is looked at again for each link.
const PARTS: usize = 256;

fn concat_concat(site: &mut Site, value: Value) -> Better {
    let Op::Concat { axis, ref xs } = *site.graph.op(value) else { return Ok(None) };
    // One that something else reads is there anyway.
    let parts = |it: Value| match *site.graph.op(it) {
        Op::Concat { axis: inner, ref xs } if inner == axis && site.uses(it) <= 1 => Some(xs),
        _ => None,
    };
    if xs.iter().all(|it| parts(*it).is_none()) {
        return Ok(None);
    }
    let count: usize = xs.iter().map(|it| parts(*it).map_or(1, |it| it.len())).sum();
    if count > PARTS {
        return Ok(None);
    }
    let mut flat: SmallVec<[Value; 4]> = SmallVec::new();
    for &x in xs {
        match parts(x) {
            Some(inner) => flat.extend(inner.iter().copied()),
            None => flat.push(x),
        }
    }
    site.add(Op::Concat { axis, xs: flat }).map(Some)
}

/// A slice of `x` that takes neighbours along `axis`.
#[derive(Clone, PartialEq)]
struct Run {
    x: Value,
    axis: usize,
    starts: Places,
    sizes: Shape,
    steps: Steps,
}

impl Run {
    fn of(graph: &Graph, value: Value, axis: usize) -> Option<Run> {
        let Op::Slice { ref starts, ref sizes, ref steps, x } = *graph.op(value) else { return None };
        if sizes.contains(&0) || steps[axis] != 1 && sizes[axis] > 1 {
            return None;
        }
        let mut steps = steps.clone();
        steps[axis] = 1;
        Some(Run { x, axis, starts: starts.clone(), sizes: sizes.clone(), steps })
    }

    /// Both as one, if `next` begins where this ends.
    fn with(&self, next: &Run) -> Option<Run> {
        let axis = self.axis;
        let mut whole = self.clone();
        whole.sizes.0[axis] += next.sizes[axis];
        let mut expected = next.clone();
        expected.starts[axis] = self.starts[axis];
        expected.sizes.0[axis] = whole.sizes[axis];
        let behind = next.starts[axis] == self.starts[axis] + self.sizes[axis];
        (behind && expected == whole).then_some(whole)
    }

    fn op(self) -> Op {
        Op::Slice { starts: self.starts, sizes: self.sizes, steps: self.steps, x: self.x }
    }
}

fn concat_slices(site: &mut Site, value: Value) -> Better {
    let Op::Concat { axis, ref xs } = *site.graph.op(value) else { return Ok(None) };
    let mut parts: Vec<(Value, Option<Run>, bool)> = Vec::new();
    for &x in xs {
        let run = Run::of(site.graph, x, axis);
        if let (Some(run), Some((_, last, joined))) = (&run, parts.last_mut())
            && let Some(whole) = last.as_ref().and_then(|it| it.with(run))
        {
            (*last, *joined) = (Some(whole), true);
            continue;
        }
        parts.push((x, run, false));
    }
    if parts.iter().all(|it| !it.2) {
        return Ok(None);
    }
    let mut xs: SmallVec<[Value; 4]> = SmallVec::new();
    for (x, run, joined) in parts {
        xs.push(match run {
            Some(run) if joined => site.add(run.op())?,
            _ => x,
        });
    }
    match xs[..] {
        [only] => Ok(Some(only)),
        _ => site.add(Op::Concat { axis, xs }).map(Some),
    }
}

fn stack_unbind(site: &mut Site, value: Value) -> Better {
    let Op::Concat { axis, ref xs } = *site.graph.op(value) else { return Ok(None) };
    let graph = &*site.graph;
    let rank = graph.ty(value).shape.rank();
    let without = |shape: &Shape, axis: usize| -> Shape {
        shape.iter().enumerate().filter(|it| it.0 != axis).map(|it| *it.1).collect()
    };
    let found = (0..rank).find_map(|from| {
        let piece = |it: &Value| {
            let Op::Reshape { ref shape, x } = *graph.op(*it) else { return None };
            let run = if graph.ty(x).shape.rank() == rank { Run::of(graph, x, from)? } else { return None };
            let one = run.sizes[from] == 1 && shape[axis] == 1;
            (one && without(shape, axis) == without(&run.sizes, from)).then_some(run)
        };
        let (first, rest) = xs.split_first()?;
        let whole = rest.iter().try_fold(piece(first)?, |run, next| run.with(&piece(next)?))?;
        (xs.len() > 1).then_some((from, whole))
    });
    let Some((from, run)) = found else { return Ok(None) };
    let mut order: Axes = (0..rank).filter(|it| *it != from).collect();
    order.insert(axis, from);
    let x = site.add(run.op())?;
    site.add(Op::Permute { order, x }).map(Some)
}

fn slice_parts(site: &mut Site, value: Value) -> Better {
    let Op::Slice { ref starts, ref sizes, ref steps, x } = *site.graph.op(value) else { return Ok(None) };
    let Op::Concat { axis, ref xs } = *site.graph.op(x) else { return Ok(None) };
    if sizes.contains(&0) || steps[axis] != 1 || site.uses(x) > 1 {
        return Ok(None);
    }
    let (first, end) = (starts[axis], starts[axis] + sizes[axis]);
    let mut offset = 0;
    let mut taken: SmallVec<[(Value, usize, usize); 4]> = SmallVec::new();
    for &part in xs {
        let size = site.graph.ty(part).shape[axis];
        let (from, to) = (first.max(offset), end.min(offset + size));
        if from < to {
            taken.push((part, from - offset, to - from));
        }
        offset += size;
    }
    if taken.len() == xs.len() {
        return Ok(None);
    }
    let (starts, sizes, steps) = (starts.clone(), sizes.clone(), steps.clone());
    let mut parts: SmallVec<[Value; 4]> = SmallVec::new();
    for (x, start, size) in taken {
        let (mut starts, mut sizes) = (starts.clone(), sizes.clone());
        (starts[axis], sizes.0[axis]) = (start, size);
        parts.push(site.add(Op::Slice { starts, sizes, steps: steps.clone(), x })?);
    }
    site.add(Op::Concat { axis, xs: parts }).map(Some)
}

fn concat_repeat(site: &mut Site, value: Value) -> Better {
    let Op::Concat { axis, ref xs } = *site.graph.op(value) else { return Ok(None) };
    let Some((&x, rest)) = xs.split_first() else { return Ok(None) };
    if rest.is_empty() || site.graph.ty(x).shape[axis] != 1 || rest.iter().any(|it| *it != x) {
        return Ok(None);
    }
    let shape = site.graph.ty(value).shape.clone();
    site.add(Op::Expand { shape, x }).map(Some)
}
