//! What the tests need of the machine: an adapter to run kernels on, Vulkan's validation layer, the WebAssembly target, and ONNX's
//! own test suite.
//!
//! The functions change the machine only where something is missing and can be had without a question; otherwise they
//! return one sentence that says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DRIVER: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];
const LAYER: &str = "vulkan-validationlayers";
const WASM: &str = "wasm32-unknown-unknown";

/// An adapter that the tests of kernels take (Vulkan, Metal or DX12, software or not), or the reason why there is none.
pub fn adapter() -> Result<(), String> {
    if has_adapter()? {
        return Ok(());
    }
    let advice = "install a Vulkan driver (Debian, Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1)";
    let Some(apt) = apt_get() else {
        return Err(format!("no adapter found and packages cannot be installed from here: {advice}"));
    };
    println!("xtask: no adapter found");
    match install(&apt, &DRIVER) && has_adapter()? {
        true => Ok(()),
        false => Err(format!("no adapter found and installing one did not help: {advice}")),
    }
}

/// The Khronos validation layer of Vulkan, or the reason why there is none.
pub fn validation_layer() -> Result<(), String> {
    let present = || {
        let folders = ["/usr/share/vulkan", "/usr/local/share/vulkan", "/etc/vulkan"];
        folders
            .iter()
            .any(|it| Path::new(it).join("explicit_layer.d/VkLayer_khronos_validation.json").exists())
    };
    let advice = format!("install Vulkan's validation layer (Debian, Ubuntu: apt-get install {LAYER})");
    match present() || apt_get().is_some_and(|it| install(&it, &[LAYER])) && present() {
        true => Ok(()),
        false => Err(advice),
    }
}

/// Package lists are refreshed only where the ones at hand do not lead to the packages.
fn install(apt: &[&str], packages: &[&str]) -> bool {
    println!("xtask: installing {}", packages.join(" and "));
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    run(apt, &install) || (run(apt, &["update"]) && run(apt, &install))
}

/// The WebAssembly target of the toolchain, or the reason why there is none.
pub fn wasm_target() -> Result<&'static str, String> {
    let advice = format!("get the target with: rustup target add {WASM}");
    let libdir = Command::new(crate::test::cargo_sibling("rustc"))
        .args(["--print", "target-libdir", "--target", WASM])
        .stderr(Stdio::null())
        .output();
    let present = libdir.is_ok_and(|it| {
        it.status.success() && Path::new(String::from_utf8_lossy(&it.stdout).trim()).is_dir()
    });
    if present {
        return Ok(WASM);
    }
    println!("xtask: adding the target {WASM}");
    let added = Command::new("rustup").args(["target", "add", WASM]).status();
    match added {
        Ok(status) if status.success() => Ok(WASM),
        Ok(_) => Err(format!("rustup could not add it; {advice}")),
        Err(_) => Err(format!("rustup is not installed; {advice}")),
    }
}

/// Asks the command line tool, which looks for adapters as every program that uses wgfuse does, and was built beside this one.
fn has_adapter() -> Result<bool, String> {
    let failed =
        |it: String| format!("looking for an adapter failed ({it}): `cargo run -- devices` says more");
    let tool = built("wgfuse").map_err(|it| failed(it.to_string()))?;
    let out = Command::new(tool)
        .args(["devices", "--json"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|it| failed(it.to_string()))?;
    let report: serde_json::Value =
        serde_json::from_slice(&out.stdout).map_err(|it| failed(it.to_string()))?;
    has_usable(&report).ok_or_else(|| failed("no list of adapters".into()))
}

/// A program of the workspace, built beside this one.
pub fn built(name: &str) -> std::io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// Whether the report of `wgfuse devices --json` lists an adapter that is not OpenGL's. `None` if it lists none in any way.
fn has_usable(report: &serde_json::Value) -> Option<bool> {
    Some(report["adapters"].as_array()?.iter().any(|it| it["backend"] != "gl"))
}

/// The command that installs packages without asking, if there is one.
fn apt_get() -> Option<Vec<&'static str>> {
    let works = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|it| it.success())
    };
    if !works("apt-get", &["--version"]) {
        return None;
    }
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        return Some(vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    }
    let sudo = ["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    works("sudo", &[&sudo[..], &["--version"]].concat()).then(|| [&["sudo"], &sudo[..]].concat())
}

/// The version of the package `onnx` whose backend test suite is run.
const ONNX: &str = "1.23.2";

/// The folder with ONNX's backend test suite, written there if it is not, or the reason why there is none.
pub fn onnx_suite() -> Result<PathBuf, String> {
    let folder = workspace().join("target").join("onnx-suite");
    let script = workspace().join("tests").join("onnx").join("materialise.py");
    let text = fs::read_to_string(&script).map_err(|it| format!("{}: {it}", script.display()))?;
    let suite = folder.join("cases");
    // What wrote the cases that are there.
    let (stamp, wanted) = (folder.join("stamp.txt"), format!("onnx {ONNX}\n{text}"));
    if suite.is_dir() && fs::read_to_string(&stamp).is_ok_and(|it| it == wanted) {
        return Ok(suite);
    }
    let venv = folder.join("venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let (python, venv) = (python.to_string_lossy(), venv.to_string_lossy());
    println!("xtask: installing the Python package onnx {ONNX} in {venv}");
    let package = format!("onnx=={ONNX}");
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &package];
    let found = ["python3", "python"].into_iter().any(|it| run(&[it], &["-m", "venv", &venv]));
    if !found {
        return Err(
            "python3 with its module venv is needed (Debian, Ubuntu: apt-get install python3-venv)".into()
        );
    }
    if !run(&[&python], &quiet) {
        return Err(format!("pip could not install {package}; try: {python} {}", quiet.join(" ")));
    }
    let made = run(&[&python], &[&script.to_string_lossy(), &suite.to_string_lossy()]);
    let kept = made && fs::write(&stamp, wanted).is_ok();
    if kept { Ok(suite) } else { Err(format!("{} could not write the cases", script.display())) }
}

/// The root of the source tree.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

fn run(program: &[&str], args: &[&str]) -> bool {
    let status = Command::new(program[0]).args(&program[1..]).args(args).status();
    status.is_ok_and(|it| it.success())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::has_usable;

    #[test]
    fn opengl_alone_is_no_adapter() {
        let report = |backends: &[&str]| {
            let list: Vec<_> =
                backends.iter().map(|it| json!({ "name": "llvmpipe", "backend": it })).collect();
            has_usable(&json!({ "adapters": list }))
        };
        assert_eq!(report(&[]), Some(false));
        assert_eq!(report(&["gl"]), Some(false));
        assert_eq!(report(&["gl", "vulkan"]), Some(true));
        assert_eq!(has_usable(&json!({ "advice": null })), None);
    }
}
