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
        Some((gpu, queue)) => gpu_copies(&gpu, &queue, device.target().max_buffer_size),
        None => Ok(cpu_copies()),
    }
}

fn gpu_copies(gpu: &wgpu::Device, queue: &wgpu::Queue, largest: u64) -> Result<f64> {
    const COPIES: u64 = 8;
    let size = BYTES.min(largest) & !3;
    let buffer = || {
        gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("copy bandwidth"),
            size,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (from, to) = (buffer(), buffer());
    let round = |copies: u64| -> Result<Duration> {
        let mut encoder = gpu.create_command_encoder(&Default::default());
        // There and back, so that no copy can be left out.
        for at in 0..copies {
            let (from, to) = if at % 2 == 0 { (&from, &to) } else { (&to, &from) };
            encoder.copy_buffer_to_buffer(from, 0, to, 0, size);
        }
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
