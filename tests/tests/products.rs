//! Which templates and tiles products get, that these keep to their target, and products on cooperative matrices, where
//! the adapter has them.

use std::io::Write;

use wgfuse_compiler::{
    codegen::shader::CAPABILITIES,
    dtype::DType,
    graph::builder::GraphBuilder,
    index::Index,
    options::Options,
    scalar::BinaryOp,
    schedule::{Skeleton, Tile, Vars, verify::verify},
    shape::Shape,
    target::Target,
};
use wgfuse_tests::{gpu::gpu, kernel_case::Case, random::Random, stages::stages};

/// A large GPU with cooperative matrices.
fn large() -> Target {
    Target {
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 49_152,
        subgroup: Some((32, 32)),
        f16: true,
        cooperative: vec![[16, 8, 16], [16, 16, 16]],
        components_apart: true,
        ..Target::webgpu_minimum()
    }
}

/// The tile of the product of `[batch, rows, depth]` and `[depth, cols]`, whose kernel keeps to `target`.
fn tile(dtype: DType, [batch, rows, cols, depth]: [usize; 4], target: &Target) -> Tile {
    let mut builder = GraphBuilder::new();
    let x = builder.input("x", dtype, Shape::new(&[batch, rows, depth])).expect("an input");
    let w = builder.input("w", dtype, Shape::new(&[depth, cols])).expect("an input");
    let y = builder.matmul(x, w).expect("a product");
    builder.output("y", y).expect("an output");
    let graph = builder.finish().expect("a graph");
    let made = stages(graph, target, &Options::default()).unwrap_or_else(|it| panic!("{it}"));
    let mut tiles = Vec::new();
    for kernel in &made.plan.kernels {
        let shader = kernel.shader.as_ref().expect("it runs on the GPU");
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(shader.module.to_ctx()).expect("a validated module");
        let shared =
            shader.module.global_variables.iter().filter(|(_, it)| it.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = shared.map(|(_, it)| layouter[it.ty].size).sum();
        let label = format!("{dtype} {batch} {rows} {cols} {depth}: {:?}", kernel.kernel.skeleton);
        assert!(bytes <= target.max_workgroup_memory, "{label}: {bytes} bytes of workgroup memory");
        let invocations: u32 = shader.workgroup_size.iter().product();
        assert!(invocations <= target.max_workgroup_invocations, "{label}: {invocations} invocations");
        if let Skeleton::Contract { tile, .. } = &kernel.kernel.skeleton {
            tiles.push(*tile);
        }
    }
    assert_eq!(tiles.len(), 1, "one product");
    tiles[0]
}

#[test]
fn products_keep_to_their_target() {
    let seed = 41;
    let mut random = Random::new(seed);
    let middle = Target { max_workgroup_memory: 32_768, cooperative: Vec::new(), ..large() };
    for case in 0..60 {
        let size = |random: &mut Random, most: usize| match case % 3 {
            0 => 1 << random.below(most.ilog2() as usize + 1),
            _ => 1 + random.below(most),
        };
        let sizes =
            [1 + random.below(3), size(&mut random, 2048), size(&mut random, 2048), size(&mut random, 1024)];
        println!("seed {seed} case {case}: {sizes:?}");
        for dtype in [DType::F32, DType::F16] {
            for target in [Target::webgpu_minimum(), middle.clone(), large()] {
                if let Tile::Matmul { scalars, .. } = tile(dtype, sizes, &target) {
                    assert_eq!(scalars, !target.components_apart);
                }
            }
        }
    }
}

#[test]
fn components_that_are_not_apart_are_noticed() {
    let mut builder = GraphBuilder::new();
    let x = builder.input("x", DType::F32, [100, 200]).expect("an input");
    let w = builder.input("w", DType::F32, [200, 300]).expect("an input");
    let y = builder.matmul(x, w).expect("a product");
    builder.output("y", y).expect("an output");
    let graph = builder.finish().expect("a graph");
    let minimum = Target::webgpu_minimum();
    let mut schedule =
        stages(graph, &minimum, &Options::default()).unwrap_or_else(|it| panic!("{it}")).schedule;
    assert!(verify(&schedule, &minimum).is_empty());
    let Skeleton::Contract { tile: Tile::Matmul { scalars, .. }, .. } = &mut schedule.kernels[0].skeleton
    else {
        panic!("{schedule}")
    };
    *scalars = false;
    assert_eq!(verify(&schedule, &minimum).len(), 1);
    assert!(verify(&schedule, &large()).is_empty());
}

#[test]
fn cooperative_matrices_are_for_halves_where_the_target_has_them() {
    let sizes = [1, 1024, 1024, 1024];
    let cooperative = |dtype, target: &Target| matches!(tile(dtype, sizes, target), Tile::Cooperative { .. });
    assert!(cooperative(DType::F16, &large()));
    assert!(!cooperative(DType::F32, &large()) && !cooperative(DType::BF16, &large()));
    for without in [
        Target { cooperative: vec![[16, 8, 16]], ..large() },
        Target { subgroup: Some((16, 32)), ..large() },
        Target { subgroup: None, ..large() },
        Target { f16: false, ..large() },
        Target { max_workgroup_memory: 8192, ..large() },
        large().limited_to(&Target::webgpu_minimum()),
    ] {
        assert!(!cooperative(DType::F16, &without), "{without:?}");
    }
    // Too small to share among so few.
    assert!(!matches!(tile(DType::F16, [1, 64, 64, 512], &large()), Tile::Cooperative { .. }));
}

/// Sizes that are whole tiles and that are not, every layout, with something fused before and after.
#[test]
fn products_on_cooperative_matrices() {
    let gpu = gpu();
    if !gpu.cooperative {
        // Not by `eprintln!`, which the test harness would swallow.
        let text =
            "\nNOT RUN: the adapter has no cooperative matrices of f16; their kernels were only validated\n";
        std::io::stderr().write_all(text.as_bytes()).expect("a standard error");
    }
    let tiles = [([64, 64], [32, 32], 32), ([32, 32], [16, 16], 64), ([128, 64], [64, 32], 32)];
    let layouts =
        [([false, true], false), ([false, false], true), ([true, true], false), ([true, false], true)];
    for (case, ([rows_of, cols_of], each, step)) in tiles.into_iter().enumerate() {
        for (batch, rows, cols, depth) in [(1, 128, 128, 128), (2, 70, 36, 52), (1, 33, 65, 7)] {
            for (along, transposed) in layouts {
                let mut case = Case::new(31 + case as u64);
                let left = if along[0] { [batch, depth, rows] } else { [batch, rows, depth] };
                let right = if transposed { [cols, depth] } else { [depth, cols] };
                let (x, w) = (case.input(DType::F16, left), case.input(DType::F16, right));
                let bias = case.input(DType::F32, [cols]);
                let [n, i, j, k] = [batch, rows, cols, depth].map(|it| it as i64);
                let at = |axis: u32, extent: i64| Index::var(axis as usize, extent as usize);
                let (n, i, j, k) = (at(0, n), at(1, i), at(2, j), at(3, k));
                let first = [n.clone(), i.clone(), k.clone()];
                let second = [n.clone(), k.clone(), i.clone()];
                let a = case.load(x, if along[0] { second } else { first });
                let a = case.body.binary(BinaryOp::Max, a, a);
                let b = case.load(w, if transposed { [j.clone(), k] } else { [k, j.clone()] });
                let (a, b) = (case.body.cast(DType::F32, a), case.body.cast(DType::F32, b));
                let (sum, shift) = (case.param(0), case.load(bias, [j.clone()]));
                let value = case.body.binary(BinaryOp::Add, sum, shift);
                let half = case.body.cast(DType::F16, value);
                case.store([batch, rows, cols], [n.clone(), i.clone(), j.clone()], value);
                case.store([batch, rows, cols], [n, i, j], half);
                let skeleton = Skeleton::Contract {
                    space: [batch, rows, cols].into(),
                    depth: [depth].into(),
                    batch: Vars::from_slice(&[0]),
                    rows: Vars::from_slice(&[1]),
                    cols: Vars::from_slice(&[2]),
                    a,
                    b,
                    tile: Tile::Cooperative {
                        rows: rows_of,
                        cols: cols_of,
                        depth: step,
                        rows_each: each[0],
                        cols_each: each[1],
                        subgroup: gpu.subgroup.unwrap_or(32).max(16),
                        a_along_rows: along[0],
                        b_along_cols: along[1],
                    },
                };
                let shader = case.shader(skeleton.clone());
                let mut validator =
                    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), CAPABILITIES);
                let info = validator.validate(&shader.module).expect("a valid module");
                naga::back::spv::write_vec(&shader.module, &info, &Default::default(), None).expect("SPIR-V");
                if gpu.cooperative {
                    case.compare(&shader, skeleton, 2e-3);
                }
            }
        }
    }
}
