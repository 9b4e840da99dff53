// Reductions over a workgroup: one value an invocation goes in, every invocation gets the result.
//
// Every invocation of the workgroup must call, in uniform control flow, with its own `local_index` in 0..WG_SIZE. The order of
// the operations depends on WG_SIZE alone, so that equal inputs give equal bits. Functions may be called again at once.
// Maximum and minimum of floats are NaN if any value is NaN. Workgroup memory: 4 WG_SIZE bytes for each type in use.

// Invocations of the workgroup: a power of two.
const WG_SIZE: u32 = 64u;

var<workgroup> wg_reduce_f32: array<f32, WG_SIZE>;
var<workgroup> wg_reduce_i32: array<i32, WG_SIZE>;
var<workgroup> wg_reduce_u32: array<u32, WG_SIZE>;

fn wg_reduce_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn wg_reduce_sum_f32(value: f32, local_index: u32) -> f32 {
    wg_reduce_f32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_f32[local_index];
            let y = wg_reduce_f32[local_index + half];
            wg_reduce_f32[local_index] = x + y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_f32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_prod_f32(value: f32, local_index: u32) -> f32 {
    wg_reduce_f32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_f32[local_index];
            let y = wg_reduce_f32[local_index + half];
            wg_reduce_f32[local_index] = x * y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_f32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_max_f32(value: f32, local_index: u32) -> f32 {
    wg_reduce_f32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_f32[local_index];
            let y = wg_reduce_f32[local_index + half];
            wg_reduce_f32[local_index] = select(select(max(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
        }
        workgroupBarrier();
    }
    let result = wg_reduce_f32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_min_f32(value: f32, local_index: u32) -> f32 {
    wg_reduce_f32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_f32[local_index];
            let y = wg_reduce_f32[local_index + half];
            wg_reduce_f32[local_index] = select(select(min(x, y), y, wg_reduce_is_nan(y)), x, wg_reduce_is_nan(x));
        }
        workgroupBarrier();
    }
    let result = wg_reduce_f32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_sum_i32(value: i32, local_index: u32) -> i32 {
    wg_reduce_i32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_i32[local_index];
            let y = wg_reduce_i32[local_index + half];
            wg_reduce_i32[local_index] = x + y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_i32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_prod_i32(value: i32, local_index: u32) -> i32 {
    wg_reduce_i32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_i32[local_index];
            let y = wg_reduce_i32[local_index + half];
            wg_reduce_i32[local_index] = x * y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_i32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_max_i32(value: i32, local_index: u32) -> i32 {
    wg_reduce_i32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_i32[local_index];
            let y = wg_reduce_i32[local_index + half];
            wg_reduce_i32[local_index] = max(x, y);
        }
        workgroupBarrier();
    }
    let result = wg_reduce_i32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_min_i32(value: i32, local_index: u32) -> i32 {
    wg_reduce_i32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_i32[local_index];
            let y = wg_reduce_i32[local_index + half];
            wg_reduce_i32[local_index] = min(x, y);
        }
        workgroupBarrier();
    }
    let result = wg_reduce_i32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_sum_u32(value: u32, local_index: u32) -> u32 {
    wg_reduce_u32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_u32[local_index];
            let y = wg_reduce_u32[local_index + half];
            wg_reduce_u32[local_index] = x + y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_u32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_prod_u32(value: u32, local_index: u32) -> u32 {
    wg_reduce_u32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_u32[local_index];
            let y = wg_reduce_u32[local_index + half];
            wg_reduce_u32[local_index] = x * y;
        }
        workgroupBarrier();
    }
    let result = wg_reduce_u32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_max_u32(value: u32, local_index: u32) -> u32 {
    wg_reduce_u32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_u32[local_index];
            let y = wg_reduce_u32[local_index + half];
            wg_reduce_u32[local_index] = max(x, y);
        }
        workgroupBarrier();
    }
    let result = wg_reduce_u32[0];
    workgroupBarrier();
    return result;
}

fn wg_reduce_min_u32(value: u32, local_index: u32) -> u32 {
    wg_reduce_u32[local_index] = value;
    workgroupBarrier();
    for (var half = WG_SIZE >> 1u; half > 0u; half >>= 1u) {
        if local_index < half {
            let x = wg_reduce_u32[local_index];
            let y = wg_reduce_u32[local_index + half];
            wg_reduce_u32[local_index] = min(x, y);
        }
        workgroupBarrier();
    }
    let result = wg_reduce_u32[0];
    workgroupBarrier();
    return result;
}
