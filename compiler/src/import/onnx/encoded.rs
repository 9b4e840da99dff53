//! Elements of a map for others: keys in order, halved again and again for all elements at once. Strings go by their numbers.

use std::cmp::Ordering;

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::{emit::Emit, host::Datum, strings::NUMBER},
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// The most keys of a map.
const MAX_KEYS: usize = 1 << 22;

/// Keys or values of a map.
struct Side {
    all: Tensor,
    strings: bool,
}

fn ints(all: &[i64]) -> Side {
    let values = all.iter().map(|&it| Scalar::Int(it));
    Side { all: Tensor::from_scalars(Type::new(DType::I64, [all.len()]), values), strings: false }
}

fn texts(n: &Node, all: &[&str]) -> Result<Side, Error> {
    let before = n.makes_strings.get();
    let all = n.entered([all.len()], all)?;
    n.makes_strings.set(before);
    Ok(Side { all, strings: true })
}

/// A list of the attributes `keys_*` or `values_*`.
fn side(n: &Node, prefix: &str) -> Result<Option<Side>, Error> {
    let (mut found, mut count) = (None, 0);
    let mut take = |it: Side| (found, count) = (Some(it), count + 1);
    if let Some(all) = n.ints(&format!("{prefix}_int64s"))? {
        take(ints(all));
    }
    if let Some(all) = n.floats(&format!("{prefix}_floats"))? {
        let values = all.iter().map(|&it| Scalar::Float(it));
        let all = Tensor::from_scalars(Type::new(DType::F32, [all.len()]), values);
        take(Side { all, strings: false });
    }
    if let Some(all) = n.texts(&format!("{prefix}_strings"))? {
        take(texts(n, &all)?);
    }
    if let Some(it) = n.value(&format!("{prefix}_tensor"))? {
        take(of_datum(n, it)?);
    }
    match count > 1 {
        true => Err(n.error(format!("has several of the attributes '{prefix}_*'"))),
        false => Ok(found),
    }
}

fn of_datum(n: &Node, datum: Datum) -> Result<Side, Error> {
    match datum {
        Datum::Tensor(all) => Ok(Side { all, strings: false }),
        Datum::Strings(all) => Ok(Side { all: n.numbers(&all)?, strings: true }),
        Datum::Sequence(_) | Datum::Optional(_) => Err(n.error("an attribute is no tensor")),
    }
}

pub fn label_encoder(e: &mut Emit, n: &Node) -> Made {
    let (whole, real, text) =
        (n.int("default_int64", -1)?, n.float("default_float", -0.0)?, n.text("default_string", UNUSED)?);
    let default = n.value("default_tensor")?.map(|it| of_datum(n, it)).transpose()?;
    if n.opset < 2 {
        let classes = n.texts("classes_strings")?.unwrap_or_default();
        let places: Vec<i64> = (0..classes.len() as i64).collect();
        return between(e, n, ints(&places), texts(n, &classes)?, whole, text);
    }
    let (Some(keys), Some(values)) = (side(n, "keys")?, side(n, "values")?) else {
        return Err(n.error("has no keys, or no values"));
    };
    let dtype = values.all.dtype();
    let default = match default {
        Some(it) => it,
        None if values.strings => texts(n, &[text])?,
        None => {
            let scalar = match dtype.is_float() {
                true => Scalar::of(dtype, real),
                false => Scalar::Int(whole).cast(DType::I64, dtype),
            };
            Side { all: Tensor::scalar(dtype, scalar), strings: false }
        }
    };
    mapped(e, n, keys, values, default)
}

pub fn category_mapper(e: &mut Emit, n: &Node) -> Made {
    let (whole, text) = (n.int("default_int64", -1)?, n.text("default_string", UNUSED)?);
    let (Some(numbers), Some(words)) = (n.ints("cats_int64s")?, n.texts("cats_strings")?) else {
        return Err(n.error("has no numbers, or no strings"));
    };
    between(e, n, ints(numbers), texts(n, &words)?, whole, text)
}

/// What the standard gives for what is no key.
pub const UNUSED: &str = "_Unused";

