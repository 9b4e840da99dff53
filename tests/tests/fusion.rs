//! Which graphs become how many kernels, and that loops and schedules mean what the graph means.

use wgfuse_compiler::{
    codegen,
    dtype::DType,
    error::Error,
    graph::{
        Graph, Value,
        builder::{Geometry, GraphBuilder},
        eval::eval,
    },
    lower,
    options::Options,
    partition,
    passes::{self, siblings},
    plan,
    scalar::BinaryOp,
    schedule::{self, Schedule},
    shape::{Shape, Type},
    target::Target,
};
use wgfuse_tests::{compare::assert_close, random::Random};

type Built = Result<(), Error>;

/// Builds, optimises and schedules, checks the values of every stage, and returns the schedule.
fn scheduled(target: &Target, fuse: bool, build: impl Fn(&mut GraphBuilder) -> Built) -> Schedule {
    let mut builder = GraphBuilder::new();
    build(&mut builder).unwrap();
    let graph = builder.finish().unwrap();
    let inputs = inputs(&graph, 7);
    let expected = eval(&graph, &inputs).unwrap();
    let options = Options { fuse, ..Options::default() };
    let graph = passes::optimise(graph, target, &options).unwrap();
    let parts = partition::split(&graph, target, &options).unwrap();
    let constants = eval(&parts.constants, &[]).unwrap();
    let loops = lower::lower(&parts);
    assert_close("loops", &lower::eval::eval(&loops, &inputs, &constants), &expected, 1e-5, 1e-6);
    let schedule = schedule::schedule(loops, target, &options);
    assert_eq!(schedule::verify::verify(&schedule, target), Vec::<String>::new(), "{schedule}");
    assert_close("schedule", &schedule::eval::eval(&schedule, &inputs, &constants), &expected, 1e-5, 1e-6);
    schedule
}

fn inputs(graph: &Graph, seed: u64) -> Vec<wgfuse_compiler::tensor::Tensor> {
    let mut random = Random::new(seed);
    graph.inputs().iter().map(|it| random.tensor(&it.ty, 5)).collect()
}

/// The number of kernels, on a GPU of the least that WebGPU guarantees and on the processor; values checked unfused too.
fn kernels(build: impl Fn(&mut GraphBuilder) -> Built) -> usize {
    scheduled(&Target::webgpu_minimum(), false, &build);
    let cpu = scheduled(&Target::cpu(), true, &build);
    let gpu = scheduled(&Target::webgpu_minimum(), true, &build);
    assert_eq!(cpu.kernels.len(), gpu.kernels.len(), "{gpu}");
    if std::env::var_os("SHOW").is_some() {
        println!("{gpu}");
    }
    gpu.kernels.len()
}

fn weight(b: &mut GraphBuilder, shape: &[usize]) -> Value {
    let tensor = Random::new(shape.iter().sum::<usize>() as u64).tensor(&Type::new(DType::F32, shape), 1);
    b.constant(tensor)
}

#[test]
fn pointwise_chain_with_broadcasts_and_transposes_is_one() {
    let count = kernels(|b| {
        let x = b.input("x", DType::F32, [3, 4, 5])?;
        let y = b.input("y", DType::F32, [4, 1])?;
        let z = b.input("z", DType::F32, [3, 1])?;
        let a = b.exp(x)?;
        let a = b.mul(a, y)?;
        let a = b.transpose(a, 0, 1)?;
        let a = b.tanh(a)?;
        let w = b.exp(z)?;
        let a = b.add(a, w)?;
        let a = b.sigmoid(a)?;
        let a = b.permute(a, &[2, 1, 0])?;
        let y = b.transpose(y, 0, 1)?;
        let y = b.transpose(y, 0, 1)?;
        let y = b.unsqueeze(y, 0)?;
        let y = b.permute(y, &[2, 0, 1])?;
        let a = b.sub(a, y)?;
        let a = b.abs(a)?;
        let a = b.sqrt(a)?;
        let a = b.mul_scalar(a, 3.0)?;
        b.output("o", a)
    });
    assert_eq!(count, 1);
}

