//! Values of the host on their way to the device: converted straight into memory that the device copies from.
//!
//! In: host bytes of whole elements, and places in buffers. Out: copies that run before the commands of the next submission.

use wgfuse_compiler::dtype::DType;
use wgpu::{BufferSize, WriteOnly};

use crate::{error::DeviceError, forms, gpu::Gpu};

/// Why values are not on their way.
pub(crate) enum Fault {
    Device(DeviceError),
    /// The number of an integer that does not fit the 32 bits that it has on the device.
    Element(usize),
}

/// Sends the values of one tensor, padded to whole words. `at` tells what they are.
pub(crate) async fn send(
    gpu: &Gpu,
    (buffer, offset): (&wgpu::Buffer, u64),
    dtype: DType,
    host: &[u8],
    at: &str,
) -> Result<(), Fault> {
    let bytes = host.len() / dtype.size() * forms::device_size(dtype);
    let range = (buffer, offset, bytes.next_multiple_of(4) as u64);
    let written = fill(gpu, range, at, |staging| forms::to_device(dtype, host, staging)).await;
    written.map_err(Fault::Device)?.map_err(Fault::Element)
}

/// Sends what `write` writes to that many bytes of the buffer from an offset on.
pub(crate) async fn fill<E>(
    gpu: &Gpu,
    (buffer, offset, bytes): (&wgpu::Buffer, u64, u64),
    at: &str,
    write: impl FnOnce(WriteOnly<'_, [u8]>) -> Result<(), E>,
) -> Result<Result<(), E>, DeviceError> {
    let Some(bytes) = BufferSize::new(bytes) else { return Ok(Ok(())) };
    let written = gpu.scoped(at, || {
        let mut staging = gpu.queue.write_buffer_with(buffer, offset, bytes)?;
        Some(write(staging.slice(..)))
    });
    written.await?.ok_or_else(|| gpu.refusal(at, format!("{bytes} bytes are not taken")))
}
