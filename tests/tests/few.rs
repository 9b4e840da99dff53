//! Products of few rows: every way in which they are shared out, on the device, against the evaluator.

use wgfuse_compiler::{
    dtype::DType,
    graph::builder::GraphBuilder,
    index::Index,
    options::Options,
    scalar::{BinaryOp, UnaryOp},
    schedule::{Few, Skeleton, Tile, Vars, verify::verify},
    target::Target,
};
use wgfuse_tests::{gpu::gpu, kernel_case::Case, stages::stages};

fn var(axis: usize, extent: usize) -> Index {
    Index::var(axis, extent)
}

/// A workgroup of `size`, `deep` for the depth of a column, and blocks of `depth` x `cols`.
fn few([size, deep, depth, cols, ahead, held, stored]: [u32; 7], along_cols: bool) -> Few {
    Few { size, deep, depth, cols, along_cols, ahead, early: ahead == 2, subgroup: None, held, stored }
}

/// The product of [batch, rows, depth] in f32 by a matrix of `dtype`, of which something of `out` is stored.
fn check(few: Few, dtype: DType, out: DType, sizes: [usize; 4]) {
    check_all(few, dtype, out, sizes, 1);
}

/// The same by `factors` matrices, whose products are multiplied; gives the shader's text.
fn check_all(
    few: Few,
    dtype: DType,
    out: DType,
    [batch, rows, cols, depth]: [usize; 4],
    factors: u32,
) -> String {
    let mut case = Case::new(23);
    case.target.subgroup = few.subgroup.map(|it| (it, it));
    let x = case.input(dtype, [batch, rows, depth]);
    let (bias, scale) = (case.input(DType::F32, [cols]), case.input(DType::F32, [batch, rows]));
    let (b, i, j, k) = (var(0, batch), var(1, rows), var(2, cols), var(3, depth));
    let a = case.load(x, [b.clone(), i.clone(), k.clone()]);
    let a = case.body.cast(DType::F32, a);
    // The same along a row.
    let scale = case.load(scale, [b.clone(), i.clone()]);
    let a = case.body.binary(BinaryOp::Mul, a, scale);
    let mut weights = Vec::new();
    for _ in 0..factors {
        let (shape, at) = match few.along_cols {
            true => ([depth, cols], [k.clone(), j.clone()]),
            false => ([cols, depth], [j.clone(), k.clone()]),
        };
        let weight = case.input(dtype, shape);
        let weight = case.load(weight, at);
        weights.push(case.body.cast(DType::F32, weight));
    }
    let shift = case.load(bias, [j.clone()]);
    let mut sum = case.param(0);
    for number in 1..factors {
        let (other, scale) = (case.param(number), case.body.constant(DType::F32, 1.0 / 64.0));
        let other = case.body.binary(BinaryOp::Mul, other, scale);
        sum = case.body.binary(BinaryOp::Mul, sum, other);
    }
    let moved = case.body.binary(BinaryOp::Add, sum, shift);
    let value = case.body.unary(UnaryOp::Relu, moved);
    let value = case.body.cast(out, value);
    case.store([batch, rows, cols], [b.clone(), i.clone(), j.clone()], value);
    case.store([cols, batch, rows], [j, b, i], moved);
    let skeleton = Skeleton::Contract {
        space: [batch, rows, cols].into(),
        depth: [depth].into(),
        batch: Vars::from_slice(&[0]),
        rows: Vars::from_slice(&[1]),
        cols: Vars::from_slice(&[2]),
        a,
        b: weights[0],
        others: weights[1..].to_vec(),
        sums: Vec::new(),
        tile: Tile::Few(few),
    };
    let shader = case.check(skeleton, if out == DType::F32 { 5e-4 } else { 5e-3 });
    let words = if few.along_cols { few.cols } else { few.depth } as usize * dtype.size() / 4;
    let (vector, text) = (format!("vec{words}<"), shader.wgsl());
    assert!(words < 2 || text.contains(&vector), "{few:?} reads no {vector}");
    text
}

