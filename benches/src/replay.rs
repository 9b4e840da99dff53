//! What a run costs the processor: many launches that depend on each other and compute next to nothing.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::Instant,
};

use anyhow::Result;
use wgfuse::{Device, GraphBuilder, Model, Replay, Session, Tensor};

use crate::{
    measure::{WARM_UP, median, millis},
    results::Run,
};

/// Runs that are submitted before any is waited for.
const IN_A_ROW: usize = 16;

/// Softmaxes of 16 numbers along one axis and the other, one launch each.
fn chain(launches: usize) -> Result<Model> {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", wgfuse::DType::F32, [4, 4])?;
    for number in 0..launches {
        x = b.softmax(x, number as isize % 2)?;
    }
    b.output("y", x)?;
    Ok(Model::from_graph(b.finish()?))
}

/// One a way of replaying that the device has.
pub fn runs(device: &Device, launches: usize) -> Result<Vec<(String, Run)>> {
    let model = chain(launches)?;
    let x = Tensor::f32([4, 4], &[0.5; 16]).expect("as many");
    let mut runs = Vec::new();
    for (name, way) in [("recorded", Replay::Recorded), ("encoded anew", Replay::Portable)] {
        let session = Session::new(&model, device)?.replay(way);
        if let Err(why) = session.run(&[("x", x.clone())]) {
            println!("replay, {name}: not measured: {why}");
            continue;
        }
        let shape = x.shape().clone();
        let dispatches = session.plan_for(&[shape])?.dispatches();
        assert_eq!(dispatches, launches, "one launch a softmax");
        let warm = Instant::now();
        while millis(warm) < WARM_UP * 1e3 {
            session.run(&[("x", x.clone())])?;
        }
        let (mut submitted, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let start = Instant::now();
            session.run(&[("x", x.clone())])?;
            answered.push(millis(start));
            // The first poll goes until all is submitted.
            let given = [("x", x.clone())];
            let mut run = pin!(session.run_async(&given));
            let start = Instant::now();
            let early = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            submitted.push(millis(start));
            if early.is_pending() {
                pollster::block_on(run)?;
            }
        }
        let there = [("x", device.upload(&x)?)];
        let mut queued = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..IN_A_ROW {
                session.run_on_device(&there)?;
            }
            queued.push(millis(start) / IN_A_ROW as f64);
            device.synchronize()?;
        }
        let run = Run {
            submit_ms: Some(median(submitted)),
            queued_ms: Some(median(queued)),
            answer_ms: Some(median(answered)),
            dispatches: Some(dispatches),
            ..Run::default()
        };
        runs.push((format!("{launches} launches, {name}"), run));
    }
    Ok(runs)
}