#[test]
fn softmax_is_one() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [3, 4, 7])?;
            let y = b.softmax(x, -1)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn softmax_over_the_middle_with_neighbours_is_one() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [3, 6, 4])?;
            let x = b.mul_scalar(x, 2.0)?;
            let y = b.softmax(x, 1)?;
            let y = b.mul(y, x)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn layer_norm_is_one() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 5, 8])?;
            let (scale, bias) = (weight(b, &[8]), weight(b, &[8]));
            let y = b.layer_norm(x, -1, Some(scale), Some(bias), 1e-5)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn rms_norm_is_one_also_decomposed() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 5, 8])?;
            let scale = weight(b, &[8]);
            let y = b.rms_norm(x, -1, Some(scale), 1e-5)?;
            b.output("o", y)
        }),
        1
    );
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 5, 8])?;
            let scale = weight(b, &[8]);
            let s = b.with_scalar(BinaryOp::Pow, x, 2.0)?;
            let s = b.mean(s, &[-1], true)?;
            let s = b.add_scalar(s, 1e-5)?;
            let s = b.sqrt(s)?;
            let y = b.div(x, s)?;
            let y = b.mul(scale, y)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn group_norm_and_silu_are_one() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 6, 3, 4])?;
            let (scale, bias) = (weight(b, &[6]), weight(b, &[6]));
            let y = b.group_norm(x, 3, Some(scale), Some(bias), 1e-5)?;
            let s = b.sigmoid(y)?;
            let y = b.mul(y, s)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn linear_bias_gelu_is_one() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 5, 8])?;
            let (w, bias) = (weight(b, &[9, 8]), weight(b, &[9]));
            let y = b.linear(x, w, Some(bias))?;
            let y = b.gelu(y)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn linear_residual_norm_are_two() {
    assert_eq!(
        kernels(|b| {
            let x = b.input("x", DType::F32, [2, 5, 8])?;
            let (w, bias) = (weight(b, &[8, 8]), weight(b, &[8]));
            let y = b.linear(x, w, Some(bias))?;
            let y = b.add(y, x)?;
            let y = b.layer_norm(y, -1, None, None, 1e-5)?;
            b.output("o", y)
        }),
        2
    );
}

#[test]
fn conv_norm_relu_residual_is_one() {
    for groups in [1, 2, 4] {
        let count = kernels(|b| {
            let x = b.input("x", DType::F32, [2, 4, 5, 6])?;
            let w = weight(b, &[4, 4 / groups, 3, 3]);
            let geometry = Geometry { padding: 1, groups, ..Geometry::default() };
            let y = b.conv2d(x, w, None, geometry)?;
            let (scale, bias, mean) = (weight(b, &[4]), weight(b, &[4]), weight(b, &[4]));
            let var = b.full(DType::F32, [4], 0.7)?;
            let y = b.batch_norm(y, scale, bias, mean, var, 1e-5)?;
            let y = b.relu(y)?;
            let y = b.add(y, x)?;
            b.output("o", y)
        });
        assert_eq!(count, 1, "{groups} groups");
    }
}

#[test]
fn attention_between_projections_is_three() {
    let count = kernels(|b| {
        let x = b.input("x", DType::F32, [2, 5, 8])?;
        let mut heads = Vec::new();
        for _ in 0..3 {
            let w = Random::new(heads.len() as u64).tensor(&Type::new(DType::F32, [8, 8]), 1);
            let w = b.constant(w);
            let y = b.linear(x, w, None)?;
            let y = b.reshape(y, &[2, 5, 2, 4])?;
            heads.push(b.permute(y, &[0, 2, 1, 3])?);
        }
        let y = b.attention(heads[0], heads[1], heads[2], None, true)?;
        let y = b.permute(y, &[0, 2, 1, 3])?;
        let y = b.reshape(y, &[2, 5, 8])?;
        let w = Random::new(99).tensor(&Type::new(DType::F32, [8, 8]), 1);
        let w = b.constant(w);
        let y = b.linear(y, w, None)?;
        let y = b.add(y, x)?;
        b.output("o", y)
    });
    assert_eq!(count, 3);
}

