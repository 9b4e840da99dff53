//! Fourier transforms, and the windows and filters that go with them.
//!
//! A transform of a length with small factors is a matrix product for each factor, so that n elements cost n times the sum of
//! the factors; a length that is a prime is one product with a matrix of its square. Short complex
//! signals are written out.

use std::f64::consts::TAU;

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, PadMode, Value},
    import::emit::Emit,
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};

type Made = Result<Value, Error>;

/// Lengths up to here are not split, and factors up to here are preferred.
const DIRECT: usize = 64;
/// Complex signals up to here, with no prime factors but 2, 3 and 5, are written out.
const SHORT: usize = 16;
/// The longest that is one matrix.
const MAX_MATRIX: usize = 2048;
/// The longest window or filter.
const MAX_MADE: usize = 1 << 24;

/// [.., length] each; what is missing is 0.
#[derive(Clone, Copy)]
struct Complex {
    re: Value,
    im: Option<Value>,
}

impl Complex {
    fn each(self, mut f: impl FnMut(Value) -> Made) -> Result<Complex, Error> {
        let re = f(self.re)?;
        Ok(Complex { re, im: self.im.map(f).transpose()? })
    }
}

pub fn dft(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (shape, dtype) = (e.shape(x), e.dtype(x));
    let Some(signals) = shape.rank().checked_sub(1).filter(|it| *it > 0) else {
        return Err(n.error(format!("{shape} has no signal axis")));
    };
    let raw = match n.opset < 20 {
        true => n.int("axis", 1)?,
        false => one(e, n, 2)?.unwrap_or(-2),
    };
    let axis = n.axis(raw, shape.rank())?;
    if axis == signals {
        return Err(n.error("the last axis holds real and imaginary parts"));
    }
    let (inverse, onesided) = (n.flag("inverse", false)?, n.flag("onesided", false)?);
    let to_real = inverse && onesided;
    let default = if to_real { 2 * shape[axis].saturating_sub(1) } else { shape[axis] };
    let length = match one(e, n, 1)? {
        Some(length) => n.size(length)?,
        None => default,
    };
    if length == 0 {
        return Err(n.error("a transform of no elements"));
    }
    if onesided && shape[signals] != if inverse { 2 } else { 1 } {
        return Err(n.error(format!("a one-sided transform of {shape}")));
    }
    // The transformed axis last.
    let order: Vec<usize> = (0..signals).filter(|&it| it != axis).chain([axis]).collect();
    let parts = parts(e, n, x)?;
    let parts = parts.each(|it| {
        let it = e.cast(it, wide(dtype))?;
        let it = e.permute(it, &order)?;
        fitted(e, it, if to_real { length / 2 + 1 } else { length })
    })?;
    let parts = if to_real { mirrored(e, parts, length)? } else { parts };
    let outer = e.shape(parts.re)[..signals - 1].to_vec();
    let rows: usize = outer.iter().product();
    let flat = parts.each(|it| e.reshape(it, [rows, length]))?;
    let made = fourier(e, n, flat, if inverse { 1.0 } else { -1.0 })?;
    let kept = if onesided && !inverse { length / 2 + 1 } else { length };
    let mut back = vec![0; signals];
    order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
    let made = made.each(|it| {
        let it = if inverse { e.with(BinaryOp::Div, it, length as f64)? } else { it };
        let it = e.slice(it, 1, 0, kept, 1)?;
        let it = e.reshape(it, &[&outer[..], &[kept]].concat()[..])?;
        e.permute(it, &back)
    })?;
    let y = match to_real {
        true => e.reshape(made.re, &[&e.shape(made.re)[..], &[1]].concat()[..])?,
        false => joined(e, made)?,
    };
    e.cast(y, dtype)
}

/// The one number of operand `at`.
fn one(e: &Emit, n: &Node, at: usize) -> Result<Option<i64>, Error> {
    Ok(n.literal_ints(e, at)?.and_then(|it| it.first().copied()))
}

fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Of `x`, whose last axis holds the real part and perhaps the imaginary.
fn parts(e: &mut Emit, n: &Node, x: Value) -> Result<Complex, Error> {
    let shape = e.shape(x);
    let Some((&count, outer)) = shape.split_last() else { return Err(n.error("a scalar is no signal")) };
    if count != 1 && count != 2 {
        return Err(n.error(format!("the last axis of {shape} is neither 1 nor 2")));
    }
    let mut part = |at: usize| {
        let it = e.slice(x, outer.len(), at, 1, 1)?;
        e.reshape(it, outer)
    };
    Ok(Complex { re: part(0)?, im: if count == 2 { Some(part(1)?) } else { None } })
}

/// Both parts along a new last axis.
fn joined(e: &mut Emit, x: Complex) -> Made {
    let shape = [&e.shape(x.re)[..], &[1]].concat();
    let re = e.reshape(x.re, &shape[..])?;
    let im = match x.im {
        Some(im) => e.reshape(im, &shape[..])?,
        None => {
            let zero = e.scalar(e.dtype(re), 0.0);
            e.expand(zero, &shape[..])?
        }
    };
    e.concat(shape.len() - 1, &[re, im])
}

/// The first `length` elements of the last axis, zeros where there are less.
fn fitted(e: &mut Emit, x: Value, length: usize) -> Made {
    let shape = e.shape(x);
    let axis = shape.rank() - 1;
    let Some(more) = length.checked_sub(shape[axis]).filter(|it| *it > 0) else {
        return e.slice(x, axis, 0, length, 1);
    };
    let before = smallvec::SmallVec::from_elem(0, shape.rank());
    let mut after = before.clone();
    after[axis] = more;
    let fill = Some(e.scalar(e.dtype(x), 0.0));
    e.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill })
}

/// The whole spectrum of a real signal of `length`, of which the first half is given.
fn mirrored(e: &mut Emit, x: Complex, length: usize) -> Result<Complex, Error> {
    let axis = e.rank(x.re) - 1;
    let tail = length - length / 2 - 1;
    if tail == 0 {
        return Ok(x);
    }
    let mut both = |it: Value, conjugate: bool| {
        let end = e.slice(it, axis, tail, tail, -1)?;
        let end = if conjugate { e.unary(UnaryOp::Neg, end)? } else { end };
        e.concat(axis, &[it, end])
    };
    Ok(Complex { re: both(x.re, false)?, im: x.im.map(|it| both(it, true)).transpose()? })
}

/// Sums of x[n] e^(sign 2 pi i n k / N) for the rows of x [rows, N].
fn fourier(e: &mut Emit, n: &Node, x: Complex, sign: f64) -> Result<Complex, Error> {
    let shape = e.shape(x.re);
    let (rows, length) = (shape[0], shape[1]);
    if x.im.is_some() && length <= SHORT && length > 1 && smooth(length) {
        return short(e, n, x, sign);
    }
    let factor = if length <= DIRECT { length } else { factor(length) };
    if factor > MAX_MATRIX {
        return Err(n.unsupported(format!("a length of {length} with a prime factor of {factor}")));
    }
    if factor == length {
        let (cos, sin) = roots(e, n, x, [length, length], length, sign)?;
        return product(e, x, cos, sin);
    }
    // n = rest a + b and k = c + factor d: a transform over a, turned by b c / N, then one over b.
    let rest = length / factor;
    let x = x.each(|it| {
        let it = e.reshape(it, [rows, factor, rest])?;
        e.permute(it, &[0, 2, 1])
    })?;
    let (cos, sin) = roots(e, n, x, [factor, factor], factor, sign)?;
    let x = product(e, x, cos, sin)?;
    let (cos, sin) = roots(e, n, x, [rest, factor], length, sign)?;
    let x = turned(e, x, cos, sin)?;
    let x = x.each(|it| {
        let it = e.permute(it, &[0, 2, 1])?;
        e.reshape(it, [rows * factor, rest])
    })?;
    let x = fourier(e, n, x, sign)?;
    x.each(|it| {
        let it = e.reshape(it, [rows, factor, rest])?;
        let it = e.permute(it, &[0, 2, 1])?;
        e.reshape(it, [rows, length])
    })
}

fn smooth(length: usize) -> bool {
    let rest = [2, 3, 5].into_iter().fold(length, |rest, prime| {
        let mut rest = rest;
        while rest.is_multiple_of(prime) {
            rest /= prime;
        }
        rest
    });
    rest == 1
}

