//! Faults that were put there to be found: a wrong rewrite, a wrong kernel, an index out of range, a rewrite that fails.

use std::sync::{Arc, Mutex};

use wgfuse::{
    DType, Device, GraphBuilder, Hook, Model, Options, Plan, Replacement, Tensor, UserPass,
    bisect::{Against, Culprit, Outcome, Subject, bisect, minimise},
    compare::Tolerance,
    keep_arguments, load_arguments, register_replacement, run_arguments,
};
use wgfuse_compiler::{
    arguments::{Arguments, Example, this_build},
    codegen,
    error::Error,
    graph::{Graph, Op, Output, Real, Value},
    lower::{Body, Expr},
    passes::plain,
    plan::{PlanKernel, Step},
    scalar::{BinaryOp, UnaryOp},
    schedule::Choices,
    shape::Shape,
};
use wgfuse_tests::{
    device::gpu,
    random::Random,
    zoo::{Case, load},
};

const TOLERANCE: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-4 };

fn arguments(graph: Graph, inputs: &[Tensor], device: &Device, options: Options) -> Arguments {
    let example = |it: &Tensor| Example { device: "host".into(), value: Some(it.clone()) };
    Arguments {
        own_passes: options.passes.iter().map(|it| it.name.clone()).collect(),
        examples: inputs.iter().map(example).collect(),
        graph,
        options,
        device: device.name().into(),
        target: device.target().clone(),
        choices: Choices::default(),
        build: this_build(),
    }
}

fn graph(case: &Case) -> Graph {
    let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
    case.model.graph(&shapes).unwrap()
}

fn pass(
    name: &str,
    after: &str,
    run: impl Fn(&Graph) -> Result<Graph, Error> + Send + Sync + 'static,
) -> UserPass {
    UserPass { name: name.into(), at: Hook::After(after.into()), run: Arc::new(run) }
}

/// A pass that rewrites node number `nth` of an op.
fn rewriting(
    name: &str,
    after: &str,
    nth: usize,
    rewrite: impl Fn(&mut Graph, &Op) -> Option<Result<Value, Error>> + Send + Sync + 'static,
) -> UserPass {
    pass(name, after, move |from| {
        let mut seen = 0;
        from.rebuild(|to, op| {
            let made = match rewrite(to, &op) {
                Some(made) if seen == nth => made?,
                made => {
                    seen += usize::from(made.is_some());
                    return to.add(op);
                }
            };
            seen += 1;
            Ok(made)
        })
    })
}

/// The fourth sum becomes a difference.
fn wrong_sum(name: &str) -> UserPass {
    rewriting(name, "composites", 3, |to, op| match op {
        Op::Binary(BinaryOp::Add, a, b) => Some(to.add(Op::Binary(BinaryOp::Sub, *a, *b))),
        _ => None,
    })
}

fn subject(arguments: Arguments, device: &Device, against: Against) -> Subject {
    Subject::new(arguments, device.clone(), against, TOLERANCE)
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let case = load("bert_tiny").unwrap();
    for (device, against) in [(Device::cpu(), Against::Plain), (gpu(), Against::Device(Device::cpu()))] {
        let given = arguments(graph(&case), &case.inputs, &device, Options::default());
        let found = bisect(&subject(given, &device, against), &mut |_| {}).unwrap();
        assert_eq!((found.culprit, found.runs), (Culprit::None, 2));
    }
}

#[test]
fn a_wrong_pass_is_named() {
    let case = load("bert_tiny").unwrap();
    for (device, against) in [(Device::cpu(), Against::Plain), (gpu(), Against::Device(Device::cpu()))] {
        // The other device runs the same passes: it would be as wrong.
        let against_itself = matches!(against, Against::Device(_));
        let options = Options { passes: vec![wrong_sum("planted")], ..Options::default() };
        let given = arguments(graph(&case), &case.inputs, &device, options);
        let found = bisect(&subject(given, &device, against), &mut |_| {}).unwrap();
        if against_itself {
            assert_eq!(found.culprit, Culprit::None);
            continue;
        }
        let Culprit::Applied { number, time, what } = &found.culprit else { panic!("{found:?}") };
        assert_eq!((&*what.rule, *time), ("planted", 1));
        assert!(*number > 1 && *number <= found.applications, "{found:?}");
        assert!(found.runs <= 12, "{} runs", found.runs);
    }
}

