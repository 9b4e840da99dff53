//! Batch norms, scales and shifts before products, and where they stay.

use super::*;

pub const CASES: &[Case] = &[
    (
        "scale-into-weight",
        |b| {
            let (x, w) = (x(b, [2, 4, 5, 5]), weights(b, [6, 2, 3, 3], 1));
            let y = norm(b, x)?;
            b.conv2d(y, w, None, Geometry { groups: 2, ..Geometry::default() })
        },
        "conv",
    ),
    (
        "shift-into-bias",
        |b| {
            let (x, w, bias) = (x(b, [2, 5, 4]), weights(b, [4, 3], 1), weights(b, [3], 2));
            let mean = weights(b, [4], 3);
            let y = b.sub(x, mean)?;
            let y = b.matmul(y, w)?;
            b.add(y, bias)
        },
        "matmul add",
    ),
];

/// A batch norm of fixed statistics over 4 channels.
fn norm(b: &mut B, x: Value) -> Result<Value, Error> {
    let [scale, bias, mean] = [11, 12, 13].map(|seed| weights(b, [4], seed));
    let var = b.constant(Tensor::f32([4], &[0.5, 1.0, 2.0, 0.25]).unwrap());
    b.batch_norm(x, scale, bias, mean, var, 1e-3)
}

fn transposed(b: &mut B, x: Value, kernel: usize, groups: usize, output: usize) -> Result<Value, Error> {
    let (w, bias) = (weights(b, [4, 6 / groups, kernel, kernel], 1), weights(b, [6], 2));
    let output = [output, output].into();
    b.op(Op::ConvTranspose {
        window: crate::graph::Window::unit(2).into(),
        groups,
        output,
        x,
        w,
        bias: Some(bias),
    })
}

/// What is built, what is left of it.
#[test]
fn norms_move_behind_where_results_stay_the_same() {
    let cases: &[(Make, &str)] = &[
        (
            |b| {
                let (x, w, bias) = (x(b, [2, 4, 5, 5]), weights(b, [6, 4, 3, 3], 1), weights(b, [6], 2));
                let y = norm(b, x)?;
                let y = b.conv2d(y, w, Some(bias), Geometry::default())?;
                b.relu(y)
            },
            "conv relu",
        ),
        // Depthwise, and a norm behind it too.
        (
            |b| {
                let (x, w) = (x(b, [1, 4, 5, 5]), weights(b, [4, 1, 3, 3], 1));
                let y = norm(b, x)?;
                let y = b.conv2d(y, w, None, Geometry { groups: 4, ..Geometry::default() })?;
                norm(b, y)
            },
            "conv",
        ),
        // Padding is of zeros, which are not shifted.
        (
            |b| {
                let (x, w) = (x(b, [2, 4, 5, 5]), weights(b, [6, 4, 3, 3], 1));
                let y = norm(b, x)?;
                b.conv2d(y, w, None, Geometry { padding: 1, ..Geometry::default() })
            },
            "mul add conv",
        ),
        (
            |b| {
                let (x, w, k) = (x(b, [2, 4, 5, 5]), weights(b, [6, 4, 3, 3], 1), weights(b, [4, 1, 1], 2));
                let y = b.mul(k, x)?;
                b.conv2d(y, w, None, Geometry { padding: 1, ..Geometry::default() })
            },
            "conv",
        ),
        (
            |b| {
                let (x, w, bias) = (x(b, [3, 4]), weights(b, [5, 4], 1), weights(b, [5], 2));
                let y = norm(b, x)?;
                b.linear(y, w, Some(bias))
            },
            "matmul add",
        ),
        // Every result of one tap is shifted alike; of several, those at the borders are not.
        (
            |b| {
                let x = x(b, [2, 4, 3, 3]);
                let y = norm(b, x)?;
                transposed(b, y, 1, 2, 3)
            },
            "conv_transpose",
        ),
        (
            |b| {
                let x = x(b, [2, 4, 3, 3]);
                let y = norm(b, x)?;
                transposed(b, y, 2, 1, 4)
            },
            "mul add conv_transpose",
        ),
        (
            |b| {
                let (x, k) =
                    (x(b, [2, 4, 3, 3]), b.constant(Tensor::f32([4, 1, 1], &[1.0, 2.0, 4.0, 5.0]).unwrap()));
                let y = b.div(x, k)?;
                transposed(b, y, 2, 2, 4)
            },
            "conv_transpose",
        ),
        // Something else reads what is scaled.
        (
            |b| {
                let (x, w) = (x(b, [3, 4]), weights(b, [4, 4], 1));
                let y = norm(b, x)?;
                let z = b.matmul(y, w)?;
                b.add(y, z)
            },
            "mul add matmul add",
        ),
        // Not of channels.
        (
            |b| {
                let (x, w, k) = (x(b, [2, 4, 4]), weights(b, [4, 5], 1), weights(b, [4, 1], 2));
                let y = b.mul(x, k)?;
                b.matmul(y, w)
            },
            "mul matmul",
        ),
    ];
    for (make, left) in cases {
        let (graph, fired) = run(make, Licence::Relaxed);
        assert_eq!(ops(&graph), *left, "{fired:?}\n{graph}");
    }
}
