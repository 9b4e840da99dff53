//! Whole models of well-known sizes, built in Rust with random weights: what is timed does not depend on the values.

mod bert;
mod resnet;
mod llama;

use anyhow::Result;
use wgfuse::{DType, GraphBuilder, Model, ModelError, Session, Tensor, Type, compiler::graph::Value};

use crate::random::uniform;

use self::{bert::Bert, llama::Llama, resnet::ResNet};

type Built<T> = std::result::Result<T, ModelError>;

/// One model at one batch size and dtype.
pub struct ModelCase {
    pub name: String,
    pub dtype: DType,
    pub batch: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bert(Bert),
    ResNet(ResNet),
    Prefill(Llama),
    Decode(Llama),
}

/// A graph, and inputs whose last example is the same at every batch size.
pub struct MadeModel {
    pub model: Model,
    pub inputs: Vec<(String, Tensor)>,
    /// What the states are before a run.
    pub states: Vec<(String, Tensor)>,
}

impl MadeModel {
    pub fn set_states(&self, session: &Session) -> Result<()> {
        self.states.iter().try_for_each(|(name, value)| Ok(session.set_state(name, value)?))
    }

    /// What one run gives, and then what it leaves in the states.
    pub fn answer(&self, session: &Session) -> Result<Vec<Tensor>> {
        self.set_states(session)?;
        let given: Vec<_> = self.inputs.iter().map(|it| (it.0.as_str(), it.1.clone())).collect();
        let mut all: Vec<Tensor> = session.run(&given)?.into_iter().map(|it| it.1).collect();
        for (name, _) in &self.states {
            all.push(session.state(name)?);
        }
        Ok(all)
    }
}

/// All of them, those with one `plain` form together; `small` ones for trying the program on a software adapter.
pub fn all(small: bool) -> Vec<ModelCase> {
    let (mini, base, resnet, llama) = match small {
        false => (Bert::MINILM, Bert::BASE, ResNet::FIFTY, Llama::TINY),
        true => (Bert::SMALL, Bert::SMALL, ResNet::SMALL, Llama::SMALL),
    };
    let (one, many) = (&[1][..], &[1, if small { 3 } else { 32 }][..]);
    let kinds = [
        ("minilm", Kind::Bert(mini), many),
        ("bert-base", Kind::Bert(base), many),
        ("resnet50", Kind::ResNet(resnet), many),
        ("llama-1.1b prefill", Kind::Prefill(llama), one),
        ("llama-1.1b decode", Kind::Decode(llama), one),
    ];
    let mut all = Vec::new();
    for (name, kind, batches) in kinds {
        for (dtype, &batch) in DTYPES.iter().flat_map(|&dtype| batches.iter().map(move |it| (dtype, it))) {
            let sizes = match kind {
                Kind::Bert(it) => format!("b{batch} s{}", it.length),
                Kind::ResNet(_) => format!("b{batch}"),
                Kind::Prefill(it) | Kind::Decode(it) => it.length.to_string(),
            };
            all.push(ModelCase { name: format!("{name} {sizes} {dtype}"), dtype, batch, kind });
        }
    }
    all
}

const DTYPES: [DType; 2] = [DType::F32, DType::F16];

impl ModelCase {
    pub fn make(&self, seed: u64) -> Result<MadeModel> {
        let mut b = GraphBuilder::new();
        let mut parts = Parts {
            seed,
            dtype: self.dtype,
            batch: self.batch,
            made: 0,
            inputs: Vec::new(),
            states: Vec::new(),
        };
        match self.kind {
            Kind::Bert(it) => it.build(&mut b, &mut parts)?,
            Kind::ResNet(it) => it.build(&mut b, &mut parts)?,
            Kind::Prefill(it) => it.prefill(&mut b, &mut parts)?,
            Kind::Decode(it) => it.decode(&mut b, &mut parts)?,
        }
        let Parts { inputs, states, .. } = parts;
        Ok(MadeModel { model: Model::from_graph(b.finish()?), inputs, states })
    }

    /// The same model in f32 with a batch of one: what its last example is compared with.
    pub fn plain(&self) -> ModelCase {
        ModelCase { name: String::new(), dtype: DType::F32, batch: 1, kind: self.kind }
    }

    /// Whether both have one `plain` form.
    pub fn alike(&self, other: &ModelCase) -> bool {
        self.kind == other.kind
    }

    /// The largest relative Frobenius error that is still right: rounding adds up over layers.
    pub fn bound(&self) -> f64 {
        match self.dtype {
            DType::F16 => 2e-2,
            _ => 1e-4,
        }
    }
}

/// Makes weights and inputs; the same ones, but for rounding, in the same order for every dtype and batch size.
struct Parts {
    seed: u64,
    dtype: DType,
    batch: usize,
    made: u64,
    inputs: Vec<(String, Tensor)>,
    states: Vec<(String, Tensor)>,
}

impl Parts {
    fn next_seed(&mut self) -> u64 {
        self.made += 1;
        self.seed.wrapping_mul(1_000_003).wrapping_add(self.made)
    }

