//! Convolutions of every kind in chains whose images change the order of their axes, on the device and by the evaluators.

use wgfuse_compiler::{
    codegen::emit,
    dtype::DType,
    graph::{
        Op, PoolKind, Value, Window,
        builder::{Geometry, GraphBuilder},
        eval::eval,
    },
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    schedule::{Kernel, Schedule, Skeleton, eval::eval_kernel, schedule, verify::verify},
    shape::Type,
    target::Target,
};
use wgfuse_tests::{kernel_case::run_and_compare, random::Random};

/// A graph of one image `[2, channels, 9, 11]`, from what `build` makes of it. Gives the schedule.
fn check(
    label: &str,
    dtype: DType,
    channels: usize,
    build: impl Fn(&mut GraphBuilder, &mut Weights, Value) -> Value,
) -> Schedule {
    println!("{label}");
    let mut builder = GraphBuilder::new();
    let mut weights = Weights { random: Random::new(11), dtype };
    let image = builder.input("image", dtype, [2, channels, 9, 11]).expect("an input");
    let made = build(&mut builder, &mut weights, image);
    builder.output("y", made).expect("an output");
    let graph = builder.finish().expect("a graph");
    let inputs = [Random::new(5).tensor(&graph.inputs()[0].ty, 1)];
    let (target, options) = (Target::webgpu_minimum(), Options::default());
    let expected = eval(&graph, &inputs).expect("it has a value");
    let graph = optimise(graph, &target, &options).expect("passes");
    let parts = split(&graph, &target, &options).expect("parts");
    let constants = eval(&parts.constants, &[]).expect("constants");
    let schedule = schedule(lower(&parts), &target, &options);
    assert_eq!(verify(&schedule, &target), Vec::<String>::new(), "{label}");
    let shaders = emit(&schedule, &target, &options).expect("shaders");
    let tolerance = if dtype == DType::F32 { 1e-4 } else { 2e-2 };
    let mut memory = given(&schedule.tensors, &inputs, &constants);
    for (kernel, shader) in schedule.kernels.iter().zip(&shaders) {
        let before = memory.clone();
        eval_kernel(kernel, &schedule.tensors, &mut memory);
        let shader = shader.as_ref().expect("it runs on the GPU");
        run_and_compare(shader, kernel, &schedule.tensors, &before, &memory, false, tolerance);
    }
    let found = &memory[schedule.outputs[0]];
    for (at, (have, want)) in found.iter().zip(expected[0].scalars()).enumerate() {
        let (have, want) = (have.as_f64(), want.as_f64());
        let near = (have - want).abs() <= tolerance * want.abs().max(1.0);
        assert!(near, "{label}: element {at} is {have}, not {want}\n{schedule}");
    }
    schedule
}

struct Weights {
    random: Random,
    dtype: DType,
}

impl Weights {
    fn of(&mut self, b: &mut GraphBuilder, shape: &[usize]) -> Value {
        b.constant(self.random.tensor(&Type::new(self.dtype, shape), 1))
    }
}

/// Whether some tensor between kernels has its channels last.
fn channels_last(schedule: &Schedule, channels: usize) -> bool {
    schedule.kernels.iter().any(|kernel| {
        let shape = &schedule.tensors[kernel.stores[0].tensor].ty.shape;
        shape.rank() == 4 && shape[3] == channels && !schedule.outputs.contains(&kernel.stores[0].tensor)
    })
}

/// A convolution without a window before and after one with: every stride, padding, dilation and number of groups.
#[test]
fn windows_of_every_kind() {
    for dtype in [DType::F32, DType::F16] {
        for (channels, groups, stride, padding, dilation, kernel) in [
            (8, 1, 1, 1, 1, [3, 3]),
            (8, 1, 2, 1, 1, [3, 3]),
            (16, 1, 1, 2, 2, [3, 2]),
            (8, 2, 1, 1, 1, [3, 3]),
            (16, 4, 2, 0, 1, [2, 3]),
            (8, 8, 1, 1, 1, [3, 3]),
            (6, 1, 1, 1, 1, [3, 3]),
            (6, 3, 1, 1, 1, [3, 1]),
            (20, 1, 3, 0, 1, [3, 3]),
        ] {
            let label = format!("{dtype} {channels} / {groups}, {stride} {padding} {dilation} {kernel:?}");
            let schedule = check(&label, dtype, 3, |b, weights, x| {
                let w = weights.of(b, &[channels, 3, 1, 1]);
                let x = b.conv2d(x, w, None, Geometry::default()).expect("a convolution");
                let x = b.relu(x).expect("a number");
                let w = weights.of(b, &[channels, channels / groups, kernel[0], kernel[1]]);
                let bias = weights.of(b, &[channels]);
                let geometry = Geometry { stride, padding, dilation, groups };
                let y = b.conv2d(x, w, Some(bias), geometry).expect("a convolution");
                let y = b.relu(y).expect("a number");
                let w = weights.of(b, &[12, channels, 1, 1]);
                b.conv2d(y, w, None, Geometry::default()).expect("a convolution")
            });
            let vectors = (channels / groups).is_multiple_of(4);
            assert_eq!(channels_last(&schedule, channels), vectors, "{label}\n{schedule}");
        }
    }
}

