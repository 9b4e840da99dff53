//! The CPU path against the slow evaluators: whole graphs, and kernels of every skeleton and type with random bodies.

use std::collections::BTreeMap;

use wgfuse_compiler::{
    dtype::{Class, DType},
    error::Error,
    graph::{
        Op, Window,
        builder::{Geometry, GraphBuilder},
        eval::eval,
    },
    index::Index,
    lower::{self, Body, Coords, Definition, Expr, ExprId, TensorId, TensorInfo},
    options::Options,
    partition, passes,
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    schedule::{self, AttentionTile, Kernel, PlainAttention, RowForm, Skeleton, Stage, Store, Team, Tile},
    shape::{Shape, Type},
    target::{Place, Target},
    tensor::Tensor,
};
use wgfuse_tests::{
    compare::{assert_close, difference},
    host::{self, Infos, Memory},
    random::Random,
};

/// Fused and not, for the processor, against the graph's evaluator.
fn graph(what: &str, tolerance: f64, build: impl Fn(&mut GraphBuilder) -> Result<(), Error>) {
    let mut builder = GraphBuilder::new();
    build(&mut builder).unwrap();
    let graph = builder.finish().unwrap();
    let mut random = Random::new(11);
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 5)).collect();
    let expected = eval(&graph, &inputs).unwrap();
    for fuse in [false, true] {
        let (target, options) = (Target::cpu(), Options { fuse, ..Options::default() });
        let graph = passes::optimise(graph.clone(), &target, &options).unwrap();
        let parts = partition::split(&graph, &target, &options).unwrap();
        let constants = eval(&parts.constants, &[]).unwrap();
        let schedule = schedule::schedule(lower::lower(&parts), &target, &options);
        let have = host::run(&schedule, &inputs, &constants);
        assert_close(&format!("{what}, fuse {fuse}"), &have, &expected, tolerance, tolerance);
    }
}

#[test]
fn pointwise_with_views() {
    graph("pointwise", 1e-5, |b| {
        let x = b.input("x", DType::F32, [7, 40, 9])?;
        let y = b.input("y", DType::F32, [40, 1])?;
        let a = b.exp(x)?;
        let a = b.mul(a, y)?;
        let a = b.transpose(a, 0, 1)?;
        let a = b.tanh(a)?;
        let a = b.reshape(a, &[20, 14, 9])?;
        let a = b.slice(a, 1, 3, 13)?;
        let a = b.pad(a, &[(0, 1), (2, 0), (1, 1)], 0.5)?;
        let a = b.gelu(a)?;
        b.output("o", a)?;
        let c = b.concat(&[x, x, x], 1)?;
        let c = b.sigmoid(c)?;
        b.output("c", c)
    });
}

#[test]
fn gathers() {
    graph("gather", 1e-5, |b| {
        let ids = b.input("ids", DType::I64, [3, 17])?;
        let table = b.input("table", DType::F32, [5, 33])?;
        let x = b.embedding(table, ids)?;
        let x = b.mul_scalar(x, 2.0)?;
        b.output("o", x)
    });
}

#[test]
fn reductions_and_norms() {
    for shape in [[3, 5, 40], [70, 9, 3], [2, 3, 1500], [1, 2, 20000]] {
        graph("rows", 1e-5, |b| {
            let x = b.input("x", DType::F32, shape)?;
            for axis in 0..3 {
                let s = b.softmax(x, axis)?;
                b.output(format!("softmax{axis}"), s)?;
                let s = b.max(x, &[axis], false)?;
                b.output(format!("max{axis}"), s)?;
                let s = b.mean(x, &[axis], true)?;
                b.output(format!("mean{axis}"), s)?;
            }
            let n = b.layer_norm(x, -1, None, None, 1e-5)?;
            b.output("norm", n)?;
            let i = b.argmax(x, 1, false)?;
            b.output("argmax", i)
        });
    }
}

