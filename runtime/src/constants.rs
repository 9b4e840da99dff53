//! Values of constants, once a session: by key, on the host and on the device.
//!
//! Host memory of constants is never written after it is made. Leaves that keys name by address are kept here, so that no
//! other tensor can take their address while the key is known.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use wgfuse_compiler::{
    dtype::DType,
    graph::{self, Graph, Value},
    plan::{Constant, Plan, device_bytes, leaves},
    tensor::Tensor,
};

use slotmap::SecondaryMap;

use crate::{
    buffers::{self, Chunk},
    disabled::DisabledReason,
    error::Error,
    forms,
    gpu::Gpu,
    memory::Lines,
    upload,
};

#[derive(Default)]
pub(crate) struct Constants {
    host: HashMap<u128, Arc<Lines>>,
    device: HashMap<u128, Chunk>,
    /// Whose memory `device` is.
    gpu: Option<Arc<Gpu>>,
    kept: HashMap<u128, Vec<Tensor>>,
}

/// Why constants could not be made ready.
pub(crate) enum Failure {
    Error(Error),
    /// The GPU cannot hold them; the processor can.
    Step(DisabledReason),
}

impl Constants {
    pub fn host(&self, key: u128) -> Arc<Lines> {
        self.host[&key].clone()
    }

    pub fn device(&self, key: u128) -> Chunk {
        self.device[&key].clone()
    }

    /// Computes, and uploads, what `plan` needs and is not here yet.
    pub async fn prepare(&mut self, plan: &Plan, gpu: Option<&Arc<Gpu>>) -> Result<(), Failure> {
        if let Some(gpu) = gpu
            && !self.gpu.as_ref().is_some_and(|it| Arc::ptr_eq(it, gpu))
        {
            self.device.clear();
            self.gpu = Some(gpu.clone());
        }
        let mut seen = HashSet::new();
        let missing: Vec<(&Constant, bool, bool)> = (plan.constants.iter())
            .map(|it| {
                let host = it.port.host.is_some() && !self.host.contains_key(&it.key);
                let device = it.port.device.is_some() && !self.device.contains_key(&it.key);
                (it, host, device)
            })
            .filter(|&(it, host, device)| (host || device) && seen.insert((it.key, host, device)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let values = values(plan, &missing.iter().map(|it| it.0).collect::<Vec<_>>());
        for ((constant, host, _), value) in missing.iter().zip(&values) {
            if *host {
                self.host.insert(constant.key, Arc::new(Lines::copy_of(value.data())?));
            }
            self.kept.entry(constant.key).or_insert_with(|| {
                let leaves = leaves(&plan.constant_graph, constant.value);
                leaves.into_iter().map(|it| plan.constant_graph.constant(it).clone()).collect()
            });
        }
        let Some(gpu) = gpu else { return Ok(()) };
        let wanted: Vec<(&Constant, &Tensor)> = (missing.iter().zip(&values))
            .filter(|((_, _, device), _)| *device)
            .map(|((constant, ..), value)| (*constant, value))
            .collect();
        self.upload(plan, gpu, &wanted).await
    }

    async fn upload(
        &mut self,
        plan: &Plan,
        gpu: &Gpu,
        wanted: &[(&Constant, &Tensor)],
    ) -> Result<(), Failure> {
        let sizes: Vec<u64> = wanted.iter().map(|(_, value)| device_bytes(value.ty())).collect();
        let chunks = buffers::row(gpu, &plan.target, &sizes, "weights", buffers::STORAGE).await?;
        let mut pieces = Vec::new();
        for ((constant, value), chunk) in wanted.iter().zip(&chunks) {
            let dtype = value.dtype();
            let elements = buffers::PIECE / dtype.size().max(forms::device_size(dtype));
            let mut offset = chunk.offset;
            for part in value.data().chunks(elements * dtype.size()) {
                pieces.push(Piece { constant, dtype, part, buffer: &chunk.buffer, offset });
                offset += (part.len() / dtype.size() * forms::device_size(dtype)) as u64;
            }
        }
        for some in pieces.chunks(buffers::PIECES) {
            #[cfg(not(target_arch = "wasm32"))]
            {
                use rayon::prelude::*;
                let one = |it: &Piece| pollster::block_on(it.write(plan, gpu));
                some.par_iter().map(one).collect::<Result<(), Failure>>()?;
            }
            #[cfg(target_arch = "wasm32")]
            for it in some {
                it.write(plan, gpu).await?;
            }
            buffers::settle(gpu).await?;
        }
        // Only what has arrived counts as there.
        self.device.extend(wanted.iter().map(|(it, _)| it.key).zip(chunks));
        Ok(())
    }
}

/// A part of a constant, and where it goes.
struct Piece<'a> {
    constant: &'a Constant,
    dtype: DType,
    part: &'a [u8],
    buffer: &'a wgpu::Buffer,
    offset: u64,
}

impl Piece<'_> {
    async fn write(&self, plan: &Plan, gpu: &Gpu) -> Result<(), Failure> {
        let &Piece { constant, dtype, part, buffer, offset } = self;
        upload::send(gpu, (buffer, offset), dtype, part, "weights").await.map_err(|fault| match fault {
            upload::Fault::Device(error) => error.into(),
            upload::Fault::Element(_) => {
                let origin = &plan.constant_graph.node(constant.value).origin;
                let name = if origin.is_empty() { &*constant.port.name } else { &**origin };
                Failure::Step(DisabledReason::DType {
                    name: name.to_owned(),
                    why: "holds integers that do not fit 32 bits".to_owned(),
                })
            }
        })
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.into())
    }
}

