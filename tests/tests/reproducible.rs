//! Same input, same bytes: what the compiler makes of the zoo does not depend on the process that it runs in (seeds of hash
//! maps, addresses, the number of threads), nor on what was compiled before.

use std::{env, fmt::Write, fs, path::Path, process::Command};

use wgfuse_compiler::{
    graph::text::{Constants, print},
    import::Model,
    options::Options,
    shape::{Dim, Shape},
    target::Target,
};
use wgfuse_tests::{
    stages::stages,
    zoo::{self, ZOO},
};

/// Names the folder in which a process that the test has started leaves its texts.
const FOLDER: &str = "WGFUSE_REPRODUCIBLE_FOLDER";
/// Set for a process that compiles the last model first, and each twice.
const BACKWARDS: &str = "WGFUSE_REPRODUCIBLE_BACKWARDS";

/// Every stage's text for one model.
fn text(name: &str) -> String {
    let model = Model::from_bytes(zoo::onnx(name).unwrap()).unwrap();
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) if name == "batch" => 2,
        Dim::Symbol(_) | Dim::Unknown => 12,
    };
    let shapes: Vec<Shape> = model.inputs.iter().map(|it| it.dims.iter().map(size).collect()).collect();
    let minimum = Target::webgpu_minimum();
    let more = Target {
        max_storage_buffers: 16,
        max_binding_size: 2 << 30,
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 48 << 10,
        subgroup: Some((32, 32)),
        f16: true,
        components_apart: true,
        ..minimum.clone()
    };
    let mut text = String::new();
    for target in [minimum, more, Target::cpu()] {
        for fuse in [true, false] {
            let options = Options { fuse, ..Options::default() };
            writeln!(text, "# {:?}, fuse {fuse}", target.place).unwrap();
            let made = stages(model.graph(&shapes).unwrap(), &target, &options).unwrap();
            text += &print(&made.parts.graph, Constants::Small);
            text += &print(&made.parts.constants, Constants::Small);
            write!(text, "{}{}{}", made.loops, made.schedule, made.plan).unwrap();
            for shader in made.plan.kernels.iter().filter_map(|it| it.shader.as_ref()) {
                writeln!(text, "shader {:032x} {:?}\n{}", shader.key, shader.groups, shader.wgsl()).unwrap();
            }
        }
    }
    text
}

fn leave_texts(folder: &Path) {
    let mut names = ZOO.to_vec();
    names.push("digits");
    let backwards = env::var_os(BACKWARDS).is_some();
    if backwards {
        names.reverse();
    }
    for name in names {
        let made = text(name);
        assert!(!backwards || made == text(name), "{name} at the second time");
        fs::write(folder.join(name), made).unwrap();
    }
}

#[test]
fn the_same_bytes_in_every_process() {
    if let Some(folder) = env::var_os(FOLDER) {
        return leave_texts(Path::new(&folder));
    }
    let folder = env::temp_dir().join(format!("wgfuse-reproducible-{}", std::process::id()));
    let started =
        [("forwards", "1", None), ("backwards", "3", Some(BACKWARDS))].map(|(name, threads, order)| {
            let own = folder.join(name);
            fs::create_dir_all(&own).unwrap();
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", "the_same_bytes_in_every_process", "--nocapture"]);
            command.env(FOLDER, &own).env("RAYON_NUM_THREADS", threads).envs(order.map(|it| (it, "1")));
            (command.stdout(std::process::Stdio::null()).spawn().unwrap(), own)
        });
    let [forwards, backwards] = started.map(|(mut child, own)| {
        assert!(child.wait().unwrap().success(), "{}", own.display());
        own
    });
    let (mut compared, mut bytes) = (0, 0);
    for entry in fs::read_dir(&forwards).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |folder: &Path| fs::read_to_string(folder.join(&name)).unwrap();
        let (one, two) = (read(&forwards), read(&backwards));
        let other = one.lines().zip(two.lines()).find(|(one, two)| one != two);
        assert_eq!(other, None, "{name:?}");
        assert!(one == two, "{name:?}: {} bytes and {}", one.len(), two.len());
        compared += 1;
        bytes += one.len();
    }
    fs::remove_dir_all(&folder).unwrap();
    println!("{compared} models, {bytes} bytes");
    assert_eq!(compared, ZOO.len() + 1);
    assert!(bytes > 1 << 20, "{bytes} bytes are too few to be everything");
}