/// Finds what it should, and puts the wrong thing in its place.
fn wrong_rule(at: Hook) -> Replacement {
    let example = wgfuse::Example::new([wgfuse::Type::new(DType::F32, [8])]);
    let rule = register_replacement(
        "gelu-is-relu",
        |b, x, _| Ok(vec![b.gelu(x[0])?]),
        |b, x, _| Ok(vec![b.relu(x[0])?]),
        &[example],
        |_| true,
    );
    Replacement { at, ..rule.unwrap() }
}

#[test]
fn a_wrong_rule_is_named_with_the_time_and_the_node() {
    let mut graph = Graph::new();
    let ty = wgfuse::Type::new(DType::F32, [4, 8]);
    let mut y = graph.add_input("x", ty.clone()).unwrap();
    for number in 0..5 {
        graph.set_origin(format!("norm{number}"));
        y = graph.add(Op::LayerNorm { axis: 1, eps: Real(1e-5), x: y, scale: None, bias: None }).unwrap();
        // What is a gelu from the start, and what becomes one.
        graph.set_origin(format!("gelu{number}"));
        y = graph.add(Op::Unary(UnaryOp::Gelu, y)).unwrap();
    }
    graph.outputs.push(Output { name: "y".into(), value: y });
    let input = Random::new(9).tensor(&ty, 2);
    let at = Hook::After("attention".into());
    let options = Options { patterns: vec![wrong_rule(at)], ..Options::default() };
    let given = arguments(graph, &[input], &Device::cpu(), options);
    let subject = subject(given, &Device::cpu(), Against::Plain);
    let found = bisect(&subject, &mut |_| {}).unwrap();
    let Culprit::Applied { time, what, .. } = &found.culprit else { panic!("{found:?}") };
    assert_eq!((&*what.rule, *time, &*what.at), ("gelu-is-relu", 1, "gelu0"));
    assert!(found.applications >= 5);
    let small = minimise(&subject, 400, &mut |_| {}).unwrap();
    let left = &small.arguments.graph;
    assert_eq!(left.nodes().filter(|it| it.1.op.name() == "gelu").count(), 1, "{left}");
    assert!(left.nodes().count() <= 2, "{left}");
}

/// Of several that are right but for one, that one and its time.
#[test]
fn the_time_at_which_a_rewrite_goes_wrong_is_told() {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", DType::F32, [4, 8]).unwrap();
    for _ in 0..5 {
        let y = b.gelu(x).unwrap();
        x = b.add(x, y).unwrap();
    }
    b.output("y", x).unwrap();
    let input = Random::new(3).tensor(&wgfuse::Type::new(DType::F32, [4, 8]), 2);
    // Each right, but the third.
    let passes: Vec<UserPass> = (0..5)
        .map(|nth| {
            rewriting("same name", "simplify", nth, move |to, op| match op {
                Op::Binary(BinaryOp::Add, a, b) if nth == 2 => {
                    Some(to.add(Op::Binary(BinaryOp::Mul, *a, *b)))
                }
                Op::Binary(BinaryOp::Add, a, b) => Some(to.add(Op::Binary(BinaryOp::Add, *b, *a))),
                _ => None,
            })
        })
        .collect();
    let options = Options { passes, ..Options::default() };
    let given = arguments(b.finish().unwrap(), &[input], &Device::cpu(), options);
    let found = bisect(&subject(given, &Device::cpu(), Against::Plain), &mut |_| {}).unwrap();
    let Culprit::Applied { time, what, .. } = &found.culprit else { panic!("{found:?}") };
    assert_eq!((&*what.rule, *time), ("same name", 3));
}

