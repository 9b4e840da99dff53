//! Models that differ from a model in a few places, as a file that is damaged or made to do harm does: the messages are
//! whole, what they say is not what anybody would.
//!
//! The fuzz targets under `fuzz` mutate with this too.

use bytes::Bytes;
use prost::Message;
use wgfuse_compiler::import::onnx::proto::*;

use crate::random::Random;

/// Numbers at which sizes, counts and indices go wrong.
const NUMBERS: [i64; 32] = [
    0,
    1,
    -1,
    2,
    -2,
    3,
    4,
    5,
    7,
    8,
    16,
    31,
    64,
    100,
    255,
    256,
    1000,
    4096,
    65_535,
    65_536,
    1 << 20,
    1 << 26,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 53,
    1 << 62,
    i64::MAX - 1,
    i64::MAX,
    i64::MIN,
];

const FLOATS: [f32; 12] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-9,
    1e9,
    f32::MAX,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Operators whose results are larger than what they read, or that hold others.
const OPS: [&str; 40] = [
    "Add",
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
    "Reshape",
    "Expand",
    "Tile",
    "Range",
    "ConstantOfShape",
    "Pad",
    "Resize",
    "OneHot",
    "Gather",
    "GatherND",
    "ScatterND",
    "Slice",
    "Concat",
    "Split",
    "SplitToSequence",
    "ConcatFromSequence",
    "Identity",
    "Transpose",
    "MatMul",
    "Conv",
    "ConvTranspose",
    "Einsum",
    "LSTM",
    "TopK",
    "NonZero",
    "Unique",
    "Shape",
    "Cast",
    "ReduceSum",
    "Softmax",
    "CumSum",
    "Trilu",
    "EyeLike",
    "Where",
    "MaxUnpool",
];

/// `model` with one to four mutations.
pub fn mutant(model: &ModelProto, random: &mut Random) -> ModelProto {
    let mut made = model.clone();
    for _ in 0..=random.below(4) {
        mutate(&mut made, random);
    }
    made
}

/// Bytes of which a few are others, of which a piece is missing, or the end.
pub fn damaged(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    if bytes.is_empty() {
        return bytes;
    }
    match random.below(4) {
        0 => bytes.truncate(random.below(original.len())),
        1 => {
            let start = random.below(original.len());
            let end = (start + 1 + random.below(64)).min(original.len());
            bytes.drain(start..end);
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(3) {
                    0 => random.bits() as u8,
                    1 => bytes[at] ^ (1 << random.below(8)),
                    _ => *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                };
            }
        }
    }
    bytes
}

fn mutate(model: &mut ModelProto, random: &mut Random) {
    let whole = model.graph.clone();
    match random.below(20) {
        0 => {
            if let Some(it) = any(&mut model.opset_import, random) {
                it.version = if random.below(4) == 0 {
                    number(it.version, random)
                } else {
                    1 + random.below(26) as i64
                };
            }
        }
        1 => {
            if let Some(it) = any(&mut model.functions, random) {
                function(it, random);
            }
        }
        _ => {
            let Some(graph) = model.graph.as_mut() else { return };
            let whole = whole.expect("the same");
            graph_at(graph, &whole, random);
        }
    }
}

fn function(it: &mut FunctionProto, random: &mut Random) {
    match random.below(5) {
        0 => drop(it.input.pop()),
        1 => drop(it.output.pop()),
        2 => {
            // One that calls itself.
            if let Some(node) = any(&mut it.node, random) {
                (node.op_type, node.domain) = (it.name.clone(), it.domain.clone());
            }
        }
        3 => it.opset_import.clear(),
        _ => nodes(&mut it.node, &it.input.clone(), None, random),
    }
}

