// Matrix products by tiles on cooperative matrices of f16 that add up in f32: as `matmul.wgsl`, whose holes and dispatch
// these are, for operands that f16 holds exactly and, PAIRED, for those of f32.
//
// PAIRED, every element, times SCALE, is two of f16: high, its first 11 bits, and low, the next 11, which is held LOW times as large.
// Of the four products of two such that of the low halves is less than f32 keeps; the others are added up, those with a low half
// apart. (Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
// performance", 2022.) Matrix units may round towards zero, so they add up the products of one slab at most; what adds up
// the slabs rounds to nearest.
// A pair is off by 2^-22 of the element at most, or by 2^-25 / SCALE, the larger. Where that would be more than 2^-21 of the
// largest element of its row of a, or column of b, and where that largest element is too large for f16, infinite or NaN, the
// results of the row or column are added up once more in f32, one by one.
//
// All subgroups have SUBGROUP invocations. Each makes SUB_ROWS x SUB_COLS of a workgroup's results.
// Invocations: SIZE. Workgroup memory: 8 BUFFERS PARTS (A_MEMORY + B_MEMORY) + 16 SUBGROUPS OWN bytes, and PAIRED
// 4 (TILE_ROWS + TILE_COLS) more.
enable f16;
enable wgpu_cooperative_matrix;

// f16 that an element is made of: 1 or 2.
const PARTS: u32 = 1u;
// What an element is held in before it lies in a tile: f16, or f32 where it is two of them.
alias Held = vec4<f16>;
// All are multiples of 16, and those of a subgroup divide those of the tile; SIZE divides A_FOURS and B_FOURS, and PAIRED is a
// multiple of a tile's lines.
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
// Neighbours that an invocation loads at once: 4, or 8, where SIZE divides half of A_FOURS and of B_FOURS. PAIRED 4.
const AT_ONCE: u32 = 4u;
// Fours of a are neighbours along the rows, not along the depth.
const A_ALONG_ROWS: bool = false;
// Fours of b are neighbours along the columns, not along the depth.
const B_ALONG_COLS: bool = true;
// The depth is a whole number of slabs.
const DEPTH_WHOLE: bool = false;
// The rows and columns are whole numbers of tiles.
const ROWS_WHOLE: bool = false;
const COLS_WHOLE: bool = false;

const PAIRED: bool = PARTS == 2u;
const SCALE: f32 = 128.0;
// What multiplies by SCALE if added to the bits of a number.
const SCALING: u32 = 0x03800000u;
const LOW: f32 = 2048.0;
// The least number of f16 that has all its bits.
const NORMAL: f32 = 6.103515625e-5;
// Between which the largest element of a row or column, times SCALE, may lie.
const LEAST: f32 = 0.0625;
const MOST: f32 = 65472.0;

const SUBS_ACROSS: u32 = TILE_COLS / SUB_COLS;
const SUBGROUPS: u32 = TILE_ROWS / SUB_ROWS * SUBS_ACROSS;
const SIZE: u32 = SUBGROUPS * SUBGROUP;
// A subgroup's results in matrices of 16 x 16, and a slab's steps.
const DOWN: u32 = SUB_ROWS / 16u;
const ACROSS: u32 = SUB_COLS / 16u;
const STEPS: u32 = TILE_DEPTH / 16u;
const B_HELD: u32 = STEPS * ACROSS;
const A_FOURS: u32 = TILE_ROWS * TILE_DEPTH / 4u;
const B_FOURS: u32 = TILE_COLS * TILE_DEPTH / 4u;
const A_EACH: u32 = A_FOURS / SIZE;
const B_EACH: u32 = B_FOURS / SIZE;
const EIGHTS: bool = AT_ONCE == 8u;
// Fours that are loaded together.
const VECTOR: u32 = AT_ONCE / 4u;
const A_EIGHTS: u32 = max(A_EACH / 2u, 1u);
const B_EIGHTS: u32 = max(B_EACH / 2u, 1u);
// Each tile lies in memory as it is loaded, in lines along its fours, the high halves of a slab before the low ones. The padding
// spreads a column of lines over the banks.
const A_LINE: u32 = select(TILE_DEPTH, TILE_ROWS, A_ALONG_ROWS) / 4u;
const B_LINE: u32 = select(TILE_DEPTH, TILE_COLS, B_ALONG_COLS) / 4u;
const A_STRIDE: u32 = A_LINE + 2u;
const B_STRIDE: u32 = B_LINE + 2u;
const A_MEMORY: u32 = A_FOURS / A_LINE * A_STRIDE;
const B_MEMORY: u32 = B_FOURS / B_LINE * B_STRIDE;
const A_SLAB: u32 = PARTS * A_MEMORY;
const B_SLAB: u32 = PARTS * B_MEMORY;

