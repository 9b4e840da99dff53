//! What `codegen` makes of one kernel.

use std::sync::Arc;

use crate::lower::TensorId;

/// A validated module with one entry point, `main`.
#[derive(Clone, Debug)]
pub struct Shader {
    pub module: Arc<naga::Module>,
    pub workgroup_size: [u32; 3],
    /// Workgroups to dispatch.
    pub groups: [u32; 3],
    /// What binding `i` of group 0 holds. All are storage buffers, `read_write`.
    pub bindings: Vec<Binding>,
    /// Of the module's content; equal keys mean equal modules.
    pub key: u128,
}

/// A tensor, or one of the consecutive parts of a tensor that is larger than a binding may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    pub tensor: TensorId,
    /// Offset and length in the tensor's device form, in bytes.
    pub offset: u64,
    pub len: u64,
}
