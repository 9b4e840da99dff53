//! For every op functions of a few small tensors that are made of it, each with where its operands lie: away from points at which it
//! has no derivative.

use wgfuse_compiler::{
    dtype::DType,
    error::Error,
    graph::{
        Op, PadMode, PoolKind, Real, Value, Window,
        builder::{Geometry, GraphBuilder},
    },
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::Shape,
    tensor::Tensor,
};

pub type Build = Box<dyn Fn(&mut GraphBuilder, &[Value]) -> Result<Value, Error>>;

pub struct Case {
    pub name: String,
    pub inputs: Vec<Input>,
    pub build: Build,
}

/// Values from `low` to `high`, none near one of `kinks`.
pub struct Input {
    pub shape: Vec<usize>,
    pub low: f64,
    pub high: f64,
    pub kinks: &'static [f64],
}

fn within(shape: &[usize], low: f64, high: f64) -> Input {
    Input { shape: shape.to_vec(), low, high, kinks: &[] }
}

fn any(shape: &[usize]) -> Input {
    within(shape, -1.5, 1.5)
}

/// Ops that have no derivative to compare, and why.
pub const WITHOUT: &[(&str, &str)] = &[
    ("input", "a leaf"),
    ("constant", "a leaf"),
    ("random", "bits of a key"),
    ("argmax", "a place"),
    ("argmin", "a place"),
    ("not", "of integers and bool"),
    ("isnan", "gives bool"),
    ("isinf", "gives bool"),
    ("normal", "of bits"),
    ("to_bits", "gives integers"),
    ("from_bits", "of bits: an error where they depend on x"),
    ("and", "of integers and bool"),
    ("or", "of integers and bool"),
    ("xor", "of integers and bool"),
    ("shl", "of integers"),
    ("shr", "of integers"),
    ("eq", "gives bool"),
    ("ne", "gives bool"),
    ("lt", "gives bool"),
    ("le", "gives bool"),
    ("gt", "gives bool"),
    ("ge", "gives bool"),
];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &op in UnaryOp::ALL {
        if let Some((low, high, kinks)) = domain(op) {
            let inputs = vec![Input { shape: vec![2, 7], low, high, kinks }];
            all.push(Case { name: op.name().into(), inputs, build: Box::new(move |b, x| b.unary(op, x[0])) });
        }
    }
    for &op in BinaryOp::ALL {
        let Some((a, b)) = domains(op) else { continue };
        for shapes in [[&[2, 3][..], &[2, 3]], [&[3], &[4, 1]]] {
            let input = |at: usize, (low, high)| within(shapes[at], low, high);
            let (name, inputs) = (format!("{} {shapes:?}", op.name()), vec![input(0, a), input(1, b)]);
            all.push(Case { name, inputs, build: Box::new(move |b, x| b.binary(op, x[0], x[1])) });
        }
    }
    let mut case = |name: &str, inputs: Vec<Input>, build: Build| {
        all.push(Case { name: name.into(), inputs, build });
    };
    pointwise(&mut case);
    along(&mut case);
    views(&mut case);
    reads(&mut case);
    products(&mut case);
    pools(&mut case);
    norms(&mut case);
    attention(&mut case);
    all
}

type Add<'a> = &'a mut dyn FnMut(&str, Vec<Input>, Build);

