//! The order of kernels: writers before readers, and few rounds.
//!
//! A round is a run of kernels of which none reads what another of them writes: between two rounds a device waits, within
//! one it need not. In: kernels in any order. Out: they, numbered, in an order of no more rounds than they were given in,
//! and of little more memory.

use std::collections::BTreeSet;

use slotmap::{SecondaryMap, SlotMap};

use super::{
    flow::overwriting,
    kernel::{Kept, Kernel},
};
use crate::{
    lower::{TensorId, TensorInfo},
    target::Place,
};

/// Eighths of the memory that the given order takes, which fewer rounds may take: the planner's packing has room for that.
const MEMORY: u64 = 9;

/// `kernels` in their order, their numbers before their names.
pub fn ordered(
    kernels: Vec<Kernel>,
    tensors: &SlotMap<TensorId, TensorInfo>,
    outputs: &[TensorId],
    states: &[Kept],
) -> Vec<Kernel> {
    let order = Net::of(&kernels, tensors, outputs, states).order();
    let mut kernels: Vec<Option<Kernel>> = kernels.into_iter().map(Some).collect();
    let sorted = order.into_iter().map(|it| kernels[it].take().expect("each kernel once"));
    let number = |(at, mut kernel): (usize, Kernel)| {
        kernel.name = format!("k{at:03}_{}", kernel.name);
        kernel
    };
    sorted.enumerate().map(number).collect()
}

/// What kernels read and write, by numbers.
struct Net {
    tasks: Vec<Task>,
    values: Vec<Held>,
}

struct Task {
    place: Place,
    /// Positions in `Net::values`.
    reads: Vec<usize>,
    writes: Vec<usize>,
}

/// A tensor that a kernel writes.
struct Held {
    /// 0 if its memory is not shared with others.
    bytes: u64,
    writer: usize,
    readers: Vec<usize>,
}

impl Net {
    fn of(
        kernels: &[Kernel],
        tensors: &SlotMap<TensorId, TensorInfo>,
        outputs: &[TensorId],
        states: &[Kept],
    ) -> Net {
        let mut net = Net { tasks: Vec::new(), values: Vec::new() };
        let mut numbers: SecondaryMap<TensorId, usize> = SecondaryMap::new();
        let outlast: SecondaryMap<TensorId, ()> = outputs.iter().map(|it| (*it, ())).collect();
        for (writer, kernel) in kernels.iter().enumerate() {
            let writes = kernel.stores.iter().map(|store| {
                let lasting = outlast.contains_key(store.tensor);
                let bytes = if lasting { 0 } else { tensors[store.tensor].ty.bytes() as u64 };
                numbers.insert(store.tensor, net.values.len());
                net.values.push(Held { bytes, writer, readers: Vec::new() });
                net.values.len() - 1
            });
            let writes = writes.collect();
            net.tasks.push(Task { place: kernel.place, reads: Vec::new(), writes });
        }
        for (reader, kernel) in kernels.iter().enumerate() {
            for tensor in &kernel.tensors {
                if let Some(&value) = numbers.get(*tensor)
                    && net.values[value].writer != reader
                {
                    net.values[value].readers.push(reader);
                    net.tasks[reader].reads.push(value);
                }
            }
        }
        // What a state was must not be read any more when it is overwritten: as if its readers made something of no size.
        for (writer, reader) in overwriting(kernels, outputs, states) {
            net.tasks[writer].writes.push(net.values.len());
            net.tasks[reader].reads.push(net.values.len());
            net.values.push(Held { bytes: 0, writer, readers: vec![reader] });
        }
        net
    }

    fn order(&self) -> Vec<usize> {
        let plain = self.as_given();
        // A processor waits for every kernel.
        if self.tasks.iter().all(|it| it.place == Place::Cpu) {
            return plain;
        }
        let leveled = self.by_levels(&plain);
        let (few, many) = (self.rounds(&leveled), self.rounds(&plain));
        let fewer = few.last() < many.last();
        let steps: Vec<usize> = (0..plain.len()).collect();
        let (peak, least) = (self.peak(&leveled, &few), self.peak(&plain, &steps));
        let fits = peak.saturating_mul(8) <= least.saturating_mul(MEMORY);
        if fewer && fits { leveled } else { plain }
    }

