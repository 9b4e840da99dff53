// Attention, SLICES workgroups for each row of the result: they make store(b, h, i, e, sum over j of softmax over j (s[i, j]) v[j, e])
// with s[i, j] = scale (sum over d of q[i, d] k[j, d]) + mask[i, j]. The invocations of each share the keys; each makes all weights, and
// results of its own slice of the value channels.
//
// Results are those of the plain formula: NaN spreads to its row, infinite and very negative masks work, and a row whose
// scores are all -inf gives 0 if zero_masked(), else NaN. Keys that the query does not see are not looked at.
// Holes, whose bodies are replaced: batches, heads, queries, keys, scale, zero_masked (equal for all invocations), seen,
// load_q, load_k, load_v, load_mask, store, store_log, as in attention.wgsl. keys() is at most KEYS.
// Key number place_k(b, h), if it is one, is load_placed_k(b, h, d) in place of load_k; so are values: what is the same
// whatever the key is computed once.
// Dispatch batches * heads * queries * SLICES workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory, in bytes, with STEP = AHEAD SIZE / ACROSS: 4 (KEYS + SIZE + max((STEP + 1) (ACROSS + 1), 5 SIZE) + LAST).

// With FOURS = ceil(CHANNELS / 4), VALUE_FOURS = ceil(VALUE_CHANNELS / 4): ACROSS divides SIZE and is at least FOURS and VALUE_FOURS; SIZE is
// a multiple of LAST; SLICES divides VALUE_FOURS, ACROSS and AHEAD.
const SIZE: u32 = 64u;
const ACROSS: u32 = 16u;
const LAST: u32 = 16u;
// Keys of a step that an invocation reads a part of together.
const AHEAD: u32 = 4u;
const SLICES: u32 = 1u;
const KEYS: u32 = 128u;
const CHANNELS: u32 = 64u;
const VALUE_CHANNELS: u32 = 64u;

const FOUR: u32 = 4u;
const TEAMS: u32 = SIZE / ACROSS;
const FOURS: u32 = (CHANNELS + 3u) / 4u;
const VALUE_FOURS: u32 = (VALUE_CHANNELS + 3u) / 4u;
const STEP: u32 = AHEAD * TEAMS;
// The same of the workgroup's slice of the values.
const OWN_FOURS: u32 = VALUE_FOURS / SLICES;
const VALUE_ACROSS: u32 = ACROSS / SLICES;
const VALUE_TEAMS: u32 = SIZE / VALUE_ACROSS;
const VALUE_AHEAD: u32 = AHEAD / SLICES;
const EARLY: bool = SLICES > 1u;
const LATE: bool = SLICES == 1u;
// Components of a team's results, the last its total, and teams that one invocation adds up first.
const COMPONENTS: u32 = 5u;
const ADDED: u32 = 4u;
const SUMMED: u32 = (VALUE_TEAMS + ADDED - 1u) / ADDED;
// Invocations for each of the last.
const SHARE: u32 = SIZE / LAST;
// Neighbouring keys in different banks.
const STRIDE: u32 = ACROSS + 1u;

// Of each key its score, then its weight.
var<workgroup> weights: array<f32, KEYS>;
// Parts of a step's scores: a row a key, and behind them one of the placed key. At the end results: those of each invocation.
var<workgroup> parts: array<f32, max((STEP + 1u) * STRIDE, COMPONENTS * SIZE)>;
// The largest score that each invocation has seen.
var<workgroup> highs: array<f32, SIZE>;
var<workgroup> tops: array<f32, LAST>;

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

