//! Every kernel of the zoo in every language that naga writes, and its WGSL to Tint.

use std::{collections::BTreeMap, io::Write, process::Command};

use naga::{
    back::{glsl, hlsl, msl, spv},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use wgfuse::{
    Options, Shape, Target,
    compiler::{codegen::shader::torn, compile},
};
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
fn no_kernel_writes_components_of_vectors_that_others_write() {
    for (label, module, _) in kernels().values() {
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(module).unwrap();
        assert_eq!(torn(module, &info, false), None, "{label}");
    }
}

#[test]
fn writes_of_components_are_found() {
    let found = |statement: &str, components_apart: bool| {
        let source = format!(
            "struct Pair {{ one: f32, two: vec2<f32> }}
            @group(0) @binding(0) var<storage, read_write> stored: array<vec4<f32>>;
            @group(0) @binding(1) var<storage, read_write> words: array<u32>;
            var<workgroup> held: array<vec4<f32>, 64>;
            var<workgroup> pair: Pair;
            var<workgroup> scalars: array<array<f32, 4>, 64>;
            var<private> own: vec4<f32>;
            fn write(n: u32) {{ {statement} }}
            @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) n: u32) {{ write(n); }}"
        );
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).unwrap();
        torn(&module, &info, components_apart)
    };
    let components = [
        "held[n / 4u][n % 4u] = 1.0;",
        "held[n].x = 1.0;",
        "pair.two.y += 1.0;",
        "let four = &held[n]; (*four)[n % 4u] = 1.0;",
        "if n > 3u { loop { break; continuing { held[n].w = 1.0; } } }",
        "switch n { case 1u: { } default: { { held[n].w = 1.0; } } }",
    ];
    for statement in components {
        assert_eq!(found(statement, false), Some(naga::AddressSpace::WorkGroup), "{statement}");
        assert_eq!(found(statement, true), None, "{statement}");
    }
    for apart in [false, true] {
        let stored = found("stored[n / 4u][n % 4u] = 1.0;", apart);
        assert!(matches!(stored, Some(naga::AddressSpace::Storage { .. })), "{stored:?}");
        let whole = [
            "held[n] = vec4<f32>(1.0);",
            "stored[n] = held[n];",
            "scalars[n][2] = held[n].x;",
            "pair.one = 1.0;",
            "words[n] = 1u;",
            "own[n % 4u] = 1.0; var four = own; four.x = 2.0;",
        ];
        for statement in whole {
            assert_eq!(found(statement, apart), None, "{statement}");
        }
    }
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
