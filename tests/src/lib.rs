//! What the tests of this workspace share: random inputs, comparison, models, a device to run kernels on.

pub mod compare;
pub mod gpu;
pub mod host;
pub mod kernel_case;
pub mod random;
pub mod random_graph;
pub mod zoo;