    /// A weight, evenly spread.
    fn weight(&mut self, b: &mut GraphBuilder, shape: &[usize], low: f32, high: f32) -> Value {
        let tensor = uniform(self.next_seed(), self.dtype, shape, low, high);
        b.constant(tensor)
    }

    /// A weight of this standard deviation round zero.
    fn spread(&mut self, b: &mut GraphBuilder, shape: &[usize], deviation: f64) -> Value {
        let end = (deviation * 3f64.sqrt()) as f32;
        self.weight(b, shape, -end, end)
    }

    /// [out, from] that keeps a vector's scale, times `gain`; with a bias if wanted.
    fn linear(
        &mut self,
        b: &mut GraphBuilder,
        x: Value,
        [out, from]: [usize; 2],
        gain: f64,
        bias: bool,
    ) -> Built<Value> {
        let weight = self.spread(b, &[out, from], gain / (from as f64).sqrt());
        let bias = bias.then(|| self.spread(b, &[out], 0.1));
        b.linear(x, weight, bias)
    }

    /// A scalar of the model's dtype.
    fn scalar(&self, b: &mut GraphBuilder, value: f64) -> Value {
        b.scalar(self.dtype, value)
    }

    /// An input [batch, ..one]; its examples differ.
    fn input(
        &mut self,
        b: &mut GraphBuilder,
        name: &str,
        dtype: DType,
        one: &[usize],
        (low, high): (f32, f32),
    ) -> Built<Value> {
        let tensor = self.examples(dtype, one, (low, high));
        self.given(b, name, tensor)
    }

    /// A state [batch, ..one] that is so before the run.
    fn state(
        &mut self,
        b: &mut GraphBuilder,
        name: &str,
        dtype: DType,
        one: &[usize],
        range: (f32, f32),
    ) -> Built<Value> {
        let tensor = self.examples(dtype, one, range);
        let value = b.state(name, dtype, tensor.shape().clone())?;
        self.states.push((name.to_owned(), tensor));
        Ok(value)
    }

    fn examples(&mut self, dtype: DType, one: &[usize], (low, high): (f32, f32)) -> Tensor {
        let seed = self.next_seed();
        let example =
            |at: usize| uniform(seed.wrapping_add((at as u64) << 40), dtype, one, low, high).data().clone();
        let data: Vec<u8> = (0..self.batch).rev().flat_map(example).collect();
        let shape: Vec<usize> = [self.batch].iter().chain(one).copied().collect();
        Tensor::new(Type::new(dtype, &shape[..]), data.into()).expect("as many values")
    }

    /// An input of this value.
    fn given(&mut self, b: &mut GraphBuilder, name: &str, tensor: Tensor) -> Built<Value> {
        let value = b.input(name, tensor.dtype(), tensor.shape().clone())?;
        self.inputs.push((name.to_owned(), tensor));
        Ok(value)
    }
}

/// [batch, length, heads * width] to [batch, heads, length, width].
fn split_heads(b: &mut GraphBuilder, x: Value, batch: usize, heads: usize, width: usize) -> Built<Value> {
    let split = b.reshape(x, &[batch as isize, -1, heads as isize, width as isize])?;
    b.transpose(split, 1, 2)
}

/// The way back.
fn join_heads(b: &mut GraphBuilder, x: Value, batch: usize, dim: usize) -> Built<Value> {
    let x = b.transpose(x, 1, 2)?;
    b.reshape(x, &[batch as isize, -1, dim as isize])
}

#[cfg(test)]
mod tests {
    use wgfuse::Device;

    use super::*;
    use crate::{random::Values, truth};

    fn outputs(case: &ModelCase) -> Vec<Tensor> {
        let made = case.make(7).unwrap();
        let session = Session::new(&made.model, &Device::cpu()).unwrap();
        made.answer(&session).unwrap()
    }

    #[test]
    fn the_last_example_is_that_of_the_plain_form() {
        for case in all(true).iter().filter(|it| it.batch > 1 || it.dtype == DType::F16) {
            for (have, want) in outputs(case).iter().zip(outputs(&case.plain())) {
                let error = truth::error_of_last(Values::of(have), Values::of(&want));
                assert!(error < case.bound(), "{}: {error}", case.name);
            }
        }
    }

    #[test]
    fn a_decode_step_writes_its_place_of_the_cache() {
        let all = all(true);
        let case =
            all.iter().find(|it| matches!(it.kind, Kind::Decode(_)) && it.dtype == DType::F32).unwrap();
        let (made, outputs) = (case.make(7).unwrap(), outputs(case));
        let old = made.states.iter().find(|it| it.0 == "k_0").map(|it| it.1.to_f32().unwrap()).unwrap();
        // The logits, then each layer's cache.
        let new = outputs[1].to_f32().unwrap();
        let &[_, heads, length, width] = &outputs[1].shape()[..] else { panic!("a cache has four axes") };
        for head in 0..heads {
            let rows = |of: &[f32]| of[head * length * width..][..length * width].to_vec();
            let (old, new) = (rows(&old), rows(&new));
            assert_eq!(old[..(length - 1) * width], new[..(length - 1) * width]);
            assert_ne!(old[(length - 1) * width..], new[(length - 1) * width..]);
        }
    }
}
