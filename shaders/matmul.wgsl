// Matrix products by tiles: for every batch, store(row, col, sum over k of load_a(row, k) load_b(k, col)).
//
// Holes, whose bodies are replaced: batches, rows, cols, depth (equal for all invocations), load_a, load_b, read_ahead, store.
// They are called only with batch < batches(), row < rows(), col < cols(), k < depth(), k being slab * TILE_DEPTH + within, with
// within < TILE_DEPTH. Elements come in fours, neighbours along one
// axis; the first has a number divisible by 4 there, and is in range. Of those out of range, a load gives 0 along the
// depth and anything along the others, and store leaves them out. Each result is stored once. General convolutions run here
// too, their load holes reading windows of the image.
// Dispatch batches * ceil(rows / TILE_ROWS) * ceil(cols / TILE_COLS) workgroups in any folding; surplus ones return.
// Invocations: SIZE. Workgroup memory: 16 MEMORY bytes.
// What is read along the depth is written to memory across fours, so that invocations write different components of one: for
// backends that write such a component by reading and writing the whole vector, get_four, set_four and put_four are replaced by
// get_scalars, set_scalars and put_scalars.

// ROWS_EACH divides TILE_ROWS, COLS_EACH divides TILE_COLS; all are multiples of 4.
const TILE_ROWS: u32 = 64u;
const TILE_COLS: u32 = 64u;
const TILE_DEPTH: u32 = 8u;
const ROWS_EACH: u32 = 4u;
const COLS_EACH: u32 = 4u;
// Groups of invocations, each of which takes every SPLIT-th slab of the depth; their sums are added at the end.
const SPLIT: u32 = 1u;
// Slabs of one group in memory, 1 or 2: with 2 a turn of the loop has one barrier, with 1 it has two.
const BUFFERS: u32 = 2u;
// Rows of the blocks in which invocations are numbered over a tile; BLOCK_COLS in each.
const BLOCK_ROWS: u32 = 1u;
const BLOCK_COLS: u32 = 16u;
// Fours of a are neighbours along the rows, not along the depth.
const A_ALONG_ROWS: bool = false;
// Fours of b are neighbours along the columns, not along the depth.
const B_ALONG_COLS: bool = true;
// The depth is a whole number of slabs for each group of invocations.
const DEPTH_WHOLE: bool = false;

const FOUR: u32 = 4u;
const DOWN: u32 = TILE_ROWS / ROWS_EACH;
const ACROSS: u32 = TILE_COLS / COLS_EACH;
const GROUP: u32 = DOWN * ACROSS;
const SIZE: u32 = GROUP * SPLIT;
const BLOCK: u32 = BLOCK_ROWS * BLOCK_COLS;
const BLOCKS_ACROSS: u32 = ACROSS / BLOCK_COLS;
// What an invocation has of a tile, and a tile, in fours.
const ROW_FOURS: u32 = ROWS_EACH / 4u;
const COL_FOURS: u32 = COLS_EACH / 4u;
const TILE_ROW_FOURS: u32 = TILE_ROWS / 4u;
const TILE_COL_FOURS: u32 = TILE_COLS / 4u;
const A_FOURS: u32 = TILE_ROWS * TILE_DEPTH / 4u;
const B_FOURS: u32 = TILE_COLS * TILE_DEPTH / 4u;
const A_EACH: u32 = (A_FOURS + GROUP - 1u) / GROUP;
const B_EACH: u32 = (B_FOURS + GROUP - 1u) / GROUP;
// Fours along the depth that neighbouring invocations load, of one row or column: 32 bytes.
const RUN: u32 = 2u - TILE_DEPTH / 4u % 2u;
// Both tiles lie in memory by k. The padding spreads over the banks what is written along the depth.
const A_STRIDE: u32 = TILE_ROW_FOURS + 1u;
const B_STRIDE: u32 = TILE_COL_FOURS + 1u;
const SLAB: u32 = TILE_DEPTH * (A_STRIDE + B_STRIDE);
// Results that are added at a time: four rows of every member.
const ROUND: u32 = 4u * DOWN * TILE_COL_FOURS;
const STORES: u32 = (ROUND + SIZE - 1u) / SIZE;
const MEMORY: u32 = SPLIT * max(BUFFERS * SLAB, ROUND * min(SPLIT - 1u, 1u));

// Only one of the two is used.
var<workgroup> memory: array<vec4<f32>, MEMORY>;
var<workgroup> scalars: array<f32, 4u * MEMORY>;

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
fn load_a(batch: u32, row: u32, slab: u32, within: u32) -> vec4<f32> {
    return vec4<f32>();
}

// Columns col.. of one k, or k.. of one column.
fn load_b(batch: u32, slab: u32, within: u32, col: u32) -> vec4<f32> {
    return vec4<f32>();
}

// What is read to store columns col.. of one row, beside the sums; another structure takes its place.
struct Ahead {
    none: u32,
}

fn read_ahead(batch: u32, row: u32, col: u32) -> Ahead {
    return Ahead(0u);
}

