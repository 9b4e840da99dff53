//! Random ops: the same bits on every device and in the evaluator, other ones in every run, and of the distributions that they say.

use prost::Message;
use wgfuse::{DType, Device, GraphBuilder, Model, Options, Session, Shape, Target, Tensor};
use wgfuse_compiler::{
    graph::{Graph, Value, eval::eval, random::KEY},
    import::onnx::proto::*,
    random::run_key,
};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
    stages::stages,
};

type Built = Result<Value, wgfuse::ModelError>;
type Build = fn(&mut GraphBuilder, &[usize]) -> Built;

/// Every method, by name; all are exact, so that every device gives the same bits.
const EXACT: &[(&str, Build)] = &[
    ("bits", |b, shape| b.random_bits(shape)),
    ("rand f32", |b, shape| b.rand(DType::F32, shape)),
    ("rand f16", |b, shape| b.rand(DType::F16, shape)),
    ("rand bf16", |b, shape| b.rand(DType::BF16, shape)),
    ("rand f64", |b, shape| b.rand(DType::F64, shape)),
    ("uniform", |b, shape| b.uniform(DType::F32, shape, -3.7, 12.9)),
    ("uniform around 1000", |b, shape| b.uniform(DType::F32, shape, 999.9, 1000.3)),
    ("uniform f16", |b, shape| b.uniform(DType::F16, shape, -0.3, 0.7)),
    ("uniform f64", |b, shape| b.uniform(DType::F64, shape, -0.3, 0.7)),
    ("randn f32", |b, shape| b.randn(DType::F32, shape)),
    ("randn f16", |b, shape| b.randn(DType::F16, shape)),
    ("randn bf16", |b, shape| b.randn(DType::BF16, shape)),
    ("normal", |b, shape| b.normal(DType::F32, shape, 0.123, 4.567)),
    ("normal f64", |b, shape| b.normal(DType::F64, shape, 0.123, 4.567)),
    ("randint i32", |b, shape| b.randint(DType::I32, shape, -7, 100)),
    ("randint i64", |b, shape| b.randint(DType::I64, shape, 0, 1 << 31)),
    ("bernoulli", |b, shape| {
        let p = b.rand(DType::F32, shape)?;
        b.bernoulli(p)
    }),
    ("dropout", |b, shape| {
        let x = b.randn(DType::F32, shape)?;
        b.dropout(x, 0.3)
    }),
];

fn built(shape: &[usize], build: impl Fn(&mut GraphBuilder, &[usize]) -> Built) -> Graph {
    let mut b = GraphBuilder::new();
    let value = build(&mut b, shape).unwrap();
    b.output("it", value).unwrap();
    b.finish().unwrap()
}

/// What the evaluator says of run `run` with `seed`, the graph having no other inputs.
fn meant(graph: &Graph, seed: u64, run: u64) -> Vec<Tensor> {
    let key = Tensor::from_slice(DType::U32, [2], &run_key(seed, run)).unwrap();
    eval(graph, &vec![key; graph.inputs().len()]).unwrap()
}

fn session(graph: &Graph, device: &Device, options: Options) -> Session {
    Session::with_options(&Model::from_graph(graph.clone()), device, options).unwrap()
}

fn run(session: &Session) -> Vec<Tensor> {
    session.run(&[]).unwrap().into_iter().map(|it| it.1).collect()
}

fn devices() -> [Device; 3] {
    [Device::cpu(), gpu(), gpu().limited_to(&Target::webgpu_minimum())]
}

#[test]
fn every_device_makes_the_same_bits() {
    for (name, build) in EXACT {
        for shape in [&[][..], &[1], &[7, 33], &[2, 1, 131, 5], &[4096]] {
            let graph = built(shape, build);
            let want = [0, 1].map(|run| meant(&graph, 99, run));
            assert!(shape.is_empty() || shape == [1] || want[0] != want[1], "{name}: runs differ");
            for device in devices() {
                for options in [options(), Options { fuse: false, ..options() }] {
                    let session = session(&graph, &device, options);
                    session.set_seed(99);
                    for want in &want {
                        assert_eq!(&run(&session), want, "{name} {shape:?} on {}", device.name());
                    }
                }
            }
        }
    }
}

