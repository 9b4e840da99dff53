//! Products of matrices.

use super::node::Node;
use crate::{dtype::DType, error::Error, graph::Value, import::emit::Emit, scalar::BinaryOp, shape::Shape};

type Made = Result<Value, Error>;

pub fn matmul(e: &mut Emit, n: &Node) -> Made {
    e.matmul(n.input(0)?, n.input(1)?)
}

pub fn gemm(e: &mut Emit, n: &Node) -> Made {
    let mut operand = |at, flag| {
        let x = n.input(at)?;
        match (e.rank(x), n.flag(flag, false)?) {
            (2, true) => e.permute(x, &[1, 0]),
            (2, false) => Ok(x),
            (rank, _) => Err(n.error(format!("operand {at} has rank {rank}, not 2"))),
        }
    };
    if n.opset < 7 {
        // What broadcasts is told from the shapes.
        n.flag("broadcast", false)?;
    }
    let (a, b) = (operand(0, "transA")?, operand(1, "transB")?);
    let (alpha, beta) = (n.float("alpha", 1.0)?, n.float("beta", 1.0)?);
    let mut y = e.matmul(a, b)?;
    if alpha != 1.0 {
        y = scaled(e, y, alpha)?;
    }
    let Some(mut c) = n.opt(2) else { return Ok(y) };
    if beta != 1.0 {
        c = scaled(e, c, beta)?;
    }
    let shape = e.shape(y);
    if e.shape(c).broadcast(&shape).as_ref() != Some(&shape) {
        return Err(n.error(format!("operand 2, {}, does not broadcast to {shape}", e.shape(c))));
    }
    e.binary(BinaryOp::Add, y, c)
}

fn scaled(e: &mut Emit, x: Value, by: f64) -> Made {
    let dtype = e.dtype(x);
    if dtype.is_float() {
        return e.with(BinaryOp::Mul, x, by);
    }
    let x = e.cast(x, DType::F32)?;
    let x = e.with(BinaryOp::Mul, x, by)?;
    e.cast(x, dtype)
}