#[test]
fn products() {
    for [batch, m, k, n] in
        [[1, 5, 8, 9], [1, 128, 96, 70], [1, 1, 300, 130], [6, 20, 33, 17], [1, 3, 40, 300]]
    {
        graph(&format!("matmul {batch} {m} {k} {n}"), 2e-5, |b| {
            let x = b.input("x", DType::F32, [batch, m, k])?;
            let w = b.input("w", DType::F32, [k, n])?;
            let y = b.input("y", DType::F32, [batch, k, n])?;
            let bias = b.input("bias", DType::F32, [n])?;
            let p = b.matmul(x, w)?;
            b.output("plain", p)?;
            let q = b.matmul(p, bias)?;
            b.output("vector", q)?;
            let q = b.matmul(x, y)?;
            let q = b.add(q, bias)?;
            let q = b.gelu(q)?;
            b.output("fused", q)?;
            let t = b.transpose(q, 1, 2)?;
            let e = b.tanh(t)?;
            let s = b.matmul(e, x)?;
            let s = b.transpose(s, 1, 2)?;
            b.output("transposed", s)
        });
    }
}

#[test]
fn convolutions_and_pools() {
    for (groups, stride, padding, dilation) in
        [(1, 1, 1, 1), (1, 2, 0, 1), (2, 1, 2, 2), (8, 1, 1, 1), (8, 2, 1, 1)]
    {
        graph(&format!("conv {groups} {stride} {padding} {dilation}"), 2e-5, |b| {
            let x = b.input("x", DType::F32, [2, 8, 13, 14])?;
            let w = b.input("w", DType::F32, [16, 8 / groups, 3, 3])?;
            let bias = b.input("bias", DType::F32, [16])?;
            let y = b.conv2d(x, w, Some(bias), Geometry { stride, padding, dilation, groups })?;
            let y = b.relu(y)?;
            b.output("o", y)?;
            let z = b.max_pool(y, &[3, 3], Geometry { stride: 2, padding: 1, ..Geometry::default() })?;
            b.output("pool", z)
        });
    }
}

/// Of what is read of no elements nothing is left but expressions that nothing needs.
#[test]
fn convolution_over_no_elements() {
    graph("no images", 0.0, |b| {
        let x = b.input("x", DType::F32, [0, 4, 8])?;
        let before = b.full(DType::F32, [0, 4, 3], 0.0)?;
        let all = b.concat(&[before, x], 2)?;
        let w = b.input("w", DType::F32, [4, 1, 4])?;
        let y = b.op(Op::Conv { window: Window::unit(1).into(), groups: 4, x: all, w, bias: None })?;
        let y = b.sigmoid(y)?;
        b.output("o", y)
    });
}

#[test]
fn rows_of_no_elements_in_many_axes() {
    graph("no rows", 0.0, |b| {
        let x = b.input("x", DType::F32, [2, 2, 4, 0, 2, 2, 255])?;
        let rows = b.reshape(x, &[16, 0])?;
        let rows = b.softmax(rows, 1)?;
        let y = b.reshape(rows, &[2, 2, 4, 0, 2, 2, 255])?;
        let y = b.exp(y)?;
        b.output("o", y)
    });
}

#[test]
fn convolution_of_a_small_image() {
    graph("small image", 2e-5, |b| {
        let x = b.input("x", DType::F32, [2, 16, 5, 5])?;
        let w = b.input("w", DType::F32, [64, 16, 3, 3])?;
        let y = b.conv2d(x, w, None, Geometry { padding: 1, ..Geometry::default() })?;
        let y = b.sigmoid(y)?;
        b.output("o", y)
    });
}

#[test]
fn attention_between_projections() {
    for causal in [false, true] {
        graph("attention", 2e-5, |b| {
            let x = b.input("x", DType::F32, [2, 40, 24])?;
            let mask = b.input("mask", DType::F32, [2, 1, 1, 40])?;
            let mut heads = Vec::new();
            for name in ["q", "k", "v"] {
                let w = b.input(name, DType::F32, [24, 24])?;
                let y = b.linear(x, w, None)?;
                let y = b.reshape(y, &[2, 40, 3, 8])?;
                heads.push(b.transpose(y, 1, 2)?);
            }
            let y = b.attention(heads[0], heads[1], heads[2], Some(mask), causal)?;
            let y = b.transpose(y, 1, 2)?;
            let y = b.reshape(y, &[2, 40, 24])?;
            let w = b.input("w", DType::F32, [24, 24])?;
            let y = b.linear(y, w, None)?;
            let y = b.add(y, x)?;
            b.output("o", y)
        });
    }
}

/// A kernel under construction, with its tensors and their values.
struct Case {
    infos: Infos,
    inputs: Vec<(TensorId, Tensor)>,
    body: Body,
    stores: Vec<Store>,
    random: Random,
}

