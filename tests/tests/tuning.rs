//! Tuning: values stay right whatever is chosen, what is found is remembered, and nothing illegal is taken over.

use std::fs;

use wgfuse::{Device, GraphBuilder, Model, Options, Session, Target, Tensor, Tune, Tuned};
use wgfuse_compiler::{
    dtype::DType,
    error::Error,
    graph::{Graph, eval::eval},
    schedule::{
        AttentionTile, Choice, Choices, Class, PlainAttention, Skeleton, Team, Tile, choice::candidates,
        verify::verify,
    },
    schedule_graph,
};
use wgfuse_tests::{device::opened, random::Random};

/// A product with a bias and an activation, a softmax, attention, and products of one row and of two, all of sizes that no tile
/// divides.
fn graph() -> Graph {
    let made = || -> Result<Graph, Error> {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [70, 90])?;
        let w = b.input("w", DType::F32, [90, 150])?;
        let y = b.matmul(x, w)?;
        let y = b.relu(y)?;
        b.output("product", y)?;
        let y = b.softmax(y, 1)?;
        b.output("rows", y)?;
        let q = b.input("q", DType::F32, [1, 2, 33, 20])?;
        let k = b.input("k", DType::F32, [1, 2, 50, 20])?;
        let transposed = b.permute(k, &[0, 1, 3, 2])?;
        let scores = b.matmul(q, transposed)?;
        let weights = b.softmax(scores, -1)?;
        let y = b.matmul(weights, k)?;
        b.output("attention", y)?;
        for (rows, turned) in [(1, true), (2, false)] {
            let x = b.input(format!("x{rows}"), DType::F32, [rows, 520])?;
            let shape = if turned { [100, 520] } else { [520, 100] };
            let w = b.input(format!("w{rows}"), DType::F32, shape)?;
            let y = if turned { b.linear(x, w, None)? } else { b.matmul(x, w)? };
            b.output(format!("few{rows}"), y)?;
        }
        b.finish()
    };
    made().unwrap()
}

fn inputs(graph: &Graph) -> Vec<(String, Tensor)> {
    let mut random = Random::new(11);
    graph.inputs().iter().map(|it| (it.name.clone(), random.tensor(&it.ty, 4))).collect()
}

fn run(device: &Device, tune: Tune) -> (Vec<Tensor>, Vec<Tuned>) {
    let graph = graph();
    let inputs = inputs(&graph);
    let given: Vec<(&str, Tensor)> = inputs.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
    let session = Session::new(&Model::from_graph(graph), device).unwrap().tune(tune);
    let outputs = session.run(&given).unwrap();
    (outputs.iter().map(|(_, it)| it.clone()).collect(), session.tuned())
}

fn apart(have: &[Tensor], want: &[Tensor]) -> f64 {
    let pairs = have.iter().zip(want).flat_map(|(a, b)| a.to_f64().into_iter().zip(b.to_f64()));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |most, it| if it > most || it.is_nan() { it } else { most })
}

#[test]
fn tuned_kernels_give_what_they_should_and_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let want = {
        let graph = graph();
        let inputs: Vec<Tensor> = inputs(&graph).into_iter().map(|it| it.1).collect();
        eval(&graph, &inputs).unwrap()
    };
    let device = || opened().cache_in(Some(folder.path()));
    let (plain, none) = run(&device(), Tune::Off);
    assert_eq!(none, []);
    assert!(apart(&plain, &want) < 1e-4);
    // Nothing was measured yet.
    let (known, none) = run(&device(), Tune::Known);
    assert_eq!((known, none), (plain.clone(), vec![]));

    let (tuned, found) = run(&device(), Tune::On);
    assert!(apart(&tuned, &want) < 1e-4);
    assert!(found.len() >= 5, "{found:?}");
    for it in &found {
        let measured = it.measured.expect("nothing was known");
        assert!(measured.tried > 1 && measured.default > 0.0, "{it:?}");
        assert_eq!((measured.broken, measured.wrong), (0, 0), "{it:?}");
        assert!(it.chosen == it.default || measured.chosen < measured.default, "{it:?}");
    }

    // Remembered, by another process too.
    for tune in [Tune::On, Tune::Known] {
        let (again, known) = run(&device(), tune);
        assert_eq!(again, tuned);
        assert!(known.iter().all(|it| it.measured.is_none()));
        let chosen = |all: &[Tuned]| all.iter().map(|it| it.chosen).collect::<Vec<_>>();
        assert_eq!(chosen(&known), chosen(&found));
    }
    // What is measured says nothing where it is not asked for.
    assert_eq!(run(&device(), Tune::Off), (plain, vec![]));

    let files = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path());
    let choices: Vec<_> =
        files.filter(|it| it.file_name().unwrap().to_string_lossy().starts_with("choice-")).collect();
    assert_eq!(choices.len(), found.len());
    for path in choices {
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let (again, found) = run(&device(), Tune::On);
    assert!(apart(&again, &want) < 1e-4);
    assert!(found.iter().all(|it| it.measured.is_some()), "damaged choices count as absent");
}

