//! The zoo through passes and partition: what is left to compute, that the values stay, and that all of it runs on a GPU.

use std::collections::BTreeMap;

use wgfuse_compiler::{
    graph::{Graph, Op, eval::eval},
    options::Options,
    partition, passes,
    target::{Place, Target},
};
use wgfuse_tests::zoo::{self, beyond};

/// How often each op is computed from the inputs, without views.
fn counts(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let view = matches!(
            node.op,
            Op::Input { .. }
                | Op::Constant(_)
                | Op::Reshape { .. }
                | Op::Permute { .. }
                | Op::Expand { .. }
                | Op::Slice { .. }
        );
        if !view {
            *counts.entry(node.op.name()).or_insert(0) += 1;
        }
    }
    counts
}

fn check(name: &str, wanted: &str) {
    let case = zoo::load(name).unwrap();
    let shapes: Vec<_> = case.inputs.iter().map(|it| it.shape().clone()).collect();
    let graph = case.model.graph(&shapes).unwrap();
    let target = Target::webgpu_minimum();
    let options = Options::default();
    let better = passes::optimise(graph.clone(), &target, &options).unwrap();
    let parts = partition::split(&better, &target, &options).unwrap();
    let left: Vec<String> = counts(&parts.graph).iter().map(|(op, count)| format!("{op} {count}")).collect();

    let constants = eval(&parts.constants, &[]).unwrap();
    let old = eval(&graph, &case.inputs).unwrap();
    let new = eval(&parts.graph, &[&case.inputs[..], &constants].concat()).unwrap();
    for ((old, new), expected) in old.iter().zip(&new).zip(&case.expected) {
        assert_eq!(beyond(new, old, 1e-4, 1e-4), None, "{name} against the graph as imported");
        assert_eq!(beyond(new, expected, 1e-3, 1e-3), None, "{name} against its author's values");
    }
    assert_eq!(parts.reasons, [], "{name}");
    assert!(parts.places.values().all(|it| *it == Place::Gpu));
    assert_eq!(left.join(", "), wanted, "{name}");
}

macro_rules! models {
    ($($name:ident $wanted:literal;)+) => {
        $(#[test] fn $name() { check(stringify!($name), $wanted); })+
    };
}

models! {
    bert_tiny "add 6, attention 2, cast 1, gather 1, gelu 2, layer_norm 5, matmul 8, select 1";
    gpt2_tiny "add 5, attention 2, gather 1, gelu_tanh 2, layer_norm 5, matmul 9";
    llama_tiny "add 8, attention 2, concat 4, gather 1, matmul 11, mul 10, neg 4, rms_norm 5, silu 2";
    t5_encoder_tiny "add 4, attention 2, cast 1, gather 1, matmul 8, relu 2, rms_norm 5, select 1";
    test_vit "add 13, attention 6, concat 1, conv 1, gelu 6, layer_norm 13, matmul 25";
    test_convnext "add 9, conv 13, gelu_tanh 9, layer_norm 14, matmul 19, mean 1, mul 9";
    test_resnet "add 5, conv 15, matmul 1, mean 1, pool 4, relu 12";
    test_efficientnet "conv 17, matmul 1, mean 3, mul 2, sigmoid 2, silu 11";
    mobilenetv3_small_050 "add 7, conv 53, hardswish 19, matmul 1, mean 10, min 9, mul 9, relu 23";
    unet_tiny "add 5, attention 1, concat 2, conv 5, conv_transpose 1, cos 1, group_norm 2, matmul 3, mul 1, pool 1, silu 3, sin 1";
}