const HALVES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn matrices_along_the_depth() {
    for dtype in HALVES {
        // Rounds that are whole and not, columns that are and are not.
        for (sizes, depth) in [
            ([1, 1, 5, 1000], 4),
            ([2, 3, 7, 2048], 4),
            ([1, 8, 6, 264], 4),
            ([1, 4, 9, 77], 1),
            ([1, 2, 4, 2048], 8),
        ] {
            // Eight are a vector of 16 bits each.
            let depth = if dtype == DType::F32 { depth.min(4) } else { depth };
            for few in [
                few([64, 32, depth, 1, 4, 8, 1], false),
                few([64, 16, depth, 2, 2, 1, 1], false),
                few([32, 32, depth, 4, 1, 2, 1], false),
            ] {
                check(few, dtype, DType::F32, sizes);
            }
            let Some(size) = gpu().subgroup else { continue };
            for (deep, cols) in [(size, 1), (2 * size, 2), (4 * size, 4)] {
                let few = few([4 * size, deep, depth, cols, 2, 3, 1], false);
                check(Few { subgroup: Some(size), ..few }, dtype, DType::F32, sizes);
            }
            // As large as every device allows, with less than a round for each invocation.
            let few = few([256, 128.max(size), depth, 2, 1, 8, 1], false);
            check(Few { subgroup: Some(size), ..few }, dtype, DType::F32, sizes);
        }
    }
}

#[test]
fn matrices_along_the_columns() {
    for dtype in HALVES {
        for (sizes, depth, cols) in [
            ([1, 1, 24, 1000], 4, 4),
            ([2, 3, 40, 300], 4, 8),
            ([1, 8, 136, 132], 4, 8),
            ([1, 4, 9, 77], 1, 1),
            ([3, 2, 70, 150], 2, 2),
        ] {
            let cols = if dtype == DType::F32 { cols.min(4) } else { cols };
            for few in [
                few([64, 8, depth, cols, 1, 8, 1], true),
                few([64, 32, depth, cols, 2, 1, 1], true),
                few([32, 32, depth, cols, 3, 2, 1], true),
                few([32, 1, depth, cols, 2, 2, 1], true),
            ] {
                check(few, dtype, DType::F32, sizes);
            }
        }
    }
}

#[test]
fn halves_are_stored_in_pairs() {
    for out in [DType::F16, DType::BF16] {
        for stored in [1, 2] {
            check(few([64, 16, 4, 2, 2, 2, stored], false), out, out, [2, 3, 10, 200]);
            check(few([64, 16, 4, 4, 2, 2, stored], true), out, out, [2, 3, 36, 200]);
        }
    }
}

/// Whether storage is read after the last barrier, where a result is finished.
fn reads_last(text: &str) -> bool {
    let last = text.rsplit("workgroupBarrier").next().unwrap_or_default();
    let read = |it: &str| it.trim().starts_with("let") && it.contains("= b") && it.contains("_[");
    last.lines().any(read)
}

#[test]
fn what_results_need_beside_sums_is_read_first() {
    for (form, one) in [
        (few([64, 16, 4, 2, 1, 1, 1], false), true),
        (few([64, 16, 4, 4, 1, 3, 2], false), true),
        (few([64, 32, 4, 4, 1, 3, 1], true), true),
        // In rounds, or more than one an invocation.
        (few([64, 16, 4, 2, 1, 1, 1], false), false),
        (few([32, 2, 4, 4, 1, 3, 1], false), false),
    ] {
        let rows = if one { form.held as usize } else { 3 };
        let text = check_all(form, DType::F32, DType::F32, [1, rows, 36, 200], 1);
        assert_eq!(reads_last(&text), !one, "{form:?}\n{text}");
    }
}

#[test]
fn pairs_of_matrices() {
    for dtype in [DType::F32, DType::F16] {
        for out in [DType::F32, DType::F16] {
            check_all(few([64, 16, 4, 2, 2, 2, 2], false), dtype, out, [1, 3, 10, 200], 2);
            check_all(few([64, 16, 4, 4, 2, 1, 1], true), dtype, out, [2, 2, 36, 200], 2);
            check_all(few([32, 8, 1, 1, 3, 1, 1], true), dtype, out, [1, 1, 7, 77], 2);
            if let Some(size) = gpu().subgroup {
                let few = few([2 * size, size, 4, 2, 1, 8, 1], false);
                check_all(Few { subgroup: Some(size), ..few }, dtype, out, [1, 8, 10, 200], 2);
            }
        }
    }
}

/// The kernels of a gate: silu of one product times another.
fn gate(dtype: DType, [rows, cols, depth]: [usize; 3], target: &Target) -> usize {
    let mut builder = GraphBuilder::new();
    let x = builder.input("x", dtype, [rows, depth]).expect("an input");
    let mut product = |name| {
        let w = builder.input(name, dtype, [depth, cols])?;
        builder.matmul(x, w)
    };
    let (gated, upped) = (product("gate").expect("a product"), product("up").expect("a product"));
    let open = builder.sigmoid(gated).expect("a gate");
    let open = builder.mul(gated, open).expect("silu");
    let y = builder.mul(open, upped).expect("a product");
    builder.output("y", y).expect("an output");
    let graph = builder.finish().expect("a graph");
    let made = stages(graph, target, &Options::default()).unwrap_or_else(|it| panic!("{it}"));
    let faults = verify(&made.schedule, target);
    assert!(faults.is_empty(), "{faults:?}");
    made.schedule.kernels.len()
}