fn domain(op: UnaryOp) -> Option<(f64, f64, &'static [f64])> {
    const WHOLE: &[f64] = &[-2.0, -1.0, 0.0, 1.0, 2.0];
    const HALVES: &[f64] = &[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5];
    Some(match op {
        UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Relu => (-2.0, 2.0, &[0.0]),
        UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc => (-2.5, 2.5, WHOLE),
        UnaryOp::Round => (-2.7, 2.7, HALVES),
        UnaryOp::HardSwish => (-5.0, 5.0, &[-3.0, 3.0]),
        UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt => (0.3, 3.0, &[]),
        UnaryOp::Recip => (-3.0, -0.4, &[]),
        UnaryOp::Asin | UnaryOp::Acos | UnaryOp::Atanh => (-0.85, 0.85, &[]),
        UnaryOp::Acosh => (1.3, 4.0, &[]),
        UnaryOp::Tan => (-1.2, 1.2, &[]),
        UnaryOp::Neg
        | UnaryOp::Exp
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Atan
        | UnaryOp::Sinh
        | UnaryOp::Cosh
        | UnaryOp::Tanh
        | UnaryOp::Asinh
        | UnaryOp::Erf
        | UnaryOp::Sigmoid
        | UnaryOp::Silu
        | UnaryOp::Gelu
        | UnaryOp::GeluTanh
        | UnaryOp::Softplus => (-2.5, 2.5, &[]),
        UnaryOp::Not
        | UnaryOp::IsNan
        | UnaryOp::IsInf
        | UnaryOp::Normal
        | UnaryOp::ToBits
        | UnaryOp::FromBits => return None,
    })
}

fn domains(op: BinaryOp) -> Option<((f64, f64), (f64, f64))> {
    Some(match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min => {
            ((-2.0, 2.0), (-2.0, 2.0))
        }
        BinaryOp::Div => ((-2.0, 2.0), (0.4, 2.0)),
        BinaryOp::Rem | BinaryOp::Mod => ((-4.9, -4.1), (1.3, 1.9)),
        BinaryOp::Pow => ((0.3, 2.0), (-2.0, 2.5)),
        BinaryOp::Atan2 => ((-2.0, -0.3), (-1.0, 2.0)),
        BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor
        | BinaryOp::Shl
        | BinaryOp::Shr
        | BinaryOp::Eq
        | BinaryOp::Ne
        | BinaryOp::Lt
        | BinaryOp::Le
        | BinaryOp::Gt
        | BinaryOp::Ge => return None,
    })
}

fn ints(b: &mut GraphBuilder, shape: &[usize], values: &[i64]) -> Value {
    b.constant(Tensor::i64(Shape::new(shape), values).expect("as many"))
}

fn pointwise(case: Add) {
    case(
        "select",
        vec![any(&[3]), any(&[2, 1])],
        Box::new(|b, x| {
            let cond = b.lt(x[0], x[1])?;
            let twice = b.mul_scalar(x[0], 2.0)?;
            b.select(cond, twice, x[1])
        }),
    );
    case(
        "cast",
        vec![any(&[4])],
        Box::new(|b, x| {
            let dtype = b.ty(x[0])?.dtype;
            // Exact both ways only as f64.
            let there = b.cast(x[0], DType::F64)?;
            let sine = b.sin(there)?;
            b.cast(sine, dtype)
        }),
    );
    case("of itself", vec![any(&[3])], Box::new(|b, x| b.mul(x[0], x[0])));
    case(
        "whole exponents of negative numbers",
        vec![Input { shape: vec![6], low: -2.0, high: 2.0, kinks: &[0.0] }],
        Box::new(|b, x| {
            let dtype = b.ty(x[0])?.dtype;
            let by = ints(b, &[6], &[0, 1, 2, 3, -1, -2]);
            let by = b.cast(by, dtype)?;
            b.pow(x[0], by)
        }),
    );
}

