//! The hand-written shaders: every file, and every concatenation that codegen loads, is valid to every compiler at hand, and
//! computes what slow loops in f64 compute.

mod gpu;
mod operators;
mod reductions;
mod templates;

use std::{io::Write, process::Command};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgfuse_tests::folder;

const FILES: [&str; 6] = ["math", "reduce", "matmul", "conv", "attention", "attention_row"];
const TEMPLATES: [&str; 4] = ["matmul", "conv", "attention", "attention_row"];

fn shader(name: &str) -> String {
    let path = folder::tests().join("../shaders").join(format!("{name}.wgsl"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text that codegen parses for a template.
fn loaded(template: &str) -> String {
    [shader("math"), shader("reduce"), shader(template)].join("\n")
}

/// Every file by itself and every concatenation, by name.
fn sources() -> Vec<(String, String)> {
    let alone = FILES.iter().map(|it| (it.to_string(), shader(it)));
    let whole = TEMPLATES.iter().map(|it| (format!("math+reduce+{it}"), loaded(it)));
    alone.chain(whole).collect()
}

/// On cooperative matrices, which WGSL has by an extension of naga's alone, and only some back ends.
const COOPERATIVE: [&str; 2] = ["matmul_coop", "attention_coop"];

#[test]
fn cooperative_matrices_are_valid() {
    for name in COOPERATIVE {
        let source = shader(name);
        assert!(!source.contains("@group"), "{name} binds something");
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        let capabilities = wgfuse_compiler::codegen::shader::CAPABILITIES;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        naga::back::spv::write_vec(&module, &info, &Default::default(), None)
            .unwrap_or_else(|error| panic!("{name} as SPIR-V: {error}"));
        let options = naga::back::msl::Options { lang_version: (2, 3), ..Default::default() };
        naga::back::msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{name} as MSL: {error}"));
    }
}

fn validated(name: &str, source: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    (module, info)
}

#[test]
fn files_stand_alone_without_bindings() {
    for (name, source) in sources() {
        let (module, _) = validated(&name, &source);
        assert!(!source.contains("@group"), "{name} binds something");
        let template = TEMPLATES.iter().any(|it| name.ends_with(it));
        let entries: Vec<&str> = module.entry_points.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(entries, if template { vec!["main"] } else { vec![] }, "{name}");
    }
}

#[test]
fn back_ends_write_every_file() {
    for (name, source) in sources() {
        let (module, info) = validated(&name, &source);
        naga::back::spv::write_vec(&module, &info, &Default::default(), None)
            .unwrap_or_else(|error| panic!("{name} as SPIR-V: {error}"));
        naga::back::msl::write_string(&module, &info, &Default::default(), &Default::default())
            .unwrap_or_else(|error| panic!("{name} as MSL: {error}"));
        let mut hlsl = String::new();
        naga::back::hlsl::Writer::new(&mut hlsl, &Default::default(), &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name} as HLSL: {error}"));
        for entry in &module.entry_points {
            let options = naga::back::glsl::Options {
                version: naga::back::glsl::Version::new_gles(310),
                ..Default::default()
            };
            let pipeline = naga::back::glsl::PipelineOptions {
                shader_stage: naga::ShaderStage::Compute,
                entry_point: entry.name.clone(),
                multiview: None,
            };
            let mut glsl = String::new();
            naga::back::glsl::Writer::new(
                &mut glsl,
                &module,
                &info,
                &options,
                &pipeline,
                naga::proc::BoundsCheckPolicies::default(),
            )
            .and_then(|mut it| it.write())
            .unwrap_or_else(|error| panic!("{name} as GLSL: {error}"));
        }
    }
}

/// As shipped, every template keeps to what WebGPU guarantees: 256 invocations, 16 KiB.
#[test]
fn defaults_fit_everywhere() {
    for (name, source) in sources() {
        let (module, info) = validated(&name, &source);
        // Of a file without an entry point everything may be used.
        let used = |it: naga::Handle<naga::GlobalVariable>| {
            module.entry_points.is_empty() || !info.get_entry_point(0)[it].is_empty()
        };
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).expect("a validated module");
        let workgroup = module
            .global_variables
            .iter()
            .filter(|(at, it)| it.space == naga::AddressSpace::WorkGroup && used(*at));
        let bytes: u32 = workgroup.map(|(_, it)| layouter[it.ty].size).sum();
        assert!(bytes <= 16_384, "{name}: {bytes} bytes of workgroup memory");
        for entry in &module.entry_points {
            assert!(entry.workgroup_size[0] <= 256, "{name}: {:?} invocations", entry.workgroup_size);
        }
    }
}

/// Chrome's compiler is stricter than naga, about uniform control flow above all.
#[test]
fn tint_accepts_every_file() {
    if Command::new("tint").arg("--help").output().is_err() {
        // Not by `eprintln!`, which the test harness would swallow.
        let text = "\nNOT CHECKED: `tint` is not installed, so nothing was shown to Chrome's compiler\n";
        std::io::stderr().write_all(text.as_bytes()).expect("a standard error");
        return;
    }
    for (name, source) in sources() {
        let path = std::env::temp_dir().join(format!("wgfuse-{}-{name}.wgsl", std::process::id()));
        std::fs::write(&path, source).expect("a temporary file");
        let output = Command::new("tint")
            .args(["--format", "wgsl", "-o"])
            .arg(path.with_extension("out"))
            .arg(&path)
            .output()
            .expect("tint runs");
        let _ = std::fs::remove_file(path.with_extension("out"));
        let _ = std::fs::remove_file(&path);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
