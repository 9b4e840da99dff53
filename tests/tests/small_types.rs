//! Integers of two and four bits, floats of eight and four: on every device what the evaluator says, to the last bit.

use wgfuse::{DType, Device, GraphBuilder, Model, ModelError, Options, Session, Shape, Target, Tensor};
use wgfuse_compiler::{
    graph::{Graph, Value, eval::eval},
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Type,
    small_float,
};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
};

const TYPES: [DType; 10] = [
    DType::I4,
    DType::U4,
    DType::I2,
    DType::U2,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E4M3Z,
    DType::F8E5M2Z,
    DType::F8E8M0,
    DType::F4,
];
/// Elements of each input.
const COUNT: usize = 2 * 777;

type Built = Result<Value, ModelError>;

/// Of `x`, f32, and `y`, of a small type.
type Build = fn(&mut GraphBuilder, Value, Value, DType) -> Built;

const GRAPHS: &[(&str, Build)] = &[
    ("cast to", |b, x, _, of| b.cast(x, of)),
    ("cast from", |b, _, y, _| b.cast(y, DType::F32)),
    ("cast to f16", |b, _, y, _| b.cast(y, DType::F16)),
    ("cast to i32", |b, _, y, _| b.cast(y, DType::I32)),
    ("as it is", |b, _, y, _| {
        let turned = b.reshape(y, &[2, 777])?;
        let turned = b.permute(turned, &[1, 0])?;
        b.slice(turned, 0, 3, 700)
    }),
    ("select", |b, x, y, of| {
        let negative = b.with_scalar(BinaryOp::Lt, x, 0.0)?;
        let cast = b.cast(x, of)?;
        b.select(negative, y, cast)
    }),
    ("sum and product", |b, x, y, of| {
        let cast = b.cast(x, of)?;
        let sum = b.binary(BinaryOp::Add, cast, y)?;
        let product = b.binary(BinaryOp::Mul, sum, y)?;
        b.cast(product, DType::F32)
    }),
    ("magnitude less one", |b, _, y, of| {
        let it = b.unary(UnaryOp::Abs, y)?;
        let one = b.scalar(of, 1.0);
        b.binary(BinaryOp::Sub, it, one)
    }),
    ("select, then a sum", |b, x, y, of| {
        let beyond = b.with_scalar(BinaryOp::Gt, x, 3.0)?;
        let cast = b.cast(x, of)?;
        let special = b.scalar(of, if of.is_float() { f64::NAN } else { 1.0 });
        let chosen = b.select(beyond, special, cast)?;
        match of {
            DType::F8E8M0 => Ok(chosen),
            _ => b.binary(BinaryOp::Add, chosen, y),
        }
    }),
    ("largest", |b, _, y, _| {
        let rows = b.reshape(y, &[-1, 21])?;
        b.max(rows, &[1], false)
    }),
];

fn graph(of: DType, build: Build) -> Graph {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [COUNT]).unwrap();
    let y = b.input("y", of, [COUNT]).unwrap();
    let value = build(&mut b, x, y, of).unwrap();
    b.output("it", value).unwrap();
    b.finish().unwrap()
}

/// Every element that there is of `of`, but for NaN where `numbers`.
fn elements(of: DType, numbers: bool) -> Vec<Scalar> {
    let all = (0..1u32 << of.bits()).map(|it| match of.is_float() {
        true => Scalar::Float(small_float::value(of, it as u8)),
        false => Scalar::Int(it as i64).cast(DType::I64, of),
    });
    all.filter(|it| !numbers || !it.as_f64().is_nan()).collect()
}

/// Numbers around every element and halfway to its neighbours, limits, and random ones.
fn floats(of: DType) -> Tensor {
    let mut values: Vec<f32> = elements(of, true).iter().map(|it| it.as_f64() as f32).collect();
    values.retain(|it| it.is_finite());
    values.sort_by(f32::total_cmp);
    let halves: Vec<f32> = values.windows(2).map(|it| it[0] + (it[1] - it[0]) / 2.0).collect();
    let mut all =
        vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9, -1e9, 1e-9, -1e-9, 464.0, 61440.0];
    // A device may take numbers smaller than normal ones for 0, and then not for negative ones.
    let normal = |it: &f32| *it == 0.0 || it.is_normal();
    all.extend(halves.iter().flat_map(|it| [*it, it.next_up(), it.next_down()]).filter(normal));
    all.extend(values);
    let mut random = Random::new(7);
    while all.len() < COUNT {
        all.push((random.unit() as f32 - 0.5) * 2f32.powi(random.below(24) as i32 - 8));
    }
    // Casts of floats to integers are wrapped from those of 32 bits, whose limits are no matter here.
    let all = all.into_iter().map(|it| if of.is_int() { it.clamp(-1e6, 1e6) } else { it });
    Tensor::f32([COUNT], &all.take(COUNT).collect::<Vec<_>>()).unwrap()
}

