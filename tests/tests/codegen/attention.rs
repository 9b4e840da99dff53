//! Attention: every tile that each adapter can run, masks, keys after the last.

use wgfuse_compiler::{
    dtype::DType,
    index::Index,
    lower::Expr,
    scalar::BinaryOp,
    schedule::{AttentionTile, LastKey, PlainAttention, RowAttention, Skeleton},
};
use wgfuse_tests::kernel_case::Case;

use crate::var;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Hidden {
    None,
    /// By a table: everything from the first query, some keys from the others.
    Table,
    /// Keys after the query's number plus this.
    After(i64),
}

/// batch, heads, heads that share keys and values, queries, keys, channels, value channels
type Sizes = [usize; 7];

fn attention_case(sizes: Sizes, hidden: Hidden, zero_masked: bool, tile: AttentionTile) {
    attention_placed(sizes, hidden, zero_masked, tile, None);
}

/// `placed`: the number of a key that is another one, as is its value.
fn attention_placed(
    sizes: Sizes,
    hidden: Hidden,
    zero_masked: bool,
    tile: AttentionTile,
    placed: Option<i64>,
) {
    let [batch, heads, share, queries, keys, channels, values] = sizes;
    let mut case = Case::new(24);
    let q = case.input(DType::F32, [batch, queries, heads, channels]);
    let k = case.input(DType::F32, [batch, heads / share, keys, channels]);
    // Once with neighbouring channels apart in memory.
    let v = match channels % 2 {
        0 => case.input(DType::F32, [batch, heads / share, keys, values]),
        _ => case.input(DType::F32, [batch, heads / share, values, keys]),
    };
    let (b, h, i, e) = (var(0, batch), var(1, heads), var(2, queries), var(3, values));
    let (j, d) = (var(4, keys), var(5, channels));
    let group = h.div(share as i64);
    let query = case.load(q, [b.clone(), i.clone(), h.clone(), d.clone()]);
    let mut key = case.load(k, [b.clone(), group.clone(), j.clone(), d.clone()]);
    let mut value = match channels % 2 {
        0 => case.load(v, [b.clone(), group.clone(), j.clone(), e.clone()]),
        _ => case.load(v, [b.clone(), group.clone(), e.clone(), j.clone()]),
    };
    if let Some(place) = placed {
        let place = case.given(DType::I32, [1], &[place as f64]);
        let new_k = case.input(DType::F32, [batch, heads / share, channels]);
        let new_v = case.input(DType::F32, [batch, heads / share, values]);
        let place = case.load(place, [Index::constant(0)]);
        let number = case.body.add(Expr::Coord(j.clone()), DType::I32);
        let here = case.body.binary(BinaryOp::Eq, number, place);
        let new_key = case.load(new_k, [b.clone(), group.clone(), d]);
        key = case.body.select(here, new_key, key);
        let new_value = case.load(new_v, [b.clone(), group.clone(), e.clone()]);
        value = case.body.select(here, new_value, value);
    }
    let mut last_key = None;
    let mask = match hidden {
        Hidden::None => None,
        Hidden::Table => {
            let given: Vec<f64> = (0..queries * keys)
                .map(|at| if at < keys || at % 5 == 3 { f64::NEG_INFINITY } else { (at % 3) as f64 })
                .collect();
            let mask = case.given(DType::F32, [queries, keys], &given);
            Some(case.load(mask, [i.clone(), j.clone()]))
        }
        Hidden::After(offset) => {
            let last = i.offset_by(offset);
            let key = case.body.add(Expr::Coord(j.clone()), DType::I64);
            let bound = case.body.add(Expr::Coord(last.clone()), DType::I64);
            let sees = case.body.binary(BinaryOp::Le, key, bound);
            let open = case.body.constant(DType::F32, 0.0);
            let shut = case.body.constant(DType::F32, f64::NEG_INFINITY);
            last_key = Some(LastKey { each: 1, first: offset as i32 });
            Some(case.body.select(sees, open, shut))
        }
    };
    let result = case.param(0);
    let two = case.body.constant(DType::F32, 2.0);
    let result = case.body.binary(BinaryOp::Mul, result, two);
    case.store([batch, queries, heads, values], [b, i, h, e], result);
    let tile = match tile {
        AttentionTile::Plain(it) => {
            let values_across = values.div_ceil(4).next_power_of_two().min(it.across as usize) as u32;
            let parts = if it.parts == 0 { 1 } else { it.across / values_across };
            AttentionTile::Plain(PlainAttention { heads: share as u32, parts, ..it })
        }
        AttentionTile::Row(_) | AttentionTile::Cooperative(_) => tile,
    };
    let skeleton = Skeleton::Attention {
        space: [batch, heads, queries, values].into(),
        keys,
        channels,
        scale: 0.3,
        zero_masked,
        q: query,
        k: key,
        v: value,
        mask,
        last_key,
        tile,
    };
    case.check(skeleton, 1e-4);
}

