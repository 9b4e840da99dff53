//! The schedule: which kernels there are, in which order, and how each runs. Decisions as data.
//!
//! A kernel's loop variables are numbered as its skeleton says; its body, stores and coordinates use those numbers.

use std::sync::Arc;

use slotmap::SlotMap;
use smallvec::SmallVec;

pub use super::few::Few;
use super::in_place;
use crate::{
    lower::{Body, Coords, Expr, ExprId, TensorId, TensorInfo},
    passes::siblings,
    scalar::ReduceOp,
    shape::Shape,
    target::Place,
};

#[derive(Clone, Debug)]
pub struct Schedule {
    pub tensors: SlotMap<TensorId, TensorInfo>,
    /// In the order of execution.
    pub kernels: Vec<Kernel>,
    /// One an output of the graph, in order.
    pub outputs: Vec<TensorId>,
    pub states: Vec<Kept>,
    /// Every fusion that was considered and not done.
    pub refusals: Vec<Refusal>,
}

/// A state: output number `output` has the memory in which input number `input`, which is `old`, enters. The kernel that
/// writes the output runs after all others that read `old`; before, the output's tensor has the values of `old`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    pub input: u32,
    pub output: u32,
    pub old: TensorId,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Kernel {
    /// Unique in the schedule: its number and what it does.
    pub name: String,
    pub place: Place,
    /// Names in the source file of the nodes that it computes.
    pub origins: Vec<Arc<str>>,
    /// What was fused, in order: op names.
    pub ops: Vec<&'static str>,
    pub body: Body,
    pub skeleton: Skeleton,
    /// At least one. No tensor is both read and written, but for what a state becomes: its writer may read the very elements
    /// that it writes (`in_place`), and leave others as they are.
    pub stores: Vec<Store>,
    /// Every tensor that is only read, then every one that is written, each once. Their order is the order of bindings.
    pub tensors: Vec<TensorId>,
}

/// `tensor[at] = value`.
#[derive(Clone, PartialEq, Debug)]
pub struct Store {
    pub tensor: TensorId,
    pub at: Coords,
    pub value: ExprId,
}

/// Numbers of loop variables.
pub type Vars = SmallVec<[usize; 4]>;

