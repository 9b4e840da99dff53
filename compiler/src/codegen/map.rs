//! Skeleton: each point of a space by itself, a few neighbours an invocation.

use super::{
    body::{Scope, Step},
    grid,
    memory::Memory,
    writer::{Code, Writer},
};
use crate::{
    error::Error,
    schedule::{Kernel, Lanes},
    shape::Shape,
    target::Target,
};

/// Writes the entry point; gives the workgroups to dispatch.
pub fn write(
    writer: &mut Writer,
    memory: &Memory,
    kernel: &Kernel,
    space: &Shape,
    (workgroup, lanes): (u32, u32),
    target: &Target,
) -> Result<[u32; 3], Error> {
    let count = space.count() as u64 / lanes as u64;
    let groups = grid::fold(count.div_ceil(workgroup as u64), workgroup, &kernel.name, target)?;
    let mut code = Code::new(writer, "main");
    let number = grid::invocation(&mut code, groups, workgroup);
    let below = grid::open_below(&mut code, number, count, grid::total(groups, workgroup));
    let mut scope = Scope::new(&kernel.body, memory);
    let number = scope.leaf(number, count as usize);
    let lanes = Lanes::at(0, space, lanes, &number);
    scope.step_through(&lanes);
    let mut step = Step::new(lanes, None);
    for store in &kernel.stores {
        scope.store_step(&mut code, store, &mut step);
    }
    grid::close_below(&mut code, below);
    code.entry_point([workgroup, 1, 1]);
    Ok(groups)
}
