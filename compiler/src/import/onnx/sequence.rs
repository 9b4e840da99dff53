//! Sequences and optional values: lists of values while a model is imported, which no graph knows.

use super::{
    node::Node,
    scope::{Slot, What},
};
use crate::{dtype::DType, error::Error, graph::Value, import::emit::Emit};

type Made = Result<Vec<What>, Error>;

/// The most pieces that a tensor is split into: each may become a kernel.
const MAX_PIECES: usize = 1 << 12;

/// A sequence of these.
pub fn of(all: Vec<Slot>) -> What {
    match all.iter().any(|it| matches!(it.what, What::Gone)) {
        true => What::Gone,
        false if all.iter().any(|it| matches!(it.what, What::Pending)) => What::Pending,
        false => What::Sequence(all),
    }
}

fn items<'a>(n: &Node, slots: &'a [Slot], at: usize) -> Result<&'a [Slot], Error> {
    match slots.get(at).map(|it| &it.what) {
        Some(What::Sequence(all)) => Ok(all),
        // An optional sequence is taken for what it holds.
        Some(What::Optional(Some(one))) => items(n, std::slice::from_ref(&**one), 0),
        _ => Err(n.error(format!("operand {at} is no sequence"))),
    }
}

/// The place that operand `at` names in a sequence of `len`, or one more; `None` without such an operand.
fn place(e: &Emit, n: &Node, at: usize, len: usize) -> Result<Option<usize>, Error> {
    let Some(found) = n.literal_ints(e, at)? else { return Ok(None) };
    let [raw] = found[..] else { return Err(n.error("the position is no single number")) };
    let place = if raw < 0 { raw.saturating_add(len as i64) } else { raw };
    let place = usize::try_from(place).ok().filter(|it| *it <= len);
    Ok(Some(place.ok_or_else(|| n.error(format!("position {raw} is outside of {len} elements")))?))
}

pub fn identity(_: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    match slots.first().map(|it| it.what.clone()) {
        None | Some(What::Absent) => Err(n.error("operand 0 is missing")),
        Some(what) => Ok(vec![what]),
    }
}

pub fn construct(_: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    n.all()?;
    Ok(vec![What::Sequence(slots.to_vec())])
}

pub fn empty(_: &mut Emit, n: &Node, _: &[Slot]) -> Made {
    n.int("dtype", 1)?;
    Ok(vec![What::Sequence(Vec::new())])
}

pub fn at(e: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    let all = items(n, slots, 0)?;
    let place = place(e, n, 1, all.len())?.ok_or_else(|| n.error("the position is missing"))?;
    let found = all.get(place).ok_or_else(|| n.error(format!("there are {} elements", all.len())))?;
    Ok(vec![found.what.clone()])
}

pub fn insert(e: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    let all = items(n, slots, 0)?;
    let new = slots.get(1).ok_or_else(|| n.error("operand 1 is missing"))?;
    let place = place(e, n, 2, all.len())?.unwrap_or(all.len());
    let mut more: Vec<Slot> = all.to_vec();
    more.insert(place, new.clone());
    Ok(vec![What::Sequence(more)])
}

pub fn erase(e: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    let all = items(n, slots, 0)?;
    let place = place(e, n, 1, all.len())?.unwrap_or(all.len().wrapping_sub(1));
    if place >= all.len() {
        return Err(n.error(format!("there are {} elements", all.len())));
    }
    let mut less = all.to_vec();
    less.remove(place);
    Ok(vec![What::Sequence(less)])
}

pub fn length(e: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    let count = items(n, slots, 0)?.len();
    Ok(vec![What::Tensor(e.scalar(DType::I64, count as f64))])
}

/// What a tensor is: of numbers or of strings.
type Kind = fn(Value) -> What;

