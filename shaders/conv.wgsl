// Small sums directly, one invocation a result: for every batch, store(row, col, sum over k of load_a(row, k) load_b(k, col)).
//
// For grouped and depthwise convolution (batch: image and group; rows: positions; cols: output channels of the group; depth:
// input channels of the group by window) and other products of small depth. General convolutions run through matmul.wgsl.
// Holes, whose bodies are replaced: batches, rows, cols, depth, load_a, load_b, store. They are called only with
// batch < batches(), row < rows(), col < cols(), k < depth(), and store once for each result.
// Dispatch ceil(batches * rows * cols / SIZE) workgroups in any folding; surplus invocations return. The number of invocations
// must stay below 2^32. Invocations: SIZE. No workgroup memory.

const SIZE: u32 = 64u;
// Neighbouring invocations take neighbouring rows, not neighbouring columns.
const ALONG_ROWS: bool = true;

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
    let at = (group.x + groups.x * (group.y + groups.y * group.z)) * SIZE + invocation;
    if at >= batches() * rows() * cols() {
        return;
    }
    let inner = select(cols(), rows(), ALONG_ROWS);
    let outer = select(rows(), cols(), ALONG_ROWS);
    let line = at / inner;
    let batch = line / outer;
    let i = at - line * inner;
    let o = line - batch * outer;
    let row = select(o, i, ALONG_ROWS);
    let col = select(i, o, ALONG_ROWS);
    var sum = 0.0;
    for (var k = 0u; k < depth(); k += 1u) {
        sum = fma(load_a(batch, row, k), load_b(batch, k, col), sum);
    }
    store(batch, row, col, sum);
}
