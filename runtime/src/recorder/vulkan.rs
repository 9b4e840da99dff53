//! What recordings of one Vulkan device share: its handle, pipelines and layouts.
//!
//! Pipelines are made from the same naga modules as wgpu's own, through the same SPIR-V writer with the same settings, so that
//! they give the same bits. wgpu hands out neither its pipelines nor its descriptor sets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use ash::vk;
use naga::{
    back::spv,
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ValidationFlags, Validator},
};
use rayon::prelude::*;
use wgfuse_compiler::{
    codegen::Shader,
    plan::{Plan, SOURCES},
};
use wgpu::hal::api::Vulkan;

use super::kept::Kept;
use crate::{
    counters::{Counters, count},
    error::DeviceError,
    store::Store,
};

pub(crate) struct Recorder {
    pub raw: ash::Device,
    pub family: u32,
    pub counters: Arc<Counters>,
    spirv: (u8, u8),
    stage: vk::PipelineShaderStageCreateFlags,
    /// By the shader's key and whether it is checked.
    pipelines: Mutex<HashMap<(u128, bool), vk::Pipeline>>,
    /// By the number of bindings.
    layouts: Mutex<BTreeMap<usize, Layout>>,
    /// Keeps what the driver makes of shaders, under keys that start with `identity`.
    store: Option<Store>,
    /// Of the device, its driver, and how shaders are written for it.
    identity: Vec<u8>,
    /// Declared last: `raw` is valid as long as this lives.
    pub device: wgpu::Device,
}

#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub set: vk::DescriptorSetLayout,
    pub pipeline: vk::PipelineLayout,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("spirv", &self.spirv).finish_non_exhaustive()
    }
}

impl Recorder {
    /// `None` where the device is not Vulkan.
    pub fn of(device: &wgpu::Device, store: Option<Store>, counters: &Arc<Counters>) -> Option<Recorder> {
        // SAFETY: only handles are taken, and `device` is kept beside them.
        let hal = unsafe { device.as_hal::<Vulkan>() }?;
        let instance = hal.shared_instance().raw_instance();
        // SAFETY: the physical device belongs to the instance.
        let properties = unsafe { instance.get_physical_device_properties(hal.raw_physical_device()) };
        // Vulkan specification, appendix "Vulkan Environment for SPIR-V".
        let version = properties.api_version.min(hal.shared_instance().instance_api_version());
        let spirv = match version {
            ..vk::API_VERSION_1_1 => (1, 0),
            vk::API_VERSION_1_1..vk::API_VERSION_1_2 => (1, 3),
            vk::API_VERSION_1_2..vk::API_VERSION_1_3 => (1, 5),
            vk::API_VERSION_1_3.. => (1, 6),
        };
        let stage = match device.features().contains(wgpu::Features::SUBGROUP) {
            true => vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE,
            false => vk::PipelineShaderStageCreateFlags::empty(),
        };
        let mut identity = properties.pipeline_cache_uuid.to_vec();
        let numbers = [properties.vendor_id, properties.device_id, properties.driver_version, version];
        identity.extend(numbers.iter().flat_map(|it| it.to_le_bytes()));
        Some(Recorder {
            raw: hal.raw_device().clone(),
            family: hal.queue_family_index(),
            counters: counters.clone(),
            spirv,
            stage,
            pipelines: Mutex::default(),
            layouts: Mutex::default(),
            store,
            identity,
            device: device.clone(),
        })
    }

