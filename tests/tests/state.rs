//! States: what a session keeps from one run to the next, against the same tensors passed by hand.

use std::{
    future::Future,
    task::{Context, Waker},
};

use wgfuse::{
    DType, Device, Dim, Error, GraphBuilder, Model, Options, Replay, Session, Shape, Signature, Tensor, Type,
    compiler::{
        graph::{Graph, Value},
        lower::TensorId,
        plan::{BufferRole, Plan},
        schedule::{Kernel, Skeleton},
    },
};
use wgfuse_tests::{
    device::{gpu, opened, options},
    random::Random,
    stages::stages,
};

const LENGTH: usize = 24;
const DIM: usize = 32;
const HEADS: usize = 4;
const WIDTH: usize = DIM / HEADS;
const LAYERS: usize = 2;

/// So many keys that attention is a workgroup for each row.
const MANY: usize = 150;

fn decoder(dtype: DType, kept: bool) -> Graph {
    decoder_of(dtype, kept, LENGTH)
}

/// A decoder's step with caches of fixed length, which are states or inputs and outputs.
fn decoder_of(dtype: DType, kept: bool, length: usize) -> Graph {
    let mut b = GraphBuilder::new();
    let mut random = Random::new(3);
    let mut x = b.input("x", dtype, [1, 1, DIM]).unwrap();
    let position = b.input("position", DType::I64, [1]).unwrap();
    let places: Vec<i64> = (0..length as i64).collect();
    let all = b.constant(Tensor::i64([length], &places).unwrap());
    let seen = b.le(all, position).unwrap();
    let (near, far) = (b.scalar(dtype, 0.0), b.scalar(dtype, -1e4));
    let mask = b.select(seen, near, far).unwrap();
    let mask = b.reshape(mask, &[1, 1, 1, length as isize]).unwrap();
    let mut weight =
        |b: &mut GraphBuilder, shape: &[usize]| b.constant(random.tensor(&Type::new(dtype, shape), 1));
    for layer in 0..LAYERS {
        let scale = weight(&mut b, &[DIM]);
        let y = b.rms_norm(x, -1, Some(scale), 1e-5).unwrap();
        let mut heads = |b: &mut GraphBuilder| {
            let w = weight(b, &[DIM, DIM]);
            let it = b.linear(y, w, None).unwrap();
            let it = b.reshape(it, &[1, 1, HEADS as isize, WIDTH as isize]).unwrap();
            b.transpose(it, 1, 2).unwrap()
        };
        let (q, k, v) = (heads(&mut b), heads(&mut b), heads(&mut b));
        let cached = |b: &mut GraphBuilder, name: &str, new: Value| {
            let (name, shape) = (format!("{name}_{layer}"), [1, HEADS, length, WIDTH]);
            if kept {
                let old = b.state(name, dtype, shape).unwrap();
                let whole = b.update_slice(old, 2, position, new).unwrap();
                b.update(old, whole).unwrap();
                return whole;
            }
            let old = b.input(&*name, dtype, shape).unwrap();
            let whole = b.update_slice(old, 2, position, new).unwrap();
            b.output(format!("{name}_next"), whole).unwrap();
            whole
        };
        let (k, v) = (cached(&mut b, "k", k), cached(&mut b, "v", v));
        let y = b.attention(q, k, v, Some(mask), false).unwrap();
        let y = b.transpose(y, 1, 2).unwrap();
        let y = b.reshape(y, &[1, 1, DIM as isize]).unwrap();
        x = b.add(x, y).unwrap();
    }
    b.output("y", x).unwrap();
    b.finish().unwrap()
}

fn token(dtype: DType, step: usize) -> Tensor {
    Random::new(100 + step as u64).tensor(&Type::new(dtype, [1, 1, DIM]), 1)
}

/// The caches of a decoder, by name.
fn caches() -> Vec<String> {
    (0..LAYERS).flat_map(|layer| ["k", "v"].map(|it| format!("{it}_{layer}"))).collect()
}

