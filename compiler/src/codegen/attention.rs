//! Skeleton: attention, by the template `attention.wgsl` or `attention_coop.wgsl`, with everything that was fused before it in its loads and
//! everything after it in its store.

use naga::{BinaryOperator, MathFunction};

use super::{
    grid,
    holes::Holes,
    library::{self, File},
    memory::Memory,
    types::Word,
    writer::{Code, FunctionHandle, Writer},
};
use crate::{
    bug,
    error::Error,
    lower::ExprId,
    schedule::{AttentionTile, Kernel, LastKey, Replaced, Skeleton, Store, replaced},
    target::Target,
};

/// Numbers of the loop variables.
const BATCH: usize = 0;
const HEAD: usize = 1;
const QUERY: usize = 2;
const VALUE_CHANNEL: usize = 3;
const KEY: usize = 4;
const CHANNEL: usize = 5;
const NAMES: [&str; 6] = ["b", "h", "i", "e", "j", "d"];

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let Skeleton::Attention { space, keys, channels, scale, zero_masked, q, k, v, mask, last_key, tile } =
        &kernel.skeleton
    else {
        bug!("{}: not attention", kernel.name)
    };
    let holes = Holes {
        memory,
        kernel,
        extents: space.iter().chain([keys, channels]).copied().collect(),
        groups: (0..6).map(|it| [it].into_iter().collect()).collect(),
        names: &NAMES,
        slab: None,
    };
    if *channels == 0 {
        let node = kernel.origins.first().map_or("", |it| it);
        return Err(Error::unsupported("Attention", node, "queries have no channels"));
    }
    let (file, mut constants) = match tile {
        AttentionTile::Plain(tile) => (
            File::Attention,
            vec![
                ("SIZE", tile.size),
                ("ROWS", tile.rows),
                ("ACROSS", tile.across),
                ("PARTS", tile.parts),
                ("HOLD_KEYS", tile.hold_keys as u32),
                ("HOLD_VALUES", tile.hold_values as u32),
            ],
        ),
        AttentionTile::Row(tile) => (
            File::AttentionRow,
            vec![
                ("SIZE", tile.size),
                ("ACROSS", tile.across),
                ("AHEAD", tile.ahead),
                ("SLICES", tile.slices),
                ("KEYS", (*keys).max(1) as u32),
            ],
        ),
        AttentionTile::Cooperative(tile) => (
            File::AttentionCoop,
            vec![
                ("SUBGROUP", tile.subgroup),
                ("TEAMS", tile.teams),
                ("PARTS", tile.parts),
                ("SUB_ROWS", tile.sub_rows),
                ("KEYS", tile.keys),
                ("SUB_KEYS", tile.sub_keys),
                ("MASKED", mask.is_some() as u32),
                ("KEYS_WHOLE", keys.is_multiple_of(tile.sub_keys as usize) as u32),
            ],
        ),
    };
    match tile {
        AttentionTile::Plain(_) | AttentionTile::Cooperative(_) => constants.push(("HEADS", tile.heads())),
        AttentionTile::Row(_) => {}
    }
    constants.extend([("CHANNELS", *channels as u32), ("VALUE_CHANNELS", space[VALUE_CHANNEL] as u32)]);
    let template = library::library(file, &constants);
    for (name, var) in [("batches", BATCH), ("heads", HEAD), ("queries", QUERY), ("keys", KEY)] {
        let function = holes.size(writer, name, var);
        template.fill(writer, name, function);
    }
    let mut code = Code::new(writer, "scale");
    code.result(Word::F32);
    let value = code.f32_any(*scale as f32);
    code.give(Some(value));
    let function = code.function();
    template.fill(writer, "scale", function);

    let mut code = Code::new(writer, "zero_masked");
    code.result(Word::Bool);
    let value = code.bool(*zero_masked);
    code.give(Some(value));
    let function = code.function();
    template.fill(writer, "zero_masked", function);

    let function = seen(writer, *last_key, *keys as u32);
    template.fill(writer, "seen", function);
    let (mut k, mut v) = (*k, *v);
    if let AttentionTile::Row(_) = tile {
        let operands = [
            (&mut k, ["place_k", "load_placed_k"], CHANNEL),
            (&mut v, ["place_v", "load_placed_v"], VALUE_CHANNEL),
        ];
        for (operand, [place, load], along) in operands {
            let Some((parts, word)) = placed(kernel, *operand) else { continue };
            let function = holes.integer(writer, place, &[BATCH, HEAD], parts.place, word);
            template.fill(writer, place, function);
            let function = holes.load_four(writer, load, &[BATCH, HEAD, along], along, parts.value);
            template.fill(writer, load, function);
            *operand = parts.there;
        }
    }
    let loads = [
        ("load_q", [BATCH, HEAD, QUERY, CHANNEL], CHANNEL, *q),
        ("load_k", [BATCH, HEAD, KEY, CHANNEL], CHANNEL, k),
        ("load_v", [BATCH, HEAD, KEY, VALUE_CHANNEL], VALUE_CHANNEL, v),
    ];
    for (name, vars, along, value) in loads {
        let function = holes.load_four(writer, name, &vars, along, value);
        template.fill(writer, name, function);
    }
    if let Some(mask) = mask {
        let of = [BATCH, HEAD, QUERY, KEY];
        let function = match tile {
            AttentionTile::Plain(_) | AttentionTile::Row(_) => holes.load(writer, "load_mask", &of, *mask),
            AttentionTile::Cooperative(_) => holes.load_four(writer, "load_mask", &of, KEY, *mask),
        };
        template.fill(writer, "load_mask", function);
    }
    let (rows, results): (Vec<&Store>, Vec<&Store>) =
        kernel.stores.iter().partition(|it| kernel.stores_param(it, 1));
    let function = holes.store_four(writer, &[BATCH, HEAD, QUERY, VALUE_CHANNEL], VALUE_CHANNEL, &results);
    template.fill(writer, "store", function);
    let function = holes.store(writer, &[BATCH, HEAD, QUERY], 1, &rows);
    template.fill(writer, "store_log", function);

    let size = template.entry_point(writer)[0];
    let heads = tile.heads() as u64;
    let slices = match tile {
        AttentionTile::Row(tile) => tile.slices as u64,
        AttentionTile::Plain(_) | AttentionTile::Cooperative(_) => 1,
    };
    let tiles = (space[QUERY] as u64 * heads).div_ceil(tile.rows() as u64);
    grid::fold(
        space[BATCH] as u64 * (space[HEAD] as u64 / heads) * tiles * slices,
        size,
        &kernel.name,
        target,
    )
}

