//! One case: its model opened, run on each of its sets of data, and what comes out compared.

use std::{fs, path::Path};

use bytes::Bytes;
use prost::Message;
use wgfuse::{
    DType, Datum, Device, Error, Model, Options, Session, Shape, Target, Tensor,
    compiler::{
        graph::eval::eval,
        import::onnx::{
            proto::{OptionalProto, SequenceProto, TensorProto, ValueInfoProto},
            tensor,
        },
        lower, schedule,
    },
};
use wgfuse_tests::stages::{Stages, stages};

use crate::{
    folder::{Case, data_sets},
    outcome::{Outcome, Status},
};

/// What ONNX's own runner allows of bf16: two units in the last place.
const BF16_RTOL: f64 = 1.0 / 64.0;

/// The evaluators round the result of every operation to its type, and so f16 more often than kernels do.
const STAGES: (f64, f64) = (2e-3, 1e-5);

pub fn run(folder: &Path, device: &Device, options: &Options, stages: bool) -> Outcome {
    match case(folder, device, options, stages) {
        Ok(()) => Outcome::pass(),
        Err(outcome) => outcome,
    }
}

fn case(folder: &Path, device: &Device, options: &Options, stages: bool) -> Result<(), Outcome> {
    let model = Model::open(folder.join("model.onnx"))?;
    let fault = |it: anyhow::Error| Outcome::error(format!("the case cannot be read: {it:#}"));
    let case = Case::read(folder).map_err(fault)?;
    let sets = data_sets(folder).map_err(fault)?;
    if sets.is_empty() {
        return Err(Outcome::error("the case has no data"));
    }
    let session = Session::with_options(&model, device, options.clone())?;
    for set in &sets {
        let given = inputs(&case, set)?;
        let wanted = values(&case.outputs, set, "output")?;
        let given: Vec<(&str, Datum)> = given.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
        let made = session.run_values(&given)?;
        for (name, wanted) in &wanted {
            let at = format!("output '{name}'");
            let made = made.get(name).ok_or_else(|| Outcome::wrong(format!("{at} is missing"), ""))?;
            compared_values(&case, &at, made, wanted)?;
        }
        let given: Option<Vec<(&str, Tensor)>> =
            given.into_iter().map(|(name, it)| Some((name, tensor_of(it)?))).collect();
        let wanted: Option<Vec<(String, Tensor)>> =
            wanted.into_iter().map(|(name, it)| Some((name, tensor_of(it)?))).collect();
        if let (true, Some(given), Some(wanted)) = (stages, given, wanted) {
            compare_stages(&case, &model, &given, &wanted)?;
        }
    }
    Ok(())
}

fn tensor_of(value: Datum) -> Option<Tensor> {
    match value {
        Datum::Tensor(it) => Some(it),
        Datum::Strings(_) | Datum::Sequence(_) | Datum::Optional(_) => None,
    }
}

fn compared_values(case: &Case, at: &str, made: &Datum, wanted: &Datum) -> Result<(), Outcome> {
    match (made, wanted) {
        (Datum::Tensor(made), Datum::Tensor(wanted)) => {
            compared(case, [(at, Some(made), wanted)].into_iter())
        }
        (Datum::Strings(made), Datum::Strings(wanted)) if made == wanted => Ok(()),
        (Datum::Strings(made), Datum::Strings(wanted)) => {
            Err(Outcome::wrong(format!("{at} has other strings"), format!("{made:?}, not {wanted:?}")))
        }
        (Datum::Sequence(made), Datum::Sequence(wanted)) if made.len() == wanted.len() => {
            let mut pairs = made.iter().zip(wanted).enumerate();
            pairs.try_for_each(|(place, (a, b))| compared_values(case, &format!("{at}[{place}]"), a, b))
        }
        (Datum::Optional(None), Datum::Optional(None)) => Ok(()),
        (Datum::Optional(Some(made)), Datum::Optional(Some(wanted))) => {
            compared_values(case, at, made, wanted)
        }
        (_, _) => Err(Outcome::wrong(format!("{at} is of another form, or as long as another"), "")),
    }
}

fn compared<'a>(
    case: &Case,
    outputs: impl Iterator<Item = (&'a str, Option<&'a Tensor>, &'a Tensor)>,
) -> Result<(), Outcome> {
    for (at, made, wanted) in outputs {
        let made = made.ok_or_else(|| Outcome::wrong(format!("{at} is missing"), ""))?;
        if made.ty() != wanted.ty() {
            return Err(Outcome::wrong(format!("{at} is {}, not {}", made.ty(), wanted.ty()), ""));
        }
        if let Some(found) = difference(made, wanted, case.tolerance) {
            return Err(match case.random {
                // ONNX leaves the generator open: only types and shapes can be told right.
                true => Outcome::unsupported("draws random numbers, which no two generators agree on"),
                false => Outcome::wrong(format!("{at} has other values"), found),
            });
        }
    }
    Ok(())
}

