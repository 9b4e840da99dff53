//! Runs one WGSL text as the project runs its kernels: every run-time check off, workgroup memory not zeroed.

use std::sync::{Mutex, OnceLock};

use wgfuse_tests::{device, random};

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

fn gpu() -> &'static Mutex<Gpu> {
    static GPU: OnceLock<Mutex<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| {
        let adapter = device::adapter(wgpu::InstanceDescriptor::new_without_display_handle());
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))
            .unwrap_or_else(|error| panic!("{}: {error}", adapter.get_info().name));
        Mutex::new(Gpu { device, queue })
    })
}

/// Dispatches `main` of `source` with `buffers[i]` at binding `i` of group 0, and returns what they hold then.
pub fn run(source: &str, buffers: &[Vec<u32>], groups: [u32; 3]) -> Vec<Vec<u32>> {
    // A test that failed has left nothing half-done on the device.
    let gpu = gpu().lock().unwrap_or_else(|it| it.into_inner());
    let Gpu { device, queue } = &*gpu;
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(source.into()) };
    // SAFETY: the texts guard every access, count every loop and test every divisor; that they do is what is tested.
    let module =
        unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    let storage: Vec<wgpu::Buffer> = buffers
        .iter()
        .map(|words| {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4 * words.len().max(1) as u64,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
            buffer
        })
        .collect();
    let entries: Vec<wgpu::BindGroupEntry> = storage
        .iter()
        .enumerate()
        .map(|(at, it)| wgpu::BindGroupEntry { binding: at as u32, resource: it.as_entire_binding() })
        .collect();
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
    }
    let readback: Vec<wgpu::Buffer> = storage
        .iter()
        .map(|it| {
            let copy = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: it.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(it, 0, &copy, 0, it.size());
            copy
        })
        .collect();
    queue.submit([encoder.finish()]);
    readback.iter().for_each(|it| it.map_async(wgpu::MapMode::Read, .., |it| it.expect("mapped")));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("the device finishes");
    readback
        .iter()
        .zip(buffers)
        .map(|(it, words)| {
            let view = it.get_mapped_range(..).expect("mapped");
            let all: Vec<u32> = bytemuck::pod_collect_to_vec(&view);
            all[..words.len()].to_vec()
        })
        .collect()
}

pub fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|it| it.to_bits()).collect()
}

pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&it| f32::from_bits(it)).collect()
}

pub struct Random(random::Random);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(random::Random::new(seed))
    }

    pub fn word(&mut self) -> u32 {
        self.0.bits() as u32
    }

    /// In low..=high.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.0.below((high - low + 1) as usize) as u32
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        self.0.unit() as f32
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}
