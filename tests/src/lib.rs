//! What the tests of this workspace share: random inputs, comparison, models, devices.

pub mod bounded;
pub mod compare;
pub mod device;
pub mod folder;
pub mod gpu;
pub mod host;
pub mod kernel_case;
pub mod known;
pub mod listener;
pub mod mutant;
pub mod random;
pub mod random_graph;
pub mod seed_models;
pub mod spent;
pub mod stages;
pub mod zoo;
