//! What a session keeps from one run to the next.
//!
//! In: the model's states, and plans that say where each lies while they run. What always holds: a state's value is in one
//! place; its memory is made once for each device and shared by all plans of the session; whoever runs holds the lock.

use std::sync::Arc;

use bytes::Bytes;
use wgfuse_compiler::{
    bug, import,
    plan::{BufferId, BufferRole, Plan, Port},
    shape::{Dim, Shape, Type},
    target::Place,
    tensor::Tensor,
};

use crate::{
    buffers::{self, Chunk, STORAGE, Wait},
    error::{DeviceError, Error, Result},
    gpu::Gpu,
    memory::Lines,
    readback, upload,
};

#[derive(Default)]
pub(crate) struct States {
    cells: Vec<Cell>,
    /// Whose memory `device` is.
    gpu: Option<Arc<Gpu>>,
    /// The plans' buffers of states, in their order.
    device: Vec<wgpu::Buffer>,
    host: Vec<Arc<Block>>,
}

struct Cell {
    name: String,
    /// Number of the model's inputs.
    input: usize,
    signature: import::Signature,
    /// Known from the start where the model fixes it, else from the first value.
    ty: Option<Type>,
    held: Held,
}

/// Where a state's value is.
#[derive(Clone)]
enum Held {
    Zero,
    Given(Tensor),
    Device(Chunk),
    Host(Arc<Block>, usize),
    /// Why it is nowhere.
    Lost(String),
}

/// Host memory that kernels write while others hold it.
pub(crate) struct Block {
    at: *mut u8,
    _lines: Lines,
}

// SAFETY: only an address of memory that it owns; whoever goes there holds the lock on the states.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

impl Block {
    pub fn at(&self) -> *mut u8 {
        self.at
    }
}

impl States {
    pub fn of(model: &import::Model) -> States {
        let cell = |input: usize| {
            let signature = model.inputs[input].clone();
            let dims = signature.dims.iter().map(|it| match it {
                Dim::Fixed(size) => Some(*size),
                Dim::Symbol(_) | Dim::Unknown => None,
            });
            let shape = dims.collect::<Option<Vec<usize>>>().map(|it| Shape::new(&it));
            let ty = shape.map(|shape| Type { dtype: signature.dtype, shape });
            Cell { name: signature.name.clone(), input, signature, ty, held: Held::Zero }
        };
        let cells = model.states.iter().map(|it| cell(it.input as usize)).collect();
        States { cells, ..States::default() }
    }

    /// The shape of every input of the model, given those that are no states.
    pub fn shapes(&self, inputs: usize, given: &[Shape]) -> Result<Vec<Shape>> {
        let mut given = given.iter();
        (0..inputs)
            .map(|number| match self.cells.iter().find(|it| it.input == number) {
                None => Ok(given.next().unwrap_or_else(|| bug!("an input has no shape")).clone()),
                Some(it) => match &it.ty {
                    Some(ty) => Ok(ty.shape.clone()),
                    None => {
                        let what = format!("is a state {}: set it once, which tells its sizes", it.signature);
                        Err(Error::input(&it.name, what))
                    }
                },
            })
            .collect()
    }

