//! Products of one input that are one kernel, on every device: their values, and that of each only its slice is read.

use wgfuse::{
    DType, Device, Model, Options, Session, Shape, Target, Tensor, Type,
    compiler::{
        error::Error,
        graph::{
            Graph, Value,
            builder::{Geometry, GraphBuilder},
            eval::eval,
        },
    },
};
use wgfuse_tests::{compare::assert_close, device::gpu, random::Random};

type Build<'a> = &'a dyn Fn(&mut GraphBuilder) -> Result<Value, Error>;

/// The graph's values on the processor, on the GPU, on it with every check, and within WebGPU's least, in so many kernels.
fn check(what: &str, kernels: usize, build: Build) {
    let mut b = GraphBuilder::new();
    let y = build(&mut b).unwrap();
    b.output("y", y).unwrap();
    let graph: Graph = b.finish().unwrap();
    let mut random = Random::new(5);
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 2)).collect();
    let names: Vec<String> = graph.inputs().iter().map(|it| it.name.clone()).collect();
    let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
    let expected = eval(&graph, &inputs).unwrap();
    let model = Model::from_graph(graph);
    let checked = Options { checked: true, ..Options::default() };
    let least = gpu().limited_to(&Target::webgpu_minimum());
    let ways = [
        ("processor", Device::cpu(), Options::default()),
        ("gpu", gpu(), Options::default()),
        ("gpu, checked", gpu(), checked.clone()),
        ("least gpu", least.clone(), Options::default()),
        ("least gpu, checked", least, checked),
    ];
    for (way, device, options) in ways {
        let session = Session::with_options(&model, &device, options).unwrap();
        let given: Vec<(&str, Tensor)> =
            names.iter().map(String::as_str).zip(inputs.iter().cloned()).collect();
        let outputs = session.run(&given).unwrap();
        let found: Vec<Tensor> = outputs.iter().map(|it| it.1.clone()).collect();
        assert_close(&format!("{what}, {way}"), &found, &expected, 1e-4, 1e-5);
        let plan = session.plan_for(&shapes).unwrap();
        assert_eq!(plan.kernels.len(), kernels, "{what}, {way}");
    }
}

fn weight(b: &mut GraphBuilder, seed: usize, shape: &[usize]) -> Value {
    let tensor = Random::new(seed as u64).tensor(&Type::new(DType::F32, shape), 1);
    b.constant(tensor)
}

#[test]
fn projections_feed_attention() {
    for (heads, groups, biased) in [(2, 2, true), (6, 3, false), (4, 1, true)] {
        for (batch, length) in [(1, 1), (1, 37), (3, 8)] {
            let what = format!("{heads} heads, {groups} groups, bias {biased}, {batch}x{length}");
            check(&what, 2, &|b| {
                let x = b.input("x", DType::F32, [batch, length, 40])?;
                let mut parts = Vec::new();
                for (seed, count) in [heads, groups, groups].into_iter().enumerate() {
                    let w = weight(b, seed, &[count * 12, 40]);
                    let bias = biased.then(|| weight(b, 7 + seed, &[count * 12]));
                    let y = b.linear(x, w, bias)?;
                    let y = b.reshape(y, &[batch as isize, length as isize, count as isize, 12])?;
                    parts.push(b.permute(y, &[0, 2, 1, 3])?);
                }
                b.attention(parts[0], parts[1], parts[2], None, true)
            });
        }
    }
}

#[test]
fn branches_of_convolutions_are_joined() {
    for (kernel, stride) in [(1, 1), (1, 2), (3, 1)] {
        check(&format!("{kernel}x{kernel} by {stride}"), 2, &|b| {
            let x = b.input("x", DType::F32, [2, 6, 9, 11])?;
            let mut all = Vec::new();
            for seed in 0..3 {
                let (w, bias) =
                    (weight(b, seed, &[3 + seed, 6, kernel, kernel]), weight(b, 9 + seed, &[3 + seed]));
                let geometry = Geometry { stride, padding: kernel / 2, ..Geometry::default() };
                let y = b.conv2d(x, w, Some(bias), geometry)?;
                all.push(b.silu(y)?);
            }
            let y = b.concat(&[all[2], all[0], all[1]], 1)?;
            b.softmax(y, 1)
        });
    }
}
