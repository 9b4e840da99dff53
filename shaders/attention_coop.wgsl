// Attention on cooperative matrices of f16 that add up in f32: as `attention.wgsl`, whose holes and dispatch these are, for
// queries, keys and values that f16 holds exactly. load_mask(b, h, i, j) gives four keys from j on, j a multiple of 4.
//
// A cooperative matrix cannot be looked into: scores, and the exponentials that are the first factor of the second product, go
// through workgroup memory, which a subgroup has of its own. What was summed of the results stays in registers. It belongs
// to an offset for each row, which the largest score may exceed by ROOM before everything is scaled down: exponentials
// of up to 2^ROOM are f16 with all their digits.
//
// All subgroups have SUBGROUP invocations. TEAMS of them have SUB_ROWS rows each; PARTS of them share the rows, and
// each takes every PARTS-th SUB_KEYS keys. Invocations: SIZE. Workgroup memory, in bytes: 8 (TILE + WEIGHTS)
// + 16 SCRATCH + 4 ROWS (2 PARTS + 1).
enable f16;
enable wgpu_cooperative_matrix;

const SUBGROUP: u32 = 32u;
const TEAMS: u32 = 2u;
const PARTS: u32 = 1u;
// 16 or 32; divides SUBGROUP.
const SUB_ROWS: u32 = 16u;
// KEYS, a multiple of SUB_KEYS, are held at once. SUB_KEYS is a multiple of 16 and of 4 SUBGROUP / SUB_ROWS.
const KEYS: u32 = 32u;
const SUB_KEYS: u32 = 32u;
const HEADS: u32 = 1u;
const CHANNELS: u32 = 64u;
const VALUE_CHANNELS: u32 = 64u;
const MASKED: bool = true;
// There is a whole number of SUB_KEYS.
const KEYS_WHOLE: bool = false;

const ROWS: u32 = TEAMS * SUB_ROWS;
const SUBGROUPS: u32 = TEAMS * PARTS;
const SIZE: u32 = SUBGROUPS * SUBGROUP;
const FOUR: u32 = 4u;
// Matrices of 16 x 16: of a subgroup's rows, of channels, of scores.
const DOWN: u32 = SUB_ROWS / 16u;
const DEEP: u32 = (CHANNELS + 15u) / 16u;
const WIDE: u32 = (VALUE_CHANNELS + 15u) / 16u;
const ACROSS: u32 = SUB_KEYS / 16u;
const QUERY_MATRICES: u32 = DOWN * DEEP;
const RESULT_MATRICES: u32 = DOWN * WIDE;
// In fours. The padding spreads a column of lines over the banks.
const KEY_LINE: u32 = 4u * DEEP;
const VALUE_LINE: u32 = 4u * WIDE;
const KEY_STRIDE: u32 = KEY_LINE + 2u;
const VALUE_STRIDE: u32 = VALUE_LINE + 2u;
const SCORE_LINE: u32 = SUB_KEYS / 4u;
const SCORE_STRIDE: u32 = SCORE_LINE + 1u;
const QUERY_FOURS: u32 = ROWS * KEY_LINE;
const KEY_FOURS: u32 = KEYS * KEY_LINE;
const VALUE_FOURS: u32 = KEYS * VALUE_LINE;
const QUERY_LOADS: u32 = (QUERY_FOURS + SIZE - 1u) / SIZE;
const KEY_LOADS: u32 = (KEY_FOURS + SIZE - 1u) / SIZE;
const VALUE_LOADS: u32 = (VALUE_FOURS + SIZE - 1u) / SIZE;
const FIRST_VALUE: u32 = KEYS * KEY_STRIDE;
const TILE: u32 = max(ROWS * KEY_STRIDE, FIRST_VALUE + KEYS * VALUE_STRIDE);
const OWN: u32 = SUB_ROWS * SCORE_STRIDE;
const WEIGHT_STRIDE: u32 = SCORE_LINE + 2u;
const OWN_WEIGHTS: u32 = SUB_ROWS * WEIGHT_STRIDE;
const WEIGHTS: u32 = SUBGROUPS * OWN_WEIGHTS;
const SCRATCH: u32 = SUBGROUPS * OWN;
// Invocations that share a row's scores, and the fours of each.
const SHARES: u32 = SUBGROUP / SUB_ROWS;
const SHARE: u32 = SCORE_LINE / SHARES;
// Of a row's 16 results.
const RESULT_SHARE: u32 = FOUR / SHARES;
const LOG2_E: f32 = 1.4426950408889634;
const ROOM: f32 = 8.0;

