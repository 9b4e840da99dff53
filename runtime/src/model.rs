//! Model files to models, and the files that they refer to.

use std::ops::Deref;

use wgfuse_compiler::import;

/// A model: what its file says, not yet tied to shapes or a device. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Model {
    inner: import::Model,
}

impl From<import::Model> for Model {
    fn from(inner: import::Model) -> Model {
        Model { inner }
    }
}

impl Deref for Model {
    type Target = import::Model;

    fn deref(&self) -> &import::Model {
        &self.inner
    }
}
