//! Arguments to models and devices.

use std::path::Path;

use anyhow::{Context, Result};
use wgfuse::{Device, Disabled, Fallback, Model, Session, Tune};

use crate::progress::progress;

/// `--device`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// The best GPU that is not software, else the CPU.
    Auto,
    Gpu,
    Cpu,
    Number(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        Ok(match text {
            "auto" => DeviceChoice::Auto,
            "gpu" => DeviceChoice::Gpu,
            "cpu" => DeviceChoice::Cpu,
            _ => DeviceChoice::Number(
                text.parse().map_err(|_| "expected auto, gpu, cpu or a number of `wgfuse devices`")?,
            ),
        })
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Gpu => f.write_str("gpu"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Number(it) => write!(f, "{it}"),
        }
    }
}

/// `--fallback`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FallbackChoice {
    /// What the GPU cannot run runs on the CPU
    Cpu,
    /// What the GPU cannot run is an error
    Error,
}

impl From<FallbackChoice> for Fallback {
    fn from(choice: FallbackChoice) -> Fallback {
        match choice {
            FallbackChoice::Cpu => Fallback::Cpu,
            FallbackChoice::Error => Fallback::Error,
        }
    }
}

pub fn model(path: &Path) -> Result<Model> {
    let _progress = progress(format!("opening {}", path.display()));
    Model::open(path).with_context(|| format!("'{}'", path.display()))
}

pub fn device(choice: DeviceChoice) -> Result<Device> {
    let _progress = progress("opening the device");
    let device = match choice {
        DeviceChoice::Auto => Device::best(),
        DeviceChoice::Gpu => Device::gpu(),
        DeviceChoice::Cpu => return Ok(Device::cpu()),
        DeviceChoice::Number(it) => Device::adapter(it),
    };
    device.context("the device cannot be used (`wgfuse devices` lists what there is)")
}

/// The device's name and, for the processor, why it is not a GPU.
pub fn describe(device: &Device) -> String {
    match device.disabled_reason() {
        Some(reason) => format!("{} ({reason})", device.name()),
        None => device.name().to_string(),
    }
}

/// Every step down of `session` but that of the device as a whole, which `describe` tells.
pub fn steps_down(session: &Session) -> Vec<Disabled> {
    let whole = session.device().disabled_reason();
    session.disabled().into_iter().filter(|it| Some(&it.reason) != whole).collect()
}

/// `session` with tuning, if it is asked for; else the environment says.
pub fn tuned(session: Session, tune: bool) -> Session {
    if tune { session.tune(Tune::On) } else { session }
}
