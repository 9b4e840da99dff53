//! Sizes of tensors. Inside the compiler every size is a number; symbols exist only in a model's signature.

use std::{fmt, ops::Deref};

use smallvec::SmallVec;

use crate::dtype::DType;

/// Extents, outermost first. A scalar has none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Shape(pub SmallVec<[usize; 4]>);

/// Axis numbers, in the order in which they apply.
pub type Axes = SmallVec<[usize; 4]>;

/// Element type and extents of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    pub dtype: DType,
    pub shape: Shape,
}

/// One extent in a model's signature.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    Fixed(usize),
    /// The same name means the same number everywhere in the signature.
    Symbol(String),
    /// Anything; not tied to another dim.
    Unknown,
}

/// A named tensor of a model's signature.
#[derive(Clone, PartialEq, Debug)]
pub struct Signature {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<Dim>,
}

/// What a value of a model's signature consists of: the signature is that of its tensors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    Tensor,
    /// A tensor of strings.
    Strings,
    Sequence(Box<Form>),
    Optional(Box<Form>),
}

impl Form {
    /// What a value of this form and this signature is, in words.
    pub fn of(&self, signature: &Signature) -> String {
        match self {
            Form::Tensor => signature.to_string(),
            Form::Strings => {
                let dims: Vec<String> = signature.dims.iter().map(Dim::to_string).collect();
                format!("string[{}]", dims.join(","))
            }
            Form::Sequence(of) => format!("sequence of {}", of.of(signature)),
            Form::Optional(of) => format!("optional {}", of.of(signature)),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Tensor => f.write_str("tensor"),
            Form::Strings => f.write_str("tensor of strings"),
            Form::Sequence(of) => write!(f, "sequence of {of}"),
            Form::Optional(of) => write!(f, "optional {of}"),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (axis, dim) in self.dims.iter().enumerate() {
            if axis > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl Shape {
    pub fn new(dims: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(dims))
    }

    pub fn scalar() -> Shape {
        Shape::default()
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; `None` where it does not fit `usize`.
    pub fn checked_count(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
    }

    /// Number of elements. Every shape of a verified graph is small enough for it.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }

    /// Row-major distance, in elements, between neighbours along each axis.
    pub fn strides(&self) -> SmallVec<[usize; 4]> {
        let mut strides: SmallVec<[usize; 4]> = SmallVec::from_elem(1, self.rank());
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis] * self.0[axis];
        }
        strides
    }

    /// The common shape of two operands under NumPy's rules, or `None`.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |shape: &Shape, axis: usize| match (axis + shape.rank()).checked_sub(rank) {
            Some(own) => shape.0[own],
            None => 1,
        };
        (0..rank)
            .map(|axis| match (at(self, axis), at(other, axis)) {
                (a, b) if a == b => Some(a),
                (1, b) => Some(b),
                (a, 1) => Some(a),
                _ => None,
            })
            .collect::<Option<SmallVec<_>>>()
            .map(Shape)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Shape {
        Shape(dims.into_iter().collect())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl Type {
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Type {
        Type { dtype, shape: shape.into() }
    }

    /// Bytes on the host, row-major and dense.
    pub fn bytes(&self) -> usize {
        self.shape.count() * self.dtype.size()
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.0.iter().enumerate() {
            if axis > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}
