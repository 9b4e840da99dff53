//! What a device can do at most, measured: what kernels are compared with.

use std::time::{Duration, Instant};

use crate::{Device, error::DeviceError, poll};

/// The best of some hundred milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ceilings {
    /// Bytes read and written a second by a copy larger than any cache.
    pub copy: f64,
    /// Operations a second: on a GPU those of f32 multiply-adds (two each) that touch no memory, by the shader cores, which
    /// kernels on matrix units may exceed; on the processor those of a large f32 matrix product.
    pub arithmetic: f64,
}

impl Device {
    /// Measures what the device can do. Blocks for about a second.
    pub fn ceilings(&self) -> crate::Result<Ceilings> {
        match self.is_gpu() {
            true => pollster::block_on(async {
                let gpu = self.gpu_now().await?;
                let bench = Bench { device: &gpu.device, queue: &gpu.queue };
                let largest = self.target().max_binding_size.min(self.target().max_buffer_size);
                let both = || Ok(Ceilings { copy: bench.copy(largest)?, arithmetic: bench.arithmetic()? });
                gpu.scoped("the ceilings", both).await?
            }),
            false => Ok(Ceilings { copy: host_copy(), arithmetic: host_arithmetic() }),
        }
    }
}

/// Larger than any cache.
const BYTES: u64 = 256 << 20;
/// Idle devices run slowly at first: how long each measurement goes on.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
const FEWEST: usize = 3;

/// The fastest of many repetitions.
fn fastest<const N: usize>(
    mut one: impl FnMut() -> crate::Result<[Duration; N]>,
) -> crate::Result<[Duration; N]> {
    let start = Instant::now();
    let (mut fastest, mut rounds) = ([Duration::MAX; N], 0);
    while rounds < FEWEST || start.elapsed() < LONG_ENOUGH {
        for (fastest, took) in fastest.iter_mut().zip(one()?) {
            *fastest = took.min(*fastest);
        }
        rounds += 1;
    }
    Ok(fastest)
}

/// What the longer of two measurements took more: the launch costs the same whatever it does.
fn between([short, long]: [Duration; 2]) -> f64 {
    long.saturating_sub(short).max(Duration::from_nanos(1)).as_secs_f64()
}

struct Bench<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
}

/// Sixteen bytes an invocation, each layer of workgroups copying everything again. The copy command of an encoder is not used: drivers may hand it to a slower engine.
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

/// Eight independent sums of four lanes, so that no multiply-add waits for the one before. What is written depends on all
/// of them, and never happens with these numbers.
fn multiply_adds() -> String {
    let sums: Vec<String> = (0..SUMS).map(|it| format!("s{it}")).collect();
    let start = sums.iter().map(|it| format!("var {it} = vec4<f32>(f32(id.x) * 1e-9 + f32(data[0]));\n"));
    let step: String = sums.iter().map(|it| format!("{it} = fma({it}, by, add);\n")).collect();
    format!(
        "@group(0) @binding(0) var<storage, read_write> data: array<u32>;
        @compute @workgroup_size(256)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            let by = vec4<f32>(1.0 - f32(id.y + 1u) * 1e-6);
            let add = vec4<f32>(1e-6 * f32(id.x & 3u));
            {}
            for (var i = 0u; i < {LOOPS}u; i++) {{
                {}
            }}
            let all = {};
            if all.x + all.y + all.z + all.w == 12345.678 {{ data[0] = 1u; }}
        }}",
        start.collect::<String>(),
        step.repeat(STEPS),
        sums.join(" + ")
    )
}
const SUMS: usize = 8;
const STEPS: usize = 16;
const LOOPS: usize = 8;

