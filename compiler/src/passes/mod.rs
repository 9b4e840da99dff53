//! Graph to better graph: the pipeline, top to bottom, and the driver that shows and checks each step.

use crate::{error::Error, graph::Graph, options::Options, target::Target};

pub fn optimise(_graph: Graph, _target: &Target, _options: &Options) -> Result<Graph, Error> {
    todo!()
}