fn devices() -> [Device; 3] {
    [Device::cpu(), gpu(), gpu().limited_to(&Target::webgpu_minimum())]
}

#[test]
fn every_device_gives_the_same_elements() {
    for of in TYPES {
        let y: Vec<Scalar> = elements(of, false).into_iter().cycle().take(COUNT).collect();
        let y = Tensor::from_scalars(Type::new(of, [COUNT]), y);
        let given = [floats(of), y];
        // What f32 rounds to the nearest, powers of two then round up: sums of these depend on what they are done in.
        let skipped = |name: &str| of == DType::F8E8M0 && name == "sum and product";
        for (name, build) in GRAPHS.iter().filter(|it| !skipped(it.0)) {
            let graph = graph(of, *build);
            let want = eval(&graph, &given).unwrap().remove(0);
            for device in devices() {
                for options in [options(), Options { fuse: false, ..options() }] {
                    let model = Model::from_graph(graph.clone());
                    let session = Session::with_options(&model, &device, options).unwrap();
                    let made = session.run(&[("x", given[0].clone()), ("y", given[1].clone())]).unwrap();
                    same(&format!("{name}, {of}, {}", device.name()), &made[0], &want);
                }
            }
        }
    }
}

fn same(what: &str, made: &Tensor, want: &Tensor) {
    assert_eq!(made.ty(), want.ty(), "{what}");
    for (at, (a, b)) in made.scalars().zip(want.scalars()).enumerate() {
        assert!(
            a == b || a.as_f64().is_nan() && b.as_f64().is_nan(),
            "{what}: element {at}: {a:?}, not {b:?}"
        );
    }
}

#[test]
fn what_gpus_hold_runs_there() {
    for of in TYPES {
        let graph = graph(of, GRAPHS[0].1);
        let strict = Options { fallback: wgfuse::Fallback::Error, ..options() };
        let session = Session::with_options(&Model::from_graph(graph), &gpu(), strict).unwrap();
        let y = Tensor::from_scalars(Type::new(of, [COUNT]), vec![Scalar::Int(0); COUNT]);
        let ran = session.run(&[("x", floats(of)), ("y", y)]);
        match of {
            DType::F8E8M0 => assert!(ran.unwrap_err().to_string().contains("f8e8m0, which GPUs cannot hold")),
            _ => drop(ran.unwrap()),
        }
    }
}

#[test]
fn small_elements_are_packed_in_files() {
    for of in [DType::I4, DType::U4, DType::I2, DType::U2, DType::F4] {
        for count in 0..9 {
            let all = elements(of, false).into_iter().rev().cycle().take(count);
            let tensor = Tensor::from_scalars(Type::new(of, [count]), all);
            let packed = tensor.packed();
            assert_eq!(packed.len(), (count * of.bits()).div_ceil(8), "{of}");
            assert_eq!(Tensor::unpacked(tensor.ty().clone(), &packed), Some(tensor.clone()), "{of} {count}");
            let longer = [&packed[..], &[0]].concat();
            assert_eq!(Tensor::unpacked(tensor.ty().clone(), &longer), None);
        }
    }
    let of = |dtype| Tensor::unpacked(Type::new(dtype, [3]), &[0xe1, 0x0f]).unwrap().to_f64();
    assert_eq!(of(DType::I4), [1.0, -2.0, -1.0]);
    assert_eq!(of(DType::U4), [1.0, 14.0, 15.0]);
    assert_eq!(of(DType::F4), [0.5, -4.0, -6.0]);
    let twos = Tensor::unpacked(Type::new(DType::I2, [5]), &[0b11_10_01_00, 0b01]).unwrap();
    assert_eq!(twos.to_i64(), [0, 1, -2, -1, 1]);
}

#[test]
fn bytes_that_are_no_elements_are_refused() {
    for (of, byte) in [(DType::I4, 8), (DType::U4, 16), (DType::I2, 2), (DType::U2, 255), (DType::F4, 16)] {
        let ty = Type { dtype: of, shape: Shape::new(&[2]) };
        assert!(Tensor::new(ty.clone(), vec![1, 1].into()).is_some(), "{of}");
        assert_eq!(Tensor::new(ty, vec![1, byte].into()), None, "{of}");
    }
}
