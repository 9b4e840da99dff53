//! Typed loops over blocks of elements: every operator for every type.
//!
//! A block holds its elements in a `Lane`: integers and `Bool` (0 or 1) as they are, 16-bit floats as f32 that have been
//! rounded. What has no loop of its own is computed element by element by the compiler's definition of the operator.

use wgfuse_compiler::{
    dtype::DType,
    random,
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    small_float,
};

use super::vector;

/// What a block's elements are held as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Lane {
    pub const fn of(dtype: DType) -> Lane {
        match dtype {
            DType::Bool => Lane::Bool,
            DType::I8 => Lane::I8,
            DType::U8 => Lane::U8,
            DType::I16 => Lane::I16,
            DType::U16 => Lane::U16,
            DType::I32 => Lane::I32,
            DType::U32 => Lane::U32,
            DType::I64 => Lane::I64,
            DType::U64 => Lane::U64,
            DType::I4 | DType::I2 => Lane::I8,
            DType::U4 | DType::U2 => Lane::U8,
            DType::F16 | DType::BF16 | DType::F32 => Lane::F32,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3Z | DType::F8E5M2Z | DType::F8E8M0 | DType::F4 => {
                Lane::F32
            }
            DType::F64 => Lane::F64,
        }
    }

    pub const fn size(self) -> usize {
        match self {
            Lane::Bool | Lane::I8 | Lane::U8 => 1,
            Lane::I16 | Lane::U16 => 2,
            Lane::I32 | Lane::U32 | Lane::F32 => 4,
            Lane::I64 | Lane::U64 | Lane::F64 => 8,
        }
    }
}

/// An element as it lies in a block. `Bool` is `u8` there.
pub trait Element: Copy + Send + Sync + 'static {
    fn scalar(self) -> Scalar;
    fn from_scalar(value: Scalar) -> Self;
}

macro_rules! elements {
    ($($ty:ty, $make:ident, $get:ident, $via:ty;)+) => {
        $(impl Element for $ty {
            fn scalar(self) -> Scalar {
                Scalar::$make(self as $via)
            }
            fn from_scalar(value: Scalar) -> $ty {
                value.$get() as $ty
            }
        })+
    };
}

elements! {
    i8, Int, as_i64, i64;
    u8, Int, as_i64, i64;
    i16, Int, as_i64, i64;
    u16, Int, as_i64, i64;
    i32, Int, as_i64, i64;
    u32, Int, as_i64, i64;
    i64, Int, as_i64, i64;
    u64, Int, as_i64, i64;
    f32, Float, as_f64, f64;
    f64, Float, as_f64, f64;
}

/// `$body` with `$t` as the element type of `$lane`.
macro_rules! with_lane {
    ($lane:expr, $t:ident => $body:expr) => {
        match $lane {
            $crate::host::loops::Lane::Bool | $crate::host::loops::Lane::U8 => {
                type $t = u8;
                $body
            }
            $crate::host::loops::Lane::I8 => {
                type $t = i8;
                $body
            }
            $crate::host::loops::Lane::I16 => {
                type $t = i16;
                $body
            }
            $crate::host::loops::Lane::U16 => {
                type $t = u16;
                $body
            }
            $crate::host::loops::Lane::I32 => {
                type $t = i32;
                $body
            }
            $crate::host::loops::Lane::U32 => {
                type $t = u32;
                $body
            }
            $crate::host::loops::Lane::I64 => {
                type $t = i64;
                $body
            }
            $crate::host::loops::Lane::U64 => {
                type $t = u64;
                $body
            }
            $crate::host::loops::Lane::F32 => {
                type $t = f32;
                $body
            }
            $crate::host::loops::Lane::F64 => {
                type $t = f64;
                $body
            }
        }
    };
}
pub(super) use with_lane;

/// # Safety
/// `at` points to `count` elements that nothing else writes meanwhile.
pub unsafe fn slice<'a, T>(at: *const u8, count: usize) -> &'a [T] {
    unsafe { std::slice::from_raw_parts(at.cast(), count) }
}

/// # Safety
/// `at` points to `count` elements that nothing else reads or writes meanwhile.
pub unsafe fn slice_mut<'a, T>(at: *mut u8, count: usize) -> &'a mut [T] {
    unsafe { std::slice::from_raw_parts_mut(at.cast(), count) }
}

/// # Safety
/// `at` points to `count` elements of `lane`.
pub unsafe fn fill(lane: Lane, at: *mut u8, count: usize, value: Scalar) {
    with_lane!(lane, T => unsafe { slice_mut::<T>(at, count) }.fill(T::from_scalar(value)));
}

