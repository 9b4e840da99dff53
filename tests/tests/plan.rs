//! Plans of random graphs: their memory, run step by step on bytes, gives the graph's values; a broken plan is noticed.

use wgfuse_compiler::{
    codegen::{Binding, Shader},
    dtype::DType,
    graph::{Graph, builder::GraphBuilder, eval::eval},
    lower::{self, TensorId, TensorInfo, eval::Memory},
    options::Options,
    partition, passes,
    plan::{self, BufferRole, Plan, Port, Slice, Step, bytes_on, device_bytes},
    scalar::{BinaryOp, Scalar},
    schedule::{self, Schedule},
    shape::{Shape, Type},
    target::{Place, Target},
    tensor::Tensor,
};
use wgfuse_tests::{compare::assert_close, random::Random};

/// A graph whose values have all lifetimes there are: chains, residual sums, outputs read again, outputs given twice,
/// inputs and constants handed out, and parts in f64 that no GPU runs.
fn random_graph(seed: u64) -> Graph {
    let mut random = Random::new(seed);
    let mut b = GraphBuilder::new();
    let shape = Shape::from([1 + random.below(4), 1 + random.below(300)]);
    let weight = random.tensor(&Type::new(DType::F32, shape.clone()), 1);
    let mut values = vec![
        b.input("x", DType::F32, shape.clone()).unwrap(),
        b.input("y", DType::F32, shape.clone()).unwrap(),
        b.constant(weight),
    ];
    b.input("unused", DType::F32, [3]).unwrap();
    for _ in 0..3 + random.below(15) {
        let (x, y) = (*random.pick(&values), *random.pick(&values[values.len().saturating_sub(4)..]));
        let new = match random.below(6) {
            0 => b.softmax(x, 1).unwrap(),
            1 => {
                let sum = b.sum(x, &[1], true).unwrap();
                b.binary(BinaryOp::Add, sum, y).unwrap()
            }
            2 => {
                let wide = b.cast(x, DType::F64).unwrap();
                let wide = b.tanh(wide).unwrap();
                b.cast(wide, DType::F32).unwrap()
            }
            3 => b.tanh(x).unwrap(),
            _ => b.binary(BinaryOp::Mul, x, y).unwrap(),
        };
        values.push(new);
    }
    for at in 0..1 + random.below(4) {
        b.output(format!("o{at}"), *random.pick(&values)).unwrap();
    }
    b.output("last", *values.last().unwrap()).unwrap();
    b.output("again", *values.last().unwrap()).unwrap();
    b.finish().unwrap()
}

fn scheduled(graph: &Graph, target: &Target, fuse: bool) -> (partition::Partition, Schedule) {
    let options = Options { fuse, ..Options::default() };
    let graph = passes::optimise(graph.clone(), target, &options).unwrap();
    let parts = partition::split(&graph, target, &options).unwrap();
    let schedule = schedule::schedule(lower::lower(&parts), target, &options);
    (parts, schedule)
}

/// Shaders that bind every tensor whole and hold no code.
fn bindings_only(schedule: &Schedule) -> Vec<Option<Shader>> {
    let whole =
        |tensor: TensorId| Binding { tensor, offset: 0, len: device_bytes(&schedule.tensors[tensor].ty) };
    let shader = |kernel: &schedule::Kernel| Shader {
        module: naga::Module::default().into(),
        workgroup_size: [1; 3],
        groups: [1; 3],
        bindings: kernel.tensors.iter().map(|&it| whole(it)).collect(),
        key: 0,
    };
    schedule.kernels.iter().map(|it| (it.place == Place::Gpu).then(|| shader(it))).collect()
}

/// Runs a plan on bytes, kernels by their slow evaluator.
struct Machine<'a> {
    plan: &'a Plan,
    tensors: &'a slotmap::SlotMap<TensorId, TensorInfo>,
    memory: Vec<Vec<u8>>,
}

