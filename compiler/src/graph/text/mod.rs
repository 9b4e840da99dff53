//! Graphs as text, printed here and parsed by `parse`: what is printed whole parses to an equal graph.
//!
//! A line is an input, a node or an output, in that order; lines that begin with `//` are comments:
//!
//! ```text
//! input "x" : f32[1,3,8,8]
//! %0 = input 0 : f32[1,3,8,8]
//! %1 = constant {0.5} : f32[] "half"
//! %2 = mul %0 %1 : f32[1,3,8,8] "scaled"
//! %3 = pool %2 kind=max kernel=[2,2] output=[4,4] strides=[2,2] : f32[1,3,4,4] "pool"
//! output "y" = %3
//! ```
//!
//! Last come states, an input and the output that it is in the next run: `state "k" = "k_next"`.
//!
//! Operands stand before attributes, `_` for one that is left out. Attributes that have their plain value (no padding,
//! dilation 1, `keep=false`) are left out. A NaN other than the usual one is printed as the bits of an f64, `0x..`.

mod parse;

use std::fmt::{self, Write};

use smallvec::SmallVec;

pub use parse::{parse, parse_with};

use super::{Graph, Op, PadMode, PoolKind, State, Value, Window, key, number};
use crate::{
    tensor::Tensor,
    text::{Cursor, Parsed, Text, print_scalar},
};

/// Which constants are printed with their values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constants {
    /// Those of at most 16 elements; the others by a hash of their bytes, which does not parse.
    Small,
    All,
}

const SMALL: usize = 16;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Constants::Small))
    }
}

pub fn print(graph: &Graph, constants: Constants) -> String {
    print_with(graph, |tensor, text| write_constant(tensor, constants, text))
}

/// Constants of more than 16 elements are `@` and the number that `number` gives them; `parse_with` is told them again.
pub fn print_numbered(graph: &Graph, mut number: impl FnMut(&Tensor) -> usize) -> String {
    print_with(graph, |tensor, text| match tensor.shape().count() {
        0..=SMALL => write_constant(tensor, Constants::Small, text),
        _ => write!(text, " @{}", number(tensor)),
    })
}

fn print_with(graph: &Graph, mut constant: impl FnMut(&Tensor, &mut String) -> fmt::Result) -> String {
    let mut text = String::new();
    write_graph(graph, &mut constant, &mut text).expect("a string takes everything");
    text
}

fn write_graph(
    graph: &Graph,
    constant: &mut dyn FnMut(&Tensor, &mut String) -> fmt::Result,
    f: &mut String,
) -> fmt::Result {
    for input in graph.inputs() {
        writeln!(f, "input {:?} : {}", input.name, input.ty)?;
    }
    for (value, node) in graph.nodes() {
        write!(f, "%{} = {}", number(value), node.op.name())?;
        match &node.op {
            Op::Input { slot } => write!(f, " {slot}")?,
            Op::Constant(id) => constant(graph.constant(*id), f)?,
            op => {
                let (operands, attributes) = parts(op);
                for operand in operands {
                    match operand {
                        Some(operand) => write!(f, " %{}", number(operand))?,
                        None => f.push_str(" _"),
                    }
                }
                for (key, value) in attributes {
                    write!(f, " {key}={value}")?;
                }
            }
        }
        write!(f, " : {}", node.ty)?;
        match &*node.origin {
            "" => f.push('\n'),
            origin => writeln!(f, " {origin:?}")?,
        }
    }
    for output in &graph.outputs {
        writeln!(f, "output {:?} = %{}", output.name, number(output.value))?;
    }
    for State { input, output } in &graph.states {
        let (input, output) = (&graph.inputs[*input as usize], &graph.outputs[*output as usize]);
        writeln!(f, "state {:?} = {:?}", input.name, output.name)?;
    }
    Ok(())
}

fn write_constant(tensor: &Tensor, constants: Constants, f: &mut String) -> fmt::Result {
    if constants == Constants::Small && tensor.shape().count() > SMALL {
        return write!(f, " #{:016x}", hash(tensor.data()));
    }
    f.push_str(" {");
    for (at, value) in tensor.scalars().enumerate() {
        if at > 0 {
            f.push(',');
        }
        print_scalar(f, tensor.dtype(), value)?;
    }
    f.push('}');
    Ok(())
}

impl Text for Value {
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", number(*self))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Value> {
        from.label("%").map(key)
    }
}