fn target() -> Target {
    Target {
        subgroup: Some((32, 32)),
        max_workgroup_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_workgroup_memory: 48 << 10,
        ..Target::webgpu_minimum()
    }
}

#[test]
fn every_candidate_is_legal_and_none_other_is_taken() {
    let (options, none) = (Options::default(), Choices::default());
    for target in [target(), Target::webgpu_minimum()] {
        let (_, schedule) = schedule_graph(graph(), &target, &options, &none).unwrap();
        let mut kinds = 0;
        for (at, kernel) in schedule.kernels.iter().enumerate() {
            let all = candidates(kernel, &target);
            kinds += usize::from(all.len() > 1);
            let class = Class::of(kernel, &schedule.tensors);
            for choice in all {
                assert_eq!(Choice::parse(&choice.to_string()), Ok(choice));
                let mut choices = Choices::default();
                choices.insert(class, choice);
                let (_, chosen) = schedule_graph(graph(), &target, &options, &choices).unwrap();
                assert_eq!(Choice::of(&chosen.kernels[at]), Some(choice));
                assert_eq!(verify(&chosen, &target), Vec::<String>::new(), "{choice}");
            }
        }
        assert!(kinds >= 5, "{kinds} kernels have candidates");
    }
}

#[test]
fn what_the_target_cannot_run_is_refused() {
    let (options, target) = (Options::default(), target());
    let (_, schedule) = schedule_graph(graph(), &target, &options, &Choices::default()).unwrap();
    let mut tried = 0;
    for (at, kernel) in schedule.kernels.iter().enumerate() {
        let illegal: Vec<Choice> = match Choice::of(kernel) {
            Some(Choice::Product(Tile::Matmul { .. })) => {
                let text = Choice::of(kernel).unwrap().to_string();
                let with = |field: &str, value: &str| {
                    let start =
                        text.find(&format!("({field}=")).or(text.find(&format!(" {field}="))).unwrap() + 1;
                    let end = start + text[start..].find([',', ')']).unwrap();
                    Choice::parse(&format!("{}{field}={value}{}", &text[..start], &text[end..])).unwrap()
                };
                [
                    ("rows", "4096"),
                    ("rows", "6"),
                    ("split", "0"),
                    ("buffers", "100"),
                    ("rows_each", "0"),
                    ("block_rows", "3"),
                ]
                .map(|(field, value)| with(field, value))
                .into()
            }
            Some(Choice::Rows(form)) => [
                Team::Workgroup { size: 2048, subgroup: Some(32) },
                Team::Workgroup { size: 96, subgroup: None },
                Team::Subgroup { size: 16, rows: 2 },
                Team::Subgroup { size: 32, rows: 64 },
                Team::Invocation { workgroup: 0 },
            ]
            .map(|team| Choice::Rows(wgfuse_compiler::schedule::RowForm { team, ..form }))
            .into(),
            Some(Choice::Attention(AttentionTile::Plain(tile))) => [2048, 0]
                .map(|size| Choice::Attention(AttentionTile::Plain(PlainAttention { size, ..tile })))
                .into(),
            Some(Choice::Product(_) | Choice::Attention(_)) | None => continue,
        };
        for choice in illegal {
            tried += 1;
            let mut broken = schedule.clone();
            broken.kernels[at] = choice.applied(kernel);
            assert_ne!(verify(&broken, &target), Vec::<String>::new(), "{choice}");
            let mut choices = Choices::default();
            choices.insert(Class::of(kernel, &schedule.tensors), choice);
            let (_, left) = schedule_graph(graph(), &target, &options, &choices).unwrap();
            assert!(left == schedule, "{choice} was taken");
        }
    }
    assert!(tried > 10, "{tried}");
    let maps = schedule.kernels.iter().filter(|it| matches!(it.skeleton, Skeleton::Map { .. }));
    assert!(maps.into_iter().all(|it| Choice::of(it).is_none()));
}
