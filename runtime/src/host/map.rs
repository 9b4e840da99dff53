//! Kernels that compute each point by itself.

use wgfuse_compiler::shape::Shape;

use super::{
    Operand, Parts,
    exec::Frame,
    levels::Level,
    program::{Phase, Program, Source},
    scratch,
};

/// Points of a block: a few registers of them stay in the first-level cache.
pub const BLOCK: usize = 1024;

pub struct Map {
    count: usize,
    rank: usize,
    program: Program,
}

impl Map {
    pub fn new(parts: &Parts, space: &Shape) -> Map {
        let vars: Vec<usize> = (0..space.rank()).collect();
        let count = space.count();
        let source = Source {
            body: parts.body,
            space: parts.space,
            tensors: parts.tensors,
            types: parts.types,
            rows: &vars,
            inner: &[],
            params: &[],
            params_at: Level::Rows,
            resident: true,
            capacity: [BLOCK.min(count.max(1)), 0],
        };
        let stores = parts.stores.iter().map(|it| (it, Level::Rows)).collect();
        let program = Program::new(&source, &[Phase { roots: Vec::new(), stores }]);
        Map { count, rank: space.rank(), program }
    }

    /// # Safety
    /// As `host::run`.
    pub unsafe fn run(&self, operands: &[Operand]) {
        let values = smallvec::SmallVec::<[i64; 8]>::from_elem(0, self.rank);
        let blocks = self.count.div_ceil(BLOCK);
        let tasks = blocks.min(4 * scratch::threads());
        let work = self.count * self.program.ins.len();
        scratch::each(tasks, work, |task| {
            scratch::with(self.program.bytes, |base| unsafe {
                self.program.start(base);
                for block in blocks * task / tasks..blocks * (task + 1) / tasks {
                    let start = block * BLOCK;
                    let count = BLOCK.min(self.count - start);
                    let frame = Frame {
                        base,
                        operands,
                        values: &values,
                        start: [start, 0],
                        count: [count, 0],
                        inner: 1,
                    };
                    self.program.phase(0, &frame);
                }
            })
        });
    }
}
