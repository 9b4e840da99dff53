//! Single kernels and small groups of them, each a graph, its inputs and what must come out.

use anyhow::Result;
use wgfuse::{DType, GraphBuilder, Model, ModelError, Tensor, compiler::graph::Value};

use crate::{
    random::uniform,
    truth::{RowFn, Truth, gelu, softmax},
};

/// One thing to time. Its name is also that of the same workload in a reference.
pub struct Case {
    pub name: String,
    pub work: Work,
    pub dtype: DType,
    pub truth: Truth,
    shape: CaseShape,
}

/// What the algorithm must do at least, whatever a kernel does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    Bytes(f64),
    Operations(f64),
}

/// A case's graph. `operands` are inputs or constants, in the order in which `Truth` wants them.
pub struct Made {
    pub model: Model,
    pub inputs: Vec<(String, Tensor)>,
    pub operands: Vec<Tensor>,
}

type Op = fn(&mut GraphBuilder, &[Value]) -> Result<Value, ModelError>;

enum CaseShape {
    /// `vectors` more inputs, each as long as a row.
    Rows {
        rows: usize,
        width: usize,
        vectors: usize,
        op: Op,
    },
    MatMul {
        side: usize,
    },
    /// The matrix is a constant, as weights are: [cols, depth], or [depth, cols] where it lies along the columns.
    MatVec {
        batch: usize,
        depth: usize,
        cols: usize,
        along_cols: bool,
    },
    Attention {
        batch: usize,
        heads: usize,
        length: usize,
        width: usize,
        causal: bool,
    },
}

/// All of them; `small` ones for trying the program on a software adapter.
pub fn all(small: bool) -> Vec<Case> {
    let mut all = rows(if small { (256, 512) } else { (65536, 4096) });
    for dtype in [DType::F32, DType::F16] {
        let sides = if small { [64, 128, 192, 256] } else { [1024, 2048, 4096, 8192] };
        all.extend(sides.map(|side| matmul(side, dtype)));
    }
    for dtype in [DType::F16, DType::F32] {
        let shapes = if small {
            [(256, 896), (512, 512), (128, 2000)]
        } else {
            [(4096, 14336), (8192, 8192), (2048, 32000)]
        };
        for (depth, cols) in shapes {
            all.extend([1, 4, 8].map(|batch| matvec(batch, (depth, cols), false, dtype)));
        }
        let (depth, cols) = shapes[0];
        all.extend([1, 4, 8].map(|batch| matvec(batch, (depth, cols), true, dtype)));
    }
    for dtype in [DType::F32, DType::F16] {
        let shapes = match small {
            true => [(1, 4, 64, 64, true), (1, 3, 32, 64, false), (2, 2, 128, 64, false)],
            false => [(1, 32, 512, 64, true), (1, 12, 128, 64, false), (8, 16, 1024, 64, false)],
        };
        all.extend(shapes.map(|shape| attention(shape, dtype)));
    }
    all
}

fn rows((rows, width): (usize, usize)) -> Vec<Case> {
    const EPS: f64 = 1e-5;
    let case = |name: &str, vectors, op: Op, of: RowFn| Case {
        name: format!("{name} {rows}x{width} f32"),
        work: Work::Bytes((2 * rows * width * 4) as f64),
        dtype: DType::F32,
        truth: Truth::Rows { width, of },
        shape: CaseShape::Rows { rows, width, vectors, op },
    };
    let sum = Case {
        work: Work::Bytes((rows * width * 4) as f64),
        truth: Truth::Sum,
        ..case("sum", 0, |b, x| b.sum(x[0], &[0, 1], false), |_, _| Vec::new())
    };
    vec![
        case("gelu", 0, |b, x| b.gelu_tanh(x[0]), |row, _| row.iter().map(|&it| gelu(it)).collect()),
        case(
            "gelu(x+b)*w+x",
            2,
            |b, x| {
                let sum = b.add(x[0], x[1])?;
                let bent = b.gelu_tanh(sum)?;
                let scaled = b.mul(bent, x[2])?;
                b.add(scaled, x[0])
            },
            |row, others| {
                let one = |(at, &x): (usize, &f64)| gelu(x + others[0].at(at)) * others[1].at(at) + x;
                row.iter().enumerate().map(one).collect()
            },
        ),
        case("softmax", 0, |b, x| b.softmax(x[0], -1), |row, _| softmax(row)),
        case(
            "layer_norm",
            2,
            |b, x| b.layer_norm(x[0], -1, Some(x[1]), Some(x[2]), EPS),
            |row, others| {
                let count = row.len() as f64;
                let mean = row.iter().sum::<f64>() / count;
                let var = row.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
                let one = |(at, &x): (usize, &f64)| {
                    (x - mean) / (var + EPS).sqrt() * others[0].at(at) + others[1].at(at)
                };
                row.iter().enumerate().map(one).collect()
            },
        ),
        case(
            "rms_norm",
            1,
            |b, x| b.rms_norm(x[0], -1, Some(x[1]), EPS),
            |row, others| {
                let square = row.iter().map(|it| it * it).sum::<f64>() / row.len() as f64;
                let one = |(at, &x): (usize, &f64)| x / (square + EPS).sqrt() * others[0].at(at);
                row.iter().enumerate().map(one).collect()
            },
        ),
        sum,
    ]
}

