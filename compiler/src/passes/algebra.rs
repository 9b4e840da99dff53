//! Identities of single elements.

use super::{
    matching::{binary, number, scaled, unary, uniform},
    rewrite::{
        Better,
        Licence::{Exact, Relaxed},
        Rule, Site,
    },
};
use crate::{
    dtype::{Class, DType},
    error::Error,
    graph::{Op, Value},
    scalar::{
        BinaryOp::{self, *},
        ReduceOp, Scalar, UnaryOp,
    },
    small_float::Format,
    tensor::Tensor,
};

pub const RULES: &[Rule] = &[
    Rule {
        name: "neutral",
        about: "x * 1, x / 1, x - 0, x ^ 1 => x; integers: x + 0 => x",
        licence: Exact,
        roots: &["mul", "div", "pow", "sub", "add"],
        apply: neutral,
    },
    Rule {
        name: "add-zero",
        about: "x + 0 => x, though -0 + 0 is 0",
        licence: Relaxed,
        roots: &["add", "sub"],
        apply: add_zero,
    },
    Rule {
        name: "logic",
        about: "x and true, x or false, x xor false => x; x and false => false; x or true => true",
        licence: Exact,
        roots: &["and", "or", "xor"],
        apply: logic,
    },
    Rule {
        name: "same-operands",
        about: "x and x, x or x, max(x, x), min(x, x) => x",
        licence: Exact,
        roots: &["and", "or", "max", "min"],
        apply: same_operands,
    },
    Rule {
        name: "twice",
        about: "-(-x), not not x => x; abs, relu, sign and the roundings applied twice; not (a == b) => a != b",
        licence: Exact,
        roots: &["neg", "not", "abs", "relu", "sign", "floor", "ceil", "round", "trunc"],
        apply: twice,
    },
    Rule {
        name: "select",
        about: "where(true, x, y) => x; where(c, x, x) => x",
        licence: Exact,
        roots: &["select"],
        apply: select,
    },
    Rule {
        name: "cast-same",
        about: "cast to the type it has => x",
        licence: Exact,
        roots: &["cast"],
        apply: cast_same,
    },
    Rule {
        name: "cast-cast",
        about: "A cast of a cast that loses nothing",
        licence: Exact,
        roots: &["cast"],
        apply: cast_cast,
    },
    Rule { name: "one-over", about: "1 / x => recip x", licence: Exact, roots: &["div"], apply: one_over },
    Rule {
        name: "div-power-of-two",
        about: "x / 2^k => x * 2^-k",
        licence: Exact,
        roots: &["div"],
        apply: div_power_of_two,
    },
    Rule {
        name: "div-constant",
        about: "x / c => x * (1/c)",
        licence: Relaxed,
        roots: &["div"],
        apply: div_constant,
    },
    Rule {
        name: "pow",
        about: "x^2, x^3 => products; x^0.5 => sqrt x; x^-0.5 => rsqrt x; x^-1 => recip x",
        licence: Relaxed,
        roots: &["pow"],
        apply: pow,
    },
    Rule {
        name: "rsqrt",
        about: "recip (sqrt x), sqrt (recip x) => rsqrt x; x / sqrt y => x * rsqrt y",
        licence: Relaxed,
        roots: &["recip", "sqrt", "div"],
        apply: rsqrt,
    },
    Rule { name: "relu", about: "max(x, 0) => relu x", licence: Relaxed, roots: &["max"], apply: relu },
    Rule {
        name: "mean",
        about: "sum(x) * (1/n) => mean(x)",
        licence: Relaxed,
        roots: &["mul", "div"],
        apply: mean,
    },
    Rule {
        name: "reduce-nothing",
        about: "A reduction of nothing but axes of one element",
        licence: Relaxed,
        roots: &["reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "mean"],
        apply: reduce_nothing,
    },
    Rule {
        name: "round-integer",
        about: "floor, ceil, round, trunc of integers => x",
        licence: Exact,
        roots: &["floor", "ceil", "round", "trunc"],
        apply: round_integer,
    },
    Rule {
        name: "cast-narrower",
        about: "floats: a cast to a narrower type and then to a still narrower one => the last",
        licence: Relaxed,
        roots: &["cast"],
        apply: cast_narrower,
    },
];

/// `x`, expanded to the shape of `like`.
pub fn shaped_like(site: &mut Site, x: Value, like: Value) -> Better {
    let shape = site.graph.ty(like).shape.clone();
    if site.graph.ty(x).shape == shape {
        return Ok(Some(x));
    }
    site.add(Op::Expand { shape, x }).map(Some)
}

/// A scalar constant of the dtype of `like`.
pub fn scalar_like(site: &mut Site, like: Value, value: f64) -> Value {
    let dtype = site.graph.ty(like).dtype;
    site.graph.add_constant(Tensor::scalar(dtype, Scalar::of(dtype, value)))
}

fn is(site: &Site, value: Value, wanted: f64) -> bool {
    uniform(site.graph, value).is_some_and(|it| it.as_f64() == wanted)
}

fn neutral(site: &mut Site, value: Value) -> Better {
    let Op::Binary(op, a, b) = *site.graph.op(value) else { return Ok(None) };
    let integer = site.graph.ty(a).dtype.is_int();
    let kept = match op {
        Mul if is(site, b, 1.0) => a,
        Mul if is(site, a, 1.0) => b,
        Div | Pow if is(site, b, 1.0) => a,
        // x - -0 would turn -0 into 0.
        Sub if uniform(site.graph, b).is_some_and(|it| match it {
            Scalar::Float(it) => it.to_bits() == 0,
            Scalar::Int(it) => it == 0,
        }) =>
        {
            a
        }
        Add if integer && is(site, b, 0.0) => a,
        Add if integer && is(site, a, 0.0) => b,
        _ => return Ok(None),
    };
    shaped_like(site, kept, value)
}

fn add_zero(site: &mut Site, value: Value) -> Better {
    let kept = match *site.graph.op(value) {
        Op::Binary(Add | Sub, a, b) if is(site, b, 0.0) => a,
        Op::Binary(Add, a, b) if is(site, a, 0.0) => b,
        _ => return Ok(None),
    };
    shaped_like(site, kept, value)
}

fn logic(site: &mut Site, value: Value) -> Better {
    let Op::Binary(op @ (And | Or | Xor), a, b) = *site.graph.op(value) else { return Ok(None) };
    if site.graph.ty(a).dtype != DType::Bool {
        return Ok(None);
    }
    for (x, constant) in [(a, b), (b, a)] {
        let Some(truth) = uniform(site.graph, constant).map(Scalar::as_bool) else { continue };
        let kept = match (op, truth) {
            (And, true) | (Or, false) | (Xor, false) => x,
            (And, false) | (Or, true) => constant,
            _ => continue,
        };
        return shaped_like(site, kept, value);
    }
    Ok(None)
}

fn same_operands(site: &mut Site, value: Value) -> Better {
    match *site.graph.op(value) {
        Op::Binary(And | Or | Max | Min, a, b) if a == b => Ok(Some(a)),
        _ => Ok(None),
    }
}

fn twice(site: &mut Site, value: Value) -> Better {
    let Op::Unary(op, x) = *site.graph.op(value) else { return Ok(None) };
    match (op, site.graph.op(x)) {
        (UnaryOp::Neg, Op::Unary(UnaryOp::Neg, x)) | (UnaryOp::Not, Op::Unary(UnaryOp::Not, x)) => {
            Ok(Some(*x))
        }
        (
            UnaryOp::Abs
            | UnaryOp::Relu
            | UnaryOp::Sign
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Round
            | UnaryOp::Trunc,
            Op::Unary(inner, _),
        ) if *inner == op => Ok(Some(x)),
        (UnaryOp::Not, &Op::Binary(Eq, a, b)) => site.add(Op::Binary(Ne, a, b)).map(Some),
        (UnaryOp::Not, &Op::Binary(Ne, a, b)) => site.add(Op::Binary(Eq, a, b)).map(Some),
        _ => Ok(None),
    }
}

fn select(site: &mut Site, value: Value) -> Better {
    let Op::Select { cond, yes, no } = *site.graph.op(value) else { return Ok(None) };
    let kept = match uniform(site.graph, cond) {
        Some(it) if it.as_bool() => yes,
        Some(_) => no,
        None if yes == no => yes,
        None => return Ok(None),
    };
    shaped_like(site, kept, value)
}

fn cast_same(site: &mut Site, value: Value) -> Better {
    match *site.graph.op(value) {
        Op::Cast { to, x } if site.graph.ty(x).dtype == to => Ok(Some(x)),
        _ => Ok(None),
    }
}

fn cast_cast(site: &mut Site, value: Value) -> Better {
    let Op::Cast { to, x: middle } = *site.graph.op(value) else { return Ok(None) };
    let Op::Cast { to: through, x } = *site.graph.op(middle) else { return Ok(None) };
    let from = site.graph.ty(x).dtype;
    // Integers wrap where floats are cut: through a float, the last step may only be one that does neither.
    let same_way =
        !through.is_float() || from.is_float() || to.is_float() || holds(to, from) || to == DType::Bool;
    if !holds(through, from) || !same_way {
        return Ok(None);
    }
    site.add(Op::Cast { to, x }).map(Some)
}

/// Whether every value of `narrow` is a value of `wide`.
fn holds(wide: DType, narrow: DType) -> bool {
    let bits = |it: DType| it.bits() as u32;
    // Significant bits of a float, or of an integer without its sign.
    let digits = |it: DType| match it {
        DType::Bool => 1,
        DType::F16 => 11,
        DType::BF16 => 8,
        DType::F32 => 24,
        DType::F64 => 53,
        DType::F8E8M0 => 0,
        it if it.is_float() => Format::of(it).map_or(0, |it| it.mantissa + 1),
        it if it.class() == Class::Signed => bits(it) - 1,
        it => bits(it),
    };
    match (wide.class(), narrow.class()) {
        _ if wide == narrow => true,
        (Class::Bool, _) => false,
        (_, Class::Bool) => true,
        (Class::Signed, Class::Signed | Class::Unsigned) | (Class::Unsigned, Class::Unsigned) => {
            digits(wide) >= digits(narrow)
        }
        (Class::Unsigned, Class::Signed) | (Class::Signed | Class::Unsigned, Class::Float) => false,
        (Class::Float, Class::Signed | Class::Unsigned) => digits(wide) >= digits(narrow),
        (Class::Float, Class::Float) => {
            // Casts to a small float make an infinity a number.
            let whole = narrow != DType::F8E5M2;
            wide == DType::F64 && whole || wide == DType::F32 && narrow.is_narrow_float() && whole
        }
    }
}

fn one_over(site: &mut Site, value: Value) -> Better {
    let Some((one, x)) = binary(site.graph, value, Div) else { return Ok(None) };
    if number(site.graph, one) != Some(1.0) {
        return Ok(None);
    }
    let reciprocal = site.add(Op::Unary(UnaryOp::Recip, x))?;
    shaped_like(site, reciprocal, value)
}

fn div_power_of_two(site: &mut Site, value: Value) -> Better {
    div_by(site, value, |by| by.to_bits() & ((1 << 52) - 1) == 0 && by.abs() < 1e4 && by.abs() > 1e-4)
}

fn div_constant(site: &mut Site, value: Value) -> Better {
    div_by(site, value, |by| by.abs() < 1e4 && by.abs() > 1e-4)
}

fn div_by(site: &mut Site, value: Value, suits: fn(f64) -> bool) -> Better {
    let Some((x, by)) = binary(site.graph, value, Div) else { return Ok(None) };
    let Some(c) = number(site.graph, by).filter(|&it| suits(it)) else { return Ok(None) };
    let by = scalar_like(site, x, 1.0 / c);
    let product = site.add(Op::Binary(Mul, x, by))?;
    shaped_like(site, product, value)
}

fn pow(site: &mut Site, value: Value) -> Better {
    let Some((x, power)) = binary(site.graph, value, Pow) else { return Ok(None) };
    let Some(power) = number(site.graph, power) else { return Ok(None) };
    let unary = |site: &mut Site, op| site.add(Op::Unary(op, x));
    let result = if power == 2.0 {
        site.add(Op::Binary(Mul, x, x))?
    } else if power == 3.0 {
        let square = site.add(Op::Binary(Mul, x, x))?;
        site.add(Op::Binary(Mul, square, x))?
    } else if power == 0.5 {
        unary(site, UnaryOp::Sqrt)?
    } else if power == -0.5 {
        unary(site, UnaryOp::Rsqrt)?
    } else if power == -1.0 {
        unary(site, UnaryOp::Recip)?
    } else {
        return Ok(None);
    };
    shaped_like(site, result, value)
}

fn rsqrt(site: &mut Site, value: Value) -> Better {
    let of = |site: &mut Site, x: Value| -> Result<Value, Error> { site.add(Op::Unary(UnaryOp::Rsqrt, x)) };
    match *site.graph.op(value) {
        Op::Unary(UnaryOp::Recip, x) => match unary(site.graph, x, UnaryOp::Sqrt) {
            Some(x) => of(site, x).map(Some),
            None => Ok(None),
        },
        Op::Unary(UnaryOp::Sqrt, x) => match unary(site.graph, x, UnaryOp::Recip) {
            Some(x) => of(site, x).map(Some),
            None => Ok(None),
        },
        Op::Binary(Div, x, by) => match unary(site.graph, by, UnaryOp::Sqrt) {
            Some(by) => {
                let by = of(site, by)?;
                site.add(Op::Binary(Mul, x, by)).map(Some)
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

fn relu(site: &mut Site, value: Value) -> Better {
    let Some((a, b)) = binary(site.graph, value, BinaryOp::Max) else { return Ok(None) };
    if site.graph.ty(a).dtype == DType::Bool {
        return Ok(None);
    }
    let kept = match () {
        _ if is(site, b, 0.0) => a,
        _ if is(site, a, 0.0) => b,
        _ => return Ok(None),
    };
    let result = site.add(Op::Unary(UnaryOp::Relu, kept))?;
    shaped_like(site, result, value)
}

fn mean(site: &mut Site, value: Value) -> Better {
    let Some((sum, by)) = scaled(site.graph, value) else { return Ok(None) };
    let Op::Reduce { op: ReduceOp::Sum, ref axes, keep, x } = *site.graph.op(sum) else { return Ok(None) };
    let ty = site.graph.ty(x);
    let count: usize = axes.iter().map(|&axis| ty.shape[axis]).product();
    let exact = Scalar::of(ty.dtype, 1.0 / count as f64).as_f64();
    if count == 0 || (by * count as f64 - 1.0).abs() > 1e-6 && by != exact {
        return Ok(None);
    }
    let axes = axes.clone();
    site.add(Op::Mean { axes, keep, x }).map(Some)
}

fn reduce_nothing(site: &mut Site, value: Value) -> Better {
    let (axes, x) = match site.graph.op(value) {
        Op::Reduce { axes, x, .. } | Op::Mean { axes, x, .. } => (axes, *x),
        _ => return Ok(None),
    };
    if axes.iter().any(|&axis| site.graph.ty(x).shape[axis] != 1) {
        return Ok(None);
    }
    let shape = site.graph.ty(value).shape.clone();
    site.add(Op::Reshape { shape, x }).map(Some)
}

fn round_integer(site: &mut Site, value: Value) -> Better {
    let Op::Unary(_, x) = *site.graph.op(value) else { return Ok(None) };
    Ok(Some(x).filter(|_| site.graph.ty(x).dtype.is_int()))
}

fn cast_narrower(site: &mut Site, value: Value) -> Better {
    let Op::Cast { to, x: middle } = *site.graph.op(value) else { return Ok(None) };
    let Op::Cast { to: through, x } = *site.graph.op(middle) else { return Ok(None) };
    let from = site.graph.ty(x).dtype;
    let floats = [from, through, to].iter().all(|it| it.is_float());
    if !floats || from.size() <= through.size() || !holds(through, to) || through == to {
        return Ok(None);
    }
    site.add(Op::Cast { to, x }).map(Some)
}
