//! Loops as text, printed and parsed. Tensors in their order, nests, outputs:
//!
//! ```text
//! t0: f32[2,8] = input(slot=0) "x"
//! t1: f32[2] = nest(at=0) "norm"
//! nest t1 reduce_sum on gpu
//!   reduce(depth=[8], op=sum, value=e1)
//!   e0: f32 = t0[i0, i1]
//!   e1: f32 = mul e0 e0
//! output t1
//! ```
//!
//! Last come states, by numbers of inputs and outputs: `state(input=0, output=1)`.
//!
//! A nest's space is the shape of the tensor that it writes and its origin is the tensor's, so neither is said twice. What
//! parses has tensors, expressions and loop variables for all that it names, coordinates of the right rank, and a nest for
//! each tensor that says so; that it computes anything sensible is not checked.

use std::fmt::{self, Display, Formatter};

use slotmap::SlotMap;

use super::{Body, Definition, Expr, ExprId, Loops, Nest, NestKind, TensorId, TensorInfo};
use crate::{
    dtype::DType,
    error::Error,
    graph::{State, key, number, op::name_of},
    scalar::{BinaryOp, UnaryOp},
    text::{Cursor, Parsed, Show, Text, parse_scalar, print_scalar, spelled},
};

/// The loops that `text` describes.
pub fn parse(text: &str) -> Result<Loops, Error> {
    Cursor::all(text, |from| {
        let mut loops = Loops { tensors: parse_tensors(from)?, ..Loops::default() };
        while from.word("nest") {
            let place = from.mark();
            let (nest, on) = parse_nest(from, &loops.tensors)?;
            let wanted = Definition::Nest(loops.nests.len());
            if loops.tensors[nest.tensor].definition != wanted {
                from.blame(place);
                return Err(format!("it would be {}, which this tensor does not name", Show(&wanted)));
            }
            loops.nests.push(nest);
            loops.places.push(on);
        }
        loops.outputs = parse_outputs(from, &loops.tensors)?;
        while from.take("state") {
            loops.states.push(Text::parse(from)?);
            from.end()?;
        }
        let missing =
            |it: &TensorInfo| matches!(it.definition, Definition::Nest(at) if at >= loops.nests.len());
        if let Some((id, _)) = loops.tensors.iter().find(|it| missing(it.1)) {
            return from.wrong(format!("the nest of {} is missing", Show(&id)));
        }
        if from.is_done() {
            Ok(loops)
        } else {
            from.wrong("a nest, an output, a state or the end should be here")
        }
    })
}

impl Display for Loops {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_tensors(f, &self.tensors)?;
        for (nest, place) in self.nests.iter().zip(&self.places) {
            writeln!(f, "nest {} {} on {}", Show(&nest.tensor), nest.op, Show(place))?;
            writeln!(f, "  {}", Show(&nest.kind))?;
            print_body(f, &nest.body)?;
        }
        print_outputs(f, &self.outputs)?;
        self.states.iter().try_for_each(|it| writeln!(f, "state{}", Show(it)))
    }
}

fn parse_nest(
    from: &mut Cursor<'_>,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Parsed<(Nest, crate::target::Place)> {
    let tensor = parse_tensor(from, tensors)?;
    let op = parse_op(from)?;
    from.expect("on")?;
    let on = Text::parse(from)?;
    from.end()?;
    let place = from.mark();
    let kind = NestKind::parse(from)?;
    from.end()?;
    let TensorInfo { ty, origin, .. } = tensors[tensor].clone();
    let mut nest = Nest { tensor, op, origin, space: ty.shape, body: Body::default(), kind };
    from.extents = nest.extents();
    nest.body = parse_body(from, tensors)?;
    from.blame(place);
    exist(&nest.body, nest.kind.roots())?;
    Ok((nest, on))
}

/// Every id of `roots` is of an expression.
pub fn exist(body: &Body, roots: impl IntoIterator<Item = ExprId>) -> Parsed<()> {
    match roots.into_iter().find(|it| it.0 as usize >= body.len()) {
        Some(id) => Err(format!("there is no expression {}", Show(&id))),
        None => Ok(()),
    }
}