/// As `fourier` of a complex signal, in the steps of the usual fast transform: sums and differences, whose rounding is theirs too.
fn short(e: &mut Emit, n: &Node, x: Complex, sign: f64) -> Result<Complex, Error> {
    let shape = e.shape(x.re);
    let (rows, length) = (shape[0], shape[1]);
    let Some(factor) = [2, 3, 5].into_iter().find(|it| length.is_multiple_of(*it)) else { return Ok(x) };
    let rest = length / factor;
    let x = x.each(|it| e.reshape(it, [rows, factor, rest]))?;
    let columns = (0..factor).map(|at| x.each(|it| e.slice(it, 1, at, 1, 1)));
    let columns = columns.collect::<Result<Vec<_>, Error>>()?;
    let made = butterfly(e, &columns, sign)?;
    let im = made.iter().map(|it| it.im).collect::<Option<Vec<_>>>();
    let re: Vec<Value> = made.iter().map(|it| it.re).collect();
    let mut x = Complex { re: e.concat(1, &re)?, im: im.map(|it| e.concat(1, &it)).transpose()? };
    if rest > 1 {
        let (cos, sin) = roots(e, n, x, [factor, rest], length, sign)?;
        x = turned(e, x, cos, sin)?;
    }
    let x = x.each(|it| e.reshape(it, [rows * factor, rest]))?;
    let x = short(e, n, x, sign)?;
    x.each(|it| {
        let it = e.reshape(it, [rows, factor, rest])?;
        let it = e.permute(it, &[0, 2, 1])?;
        e.reshape(it, [rows, length])
    })
}

/// A transform of as many elements as a prime: what cosines multiply comes in sums, what sines multiply in differences.
fn butterfly(e: &mut Emit, x: &[Complex], sign: f64) -> Result<Vec<Complex>, Error> {
    let (p, half) = (x.len(), x.len() / 2);
    let both = |e: &mut Emit, op: BinaryOp, a: Complex, b: Complex| -> Result<Complex, Error> {
        let im = a.im.zip(b.im).map(|(a, b)| e.binary(op, a, b)).transpose()?;
        Ok(Complex { re: e.binary(op, a.re, b.re)?, im })
    };
    if p == 2 {
        return Ok(vec![both(e, BinaryOp::Add, x[0], x[1])?, both(e, BinaryOp::Sub, x[0], x[1])?]);
    }
    let (mut sums, mut differences) = (vec![], vec![]);
    for j in 1..=half {
        sums.push(both(e, BinaryOp::Add, x[j], x[p - j])?);
        differences.push(both(e, BinaryOp::Sub, x[j], x[p - j])?);
    }
    let first = sums.iter().try_fold(x[0], |sum, it| both(e, BinaryOp::Add, sum, *it))?;
    let mut made = vec![first; p];
    for k in 1..=half {
        let (mut even, mut re, mut im) = (x[0], None, None);
        for j in 1..=half {
            let angle = TAU * (j * k % p) as f64 / p as f64;
            let (cos, sin) = (libm::cos(angle), sign * libm::sin(angle));
            let term = sums[j - 1].each(|it| e.with(BinaryOp::Mul, it, cos))?;
            even = both(e, BinaryOp::Add, even, term)?;
            let own = differences[j - 1];
            let term = e.with(BinaryOp::Mul, own.re, sin)?;
            im = super::grid::joined(e, BinaryOp::Add, im, Some(term))?;
            if let Some(own) = own.im {
                let term = e.with(BinaryOp::Mul, own, -sin)?;
                re = super::grid::joined(e, BinaryOp::Add, re, Some(term))?;
            }
        }
        for (at, op) in [(k, BinaryOp::Add), (p - k, BinaryOp::Sub)] {
            let part = |e: &mut Emit, even: Option<Value>, odd: Option<Value>| match (even, odd) {
                (Some(even), Some(odd)) => e.binary(op, even, odd).map(Some),
                (even, odd) => Ok(even.or(odd)),
            };
            let own = part(e, Some(even.re), re)?;
            made[at] = Complex { re: own.unwrap_or(even.re), im: part(e, even.im, im)? };
        }
    }
    Ok(made)
}

