//! A pass and a pattern of one's own, among those that wgfuse has.
//!
//! ```text
//! cargo run --example own_pass
//! ```
//!
//! The pass runs before the stage of joint passes and counts what it sees; the pattern makes x / (1 + |x|) of x / (|x| + c) for
//! c = 1, which the compiler's own patterns could go on from. What either gives is verified, and a broken graph is an error
//! that names it. Where the pattern is nearly found, `explain` says what is missing, as `wgfuse explain-match` does for those that come
//! with the compiler.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wgfuse::{
    DType, Device, Example, GraphBuilder, Hook, Model, Options, Session, Target, Tensor, Type, UserPass,
    compiler::passes::pattern::explain::explain, register_replacement,
};

fn main() -> anyhow::Result<()> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4])?;
    let size = b.abs(x)?;
    let sum = b.add_scalar(size, 1.0)?;
    let y = b.div(x, sum)?;
    b.output("y", y)?;
    let model = Model::from_graph(b.finish()?);

    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let count = UserPass {
        name: "count".into(),
        at: Hook::Before("joint".into()),
        run: Arc::new(move |graph| {
            counted.store(graph.len(), Ordering::Relaxed);
            Ok(graph.clone())
        }),
    };
    // Any shape; any number where the example has 0.113377, which the check then looks at.
    let softsign = register_replacement(
        "softsign",
        |b, x, c| {
            let size = b.abs(x[0])?;
            let sum = b.add_scalar(size, c[0])?;
            Ok(vec![b.div(x[0], sum)?])
        },
        |b, x, c| {
            let size = b.abs(x[0])?;
            let sum = b.add_scalar(size, c[0])?;
            let by = b.reciprocal(sum)?;
            Ok(vec![b.mul(x[0], by)?])
        },
        &[Example::new([Type::new(DType::F32, [8])]).with_numbers([0.113377])],
        |found| found.numbers[0] == 1.0,
    )?;
    let options = Options { passes: vec![count], patterns: vec![softsign], ..Options::default() };

    // Of another graph, why it is not found there.
    let mut b = GraphBuilder::new();
    let (x, z) = (b.input("x", DType::F32, [4])?, b.input("z", DType::F32, [4])?);
    let size = b.abs(z)?;
    let sum = b.add_scalar(size, 1.0)?;
    let y = b.name("ratio").div(x, sum)?;
    b.output("y", y)?;
    let explained = explain(b.finish()?, &Target::cpu(), &options, "softsign")?;
    let near = &explained.near[0];
    println!("near {}: {} of {} found, but {}", near.root, near.found, near.of, near.why);
    assert!(explained.applied.is_empty() && &*near.root == "ratio");

    let session = Session::with_options(&model, &Device::cpu(), options)?;
    let x = Tensor::f32([4], &[-3.0, 0.0, 1.0, 4.0]).expect("4 values");
    let outputs = session.run(wgfuse::inputs! { "x" => x })?;
    println!("{} nodes, y = {:?}", seen.load(Ordering::Relaxed), outputs[0].to_f64());
    assert!(seen.load(Ordering::Relaxed) > 0);
    Ok(())
}
