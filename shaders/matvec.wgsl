// Matrix products with few rows: for every batch, store(row, col, sum over k of load_a(row, k) load_b(k, col)).
//
// Holes, whose bodies are replaced: batches, rows, cols, depth (equal for all invocations), load_a, load_b, store. They are
// called only with batch < batches(), row < rows(), col < cols(), k < depth(), and store once for each result.
// A workgroup makes ROWS x COLS results and reads each element of its columns of b once. SIZE / COLS invocations (a power of
// two) share the depth of one column.
// Dispatch batches * ceil(rows / ROWS) * ceil(cols / COLS) workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory: 4 ROWS SIZE bytes.

// COLS divides SIZE.
const SIZE: u32 = 128u;
const COLS: u32 = 4u;
const ROWS: u32 = 1u;
// Neighbouring invocations take neighbouring k of one column, not neighbouring columns.
const ALONG_DEPTH: bool = true;

const LANES: u32 = SIZE / COLS;
// Loads of b in flight.
const AHEAD: u32 = 4u;

var<workgroup> memory: array<f32, ROWS * SIZE>;

fn batches() -> u32 {
    return 1u;
}

fn rows() -> u32 {
    return 1u;
}

fn cols() -> u32 {
    return 1u;
}

fn depth() -> u32 {
    return 1u;
}

fn load_a(batch: u32, row: u32, k: u32) -> f32 {
    return 0.0;
}

fn load_b(batch: u32, k: u32, col: u32) -> f32 {
    return 0.0;
}

fn store(batch: u32, row: u32, col: u32, value: f32) {
}

@compute @workgroup_size(SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row_tiles = (rows() + ROWS - 1u) / ROWS;
    let col_tiles = (cols() + COLS - 1u) / COLS;
    let tile = group.x + groups.x * (group.y + groups.y * group.z);
    if tile >= batches() * row_tiles * col_tiles {
        return;
    }
    let tile_row = tile / col_tiles;
    let batch = tile_row / row_tiles;
    let first_row = (tile_row - batch * row_tiles) * ROWS;
    let first_col = (tile - tile_row * col_tiles) * COLS;

    let column = select(invocation % COLS, invocation / LANES, ALONG_DEPTH);
    let lane = select(invocation / COLS, invocation % LANES, ALONG_DEPTH);
    let col = first_col + column;
    // Rows past the last one are computed as copies of it, and not stored.
    let last_row = rows() - 1u;

    var sums: array<f32, ROWS>;
    if col < cols() {
        let whole = depth() / (AHEAD * LANES) * (AHEAD * LANES);
        for (var first = 0u; first < whole; first += AHEAD * LANES) {
            var b: array<f32, AHEAD>;
            for (var n = 0u; n < AHEAD; n += 1u) {
                b[n] = load_b(batch, first + n * LANES + lane, col);
            }
            for (var r = 0u; r < ROWS; r += 1u) {
                let row = min(first_row + r, last_row);
                for (var n = 0u; n < AHEAD; n += 1u) {
                    sums[r] = fma(load_a(batch, row, first + n * LANES + lane), b[n], sums[r]);
                }
            }
        }
        for (var k = whole + lane; k < depth(); k += LANES) {
            let b = load_b(batch, k, col);
            for (var r = 0u; r < ROWS; r += 1u) {
                sums[r] = fma(load_a(batch, min(first_row + r, last_row), k), b, sums[r]);
            }
        }
    }

    let at = lane * COLS + column;
    for (var r = 0u; r < ROWS; r += 1u) {
        memory[r * SIZE + at] = sums[r];
    }
    workgroupBarrier();
    for (var half = LANES >> 1u; half > 0u; half >>= 1u) {
        if lane < half {
            for (var r = 0u; r < ROWS; r += 1u) {
                memory[r * SIZE + at] += memory[r * SIZE + at + half * COLS];
            }
        }
        workgroupBarrier();
    }
    for (var result = invocation; result < ROWS * COLS; result += SIZE) {
        let r = result / COLS;
        let c = result % COLS;
        if first_row + r < rows() && first_col + c < cols() {
            store(batch, first_row + r, first_col + c, memory[r * SIZE + c]);
        }
    }
}
