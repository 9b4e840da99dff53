//! Batch norms, and scales and shifts behind products.

use super::*;

pub const CASES: &[Case] = &[
    (
        "batch-norm",
        |b| {
            let x = x(b, [2, 3, 4]);
            let y = b.exp(x)?;
            norm(b, y)
        },
        "exp mul add",
    ),
    (
        "weight-scale",
        |b| {
            let (x, w, bias) = (x(b, [1, 2, 5, 5]), weights(b, [3, 2, 3, 3], 1), weights(b, [3], 2));
            let y = b.conv2d(x, w, Some(bias), Geometry::default())?;
            let y = norm(b, y)?;
            b.relu(y)
        },
        "conv relu",
    ),
    (
        "weight-shift",
        |b| {
            let (x, w, k) = (x(b, [1, 2, 5]), weights(b, [2, 3, 2], 1), weights(b, [3, 1], 2));
            let y = b.op(Op::ConvTranspose {
                window: crate::graph::Window::unit(1).into(),
                groups: 1,
                output: [6].into(),
                x,
                w,
                bias: None,
            })?;
            let y = b.mul(y, k)?;
            let y = b.add(k, y)?;
            b.add_scalar(y, 2.0)
        },
        "conv_transpose",
    ),
    (
        "scale-before-shift",
        |b| {
            let (x, w, bias) = (x(b, [4, 2]), weights(b, [2, 3], 1), weights(b, [3], 2));
            let y = b.matmul(x, w)?;
            let y = b.add(y, bias)?;
            norm(b, y)
        },
        "matmul add",
    ),
    (
        "shift-shift",
        |b| {
            let (x, w, bias) = (x(b, [4, 2]), weights(b, [2, 3], 1), weights(b, [3], 2));
            let y = b.matmul(x, w)?;
            let y = b.add(bias, y)?;
            let more = weights(b, [1, 3], 3);
            b.add(y, more)
        },
        "matmul add",
    ),
];

/// A batch norm of fixed statistics over 3 channels.
fn norm(b: &mut B, x: Value) -> Result<Value, Error> {
    let [scale, bias, mean] = [11, 12, 13].map(|seed| weights(b, [3], seed));
    let var = b.constant(Tensor::f32([3], &[0.5, 1.0, 2.0]).unwrap());
    b.batch_norm(x, scale, bias, mean, var, 1e-3)
}
