//! From a call to an answer: what is checked before anything is compiled, and what is answered without compiling.

use std::sync::Arc;

use wgfuse::{
    AnyTensor, Bypass, DType, Device, Dim, GraphBuilder, Model, Options, Session, Shape, Signature, Tensor,
};
use wgfuse_compiler::{
    graph::Graph,
    options::{Hook, UserPass},
};
use wgfuse_tests::device::{gpu, opened};

fn signature(name: &str, dtype: DType, dims: &[&str]) -> Signature {
    let dim = |it: &&str| it.parse().map_or_else(|_| Dim::Symbol(it.to_string()), Dim::Fixed);
    Signature { name: name.into(), dtype, dims: dims.iter().map(dim).collect() }
}

/// Gives its second input twice, its first, and a constant.
fn through() -> Model {
    let inputs = vec![signature("x", DType::F32, &["n"]), signature("y", DType::I64, &["n", "2"])];
    let build = |b: &mut GraphBuilder, given: &[_]| {
        let held = b.constant(Tensor::f32([3], &[1.0, 2.0, 3.0]).unwrap());
        Ok(vec![
            ("first".into(), given[1]),
            ("x".into(), given[0]),
            ("again".into(), given[1]),
            ("held".into(), held),
        ])
    };
    Model::build(inputs, build).unwrap()
}

fn doubling() -> Model {
    let inputs = vec![signature("x", DType::F32, &["n", "3"]), signature("y", DType::F32, &["n"])];
    let build = |b: &mut GraphBuilder, given: &[_]| {
        let x = b.add(given[0], given[0])?;
        let y = b.add(given[1], given[1])?;
        Ok(vec![("x".into(), x), ("y".into(), y)])
    };
    Model::build(inputs, build).unwrap()
}

#[test]
fn a_graph_without_operations_is_answered_without_compiling() {
    for device in [Device::cpu(), opened()] {
        let session = Session::new(&through(), &device).unwrap();
        let before = device.counts();
        for length in [2, 5, 2] {
            let x = Tensor::f32([length], &vec![0.5; length]).unwrap();
            // Numbers that no device holds: nothing is uploaded.
            let y = Tensor::i64([length, 2], &vec![i64::MAX; 2 * length]).unwrap();
            let outputs = session.run(wgfuse::inputs! { "y" => y, "x" => x }).unwrap();
            let names: Vec<&str> = outputs.iter().map(|it| it.0).collect();
            assert_eq!(names, ["first", "x", "again", "held"]);
            assert_eq!((&outputs["first"], &outputs["again"], &outputs["x"]), (&y, &y, &x));
            assert_eq!(outputs["held"].to_f64(), [1.0, 2.0, 3.0]);
        }
        assert_eq!(device.counts(), before, "neither plans nor pipelines nor buffers");
        let tally = session.tally();
        assert_eq!((tally.runs, tally.handed_through, tally.compiled), (3, 3, 0));
        assert_eq!(device.tally(), tally);
    }
}

#[test]
fn what_is_on_the_device_is_handed_through_there() {
    let device = gpu();
    let session = Session::new(&through(), &device).unwrap();
    let x = Tensor::f32([2], &[1.5, -2.0]).unwrap();
    let y = Tensor::i64([2, 2], &[1, 2, 3, 4]).unwrap();
    let there: [(&str, AnyTensor); 2] =
        [("x", device.upload(&x).unwrap().into()), ("y", device.upload(&y).unwrap().into())];
    let outputs = session.run_on_device(&there).unwrap();
    assert!(outputs["x"].wgpu().is_some());
    assert_eq!((outputs["x"].read().unwrap(), outputs["first"].read().unwrap()), (x, y));
    assert_eq!(session.tally().compiled, 0);
}

#[test]
fn one_operation_is_compiled_once_a_shape() {
    let device = Device::cpu();
    let session = Session::new(&doubling(), &device).unwrap();
    for length in [2, 4, 2, 4] {
        let x = Tensor::f32([length, 3], &vec![1.0; 3 * length]).unwrap();
        let y = Tensor::f32([length], &vec![2.0; length]).unwrap();
        session.run(wgfuse::inputs! { "x" => x, "y" => y }).unwrap();
    }
    let tally = session.tally();
    assert_eq!((tally.runs, tally.handed_through, tally.compiled), (4, 0, 2));
    assert_eq!(tally.disk.bypassed(Bypass::Processor), 2);
}

#[test]
fn inputs_are_checked_before_anything_is_compiled() {
    let session = Session::new(&doubling(), &gpu()).unwrap();
    let zeros = |dims: &[usize]| Tensor::f32(dims, &vec![0.0; dims.iter().product()]).unwrap();
    let (x, y) = (zeros(&[2, 3]), zeros(&[2]));
    let refused = |given: &[(&str, Tensor)], what: &str| {
        let text = session.run(given).unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
        let text = session.profile(given).unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    };
    refused(wgfuse::inputs! { "x" => x }, "input 'y': is missing; it is f32[n]");
    refused(wgfuse::inputs! { "x" => x, "y" => y, "z" => y }, "input 'z': the model has no such input");
    refused(wgfuse::inputs! { "x" => x, "x" => x, "y" => y }, "input 'x': is given twice");
    refused(wgfuse::inputs! { "x" => zeros(&[2, 4]), "y" => y }, "the model takes f32[n,3]");
    refused(wgfuse::inputs! { "x" => x, "y" => zeros(&[3]) }, "'n' is 2 in input 'x'");
    refused(wgfuse::inputs! { "x" => x, "y" => Tensor::i64([2], &[1, 2]).unwrap() }, "is i64[2]");
    let shapes = |all: &[&[usize]]| all.iter().map(|it| Shape::from(*it)).collect::<Vec<_>>();
    for wrong in [shapes(&[&[2, 3]]), shapes(&[&[2, 3], &[3]]), shapes(&[&[2, 4], &[2]])] {
        assert!(session.plan_for(&wrong).is_err());
    }
    let tally = session.tally();
    assert_eq!((tally.runs, tally.compiled), (0, 0));
}

#[test]
fn options_are_checked_when_the_session_is_made() {
    let refused = |options: Options, what: &str| {
        let text = Session::with_options(&doubling(), &Device::cpu(), options).err().unwrap().to_string();
        assert!(text.contains(what), "{text}");
    };
    let without_passes = vec!["sibling".into()];
    refused(Options { without_passes, ..Options::default() }, "pass 'sibling': there is no such pass");
    let pass = UserPass {
        name: "own".into(),
        at: Hook::After("simplfy".into()),
        run: Arc::new(|graph: &Graph| Ok(graph.clone())),
    };
    refused(Options { passes: vec![pass], ..Options::default() }, "pass 'simplfy'");
}