#[test]
fn a_pass_that_fails_is_named_and_left_over() {
    let case = load("bert_tiny").unwrap();
    let failing = pass("failing", "attention", |graph| {
        let softmaxes = graph.nodes().filter(|it| matches!(it.1.op, Op::LayerNorm { .. })).count();
        if softmaxes > 0 { panic!("planted: {softmaxes} norms") } else { Ok(graph.clone()) }
    });
    let options = Options { passes: vec![failing], ..Options::default() };
    let given = arguments(graph(&case), &case.inputs, &Device::cpu(), options);
    let subject = subject(given, &Device::cpu(), Against::Plain);
    let found = bisect(&subject, &mut |_| {}).unwrap();
    assert!(matches!(&found.outcome, Outcome::Failed(what) if what.contains("planted")), "{found:?}");
    let Culprit::Applied { what, number, .. } = &found.culprit else { panic!("{found:?}") };
    assert!(what.rule.contains("planted") && *number == found.applications, "{found:?}");
    let small = minimise(&subject, 400, &mut |_| {}).unwrap();
    assert!(matches!(&small.outcome, Outcome::Failed(what) if what.contains("1 norms")), "{small:?}");
    let computed =
        small.arguments.graph.nodes().filter(|it| !matches!(it.1.op, Op::Input { .. } | Op::Constant(_)));
    assert_eq!(computed.count(), 1, "{}", small.arguments.graph);
}

#[test]
fn what_a_wrong_pass_needs_is_left_over_and_repeats() {
    let case = load("bert_tiny").unwrap();
    // Wrong wherever it finds what it looks for.
    let planted = || {
        pass("planted", "composites", |from| {
            from.rebuild(|to, op| match op {
                Op::LayerNorm { axis, eps, x, scale, .. } => to.add(Op::RmsNorm { axis, eps, x, scale }),
                op => to.add(op),
            })
        })
    };
    let options = Options { passes: vec![planted()], ..Options::default() };
    let given = arguments(graph(&case), &case.inputs, &Device::cpu(), options);
    let before = given.graph.len();
    let subject = subject(given, &Device::cpu(), Against::Plain);
    let mut steps = 0;
    let small = minimise(&subject, 400, &mut |_| steps += 1).unwrap();
    assert!(matches!(small.outcome, Outcome::Differs { .. }) && steps > 0);
    let left = &small.arguments.graph;
    let computed: Vec<&str> = left
        .nodes()
        .filter(|it| !matches!(it.1.op, Op::Input { .. } | Op::Constant(_)))
        .map(|it| it.1.op.name())
        .collect();
    assert_eq!(computed, ["layer_norm"], "{before} nodes before:\n{left}");
    let most = left.nodes().map(|it| it.1.ty.shape.count()).max().unwrap();
    assert!(most <= 4, "sizes are not small:\n{left}");

    // The folder repeats it, with the pass.
    let folder = tempfile::tempdir().unwrap();
    let kept = keep_arguments(folder.path(), &small.arguments, u64::MAX).unwrap();
    let mut back = load_arguments(kept, 1 << 20).unwrap();
    assert_eq!(back.own_passes, ["planted"]);
    let device = Device::cpu();
    let right = run_arguments(&back, &device, plain(&back.options)).unwrap();
    back.options.passes = vec![planted()];
    let wrong = run_arguments(&back, &device, back.options.clone()).unwrap();
    assert_ne!(right, wrong);
}

/// The kernel with some of its expressions changed, as the device would run it.
fn changed(plan: &Plan, kernel: &PlanKernel, change: &dyn Fn(&Expr) -> Expr) -> codegen::Shader {
    let mut other = (*kernel.kernel).clone();
    let mut body = Body::default();
    for (id, expr, dtype) in kernel.kernel.body.iter() {
        assert_eq!(body.add(change(expr), dtype), id, "no two became one");
    }
    other.body = body;
    codegen::shader(&other, &plan.tensors, &plan.target).unwrap()
}