fn session(graph: Graph, device: &Device, way: Replay) -> Session {
    Session::with_options(&Model::from_graph(graph), device, options()).unwrap().replay(way)
}

fn ways() -> Vec<(Device, Replay)> {
    vec![(Device::cpu(), Replay::Auto), (gpu(), Replay::Portable), (gpu(), Replay::Recorded)]
}

#[test]
fn twenty_steps_are_those_with_caches_passed_by_hand() {
    for dtype in [DType::F32, DType::F16] {
        for (device, way) in ways() {
            steps(dtype, LENGTH, &(0..20).collect::<Vec<_>>(), &device, way);
        }
    }
}

#[test]
fn attention_of_many_keys_sees_the_newest() {
    // The last place, one twice, and one from the end.
    for dtype in [DType::F32, DType::F16] {
        for (device, way) in ways() {
            steps(dtype, MANY, &[0, 1, 2, 63, 64, 149, 3, 3, -1], &device, way);
        }
    }
}

fn steps(dtype: DType, length: usize, places: &[i64], device: &Device, way: Replay) {
    let (own, by_hand) = (
        session(decoder_of(dtype, true, length), device, way),
        session(decoder_of(dtype, false, length), device, way),
    );
    let zero = Tensor::from_scalars(
        Type::new(dtype, [1, HEADS, length, WIDTH]),
        vec![wgfuse::Scalar::Float(0.0); HEADS * length * WIDTH],
    );
    let mut held: Vec<(String, Tensor)> = caches().into_iter().map(|it| (it, zero.clone())).collect();
    for (step, &place) in places.iter().enumerate() {
        let given = [("x", token(dtype, step)), ("position", Tensor::i64([1], &[place]).unwrap())];
        let have = own.run(&given).unwrap();
        let mut all = given.to_vec();
        all.extend(held.iter().map(|it| (it.0.as_str(), it.1.clone())));
        let want = by_hand.run(&all).unwrap();
        assert_eq!(have.len(), 1);
        assert_eq!(have["y"], want["y"], "{dtype} on {} {way:?}, step {step}", device.name());
        for (name, value) in &mut held {
            *value = want[format!("{name}_next").as_str()].clone();
        }
    }
    for (name, want) in &held {
        assert_eq!(own.state(name).unwrap(), *want, "{name} on {} {way:?}", device.name());
    }
}

/// It reads the caches as they were and computes the newest row itself, so that writing the row is off its way.
#[test]
fn attention_of_many_keys_waits_for_no_cache() {
    let graph = decoder_of(DType::F16, true, MANY);
    let schedule = stages(graph, gpu().target(), &Options::default()).unwrap().schedule;
    let attention = |it: &&Kernel| matches!(it.skeleton, Skeleton::Attention { .. });
    let readers: Vec<&Kernel> = schedule.kernels.iter().filter(attention).collect();
    assert_eq!(readers.len(), LAYERS);
    for it in readers {
        let (olds, news): (Vec<_>, Vec<_>) = schedule.becoming().map(|(kept, new)| (kept.old, new)).unzip();
        let read = |of: &[TensorId]| of.iter().filter(|own| it.tensors.contains(own)).count();
        assert_eq!((read(&olds), read(&news)), (2, 0), "{schedule}");
    }
}

fn planned(graph: Graph, device: &Device) -> (Plan, String) {
    let made = stages(graph, device.target(), &Options::default()).unwrap();
    (made.plan, made.schedule.to_string())
}

