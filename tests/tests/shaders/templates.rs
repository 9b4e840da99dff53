//! The templates, their holes filled from buffers, against loops in f64. The filled holes count calls out of range, and
//! how often each result is stored.

use crate::{
    gpu::{Random, floats, run, words},
    loaded,
};

/// The line `const name: .. = ..;` with another value.
pub fn with_const(source: &str, name: &str, value: &str) -> String {
    let start = source.find(&format!("\nconst {name}:")).unwrap_or_else(|| panic!("no constant {name}"));
    let equals = start + source[start..].find('=').expect("a value");
    let end = equals + source[equals..].find(';').expect("an end");
    format!("{}= {value}{}", &source[..equals], &source[end..])
}

/// The function `name` with another body.
fn with_hole(source: &str, name: &str, body: &str) -> String {
    let start = source.find(&format!("\nfn {name}(")).unwrap_or_else(|| panic!("no hole {name}"));
    let open = start + source[start..].find('{').expect("a body");
    let close = open + source[open..].find("\n}").expect("an end");
    format!("{}{{ {body} {}", &source[..open], &source[close..])
}

fn filled(template: &str, consts: &[(&str, String)], holes: &[(&str, String)], bindings: &[&str]) -> String {
    let source = consts.iter().fold(loaded(template), |it, (name, value)| with_const(&it, name, value));
    let mut source = holes.iter().fold(source, |it, (name, body)| with_hole(&it, name, body));
    for (at, name) in bindings.iter().enumerate() {
        let line = format!("\n@group(0) @binding({at}) var<storage, read_write> {name}: array<f32>;");
        source.push_str(&line);
    }
    source + "\n@group(0) @binding(9) var<storage, read_write> counts: array<atomic<u32>>;\n"
}

/// Runs with the results poisoned, checks the counts, and returns the results. Groups are folded, with some to spare.
fn results(label: &str, source: &str, inputs: &[&[f32]], len: usize, groups: u32) -> Vec<f32> {
    // Binding 9 follows the others.
    let source = source.replace("@binding(9)", &format!("@binding({})", inputs.len() + 1));
    let mut buffers: Vec<Vec<u32>> = inputs.iter().map(|it| words(it)).collect();
    buffers.push(vec![0x7fc0_dead; len]);
    buffers.push(vec![0; len + 1]);
    let x = groups.min(7);
    let y = groups.div_ceil(x).min(3);
    let out = run(&source, &buffers, [x, y, groups.div_ceil(x * y)]);
    let counts = &out[inputs.len() + 1];
    assert_eq!(counts[len], 0, "{label}: holes called out of range");
    assert!(counts[..len].iter().all(|&it| it == 1), "{label}: each result must be stored once");
    floats(&out[inputs.len()])
}

#[derive(Clone, Copy, Debug)]
struct Product {
    batches: u32,
    rows: u32,
    cols: u32,
    depth: u32,
    /// a is stored [batch, k, row].
    a_by_rows: bool,
    /// b is stored [batch, col, k].
    b_by_depth: bool,
    /// Of `matmul` the form that writes no components of vectors.
    by_scalars: bool,
}

