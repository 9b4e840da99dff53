// Attention in one pass over the keys: store(b, h, i, e, sum over j of softmax over j (s[i, j]) v[j, e]) with
// s[i, j] = scale (sum over d of q[i, d] k[j, d]) + mask[i, j].
//
// The softmax is made online: each row keeps the largest score so far, and what was summed is scaled down when that grows.
// Results are those of the plain formula: NaN spreads to its row, infinite and very negative masks work, and a row whose
// scores are all -inf gives 0 if zero_masked(), else NaN. Keys that no query of a workgroup sees are not looked at: their NaN
// and infinities do not spread.
// Holes, whose bodies are replaced: batches, heads, queries, keys, scale, zero_masked (equal for all invocations), seen,
// load_q, load_k, load_v, load_mask, store, store_log. They are called only with b < batches(), h < heads(), i < queries(),
// j < keys(), d < CHANNELS, e < VALUE_CHANNELS, store once for each result, and store_log once for each row, with the logarithm
// of the sum of the exponentials of its scores, -inf for a row of -inf. d and e are multiples of 4: four neighbours
// are handled together, and what is loaded past the last channel must be 0. seen(i) is how many keys, from the first on, the
// queries up to i see at most. Heads n HEADS to n HEADS + HEADS - 1 have the same keys and values, asked for with the first.
// Dispatch batches * heads / HEADS * ceil(queries HEADS / ROWS) workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory, in bytes, with FOURS = ceil(CHANNELS / 4), VALUE_FOURS = ceil(VALUE_CHANNELS / 4):
// 16 (HOLD_KEYS ROWS (FOURS | 1) + max(HOLD_KEYS KEYS (FOURS | 1), ROWS (ACROSS | 1)) + HOLD_VALUES KEYS VALUE_FOURS
// + ROWS ACROSS / 4 + 1), with KEYS = 4 ACROSS.

// ACROSS, a multiple of 4, divides SIZE; SIZE / ACROSS divides ROWS.
const SIZE: u32 = 64u;
// A row is a query of one of HEADS heads.
const ROWS: u32 = 16u;
const ACROSS: u32 = 4u;
const HEADS: u32 = 1u;
// Divides ACROSS. If it is not 1, ACROSS / PARTS is at least VALUE_FOURS.
const PARTS: u32 = 1u;
// 1, or 0: queries and keys, or values, are read where they are used.
const HOLD_KEYS: u32 = 1u;
const HOLD_VALUES: u32 = 1u;
const CHANNELS: u32 = 64u;
const VALUE_CHANNELS: u32 = 64u;

// Rows are dealt out to DOWN teams of ACROSS invocations. Of a step of KEYS keys, an invocation makes the scores of every
// ACROSS-th key for all rows of its team; a slot is four such keys. Of the results, the ACROSS / PARTS invocations of a part
// make every so many-th four of channels, from every PARTS-th slot; the parts are added at the end.
const DOWN: u32 = SIZE / ACROSS;
const ROWS_EACH: u32 = ROWS / DOWN;
const FOUR: u32 = 4u;
const KEYS: u32 = FOUR * ACROSS;
const FOURS: u32 = (CHANNELS + 3u) / 4u;
const VALUE_FOURS: u32 = (VALUE_CHANNELS + 3u) / 4u;
const VALUES_ACROSS: u32 = ACROSS / PARTS;
const VALUES_EACH: u32 = (VALUE_FOURS + VALUES_ACROSS - 1u) / VALUES_ACROSS;
// Odd, so that the same column of neighbouring rows lies in different banks.
const STRIDE: u32 = FOURS | 1u;
const WEIGHT_STRIDE: u32 = ACROSS | 1u;

const QUERY_FOURS: u32 = HOLD_KEYS * ROWS * FOURS;
const KEY_FOURS: u32 = HOLD_KEYS * KEYS * FOURS;
const STEP_FOURS: u32 = HOLD_VALUES * KEYS * VALUE_FOURS;
const QUERY_LOADS: u32 = (QUERY_FOURS + SIZE - 1u) / SIZE;
const KEY_LOADS: u32 = (KEY_FOURS + SIZE - 1u) / SIZE;
const VALUE_LOADS: u32 = (STEP_FOURS + SIZE - 1u) / SIZE;

var<workgroup> query_tile: array<vec4<f32>, max(HOLD_KEYS * ROWS * STRIDE, 1u)>;
// Keys; then, of the same step, the exponentials of the scores: a row's slots. At the end results of parts.
var<workgroup> key_tile: array<vec4<f32>, max(HOLD_KEYS * KEYS * STRIDE, ROWS * WEIGHT_STRIDE)>;
var<workgroup> value_tile: array<vec4<f32>, max(STEP_FOURS, 1u)>;
// One number for each invocation of a row's team: its largest score; at the end its sum of exponentials.
var<workgroup> tops: array<f32, ROWS * ACROSS>;

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

