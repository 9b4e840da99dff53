//! What a compilation was given, kept in a folder: it comes back, and whatever the folder holds is an error or arguments.

use std::{fs, path::Path};

use bytes::Bytes;
use wgfuse::{
    DType, Device, GraphBuilder, Model, Options, Session, Shape, Target, Tensor, Type, compile_arguments,
    load_arguments, run_arguments,
};
use wgfuse_compiler::{
    arguments::{Arguments, Example, LIMIT, Written, this_build},
    compile_graph,
    graph::{
        Graph,
        text::{Constants, print},
    },
    options::{Hook, UserPass},
    plan::Plan,
    schedule::{Choice, Choices, Class, choice::candidates},
    schedule_graph,
};
use wgfuse_tests::{
    device::opened,
    random::Random,
    zoo::{ZOO, load},
};

fn target() -> Target {
    Target { max_storage_buffers: 16, subgroup: Some((32, 32)), ..Target::webgpu_minimum() }
}

fn arguments(graph: Graph, inputs: &[Tensor], options: Options) -> Arguments {
    let example = |it: &Tensor| Example { device: "host".into(), value: Some(it.clone()) };
    Arguments {
        own_passes: options.passes.iter().map(|it| it.name.clone()).collect(),
        examples: inputs.iter().map(example).collect(),
        graph,
        options,
        device: "a device".into(),
        target: target(),
        choices: Choices::default(),
        build: this_build(),
    }
}

fn read(written: &Written, most: u64) -> Result<Arguments, wgfuse_compiler::error::Error> {
    Arguments::read(&written.arguments, &written.graph, &Bytes::from(written.data.clone()), most)
}

/// Everything that a plan says, but for the keys of its constants, in which addresses are.
fn told(plan: &Plan) -> String {
    let mut told = String::new();
    for it in &plan.kernels {
        told += &format!("{}{:?}\n", it.kernel, it.types);
        if let Some(shader) = &it.shader {
            told += &format!("{:x} {:?} {:?}\n", shader.key, shader.groups, shader.bindings);
        }
    }
    format!("{told}{:?}{:?}", plan.steps, plan.buffers)
}

#[test]
fn every_model_compiles_to_the_same_plan_again() {
    for name in ZOO {
        let case = load(name).unwrap();
        let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        let graph = case.model.graph(&shapes).unwrap();
        // A limit so small that everything that may be is made from statistics.
        for limit in [u64::MAX, LIMIT, 0] {
            let given = arguments(graph.clone(), &case.inputs, Options::default());
            let written = given.write(limit);
            let back = read(&written, 1 << 30).unwrap_or_else(|it| panic!("{name}: {it}"));
            if limit == u64::MAX {
                assert_eq!(print(&back.graph, Constants::All), print(&graph, Constants::All), "{name}");
                for (before, after) in given.examples.iter().zip(&back.examples) {
                    assert_eq!(before.value, after.value, "{name}");
                }
            }
            assert_eq!((&back.target, &back.choices), (&given.target, &given.choices));
            assert_eq!(back.write(u64::MAX).arguments.lines().count(), written.arguments.lines().count());
            for target in [target(), Target::cpu()] {
                let none = Choices::default();
                let first = compile_graph(graph.clone(), &target, &given.options, &none).unwrap();
                let again = compile_graph(back.graph.clone(), &target, &back.options, &back.choices).unwrap();
                assert_eq!(told(&again), told(&first), "{name}, limit {limit}");
            }
        }
    }
}

#[test]
fn options_and_choices_come_back() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [256, 256]).unwrap();
    let w = b.input("w", DType::F32, [256, 256]).unwrap();
    let y = b.matmul(x, w).unwrap();
    b.output("y", y).unwrap();
    let graph = b.finish().unwrap();
    let run = |it: &Graph| Ok(it.clone());
    let own = |name: &str| UserPass {
        name: name.into(),
        at: Hook::After("simplify".into()),
        run: std::sync::Arc::new(run),
    };
    let options = Options {
        checked: true,
        exact: true,
        pairs: false,
        memory_limit: 12_345_678,
        without_passes: vec!["attention".into(), "mine".into()],
        passes: vec![own("mine"), own("a \"quoted\" name")],
        ..Options::default()
    };
    let (_, schedule) =
        schedule_graph(graph.clone(), &target(), &Options::default(), &Choices::default()).unwrap();
    let kernel = &schedule.kernels[0];
    let all: Vec<Choice> = candidates(kernel, &target());
    assert!(all.len() > 1);
    let mut given = arguments(graph, &[], options.clone());
    given.examples = vec![Example { device: "\"GPU\"\n".into(), value: None }; 2];
    given.choices.insert(Class::of(kernel, &schedule.tensors), all[1]);
    let back = read(&given.write(LIMIT), 1 << 20).unwrap();
    assert_eq!((&back.choices, &*back.device), (&given.choices, "a device"));
    assert_eq!(back.own_passes, ["mine", "a \"quoted\" name"]);
    // What is not there cannot be left out.
    assert_eq!(back.options.without_passes, ["attention"]);
    assert!(back.options.checked && back.options.exact && !back.options.pairs && back.options.fuse);
    assert_eq!(back.options.memory_limit, 12_345_678);
    assert_eq!(back.examples[0].device, "\"GPU\"\n");
    // Of an input whose value nobody knew there is one all the same.
    let value = back.examples[0].value.as_ref().unwrap();
    assert_eq!(value.ty(), &Type::new(DType::F32, [256, 256]));
    let plan = compile_arguments(&back, &back.target).unwrap();
    assert_eq!(Choice::of(&plan.kernels[0].kernel), Some(all[1]));
}