fn check_product(template: &str, product: Product, consts: &[(&str, String)], groups: u32, seed: u64) {
    let Product { batches, rows, cols, depth, a_by_rows, b_by_depth, by_scalars } = product;
    let label = format!("{template} {product:?} {consts:?} seed {seed}");
    let mut random = Random::new(seed);
    let a = random.floats((batches * rows * depth) as usize);
    let b = random.floats((batches * depth * cols) as usize);
    let a_at = |n: u32, i: u32, k: u32| match a_by_rows {
        true => (n * depth + k) * rows + i,
        false => (n * rows + i) * depth + k,
    };
    let b_at = |n: u32, k: u32, j: u32| match b_by_depth {
        true => (n * cols + j) * depth + k,
        false => (n * depth + k) * cols + j,
    };
    let len = batches * rows * cols;
    let guard =
        |bad: &str, result: &str| format!("if {bad} {{ atomicAdd(&counts[{len}u], 1u); return {result}; }}");
    let a_bad = format!("batch >= {batches}u || row >= {rows}u || k >= {depth}u");
    let b_bad = format!("batch >= {batches}u || col >= {cols}u || k >= {depth}u");
    let bad = format!("batch >= {batches}u || row >= {rows}u || col >= {cols}u");
    let a_index = match a_by_rows {
        true => format!("(batch * {depth}u + k) * {rows}u + row"),
        false => format!("(batch * {rows}u + row) * {depth}u + k"),
    };
    let b_index = match b_by_depth {
        true => format!("(batch * {cols}u + col) * {depth}u + k"),
        false => format!("(batch * {depth}u + k) * {cols}u + col"),
    };
    let put = format!(
        "let at = (batch * {rows}u + row) * {cols}u + col; results[at] = value; atomicAdd(&counts[at], 1u);"
    );
    let [load_a, load_b, store] = match template {
        "matmul" => {
            // What is out of range gives 0 along the depth, and something large elsewhere, which no result may show.
            let four = |bad: &str, axis: &str, count: u32, value: &str| {
                let other = if axis == "k" { "0.0" } else { "1e30" };
                format!(
                    "let k = slab * TILE_DEPTH + within; {} var four: vec4<f32>; for (var e = 0u; e < 4u; e += 1u) {{ \
                     if {axis} + e >= {count}u {{ four[e] = {other}; }} else {{ four[e] = {}; }} }} return four;",
                    guard(&format!("{bad} || within >= TILE_DEPTH || {axis} % 4u != 0u"), "vec4<f32>()"),
                    value.replace(axis, &format!("({axis} + e)"))
                )
            };
            let (a_value, b_value) = (format!("a_values[{a_index}]"), format!("b_values[{b_index}]"));
            [
                match a_by_rows {
                    true => four(&a_bad, "row", rows, &a_value),
                    false => four(&a_bad, "k", depth, &a_value),
                },
                match b_by_depth {
                    true => four(&b_bad, "k", depth, &b_value),
                    false => four(&b_bad, "col", cols, &b_value),
                },
                format!(
                    "{} for (var e = 0u; e < 4u; e += 1u) {{ if col + e < {cols}u {{ let value = values[e]; {} }} }}",
                    guard(&format!("{bad} || col % 4u != 0u"), ""),
                    put.replace("+ col;", "+ col + e;")
                ),
            ]
        }
        _ => [
            format!("{} return a_values[{a_index}];", guard(&a_bad, "0.0")),
            format!("{} return b_values[{b_index}];", guard(&b_bad, "0.0")),
            format!("{} {put}", guard(&bad, "")),
        ],
    };
    let holes = [
        ("batches", format!("return {batches}u;")),
        ("rows", format!("return {rows}u;")),
        ("cols", format!("return {cols}u;")),
        ("depth", format!("return {depth}u;")),
        ("load_a", load_a),
        ("load_b", load_b),
        ("store", store),
    ];
    let scalars = [
        ("get_four", "return get_scalars(four);".to_owned()),
        ("set_four", "set_scalars(four, values);".to_owned()),
        ("put_four", "put_scalars(first, stride, at, along_depth, values);".to_owned()),
    ];
    let holes: Vec<_> = holes.into_iter().chain(scalars.into_iter().filter(|_| by_scalars)).collect();
    let source = filled(template, consts, &holes, &["a_values", "b_values", "results"]);
    let got = results(&label, &source, &[&a, &b], len as usize, groups);
    for n in 0..batches {
        for i in 0..rows {
            for j in 0..cols {
                let terms = (0..depth)
                    .map(|k| f64::from(a[a_at(n, i, k) as usize]) * f64::from(b[b_at(n, k, j) as usize]));
                let (want, size) = terms.fold((0.0, 0.0), |(sum, size), it| (sum + it, size + it.abs()));
                let got = f64::from(got[((n * rows + i) * cols + j) as usize]);
                // NaN must fail.
                let near = (got - want).abs() <= 1e-6 * (size + 1e-3);
                assert!(near, "{label}: [{n}, {i}, {j}] is {got}, not {want}");
            }
        }
    }
}

