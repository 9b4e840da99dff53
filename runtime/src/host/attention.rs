//! Kernels of attention: scores by a matrix product, softmax of each row, a second product.

use smallvec::SmallVec;
use wgfuse_compiler::{bug, dtype::DType, lower::Body, schedule::kernel::Skeleton};

use super::{
    Operand, Parts,
    contract::{self, PANEL},
    finish::{Finish, Tile},
    loops::{self, Lane},
    scratch,
    side::{Axis, Matrix, Product, Side},
    vector,
};

pub struct Attention {
    lane: Lane,
    batch: Axis,
    queries: Axis,
    keys: Axis,
    channels: Axis,
    values: Axis,
    scale: f64,
    zero_masked: bool,
    q: Side,
    k: Side,
    v: Side,
    mask: Option<Side>,
    finish: Finish,
}

impl Attention {
    /// `skeleton` is that of an attention kernel.
    pub fn new(parts: &Parts, skeleton: &Skeleton) -> Attention {
        let Skeleton::Attention { scale, zero_masked, q, k, v, mask, .. } = skeleton else {
            bug!("attention has its own skeleton");
        };
        let dtype = contract::result_type(parts, *q);
        let lane = Lane::of(dtype);
        let held = if lane == Lane::F64 { DType::F64 } else { DType::F32 };
        let mut body: Body = parts.body.clone();
        let [q, k, v] = [q, k, v].map(|it| body.cast(held, *it));
        let mask = mask.map(|it| body.cast(held, it));
        let parts = &Parts { body: &body, ..*parts };
        let axis = |vars: &[usize]| Axis::new(vars, parts.space);
        let (batch, queries, values) = (axis(&[0, 1]), axis(&[2]), axis(&[3]));
        let (keys, channels) = (axis(&[4]), axis(&[5]));
        let finish = Finish::new(parts, dtype, lane, &queries, &values);
        Attention {
            lane,
            scale: *scale,
            zero_masked: *zero_masked,
            q: Side::new(parts, &queries, &channels, q, lane),
            k: Side::new(parts, &keys, &channels, k, lane),
            v: Side::new(parts, &values, &keys, v, lane),
            mask: mask.map(|it| Side::new(parts, &queries, &keys, it, lane)),
            finish,
            batch,
            queries,
            keys,
            channels,
            values,
        }
    }

    /// # Safety
    /// As `host::run`.
    pub unsafe fn run(&self, operands: &[Operand]) {
        let (queries, keys) = (self.queries.count, self.keys.count);
        if queries == 0 || self.batch.count == 0 || self.values.count == 0 {
            return;
        }
        let fits = (PANEL / (keys.max(1) * self.lane.size())).max(16).min(queries);
        let wanted = (2 * scratch::threads()).div_ceil(self.batch.count);
        let tile = fits.min(queries.div_ceil(wanted).next_multiple_of(16)).min(queries);
        let tiles = queries.div_ceil(tile);
        let work = self.batch.count * queries * keys * (self.channels.count + self.values.count);
        scratch::each(self.batch.count * tiles, work, |task| {
            let first = task % tiles * tile;
            unsafe { self.tile(operands, task / tiles, first, tile.min(queries - first)) };
        });
    }