// Columns col.. of one row.
fn store(batch: u32, row: u32, col: u32, values: vec4<f32>, ahead: Ahead) {
}

// Where four number `at` of a slab begins: its row or column, and its k. `fours` of them are as wide as the tile.
fn place(at: u32, fours: u32, along_depth: bool) -> vec2<u32> {
    if along_depth {
        let run = at / RUN;
        return vec2<u32>(run % (4u * fours), (run / (4u * fours) * RUN + at % RUN) * 4u);
    }
    return vec2<u32>(at % fours * 4u, at / fours);
}

fn get_four(four: u32) -> vec4<f32> {
    return memory[four];
}

fn set_four(four: u32, values: vec4<f32>) {
    memory[four] = values;
}

// Writes a four to its place in the slab that begins at `first`, `stride` for each k.
fn put_four(first: u32, stride: u32, at: vec2<u32>, along_depth: bool, values: vec4<f32>) {
    let four = first + at.y * stride + at.x / 4u;
    if along_depth {
        let element = at.x % 4u;
        memory[four][element] = values.x;
        memory[four + stride][element] = values.y;
        memory[four + 2u * stride][element] = values.z;
        memory[four + 3u * stride][element] = values.w;
    } else {
        memory[four] = values;
    }
}

fn get_scalars(four: u32) -> vec4<f32> {
    let at = 4u * four;
    return vec4<f32>(scalars[at], scalars[at + 1u], scalars[at + 2u], scalars[at + 3u]);
}

fn set_scalars(four: u32, values: vec4<f32>) {
    let at = 4u * four;
    scalars[at] = values.x;
    scalars[at + 1u] = values.y;
    scalars[at + 2u] = values.z;
    scalars[at + 3u] = values.w;
}

fn put_scalars(first: u32, stride: u32, at: vec2<u32>, along_depth: bool, values: vec4<f32>) {
    let four = first + at.y * stride + at.x / 4u;
    if along_depth {
        let element = 4u * four + at.x % 4u;
        scalars[element] = values.x;
        scalars[element + 4u * stride] = values.y;
        scalars[element + 8u * stride] = values.z;
        scalars[element + 12u * stride] = values.w;
    } else {
        set_scalars(four, values);
    }
}

