//! The launches of one segment as a secondary command buffer, executed inside wgpu's own submissions.
//!
//! In: launches with the plan's barriers, and what is copied to staging memory behind them. Out: command buffers for `Queue::submit`.
//! What always holds: the recording and all that it uses live until the device is done with the last submission; wgpu sees every
//! buffer in the same submission, so its queue lock, fences and trackers cover the work; full barriers stand at both ends, so that
//! wgpu need not know what is between.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use ash::vk::{self, AccessFlags as Access, PipelineStageFlags as Stage};
use wgfuse_compiler::{bug, plan::Plan};
use wgpu::hal::api::Vulkan;

use crate::{
    buffers::{self, Wait},
    counters::count,
    error::DeviceError,
    gpu::Gpu,
    launch::Launch,
    poll,
    readback::Readback,
    recorder::{Recorder, fault},
};

pub(crate) struct Recording {
    launches: Vec<Raw>,
    /// From where to where.
    copies: Vec<(vk::Buffer, vk::Buffer, vk::BufferCopy)>,
    /// What launches use and what is copied from, each once.
    buffers: Vec<wgpu::Buffer>,
    /// What is copied to.
    staging: Vec<wgpu::Buffer>,
    /// For one execution at a time, which a driver submits faster.
    exclusive: Executables,
    /// For any execution while that one is pending.
    shared: Executables,
    /// Whether `exclusive` is neither pending nor about to be.
    free: Arc<AtomicBool>,
    pool: vk::CommandPool,
    sets: vk::DescriptorPool,
    /// The last submission, until it is known to be over.
    last: Mutex<Option<wgpu::SubmissionIndex>>,
    recorder: Arc<Recorder>,
}

/// The launches alone, and with the copies behind them: executing two command buffers takes microseconds more than one.
type Executables = [vk::CommandBuffer; 2];

/// An execution that is encoded, and pending once it is submitted. To be kept until the device is done with it, or it will never
/// be submitted.
pub(crate) struct Execution {
    /// Where it is of what only one at a time may execute.
    exclusive: Option<Arc<AtomicBool>>,
}

impl Drop for Execution {
    fn drop(&mut self) {
        if let Some(free) = &self.exclusive {
            free.store(true, Ordering::Release);
        }
    }
}

struct Raw {
    kernel: usize,
    pipeline: vk::Pipeline,
    layout: vk::PipelineLayout,
    set: vk::DescriptorSet,
    groups: [u32; 3],
    barrier: bool,
}

impl Recording {
    /// The pipelines of `plan` must be prepared. The buffers must count as initialised for wgpu, which would otherwise
    /// clear what the recording has written.
    pub fn new(
        recorder: &Arc<Recorder>,
        plan: &Plan,
        launches: &[Launch],
        behind: Option<&Readback>,
        checked: bool,
    ) -> Result<Recording, DeviceError> {
        let raw = &recorder.raw;
        let mut it = Recording {
            launches: Vec::with_capacity(launches.len()),
            copies: Vec::new(),
            buffers: Vec::new(),
            staging: behind.map(|it| it.staging.clone()).unwrap_or_default(),
            exclusive: [vk::CommandBuffer::null(); 2],
            shared: [vk::CommandBuffer::null(); 2],
            free: Arc::new(AtomicBool::new(true)),
            pool: vk::CommandPool::null(),
            sets: vk::DescriptorPool::null(),
            last: Mutex::default(),
            recorder: recorder.clone(),
        };
        let bindings: usize = launches.iter().map(|it| it.bindings.len()).sum();
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(bindings.max(1) as u32)];
        let info =
            vk::DescriptorPoolCreateInfo::default().max_sets(launches.len().max(1) as u32).pool_sizes(&sizes);
        // SAFETY: the device is alive.
        it.sets =
            unsafe { raw.create_descriptor_pool(&info, None) }.map_err(|it| fault("a recording", it))?;
        for launch in launches {
            it.add(plan, launch, checked)?;
        }
        for copy in behind.iter().flat_map(|it| &it.copies) {
            let (staging, offset) = copy.to;
            let region =
                vk::BufferCopy { src_offset: copy.from.offset, dst_offset: offset, size: copy.bytes };
            let places = (keep(&mut it.buffers, &copy.from.buffer)?, handle(&it.staging[staging])?);
            it.copies.push((places.0, places.1, region));
        }

