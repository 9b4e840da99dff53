//! Numbers as strings and strings as numbers.
//!
//! Numbers are written without exponents, in the fewest digits that mean them, floats with a point; `NaN`, `INF` and `-INF` in the standard's
//! words, bools as `True` and `False`. What is read may have an exponent. An integer may be written as a float, which is cut towards zero.

use super::{node::Node, tensor, text::Making};
use crate::{
    dtype::DType,
    error::Error,
    import::{host::Datum, strings::Strings},
    scalar::{Scalar, int_range},
    shape::Type,
    tensor::Tensor,
};

/// Whether a cast is from strings or to them.
pub fn is_of_strings(n: &Node) -> bool {
    let to = matches!(n.opt_int("to"), Ok(Some(code)) if code == i64::from(tensor::STRING));
    to || n.is_strings(0) || (n.op == "CastLike" && n.is_strings(1))
}

pub fn cast(n: &Node, given: &[Option<Datum>]) -> Result<Vec<Datum>, Error> {
    let to = match n.op {
        "CastLike" => match given.get(1) {
            Some(Some(Datum::Strings(_))) => None,
            Some(Some(Datum::Tensor(it))) => Some(it.dtype()),
            _ => return Err(n.error("operand 1 is no tensor")),
        },
        _ => match n.int("to", 0)? {
            code if code == i64::from(tensor::STRING) => None,
            code => {
                let to = tensor::dtype(i32::try_from(code).unwrap_or(-1));
                Some(to.map_err(|what| n.unsupported(format!("the result {what}")))?)
            }
        },
    };
    Ok(vec![match (given.first(), to) {
        (Some(Some(Datum::Strings(x))), None) => Datum::Strings(x.clone()),
        (Some(Some(Datum::Strings(x))), Some(to)) => Datum::Tensor(read(n, x, to)?),
        (Some(Some(Datum::Tensor(x))), None) => written(n, x)?,
        _ => return Err(n.error("operand 0 is no tensor")),
    }])
}

fn written(n: &Node, x: &Tensor) -> Result<Datum, Error> {
    let mut made = Making::new(n, Some(x.shape().count()))?;
    for value in x.scalars() {
        made.push(&[&spelled(x.dtype(), value)])?;
    }
    made.finish(x.shape().clone())
}

fn spelled(dtype: DType, value: Scalar) -> String {
    match (dtype, value) {
        (DType::Bool, it) => if it.as_bool() { "True" } else { "False" }.into(),
        (DType::U64, it) => (it.as_i64() as u64).to_string(),
        (_, Scalar::Int(it)) => it.to_string(),
        (_, Scalar::Float(it)) if it.is_nan() => "NaN".into(),
        (_, Scalar::Float(it)) if it.is_infinite() => if it > 0.0 { "INF" } else { "-INF" }.into(),
        (_, Scalar::Float(it)) => {
            // As many digits as tell it from its neighbours of the type.
            let digits = (0..17).map(|count| format!("{it:.count$e}"));
            let mut short = digits.filter_map(|it| it.parse::<f64>().ok());
            let short = short.find(|short| Scalar::of(dtype, *short) == value).unwrap_or(it);
            let text = short.to_string();
            if text.contains('.') { text } else { text + ".0" }
        }
    }
}

fn read(n: &Node, x: &Strings, to: DType) -> Result<Tensor, Error> {
    let mut all = Vec::with_capacity(x.values().len());
    for text in x.values() {
        let value = number(text, to);
        all.push(value.ok_or_else(|| n.error(format!("'{text}' is no number of type {to}")))?);
    }
    Ok(Tensor::from_scalars(Type { dtype: to, shape: x.shape().clone() }, all))
}