/// The largest divisor up to `DIRECT`, else the smallest prime one.
fn factor(length: usize) -> usize {
    let small = (2..=DIRECT).rev().find(|it| length.is_multiple_of(*it));
    let prime = || (DIRECT + 1..).take_while(|it| it * it <= length).find(|it| length.is_multiple_of(*it));
    small.or_else(prime).unwrap_or(length)
}

/// Cosine and sine of sign 2 pi a b / N for a and b below `sizes`.
fn roots(
    e: &mut Emit,
    n: &Node,
    x: Complex,
    sizes: [usize; 2],
    period: usize,
    sign: f64,
) -> Result<(Value, Value), Error> {
    if sizes[0].saturating_mul(sizes[1]) > MAX_MADE {
        return Err(n.unsupported(format!("a transform of {period} elements")));
    }
    let dtype = e.dtype(x.re);
    let mut table = |f: fn(f64) -> f64, sign: f64| {
        let places = (0..sizes[0]).flat_map(|a| (0..sizes[1]).map(move |b| a * b % period));
        let value = |at: usize| Scalar::of(dtype, sign * f(TAU * at as f64 / period as f64));
        let values: Vec<Scalar> = places.map(value).collect();
        e.constant(Tensor::from_scalars(Type::new(dtype, sizes), values))
    };
    Ok((table(libm::cos, 1.0), table(libm::sin, sign)))
}

fn product(e: &mut Emit, x: Complex, cos: Value, sin: Value) -> Result<Complex, Error> {
    combined(e, x, |e, x, real| e.matmul(x, if real { cos } else { sin }))
}

fn turned(e: &mut Emit, x: Complex, cos: Value, sin: Value) -> Result<Complex, Error> {
    combined(e, x, |e, x, real| e.binary(BinaryOp::Mul, x, if real { cos } else { sin }))
}

/// `x` times a complex factor, whose real or imaginary part `by` multiplies with.
fn combined(e: &mut Emit, x: Complex, by: impl Fn(&mut Emit, Value, bool) -> Made) -> Result<Complex, Error> {
    let (mut re, mut im) = (by(e, x.re, true)?, by(e, x.re, false)?);
    if let Some(own) = x.im {
        let (less, more) = (by(e, own, false)?, by(e, own, true)?);
        re = e.binary(BinaryOp::Sub, re, less)?;
        im = e.binary(BinaryOp::Add, im, more)?;
    }
    Ok(Complex { re, im: Some(im) })
}

/// The spectra of the frames of a signal [b, length, 1 or 2]: [b, frames, bins, 2].
pub fn stft(e: &mut Emit, n: &Node) -> Made {
    let x = n.input(0)?;
    let (shape, dtype) = (e.shape(x), e.dtype(x));
    let [batch, length] = shape[..shape.rank().min(2)] else {
        return Err(n.error(format!("{shape} is no batch of signals")));
    };
    let step = n.size(one(e, n, 1)?.ok_or_else(|| n.error("the step is missing"))?)?;
    let size = match (one(e, n, 3)?, n.opt(2)) {
        (Some(size), _) => n.size(size)?,
        (None, Some(window)) => e.shape(window).count(),
        (None, None) => length,
    };
    if step == 0 || size == 0 || size > length || n.opt(2).is_some_and(|it| *e.shape(it) != [size]) {
        return Err(n.error(format!("frames of {size} in steps of {step} of {shape}, and a window")));
    }
    let frames = (length - size) / step + 1;
    // Real signals may come without the last axis.
    let x = if shape.rank() == 2 { e.reshape(x, [batch, length, 1])? } else { x };
    let parts = parts(e, n, x)?;
    let onesided = n.flag("onesided", true)?;
    if onesided && parts.im.is_some() {
        return Err(n.error("a one-sided spectrum of a complex signal"));
    }
    let (first, own) = (e.iota(DType::I32, frames, 0, 2)?, e.iota(DType::I32, size, 1, 2)?);
    let first = e.with(BinaryOp::Mul, first, step as f64)?;
    let indices = e.binary(BinaryOp::Add, first, own)?;
    let cut = parts.each(|it| {
        let it = e.cast(it, wide(dtype))?;
        let mut it = e.add(Op::Gather { axis: 1, x: it, indices })?;
        if let Some(window) = n.opt(2) {
            let window = e.cast(window, wide(dtype))?;
            it = e.binary(BinaryOp::Mul, it, window)?;
        }
        e.reshape(it, [batch * frames, size])
    })?;
    let made = fourier(e, n, cut, -1.0)?;
    let kept = if onesided { size / 2 + 1 } else { size };
    let made = made.each(|it| {
        let it = e.slice(it, 1, 0, kept, 1)?;
        e.reshape(it, [batch, frames, kept])
    })?;
    let y = joined(e, made)?;
    e.cast(y, dtype)
}

