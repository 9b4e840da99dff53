//! Products of few results with long sums become two kernels; both together mean what the one did, on the device too.

use wgfuse_compiler::{
    codegen::emit,
    dtype::DType,
    graph::{builder::GraphBuilder, eval::eval},
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    schedule::{Skeleton, eval::eval_kernel, schedule, verify::verify},
    target::Target,
};
use wgfuse_tests::{
    kernel_case::{print_everywhere, run_and_compare},
    random::Random,
};

/// A product with a bias, an activation and a residual. Gives how many kernels there are.
fn check(dtype: DType, [batch, rows, cols, depth]: [usize; 4], transposed: bool) -> usize {
    let label = format!("{dtype} {batch} {rows} {cols} {depth} {transposed}");
    println!("{label}");
    let mut b = GraphBuilder::new();
    let x = b.input("x", dtype, [batch, rows, depth]).expect("an input");
    let shape = if transposed { [batch, cols, depth] } else { [batch, depth, cols] };
    let w = b.input("w", dtype, shape).expect("an input");
    let bias = b.input("bias", dtype, [cols]).expect("an input");
    let other = b.input("other", dtype, [batch, rows, cols]).expect("an input");
    let w = if transposed { b.transpose(w, 1, 2).expect("three axes") } else { w };
    let y = b.matmul(x, w).expect("a product");
    let y = b.add(y, bias).expect("broadcast");
    let y = b.relu(y).expect("a number");
    let y = b.add(y, other).expect("of one shape");
    b.output("y", y).expect("an output");
    let graph = b.finish().expect("a graph");
    let mut random = Random::new(3);
    let inputs: Vec<_> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 1)).collect();
    let (target, options) = (Target::webgpu_minimum(), Options::default());
    let expected = eval(&graph, &inputs).expect("it has a value");
    let graph = optimise(graph, &target, &options).expect("passes");
    let parts = split(&graph, &target, &options).expect("parts");
    let schedule = schedule(lower(&parts), &target, &options);
    assert_eq!(verify(&schedule, &target), Vec::<String>::new(), "{label}");
    let shaders = emit(&schedule, &target, &options).expect("shaders");
    let tolerance = if dtype == DType::F32 { 5e-4 } else { 2e-2 };
    let mut memory = given(&schedule.tensors, &inputs, &[]);
    for (kernel, shader) in schedule.kernels.iter().zip(&shaders) {
        let before = memory.clone();
        eval_kernel(kernel, &schedule.tensors, &mut memory);
        let shader = shader.as_ref().expect("it runs on the GPU");
        print_everywhere(shader);
        for checked in [false, true] {
            run_and_compare(shader, kernel, &schedule.tensors, &before, &memory, checked, tolerance);
        }
    }
    let found = &memory[schedule.outputs[0]];
    for (at, (have, want)) in found.iter().zip(expected[0].scalars()).enumerate() {
        let (have, want) = (have.as_f64(), want.as_f64());
        let near = (have - want).abs() <= tolerance * want.abs().max(1.0);
        assert!(near, "{label}: element {at} is {have}, not {want}");
    }
    let products = schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Contract { .. }));
    assert_eq!(products.count(), 1, "{label}");
    schedule.kernels.len()
}

#[test]
fn long_sums_of_few_results_are_two_kernels() {
    for transposed in [false, true] {
        assert_eq!(check(DType::F32, [1, 9, 20, 1024], transposed), 2);
        assert_eq!(check(DType::F32, [2, 11, 13, 1152], transposed), 2);
        assert_eq!(check(DType::F16, [1, 10, 32, 2048], transposed), 2);
    }
}

#[test]
fn others_stay_one() {
    // Short, and of no whole pieces.
    assert_eq!(check(DType::F32, [1, 9, 20, 256], false), 1);
    assert_eq!(check(DType::F32, [1, 9, 20, 1031], false), 1);
}
