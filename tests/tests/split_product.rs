//! Products of few results with long sums become two kernels; both together mean what the one did, on the device too.

use wgfuse_compiler::{
    codegen::emit,
    dtype::DType,
    graph::{Graph, builder::GraphBuilder, eval::eval},
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    schedule::{Schedule, Skeleton, Why, eval::eval_kernel, schedule, verify::verify},
    target::Target,
};
use wgfuse_tests::{
    kernel_case::{print_everywhere, run_and_compare},
    random::Random,
};

/// Compares every kernel of the graph's schedule, and all together, with what the graph means.
fn checked(graph: Graph, tolerance: f64, target: &Target, label: &str) -> Schedule {
    println!("{label}");
    let mut random = Random::new(3);
    let inputs: Vec<_> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 1)).collect();
    let options = Options::default();
    let expected = eval(&graph, &inputs).expect("it has a value");
    let graph = optimise(graph, target, &options).expect("passes");
    let parts = split(&graph, target, &options).expect("parts");
    let schedule = schedule(lower(&parts), target, &options);
    assert_eq!(verify(&schedule, target), Vec::<String>::new(), "{label}");
    let shaders = emit(&schedule, target, &options).expect("shaders");
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
    for (output, expected) in schedule.outputs.iter().zip(&expected) {
        for (at, (have, want)) in memory[*output].iter().zip(expected.scalars()).enumerate() {
            let (have, want) = (have.as_f64(), want.as_f64());
            let near = (have - want).abs() <= tolerance * want.abs().max(1.0);
            assert!(near, "{label}: element {at} is {have}, not {want}");
        }
    }
    schedule
}

/// A product with a bias, an activation and a residual. Gives how many kernels there are.
fn check(dtype: DType, [batch, rows, cols, depth]: [usize; 4], transposed: bool) -> usize {
    let label = format!("{dtype} {batch} {rows} {cols} {depth} {transposed}");
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
    let tolerance = if dtype == DType::F32 { 5e-4 } else { 2e-2 };
    let schedule = checked(b.finish().expect("a graph"), tolerance, &Target::webgpu_minimum(), &label);
    let products = schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Contract { .. }));
    assert_eq!(products.count(), 1, "{label}");
    schedule.kernels.len()
}

/// What reads the sum of a product and a residual beside the norm.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Beside {
    Nothing,
    /// Something after the norm, as where norms come first.
    Later,
    /// Something that the rows need.
    Before,
}

/// A product with a bias and a residual before a layer norm.
fn normed(dtype: DType, [batch, rows, cols, depth]: [usize; 4], beside: Beside, target: &Target) -> Schedule {
    let mut b = GraphBuilder::new();
    let x = b.input("x", dtype, [batch, rows, depth]).expect("an input");
    let w = b.input("w", dtype, [depth, cols]).expect("an input");
    let bias = b.input("bias", dtype, [cols]).expect("an input");
    let [scale, offset] = ["scale", "offset"].map(|it| b.input(it, dtype, [cols]).expect("an input"));
    let other = b.input("other", dtype, [batch, rows, cols]).expect("an input");
    let y = b.matmul(x, w).expect("a product");
    let y = b.add(y, bias).expect("broadcast");
    let sum = b.add(y, other).expect("of one shape");
    let z = b.layer_norm(sum, -1, Some(scale), Some(offset), 1e-5).expect("rows");
    match beside {
        Beside::Nothing => b.output("z", z).expect("an output"),
        Beside::Later => {
            let square = b.input("square", dtype, [cols, cols]).expect("an input");
            let more = b.matmul(z, square).expect("a product");
            let more = b.add(more, sum).expect("of one shape");
            b.output("more", more).expect("an output");
        }
        Beside::Before => {
            let square = b.input("square", dtype, [cols, cols]).expect("an input");
            let most = b.max(sum, &[1], true).expect("columns");
            let gate = b.matmul(most, square).expect("a product");
            let z = b.mul(z, gate).expect("broadcast");
            b.output("z", z).expect("an output");
        }
    }
    let label = format!("normed {dtype} {batch} {rows} {cols} {depth} {beside:?}");
    let tolerance = if dtype == DType::F32 { 5e-4 } else { 2e-2 };
    checked(b.finish().expect("a graph"), tolerance, target, &label)
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

/// The kernels of `schedule` that make rows, and how many tensors each writes.
fn rows(schedule: &Schedule) -> Vec<usize> {
    let rows = schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Rows { .. }));
    rows.map(|it| it.stores.len()).collect()
}

