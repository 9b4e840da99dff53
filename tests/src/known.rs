//! A small model whose answer is known, for tests of what may happen to a run.

use wgfuse::{
    DType, Device, Error, Fallback, GraphBuilder, Model, Options, Session, Tensor, Type,
    compiler::graph::eval::eval,
};

use crate::{compare::assert_close, device, random::Random};

pub const SIZE: usize = 96;

/// Two products and a softmax, with weights: kernels, activations and uploads.
pub fn model() -> Model {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", DType::F32, [SIZE, SIZE]).unwrap();
    for seed in 0..2 {
        let w = b.constant(Random::new(seed).tensor(&Type::new(DType::F32, [SIZE, SIZE]), 1));
        x = b.name("product").matmul(x, w).unwrap();
    }
    x = b.name("softmax").softmax(x, -1).unwrap();
    b.output("y", x).unwrap();
    Model::from_graph(b.finish().unwrap())
}

pub fn input() -> Tensor {
    Random::new(9).tensor(&Type::new(DType::F32, [SIZE, SIZE]), 1)
}

pub fn expected() -> Vec<Tensor> {
    eval(&model().graph(&[input().shape().clone()]).unwrap(), &[input()]).unwrap()
}

pub fn run(session: &Session) -> wgfuse::Result<Tensor> {
    Ok(session.run(&[("x", input())])?["y"].clone())
}

#[track_caller]
pub fn assert_runs(session: &Session) {
    match run(session) {
        Ok(made) => assert_close(session.device().name(), &[made], &expected(), 1e-4, 1e-6),
        Err(error) => panic!("{error}"),
    }
}

/// The error of a run that must not succeed.
#[track_caller]
pub fn refused(session: &Session) -> Error {
    match run(session) {
        Ok(_) => panic!("it ran"),
        Err(error) => error,
    }
}

pub fn session(device: &Device, fallback: Fallback) -> Session {
    Session::with_options(&model(), device, Options { fallback, ..device::options() }).unwrap()
}
