//! Tensors in files: `.safetensors` (many, named), `.npy` (one) and ONNX `.pb` (one `TensorProto`, which alone may hold strings).
//!
//! Arguments are paths, `name=path`, or several of these separated by commas. Files are untrusted: whatever the bytes,
//! the result is tensors or an error that names the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use npyz::WriterBuilder;
use prost::Message;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use wgfuse::{
    DType, Datum, Shape, Tensor, Type,
    compiler::import::onnx::{proto::TensorProto, tensor as onnx_tensor},
};

use crate::values::described;

/// A value and how sure its name is.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub naming: Naming,
    /// A tensor or strings, or a sequence of those.
    pub value: Datum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// `name=path`.
    Given,
    /// A name inside a file that names all its tensors.
    File,
    /// A file's own name, or the name that a single tensor bears; it may mean nothing.
    Guess,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Safetensors,
    Npy,
    Pb,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|it| it.to_str()) {
        Some("safetensors") => Ok(Format::Safetensors),
        Some("npy") => Ok(Format::Npy),
        Some("pb") => Ok(Format::Pb),
        _ => bail!("'{}' is not a tensor file: use .safetensors, .npy or .pb", path.display()),
    }
}

/// `name=path,path,...` taken apart. A part that is the path of a file as it stands is taken as it stands.
fn parts(args: &[String]) -> Vec<(Option<&str>, PathBuf)> {
    let mut parts = Vec::new();
    for arg in args {
        if Path::new(arg).exists() {
            parts.push((None, arg.into()));
            continue;
        }
        for part in arg.split(',').filter(|it| !it.is_empty()) {
            match part.split_once('=') {
                Some((name, path)) if !Path::new(part).exists() => parts.push((Some(name), path.into())),
                _ => parts.push((None, part.into())),
            }
        }
    }
    parts
}

/// Every tensor of the files that `args` name. Those of one safetensors file come in the order of their names, numbers
/// in names counted as numbers.
pub fn load(args: &[String]) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for (name, path) in parts(args) {
        let bytes = fs::read(&path).with_context(|| format!("'{}' cannot be read", path.display()))?;
        let fault = || format!("'{}' is malformed", path.display());
        match format(&path)? {
            Format::Safetensors => {
                ensure!(name.is_none(), "'{}' names its tensors itself: leave out `name=`", path.display());
                all.extend(from_safetensors(&bytes).with_context(fault)?);
            }
            Format::Npy => {
                let stem = path.file_stem().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
                let tensor = from_npy(&bytes).with_context(fault)?;
                all.push(entry(name, stem, Datum::Tensor(tensor)));
            }
            Format::Pb => {
                let (own, value) = from_pb(&bytes).with_context(fault)?;
                all.push(entry(name, own, value));
            }
        }
    }
    Ok(all)
}

fn entry(given: Option<&str>, guess: String, value: Datum) -> Entry {
    match given {
        Some(name) => Entry { name: name.to_string(), naming: Naming::Given, value },
        None => Entry { name: guess, naming: Naming::Guess, value },
    }
}

fn from_safetensors(bytes: &[u8]) -> Result<Vec<Entry>> {
    let entry = |(name, it)| Entry { name, naming: Naming::File, value: Datum::Tensor(it) };
    Ok(named(bytes)?.into_iter().map(entry).collect())
}

/// Every tensor of a safetensors file, with its name.
pub fn named(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut all = Vec::new();
    for (name, view) in file.tensors() {
        let Some(dtype) = DTYPES.iter().find(|it| it.1 == view.dtype()).map(|it| it.0) else {
            bail!("tensor '{name}' is of type {:?}, which is not supported", view.dtype());
        };
        let tensor = typed(dtype, view.shape(), view.data().to_vec());
        let tensor = tensor.with_context(|| format!("tensor '{name}'"))?;
        all.push((name, tensor));
    }
    all.sort_by(|a, b| natural(&a.0).cmp(&natural(&b.0)).then_with(|| a.0.cmp(&b.0)));
    Ok(all)
}

