//! A number of everything that this crate is made from, `WGFUSE_SOURCES`: what one build has kept on disk is not read by another.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let mut files = Vec::new();
    // The lock file, where there is one, tells the versions of what is built in.
    for place in ["src", "../shaders", "Cargo.toml", "../Cargo.lock"] {
        let place = root.join(place);
        if place.exists() {
            println!("cargo:rerun-if-changed={}", place.display());
            collect(&place, &mut files).expect("sources can be read");
        }
    }
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_6c62_272e_07bb_0142_u128;
    for file in files {
        for byte in fs::read(file).expect("sources can be read") {
            // FNV-1a with the prime of 128 bits.
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }
    println!("cargo:rustc-env=WGFUSE_SOURCES={hash:032x}");
}

fn collect(place: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if place.is_file() {
        files.push(place.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(place)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