/// `out = op x`.
///
/// # Safety
/// Each pointer is to `count` elements in the lane of its type, `out` apart from the others.
pub unsafe fn unary(op: UnaryOp, of: DType, out: *mut u8, x: *const u8, count: usize) {
    if Lane::of(of) == Lane::F32 && op.result(of) == Some(of) {
        let (out, x) = unsafe { (slice_mut::<f32>(out, count), slice::<f32>(x, count)) };
        if vector::unary(op, out, x) {
            return;
        }
        let plain: Option<fn(f32) -> f32> = match op {
            UnaryOp::Log => Some(f32::ln),
            UnaryOp::Sin => Some(f32::sin),
            UnaryOp::Cos => Some(f32::cos),
            _ => None,
        };
        if let Some(plain) = plain {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = plain(*x));
            return;
        }
    }
    let to = Lane::of(op.result(of).expect("typed by the graph"));
    with_lane!(Lane::of(of), T => {
        let x = unsafe { slice::<T>(x, count) };
        with_lane!(to, R => {
            let out = unsafe { slice_mut::<R>(out, count) };
            out.iter_mut().zip(x).for_each(|(out, x)| *out = R::from_scalar(op.eval(of, x.scalar())));
        })
    });
}

/// The bits of random op `number` at the places `at`; all registers are U32.
///
/// # Safety
/// Each pointer is to `count` elements, `out` apart from the others.
pub unsafe fn random(number: u32, out: *mut u8, key: [*const u8; 2], at: *const u8, count: usize) {
    let [low, high] = key.map(|it| unsafe { slice::<u32>(it, count) });
    let (out, at) = unsafe { (slice_mut::<u32>(out, count), slice::<u32>(at, count)) };
    for (((out, low), high), at) in out.iter_mut().zip(low).zip(high).zip(at) {
        *out = random::bits([*low, *high], number, *at);
    }
}

fn zip<T: Copy>(out: &mut [T], x: &[T], y: &[T], f: impl Fn(T, T) -> T) {
    out.iter_mut().zip(x).zip(y).for_each(|((out, x), y)| *out = f(*x, *y));
}

fn test<T: Copy>(out: &mut [u8], x: &[T], y: &[T], f: impl Fn(T, T) -> bool) {
    out.iter_mut().zip(x).zip(y).for_each(|((out, x), y)| *out = f(*x, *y) as u8);
}

/// `out = x op y` for operands of type `of`.
///
/// # Safety
/// Each pointer is to `count` elements in the lane of its type, `out` apart from the others.
pub unsafe fn binary(op: BinaryOp, of: DType, out: *mut u8, x: *const u8, y: *const u8, count: usize) {
    let done = match Lane::of(of) {
        Lane::F32 => unsafe {
            let (x, y) = (slice::<f32>(x, count), slice::<f32>(y, count));
            if op.is_comparison() {
                vector::compare(op, slice_mut(out, count), x, y)
            } else if op == BinaryOp::Pow {
                zip(slice_mut(out, count), x, y, f32::powf);
                true
            } else {
                vector::binary(op, slice_mut(out, count), x, y)
            }
        },
        Lane::F64 => unsafe {
            let (x, y) = (slice::<f64>(x, count), slice::<f64>(y, count));
            match op {
                BinaryOp::Add => zip(slice_mut(out, count), x, y, |x, y| x + y),
                BinaryOp::Sub => zip(slice_mut(out, count), x, y, |x, y| x - y),
                BinaryOp::Mul => zip(slice_mut(out, count), x, y, |x, y| x * y),
                BinaryOp::Div => zip(slice_mut(out, count), x, y, |x, y| x / y),
                _ => {}
            }
            matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div)
        },
        Lane::Bool | Lane::U8 => unsafe { whole_u8(op, out, x, y, count) },
        Lane::I8 => unsafe { whole_i8(op, out, x, y, count) },
        Lane::I16 => unsafe { whole_i16(op, out, x, y, count) },
        Lane::U16 => unsafe { whole_u16(op, out, x, y, count) },
        Lane::I32 => unsafe { whole_i32(op, out, x, y, count) },
        Lane::U32 => unsafe { whole_u32(op, out, x, y, count) },
        Lane::I64 => unsafe { whole_i64(op, out, x, y, count) },
        Lane::U64 => unsafe { whole_u64(op, out, x, y, count) },
    };
    if done {
        return;
    }
    let to = Lane::of(op.result(of).expect("typed by the graph"));
    with_lane!(Lane::of(of), T => {
        let (x, y) = unsafe { (slice::<T>(x, count), slice::<T>(y, count)) };
        with_lane!(to, R => {
            let out = unsafe { slice_mut::<R>(out, count) };
            for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = R::from_scalar(op.eval(of, x.scalar(), y.scalar()));
            }
        })
    });
}