/// `parts` 0: one; otherwise as many as there may be.
const fn attention_tile(size: u32, rows: u32, across: u32, parts: u32, hold: [bool; 2]) -> AttentionTile {
    let [hold_keys, hold_values] = hold;
    AttentionTile::Plain(PlainAttention { size, rows, across, heads: 1, parts, hold_keys, hold_values })
}

/// Some workgroups a row.
const fn attention_row(size: u32, across: u32, ahead: u32, slices: u32) -> AttentionTile {
    AttentionTile::Row(RowAttention { size, across, ahead, slices })
}

#[test]
fn attention_of_every_kind() {
    let tiles = [
        attention_tile(128, 16, 16, 0, [true, true]),
        attention_tile(32, 8, 4, 1, [true, true]),
        attention_tile(64, 8, 16, 1, [true, false]),
        attention_tile(64, 4, 16, 1, [false, false]),
        attention_tile(16, 4, 4, 0, [false, true]),
        attention_row(64, 16, 4, 1),
        attention_row(32, 16, 1, 1),
        attention_row(256, 16, 3, 1),
    ];
    for tile in tiles {
        for sizes in
            [[2, 3, 1, 1, 1, 1, 1], [2, 2, 1, 5, 9, 8, 8], [1, 4, 2, 17, 40, 32, 12], [2, 4, 4, 3, 70, 3, 33]]
        {
            for (hidden, zero_masked) in
                [(Hidden::None, false), (Hidden::Table, false), (Hidden::Table, true)]
            {
                attention_case(sizes, hidden, zero_masked, tile);
            }
        }
    }
}

#[test]
fn a_row_is_made_in_slices_of_its_channels() {
    for (tile, values) in [
        (attention_row(64, 16, 4, 4), [16, 32, 45]),
        (attention_row(128, 8, 2, 2), [8, 32, 24]),
        (attention_row(16, 8, 4, 4), [16, 32, 13]),
    ] {
        let [value, other, ragged] = values;
        for sizes in [[2, 3, 1, 1, 1, 1, value], [2, 2, 1, 2, 130, 8, other], [1, 4, 2, 3, 41, 30, ragged]] {
            for (hidden, zero_masked) in [(Hidden::None, false), (Hidden::Table, true)] {
                attention_case(sizes, hidden, zero_masked, tile);
            }
            attention_case(sizes, Hidden::After(sizes[4] as i64 / 2), true, tile);
        }
    }
}

#[test]
fn a_placed_key_stands_for_another() {
    // Of one step and of several, whose first, last and other keys are placed, and none.
    for (tile, keys) in [
        (attention_row(64, 16, 4, 2), 70),
        (attention_row(64, 16, 4, 1), 16),
        (attention_row(128, 8, 4, 4), 130),
    ] {
        for place in [0, 15, 16, 37, keys as i64 - 1, keys as i64, -1] {
            attention_placed([1, 4, 2, 1, keys, 30, 32], Hidden::None, false, tile, Some(place));
            attention_placed([2, 2, 1, 2, keys, 32, 32], Hidden::Table, true, tile, Some(place));
            attention_placed(
                [1, 2, 2, 2, keys, 8, 32],
                Hidden::After(keys as i64 / 2),
                false,
                tile,
                Some(place),
            );
        }
    }
}

#[test]
fn hidden_keys_are_left_out() {
    for ((queries, keys), tile) in [(20, 20), (7, 128), (1, 513), (33, 7)]
        .into_iter()
        .flat_map(|it| [(it, attention_tile(32, 8, 4, 1, [true, true])), (it, attention_row(64, 4, 4, 1))])
    {
        for offset in [0, keys as i64 - queries as i64, -3, 600] {
            attention_case([1, 2, 2, queries, keys, 8, 4], Hidden::After(offset), true, tile);
            attention_case([1, 2, 1, queries, keys, 4, 8], Hidden::After(offset), false, tile);
        }
    }
}