/// A change in `graph`, or in one that a node of it holds.
fn graph_at(graph: &mut GraphProto, whole: &GraphProto, random: &mut Random) {
    if random.below(2) == 0 {
        let held =
            graph.node.iter_mut().flat_map(|it| &mut it.attribute).filter_map(|it| it.g.as_deref_mut());
        let mut held: Vec<&mut GraphProto> = held.collect();
        if !held.is_empty() {
            let at = random.below(held.len());
            return graph_at(held.swap_remove(at), whole, random);
        }
    }
    let names = names(graph);
    match random.below(16) {
        0 => {
            if let Some(it) = any(&mut graph.input, random) {
                info(it, random);
            }
        }
        1 => match random.below(3) {
            0 => drop(graph.output.pop()),
            1 => {
                if let Some(it) = any(&mut graph.output, random) {
                    it.name = random.pick(&names).clone();
                }
            }
            _ => {
                if let Some(it) = any(&mut graph.output, random) {
                    info(it, random);
                }
            }
        },
        2..=6 => {
            if let Some(it) = any(&mut graph.initializer, random) {
                tensor(it, random);
            } else if let Some(it) = any(&mut graph.sparse_initializer, random) {
                match random.below(3) {
                    0 => numbers(&mut it.dims, random),
                    1 => it.values.iter_mut().for_each(|it| tensor(it, random)),
                    _ => it.indices.iter_mut().for_each(|it| tensor(it, random)),
                }
            } else if let Some(it) = any(&mut graph.input, random) {
                info(it, random);
            }
        }
        _ => nodes(&mut graph.node, &names, Some(whole), random),
    }
}

fn names(graph: &GraphProto) -> Vec<String> {
    let mut all = vec![String::new(), "no such value".to_owned()];
    all.extend(graph.input.iter().map(|it| it.name.clone()));
    all.extend(graph.initializer.iter().map(|it| it.name.clone()));
    all.extend(graph.node.iter().flat_map(|it| it.output.clone()));
    all
}

fn nodes(all: &mut Vec<NodeProto>, names: &[String], whole: Option<&GraphProto>, random: &mut Random) {
    if all.is_empty() {
        return;
    }
    let names = if names.is_empty() { &[String::new()][..] } else { names };
    let at = random.below(all.len());
    match random.below(16) {
        0 => drop(all.remove(at)),
        1 => {
            let mut copy = all[at].clone();
            if random.below(2) == 0 {
                copy.output.iter_mut().for_each(|it| it.push('\''));
            }
            all.insert(random.below(all.len() + 1), copy);
        }
        2 => {
            let other = random.below(all.len());
            all.swap(at, other);
        }
        3 => {
            let other = all[random.below(all.len())].op_type.clone();
            all[at].op_type = if random.below(2) == 0 { other } else { random.pick(&OPS).to_string() };
        }
        4..=6 => {
            let node = &mut all[at];
            match random.below(6) {
                0 => drop(node.input.pop()),
                1 => node.input.push(random.pick(names).clone()),
                2 if node.input.len() > 1 => {
                    let (a, b) = (random.below(node.input.len()), random.below(node.input.len()));
                    node.input.swap(a, b);
                }
                _ => {
                    if let Some(it) = any(&mut node.input, random) {
                        *it = random.pick(names).clone();
                    }
                }
            }
        }
        7 => {
            let node = &mut all[at];
            match random.below(3) {
                0 => drop(node.output.pop()),
                1 => node.output.push(format!("further {}", node.output.len())),
                _ => {
                    if let Some(it) = any(&mut node.output, random) {
                        *it = random.pick(names).clone();
                    }
                }
            }
        }
        8 => {
            // A graph in itself, a few times over.
            let held = all[at].attribute.iter_mut().find(|it| it.g.is_some());
            if let (Some(held), Some(whole)) = (held, whole)
                && whole.encoded_len() < 1 << 14
            {
                held.g = Some(Box::new(whole.clone()));
            }
        }
        9 => {
            // Its result, read by a copy of it, and so on.
            let turns = 1 + random.below(24);
            for turn in 0..turns {
                let mut copy = all[at].clone();
                let (Some(from), false) = (copy.output.first().cloned(), copy.input.is_empty()) else {
                    return;
                };
                copy.name.push('+');
                copy.input[0] = from;
                copy.output.iter_mut().for_each(|it| it.push_str(&format!("+{turn}")));
                all.insert(at + 1, copy);
            }
        }
        _ => {
            let node = &mut all[at];
            if node.attribute.is_empty() {
                if let Some(it) = any(&mut node.input, random) {
                    *it = random.pick(names).clone();
                }
                return;
            }
            let which = random.below(node.attribute.len());
            match random.below(12) {
                0 => drop(node.attribute.remove(which)),
                1 => {
                    let again = node.attribute[which].clone();
                    node.attribute.push(again);
                }
                2 => node.attribute[which].r#type = 1 + random.below(14) as i32,
                3 => node.attribute[which].ref_attr_name = "no such attribute".to_owned(),
                _ => attribute(&mut node.attribute[which], random),
            }
        }
    }
}

