//! The command line as other programs use it: exit codes, files, JSON.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name).display().to_string()
}

fn wgfuse(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wgfuse")).args(args).output().expect("the program starts")
}

/// A folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&path).expect("a folder for the test");
    path
}

fn expect(out: &Output, code: i32) -> (String, String) {
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{stdout}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    (stdout.into_owned(), stderr.into_owned())
}

fn json(args: &[&str]) -> Value {
    let (stdout, _) = expect(&wgfuse(args), 0);
    serde_json::from_str(&stdout).unwrap_or_else(|it| panic!("{it}: {stdout}"))
}

/// `run` on the digits, on the processor, with more arguments.
fn run_digits(more: &[&str]) -> Output {
    let (model, set) = (asset("digits.onnx"), asset("test_set.safetensors"));
    wgfuse(&[&["run", &model, "--inputs", &set, "--device", "cpu"], more].concat())
}

#[test]
fn demo_reads_the_digits() {
    let (text, _) = expect(&wgfuse(&["demo", "--device", "cpu"]), 0);
    assert!(text.contains("442 of 450"), "{text}");
    assert!(text.lines().all(|it| !it.contains('\u{1b}')), "colours outside a terminal");
    let report = json(&["demo", "--device", "cpu", "--json"]);
    assert_eq!(report["right"], 442);
    assert!(report["largest_difference"].as_f64().is_some_and(|it| it < 1e-4), "{report}");
    assert!(report["kernels"].as_array().is_some_and(|it| !it.is_empty()));
}

#[test]
fn compiled_models_run_in_place_of_models() {
    let file = folder("compiled").join("digits.wgf").display().to_string();
    let (model, shape) = (asset("digits.onnx"), ["--shape", "image=450x1x8x8", "--shape", "image=1x1x8x8"]);
    let compile = [&["compile", &model, "-o", &file][..], &shape].concat();
    let (text, _) = expect(&wgfuse(&compile), 0);
    assert!(text.contains("gpu for image [450,1,8,8]") && text.contains("cpu for image [1,1,8,8]"), "{text}");
    let (text, _) = expect(&wgfuse(&["inspect", &file]), 0);
    assert_eq!(text.matches("plan ").count(), 4, "{text}");
    let set = asset("test_set.safetensors");
    let run = ["run", &file, "--inputs", &set, "--expect", &set, "--device", "cpu"];
    expect(&wgfuse(&run), 0);
    // What is compiled is no model to compile again.
    expect(&wgfuse(&["compile", &file, "-o", &file]), 1);
    let missing = wgfuse(&[&compile[..], &["--target", "no such file"]].concat());
    assert!(expect(&missing, 1).1.contains("portable, this or a file"));
}

#[test]
fn run_compares_and_writes_every_format() {
    let folder = folder("formats");
    let set = asset("test_set.safetensors");
    let (text, _) = expect(&run_digits(&["--expect", &set]), 0);
    assert!(text.contains("largest absolute difference"), "{text}");
    for name in ["out.safetensors", "out.npy", "out.pb"] {
        let path = folder.join(name).display().to_string();
        expect(&run_digits(&["--outputs", &path]), 0);
        expect(&run_digits(&["--expect", &path, "--rtol", "0", "--atol", "0"]), 0);
    }
    let all = folder.join("all").display().to_string();
    expect(&run_digits(&["--outputs", &all]), 0);
    let file = folder.join("all/probability.npy").display().to_string();
    expect(&run_digits(&["--expect", &format!("probability={file}")]), 0);
    expect(&run_digits(&["--expect", &format!("nothing={file}")]), 1);
}

#[test]
fn run_tells_what_differs() {
    let folder = folder("differs");
    let path = folder.join("out.npy");
    let file = path.display().to_string();
    expect(&run_digits(&["--outputs", &file]), 0);
    let mut bytes = fs::read(&path).expect("just written");
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&7f32.to_le_bytes());
    fs::write(&path, bytes).expect("a file of ours");
    let (text, _) = expect(&run_digits(&["--expect", &file]), 2);
    assert!(text.contains("DIFFERS") && text.contains("[449,9]"), "{text}");
    expect(&run_digits(&["--expect", &file, "--atol", "10"]), 0);
    let (text, _) = expect(&run_digits(&["--expect", &file, "--json"]), 2);
    let report: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!((&report["differs"], &report["compared"][0]["beyond"]), (&true.into(), &1.into()));
}

