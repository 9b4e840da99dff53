//! ONNX files: bytes to a checked `Program`, and a program with what is known of its inputs to a graph.
//!
//! A program borrows its weights from the file. Its nodes are in an order in which operands precede users; every name
//! is made once; opsets are known ones.

mod attention;
mod cast;
mod contract;
mod control;
mod convert;
mod determinant;
mod encoded;
mod flex;
mod gradient;
mod grid;
mod images;
mod chosen;
mod layout;
mod learned;
mod loss;
mod made;
mod math;
mod moved;
mod node;
mod norm;
mod order;
mod patches;
pub mod proto;
mod quantized;
mod random;
mod rearranged;
mod recurrence;
mod re2;
mod recurrent;
mod reduce;
mod resize;
mod scan;
mod scatter;
mod signal;
mod spelled;
mod scope;
mod sequence;
mod table;
pub mod tensor;
mod text;
mod training;
mod window;
mod words;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use prost::Message;

use super::{
    Signature,
    stretch::{Knowledge, Stretch},
    strings::{NUMBER, Pool},
};
use crate::{
    bug,
    dtype::DType,
    error::Error,
    shape::{Dim, Form},
    tensor::Tensor,
};
use node::Arguments;
use proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto,
    ValueInfoProto,
};
use tensor::External;

/// A checked model.
#[derive(Debug)]
pub struct Program {
    pub inputs: Vec<Signature>,
    pub outputs: Vec<Signature>,
    /// Of the inputs and of the outputs; none of what stands for a body.
    pub forms: [Vec<Form>; 2],
    constants: Vec<(String, Constant)>,
    nodes: Vec<NodeProto>,
    opsets: Opsets,
    functions: Arc<HashMap<FunctionKey, Function>>,
    /// Of the call that the nodes are in, if they are a part of a function.
    arguments: Arguments,
    strings: Arc<Pool>,
}

/// What an initialiser is.
#[derive(Clone, Debug)]
struct Constant {
    tensor: Tensor,
    /// Whether it has the numbers of strings.
    strings: bool,
}

/// Domain to version; the standard domain is "".
type Opsets = BTreeMap<String, i64>;

/// Domain, name, overload.
type FunctionKey = (String, String, String);

#[derive(Debug)]
struct Function {
    proto: FunctionProto,
    opsets: Opsets,
}

impl Program {
    pub fn parse(bytes: &Bytes, external: External) -> Result<Program, Error> {
        let mut rest = bytes.clone();
        let model = ModelProto::decode(&mut rest).map_err(|error| {
            let at = bytes.len() - rest.remaining();
            Error::malformed(format!("byte {at} of {}", bytes.len()), error.to_string())
        })?;
        if model.ir_version <= 0 {
            return Err(Error::malformed("model", "states no IR version; is this an ONNX file?"));
        }
        let graph = model.graph.ok_or_else(|| Error::malformed("model", "holds no graph"))?;
        let opsets = opsets(&model.opset_import, "model")?;
        let strings = words::words(&graph, &model.functions)?;
        let mut functions = HashMap::new();
        for mut proto in model.functions {
            let at = format!("function '{}'", proto.name);
            proto.node = order::sorted(proto.node, &at)?;
            let mut own = opsets_of_function(&proto, &at)?;
            for (domain, version) in &opsets {
                own.entry(domain.clone()).or_insert(*version);
            }
            let key = (domain(&proto.domain).to_string(), proto.name.clone(), proto.overload.clone());
            if functions.insert(key, Function { proto, opsets: own }).is_some() {
                return Err(Error::malformed(at, "is defined twice"));
            }
        }
        let constants = constants(&graph, external, &strings)?;
        let known: HashSet<&str> = constants.iter().map(|it| it.0.as_str()).collect();
        // Files of IR version 3 list initialisers as inputs too; they are defaults, and so constants here.
        let inputs = (graph.input.iter())
            .filter(|it| !known.contains(it.name.as_str()))
            .map(|it| signature(it, "input"))
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.output.iter().map(output).collect::<Result<Vec<_>, _>>()?;
        let known_names: HashSet<String> = known.iter().map(|it| it.to_string()).collect();
        let mut names: HashSet<&str> = known;
        for input in &inputs {
            if !names.insert(&input.name) {
                return Err(Error::malformed(format!("input '{}'", input.name), "is stated twice"));
            }
        }
        made_once(&graph.node, names)?;
        let mut named = HashSet::new();
        if let Some(twice) = outputs.iter().find(|it| !named.insert(&it.name)) {
            return Err(Error::malformed(format!("output '{}'", twice.name), "is stated twice"));
        }
        let nodes = order::sorted(graph.node, "graph")?;
        let forms = [&graph.input, &graph.output].map(|all| {
            let own = all.iter().filter(|it| !known_names.contains(&it.name));
            own.map(|it| form(it.r#type.as_ref())).collect()
        });
        let (functions, arguments, strings) = (Arc::new(functions), Arguments::new(), Arc::new(strings));
        Ok(Program { inputs, outputs, forms, constants, nodes, opsets, functions, arguments, strings })
    }

    /// The strings that the file has.
    pub fn strings(&self) -> &Arc<Pool> {
        &self.strings
    }

    /// How far the program can be imported with what is known.
    pub(in crate::import) fn stretch(self: &Arc<Program>, known: &Knowledge) -> Result<Stretch, Error> {
        convert::convert(self, known)
    }
}

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn opsets(imports: &[OperatorSetIdProto], at: &str) -> Result<Opsets, Error> {
    let mut opsets = Opsets::new();
    for import in imports {
        let domain = domain(&import.domain);
        if import.version < 1 {
            return Err(Error::malformed(
                at,
                format!("opset version {} of domain '{domain}'", import.version),
            ));
        }
        if opsets.insert(domain.to_string(), import.version).is_some_and(|it| it != import.version) {
            return Err(Error::malformed(at, format!("imports two opsets of the domain '{domain}'")));
        }
    }
    if opsets.is_empty() {
        return Err(Error::malformed(at, "imports no opset"));
    }
    Ok(opsets)
}

fn opsets_of_function(proto: &FunctionProto, at: &str) -> Result<Opsets, Error> {
    match proto.opset_import.is_empty() {
        true => Ok(Opsets::new()),
        false => opsets(&proto.opset_import, at),
    }
}

fn constants(
    graph: &GraphProto,
    external: External,
    strings: &Pool,
) -> Result<Vec<(String, Constant)>, Error> {
    let mut all = Vec::with_capacity(graph.initializer.len());
    let mut names = HashSet::new();
    for proto in &graph.initializer {
        let at = format!("initialiser '{}'", proto.name);
        all.push((proto.name.clone(), constant(proto, &at, external, strings)?));
    }
    let mut room = tensor::MAX_SPARSE_BYTES;
    for proto in &graph.sparse_initializer {
        let name = proto.values.as_ref().map_or("", |it| &it.name);
        let at = format!("sparse initialiser '{name}'");
        let tensor = tensor::sparse(proto, &at, external, &mut room)?;
        all.push((name.to_string(), Constant { tensor, strings: false }));
    }
    for (name, _) in &all {
        if name.is_empty() || !names.insert(name) {
            return Err(Error::malformed(format!("initialiser '{name}'"), "has no name, or another's"));
        }
    }
    Ok(all)
}

fn constant(proto: &TensorProto, at: &str, external: External, strings: &Pool) -> Result<Constant, Error> {
    match proto.data_type {
        tensor::STRING => {
            let numbers = strings.numbers(&tensor::strings(proto, at)?);
            let tensor = numbers.unwrap_or_else(|| bug!("{at} has strings that are not the model's"));
            Ok(Constant { tensor, strings: true })
        }
        _ => Ok(Constant { tensor: tensor::tensor(proto, at, external)?, strings: false }),
    }
}

/// No node's output has a name that is in `names` or that another node's output has.
fn made_once<'a>(nodes: &'a [NodeProto], mut names: HashSet<&'a str>) -> Result<(), Error> {
    for (at, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|it| !it.is_empty()) {
            if !names.insert(output) {
                let at = format!("node '{}'", node_name(node, at));
                return Err(Error::malformed(at, format!("makes '{output}', which is made elsewhere too")));
            }
        }
    }
    Ok(())
}

