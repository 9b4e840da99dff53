//! Attention on cooperative matrices, where the adapter has them, and which attention gets there.

use std::io::Write;

use wgfuse_compiler::{
    codegen::shader::CAPABILITIES,
    dtype::DType,
    graph::builder::GraphBuilder,
    index::Index,
    lower::{Expr, eval::Memory},
    options::Options,
    scalar::{BinaryOp, Scalar},
    schedule::{
        AttentionTile, CooperativeAttention, Kernel, LastKey, Skeleton,
        attention_coop::{Why, why_not},
    },
    target::Target,
};
use wgfuse_tests::{
    gpu::gpu,
    kernel_case::{Case, run_and_compare},
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
        cooperative: vec![[16, 16, 16]],
        ..Target::webgpu_minimum()
    }
}

/// Which keys are hidden.
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

/// subgroups down, parts, rows of a subgroup, keys, keys at once
type Shares = [u32; 5];

fn tile([teams, parts, sub_rows, keys, sub_keys]: Shares, heads: usize) -> AttentionTile {
    let subgroup = gpu().subgroup.unwrap_or(32).max(32);
    AttentionTile::Cooperative(CooperativeAttention {
        teams,
        parts,
        sub_rows,
        keys,
        sub_keys,
        heads: heads as u32,
        subgroup,
    })
}

/// `growing`: scores grow along the keys, so that what was summed is scaled down again and again.
fn check(sizes: Sizes, hidden: Hidden, zero_masked: bool, growing: bool, shares: Shares) {
    let [batch, heads, share, queries, keys, channels, values] = sizes;
    let mut case = Case::new(24);
    case.target = Target { subgroup: None, ..large() };
    let q = case.input(DType::F16, [batch, queries, heads, channels]);
    let k = match growing {
        false => case.input(DType::F16, [batch, heads / share, keys, channels]),
        true => {
            let count = batch * heads / share * keys * channels;
            let values: Vec<f64> = (0..count)
                .map(|at| (at / channels % keys) as f64 / 8.0 * (((at * 7) % 13) as f64 / 13.0 - 0.3))
                .collect();
            case.given(DType::F16, [batch, heads / share, keys, channels], &values)
        }
    };
    // Once with neighbouring channels apart in memory.
    let turned = queries % 2 == 1;
    let v = match turned {
        false => case.input(DType::F16, [batch, heads / share, keys, values]),
        true => case.input(DType::F16, [batch, heads / share, values, keys]),
    };
    let var = |axis: usize, extent: usize| Index::var(axis, extent);
    let (b, h, i, e) = (var(0, batch), var(1, heads), var(2, queries), var(3, values));
    let (j, d) = (var(4, keys), var(5, channels));
    let group = h.div(share as i64);
    let query = case.load(q, [b.clone(), i.clone(), h.clone(), d.clone()]);
    let key = case.load(k, [b.clone(), group.clone(), j.clone(), d]);
    let value = match turned {
        false => case.load(v, [b.clone(), group, j.clone(), e.clone()]),
        true => case.load(v, [b.clone(), group, e.clone(), j.clone()]),
    };
    let [query, key, value] = [query, key, value].map(|it| case.body.cast(DType::F32, it));
    let mut last_key = None;
    let mask = match hidden {
        Hidden::None => None,
        Hidden::Table => {
            let given: Vec<f64> = (0..queries * keys)
                .map(|at| if at < keys || at % 5 == 3 { f64::NEG_INFINITY } else { (at % 3) as f64 })
                .collect();
            let mask = case.given(DType::F16, [queries, keys], &given);
            let mask = case.load(mask, [i.clone(), j.clone()]);
            Some(case.body.cast(DType::F32, mask))
        }
        Hidden::After(offset) => {
            let last = i.offset_by(offset);
            let key = case.body.add(Expr::Coord(j.clone()), DType::I64);
            let bound = case.body.add(Expr::Coord(last), DType::I64);
            let sees = case.body.binary(BinaryOp::Le, key, bound);
            let open = case.body.constant(DType::F32, 0.0);
            let shut = case.body.constant(DType::F32, f64::NEG_INFINITY);
            last_key = Some(LastKey { each: 1, first: offset as i32 });
            Some(case.body.select(sees, open, shut))
        }
    };
    let (result, log) = (case.param(0), case.param(1));
    let two = case.body.constant(DType::F32, 2.0);
    let result = case.body.binary(BinaryOp::Mul, result, two);
    let half = case.body.cast(DType::F16, result);
    // All in one order, so that one table of what must come out is enough.
    let point = [b.clone(), h.clone(), i.clone(), e];
    let stored = [result, half].map(|it| case.store([batch, heads, queries, values], point.clone(), it));
    let stored_log = case.store([batch, heads, queries], [b, h, i], log);
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
        tile: tile(shares, share),
    };
    let shader = case.shader(skeleton.clone());
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), CAPABILITIES);
    let info = validator.validate(&shader.module).expect("a valid module");
    naga::back::spv::write_vec(&shader.module, &info, &Default::default(), None).expect("SPIR-V");
    if gpu().cooperative {
        // With checks they take a driver far longer still.
        let schedule = case.schedule(skeleton);
        let floats = |it| -> Vec<f64> { case.values[it].iter().map(|it| it.as_f64()).collect() };
        let mask = |i: usize, j: usize| match hidden {
            Hidden::None => 0.0,
            Hidden::Table if i == 0 || (i * keys + j) % 5 == 3 => f64::NEG_INFINITY,
            Hidden::Table => ((i * keys + j) % 3) as f64,
            Hidden::After(offset) if j as i64 > i as i64 + offset => f64::NEG_INFINITY,
            Hidden::After(_) => 0.0,
        };
        let (results, logs) = reference(sizes, [floats(q), floats(k), floats(v)], turned, zero_masked, &mask);
        let mut expected = Memory::new();
        for (tensor, dtype) in stored.into_iter().zip([DType::F32, DType::F16]) {
            expected.insert(tensor, results.iter().map(|it| Scalar::of(dtype, 2.0 * it)).collect());
        }
        expected.insert(stored_log, logs.iter().map(|it| Scalar::of(DType::F32, *it)).collect());
        let (kernel, tensors) = (&schedule.kernels[0], &schedule.tensors);
        run_and_compare(&shader, kernel, tensors, &case.values, &expected, false, 6e-3);
    }
}

