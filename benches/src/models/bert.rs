//! BERT encoders: post-norm, learned positions, gelu.

use wgfuse::{
    DType, GraphBuilder, Tensor,
    compiler::{graph::Value, scalar::BinaryOp},
};

use super::{Built, Parts, join_heads, split_heads};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bert {
    layers: usize,
    dim: usize,
    heads: usize,
    ffn: usize,
    vocab: usize,
    pub length: usize,
}

const EPS: f64 = 1e-12;

impl Bert {
    pub const MINILM: Bert = Bert { layers: 6, dim: 384, heads: 12, ffn: 1536, vocab: 30522, length: 128 };
    pub const BASE: Bert = Bert { layers: 12, dim: 768, heads: 12, ffn: 3072, vocab: 30522, length: 128 };
    pub const SMALL: Bert = Bert { layers: 2, dim: 64, heads: 4, ffn: 128, vocab: 1000, length: 32 };

    pub fn build(&self, b: &mut GraphBuilder, parts: &mut Parts) -> Built<()> {
        let Bert { layers, dim, heads, ffn, vocab, length } = *self;
        let batch = parts.batch;
        let ids = parts.input(b, "input_ids", DType::I64, &[length], (0.0, 100.0))?;
        let ones = Tensor::i64([batch, length], &vec![1; batch * length]).expect("as many ones");
        let mask = parts.given(b, "attention_mask", ones)?;

        let words = parts.spread(b, &[vocab, dim], 1.0);
        let places = parts.spread(b, &[length, dim], 0.5);
        let kind = parts.spread(b, &[dim], 0.5);
        let x = b.embedding(words, ids)?;
        let x = b.add(x, places)?;
        let x = b.add(x, kind)?;
        let mut x = self.norm(b, parts, x)?;

        let hidden = b.with_scalar(BinaryOp::Eq, mask, 0.0)?;
        let hidden = b.reshape(hidden, &[batch as isize, 1, 1, length as isize])?;
        let (far, near) = (parts.scalar(b, -1e4), parts.scalar(b, 0.0));
        let mask = b.select(hidden, far, near)?;
        for _ in 0..layers {
            let mut projected = || {
                let it = parts.linear(b, x, [dim, dim], 1.0, true)?;
                split_heads(b, it, batch, heads, dim / heads)
            };
            let (q, k, v) = (projected()?, projected()?, projected()?);
            let y = b.attention(q, k, v, Some(mask), false)?;
            let y = join_heads(b, y, batch, dim)?;
            let y = parts.linear(b, y, [dim, dim], 1.0, true)?;
            let sum = b.add(x, y)?;
            x = self.norm(b, parts, sum)?;
            let y = parts.linear(b, x, [ffn, dim], 1.0, true)?;
            let y = b.gelu(y)?;
            let y = parts.linear(b, y, [dim, ffn], 1.0, true)?;
            let sum = b.add(x, y)?;
            x = self.norm(b, parts, sum)?;
        }
        b.output("last_hidden_state", x)
    }

    fn norm(&self, b: &mut GraphBuilder, parts: &mut Parts, x: Value) -> Built<Value> {
        let scale = parts.weight(b, &[self.dim], 0.5, 1.5);
        let bias = parts.spread(b, &[self.dim], 0.1);
        b.layer_norm(x, -1, Some(scale), Some(bias), EPS)
    }
}
