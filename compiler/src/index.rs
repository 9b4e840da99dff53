//! Integer expressions for addresses and loop variables, kept in one canonical form.
//!
//! An `Index` is a constant plus a sum of atoms with coefficients. An atom is a loop variable, a value read from a
//! tensor, or a quotient or remainder that did not simplify. Every atom knows its range, so every `Index` does, and
//! division and remainder by constants simplify as they are built: there is no separate simplifier. Values are never
//! negative inside `div` and `modulo` unless the range says so, and both then round down.

use std::{fmt, sync::Arc};

use smallvec::{SmallVec, smallvec};

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index {
    /// Sorted by atom, no atom twice, no zero coefficient.
    terms: SmallVec<[(Atom, i64); 2]>,
    constant: i64,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A loop variable: 0 up to, not including, `extent`.
    Var { axis: u32, extent: i64 },
    /// A value computed by the body, clamped by it to `low..=high`. `expr` is an `ExprId`.
    Data { expr: u32, low: i64, high: i64 },
    /// Rounded down.
    Div(Arc<Index>, i64),
    /// Never negative.
    Mod(Arc<Index>, i64),
}

impl Index {
    pub fn constant(value: i64) -> Index {
        Index { terms: SmallVec::new(), constant: value }
    }

    /// The loop variable `axis`. One that can only be 0 is the constant 0.
    pub fn var(axis: usize, extent: usize) -> Index {
        match extent {
            0 | 1 => Index::constant(0),
            _ => Index::atom(Atom::Var { axis: axis as u32, extent: extent as i64 }),
        }
    }

    pub fn data(expr: u32, low: i64, high: i64) -> Index {
        if low == high { Index::constant(low) } else { Index::atom(Atom::Data { expr, low, high }) }
    }

    pub fn atom(atom: Atom) -> Index {
        Index { terms: smallvec![(atom, 1)], constant: 0 }
    }

    pub fn terms(&self) -> &[(Atom, i64)] {
        &self.terms
    }

    /// The part that is added to the terms.
    pub fn offset(&self) -> i64 {
        self.constant
    }

    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The axis, if this is exactly one loop variable.
    pub fn as_var(&self) -> Option<usize> {
        match (self.constant, self.terms.as_slice()) {
            (0, [(Atom::Var { axis, .. }, 1)]) => Some(*axis as usize),
            _ => None,
        }
    }

    /// Smallest and largest value.
    pub fn range(&self) -> (i64, i64) {
        self.terms.iter().fold((self.constant, self.constant), |(low, high), (atom, by)| {
            let (a, b) = atom.range();
            let (a, b) = (a.saturating_mul(*by), b.saturating_mul(*by));
            (low.saturating_add(a.min(b)), high.saturating_add(a.max(b)))
        })
    }

    pub fn add(&self, other: &Index) -> Index {
        let mut terms = self.terms.clone();
        for (atom, by) in &other.terms {
            match terms.binary_search_by(|(it, _)| it.cmp(atom)) {
                Ok(at) => terms[at].1 += by,
                Err(at) => terms.insert(at, (atom.clone(), *by)),
            }
        }
        terms.retain(|(_, by)| *by != 0);
        Index { terms, constant: self.constant + other.constant }.join()
    }

    pub fn offset_by(&self, value: i64) -> Index {
        Index { terms: self.terms.clone(), constant: self.constant + value }
    }

    pub fn mul(&self, by: i64) -> Index {
        if by == 0 {
            return Index::constant(0);
        }
        let terms = self.terms.iter().map(|(atom, it)| (atom.clone(), it * by)).collect();
        Index { terms, constant: self.constant * by }
    }

