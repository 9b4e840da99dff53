//! ResNet-50, the variant whose 3x3 convolutions have the strides.

use wgfuse::{
    GraphBuilder,
    compiler::graph::{Value, builder::Geometry},
};

use super::{Built, Parts};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResNet {
    /// Channels of the first stage's inner convolutions.
    width: usize,
    image: usize,
    classes: usize,
}

/// Blocks a stage.
const STAGES: [usize; 4] = [3, 4, 6, 3];
/// Outer channels over inner ones.
const WIDER: usize = 4;

impl ResNet {
    pub const FIFTY: ResNet = ResNet { width: 64, image: 224, classes: 1000 };
    pub const SMALL: ResNet = ResNet { width: 8, image: 64, classes: 10 };

    pub fn build(&self, b: &mut GraphBuilder, parts: &mut Parts) -> Built<()> {
        let dtype = parts.dtype;
        let x = parts.input(b, "image", dtype, &[3, self.image, self.image], (-1.5, 1.5))?;
        let x = conv(b, parts, x, [self.width, 3, 7], 2, 1.0)?;
        let x = b.relu(x)?;
        let mut x = b.max_pool(x, &[3, 3], Geometry { stride: 2, padding: 1, ..Geometry::default() })?;
        let mut channels = self.width;
        for (stage, blocks) in STAGES.into_iter().enumerate() {
            let inner = self.width << stage;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = bottleneck(b, parts, x, [channels, inner], stride)?;
                channels = inner * WIDER;
            }
        }
        let x = b.mean(x, &[2, 3], false)?;
        let x = parts.linear(b, x, [self.classes, channels], 1.0, true)?;
        b.output("logits", x)
    }
}

fn bottleneck(
    b: &mut GraphBuilder,
    parts: &mut Parts,
    x: Value,
    [channels, inner]: [usize; 2],
    stride: usize,
) -> Built<Value> {
    let outer = inner * WIDER;
    let y = conv(b, parts, x, [inner, channels, 1], 1, 1.0)?;
    let y = b.relu(y)?;
    let y = conv(b, parts, y, [inner, inner, 3], stride, 1.0)?;
    let y = b.relu(y)?;
    // Small, so that sixteen sums stay within f16.
    let y = conv(b, parts, y, [outer, inner, 1], 1, 0.3)?;
    let x = match stride != 1 || channels != outer {
        true => conv(b, parts, x, [outer, channels, 1], stride, 1.0)?,
        false => x,
    };
    let sum = b.add(y, x)?;
    b.relu(sum)
}

/// A convolution without bias and its batch norm, whose scale is about `gain`.
fn conv(
    b: &mut GraphBuilder,
    parts: &mut Parts,
    x: Value,
    [out, from, kernel]: [usize; 3],
    stride: usize,
    gain: f32,
) -> Built<Value> {
    let deviation = (2.0 / (from * kernel * kernel) as f64).sqrt();
    let weight = parts.spread(b, &[out, from, kernel, kernel], deviation);
    let y = b.conv2d(x, weight, None, Geometry { stride, padding: kernel / 2, ..Geometry::default() })?;
    let scale = parts.weight(b, &[out], 0.5 * gain, 1.5 * gain);
    let (bias, mean) = (parts.spread(b, &[out], 0.1), parts.spread(b, &[out], 0.1));
    let var = parts.weight(b, &[out], 0.5, 1.5);
    b.batch_norm(y, scale, bias, mean, var, 1e-5)
}