impl Case {
    fn new(seed: u64) -> Case {
        let body = Body::default();
        Case { infos: Infos::default(), inputs: vec![], body, stores: vec![], random: Random::new(seed) }
    }

    fn tensor(&mut self, ty: Type, definition: Definition) -> TensorId {
        self.infos.insert(TensorInfo { ty, definition, origin: "test".into() })
    }

    fn input(&mut self, dtype: DType, shape: &[usize]) -> TensorId {
        let ty = Type::new(dtype, shape);
        let values = (0..ty.shape.count()).map(|_| match dtype.class() {
            Class::Float => Scalar::of(dtype, self.random.unit() * 3.0),
            Class::Bool => Scalar::Int(self.random.below(2) as i64),
            Class::Signed | Class::Unsigned => {
                Scalar::Int(self.random.below(200) as i64 - 100).cast(DType::I64, dtype)
            }
        });
        let values = Tensor::from_scalars(ty.clone(), values.collect::<Vec<_>>());
        let id = self.tensor(ty, Definition::Input(self.inputs.len() as u32));
        self.inputs.push((id, values));
        id
    }

    /// A read at loop variables of these extents; `None` reads element 0.
    fn load(&mut self, tensor: TensorId, vars: &[Option<(usize, usize)>]) -> ExprId {
        let at = vars.iter().map(|it| it.map_or(Index::constant(0), |(var, extent)| Index::var(var, extent)));
        let dtype = self.infos[tensor].ty.dtype;
        self.body.add(Expr::Load { tensor, at: at.collect(), guard: None }, dtype)
    }

    fn store(&mut self, value: ExprId, shape: &[usize], at: Coords) {
        let tensor = self.tensor(Type::new(self.body.dtype(value), shape), Definition::Nest(0));
        self.stores.push(Store { tensor, at, value });
    }

    /// Runs the kernel both ways and compares.
    fn check(self, what: &str, skeleton: Skeleton, tolerance: f64) {
        let mut tensors: Vec<TensorId> = self.inputs.iter().map(|(id, _)| *id).collect();
        tensors.extend(self.stores.iter().map(|it| it.tensor));
        let kernel = Kernel {
            name: what.into(),
            place: Place::Cpu,
            origins: vec![],
            ops: vec![],
            body: self.body,
            skeleton,
            stores: self.stores,
            tensors,
        };
        let mut slow = lower::eval::Memory::new();
        let mut memory = BTreeMap::new();
        for (id, tensor) in &self.inputs {
            slow.insert(*id, tensor.scalars().collect());
            memory.insert(*id, Memory::of(tensor));
        }
        schedule::eval::eval_kernel(&kernel, &self.infos, &mut slow);
        host::run_kernel(&kernel, &self.infos, &mut memory);
        for store in &kernel.stores {
            let ty = self.infos[store.tensor].ty.clone();
            let expected = Tensor::from_scalars(ty.clone(), slow[store.tensor].iter().copied());
            let have = memory.get_mut(&store.tensor).unwrap().tensor();
            let exact = if ty.dtype.is_float() { tolerance.max(step(ty.dtype)) } else { 0.0 };
            if let Some(found) = difference(&have, &expected, exact, exact) {
                panic!("{what}: {found}\n{:#?}", kernel.body.iter().collect::<Vec<_>>());
            }
        }
    }
}

/// A few units in the last place.
fn step(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        DType::F32 => 1e-5,
        _ => 1e-12,
    }
}

const CHUNKS: RowForm =
    RowForm { team: Team::Workgroup { size: 64, subgroup: None }, lanes: 1, steps: 4, early: false };
const TILE: Tile = Tile::Direct { workgroup: 64 };

fn axes(shape: &[usize]) -> Coords {
    shape.iter().enumerate().map(|(axis, extent)| Index::var(axis, *extent)).collect()
}

