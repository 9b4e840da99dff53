//! Adapters to devices. A `Device` is a GPU opened through wgpu or the processor; either way it says, as a `Target`, what
//! the compiler may use. A lost GPU is opened again when it is next needed.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};
#[cfg(not(target_arch = "wasm32"))]
use std::{
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use wgfuse_compiler::target::{Place, Target};

use crate::{
    counters::{Counters, Counts},
    disabled::DisabledReason,
    error::{DeviceError, Result},
    pipeline_cache::Pipelines,
    recorder::Recorder,
    store::Store,
};

/// Where sessions run. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    target: Target,
    reason: Option<DisabledReason>,
    origin: Origin,
    store: Option<Store>,
    gpu: Mutex<Option<Arc<Gpu>>>,
    counters: Arc<Counters>,
}

/// How a lost device is opened again.
#[derive(Clone, Debug)]
enum Origin {
    Cpu,
    Adapter(Box<wgpu::AdapterInfo>),
    /// The application's own: it alone can make a new one.
    Given,
}

/// Called if the device is lost before it is done.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Forsaken = Box<dyn FnOnce() + Send>;

/// An open wgpu device, until it is lost.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub timestamps: bool,
    /// Not software, which computes on the very processors that would spin.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    pub hardware: bool,
    pub pipelines: Pipelines,
    pub counters: Arc<Counters>,
    store: Option<Store>,
    recorder: OnceLock<Option<Arc<Recorder>>>,
    /// Wakes the thread that waits for the device.
    #[cfg(not(target_arch = "wasm32"))]
    attendant: OnceLock<Option<Attendant>>,
    lost: Arc<OnceLock<String>>,
}

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

impl Device {
    /// The processor.
    pub fn cpu() -> Device {
        Device::processor(DisabledReason::SwitchedOff)
    }

    /// The best GPU that is not software, else the processor with the reason why. The environment variable
    /// `WGFUSE_DEVICE` (`auto`, `gpu`, `cpu` or an adapter's number) overrides the choice.
    pub async fn best_async() -> Result<Device> {
        match std::env::var("WGFUSE_DEVICE").as_deref().map(str::trim) {
            Ok("cpu") => return Ok(Device::cpu()),
            Ok("gpu") => return Device::gpu_async().await,
            Ok("" | "auto") | Err(_) => {}
            Ok(text) => {
                let index = text.parse().map_err(|_| {
                    DeviceError::NoAdapter(format!(
                        "WGFUSE_DEVICE is '{text}', not auto, gpu, cpu or a number"
                    ))
                })?;
                return Device::adapter_async(index).await;
            }
        }
        let mut found = adapters().await;
        let software = found.iter().filter(|it| it.get_info().device_type == wgpu::DeviceType::Cpu).count();
        found.retain(|it| it.get_info().device_type != wgpu::DeviceType::Cpu && suitable(it));
        // The driver of the best one may refuse to open it; the next may not.
        found.sort_by_key(|it| std::cmp::Reverse(rank(&it.get_info())));
        let mut why = String::new();
        for adapter in found {
            match Device::open(adapter).await {
                Ok(device) => return Ok(device),
                Err(error) => why = format!(": {error}"),
            }
        }
        if why.is_empty() && software > 0 {
            why = format!(" but {software} that are software (ask for one with `gpu` or its number)");
        }
        Ok(Device::processor(DisabledReason::NoAdapter(why)))
    }

    /// The best adapter, software or not.
    pub async fn gpu_async() -> Result<Device> {
        let mut found = adapters().await;
        found.retain(suitable);
        found.sort_by_key(|it| std::cmp::Reverse(rank(&it.get_info())));
        let mut error = DeviceError::NoAdapter("none was found that can compute".into());
        for adapter in found {
            match Device::open(adapter).await {
                Ok(device) => return Ok(device),
                Err(it) => error = it,
            }
        }
        Err(error.into())
    }

    /// The adapter with this number in `adapters()`.
    pub async fn adapter_async(index: usize) -> Result<Device> {
        let found = adapters().await;
        let count = found.len();
        let adapter = found.into_iter().nth(index);
        let adapter =
            adapter.ok_or_else(|| DeviceError::NoAdapter(format!("number {index}; there are {count}")))?;
        Ok(Device::open(adapter).await?)
    }