/// The other types have no form there.
const DTYPES: [(DType, Dtype); 19] = [
    (DType::Bool, Dtype::BOOL),
    (DType::I8, Dtype::I8),
    (DType::U8, Dtype::U8),
    (DType::I16, Dtype::I16),
    (DType::U16, Dtype::U16),
    (DType::I32, Dtype::I32),
    (DType::U32, Dtype::U32),
    (DType::I64, Dtype::I64),
    (DType::U64, Dtype::U64),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::F8E4M3, Dtype::F8_E4M3),
    (DType::F8E5M2, Dtype::F8_E5M2),
    (DType::F8E4M3Z, Dtype::F8_E4M3FNUZ),
    (DType::F8E5M2Z, Dtype::F8_E5M2FNUZ),
    (DType::F8E8M0, Dtype::F8_E8M0),
    (DType::F4, Dtype::F4),
];

/// Text and numbers of a name in turn, so that `out2` comes before `out10`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = vec![(String::new(), 0)];
    let mut in_number = false;
    for char in name.chars() {
        let last = parts.last_mut().expect("never empty");
        match char.to_digit(10) {
            Some(digit) => last.1 = last.1.saturating_mul(10).saturating_add(digit as u64),
            None if in_number => parts.push((char.to_string(), 0)),
            None => last.0.push(char),
        }
        in_number = char.is_ascii_digit();
    }
    parts
}

fn typed(dtype: DType, dims: &[usize], mut data: Vec<u8>) -> Result<Tensor> {
    if dtype == DType::Bool {
        data.iter_mut().for_each(|it| *it = (*it != 0) as u8);
    }
    let (bytes, ty) = (data.len(), Type::new(dtype, dims));
    let made = match dtype.bits() < 8 {
        true => Tensor::unpacked(ty.clone(), &data),
        false => Tensor::new(ty.clone(), data.into()),
    };
    made.ok_or_else(|| anyhow!("{ty} does not fit {bytes} bytes of data"))
}

fn from_npy(bytes: &[u8]) -> Result<Tensor> {
    let file = npyz::NpyFile::new(bytes)?;
    let dims = file.shape().iter().map(|&it| usize::try_from(it)).collect::<Result<Vec<_>, _>>()?;
    let npyz::DType::Plain(plain) = file.dtype() else { bail!("records are not supported") };
    let size = plain.size_field();
    let (dtype, fortran) = (npy_dtype(plain.type_char(), size), file.order() == npyz::Order::Fortran);
    let dtype = dtype.ok_or_else(|| anyhow!("element type '{plain}' is not supported"))?;
    let count = Shape::new(&dims).checked_count().and_then(|it| it.checked_mul(dtype.size()));
    // Checked before the elements are read: their number is what the header claims.
    ensure!(
        count.is_some_and(|it| it <= bytes.len()),
        "its shape {} does not fit its {} bytes",
        Shape::new(&dims),
        bytes.len()
    );
    macro_rules! read {
        ($t:ty) => {
            file.into_vec::<$t>()?.into_iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>()
        };
    }
    let data = match dtype {
        DType::Bool => file.into_vec::<bool>()?.into_iter().map(u8::from).collect(),
        DType::I8 => read!(i8),
        DType::U8 => read!(u8),
        DType::I16 => read!(i16),
        DType::U16 => read!(u16),
        DType::I32 => read!(i32),
        DType::U32 => read!(u32),
        DType::I64 => read!(i64),
        DType::U64 => read!(u64),
        DType::F16 => read!(half::f16),
        DType::BF16 => bail!("bf16 has no .npy form"),
        DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Z
        | DType::F8E5M2Z
        | DType::F8E8M0
        | DType::F4 => {
            bail!("{dtype} has no .npy form")
        }
        DType::F32 => read!(f32),
        DType::F64 => read!(f64),
    };
    let data = if fortran { row_major(&data, &dims, dtype.size()) } else { data };
    typed(dtype, &dims, data)
}