#[test]
fn rows_add_up_the_pieces_that_they_are_made_of() {
    let target = Target::webgpu_minimum();
    for (dtype, sizes) in
        [(DType::F32, [1, 9, 40, 1024]), (DType::F32, [2, 5, 33, 1152]), (DType::F16, [1, 10, 64, 2048])]
    {
        let schedule = normed(dtype, sizes, Beside::Nothing, &target);
        assert_eq!((schedule.kernels.len(), rows(&schedule)), (2, vec![1]), "{schedule}");
        assert!(schedule.kernels[1].origins.len() > 3, "{schedule}");
    }
}

/// Ragged sizes, and every kind of rows; the second kernel is never a map.
#[test]
fn rows_of_every_kind_add_up_pieces() {
    let mut random = Random::new(71);
    for number in 0..9 {
        let (rows, cols) = (5 + random.below(9), 8 + random.below(50));
        let depth = 1024 + 64 * random.below(9);
        let dtype = if number % 4 == 3 { DType::F16 } else { DType::F32 };
        let mut b = GraphBuilder::new();
        let x = b.input("x", dtype, [rows, depth]).expect("an input");
        let w = b.input("w", dtype, [cols, depth]).expect("an input");
        let y = b.linear(x, w, None).expect("a product");
        let z = match number % 3 {
            0 => b.layer_norm(y, -1, None, None, 1e-5),
            1 => b.rms_norm(y, -1, None, 1e-5),
            _ => b.softmax(y, -1),
        };
        let z = z.expect("rows");
        b.output("z", z).expect("an output");
        let label = format!("rows of kind {} {dtype} {rows} {cols} {depth}", number % 3);
        let tolerance = if dtype == DType::F32 { 1e-3 } else { 2e-2 };
        let schedule = checked(b.finish().expect("a graph"), tolerance, &Target::webgpu_minimum(), &label);
        assert_eq!((schedule.kernels.len(), self::rows(&schedule)), (2, vec![1]), "{label}: {schedule}");
        let Skeleton::Contract { space, .. } = &schedule.kernels[0].skeleton else { panic!("{schedule}") };
        assert!(space[0] > 1, "{label}: {schedule}");
    }
}

#[test]
fn rows_store_the_sum_that_others_read() {
    let schedule = normed(DType::F32, [1, 9, 40, 1024], Beside::Later, &Target::webgpu_minimum());
    assert_eq!(rows(&schedule), [2], "{schedule}");
    assert!(schedule.kernels.iter().all(|it| !matches!(it.skeleton, Skeleton::Map { .. })), "{schedule}");
}

#[test]
fn rows_that_wait_for_another_reader_of_the_sum_stay_apart() {
    let schedule = normed(DType::F32, [1, 9, 40, 1024], Beside::Before, &Target::webgpu_minimum());
    assert!(schedule.kernels.iter().any(|it| matches!(it.skeleton, Skeleton::Map { .. })), "{schedule}");
}

#[test]
fn rows_that_would_bind_too_much_stay_apart_and_say_so() {
    let target = Target { max_storage_buffers: 5, ..Target::webgpu_minimum() };
    let schedule = normed(DType::F32, [1, 9, 40, 1024], Beside::Nothing, &target);
    assert_eq!(schedule.kernels.len(), 3, "{schedule}");
    assert!(schedule.refusals.iter().any(|it| it.why == Why::Bindings(6)), "{schedule}");
}
