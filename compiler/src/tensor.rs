//! A tensor's values on the host: dense, row-major, little-endian bytes that are shared, not copied.

use bytes::Bytes;

use crate::{
    dtype::{Class, DType},
    scalar::Scalar,
    shape::{Shape, Type},
    small_float,
};

/// Values with their type. Cloning shares the bytes, which may be borrowed from a mapped file and so be unaligned.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    ty: Type,
    data: Bytes,
}

impl Tensor {
    /// `data` must hold exactly the bytes of `ty`, and those of types of fewer than eight bits no others' values; `None`
    /// otherwise. `Bool` bytes must be 0 or 1.
    pub fn new(ty: Type, data: Bytes) -> Option<Tensor> {
        let need = ty.shape.checked_count()?.checked_mul(ty.dtype.size())?;
        let inside = |it: &u8| match ty.dtype {
            DType::I4 => (-8..8).contains(&(*it as i8)),
            DType::I2 => (-2..2).contains(&(*it as i8)),
            DType::U4 | DType::F4 => *it < 16,
            DType::U2 => *it < 4,
            _ => true,
        };
        (data.len() == need && (ty.dtype.bits() >= 8 || data.iter().all(inside)))
            .then_some(Tensor { ty, data })
    }

    /// Elements of fewer than eight bits from the bytes that they are packed in, the first in the lowest bits; `None` where
    /// there are not as many.
    pub fn unpacked(ty: Type, packed: &[u8]) -> Option<Tensor> {
        let (bits, count) = (ty.dtype.bits(), ty.shape.checked_count()?);
        if packed.len() != count.checked_mul(bits)?.div_ceil(8) {
            return None;
        }
        let (places, unused) = (8 / bits, 8 - bits);
        let element = |at: usize| {
            let high = packed[at / places] << (unused - at % places * bits);
            match ty.dtype.class() {
                Class::Signed => (high as i8 >> unused) as u8,
                Class::Bool | Class::Unsigned | Class::Float => high >> unused,
            }
        };
        let data = (0..count).map(element).collect();
        Tensor::new(ty, data)
    }

    /// What `unpacked` reads: the elements as they lie in memory, if they have eight bits or more.
    pub fn packed(&self) -> Bytes {
        let bits = self.ty.dtype.bits();
        if bits >= 8 {
            return self.data.clone();
        }
        let mask = (1u8 << bits) - 1;
        let byte = |several: &[u8]| several.iter().rev().fold(0, |byte, it| byte << bits | it & mask);
        self.data.chunks(8 / bits).map(byte).collect()
    }

    /// Values of any plain type whose size is that of `dtype`.
    pub fn from_slice<T: bytemuck::NoUninit>(
        dtype: DType,
        shape: impl Into<Shape>,
        values: &[T],
    ) -> Option<Tensor> {
        if size_of::<T>() != dtype.size() {
            return None;
        }
        Tensor::new(Type::new(dtype, shape), Bytes::copy_from_slice(bytemuck::cast_slice(values)))
    }

    pub fn f32(shape: impl Into<Shape>, values: &[f32]) -> Option<Tensor> {
        Tensor::from_slice(DType::F32, shape, values)
    }

    pub fn i64(shape: impl Into<Shape>, values: &[i64]) -> Option<Tensor> {
        Tensor::from_slice(DType::I64, shape, values)
    }

    pub fn scalar(dtype: DType, value: Scalar) -> Tensor {
        let mut bytes = Vec::with_capacity(dtype.size());
        write_scalar(dtype, value, &mut bytes);
        Tensor { ty: Type::new(dtype, Shape::scalar()), data: bytes.into() }
    }

    /// One scalar an element, in row-major order.
    pub fn from_scalars(ty: Type, values: impl IntoIterator<Item = Scalar>) -> Tensor {
        let mut bytes = Vec::with_capacity(ty.bytes());
        for value in values {
            write_scalar(ty.dtype, value, &mut bytes);
        }
        assert_eq!(bytes.len(), ty.bytes(), "one scalar an element");
        Tensor { ty, data: bytes.into() }
    }

