//! What one compilation was given, written down: enough to compile again, and to run, in another process or on another machine.
//!
//! In: a graph, examples of its inputs, options, target and choices; or what was written of them. Out: three files' contents, or the
//! same again. Passes of the user's own are closures, of which only the names are kept. What is read is not trusted: sizes are
//! compared with what is there, and with what the caller allows, before anything is allocated, and the result is a graph that its verifier has
//! nothing against, or an error.

mod values;

use std::{collections::HashMap, fmt::Write};

use bytes::Bytes;

pub use values::{Values, made, statistics};

use crate::{
    error::Error,
    graph::{
        Graph,
        text::{parse_with, print_numbered},
    },
    options::{Fallback, Options},
    passes::is_causal_mask,
    plan::{SOURCES, kept::is_weights},
    schedule::{Choice, Choices, Class},
    shape::Type,
    target::Target,
    tensor::Tensor,
    text::{Cursor, Parsed, Show, Text, spelled},
};

/// Changes with what the files mean.
pub const VERSION: u32 = 1;

/// Tensors of more bytes are kept as a seed and statistics, unless another limit is given.
pub const LIMIT: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Arguments {
    pub graph: Graph,
    /// One an input of the graph, states among them.
    pub examples: Vec<Example>,
    pub options: Options,
    /// The name of the device that it was compiled for.
    pub device: String,
    pub target: Target,
    pub choices: Choices,
    /// Passes of the user's own that `options` had when it was written.
    pub own_passes: Vec<String>,
    /// The build that wrote it.
    pub build: String,
}

/// A value of an input.
#[derive(Clone, Debug)]
pub struct Example {
    /// Where it was.
    pub device: String,
    /// Unknown where only a shape was given.
    pub value: Option<Tensor>,
}

/// The contents of three files.
#[derive(Clone, Debug)]
pub struct Written {
    /// Everything but the graph; of tensors their types, strides, devices, and where their values are.
    pub arguments: String,
    /// The graph's text; constants of more than 16 elements by their numbers in `arguments`.
    pub graph: String,
    /// Values, each tensor's at a multiple of 64.
    pub data: Vec<u8>,
}

/// A tensor without its name.
struct Record {
    ty: Type,
    /// In elements: always those of dense rows.
    strides: Vec<usize>,
    device: String,
    values: Values,
}

spelled!(struct Record { ty, strides, device, values });

/// `Options` with the names of the passes and patterns for those.
struct Spoken {
    fallback: Fallback,
    checked: bool,
    fuse: bool,
    without_passes: Vec<String>,
    rule_limit: Option<u64>,
    exact: bool,
    pairs: bool,
    passes: Vec<String>,
    memory_limit: u64,
    work_limit: u64,
}

spelled!(struct Spoken { fallback, checked, fuse, without_passes, rule_limit, exact, pairs, passes, memory_limit, work_limit });

impl Spoken {
    fn of(options: &Options) -> Spoken {
        let Options {
            fallback,
            checked,
            fuse,
            without_passes,
            rule_limit,
            exact,
            pairs,
            passes,
            patterns,
            memory_limit,
            work_limit,
            // Of runs alone.
            turn_limit: _,
        } = options;
        Spoken {
            fallback: *fallback,
            checked: *checked,
            fuse: *fuse,
            without_passes: without_passes.clone(),
            rule_limit: *rule_limit,
            exact: *exact,
            pairs: *pairs,
            passes: (passes.iter().map(|it| &it.name))
                .chain(patterns.iter().map(|it| &it.name))
                .cloned()
                .collect(),
            memory_limit: *memory_limit,
            work_limit: *work_limit,
        }
    }

    /// The options without passes of the user's own, and the names of those.
    fn options(self) -> (Options, Vec<String>) {
        let Spoken {
            fallback,
            checked,
            fuse,
            mut without_passes,
            rule_limit,
            exact,
            pairs,
            passes,
            memory_limit,
            work_limit,
        } = self;
        without_passes.retain(|it| !passes.contains(it));
        let own = Vec::new();
        (
            Options {
                fallback,
                checked,
                fuse,
                without_passes,
                rule_limit,
                exact,
                pairs,
                passes: own,
                patterns: Vec::new(),
                memory_limit,
                work_limit,
                ..Options::default()
            },
            passes,
        )
    }
}

