//! The text forms of all stages: what is printed parses to an equal value and prints the same again, for every model of the
//! zoo and for random graphs; damaged text is refused or understood, never a panic.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
};

use wgfuse_compiler::{
    error::Error,
    graph::{Graph, text as graph_text, text::Constants},
    lower,
    options::Options,
    plan::{self, Plan},
    schedule,
    target::Target,
};
use wgfuse_tests::{
    random::Random,
    random_graph::random_graph,
    stages::{Stages, stages},
    zoo,
};

fn round_trip<T: Display + PartialEq>(what: &str, value: &T, parse: impl Fn(&str) -> Result<T, Error>) {
    let text = value.to_string();
    let again = parse(&text).unwrap_or_else(|it| panic!("{what}: {it}\n{text}"));
    let printed = again.to_string();
    let line = text.lines().zip(printed.lines()).find(|it| it.0 != it.1);
    assert_eq!(line, None, "{what}: printed, and printed again after parsing");
    assert_eq!(text.len(), printed.len(), "{what}");
    assert!(again == *value, "{what}: the same text of another value");
}

/// The numbers of a plan: kernels by their names.
struct Numbers(Plan);

impl Display for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Numbers) -> bool {
        let (a, b) = (&self.0, &other.0);
        let kernels = |it: &Plan| -> Vec<_> {
            it.kernels.iter().map(|it| (it.kernel.name.clone(), it.bytes, it.flops)).collect()
        };
        a.buffers == b.buffers
            && (&a.inputs, &a.outputs, &a.constants) == (&b.inputs, &b.outputs, &b.constants)
            && (&a.steps, &a.cpu_parts, a.live_peak) == (&b.steps, &b.cpu_parts, b.live_peak)
            && kernels(a) == kernels(b)
    }
}

fn check(what: &str, graph: Graph) -> usize {
    let mut refusals = 0;
    for (target, fuse) in
        [(Target::webgpu_minimum(), true), (Target::webgpu_minimum(), false), (Target::cpu(), true)]
    {
        let options = Options { fuse, ..Options::default() };
        let what = format!("{what} on {:?}, fused: {fuse}", target.place);
        let Stages { loops, schedule, plan, .. } = stages(graph.clone(), &target, &options).unwrap();
        round_trip(&format!("{what}: loops"), &loops, lower::text::parse);
        round_trip(&format!("{what}: schedule"), &schedule, schedule::text::parse);
        let parse = |text: &str| plan::text::parse(text, &plan).map(Numbers);
        round_trip(&format!("{what}: plan"), &Numbers(plan.clone()), parse);
        refusals += schedule.refusals.len();
    }
    refusals
}

#[test]
fn the_zoo_round_trips() {
    let mut refusals = 0;
    let mut models = 0;
    let folder = std::fs::read_dir(zoo::folder("")).unwrap().map(|it| it.unwrap().file_name());
    let names = folder.map(|it| it.into_string().unwrap());
    for name in names.filter(|it| zoo::folder(it).join("inputs.safetensors").exists()) {
        let case = zoo::load(&name).unwrap();
        let shapes: Vec<_> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        refusals += check(&name, case.model.graph(&shapes).unwrap());
        models += 1;
    }
    assert!(models >= 10 && refusals > 100, "{models} models, {refusals} refusals");
}

#[test]
fn random_graphs_round_trip() {
    for seed in 0..300 {
        check(&format!("seed {seed}"), random_graph(seed).0);
    }
}

/// A few characters changed, swapped for what another place has, or cut out; or the end cut off.
fn damaged(original: &str, random: &mut Random) -> String {
    let mut text: Vec<char> = original.chars().collect();
    for _ in 0..=random.below(2) {
        let at = random.below(text.len());
        let end = (at + 1 + random.below(12)).min(text.len());
        match random.below(6) {
            0 => text.truncate(at.max(1)),
            1 => drop(text.drain(at..end)),
            2 => {
                let from = random.below(text.len());
                let piece = text[from..(from + end - at).min(text.len())].to_vec();
                drop(text.splice(at..end, piece));
            }
            3 => {
                text[at] = *random.pick(&['(', ')', '[', '-', '9', '%', '*', '"', '\\', '\n', 'e', 'é', '\0'])
            }
            4 => drop(text.splice(at..at, "99999999999999999999".chars().take(1 + random.below(20)))),
            _ => {
                let digits = (at..text.len()).find(|it| text[*it].is_ascii_digit()).unwrap_or(at);
                text[digits] = char::from(b'0' + random.below(10) as u8);
            }
        }
        if text.is_empty() {
            text.push('e');
        }
    }
    text.into_iter().collect()
}

type Parse<'a> = &'a dyn Fn(&str) -> Result<String, Error>;

