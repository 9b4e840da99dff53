//! Few long rows become two kernels; both together mean what the one did, on the device too.

use wgfuse_compiler::{
    codegen::emit,
    dtype::DType,
    graph::{builder::GraphBuilder, eval::eval},
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    scalar::{ReduceOp, Scalar},
    schedule::{Skeleton, eval::eval_kernel, schedule, verify::verify},
    shape::Type,
    target::Target,
    tensor::Tensor,
};
use wgfuse_tests::{
    gpu::gpu,
    kernel_case::{print_everywhere, run_and_compare},
    random::Random,
};

/// Reduces everything but the first axis of `shape` in every way; gives the number of kernels.
fn check(op: ReduceOp, dtype: DType, shape: [usize; 3], poison: Option<f64>, subgroups: bool) -> usize {
    let mut random = Random::new(7);
    let count: usize = shape.iter().product();
    let mut values: Vec<f64> = (0..count)
        .map(|_| match (op, dtype.is_float()) {
            // Close to 1, so that a product stays finite.
            (ReduceOp::Prod, true) => 1.0 + random.unit() * 1e-4,
            (_, true) => random.unit(),
            (_, false) => random.below(7) as f64 - 3.0,
        })
        .collect();
    if let Some(poison) = poison {
        values[count / 3] = poison;
    }
    let scalars = values.iter().map(|it| Scalar::of(dtype, *it));
    let input = Tensor::from_scalars(Type::new(dtype, shape), scalars);

    let mut graph = GraphBuilder::new();
    let x = graph.input("x", dtype, shape).expect("a new input");
    let doubled = graph.add(x, x).expect("one type");
    let of = if op == ReduceOp::Prod { x } else { doubled };
    let reduced = graph.reduce(op, of, &[1, 2], false).expect("axes of the input");
    let result = graph.relu(reduced).expect("a number");
    graph.output("y", result).expect("a new output");
    let graph = graph.finish().expect("a graph");

    let mut target = Target::webgpu_minimum();
    target.subgroup = gpu().subgroup.filter(|_| subgroups).map(|it| (it, it));
    let options = Options::default();
    let expected = eval(&graph, std::slice::from_ref(&input)).expect("it has a value");
    let graph = optimise(graph, &target, &options).expect("passes");
    let parts = split(&graph, &target, &options).expect("parts");
    let constants = eval(&parts.constants, &[]).expect("constants");
    let schedule = schedule(lower(&parts), &target, &options);
    assert_eq!(verify(&schedule, &target), Vec::<String>::new());
    let shaders = emit(&schedule, &target, &options).expect("shaders");
    // Both round after every one of the many factors.
    let tolerance = if op == ReduceOp::Prod { 5e-3 } else { 1e-4 };
    let mut memory = given(&schedule.tensors, &[input], &constants);
    for (kernel, shader) in schedule.kernels.iter().zip(&shaders) {
        let before = memory.clone();
        eval_kernel(kernel, &schedule.tensors, &mut memory);
        let shader = shader.as_ref().expect("it runs on the GPU");
        print_everywhere(shader);
        run_and_compare(shader, kernel, &schedule.tensors, &before, &memory, false, tolerance);
    }
    let found = &memory[schedule.outputs[0]];
    for (found, expected) in found.iter().zip(expected[0].to_f64()) {
        let found = found.as_f64();
        let near = found == expected || (found - expected).abs() <= 5e-3 * expected.abs().max(1.0);
        assert!(near || (found.is_nan() && expected.is_nan()), "{op:?} {dtype}: {found}, not {expected}");
    }
    let rows = schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Rows { .. }));
    rows.count()
}

#[test]
fn few_long_rows_are_reduced_in_pieces() {
    for op in ReduceOp::ALL.iter().copied() {
        for (number, dtype) in [DType::F32, DType::F16, DType::I32].into_iter().enumerate() {
            if op == ReduceOp::Prod && dtype != DType::F32 {
                continue;
            }
            assert_eq!(check(op, dtype, [3, 100, 400], None, number == 0), 2, "{op:?} {dtype}");
            // 37 and 1009 are prime: there are no good pieces.
            assert_eq!(check(op, dtype, [2, 37, 1009], None, true), 1, "{op:?} {dtype}");
        }
    }
}

#[test]
fn short_and_many_rows_stay_one() {
    assert_eq!(check(ReduceOp::Sum, DType::F32, [3, 10, 100], None, true), 1);
    assert_eq!(check(ReduceOp::Sum, DType::F32, [200, 16, 16], None, true), 1);
}

#[test]
fn nan_and_infinity_reach_the_end() {
    for op in [ReduceOp::Max, ReduceOp::Min, ReduceOp::Sum] {
        for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(check(op, DType::F32, [2, 128, 512], Some(poison), true), 2);
        }
    }
}