impl Machine<'_> {
    fn write(&mut self, place: Place, slice: &Slice, values: &[Scalar], dtype: DType) {
        let bytes: Vec<u8> = (values.iter())
            .flat_map(|it| match (place, dtype) {
                (_, DType::F32) => (it.as_f64() as f32).to_le_bytes().to_vec(),
                (Place::Cpu, DType::F64) => it.as_f64().to_le_bytes().to_vec(),
                (place, dtype) => panic!("{dtype} on {place:?}"),
            })
            .collect();
        assert_eq!(bytes.len() as u64, slice.len);
        let (start, end) = (slice.offset as usize, slice.end() as usize);
        self.memory[slice.buffer.0 as usize][start..end].copy_from_slice(&bytes);
    }

    fn read(&self, slice: &Slice, ty: &Type) -> Tensor {
        let bytes = &self.memory[slice.buffer.0 as usize][slice.offset as usize..slice.end() as usize];
        Tensor::new(ty.clone(), bytes.to_vec().into()).unwrap()
    }

    fn port(&mut self, port: &Port, value: &Tensor) {
        let values: Vec<Scalar> = value.scalars().collect();
        for (place, slice) in [(Place::Gpu, port.device), (Place::Cpu, port.host)] {
            if let Some(slice) = slice {
                self.write(place, &slice, &values, value.dtype());
            }
        }
    }

    fn kernel(&mut self, number: usize, place: Place, slices: &[Slice]) {
        let kernel = &self.plan.kernels[number].kernel;
        let mut memory = Memory::new();
        for (&tensor, slice) in kernel.tensors.iter().zip(slices) {
            if !kernel.stores.iter().any(|it| it.tensor == tensor) {
                memory.insert(tensor, self.read(slice, &self.tensors[tensor].ty).scalars().collect());
            }
        }
        schedule::eval::eval_kernel(kernel, self.tensors, &mut memory);
        for (&tensor, slice) in kernel.tensors.iter().zip(slices) {
            if kernel.stores.iter().any(|it| it.tensor == tensor) {
                self.write(place, slice, &memory[tensor], self.tensors[tensor].ty.dtype);
            }
        }
    }

    fn run(&mut self, inputs: &[Tensor]) -> Vec<Tensor> {
        let plan = self.plan;
        for (port, value) in plan.inputs.iter().zip(inputs) {
            self.port(port, value);
        }
        for constant in &plan.constants {
            let mut graph = plan.constant_graph.clone();
            graph.outputs.retain(|it| it.value == constant.value);
            self.port(&constant.port, &eval(&graph, &[]).unwrap()[0]);
        }
        for step in &plan.steps {
            match step {
                Step::Dispatch { kernel, bindings, .. } => self.kernel(*kernel, Place::Gpu, bindings),
                Step::Host { kernel, tensors } => self.kernel(*kernel, Place::Cpu, tensors),
                Step::Download { ty, from, to, .. } => {
                    let value: Vec<Scalar> = self.read(from, ty).scalars().collect();
                    self.write(Place::Cpu, to, &value, ty.dtype);
                }
                Step::Upload { ty, from, to, .. } => {
                    let value: Vec<Scalar> = self.read(from, ty).scalars().collect();
                    self.write(Place::Gpu, to, &value, ty.dtype);
                }
            }
        }
        let output = |it: &Port| self.read(&it.host.or(it.device).unwrap(), &it.ty);
        plan.outputs.iter().map(output).collect()
    }
}

fn targets() -> [Target; 3] {
    let small = Target { max_buffer_size: 6 << 10, ..Target::webgpu_minimum() };
    [Target::webgpu_minimum(), small, Target::cpu()]
}

fn made(graph: &Graph, target: &Target, fuse: bool) -> (Plan, Schedule) {
    let (parts, schedule) = scheduled(graph, target, fuse);
    let shaders = bindings_only(&schedule);
    let plan = plan::plan(&parts, schedule.clone(), shaders, target, &Options::default()).unwrap();
    (plan, schedule)
}

#[test]
fn random_plans_give_the_graphs_values() {
    for seed in 0..60 {
        let graph = random_graph(seed);
        let mut random = Random::new(seed + 1000);
        let inputs: Vec<Tensor> = graph.inputs().iter().map(|it| random.tensor(&it.ty, 2)).collect();
        let expected = eval(&graph, &inputs).unwrap();
        for (number, target) in targets().iter().enumerate() {
            for fuse in [false, true] {
                let (plan, schedule) = made(&graph, target, fuse);
                let what = format!("seed {seed}, target {number}, fuse {fuse}");
                assert_eq!(plan::verify(&plan), Vec::<String>::new(), "{what}\n{plan}");
                let memory = plan.buffers.iter().map(|it| vec![0xab; it.size as usize]).collect();
                let mut machine = Machine { plan: &plan, tensors: &schedule.tensors, memory };
                assert_close(&what, &machine.run(&inputs), &expected, 1e-4, 1e-5);
            }
        }
    }
}

#[test]
fn broken_plans_are_noticed() {
    let (mut overlaps, mut barriers) = (0, 0);
    for seed in 0..40 {
        let (plan, _) = made(&random_graph(seed), &Target::webgpu_minimum(), false);
        for at in 0..plan.steps.len() {
            let mut broken = plan.clone();
            broken.steps.remove(at);
            assert!(!plan::verify(&broken).is_empty(), "seed {seed} without step {at}\n{plan}");
            let mut broken = plan.clone();
            if let Step::Dispatch { barrier, .. } = &mut broken.steps[at]
                && std::mem::take(barrier)
            {
                barriers += 1;
                assert!(!plan::verify(&broken).is_empty(), "seed {seed}, no barrier at {at}\n{plan}");
            }
            let mut broken = plan.clone();
            if let Step::Dispatch { bindings, .. } = &mut broken.steps[at]
                && let [first, .., last] = bindings.as_mut_slice()
                && first.len == last.len
            {
                overlaps += 1;
                *last = *first;
                assert!(!plan::verify(&broken).is_empty(), "seed {seed}, overlap at {at}\n{plan}");
            }
        }
    }
    assert!(overlaps > 20 && barriers > 20, "{overlaps} {barriers}");
}

