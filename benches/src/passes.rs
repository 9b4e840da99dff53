//! What the passes over a graph cost: graphs of N and 2 N nodes in which everything is written out that a rule or a
//! pattern recognises.

use std::time::Instant;

use anyhow::Result;
use wgfuse::{
    DType, GraphBuilder, Options, Target, Tensor,
    compiler::{
        graph::{Graph, Value, builder::Geometry},
        passes::{Ledger, optimise_logged},
        scalar::BinaryOp,
    },
};

use crate::measure::{median, millis};

#[derive(clap::Args)]
pub struct Args {
    /// How often each is timed, in turns; the middle time and the middle ratio count
    #[arg(long, default_value_t = 25)]
    times: usize,
    /// Nodes of the smaller graph; the bounds are for 10,000
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
}

/// Milliseconds that the passes over 10,000 nodes may take, and how much longer those over 20,000.
const MOST: f64 = 200.0;
const RATIO: f64 = 2.2;

/// Freed memory stays with the process: it goes back to the system beyond a threshold that only the larger graph exceeds, and
/// getting it again would be counted as the passes' time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    // SAFETY: they set numbers of the allocator, and fail without effect.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

/// Whether both hold.
pub fn run(args: &Args) -> Result<bool> {
    keep_freed_memory();
    let graphs = [graph(args.nodes)?, graph(2 * args.nodes)?];
    let (mut times, mut ratios) = ([const { Vec::new() }; 2], Vec::new());
    let mut made = [(0, Ledger::default()), (0, Ledger::default())];
    // The first of each fills caches; sizes take turns, so that what else the machine does falls on both.
    for turn in 0..=args.times.max(1) {
        let mut pair = [0.0; 2];
        for (size, graph) in graphs.iter().enumerate() {
            let (again, mut ledger) = (graph.clone(), Ledger::default());
            let start = Instant::now();
            let left =
                optimise_logged(again, &Target::cpu(), &Options::default(), &mut ledger, &mut |_, _| {})?;
            pair[size] = millis(start);
            made[size] = (left.len(), ledger);
        }
        if turn > 0 {
            ratios.push(pair[1] / pair[0]);
            times.iter_mut().zip(pair).for_each(|(all, it)| all.push(it));
        }
    }
    let found = times.map(median);
    println!("| nodes | left | rewrites | offered a node | passes | a node |");
    println!("|---|---|---|---|---|---|");
    for ((graph, (left, ledger)), time) in graphs.iter().zip(&made).zip(found) {
        println!(
            "| {} | {left} | {} | {:.1} | {time:.1} ms | {:.2} us |",
            graph.len(),
            ledger.applied.len(),
            ledger.attempts as f64 / graph.len() as f64,
            1e3 * time / graph.len() as f64,
        );
    }
    let ratio = median(ratios);
    let good = found[0] <= MOST && ratio <= RATIO;
    println!(
        "\n{ratio:.2} times as long for twice the nodes ({RATIO} allowed), {MOST} ms allowed for the first"
    );
    Ok(good)
}

/// A graph of about so many nodes.
fn graph(nodes: usize) -> Result<Graph> {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", DType::F32, [1, 8, 16])?;
    let mut image = b.input("image", DType::F32, [1, 4, 8, 8])?;
    let mask = b.input("mask", DType::F32, [8, 8])?;
    let mut made = 0;
    while made < nodes {
        let (next, more) = block(&mut b, x, image, mask, made)?;
        (x, image) = (next, more);
        made += BLOCK;
    }
    b.output("y", x)?;
    b.output("picture", image)?;
    Ok(b.finish()?)
}

/// Nodes of a block, at least.
const BLOCK: usize = 104;

fn weight(b: &mut GraphBuilder, shape: &[usize], seed: usize) -> Value {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|it| ((it * 7 + seed * 13) % 31) as f32 / 31.0 - 0.5).collect();
    b.constant(Tensor::f32(shape, &values).expect("as many"))
}

