//! `wgfuse inspect`: what a model is, and what the compiler makes of it.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use wgfuse::{
    Datum, DisabledReason, Model, Session, Shape, Signature,
    compiler::{
        import::{
            Begin,
            stretch::{Bound, Known, input_key},
        },
        options::Options,
        shape::{Form, Type},
    },
    report::{self, Report},
};

use crate::{
    compile,
    open::{self, DeviceChoice},
    print::{self, Align, Table, say},
    progress::progress,
    run,
    shapes::{self, ShapeArg},
    tally, tensor_file, way,
};

#[derive(clap::Args)]
pub struct Args {
    /// The model file
    model: PathBuf,
    /// Shape of an input, as name=1x128; may be repeated
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    shapes: Vec<ShapeArg>,
    /// Inputs, as for `run`: their shapes are taken, and a model in stretches is run to show all that it comes to
    #[arg(long, value_name = "FILE", conflicts_with = "shapes")]
    inputs: Vec<String>,
    /// Write a page with the graph, the kernels and the memory plan
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Every kernel and every refused fusion in full
    #[arg(long)]
    kernels: bool,
    /// The device to compile for: auto, gpu, cpu or an adapter's number
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

pub fn inspect(args: Args) -> Result<()> {
    let model = open::model(&args.model)?;
    if let Some(artefact) = model.compiled() {
        ensure!(
            args.html.is_none() && !args.json,
            "an artefact has no graph to draw; `wgfuse compile` and `inspect` take the same model"
        );
        return compile::list(artefact);
    }
    let device = open::device(args.device)?;
    let given = match args.inputs.is_empty() {
        true => None,
        false => Some(run::inputs(&model, tensor_file::load(&args.inputs)?)?),
    };
    let of_inputs = given.iter().flatten().filter_map(|(name, it)| {
        let shape = match it {
            Datum::Tensor(it) => it.shape(),
            Datum::Strings(it) => it.shape(),
            Datum::Sequence(_) | Datum::Optional(_) => return None,
        };
        Some(ShapeArg { name: name.clone(), shape: shape.clone() })
    });
    let asked: Vec<ShapeArg> = args.shapes.iter().cloned().chain(of_inputs).collect();
    let mut found = shapes::shapes(&model.inputs, &asked)?;
    let (mut stops, mut runs) = (Vec::new(), Vec::new());
    let mut model = model;
    let named = |it: &(&Signature, &Form)| format!("{} is {}", it.0.name, it.1.of(it.0));
    let [inputs, outputs] = model.forms();
    let ports = model.inputs.iter().zip(inputs).chain(model.outputs.iter().zip(outputs));
    let strings: Vec<String> = ports.filter(|it| *it.1 == Form::Strings).map(|it| named(&it)).collect();
    let begun = match strings.is_empty() {
        true => model.begin(&found.shapes)?,
        false => begin_with_strings(&model, &found.shapes)?,
    };
    if let Begin::Graph(graph) = begun {
        if !strings.is_empty() {
            model = Model::from_graph(graph);
        }
    } else if let Begin::Stretch(stretch) = begun {
        for (node, stop, read) in stretch.stops() {
            stops.push((node.to_string(), stop.to_string(), read));
        }
        if let Some(given) = &given {
            let _progress = progress("running");
            let given: Vec<_> = given.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
            let session = Session::new(&model, &device)?;
            session.run_values(&given)?;
            runs = session.stretches();
        }
        found.shapes = stretch.graph.inputs().iter().map(|it| it.ty.shape.clone()).collect();
        model = Model::from_graph(stretch.graph);
    }
    let model = model;
    let compiling = progress("compiling");
    // What a session would get the plan from, and how far it would step down.
    let session = Session::new(&model, &device)?;
    let plan = session.plan_for(&found.shapes)?;
    let (plans, steps_down) = (session.tally(), open::steps_down(&session));
    let report = report::report(&model, &found.shapes, &plan.target, &Options::default())?.0;
    drop(compiling);
    let name = args.model.display().to_string();
    if let Some(path) = &args.html {
        let page = report::page(&name, &open::describe(&device), &found.assumed, &report);
        std::fs::write(path, page).with_context(|| format!("'{}' cannot be written", path.display()))?;
        eprintln!("wgfuse: wrote {}", path.display());
    }
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["model"] = json!(name);
        value["device"] = json!(open::describe(&device));
        value["device_reason"] = json!(device.disabled_reason().map(|it| it.to_string()));
        value["plans"] = tally::json(&plans);
        value["steps_down"] = steps_down.iter().map(|it| json!(it.reason.to_string())).collect();
        value["stops"] = (stops.iter())
            .map(|(node, why, bytes)| json!({ "node": node, "why": why, "bytes": bytes }))
            .collect();
        value["stretches"] = way::json(&runs).into();
        value["assumed"] = json!(found.assumed);
        value["strings"] = json!(strings);
        print::json(&value);
        return Ok(());
    }
    say!("model   {name}");
    say!("device  {}", device.name());
    if let Some(reason) = device.disabled_reason() {
        say!("        because {reason}");
    }
    if !strings.is_empty() {
        say!("strings {} (numbers stand for them below)", strings.join(", "));
    }
    say!("plan    {}", tally::text(&plans));
    // Those of nodes stand in a table of their own.
    let of_node =
        |it: &DisabledReason| matches!(it, DisabledReason::DType { .. } | DisabledReason::Neighbours { .. });
    steps_down.iter().filter(|it| !of_node(&it.reason)).for_each(|it| say!("        {}", it.reason));
    if !found.assumed.is_empty() {
        say!("sizes   assumed: {} (set others with --shape name=1x128)", found.assumed.join(", "));
    }
    if !runs.is_empty() {
        say!("\nThe model runs in stretches, since how it goes on follows from values. A run came to these:");
        way::table(&runs).print();
        say!("\nThe first of them:");
    } else if !stops.is_empty() {
        say!(
            "\nThis is the first stretch of the model: how it goes on follows from values, which are looked at then."
        );
        let mut table = Table::new(&[
            ("it ends at", Align::Left),
            ("because", Align::Left),
            ("read there", Align::Right),
        ])
        .give(1);
        for (node, why, bytes) in &stops {
            table.row(vec![node.clone(), why.clone(), print::bytes(*bytes)]);
        }
        table.print();
        say!("\nWith --inputs the model is run and all stretches are shown.");
    }
    if !stops.is_empty() && report.outputs.is_empty() {
        say!("\nNothing is computed in it.");
        return Ok(());
    }
    print_report(&report, args.kernels);
    Ok(())
}

