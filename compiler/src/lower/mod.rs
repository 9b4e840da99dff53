//! Graph to loops: one nest a node, every choice still open.
//!
//! In: a partitioned graph. Out: `Loops`, in which each nest writes one tensor and says, for one point of its space,
//! what is read and computed. Views have become index arithmetic; composite ops have become the few nests that they
//! mean. Nothing is fused, tiled or ordered here. What is narrower than f32 is summed in f32.

pub mod body;
mod elementwise;
pub mod eval;
pub mod nest;
mod norm;
mod product;
pub mod text;
pub mod verify;
mod view;
mod window;

use std::sync::Arc;

use slotmap::{SecondaryMap, SlotMap, new_key_type};

pub use body::{Body, Coords, Expr, ExprId};
pub use nest::{Nest, NestKind};

use crate::{
    dtype::DType,
    graph::{Graph, Op, State, Value},
    index::Index,
    partition::Partition,
    scalar::Scalar,
    shape::{Shape, Type},
    target::Place,
};

/// Longer constants are not searched for a rule in their elements.
const COUNTED: usize = 1 << 16;

new_key_type! {
    /// A tensor that loops read or write.
    pub struct TensorId;
}

/// Who writes a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Definition {
    /// The caller: number of the graph's inputs.
    Input(u32),
    /// Number of the outputs of `Partition::constants`.
    Constant(u32),
    /// `Loops::nests` at this position.
    Nest(usize),
}

#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo {
    pub ty: Type,
    pub definition: Definition,
    /// The name in the source file of what it was made for.
    pub origin: Arc<str>,
}

#[derive(Clone, Default, Debug)]
pub struct Loops {
    pub tensors: SlotMap<TensorId, TensorInfo>,
    /// Writers before readers.
    pub nests: Vec<Nest>,
    /// One an output of the graph, in order.
    pub outputs: Vec<TensorId>,
    /// Where each nest runs.
    pub places: Vec<Place>,
    pub states: Vec<State>,
}

impl PartialEq for Loops {
    fn eq(&self, other: &Loops) -> bool {
        let Loops { tensors, nests, outputs, places, states } = self;
        tensors.iter().eq(&other.tensors)
            && (nests, outputs, places, states)
                == (&other.nests, &other.outputs, &other.places, &other.states)
    }
}

pub fn lower(partition: &Partition) -> Loops {
    let mut to = Lowering {
        graph: &partition.graph,
        constants: &partition.constants,
        loops: Loops { states: partition.graph.states.clone(), ..Loops::default() },
        tensors: SecondaryMap::new(),
        origin: Arc::from(""),
        op: "",
        place: Place::Cpu,
    };
    for (value, node) in partition.graph.nodes() {
        to.origin = node.origin.clone();
        to.op = node.op.name();
        to.place = partition.places[value];
        let tensor = to.node(value, partition.arguments);
        to.tensors.insert(value, tensor);
    }
    to.loops.outputs = partition.graph.outputs.iter().map(|it| to.tensors[it.value]).collect();
    if cfg!(debug_assertions) {
        let faults = verify::verify(&to.loops);
        assert!(faults.is_empty(), "after lowering: {faults:#?}\n{}", to.loops);
    }
    to.loops
}

/// The loops so far, and the node that is being lowered.
struct Lowering<'a> {
    graph: &'a Graph,
    /// Its outputs are the graph's inputs after the model's.
    constants: &'a Graph,
    loops: Loops,
    tensors: SecondaryMap<Value, TensorId>,
    origin: Arc<str>,
    op: &'static str,
    place: Place,
}