/// Attention of `heads` heads, of which keys and values have `groups`, between its projections.
fn attention(heads: usize, groups: usize, biased: bool, outer: &[usize]) -> usize {
    kernels(|b| {
        let (rows, width) = (outer.iter().product::<usize>() as isize, 8);
        let shape: Shape = outer.iter().copied().chain([width]).collect();
        let x = b.input("x", DType::F32, shape)?;
        let mut parts = Vec::new();
        for (seed, count) in [heads, groups, groups].into_iter().enumerate() {
            let mut random = Random::new(seed as u64);
            let mut made = |shape: &[usize]| random.tensor(&Type::new(DType::F32, shape), 1);
            let w = b.constant(made(&[count * 4, width]));
            let bias = biased.then(|| b.constant(made(&[count * 4])));
            let y = b.linear(x, w, bias)?;
            let y = b.reshape(y, &[1, rows, count as isize, 4])?;
            parts.push(b.permute(y, &[0, 2, 1, 3])?);
        }
        let y = b.attention(parts[0], parts[1], parts[2], None, false)?;
        let y = b.permute(y, &[0, 2, 1, 3])?;
        let y = b.reshape(y, &[rows, heads as isize * 4])?;
        let w = weight(b, &[8, heads * 4]);
        let y = b.linear(y, w, None)?;
        b.output("o", y)
    })
}

#[test]
fn projections_of_one_input_are_one() {
    for (heads, groups) in [(2, 2), (4, 2), (4, 1)] {
        for biased in [false, true] {
            for outer in [&[6][..], &[1, 6], &[2, 3]] {
                let count = attention(heads, groups, biased, outer);
                assert_eq!(count, 3, "{heads} heads, {groups} groups, bias {biased}, {outer:?}");
            }
        }
    }
}

/// Branches of different weights that one sum reads at other points than their own.
fn branches(make: impl Fn(&mut GraphBuilder, Value, usize) -> Result<Value, Error>) -> usize {
    kernels(|b| {
        let x = b.input("x", DType::F32, [2, 4, 5, 6])?;
        let mut all = Vec::new();
        for seed in 0..3 {
            all.push(make(b, x, seed)?);
        }
        let y = b.concat(&all, 1)?;
        let y = b.softmax(y, -1)?;
        b.output("o", y)
    })
}

#[test]
fn convolutions_of_one_input_are_one() {
    for kernel in [1, 3] {
        let count = branches(|b, x, seed| {
            let mut random = Random::new(seed as u64);
            let mut made = |shape: &[usize]| random.tensor(&Type::new(DType::F32, shape), 1);
            let w = b.constant(made(&[seed + 2, 4, kernel, kernel]));
            let bias = b.constant(made(&[seed + 2]));
            let geometry = Geometry { padding: kernel / 2, ..Geometry::default() };
            let y = b.conv2d(x, w, Some(bias), geometry)?;
            b.silu(y)
        });
        assert_eq!(count, 2, "{kernel}x{kernel}");
    }
}

#[test]
fn steps_with_numbers_and_rows_are_widened() {
    let count = branches(|b, x, seed| {
        let w = weight(b, &[6, 4 + seed]);
        let y = b.matmul(x, w)?;
        let y = b.mul_scalar(y, 0.5 + seed as f64)?;
        let rows = weight(b, &[5, if seed == 1 { 5 } else { 1 }]);
        let y = b.sub(rows, y)?;
        let last = b.slice(y, -1, 0, 3)?;
        b.tanh(last)
    });
    assert_eq!(count, 2);
}

/// Why products of one input stayed apart, and how many kernels there are.
fn apart(target: &Target, build: impl Fn(&mut GraphBuilder) -> Built) -> (Vec<siblings::Why>, usize) {
    let schedule = scheduled(target, true, &build);
    let mut b = GraphBuilder::new();
    build(&mut b).unwrap();
    let options = Options::default();
    let graph = passes::optimise(b.finish().unwrap(), target, &options).unwrap();
    let parts = partition::split(&graph, target, &options).unwrap();
    let reasons: Vec<siblings::Why> = parts.apart.iter().map(|it| it.why.clone()).collect();
    let shaders = codegen::emit(&schedule, target, &options).unwrap();
    let count = schedule.kernels.len();
    let plan = plan::plan(&parts, schedule, shaders, target, &options).unwrap();
    for reason in &reasons {
        assert!(plan.refusals.iter().any(|it| it.why == schedule::Why::Siblings(reason.clone())), "{plan}");
    }
    (reasons, count)
}