impl Arguments {
    /// Tensors of more than `limit` bytes are written as a seed and statistics, but for constants that decide what is compiled.
    pub fn write(&self, limit: u64) -> Written {
        let mut data = Vec::new();
        let mut places: HashMap<(usize, usize), u64> = HashMap::new();
        let mut seed = 0;
        let mut record = |value: &Tensor, device: &str, whole: bool| {
            let bytes = value.data();
            let values = match whole || bytes.len() as u64 <= limit {
                // Constants that share their bytes stay so: that decides which of them become one.
                true => {
                    let at = *places.entry((bytes.as_ptr() as usize, bytes.len())).or_insert_with(|| {
                        data.resize(data.len().next_multiple_of(64), 0);
                        data.extend_from_slice(bytes);
                        (data.len() - bytes.len()) as u64
                    });
                    Values::Stored { at, bytes: bytes.len() as u64 }
                }
                false => {
                    seed += 1;
                    statistics(value, seed)
                }
            };
            record(value.ty(), device, values)
        };
        let Arguments { graph, examples, options, device, target, choices, own_passes: _, build } = self;
        let mut out =
            format!("// What one compilation was given. `wgfuse replay-args` reads it.\nversion {VERSION}\n");
        let mut line = |word: &str, name: &str, it: &dyn Text| {
            let space = if name.is_empty() { "" } else { " " };
            writeln!(out, "{word}{space}{name} {}", Show(it)).expect("a string takes everything");
        };
        line("build", "", build);
        line("device", "", device);
        line("target", "", target);
        line("options", "", &Spoken::of(options));
        choices.iter().for_each(|it| line("choice", "", &it));
        for (input, example) in graph.inputs().iter().zip(examples) {
            let it = match &example.value {
                Some(value) => record(value, &example.device, false),
                None => self::record(&input.ty, &example.device, Values::Unknown),
            };
            line("input", &format!("{:?}", input.name), &it);
        }
        let mut count = 0;
        let graph = print_numbered(graph, |tensor| {
            line("constant", "", &record(tensor, "host", !is_weights(tensor) || is_causal_mask(tensor)));
            count += 1;
            count - 1
        });
        Written { arguments: out, graph, data }
    }

    /// What was written. Tensors that are made from statistics may have `most` bytes together.
    pub fn read(arguments: &str, graph: &str, data: &Bytes, most: u64) -> Result<Arguments, Error> {
        let mut told = Told::default();
        Cursor::all(arguments, |from| {
            from.expect("version")?;
            let version: u32 = from.number()?;
            if version != VERSION {
                return Err(format!("it is of version {version}; this build reads version {VERSION}"));
            }
            from.end()?;
            while !from.is_done() {
                told.line(from)?;
                from.end()?;
            }
            Ok(())
        })?;
        let at = |what: &str| Error::malformed("saved arguments", what);
        let missing = |what: &str| at(&format!("a line '{what}' is missing"));
        let target = told.target.ok_or_else(|| missing("target"))?;
        let (options, own_passes) = told.options.ok_or_else(|| missing("options"))?.options();
        let mut left = most;
        let mut value = |number: usize, it: &Record| {
            let needed = match &it.values {
                Values::Stored { .. } => 0,
                Values::Made { .. } | Values::Unknown => it.ty.bytes() as u64,
            };
            left = left.checked_sub(needed).ok_or_else(|| {
                let at = "bytes of a tensor to be made from statistics".into();
                Error::TooLarge { at, need: needed, have: left }
            })?;
            made(&it.ty, &it.values, number as u64, data).map_err(|it| at(&it))
        };
        let constants: Result<Vec<Tensor>, Error> =
            told.constants.iter().enumerate().map(|(number, it)| value(number, it)).collect();
        let graph = parse_with(graph, &constants?)?;
        if told.inputs.len() != graph.inputs().len() {
            let (has, told) = (graph.inputs().len(), told.inputs.len());
            return Err(at(&format!("the graph has {has} inputs, {told} are described")));
        }
        let mut examples = Vec::new();
        for (number, (input, (name, it))) in graph.inputs().iter().zip(&told.inputs).enumerate() {
            if (&input.name, &input.ty) != (name, &it.ty) {
                return Err(at(&format!("input '{name}' of type {} is not the graph's", it.ty)));
            }
            let value = Some(value(number, it)?);
            examples.push(Example { device: it.device.clone(), value });
        }
        let choices = told.choices.into_iter().fold(Choices::default(), |mut all, (class, choice)| {
            all.insert(class, choice);
            all
        });
        Ok(Arguments {
            graph,
            examples,
            options,
            device: told.device,
            target,
            choices,
            own_passes,
            build: told.build,
        })
    }
}

/// What this build calls itself.
pub fn this_build() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), &SOURCES[..SOURCES.len().min(16)])
}

fn record(ty: &Type, device: &str, values: Values) -> Record {
    Record { ty: ty.clone(), strides: ty.shape.strides().to_vec(), device: device.to_owned(), values }
}

/// What lines have said so far.
#[derive(Default)]
struct Told {
    build: String,
    device: String,
    target: Option<Target>,
    options: Option<Spoken>,
    choices: Vec<(Class, Choice)>,
    inputs: Vec<(String, Record)>,
    constants: Vec<Record>,
}

impl Told {
    fn line(&mut self, from: &mut Cursor<'_>) -> Parsed<()> {
        if from.word("build") {
            self.build = Text::parse(from)?;
        } else if from.word("device") {
            self.device = Text::parse(from)?;
        } else if from.word("target") {
            self.target = Some(Text::parse(from)?);
        } else if from.word("options") {
            self.options = Some(Text::parse(from)?);
        } else if from.word("choice") {
            self.choices.push(Text::parse(from)?);
        } else if from.word("input") {
            let name = from.string()?;
            self.inputs.push((name, dense(from)?));
        } else if from.word("constant") {
            self.constants.push(dense(from)?);
        } else {
            return from
                .wrong("a line begins with build, device, target, options, choice, input or constant");
        }
        Ok(())
    }
}

fn dense(from: &mut Cursor<'_>) -> Parsed<Record> {
    let place = from.mark();
    let record = Record::parse(from)?;
    if record.strides[..] != record.ty.shape.strides()[..] {
        from.blame(place);
        return Err("only dense rows are read".into());
    }
    Ok(record)
}
