//! Text to graph. Any text: the result is a graph that `verify` has nothing against, or an error with line and column.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::pad_mode;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Graph, Input, Op, Output, PadMode, Places, PoolKind, Real, State, Value, Window, infer, verify},
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
    text::{Cursor, Parsed, Text, parse_scalar},
};

/// The graph that `text` describes. Nodes are numbered anew and equal ones become one.
pub fn parse(text: &str) -> Result<Graph, Error> {
    parse_with(text, &[])
}

/// As `parse`, of a text that names constants by their places in `given`.
pub fn parse_with(text: &str, given: &[Tensor]) -> Result<Graph, Error> {
    Cursor::all(text, |line| {
        let mut graph = Graph::new();
        let mut values = HashMap::new();
        while !line.is_done() {
            statement(&mut graph, &mut values, given, line)?;
        }
        graph.origin = None;
        Ok(graph)
    })
}

/// Nodes under the numbers that the text gives them.
type Values = HashMap<u32, Value>;

fn statement(graph: &mut Graph, values: &mut Values, given: &[Tensor], line: &mut Cursor<'_>) -> Parsed<()> {
    if line.word("input") {
        let name = line.string()?;
        line.expect(":")?;
        let ty = Type::parse(line)?;
        line.end()?;
        if graph.inputs().iter().any(|it| it.name == name) {
            return Err(format!("there is already an input '{name}'"));
        }
        infer::addressable(&ty)?;
        graph.inputs.push(Input { name, ty });
        return Ok(());
    }
    if line.word("output") {
        let name = line.string()?;
        line.expect("=")?;
        let value = value(values, line)?;
        line.end()?;
        if graph.outputs.iter().any(|it| it.name == name) {
            return Err(format!("there is already an output '{name}'"));
        }
        graph.outputs.push(Output { name, value });
        return Ok(());
    }
    if line.word("state") {
        let place = line.mark();
        let (input, _, output) = (line.string()?, line.expect("=")?, line.string()?);
        line.end()?;
        line.blame(place);
        let input = graph.inputs.iter().position(|it| it.name == input).ok_or("there is no such input")?;
        let output =
            graph.outputs.iter().position(|it| it.name == output).ok_or("there is no such output")?;
        graph.states.push(State { input: input as u32, output: output as u32 });
        return match verify::states(graph).pop() {
            None => Ok(()),
            Some(what) => Err(what),
        };
    }
    line.expect("%")?;
    let number: u32 = line.number()?;
    line.expect("=")?;
    let place = line.mark();
    let op = node(values, line)?;
    line.expect(":")?;
    let ty = Type::parse(line)?;
    let origin = if line.is_line_done() { String::new() } else { line.string()? };
    line.end()?;
    line.blame(place);
    graph.set_origin(origin);
    let value = match op {
        Made::Op(op) => graph.add(*op).map_err(|it| it.to_string())?,
        Made::Constant(elements) => graph.add_constant(constant(&ty, &elements)?),
        Made::Given(number) => {
            graph.add_constant(given.get(number).ok_or("there is no such constant")?.clone())
        }
    };
    if *graph.ty(value) != ty {
        return Err(format!("the type is {}, not {ty}", graph.ty(value)));
    }
    match values.insert(number, value) {
        None => Ok(()),
        Some(_) => Err(format!("there is already a node %{number}")),
    }
}

enum Made {
    Op(Box<Op>),
    /// The elements' texts; their meaning depends on the type behind them.
    Constant(Vec<String>),
    /// One of those that the parser was given.
    Given(usize),
}

fn node(values: &Values, line: &mut Cursor<'_>) -> Parsed<Made> {
    let place = line.mark();
    let name = line.name()?;
    match name {
        "input" => return Ok(Made::Op(Op::Input { slot: line.number()? }.into())),
        "constant" if line.peek("#") => {
            return Err("the values of this constant were left out when it was printed".to_string());
        }
        "constant" if line.take("@") => return line.number().map(Made::Given),
        "constant" => return elements(line).map(Made::Constant),
        _ => {}
    }
    let mut operands: Vec<Option<Value>> = Vec::new();
    loop {
        if line.take("_") {
            operands.push(None);
        } else if line.peek("%") {
            operands.push(Some(value(values, line)?));
        } else {
            break;
        }
    }
    let mut attributes = Vec::new();
    while !line.peek(":") {
        let key = line.name()?;
        line.expect("=")?;
        attributes.push((key, attribute(line)?));
    }
    line.blame(place);
    let mut parts = Parts { operands: operands.into_iter(), attributes };
    let op = parts.op(name)?;
    match (parts.operands.next(), parts.attributes.first()) {
        (None, None) => Ok(Made::Op(op.into())),
        (Some(_), _) => Err(format!("too many operands for {name}")),
        (None, Some((key, _))) => Err(format!("{name} does not take '{key}' twice or at all")),
    }
}