/// Within kernels of other kinds, behind views, and read in several places.
#[test]
fn fused_values_are_the_same() {
    let mut b = GraphBuilder::new();
    let noise = b.randn(DType::F32, [6, 40]).unwrap();
    let turned = b.transpose(noise, 0, 1).unwrap();
    let tail = b.slice(turned, 0, 3, 31).unwrap();
    let largest = b.max(tail, &[1], true).unwrap();
    let offset = b.sub(tail, largest).unwrap();
    let flat = b.reshape(offset, &[-1]).unwrap();
    b.output("flat", flat).unwrap();
    b.output("noise", noise).unwrap();
    let kept = b.dropout(noise, 0.5).unwrap();
    let largest = b.max(kept, &[0], false).unwrap();
    b.output("largest", largest).unwrap();
    let graph = b.finish().unwrap();
    let want = meant(&graph, 3, 0);
    for device in devices() {
        for options in [options(), Options { fuse: false, ..options() }] {
            let session = session(&graph, &device, options);
            session.set_seed(3);
            assert_eq!(run(&session), want, "{}", device.name());
        }
    }
}

#[test]
fn random_values_are_made_where_they_are_read() {
    let build = |b: &mut GraphBuilder, shape: &[usize]| {
        let x = b.input("x", DType::F32, shape)?;
        let noise = b.normal(DType::F32, shape, 0.0, 0.1)?;
        let sum = b.add(x, noise)?;
        let sum = b.relu(sum)?;
        b.dropout(sum, 0.1)
    };
    let graph = built(&[64, 100], build);
    for target in [Target::webgpu_minimum(), Target::cpu()] {
        let made = stages(graph.clone(), &target, &Options::default()).unwrap();
        assert_eq!(made.schedule.kernels.len(), 1, "{}", made.schedule);
        let text = made.schedule.to_string();
        let parsed = wgfuse_compiler::schedule::text::parse(&text).unwrap();
        assert_eq!(parsed.to_string(), text);
    }
    let text = graph.to_string();
    assert_eq!(wgfuse_compiler::graph::text::parse(&text).unwrap().to_string(), text);
}

#[test]
fn a_seed_repeats_runs_and_every_run_differs() {
    let graph = built(&[1000], |b, shape| {
        let (a, c) = (b.rand(DType::F32, shape)?, b.rand(DType::F32, shape)?);
        b.sub(a, c)
    });
    for device in devices() {
        let own = session(&graph, &device, options());
        let first: Vec<_> = (0..3).map(|_| run(&own)).collect();
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
        assert!(first[0][0].to_f64().iter().filter(|it| **it == 0.0).count() < 10, "the two ops differ");
        // Neither compiling, timing nor another session moves anything on.
        let other = session(&graph, &device, options());
        other.plan_for(&[]).unwrap();
        other.profile(&[]).unwrap();
        assert_eq!(run(&other), first[0], "the seed is 0 unless it is set");
        own.set_seed(0);
        assert_eq!((0..3).map(|_| run(&own)).collect::<Vec<_>>(), first);
        own.set_seed(1);
        assert!(run(&own) != first[0]);
    }
}

