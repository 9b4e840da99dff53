//! What a device can do, as plain numbers. Nothing here knows a graphics API.

use crate::text::spelled;

/// Where a kernel runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    Gpu,
    Cpu,
}

spelled!(enum Place { Gpu "gpu"; Cpu "cpu"; });

/// The device that a plan is made for. Sizes are in bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where everything runs that can.
    pub place: Place,
    pub max_storage_buffers: u32,
    pub max_binding_size: u64,
    pub max_buffer_size: u64,
    /// Bindings start at multiples of this.
    pub offset_alignment: u64,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_size: [u32; 3],
    pub max_workgroups_per_dimension: u32,
    pub max_workgroup_memory: u32,
    /// Smallest and largest number of invocations in a subgroup, where subgroup operations may be used.
    pub subgroup: Option<(u32, u32)>,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Rows, columns and depth of the matrices of f16 whose products a subgroup adds up in f32. Subgroups then have barriers of
    /// their own.
    pub cooperative: Vec<[u32; 3]>,
    /// Products of f32 may run on those, each number as a pair of f16.
    pub pairs: bool,
    /// Invocations may write different components of one vector in workgroup memory at the same time. WGSL lets a write to a
    /// component access the whole vector (<https://github.com/gpuweb/gpuweb/issues/2112>).
    pub components_apart: bool,
    /// 64-bit integers in shaders.
    pub i64: bool,
}

spelled!(struct Target {
    place, max_storage_buffers, max_binding_size, max_buffer_size, offset_alignment, max_workgroup_invocations,
    max_workgroup_size, max_workgroups_per_dimension, max_workgroup_memory, subgroup, f16, cooperative, pairs,
    components_apart, i64
});

impl Target {
    /// The processor: no limit but memory.
    pub fn cpu() -> Target {
        Target {
            place: Place::Cpu,
            max_storage_buffers: u32::MAX,
            max_binding_size: u64::MAX,
            max_buffer_size: isize::MAX as u64,
            offset_alignment: 64,
            max_workgroup_invocations: u32::MAX,
            max_workgroup_size: [u32::MAX; 3],
            max_workgroups_per_dimension: u32::MAX,
            max_workgroup_memory: u32::MAX,
            subgroup: None,
            f16: false,
            cooperative: Vec::new(),
            pairs: false,
            components_apart: false,
            i64: true,
        }
    }

    /// What every WebGPU implementation guarantees (WebGPU specification, section 3.6.2 "Limits").
    pub fn webgpu_minimum() -> Target {
        Target {
            place: Place::Gpu,
            max_storage_buffers: 8,
            max_binding_size: 128 << 20,
            max_buffer_size: 256 << 20,
            offset_alignment: 256,
            max_workgroup_invocations: 256,
            max_workgroup_size: [256, 256, 64],
            max_workgroups_per_dimension: 65_535,
            max_workgroup_memory: 16_384,
            subgroup: None,
            f16: false,
            cooperative: Vec::new(),
            pairs: false,
            components_apart: false,
            i64: false,
        }
    }

    /// The stricter of the two in every number.
    pub fn limited_to(&self, other: &Target) -> Target {
        let size = |a: [u32; 3], b: [u32; 3]| [a[0].min(b[0]), a[1].min(b[1]), a[2].min(b[2])];
        Target {
            place: self.place,
            max_storage_buffers: self.max_storage_buffers.min(other.max_storage_buffers),
            max_binding_size: self.max_binding_size.min(other.max_binding_size),
            max_buffer_size: self.max_buffer_size.min(other.max_buffer_size),
            offset_alignment: self.offset_alignment.max(other.offset_alignment),
            max_workgroup_invocations: self.max_workgroup_invocations.min(other.max_workgroup_invocations),
            max_workgroup_size: size(self.max_workgroup_size, other.max_workgroup_size),
            max_workgroups_per_dimension: self
                .max_workgroups_per_dimension
                .min(other.max_workgroups_per_dimension),
            max_workgroup_memory: self.max_workgroup_memory.min(other.max_workgroup_memory),
            subgroup: self.subgroup.and(other.subgroup).and(self.subgroup),
            f16: self.f16 && other.f16,
            cooperative: (self.cooperative.iter().copied())
                .filter(|it| other.cooperative.contains(it))
                .collect(),
            pairs: self.pairs && other.pairs,
            components_apart: self.components_apart && other.components_apart,
            i64: self.i64 && other.i64,
        }
    }
}
