//! Shaders to pipelines, through the device's cache of them.

use std::{borrow::Cow, collections::HashSet};

use wgfuse_compiler::codegen::Shader;

use crate::{counters::count, error::DeviceError, gpu::Gpu, pipeline_cache::Layout};

/// One pipeline a shader, in order; each comes with the name of its kernel. Those that do not exist yet are made, in
/// parallel where there are threads.
pub(crate) async fn pipelines(
    gpu: &Gpu,
    shaders: &[(&Shader, &str)],
    checked: bool,
) -> Result<Vec<wgpu::ComputePipeline>, DeviceError> {
    let made = || gpu.pipelines.made.lock().expect("nothing panics inside");
    let missing: Vec<(&Shader, &str)> = {
        let (made, mut seen) = (made(), HashSet::new());
        let wanted = |key| !made.contains_key(&(key, checked)) && seen.insert(key);
        let mut wanted = wanted;
        shaders.iter().copied().filter(|(shader, _)| wanted(shader.key)).collect()
    };
    #[cfg(not(target_arch = "wasm32"))]
    let new: Vec<Result<wgpu::ComputePipeline, DeviceError>> = {
        use rayon::prelude::*;
        let _span = tracing::info_span!("pipelines", kernels = shaders.len(), new = missing.len()).entered();
        let one = |(shader, name): &(&Shader, &str)| pollster::block_on(pipeline(gpu, shader, name, checked));
        missing.par_iter().map(one).collect()
    };
    #[cfg(target_arch = "wasm32")]
    let new = {
        let mut new = Vec::new();
        for (shader, name) in &missing {
            new.push(pipeline(gpu, shader, name, checked).await);
        }
        new
    };
    let mut made = made();
    for ((shader, _), pipeline) in missing.into_iter().zip(new) {
        made.insert((shader.key, checked), pipeline?);
    }
    Ok(shaders.iter().map(|(shader, _)| made[&(shader.key, checked)].clone()).collect())
}

async fn pipeline(
    gpu: &Gpu,
    shader: &Shader,
    name: &str,
    checked: bool,
) -> Result<wgpu::ComputePipeline, DeviceError> {
    let layout = layout(gpu, shader.bindings.len());
    let at = format!("kernel {name}");
    gpu.scoped(&at, || {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Naga(Cow::Owned((*shader.module).clone())),
        };
        count(&gpu.counters.shader_modules);
        let module = match checked {
            true => gpu.device.create_shader_module(descriptor),
            // SAFETY: codegen owes the proof that every index is in bounds, every loop ends and no divisor is zero.
            false => unsafe {
                let checks = wgpu::ShaderRuntimeChecks::unchecked();
                gpu.device.create_shader_module_trusted(descriptor, checks)
            },
        };
        count(&gpu.counters.pipelines);
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&layout.pipeline),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        })
    })
    .await
}

/// `bindings` storage buffers, all `read_write`: a dispatch may then read and write slices of one buffer.
pub(crate) fn layout(gpu: &Gpu, bindings: usize) -> Layout {
    let mut layouts = gpu.pipelines.layouts.lock().expect("nothing panics inside");
    let make = || {
        let entries: Vec<_> = (0..bindings as u32)
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: false },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let bindings = gpu
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        Layout { bindings, pipeline }
    };
    layouts.entry(bindings).or_insert_with(make).clone()
}
