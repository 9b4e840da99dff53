// Matrix products by tiles: for every batch, store(row, col, sum over k of load_a(row, k) load_b(k, col)).
//
// Holes, whose bodies are replaced: batches, rows, cols, depth (equal for all invocations), load_a, load_b, store. They are
// called only with batch < batches(), row < rows(), col < cols(), k < depth(), and store once for each result. General
// convolutions run here too, their load holes reading windows of the image.
// Dispatch batches * ceil(rows / TILE_ROWS) * ceil(cols / TILE_COLS) workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory: 4 max(SPLIT TILE_DEPTH (A_STRIDE + B_STRIDE), SIZE COLS_EACH) bytes.

// ROWS_EACH divides TILE_ROWS, COLS_EACH divides TILE_COLS.
const TILE_ROWS: u32 = 64u;
const TILE_COLS: u32 = 64u;
const TILE_DEPTH: u32 = 16u;
const ROWS_EACH: u32 = 4u;
const COLS_EACH: u32 = 4u;
// Groups of invocations, each of which takes every SPLIT-th slab of the depth; their sums are added at the end.
const SPLIT: u32 = 1u;
// Neighbouring invocations load neighbouring rows of a, not neighbouring k.
const A_ALONG_ROWS: bool = false;
// Neighbouring invocations load neighbouring k of b, not neighbouring columns.
const B_ALONG_DEPTH: bool = false;

const DOWN: u32 = TILE_ROWS / ROWS_EACH;
const ACROSS: u32 = TILE_COLS / COLS_EACH;
const GROUP: u32 = DOWN * ACROSS;
const SIZE: u32 = GROUP * SPLIT;
// Both tiles lie in memory by k. The padding spreads a column over banks and keeps rows aligned to 16 bytes.
const A_STRIDE: u32 = TILE_ROWS + 4u;
const B_STRIDE: u32 = TILE_COLS + 4u;
const A_ELEMENTS: u32 = TILE_ROWS * TILE_DEPTH;
const B_ELEMENTS: u32 = TILE_COLS * TILE_DEPTH;
const A_EACH: u32 = (A_ELEMENTS + GROUP - 1u) / GROUP;
const B_EACH: u32 = (B_ELEMENTS + GROUP - 1u) / GROUP;
const SLAB: u32 = TILE_DEPTH * (A_STRIDE + B_STRIDE);
const ROUND: u32 = GROUP * COLS_EACH;
const MEMORY: u32 = SPLIT * max(SLAB, ROUND * min(SPLIT - 1u, 1u));