#[derive(Clone, PartialEq, Debug)]
pub enum Skeleton {
    /// Each point of `space` (variables 0..rank) by itself, `lanes` neighbours an invocation: a divisor of their number.
    Map { space: Shape, workgroup: u32, lanes: u32 },
    /// For each point of `outer` (variables 0..outer.rank()): the stages in order, each a reduction over all of `inner`
    /// (the variables that follow); stage `k` gives `Param(k)`. Then the stores: those that mention an inner variable or
    /// an expression over one run for every point of `inner`, the others once.
    Rows { outer: Shape, inner: Shape, stages: Vec<Stage>, form: RowForm },
    /// `Param(0)` = sum of a*b over variables space.rank()..; `Param(1)` and so on are those of `sums`, which change with no
    /// variable of `cols`. Each variable of `space` is in exactly one of `batch` (used by
    /// a and b), `rows` (by a alone), `cols` (by b alone or by neither). Row number, column number and depth number are
    /// row-major over their variables. Stores run once a point of `space`. Each of `others` takes the place of b in a sum of its
    /// own, `Param(1)` and so on: products of one a, by matrices that are read alike. Only the tile `Few` makes them.
    Contract {
        space: Shape,
        depth: Shape,
        batch: Vars,
        rows: Vars,
        cols: Vars,
        a: ExprId,
        b: ExprId,
        others: Vec<ExprId>,
        sums: Vec<ExprId>,
        tile: Tile,
    },
    /// As `NestKind::Attention`; `Param(0)` is the result at variables 0..4, `Param(1)` the logarithm
    /// of the sum of the exponentials of the row's scores, -inf where those are -inf. A store of `Param(1)` is one a row: nothing
    /// else of the result nor the value channel is in it. Where there is a `last_key`, keys after it have
    /// a mask of -inf.
    Attention {
        space: Shape,
        keys: usize,
        channels: usize,
        scale: f64,
        zero_masked: bool,
        q: ExprId,
        k: ExprId,
        v: ExprId,
        mask: Option<ExprId>,
        last_key: Option<LastKey>,
        tile: AttentionTile,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Stage {
    pub op: ReduceOp,
    pub value: ExprId,
}

/// Who reduces a row, and how its elements are visited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowForm {
    pub team: Team,
    /// Neighbours that an invocation handles together: a divisor of the row's length.
    pub lanes: u32,
    /// How many times `lanes` elements an invocation handles without a loop. If that is its share of the row, the row is
    /// read once and stays in registers; else it is gone through again for each stage.
    pub steps: u32,
    /// Everything that needs no result of the row is read before the first stage.
    pub early: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Team {
    /// One invocation a row, `workgroup` rows a workgroup.
    Invocation { workgroup: u32 },
    /// One subgroup of `size` invocations a row, `rows` rows a workgroup. On the target all subgroups have that size.
    Subgroup { size: u32, rows: u32 },
    /// One workgroup of `size` invocations a row. With `subgroup`, the size of all subgroups of the target, which divides
    /// `size` and whose square is at least that, they reduce by themselves first; without, `size` is a power of two.
    Workgroup { size: u32, subgroup: Option<u32> },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tile {
    /// The template `matmul.wgsl`: a workgroup makes `rows` x `cols` results, `rows_each` x `cols_each` an invocation, stepping
    /// through `depth` at a time; `split` groups of invocations share the depth among them, each with `buffers` slabs in
    /// memory. Sizes are multiples of 4. Invocations are numbered over the tile in blocks of `block_rows` x
    /// `block_cols`. Elements are read in fours: of a along the rows or the depth, of b along the columns or the depth. With
    /// `scalars`, which only targets with components apart may do without, memory is written element by element.
    Matmul {
        rows: u32,
        cols: u32,
        depth: u32,
        rows_each: u32,
        cols_each: u32,
        block_rows: u32,
        block_cols: u32,
        a_along_rows: bool,
        b_along_cols: bool,
        split: u32,
        buffers: u32,
        scalars: bool,
    },
    /// The template `matmul_coop.wgsl`, for operands that f16 holds exactly, or in two `parts` for those of f32: a workgroup makes
    /// `rows` x `cols` results, `rows_each` x `cols_each` a subgroup of `subgroup` invocations, stepping through `depth` at a time; these
    /// are multiples of 16. A subgroup stores `strip` matrices of 16 columns together. An invocation loads `at_once` neighbours,
    /// 4 or, of f16, 8. The rest as above.
    Cooperative {
        parts: u32,
        rows: u32,
        cols: u32,
        depth: u32,
        rows_each: u32,
        cols_each: u32,
        buffers: u32,
        strip: u32,
        at_once: u32,
        subgroup: u32,
        a_along_rows: bool,
        b_along_cols: bool,
    },
    /// All rows of a column by the same invocations, which share its depth: few rows by a matrix.
    Few(Few),
    /// One invocation a result, the sum in a loop: depthwise and other small sums.
    Direct { workgroup: u32 },
}

/// The last key that query `i` sees: number `each * i + first`, which may be negative or past the last. It fits an i32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LastKey {
    pub each: u32,
    pub first: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttentionTile {
    Plain(PlainAttention),
    Row(RowAttention),
    Cooperative(CooperativeAttention),
}

/// The template `attention.wgsl`: a workgroup of `size` invocations makes `rows` rows of the result, a row a query of one of
/// `heads` neighbouring heads, whose keys and values are the same; `across` invocations share a row, going through
/// 4 `across` keys at a time. In `parts` of them each takes a share of the keys for the same value channels. Queries and keys, and
/// values, are held in workgroup memory or read where they are used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PlainAttention {
    pub size: u32,
    pub rows: u32,
    pub across: u32,
    pub heads: u32,
    pub parts: u32,
    pub hold_keys: bool,
    pub hold_values: bool,
}

/// The template `attention_row.wgsl`: `slices` workgroups of `size` invocations, a multiple of 16, make one row of the result, each its
/// slice of the value channels; `across` invocations, a divisor of `size`, share a key, each with four channels at most, and read of
/// `ahead` keys at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowAttention {
    pub size: u32,
    pub across: u32,
    pub ahead: u32,
    pub slices: u32,
}

/// The template `attention_coop.wgsl`, for operands that f16 holds exactly: a workgroup makes `teams` times `sub_rows` rows of
/// the result, holding `keys` keys and values at a time; `parts` subgroups of `subgroup` invocations share the rows of a
/// team, each with every so many-th `sub_keys` keys. Sizes are multiples of 16. The rest as above.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CooperativeAttention {
    pub teams: u32,
    pub parts: u32,
    pub sub_rows: u32,
    pub keys: u32,
    pub sub_keys: u32,
    pub heads: u32,
    pub subgroup: u32,
}

