//! Which kernels must run before which: those that write what others read, and those that read what a state was before the
//! one that writes what it becomes.

use std::collections::HashMap;

use super::kernel::{Kept, Kernel};
use crate::lower::TensorId;

pub struct Flow {
    /// Of each kernel, those that it must wait for.
    needs: Vec<Vec<usize>>,
    writers: HashMap<TensorId, usize>,
}

impl Flow {
    pub fn of(kernels: &[Kernel], outputs: &[TensorId], states: &[Kept]) -> Flow {
        let mut writers = HashMap::new();
        for (at, kernel) in kernels.iter().enumerate() {
            writers.extend(kernel.stores.iter().map(|it| (it.tensor, at)));
        }
        let mut needs: Vec<Vec<usize>> = (kernels.iter().enumerate())
            .map(|(at, kernel)| {
                let of = kernel.tensors.iter().filter_map(|it| writers.get(it).copied());
                of.filter(|it| *it != at).collect()
            })
            .collect();
        for (first, then) in overwriting(kernels, outputs, states) {
            needs[then].push(first);
        }
        Flow { needs, writers }
    }

    pub fn writer(&self, tensor: TensorId) -> Option<usize> {
        self.writers.get(&tensor).copied()
    }

    /// Whether `kernel` must wait for `on`, or is it.
    pub fn waits(&self, kernel: usize, on: usize) -> bool {
        let (mut open, mut seen) = (vec![kernel], vec![false; self.needs.len()]);
        while let Some(it) = open.pop() {
            if it == on {
                return true;
            }
            if !std::mem::replace(&mut seen[it], true) {
                open.extend(&self.needs[it]);
            }
        }
        false
    }

    /// Of each kernel, how many must run before it at least, one after the other.
    pub fn levels(&self) -> Vec<usize> {
        let mut levels: Vec<Option<usize>> = vec![None; self.needs.len()];
        for root in 0..self.needs.len() {
            let mut open = vec![root];
            while let Some(&it) = open.last() {
                match self.needs[it].iter().find(|need| levels[**need].is_none()) {
                    Some(&need) if levels[it].is_none() => open.push(need),
                    _ => {
                        let known = self.needs[it].iter().filter_map(|need| levels[*need]);
                        levels[it] = Some(known.max().map_or(0, |it| it + 1));
                        open.pop();
                    }
                }
            }
        }
        levels.into_iter().flatten().collect()
    }
}

/// Each kernel that reads what a state was, with the other one that writes what it becomes, to the same memory.
pub fn overwriting(kernels: &[Kernel], outputs: &[TensorId], states: &[Kept]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for state in states {
        let new = outputs[state.output as usize];
        let writes = |it: &Kernel| it.stores.iter().any(|it| it.tensor == new);
        let Some(writer) = kernels.iter().position(writes) else { continue };
        let readers = kernels.iter().enumerate().filter(|(_, it)| it.tensors.contains(&state.old));
        pairs.extend(readers.map(|(at, _)| (at, writer)).filter(|(at, _)| *at != writer));
    }
    pairs
}
