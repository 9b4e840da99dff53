//! Where the files that tests read lie, wherever a built test runs.

use std::{env, path::PathBuf};

/// The folder `tests` of the source tree, beside which lie the tree's other folders: what `WGFUSE_TESTS` says, else where
/// cargo runs the test, else where it was built.
pub fn tests() -> PathBuf {
    // Cargo tells this to every program that it starts: only what it says of this package counts.
    let ours = env::var("CARGO_PKG_NAME").is_ok_and(|it| it == env!("CARGO_PKG_NAME"));
    let cargo = || env::var_os("CARGO_MANIFEST_DIR").filter(|_| ours);
    env::var_os("WGFUSE_TESTS")
        .or_else(cargo)
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