    fn cell(&mut self, name: &str) -> Result<&mut Cell> {
        let found = self.cells.iter_mut().find(|it| it.name == name);
        found.ok_or_else(|| Error::input(name, "the model has no such state"))
    }

    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let cell = self.cell(name)?;
        let fits = match &cell.ty {
            Some(ty) => value.ty() == ty,
            None => {
                value.dtype() == cell.signature.dtype && value.shape().rank() == cell.signature.dims.len()
            }
        };
        if !fits {
            let want = cell.ty.as_ref().map_or(cell.signature.to_string(), Type::to_string);
            return Err(Error::input(name, format!("is {}, the state is {want}", value.ty())));
        }
        cell.ty = Some(value.ty().clone());
        cell.held = Held::Given(value.clone());
        Ok(())
    }

    pub fn reset(&mut self) {
        self.cells.iter_mut().for_each(|it| it.held = Held::Zero);
    }

    /// The value of a state.
    pub async fn value(&mut self, name: &str, wait: Wait) -> Result<Tensor> {
        self.see_losses();
        let gpu = self.gpu.clone();
        let cell = self.cell(name)?;
        let Some(ty) = cell.ty.clone() else {
            return Err(Error::input(name, format!("is a state {} and was never set", cell.signature)));
        };
        read(&cell.held, &cell.name, &ty, gpu.as_deref(), wait).await
    }

    /// All values, to be put back with `restore`.
    pub async fn save(&mut self, wait: Wait) -> Result<Vec<Option<Tensor>>> {
        self.see_losses();
        let mut all = Vec::new();
        for it in &self.cells {
            all.push(match &it.ty {
                Some(ty) => Some(read(&it.held, &it.name, ty, self.gpu.as_deref(), wait).await?),
                None => None,
            });
        }
        Ok(all)
    }

    pub fn restore(&mut self, values: Vec<Option<Tensor>>) {
        for (cell, value) in self.cells.iter_mut().zip(values) {
            cell.held = value.map_or(Held::Zero, Held::Given);
        }
    }

    /// Makes the memory in which `plan` has its states, where it is not there yet.
    pub async fn prepare(
        &mut self,
        plan: &Plan,
        gpu: Option<&Arc<Gpu>>,
    ) -> std::result::Result<(), DeviceError> {
        let sizes = |place: Place| -> Vec<u64> {
            let own = plan.buffers.iter().filter(|it| it.role == BufferRole::State && it.place == place);
            own.map(|it| it.size).collect()
        };
        if self.host.is_empty() {
            for size in sizes(Place::Cpu) {
                let mut lines = Lines::zeroed(size as usize)?;
                self.host.push(Arc::new(Block { at: lines.as_mut_ptr(), _lines: lines }));
            }
        }
        let (Some(gpu), sizes) = (gpu, sizes(Place::Gpu)) else { return Ok(()) };
        let same = self.gpu.as_ref().is_some_and(|it| Arc::ptr_eq(it, gpu));
        if sizes.is_empty() || same && !self.device.is_empty() {
            return Ok(());
        }
        self.see_losses();
        let mut made = Vec::new();
        for size in sizes {
            made.push(buffers::buffer(gpu, size, "states", STORAGE).await?);
        }
        // They count as written from now on: recordings write without wgpu's knowledge.
        gpu.scoped("states", || {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            made.iter().for_each(|it| encoder.clear_buffer(it, 0, None));
            gpu.queue.submit([encoder.finish()]);
        })
        .await?;
        (self.device, self.gpu) = (made, Some(gpu.clone()));
        Ok(())
    }

    /// The buffer of states that is `id` in the plan.
    pub fn device_buffer(&self, plan: &Plan, id: BufferId) -> wgpu::Buffer {
        self.device[number(plan, id)].clone()
    }

    pub fn host_block(&self, plan: &Plan, id: BufferId) -> Arc<Block> {
        self.host[number(plan, id)].clone()
    }

    fn see_losses(&mut self) {
        let Some(why) = self.gpu.as_ref().and_then(|it| it.lost()) else { return };
        for it in self.cells.iter_mut().filter(|it| matches!(it.held, Held::Device(_))) {
            it.held = Held::Lost(format!("the device was lost, {why}"));
        }
        self.device.clear();
        self.gpu = None;
    }

    /// Brings every state to where `plan` has it. From here until `leave` a state counts as lost: whoever gives up the run
    /// in between does not know how far it came.
    pub async fn enter(&mut self, plan: &Plan, wait: Wait) -> Result<Entered> {
        self.see_losses();
        for it in &self.cells {
            if let Held::Lost(why) = &it.held {
                return Err(Error::StateLost { state: it.name.clone(), why: why.clone() });
            }
        }
        let mut entered = Vec::new();
        for (number, port) in plan.states.iter().enumerate() {
            let Some(home) = self.home(plan, port) else {
                entered.push(None);
                continue;
            };
            let cell = &self.cells[number];
            let there = match (&cell.held, &home) {
                (Held::Device(one), Held::Device(other)) => {
                    one.buffer == other.buffer && one.offset == other.offset
                }
                (Held::Host(one, at), Held::Host(other, to)) => Arc::ptr_eq(one, other) && at == to,
                _ => false,
            };
            if !there {
                let gpu = self.gpu.clone();
                let value = read(&cell.held, &cell.name, &port.ty, gpu.as_deref(), wait).await?;
                write(&home, &value, &cell.name, gpu.as_deref()).await?;
            }
            entered.push(Some(home));
        }
        for (cell, home) in self.cells.iter_mut().zip(&entered) {
            if home.is_some() {
                cell.held = Held::Lost("a run that changes it was given up".into());
            }
        }
        Ok(Entered(entered))
    }

    /// After a run, or after one that has not begun.
    pub fn leave(&mut self, entered: Entered) {
        for (cell, home) in self.cells.iter_mut().zip(entered.0) {
            if let Some(home) = home {
                cell.held = home;
            }
        }
    }

    /// After a run that failed on its way.
    pub fn lose(&mut self, entered: &Entered, why: &Error) {
        for (cell, _) in self.cells.iter_mut().zip(&entered.0).filter(|it| it.1.is_some()) {
            cell.held = Held::Lost(why.to_string());
        }
    }

    fn home(&self, plan: &Plan, port: &Port) -> Option<Held> {
        match (port.device, port.host) {
            (Some(slice), _) => {
                let buffer = self.device_buffer(plan, slice.buffer);
                Some(Held::Device(Chunk { buffer, offset: slice.offset }))
            }
            (None, Some(slice)) => {
                Some(Held::Host(self.host_block(plan, slice.buffer), slice.offset as usize))
            }
            (None, None) => None,
        }
    }
}

