//! What kernels must give, in float64, at places that are picked at random; and how far from it they are.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rayon::prelude::*;

use crate::random::Values;

/// What one row becomes, given the inputs after the first.
pub type RowFn = fn(row: &[f64], others: &[Values]) -> Vec<f64>;

/// How outputs follow from inputs.
#[derive(Clone, Copy)]
pub enum Truth {
    /// Each row of the first input, of `width` elements, becomes a row of the output.
    Rows { width: usize, of: RowFn },
    /// The sum of the first input.
    Sum,
    /// a [rows, depth] times b: [depth, cols], or its transpose [cols, depth].
    Product { rows: usize, depth: usize, cols: usize, transposed: bool },
    /// q, k, v [heads, length, width].
    Attention { heads: usize, length: usize, width: usize, causal: bool },
}

/// Squared Frobenius norms: of the difference, and of what was wanted.
#[derive(Clone, Copy, Default)]
pub struct Distance {
    wrong: f64,
    all: f64,
}

impl Distance {
    fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Distance {
        let mut distance = Distance::default();
        for (have, want) in pairs {
            distance.wrong += (have - want) * (have - want);
            distance.all += want * want;
        }
        distance
    }

    fn and(self, other: Distance) -> Distance {
        Distance { wrong: self.wrong + other.wrong, all: self.all + other.all }
    }

    /// NaN where a value that was looked at is.
    fn relative(self) -> f64 {
        (self.wrong / self.all).sqrt()
    }
}

/// The relative Frobenius error of the end of `have`, as long as `want`. A value anywhere that is not a number makes it
/// NaN.
pub fn error_of_last(have: Values, want: Values) -> f64 {
    if !have.finite() {
        return f64::NAN;
    }
    let have = have.last(want.len());
    Distance::of((0..have.len()).map(|it| (have.at(it), want.at(it)))).relative()
}

/// Rows, or columns, that are looked at.
const ROWS: usize = 64;
const LINES: usize = 8;
const QUERIES: usize = 128;

