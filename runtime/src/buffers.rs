//! Device memory: buffers, and waiting for what was sent to them or is read back.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use wgfuse_compiler::{
    plan::alignment_on,
    target::{Place, Target},
};

use crate::{counters::count, error::DeviceError, gpu::Gpu, poll::wait};

/// Uploads go in pieces of at most this many bytes, so that staging memory stays small.
pub(crate) const PIECE: usize = 4 << 20;

/// So many are on their way at once.
pub(crate) const PIECES: usize = 16;

/// How long a thread that waits for real hardware looks again and again before it sleeps: being woken up takes as long as a
/// small model. After the first while, whoever else wants the processor has it in between.
#[cfg(not(target_arch = "wasm32"))]
const SPIN: std::time::Duration = std::time::Duration::from_millis(20);
#[cfg(not(target_arch = "wasm32"))]
const ALONE: std::time::Duration = std::time::Duration::from_millis(2);

pub(crate) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

pub(crate) const STAGING: wgpu::BufferUsages =
    wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// A place in a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
}

/// Whether the thread may stand still until the device is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    Block,
    Yield,
}

pub(crate) async fn buffer(
    gpu: &Gpu,
    size: u64,
    label: &str,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    count(&gpu.counters.buffers);
    let size = size.next_multiple_of(4).max(4);
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    gpu.scoped(&format!("a buffer of {size} bytes for {label}"), || gpu.device.create_buffer(&descriptor))
        .await
}

/// One place for each size, aligned for bindings, in as few buffers as the target allows.
pub(crate) async fn row(
    gpu: &Gpu,
    target: &Target,
    sizes: &[u64],
    label: &str,
    usage: wgpu::BufferUsages,
) -> Result<Vec<Chunk>, DeviceError> {
    let mut spots: Vec<(usize, u64)> = Vec::new();
    let mut totals: Vec<u64> = Vec::new();
    for &size in sizes {
        let behind = totals.last().map(|it| it.next_multiple_of(alignment_on(Place::Gpu, target)));
        match behind.filter(|it| it + size <= target.max_buffer_size) {
            Some(offset) => {
                spots.push((totals.len() - 1, offset));
                *totals.last_mut().expect("it has a last") = offset + size;
            }
            None => {
                spots.push((totals.len(), 0));
                totals.push(size);
            }
        }
    }
    let mut buffers = Vec::new();
    for total in totals {
        buffers.push(buffer(gpu, total, label, usage).await?);
    }
    Ok(spots.into_iter().map(|(at, offset)| Chunk { buffer: buffers[at].clone(), offset }).collect())
}

/// Sends what was written to buffers on its way; where threads may wait, until it has arrived.
pub(crate) async fn settle(gpu: &Gpu) -> Result<(), DeviceError> {
    gpu.scoped("an upload", || {
        gpu.queue.submit([]);
        // An error is a lost device, which the scope reports.
        let _ = wait(&gpu.device);
    })
    .await
}

/// Buffers that can be read as long as this lives; the device writes to them again afterwards.
pub(crate) struct Mapped<'a> {
    gpu: &'a Gpu,
    buffers: &'a [wgpu::Buffer],
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // What could not be mapped cannot be unmapped either.
        let _refusals = self.gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        self.buffers.iter().for_each(wgpu::Buffer::unmap);
    }
}

/// Resolves once every buffer can be read. None stays mapped, or on its way there, if the future is dropped before.
pub(crate) async fn map<'a>(
    gpu: &'a Gpu,
    buffers: &'a [wgpu::Buffer],
    wait: Wait,
) -> Result<Mapped<'a>, DeviceError> {
    let mut events = Vec::new();
    let mapped = Mapped { gpu, buffers };
    for buffer in buffers {
        let event = Event::default();
        let done = event.clone();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| done.set(result));
        events.push(event);
    }
    attend(gpu, &events, wait);
    for it in events {
        if let Err(error) = it.await {
            let why = gpu.lost().unwrap_or_else(|| error.to_string());
            gpu.lose(&why);
            return Err(DeviceError::Lost(why));
        }
    }
    Ok(mapped)
}

/// Resolves once everything submitted so far is done.
#[cfg_attr(any(target_arch = "wasm32", target_vendor = "apple"), allow(dead_code))]
pub(crate) async fn done(gpu: &Gpu, wait: Wait) -> Result<(), DeviceError> {
    let event = Event::default();
    let done = event.clone();
    gpu.queue.on_submitted_work_done(move || done.set(Ok(())));
    attend(gpu, std::slice::from_ref(&event), wait);
    // An error is a lost device.
    let _ = event.await;
    gpu.lost().map_or(Ok(()), |why| Err(DeviceError::Lost(why)))
}

/// Sees to it that the callbacks of `events` are called, here and now or by the thread that attends to the device; and that
/// nobody waits for those that a lost device never calls.
fn attend(gpu: &Gpu, events: &[Event], how: Wait) {
    let forsaken = |events: &[Event]| events.iter().for_each(|it| it.set(Err(wgpu::BufferAsyncError)));
    match how {
        Wait::Block => {
            #[cfg(not(target_arch = "wasm32"))]
            if gpu.hardware {
                let start = std::time::Instant::now();
                while start.elapsed() < SPIN {
                    match crate::poll::poll(&gpu.device, wgpu::PollType::Poll) {
                        // Other sessions may keep the device busy all the time.
                        Ok(_) if events.iter().all(Event::is_set) => return,
                        Ok(_) if start.elapsed() < ALONE => std::hint::spin_loop(),
                        Ok(_) => std::thread::yield_now(),
                        Err(_) => break,
                    }
                }
            }
            if let Err(why) = wait(&gpu.device) {
                gpu.lose(&why);
                forsaken(events);
            }
        }
        #[cfg(not(target_arch = "wasm32"))]
        Wait::Yield => {
            let events = events.to_vec();
            gpu.attend(Box::new(move || forsaken(&events)));
        }
        #[cfg(target_arch = "wasm32")]
        Wait::Yield => {}
    }
}

type Outcome = Result<(), wgpu::BufferAsyncError>;

/// Something that wgpu calls back about.
#[derive(Clone, Default)]
struct Event(Arc<Mutex<EventState>>);

#[derive(Default)]
struct EventState {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Event {
    #[cfg(not(target_arch = "wasm32"))]
    fn is_set(&self) -> bool {
        self.0.lock().expect("nothing panics inside").outcome.is_some()
    }

    fn set(&self, outcome: Outcome) {
        let mut state = self.0.lock().expect("nothing panics inside");
        state.outcome = Some(outcome);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Future for Event {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.lock().expect("nothing panics inside");
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
