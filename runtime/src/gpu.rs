//! An open wgpu device and what is shared by all that run on it.

use std::sync::{Arc, OnceLock};

#[cfg(not(target_arch = "wasm32"))]
use crate::attendant::{Attendant, Forsaken, wait};
use crate::{
    counters::Counters, error::DeviceError, pipeline_cache::Pipelines, recorder::Recorder, store::Store,
};

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

impl Gpu {
    pub fn new(
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

    /// The same device, with pipelines of its own that are kept in `store`.
    pub fn keeping_in(&self, store: Option<Store>) -> Gpu {
        let (device, queue) = (self.device.clone(), self.queue.clone());
        Gpu::new(device, queue, store, self.counters.clone(), self.lost.clone())
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
    pub async fn scoped<T>(&self, at: &str, make: impl FnOnce() -> T) -> Result<T, DeviceError> {
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
                Err(self.refusal(at, description))
            }
        }
    }

    /// Why the device refused something: it may be lost, of which no scope tells.
    pub fn refusal(&self, at: &str, what: String) -> DeviceError {
        if self.lost().is_none() && !self.makes_buffers() {
            self.lose("it makes no buffers any more");
        }
        match self.lost() {
            Some(why) => DeviceError::Lost(why),
            None => DeviceError::Refused { at: at.to_owned(), what },
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
