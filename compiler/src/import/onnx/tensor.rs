//! Tensors in a file to tensors of the compiler. Raw bytes are shared with the file; typed lists are packed.

use bytes::Bytes;

use super::proto::{SparseTensorProto, TensorProto};
use crate::{
    dtype::DType,
    error::Error,
    import::{host::Datum, strings::Strings},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// Gives the bytes of an external-data file by its path relative to the model, or `None` where there is none.
pub type External<'a> = &'a dyn Fn(&str) -> Option<Bytes>;

/// Sparse tensors may claim any size in a few bytes; dense forms of more than this together are refused.
pub const MAX_SPARSE_BYTES: usize = 1 << 28;

/// What ONNX numbers tensors of strings.
pub const STRING: i32 = 8;

/// Element types of ONNX that there are none of here.
const FOREIGN: [(i32, &str); 3] = [(STRING, "string"), (14, "complex64"), (15, "complex128")];

/// The element type that ONNX numbers `code`, or what is wrong with it.
pub fn dtype(code: i32) -> Result<DType, String> {
    Ok(match code {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        18 => DType::F8E4M3Z,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2Z,
        21 => DType::U4,
        22 => DType::I4,
        23 => DType::F4,
        24 => DType::F8E8M0,
        25 => DType::U2,
        26 => DType::I2,
        0 => return Err("states no element type".into()),
        _ => {
            return Err(match FOREIGN.iter().find(|it| it.0 == code) {
                Some((_, name)) => format!("has element type {name}, which is not supported"),
                None => format!("has unknown element type {code}"),
            });
        }
    })
}

/// The same of what `at` names.
pub fn dtype_at(code: i32, at: &str) -> Result<DType, Error> {
    dtype(code).map_err(|what| match FOREIGN.iter().any(|it| it.0 == code) {
        true => Error::foreign(at, what),
        false => Error::malformed(at, what),
    })
}

/// `at` names the tensor in errors.
pub fn tensor(proto: &TensorProto, at: &str, external: External) -> Result<Tensor, Error> {
    let fail = |what: String| Error::malformed(at, what);
    let dtype = dtype_at(proto.data_type, at)?;
    let shape = shape(&proto.dims).map_err(fail)?;
    let count = shape.checked_count().ok_or_else(|| fail(format!("its shape {shape} is too large")))?;
    let need = (count.checked_mul(dtype.bits()).map(|bits| bits.div_ceil(8)))
        .ok_or_else(|| fail(format!("its shape {shape} of {dtype} is too large")))?;
    let ty = Type { dtype, shape };
    if proto.segment.is_some() {
        return Err(Error::foreign(at, "is stored in segments, which is not supported"));
    }
    let data = match proto.data_location {
        0 if !proto.raw_data.is_empty() => proto.raw_data.clone(),
        0 => typed(proto, dtype),
        1 => external_data(proto, external).map_err(fail)?,
        other => return Err(fail(format!("has unknown data location {other}"))),
    };
    if data.len() != need {
        return Err(fail(format!("holds {} bytes, {ty} needs {need}", data.len())));
    }
    let data = match dtype {
        DType::Bool if data.iter().any(|&it| it > 1) => data.iter().map(|&it| (it != 0) as u8).collect(),
        _ => data,
    };
    let made = if dtype.bits() < 8 { Tensor::unpacked(ty, &data) } else { Tensor::new(ty, data) };
    made.ok_or_else(|| fail("its size does not fit its type".into()))
}

/// A tensor of any type.
pub fn value(proto: &TensorProto, at: &str, external: External) -> Result<Datum, Error> {
    match proto.data_type {
        STRING => strings(proto, at).map(Datum::Strings),
        _ => tensor(proto, at, external).map(Datum::Tensor),
    }
}

/// A tensor of strings, which have to be UTF-8.
pub fn strings(proto: &TensorProto, at: &str) -> Result<Strings, Error> {
    let fail = |what: String| Error::malformed(at, what);
    let shape = shape(&proto.dims).map_err(fail)?;
    if proto.data_location != 0 || proto.segment.is_some() || !proto.raw_data.is_empty() {
        return Err(fail("strings are stored in a form that they have not".into()));
    }
    let count = proto.string_data.len();
    if shape.checked_count() != Some(count) {
        return Err(fail(format!("holds {count} strings, which do not fit its shape {shape}")));
    }
    let mut all: Vec<&str> = Vec::with_capacity(count);
    for (place, it) in proto.string_data.iter().enumerate() {
        let text = std::str::from_utf8(it);
        all.push(text.map_err(|_| fail(format!("its element {place} is not text in UTF-8")))?);
    }
    Strings::new(shape, all).ok_or_else(|| fail("its size does not fit its shape".into()))
}

/// The dense form of a sparse tensor, of at most `room` bytes, which are taken from that.
pub fn sparse(
    proto: &SparseTensorProto,
    at: &str,
    external: External,
    room: &mut usize,
) -> Result<Tensor, Error> {
    let fail = |what: String| Error::malformed(at, what);
    let (Some(values), Some(indices)) = (&proto.values, &proto.indices) else {
        return Err(fail("a sparse tensor needs values and indices".into()));
    };
    let (values, indices) = (tensor(values, at, external)?, tensor(indices, at, external)?);
    let shape = shape(&proto.dims).map_err(fail)?;
    let size = values.dtype().size();
    let bytes = shape.checked_count().and_then(|it| it.checked_mul(size));
    let bytes = bytes
        .filter(|it| it <= room)
        .ok_or_else(|| fail(format!("its dense form, {shape}, needs more than the allowed {room} bytes")))?;
    *room -= bytes;
    let count = values.shape().count();
    let rank = match indices.shape()[..] {
        [n] if n == count => 1,
        [n, rank] if n == count && rank == shape.rank() => rank,
        _ => return Err(fail(format!("indices of shape {} for {count} values", indices.shape()))),
    };
    let places = indices.to_i64();
    let strides = shape.strides();
    let mut dense = vec![0u8; bytes];
    for (at, place) in places.chunks_exact(rank.max(1)).enumerate() {
        let linear = match indices.shape().rank() {
            1 => usize::try_from(place[0]).ok(),
            _ => (place.iter().zip(shape.iter()).zip(&strides)).try_fold(
                0usize,
                |sum, ((&at, &dim), stride)| {
                    usize::try_from(at).ok().filter(|it| *it < dim).map(|it| sum + it * stride)
                },
            ),
        };
        let linear = linear.filter(|it| *it < bytes / size);
        let to = linear.ok_or_else(|| fail(format!("index {place:?} lies outside {shape}")))? * size;
        dense[to..to + size].copy_from_slice(&values.data()[at * size..(at + 1) * size]);
    }
    let ty = Type { dtype: values.dtype(), shape };
    Tensor::new(ty, dense.into()).ok_or_else(|| fail("its size does not fit its type".into()))
}

fn shape(dims: &[i64]) -> Result<Shape, String> {
    (dims.iter())
        .map(|&it| usize::try_from(it).map_err(|_| format!("has the negative or too large extent {it}")))
        .collect::<Result<Vec<_>, _>>()
        .map(|it| Shape::new(&it))
}

/// The bytes of the list in which elements of `dtype` are stored.
fn typed(proto: &TensorProto, dtype: DType) -> Bytes {
    match dtype {
        DType::F32 => bytemuck::cast_slice::<f32, u8>(&proto.float_data).to_vec().into(),
        DType::F64 => bytemuck::cast_slice::<f64, u8>(&proto.double_data).to_vec().into(),
        DType::I64 => bytemuck::cast_slice::<i64, u8>(&proto.int64_data).to_vec().into(),
        DType::U64 => bytemuck::cast_slice::<u64, u8>(&proto.uint64_data).to_vec().into(),
        DType::U32 => proto.uint64_data.iter().flat_map(|&it| (it as u32).to_le_bytes()).collect(),
        DType::I32 => bytemuck::cast_slice::<i32, u8>(&proto.int32_data).to_vec().into(),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
            proto.int32_data.iter().flat_map(|&it| (it as u16).to_le_bytes()).collect()
        }
        DType::I8 | DType::U8 => proto.int32_data.iter().map(|&it| it as u8).collect(),
        DType::Bool => proto.int32_data.iter().map(|&it| (it != 0) as u8).collect(),
        // A byte each, of several elements where those have fewer than eight bits.
        DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Z
        | DType::F8E5M2Z
        | DType::F8E8M0
        | DType::F4 => proto.int32_data.iter().map(|&it| it as u8).collect(),
    }
}

fn external_data(proto: &TensorProto, external: External) -> Result<Bytes, String> {
    let entry = |key: &str| proto.external_data.iter().find(|it| it.key == key).map(|it| it.value.as_str());
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<usize>().map(Some).map_err(|_| format!("external {key} '{text}' is no size"))
        }
    };
    let path = entry("location").ok_or("is in an external file whose location is not stated")?;
    if !is_safe(path) {
        return Err(format!("external file '{path}' would lie outside the model's folder"));
    }
    let file =
        external(path).ok_or_else(|| format!("is in the external file '{path}', which is not there"))?;
    let offset = number("offset")?.unwrap_or(0);
    let length = match number("length")? {
        Some(length) => length,
        None => file.len().saturating_sub(offset),
    };
    match offset.checked_add(length) {
        Some(end) if end <= file.len() => Ok(file.slice(offset..end)),
        _ => Err(format!(
            "needs {length} bytes from offset {offset} of the external file '{path}', which has {}",
            file.len()
        )),
    }
}

/// Whether `path` is relative and stays below its folder, on any system.
fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with(['/', '\\'])
        && !path.contains([':', '\0'])
        && path.split(['/', '\\']).all(|part| part != "..")
}
