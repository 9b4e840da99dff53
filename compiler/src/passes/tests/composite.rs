//! Functions and norms that are written out.

use super::*;

pub const CASES: &[Case] = &[
    (
        "sigmoid",
        |b| {
            let x = x(b, [3]);
            let e = b.neg(x)?;
            let e = b.exp(e)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.reciprocal(sum)
        },
        "sigmoid",
    ),
    (
        "silu",
        |b| {
            let x = x(b, [3]);
            let s = b.sigmoid(x)?;
            b.mul(s, x)
        },
        "silu",
    ),
    (
        "silu-division",
        |b| {
            let x = x(b, [3]);
            let e = b.neg(x)?;
            let e = b.exp(e)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.div(x, sum)
        },
        "silu",
    ),
    (
        "tanh-sigmoid",
        |b| {
            let x = x(b, [3]);
            let y = b.mul_scalar(x, 2.0)?;
            let s = b.sigmoid(y)?;
            let y = b.mul_scalar(s, 2.0)?;
            b.with_scalar(BinaryOp::Sub, y, 1.0)
        },
        "tanh",
    ),
    (
        "softplus",
        |b| {
            let x = x(b, [3]);
            let e = b.exp(x)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.log(sum)
        },
        "softplus",
    ),
    (
        "hardswish",
        |b| {
            let x = x(b, [9]);
            let y = b.add_scalar(x, 3.0)?;
            let y = b.with_scalar(BinaryOp::Max, y, 0.0)?;
            let y = b.with_scalar(BinaryOp::Min, y, 6.0)?;
            let y = b.mul(x, y)?;
            b.with_scalar(BinaryOp::Div, y, 6.0)
        },
        "hardswish",
    ),
    (
        "hardswish",
        |b| {
            // hard_sigmoid, then a product
            let x = x(b, [9]);
            let y = b.mul_scalar(x, 1.0 / 6.0)?;
            let y = b.add_scalar(y, 0.5)?;
            let y = b.with_scalar(BinaryOp::Min, y, 1.0)?;
            let y = b.with_scalar(BinaryOp::Max, y, 0.0)?;
            b.mul(y, x)
        },
        "hardswish",
    ),
    (
        "softmax",
        |b| {
            let x = x(b, [3, 4]);
            let most = b.max(x, &[0], true)?;
            let y = b.sub(x, most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[0], true)?;
            b.div(e, sum)
        },
        "softmax",
    ),
    (
        "log-softmax",
        |b| {
            let x = x(b, [3, 4]);
            let most = b.max(x, &[1], true)?;
            let y = b.sub(x, most)?;
            let e = b.exp(y)?;
            let sum = b.sum(e, &[1], true)?;
            let log = b.log(sum)?;
            b.sub(y, log)
        },
        "softmax",
    ),
    (
        "log-softmax",
        |b| {
            let x = x(b, [3, 4]);
            let y = b.softmax(x, 1)?;
            b.log(y)
        },
        "softmax",
    ),
    (
        "rms-norm",
        |b| {
            let (x, w) = (x(b, [3, 4]), weights(b, [4], 5));
            let square = b.with_scalar(BinaryOp::Pow, x, 2.0)?;
            let mean = b.mean(square, &[-1], true)?;
            let sum = b.add_scalar(mean, 1e-6)?;
            let root = b.sqrt(sum)?;
            let by = b.reciprocal(root)?;
            let y = b.mul(x, by)?;
            b.mul(w, y)
        },
        "rms_norm",
    ),
    (
        "layer-norm",
        |b| {
            let (x, w) = (x(b, [2, 3, 4]), weights(b, [3, 4], 5));
            let bias = weights(b, [1, 3, 4], 6);
            let mean = b.mean(x, &[1, 2], true)?;
            let d = b.sub(x, mean)?;
            let square = b.mul(d, d)?;
            let var = b.mean(square, &[1, 2], true)?;
            let sum = b.add_scalar(var, 1e-5)?;
            let root = b.sqrt(sum)?;
            let y = b.div(d, root)?;
            let y = b.mul(y, w)?;
            b.add(bias, y)
        },
        "layer_norm",
    ),
    (
        "norm-scale",
        |b| {
            let (x, w) = (x(b, [2, 4, 5]), weights(b, [4, 1], 5));
            let y = b.group_norm(x, 2, None, None, 1e-5)?;
            b.mul(y, w)
        },
        "group_norm",
    ),
    (
        "norm-bias",
        |b| {
            let (x, w) = (x(b, [2, 4]), weights(b, [4], 5));
            let y = b.layer_norm(x, -1, Some(w), None, 1e-5)?;
            b.add(w, y)
        },
        "layer_norm",
    ),
];

/// Every way in which 0.5 * x * (1 + f) can be written.
#[test]
fn gelu_in_every_order() {
    for order in 0..6 {
        for exact in [true, false] {
            let (graph, _) = run(
                |b| {
                    let x = x(b, [5]);
                    let f = if exact {
                        let y = b.with_scalar(BinaryOp::Div, x, std::f64::consts::SQRT_2)?;
                        b.erf(y)?
                    } else {
                        let cube = b.with_scalar(BinaryOp::Pow, x, 3.0)?;
                        let cube = b.mul_scalar(cube, 0.044715)?;
                        let y = b.add(x, cube)?;
                        let y = b.mul_scalar(y, 0.797_884_583_473_205_6)?;
                        b.tanh(y)?
                    };
                    if order == 5 {
                        let half = b.mul_scalar(f, 0.5)?;
                        let half = b.add_scalar(half, 0.5)?;
                        return b.mul(half, x);
                    }
                    let sum = b.add_scalar(f, 1.0)?;
                    let half = c(b, 0.5);
                    let [p, q, r] =
                        [[x, half, sum], [half, sum, x], [sum, x, half], [half, x, sum], [x, sum, half]]
                            [order];
                    let y = b.mul(p, q)?;
                    if order % 2 == 0 { b.mul(y, r) } else { b.mul(r, y) }
                },
                Licence::Relaxed,
            );
            assert_eq!(ops(&graph), if exact { "gelu" } else { "gelu_tanh" }, "order {order}\n{graph}");
        }
    }
}

#[test]
fn tanh_gelu_of_a_product() {
    let (graph, _) = run(
        |b| {
            let (x, z) = (x(b, [5]), b.input("z", F, [5])?);
            let x = b.mul(x, z)?;
            let square = b.mul(x, x)?;
            let y = b.mul_scalar(square, 0.044715)?;
            let y = b.add_scalar(y, 1.0)?;
            let y = b.mul(x, y)?;
            let y = b.mul_scalar(y, 0.797_884_583_473_205_6)?;
            let y = b.tanh(y)?;
            let y = b.add_scalar(y, 1.0)?;
            let y = b.mul(x, y)?;
            b.mul_scalar(y, 0.5)
        },
        Licence::Relaxed,
    );
    assert_eq!(ops(&graph), "mul gelu_tanh");
}
