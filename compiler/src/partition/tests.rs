use super::*;
use crate::{
    dtype::DType,
    graph::{Op, builder::GraphBuilder, eval::eval, verify::verify},
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};

const F: DType = DType::F32;

type B = GraphBuilder;

fn graph(make: impl FnOnce(&mut B) -> Result<Value, Error>) -> Graph {
    let mut b = GraphBuilder::new();
    let y = make(&mut b).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

fn gpu() -> Target {
    Target::webgpu_minimum()
}

fn parts(graph: &Graph, target: &Target) -> Partition {
    let parts = split(graph, target, &Options::default()).unwrap();
    assert_eq!((verify(&parts.graph), verify(&parts.constants)), (Vec::new(), Vec::new()));
    let further = &parts.graph.inputs()[parts.arguments..];
    assert!(parts.constants.inputs().is_empty());
    assert_eq!(further.len(), parts.constants.outputs.len());
    for (input, output) in further.iter().zip(&parts.constants.outputs) {
        assert_eq!((&input.name, &input.ty), (&output.name, parts.constants.ty(output.value)));
    }
    for (_, node) in parts.graph.nodes() {
        assert!(!matches!(node.op, Op::Constant(_)) || node.ty.shape.count() == 1, "{}", parts.graph);
    }
    parts
}

/// What the parts compute together.
fn run(parts: &Partition, inputs: &[Tensor]) -> Vec<Tensor> {
    let constants = eval(&parts.constants, &[]).unwrap();
    eval(&parts.graph, &[inputs, &constants].concat()).unwrap()
}

fn ramp(shape: impl Into<crate::shape::Shape>) -> Tensor {
    let ty = Type::new(F, shape);
    let count = ty.shape.count();
    Tensor::from_scalars(ty, (0..count).map(|it| Scalar::Float(it as f64 * 0.25 - 1.0)))
}

fn names(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().map(|it| it.1.op.name()).collect()
}

fn place(parts: &Partition, origin: &str) -> Place {
    let (value, _) = parts.graph.nodes().find(|it| &*it.1.origin == origin).unwrap();
    parts.places[value]
}

#[test]
fn constants_are_computed_apart() {
    let whole = graph(|b| {
        let x = b.input("x", F, [2, 3])?;
        let (w, half) = (b.name("w").constant(ramp([4, 3])), b.scalar(F, 0.5));
        let scaled = b.name("scaled").mul(w, half)?;
        let turned = b.permute(scaled, &[1, 0])?;
        let y = b.matmul(x, turned)?;
        let bias = b.name("bias").constant(ramp([4]));
        let wide = b.expand(bias, [1000, 4])?;
        let wide = b.reshape(wide, &[1000, 1, 4])?;
        let y = b.add(y, wide)?;
        let y = b.mul(y, half)?;
        // The same origin a second time.
        let other = b.name("bias").constant(ramp([2, 1]));
        b.add(y, other)
    });
    let parts = parts(&whole, &gpu());
    assert_eq!(parts.arguments, 1);
    let further: Vec<&str> = parts.graph.inputs()[1..].iter().map(|it| &*it.name).collect();
    assert_eq!(further, ["scaled", "bias", "bias#2"]);
    // The expansion is not computed, and what looks at it stays with it.
    assert!(parts.constants.nodes().all(|it| it.1.ty.shape.count() <= 12));
    assert_eq!(names(&parts.constants).iter().filter(|it| **it == "mul").count(), 1);
    assert_eq!(
        names(&parts.graph).iter().filter(|it| !matches!(**it, "input" | "constant")).collect::<Vec<_>>(),
        [&"permute", &"expand", &"reshape", &"matmul", &"add", &"mul", &"add"]
    );
    let x = ramp([2, 3]);
    assert_eq!(run(&parts, std::slice::from_ref(&x)), eval(&whole, &[x]).unwrap());
    assert!(parts.reasons.is_empty());
    assert!(parts.places.values().all(|it| *it == Place::Gpu));
}

#[test]
fn outputs_may_be_constants() {
    let whole = {
        let mut b = GraphBuilder::new();
        let x = b.input("x", F, [2]).unwrap();
        let (many, one) = (b.constant(ramp([3])), b.scalar(F, 7.0));
        let slice = b.slice(many, 0, 1, 3).unwrap();
        for (name, value) in [("x", x), ("many", many), ("one", one), ("slice", slice)] {
            b.output(name, value).unwrap();
        }
        b.finish().unwrap()
    };
    let parts = parts(&whole, &Target::cpu());
    let x = ramp([2]);
    assert_eq!(run(&parts, std::slice::from_ref(&x)), eval(&whole, &[x]).unwrap());
    assert_eq!(parts.constants.outputs.len(), 2);
    assert!(parts.places.values().all(|it| *it == Place::Cpu));
}

#[test]
fn long_chains_of_constants_do_not_overflow_the_stack() {
    let whole = graph(|b| {
        let x = b.input("x", F, [2, 2])?;
        let mut w = b.constant(ramp([2, 2]));
        for _ in 0..50_000 {
            w = b.exp(w)?;
        }
        for _ in 0..50_000 {
            w = b.permute(w, &[1, 0])?;
        }
        b.add(x, w)
    });
    parts(&whole, &gpu());
}

#[test]
fn doubles_run_on_the_cpu() {
    let whole = graph(|b| {
        let x = b.input("x", F, [3000])?;
        let y = b.name("before").exp(x)?;
        let y = b.name("up").cast(y, DType::F64)?;
        let y = b.name("double").exp(y)?;
        let y = b.name("down").cast(y, F)?;
        b.name("after").exp(y)
    });
    let parts = parts(&whole, &gpu());
    let at = ["before", "up", "double", "down", "after"].map(|it| place(&parts, it));
    assert_eq!(at, [Place::Gpu, Place::Cpu, Place::Cpu, Place::Cpu, Place::Gpu]);
    assert_eq!(parts.reasons[1], ("double".into(), CpuReason::Double { op: "exp".into() }));
    assert!(parts.reasons.len() == 3);

    let options = Options { fallback: Fallback::Error, ..Options::default() };
    let error = split(&whole, &gpu(), &options).unwrap_err();
    let text = "node 'up' cannot run on the GPU: cast works on 64-bit floats";
    assert!(error.to_string().starts_with(text), "{error}");
    assert!(split(&whole, &Target::cpu(), &options).is_ok());
}

fn scalar(b: &mut B, value: f64) -> Value {
    b.scalar(DType::I64, value)
}

#[test]
fn integers_need_a_proof() {
    let int = DType::I64;
    let on_gpu = |make: fn(&mut B, Value) -> Result<Value, Error>| {
        let whole = graph(|b| {
            let x = b.input("x", int, [4])?;
            make(b, x)
        });
        parts(&whole, &gpu()).reasons.is_empty()
    };
    // Fits: bounded on every way.
    assert!(on_gpu(|b, x| b.relu(x)));
    assert!(on_gpu(|b, x| {
        let (low, high) = (scalar(b, 0.0), scalar(b, 1000.0));
        let x = b.maximum(x, low)?;
        let x = b.minimum(x, high)?;
        let x = b.mul(x, high)?;
        b.add(x, x)
    }));
    assert!(on_gpu(|b, x| {
        let zero = scalar(b, 0.0);
        let truth = b.gt(x, zero)?;
        let counts = b.cast(truth, DType::I64)?;
        let counts = b.cumsum(counts, 0)?;
        let all = b.sum(counts, &[0], true)?;
        b.mul(counts, all)
    }));
    assert!(on_gpu(|b, x| {
        let ten = scalar(b, 10.0);
        let x = b.remainder(x, ten)?;
        b.mul(x, x)
    }));
    assert!(on_gpu(|b, x| {
        let table = b.constant(Tensor::i64([3], &[-5, 1 << 20, 7]).unwrap());
        let x = b.gather(table, 0, x)?;
        let best = b.argmax(x, 0, true)?;
        let x = b.sub(x, best)?;
        b.mul_scalar(x, 2.0)
    }));
    // Does not.
    assert!(!on_gpu(|b, x| b.add(x, x)));
    assert!(!on_gpu(|b, x| b.neg(x)));
    assert!(!on_gpu(|b, x| b.sum(x, &[0], false)));
    assert!(!on_gpu(|b, x| {
        let large = b.constant(Tensor::i64([1], &[1 << 40]).unwrap());
        b.lt(x, large)
    }));
    assert!(!on_gpu(|b, x| {
        let x = b.cast(x, DType::F32)?;
        b.cast(x, DType::I64)
    }));
    // Of narrow types the device's own width is enough.
    assert!(on_gpu(|b, x| {
        let x = b.cast(x, DType::I32)?;
        let x = b.mul(x, x)?;
        let x = b.cast(x, DType::U32)?;
        b.mul(x, x)
    }));
}

#[test]
fn the_reason_names_the_operation() {
    let whole = graph(|b| {
        let x = b.input("x", DType::U64, [4])?;
        b.name("sum").add(x, x)
    });
    let reasons = parts(&whole, &gpu()).reasons;
    assert_eq!(reasons, [("sum".into(), CpuReason::Wide { op: "add".into(), dtype: DType::U64 })]);
    assert_eq!(reasons[0].1.to_string(), "add works on u64 values that may not fit 32 bits");
}

#[test]
fn small_neighbours_come_along() {
    let whole = |count: usize| {
        graph(move |b| {
            let x = b.input("x", F, [count])?;
            let y = b.name("big").exp(x)?;
            let y = b.name("head").relu(y)?;
            let y = b.name("up").cast(y, DType::F64)?;
            let y = b.name("down").cast(y, F)?;
            let y = b.name("view").reshape(y, &[1, -1])?;
            let y = b.name("between").relu(y)?;
            let y = b.name("up2").cast(y, DType::F64)?;
            let y = b.name("down2").cast(y, F)?;
            b.name("tail").neg(y)
        })
    };
    let small = parts(&whole(100), &gpu());
    assert!(["big", "head", "view", "between", "tail"].iter().all(|it| place(&small, it) == Place::Cpu));
    let large = parts(&whole(2000), &gpu());
    let at = ["big", "head", "view", "between", "tail"].map(|it| place(&large, it));
    assert_eq!(at, [Place::Gpu; 5]);
    // A view between two CPU nodes moves whatever its size.
    let view = graph(|b| {
        let x = b.input("x", DType::F64, [2000])?;
        let x = b.cast(x, F)?;
        let x = b.name("view").reshape(x, &[2, 1000])?;
        b.cast(x, DType::F64)
    });
    let view = parts(&view, &gpu());
    assert_eq!(place(&view, "view"), Place::Cpu);
    assert_eq!(view.reasons[1].1, CpuReason::Seam { op: "reshape".into() });
}

#[test]
fn large_tensors_do_not_fit_the_device() {
    let whole = graph(|b| {
        let x = b.input("x", F, [80 << 20])?;
        let y = b.name("large").exp(x)?;
        b.name("sum").sum(y, &[0], false)
    });
    let parts = parts(&whole, &gpu());
    let reason = CpuReason::Large { op: "exp".into(), need: 320 << 20, have: 256 << 20 };
    assert_eq!(parts.reasons[0], ("large".into(), reason));

    let options = Options { memory_limit: 100 << 20, ..Options::default() };
    let error = split(&whole, &Target::cpu(), &options).unwrap_err();
    assert_eq!(error, Error::MemoryLimit { at: "node 'x'".into(), need: 320 << 20, have: 100 << 20 });
}

/// Ranges hold for whatever values the operands have.
#[test]
fn ranges_are_true() {
    let values: Vec<i64> =
        vec![0, 1, -1, 2, 3, -7, 12, 100, -100, 255, 65_536, i32::MAX as i64, i32::MIN as i64];
    let ends = [(0, 3), (-7, 12), (1, 100), (-100, -1), (0, 65_536), (-100, 255)];
    for op in BinaryOp::ALL.iter().filter(|it| it.result(DType::I64).is_some()) {
        for a in ends {
            for b in ends {
                let ranged = graph(|it| {
                    let clamp = |it: &mut B, name: &str, (low, high): (i64, i64)| {
                        let x = it.input(name, DType::I64, [1])?;
                        let (low, high) =
                            (it.scalar(DType::I64, low as f64), it.scalar(DType::I64, high as f64));
                        let x = it.maximum(x, low)?;
                        it.minimum(x, high)
                    };
                    let (x, y) = (clamp(it, "a", a)?, clamp(it, "b", b)?);
                    it.binary(*op, x, y)
                });
                let ranges = range::of_parts(&ranged, 2, &Graph::new());
                let range = ranges[ranged.outputs[0].value];
                let inside = |(low, high): (i64, i64)| {
                    values.iter().copied().filter(move |it| (low..=high).contains(it))
                };
                for x in inside(a) {
                    for y in inside(b) {
                        let z = op.eval(DType::I64, Scalar::Int(x), Scalar::Int(y)).as_i64() as i128;
                        assert!(
                            range.low <= z && z <= range.high,
                            "{x} {} {y} = {z} outside {range:?}",
                            op.name()
                        );
                    }
                }
            }
        }
    }
    for op in UnaryOp::ALL.iter().filter(|it| it.result(DType::I64) == Some(DType::I64)) {
        for (low, high) in ends {
            let ranged = graph(|it| {
                let x = it.input("a", DType::I64, [1])?;
                let (low, high) = (it.scalar(DType::I64, low as f64), it.scalar(DType::I64, high as f64));
                let x = it.maximum(x, low)?;
                let x = it.minimum(x, high)?;
                it.unary(*op, x)
            });
            let range = range::of_parts(&ranged, 1, &Graph::new())[ranged.outputs[0].value];
            for &x in values.iter().filter(|it| (low..=high).contains(*it)) {
                let z = op.eval(DType::I64, Scalar::Int(x)).as_i64() as i128;
                assert!(range.low <= z && z <= range.high, "{} {x} = {z} outside {range:?}", op.name());
            }
        }
    }
}
