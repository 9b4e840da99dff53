//! Plans that were compiled ahead of time, as the bytes of one file: what a program ships in place of a model and a compiler.
//!
//! In: a model's signature and plans of it, each for certain shapes and a target, their constants computed. Out: bytes, and from
//! bytes the same again. What always holds: bytes that were damaged, cut or written by a newer format are refused before anything
//! else is looked at; a plan that comes back is one that its verifiers have nothing against, with modules that naga's
//! validator has nothing against. Sums tell damage, not malice: modules are code that runs without run-time checks unless
//! they are asked for, so that an artefact is to be trusted like a program.
//!
//! ```text
//! 0   8   MAGIC
//! 8   4   VERSION, little endian as all that follows
//! 12  4   0
//! 16  8   length of what follows the header
//! 24  16  XXH3 of what follows the header (128 bits)
//! 40  24  0
//! 64      length of the contents (8), the contents: text; then blobs, each at a multiple of 64
//! ```
//!
//! The contents say where blobs lie. Values and modules that are equal are there once, for all plans.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use bytes::Bytes;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    codegen::LateModule,
    error::Error,
    graph::{Graph, Output, State, Value, number, random},
    plan::{
        Constant, Plan, keys,
        text::statements,
        written::{self, Context, Face, Written},
    },
    schedule::Kernel,
    shape::{Dim, Shape, Signature, Type},
    target::{Place, Target},
    tensor::Tensor,
    text::{Cursor, Show, Text, spelled},
};

/// How an artefact begins: no text does, and transfers that change line ends are seen.
pub const MAGIC: &[u8; 8] = b"\x97WGF\r\n\x1a\n";

/// Changes with what the bytes mean.
pub const VERSION: u32 = 1;

const HEADER: usize = 64;
const ALIGNMENT: usize = 64;

/// What was compiled, but for the plans themselves, which `plan` reads.
#[derive(Clone, Debug)]
pub struct Artefact {
    pub inputs: Vec<Signature>,
    pub outputs: Vec<Signature>,
    pub states: Vec<State>,
    /// In the order of preference among those of the same shapes.
    pub compiled: Vec<Compiled>,
    modules: Vec<Blob>,
    /// All behind the header.
    bytes: Bytes,
}

/// One plan of an artefact.
#[derive(Clone, PartialEq, Debug)]
pub struct Compiled {
    /// One an input of the model.
    pub shapes: Vec<Shape>,
    pub target: Target,
    /// Of the plan's graph: the model's, and what the session adds.
    inputs: Vec<(String, Type)>,
    outputs: Vec<(String, Type)>,
    leaves: Vec<Leaf>,
    schedule: Blob,
    shaders: Blob,
    numbers: Blob,
}

/// A constant.
#[derive(Clone, PartialEq, Debug)]
struct Leaf {
    /// The model's node that it stems from.
    origin: Arc<str>,
    ty: Type,
    at: u64,
}

/// Bytes of the artefact; `key` is that of a module, 0 for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blob {
    key: u128,
    at: u64,
    len: u64,
}

spelled!(struct Compiled { shapes, target, inputs, outputs, leaves, schedule, shaders, numbers });
spelled!(struct Leaf { origin, ty, at });
spelled!(struct Blob { key, at, len });

/// A plan to be written, with the values of its constants in their order.
pub struct Draft<'a> {
    pub shapes: &'a [Shape],
    /// Of the graph that was compiled.
    pub face: &'a Face,
    pub plan: &'a Plan,
    pub values: &'a [Tensor],
}

