//! Classical learners: ensembles of trees, counts of n-grams.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::{emit::Emit, strings::Strings},
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// Trees are walked level by level, by some ten nodes each.
const MAX_DEPTH: usize = 1024;
/// The most nodes and leaves of all trees.
const MAX_TREES: usize = 1 << 24;
/// The most n-grams, each of them compared at each place.
const MAX_GRAMS: usize = 1 << 20;

/// How a node of a tree compares, by its number in the file.
const COMPARISONS: [Option<BinaryOp>; 7] = [
    Some(BinaryOp::Le),
    Some(BinaryOp::Lt),
    Some(BinaryOp::Ge),
    Some(BinaryOp::Gt),
    Some(BinaryOp::Eq),
    Some(BinaryOp::Ne),
    // A member of a set.
    None,
];

/// Nodes of all trees first, then leaves, which lead to themselves.
struct Forest {
    modes: Vec<usize>,
    splits: Vec<f64>,
    features: Vec<i64>,
    missing: Vec<i64>,
    /// Where it goes on if the comparison holds, and if not.
    ways: [Vec<i64>; 2],
    /// The set of each node, all of one size; unused places hold NaN.
    members: Vec<Vec<f64>>,
    roots: Vec<i64>,
    depth: usize,
}

fn forest(n: &Node, width: usize) -> Result<Forest, Error> {
    let ints = |name: &str| -> Result<Vec<i64>, Error> {
        let found = n.ints(name)?.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))?;
        Ok(found.to_vec())
    };
    let floats =
        |name: &str| -> Result<Vec<f64>, Error> { Ok(n.tensor(name)?.map_or(vec![], |it| it.to_f64())) };
    let mut modes: Vec<usize> =
        n.tensor("nodes_modes")?.map_or(vec![], |it| it.to_i64().into_iter().map(|it| it as usize).collect());
    let (mut splits, mut features) = (floats("nodes_splits")?, ints("nodes_featureids")?);
    let (yes, no) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
    let (yes_leaf, no_leaf) = (ints("nodes_trueleafs")?, ints("nodes_falseleafs")?);
    let nodes = modes.len();
    let mut missing = match n.ints("nodes_missing_value_tracks_true")? {
        Some(it) if !it.is_empty() => it.to_vec(),
        _ => vec![0; nodes],
    };
    n.attribute("nodes_hitrates");
    let lengths =
        [splits.len(), features.len(), yes.len(), no.len(), yes_leaf.len(), no_leaf.len(), missing.len()];
    let leaves = floats("leaf_weights")?.len();
    if lengths.iter().any(|&it| it != nodes) || nodes == 0 || leaves == 0 || nodes + leaves > MAX_TREES {
        return Err(n.error(format!("{nodes} nodes, {leaves} leaves, attributes of lengths {lengths:?}")));
    }
    let way = |to: &[i64], leaf: &[i64]| -> Result<Vec<i64>, Error> {
        (0..nodes + leaves)
            .map(|at| {
                let (to, base, count) = match (to.get(at), leaf.get(at)) {
                    (Some(&to), Some(0)) => (to, 0, nodes),
                    (Some(&to), _) => (to, nodes, leaves),
                    _ => return Ok(at as i64),
                };
                let inside = usize::try_from(to).is_ok_and(|it| it < count);
                inside.then_some(to + base as i64).ok_or_else(|| n.error(format!("node {at} leads to {to}")))
            })
            .collect()
    };
    let ways = [way(&yes, &yes_leaf)?, way(&no, &no_leaf)?];
    let mut sets = floats("membership_values")?.into_iter();
    let mut members = Vec::with_capacity(nodes);
    for &mode in &modes {
        let set = match COMPARISONS.get(mode) {
            Some(Some(_)) => vec![],
            Some(None) => sets.by_ref().take_while(|it| !it.is_nan()).collect(),
            None => return Err(n.error(format!("a node of mode {mode}"))),
        };
        members.push(set);
    }
    let most = members.iter().map(Vec::len).max().unwrap_or(0);
    if most.saturating_mul(nodes + leaves) > MAX_TREES {
        return Err(n.unsupported(format!("sets of {most} members for {nodes} nodes")));
    }
    members.resize(nodes + leaves, vec![]);
    members.iter_mut().for_each(|it| it.resize(most, f64::NAN));
    if features.iter().any(|it| !usize::try_from(*it).is_ok_and(|it| it < width)) {
        return Err(n.error(format!("a feature beyond the {width} that there are")));
    }
    let roots = ints("tree_roots")?;
    if roots.is_empty() || roots.iter().any(|it| !usize::try_from(*it).is_ok_and(|it| it < nodes)) {
        return Err(n.error(format!("roots beyond the {nodes} nodes")));
    }
    modes.resize(nodes + leaves, 0);
    splits.resize(nodes + leaves, 0.0);
    features.resize(nodes + leaves, 0);
    missing.resize(nodes + leaves, 0);
    // Level by level; in a circle there would be more levels than nodes.
    let (mut level, mut depth) = (roots.clone(), 0);
    while level.iter().any(|it| (*it as usize) < nodes) {
        depth += 1;
        if depth > MAX_DEPTH.min(nodes) {
            return Err(n.unsupported(format!("trees deeper than {MAX_DEPTH}, or in circles")));
        }
        let next = level.iter().filter(|it| (**it as usize) < nodes);
        let mut next: Vec<i64> = next.flat_map(|&it| [ways[0][it as usize], ways[1][it as usize]]).collect();
        next.sort_unstable();
        next.dedup();
        level = next;
    }
    Ok(Forest { modes, splits, features, missing, ways, members, roots, depth })
}