fn load_mask(b: u32, h: u32, i: u32, j: u32) -> f32 {
    return 0.0;
}

fn store(b: u32, h: u32, i: u32, e: u32, values: vec4<f32>) {
}

fn store_log(b: u32, h: u32, i: u32, value: f32) {
}

// exp(x - largest) for x <= largest, where both may be -inf, which gives 0. NaN stays.
fn attention_weight(x: f32, largest: f32) -> f32 {
    let difference = x - select(largest, 0.0, bitcast<u32>(largest) == 0xff800000u);
    let is_nan = (bitcast<u32>(difference) & 0x7fffffffu) > 0x7f800000u;
    // Below -104 the exponential is 0 in every rounding.
    let weight = select(exp(max(difference, -104.0)), 0.0, difference < -104.0);
    return select(weight, difference, is_nan);
}

// Four of `tops` from `at` on.
fn four_tops(at: u32) -> vec4<f32> {
    return vec4<f32>(tops[at], tops[at + 1u], tops[at + 2u], tops[at + 3u]);
}

// Values of key j, of which there may be none.
fn attention_values(b: u32, h: u32, j: u32, e: u32) -> vec4<f32> {
    let values = load_v(b, h, min(j, keys() - 1u), e);
    return select(values, vec4<f32>(), vec4<bool>(j >= keys()));
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
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
    let team = invocation / ACROSS;
    let lane = invocation - team * ACROSS;
    let part = lane / VALUES_ACROSS;
    let first_four = lane - part * VALUES_ACROSS;

    // Variables, because a constant expression must not be infinite or NaN.
    var negative_infinity_bits = 0xff800000u;
    let negative_infinity = bitcast<f32>(negative_infinity_bits);
    var nan_bits = 0x7fc00000u;
    let empty_row = select(bitcast<f32>(nan_bits), 0.0, zero_masked());

    for (var n = 0u; n < QUERY_LOADS; n += 1u) { // unrolled
        let at = min(invocation + n * SIZE, max(QUERY_FOURS, 1u) - 1u);
        let row = min(first_row + at / FOURS, rows - 1u);
        let i = row / HEADS;
        // Rows past the last are copies of it, and not stored.
        let query = load_q(b, first_head + row - i * HEADS, i, at % FOURS * FOUR);
        if invocation + n * SIZE < QUERY_FOURS {
            query_tile[at / FOURS * STRIDE + at % FOURS] = query;
        }
    }

    var results: array<vec4<f32>, ROWS_EACH * VALUES_EACH>;
    var largest: array<f32, ROWS_EACH>;
    // Of the keys whose scores the invocation makes.
    var totals: array<f32, ROWS_EACH>;
    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
        largest[r] = negative_infinity;
    }

    for (var first_key = 0u; first_key < end; first_key += KEYS) {
        // Everything that the step reads is on its way together.
        var masks: array<vec4<f32>, ROWS_EACH>;
        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let row = min(first_row + team + r * DOWN, rows - 1u);
            let i = row / HEADS;
            for (var c = 0u; c < FOUR; c += 1u) { // unrolled
                let j = min(first_key + lane + c * ACROSS, keys() - 1u);
                masks[r][c] = load_mask(b, first_head + row - i * HEADS, i, j);
            }
        }
        if HOLD_KEYS > 0u {
            var ahead: array<vec4<f32>, max(KEY_LOADS, 1u)>;
            for (var n = 0u; n < KEY_LOADS; n += 1u) { // unrolled
                let at = min(invocation + n * SIZE, max(KEY_FOURS, 1u) - 1u);
                let j = min(first_key + at / FOURS, keys() - 1u);
                ahead[n] = load_k(b, first_head, j, at % FOURS * FOUR);
            }
            for (var n = 0u; n < KEY_LOADS; n += 1u) { // unrolled
                let at = invocation + n * SIZE;
                if at < KEY_FOURS {
                    key_tile[at / FOURS * STRIDE + at % FOURS] = ahead[n];
                }
            }
        }
        if HOLD_VALUES > 0u {
            var ahead: array<vec4<f32>, max(VALUE_LOADS, 1u)>;
            for (var n = 0u; n < VALUE_LOADS; n += 1u) { // unrolled
                let at = min(invocation + n * SIZE, max(STEP_FOURS, 1u) - 1u);
                ahead[n] = attention_values(b, first_head, first_key + at / VALUE_FOURS, at % VALUE_FOURS * FOUR);
            }
            for (var n = 0u; n < VALUE_LOADS; n += 1u) { // unrolled
                if invocation + n * SIZE < STEP_FOURS {
                    value_tile[invocation + n * SIZE] = ahead[n];
                }
            }
        }
        workgroupBarrier();

        var scores: array<vec4<f32>, ROWS_EACH>;
        for (var d = 0u; d < FOURS; d += 1u) {
            var query: array<vec4<f32>, ROWS_EACH>;
            for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                if HOLD_KEYS > 0u {
                    query[r] = query_tile[(team + r * DOWN) * STRIDE + d];
                } else {
                    let row = min(first_row + team + r * DOWN, rows - 1u);
                    let i = row / HEADS;
                    query[r] = load_q(b, first_head + row - i * HEADS, i, d * FOUR);
                }
            }
            for (var c = 0u; c < FOUR; c += 1u) { // unrolled
                var key: vec4<f32>;
                if HOLD_KEYS > 0u {
                    key = key_tile[(lane + c * ACROSS) * STRIDE + d];
                } else {
                    key = load_k(b, first_head, min(first_key + lane + c * ACROSS, keys() - 1u), d * FOUR);
                }
                for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                    let low = fma(query[r].y, key.y, fma(query[r].x, key.x, scores[r][c]));
                    scores[r][c] = fma(query[r].w, key.w, fma(query[r].z, key.z, low));
                }
            }
        }
        let j = vec4<u32>(first_key + lane) + vec4<u32>(0u, ACROSS, 2u * ACROSS, 3u * ACROSS);
        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let score = scores[r] * scale() + masks[r];
            scores[r] = select(score, vec4<f32>(negative_infinity), j >= vec4<u32>(keys()));
            // A NaN may be passed over here: it comes back as a weight.
            let top = max(max(scores[r].x, scores[r].y), max(scores[r].z, scores[r].w));
            tops[(team + r * DOWN) * ACROSS + lane] = top;
        }
        workgroupBarrier();

        for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
            let row = team + r * DOWN;
            var most = four_tops(row * ACROSS);
            for (var n = FOUR; n < ACROSS; n += FOUR) {
                most = max(most, four_tops(row * ACROSS + n));
            }
            let top = max(largest[r], max(max(most.x, most.y), max(most.z, most.w)));
            let shrink = attention_weight(largest[r], top);
            largest[r] = top;
            for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
                results[r * VALUES_EACH + n] *= shrink;
            }
            var weights: vec4<f32>;
            for (var c = 0u; c < FOUR; c += 1u) { // unrolled
                weights[c] = attention_weight(scores[r][c], top);
            }
            totals[r] = totals[r] * shrink + (weights.x + weights.y + (weights.z + weights.w));
            key_tile[row * WEIGHT_STRIDE + lane] = weights;
        }
        workgroupBarrier();

        for (var slot = part; slot < ACROSS; slot += PARTS) {
            var weights: array<vec4<f32>, ROWS_EACH>;
            for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                weights[r] = key_tile[(team + r * DOWN) * WEIGHT_STRIDE + slot];
            }
            for (var c = 0u; c < FOUR; c += 1u) { // unrolled
                let key = slot + c * ACROSS;
                for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
                    // Channels past the last are computed as copies of it, and not stored.
                    let e = min(first_four + n * VALUES_ACROSS, VALUE_FOURS - 1u);
                    var values: vec4<f32>;
                    if HOLD_VALUES > 0u {
                        values = value_tile[key * VALUE_FOURS + e];
                    } else {
                        values = attention_values(b, first_head, first_key + key, e * FOUR);
                    }
                    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
                        let sum = results[r * VALUES_EACH + n];
                        results[r * VALUES_EACH + n] = fma(vec4<f32>(weights[r][c]), values, sum);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
        let row = team + r * DOWN;
        tops[row * ACROSS + lane] = totals[r];
        if PARTS > 1u {
            key_tile[row * WEIGHT_STRIDE + lane] = results[r * VALUES_EACH];
        }
    }
    workgroupBarrier();
    if part > 0u {
        return;
    }
    for (var r = 0u; r < ROWS_EACH; r += 1u) { // unrolled
        let row = team + r * DOWN;
        let i = (first_row + row) / HEADS;
        var sums = four_tops(row * ACROSS);
        for (var n = FOUR; n < ACROSS; n += FOUR) {
            sums += four_tops(row * ACROSS + n);
        }
        let total = sums.x + sums.y + (sums.z + sums.w);
        if first_row + row < rows && first_four == 0u {
            // NaN stays, whatever a logarithm makes of it.
            let log = select(largest[r] + log(total), total, !(total > 0.0));
            store_log(b, first_head + first_row + row - i * HEADS, i, select(log, negative_infinity, total == 0.0));
        }
        for (var n = 0u; n < VALUES_EACH; n += 1u) { // unrolled
            let e = first_four + n * VALUES_ACROSS;
            var result = results[r * VALUES_EACH + n];
            for (var other = 1u; other < PARTS; other += 1u) {
                result += key_tile[row * WEIGHT_STRIDE + other * VALUES_ACROSS + first_four];
            }
            if first_row + row < rows && e < VALUE_FOURS {
                // The largest score has weight 1, so that a total of 0 means that there was none above -inf.
                let values = select(result / total, vec4<f32>(empty_row), vec4<bool>(total == 0.0));
                store(b, first_head + first_row + row - i * HEADS, i, e * FOUR, values);
            }
        }
    }
}
