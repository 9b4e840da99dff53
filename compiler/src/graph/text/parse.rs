//! Text to graph. Any text: the result is a graph that `verify` has nothing against, or an error with the line's number.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::pad_mode;
use crate::{
    dtype::DType,
    error::Error,
    graph::{Graph, Input, Op, Output, PadMode, PoolKind, Real, Value, Window, infer},
    scalar::{BinaryOp, ReduceOp, Scalar, UnaryOp},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// The graph that `text` describes. Nodes are numbered anew and equal ones become one.
pub fn parse(text: &str) -> Result<Graph, Error> {
    let mut graph = Graph::new();
    let mut values = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        statement(&mut graph, &mut values, &mut Cursor { rest: line })
            .map_err(|what| Error::malformed(format!("line {}", at + 1), what))?;
    }
    graph.origin = None;
    Ok(graph)
}

/// What a part of a line is, or what is wrong with it.
type Parsed<T> = Result<T, String>;

/// Nodes under the numbers that the text gives them.
type Values = HashMap<u32, Value>;

fn statement(graph: &mut Graph, values: &mut Values, line: &mut Cursor<'_>) -> Parsed<()> {
    if line.word("input") {
        let name = line.string()?;
        line.expect(":")?;
        let ty = line.ty()?;
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
        let value = line.value(values)?;
        line.end()?;
        if graph.outputs.iter().any(|it| it.name == name) {
            return Err(format!("there is already an output '{name}'"));
        }
        graph.outputs.push(Output { name, value });
        return Ok(());
    }
    line.expect("%")?;
    let number: u32 = line.number()?;
    line.expect("=")?;
    let op = node(values, line)?;
    line.expect(":")?;
    let ty = line.ty()?;
    let origin = if line.rest.is_empty() { String::new() } else { line.string()? };
    line.end()?;
    graph.set_origin(origin);
    let value = match op {
        Made::Op(op) => graph.add(*op).map_err(|it| it.to_string())?,
        Made::Constant(elements) => graph.add_constant(constant(&ty, &elements)?),
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
}

fn node(values: &Values, line: &mut Cursor<'_>) -> Parsed<Made> {
    let name = line.name()?;
    match name {
        "input" => return Ok(Made::Op(Op::Input { slot: line.number()? }.into())),
        "constant" if line.rest.starts_with('#') => {
            return Err("the values of this constant were left out when it was printed".to_string());
        }
        "constant" => return line.elements().map(Made::Constant),
        _ => {}
    }
    let mut operands: Vec<Option<Value>> = Vec::new();
    loop {
        if line.take("_") {
            operands.push(None);
        } else if line.rest.starts_with('%') {
            operands.push(Some(line.value(values)?));
        } else {
            break;
        }
    }
    let mut attributes = Vec::new();
    while !line.rest.starts_with(':') {
        let key = line.name()?;
        line.expect("=")?;
        attributes.push((key, line.attribute()?));
    }
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
                let starts: SmallVec<[usize; 6]> = self.sizes("starts")?.into();
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
    fn window(&mut self) -> Parsed<Window> {
        let strides = self.sizes("strides")?;
        let mut window = Window { strides: strides.as_slice().into(), ..Window::unit(strides.len()) };
        let Window { strides: _, dilations, before, after } = &mut window;
        for (key, values) in [("dilations", dilations), ("before", before), ("after", after)] {
            if let Some(text) = self.optional(key) {
                *values = list(text)?.into();
            }
        }
        Ok(window)
    }
}

/// The value that `constant {..} : ty` is.
fn constant(ty: &Type, elements: &[String]) -> Parsed<Tensor> {
    let need = ty.shape.checked_count();
    if need != Some(elements.len()) {
        return Err(format!("{} values for a constant of type {ty}", elements.len()));
    }
    infer::addressable(ty)?;
    let values: Parsed<Vec<Scalar>> = elements.iter().map(|it| element(ty.dtype, it)).collect();
    Ok(Tensor::from_scalars(ty.clone(), values?))
}

fn element(dtype: DType, text: &str) -> Parsed<Scalar> {
    let wrong = || format!("'{text}' is no {dtype}");
    if dtype.is_float() {
        let value = match (text.strip_prefix("0x"), dtype) {
            (Some(bits), _) => f64::from_bits(u64::from_str_radix(bits, 16).map_err(|_| wrong())?),
            (None, DType::F64) => text.parse().map_err(|_| wrong())?,
            (None, _) => text.parse::<f32>().map_err(|_| wrong())? as f64,
        };
        return Ok(Scalar::of(dtype, value));
    }
    let value: i128 = text.parse().map_err(|_| wrong())?;
    let (low, high) = match dtype {
        DType::U64 => (0, u64::MAX as i128),
        _ => {
            let (low, high) = crate::scalar::int_range(dtype);
            (low as i128, high as i128)
        }
    };
    if (low..=high).contains(&value) { Ok(Scalar::Int(value as i64)) } else { Err(wrong()) }
}

fn list<T: std::str::FromStr>(text: &str) -> Parsed<Vec<T>> {
    let wrong = || format!("'{text}' is no list of numbers");
    let inner = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).ok_or_else(wrong)?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    inner.split(',').map(|it| it.trim().parse().map_err(|_| wrong())).collect()
}

