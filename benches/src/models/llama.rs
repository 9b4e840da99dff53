//! Llama: pre-norm, rotary positions, grouped queries, gated feed-forward. `decode` is one token against caches of
//! fixed length, which are states: they stay on the device.

use wgfuse::{DType, GraphBuilder, Tensor, Type, compiler::graph::Value};

use super::{Built, Parts, join_heads, split_heads};
use crate::random::round;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Llama {
    layers: usize,
    dim: usize,
    heads: usize,
    kv_heads: usize,
    ffn: usize,
    vocab: usize,
    /// Tokens of a prefill, and of the cache.
    pub length: usize,
}

const EPS: f64 = 1e-5;

/// What attention needs to know of positions.
struct Places {
    cos: Value,
    sin: Value,
    /// Of a decode step.
    step: Option<Step>,
}

struct Step {
    /// [1], the token's own place.
    position: Value,
    /// [1,1,1,length], added to the scores.
    mask: Value,
}

impl Llama {
    /// The sizes of TinyLlama 1.1B.
    pub const TINY: Llama =
        Llama { layers: 22, dim: 2048, heads: 32, kv_heads: 4, ffn: 5632, vocab: 32000, length: 512 };
    pub const SMALL: Llama =
        Llama { layers: 2, dim: 128, heads: 4, kv_heads: 2, ffn: 256, vocab: 500, length: 32 };

    fn width(&self) -> usize {
        self.dim / self.heads
    }

    /// The logits of the last of `length` tokens.
    pub fn prefill(&self, b: &mut GraphBuilder, parts: &mut Parts) -> Built<()> {
        let ids = parts.input(b, "ids", DType::I64, &[self.length], (0.0, 100.0))?;
        let places =
            Places { cos: self.table(b, parts, f64::cos), sin: self.table(b, parts, f64::sin), step: None };
        self.logits(b, parts, ids, &places)
    }

    /// The logits after one token at the place `position`, the last.
    pub fn decode(&self, b: &mut GraphBuilder, parts: &mut Parts) -> Built<()> {
        let ids = parts.input(b, "ids", DType::I64, &[1], (0.0, 100.0))?;
        let last = self.length as i64 - 1;
        let position = parts.given(b, "position", Tensor::i64([1], &[last]).expect("one"))?;
        let all = b.constant(Tensor::i64([self.length], &(0..=last).collect::<Vec<_>>()).expect("as many"));
        let length = self.length as isize;
        let seen = b.le(all, position)?;
        let (near, far) = (parts.scalar(b, 0.0), parts.scalar(b, -1e4));
        let mask = b.select(seen, near, far)?;
        let mask = b.reshape(mask, &[1, 1, 1, length])?;
        let (cos, sin) = (self.table(b, parts, f64::cos), self.table(b, parts, f64::sin));
        let (cos, sin) = (b.gather(cos, 0, position)?, b.gather(sin, 0, position)?);
        self.logits(b, parts, ids, &Places { cos, sin, step: Some(Step { position, mask }) })
    }

    fn logits(&self, b: &mut GraphBuilder, parts: &mut Parts, ids: Value, places: &Places) -> Built<()> {
        let words = parts.spread(b, &[self.vocab, self.dim], 1.0);
        let mut x = b.embedding(words, ids)?;
        for layer in 0..self.layers {
            x = self.layer(b, parts, x, places, layer)?;
        }
        let x = b.slice(x, 1, -1, isize::MAX)?;
        let x = self.norm(b, parts, x)?;
        let logits = parts.linear(b, x, [self.vocab, self.dim], 1.0, false)?;
        b.output("logits", logits)
    }

    fn layer(
        &self,
        b: &mut GraphBuilder,
        parts: &mut Parts,
        x: Value,
        places: &Places,
        layer: usize,
    ) -> Built<Value> {
        let Llama { layers, dim, heads, kv_heads, ffn, .. } = *self;
        let (width, batch) = (self.width(), parts.batch);
        // So that the sum over all layers keeps its scale.
        let gain = 1.0 / (2.0 * layers as f64).sqrt();
        let y = self.norm(b, parts, x)?;
        let mut projected = |heads: usize| {
            let it = parts.linear(b, y, [heads * width, dim], 1.0, false)?;
            split_heads(b, it, batch, heads, width)
        };
        let (q, k, v) = (projected(heads)?, projected(kv_heads)?, projected(kv_heads)?);
        let q = self.turned(b, q, places)?;
        let k = self.turned(b, k, places)?;
        let y = match &places.step {
            None => b.attention(q, k, v, None, true)?,
            Some(step) => {
                let mut cached = |name: &str, new: Value| {
                    let (name, dtype) = (format!("{name}_{layer}"), parts.dtype);
                    let shape = [kv_heads, self.length, width];
                    let old = parts.state(b, &name, dtype, &shape, (-1.0, 1.0))?;
                    let whole = b.update_slice(old, 2, step.position, new)?;
                    b.update(old, whole)?;
                    Ok::<Value, wgfuse::ModelError>(whole)
                };
                let (k, v) = (cached("k", k)?, cached("v", v)?);
                b.attention(q, k, v, Some(step.mask), false)?
            }
        };
        let y = join_heads(b, y, batch, dim)?;
        let y = parts.linear(b, y, [dim, dim], gain, false)?;
        let x = b.add(x, y)?;
        let y = self.norm(b, parts, x)?;
        let gate = parts.linear(b, y, [ffn, dim], 1.0, false)?;
        let gate = b.silu(gate)?;
        let up = parts.linear(b, y, [ffn, dim], 1.0, false)?;
        let y = b.mul(gate, up)?;
        let y = parts.linear(b, y, [dim, ffn], gain, false)?;
        b.add(x, y)
    }

    fn norm(&self, b: &mut GraphBuilder, parts: &mut Parts, x: Value) -> Built<Value> {
        let scale = parts.weight(b, &[self.dim], 0.5, 1.5);
        b.rms_norm(x, -1, Some(scale), EPS)
    }

    /// [b, h, s, width], each pair (i, i + width/2) turned by its angle.
    fn turned(&self, b: &mut GraphBuilder, x: Value, places: &Places) -> Built<Value> {
        let half = self.width() as isize / 2;
        let (left, right) = (b.slice(x, -1, 0, half)?, b.slice(x, -1, half, 2 * half)?);
        let right = b.neg(right)?;
        let swapped = b.concat(&[right, left], -1)?;
        let (a, c) = (b.mul(x, places.cos)?, b.mul(swapped, places.sin)?);
        b.add(a, c)
    }

    /// `of` of every place's angles: [length, width], both halves alike.
    fn table(&self, b: &mut GraphBuilder, parts: &Parts, of: fn(f64) -> f64) -> Value {
        let half = self.width() / 2;
        let angle = |at: usize| {
            let (place, pair) = (at / (2 * half), at % half);
            place as f64 * 10_000f64.powf(-(pair as f64) / half as f64)
        };
        let values = (0..self.length * 2 * half).map(|at| of(angle(at)) as f32).collect();
        let ty = Type::new(parts.dtype, [self.length, 2 * half]);
        b.constant(round(ty, values))
    }
}
