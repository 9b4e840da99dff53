//! How fast a device copies its own memory: what kernels that only move data are measured against.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use wgfuse::{Device, wgpu};

/// Larger than any cache.
const BYTES: u64 = 256 << 20;
const ROUNDS: usize = 5;

/// Bytes read and written a second, the best of a few rounds.
pub fn copy_bandwidth(device: &Device) -> Result<f64> {
    match device.wgpu() {
        Some((gpu, queue)) => {
            gpu_copies(&gpu, &queue, device.target().max_binding_size.min(device.target().max_buffer_size))
        }
        None => Ok(cpu_copies()),
    }
}

/// Sixteen bytes an invocation. The copy command of an encoder is not used: drivers may hand it to a slower engine.
const COPY: &str = "
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 256u;
    if at < arrayLength(&source) {
        copied[at] = source[at];
    }
}";
/// Workgroups in one row of a dispatch, within every device's limit.
const ACROSS: u64 = 32_768;

fn gpu_copies(gpu: &wgpu::Device, queue: &wgpu::Queue, largest: u64) -> Result<f64> {
    const COPIES: u64 = 8;
    let size = BYTES.min(largest) & !4095;
    let usage = wgpu::BufferUsages::STORAGE;
    let label = Some("copy bandwidth");
    let buffer =
        || gpu.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
    let (one, other) = (buffer(), buffer());
    let module = gpu.create_shader_module(wgpu::ShaderModuleDescriptor {
        label,
        source: wgpu::ShaderSource::Wgsl(COPY.into()),
    });
    let pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let layout = pipeline.get_bind_group_layout(0);
    let way = |from: &wgpu::Buffer, to: &wgpu::Buffer| {
        let entries = [(0, from), (1, to)]
            .map(|(binding, it)| wgpu::BindGroupEntry { binding, resource: it.as_entire_binding() });
        gpu.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &layout, entries: &entries })
    };
    // There and back, so that no copy can be left out.
    let ways = [way(&one, &other), way(&other, &one)];
    let groups = size / 16 / 256;
    let (across, down) = (groups.min(ACROSS) as u32, groups.div_ceil(ACROSS) as u32);
    let round = |copies: u64| -> Result<Duration> {
        let mut encoder = gpu.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        for at in 0..copies {
            pass.set_bind_group(0, &ways[(at % 2) as usize], &[]);
            pass.dispatch_workgroups(across, down, 1);
        }
        drop(pass);
        let start = Instant::now();
        queue.submit([encoder.finish()]);
        gpu.poll(wgpu::PollType::wait_indefinitely())
            .map_err(|it| anyhow!("waiting for the device: {it}"))?;
        Ok(start.elapsed())
    };
    round(2)?;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        // The launch costs the same whatever is copied.
        let (one, all) = (round(1)?, round(1 + COPIES)?);
        best = best.min(all.saturating_sub(one).max(Duration::from_nanos(1)));
    }
    Ok((2 * size * COPIES) as f64 / best.as_secs_f64())
}

fn cpu_copies() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (from, mut to) = (vec![1u8; BYTES as usize], vec![2u8; BYTES as usize]);
    let part = from.len().div_ceil(threads);
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                scope.spawn(move || to.copy_from_slice(from));
            }
        });
        best = best.min(start.elapsed());
        std::hint::black_box(&to);
    }
    (2 * BYTES) as f64 / best.as_secs_f64()
}
