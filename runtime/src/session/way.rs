//! The stretches of a model that a session has run so far.
//!
//! In: a session. Out: its stretches in the order in which a run comes to them, the bodies of a loop after the stretch that ends at
//! the loop. Nothing is compiled for it.

use std::sync::{Arc, Mutex};

use wgfuse_compiler::{import::stretch::Stop, plan::Plan};

use super::{
    Session,
    stretches::{Branches, Node},
};

/// A part of a model that was compiled by itself, because how the model goes on follows from values.
#[derive(Clone, Debug)]
pub struct StretchRun {
    /// In how many loops it is.
    pub depth: usize,
    /// `None` where nothing had to be computed.
    pub plan: Option<Arc<Plan>>,
    /// The nodes that it ended at; none at the end of the model, or of a loop's turn.
    pub ends: Vec<StretchEnd>,
}

/// Why a stretch ended.
#[derive(Clone, Debug)]
pub struct StretchEnd {
    pub node: String,
    pub why: Stop,
    /// What the host read there, or 0 where it has that size only when it runs.
    pub bytes: u64,
}

impl Session {
    /// The stretches that runs have come to and that are still kept. There are none of a model that is one graph.
    pub fn stretches(&self) -> Vec<StretchRun> {
        let mut all = Vec::new();
        let entries = self.shapes.lock().expect("nothing panics inside").clone();
        entries.iter().filter_map(|it| it.stretches.get()).for_each(|it| walk(it, 0, &mut all));
        follow(&self.begun, 0, &mut all);
        all
    }

    /// The plan of a session whose model has one.
    pub(super) fn one_plan(&self) -> Option<Arc<Plan>> {
        self.shapes.lock().expect("nothing panics inside").iter().find_map(|it| it.plan.get().cloned())
    }
}

fn walk(node: &Node, depth: usize, all: &mut Vec<StretchRun>) {
    let ends = node.stretch.stops().map(|(node, why, bytes)| StretchEnd { node: node.into(), why, bytes });
    // Where the host had what a stretch asks for, another ran in its place.
    if node.instead.lock().expect("nothing panics inside").is_empty() {
        let plan = node.session.get().and_then(Session::one_plan);
        all.push(StretchRun { depth, plan, ends: ends.collect() });
    }
    node.bodies.iter().for_each(|it| follow(it, depth + 1, all));
    follow(&node.instead, depth, all);
    follow(&node.next, depth, all);
}

fn follow(branches: &Mutex<Branches>, depth: usize, all: &mut Vec<StretchRun>) {
    let nodes: Vec<Arc<Node>> =
        branches.lock().expect("nothing panics inside").iter().map(|it| it.1.clone()).collect();
    nodes.iter().for_each(|it| walk(it, depth, all));
}
