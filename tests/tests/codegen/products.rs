//! Products and convolutions: every template that each adapter can run.

use wgfuse_compiler::{
    dtype::DType,
    lower::Expr,
    scalar::{BinaryOp, UnaryOp},
    schedule::{Few, Skeleton, Tile},
    target::Target,
};
use wgfuse_tests::kernel_case::Case;

use crate::{inside, var, vars};

const fn matmul(tile: [u32; 3], each: [u32; 2], split: u32, buffers: u32, along: [bool; 2]) -> Tile {
    let ([rows, cols, depth], [rows_each, cols_each]) = (tile, each);
    let [a_along_rows, b_along_cols] = along;
    let block_cols = cols / cols_each / 2;
    Tile::Matmul {
        rows,
        cols,
        depth,
        rows_each,
        cols_each,
        block_rows: 2,
        block_cols,
        a_along_rows,
        b_along_cols,
        split,
        buffers,
        scalars: false,
    }
}

/// The tile for targets that may not write components of vectors.
const fn by_scalars(mut tile: Tile) -> Tile {
    if let Tile::Matmul { scalars, .. } = &mut tile {
        *scalars = true;
    }
    tile
}

/// The least that `tile` needs of a target.
fn target(tile: Tile) -> Target {
    let components_apart = matches!(tile, Tile::Matmul { scalars: false, .. });
    Target { components_apart, ..Target::webgpu_minimum() }
}

/// The depth shared by `deep` of `size` invocations, element by element.
const fn few(size: u32, deep: u32, along_cols: bool, ahead: u32, held: u32) -> Tile {
    Tile::Few(Few {
        size,
        deep,
        depth: 1,
        cols: 1,
        along_cols,
        ahead,
        early: true,
        subgroup: None,
        held,
        stored: 1,
    })
}

const TILES: [Tile; 12] = [
    matmul([64, 64, 16], [4, 4], 1, 1, [false, true]),
    matmul([64, 64, 8], [8, 8], 2, 1, [false, false]),
    matmul([32, 32, 8], [4, 4], 4, 1, [true, false]),
    matmul([16, 32, 8], [4, 4], 2, 2, [true, true]),
    matmul([128, 64, 4], [8, 8], 1, 2, [false, false]),
    by_scalars(matmul([64, 64, 8], [8, 8], 2, 1, [false, false])),
    by_scalars(matmul([16, 32, 8], [4, 4], 2, 2, [true, true])),
    by_scalars(matmul([64, 64, 16], [4, 4], 1, 1, [false, true])),
    few(64, 8, true, 2, 3),
    few(128, 4, false, 3, 1),
    few(32, 32, false, 2, 8),
    Tile::Direct { workgroup: 64 },
];

#[test]
fn products_with_prologue_and_epilogue() {
    for tile in TILES {
        let sizes =
            [(1, 1, 1, 1), (2, 3, 70, 33), (1, 1, 200, 130), (3, 65, 5, 7), (1, 20, 36, 40), (2, 6, 8, 20)];
        for (batch, rows, cols, depth) in sizes {
            // All rows are written out.
            if matches!(tile, Tile::Few(_)) && batch * rows > 8 {
                continue;
            }
            let mut case = Case::new(21);
            case.target = target(tile);
            let (x, w) =
                (case.input(DType::F32, [batch, rows, depth]), case.input(DType::F32, [cols, depth]));
            let (bias, rest) = (case.input(DType::F32, [cols]), case.input(DType::F32, [batch, rows, cols]));
            let (b, i, j, k) = (var(0, batch), var(1, rows), var(2, cols), var(3, depth));
            let a = case.load(x, [b.clone(), i.clone(), k.clone()]);
            let a = case.body.unary(UnaryOp::Relu, a);
            let weight = case.load(w, [j.clone(), k]);
            let sum = case.param(0);
            let shift = case.load(bias, [j.clone()]);
            let moved = case.body.binary(BinaryOp::Add, sum, shift);
            let other = case.load(rest, [b.clone(), i.clone(), j.clone()]);
            let value = case.body.binary(BinaryOp::Add, moved, other);
            let value = case.body.unary(UnaryOp::Gelu, value);
            case.store([batch, rows, cols], [b.clone(), i.clone(), j.clone()], value);
            case.store([cols, batch, rows], [j, b, i], moved);
            let skeleton = Skeleton::Contract {
                space: [batch, rows, cols].into(),
                depth: [depth].into(),
                batch: vars(&[]),
                rows: vars(&[0, 1]),
                cols: vars(&[2]),
                a,
                b: weight,
                others: vec![],
                sums: Vec::new(),
                tile,
            };
            case.check(skeleton, 1e-4);
        }
    }
}

