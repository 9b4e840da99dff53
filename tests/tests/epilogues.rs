//! What is done to a product's results is done in its kernel: every activation, written out and in every type, sums and
//! differences with operands that broadcast, and both; on the processor and on the GPU. A batch norm before it is in its weights.

use wgfuse::{
    DType, Device, Model, Options, Session, Shape, Tensor, Type,
    compiler::{
        error::Error,
        graph::{
            Graph, Op, Value, Window,
            builder::{Geometry, GraphBuilder},
            eval::eval,
        },
        scalar::BinaryOp,
    },
};
use wgfuse_tests::{compare::assert_close, device::gpu, random::Random, stages::stages};

type Made = Result<Value, Error>;
type B = GraphBuilder;

const LINEAR: &str = "linear";
const CONV: &str = "convolution";
const TRANSPOSED: &str = "transposed convolution";

/// A product of an input by fixed weights, and the shape of its result.
fn product(b: &mut B, kind: &str, dtype: DType) -> Result<(Value, [usize; 4]), Error> {
    let mut random = Random::new(3);
    let mut weight = |b: &mut B, shape: &[usize]| {
        let tensor = random.tensor(&Type::new(DType::F32, shape), 1);
        let halved: Vec<f64> = tensor.to_f64().iter().map(|it| it * 0.5).collect();
        let tensor = Tensor::from_scalars(
            Type::new(dtype, shape),
            halved.iter().map(|it| wgfuse::Scalar::of(dtype, *it)).collect::<Vec<_>>(),
        );
        b.constant(tensor)
    };
    match kind {
        LINEAR => {
            let x = b.input("x", dtype, [1, 2, 7, 11])?;
            let (w, bias) = (weight(b, &[13, 11]), weight(b, &[13]));
            Ok((b.linear(x, w, Some(bias))?, [1, 2, 7, 13]))
        }
        CONV => {
            let x = b.input("x", dtype, [2, 3, 6, 7])?;
            let (w, bias) = (weight(b, &[5, 3, 3, 3]), weight(b, &[5]));
            let geometry = Geometry { padding: 1, ..Geometry::default() };
            Ok((b.conv2d(x, w, Some(bias), geometry)?, [2, 5, 6, 7]))
        }
        _ => {
            let x = b.input("x", dtype, [2, 3, 4, 5])?;
            let (w, bias) = (weight(b, &[3, 5, 2, 2]), weight(b, &[5]));
            let window = Window { strides: [2, 2].into_iter().collect(), ..Window::unit(2) };
            let output = [8, 10].into();
            let op = Op::ConvTranspose { window: window.into(), groups: 1, output, x, w, bias: Some(bias) };
            Ok((b.op(op)?, [2, 5, 8, 10]))
        }
    }
}

