// Scalar operators that WGSL lacks, or has with another meaning or accuracy: `wg_<operator>_<type>`.
//
// In: any value, NaN and infinities too. Out: what `UnaryOp::eval` and `BinaryOp::eval` give, to a few units in the last
// place unless stated. NaN and infinity are recognised and made by their bits, so that compilers which assume neither
// leave the tests alone. No function indexes memory, and every loop is counted.
//
// The polynomials are minimax fits made for this file. Their forms are those of Abramowitz and Stegun, "Handbook of
// Mathematical Functions", chapters 4 and 7: odd or even series whose leading term is exact.

// ---- NaN and infinity

fn wg_inf_f32() -> f32 {
    // A variable, because a constant expression must not be infinite or NaN.
    var bits = 0x7f800000u;
    return bitcast<f32>(bits);
}

fn wg_neg_inf_f32() -> f32 {
    var bits = 0xff800000u;
    return bitcast<f32>(bits);
}

fn wg_nan_f32() -> f32 {
    var bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}

fn wg_isnan_f32(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn wg_isinf_f32(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

// `magnitude` with the sign bit of `sign`.
fn wg_copysign_f32(magnitude: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}

// ---- Floats of eight bits and fewer

// The number of such a format nearest to `x`; the largest of its sign where `x` is larger. `least` is the power of two of the
// smallest normal number. `specials`: 1: there is no negative zero, 2: nor NaN, which becomes 0; a zero may be negative.
fn wg_small_float(x: f32, mantissa: i32, least: i32, largest: f32, specials: u32) -> f32 {
    // Bits are in the order of sizes. Of floats, llvmpipe (Mesa 22.3.6) makes the minimum 0 where `x` was selected among a constant NaN
    // and numbers.
    let bits = min(bitcast<u32>(x) & 0x7fffffffu, bitcast<u32>(largest));
    let size = bitcast<f32>(bits);
    let power = max(i32(bits >> 23u) - 127i, least) - mantissa;
    // Products with powers of two are exact.
    let steps = round(size * bitcast<f32>(u32(127i - power) << 23u));
    let rounded = steps * bitcast<f32>(u32(127i + power) << 23u);
    let none = specials == 1u && rounded == 0.0;
    let signed = select(wg_copysign_f32(rounded, x), 0.0, none);
    return select(signed, select(x, 0.0, specials == 2u), wg_isnan_f32(x));
}

// ---- Order: NaN if either is NaN

fn wg_max_f32(a: f32, b: f32) -> f32 {
    return select(select(max(a, b), b, wg_isnan_f32(b)), a, wg_isnan_f32(a));
}

fn wg_min_f32(a: f32, b: f32) -> f32 {
    return select(select(min(a, b), b, wg_isnan_f32(b)), a, wg_isnan_f32(a));
}

fn wg_relu_f32(x: f32) -> f32 {
    return select(max(x, 0.0), x, wg_isnan_f32(x));
}

fn wg_sign_f32(x: f32) -> f32 {
    return select(sign(x), x, wg_isnan_f32(x));
}

fn wg_sign_i32(x: i32) -> i32 {
    return select(0i, 1i, x > 0i) - select(0i, 1i, x < 0i);
}

fn wg_sign_u32(x: u32) -> u32 {
    return min(x, 1u);
}

fn wg_round_f32(x: f32) -> f32 {
    return round(x);
}

// ---- Exponentials and logarithms

// exp(-inf) is 0, exp(inf) is inf, NaN stays.
fn wg_exp_f32(x: f32) -> f32 {
    // Below -104 the result is 0 in every rounding; from 88.8 on it is infinite.
    let y = select(exp(clamp(x, -104.0, 89.0)), 0.0, x < -104.0);
    return select(select(y, wg_inf_f32(), x >= 88.8), x, wg_isnan_f32(x));
}

// log(1 + x).
fn wg_log1p_f32(x: f32) -> f32 {
    // log(1 + x) = 2 atanh(z) with z = x / (2 + x); for x in [-0.5, 1] z is at most 1/3.
    let z = x / (2.0 + x);
    let s = z * z;
    var p = fma(s, 0.121504694, 0.10713828);
    p = fma(s, p, 0.14308442);
    p = fma(s, p, 0.19999439);
    p = fma(s, p, 0.33333337);
    let near = 2.0 * fma(z * s, p, z);
    return select(log(1.0 + x), near, x >= -0.5 && x <= 1.0);
}

fn wg_softplus_f32(x: f32) -> f32 {
    return wg_relu_f32(x) + wg_log1p_f32(wg_exp_f32(-abs(x)));
}

fn wg_sigmoid_f32(x: f32) -> f32 {
    let e = wg_exp_f32(-abs(x));
    let p = 1.0 / (1.0 + e);
    return select(e * p, p, x >= 0.0);
}

fn wg_silu_f32(x: f32) -> f32 {
    return x * wg_sigmoid_f32(x);
}

fn wg_hardswish_f32(x: f32) -> f32 {
    return x * (clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0));
}

// ---- Error function and gelu

// Within 1.2e-7 of the exact value. |x| <= 1: x + x P(x^2); beyond: 1 - exp(-Q(|x|)), which is 1 from 4 on.
fn wg_erf_f32(x: f32) -> f32 {
    let t = min(abs(x), 4.0);
    let s = t * t;
    var p = fma(s, 7.889119e-05, -0.0008020841);
    p = fma(s, p, 0.005189535);
    p = fma(s, p, -0.026854444);
    p = fma(s, p, 0.112836);
    p = fma(s, p, -0.37612626);
    p = fma(s, p, 0.12837917);
    let small = fma(x, p, x);
    var q = fma(t, 2.168685e-05, -0.00044133636);
    q = fma(t, q, 0.004204562);
    q = fma(t, q, -0.025208257);
    q = fma(t, q, 0.10841858);
    q = fma(t, q, 0.6332199);
    q = fma(t, q, 1.1295785);
    q = fma(t, q, -0.00018804021);
    let large = wg_copysign_f32(1.0 - exp(-q), x);
    return select(select(large, small, t <= 1.0), x, wg_isnan_f32(x));
}

fn wg_gelu_f32(x: f32) -> f32 {
    return 0.5 * x * (1.0 + wg_erf_f32(x * 0.70710677));
}

// x/2 (1 + tanh u) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3).
fn wg_gelu_tanh_f32(x: f32) -> f32 {
    return x * wg_sigmoid_f32(1.5957692 * fma(0.044715 * x * x, x, x));
}

// ---- Hyperbolic functions and their inverses

// |x| < 0.62: x + x^3 P(x^2); beyond: 1 - 2 / (exp(2|x|) + 1), of |x| cut to 10, where the result is 1.
fn wg_tanh_f32(x: f32) -> f32 {
    let t = min(abs(x), 10.0);
    let s = t * t;
    var p = fma(s, -0.0057208124, 0.0206538);
    p = fma(s, p, -0.053744428);
    p = fma(s, p, 0.13331501);
    p = fma(s, p, -0.33333284);
    let small = fma(x * s, p, x);
    let large = wg_copysign_f32(1.0 - 2.0 / (exp(2.0 * t) + 1.0), x);
    return select(select(large, small, t < 0.62), x, wg_isnan_f32(x));
}

// h * h / 2 for h >= 1. Drivers that multiply in another order may square h first, which overflows: they do not see
// through a half made of bits.
fn wg_half_square_f32(h: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(h) - 0x00800000u) * h;
}

