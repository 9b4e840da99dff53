//! What fusing saves and costs. Every tuned number of the scheduler's fusion is here.

use crate::lower::{Body, Expr, ExprId};

/// Ten rounds of four products and what makes their upper halves.
const RANDOM: u64 = 256;

/// Work of one evaluation of `roots`, in simple operations.
pub fn weight(body: &Body, roots: &[ExprId]) -> u64 {
    let needed = body.needed(roots.iter().copied());
    body.iter()
        .filter(|(id, ..)| needed[id.0 as usize])
        .map(|(_, expr, _)| match expr {
            Expr::Const(_) | Expr::Coord(_) | Expr::Param(_) => 0,
            Expr::Load { .. } => 2,
            Expr::Random { .. } => RANDOM,
            Expr::Unary(op, _) if op.is_costly() => 8,
            Expr::Unary(..) | Expr::Binary(..) | Expr::Select(..) | Expr::Cast(_) => 1,
        })
        .sum()
}

/// Up to this weight, and with one read at most, a value is computed wherever it is read rather than stored.
pub const CHEAP: u64 = 6;

/// Up to this weight a value may be computed again for every tile of a product that reads it.
pub const CHEAP_IN_PRODUCT: u64 = 12;

/// Simple operations that cost no more than storing, launching and loading: a launch is about two microseconds.
pub const WORTH_A_LAUNCH: u64 = 1 << 24;

/// Points up to which a map takes as long as its launch.
pub const LAUNCHED: usize = 1 << 14;

/// Readers from which on what an index says where to find is looked up once for all, by a kernel of its own that waits for nothing.
pub const LOOKED_UP_ONCE: usize = 8;

/// How often a value may be computed over whatever it costs.
pub const FEW_TIMES: u64 = 4;

/// Up to this weight a value may be computed where attention of so few queries reads its queries: once for each piece of the
/// keys.
pub const CHEAP_IN_QUERIES: u64 = 64;
pub const FEW_QUERIES: usize = 8;

/// Rows up to which a product computes what scales them itself: it reads a row once for each workgroup, and few rows leave
/// room for it.
pub const SCALED_ROWS: usize = 4;

/// Expressions in one kernel; beyond, drivers take long to compile it.
pub const BODY: usize = 1024;
