// Reductions over a workgroup: one value an invocation goes in, every invocation gets the result.
//
// Every invocation of the workgroup must call, in uniform control flow, with its own `local_index` in 0..WG_SIZE, and with a
// `turn` that is 0 and 1 by turns: a call leaves its memory alone until the call after the next one, which spares a barrier. The
// order of the operations depends on WG_SIZE alone, so that equal inputs give equal bits. Maximum and minimum of floats are
// NaN if any value is NaN. Workgroup memory: 8 WG_SIZE bytes for each type in use.

// Invocations of the workgroup, and how many of them put the values together first: powers of two.
const WG_SIZE: u32 = 64u;
const LEFT: u32 = 16u;

const MORE: u32 = WG_SIZE / LEFT - 1u;
const OTHERS: u32 = LEFT - 1u;

var<workgroup> wg_reduce_f32: array<f32, 2u * WG_SIZE>;
var<workgroup> wg_reduce_i32: array<i32, 2u * WG_SIZE>;
var<workgroup> wg_reduce_u32: array<u32, 2u * WG_SIZE>;

fn wg_reduce_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Hands values from a few invocations to all: `value` of the invocation that `gives` it for `place` (below WG_SIZE) to those
// that take from there.

fn wg_pass_f32(value: f32, gives: bool, place: u32, takes: u32, turn: u32) -> f32 {
    if gives {
        wg_reduce_f32[turn * WG_SIZE + place] = value;
    }
    workgroupBarrier();
    return wg_reduce_f32[turn * WG_SIZE + takes];
}

fn wg_pass_i32(value: i32, gives: bool, place: u32, takes: u32, turn: u32) -> i32 {
    if gives {
        wg_reduce_i32[turn * WG_SIZE + place] = value;
    }
    workgroupBarrier();
    return wg_reduce_i32[turn * WG_SIZE + takes];
}

fn wg_pass_u32(value: u32, gives: bool, place: u32, takes: u32, turn: u32) -> u32 {
    if gives {
        wg_reduce_u32[turn * WG_SIZE + place] = value;
    }
    workgroupBarrier();
    return wg_reduce_u32[turn * WG_SIZE + takes];
}

fn wg_reduce_sum_f32(value: f32, local_index: u32, turn: u32) -> f32 {
    let first = turn * WG_SIZE;
    wg_reduce_f32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_f32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_f32[first + local_index + (n + 1u) * LEFT];
                x = x + y;
            }
            wg_reduce_f32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_f32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_f32[first + n + 1u];
        x = x + y;
    }
    return x;
}

fn wg_reduce_prod_f32(value: f32, local_index: u32, turn: u32) -> f32 {
    let first = turn * WG_SIZE;
    wg_reduce_f32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_f32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_f32[first + local_index + (n + 1u) * LEFT];
                x = x * y;
            }
            wg_reduce_f32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_f32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_f32[first + n + 1u];
        x = x * y;
    }
    return x;
}

fn wg_reduce_max_f32(value: f32, local_index: u32, turn: u32) -> f32 {
    let first = turn * WG_SIZE;
    wg_reduce_f32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_f32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_f32[first + local_index + (n + 1u) * LEFT];
                x = select(select(max(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
            }
            wg_reduce_f32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_f32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_f32[first + n + 1u];
        x = select(select(max(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
    }
    return x;
}

fn wg_reduce_min_f32(value: f32, local_index: u32, turn: u32) -> f32 {
    let first = turn * WG_SIZE;
    wg_reduce_f32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_f32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_f32[first + local_index + (n + 1u) * LEFT];
                x = select(select(min(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
            }
            wg_reduce_f32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_f32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_f32[first + n + 1u];
        x = select(select(min(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
    }
    return x;
}

fn wg_reduce_sum_i32(value: i32, local_index: u32, turn: u32) -> i32 {
    let first = turn * WG_SIZE;
    wg_reduce_i32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_i32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_i32[first + local_index + (n + 1u) * LEFT];
                x = x + y;
            }
            wg_reduce_i32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_i32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_i32[first + n + 1u];
        x = x + y;
    }
    return x;
}

fn wg_reduce_prod_i32(value: i32, local_index: u32, turn: u32) -> i32 {
    let first = turn * WG_SIZE;
    wg_reduce_i32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_i32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_i32[first + local_index + (n + 1u) * LEFT];
                x = x * y;
            }
            wg_reduce_i32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_i32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_i32[first + n + 1u];
        x = x * y;
    }
    return x;
}

fn wg_reduce_max_i32(value: i32, local_index: u32, turn: u32) -> i32 {
    let first = turn * WG_SIZE;
    wg_reduce_i32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_i32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_i32[first + local_index + (n + 1u) * LEFT];
                x = max(x, y);
            }
            wg_reduce_i32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_i32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_i32[first + n + 1u];
        x = max(x, y);
    }
    return x;
}

fn wg_reduce_min_i32(value: i32, local_index: u32, turn: u32) -> i32 {
    let first = turn * WG_SIZE;
    wg_reduce_i32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_i32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_i32[first + local_index + (n + 1u) * LEFT];
                x = min(x, y);
            }
            wg_reduce_i32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_i32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_i32[first + n + 1u];
        x = min(x, y);
    }
    return x;
}

fn wg_reduce_sum_u32(value: u32, local_index: u32, turn: u32) -> u32 {
    let first = turn * WG_SIZE;
    wg_reduce_u32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_u32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_u32[first + local_index + (n + 1u) * LEFT];
                x = x + y;
            }
            wg_reduce_u32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_u32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_u32[first + n + 1u];
        x = x + y;
    }
    return x;
}

fn wg_reduce_prod_u32(value: u32, local_index: u32, turn: u32) -> u32 {
    let first = turn * WG_SIZE;
    wg_reduce_u32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_u32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_u32[first + local_index + (n + 1u) * LEFT];
                x = x * y;
            }
            wg_reduce_u32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_u32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_u32[first + n + 1u];
        x = x * y;
    }
    return x;
}

fn wg_reduce_max_u32(value: u32, local_index: u32, turn: u32) -> u32 {
    let first = turn * WG_SIZE;
    wg_reduce_u32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_u32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_u32[first + local_index + (n + 1u) * LEFT];
                x = max(x, y);
            }
            wg_reduce_u32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_u32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_u32[first + n + 1u];
        x = max(x, y);
    }
    return x;
}

fn wg_reduce_min_u32(value: u32, local_index: u32, turn: u32) -> u32 {
    let first = turn * WG_SIZE;
    wg_reduce_u32[first + local_index] = value;
    workgroupBarrier();
    if MORE > 0u {
        if local_index < LEFT {
            var x = wg_reduce_u32[first + local_index];
            for (var n = 0u; n < MORE; n += 1u) { // unrolled
                let y = wg_reduce_u32[first + local_index + (n + 1u) * LEFT];
                x = min(x, y);
            }
            wg_reduce_u32[first + local_index] = x;
        }
        workgroupBarrier();
    }
    var x = wg_reduce_u32[first];
    for (var n = 0u; n < OTHERS; n += 1u) { // unrolled
        let y = wg_reduce_u32[first + n + 1u];
        x = min(x, y);
    }
    return x;
}