/// A residual block between pools, whose sum is read by a mean: no kernel more than convolutions and pools.
#[test]
fn chains_stay_fused() {
    let schedule = check("residual", DType::F32, 3, |b, weights, x| {
        let three = Geometry { padding: 1, ..Geometry::default() };
        let w = weights.of(b, &[8, 3, 3, 3]);
        let x = b.conv2d(x, w, None, three).expect("a convolution");
        let x = b.relu(x).expect("a number");
        let x = b.max_pool(x, &[3, 3], Geometry { stride: 2, ..three }).expect("a pool");
        let w = weights.of(b, &[16, 8, 3, 3]);
        let y = b.conv2d(x, w, None, three).expect("a convolution");
        let y = b.relu(y).expect("a number");
        let w = weights.of(b, &[8, 16, 1, 1]);
        let y = b.conv2d(y, w, None, Geometry::default()).expect("a convolution");
        let sum = b.add(y, x).expect("of one shape");
        let sum = b.relu(sum).expect("a number");
        b.mean(sum, &[2, 3], false).expect("a mean")
    });
    assert_eq!(schedule.kernels.len(), 5, "{schedule}");
    assert!(channels_last(&schedule, 8) && channels_last(&schedule, 16), "{schedule}");
}

/// Windows that reach further on one side, an average that counts what is inside, and a transposed convolution.
#[test]
fn other_windows() {
    for channels in [8, 12] {
        check(&format!("lopsided {channels}"), DType::F32, channels, |b, weights, x| {
            let x = b.relu(x).expect("a number");
            let w = weights.of(b, &[channels, channels, 1, 1]);
            let x = b.conv2d(x, w, None, Geometry::default()).expect("a convolution");
            let window = Window {
                before: [2, 0].into_iter().collect(),
                after: [0, 1].into_iter().collect(),
                strides: [1, 2].into_iter().collect(),
                ..Window::unit(2)
            };
            let w = weights.of(b, &[8, channels, 3, 2]);
            let y = Op::Conv { window: window.clone().into(), groups: 1, x, w, bias: None };
            let y = b.op(y).expect("a convolution");
            let kind = PoolKind::Average { count_padding: false };
            let shape = b.ty(y).expect("typed").shape.clone();
            let window = Window { strides: [1, 1].into_iter().collect(), ..window };
            let output = [shape[2], shape[3]].into();
            let y = b.op(Op::Pool { kind, window: window.into(), kernel: [3, 2].into(), output, x: y });
            let y = y.expect("a pool");
            let doubled = Window { strides: [2, 2].into_iter().collect(), ..Window::unit(2) };
            let shape = b.ty(y).expect("typed").shape.clone();
            let w = weights.of(b, &[8, 4, 2, 2]);
            let output = [2 * shape[2], 2 * shape[3]].into();
            let up = Op::ConvTranspose { window: doubled.into(), groups: 1, output, x: y, w, bias: None };
            b.op(up).expect("a transposed convolution")
        });
    }
}

/// The same image as rows of a matrix and in a convolution.
#[test]
fn images_that_matrices_read_too() {
    check("both", DType::F32, 4, |b, weights, x| {
        let three = Geometry { padding: 1, ..Geometry::default() };
        let w = weights.of(b, &[8, 4, 3, 3]);
        let x = b.conv2d(x, w, None, three).expect("a convolution");
        let w = weights.of(b, &[8, 8, 3, 3]);
        let y = b.conv2d(x, w, None, three).expect("a convolution");
        let rows = b.reshape(x, &[2, 8, 99]).expect("as many");
        let turned = b.transpose(rows, 1, 2).expect("two axes");
        let square = b.matmul(rows, turned).expect("a product");
        let sums = b.softmax(square, -1).expect("a softmax");
        let back = b.matmul(sums, rows).expect("a product");
        let back = b.reshape(back, &[2, 8, 9, 11]).expect("as many");
        b.add(y, back).expect("of one shape")
    });
}

