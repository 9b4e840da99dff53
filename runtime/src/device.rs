//! A `Device` is a GPU opened through wgpu or the processor; either way it says, as a `Target`, what
//! the compiler may use. A lost GPU is opened again when it is next needed.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use wgfuse_compiler::target::{Place, Target};

use crate::{
    adapter::{
        AdapterSummary, adapters, cooperative, is_software, kind, open, ranked, suitable, target, wanted,
    },
    counters::{Counters, Counts},
    disabled::DisabledReason,
    error::{DeviceError, Result},
    gpu::Gpu,
    store::Store,
    tally::{Tallies, Tally},
};

/// Where sessions run. Cloning shares it.
///
/// NVIDIA's driver for Vulkan (580.159) was seen to wait for ever where a thread that had used it ended while another gave up
/// a device: join such threads before the last clone of a device goes.
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
    /// Whether plans are shared with other sessions of the process.
    shares: bool,
    gpu: Mutex<Option<Arc<Gpu>>>,
    counters: Arc<Counters>,
    tallies: Arc<Tallies>,
}

/// How a lost device is opened again.
#[derive(Clone, Debug)]
enum Origin {
    Cpu,
    Adapter(Box<wgpu::AdapterInfo>),
    /// The application's own: it alone can make a new one.
    Given,
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
        let (found, software) = ranked().await;
        let mut why = String::new();
        // The driver of the best one may refuse to open it; the next may not.
        for adapter in found.into_iter().filter(|it| !is_software(it)) {
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
        let (found, _) = ranked().await;
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
        let found = adapters(wgpu::Backends::all()).await;
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
        adapters(wgpu::Backends::all()).await.into_iter().enumerate().map(summary).collect()
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
        let gpu = self.gpu_open();
        self.like(inner.target.limited_to(limits), inner.store.clone(), gpu)
    }

    /// The same device, keeping what is slow to make (plans, pipelines) in this folder between processes, or nowhere, then not in memory
    /// for other sessions either. Without this call
    /// the environment variable `WGFUSE_CACHE` names the folder, `off` for none; else it is `wgfuse` in the user's cache folder.
    pub fn cache_in(&self, folder: Option<&Path>) -> Device {
        self.keeping_in(folder.map(Store::new))
    }

    pub(crate) fn keeping_in(&self, store: Option<Store>) -> Device {
        let inner = &self.inner;
        let gpu = self.gpu_open();
        let gpu = gpu.map(|it| Arc::new(it.keeping_in(store.clone())));
        let shares = store.is_some() && inner.shares;
        self.like(inner.target.clone(), store, gpu).with_shares(shares)
    }

    /// The same device, whose sessions take plans that other sessions of the process have compiled, and give theirs: they do unless
    /// `cache_in` or `WGFUSE_CACHE=off` say otherwise. What is shared are kernels and decisions, never weights.
    pub fn share_plans(&self, share: bool) -> Device {
        let inner = &self.inner;
        self.like(inner.target.clone(), inner.store.clone(), self.gpu_open()).with_shares(share)
    }

    fn with_shares(mut self, shares: bool) -> Device {
        Arc::get_mut(&mut self.inner).expect("just made").shares = shares;
        self
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
                shares: inner.shares,
                gpu: Mutex::new(gpu),
                counters: inner.counters.clone(),
                tallies: inner.tallies.clone(),
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

    /// Objects of the graphics API, and plans, made so far.
    pub fn counts(&self) -> Counts {
        self.inner.counters.counts()
    }

    /// What all its sessions were asked for so far, and what came of it.
    pub fn tally(&self) -> Tally {
        self.inner.tallies.tally()
    }

    pub(crate) fn tallies(&self) -> &Arc<Tallies> {
        &self.inner.tallies
    }

    /// What tells this adapter with this driver from any other; none for the processor.
    #[cfg(not(target_arch = "wasm32"))]
    #[cfg(feature = "compiler")]
    pub(crate) fn identity(&self) -> Option<Vec<u8>> {
        let info = self.wgpu()?.0.adapter_info();
        let names = [&info.name, &info.driver, &info.driver_info].map(|it| it.as_str()).join("\0");
        let numbers = [info.vendor, info.device, info.backend as u32];
        Some(names.into_bytes().into_iter().chain(numbers.into_iter().flat_map(u32::to_le_bytes)).collect())
    }

    #[cfg(feature = "compiler")]
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Whether plans are kept at all.
    #[cfg(feature = "compiler")]
    pub(crate) fn keeps_plans(&self) -> bool {
        self.inner.shares || self.inner.store.is_some()
    }

    /// Where plans are kept on disk.
    #[cfg(feature = "compiler")]
    pub(crate) fn folder(&self) -> Option<std::path::PathBuf> {
        self.inner.store.as_ref().map(|it| it.folder().to_owned())
    }

    #[cfg(feature = "compiler")]
    pub(crate) fn shares_plans(&self) -> bool {
        self.inner.shares
    }

    /// What is kept on disk for it.
    #[cfg(not(target_arch = "wasm32"))]
    #[cfg(feature = "compiler")]
    pub(crate) fn store(&self) -> Option<&Store> {
        self.inner.store.as_ref()
    }

    /// The wgpu device and queue in use, for an application that shares them. `None` for the processor.
    pub fn wgpu(&self) -> Option<(wgpu::Device, wgpu::Queue)> {
        self.gpu_open().map(|it| (it.device.clone(), it.queue.clone()))
    }

    /// The device that was opened last, lost or not. `None` for the processor.
    pub(crate) fn gpu_open(&self) -> Option<Arc<Gpu>> {
        self.inner.gpu.lock().expect("nothing panics inside").clone()
    }

    /// The open device, opened again if it was lost.
    pub(crate) async fn gpu_now(&self) -> std::result::Result<Arc<Gpu>, DeviceError> {
        let lost = match self.gpu_open() {
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
        let found = adapters(wgpu::Backends::from(wanted.backend)).await;
        let adapter = found.into_iter().find(same).ok_or(DeviceError::Lost(lost))?;
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
        Device {
            inner: Arc::new(Inner {
                name,
                target,
                reason: None,
                origin,
                store,
                shares: !Store::is_off(),
                gpu,
                counters,
                tallies: Arc::default(),
            }),
        }
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