#[test]
fn gates_of_few_rows_are_one_kernel() {
    let minimum = Target::webgpu_minimum();
    let large = Target {
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 49_152,
        ..minimum.clone()
    };
    for target in [&minimum, &large] {
        for dtype in [DType::F32, DType::F16] {
            for rows in 1..=8 {
                assert_eq!(gate(dtype, [rows, 512, 512], target), 1, "{dtype} {rows}");
            }
            assert!(gate(dtype, [9, 512, 512], target) > 1);
        }
    }
}

#[test]
fn what_a_target_cannot_run_is_a_fault() {
    let target = Target::webgpu_minimum();
    let good = few([64, 16, 4, 2, 1, 4, 2], true);
    assert_eq!(good.fault(64, 128, (1, 0), &target), None);
    for bad in [
        Few { deep: 24, ..good },
        Few { depth: 3, ..good },
        Few { cols: 3, ..good },
        Few { cols: 0, ..good },
        Few { ahead: 0, ..good },
        Few { held: 64, ..good },
        Few { stored: 3, ..good },
        Few { subgroup: Some(16), ..good },
        Few { subgroup: Some(16), along_cols: false, ..good },
    ] {
        assert!(bad.fault(64, 128, (1, 0), &target).is_some(), "{bad:?}");
    }
    assert!(good.fault(63, 128, (1, 0), &target).is_some() && good.fault(64, 127, (1, 0), &target).is_some());
}

/// The form of the product of [rows, depth] by a constant matrix.
fn chosen(dtype: DType, turned: bool, [rows, cols, depth]: [usize; 3], target: &Target) -> Option<Few> {
    let mut builder = GraphBuilder::new();
    let x = builder.input("x", dtype, [rows, depth]).expect("an input");
    let w = builder.input("w", dtype, if turned { [cols, depth] } else { [depth, cols] }).expect("an input");
    let y = if turned { builder.linear(x, w, None) } else { builder.matmul(x, w) }.expect("a product");
    builder.output("y", y).expect("an output");
    let graph = builder.finish().expect("a graph");
    let made = stages(graph, target, &Options::default()).unwrap_or_else(|it| panic!("{it}"));
    let faults = verify(&made.schedule, target);
    assert!(faults.is_empty(), "{faults:?}");
    match made.schedule.kernels[0].skeleton {
        Skeleton::Contract { tile: Tile::Few(few), .. } => Some(few),
        _ => None,
    }
}

fn large() -> Target {
    Target {
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 49_152,
        subgroup: Some((32, 32)),
        ..Target::webgpu_minimum()
    }
}

#[test]
fn the_depth_and_the_rows_decide_who_shares_a_column() {
    let form = |rows, depth| {
        let few = chosen(DType::F16, true, [rows, 512, depth], &large()).expect("few rows");
        (few.size, few.deep, few.cols, few.ahead, few.early)
    };
    // 256, 64 and 704 blocks of 8, which 128 and 64 share evenly, and 688, which neither does.
    assert_eq!(form(1, 2048), (256, 128, 2, 1, false));
    assert_eq!(form(1, 5632), (128, 64, 1, 2, false));
    assert_eq!(form(1, 5504), (256, 128, 2, 1, false));
    assert_eq!(form(1, 512), (256, 64, 2, 1, false));
    assert_eq!(form(4, 2048), (128, 32, 4, 1, false));
    assert_eq!(form(5, 2048), (128, 32, 4, 1, true));
}

#[test]
fn vectors_are_as_long_as_memory_allows() {
    let (minimum, large) = (Target::webgpu_minimum(), large());
    for target in [&minimum, &large] {
        for turned in [false, true] {
            let vector = |dtype, sizes| {
                let few = chosen(dtype, turned, sizes, target)?;
                assert_eq!(few.along_cols, !turned);
                Some(if turned { few.depth } else { few.cols })
            };
            for rows in 1..=8 {
                assert_eq!(vector(DType::F32, [rows, 512, 512]), Some(4));
                assert_eq!(vector(DType::F16, [rows, 512, 512]), Some(8));
            }
            assert_eq!(vector(DType::F16, [1, 514, 514]), Some(2));
            assert_eq!(vector(DType::F32, [4, 513, 513]), Some(1));
            // Elements one by one gain nothing over tiles.
            assert_eq!(vector(DType::F32, [8, 513, 513]), None);
            assert_eq!(vector(DType::F32, [9, 512, 512]), None);
        }
    }
}