/// The relative Frobenius error of `output` at the places that `seed` picks. A value anywhere that is not a number makes
/// it NaN.
pub fn error(truth: Truth, inputs: &[Values], output: Values, seed: u64) -> f64 {
    if !output.finite() {
        return f64::NAN;
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut pick = |count: usize, of: usize| -> Vec<usize> {
        match count < of {
            // The corners are where tiles end.
            true => [0, of - 1].into_iter().chain((2..count).map(|_| rng.random_range(0..of))).collect(),
            false => (0..of).collect(),
        }
    };
    let distances: Vec<Distance> = match truth {
        Truth::Rows { width, of } => (pick(ROWS, inputs[0].len() / width).into_par_iter())
            .map(|row| {
                let want = of(&inputs[0].range(row * width, width), &inputs[1..]);
                Distance::of(output.range(row * width, width).into_iter().zip(want))
            })
            .collect(),
        Truth::Sum => {
            let sum: f64 = (0..inputs[0].len()).into_par_iter().map(|it| inputs[0].at(it)).sum();
            vec![Distance::of([(output.at(0), sum)])]
        }
        Truth::Product { rows, depth, cols, transposed } => {
            let (a, b) = (inputs[0], inputs[1]);
            let b_at = |k: usize, col: usize| match transposed {
                true => b.at(col * depth + k),
                false => b.at(k * cols + col),
            };
            let (some_rows, some_cols) = (pick(LINES, rows), pick(LINES, cols));
            let along_rows = some_rows.into_par_iter().map(|row| {
                let left = a.range(row * depth, depth);
                let want: Vec<f64> = match transposed {
                    true => (0..cols)
                        .into_par_iter()
                        .map(|col| (0..depth).map(|k| left[k] * b_at(k, col)).sum())
                        .collect(),
                    // Row by row of `b`, as it lies in memory.
                    false => left.iter().enumerate().fold(vec![0.0; cols], |mut sums, (k, left)| {
                        sums.iter_mut().enumerate().for_each(|(col, it)| *it += left * b_at(k, col));
                        sums
                    }),
                };
                Distance::of(output.range(row * cols, cols).into_iter().zip(want))
            });
            let along_cols = some_cols.into_par_iter().map(|col| {
                let right: Vec<f64> = (0..depth).map(|k| b_at(k, col)).collect();
                Distance::of((0..rows).map(|row| {
                    let want: f64 = (0..depth).map(|k| a.at(row * depth + k) * right[k]).sum();
                    (output.at(row * cols + col), want)
                }))
            });
            along_rows.chain(along_cols).collect()
        }
        Truth::Attention { heads, length, width, causal } => {
            let [q, k, v] = [inputs[0], inputs[1], inputs[2]];
            let one = |query: usize| {
                let (head, row) = (query / length * length * width, query % length);
                let q = q.range(query * width, width);
                let seen = if causal { row + 1 } else { length };
                let score = |key: usize| {
                    let k = k.range(head + key * width, width);
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt()
                };
                let weights = softmax(&(0..seen).map(score).collect::<Vec<_>>());
                let want = (0..width)
                    .map(|at| (0..seen).map(|key| weights[key] * v.at(head + key * width + at)).sum());
                let have = output.range(query * width, width);
                Distance::of(have.into_iter().zip(want.collect::<Vec<f64>>()))
            };
            pick(QUERIES, heads * length).into_par_iter().map(one).collect()
        }
    };
    distances.into_iter().fold(Distance::default(), Distance::and).relative()
}

pub fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = row.iter().map(|it| (it - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|it| it / sum).collect()
}

/// The tanh form.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

#[cfg(test)]
mod tests {
    use wgfuse::{DType, Tensor};

    use super::*;
    use crate::random::uniform;

    /// A wrong value, an unwritten one and a transposed product are seen.
    #[test]
    fn faults_are_seen() {
        let (a, b) = (uniform(1, DType::F32, [3, 5], -1.0, 1.0), uniform(2, DType::F32, [5, 4], -1.0, 1.0));
        let (av, bv) = (a.to_f32().unwrap(), b.to_f32().unwrap());
        let mut c = vec![0f32; 12];
        for (at, it) in c.iter_mut().enumerate() {
            *it = (0..5).map(|k| av[at / 4 * 5 + k] * bv[k * 4 + at % 4]).sum();
        }
        let truth = Truth::Product { rows: 3, depth: 5, cols: 4, transposed: false };
        let error = |truth, c: &[f32]| {
            let c = Tensor::f32([3, 4], c).unwrap();
            super::error(truth, &[Values::of(&a), Values::of(&b)], Values::of(&c), 7)
        };
        assert!(error(truth, &c) < 1e-6);
        c[5] += 0.1;
        assert!(error(truth, &c) > 1e-3);
        c[5] = f32::NAN;
        assert!(error(truth, &c).is_nan());
        let turned = Truth::Product { rows: 3, depth: 5, cols: 4, transposed: true };
        c[5] = 0.0;
        assert!(error(turned, &c) > 1e-3);
    }

    #[test]
    fn attention_of_equal_keys_is_the_mean_of_what_is_seen() {
        let q = uniform(1, DType::F32, [1, 4, 2], -1.0, 1.0);
        let k = Tensor::f32([1, 4, 2], &[0.5; 8]).unwrap();
        let v = Tensor::f32([1, 4, 2], &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]).unwrap();
        let inputs = [&q, &k, &v].map(Values::of);
        for (causal, want) in [(true, [1.0, 1.5, 2.0, 2.5]), (false, [2.5; 4])] {
            let out: Vec<f32> = want.iter().flat_map(|&it| [it, 0.0]).collect();
            let out = Tensor::f32([1, 4, 2], &out).unwrap();
            let truth = Truth::Attention { heads: 1, length: 4, width: 2, causal };
            assert!(error(truth, &inputs, Values::of(&out), 3) < 1e-6);
        }
    }
}
