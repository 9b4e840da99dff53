// Matrix products by tiles on cooperative matrices of f16 that add up in f32: as `matmul.wgsl`, whose holes and dispatch
// these are, for operands that f16 holds exactly.
//
// All subgroups have SUBGROUP invocations. Each makes SUB_ROWS x SUB_COLS of a workgroup's results.
// Invocations: SIZE. Workgroup memory: 8 BUFFERS (A_MEMORY + B_MEMORY) + 16 SUBGROUPS OWN bytes.
enable f16;
enable wgpu_cooperative_matrix;

// All are multiples of 16, and those of a subgroup divide those of the tile; SIZE divides A_FOURS and B_FOURS.
const TILE_ROWS: u32 = 64u;
const TILE_COLS: u32 = 64u;
const TILE_DEPTH: u32 = 32u;
const SUB_ROWS: u32 = 32u;
const SUB_COLS: u32 = 32u;
const SUBGROUP: u32 = 32u;
// Slabs of the tiles in memory: with 2, one is written while the other is read.
const BUFFERS: u32 = 1u;
// How many matrices of results, neighbours along the columns, a subgroup stores together: a divisor of ACROSS.
const STRIP: u32 = 1u;
// Fours of a are neighbours along the rows, not along the depth.
const A_ALONG_ROWS: bool = false;
// Fours of b are neighbours along the columns, not along the depth.
const B_ALONG_COLS: bool = true;
// The depth is a whole number of slabs.
const DEPTH_WHOLE: bool = false;
// The rows and columns are whole numbers of tiles.
const ROWS_WHOLE: bool = false;
const COLS_WHOLE: bool = false;

const SUBS_ACROSS: u32 = TILE_COLS / SUB_COLS;
const SUBGROUPS: u32 = TILE_ROWS / SUB_ROWS * SUBS_ACROSS;
const SIZE: u32 = SUBGROUPS * SUBGROUP;
// A subgroup's results in matrices of 16 x 16, and a slab's steps.
const DOWN: u32 = SUB_ROWS / 16u;
const ACROSS: u32 = SUB_COLS / 16u;
const STEPS: u32 = TILE_DEPTH / 16u;
const A_FOURS: u32 = TILE_ROWS * TILE_DEPTH / 4u;
const B_FOURS: u32 = TILE_COLS * TILE_DEPTH / 4u;
const A_EACH: u32 = A_FOURS / SIZE;
const B_EACH: u32 = B_FOURS / SIZE;
// Each tile lies in memory as it is loaded, in lines along its fours. The padding spreads a column of lines over the banks.
const A_LINE: u32 = select(TILE_DEPTH, TILE_ROWS, A_ALONG_ROWS) / 4u;
const B_LINE: u32 = select(TILE_DEPTH, TILE_COLS, B_ALONG_COLS) / 4u;
const A_STRIDE: u32 = A_LINE + 2u;
const B_STRIDE: u32 = B_LINE + 2u;
const A_MEMORY: u32 = A_FOURS / A_LINE * A_STRIDE;
const B_MEMORY: u32 = B_FOURS / B_LINE * B_STRIDE;

const STRIPS: u32 = ACROSS / STRIP;
const RESULT_STRIDE: u32 = 4u * STRIP + 1u;
const OWN: u32 = 16u * RESULT_STRIDE;
const RESULTS_EACH: u32 = 64u * STRIP / SUBGROUP;

var<workgroup> a_tile: array<vec4<f16>, BUFFERS * A_MEMORY>;
var<workgroup> b_tile: array<vec4<f16>, BUFFERS * B_MEMORY>;
// A strip of results for each subgroup.
var<workgroup> results: array<vec4<f32>, SUBGROUPS * OWN>;

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