impl Bench<'_> {
    fn copy(&self, largest: u64) -> crate::Result<f64> {
        let size = BYTES.min(largest) & !4095;
        let (one, other) = (self.buffer(size), self.buffer(size));
        let pipeline = self.pipeline(COPY);
        let bound = self.bind(&pipeline, &[&one, &other]);
        let groups = size / 16 / 256;
        let (across, down) = (groups.min(ACROSS) as u32, groups.div_ceil(ACROSS) as u32);
        let round = |copies| self.round(&pipeline, &bound, [across, down, copies]);
        let copies = enough(1, 64, round)?;
        let seconds = between(fastest(|| Ok([round(copies)?, round(2 * copies)?]))?);
        Ok((2 * size * copies as u64) as f64 / seconds)
    }

    fn arithmetic(&self) -> crate::Result<f64> {
        let pipeline = self.pipeline(&multiply_adds());
        let bound = self.bind(&pipeline, &[&self.buffer(16)]);
        let round = |groups| self.round(&pipeline, &bound, [groups, 1, 1]);
        let groups = enough(8, ACROSS as u32 / 2, round)?;
        let seconds = between(fastest(|| Ok([round(groups)?, round(2 * groups)?]))?);
        Ok((groups as usize * 256 * LOOPS * STEPS * SUMS * 4 * 2) as f64 / seconds)
    }

    fn buffer(&self, size: u64) -> wgpu::Buffer {
        let (label, usage) = (Some("ceilings"), wgpu::BufferUsages::STORAGE);
        self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    }

    fn pipeline(&self, wgsl: &str) -> wgpu::ComputePipeline {
        let label = Some("ceilings");
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(wgsl.into()),
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        })
    }

    fn bind(&self, pipeline: &wgpu::ComputePipeline, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        let entries: Vec<_> = (buffers.iter().enumerate())
            .map(|(at, it)| wgpu::BindGroupEntry { binding: at as u32, resource: it.as_entire_binding() })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("ceilings"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    /// From the submission to its end.
    fn round(
        &self,
        pipeline: &wgpu::ComputePipeline,
        bound: &wgpu::BindGroup,
        [x, y, z]: [u32; 3],
    ) -> crate::Result<Duration> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bound, &[]);
        pass.dispatch_workgroups(x, y, z);
        drop(pass);
        let finished = encoder.finish();
        let start = Instant::now();
        self.queue.submit([finished]);
        poll::wait(self.device).map_err(DeviceError::Lost)?;
        Ok(start.elapsed())
    }
}

/// How much work, doubling from `start`, takes so long that a launch is little beside it; `most` if nothing does.
fn enough(
    start: u32,
    most: u32,
    mut round: impl FnMut(u32) -> crate::Result<Duration>,
) -> crate::Result<u32> {
    let mut work = start;
    while work < most && round(work)? < Duration::from_millis(3) {
        work *= 2;
    }
    Ok(work)
}

fn host_copy() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (from, mut to) = (vec![1u8; BYTES as usize], vec![2u8; BYTES as usize]);
    let part = from.len().div_ceil(threads);
    let one = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                scope.spawn(move || to.copy_from_slice(from));
            }
        });
        std::hint::black_box(&to);
        Ok([start.elapsed()])
    };
    let [took] = fastest(one).expect("copies do not fail");
    (2 * BYTES) as f64 / took.as_secs_f64()
}

fn host_arithmetic() -> f64 {
    const SIDE: usize = 1024;
    let (a, b, mut c) = (vec![1f32; SIDE * SIDE], vec![1f32; SIDE * SIDE], vec![0f32; SIDE * SIDE]);
    let one = || {
        let (row, start) = (SIDE as isize, Instant::now());
        let threads = gemm::Parallelism::Rayon(0);
        // SAFETY: each is SIDE rows of SIDE, nothing else uses `c`.
        unsafe {
            gemm::gemm(
                SIDE,
                SIDE,
                SIDE,
                c.as_mut_ptr(),
                1,
                row,
                false,
                a.as_ptr(),
                1,
                row,
                b.as_ptr(),
                1,
                row,
                0.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
        std::hint::black_box(&c);
        Ok([start.elapsed()])
    };
    let [took] = fastest(one).expect("products do not fail");
    (2 * SIDE * SIDE * SIDE) as f64 / took.as_secs_f64()
}
