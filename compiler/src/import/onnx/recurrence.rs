//! Layers of language models that carry a state along a sequence: linear attention, causal convolutions.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value, Window},
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
};

type Made = Result<Value, Error>;

/// Linear attention is written out step by step, by some ten nodes each.
const MAX_STEPS: usize = 1024;

/// Each step changes the state [b, heads, dk, dv] by an outer product and reads it. Outputs: what was read, the last state.
pub fn linear_attention(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (gated, delta) = match n.text("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(n.error(format!("unknown update_rule '{other}'"))),
    };
    // Any division into chunks means the same.
    n.int("chunk_size", 64)?;
    let heads = |name: &str| -> Result<usize, Error> {
        let stated = n.opt_int(name)?.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))?;
        n.size(stated)
    };
    let (rows, own) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let (q_shape, k_shape, v_shape) = (e.shape(q), e.shape(k), e.shape(v));
    let ([b, steps, wide_q], [kb, kt, wide_k], [vb, vt, wide_v]) = (&q_shape[..], &k_shape[..], &v_shape[..])
    else {
        return Err(n.error(format!("{q_shape}, {k_shape} and {v_shape} are not all of rank 3")));
    };
    let (b, steps) = (*b, *steps);
    let fits = [*kb, *vb, *kt, *vt] == [b, b, steps, steps]
        && own > 0
        && rows > 0
        && rows.is_multiple_of(own)
        && wide_k.is_multiple_of(own)
        && wide_v.is_multiple_of(own)
        && wide_q.checked_mul(own) == wide_k.checked_mul(rows);
    if !fits {
        return Err(n.error(format!("{rows} heads of {q_shape}, {own} heads of {k_shape} and {v_shape}")));
    }
    if steps == 0 || steps > MAX_STEPS {
        return Err(n.unsupported(format!("{steps} steps (from 1 to {MAX_STEPS})")));
    }
    let (group, dk, dv) = (rows / own, wide_k / own, wide_v / own);
    let (dtype, wide) = (e.dtype(q), if e.dtype(q) == DType::F64 { DType::F64 } else { DType::F32 });
    let scale = match n.float("scale", 0.0)? {
        0.0 => 1.0 / (dk as f64).sqrt(),
        scale => scale,
    };
    let q = e.cast(q, wide)?;
    let q = e.with(BinaryOp::Mul, q, scale)?;
    let q = e.reshape(q, [b, steps, own, group, dk])?;
    let k = e.cast(k, wide)?;
    let (row, column) = (e.reshape(k, [b, steps, own, 1, dk])?, e.reshape(k, [b, steps, own, dk, 1])?);
    let v = e.cast(v, wide)?;
    let v = e.reshape(v, [b, steps, own, 1, dv])?;
    let decay = match (gated, n.opt(4)) {
        (false, _) => None,
        (true, None) => return Err(n.error("the decay is missing")),
        (true, Some(it)) => {
            let width = e.shape(it).get(2).copied().unwrap_or(0);
            if *e.shape(it) != [b, steps, width] || width != own * dk && width != own {
                return Err(n.error(format!("a decay of shape {}", e.shape(it))));
            }
            let it = e.cast(it, wide)?;
            let it = e.unary(UnaryOp::Exp, it)?;
            Some(e.reshape(it, [b, steps, own, width / own, 1])?)
        }
    };
    let rate = match (delta, n.opt(5)) {
        (false, _) => None,
        (true, None) => return Err(n.error("the update rate is missing")),
        (true, Some(it)) => {
            let width = e.shape(it).get(2).copied().unwrap_or(0);
            if *e.shape(it) != [b, steps, width] || width != 1 && width != own {
                return Err(n.error(format!("an update rate of shape {}", e.shape(it))));
            }
            let it = e.cast(it, wide)?;
            Some(e.reshape(it, [b, steps, width, 1, 1])?)
        }
    };
    let shape = [b, own, dk, dv];
    let (mut state, state_dtype) = match n.opt(3) {
        Some(past) if *e.shape(past) == shape => (e.cast(past, wide)?, e.dtype(past)),
        Some(past) => return Err(n.error(format!("a state of shape {}", e.shape(past)))),
        None => {
            let zero = e.scalar(wide, 0.0);
            (e.expand(zero, shape)?, dtype)
        }
    };
    let at = |e: &mut Emit, x: Value, step: usize| -> Made {
        let x = e.slice(x, 1, step, 1, 1)?;
        let mut shape = e.shape(x).to_vec();
        shape.remove(1);
        e.reshape(x, &shape[..])
    };
    let mut read = Vec::with_capacity(steps);
    for step in 0..steps {
        if let Some(decay) = decay {
            let decay = at(e, decay, step)?;
            state = e.binary(BinaryOp::Mul, state, decay)?;
        }
        let mut new = at(e, v, step)?;
        if let Some(rate) = rate {
            let row = at(e, row, step)?;
            let held = e.matmul(row, state)?;
            let missing = e.binary(BinaryOp::Sub, new, held)?;
            let rate = at(e, rate, step)?;
            new = e.binary(BinaryOp::Mul, missing, rate)?;
        }
        let column = at(e, column, step)?;
        let outer = e.binary(BinaryOp::Mul, column, new)?;
        state = e.binary(BinaryOp::Add, state, outer)?;
        let query = at(e, q, step)?;
        let y = e.matmul(query, state)?;
        read.push(e.reshape(y, [b, 1, rows * dv])?);
    }
    let y = e.concat(1, &read)?;
    Ok(vec![e.cast(y, dtype)?, e.cast(state, state_dtype)?])
}

/// Each channel's own convolution of what came before and the input. Outputs: the result, what comes before the next input.
pub fn causal_conv(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let (shape, kernel) = (e.shape(x), e.shape(w));
    let ([b, channels, length], [features, 1, width]) = (&shape[..], &kernel[..]) else {
        return Err(n.error(format!("a kernel of shape {kernel} for {shape}")));
    };
    let (b, channels, length, width) = (*b, *channels, *length, *width);
    if *features != channels || width == 0 {
        return Err(n.error(format!("a kernel of shape {kernel} for {shape}")));
    }
    let past = match n.opt(3) {
        Some(past) if *e.shape(past) == [b, channels, width - 1] => past,
        Some(past) => return Err(n.error(format!("a state of shape {}", e.shape(past)))),
        None => {
            let zero = e.scalar(e.dtype(x), 0.0);
            e.expand(zero, [b, channels, width - 1])?
        }
    };
    let whole = if width > 1 { e.concat(2, &[past, x])? } else { x };
    let window = Window::unit(1).into();
    let mut y = e.add(Op::Conv { window, groups: channels, x: whole, w, bias: n.opt(2) })?;
    match n.text("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = e.unary(UnaryOp::Silu, y)?,
        other => return Err(n.error(format!("unknown activation '{other}'"))),
    }
    Ok(vec![y, e.slice(whole, 2, length, width - 1, 1)?])
}
