//! Runs the phases of a `Program` over blocks of points.

use wgfuse_compiler::{dtype::DType, scalar::Scalar, small_float};

use super::{
    Operand,
    loops::{self, Lane, slice, slice_mut, with_lane},
    program::{Ins, NONE, Op, Program, Reg},
    walk::{Run, Walk},
};

/// The points that a phase runs over, and where everything lies.
pub struct Frame<'a> {
    /// Scratch memory of `Program::bytes`, aligned to 64.
    pub base: *mut u8,
    pub operands: &'a [Operand],
    /// Values of the loop variables outside the domains.
    pub values: &'a [i64],
    /// Number of the first point at each level.
    pub start: [usize; 2],
    /// Points at each level; at most `Program::capacity`.
    pub count: [usize; 2],
    /// Points of a row in this block.
    pub inner: usize,
}

impl Frame<'_> {
    /// The address of a register.
    pub fn reg(&self, reg: Reg) -> *mut u8 {
        self.base.wrapping_add(reg as usize)
    }
}

impl Program {
    /// Fills the registers of constants.
    ///
    /// # Safety
    /// `base` is scratch memory of `self.bytes`, aligned to 64.
    pub unsafe fn start(&self, base: *mut u8) {
        let count = self.capacity[0].max(self.capacity[1]);
        for (reg, lane, value) in &self.constants {
            unsafe { loops::fill(*lane, base.add(*reg as usize), count, *value) };
        }
    }

    /// # Safety
    /// `start` was called for `frame.base`; the operands are those that the program was made for, and what it stores to
    /// is used by nothing else meanwhile.
    pub unsafe fn phase(&self, number: usize, frame: &Frame) {
        for ins in &self.ins[self.phases[number].clone()] {
            unsafe { step(ins, frame) };
        }
    }
}

unsafe fn step(ins: &Ins, frame: &Frame) {
    let level = ins.level as usize;
    let (start, count) = (frame.start[level], frame.count[level]);
    if count == 0 {
        return;
    }
    let out = frame.reg(ins.out);
    let [a, b, c] = ins.args.map(|it| frame.reg(it));
    unsafe {
        match &ins.op {
            Op::Coord { walk, lane } => coord(walk, *lane, out, frame.values, start, count),
            Op::AddScaled(by) => {
                let (x, y) = (slice::<i64>(a, count), slice::<i64>(b, count));
                let out = slice_mut::<i64>(out, count);
                out.iter_mut()
                    .zip(x)
                    .zip(y)
                    .for_each(|((out, x), y)| *out = x.wrapping_add(y.wrapping_mul(*by)));
            }
            Op::DivFloor(by) => divide(out, a, count, *by, |x, by| x / by, i64::div_euclid),
            Op::ModFloor(by) => divide(out, a, count, *by, |x, by| x % by, i64::rem_euclid),
            Op::Holds { walk } => {
                let out = slice_mut::<u8>(out, count);
                out.fill(1);
                walk.runs(frame.values, start, count, |_| {}, |at, len| out[at..at + len].fill(0));
            }
            Op::Load { tensor, dtype, walk, other } => {
                let from = frame.operands[*tensor].data;
                match ins.args[0] {
                    NONE => load(walk, *dtype, *other, out, from, frame.values, start, count),
                    _ => load_where(walk, *dtype, out, from, slice(a, count), frame.values, start, count),
                }
            }
            Op::Gather { tensor, dtype } => {
                let guard = (ins.args[1] != NONE).then(|| slice::<u8>(b, count));
                gather(*dtype, out, frame.operands[*tensor].data, slice(a, count), guard);
            }
            Op::Unary(op, of) => loops::unary(*op, *of, out, a, count),
            Op::Binary(op, of) => loops::binary(*op, *of, out, a, b, count),
            Op::Select(lane) => loops::select(*lane, out, a, b, c, count),
            Op::Random(number) => loops::random(*number, out, [a, b], c, count),
            Op::Cast { from, to } => loops::cast(*from, *to, out, a, count),
            Op::Round(to) => loops::round(*to, out, count),
            Op::Repeat(lane) => with_lane!(*lane, T => {
                let rows = slice::<T>(a, frame.count[0]);
                let out = slice_mut::<T>(out, count);
                out.chunks_mut(frame.inner).zip(rows).for_each(|(out, it)| out.fill(*it));
            }),
            Op::Store { tensor, dtype, walk } => {
                store(walk, *dtype, frame.operands[*tensor].data, a, frame.values, start, count)
            }
            Op::Scatter { tensor, dtype } => {
                scatter(*dtype, frame.operands[*tensor].data, a, slice(b, count))
            }
        }
    }
}

