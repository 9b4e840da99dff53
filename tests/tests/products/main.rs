//! Which templates and tiles products get, that these keep to their target, and products on cooperative matrices, where
//! the adapter has them.

mod matrices;
mod tiles;
mod windows;

use std::io::Write;

use wgfuse_compiler::{
    codegen::shader::CAPABILITIES,
    lower::eval::Memory,
    schedule::{Skeleton, Tile},
    target::Target,
};
use wgfuse_tests::{
    gpu::gpu,
    kernel_case::{Case, run_and_compare},
};

/// A large GPU with cooperative matrices.
fn large() -> Target {
    Target {
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 49_152,
        subgroup: Some((32, 32)),
        f16: true,
        cooperative: vec![[16, 8, 16], [16, 16, 16]],
        pairs: true,
        components_apart: true,
        ..Target::webgpu_minimum()
    }
}

/// Whether the adapter has cooperative matrices of f16; if not, says loudly what was not run.
fn cooperates() -> bool {
    if !gpu().cooperative {
        // Not by `eprintln!`, which the test harness would swallow.
        let text =
            "\nNOT RUN: the adapter has no cooperative matrices of f16; their kernels were only validated\n";
        std::io::stderr().write_all(text.as_bytes()).expect("a standard error");
    }
    gpu().cooperative
}

/// The shader of a product is valid, and right where the adapter can run it.
fn validated(case: &Case, skeleton: Skeleton, expected: Option<&Memory>, tolerance: f64) {
    let shader = case.shader(skeleton.clone());
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), CAPABILITIES);
    let info = validator.validate(&shader.module).expect("a valid module");
    naga::back::spv::write_vec(&shader.module, &info, &Default::default(), None).expect("SPIR-V");
    if let Some(expected) = expected {
        let schedule = case.schedule(skeleton);
        let (kernel, tensors) = (&schedule.kernels[0], &schedule.tensors);
        run_and_compare(&shader, kernel, tensors, &case.values, expected, false, tolerance);
    }
}

/// Tile, subgroup, and of a slab depth, slabs and matrices that are stored together.
type Sizes = ([u32; 2], [u32; 2], [u32; 3]);

fn cooperative(parts: u32, (tile, each, slab): Sizes, [a_along_rows, b_along_cols]: [bool; 2]) -> Tile {
    let ([rows, cols], [rows_each, cols_each], [depth, buffers, strip]) = (tile, each, slab);
    let subgroup = gpu().subgroup.unwrap_or(32).max(16);
    Tile::Cooperative {
        parts,
        rows,
        cols,
        depth,
        rows_each,
        cols_each,
        buffers,
        strip,
        at_once: 4,
        subgroup,
        a_along_rows,
        b_along_cols,
    }
}

/// The same tile of f16 where an invocation loads eights.
fn in_eights(mut tile: Tile) -> Tile {
    if let Tile::Cooperative { at_once, .. } = &mut tile {
        *at_once = 8;
    }
    tile
}
