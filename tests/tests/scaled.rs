//! Norms of few rows computed inside the products that read them.

use wgfuse::{DType, GraphBuilder, Model, Options, Session, Target, Type, compiler::graph::eval::eval};
use wgfuse_tests::{
    device::{gpu, options},
    random::Random,
};

/// After the root mean square norm of few rows the product computes the rows' scale itself.
#[test]
fn norms_of_few_rows_are_in_the_product() {
    let mut scaled = 0;
    let subgroups = [gpu().target().clone(), Target { subgroup: None, ..gpu().target().clone() }];
    let cases = [
        (DType::F32, [1, 128, 64], false),
        (DType::F32, [1, 1000, 130], false),
        (DType::F32, [3, 256, 72], true),
        (DType::F32, [5, 128, 64], false),
        (DType::F16, [1, 512, 96], false),
        (DType::F16, [4, 136, 65], true),
        (DType::F16, [1, 129, 33], false),
        (DType::BF16, [2, 256, 40], false),
    ];
    for (seed, (dtype, [rows, depth, cols], turned)) in cases.into_iter().enumerate() {
        let mut b = GraphBuilder::new();
        let mut random = Random::new(seed as u64);
        let x = b.input("x", dtype, [1, rows, depth]).unwrap();
        let g = b.constant(random.tensor(&Type::new(dtype, [depth]), 1));
        let y = b.rms_norm(x, -1, Some(g), 1e-5).unwrap();
        let shape = if turned { [depth, cols] } else { [cols, depth] };
        let w = b.constant(random.tensor(&Type::new(dtype, shape), 1));
        let bias = b.constant(random.tensor(&Type::new(dtype, [cols]), 1));
        let product = match turned {
            true => b.matmul(y, w).unwrap(),
            false => b.linear(y, w, None).unwrap(),
        };
        let sum = b.add(product, bias).unwrap();
        b.output("y", sum).unwrap();
        let graph = b.finish().unwrap();
        let input = random.tensor(&Type::new(dtype, [1, rows, depth]), 1);
        let want = eval(&graph, std::slice::from_ref(&input)).unwrap();
        for (target, exact) in [(&subgroups[0], false), (&subgroups[1], false), (&subgroups[0], true)] {
            let options = Options { exact, ..options() };
            let device = gpu().limited_to(target);
            let session = Session::with_options(&Model::from_graph(graph.clone()), &device, options).unwrap();
            let plan = session.plan_for(&[input.shape().clone()]).unwrap();
            let one = plan.kernels.len() == 1;
            assert_eq!(one, !exact && rows <= 4 && cols * 8 >= depth, "{rows} x {depth} x {cols}: {plan}");
            scaled += usize::from(one);
            let have = session.run(&[("x", input.clone())]).unwrap();
            let bound = match dtype {
                DType::F32 => 1e-5,
                DType::F16 => 4e-3,
                _ => 3e-2,
            };
            let (have, want) = (have["y"].to_f64(), want[0].to_f64());
            let norm = want.iter().map(|it| it * it).sum::<f64>().sqrt();
            let error = have.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt() / norm;
            assert!(error < bound, "{dtype} {rows} x {depth} x {cols} turned {turned}: {error}");
        }
    }
    assert!(scaled > 12, "{scaled}");
}
