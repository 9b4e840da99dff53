//! Indices as strides: what address each point of a domain has.
//!
//! `Space` cuts each loop variable into digits where indices divide it, so that most quotients and remainders become sums of
//! digits. A `Walk` goes through consecutive points of a domain (some of the variables, row-major; the others have one
//! value meanwhile) in runs along which every address changes by a constant stride.

use smallvec::SmallVec;
use wgfuse_compiler::index::{Atom, Index};

/// A digit of a loop variable: `variable / unit % extent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Digit {
    var: usize,
    unit: i64,
    extent: i64,
}

/// The loop variables of a kernel, cut into digits.
pub struct Space {
    extents: Vec<usize>,
    /// By variable, highest digit first; none for variables that can only be 0.
    digits: Vec<Digit>,
}

/// A constant plus a multiple of each digit.
#[derive(Clone, Debug)]
pub struct Form {
    constant: i64,
    by: Vec<i64>,
}

/// One sum along a walk.
#[derive(Clone, Debug)]
struct Line {
    constant: i64,
    /// Digits that keep their value during the walk, with their factors.
    fixed: SmallVec<[(Digit, i64); 4]>,
    strides: SmallVec<[i64; 4]>,
}

/// The address, and conditions (sums that must not be negative) under which it is valid, over one domain.
#[derive(Clone, Debug)]
pub struct Walk {
    extents: SmallVec<[i64; 4]>,
    address: Line,
    conditions: SmallVec<[Line; 0]>,
}

/// Consecutive points: `at` within the walk, `len` of them, at `address`, `address + stride`, ...
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub at: usize,
    pub len: usize,
    pub address: i64,
    pub stride: i64,
}

impl Space {
    /// The variables of these extents, cut for `indices`.
    pub fn new<'a>(extents: &[usize], indices: impl Iterator<Item = &'a Index>) -> Space {
        let mut cuts: Vec<Vec<i64>> = vec![Vec::new(); extents.len()];
        for index in indices {
            find_cuts(index, 1, &mut cuts);
        }
        let mut digits = Vec::new();
        for (var, (&extent, cuts)) in extents.iter().zip(&mut cuts).enumerate() {
            let extent = extent as i64;
            if extent < 2 {
                continue;
            }
            cuts.sort_unstable();
            cuts.dedup();
            let mut units = vec![1i64];
            for &cut in cuts.iter().filter(|cut| **cut < extent && extent % **cut == 0) {
                if cut % units[units.len() - 1] == 0 {
                    units.push(cut);
                }
            }
            let mut above = extent;
            for &unit in units.iter().rev() {
                digits.push(Digit { var, unit, extent: above / unit });
                above = unit;
            }
        }
        Space { extents: extents.to_vec(), digits }
    }

    /// Extents of the loop variables.
    pub fn extents(&self) -> &[usize] {
        &self.extents
    }

    fn zero(&self) -> Form {
        Form { constant: 0, by: vec![0; self.digits.len()] }
    }

    /// `index` as a form, if it is one.
    pub fn form(&self, index: &Index) -> Option<Form> {
        let mut sum = self.zero();
        sum.constant = index.offset();
        for (atom, by) in index.terms() {
            sum.add(&self.atom(atom)?, *by);
        }
        Some(sum)
    }

    fn atom(&self, atom: &Atom) -> Option<Form> {
        match atom {
            Atom::Var { axis, .. } => {
                let mut form = self.zero();
                for (at, digit) in self.digits.iter().enumerate().filter(|(_, it)| it.var == *axis as usize) {
                    form.by[at] = digit.unit;
                }
                Some(form)
            }
            Atom::Data { .. } => None,
            Atom::Div(inner, by) => Some(self.split(&self.form(inner)?, *by)?.0),
            Atom::Mod(inner, by) => Some(self.split(&self.form(inner)?, *by)?.1),
        }
    }

    /// Quotient and remainder of `form` by `by`, where what `by` does not divide stays in 0..by.
    fn split(&self, form: &Form, by: i64) -> Option<(Form, Form)> {
        let (mut quotient, mut rest) = (self.zero(), self.zero());
        quotient.constant = form.constant.div_euclid(by);
        rest.constant = form.constant.rem_euclid(by);
        let mut range = (rest.constant, rest.constant);
        for (at, &it) in form.by.iter().enumerate() {
            if it % by == 0 {
                quotient.by[at] = it / by;
            } else {
                rest.by[at] = it;
                let reach = it * (self.digits[at].extent - 1);
                range = (range.0 + reach.min(0), range.1 + reach.max(0));
            }
        }
        (0 <= range.0 && range.1 < by).then_some((quotient, rest))
    }

    /// Walks `address` over the row-major points of the variables `domain`. Points where one of `conditions` is negative
    /// are not valid.
    pub fn walk(&self, domain: &[usize], address: &Form, conditions: &[Form]) -> Walk {
        let lines = || std::iter::once(address).chain(conditions);
        let mut extents: SmallVec<[i64; 4]> = SmallVec::new();
        let mut strides: Vec<SmallVec<[i64; 4]>> = vec![SmallVec::new(); 1 + conditions.len()];
        let inside = domain.iter().flat_map(|var| {
            self.digits
                .iter()
                .enumerate()
                .filter(move |(_, it)| it.var == *var)
                .map(|(at, it)| (at, it.extent))
        });
        for (at, extent) in inside {
            let joins = !extents.is_empty()
                && lines().zip(&strides).all(|(line, it)| it[it.len() - 1] == line.by[at] * extent);
            if joins {
                *extents.last_mut().expect("not empty") *= extent;
                strides.iter_mut().zip(lines()).for_each(|(it, line)| {
                    *it.last_mut().expect("not empty") = line.by[at];
                });
            } else {
                extents.push(extent);
                strides.iter_mut().zip(lines()).for_each(|(it, line)| it.push(line.by[at]));
            }
        }
        if extents.is_empty() {
            extents.push(1);
            strides.iter_mut().for_each(|it| it.push(0));
        }
        let mut lines = lines().zip(strides).map(|(form, strides)| {
            let fixed = self.digits.iter().zip(&form.by);
            let fixed = fixed.filter(|(digit, by)| **by != 0 && !domain.contains(&digit.var));
            Line { constant: form.constant, fixed: fixed.map(|(digit, by)| (*digit, *by)).collect(), strides }
        });
        let address = lines.next().expect("the address");
        Walk { extents, address, conditions: lines.collect() }
    }
}

