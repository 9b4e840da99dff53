// Attention, a workgroup for each row: it makes store(b, h, i, e, sum over j of softmax over j (s[i, j]) v[j, e]) with
// s[i, j] = scale (sum over d of q[i, d] k[j, d]) + mask[i, j], and its invocations share the keys.
//
// Results are those of the plain formula: NaN spreads to its row, infinite and very negative masks work, and a row whose
// scores are all -inf gives 0 if zero_masked(), else NaN. Keys that the query does not see are not looked at.
// Holes, whose bodies are replaced: batches, heads, queries, keys, scale, zero_masked (equal for all invocations), seen,
// load_q, load_k, load_v, load_mask, store, store_log, as in attention.wgsl. keys() is at most KEYS.
// Key number place_k(b, h), if it is one, is load_placed_k(b, h, d) in place of load_k; so are values: what is the same
// whatever the key is computed once.
// Dispatch batches * heads * queries workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory, in bytes, with FOURS = ceil(CHANNELS / 4), VALUE_FOURS = ceil(VALUE_CHANNELS / 4),
// STEP = AHEAD SIZE / ACROSS: 4 (4 FOURS + KEYS + max(STEP (ACROSS + 1), 4 SIZE)) + 8 LAST.

// ACROSS divides SIZE and is at least FOURS and VALUE_FOURS; SIZE is a multiple of LAST.
const SIZE: u32 = 64u;
const ACROSS: u32 = 16u;
const LAST: u32 = 16u;
// Keys of a step that an invocation reads a part of together.
const AHEAD: u32 = 4u;
const KEYS: u32 = 128u;
const CHANNELS: u32 = 64u;
const VALUE_CHANNELS: u32 = 64u;

const FOUR: u32 = 4u;
const TEAMS: u32 = SIZE / ACROSS;
const FOURS: u32 = (CHANNELS + 3u) / 4u;
const VALUE_FOURS: u32 = (VALUE_CHANNELS + 3u) / 4u;
const STEP: u32 = AHEAD * TEAMS;
// Invocations for each of the last.
const SHARE: u32 = SIZE / LAST;
// Neighbouring keys in different banks.
const STRIDE: u32 = ACROSS + 1u;

var<workgroup> query: array<vec4<f32>, FOURS>;
// Of each key its score, then its weight.
var<workgroup> weights: array<f32, KEYS>;
// Parts of a step's scores: a row a key. At the end results: those of each invocation.
var<workgroup> parts: array<f32, max(STEP * STRIDE, 4u * SIZE)>;
var<workgroup> tops: array<f32, LAST>;
var<workgroup> totals: array<f32, LAST>;

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

fn place_k(b: u32, h: u32) -> u32 {
    return 0xffffffffu;
}

