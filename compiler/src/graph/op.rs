//! What a node can be. Adding a variant stops the build wherever a decision is owed.
//!
//! Attributes are already checked and completed by whoever adds the node: axes are non-negative, pads and output
//! sizes are explicit. `graph::infer` states what each op demands of its operands.

use std::hash::{Hash, Hasher};

use smallvec::{SmallVec, smallvec};

use super::{ConstantId, Value};
use crate::{
    dtype::DType,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
    shape::{Axes, Shape},
};

/// A float attribute, compared and hashed by its bits.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

/// Passes over large graphs cost what they read, and every node has the size of the largest op: what is long stands in a box.
const _: () = assert!(size_of::<Op>() <= 104);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Number `slot` of the graph's inputs.
    Input {
        slot: u32,
    },
    Constant(ConstantId),

    // Element by element; operands broadcast under NumPy's rules and have one dtype.
    Unary(UnaryOp, Value),
    Binary(BinaryOp, Value, Value),
    /// `cond` is `Bool`.
    Select {
        cond: Value,
        yes: Value,
        no: Value,
    },
    /// Floats to integers cut towards zero; anything to `Bool` is `!= 0`.
    Cast {
        to: DType,
        x: Value,
    },

    /// Bits (U32) that follow from `key` (U32, [2]), the op's own `number` and the element's row-major place alone: what
    /// `random::bits` gives. Ops of one number and key give the same bits.
    Random {
        number: u32,
        shape: Shape,
        key: Value,
    },

    // Along axes.
    Reduce {
        op: ReduceOp,
        axes: Axes,
        keep: bool,
        x: Value,
    },
    /// Mean over `axes`, of floats.
    Mean {
        axes: Axes,
        keep: bool,
        x: Value,
    },
    /// Position (I64) of the largest or smallest element; of equal ones the first, or the last. NaN counts as largest
    /// and as smallest.
    ArgReduce {
        largest: bool,
        last: bool,
        axis: usize,
        keep: bool,
        x: Value,
    },
    CumSum {
        axis: usize,
        exclusive: bool,
        reverse: bool,
        x: Value,
    },

    // Views: only addresses change.
    Reshape {
        shape: Shape,
        x: Value,
    },
    /// Axis `i` of the result is axis `order[i]` of `x`.
    Permute {
        order: Axes,
        x: Value,
    },
    /// `x` broadcast to `shape` under NumPy's rules (`shape` already joined with that of `x`).
    Expand {
        shape: Shape,
        x: Value,
    },
    /// Along axis `i`, element `j` is element `starts[i] + j * steps[i]`. Steps may be negative, not 0.
    Slice {
        starts: Places,
        sizes: Shape,
        steps: Steps,
        x: Value,
    },
    /// Elements of `x` surrounded along axis `i` by `before[i]` and `after[i]` more, filled by `mode`. `fill` is a scalar
    /// operand, present exactly for `PadMode::Constant`.
    Pad {
        before: Places,
        after: Places,
        mode: PadMode,
        x: Value,
        fill: Option<Value>,
    },
    Concat {
        axis: usize,
        xs: SmallVec<[Value; 4]>,
    },

    // Reads at computed places. Indices are I32 or I64; negative ones count from the end; those outside are clamped.
    /// Shape: x[..axis] + indices + x[axis+1..].
    Gather {
        axis: usize,
        x: Value,
        indices: Value,
    },
    /// Shape of `indices`, whose rank is that of `x`.
    GatherElements {
        axis: usize,
        x: Value,
        indices: Value,
    },
    /// As in ONNX. The last axis of `indices` holds coordinates behind `batch` leading axes that both share.
    GatherNd {
        batch: usize,
        x: Value,
        indices: Value,
    },

    // Whole until lowering.
    /// NumPy's matmul: [.., m, k] x [.., k, n], leading axes broadcast, rank 1 promoted.
    MatMul {
        a: Value,
        b: Value,
    },
    /// x [n, c, spatial..], w [m, c/groups, spatial..], bias [m].
    Conv {
        window: Box<Window>,
        groups: usize,
        x: Value,
        w: Value,
        bias: Option<Value>,
    },
    /// x [n, c, spatial..], w [c, m/groups, spatial..], bias [m]. `window` is that of the forward convolution;
    /// `output` is the spatial size of the result.
    ConvTranspose {
        window: Box<Window>,
        groups: usize,
        output: Shape,
        x: Value,
        w: Value,
        bias: Option<Value>,
    },
    /// x [n, c, spatial..]; `output` is the spatial size of the result, which may reach past the padding.
    Pool {
        kind: PoolKind,
        window: Box<Window>,
        kernel: Shape,
        output: Shape,
        x: Value,
    },
    Softmax {
        axis: usize,
        log: bool,
        x: Value,
    },
    /// Over all axes from `axis` on, statistics in f32 at least: (x - mean) / sqrt(var + eps) * scale + bias.
    LayerNorm {
        axis: usize,
        eps: Real,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
    },
    /// Over all axes from `axis` on: x / sqrt(mean(x^2) + eps) * scale.
    RmsNorm {
        axis: usize,
        eps: Real,
        x: Value,
        scale: Option<Value>,
    },
    /// Axis 1 in `groups` equal parts, each normalised with all that follows; scale and bias [c].
    GroupNorm {
        groups: usize,
        eps: Real,
        x: Value,
        scale: Option<Value>,
        bias: Option<Value>,
    },
    /// x [n, c, ..], the others [c]: (x - mean) / sqrt(var + eps) * scale + bias.
    BatchNorm {
        eps: Real,
        x: Value,
        scale: Value,
        bias: Value,
        mean: Value,
        var: Value,
    },
    /// q [b, h, s, d], k [b, g, t, d], v [b, g, t, e] with g dividing h; `mask` is added to the scores and broadcasts to
    /// [b, h, s, t]. softmax(q k^T * scale + mask) v. With `causal`, key j is seen by query i only if j <= i + t - s.
    /// A row of the scores that is -inf everywhere gives 0 if `zero_masked`, else NaN. A NaN or an infinity in a hidden key or
    /// its value need not spread.
    Attention {
        scale: Real,
        causal: bool,
        zero_masked: bool,
        q: Value,
        k: Value,
        v: Value,
        mask: Option<Value>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PadMode {
    Constant,
    Edge,
    /// Mirrored, the edge not repeated.
    Reflect,
    Wrap,
}

/// Spatial geometry of a convolution or pooling; one entry a spatial axis.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    pub strides: SmallVec<[usize; 3]>,
    pub dilations: SmallVec<[usize; 3]>,
    pub before: SmallVec<[usize; 3]>,
    pub after: SmallVec<[usize; 3]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    Max,
    /// Divides by the elements inside the image, with `count_padding` by those inside the padded image.
    Average {
        count_padding: bool,
    },
}