/// Changes every kernel that computes the node `origin`, on the GPU alone.
fn plant(origin: &'static str, change: fn(&Expr) -> Expr) -> impl Fn(&mut Plan) + Send + Sync {
    move |plan| {
        for at in 0..plan.kernels.len() {
            let kernel = &plan.kernels[at];
            if kernel.kernel.origins.iter().any(|it| &**it == origin) {
                let shader = changed(plan, kernel, &change);
                plan.kernels[at].shader = Some(shader);
            }
        }
    }
}

/// Kernels after kernels, each of which has a name.
fn chain() -> (Graph, Tensor) {
    let mut graph = Graph::new();
    let ty = wgfuse::Type::new(DType::F32, [32, 64]);
    let mut y = graph.add_input("x", ty.clone()).unwrap();
    for number in 0..6 {
        // Keeps differences as large as they are.
        graph.set_origin("norm");
        y = graph.add(Op::LayerNorm { axis: 1, eps: Real(1e-5), x: y, scale: None, bias: None }).unwrap();
        graph.set_origin(format!("step{number}"));
        y = graph.add(Op::CumSum { axis: 0, exclusive: false, reverse: false, x: y }).unwrap();
        y = graph.add(Op::Unary(UnaryOp::Tanh, y)).unwrap();
    }
    graph.outputs.push(Output { name: "y".into(), value: y });
    (graph, Random::new(5).tensor(&ty, 2))
}

#[test]
fn a_wrong_kernel_is_named() {
    let (graph, input) = chain();
    let given = arguments(graph, &[input], &gpu(), Options::default());
    let wrong = plant("step3", |it| match it {
        Expr::Unary(UnaryOp::Tanh, x) => Expr::Unary(UnaryOp::Sin, *x),
        other => other.clone(),
    });
    let subject = subject(given, &gpu(), Against::Device(Device::cpu())).planted(wrong);
    let found = bisect(&subject, &mut |_| {}).unwrap();
    let Culprit::Kernel(kernel) = &found.culprit else { panic!("{found:?}") };
    assert!(kernel.origins.iter().any(|it| it == "step3"), "{kernel:?}");
    assert!(kernel.wrong_with_checks, "no index is out of range: {kernel:?}");
    assert!(found.runs <= 12, "{} runs", found.runs);

    let small = minimise(&subject, 400, &mut |_| {}).unwrap();
    let left = &small.arguments.graph;
    assert!(left.nodes().any(|it| &*it.1.origin == "step3"), "{left}");
    assert!(left.nodes().count() <= 3, "{left}");
}

#[test]
fn a_wrong_kernel_of_the_processor_is_named() {
    let (graph, input) = chain();
    let given = arguments(graph, &[input], &Device::cpu(), Options::default());
    let wrong = |plan: &mut Plan| {
        for it in &mut plan.kernels {
            if it.kernel.origins.iter().any(|it| &**it == "step4") {
                let mut other = (*it.kernel).clone();
                other.body = Body::default();
                for (_, expr, dtype) in it.kernel.body.iter() {
                    let expr = match expr {
                        Expr::Unary(UnaryOp::Tanh, x) => Expr::Unary(UnaryOp::Sin, *x),
                        other => other.clone(),
                    };
                    other.body.add(expr, dtype);
                }
                it.kernel = Arc::new(other);
            }
        }
    };
    let subject = subject(given, &Device::cpu(), Against::Plain).planted(wrong);
    let found = bisect(&subject, &mut |_| {}).unwrap();
    let Culprit::Kernel(kernel) = &found.culprit else { panic!("{found:?}") };
    assert!(kernel.origins.iter().any(|it| it == "step4"), "{kernel:?}");
}