/// The key is the last input whatever the order of calls, and states keep their numbers.
#[test]
fn inputs_and_states_stand_beside_the_key() {
    let mut b = GraphBuilder::new();
    let noise = b.rand(DType::F32, [4]).unwrap();
    let total = b.state("total", DType::F32, [4]).unwrap();
    let x = b.input("x", DType::F32, [4]).unwrap();
    let sum = b.add(total, x).unwrap();
    let sum = b.add(sum, noise).unwrap();
    b.update(total, sum).unwrap();
    b.output("sum", sum).unwrap();
    let graph = b.finish().unwrap();
    let names: Vec<&str> = graph.inputs().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["total", "x", KEY]);
    let model = Model::from_graph(graph);
    assert_eq!(model.inputs.len(), 2);
    let mut all = Vec::new();
    for device in devices() {
        let session = Session::new(&model, &device).unwrap();
        let x = Tensor::f32([4], &[10.0; 4]).unwrap();
        let mut last = vec![0.0; 4];
        for _ in 0..3 {
            let sum = session.run(wgfuse::inputs! { "x" => x }).unwrap()["sum"].to_f64();
            assert!(sum.iter().zip(&last).all(|(sum, last)| (10.0..11.0).contains(&(sum - last))), "{sum:?}");
            last = sum;
        }
        all.push(last);
    }
    assert!(all.windows(2).all(|it| it[0] == it[1]));
    let mut b = GraphBuilder::new();
    assert!(b.input(KEY, DType::U32, [2]).unwrap_err().to_string().contains("random ops' key"));
    let model = Model::build(vec![], |b, _| Ok(vec![("it".into(), b.randn(DType::F32, [3])?)])).unwrap();
    assert_eq!(Session::new(&model, &Device::cpu()).unwrap().run(&[]).unwrap()[0].shape().count(), 3);
}

#[test]
fn mistakes_are_told() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 3]).unwrap();
    let key = b.input("key", DType::F32, [2]).unwrap();
    let told = |it: Built, what: &str| {
        let text = it.unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    };
    told(b.rand(DType::I32, [3]), "i32 is no float");
    told(b.uniform(DType::F32, [3], 2.0, 1.0), "is no range");
    told(b.uniform(DType::F32, [3], 0.0, f64::INFINITY), "is no range");
    told(b.normal(DType::F32, [3], 0.0, -1.0), "deviation -1");
    told(b.randint(DType::I32, [3], 5, 5), "from 5 to 5");
    told(b.randint(DType::I32, [3], 0, 1 << 32), "does not hold");
    told(b.dropout(x, 1.0), "a ratio of 1");
    told(b.multinomial(key, 4), "the logits are f32[2]");
    told(b.rand(DType::F32, [1 << 20, 1 << 20]), "elements");
    let op = wgfuse_compiler::graph::Op::Random { number: 0, shape: [3].into(), key };
    told(b.op(op), "the key is f32[2], not u32[2]");
}

/// Mean, variance and the largest distance between the distribution of `values` and `below`.
fn moments(values: &mut [f64], below: impl Fn(f64) -> f64) -> (f64, f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
    values.sort_by(f64::total_cmp);
    let far = |(at, it): (usize, &f64)| (below(*it) - (at as f64 + 0.5) / count).abs();
    (mean, variance, values.iter().enumerate().map(far).fold(0.0, f64::max))
}