pub type Operands = SmallVec<[Value; 4]>;
/// One entry an axis.
pub type Places = SmallVec<[usize; 2]>;
pub type Steps = SmallVec<[i64; 2]>;

/// Calls `$each` with every operand of `$op`, in order, by the kind of reference that `$op` is.
macro_rules! visit {
    ($op:expr, $each:expr) => {{
        let mut each = $each;
        match $op {
            Op::Input { slot: _ } | Op::Constant(_) => {}
            Op::Unary(_, x)
            | Op::Cast { to: _, x }
            | Op::Random { number: _, shape: _, key: x }
            | Op::Reduce { op: _, axes: _, keep: _, x }
            | Op::Mean { axes: _, keep: _, x }
            | Op::ArgReduce { largest: _, last: _, axis: _, keep: _, x }
            | Op::CumSum { axis: _, exclusive: _, reverse: _, x }
            | Op::Reshape { shape: _, x }
            | Op::Permute { order: _, x }
            | Op::Expand { shape: _, x }
            | Op::Slice { starts: _, sizes: _, steps: _, x }
            | Op::Pool { kind: _, window: _, kernel: _, output: _, x }
            | Op::Softmax { axis: _, log: _, x } => each(x),
            Op::Binary(_, x, y)
            | Op::Gather { axis: _, x, indices: y }
            | Op::GatherElements { axis: _, x, indices: y }
            | Op::GatherNd { batch: _, x, indices: y }
            | Op::MatMul { a: x, b: y } => {
                each(x);
                each(y);
            }
            Op::Select { cond, yes, no } => {
                each(cond);
                each(yes);
                each(no);
            }
            Op::Concat { axis: _, xs } => xs.into_iter().for_each(each),
            Op::Pad { before: _, after: _, mode: _, x, fill: y }
            | Op::RmsNorm { axis: _, eps: _, x, scale: y } => {
                each(x);
                y.into_iter().for_each(each);
            }
            Op::LayerNorm { axis: _, eps: _, x, scale, bias }
            | Op::GroupNorm { groups: _, eps: _, x, scale, bias } => {
                each(x);
                scale.into_iter().chain(bias).for_each(each);
            }
            Op::Conv { window: _, groups: _, x, w, bias }
            | Op::ConvTranspose { window: _, groups: _, output: _, x, w, bias } => {
                each(x);
                each(w);
                bias.into_iter().for_each(each);
            }
            Op::BatchNorm { eps: _, x, scale, bias, mean, var } => {
                [x, scale, bias, mean, var].into_iter().for_each(each);
            }
            Op::Attention { scale: _, causal: _, zero_masked: _, q, k, v, mask } => {
                [q, k, v].into_iter().chain(mask).for_each(each);
            }
        }
    }};
}