const STRIPS: u32 = ACROSS / STRIP;
const RESULT_STRIDE: u32 = 4u * STRIP + 1u;
const OWN: u32 = 16u * RESULT_STRIDE;
const RESULTS_EACH: u32 = 64u * STRIP / SUBGROUP;
const AHEAD: u32 = STRIPS * RESULTS_EACH;

var<workgroup> a_tile: array<vec4<f16>, BUFFERS * A_SLAB>;
var<workgroup> b_tile: array<vec4<f16>, BUFFERS * B_SLAB>;
// A strip of results for each subgroup.
var<workgroup> results: array<vec4<f32>, SUBGROUPS * OWN>;
// The largest element of each row of a and column of b, without its sign, as bits.
var<workgroup> a_largest: array<atomic<u32>, TILE_ROWS>;
var<workgroup> b_largest: array<atomic<u32>, TILE_COLS>;

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

// As load_a and load_b: eight f16, two a word, as an invocation keeps them from slab to slab.
fn eight_a(batch: u32, row: u32, slab: u32, within: u32) -> vec4<u32> {
    return vec4<u32>();
}

fn eight_b(batch: u32, slab: u32, within: u32, col: u32) -> vec4<u32> {
    return vec4<u32>();
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

// Half of an eight.
fn half_of(eight: vec4<u32>, second: bool) -> vec4<f16> {
    let words = select(eight.xy, eight.zw, second);
    return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}

// Line and place in the line of four number n of an invocation, in a tile of lines of `fours`. Neighbouring invocations store 128
// bytes at once: where lines are shorter, these are of lines so far apart that with their padding they lie in all banks, each
// once. PAIRED, lines stand in their order: what is loaded in order was faster there than what is stored without conflicts.
fn place(invocation: u32, n: u32, fours: u32) -> vec2<u32> {
    let vectors = fours / VECTOR;
    let at = invocation + n / VECTOR * SIZE;
    let line = at / vectors;
    let together = max(16u / fours, 1u);
    let spread = line / 8u * 8u + line % together * (8u / together) + line % 8u / together;
    return vec2<u32>(select(spread, line, PAIRED), at % vectors * VECTOR + n % VECTOR);
}

// Row or column, and k, within the tile of that four. Lines are rows or columns, or with `across` one of each k.
fn within(invocation: u32, n: u32, fours: u32, across: bool) -> vec2<u32> {
    let it = place(invocation, n, fours);
    return select(vec2<u32>(it.x, it.y * 4u), vec2<u32>(it.y * 4u, it.x), across);
}

// What an invocation loads of slab number `wanted`. Places out of range are moved into it. Without a branch, and
// without looking at what was loaded, so that drivers can put it between the arithmetic.
fn load(
    batch: u32,
    first_row: u32,
    first_col: u32,
    wanted: u32,
    invocation: u32,
    a: ptr<function, array<Held, A_EACH>>,
    b: ptr<function, array<Held, B_EACH>>,
    a_eights: ptr<function, array<vec4<u32>, A_EIGHTS>>,
    b_eights: ptr<function, array<vec4<u32>, B_EIGHTS>>,
) {
    let slab = min(wanted, (depth() - 1u) / TILE_DEPTH);
    let rest = select(depth() - 1u - slab * TILE_DEPTH, TILE_DEPTH - 1u, DEPTH_WHOLE);
    let last = vec3<u32>(rows() - 1u, min(rest, TILE_DEPTH - 1u), cols() - 1u);
    let first = last / AT_ONCE * AT_ONCE;
    let a_last = select(vec2<u32>(last.x, first.y), vec2<u32>(first.x, last.y), A_ALONG_ROWS);
    let b_last = select(vec2<u32>(last.z, first.y), vec2<u32>(first.z, last.y), B_ALONG_COLS);
    if EIGHTS { // chosen
        for (var n = 0u; n < A_EIGHTS; n += 1u) { // unrolled
            let at = vec2<u32>(first_row, 0u) + within(invocation, 2u * n, A_LINE, A_ALONG_ROWS);
            let near = min(at, a_last);
            (*a_eights)[n] = eight_a(batch, near.x, slab, near.y);
        }
        for (var n = 0u; n < B_EIGHTS; n += 1u) { // unrolled
            let at = vec2<u32>(first_col, 0u) + within(invocation, 2u * n, B_LINE, B_ALONG_COLS);
            let near = min(at, b_last);
            (*b_eights)[n] = eight_b(batch, slab, near.y, near.x);
        }
    } else {
        for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
            let at = vec2<u32>(first_row, 0u) + within(invocation, n, A_LINE, A_ALONG_ROWS);
            let near = min(at, a_last);
            (*a)[n] = Held(load_a(batch, near.x, slab, near.y));
        }
        for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
            let at = vec2<u32>(first_col, 0u) + within(invocation, n, B_LINE, B_ALONG_COLS);
            let near = min(at, b_last);
            (*b)[n] = Held(load_b(batch, slab, near.y, near.x));
        }
    }
}