#[test]
fn a_step_moves_no_cache_and_writes_one_row_of_it() {
    let (plan, text) = planned(decoder(DType::F32, true), &gpu());
    assert_eq!(plan.bytes(BufferRole::Outputs), (DIM * 4) as u64, "{plan}");
    assert_eq!((plan.inputs.len(), plan.outputs.len(), plan.states.len()), (2, 1, 2 * LAYERS));
    let cache = plan.states[0].tensor.unwrap();
    assert!(plan.bytes(BufferRole::State) >= (2 * LAYERS * HEADS * LENGTH * WIDTH * 4) as u64, "{cache:?}");
    // Keys and values of a layer in one kernel, of one row.
    let writers: Vec<_> = (plan.kernels.iter())
        .filter(|it| {
            let state = |it: &wgfuse::compiler::lower::TensorId| {
                plan.states.iter().any(|state| state.ty == plan.states[0].ty && state.tensor == Some(*it))
            };
            !it.kernel.tensors.iter().any(state) && it.kernel.stores.len() == 2
        })
        .filter_map(|it| match &it.kernel.skeleton {
            Skeleton::Map { space, .. } => Some(space.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(writers, vec![Shape::from([1, HEADS, 1, WIDTH]); LAYERS], "{text}");
}

#[test]
fn texts_keep_states() {
    use wgfuse::compiler::{graph, lower, plan, schedule};
    for graph in [decoder(DType::F16, true), tangle()] {
        let text = graph::text::print(&graph, graph::text::Constants::All);
        let parsed = graph::text::parse(&text).unwrap();
        assert_eq!(graph::text::print(&parsed, graph::text::Constants::All), text);
        assert_eq!(parsed.states, graph.states);
        let made = stages(graph, gpu().target(), &Options::default()).unwrap();
        assert_eq!(lower::text::parse(&made.loops.to_string()).unwrap(), made.loops);
        assert_eq!(schedule::text::parse(&made.schedule.to_string()).unwrap(), made.schedule);
        let parsed = plan::text::parse(&made.plan.to_string(), &made.plan).unwrap();
        assert_eq!(parsed.to_string(), made.plan.to_string());
        assert_eq!(plan::verify(&parsed), Vec::<String>::new());
    }
    let wrong = |line: &str| {
        let text =
            "input \"a\" : f32[2]\n%0 = input 0 : f32[2]\n%1 = cast %0 to=f16 : f16[2]\noutput \"b\" = %0\n\
                    output \"c\" = %1\n"
                .to_owned();
        graph::text::parse(&(text + line)).unwrap_err().to_string()
    };
    assert!(wrong("state \"x\" = \"b\"").contains("no such input"));
    assert!(wrong("state \"a\" = \"x\"").contains("no such output"));
    assert!(wrong("state \"a\" = \"c\"").contains("which it becomes"));
    assert!(wrong("state \"a\" = \"b\"\nstate \"a\" = \"b\"").contains("in two states"));
}

/// What a schedule means is what its graph means, whether it writes in place or a copy.
#[test]
fn schedules_of_states_mean_their_graphs() {
    use wgfuse::compiler::{graph::eval::eval, schedule};
    for graph in [tangle(), slices(DType::F32)] {
        let inputs: Vec<Tensor> = (graph.inputs().iter().enumerate())
            .map(|(seed, it)| Random::new(seed as u64).tensor(&it.ty, 5))
            .collect();
        let want = eval(&graph, &inputs).unwrap();
        for target in [gpu().target().clone(), wgfuse::Target::cpu()] {
            let made = stages(graph.clone(), &target, &Options::default()).unwrap();
            let constants = eval(&made.parts.constants, &[]).unwrap();
            let have = schedule::eval::eval(&made.schedule, &inputs, &constants);
            for (have, want) in have.iter().zip(&want) {
                assert_near(have, want, &made.schedule.to_string());
            }
        }
    }
}

/// A model of one state of f16, [2, 5, 3], of which the elements number `at` along axis 1 become `x`.
fn slices(dtype: DType) -> Graph {
    let mut b = GraphBuilder::new();
    let x = b.input("x", dtype, [2, 1, 3]).unwrap();
    let at = b.input("at", DType::I32, [1]).unwrap();
    let old = b.state("held", dtype, [2, 5, 3]).unwrap();
    let twice = b.add(x, x).unwrap();
    let new = b.update_slice(old, 1, at, twice).unwrap();
    b.update(old, new).unwrap();
    let sum = b.sum(new, &[1], false).unwrap();
    b.output("sum", sum).unwrap();
    b.finish().unwrap()
}

#[test]
fn places_outside_change_nothing() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::Bool] {
        if dtype == DType::Bool {
            continue;
        }
        for (device, way) in ways() {
            let own = session(slices(dtype), &device, way);
            let mut want = Random::new(7).tensor(&Type::new(dtype, [2, 5, 3]), 50);
            own.set_state("held", &want).unwrap();
            for (step, at) in [2, -1, 0, 5, 4, i32::MAX, 1, i32::MIN].into_iter().enumerate() {
                let x = Random::new(step as u64).tensor(&Type::new(dtype, [2, 1, 3]), 50);
                let given = [("x", x.clone()), ("at", Tensor::from_slice(DType::I32, [1], &[at]).unwrap())];
                own.run(&given).unwrap();
                let values = (0..30).map(|it| {
                    let (outer, row, inner) = (it / 15, it / 3 % 5, it % 3);
                    match row as i32 == at {
                        true => wgfuse::Scalar::of(dtype, 2.0 * x.get(outer * 3 + inner).as_f64()),
                        false => want.get(it),
                    }
                });
                want = Tensor::from_scalars(want.ty().clone(), values.collect::<Vec<_>>());
                assert_eq!(own.state("held").unwrap(), want, "{dtype} at {at} on {} {way:?}", device.name());
            }
        }
    }
}

/// States that wait for one another: a counter whose old value leaves, two that are swapped, one that becomes an input, one
/// that is only read, and one whose reader needs what overwrites it.
fn tangle() -> Graph {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4]).unwrap();
    let state = |b: &mut GraphBuilder, name: &str| b.state(name, DType::F32, [4]).unwrap();
    let (count, one, two, last, fixed, chased) = (
        state(&mut b, "count"),
        state(&mut b, "one"),
        state(&mut b, "two"),
        state(&mut b, "last"),
        state(&mut b, "fixed"),
        state(&mut b, "chased"),
    );
    let next = b.add_scalar(count, 1.0).unwrap();
    b.update(count, next).unwrap();
    b.update(one, two).unwrap();
    b.update(two, one).unwrap();
    b.update(last, x).unwrap();
    b.update(fixed, fixed).unwrap();
    let softer = b.softmax(chased, 0).unwrap();
    let grown = b.add(softer, x).unwrap();
    b.update(chased, grown).unwrap();
    let both = b.matmul(grown, chased).unwrap();
    let ends = [
        ("was", count),
        ("both", both),
        ("one_was", one),
        ("last_was", last),
        ("fixed_is", fixed),
        ("is", grown),
    ];
    for (name, it) in ends {
        b.output(name, it).unwrap();
    }
    let sum = b.add(fixed, one).unwrap();
    b.output("sum", sum).unwrap();
    b.finish().unwrap()
}

