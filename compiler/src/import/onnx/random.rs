//! Operators that make random values. A node's attribute `seed` fixes its values, the same in every run; without it they follow from
//! the session's seed and the run.

use super::{node::Node, tensor};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Value, random::Random},
    import::emit::Emit,
    shape::Shape,
    tensor::Tensor,
};

type Made = Result<Value, Error>;

pub fn uniform(e: &mut Emit, n: &Node) -> Made {
    let (dtype, shape) = given(n)?;
    let (low, high) = (n.float("low", 0.0)?, n.float("high", 1.0)?);
    source(e, n)?.between(dtype, &shape, low, high)
}

pub fn uniform_like(e: &mut Emit, n: &Node) -> Made {
    let (dtype, shape) = like(e, n)?;
    let (low, high) = (n.float("low", 0.0)?, n.float("high", 1.0)?);
    source(e, n)?.between(dtype, &shape, low, high)
}

pub fn normal(e: &mut Emit, n: &Node) -> Made {
    let (dtype, shape) = given(n)?;
    let (mean, scale) = (n.float("mean", 0.0)?, n.float("scale", 1.0)?);
    source(e, n)?.normal(dtype, &shape, mean, scale)
}

pub fn normal_like(e: &mut Emit, n: &Node) -> Made {
    let (dtype, shape) = like(e, n)?;
    let (mean, scale) = (n.float("mean", 0.0)?, n.float("scale", 1.0)?);
    source(e, n)?.normal(dtype, &shape, mean, scale)
}

pub fn bernoulli(e: &mut Emit, n: &Node) -> Made {
    let p = n.input(0)?;
    let to = dtype(n)?.unwrap_or(e.dtype(p));
    let hit = source(e, n)?.bernoulli(p)?;
    e.cast(hit, to)
}

pub fn multinomial(e: &mut Emit, n: &Node) -> Made {
    let logits = n.input(0)?;
    let to = dtype(n)?.unwrap_or(DType::I32);
    let samples = n.size(n.int("sample_size", 1)?)?;
    let chosen = source(e, n)?.multinomial(logits, samples)?;
    e.cast(chosen, to)
}

pub fn dropout(e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let x = n.input(0)?;
    if n.opset < 7 && !n.flag("is_test", false)? {
        return Err(n.unsupported("training, which is meant before opset 7 unless is_test is stated"));
    }
    let training = match n.opset >= 12 {
        true => n.literal(e, 2)?.is_some_and(|it| it.shape().count() == 1 && it.get(0).as_bool()),
        false => false,
    };
    let ratio = match training {
        true => n.literal(e, 1)?.map_or(0.5, |it| it.to_f64().first().copied().unwrap_or(0.5)),
        false => 0.0,
    };
    if ratio != 0.0 {
        let (y, left) = source(e, n)?.dropout(x, ratio)?;
        return Ok(vec![y, left]);
    }
    if !n.wants(1) {
        return Ok(vec![x]);
    }
    let keep = e.scalar(DType::Bool, 1.0);
    Ok(vec![x, e.expand(keep, e.shape(x))?])
}

fn source<'a>(e: &'a mut Emit, n: &Node) -> Result<Random<'a>, Error> {
    let seed = match n.op {
        "Dropout" => n.opt_int("seed")?.map(|it| it as f64),
        _ => n.opt_float("seed")?,
    };
    match seed {
        Some(seed) => {
            let words = [(seed as f32).to_bits(), 0];
            let key = Tensor::from_slice(DType::U32, [2], &words).expect("two words");
            let key = e.graph.add_constant(key);
            Ok(Random { graph: &mut e.graph, key, number: 0 })
        }
        None => {
            let (key, number) = (e.graph.random_key()?, e.randoms);
            e.randoms += 1;
            Ok(Random { graph: &mut e.graph, key, number })
        }
    }
}

fn given(n: &Node) -> Result<(DType, Shape), Error> {
    let shape = n.sizes("shape")?.ok_or_else(|| n.error("attribute 'shape' is missing"))?;
    Ok((dtype(n)?.unwrap_or(DType::F32), Shape::new(&shape)))
}

fn like(e: &Emit, n: &Node) -> Result<(DType, Shape), Error> {
    let x = n.input(0)?;
    Ok((dtype(n)?.unwrap_or(e.dtype(x)), e.shape(x)))
}

fn dtype(n: &Node) -> Result<Option<DType>, Error> {
    let Some(code) = n.opt_int("dtype")? else { return Ok(None) };
    let code = i32::try_from(code).unwrap_or(-1);
    tensor::dtype(code).map(Some).map_err(|what| n.unsupported(format!("the result {what}")))
}
