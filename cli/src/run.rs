//! `wgfuse run`: tensors from files through a model and back into files, compared with expected ones where there are any.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use wgfuse::{
    Datum, Form, Model, Options, Session, Shape,
    compare::{Difference, Extreme, Tolerance, Values, compare, place},
};

use crate::{
    Verdict,
    open::{self, DeviceChoice, FallbackChoice},
    pair::pair,
    print::{self, say},
    progress::progress,
    shapes,
    tensor_file::{self, Entry, Naming},
    values::{described, joined, parts},
};

#[derive(clap::Args)]
pub struct Args {
    /// The model file
    model: PathBuf,
    /// Inputs: .safetensors, or .npy and .pb as name=file or in the model's order; commas or repetition for several. Strings are in
    /// .pb alone; the parts of a sequence are name.0, name.1 and so on
    #[arg(long, value_name = "FILE")]
    inputs: Vec<String>,
    /// Where to write the outputs: a .safetensors file, a folder, or .npy and .pb files as for --inputs
    #[arg(long, value_name = "FILE")]
    outputs: Vec<String>,
    /// What the outputs should be, by name, or by order where names differ
    #[arg(long, value_name = "FILE")]
    expect: Vec<String>,
    /// Allowed difference relative to the expected value
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allowed absolute difference, added to the relative one
    #[arg(long, default_value_t = 1e-4)]
    atol: f64,
    /// auto, gpu, cpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What happens to parts that the GPU cannot run
    #[arg(long, value_enum, default_value = "cpu")]
    fallback: FallbackChoice,
    /// Build kernels with every run-time check
    #[arg(long)]
    checked: bool,
    /// What random operators follow from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Measure kernels to find how they run fastest; what is found is kept and used again
    #[arg(long)]
    tune: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// One output against what was expected of it.
pub struct Compared {
    pub output: String,
    pub expected: String,
    pub shape: Shape,
    pub difference: Difference,
}

pub fn run(args: Args) -> Result<Verdict> {
    let tolerance = Tolerance { rtol: args.rtol, atol: args.atol };
    ensure!(args.rtol >= 0.0 && args.atol >= 0.0, "--rtol and --atol must be at least 0");
    let model = open::model(&args.model)?;
    let inputs = inputs(&model, tensor_file::load(&args.inputs)?)?;
    // Read before the work is done: a wrong path should not cost a run.
    let expected = tensor_file::load(&args.expect)?;
    let device = open::device(args.device)?;
    let options = Options { fallback: args.fallback.into(), checked: args.checked, ..Options::default() };
    let session = open::tuned(Session::with_options(&model, &device, options)?, args.tune);
    session.set_seed(args.seed);
    let outputs: Vec<(String, Datum)> = {
        let _progress = progress("running");
        let given: Vec<(&str, Datum)> =
            inputs.iter().map(|(it, value)| (it.as_str(), value.clone())).collect();
        session.run_values(&given)?.into_iter().flat_map(|(name, it)| parts(&name, it)).collect()
    };
    let written = tensor_file::save(&args.outputs, &outputs)?;
    let compared = match args.expect.is_empty() {
        true => Vec::new(),
        false => compare_all(&outputs, &expected, tolerance)?,
    };
    let differs = compared.iter().any(|it| !it.difference.allowed());
    let steps_down = open::steps_down(&session);
    if args.json {
        let outputs = outputs.iter().map(|(name, it)| {
            let (dtype, shape) = match it {
                Datum::Tensor(it) => (it.dtype().name(), it.shape().to_vec()),
                Datum::Strings(it) => ("string", it.shape().to_vec()),
                Datum::Sequence(_) | Datum::Optional(_) => unreachable!("taken apart"),
            };
            json!({ "name": name, "dtype": dtype, "shape": shape })
        });
        print::json(&json!({
            "device": open::describe(&device),
            "steps_down": steps_down.iter().map(|it| it.reason.to_string()).collect::<Vec<_>>(),
            "outputs": outputs.collect::<Vec<_>>(),
            "files": written,
            "compared": compared.iter().map(compared_json).collect::<Vec<_>>(),
            "rtol": args.rtol,
            "atol": args.atol,
            "differs": differs,
        }));
    } else {
        say!("device   {}", open::describe(&device));
        steps_down.iter().for_each(|it| say!("         {}", it.reason));
        outputs.iter().for_each(|(name, it)| say!("output   {name}  {}", described(it)));
        written.iter().for_each(|it| say!("written  {}", it.display()));
        compared.iter().for_each(|it| say!("{}", compared_text(it)));
    }
    Ok(if differs { Verdict::Differs } else { Verdict::Done })
}

/// A value for each input of the model; one that may hold nothing may be left out.
pub fn inputs(model: &Model, mut entries: Vec<Entry>) -> Result<Vec<(String, Datum)>> {
    let mut optional = Vec::new();
    for (input, mut form) in model.inputs.iter().zip(model.forms()[0]) {
        if let Form::Optional(of) = form {
            optional.push(input.name.as_str());
            form = of;
        }
        if let Form::Sequence(_) = form {
            entries = joined(&input.name, entries)?;
        }
    }
    let wanted: Vec<&str> = model.inputs.iter().map(|it| it.name.as_str()).collect();
    let pairs = pair(&wanted, &entries, |it| it == Naming::Guess);
    let missing: Vec<String> = (wanted.iter().zip(&pairs.found))
        .filter(|(name, found)| found.is_none() && !optional.contains(name))
        .map(|(name, _)| format!("'{name}'"))
        .collect();
    let names = |all: &mut dyn Iterator<Item = &Entry>| {
        all.map(|it| format!("'{}'", it.name)).collect::<Vec<_>>().join(", ")
    };
    let takes = shapes::takes(&model.inputs);
    if !missing.is_empty() {
        let got = match entries.is_empty() {
            true => "nothing was given with --inputs".to_string(),
            false => format!("--inputs holds {}", names(&mut entries.iter())),
        };
        bail!("no value for {}: {got}; {takes}", missing.join(", "));
    }
    let mut left = pairs.left.iter().map(|it| &entries[*it]).peekable();
    if left.peek().is_some() {
        // A file with many tensors may be about more than the inputs; a file for one tensor may not.
        let strangers = names(&mut left.clone());
        ensure!(left.all(|it| it.naming == Naming::File), "no such input: {strangers}; {takes}");
        eprintln!("wgfuse: not inputs of the model, ignored: {strangers}");
    }
    let found = wanted.iter().zip(&pairs.found).filter_map(|(name, it)| Some((name.to_string(), (*it)?)));
    Ok(found.map(|(name, at)| (name, entries[at].value.clone())).collect())
}

fn compare_all(
    outputs: &[(String, Datum)],
    entries: &[Entry],
    tolerance: Tolerance,
) -> Result<Vec<Compared>> {
    let wanted: Vec<&str> = outputs.iter().map(|it| it.0.as_str()).collect();
    let pairs = pair(&wanted, entries, |it| it != Naming::Given);
    let list = |all: Vec<&str>| all.into_iter().map(|it| format!("'{it}'")).collect::<Vec<_>>().join(", ");
    let alone = wanted.iter().zip(&pairs.found).filter(|it| it.1.is_none()).map(|it| *it.0).collect();
    let (alone, left) = (list(alone), list(pairs.left.iter().map(|it| entries[*it].name.as_str()).collect()));
    let given = pairs.left.iter().any(|it| entries[*it].naming == Naming::Given);
    ensure!(!given, "--expect: the model has no output {left}; it has {}", list(wanted.clone()));
    ensure!(
        alone.is_empty(),
        "--expect holds nothing for the output {alone}{}",
        match left.is_empty() {
            true => String::new(),
            false => format!(", and {left} belongs to no output"),
        }
    );
    if !left.is_empty() {
        eprintln!("wgfuse: not outputs of the model, not compared: {left}");
    }
    let one = |((name, actual), found): (&(String, Datum), &Option<usize>)| {
        let entry = &entries[found.expect("none is alone")];
        let (shape, difference) = difference(actual, &entry.value, tolerance);
        Compared { output: name.clone(), expected: entry.name.clone(), shape, difference }
    };
    Ok(outputs.iter().zip(&pairs.found).map(one).collect())
}

/// Strings are as they should be where they are equal.
fn difference(actual: &Datum, expected: &Datum, tolerance: Tolerance) -> (Shape, Difference) {
    match (actual, expected) {
        (Datum::Tensor(a), Datum::Tensor(b)) => (a.shape().clone(), compare(a, b, tolerance)),
        (Datum::Strings(a), Datum::Strings(b)) if a.shape() == b.shape() => {
            let beyond = a.values().iter().zip(b.values()).filter(|(a, b)| a != b).count();
            let values = Values { count: a.values().len(), beyond, ..Values::default() };
            (a.shape().clone(), Difference::Values(values))
        }
        (a, b) => {
            let what = format!("is {}, expected {}", described(a), described(b));
            (Shape::default(), Difference::Type(what))
        }
    }
}

pub fn compared_text(it: &Compared) -> String {
    let name = match it.output == it.expected {
        true => it.output.clone(),
        false => format!("{} (expected: {})", it.output, it.expected),
    };
    let values = match &it.difference {
        Difference::Type(what) => return format!("DIFFERS  {name} {what}"),
        Difference::Values(values) => values,
    };
    let extreme = |what: &str, extreme: &Option<Extreme>| {
        extreme.map_or(String::new(), |at| {
            let Extreme { value, at, actual, expected } = at;
            format!(
                "\n         {what} {value:.3e} at {}: {} for {}",
                place(&it.shape, at),
                print::number(actual),
                print::number(expected)
            )
        })
    };
    let verdict = match values.beyond {
        0 => format!("same     {name}: all {} elements are close enough", values.count),
        beyond => format!("DIFFERS  {name}: {beyond} of {} elements are too far apart", values.count),
    };
    let relative = extreme("largest relative difference", &values.relative);
    verdict + &extreme("largest absolute difference", &values.absolute) + &relative
}

pub fn compared_json(it: &Compared) -> Value {
    let mut value = json!({ "output": it.output, "expected": it.expected, "same": it.difference.allowed() });
    match &it.difference {
        Difference::Type(what) => value["type"] = json!(what),
        Difference::Values(Values { count, beyond, absolute, relative }) => {
            let extreme = |extreme: &Option<Extreme>| match extreme {
                None => Value::Null,
                // JSON knows no infinities: they are null, and counted in `beyond`.
                Some(at) => json!({
                    "value": at.value,
                    "at": place(&it.shape, at.at),
                    "actual": at.actual,
                    "expected": at.expected,
                }),
            };
            value["count"] = json!(count);
            value["beyond"] = json!(beyond);
            value["absolute"] = extreme(absolute);
            value["relative"] = extreme(relative);
        }
    }
    value
}