fn npy_dtype(char: npyz::TypeChar, size: u64) -> Option<DType> {
    use npyz::TypeChar::{Bool, Float, Int, Uint};
    Some(match (char, size) {
        (Bool, 1) => DType::Bool,
        (Int, 1) => DType::I8,
        (Int, 2) => DType::I16,
        (Int, 4) => DType::I32,
        (Int, 8) => DType::I64,
        (Uint, 1) => DType::U8,
        (Uint, 2) => DType::U16,
        (Uint, 4) => DType::U32,
        (Uint, 8) => DType::U64,
        (Float, 2) => DType::F16,
        (Float, 4) => DType::F32,
        (Float, 8) => DType::F64,
        _ => return None,
    })
}

/// Elements whose first axis runs fastest, reordered so that the last one does.
fn row_major(data: &[u8], dims: &[usize], size: usize) -> Vec<u8> {
    let mut to = Vec::with_capacity(data.len());
    let mut coords = vec![0usize; dims.len()];
    for _ in 0..data.len() / size {
        let from = coords.iter().zip(dims).rev().fold(0, |at, (coord, dim)| at * dim + coord);
        to.extend_from_slice(&data[from * size..(from + 1) * size]);
        for axis in (0..dims.len()).rev() {
            coords[axis] += 1;
            if coords[axis] < dims[axis] {
                break;
            }
            coords[axis] = 0;
        }
    }
    to
}

fn from_pb(bytes: &[u8]) -> Result<(String, Datum)> {
    let proto = TensorProto::decode(bytes).context("it is not an ONNX tensor")?;
    let value = onnx_tensor::value(&proto, "the tensor", &|_| None)?;
    Ok((proto.name, value))
}

/// Writes named tensors and strings, in the model's order, to where `args` say: one safetensors file, a folder (one `.npy` each, or
/// `.pb` for strings), or `.npy` and `.pb` files by name or by order. Returns the files written.
pub fn save(args: &[String], outputs: &[(String, Datum)]) -> Result<Vec<PathBuf>> {
    let parts = parts(args);
    if let [(None, path)] = &parts[..] {
        if path.extension().is_some_and(|it| it == "safetensors") {
            write(path, &to_safetensors(outputs)?)?;
            return Ok(vec![path.clone()]);
        }
        if path.is_dir() || path.extension().is_none() {
            fs::create_dir_all(path).with_context(|| format!("'{}' cannot be made", path.display()))?;
            return outputs.iter().map(|(name, value)| save_in(path, name, value)).collect();
        }
    }
    let unnamed = parts.iter().filter(|it| it.0.is_none()).count();
    let mut free = outputs.iter().filter(|it| !parts.iter().any(|part| part.0 == Some(&it.0)));
    ensure!(
        unnamed == 0 || unnamed == free.clone().count(),
        "--outputs names {} files for {} outputs ({}): give one file each, a folder or one .safetensors file",
        parts.len(),
        outputs.len(),
        outputs.iter().map(|it| it.0.as_str()).collect::<Vec<_>>().join(", ")
    );
    for (name, path) in &parts {
        let found = match name {
            Some(name) => outputs.iter().find(|it| it.0 == *name),
            None => free.next(),
        };
        let (name, value) =
            found.ok_or_else(|| anyhow!("the model has no output '{}'", name.unwrap_or_default()))?;
        let bytes = match format(path)? {
            Format::Npy => to_npy(name, tensor(name, value, ".npy")?)?,
            Format::Pb => to_pb(name, value)?,
            Format::Safetensors => to_safetensors(&[(name.clone(), value.clone())])?,
        };
        write(path, &bytes)?;
    }
    Ok(parts.into_iter().map(|it| it.1).collect())
}

/// Names come from the model: only characters that mean nothing to a file system stay.
fn save_in(folder: &Path, name: &str, value: &Datum) -> Result<PathBuf> {
    let plain = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-');
    let name_in_folder: String = name.chars().map(|it| if plain(it) { it } else { '_' }).collect();
    let (bytes, format) = match value {
        Datum::Tensor(it) => (to_npy(name, it)?, "npy"),
        it => (to_pb(name, it)?, "pb"),
    };
    let path = folder.join(format!("{name_in_folder}.{format}"));
    write(&path, &bytes)?;
    Ok(path)
}