impl Lowering<'_> {
    fn node(&mut self, value: Value, arguments: usize) -> TensorId {
        let ty = self.graph.ty(value).clone();
        match self.graph.op(value).clone() {
            Op::Input { slot } => {
                let definition = match (slot as usize).checked_sub(arguments) {
                    None => Definition::Input(slot),
                    Some(number) => Definition::Constant(number as u32),
                };
                let origin = Arc::from(self.graph.inputs()[slot as usize].name.as_str());
                self.loops.tensors.insert(TensorInfo { ty, definition, origin })
            }
            Op::Constant(_) => self.copy(value, ty),
            op @ (Op::Unary(..) | Op::Binary(..) | Op::Select { .. } | Op::Cast { .. }) => {
                self.elementwise(op, ty)
            }
            Op::Random { number, key, .. } => self.random(number, key, ty),
            Op::Reduce { op, axes, keep, x } => self.reduce(op, &axes, keep, x, ty),
            Op::Mean { axes, keep, x } => self.mean(&axes, keep, x, ty),
            Op::ArgReduce { largest, last, axis, keep, x } => {
                self.arg_reduce(largest, last, axis, keep, x, ty)
            }
            Op::CumSum { axis, exclusive, reverse, x } => self.cumsum(axis, exclusive, reverse, x, ty),
            op @ (Op::Reshape { .. } | Op::Permute { .. } | Op::Expand { .. } | Op::Slice { .. }) => {
                self.view(op, ty)
            }
            Op::Pad { before, mode, x, fill, .. } => self.pad(&before, mode, x, fill, ty),
            Op::Concat { axis, xs } => self.concat(axis, &xs, ty),
            Op::Gather { axis, x, indices } => self.gather(axis, x, indices, ty),
            Op::GatherElements { axis, x, indices } => self.gather_elements(axis, x, indices, ty),
            Op::GatherNd { batch, x, indices } => self.gather_nd(batch, x, indices, ty),
            Op::MatMul { a, b } => self.matmul(a, b, ty),
            Op::Conv { window, groups, x, w, bias } => self.conv(&window, groups, x, w, bias, ty),
            Op::ConvTranspose { window, groups, x, w, bias, .. } => {
                self.conv_transpose(&window, groups, x, w, bias, ty)
            }
            Op::Pool { kind, window, kernel, x, .. } => self.pool(kind, &window, &kernel, x, ty),
            Op::Softmax { axis, log, x } => self.softmax(axis, log, x, ty),
            Op::LayerNorm { axis, eps, x, scale, bias } => self.layer_norm(axis, eps.0, x, scale, bias, ty),
            Op::RmsNorm { axis, eps, x, scale } => self.rms_norm(axis, eps.0, x, scale, ty),
            Op::GroupNorm { groups, eps, x, scale, bias } => {
                self.group_norm(groups, eps.0, x, scale, bias, ty)
            }
            Op::BatchNorm { eps, x, scale, bias, mean, var } => {
                self.batch_norm(eps.0, x, [scale, bias, mean, var], ty)
            }
            Op::Attention { scale, causal, zero_masked, q, k, v, mask } => {
                self.attention(scale.0, causal, zero_masked, [q, k, v], mask, ty)
            }
        }
    }

    /// The one way to make a nest. What is made of nothing reads nothing: its addresses would lie where no element is.
    fn nest(&mut self, ty: Type, body: Body, kind: NestKind) -> TensorId {
        let nothing = match &kind {
            NestKind::Map { .. } => None,
            NestKind::Reduce { depth, op, .. } => (depth.count() == 0).then(|| op.identity(ty.dtype)),
            NestKind::Contract { depth, .. } => (depth.count() == 0).then(|| Scalar::of(ty.dtype, 0.0)),
            NestKind::Attention { keys, .. } => (*keys == 0).then(|| Scalar::of(ty.dtype, 0.0)),
        };
        let (body, kind) = match nothing {
            None => (body, kind),
            Some(value) => {
                let mut body = Body::default();
                let value = body.add(Expr::Const(value), ty.dtype);
                (body, NestKind::Map { value })
            }
        };
        let definition = Definition::Nest(self.loops.nests.len());
        let space = ty.shape.clone();
        let origin = self.origin.clone();
        let tensor = self.loops.tensors.insert(TensorInfo { ty, definition, origin: origin.clone() });
        self.loops.nests.push(Nest { tensor, op: self.op, origin, space, body, kind });
        self.loops.places.push(self.place);
        tensor
    }

    fn map(&mut self, ty: Type, body: Body, value: ExprId) -> TensorId {
        self.nest(ty, body, NestKind::Map { value })
    }

    fn shape(&self, value: Value) -> &Shape {
        &self.graph.ty(value).shape
    }

    fn dtype(&self, value: Value) -> DType {
        self.graph.ty(value).dtype
    }

    /// The element of `value` at `at`.
    fn read(&self, body: &mut Body, value: Value, at: Coords) -> ExprId {
        self.read_if(body, value, at, None)
    }

    /// The element of `value` at `at`, or 0 where `guard` is false.
    fn read_if(&self, body: &mut Body, value: Value, at: Coords, guard: Option<ExprId>) -> ExprId {
        let dtype = self.dtype(value);
        match (self.graph.known(value), guard) {
            (Some(tensor), None) => body.add(Expr::Const(tensor.get(0)), dtype),
            (Some(tensor), Some(guard)) => {
                let held = body.add(Expr::Const(tensor.get(0)), dtype);
                let zero = body.constant(dtype, 0.0);
                body.select(guard, held, zero)
            }
            (None, None) if self.counts(value).is_some() => {
                let (axis, first, step) = self.counts(value).expect("just seen");
                body.add(Expr::Coord(at[axis].mul(step).offset_by(first)), dtype)
            }
            (None, guard) => body.add(Expr::Load { tensor: self.tensors[value], at, guard }, dtype),
        }
    }

    /// Where `value` is a constant whose elements are `first`, `first + step`, ... along one axis: that axis, first and step.
    fn counts(&self, value: Value) -> Option<(usize, i64, i64)> {
        let Op::Input { slot } = *self.graph.op(value) else { return None };
        let number = (slot as usize).checked_sub(self.graph.inputs().len() - self.constants.outputs.len())?;
        let tensor = self.constants.as_constant(self.constants.outputs[number].value)?;
        if !matches!(tensor.dtype(), DType::I32 | DType::I64) || tensor.shape().count() > COUNTED {
            return None;
        }
        let mut long = tensor.shape().iter().enumerate().filter(|it| *it.1 != 1);
        let (axis, &len) = long.next()?;
        if long.next().is_some() || len < 2 {
            return None;
        }
        let (first, second) = (tensor.get(0).as_i64(), tensor.get(1).as_i64());
        let step = second.checked_sub(first)?;
        let small = |it: i64| it.unsigned_abs() < 1 << 24;
        let steady = |(at, it): (usize, Scalar)| it.as_i64() == first + step * at as i64;
        (small(first) && small(step) && tensor.scalars().enumerate().all(steady))
            .then_some((axis, first, step))
    }

    /// The element of `value` that broadcasting puts at the point `at` of a space.
    fn read_broadcast(&self, body: &mut Body, value: Value, at: &[Index]) -> ExprId {
        let coords = broadcast(self.shape(value), at);
        self.read(body, value, coords)
    }

    /// The element of a tensor that an earlier nest of the same node wrote.
    fn load(&self, body: &mut Body, tensor: TensorId, at: Coords) -> ExprId {
        let dtype = self.loops.tensors[tensor].ty.dtype;
        body.add(Expr::Load { tensor, at, guard: None }, dtype)
    }

    /// `tensor` at its own points, converted to `ty`: the last nest of a node that computed in a wider type.
    fn narrow(&mut self, tensor: TensorId, ty: Type) -> TensorId {
        if self.loops.tensors[tensor].ty == ty {
            return tensor;
        }
        let mut body = Body::default();
        let at = vars(&self.loops.tensors[tensor].ty.shape);
        let value = self.load(&mut body, tensor, at);
        let value = body.cast(ty.dtype, value);
        self.map(ty, body, value)
    }
}

/// The type that sums and statistics of `dtype` are kept in.
fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
            DType::F32
        }
        DType::I4 | DType::I2 => DType::I32,
        DType::U4 | DType::U2 => DType::U32,
        DType::Bool
        | DType::I8
        | DType::U8
        | DType::I16
        | DType::U16
        | DType::I32
        | DType::U32
        | DType::I64
        | DType::U64
        | DType::F32
        | DType::F64 => dtype,
    }
}

/// The variables of a space, numbered from 0.
fn vars(space: &[usize]) -> Coords {
    vars_from(0, space)
}

fn vars_from(first: usize, extents: &[usize]) -> Coords {
    extents.iter().enumerate().map(|(axis, &extent)| Index::var(first + axis, extent)).collect()
}

/// Coordinates in `shape` of what broadcasting puts at the point `at` of a space of no smaller rank.
fn broadcast(shape: &[usize], at: &[Index]) -> Coords {
    let skip = at.len() - shape.len();
    shape
        .iter()
        .zip(&at[skip..])
        .map(|(&dim, it)| if dim == 1 { Index::constant(0) } else { it.clone() })
        .collect()
}