/// A sum of cosines: factors of cos(2 pi k n / N), k = 0, 1, ...
pub fn window(factors: &[f64], e: &mut Emit, n: &Node) -> Made {
    let size = n.size(one(e, n, 0)?.ok_or_else(|| n.error("the size is missing"))?)?;
    if size > MAX_MADE {
        return Err(n.unsupported(format!("{size} elements (at most {MAX_MADE})")));
    }
    let to = made_type(n)?;
    let period = if n.flag("periodic", true)? { size } else { size.saturating_sub(1).max(1) };
    let value = |at: usize| {
        let angle = TAU * at as f64 / period as f64;
        let sum = factors.iter().enumerate().map(|(k, by)| by * libm::cos(angle * k as f64)).sum();
        Scalar::of(to, sum)
    };
    Ok(e.constant(Tensor::from_scalars(Type::new(to, [size]), (0..size).map(value))))
}

fn made_type(n: &Node) -> Result<DType, Error> {
    let code = i32::try_from(n.int("output_datatype", 1)?).unwrap_or(-1);
    super::tensor::dtype(code).map_err(|what| n.unsupported(format!("the result {what}")))
}

/// Triangles over the bins of a spectrum, evenly apart in mels: [bins, triangles].
pub fn mel_weights(e: &mut Emit, n: &Node) -> Made {
    let mut numbers = [0.0; 5];
    for (at, number) in numbers.iter_mut().enumerate() {
        let tensor = n.literal(e, at)?.filter(|it| it.shape().count() == 1);
        *number = tensor.ok_or_else(|| n.error(format!("operand {at} is no single number")))?.get(0).as_f64();
    }
    let [triangles, length, rate, low, high] = numbers;
    let (count, bins) = (n.size(triangles as i64)?, n.size(length as i64)? / 2 + 1);
    if bins.saturating_mul(count) > MAX_MADE || count > MAX_MADE || rate <= 0.0 {
        return Err(n.unsupported(format!("{count} triangles over {bins} bins at a rate of {rate}")));
    }
    let mel = |hertz: f64| 2595.0 * libm::log10(1.0 + hertz / 700.0);
    let step = (mel(high) - mel(low)) / (count + 2) as f64;
    // The bins at which triangles begin, peak and end.
    let edge = |at: usize| {
        let hertz = 700.0 * (libm::pow(10.0, (mel(low) + at as f64 * step) / 2595.0) - 1.0);
        ((length + 1.0) * hertz / rate).floor()
    };
    let to = made_type(n)?;
    let mut values = vec![0.0; bins * count];
    for triangle in 0..count {
        let (begin, peak, end) = (edge(triangle), edge(triangle + 1), edge(triangle + 2));
        if !(0.0..bins as f64).contains(&peak) || begin < 0.0 || end > bins as f64 {
            return Err(n.error(format!("triangle {triangle} ends at {end} of {bins} bins")));
        }
        for bin in begin as usize..(end as usize).max(peak as usize + 1) {
            let at = bin as f64;
            values[bin * count + triangle] = match at <= peak {
                true if peak == begin => 1.0,
                true => (at - begin) / (peak - begin),
                false => (end - at) / (end - peak),
            };
        }
    }
    let values = values.into_iter().map(|it| Scalar::of(to, it));
    Ok(e.constant(Tensor::from_scalars(Type::new(to, [bins, count]), values)))
}