#[test]
fn an_index_out_of_range_is_found() {
    let (graph, input) = chain();
    let given = arguments(graph, &[input], &gpu(), Options::default());
    let beyond = plant("step2", |it| match it {
        Expr::Load { tensor, at, guard } => {
            let at = at.iter().map(|it| it.offset_by(1 << 20)).collect();
            Expr::Load { tensor: *tensor, at, guard: *guard }
        }
        other => other.clone(),
    });
    let subject = subject(given, &gpu(), Against::Device(Device::cpu())).planted(beyond);
    let found = bisect(&subject, &mut |_| {}).unwrap();
    let Culprit::Kernel(kernel) = &found.culprit else { panic!("{found:?}") };
    assert!(kernel.origins.iter().any(|it| it == "step2"), "{kernel:?}");
    let small = minimise(&subject, 400, &mut |_| {}).unwrap();
    let left = &small.arguments.graph;
    assert!(left.nodes().any(|it| &*it.1.origin == "step2"), "{left}");
    assert!(left.nodes().count() <= 3, "{left}");
}

/// Of whole models: no kernel is taken for wrong but the one that is.
#[test]
fn a_kernel_that_does_not_run_is_the_only_one_to_be_named() {
    for name in ["bert_tiny", "llama_tiny", "unet_tiny", "test_convnext", "test_vit"] {
        let case = load(name).unwrap();
        let given = arguments(graph(&case), &case.inputs, &gpu(), Options::default());
        let named = Arc::new(Mutex::new(String::new()));
        let seen = named.clone();
        let last = move |plan: &mut Plan| {
            for step in plan.steps.iter_mut().rev() {
                if let Step::Dispatch { kernel, groups, .. } = step {
                    *groups = [0, 0, 0];
                    *seen.lock().unwrap() = plan.kernels[*kernel].kernel.name.clone();
                    return;
                }
            }
        };
        let tolerance = Tolerance { rtol: 1e-2, atol: 1e-3 };
        let subject = Subject::new(given, gpu(), Against::Device(Device::cpu()), tolerance).planted(last);
        let found = bisect(&subject, &mut |_| {}).unwrap();
        let Culprit::Kernel(kernel) = &found.culprit else { panic!("{name}: {found:?}") };
        assert_eq!(kernel.name, *named.lock().unwrap(), "{name}: {found:?}");
        assert_eq!(found.notes, Vec::<String>::new(), "{name}");
    }
}

/// At most as many runs as were promised, on the model that the promise is about.
#[test]
fn minilm_takes_few_runs() {
    let Some(folder) = std::env::var_os("WGFUSE_MINILM") else {
        return eprintln!("NOT RUN: set WGFUSE_MINILM to a folder with MiniLM's model.onnx");
    };
    let model = Model::open(std::path::Path::new(&folder).join("model.onnx")).unwrap();
    let graph = model.graph(&vec![Shape::new(&[1, 128]); 2]).unwrap();
    let ids: Vec<i64> = (0..128).map(|it| 1000 + 37 * it % 20_000).collect();
    let inputs = [Tensor::i64([1, 128], &ids).unwrap(), Tensor::i64([1, 128], &[1; 128]).unwrap()];
    let whole = |after: &str| {
        let run = rewriting("planted", after, 5, |to, op| match op {
            Op::LayerNorm { axis, eps, x, scale, .. } => {
                Some(to.add(Op::LayerNorm { axis: *axis, eps: *eps, x: *x, scale: *scale, bias: None }))
            }
            _ => None,
        });
        Options { passes: vec![run], ..Options::default() }
    };
    let rule = |after: &str| {
        let patterns = vec![wrong_rule(Hook::After(after.into()))];
        Options { patterns, ..Options::default() }
    };
    for (after, options, name) in [
        ("simplify", whole("simplify"), "planted"),
        ("attention", whole("attention"), "planted"),
        ("siblings", whole("siblings"), "planted"),
        ("attention", rule("attention"), "gelu-is-relu"),
        ("siblings", rule("siblings"), "gelu-is-relu"),
    ] {
        let given = arguments(graph.clone(), &inputs, &Device::cpu(), options);
        let found = bisect(&subject(given, &Device::cpu(), Against::Plain), &mut |_| {}).unwrap();
        let Culprit::Applied { what, number, .. } = &found.culprit else { panic!("{found:?}") };
        println!("{name} after {after}: rewrite {number} of {}, {} runs", found.applications, found.runs);
        assert_eq!(&*what.rule, name);
        assert!(found.runs <= 12, "{} runs", found.runs);
    }
}
