//! Loops over f32 that are compiled once for each level of the processor's vector instructions, and the transcendental
//! functions they use. Relative errors stay below 2e-6 (a polynomial's own below 1e-7); NaN and infinities follow the
//! exact functions.

use wgfuse_compiler::scalar::{BinaryOp, ReduceOp, UnaryOp};

/// Vector instructions that loops may use.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Base,
    Avx2,
    Avx512,
}

#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    use std::sync::OnceLock;
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (fma, wide) {
            (true, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            (false, _) => Level::Base,
        }
    })
}

/// A function whose body is compiled for each `Level`; inside, `FMA` says whether fused multiply-add is one instruction.
macro_rules! wide {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { plain::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { plain::<true>($($arg),*) }
                // SAFETY: `level` found the features.
                match level() {
                    Level::Avx512 => unsafe { avx512($($arg),*) },
                    Level::Avx2 => unsafe { avx2($($arg),*) },
                    Level::Base => plain::<false>($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            plain::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}

#[inline(always)]
fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn horner<const FMA: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[N - 1];
    for at in (0..N - 1).rev() {
        sum = madd::<FMA>(sum, x, coefficients[at]);
    }
    sum
}

#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    // Beyond these the result is infinite or 0 in f32; NaN passes both comparisons.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let whole = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let n = shifted - MAGIC;
    // ln 2 in two parts, the first with few bits so that its product with n is exact.
    let r = madd::<FMA>(n, -0.693_359_4, x);
    let r = madd::<FMA>(n, 2.121_944_4e-4, r);
    let p = horner::<FMA, 5>(r, [0.5, 0.166_665_13, 0.041_666_187, 0.008_369_598, 0.001_395_171_7]);
    let p = madd::<FMA>(p * r, r, r) + 1.0;
    // 2^n in two factors: n reaches from -152 to 129.
    let half = whole >> 1;
    let power = |it: i32| f32::from_bits((it.wrapping_add(127) as u32) << 23);
    p * power(half) * power(whole.wrapping_sub(half))
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    let (a, z) = (x.abs(), x * x);
    let p = horner::<FMA, 5>(z, [-0.333_332_78, 0.133_313_29, -0.053_729_23, 0.020_602, -0.005_660_780_5]);
    let near = x * madd::<FMA>(p, z, 1.0);
    let far = (1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// 1 - erf(z) for z of at least 0: t exp(-z^2 + p(t)), t = 1/(1 + z/2).
#[inline(always)]
fn erfc<const FMA: bool>(z: f32) -> f32 {
    let t = 1.0 / madd::<FMA>(z, 0.5, 1.0);
    let p = horner::<FMA, 10>(
        t,
        [
            -1.265_441_4,
            0.998_492_54,
            0.387_899_44,
            0.028_358_52,
            0.020_191_535,
            -0.116_778_88,
            -0.651_259_2,
            1.122_409_2,
            -0.666_066_65,
            0.142_194_91,
        ],
    );
    t * exp::<FMA>(madd::<FMA>(-z, z, p))
}

#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let (a, z) = (x.abs(), x * x);
    let p = horner::<FMA, 7>(
        z,
        [
            std::f32::consts::FRAC_2_SQRT_PI,
            -0.376_126_26,
            0.112_835_85,
            -0.026_853_811,
            0.005_188_327_6,
            -0.000_801_012,
            7.853_854e-5,
        ],
    );
    let far = (1.0 - erfc::<FMA>(a)).copysign(x);
    if a < 1.0 { x * p } else { far }
}

#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let below = 0.5 * erfc::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    x * if x < 0.0 { below } else { 1.0 - below }
}

#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let u = 0.797_884_6 * x * madd::<FMA>(0.044_715 * x, x, 1.0);
    x * sigmoid::<FMA>(2.0 * u)
}

#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

#[inline(always)]
fn map(out: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f(*x);
    }
}

#[inline(always)]
fn zip(out: &mut [f32], x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = f(*x, *y);
    }
}

#[inline(always)]
fn test(out: &mut [u8], x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> bool) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = f(*x, *y) as u8;
    }
}