/// What a file that knows no strings can hold.
fn tensor<'a>(name: &str, value: &'a Datum, file: &str) -> Result<&'a Tensor> {
    match value {
        Datum::Tensor(it) => Ok(it),
        it => bail!("output '{name}' is {}, which {file} cannot hold: use .pb", described(it)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("'{}' cannot be written", path.display()))
}

fn to_safetensors(outputs: &[(String, Datum)]) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    for (name, value) in outputs {
        let tensor = tensor(name, value, ".safetensors")?;
        let found = DTYPES.iter().find(|it| it.0 == tensor.dtype());
        let (_, dtype) = found.ok_or_else(|| no_form(name, tensor.dtype(), ".safetensors", ".pb"))?;
        packed.push((name.as_str(), *dtype, tensor.shape().to_vec(), tensor.packed()));
    }
    let mut views = Vec::new();
    for (name, dtype, shape, data) in &packed {
        views.push((*name, TensorView::new(*dtype, shape.clone(), data)?));
    }
    Ok(safetensors::serialize(views, None)?)
}

fn to_npy(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let dims: Vec<u64> = tensor.shape().iter().map(|&it| it as u64).collect();
    let mut out = Vec::new();
    macro_rules! write {
        ($t:ty) => {{
            let options = npyz::WriteOptions::new().default_dtype().shape(&dims).writer(&mut out);
            let mut writer = options.begin_nd()?;
            let size = size_of::<$t>();
            let values = tensor.data().chunks_exact(size);
            writer
                .extend(values.map(|it| <$t>::from_le_bytes(it.try_into().expect("an element's bytes"))))?;
            writer.finish()?;
        }};
    }
    match tensor.dtype() {
        DType::Bool => {
            let options = npyz::WriteOptions::new().default_dtype().shape(&dims).writer(&mut out);
            let mut writer = options.begin_nd()?;
            writer.extend(tensor.data().iter().map(|it| *it != 0))?;
            writer.finish()?;
        }
        DType::I8 => write!(i8),
        DType::U8 => write!(u8),
        DType::I16 => write!(i16),
        DType::U16 => write!(u16),
        DType::I32 => write!(i32),
        DType::U32 => write!(u32),
        DType::I64 => write!(i64),
        DType::U64 => write!(u64),
        DType::F16 => write!(half::f16),
        it @ (DType::BF16
        | DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Z
        | DType::F8E5M2Z
        | DType::F8E8M0
        | DType::F4) => bail!(no_form(name, it, ".npy", ".safetensors or .pb")),
        DType::F32 => write!(f32),
        DType::F64 => write!(f64),
    }
    Ok(out)
}

fn no_form(name: &str, dtype: DType, file: &str, instead: &str) -> anyhow::Error {
    anyhow!("output '{name}' is {dtype}, which {file} cannot hold: use {instead}")
}

fn to_pb(name: &str, value: &Datum) -> Result<Vec<u8>> {
    let dims = |shape: &Shape| shape.iter().map(|&it| it as i64).collect();
    let proto = match value {
        Datum::Tensor(it) => TensorProto {
            name: name.to_string(),
            dims: dims(it.shape()),
            data_type: onnx_code(it.dtype()),
            raw_data: it.packed(),
            ..TensorProto::default()
        },
        Datum::Strings(it) => TensorProto {
            name: name.to_string(),
            dims: dims(it.shape()),
            data_type: onnx_tensor::STRING,
            string_data: it.values().iter().map(|it| it.as_bytes().to_vec().into()).collect(),
            ..TensorProto::default()
        },
        Datum::Sequence(_) | Datum::Optional(_) => {
            bail!("output '{name}' is {}, which .pb cannot hold", described(value))
        }
    };
    Ok(proto.encode_to_vec())
}

