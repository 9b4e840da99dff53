//! What a compilation is shown as, and what is told of one in which the compiler fails.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use wgfuse::{
    DType, Device, Error, GraphBuilder, Model, ModelError, Options, Session, Shape, Tensor,
    compile_arguments, load_arguments,
};
use wgfuse_compiler::{
    graph::{Graph, Op, text::parse},
    lower,
    options::{Hook, PassFn, UserPass},
    passes::rewrite::{Ledger, Licence, Rule, rewrite},
    schedule,
};
use wgfuse_tests::{
    device::opened,
    zoo::{Case, load},
};

fn only(folder: &Path) -> PathBuf {
    let mut all = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    let first = all.next().expect("a folder was made");
    assert_eq!(all.next(), None);
    first
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn given(case: &Case) -> Vec<(&str, Tensor)> {
    case.model.inputs.iter().map(|it| it.name.as_str()).zip(case.inputs.iter().cloned()).collect()
}

#[test]
fn a_compilation_is_shown_whole() {
    let case = load("bert_tiny").unwrap();
    let model = Model::from(case.model.clone());
    for device in [opened(), Device::cpu()] {
        let parent = tempfile::tempdir().unwrap();
        let session = Session::new(&model, &device).unwrap().debug_in(parent.path());
        let outputs = session.run(&given(&case)).unwrap();
        let plain = Session::new(&model, &device).unwrap().run(&given(&case)).unwrap();
        assert!(outputs.iter().zip(plain.iter()).all(|(a, b)| a == b), "being shown changes nothing");
        let folder = only(parent.path());
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();

        let graphs = names(&folder.join("graph"));
        assert_eq!(graphs[0], "00-imported.txt");
        assert!(graphs.iter().any(|it| it.ends_with("-simplify.txt")), "{graphs:?}");
        assert!(!graphs.iter().any(|it| it.contains("batch-norm")), "it changed nothing: {graphs:?}");
        let texts: Vec<String> = graphs.iter().map(|it| text(&format!("graph/{it}"))).collect();
        assert!(texts.windows(2).all(|it| it[0] != it[1]), "only where it changed");

        let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        let plan = session.plan_for(&shapes).unwrap();
        let parsed = schedule::text::parse(&text("schedule.txt")).unwrap();
        assert_eq!(parsed.kernels.len(), plan.kernels.len());
        assert!(plan.refusals.starts_with(&parsed.refusals), "with every reason");
        assert!(!lower::text::parse(&text("loops.txt")).unwrap().nests.is_empty());
        assert_eq!(text("plan.txt"), plan.to_string());
        for step in ["pass simplify", "partition", "lower", "schedule", "codegen", "plan"] {
            assert!(text("timings.txt").lines().any(|it| it.starts_with(step)), "{step}");
        }
        let shaders: Vec<_> = plan.kernels.iter().filter_map(|it| Some((it, it.shader.as_ref()?))).collect();
        let files = names(&folder.join("kernels"));
        assert_eq!(files.len(), shaders.len());
        for (kernel, shader) in shaders {
            let kernel = &kernel.kernel;
            let wgsl = text(&format!("kernels/{}.wgsl", kernel.name));
            let header: Vec<&str> = wgsl.lines().take_while(|it| it.starts_with("//")).collect();
            assert_eq!(header[0], format!("// {}", kernel.name));
            assert!(kernel.origins.iter().all(|it| header[1].contains(&**it)), "{header:?}");
            assert!(wgsl.ends_with(&shader.wgsl()));
        }

        let page = text("report.html");
        for kernel in &plan.kernels {
            assert!(page.contains(&kernel.kernel.name));
        }
        assert!(page.contains("<svg id=\"graph\"") && page.contains("once a session"));
        for outside in ["http:", "https:", "//cdn", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        let back = load_arguments(&folder, 1 << 30).unwrap();
        let again = compile_arguments(&back, &back.target).unwrap();
        assert_eq!(again.kernels.len(), plan.kernels.len());
        assert!(!folder.join("failure.txt").exists());
    }
}

fn small() -> Model {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 8]).unwrap();
    let y = b.softmax(x, -1).unwrap();
    let y = b.relu(y).unwrap();
    b.output("y", y).unwrap();
    Model::from_graph(b.finish().unwrap())
}

fn options(run: Arc<PassFn>) -> Options {
    let pass = UserPass { name: "planted".into(), at: Hook::After("composites".into()), run };
    Options { passes: vec![pass], ..Options::default() }
}

fn input() -> Tensor {
    Tensor::f32([4, 8], &[0.25; 32]).unwrap()
}

