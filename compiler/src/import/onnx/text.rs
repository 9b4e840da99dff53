//! Operators whose point is strings: functions on the host.

use std::{collections::HashSet, sync::Arc};

use super::{node::Node, re2};
use crate::{
    dtype::DType,
    error::Error,
    import::{
        host::Datum,
        strings::{OVERHEAD, Strings},
    },
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

type Made = Result<Vec<Datum>, Error>;

/// Operand `at`, which has to be of strings.
fn strings<'a>(n: &Node, given: &'a [Option<Datum>], at: usize) -> Result<&'a Strings, Error> {
    match given.get(at) {
        Some(Some(Datum::Strings(it))) => Ok(it),
        Some(Some(_)) => Err(n.error(format!("operand {at} is not of strings"))),
        Some(None) | None => Err(n.error(format!("operand {at} is missing"))),
    }
}

/// Strings that are made, as long as there is memory for them.
pub struct Making<'a> {
    n: &'a Node<'a>,
    all: Vec<Arc<str>>,
    used: u64,
}

impl<'a> Making<'a> {
    /// Room for `count` of them.
    pub fn new(n: &'a Node<'a>, count: Option<usize>) -> Result<Making<'a>, Error> {
        let mut made = Making { n, all: Vec::new(), used: 0 };
        let count = count.ok_or_else(|| n.error("the result is too large"))?;
        made.take((count as u64).saturating_mul(OVERHEAD))?;
        made.all.reserve_exact(count);
        Ok(made)
    }

    fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.used = self.used.saturating_add(bytes);
        match self.used > self.n.most {
            true => {
                let at = format!("strings of node '{}'", self.n.name);
                Err(Error::MemoryLimit { at, need: self.used, have: self.n.most })
            }
            false => Ok(()),
        }
    }

    /// One that is there already.
    fn again(&mut self, text: &Arc<str>) {
        self.all.push(text.clone());
    }

    pub fn push(&mut self, parts: &[&str]) -> Result<(), Error> {
        self.take(parts.iter().map(|it| it.len() as u64).sum())?;
        self.all.push(match parts {
            [one] => Arc::from(*one),
            _ => parts.concat().into(),
        });
        Ok(())
    }

    pub fn finish(self, shape: impl Into<Shape>) -> Result<Datum, Error> {
        let made = Strings::new(shape, self.all);
        made.map(Datum::Strings).ok_or_else(|| self.n.error("the result is too large"))
    }
}

/// Each element of one followed by that of the other.
pub fn concat(n: &Node, given: &[Option<Datum>]) -> Made {
    let (x, y) = (strings(n, given, 0)?, strings(n, given, 1)?);
    let shape = x.shape().broadcast(y.shape());
    let shape = shape.ok_or_else(|| n.error(format!("{} and {}", x.shape(), y.shape())))?;
    let mut made = Making::new(n, shape.checked_count())?;
    let strides = shape.strides();
    // How far apart neighbours along each axis of the result are; along repeated ones they are one.
    let steps = |of: &Strings| -> Vec<usize> {
        let (own, before) = (of.shape(), shape.rank() - of.shape().rank());
        let own_strides = own.strides();
        (0..shape.rank())
            .map(|axis| match axis.checked_sub(before) {
                Some(axis) if own[axis] != 1 => own_strides[axis],
                _ => 0,
            })
            .collect()
    };
    let (a, b) = (steps(x), steps(y));
    for at in 0..shape.count() {
        let place = |steps: &[usize]| -> usize {
            (0..shape.rank()).map(|axis| at / strides[axis] % shape[axis] * steps[axis]).sum()
        };
        made.push(&[&x.values()[place(&a)], &y.values()[place(&b)]])?;
    }
    Ok(vec![made.finish(shape)?])
}

/// Languages whose letters change their case in ways of their own.
const OWN_CASES: [&str; 3] = ["tr", "az", "lt"];

