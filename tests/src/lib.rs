//! What the tests of this workspace share: random inputs, comparison, models.

pub mod compare;
pub mod host;
pub mod random;
pub mod random_graph;
pub mod zoo;