/// The name of an op.
pub fn parse_op(from: &mut Cursor<'_>) -> Parsed<&'static str> {
    let name = from.name()?;
    name_of(name).ok_or_else(|| format!("there is no op '{name}'"))
}

pub fn print_tensors(f: &mut Formatter<'_>, tensors: &SlotMap<TensorId, TensorInfo>) -> fmt::Result {
    for (id, TensorInfo { ty, definition, origin }) in tensors {
        writeln!(f, "{}: {ty} = {} {origin:?}", Show(&id), Show(definition))?;
    }
    Ok(())
}

/// Tensors, numbered from 0 without a gap.
pub fn parse_tensors(from: &mut Cursor<'_>) -> Parsed<SlotMap<TensorId, TensorInfo>> {
    let mut tensors = SlotMap::with_key();
    while from.peek_label("t") {
        let id = TensorId::parse(from)?;
        if number(id) as usize != tensors.len() {
            return Err(format!("the next tensor is t{}", tensors.len()));
        }
        from.expect(":")?;
        let ty = Text::parse(from)?;
        from.expect("=")?;
        let info = TensorInfo { ty, definition: Text::parse(from)?, origin: Text::parse(from)? };
        from.end()?;
        tensors.insert(info);
    }
    Ok(tensors)
}

/// The id of one of `tensors`.
pub fn parse_tensor(from: &mut Cursor<'_>, tensors: &SlotMap<TensorId, TensorInfo>) -> Parsed<TensorId> {
    let id = TensorId::parse(from)?;
    if tensors.contains_key(id) { Ok(id) } else { Err(format!("there is no tensor {}", Show(&id))) }
}

pub fn print_outputs(f: &mut Formatter<'_>, outputs: &[TensorId]) -> fmt::Result {
    outputs.iter().try_for_each(|it| writeln!(f, "output {}", Show(it)))
}

pub fn parse_outputs(
    from: &mut Cursor<'_>,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Parsed<Vec<TensorId>> {
    let mut outputs = Vec::new();
    while from.word("output") {
        outputs.push(parse_tensor(from, tensors)?);
        from.end()?;
    }
    Ok(outputs)
}

/// A line an expression.
pub fn print_body(f: &mut Formatter<'_>, body: &Body) -> fmt::Result {
    for (id, expr, dtype) in body.iter() {
        write!(f, "  {}: {dtype} = ", Show(&id))?;
        match expr {
            Expr::Const(value) => print_scalar(f, dtype, *value)?,
            Expr::Coord(at) => write!(f, "coord {at}")?,
            Expr::Load { tensor, at, guard } => {
                write!(f, "{}{}", Show(tensor), Show(at))?;
                if let Some(guard) = guard {
                    write!(f, " if {}", Show(guard))?;
                }
            }
            Expr::Param(number) => write!(f, "p{number}")?,
            Expr::Unary(op, x) => write!(f, "{} {}", op.name(), Show(x))?,
            Expr::Binary(op, x, y) => write!(f, "{} {} {}", op.name(), Show(x), Show(y))?,
            Expr::Select(cond, yes, no) => write!(f, "select {} {} {}", Show(cond), Show(yes), Show(no))?,
            Expr::Random { number, key: [low, high], at } => {
                write!(f, "random {number} {} {} {}", Show(low), Show(high), Show(at))?
            }
            Expr::Cast(x) => write!(f, "cast {}", Show(x))?,
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Expressions, numbered from 0 without a gap, none twice.
pub fn parse_body(from: &mut Cursor<'_>, tensors: &SlotMap<TensorId, TensorInfo>) -> Parsed<Body> {
    let mut body = Body::default();
    while from.peek_label("e") {
        let id = ExprId::parse(from)?;
        if id.0 as usize != body.len() {
            return Err(format!("the next expression is e{}", body.len()));
        }
        from.expect(":")?;
        let dtype = DType::parse(from.name()?).ok_or("there is no such dtype")?;
        from.expect("=")?;
        let place = from.mark();
        let expr = parse_expr(from, dtype, tensors)?;
        from.end()?;
        from.blame(place);
        let mut operands = Vec::new();
        expr.operands(&mut |it| operands.push(it));
        exist(&body, operands)?;
        let made = body.add(expr, dtype);
        if made != id {
            return Err(format!("it is the same as {}", Show(&made)));
        }
    }
    Ok(body)
}

fn parse_expr(from: &mut Cursor<'_>, dtype: DType, tensors: &SlotMap<TensorId, TensorInfo>) -> Parsed<Expr> {
    if from.peek_label("t") {
        let tensor = parse_tensor(from, tensors)?;
        let at = parse_coords(from, tensor, tensors)?;
        let guard = if from.word("if") { Some(ExprId::parse(from)?) } else { None };
        return Ok(Expr::Load { tensor, at, guard });
    }
    if from.peek_label("p") {
        return from.label("p").map(Expr::Param);
    }
    let word = from.item();
    if word == "random" {
        let number = u32::parse(from)?;
        let key = [ExprId::parse(from)?, ExprId::parse(from)?];
        return Ok(Expr::Random { number, key, at: ExprId::parse(from)? });
    }
    let mut operand = || ExprId::parse(from);
    Ok(match (word, UnaryOp::parse(word), BinaryOp::parse(word)) {
        (_, Some(op), _) => Expr::Unary(op, operand()?),
        (_, _, Some(op)) => Expr::Binary(op, operand()?, operand()?),
        ("select", ..) => Expr::Select(operand()?, operand()?, operand()?),
        ("cast", ..) => Expr::Cast(operand()?),
        ("coord", ..) => Expr::Coord(Text::parse(from)?),
        _ => Expr::Const(parse_scalar(dtype, word).map_err(|it| format!("{it} and no expression"))?),
    })
}

/// Coordinates in `tensor`.
pub fn parse_coords(
    from: &mut Cursor<'_>,
    tensor: TensorId,
    tensors: &SlotMap<TensorId, TensorInfo>,
) -> Parsed<super::Coords> {
    let place = from.mark();
    let at = super::Coords::parse(from)?;
    let ty = &tensors[tensor].ty;
    if at.len() != ty.shape.rank() {
        from.blame(place);
        return Err(format!("{} coordinates in a tensor {ty}", at.len()));
    }
    Ok(at)
}

impl Text for TensorId {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", number(*self))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<TensorId> {
        from.label("t").map(key)
    }
}

impl Text for ExprId {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<ExprId> {
        from.label("e").map(ExprId)
    }
}

spelled!(struct State { input, output });

spelled!(enum Definition {
    Input "input" (slot);
    Constant "constant" (number);
    Nest "nest" (at);
});

spelled!(enum NestKind {
    Map "map" { value };
    Reduce "reduce" { depth, op, value };
    Contract "contract" { depth, a, b };
    Attention "attention" { keys, channels, scale, zero_masked, q, k, v, mask };
});