#[test]
fn states_that_need_each_other_are_what_they_were() {
    let states = ["count", "one", "two", "last", "fixed", "chased"];
    let graph = tangle();
    for fuse in [true, false] {
        for (device, way) in ways() {
            let options = Options { fuse, ..options() };
            let own = Session::with_options(&Model::from_graph(graph.clone()), &device, options)
                .unwrap()
                .replay(way);
            let mut held: Vec<Tensor> = (0..states.len() as u64)
                .map(|it| Random::new(it).tensor(&Type::new(DType::F32, [4]), 1))
                .collect();
            for (name, value) in states.iter().zip(&held) {
                own.set_state(name, value).unwrap();
            }
            for step in 0..4 {
                let x = Random::new(50 + step).tensor(&Type::new(DType::F32, [4]), 1);
                let have = own.run(&[("x", x.clone())]).unwrap();
                let mut inputs = vec![x];
                inputs.extend(held.iter().cloned());
                let want = wgfuse::compiler::graph::eval::eval(&graph, &inputs).unwrap();
                assert_eq!(have.len(), want.len() - states.len());
                for (at, (name, have)) in (states.len()..).zip(have.iter()) {
                    assert_near(
                        have,
                        &want[at],
                        &format!("{name}, step {step}, {} {way:?} {fuse}", device.name()),
                    );
                }
                held = want[..states.len()].to_vec();
                for (name, want) in states.iter().zip(&held) {
                    assert_near(
                        &own.state(name).unwrap(),
                        want,
                        &format!("{name}, step {step}, {}", device.name()),
                    );
                }
            }
            own.reset_states();
            assert_eq!(own.state("two").unwrap().to_f32().unwrap(), [0.0; 4]);
        }
    }
}