unsafe fn coord(walk: &Walk, lane: Lane, out: *mut u8, values: &[i64], start: usize, count: usize) {
    macro_rules! fill {
        ($t:ty) => {{
            let out = unsafe { slice_mut::<$t>(out, count) };
            let valid = |run: Run| {
                for (at, out) in out[run.at..run.at + run.len].iter_mut().enumerate() {
                    *out = (run.address + at as i64 * run.stride) as $t;
                }
            };
            walk.runs(values, start, count, valid, |_, _| {});
        }};
    }
    match lane {
        Lane::I32 => fill!(i32),
        _ => fill!(i64),
    }
}

unsafe fn divide(
    out: *mut u8,
    x: *const u8,
    count: usize,
    by: i64,
    small: impl Fn(u32, u32) -> u32,
    any: impl Fn(i64, i64) -> i64,
) {
    let (out, x) = unsafe { (slice_mut::<i64>(out, count), slice::<i64>(x, count)) };
    // Most indices fit 32 bits without a sign, where division is many times as fast.
    let fits = x.iter().fold(0u64, |bits, it| bits | *it as u64) <= u32::MAX as u64;
    match u32::try_from(by) {
        Ok(by) if fits => out.iter_mut().zip(x).for_each(|(out, x)| *out = small(*x as u32, by) as i64),
        _ => out.iter_mut().zip(x).for_each(|(out, x)| *out = any(*x, by)),
    }
}

/// How an element in memory becomes one in a block, and back.
trait Stored: Copy {
    type Held: Copy + Default;
    fn held(self) -> Self::Held;
    fn stored(held: Self::Held) -> Self;
}

macro_rules! stored {
    ($($ty:ty)+) => {
        $(impl Stored for $ty {
            type Held = $ty;
            #[inline(always)]
            fn held(self) -> $ty {
                self
            }
            #[inline(always)]
            fn stored(held: $ty) -> $ty {
                held
            }
        })+
    };
}
stored! { u8 u16 u32 u64 }

impl Stored for half::f16 {
    type Held = f32;
    fn held(self) -> f32 {
        self.to_f32()
    }
    fn stored(held: f32) -> half::f16 {
        half::f16::from_f32(held)
    }
}

impl Stored for half::bf16 {
    type Held = f32;
    fn held(self) -> f32 {
        self.to_f32()
    }
    fn stored(held: f32) -> half::bf16 {
        half::bf16::from_f32(held)
    }
}

/// Floats of eight bits and fewer.
macro_rules! small {
    ($($name:ident $dtype:ident)+) => {
        $(#[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name(u8);
        impl Stored for $name {
            type Held = f32;
            fn held(self) -> f32 {
                small_float::value(DType::$dtype, self.0) as f32
            }
            fn stored(held: f32) -> $name {
                $name(small_float::bits(DType::$dtype, f64::from(held)))
            }
        })+
    };
}
small! { E4m3 F8E4M3 E5m2 F8E5M2 E4m3Z F8E4M3Z E5m2Z F8E5M2Z E8m0 F8E8M0 E2m1 F4 }

/// `$body` with `$t` as the type that elements of `$dtype` are copied as.
macro_rules! with_stored {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::Bool | DType::I8 | DType::U8 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
                type $t = u8;
                $body
            }
            DType::F8E4M3 => {
                type $t = E4m3;
                $body
            }
            DType::F8E5M2 => {
                type $t = E5m2;
                $body
            }
            DType::F8E4M3Z => {
                type $t = E4m3Z;
                $body
            }
            DType::F8E5M2Z => {
                type $t = E5m2Z;
                $body
            }
            DType::F8E8M0 => {
                type $t = E8m0;
                $body
            }
            DType::F4 => {
                type $t = E2m1;
                $body
            }
            DType::I16 | DType::U16 => {
                type $t = u16;
                $body
            }
            DType::I32 | DType::U32 | DType::F32 => {
                type $t = u32;
                $body
            }
            DType::I64 | DType::U64 | DType::F64 => {
                type $t = u64;
                $body
            }
            DType::F16 => {
                type $t = half::f16;
                $body
            }
            DType::BF16 => {
                type $t = half::bf16;
                $body
            }
        }
    };
}

