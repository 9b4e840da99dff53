//! `math.wgsl` against the scalar evaluator's f64 arithmetic.

use wgfuse_compiler::{
    dtype::DType,
    random,
    scalar::{BinaryOp, Scalar, UnaryOp},
};

use crate::{
    gpu::{Random, floats, run, words},
    shader,
};

/// Applies `call`, an expression in `x` and `y` of types `from`, to each pair; gives bits.
fn apply(call: &str, from: &str, to: &str, x: &[u32], y: &[u32]) -> Vec<u32> {
    let count = x.len();
    let source = format!(
        "{}
        @group(0) @binding(0) var<storage, read_write> xs: array<u32>;
        @group(0) @binding(1) var<storage, read_write> ys: array<u32>;
        @group(0) @binding(2) var<storage, read_write> results: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            if id.x < {count}u {{
                let x = bitcast<{from}>(xs[id.x]);
                let y = bitcast<{from}>(ys[id.x]);
                let result: {to} = {call};
                results[id.x] = bitcast<u32>(result);
            }}
        }}",
        shader("math")
    );
    let buffers = [x.to_vec(), y.to_vec(), vec![0x7fc0_dead; count]];
    run(&source, &buffers, [count.div_ceil(64) as u32, 1, 1]).pop().expect("three buffers")
}

const SPECIAL: [f32; 38] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    4.0,
    10.0,
    -10.0,
    1.5,
    2.5,
    -2.5,
    0.99999994,
    1.0000001,
    88.7,
    89.2,
    -89.2,
    104.0,
    -104.5,
    1e5,
    -1e5,
    16777216.0,
    2147483648.0,
    -2147483648.0,
    4294967296.0,
    3e9,
    1e30,
    -1e30,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn grid() -> Vec<f32> {
    let mut all = SPECIAL.to_vec();
    all.extend((-2000..2000).map(|it| it as f32 * 0.01037));
    all.extend((-120..127).flat_map(|it| [1.37, -1.19].map(|m: f32| m * (it as f32).exp2())));
    all
}

/// `got` is `want` up to a relative and an absolute error. Subnormal numbers may count as 0, and those beside the largest
/// as infinite.
fn close(got: f32, want: f64, relative: f64, absolute: f64) -> bool {
    let rounded = want as f32;
    if rounded.is_nan() || got.is_nan() {
        return rounded.is_nan() && got.is_nan();
    }
    if got.to_bits() == rounded.to_bits() || (got == rounded && want != 0.0) {
        return true;
    }
    if got.is_infinite() || rounded.is_infinite() {
        return got.is_sign_negative() == rounded.is_sign_negative()
            && f64::from(got).abs().min(want.abs()) > f64::from(f32::MAX) * (1.0 - relative - 1e-6);
    }
    (f64::from(got) - want).abs() <= absolute + relative * want.abs() + f64::from(f32::MIN_POSITIVE)
}

fn check_unary(call: &str, op: UnaryOp, relative: f64, absolute: f64, points: &[f32]) -> Vec<String> {
    let bits = words(points);
    let got = floats(&apply(call, "f32", "f32", &bits, &bits));
    let wrong = points.iter().zip(&got).filter_map(|(&x, &got)| {
        let want = op.eval(DType::F64, Scalar::Float(f64::from(x))).as_f64();
        let text = || format!("{call}: x = {x:e}: {got:e}, not {want:e}");
        (!close(got, want, relative, absolute)).then(text)
    });
    wrong.take(5).collect()
}