    /// `self / by`, rounded down. `by` is positive.
    pub fn div(&self, by: i64) -> Index {
        assert!(by > 0);
        if by == 1 {
            return self.clone();
        }
        let (low, high) = self.range();
        if low.div_euclid(by) == high.div_euclid(by) {
            return Index::constant(low.div_euclid(by));
        }
        // (by*q + r) / by = q + r/by holds for every integer q under rounding down.
        let (quotient, rest) = self.split(by);
        if !(quotient.terms.is_empty() && quotient.constant == 0) {
            return quotient.add(&rest.div(by));
        }
        if let (0, [(Atom::Div(inner, first), 1)]) = (rest.constant, rest.terms.as_slice()) {
            return inner.div(first * by);
        }
        // With a common factor g of every coefficient and of `by`, low-order constants cannot reach the quotient.
        let common = rest.terms.iter().fold(by, |g, (_, it)| gcd(g, it.abs()));
        if common > 1 {
            let terms = rest.terms.iter().map(|(atom, it)| (atom.clone(), it / common)).collect();
            return Index { terms, constant: rest.constant.div_euclid(common) }.div(by / common);
        }
        // (g*high + low) / by = high / (by/g) while low stays in 0..g.
        if let Some((g, high, _)) = rest.layers(by) {
            return high.div(by / g);
        }
        Index::atom(Atom::Div(Arc::new(rest), by))
    }

    /// The remainder that is never negative. `by` is positive.
    pub fn modulo(&self, by: i64) -> Index {
        assert!(by > 0);
        if by == 1 {
            return Index::constant(0);
        }
        let (low, high) = self.range();
        if low.div_euclid(by) == high.div_euclid(by) {
            return self.offset_by(-low.div_euclid(by) * by);
        }
        let (_, rest) = self.split(by);
        let (low, high) = rest.range();
        if low.div_euclid(by) == high.div_euclid(by) {
            return rest.offset_by(-low.div_euclid(by) * by);
        }
        if let (0, [(Atom::Mod(inner, first), 1)]) = (rest.constant, rest.terms.as_slice())
            && first % by == 0
        {
            return inner.modulo(by);
        }
        let common = rest.terms.iter().fold(by, |g, (_, it)| gcd(g, it.abs()));
        if common > 1 && rest.constant % common == 0 {
            let terms = rest.terms.iter().map(|(atom, it)| (atom.clone(), it / common)).collect();
            return Index { terms, constant: rest.constant / common }.modulo(by / common).mul(common);
        }
        if let Some((g, high, low)) = rest.layers(by) {
            return high.modulo(by / g).mul(g).add(&low);
        }
        Index::atom(Atom::Mod(Arc::new(rest), by))
    }

    /// Every variable and every read value replaced by what `leaf` gives for it.
    pub fn substitute(&self, leaf: &mut dyn FnMut(&Atom) -> Index) -> Index {
        self.terms.iter().fold(Index::constant(self.constant), |sum, (atom, by)| {
            let moved = match atom {
                Atom::Var { .. } | Atom::Data { .. } => leaf(atom),
                Atom::Div(inner, it) => inner.substitute(leaf).div(*it),
                Atom::Mod(inner, it) => inner.substitute(leaf).modulo(*it),
            };
            sum.add(&moved.mul(*by))
        })
    }

    /// The value where `leaf` gives the value of each variable and of each read value.
    pub fn eval(&self, leaf: &mut dyn FnMut(&Atom) -> i64) -> i64 {
        self.terms.iter().fold(self.constant, |sum, (atom, by)| {
            let value = match atom {
                Atom::Var { .. } | Atom::Data { .. } => leaf(atom),
                Atom::Div(inner, it) => inner.eval(leaf).div_euclid(*it),
                Atom::Mod(inner, it) => inner.eval(leaf).rem_euclid(*it),
            };
            sum + value * by
        })
    }

    /// Calls `see` with every variable and read value, those inside quotients too.
    pub fn leaves(&self, see: &mut dyn FnMut(&Atom)) {
        for (atom, _) in &self.terms {
            match atom {
                Atom::Var { .. } | Atom::Data { .. } => see(atom),
                Atom::Div(inner, _) | Atom::Mod(inner, _) => inner.leaves(see),
            }
        }
    }

