//! Adapters: which there are, which are better, what the compiler may use of each, and opening one.

use std::sync::{Arc, OnceLock};

use wgfuse_compiler::target::{Place, Target};

use crate::{counters::Counters, error::DeviceError, gpu::Gpu, store::Store};

/// One adapter, as `wgfuse devices` lists it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// What `Device::adapter` takes.
    pub index: usize,
    pub name: String,
    pub backend: String,
    /// "discrete", "integrated", "virtual", "software" or "other".
    pub kind: &'static str,
    pub driver: String,
    pub target: Target,
    pub timestamps: bool,
    /// Whether `Device::best` would take it if it were the only one.
    pub suitable: bool,
}

pub(crate) async fn open(
    adapter: &wgpu::Adapter,
    store: Option<Store>,
    counters: Arc<Counters>,
) -> Result<Gpu, DeviceError> {
    let mut limits = adapter.limits();
    // Some adapters report more than wgpu's own layout inference can hold.
    limits.max_bind_groups = limits.max_bind_groups.min(8);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgfuse"),
        required_features: adapter.features() & wanted(),
        required_limits: limits,
        memory_hints: wgpu::MemoryHints::Performance,
        // SAFETY: of the experimental features only cooperative matrices are asked for. Codegen's modules are validated, and use
        // them as the adapter lists them, in uniform control flow and in bounds.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    let (device, queue) = adapter
        .request_device(&descriptor)
        .await
        .map_err(|it| DeviceError::NoAdapter(format!("{} does not open: {it}", adapter.get_info().name)))?;
    let lost: Arc<OnceLock<String>> = Arc::default();
    let mark = lost.clone();
    device.set_device_lost_callback(move |reason, message| {
        let _ = mark.set(format!("{reason:?} {message}").trim().to_owned());
    });
    // Errors are collected by scopes; one that escapes them must not end the program.
    device.on_uncaptured_error(Arc::new(|error| tracing::error!("{error}")));
    Ok(Gpu::new(device, queue, store, counters, lost))
}

pub(crate) fn wanted() -> wgpu::Features {
    wgpu::Features::SUBGROUP
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::SHADER_F16
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

/// Rows, columns and depth of the products of f16 that subgroups add up in f32.
pub(crate) fn cooperative(adapter: &wgpu::Adapter) -> Vec<[u32; 3]> {
    let (half, single) = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
    let all = adapter.cooperative_matrix_properties().into_iter();
    let fitting = all.filter(|it| it.ab_type == half && it.cr_type == single && !it.saturating_accumulation);
    fitting.map(|it| [it.m_size, it.n_size, it.k_size]).collect()
}

/// OpenGL is asked for only where nothing else has hardware: NVIDIA's driver may wait for ever where one thread ends EGL while
/// another gives up a Vulkan device.
pub(crate) const FIRST: wgpu::Backends = wgpu::Backends::all().difference(wgpu::Backends::GL);

pub(crate) async fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(descriptor);
    if cfg!(target_arch = "wasm32") {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        return instance.request_adapter(&options).await.into_iter().collect();
    }
    instance.enumerate_adapters(backends).await
}

pub(crate) fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

/// The suitable adapters, better ones first, and how many there are that are software. OpenGL's are among them only where
/// nothing else has hardware.
pub(crate) async fn ranked() -> (Vec<wgpu::Adapter>, usize) {
    let fits = |it: &wgpu::Adapter| suitable(it) && !is_software(it);
    let mut found = adapters(FIRST).await;
    if !found.iter().any(fits) {
        found = adapters(wgpu::Backends::all()).await;
    }
    let software = found.iter().filter(|it| is_software(it)).count();
    found.retain(suitable);
    found.sort_by_key(|it| std::cmp::Reverse(rank(&it.get_info())));
    (found, software)
}

pub(crate) fn suitable(adapter: &wgpu::Adapter) -> bool {
    let flags = adapter.get_downlevel_capabilities().flags;
    flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        && adapter.limits().max_storage_buffers_per_shader_stage >= 8
}

/// Larger is better.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 4,
        wgpu::DeviceType::VirtualGpu => 3,
        wgpu::DeviceType::IntegratedGpu => 2,
        wgpu::DeviceType::Other => 1,
        wgpu::DeviceType::Cpu => 0,
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan | wgpu::Backend::Metal | wgpu::Backend::BrowserWebGpu => 3,
        wgpu::Backend::Dx12 => 2,
        wgpu::Backend::Gl => 1,
        wgpu::Backend::Noop => 0,
    };
    (kind, backend)
}

pub(crate) fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

pub(crate) fn target(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    cooperative: Vec<[u32; 3]>,
) -> Target {
    // No implementation promises one allocation of 4 GiB, whatever a buffer may have.
    const LARGEST_BUFFER: u64 = 0xffe0_0000;
    Target {
        place: Place::Gpu,
        max_storage_buffers: limits
            .max_storage_buffers_per_shader_stage
            .min(limits.max_bindings_per_bind_group),
        max_binding_size: limits.max_storage_buffer_binding_size & !3,
        max_buffer_size: limits.max_buffer_size.min(LARGEST_BUFFER) & !3,
        offset_alignment: limits.min_storage_buffer_offset_alignment as u64,
        max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_size: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        max_workgroup_memory: limits.max_compute_workgroup_storage_size,
        // In a browser modules are printed, without the `enable` that subgroups need there.
        subgroup: (features.contains(wgpu::Features::SUBGROUP) && !cfg!(target_arch = "wasm32"))
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        cooperative: match features
            .contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP_BARRIER)
        {
            true => cooperative,
            false => Vec::new(),
        },
        pairs: true,
        // In SPIR-V a component is memory of its own. On Apple's systems Vulkan is made of Metal, where it need not be.
        components_apart: info.backend == wgpu::Backend::Vulkan && !cfg!(target_vendor = "apple"),
        i64: false,
    }
}
