//! A thread of a device that waits for it, so that callbacks are called while the caller does something else.
//!
//! In: what to call if the device is lost before it is done. What always holds: the thread ends before its owner does.

use std::{
    sync::{
        Arc, OnceLock,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

/// Called if the device is lost before it is done.
pub(crate) type Forsaken = Box<dyn FnOnce() + Send>;

/// Waits for all that was submitted; if the device is lost meanwhile, tells those whom wgpu will not call back.
pub(crate) fn wait(device: &wgpu::Device, lost: &OnceLock<String>, forsaken: Vec<Forsaken>) {
    if let Err(why) = crate::poll::wait(device) {
        let _ = lost.set(why);
        forsaken.into_iter().for_each(|it| it());
    }
}

/// A thread that waits for a device whenever it is woken.
#[derive(Debug)]
pub(crate) struct Attendant {
    waker: Option<Sender<Forsaken>>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// `None` where there are no more threads.
    pub fn new(device: wgpu::Device, lost: Arc<OnceLock<String>>) -> Option<Attendant> {
        let (waker, woken) = channel();
        let attend = move || {
            while let Ok(first) = woken.recv() {
                // One wait is for all that was submitted before it.
                wait(&device, &lost, std::iter::once(first).chain(woken.try_iter()).collect());
            }
        };
        let thread = thread::Builder::new().name("wgfuse device".into()).spawn(attend).ok()?;
        Some(Attendant { waker: Some(waker), thread: Some(thread) })
    }

    pub fn wake(&self, forsaken: Forsaken) -> Result<(), Forsaken> {
        match &self.waker {
            Some(waker) => waker.send(forsaken).map_err(|it| it.0),
            None => Err(forsaken),
        }
    }
}

impl Drop for Attendant {
    /// Waits for the thread: left alone it might give up the device while the program ends, which drivers do not survive.
    fn drop(&mut self) {
        self.waker = None;
        match self.thread.take() {
            // A callback on the thread itself may have held the last of the device.
            Some(thread) if thread.thread().id() != thread::current().id() => {
                let _ = thread.join();
            }
            _ => {}
        }
    }
}