fn attribute(it: &mut AttributeProto, random: &mut Random) {
    if let Some(it) = it.t.as_deref_mut() {
        return tensor(it, random);
    }
    if let Some(it) = it.sparse_tensor.as_deref_mut() {
        return numbers(&mut it.dims, random);
    }
    match it.r#type {
        attribute::FLOAT => it.f = *random.pick(&FLOATS),
        attribute::FLOATS => match any(&mut it.floats, random) {
            Some(it) => *it = *random.pick(&FLOATS),
            None => it.floats.push(*random.pick(&FLOATS)),
        },
        attribute::INTS => numbers(&mut it.ints, random),
        attribute::STRING => it.s = damaged(&it.s, random).into(),
        attribute::STRINGS => match random.below(2) {
            0 => drop(it.strings.pop()),
            _ => it.strings.push(Bytes::from_static(b"no such word")),
        },
        _ => it.i = number(it.i, random),
    }
}

fn tensor(it: &mut TensorProto, random: &mut Random) {
    match random.below(8) {
        0 => numbers(&mut it.dims, random),
        1 => it.data_type = random.below(28) as i32,
        2 => it.raw_data = damaged(&it.raw_data, random).into(),
        3 if !it.external_data.is_empty() => {
            if let Some(it) = any(&mut it.external_data, random) {
                let values =
                    ["../data", "/etc/passwd", "", "-1", "18446744073709551615", "9223372036854775807", "7"];
                it.value = random.pick(&values).to_string();
            }
        }
        3 => it.data_location = random.below(3) as i32,
        _ if it.data_type == 7 && !it.raw_data.is_empty() => {
            let mut raw = it.raw_data.to_vec();
            let at = random.below(raw.len() / 8) * 8;
            if let Some(word) = raw.get_mut(at..at + 8) {
                let old = i64::from_le_bytes((&*word).try_into().expect("8 bytes"));
                word.copy_from_slice(&number(old, random).to_le_bytes());
            }
            it.raw_data = raw.into();
        }
        _ if !it.int64_data.is_empty() => {
            let at = random.below(it.int64_data.len());
            it.int64_data[at] = number(it.int64_data[at], random);
        }
        _ if !it.raw_data.is_empty() => {
            let mut raw = it.raw_data.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(raw.len());
                raw[at] = *random.pick(&[0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff]);
            }
            it.raw_data = raw.into();
        }
        _ => match random.below(2) {
            0 => it.int32_data.push(number(0, random) as i32),
            _ => drop(it.float_data.pop()),
        },
    }
}

fn info(it: &mut ValueInfoProto, random: &mut Random) {
    let Some(ty) = it.r#type.as_mut() else { return };
    if random.below(12) == 0 {
        for _ in 0..=random.below(6) {
            let inner = ElementTypeProto { elem_type: Some(Box::new(ty.clone())) };
            *ty = match random.below(2) {
                0 => TypeProto { tensor_type: None, sequence_type: Some(inner), optional_type: None },
                _ => TypeProto { tensor_type: None, sequence_type: None, optional_type: Some(inner) },
            };
        }
        return;
    }
    let Some(ty) = ty.tensor_type.as_mut() else { return };
    if random.below(4) == 0 {
        ty.elem_type = random.below(28) as i32;
        return;
    }
    let Some(shape) = ty.shape.as_mut() else { return };
    match random.below(6) {
        0 => drop(shape.dim.pop()),
        1 => shape.dim.push(DimensionProto { dim_value: Some(number(1, random)), dim_param: None }),
        2 => ty.shape = None,
        _ => {
            if let Some(it) = any(&mut shape.dim, random) {
                match random.below(5) {
                    0 => (it.dim_value, it.dim_param) = (None, Some("n".to_owned())),
                    1 => (it.dim_value, it.dim_param) = (None, None),
                    _ => it.dim_value = Some(number(it.dim_value.unwrap_or(1), random)),
                }
            }
        }
    }
}

fn numbers(all: &mut Vec<i64>, random: &mut Random) {
    match random.below(6) {
        0 => drop(all.pop()),
        1 => all.push(number(1, random)),
        _ => match any(all, random) {
            Some(it) => *it = number(*it, random),
            None => all.push(number(1, random)),
        },
    }
}

fn number(old: i64, random: &mut Random) -> i64 {
    match random.below(6) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old.wrapping_neg(),
        _ => *random.pick(&NUMBERS),
    }
}

fn any<'a, T>(all: &'a mut [T], random: &mut Random) -> Option<&'a mut T> {
    let at = random.below(all.len());
    all.get_mut(at)
}
