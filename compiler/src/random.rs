//! Random numbers without state: a number follows from a key, the op's own number and the element's place.
//!
//! Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the normal
//! distribution's quantile, both in 32-bit integers alone, which every device computes exactly: bits are the same everywhere.
//! `shaders/math.wgsl` says the same for devices.

/// Ten rounds on `counter` with `key`.
pub fn philox([mut a, mut b, mut c, mut d]: [u32; 4], [mut k, mut l]: [u32; 2]) -> [u32; 4] {
    let product = |x: u32, y: u32| {
        let it = u64::from(x) * u64::from(y);
        ((it >> 32) as u32, it as u32)
    };
    for _ in 0..10 {
        let ((high, low), (other_high, other_low)) = (product(0xD251_1F53, a), product(0xCD9E_8D57, c));
        [a, b, c, d] = [other_high ^ b ^ k, other_low, high ^ d ^ l, low];
        (k, l) = (k.wrapping_add(0x9E37_79B9), l.wrapping_add(0xBB67_AE85));
    }
    [a, b, c, d]
}

/// The bits of element `at` (row-major) of random op `number`.
pub fn bits(key: [u32; 2], number: u32, at: u32) -> u32 {
    philox([at, number, 0, 0], key)[0]
}

/// The key of run number `run` since the seed `seed` was set: another for every run and every seed, but for chance.
pub fn run_key(seed: u64, run: u64) -> [u32; 2] {
    let words = |it: u64| [it as u32, (it >> 32) as u32];
    let [low, high] = words(run);
    let [a, b, ..] = philox([low, high, u32::MAX, u32::MAX], words(seed));
    [a, b]
}

/// Steps of `normal` from one number to the next.
pub const NORMAL_STEP: f32 = 1.0 / (1 << 21) as f32;

/// -ln(1 - u/2) / u, in 2^-31, by powers of u.
const LOG: [i32; 9] =
    [1073741845, 268432099, 89566709, 32673620, 17753488, -6092534, 20216778, -13675207, 5905398];

/// ln 2 in 2^-27.
const LN_2: u32 = 93032640;

/// The quantile over x, in 2^-28, by powers of how far w is in 0..4, 4..8, 8..16 and 16..24.
const QUANTILE: [[i32; 9]; 4] = [
    [336433945, 352313865, 70123192, -56463012, -13730629, 21327535, -794371, -5208826, 1637446],
    [705639137, 346756522, -43857347, -4991384, 11744765, -6622305, 1858075, -144070, -34584],
    [1010348804, 535598185, -122855184, 48033418, -15537166, -524375, 4931979, -2960006, 642512],
    [1457678164, 383228934, -47425215, 11525061, -3452265, 1122927, -353548, 88672, -12102],
];

/// Of 2^32 equally probable parts of the normal distribution the middle of number `bits`, to a multiple of `NORMAL_STEP` next to
/// it or the one beside; the upper half of the numbers is the lower half mirrored.
///
/// By M. Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011): the quantile is x P(w) where x = 1 - t is the
/// probability between its two mirror images, and w = -ln(1 - x^2) = -ln(t (2 - t)). P is four polynomials, made for this file.
pub fn normal(bits: u32) -> f32 {
    let high = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let horner = |of: &[i32; 9], u: u32| {
        let next = |sum: i32, it: &i32| ((i64::from(sum) * i64::from(u)) >> 32) as i32 + it;
        of.iter().rev().fold(0, next) as u32
    };
    let half = bits & 0x7fff_ffff;
    // t in 2^-32: never 0, never 1.
    let t = half * 2 + 1;
    let zeros = t.leading_zeros();
    let product = high(t << zeros, !half);
    let more = product.leading_zeros();
    let u = !(product << more) << 1;
    let w = (zeros + more - 1) * LN_2 + (high(horner(&LOG, u), u) >> 4);
    let (part, u) = match w >> 29 {
        0 => (0, w << 3),
        1 => (1, w << 3),
        2 | 3 => (2, w << 2),
        _ => (3, w << 2),
    };
    let x = t.wrapping_neg();
    let steps = (high(x, horner(&QUANTILE[part], u)) + 64) >> 7;
    // At most 24 bits: exact.
    let signed = if bits > half { -(steps as i32) } else { steps as i32 };
    signed as f32 * NORMAL_STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the authors' library Random123, file `kat_vectors`.
    #[test]
    fn published_answers() {
        let zero = philox([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
        assert_eq!(pi, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn runs_and_seeds_have_keys_of_their_own() {
        let mut keys: Vec<_> =
            (0..100).flat_map(|seed| (0..100).map(move |run| run_key(seed, run))).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
    }

    /// Values from an implementation with 40 digits.
    #[test]
    fn quantiles() {
        let steps = |bits: u32| (normal(bits) / NORMAL_STEP) as i32;
        let known = [
            (0, 13291661),
            (1, 12931940),
            (0xbc614e, 5791850),
            (0x7fffffff, 0),
            (0x80000000, -13291661),
            (u32::MAX, 0),
            (0xdeadbeef, -696843),
            (0x40000000, 1414508),
        ];
        known.iter().for_each(|&(bits, want)| assert_eq!(steps(bits), want, "{bits:x}"));
    }

    /// The probability below a quantile is that of the numbers before it, everywhere, to what a step of the quantile is.
    #[test]
    fn quantiles_invert_the_distribution() {
        let density = |z: f64| (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut all: Vec<u32> =
            (0..200_000u32).map(|it| it.wrapping_mul(0x9E37_79B9) & 0x7fff_ffff).collect();
        all.extend((0..31).flat_map(|it| [(1u32 << it) - 1, 1 << it, (1 << it) + 1]));
        for bits in all {
            let z = f64::from(normal(bits));
            let want = (f64::from(bits & 0x7fff_ffff) + 0.5) / 4_294_967_296.0;
            let have = libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2) / 2.0;
            let steps = (have - want) / density(z) / f64::from(NORMAL_STEP);
            assert!(steps.abs() < 0.6, "{bits:x}: {z} is {steps} steps away");
            let mirrored = normal(bits | 0x8000_0000);
            assert_eq!(mirrored, -normal(bits));
        }
    }
}