    unsafe fn tile(&self, operands: &[Operand], batch: usize, first: usize, count: usize) {
        let size = self.lane.size();
        let (keys, channels, cols) = (self.keys.count, self.channels.count, self.values.count);
        let mut values: SmallVec<[i64; 8]> = SmallVec::from_elem(0, 6);
        self.batch.set(&mut values, batch);
        let sides = [&self.q, &self.k, &self.v].into_iter().chain(&self.mask);
        let registers = sides.map(Side::registers).max().unwrap_or(0).max(self.finish.registers());
        let mask_bytes = self.mask.as_ref().map_or(0, |it| it.panel_bytes(count, keys, size));
        let parts = [
            registers,
            self.q.panel_bytes(count, channels, size).max(mask_bytes),
            self.k.panel_bytes(keys, channels, size),
            self.v.panel_bytes(cols, keys, size),
            count * keys * size,
            self.finish.result_bytes(count, cols, size),
        ]
        .map(|it| it.next_multiple_of(64) + 64);
        scratch::with(parts.iter().sum(), |base| unsafe {
            let [_, at_q, at_k, at_v, scores, result] = {
                let mut at = base;
                parts.map(|bytes| {
                    let own = at;
                    at = at.add(bytes);
                    own
                })
            };
            let (by_channel, by_key) = (&self.channels, &self.keys);
            let q = self.q.matrix(operands, &mut values, by_channel, size, first, count, base, at_q);
            let k = self.k.matrix(operands, &mut values, by_channel, size, 0, keys, base, at_k);
            let product = Product { rows: count, cols: keys, depth: channels, by: self.scale };
            product.run(self.lane, q, k, scores, keys as isize, 1);
            if let Some(mask) = &self.mask {
                let mask = mask.matrix(operands, &mut values, by_key, size, first, count, base, at_q);
                match self.lane {
                    Lane::F64 => add_mask::<f64>(scores, mask, count, keys),
                    _ => add_mask::<f32>(scores, mask, count, keys),
                }
            }
            match self.lane {
                Lane::F64 => loops::slice_mut::<f64>(scores, count * keys)
                    .chunks_mut(keys.max(1))
                    .for_each(|row| softmax64(row, self.zero_masked)),
                _ => loops::slice_mut::<f32>(scores, count * keys)
                    .chunks_mut(keys.max(1))
                    .for_each(|row| softmax32(row, self.zero_masked)),
            }
            let v = self.v.matrix(operands, &mut values, by_key, size, 0, cols, base, at_v);
            let tile = Tile { row: first, rows: count, col: 0, cols };
            let (to, row, col) = self.finish.target(operands, &values, &tile, size, result);
            let weights = Matrix { at: scores, side: keys as isize, depth: 1 };
            let product = Product { rows: count, cols, depth: keys, by: 1.0 };
            product.run(self.lane, weights, v, to, row, col);
            let axes = [&self.queries, &self.values];
            self.finish.run(operands, &mut values, &tile, axes, size, base, result);
        });
    }
}

/// # Safety
/// `scores` holds `rows * keys` elements, the mask as many by its strides.
unsafe fn add_mask<T: Copy + std::ops::AddAssign>(scores: *mut u8, mask: Matrix, rows: usize, keys: usize) {
    for row in 0..rows {
        let own = unsafe { loops::slice_mut::<T>(scores.add(row * keys * size_of::<T>()), keys) };
        let mask_row = mask.at.cast::<T>().wrapping_offset(row as isize * mask.side);
        if mask.depth == 1 {
            let mask_row = unsafe { std::slice::from_raw_parts(mask_row, keys) };
            own.iter_mut().zip(mask_row).for_each(|(it, mask)| *it += *mask);
        } else {
            for (key, it) in own.iter_mut().enumerate() {
                *it += unsafe { *mask_row.offset(key as isize * mask.depth) };
            }
        }
    }
}

fn softmax32(row: &mut [f32], zero_masked: bool) {
    let high = vector::reduce(wgfuse_compiler::scalar::ReduceOp::Max, row);
    if high == f32::NEG_INFINITY {
        return row.fill(if zero_masked { 0.0 } else { f32::NAN });
    }
    let sum = vector::exp_sum(row, high);
    vector::scale(row, 1.0 / sum);
}

fn softmax64(row: &mut [f64], zero_masked: bool) {
    let larger = |a: f64, b: &f64| if a > *b || a.is_nan() { a } else { *b };
    let high = row.iter().fold(f64::NEG_INFINITY, larger);
    if high == f64::NEG_INFINITY {
        return row.fill(if zero_masked { 0.0 } else { f64::NAN });
    }
    row.iter_mut().for_each(|it| *it = (*it - high).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|it| *it /= sum);
}
