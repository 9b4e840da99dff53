//! The pipelines of one device. Equal keys share one pipeline, whatever plan or session they are from.

use std::{collections::HashMap, sync::Mutex};

#[derive(Default, Debug)]
pub(crate) struct Pipelines {
    /// By the shader's key and whether it is checked.
    pub made: Mutex<HashMap<(u128, bool), wgpu::ComputePipeline>>,
    /// By the number of bindings.
    pub layouts: Mutex<HashMap<usize, Layout>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub bindings: wgpu::BindGroupLayout,
    pub pipeline: wgpu::PipelineLayout,
}
