//! Skeleton: attention, by the template `attention.wgsl`, with everything that was fused before it in its loads and
//! everything after it in its store.

use super::{
    body::Scope,
    grid,
    library::{self, File},
    memory::Memory,
    types::Word,
    writer::{Code, Writer},
};
use crate::{
    bug,
    error::Error,
    schedule::{Kernel, Skeleton},
    target::Target,
};

/// Numbers of the loop variables.
const BATCH: usize = 0;
const HEAD: usize = 1;
const QUERY: usize = 2;
const VALUE_CHANNEL: usize = 3;
const KEY: usize = 4;
const CHANNEL: usize = 5;

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let Skeleton::Attention { space, keys, channels, scale, zero_masked, q, k, v, mask, tile } =
        &kernel.skeleton
    else {
        bug!("{}: not attention", kernel.name)
    };
    let extents = [space[0], space[1], space[2], space[3], *keys, *channels];
    if *channels == 0 {
        let node = kernel.origins.first().map_or("", |it| it);
        return Err(Error::unsupported("Attention", node, "queries have no channels"));
    }
    let constants = [
        ("SIZE", tile.size),
        ("QUERIES", tile.queries),
        ("KEYS", tile.keys),
        ("CHANNELS", *channels as u32),
        ("VALUE_CHANNELS", space[VALUE_CHANNEL] as u32),
    ];
    let template = library::library(File::Attention, &constants);
    for (name, var) in [("batches", BATCH), ("heads", HEAD), ("queries", QUERY), ("keys", KEY)] {
        let mut code = Code::new(writer, name);
        code.result(Word::U32);
        let count = code.u32(extents[var] as u32);
        code.give(Some(count));
        let function = code.function();
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

    let loads = [
        ("load_q", [BATCH, HEAD, QUERY, CHANNEL], Some(*q)),
        ("load_k", [BATCH, HEAD, KEY, CHANNEL], Some(*k)),
        ("load_v", [BATCH, HEAD, KEY, VALUE_CHANNEL], Some(*v)),
        ("load_mask", [BATCH, HEAD, QUERY, KEY], *mask),
    ];
    for (name, vars, value) in loads {
        let mut code = Code::new(writer, name);
        let mut scope = Scope::new(&kernel.body, memory);
        arguments(&mut code, &mut scope, vars, &extents);
        code.result(Word::F32);
        let value = match value {
            Some(value) => scope.value(&mut code, value),
            None => code.f32(0.0),
        };
        code.give(Some(value));
        let function = code.function();
        template.fill(writer, name, function);
    }
    let mut code = Code::new(writer, "store");
    let mut scope = Scope::new(&kernel.body, memory);
    arguments(&mut code, &mut scope, [BATCH, HEAD, QUERY, VALUE_CHANNEL], &extents);
    let value = code.argument("value", Word::F32);
    scope.param(value, Word::F32);
    for store in &kernel.stores {
        scope.store(&mut code, store);
    }
    let function = code.function();
    template.fill(writer, "store", function);

    template.entry_point(writer);
    let tiles = (space[QUERY] as u64).div_ceil(tile.queries as u64);
    grid::fold(space[BATCH] as u64 * space[HEAD] as u64 * tiles, tile.size, &kernel.name, target)
}

/// An argument for each of `vars`.
fn arguments(code: &mut Code, scope: &mut Scope, vars: [usize; 4], extents: &[usize; 6]) {
    for var in vars {
        let value = code.argument(["b", "h", "i", "e", "j", "d"][var], Word::U32);
        let value = scope.leaf(value, extents[var]);
        scope.bind([var], [value]);
    }
}