#[test]
fn two_shapes_share_the_keys_of_their_constants() {
    let table = Random::new(1).tensor(&Type::new(DType::F32, [300, 300]), 1);
    let keys = |rows: usize| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [rows, 300]).unwrap();
        let w = b.constant(table.clone());
        let y = b.matmul(x, w).unwrap();
        b.output("y", y).unwrap();
        let (plan, _) = made(&b.finish().unwrap(), &Target::cpu(), true);
        plan.constants.iter().map(|it| it.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(3), keys(4));
    assert_eq!(keys(3).len(), 1);
}

#[test]
fn what_no_buffer_holds_is_an_error() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3000]).unwrap();
    let x = b.tanh(x).unwrap();
    b.output("y", x).unwrap();
    let graph = b.finish().unwrap();
    let (parts, schedule) = scheduled(&graph, &Target::webgpu_minimum(), true);
    let target = Target { max_buffer_size: 6 << 10, ..Target::webgpu_minimum() };
    let shaders = bindings_only(&schedule);
    let error = plan::plan(&parts, schedule, shaders, &target, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("f32[3000]"), "{error}");
}

#[test]
fn layers_use_little_more_than_the_live_peak() {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", DType::F32, [64, 32]).unwrap();
    for layer in 0..12 {
        let weight = Random::new(layer).tensor(&Type::new(DType::F32, [32, 128]), 1);
        let back = Random::new(layer + 50).tensor(&Type::new(DType::F32, [128, 32]), 1);
        let (weight, back) = (b.constant(weight), b.constant(back));
        let wide = b.matmul(x, weight).unwrap();
        let wide = b.gelu(wide).unwrap();
        let narrow = b.matmul(wide, back).unwrap();
        let sum = b.add(x, narrow).unwrap();
        x = b.softmax(sum, 1).unwrap();
    }
    b.output("y", x).unwrap();
    let (plan, _) = made(&b.finish().unwrap(), &Target::webgpu_minimum(), true);
    let arena = plan.bytes(BufferRole::Activations);
    assert!(arena * 10 <= plan.live_peak * 12, "{arena} for a peak of {}", plan.live_peak);
    let all: u64 = plan.kernels.iter().map(|it| it.flops).sum();
    assert!(all >= 12 * 2 * 2 * 64 * 32 * 128, "{all} flops");
    let input = bytes_on(Place::Gpu, &plan.inputs[0].ty);
    assert!(plan.kernels.iter().all(|it| it.bytes >= input), "{plan}");
}

fn barriers(plan: &Plan) -> usize {
    plan.steps.iter().filter(|it| matches!(it, Step::Dispatch { barrier: true, .. })).count()
}

/// Branches of several kernels that do not need each other wait once a kernel of the longest.
#[test]
fn branches_share_their_barriers() {
    let mut random = Random::new(3);
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [40, 32]).unwrap();
    let mut square = |b: &mut GraphBuilder, x, shape: [usize; 2]| {
        let weight = b.constant(random.tensor(&Type::new(DType::F32, shape), 1));
        b.matmul(x, weight).unwrap()
    };
    // More than the branches hold.
    let wide = square(&mut b, x, [32, 200]);
    let wide = b.layer_norm(wide, -1, None, None, 1e-5).unwrap();
    let x = square(&mut b, wide, [200, 32]);
    let mut ends = Vec::new();
    for branch in 0..3 {
        let mut y = x;
        for _ in 0..2 + branch {
            y = square(&mut b, y, [32, 32]);
            y = b.layer_norm(y, -1, None, None, 1e-5).unwrap();
        }
        ends.push(y);
    }
    let y = b.concat(&ends, 0).unwrap();
    let y = b.softmax(y, 0).unwrap();
    b.output("y", y).unwrap();
    let (plan, _) = made(&b.finish().unwrap(), &Target::webgpu_minimum(), true);
    assert_eq!(plan.dispatches(), 3 + 2 * (2 + 3 + 4) + 1, "{plan}");
    assert_eq!(barriers(&plan), 2 + 2 * 4 + 1, "{plan}");
    let arena = plan.bytes(BufferRole::Activations);
    assert!(arena * 10 <= plan.live_peak * 12, "{arena} for a peak of {}", plan.live_peak);
}
