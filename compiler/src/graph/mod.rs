//! The graph: a functional program on tensors whose shapes are numbers.
//!
//! Invariants: nodes are only added; operands precede users; equal ops share one node; every node's type follows from
//! its op (`infer`). Mutation does not exist here.

pub mod builder;
pub mod eval;
pub mod gradient;
pub mod infer;
pub mod op;
pub mod random;
pub mod text;
mod variable;
pub mod verify;

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashTable};
use slotmap::{Key, KeyData, SecondaryMap, SlotMap, new_key_type};
use smallvec::SmallVec;

pub use op::{Op, Operands, PadMode, Places, PoolKind, Real, Steps, Window};

use crate::{error::Error, shape::Type, tensor::Tensor};

new_key_type! {
    /// A node of a graph, and the value that it makes.
    pub struct Value;
    /// A constant of a graph.
    pub struct ConstantId;
}

#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    pub ty: Type,
    /// The name, in the source file, of the node that this one was made for.
    pub origin: Arc<str>,
}

/// A named tensor at the graph's border.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    pub name: String,
    pub ty: Type,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    pub name: String,
    pub value: Value,
}

/// An input that is, in every run but the first, what the run before gave as an output of the same type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// Number of the graph's inputs.
    pub input: u32,
    /// Number of the graph's outputs.
    pub output: u32,
}

/// Floats of more elements are weights.
pub const KNOWN: usize = 1 << 14;

/// Constants of at most so many bytes are compared by their bytes.
const SMALL: usize = 16;

/// What makes two constants of one type the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Bits {
    Small(SmallVec<[u8; SMALL]>),
    Large { at: usize, len: usize },
}

#[derive(Clone, Default, Debug)]
pub struct Graph {
    nodes: SlotMap<Value, Node>,
    constants: SlotMap<ConstantId, Tensor>,
    inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    /// Each input and each output is in one at most.
    pub states: Vec<State>,
    /// The nodes, found by their ops.
    seen: HashTable<Value>,
    hasher: DefaultHashBuilder,
    seen_constants: HashMap<(Bits, Type), ConstantId>,
    origin: Option<Arc<str>>,
}

impl Graph {
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Nodes added from now on are made for the node `name` of the source file.
    pub fn set_origin(&mut self, name: impl Into<Arc<str>>) {
        self.origin = Some(name.into());
    }

    pub fn origin(&self) -> Arc<str> {
        self.origin.clone().unwrap_or_else(|| Arc::from(""))
    }

    /// The only way to make a node. Equal ops share one node. An op whose operands do not fit is an error that names
    /// the current origin.
    pub fn add(&mut self, op: Op) -> Result<Value, Error> {
        let hash = self.hasher.hash_one(&op);
        if let Some(&value) = self.seen.find(hash, |it| self.nodes[*it].op == op) {
            return Ok(value);
        }
        let ty = infer::infer(self, &op).map_err(|what| {
            let name = op.name();
            Error::node(&*self.origin(), format!("{name}: {what}"))
        })?;
        let origin = self.origin();
        let value = self.nodes.insert(Node { op, ty, origin });
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.seen.insert_unique(hash, value, |it| hasher.hash_one(&nodes[*it].op));
        Ok(value)
    }