/// What errors call a node: its name, or its operator and place.
fn node_name(node: &NodeProto, at: usize) -> String {
    match node.name.is_empty() {
        true => format!("{}_{at}", node.op_type),
        false => node.name.clone(),
    }
}

fn signature(info: &ValueInfoProto, what: &str) -> Result<Signature, Error> {
    let at = format!("{what} '{}'", info.name);
    let fail = |what: &str| Error::malformed(&*at, what);
    if info.name.is_empty() {
        return Err(fail("has no name"));
    }
    let mut ty = info.r#type.as_ref().ok_or_else(|| fail("states no type"))?;
    let compound = element(ty).is_some();
    while let Some(inner) = element(ty) {
        ty = inner;
    }
    let ty = ty.tensor_type.as_ref().ok_or_else(|| Error::foreign(&*at, "is not a tensor"))?;
    let dtype = match ty.elem_type {
        tensor::STRING => NUMBER,
        code => tensor::dtype_at(code, &at)?,
    };
    let dims = match &ty.shape {
        Some(shape) => shape.dim.iter().map(dim).collect(),
        None if compound => Vec::new(),
        None => return Err(fail("states no rank")),
    };
    Ok(Signature { name: info.name.clone(), dtype, dims })
}

/// What a sequence, or an optional value, consists of.
fn element(ty: &TypeProto) -> Option<&TypeProto> {
    ty.sequence_type.as_ref().or(ty.optional_type.as_ref())?.elem_type.as_deref()
}

fn form(ty: Option<&TypeProto>) -> Form {
    let inner = || Box::new(form(ty.and_then(element)));
    match ty {
        Some(it) if it.sequence_type.is_some() => Form::Sequence(inner()),
        Some(it) if it.optional_type.is_some() => Form::Optional(inner()),
        Some(it) if it.tensor_type.as_ref().is_some_and(|it| it.elem_type == tensor::STRING) => Form::Strings,
        _ => Form::Tensor,
    }
}

fn dim(proto: &proto::DimensionProto) -> Dim {
    match (proto.dim_value, proto.dim_param.as_deref()) {
        (_, Some(name)) if !name.is_empty() => Dim::Symbol(name.to_string()),
        (Some(size), _) => usize::try_from(size).map_or(Dim::Unknown, Dim::Fixed),
        (None, _) => Dim::Unknown,
    }
}

/// The type of an output follows from the graph; what the file says of it may be missing.
fn output(info: &ValueInfoProto) -> Result<Signature, Error> {
    signature(info, "output").or_else(|error| match info.name.is_empty() {
        true => Err(error),
        false => Ok(Signature { name: info.name.clone(), dtype: DType::F32, dims: vec![] }),
    })
}