#[test]
fn made_values_have_the_statistics_and_are_the_same_everywhere() {
    let mut random = Random::new(7);
    let mut values: Vec<f32> = (0..100_000).map(|_| 3.0 + 0.3 * random.unit() as f32).collect();
    values.iter_mut().step_by(4).for_each(|it| *it = 0.0);
    values[5] = f32::NEG_INFINITY;
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [100_000]).unwrap();
    let n = b.input("n", DType::I64, [50_000]).unwrap();
    b.output("y", x).unwrap();
    b.output("m", n).unwrap();
    let floats = Tensor::f32([100_000], &values).unwrap();
    let integers: Vec<i64> = (0..50_000).map(|it| it % 300 - 100).collect();
    let integers = Tensor::i64([50_000], &integers).unwrap();
    let given = arguments(b.finish().unwrap(), &[floats, integers], Options::default());
    let written = given.write(1000);
    assert!(written.data.is_empty(), "{} bytes of data", written.data.len());
    let back = read(&written, 1 << 20).unwrap();
    let made = back.examples[0].value.as_ref().unwrap();
    let made_values = made.to_f64();
    let others: Vec<f64> = made_values.iter().copied().filter(|it| *it != 0.0).collect();
    let zeros = 1.0 - others.len() as f64 / 1e5;
    let mean = others.iter().sum::<f64>() / others.len() as f64;
    assert!((zeros - 0.25).abs() < 0.01 && (mean - 3.0).abs() < 0.01, "{zeros} {mean}");
    assert!(made_values.iter().all(|it| *it == 0.0 || (2.699..3.301).contains(it)));
    let integers = back.examples[1].value.as_ref().unwrap().to_i64();
    assert!(integers.iter().all(|it| (-100..=199).contains(it)));
    assert!(integers.iter().min() < Some(&-95) && integers.iter().max() > Some(&194));
    // As on any machine.
    let first: Vec<u64> = made_values[..3].iter().map(|it| it.to_bits()).collect();
    let again = read(&written, 1 << 20).unwrap().examples[0].value.as_ref().unwrap().to_f64();
    assert_eq!(first, again[..3].iter().map(|it| it.to_bits()).collect::<Vec<_>>());
}

#[test]
fn whatever_the_files_hold_nothing_panics() {
    let case = load("bert_tiny").unwrap();
    let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
    let given = arguments(case.model.graph(&shapes).unwrap(), &case.inputs, Options::default());
    let written = given.write(4096);
    read(&written, 1 << 30).unwrap();
    for text in 0..2 {
        let whole = if text == 0 { &written.arguments } else { &written.graph };
        let ends: Vec<usize> = whole.char_indices().map(|it| it.0).step_by(97).collect();
        for end in ends {
            let mut cut = written.clone();
            *(if text == 0 { &mut cut.arguments } else { &mut cut.graph }) = whole[..end].to_owned();
            let _ = read(&cut, 1 << 30);
            let mut changed = whole.clone().into_bytes();
            changed[end] = b'9';
            if let Ok(changed) = String::from_utf8(changed) {
                let mut other = written.clone();
                *(if text == 0 { &mut other.arguments } else { &mut other.graph }) = changed;
                let _ = read(&other, 1 << 20);
            }
        }
    }
    let mut cut = written.clone();
    cut.data.truncate(written.data.len() / 2);
    assert!(read(&cut, 1 << 30).is_err(), "the data are cut");
    // Sizes are looked at before anything is made.
    let error = |from: &str, to: &str, most: u64| {
        let mut changed = written.clone();
        changed.arguments = written.arguments.replacen(from, to, 1);
        assert_ne!(changed.arguments, written.arguments, "{from}");
        read(&changed, most).unwrap_err().to_string()
    };
    let huge = "values=made(seed=1, low=0.0, high=1.0, mean=0.0, deviation=1.0, zeros=0.0))";
    let line = format!("constant (ty=f32[1000000000000], strides=[1], device=\"host\", {huge}\nbuild");
    assert!(error("build", &line, 1 << 40).contains("are allowed"));
    assert!(error("stored(at=0", "stored(at=18446744073709551615", 1 << 30).contains("not in the data"));
    assert!(error("version 1", "version 2", 1 << 30).contains("this build reads version 1"));
    assert!(error("strides=[", "strides=[7, ", 1 << 30).contains("only dense rows"));
}