/// Loops for the operators of one integer type; false where there is none.
macro_rules! whole {
    ($($name:ident $ty:ty;)+) => {
        $(
            /// # Safety
            /// As `binary`.
            unsafe fn $name(op: BinaryOp, out: *mut u8, x: *const u8, y: *const u8, count: usize) -> bool {
                let (x, y) = unsafe { (slice::<$ty>(x, count), slice::<$ty>(y, count)) };
                if op.is_comparison() {
                    let out = unsafe { slice_mut::<u8>(out, count) };
                    match op {
                        BinaryOp::Eq => test(out, x, y, |x, y| x == y),
                        BinaryOp::Ne => test(out, x, y, |x, y| x != y),
                        BinaryOp::Lt => test(out, x, y, |x, y| x < y),
                        BinaryOp::Le => test(out, x, y, |x, y| x <= y),
                        BinaryOp::Gt => test(out, x, y, |x, y| x > y),
                        _ => test(out, x, y, |x, y| x >= y),
                    }
                    return true;
                }
                let out = unsafe { slice_mut::<$ty>(out, count) };
                match op {
                    BinaryOp::Add => zip(out, x, y, <$ty>::wrapping_add),
                    BinaryOp::Sub => zip(out, x, y, <$ty>::wrapping_sub),
                    BinaryOp::Mul => zip(out, x, y, <$ty>::wrapping_mul),
                    BinaryOp::Max => zip(out, x, y, Ord::max),
                    BinaryOp::Min => zip(out, x, y, Ord::min),
                    BinaryOp::And => zip(out, x, y, |x, y| x & y),
                    BinaryOp::Or => zip(out, x, y, |x, y| x | y),
                    BinaryOp::Xor => zip(out, x, y, |x, y| x ^ y),
                    _ => return false,
                }
                true
            }
        )+
    };
}

whole! {
    whole_i8 i8;
    whole_u8 u8;
    whole_i16 i16;
    whole_u16 u16;
    whole_i32 i32;
    whole_u32 u32;
    whole_i64 i64;
    whole_u64 u64;
}

/// `out = c ? x : y` for elements of `lane`.
///
/// # Safety
/// As `binary`; `c` holds `Bool`.
pub unsafe fn select(lane: Lane, out: *mut u8, c: *const u8, x: *const u8, y: *const u8, count: usize) {
    let c = unsafe { slice::<u8>(c, count) };
    if lane == Lane::F32 {
        return unsafe { vector::select(slice_mut(out, count), c, slice(x, count), slice(y, count)) };
    }
    with_lane!(lane, T => {
        let (x, y) = unsafe { (slice::<T>(x, count), slice::<T>(y, count)) };
        let out = unsafe { slice_mut::<T>(out, count) };
        for (((out, c), x), y) in out.iter_mut().zip(c).zip(x).zip(y) {
            *out = if *c != 0 { *x } else { *y };
        }
    });
}

/// Types between which Rust's `as` is the cast that the compiler defines, `Bool` apart.
macro_rules! plain_casts {
    ($from:expr, $to:expr, $out:expr, $x:expr, $count:expr; $($a:ident $ta:ty: $($b:ident $tb:ty),+;)+) => {
        match ($from, $to) {
            $($((Lane::$a, Lane::$b) => {
                let (x, out) = unsafe { (slice::<$ta>($x, $count), slice_mut::<$tb>($out, $count)) };
                out.iter_mut().zip(x).for_each(|(out, x)| *out = *x as $tb);
                return;
            })+)+
            _ => {}
        }
    };
}