    pub async fn adapters_async() -> Vec<AdapterSummary> {
        let summary = |(index, adapter): (usize, wgpu::Adapter)| {
            let info = adapter.get_info();
            let features = adapter.features() & wanted();
            AdapterSummary {
                index,
                name: info.name.clone(),
                backend: info.backend.to_string(),
                kind: kind(&info),
                driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
                target: target(&info, features, &adapter.limits(), cooperative(&adapter)),
                timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
                suitable: info.device_type != wgpu::DeviceType::Cpu && suitable(&adapter),
            }
        };
        adapters().await.into_iter().enumerate().map(summary).collect()
    }

    /// The application's own device. It decides which features and limits there are.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Device {
        let info = device.adapter_info();
        // A device does not say which matrices its adapter multiplies.
        let target = target(&info, device.features(), &device.limits(), Vec::new());
        let counters = Arc::new(Counters::default());
        let store = Store::from_environment();
        let gpu = Gpu::new(device, queue, store.clone(), counters.clone(), Arc::default());
        Device::with(info.name, target, Origin::Given, store, Some(gpu), counters)
    }

    /// The same device held to the stricter of its own and these limits.
    pub fn limited_to(&self, limits: &Target) -> Device {
        let inner = &self.inner;
        let gpu = inner.gpu.lock().expect("nothing panics inside").clone();
        self.like(inner.target.limited_to(limits), inner.store.clone(), gpu)
    }

    /// The same device, keeping what is slow to make (pipelines) in this folder between processes, or nowhere. Without this call
    /// the environment variable `WGFUSE_CACHE` names the folder, `off` for none; else it is `wgfuse` in the user's cache folder.
    pub fn cache_in(&self, folder: Option<&Path>) -> Device {
        let inner = &self.inner;
        let store = folder.map(Store::new);
        let gpu = inner.gpu.lock().expect("nothing panics inside").as_ref().map(|it| {
            let (device, queue) = (it.device.clone(), it.queue.clone());
            Arc::new(Gpu::new(device, queue, store.clone(), it.counters.clone(), it.lost.clone()))
        });
        self.like(inner.target.clone(), store, gpu)
    }

    fn like(&self, target: Target, store: Option<Store>, gpu: Option<Arc<Gpu>>) -> Device {
        let inner = &self.inner;
        Device {
            inner: Arc::new(Inner {
                name: inner.name.clone(),
                target,
                reason: inner.reason.clone(),
                origin: inner.origin.clone(),
                store,
                gpu: Mutex::new(gpu),
                counters: inner.counters.clone(),
            }),
        }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    pub fn is_gpu(&self) -> bool {
        self.inner.target.place == Place::Gpu
    }

    /// Why this is the processor; `None` for a GPU.
    pub fn disabled_reason(&self) -> Option<&DisabledReason> {
        self.inner.reason.as_ref()
    }

    /// Objects of the graphics API made so far.
    pub fn counts(&self) -> Counts {
        self.inner.counters.counts()
    }

    /// The wgpu device and queue in use, for an application that shares them. `None` for the processor.
    pub fn wgpu(&self) -> Option<(wgpu::Device, wgpu::Queue)> {
        let gpu = self.inner.gpu.lock().expect("nothing panics inside");
        gpu.as_ref().map(|it| (it.device.clone(), it.queue.clone()))
    }

    /// The open device, opened again if it was lost.
    pub(crate) async fn gpu_now(&self) -> std::result::Result<Arc<Gpu>, DeviceError> {
        let held = self.inner.gpu.lock().expect("nothing panics inside").clone();
        let lost = match held {
            Some(gpu) => match gpu.lost() {
                None => return Ok(gpu),
                Some(why) => why,
            },
            None => "it was never opened".to_owned(),
        };
        let Origin::Adapter(wanted) = &self.inner.origin else {
            let advice =
                "it is the application's own, which has to open another and make a new session with it";
            return Err(DeviceError::Lost(format!("{lost}; {advice}")));
        };
        let same = |it: &wgpu::Adapter| {
            let info = it.get_info();
            (info.backend, info.vendor, info.device) == (wanted.backend, wanted.vendor, wanted.device)
                && info.name == wanted.name
        };
        let adapter = adapters().await.into_iter().find(same).ok_or(DeviceError::Lost(lost))?;
        let gpu = Arc::new(open(&adapter, self.inner.store.clone(), self.inner.counters.clone()).await?);
        *self.inner.gpu.lock().expect("nothing panics inside") = Some(gpu.clone());
        Ok(gpu)
    }

    async fn open(adapter: wgpu::Adapter) -> std::result::Result<Device, DeviceError> {
        let info = adapter.get_info();
        let counters = Arc::new(Counters::default());
        let store = Store::from_environment();
        let gpu = open(&adapter, store.clone(), counters.clone()).await?;
        let target = target(&info, gpu.device.features(), &gpu.device.limits(), cooperative(&adapter));
        Ok(Device::with(
            info.name.clone(),
            target,
            Origin::Adapter(Box::new(info)),
            store,
            Some(gpu),
            counters,
        ))
    }

    fn processor(reason: DisabledReason) -> Device {
        let mut device = Device::with(
            "processor".into(),
            Target::cpu(),
            Origin::Cpu,
            None,
            None,
            Arc::new(Counters::default()),
        );
        Arc::get_mut(&mut device.inner).expect("just made").reason = Some(reason);
        device
    }

    fn with(
        name: String,
        target: Target,
        origin: Origin,
        store: Option<Store>,
        gpu: Option<Gpu>,
        counters: Arc<Counters>,
    ) -> Device {
        let gpu = Mutex::new(gpu.map(Arc::new));
        Device { inner: Arc::new(Inner { name, target, reason: None, origin, store, gpu, counters }) }
    }
}

