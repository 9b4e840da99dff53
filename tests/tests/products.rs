//! Which templates and tiles products get, that these keep to their target, and products on cooperative matrices, where
//! the adapter has them.

use std::io::Write;

use wgfuse_compiler::{
    codegen::shader::CAPABILITIES,
    dtype::DType,
    graph::builder::GraphBuilder,
    index::Index,
    lower::{Expr, ExprId, eval::Memory},
    options::Options,
    scalar::{BinaryOp, Scalar, UnaryOp},
    schedule::{Skeleton, Tile, Vars, eval::eval_kernel, verify::verify},
    shape::Shape,
    target::Target,
};
use wgfuse_tests::{
    gpu::gpu,
    kernel_case::{Case, run_and_compare},
    random::Random,
    stages::stages,
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

fn space([batch, rows, cols, depth]: [usize; 4], (a, b): (ExprId, ExprId), tile: Tile) -> Skeleton {
    let [n, i, j] = [0, 1, 2].map(|it| Vars::from_slice(&[it]));
    let (space, depth) = ([batch, rows, cols].into(), [depth].into());
    Skeleton::Contract {
        space,
        depth,
        batch: n,
        rows: i,
        cols: j,
        a,
        b,
        others: vec![],
        sums: Vec::new(),
        tile,
    }
}

/// Sizes that are whole tiles and that are not, every layout, with something fused before and after.
fn every_layout(dtype: DType, tolerance: f64, tiles: &[([bool; 2], Tile)]) {
    let cooperates = cooperates();
    for (case, &(along, tile)) in tiles.iter().enumerate() {
        for (batch, rows, cols, depth) in [(1, 128, 128, 128), (2, 70, 36, 52), (1, 33, 65, 7)] {
            let mut case = Case::new(31 + case as u64);
            let left = if along[0] { [batch, depth, rows] } else { [batch, rows, depth] };
            let right = if along[1] { [depth, cols] } else { [cols, depth] };
            let (x, w) = (case.input(dtype, left), case.input(dtype, right));
            let bias = case.input(DType::F32, [cols]);
            let [n, i, j, k] = [0, 1, 2, 3].map(|it| Index::var(it, [batch, rows, cols, depth][it]));
            let first = [n.clone(), i.clone(), k.clone()];
            let second = [n.clone(), k.clone(), i.clone()];
            let a = case.load(x, if along[0] { second } else { first });
            let a = case.body.binary(BinaryOp::Max, a, a);
            let b = case.load(w, if along[1] { [k, j.clone()] } else { [j.clone(), k] });
            let (a, b) = (case.body.cast(DType::F32, a), case.body.cast(DType::F32, b));
            let (sum, shift) = (case.param(0), case.load(bias, [j.clone()]));
            let value = case.body.binary(BinaryOp::Add, sum, shift);
            let half = case.body.cast(DType::F16, value);
            // Written out, because the evaluator takes minutes.
            let floats = |it| -> Vec<f64> { case.values[it].iter().map(|it| it.as_f64()).collect() };
            let (left, right, shifts) = (floats(x), floats(w), floats(bias));
            let left = |n: usize, i: usize, k: usize| match along[0] {
                false => left[(n * rows + i) * depth + k],
                true => left[(n * depth + k) * rows + i],
            };
            let right = |k: usize, j: usize| right[if along[1] { k * cols + j } else { j * depth + k }];
            let one = |at: usize| {
                let (n, i, j) = (at / cols / rows, at / cols % rows, at % cols);
                shifts[j] + (0..depth).map(|k| left(n, i, k) * right(k, j)).sum::<f64>()
            };
            let want: Vec<f64> = (0..batch * rows * cols).map(one).collect();
            let mut expected = Memory::new();
            let mut store = |dtype: DType, value: ExprId| {
                let tensor = case.store([batch, rows, cols], [n.clone(), i.clone(), j.clone()], value);
                expected.insert(tensor, want.iter().map(|it| Scalar::of(dtype, *it)).collect());
            };
            store(DType::F32, value);
            if dtype == DType::F16 {
                store(DType::F16, half);
            }
            let skeleton = space([batch, rows, cols, depth], (a, b), tile);
            validated(&case, skeleton, cooperates.then_some(&expected), tolerance);
        }
    }
}

const LAYOUTS: [[bool; 2]; 4] = [[false, true], [false, false], [true, false], [true, true]];

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
        subgroup,
        a_along_rows,
        b_along_cols,
    }
}