/// Tensors, and what one that is made of them is: of numbers or of strings.
fn tensors(n: &Node, slots: &[Slot], at: usize) -> Result<(Vec<Value>, Kind), Error> {
    let (mut all, mut strings) = (Vec::new(), None);
    for slot in items(n, slots, at)? {
        let (value, is_strings) = match slot.what {
            What::Tensor(value) => (value, false),
            What::Strings(value) => (value, true),
            _ => return Err(n.error("the sequence holds something that is no tensor")),
        };
        if strings.replace(is_strings).is_some_and(|it| it != is_strings) {
            return Err(n.error("the sequence holds strings and numbers"));
        }
        all.push(value);
    }
    Ok((all, if strings == Some(true) { What::Strings } else { What::Tensor }))
}

pub fn concat(e: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    let (mut all, what) = tensors(n, slots, 0)?;
    let first = *all.first().ok_or_else(|| n.error("the sequence is empty"))?;
    let axis = n.opt_int("axis")?.ok_or_else(|| n.error("attribute 'axis' is missing"))?;
    let rank = e.rank(first);
    let new = n.flag("new_axis", false)?;
    let axis = n.axis(axis, rank + usize::from(new))?;
    if new {
        for value in &mut all {
            let mut dims = e.shape(*value).to_vec();
            dims.insert(axis.min(dims.len()), 1);
            *value = e.reshape(*value, &dims[..])?;
        }
    }
    Ok(vec![what(e.concat(axis, &all)?)])
}

pub fn split(e: &mut Emit, n: &Node, _: &[Slot]) -> Made {
    let x = n.input(0)?;
    let what = if n.is_strings(0) { What::Strings } else { What::Tensor };
    let shape = e.shape(x);
    let axis = n.axis(n.int("axis", 0)?, shape.rank())?;
    let keep = n.flag("keepdims", true)?;
    let single = n.opt(1).is_none();
    let few = |count: usize| match count <= MAX_PIECES {
        true => Ok(count),
        false => Err(n.unsupported(format!("{count} pieces of {shape}, at most {MAX_PIECES} are made"))),
    };
    let sizes: Vec<usize> = match n.literal(e, 1)? {
        None => vec![1; few(shape[axis])?],
        Some(it) if it.shape().rank() == 0 => {
            let size = n.size(it.get(0).as_i64())?;
            if size == 0 {
                return Err(n.error("is split into pieces of 0"));
            }
            few(shape[axis].div_ceil(size))?;
            (0..shape[axis]).step_by(size).map(|from| size.min(shape[axis] - from)).collect()
        }
        Some(it) => it.to_i64().into_iter().map(|it| n.size(it)).collect::<Result<_, _>>()?,
    };
    if sizes.iter().try_fold(0usize, |sum, it| sum.checked_add(*it)) != Some(shape[axis]) {
        return Err(n.error(format!("pieces of {sizes:?} of axis {axis} of {shape}")));
    }
    let (mut from, mut made) = (0, Vec::with_capacity(sizes.len()));
    for size in sizes {
        let mut piece = e.slice(x, axis, from, size, 1)?;
        if single && !keep {
            let mut dims = shape.to_vec();
            dims.remove(axis);
            piece = e.reshape(piece, &dims[..])?;
        }
        made.push(Slot { key: "".into(), what: what(piece) });
        from += size;
    }
    Ok(vec![What::Sequence(made)])
}

pub fn optional(_: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    n.attribute("type");
    Ok(vec![match slots.first() {
        None => What::Optional(None),
        Some(slot) if matches!(slot.what, What::Absent) => What::Optional(None),
        Some(slot) => What::Optional(Some(Box::new(slot.clone()))),
    }])
}

pub fn has_element(e: &mut Emit, _: &Node, slots: &[Slot]) -> Made {
    let has = match slots.first().map(|it| &it.what) {
        None | Some(What::Absent | What::Optional(None)) => false,
        Some(_) => true,
    };
    Ok(vec![What::Tensor(e.scalar(DType::Bool, f64::from(u8::from(has))))])
}

pub fn get_element(_: &mut Emit, n: &Node, slots: &[Slot]) -> Made {
    match slots.first().map(|it| it.what.clone()) {
        Some(What::Optional(Some(one))) => Ok(vec![one.what]),
        None | Some(What::Optional(None) | What::Absent) => Err(n.error("the optional value holds nothing")),
        Some(what) => Ok(vec![what]),
    }
}
