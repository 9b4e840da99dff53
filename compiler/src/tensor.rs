//! A tensor's values on the host: dense, row-major, little-endian bytes that are shared, not copied.

use bytes::Bytes;

use crate::{
    dtype::DType,
    scalar::Scalar,
    shape::{Shape, Type},
};

/// Values with their type. Cloning shares the bytes, which may be borrowed from a mapped file and so be unaligned.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    ty: Type,
    data: Bytes,
}

impl Tensor {
    /// `data` must hold exactly the bytes of `ty`; `None` otherwise. `Bool` bytes must be 0 or 1.
    pub fn new(ty: Type, data: Bytes) -> Option<Tensor> {
        let need = ty.shape.checked_count()?.checked_mul(ty.dtype.size())?;
        (data.len() == need).then_some(Tensor { ty, data })
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
    }
}