/// FNV-1a, so that the text is the same on every machine.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The value of an attribute.
#[derive(Clone, PartialEq, Debug)]
enum Attribute {
    Int(i128),
    Ints(Vec<i128>),
    Real(f64),
    Word(&'static str),
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Int(it) => write!(f, "{it}"),
            Attribute::Real(it) => write!(f, "{it:?}"),
            Attribute::Word(it) => f.write_str(it),
            Attribute::Ints(all) => {
                f.write_char('[')?;
                for (at, it) in all.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{it}")?;
                }
                f.write_char(']')
            }
        }
    }
}

type Parts = (SmallVec<[Option<Value>; 6]>, Vec<(&'static str, Attribute)>);

/// Operands, in the order of the op's declaration, and attributes other than those with their plain value.
fn parts(op: &Op) -> Parts {
    let mut operands: SmallVec<[Option<Value>; 6]> = op.operands().into_iter().map(Some).collect();
    let mut list = List(Vec::new());
    match op {
        Op::Input { .. } | Op::Constant(_) | Op::Unary(..) | Op::Binary(..) => {}
        Op::Select { .. } | Op::MatMul { .. } => {}
        Op::Cast { to, .. } => list.word("to", to.name()),
        Op::Random { number, shape, key: _ } => {
            list.0.push(("number", Attribute::Int(i128::from(*number))));
            list.sizes("shape", shape);
        }
        Op::Reduce { op: _, axes, keep, x: _ } | Op::Mean { axes, keep, x: _ } => {
            list.sizes("axes", axes);
            list.flag("keep", *keep);
        }
        Op::ArgReduce { largest: _, last, axis, keep, x: _ } => {
            list.size("axis", *axis);
            list.flag("keep", *keep);
            list.flag("last", *last);
        }
        Op::CumSum { axis, exclusive, reverse, x: _ } => {
            list.size("axis", *axis);
            list.flag("exclusive", *exclusive);
            list.flag("reverse", *reverse);
        }
        Op::Reshape { shape, x: _ } | Op::Expand { shape, x: _ } => list.sizes("shape", shape),
        Op::Permute { order, x: _ } => list.sizes("order", order),
        Op::Slice { starts, sizes, steps, x: _ } => {
            list.sizes("starts", starts);
            list.sizes("sizes", sizes);
            if steps.iter().any(|&it| it != 1) {
                list.0.push(("steps", Attribute::Ints(steps.iter().map(|&it| it as i128).collect())));
            }
        }
        Op::Pad { before, after, mode, x: _, fill: _ } => {
            list.word("mode", pad_mode(*mode));
            list.sizes("before", before);
            list.sizes("after", after);
        }
        Op::Concat { axis, xs: _ } | Op::Gather { axis, .. } | Op::GatherElements { axis, .. } => {
            list.size("axis", *axis);
        }
        Op::GatherNd { batch, x: _, indices: _ } => list.size("batch", *batch),
        Op::Conv { window, groups, x: _, w: _, bias: _ } => {
            list.window(window);
            list.size("groups", *groups);
        }
        Op::ConvTranspose { window, groups, output, x: _, w: _, bias: _ } => {
            list.sizes("output", output);
            list.window(window);
            list.size("groups", *groups);
        }
        Op::Pool { kind, window, kernel, output, x: _ } => {
            match kind {
                PoolKind::Max => list.word("kind", "max"),
                PoolKind::Average { count_padding } => {
                    list.word("kind", "average");
                    list.flag("count_padding", *count_padding);
                }
            }
            list.sizes("kernel", kernel);
            list.sizes("output", output);
            list.window(window);
        }
        Op::Softmax { axis, log, x: _ } => {
            list.size("axis", *axis);
            list.flag("log", *log);
        }
        Op::LayerNorm { axis, eps, x: _, scale, bias } => {
            leave_out(&mut operands, *scale, *bias);
            list.size("axis", *axis);
            list.real("eps", eps.0);
        }
        Op::RmsNorm { axis, eps, x: _, scale: _ } => {
            list.size("axis", *axis);
            list.real("eps", eps.0);
        }
        Op::GroupNorm { groups, eps, x: _, scale, bias } => {
            leave_out(&mut operands, *scale, *bias);
            list.size("groups", *groups);
            list.real("eps", eps.0);
        }
        Op::BatchNorm { eps, .. } => list.real("eps", eps.0),
        Op::Attention { scale, causal, zero_masked, q: _, k: _, v: _, mask: _ } => {
            list.real("scale", scale.0);
            list.flag("causal", *causal);
            list.flag("zero_masked", *zero_masked);
        }
    }
    (operands, list.0)
}

/// A missing scale shows, if a bias follows it.
fn leave_out(operands: &mut SmallVec<[Option<Value>; 6]>, scale: Option<Value>, bias: Option<Value>) {
    if scale.is_none() && bias.is_some() {
        operands.insert(1, None);
    }
}

struct List(Vec<(&'static str, Attribute)>);

impl List {
    fn size(&mut self, key: &'static str, value: usize) {
        self.0.push((key, Attribute::Int(value as i128)));
    }

    fn sizes(&mut self, key: &'static str, values: &[usize]) {
        self.0.push((key, Attribute::Ints(values.iter().map(|&it| it as i128).collect())));
    }

    fn real(&mut self, key: &'static str, value: f64) {
        self.0.push((key, Attribute::Real(value)));
    }

    fn word(&mut self, key: &'static str, value: &'static str) {
        self.0.push((key, Attribute::Word(value)));
    }

    fn flag(&mut self, key: &'static str, value: bool) {
        if value {
            self.word(key, "true");
        }
    }

    fn window(&mut self, window: &Window) {
        let Window { strides, dilations, before, after } = window;
        self.sizes("strides", strides);
        for (key, values, plain) in [("dilations", dilations, 1), ("before", before, 0), ("after", after, 0)]
        {
            if values.iter().any(|&it| it != plain) {
                self.sizes(key, values);
            }
        }
    }
}

fn pad_mode(mode: PadMode) -> &'static str {
    match mode {
        PadMode::Constant => "constant",
        PadMode::Edge => "edge",
        PadMode::Reflect => "reflect",
        PadMode::Wrap => "wrap",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{op::name_of, verify::verify};

    fn check(text: &str) {
        let graph = parse(text).unwrap();
        assert_eq!(verify(&graph), []);
        assert_eq!(print(&graph, Constants::All), text);
    }

    #[test]
    fn every_op_round_trips() {
        let text = include_str!("every_op.txt");
        check(text);
        for (_, node) in parse(text).unwrap().nodes() {
            assert_eq!(name_of(node.op.name()), Some(node.op.name()));
        }
    }

    #[test]
    fn elements_round_trip() {
        check(
            r#"%0 = constant {0.1,-0.0,inf,-inf,nan,1e-45,16777216.0,0x7ff8000020000000} : f32[8]
%1 = constant {0.1,5e-324} : f64[2]
%2 = constant {0.33325195,65504.0} : f16[2]
%3 = constant {0,18446744073709551615} : u64[2]
%4 = constant {-128,127} : i8[2]
%5 = constant {0,1} : bool[2]
%6 = constant {} : f32[0,3]
%7 = constant {0.5} : bf16[] "a \"quoted\" \\ name\n\u{202e}"
output "y" = %7
"#,
        );
    }

    #[test]
    fn mistakes_name_the_line() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        let x = "input \"x\" : f32[2]\n%0 = input 0 : f32[2]\n";
        let after = |line: &str| message(&format!("{x}{line}"));
        assert_eq!(
            after("%1 = relu %0 : f32[3]"),
            "malformed model: line 3, column 6: the type is f32[2], not f32[3]"
        );
        assert!(after("%1 = relu %7 : f32[2]").ends_with("line 3, column 11: there is no node %7 so far"));
        assert!(after("%1 = rleu %0 : f32[2]").ends_with("there is no op 'rleu'"));
        assert!(after("%1 = relu %0 %0 : f32[2]").ends_with("too many operands for relu"));
        assert!(after("%1 = add %0 : f32[2]").ends_with("an operand is missing"));
        assert!(after("%1 = softmax %0 : f32[2]").ends_with("'axis' is missing"));
        assert!(after("%1 = softmax %0 axis=0 axis=0 : f32[2]").contains("'axis' twice"));
        assert!(after("%1 = softmax %0 axis=1 : f32[2]").contains("axis 1 of [2]"));
        assert!(after("%1 = relu %0 : f32[2] \"open").contains("does not end"));
        assert!(after("%1 = constant {1,2,3} : f32[2]").contains("3 values"));
        assert!(after("%1 = constant {300} : u8[1]").contains("'300' is no u8"));
        assert!(after("%1 = constant #0123 : f32[99]").contains("left out when it was printed"));
        assert!(after("%0 = relu %0 : f32[2]").contains("already a node %0"));
        assert!(after("%1 = relu %0 : f99[2]").contains("no dtype"));
        assert!(message("input \"x\" : f32[9999999999,9999999999,9999999999]").contains("line 1"));
    }

    /// Text cut or changed anywhere is an error or a graph, not a panic.
    #[test]
    fn damaged_text() {
        let text = include_str!("every_op.txt");
        for end in text.char_indices().map(|it| it.0) {
            let line = text[..end].rfind('\n').map_or(0, |it| it + 1);
            let _ = parse(&text[..end]);
            let _ = parse(&text[line..]);
        }
    }
}
