//! Where there is no Vulkan: never made.

use std::{convert::Infallible, sync::Arc};

use wgfuse_compiler::plan::Plan;

use crate::{
    buffers::Wait, error::DeviceError, gpu::Gpu, launch::Launch, readback::Readback, recorder::Recorder,
};

pub(crate) struct Recording(Infallible);

pub(crate) struct Execution(Infallible);

impl Recording {
    pub fn new(
        recorder: &Arc<Recorder>,
        _: &Plan,
        _: &[Launch],
        _: Option<&Readback>,
        _: bool,
    ) -> Result<Recording, DeviceError> {
        match recorder.0 {}
    }

    pub fn kernels(&self) -> Vec<usize> {
        match self.0 {}
    }

    pub fn execute(&self, _: &wgpu::Device, _: bool) -> ([wgpu::CommandBuffer; 2], Execution) {
        match self.0 {}
    }

    pub fn submitted(&self, _: wgpu::SubmissionIndex) {
        match self.0 {}
    }

    pub async fn stamped(&self, _: &Gpu, _: Wait) -> Result<Vec<f64>, DeviceError> {
        match self.0 {}
    }

    pub async fn stamped_together(&self, _: &Gpu, _: usize, _: Wait) -> Result<f64, DeviceError> {
        match self.0 {}
    }
}
