//! Models compiled ahead of time: they run as they would have, and what is damaged, foreign or does not fit is said.

use std::fs;

use wgfuse::{
    DType, Device, DisabledReason, Fallback, GraphBuilder, Model, Options, Session, Shape, Target, Tensor,
};
use wgfuse_compiler::{
    artefact::{Artefact, MAGIC, VERSION},
    compile_graph,
    plan::Plan,
    schedule::Choices,
};
use wgfuse_tests::{
    device::gpu,
    folder,
    random::Random,
    zoo::{Case, ZOO, beyond, load},
};
use xxhash_rust::xxh3::xxh3_128;

fn shapes(case: &Case) -> Vec<Shape> {
    case.inputs.iter().map(|it| it.shape().clone()).collect()
}

fn compiled(case: &Case, targets: &[Target]) -> Vec<u8> {
    Model::from(case.model.clone()).compile(&[shapes(case)], targets, &Options::default()).unwrap()
}

/// What the values of `case` are off by in a session of these bytes, which compiles nothing.
fn run(name: &str, case: &Case, bytes: Vec<u8>, device: &Device) -> Vec<String> {
    let session = Session::new(&Model::from_bytes(bytes).unwrap(), device).unwrap();
    let given: Vec<(&str, Tensor)> =
        case.model.inputs.iter().map(|it| it.name.as_str()).zip(case.inputs.iter().cloned()).collect();
    let outputs = match session.run(&given) {
        Ok(outputs) => outputs,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    assert_eq!(session.tally().compiled, 0, "{name}");
    let here = session.plan_for(&shapes(case)).unwrap().target.place;
    assert_eq!(here, device.target().place, "{name}: {:?}", session.disabled());
    (outputs.iter().zip(&case.expected))
        .filter_map(|((output, have), want)| {
            let most = beyond(have, want, 1e-3, 1e-4)?;
            Some(format!("{name}: {output} is off by {most}"))
        })
        .collect()
}

#[test]
fn the_zoo_runs_compiled_for_any_device_for_this_one_and_for_the_processor() {
    let device = gpu();
    let mut faults = Vec::new();
    for name in ZOO {
        let case = load(name).unwrap();
        let portable = compiled(&case, &[Target::webgpu_minimum()]);
        let both = compiled(&case, &[device.target().clone(), Target::webgpu_minimum()]);
        for (bytes, device) in [(&portable, &device), (&both, &device), (&portable, &Device::cpu())] {
            faults.extend(run(name, &case, bytes.clone(), device));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a plan does, but for where its constants come from.
fn told(plan: &Plan) -> String {
    let mut told = String::new();
    for line in plan.to_string().lines().filter(|it| !it.starts_with("constant")) {
        told += &format!("{line}\n");
    }
    for it in &plan.kernels {
        told += &format!("{}{:?}\n", it.kernel, it.types);
        if let Some(shader) = &it.shader {
            told += &format!("{:x} {:?} {:?}\n{}", shader.key, shader.groups, shader.bindings, shader.wgsl());
        }
    }
    told
}

#[test]
fn plans_come_back_as_they_were() {
    for name in ["bert_tiny", "gpt2_tiny", "test_resnet"] {
        let case = load(name).unwrap();
        let target = Target { max_storage_buffers: 16, subgroup: Some((32, 32)), ..Target::webgpu_minimum() };
        let artefact = Artefact::parse(compiled(&case, std::slice::from_ref(&target)).into()).unwrap();
        assert_eq!(artefact.compiled.len(), 2, "one of them for the processor");
        for it in &artefact.compiled {
            let graph = case.model.graph(&shapes(&case)).unwrap();
            let made = compile_graph(graph, &it.target, &Options::default(), &Choices::default()).unwrap();
            assert_eq!(told(&artefact.plan(it).unwrap()), told(&made), "{name}");
        }
    }
}

/// A running sum, and the change since the last run.
fn remembering() -> Model {
    let mut b = GraphBuilder::new();
    let shape = [3, 8];
    let total = b.state("total", DType::F32, shape).unwrap();
    let x = b.input("x", DType::F32, shape).unwrap();
    let last = b.state("last", DType::F32, shape).unwrap();
    let sum = b.add(total, x).unwrap();
    b.update(total, sum).unwrap();
    let change = b.sub(x, last).unwrap();
    b.output("change", change).unwrap();
    b.update(last, x).unwrap();
    b.output("sum", sum).unwrap();
    Model::from_graph(b.finish().unwrap())
}

#[test]
fn states_are_kept() {
    let model = remembering();
    let all: Vec<Shape> = vec![[3, 8].into(); 3];
    let bytes = model.compile(&[all], &[Target::webgpu_minimum()], &Options::default()).unwrap();
    for device in [gpu(), Device::cpu()] {
        let session = Session::new(&Model::from_bytes(bytes.clone()).unwrap(), &device).unwrap();
        let (mut random, mut total, mut last) = (Random::new(3), [0.0; 24], [0.0; 24]);
        for _ in 0..3 {
            let x: Vec<f32> = (0..24).map(|_| random.below(100) as f32).collect();
            let made = session.run(&[("x", Tensor::f32([3, 8], &x).unwrap())]).unwrap();
            let change: Vec<f64> = x.iter().zip(&last).map(|(x, last)| *x as f64 - last).collect();
            (0..24).for_each(|at| (total[at], last[at]) = (total[at] + x[at] as f64, x[at] as f64));
            assert_eq!(made["change"].to_f64(), change);
            assert_eq!(made["sum"].to_f64(), total);
        }
    }
}

#[test]
fn random_numbers_are_those_of_the_seed() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [64]).unwrap();
    let noise = b.rand(DType::F32, [64]).unwrap();
    let y = b.add(x, noise).unwrap();
    b.output("y", y).unwrap();
    let model = Model::from_graph(b.finish().unwrap());
    let bytes =
        model.compile(&[vec![[64].into()]], &[Target::webgpu_minimum()], &Options::default()).unwrap();
    let run = |model: &Model, device: &Device, seed: u64| {
        let session = Session::new(model, device).unwrap();
        session.set_seed(seed);
        session.run(&[("x", Tensor::f32([64], &[0.0; 64]).unwrap())]).unwrap()["y"].to_f64()
    };
    let artefact = Model::from_bytes(bytes).unwrap();
    let want = run(&model, &Device::cpu(), 7);
    for device in [gpu(), Device::cpu()] {
        assert_eq!(run(&artefact, &device, 7), want);
        assert_ne!(run(&artefact, &device, 8), want);
    }
}

fn small() -> Vec<u8> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 8]).unwrap();
    let w: Vec<f32> = (0..64).map(|it| it as f32 / 64.0).collect();
    let w = b.constant(Tensor::f32([8, 8], &w).unwrap());
    let y = b.matmul(x, w).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y).unwrap();
    let model = Model::from_graph(b.finish().unwrap());
    model.compile(&[vec![[4, 8].into()]], &[Target::webgpu_minimum()], &Options::default()).unwrap()
}