/// What an operand replaces at one key, where that is the same at all keys and a number of 32 bits tells which.
fn placed(kernel: &Kernel, operand: ExprId) -> Option<(Replaced, Word)> {
    let body = &kernel.body;
    let parts = replaced(body, operand, KEY)?;
    let word = Word::of(body.dtype(parts.place));
    let fits = matches!(word, Word::I32 | Word::U32) && !body.variables(parts.value).contains(&KEY);
    fits.then_some((parts, word))
}

/// How many keys a query sees at most, of `keys`.
fn seen(writer: &mut Writer, last_key: Option<LastKey>, keys: u32) -> FunctionHandle {
    let mut code = Code::new(writer, "seen");
    let query = code.argument("i", Word::U32);
    code.result(Word::U32);
    let seen = match last_key {
        None => code.u32(keys),
        Some(LastKey { each, first }) => {
            let count = i64::from(first) + 1;
            // Moved up so that nothing is negative, and back after.
            let lift = (-count).max(0) as u32;
            let (by, start) = (code.u32(each), code.u32((count + lift as i64) as u32));
            let (lift, most) = (code.u32(lift), code.u32(keys));
            let moved = code.binary(BinaryOperator::Multiply, query, by);
            let sum = code.binary(BinaryOperator::Add, moved, start);
            let above = code.math(MathFunction::Max, &[sum, lift]);
            let count = code.binary(BinaryOperator::Subtract, above, lift);
            code.math(MathFunction::Min, &[count, most])
        }
    };
    code.give(Some(seen));
    code.function()
}