fn along(case: Add) {
    for &op in ReduceOp::ALL {
        for (axes, keep) in [(&[1][..], false), (&[0, 2], true), (&[2, 0], false), (&[0, 1, 2], false)] {
            case(
                &format!("{} {axes:?}", op.name()),
                vec![any(&[2, 3, 4])],
                Box::new(move |b, x| b.reduce(op, x[0], axes, keep)),
            );
        }
    }
    case("prod of five", vec![any(&[5])], Box::new(|b, x| b.reduce(ReduceOp::Prod, x[0], &[0], false)));
    case("prod of one", vec![any(&[2, 1])], Box::new(|b, x| b.reduce(ReduceOp::Prod, x[0], &[1], false)));
    for (axes, keep) in [(&[-1][..], true), (&[0, 1], false)] {
        let build: Build = Box::new(move |b, x| b.mean(x[0], axes, keep));
        case(&format!("mean {axes:?}"), vec![any(&[3, 4])], build);
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        case(
            "cumsum",
            vec![any(&[2, 4, 3])],
            Box::new(move |b, x| b.op(Op::CumSum { axis: 1, exclusive, reverse, x: x[0] })),
        );
    }
    case("softmax", vec![any(&[2, 4, 3])], Box::new(|b, x| b.softmax(x[0], 1)));
    case("log_softmax", vec![any(&[2, 4])], Box::new(|b, x| b.log_softmax(x[0], -1)));
}

fn views(case: Add) {
    case("reshape", vec![any(&[2, 6])], Box::new(|b, x| b.reshape(x[0], &[3, -1])));
    case("permute", vec![any(&[2, 3, 4])], Box::new(|b, x| b.permute(x[0], &[2, 0, 1])));
    case("expand", vec![any(&[3, 1])], Box::new(|b, x| b.expand(x[0], [2, 3, 4])));
    let slices: [([usize; 2], [usize; 2], [i64; 2]); 5] = [
        ([1, 0], [3, 2], [2, 3]),
        ([6, 4], [3, 5], [-3, -1]),
        ([2, 1], [1, 1], [9, -9]),
        ([0, 0], [7, 5], [1, 1]),
        ([5, 3], [2, 2], [-4, -2]),
    ];
    for (starts, sizes, steps) in slices {
        case(
            &format!("slice {steps:?}"),
            vec![any(&[7, 5])],
            Box::new(move |b, x| {
                b.op(Op::Slice { starts: starts.into(), sizes: sizes.into(), steps: steps.into(), x: x[0] })
            }),
        );
    }
    case(
        "pad",
        vec![any(&[2, 3]), any(&[])],
        Box::new(|b, x| {
            b.op(Op::Pad {
                before: [1, 0].into(),
                after: [2, 3].into(),
                mode: PadMode::Constant,
                x: x[0],
                fill: Some(x[1]),
            })
        }),
    );
    for mode in [PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
        for (before, after) in [([2, 1], [1, 0]), ([0, 2], [2, 3]), ([2, 3], [2, 3])] {
            case(
                &format!("pad {mode:?}"),
                vec![any(&[3, 4])],
                Box::new(move |b, x| {
                    let (before, after) = (before.into(), after.into());
                    b.op(Op::Pad { before, after, mode, x: x[0], fill: None })
                }),
            );
        }
    }
    case("concat", vec![any(&[2, 3]), any(&[2, 1])], Box::new(|b, x| b.concat(&[x[0], x[1], x[0]], 1)));
}

fn reads(case: Add) {
    case(
        "gather",
        vec![any(&[2, 4, 3])],
        Box::new(|b, x| {
            let indices = ints(b, &[2, 3], &[1, -1, 1, 0, 3, -4]);
            b.gather(x[0], 1, indices)
        }),
    );
    case(
        "gather one",
        vec![any(&[4, 3])],
        Box::new(|b, x| {
            let index = ints(b, &[], &[-2]);
            b.gather(x[0], 1, index)
        }),
    );
    case(
        "gather_elements",
        vec![any(&[3, 4])],
        Box::new(|b, x| {
            let indices = ints(b, &[2, 5], &[1, -1, 1, 0, 3, -4, 2, 2, 9, 0]);
            b.take_along(x[0], 1, indices)
        }),
    );
    case(
        "gather_nd",
        vec![any(&[2, 3, 4, 2])],
        Box::new(|b, x| {
            let indices = ints(b, &[2, 3, 2], &[1, -1, 1, 0, 2, -4, 2, 2, 0, 0, 2, 2]);
            b.op(Op::GatherNd { batch: 1, x: x[0], indices })
        }),
    );
    case(
        "gather_nd without batch",
        vec![any(&[3, 4])],
        Box::new(|b, x| {
            let indices = ints(b, &[3, 1], &[1, -1, 1]);
            b.op(Op::GatherNd { batch: 0, x: x[0], indices })
        }),
    );
}

