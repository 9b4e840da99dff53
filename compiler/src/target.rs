//! What a device can do, as plain numbers. Nothing here knows a graphics API.

use std::fmt;

use crate::{
    error::Error,
    text::{Cursor, Text, spelled},
};

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

/// What a device lacks that a plan may need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lack {
    Feature(&'static str),
    Limit { at: &'static str, need: u64, have: u64 },
}

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

    /// What plans for `self` may need that `device` has not.
    pub fn lacking(&self, device: &Target) -> Option<Lack> {
        let Target {
            place: _,
            max_storage_buffers,
            max_binding_size,
            max_buffer_size,
            offset_alignment,
            max_workgroup_invocations,
            max_workgroup_size,
            max_workgroups_per_dimension,
            max_workgroup_memory,
            subgroup,
            f16,
            cooperative,
            pairs,
            components_apart,
            i64,
        } = self;
        let sizes = match (subgroup, device.subgroup) {
            (None, _) => true,
            (Some((least, most)), Some((a, b))) => *least <= a && b <= *most,
            (Some(_), None) => false,
        };
        let features = [
            (sizes, "subgroups of the sizes it was compiled for"),
            (!f16 || device.f16, "16-bit floats"),
            (
                cooperative.iter().all(|it| device.cooperative.contains(it)),
                "the cooperative matrices it was compiled for",
            ),
            (!pairs || device.pairs, "products of pairs of 16-bit floats"),
            (!components_apart || device.components_apart, "components of a vector that are written apart"),
            (!i64 || device.i64, "64-bit integers"),
        ];
        if let Some((_, what)) = features.into_iter().find(|it| !it.0) {
            return Some(Lack::Feature(what));
        }
        let size = |at: usize| (u64::from(max_workgroup_size[at]), u64::from(device.max_workgroup_size[at]));
        let limits = [
            (
                "storage buffers of a kernel",
                (u64::from(*max_storage_buffers), u64::from(device.max_storage_buffers)),
            ),
            ("bytes of a binding", (*max_binding_size, device.max_binding_size)),
            ("bytes of a buffer", (*max_buffer_size, device.max_buffer_size)),
            (
                "invocations of a workgroup",
                (u64::from(*max_workgroup_invocations), u64::from(device.max_workgroup_invocations)),
            ),
            ("invocations along x", size(0)),
            ("invocations along y", size(1)),
            ("invocations along z", size(2)),
            (
                "workgroups along an axis",
                (u64::from(*max_workgroups_per_dimension), u64::from(device.max_workgroups_per_dimension)),
            ),
            (
                "bytes of workgroup memory",
                (u64::from(*max_workgroup_memory), u64::from(device.max_workgroup_memory)),
            ),
            // Multiples of one power of two are multiples of the smaller.
            ("bytes that bindings are aligned to", (device.offset_alignment, *offset_alignment)),
        ];
        let short = limits.into_iter().find(|(_, (need, have))| need > have);
        short.map(|(at, (need, have))| Lack::Limit { at, need, have })
    }

    /// What `Display` has printed.
    pub fn parse(text: &str) -> Result<Target, Error> {
        Cursor::all(text, |from| {
            let target = Text::parse(from)?;
            from.end()?;
            if from.is_done() { Ok(target) } else { from.wrong("one target was expected") }
        })
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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f)
    }
}
