//! Attention and rotary embedding.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Real, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
};

type Made = Result<Value, Error>;

/// Outputs: the result, the keys and values with the past ones before them, and the scores at a chosen stage.
pub fn attention(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let flat = e.rank(q) == 3;
    let q = heads(e, n, q, "q_num_heads")?;
    let (mut k, mut v) = (heads(e, n, k, "kv_num_heads")?, heads(e, n, v, "kv_num_heads")?);
    let mut past = 0;
    if let (Some(keys), Some(values)) = (n.opt(4), n.opt(5)) {
        past = e.shape(keys).get(2).copied().unwrap_or(0);
        k = e.concat(2, &[keys, k])?;
        v = e.concat(2, &[values, v])?;
    }
    let (rows, depth, seen) = (e.shape(q)[2], e.shape(q)[3], e.shape(k)[2]);
    let scale = n.float("scale", 1.0 / (depth as f64).sqrt())?;
    let mut mask = match n.opt(3) {
        Some(mask) => Some(additive(e, mask, e.dtype(q), seen)?),
        None => None,
    };
    let (left, right) = (n.int("left_window_size", -1)?, n.int("right_window_size", -1)?);
    // `Op::Attention` lets the last query see every key, which is only the meaning here if no key follows it.
    let mut causal = n.flag("is_causal", false)?;
    let whole = causal && n.opt(6).is_none() && rows.checked_add(past) == Some(seen);
    if !whole || left >= 0 || right >= 0 {
        let right = if causal && !whole { 0 } else { right };
        causal &= whole;
        if let Some(sees) = visible(e, n, rows, seen, past, [left, right])? {
            let own = additive(e, sees, e.dtype(q), seen)?;
            mask = Some(match mask {
                Some(mask) => e.binary(BinaryOp::Add, mask, own)?,
                None => own,
            });
        }
    }
    let softcap = n.float("softcap", 0.0)?;
    let stage = n.int("qk_matmul_output_mode", 0)?;
    let (mut y, scores) = match softcap != 0.0 || n.wants(3) {
        false => {
            let op = Op::Attention { scale: Real(scale), causal, zero_masked: true, q, k, v, mask };
            (e.add(op)?, None)
        }
        true => {
            if causal {
                let sees = visible(e, n, rows, seen, past, [-1, 0])?;
                let own = match sees {
                    Some(sees) => Some(additive(e, sees, e.dtype(q), seen)?),
                    None => None,
                };
                mask = match (mask, own) {
                    (Some(mask), Some(own)) => Some(e.binary(BinaryOp::Add, mask, own)?),
                    (mask, own) => mask.or(own),
                };
            }
            let (y, scores) = in_steps(e, n, [q, k, v], mask, scale, softcap, stage)?;
            (y, Some(scores))
        }
    };
    if flat {
        let shape = e.shape(y);
        y = e.permute(y, &[0, 2, 1, 3])?;
        y = e.reshape(y, [shape[0], shape[2], shape[1] * shape[3]])?;
    }
    Ok([y, k, v].into_iter().chain(scores).collect())
}

/// A mask to be added to scores, as wide as there are keys: those past a narrower one are not seen.
fn additive(e: &mut Emit, mask: Value, dtype: DType, seen: usize) -> Made {
    let low = e.scalar(dtype, f64::NEG_INFINITY);
    let mask = match e.dtype(mask) {
        DType::Bool => {
            let zero = e.scalar(dtype, 0.0);
            e.select(mask, zero, low)?
        }
        _ => e.cast(mask, dtype)?,
    };
    let mut dims = e.shape(mask).to_vec();
    let Some(width) = dims.last_mut().filter(|it| **it < seen) else { return Ok(mask) };
    *width = seen - *width;
    let low = e.expand(low, &dims[..])?;
    e.concat(dims.len() - 1, &[mask, low])
}

