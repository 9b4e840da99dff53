//! A folder that shows one compilation (`Session::debug_in`, `WGFUSE_DEBUG`), or where and why one ended.
//!
//! In: what was given and what the stages have made. Out: a new folder:
//!
//! ```text
//! arguments/          what `wgfuse replay-args` reads
//! graph/00-imported.txt, 01-simplify.txt ..   after each pass that changed it
//! loops.txt  schedule.txt  plan.txt           the stages' texts; after the kernels, why others were not fused
//! kernels/k000_.. .wgsl                       below a header with what it was made for
//! timings.txt         of each step of the compilation
//! report.html         all of it drawn; opens without a network
//! failure.txt         why the compilation ended
//! ```

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use wgfuse_compiler::{
    arguments::{Arguments, LIMIT},
    codegen::Shader,
    graph::text::{Constants, print},
    plan::Plan,
    schedule::Kernel,
};

use crate::{
    observed::Observed,
    report,
    saved::{self, new_folder},
};

/// Writes a new folder in `parent`.
pub(crate) fn write(
    parent: &Path,
    arguments: &Arguments,
    observed: &Observed,
    outcome: Result<&Plan, &str>,
) -> io::Result<PathBuf> {
    let device = &arguments.device;
    let name = saved::name(&arguments.graph, device);
    new_folder(parent, &name, |folder| {
        let inner = folder.join("arguments");
        fs::create_dir(&inner)?;
        saved::write(&inner, &arguments.write(LIMIT))?;
        graphs(&folder.join("graph"), observed)?;
        let text = |name: &str, text: String| fs::write(folder.join(name), text);
        if let Some(it) = &observed.loops {
            text("loops.txt", it.to_string())?;
        }
        if let Some(it) = &observed.schedule {
            text("schedule.txt", it.to_string())?;
            kernels(&folder.join("kernels"), &it.kernels, &observed.shaders)?;
        }
        let mut times = String::new();
        for (step, seconds) in &observed.times {
            writeln!(times, "{step:<24} {:>12}", report::seconds(*seconds))
                .expect("a string takes everything");
        }
        text("timings.txt", times)?;
        match outcome {
            Ok(plan) => {
                text("plan.txt", plan.to_string())?;
                let page = report::page(&name, device, &[], &report::of(observed, plan));
                text("report.html", page)
            }
            Err(why) => text("failure.txt", format!("{why}\n")),
        }
    })
}

fn graphs(folder: &Path, observed: &Observed) -> io::Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("00-imported.txt"), print(&observed.imported, Constants::Small))?;
    for (number, (pass, graph)) in observed.passes.iter().enumerate() {
        if let Some(graph) = graph {
            let name = format!("{:02}-{}.txt", number + 1, plain(pass));
            fs::write(folder.join(name), print(graph, Constants::Small))?;
        }
    }
    Ok(())
}

fn kernels(folder: &Path, kernels: &[Kernel], shaders: &[Option<Shader>]) -> io::Result<()> {
    fs::create_dir(folder)?;
    for (kernel, shader) in kernels.iter().zip(shaders) {
        let Some(shader) = shader else { continue };
        // The only part of a shader's text that comes from a file.
        let origins: Vec<String> = kernel.origins.iter().map(|it| format!("{it:?}")).collect();
        let [x, y, z] = shader.groups;
        let header = format!(
            "// {}\n// made for {}\n// fused {}\n// {x} x {y} x {z} workgroups\n\n",
            kernel.name,
            origins.join(", "),
            kernel.ops.join(" + ")
        );
        fs::write(folder.join(format!("{}.wgsl", plain(&kernel.name))), header + &shader.wgsl())?;
    }
    Ok(())
}

/// As a part of a file's name.
fn plain(name: &str) -> String {
    let plain = |it: char| if it.is_ascii_alphanumeric() || it == '_' { it } else { '-' };
    name.chars().map(plain).take(100).collect()
}