fn refusal(bytes: Vec<u8>) -> String {
    Model::from_bytes(bytes).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn damage_and_other_formats_are_refused_in_words() {
    let whole = small();
    for at in (MAGIC.len()..whole.len()).step_by(whole.len() / 200) {
        // Bytes that mean nothing.
        if (12..16).contains(&at) || (40..64).contains(&at) {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let what = refusal(bytes);
        assert!(what.contains("damaged") || what.contains("format") || what.contains("copy"), "{at}: {what}");
    }
    for len in [8, 63, 64, 200, whole.len() - 1] {
        assert!(refusal(whole[..len].to_vec()).contains("copy the file again"), "{len}");
    }
    let version = |version: u32| {
        let mut bytes = whole.clone();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        refusal(bytes)
    };
    assert!(version(VERSION + 1).contains("newer than this wgfuse"), "{}", version(VERSION + 1));
    assert!(version(0).contains("compile the model again"), "{}", version(0));
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("model.wgf");
    fs::write(&text, "not an artefact").unwrap();
    let what = Session::load(&text, &Device::cpu()).map(|_| ()).unwrap_err().to_string();
    assert!(what.contains("no artefact"), "{what}");
}

/// Sums do not tell who wrote a file: whatever stands in it, the answer is a plan or an error.
#[test]
fn changed_contents_are_a_plan_or_an_error() {
    let whole = small();
    let seed = 17;
    let mut random = Random::new(seed);
    let mut plans = 0;
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(3) {
            let at = 64 + random.below(bytes.len() - 64);
            bytes[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => bytes[at] ^ 1,
                _ => b'0' + random.below(10) as u8,
            };
        }
        let sum = xxh3_128(&bytes[64..]);
        bytes[24..40].copy_from_slice(&sum.to_le_bytes());
        let Ok(artefact) = Artefact::parse(bytes.into()) else { continue };
        plans += artefact.compiled.iter().filter(|it| artefact.plan(it).is_ok()).count();
    }
    assert!(plans > 0, "seed {seed}: some changes are of values alone");
}

#[test]
fn other_shapes_are_named() {
    let session = Session::new(&Model::from_bytes(small()).unwrap(), &Device::cpu()).unwrap();
    let x = Tensor::f32([5, 8], &[0.0; 40]).unwrap();
    let what = session.run(&[("x", x)]).map(|_| ()).unwrap_err().to_string();
    assert!(what.contains("axis 0"), "{what}");

    // Of a model with open sizes, only those that were compiled.
    let inputs = vec![wgfuse::Signature {
        name: "x".into(),
        dtype: DType::F32,
        dims: vec![wgfuse::Dim::Symbol("rows".into()), wgfuse::Dim::Fixed(8)],
    }];
    let model = Model::build(inputs, |b, x| Ok(vec![("y".into(), b.softmax(x[0], -1)?)])).unwrap();
    let sets: Vec<Vec<Shape>> = vec![vec![[4, 8].into()], vec![[2, 8].into()]];
    let bytes = model.compile(&sets, &[Target::webgpu_minimum()], &Options::default()).unwrap();
    let session = Session::new(&Model::from_bytes(bytes).unwrap(), &gpu()).unwrap();
    for rows in [2, 4] {
        let x = Tensor::f32([rows, 8], &vec![1.0; rows * 8]).unwrap();
        assert_eq!(session.run(&[("x", x)]).unwrap()["y"].to_f64(), vec![0.125; rows * 8]);
    }
    let x = Tensor::f32([3, 8], &[0.0; 24]).unwrap();
    let what = session.run(&[("x", x)]).map(|_| ()).unwrap_err().to_string();
    assert!(what.contains("input 'x'") && what.contains("for x [4,8]; x [2,8], not for x [3,8]"), "{what}");
}

#[test]
fn what_the_device_lacks_is_a_step_down() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4]).unwrap();
    let y = b.exp(x).unwrap();
    b.output("y", y).unwrap();
    let model = Model::from_graph(b.finish().unwrap());
    let device = gpu();
    let more = Target { cooperative: vec![[64, 64, 64]], ..device.target().clone() };
    let huge = Target { max_workgroup_memory: u32::MAX, ..device.target().clone() };
    let x = Tensor::f32([4], &[0.0; 4]).unwrap();
    for target in [more, huge] {
        let bytes = model.compile(&[vec![[4].into()]], &[target], &Options::default()).unwrap();
        let artefact = Model::from_bytes(bytes).unwrap();
        let session = Session::new(&artefact, &device).unwrap();
        assert_eq!(session.run(&[("x", x.clone())]).unwrap()["y"].to_f64(), [1.0; 4]);
        let reasons = session.disabled();
        let named = |it: &DisabledReason| {
            matches!(it, DisabledReason::FeatureMissing(_) | DisabledReason::LimitExceeded { .. })
        };
        assert!(reasons.iter().any(|it| named(&it.reason)), "{reasons:?}");
        let strict = Options { fallback: Fallback::Error, ..Options::default() };
        let session = Session::with_options(&artefact, &device, strict).unwrap();
        assert!(session.run(&[("x", x.clone())]).is_err());
    }
}