/// The rest of a line, without white space in front.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn advance(&mut self, by: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(by);
        self.rest = rest.trim_start();
        taken
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest.starts_with(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    /// Takes `word` where white space follows it.
    fn word(&mut self, word: &str) -> bool {
        let found = self.rest.strip_prefix(word).is_some_and(|it| it.starts_with(char::is_whitespace));
        found && self.take(word)
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(format!("'{token}' is missing before '{}'", self.rest)) }
    }

    fn end(&self) -> Parsed<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("'{}' is left over", self.rest)) }
    }

    fn span(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|it| !belongs(it)).unwrap_or(self.rest.len());
        self.advance(end)
    }

    fn name(&mut self) -> Parsed<&'a str> {
        let name = self.span(|it| it.is_ascii_alphanumeric() || it == '_');
        if name.is_empty() { Err(format!("a name is missing before '{}'", self.rest)) } else { Ok(name) }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let digits = self.span(|it| it.is_ascii_digit());
        digits.parse().map_err(|_| format!("'{digits}' is no number in range"))
    }

    fn value(&mut self, values: &Values) -> Parsed<Value> {
        self.expect("%")?;
        let number = self.number()?;
        values.get(&number).copied().ok_or_else(|| format!("there is no node %{number} so far"))
    }

    fn ty(&mut self) -> Parsed<Type> {
        let name = self.name()?;
        let dtype = DType::parse(name).ok_or_else(|| format!("'{name}' is no dtype"))?;
        let sizes: Vec<usize> = list(self.attribute()?)?;
        Ok(Type::new(dtype, sizes.as_slice()))
    }

    /// A word, a number, or a list in brackets.
    fn attribute(&mut self) -> Parsed<&'a str> {
        if !self.rest.starts_with('[') {
            return Ok(self.span(|it| !it.is_whitespace()));
        }
        let end = self.rest.find(']').ok_or("']' is missing")?;
        Ok(self.advance(end + 1))
    }

    fn elements(&mut self) -> Parsed<Vec<String>> {
        self.expect("{")?;
        let end = self.rest.find('}').ok_or("'}' is missing")?;
        let inner = self.advance(end);
        self.expect("}")?;
        if inner.trim().is_empty() {
            return Ok(Vec::new());
        }
        Ok(inner.split(',').map(|it| it.trim().to_string()).collect())
    }

    /// A quoted string with the escapes that Rust prints.
    fn string(&mut self) -> Parsed<String> {
        let wrong = || "a string in quotes is missing or does not end".to_string();
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        if chars.next().map(|it| it.1) != Some('"') {
            return Err(wrong());
        }
        loop {
            let (at, it) = chars.next().ok_or_else(wrong)?;
            match it {
                '"' => {
                    self.advance(at + 1);
                    return Ok(text);
                }
                '\\' => match chars.next().ok_or_else(wrong)?.1 {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    '0' => text.push('\0'),
                    'u' => {
                        let code = chars.as_str().strip_prefix('{').and_then(|it| it.split_once('}'));
                        let (code, _) = code.ok_or_else(wrong)?;
                        let made = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
                        text.push(made.ok_or_else(wrong)?);
                        chars.by_ref().take_while(|it| it.1 != '}').for_each(drop);
                    }
                    it => text.push(it),
                },
                it => text.push(it),
            }
        }
    }
}