    pub fn ty(&self) -> &Type {
        &self.ty
    }

    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    pub fn shape(&self) -> &Shape {
        &self.ty.shape
    }

    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same bytes under another shape of as many elements.
    pub fn reshaped(&self, shape: Shape) -> Option<Tensor> {
        Tensor::new(Type { dtype: self.ty.dtype, shape }, self.data.clone())
    }

    /// Element number `at` in row-major order.
    pub fn get(&self, at: usize) -> Scalar {
        let size = self.ty.dtype.size();
        read_scalar(self.ty.dtype, &self.data[at * size..(at + 1) * size])
    }

    pub fn scalars(&self) -> impl ExactSizeIterator<Item = Scalar> + '_ {
        let dtype = self.ty.dtype;
        self.data.chunks_exact(dtype.size()).map(move |it| read_scalar(dtype, it))
    }

    /// Every value as `i64`; floats are cut towards zero.
    pub fn to_i64(&self) -> Vec<i64> {
        self.scalars().map(Scalar::as_i64).collect()
    }

    pub fn to_f64(&self) -> Vec<f64> {
        self.scalars().map(|it| it.cast(self.ty.dtype, DType::F64).as_f64()).collect()
    }

    /// The values of an f32 tensor, `None` for another dtype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.ty.dtype == DType::F32).then(|| bytemuck::allocation::pod_collect_to_vec::<u8, f32>(&self.data))
    }
}

#[inline]
fn read_scalar(dtype: DType, bytes: &[u8]) -> Scalar {
    macro_rules! read {
        ($t:ty) => {
            <$t>::from_le_bytes(bytes.try_into().expect("an element's bytes"))
        };
    }
    match dtype {
        DType::Bool => Scalar::Int((bytes[0] != 0) as i64),
        DType::I8 => Scalar::Int(read!(i8) as i64),
        DType::U8 => Scalar::Int(bytes[0] as i64),
        DType::I16 => Scalar::Int(read!(i16) as i64),
        DType::U16 => Scalar::Int(read!(u16) as i64),
        DType::I32 => Scalar::Int(read!(i32) as i64),
        DType::U32 => Scalar::Int(read!(u32) as i64),
        DType::I64 => Scalar::Int(read!(i64)),
        DType::U64 => Scalar::Int(read!(u64) as i64),
        DType::F16 => Scalar::Float(half::f16::from_bits(read!(u16)).to_f64()),
        DType::BF16 => Scalar::Float(half::bf16::from_bits(read!(u16)).to_f64()),
        DType::F32 => Scalar::Float(read!(f32) as f64),
        DType::F64 => Scalar::Float(read!(f64)),
        DType::I4 | DType::I2 => Scalar::Int(read!(i8) as i64),
        DType::U4 | DType::U2 => Scalar::Int(bytes[0] as i64),
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
            Scalar::Float(small_float::value(dtype, bytes[0]))
        }
    }
}

#[inline]
fn write_scalar(dtype: DType, value: Scalar, out: &mut Vec<u8>) {
    match dtype {
        DType::Bool => out.push(value.as_bool() as u8),
        DType::I8 | DType::U8 => out.push(value.as_i64() as u8),
        DType::I16 | DType::U16 => out.extend((value.as_i64() as u16).to_le_bytes()),
        DType::I32 | DType::U32 => out.extend((value.as_i64() as u32).to_le_bytes()),
        DType::I64 | DType::U64 => out.extend(value.as_i64().to_le_bytes()),
        DType::F16 => out.extend(half::f16::from_f64(value.as_f64()).to_le_bytes()),
        DType::BF16 => out.extend(half::bf16::from_f64(value.as_f64()).to_le_bytes()),
        DType::F32 => out.extend((value.as_f64() as f32).to_le_bytes()),
        DType::F64 => out.extend(value.as_f64().to_le_bytes()),
        DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            out.push(Scalar::Int(value.as_i64()).cast(DType::I64, dtype).as_i64() as u8);
        }
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
            out.push(small_float::bits(dtype, value.as_f64()))
        }
    }
}
