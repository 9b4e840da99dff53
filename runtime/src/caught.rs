//! The one place where a panic of the compiler becomes an error.

#[cfg(not(target_arch = "wasm32"))]
use wgfuse_compiler::error::Error as ModelError;

use crate::error::Result;

/// What `compile` gives; `ModelError::Bug` where it panics. On wasm a panic ends the program.
pub(crate) fn caught<T>(compile: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(target_arch = "wasm32")]
    return compile();
    // What the closure leaves half done is its own graph and plan, which nobody sees again.
    #[cfg(not(target_arch = "wasm32"))]
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(compile)).unwrap_or_else(|payload| {
        let what = match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
            (Some(it), _) => it.clone(),
            (None, Some(it)) => (*it).to_owned(),
            (None, None) => "a panic without a text".to_owned(),
        };
        Err(ModelError::Bug { what }.into())
    })
}
