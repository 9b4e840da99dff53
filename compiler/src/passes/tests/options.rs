//! Passes of the user's own, and passes left out.

use super::*;

#[test]
fn users_passes_run_where_they_ask_and_are_checked() {
    let mut b = GraphBuilder::new();
    let x = x(&mut b, [2]);
    let y = b.relu(x).unwrap();
    b.output("y", y).unwrap();
    let graph = b.finish().unwrap();
    let own = |name: &str, at: Hook, run: fn(&Graph) -> Result<Graph, Error>| UserPass {
        name: name.into(),
        at,
        run: std::sync::Arc::new(run),
    };
    let plain = |graph: &Graph| graph.rebuild(Graph::add);
    let order = |passes: Vec<UserPass>, without: &[&str]| -> Result<Vec<String>, Error> {
        let without_passes = without.iter().map(|it| it.to_string()).collect();
        let options = Options { passes, without_passes, ..Options::default() };
        let mut seen = Vec::new();
        optimise_observed(graph.clone(), &Target::cpu(), &options, &mut |name, _| {
            seen.push(name.to_string())
        })?;
        Ok(seen)
    };
    let passes = vec![
        own("a", Hook::Before("joint".into()), plain),
        own("b", Hook::After("simplify".into()), plain),
        own("c", Hook::After("post-grad".into()), plain),
        own("d", Hook::Before("pre-grad".into()), plain),
    ];
    let seen = order(passes, &["attention"]).unwrap();
    assert_eq!(seen, ["d", "simplify", "b", "composites", "batch-norm", "a", "siblings", "c"]);

    let message = |it: Result<Vec<String>, Error>| it.unwrap_err().to_string();
    let text = message(order(Vec::new(), &["nothing"]));
    assert!(
        text.contains("'nothing'") && text.contains("simplify, composites, batch-norm, attention"),
        "{text}"
    );
    let text = message(order(vec![own("a", Hook::Before("later".into()), plain)], &[]));
    assert!(text.contains("'later'") && text.contains("pre-grad"), "{text}");
    let loses = own("loser", Hook::Before("joint".into()), |graph| {
        let mut graph = graph.clone();
        graph.outputs.clear();
        Ok(graph)
    });
    assert_eq!(
        message(order(vec![loses], &[])),
        "pass 'loser': the names or types of the graph's outputs have changed"
    );
    let breaks = own("breaker", Hook::Before("joint".into()), |graph| {
        let mut graph = graph.clone();
        let twin = graph.outputs[0].clone();
        graph.outputs.push(twin);
        Ok(graph)
    });
    assert_eq!(message(order(vec![breaks], &[])), "pass 'breaker': two outputs are named 'y'");
}

#[test]
fn there_is_a_place_before_and_behind_each_stage_and_each_pass() {
    let mut b = GraphBuilder::new();
    let x = x(&mut b, [2]);
    let y = b.relu(x).unwrap();
    b.output("y", y).unwrap();
    let names: Vec<&str> =
        Stage::ALL.map(Stage::name).into_iter().chain(PIPELINE.iter().map(|it| it.name)).collect();
    let hooks = names.iter().flat_map(|it| [Hook::Before(it.to_string()), Hook::After(it.to_string())]);
    let own = |at: Hook| UserPass {
        name: match &at {
            Hook::Before(place) => format!("<{place}"),
            Hook::After(place) => format!("{place}>"),
        },
        at,
        run: std::sync::Arc::new(|graph: &Graph| graph.rebuild(Graph::add)),
    };
    let options = Options { passes: hooks.map(own).collect(), ..Options::default() };
    let mut seen = String::new();
    optimise_observed(b.finish().unwrap(), &Target::cpu(), &options, &mut |name, _| {
        seen.push_str(name);
        seen.push(' ');
    })
    .unwrap();
    let inside = |stage: Stage| {
        let passes = PIPELINE.iter().filter(|it| it.stage == stage).map(|it| it.name);
        passes.map(|it| format!("<{it} {it} {it}> ")).collect::<String>()
    };
    let wanted = Stage::ALL.map(|it| format!("<{0} {1}{0}> ", it.name(), inside(it)));
    assert_eq!(seen, wanted.concat());
}
