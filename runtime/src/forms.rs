//! A tensor's bytes on the host to its device form and back (`wgfuse_compiler::plan::step` defines both).

#[cfg(not(target_arch = "wasm32"))]
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use wgfuse_compiler::{bug, dtype::DType, small_float};
use wgpu::WriteOnly;

/// Bytes of one element in the device form.
pub(crate) fn device_size(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 2,
        DType::F64 | DType::F8E8M0 => bug!("{dtype} has no device form"),
        DType::I4 | DType::U4 | DType::I2 | DType::U2 => 4,
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F4 => 4,
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

/// Bytes on the device from which on several threads convert them, since waking those takes as long as moving a few megabytes,
/// and how many each takes at a time.
const LARGE: usize = 4 << 20;
const PART: usize = 1 << 18;

/// Writes the device form of whole elements to `out`, then zeros to its end. `Err` is the number of the first integer that
/// does not fit 32 bits.
pub(crate) fn to_device(dtype: DType, host: &[u8], out: WriteOnly<'_, [u8]>) -> Result<(), usize> {
    let elements = PART / device_size(dtype);
    let (out, mut padding) = out.split_at(host.len() / dtype.size() * device_size(dtype));
    padding.fill(0);
    if out.len() < LARGE {
        return encode(dtype, host, out);
    }
    let (parts, rest) = out.into_chunks::<PART>();
    let (first, last) = host.split_at(parts.len() * elements * dtype.size());
    let one = |(number, out): (usize, WriteOnly<'_, [u8; PART]>)| {
        let host = &first[number * elements * dtype.size()..][..elements * dtype.size()];
        encode(dtype, host, out.into()).err().map(|at| number * elements + at)
    };
    let parts: Vec<_> = parts.into_iter().enumerate().collect();
    #[cfg(not(target_arch = "wasm32"))]
    let parts = parts.into_par_iter();
    #[cfg(target_arch = "wasm32")]
    let parts = parts.into_iter();
    match parts.filter_map(one).min() {
        Some(at) => Err(at),
        None => encode(dtype, last, rest).map_err(|at| first.len() / dtype.size() + at),
    }
}

fn encode(dtype: DType, host: &[u8], mut out: WriteOnly<'_, [u8]>) -> Result<(), usize> {
    fn widen<const N: usize>(host: &[u8], out: WriteOnly<'_, [u8]>, word: impl Fn([u8; N]) -> u32) {
        for (host, out) in host.chunks_exact(N).zip(out.into_chunks::<4>().0) {
            out.write(word(host.try_into().expect("an element's bytes")).to_le_bytes());
        }
    }
    fn narrow(
        host: &[u8],
        out: WriteOnly<'_, [u8]>,
        word: impl Fn([u8; 8]) -> Option<u32>,
    ) -> Result<(), usize> {
        for (at, (host, out)) in host.chunks_exact(8).zip(out.into_chunks::<4>().0).enumerate() {
            out.write(word(host.try_into().expect("an element's bytes")).ok_or(at)?.to_le_bytes());
        }
        Ok(())
    }
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::F16 | DType::BF16 => out.copy_from_slice(host),
        DType::Bool => widen(host, out, |[it]| (it != 0) as u32),
        DType::U8 => widen(host, out, |[it]| it as u32),
        DType::U4 | DType::U2 => widen(host, out, |[it]| it as u32),
        DType::I8 | DType::I4 | DType::I2 => widen(host, out, |[it]| it as i8 as i32 as u32),
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F4 => {
            let words: Vec<u32> =
                (0..=255).map(|it| (small_float::value(dtype, it) as f32).to_bits()).collect();
            widen(host, out, |[it]| words[usize::from(it)]);
        }
        DType::U16 => widen(host, out, |it| u16::from_le_bytes(it) as u32),
        DType::I16 => widen(host, out, |it| i16::from_le_bytes(it) as i32 as u32),
        DType::I64 => narrow(host, out, |it| i32::try_from(i64::from_le_bytes(it)).ok().map(|it| it as u32))?,
        DType::U64 => narrow(host, out, |it| u32::try_from(u64::from_le_bytes(it)).ok())?,
        DType::F64 | DType::F8E8M0 => bug!("{dtype} has no device form"),
    }
    Ok(())
}

