//! The slow evaluator against values made by ONNX's reference implementation (`files/graph/evaluator.py`).

use wgfuse_compiler::graph::{eval::eval, text::parse, verify::verify};
use wgfuse_tests::compare::difference;

const CASES: &str = include_str!("../files/graph/evaluator.txt");

#[test]
fn agrees_with_onnx() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in CASES.split("-----\n") {
        let name = case.lines().next().unwrap_or_default();
        match check(case) {
            Ok(()) => compared += 1,
            Err(what) => failures.push(format!("{name}: {what}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 90, "only {compared} cases");
}

#[test]
fn a_wrong_value_is_seen() {
    let case = |want: &str| {
        format!(
            "%0 = constant {{4.0}} : f32[1]\n%1 = sqrt %0 : f32[1]\n%2 = constant {{{want}}} : f32[1]\n\
             output \"have\" = %1\noutput \"want\" = %2\n"
        )
    };
    assert_eq!(check(&case("2.0")), Ok(()));
    assert!(check(&case("2.001")).is_err());
}

fn check(case: &str) -> Result<(), String> {
    let graph = parse(case).map_err(|it| it.to_string())?;
    let faults = verify(&graph);
    if !faults.is_empty() {
        return Err(format!("{faults:?}"));
    }
    let outputs = eval(&graph, &[]).map_err(|it| it.to_string())?;
    let [have, want] = outputs.as_slice() else { return Err("two outputs are needed".to_string()) };
    // The reference computes in f32.
    let tolerance = if want.dtype().is_float() { 1e-5 } else { 0.0 };
    difference(have, want, tolerance, tolerance).map_or(Ok(()), Err)
}
