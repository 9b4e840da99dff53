//! Plans kept on disk: what comes back is what was made, by the key of everything that decides it, or nothing.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use wgfuse::{DType, Device, Fallback, GraphBuilder, Model, Options, Session, Shape, Target, Tensor, Type};
use wgfuse_compiler::{
    compile_graph,
    graph::{Graph, Op},
    options::{Hook, UserPass},
    plan::{Plan, kept},
    schedule::Choices,
};
use wgfuse_tests::{
    device::opened,
    random::Random,
    zoo::{Case, ZOO, beyond, load},
};

fn graph(case: &Case) -> Graph {
    let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
    case.model.graph(&shapes).unwrap()
}

fn target() -> Target {
    Target { max_storage_buffers: 16, subgroup: Some((32, 32)), ..Target::webgpu_minimum() }
}

/// Everything that a plan says, modules included.
fn told(plan: &Plan) -> String {
    let mut told = format!("{plan}");
    for it in &plan.kernels {
        told += &format!("{}{:?}\n", it.kernel, it.types);
        if let Some(shader) = &it.shader {
            told += &format!("{:x} {:?} {:?}\n", shader.key, shader.groups, shader.bindings);
            told += &shader.wgsl();
        }
    }
    told
}

/// With states between its inputs and outputs, one of which becomes what an output is.
fn remembering() -> Graph {
    let mut b = GraphBuilder::new();
    let shape = [3, 8];
    let total = b.state("total", DType::F32, shape).unwrap();
    let x = b.input("x", DType::F32, shape).unwrap();
    let last = b.state("last", DType::F32, shape).unwrap();
    let sum = b.add(total, x).unwrap();
    b.update(total, sum).unwrap();
    let change = b.sub(x, last).unwrap();
    b.output("change", change).unwrap();
    let gone = b.mul(sum, last).unwrap();
    let soft = b.softmax(gone, -1).unwrap();
    b.update(last, x).unwrap();
    b.output("soft", soft).unwrap();
    b.finish().unwrap()
}

#[test]
fn every_plan_comes_back() {
    let zoo = ZOO.iter().map(|name| (*name, graph(&load(name).unwrap())));
    for (name, graph) in zoo.chain([("states", remembering())]) {
        for target in [target(), Target::webgpu_minimum(), Target::cpu()] {
            let plan =
                compile_graph(graph.clone(), &target, &Options::default(), &Choices::default()).unwrap();
            let bytes = kept::write(&plan, &graph);
            let back = kept::read(&bytes, &graph, &target).unwrap_or_else(|it| panic!("{name}: {it}"));
            assert!(!back.kernels.iter().any(|it| it.shader.as_ref().is_some_and(|it| it.module.is_made())));
            assert_eq!(told(&back), told(&plan), "{name}");
        }
    }
}

fn given(case: &Case) -> Vec<(&str, Tensor)> {
    case.model.inputs.iter().map(|it| it.name.as_str()).zip(case.inputs.iter().cloned()).collect()
}

/// Outputs, and how many plans were compiled.
fn run(case: &Case, device: &Device, options: Options) -> (Vec<Tensor>, u64) {
    let before = device.counts().plans;
    let session = Session::with_options(&Model::from(case.model.clone()), device, options).unwrap();
    let outputs = session.run(&given(case)).unwrap();
    (outputs.iter().map(|(_, it)| it.clone()).collect(), device.counts().plans - before)
}

/// A device that has nothing of another session but what lies in the folder.
fn alone(folder: &Path) -> Device {
    opened().cache_in(Some(folder)).share_plans(false)
}

fn plans(folder: &Path) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    all.filter(|it| it.file_name().unwrap().to_string_lossy().starts_with("plan-")).collect()
}

#[test]
fn a_plan_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let device = alone(folder.path());
    for name in ["bert_tiny", "t5_encoder_tiny"] {
        let case = load(name).unwrap();
        let (cold, compiled) = run(&case, &device, Options::default());
        assert_eq!(compiled, 1, "{name}");
        // Neither the plan nor a pipeline of another device is at hand.
        let other = alone(folder.path());
        let (warm, compiled) = run(&case, &other, Options::default());
        assert_eq!((warm, compiled), (cold.clone(), 0), "{name}");
        let (unkept, compiled) = run(&case, &opened().cache_in(None), Options::default());
        assert_eq!((unkept, compiled), (cold, 1), "{name}");
    }
}