wide! {
    /// Returns whether `op` has a loop here.
    pub fn unary(op: UnaryOp, out: &mut [f32], x: &[f32]) -> bool {
        match op {
            UnaryOp::Neg => map(out, x, |x| -x),
            UnaryOp::Abs => map(out, x, f32::abs),
            UnaryOp::Exp => map(out, x, exp::<FMA>),
            UnaryOp::Sqrt => map(out, x, f32::sqrt),
            UnaryOp::Rsqrt => map(out, x, |x| 1.0 / x.sqrt()),
            UnaryOp::Recip => map(out, x, |x| 1.0 / x),
            UnaryOp::Tanh => map(out, x, tanh::<FMA>),
            UnaryOp::Erf => map(out, x, erf::<FMA>),
            UnaryOp::Floor => map(out, x, f32::floor),
            UnaryOp::Ceil => map(out, x, f32::ceil),
            UnaryOp::Round => map(out, x, f32::round_ties_even),
            UnaryOp::Trunc => map(out, x, f32::trunc),
            UnaryOp::Relu => map(out, x, |x| max(x, 0.0)),
            UnaryOp::Sigmoid => map(out, x, sigmoid::<FMA>),
            UnaryOp::Silu => map(out, x, |x| x * sigmoid::<FMA>(x)),
            UnaryOp::Gelu => map(out, x, gelu::<FMA>),
            UnaryOp::GeluTanh => map(out, x, gelu_tanh::<FMA>),
            UnaryOp::HardSwish => map(out, x, |x| x * min(max(x + 3.0, 0.0), 6.0) / 6.0),
            UnaryOp::Sign
            | UnaryOp::Log
            | UnaryOp::Sin
            | UnaryOp::Cos
            | UnaryOp::Tan
            | UnaryOp::Asin
            | UnaryOp::Acos
            | UnaryOp::Atan
            | UnaryOp::Sinh
            | UnaryOp::Cosh
            | UnaryOp::Asinh
            | UnaryOp::Acosh
            | UnaryOp::Atanh
            | UnaryOp::Not
            | UnaryOp::IsNan
            | UnaryOp::IsInf
            | UnaryOp::Normal
            | UnaryOp::ToBits
            | UnaryOp::FromBits
            | UnaryOp::Softplus => return false,
        }
        true
    }
}

wide! {
    /// Returns whether `op` has a loop here.
    pub fn binary(op: BinaryOp, out: &mut [f32], x: &[f32], y: &[f32]) -> bool {
        match op {
            BinaryOp::Add => zip(out, x, y, |x, y| x + y),
            BinaryOp::Sub => zip(out, x, y, |x, y| x - y),
            BinaryOp::Mul => zip(out, x, y, |x, y| x * y),
            BinaryOp::Div => zip(out, x, y, |x, y| x / y),
            BinaryOp::Max => zip(out, x, y, max),
            BinaryOp::Min => zip(out, x, y, min),
            BinaryOp::Rem
            | BinaryOp::Mod
            | BinaryOp::Pow
            | BinaryOp::Atan2
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::Shl
            | BinaryOp::Shr
            | BinaryOp::Eq
            | BinaryOp::Ne
            | BinaryOp::Lt
            | BinaryOp::Le
            | BinaryOp::Gt
            | BinaryOp::Ge => return false,
        }
        true
    }
}

wide! {
    /// Returns whether `op` is a comparison.
    pub fn compare(op: BinaryOp, out: &mut [u8], x: &[f32], y: &[f32]) -> bool {
        match op {
            BinaryOp::Eq => test(out, x, y, |x, y| x == y),
            BinaryOp::Ne => test(out, x, y, |x, y| x != y),
            BinaryOp::Lt => test(out, x, y, |x, y| x < y),
            BinaryOp::Le => test(out, x, y, |x, y| x <= y),
            BinaryOp::Gt => test(out, x, y, |x, y| x > y),
            BinaryOp::Ge => test(out, x, y, |x, y| x >= y),
            _ => return false,
        }
        true
    }
}

wide! {
    pub fn select(out: &mut [f32], c: &[u8], x: &[f32], y: &[f32]) {
        for (((out, c), x), y) in out.iter_mut().zip(c).zip(x).zip(y) {
            *out = if *c != 0 { *x } else { *y };
        }
    }
}

/// Accumulators side by side, so that neighbours are added up in independent chains.
const LANES: usize = 32;

