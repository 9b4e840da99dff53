//! Attention and rotary embedding.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Real, Value},
    import::emit::Emit,
    scalar::BinaryOp,
};

type Made = Result<Value, Error>;

/// Outputs: the result, the keys and values with the past ones before them, and the scores at a chosen stage.
pub fn attention(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    if n.opt(6).is_some() {
        return Err(n.unsupported("operand 6 (nonpad_kv_seqlen)"));
    }
    if n.int("left_window_size", -1)? != -1 || n.int("right_window_size", -1)? != -1 {
        return Err(n.unsupported("sliding windows"));
    }
    let flat = e.rank(q) == 3;
    let (q, mut k, mut v) =
        (heads(e, n, q, "q_num_heads")?, heads(e, n, k, "kv_num_heads")?, heads(e, n, v, "kv_num_heads")?);
    let mut past = 0;
    if let (Some(keys), Some(values)) = (n.opt(4), n.opt(5)) {
        past = e.shape(keys).get(2).copied().unwrap_or(0);
        k = e.concat(2, &[keys, k])?;
        v = e.concat(2, &[values, v])?;
    }
    let dtype = e.dtype(q);
    let (rows, depth) = (e.shape(q)[2], e.shape(q)[3]);
    let seen = e.shape(k)[2];
    let scale = n.float("scale", 1.0 / (depth as f64).sqrt())?;
    let mut mask = match n.opt(3) {
        None => None,
        Some(mask) => {
            let mask = match e.dtype(mask) {
                DType::Bool => {
                    let (zero, low) = (e.scalar(dtype, 0.0), e.scalar(dtype, f64::NEG_INFINITY));
                    e.select(mask, zero, low)?
                }
                _ => e.cast(mask, dtype)?,
            };
            // Keys past a shorter mask are not seen.
            let (rank, width) = (e.rank(mask), e.shape(mask).last().copied().unwrap_or(1));
            let missing = seen.saturating_sub(width);
            Some(match rank > 0 && width > 1 && missing > 0 {
                false => mask,
                true => {
                    let low = e.scalar(dtype, f64::NEG_INFINITY);
                    let mut dims = e.shape(mask).to_vec();
                    dims[rank - 1] = missing;
                    let low = e.expand(low, &dims[..])?;
                    e.concat(rank - 1, &[mask, low])?
                }
            })
        }
    };
    let mut causal = n.flag("is_causal", false)?;
    // `Op::Attention` lets the last query see every key; here the first sees those past and one more.
    if causal && rows.checked_add(past) != Some(seen) {
        causal = false;
        let (query, key) = (e.iota(DType::I64, rows, 0, 2)?, e.iota(DType::I64, seen, 1, 2)?);
        let limit = e.with(BinaryOp::Add, query, past as f64)?;
        let sees = e.binary(BinaryOp::Le, key, limit)?;
        let (zero, low) = (e.scalar(dtype, 0.0), e.scalar(dtype, f64::NEG_INFINITY));
        let own = e.select(sees, zero, low)?;
        mask = Some(match mask {
            Some(mask) => e.binary(BinaryOp::Add, mask, own)?,
            None => own,
        });
    }
    let softcap = n.float("softcap", 0.0)?;
    if softcap != 0.0 || n.wants(3) {
        return Err(n.unsupported("softcap or the output of the scores"));
    }
    let mut y = e.add(Op::Attention { scale: Real(scale), causal, zero_masked: true, q, k, v, mask })?;
    if flat {
        let shape = e.shape(y);
        y = e.permute(y, &[0, 2, 1, 3])?;
        y = e.reshape(y, [shape[0], shape[2], shape[1] * shape[3]])?;
    }
    Ok(vec![y, k, v])
}

/// [b, h, s, d], from [b, s, h d] where the rank is 3.
fn heads(e: &mut Emit, n: &Node, x: Value, count: &str) -> Made {
    let shape = e.shape(x);
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [b, s, wide] => {
            let count =
                n.opt_int(count)?.ok_or_else(|| n.error(format!("attribute '{count}' is missing")))?;
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