#[test]
fn matmul_tiles() {
    // rows, cols, depth, rows each, cols each, split, buffers, rows and columns of a block
    let tiles = [
        [64, 64, 8, 4, 4, 1, 2, 1, 16],
        [32, 32, 8, 4, 4, 4, 1, 4, 8],
        [16, 32, 8, 4, 4, 4, 2, 4, 8],
        [32, 64, 8, 8, 4, 2, 2, 4, 8],
        [64, 64, 8, 8, 8, 2, 1, 8, 4],
        [128, 64, 16, 16, 8, 1, 1, 4, 8],
        [128, 128, 8, 8, 8, 1, 1, 4, 8],
        [16, 64, 4, 4, 8, 1, 1, 2, 2],
        [16, 16, 16, 4, 4, 4, 1, 1, 4],
        [8, 24, 12, 4, 8, 3, 2, 2, 1],
    ];
    let mut random = Random::new(31);
    for (case, tile) in tiles.iter().cycle().take(4 * tiles.len()).enumerate() {
        let [rows, cols, depth, ..] = *tile;
        let round = case / tiles.len();
        let (a_by_rows, b_by_depth) = (round & 1 == 1, round & 2 == 2);
        // The first round has the one-element product and whole tiles; then sizes fall as they may.
        let sizes = match case {
            0 => [1, 1, 1],
            1 | 2 => [rows * 2, cols * 2, depth * 8],
            _ => [
                random.between(1, 2 * rows + 3),
                random.between(1, 2 * cols + 3),
                random.between(1, 9 * depth),
            ],
        };
        let product = Product {
            batches: random.between(1, 3),
            rows: sizes[0],
            cols: sizes[1],
            depth: sizes[2],
            a_by_rows,
            b_by_depth,
            by_scalars: (case + round) % 2 == 1,
        };
        let names = [
            "TILE_ROWS",
            "TILE_COLS",
            "TILE_DEPTH",
            "ROWS_EACH",
            "COLS_EACH",
            "SPLIT",
            "BUFFERS",
            "BLOCK_ROWS",
            "BLOCK_COLS",
        ];
        let mut consts: Vec<(&str, String)> =
            names.into_iter().zip(tile).map(|(name, it)| (name, format!("{it}u"))).collect();
        consts.push(("A_ALONG_ROWS", a_by_rows.to_string()));
        consts.push(("B_ALONG_COLS", (!b_by_depth).to_string()));
        consts.push(("DEPTH_WHOLE", product.depth.is_multiple_of(depth * tile[5]).to_string()));
        let groups = product.batches * product.rows.div_ceil(rows) * product.cols.div_ceil(cols);
        check_product("matmul", product, &consts, groups, 1000 + case as u64);
    }
}