    /// Makes the pipelines of a plan that do not exist yet, in parallel.
    pub fn prepare(&self, plan: &Plan, checked: bool) -> Result<(), DeviceError> {
        let missing: Vec<(&Shader, &str)> = {
            let made = self.pipelines.lock().expect("nothing panics inside");
            let mut seen = HashSet::new();
            (plan.kernels.iter())
                .filter_map(|it| Some((it.shader.as_ref()?, it.kernel.name.as_str())))
                .filter(|(shader, _)| !made.contains_key(&(shader.key, checked)) && seen.insert(shader.key))
                .collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let mut key = self.identity.clone();
        key.extend(SOURCES.as_bytes());
        key.extend(missing.iter().flat_map(|(shader, _)| shader.key.to_le_bytes()));
        key.push(checked as u8);
        let known = self.store.as_ref().and_then(|it| it.get("pipelines", &key));
        let known = known.as_deref().and_then(|it| Kept::read(it, missing.len())).unwrap_or_default();
        let cache = self.cache(known.driver)?;
        let one = |(at, (shader, name)): (usize, &(&Shader, &str))| {
            let refused = |what: String| DeviceError::Refused { at: format!("kernel {name}"), what };
            let words = match known.shaders.get(at) {
                Some(words) => words.clone(),
                None => self.words(shader, checked).map_err(refused)?,
            };
            let pipeline = self.make(&words, shader.bindings.len(), name, cache)?;
            Ok((pipeline, words))
        };
        let new: Vec<Result<_, DeviceError>> = missing.par_iter().enumerate().map(one).collect();
        // SAFETY: the cache is this function's own, and nothing is being made with it any more.
        let data = unsafe {
            let data = self.raw.get_pipeline_cache_data(cache);
            self.raw.destroy_pipeline_cache(cache, None);
            data
        };
        if let (Some(store), Ok(data)) = (&self.store, data)
            && (known.shaders.is_empty() || known.driver.len() != data.len())
            && let Some(shaders) = new.iter().map(|it| Some(it.as_ref().ok()?.1.clone())).collect()
        {
            store.put("pipelines", &key, &Kept { shaders, driver: &data }.bytes());
        }
        let mut made = self.pipelines.lock().expect("nothing panics inside");
        let mut failure = Ok(());
        for ((shader, _), pipeline) in missing.into_iter().zip(new) {
            match pipeline {
                // Another thread may have made the same one meanwhile.
                Ok((pipeline, _)) => {
                    if let Some(earlier) = made.insert((shader.key, checked), pipeline) {
                        made.insert((shader.key, checked), earlier);
                        // SAFETY: nobody else has seen this one.
                        unsafe { self.raw.destroy_pipeline(pipeline, None) };
                    }
                }
                Err(error) => failure = Err(error),
            }
        }
        failure
    }

    /// A driver's cache that starts with `known`, if it takes that.
    fn cache(&self, known: &[u8]) -> Result<vk::PipelineCache, DeviceError> {
        // SAFETY: the device is alive. The driver checks that the data are its own; the store, that they are whole.
        let new = |data: &[u8]| unsafe {
            let info = vk::PipelineCacheCreateInfo::default().initial_data(data);
            self.raw.create_pipeline_cache(&info, None)
        };
        new(known).or_else(|_| new(&[])).map_err(|it| fault("the pipelines", it))
    }

    /// One that `prepare` has made.
    pub fn pipeline(&self, shader: &Shader, checked: bool) -> vk::Pipeline {
        self.pipelines.lock().expect("nothing panics inside")[&(shader.key, checked)]
    }

    fn make(
        &self,
        words: &[u32],
        bindings: usize,
        name: &str,
        cache: vk::PipelineCache,
    ) -> Result<vk::Pipeline, DeviceError> {
        let layout = self.layout(bindings)?;
        count(&self.counters.shader_modules);
        let info = vk::ShaderModuleCreateInfo::default().code(words);
        // SAFETY: the words are a valid module, as the validator found, in this process or in the one that kept them.
        let module = unsafe { self.raw.create_shader_module(&info, None) }.map_err(|it| fault(name, it))?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .flags(self.stage)
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default().layout(layout.pipeline).stage(stage);
        count(&self.counters.pipelines);
        // SAFETY: module and layout are of this device; the layout has the module's bindings.
        let made = unsafe { self.raw.create_compute_pipelines(cache, &[info], None) };
        // SAFETY: pipelines do not need their modules any more.
        unsafe { self.raw.destroy_shader_module(module, None) };
        match made {
            Ok(pipelines) => Ok(pipelines[0]),
            Err((_, error)) => Err(fault(name, error)),
        }
    }

    /// SPIR-V; without run-time checks codegen owes the proof that none is needed.
    fn words(&self, shader: &Shader, checked: bool) -> Result<Vec<u32>, String> {
        let module = &*shader.module;
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(module)
            .map_err(|it| it.emit_to_string(""))?;
        let bounds = match checked {
            true => BoundsCheckPolicy::Restrict,
            false => BoundsCheckPolicy::Unchecked,
        };
        let options = spv::Options {
            lang_version: self.spirv,
            flags: spv::WriterFlags::empty(),
            bounds_check_policies: BoundsCheckPolicies {
                index: bounds,
                buffer: bounds,
                image_load: bounds,
                binding_array: bounds,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: checked,
            emit_int_div_checks: checked,
            ..Default::default()
        };
        let entry =
            spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
        spv::write_vec(module, &info, &options, Some(&entry)).map_err(|it| it.to_string())
    }

    pub fn layout(&self, bindings: usize) -> Result<Layout, DeviceError> {
        let mut layouts = self.layouts.lock().expect("nothing panics inside");
        if let Some(&layout) = layouts.get(&bindings) {
            return Ok(layout);
        }
        let entries: Vec<_> = (0..bindings as u32)
            .map(|it| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(it)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&entries);
        // SAFETY: the device is alive.
        let set = unsafe { self.raw.create_descriptor_set_layout(&info, None) };
        let set = set.map_err(|it| fault("a layout", it))?;
        let sets = [set];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        // SAFETY: as above.
        let pipeline = unsafe { self.raw.create_pipeline_layout(&info, None) }.map_err(|it| {
            // SAFETY: nothing else has seen it.
            unsafe { self.raw.destroy_descriptor_set_layout(set, None) };
            fault("a layout", it)
        })?;
        let layout = Layout { set, pipeline };
        layouts.insert(bindings, layout);
        Ok(layout)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let pipelines = self.pipelines.get_mut().expect("nothing panics inside");
        let layouts = self.layouts.get_mut().expect("nothing panics inside");
        // SAFETY: recordings keep their recorder, so none is left that uses these.
        unsafe {
            pipelines.values().for_each(|it| self.raw.destroy_pipeline(*it, None));
            for layout in layouts.values() {
                self.raw.destroy_pipeline_layout(layout.pipeline, None);
                self.raw.destroy_descriptor_set_layout(layout.set, None);
            }
        }
    }
}

/// A Vulkan error as ours.
pub(crate) fn fault(at: &str, error: vk::Result) -> DeviceError {
    match error {
        vk::Result::ERROR_DEVICE_LOST => DeviceError::Lost(at.to_owned()),
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
        | vk::Result::ERROR_OUT_OF_HOST_MEMORY
        | vk::Result::ERROR_OUT_OF_POOL_MEMORY => DeviceError::OutOfMemory(at.to_owned()),
        _ => DeviceError::Refused { at: at.to_owned(), what: error.to_string() },
    }
}
