//! A tensor's bytes on the host to its device form and back (`wgfuse_compiler::plan::step` defines both).

use wgfuse_compiler::{bug, dtype::DType};

/// Bytes of one element in the device form.
pub(crate) fn device_size(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 2,
        DType::F64 => bug!("f64 has no device form"),
        DType::Bool
        | DType::I8
        | DType::U8
        | DType::I16
        | DType::U16
        | DType::I32
        | DType::U32
        | DType::I64
        | DType::U64
        | DType::F32 => 4,
    }
}

/// Whether the host's bytes of whole elements are those of the device form, but for padding.
pub(crate) fn is_device_form(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::I32 | DType::U32 | DType::F16 | DType::BF16)
}

/// Appends the device form of whole elements to `out`, without padding. `Err` is the number of an integer that does not
/// fit 32 bits.
pub(crate) fn to_device(dtype: DType, host: &[u8], out: &mut Vec<u8>) -> Result<(), usize> {
    fn widen<const N: usize>(host: &[u8], out: &mut Vec<u8>, word: impl Fn([u8; N]) -> u32) {
        let elements = host.chunks_exact(N).map(|it| word(it.try_into().expect("an element's bytes")));
        out.extend(elements.flat_map(u32::to_le_bytes));
    }
    fn narrow(host: &[u8], out: &mut Vec<u8>, word: impl Fn([u8; 8]) -> Option<u32>) -> Result<(), usize> {
        for (at, it) in host.chunks_exact(8).enumerate() {
            let word = word(it.try_into().expect("an element's bytes")).ok_or(at)?;
            out.extend(word.to_le_bytes());
        }
        Ok(())
    }
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::F16 | DType::BF16 => out.extend_from_slice(host),
        DType::Bool => widen(host, out, |[it]| (it != 0) as u32),
        DType::U8 => widen(host, out, |[it]| it as u32),
        DType::I8 => widen(host, out, |[it]| it as i8 as i32 as u32),
        DType::U16 => widen(host, out, |it| u16::from_le_bytes(it) as u32),
        DType::I16 => widen(host, out, |it| i16::from_le_bytes(it) as i32 as u32),
        DType::I64 => narrow(host, out, |it| i32::try_from(i64::from_le_bytes(it)).ok().map(|it| it as u32))?,
        DType::U64 => narrow(host, out, |it| u32::try_from(u64::from_le_bytes(it)).ok())?,
        DType::F64 => bug!("f64 has no device form"),
    }
    Ok(())
}

/// Appends the host's bytes of whole elements to `out`. `device` may be longer by its padding: `count` elements are
/// taken.
pub(crate) fn to_host(dtype: DType, device: &[u8], count: usize, out: &mut Vec<u8>) {
    let device = &device[..count * device_size(dtype)];
    let words = device.chunks_exact(4).map(|it| u32::from_le_bytes(it.try_into().expect("a word")));
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::F16 | DType::BF16 => out.extend_from_slice(device),
        DType::Bool => out.extend(words.map(|it| (it != 0) as u8)),
        DType::U8 | DType::I8 => out.extend(words.map(|it| it as u8)),
        DType::U16 | DType::I16 => out.extend(words.flat_map(|it| (it as u16).to_le_bytes())),
        DType::I64 => out.extend(words.flat_map(|it| (it as i32 as i64).to_le_bytes())),
        DType::U64 => out.extend(words.flat_map(|it| (it as u64).to_le_bytes())),
        DType::F64 => bug!("f64 has no device form"),
    }
}

#[cfg(test)]
mod tests {
    use wgfuse_compiler::{scalar::Scalar, shape::Type, tensor::Tensor};

    use super::*;

    #[test]
    fn every_type_comes_back() {
        let values = [0.0, 1.0, 100.0, 3.0, 7.0];
        for dtype in DType::ALL.into_iter().filter(|&it| it != DType::F64) {
            let values = values.map(|it| match dtype {
                DType::I8 | DType::I16 | DType::I32 | DType::I64 => Scalar::Int(-(it as i64)),
                DType::Bool => Scalar::Int((it != 0.0) as i64),
                it if it.is_float() => Scalar::Float(values[4] - 0.5),
                _ => Scalar::Int(it as i64),
            });
            let tensor = Tensor::from_scalars(Type::new(dtype, [5]), values);
            let (mut device, mut host) = (Vec::new(), Vec::new());
            to_device(dtype, tensor.data(), &mut device).expect("small values");
            assert_eq!(device.len(), 5 * device_size(dtype), "{dtype}");
            to_host(dtype, &device, 5, &mut host);
            assert_eq!(host, tensor.data()[..], "{dtype}");
        }
    }

    #[test]
    fn integers_past_32_bits_are_refused() {
        let bytes: Vec<u8> = [1i64, 1 << 31].iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(to_device(DType::I64, &bytes, &mut Vec::new()), Err(1));
        assert_eq!(to_device(DType::U64, &bytes, &mut Vec::new()), Ok(()));
    }
}