/// Bounds are five deviations, of Kolmogorov's statistic a probability of 10^-6.
#[test]
fn distributions_are_what_they_say() {
    let count = 1 << 18;
    let root = (count as f64).sqrt();
    let session = |build: Build| session(&built(&[count], build), &gpu(), options());
    let values = |build: Build| run(&session(build))[0].to_f64();

    let (mean, variance, far) = moments(&mut values(|b, shape| b.rand(DType::F32, shape)), |it| it);
    assert!((mean - 0.5).abs() < 5.0 * 0.289 / root, "{mean}");
    assert!((variance - 1.0 / 12.0).abs() < 5.0 * 0.075 / root, "{variance}");
    assert!(far < 2.69 / root, "{far}");

    let (mean, variance, far) =
        moments(&mut values(|b, shape| b.normal(DType::F32, shape, 2.0, 3.0)), |it| {
            normal_below((it - 2.0) / 3.0)
        });
    assert!((mean - 2.0).abs() < 5.0 * 3.0 / root, "{mean}");
    assert!((variance - 9.0).abs() < 5.0 * 9.0 * 1.42 / root, "{variance}");
    assert!(far < 2.69 / root, "{far}");

    // Each bit, and each pair of neighbours' equal bits, is set half the time.
    let bits: Vec<u32> = values(|b, shape| b.random_bits(shape)).iter().map(|it| *it as u32).collect();
    for bit in 0..32 {
        let set = bits.iter().filter(|it| *it >> bit & 1 == 1).count() as f64;
        let equal = bits.windows(2).filter(|it| (it[0] ^ it[1]) >> bit & 1 == 0).count() as f64;
        for share in [set, equal] {
            assert!((share / count as f64 - 0.5).abs() < 5.0 * 0.5 / root, "bit {bit}: {share}");
        }
    }

    let dropped = values(|b, shape| {
        let ones = b.full(DType::F32, shape, 1.0)?;
        b.dropout(ones, 0.25)
    });
    let zeros = dropped.iter().filter(|it| **it == 0.0).count() as f64 / count as f64;
    assert!((zeros - 0.25).abs() < 5.0 * 0.433 / root, "{zeros}");
    assert!(dropped.iter().all(|it| *it == 0.0 || (it - 4.0 / 3.0).abs() < 1e-6));

    let dice = values(|b, shape| b.randint(DType::I32, shape, 1, 7));
    for face in 1..=6 {
        let share = dice.iter().filter(|it| **it == f64::from(face)).count() as f64 / count as f64;
        assert!((share - 1.0 / 6.0).abs() < 5.0 * 0.373 / root, "{face}: {share}");
    }
}

