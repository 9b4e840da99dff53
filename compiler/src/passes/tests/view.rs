//! Views and gathers.

use super::*;

pub const CASES: &[Case] = &[
    (
        "view-nothing",
        |b| {
            let x = x(b, [3, 2]);
            let y = b.reshape(x, &[3, 2])?;
            let y = b.permute(y, &[0, 1])?;
            let y = b.expand(y, [3, 2])?;
            b.slice(y, 1, 0, 2)
        },
        "",
    ),
    (
        "view-view",
        |b| {
            let x = x(b, [6, 4]);
            let y = b.slice(x, 0, 1, 6)?;
            let y = b.slice(y, 0, 1, 4)?;
            let y = b.permute(y, &[1, 0])?;
            b.permute(y, &[1, 0])
        },
        "slice",
    ),
    (
        "view-view",
        |b| {
            let x = x(b, [9]);
            let steps = |starts: usize, size: usize, step: i64, x| Op::Slice {
                starts: smallvec::smallvec![starts],
                sizes: [size].into(),
                steps: smallvec::smallvec![step],
                x,
            };
            let y = b.op(steps(8, 5, -2, x))?;
            b.op(steps(1, 2, 2, y))
        },
        "slice",
    ),
    (
        "expand-units",
        |b| {
            let x = x(b, [3]);
            let y = b.expand(x, [1, 3])?;
            b.exp(y)
        },
        "reshape exp",
    ),
    (
        "permute-units",
        |b| {
            let x = x(b, [1, 3, 2]);
            b.permute(x, &[1, 0, 2])
        },
        "reshape",
    ),
    (
        "reshape-permute",
        |b| {
            let x = x(b, [6, 4, 5]);
            let y = b.permute(x, &[0, 2, 1])?;
            let y = b.reshape(y, &[2, 3, 5, 4])?;
            b.permute(y, &[0, 1, 3, 2])
        },
        "reshape",
    ),
    (
        "view-uniform",
        |b| {
            let x = x(b, []);
            let y = b.expand(x, [2, 3])?;
            let y = b.permute(y, &[1, 0])?;
            b.reshape(y, &[6])
        },
        "expand",
    ),
    (
        "pad-nothing",
        |b| {
            let x = x(b, [2, 3]);
            b.pad(x, &[(0, 0), (0, 0)], 0.0)
        },
        "",
    ),
    (
        "expand-operand",
        |b| {
            let (x, z) = (x(b, [1, 3]), b.input("z", F, [2, 3])?);
            let y = b.expand(x, [2, 3])?;
            let y = b.add(y, z)?;
            let y = b.expand(y, [4, 2, 3])?;
            b.exp(y)
        },
        "add exp expand",
    ),
    (
        "expand-operand",
        |b| {
            let (x, z) = (x(b, [3, 4]), b.input("z", F, [2, 4, 5])?);
            let y = b.expand(x, [2, 3, 4])?;
            b.matmul(y, z)
        },
        "matmul",
    ),
    (
        "gather-range",
        |b| {
            let x = x(b, [5, 7]);
            let indices = b.constant(Tensor::i64([2], &[5, 3]).unwrap());
            let y = b.gather(x, 1, indices)?;
            let last = b.constant(Tensor::i64([], &[-1]).unwrap());
            b.gather(y, 0, last)
        },
        "slice reshape",
    ),
    (
        "gather-cast",
        |b| {
            let table = b.constant(Random(1).tensor(DType::F16, [600, 40]));
            let table = b.cast(table, F)?;
            let rows = b.input("rows", DType::I64, [3])?;
            b.gather(table, 0, rows)
        },
        "gather cast",
    ),
    (
        "gather-nd-grid",
        |b| {
            // As models read the mask of row i at key l: [b, 1, 1, s, 2].
            let x = x(b, [2, 5]);
            let places: Vec<i64> = (0..2).flat_map(|i| (0..5).flat_map(move |l| [i, l])).collect();
            let indices = b.constant(Tensor::i64([2, 1, 1, 5, 2], &places).unwrap());
            b.op(Op::GatherNd { batch: 0, x, indices })
        },
        "reshape",
    ),
    (
        "gather-nd-grid",
        |b| {
            // Transposed, backwards, repeated, and one coordinate fixed.
            let x = x(b, [4, 3, 2, 6]);
            let places: Vec<i64> = (0..3)
                .flat_map(|i| (0..2).flat_map(move |_| (0..2).flat_map(move |k| [3 - 2 * k, i, -1])))
                .collect();
            let indices = b.constant(Tensor::i64([3, 2, 2, 3], &places).unwrap());
            b.op(Op::GatherNd { batch: 0, x, indices })
        },
        "slice permute reshape expand",
    ),
];
