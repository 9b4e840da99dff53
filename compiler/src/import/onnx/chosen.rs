//! Operators that choose elements by their values, so that the shape of the result follows from those: functions on the host.

use std::sync::Arc;

use super::{node::Node, table::HostRule};
use crate::{
    bug,
    dtype::DType,
    error::Error,
    import::{host::Datum, strings::Strings},
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

type Made = Result<Vec<Datum>, Error>;

/// Operand `at`, which has to be a tensor.
pub fn tensor<'a>(n: &Node, given: &'a [Option<Datum>], at: usize) -> Result<&'a Tensor, Error> {
    match given.get(at) {
        Some(Some(Datum::Tensor(it))) => Ok(it),
        Some(Some(_)) => Err(n.error(format!("operand {at} is no tensor"))),
        Some(None) | None => Err(n.error(format!("operand {at} is missing"))),
    }
}

/// The most pairs of boxes that are compared in one run of a node.
const MAX_PAIRS: u64 = 1 << 32;

/// Whether so many bytes may be asked for.
fn fits(n: &Node, need: usize) -> Result<(), Error> {
    let (need, have) = (need as u64, n.most);
    match need > have {
        true => Err(Error::MemoryLimit { at: format!("node '{}'", n.name), need, have }),
        false => Ok(()),
    }
}

pub fn non_zero(n: &Node, given: &[Option<Datum>]) -> Made {
    let x = tensor(n, given, 0)?;
    let count = x.scalars().filter(|it| it.as_bool()).count();
    fits(n, count.saturating_mul(8 * (1 + x.shape().rank())))?;
    let found: Vec<usize> =
        x.scalars().enumerate().filter(|(_, it)| it.as_bool()).map(|(at, _)| at).collect();
    let (shape, strides) = (x.shape(), x.shape().strides());
    let places = (0..shape.rank()).flat_map(|axis| {
        let (stride, dim) = (strides[axis].max(1), shape[axis].max(1));
        found.iter().map(move |at| Scalar::Int((at / stride % dim) as i64))
    });
    let ty = Type::new(DType::I64, [shape.rank(), found.len()]);
    Ok(vec![Datum::Tensor(Tensor::from_scalars(ty, places))])
}

/// What a function makes of operand 0 if that is of strings, which it chooses among by their order: of numbers in the order of the strings,
/// of which the first result consists.
fn ranked(n: &Node, given: &[Option<Datum>], function: HostRule) -> Option<Made> {
    let Some(Some(Datum::Strings(x))) = given.first() else { return None };
    let mut sorted: Vec<&Arc<str>> = x.values().iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let rank = |it: &Arc<str>| Scalar::Int(sorted.partition_point(|other| **other < *it) as i64);
    let ty = Type { dtype: DType::I64, shape: x.shape().clone() };
    let mut operands = given.to_vec();
    operands[0] = Some(Datum::Tensor(Tensor::from_scalars(ty, x.values().iter().map(rank))));
    let made = function(n, &operands).and_then(|mut made| {
        let Some(Datum::Tensor(ranks)) = made.first() else { bug!("what is chosen is no tensor") };
        let texts = ranks.scalars().map(|it| sorted[it.as_i64() as usize].clone());
        let strings = Strings::new(ranks.shape().clone(), texts);
        made[0] = Datum::Strings(strings.ok_or_else(|| n.error("the result is too large"))?);
        Ok(made)
    });
    Some(made)
}