#[test]
fn a_plan_with_states_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = |compiled: u64| {
        let device = alone(folder.path());
        let session = Session::new(&Model::from_graph(remembering()), &device).unwrap();
        let mut all = Vec::new();
        for step in 0..3 {
            let x = Random::new(step).tensor(&Type::new(DType::F32, [3, 8]), 1);
            all.extend(session.run(&[("x", x)]).unwrap().into_iter().map(|it| it.1));
        }
        all.extend(["total", "last"].map(|it| session.state(it).unwrap()));
        assert_eq!(device.counts().plans, compiled);
        all
    };
    let cold = run(1);
    assert_eq!(run(0), cold);
}

#[test]
fn damaged_files_are_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let device = alone(folder.path());
    let case = load("t5_encoder_tiny").unwrap();
    let (cold, _) = run(&case, &device, Options::default());
    let [path] = &plans(folder.path())[..] else { panic!("one plan") };
    let whole = fs::read(path).unwrap();
    let mut random = Random::new(1);
    for _ in 0..20 {
        let mut damaged = whole.clone();
        let at = random.below(whole.len());
        damaged[at] ^= 1 << random.below(8);
        fs::write(path, &damaged).unwrap();
        let (again, compiled) = run(&case, &device, Options::default());
        assert_eq!((again, compiled), (cold.clone(), 1), "byte {at}");
        assert_eq!(fs::read(path).unwrap(), whole);
    }
}

/// Bytes that were changed by someone who also knows the sum: no panic, and no plan that does not hold together.
#[test]
fn changed_bytes_are_refused_or_hold_together() {
    let mut random = Random::new(7);
    let (mut refused, mut read) = (0, 0);
    let zoo = ["t5_encoder_tiny", "bert_tiny"].map(|name| graph(&load(name).unwrap()));
    for graph in zoo.into_iter().chain([remembering()]) {
        let target = target();
        let plan = compile_graph(graph.clone(), &target, &Options::default(), &Choices::default()).unwrap();
        let whole = kept::write(&plan, &graph);
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] = b"0123456789"[random.below(10)],
                    2 => _ = bytes.remove(at),
                    _ => {
                        let end = (at + random.below(40)).min(bytes.len());
                        let piece = bytes[at..end].to_vec();
                        let to = random.below(bytes.len());
                        bytes.splice(to..to, piece);
                    }
                }
            }
            match kept::read(&bytes, &graph, &target) {
                Err(_) => refused += 1,
                Ok(plan) => {
                    read += 1;
                    assert_eq!(wgfuse_compiler::plan::verify(&plan), Vec::<String>::new());
                }
            }
        }
    }
    println!("{refused} refused, {read} read");
    assert!(refused > 1000);
}

#[test]
fn keys_tell_apart_what_decides() {
    let case = load("bert_tiny").unwrap();
    let own = graph(&case);
    let key = |graph: &Graph, target: &Target, options: &Options| {
        kept::key(graph, target, options, &Choices::default()).unwrap()
    };
    let base = key(&own, &target(), &Options::default());
    assert_eq!(base, key(&graph(&case), &target(), &Options::default()));
    let longer: Vec<Shape> = case.inputs.iter().map(|it| [1, it.shape()[1] + 1].into()).collect();
    let other = case.model.graph(&longer).unwrap();
    let options = [
        Options { checked: true, ..Options::default() },
        Options { fuse: false, ..Options::default() },
        Options { exact: true, ..Options::default() },
        Options { fallback: Fallback::Error, ..Options::default() },
        Options { memory_limit: 1 << 30, ..Options::default() },
        Options { without_passes: vec!["siblings".into()], ..Options::default() },
    ];
    let mut keys: Vec<_> = options.iter().map(|it| key(&own, &target(), it)).collect();
    keys.push(key(&other, &target(), &Options::default()));
    keys.push(key(&own, &Target::webgpu_minimum(), &Options::default()));
    let mut forgetting = remembering();
    forgetting.states.clear();
    keys.extend([remembering(), forgetting].iter().map(|it| key(it, &target(), &Options::default())));
    keys.push(base);
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), options.len() + 5);

    let pass = UserPass {
        name: "own".into(),
        at: Hook::After("simplify".into()),
        run: Arc::new(|graph: &Graph| Ok(graph.clone())),
    };
    let options = Options { passes: vec![pass], ..Options::default() };
    assert_eq!(kept::key(&own, &target(), &options, &Choices::default()), None);
}