/// The results, and the logarithm of each row's sum of exponentials. Written out, because the evaluator takes minutes.
fn reference(
    [batch, heads, share, queries, keys, channels, values]: Sizes,
    [q, k, v]: [Vec<f64>; 3],
    turned: bool,
    zero_masked: bool,
    mask: &dyn Fn(usize, usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut results, mut logs) = (Vec::new(), Vec::new());
    for (plane, i) in (0..batch * heads).flat_map(|it| (0..queries).map(move |i| (it, i))) {
        let (b, h, group) = (plane / heads, plane % heads, plane / share);
        let query = &q[((b * queries + i) * heads + h) * channels..][..channels];
        let score = |j: usize| {
            let key = &k[(group * keys + j) * channels..][..channels];
            0.3 * query.iter().zip(key).map(|(x, y)| x * y).sum::<f64>() + mask(i, j)
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|it| (it - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let is_empty = most == f64::NEG_INFINITY;
        logs.push(if is_empty { most } else { most + total.ln() });
        for e in 0..values {
            let value = |j: usize| match turned {
                false => v[(group * keys + j) * values + e],
                true => v[(group * values + e) * keys + j],
            };
            let sum: f64 = weights.iter().enumerate().map(|(j, it)| it * value(j)).sum();
            results.push(if is_empty && zero_masked { 0.0 } else { sum / total });
        }
    }
    (results, logs)
}

fn say_if_not_run() {
    if !gpu().cooperative {
        // Not by `eprintln!`, which the test harness would swallow.
        let text =
            "\nNOT RUN: the adapter has no cooperative matrices of f16; their kernels were only validated\n";
        std::io::stderr().write_all(text.as_bytes()).expect("a standard error");
    }
}

/// Sizes, what is hidden, whether hidden rows are 0, whether scores grow.
const CASES: [(Sizes, Hidden, bool, bool); 5] = [
    ([1, 2, 1, 64, 128, 64, 64], Hidden::None, false, true),
    ([2, 2, 2, 37, 70, 64, 32], Hidden::Table, true, false),
    ([1, 4, 4, 9, 131, 40, 20], Hidden::Table, false, false),
    ([1, 1, 1, 130, 33, 128, 96], Hidden::After(-3), false, false),
    ([1, 2, 2, 160, 161, 32, 32], Hidden::After(1), true, true),
];

/// Bytes of workgroup memory, as `attention_coop.wgsl` counts them.
fn memory([teams, parts, sub_rows, keys, sub_keys]: Shares, channels: [usize; 2]) -> u32 {
    let [key_stride, value_stride] = channels.map(|it| 4 * (it as u32).div_ceil(16) + 2);
    let rows = teams * sub_rows;
    let tile = (rows * key_stride).max(keys * (key_stride + value_stride));
    let (scores, weights) = (rows * parts * (sub_keys / 4 + 1), rows * parts * (sub_keys / 4 + 2));
    8 * (tile + weights) + 16 * scores + 4 * rows * (2 * parts + 1)
}

/// One test for each choice of shares, because drivers take long to make these pipelines.
fn check_all(shares: Shares) {
    say_if_not_run();
    let fits = |it: &&(Sizes, Hidden, bool, bool)| memory(shares, [it.0[5], it.0[6]]) <= 49_152;
    for &(sizes, hidden, zero_masked, growing) in CASES.iter().filter(fits) {
        check(sizes, hidden, zero_masked, growing, shares);
    }
}

#[test]
fn the_smallest() {
    check([1, 1, 1, 1, 1, 16, 16], Hidden::None, false, false, [1, 1, 16, 16, 16]);
    check([1, 1, 1, 3, 5, 17, 18], Hidden::After(0), false, false, [1, 1, 16, 16, 16]);
}

#[test]
fn many_rows() {
    check_all([8, 1, 16, 64, 32]);
}

#[test]
fn two_matrices_down() {
    check_all([4, 1, 32, 64, 32]);
}

#[test]
fn few_keys_at_once() {
    check_all([2, 1, 16, 32, 16]);
}

#[test]
fn two_parts() {
    check_all([2, 2, 16, 64, 32]);
}

#[test]
fn four_parts() {
    check_all([1, 4, 16, 64, 16]);
}

#[test]
fn parts_of_two_matrices_down() {
    check_all([2, 2, 32, 64, 16]);
}

/// The tile of an attention of `heads` heads, of which `share` have the same keys and values, or why it is not on cooperative
/// matrices.
fn chosen(
    dtype: DType,
    [heads, share, queries, keys, channels, values]: [usize; 6],
    target: &Target,
) -> Result<AttentionTile, Why> {
    let mut b = GraphBuilder::new();
    let q = b.input("q", dtype, [1, heads, queries, channels]).expect("an input");
    let k = b.input("k", dtype, [1, heads / share, keys, channels]).expect("an input");
    let v = b.input("v", dtype, [1, heads / share, keys, values]).expect("an input");
    let y = b.attention(q, k, v, None, false).expect("attention");
    b.output("y", y).expect("an output");
    let made = stages(b.finish().expect("a graph"), target, &Options::default()).expect("stages");
    let kernels = &made.schedule.kernels;
    let is_attention = |it: &&Kernel| matches!(it.skeleton, Skeleton::Attention { .. });
    let kernel = kernels.iter().find(is_attention).expect("a kernel of attention");
    match kernel.skeleton {
        Skeleton::Attention { tile: tile @ AttentionTile::Cooperative(_), .. } => Ok(tile),
        _ => Err(why_not(kernel, target).expect("a reason")),
    }
}

#[test]
fn every_reason_is_told() {
    let of = |dtype, sizes| chosen(dtype, sizes, &large());
    let tile = of(DType::F16, [12, 1, 128, 128, 64, 64]);
    assert!(matches!(tile, Ok(AttentionTile::Cooperative(_))), "{tile:?}");
    // Queries of neighbouring heads that share keys are rows of one matrix.
    assert!(of(DType::F16, [16, 4, 4, 128, 64, 64]).is_ok());
    assert_eq!(of(DType::F16, [16, 4, 2, 100, 64, 64]).err(), Some(Why::Queries(8)));
    assert_eq!(of(DType::F32, [12, 1, 128, 128, 64, 64]).err(), Some(Why::Operands));
    assert_eq!(of(DType::F16, [12, 1, 128, 128, 64, 8]).err(), Some(Why::Channels([64, 8])));
    assert_eq!(of(DType::F16, [12, 1, 128, 128, 160, 160]).err(), Some(Why::Channels([160, 160])));
    let small = Target { max_workgroup_memory: 4096, ..large() };
    assert_eq!(chosen(DType::F16, [12, 1, 128, 128, 64, 64], &small).err(), Some(Why::Memory));
    for without in [
        Target { subgroup: Some((16, 32)), ..large() },
        Target { f16: false, ..large() },
        Target { cooperative: Vec::new(), ..large() },
    ] {
        assert_eq!(chosen(DType::F16, [12, 1, 128, 128, 64, 64], &without).err(), Some(Why::Target));
    }
    // Few queries over many keys.
    assert_eq!(of(DType::F16, [1, 1, 16, 4096, 64, 64]).err(), Some(Why::Pieces));
}
