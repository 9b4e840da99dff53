//! Random graphs with inputs for them: every family of ops, small shapes, values that stay tame.

use wgfuse_compiler::{
    dtype::DType,
    error::Error,
    graph::{
        Graph, Op, PadMode, Value,
        builder::{Geometry, GraphBuilder},
    },
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
};

use crate::random::Random;

/// A graph on f32 tensors (with i64 indices) and a tensor for each of its inputs. The same seed gives the same graph.
pub fn random_graph(seed: u64) -> (Graph, Vec<Tensor>) {
    let mut maker = Maker { random: Random::new(seed), builder: GraphBuilder::new(), values: Vec::new() };
    let graph = maker.graph();
    let graph = graph.unwrap_or_else(|error| panic!("seed {seed} makes no graph: {error}"));
    let mut random = Random::new(seed ^ 0x5eed);
    let inputs = graph.inputs().iter().map(|it| random.tensor(&it.ty, 4)).collect();
    (graph, inputs)
}

struct Maker {
    random: Random,
    builder: GraphBuilder,
    /// f32 tensors made so far.
    values: Vec<Value>,
}

impl Maker {
    fn graph(&mut self) -> Result<Graph, Error> {
        for at in 0..1 + self.random.below(3) {
            let shape = self.shape();
            let value = self.builder.input(format!("x{at}"), DType::F32, shape)?;
            self.values.push(value);
        }
        for _ in 0..2 + self.random.below(12) {
            let x = self.any();
            let made = self.step(x)?;
            // Anything larger is not used further.
            if self.builder.ty(made)?.shape.count() <= 4096 {
                self.values.push(made);
            }
        }
        let last = self.values.len() - 1;
        self.builder.output("last", self.values[last])?;
        for at in 0..self.random.below(3) {
            let value = self.any();
            self.builder.output(format!("y{at}"), value)?;
        }
        std::mem::take(&mut self.builder).finish()
    }

