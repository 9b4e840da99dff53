//! Running: what a replay allocates, weights larger than a binding, wrong inputs, parts on the processor.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    task::{Context, Waker},
    time::SystemTime,
};

use wgfuse::{
    DType, Device, Fallback, Model, Options, Replay, Session, Target, Tensor, Type,
    compiler::graph::{Value, builder::GraphBuilder, eval::eval},
};
use wgfuse_tests::{
    compare::assert_close,
    device::{gpu, opened, options},
    random::Random,
    zoo,
};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|it| it.set(it.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two kernels for each of `depth`, one after the other.
fn products_and_softmaxes(depth: usize) -> Model {
    tower(depth, |b, x, number| {
        let w = Random::new(number as u64).tensor(&Type::new(DType::F32, [16, 16]), 1);
        let w = b.constant(w);
        let x = b.matmul(x, w).unwrap();
        b.softmax(x, -1).unwrap()
    })
}

/// As many kernels, none of them a product.
fn softmaxes(depth: usize) -> Model {
    tower(depth, |b, x, _| {
        let x = b.softmax(x, 0).unwrap();
        b.softmax(x, 1).unwrap()
    })
}

fn tower(depth: usize, floor: fn(&mut GraphBuilder, Value, usize) -> Value) -> Model {
    let mut b = GraphBuilder::new();
    let mut x = b.input("x", DType::F32, [4, 16]).unwrap();
    for number in 0..depth {
        x = floor(&mut b, x, number);
    }
    b.output("y", x).unwrap();
    Model::from_graph(b.finish().unwrap())
}

fn input() -> Tensor {
    Random::new(5).tensor(&Type::new(DType::F32, [4, 16]), 1)
}

/// What a run of `model` allocates on this thread: the least of several runs, since growing a buffer once is not growth with
/// every run. Another thread waits for the device, since looking whether it is done allocates too.
fn allocations(model: &Model, device: &Device, way: Replay) -> u64 {
    let session = Session::with_options(model, device, options()).unwrap().replay(way);
    let x = input();
    for _ in 0..5 {
        session.run(&[("x", x.clone())]).unwrap();
    }
    let one = |_| {
        let before = ALLOCATIONS.with(Cell::get);
        pollster::block_on(session.run_async(&[("x", x.clone())])).unwrap();
        ALLOCATIONS.with(Cell::get) - before
    };
    (0..10).map(one).min().unwrap()
}

#[test]
fn replay_allocates_as_much_for_many_kernels_as_for_few() {
    // Each on a device of its own: wgpu's lists grow as often as a command names a buffer with a higher number than all before,
    // and buffers get the numbers of those that were there earlier in no particular order.
    let growth = |open: fn() -> Device, way, tower: fn(usize) -> Model| {
        let [small, large] = [4, 64].map(|depth| allocations(&tower(depth), &open(), way));
        println!("{} {way:?}: {small} allocations for 8 kernels, {large} for 128", open().name());
        large.saturating_sub(small)
    };
    assert!(growth(opened, Replay::Recorded, products_and_softmaxes) <= 4);
    assert_eq!(growth(Device::cpu, Replay::Auto, softmaxes), 0);
    // Crate gemm allocates for a product, and wgpu's encoder for a launch; nothing of ours does.
    assert!(growth(Device::cpu, Replay::Auto, products_and_softmaxes) <= 60);
    assert!(growth(opened, Replay::Portable, products_and_softmaxes) < 120);
}

#[test]
fn both_ways_to_replay_give_the_same_bits() {
    for name in ["bert_tiny", "test_resnet", "mobilenetv3_small_050", "gpt2_tiny"] {
        let case = zoo::load(name).unwrap();
        let model: Model = case.model.into();
        let names: Vec<String> = model.inputs.iter().map(|it| it.name.clone()).collect();
        let given: Vec<_> = names.iter().map(String::as_str).zip(case.inputs).collect();
        let run = |way| {
            let session = Session::with_options(&model, &gpu(), options()).unwrap().replay(way);
            // The second run is a replay of what the first captured, over its leavings.
            session.run(&given).unwrap();
            session.run(&given).unwrap()
        };
        for (recorded, encoded) in run(Replay::Recorded).iter().zip(run(Replay::Portable).iter()) {
            assert_eq!(recorded.1, encoded.1, "{name}: {}", recorded.0);
        }
    }
}

/// Looks rows up in a table, and multiplies by it, where it takes several bindings.
fn table(rows: usize, width: usize) -> (Model, Tensor, Vec<Tensor>) {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I64, [6]).unwrap();
    let values: Vec<f32> = (0..rows * width).map(|it| ((it * 7919) % 1013) as f32 / 1013.0 - 0.5).collect();
    let table = b.constant(Tensor::f32([rows, width], &values).unwrap());
    let found = b.embedding(table, ids).unwrap();
    b.output("found", found).unwrap();
    let last = b.slice(table, 0, rows as isize - 8, rows as isize).unwrap();
    let product = b.linear(found, last, None).unwrap();
    b.output("product", product).unwrap();
    let graph = b.finish().unwrap();
    let ids = [0, rows as i64 / 3, rows as i64 / 2, rows as i64 - 9, rows as i64 - 1, -2];
    let ids = Tensor::i64([6], &ids).unwrap();
    let expected = eval(&graph, std::slice::from_ref(&ids)).unwrap();
    (Model::from_graph(graph), ids, expected)
}

#[test]
fn a_weight_larger_than_a_binding_is_split() {
    // 160 MiB against the 128 MiB that lavapipe and browsers bind at most.
    let (model, ids, expected) = table(655_360, 64);
    let device = gpu().limited_to(&Target { max_binding_size: 128 << 20, ..gpu().target().clone() });
    let session = Session::with_options(&model, &device, options()).unwrap();
    let made = session.run(&[("ids", ids)]).unwrap();
    let made: Vec<Tensor> = made.iter().map(|it| it.1.clone()).collect();
    assert_close("split", &made, &expected, 1e-5, 1e-6);
}