// What the four channels of `lane` add to a score: what no channel is in must not become NaN by a key's infinity.
fn part_of(query: vec4<f32>, key: vec4<f32>, lane: u32) -> f32 {
    let low = fma(query.y, key.y, query.x * key.x);
    return select(fma(query.w, key.w, fma(query.z, key.z, low)), 0.0, lane >= FOURS);
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = group.x + groups.x * (group.y + groups.y * group.z);
    if number >= batches() * heads() * queries() * SLICES {
        return;
    }
    let row = number / SLICES;
    let slice = number - row * SLICES;
    let plane = row / queries();
    let i = row - plane * queries();
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

    let value_team = invocation / VALUE_ACROSS;
    let value_lane = invocation - value_team * VALUE_ACROSS;
    let own = min(lane, FOURS - 1u) * 4u;
    let e = (slice * OWN_FOURS + min(value_lane, OWN_FOURS - 1u)) * 4u;
    // What the first step reads is on its way while the query is made.
    var held: array<vec4<f32>, AHEAD>;
    for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
        held[n] = load_k(b, h, min(team + n * TEAMS, keys() - 1u), own);
    }
    // So are the values of a slice. Those of all channels would leave too few registers.
    var values: array<vec4<f32>, VALUE_AHEAD>;
    if EARLY { // chosen
        for (var n = 0u; n < VALUE_AHEAD; n += 1u) { // unrolled
            values[n] = load_v(b, h, min(value_team + n * VALUE_TEAMS, keys() - 1u), e);
        }
    }
    let k_place = place_k(b, h);
    let v_place = place_v(b, h);
    let v_placed = load_placed_v(b, h, e);
    let mine = select(load_q(b, h, i, own), vec4<f32>(), vec4<bool>(lane >= FOURS));
    if team == 0u {
        parts[STEP * STRIDE + lane] = part_of(mine, load_placed_k(b, h, own), lane);
    }

    var top = negative_infinity;
    for (var first = 0u; first < end; first += STEP) {
        for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
            parts[(team + n * TEAMS) * STRIDE + lane] = part_of(mine, held[n], lane);
        }
        // The next step, or the values of the first.
        if first + STEP < end {
            for (var n = 0u; n < AHEAD; n += 1u) { // unrolled
                held[n] = load_k(b, h, min(first + STEP + team + n * TEAMS, keys() - 1u), own);
            }
        } else {
            if LATE { // chosen
                for (var n = 0u; n < VALUE_AHEAD; n += 1u) { // unrolled
                    values[n] = load_v(b, h, min(value_team + n * VALUE_TEAMS, keys() - 1u), e);
                }
            }
        }
        workgroupBarrier();
        for (var at = invocation; at < STEP; at += SIZE) {
            let j = first + at;
            let start = select(at, STEP, j == k_place) * STRIDE;
            var sum = 0.0;
            for (var n = 0u; n < ACROSS; n += 1u) { // unrolled
                sum += parts[start + n];
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

    highs[invocation] = top;
    workgroupBarrier();
    if invocation < LAST {
        var most = negative_infinity;
        for (var n = 0u; n < SHARE; n += 1u) { // unrolled
            most = max(most, highs[invocation + n * LAST]);
        }
        tops[invocation] = most;
    }
    workgroupBarrier();
    var largest = negative_infinity;
    for (var n = 0u; n < LAST; n += 1u) { // unrolled
        largest = max(largest, tops[n]);
    }
    for (var j = invocation; j < end; j += SIZE) {
        weights[j] = attention_weight(weights[j], largest);
    }
    workgroupBarrier();

    // Each invocation of a team makes the total of the team's weights.
    var total = 0.0;
    var result = vec4<f32>();
    for (var first = 0u; first < end; first += STEP) {
        for (var n = 0u; n < VALUE_AHEAD; n += 1u) { // unrolled
            let j = first + value_team + n * VALUE_TEAMS;
            let v = select(values[n], v_placed, vec4<bool>(j == v_place));
            let weight = weights[min(j, end - 1u)];
            let sum = fma(vec4<f32>(weight), v, result);
            result = select(sum, result, vec4<bool>(j >= end));
            total += select(weight, 0.0, j >= end);
        }
        if first + STEP < end {
            for (var n = 0u; n < VALUE_AHEAD; n += 1u) { // unrolled
                values[n] = load_v(b, h, min(first + STEP + value_team + n * VALUE_TEAMS, keys() - 1u), e);
            }
        }
    }
    for (var c = 0u; c < FOUR; c += 1u) { // unrolled
        parts[c * SIZE + invocation] = result[c];
    }
    parts[FOUR * SIZE + invocation] = total;
    workgroupBarrier();
    // Sums of some teams for each of their components, at the place of the first of them; then of all.
    for (var at = invocation; at < COMPONENTS * VALUE_ACROSS * SUMMED; at += SIZE) {
        let place = at % VALUE_ACROSS;
        let component = at / VALUE_ACROSS % COMPONENTS;
        let first = at / (VALUE_ACROSS * COMPONENTS);
        var sum = 0.0;
        for (var n = 0u; n < ADDED; n += 1u) { // unrolled
            let member = first + n * SUMMED;
            let part = parts[component * SIZE + min(member, VALUE_TEAMS - 1u) * VALUE_ACROSS + place];
            sum += select(part, 0.0, member >= VALUE_TEAMS);
        }
        parts[component * SIZE + first * VALUE_ACROSS + place] = sum;
    }
    workgroupBarrier();
    for (var at = invocation; at < COMPONENTS * VALUE_ACROSS; at += SIZE) {
        let place = at % VALUE_ACROSS;
        let component = at / VALUE_ACROSS;
        var sum = 0.0;
        for (var n = 0u; n < SUMMED; n += 1u) { // unrolled
            sum += parts[component * SIZE + n * VALUE_ACROSS + place];
        }
        parts[component * SIZE + place] = sum;
    }
    workgroupBarrier();
    total = parts[FOUR * SIZE];
    if invocation == 0u && slice == 0u {
        // NaN stays, whatever a logarithm makes of it.
        let log = select(largest + log(total), total, !(total > 0.0));
        store_log(b, h, i, select(log, negative_infinity, total == 0.0));
    }
    if invocation < OWN_FOURS {
        let at = invocation;
        let sums = vec4<f32>(parts[at], parts[SIZE + at], parts[2u * SIZE + at], parts[3u * SIZE + at]);
        // The largest score has weight 1, so that a total of 0 means that there was none above -inf.
        let values = select(sums / total, vec4<f32>(empty_row), vec4<bool>(total == 0.0));
        store(b, h, i, (slice * OWN_FOURS + at) * 4u, values);
    }
}