/// The artefact of these plans of a model with this signature.
#[cfg(feature = "compile")]
pub fn write(
    (inputs, outputs): (&[Signature], &[Signature]),
    states: &[State],
    drafts: &[Draft<'_>],
) -> Result<Vec<u8>, Error> {
    let mut blobs = Blobs::default();
    let mut modules: Vec<Blob> = Vec::new();
    let mut compiled = Vec::new();
    for Draft { shapes, face, plan, values } in drafts {
        let (plan, leaves) = settled(plan, values, &mut blobs)?;
        for shader in plan.kernels.iter().filter_map(|it| it.shader.as_ref()) {
            if !modules.iter().any(|it| it.key == shader.key) {
                let bytes = postcard::to_allocvec(&*shader.module)
                    .map_err(|why| Error::malformed("a kernel's module", why.to_string()))?;
                modules.push(Blob { key: shader.key, ..blobs.add(&bytes) });
            }
        }
        let texts = written::write(&plan, face);
        compiled.push(Compiled {
            shapes: shapes.to_vec(),
            target: plan.target.clone(),
            inputs: face.inputs.clone(),
            outputs: face.outputs.clone(),
            leaves,
            schedule: blobs.add(texts.schedule.as_bytes()),
            shaders: blobs.add(texts.shaders.as_bytes()),
            numbers: blobs.add(texts.numbers.as_bytes()),
        });
    }
    let mut contents = String::new();
    let mut line = |word: &str, it: &dyn Text| {
        writeln!(contents, "{word}{}", Show(it)).expect("a string takes everything");
    };
    inputs.iter().for_each(|it| line("input", it));
    outputs.iter().for_each(|it| line("output", it));
    states.iter().for_each(|it| line("state", it));
    modules.iter().for_each(|it| line("module", it));
    compiled.iter().for_each(|it| line("plan", it));
    let mut payload = (contents.len() as u64).to_le_bytes().to_vec();
    payload.extend(contents.as_bytes());
    // Places of blobs count from the first of them.
    payload.resize(payload.len().next_multiple_of(ALIGNMENT), 0);
    payload.extend(blobs.bytes);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(xxh3_128(&payload).to_le_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(payload);
    Ok(bytes)
}

/// Bytes one behind the other, equal ones once.
#[cfg(feature = "compile")]
#[derive(Default)]
struct Blobs {
    bytes: Vec<u8>,
    seen: HashMap<(u128, usize), u64>,
}

#[cfg(feature = "compile")]
impl Blobs {
    fn add(&mut self, bytes: &[u8]) -> Blob {
        let all = &mut self.bytes;
        let at = *self.seen.entry((xxh3_128(bytes), bytes.len())).or_insert_with(|| {
            all.resize(all.len().next_multiple_of(ALIGNMENT), 0);
            all.extend(bytes);
            (all.len() - bytes.len()) as u64
        });
        Blob { key: 0, at, len: bytes.len() as u64 }
    }
}

/// The plan with its constants as values, and where those lie.
#[cfg(feature = "compile")]
fn settled(plan: &Plan, values: &[Tensor], blobs: &mut Blobs) -> Result<(Plan, Vec<Leaf>), Error> {
    if values.len() != plan.constants.len() {
        let what = format!("{} values for {} constants", values.len(), plan.constants.len());
        return Err(Error::malformed("an artefact", what));
    }
    let (mut leaves, mut tensors): (Vec<Leaf>, Vec<Tensor>) = (Vec::new(), Vec::new());
    // Constants that are one here are one after reading: they are told apart by what they are, not by where they lie.
    let mut places: HashMap<(u64, Type), usize> = HashMap::new();
    let mut numbers = Vec::new();
    for (constant, value) in plan.constants.iter().zip(values) {
        if *value.ty() != constant.port.ty {
            let what = format!("is {}, its value {}", constant.port.ty, value.ty());
            return Err(Error::malformed(format!("constant '{}'", constant.port.name), what));
        }
        let at = blobs.add(value.data()).at;
        let place = *places.entry((at, value.ty().clone())).or_insert(leaves.len());
        if place == leaves.len() {
            let origin = plan.constant_graph.node(constant.value).origin.clone();
            leaves.push(Leaf { origin, ty: value.ty().clone(), at });
            tensors.push(value.clone());
        }
        numbers.push(place);
    }
    let (graph, keys) = constant_graph(&leaves, tensors)?;
    let constants = (plan.constants.iter().zip(&numbers))
        .map(|(it, &at)| Constant { key: keys[at].0, value: keys[at].1, port: it.port.clone() })
        .collect();
    Ok((Plan { constants, constant_graph: graph, ..plan.clone() }, leaves))
}

type Keyed = Vec<(u128, Value)>;

/// A graph of these constants, and each one's key and value.
fn constant_graph(leaves: &[Leaf], tensors: Vec<Tensor>) -> Result<(Graph, Keyed), Error> {
    let mut graph = Graph::new();
    let mut values: Vec<Value> = Vec::new();
    for (leaf, tensor) in leaves.iter().zip(tensors) {
        graph.set_origin(leaf.origin.clone());
        let value = graph.add_constant(tensor);
        if values.last().is_some_and(|it| number(*it) >= number(value)) {
            return Err(Error::malformed("an artefact's constants", "two are one"));
        }
        graph.outputs.push(Output { name: format!("constant {}", values.len()), value });
        values.push(value);
    }
    let keys = keys(&graph);
    Ok((graph, values.into_iter().map(|it| (keys[it], it)).collect()))
}

impl Artefact {
    /// Whether these bytes mean to be an artefact.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// What the bytes hold. Values are borrowed from them.
    pub fn parse(file: Bytes) -> Result<Artefact, Error> {
        let refuse = |at: &str, what: String| Err(Error::malformed(at, what));
        if !Artefact::is(&file) {
            return refuse("byte 0", "this is no artefact of `wgfuse compile`".into());
        }
        let Some(header) = file.get(..HEADER) else {
            return refuse(
                "the artefact's header",
                format!("{} bytes are no header; copy the file again", file.len()),
            );
        };
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let version = word(8) as u32;
        if version != VERSION {
            let how = match version > VERSION {
                true => "newer than this wgfuse, which reads",
                false => "of an older wgfuse; compile the model again for",
            };
            return refuse("the artefact's header", format!("format {version} is {how} format {VERSION}"));
        }
        let bytes = file.slice(HEADER..);
        if bytes.len() as u64 != word(16) {
            let what = format!("{} of {} bytes are there; copy the file again", bytes.len(), word(16));
            return refuse("the artefact", what);
        }
        let sum = u128::from_le_bytes(header[24..40].try_into().expect("16 bytes"));
        if xxh3_128(&bytes) != sum {
            return refuse("the artefact", "is damaged: its sum is another; copy the file again".into());
        }
        Artefact::contents(bytes).map_err(|what| Error::malformed("the artefact's contents", what))
    }

    fn contents(bytes: Bytes) -> Result<Artefact, String> {
        let (len, behind) = bytes.split_first_chunk::<8>().ok_or("are missing")?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|it| it.to_string())?;
        let text = behind.get(..len).ok_or("are cut")?;
        let text = std::str::from_utf8(text).map_err(|it| it.to_string())?;
        let first = (8 + len).next_multiple_of(ALIGNMENT);
        let blobs = bytes.get(first..).map(|_| bytes.slice(first..)).ok_or("are cut")?;
        let mut all = Artefact {
            inputs: Vec::new(),
            outputs: Vec::new(),
            states: Vec::new(),
            compiled: Vec::new(),
            modules: Vec::new(),
            bytes: blobs,
        };
        Cursor::all(text, |from| {
            all.inputs = statements(from, "input")?;
            all.outputs = statements(from, "output")?;
            all.states = statements(from, "state")?;
            all.modules = statements(from, "module")?;
            all.compiled = statements(from, "plan")?;
            if from.is_done() { Ok(()) } else { from.wrong("no statement is known that begins so") }
        })
        .map_err(|it| it.to_string())?;
        Ok(all)
    }

    /// Plan `compiled` of this artefact.
    pub fn plan(&self, compiled: &Compiled) -> Result<Plan, Error> {
        let wrong = |what: String| Error::malformed("the artefact's plan", what);
        if compiled.target.max_binding_size == 0 {
            return Err(wrong("is for a device that binds nothing".into()));
        }
        let face = self.face(compiled).ok_or_else(|| wrong("is of another model".into()))?;
        let tensors =
            compiled.leaves.iter().map(|it| self.tensor(it)).collect::<Result<_, _>>().map_err(wrong)?;
        let (graph, _) = constant_graph(&compiled.leaves, tensors)?;
        let text = |blob: &Blob| {
            let bytes = self.blob(blob.at, Some(blob.len)).ok_or_else(|| wrong("is cut".into()))?;
            String::from_utf8(bytes.to_vec()).map_err(|it| wrong(it.to_string()))
        };
        let (schedule, shaders, numbers) =
            (text(&compiled.schedule)?, text(&compiled.shaders)?, text(&compiled.numbers)?);
        let texts = Written { schedule: &*schedule, shaders: &*shaders, numbers: &*numbers };
        let mut module = |key, kernel: &Arc<Kernel>, _: &Context| {
            self.module(key).map_err(|what| format!("kernel '{}': {what}", kernel.name))
        };
        written::read(texts, graph, &compiled.target, &face, &mut module).map_err(wrong)
    }

    /// What a plan shows, if a model with this signature may show that for these shapes.
    fn face(&self, compiled: &Compiled) -> Option<Face> {
        let Compiled { shapes, inputs, outputs, .. } = compiled;
        let (own, added) = inputs.split_at_checked(self.inputs.len())?;
        let entering = self.inputs.iter().zip(shapes);
        let named = entering.map(|(it, shape)| (it.name.clone(), Type::new(it.dtype, shape.clone())));
        let fits = shapes.len() == self.inputs.len()
            && named.eq(own.iter().cloned())
            && (added.is_empty() || added.len() == 1 && added[0].0 == random::KEY)
            && self.outputs.len() == outputs.len()
            && self
                .outputs
                .iter()
                .zip(outputs)
                .all(|(it, (name, ty))| it.name == *name && it.dtype == ty.dtype);
        fits.then(|| Face { inputs: inputs.clone(), outputs: outputs.clone(), states: self.states.clone() })
    }

    fn tensor(&self, leaf: &Leaf) -> Result<Tensor, String> {
        let len = leaf.ty.shape.checked_count().and_then(|it| it.checked_mul(leaf.ty.dtype.size()));
        let data = len.and_then(|it| self.blob(leaf.at, Some(it as u64))).ok_or("values are cut")?;
        Tensor::new(leaf.ty.clone(), data).ok_or_else(|| "a constant of another size".into())
    }

    fn blob(&self, at: u64, len: Option<u64>) -> Option<Bytes> {
        let at = usize::try_from(at).ok()?;
        let end = at.checked_add(usize::try_from(len?).ok()?)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(at..end))
    }

    fn module(&self, key: u128) -> Result<LateModule, String> {
        let blob = self.modules.iter().find(|it| it.key == key).ok_or("its module is missing")?;
        let bytes = self.blob(blob.at, Some(blob.len)).ok_or("its module is cut")?;
        let module: naga::Module = postcard::from_bytes(&bytes).map_err(|it| it.to_string())?;
        if module.entry_points.len() != 1 {
            return Err("its module has not one entry point".into());
        }
        // The validator takes for granted that these are there.
        let functions = module.functions.iter().map(|it| it.1);
        for function in functions.chain(module.entry_points.iter().map(|it| &it.function)) {
            let there = |it: &naga::Expression| match *it {
                naga::Expression::FunctionArgument(at) => (at as usize) < function.arguments.len(),
                _ => true,
            };
            if !function.expressions.iter().all(|it| there(it.1)) {
                return Err("its module reads an argument that there is not".into());
            }
        }
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        validator.validate(&module).map_err(|it| it.to_string())?;
        Ok(module.into())
    }

    /// Which of the plans for these shapes runs on `device`; if none does, what the best of them lacks there.
    pub fn choose(&self, shapes: &[Shape], device: &Target) -> Result<&Compiled, Unfit> {
        let mut fits = self.compiled.iter().filter(|it| it.shapes == shapes).peekable();
        if fits.peek().is_none() {
            return Err(Unfit::Shapes);
        }
        let mut lacks = None;
        for it in fits.filter(|it| it.target.place == device.place) {
            match it.target.lacking(device) {
                None => return Ok(it),
                Some(lack) => lacks = lacks.or(Some(lack)),
            }
        }
        Err(lacks.map_or(Unfit::Place(device.place), Unfit::Device))
    }

    /// The shapes that there are plans for, each once.
    pub fn shapes(&self) -> Vec<&[Shape]> {
        let mut all: Vec<&[Shape]> = Vec::new();
        for it in &self.compiled {
            if !all.contains(&&*it.shapes) {
                all.push(&it.shapes);
            }
        }
        all
    }
}

/// Why an artefact has no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// None was compiled for these shapes.
    Shapes,
    /// None was compiled for a GPU, or for the processor.
    Place(Place),
    Device(crate::target::Lack),
}

spelled!(struct Signature { name, dtype, dims });
spelled!(enum Dim { Fixed "fixed" (size); Symbol "symbol" (name); Unknown "unknown"; });
