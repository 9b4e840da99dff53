//! Which tiles products get, and that these keep to their target.

use wgfuse_compiler::{
    dtype::DType,
    graph::builder::{Geometry, GraphBuilder},
    options::Options,
    schedule::{Skeleton, Tile, verify::verify},
    shape::{Shape, Type},
    target::Target,
};
use wgfuse_tests::{random::Random, stages::stages};

use crate::large;

/// The tile of the product of `[batch, rows, depth]` and `[depth, cols]`, whose kernel keeps to `target`.
fn tile(dtype: DType, sizes: [usize; 4], target: &Target) -> Tile {
    tile_of(dtype, sizes, false, target)
}

/// The same; with `by_columns` the second factor lies column by column.
fn tile_of(dtype: DType, [batch, rows, cols, depth]: [usize; 4], by_columns: bool, target: &Target) -> Tile {
    let mut builder = GraphBuilder::new();
    let x = builder.input("x", dtype, Shape::new(&[batch, rows, depth])).expect("an input");
    let shape = if by_columns { [cols, depth] } else { [depth, cols] };
    let mut w = builder.input("w", dtype, Shape::new(&shape)).expect("an input");
    if by_columns {
        w = builder.permute(w, &[1, 0]).expect("a matrix");
    }
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
fn tiles_are_as_wide_as_what_there_is() {
    let target = Target { cooperative: Vec::new(), ..large() };
    let of = |sizes: [usize; 4]| match tile(DType::F32, sizes, &target) {
        Tile::Matmul { rows, cols, .. } => [rows, cols],
        other => panic!("{sizes:?}: {other:?}"),
    };
    assert_eq!(of([1, 4096, 4096, 4096]), [128, 256]);
    // Columns of a wider tile would be empty.
    assert_eq!(of([1, 25_088, 64, 576])[1], 64);
    // Larger ones would leave most of the device idle.
    let [rows, cols] = of([1, 196, 256, 640]);
    assert!(rows * cols <= 1024, "{rows} x {cols}");
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
    let cooperative =
        |dtype, target: &Target| matches!(tile(dtype, sizes, target), Tile::Cooperative { parts: 1, .. });
    assert!(cooperative(DType::F16, &large()));
    assert!(!cooperative(DType::F32, &large()) && !cooperative(DType::BF16, &large()));
    let pairs = |sizes, target: &Target| {
        matches!(tile(DType::F32, sizes, target), Tile::Cooperative { parts: 2, .. })
    };
    assert!(pairs(sizes, &large()) && pairs([1, 4096, 768, 768], &large()));
    // So few tiles that f32 itself is faster.
    assert!(!pairs([1, 128, 768, 768], &large()));
    // The padding of two factors that lie along the depth takes more memory.
    for (dtype, wanted) in [(DType::F16, 1), (DType::F32, 2)] {
        let tile = tile_of(dtype, [1, 4096, 768, 768], true, &large());
        let Tile::Cooperative { parts, a_along_rows: false, b_along_cols: false, .. } = tile else {
            panic!("{tile:?}")
        };
        assert_eq!(parts, wanted);
    }
    for without in [
        Target { cooperative: vec![[16, 8, 16]], ..large() },
        Target { subgroup: Some((16, 32)), ..large() },
        Target { subgroup: None, ..large() },
        Target { f16: false, ..large() },
        Target { max_workgroup_memory: 8192, ..large() },
        large().limited_to(&Target::webgpu_minimum()),
    ] {
        assert!(!cooperative(DType::F16, &without), "{without:?}");
        assert!(!pairs(sizes, &without), "{without:?}");
    }
    assert!(!pairs(sizes, &Target { pairs: false, ..large() }));
    // Too small to share among so few.
    assert!(!matches!(tile(DType::F16, [1, 64, 64, 256], &large()), Tile::Cooperative { .. }));
}

/// What invocations load at once is 16 bytes, where neighbours of both factors are whole eights of f16.
#[test]
fn halves_are_loaded_in_eights() {
    let at_once = |dtype: DType, sizes: [usize; 4]| match tile(dtype, sizes, &large()) {
        Tile::Cooperative { at_once, .. } => at_once,
        other => panic!("{other:?}"),
    };
    assert_eq!(at_once(DType::F16, [1, 2048, 2048, 2048]), 8);
    assert_eq!(at_once(DType::F16, [4, 512, 256, 128]), 8);
    assert_eq!(at_once(DType::F16, [1, 2048, 2048, 2044]), 4);
    assert_eq!(at_once(DType::F16, [1, 2048, 2044, 2048]), 4);
    assert_eq!(at_once(DType::F32, [1, 2048, 2048, 2048]), 4);
}

/// The tile of a convolution by windows of 3 x 3 between two without windows.
fn window(dtype: DType, images: usize, channels: usize, target: &Target) -> Tile {
    let (mut builder, mut random) = (GraphBuilder::new(), Random::new(3));
    let mut x = builder.input("x", dtype, [images, 16, 14, 14]).expect("an input");
    for (from, to, window) in [(16, channels, 1), (channels, 64, 3), (64, 16, 1)] {
        let w = builder.constant(random.tensor(&Type::new(dtype, [to, from, window, window]), 1));
        let geometry = Geometry { padding: window / 2, ..Geometry::default() };
        x = builder.conv2d(x, w, None, geometry).expect("a convolution");
        x = builder.relu(x).expect("a number");
    }
    builder.output("y", x).expect("an output");
    let graph = builder.finish().expect("a graph");
    let made = stages(graph, target, &Options::default()).unwrap_or_else(|it| panic!("{it}"));
    let terms = 9 * channels;
    let tile = made.schedule.kernels.iter().find_map(|it| match &it.skeleton {
        Skeleton::Contract { depth, tile, .. } if depth.count() == terms => Some(*tile),
        _ => None,
    });
    tile.unwrap_or_else(|| panic!("{}", made.schedule))
}

#[test]
fn windows_get_matrices_where_channels_are_vectors() {
    let parts = |tile: Tile| match tile {
        Tile::Cooperative { parts, .. } => Some(parts),
        Tile::Matmul { .. } | Tile::Few(_) | Tile::Direct { .. } => None,
    };
    assert_eq!(parts(window(DType::F16, 32, 64, &large())), Some(1));
    assert_eq!(parts(window(DType::F32, 64, 64, &large())), Some(2));
    // So few tiles that f32 itself is faster.
    assert_eq!(parts(window(DType::F32, 1, 64, &large())), None);
    // Each element has a guard of its own: few of f16 an invocation, none of pairs.
    assert_eq!(parts(window(DType::F32, 64, 30, &large())), None);
    match window(DType::F16, 32, 30, &large()) {
        Tile::Cooperative { parts: 1, rows, cols, depth, rows_each, cols_each, subgroup, .. } => {
            let invocations = rows / rows_each * (cols / cols_each) * subgroup;
            assert!((rows + cols) * depth / 4 / invocations <= 4);
        }
        other => panic!("{other:?}"),
    }
    let without = Target { cooperative: Vec::new(), ..large() };
    assert_eq!(parts(window(DType::F16, 32, 64, &without)), None);
}
