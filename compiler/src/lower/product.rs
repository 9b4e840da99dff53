//! Matrix products and attention.

use super::{Body, Coords, Expr, Lowering, NestKind, TensorId, broadcast, wide};
use crate::{
    dtype::DType,
    graph::Value,
    index::Index,
    scalar::BinaryOp,
    shape::{Shape, Type},
};

impl Lowering<'_> {
    pub(super) fn matmul(&mut self, a: Value, b: Value, ty: Type) -> TensorId {
        let (left, right) = (self.shape(a).clone(), self.shape(b).clone());
        let rank = ty.shape.rank();
        let depth = Shape::new(&[left[left.rank() - 1]]);
        let k = Index::var(rank, depth[0]);
        // A vector has no row, or no column, in the result.
        let (has_row, has_col) = (left.rank() > 1, right.rank() > 1);
        let outer = rank - has_row as usize - has_col as usize;
        let batch: Coords = (0..outer).map(|axis| Index::var(axis, ty.shape[axis])).collect();

        let mut at_a = broadcast(&left[..left.rank().saturating_sub(2)], &batch);
        if has_row {
            at_a.push(Index::var(outer, ty.shape[outer]));
        }
        at_a.push(k.clone());
        let mut at_b = broadcast(&right[..right.rank().saturating_sub(2)], &batch);
        at_b.push(k);
        if has_col {
            at_b.push(Index::var(rank - 1, ty.shape[rank - 1]));
        }

        let mut body = Body::default();
        let a = self.read_wide(&mut body, a, at_a);
        let b = self.read_wide(&mut body, b, at_b);
        let sum = Type { dtype: wide(ty.dtype), shape: ty.shape.clone() };
        let sum = self.nest(sum, body, NestKind::Contract { depth, a, b });
        self.narrow(sum, ty)
    }

    pub(super) fn attention(
        &mut self,
        scale: f64,
        causal: bool,
        zero_masked: bool,
        [q, k, v]: [Value; 3],
        mask: Option<Value>,
        ty: Type,
    ) -> TensorId {
        let (queries, heads) = (self.shape(q).clone(), ty.shape[1]);
        let (keys, groups) = (self.shape(k)[2], self.shape(k)[1]);
        let channels = queries[3];
        let dtype = wide(ty.dtype);
        let [batch, head, query, value] = [0, 1, 2, 3].map(|axis| Index::var(axis, ty.shape[axis]));
        let (key, channel) = (Index::var(4, keys), Index::var(5, channels));
        let group = head.div((heads / groups.max(1)).max(1) as i64);

        let mut body = Body::default();
        let at = |row: &Index, col: &Index, head: &Index| -> Coords {
            [&batch, head, row, col].into_iter().cloned().collect()
        };
        let q = self.read_wide(&mut body, q, at(&query, &channel, &head));
        let k = self.read_wide(&mut body, k, at(&key, &channel, &group));
        let v = self.read_wide(&mut body, v, at(&key, &value, &group));
        let mask = mask.map(|mask| {
            let read = self.read_broadcast(&mut body, mask, &at(&query, &key, &head));
            body.cast(dtype, read)
        });
        let mask = if causal {
            let last = query.offset_by(keys as i64 - queries[2] as i64);
            let (key, last) =
                (body.add(Expr::Coord(key), DType::I64), body.add(Expr::Coord(last), DType::I64));
            let seen = body.binary(BinaryOp::Le, key, last);
            let open = mask.unwrap_or_else(|| body.constant(dtype, 0.0));
            let shut = body.constant(dtype, f64::NEG_INFINITY);
            Some(body.select(seen, open, shut))
        } else {
            mask
        };
        let wide = Type { dtype, shape: ty.shape.clone() };
        let kind = NestKind::Attention { keys, channels, scale, zero_masked, q, k, v, mask };
        let result = self.nest(wide, body, kind);
        self.narrow(result, ty)
    }
}
