//! Skeleton: sums of products. Either a template's holes are filled (`matmul.wgsl`, `matmul_coop.wgsl`, `conv.wgsl`), with
//! everything that was fused before the product in `load_a` and `load_b` and everything after it in `store`, or each
//! result is a row of its own: sums of integers, and sums so short that they are written out. Few rows are `few.rs`'s.

use super::{
    few, grid,
    holes::Holes,
    library::{self, File},
    memory::Memory,
    rows::{self, Reduction},
    types::Word,
    writer::Writer,
};
use crate::{
    bug,
    error::Error,
    lower::ExprId,
    schedule::{Kernel, RowForm, Skeleton, Store, Team, Tile},
    target::Target,
};

/// Sums up to this many terms are written out rather than looped over.
const WRITTEN_OUT: usize = 16;

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    target: &Target,
) -> Result<[u32; 3], Error> {
    let Skeleton::Contract { space, depth, batch, rows, cols, a, b, others: _, sums: _, tile } =
        &kernel.skeleton
    else {
        bug!("{}: not a product", kernel.name)
    };
    let (a, b) = (*a, *b);
    let floats = [a, b].iter().all(|it| Word::of(kernel.body.dtype(*it)) == Word::F32);
    if let Tile::Direct { workgroup } = *tile
        && (!floats || depth.count() <= WRITTEN_OUT)
    {
        let product = [Reduction::Product { a, b }];
        let steps = if depth.count() <= WRITTEN_OUT { depth.count() as u32 } else { 1 };
        let form = RowForm { team: Team::Invocation { workgroup }, lanes: 1, steps, early: false };
        return rows::write(writer, memory, kernel, (space, depth), &product, form, target);
    }
    if !floats {
        bug!("{}: templates multiply floats", kernel.name);
    }
    if let Tile::Few(form) = *tile {
        return few::write(writer, memory, kernel, form, target);
    }
    let holes = Holes {
        memory,
        kernel,
        extents: space.iter().chain(depth.iter()).copied().collect(),
        groups: vec![
            batch.clone(),
            rows.clone(),
            cols.clone(),
            (space.rank()..space.rank() + depth.rank()).collect(),
        ],
        names: &NAMES,
        slab: match *tile {
            Tile::Matmul { depth, .. } | Tile::Cooperative { depth, .. } => Some((DEPTH, depth)),
            Tile::Few(_) | Tile::Direct { .. } => None,
        },
    };
    let [batches, row_count, col_count, _] = [0, 1, 2, 3].map(|it| holes.count(it));
    let (file, constants, per_group) = match *tile {
        Tile::Matmul {
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            block_rows,
            block_cols,
            a_along_rows,
            b_along_cols,
            split,
            buffers,
            scalars: _,
        } => (
            File::Matmul,
            vec![
                ("TILE_ROWS", rows),
                ("TILE_COLS", cols),
                ("TILE_DEPTH", depth),
                ("ROWS_EACH", rows_each),
                ("COLS_EACH", cols_each),
                ("SPLIT", split),
                ("BUFFERS", buffers),
                ("BLOCK_ROWS", block_rows),
                ("BLOCK_COLS", block_cols),
                ("A_ALONG_ROWS", a_along_rows as u32),
                ("B_ALONG_COLS", b_along_cols as u32),
                ("DEPTH_WHOLE", holes.count(DEPTH).is_multiple_of((depth * split) as usize) as u32),
            ],
            (rows, cols),
        ),
        Tile::Cooperative {
            parts,
            rows,
            cols,
            depth,
            rows_each,
            cols_each,
            buffers,
            strip,
            at_once,
            subgroup,
            a_along_rows,
            b_along_cols,
        } => (
            File::MatmulCoop,
            vec![
                ("PARTS", parts),
                ("Held", 16 * parts),
                ("TILE_ROWS", rows),
                ("TILE_COLS", cols),
                ("TILE_DEPTH", depth),
                ("SUB_ROWS", rows_each),
                ("SUB_COLS", cols_each),
                ("SUBGROUP", subgroup),
                ("BUFFERS", buffers),
                ("STRIP", strip),
                ("AT_ONCE", at_once),
                ("A_ALONG_ROWS", a_along_rows as u32),
                ("B_ALONG_COLS", b_along_cols as u32),
                ("DEPTH_WHOLE", holes.count(DEPTH).is_multiple_of(depth as usize) as u32),
                ("ROWS_WHOLE", row_count.is_multiple_of(rows as usize) as u32),
                ("COLS_WHOLE", col_count.is_multiple_of(cols as usize) as u32),
            ],
            (rows, cols),
        ),
        Tile::Few(_) => bug!("{}: no template", kernel.name),
        Tile::Direct { workgroup } => {
            (File::Conv, vec![("SIZE", workgroup), ("ALONG_ROWS", 0)], (1, workgroup))
        }
    };
    let template = library::library(file, &constants);
    for (group, name) in ["batches", "rows", "cols", "depth"].into_iter().enumerate() {
        let function = holes.size(writer, name, group);
        template.fill(writer, name, function);
    }
    let stores: Vec<&Store> = kernel.stores.iter().collect();
    let (in_a, in_b, out) = ([BATCH, ROW, DEPTH], [BATCH, DEPTH, COL], [BATCH, ROW, COL]);
    let eights = matches!(tile, Tile::Cooperative { at_once: 8, .. });
    let [load_a, load_b, store] = match *tile {
        Tile::Matmul { a_along_rows, b_along_cols, .. }
        | Tile::Cooperative { a_along_rows, b_along_cols, .. } => {
            let mut load = |name: &str, groups: &[usize], along: usize, value: ExprId| match eights {
                true => holes.load_eight(writer, name, groups, along, value),
                false => holes.load_four(writer, name, groups, along, value),
            };
            let load_a = load("load_a", &in_a, if a_along_rows { ROW } else { DEPTH }, a);
            let load_b = load("load_b", &in_b, if b_along_cols { COL } else { DEPTH }, b);
            // Elsewhere, places past the last are moved to it, or, where groups share the depth, may be read by two.
            let own = row_count.is_multiple_of(per_group.0 as usize)
                && col_count.is_multiple_of(per_group.1 as usize)
                && !matches!(*tile, Tile::Matmul { split: 2.., .. });
            let ahead = holes.store_four_ahead(writer, &out, COL, &stores, own);
            template.fill_type(writer, "Ahead", ahead.ty);
            template.fill(writer, "read_ahead", ahead.read);
            [load_a, load_b, ahead.store]
        }
        Tile::Few(_) | Tile::Direct { .. } => [
            holes.load(writer, "load_a", &in_a, a),
            holes.load(writer, "load_b", &in_b, b),
            holes.store(writer, &out, 0, &stores),
        ],
    };
    let [a_hole, b_hole] = if eights { ["eight_a", "eight_b"] } else { ["load_a", "load_b"] };
    template.fill(writer, a_hole, load_a);
    template.fill(writer, b_hole, load_b);
    template.fill(writer, "store", store);
    if let Tile::Matmul { scalars: true, .. } = tile {
        for (name, scalar) in
            [("get_four", "get_scalars"), ("set_four", "set_scalars"), ("put_four", "put_scalars")]
        {
            let function = template.copy(writer, scalar);
            template.fill(writer, name, function);
        }
    }

    template.entry_point(writer);
    let tiles = |count: usize, each: u32| (count as u64).div_ceil(each as u64);
    let workgroups = match tile {
        Tile::Matmul { .. } | Tile::Cooperative { .. } | Tile::Few(_) => {
            batches as u64 * tiles(row_count, per_group.0) * tiles(col_count, per_group.1)
        }
        Tile::Direct { .. } => tiles(batches * row_count * col_count, per_group.1),
    };
    let size = writer.module.entry_points[0].workgroup_size[0];
    grid::fold(workgroups, size, &kernel.name, target)
}

/// Groups of variables, and how the templates call them.
const BATCH: usize = 0;
const ROW: usize = 1;
const COL: usize = 2;
const DEPTH: usize = 3;
const NAMES: [&str; 4] = ["batch", "row", "col", "k"];