/// Fills `out` with the host's bytes of as many elements. `device` may be longer by its padding.
pub(crate) fn to_host(dtype: DType, device: &[u8], out: &mut [u8]) {
    let (size, wide) = (dtype.size(), device_size(dtype));
    let most = PART / size.max(wide);
    let one = |(device, out): (&[u8], &mut [u8])| decode(dtype, device, out);
    #[cfg(not(target_arch = "wasm32"))]
    if device.len() >= LARGE {
        use rayon::prelude::*;
        let parts = device.par_chunks(most * wide).zip(out.par_chunks_mut(most * size));
        return parts.for_each(one);
    }
    device.chunks(most * wide).zip(out.chunks_mut(most * size)).for_each(one);
}

fn decode(dtype: DType, device: &[u8], out: &mut [u8]) {
    fn narrow<const N: usize>(device: &[u8], out: &mut [u8], value: impl Fn(u32) -> [u8; N]) {
        for (device, out) in device.chunks_exact(4).zip(out.chunks_exact_mut(N)) {
            out.copy_from_slice(&value(u32::from_le_bytes(device.try_into().expect("a word"))));
        }
    }
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::F16 | DType::BF16 => {
            out.copy_from_slice(&device[..out.len()]);
        }
        DType::Bool => narrow(device, out, |it| [(it != 0) as u8]),
        DType::U8 | DType::I8 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            narrow(device, out, |it| [it as u8]);
        }
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F4 => {
            narrow(device, out, |it| [small_float::bits(dtype, f64::from(f32::from_bits(it)))]);
        }
        DType::U16 | DType::I16 => narrow(device, out, |it| (it as u16).to_le_bytes()),
        DType::I64 => narrow(device, out, |it| (it as i32 as i64).to_le_bytes()),
        DType::U64 => narrow(device, out, |it| (it as u64).to_le_bytes()),
        DType::F64 | DType::F8E8M0 => bug!("{dtype} has no device form"),
    }
}

#[cfg(test)]
mod tests {
    use wgfuse_compiler::{scalar::Scalar, shape::Type, tensor::Tensor};

    use super::*;

    #[test]
    fn every_type_comes_back() {
        let values = [0.0, 1.0, 100.0, 3.0, 7.0];
        for dtype in DType::ALL.into_iter().filter(|it| it.has_device_form()) {
            let values = values.map(|it| match dtype {
                it2 if it2.bits() < 8 => Scalar::Int(it as i64).cast(DType::I64, it2),
                DType::I8 | DType::I16 | DType::I32 | DType::I64 => Scalar::Int(-(it as i64)),
                DType::Bool => Scalar::Int((it != 0.0) as i64),
                it if it.is_float() => Scalar::Float(values[4] - 0.5),
                _ => Scalar::Int(it as i64),
            });
            let tensor = Tensor::from_scalars(Type::new(dtype, [5]), values);
            // Several parts, the last of them ragged, and a word of padding.
            let many = tensor.data().repeat(LARGE / 4 + 1);
            for host in [&tensor.data()[..], &many] {
                let mut device = vec![7; host.len() / dtype.size() * device_size(dtype) + 4];
                to_device(dtype, host, device.as_mut_slice().into()).expect("small values");
                assert_eq!(device[device.len() - 4..], [0; 4], "{dtype}");
                let mut back = vec![7; host.len()];
                to_host(dtype, &device, &mut back);
                assert!(back == host, "{dtype}");
            }
        }
    }

    #[test]
    fn integers_past_32_bits_are_refused() {
        let bytes: Vec<u8> = [1i64, 1 << 31].iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(to_device(DType::I64, &bytes, [0; 8].as_mut_slice().into()), Err(1));
        assert_eq!(to_device(DType::U64, &bytes, [0; 8].as_mut_slice().into()), Ok(()));
        // The first of all threads' parts.
        let large = bytes.repeat(LARGE / 4);
        assert_eq!(to_device(DType::I64, &large, vec![0; large.len() / 2].as_mut_slice().into()), Err(1));
    }
}
