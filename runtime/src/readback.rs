//! Slices of device buffers that come back to the host together, through staging memory.

use wgfuse_compiler::{
    bug,
    plan::{Plan, device_bytes},
    shape::Type,
    tensor::Tensor,
};

use crate::{
    buffers::{self, Chunk, STAGING, Wait},
    error::DeviceError,
    forms,
    gpu::Gpu,
};

/// Slices of device buffers that are copied to staging memory together.
#[derive(Default)]
pub(crate) struct Readback {
    pub copies: Vec<Copy>,
    pub staging: Vec<wgpu::Buffer>,
    /// The launches before were recorded, and these copies with them.
    pub recorded: bool,
}

pub(crate) struct Copy {
    pub from: Chunk,
    /// Number in `Readback::staging`, and offset.
    pub to: (usize, u64),
    pub bytes: u64,
}

impl Readback {
    /// Makes the staging memory, as much as `copies` need.
    pub async fn stage(&mut self, gpu: &Gpu, plan: &Plan) -> Result<(), DeviceError> {
        let sizes: Vec<u64> = self.copies.iter().map(|it| it.bytes).collect();
        for (chunk, copy) in buffers::row(gpu, &plan.target, &sizes, "staging", STAGING)
            .await?
            .into_iter()
            .zip(&mut self.copies)
        {
            if self.staging.last() != Some(&chunk.buffer) {
                self.staging.push(chunk.buffer);
            }
            copy.to = (self.staging.len() - 1, chunk.offset);
        }
        Ok(())
    }

    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        for it in &self.copies {
            let (staging, offset) = it.to;
            encoder.copy_buffer_to_buffer(
                &it.from.buffer,
                it.from.offset,
                &self.staging[staging],
                offset,
                it.bytes,
            );
        }
    }

    /// Waits for the copies and shows each to `see`.
    pub async fn read(
        &self,
        gpu: &Gpu,
        wait: Wait,
        mut see: impl FnMut(usize, &[u8]),
    ) -> Result<(), DeviceError> {
        let _mapped = buffers::map(gpu, &self.staging, wait).await?;
        let mut fault = None;
        for (at, it) in self.copies.iter().enumerate() {
            let (staging, offset) = it.to;
            match self.staging[staging].slice(offset..offset + it.bytes).get_mapped_range() {
                Ok(view) => see(at, &view),
                Err(error) => fault = Some(error.to_string()),
            }
        }
        match fault {
            None => Ok(()),
            Some(what) => Err(DeviceError::Refused { at: "the read-back".into(), what }),
        }
    }
}

/// One tensor of a device buffer, once everything submitted before is done. `at` tells what it is.
pub(crate) async fn fetch(
    gpu: &Gpu,
    from: Chunk,
    ty: &Type,
    at: &str,
    wait: Wait,
) -> Result<Tensor, DeviceError> {
    let bytes = device_bytes(ty);
    let copies = vec![Copy { from, to: (0, 0), bytes }];
    let mut readback = Readback { copies, ..Readback::default() };
    readback.staging.push(buffers::buffer(gpu, bytes, "staging", STAGING).await?);
    gpu.scoped(at, || {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        readback.copy(&mut encoder);
        gpu.queue.submit([encoder.finish()]);
    })
    .await?;
    let mut found = vec![0; ty.bytes()];
    readback.read(gpu, wait, |_, bytes| forms::to_host(ty.dtype, bytes, &mut found)).await?;
    Ok(Tensor::new(ty.clone(), found.into()).unwrap_or_else(|| bug!("as many bytes as the type has")))
}
