//! What the passes cost grows with the graph and no faster; what they leave is in the order in which it was.

use super::*;

/// Layers of everything that is recognised, one behind the other.
fn layers(count: usize) -> Graph {
    let mut b = GraphBuilder::new();
    let (rows, width) = (3usize, 4usize);
    let mut y = x(&mut b, [rows, width]);
    let made = (|| -> Result<(), Error> {
        for layer in 0..count {
            let e = b.neg(y)?;
            let e = b.exp(e)?;
            let sum = b.add_scalar(e, 1.0)?;
            let s = b.reciprocal(sum)?;
            let silu = b.mul(y, s)?;
            let t = b.with_scalar(BinaryOp::Div, silu, std::f64::consts::SQRT_2)?;
            let t = b.erf(t)?;
            let t = b.add_scalar(t, 1.0)?;
            let t = b.mul(silu, t)?;
            let gelu = b.mul_scalar(t, 0.5)?;
            let most = b.max(gelu, &[-1], true)?;
            let less = b.sub(gelu, most)?;
            let e = b.exp(less)?;
            let sum = b.sum(e, &[-1], true)?;
            let soft = b.div(e, sum)?;
            let mean = b.mean(soft, &[-1], true)?;
            let d = b.sub(soft, mean)?;
            let square = b.with_scalar(BinaryOp::Pow, d, 2.0)?;
            let var = b.mean(square, &[-1], true)?;
            let sum = b.add_scalar(var, 1e-5)?;
            let root = b.sqrt(sum)?;
            let norm = b.div(d, root)?;
            // Views that move through one another, splits that are joined again, casts there and back.
            let v = b.permute(norm, &[1, 0])?;
            let v = b.reshape(v, &[2, 2, 3])?;
            let v = b.permute(v, &[0, 2, 1])?;
            let v = b.reshape(v, &[12])?;
            let v = b.reshape(v, &[rows as isize, width as isize])?;
            let parts = b.split(v, 1, &[1, 3])?;
            let joined = b.concat(&parts, 1)?;
            let wide = b.cast(joined, DType::F64)?;
            let back = b.cast(wide, F)?;
            let own = b.mul_scalar(back, 1.0 + layer as f64 * 0.001)?;
            y = b.add(own, y)?;
        }
        b.output("y", y)
    })();
    made.unwrap();
    b.finish().unwrap()
}

/// How often a node is offered to something, and how many nodes patterns look at, for each node.
fn cost(graph: Graph) -> (f64, f64) {
    let nodes = graph.len() as f64;
    let mut ledger = Ledger::default();
    optimise_logged(graph, &Target::cpu(), &Options::default(), &mut ledger, &mut |_, _| {}).unwrap();
    (ledger.attempts as f64 / nodes, ledger.steps as f64 / nodes)
}

#[test]
fn cost_is_linear() {
    let (few, many) = (cost(layers(30)), cost(layers(300)));
    assert!(many.0 < few.0 * 1.05 && many.1 < few.1 * 1.05, "{few:?} {many:?}");
    assert!(many.0 < 100.0 && many.1 < 50.0, "{many:?}");
}

/// New nodes below new nodes below new nodes, and what only loses its users at the end.
#[test]
fn cost_of_chains_is_linear() {
    let chain = |count: usize| {
        let mut b = GraphBuilder::new();
        let mut y = x(&mut b, [4, 6, 5]);
        for at in 0..count {
            y = b.permute(y, &[0, 2, 1]).unwrap();
            let sizes: &[isize] = if at % 2 == 0 { &[2, 2, 5, 6] } else { &[4, 6, 5] };
            let sizes: Vec<isize> = if at % 2 == 0 { sizes.to_vec() } else { vec![4, 5, 6] };
            y = b.reshape(y, &sizes).unwrap();
            y = b.reshape(y, &[4, 6, 5]).unwrap();
            y = b.concat(&[y, y], 0).unwrap();
            y = b.slice(y, 0, 0, 4).unwrap();
        }
        b.output("y", y).unwrap();
        b.finish().unwrap()
    };
    let (few, many) = (cost(chain(50)), cost(chain(1000)));
    assert!(many.0 < few.0 * 1.1, "{few:?} {many:?}");
    let joins = |count: usize| {
        let mut b = GraphBuilder::new();
        let x = x(&mut b, [2, 2]);
        let mut y = x;
        for _ in 0..count {
            y = b.concat(&[y, x], 0).unwrap();
        }
        b.output("y", y).unwrap();
        b.finish().unwrap()
    };
    let (few, many) = (cost(joins(300)), cost(joins(3000)));
    assert!(many.0 < few.0 * 1.1, "{few:?} {many:?}");
}

#[test]
fn what_is_left_is_in_the_order_in_which_it_was() {
    for graph in [layers(5), layers(1)] {
        let place = |name: &str| graph.nodes().position(|it| &*it.1.origin == name);
        // Products of one input are put where the first of them was.
        let options = Options { without_passes: vec!["siblings".into()], ..Options::default() };
        let after = optimise(graph.clone(), &Target::cpu(), &options).unwrap();
        assert!(after.len() < graph.len());
        let places: Vec<usize> = after
            .nodes()
            .filter(|it| !matches!(it.1.op, Op::Constant(_)))
            .filter_map(|it| place(&it.1.origin))
            .collect();
        assert!(places.len() > 5 && places.is_sorted(), "{places:?}\n{after}");
    }
}
