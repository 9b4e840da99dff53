//! What the text forms of all stages share: `Text`, which prints and parses one value, and `spelled!`, which makes it for a
//! record or an enum from one table.
//!
//! What is printed parses to an equal value. A parser takes any text: it gives a value or an error with line and column.

mod cursor;

use std::{
    fmt::{self, Formatter, Write},
    sync::Arc,
};

use smallvec::SmallVec;

pub use cursor::{Cursor, Mark, Parsed};

use crate::{
    dtype::DType,
    scalar::{ReduceOp, Scalar},
    shape::{Shape, Type},
    small_float,
};

/// A value with a text form.
pub trait Text {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result;

    fn parse(from: &mut Cursor<'_>) -> Parsed<Self>
    where
        Self: Sized;
}

/// Prints like its text form.
pub struct Show<'a>(pub &'a dyn Text);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.print(f)
    }
}

/// `Text` for records and enums, from a table of words and fields: `word(field=value, field=value)`. A record has no word. A
/// variant or field that is not in the table stops the build.
macro_rules! spelled {
    (struct $name:ident { $($field:ident),+ }) => {
        impl $crate::text::Text for $name {
            fn print(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let $name { $($field),+ } = self;
                $crate::text::print_fields(f, &[$((stringify!($field), $field)),+])
            }

            fn parse(from: &mut $crate::text::Cursor<'_>) -> $crate::text::Parsed<$name> {
                let mut fields = $crate::text::Fields::of(from);
                $(let $field = fields.field(stringify!($field))?;)+
                fields.end()?;
                Ok($name { $($field),+ })
            }
        }
    };
    (enum $name:ident { $($variant:ident $word:literal $(($($part:ident),+))? $({$($field:ident),+})?;)+ }) => {
        impl $crate::text::Text for $name {
            fn print(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $($name::$variant $(($($part),+))? $({$($field),+})? => {
                        f.write_str($word)?;
                        $crate::text::print_fields(f, &[
                            $($((stringify!($part), $part)),+)? $($((stringify!($field), $field)),+)?
                        ])
                    })+
                }
            }

            fn parse(from: &mut $crate::text::Cursor<'_>) -> $crate::text::Parsed<$name> {
                match from.name()? {
                    $($word => {
                        #[allow(unused_mut, reason = "a variant without fields")]
                        let mut fields = $crate::text::Fields::of(from);
                        $($(let $part = fields.field(stringify!($part))?;)+)?
                        $($(let $field = fields.field(stringify!($field))?;)+)?
                        fields.end()?;
                        Ok($name::$variant $(($($part),+))? $({$($field),+})?)
                    })+
                    word => Err(format!(concat!("'{}' is none of", $(" ", $word),+), word)),
                }
            }
        }
    };
}
pub(crate) use spelled;

/// `(name=value, name=value)`, or nothing.
pub fn print_fields(f: &mut Formatter<'_>, fields: &[(&str, &dyn Text)]) -> fmt::Result {
    for (at, (name, value)) in fields.iter().enumerate() {
        write!(f, "{}{name}={}", if at == 0 { "(" } else { ", " }, Show(*value))?;
    }
    if fields.is_empty() { Ok(()) } else { f.write_str(")") }
}

/// Fields being parsed, in the order in which they are printed.
pub struct Fields<'c, 'a> {
    from: &'c mut Cursor<'a>,
    open: bool,
}

impl<'c, 'a> Fields<'c, 'a> {
    pub fn of(from: &'c mut Cursor<'a>) -> Fields<'c, 'a> {
        Fields { from, open: false }
    }

    pub fn field<T: Text>(&mut self, name: &str) -> Parsed<T> {
        self.from.expect(if self.open { "," } else { "(" })?;
        self.open = true;
        self.from.expect(name)?;
        self.from.expect("=")?;
        T::parse(self.from)
    }

    pub fn end(self) -> Parsed<()> {
        if self.open { self.from.expect(")") } else { Ok(()) }
    }
}

/// `[a, b]`
pub fn print_list<'a, T: Text + 'a>(
    f: &mut Formatter<'_>,
    items: impl IntoIterator<Item = &'a T>,
) -> fmt::Result {
    f.write_char('[')?;
    for (at, item) in items.into_iter().enumerate() {
        f.write_str(if at > 0 { ", " } else { "" })?;
        item.print(f)?;
    }
    f.write_char(']')
}

/// A list whose items `item` parses.
pub fn parse_list<'a, T, C: FromIterator<T>>(
    from: &mut Cursor<'a>,
    mut item: impl FnMut(&mut Cursor<'a>) -> Parsed<T>,
) -> Parsed<C> {
    from.expect("[")?;
    let mut items = Vec::new();
    while !from.take("]") {
        if !items.is_empty() {
            from.expect(",")?;
        }
        items.push(item(from)?);
    }
    Ok(items.into_iter().collect())
}