// The high halves of `four` times SCALE, which f16 holds exactly: rounded to 11 bits by an addition that scales as well, and 0
// where f16 has less than those. Conversions there and back would do if no driver took them for the identity. Infinity and
// NaN give nonsense; they are in the low halves too, and what is lost is added up again.
fn high_of(four: vec4<f32>) -> vec4<f32> {
    let bits = (bitcast<vec4<u32>>(four) + vec4<u32>(SCALING + 0x1000u)) & vec4<u32>(0xffffe000u);
    return select(bitcast<vec4<f32>>(bits), vec4<f32>(), abs(four) < vec4<f32>(NORMAL / SCALE));
}

fn low_of(four: vec4<f32>, high: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(fma(four, vec4<f32>(SCALE), -high) * LOW);
}

// NaN may be taken for 0: it spreads to the results by itself.
fn size_of(four: vec4<f32>) -> vec4<f32> {
    return abs(four);
}

fn largest(sizes: vec4<f32>) -> f32 {
    return max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
}

// Whether the results of a row or column with that largest element must be added up in f32.
fn lost(largest: u32) -> bool {
    return largest > bitcast<u32>(MOST) || (largest > 0u && largest < bitcast<u32>(LEAST));
}

// Results col.. of one row, added up in f32.
fn added_up(batch: u32, row: u32, col: u32) -> vec4<f32> {
    var sums: vec4<f32>;
    let last = cols() - 1u;
    let places = min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
    for (var k = 0u; k < depth(); k += 1u) {
        let slab = k / TILE_DEPTH;
        let one = k % TILE_DEPTH;
        let first = one / 4u * 4u;
        let four = one % 4u;
        var a: f32;
        if A_ALONG_ROWS { // chosen
            a = load_a(batch, row / 4u * 4u, slab, one)[row % 4u];
        } else {
            a = load_a(batch, row, slab, first)[four];
        }
        var b: vec4<f32>;
        if B_ALONG_COLS { // chosen
            b = load_b(batch, slab, one, col);
        } else {
            b.x = load_b(batch, slab, first, places.x)[four];
            b.y = load_b(batch, slab, first, places.y)[four];
            b.z = load_b(batch, slab, first, places.z)[four];
            b.w = load_b(batch, slab, first, places.w)[four];
        }
        sums = fma(vec4<f32>(a), b, sums);
    }
    return sums;
}