// The queries, then keys and values of one step after another.
var<workgroup> tile: array<vec4<f16>, TILE>;
// Of each subgroup: scores, or matrices of results; exponentials of scores.
var<workgroup> scratch: array<vec4<f32>, SCRATCH>;
var<workgroup> weights: array<vec4<f16>, WEIGHTS>;
// Of each part and row: the offset, then the weight of the part's results; the sum of exponentials.
var<workgroup> offsets: array<f32, PARTS * ROWS>;
var<workgroup> sums: array<f32, PARTS * ROWS>;
// Of each row.
var<workgroup> row_totals: array<f32, ROWS>;

fn batches() -> u32 {
    return 1u;
}

fn heads() -> u32 {
    return 1u;
}

fn queries() -> u32 {
    return 1u;
}

fn keys() -> u32 {
    return 1u;
}

fn scale() -> f32 {
    return 1.0;
}

fn zero_masked() -> bool {
    return false;
}

fn seen(i: u32) -> u32 {
    return 1u;
}

fn load_q(b: u32, h: u32, i: u32, d: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn load_k(b: u32, h: u32, j: u32, d: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn load_v(b: u32, h: u32, j: u32, e: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn load_mask(b: u32, h: u32, i: u32, j: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn store(b: u32, h: u32, i: u32, e: u32, values: vec4<f32>) {
}

fn store_log(b: u32, h: u32, i: u32, value: f32) {
}

fn is_lowest(x: f32) -> bool {
    return bitcast<u32>(x) == 0xff800000u;
}

// 2^(x - offset), where both may be -inf, which gives 0. NaN stays.
fn power(x: f32, offset: f32) -> f32 {
    return exp2(x - select(offset, 0.0, is_lowest(offset)));
}

fn query_four(b: u32, h: u32, i: u32, four: u32) -> vec4<f16> {
    if CHANNELS % 16u == 0u {
        return vec4<f16>(load_q(b, h, i, four * FOUR));
    }
    let values = vec4<f16>(load_q(b, h, i, min(four, (CHANNELS - 1u) / FOUR) * FOUR));
    return select(values, vec4<f16>(), four * FOUR >= CHANNELS);
}

fn key_four(b: u32, h: u32, j: u32, four: u32) -> vec4<f16> {
    if CHANNELS % 16u == 0u {
        return vec4<f16>(load_k(b, h, min(j, keys() - 1u), four * FOUR));
    }
    let values = vec4<f16>(load_k(b, h, min(j, keys() - 1u), min(four, (CHANNELS - 1u) / FOUR) * FOUR));
    return select(values, vec4<f16>(), four * FOUR >= CHANNELS);
}

// Of keys past the last 0, because what weighs nothing must not be NaN.
fn value_four(b: u32, h: u32, j: u32, four: u32) -> vec4<f16> {
    if VALUE_CHANNELS % 16u == 0u && KEYS_WHOLE {
        return vec4<f16>(load_v(b, h, min(j, keys() - 1u), four * FOUR));
    }
    let near = min(four, (VALUE_CHANNELS - 1u) / FOUR);
    let values = vec4<f16>(load_v(b, h, min(j, keys() - 1u), near * FOUR));
    return select(values, vec4<f16>(), four * FOUR >= VALUE_CHANNELS || j >= keys());
}

// What an invocation holds of the step that begins at key `first`.
fn load_step(
    b: u32,
    h: u32,
    first: u32,
    invocation: u32,
    keys: ptr<function, array<vec4<f16>, KEY_LOADS>>,
    values: ptr<function, array<vec4<f16>, VALUE_LOADS>>,
) {
    for (var n = 0u; n < KEY_LOADS; n += 1u) { // unrolled
        let at = min(invocation + n * SIZE, KEY_FOURS - 1u);
        (*keys)[n] = key_four(b, h, first + at / KEY_LINE, at % KEY_LINE);
    }
    for (var n = 0u; n < VALUE_LOADS; n += 1u) { // unrolled
        let at = min(invocation + n * SIZE, VALUE_FOURS - 1u);
        (*values)[n] = value_four(b, h, first + at / VALUE_LINE, at % VALUE_LINE);
    }
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let planes = heads() / HEADS;
    let rows = queries() * HEADS;
    let tiles = (rows + ROWS - 1u) / ROWS;
    let number = group.x + groups.x * (group.y + groups.y * group.z);
    if number >= batches() * planes * tiles {
        return;
    }
    let plane = number / tiles;
    let b = plane / planes;
    let first_head = (plane - b * planes) * HEADS;
    // Where later queries see more keys, the longest work starts first.
    let first_row = (tiles - 1u - (number - plane * tiles)) * ROWS;
    let end = min(seen(min(first_row + ROWS - 1u, rows - 1u) / HEADS), keys());
    let team = subgroup / PARTS;
    let part = subgroup % PARTS;
    let own = subgroup * OWN;
    let own_end = min(seen(min(first_row + team * SUB_ROWS + SUB_ROWS - 1u, rows - 1u) / HEADS), keys());
    // The row whose scores the invocation handles, and its fours of them.
    let own_row = team * SUB_ROWS + lane % SUB_ROWS;
    let share = lane / SUB_ROWS;
    let row = min(first_row + own_row, rows - 1u);
    let i = row / HEADS;
    let h = first_head + row - i * HEADS;

    // Variables, because a constant expression must not be infinite or NaN.
    var negative_infinity_bits = 0xff800000u;
    let negative_infinity = bitcast<f32>(negative_infinity_bits);
    var nan_bits = 0x7fc00000u;
    let empty_row = select(bitcast<f32>(nan_bits), 0.0, zero_masked());

    for (var n = 0u; n < QUERY_LOADS; n += 1u) { // unrolled
        let at = min(invocation + n * SIZE, QUERY_FOURS - 1u);
        // Rows past the last are copies of it, and not stored.
        let row = min(first_row + at / KEY_LINE, rows - 1u);
        let i = row / HEADS;
        tile[at / KEY_LINE * KEY_STRIDE + at % KEY_LINE] = query_four(b, first_head + row - i * HEADS, i, at % KEY_LINE);
    }
    workgroupBarrier();
    var query: array<coop_mat16x16<f16, A>, QUERY_MATRICES>;
    for (var m = 0u; m < DOWN; m += 1u) { // unrolled
        for (var c = 0u; c < DEEP; c += 1u) { // unrolled
            query[m * DEEP + c] = coopLoadT<coop_mat16x16<f16, A>>(&tile[(team * SUB_ROWS + 16u * m) * KEY_STRIDE + 4u * c], KEY_STRIDE);
        }
    }
    workgroupBarrier();

    var results: array<coop_mat16x16<f32, C>, RESULT_MATRICES>;
    var offset = negative_infinity;
    // Of the keys whose scores the invocation handles.
    var total = 0.0;
    let factor = scale() * LOG2_E;

    var next_keys: array<vec4<f16>, KEY_LOADS>;
    var next_values: array<vec4<f16>, VALUE_LOADS>;
    load_step(b, first_head, 0u, invocation, &next_keys, &next_values);
    for (var first_key = 0u; first_key < end; first_key += KEYS) {
        for (var n = 0u; n < KEY_LOADS; n += 1u) { // unrolled
            let at = invocation + n * SIZE;
            if KEY_FOURS % SIZE == 0u || at < KEY_FOURS {
                tile[at / KEY_LINE * KEY_STRIDE + at % KEY_LINE] = next_keys[n];
            }
        }
        for (var n = 0u; n < VALUE_LOADS; n += 1u) { // unrolled
            let at = invocation + n * SIZE;
            if VALUE_FOURS % SIZE == 0u || at < VALUE_FOURS {
                tile[FIRST_VALUE + at / VALUE_LINE * VALUE_STRIDE + at % VALUE_LINE] = next_values[n];
            }
        }
        workgroupBarrier();
        // The last turn loads what nobody uses.
        load_step(b, first_head, first_key + KEYS, invocation, &next_keys, &next_values);

        for (var at_key = part * SUB_KEYS; at_key < min(KEYS, max(own_end, first_key) - first_key); at_key += PARTS * SUB_KEYS) {
            for (var n = 0u; n < ACROSS; n += 1u) { // unrolled
                var key: array<coop_mat16x16<f16, B>, DEEP>;
                for (var c = 0u; c < DEEP; c += 1u) { // unrolled
                    key[c] = coopLoad<coop_mat16x16<f16, B>>(&tile[(at_key + 16u * n) * KEY_STRIDE + 4u * c], KEY_STRIDE);
                }
                for (var m = 0u; m < DOWN; m += 1u) { // unrolled
                    var score = coop_mat16x16<f32, C>();
                    for (var c = 0u; c < DEEP; c += 1u) { // unrolled
                        score = coopMultiplyAdd(query[m * DEEP + c], key[c], score);
                    }
                    coopStoreT(score, &scratch[own + 16u * m * SCORE_STRIDE + 4u * n], SCORE_STRIDE);
                }
            }
            subgroupBarrier();

            let line = own + lane % SUB_ROWS * SCORE_STRIDE;
            var scores: array<vec4<f32>, SHARE>;
            var top = negative_infinity;
            for (var n = 0u; n < SHARE; n += 1u) { // unrolled
                let four = share * SHARE + n;
                scores[n] = scratch[line + four] * factor;
                let j = first_key + at_key + four * FOUR;
                if MASKED {
                    scores[n] += load_mask(b, h, i, min(j, (keys() - 1u) / FOUR * FOUR)) * LOG2_E;
                }
                if !KEYS_WHOLE {
                    let places = vec4<u32>(j) + vec4<u32>(0u, 1u, 2u, 3u);
                    scores[n] = select(scores[n], vec4<f32>(negative_infinity), places >= vec4<u32>(keys()));
                }
                // A NaN may be passed over here: it comes back as a weight.
                top = max(top, max(max(scores[n].x, scores[n].y), max(scores[n].z, scores[n].w)));
            }
            for (var by = SUB_ROWS; by < SUBGROUP; by *= 2u) {
                top = max(top, subgroupShuffleXor(top, by));
            }

            // A loop of one turn or none: what a subgroup decides as one is no uniform condition to naga.
            let turns = select(0u, 1u, subgroupAny(top > offset + ROOM));
            for (var turn = 0u; turn < turns; turn += 1u) {
                let higher = max(top, offset);
                let shrink = power(offset, higher);
                offset = higher;
                total *= shrink;
                subgroupBarrier();
                for (var c = 0u; c < WIDE; c += 1u) { // unrolled
                    for (var m = 0u; m < DOWN; m += 1u) { // unrolled
                        coopStoreT(results[m * WIDE + c], &scratch[own + 16u * m * SCORE_STRIDE], SCORE_STRIDE);
                    }
                    subgroupBarrier();
                    for (var n = 0u; n < RESULT_SHARE; n += 1u) { // unrolled
                        scratch[line + share * RESULT_SHARE + n] *= shrink;
                    }
                    subgroupBarrier();
                    for (var m = 0u; m < DOWN; m += 1u) { // unrolled
                        results[m * WIDE + c] = coopLoadT<coop_mat16x16<f32, C>>(&scratch[own + 16u * m * SCORE_STRIDE], SCORE_STRIDE);
                    }
                    subgroupBarrier();
                }
            }

            for (var n = 0u; n < SHARE; n += 1u) { // unrolled
                var four: vec4<f32>;
                for (var c = 0u; c < FOUR; c += 1u) { // unrolled
                    four[c] = power(scores[n][c], offset);
                }
                total += four.x + four.y + (four.z + four.w);
                weights[subgroup * OWN_WEIGHTS + lane % SUB_ROWS * WEIGHT_STRIDE + share * SHARE + n] = vec4<f16>(four);
            }
            subgroupBarrier();

            for (var n = 0u; n < ACROSS; n += 1u) { // unrolled
                var weight: array<coop_mat16x16<f16, A>, DOWN>;
                for (var m = 0u; m < DOWN; m += 1u) { // unrolled
                    weight[m] = coopLoadT<coop_mat16x16<f16, A>>(&weights[subgroup * OWN_WEIGHTS + 16u * m * WEIGHT_STRIDE + 4u * n], WEIGHT_STRIDE);
                }
                for (var c = 0u; c < WIDE; c += 1u) { // unrolled
                    let value = coopLoadT<coop_mat16x16<f16, B>>(&tile[FIRST_VALUE + (at_key + 16u * n) * VALUE_STRIDE + 4u * c], VALUE_STRIDE);
                    for (var m = 0u; m < DOWN; m += 1u) { // unrolled
                        results[m * WIDE + c] = coopMultiplyAdd(weight[m], value, results[m * WIDE + c]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var by = SUB_ROWS; by < SUBGROUP; by *= 2u) {
        total += subgroupShuffleXor(total, by);
    }
    if share == 0u {
        offsets[part * ROWS + own_row] = offset;
        sums[part * ROWS + own_row] = total;
    }
    workgroupBarrier();
    for (var at = invocation; at < ROWS; at += SIZE) {
        var highest = negative_infinity;
        for (var p = 0u; p < PARTS; p += 1u) {
            highest = max(highest, offsets[p * ROWS + at]);
        }
        var whole = 0.0;
        for (var p = 0u; p < PARTS; p += 1u) {
            let weight = power(offsets[p * ROWS + at], highest);
            whole += weight * sums[p * ROWS + at];
            offsets[p * ROWS + at] = weight;
        }
        row_totals[at] = whole;
        if first_row + at < rows {
            let i = (first_row + at) / HEADS;
            // NaN stays, whatever a logarithm makes of it.
            let log = select((highest + log2(whole)) / LOG2_E, whole, !(whole > 0.0));
            store_log(b, first_head + first_row + at - i * HEADS, i, select(log, negative_infinity, whole == 0.0));
        }
    }

    for (var c = 0u; c < WIDE; c += 1u) { // unrolled
        for (var m = 0u; m < DOWN; m += 1u) { // unrolled
            coopStoreT(results[m * WIDE + c], &scratch[own + 16u * m * SCORE_STRIDE], SCORE_STRIDE);
        }
        workgroupBarrier();
        for (var at = invocation; at < ROWS * FOUR; at += SIZE) {
            let row = at / FOUR;
            let e = 16u * c + at % FOUR * FOUR;
            var result: vec4<f32>;
            for (var p = 0u; p < PARTS; p += 1u) {
                let place = (row / SUB_ROWS * PARTS + p) * OWN + row % SUB_ROWS * SCORE_STRIDE + at % FOUR;
                if PARTS > 1u {
                    result += scratch[place] * offsets[p * ROWS + row];
                } else {
                    result = scratch[place];
                }
            }
            if first_row + row < rows && e < VALUE_CHANNELS {
                let i = (first_row + row) / HEADS;
                let whole = row_totals[row];
                // Every offset is a score, or within ROOM of one, so that a total of 0 means that there was none above -inf.
                let values = select(result / whole, vec4<f32>(empty_row), vec4<bool>(whole == 0.0));
                store(b, first_head + first_row + row - i * HEADS, i, e, values);
            }
        }
        workgroupBarrier();
    }
}
