//! Integer expressions for addresses and loop variables, kept in one canonical form.
//!
//! An `Index` is a constant plus a sum of atoms with coefficients. An atom is a loop variable, a value read from a
//! tensor, or a quotient or remainder that did not simplify. Every atom knows its range, so every `Index` does, and
//! division and remainder by constants simplify as they are built: there is no separate simplifier. Values are never
//! negative inside `div` and `modulo` unless the range says so, and both then round down.

mod text;

use std::sync::Arc;

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
        if let (0, [(Atom::Div(inner, first), 1)]) = (rest.constant, rest.terms.as_slice())
            && let Some(by) = first.checked_mul(by)
        {
            return inner.div(by);
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

    /// Whether variable `var` is among its leaves.
    pub fn moves_with(&self, var: usize) -> bool {
        let mut found = false;
        self.leaves(&mut |leaf| found |= matches!(leaf, Atom::Var { axis, .. } if *axis as usize == var));
        found
    }

    /// Whether it moves with variables below `rank` and with others: a place in an image by a window.
    pub fn is_of_window(&self, rank: usize) -> bool {
        let (mut below, mut others) = (false, false);
        self.leaves(&mut |leaf| {
            if let Atom::Var { axis, .. } = leaf {
                below |= (*axis as usize) < rank;
                others |= *axis as usize >= rank;
            }
        });
        below && others
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

    /// Whether a value that is read says where it is.
    pub fn reads_data(&self) -> bool {
        let mut found = false;
        self.leaves(&mut |leaf| found |= matches!(leaf, Atom::Data { .. }));
        found
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Cursor, Text};

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, end: usize) -> usize {
            (self.next() % end as u64) as usize
        }

        fn one_of(&mut self, all: &[i64]) -> i64 {
            all[self.below(all.len())]
        }
    }

    /// What an expression is built from, kept to be evaluated without any simplification.
    enum Plain {
        Leaf(usize),
        Constant(i64),
        Add(Box<Plain>, Box<Plain>),
        Mul(Box<Plain>, i64),
        Div(Box<Plain>, i64),
        Mod(Box<Plain>, i64),
    }

    impl Plain {
        fn random(random: &mut Random, leaves: usize, depth: usize) -> Plain {
            if depth == 0 {
                return match random.below(4) {
                    0 => Plain::Constant(random.one_of(&[-17, -6, -1, 0, 1, 2, 5, 12])),
                    _ => Plain::Leaf(random.below(leaves)),
                };
            }
            let part = |random: &mut Random| Box::new(Plain::random(random, leaves, depth - 1));
            match random.below(6) {
                0..=2 => Plain::Add(part(random), part(random)),
                3 => Plain::Mul(part(random), random.one_of(&[-12, -3, -1, 0, 1, 2, 3, 4, 6, 8, 12])),
                4 => Plain::Div(part(random), random.one_of(&[1, 2, 3, 4, 6, 8, 12])),
                _ => Plain::Mod(part(random), random.one_of(&[1, 2, 3, 4, 6, 8, 12])),
            }
        }

        fn index(&self, leaves: &[Index]) -> Index {
            match self {
                Plain::Leaf(at) => leaves[*at].clone(),
                Plain::Constant(it) => Index::constant(*it),
                Plain::Add(a, b) => a.index(leaves).add(&b.index(leaves)),
                Plain::Mul(a, by) => a.index(leaves).mul(*by),
                Plain::Div(a, by) => a.index(leaves).div(*by),
                Plain::Mod(a, by) => a.index(leaves).modulo(*by),
            }
        }

        fn eval(&self, values: &[i64]) -> i64 {
            match self {
                Plain::Leaf(at) => values[*at],
                Plain::Constant(it) => *it,
                Plain::Add(a, b) => a.eval(values) + b.eval(values),
                Plain::Mul(a, by) => a.eval(values) * by,
                Plain::Div(a, by) => a.eval(values).div_euclid(*by),
                Plain::Mod(a, by) => a.eval(values).rem_euclid(*by),
            }
        }
    }

    fn well_formed(index: &Index) {
        assert!(index.terms.is_sorted_by(|a, b| a.0 < b.0), "{index}");
        for (atom, by) in &index.terms {
            assert_ne!(*by, 0, "{index}");
            if let Atom::Div(inner, _) | Atom::Mod(inner, _) = atom {
                well_formed(inner);
            }
        }
    }

    /// The leaves: three loop variables and a value read between -3 and 9.
    fn leaf_value(atom: &Atom, values: &[i64]) -> i64 {
        match atom {
            Atom::Var { axis, .. } => values[*axis as usize],
            _ => values[3],
        }
    }

    #[test]
    fn random_expressions_keep_their_values_and_ranges() {
        for seed in 0..20_000 {
            let random = &mut Random(seed);
            let extents: Vec<usize> = (0..3).map(|_| 1 + random.below(13)).collect();
            let mut leaves: Vec<Index> = (0..3).map(|axis| Index::var(axis, extents[axis])).collect();
            leaves.push(Index::data(0, -3, 9));
            let depth = 1 + random.below(5);
            let plain = Plain::random(random, leaves.len(), depth);
            let index = plain.index(&leaves);
            well_formed(&index);
            let text = index.to_string();
            let again = Cursor::all(&text, |from| {
                from.extents = extents.clone();
                Index::parse(from)
            });
            assert_eq!(again.as_ref(), Ok(&index), "seed {seed}: parsed");
            let (low, high) = index.range();
            for _ in 0..20 {
                let mut values: Vec<i64> = extents.iter().map(|&it| random.below(it) as i64).collect();
                values.push(random.below(13) as i64 - 3);
                let want = plain.eval(&values);
                let have = index.eval(&mut |atom| leaf_value(atom, &values));
                assert_eq!(have, want, "seed {seed}: {index} at {values:?}");
                assert!(low <= want && want <= high, "seed {seed}: {index} at {values:?}");
                let same = index.substitute(&mut |atom| Index::atom(atom.clone()));
                let have = same.eval(&mut |atom| leaf_value(atom, &values));
                assert_eq!(have, want, "seed {seed}: {index} became {same}");
            }
        }
    }

    fn variables(shape: &[usize]) -> Vec<Index> {
        shape.iter().enumerate().map(|(axis, &dim)| Index::var(axis, dim)).collect()
    }

    #[test]
    fn places_survive_a_change_of_shape() {
        for seed in 0..2_000 {
            let random = &mut Random(seed);
            let shape: Vec<usize> = (0..1 + random.below(4)).map(|_| 1 + random.below(7)).collect();
            let count: usize = shape.iter().product();
            let x = Index::var(0, count);
            assert_eq!(linearise(&delinearise(&x, &shape), &shape), x, "seed {seed}: {shape:?}");
            let coords = variables(&shape);
            let back = delinearise(&linearise(&coords, &shape), &shape);
            assert_eq!(back.as_slice(), coords, "seed {seed}: {shape:?}");
        }
    }

    #[test]
    fn chains_of_reshapes_cancel() {
        let chain = |from: &[usize], through: &[&[usize]]| {
            let mut coords: SmallVec<[Index; 4]> = variables(from).into();
            let mut shape = from;
            for next in through.iter().copied().chain([from]) {
                coords = delinearise(&linearise(&coords, shape), next);
                shape = next;
            }
            assert_eq!(coords.as_slice(), variables(from), "{from:?} {through:?}");
        };
        chain(&[4, 6], &[&[24]]);
        chain(&[24], &[&[4, 6]]);
        chain(&[24], &[&[2, 2, 6], &[4, 6]]);
        chain(&[2, 12, 16], &[&[2, 12, 4, 4], &[24, 16], &[384]]);
        chain(&[128, 384], &[&[1, 128, 12, 32], &[128, 12, 32], &[49152]]);
        chain(&[4, 6], &[&[8, 3]]);
        chain(&[6, 4], &[&[3, 8], &[24], &[2, 12]]);
    }

    /// Heads split off and joined again around a swap of axes leave single variables.
    #[test]
    fn heads_leave_plain_variables() {
        let at = variables(&[2, 12, 128, 32]);
        let swapped = [at[0].clone(), at[2].clone(), at[1].clone(), at[3].clone()];
        let joined = delinearise(&linearise(&swapped, &[2, 128, 12, 32]), &[256, 384]);
        assert_eq!(joined[0].to_string(), "128*i0 + i2");
        assert_eq!(joined[1].to_string(), "32*i1 + i3");
    }
}
