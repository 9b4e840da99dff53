//! Kernels that the scheduler makes of random graphs and of models: each on the device against what the schedule means, and
//! the same modules every time.

use std::collections::BTreeSet;

use wgfuse_compiler::{
    codegen::emit,
    lower::{eval::given, lower},
    options::Options,
    partition::split,
    passes::optimise,
    schedule::{eval::eval_kernel, schedule, verify::verify},
    target::{Place, Target},
};
use wgfuse_tests::{
    gpu::gpu,
    kernel_case::{print_everywhere, run_and_compare},
    random_graph::random_graph,
    zoo::load,
};

#[test]
fn random_kernels_agree_with_their_schedule() {
    for seed in 0..40 {
        let mut target = Target { components_apart: seed % 4 > 1, ..Target::webgpu_minimum() };
        if seed % 2 == 1 {
            target.subgroup = gpu().subgroup.map(|it| (it, it));
        }
        let options = Options { fuse: seed % 3 != 0, ..Options::default() };
        let (graph, inputs) = random_graph(seed);
        let graph = optimise(graph, &target, &options).unwrap_or_else(|it| panic!("seed {seed}: {it}"));
        let parts = split(&graph, &target, &options).unwrap_or_else(|it| panic!("seed {seed}: {it}"));
        let constants = wgfuse_compiler::graph::eval::eval(&parts.constants, &[])
            .unwrap_or_else(|it| panic!("seed {seed}: {it}"));
        let schedule = schedule(lower(&parts), &target, &options);
        assert!(verify(&schedule, &target).is_empty(), "seed {seed}");
        let shaders = emit(&schedule, &target, &options).unwrap_or_else(|it| panic!("seed {seed}: {it}"));
        let mut memory = given(&schedule.tensors, &inputs, &constants);
        for (kernel, shader) in schedule.kernels.iter().zip(&shaders) {
            let before = memory.clone();
            eval_kernel(kernel, &schedule.tensors, &mut memory);
            assert_eq!(kernel.place == Place::Gpu, shader.is_some(), "seed {seed}");
            let Some(shader) = shader else { continue };
            println!("seed {seed}, {}", kernel.name);
            print_everywhere(shader);
            run_and_compare(shader, kernel, &schedule.tensors, &before, &memory, false, 2e-4);
        }
    }
}

#[test]
fn kernels_of_the_models_are_valid_and_few() {
    let target = Target::webgpu_minimum();
    let options = Options::default();
    for name in ["bert_tiny", "gpt2_tiny", "mobilenetv3_small_050", "test_convnext"] {
        let case = load(name).unwrap_or_else(|it| panic!("{name}: {it:#}"));
        let shapes: Vec<_> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        let graph = case.model.graph(&shapes).unwrap_or_else(|it| panic!("{name}: {it}"));
        let graph = optimise(graph, &target, &options).unwrap_or_else(|it| panic!("{name}: {it}"));
        let parts = split(&graph, &target, &options).unwrap_or_else(|it| panic!("{name}: {it}"));
        let schedule = schedule(lower(&parts), &target, &options);
        let start = std::time::Instant::now();
        let shaders = emit(&schedule, &target, &options).unwrap_or_else(|it| panic!("{name}: {it}"));
        let first = start.elapsed();
        let again = emit(&schedule, &target, &options).unwrap_or_else(|it| panic!("{name}: {it}"));
        let second = start.elapsed() - first;
        let keys: BTreeSet<u128> = shaders.iter().flatten().map(|it| it.key).collect();
        println!("{name}: {} kernels, {} modules, {first:?}, then {second:?}", shaders.len(), keys.len());
        for (shader, again) in shaders.iter().zip(&again) {
            assert_eq!(shader.as_ref().map(|it| it.key), again.as_ref().map(|it| it.key), "{name}");
            shader.iter().for_each(print_everywhere);
        }
        assert!(keys.len() <= schedule.kernels.len());
    }
}
