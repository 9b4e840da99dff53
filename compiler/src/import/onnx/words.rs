//! The strings that a file has: those of its constants and of attributes, wherever they stand, and what stands for strings that it leaves out. An attribute that is no text is left to
//! whoever asks for it.

use std::sync::Arc;

use super::{
    encoded,
    proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto},
};
use crate::{error::Error, import::strings::Pool};

pub fn words(graph: &GraphProto, functions: &[FunctionProto]) -> Result<Pool, Error> {
    let mut pool = Pool::default();
    add(encoded::UNUSED.as_bytes(), &mut pool)?;
    of_graph(graph, &mut pool)?;
    for function in functions {
        function.attribute_proto.iter().try_for_each(|it| of_attribute(it, &mut pool))?;
        of_nodes(&function.node, &mut pool)?;
    }
    Ok(pool)
}

fn of_graph(graph: &GraphProto, pool: &mut Pool) -> Result<(), Error> {
    graph.initializer.iter().try_for_each(|it| of_tensor(it, pool))?;
    of_nodes(&graph.node, pool)
}

fn of_nodes(nodes: &[NodeProto], pool: &mut Pool) -> Result<(), Error> {
    nodes.iter().flat_map(|it| &it.attribute).try_for_each(|it| of_attribute(it, pool))
}

fn of_attribute(attribute: &AttributeProto, pool: &mut Pool) -> Result<(), Error> {
    add(&attribute.s, pool)?;
    attribute.strings.iter().try_for_each(|it| add(it, pool))?;
    attribute.t.iter().try_for_each(|it| of_tensor(it, pool))?;
    attribute.g.iter().try_for_each(|it| of_graph(it, pool))
}

fn of_tensor(tensor: &TensorProto, pool: &mut Pool) -> Result<(), Error> {
    tensor.string_data.iter().try_for_each(|it| add(it, pool))
}

fn add(bytes: &[u8], pool: &mut Pool) -> Result<(), Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) if pool.number(text).is_none() => pool.add(&Arc::from(text)).map(drop),
        Ok(_) | Err(_) => Ok(()),
    }
}