#[test]
fn products_on_cooperative_matrices() {
    let sizes = [
        ([64, 64], [32, 32], [32, 2, 2]),
        ([32, 32], [16, 16], [64, 1, 1]),
        ([128, 64], [64, 32], [32, 1, 1]),
        ([128, 96], [64, 48], [32, 1, 3]),
    ];
    let tiles: Vec<_> =
        sizes.iter().flat_map(|&size| LAYOUTS.map(|along| (along, cooperative(1, size, along)))).collect();
    every_layout(DType::F16, 2e-3, &tiles);
}

#[test]
fn products_of_pairs() {
    let sizes = [([64, 64], [32, 32], [32, 1, 2]), ([64, 128], [32, 32], [32, 1, 1])];
    let tiles = sizes.iter().flat_map(|&size| LAYOUTS.map(|along| (along, cooperative(2, size, along))));
    let large = cooperative(2, ([128, 128], [64, 64], [32, 1, 1]), [false, true]);
    every_layout(DType::F32, 4e-6, &tiles.chain([([false, true], large)]).collect::<Vec<_>>());
}

/// Rows and columns of very different magnitudes, beside each other, are as exact as others; what is infinite or
/// not a number is so in its row and column alone.
#[test]
fn pairs_keep_every_magnitude() {
    let cooperates = cooperates();
    let mut random = Random::new(61);
    let [rows, cols, depth] = [70, 68, 100];
    let of_rows = [1.0, 1e-20, 3e-6, 4e-4, 6e-4, 300.0, 520.0, 1e6, 1e25, 0.0, f64::INFINITY, f64::NAN];
    let of_cols = [1.0, 2e-4, 1e-5, 700.0, 0.03];
    for along in LAYOUTS {
        let mut case = Case::new(7);
        let row = |it: usize| of_rows[it % of_rows.len()];
        let col = |it: usize| of_cols[it % of_cols.len()];
        let mut given = |case: &mut Case, count: usize, across: bool, size: &dyn Fn(usize) -> f64| {
            let mut values = vec![0.0; count * depth];
            for it in 0..count {
                for k in 0..depth {
                    // Few of a row are infinite or no number, and all sizes are in a row.
                    let finite = random.unit() * 2f64.powi(-((k % 13) as i32));
                    let value = match size(it) {
                        scale if scale.is_finite() => finite * scale,
                        scale if k == it => scale,
                        _ => finite,
                    };
                    values[if across { k * count + it } else { it * depth + k }] = value;
                }
            }
            case.given(DType::F32, if across { [depth, count] } else { [count, depth] }, &values)
        };
        let x = given(&mut case, rows, along[0], &row);
        let w = given(&mut case, cols, along[1], &col);
        let inverse = |it: f64| if it.is_finite() && it != 0.0 { 1.0 / it } else { 1.0 };
        let undo: Vec<f64> = (0..rows).map(|it| inverse(row(it))).collect();
        let rows_undone = case.given(DType::F32, [rows], &undo);
        let undo: Vec<f64> = (0..cols).map(|it| inverse(col(it))).collect();
        let cols_undone = case.given(DType::F32, [cols], &undo);
        let [n, i, j, k] = [0, 1, 2, 3].map(|it| Index::var(it, [1, rows, cols, depth][it]));
        let a = case.load(x, if along[0] { [k.clone(), i.clone()] } else { [i.clone(), k.clone()] });
        let b = case.load(w, if along[1] { [k, j.clone()] } else { [j.clone(), k] });
        let (by_row, by_col) = (case.load(rows_undone, [i.clone()]), case.load(cols_undone, [j.clone()]));
        let sum = case.param(0);
        let value = case.body.binary(BinaryOp::Mul, sum, by_row);
        let value = case.body.binary(BinaryOp::Mul, value, by_col);
        case.store([1, rows, cols], [n, i, j], value);
        let skeleton =
            space([1, rows, cols, depth], (a, b), cooperative(2, ([64, 64], [32, 32], [32, 1, 1]), along));
        let schedule = case.schedule(skeleton.clone());
        let mut expected = case.values.clone();
        eval_kernel(&schedule.kernels[0], &schedule.tensors, &mut expected);
        validated(&case, skeleton, cooperates.then_some(&expected), 4e-6);
    }
}

