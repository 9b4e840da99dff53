//! Smallest and largest value of every integer node: what proves that 64-bit integers fit 32-bit words.

use slotmap::SecondaryMap;

use crate::{
    dtype::{Class, DType},
    graph::{Graph, Op, Value},
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    tensor::Tensor,
};

/// Both ends belong to it. Wide enough for every sum and product of two 64-bit integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub low: i128,
    pub high: i128,
}

/// Of `Bool` and integer nodes; floats have none.
pub type Ranges = SecondaryMap<Value, Range>;

/// The ranges of a graph whose inputs from `arguments` on are the outputs of `constants`. Arguments are known to fit
/// their device form, since that is checked when they are uploaded.
pub fn of_parts(graph: &Graph, arguments: usize, constants: &Graph) -> Ranges {
    let computed = ranges(constants, |_, dtype| Range::of(dtype));
    ranges(graph, |slot, dtype| match slot.checked_sub(arguments) {
        None => Range::of_device(dtype),
        Some(number) => computed.get(constants.outputs[number].value).copied().unwrap_or(Range::of(dtype)),
    })
}

fn ranges(graph: &Graph, input: impl Fn(usize, DType) -> Range) -> Ranges {
    let mut ranges = Ranges::new();
    for (value, node) in graph.nodes() {
        let dtype = node.ty.dtype;
        if dtype.is_float() {
            continue;
        }
        let range = match &node.op {
            Op::Input { slot } => input(*slot as usize, dtype),
            Op::Constant(id) => of_tensor(graph.constant(*id)),
            op => result(graph, &ranges, op, dtype).unwrap_or(Range::of(dtype)),
        };
        // What does not fit the type has wrapped.
        let range = if Range::of(dtype).holds(range) { range } else { Range::of(dtype) };
        ranges.insert(value, range);
    }
    ranges
}

/// The range of a node's result before it wraps; `None` where nothing is known.
fn result(graph: &Graph, ranges: &Ranges, op: &Op, dtype: DType) -> Option<Range> {
    let of = |value: &Value| ranges.get(*value).copied();
    let size = |value: &Value, axis: usize| graph.ty(*value).shape[axis] as i128;
    let union = |all: &mut dyn Iterator<Item = &Value>| {
        all.map(of).reduce(|a, b| a.zip(b).map(|(a, b)| a.union(b))).flatten()
    };
    if dtype == DType::Bool {
        return Some(Range::of(DType::Bool));
    }
    Some(match op {
        Op::Unary(op, x) => unary(*op, of(x)?, dtype)?,
        Op::Binary(op, a, b) => binary(*op, of(a)?, of(b)?, dtype)?,
        Op::Select { yes, no, .. } => of(yes)?.union(of(no)?),
        // Floats have no range; integers that do not fit wrap.
        Op::Cast { x, .. } => of(x)?,
        Op::Reduce { op, axes, x, .. } => {
            let count = axes.iter().fold(1i128, |count, &axis| count.saturating_mul(size(x, axis)));
            let one = of(x)?;
            match op {
                ReduceOp::Sum => one.times(Range::exactly(count)),
                ReduceOp::Max | ReduceOp::Min if count > 0 => one,
                ReduceOp::Max | ReduceOp::Min => return None,
                ReduceOp::Prod => power(one, count),
            }
        }
        Op::CumSum { axis, x, .. } => {
            of(x)?.times(Range { low: 0, high: size(x, *axis).max(1) }).union(Range::exactly(0))
        }
        Op::ArgReduce { axis, x, .. } => Range { low: 0, high: (size(x, *axis) - 1).max(0) },
        Op::Reshape { x, .. }
        | Op::Permute { x, .. }
        | Op::Expand { x, .. }
        | Op::Slice { x, .. }
        | Op::Gather { x, .. }
        | Op::GatherElements { x, .. }
        | Op::GatherNd { x, .. } => of(x)?,
        Op::Pad { x, fill, .. } => union(&mut [x].into_iter().chain(fill))?,
        Op::Concat { xs, .. } => union(&mut xs.iter())?,
        Op::MatMul { a, b } => {
            let depth = graph.ty(*a).shape.last().copied().unwrap_or(1);
            of(a)?.times(of(b)?).times(Range { low: 0, high: depth as i128 }).union(Range::exactly(0))
        }
        Op::Conv { w, x, bias, .. } => {
            let depth: usize = graph.ty(*w).shape[1..].iter().product();
            let sum = of(x)?.times(of(w)?).times(Range { low: 0, high: depth as i128 });
            let sum = sum.union(Range::exactly(0));
            match bias {
                Some(bias) => sum.plus(of(bias)?),
                None => sum,
            }
        }
        Op::Random { .. }
        | Op::ConvTranspose { .. }
        | Op::Pool { .. }
        | Op::Mean { .. }
        | Op::Softmax { .. }
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::GroupNorm { .. }
        | Op::BatchNorm { .. }
        | Op::Attention { .. }
        | Op::Input { .. }
        | Op::Constant(_) => return None,
    })
}