    /// One more input. A type that is larger than memory can be is an error.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> Result<Value, Error> {
        let name = name.into();
        infer::addressable(&ty).map_err(|what| Error::input(&*name, what))?;
        let slot = self.inputs.len() as u32;
        self.inputs.push(Input { name, ty });
        self.add(Op::Input { slot })
    }

    /// Constants of one type share one node if they share their bytes, small ones also if they have equal bytes.
    pub fn add_constant(&mut self, tensor: Tensor) -> Value {
        let data = tensor.data();
        let bits = match data.len() {
            0..=SMALL => Bits::Small(data.as_ref().into()),
            len => Bits::Large { at: data.as_ptr() as usize, len },
        };
        let key = (bits, tensor.ty().clone());
        let id = match self.seen_constants.get(&key) {
            Some(&id) => id,
            None => {
                let id = self.constants.insert(tensor);
                self.seen_constants.insert(key, id);
                id
            }
        };
        self.add(Op::Constant(id)).expect("the constant exists")
    }

    /// The tensor that `value` is, if it is a constant whose values may decide what is compiled: not one of many floats.
    pub fn known(&self, value: Value) -> Option<&Tensor> {
        let known = |it: &&Tensor| !it.dtype().is_float() || it.shape().count() <= KNOWN;
        self.as_constant(value).filter(known)
    }

    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value]
    }

    pub fn op(&self, value: Value) -> &Op {
        &self.nodes[value].op
    }

    pub fn ty(&self, value: Value) -> &Type {
        &self.nodes[value].ty
    }

    pub fn constant(&self, id: ConstantId) -> &Tensor {
        &self.constants[id]
    }

    /// The tensor that `value` is, if it is a constant.
    pub fn as_constant(&self, value: Value) -> Option<&Tensor> {
        match *self.op(value) {
            Op::Constant(id) => Some(self.constant(id)),
            _ => None,
        }
    }

    /// Every node, operands before users.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (Value, &Node)> {
        (0..self.len() as u32).map(|at| {
            let value = key(at);
            (value, &self.nodes[value])
        })
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The graph without the inputs that nothing reads, and the numbers of those that are left. Its states are not kept.
    pub fn without_unread_inputs(&self) -> Result<(Graph, Vec<u32>), Error> {
        let mut read = vec![false; self.inputs.len()];
        for (_, node) in self.nodes() {
            if let Op::Input { slot } = node.op {
                read[slot as usize] = true;
            }
        }
        let kept: Vec<u32> = (0..self.inputs.len() as u32).filter(|it| read[*it as usize]).collect();
        let inputs = kept.iter().map(|it| self.inputs[*it as usize].clone()).collect();
        let to = self.with_inputs(inputs, |slot| kept.partition_point(|it| *it < slot) as u32)?;
        Ok((to, kept))
    }

    /// The same nodes over `inputs`: what was input number `slot` is number `place(slot)`. States are not kept.
    fn with_inputs(&self, inputs: Vec<Input>, place: impl Fn(u32) -> u32) -> Result<Graph, Error> {
        let mut to = Graph { inputs, ..Graph::default() };
        let mut moved = SecondaryMap::with_capacity(self.len());
        for (value, node) in self.nodes() {
            to.origin = Some(node.origin.clone());
            let new = match &node.op {
                Op::Input { slot } => to.add(Op::Input { slot: place(*slot) })?,
                Op::Constant(id) => to.add_constant(self.constants[*id].clone()),
                op => to.add(op.clone().map_operands(|it| moved[it]))?,
            };
            moved.insert(value, new);
        }
        to.outputs = self.outputs.clone();
        to.outputs.iter_mut().for_each(|it| it.value = moved[it.value]);
        Ok(to)
    }

    /// The nodes that the outputs need, rebuilt front to back through `add`, which sees each op with its operands
    /// already final. Inputs stay, used or not.
    pub fn rebuild(
        &self,
        mut add: impl FnMut(&mut Graph, Op) -> Result<Value, Error>,
    ) -> Result<Graph, Error> {
        self.clone().into_rebuilt(|to, _, op| add(to, op))
    }

    /// As `rebuild`, of a graph that nobody needs any more; `add` also sees which of its nodes the op was.
    pub fn into_rebuilt(
        self,
        mut add: impl FnMut(&mut Graph, Value, Op) -> Result<Value, Error>,
    ) -> Result<Graph, Error> {
        let size = self.len();
        let mut live = SecondaryMap::with_capacity(size);
        for output in &self.outputs {
            live.insert(output.value, ());
        }
        for (value, node) in self.nodes().rev() {
            if live.contains_key(value) {
                for operand in node.op.operands() {
                    live.insert(operand, ());
                }
            }
        }
        let Graph { nodes, constants, inputs, outputs, states, .. } = self;
        // Mostly about as many nodes come out.
        let mut to = Graph {
            nodes: SlotMap::with_capacity_and_key(size),
            seen: HashTable::with_capacity(size),
            inputs,
            states,
            ..Graph::default()
        };
        let mut moved = SecondaryMap::with_capacity(size);
        // In the order of their slots, which is that in which they were added.
        for (value, Node { op, ty: _, origin }) in nodes.into_iter().filter(|it| live.contains_key(it.0)) {
            to.origin = Some(origin);
            let new = match op {
                Op::Constant(id) => to.add_constant(constants[id].clone()),
                op => add(&mut to, value, op.map_operands(|it| moved[it]))?,
            };
            moved.insert(value, new);
        }
        to.outputs = outputs.into_iter().map(|it| Output { value: moved[it.value], ..it }).collect();
        Ok(to)
    }
}

/// The number that text forms give a key: 0 for the first.
pub fn number(key: impl Key) -> u32 {
    key.data().as_ffi() as u32 - 1
}

/// The key of that number, in a map from which nothing was ever removed. `number` is less than `u32::MAX`.
pub fn key<K: Key>(number: u32) -> K {
    // A slot's first version is 1, and slot 0 is not used.
    KeyData::from_ffi(1 << 32 | (u64::from(number) + 1)).into()
}