/// One more expression over those in `pool`.
fn grow(case: &mut Case, pool: &mut Vec<ExprId>) {
    let x = *case.random.pick(pool);
    let of = case.body.dtype(x);
    let like: Vec<ExprId> = pool.iter().copied().filter(|it| case.body.dtype(*it) == of).collect();
    let y = *case.random.pick(&like);
    let next = match case.random.below(8) {
        0 | 1 => {
            // Operators without poles, so that rounding differences stay small.
            let ops = [
                UnaryOp::Neg,
                UnaryOp::Abs,
                UnaryOp::Sign,
                UnaryOp::Exp,
                UnaryOp::Sin,
                UnaryOp::Cos,
                UnaryOp::Atan,
                UnaryOp::Tanh,
                UnaryOp::Asinh,
                UnaryOp::Erf,
                UnaryOp::Not,
                UnaryOp::IsNan,
                UnaryOp::IsInf,
                UnaryOp::Relu,
                UnaryOp::Sigmoid,
                UnaryOp::Silu,
                UnaryOp::Gelu,
                UnaryOp::GeluTanh,
                UnaryOp::HardSwish,
                UnaryOp::Softplus,
            ];
            let op = *case.random.pick(&ops);
            if op.result(of).is_none() {
                return;
            }
            // Keeps values of floats from exploding.
            let arg = if of.is_float() && op == UnaryOp::Exp { case.body.unary(UnaryOp::Tanh, x) } else { x };
            case.body.unary(op, arg)
        }
        2..=4 => {
            let op = *case.random.pick(BinaryOp::ALL);
            let smooth = matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Max | BinaryOp::Min);
            if op.result(of).is_none() || (of.is_float() && !smooth) {
                return;
            }
            case.body.binary(op, x, y)
        }
        5 => {
            let conditions: Vec<ExprId> =
                pool.iter().copied().filter(|it| case.body.dtype(*it) == DType::Bool).collect();
            let condition = *case.random.pick(&conditions);
            case.body.select(condition, x, y)
        }
        _ => {
            // From floats to integers a rounding difference would become a whole one.
            let to = *case.random.pick(&DType::ALL);
            if of.is_float() && !to.is_float() {
                return;
            }
            case.body.cast(to, x)
        }
    };
    pool.push(next);
}

#[test]
fn random_bodies_of_every_type() {
    for seed in 0..60 {
        let mut case = Case::new(seed);
        let space = [[3, 5, 7], [4, 1, 300], [1, 1, 1], [2, 1024, 1], [6, 10, 35]][seed as usize % 5];
        let [a, b, c] = space;
        let mut pool = Vec::new();
        for dtype in DType::ALL {
            let dense = case.input(dtype, &space);
            let turned = case.input(dtype, &[c, a]);
            let row = case.input(dtype, &[1, b, 1]);
            pool.push(case.load(dense, &[Some((0, a)), Some((1, b)), Some((2, c))]));
            pool.push(case.load(turned, &[Some((2, c)), Some((0, a))]));
            pool.push(case.load(row, &[None, Some((1, b)), None]));
            pool.push(case.body.constant(dtype, 3.0));
        }
        let linear = wgfuse_compiler::index::linearise(&axes(&space), &space);
        let numbers = [linear.div(3), linear.modulo(4), Index::var(1, b).mul(2).add(&Index::var(2, c))];
        for index in numbers {
            pool.push(case.body.add(Expr::Coord(index.clone()), DType::I64));
            pool.push(case.body.add(Expr::Coord(index), DType::I32));
        }
        for _ in 0..60 {
            grow(&mut case, &mut pool);
        }
        for value in pool.split_off(pool.len() - 20) {
            case.store(value, &space, axes(&space));
        }
        case.check(
            &format!("seed {seed}"),
            Skeleton::Map { space: space.into(), workgroup: 64, lanes: 1 },
            0.0,
        );
    }
}

