//! `reduce.wgsl` against plain folds.

use crate::{
    gpu::{Random, run, words},
    shader,
    templates::with_const,
};

/// Every invocation's result of two reductions made one right after the other.
fn reduce_twice(ty: &str, ops: [&str; 2], size: u32, values: &[u32]) -> [Vec<u32>; 2] {
    let source = format!(
        "{}
        @group(0) @binding(0) var<storage, read_write> values: array<u32>;
        @group(0) @binding(1) var<storage, read_write> results: array<u32>;
        @compute @workgroup_size(WG_SIZE) fn main(@builtin(local_invocation_index) at: u32) {{
            let value = bitcast<{ty}>(values[at]);
            let first = wg_reduce_{}_{ty}(value, at, 0u);
            let second = wg_reduce_{}_{ty}(value, at, 1u);
            results[at] = bitcast<u32>(first);
            results[WG_SIZE + at] = bitcast<u32>(second);
        }}",
        with_const(
            &with_const(&shader("reduce"), "WG_SIZE", &format!("{size}u")),
            "LEFT",
            &format!("{}u", size.min(16))
        ),
        ops[0],
        ops[1],
    );
    let out = run(&source, &[values.to_vec(), vec![0x7fc0_dead; 2 * size as usize]], [1, 1, 1]);
    let (first, second) = out[1].split_at(size as usize);
    [first.to_vec(), second.to_vec()]
}

#[test]
fn floats_reduce_and_nan_spreads() {
    let mut random = Random::new(21);
    for size in [1u32, 2, 32, 64, 256] {
        let mut values = random.floats(size as usize);
        values.iter_mut().for_each(|it| *it = (*it + it.signum()) * 0.7);
        for poisoned in [false, true] {
            if poisoned {
                values[size as usize / 2] = f32::NAN;
            }
            let bits = words(&values);
            let wide = values.iter().map(|&it| f64::from(it));
            let (sum, product) = (wide.clone().sum::<f64>(), wide.product::<f64>());
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let smallest = values.iter().copied().fold(f32::INFINITY, f32::min);
            let [sums, largests] = reduce_twice("f32", ["sum", "max"], size, &bits);
            let [products, smallests] = reduce_twice("f32", ["prod", "min"], size, &bits);
            for at in 0..size as usize {
                let got = [sums[at], largests[at], products[at], smallests[at]].map(f32::from_bits);
                if poisoned {
                    assert!(got.iter().all(|it| it.is_nan()), "{size}: {got:?}");
                    continue;
                }
                assert!((f64::from(got[0]) - sum).abs() < 1e-4, "{size}: sum {} not {sum}", got[0]);
                assert_eq!([got[1], got[3]], [largest, smallest], "{size}");
                assert!((f64::from(got[2]) / product - 1.0).abs() < 1e-4, "{size}: {} {product}", got[2]);
                assert_eq!([sums[at], products[at]], [sums[0], products[0]], "invocations differ");
            }
        }
    }
}

#[test]
fn integers_reduce_and_wrap() {
    let mut random = Random::new(22);
    for size in [1u32, 4, 128] {
        let values: Vec<u32> = (0..size).map(|_| random.word() | 1).collect();
        let signed = || values.iter().map(|&it| it as i32);
        for (ty, largest, smallest) in [
            ("i32", signed().max().map(|it| it as u32), signed().min().map(|it| it as u32)),
            ("u32", values.iter().copied().max(), values.iter().copied().min()),
        ] {
            let [sums, largests] = reduce_twice(ty, ["sum", "max"], size, &values);
            let [products, smallests] = reduce_twice(ty, ["prod", "min"], size, &values);
            let sum = values.iter().fold(0u32, |a, &b| a.wrapping_add(b));
            let product = values.iter().fold(1u32, |a, &b| a.wrapping_mul(b));
            assert_eq!(sums, vec![sum; size as usize], "{ty} {size}");
            assert_eq!(products, vec![product; size as usize], "{ty} {size}");
            assert_eq!(largests, vec![largest.expect("not empty"); size as usize], "{ty} {size}");
            assert_eq!(smallests, vec![smallest.expect("not empty"); size as usize], "{ty} {size}");
        }
    }
}