/// As TorchInductor finds them behind products: name, how it is written out, whether for halves too.
type Unary = (&'static str, fn(&mut B, Value) -> Made, bool);

const UNARY: &[Unary] = &[
    (
        "gelu, erf",
        |b, c| {
            let half = b.mul_scalar(c, 0.5)?;
            let y = b.mul_scalar(c, std::f64::consts::FRAC_1_SQRT_2)?;
            let y = b.erf(y)?;
            let y = b.add_scalar(y, 1.0)?;
            b.mul(half, y)
        },
        true,
    ),
    (
        "gelu, tanh",
        |b, c| {
            let half = b.mul_scalar(c, 0.5)?;
            let square = b.mul(c, c)?;
            let cube = b.mul(square, c)?;
            let y = b.mul_scalar(cube, 0.044715)?;
            let y = b.add(c, y)?;
            let y = b.mul_scalar(y, 0.797_884_560_802_865_4)?;
            let y = b.tanh(y)?;
            let y = b.add_scalar(y, 1.0)?;
            b.mul(half, y)
        },
        true,
    ),
    (
        "hardswish",
        |b, c| {
            let y = clamped(b, c)?;
            let y = b.mul(c, y)?;
            b.with_scalar(BinaryOp::Div, y, 6.0)
        },
        true,
    ),
    (
        "hardsigmoid",
        |b, c| {
            let y = clamped(b, c)?;
            b.with_scalar(BinaryOp::Div, y, 6.0)
        },
        true,
    ),
    (
        "silu",
        |b, c| {
            let e = b.neg(c)?;
            let e = b.exp(e)?;
            let sum = b.add_scalar(e, 1.0)?;
            b.div(c, sum)
        },
        true,
    ),
    ("relu", |b, c| b.relu(c), true),
    ("sigmoid", |b, c| b.sigmoid(c), true),
    ("tanh", |b, c| b.tanh(c), true),
    (
        "leaky_relu",
        |b, c| {
            let zero = b.mul_scalar(c, 0.0)?;
            let cond = b.gt(c, zero)?;
            let low = b.mul_scalar(c, 0.01)?;
            b.select(cond, c, low)
        },
        true,
    ),
    (
        "hardtanh",
        |b, c| {
            let y = b.with_scalar(BinaryOp::Max, c, -0.75)?;
            b.with_scalar(BinaryOp::Min, y, 1.25)
        },
        true,
    ),
];

/// clamp(c + 3, 0, 6)
fn clamped(b: &mut B, c: Value) -> Made {
    let y = b.add_scalar(c, 3.0)?;
    let y = b.with_scalar(BinaryOp::Max, y, 0.0)?;
    b.with_scalar(BinaryOp::Min, y, 6.0)
}

/// The graph's values on the processor and on the GPU, in so many kernels.
fn check(what: &str, kernels: usize, devices: &[Device], dtype: DType, graph: Graph) {
    let mut random = Random::new(5);
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 2)).collect();
    let names: Vec<String> = graph.inputs().iter().map(|it| it.name.clone()).collect();
    let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
    let expected = eval(&graph, &inputs).unwrap();
    let model = Model::from_graph(graph);
    let (rtol, atol) = match dtype {
        DType::F16 => (4e-3, 8e-3),
        DType::BF16 => (3e-2, 6e-2),
        _ => (1e-4, 1e-4),
    };
    for device in devices {
        let what = format!("{what} in {dtype} on {}", device.name());
        let session = Session::with_options(&model, device, Options::default()).unwrap();
        let given: Vec<(&str, Tensor)> =
            names.iter().map(String::as_str).zip(inputs.iter().cloned()).collect();
        let found: Vec<Tensor> = session.run(&given).unwrap().iter().map(|it| it.1.clone()).collect();
        assert_close(&what, &found, &expected, rtol, atol);
        let plan = session.plan_for(&shapes).unwrap();
        let names: Vec<&str> = plan.kernels.iter().map(|it| &*it.kernel.name).collect();
        assert_eq!(names.len(), kernels, "{what}: {names:?}");
    }
}

fn devices() -> [Device; 2] {
    [Device::cpu(), gpu()]
}

#[test]
fn every_activation_is_in_the_products_kernel() {
    let devices = devices();
    for kind in [LINEAR, CONV, TRANSPOSED] {
        for (name, make, halves) in UNARY {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                if dtype != DType::F32 && !halves {
                    continue;
                }
                let mut b = GraphBuilder::new();
                let made = (|| {
                    let (c, _) = product(&mut b, kind, dtype)?;
                    // Halves are widened before and narrowed behind.
                    let wide = if dtype == DType::F32 { c } else { b.cast(c, DType::F32)? };
                    let y = make(&mut b, wide)?;
                    let y = if dtype == DType::F32 { y } else { b.cast(y, dtype)? };
                    b.output("y", y)
                })();
                made.unwrap();
                check(&format!("{name} behind a {kind}"), 1, &devices, dtype, b.finish().unwrap());
            }
        }
    }
}

#[test]
fn sums_and_differences_are_in_the_products_kernel() {
    let devices = devices();
    for kind in [LINEAR, CONV, TRANSPOSED] {
        for broadcast in ["none", "feature", "batch", "one", "scalar"] {
            for (op, first) in
                [(BinaryOp::Add, true), (BinaryOp::Add, false), (BinaryOp::Sub, true), (BinaryOp::Sub, false)]
            {
                for relu in [false, true] {
                    let mut b = GraphBuilder::new();
                    let made = (|| {
                        let (c, whole) = product(&mut b, kind, DType::F32)?;
                        let shape: Vec<usize> = match broadcast {
                            "none" => whole.to_vec(),
                            "feature" if kind == LINEAR => vec![1, 1, 1, whole[3]],
                            "feature" => vec![1, whole[1], 1, 1],
                            "batch" if kind == LINEAR => vec![whole[3]],
                            "batch" => vec![whole[0], whole[1], 1, 1],
                            "one" => vec![1, 1, 1, 1],
                            _ => vec![],
                        };
                        let other = b.input("other", DType::F32, &*shape)?;
                        let y = if first { b.binary(op, c, other)? } else { b.binary(op, other, c)? };
                        let y = if relu { b.relu(y)? } else { y };
                        b.output("y", y)
                    })();
                    made.unwrap();
                    let what =
                        format!("{} ({broadcast}, first {first}, relu {relu}) behind a {kind}", op.name());
                    check(&what, 1, &devices, DType::F32, b.finish().unwrap());
                }
            }
        }
    }
}