/// The graph with those bits of every constant of many floats changed, and how many those are.
fn reweighted(graph: &Graph, bits: u8) -> (Graph, usize) {
    let (mut changed, mut shared) = (0, std::collections::HashMap::new());
    let made = graph.rebuild(|to, op| to.add(op)).unwrap();
    let mut moved = slotmap::SecondaryMap::new();
    let mut to = Graph::new();
    for input in made.inputs() {
        to.add_input(input.name.clone(), input.ty.clone()).unwrap();
    }
    for (value, node) in made.nodes() {
        to.set_origin(node.origin.clone());
        let new = match &node.op {
            Op::Constant(id) => {
                let tensor = made.constant(*id);
                let weights = tensor.dtype().is_float() && tensor.data().len() > 1 << 16;
                // What shared its bytes still does.
                let place = tensor.data().as_ptr() as usize;
                let new = || Bytes::from_iter(tensor.data().iter().map(|it| it ^ bits));
                let data = match weights {
                    true => shared.entry(place).or_insert_with(new).clone(),
                    false => tensor.data().clone(),
                };
                changed += usize::from(weights);
                to.add_constant(Tensor::new(tensor.ty().clone(), data).unwrap())
            }
            op => to.add(op.clone().map_operands(|it| moved[it])).unwrap(),
        };
        moved.insert(value, new);
    }
    to.outputs = made.outputs.clone();
    to.outputs.iter_mut().for_each(|it| it.value = moved[it.value]);
    (to, changed)
}

/// Values of weights decide nothing: the same key, and the same plan.
#[test]
fn weights_are_not_looked_at() {
    let mut changed = 0;
    for name in ZOO {
        let own = graph(&load(name).unwrap());
        let ((one, _), (other, count)) = (reweighted(&own, 0), reweighted(&own, 1));
        changed += count;
        let options = Options::default();
        assert_eq!(
            kept::key(&one, &target(), &options, &Choices::default()),
            kept::key(&other, &target(), &options, &Choices::default()),
            "{name}"
        );
        let plan = |graph| compile_graph(graph, &target(), &options, &Choices::default()).unwrap();
        let (one, other) = (plan(one), plan(other));
        assert_eq!(told(&one), told(&other), "{name}");
    }
    println!("{changed} constants changed");
    assert!(changed > 10);
}

/// Names the folder that a process which the test has started shares with others.
const FOLDER: &str = "WGFUSE_KEPT_PLANS_FOLDER";

/// What one of several processes does; the test proper starts them.
#[test]
fn beside_another_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    for _ in 0..4 {
        for name in ["t5_encoder_tiny", "bert_tiny", "gpt2_tiny"] {
            let case = load(name).unwrap();
            let (outputs, _) = run(&case, &alone(Path::new(&folder)), Options::default());
            for (have, want) in outputs.iter().zip(&case.expected) {
                assert_eq!(beyond(have, want, 1e-3, 1e-4), None, "{name}");
            }
        }
    }
}

/// Files appear, change and vanish under each of them, and all get what they should.
#[test]
fn processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["beside_another_process", "--exact", "--nocapture"]).env(FOLDER, folder.path());
        command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut running = [start(), start()];
    let mut random = Random::new(3);
    while running.iter_mut().any(|it| it.try_wait().unwrap().is_none()) {
        std::thread::sleep(Duration::from_millis(20));
        // What a third does: leaves the oldest out, or is stopped halfway.
        let Ok(found) = fs::read_dir(folder.path()) else { continue };
        let all: Vec<_> = found.filter_map(|it| Some(it.ok()?.path())).collect();
        if !all.is_empty() {
            let path = random.pick(&all);
            match random.below(3) {
                0 => _ = fs::remove_file(path),
                1 => _ = fs::write(path, b"wgfuse"),
                _ => {}
            }
        }
    }
    for process in running {
        let output = process.wait_with_output().unwrap();
        let told =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
    // Left alone, the folder serves a process of its own.
    let case = load("bert_tiny").unwrap();
    run(&case, &alone(folder.path()), Options::default());
    assert_eq!(run(&case, &alone(folder.path()), Options::default()).1, 0);
}
