//! Random graphs through the whole pipeline.

use super::*;

/// A random graph of small tensors.
fn random_graph(seed: u64) -> Graph {
    let mut r = Random(seed);
    let mut b = GraphBuilder::new();
    let mut floats = vec![x(&mut b, [2, 3, 4]), b.input("z", F, [3, 1]).unwrap()];
    for value in [0.0, 1.0, 0.5, 2.0, -1.0] {
        floats.push(c(&mut b, value));
    }
    floats.push(weights(&mut b, [3, 4], seed));
    let mut truths = vec![b.input("t", DType::Bool, [3, 4]).unwrap(), b.scalar(DType::Bool, 1.0)];
    use BinaryOp::*;
    while floats.len() < 28 {
        let pick = |r: &mut Random, of: &[Value]| of[r.below(of.len())];
        let (p, q) = (pick(&mut r, &floats), pick(&mut r, &floats));
        let (m, n) = (pick(&mut r, &truths), pick(&mut r, &truths));
        let shape = b.ty(p).unwrap().shape.clone();
        let rank = shape.rank();
        let axis = r.below(rank.max(1)) as isize;
        let made = match r.below(14) {
            0 => b.binary([Add, Sub, Mul, Max, Min, Div][r.below(6)], p, q),
            1 => b.binary([Add, Mul, Sub][r.below(3)], q, p),
            2 => b.unary([UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Relu, UnaryOp::Floor][r.below(4)], p),
            3 => b.select(m, p, q),
            4 => {
                let truth = b.binary([Lt, Ge, Eq][r.below(3)], p, q);
                truths.extend(truth);
                continue;
            }
            5 => {
                let truth = b.binary([And, Or, Xor][r.below(3)], m, n);
                truths.extend(truth);
                continue;
            }
            6 => b.reshape(p, &[-1]),
            7 if rank > 1 => {
                let order: Vec<isize> = (0..rank).map(|it| ((it + 1) % rank) as isize).collect();
                b.permute(p, &order)
            }
            8 if rank > 0 && shape[axis as usize] > 1 => b.slice(p, axis, 1, shape[axis as usize] as isize),
            9 if rank > 0 => b.concat(&[p, p], axis),
            10 if rank < 3 => {
                let wide: Shape = [2].into_iter().chain(shape.iter().copied()).collect();
                b.expand(p, wide)
            }
            11 if rank > 0 => {
                b.reduce([ReduceOp::Max, ReduceOp::Sum][r.below(2)], p, &[axis], r.below(2) == 0)
            }
            12 if rank > 0 => {
                let size = shape[axis as usize] as i64;
                let at: Vec<i64> =
                    (0..size).map(|it| if seed.is_multiple_of(2) { size - 1 - it } else { it }).collect();
                let indices = b.constant(Tensor::i64([at.len()], &at).unwrap());
                b.gather(p, axis, indices)
            }
            13 if rank > 0 => b.unsqueeze(p, axis),
            _ => continue,
        };
        if let Ok(made) = made
            && b.ty(made).unwrap().shape.count() <= 512
        {
            floats.push(made);
        }
    }
    for (at, &value) in floats[floats.len() - 3..].iter().enumerate() {
        b.output(format!("y{at}"), value).unwrap();
    }
    b.finish().unwrap()
}

#[test]
fn random_graphs_keep_every_bit() {
    for seed in 0..400 {
        let before = random_graph(seed);
        let options = Options { exact: true, ..Options::default() };
        let after = optimise(before.clone(), &Target::cpu(), &options).unwrap();
        assert_same(&before, &after, true, seed);
        let again = optimise(after.clone(), &Target::cpu(), &options).unwrap();
        assert_eq!(again.to_string(), after.to_string(), "seed {seed}");
        optimise(before, &Target::cpu(), &Options::default()).unwrap();
    }
}