/// A product of an input that is normalised by fixed statistics of axis 1: shapes of input and weights, how it is made, and whether
/// the norm is in the weights and the bias.
type Normed =
    (&'static str, &'static [usize], &'static [usize], fn(&mut B, Value, Value, Option<Value>) -> Made, bool);

const NORMED: &[Normed] = &[
    (LINEAR, &[6, 4], &[8, 4], |b, x, w, bias| b.linear(x, w, bias), true),
    (CONV, &[2, 4, 6, 7], &[8, 4, 3, 3], |b, x, w, bias| b.conv2d(x, w, bias, Geometry::default()), true),
    (
        "grouped convolution",
        &[2, 4, 6, 7],
        &[8, 2, 3, 3],
        |b, x, w, bias| b.conv2d(x, w, bias, Geometry { groups: 2, ..Geometry::default() }),
        true,
    ),
    (TRANSPOSED, &[2, 4, 6, 7], &[4, 8, 1, 1], |b, x, w, bias| transposed(b, x, w, bias, [6, 7]), true),
    // Zeros around the image would be shifted, and results at the borders are of fewer taps.
    (
        "padded convolution",
        &[2, 4, 6, 7],
        &[8, 4, 3, 3],
        |b, x, w, bias| b.conv2d(x, w, bias, Geometry { padding: 1, ..Geometry::default() }),
        false,
    ),
    (
        "transposed convolution of several taps",
        &[2, 4, 6, 7],
        &[4, 8, 2, 2],
        |b, x, w, bias| transposed(b, x, w, bias, [7, 8]),
        false,
    ),
];

fn transposed(b: &mut B, x: Value, w: Value, bias: Option<Value>, output: [usize; 2]) -> Made {
    b.op(Op::ConvTranspose { window: Window::unit(2).into(), groups: 1, output: output.into(), x, w, bias })
}

#[test]
fn norms_before_products_are_in_the_weights() {
    let devices = devices();
    for &(what, shape, weights, make, moves) in NORMED {
        for (dtype, biased) in [(DType::F32, false), (DType::F32, true), (DType::F16, true)] {
            let mut b = GraphBuilder::new();
            let made = (|| {
                let fixed = |b: &mut B, shape: &[usize], seed: u64| {
                    b.constant(Random::new(seed).tensor(&Type::new(dtype, shape), 1))
                };
                let x = b.input("x", dtype, shape)?;
                let [scale, bias, mean] = [1, 2, 3].map(|seed| fixed(&mut b, &[4], seed));
                let var = b.full(dtype, [4], 0.7)?;
                let y = b.batch_norm(x, scale, bias, mean, var, 1e-5)?;
                let w = fixed(&mut b, weights, 4);
                let bias = biased.then(|| fixed(&mut b, &[8], 5));
                let y = make(&mut b, y, w, bias)?;
                b.output("y", y)
            })();
            made.unwrap();
            let graph = b.finish().unwrap();
            let made = stages(graph.clone(), gpu().target(), &Options::default()).unwrap().schedule;
            // Input, weights, bias and result.
            let bound: usize = made.kernels.iter().map(|it| it.tensors.len()).sum();
            assert_eq!(bound == 4, moves, "{what}: {made}");
            check(&format!("a norm before a {what}"), made.kernels.len(), &devices, dtype, graph);
        }
    }
}

#[test]
fn linear_layers_of_one_input_are_one_product() {
    let devices = devices();
    for dtype in [DType::F32, DType::F16] {
        for biased in [false, true] {
            let mut b = GraphBuilder::new();
            let made = (|| {
                let x = b.input("x", dtype, [1, 9, 24])?;
                let mut parts = Vec::new();
                for seed in 0..3 {
                    let mut random = Random::new(seed);
                    let mut made = |shape: &[usize]| random.tensor(&Type::new(dtype, shape), 1);
                    let w = b.constant(made(&[16, 24]));
                    let bias = biased.then(|| b.constant(made(&[16])));
                    let y = b.linear(x, w, bias)?;
                    let y = b.reshape(y, &[1, 9, 2, 8])?;
                    parts.push(b.permute(y, &[0, 2, 1, 3])?);
                }
                let y = b.attention(parts[0], parts[1], parts[2], None, false)?;
                b.output("y", y)
            })();
            made.unwrap();
            check(&format!("three linear layers, bias {biased}"), 2, &devices, dtype, b.finish().unwrap());
        }
    }
}
