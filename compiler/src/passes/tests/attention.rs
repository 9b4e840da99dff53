//! Attention in every form in which it is written out.

use super::*;

/// What is written around the product, and what becomes of it.
struct Written {
    mask: &'static str,
    scale: &'static str,
    keys: &'static str,
    kv_heads: usize,
}

fn attention(b: &mut B, it: &Written) -> Result<Value, Error> {
    let (batch, h, s, t, d) = (2usize, 4usize, 3usize, 5usize, 4usize);
    let g = it.kv_heads;
    let flat = it.keys == "flat";
    let shape = |heads: usize, rows: usize| -> Shape {
        if flat { [batch * heads, rows, d].into() } else { [batch, heads, rows, d].into() }
    };
    let q = b.input("q", F, shape(h, s))?;
    let (mut k, mut v) = (b.input("k", F, shape(g, t))?, b.input("v", F, shape(g, t))?);
    if g < h {
        for it in [&mut k, &mut v] {
            let x = b.unsqueeze(*it, 2)?;
            let x = b.expand(x, [batch, g, h / g, t, d])?;
            *it = b.reshape(x, &[batch as isize, h as isize, t as isize, d as isize])?;
        }
    }
    let k = match it.keys {
        "wrapped" => {
            let x = b.reshape(k, &[-1, t as isize, d as isize])?;
            let x = b.permute(x, &[0, 2, 1])?;
            b.reshape(x, &[batch as isize, h as isize, d as isize, t as isize])?
        }
        "scaled" => {
            let k = b.mul_scalar(k, 3.0)?;
            b.transpose(k, -1, -2)?
        }
        _ => b.transpose(k, -1, -2)?,
    };
    let (q, k) = match it.scale {
        "both" => (b.mul_scalar(q, 0.7)?, b.mul_scalar(k, 0.7)?),
        _ => (q, k),
    };
    let mut scores = b.matmul(q, k)?;
    if it.scale == "behind" {
        scores = b.with_scalar(BinaryOp::Div, scores, 2.0)?;
    }
    let least = if it.mask == "zeroed" { f64::NEG_INFINITY } else { -3.402_823_466_385_288_6e38 };
    let masked = match it.mask {
        "added" => {
            let mask = b.input("mask", F, [s, t])?;
            b.add(mask, scores)?
        }
        "chosen" | "zeroed" => {
            let cond = b.input(
                "cond",
                DType::Bool,
                if flat { vec![s, t] } else { vec![batch, 1, s, t] }.as_slice(),
            )?;
            let least = c(b, least);
            b.select(cond, scores, least)?
        }
        "refused" => {
            let cond = b.input(
                "cond",
                DType::Bool,
                if flat { vec![s, t] } else { vec![batch, 1, s, t] }.as_slice(),
            )?;
            let least = c(b, least);
            b.select(cond, least, scores)?
        }
        "causal" => {
            let keep: Vec<f32> =
                (0..s * t).map(|it| if it % t <= it / t + t - s { 0.0 } else { -1e38 }).collect();
            let mask = b.constant(Tensor::f32([1, 1, s, t], &keep).unwrap());
            b.add(scores, mask)?
        }
        _ => scores,
    };
    let mut p = b.softmax(masked, -1)?;
    if it.mask == "zeroed" {
        let nan = b.isnan(p)?;
        let zero = c(b, 0.0);
        p = b.select(nan, zero, p)?;
    }
    b.matmul(p, v)
}

#[test]
fn attention_in_every_form() {
    for mask in ["none", "added", "chosen", "refused", "zeroed", "causal"] {
        for scale in ["none", "both", "behind"] {
            for keys in ["plain", "wrapped", "scaled", "flat"] {
                for kv_heads in [4, 2, 1] {
                    if keys == "flat" && (kv_heads < 4 || mask == "causal") {
                        continue;
                    }
                    let it = Written { mask, scale, keys, kv_heads };
                    let (graph, fired) = run(|b| attention(b, &it), Licence::Relaxed);
                    let what = format!("{mask} {scale} {keys} {kv_heads}: {fired:?}\n{graph}");
                    let select = if matches!(mask, "chosen" | "refused" | "zeroed") { "select " } else { "" };
                    let left = ops(&graph);
                    let words: Vec<&str> = left.split(' ').filter(|it| *it != "reshape").collect();
                    assert_eq!(words.join(" "), format!("{select}attention"), "{what}");
                    let Some(Op::Attention { zero_masked, causal, k, .. }) =
                        graph.nodes().map(|it| it.1.op.clone()).find(|it| matches!(it, Op::Attention { .. }))
                    else {
                        unreachable!()
                    };
                    assert_eq!((zero_masked, causal), (mask == "zeroed", mask == "causal"), "{what}");
                    if keys != "flat" {
                        assert_eq!(graph.ty(k).shape[1], kv_heads, "{what}");
                        assert!(!left.contains("reshape"), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn weights_that_are_used_again_stay() {
    let (graph, _) = run(
        |b| {
            let (q, k) = (b.input("q", F, [1, 2, 3, 4])?, b.input("k", F, [1, 2, 4, 5])?);
            let v = b.input("v", F, [1, 2, 5, 4])?;
            let scores = b.matmul(q, k)?;
            let p = b.softmax(scores, -1)?;
            let y = b.matmul(p, v)?;
            let sum = b.sum(p, &[-1], true)?;
            b.add(y, sum)
        },
        Licence::Relaxed,
    );
    assert_eq!(ops(&graph), "matmul softmax matmul reduce_sum add");
}
