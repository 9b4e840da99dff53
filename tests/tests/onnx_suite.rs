//! The program `onnx-suite`: what it counts as what, that no case ends it, and the lists that it holds the real suite to.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use prost::Message;
use wgfuse::{DType, compiler::import::onnx::proto::*};
use wgfuse_tests::folder;

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const COMPLEX64: i32 = 14;

fn info(name: &str, elem_type: i32) -> ValueInfoProto {
    let dim = DimensionProto { dim_value: Some(2), dim_param: None };
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim: vec![dim] }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

/// A node of one operand, `x`, and one result, `y`.
fn model(op: &str, input: i32) -> Vec<u8> {
    let node = NodeProto {
        op_type: op.into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![node],
        input: vec![info("x", input)],
        output: vec![info("y", FLOAT)],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { version: 13, ..Default::default() };
    ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..Default::default() }
        .encode_to_vec()
}

fn floats(dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto { dims: dims.to_vec(), data_type: FLOAT, float_data: values.to_vec(), ..Default::default() }
}

struct Suite(tempfile::TempDir);

impl Suite {
    fn new() -> Suite {
        Suite(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn case(&self, name: &str, model: &[u8], sets: &[(TensorProto, TensorProto)]) {
        let folder = self.path().join("suite/node").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.onnx"), model).unwrap();
        for (at, (input, output)) in sets.iter().enumerate() {
            let set = folder.join(format!("test_data_set_{at}"));
            fs::create_dir_all(&set).unwrap();
            fs::write(set.join("input_0.pb"), input.encode_to_vec()).unwrap();
            fs::write(set.join("output_0.pb"), output.encode_to_vec()).unwrap();
        }
    }

    /// Runs the program on the CPU.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_onnx-suite"))
            .arg(self.path().join("suite"))
            .args(["--device", "cpu", "--lists"])
            .arg(self.path())
            .args(args)
            .output()
            .unwrap()
    }

    fn list(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.path().join("cpu.txt")).unwrap();
        let line = |it: &str| it.split_once(' ').map(|(name, rest)| (name.into(), rest.into())).unwrap();
        text.lines().map(line).collect()
    }
}

fn right() -> (TensorProto, TensorProto) {
    (floats(&[2], &[-1.0, 2.0]), floats(&[2], &[1.0, 2.0]))
}

#[test]
fn a_case_ends_as_what_it_is() {
    let suite = Suite::new();
    let abs = model("Abs", FLOAT);
    let almost = floats(&[2], &[1.0005, 2.0]);
    suite.case("right", &abs, &[right(), right()]);
    suite.case("almost", &abs, &[(right().0, almost.clone())]);
    suite.case("strict", &abs, &[(right().0, almost)]);
    fs::write(suite.path().join("suite/node/strict/tolerance.txt"), "1e-5 1e-7\n").unwrap();
    suite.case("second", &abs, &[right(), (right().0, floats(&[2], &[1.0, 3.0]))]);
    suite.case("nan", &abs, &[(right().0, floats(&[2], &[1.0, f32::NAN]))]);
    suite.case("infinite", &abs, &[(right().0, floats(&[2], &[1.0, f32::INFINITY]))]);
    suite.case("shape", &abs, &[(right().0, floats(&[1, 2], &[1.0, 2.0]))]);
    let ints = TensorProto { dims: vec![2], data_type: INT64, int64_data: vec![1, 2], ..Default::default() };
    suite.case("type", &abs, &[(right().0, ints)]);
    suite.case("unknown", &model("NoSuchOperator", FLOAT), &[right()]);
    suite.case("foreign", &model("Abs", COMPLEX64), &[right()]);
    suite.case("random", &model("RandomUniformLike", FLOAT), &[right()]);
    suite.case("cut", &abs[..abs.len() - 1], &[right()]);
    suite.case("empty", &abs, &[]);
    let out = suite.run(&["--write"]);
    assert!(out.status.success(), "{out:?}");
    let list = suite.list();
    let starts = |case: &str, with: &str| {
        let said = &list[&format!("node/{case}")];
        assert!(said.starts_with(with), "{case}: {said}");
    };
    starts("right", "pass");
    starts("almost", "pass");
    starts("strict", "wrong output 'y' has other values");
    starts("second", "wrong output 'y' has other values");
    starts("nan", "wrong");
    starts("infinite", "wrong");
    starts("shape", "wrong output 'y' is f32[2], not f32[1,2]");
    starts("type", &format!("wrong output 'y' is {}[2], not {}[2]", DType::F32, DType::I64));
    starts("unknown", "unsupported ai.onnx::NoSuchOperator (opset 13): ");
    starts("foreign", "unsupported has element type complex64");
    starts("random", "unsupported draws random numbers");
    starts("cut", "error malformed model");
    starts("empty", "error the case has no data");
    assert_eq!(list.len(), 13);
}

