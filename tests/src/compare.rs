//! Comparison of tensors within tolerances.

use wgfuse_compiler::tensor::Tensor;

/// The first element with |a - b| > atol + rtol * |b|, described. NaN equals NaN.
pub fn difference(a: &Tensor, b: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    if a.ty() != b.ty() {
        return Some(format!("{} against {}", a.ty(), b.ty()));
    }
    let mut pairs = a.scalars().zip(b.scalars()).enumerate();
    pairs.find_map(|(at, (a, b))| {
        let (a, b) = (a.as_f64(), b.as_f64());
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
        (!same).then(|| format!("element {at}: {a} against {b}"))
    })
}

/// Panics with the place of the first difference.
pub fn assert_close(what: &str, a: &[Tensor], b: &[Tensor], rtol: f64, atol: f64) {
    assert_eq!(a.len(), b.len(), "{what}: number of tensors");
    for (number, (a, b)) in a.iter().zip(b).enumerate() {
        if let Some(found) = difference(a, b, rtol, atol) {
            panic!("{what}: output {number}: {found}");
        }
    }
}