impl Op {
    pub fn operands(&self) -> Operands {
        let mut all = Operands::new();
        visit!(self, |it: &Value| all.push(*it));
        all
    }

    pub fn map_operands(mut self, mut f: impl FnMut(Value) -> Value) -> Op {
        visit!(&mut self, |it: &mut Value| *it = f(*it));
        self
    }

    /// The operator's name in text forms.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Constant(_) => "constant",
            Op::Unary(op, _) => op.name(),
            Op::Binary(op, ..) => op.name(),
            Op::Select { .. } => "select",
            Op::Cast { .. } => "cast",
            Op::Random { .. } => "random",
            Op::Reduce { op, .. } => match op {
                ReduceOp::Sum => "reduce_sum",
                ReduceOp::Prod => "reduce_prod",
                ReduceOp::Max => "reduce_max",
                ReduceOp::Min => "reduce_min",
            },
            Op::Mean { .. } => "mean",
            Op::ArgReduce { largest, .. } => match largest {
                true => "argmax",
                false => "argmin",
            },
            Op::CumSum { .. } => "cumsum",
            Op::Reshape { .. } => "reshape",
            Op::Permute { .. } => "permute",
            Op::Expand { .. } => "expand",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concat { .. } => "concat",
            Op::Gather { .. } => "gather",
            Op::GatherElements { .. } => "gather_elements",
            Op::GatherNd { .. } => "gather_nd",
            Op::MatMul { .. } => "matmul",
            Op::Conv { .. } => "conv",
            Op::ConvTranspose { .. } => "conv_transpose",
            Op::Pool { .. } => "pool",
            Op::Softmax { .. } => "softmax",
            Op::LayerNorm { .. } => "layer_norm",
            Op::RmsNorm { .. } => "rms_norm",
            Op::GroupNorm { .. } => "group_norm",
            Op::BatchNorm { .. } => "batch_norm",
            Op::Attention { .. } => "attention",
        }
    }
}

/// Names of ops other than those named after a scalar operator.
pub const NAMES: [&str; 32] = [
    "input",
    "constant",
    "select",
    "cast",
    "random",
    "reduce_sum",
    "reduce_prod",
    "reduce_max",
    "reduce_min",
    "mean",
    "argmax",
    "argmin",
    "cumsum",
    "reshape",
    "permute",
    "expand",
    "slice",
    "pad",
    "concat",
    "gather",
    "gather_elements",
    "gather_nd",
    "matmul",
    "conv",
    "conv_transpose",
    "pool",
    "softmax",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "batch_norm",
    "attention",
];

/// What `Op::name` gives for an op of this name, if there is one.
pub fn name_of(word: &str) -> Option<&'static str> {
    let scalar = UnaryOp::parse(word).map(UnaryOp::name).or(BinaryOp::parse(word).map(BinaryOp::name));
    scalar.or_else(|| NAMES.into_iter().find(|it| *it == word))
}

impl Window {
    /// Stride and dilation 1, no padding.
    pub fn unit(spatial: usize) -> Window {
        Window {
            strides: smallvec![1; spatial],
            dilations: smallvec![1; spatial],
            before: smallvec![0; spatial],
            after: smallvec![0; spatial],
        }
    }

    /// Positions that a kernel of `kernel` elements takes along spatial axis `axis` of `size` elements.
    pub fn positions(&self, axis: usize, size: usize, kernel: usize) -> Option<usize> {
        let reach = self.dilations[axis].checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
        let padded = size.checked_add(self.before[axis])?.checked_add(self.after[axis])?;
        Some(padded.checked_sub(reach)? / self.strides[axis] + 1)
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}