/// Divisors `d` such that a quotient by `d` of a variable is needed for `index / by`.
fn find_cuts(index: &Index, by: i64, cuts: &mut [Vec<i64>]) {
    for (atom, factor) in index.terms() {
        match atom {
            Atom::Var { axis, .. } => {
                let factor = factor.abs();
                if by > factor && by % factor == 0 {
                    cuts[*axis as usize].push(by / factor);
                }
            }
            Atom::Data { .. } => {}
            Atom::Div(inner, own) | Atom::Mod(inner, own) => {
                find_cuts(inner, *own, cuts);
                if let Some(both) = by.checked_mul(*own)
                    && both % factor.abs() == 0
                {
                    find_cuts(inner, both / factor.abs(), cuts);
                }
            }
        }
    }
}

impl Form {
    pub fn add(&mut self, other: &Form, by: i64) {
        self.constant += other.constant * by;
        self.by.iter_mut().zip(&other.by).for_each(|(it, own)| *it += own * by);
    }

    pub fn offset(&mut self, by: i64) {
        self.constant += by;
    }
}

impl Line {
    fn base(&self, values: &[i64]) -> i64 {
        self.fixed.iter().fold(self.constant, |sum, (digit, by)| {
            let mut value = values[digit.var];
            if digit.unit != 1 {
                value /= digit.unit;
            }
            // The highest digit is below its extent anyway.
            if value >= digit.extent {
                value %= digit.extent;
            }
            sum + value * by
        })
    }
}

impl Walk {
    /// The one stride of the address over the whole domain, if it has one.
    pub fn stride(&self) -> Option<i64> {
        (self.extents.len() == 1 && self.conditions.is_empty()).then(|| self.address.strides[0])
    }

    /// The stride between neighbours.
    pub fn inner_stride(&self) -> i64 {
        self.address.strides[self.extents.len() - 1]
    }

    /// Points in a run.
    pub fn inner_extent(&self) -> i64 {
        self.extents[self.extents.len() - 1]
    }

    /// The address at the domain's first point, where `values` are those of the variables outside it.
    pub fn base(&self, values: &[i64]) -> i64 {
        self.address.base(values)
    }

    /// Points `start..start + count` of the domain in runs: `valid` for those that satisfy every condition, `invalid` with
    /// position and length for the others.
    #[inline(always)]
    pub fn runs(
        &self,
        values: &[i64],
        start: usize,
        count: usize,
        mut valid: impl FnMut(Run),
        mut invalid: impl FnMut(usize, usize),
    ) {
        let last = self.extents.len() - 1;
        let stride = self.address.strides[last];
        let mut base = self.address.base(values);
        if last == 0 && self.conditions.is_empty() {
            return valid(Run { at: 0, len: count, address: base + start as i64 * stride, stride });
        }
        let mut at: SmallVec<[i64; 6]> = SmallVec::from_elem(0, last + 1);
        let mut rest = start as i64;
        for axis in (0..=last).rev() {
            let extent = self.extents[axis];
            at[axis] = if axis == 0 { rest } else { rest % extent };
            rest /= extent;
            base += at[axis] * self.address.strides[axis];
        }
        let mut bounds: SmallVec<[i64; 6]> = self
            .conditions
            .iter()
            .map(|it| at.iter().zip(&it.strides).fold(it.base(values), |sum, (at, by)| sum + at * by))
            .collect();
        let mut done = 0;
        loop {
            let len = ((self.extents[last] - at[last]) as usize).min(count - done);
            // The points of the run that satisfy every condition are an interval.
            let (mut low, mut high) = (0, len as i64);
            for (bound, line) in bounds.iter().zip(&self.conditions) {
                let step = line.strides[last];
                match step.signum() {
                    0 if *bound < 0 => high = 0,
                    1 if *bound < 0 => low = low.max((-bound + step - 1) / step),
                    -1 if *bound < 0 => high = 0,
                    -1 => high = high.min(bound / -step + 1),
                    _ => {}
                }
            }
            if low >= high {
                invalid(done, len);
            } else {
                if low > 0 {
                    invalid(done, low as usize);
                }
                let address = base + low * stride;
                valid(Run { at: done + low as usize, len: (high - low) as usize, address, stride });
                if high < len as i64 {
                    invalid(done + high as usize, len - high as usize);
                }
            }
            done += len;
            if done == count {
                return;
            }
            // To the start of the next run.
            let mut step = |axis: usize, by: i64, base: &mut i64| {
                *base += by * self.address.strides[axis];
                bounds.iter_mut().zip(&self.conditions).for_each(|(it, line)| *it += by * line.strides[axis]);
            };
            step(last, -at[last], &mut base);
            at[last] = 0;
            for axis in (0..last).rev() {
                at[axis] += 1;
                step(axis, 1, &mut base);
                if at[axis] < self.extents[axis] {
                    break;
                }
                step(axis, -at[axis], &mut base);
                at[axis] = 0;
            }
        }
    }
}