/// All trees walked at once, by as many steps as the deepest is deep. x [n, features]: [n, targets].
pub fn tree_ensemble(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (shape, dtype) = (e.shape(x), e.dtype(x));
    let [rows, width] = shape[..] else { return Err(n.error(format!("{shape} is no table"))) };
    let Forest { modes, splits, features, missing, ways, members, roots, depth } = forest(n, width)?;
    let (all, trees) = (modes.len(), roots.len());
    let weights = n.tensor("leaf_weights")?.map_or(vec![], |it| it.to_f64());
    let ids = n.ints("leaf_targetids")?.unwrap_or_default().to_vec();
    let targets = n.size(n.opt_int("n_targets")?.unwrap_or(1))?;
    if ids.len() != weights.len() || ids.iter().any(|it| !usize::try_from(*it).is_ok_and(|it| it < targets)) {
        return Err(n.error(format!("{} leaves for {targets} targets", weights.len())));
    }
    let nodes = all - weights.len();
    let whole = |e: &mut Emit, values: &[i64]| {
        let values = values.iter().map(|&it| Scalar::Int(it));
        e.constant(Tensor::from_scalars(Type::new(DType::I32, [values.len()]), values))
    };
    let real = |e: &mut Emit, values: &[f64]| e.floats(dtype, values);
    let read = |e: &mut Emit, x: Value, indices: Value| e.add(Op::Gather { axis: 0, x, indices });
    let (splits, features) = (real(e, &splits), whole(e, &features));
    let ways = [whole(e, &ways[0]), whole(e, &ways[1])];
    let used = |mode: usize| modes[..nodes].contains(&mode);
    let kinds = whole(e, &modes.iter().map(|&it| it as i64).collect::<Vec<_>>());
    let tracks = missing.contains(&1).then(|| whole(e, &missing));
    let most = members.first().map_or(0, Vec::len);
    let sets = real(e, &members.concat());
    let sets = e.reshape(sets, [all, most])?;
    let state = whole(e, &roots);
    let state = e.reshape(state, [1, trees])?;
    let mut state = e.expand(state, [rows, trees])?;
    for _ in 0..depth {
        let feature = read(e, features, state)?;
        let own = e.add(Op::GatherElements { axis: 1, x, indices: feature })?;
        let (split, kind) = (read(e, splits, state)?, read(e, kinds, state)?);
        let mut holds = None;
        for (mode, comparison) in COMPARISONS.iter().enumerate().filter(|it| used(it.0)) {
            let one = match comparison {
                Some(op) => e.binary(*op, own, split)?,
                None if most == 0 => e.scalar(DType::Bool, 0.0),
                None => {
                    let set = read(e, sets, state)?;
                    let own = e.reshape(own, [rows, trees, 1])?;
                    let hit = e.binary(BinaryOp::Eq, set, own)?;
                    e.reduce(ReduceOp::Max, hit, &[2].into_iter().collect(), false)?
                }
            };
            holds = Some(match holds {
                None => one,
                Some(holds) => {
                    let mine = e.with(BinaryOp::Eq, kind, mode as f64)?;
                    e.select(mine, one, holds)?
                }
            });
        }
        let mut holds = holds.ok_or_else(|| n.error("the trees have no nodes"))?;
        if let Some(tracks) = tracks {
            let tracks = read(e, tracks, state)?;
            let (tracks, missing) = (e.cast(tracks, DType::Bool)?, e.unary(UnaryOp::IsNan, own)?);
            let along = e.binary(BinaryOp::And, tracks, missing)?;
            holds = e.binary(BinaryOp::Or, holds, along)?;
        }
        let (yes, no) = (read(e, ways[0], state)?, read(e, ways[1], state)?);
        state = e.select(holds, yes, no)?;
    }
    let leaf = e.with(BinaryOp::Sub, state, nodes as f64)?;
    let leaf = e.with(BinaryOp::Max, leaf, 0.0)?;
    let (weights, ids) = (real(e, &weights), whole(e, &ids));
    let (weight, id) = (read(e, weights, leaf)?, read(e, ids, leaf)?);
    let (weight, id) = (e.reshape(weight, [rows, trees, 1])?, e.reshape(id, [rows, trees, 1])?);
    let own = e.iota(DType::I32, targets, 2, 3)?;
    let hit = e.binary(BinaryOp::Eq, id, own)?;
    // Of a target without leaves: what is left of the start.
    let greatest =
        Scalar::of(DType::F64, if dtype == DType::F64 { f64::MAX } else { f32::MAX as f64 }).as_f64();
    let (op, start) = match n.int("aggregate_function", 1)? {
        0 | 1 => (ReduceOp::Sum, 0.0),
        2 => (ReduceOp::Min, greatest),
        3 => (ReduceOp::Max, -greatest),
        other => return Err(n.error(format!("aggregate_function {other}"))),
    };
    let start = e.scalar(dtype, start);
    let terms = e.select(hit, weight, start)?;
    let mut y = e.reduce(op, terms, &[1].into_iter().collect(), false)?;
    if n.int("aggregate_function", 1)? == 0 {
        y = e.with(BinaryOp::Div, y, trees as f64)?;
    }
    match n.int("post_transform", 0)? {
        0 => Ok(y),
        1 => e.add(Op::Softmax { axis: 1, log: false, x: y }),
        2 => e.unary(UnaryOp::Sigmoid, y),
        other => Err(n.unsupported(format!("post_transform {other}"))),
    }
}