        let info = vk::CommandPoolCreateInfo::default().queue_family_index(recorder.family);
        // SAFETY: the device is alive.
        it.pool = unsafe { raw.create_command_pool(&info, None) }.map_err(|it| fault("a recording", it))?;
        it.exclusive = it.executables(vk::CommandBufferUsageFlags::empty())?;
        it.shared = it.executables(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE)?;
        Ok(it)
    }

    fn executables(&self, usage: vk::CommandBufferUsageFlags) -> Result<Executables, DeviceError> {
        let raw = &self.recorder.raw;
        let mut commands = [vk::CommandBuffer::null(); 2];
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::SECONDARY)
            .command_buffer_count(commands.len() as u32);
        let inheritance = vk::CommandBufferInheritanceInfo::default();
        let begin = vk::CommandBufferBeginInfo::default().flags(usage).inheritance_info(&inheritance);
        // SAFETY: the pool is this recording's, which no other thread has yet.
        unsafe {
            let made = raw.allocate_command_buffers(&info).map_err(|it| fault("a recording", it))?;
            commands.copy_from_slice(&made);
            for (number, commands) in commands.into_iter().enumerate() {
                raw.begin_command_buffer(commands, &begin).map_err(|it| fault("a recording", it))?;
                self.record(commands, None);
                if number == 1 {
                    self.record_copies(commands);
                }
                raw.end_command_buffer(commands).map_err(|it| fault("a recording", it))?;
            }
        }
        Ok(commands)
    }

    fn add(&mut self, plan: &Plan, launch: &Launch, checked: bool) -> Result<(), DeviceError> {
        let raw = &self.recorder.raw;
        let kernel = &plan.kernels[launch.kernel];
        let Some(shader) = &kernel.shader else { bug!("kernel {} has no shader", kernel.kernel.name) };
        let layout = self.recorder.layout(launch.bindings.len())?;
        let layouts = [layout.set];
        let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(self.sets).set_layouts(&layouts);
        count(&self.recorder.counters.bind_groups);
        // SAFETY: the pool has room for a set a launch and only this function uses it.
        let set =
            unsafe { raw.allocate_descriptor_sets(&info) }.map_err(|it| fault(&kernel.kernel.name, it))?[0];
        let mut places = Vec::with_capacity(launch.bindings.len());
        for (chunk, len) in &launch.bindings {
            let buffer = keep(&mut self.buffers, &chunk.buffer)?;
            places.push(vk::DescriptorBufferInfo { buffer, offset: chunk.offset, range: *len });
        }
        let writes: Vec<_> = (places.iter().enumerate())
            .map(|(binding, place)| {
                vk::WriteDescriptorSet::default()
                    .dst_set(set)
                    .dst_binding(binding as u32)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(std::slice::from_ref(place))
            })
            .collect();
        // SAFETY: slices lie in their buffers at the device's alignment, as the plan's verifier says.
        unsafe { raw.update_descriptor_sets(&writes, &[]) };
        self.launches.push(Raw {
            kernel: launch.kernel,
            pipeline: self.recorder.pipeline(shader, checked),
            layout: layout.pipeline,
            set,
            groups: launch.groups,
            barrier: launch.barrier,
        });
        Ok(())
    }

    /// Writes the launches to a command buffer; with `stamps`, alone in time and each between two timestamps.
    ///
    /// # Safety
    /// `commands` is being recorded, by this thread alone, outside of a pass. `stamps` has two queries a launch.
    unsafe fn record(&self, commands: vk::CommandBuffer, stamps: Option<vk::QueryPool>) {
        let raw = &self.recorder.raw;
        // SAFETY: the caller's promise.
        let barrier = |from, to, written, used| unsafe { barrier(raw, commands, from, to, written, used) };
        let shader = Access::SHADER_READ | Access::SHADER_WRITE;
        // What ran before anything else but a recording, wgpu has waited for: to it, each recording writes to all of its buffers
        // as shaders do, and whoever uses them next waits for that. A recording copies from them too.
        let before = Stage::COMPUTE_SHADER | Stage::TRANSFER;
        barrier(before, Stage::COMPUTE_SHADER, Access::SHADER_WRITE, shader);
        let (mut pipeline, mut stamp) = (vk::Pipeline::null(), 0);
        for it in &self.launches {
            if it.barrier || stamps.is_some() {
                barrier(Stage::COMPUTE_SHADER, Stage::COMPUTE_SHADER, Access::SHADER_WRITE, shader);
            }
            let mut clock = || {
                if let Some(stamps) = stamps {
                    // SAFETY: the caller's promise.
                    unsafe { raw.cmd_write_timestamp(commands, Stage::BOTTOM_OF_PIPE, stamps, stamp) };
                    stamp += 1;
                }
            };
            let [x, y, z] = it.groups;
            clock();
            // SAFETY: the caller's promise; pipelines, layouts and sets live as long as `self`.
            unsafe {
                if it.pipeline != pipeline {
                    raw.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, it.pipeline);
                    pipeline = it.pipeline;
                }
                let point = vk::PipelineBindPoint::COMPUTE;
                raw.cmd_bind_descriptor_sets(commands, point, it.layout, 0, &[it.set], &[]);
                raw.cmd_dispatch(commands, x, y, z);
            }
            clock();
        }
    }

    /// Writes the copies, after which the host may read what was copied.
    ///
    /// # Safety
    /// As for `record`, whose launches stand before.
    unsafe fn record_copies(&self, commands: vk::CommandBuffer) {
        if self.copies.is_empty() {
            return;
        }
        let raw = &self.recorder.raw;
        let (made, copied) = (Access::SHADER_WRITE | Access::TRANSFER_WRITE, Access::TRANSFER_WRITE);
        let copying = Access::TRANSFER_READ | Access::TRANSFER_WRITE;
        let before = Stage::COMPUTE_SHADER | Stage::TRANSFER;
        // SAFETY: the caller's promise; the buffers live as long as `self`, and the plan's slices lie in them.
        unsafe {
            barrier(raw, commands, before, Stage::TRANSFER, made, copying);
            for (from, to, region) in &self.copies {
                raw.cmd_copy_buffer(commands, *from, *to, &[*region]);
            }
            barrier(raw, commands, Stage::TRANSFER, Stage::HOST, copied, Access::HOST_READ);
        }
    }

    /// `Plan::kernels` numbers, a launch each.
    pub fn kernels(&self) -> Vec<usize> {
        self.launches.iter().map(|it| it.kernel).collect()
    }

    /// Two command buffers, the launches and, where they are wanted, the copies: the first shows wgpu what the second uses. Their
    /// submission is to be told to `submitted`.
    pub fn execute(&self, device: &wgpu::Device, copies: bool) -> ([wgpu::CommandBuffer; 2], Execution) {
        let exclusive = self.free.swap(false, Ordering::Acquire).then(|| self.free.clone());
        let recorded = match exclusive {
            Some(_) => self.exclusive[usize::from(copies)],
            None => self.shared[usize::from(copies)],
        };
        // SAFETY: a secondary command buffer of the same family, outside of a pass, which may be pending more than once or is not.
        // An encoder of an execution that was never submitted becomes invalid by it, and wgpu resets that before it is used again.
        let write = |raw: &ash::Device, commands| unsafe { raw.cmd_execute_commands(commands, &[recorded]) };
        (self.encode(device, write), Execution { exclusive })
    }

    fn encode(
        &self,
        device: &wgpu::Device,
        write: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> [wgpu::CommandBuffer; 2] {
        let mut seen = device.create_command_encoder(&Default::default());
        let used = |state| move |buffer| wgpu::BufferTransition { buffer, state };
        let buffers = self.buffers.iter().map(used(wgpu::BufferUses::STORAGE_READ_WRITE));
        let staging = self.staging.iter().map(used(wgpu::BufferUses::COPY_DST));
        seen.transition_resources(buffers.chain(staging), std::iter::empty());
        let mut own = device.create_command_encoder(&Default::default());
        // SAFETY: wgpu's encoder is used for nothing else; what is written to it is complete.
        unsafe {
            own.as_hal_mut::<Vulkan, _, _>(|hal| {
                // Of a lost device there is none, which the submission reports.
                if let Some(hal) = hal {
                    write(&self.recorder.raw, hal.raw_handle());
                }
            });
        }
        [seen.finish(), own.finish()]
    }

    /// To be called with every submission of `execute`'s command buffers.
    pub fn submitted(&self, index: wgpu::SubmissionIndex) {
        *self.last.lock().expect("nothing panics inside") = Some(index);
    }

    /// Seconds of each launch, by the device's timestamps. Nothing of this recording may be pending.
    pub async fn stamped(&self, gpu: &Gpu, wait: Wait) -> Result<Vec<f64>, DeviceError> {
        // SAFETY: the encoder of `between_stamps`, and a pool with two queries a launch.
        let write = |_: &ash::Device, commands, stamps| unsafe { self.record(commands, Some(stamps)) };
        self.between_stamps(gpu, self.launches.len(), wait, write).await
    }

    /// Seconds of all launches, `times` times over in one command buffer: executing another one takes some microseconds, which a
    /// run pays once. Nothing of the recording may be pending.
    pub async fn stamped_together(&self, gpu: &Gpu, times: usize, wait: Wait) -> Result<f64, DeviceError> {
        let write = |raw: &ash::Device, commands, stamps| {
            let stamp = |at| {
                // SAFETY: as for `execute`; the pool has two queries.
                unsafe {
                    raw.cmd_write_timestamp(commands, vk::PipelineStageFlags::BOTTOM_OF_PIPE, stamps, at);
                }
            };
            stamp(0);
            for _ in 0..times {
                // SAFETY: the encoder of `between_stamps`.
                unsafe { self.record(commands, None) };
            }
            stamp(1);
        };
        Ok(self.between_stamps(gpu, 1, wait, write).await?[0])
    }

    /// Seconds between each of `pairs` pairs of timestamps, all of which `write` writes.
    async fn between_stamps(
        &self,
        gpu: &Gpu,
        pairs: usize,
        wait: Wait,
        write: impl FnOnce(&ash::Device, vk::CommandBuffer, vk::QueryPool),
    ) -> Result<Vec<f64>, DeviceError> {
        let raw = &self.recorder.raw;
        let count = pairs as u32 * 2;
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(count);
        // SAFETY: the device is alive.
        let pool = unsafe { raw.create_query_pool(&info, None) }.map_err(|it| fault("the timestamps", it))?;
        let pool = Queries { pool, recorder: &self.recorder };
        let commands = self.encode(&gpu.device, |raw, commands| {
            // SAFETY: the encoder of `encode`, and a pool with as many queries.
            unsafe { raw.cmd_reset_query_pool(commands, pool.pool, 0, count) };
            write(raw, commands, pool.pool);
        });
        gpu.scoped("the timestamps", || self.submitted(gpu.queue.submit(commands))).await?;
        buffers::done(gpu, wait).await?;
        let mut stamps = vec![0u64; count as usize];
        // Without `WAIT`, which has no end where a lost device has not written them.
        let flags = vk::QueryResultFlags::TYPE_64;
        // SAFETY: the pool has as many queries.
        unsafe { raw.get_query_pool_results(pool.pool, 0, &mut stamps, flags) }
            .map_err(|it| fault("the timestamps", it))?;
        let period = gpu.queue.get_timestamp_period() as f64 * 1e-9;
        Ok(stamps.chunks_exact(2).map(|it| it[1].saturating_sub(it[0]) as f64 * period).collect())
    }
}