#[test]
fn unary_operators_of_floats() {
    let relative = |name: &'static str, op, by| (name, op, by, 0.0);
    let rows = [
        relative("wg_exp_f32(x)", UnaryOp::Exp, 1.5e-5),
        ("wg_erf_f32(x)", UnaryOp::Erf, 2e-7, 1.3e-7),
        relative("wg_tanh_f32(x)", UnaryOp::Tanh, 5e-7),
        relative("wg_sinh_f32(x)", UnaryOp::Sinh, 1.5e-5),
        relative("wg_cosh_f32(x)", UnaryOp::Cosh, 1.5e-5),
        relative("wg_asinh_f32(x)", UnaryOp::Asinh, 1e-6),
        relative("wg_acosh_f32(x)", UnaryOp::Acosh, 1e-6),
        relative("wg_atanh_f32(x)", UnaryOp::Atanh, 1e-6),
        relative("wg_atan_f32(x)", UnaryOp::Atan, 3e-7),
        relative("wg_asin_f32(x)", UnaryOp::Asin, 5e-7),
        relative("wg_acos_f32(x)", UnaryOp::Acos, 5e-7),
        relative("wg_sigmoid_f32(x)", UnaryOp::Sigmoid, 1.5e-5),
        ("wg_silu_f32(x)", UnaryOp::Silu, 1.5e-5, 2e-36),
        relative("wg_softplus_f32(x)", UnaryOp::Softplus, 1.5e-5),
        ("wg_gelu_f32(x)", UnaryOp::Gelu, 4e-7, 7e-7),
        ("wg_gelu_tanh_f32(x)", UnaryOp::GeluTanh, 1e-5, 1e-7),
        relative("wg_hardswish_f32(x)", UnaryOp::HardSwish, 3e-7),
        relative("wg_relu_f32(x)", UnaryOp::Relu, 0.0),
        relative("wg_sign_f32(x)", UnaryOp::Sign, 0.0),
        relative("wg_round_f32(x)", UnaryOp::Round, 0.0),
    ];
    let points = grid();
    let wrong: Vec<String> =
        rows.iter().flat_map(|&(call, op, rel, abs)| check_unary(call, op, rel, abs, &points)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn circular_functions_far_from_zero() {
    let mut points: Vec<f32> = (-3000..3000).map(|it| it as f32 * 33.333).collect();
    points.extend((-3000..3000).map(|it| it as f32 * 0.01));
    points.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, -1e-3, 0.0, -0.0]);
    let mut wrong = check_unary("wg_sin_f32(x)", UnaryOp::Sin, 2e-7, 1e-7, &points);
    wrong.extend(check_unary("wg_cos_f32(x)", UnaryOp::Cos, 2e-7, 1e-7, &points));
    points.retain(|it| it.is_nan() || it.cos().abs() > 0.01);
    wrong.extend(check_unary("wg_tan_f32(x)", UnaryOp::Tan, 2e-5, 1e-7, &points));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn kinds_of_floats() {
    let points = grid();
    let bits = words(&points);
    let nan = apply("select(0u, 1u, wg_isnan_f32(x))", "f32", "u32", &bits, &bits);
    let infinite = apply("select(0u, 1u, wg_isinf_f32(x))", "f32", "u32", &bits, &bits);
    for (at, x) in points.iter().enumerate() {
        assert_eq!((nan[at], infinite[at]), (x.is_nan() as u32, x.is_infinite() as u32), "of {x:e}");
    }
    for (call, want) in [
        ("wg_inf_f32()", f32::INFINITY.to_bits()),
        ("wg_neg_inf_f32()", f32::NEG_INFINITY.to_bits()),
        ("wg_nan_f32()", f32::NAN.to_bits()),
    ] {
        assert_eq!(apply(call, "f32", "f32", &[0], &[0]), [want], "{call}");
    }
}

#[test]
fn binary_operators_of_floats() {
    let rows = [
        ("wg_max_f32(x, y)", BinaryOp::Max, 0.0, 0.0),
        ("wg_min_f32(x, y)", BinaryOp::Min, 0.0, 0.0),
        ("wg_rem_f32(x, y)", BinaryOp::Rem, 0.0, 0.0),
        ("wg_mod_f32(x, y)", BinaryOp::Mod, 0.0, 0.0),
        // What is below the smallest normal number may be 0.
        ("wg_atan2_f32(x, y)", BinaryOp::Atan2, 4e-7, f64::from(f32::MIN_POSITIVE)),
        ("wg_pow_f32(x, y)", BinaryOp::Pow, 2e-5, 0.0),
    ];
    let seed = 11;
    let mut random = Random::new(seed);
    let mut points = SPECIAL.to_vec();
    points.extend([0.1, -0.3, 0.25, 7.0, -7.0, 5.5, 63.0, -63.0, 65.0, 1e-10, -1e-20, 123456.79]);
    points.extend((0..60).map(|_| random.float() * f32::exp2(random.between(0, 60) as f32 - 30.0)));
    let pairs: Vec<(f32, f32)> = points.iter().flat_map(|&x| points.iter().map(move |&y| (x, y))).collect();
    let (x, y): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    let mut wrong = Vec::new();
    for (call, op, relative, absolute) in rows {
        let got = floats(&apply(call, "f32", "f32", &words(&x), &words(&y)));
        let all = pairs.iter().zip(&got).filter_map(|(&(x, y), &got)| {
            let pair = [x, y].map(|it| Scalar::Float(f64::from(it)));
            let want = op.eval(DType::F64, pair[0], pair[1]).as_f64();
            // Which zero is larger is left open, as in WGSL.
            let zeros = matches!(op, BinaryOp::Max | BinaryOp::Min) && got == 0.0 && want == 0.0;
            let text = || format!("{call}: x = {x:e}, y = {y:e}: {got:e}, not {want:e} (seed {seed})");
            (!zeros && !close(got, want, relative, absolute)).then(text)
        });
        wrong.extend(all.take(5));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where all three are well within the range. Ties of what is rounded afterwards depend on it.
#[test]
fn quotients_are_the_nearest_floats() {
    let seed = 14;
    let mut random = Random::new(seed);
    let mut pairs = vec![(0.5f32, 5.0f32 / 255.0)];
    for _ in 0..40_000 {
        let mut number = || (1.5 + 0.4 * random.float()) * f32::exp2(random.between(0, 80) as f32 - 40.0);
        pairs.push((number(), -number()));
    }
    pairs.extend(SPECIAL.iter().flat_map(|&x| SPECIAL.iter().map(move |&y| (x, y))));
    let (x, y): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    let got = floats(&apply("wg_div_f32(x, y)", "f32", "f32", &words(&x), &words(&y)));
    let far =
        |it: f32| it != 0.0 && it.is_finite() && !(f32::exp2(-80.0)..f32::exp2(80.0)).contains(&it.abs());
    let wrong: Vec<String> = (pairs.iter().zip(&got))
        .filter(|&(&(x, y), &got)| {
            let want = x / y;
            let edge = [x, y, want].iter().any(|it| far(*it));
            !(edge || got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan())
        })
        .map(|((x, y), got)| format!("{x:e} / {y:e}: {got:e}, not {:e} (seed {seed})", x / y))
        .collect();
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
}

#[test]
fn operators_of_integers() {
    let mut random = Random::new(12);
    let mut points = vec![0, 1, 2, 3, 5, 7, 31, 32, 33, 64, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX];
    points.extend([-2i32, -3, -7, -31, -32, 100_000].map(|it| it as u32));
    points.extend((0..20).map(|_| random.word() >> random.between(0, 31)));
    let pairs: Vec<(u32, u32)> = points.iter().flat_map(|&x| points.iter().map(move |&y| (x, y))).collect();
    let (x, y): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
    let ops = [
        ("div", BinaryOp::Div),
        ("rem", BinaryOp::Rem),
        ("mod", BinaryOp::Mod),
        ("pow", BinaryOp::Pow),
        ("shl", BinaryOp::Shl),
        ("shr", BinaryOp::Shr),
    ];
    for (ty, dtype) in [("i32", DType::I32), ("u32", DType::U32)] {
        let scalar = |it: u32| match dtype {
            DType::I32 => Scalar::Int(i64::from(it as i32)),
            _ => Scalar::Int(i64::from(it)),
        };
        for (name, op) in ops {
            let got = apply(&format!("wg_{name}_{ty}(x, y)"), ty, ty, &x, &y);
            for (&(x, y), &got) in pairs.iter().zip(&got) {
                let want = op.eval(dtype, scalar(x), scalar(y)).as_i64() as u32;
                assert_eq!(got, want, "{name} of {x:#x} and {y:#x} as {ty}");
            }
        }
        let got = apply(&format!("wg_sign_{ty}(x)"), ty, ty, &x, &y);
        for (&x, &got) in x.iter().zip(&got) {
            assert_eq!(got, UnaryOp::Sign.eval(dtype, scalar(x)).as_i64() as u32, "sign of {x:#x} as {ty}");
        }
    }
}

#[test]
fn floats_to_integers() {
    let points = grid();
    let bits = words(&points);
    for (ty, dtype) in [("i32", DType::I32), ("u32", DType::U32)] {
        let got = apply(&format!("wg_f32_to_{ty}(x)"), "f32", ty, &bits, &bits);
        for (&x, &got) in points.iter().zip(&got) {
            let want = Scalar::Float(f64::from(x)).cast(DType::F32, dtype).as_i64() as u32;
            assert_eq!(got, want, "{x:e} as {ty}");
        }
    }
}

/// The same bits as the compiler's own definitions, on the ends of every part of the range and all over it.
#[test]
fn random_numbers() {
    let mut x: Vec<u32> =
        (0..32).flat_map(|it| [1u32 << it, (1 << it) - 1, !(1 << it), !0 - (1 << it)]).collect();
    x.extend((0..20_000u32).map(|it| it.wrapping_mul(0x9e37_79b9)));
    x.extend((0..20_000u32).map(|it| it.wrapping_mul(0x85eb_ca6b) >> (it % 31)));
    let y: Vec<u32> = x.iter().rev().copied().collect();
    let got = apply("wg_normal_u32(x)", "u32", "f32", &x, &y);
    let want: Vec<u32> = x.iter().map(|it| random::normal(*it).to_bits()).collect();
    assert_eq!(got, want);
    let got = apply("wg_random_u32(x, y, 7u, x ^ y)", "u32", "u32", &x, &y);
    let want: Vec<u32> = x.iter().zip(&y).map(|(x, y)| random::bits([*x, *y], 7, x ^ y)).collect();
    assert_eq!(got, want);
    let got = apply("wg_high_u32(x, y)", "u32", "u32", &x, &y);
    let want: Vec<u32> =
        x.iter().zip(&y).map(|(x, y)| ((u64::from(*x) * u64::from(*y)) >> 32) as u32).collect();
    assert_eq!(got, want);
}
