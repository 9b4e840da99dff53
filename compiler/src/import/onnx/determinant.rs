//! Determinants by elimination with the largest pivot of each column, written out step by step.

use super::node::Node;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Op, Value},
    import::emit::Emit,
    scalar::{BinaryOp, ReduceOp, UnaryOp},
};

/// Each row of the matrix is some fifteen nodes.
const MAX_ROWS: usize = 64;

pub fn det(e: &mut Emit, n: &Node) -> Result<Value, Error> {
    let x = n.input(0)?;
    let (shape, dtype) = (e.shape(x), e.dtype(x));
    let [outer @ .., rows, columns] = &shape[..] else {
        return Err(n.error(format!("{shape} is no matrix")));
    };
    if rows != columns || *rows > MAX_ROWS {
        return Err(n.unsupported(format!("matrices of {rows} x {columns} (square, at most {MAX_ROWS})")));
    }
    let batch: usize = outer.iter().product();
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut x = e.cast(x, wide)?;
    x = e.reshape(x, [batch, *rows, *rows])?;
    let (zero, one) = (e.scalar(wide, 0.0), e.scalar(wide, 1.0));
    let mut product = e.expand(one, [batch, 1, 1])?;
    for left in (1..=*rows).rev() {
        let column = e.slice(x, 2, 0, 1, 1)?;
        if left == 1 {
            product = e.binary(BinaryOp::Mul, product, column)?;
            break;
        }
        let size = e.unary(UnaryOp::Abs, column)?;
        let largest = e.add(Op::ArgReduce { largest: true, last: false, axis: 1, keep: true, x: size })?;
        let own = e.iota(DType::I64, left, 1, 3)?;
        let hit = e.binary(BinaryOp::Eq, own, largest)?;
        let held = e.select(hit, x, zero)?;
        let pivot_row = e.reduce(ReduceOp::Sum, held, &[1].into_iter().collect(), true)?;
        // The first row goes where the pivot's was, which turns the sign unless they are one.
        let first = e.slice(x, 1, 0, 1, 1)?;
        let swapped = e.select(hit, first, x)?;
        let rest = e.slice(swapped, 1, 1, left - 1, 1)?;
        let pivot = e.slice(pivot_row, 2, 0, 1, 1)?;
        let moved = e.with(BinaryOp::Ne, largest, 0.0)?;
        let turned = e.unary(UnaryOp::Neg, pivot)?;
        let factor = e.select(moved, turned, pivot)?;
        product = e.binary(BinaryOp::Mul, product, factor)?;
        let (below, row) = (e.slice(rest, 2, 0, 1, 1)?, e.slice(pivot_row, 2, 1, left - 1, 1)?);
        // A column of zeros has no pivot: the determinant is 0 whatever is left.
        let flat = e.with(BinaryOp::Eq, pivot, 0.0)?;
        let divisor = e.select(flat, one, pivot)?;
        let by = e.binary(BinaryOp::Div, below, divisor)?;
        let less = e.binary(BinaryOp::Mul, by, row)?;
        let rest = e.slice(rest, 2, 1, left - 1, 1)?;
        x = e.binary(BinaryOp::Sub, rest, less)?;
    }
    let y = e.reshape(product, outer)?;
    e.cast(y, dtype)
}
