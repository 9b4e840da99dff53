//! What a constant is, as a number: equal numbers mean equal values in every plan made from one model.

use std::hash::{DefaultHasher, Hash, Hasher};

use slotmap::{Key, SecondaryMap};

use crate::{
    graph::{ConstantId, Graph, Op, Value},
    tensor::Tensor,
};

/// Tensors up to this size are told apart by their bytes, larger ones by where their bytes lie. The latter holds as long
/// as the bytes are kept: whoever stores values by key keeps the leaves with them.
pub const BY_CONTENT: usize = 1 << 16;

/// The key of every node.
pub fn keys(graph: &Graph) -> SecondaryMap<Value, u128> {
    let mut keys: SecondaryMap<Value, u128> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let key = wide(|state| {
            node.ty.hash(state);
            match &node.op {
                Op::Constant(id) => leaf(graph.constant(*id), state),
                op => {
                    op.operands().iter().for_each(|&it| keys[it].hash(state));
                    // Keys of nodes differ from graph to graph.
                    op.clone().map_operands(|_| Value::null()).hash(state);
                }
            }
        });
        keys.insert(value, key);
    }
    keys
}

/// The tensors that `value` is computed from.
pub fn leaves(graph: &Graph, value: Value) -> Vec<ConstantId> {
    let (mut found, mut seen, mut open) = (Vec::new(), SecondaryMap::new(), vec![value]);
    while let Some(value) = open.pop() {
        if seen.insert(value, ()).is_some() {
            continue;
        }
        match graph.op(value) {
            Op::Constant(id) => found.push(*id),
            op => open.extend(op.operands()),
        }
    }
    found
}

fn leaf(tensor: &Tensor, state: &mut DefaultHasher) {
    let data = tensor.data();
    tensor.ty().hash(state);
    if data.len() <= BY_CONTENT {
        data.hash(state);
    } else {
        (data.as_ptr() as usize, data.len()).hash(state);
    }
}

fn wide(feed: impl Fn(&mut DefaultHasher)) -> u128 {
    let half = |salt: u64| {
        let mut state = DefaultHasher::new();
        salt.hash(&mut state);
        feed(&mut state);
        state.finish() as u128
    };
    half(0) << 64 | half(1)
}