#[track_caller]
fn assert_near(have: &Tensor, want: &Tensor, what: &str) {
    let far = have.to_f64().iter().zip(want.to_f64()).any(|(a, b)| (a - b).abs() > 1e-5 * (1.0 + b.abs()));
    assert!(have.ty() == want.ty() && !far, "{what}: {:?}, not {:?}", have.to_f64(), want.to_f64());
}

/// Adds up all its inputs, whatever their length.
fn adder() -> Model {
    let inputs = vec![
        Signature { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Symbol("n".into())] },
        Signature { name: "total".into(), dtype: DType::F32, dims: vec![Dim::Fixed(1)] },
    ];
    let model = Model::build(inputs, |b, values| {
        let sum = b.sum(values[0], &[0], true)?;
        let total = b.add(sum, values[1])?;
        Ok(vec![("next".to_owned(), total), ("mean".to_owned(), b.mean(values[0], &[0], true)?)])
    });
    model.unwrap().with_state("total", "next").unwrap()
}

fn ones(count: usize) -> Tensor {
    Tensor::f32([count], &vec![1.0; count]).unwrap()
}

#[test]
fn shapes_and_threads_share_a_state() {
    for device in [Device::cpu(), gpu()] {
        let own = Session::with_options(&adder(), &device, options()).unwrap();
        for count in [3, 70, 3, 1] {
            let outputs = own.run(&[("x", ones(count))]).unwrap();
            assert_eq!((outputs.len(), outputs["mean"].to_f32().unwrap()), (1, vec![1.0]));
        }
        assert_eq!(own.state("total").unwrap().to_f32().unwrap(), [77.0]);
        // Timing leaves no trace.
        own.profile(&[("x", ones(5))]).unwrap();
        assert_eq!(own.state("total").unwrap().to_f32().unwrap(), [77.0]);
        std::thread::scope(|scope| {
            for thread in 1..5 {
                let own = &own;
                scope.spawn(move || (0..10).for_each(|_| drop(own.run(&[("x", ones(thread))]).unwrap())));
            }
        });
        assert_eq!(own.state("total").unwrap().to_f32().unwrap(), [177.0]);
    }
}

