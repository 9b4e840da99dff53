// Attention in one pass over the keys: store(b, h, i, e, sum over j of softmax over j (s[i, j]) v[j, e]) with
// s[i, j] = scale (sum over d of q[i, d] k[j, d]) + mask[i, j].
//
// The softmax is made online: each row keeps the largest score so far, and what was summed is scaled down when that grows.
// Results are those of the plain formula: NaN spreads to its row, infinite and very negative masks work, and a row whose
// scores are all -inf gives 0 if zero_masked(), else NaN.
// Holes, whose bodies are replaced: batches, heads, queries, keys, scale, zero_masked (equal for all invocations), load_q,
// load_k, load_v, load_mask, store. They are called only with b < batches(), h < heads(), i < queries(), j < keys(),
// d < CHANNELS, e < VALUE_CHANNELS, and store once for each result.
// Dispatch batches * heads * ceil(queries / QUERIES) workgroups in any folding; surplus ones return. Invocations: SIZE.
// Workgroup memory: 4 (QUERIES CHANNELS + KEYS max(CHANNELS | 1, VALUE_CHANNELS) + QUERIES KEYS) bytes.
// An invocation keeps ceil(QUERIES KEYS / SIZE) ceil(VALUE_CHANNELS / KEYS) results in registers.

// KEYS divides SIZE.
const SIZE: u32 = 128u;
const QUERIES: u32 = 16u;
const KEYS: u32 = 32u;
const CHANNELS: u32 = 64u;
const VALUE_CHANNELS: u32 = 64u;

// Rows are dealt out to TEAMS of KEYS invocations. Within one, an invocation makes the scores of one key of a step and
// the results of every KEYS-th value channel, for all rows of its team.
const TEAMS: u32 = SIZE / KEYS;
const ROWS_EACH: u32 = (QUERIES + TEAMS - 1u) / TEAMS;
const VALUES_EACH: u32 = (VALUE_CHANNELS + KEYS - 1u) / KEYS;
// Odd, so that neighbouring keys lie in different banks.
const KEY_STRIDE: u32 = CHANNELS | 1u;

var<workgroup> query_tile: array<f32, QUERIES * CHANNELS>;
// Keys, then values of the same step.
var<workgroup> key_tile: array<f32, KEYS * max(KEY_STRIDE, VALUE_CHANNELS)>;
// Scores, then their exponentials.
var<workgroup> score_tile: array<f32, QUERIES * KEYS>;

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

fn load_q(b: u32, h: u32, i: u32, d: u32) -> f32 {
    return 0.0;
}

fn load_k(b: u32, h: u32, j: u32, d: u32) -> f32 {
    return 0.0;
}

fn load_v(b: u32, h: u32, j: u32, e: u32) -> f32 {
    return 0.0;
}

fn load_mask(b: u32, h: u32, i: u32, j: u32) -> f32 {
    return 0.0;
}

fn store(b: u32, h: u32, i: u32, e: u32, value: f32) {
}

