//! Loops to schedule: which nests are one kernel, how each kernel runs, in which order.
//!
//! In: `Loops`, one nest a node. Out: `Schedule`, in which every nest that anything needs is computed by exactly one
//! kernel (cheap ones by each that reads them), and writers stand before readers. Every decision is taken here.

mod attention;
pub mod attention_coop;
mod attention_row;
mod beside;
mod build;
pub mod choice;
pub mod cooperative;
mod cost;
mod flow;
pub mod eval;
mod expand;
mod few;
mod fuse;
mod group;
pub mod in_place;
mod inline;
mod joined;
pub mod kernel;
pub mod lanes;
mod layout;
mod matmul;
mod order;
mod padded;
pub mod product;
mod scaled;
mod splice;
mod split;
mod split_attention;
mod split_product;
mod replaced;
mod unwritten;
mod written_out;
mod state;
pub mod text;
mod tile;
pub mod verify;

pub use choice::{Choice, Choices, Class};
pub use kernel::{
    AttentionTile, CooperativeAttention, Few, Kept, Kernel, LastKey, PlainAttention, Refusal, RowAttention,
    RowForm, Schedule, Skeleton, Stage, Store, Team, Tile, Vars, Why,
};
pub use lanes::Lanes;
pub use replaced::{Replaced, replaced};

use crate::{lower::Loops, options::Options, target::Target};

pub fn schedule(loops: Loops, target: &Target, options: &Options) -> Schedule {
    schedule_as(loops, target, options, &Choices::default())
}

/// As `schedule`, with tiles that were measured in place of those that tables give.
pub fn schedule_as(loops: Loops, target: &Target, options: &Options, choices: &Choices) -> Schedule {
    let loops = written_out::written_out(layout::laid_out(padded::padded(loops, target)));
    let target = &Target { pairs: target.pairs && options.pairs, ..target.clone() };
    let fused = fuse::fuse(&loops, target, options);
    let kernels = build::kernels(&loops, &fused, target);
    let Loops { mut tensors, mut outputs, states, .. } = loops;
    let kernels = split::split(kernels, &mut tensors, target);
    let kernels = split_attention::split(kernels, &mut tensors, target);
    let mut refusals = fused.refusals;
    let mut kernels = split_product::split(kernels, &mut tensors, &outputs, &mut refusals, target);
    let states = state::settle(&mut kernels, &mut tensors, &mut outputs, &states, target, &mut refusals);
    if options.fuse {
        kernels = beside::merge(kernels, &tensors, &outputs, &states, target);
    }
    let mut kernels = order::ordered(kernels, &tensors, &outputs, &states);
    choice::apply(&mut kernels, choices, &tensors, target);
    let schedule = Schedule { tensors, kernels, outputs, states, refusals };
    if cfg!(debug_assertions) {
        let faults = verify::verify(&schedule, target);
        assert!(faults.is_empty(), "after scheduling: {faults:#?}\n{schedule}");
    }
    schedule
}
