//! Attention of few queries over many keys becomes two kernels; both together mean what the one did, on the device too.

use wgfuse_compiler::{
    codegen::emit,
    graph::{eval::eval, text::parse},
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    schedule::{Skeleton, eval::eval_kernel, schedule, verify::verify},
    target::Target,
    tensor::Tensor,
};
use wgfuse_tests::{
    kernel_case::{print_everywhere, run_and_compare},
    random::Random,
};

/// Which keys are hidden.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mask {
    None,
    Causal,
    /// From the first query all, from the others all but the first 40.
    Infinite,
}

/// `heads` of queries, `groups` of keys and values. Gives the number of kernels.
fn check([heads, groups, queries, keys]: [usize; 4], mask: Mask, zero_masked: bool) -> usize {
    let given_mask = mask == Mask::Infinite;
    let (causal, operand) = (mask == Mask::Causal, if given_mask { " %3" } else { "" });
    let table = format!("f32[{queries},{keys}]");
    let text = format!(
        "input \"q\" : f32[2,{heads},{queries},8]\ninput \"k\" : f32[2,{groups},{keys},8]\n\
         input \"v\" : f32[2,{groups},{keys},12]\n{}\
         %0 = input 0 : f32[2,{heads},{queries},8]\n%1 = input 1 : f32[2,{groups},{keys},8]\n\
         %2 = input 2 : f32[2,{groups},{keys},12]\n{}\
         %4 = attention %0 %1 %2{operand} scale=0.5{}{} : f32[2,{heads},{queries},12] \"y\"\n\
         %5 = relu %4 : f32[2,{heads},{queries},12] \"z\"\noutput \"z\" = %5\n",
        if given_mask { format!("input \"mask\" : {table}\n") } else { String::new() },
        if given_mask { format!("%3 = input 3 : {table}\n") } else { String::new() },
        if causal { " causal=true" } else { "" },
        if zero_masked { " zero_masked=true" } else { "" },
    );
    let text = if given_mask { text } else { text.replace("%4", "%3").replace("%5", "%4") };
    let graph = parse(&text).unwrap_or_else(|it| panic!("{it}\n{text}"));
    let mut random = Random::new(5);
    let mut inputs: Vec<Tensor> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 2)).collect();
    if given_mask {
        let hidden = |at: usize| at < keys || at % keys >= 40;
        let values: Vec<f32> = (0..queries * keys)
            .map(|at| if hidden(at) { f32::NEG_INFINITY } else { (at % 3) as f32 })
            .collect();
        inputs[3] = Tensor::f32([queries, keys], &values).expect("as many as there are");
    }
    let label = format!("{heads} {groups} {queries} {keys} {mask:?} {zero_masked}");
    let target = Target::webgpu_minimum();
    let options = Options::default();
    let expected = eval(&graph, &inputs).expect("it has a value");
    let graph = optimise(graph, &target, &options).expect("passes");
    let parts = split(&graph, &target, &options).expect("parts");
    let constants = eval(&parts.constants, &[]).expect("constants");
    let schedule = schedule(lower(&parts), &target, &options);
    assert_eq!(verify(&schedule, &target), Vec::<String>::new(), "{label}");
    let shaders = emit(&schedule, &target, &options).expect("shaders");
    let mut memory = given(&schedule.tensors, &inputs, &constants);
    for (kernel, shader) in schedule.kernels.iter().zip(&shaders) {
        let before = memory.clone();
        eval_kernel(kernel, &schedule.tensors, &mut memory);
        let shader = shader.as_ref().expect("it runs on the GPU");
        print_everywhere(shader);
        for checked in [false, true] {
            run_and_compare(shader, kernel, &schedule.tensors, &before, &memory, checked, 1e-4);
        }
    }
    let found = &memory[schedule.outputs[0]];
    for (at, (have, want)) in found.iter().zip(expected[0].scalars()).enumerate() {
        let (have, want) = (have.as_f64(), want.as_f64());
        let same = (have.is_nan() && want.is_nan()) || (have - want).abs() <= 1e-4;
        assert!(same, "{label}: element {at} is {have}, not {want}");
    }
    let attention =
        schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Attention { .. })).count();
    assert_eq!(attention, 1, "{label}");
    schedule.kernels.len()
}

#[test]
fn many_keys_are_attended_to_in_pieces() {
    for keys in [512, 513, 640] {
        for (mask, zero_masked) in
            [(Mask::None, false), (Mask::Causal, false), (Mask::Infinite, false), (Mask::Infinite, true)]
        {
            assert_eq!(check([4, 2, 4, keys], mask, zero_masked), 2);
            assert_eq!(check([2, 2, 3, keys], mask, zero_masked), 2);
        }
    }
}

/// Where a workgroup holds a row's scores and gets through its keys in few steps.
#[test]
fn one_query_is_one_kernel() {
    for keys in [128, 300, 513, 1024] {
        for (mask, zero_masked) in
            [(Mask::None, false), (Mask::Causal, false), (Mask::Infinite, false), (Mask::Infinite, true)]
        {
            assert_eq!(check([4, 2, 1, keys], mask, zero_masked), 1);
            assert_eq!(check([2, 2, 2, keys], mask, zero_masked), 1);
        }
    }
    assert_eq!(check([4, 2, 1, 4096], Mask::None, false), 2);
}

#[test]
fn few_keys_or_many_queries_are_one_kernel() {
    assert_eq!(check([4, 2, 1, 511], Mask::None, false), 1);
    assert_eq!(check([4, 4, 65, 512], Mask::Causal, false), 1);
}