/// What the run of a session with this pass fails with, and the folder that it names.
fn failure(options: &Options, debug: Option<&Path>) -> (Error, PathBuf) {
    let session = Session::with_options(&small(), &Device::cpu(), options.clone()).unwrap();
    let session = match debug {
        Some(it) => session.debug_in(it),
        None => session,
    };
    let error = session.run(&[("x", input())]).unwrap_err();
    let text = error.to_string();
    let (_, rest) = text.split_once("`wgfuse replay-args ").unwrap_or_else(|| panic!("{text}"));
    let folder = PathBuf::from(rest.split_once('`').unwrap().0);
    assert!(text.contains(&format!("is in {}", folder.display())), "{text}");
    (error, folder)
}

#[test]
fn a_pass_that_panics_is_an_error_that_names_its_folder() {
    let run: Arc<PassFn> = Arc::new(|_: &Graph| panic!("planted in the test"));
    let options = options(run);
    let parent = tempfile::tempdir().unwrap();
    for debug in [None, Some(parent.path())] {
        let (error, folder) = failure(&options, debug);
        assert!(
            matches!(&error, Error::Model(ModelError::Bug { what }) if what.contains("planted in the test"))
        );
        assert!(fs::read_to_string(folder.join("failure.txt")).unwrap().contains("planted in the test"));
        // Up to the pass that failed.
        let graphs = names(&folder.join("graph"));
        assert!(graphs.len() <= 3 && graphs[0] == "00-imported.txt", "{graphs:?}");
        assert!(!folder.join("report.html").exists());
        // It fails again with the pass, and not without.
        let mut back = load_arguments(&folder, 1 << 20).unwrap();
        assert_eq!(back.own_passes, ["planted"]);
        assert_eq!(back.examples[0].value, Some(input()));
        compile_arguments(&back, &back.target).unwrap();
        back.options.passes = options.passes.clone();
        let again = compile_arguments(&back, &back.target).unwrap_err().to_string();
        assert!(again.contains("planted in the test"), "{again}");
        assert_eq!(debug.is_some(), folder.starts_with(parent.path()));
        if debug.is_none() {
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        }
    }
}

#[test]
fn a_pass_that_breaks_the_graph_is_told_as_well() {
    // Text of a graph whose output is not what the model's is.
    let other = "input \"x\" : f32[4,8]\n%0 = input 0 : f32[4,8]\noutput \"y\" = %0\n";
    let broken: Arc<PassFn> = Arc::new(move |_: &Graph| {
        let mut graph = parse(other).unwrap();
        let (value, _) = graph.nodes().next().unwrap();
        let cast = graph.add(Op::Cast { to: DType::I32, x: value }).unwrap();
        graph.outputs[0].value = cast;
        Ok(graph)
    });
    let (error, folder) = failure(&options(broken), None);
    assert!(matches!(&error, Error::Model(ModelError::Pass { pass, .. }) if pass == "planted"), "{error}");
    fs::remove_dir_all(folder.parent().unwrap()).unwrap();
}

#[test]
fn a_rule_that_makes_an_invalid_graph_is_told_with_its_name() {
    const RULE: Rule = Rule {
        name: "planted-rule",
        about: "a relu becomes something of another type",
        licence: Licence::Exact,
        roots: &["relu"],
        apply: |site, value| Ok(Some(site.add(Op::Cast { to: DType::I32, x: value })?)),
    };
    let run: Arc<PassFn> = Arc::new(|graph: &Graph| {
        rewrite(graph.clone(), &[&RULE], Licence::Relaxed, "planted".into(), &mut Ledger::default())
    });
    let (error, folder) = failure(&options(run), None);
    let text = error.to_string();
    assert!(
        matches!(&error, Error::Model(ModelError::Bug { .. })) && text.contains("planted-rule"),
        "{text}"
    );
    fs::remove_dir_all(folder.parent().unwrap()).unwrap();
}

#[test]
fn folders_nobody_asked_for_stay_few() {
    let run: Arc<PassFn> = Arc::new(|_: &Graph| panic!("planted in the test"));
    let session = Session::with_options(&small(), &Device::cpu(), options(run)).unwrap();
    let mut folders = 0;
    for _ in 0..7 {
        let text = session.run(&[("x", input())]).unwrap_err().to_string();
        assert!(text.contains("planted in the test"), "{text}");
        if let Some((_, rest)) = text.split_once("`wgfuse replay-args ") {
            let folder = PathBuf::from(rest.split_once('`').unwrap().0);
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
            folders += 1;
        }
    }
    assert_eq!(folders, 4);
    // What is the model's fault makes none.
    let text = session.run(&[("x", Tensor::f32([4, 7], &[0.0; 28]).unwrap())]).unwrap_err().to_string();
    assert!(!text.contains("replay-args"), "{text}");
}