#[test]
fn mistakes_are_told() {
    let model = || {
        let inputs = vec![
            Signature { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Fixed(2)] },
            Signature { name: "old".into(), dtype: DType::F32, dims: vec![Dim::Symbol("n".into())] },
        ];
        let build = |b: &mut GraphBuilder, values: &[Value]| {
            let whole = b.cast(values[1], DType::I32)?;
            let longer = b.concat(&[values[1], values[0]], 0)?;
            let new = b.add_scalar(values[1], 1.0)?;
            Ok(vec![("new".to_owned(), new), ("longer".to_owned(), longer), ("whole".to_owned(), whole)])
        };
        Model::build(inputs, build).unwrap()
    };
    let refused = |input: &str, output: &str| model().with_state(input, output).unwrap_err().to_string();
    assert!(refused("none", "new").contains("no such input"));
    assert!(refused("old", "none").contains("'none', which there is not"));
    assert!(refused("old", "whole").contains("is to become"), "{}", refused("old", "whole"));
    let twice = model().with_state("old", "new").unwrap().with_state("old", "longer").unwrap_err();
    assert!(twice.to_string().contains("another state"), "{twice}");

    let own =
        |output: &str| Session::new(&model().with_state("old", output).unwrap(), &Device::cpu()).unwrap();
    let x = [("x", ones(2))];
    let session = own("new");
    let open = session.run(&x).unwrap_err().to_string();
    assert!(open.contains("'old'") && open.contains("set it once"), "{open}");
    assert!(session.state("old").unwrap_err().to_string().contains("never set"));
    assert!(session.state("x").unwrap_err().to_string().contains("no such state"));
    session.set_state("old", &ones(3)).unwrap();
    assert_eq!(session.run(&x).unwrap().len(), 2);
    assert_eq!(session.state("old").unwrap().to_f32().unwrap(), [2.0; 3]);
    assert!(session.set_state("old", &ones(4)).unwrap_err().to_string().contains("the state is f32[3]"));
    assert!(
        session.run(&[("x", ones(2)), ("old", ones(3))]).unwrap_err().to_string().contains("no such input")
    );
    let session = own("longer");
    session.set_state("old", &ones(3)).unwrap();
    let grows = session.run(&x).unwrap_err().to_string();
    assert!(grows.contains("the state 'old' is f32[3], but 'longer'"), "{grows}");

    let mut b = GraphBuilder::new();
    let state = b.state("s", DType::F32, [2]).unwrap();
    let x = b.input("x", DType::F32, [3]).unwrap();
    assert!(b.update(x, x).unwrap_err().to_string().contains("no state"));
    assert!(b.update(state, x).unwrap_err().to_string().contains("the state is f32[2], but f32[3]"));
    b.output("x", x).unwrap();
    assert!(b.clone().finish().unwrap_err().to_string().contains("never updated"));
    b.update(state, state).unwrap();
    assert!(b.update(state, state).unwrap_err().to_string().contains("twice"));
    b.finish().unwrap();
}

#[test]
fn a_lost_device_takes_its_states_along() {
    let device = opened();
    let own = Session::with_options(&adder(), &device, options()).unwrap();
    own.run(&[("x", ones(3))]).unwrap();
    device.wgpu().expect("a GPU").0.destroy();
    // The run that meets the loss fails with it; further ones say what is gone.
    let mut errors = Vec::new();
    for _ in 0..4 {
        match own.run(&[("x", ones(3))]) {
            Ok(_) => panic!("the state is gone"),
            Err(error) => errors.push(error),
        }
    }
    let lost =
        errors.iter().filter(|it| matches!(it, Error::StateLost { state, .. } if state == "total")).count();
    assert!(lost >= 3, "{errors:?}");
    assert!(matches!(own.state("total"), Err(Error::StateLost { .. })));
    own.set_state("total", &Tensor::f32([1], &[4.0]).unwrap()).unwrap();
    own.run(&[("x", ones(3))]).unwrap();
    assert_eq!(own.state("total").unwrap().to_f32().unwrap(), [7.0]);
}

#[test]
fn a_run_that_is_given_up_leaves_no_value() {
    let own = Session::with_options(&adder(), &gpu(), options()).unwrap();
    own.run(&[("x", ones(3))]).unwrap();
    let given = [("x", ones(3))];
    let mut run = Box::pin(own.run_async(&given));
    let begun = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(run);
    // It may have been done at once.
    if begun.is_pending() {
        assert!(matches!(own.run(&given), Err(Error::StateLost { .. })));
        own.reset_states();
        own.run(&given).unwrap();
        assert_eq!(own.state("total").unwrap().to_f32().unwrap(), [3.0]);
    }
}