/// Where each state is during a run.
pub(crate) struct Entered(Vec<Option<Held>>);

/// Its number among the plan's buffers of states on its place.
fn number(plan: &Plan, id: BufferId) -> usize {
    let place = plan.buffer(id).place;
    let earlier = &plan.buffers[..id.0 as usize];
    earlier.iter().filter(|it| it.role == BufferRole::State && it.place == place).count()
}

async fn read(held: &Held, name: &str, ty: &Type, gpu: Option<&Gpu>, wait: Wait) -> Result<Tensor> {
    let tensor =
        |bytes: Bytes| Tensor::new(ty.clone(), bytes).unwrap_or_else(|| bug!("a state has its type's bytes"));
    match held {
        Held::Zero => Ok(tensor(vec![0; ty.bytes()].into())),
        Held::Given(value) => Ok(value.clone()),
        Held::Host(block, offset) => {
            // SAFETY: the plan's slice lies in its buffer, and the lock on the states is held.
            let bytes = unsafe { std::slice::from_raw_parts(block.at().add(*offset), ty.bytes()) };
            Ok(tensor(Bytes::copy_from_slice(bytes)))
        }
        Held::Device(chunk) => {
            let gpu = gpu.unwrap_or_else(|| bug!("a state is on no device"));
            Ok(readback::fetch(gpu, chunk.clone(), ty, "a state", wait).await?)
        }
        Held::Lost(why) => Err(Error::StateLost { state: name.to_owned(), why: why.clone() }),
    }
}

async fn write(home: &Held, value: &Tensor, name: &str, gpu: Option<&Gpu>) -> Result<()> {
    match home {
        Held::Host(block, offset) => {
            let bytes = value.data();
            // SAFETY: the plan's slice has the bytes of the state's type, and the lock on the states is held.
            unsafe { block.at().add(*offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            Ok(())
        }
        Held::Device(chunk) => {
            let gpu = gpu.unwrap_or_else(|| bug!("a state is on no device"));
            let place = (&chunk.buffer, chunk.offset);
            let sent = upload::send(gpu, place, value.dtype(), value.data(), "a state").await;
            sent.map_err(|fault| match fault {
                upload::Fault::Device(error) => error.into(),
                upload::Fault::Element(at) => Error::unfit(name, at, value.dtype()),
            })
        }
        Held::Zero | Held::Given(_) | Held::Lost(_) => bug!("a plan has its states in memory"),
    }
}