#[inline(always)]
fn fold(x: &[f32], identity: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [identity; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(*lane, *x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for at in 0..width {
            lanes[at] = f(lanes[at], lanes[at + width]);
        }
        width /= 2;
    }
    lanes[0]
}

wide! {
    /// `x` reduced to one value.
    pub fn reduce(op: ReduceOp, x: &[f32]) -> f32 {
        match op {
            ReduceOp::Sum => fold(x, 0.0, |a, b| a + b),
            ReduceOp::Prod => fold(x, 1.0, |a, b| a * b),
            ReduceOp::Max => fold(x, f32::NEG_INFINITY, max),
            ReduceOp::Min => fold(x, f32::INFINITY, min),
        }
    }
}

wide! {
    /// `acc = acc op x`, element by element.
    pub fn accumulate(op: ReduceOp, acc: &mut [f32], x: &[f32]) {
        match op {
            ReduceOp::Sum => acc.iter_mut().zip(x).for_each(|(a, x)| *a += *x),
            ReduceOp::Prod => acc.iter_mut().zip(x).for_each(|(a, x)| *a *= *x),
            ReduceOp::Max => acc.iter_mut().zip(x).for_each(|(a, x)| *a = max(*a, *x)),
            ReduceOp::Min => acc.iter_mut().zip(x).for_each(|(a, x)| *a = min(*a, *x)),
        }
    }
}

wide! {
    /// `acc = acc + x * y`, element by element.
    pub fn accumulate_product(acc: &mut [f32], x: &[f32], y: &[f32]) {
        for ((acc, x), y) in acc.iter_mut().zip(x).zip(y) {
            *acc = madd::<FMA>(*x, *y, *acc);
        }
    }
}

wide! {
    /// `row = exp(row - high)`; gives the sum.
    pub fn exp_sum(row: &mut [f32], high: f32) -> f32 {
        row.iter_mut().for_each(|it| *it = exp::<FMA>(*it - high));
        fold(row, 0.0, |a, b| a + b)
    }
}

wide! {
    pub fn scale(row: &mut [f32], by: f32) {
        row.iter_mut().for_each(|it| *it *= by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A series and a continued fraction in f64, independent of the fitted polynomials.
    fn erfc_exact(x: f64) -> f64 {
        if x < 0.0 {
            return 2.0 - erfc_exact(-x);
        }
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let mut tail = x;
        for n in (1..200).rev() {
            tail = x + n as f64 / 2.0 / tail;
        }
        (-x * x).exp() / tail / std::f64::consts::PI.sqrt()
    }

    fn worst(op: UnaryOp, low: f32, high: f32, exact: impl Fn(f64) -> f64) -> f64 {
        let count = 40_000;
        let x: Vec<f32> = (0..count).map(|at| low + (high - low) * at as f32 / count as f32).collect();
        let mut out = vec![0.0; count];
        assert!(unary(op, &mut out, &x));
        let error = |x: f32, it: f32| {
            let want = exact(x as f64);
            (it as f64 - want).abs() / want.abs().max(1e-30)
        };
        x.iter().zip(&out).map(|(x, it)| error(*x, *it)).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_accurate() {
        let gelu = |x: f64| x / 2.0 * erfc_exact(-x * std::f64::consts::FRAC_1_SQRT_2);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst(UnaryOp::Exp, -87.0, 88.0, f64::exp) < 5e-7);
        assert!(worst(UnaryOp::Tanh, -12.0, 12.0, f64::tanh) < 1e-6);
        assert!(worst(UnaryOp::Erf, -5.0, 5.0, |x| 1.0 - erfc_exact(x)) < 1e-6);
        assert!(worst(UnaryOp::Sigmoid, -80.0, 80.0, sigmoid) < 1e-6);
        assert!(worst(UnaryOp::Gelu, -4.0, 10.0, gelu) < 2e-6);
        assert!(worst(UnaryOp::Gelu, -10.0, -4.0, gelu) < 1e-5);
    }

    #[test]
    fn functions_have_the_right_limits() {
        let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, 1e30, -1e30];
        let run = |op| {
            let mut out = [0.0; 7];
            assert!(unary(op, &mut out, &x));
            out
        };
        let [a, b, c, d, e, f, g] = run(UnaryOp::Exp);
        assert!(a == f32::INFINITY && b == 0.0 && c.is_nan() && d == 1.0 && e == 1.0);
        assert!(f == f32::INFINITY && g == 0.0);
        for op in [UnaryOp::Tanh, UnaryOp::Erf] {
            let [a, b, c, d, e, f, g] = run(op);
            assert!(a == 1.0 && b == -1.0 && c.is_nan() && d.to_bits() == 0 && e.to_bits() == 1 << 31);
            assert!(f == 1.0 && g == -1.0);
        }
    }
}