// exp(x - largest) for x <= largest, where both may be -inf, which gives 0. NaN stays.
fn attention_weight(x: f32, largest: f32) -> f32 {
    let difference = x - select(largest, 0.0, bitcast<u32>(largest) == 0xff800000u);
    let is_nan = (bitcast<u32>(difference) & 0x7fffffffu) > 0x7f800000u;
    // Below -104 the exponential is 0 in every rounding.
    let weight = select(exp(max(difference, -104.0)), 0.0, difference < -104.0);
    return select(weight, difference, is_nan);
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tiles = (queries() + QUERIES - 1u) / QUERIES;
    let tile = group.x + groups.x * (group.y + groups.y * group.z);
    if tile >= batches() * heads() * tiles {
        return;
    }
    let plane = tile / tiles;
    let b = plane / heads();
    let h = plane - b * heads();
    let first_query = (tile - plane * tiles) * QUERIES;
    let team = invocation / KEYS;
    let lane = invocation - team * KEYS;

    // Variables, because a constant expression must not be infinite or NaN.
    var negative_infinity_bits = 0xff800000u;
    let negative_infinity = bitcast<f32>(negative_infinity_bits);
    var nan_bits = 0x7fc00000u;
    let empty_row = select(bitcast<f32>(nan_bits), 0.0, zero_masked());

    for (var at = invocation; at < QUERIES * CHANNELS; at += SIZE) {
        let i = first_query + at / CHANNELS;
        var value = 0.0;
        if i < queries() {
            value = load_q(b, h, i, at % CHANNELS);
        }
        query_tile[at] = value;
    }

    var results: array<f32, ROWS_EACH * VALUES_EACH>;
    var largest: array<f32, ROWS_EACH>;
    var totals: array<f32, ROWS_EACH>;
    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
        largest[r] = negative_infinity;
    }

    for (var first_key = 0u; first_key < keys(); first_key += KEYS) {
        for (var at = invocation; at < KEYS * CHANNELS; at += SIZE) {
            let row = at / CHANNELS;
            let d = at - row * CHANNELS;
            var value = 0.0;
            if first_key + row < keys() {
                value = load_k(b, h, first_key + row, d);
            }
            key_tile[row * KEY_STRIDE + d] = value;
        }
        workgroupBarrier();

        var scores: array<f32, ROWS_EACH>;
        for (var d = 0u; d < CHANNELS; d += 1u) {
            let key = key_tile[lane * KEY_STRIDE + d];
            for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                // Rows past the tile are computed as copies of its last row, and not kept.
                let row = min(team + r * TEAMS, QUERIES - 1u);
                scores[r] = fma(query_tile[row * CHANNELS + d], key, scores[r]);
            }
        }
        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let row = team + r * TEAMS;
            let i = first_query + row;
            var score = negative_infinity;
            if row < QUERIES && i < queries() && first_key + lane < keys() {
                score = scores[r] * scale() + load_mask(b, h, i, first_key + lane);
            }
            scores[r] = score;
            if row < QUERIES {
                score_tile[row * KEYS + lane] = score;
            }
        }
        workgroupBarrier();

        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let row = min(team + r * TEAMS, QUERIES - 1u);
            // A NaN may be passed over here: it comes back as a weight.
            var top = largest[r];
            for (var j = 0u; j < KEYS; j += 1u) {
                top = max(top, score_tile[row * KEYS + j]);
            }
            let shrink = attention_weight(largest[r], top);
            largest[r] = top;
            totals[r] *= shrink;
            for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
                results[r * VALUES_EACH + n] *= shrink;
            }
            scores[r] = attention_weight(scores[r], top);
        }
        for (var at = invocation; at < KEYS * VALUE_CHANNELS; at += SIZE) {
            let row = at / VALUE_CHANNELS;
            var value = 0.0;
            if first_key + row < keys() {
                value = load_v(b, h, first_key + row, at - row * VALUE_CHANNELS);
            }
            key_tile[at] = value;
        }
        workgroupBarrier();

        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let row = team + r * TEAMS;
            if row < QUERIES {
                score_tile[row * KEYS + lane] = scores[r];
            }
        }
        workgroupBarrier();

        for (var j = 0u; j < KEYS; j += 1u) {
            var values: array<f32, VALUES_EACH>;
            for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
                // Channels past the last are computed as copies of it, and not stored.
                values[n] = key_tile[j * VALUE_CHANNELS + min(lane + n * KEYS, VALUE_CHANNELS - 1u)];
            }
            for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                let weight = score_tile[min(team + r * TEAMS, QUERIES - 1u) * KEYS + j];
                totals[r] += weight;
                for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
                    results[r * VALUES_EACH + n] = fma(weight, values[n], results[r * VALUES_EACH + n]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
        let row = team + r * TEAMS;
        let i = first_query + row;
        for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
            let e = lane + n * KEYS;
            if row < QUERIES && i < queries() && e < VALUE_CHANNELS {
                // The largest score has weight 1, so that a total of 0 means that there was none above -inf.
                let value = select(results[r * VALUES_EACH + n] / totals[r], empty_row, totals[r] == 0.0);
                store(b, h, i, e, value);
            }
        }
    }
}