#[test]
fn damaged_text_is_refused_or_understood() {
    let (mut refused, mut understood, mut panicked) = (0, 0, Vec::new());
    for graph_seed in 0..20 {
        let graph = random_graph(graph_seed).0;
        let Stages { loops, schedule, plan, .. } =
            stages(graph.clone(), &Target::webgpu_minimum(), &Options::default()).unwrap();
        let target = Target::webgpu_minimum();
        let graphs = |text: &str| graph_text::parse(text).map(|it| graph_text::print(&it, Constants::All));
        let loop_nests = |text: &str| {
            let loops = lower::text::parse(text)?;
            lower::verify::verify(&loops);
            Ok(loops.to_string())
        };
        let schedules = |text: &str| {
            let schedule = schedule::text::parse(text)?;
            schedule::verify::verify(&schedule, &target);
            Ok(schedule.to_string())
        };
        let plans = |text: &str| {
            let plan = plan::text::parse(text, &plan)?;
            plan::verify(&plan);
            Ok(plan.to_string())
        };
        let forms: [(String, Parse<'_>); 4] = [
            (graph_text::print(&graph, Constants::All), &graphs),
            (loops.to_string(), &loop_nests),
            (schedule.to_string(), &schedules),
            (plan.to_string(), &plans),
        ];
        for (form, (text, parse)) in forms.iter().enumerate() {
            for seed in 0..250 {
                let what = format!("graph {graph_seed}, form {form}, seed {seed}");
                let text = damaged(text, &mut Random::new(seed));
                match catch_unwind(AssertUnwindSafe(|| parse(&text))) {
                    // What was understood has a text form of its own.
                    Ok(Ok(printed)) => {
                        let again = parse(&printed).unwrap_or_else(|it| panic!("{what}: {it}\n{printed}"));
                        assert_eq!(again, printed, "{what}");
                        understood += 1;
                    }
                    Ok(Err(error)) => {
                        let error = error.to_string();
                        assert!(error.contains("line ") && error.contains("column "), "{what}: {error}");
                        refused += 1;
                    }
                    Err(_) => panicked.push(what),
                }
            }
        }
    }
    println!("{refused} refused, {understood} understood");
    assert!(panicked.is_empty(), "{panicked:?}");
    assert!(refused > 5000 && understood > 1000, "{refused} refused, {understood} understood");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let message = |text: &str| lower::text::parse(text).unwrap_err().to_string();
    let tensors = "t0: f32[2,8] = input(slot=0) \"x\"\nt1: f32[2] = nest(at=0) \"y\"\n";
    let nest = |body: &str| {
        message(&format!("{tensors}nest t1 reduce_sum on gpu\n  reduce(depth=[8], op=sum, value=e0)\n{body}"))
    };
    let at = |place: &str, what: &str| format!("malformed model: {place}: {what}");
    assert_eq!(nest("  e0: f32 = t0[i0]"), at("line 5, column 15", "1 coordinates in a tensor f32[2,8]"));
    assert_eq!(nest("  e0: f32 = t0[i0, i2]"), at("line 5, column 20", "there is no loop variable i2"));
    assert_eq!(nest("  e0: f32 = exp e3"), at("line 5, column 13", "there is no expression e3"));
    assert_eq!(nest("  e0: f32 = expp e3"), at("line 5, column 13", "'expp' is no f32 and no expression"));
    assert_eq!(nest("  e1: f32 = 1.0"), at("line 5, column 3", "the next expression is e0"));
    assert_eq!(nest(""), at("line 4, column 3", "there is no expression e0"));
    assert_eq!(nest("  e0: f32 = 1.0\n  e1: f32 = 1.0"), at("line 6, column 13", "it is the same as e0"));
    let deep = format!("  e0: i32 = coord {}i0{}", "(".repeat(100_000), ")%3".repeat(100_000));
    assert!(nest(&deep).ends_with("brackets are nested too deep"));
    assert_eq!(nest("  e0: i32 = coord (i0)/0"), at("line 5, column 24", "0 is no divisor"));
    assert_eq!(
        nest("  e0: i32 = coord 3*((2*i0)/7 + i1)"),
        at("line 5, column 36", "'%' is missing at the end of the line")
    );
    assert!(nest("  e0: i32 = coord 9999999999*(i0 + 99999999999)%999999999999999").ends_with("too large"));
    assert_eq!(message(tensors), at("line 3, column 1", "the nest of t1 is missing"));
    assert_eq!(
        message("t0: f32[2] = output(slot=0)"),
        at("line 1, column 14", "'output' is none of input constant nest")
    );
    assert_eq!(
        message("t0: f32[2] = input(number=0)"),
        at("line 1, column 20", "'slot' is missing before 'number=0)'")
    );
    assert_eq!(
        message("t0: f32[2] = input(slot=0) x"),
        at("line 1, column 28", "a string in quotes is missing or does not end")
    );
}

/// The text in the documentation of a module of the compiler.
fn example(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../compiler/src").join(file);
    let source = std::fs::read_to_string(path).unwrap();
    let lines = source.lines().map(|it| it.strip_prefix("//!").unwrap_or("```").trim_start_matches(' '));
    let inside = lines.skip_while(|it| *it != "```text").skip(1).take_while(|it| *it != "```");
    let text: String = inside.map(|it| format!("{it}\n")).collect();
    assert!(text.lines().count() > 4, "{file} has an example");
    text
}

/// Without white space at the beginnings of lines, which the documentation's own cannot be told from.
fn unindented(text: &str) -> String {
    text.lines().map(|it| format!("{}\n", it.trim_start())).collect()
}

#[test]
fn documented_examples_are_true() {
    graph_text::parse(&example("graph/text/mod.rs")).unwrap();
    let loops = example("lower/text.rs");
    assert_eq!(unindented(&lower::text::parse(&loops).unwrap().to_string()), loops);
    let schedule = example("schedule/text.rs");
    assert_eq!(unindented(&schedule::text::parse(&schedule).unwrap().to_string()), schedule);
    let graph = graph_text::parse(
        r#"input "x" : f32[8]
           %0 = input 0 : f32[8]
           %1 = relu %0 : f32[8] "y"
           output "y" = %1"#,
    );
    let plan = stages(graph.unwrap(), &Target::webgpu_minimum(), &Options::default()).unwrap().plan;
    let text = example("plan/text.rs");
    assert_eq!(plan.to_string(), text);
    assert_eq!(plan::verify(&plan::text::parse(&text, &plan).unwrap()), Vec::<String>::new());
    let changed = text.replace("b1[0+32]])", "b0[0+32]])");
    let faults = plan::verify(&plan::text::parse(&changed, &plan).unwrap()).join("; ");
    assert!(faults.contains("step 0, k000_map_relu: writes an input or a constant"), "{faults}");
}
