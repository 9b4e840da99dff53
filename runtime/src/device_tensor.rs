//! Tensors that stay where kernels read them, and values that are there or on the host.
//!
//! In: tensors of the host, an application's buffers, and what runs leave on the device. What always holds: memory is written and
//! read in the order of the queue, so that nobody waits for what a run leaves but who reads it on the host.

use std::sync::Arc;

use wgfuse_compiler::{
    dtype::DType,
    plan::device_bytes,
    shape::{Shape, Type},
    tensor::Tensor,
};

use crate::{
    buffers::{self, Chunk, STORAGE, Wait},
    device::Device,
    error::{DeviceError, Error, Result},
    gpu::Gpu,
    readback, upload,
};

/// A tensor in the memory of a GPU (`Device::upload`, `Session::run_on_device`, `DeviceTensor::from_wgpu`), or on the host where
/// the device is the processor or the model's output is made there. Cloning shares it.
///
/// Nothing changes it as long as a clone lives; then a later run may fill its memory again.
#[derive(Clone, Debug)]
pub struct DeviceTensor {
    ty: Type,
    kept: Kept,
}

#[derive(Clone, Debug)]
enum Kept {
    Host(Tensor),
    Device { gpu: Arc<Gpu>, memory: Arc<wgpu::Buffer>, offset: u64 },
}

/// A tensor on the host or on a device, as `Session::run_on_device` takes them.
#[derive(Clone, Debug)]
pub enum AnyTensor {
    Host(Tensor),
    Device(DeviceTensor),
}

impl DeviceTensor {
    pub(crate) fn new(gpu: &Arc<Gpu>, ty: Type, memory: Arc<wgpu::Buffer>) -> DeviceTensor {
        DeviceTensor { ty, kept: Kept::Device { gpu: gpu.clone(), memory, offset: 0 } }
    }

    /// A tensor in a buffer of the application, which has to be of `device` and to allow `COPY_SRC`. `offset` is in bytes and a
    /// multiple of 4.
    ///
    /// Elements lie in row-major order in the form that kernels read: f32, i32 and u32 as they are; f16 and bf16 in two bytes, padded
    /// at the end to a multiple of 4; bool (0 or 1) and all other integers as 32-bit words, with their sign; floats of eight bits and
    /// fewer as f32. f64 and f8e8m0 have no such form.
    pub fn from_wgpu(device: &Device, ty: Type, buffer: wgpu::Buffer, offset: u64) -> Result<DeviceTensor> {
        let refused = |what: String| Err(Error::input("", format!("a buffer cannot hold {ty}: {what}")));
        let Some(gpu) = device.gpu_open() else {
            return refused("the device is the processor".into());
        };
        if !ty.dtype.has_device_form() {
            return refused(format!("{} has no form on the device", ty.dtype));
        }
        if !offset.is_multiple_of(4) {
            return refused(format!("its offset {offset} is no multiple of 4"));
        }
        let (need, have) = (device_bytes(&ty), buffer.size().saturating_sub(offset));
        if need > have {
            return refused(format!("it has {have} bytes from its offset on, {need} are needed"));
        }
        if !buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return refused("its usages are without COPY_SRC".into());
        }
        Ok(DeviceTensor { ty, kept: Kept::Device { gpu, memory: Arc::new(buffer), offset } })
    }

    pub fn ty(&self) -> &Type {
        &self.ty
    }

    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    pub fn shape(&self) -> &Shape {
        &self.ty.shape
    }

    /// The buffer and the offset in bytes at which the elements begin, in the form that `from_wgpu` describes, for the application's
    /// own shaders (`STORAGE`, `COPY_SRC`); `None` on the host. The values are there as long as a clone of `self` lives.
    pub fn wgpu(&self) -> Option<(&wgpu::Buffer, u64)> {
        match &self.kept {
            Kept::Host(_) => None,
            Kept::Device { memory, offset, .. } => Some((memory, *offset)),
        }
    }

    /// Waits for whatever makes it, and copies it to the host.
    pub async fn read_async(&self) -> Result<Tensor> {
        Ok(self.fetch(Wait::Yield).await?)
    }

    /// See `read_async`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(&self) -> Result<Tensor> {
        Ok(pollster::block_on(self.fetch(Wait::Block))?)
    }

    pub(crate) async fn fetch(&self, wait: Wait) -> std::result::Result<Tensor, DeviceError> {
        match &self.kept {
            Kept::Host(tensor) => Ok(tensor.clone()),
            Kept::Device { gpu, memory, offset } => {
                let from = Chunk { buffer: (**memory).clone(), offset: *offset };
                readback::fetch(gpu, from, &self.ty, "a tensor", wait).await
            }
        }
    }
}