/// An element of a tensor or a constant of type `dtype`: the shortest digits that are read back as this value, a NaN other
/// than the usual one as the bits of an f64, `0x..`.
pub fn print_scalar(f: &mut dyn Write, dtype: DType, value: Scalar) -> fmt::Result {
    match (dtype, value) {
        (_, Scalar::Float(it)) if it.is_nan() => match Scalar::Float(f64::NAN) == value {
            true => f.write_str("nan"),
            false => write!(f, "0x{:x}", it.to_bits()),
        },
        (DType::F64, Scalar::Float(it)) => write!(f, "{it:?}"),
        (_, Scalar::Float(it)) => write!(f, "{:?}", it as f32),
        (DType::U64, Scalar::Int(it)) => write!(f, "{}", it as u64),
        (_, Scalar::Int(it)) => write!(f, "{it}"),
    }
}

pub fn parse_scalar(dtype: DType, text: &str) -> Parsed<Scalar> {
    let wrong = || format!("'{text}' is no {dtype}");
    if dtype.is_float() {
        let value = match (text.strip_prefix("0x"), dtype) {
            (Some(bits), _) => f64::from_bits(u64::from_str_radix(bits, 16).map_err(|_| wrong())?),
            (None, DType::F64) => text.parse().map_err(|_| wrong())?,
            (None, _) => text.parse::<f32>().map_err(|_| wrong())? as f64,
        };
        // A cast would make an infinity of a small float a number.
        let small = dtype.is_narrow_float() && dtype.size() == 1;
        return Ok(match small {
            true => Scalar::Float(small_float::value(dtype, small_float::bits(dtype, value))),
            false => Scalar::of(dtype, value),
        });
    }
    let value: i128 = text.parse().map_err(|_| wrong())?;
    let (low, high) = match dtype {
        DType::U64 => (0, u64::MAX as i128),
        _ => {
            let (low, high) = crate::scalar::int_range(dtype);
            (low as i128, high as i128)
        }
    };
    if (low..=high).contains(&value) { Ok(Scalar::Int(value as i64)) } else { Err(wrong()) }
}

macro_rules! numbers {
    ($($name:ident)+) => {$(
        impl Text for $name {
            fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }

            fn parse(from: &mut Cursor<'_>) -> Parsed<$name> {
                from.number()
            }
        }
    )+};
}

numbers! { u32 u64 usize i32 }

/// A key: 32 hexadecimal digits.
impl Text for u128 {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:032x}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<u128> {
        let word = from.name()?;
        u128::from_str_radix(word, 16).map_err(|_| format!("'{word}' is no hexadecimal number in range"))
    }
}

impl Text for f64 {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_scalar(f, DType::F64, Scalar::Float(*self))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<f64> {
        parse_scalar(DType::F64, from.item()).map(Scalar::as_f64)
    }
}

impl Text for bool {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<bool> {
        let word = from.name()?;
        word.parse().map_err(|_| format!("'{word}' is not true or false"))
    }
}

impl Text for String {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<String> {
        from.string()
    }
}

impl Text for Arc<str> {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Arc<str>> {
        from.string().map(Arc::from)
    }
}

/// `_` stands for nothing.
impl<T: Text> Text for Option<T> {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Some(it) => it.print(f),
            None => f.write_char('_'),
        }
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Option<T>> {
        if from.take("_") { Ok(None) } else { T::parse(from).map(Some) }
    }
}

impl<T: Text> Text for Vec<T> {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_list(f, self)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Vec<T>> {
        parse_list(from, T::parse)
    }
}

impl<A: smallvec::Array> Text for SmallVec<A>
where
    A::Item: Text,
{
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_list(f, self)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<SmallVec<A>> {
        parse_list(from, A::Item::parse)
    }
}

impl<T: Text, const N: usize> Text for [T; N] {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_list(f, self)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<[T; N]> {
        let place = from.mark();
        let items: Vec<T> = parse_list(from, T::parse)?;
        from.blame(place);
        items.try_into().map_err(|it: Vec<T>| format!("{} numbers, not {N}", it.len()))
    }
}

/// `[a, b]`
impl<A: Text, B: Text> Text for (A, B) {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", Show(&self.0), Show(&self.1))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<(A, B)> {
        from.expect("[")?;
        let first = A::parse(from)?;
        from.expect(",")?;
        let pair = (first, B::parse(from)?);
        from.expect("]")?;
        Ok(pair)
    }
}

impl Text for DType {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<DType> {
        let name = from.name()?;
        DType::parse(name).ok_or_else(|| format!("'{name}' is no dtype"))
    }
}

/// Its strides, in elements of at most 8 bytes, can be computed, and so can the bytes of every tensor of this shape.
impl Text for Shape {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Shape> {
        let place = from.mark();
        let shape: Shape = parse_list(from, usize::parse)?;
        let bytes = shape.iter().try_fold(8usize, |bytes, &dim| bytes.checked_mul(dim.max(1)));
        if bytes.is_none_or(|it| isize::try_from(it).is_err()) {
            from.blame(place);
            return Err(format!("{shape} is larger than memory can be"));
        }
        Ok(shape)
    }
}

impl Text for Type {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Type> {
        Ok(Type { dtype: Text::parse(from)?, shape: Text::parse(from)? })
    }
}

impl Text for ReduceOp {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<ReduceOp> {
        let name = from.name()?;
        ReduceOp::parse(name).ok_or_else(|| format!("'{name}' is no reduction"))
    }
}