    /// Writers before readers, otherwise as given.
    fn as_given(&self) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        let mut done = vec![false; self.tasks.len()];
        let mut open: Vec<(usize, bool)> = (0..self.tasks.len()).rev().map(|it| (it, false)).collect();
        while let Some((at, ready)) = open.pop() {
            if ready {
                order.push(at);
            } else if !std::mem::replace(&mut done[at], true) {
                open.push((at, true));
                let needs: BTreeSet<usize> =
                    self.tasks[at].reads.iter().map(|&it| self.values[it].writer).collect();
                open.extend(needs.into_iter().rev().map(|it| (it, false)));
            }
        }
        order
    }

    /// As many levels as the longest chain has tasks. A task that may stand on several is put, the last tasks first, where
    /// what it reads and writes is held for the fewest bytes times levels, and of such levels on the last.
    fn by_levels(&self, plain: &[usize]) -> Vec<usize> {
        let mut level = vec![0; self.tasks.len()];
        for &at in plain {
            let needs = self.tasks[at].reads.iter().map(|&it| level[self.values[it].writer] + 1);
            level[at] = needs.max().unwrap_or(0);
        }
        let deepest = level.iter().copied().max().unwrap_or(0);
        for &at in plain.iter().rev() {
            let Task { reads, writes, .. } = &self.tasks[at];
            let first = level[at];
            let readers = writes.iter().flat_map(|&it| &self.values[it].readers).map(|&it| level[it] - 1);
            let last = readers.min().unwrap_or(deepest);
            let made: u64 = (writes.iter().map(|&it| &self.values[it]))
                .filter(|it| !it.readers.is_empty())
                .map(|it| it.bytes)
                .sum();
            // Until when others need what is read here.
            let needed: Vec<(u64, usize)> = (reads.iter().map(|&it| &self.values[it]))
                .map(|it| {
                    let others = it.readers.iter().filter(|&&reader| reader != at).map(|&it| level[it]);
                    (it.bytes, others.max().unwrap_or(0))
                })
                .collect();
            let cost = |here: usize| -> u128 {
                let longer =
                    needed.iter().map(|&(bytes, until)| bytes as u128 * here.saturating_sub(until) as u128);
                longer.sum::<u128>() + made as u128 * (last - here) as u128
            };
            // The cost bends only where somebody else stops needing something.
            let bends = needed.iter().map(|it| it.1).chain([first, last]);
            let bends = bends.filter(|it| (first..=last).contains(it));
            level[at] = bends.min_by_key(|&it| (cost(it), last - it)).unwrap_or(first);
        }
        let mut order: Vec<(usize, Place, usize, usize)> = (plain.iter().enumerate())
            .map(|(position, &at)| (level[at], self.tasks[at].place, position, at))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|it| it.3).collect()
    }

    /// The round of each task of `order`, by position. What runs on the processor is a round of its own.
    fn rounds(&self, order: &[usize]) -> Vec<usize> {
        let mut round_of = vec![usize::MAX; self.tasks.len()];
        let mut rounds: Vec<usize> = Vec::new();
        for (position, &at) in order.iter().enumerate() {
            let task = &self.tasks[at];
            let now = rounds.last().copied().unwrap_or(0);
            let waits = task.reads.iter().any(|&it| round_of[self.values[it].writer] == now)
                || position > 0 && [task.place, self.tasks[order[position - 1]].place].contains(&Place::Cpu);
            round_of[at] = now + usize::from(waits);
            rounds.push(round_of[at]);
        }
        rounds
    }

    /// The most bytes that are held at one time, where the task at each position of `order` runs at `times[position]`.
    fn peak(&self, order: &[usize], times: &[usize]) -> u64 {
        let mut time = vec![0; self.tasks.len()];
        order.iter().zip(times).for_each(|(&at, &it)| time[at] = it);
        let mut change = vec![0i128; self.tasks.len() + 1];
        for value in &self.values {
            let first = time[value.writer];
            let last = value.readers.iter().map(|&it| time[it]).max().unwrap_or(first);
            change[first] += value.bytes as i128;
            change[last + 1] -= value.bytes as i128;
        }
        let sums = change.into_iter().scan(0, |sum, it| {
            *sum += it;
            Some(*sum)
        });
        sums.max().unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A net of tasks that each write one value of so many bytes and read those of others.
    fn net(tasks: &[(u64, Place, &[usize])]) -> Net {
        let mut net = Net { tasks: Vec::new(), values: Vec::new() };
        for (at, &(bytes, place, reads)) in tasks.iter().enumerate() {
            net.tasks.push(Task { place, reads: reads.to_vec(), writes: vec![at] });
            net.values.push(Held { bytes, writer: at, readers: Vec::new() });
            reads.iter().for_each(|&it| net.values[it].readers.push(at));
        }
        net
    }

    const GPU: Place = Place::Gpu;

    #[test]
    fn branches_run_side_by_side() {
        // A branch of two tasks, one of three, and what joins them.
        let net = net(&[
            (100, GPU, &[]),
            (8, GPU, &[0]),
            (8, GPU, &[1]),
            (8, GPU, &[2]),
            (8, GPU, &[1]),
            (8, GPU, &[4]),
            (8, GPU, &[5]),
            (8, GPU, &[3, 6]),
        ]);
        let order = net.order();
        assert_eq!(net.rounds(&order), [0, 1, 2, 2, 3, 3, 4, 5], "{order:?}");
        assert_eq!(net.rounds(&net.as_given()).last(), Some(&6));
    }

    #[test]
    fn what_makes_much_waits_for_its_reader() {
        // Of two that start at once, one makes what only the end reads.
        let large =
            net(&[(1000, GPU, &[]), (1, GPU, &[]), (1, GPU, &[1]), (1, GPU, &[2]), (1, GPU, &[0, 3])]);
        assert_eq!(large.by_levels(&large.as_given()), [1, 2, 0, 3, 4]);
        // It reads more than it makes, which nobody needs afterwards.
        let small =
            net(&[(1000, GPU, &[]), (1, GPU, &[0]), (1, GPU, &[0]), (1, GPU, &[2]), (1, GPU, &[1, 3])]);
        assert_eq!(small.by_levels(&small.as_given()), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn memory_comes_before_rounds() {
        // Side by side all wide values would be held at once.
        let mut tasks: Vec<(u64, Place, Vec<usize>)> = vec![(1, GPU, vec![])];
        for branch in 0..8 {
            tasks.push((1000, GPU, vec![0]));
            tasks.push((1, GPU, vec![2 * branch + 1]));
        }
        tasks.push((1, GPU, (0..8).map(|it| 2 * it + 2).collect()));
        let tasks: Vec<(u64, Place, &[usize])> = tasks.iter().map(|it| (it.0, it.1, &*it.2)).collect();
        let net = net(&tasks);
        assert_eq!(net.order(), net.as_given());
    }

    #[test]
    fn random_nets_keep_their_order_and_promise() {
        let mut fewer = 0;
        for seed in 0..300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) % below
            };
            let tasks: Vec<(u64, Place, Vec<usize>)> = (0..2 + next(30) as usize)
                .map(|at| {
                    let reads: BTreeSet<usize> = (0..next(3).min(at as u64))
                        .map(|_| at - 1 - next(4.min(at as u64)) as usize)
                        .collect();
                    let place = if seed % 4 == 0 && next(6) == 0 { Place::Cpu } else { GPU };
                    // Some begin with what takes more memory than most of what follows.
                    let bytes = if at == 0 && seed % 2 == 0 { 400 } else { 1 + next(100) };
                    (bytes, place, reads.into_iter().collect())
                })
                .collect();
            let tasks: Vec<(u64, Place, &[usize])> = tasks.iter().map(|it| (it.0, it.1, &*it.2)).collect();
            let net = net(&tasks);
            let (order, plain) = (net.order(), net.as_given());
            let mut position = vec![usize::MAX; tasks.len()];
            order.iter().enumerate().for_each(|(position_of, &at)| position[at] = position_of);
            for (at, task) in tasks.iter().enumerate() {
                assert!(task.2.iter().all(|&it| position[it] < position[at]), "seed {seed}: {order:?}");
            }
            let (rounds, before) = (net.rounds(&order), net.rounds(&plain));
            assert!(rounds.last() <= before.last(), "seed {seed}");
            if rounds.last() < before.last() {
                fewer += 1;
                let steps: Vec<usize> = (0..tasks.len()).collect();
                let (peak, least) = (net.peak(&order, &rounds), net.peak(&plain, &steps));
                assert!(peak * 8 <= least * MEMORY, "seed {seed}: {peak} for {least}");
            }
        }
        assert!(fewer > 10, "{fewer}");
    }
}