/// A transformer's layer, and a convolution with its norm, written out.
fn block(b: &mut GraphBuilder, x: Value, image: Value, mask: Value, seed: usize) -> Result<(Value, Value)> {
    // A norm.
    let mean = b.mean(x, &[-1], true)?;
    let d = b.sub(x, mean)?;
    let square = b.with_scalar(BinaryOp::Pow, d, 2.0)?;
    let var = b.mean(square, &[-1], true)?;
    let sum = b.add_scalar(var, 1e-5)?;
    let root = b.sqrt(sum)?;
    let norm = b.div(d, root)?;
    let (scale, bias) = (weight(b, &[16], seed), weight(b, &[16], seed + 1));
    let y = b.mul(norm, scale)?;
    let y = b.add(y, bias)?;
    // Attention.
    let mut heads = Vec::new();
    for part in 0..3 {
        let (w, bias) = (weight(b, &[16, 16], seed + part), weight(b, &[16], seed + part + 3));
        let it = b.linear(y, w, Some(bias))?;
        let it = b.reshape(it, &[1, 8, 2, 8])?;
        heads.push(b.permute(it, &[0, 2, 1, 3])?);
    }
    let k = b.permute(heads[1], &[0, 1, 3, 2])?;
    let scores = b.matmul(heads[0], k)?;
    let scores = b.with_scalar(BinaryOp::Div, scores, 8f64.sqrt())?;
    let scores = b.add(scores, mask)?;
    let most = b.max(scores, &[-1], true)?;
    let less = b.sub(scores, most)?;
    let e = b.exp(less)?;
    let sum = b.sum(e, &[-1], true)?;
    let p = b.div(e, sum)?;
    let y = b.matmul(p, heads[2])?;
    let y = b.permute(y, &[0, 2, 1, 3])?;
    let y = b.reshape(y, &[1, 8, 16])?;
    let (w, bias) = (weight(b, &[16, 16], seed + 7), weight(b, &[16], seed + 8));
    let y = b.linear(y, w, Some(bias))?;
    let x = b.add(x, y)?;
    // Gelu and silu between products, casts there and back.
    let w = weight(b, &[16, 32], seed + 9);
    let y = b.matmul(x, w)?;
    let t = b.with_scalar(BinaryOp::Div, y, std::f64::consts::SQRT_2)?;
    let t = b.erf(t)?;
    let t = b.add_scalar(t, 1.0)?;
    let t = b.mul(y, t)?;
    let y = b.mul_scalar(t, 0.5)?;
    let wide = b.cast(y, DType::F64)?;
    let y = b.cast(wide, DType::F32)?;
    let w = weight(b, &[32, 16], seed + 10);
    let y = b.matmul(y, w)?;
    let e = b.neg(y)?;
    let e = b.exp(e)?;
    let sum = b.add_scalar(e, 1.0)?;
    let s = b.reciprocal(sum)?;
    let y = b.mul(y, s)?;
    // A split that is joined again, stacks that are unbound.
    let parts = b.split(y, 2, &[4, 12])?;
    let y = b.concat(&parts, 2)?;
    let rows: Vec<Value> =
        b.split(y, 1, &[1; 8])?.into_iter().map(|it| b.squeeze(it, 1)).collect::<Result<_, _>>()?;
    let rows: Vec<Value> = rows.into_iter().map(|it| b.unsqueeze(it, 1)).collect::<Result<_, _>>()?;
    let y = b.concat(&rows, 1)?;
    let x = b.add(x, y)?;
    // A convolution, its norm and hardswish.
    let w = weight(b, &[4, 4, 3, 3], seed + 11);
    let y = b.conv2d(image, w, None, Geometry { padding: 1, ..Geometry::default() })?;
    let [scale, bias, mean] = [12, 13, 14].map(|it| weight(b, &[4], seed + it));
    let var = b.full(DType::F32, [4], 0.7)?;
    let y = b.batch_norm(y, scale, bias, mean, var, 1e-5)?;
    let t = b.add_scalar(y, 3.0)?;
    let t = b.with_scalar(BinaryOp::Max, t, 0.0)?;
    let t = b.with_scalar(BinaryOp::Min, t, 6.0)?;
    let t = b.mul(y, t)?;
    let y = b.mul_scalar(t, 1.0 / 6.0)?;
    Ok((x, b.add(image, y)?))
}