/// `BLESS=1` writes the artefact that the example embeds.
#[test]
fn the_embedded_digits_are_those_of_the_model() {
    let folder = folder::tests().join("..");
    let model = Model::open(folder.join("cli/assets/digits.onnx")).unwrap();
    let path = folder.join("runtime/examples/digits.wgf");
    let shape: Shape = [1, 1, 8, 8].into();
    if std::env::var_os("BLESS").is_some() {
        let targets = [Target::webgpu_minimum()];
        fs::write(&path, model.compile(&[vec![shape.clone()]], &targets, &Options::default()).unwrap())
            .unwrap();
    }
    let name = model.inputs[0].name.clone();
    let mut random = Random::new(5);
    let pixels: Vec<f32> = (0..64).map(|_| random.below(17) as f32 / 16.0).collect();
    let image = Tensor::f32(shape, &pixels).unwrap();
    for device in [gpu(), Device::cpu()] {
        let want = Session::new(&model, &device).unwrap().run(&[(name.as_str(), image.clone())]).unwrap();
        let session = Session::load(&path, &device).expect("BLESS=1 writes it anew");
        let have = session.run(&[(name.as_str(), image.clone())]).unwrap();
        assert_eq!(beyond(&have[0], &want[0], 1e-5, 1e-6), None);
    }
}