fn small() -> Model {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 8]).unwrap();
    let y = b.softmax(x, -1).unwrap();
    b.output("soft max!", y).unwrap();
    Model::from_graph(b.finish().unwrap())
}

#[test]
fn sessions_keep_what_they_compile_and_overwrite_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("deep/er");
    let input = Tensor::f32([4, 8], &(0..32).map(|it| it as f32).collect::<Vec<_>>()).unwrap();
    let names = |folder: &Path| {
        let mut all: Vec<String> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    };
    let mut outputs = Vec::new();
    for device in [Device::cpu(), opened()] {
        for number in 0..2 {
            let session = Session::new(&small(), &device).unwrap().save_arguments(&kept, LIMIT);
            outputs.push(session.run(&[("x", input.clone())]).unwrap()[0].to_f64());
            session.run(&[("x", input.clone())]).unwrap();
            let all = names(&kept);
            assert_eq!(all.len(), outputs.len(), "a folder a compilation, not a run: {all:?}");
            assert!(all[0].starts_with("soft-max-4x8-"), "{all:?}");
            assert!(number == 0 || all.iter().any(|it| it.ends_with("-2")), "{all:?}");
        }
    }
    for name in names(&kept) {
        let back = load_arguments(kept.join(&name), 1 << 20).unwrap();
        assert_eq!(back.examples[0].value.as_ref(), Some(&input));
        let session = Session::new(&Model::from_graph(back.graph), &Device::cpu()).unwrap();
        let again = session.run(&[("x", input.clone())]).unwrap()[0].to_f64();
        let apart = again.iter().zip(&outputs[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-6, "{name}: {apart}");
    }
    // Device tensors are read, shapes alone are enough too.
    let device = opened();
    let session = Session::new(&small(), &device).unwrap().save_arguments(folder.path().join("d"), LIMIT);
    let there = device.upload(&input).unwrap();
    session.run_on_device(&[("x", there)]).unwrap();
    session.plan_for(&[Shape::new(&[4, 8])]).unwrap();
    let name = names(&folder.path().join("d")).remove(0);
    let back = load_arguments(folder.path().join("d").join(name), 1 << 20).unwrap();
    assert_eq!(back.examples[0].value.as_ref(), Some(&input));
    assert_eq!(back.examples[0].device, device.name());
}

#[test]
fn random_ops_give_again_what_they_gave() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 8]).unwrap();
    let noise = b.rand(DType::F32, [4, 8]).unwrap();
    let y = b.add(x, noise).unwrap();
    b.output("y", y).unwrap();
    let model = Model::from_graph(b.finish().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu();
    let session = Session::new(&model, &device).unwrap().save_arguments(folder.path(), LIMIT);
    session.set_seed(77);
    let input = Tensor::f32([4, 8], &[0.5; 32]).unwrap();
    let first = session.run(&[("x", input.clone())]).unwrap()[0].clone();
    assert_ne!(session.run(&[("x", input)]).unwrap()[0], first, "every run has numbers of its own");
    let kept = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let back = load_arguments(kept, 1 << 20).unwrap();
    for _ in 0..2 {
        let again = run_arguments(&back, &device, back.options.clone()).unwrap();
        assert_eq!(again[0].1, first);
    }
}

#[test]
fn a_folder_leads_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::new(&small(), &Device::cpu()).unwrap().save_arguments(folder.path(), LIMIT);
    session.plan_for(&[Shape::new(&[4, 8])]).unwrap();
    let kept = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    load_arguments(&kept, 1 << 20).unwrap();
    let text = |it: wgfuse::Result<Arguments>| it.map(|_| ()).unwrap_err().to_string();
    let long = fs::read(kept.join("data.bin")).unwrap();
    fs::write(kept.join("data.bin"), vec![0; 2 << 20]).unwrap();
    assert!(text(load_arguments(&kept, 1 << 20)).contains("are allowed"));
    fs::write(kept.join("data.bin"), long).unwrap();
    #[cfg(unix)]
    {
        let secret = folder.path().join("secret");
        fs::rename(kept.join("graph.txt"), &secret).unwrap();
        std::os::unix::fs::symlink(&secret, kept.join("graph.txt")).unwrap();
        assert!(text(load_arguments(&kept, 1 << 20)).contains("not a file"));
    }
    assert!(text(load_arguments(folder.path().join("absent"), 1 << 20)).contains("absent"));
}
