//! What the tests of this workspace share: random inputs, comparison, models, devices.

pub mod compare;
pub mod device;
pub mod folder;
pub mod gpu;
pub mod host;
pub mod kernel_case;
pub mod known;
pub mod listener;
pub mod random;
pub mod random_graph;
pub mod stages;
pub mod zoo;