/// Which keys each query sees, [.., rows, seen]: those that are there, at most `window` before and after its own place
/// (-1: any number). `None` where it sees all.
fn visible(
    e: &mut Emit,
    n: &Node,
    rows: usize,
    seen: usize,
    past: usize,
    window: [i64; 2],
) -> Result<Option<Value>, Error> {
    let (query, key) = (e.iota(DType::I64, rows, 2, 4)?, e.iota(DType::I64, seen, 3, 4)?);
    let there = match n.opt(6) {
        Some(count) => {
            let count = e.cast(count, DType::I64)?;
            // No more than there are; so what is counted from it fits 32 bits.
            let count = e.with(BinaryOp::Max, count, 0.0)?;
            let count = e.with(BinaryOp::Min, count, seen as f64)?;
            let batch = e.shape(count).count();
            Some(e.reshape(count, [batch, 1, 1, 1])?)
        }
        None => None,
    };
    let own = match there {
        Some(count) => {
            let first = e.with(BinaryOp::Sub, count, rows as f64)?;
            e.binary(BinaryOp::Add, query, first)?
        }
        None => e.with(BinaryOp::Add, query, past as f64)?,
    };
    let mut all = Vec::new();
    if let Some(count) = there {
        all.push(e.binary(BinaryOp::Lt, key, count)?);
    }
    let [before, after] = window;
    if after >= 0 {
        let reach = e.with(BinaryOp::Add, own, after as f64)?;
        all.push(e.binary(BinaryOp::Le, key, reach)?);
    }
    if before >= 0 {
        let reach = e.with(BinaryOp::Sub, own, before as f64)?;
        all.push(e.binary(BinaryOp::Ge, key, reach)?);
    }
    let Some((&first, rest)) = all.split_first() else { return Ok(None) };
    rest.iter().try_fold(first, |so_far, &it| e.binary(BinaryOp::And, so_far, it)).map(Some)
}

/// Attention whose scores are capped or looked at: the result, and the scores at `stage`.
fn in_steps(
    e: &mut Emit,
    n: &Node,
    [q, k, v]: [Value; 3],
    mask: Option<Value>,
    scale: f64,
    softcap: f64,
    stage: i64,
) -> Result<(Value, Value), Error> {
    let (heads, own) = (e.shape(q)[1], e.shape(k)[1]);
    if own == 0 || !heads.is_multiple_of(own) {
        return Err(n.error(format!("{heads} heads of queries for {own} of keys")));
    }
    let mut repeated = |x: Value| -> Made {
        let shape = e.shape(x);
        let [b, own, t, d] = shape[..] else { return Err(n.error(format!("{shape} has not rank 4"))) };
        let x = e.reshape(x, [b, own, 1, t, d])?;
        let x = e.expand(x, [b, own, heads / own.max(1), t, d])?;
        e.reshape(x, [b, heads, t, d])
    };
    let (k, v) = (repeated(k)?, repeated(v)?);
    let k = e.permute(k, &[0, 1, 3, 2])?;
    let scores = e.matmul(q, k)?;
    let mut scores = e.with(BinaryOp::Mul, scores, scale)?;
    if softcap > 0.0 {
        scores = e.with(BinaryOp::Div, scores, softcap)?;
        scores = e.unary(UnaryOp::Tanh, scores)?;
        scores = e.with(BinaryOp::Mul, scores, softcap)?;
    }
    let masked = match mask {
        Some(mask) => e.binary(BinaryOp::Add, scores, mask)?,
        None => scores,
    };
    let axis = 3;
    let zero = e.scalar(e.dtype(q), 0.0);
    let mut weights = e.add(Op::Softmax { axis, log: false, x: masked })?;
    if let Some(mask) = mask {
        // A query that sees no key has the result 0.
        let most = e.expand(mask, e.shape(masked))?;
        let most = e.reduce(ReduceOp::Max, most, &[axis].into_iter().collect(), true)?;
        let none = e.scalar(e.dtype(q), f64::NEG_INFINITY);
        let none = e.binary(BinaryOp::Eq, most, none)?;
        weights = e.select(none, zero, weights)?;
    }
    let y = e.matmul(weights, v)?;
    let shown = match stage {
        0 | 1 => scores,
        2 => masked,
        3 => weights,
        other => return Err(n.error(format!("unknown qk_matmul_output_mode {other}"))),
    };
    Ok((y, shown))
}