pub fn compress(n: &Node, given: &[Option<Datum>]) -> Made {
    if let Some(made) = ranked(n, given, compress) {
        return made;
    }
    let (x, hold) = (tensor(n, given, 0)?, tensor(n, given, 1)?);
    let places: Vec<usize> =
        hold.scalars().enumerate().filter(|(_, it)| it.as_bool()).map(|it| it.0).collect();
    let (shape, axis) = match n.opt_int("axis")? {
        Some(axis) => (x.shape().clone(), n.axis(axis, x.shape().rank())?),
        None => (Shape::from([x.shape().count()]), 0),
    };
    if places.last().is_some_and(|&it| it >= shape[axis]) {
        let count = hold.shape().count();
        return Err(n.error(format!("the condition has {count} elements, the axis {}", shape[axis])));
    }
    let row = shape[axis + 1..].iter().product::<usize>() * x.dtype().size();
    let mut data = Vec::new();
    for block in x.data().chunks_exact((row * shape[axis]).max(1)) {
        places.iter().for_each(|it| data.extend_from_slice(&block[it * row..(it + 1) * row]));
    }
    let mut less = shape;
    less.0[axis] = places.len();
    let made = Tensor::new(Type { dtype: x.dtype(), shape: less }, data.into());
    Ok(vec![Datum::Tensor(made.ok_or_else(|| n.error("the result is too large"))?)])
}

/// What differs, in order or as it first comes; where each stands first, which one each element is, and how many there are.
pub fn unique(n: &Node, given: &[Option<Datum>]) -> Made {
    if let Some(made) = ranked(n, given, unique) {
        return made;
    }
    let x = tensor(n, given, 0)?;
    let (shape, axis) = match n.opt_int("axis")? {
        Some(axis) => (x.shape().clone(), n.axis(axis, x.shape().rank())?),
        None => (Shape::from([x.shape().count()]), 0),
    };
    let (outer, size) = (shape[..axis].iter().product::<usize>(), shape[axis]);
    // A list of its own for each that differs, and three places for each.
    fits(n, size.saturating_mul(128).saturating_add(x.data().len()))?;
    let inner: usize = shape[axis + 1..].iter().product();
    let unsigned = x.dtype() == DType::U64;
    let order = |a: Scalar, b: Scalar| match (a, b) {
        // What is no number comes last, and all of it is one.
        (Scalar::Float(a), Scalar::Float(b)) => {
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        _ if unsigned => (a.as_i64() as u64).cmp(&(b.as_i64() as u64)),
        _ => a.as_i64().cmp(&b.as_i64()),
    };
    let slice = |at: usize| {
        (0..outer).flat_map(move |row| (0..inner).map(move |column| (row * size + at) * inner + column))
    };
    let compare = |a: usize, b: usize| {
        let mut all = slice(a).zip(slice(b)).map(|(a, b)| order(x.get(a), x.get(b)));
        all.find(|it| it.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    };
    let mut sorted: Vec<usize> = (0..size).collect();
    sorted.sort_by(|&a, &b| compare(a, b));
    // Sorting keeps equal ones in order: the first of each group stands first.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in sorted {
        match groups.last_mut() {
            Some(group) if compare(group[0], at).is_eq() => group.push(at),
            _ => groups.push(vec![at]),
        }
    }
    if n.int("sorted", 1)? == 0 {
        groups.sort_by_key(|it| it[0]);
    }
    let mut inverse = vec![0; size];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&at| inverse[at] = number);
    }
    let width = x.dtype().size();
    let mut data = Vec::new();
    for row in 0..outer {
        for group in &groups {
            let from = (row * size + group[0]) * inner * width;
            data.extend_from_slice(&x.data()[from..from + inner * width]);
        }
    }
    let mut less = shape.clone();
    less.0[axis] = groups.len();
    let made = Tensor::new(Type { dtype: x.dtype(), shape: less }, data.into());
    let made = made.ok_or_else(|| n.error("the result is too large"))?;
    let places = |all: Vec<usize>| {
        let ty = Type::new(DType::I64, [all.len()]);
        Datum::Tensor(Tensor::from_scalars(ty, all.into_iter().map(|it| Scalar::Int(it as i64))))
    };
    let firsts = places(groups.iter().map(|it| it[0]).collect());
    let counts = places(groups.iter().map(Vec::len).collect());
    Ok(vec![Datum::Tensor(made), firsts, places(inverse), counts])
}