/// The values of these constants, in order. Those that share no work are computed in parallel where there are threads.
pub(crate) fn values(plan: &Plan, wanted: &[&Constant]) -> Vec<Tensor> {
    let graph = &plan.constant_graph;
    let mut values: HashMap<Value, Tensor> = HashMap::new();
    let mut computed: Vec<Value> = Vec::new();
    for constant in wanted {
        match graph.as_constant(constant.value) {
            Some(leaf) => _ = values.insert(constant.value, leaf.clone()),
            None => computed.push(constant.value),
        }
    }
    let groups = apart(graph, &computed);
    let one = |group: &Vec<Value>| graph::eval::values(graph, group, &[]);
    #[cfg(not(target_arch = "wasm32"))]
    let made: Vec<Vec<Tensor>> = {
        use rayon::prelude::*;
        groups.par_iter().map(one).collect()
    };
    #[cfg(target_arch = "wasm32")]
    let made: Vec<Vec<Tensor>> = groups.iter().map(one).collect();
    values.extend(groups.into_iter().flatten().zip(made.into_iter().flatten()));
    wanted.iter().map(|constant| values[&constant.value].clone()).collect()
}

/// The nodes `wanted` in groups, none of which computes what another does.
fn apart(graph: &Graph, wanted: &[Value]) -> Vec<Vec<Value>> {
    // For each wanted node an earlier one of its group, or itself.
    let mut earlier: Vec<usize> = Vec::new();
    let first = |earlier: &[usize], mut at: usize| {
        while earlier[at] != at {
            at = earlier[at];
        }
        at
    };
    let mut owner: SecondaryMap<Value, usize> = SecondaryMap::new();
    for (own, &value) in wanted.iter().enumerate() {
        earlier.push(own);
        let mut open = vec![value];
        while let Some(next) = open.pop() {
            // What is there already is no work.
            if graph.as_constant(next).is_some() {
                continue;
            }
            match owner.insert(next, own) {
                None => open.extend(graph.op(next).operands()),
                Some(other) => {
                    let (a, b) = (first(&earlier, own), first(&earlier, other));
                    earlier[a.max(b)] = a.min(b);
                }
            }
        }
    }
    let mut groups: Vec<Vec<Value>> = vec![Vec::new(); wanted.len()];
    wanted.iter().enumerate().for_each(|(at, &value)| groups[first(&earlier, at)].push(value));
    groups.retain(|it| !it.is_empty());
    groups
}
