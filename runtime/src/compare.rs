//! Two tensors against each other: how far apart, where, and whether that is allowed.

use wgfuse_compiler::{dtype::DType, scalar::Scalar, shape::Shape, tensor::Tensor};

/// `|a - b| <= atol + rtol * |b|` is allowed, where `b` is what was expected.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Difference {
    /// Shapes or element types differ.
    Type(String),
    Values(Values),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Values {
    pub count: usize,
    /// Elements further apart than allowed.
    pub beyond: usize,
    /// Largest |a - b|, infinite where only one is NaN or infinite; `None` for no elements.
    pub absolute: Option<Extreme>,
    /// Largest |a - b| / |b| among elements where `b` is not 0.
    pub relative: Option<Extreme>,
}

/// A value, the two elements that it comes from, and their position in row-major order.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Extreme {
    pub value: f64,
    pub at: usize,
    pub actual: f64,
    pub expected: f64,
}

impl Difference {
    pub fn allowed(&self) -> bool {
        match self {
            Difference::Type(_) => false,
            Difference::Values(it) => it.beyond == 0,
        }
    }
}

/// NaN equals NaN, and an infinity equals itself.
pub fn compare(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Difference {
    if actual.ty() != expected.ty() {
        return Difference::Type(format!("is {}, expected {}", actual.ty(), expected.ty()));
    }
    let mut values = Values { count: actual.shape().count(), ..Values::default() };
    for (at, (a, b)) in actual.scalars().zip(expected.scalars()).enumerate() {
        let apart = apart(actual.dtype(), a, b);
        let (actual, expected) = (number(actual.dtype(), a), number(actual.dtype(), b));
        let allowed = tolerance.atol + tolerance.rtol * expected.abs();
        // Equal infinities and NaNs make the bound meaningless.
        if apart != 0.0 && (!apart.is_finite() || apart > allowed) {
            values.beyond += 1;
        }
        let extreme = |value| Extreme { value, at, actual, expected };
        let larger = |than: &Option<Extreme>, value: f64| than.is_none_or(|it| value > it.value);
        if larger(&values.absolute, apart) {
            values.absolute = Some(extreme(apart));
        }
        let ratio = apart / expected.abs();
        if expected != 0.0 && !ratio.is_nan() && larger(&values.relative, ratio) {
            values.relative = Some(extreme(ratio));
        }
    }
    Difference::Values(values)
}

/// |a - b|; 0 where they are equal, infinite where one alone is NaN or infinite.
fn apart(dtype: DType, a: Scalar, b: Scalar) -> f64 {
    if let (Scalar::Int(a), Scalar::Int(b)) = (a, b) {
        return match dtype {
            DType::U64 => (a as u64).abs_diff(b as u64) as f64,
            _ => a.abs_diff(b) as f64,
        };
    }
    let (a, b) = (a.as_f64(), b.as_f64());
    match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false if a.is_finite() && b.is_finite() => (a - b).abs(),
        false => f64::INFINITY,
    }
}

fn number(dtype: DType, value: Scalar) -> f64 {
    match (dtype, value) {
        (DType::U64, Scalar::Int(it)) => it as u64 as f64,
        _ => value.as_f64(),
    }
}

/// The coordinates of element number `at`, as `[1,0,3]`.
pub fn place(shape: &Shape, at: usize) -> String {
    let coords =
        shape.strides().into_iter().zip(shape.iter()).map(|(stride, dim)| (at / stride % dim).to_string());
    format!("[{}]", coords.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-4 };

    fn f32(values: &[f32]) -> Tensor {
        Tensor::f32([values.len()], values).expect("as many values as elements")
    }

    fn values(actual: &[f32], expected: &[f32]) -> Values {
        match compare(&f32(actual), &f32(expected), TIGHT) {
            Difference::Values(it) => it,
            Difference::Type(what) => panic!("{what}"),
        }
    }

    #[test]
    fn the_largest_differences_and_their_places() {
        let found = values(&[1.0, 100.05, 0.00005], &[1.0, 100.0, 0.0]);
        assert_eq!(found.beyond, 0);
        let absolute = found.absolute.expect("elements");
        assert_eq!((absolute.at, absolute.expected), (1, 100.0));
        assert!((absolute.value - 0.05).abs() < 1e-5);
        assert_eq!(found.relative.expect("not all are 0").at, 1);
        assert_eq!(values(&[1.0, 2.0], &[1.0, 2.1]).beyond, 1);
    }

    #[test]
    fn what_is_not_finite() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(values(&[nan, inf, -inf], &[nan, inf, -inf]).beyond, 0);
        assert_eq!(values(&[nan, 1.0, inf, -inf, 1.0], &[1.0, nan, -inf, 0.0, inf]).beyond, 5);
    }

    #[test]
    fn types_must_agree() {
        let long = Tensor::i64([2], &[1, 2]).expect("two values");
        assert!(!compare(&f32(&[1.0, 2.0]), &long, TIGHT).allowed());
        assert!(!compare(&f32(&[1.0, 2.0]), &f32(&[1.0]), TIGHT).allowed());
        assert!(compare(&f32(&[]), &f32(&[]), TIGHT).allowed());
        let other = Tensor::i64([2], &[i64::MIN, i64::MAX]).expect("two values");
        assert!(!compare(&other, &long, TIGHT).allowed());
    }

    #[test]
    fn places_are_coordinates() {
        assert_eq!(place(&[2, 3, 4].into(), 23), "[1,2,3]");
        assert_eq!(place(&Shape::scalar(), 0), "[]");
    }
}