#[test]
fn convolutions_are_products() {
    for tile in TILES {
        // Images 2, channels 3 to 5, 8x7 padded by 1, windows 3x3 with stride 2 down.
        let (images, inputs, outputs, height, width, down, across) = (2, 3, 5, 8, 7, 4, 7);
        let mut case = Case::new(22);
        case.target = target(tile);
        let x = case.input(DType::F32, [images, inputs, height, width]);
        let w = case.input(DType::F32, [outputs, inputs, 3, 3]);
        let (n, o, y, z) = (var(0, images), var(1, outputs), var(2, down), var(3, across));
        let (c, p, q) = (var(4, inputs), var(5, 3), var(6, 3));
        let (row, col) = (y.mul(2).add(&p).offset_by(-1), z.add(&q).offset_by(-1));
        let (in_row, in_col) = (inside(&mut case, &row, height), inside(&mut case, &col, width));
        let guard = case.body.binary(BinaryOp::And, in_row, in_col);
        let pixel = case.load_if(guard, x, [n.clone(), c.clone(), row, col]);
        let weight = case.load(w, [o.clone(), c, p, q]);
        let sum = case.param(0);
        let value = case.body.unary(UnaryOp::Relu, sum);
        case.store([images, outputs, down, across], [n, o, y, z], value);
        let skeleton = Skeleton::Contract {
            space: [images, outputs, down, across].into(),
            depth: [inputs, 3, 3].into(),
            batch: vars(&[0]),
            rows: vars(&[1]),
            cols: vars(&[2, 3]),
            a: weight,
            b: pixel,
            others: vec![],
            sums: Vec::new(),
            tile,
        };
        // The image is not used by the weights: it may be a column too.
        case.check(with_batch_in_cols(skeleton.clone()), 1e-4);
        case.check(skeleton, 1e-4);
    }
}

fn with_batch_in_cols(mut skeleton: Skeleton) -> Skeleton {
    if let Skeleton::Contract { batch, cols, .. } = &mut skeleton {
        *cols = batch.iter().chain(cols.iter()).copied().collect();
        batch.clear();
    }
    skeleton
}

#[test]
fn integer_products_wrap() {
    for dtype in [DType::I32, DType::U8, DType::I64] {
        let mut case = Case::new(23);
        let given: Vec<f64> = (0..40).map(|it| (it * 7 % 23) as f64).collect();
        let (x, w) = (case.given(dtype, [5, 8], &given), case.given(dtype, [8, 5], &given));
        let (a, b) = (case.load(x, [var(0, 5), var(2, 8)]), case.load(w, [var(2, 8), var(1, 5)]));
        let sum = case.body.add(Expr::Param(0), DType::I32);
        case.store([5, 5], [var(0, 5), var(1, 5)], sum);
        let skeleton = Skeleton::Contract {
            space: [5, 5].into(),
            depth: [8].into(),
            batch: vars(&[]),
            rows: vars(&[0]),
            cols: vars(&[1]),
            a,
            b,
            others: vec![],
            sums: Vec::new(),
            tile: Tile::Direct { workgroup: 64 },
        };
        if dtype != DType::U8 {
            case.check(skeleton, 0.0);
        }
    }
}

/// What lies in fours in memory is read and written in fours, through halves and fused operands too.
#[test]
fn products_move_fours() {
    for (dtype, unit) in [(DType::F32, "vec4<f32>"), (DType::F16, "vec2<u32>")] {
        for (along, transposed) in [([false, true], false), ([false, false], true), ([true, true], false)] {
            let (rows, cols, depth) = (24, 40, 36);
            let mut case = Case::new(24);
            let tile = matmul([16, 32, 8], [4, 4], 2, 2, along);
            case.target = target(tile);
            let left = if along[0] { [depth, rows] } else { [rows, depth] };
            let right = if transposed { [cols, depth] } else { [depth, cols] };
            let (x, w) = (case.input(dtype, left), case.input(dtype, right));
            let (rest, bias) = (case.input(dtype, [rows, cols]), case.input(DType::F32, [cols]));
            let (i, j, k) = (var(0, rows), var(1, cols), var(2, depth));
            let a = case.load(x, if along[0] { [k.clone(), i.clone()] } else { [i.clone(), k.clone()] });
            let b = case.load(w, if transposed { [j.clone(), k] } else { [k, j.clone()] });
            let (a, b) = (case.body.cast(DType::F32, a), case.body.cast(DType::F32, b));
            let sum = case.param(0);
            let (other, shift) = (case.load(rest, [i.clone(), j.clone()]), case.load(bias, [j.clone()]));
            let other = case.body.cast(DType::F32, other);
            let value = case.body.binary(BinaryOp::Add, sum, other);
            let value = case.body.binary(BinaryOp::Add, value, shift);
            let value = case.body.cast(dtype, value);
            case.store([rows, cols], [i, j], value);
            let skeleton = Skeleton::Contract {
                space: [rows, cols].into(),
                depth: [depth].into(),
                batch: vars(&[]),
                rows: vars(&[0]),
                cols: vars(&[1]),
                a,
                b,
                others: vec![],
                sums: Vec::new(),
                tile,
            };
            let text = case.check(skeleton, if dtype == DType::F16 { 1e-2 } else { 1e-4 }).wgsl();
            // Both operands, the fused one and the result; the fourth is the bias in f32.
            let bound: Vec<&str> = text.lines().filter(|it| it.contains("var<storage")).collect();
            let fours = bound.iter().filter(|it| it.contains(&format!("array<{unit}>"))).count();
            let bias = (dtype == DType::F16) as usize;
            assert_eq!((bound.len(), fours), (5, 5 - bias), "{text}");
        }
    }
}