/// From strings to numbers or back, as the operand is.
fn between(e: &mut Emit, n: &Node, numbers: Side, words: Side, whole: i64, text: &str) -> Made {
    match n.is_strings(0) {
        true => mapped(e, n, words, numbers, ints(&[whole])),
        false => mapped(e, n, numbers, words, texts(n, &[text])?),
    }
}

fn mapped(e: &mut Emit, n: &Node, keys: Side, values: Side, default: Side) -> Made {
    let x = n.input(0)?;
    let (count, shape) = (keys.all.shape().count(), e.shape(x));
    if values.all.shape().count() != count || count > MAX_KEYS {
        let others = values.all.shape().count();
        return Err(n.error(format!("{count} keys and {others} values, of which there may be {MAX_KEYS}")));
    }
    if keys.strings != n.is_strings(0) || keys.all.dtype() != e.dtype(x) {
        let of = |strings: bool, dtype: DType| if strings { "strings" } else { dtype.name() };
        let (own, have) = (of(keys.strings, keys.all.dtype()), of(n.is_strings(0), e.dtype(x)));
        return Err(n.error(format!("its keys are {own}, its operand {have}")));
    }
    let fits = default.strings == values.strings && default.all.dtype() == values.all.dtype();
    if !fits || default.all.shape().count() != 1 {
        return Err(n.error("what it gives for no key is not of the type of its values, or not one element"));
    }
    n.makes_strings.set(values.strings);
    let value = |all: &Tensor, at: usize| Tensor::scalar(all.dtype(), all.get(at));
    let none = e.constant(value(&default.all, 0));
    let (mut places, mut nan) = (Vec::with_capacity(count), None);
    for (at, key) in keys.all.scalars().enumerate() {
        match key {
            Scalar::Float(it) if it.is_nan() => nan = Some(at),
            _ => places.push(at),
        }
    }
    let unsigned = keys.all.dtype() == DType::U64;
    let key = |at: usize| keys.all.get(at);
    let order = |a: usize, b: usize| match (key(a), key(b)) {
        (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (a, b) if unsigned => (a.as_i64() as u64).cmp(&(b.as_i64() as u64)),
        (a, b) => a.as_i64().cmp(&b.as_i64()),
    };
    // Of equal keys the last one holds: it comes first, and the others go.
    places.sort_by(|&a, &b| order(a, b).then(b.cmp(&a)));
    places.dedup_by(|b, a| order(*a, *b).is_eq());
    let mut y = match places.last() {
        None => e.expand(none, shape.clone())?,
        Some(&last) => {
            // As many as a power of two, so that no place leaves them.
            places.resize(places.len().next_power_of_two(), last);
            let whole = |all: &Tensor| {
                let ty = Type::new(all.dtype(), [places.len()]);
                Tensor::from_scalars(ty, places.iter().map(|&it| all.get(it)))
            };
            let (sorted, values) = (e.constant(whole(&keys.all)), e.constant(whole(&values.all)));
            let start = e.scalar(DType::I32, 0.0);
            let mut at = e.expand(start, shape.clone())?;
            let mut step = places.len() / 2;
            while step > 0 {
                let further = e.with(BinaryOp::Add, at, step as f64)?;
                let key = e.add(Op::Gather { axis: 0, x: sorted, indices: further })?;
                let behind = e.binary(BinaryOp::Le, key, x)?;
                at = e.select(behind, further, at)?;
                step /= 2;
            }
            let key = e.add(Op::Gather { axis: 0, x: sorted, indices: at })?;
            let found = e.add(Op::Gather { axis: 0, x: values, indices: at })?;
            let same = e.binary(BinaryOp::Eq, key, x)?;
            e.select(same, found, none)?
        }
    };
    if let Some(at) = nan {
        let value = e.constant(value(&values.all, at));
        let is_nan = e.unary(UnaryOp::IsNan, x)?;
        y = e.select(is_nan, value, y)?;
    }
    debug_assert!(!values.strings || e.dtype(y) == NUMBER);
    Ok(y)
}
