//! Runs shaders on the tests' adapter, without the runtime, and turns tensors to and from their device form.

use std::{borrow::Cow, sync::OnceLock};

use wgfuse_compiler::{
    codegen::{Shader, device_bytes},
    dtype::{Class, DType},
    scalar::Scalar,
    shape::Type,
};

use crate::device;

pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Invocations of every subgroup, if there are subgroups of one size.
    pub subgroup: Option<u32>,
    /// Whether they multiply matrices of 16 x 16 of f16 and add up in f32.
    pub cooperative: bool,
}

/// The device that all tests share.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let mut describe = wgpu::InstanceDescriptor::new_without_display_handle();
        describe.flags = wgpu::InstanceFlags::empty();
        let adapter = device::adapter(describe);
        let mut limits = adapter.limits();
        limits.max_bind_groups = limits.max_bind_groups.min(8);
        let required_features = adapter.features()
            & (wgpu::Features::SUBGROUP
                | wgpu::Features::SUBGROUP_BARRIER
                | wgpu::Features::SHADER_F16
                | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let describe = wgpu::DeviceDescriptor {
            required_features,
            required_limits: limits,
            // SAFETY: cooperative matrices are the only experimental feature among them; the modules are codegen's.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&describe)).expect("the adapter opens");
        let info = adapter.get_info();
        let one_size = required_features.contains(wgpu::Features::SUBGROUP)
            && info.subgroup_min_size == info.subgroup_max_size;
        let (half, single) = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        let multiplies = adapter.cooperative_matrix_properties().iter().any(|it| {
            (it.m_size, it.n_size, it.k_size, it.ab_type, it.cr_type) == (16, 16, 16, half, single)
        });
        Gpu {
            device,
            queue,
            subgroup: one_size.then_some(info.subgroup_min_size),
            cooperative: one_size
                && multiplies
                && required_features.contains(wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP_BARRIER),
        }
    })
}

impl Gpu {
    /// Dispatches `shader` once. `buffers[i]` is what binding `i` holds, before and after.
    pub fn run(&self, shader: &Shader, buffers: &mut [Vec<u8>], checked: bool) {
        let checks = match checked {
            true => wgpu::ShaderRuntimeChecks::checked(),
            false => wgpu::ShaderRuntimeChecks::unchecked(),
        };
        let source = wgpu::ShaderSource::Naga(Cow::Owned((*shader.module).clone()));
        let describe = wgpu::ShaderModuleDescriptor { label: None, source };
        // SAFETY: codegen's modules are in bounds and end by construction; these tests are there to see it.
        let module = unsafe { self.device.create_shader_module_trusted(describe, checks) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
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
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let made: Vec<wgpu::Buffer> = buffers
            .iter()
            .map(|bytes| {
                let size = bytes.len() as u64;
                let describe = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
                let buffer = self.device.create_buffer(&describe);
                self.queue.write_buffer(&buffer, 0, bytes);
                buffer
            })
            .collect();
        // A binding that the code never uses is not in the pipeline's layout.
        let used = used_bindings(&shader.module);
        let entries: Vec<_> = made
            .iter()
            .enumerate()
            .filter(|(at, _)| used[*at])
            .map(|(at, it)| wgpu::BindGroupEntry { binding: at as u32, resource: it.as_entire_binding() })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = shader.groups;
            pass.dispatch_workgroups(x, y, z);
        }
        let back: Vec<wgpu::Buffer> = made
            .iter()
            .map(|it| {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let describe =
                    wgpu::BufferDescriptor { label: None, size: it.size(), usage, mapped_at_creation: false };
                let buffer = self.device.create_buffer(&describe);
                encoder.copy_buffer_to_buffer(it, 0, &buffer, 0, it.size());
                buffer
            })
            .collect();
        self.queue.submit([encoder.finish()]);
        for it in &back {
            it.map_async(wgpu::MapMode::Read, .., |it| it.expect("a buffer maps"));
        }
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
        for (buffer, bytes) in back.iter().zip(buffers) {
            bytes.copy_from_slice(&buffer.get_mapped_range(..).expect("it is mapped"));
        }
    }
}

fn used_bindings(module: &naga::Module) -> Vec<bool> {
    let info = naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        wgfuse_compiler::codegen::shader::CAPABILITIES,
    )
    .validate(module)
    .expect("codegen's modules are valid");
    let entry = info.get_entry_point(0);
    let bound = module.global_variables.iter().filter(|(_, it)| it.binding.is_some());
    bound.map(|(handle, _)| !entry[handle].is_empty()).collect()
}

/// The device form of a tensor.
pub fn to_device(ty: &Type, values: &[Scalar]) -> Vec<u8> {
    assert_eq!(values.len(), ty.shape.count());
    let mut bytes: Vec<u8> = Vec::new();
    for &value in values {
        match ty.dtype {
            DType::F16 => bytes.extend(half::f16::from_f64(value.as_f64()).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f64(value.as_f64()).to_le_bytes()),
            it if !it.has_device_form() => unreachable!("{it} is never on the device"),
            it if it.is_float() => bytes.extend((value.as_f64() as f32).to_le_bytes()),
            _ => bytes.extend((value.as_i64() as u32).to_le_bytes()),
        }
    }
    bytes.resize(device_bytes(ty) as usize, 0);
    bytes
}

/// The tensor whose device form `bytes` is.
pub fn from_device(ty: &Type, bytes: &[u8]) -> Vec<Scalar> {
    let half = |at: usize| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
    let word = |at: usize| u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"));
    let one = |at: usize| match (ty.dtype, ty.dtype.class()) {
        (DType::F16, _) => Scalar::Float(half::f16::from_bits(half(at)).to_f64()),
        (DType::BF16, _) => Scalar::Float(half::bf16::from_bits(half(at)).to_f64()),
        (_, Class::Float) => Scalar::Float(f32::from_bits(word(at)) as f64),
        (_, Class::Signed) => Scalar::Int(word(at) as i32 as i64),
        (_, Class::Unsigned | Class::Bool) => Scalar::Int(word(at) as i64),
    };
    (0..ty.shape.count()).map(one).collect()
}