/// [b, h, s, d], from [b, s, h d] where the rank is 3.
fn heads(e: &mut Emit, n: &Node, x: Value, count: &str) -> Made {
    let shape = e.shape(x);
    let stated = n.opt_int(count)?;
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [b, s, wide] => {
            let count = stated.ok_or_else(|| n.error(format!("attribute '{count}' is missing")))?;
            let count = n.size(count)?;
            if count == 0 || !wide.is_multiple_of(count) {
                return Err(n.error(format!("{shape} does not divide into {count} heads")));
            }
            let x = e.reshape(x, [b, s, count, wide / count])?;
            e.permute(x, &[0, 2, 1, 3])
        }
        _ => Err(n.error(format!("{shape} has neither rank 3 nor rank 4"))),
    }
}

/// Pairs of elements turned by the angles whose cosines and sines are given.
pub fn rotary(e: &mut Emit, n: &Node) -> Made {
    let (x, cos, sin) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let full = e.shape(x);
    let x = heads(e, n, x, "num_heads")?;
    let depth = e.shape(x)[3];
    let turned = match n.size(n.int("rotary_embedding_dim", 0)?)? {
        0 => depth,
        turned => turned,
    };
    if turned > depth || !turned.is_multiple_of(2) {
        return Err(n.error(format!("{turned} of {depth} elements cannot be turned in pairs")));
    }
    let half = turned / 2;
    let mut angle = |cache: Value| -> Made {
        let cache = match n.opt(3) {
            Some(indices) => e.add(Op::Gather { axis: 0, x: cache, indices })?,
            None => cache,
        };
        match e.shape(cache)[..] {
            [b, s, width] if width == half => e.reshape(cache, [b, 1, s, half]),
            _ => Err(n.error(format!("a cache of shape {} for {half} angles", e.shape(cache)))),
        }
    };
    let (cos, sin) = (angle(cos)?, angle(sin)?);
    let interleaved = n.flag("interleaved", false)?;
    let (start, step) = if interleaved { (1, 2) } else { (half, 1) };
    let (a, b) = match half {
        0 => return Err(n.error("there is nothing to turn")),
        _ => (e.slice(x, 3, 0, half, step)?, e.slice(x, 3, start, half, step)?),
    };
    let mut product = |x, y| e.binary(BinaryOp::Mul, x, y);
    let (ac, bs, as_, bc) = (product(a, cos)?, product(b, sin)?, product(a, sin)?, product(b, cos)?);
    let (real, imaginary) = (e.binary(BinaryOp::Sub, ac, bs)?, e.binary(BinaryOp::Add, as_, bc)?);
    let shape = e.shape(real).to_vec();
    let mut y = match interleaved {
        false => e.concat(3, &[real, imaginary])?,
        true => {
            let pair = [&shape[..], &[1]].concat();
            let (real, imaginary) = (e.reshape(real, &pair[..])?, e.reshape(imaginary, &pair[..])?);
            let both = e.concat(4, &[real, imaginary])?;
            e.reshape(both, [shape[0], shape[1], shape[2], turned])?
        }
    };
    if turned < depth {
        let rest = e.slice(x, 3, turned, depth - turned, 1)?;
        y = e.concat(3, &[y, rest])?;
    }
    if full.rank() == 3 {
        y = e.permute(y, &[0, 2, 1, 3])?;
        return e.reshape(y, full);
    }
    Ok(y)
}
