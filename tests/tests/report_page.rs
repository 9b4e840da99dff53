//! The page of a report in a real browser: all of the graph is there, nothing fails, and it is drawn in time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use wgfuse::{Model, Options, Shape, Target, compiler::graph::text::parse, report};
use wgfuse_tests::zoo::load;

/// Of a page, and milliseconds from opening it to its second frame.
const LARGEST: usize = 3 << 20;
const LONGEST: f64 = 2000.0;

/// Prints to the browser's console when two frames were drawn.
const PROBE: &str = "<script>addEventListener('error',e=>console.log('FAILED '+e.message));\
addEventListener('load',()=>requestAnimationFrame(()=>requestAnimationFrame(()=>{\
document.querySelector('tr[data-k]').click();\
console.log('SEEN '+JSON.stringify({frame:performance.now(),boxes:document.querySelectorAll('#graph g').length,\
on:document.querySelectorAll('#graph g.on').length,plans:document.querySelectorAll('svg.plan rect').length,\
asked:performance.getEntriesByType('resource').length})+' END')})))</script></html>";

fn browser() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let all: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    names.iter().find_map(|name| all.iter().map(|it| it.join(name)).find(|it| it.is_file()))
}

/// The page of a model for a GPU, and how many boxes its graph has at least.
fn page(model: &Model, shapes: &[Shape]) -> (String, usize) {
    let target = Target { max_storage_buffers: 16, ..Target::webgpu_minimum() };
    let (report, _) = report::report(model, shapes, &target, &Options::default()).unwrap();
    let page = report::page("a <model>", "a device", &[], &report);
    assert!(page.len() < LARGEST, "{} bytes", page.len());
    (page, report.kernels.len())
}

/// What the browser says of it.
fn seen(browser: &Path, page: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    fs::write(&file, page.replace("</html>", PROBE)).unwrap();
    let out = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--window-size=1400,2600",
        ])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--screenshot={}", folder.path().join("page.png").display()))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!text.contains("FAILED "), "{text}");
    let from = text.find("SEEN ").unwrap_or_else(|| panic!("the page was not drawn: {text}"));
    let json = &text[from + 5..from + text[from..].find(" END").expect("printed whole")];
    assert!(fs::metadata(folder.path().join("page.png")).is_ok_and(|it| it.len() > 10_000));
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_crosses_between_gpu_and_cpu_is_told_once_a_tensor() {
    // Two on the processor read what one on the GPU made, and one on the GPU reads what both made.
    let text = r#"input "x" : f32[128,128]
%0 = input 0 : f32[128,128]
%1 = softmax %0 axis=1 : f32[128,128] "before"
%2 = cast %1 to=f64 : f64[128,128] "wide"
%3 = reduce_sum %2 axes=[0] keep=true : f64[1,128] "rows"
%4 = cast %3 to=f32 : f32[1,128] "rows"
%5 = reduce_sum %2 axes=[1] keep=true : f64[128,1] "columns"
%6 = cast %5 to=f32 : f32[128,1] "columns"
%7 = add %4 %6 : f32[128,128] "after"
%8 = softmax %7 axis=1 : f32[128,128] "after"
output "y" = %8
"#;
    let model = Model::from_graph(parse(text).unwrap());
    let target = Target::webgpu_minimum();
    let (report, plan) = report::report(&model, &[[128, 128].into()], &target, &Options::default()).unwrap();
    let told: Vec<_> = report.crossings.iter().map(|it| (&*it.node, it.to, it.bytes)).collect();
    assert_eq!(told, [("before", "cpu", 65536), ("rows", "gpu", 512), ("columns", "gpu", 512)], "{plan}");
    let page = report::page("crossings", "a device", &[], &report);
    for (node, to) in [("before", "CPU"), ("rows", "GPU"), ("columns", "GPU")] {
        let row = format!("<td><code>{node}</code></td><td><code>{to}</code></td>");
        assert!(page.contains(&row), "{row} is not in the page");
    }
}

#[test]
fn a_browser_draws_it() {
    let mut pages = Vec::new();
    for name in ["bert_tiny", "test_efficientnet"] {
        let case = load(name).unwrap();
        let shapes: Vec<Shape> = case.inputs.iter().map(|it| it.shape().clone()).collect();
        pages.push((name, page(&Model::from(case.model), &shapes)));
    }
    match std::env::var_os("WGFUSE_MINILM") {
        Some(folder) => {
            let model = Model::open(Path::new(&folder).join("model.onnx")).unwrap();
            let shapes = vec![Shape::new(&[1, 128]); model.inputs.len()];
            pages.push(("MiniLM", page(&model, &shapes)));
        }
        None => eprintln!("\nNOT CHECKED: WGFUSE_MINILM is not set, so MiniLM's page was not made\n"),
    }
    let Some(browser) = browser() else {
        eprintln!("\nNOT CHECKED: no Chromium or Chrome was found, so no page was shown to a browser\n");
        return;
    };
    for (name, (page, kernels)) in pages {
        let seen = seen(&browser, &page);
        println!("{name}: {} bytes, {seen}", page.len());
        assert!(seen["boxes"].as_u64().unwrap() as usize >= kernels, "{name}: {seen}");
        assert!(seen["on"].as_u64().unwrap() >= 1, "a click shows a kernel: {name}: {seen}");
        assert!(seen["plans"].as_u64().unwrap() > 0, "{name}: {seen}");
        assert_eq!(seen["asked"], 0, "{name} asks for something else: {seen}");
        assert!(seen["frame"].as_f64().unwrap() < LONGEST, "{name}: {seen}");
    }
}