impl AttentionTile {
    /// Rows of the result that a workgroup makes.
    pub fn rows(&self) -> u32 {
        match self {
            AttentionTile::Plain(it) => it.rows,
            AttentionTile::Row(_) => 1,
            AttentionTile::Cooperative(it) => it.teams * it.sub_rows,
        }
    }

    /// Neighbouring heads with the same keys and values whose queries are rows of one tile.
    pub fn heads(&self) -> u32 {
        match self {
            AttentionTile::Plain(it) => it.heads,
            AttentionTile::Row(_) => 1,
            AttentionTile::Cooperative(it) => it.heads,
        }
    }
}

/// Two nests that stayed apart, by the names of their origins.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    pub producer: Arc<str>,
    pub consumer: Arc<str>,
    pub why: Why,
}

/// Why two nests are not one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Something outside both needs the one and is needed by the other.
    Cycle,
    /// They run on different devices.
    Places,
    /// Their iteration spaces do not match.
    Spaces,
    /// The result of a reduction or product is read at other points than its own.
    ReadElsewhere,
    /// The fused kernel would bind this many buffers.
    Bindings(u32),
    /// The rows before the product are not scaled by sums over themselves.
    NoScale,
    /// The producer would be computed this many times over.
    Recompute(u64),
    /// The fused body would have this many expressions.
    Body(usize),
    /// Products of one factor, which more than a few rows keep apart, or others that are shared out differently.
    Products,
    /// Two products of one input, of which neither reads the other.
    Siblings(siblings::Why),
    /// What a state becomes is made beside it, and copied.
    State(in_place::Why),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Cycle => f.write_str("something between them needs the one and is needed by the other"),
            Why::Places => f.write_str("they run on different devices"),
            Why::Spaces => f.write_str("their iteration spaces differ"),
            Why::ReadElsewhere => f.write_str("the result is read at other points than its own"),
            Why::Bindings(count) => write!(f, "{count} buffers would be bound, more than the device allows"),
            Why::NoScale => f.write_str("the rows are not merely scaled by sums over themselves"),
            Why::Recompute(times) => write!(f, "the producer would be computed {times} times over"),
            Why::Body(size) => write!(f, "the body would have {size} expressions"),
            Why::Products => {
                f.write_str("products of one factor are one kernel only of few rows, and in pairs")
            }
            Why::Siblings(why) => write!(f, "both multiply one input, but {why}"),
            Why::State(why) => write!(f, "the state is not written in place, but copied: {why}"),
        }
    }
}

impl Kernel {
    /// Whether `store` needs `Param(number)`.
    pub fn stores_param(&self, store: &Store, number: u32) -> bool {
        let needed = self.body.needed([store.value]);
        self.body.iter().any(|(id, expr, _)| needed[id.0 as usize] && *expr == Expr::Param(number))
    }
}

impl Skeleton {
    /// Of the kernel's loop variables, by their numbers.
    pub fn extents(&self) -> Vec<usize> {
        let (first, then): (&[usize], &[usize]) = match self {
            Skeleton::Map { space, .. } => (space, &[]),
            Skeleton::Rows { outer, inner, .. } => (outer, inner),
            Skeleton::Contract { space, depth, .. } => (space, depth),
            Skeleton::Attention { space, keys, channels, .. } => (space, &[*keys, *channels]),
        };
        first.iter().chain(then).copied().collect()
    }

    /// How many values it supplies: `Expr::Param`s.
    pub fn params(&self) -> usize {
        match self {
            Skeleton::Map { .. } => 0,
            Skeleton::Rows { stages, .. } => stages.len(),
            Skeleton::Contract { others, sums, .. } => 1 + others.len() + sums.len(),
            Skeleton::Attention { .. } => 2,
        }
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Schedule) -> bool {
        let Schedule { tensors, kernels, outputs, states, refusals } = self;
        tensors.iter().eq(&other.tensors)
            && (kernels, outputs, states, refusals)
                == (&other.kernels, &other.outputs, &other.states, &other.refusals)
    }
}

impl Schedule {
    /// What states become: tensors that hold values before they are written.
    pub fn becoming(&self) -> impl Iterator<Item = (Kept, TensorId)> {
        self.states.iter().map(|it| (*it, self.outputs[it.output as usize]))
    }

    /// Kernels that run on `place`.
    pub fn count(&self, place: Place) -> usize {
        self.kernels.iter().filter(|it| it.place == place).count()
    }
}
