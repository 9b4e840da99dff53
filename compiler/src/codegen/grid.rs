//! Dispatch sizes: a number of workgroups as three numbers within the device's limit, and back.

use naga::{BinaryOperator as B, BuiltIn};

use super::writer::{Code, Handle};
use crate::{error::Error, target::Target};

/// At least `count` workgroups. Fewer than 2^32 invocations of `size` each.
pub fn fold(count: u64, size: u32, kernel: &str, target: &Target) -> Result<[u32; 3], Error> {
    let most = target.max_workgroups_per_dimension as u64;
    let rows = count.div_ceil(most).max(1);
    let planes = rows.div_ceil(most);
    let (y, x) = (rows.div_ceil(planes), count.div_ceil(rows));
    if planes > most || x * y * planes * size as u64 > u32::MAX as u64 {
        let have = (most * most * most).min(u32::MAX as u64 / size as u64);
        return Err(Error::TooLarge { at: format!("workgroups of kernel '{kernel}'"), need: count, have });
    }
    Ok([x as u32, y as u32, planes as u32])
}

/// The number of the workgroup that the code runs in, of those that `fold` gave.
pub fn group(code: &mut Code, groups: [u32; 3]) -> Handle {
    let id = code.builtin("group", BuiltIn::WorkGroupId);
    let mut number = code.component(id, 0);
    let mut stride = groups[0];
    for (axis, &extent) in (0u32..).zip(&groups).skip(1) {
        if extent > 1 {
            let part = code.component(id, axis);
            let by = code.u32(stride);
            let part = code.binary(B::Multiply, part, by);
            number = code.binary(B::Add, number, part);
        }
        stride = stride.saturating_mul(extent);
    }
    number
}

/// The number of the invocation among all of the dispatch.
pub fn invocation(code: &mut Code, groups: [u32; 3], size: u32) -> Handle {
    let group = group(code, groups);
    let local = code.builtin("local", BuiltIn::LocalInvocationIndex);
    let by = code.u32(size);
    let first = code.binary(B::Multiply, group, by);
    code.binary(B::Add, first, local)
}

/// Opens a block that runs where `number < count`, if `numbers` of them can be more than that. The result is for
/// `close_below`.
pub fn open_below(code: &mut Code, number: Handle, count: u64, numbers: u64) -> Option<Handle> {
    if numbers <= count {
        return None;
    }
    let count = code.u32(count as u32);
    let below = code.binary(B::Less, number, count);
    code.open();
    Some(below)
}

pub fn close_below(code: &mut Code, below: Option<Handle>) {
    if let Some(below) = below {
        let body = code.close();
        code.when(below, body, naga::Block::new());
    }
}

/// How many invocations or workgroups `groups` stands for.
pub fn total(groups: [u32; 3], size: u32) -> u64 {
    groups.iter().map(|&it| it as u64).product::<u64>() * size as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_covers_the_count_within_the_limit() {
        let target = Target::webgpu_minimum();
        for count in [0, 1, 7, 65_535, 65_536, 65_537, 1 << 20, (1 << 32) - 65_537] {
            let [x, y, z] = fold(count, 1, "", &target).expect("it fits");
            assert!(x <= 65_535 && y <= 65_535 && z <= 65_535);
            let covered = x as u64 * y as u64 * z as u64;
            assert!(covered >= count && covered <= count + count / 1000 + 2, "{count}: {x} {y} {z}");
        }
        assert!(fold(1 << 32, 1, "", &target).is_err());
    }
}