#[test]
fn small_sums() {
    let mut random = Random::new(33);
    for case in 0..12 {
        let product = Product {
            batches: random.between(1, 9),
            rows: random.between(1, 70),
            cols: if case % 3 == 0 { 1 } else { random.between(1, 9) },
            depth: random.between(1, 30),
            a_by_rows: case % 2 == 0,
            b_by_depth: case % 4 < 2,
            by_scalars: false,
        };
        let size = [32, 64, 256][case % 3];
        let consts = [("SIZE", format!("{size}u")), ("ALONG_ROWS", (case % 2 == 0).to_string())];
        let groups = (product.batches * product.rows * product.cols).div_ceil(size);
        check_product("conv", product, &consts, groups, 3000 + case as u64);
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mask {
    None,
    /// -inf above the diagonal, and everywhere in every fifth row.
    Infinite,
    /// -3.4e38 in place of -inf.
    Large,
    /// Scores spread over some hundreds.
    Steep,
    /// -inf in most places, with NaN, inf and -inf among the scores of some rows.
    Special,
}

#[derive(Clone, Copy, Debug)]
struct Heads {
    /// batches, heads, queries, keys, channels, value channels
    sizes: [u32; 6],
    /// Neighbouring heads that have the same keys and values.
    share: u32,
    mask: Mask,
    zero_masked: bool,
}

fn mask_of(kind: Mask, i: u32, j: u32, random: &mut Random) -> f32 {
    let hidden = j > i || i % 5 == 4;
    match kind {
        Mask::None => 0.0,
        Mask::Infinite if hidden => f32::NEG_INFINITY,
        Mask::Large if hidden => -3.4e38,
        Mask::Infinite | Mask::Large => random.float(),
        Mask::Steep => 300.0 * random.float(),
        Mask::Special => match (i % 7, j) {
            (0, 3) => f32::NAN,
            (1, 2) => f32::INFINITY,
            (2, 40..) => 2.0,
            (2, _) => f32::NEG_INFINITY,
            (3, 0) => 0.5,
            (3, _) => f32::NEG_INFINITY,
            _ => random.float(),
        },
    }
}

/// softmax(q k^T scale + mask) v of one row, in f64.
fn attention_row(scores: &[f64], zero_masked: bool, value: impl Fn(usize) -> f64) -> f64 {
    if zero_masked && scores.iter().all(|&it| it == f64::NEG_INFINITY) {
        return 0.0;
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|it| (it - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().enumerate().map(|(j, it)| it / total * value(j)).sum()
}

fn check_attention(heads: Heads, consts: &[(&str, String)], rows: u32, seed: u64) {
    let Heads { sizes: [nb, nh, ni, nj, nd, ne], share, mask, zero_masked } = heads;
    let label = format!("attention {heads:?} {consts:?} seed {seed}");
    let mut random = Random::new(seed);
    let planes = nb * nh;
    let q = random.floats((planes * ni * nd) as usize);
    // Of every `share` heads the first has keys and values.
    let k = random.floats((planes / share * nj * nd) as usize);
    let v = random.floats((planes / share * nj * ne) as usize);
    let masks: Vec<f32> = (0..ni)
        .flat_map(|i| (0..nj).map(move |j| (i, j)))
        .map(|(i, j)| mask_of(mask, i, j, &mut random))
        .collect();
    let scale = 1.7f32;
    let len = planes * ni * ne;
    let load = |array: &str, count: u32, index: &str, width: u32, channel: &str, share: u32| {
        let own = nh / share;
        format!(
            "if b >= {nb}u || h >= {nh}u || h % {share}u != 0u || {index} >= {count}u || {channel} >= {width}u \
                || {channel} % 4u != 0u {{ atomicAdd(&counts[{len}u], 1u); return vec4<f32>(); }} \
             var four: vec4<f32>; for (var n = 0u; n < 4u; n += 1u) {{ if {channel} + n < {width}u {{ \
                four[n] = {array}[((b * {own}u + h / {share}u) * {count}u + {index}) * {width}u + {channel} + n]; }} }} \
             return four;"
        )
    };
    let holes = [
        ("batches", format!("return {nb}u;")),
        ("heads", format!("return {nh}u;")),
        ("queries", format!("return {ni}u;")),
        ("keys", format!("return {nj}u;")),
        ("scale", format!("return {scale:?};")),
        ("zero_masked", format!("return {zero_masked};")),
        // Keys after the query are hidden where the mask says so.
        (
            "seen",
            if mask == Mask::Infinite {
                format!("return min(i + 1u, {nj}u);")
            } else {
                format!("return {nj}u;")
            },
        ),
        ("load_q", load("q_values", ni, "i", nd, "d", 1)),
        ("load_k", load("k_values", nj, "j", nd, "d", share)),
        ("load_v", load("v_values", nj, "j", ne, "e", share)),
        (
            "load_mask",
            format!(
                "if i >= {ni}u || j >= {nj}u {{ atomicAdd(&counts[{len}u], 1u); return 0.0; }} \
                 return masks[i * {nj}u + j];"
            ),
        ),
        (
            "store",
            format!(
                "if b >= {nb}u || h >= {nh}u || i >= {ni}u || e >= {ne}u || e % 4u != 0u {{ \
                    atomicAdd(&counts[{len}u], 1u); return; }} \
                 for (var n = 0u; n < min({ne}u - e, 4u); n += 1u) {{ \
                    let at = ((b * {nh}u + h) * {ni}u + i) * {ne}u + e + n; results[at] = values[n]; \
                    atomicAdd(&counts[at], 1u); }}"
            ),
        ),
    ];
    let bindings = ["q_values", "k_values", "v_values", "masks", "results"];
    let mut consts = consts.to_vec();
    consts.extend([("CHANNELS", format!("{nd}u")), ("VALUE_CHANNELS", format!("{ne}u"))]);
    let source = filled("attention", &consts, &holes, &bindings);
    let groups = planes / share * (ni * share).div_ceil(rows);
    let got = results(&label, &source, &[&q, &k, &v, &masks], len as usize, groups);
    for plane in 0..planes {
        for i in 0..ni {
            let scores: Vec<f64> = (0..nj)
                .map(|j| {
                    let dot: f64 = (0..nd)
                        .map(|d| {
                            f64::from(q[((plane * ni + i) * nd + d) as usize])
                                * f64::from(k[((plane / share * nj + j) * nd + d) as usize])
                        })
                        .sum();
                    // Rounded, because where the mask is -3.4e38 the rest of the score is lost in f32.
                    f64::from((dot * f64::from(scale) + f64::from(masks[(i * nj + j) as usize])) as f32)
                })
                .collect();
            for e in 0..ne {
                let want = attention_row(&scores, zero_masked, |j| {
                    f64::from(v[((plane / share * nj + j as u32) * ne + e) as usize])
                });
                let got = f64::from(got[((plane * ni + i) * ne + e) as usize]);
                let tolerance = if mask == Mask::Steep { 2e-4 } else { 1e-5 };
                let same = (got.is_nan() && want.is_nan()) || (got - want).abs() <= tolerance;
                assert!(same, "{label}: [{plane}, {i}, {e}] is {got}, not {want}");
            }
        }
    }
}

#[test]
fn attention_rows() {
    // size, rows, across
    let tiles = [[128, 16, 32], [64, 4, 16], [64, 32, 8], [32, 8, 4], [16, 8, 16], [128, 64, 8]];
    let masks = [Mask::None, Mask::Infinite, Mask::Large, Mask::Steep, Mask::Special];
    let mut random = Random::new(34);
    for case in 0..30 {
        let [size, rows, across] = tiles[case % tiles.len()];
        let share = random.between(1, 3);
        let heads = Heads {
            sizes: [
                random.between(1, 2),
                share * random.between(1, 2),
                random.between(1, 20),
                random.between(1, 90),
                random.between(1, 40),
                random.between(1, 40),
            ],
            share,
            mask: masks[case % masks.len()],
            zero_masked: case % 2 == 0,
        };
        let values_across = heads.sizes[5].div_ceil(4).next_power_of_two().min(across);
        let parts = if case % 3 == 0 { 1 } else { across / values_across };
        let hold = [(case % 4 != 1) as u32, (case % 4 != 3) as u32];
        let consts = [
            ("SIZE", size),
            ("ROWS", rows),
            ("ACROSS", across),
            ("HEADS", share),
            ("PARTS", parts),
            ("HOLD_KEYS", hold[0]),
            ("HOLD_VALUES", hold[1]),
        ]
        .map(|(n, it)| (n, format!("{it}u")));
        check_attention(heads, &consts, rows, 4000 + case as u64);
    }
}