/// What stands behind an op's name, taken away as it is used.
struct Parts<'a> {
    operands: std::vec::IntoIter<Option<Value>>,
    attributes: Vec<(&'a str, &'a str)>,
}

impl Parts<'_> {
    fn op(&mut self, name: &str) -> Parsed<Op> {
        if let Some(op) = UnaryOp::parse(name) {
            return Ok(Op::Unary(op, self.operand()?));
        }
        if let Some(op) = BinaryOp::parse(name) {
            return Ok(Op::Binary(op, self.operand()?, self.operand()?));
        }
        if let Some(op) = name.strip_prefix("reduce_").and_then(ReduceOp::parse) {
            let x = self.operand()?;
            return Ok(Op::Reduce { op, axes: self.sizes("axes")?.into(), keep: self.flag("keep")?, x });
        }
        Ok(match name {
            "select" => Op::Select { cond: self.operand()?, yes: self.operand()?, no: self.operand()? },
            "cast" => {
                let to = self.attribute("to")?;
                let to = DType::parse(to).ok_or_else(|| format!("'{to}' is no dtype"))?;
                Op::Cast { to, x: self.operand()? }
            }
            "random" => {
                let number = self.attribute("number")?;
                let number = number.parse().map_err(|_| format!("'{number}' is no number of an op"))?;
                Op::Random { number, shape: self.shape("shape")?, key: self.operand()? }
            }
            "mean" => {
                let x = self.operand()?;
                Op::Mean { axes: self.sizes("axes")?.into(), keep: self.flag("keep")?, x }
            }
            "argmax" | "argmin" => Op::ArgReduce {
                largest: name == "argmax",
                last: self.flag("last")?,
                axis: self.size("axis")?,
                keep: self.flag("keep")?,
                x: self.operand()?,
            },
            "cumsum" => Op::CumSum {
                axis: self.size("axis")?,
                exclusive: self.flag("exclusive")?,
                reverse: self.flag("reverse")?,
                x: self.operand()?,
            },
            "reshape" => Op::Reshape { shape: self.shape("shape")?, x: self.operand()? },
            "permute" => Op::Permute { order: self.sizes("order")?.into(), x: self.operand()? },
            "expand" => Op::Expand { shape: self.shape("shape")?, x: self.operand()? },
            "slice" => {
                let starts: Places = self.sizes("starts")?.into();
                let steps = match self.optional("steps") {
                    Some(text) => list(text)?.into(),
                    None => SmallVec::from_elem(1, starts.len()),
                };
                Op::Slice { starts, sizes: self.shape("sizes")?, steps, x: self.operand()? }
            }
            "pad" => {
                let mode = self.attribute("mode")?;
                let modes = [PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap];
                let mode = modes.into_iter().find(|&it| pad_mode(it) == mode).ok_or("no such mode")?;
                let (before, after) = (self.sizes("before")?.into(), self.sizes("after")?.into());
                Op::Pad { before, after, mode, x: self.operand()?, fill: self.maybe() }
            }
            "concat" => {
                let axis = self.size("axis")?;
                let xs: Option<SmallVec<[Value; 4]>> = self.operands.by_ref().collect();
                Op::Concat { axis, xs: xs.ok_or("an operand is left out")? }
            }
            "gather" => Op::Gather { axis: self.size("axis")?, x: self.operand()?, indices: self.operand()? },
            "gather_elements" => {
                Op::GatherElements { axis: self.size("axis")?, x: self.operand()?, indices: self.operand()? }
            }
            "gather_nd" => {
                Op::GatherNd { batch: self.size("batch")?, x: self.operand()?, indices: self.operand()? }
            }
            "matmul" => Op::MatMul { a: self.operand()?, b: self.operand()? },
            "conv" => {
                let (x, w, bias) = (self.operand()?, self.operand()?, self.maybe());
                Op::Conv { window: self.window()?, groups: self.size("groups")?, x, w, bias }
            }
            "conv_transpose" => {
                let (x, w, bias) = (self.operand()?, self.operand()?, self.maybe());
                let output = self.shape("output")?;
                let window = self.window()?;
                Op::ConvTranspose { window, groups: self.size("groups")?, output, x, w, bias }
            }
            "pool" => {
                let kind = match self.attribute("kind")? {
                    "max" => PoolKind::Max,
                    "average" => PoolKind::Average { count_padding: self.flag("count_padding")? },
                    other => return Err(format!("'{other}' is no kind of pooling")),
                };
                let (kernel, output) = (self.shape("kernel")?, self.shape("output")?);
                Op::Pool { kind, window: self.window()?, kernel, output, x: self.operand()? }
            }
            "softmax" => Op::Softmax { axis: self.size("axis")?, log: self.flag("log")?, x: self.operand()? },
            "layer_norm" => {
                let (x, scale, bias) = (self.operand()?, self.maybe(), self.maybe());
                Op::LayerNorm { axis: self.size("axis")?, eps: self.real("eps")?, x, scale, bias }
            }
            "rms_norm" => {
                let (x, scale) = (self.operand()?, self.maybe());
                Op::RmsNorm { axis: self.size("axis")?, eps: self.real("eps")?, x, scale }
            }
            "group_norm" => {
                let (x, scale, bias) = (self.operand()?, self.maybe(), self.maybe());
                Op::GroupNorm { groups: self.size("groups")?, eps: self.real("eps")?, x, scale, bias }
            }
            "batch_norm" => Op::BatchNorm {
                eps: self.real("eps")?,
                x: self.operand()?,
                scale: self.operand()?,
                bias: self.operand()?,
                mean: self.operand()?,
                var: self.operand()?,
            },
            "attention" => Op::Attention {
                scale: self.real("scale")?,
                causal: self.flag("causal")?,
                zero_masked: self.flag("zero_masked")?,
                q: self.operand()?,
                k: self.operand()?,
                v: self.operand()?,
                mask: self.maybe(),
            },
            _ => return Err(format!("there is no op '{name}'")),
        })
    }

    fn operand(&mut self) -> Parsed<Value> {
        self.maybe().ok_or_else(|| "an operand is missing".to_string())
    }

    fn maybe(&mut self) -> Option<Value> {
        self.operands.next().flatten()
    }

    fn optional(&mut self, key: &str) -> Option<&str> {
        let at = self.attributes.iter().position(|it| it.0 == key)?;
        Some(self.attributes.remove(at).1)
    }

    fn attribute(&mut self, key: &str) -> Parsed<&str> {
        self.optional(key).ok_or_else(|| format!("'{key}' is missing"))
    }

    fn size(&mut self, key: &str) -> Parsed<usize> {
        let text = self.attribute(key)?;
        text.parse().map_err(|_| format!("{key}: '{text}' is no size"))
    }

    fn sizes(&mut self, key: &str) -> Parsed<Vec<usize>> {
        list(self.attribute(key)?)
    }

    fn shape(&mut self, key: &str) -> Parsed<Shape> {
        Ok(self.sizes(key)?.into_iter().collect())
    }

    fn real(&mut self, key: &str) -> Parsed<Real> {
        let text = self.attribute(key)?;
        text.parse().map(Real).map_err(|_| format!("{key}: '{text}' is no number"))
    }

    fn flag(&mut self, key: &str) -> Parsed<bool> {
        match self.optional(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(format!("{key}: '{other}' is not true or false")),
        }
    }

    /// A window over as many axes as it has strides.
    fn window(&mut self) -> Parsed<Box<Window>> {
        let strides = self.sizes("strides")?;
        let mut window = Window { strides: strides.as_slice().into(), ..Window::unit(strides.len()) };
        let Window { strides: _, dilations, before, after } = &mut window;
        for (key, values) in [("dilations", dilations), ("before", before), ("after", after)] {
            if let Some(text) = self.optional(key) {
                *values = list(text)?.into();
            }
        }
        Ok(window.into())
    }
}