/// # Safety
/// Every address of the walk's valid points is an element of `from`; `out` holds `count` elements.
#[allow(clippy::too_many_arguments)]
unsafe fn load(
    walk: &Walk,
    dtype: DType,
    other: Scalar,
    out: *mut u8,
    from: *const u8,
    values: &[i64],
    start: usize,
    count: usize,
) {
    with_stored!(dtype, T => unsafe {
        let mut one = <T as Stored>::Held::default();
        loops::fill(Lane::of(dtype), (&raw mut one).cast(), 1, other);
        load_as::<T>(walk, one, out, from, values, start, count)
    });
}

unsafe fn load_as<T: Stored>(
    walk: &Walk,
    other: T::Held,
    out: *mut u8,
    from: *const u8,
    values: &[i64],
    start: usize,
    count: usize,
) {
    let out: *mut T::Held = out.cast();
    let from: *const T = from.cast();
    let valid = |run: Run| unsafe {
        let out = out.add(run.at);
        let from = from.offset(run.address as isize);
        match run.stride {
            0 => std::slice::from_raw_parts_mut(out, run.len).fill((*from).held()),
            1 => (0..run.len).for_each(|at| *out.add(at) = (*from.add(at)).held()),
            stride => (0..run.len)
                .for_each(|at| *out.add(at) = (*from.offset(at as isize * stride as isize)).held()),
        }
    };
    let invalid = |at, len| unsafe {
        std::slice::from_raw_parts_mut(out.add(at), len).fill(other);
    };
    walk.runs(values, start, count, valid, invalid);
}

#[allow(clippy::too_many_arguments)]
unsafe fn load_where(
    walk: &Walk,
    dtype: DType,
    out: *mut u8,
    from: *const u8,
    guard: &[u8],
    values: &[i64],
    start: usize,
    count: usize,
) {
    if !guard.contains(&0) {
        let zero = Scalar::of(dtype, 0.0);
        return unsafe { load(walk, dtype, zero, out, from, values, start, count) };
    }
    with_stored!(dtype, T => {
        let out: *mut <T as Stored>::Held = out.cast();
        let from: *const T = from.cast();
        let valid = |run: Run| unsafe {
            for at in 0..run.len {
                *out.add(run.at + at) = match guard[run.at + at] {
                    0 => Default::default(),
                    _ => (*from.offset((run.address + at as i64 * run.stride) as isize)).held(),
                };
            }
        };
        walk.runs(values, start, count, valid, |_, _| {});
    });
}

unsafe fn gather(dtype: DType, out: *mut u8, from: *const u8, index: &[i64], guard: Option<&[u8]>) {
    with_stored!(dtype, T => {
        let out = unsafe { slice_mut::<<T as Stored>::Held>(out, index.len()) };
        let from: *const T = from.cast();
        match guard {
            None => out.iter_mut().zip(index).for_each(|(out, at)| unsafe {
                *out = (*from.offset(*at as isize)).held();
            }),
            Some(guard) => out.iter_mut().zip(index).zip(guard).for_each(|((out, at), guard)| unsafe {
                *out = match guard {
                    0 => Default::default(),
                    _ => (*from.offset(*at as isize)).held(),
                };
            }),
        }
    });
}

unsafe fn store(
    walk: &Walk,
    dtype: DType,
    to: *mut u8,
    value: *const u8,
    values: &[i64],
    start: usize,
    count: usize,
) {
    with_stored!(dtype, T => {
        let value: *const <T as Stored>::Held = value.cast();
        let to: *mut T = to.cast();
        let valid = |run: Run| unsafe {
            let (to, value) = (to.offset(run.address as isize), value.add(run.at));
            match run.stride {
                1 => (0..run.len).for_each(|at| *to.add(at) = T::stored(*value.add(at))),
                stride => (0..run.len).for_each(|at| {
                    *to.offset(at as isize * stride as isize) = T::stored(*value.add(at));
                }),
            }
        };
        walk.runs(values, start, count, valid, |_, _| {});
    });
}

unsafe fn scatter(dtype: DType, to: *mut u8, value: *const u8, index: &[i64]) {
    with_stored!(dtype, T => {
        let value = unsafe { slice::<<T as Stored>::Held>(value, index.len()) };
        let to: *mut T = to.cast();
        value.iter().zip(index).for_each(|(value, at)| unsafe {
            *to.offset(*at as isize) = T::stored(*value);
        });
    });
}