/// Pools between convolutions read their windows as vectors of channels, a term an element; pools of images whose rows lie
/// innermost, and of large windows, are reductions.
#[test]
fn small_pools_of_channels_are_maps() {
    let three = Geometry { padding: 1, ..Geometry::default() };
    for dtype in [DType::F32, DType::F16] {
        for (max, kernel, stride, padding, written_out) in [
            (true, [3, 3], 2, 1, true),
            (true, [2, 5], 1, 0, true),
            (false, [3, 3], 2, 1, true),
            (false, [2, 2], 2, 0, true),
            (true, [5, 5], 1, 2, false),
        ] {
            let label = format!("pool {dtype} {max} {kernel:?} {stride} {padding}");
            let schedule = check(&label, dtype, 3, |b, weights, x| {
                let w = weights.of(b, &[8, 3, 3, 3]);
                let x = b.conv2d(x, w, None, three).expect("a convolution");
                let geometry = Geometry { stride, padding, ..Geometry::default() };
                let x = match max {
                    true => b.max_pool(x, &kernel, geometry).expect("a pool"),
                    false => b.avg_pool(x, &kernel, geometry).expect("a pool"),
                };
                let w = weights.of(b, &[8, 8, 3, 3]);
                b.conv2d(x, w, None, three).expect("a convolution")
            });
            let pools =
                schedule.kernels.iter().filter(|it| !matches!(it.skeleton, Skeleton::Contract { .. }));
            let vectors: Vec<bool> =
                pools.map(|it| matches!(it.skeleton, Skeleton::Map { lanes, .. } if lanes > 1)).collect();
            assert_eq!(vectors, [written_out], "{label}\n{schedule}");
        }
        let schedule = check("pool alone", dtype, 8, |b, _, x| {
            b.max_pool(x, &[3, 3], Geometry { stride: 2, ..three }).expect("a pool")
        });
        assert!(
            matches!(schedule.kernels[..], [Kernel { skeleton: Skeleton::Rows { .. }, .. }]),
            "{schedule}"
        );
    }
}

/// An image of three channels gets a fourth where products of f16 run on cooperative matrices, and only there; the schedule means
/// what the graph means.
#[test]
fn images_of_few_channels_are_widened() {
    let mut target = Target::webgpu_minimum();
    target.subgroup = Some((32, 32));
    target.f16 = true;
    let with = Target { cooperative: vec![[16, 16, 16]], max_workgroup_memory: 49152, ..target.clone() };
    for (dtype, target, size, window, wider) in [
        (DType::F16, &with, 256, [1, 2], true),
        (DType::F16, &with, 256, [2, 3], true),
        (DType::F32, &with, 256, [1, 2], false),
        (DType::F16, &target, 256, [1, 2], false),
        (DType::F16, &with, 128, [1, 2], false),
        (DType::F16, &with, 256, [1, 4], false),
    ] {
        let mut b = GraphBuilder::new();
        let mut weights = Weights { random: Random::new(3), dtype };
        let x = b.input("image", dtype, [1, 3, size, size]).expect("an input");
        let w = weights.of(&mut b, &[4, 3, window[0], window[1]]);
        let geometry = Geometry { padding: 1, ..Geometry::default() };
        let y = b.conv2d(x, w, None, geometry).expect("a convolution");
        let y = b.relu(y).expect("a number");
        b.output("y", y).expect("an output");
        let graph = b.finish().expect("a graph");
        let options = Options::default();
        let inputs = [Random::new(5).tensor(&graph.inputs()[0].ty, 1)];
        let parts = split(&optimise(graph.clone(), target, &options).expect("passes"), target, &options)
            .expect("parts");
        let constants = eval(&parts.constants, &[]).expect("constants");
        let schedule = schedule(lower(&parts), target, &options);
        let widened = schedule.tensors.values().any(|it| it.ty.shape[..] == [1, size, size, 4]);
        assert_eq!(widened, wider, "{dtype} {size} {window:?}\n{schedule}");
        assert_eq!(schedule.kernels.len(), 1 + usize::from(wider), "{schedule}");
        // The evaluators are slow: once says it.
        if window != [1, 2] || !wider {
            continue;
        }
        let expected = eval(&graph, &inputs).expect("it has a value");
        let mut memory = given(&schedule.tensors, &inputs, &constants);
        for kernel in &schedule.kernels {
            eval_kernel(kernel, &schedule.tensors, &mut memory);
        }
        let have = memory[schedule.outputs[0]].iter().map(|it| it.as_f64());
        for (at, (have, want)) in have.zip(expected[0].to_f64()).enumerate() {
            assert!((have - want).abs() <= 1e-2 * want.abs().max(1.0), "element {at} is {have}, not {want}");
        }
    }
}