/// Forms that block the thread.
#[cfg(not(target_arch = "wasm32"))]
impl Device {
    /// See `best_async`.
    pub fn best() -> Result<Device> {
        pollster::block_on(Device::best_async())
    }

    /// See `gpu_async`.
    pub fn gpu() -> Result<Device> {
        pollster::block_on(Device::gpu_async())
    }

    /// See `adapter_async`.
    pub fn adapter(index: usize) -> Result<Device> {
        pollster::block_on(Device::adapter_async(index))
    }

    /// Every adapter, in the order of their numbers.
    pub fn adapters() -> Vec<AdapterSummary> {
        pollster::block_on(Device::adapters_async())
    }
}

impl Gpu {
    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        store: Option<Store>,
        counters: Arc<Counters>,
        lost: Arc<OnceLock<String>>,
    ) -> Gpu {
        let timestamps = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let hardware = device.adapter_info().device_type != wgpu::DeviceType::Cpu;
        let (pipelines, recorder) = (Pipelines::default(), OnceLock::new());
        Gpu {
            device,
            queue,
            timestamps,
            hardware,
            pipelines,
            counters,
            store,
            recorder,
            #[cfg(not(target_arch = "wasm32"))]
            attendant: OnceLock::new(),
            lost,
        }
    }

    /// What records launches, where that can be done. Recordings are timed by timestamps alone.
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        let new = || Recorder::of(&self.device, self.store.clone(), &self.counters).map(Arc::new);
        self.recorder.get_or_init(|| self.timestamps.then(new).flatten()).as_ref()
    }

    /// Lets a thread of its own, which lives as long as `self`, wait until the device is done, so that callbacks are called.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn attend(&self, forsaken: Forsaken) {
        let new = || Attendant::new(self.device.clone(), self.lost.clone());
        let unsent = match self.attendant.get_or_init(new) {
            Some(attendant) => attendant.wake(forsaken),
            None => Err(forsaken),
        };
        if let Err(forsaken) = unsent {
            wait(&self.device, &self.lost, vec![forsaken]);
        }
    }

    pub fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }

    /// From now on the device counts as lost.
    pub fn lose(&self, why: &str) {
        let _ = self.lost.set(why.to_owned());
    }

    /// What `make` gives, or the error that the device reported meanwhile, with `at` as its place.
    pub async fn scoped<T>(&self, at: &str, make: impl FnOnce() -> T) -> std::result::Result<T, DeviceError> {
        // Scopes belong to this thread: all are closed, in reverse order, before anything is awaited.
        let (made, closed) = {
            let [internal, validation, memory] =
                [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory]
                    .map(|it| self.device.push_error_scope(it));
            let made = make();
            (made, [memory.pop(), validation.pop(), internal.pop()])
        };
        let mut first = None;
        for scope in closed {
            first = first.or(scope.await);
        }
        match first {
            None => match self.lost() {
                None => Ok(made),
                Some(why) => Err(DeviceError::Lost(why)),
            },
            Some(wgpu::Error::OutOfMemory { .. }) => Err(DeviceError::OutOfMemory(at.to_owned())),
            Some(wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. }) => {
                // What was made on a lost device is refused, and no scope says why.
                if self.lost().is_none() && !self.makes_buffers() {
                    self.lose("it makes no buffers any more");
                }
                match self.lost() {
                    Some(why) => Err(DeviceError::Lost(why)),
                    None => Err(DeviceError::Refused { at: at.to_owned(), what: description }),
                }
            }
        }
    }

    /// Whether the smallest buffer can be made and written.
    fn makes_buffers(&self) -> bool {
        let usage = wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: true };
        // An application's device may end the program at an error that nobody asked about.
        let _invalid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let _full = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        self.device.create_buffer(&descriptor).slice(..).get_mapped_range().is_ok()
    }
}

