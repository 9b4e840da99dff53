//! Loops to schedule: fusion, tiles, order.

pub mod kernel;

pub use kernel::{
    AttentionTile, Kernel, Refusal, RowForm, Schedule, Skeleton, Stage, Store, Tile, Vars, Why,
};

use crate::{lower::Loops, options::Options, target::Target};

pub fn schedule(_loops: Loops, _target: &Target, _options: &Options) -> Schedule {
    todo!()
}
