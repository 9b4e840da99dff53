//! Values as functions of the host take and give them.

use super::strings::Strings;
use crate::tensor::Tensor;

/// A value of a model.
#[derive(Clone, PartialEq, Debug)]
pub enum Datum {
    Tensor(Tensor),
    Strings(Strings),
    Sequence(Vec<Datum>),
    Optional(Option<Box<Datum>>),
}
