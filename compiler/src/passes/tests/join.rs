//! Splits, concatenations and stacks.

use super::*;

pub const CASES: &[Case] = &[
    (
        "slice-concat",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 4])?);
            let y = b.concat(&[x, z], 1)?;
            let a = b.slice(y, 1, 0, 3)?;
            let z = b.slice(y, 1, 4, 7)?;
            b.add(a, z)
        },
        "slice add",
    ),
    (
        "concat-nothing",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 0])?);
            b.concat(&[z, x], 1)
        },
        "",
    ),
    (
        "concat-concat",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 4])?);
            let y = b.concat(&[x, z], 1)?;
            let y = b.concat(&[z, y, x], 1)?;
            b.exp(y)
        },
        "concat exp",
    ),
    (
        "concat-slices",
        |b| {
            // All parts of a split, and a split of a part.
            let x = x(b, [2, 9]);
            let parts = b.split(x, 1, &[2, 4, 3])?;
            let inner = b.split(parts[1], -1, &[1, 3])?;
            b.concat(&[parts[0], inner[0], inner[1], parts[2]], 1)
        },
        "",
    ),
    (
        "concat-slices",
        |b| {
            // Some of them.
            let x = x(b, [9, 2]);
            let parts = b.split(x, 0, &[2, 3, 1, 3])?;
            let y = b.concat(&[parts[1], parts[2], parts[0]], 0)?;
            b.exp(y)
        },
        "slice slice concat exp",
    ),
    (
        "stack-unbind",
        |b| {
            let x = x(b, [3, 4, 5]);
            let mut rows = Vec::new();
            for row in b.split(x, 1, &[1; 4])? {
                let row = b.squeeze(row, 1)?;
                rows.push(b.unsqueeze(row, 2)?);
            }
            b.concat(&rows, 2)
        },
        "permute",
    ),
    (
        // Stacked where they were: nothing.
        "concat-slices",
        |b| {
            let x = x(b, [3, 4, 5]);
            let mut rows = Vec::new();
            for row in b.split(x, 1, &[1; 4])? {
                let row = b.squeeze(row, 1)?;
                rows.push(b.unsqueeze(row, 1)?);
            }
            b.concat(&rows, 1)
        },
        "",
    ),
    (
        // What was stacked is unbound.
        "slice-concat",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 3])?);
            let (p, q) = (b.unsqueeze(x, 1)?, b.unsqueeze(z, 1)?);
            let y = b.concat(&[p, q], 1)?;
            let parts = b.split(y, 1, &[1, 1])?;
            let (p, q) = (b.squeeze(parts[0], 1)?, b.squeeze(parts[1], 1)?);
            b.sub(q, p)
        },
        "sub",
    ),
    (
        "slice-parts",
        |b| {
            let (x, z) = (x(b, [2, 3]), b.input("z", F, [2, 4])?);
            let y = b.concat(&[x, z, x], 1)?;
            b.slice(y, 1, 1, 6)
        },
        "slice slice concat",
    ),
    (
        "concat-repeat",
        |b| {
            let x = x(b, [2, 1, 3]);
            let y = b.concat(&[x, x, x], 1)?;
            b.exp(y)
        },
        "exp expand",
    ),
];