/// Waits for all that was submitted; if the device is lost meanwhile, tells those whom wgpu will not call back.
#[cfg(not(target_arch = "wasm32"))]
fn wait(device: &wgpu::Device, lost: &OnceLock<String>, forsaken: Vec<Forsaken>) {
    if let Err(why) = crate::poll::wait(device) {
        let _ = lost.set(why);
        forsaken.into_iter().for_each(|it| it());
    }
}

/// A thread that waits for a device whenever it is woken.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
struct Attendant {
    waker: Option<Sender<Forsaken>>,
    thread: Option<JoinHandle<()>>,
}

#[cfg(not(target_arch = "wasm32"))]
impl Attendant {
    /// `None` where there are no more threads.
    fn new(device: wgpu::Device, lost: Arc<OnceLock<String>>) -> Option<Attendant> {
        let (waker, woken) = channel();
        let attend = move || {
            while let Ok(first) = woken.recv() {
                // One wait is for all that was submitted before it.
                wait(&device, &lost, std::iter::once(first).chain(woken.try_iter()).collect());
            }
        };
        let thread = thread::Builder::new().name("wgfuse device".into()).spawn(attend).ok()?;
        Some(Attendant { waker: Some(waker), thread: Some(thread) })
    }

    fn wake(&self, forsaken: Forsaken) -> std::result::Result<(), Forsaken> {
        match &self.waker {
            Some(waker) => waker.send(forsaken).map_err(|it| it.0),
            None => Err(forsaken),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Drop for Attendant {
    /// Waits for the thread: left alone it might give up the device while the program ends, which drivers do not survive.
    fn drop(&mut self) {
        self.waker = None;
        match self.thread.take() {
            // A callback on the thread itself may have held the last of the device.
            Some(thread) if thread.thread().id() != thread::current().id() => {
                let _ = thread.join();
            }
            _ => {}
        }
    }
}

async fn open(
    adapter: &wgpu::Adapter,
    store: Option<Store>,
    counters: Arc<Counters>,
) -> std::result::Result<Gpu, DeviceError> {
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

fn wanted() -> wgpu::Features {
    wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

/// Rows, columns and depth of the products of f16 that subgroups add up in f32.
fn cooperative(adapter: &wgpu::Adapter) -> Vec<[u32; 3]> {
    let (half, single) = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
    let all = adapter.cooperative_matrix_properties().into_iter();
    let fitting = all.filter(|it| it.ab_type == half && it.cr_type == single && !it.saturating_accumulation);
    fitting.map(|it| [it.m_size, it.n_size, it.k_size]).collect()
}

async fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(descriptor);
    if cfg!(target_arch = "wasm32") {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        return instance.request_adapter(&options).await.into_iter().collect();
    }
    instance.enumerate_adapters(wgpu::Backends::all()).await
}

fn suitable(adapter: &wgpu::Adapter) -> bool {
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

fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

fn target(
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
        cooperative: match features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            true => cooperative,
            false => Vec::new(),
        },
        // In SPIR-V a component is memory of its own. On Apple's systems Vulkan is made of Metal, where it need not be.
        components_apart: info.backend == wgpu::Backend::Vulkan && !cfg!(target_vendor = "apple"),
        i64: false,
    }
}
