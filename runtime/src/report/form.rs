//! How a kernel runs, in words.

use wgfuse_compiler::{
    schedule::{
        self, AttentionTile, Skeleton, Team, Tile,
        attention_coop::{Why as NotOnMatrices, why_not},
        cooperative,
        product::why_not_on_matrices,
    },
    target::{Place, Target},
};

/// How a kernel runs, in a few words; of attention and products also why they are not on cooperative matrices, where the target has
/// such.
pub(super) fn form(kernel: &schedule::Kernel, target: &Target) -> String {
    match &kernel.skeleton {
        Skeleton::Map { space, .. } => format!("each of {space}"),
        Skeleton::Rows { outer, inner, form, .. } => match form.team {
            Team::Invocation { .. } => format!("rows {outer} of {inner}, one an invocation"),
            Team::Subgroup { .. } => format!("rows {outer} of {inner}, one a subgroup"),
            Team::Workgroup { .. } => format!("rows {outer} of {inner}, one a workgroup"),
        },
        Skeleton::Contract { space, depth, tile, .. } => match tile {
            Tile::Cooperative { parts, rows, cols, depth: step, .. } => {
                let pairs = if *parts == 2 { ", numbers as pairs of f16" } else { "" };
                format!(
                    "product {space} over {depth}, tiles of {rows}x{cols}x{step} on cooperative matrices{pairs}"
                )
            }
            Tile::Matmul { rows, cols, depth: step, .. } => {
                let why = why_not_on_matrices(kernel, target).filter(|_| kernel.place == Place::Gpu);
                let why = match why {
                    None | Some(cooperative::Why::Target) => String::new(),
                    Some(why) => format!(", not on cooperative matrices: {why}"),
                };
                format!("product {space} over {depth}, tiles of {rows}x{cols}x{step}{why}")
            }
            Tile::Few(few) => format!("product {space} over {depth}, {} columns a workgroup", few.across()),
            Tile::Direct { .. } => format!("product {space} over {depth}, one an invocation"),
        },
        Skeleton::Attention { space, keys, tile, .. } => {
            let on = match tile {
                AttentionTile::Plain(_) if kernel.place == Place::Cpu => String::new(),
                AttentionTile::Plain(_) => match why_not(kernel, target) {
                    None | Some(NotOnMatrices::Target) => String::new(),
                    Some(why) => format!(", not on cooperative matrices: {why}"),
                },
                AttentionTile::Row(tile) if tile.slices > 1 => format!(", {} workgroups a row", tile.slices),
                AttentionTile::Row(_) => ", a workgroup a row".to_owned(),
                AttentionTile::Cooperative(_) => " on cooperative matrices".to_owned(),
            };
            format!("attention {space} over {keys} keys, {} rows a workgroup{on}", tile.rows())
        }
    }
}

#[cfg(test)]
mod tests {
    use wgfuse_compiler::{
        dtype::DType, graph::builder::GraphBuilder, import::Model, options::Options, shape::Shape,
    };

    use super::*;
    use crate::report::report;

    #[test]
    fn attention_says_why_it_is_not_on_cooperative_matrices() {
        let with_matrices = Target {
            subgroup: Some((32, 32)),
            f16: true,
            cooperative: vec![[16, 16, 16]],
            max_workgroup_memory: 49_152,
            ..Target::webgpu_minimum()
        };
        let form = |dtype: DType, target: &Target| {
            let mut b = GraphBuilder::new();
            let [q, k, v] = ["q", "k", "v"].map(|it| b.input(it, dtype, [1, 2, 64, 32]).expect("an input"));
            let y = b.attention(q, k, v, None, false).expect("attention");
            b.output("y", y).expect("an output");
            let model = Model::from_graph(b.finish().expect("a graph"));
            let shapes = vec![Shape::new(&[1, 2, 64, 32]); 3];
            let (report, _) = report(&model, &shapes, target, &Options::default()).expect("a report");
            report.kernels[0].form.clone()
        };
        let text = form(DType::F32, &with_matrices);
        assert!(
            text.ends_with(", not on cooperative matrices: queries, keys and values are not all f16"),
            "{text}"
        );
        let text = form(DType::F16, &with_matrices);
        assert!(text.ends_with(" on cooperative matrices"), "{text}");
        let text = form(DType::F32, &Target::webgpu_minimum());
        assert!(!text.contains("cooperative"), "{text}");
    }

    #[test]
    fn products_say_why_they_are_not_on_cooperative_matrices() {
        let with_matrices = Target {
            subgroup: Some((32, 32)),
            f16: true,
            cooperative: vec![[16, 16, 16]],
            pairs: true,
            max_workgroup_memory: 49_152,
            max_workgroup_invocations: 1024,
            max_workgroup_size: [1024, 1024, 64],
            ..Target::webgpu_minimum()
        };
        let form = |dtype: DType, [rows, cols, depth]: [usize; 3], target: &Target| {
            let mut b = GraphBuilder::new();
            let x = b.input("x", dtype, [rows, depth]).expect("an input");
            let w = b.input("w", dtype, [depth, cols]).expect("an input");
            let y = b.matmul(x, w).expect("a product");
            b.output("y", y).expect("an output");
            let model = Model::from_graph(b.finish().expect("a graph"));
            let shapes = vec![Shape::new(&[rows, depth]), Shape::new(&[depth, cols])];
            let (report, _) = report(&model, &shapes, target, &Options::default()).expect("a report");
            report.kernels[0].form.clone()
        };
        let not = |why: cooperative::Why| format!(", not on cooperative matrices: {why}");
        for (dtype, sizes, end) in [
            (DType::F32, [64, 256, 256], not(cooperative::Why::Few)),
            (DType::F32, [2048, 2048, 16], not(cooperative::Why::Size)),
            (DType::F16, [1024, 1024, 1024], " on cooperative matrices".to_owned()),
            (DType::F32, [1024, 1024, 1024], " on cooperative matrices, numbers as pairs of f16".to_owned()),
        ] {
            let text = form(dtype, sizes, &with_matrices);
            assert!(text.ends_with(&end), "{text}");
        }
        // In pieces, which are none of pairs.
        let text = form(DType::F32, [128, 2304, 768], &with_matrices);
        assert!(text.starts_with("product [3,") && !text.contains("cooperative"), "{text}");
        let text = form(DType::F32, [1024, 1024, 1024], &Target { pairs: false, ..with_matrices });
        assert!(text.ends_with(&not(cooperative::Why::Operands)), "{text}");
        let text = form(DType::F32, [64, 256, 256], &Target::webgpu_minimum());
        assert!(!text.contains("cooperative"), "{text}");
    }
}