#[test]
fn guarded_and_computed_reads() {
    for seed in 0..40 {
        let mut case = Case::new(seed);
        let space = [[5, 6, 8], [3, 20, 40]][seed as usize % 2];
        let dtype = *case.random.pick(&DType::ALL);
        let from = case.input(dtype, &[7, 9]);
        let picks = case.input(DType::I64, &[space[2]]);
        let picked = case.load(picks, &[Some((2, space[2]))]);
        let (low, high) = (case.body.constant(DType::I64, 0.0), case.body.constant(DType::I64, 6.0));
        let picked = case.body.binary(BinaryOp::Max, picked, low);
        let picked = case.body.binary(BinaryOp::Min, picked, high);
        // Coordinates that leave the tensor, on both sides.
        let steps = [-2, -1, 1, 2];
        let mut random = Random::new(seed + 1000);
        let mut place = |axis: usize| {
            let one = Index::var(axis, space[axis]).mul(*random.pick(&steps));
            let other = Index::var((axis + 1) % 3, space[(axis + 1) % 3]);
            let sum = match random.below(3) {
                0 => one,
                1 => one.add(&other.div(2)),
                _ => one.add(&other.modulo(3)),
            };
            sum.offset_by(random.below(9) as i64 - 2)
        };
        let at = [place(0), place(1)];
        let integer = if seed % 3 == 0 { DType::I64 } else { DType::I32 };
        let mut guard = None;
        for (index, extent) in at.iter().zip([7.0, 9.0]) {
            let value = case.body.add(Expr::Coord(index.clone()), integer);
            let (none, end) = (case.body.constant(integer, 0.0), case.body.constant(integer, extent));
            let lower = match seed % 2 {
                0 => case.body.binary(BinaryOp::Ge, value, none),
                _ => case.body.binary(BinaryOp::Le, none, value),
            };
            let upper = case.body.binary(BinaryOp::Lt, value, end);
            guard = case.body.and(guard, Some(lower));
            guard = case.body.and(guard, Some(upper));
        }
        if seed % 5 == 0 {
            // Not a conjunction of bounds.
            let odd = case.body.binary(BinaryOp::Ne, picked, low);
            guard = case.body.and(guard, Some(odd));
        }
        let value = case.body.add(Expr::Load { tensor: from, at: at.into_iter().collect(), guard }, dtype);
        let row = Index::data(picked.0, 0, 6);
        let col = Index::var(0, space[0]).modulo(3);
        let at = [row, col].into_iter().collect();
        let gathered = case.body.add(Expr::Load { tensor: from, at, guard: None }, dtype);
        // Stored in another order.
        let turned: Coords = [2, 0, 1].iter().map(|axis| Index::var(*axis, space[*axis])).collect();
        case.store(value, &[space[2], space[0], space[1]], turned);
        case.store(gathered, &space, axes(&space));
        case.check(
            &format!("seed {seed}"),
            Skeleton::Map { space: space.into(), workgroup: 64, lanes: 1 },
            0.0,
        );
    }
}

#[test]
fn rows_of_every_type() {
    let ops = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod];
    let shapes = [(40, 7), (1, 1), (300, 9), (3, 2000), (2, 17000), (5, 0), (1100, 2)];
    for (number, dtype) in DType::ALL.into_iter().enumerate() {
        for (rows, points) in shapes {
            for (turned, op) in [false, true].into_iter().flat_map(|it| ops.map(|op| (it, op))) {
                let costly = points > 1000 && (number % 4 != 0 || op == ReduceOp::Prod);
                if costly || (dtype == DType::Bool && matches!(op, ReduceOp::Sum | ReduceOp::Prod)) {
                    continue;
                }
                let mut case = Case::new(number as u64);
                let (row, point) = (Some((0, rows)), Some((1, points)));
                let x = match turned {
                    false => {
                        let x = case.input(dtype, &[rows, points]);
                        case.load(x, &[row, point])
                    }
                    true => {
                        let x = case.input(dtype, &[points, rows]);
                        case.load(x, &[point, row])
                    }
                };
                let first = case.body.add(Expr::Param(0), dtype);
                let joined = case.body.binary(BinaryOp::Max, x, first);
                let second = case.body.add(Expr::Param(1), dtype);
                let both = case.body.binary(BinaryOp::Min, joined, second);
                let index = Index::var(0, rows);
                case.store(first, &[rows], [index.clone()].into_iter().collect());
                if points > 0 {
                    let at = [index.clone(), Index::var(1, points)];
                    case.store(both, &[rows, points], at.into_iter().collect());
                }
                case.store(second, &[rows], [index].into_iter().collect());
                let stages = vec![Stage { op, value: x }, Stage { op: ReduceOp::Max, value: joined }];
                let skeleton =
                    Skeleton::Rows { outer: [rows].into(), inner: [points].into(), stages, form: CHUNKS };
                case.check(&format!("{dtype} {} {rows} {points} {turned}", op.name()), skeleton, 2e-5);
            }
        }
    }
}