#[test]
fn products_that_would_lose_by_it_stay_apart() {
    use siblings::Why;
    let gpu = Target::webgpu_minimum();
    let linear = |b: &mut GraphBuilder, x: Value, seed: usize| {
        let w = b.constant(Random::new(seed as u64).tensor(&Type::new(DType::F32, [8, 8]), 1));
        b.matmul(x, w)
    };
    let x = |b: &mut GraphBuilder| b.input("x", DType::F32, [5, 8]);
    // Outputs.
    let found = apart(&gpu, |b| {
        let x = x(b)?;
        for (seed, name) in ["p", "q"].into_iter().enumerate() {
            let y = linear(b, x, seed)?;
            b.output(name, y)?;
        }
        Ok(())
    });
    assert_eq!(found, (vec![Why::Output, Why::Output], 2));
    // A gate: what multiplies both is computed with the second.
    let found = apart(&gpu, |b| {
        let x = x(b)?;
        let (gate, up) = (linear(b, x, 0)?, linear(b, x, 1)?);
        let gate = b.silu(gate)?;
        let y = b.mul(gate, up)?;
        let y = linear(b, y, 2)?;
        b.output("o", y)
    });
    assert_eq!(found, (vec![Why::Followed, Why::Followed], 3));
    // The second is needed only after another product of the first.
    let late = |b: &mut GraphBuilder| {
        let x = x(b)?;
        let (first, second) = (linear(b, x, 0)?, linear(b, x, 1)?);
        let y = b.layer_norm(first, -1, None, None, 1e-5)?;
        let y = linear(b, y, 2)?;
        let second = b.layer_norm(second, -1, None, None, 1e-5)?;
        let y = b.add(y, second)?;
        let y = linear(b, y, 3)?;
        b.output("o", y)
    };
    assert_eq!(apart(&gpu, late).0, [Why::Apart]);
    // One factor is an input.
    let found = apart(&gpu, |b| {
        let (x, other) = (x(b)?, b.input("other", DType::F32, [8, 8])?);
        let (first, second) = (linear(b, x, 0)?, b.matmul(x, other)?);
        let y = b.concat(&[first, second], 0)?;
        b.output("o", y)
    });
    assert_eq!(found.0, [Why::Computed]);
    // One of two is rectified, after which both are joined.
    let found = apart(&gpu, |b| {
        let x = x(b)?;
        let (first, second) = (linear(b, x, 0)?, linear(b, x, 1)?);
        let first = b.relu(first)?;
        let y = b.concat(&[first, second], 0)?;
        b.output("o", y)
    });
    assert_eq!(found.0, [Why::Steps]);
    let joined = |b: &mut GraphBuilder| {
        let x = x(b)?;
        let (first, second, third) = (linear(b, x, 0)?, linear(b, x, 1)?, linear(b, x, 2)?);
        let y = b.concat(&[first, second, third], 0)?;
        let y = b.softmax(y, -1)?;
        b.output("o", y)
    };
    assert_eq!(apart(&gpu, joined), (vec![], 2));
    // The wide weights of two, 512 bytes, fit; those of three do not.
    let small = Target { max_binding_size: 600, ..gpu.clone() };
    assert_eq!(apart(&small, joined), (vec![Why::Size(768)], 3));
    // A matrix that another input is multiplied by.
    let found = apart(&gpu, |b| {
        let (x, other) = (x(b)?, b.input("other", DType::F32, [5, 8])?);
        let w = weight(b, &[8, 8]);
        let (first, second, third) = (b.matmul(x, w)?, linear(b, x, 1)?, b.matmul(other, w)?);
        let y = b.concat(&[first, second, third], 0)?;
        b.output("o", y)
    });
    assert_eq!(found.0, [Why::Held]);
}

