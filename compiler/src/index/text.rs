//! Index expressions as text: `128*i0 + (i1 + 3)/4 + (e5 in 0..=7) + 2`. `i1` is loop variable 1, `e5` a value read;
//! `(..)/4` rounds down and `(..)%4` is never negative.
//!
//! Parsing builds by the simplifying operations: what comes out is in canonical form, however it was written.

use std::fmt::{self, Formatter};

use super::{Atom, Index};
use crate::text::{Cursor, Parsed, Text};

/// Quotients and remainders inside each other; simplifying takes time that grows fast with them.
const DEPTH: usize = 8;

/// No part of an expression may be larger, so that sums and products of parts fit 64 bits.
const LARGEST: i64 = 1 << 60;

impl Text for Index {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "{}", self.constant);
        }
        for (at, (atom, by)) in self.terms.iter().enumerate() {
            if at > 0 {
                f.write_str(" + ")?;
            }
            match by {
                1 => write!(f, "{atom}")?,
                _ => write!(f, "{by}*{atom}")?,
            }
        }
        match self.constant {
            0 => Ok(()),
            it => write!(f, " + {it}"),
        }
    }

    /// Variables have the extents that `from` knows.
    fn parse(from: &mut Cursor<'_>) -> Parsed<Index> {
        sum(from, 0)
    }
}

fn sum(from: &mut Cursor<'_>, depth: usize) -> Parsed<Index> {
    let mut sum = Index::constant(0);
    loop {
        let (by, term) = term(from, depth)?;
        let size = i128::from(reach(&term)) * i128::from(by.unsigned_abs()) + i128::from(reach(&sum));
        if size > i128::from(LARGEST) {
            return Err("the expression grows too large".to_string());
        }
        sum = sum.add(&term.mul(by));
        if !from.take("+") {
            return Ok(sum);
        }
    }
}

/// The largest magnitude of a value, or of a part of it.
fn reach(index: &Index) -> i64 {
    index.terms.iter().fold(index.constant.saturating_abs(), |sum, (atom, by)| {
        let (low, high) = atom.range();
        let reach = low.saturating_abs().max(high.saturating_abs());
        sum.saturating_add(reach.saturating_mul(by.saturating_abs()))
    })
}

fn term(from: &mut Cursor<'_>, depth: usize) -> Parsed<(i64, Index)> {
    if from.peek("i") || from.peek("(") {
        return Ok((1, atom(from, depth)?));
    }
    let number = from.number()?;
    match from.take("*") {
        true => Ok((number, atom(from, depth)?)),
        false => Ok((number, Index::constant(1))),
    }
}

fn atom(from: &mut Cursor<'_>, depth: usize) -> Parsed<Index> {
    if !from.take("(") {
        let axis = from.label("i")? as usize;
        let extent = from.extents.get(axis).ok_or_else(|| format!("there is no loop variable i{axis}"))?;
        return match i64::try_from(*extent) {
            Ok(it) if it <= LARGEST => Ok(Index::var(axis, *extent)),
            _ => Err(format!("loop variable i{axis} has an extent of {extent}")),
        };
    }
    if from.peek_label("e") {
        let expr = from.label("e")?;
        from.expect("in")?;
        let low: i64 = from.number()?;
        from.expect("..=")?;
        let high: i64 = from.number()?;
        from.expect(")")?;
        return match -LARGEST <= low && low <= high && high <= LARGEST {
            true => Ok(Index::data(expr, low, high)),
            false => Err(format!("{low}..={high} is no range of indices")),
        };
    }
    if depth == DEPTH {
        return Err("brackets are nested too deep".to_string());
    }
    let inner = sum(from, depth + 1)?;
    from.expect(")")?;
    let quotient = from.take("/");
    if !quotient {
        from.expect("%")?;
    }
    match from.number()? {
        by if !(1..=LARGEST).contains(&by) => Err(format!("{by} is no divisor")),
        by if quotient => Ok(inner.div(by)),
        by => Ok(inner.modulo(by)),
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.print(f)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Var { axis, .. } => write!(f, "i{axis}"),
            Atom::Data { expr, low, high } => write!(f, "(e{expr} in {low}..={high})"),
            Atom::Div(inner, by) => write!(f, "({inner})/{by}"),
            Atom::Mod(inner, by) => write!(f, "({inner})%{by}"),
        }
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