fn matmul(side: usize, dtype: DType) -> Case {
    Case {
        name: format!("matmul {side} {dtype}"),
        work: Work::Operations(2.0 * (side as f64).powi(3)),
        dtype,
        truth: Truth::Product { rows: side, depth: side, cols: side, transposed: false },
        shape: CaseShape::MatMul { side },
    }
}

fn matvec(batch: usize, (depth, cols): (usize, usize), along_cols: bool, dtype: DType) -> Case {
    let elements = depth * cols + batch * (depth + cols);
    let how = if along_cols { " along columns" } else { "" };
    Case {
        name: format!("matvec {depth}x{cols} b{batch}{how} {dtype}"),
        work: Work::Bytes((elements * dtype.size()) as f64),
        dtype,
        truth: Truth::Product { rows: batch, depth, cols, transposed: !along_cols },
        shape: CaseShape::MatVec { batch, depth, cols, along_cols },
    }
}

fn attention(
    (batch, heads, length, width, causal): (usize, usize, usize, usize, bool),
    dtype: DType,
) -> Case {
    let points = (batch * heads * length * length * width) as f64;
    let what = if causal { " causal" } else { "" };
    Case {
        name: format!("attention b{batch} h{heads} s{length} d{width}{what} {dtype}"),
        // Two products; of a causal one half is needed.
        work: Work::Operations(points * if causal { 2.0 } else { 4.0 }),
        dtype,
        truth: Truth::Attention { heads: batch * heads, length, width, causal },
        shape: CaseShape::Attention { batch, heads, length, width, causal },
    }
}

impl Case {
    /// The graph with random operands that `seed` determines.
    pub fn make(&self, seed: u64) -> Result<Made> {
        let mut b = GraphBuilder::new();
        let mut made = Operands { seed, dtype: self.dtype, inputs: Vec::new(), all: Vec::new() };
        let output = match self.shape {
            CaseShape::Rows { rows, width, vectors, op } => {
                // A sum of numbers of both signs is all cancellation.
                let low = if matches!(self.truth, Truth::Sum) { 0.0 } else { -3.0 };
                let mut x = vec![made.input(&mut b, &[rows, width], low, 3.0)?];
                for _ in 0..vectors {
                    x.push(made.input(&mut b, &[width], 0.5, 1.5)?);
                }
                op(&mut b, &x)?
            }
            CaseShape::MatMul { side } => {
                let x = made.input(&mut b, &[side, side], -1.0, 1.0)?;
                let y = made.input(&mut b, &[side, side], -1.0, 1.0)?;
                b.matmul(x, y)?
            }
            CaseShape::MatVec { batch, depth, cols, along_cols } => {
                let x = made.input(&mut b, &[batch, depth], -1.0, 1.0)?;
                let shape = if along_cols { [depth, cols] } else { [cols, depth] };
                let weight = made.next(&shape, -1.0, 1.0);
                let weight = b.constant(weight);
                if along_cols { b.matmul(x, weight)? } else { b.linear(x, weight, None)? }
            }
            CaseShape::Attention { batch, heads, length, width, causal } => {
                let shape = [batch, heads, length, width];
                let mut next = || made.input(&mut b, &shape, -2.0, 2.0);
                let [q, k, v] = [next()?, next()?, next()?];
                b.attention(q, k, v, None, causal)?
            }
        };
        b.output("output", output)?;
        Ok(Made { model: Model::from_graph(b.finish()?), inputs: made.inputs, operands: made.all })
    }

    /// The largest relative Frobenius error that is still right.
    pub fn bound(&self) -> f64 {
        match self.dtype {
            DType::F16 => 5e-3,
            _ => 1e-5,
        }
    }
}

struct Operands {
    seed: u64,
    dtype: DType,
    inputs: Vec<(String, Tensor)>,
    all: Vec<Tensor>,
}

impl Operands {
    fn next(&mut self, shape: &[usize], low: f32, high: f32) -> Tensor {
        self.seed += 1;
        let tensor = uniform(self.seed, self.dtype, shape, low, high);
        self.all.push(tensor.clone());
        tensor
    }

    fn input(
        &mut self,
        b: &mut GraphBuilder,
        shape: &[usize],
        low: f32,
        high: f32,
    ) -> Result<Value, ModelError> {
        let tensor = self.next(shape, low, high);
        let name = format!("x{}", self.inputs.len());
        self.inputs.push((name.clone(), tensor));
        b.input(name, self.dtype, shape)
    }
}

#[cfg(test)]
mod tests {
    use wgfuse::{Device, Session};

    use super::*;
    use crate::{random::Values, truth};

    /// The processor's path and the float64 truth are written independently.
    #[test]
    fn small_cases_are_right_on_the_processor() {
        for case in all(true) {
            let made = case.make(5).unwrap();
            let session = Session::new(&made.model, &Device::cpu()).unwrap();
            let given: Vec<_> = made.inputs.iter().map(|it| (it.0.as_str(), it.1.clone())).collect();
            let outputs = session.run(&given).unwrap();
            let operands: Vec<Values> = made.operands.iter().map(Values::of).collect();
            let error = truth::error(case.truth, &operands, Values::of(&outputs[0]), 6);
            assert!(error < case.bound(), "{}: {error}", case.name);
        }
    }
}