#[test]
fn faults_of_the_user_are_named() {
    let folder = folder("faults");
    let model = asset("digits.onnx");
    let (_, text) = expect(&wgfuse(&["run", &model, "--device", "cpu"]), 1);
    assert!(text.contains("'image' f32[batch,1,8,8]"), "{text}");
    let (_, text) = expect(&wgfuse(&["run", "no such file.onnx"]), 1);
    assert!(text.contains("no such file.onnx"), "{text}");
    let cut = folder.join("cut.onnx");
    let bytes = fs::read(&model).expect("an asset");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file of ours");
    expect(&wgfuse(&["inspect", &cut.display().to_string(), "--device", "cpu"]), 1);
    for wrong in
        [&["walk"][..], &["run"], &["bench", &model, "--shape", "image"], &["run", &model, "--device", "x"]]
    {
        expect(&wgfuse(wrong), 1);
    }
    let (_, text) = expect(&wgfuse(&["inspect", &model, "--device", "cpu", "--shape", "image=2x8x8"]), 1);
    assert!(text.contains("image"), "{text}");
    expect(&wgfuse(&["--help"]), 0);
}

#[test]
fn faults_of_the_device_are_told_apart() {
    let set = asset("test_set.safetensors");
    expect(&wgfuse(&["run", &asset("digits.onnx"), "--inputs", &set, "--device", "99"]), 3);
}

#[test]
fn inspect_reports_to_people_programs_and_browsers() {
    let model = asset("digits.onnx");
    let page = folder("inspect").join("report.html");
    let args = ["inspect", &model, "--device", "cpu", "--html", &page.display().to_string()];
    let (text, _) = expect(&wgfuse(&args), 0);
    assert!(text.contains("assumed: batch = 1") && text.contains("ratio"), "{text}");
    let page = fs::read_to_string(page).expect("just written");
    assert!(page.contains("<svg") && page.contains("</svg>"));
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs the network");
    let report = json(&["inspect", &model, "--device", "cpu", "--shape", "image=3x1x8x8", "--json"]);
    assert_eq!(report["inputs"][0]["shape"], serde_json::json!([3, 1, 8, 8]));
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([3, 10]));
    assert_eq!(report["steps_down"], serde_json::json!([]));
    assert!(report["kernels"].as_array().is_some_and(|it| !it.is_empty()));
    assert!(report["memory"]["ratio"].as_f64().is_some_and(|it| (1.0..=1.2).contains(&it)), "{report}");
    let (text, _) = expect(&wgfuse(&["inspect", &model, "--device", "cpu", "--kernels"]), 0);
    assert!(text.contains("fused"), "{text}");
}