fn unary(op: UnaryOp, x: Range, dtype: DType) -> Option<Range> {
    Some(match op {
        UnaryOp::Neg => Range { low: -x.high, high: -x.low },
        UnaryOp::Abs => match x {
            Range { low: 0.., .. } => x,
            Range { low, high: ..=0 } => Range { low: -x.high, high: -low },
            Range { low, high } => Range { low: 0, high: high.max(-low) },
        },
        UnaryOp::Sign => Range { low: x.low.clamp(-1, 1), high: x.high.clamp(-1, 1) },
        UnaryOp::Relu => Range { low: x.low.max(0), high: x.high.max(0) },
        UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc => x,
        UnaryOp::Not if dtype.class() == Class::Signed => Range { low: -x.high - 1, high: -x.low - 1 },
        _ => return None,
    })
}

fn binary(op: BinaryOp, a: Range, b: Range, dtype: DType) -> Option<Range> {
    let zero = Range::exactly(0);
    Some(match op {
        BinaryOp::Add => a.plus(b),
        BinaryOp::Sub => Range { low: a.low - b.high, high: a.high - b.low },
        BinaryOp::Mul => a.times(b),
        // Never further from zero than the dividend.
        BinaryOp::Div if b.low > 0 => {
            a.ends([a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high])
        }
        BinaryOp::Div => a.ends([a.low, a.high, -a.low, -a.high]).union(zero),
        BinaryOp::Rem => {
            let most = (b.size() - 1).max(0);
            Range { low: a.low.clamp(-most, 0), high: a.high.clamp(0, most) }
        }
        BinaryOp::Mod => Range { low: (b.low + 1).min(0), high: (b.high - 1).max(0) },
        BinaryOp::Pow if b.low >= 0 => power(a, b.high).union(Range { low: 0, high: 1 }),
        BinaryOp::Pow => return None,
        BinaryOp::Max => Range { low: a.low.max(b.low), high: a.high.max(b.high) },
        BinaryOp::Min => Range { low: a.low.min(b.low), high: a.high.min(b.high) },
        BinaryOp::And if a.low >= 0 && b.low >= 0 => Range { low: 0, high: a.high.min(b.high) },
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
            // All bits above those of the widest operand repeat the sign.
            let size = a.size().max(b.size());
            let bits = 1i128.checked_shl(128 - size.leading_zeros()).filter(|_| size < 1 << 100)?;
            let low = if a.low >= 0 && b.low >= 0 { 0 } else { -bits };
            Range { low, high: bits - 1 }
        }
        BinaryOp::Shl if b.low >= 0 && b.high < 63 => {
            a.times(Range { low: 1 << b.low, high: 1 << b.high }).union(zero)
        }
        BinaryOp::Shr if b.low >= 0 => a.union(if a.low < 0 { Range { low: -1, high: 0 } } else { zero }),
        BinaryOp::Shl | BinaryOp::Shr => return None,
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
            Range::of(DType::Bool)
        }
        BinaryOp::Atan2 => Range::of(dtype),
    })
}

/// `base` to a power from 0 to `most`, both included where `base` may be 1 in size or less.
fn power(base: Range, most: i128) -> Range {
    let size = base.size();
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let high = size.checked_pow(most).unwrap_or(i128::MAX).max(1);
    Range { low: if base.low < 0 { -high } else { 0 }, high }
}

fn of_tensor(tensor: &Tensor) -> Range {
    let all = tensor.scalars().map(|it| match tensor.dtype() {
        DType::U64 => it.as_i64() as u64 as i128,
        _ => it.as_i64() as i128,
    });
    let ends = all.fold(None, |ends, it| match ends {
        None => Some(Range::exactly(it)),
        Some(ends) => Some(Range::union(ends, Range::exactly(it))),
    });
    ends.unwrap_or(Range::exactly(0))
}

impl Range {
    pub fn exactly(value: i128) -> Range {
        Range { low: value, high: value }
    }

    /// Everything that an integer type or `Bool` can hold.
    pub fn of(dtype: DType) -> Range {
        let (low, high) = crate::scalar::int_range(dtype);
        match dtype {
            DType::U64 => Range { low: 0, high: u64::MAX as i128 },
            _ => Range { low: low as i128, high: high as i128 },
        }
    }

    /// Everything that the one word which holds such an element on the device can hold.
    pub fn of_device(dtype: DType) -> Range {
        match dtype {
            DType::I64 => Range::of(DType::I32),
            DType::U64 => Range::of(DType::U32),
            _ => Range::of(dtype),
        }
    }

    pub fn holds(self, other: Range) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    fn union(self, other: Range) -> Range {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    fn plus(self, other: Range) -> Range {
        Range { low: self.low.saturating_add(other.low), high: self.high.saturating_add(other.high) }
    }

    fn times(self, other: Range) -> Range {
        let product = |a: i128, b: i128| a.saturating_mul(b);
        self.ends([
            product(self.low, other.low),
            product(self.low, other.high),
            product(self.high, other.low),
            product(self.high, other.high),
        ])
    }

    fn ends(self, all: [i128; 4]) -> Range {
        let first = Range::exactly(all[0]);
        all[1..].iter().fold(first, |range, it| range.union(Range::exactly(*it)))
    }

    /// Distance of the furthest value from 0.
    fn size(self) -> i128 {
        self.low.saturating_abs().max(self.high.saturating_abs())
    }
}