#[test]
fn what_ends_a_process_ends_one_case() {
    let suite = Suite::new();
    for name in ["a", "b", "c", "d"] {
        suite.case(name, &model("Abs", FLOAT), &[right()]);
    }
    let mut ways =
        vec![("abort", "died"), ("overflow", "died"), ("hang", "more than 10 s"), ("panic", "a panic")];
    if cfg!(target_os = "linux") {
        ways.push(("memory", "more than 256 MiB of memory"));
    }
    for (how, said) in ways {
        let out = suite.run(&["--write", "--memory", "256", "--plant", &format!("node/b={how}")]);
        assert!(out.status.success(), "{out:?}");
        let list = suite.list();
        assert!(list["node/b"].starts_with("crash") && list["node/b"].contains(said), "{list:?}");
        assert_eq!(list.values().filter(|it| *it == "pass").count(), 3, "{how}: {list:?}");
    }
}

#[test]
fn a_case_that_ends_otherwise_than_listed_is_told() {
    let suite = Suite::new();
    suite.case("a", &model("Abs", FLOAT), &[right()]);
    suite.case("b", &model("Abs", FLOAT), &[right()]);
    let told = |out: &Output| String::from_utf8_lossy(&out.stdout).into_owned();
    let out = suite.run(&[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(told(&out).contains("node/a\tnot listed -> pass") && told(&out).contains("--write"), "{out:?}");
    assert!(suite.run(&["--write"]).status.success());
    assert_eq!(suite.run(&[]).status.code(), Some(0));
    suite.case("a", &model("Abs", FLOAT), &[(right().0, floats(&[2], &[3.0, 3.0]))]);
    fs::remove_dir_all(suite.path().join("suite/node/b")).unwrap();
    let out = suite.run(&["--json", suite.path().join("out.json").to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(told(&out).contains("node/a\tpass -> wrong\toutput 'y' has other values element 0: 1, not 3"));
    assert!(told(&out).contains("node/b\tis not there"), "{out:?}");
    let json = fs::read_to_string(suite.path().join("out.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["counts"]["wrong"], &json["cases"][0]["status"]), (&1.into(), &"wrong".into()));
    // Of some cases, the others' lines stay.
    assert_eq!(suite.run(&["--filter", "/a", "--write"]).status.code(), Some(0));
    assert!(suite.list()["node/a"].starts_with("wrong") && suite.list()["node/b"] == "pass");
}

/// The lists that `cargo xtask test` holds the real suite to.
#[test]
fn the_lists_hold_every_case_and_nothing_wrong() {
    let lists = ["cpu", "gpu", "gpu-only"].map(|name| {
        let path = folder::tests().join("onnx").join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(lines.is_sorted(), "{name}");
        assert_eq!(lines.len(), 2024, "{name}");
        for line in &lines {
            let status = line.split(' ').nth(1).unwrap();
            assert!(["pass", "unsupported", "error"].contains(&status), "{name}: {line}");
            assert!(status == "pass" || line.split(' ').nth(2).is_some(), "{name}: no reason: {line}");
        }
        lines
    });
    let passed = lists.each_ref().map(|it| it.iter().filter(|line| line.ends_with(" pass")).count());
    let page = fs::read_to_string(folder::tests().join("../docs/operators.md")).unwrap();
    let says = format!("of 2024: processor {}, GPU {}, GPU alone {}.", passed[0], passed[1], passed[2]);
    assert!(
        page.contains(&says),
        "docs/operators.md is not of these lists: `onnx-suite DIR --docs` writes it anew"
    );
    let names = |list: &[String]| -> Vec<String> {
        list.iter().map(|it| it.split(' ').next().unwrap().to_string()).collect()
    };
    assert_eq!(names(&lists[0]), names(&lists[1]));
    assert_eq!(names(&lists[0]), names(&lists[2]));
}