#[test]
fn bench_measures() {
    let file = folder("trace").join("digits.json");
    let path = file.to_str().expect("text");
    let model = asset("digits.onnx");
    let report = json(&["bench", &model, "--device", "cpu", "--iters", "3", "--json", "--trace", path]);
    assert_eq!(report["replay"]["iters"], 3);
    let positive = |it: &Value| it.as_f64().is_some_and(|it| it > 0.0);
    assert!(positive(&report["replay"]["median"]) && positive(&report["back_to_back"]), "{report}");
    assert!(
        positive(&report["copy_bytes_per_second"]) && positive(&report["arithmetic_per_second"]),
        "{report}"
    );
    let kernels = report["kernels"].as_array().expect("a list");
    assert!(!kernels.is_empty());

    // The trace holds the same kernels, end to end.
    let trace: Value = serde_json::from_slice(&fs::read(&file).expect("written")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let events: Vec<&Value> = events.iter().filter(|it| it["ph"] == "X").collect();
    assert_eq!(events.len(), kernels.len());
    let mut end = 0.0;
    for (event, kernel) in events.iter().zip(kernels) {
        assert_eq!((&event["name"], &event["args"]["bytes"]), (&kernel["name"], &kernel["bytes"]));
        assert_eq!(event["args"]["operations"], kernel["flops"]);
        assert_eq!(event["args"]["share_of_arithmetic"], kernel["share_of_arithmetic"]);
        let (start, dur) = (event["ts"].as_f64().expect("a time"), event["dur"].as_f64().expect("a time"));
        assert!((start - end).abs() < 1e-3 && dur > 0.0, "{event}");
        end = start + dur;
    }
    assert!(events.iter().any(|it| positive(&it["args"]["share_of_arithmetic"])), "{trace}");
    let nowhere = folder("trace").join("absent").join("t.json");
    let nowhere = nowhere.to_str().expect("text");
    let failed = wgfuse(&["bench", &model, "--device", "cpu", "--iters", "1", "--trace", nowhere]);
    assert!(expect(&failed, 1).1.contains("absent"));
}

#[test]
fn devices_are_listed() {
    let report = json(&["devices", "--json"]);
    let found = report["adapters"].as_array().expect("a list");
    assert_eq!(found.is_empty(), report["advice"].is_string());
    expect(&wgfuse(&["devices"]), 0);
}

#[test]
fn a_reader_may_stop_reading() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wgfuse"))
        .args(["inspect", &asset("digits.onnx"), "--device", "cpu", "--kernels"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    expect(&child.wait_with_output().expect("the program ends"), 0);
}

#[test]
fn saved_arguments_are_compiled_and_run_again() {
    let folder = folder("saved");
    let _ = fs::remove_dir_all(&folder);
    let (model, set) = (asset("digits.onnx"), asset("test_set.safetensors"));
    let out = Command::new(env!("CARGO_BIN_EXE_wgfuse"))
        .args(["run", &model, "--inputs", &set, "--device", "cpu"])
        .env("WGFUSE_SAVE_ARGS", &folder)
        .output()
        .expect("the program starts");
    expect(&out, 0);
    let kept = fs::read_dir(&folder).expect("made").next().expect("one").expect("there").path();
    let kept = kept.display().to_string();
    let (text, _) = expect(&wgfuse(&["replay-args", &kept]), 0);
    assert!(text.contains("the target that was kept") && text.contains("compiled"), "{text}");
    let file = folder.join("out.safetensors").display().to_string();
    let run = ["replay-args", &kept, "--run", "--device", "cpu", "--against", "plain", "--outputs", &file];
    let report = json(&[&run[..], &["--json"]].concat());
    assert_eq!((&report["differs"], &report["ran"]), (&Value::Bool(false), &Value::Bool(true)), "{report}");
    // The same inputs: what a run of the model gives.
    expect(&run_digits(&["--expect", &file, "--rtol", "0", "--atol", "0"]), 0);
    expect(&wgfuse(&["replay-args", &folder.display().to_string()]), 1);
    fs::write(Path::new(&kept).join("graph.txt"), "%0 = nothing").expect("written");
    let (_, text) = expect(&wgfuse(&["replay-args", &kept]), 1);
    assert!(text.contains("line 1"), "{text}");
}

#[test]
fn passes_are_listed_with_their_rules() {
    let (text, _) = expect(&wgfuse(&["passes"]), 0);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is not in\n{text}"));
    let order =
        ["pre-grad", "simplify", "composites", "batch-norm", "joint", "attention", "post-grad", "siblings"];
    assert!(order.map(at).is_sorted(), "{text}");
    for what in ["concat-slices", "cast-cast", "elsewhere     re-inplacing: ", "causal-mask"] {
        at(what);
    }
    let (full, _) = expect(&wgfuse(&["passes", "--rules"]), 0);
    assert!(full.contains("neutral            exact    x * 1"), "{full}");
    let all = json(&["passes", "--json"]);
    let names: Vec<&str> =
        all["stages"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pre-grad", "joint", "post-grad"]);
    let joint = &all["stages"][1]["passes"][0];
    assert_eq!(joint["name"], "attention");
    assert_eq!(joint["rules"][0]["rules"][0]["name"], "attention");
    assert!(at("as patterns: sigmoid, silu") > at("composites"), "{text}");
    assert!(all["explained"].as_array().unwrap().iter().any(|it| it == "softmax"), "{all}");
}

#[test]
fn near_matches_are_explained() {
    let model = asset("digits.onnx");
    let (text, _) = expect(&wgfuse(&["explain-match", &model, "--pattern", "softmax"]), 0);
    assert!(text.starts_with("applied  ") && text.contains("\nnear     "), "{text}");
    let found = json(&["explain-match", &model, "--pattern", "gelu", "--json", "--all"]);
    assert_eq!(found["near"].as_array().map(Vec::len), found["near_count"].as_u64().map(|it| it as usize));
    let (_, text) = expect(&wgfuse(&["explain-match", &model, "--pattern", "nothing"]), 1);
    assert!(text.contains("there is no such pattern; there are sigmoid"), "{text}");
}

#[test]
fn bisect_and_minimise_say_that_nothing_is_wrong_or_what() {
    let folder = folder("bisect");
    let _ = fs::remove_dir_all(&folder);
    let (model, set) = (asset("digits.onnx"), asset("test_set.safetensors"));
    let given = [&model[..], "--inputs", &set, "--device", "cpu"];
    let report = json(&[&["bisect"], &given[..], &["--json"]].concat());
    assert_eq!((&report["culprit"]["kind"], &report["runs"]), (&Value::from("none"), &Value::from(2)));
    let out = folder.display().to_string();
    let (_, text) = expect(&wgfuse(&[&["minimise"], &given[..], &["-o", &out]].concat()), 1);
    assert!(text.contains("nothing to minimise"), "{text}");
    // Not even roundings may differ: some kernel adds up in another order than the slow evaluator.
    let bert = |it: &str| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/bert_tiny");
        models.join(it).display().to_string()
    };
    let (model, set) = (bert("model.onnx"), bert("inputs.safetensors"));
    let strict = [&model[..], "--inputs", &set, "--device", "cpu", "--rtol", "0", "--atol", "0"];
    let (text, _) = expect(&wgfuse(&[&["bisect"], &strict[..]].concat()), 2);
    assert!(text.contains("culprit  kernel") && text.contains("compiled and run"), "{text}");
    let (text, _) = expect(&wgfuse(&[&["minimise"], &strict[..], &["-o", &out]].concat()), 2);
    let repeat = text.lines().find_map(|it| it.strip_prefix("repeat   wgfuse ")).expect("how to repeat it");
    let repeat: Vec<&str> = repeat.split(' ').collect();
    expect(&wgfuse(&[&repeat[..], &["--rtol", "0", "--atol", "0"]].concat()), 2);
}

#[test]
fn verbose_tells_each_step_with_its_time() {
    let model = asset("digits.onnx");
    let told = |more: &[&str]| {
        let args = [&["inspect", &model, "--device", "cpu"], more].concat();
        expect(&wgfuse(&args), 0).1
    };
    assert!(!told(&[]).contains("time.busy"));
    let text = told(&["-v"]);
    for step in [
        "import{nodes=",
        "passes{nodes=",
        "stage{name=",
        "partition{",
        "lower{",
        "schedule{",
        "codegen{",
        "plan{",
    ] {
        let line = text.lines().find(|it| it.contains(step) && it.contains("time.busy"));
        assert!(line.is_some(), "{step} in {text}");
    }
    assert!(!text.contains("pass{name="), "{text}");
    assert!(told(&["-vv"]).contains("pass{name=\"simplify\""));
}

#[test]
fn settings_that_say_nothing_are_told() {
    let model = asset("digits.onnx");
    let told = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgfuse"));
        let out = command.args(["inspect", &model, "--device", "cpu"]).env(name, value).output();
        expect(&out.expect("the program starts"), 1).1
    };
    assert!(
        told("WGFUSE_REPLAY", "twice").contains("WGFUSE_REPLAY: 'twice' is not auto, portable or recorded")
    );
    assert!(told("WGFUSE_TUNE", "maybe").contains("WGFUSE_TUNE: 'maybe' is not off, known or on"));
    assert!(told("RUST_LOG", "wgfuse=loud").contains("RUST_LOG is 'wgfuse=loud'"));
}

/// An ONNX file of these nodes, each an operator with its operands and its result; inputs and outputs have a name and a type each.
fn onnx_file(inputs: &[(&str, i32)], outputs: &[(&str, i32)], nodes: &[(&str, &[&str], &str)]) -> Vec<u8> {
    use prost::Message;
    use wgfuse::compiler::import::onnx::proto::{
        DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
        TensorTypeProto, TypeProto, ValueInfoProto,
    };
    let value = |(name, of): &(&str, i32)| {
        let dim = DimensionProto { dim_value: None, dim_param: Some(format!("{name} size")) };
        let tensor = TensorTypeProto { elem_type: *of, shape: Some(TensorShapeProto { dim: vec![dim] }) };
        let ty = TypeProto { tensor_type: Some(tensor), ..Default::default() };
        ValueInfoProto { name: name.to_string(), r#type: Some(ty) }
    };
    let node = |(op, input, output): &(&str, &[&str], &str)| NodeProto {
        op_type: op.to_string(),
        name: op.to_lowercase(),
        input: input.iter().map(|it| it.to_string()).collect(),
        output: vec![output.to_string()],
        ..Default::default()
    };
    let graph = GraphProto {
        input: inputs.iter().map(value).collect(),
        output: outputs.iter().map(value).collect(),
        node: nodes.iter().map(node).collect(),
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
    let file = ModelProto { ir_version: 9, opset_import: vec![opset], graph: Some(graph), functions: vec![] };
    file.encode_to_vec()
}

/// y = x[i] for each i of which x is not 0.
fn chosen() -> Vec<u8> {
    let nodes: [(&str, &[&str], &str); 5] = [
        ("Exp", &["x"], "e"),
        ("Floor", &["e"], "f"),
        ("NonZero", &["f"], "i"),
        ("Squeeze", &["i"], "j"),
        ("Gather", &["e", "j"], "y"),
    ];
    onnx_file(&[("x", 1)], &[("y", 1)], &nodes)
}

#[test]
fn inspect_names_strings() {
    let show = |name: &str, outputs: &[(&str, i32)], nodes: &[(&str, &[&str], &str)]| {
        let file = folder("strings").join(name).display().to_string();
        fs::write(&file, onnx_file(&[("x", 8)], outputs, nodes)).expect("a file");
        expect(&wgfuse(&["inspect", &file, "--device", "cpu", "--shape", "x=6"]), 0).0
    };
    let text = show("whole.onnx", &[("same", 9)], &[("Equal", &["x", "x"], "same")]);
    assert!(text.contains("x is string[x size]"), "{text}");
    let text = show("joined.onnx", &[("z", 8)], &[("StringConcat", &["x", "x"], "z")]);
    assert!(text.contains("x is string[x size], z is string[z size]"), "{text}");
    assert!(text.contains("stringconcat") && text.contains("GPUs know no strings"), "{text}");
}

#[test]
fn inspect_shows_where_values_decide_how_a_model_goes_on() {
    let file = folder("stretches").join("chosen.onnx").display().to_string();
    fs::write(&file, chosen()).expect("a file");
    let (text, _) = expect(&wgfuse(&["inspect", &file, "--device", "cpu", "--shape", "x=6"]), 0);
    assert!(text.contains("first stretch") && text.contains("nonzero") && text.contains("24 B"), "{text}");
    let report = json(&["inspect", &file, "--device", "cpu", "--shape", "x=6", "--json"]);
    assert_eq!((&report["stops"][0]["node"], &report["stops"][0]["bytes"]), (&"nonzero".into(), &24.into()));
    // A run shows how it goes on, and what the host reads there.
    let x = folder("stretches").join("x.npy").display().to_string();
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }");
    let mut npy = [b"\x93NUMPY\x01\x00".as_slice(), &118u16.to_le_bytes(), header.as_bytes()].concat();
    npy.extend([0.5f32, -1.0, 2.0, -3.0, 0.0, 1.0].iter().flat_map(|it| it.to_le_bytes()));
    fs::write(&x, npy).expect("a file");
    let args = ["inspect", &file, "--device", "cpu", "--inputs", &x];
    let (text, _) = expect(&wgfuse(&args), 0);
    assert!(text.contains("A run came to these") && text.contains("nothing is left to do"), "{text}");
    let report = json(&[&args[..], &["--json"]].concat());
    let ways = report["stretches"].as_array().expect("a list");
    assert_eq!((ways.len(), &ways[0]["ends"][0]["node"]), (2, &"nonzero".into()), "{report}");
    assert_eq!((&ways[0]["ends"][0]["bytes"], &ways[1]["ends"]), (&24.into(), &serde_json::json!([])));
    // What needs the model as a whole says why there is none.
    let (_, error) = expect(&wgfuse(&["compile", &file, "-o", &format!("{file}.wgf"), "--shape", "x=6"]), 1);
    assert!(error.contains("nonzero") && error.contains("stretch by stretch"), "{error}");
}

/// A tensor of strings as `.pb` has it.
fn strings_file(path: &std::path::Path, values: &[&str]) -> String {
    use prost::Message;
    use wgfuse::compiler::import::onnx::proto::TensorProto;
    let proto = TensorProto {
        dims: vec![values.len() as i64],
        data_type: 8,
        string_data: values.iter().map(|it| it.as_bytes().to_vec().into()).collect(),
        ..Default::default()
    };
    fs::write(path, proto.encode_to_vec()).expect("a file");
    path.display().to_string()
}

#[test]
fn strings_go_through_files() {
    let folder = folder("string_files");
    let model = folder.join("joined.onnx").display().to_string();
    let nodes: [(&str, &[&str], &str); 1] = [("StringConcat", &["x", "y"], "z")];
    fs::write(&model, onnx_file(&[("x", 8), ("y", 8)], &[("z", 8)], &nodes)).expect("a file");
    let file = |name: &str, values: &[&str]| strings_file(&folder.join(name), values);
    let (x, y) = (file("x.pb", &["a", "", "ß"]), file("y.pb", &["b", "c", "d"]));
    let (good, bad) = (file("z.pb", &["ab", "c", "ßd"]), file("bad.pb", &["ab", "c", "d"]));
    let out = folder.join("out").display().to_string();
    let given = format!("x={x},y={y}");
    let run = ["run", &model, "--inputs", &given, "--device", "cpu"];
    let (text, _) = expect(&wgfuse(&[&run[..], &["--expect", &good, "--outputs", &out]].concat()), 0);
    assert!(text.contains("output   z  string[3]") && text.contains("all 3 elements"), "{text}");
    let (text, _) = expect(&wgfuse(&[&run[..], &["--expect", &format!("{out}/z.pb")]].concat()), 0);
    assert!(text.contains("same     z"), "{text}");
    let (text, _) = expect(&wgfuse(&[&run[..], &["--expect", &bad]].concat()), 2);
    assert!(text.contains("1 of 3 elements"), "{text}");
    let report = json(&[&run[..], &["--json"]].concat());
    assert_eq!(report["outputs"], serde_json::json!([{ "name": "z", "dtype": "string", "shape": [3] }]));
    let npy = format!("{out}/z.npy");
    let (_, error) = expect(&wgfuse(&[&run[..], &["--outputs", &npy]].concat()), 1);
    assert!(error.contains("'z' is string[3]") && error.contains("use .pb"), "{error}");
    // A run shows the stretches of models of strings too.
    let (text, _) = expect(&wgfuse(&["inspect", &model, "--inputs", &given, "--device", "cpu"]), 0);
    assert!(text.contains("A run came to these") && text.contains("stringconcat"), "{text}");
    let (_, error) = expect(&wgfuse(&["bisect", &model, "--inputs", &given, "--device", "cpu"]), 1);
    assert!(error.contains("tensors alone"), "{error}");
}

#[test]
fn sequences_go_through_files() {
    use prost::Message;
    use wgfuse::compiler::import::onnx::proto::{ElementTypeProto, ModelProto, TypeProto};
    let folder = folder("sequence_files");
    let nodes: [(&str, &[&str], &str); 1] = [("SequenceInsert", &["s", "x"], "y")];
    let tensors = onnx_file(&[("s", 8), ("x", 8)], &[("y", 8)], &nodes);
    let mut file = ModelProto::decode(&*tensors).expect("a model");
    let graph = file.graph.as_mut().expect("a graph");
    for it in [&mut graph.input[0], &mut graph.output[0]] {
        let of = ElementTypeProto { elem_type: it.r#type.take().map(Box::new) };
        it.r#type = Some(TypeProto { sequence_type: Some(of), ..Default::default() });
    }
    let model = folder.join("model.onnx").display().to_string();
    fs::write(&model, file.encode_to_vec()).expect("a file");
    let part = |name: &str, values: &[&str]| strings_file(&folder.join(name), values);
    let [a, b, x] = [part("a.pb", &["a", "b"]), part("b.pb", &["c"]), part("x.pb", &["d"])];
    let (given, out) = (format!("s.1={b},s.0={a},x={x}"), folder.join("out").display().to_string());
    let run = ["run", &model, "--inputs", &given, "--device", "cpu", "--outputs", &out];
    let (text, _) =
        expect(&wgfuse(&[&run[..], &["--expect", &format!("y.0={a},y.1={b},y.2={x}")]].concat()), 0);
    assert!(text.contains("output   y.0  string[2]") && text.matches("same ").count() == 3, "{text}");
    assert!(folder.join("out/y_2.pb").exists());
    let (_, error) = expect(&wgfuse(&["run", &model, "--inputs", &format!("x={x}"), "--device", "cpu"]), 1);
    assert!(error.contains("no value for 's'"), "{error}");
    let gap = format!("s.0={a},s.2={b},x={x}");
    let (_, error) = expect(&wgfuse(&["run", &model, "--inputs", &gap, "--device", "cpu"]), 1);
    assert!(error.contains("'s' part 1 is missing"), "{error}");
}