    fn step(&mut self, x: Value) -> Result<Value, Error> {
        let shape = self.builder.ty(x)?.shape.clone();
        let rank = shape.rank();
        let axis = if rank > 0 { self.random.below(rank) } else { 0 };
        let along = axis as isize;
        let vector = rank > 0;
        match self.random.below(20) {
            0..=2 => {
                let op = *self.random.pick(&[
                    UnaryOp::Neg,
                    UnaryOp::Abs,
                    UnaryOp::Tanh,
                    UnaryOp::Sigmoid,
                    UnaryOp::Gelu,
                    UnaryOp::Relu,
                    UnaryOp::Silu,
                    UnaryOp::Erf,
                    UnaryOp::Sin,
                    UnaryOp::Softplus,
                    UnaryOp::HardSwish,
                ]);
                self.builder.unary(op, x)
            }
            3..=6 => {
                let other = self.fitting(&shape)?;
                let op = *self.random.pick(&[
                    BinaryOp::Add,
                    BinaryOp::Sub,
                    BinaryOp::Mul,
                    BinaryOp::Max,
                    BinaryOp::Min,
                ]);
                let made = self.builder.binary(op, x, other)?;
                // Products of products would grow without end.
                if op == BinaryOp::Mul { self.builder.tanh(made) } else { Ok(made) }
            }
            7 => {
                let other = self.fitting(&shape)?;
                let cond = self.builder.lt(x, other)?;
                let zero = self.builder.scalar(DType::F32, 0.5);
                self.builder.select(cond, x, zero)
            }
            8 if rank > 1 => {
                let mut order: Vec<isize> = (0..rank as isize).collect();
                order.rotate_left(1 + self.random.below(rank - 1));
                self.builder.permute(x, &order)
            }
            9 if vector => self.builder.reshape(x, &[shape[0] as isize, -1]),
            10 if vector => {
                let start = self.random.below(shape[axis]);
                self.builder.slice(x, along, start as isize, shape[axis] as isize)
            }
            11 if vector => {
                let sizes: Vec<(usize, usize)> =
                    (0..rank).map(|_| (self.random.below(3), self.random.below(2))).collect();
                if self.random.below(2) == 0 {
                    return self.builder.pad(x, &sizes, 0.25);
                }
                let (before, after) = sizes.into_iter().unzip();
                self.builder.op(Op::Pad { before, after, mode: PadMode::Edge, x, fill: None })
            }
            12 if vector => {
                let flipped = self.builder.op(Op::Slice {
                    starts: (0..rank).map(|it| if it == axis { shape[it] - 1 } else { 0 }).collect(),
                    sizes: shape.clone(),
                    steps: (0..rank).map(|it| if it == axis { -1 } else { 1 }).collect(),
                    x,
                })?;
                self.builder.concat(&[x, flipped], along)
            }
            13 if vector => {
                let op = *self.random.pick(&[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]);
                let keep = self.random.below(2) == 0;
                let made = match self.random.below(2) {
                    0 => self.builder.mean(x, &[along], keep)?,
                    _ => self.builder.reduce(op, x, &[along], keep)?,
                };
                self.builder.tanh(made)
            }
            14 if vector => self.builder.softmax(x, along),
            15 if vector => {
                let scale = self.constant(&Shape::from(&shape[axis..]));
                match self.random.below(2) {
                    0 => self.builder.layer_norm(x, along, Some(scale), None, 1e-2),
                    _ => self.builder.rms_norm(x, along, Some(scale), 1e-2),
                }
            }
            16 | 17 if vector => {
                let (depth, columns) = (shape[rank - 1], 1 + self.random.below(6));
                let made = match self.random.below(2) {
                    0 => {
                        let weight = self.constant(&Shape::from([columns, depth]));
                        let bias = self.constant(&Shape::from([columns]));
                        self.builder.linear(x, weight, Some(bias))?
                    }
                    _ => {
                        let b = self.constant(&Shape::from([depth, columns]));
                        self.builder.matmul(x, b)?
                    }
                };
                self.builder.tanh(made)
            }
            18 if vector => {
                let count = 1 + self.random.below(5);
                let indices: Vec<i64> = (0..count)
                    .map(|_| self.random.below(2 * shape[axis]) as i64 - shape[axis] as i64)
                    .collect();
                let indices = Tensor::i64([count], &indices).expect("one number an element");
                let indices = self.builder.constant(indices);
                self.builder.gather(x, along, indices)
            }
            19 if rank >= 2 && shape.count() <= 1024 => {
                // Channels, then one axis of all that is left.
                let image = self.builder.reshape(x, &[1, shape[0] as isize, -1])?;
                let features = 1 + self.random.below(4);
                let weight = self.constant(&Shape::from([features, shape[0], 3]));
                let bias = self.constant(&Shape::from([features]));
                let geometry =
                    Geometry { padding: 1, stride: 1 + self.random.below(2), ..Geometry::default() };
                let made = self.builder.conv(image, weight, Some(bias), geometry)?;
                self.builder.tanh(made)
            }
            _ => self.builder.tanh(x),
        }
    }

    fn any(&mut self) -> Value {
        let at = self.random.below(self.values.len());
        self.values[at]
    }

    /// Another value that broadcasts with `shape`, or a constant made for it.
    fn fitting(&mut self, shape: &Shape) -> Result<Value, Error> {
        let other = self.any();
        let joined = self.builder.ty(other)?.shape.broadcast(shape);
        if joined.is_some_and(|it| it.count() <= 4096) {
            return Ok(other);
        }
        let mut own = shape.clone();
        for dim in &mut own.0 {
            if self.random.below(3) == 0 {
                *dim = 1;
            }
        }
        let kept = self.random.below(own.rank() + 1);
        Ok(self.constant(&Shape::from(&own[kept..])))
    }

    fn constant(&mut self, shape: &Shape) -> Value {
        let tensor = self.random.tensor(&Type::new(DType::F32, shape.clone()), 4);
        self.builder.constant(tensor)
    }

    fn shape(&mut self) -> Shape {
        (0..self.random.below(5)).map(|_| *self.random.pick(&[1, 2, 3, 4, 7, 8])).collect()
    }
}