/// The first element that differs: integers in anything, floats beyond the tolerances.
fn difference(a: &Tensor, b: &Tensor, (rtol, atol): (f64, f64)) -> Option<String> {
    if !a.dtype().is_float() {
        let mut pairs = a.to_i64().into_iter().zip(b.to_i64()).enumerate();
        return pairs.find(|(_, (a, b))| a != b).map(|(at, (a, b))| format!("element {at}: {a}, not {b}"));
    }
    let rtol = if a.dtype() == DType::BF16 { rtol.max(BF16_RTOL) } else { rtol };
    let same =
        |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
    let mut pairs = a.to_f64().into_iter().zip(b.to_f64()).enumerate();
    let finite = |it: f64| it.is_finite();
    pairs
        .find(|&(_, (a, b))| !same(a, b) || (a != b && finite(a) != finite(b)))
        .map(|(at, (a, b))| format!("element {at}: {a}, not {b}"))
}

/// What to give the session: the data's inputs but for those that the file itself gives values.
fn inputs(case: &Case, set: &Path) -> Result<Vec<(String, Datum)>, Outcome> {
    let mut all = values(&case.inputs, set, "input")?;
    all.retain(|it| !case.initialised.contains(&it.0));
    Ok(all)
}

/// The values of `infos`, as many as there are files of them.
fn values(infos: &[ValueInfoProto], set: &Path, kind: &str) -> Result<Vec<(String, Datum)>, Outcome> {
    let path = |at: usize| set.join(format!("{kind}_{at}.pb"));
    (infos.iter().enumerate())
        .take_while(|(at, _)| path(*at).is_file())
        .map(|(at, info)| Ok((info.name.clone(), value(info, &path(at), &format!("{kind} {at}"))?)))
        .collect()
}

/// A file's message is of the kind that the model's type names.
fn value(info: &ValueInfoProto, path: &Path, at: &str) -> Result<Datum, Outcome> {
    let bytes = Bytes::from(fs::read(path).map_err(|it| Outcome::error(format!("{at}: {it}")))?);
    let unread = |it: prost::DecodeError| Outcome::error(format!("{at}: {it}"));
    match &info.r#type {
        Some(it) if it.tensor_type.is_some() => {
            tensor_value(&TensorProto::decode(bytes).map_err(unread)?, at)
        }
        Some(it) if it.sequence_type.is_some() => {
            sequence_value(&SequenceProto::decode(bytes).map_err(unread)?, at)
        }
        Some(it) if it.optional_type.is_some() => {
            let proto = OptionalProto::decode(bytes).map_err(unread)?;
            let one = match (&proto.tensor_value, &proto.sequence_value) {
                (Some(it), _) => Some(tensor_value(it, at)?),
                (None, Some(it)) => Some(sequence_value(it, at)?),
                (None, None) => None,
            };
            Ok(Datum::Optional(one.map(Box::new)))
        }
        _ => Err(Outcome::unsupported("has a value that is neither tensor, sequence nor optional")),
    }
}

fn tensor_value(proto: &TensorProto, at: &str) -> Result<Datum, Outcome> {
    tensor::value(proto, at, &|_| None).map_err(|it| Error::from(it).into())
}

fn sequence_value(proto: &SequenceProto, at: &str) -> Result<Datum, Outcome> {
    let tensors = proto.tensor_values.iter().map(|it| tensor_value(it, at));
    let sequences = proto.sequence_values.iter().map(|it| sequence_value(it, at));
    Ok(Datum::Sequence(tensors.chain(sequences).collect::<Result<_, _>>()?))
}

/// The graph, and its schedule for the least of targets, mean the same; their texts say all that they are.
fn compare_stages(
    case: &Case,
    model: &Model,
    given: &[(&str, Tensor)],
    wanted: &[(String, Tensor)],
) -> Result<(), Outcome> {
    let at_stage =
        |stage: &'static str| move |it: Outcome| Outcome { reason: format!("{stage}: {}", it.reason), ..it };
    let failed = |it: wgfuse::ModelError| Outcome::from(Error::from(it));
    let named = |name: &str| given.iter().find(|it| it.0 == name).map(|it| it.1.clone());
    let inputs: Option<Vec<Tensor>> = model.inputs.iter().map(|it| named(&it.name)).collect();
    let inputs = inputs.ok_or_else(|| Outcome::error("an input has no data"))?;
    let shapes: Vec<Shape> = inputs.iter().map(|it| it.shape().clone()).collect();
    let graph = match model.graph(&shapes) {
        // What depends on values has no graph of its own.
        Err(wgfuse::ModelError::Unsupported { .. }) => return Ok(()),
        graph => graph.map_err(failed)?,
    };
    if graph.random_key_slot().is_some() {
        return Ok(());
    }
    let outputs = |made: Vec<Tensor>, stage: &'static str| {
        let pairs =
            wanted.iter().zip(&made).map(|((name, wanted), made)| (name.as_str(), Some(made), wanted));
        compared(&Case { tolerance: STAGES, ..case.clone() }, pairs).map_err(at_stage(stage))
    };
    outputs(eval(&graph, &inputs).map_err(failed)?, "the graph's evaluator")?;
    let made = stages(graph, &Target::webgpu_minimum(), &Options::default()).map_err(failed)?;
    let Stages { parts, loops, schedule, .. } = made;
    let constants = eval(&parts.constants, &[]).map_err(failed)?;
    outputs(schedule::eval::eval(&schedule, &inputs, &constants), "the schedule's evaluator")?;
    let same = lower::text::parse(&loops.to_string()).map_err(failed)? == loops
        && schedule::text::parse(&schedule.to_string()).map_err(failed)? == schedule;
    match same {
        true => Ok(()),
        false => Err(Outcome::new(Status::Wrong, "the text of a stage is of another value")),
    }
}