    /// Terms whose coefficient `by` divides, already divided, and all that is left. The left-over constant is in
    /// 0..by.
    fn split(&self, by: i64) -> (Index, Index) {
        let (mut quotient, mut rest) = (Index::constant(0), Index::constant(0));
        for (atom, it) in &self.terms {
            match it % by {
                0 => quotient.terms.push((atom.clone(), it / by)),
                _ => rest.terms.push((atom.clone(), *it)),
            }
        }
        quotient.constant = self.constant.div_euclid(by);
        rest.constant = self.constant.rem_euclid(by);
        (quotient, rest)
    }

    /// `self` as `g*high + low` with `g` a divisor of `by` and `low` in 0..g, if there is one.
    fn layers(&self, by: i64) -> Option<(i64, Index, Index)> {
        let mut tried: SmallVec<[i64; 4]> = self.terms.iter().map(|(_, it)| gcd(by, it.abs())).collect();
        tried.sort_unstable();
        tried.into_iter().filter(|&g| 1 < g).find_map(|g| {
            let (high, low) = self.split(g);
            let (least, most) = low.range();
            (!high.terms.is_empty() && 0 <= least && most < g).then_some((g, high, low))
        })
    }

    /// k*b*(x/b) + k*(x%b) => k*x
    fn join(self) -> Index {
        for (at, (atom, by)) in self.terms.iter().enumerate() {
            let Atom::Mod(inner, modulus) = atom else { continue };
            let whole = inner.div(*modulus);
            let [(quotient, own)] = whole.terms.as_slice() else { continue };
            if whole.constant != 0 || *own != 1 {
                continue;
            }
            let found = self.terms.iter().position(|(it, k)| it == quotient && *k == by * modulus);
            if let Some(other) = found {
                let mut rest = self.clone();
                rest.terms.remove(at.max(other));
                rest.terms.remove(at.min(other));
                return rest.add(&inner.mul(*by));
            }
        }
        self
    }
}

impl Atom {
    pub fn range(&self) -> (i64, i64) {
        match self {
            Atom::Var { extent, .. } => (0, extent - 1),
            Atom::Data { low, high, .. } => (*low, *high),
            Atom::Div(inner, by) => {
                let (low, high) = inner.range();
                (low.div_euclid(*by), high.div_euclid(*by))
            }
            Atom::Mod(inner, by) => {
                let (low, high) = inner.range();
                if low >= 0 && high < *by { (low, high) } else { (0, by - 1) }
            }
        }
    }
}

/// The row-major position of `coords` in `shape`.
pub fn linearise(coords: &[Index], shape: &[usize]) -> Index {
    let mut sum = Index::constant(0);
    let mut stride = 1i64;
    for (coord, &dim) in coords.iter().zip(shape).rev() {
        sum = sum.add(&coord.mul(stride));
        stride *= dim as i64;
    }
    sum
}

/// The coordinates in `shape` of the row-major position `linear`, which must lie inside.
pub fn delinearise(linear: &Index, shape: &[usize]) -> SmallVec<[Index; 4]> {
    let mut coords: SmallVec<[Index; 4]> = SmallVec::from_elem(Index::constant(0), shape.len());
    let mut rest = linear.clone();
    for axis in (0..shape.len()).rev() {
        let dim = shape[axis].max(1) as i64;
        coords[axis] = if axis == 0 { rest.clone() } else { rest.modulo(dim) };
        rest = rest.div(dim);
    }
    coords
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Var { axis, .. } => write!(f, "i{axis}"),
            Atom::Data { expr, .. } => write!(f, "[e{expr}]"),
            Atom::Div(inner, by) => write!(f, "({inner})/{by}"),
            Atom::Mod(inner, by) => write!(f, "({inner})%{by}"),
        }
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