fn load_placed_k(b: u32, h: u32, d: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn place_v(b: u32, h: u32) -> u32 {
    return 0xffffffffu;
}

fn load_placed_v(b: u32, h: u32, e: u32) -> vec4<f32> {
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

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = group.x + groups.x * (group.y + groups.y * group.z);
    if number >= batches() * heads() * queries() {
        return;
    }
    let plane = number / queries();
    let i = number - plane * queries();
    let b = plane / heads();
    let h = plane - b * heads();
    let end = min(seen(i), keys());
    let team = invocation / ACROSS;
    let lane = invocation - team * ACROSS;

    // Variables, because a constant expression must not be infinite or NaN.
    var negative_infinity_bits = 0xff800000u;
    let negative_infinity = bitcast<f32>(negative_infinity_bits);
    var nan_bits = 0x7fc00000u;
    let empty_row = select(bitcast<f32>(nan_bits), 0.0, zero_masked());

    let own = min(lane, FOURS - 1u);
    // What the first step reads is on its way while the query is made.
    var held: array<vec4<f32>, AHEAD>;
    for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
        held[n] = load_k(b, h, min(team + n * TEAMS, keys() - 1u), own * 4u);
    }
    let e = min(lane, VALUE_FOURS - 1u) * 4u;
    let k_place = place_k(b, h);
    let v_place = place_v(b, h);
    let k_placed = load_placed_k(b, h, own * 4u);
    let v_placed = load_placed_v(b, h, e);
    for (var d = invocation; d < FOURS; d += SIZE) {
        query[d] = load_q(b, h, i, d * 4u);
    }
    workgroupBarrier();

    let mine = select(query[own], vec4<f32>(), vec4<bool>(lane >= FOURS));
    var top = negative_infinity;
    for (var first = 0u; first < end; first += STEP) {
        for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
            let placed = first + team + n * TEAMS == k_place;
            let k = select(held[n], k_placed, vec4<bool>(placed));
            let low = fma(mine.y, k.y, mine.x * k.x);
            let part = fma(mine.w, k.w, fma(mine.z, k.z, low));
            // What no channel is in must not become NaN by a key's infinity.
            parts[(team + n * TEAMS) * STRIDE + lane] = select(part, 0.0, lane >= FOURS);
        }
        // The next step, or the values of the first.
        if first + STEP < end {
            for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
                held[n] = load_k(b, h, min(first + STEP + team + n * TEAMS, keys() - 1u), own * 4u);
            }
        } else {
            for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
                held[n] = load_v(b, h, min(team + n * TEAMS, keys() - 1u), e);
            }
        }
        workgroupBarrier();
        for (var at = invocation; at < STEP; at += SIZE) {
            let j = first + at;
            var sum = 0.0;
            for (var n = 0u; n < ACROSS; n += 1u) { // unrolled
                sum += parts[at * STRIDE + n];
            }
            if j < end {
                let score = sum * scale() + load_mask(b, h, i, j);
                weights[j] = score;
                // A NaN may be passed over here: it comes back as a weight.
                top = max(top, score);
            }
        }
        workgroupBarrier();
    }

    parts[invocation] = top;
    workgroupBarrier();
    if invocation < LAST {
        var most = negative_infinity;
        for (var n = 0u; n < SHARE; n += 1u) { // unrolled
            most = max(most, parts[invocation + n * LAST]);
        }
        tops[invocation] = most;
    }
    workgroupBarrier();
    var largest = negative_infinity;
    for (var n = 0u; n < LAST; n += 1u) { // unrolled
        largest = max(largest, tops[n]);
    }
    var total = 0.0;
    for (var j = invocation; j < end; j += SIZE) {
        let weight = attention_weight(weights[j], largest);
        weights[j] = weight;
        total += weight;
    }
    parts[invocation] = total;
    workgroupBarrier();
    if invocation < LAST {
        var sum = 0.0;
        for (var n = 0u; n < SHARE; n += 1u) { // unrolled
            sum += parts[invocation + n * LAST];
        }
        totals[invocation] = sum;
    }
    workgroupBarrier();
    total = 0.0;
    for (var n = 0u; n < LAST; n += 1u) { // unrolled
        total += totals[n];
    }

    var result = vec4<f32>();
    for (var first = 0u; first < end; first += STEP) {
        for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
            let j = first + team + n * TEAMS;
            let v = select(held[n], v_placed, vec4<bool>(j == v_place));
            let sum = fma(vec4<f32>(weights[min(j, end - 1u)]), v, result);
            result = select(sum, result, vec4<bool>(j >= end));
        }
        if first + STEP < end {
            for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
                held[n] = load_v(b, h, min(first + STEP + team + n * TEAMS, keys() - 1u), e);
            }
        }
    }
    for (var c = 0u; c < FOUR; c += 1u) { // unrolled
        parts[c * SIZE + invocation] = result[c];
    }
    workgroupBarrier();
    // One invocation for each component of the result's fours.
    for (var at = invocation; at < 4u * ACROSS; at += SIZE) {
        var sum = 0.0;
        for (var n = 0u; n < TEAMS; n += 1u) { // unrolled
            sum += parts[at / ACROSS * SIZE + n * ACROSS + at % ACROSS];
        }
        parts[at / ACROSS * SIZE + at % ACROSS] = sum;
    }
    workgroupBarrier();
    if invocation == 0u {
        // NaN stays, whatever a logarithm makes of it.
        let log = select(largest + log(total), total, !(total > 0.0));
        store_log(b, h, i, select(log, negative_infinity, total == 0.0));
    }
    if invocation < VALUE_FOURS {
        let at = invocation;
        let sums = vec4<f32>(parts[at], parts[SIZE + at], parts[2u * SIZE + at], parts[3u * SIZE + at]);
        // The largest score has weight 1, so that a total of 0 means that there was none above -inf.
        let values = select(sums / total, vec4<f32>(empty_row), vec4<bool>(total == 0.0));
        store(b, h, i, at * 4u, values);
    }
}