/// By the series of Abramowitz and Stegun 26.2.10, which converges everywhere.
fn normal_below(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / (2.0 * n as f64 + 1.0);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn multinomial_follows_softmax() {
    let samples = 20_000;
    let logits = [[0.0f32, 1.0, -1.0, f32::NEG_INFINITY], [5.0, 5.0, 5.0, 5.0]];
    let mut b = GraphBuilder::new();
    let x = b.constant(Tensor::f32([2, 4], logits.as_flattened()).unwrap());
    let it = b.multinomial(x, samples).unwrap();
    b.output("it", it).unwrap();
    let graph = b.finish().unwrap();
    let want = meant(&graph, 0, 0)[0].to_i64();
    for device in devices() {
        let made = run(&session(&graph, &device, options()))[0].to_i64();
        // Logarithms differ in the last place between devices, which may turn two of a million.
        let others = made.iter().zip(&want).filter(|(a, b)| a != b).count();
        assert!(others <= 4, "{others} of {}", made.len());
        for (row, logits) in logits.iter().enumerate() {
            let sum: f64 = logits.iter().map(|it| f64::from(*it).exp()).sum();
            for (class, logit) in logits.iter().enumerate() {
                let p = f64::from(*logit).exp() / sum;
                let row = &made[row * samples..(row + 1) * samples];
                let share = row.iter().filter(|it| **it == class as i64).count() as f64 / samples as f64;
                assert!(
                    (share - p).abs() <= 5.0 * (p * (1.0 - p) / samples as f64).sqrt(),
                    "{class}: {share} {p}"
                );
            }
        }
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|it| it.to_string()).collect();
    NodeProto {
        op_type: op.into(),
        input: owned(inputs),
        output: owned(outputs),
        attribute: attributes,
        ..Default::default()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: attribute::FLOAT, ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: attribute::INT, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: attribute::INTS, ..Default::default() }
}

fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&it| DimensionProto { dim_value: Some(it), ..Default::default() }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

/// x f32[40, 50] to the outputs, opset 22.
fn onnx(nodes: Vec<NodeProto>, outputs: &[&str]) -> Model {
    let scalar = |name: &str, data_type, raw_data: Vec<u8>| TensorProto {
        name: name.into(),
        data_type,
        raw_data: raw_data.into(),
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 22 }],
        graph: Some(GraphProto {
            node: nodes,
            initializer: vec![
                scalar("ratio", 1, 0.4f32.to_le_bytes().to_vec()),
                scalar("yes", 9, vec![1]),
                scalar("no", 9, vec![0]),
            ],
            input: vec![info("x", &[40, 50])],
            output: outputs.iter().map(|it| info(it, &[40, 50])).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Model::from_bytes(model.encode_to_vec()).unwrap()
}

#[test]
fn onnx_operators() {
    let nodes = vec![
        node(
            "RandomUniform",
            &[],
            &["u"],
            vec![ints("shape", &[40, 50]), float("low", 2.0), float("high", 5.0)],
        ),
        node(
            "RandomNormal",
            &[],
            &["n"],
            vec![ints("shape", &[40, 50]), float("mean", 7.0), float("scale", 0.5)],
        ),
        node("RandomUniformLike", &["x"], &["ul"], vec![]),
        node("RandomNormalLike", &["x"], &["nl"], vec![int("dtype", 10)]),
        node("Bernoulli", &["x"], &["b"], vec![]),
        node("Dropout", &["x", "ratio", "yes"], &["d", "kept"], vec![]),
        node("Dropout", &["x", "ratio", "no"], &["same", "all"], vec![]),
        node("Multinomial", &["x"], &["m"], vec![int("sample_size", 50), int("dtype", 7)]),
        node("RandomNormal", &[], &["fixed"], vec![ints("shape", &[40, 50]), float("seed", 4.5)]),
        node("RandomNormalLike", &["x"], &["fixed_too"], vec![float("seed", 4.5)]),
    ];
    let outputs = ["u", "n", "ul", "nl", "b", "d", "kept", "same", "all", "m", "fixed", "fixed_too"];
    let model = onnx(nodes, &outputs);
    assert_eq!(model.inputs.len(), 1);
    let x = Random::new(1).tensor(&wgfuse::compiler::shape::Type::new(DType::F32, [40, 50]), 1);
    let x = Tensor::f32([40, 50], &x.to_f64().iter().map(|it| it.abs() as f32).collect::<Vec<_>>()).unwrap();
    let mut first: Vec<Vec<Tensor>> = Vec::new();
    for device in devices() {
        let session = Session::with_options(&model, &device, options()).unwrap();
        session.set_seed(11);
        let given = wgfuse::inputs! { "x" => x };
        let runs = [session.run(given).unwrap(), session.run(given).unwrap()];
        let mean = |name: &str| {
            let all = runs[0][name].to_f64();
            all.iter().sum::<f64>() / all.len() as f64
        };
        assert!((mean("u") - 3.5).abs() < 0.1 && (mean("n") - 7.0).abs() < 0.06);
        assert!((mean("ul") - 0.5).abs() < 0.04 && mean("nl").abs() < 0.12);
        assert!((mean("b") - mean("same")).abs() < 0.06, "probabilities are x");
        assert!((mean("kept") - 0.6).abs() < 0.06 && mean("all") == 1.0);
        assert_eq!((runs[0]["nl"].dtype(), runs[0]["m"].dtype()), (DType::F16, DType::I64));
        assert_eq!(runs[0]["m"].shape(), &Shape::from([40, 50]));
        assert!(runs[0]["m"].to_i64().iter().all(|it| (0..50).contains(it)));
        assert_eq!(runs[0]["same"], x);
        let (d, kept) = (runs[0]["d"].to_f64(), runs[0]["kept"].to_f64());
        for ((d, kept), x) in d.iter().zip(kept).zip(x.to_f64()) {
            assert!((d - kept * x / 0.6).abs() < 1e-6);
        }
        for name in ["u", "n", "ul", "nl", "b", "d", "kept", "m"] {
            assert_ne!(runs[0][name], runs[1][name], "{name}");
        }
        assert_eq!(runs[0]["fixed"], runs[1]["fixed"]);
        assert_eq!(runs[0]["fixed"], runs[0]["fixed_too"], "a seed fixes the values alone");
        // Logarithms decide about `m`, the rest is exact.
        let exact = runs[0].iter().filter(|it| it.0 != "m").map(|it| it.1.clone()).collect();
        first.push(exact);
    }
    assert!(first.windows(2).all(|it| it[0] == it[1]));
}