/// How often each n-gram of a pool stands in each row. Every n-gram is compared at every place, where a table of them would
/// be asked once a place.
pub fn tf_idf(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let shape = e.shape(x);
    let (rows, length) = match shape[..] {
        [length] => (1, length),
        [rows, length] => (rows, length),
        _ => return Err(n.error(format!("{shape} is neither a row nor rows"))),
    };
    let ints = |name: &str| n.ints(name)?.ok_or_else(|| n.error(format!("attribute '{name}' is missing")));
    let stated = |name: &str| -> Result<usize, Error> {
        n.size(n.opt_int(name)?.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))?)
    };
    let pool: Vec<i64> = match n.is_strings(0) {
        true => {
            let words = n.texts("pool_strings")?;
            let words = words.ok_or_else(|| n.error("attribute 'pool_strings' is missing"))?;
            let strings = Strings::new([words.len()], words);
            n.numbers(&strings.ok_or_else(|| n.error("the pool is too large"))?)?.to_i64()
        }
        false => ints("pool_int64s")?.to_vec(),
    };
    let (starts, columns) = (ints("ngram_counts")?, ints("ngram_indexes")?);
    let (shortest, longest) = (stated("min_gram_length")?, stated("max_gram_length")?);
    let skips = stated("max_skip_count")?;
    if pool.len() > MAX_GRAMS || skips > length.max(1) + pool.len() || longest > starts.len() {
        return Err(n.unsupported(format!("{} ids in the pool, {skips} skips", pool.len())));
    }
    let width = columns.iter().max().map_or(0, |it| it + 1);
    let width = n.size(width)?;
    if width > MAX_GRAMS || columns.iter().any(|it| *it < 0) {
        return Err(n.unsupported(format!("{width} columns")));
    }
    let x = e.reshape(x, [rows, 1, length])?;
    let none = e.scalar(DType::F32, 0.0);
    let none = e.expand(none, [rows, 1])?;
    // Counts of all n-grams of the pool in its order; the first column stays 0.
    let (mut counts, mut number) = (vec![none], 0);
    for gram in 1..=starts.len() {
        let start = n.size(starts[gram - 1])?;
        let end = starts.get(gram).map_or(Ok(pool.len()), |it| n.size(*it))?;
        let ids = pool.get(start..end).filter(|it| it.len().is_multiple_of(gram));
        let ids = ids.ok_or_else(|| n.error(format!("{gram}-grams from {start} to {end} of the pool")))?;
        let own = ids.len() / gram;
        number += own;
        if own == 0 {
            continue;
        }
        let mut sum = e.expand(none, [rows, own])?;
        let searched = (shortest.max(1)..=longest).contains(&gram);
        for skip in 0..=if gram == 1 { 0 } else { skips } {
            let places = length.saturating_sub((gram - 1) * (skip + 1));
            if places == 0 || !searched {
                break;
            }
            let mut hit = None;
            for at in 0..gram {
                let column: Vec<i64> = ids.iter().skip(at).step_by(gram).copied().collect();
                let column = e.ints(&column);
                let column = e.reshape(column, [1, own, 1])?;
                let column = e.cast(column, e.dtype(x))?;
                let seen = e.slice(x, 2, at * (skip + 1), places, 1)?;
                let same = e.binary(BinaryOp::Eq, seen, column)?;
                hit = super::grid::joined(e, BinaryOp::And, hit, Some(same))?;
            }
            let hit = hit.ok_or_else(|| n.error("an n-gram of nothing"))?;
            let hit = e.cast(hit, DType::F32)?;
            let found = e.reduce(ReduceOp::Sum, hit, &[2].into_iter().collect(), false)?;
            sum = e.binary(BinaryOp::Add, sum, found)?;
        }
        counts.push(sum);
    }
    if number != columns.len() {
        return Err(n.error(format!("{number} n-grams for {} columns", columns.len())));
    }
    let weights = n.floats("weights")?;
    let mut y = e.concat(1, &counts)?;
    let mode = n.text("mode", "")?;
    if mode == "IDF" {
        y = e.with(BinaryOp::Min, y, 1.0)?;
    }
    match (mode, weights) {
        ("TF", _) | ("IDF" | "TFIDF", None) => {}
        ("IDF" | "TFIDF", Some(weights)) if weights.len() == number => {
            let weights = e.floats(DType::F32, &[&[0.0], &weights[..]].concat());
            y = e.binary(BinaryOp::Mul, y, weights)?;
        }
        ("IDF" | "TFIDF", Some(weights)) => {
            return Err(n.error(format!("{} weights for {number} n-grams", weights.len())));
        }
        (other, _) => return Err(n.error(format!("unknown mode '{other}'"))),
    }
    // The n-gram that each column takes.
    let mut from = vec![0; width];
    for (at, &column) in columns.iter().enumerate() {
        if std::mem::replace(&mut from[column as usize], at as i64 + 1) != 0 {
            return Err(n.unsupported(format!("several n-grams for column {column}")));
        }
    }
    let indices = e.ints(&from);
    let y = e.add(Op::Gather { axis: 1, x: y, indices })?;
    if shape.rank() == 1 { e.reshape(y, [width]) } else { Ok(y) }
}