// What member number `member` of a group loads of slab number `wanted`. Places out of range are moved into it.
// Without a branch, and without looking at what was loaded, so that drivers can put it between the arithmetic.
fn load(
    batch: u32,
    first_row: u32,
    first_col: u32,
    wanted: u32,
    member: u32,
    a: ptr<function, array<vec4<f32>, A_EACH>>,
    b: ptr<function, array<vec4<f32>, B_EACH>>,
) {
    let slab = min(wanted, (depth() - 1u) / TILE_DEPTH);
    let rest = select(depth() - 1u - slab * TILE_DEPTH, TILE_DEPTH - 1u, DEPTH_WHOLE);
    let last = vec3<u32>(rows() - 1u, min(rest, TILE_DEPTH - 1u), cols() - 1u);
    let four = last / 4u * 4u;
    let a_last = select(vec2<u32>(last.x, four.y), vec2<u32>(four.x, last.y), A_ALONG_ROWS);
    let b_last = select(vec2<u32>(last.z, four.y), vec2<u32>(four.z, last.y), B_ALONG_COLS);
    for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
        let at = vec2<u32>(first_row, 0u) + place(member + n * GROUP, TILE_ROW_FOURS, !A_ALONG_ROWS);
        let near = min(at, a_last);
        (*a)[n] = load_a(batch, near.x, slab, near.y);
    }
    for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
        let at = vec2<u32>(first_col, 0u) + place(member + n * GROUP, TILE_COL_FOURS, !B_ALONG_COLS);
        let near = min(at, b_last);
        (*b)[n] = load_b(batch, slab, near.y, near.x);
    }
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
    let block = member / BLOCK;
    let down = block / BLOCKS_ACROSS * BLOCK_ROWS + member % BLOCK / BLOCK_COLS;
    let across = block % BLOCKS_ACROSS * BLOCK_COLS + member % BLOCK_COLS;
    let slabs = (depth() + TILE_DEPTH - 1u) / TILE_DEPTH;
    let steps = (slabs + SPLIT - 1u) / SPLIT;

    // An invocation's rows and columns are fours that lie a tile's width of them apart.
    var sums: array<vec4<f32>, ROWS_EACH * COL_FOURS>;
    var a_next: array<vec4<f32>, A_EACH>;
    var b_next: array<vec4<f32>, B_EACH>;
    load(batch, first_row, first_col, part, member, &a_next, &b_next);
    for (var step = 0u; step < steps; step += 1u) {
        let a_memory = (part * BUFFERS + step % BUFFERS) * SLAB;
        let b_memory = a_memory + TILE_DEPTH * A_STRIDE;
        let first_k = (step * SPLIT + part) * TILE_DEPTH;
        for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
            let at = member + n * GROUP;
            if A_FOURS % GROUP == 0u || at < A_FOURS {
                let within = place(at, TILE_ROW_FOURS, !A_ALONG_ROWS);
                let inside = DEPTH_WHOLE || first_k + within.y < depth();
                let values = select(vec4<f32>(), a_next[n], inside);
                put_four(a_memory, A_STRIDE, within, !A_ALONG_ROWS, values);
            }
        }
        for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
            let at = member + n * GROUP;
            if B_FOURS % GROUP == 0u || at < B_FOURS {
                let within = place(at, TILE_COL_FOURS, !B_ALONG_COLS);
                let inside = DEPTH_WHOLE || first_k + within.y < depth();
                let values = select(vec4<f32>(), b_next[n], inside);
                put_four(b_memory, B_STRIDE, within, !B_ALONG_COLS, values);
            }
        }
        workgroupBarrier();
        // The last turn loads what nobody uses: a branch would keep the loads apart from the arithmetic.
        load(batch, first_row, first_col, (step + 1u) * SPLIT + part, member, &a_next, &b_next);
        for (var k = 0u; k < TILE_DEPTH; k += 1u) { // unrolled
            let a_at = a_memory + k * A_STRIDE + down;
            let b_at = b_memory + k * B_STRIDE + across;
            var b: array<vec4<f32>, COL_FOURS>;
            for (var j = 0u; j < COL_FOURS; j += 1u) { // unrolled
                b[j] = get_four(b_at + j * ACROSS);
            }
            for (var i = 0u; i < ROW_FOURS; i += 1u) { // unrolled
                let a = get_four(a_at + i * DOWN);
                for (var e = 0u; e < FOUR; e += 1u) { // unrolled
                    for (var j = 0u; j < COL_FOURS; j += 1u) { // unrolled
                        let at = (4u * i + e) * COL_FOURS + j;
                        sums[at] = fma(vec4<f32>(a[e]), b[j], sums[at]);
                    }
                }
            }
        }
        if BUFFERS == 1u {
            workgroupBarrier();
        }
    }

    // All that four rows need is on its way before the first of it is waited for. Places out of range are moved into it.
    let last_row = rows() - 1u;
    let last_col = (cols() - 1u) / 4u * 4u;
    if SPLIT == 1u {
        for (var i = 0u; i < ROW_FOURS; i += 1u) { // unrolled
            let row = first_row + 4u * (down + i * DOWN);
            var ahead: array<Ahead, FOUR * COL_FOURS>;
            for (var e = 0u; e < FOUR; e += 1u) { // unrolled
                for (var j = 0u; j < COL_FOURS; j += 1u) { // unrolled
                    let col = first_col + 4u * (across + j * ACROSS);
                    ahead[e * COL_FOURS + j] = read_ahead(batch, min(row + e, last_row), min(col, last_col));
                }
            }
            for (var e = 0u; e < FOUR; e += 1u) { // unrolled
                for (var j = 0u; j < COL_FOURS; j += 1u) { // unrolled
                    let col = first_col + 4u * (across + j * ACROSS);
                    if row + e < rows() && col < cols() {
                        let sum = sums[(4u * i + e) * COL_FOURS + j];
                        store(batch, row + e, col, sum, ahead[e * COL_FOURS + j]);
                    }
                }
            }
        }
        return;
    }
    // Round i makes the 4 DOWN rows of the tile from 4 DOWN i on; all invocations share in adding and storing.
    for (var i = 0u; i < ROW_FOURS; i += 1u) { // unrolled
        var ahead: array<Ahead, STORES>;
        for (var n = 0u; n < STORES; n += 1u) { // unrolled
            let at = invocation + n * SIZE;
            let row = first_row + 4u * DOWN * i + at / TILE_COL_FOURS;
            let col = first_col + at % TILE_COL_FOURS * 4u;
            ahead[n] = read_ahead(batch, min(row, last_row), min(col, last_col));
        }
        workgroupBarrier();
        for (var e = 0u; e < FOUR; e += 1u) { // unrolled
            let four = part * ROUND + (4u * down + e) * TILE_COL_FOURS + across;
            for (var j = 0u; j < COL_FOURS; j += 1u) { // unrolled
                set_four(four + j * ACROSS, sums[(4u * i + e) * COL_FOURS + j]);
            }
        }
        workgroupBarrier();
        for (var n = 0u; n < STORES; n += 1u) { // unrolled
            let at = invocation + n * SIZE;
            if ROUND % SIZE == 0u || at < ROUND {
                var sum = get_four(at);
                for (var other = 1u; other < SPLIT; other += 1u) {
                    sum += get_four(other * ROUND + at);
                }
                let row = first_row + 4u * DOWN * i + at / TILE_COL_FOURS;
                let col = first_col + at % TILE_COL_FOURS * 4u;
                if row < rows() && col < cols() {
                    store(batch, row, col, sum, ahead[n]);
                }
            }
        }
    }
}