#[test]
fn products_of_many_results_stay_apart() {
    for (rows, reasons) in [(1 << 12, 0), (1 << 13, 2)] {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [rows, 4]).unwrap();
        let weights = [0, 1].map(|seed| Random::new(seed).tensor(&Type::new(DType::F32, [4, 256]), 1));
        let all = weights.map(|it| {
            let w = b.constant(it);
            b.matmul(x, w).unwrap()
        });
        let y = b.concat(&all, 0).unwrap();
        b.output("o", y).unwrap();
        let (target, options) = (Target::webgpu_minimum(), Options::default());
        let graph = passes::optimise(b.finish().unwrap(), &target, &options).unwrap();
        let apart = partition::split(&graph, &target, &options).unwrap().apart;
        assert_eq!(apart.len(), reasons, "{rows}: {apart:?}");
        assert!(apart.iter().all(|it| it.why == siblings::Why::Busy(rows * 256)), "{apart:?}");
    }
}

/// Each layer's keys and values of one memory are made when that layer runs.
#[test]
fn products_of_one_input_for_several_layers_are_one_a_layer() {
    let count = kernels(|b| {
        let memory = b.input("memory", DType::F32, [1, 2, 4, 8])?;
        let mut x = b.input("x", DType::F32, [1, 2, 3, 8])?;
        for layer in 0..3 {
            let made = |b: &mut GraphBuilder, seed: u64| {
                let w = Random::new(10 * layer + seed).tensor(&Type::new(DType::F32, [8, 8]), 1);
                let w = b.constant(w);
                b.matmul(memory, w)
            };
            let (k, v) = (made(b, 0)?, made(b, 1)?);
            x = b.attention(x, k, v, None, false)?;
        }
        b.output("o", x)
    });
    assert_eq!(count, 6);
}

#[test]
fn reads_at_computed_places_and_pieces_are_fused() {
    assert_eq!(
        kernels(|b| {
            let ids = b.input("ids", DType::I64, [2, 5])?;
            let table = weight(b, &[5, 8]);
            let y = b.embedding(table, ids)?;
            let first = b.slice(y, -1, 0, 4)?;
            let second = b.slice(y, -1, 4, 8)?;
            let turned = b.neg(second)?;
            let z = b.concat(&[turned, first], -1)?;
            let y = b.add(y, z)?;
            let y = b.pad(y, &[(0, 0), (1, 2), (0, 0)], 3.0)?;
            b.output("o", y)
        }),
        1
    );
}

#[test]
fn a_value_that_both_make_and_need_is_no_cycle() {
    kernels(|b| {
        let x = b.input("x", DType::F32, [4, 4])?;
        let w = weight(b, &[4, 4]);
        let p = b.matmul(x, w)?;
        let q = b.matmul(p, w)?;
        let y = b.add(p, q)?;
        let z = b.softmax(y, -1)?;
        let y = b.add(z, p)?;
        b.output("o", y)?;
        b.output("p", p)
    });
}

#[test]
fn pooling_and_its_tail() {
    kernels(|b| {
        let x = b.input("x", DType::F32, [2, 3, 7, 6])?;
        let geometry = Geometry { stride: 2, padding: 1, ..Geometry::default() };
        let m = b.max_pool(x, &[3, 3], geometry)?;
        let a = b.avg_pool(x, &[3, 3], geometry)?;
        let y = b.add(m, a)?;
        let y = b.mean(y, &[2, 3], true)?;
        let y = b.sigmoid(y)?;
        let y = b.mul(m, y)?;
        b.output("o", y)
    });
}

#[test]
fn what_many_look_up_is_looked_up_once() {
    let chain = |count: usize| {
        move |b: &mut GraphBuilder| -> Built {
            let (table, place) =
                (b.input("table", DType::F32, [50, 16])?, b.input("place", DType::I64, [1])?);
            let row = b.gather(table, 0, place)?;
            let mut x = b.input("x", DType::F32, [16, 16])?;
            for number in 0..count {
                let scaled = b.mul(x, row)?;
                x = b.softmax(scaled, number as isize % 2)?;
            }
            b.output("y", x)
        }
    };
    assert_eq!(kernels(chain(7)), 7);
    assert_eq!(kernels(chain(8)), 9);
}