fn wg_sinh_f32(x: f32) -> f32 {
    let s = x * x;
    var p = fma(s, 2.8174397e-06, 0.00019836066);
    p = fma(s, p, 0.0083333505);
    p = fma(s, p, 0.16666667);
    let small = fma(x * s, p, x);
    // The square of exp(|x|/2), because exp(|x|) overflows before sinh does.
    let h = wg_exp_f32(0.5 * abs(x));
    let large = wg_copysign_f32(wg_half_square_f32(h) - 0.5 / h / h, x);
    return select(select(large, small, abs(x) <= 1.0), x, wg_isnan_f32(x));
}

fn wg_cosh_f32(x: f32) -> f32 {
    let h = wg_exp_f32(0.5 * abs(x));
    return wg_half_square_f32(h) + 0.5 / h / h;
}

fn wg_asinh_f32(x: f32) -> f32 {
    let t = abs(x);
    // Where t^2 would overflow, the root is t itself.
    let near = wg_log1p_f32(t + t * t / (1.0 + sqrt(fma(t, t, 1.0))));
    let y = select(near, log(t) + 0.6931472, t > 1e9);
    return select(wg_copysign_f32(y, x), x, wg_isnan_f32(x) || wg_isinf_f32(x));
}

// NaN below 1.
fn wg_acosh_f32(x: f32) -> f32 {
    let t = max(x, 1.0) - 1.0;
    let near = wg_log1p_f32(t + sqrt(t * (t + 2.0)));
    let y = select(near, log(max(x, 1.0)) + 0.6931472, x > 1e9);
    let cut = select(y, wg_nan_f32(), x < 1.0);
    return select(cut, x, wg_isnan_f32(x) || bitcast<u32>(x) == 0x7f800000u);
}

