//! Attention with subgraphs of the user's between its steps (ai.onnx.preview's FlexAttention), which are inlined.

use super::{
    convert::{Convert, named},
    node::Node,
    proto::{GraphProto, NodeProto},
    scope::{Scope, Slot, What},
};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Real, Value},
    scalar::BinaryOp,
};

impl Convert<'_> {
    pub fn flex_attention(
        &mut self,
        node: &NodeProto,
        n: &Node,
        slots: &[Slot],
        path: &str,
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        if let Some(made) = self.waiting(node, slots, scope) {
            return Ok(made);
        }
        let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
        let e = &mut self.emit;
        let (q_shape, k_shape, v_shape) = (e.shape(q), e.shape(k), e.shape(v));
        let ([b, heads, rows, depth], [kb, own, seen, kd], [vb, vo, vs, wide]) =
            (&q_shape[..], &k_shape[..], &v_shape[..])
        else {
            return Err(n.error(format!("{q_shape}, {k_shape} and {v_shape} are not all of rank 4")));
        };
        let fits = [kb, vb] == [b, b] && kd == depth && vo == own && vs == seen;
        if !fits || *own == 0 || !heads.is_multiple_of(*own) {
            return Err(n.error(format!("queries {q_shape}, keys {k_shape} and values {v_shape} do not fit")));
        }
        let dtype = e.dtype(q);
        let precision = match n.opt_int("softmax_precision")? {
            Some(code) => super::tensor::dtype(i32::try_from(code).unwrap_or(-1))
                .map_err(|what| n.unsupported(format!("the precision {what}")))?,
            None if dtype == DType::F64 => DType::F64,
            None => DType::F32,
        };
        let scale = n.float("scale", 1.0 / (*depth as f64).sqrt())?;
        let graph =
            |name: &str| node.attribute.iter().find(|it| it.name == name).and_then(|it| it.g.as_deref());
        let (score_mod, prob_mod) = (graph("score_mod"), graph("prob_mod"));
        if score_mod.is_none() && prob_mod.is_none() {
            let op =
                Op::Attention { scale: Real(scale), causal: false, zero_masked: false, q, k, v, mask: None };
            let y = e.add(op)?;
            return Ok(named(node, scope, [What::Tensor(y)]));
        }
        // Queries that share a head of keys are rows of one product.
        let group = heads / own;
        let q = e.cast(q, precision)?;
        let q = e.reshape(q, [*b, *own, group * rows, *depth])?;
        let k = e.cast(k, precision)?;
        let k = e.permute(k, &[0, 1, 3, 2])?;
        let scores = e.matmul(q, k)?;
        let scores = e.with(BinaryOp::Mul, scores, scale)?;
        let scores = e.reshape(scores, [*b, *heads, *rows, *seen])?;
        let scores = self.modified(score_mod, scores, n, &format!("{path}0."), scope)?;
        let probs = self.emit.add(Op::Softmax { axis: 3, log: false, x: scores })?;
        let probs = self.modified(prob_mod, probs, n, &format!("{path}1."), scope)?;
        let e = &mut self.emit;
        let probs = e.reshape(probs, [*b, *own, group * rows, *seen])?;
        let v = e.cast(v, precision)?;
        let y = e.matmul(probs, v)?;
        let y = e.reshape(y, [*b, *heads, *rows, *wide])?;
        let y = e.cast(y, dtype)?;
        Ok(named(node, scope, [What::Tensor(y)]))
    }

    /// `x` through a subgraph of one input and one output, which may change no shape and no type.
    fn modified(
        &mut self,
        graph: Option<&GraphProto>,
        x: Value,
        n: &Node,
        path: &str,
        scope: &Scope,
    ) -> Result<Value, Error> {
        let Some(graph) = graph else { return Ok(x) };
        let ([input], [_]) = (&graph.input[..], &graph.output[..]) else {
            return Err(n.error("a subgraph has not one input and one output"));
        };
        let slot = Slot { key: format!("{path}:{}", input.name).into(), what: What::Tensor(x) };
        let made = self.inner(graph, vec![(&input.name, slot)], n.name, path, scope)?;
        match made.first().map(|it| &it.what) {
            Some(&What::Tensor(y)) if self.emit.graph.ty(y) == self.emit.graph.ty(x) => Ok(y),
            Some(What::Tensor(_)) => Err(n.error("a subgraph changes the shape or the type")),
            _ => Err(n.unsupported("a subgraph whose sizes follow from values")),
        }
    }
}