#[test]
fn a_matrix_of_many_bindings_is_multiplied() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 300]).unwrap();
    let w = Random::new(3).tensor(&Type::new(DType::F32, [300, 500]), 1);
    let w = b.constant(w);
    let y = b.matmul(x, w).unwrap();
    b.output("y", y).unwrap();
    let graph = b.finish().unwrap();
    let x = Random::new(4).tensor(&Type::new(DType::F32, [4, 300]), 1);
    let expected = eval(&graph, std::slice::from_ref(&x)).unwrap();
    // 600,000 bytes in bindings of 128 KiB.
    let device = gpu().limited_to(&Target { max_binding_size: 128 << 10, ..gpu().target().clone() });
    let session = Session::with_options(&Model::from_graph(graph), &device, options()).unwrap();
    let made = session.run(&[("x", x)]).unwrap();
    assert_close("split", &[made.get("y").unwrap().clone()], &expected, 1e-5, 1e-5);
}

#[test]
fn wrong_inputs_are_named() {
    let case = zoo::load("bert_tiny").unwrap();
    let session = Session::new(&case.model.into(), &Device::cpu()).unwrap();
    let ids = |shape: &[usize]| Random::new(1).tensor(&Type::new(DType::I64, shape), 2);
    let fault = |given: &[(&str, Tensor)]| session.run(given).err().unwrap().to_string();
    let both = |a: Tensor, b: Tensor| fault(&[("input_ids", a), ("attention_mask", b)]);
    assert!(fault(&[("input_ids", ids(&[2, 4]))]).contains("attention_mask"));
    assert!(fault(&[("input_ids", ids(&[2, 4])), ("mask", ids(&[2, 4]))]).contains("mask"));
    assert!(both(ids(&[8]), ids(&[2, 4])).contains("input_ids"));
    assert!(both(ids(&[2, 4]), ids(&[2, 5])).contains("attention_mask"));
    let floats = Random::new(1).tensor(&Type::new(DType::F32, [2, 4]), 1);
    assert!(both(floats, ids(&[2, 4])).contains("input_ids"));
}

#[test]
fn what_the_gpu_cannot_run_runs_on_the_processor_and_is_told() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [64, 64]).unwrap();
    let y = b.exp(x).unwrap();
    let wide = b.cast(y, DType::F64).unwrap();
    let wide = b.name("precise").sqrt(wide).unwrap();
    let back = b.cast(wide, DType::F32).unwrap();
    let z = b.softmax(back, -1).unwrap();
    b.output("z", z).unwrap();
    let graph = b.finish().unwrap();
    let x = Random::new(2).tensor(&Type::new(DType::F32, [64, 64]), 1);
    let expected = eval(&graph, std::slice::from_ref(&x)).unwrap();
    let model = Model::from_graph(graph);
    let session = Session::with_options(&model, &gpu(), options()).unwrap();
    let made = session.run(&[("x", x.clone())]).unwrap();
    assert_close("parts", &[made.get("z").unwrap().clone()], &expected, 1e-5, 1e-6);
    let told: Vec<String> = session.disabled().iter().map(|it| format!("{it:?}")).collect();
    assert!(told.iter().any(|it| it.contains("precise") && it.contains("64-bit")), "{told:?}");
    let strict = Options { fallback: Fallback::Error, ..options() };
    let session = Session::with_options(&model, &gpu(), strict).unwrap();
    let error = session.run(&[("x", x)]).err().unwrap().to_string();
    assert!(error.contains("precise") || error.contains("cast"), "{error}");
}

#[test]
fn a_run_that_is_dropped_before_its_end_leaves_nothing_behind() {
    for way in [Replay::Portable, Replay::Recorded] {
        let model = products_and_softmaxes(64);
        // A device of its own, since the counts are the device's.
        let session = Session::with_options(&model, &opened(), options()).unwrap().replay(way);
        let x = input();
        let whole = |x: &Tensor| session.run(&[("x", x.clone())]).unwrap()["y"].clone();
        let expected = whole(&x);
        let made = session.device().counts();
        let mut unfinished = 0;
        for _ in 0..20 {
            let given = [("x", x.clone())];
            let mut run = Box::pin(session.run_async(&given));
            unfinished +=
                usize::from(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(run);
            assert_eq!(whole(&x), expected, "{way:?}");
        }
        assert!(unfinished > 0);
        // Not even the tape was made anew.
        assert_eq!(session.device().counts(), made, "{way:?}");
    }
}

#[test]
fn what_others_have_in_the_cache_folder_stays_there() {
    let folder = std::env::temp_dir().join(format!("wgfuse-cache-{}", std::process::id()));
    let (old, new) = (folder.join("photos.tar"), folder.join("letters.txt"));
    fs::create_dir_all(&folder).unwrap();
    // Larger than the cache may be, and older than all that is in it.
    let file = fs::File::create(&old).unwrap();
    file.set_len(2 << 30).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::write(&new, "dear all").unwrap();
    let device = gpu().cache_in(Some(&folder));
    let model = products_and_softmaxes(1);
    let session = Session::with_options(&model, &device, options()).unwrap().replay(Replay::Recorded);
    session.run(&[("x", input())]).unwrap();
    let kept = [&old, &new].map(|it| it.exists());
    let files = fs::read_dir(&folder).unwrap().count();
    fs::remove_dir_all(&folder).unwrap();
    // Beside them: the plan, and what the driver makes of its shaders.
    assert_eq!((kept, files), ([true, true], 4));
}
