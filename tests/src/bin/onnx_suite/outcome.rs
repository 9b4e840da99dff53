//! What a case ended as.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wgfuse::{DeviceError, Error, ModelError};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    /// Every output of every data set is as expected: type, shape and values.
    Pass,
    /// Some output is not.
    Wrong,
    /// The model, or a part of it, was refused with a reason.
    Unsupported,
    /// An error that says something else.
    Error,
    /// A panic, an abort, memory or time without bound.
    Crash,
}

impl Status {
    pub const ALL: [Status; 5] =
        [Status::Pass, Status::Wrong, Status::Unsupported, Status::Error, Status::Crash];

    pub const fn name(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Wrong => "wrong",
            Status::Unsupported => "unsupported",
            Status::Error => "error",
            Status::Crash => "crash",
        }
    }

    pub fn parse(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub status: Status,
    /// One line; empty where the case passed. What changes from run to run or between devices is no part of it.
    pub reason: String,
    /// Further words for who looks at this run.
    pub detail: String,
    pub seconds: f64,
}

impl Outcome {
    pub fn new(status: Status, reason: impl Into<String>) -> Outcome {
        let reason = reason.into().replace(['\n', '\t', '\r'], " ");
        Outcome { status, reason, detail: String::new(), seconds: 0.0 }
    }

    pub fn pass() -> Outcome {
        Outcome::new(Status::Pass, "")
    }

    pub fn unsupported(reason: impl Into<String>) -> Outcome {
        Outcome::new(Status::Unsupported, reason)
    }

    pub fn error(reason: impl Into<String>) -> Outcome {
        Outcome::new(Status::Error, reason)
    }

    pub fn wrong(reason: impl Into<String>, detail: impl Into<String>) -> Outcome {
        Outcome { detail: detail.into(), ..Outcome::new(Status::Wrong, reason) }
    }

    pub fn crash(reason: impl Into<String>, detail: impl Into<String>) -> Outcome {
        Outcome { detail: detail.into(), ..Outcome::new(Status::Crash, reason) }
    }

    pub fn to_json(&self, name: &str) -> Value {
        json!({
            "case": name,
            "status": self.status.name(),
            "reason": self.reason,
            "detail": self.detail,
            "seconds": self.seconds,
        })
    }

    pub fn from_json(line: &str) -> Result<Outcome> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value[key].as_str().with_context(|| format!("no {key} in {line}"));
        Ok(Outcome {
            status: Status::parse(text("status")?).with_context(|| format!("no such status: {line}"))?,
            reason: text("reason")?.into(),
            detail: text("detail")?.into(),
            seconds: value["seconds"].as_f64().unwrap_or(0.0),
        })
    }
}

/// Names of nodes are left out: the operator says enough of a model with one node, and names are long.
impl From<Error> for Outcome {
    fn from(error: Error) -> Outcome {
        match &error {
            Error::Model(ModelError::Unsupported { op, what, .. }) => {
                Outcome::unsupported(format!("{op}: {what}"))
            }
            Error::Model(ModelError::Fallback { reason, .. }) => Outcome::unsupported(reason),
            Error::Model(ModelError::Foreign { what, .. }) => Outcome::unsupported(what),
            Error::Model(ModelError::Bug { what }) => Outcome::crash("a bug", what),
            Error::Device(DeviceError::OutOfMemory(_)) => Outcome::error("the device is out of memory"),
            _ => Outcome::error(error.to_string()),
        }
    }
}