// Rows row.. of one k, or k.. of one row.
fn load_a(batch: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Columns col.. of one k, or k.. of one column.
fn load_b(batch: u32, k: u32, col: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Columns col.. of one row.
fn store(batch: u32, row: u32, col: u32, values: vec4<f32>) {
}

// Line and place in the line of four number `at` of a tile of lines of `fours`.
fn place(at: u32, fours: u32) -> vec2<u32> {
    return vec2<u32>(at / fours, at % fours);
}

// Row or column, and k, within the tile of that four. Lines are rows or columns, or with `across` one of each k.
fn within(at: u32, fours: u32, across: bool) -> vec2<u32> {
    let it = place(at, fours);
    return select(vec2<u32>(it.x, it.y * 4u), vec2<u32>(it.y * 4u, it.x), across);
}

// What an invocation loads of the slab that begins at `first_k`. Places out of range are moved into it. Without a branch, and
// without looking at what was loaded, so that drivers can put it between the arithmetic.
fn load(
    batch: u32,
    first_row: u32,
    first_col: u32,
    first_k: u32,
    invocation: u32,
    a: ptr<function, array<vec4<f16>, A_EACH>>,
    b: ptr<function, array<vec4<f16>, B_EACH>>,
) {
    let last = vec3<u32>(rows(), depth(), cols()) - vec3<u32>(1u);
    let four = last / 4u * 4u;
    let a_last = select(vec2<u32>(last.x, four.y), vec2<u32>(four.x, last.y), A_ALONG_ROWS);
    let b_last = select(vec2<u32>(last.z, four.y), vec2<u32>(four.z, last.y), B_ALONG_COLS);
    for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
        let at = vec2<u32>(first_row, first_k) + within(invocation + n * SIZE, A_LINE, A_ALONG_ROWS);
        let near = min(at, a_last);
        (*a)[n] = vec4<f16>(load_a(batch, near.x, near.y));
    }
    for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
        let at = vec2<u32>(first_col, first_k) + within(invocation + n * SIZE, B_LINE, B_ALONG_COLS);
        let near = min(at, b_last);
        (*b)[n] = vec4<f16>(load_b(batch, near.y, near.x));
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
    let sub_row = subgroup / SUBS_ACROSS * SUB_ROWS;
    let sub_col = subgroup % SUBS_ACROSS * SUB_COLS;
    // Where a subgroup's part of the tiles begins.
    let a_first = select(sub_row * A_STRIDE, sub_row / 4u, A_ALONG_ROWS);
    let b_first = select(sub_col * B_STRIDE, sub_col / 4u, B_ALONG_COLS);
    let steps = (depth() + TILE_DEPTH - 1u) / TILE_DEPTH;

    var sums: array<coop_mat16x16<f32, C>, DOWN * ACROSS>;
    var a_next: array<vec4<f16>, A_EACH>;
    var b_next: array<vec4<f16>, B_EACH>;
    load(batch, first_row, first_col, 0u, invocation, &a_next, &b_next);
    var step = 0u;
    while step < steps {
        for (var slab = 0u; slab < BUFFERS; slab += 1u) { // unrolled
            if step >= steps {
                break;
            }
            let first_k = step * TILE_DEPTH;
            for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
                let at = place(invocation + n * SIZE, A_LINE);
                let k = first_k + within(invocation + n * SIZE, A_LINE, A_ALONG_ROWS).y;
                a_tile[slab * A_MEMORY + at.x * A_STRIDE + at.y] = select(vec4<f16>(), a_next[n], DEPTH_WHOLE || k < depth());
            }
            for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
                let at = place(invocation + n * SIZE, B_LINE);
                let k = first_k + within(invocation + n * SIZE, B_LINE, B_ALONG_COLS).y;
                b_tile[slab * B_MEMORY + at.x * B_STRIDE + at.y] = select(vec4<f16>(), b_next[n], DEPTH_WHOLE || k < depth());
            }
            workgroupBarrier();
            // The last turn loads what nobody uses.
            load(batch, first_row, first_col, first_k + TILE_DEPTH, invocation, &a_next, &b_next);
            let a_slab = slab * A_MEMORY + a_first;
            let b_slab = slab * B_MEMORY + b_first;
            for (var s = 0u; s < STEPS; s += 1u) { // unrolled
                var b: array<coop_mat16x16<f16, B>, ACROSS>;
                for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                    if B_ALONG_COLS {
                        b[j] = coopLoadT<coop_mat16x16<f16, B>>(&b_tile[b_slab + 16u * s * B_STRIDE + 4u * j], B_STRIDE);
                    } else {
                        b[j] = coopLoad<coop_mat16x16<f16, B>>(&b_tile[b_slab + 16u * j * B_STRIDE + 4u * s], B_STRIDE);
                    }
                }
                for (var i = 0u; i < DOWN; i += 1u) { // unrolled
                    var a: coop_mat16x16<f16, A>;
                    if A_ALONG_ROWS {
                        a = coopLoad<coop_mat16x16<f16, A>>(&a_tile[a_slab + 16u * s * A_STRIDE + 4u * i], A_STRIDE);
                    } else {
                        a = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[a_slab + 16u * i * A_STRIDE + 4u * s], A_STRIDE);
                    }
                    for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                        sums[i * ACROSS + j] = coopMultiplyAdd(a, b[j], sums[i * ACROSS + j]);
                    }
                }
            }
            // Of two slabs, nobody writes this one again before everybody has passed the barrier of the other.
            if BUFFERS == 1u {
                workgroupBarrier();
            }
            step += 1u;
        }
    }

    let own = subgroup * OWN;
    for (var i = 0u; i < DOWN; i += 1u) { // unrolled
        for (var strip = 0u; strip < STRIPS; strip += 1u) { // unrolled
            for (var j = 0u; j < STRIP; j += 1u) { // unrolled
                coopStoreT(sums[i * ACROSS + strip * STRIP + j], &results[own + 4u * j], RESULT_STRIDE);
            }
            subgroupBarrier();
            for (var n = 0u; n < RESULTS_EACH; n += 1u) { // unrolled
                let at = lane + n * SUBGROUP;
                let line = at / (4u * STRIP);
                let four = at % (4u * STRIP);
                let row = first_row + sub_row + 16u * i + line;
                let col = first_col + sub_col + 16u * STRIP * strip + 4u * four;
                if (ROWS_WHOLE || row < rows()) && (COLS_WHOLE || col < cols()) {
                    store(batch, row, col, results[own + line * RESULT_STRIDE + four]);
                }
            }
            subgroupBarrier();
        }
    }
}
