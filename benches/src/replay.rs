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
    results::{Table, shown},
};

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

/// Microseconds: of this thread until all is submitted, and until the answer is there.
pub fn table(device: &Device, launches: usize) -> Result<Table> {
    let model = chain(launches)?;
    let x = Tensor::f32([4, 4], &[0.5; 16]).expect("as many");
    let titles = ["replay", "launches", "processor, us", "answer, us"];
    let mut table = Table::new(titles.map(str::to_owned).into());
    for (name, way) in [("recorded", Replay::Recorded), ("encoded anew", Replay::Portable)] {
        let session = Session::new(&model, device)?.replay(way);
        let Ok(outputs) = session.run(&[("x", x.clone())]) else {
            table.row(vec![name.into(), launches.to_string(), "-".into(), "-".into()]);
            continue;
        };
        drop(outputs);
        let shape = x.shape().clone();
        assert_eq!(session.plan_for(&[shape])?.dispatches(), launches, "one launch a softmax");
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
        let us = |times: Vec<f64>| shown(Some(median(times) * 1e3), 0);
        table.row(vec![name.into(), launches.to_string(), us(submitted), us(answered)]);
    }
    Ok(table)
}