/// The value that `constant {..} : ty` is.
fn constant(ty: &Type, elements: &[String]) -> Parsed<Tensor> {
    let need = ty.shape.checked_count();
    if need != Some(elements.len()) {
        return Err(format!("{} values for a constant of type {ty}", elements.len()));
    }
    infer::addressable(ty)?;
    let values: Parsed<Vec<Scalar>> = elements.iter().map(|it| parse_scalar(ty.dtype, it)).collect();
    Ok(Tensor::from_scalars(ty.clone(), values?))
}

fn list<T: std::str::FromStr>(text: &str) -> Parsed<Vec<T>> {
    let wrong = || format!("'{text}' is no list of numbers");
    let inner = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).ok_or_else(wrong)?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    inner.split(',').map(|it| it.trim().parse().map_err(|_| wrong())).collect()
}

fn value(values: &Values, line: &mut Cursor<'_>) -> Parsed<Value> {
    let number = line.label("%")?;
    values.get(&number).copied().ok_or_else(|| format!("there is no node %{number} so far"))
}

/// A word, a number, or a list in brackets.
fn attribute<'a>(line: &mut Cursor<'a>) -> Parsed<&'a str> {
    if line.peek("[") { line.through("]") } else { Ok(line.span(|it| !it.is_whitespace())) }
}

fn elements(line: &mut Cursor<'_>) -> Parsed<Vec<String>> {
    line.expect("{")?;
    let inner = line.through("}")?.trim_end_matches('}').trim();
    Ok(inner.split(',').filter(|_| !inner.is_empty()).map(|it| it.trim().to_string()).collect())
}