/// com.microsoft: a matmul with operands transposed in their last two axes, times alpha.
pub fn fused_matmul(e: &mut Emit, n: &Node) -> Made {
    if n.flag("transBatchA", false)? || n.flag("transBatchB", false)? {
        return Err(n.unsupported("transBatchA or transBatchB"));
    }
    let mut operand = |at, flag| {
        let x = n.input(at)?;
        let rank = e.rank(x);
        if !n.flag(flag, false)? || rank < 2 {
            return Ok(x);
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        e.permute(x, &order)
    };
    let (a, b) = (operand(0, "transA")?, operand(1, "transB")?);
    let y = e.matmul(a, b)?;
    match n.float("alpha", 1.0)? {
        1.0 => Ok(y),
        alpha => e.with(BinaryOp::Mul, y, alpha),
    }
}

/// An operand of an Einsum and what its axes are called.
struct Term {
    labels: Vec<u32>,
    value: Value,
}

/// Axes that an ellipsis stands for are called from here on, the last one first.
const ELLIPSIS: u32 = 0x11_0000;

/// Operands are joined from the left, each pair as one batched matmul.
pub fn einsum(e: &mut Emit, n: &Node) -> Made {
    let equation: String = n.text("equation", "")?.chars().filter(|it| !it.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let operands = n.all()?;
    let subscripts: Vec<&str> = left.split(',').collect();
    if subscripts.len() != operands.len() {
        return Err(n.error(format!("equation '{equation}' for {} operands", operands.len())));
    }
    let mut terms = Vec::new();
    let mut hidden = 0;
    for (text, &value) in subscripts.iter().zip(&operands) {
        let rank = e.rank(value);
        let named = text.chars().filter(|it| *it != '.').count();
        let spare = rank.checked_sub(named).filter(|it| *it == 0 || text.contains("..."));
        let spare = spare.ok_or_else(|| n.error(format!("'{text}' for rank {rank}")))?;
        hidden = hidden.max(spare);
        terms.push(diagonals(e, n, Term { labels: labels(n, text, spare)?, value })?);
    }
    let output = match right {
        Some(text) => labels(n, text, if text.contains("...") { hidden } else { 0 })?,
        None => {
            let all: Vec<u32> = terms.iter().flat_map(|it| it.labels.iter().copied()).collect();
            let letters: Vec<char> = left.chars().filter(|it| it.is_alphabetic()).collect();
            let mut once: Vec<u32> = (all.iter().copied())
                .filter(|it| *it < ELLIPSIS && letters.iter().filter(|c| **c as u32 == *it).count() == 1)
                .collect();
            once.sort_unstable();
            (0..hidden as u32).rev().map(|it| ELLIPSIS + it).chain(once).collect()
        }
    };
    let mut rest = terms.into_iter().peekable();
    let Some(mut so_far) = rest.next() else { return Err(n.error("has no operand")) };
    while let Some(next) = rest.next() {
        // A label of an operand still to come must survive.
        let mut needed = output.clone();
        needed.extend(subscript_labels(&subscripts[subscripts.len() - rest.len()..], hidden));
        so_far = join(e, so_far, next, &needed)?;
    }
    let axes = (0..so_far.labels.len()).filter(|it| !output.contains(&so_far.labels[*it])).collect();
    let value = e.reduce(crate::scalar::ReduceOp::Sum, so_far.value, &axes, false)?;
    let left: Vec<u32> = so_far.labels.iter().copied().filter(|it| output.contains(it)).collect();
    let order = output.iter().map(|it| left.iter().position(|own| own == it)).collect::<Option<Vec<_>>>();
    let order = order.filter(|it| it.len() == left.len());
    let order = order
        .ok_or_else(|| n.error(format!("equation '{equation}' has an output of no operand, or one twice")))?;
    e.permute(value, &order)
}

fn labels(n: &Node, text: &str, spare: usize) -> Result<Vec<u32>, Error> {
    let (before, after) = text.split_once("...").unwrap_or((text, ""));
    if (before.chars().chain(after.chars())).any(|it| !it.is_alphabetic()) {
        return Err(n.error(format!("'{text}' is no list of letters")));
    }
    let hidden = (0..spare as u32).rev().map(|it| ELLIPSIS + it);
    Ok(before.chars().map(u32::from).chain(hidden).chain(after.chars().map(u32::from)).collect())
}

fn subscript_labels(texts: &[&str], hidden: usize) -> Vec<u32> {
    let letters = texts.iter().flat_map(|it| it.chars()).filter(|it| *it != '.').map(u32::from);
    letters.chain((0..hidden as u32).map(|it| ELLIPSIS + it)).collect()
}

/// A label that stands twice in one operand means the diagonal of those axes.
fn diagonals(e: &mut Emit, n: &Node, mut term: Term) -> Result<Term, Error> {
    loop {
        let labels = &term.labels;
        let twice = (0..labels.len())
            .find_map(|a| (a + 1..labels.len()).find(|b| labels[a] == labels[*b]).map(|b| (a, b)));
        let Some((a, b)) = twice else { return Ok(term) };
        let shape = e.shape(term.value);
        let size = shape[a];
        if shape[b] != size {
            return Err(n.error(format!("a diagonal of {shape}")));
        }
        let others = (0..shape.rank()).filter(|it| *it != a && *it != b);
        let order: Vec<usize> = others.clone().chain([a, b]).collect();
        let outer: Vec<usize> = others.clone().map(|it| shape[it]).collect();
        let value = e.permute(term.value, &order)?;
        let value = e.reshape(value, &[&outer[..], &[size * size]].concat()[..])?;
        let value = e.slice(value, outer.len(), 0, size, size as i64 + 1)?;
        let labels = others.chain([a]).map(|it| term.labels[it]).collect();
        term = Term { labels, value };
    }
}

/// The product of two operands, summed over what neither the output nor a later operand has.
fn join(e: &mut Emit, a: Term, b: Term, needed: &[u32]) -> Result<Term, Error> {
    let a = summed(e, a, &b.labels, needed)?;
    let b = summed(e, b, &a.labels, needed)?;
    let b_has = |it: &u32| b.labels.contains(it);
    let a_has = |it: &u32| a.labels.contains(it);
    let of = |labels: &[u32], keep: &dyn Fn(&u32) -> bool| -> Vec<u32> {
        labels.iter().copied().filter(|it| keep(it)).collect()
    };
    let shared = of(&a.labels, &|it| b_has(it) && needed.contains(it));
    let inner = of(&a.labels, &|it| b_has(it) && !needed.contains(it));
    let (only_a, only_b) = (of(&a.labels, &|it| !b_has(it)), of(&b.labels, &|it| !a_has(it)));
    let size = |e: &Emit, term: &Term, label: &u32| {
        term.labels.iter().position(|it| it == label).map_or(1, |at| e.shape(term.value)[at])
    };
    // Equal labels broadcast where one operand has 1.
    let sizes = |e: &Emit, labels: &[u32]| -> Vec<usize> {
        labels
            .iter()
            .map(|it| match size(e, &a, it) {
                1 => size(e, &b, it),
                other => other,
            })
            .collect()
    };
    let (ns, ni, na, nb) = (sizes(e, &shared), sizes(e, &inner), sizes(e, &only_a), sizes(e, &only_b));
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let side = |e: &mut Emit, term: &Term, groups: [(&[u32], &[usize]); 3]| -> Made {
        let order: Vec<usize> = (groups.iter().flat_map(|it| it.0))
            .filter_map(|label| term.labels.iter().position(|it| it == label))
            .collect();
        let value = e.permute(term.value, &order)?;
        let full: Shape = groups.iter().flat_map(|it| it.1.iter().copied()).collect();
        let value = e.expand(value, full)?;
        e.reshape(value, [product(groups[0].1), product(groups[1].1), product(groups[2].1)])
    };
    let x = side(e, &a, [(&shared, &ns), (&only_a, &na), (&inner, &ni)])?;
    let y = side(e, &b, [(&shared, &ns), (&inner, &ni), (&only_b, &nb)])?;
    let value = e.matmul(x, y)?;
    let value = e.reshape(value, &[ns, na, nb].concat()[..])?;
    Ok(Term { labels: [shared, only_a, only_b].concat(), value })
}

/// `term` summed over the labels that nothing else has.
fn summed(e: &mut Emit, term: Term, others: &[u32], needed: &[u32]) -> Result<Term, Error> {
    let stays = |it: &u32| others.contains(it) || needed.contains(it);
    let axes = (0..term.labels.len()).filter(|at| !stays(&term.labels[*at])).collect();
    let value = e.reduce(crate::scalar::ReduceOp::Sum, term.value, &axes, false)?;
    Ok(Term { labels: term.labels.into_iter().filter(|it| stays(it)).collect(), value })
}