fn products(case: Add) {
    let shapes: &[[&[usize]; 2]] = &[
        [&[2, 3], &[3, 4]],
        [&[2, 5, 3], &[3, 4]],
        [&[2, 1, 2, 3], &[3, 3, 4]],
        [&[2, 3], &[5, 3, 2]],
        [&[1, 2, 3], &[3, 2]],
        [&[3], &[3]],
        [&[3], &[2, 3, 4]],
        [&[2, 4, 3], &[3]],
    ];
    for &[a, b] in shapes {
        let build: Build = Box::new(|b, x| b.matmul(x[0], x[1]));
        case(&format!("matmul {a:?} {b:?}"), vec![any(a), any(b)], build);
    }
    // Strides, dilations, padding before and after, groups, image, kernel.
    type Shape2 = ([usize; 2], [usize; 2], [usize; 2], [usize; 2], usize, [usize; 2], [usize; 2]);
    let windows: &[Shape2] = &[
        ([1, 1], [1, 1], [0, 0], [0, 0], 1, [4, 3], [2, 2]),
        ([2, 3], [1, 2], [1, 0], [0, 2], 1, [5, 6], [3, 2]),
        ([2, 1], [2, 1], [0, 2], [3, 1], 2, [6, 3], [2, 3]),
        ([4, 2], [1, 1], [0, 0], [0, 0], 2, [6, 5], [1, 2]),
        ([3, 3], [1, 1], [2, 0], [0, 0], 4, [4, 5], [2, 2]),
    ];
    for &(strides, dilations, before, after, groups, image, kernel) in windows {
        let window = || {
            Box::new(Window {
                strides: strides[..].into(),
                dilations: dilations[..].into(),
                before: before[..].into(),
                after: after[..].into(),
            })
        };
        let sizes: Vec<usize> =
            (0..2).map(|it| window().positions(it, image[it], kernel[it]).expect("fits")).collect();
        let name = format!("{strides:?} {dilations:?} {before:?} {after:?} {groups}");
        let own = window();
        case(
            &format!("conv {name}"),
            vec![
                any(&[2, 4, image[0], image[1]]),
                any(&[groups * 2, 4 / groups, kernel[0], kernel[1]]),
                any(&[groups * 2]),
            ],
            Box::new(move |b, x| {
                let window = own.clone();
                b.op(Op::Conv { window, groups, x: x[0], w: x[1], bias: Some(x[2]) })
            }),
        );
        let own = window();
        for output in [image, [image[0] + 1, image[1] + 2]] {
            let window = own.clone();
            case(
                &format!("conv_transpose {name}"),
                vec![
                    any(&[2, 4, sizes[0], sizes[1]]),
                    any(&[4, 2, kernel[0], kernel[1]]),
                    any(&[groups * 2]),
                ],
                Box::new(move |b, x| {
                    let (window, output) = (window.clone(), Shape::from(output));
                    let bias = Some(x[2]);
                    b.op(Op::ConvTranspose { window, groups, output, x: x[0], w: x[1], bias })
                }),
            );
        }
    }
    let geometry = Geometry { stride: 2, padding: 1, ..Geometry::default() };
    case(
        "conv of one axis",
        vec![any(&[2, 3, 6]), any(&[4, 3, 3])],
        Box::new(move |b, x| b.conv(x[0], x[1], None, geometry)),
    );
}