// Infinite at 1, NaN beyond.
fn wg_atanh_f32(x: f32) -> f32 {
    let t = abs(x);
    let inside = min(t, 0.99999994);
    let y = 0.5 * wg_log1p_f32(2.0 * inside / (1.0 - inside));
    let cut = select(select(y, wg_inf_f32(), t == 1.0), wg_nan_f32(), t > 1.0);
    return select(wg_copysign_f32(cut, x), x, wg_isnan_f32(x));
}

// ---- Circular functions and their inverses

// x - n pi/2 by Cody and Waite's method: pi/2 in parts, of which three have 8 bits, so that their products with n are exact
// up to 2^16. Those are made of integers, because compilers add up the factors of `n * a + n * b`.
fn wg_quarter_rest_f32(x: f32, n: i32) -> f32 {
    var r = fma(f32(n * 201i), -0.0078125, x);
    r = fma(f32(n * 253i), -1.9073486328125e-06, r);
    r = fma(f32(n * 170i), -7.450580596923828e-09, r);
    return fma(f32(n), -9.920935795e-10, r);
}

// sin(x + turn pi/2) for |x| <= 100000.
fn wg_sin_turned_f32(x: f32, turn: i32) -> f32 {
    let quarter = i32(round(x * 0.63661975));
    let r = wg_quarter_rest_f32(x, quarter);
    let s = r * r;
    var p = fma(s, -0.00019516655, 0.008332173);
    p = fma(s, p, -0.16666655);
    let sine = fma(r * s, p, r);
    var q = fma(s, 2.4437728e-05, -0.0013887362);
    q = fma(s, q, 0.041666646);
    let cosine = fma(s * s, q, fma(s, -0.5, 1.0));
    let n = quarter + turn;
    let y = select(sine, cosine, (n & 1i) == 1i);
    return select(y, -y, (n & 2i) == 2i);
}

