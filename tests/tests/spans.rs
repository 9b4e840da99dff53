//! What is told of each step, to those who listen: names and counters. Replays tell nothing.

use wgfuse::{Device, Model, Session, Tensor};
use wgfuse_tests::{
    device::opened,
    listener::{Heard, Listener},
    zoo::load,
};

fn find<'a>(heard: &'a [Heard], name: &str) -> &'a Heard {
    heard.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("no {name} in {heard:#?}"))
}

fn number(it: &Heard, field: &str) -> u64 {
    let text = it.fields.get(field).unwrap_or_else(|| panic!("no {field} in {it:?}"));
    text.parse().unwrap_or_else(|_| panic!("{field} is {text}"))
}

#[test]
fn every_step_is_a_span_with_counters() {
    let case = load("bert_tiny").unwrap();
    let model = Model::from(case.model.clone());
    let given: Vec<(&str, Tensor)> =
        case.model.inputs.iter().map(|it| it.name.as_str()).zip(case.inputs.iter().cloned()).collect();
    let folder = tempfile::tempdir().unwrap();
    for device in [Device::cpu(), opened().cache_in(Some(folder.path()))] {
        let device = device.share_plans(false);
        let gpu = device.is_gpu();
        let session = Session::new(&model, &device).unwrap();
        let [heard, again] = [0, 1].map(|_| Listener::heard(|| _ = session.run(&given).unwrap()));
        let again: Vec<_> = again.iter().map(|it| &it.name).collect();
        assert!(again.is_empty(), "a replay tells nothing: {again:?}");
        let plan =
            session.plan_for(&case.inputs.iter().map(|it| it.shape().clone()).collect::<Vec<_>>()).unwrap();
        let kernels = plan.kernels.len() as u64;
        let compile = find(&heard, "compile");
        assert_eq!(number(compile, "kernels"), kernels);
        assert!(number(compile, "bytes") > 0 && number(compile, "nodes") > 0);
        assert_eq!(number(find(&heard, "import"), "nodes"), number(compile, "nodes"));
        let passes = find(&heard, "passes");
        assert!(number(passes, "after") < number(passes, "nodes"));
        let stages: Vec<_> =
            heard.iter().filter(|it| it.name == "stage").map(|it| it.fields["name"].as_str()).collect();
        assert_eq!(stages, ["\"pre-grad\"", "\"joint\"", "\"post-grad\""]);
        let pass = heard.iter().find(|it| it.name == "pass" && it.fields["name"] == "\"simplify\"").unwrap();
        assert!(number(pass, "applied") > 0);
        let (partition, lower, schedule) =
            (find(&heard, "partition"), find(&heard, "lower"), find(&heard, "schedule"));
        assert_eq!(number(partition, "nodes"), number(passes, "after"));
        assert!(number(partition, "constants") > 0);
        assert_eq!(number(lower, "nests"), number(schedule, "nests"));
        assert_eq!(number(schedule, "kernels"), kernels);
        assert_eq!(number(find(&heard, "codegen"), "shaders"), if gpu { kernels } else { 0 });
        assert_eq!(number(find(&heard, "plan"), "steps"), plan.steps.len() as u64);
        assert_eq!(find(&heard, "find_plan").fields["from"], "\"compiler\"");
        assert_eq!(number(find(&heard, "capture"), "kernels"), kernels);
        assert!(number(find(&heard, "constants"), "bytes") > 0);
        assert_eq!(heard.iter().any(|it| it.name == "pipelines"), gpu);
        assert_eq!(number(find(&heard, "first_run"), "kernels"), kernels);
    }
    // Where the plan comes from.
    let from = |device: &Device| {
        let session = Session::new(&model, device).unwrap();
        let heard = Listener::heard(|| _ = session.run(&given).unwrap());
        assert!(!heard.iter().any(|it| it.name == "compile"), "{heard:?}");
        find(&heard, "find_plan").fields["from"].clone()
    };
    let device = opened().cache_in(Some(folder.path()));
    assert_eq!((from(&device).as_str(), from(&device).as_str()), ("\"disk\"", "\"memory\""));
}