fn number(text: &str, to: DType) -> Option<Scalar> {
    let text = text.trim_matches(|it: char| it.is_ascii_whitespace());
    if to.is_float() {
        return match to {
            DType::F32 => text.parse::<f32>().ok().map(|it| Scalar::Float(f64::from(it))),
            _ => text.parse::<f64>().ok().map(|it| Scalar::of(to, it)),
        };
    }
    if to == DType::Bool {
        return match text {
            _ if text.eq_ignore_ascii_case("true") => Some(Scalar::Int(1)),
            _ if text.eq_ignore_ascii_case("false") => Some(Scalar::Int(0)),
            _ => text.parse::<f64>().ok().map(|it| Scalar::Int((it != 0.0) as i64)),
        };
    }
    let whole = match text.parse::<i128>() {
        Ok(it) => it,
        Err(_) => {
            let real = text.parse::<f64>().ok().filter(|it| it.abs() < 2f64.powi(100))?;
            real as i128
        }
    };
    let (least, most) = match to {
        DType::U64 => (0, i128::from(u64::MAX)),
        _ => {
            let (least, most) = int_range(to);
            (i128::from(least), i128::from(most))
        }
    };
    (least..=most).contains(&whole).then_some(Scalar::Int(whole as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_in_the_fewest_digits() {
        let float = |dtype, it: f64| spelled(dtype, Scalar::of(dtype, it));
        assert_eq!(float(DType::F32, 0.1), "0.1");
        assert_eq!(float(DType::F16, 0.1), "0.1");
        assert_eq!(float(DType::BF16, 3.140625), "3.14");
        assert_eq!(float(DType::F64, 0.1 + 0.2), "0.30000000000000004");
        assert_eq!(float(DType::F64, 314.15926), "314.15926");
        assert_eq!(float(DType::F32, 314.15926), "314.15927");
        assert_eq!(float(DType::F32, 1.0), "1.0");
        assert_eq!(float(DType::F32, -0.0), "-0.0");
        assert_eq!(float(DType::F64, 1e20), "100000000000000000000.0");
        assert_eq!(float(DType::F64, 1e-7), "0.0000001");
        assert_eq!(float(DType::F32, f64::NAN), "NaN");
        assert_eq!(float(DType::F64, f64::NEG_INFINITY), "-INF");
        assert_eq!(spelled(DType::U64, Scalar::Int(-1)), "18446744073709551615");
        assert_eq!(spelled(DType::I8, Scalar::Int(-128)), "-128");
        assert_eq!(spelled(DType::Bool, Scalar::Int(1)), "True");
    }

    #[test]
    fn every_float_comes_back() {
        let mut state = 7u64;
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64, DType::F8E4M3] {
            for _ in 0..500 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let value = Scalar::of(dtype, f64::from_bits(state));
                let text = spelled(dtype, value);
                let same = number(&text, dtype)
                    .is_some_and(|it| it == value || (it.as_f64().is_nan() && value.as_f64().is_nan()));
                assert!(same, "{dtype} {value:?} {text}");
            }
        }
    }

    #[test]
    fn strings_are_read_as_the_standard_says() {
        let float = |it: &str| number(it, DType::F32).map(Scalar::as_f64);
        assert_eq!(float("1e-5"), Some(f64::from(1e-5f32)));
        assert_eq!(float("1E8"), Some(1e8));
        assert_eq!(float(" 3.5\n"), Some(3.5));
        assert_eq!(float("+inf"), Some(f64::INFINITY));
        assert_eq!(float("-INF"), Some(f64::NEG_INFINITY));
        assert!(float("nAn").is_some_and(f64::is_nan));
        assert_eq!(float("1e99"), Some(f64::INFINITY));
        assert_eq!(float("Hello World!"), None);
        assert_eq!(float(""), None);
        let whole = |it: &str, to| number(it, to).map(Scalar::as_i64);
        assert_eq!(whole("100.5", DType::I32), Some(100));
        assert_eq!(whole("-1", DType::I8), Some(-1));
        assert_eq!(whole("300", DType::U8), None);
        assert_eq!(whole("9223372036854775807", DType::I64), Some(i64::MAX));
        assert_eq!(whole("18446744073709551615", DType::U64), Some(-1));
        assert_eq!(whole("NaN", DType::I64), None);
        assert_eq!(whole("inf", DType::I64), None);
        assert_eq!(whole("True", DType::Bool), Some(1));
        assert_eq!(whole("0.0", DType::Bool), Some(0));
    }
}
