//! Launches through wgpu: encoded anew by every run, on every backend. wgpu puts its own barriers between them.

use wgfuse_compiler::plan::Plan;

use crate::{
    buffers::{self, STAGING, Wait},
    counters::count,
    error::DeviceError,
    gpu::Gpu,
    launch::Launch,
    pipelines::layout,
    poll,
};

pub(crate) struct Command {
    kernel: usize,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
}

/// One command a launch; `pipelines` are those of the plan's kernels.
pub(crate) async fn commands(
    gpu: &Gpu,
    plan: &Plan,
    launches: &[Launch],
    pipelines: &[Option<wgpu::ComputePipeline>],
) -> Result<Vec<Command>, DeviceError> {
    let mut commands = Vec::with_capacity(launches.len());
    for launch in launches {
        let pipeline = pipelines[launch.kernel].clone().expect("kernels that are launched have shaders");
        let bind_group = bind_group(gpu, launch, &plan.kernels[launch.kernel].kernel.name).await?;
        commands.push(Command { kernel: launch.kernel, pipeline, bind_group, groups: launch.groups });
    }
    Ok(commands)
}

async fn bind_group(gpu: &Gpu, launch: &Launch, name: &str) -> Result<wgpu::BindGroup, DeviceError> {
    let entries: Vec<_> = (launch.bindings.iter().enumerate())
        .map(|(binding, (chunk, len))| wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &chunk.buffer,
                offset: chunk.offset,
                size: std::num::NonZeroU64::new(*len),
            }),
        })
        .collect();
    let layout = layout(gpu, entries.len());
    count(&gpu.counters.bind_groups);
    let descriptor =
        wgpu::BindGroupDescriptor { label: Some(name), layout: &layout.bindings, entries: &entries };
    gpu.scoped(&format!("the bindings of kernel {name}"), || gpu.device.create_bind_group(&descriptor)).await
}

pub(crate) fn encode(commands: &[Command], encoder: &mut wgpu::CommandEncoder) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    commands.iter().for_each(|it| it.launch(&mut pass));
}

impl Command {
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    fn launch(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Most query sets hold no more.
const QUERIES: usize = 4096;

/// Seconds of each command, by the device's timestamps.
pub(crate) async fn stamped(gpu: &Gpu, commands: &[Command], wait: Wait) -> Result<Vec<f64>, DeviceError> {
    let mut seconds = Vec::new();
    for commands in commands.chunks(QUERIES / 2) {
        seconds.extend(stamps(gpu, commands.iter().map(std::iter::once), wait).await?);
    }
    Ok(seconds)
}

/// Seconds of all commands, `times` times over in one pass.
pub(crate) async fn stamped_together(
    gpu: &Gpu,
    commands: &[Command],
    times: usize,
    wait: Wait,
) -> Result<f64, DeviceError> {
    let all = std::iter::repeat_n(commands, times).flatten();
    Ok(stamps(gpu, std::iter::once(all), wait).await?[0])
}

/// Seconds of each group of commands, a pass a group, all in one submission.
async fn stamps<'a, G: IntoIterator<Item = &'a Command>>(
    gpu: &Gpu,
    groups: impl ExactSizeIterator<Item = G>,
    wait: Wait,
) -> Result<Vec<f64>, DeviceError> {
    let count = groups.len() as u32 * 2;
    let bytes = count as u64 * 8;
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = buffers::buffer(gpu, bytes, "timestamps", usage).await?;
    let staging = buffers::buffer(gpu, bytes, "timestamps", STAGING).await?;
    gpu.scoped("the timestamps", || {
        let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        for (at, group) in groups.enumerate() {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &set,
                    beginning_of_pass_write_index: Some(at as u32 * 2),
                    end_of_pass_write_index: Some(at as u32 * 2 + 1),
                }),
            });
            group.into_iter().for_each(|it| it.launch(&mut pass));
        }
        encoder.resolve_query_set(&set, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
        gpu.queue.submit([encoder.finish()]);
    })
    .await?;
    let _mapped = buffers::map(gpu, std::slice::from_ref(&staging), wait).await?;
    let view = staging
        .slice(..)
        .get_mapped_range()
        .map_err(|it| DeviceError::Refused { at: "the timestamps".into(), what: it.to_string() })?;
    let stamps: Vec<u64> =
        (view.chunks_exact(8)).map(|it| u64::from_le_bytes(it.try_into().expect("eight bytes"))).collect();
    let period = gpu.queue.get_timestamp_period() as f64 * 1e-9;
    Ok(stamps.chunks_exact(2).map(|it| it[1].saturating_sub(it[0]) as f64 * period).collect())
}

/// Seconds of each command: one submission each, waited for; the cost of an empty one is taken off.
pub(crate) async fn clocked(
    gpu: &Gpu,
    commands: &[Command],
    now: impl Fn() -> f64,
) -> Result<Vec<f64>, DeviceError> {
    let mut seconds = Vec::new();
    for command in commands {
        seconds.push(clocked_together(gpu, std::slice::from_ref(command), 1, &now).await?);
    }
    Ok(seconds)
}

/// Seconds of all commands, `times` times over in one submission, that are more than those of an empty one.
pub(crate) async fn clocked_together(
    gpu: &Gpu,
    commands: &[Command],
    times: usize,
    now: impl Fn() -> f64,
) -> Result<f64, DeviceError> {
    let one = async |times: usize| {
        gpu.scoped("timed kernels", || {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            std::iter::repeat_n(commands, times).flatten().for_each(|it| it.launch(&mut pass));
            drop(pass);
            let finished = encoder.finish();
            let start = now();
            gpu.queue.submit([finished]);
            // An error is a lost device, which the scope reports.
            let _ = poll::wait(&gpu.device);
            now() - start
        })
        .await
    };
    let empty = one(0).await?;
    Ok((one(times).await? - empty).max(0.0))
}
