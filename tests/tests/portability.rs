//! Every kernel of the zoo in every language that naga writes, and its WGSL to Tint.

use std::{collections::BTreeMap, io::Write, process::Command};

use naga::{
    back::{glsl, hlsl, msl, spv},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use wgfuse::{Options, Shape, Target, compiler::compile};
use wgfuse_tests::zoo::{self, ZOO};

/// Every different kernel by its key, with a name.
fn kernels() -> BTreeMap<u128, (String, naga::Module, String)> {
    let mut all = BTreeMap::new();
    for name in ZOO {
        let case = zoo::load(name).unwrap();
        let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        let plan = compile(&case.model, &shapes, &Target::webgpu_minimum(), &Options::default()).unwrap();
        for it in &plan.kernels {
            let shader = it.shader.as_ref().expect("the zoo runs on the GPU alone");
            let label = format!("{name} {}", it.kernel.name);
            all.entry(shader.key).or_insert_with(|| (label, (*shader.module).clone(), shader.wgsl()));
        }
    }
    all
}

fn written(module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    let entry = "main".to_owned();
    let stage = naga::ShaderStage::Compute;
    let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.clone() };
    spv::write_vec(module, info, &spv::Options::default(), Some(&pipeline))
        .map_err(|it| format!("SPIR-V: {it}"))?;
    msl::write_string(
        module,
        info,
        &msl::Options { fake_missing_bindings: true, ..Default::default() },
        &msl::PipelineOptions::default(),
    )
    .map_err(|it| format!("MSL: {it}"))?;
    let (mut text, options) =
        (String::new(), hlsl::Options { fake_missing_bindings: true, ..Default::default() });
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|it| format!("HLSL: {it}"))?;
    let options = glsl::Options {
        version: glsl::Version::Embedded { version: 310, is_webgl: false },
        ..Default::default()
    };
    let pipeline = glsl::PipelineOptions { shader_stage: stage, entry_point: entry, multiview: None };
    let mut text = String::new();
    glsl::Writer::new(
        &mut text,
        module,
        info,
        &options,
        &pipeline,
        naga::proc::BoundsCheckPolicies::default(),
    )
    .and_then(|mut it| it.write())
    .map_err(|it| format!("GLSL: {it}"))?;
    Ok(())
}

#[test]
fn every_kernel_is_written_in_every_language() {
    let kernels = kernels();
    assert!(kernels.len() > 50, "the zoo has {} kernels", kernels.len());
    let mut faults = Vec::new();
    for (label, module, _) in kernels.values() {
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(module).unwrap();
        if let Err(fault) = written(module, &info) {
            faults.push(format!("{label}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn tint_accepts_every_kernel() {
    if Command::new("tint").arg("--help").output().is_err() {
        println!("NOT RUN: `tint` is not installed; only naga has seen these kernels");
        return;
    }
    let mut faults = Vec::new();
    let folder = std::env::temp_dir().join(format!("wgfuse-tint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (key, (label, _, text)) in &kernels() {
        let path = folder.join(format!("{key:032x}.wgsl"));
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let out = path.with_extension("out");
        let done =
            Command::new("tint").args(["--format", "wgsl", "-o"]).arg(out).arg(&path).output().unwrap();
        if !done.status.success() {
            faults.push(format!("{label}: {}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(faults.is_empty(), "{} kernels: {}", faults.len(), faults[0]);
}