/// The number that ONNX gives `dtype`.
fn onnx_code(dtype: DType) -> i32 {
    (1..=26).find(|it| onnx_tensor::dtype(*it) == Ok(dtype)).expect("ONNX has every type of ours")
}

#[cfg(test)]
mod tests {
    use wgfuse::Strings;

    use super::*;

    fn ramp(dtype: DType, dims: &[usize]) -> Tensor {
        let ty = Type::new(dtype, dims);
        let values = (0..ty.shape.count()).map(|it| match dtype {
            DType::Bool => wgfuse::compiler::scalar::Scalar::of(dtype, (it % 2) as f64),
            _ => wgfuse::compiler::scalar::Scalar::of(dtype, it as f64),
        });
        Tensor::from_scalars(ty.clone(), values)
    }

    #[test]
    fn every_type_survives_every_format() {
        for dtype in DType::ALL {
            for dims in [&[][..], &[0, 3], &[2, 3]] {
                let tensor = ramp(dtype, dims);
                let named = [("x".to_string(), Datum::Tensor(tensor.clone()))];
                match to_safetensors(&named) {
                    Ok(bytes) => {
                        let back = from_safetensors(&bytes).expect("a valid file");
                        assert_eq!(back[0].value, named[0].1, "safetensors {dtype}");
                    }
                    // Two elements a byte, and no half bytes.
                    Err(_) if dtype == DType::F4 => assert_eq!(dims.len(), 0),
                    Err(_) => assert!(dtype.is_int() && dtype.bits() < 8, "{dtype}"),
                }
                let file = to_pb("x", &named[0].1).expect("every type has a form");
                let (name, back) = from_pb(&file).expect("a valid tensor");
                assert_eq!((name.as_str(), &back), ("x", &named[0].1), "pb {dtype}");
                match to_npy("x", &tensor) {
                    Ok(bytes) => {
                        assert_eq!(from_npy(&bytes).expect("a valid file"), tensor, "npy {dtype}")
                    }
                    Err(_) => assert!(dtype == DType::BF16 || dtype.size() == 1, "{dtype}"),
                }
            }
        }
    }

    #[test]
    fn strings_are_in_pb_alone() {
        let value = Datum::Strings(Strings::new([2], ["ä b", ""]).expect("two"));
        let (name, back) = from_pb(&to_pb("s", &value).expect("it has a form")).expect("a valid tensor");
        assert_eq!((name.as_str(), &back), ("s", &value));
        let said = to_safetensors(&[("s".into(), value)]).expect_err("it has no form").to_string();
        assert!(said.contains("'s' is string[2]") && said.contains("use .pb"), "{said}");
    }

    #[test]
    fn fortran_order_is_turned() {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        // Columns one after the other.
        file.extend([0, 3, 1, 4, 2, 5].iter().flat_map(|it: &i16| it.to_be_bytes()));
        assert_eq!(from_npy(&file).expect("a valid file"), ramp(DType::I16, &[2, 3]));
    }

    #[test]
    fn broken_files_are_errors() {
        let tensor = ramp(DType::F32, &[4, 5]);
        let files = [
            to_safetensors(&[("x".into(), Datum::Tensor(tensor.clone()))]).expect("a valid file"),
            to_npy("x", &tensor).expect("a valid file"),
            to_pb("x", &Datum::Tensor(tensor)).expect("a valid file"),
        ];
        for (number, file) in files.iter().enumerate() {
            for len in 0..file.len() {
                let cut = file[..len].to_vec();
                let failed = match number {
                    0 => from_safetensors(&cut).is_err(),
                    1 => from_npy(&cut).is_err(),
                    _ => from_pb(&cut).is_err(),
                };
                assert!(failed, "file {number} cut to {len} bytes");
            }
        }
        let huge = b"\x93NUMPY\x01\x00\x44\x00{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}";
        assert!(from_npy(huge).is_err());
    }

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = ["out10", "out2", "b", "out1", "a1b2", "a1b10"];
        names.sort_by_key(|it| natural(it));
        assert_eq!(names, ["a1b2", "a1b10", "b", "out1", "out2", "out10"]);
    }
}
