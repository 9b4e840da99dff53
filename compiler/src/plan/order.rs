//! Kernels and the copies between places that they need, in order.

use slotmap::{SecondaryMap, SlotMap};

use crate::{
    bug,
    lower::{Definition, TensorId, TensorInfo},
    schedule::{Kept, Kernel},
    target::Place,
};

/// What happens, in order, before anything has a place in memory.
pub struct Order {
    pub moves: Vec<Move>,
    /// For each tensor and place: the first and last of `moves` that needs it or makes it there; none for one that only
    /// leaves.
    pub spans: SecondaryMap<TensorId, [Option<(usize, usize)>; 2]>,
    pub makers: SecondaryMap<TensorId, Place>,
}

#[derive(Clone, Copy)]
pub enum Move {
    Kernel(usize),
    /// From the other place to this one.
    Copy {
        tensor: TensorId,
        to: Place,
    },
}

impl Order {
    pub fn maker(&self, tensor: TensorId) -> Option<Place> {
        self.makers.get(tensor).copied()
    }

    pub fn span(&self, tensor: TensorId, place: Place) -> Option<(usize, usize)> {
        self.spans.get(tensor)?[place as usize]
    }

    /// A number for each of `moves`, which grows where one needs what another of the same number makes, and at everything
    /// that is not a kernel on the GPU.
    pub fn rounds(&self, kernels: &[Kernel]) -> Vec<usize> {
        let mut made: SecondaryMap<TensorId, usize> = SecondaryMap::new();
        let (mut now, mut alone) = (0, true);
        let round = |it: &Move| {
            match *it {
                Move::Kernel(number) if kernels[number].place == Place::Gpu => {
                    let kernel = &kernels[number];
                    now += usize::from(alone || kernel.tensors.iter().any(|&it| made.get(it) == Some(&now)));
                    made.extend(kernel.stores.iter().map(|it| (it.tensor, now)));
                    alone = false;
                }
                Move::Kernel(_) | Move::Copy { .. } => {
                    now += 1;
                    alone = true;
                }
            }
            now
        };
        self.moves.iter().map(round).collect()
    }

    fn touch(&mut self, tensor: TensorId, place: Place, at: usize) {
        let spans = self.spans.entry(tensor).expect("never removed").or_default();
        let span = spans[place as usize].get_or_insert((at, at));
        span.1 = span.1.max(at);
    }
}

pub fn order(
    tensors: &SlotMap<TensorId, TensorInfo>,
    kernels: &[Kernel],
    outputs: &[TensorId],
    states: &[Kept],
) -> Order {
    let mut order = Order { moves: Vec::new(), spans: SecondaryMap::new(), makers: SecondaryMap::new() };
    // A state enters where what it becomes is written, and crosses from there.
    for state in states {
        let new = outputs[state.output as usize];
        let writer = kernels.iter().find(|it| it.stores.iter().any(|it| it.tensor == new));
        let first = kernels.iter().find(|it| it.tensors.contains(&state.old));
        order.makers.insert(state.old, writer.or(first).map_or(Place::Cpu, |it| it.place));
    }
    for (number, kernel) in kernels.iter().enumerate() {
        let writes = |tensor: TensorId| kernel.stores.iter().any(|it| it.tensor == tensor);
        for &tensor in kernel.tensors.iter().filter(|&&it| !writes(it)) {
            let from = match tensors[tensor].definition {
                Definition::Input(_) if order.maker(tensor).is_some() => order.maker(tensor),
                Definition::Input(_) | Definition::Constant(_) => continue,
                Definition::Nest(_) => order.maker(tensor),
            };
            let Some(from) = from else {
                bug!("kernel {} reads {tensor:?} before it is written", kernel.name)
            };
            if from != kernel.place && order.span(tensor, kernel.place).is_none() {
                let at = order.moves.len();
                order.moves.push(Move::Copy { tensor, to: kernel.place });
                order.touch(tensor, from, at);
                order.touch(tensor, kernel.place, at);
            }
        }
        let at = order.moves.len();
        order.moves.push(Move::Kernel(number));
        for &tensor in &kernel.tensors {
            order.touch(tensor, kernel.place, at);
            if writes(tensor) {
                order.makers.insert(tensor, kernel.place);
            }
        }
    }
    // Outputs that no kernel makes are handed out from the host's side.
    for &tensor in outputs.iter().filter(|&&it| order.makers.get(it).is_none()).collect::<Vec<_>>() {
        match tensors[tensor].definition {
            Definition::Input(_) | Definition::Constant(_) => order.touch(tensor, Place::Cpu, 0),
            Definition::Nest(_) => bug!("no kernel writes the output {tensor:?}"),
        }
    }
    order
}