/// 0 <= at < extent, as a guard.
fn inside(case: &mut Case, at: &Index, extent: usize) -> ExprId {
    let at = case.body.add(Expr::Coord(at.clone()), DType::I32);
    let (zero, end) = (case.body.constant(DType::I32, 0.0), case.body.constant(DType::I32, extent as f64));
    let (low, high) = (case.body.binary(BinaryOp::Ge, at, zero), case.body.binary(BinaryOp::Lt, at, end));
    case.body.binary(BinaryOp::And, low, high)
}

/// Images with their channels last, read through windows of every kind; the sums get a bias and a residual.
#[test]
fn windows_on_cooperative_matrices() {
    let cooperates = cooperates();
    let tiles = [
        (1, ([64, 64], [32, 16], [32, 1, 1])),
        (1, ([32, 32], [16, 16], [64, 2, 1])),
        (1, ([128, 64], [32, 32], [64, 1, 2])),
        (2, ([64, 64], [32, 32], [32, 1, 2])),
        (2, ([64, 64], [32, 16], [64, 1, 1])),
    ];
    // Channels and results of a group, groups, steps, padding, dilation; whole slabs of channels, vectors and neither.
    let kinds = [
        (64, 32, 1, 1, 1, 1),
        (64, 24, 1, 2, 1, 1),
        (8, 40, 2, 1, 2, 2),
        (12, 20, 1, 2, 0, 1),
        (3, 17, 1, 2, 1, 1),
        (5, 6, 2, 1, 1, 1),
    ];
    for (seed, (parts, size)) in tiles.into_iter().enumerate() {
        for (channels, results, groups, stride, padding, dilation) in kinds {
            let [images, height, width] = [2, 9, 7];
            let down = (height + 2 * padding - 2 * dilation - 1) / stride + 1;
            let across = (width + 2 * padding - 2 * dilation - 1) / stride + 1;
            let dtype = if parts == 1 { DType::F16 } else { DType::F32 };
            let mut case = Case::new(71 + seed as u64);
            let x = case.input(dtype, [images, height, width, groups * channels]);
            let w = case.input(dtype, [groups, results, 3, 3, channels]);
            let (bias, rest) = (
                case.input(DType::F32, [groups * results]),
                case.input(dtype, [images, down, across, groups * results]),
            );
            let extents = [groups, images, down, across, results, 3, 3, channels];
            let [g, n, i, j, o, p, q, c] =
                [0, 1, 2, 3, 4, 5, 6, 7].map(|axis| Index::var(axis, extents[axis]));
            let moved = |at: &Index, by: &Index| {
                at.mul(stride as i64).add(&by.mul(dilation as i64)).offset_by(-(padding as i64))
            };
            let (row, col) = (moved(&i, &p), moved(&j, &q));
            let (in_row, in_col) = (inside(&mut case, &row, height), inside(&mut case, &col, width));
            let guard = case.body.binary(BinaryOp::And, in_row, in_col);
            let channel = g.mul(channels as i64).add(&c);
            let pixel = case.load_if(guard, x, [n.clone(), row, col, channel]);
            let weight = case.load(w, [g.clone(), o.clone(), p, q, c]);
            let (a, b) = (case.body.cast(DType::F32, pixel), case.body.cast(DType::F32, weight));
            let result = g.mul(results as i64).add(&o);
            let at = [n, i, j, result.clone()];
            let (shift, other) = (case.load(bias, [result]), case.load(rest, at.clone()));
            let (sum, other) = (case.param(0), case.body.cast(DType::F32, other));
            let value = case.body.binary(BinaryOp::Add, sum, shift);
            let value = case.body.binary(BinaryOp::Add, value, other);
            let value = case.body.unary(UnaryOp::Relu, value);
            let value = case.body.cast(dtype, value);
            case.store([images, down, across, groups * results], at, value);
            let skeleton = Skeleton::Contract {
                space: extents[..5].into(),
                depth: extents[5..].into(),
                batch: Vars::from_slice(&[0]),
                rows: Vars::from_slice(&[1, 2, 3]),
                cols: Vars::from_slice(&[4]),
                a,
                b,
                others: vec![],
                sums: vec![],
                tile: cooperative(parts, size, [false, false]),
            };
            let mut expected = case.values.clone();
            if cooperates {
                let schedule = case.schedule(skeleton.clone());
                eval_kernel(&schedule.kernels[0], &schedule.tensors, &mut expected);
            }
            let tolerance = if parts == 1 { 4e-3 } else { 4e-6 };
            validated(&case, skeleton, cooperates.then_some(&expected), tolerance);
        }
    }
}