// Those of the results `four` of columns col.. of the tile and one row of it that are lost are added up again.
fn mended(four: vec4<f32>, batch: u32, first_row: u32, first_col: u32, row: u32, col: u32) -> vec4<f32> {
    let all = lost(atomicLoad(&a_largest[row]));
    let again = vec4<bool>(
        all || lost(atomicLoad(&b_largest[col])),
        all || lost(atomicLoad(&b_largest[col + 1u])),
        all || lost(atomicLoad(&b_largest[col + 2u])),
        all || lost(atomicLoad(&b_largest[col + 3u])),
    );
    if any(again) {
        return select(four, added_up(batch, first_row + row, first_col + col), again);
    }
    return four;
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

    if PAIRED { // chosen
        for (var at = invocation; at < TILE_ROWS; at += SIZE) {
            atomicStore(&a_largest[at], 0u);
        }
        for (var at = invocation; at < TILE_COLS; at += SIZE) {
            atomicStore(&b_largest[at], 0u);
        }
    }

    let zero = coop_mat16x16<f32, C>();
    var sums: array<coop_mat16x16<f32, C>, DOWN * ACROSS>;
    var a_next: array<Held, A_EACH>;
    var b_next: array<Held, B_EACH>;
    var a_eights: array<vec4<u32>, A_EIGHTS>;
    var b_eights: array<vec4<u32>, B_EIGHTS>;
    // Of the rows or columns of each four; of those of a line, where all fours of an invocation lie in the same ones.
    var a_sizes: array<f32, A_EACH>;
    var b_sizes: array<f32, B_EACH>;
    var a_line: vec4<f32>;
    var b_line: vec4<f32>;
    load(batch, first_row, first_col, 0u, invocation, &a_next, &b_next, &a_eights, &b_eights);
    var step = 0u;
    while step < steps {
        for (var slab = 0u; slab < BUFFERS; slab += 1u) { // unrolled
            if step >= steps {
                break;
            }
            let first_k = step * TILE_DEPTH;
            for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
                let at = place(invocation, n, A_LINE);
                let k = first_k + within(invocation, n, A_LINE, A_ALONG_ROWS).y;
                let inside = DEPTH_WHOLE || k < depth();
                let to = slab * A_SLAB + at.x * A_STRIDE + at.y;
                if EIGHTS { // chosen
                    a_tile[to] = select(vec4<f16>(), half_of(a_eights[n / 2u], n % 2u == 1u), inside);
                } else {
                    let four = select(Held(), a_next[n], inside);
                    if PAIRED { // chosen
                        let wide = vec4<f32>(four);
                        let high = high_of(wide);
                        a_tile[to] = vec4<f16>(high);
                        a_tile[A_MEMORY + to] = low_of(wide, high);
                        if A_ALONG_ROWS { // chosen
                            a_line = max(a_line, size_of(wide));
                        } else {
                            a_sizes[n] = max(a_sizes[n], largest(size_of(wide)));
                        }
                    } else {
                        a_tile[to] = vec4<f16>(four);
                    }
                }
            }
            for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
                let at = place(invocation, n, B_LINE);
                let k = first_k + within(invocation, n, B_LINE, B_ALONG_COLS).y;
                let inside = DEPTH_WHOLE || k < depth();
                let to = slab * B_SLAB + at.x * B_STRIDE + at.y;
                if EIGHTS { // chosen
                    b_tile[to] = select(vec4<f16>(), half_of(b_eights[n / 2u], n % 2u == 1u), inside);
                } else {
                    let four = select(Held(), b_next[n], inside);
                    if PAIRED { // chosen
                        let wide = vec4<f32>(four);
                        let high = high_of(wide);
                        b_tile[to] = vec4<f16>(high);
                        b_tile[B_MEMORY + to] = low_of(wide, high);
                        if B_ALONG_COLS { // chosen
                            b_line = max(b_line, size_of(wide));
                        } else {
                            b_sizes[n] = max(b_sizes[n], largest(size_of(wide)));
                        }
                    } else {
                        b_tile[to] = vec4<f16>(four);
                    }
                }
            }
            workgroupBarrier();
            // The last turn loads what nobody uses.
            load(batch, first_row, first_col, step + 1u, invocation, &a_next, &b_next, &a_eights, &b_eights);
            let a_slab = slab * A_SLAB + a_first;
            let b_slab = slab * B_SLAB + b_first;
            if PAIRED { // chosen
                var b: array<coop_mat16x16<f16, B>, B_HELD>;
                var b_low: array<coop_mat16x16<f16, B>, B_HELD>;
                for (var s = 0u; s < STEPS; s += 1u) { // unrolled
                    for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                        if B_ALONG_COLS { // chosen
                            let at = b_slab + 16u * s * B_STRIDE + 4u * j;
                            b[s * ACROSS + j] = coopLoadT<coop_mat16x16<f16, B>>(&b_tile[at], B_STRIDE);
                            b_low[s * ACROSS + j] = coopLoadT<coop_mat16x16<f16, B>>(&b_tile[B_MEMORY + at], B_STRIDE);
                        } else {
                            let at = b_slab + 16u * j * B_STRIDE + 4u * s;
                            b[s * ACROSS + j] = coopLoad<coop_mat16x16<f16, B>>(&b_tile[at], B_STRIDE);
                            b_low[s * ACROSS + j] = coopLoad<coop_mat16x16<f16, B>>(&b_tile[B_MEMORY + at], B_STRIDE);
                        }
                    }
                }
                for (var i = 0u; i < DOWN; i += 1u) { // unrolled
                    var a: array<coop_mat16x16<f16, A>, STEPS>;
                    var a_low: array<coop_mat16x16<f16, A>, STEPS>;
                    for (var s = 0u; s < STEPS; s += 1u) { // unrolled
                        if A_ALONG_ROWS { // chosen
                            let at = a_slab + 16u * s * A_STRIDE + 4u * i;
                            a[s] = coopLoad<coop_mat16x16<f16, A>>(&a_tile[at], A_STRIDE);
                            a_low[s] = coopLoad<coop_mat16x16<f16, A>>(&a_tile[A_MEMORY + at], A_STRIDE);
                        } else {
                            let at = a_slab + 16u * i * A_STRIDE + 4u * s;
                            a[s] = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[at], A_STRIDE);
                            a_low[s] = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[A_MEMORY + at], A_STRIDE);
                        }
                    }
                    for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                        var high = zero;
                        var low = zero;
                        for (var s = 0u; s < STEPS; s += 1u) { // unrolled
                            low = coopMultiplyAdd(a[s], b_low[s * ACROSS + j], low);
                            low = coopMultiplyAdd(a_low[s], b[s * ACROSS + j], low);
                            high = coopMultiplyAdd(a[s], b[s * ACROSS + j], high);
                        }
                        sums[i * ACROSS + j] = sums[i * ACROSS + j] + (high + low * (1.0 / LOW));
                    }
                }
            } else {
                for (var s = 0u; s < STEPS; s += 1u) { // unrolled
                    var b: array<coop_mat16x16<f16, B>, ACROSS>;
                    for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                        if B_ALONG_COLS { // chosen
                            b[j] = coopLoadT<coop_mat16x16<f16, B>>(&b_tile[b_slab + 16u * s * B_STRIDE + 4u * j], B_STRIDE);
                        } else {
                            b[j] = coopLoad<coop_mat16x16<f16, B>>(&b_tile[b_slab + 16u * j * B_STRIDE + 4u * s], B_STRIDE);
                        }
                    }
                    for (var i = 0u; i < DOWN; i += 1u) { // unrolled
                        var a: coop_mat16x16<f16, A>;
                        if A_ALONG_ROWS { // chosen
                            a = coopLoad<coop_mat16x16<f16, A>>(&a_tile[a_slab + 16u * s * A_STRIDE + 4u * i], A_STRIDE);
                        } else {
                            a = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[a_slab + 16u * i * A_STRIDE + 4u * s], A_STRIDE);
                        }
                        for (var j = 0u; j < ACROSS; j += 1u) { // unrolled
                            sums[i * ACROSS + j] = coopMultiplyAdd(a, b[j], sums[i * ACROSS + j]);
                        }
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

    if PAIRED { // chosen
        if A_ALONG_ROWS { // chosen
            let row = within(invocation, 0u, A_LINE, true).x;
            atomicMax(&a_largest[row], bitcast<u32>(SCALE * a_line.x));
            atomicMax(&a_largest[row + 1u], bitcast<u32>(SCALE * a_line.y));
            atomicMax(&a_largest[row + 2u], bitcast<u32>(SCALE * a_line.z));
            atomicMax(&a_largest[row + 3u], bitcast<u32>(SCALE * a_line.w));
        } else {
            for (var n = 0u; n < A_EACH; n += 1u) { // unrolled
                atomicMax(&a_largest[place(invocation, n, A_LINE).x], bitcast<u32>(SCALE * a_sizes[n]));
            }
        }
        if B_ALONG_COLS { // chosen
            let col = within(invocation, 0u, B_LINE, true).x;
            atomicMax(&b_largest[col], bitcast<u32>(SCALE * b_line.x));
            atomicMax(&b_largest[col + 1u], bitcast<u32>(SCALE * b_line.y));
            atomicMax(&b_largest[col + 2u], bitcast<u32>(SCALE * b_line.z));
            atomicMax(&b_largest[col + 3u], bitcast<u32>(SCALE * b_line.w));
        } else {
            for (var n = 0u; n < B_EACH; n += 1u) { // unrolled
                atomicMax(&b_largest[place(invocation, n, B_LINE).x], bitcast<u32>(SCALE * b_sizes[n]));
            }
        }
        workgroupBarrier();
    }
    // Whether anything of a subgroup's results is lost.
    var spoilt = false;
    if PAIRED { // chosen
        for (var at = lane; at < SUB_ROWS; at += SUBGROUP) {
            spoilt = spoilt || lost(atomicLoad(&a_largest[sub_row + at]));
        }
        for (var at = lane; at < SUB_COLS; at += SUBGROUP) {
            spoilt = spoilt || lost(atomicLoad(&b_largest[sub_col + at]));
        }
        spoilt = subgroupAny(spoilt);
    }

    let own = subgroup * OWN;
    let last_row = rows() - 1u;
    let last_col = (cols() - 1u) / 4u * 4u;
    for (var i = 0u; i < DOWN; i += 1u) { // unrolled
        // All that these rows need is on its way before the first of it is waited for. Places out of range are moved into it.
        var ahead: array<Ahead, AHEAD>;
        for (var strip = 0u; strip < STRIPS; strip += 1u) { // unrolled
            for (var n = 0u; n < RESULTS_EACH; n += 1u) { // unrolled
                let at = lane + n * SUBGROUP;
                let row = first_row + sub_row + 16u * i + at / (4u * STRIP);
                let col = first_col + sub_col + 16u * STRIP * strip + at % (4u * STRIP) * 4u;
                ahead[strip * RESULTS_EACH + n] = read_ahead(batch, min(row, last_row), min(col, last_col));
            }
        }
        for (var strip = 0u; strip < STRIPS; strip += 1u) { // unrolled
            for (var j = 0u; j < STRIP; j += 1u) { // unrolled
                coopStoreT(sums[i * ACROSS + strip * STRIP + j], &results[own + 4u * j], RESULT_STRIDE);
            }
            subgroupBarrier();
            for (var n = 0u; n < RESULTS_EACH; n += 1u) { // unrolled
                let at = lane + n * SUBGROUP;
                let line = at / (4u * STRIP);
                let four = at % (4u * STRIP);
                let row = sub_row + 16u * i + line;
                let col = sub_col + 16u * STRIP * strip + 4u * four;
                if (ROWS_WHOLE || first_row + row < rows()) && (COLS_WHOLE || first_col + col < cols()) {
                    var made = results[own + line * RESULT_STRIDE + four];
                    if PAIRED { // chosen
                        made *= 1.0 / (SCALE * SCALE);
                        if spoilt {
                            made = mended(made, batch, first_row, first_col, row, col);
                        }
                    }
                    store(batch, first_row + row, first_col + col, made, ahead[strip * RESULTS_EACH + n]);
                }
            }
            subgroupBarrier();
        }
    }
}