/// [y1, x1, y2, x2], the smaller ends first.
fn corners(raw: &[f32], centered: bool) -> [f32; 4] {
    match centered {
        true => {
            let [x, y, width, height] = [raw[0], raw[1], raw[2], raw[3]];
            [y - height / 2.0, x - width / 2.0, y + height / 2.0, x + width / 2.0]
        }
        false => [raw[0].min(raw[2]), raw[1].min(raw[3]), raw[0].max(raw[2]), raw[1].max(raw[3])],
    }
}

/// The part of two boxes' union that both cover.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let way = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |it: &[f32; 4]| (it[2] - it[0]) * (it[3] - it[1]);
    let both = way(0) * way(1);
    let union = area(a) + area(b) - both;
    if union > 0.0 { both / union } else { 0.0 }
}

/// Of each class of each image the boxes with the best scores, each of which overlaps no better one too much.
pub fn non_max_suppression(n: &Node, given: &[Option<Datum>]) -> Made {
    let (boxes, scores) = (tensor(n, given, 0)?, tensor(n, given, 1)?);
    let ([images, count, 4], [batch, classes, each]) = (&boxes.shape()[..], &scores.shape()[..]) else {
        return Err(n.error(format!("boxes {} and scores {}", boxes.ty(), scores.ty())));
    };
    if images != batch || count != each {
        return Err(n.error(format!("boxes {} and scores {}", boxes.ty(), scores.ty())));
    }
    let number = |at: usize| match given.get(at) {
        Some(Some(_)) => {
            let it = tensor(n, given, at)?;
            let one = (it.shape().count() == 1).then(|| it.get(0));
            one.map(Some).ok_or_else(|| n.error(format!("operand {at} is no single number")))
        }
        Some(None) | None => Ok(None),
    };
    let most = number(2)?.map_or(0, Scalar::as_i64).max(0);
    let limit = number(3)?.map_or(0.0, |it| it.as_f64() as f32);
    let least = number(4)?.map(|it| it.as_f64() as f32);
    let centered = match n.int("center_point_box", 0)? {
        0 => false,
        1 => true,
        other => return Err(n.error(format!("center_point_box {other}"))),
    };
    fits(n, (boxes.shape().count() + scores.shape().count()).saturating_mul(24))?;
    let mut pairs = 0u64;
    let floats = |it: &Tensor| it.to_f64().into_iter().map(|it| it as f32).collect::<Vec<f32>>();
    let (boxes, scores) = (floats(boxes), floats(scores));
    let all: Vec<[f32; 4]> = boxes.chunks_exact(4).map(|it| corners(it, centered)).collect();
    let mut chosen: Vec<Scalar> = Vec::new();
    for (row, scores) in scores.chunks_exact((*count).max(1)).enumerate() {
        let (image, class) = (row / classes, row % classes);
        let boxes = &all[image * count..(image + 1) * count];
        let above = |at: &usize| least.is_none_or(|least| scores[*at] > least);
        let mut order: Vec<usize> = (0..*count).filter(above).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for at in order {
            if kept.len() as i64 >= most {
                break;
            }
            let far = |&other: &usize| overlap(&boxes[at], &boxes[other]) <= limit;
            let near = kept.iter().position(|it| !far(it));
            pairs += near.unwrap_or(kept.len()) as u64;
            if pairs > MAX_PAIRS {
                let at = format!("node '{}': pairs of boxes", n.name);
                return Err(Error::TooLarge { at, need: pairs, have: MAX_PAIRS });
            }
            if near.is_none() {
                kept.push(at);
            }
        }
        chosen.extend(kept.iter().flat_map(|&at| [image, class, at].map(|it| Scalar::Int(it as i64))));
    }
    let ty = Type::new(DType::I64, [chosen.len() / 3, 3]);
    Ok(vec![Datum::Tensor(Tensor::from_scalars(ty, chosen))])
}
