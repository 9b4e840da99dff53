//! A model inside of the program: compiled ahead of time, it needs no file, no importer and no compiler.
//!
//! ```text
//! cargo run --release -p wgfuse --example embedded --no-default-features
//! ```
//!
//! `digits.wgf` was made by `wgfuse compile cli/assets/digits.onnx --shape image=1x1x8x8 -o runtime/examples/digits.wgf`.

use wgfuse::{Device, Model, Session, Tensor};

static DIGITS: &[u8] = include_bytes!("digits.wgf");

/// A seven, as 8 x 8 pixels.
const SEVEN: [&str; 8] =
    ["        ", " ###### ", "     ## ", "    ##  ", "   ##   ", "   ##   ", "  ##    ", "        "];

fn main() -> wgfuse::Result<()> {
    let model = Model::from_bytes(DIGITS)?;
    let device = Device::best()?;
    let session = Session::new(&model, &device)?;
    let pixels: Vec<f32> =
        SEVEN.iter().flat_map(|row| row.bytes().map(|it| if it == b'#' { 1.0 } else { 0.0 })).collect();
    let image = Tensor::f32([1, 1, 8, 8], &pixels).expect("64 pixels");
    let outputs = session.run(&[(&*model.inputs[0].name, image)])?;
    let scores = outputs[0].to_f64();
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).expect("ten classes");
    println!("on {}: this is a {best} (of {})", device.name(), scores.len());
    for it in session.disabled() {
        println!("{}", it.reason);
    }
    Ok(())
}
