//! Ops on each element by itself.

use half::{bf16, f16};

use super::view;
use crate::{
    dtype::DType,
    random,
    scalar::{BinaryOp, Scalar, UnaryOp},
    shape::Type,
    tensor::Tensor,
};

pub fn unary(op: UnaryOp, x: &Tensor) -> Tensor {
    let dtype = x.dtype();
    let ty = Type { dtype: op.result(dtype).expect("typed"), shape: x.shape().clone() };
    Tensor::from_scalars(ty, x.scalars().map(|it| op.eval(dtype, it)))
}

pub fn random(number: u32, ty: &Type, key: &Tensor) -> Tensor {
    let word = |at| key.get(at).as_i64() as u32;
    let key = [word(0), word(1)];
    let bits = |at| Scalar::Int(i64::from(random::bits(key, number, at)));
    Tensor::from_scalars(ty.clone(), (0..ty.shape.count() as u32).map(bits))
}

pub fn binary(op: BinaryOp, ty: &Type, a: &Tensor, b: &Tensor) -> Tensor {
    let dtype = a.dtype();
    let (a, b) = (view::expand(a, &ty.shape), view::expand(b, &ty.shape));
    if ty.dtype == DType::F32 {
        // What f64 arithmetic gives, rounded to f32, is what f32 arithmetic gives.
        let quick: Option<fn(f32, f32) -> f32> = match op {
            BinaryOp::Add => Some(|a, b| a + b),
            BinaryOp::Sub => Some(|a, b| a - b),
            BinaryOp::Mul => Some(|a, b| a * b),
            BinaryOp::Div => Some(|a, b| a / b),
            _ => None,
        };
        if let Some(quick) = quick {
            let pairs = a.data().chunks_exact(4).zip(b.data().chunks_exact(4));
            let bytes = pairs.flat_map(|(a, b)| quick(f32_of(a), f32_of(b)).to_le_bytes());
            return Tensor::new(ty.clone(), bytes.collect()).expect("an element a place");
        }
    }
    let values = a.scalars().zip(b.scalars()).map(|(a, b)| op.eval(dtype, a, b));
    Tensor::from_scalars(ty.clone(), values)
}

pub fn select(ty: &Type, cond: &Tensor, yes: &Tensor, no: &Tensor) -> Tensor {
    let cond = view::expand(cond, &ty.shape);
    let (yes, no) = (view::expand(yes, &ty.shape), view::expand(no, &ty.shape));
    let size = ty.dtype.size();
    let mut bytes = Vec::with_capacity(ty.bytes());
    for (at, &cond) in cond.data().iter().enumerate() {
        let from = if cond != 0 { &yes } else { &no };
        bytes.extend_from_slice(&from.data()[at * size..(at + 1) * size]);
    }
    Tensor::new(ty.clone(), bytes.into()).expect("an element a place")
}

pub fn cast(x: &Tensor, to: DType) -> Tensor {
    let from = x.dtype();
    let ty = Type { dtype: to, shape: x.shape().clone() };
    macro_rules! quick {
        ($n:literal, $convert:expr) => {{
            let (elements, _) = x.data().as_chunks::<$n>();
            let values: Vec<_> = elements.iter().map($convert).collect();
            values.into_flattened()
        }};
    }
    let bytes: Vec<u8> = match (from, to) {
        _ if from == to => return x.clone(),
        (DType::F16, DType::F32) => quick!(2, |&it| f16::from_le_bytes(it).to_f32().to_le_bytes()),
        (DType::BF16, DType::F32) => quick!(2, |&it| bf16::from_le_bytes(it).to_f32().to_le_bytes()),
        (DType::F32, DType::F16) => quick!(4, |&it| f16::from_f32(f32::from_le_bytes(it)).to_le_bytes()),
        (DType::F32, DType::BF16) => quick!(4, |&it| bf16::from_f32(f32::from_le_bytes(it)).to_le_bytes()),
        (DType::F64, DType::F32) => quick!(8, |&it| (f64::from_le_bytes(it) as f32).to_le_bytes()),
        (DType::I64, DType::I32) => quick!(8, |&it| (i64::from_le_bytes(it) as i32).to_le_bytes()),
        (DType::I64, DType::F32) => quick!(8, |&it| (i64::from_le_bytes(it) as f32).to_le_bytes()),
        (DType::I32, DType::F32) => quick!(4, |&it| (i32::from_le_bytes(it) as f32).to_le_bytes()),
        (DType::U8, DType::F32) => quick!(1, |&[it]| (it as f32).to_le_bytes()),
        (DType::I8, DType::F32) => quick!(1, |&it| (i8::from_le_bytes(it) as f32).to_le_bytes()),
        _ => return Tensor::from_scalars(ty, x.scalars().map(|it: Scalar| it.cast(from, to))),
    };
    Tensor::new(ty, bytes.into()).expect("an element a place")
}

fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().expect("four bytes"))
}