/// Elements but for the stop words, in another case.
pub fn normalise(n: &Node, given: &[Option<Datum>]) -> Made {
    let x = strings(n, given, 0)?;
    let ((1, _) | (2, 1)) = (x.shape().rank(), x.shape().first().copied().unwrap_or(0)) else {
        return Err(n.error(format!("a shape {}, which is neither [c] nor [1,c]", x.shape())));
    };
    let stops = n.texts("stopwords")?.unwrap_or_default();
    let (sensitive, locale) = (n.flag("is_case_sensitive", false)?, n.text("locale", "en_US")?);
    let change: fn(&str) -> String = match n.text("case_change_action", "NONE")? {
        "LOWER" => str::to_lowercase,
        "UPPER" => str::to_uppercase,
        "NONE" => str::to_owned,
        other => return Err(n.error(format!("case_change_action '{other}'"))),
    };
    let language = locale.split(['_', '-', '.', '@']).next().unwrap_or_default();
    if OWN_CASES.contains(&&*language.to_ascii_lowercase()) {
        return Err(n.unsupported(format!("the locale '{locale}', in which letters have other cases")));
    }
    let alike = |it: &str| if sensitive { it.to_owned() } else { it.to_lowercase() };
    let stops: HashSet<String> = stops.into_iter().map(alike).collect();
    let left = x.values().iter().filter(|it| stops.is_empty() || !stops.contains(&alike(it)));
    let mut made = Making::new(n, Some(x.values().len().max(1)))?;
    for text in left {
        made.push(&[&change(text)])?;
    }
    if made.all.is_empty() {
        made.push(&[""])?;
    }
    let mut shape = x.shape().clone();
    *shape.0.last_mut().expect("one axis or two") = made.all.len();
    Ok(vec![made.finish(shape)?])
}

/// Parts of a string between delimiters, or between blanks without one; what is behind the last of `most` cuts is one part.
fn parts<'a>(text: &'a str, delimiter: &str, most: usize) -> Vec<&'a str> {
    if !delimiter.is_empty() {
        return text.splitn(most.saturating_add(1), delimiter).collect();
    }
    let (mut parts, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let (part, behind) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        parts.push(part);
        rest = behind.trim_start();
    }
    parts
}

pub fn split(n: &Node, given: &[Option<Datum>]) -> Made {
    let x = strings(n, given, 0)?;
    let delimiter = n.text("delimiter", "")?;
    let most = usize::try_from(n.int("maxsplit", -1)?).unwrap_or(usize::MAX);
    let mut counts = Vec::with_capacity(x.values().len());
    for text in x.values() {
        let count = match delimiter.is_empty() {
            // Cuts are counted without memory for parts.
            false => text.matches(delimiter).count().min(most) + 1,
            true => parts(text, delimiter, most).len(),
        };
        counts.push(count);
    }
    let longest = counts.iter().copied().max().unwrap_or(0);
    let mut made = Making::new(n, x.values().len().checked_mul(longest))?;
    let empty: Arc<str> = "".into();
    for (text, count) in x.values().iter().zip(&counts) {
        for part in parts(text, delimiter, most) {
            made.push(&[part])?;
        }
        (*count..longest).for_each(|_| made.again(&empty));
    }
    let shape: Shape = x.shape().iter().copied().chain([longest]).collect();
    let ty = Type { dtype: DType::I64, shape: x.shape().clone() };
    let counts = Tensor::from_scalars(ty, counts.into_iter().map(|it| Scalar::Int(it as i64)));
    Ok(vec![made.finish(shape)?, Datum::Tensor(counts)])
}

/// Which elements a pattern covers as a whole.
pub fn full_match(n: &Node, given: &[Option<Datum>]) -> Made {
    let x = strings(n, given, 0)?;
    let pattern = re2::compile(n.text("pattern", "")?).map_err(|what| n.error(what))?;
    let ty = Type { dtype: DType::Bool, shape: x.shape().clone() };
    let hits = x.values().iter().map(|it| Scalar::Int(pattern.is_match(it.as_bytes()) as i64));
    Ok(vec![Datum::Tensor(Tensor::from_scalars(ty, hits))])
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_between_delimiters_and_blanks() {
        assert_eq!(parts("a,b,,c", ",", usize::MAX), ["a", "b", "", "c"]);
        assert_eq!(parts("a,b,,c", ",", 2), ["a", "b", ",c"]);
        assert_eq!(parts("", ",", usize::MAX), [""]);
        assert_eq!(parts("a--b---c", "--", usize::MAX), ["a", "b", "-c"]);
        assert_eq!(parts("  a\u{2003}b \t\nc  ", "", usize::MAX), ["a", "b", "c"]);
        assert_eq!(parts(" a b  c ", "", 1), ["a", "b  c "]);
        assert_eq!(parts(" a b", "", 0), ["a b"]);
        assert_eq!(parts(" \t ", "", usize::MAX), [""; 0]);
        assert_eq!(parts("äöä", "ä", usize::MAX), ["", "ö", ""]);
    }
}