#[test]
fn products_of_every_type() {
    let sizes = [(1, 4, 5, 6), (2, 33, 40, 30), (3, 1, 9, 50), (1, 70, 3, 2), (2, 5, 0, 4)];
    let dtypes = DType::ALL.into_iter().filter(|it| *it != DType::Bool);
    for (dtype, (batch, m, k, n)) in dtypes.flat_map(|dtype| sizes.map(|it| (dtype, it))) {
        for way in 0..4 {
            let mut case = Case::new(way);
            let [b, r, c, d] = [(0, batch), (1, m), (2, n), (3, k)].map(Some);
            let a = case.input(dtype, &[batch, m, k]);
            let a = case.load(a, &[b, r, d]);
            let (mut w, w_turned) = match way % 2 {
                0 => (case.input(dtype, &[batch, k, n]), false),
                _ => (case.input(dtype, &[n, k]), true),
            };
            let x = match w_turned {
                false => case.load(w, &[b, d, c]),
                true => case.load(w, &[c, d]),
            };
            // Computed factors on one side or both.
            let a = if way == 1 || way == 2 { case.body.unary(UnaryOp::Neg, a) } else { a };
            let x = if way >= 2 { case.body.unary(UnaryOp::Relu, x) } else { x };
            let sum = case.body.add(Expr::Param(0), dtype);
            let shape = [batch, m, n];
            if way == 0 {
                case.store(sum, &shape, axes(&shape));
            } else {
                w = case.input(dtype, &[n]);
                let bias = case.load(w, &[c]);
                let value = case.body.binary(BinaryOp::Add, sum, bias);
                let turned: Coords = [1, 2, 0].iter().map(|axis| Index::var(*axis, shape[*axis])).collect();
                case.store(value, &shape, axes(&shape));
                case.store(sum, &[m, n, batch], turned);
            }
            let one = |var: usize| [var].into_iter().collect();
            let skeleton = Skeleton::Contract {
                space: Shape::new(&shape),
                depth: [k].into(),
                batch: one(0),
                rows: one(1),
                cols: one(2),
                a,
                b: x,
                others: vec![],
                sums: Vec::new(),
                tile: TILE,
            };
            case.check(&format!("{dtype} {batch} {m} {k} {n} way {way}"), skeleton, 1e-4);
        }
    }
}

#[test]
fn attention_of_every_float() {
    for (dtype, seed) in [DType::F16, DType::BF16, DType::F32, DType::F64].into_iter().zip(0..) {
        for (masked, zero_masked) in [(false, false), (true, false), (true, true)] {
            let mut case = Case::new(seed);
            let [batch, heads, queries, keys, channels, values] = [2, 3, 20, 18, 8, 5];
            let [b, h, s, e, t, d] =
                [(0, batch), (1, heads), (2, queries), (3, values), (4, keys), (5, channels)].map(Some);
            let q = case.input(dtype, &[batch, queries, heads, channels]);
            let k = case.input(dtype, &[batch, heads, keys, channels]);
            let v = case.input(dtype, &[batch, heads, values, keys]);
            let q = case.load(q, &[b, s, h, d]);
            let k = case.load(k, &[b, h, t, d]);
            let v = case.load(v, &[b, h, e, t]);
            let mask = masked.then(|| {
                let bits = case.input(DType::Bool, &[queries, keys]);
                let bit = case.load(bits, &[s, t]);
                let minus = case.body.constant(dtype, f64::NEG_INFINITY);
                let own = case.input(dtype, &[batch, keys]);
                let own = case.load(own, &[b, t]);
                // Whole rows without any key.
                let third = case.body.add(Expr::Coord(Index::var(2, queries).modulo(5)), DType::I32);
                let zero = case.body.constant(DType::I32, 0.0);
                let all = case.body.binary(BinaryOp::Eq, third, zero);
                let bit = case.body.binary(BinaryOp::Or, bit, all);
                case.body.select(bit, minus, own)
            });
            let result = case.body.add(Expr::Param(0), dtype);
            let shape = [batch, heads, queries, values];
            let turned: Coords = [0, 2, 1, 3].iter().map(|axis| Index::var(*axis, shape[*axis])).collect();
            case.store(result, &[batch, queries, heads, values], turned);
            let skeleton = Skeleton::Attention {
                space: Shape::new(&shape),
                keys,
                channels,
                scale: 0.35,
                zero_masked,
                q,
                k,
                v,
                mask,
                last_key: None,
                tile: AttentionTile::Plain(PlainAttention {
                    size: 64,
                    rows: 8,
                    across: 8,
                    heads: 1,
                    parts: 1,
                    hold_keys: true,
                    hold_values: true,
                }),
            };
            case.check(&format!("{dtype} masked {masked} {zero_masked}"), skeleton, 1e-5);
        }
    }
}
