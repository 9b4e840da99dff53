//! Random graphs are faultless, survive their text form, and keep their values there.

use wgfuse_compiler::graph::{
    eval::eval,
    text::{Constants, parse, print},
    verify::verify,
};
use wgfuse_tests::random_graph::random_graph;

#[test]
fn text_keeps_the_meaning() {
    for seed in 0..300 {
        let (graph, inputs) = random_graph(seed);
        assert_eq!(verify(&graph), [], "seed {seed}");
        let text = print(&graph, Constants::All);
        let again = parse(&text).unwrap_or_else(|it| panic!("seed {seed}: {it}\n{text}"));
        assert_eq!(verify(&again), [], "seed {seed}");
        let (a, b) = (eval(&graph, &inputs).unwrap(), eval(&again, &inputs).unwrap());
        assert_eq!(a, b, "seed {seed}");
        for output in a {
            assert!(output.to_f64().iter().all(|it| it.is_finite()), "seed {seed}\n{text}");
        }
    }
}