var<workgroup> memory: array<f32, MEMORY>;

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
    let row_tiles = (rows() + TILE_ROWS - 1u) / TILE_ROWS;
    let col_tiles = (cols() + TILE_COLS - 1u) / TILE_COLS;
    let tile = group.x + groups.x * (group.y + groups.y * group.z);
    if tile >= batches() * row_tiles * col_tiles {
        return;
    }
    let tile_row = tile / col_tiles;
    let batch = tile_row / row_tiles;
    let first_row = (tile_row - batch * row_tiles) * TILE_ROWS;
    let first_col = (tile - tile_row * col_tiles) * TILE_COLS;

    let part = invocation / GROUP;
    let member = invocation - part * GROUP;
    let down = member / ACROSS;
    let across = member - down * ACROSS;
    let a_memory = part * SLAB;
    let b_memory = a_memory + TILE_DEPTH * A_STRIDE;
    let slabs = (depth() + TILE_DEPTH - 1u) / TILE_DEPTH;
    let steps = (slabs + SPLIT - 1u) / SPLIT;

    var sums: array<f32, ROWS_EACH * COLS_EACH>;
    var a_next: array<f32, A_EACH>;
    var b_next: array<f32, B_EACH>;
    // Each turn of the loop first uses what the turn before it loaded; turn 0 only loads.
    for (var step = 0u; step <= steps; step += 1u) {
        if step > 0u {
            for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
                let at = member + n * GROUP;
                if A_ELEMENTS % GROUP == 0u || at < A_ELEMENTS {
                    let row = select(at / TILE_DEPTH, at % TILE_ROWS, A_ALONG_ROWS);
                    let k = select(at % TILE_DEPTH, at / TILE_ROWS, A_ALONG_ROWS);
                    memory[a_memory + k * A_STRIDE + row] = a_next[n];
                }
            }
            for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
                let at = member + n * GROUP;
                if B_ELEMENTS % GROUP == 0u || at < B_ELEMENTS {
                    let col = select(at % TILE_COLS, at / TILE_DEPTH, B_ALONG_DEPTH);
                    let k = select(at / TILE_COLS, at % TILE_DEPTH, B_ALONG_DEPTH);
                    memory[b_memory + k * B_STRIDE + col] = b_next[n];
                }
            }
        }
        workgroupBarrier();
        if step < steps {
            let first_k = (step * SPLIT + part) * TILE_DEPTH;
            for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
                let at = member + n * GROUP;
                let row = first_row + select(at / TILE_DEPTH, at % TILE_ROWS, A_ALONG_ROWS);
                let k = first_k + select(at % TILE_DEPTH, at / TILE_ROWS, A_ALONG_ROWS);
                a_next[n] = 0.0;
                if row < rows() && k < depth() {
                    a_next[n] = load_a(batch, row, k);
                }
            }
            for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
                let at = member + n * GROUP;
                let col = first_col + select(at % TILE_COLS, at / TILE_DEPTH, B_ALONG_DEPTH);
                let k = first_k + select(at / TILE_COLS, at % TILE_DEPTH, B_ALONG_DEPTH);
                b_next[n] = 0.0;
                if k < depth() && col < cols() {
                    b_next[n] = load_b(batch, k, col);
                }
            }
        }
        if step > 0u {
            for (var k = 0u; k < TILE_DEPTH; k += 1u) {
                let a_at = a_memory + k * A_STRIDE + down * ROWS_EACH;
                let b_at = b_memory + k * B_STRIDE + across;
                var b: array<f32, COLS_EACH>;
                for (var j = 0u; j < COLS_EACH; j += 1u) { // unrolled
                    b[j] = memory[b_at + j * ACROSS];
                }
                for (var i = 0u; i < ROWS_EACH; i += 1u) { // unrolled
                    let a = memory[a_at + i];
                    for (var j = 0u; j < COLS_EACH; j += 1u) { // unrolled
                        sums[i * COLS_EACH + j] = fma(a, b[j], sums[i * COLS_EACH + j]);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    if SPLIT == 1u {
        for (var i = 0u; i < ROWS_EACH; i += 1u) { // unrolled
            let row = first_row + down * ROWS_EACH + i;
            for (var j = 0u; j < COLS_EACH; j += 1u) { // unrolled
                let col = first_col + across + j * ACROSS;
                if row < rows() && col < cols() {
                    store(batch, row, col, sums[i * COLS_EACH + j]);
                }
            }
        }
        return;
    }
    // One row of every member in each round. Result number `at` of a round is column at % TILE_COLS of the row that
    // belongs to members at / TILE_COLS down; all invocations share in adding and storing.
    for (var i = 0u; i < ROWS_EACH; i += 1u) { // unrolled
        for (var j = 0u; j < COLS_EACH; j += 1u) { // unrolled
            memory[part * ROUND + down * TILE_COLS + j * ACROSS + across] = sums[i * COLS_EACH + j];
        }
        workgroupBarrier();
        for (var at = invocation; at < ROUND; at += SIZE) {
            var sum = memory[at];
            for (var other = 1u; other < SPLIT; other += 1u) {
                sum += memory[other * ROUND + at];
            }
            let row = first_row + at / TILE_COLS * ROWS_EACH + i;
            let col = first_col + at % TILE_COLS;
            if row < rows() && col < cols() {
                store(batch, row, col, sum);
            }
        }
        workgroupBarrier();
    }
}