/// `out = x` as another type.
///
/// # Safety
/// Each pointer is to `count` elements in the lane of its type, `out` apart from `x`.
pub unsafe fn cast(from: DType, to: DType, out: *mut u8, x: *const u8, count: usize) {
    if to.is_narrow_float() && Lane::of(from) == Lane::F32 {
        unsafe {
            std::ptr::copy_nonoverlapping(x, out, count * 4);
            return round(to, out, count);
        }
    }
    if !rounds(to) {
        plain_casts! { Lane::of(from), Lane::of(to), out, x, count;
            Bool u8: Bool u8, U8 u8, I32 i32, I64 i64, F32 f32, F64 f64;
            U8 u8: I32 i32, I64 i64, F32 f32, F64 f64;
            I8 i8: I32 i32, I64 i64, F32 f32, F64 f64;
            U16 u16: I32 i32, I64 i64, F32 f32, F64 f64;
            I16 i16: I32 i32, I64 i64, F32 f32, F64 f64;
            I32 i32: I8 i8, U8 u8, I16 i16, U16 u16, U32 u32, I32 i32, I64 i64, U64 u64, F32 f32, F64 f64;
            U32 u32: I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, I64 i64, U64 u64, F32 f32, F64 f64;
            I64 i64: I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32, I64 i64, U64 u64, F32 f32, F64 f64;
            U64 u64: I32 i32, U32 u32, I64 i64, F32 f32, F64 f64;
            F32 f32: I32 i32, U32 u32, I64 i64, U64 u64, F32 f32, F64 f64;
            F64 f64: I32 i32, U32 u32, I64 i64, U64 u64, F32 f32;
        }
    }
    with_lane!(Lane::of(from), T => {
        let x = unsafe { slice::<T>(x, count) };
        with_lane!(Lane::of(to), R => {
            let out = unsafe { slice_mut::<R>(out, count) };
            out.iter_mut().zip(x).for_each(|(out, x)| *out = R::from_scalar(x.scalar().cast(from, to)));
        })
    });
}

/// Whether a block holds elements of `dtype` in a wider type, to which results have to be rounded or wrapped.
pub const fn rounds(dtype: DType) -> bool {
    dtype.is_narrow_float() || dtype.bits() < 8
}

/// Rounds or wraps results to the values of a type that blocks hold in a wider one.
///
/// # Safety
/// `at` points to `count` elements in the lane of `to` that nothing else uses meanwhile.
pub unsafe fn round(to: DType, at: *mut u8, count: usize) {
    unsafe {
        match to {
            DType::F16 => narrow(slice_mut(at, count), |it| half::f16::from_f32(it).to_f32()),
            DType::BF16 => narrow(slice_mut(at, count), |it| half::bf16::from_f32(it).to_f32()),
            DType::I4 => narrow(slice_mut(at, count), |it: i8| it << 4 >> 4),
            DType::I2 => narrow(slice_mut(at, count), |it: i8| it << 6 >> 6),
            DType::U4 => narrow(slice_mut(at, count), |it: u8| it & 15),
            DType::U2 => narrow(slice_mut(at, count), |it: u8| it & 3),
            it if it.is_narrow_float() => {
                narrow(slice_mut(at, count), |it: f32| small_float::round(to, f64::from(it)) as f32);
            }
            _ => {}
        }
    }
}

fn narrow<T: Copy>(values: &mut [T], to: impl Fn(T) -> T) {
    values.iter_mut().for_each(|it| *it = to(*it));
}

/// `x` reduced to one element, written to `out`. Partial results of 16-bit floats are f32.
///
/// # Safety
/// `out` points to one element and `x` to `count` elements of the lane of `of`.
pub unsafe fn reduce(op: ReduceOp, of: DType, out: *mut u8, x: *const u8, count: usize) {
    if Lane::of(of) == Lane::F32 {
        unsafe { *out.cast::<f32>() = vector::reduce(op, slice(x, count)) };
        return;
    }
    with_lane!(Lane::of(of), T => {
        let identity = T::from_scalar(op.identity(of));
        let join = op.combine();
        unsafe {
            let fold = |sum: T, x: &T| T::from_scalar(join.eval(of, sum.scalar(), x.scalar()));
            *out.cast::<T>() = slice::<T>(x, count).iter().fold(identity, fold);
        }
    });
}

/// `acc = acc op x`, element by element, for type `of`; partial results of 16-bit floats are f32.
///
/// # Safety
/// Both point to `count` elements of the lane of `of`, apart from each other; `spare` to as many.
pub unsafe fn accumulate(op: ReduceOp, of: DType, acc: *mut u8, x: *const u8, spare: *mut u8, count: usize) {
    if Lane::of(of) == Lane::F32 {
        return unsafe { vector::accumulate(op, slice_mut(acc, count), slice(x, count)) };
    }
    unsafe {
        binary(op.combine(), of, spare, acc, x, count);
        std::ptr::copy_nonoverlapping(spare, acc, count * Lane::of(of).size());
    }
}