// To the accuracy of the built-in function where |x| > 100000.
fn wg_sin_f32(x: f32) -> f32 {
    let y = wg_sin_turned_f32(clamp(x, -100000.0, 100000.0), 0i);
    let far = select(sin(x), wg_nan_f32(), (bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u);
    return select(far, y, abs(x) <= 100000.0);
}

// To the accuracy of the built-in function where |x| > 100000.
fn wg_cos_f32(x: f32) -> f32 {
    let y = wg_sin_turned_f32(clamp(x, -100000.0, 100000.0), 1i);
    let far = select(cos(x), wg_nan_f32(), (bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u);
    return select(far, y, abs(x) <= 100000.0);
}

fn wg_tan_f32(x: f32) -> f32 {
    return wg_sin_f32(x) / wg_cos_f32(x);
}

// For 0 <= t <= 1.
fn wg_atan_unit_f32(t: f32) -> f32 {
    let s = t * t;
    var p = fma(s, -0.0018271847, 0.011064315);
    p = fma(s, p, -0.03145547);
    p = fma(s, p, 0.05823432);
    p = fma(s, p, -0.08419446);
    p = fma(s, p, 0.10957572);
    p = fma(s, p, -0.14265245);
    p = fma(s, p, 0.19998638);
    p = fma(s, p, -0.33333302);
    return fma(t * s, p, t);
}

fn wg_atan2_f32(y: f32, x: f32) -> f32 {
    let ax = abs(x);
    let ay = abs(y);
    let larger = max(ax, ay);
    // A quotient by more than 2^126 may be 0: see WGSL, "Floating Point Accuracy". 0/0 counts as 0, inf/inf as 1.
    let scale = select(1.0, exp2(-24.0), larger > 1.0e30);
    let quotient = min(ax, ay) * scale / select(larger * scale, 1.0, larger == 0.0);
    let t = select(quotient, 1.0, wg_isinf_f32(x) && wg_isinf_f32(y));
    let near = wg_atan_unit_f32(min(t, 1.0));
    let upper = select(near, 1.5707964 - near, ay > ax);
    let angle = select(upper, 3.1415927 - upper, (bitcast<u32>(x) & 0x80000000u) != 0u);
    let signed = wg_copysign_f32(angle, y);
    return select(signed, wg_nan_f32(), wg_isnan_f32(x) || wg_isnan_f32(y));
}

fn wg_atan_f32(x: f32) -> f32 {
    return wg_atan2_f32(x, 1.0);
}

// NaN beyond 1.
fn wg_asin_f32(x: f32) -> f32 {
    let y = wg_atan2_f32(x, sqrt(max((1.0 - x) * (1.0 + x), 0.0)));
    return select(y, wg_nan_f32(), abs(x) > 1.0);
}

// NaN beyond 1.
fn wg_acos_f32(x: f32) -> f32 {
    let y = wg_atan2_f32(sqrt(max((1.0 - x) * (1.0 + x), 0.0)), x);
    return select(y, wg_nan_f32(), abs(x) > 1.0);
}

// ---- Powers

// x^y for x > 0 by its bits and y finite: 2^(y log2 x), with log2 x to some 36 bits in two parts.
fn wg_pow_positive_f32(x_bits: u32, y: f32) -> f32 {
    // x = 2^exponent m with m from 0.707 to 1.414; whole = 2^24 m.
    let shift = select(0u, 23u - firstLeadingBit(max(x_bits, 1u)), x_bits < 0x800000u);
    let leading = ((x_bits << shift) & 0x7fffffu) | 0x800000u;
    let above = leading > 0xb504f3u;
    let whole = select(leading << 1u, leading, above);
    let biased = max(i32(x_bits >> 23u), 1i) - i32(shift);
    let exponent = select(biased - 127i, biased - 126i, above);
    // log2 m = 2 / ln 2 (s + s^3 P(s^2)) with s = (m - 1) / (m + 1) = steps / 2^14 + rest. The remainder of that division fits
    // 32 bits, so that it may wrap on the way.
    let over = bitcast<i32>(whole - 0x1000000u);
    let under = whole + 0x1000000u;
    let quotient = f32(over) / f32(under);
    let steps = i32(round(quotient * 16384.0));
    let remainder = bitcast<i32>((bitcast<u32>(over) << 14u) - bitcast<u32>(steps) * under);
    let rest = f32(remainder) / f32(under) * 6.103515625e-05;
    let s = quotient * quotient;
    var p = fma(s, 0.14939585, 0.19988643);
    p = fma(s, p, 0.33333388);
    // 2 / ln 2 is 2954 / 2^10 and 0.0006244568.
    let log_steps = steps * 2954i;
    let fixed = exponent * 4194304i + (log_steps >> 2u);
    let log_high = f32(fixed & -262144i) * 2.384185791015625e-07;
    let log_middle = f32(((fixed & 262143i) << 2u) | (log_steps & 3i)) * 5.960464477539063e-08;
    let log_low = fma(rest + quotient * s * p, 2.88539, f32(steps) * 6.103515625e-05 * 0.0006244568);
    let log = log_high + (log_middle + log_low);
    if abs(y * log) > 200.0 {
        return select(0.0, wg_inf_f32(), y * log > 0.0);
    }
    let y_high = bitcast<f32>(bitcast<u32>(y) & 0xfffff000u);
    let product = y_high * log_high;
    let product_rest = y_high * (log_middle + log_low) + (y - y_high) * log;
    let n = round(product + product_rest);
    let r = (product - n) + product_rest;
    var e = fma(r, 0.00015471835, 0.0013390437);
    e = fma(r, e, 0.0096180225);
    e = fma(r, e, 0.055503618);
    e = fma(r, e, 0.2402265);
    e = fma(r, e, 0.6931472);
    e = fma(r, e, 1.0);
    let half = i32(n) >> 1u;
    let other = i32(n) - half;
    return e * bitcast<f32>(bitcast<u32>(half + 127i) << 23u) * bitcast<f32>(bitcast<u32>(other + 127i) << 23u);
}

// C's pow, to 1e-6 and better wherever |y| is below 10^5.
fn wg_pow_f32(x: f32, y: f32) -> f32 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if wg_isnan_f32(x) || wg_isnan_f32(y) {
        return wg_nan_f32();
    }
    let base = abs(x);
    let base_bits = bitcast<u32>(x) & 0x7fffffffu;
    let size = abs(y);
    let whole = floor(size) == size;
    let odd = whole && size < 16777216.0 && (u32(min(size, 16777216.0)) & 1u) == 1u;
    let grows = y > 0.0;
    var power = 0.0;
    if wg_isinf_f32(y) {
        power = select(select(0.0, wg_inf_f32(), (base > 1.0) == grows), 1.0, base == 1.0);
    } else if base_bits == 0u {
        power = select(wg_inf_f32(), 0.0, grows);
    } else if base_bits == 0x7f800000u {
        power = select(0.0, wg_inf_f32(), grows);
    } else if whole && size < 8.0 {
        // By multiplication. The power of a small base might vanish before its reciprocal is taken.
        let turned = !grows && base < 1.0e-5;
        let factor = select(base, 1.0 / base, turned);
        let square = factor * factor;
        let n = u32(size);
        power = select(1.0, factor, (n & 1u) == 1u) * select(1.0, square, (n & 2u) == 2u);
        power *= select(1.0, square * square, (n & 4u) == 4u);
        power = select(1.0 / power, power, grows || turned);
    } else {
        power = wg_pow_positive_f32(base_bits, y);
    }
    if (bitcast<u32>(x) & 0x80000000u) == 0u {
        return power;
    }
    if whole {
        return select(power, -power, odd);
    }
    return select(wg_nan_f32(), power, base_bits == 0u || base_bits == 0x7f800000u);
}

fn wg_pow_u32(x: u32, y: u32) -> u32 {
    var product = 1u;
    var square = x;
    var rest = y;
    for (var bit = 0u; bit < 32u; bit += 1u) {
        if (rest & 1u) == 1u {
            product *= square;
        }
        rest >>= 1u;
        if rest == 0u {
            break;
        }
        square *= square;
    }
    return product;
}

// A negative power is cut towards zero.
fn wg_pow_i32(x: i32, y: i32) -> i32 {
    if y < 0i {
        return select(select(0i, select(1i, -1i, (y & 1i) == 1i), x == -1i), 1i, x == 1i);
    }
    return bitcast<i32>(wg_pow_u32(bitcast<u32>(x), bitcast<u32>(y)));
}

// ---- Division

// The quotient, which WGSL leaves 2.5 units in the last place to, within half a unit and a millionth: a product with the reciprocal,
// which is one for all elements of a row, corrected by what it leaves over. That is exact: halves have 12 bits, so that products have
// 24, and each difference cancels (Dekker, "A Floating-Point Technique for Extending the Available Precision", 1971). Compilers may
// contract products and sums; sizes, and a quotient without its last bit, are results of integer operations, which they
// cannot look through to a product that is not rounded yet. Not `fma`, which some drivers round twice.
fn wg_div_f32(x: f32, y: f32) -> f32 {
    let bits = vec2(bitcast<u32>(x), bitcast<u32>(y)) & vec2(0x7fffffffu);
    let a = bitcast<f32>(bits.x);
    let b = bitcast<f32>(bits.y);
    let inverse = 1.0 / b;
    let quotient_bits = bitcast<u32>(a * inverse) & 0xfffffffeu;
    // Of numbers from 2^-80 to 2^80 nothing on the way is subnormal or infinite.
    if min(min(bits.x, bits.y), quotient_bits) < 0x17800000u || max(max(bits.x, bits.y), quotient_bits) > 0x67800000u {
        return x / y;
    }
    let quotient = bitcast<f32>(quotient_bits);
    let quotient_high = bitcast<f32>(quotient_bits & 0xfffff000u);
    let quotient_low = quotient - quotient_high;
    let b_high = bitcast<f32>(bits.y & 0xfffff000u);
    let b_low = b - b_high;
    let rest = (((a - quotient_high * b_high) - quotient_high * b_low) - quotient_low * b_high) - quotient_low * b_low;
    // Up to half of the way to the next float the quotient is the nearest; the sum, which rounds twice, could leave it at a tie.
    let gap = quotient - bitcast<f32>(quotient_bits - 1u);
    let nearest = select(quotient + rest * inverse, quotient, 2.0 * abs(rest) <= gap * b);
    return bitcast<f32>(bitcast<u32>(nearest) | ((bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u));
}

// Exact remainder with the sign of `x`, by long division of the significands, eight bits a step.
fn wg_rem_f32(x: f32, y: f32) -> f32 {
    let x_bits = bitcast<u32>(x) & 0x7fffffffu;
    let y_bits = bitcast<u32>(y) & 0x7fffffffu;
    if x_bits >= 0x7f800000u || y_bits > 0x7f800000u || y_bits == 0u {
        return wg_nan_f32();
    }
    if x_bits < y_bits {
        return x;
    }
    // A value is its significand times 2^(exponent - 150); subnormal ones have exponent 1 and no leading bit.
    let x_exponent = max(x_bits >> 23u, 1u);
    let y_exponent = max(y_bits >> 23u, 1u);
    let divisor = (y_bits & 0x7fffffu) | select(0u, 0x800000u, y_bits >= 0x800000u);
    var rest = ((x_bits & 0x7fffffu) | select(0u, 0x800000u, x_bits >= 0x800000u)) % divisor;
    var steps = x_exponent - y_exponent;
    for (var step = 0u; step < 32u; step += 1u) {
        if steps == 0u || rest == 0u {
            break;
        }
        let bits = min(steps, 8u);
        rest = (rest << bits) % divisor;
        steps -= bits;
    }
    var bits = 0u;
    if rest != 0u {
        let shift = min(23u - firstLeadingBit(rest), y_exponent - 1u);
        let significand = rest << shift;
        bits = (significand & 0x7fffffu) | select(0u, (y_exponent - shift) << 23u, significand >= 0x800000u);
    }
    return bitcast<f32>(bits | (bitcast<u32>(x) & 0x80000000u));
}

// Remainder with the sign of `y`.
fn wg_mod_f32(x: f32, y: f32) -> f32 {
    let rest = wg_rem_f32(x, y);
    let other = (bitcast<u32>(rest) ^ bitcast<u32>(y)) >= 0x80000000u;
    return select(select(rest, rest + y, other), wg_copysign_f32(0.0, y), rest == 0.0);
}

// Towards zero; by zero 0; the smallest number by -1 is itself.
fn wg_div_i32(x: i32, y: i32) -> i32 {
    let unsafe_divisor = y == 0i || (y == -1i && x == -2147483648);
    let quotient = x / select(y, 1i, unsafe_divisor);
    return select(quotient, 0i, y == 0i);
}

fn wg_div_u32(x: u32, y: u32) -> u32 {
    return select(x / max(y, 1u), 0u, y == 0u);
}

// With the sign of `x`; by zero 0.
fn wg_rem_i32(x: i32, y: i32) -> i32 {
    return select(x - wg_div_i32(x, y) * y, 0i, y == 0i);
}

fn wg_rem_u32(x: u32, y: u32) -> u32 {
    return select(x % max(y, 1u), 0u, y == 0u);
}

// With the sign of `y`; by zero 0.
fn wg_mod_i32(x: i32, y: i32) -> i32 {
    let rest = wg_rem_i32(x, y);
    return select(rest, rest + y, rest != 0i && (rest ^ y) < 0i);
}

fn wg_mod_u32(x: u32, y: u32) -> u32 {
    return wg_rem_u32(x, y);
}

// ---- Shifts; by 32 and more places (a negative number of places too) no bit is left

fn wg_shl_u32(x: u32, places: u32) -> u32 {
    return select(x << (places & 31u), 0u, places > 31u);
}

fn wg_shl_i32(x: i32, places: i32) -> i32 {
    return bitcast<i32>(wg_shl_u32(bitcast<u32>(x), bitcast<u32>(places)));
}

fn wg_shr_u32(x: u32, places: u32) -> u32 {
    return select(x >> (places & 31u), 0u, places > 31u);
}

// Fills with the sign.
fn wg_shr_i32(x: i32, places: i32) -> i32 {
    return x >> min(bitcast<u32>(places), 31u);
}

// ---- Floats to integers: cut towards zero, the nearest end outside the range, NaN 0

fn wg_f32_to_i32(x: f32) -> i32 {
    let number = select(x, 0.0, wg_isnan_f32(x));
    // The largest f32 below 2^31.
    let inside = i32(clamp(number, -2147483648.0, 2147483520.0));
    return select(inside, 2147483647i, number >= 2147483648.0);
}

fn wg_f32_to_u32(x: f32) -> u32 {
    let number = select(x, 0.0, wg_isnan_f32(x));
    let inside = u32(clamp(number, 0.0, 4294967040.0));
    return select(inside, 4294967295u, number >= 4294967296.0);
}

// ---- Random numbers: what `random.rs` says, in 32-bit integers alone, so that all devices give the same bits

// The upper half of the product.
fn wg_high_u32(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let middle = a_high * b_low + ((a_low * b_low) >> 16u);
    let other = a_low * b_high + (middle & 0xffffu);
    return a_high * b_high + (middle >> 16u) + (other >> 16u);
}

// The first word of Philox 4x32-10 with the key (low, high) at the counter (at, number, 0, 0).
fn wg_random_u32(low: u32, high: u32, number: u32, at: u32) -> u32 {
    var k = low;
    var l = high;
    var a = at;
    var b = number;
    var c = 0u;
    var d = 0u;
    for (var round = 0u; round < 10u; round++) {
        let first = wg_high_u32(0xd2511f53u, a);
        let second = wg_high_u32(0xcd9e8d57u, c);
        let next_b = 0xcd9e8d57u * c;
        let next_d = 0xd2511f53u * a;
        a = second ^ b ^ k;
        c = first ^ d ^ l;
        b = next_b;
        d = next_d;
        k += 0x9e3779b9u;
        l += 0xbb67ae85u;
    }
    return a;
}

// sum * u / 2^32 + next, rounded down, of a sum with a sign.
fn wg_horner(sum: i32, u: u32, next: i32) -> i32 {
    let product = wg_high_u32(bitcast<u32>(sum), u) - select(0u, u, sum < 0i);
    return bitcast<i32>(product) + next;
}

fn wg_normal_u32(bits: u32) -> f32 {
    let half = bits & 0x7fffffffu;
    let t = half * 2u + 1u;
    let zeros = countLeadingZeros(t);
    let product = wg_high_u32(t << (zeros & 31u), ~half);
    let more = countLeadingZeros(product);
    let u = (~(product << (more & 31u))) << 1u;
    var sum = wg_horner(5905398i, u, -13675207i);
    sum = wg_horner(sum, u, 20216778i);
    sum = wg_horner(sum, u, -6092534i);
    sum = wg_horner(sum, u, 17753488i);
    sum = wg_horner(sum, u, 32673620i);
    sum = wg_horner(sum, u, 89566709i);
    sum = wg_horner(sum, u, 268432099i);
    sum = wg_horner(sum, u, 1073741845i);
    let w = (zeros + more - 1u) * 93032640u + (wg_high_u32(bitcast<u32>(sum), u) >> 4u);
    // Coefficients from the highest power down, in two vectors and the last.
    var high = vec4<i32>(1637446i, -5208826i, -794371i, 21327535i);
    var low = vec4<i32>(-13730629i, -56463012i, 70123192i, 352313865i);
    var last = 336433945i;
    var x = w << 3u;
    if w >= 0x80000000u {
        high = vec4<i32>(-12102i, 88672i, -353548i, 1122927i);
        low = vec4<i32>(-3452265i, 11525061i, -47425215i, 383228934i);
        last = 1457678164i;
        x = w << 2u;
    } else if w >= 0x40000000u {
        high = vec4<i32>(642512i, -2960006i, 4931979i, -524375i);
        low = vec4<i32>(-15537166i, 48033418i, -122855184i, 535598185i);
        last = 1010348804i;
        x = w << 2u;
    } else if w >= 0x20000000u {
        high = vec4<i32>(-34584i, -144070i, 1858075i, -6622305i);
        low = vec4<i32>(11744765i, -4991384i, -43857347i, 346756522i);
        last = 705639137i;
    }
    sum = wg_horner(high.x, x, high.y);
    sum = wg_horner(sum, x, high.z);
    sum = wg_horner(sum, x, high.w);
    sum = wg_horner(sum, x, low.x);
    sum = wg_horner(sum, x, low.y);
    sum = wg_horner(sum, x, low.z);
    sum = wg_horner(sum, x, low.w);
    sum = wg_horner(sum, x, last);
    let steps = bitcast<i32>((wg_high_u32(0u - t, bitcast<u32>(sum)) + 64u) >> 7u);
    // At most 24 bits: exact.
    return f32(select(steps, -steps, bits > half)) * 4.76837158203125e-7;
}