/// As far as the model can be imported where strings stand as their numbers.
fn begin_with_strings(model: &Model, shapes: &[Shape]) -> Result<Begin> {
    let inputs = model.inputs.iter().zip(model.forms()[0]).zip(shapes).map(|((input, form), shape)| {
        let (key, ty) = (input_key(&input.name), Type { dtype: input.dtype, shape: shape.clone() });
        let bound = if *form == Form::Strings { Bound::Strings(key) } else { Bound::Tensor(key) };
        (bound, vec![Known::Type(ty)])
    });
    let stretch = model.begin_with(inputs)?.context("the model has no strings")?;
    Ok(match stretch.stopped {
        None => Begin::Graph(stretch.graph),
        Some(_) => Begin::Stretch(Box::new(stretch)),
    })
}

fn print_report(report: &Report, full: bool) {
    say!("\nInputs and outputs");
    let mut ports = Table::new(&[
        ("", Align::Left),
        ("name", Align::Left),
        ("type", Align::Left),
        ("in the file", Align::Left),
        ("here", Align::Left),
    ])
    .give(1);
    for (kind, all) in [("input", &report.inputs), ("output", &report.outputs)] {
        for it in all {
            let shape = format!("{:?}", it.shape).replace(", ", ",");
            ports.row(vec![kind.into(), it.name.clone(), it.dtype.into(), it.dims.clone(), shape]);
        }
    }
    ports.print();

    let total =
        |count: fn(&report::OperatorCount) -> usize| report.operators.iter().map(count).sum::<usize>();
    say!("\nOperators: {} in the file, {} optimised", total(|it| it.imported), total(|it| it.optimised));
    let mut operators =
        Table::new(&[("operator", Align::Left), ("in the file", Align::Right), ("optimised", Align::Right)]);
    for it in &report.operators {
        operators.row(vec![it.name.into(), it.imported.to_string(), it.optimised.to_string()]);
    }
    operators.print();

    let on = |place| report.kernels.iter().filter(|it| it.place == place).count();
    say!("\nKernels: {} on the GPU, {} on the CPU", on("gpu"), on("cpu"));
    let mut parts = Table::new(&[("node on the CPU", Align::Left), ("why", Align::Left)]);
    report.cpu_parts.iter().for_each(|it| parts.row(vec![it.node.clone(), it.reason.clone()]));
    if !parts.is_empty() {
        parts.print();
    }
    if !report.crossings.is_empty() {
        let total = report.crossings.iter().map(|it| it.bytes).sum();
        say!("\nMoved in every run, beside inputs and outputs: {}", print::bytes(total));
        let mut moved =
            Table::new(&[("made by", Align::Left), ("to the", Align::Left), ("bytes", Align::Right)]);
        for it in &report.crossings {
            moved.row(vec![it.node.clone(), it.to.to_uppercase(), print::bytes(it.bytes)]);
        }
        moved.print();
    }
    let mut kernels = Table::new(&[
        ("name", Align::Left),
        ("on", Align::Left),
        ("bytes", Align::Right),
        ("fused", Align::Left),
    ])
    .give(3);
    for it in &report.kernels {
        kernels.row(vec![it.name.clone(), it.place.into(), print::bytes(it.bytes), it.ops.join(" + ")]);
    }
    if full {
        report.kernels.iter().for_each(print_kernel);
    } else if !kernels.is_empty() {
        kernels.print();
    }

    say!("\nFusions considered and not done: {}", report.refusals.len());
    if full {
        for it in &report.refusals {
            say!("  '{}' into '{}': {}", it.producer, it.consumer, it.why);
        }
    } else if !report.refusals.is_empty() {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        report.refusals.iter().for_each(|it| *reasons.entry(&it.why).or_default() += 1);
        let mut table = Table::new(&[("pairs", Align::Right), ("why", Align::Left)]);
        reasons.iter().for_each(|(why, count)| table.row(vec![count.to_string(), why.to_string()]));
        table.print();
    }

    let memory = &report.memory;
    say!("\nMemory");
    say!(
        "  activations  {} (largest live sum {}, ratio {:.2})",
        print::bytes(memory.arena),
        print::bytes(memory.live_peak),
        memory.ratio
    );
    let others = [
        ("weights", memory.weights),
        ("inputs", memory.inputs),
        ("outputs", memory.outputs),
        ("states", memory.states),
    ];
    for (what, bytes) in others {
        say!("  {what:<11}  {}", print::bytes(bytes));
    }
}

fn print_kernel(it: &report::Kernel) {
    say!("\n  {} on the {}", it.name, it.place);
    say!("    fused     {}", it.ops.join(" + "));
    say!("    form      {}", it.form);
    if let (Some([x, y, z]), Some([a, b, c])) = (it.groups, it.workgroup) {
        say!("    launch    {x}x{y}x{z} workgroups of {a}x{b}x{c}");
    }
    say!(
        "    work      {}, {:.3} MFLOP, {}",
        print::bytes(it.bytes),
        it.flops as f64 / 1e6,
        print::count(it.bindings, "binding")
    );
    say!("    made for  {}", it.origins.join(", "));
}