impl AnyTensor {
    pub fn ty(&self) -> &Type {
        match self {
            AnyTensor::Host(it) => it.ty(),
            AnyTensor::Device(it) => it.ty(),
        }
    }

    /// The value where it can be copied from on `gpu`; elsewhere, or with `here`, on the host. Values of other devices go that way too.
    pub(crate) async fn settle(
        self,
        gpu: Option<&Arc<Gpu>>,
        here: bool,
        wait: Wait,
    ) -> std::result::Result<AnyTensor, DeviceError> {
        match &self {
            AnyTensor::Host(_) => Ok(self),
            AnyTensor::Device(it) => match &it.kept {
                Kept::Device { gpu: own, .. } if !here && gpu.is_some_and(|it| Arc::ptr_eq(it, own)) => {
                    Ok(self)
                }
                Kept::Device { .. } | Kept::Host(_) => Ok(AnyTensor::Host(it.fetch(wait).await?)),
            },
        }
    }
}

impl From<Tensor> for AnyTensor {
    fn from(it: Tensor) -> AnyTensor {
        AnyTensor::Host(it)
    }
}

impl From<DeviceTensor> for AnyTensor {
    fn from(it: DeviceTensor) -> AnyTensor {
        AnyTensor::Device(it)
    }
}

impl From<Tensor> for DeviceTensor {
    /// On the host, from where a run takes it to its device.
    fn from(it: Tensor) -> DeviceTensor {
        DeviceTensor { ty: it.ty().clone(), kept: Kept::Host(it) }
    }
}

impl Device {
    /// A copy of the tensor in this device's memory; on the host where the device is the processor or the type is f64 or f8e8m0, which
    /// GPUs have no form of. An integer that does not fit 32 bits is an error.
    pub async fn upload_async(&self, tensor: &Tensor) -> Result<DeviceTensor> {
        if !self.is_gpu() || !tensor.dtype().has_device_form() {
            return Ok(tensor.clone().into());
        }
        let gpu = self.gpu_now().await?;
        let memory = buffers::buffer(&gpu, device_bytes(tensor.ty()), "a tensor", STORAGE).await?;
        let sent = upload::send(&gpu, (&memory, 0), tensor.dtype(), tensor.data(), "a tensor").await;
        sent.map_err(|fault| match fault {
            upload::Fault::Device(error) => error.into(),
            upload::Fault::Element(at) => Error::unfit("", at, tensor.dtype()),
        })?;
        Ok(DeviceTensor::new(&gpu, tensor.ty().clone(), Arc::new(memory)))
    }

    /// Waits until the device has done all that was submitted to it, by anybody.
    pub async fn synchronize_async(&self) -> Result<()> {
        self.synchronized(Wait::Yield).await
    }

    async fn synchronized(&self, wait: Wait) -> Result<()> {
        match self.gpu_open() {
            Some(gpu) => Ok(buffers::done(&gpu, wait).await?),
            None => Ok(()),
        }
    }
}

/// Forms that block the thread.
#[cfg(not(target_arch = "wasm32"))]
impl Device {
    /// See `upload_async`.
    pub fn upload(&self, tensor: &Tensor) -> Result<DeviceTensor> {
        pollster::block_on(self.upload_async(tensor))
    }

    /// See `synchronize_async`.
    pub fn synchronize(&self) -> Result<()> {
        pollster::block_on(self.synchronized(Wait::Block))
    }
}

/// Memory of an output that stays on the device. Once nobody holds what was given, it is given again.
#[derive(Default)]
pub(crate) struct Room(Vec<Arc<wgpu::Buffer>>);

/// Of so many the memory comes back: enough for a run whose input is what an earlier one gave.
const KEPT: usize = 4;

impl Room {
    pub async fn take(
        &mut self,
        gpu: &Gpu,
        bytes: u64,
    ) -> std::result::Result<Arc<wgpu::Buffer>, DeviceError> {
        if let Some(free) = self.0.iter().find(|it| Arc::strong_count(it) == 1 && it.size() >= bytes) {
            return Ok(free.clone());
        }
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        let made = Arc::new(buffers::buffer(gpu, bytes, "an output", STORAGE).await?);
        self.0.push(made.clone());
        Ok(made)
    }
}