/// The handle of a buffer that is among `kept` from now on.
fn keep(kept: &mut Vec<wgpu::Buffer>, buffer: &wgpu::Buffer) -> Result<vk::Buffer, DeviceError> {
    if !kept.contains(buffer) {
        kept.push(buffer.clone());
    }
    handle(buffer)
}

/// The handle of a buffer that the caller keeps.
fn handle(buffer: &wgpu::Buffer) -> Result<vk::Buffer, DeviceError> {
    // SAFETY: only the handle is taken.
    let handle = (unsafe { buffer.as_hal::<Vulkan>() }).map(|it| unsafe { it.raw_handle() });
    handle.ok_or_else(|| DeviceError::Lost("a buffer was destroyed".into()))
}

/// # Safety
/// `commands` is being recorded, by this thread alone, outside of a pass.
unsafe fn barrier(
    raw: &ash::Device,
    commands: vk::CommandBuffer,
    from: Stage,
    to: Stage,
    written: Access,
    used: Access,
) {
    let memory = [vk::MemoryBarrier::default().src_access_mask(written).dst_access_mask(used)];
    // SAFETY: the caller's promise.
    unsafe { raw.cmd_pipeline_barrier(commands, from, to, Default::default(), &memory, &[], &[]) };
}

struct Queries<'a> {
    pool: vk::QueryPool,
    recorder: &'a Recorder,
}

impl Drop for Queries<'_> {
    fn drop(&mut self) {
        // A future that is dropped early leaves its work pending.
        let _ = poll::wait(&self.recorder.device);
        // SAFETY: nothing pending uses it.
        unsafe { self.recorder.raw.destroy_query_pool(self.pool, None) };
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(index) = self.last.get_mut().expect("nothing panics inside").take() {
            let device = &self.recorder.device;
            let last = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
            if poll::poll(device, last).is_err() {
                // It failed as it was submitted; those before it may be pending. On a lost device nothing is.
                let _ = poll::wait(device);
            }
        }
        // SAFETY: the last submission is over; null handles are allowed.
        unsafe {
            self.recorder.raw.destroy_command_pool(self.pool, None);
            self.recorder.raw.destroy_descriptor_pool(self.sets, None);
        }
    }
}