fn pools(case: Add) {
    // Strides, dilations, padding before and after, kernel, output.
    type Pooled = ([usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2]);
    let windows: &[Pooled] = &[
        ([2, 2], [1, 1], [0, 0], [0, 0], [2, 2], [2, 3]),
        ([1, 2], [1, 2], [1, 0], [1, 1], [3, 2], [5, 3]),
        // The last windows reach past the padding.
        ([2, 3], [2, 1], [1, 1], [0, 1], [2, 3], [3, 3]),
    ];
    for &(strides, dilations, before, after, kernel, output) in windows {
        let kinds = [
            PoolKind::Max,
            PoolKind::Average { count_padding: false },
            PoolKind::Average { count_padding: true },
        ];
        for kind in kinds {
            case(
                &format!("pool {kind:?} {strides:?}"),
                vec![any(&[2, 2, 5, 6])],
                Box::new(move |b, x| {
                    let window = Box::new(Window {
                        strides: strides[..].into(),
                        dilations: dilations[..].into(),
                        before: before[..].into(),
                        after: after[..].into(),
                    });
                    let (kernel, output) = (kernel.into(), output.into());
                    b.op(Op::Pool { kind, window, kernel, output, x: x[0] })
                }),
            );
        }
    }
    case(
        "pool of one axis",
        vec![any(&[1, 2, 7])],
        Box::new(|b, x| b.max_pool(x[0], &[3], Geometry { stride: 2, ..Geometry::default() })),
    );
}

fn norms(case: Add) {
    case(
        "layer_norm",
        vec![any(&[2, 3, 4]), any(&[3, 4]), any(&[3, 4])],
        Box::new(|b, x| b.layer_norm(x[0], 1, Some(x[1]), Some(x[2]), 1e-2)),
    );
    case(
        "layer_norm that broadcasts",
        vec![any(&[2, 3, 4]), any(&[3, 1]), any(&[4])],
        Box::new(|b, x| b.layer_norm(x[0], 1, Some(x[1]), Some(x[2]), 1e-2)),
    );
    case("layer_norm plain", vec![any(&[3, 4])], Box::new(|b, x| b.layer_norm(x[0], -1, None, None, 1e-2)));
    case(
        "rms_norm",
        vec![any(&[2, 3, 4]), any(&[4])],
        Box::new(|b, x| b.rms_norm(x[0], -1, Some(x[1]), 1e-2)),
    );
    case("rms_norm plain", vec![any(&[2, 3])], Box::new(|b, x| b.rms_norm(x[0], 0, None, 1e-2)));
    case(
        "group_norm",
        vec![any(&[2, 4, 3]), any(&[4]), any(&[4])],
        Box::new(|b, x| b.group_norm(x[0], 2, Some(x[1]), Some(x[2]), 1e-2)),
    );
    case("group_norm plain", vec![any(&[2, 4])], Box::new(|b, x| b.group_norm(x[0], 2, None, None, 1e-2)));
    case(
        "batch_norm",
        vec![any(&[2, 3, 2]), any(&[3]), any(&[3]), any(&[3]), within(&[3], 0.3, 2.0)],
        Box::new(|b, x| b.batch_norm(x[0], x[1], x[2], x[3], x[4], 1e-2)),
    );
}

fn attention(case: Add) {
    case(
        "attention",
        vec![any(&[1, 2, 3, 4]), any(&[1, 2, 5, 4]), any(&[1, 2, 5, 2])],
        Box::new(|b, x| b.attention(x[0], x[1], x[2], None, false)),
    );
    case(
        "attention with a mask, of heads that share keys",
        vec![any(&[2, 4, 3, 2]), any(&[2, 2, 3, 2]), any(&[2, 2, 3, 2]), any(&[2, 1, 3, 3])],
        Box::new(|b, x| b.attention(x[0], x[1], x[2], Some(x[3]), true)),
    );
    case(
        "attention of rows that see nothing",
        vec![any(&[1, 1, 4, 2]), any(&[1, 1, 2, 2]), any(&[1, 1, 2, 3])],
        Box::new(|b, x| {
            let (q, k, v) = (x[0], x[1], x[2]);
            b.op(Op::Attention { scale: Real(0.7), causal: true, zero_masked: true, q, k, v, mask: None })
        }),
    );
}
