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
        "subtracted" => {
            let mask = b.input("mask", F, [s, t])?;
            b.sub(scores, mask)?
        }
        "both" => {
            // A causal choice, then a mask of keys, then a factor.
            let cond = b.input("cond", DType::Bool, [s, t])?;
            let least = c(b, least);
            let chosen = b.select(cond, scores, least)?;
            let mask = b.input("mask", F, [1, t])?;
            let sum = b.add(chosen, mask)?;
            b.mul_scalar(sum, 0.5)?
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
    for mask in ["none", "added", "subtracted", "chosen", "refused", "zeroed", "both", "causal"] {
        for scale in ["none", "both", "behind"] {
            for keys in ["plain", "wrapped", "scaled", "flat"] {
                for kv_heads in [4, 2, 1] {
                    if keys == "flat" && (kv_heads < 4 || mask == "causal") {
                        continue;
                    }
                    let it = Written { mask, scale, keys, kv_heads };
                    let (graph, fired) = run(|b| attention(b, &it), Licence::Relaxed);
                    let what = format!("{mask} {scale} {keys} {kv_heads}: {fired:?}\n{graph}");
                    let select = match mask {
                        "chosen" | "refused" | "zeroed" => "select ",
                        "subtracted" => "neg ",
                        "both" => "select add mul ",
                        _ => "",
                    };
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

/// Queries see no later keys, by a comparison of positions or by a part of a large table of truths.
fn causal(b: &mut B, how: &str, late: usize) -> Result<Value, Error> {
    let (s, t) = (290usize, 300usize);
    let [q, k, v] = [("q", s), ("k", t), ("v", t)].map(|(name, rows)| b.input(name, F, [1, 1, rows, 2]));
    let (q, k, v) = (q?, k?, v?);
    let k = b.transpose(k, -1, -2)?;
    let scores = b.matmul(q, k)?;
    let scores = b.mul_scalar(scores, 0.25)?;
    let count = |from: usize, to: usize| (from as i64..to as i64).collect::<Vec<_>>();
    let rows = b.constant(Tensor::i64([s, 1], &count(late, late + s)).unwrap());
    let columns = b.constant(Tensor::i64([1, t], &count(0, t)).unwrap());
    let table = |b: &mut B| {
        let truths = (0..512 * 512).map(|it| Scalar::Int(i64::from(it % 512 <= it / 512)));
        let ty = Type::new(DType::Bool, [1, 1, 512, 512]);
        let whole = b.constant(Tensor::from_scalars(ty, truths.collect::<Vec<_>>()));
        let part = b.slice(whole, 2, late as isize, (late + s) as isize)?;
        b.slice(part, 3, 0, t as isize)
    };
    let least = c(b, f64::NEG_INFINITY);
    let zero = c(b, 0.0);
    let masked = match how {
        "ge" => {
            let seen = b.ge(rows, columns)?;
            b.select(seen, scores, least)?
        }
        "gt, added" => {
            let hidden = b.lt(rows, columns)?;
            let mask = b.select(hidden, least, zero)?;
            b.add(scores, mask)?
        }
        "not" => {
            let seen = b.le(columns, rows)?;
            let hidden = b.logical_not(seen)?;
            b.select(hidden, least, scores)?
        }
        "and" => {
            // A window that is as long as there are keys.
            let seen = b.ge(rows, columns)?;
            let past = b.constant(Tensor::i64([1, t], &count(0, t)).unwrap());
            let all = b.scalar(DType::I64, 1e6);
            let near = b.lt(past, all)?;
            let seen = b.logical_and(seen, near)?;
            b.select(seen, scores, least)?
        }
        _ => {
            let seen = table(b)?;
            b.select(seen, scores, least)?
        }
    };
    let p = b.softmax(masked, -1)?;
    b.matmul(p, v)
}

#[test]
fn causal_masks_are_known_however_they_are_computed() {
    for how in ["ge", "gt, added", "not", "and", "table"] {
        for (late, is_causal) in [(10, true), (9, false), (0, false)] {
            let (graph, _) = run(|b| causal(b, how, late), Licence::Relaxed);
            let found = graph.nodes().find_map(|it| match it.1.op {
                Op::Attention { causal, mask, .. } => Some((causal, mask.is_some())),
                _ => None,
            });
            assert_eq!(found, Some((is_causal, !is_causal)), "{how}, {late}");
        }
    }
}

#[test]
fn weights_of_halves_may_be_made_in_f32() {
    let made = |mask: &'static str| {
        run(
            |b| {
                let half = DType::F16;
                let q = b.input("q", half, [1, 2, 3, 4])?;
                let k = b.input("k", half, [1, 2, 4, 5])?;
                let v = b.input("v", half, [1, 2, 5, 4])?;
                let scores = b.matmul(q, k)?;
                let scores = b.mul_scalar(scores, 0.5)?;
                let wide = b.cast(scores, F)?;
                let wide = match mask {
                    "none" => wide,
                    "halves" => {
                        let mask = b.input("mask", half, [3, 5])?;
                        let mask = b.cast(mask, F)?;
                        b.add(wide, mask)?
                    }
                    "infinite" => {
                        let cond = b.input("cond", DType::Bool, [3, 5])?;
                        let least = c(b, f64::NEG_INFINITY);
                        b.select(cond, wide, least)?
                    }
                    _ => {
                        // In halves this is infinite, and a row that hides all keys would be no number.
                        let cond = b.input("cond", DType::Bool, [3, 5])?;
                        let least = c(b, -1e38);
                        b.select(cond, wide, least)?
                    }
                };
                let p = b.softmax(wide, -1)?;
                let p = b.cast(p, half)?;
                let y = b.matmul(p, v)?;
                // Of what is rounded differently only the sign is compared.
                let y = b.isnan(y)?;
                b.cast(y, F)
            },
            Licence::Relaxed,
        )
    };
    for (mask, left) in [("none", "attention"), ("halves", "attention"), ("infinite", "select attention")] {
        let left_over = ops(&made(mask).0);
        let words: Vec<&str> =
            left_over.split(' ').filter(|it| !matches!(*it, "reshape" | "permute")).collect();
        assert_eq!(words.join(" "), format!("{left} isnan cast"), "{mask}");
    }
    assert!(ops(&made("large").0).contains("softmax"));
}
