//! Values as functions of the host take and give them.

use crate::tensor::Tensor;

/// A value of a model.
#[derive(Clone, PartialEq, Debug)]
pub enum Datum {
    Tensor(Tensor),
    Sequence(Vec<Datum>),
    Optional(Option<Box<Datum>>),
}
