//! Values of constants, once a session: by key, on the host and on the device.
//!
//! Host memory of constants is never written after it is made. Leaves that keys name by address are kept here, so that no
//! other tensor can take their address while the key is known.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use wgfuse_compiler::{
    graph::{self, Output},
    plan::{Constant, Plan, device_bytes, leaves},
    tensor::Tensor,
};

use crate::{
    buffers::{self, Chunk},
    disabled::DisabledReason,
    error::Error,
    forms,
    gpu::Gpu,
    memory::Lines,
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
        let values = values(plan, &missing)?;
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
        let mut piece = Vec::new();
        let mut pending = 0;
        for ((constant, value), chunk) in wanted.iter().zip(&chunks) {
            let dtype = value.dtype();
            let elements = buffers::PIECE / dtype.size().max(forms::device_size(dtype));
            let mut offset = chunk.offset;
            for part in value.data().chunks(elements * dtype.size()) {
                piece.clear();
                forms::to_device(dtype, part, &mut piece).map_err(|_| {
                    let origin = &plan.constant_graph.node(constant.value).origin;
                    let name = if origin.is_empty() { &*constant.port.name } else { &**origin };
                    Failure::Step(DisabledReason::DType { name: name.to_owned() })
                })?;
                piece.resize(piece.len().next_multiple_of(4), 0);
                gpu.scoped("weights", || gpu.queue.write_buffer(&chunk.buffer, offset, &piece)).await?;
                offset += piece.len() as u64;
                pending += piece.len();
                if pending >= 4 * buffers::PIECE {
                    buffers::settle(gpu).await?;
                    pending = 0;
                }
            }
        }
        buffers::settle(gpu).await?;
        // Only what has arrived counts as there.
        self.device.extend(wanted.iter().map(|(it, _)| it.key).zip(chunks));
        Ok(())
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.into())
    }
}

/// The values of these constants, in order.
fn values(plan: &Plan, missing: &[(&Constant, bool, bool)]) -> Result<Vec<Tensor>, Failure> {
    let leaf = |it: &Constant| plan.constant_graph.as_constant(it.value).cloned();
    let computed: Vec<_> = missing.iter().map(|it| it.0).filter(|it| leaf(it).is_none()).collect();
    let mut computed = if computed.is_empty() {
        Vec::new()
    } else {
        let mut graph = plan.constant_graph.clone();
        graph.outputs =
            (computed.iter()).map(|it| Output { name: it.port.name.clone(), value: it.value }).collect();
        graph::eval::eval(&graph, &[]).map_err(Error::from)?
    }
    .into_iter();
    let next = |it: &&Constant| leaf(it).unwrap_or_else(|| computed.next().expect("one a computed constant"));
    Ok(missing.iter().map(|it| it.0).collect::<Vec<_>>().iter().map(next).collect())
}
