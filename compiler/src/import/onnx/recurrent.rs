//! RNN, GRU and LSTM, written out step by step: products with the inputs once for all steps, those with the state one by one.
//!
//! The graph grows with the steps, by some 10 to 20 nodes each, so their number is bounded; work and memory are those of the
//! operator.

use super::{node::Node, proto::attribute};
use crate::{
    dtype::DType,
    error::Error,
    graph::Value,
    import::emit::Emit,
    scalar::{BinaryOp, UnaryOp},
};

type Made = Result<Value, Error>;

/// Of all directions together.
const MAX_STEPS: usize = 1024;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Rnn => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

#[derive(Clone, Copy)]
enum Function {
    Plain(UnaryOp),
    Affine,
    LeakyRelu,
    ThresholdedRelu,
    ScaledTanh,
    HardSigmoid,
    Elu,
    Softsign,
}

/// Name, function, the defaults of what it takes of `activation_alpha` and `activation_beta`.
const FUNCTIONS: [(&str, Function, Option<f64>, Option<f64>); 11] = [
    ("Relu", Function::Plain(UnaryOp::Relu), None, None),
    ("Tanh", Function::Plain(UnaryOp::Tanh), None, None),
    ("Sigmoid", Function::Plain(UnaryOp::Sigmoid), None, None),
    ("Softplus", Function::Plain(UnaryOp::Softplus), None, None),
    ("Softsign", Function::Softsign, None, None),
    ("Affine", Function::Affine, Some(1.0), Some(0.0)),
    ("LeakyRelu", Function::LeakyRelu, Some(0.01), None),
    ("ThresholdedRelu", Function::ThresholdedRelu, Some(1.0), None),
    ("ScaledTanh", Function::ScaledTanh, Some(1.0), Some(1.0)),
    ("HardSigmoid", Function::HardSigmoid, Some(0.2), Some(0.5)),
    ("Elu", Function::Elu, Some(1.0), None),
];

#[derive(Clone, Copy)]
struct Activation {
    function: Function,
    alpha: f64,
    beta: f64,
    clip: Option<f64>,
}

impl Activation {
    fn apply(self, e: &mut Emit, x: Value) -> Made {
        let Activation { function, alpha, beta, clip } = self;
        let x = match clip {
            Some(most) => {
                let x = e.with(BinaryOp::Max, x, -most)?;
                e.with(BinaryOp::Min, x, most)?
            }
            None => x,
        };
        match function {
            Function::Plain(op) => e.unary(op, x),
            Function::Affine => affine(e, x, alpha, beta),
            Function::LeakyRelu => {
                let (low, negative) = (e.with(BinaryOp::Mul, x, alpha)?, e.with(BinaryOp::Lt, x, 0.0)?);
                e.select(negative, low, x)
            }
            Function::ThresholdedRelu => {
                let (above, zero) = (e.with(BinaryOp::Ge, x, alpha)?, e.scalar(e.dtype(x), 0.0));
                e.select(above, x, zero)
            }
            Function::ScaledTanh => {
                let x = e.with(BinaryOp::Mul, x, beta)?;
                let x = e.unary(UnaryOp::Tanh, x)?;
                e.with(BinaryOp::Mul, x, alpha)
            }
            Function::HardSigmoid => {
                let x = affine(e, x, alpha, beta)?;
                let x = e.with(BinaryOp::Max, x, 0.0)?;
                e.with(BinaryOp::Min, x, 1.0)
            }
            Function::Elu => {
                let low = e.unary(UnaryOp::Exp, x)?;
                let low = affine(e, low, alpha, -alpha)?;
                let negative = e.with(BinaryOp::Lt, x, 0.0)?;
                e.select(negative, low, x)
            }
            Function::Softsign => {
                let size = e.unary(UnaryOp::Abs, x)?;
                let below = e.with(BinaryOp::Add, size, 1.0)?;
                e.binary(BinaryOp::Div, x, below)
            }
        }
    }
}

fn affine(e: &mut Emit, x: Value, alpha: f64, beta: f64) -> Made {
    let x = e.with(BinaryOp::Mul, x, alpha)?;
    e.with(BinaryOp::Add, x, beta)
}

/// The functions of every direction, one after the other; each takes its parameters from the lists in order.
fn activations(n: &Node, kind: Kind, directions: usize) -> Result<Vec<Activation>, Error> {
    let stated = match n.attribute("activations") {
        Some(it) if it.r#type == attribute::STRINGS => {
            it.strings.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect()
        }
        Some(_) => return Err(n.error("attribute 'activations' holds no strings")),
        None => vec![],
    };
    let names: Vec<&str> = match stated.is_empty() {
        true => kind.activations().repeat(directions),
        false => stated.iter().map(String::as_str).collect(),
    };
    if names.len() != directions * kind.activations().len() {
        return Err(n.error(format!("{} activations for {directions} directions", names.len())));
    }
    let clip = n.opt_float("clip")?;
    let mut alphas = n.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = n.floats("activation_beta")?.unwrap_or_default().into_iter();
    let one = |name: &&str| {
        let row = FUNCTIONS.iter().find(|it| it.0.eq_ignore_ascii_case(name));
        let &(_, function, alpha, beta) =
            row.ok_or_else(|| n.error(format!("unknown activation '{name}'")))?;
        let take = |default: Option<f64>, given: &mut dyn Iterator<Item = f64>| match default {
            Some(default) => given.next().unwrap_or(default),
            None => 0.0,
        };
        Ok(Activation { function, alpha: take(alpha, &mut alphas), beta: take(beta, &mut betas), clip })
    };
    names.iter().map(one).collect()
}

/// What one direction is computed from.
struct Direction {
    /// [steps, b, gates * h]: the inputs' products with their weights, and the biases.
    inputs: Value,
    /// [h, gates * h]
    weight: Value,
    /// GRU, where it is added before the reset gate: [h].
    late_bias: Option<Value>,
    /// LSTM: [1, h] each.
    peepholes: Option<[Value; 3]>,
    activations: Vec<Activation>,
    /// LSTM: the forget gate is what the input gate leaves.
    coupled: bool,
    hidden: usize,
}

pub fn recurrent(kind: Kind, e: &mut Emit, n: &Node) -> Result<Vec<Value>, Error> {
    let (x, w, r) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let batch_first = n.flag("layout", false)?;
    let x = if batch_first && e.rank(x) == 3 { e.permute(x, &[1, 0, 2])? } else { x };
    let (shape, own) = (e.shape(x), e.shape(r));
    let ([steps, batch, width], [directions, rows, hidden]) = (&shape[..], &own[..]) else {
        return Err(n.error(format!("inputs of shape {shape} and weights of shape {own}")));
    };
    let (steps, batch, width, directions, rows, hidden) =
        (*steps, *batch, *width, *directions, *rows, *hidden);
    let reverse: &[bool] = match n.text("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(n.error(format!("unknown direction '{other}'"))),
    };
    let gates = kind.gates();
    let fits = directions == reverse.len()
        && Some(rows) == hidden.checked_mul(gates)
        && *e.shape(w) == [directions, rows, width]
        && n.opt_int("hidden_size")?.is_none_or(|it| it == hidden as i64);
    let b = n.opt(3);
    if !fits || b.is_some_and(|it| *e.shape(it) != [directions, 2 * rows]) || hidden == 0 {
        return Err(
            n.error(format!("inputs {shape}, weights {} and {own}, and biases do not fit", e.shape(w)))
        );
    }
    if steps == 0 || steps.saturating_mul(directions) > MAX_STEPS {
        return Err(
            n.unsupported(format!("{steps} steps (from 1 to {MAX_STEPS} of all directions together)"))
        );
    }
    let lengths = match n.opt(4) {
        Some(it) if *e.shape(it) == [batch] => {
            let it = e.cast(it, DType::I32)?;
            Some(e.reshape(it, [batch, 1])?)
        }
        Some(it) => return Err(n.error(format!("lengths of shape {} for {batch}", e.shape(it)))),
        None => None,
    };
    let functions = activations(n, kind, directions)?;
    let per = kind.activations().len();
    let late = kind == Kind::Gru && n.flag("linear_before_reset", false)?;
    let coupled = kind == Kind::Lstm && n.flag("input_forget", false)?;
    let peepholes = if kind == Kind::Lstm { n.opt(7) } else { None };
    if let Some(it) = peepholes.filter(|it| *e.shape(*it) != [directions, 3 * hidden]) {
        return Err(n.error(format!("peepholes of shape {}", e.shape(it))));
    }
    let (mut all, mut last, mut cells) = (vec![], vec![], vec![]);
    for (number, &backwards) in reverse.iter().enumerate() {
        let of = |e: &mut Emit, x: Value, shape: &[usize]| -> Made {
            let x = e.slice(x, 0, number, 1, 1)?;
            e.reshape(x, shape)
        };
        let own = of(e, w, &[rows, width])?;
        let own = e.permute(own, &[1, 0])?;
        let flat = e.reshape(x, [steps * batch, width])?;
        let mut inputs = e.matmul(flat, own)?;
        let mut late_bias = None;
        if let Some(b) = b {
            let both = of(e, b, &[2, rows])?;
            let (first, second) = (e.slice(both, 0, 0, 1, 1)?, e.slice(both, 0, 1, 1, 1)?);
            let mut sum = e.binary(BinaryOp::Add, first, second)?;
            if late {
                let (early, own) =
                    (e.slice(sum, 1, 0, 2 * hidden, 1)?, e.slice(first, 1, 2 * hidden, hidden, 1)?);
                sum = e.concat(1, &[early, own])?;
                late_bias = Some(e.slice(second, 1, 2 * hidden, hidden, 1)?);
            }
            inputs = e.binary(BinaryOp::Add, inputs, sum)?;
        }
        let weight = of(e, r, &[rows, hidden])?;
        let direction = Direction {
            inputs: e.reshape(inputs, [steps, batch, rows])?,
            weight: e.permute(weight, &[1, 0])?,
            late_bias,
            peepholes: match peepholes {
                Some(it) => {
                    let it = of(e, it, &[1, 3 * hidden])?;
                    let mut gate = |at: usize| e.slice(it, 1, at * hidden, hidden, 1);
                    Some([gate(0)?, gate(1)?, gate(2)?])
                }
                None => None,
            },
            activations: functions[number * per..(number + 1) * per].to_vec(),
            coupled,
            hidden,
        };
        let initial = |e: &mut Emit, at: usize| -> Made {
            let state = [batch, hidden];
            match n.opt(at) {
                Some(it) => {
                    let it = if batch_first && e.rank(it) == 3 { e.permute(it, &[1, 0, 2])? } else { it };
                    match *e.shape(it) == [directions, batch, hidden] {
                        true => of(e, it, &state),
                        false => Err(n.error(format!("an initial state of shape {}", e.shape(it)))),
                    }
                }
                None => {
                    let zero = e.scalar(e.dtype(x), 0.0);
                    e.expand(zero, state)
                }
            }
        };
        let mut h = initial(e, 5)?;
        let mut c = if kind == Kind::Lstm { Some(initial(e, 6)?) } else { None };
        let mut made = vec![];
        for step in 0..steps {
            let at = if backwards { steps - 1 - step } else { step };
            let input = e.slice(direction.inputs, 0, at, 1, 1)?;
            let input = e.reshape(input, [batch, rows])?;
            let (mut new, mut cell) = direction.step(kind, e, input, h, c)?;
            let mut shown = new;
            if let Some(lengths) = lengths {
                let runs = e.with(BinaryOp::Gt, lengths, at as f64)?;
                let zero = e.scalar(e.dtype(new), 0.0);
                shown = e.select(runs, new, zero)?;
                new = e.select(runs, new, h)?;
                cell = match (cell, c) {
                    (Some(cell), Some(c)) => Some(e.select(runs, cell, c)?),
                    (cell, _) => cell,
                };
            }
            (h, c) = (new, cell);
            made.push(e.reshape(shown, [1, 1, batch, hidden])?);
        }
        if backwards {
            made.reverse();
        }
        all.push(e.concat(0, &made)?);
        last.push(e.reshape(h, [1, batch, hidden])?);
        if let Some(c) = c {
            cells.push(e.reshape(c, [1, batch, hidden])?);
        }
    }
    let y = e.concat(1, &all)?;
    let mut outputs = vec![if batch_first { e.permute(y, &[2, 0, 1, 3])? } else { y }];
    for state in [last, cells].into_iter().filter(|it| !it.is_empty()) {
        let state = e.concat(0, &state)?;
        outputs.push(if batch_first { e.permute(state, &[1, 0, 2])? } else { state });
    }
    Ok(outputs)
}

impl Direction {
    /// The next state, and for an LSTM the next cell.
    fn step(
        &self,
        kind: Kind,
        e: &mut Emit,
        input: Value,
        h: Value,
        c: Option<Value>,
    ) -> Result<(Value, Option<Value>), Error> {
        let hidden = self.hidden;
        let gate = |e: &mut Emit, x: Value, at: usize| e.slice(x, 1, at * hidden, hidden, 1);
        let sum = |e: &mut Emit, x: Value, y: Value| e.binary(BinaryOp::Add, x, y);
        let product = |e: &mut Emit, x: Value, y: Value| e.binary(BinaryOp::Mul, x, y);
        let rest = |e: &mut Emit, x: Value| -> Made {
            let one = e.scalar(e.dtype(x), 1.0);
            e.binary(BinaryOp::Sub, one, x)
        };
        let f = &self.activations;
        if kind == Kind::Gru {
            // Gates: update, reset, hidden.
            let early = e.slice(self.weight, 1, 0, 2 * hidden, 1)?;
            let early = e.matmul(h, early)?;
            let own = e.slice(input, 1, 0, 2 * hidden, 1)?;
            let both = sum(e, own, early)?;
            let (update, reset) = (gate(e, both, 0)?, gate(e, both, 1)?);
            let (update, reset) = (f[0].apply(e, update)?, f[0].apply(e, reset)?);
            let weight = gate(e, self.weight, 2)?;
            let kept = match self.late_bias {
                Some(bias) => {
                    let kept = e.matmul(h, weight)?;
                    let kept = sum(e, kept, bias)?;
                    product(e, reset, kept)?
                }
                None => {
                    let kept = product(e, reset, h)?;
                    e.matmul(kept, weight)?
                }
            };
            let own = gate(e, input, 2)?;
            let new = sum(e, own, kept)?;
            let new = f[1].apply(e, new)?;
            let left = rest(e, update)?;
            let (new, old) = (product(e, left, new)?, product(e, update, h)?);
            return Ok((sum(e, new, old)?, None));
        }
        let products = e.matmul(h, self.weight)?;
        let all = sum(e, input, products)?;
        let Some(c) = c else { return Ok((f[0].apply(e, all)?, None)) };
        // Gates: input, output, forget, cell.
        let peeped = |e: &mut Emit, at: usize, cell: Value| -> Made {
            let own = gate(e, all, at)?;
            match &self.peepholes {
                Some(weights) => {
                    let seen = product(e, weights[at], cell)?;
                    sum(e, own, seen)
                }
                None => Ok(own),
            }
        };
        let into = peeped(e, 0, c)?;
        let into = f[0].apply(e, into)?;
        let forget = match self.coupled {
            true => rest(e, into)?,
            false => {
                let forget = peeped(e, 2, c)?;
                f[0].apply(e, forget)?
            }
        };
        let new = gate(e, all, 3)?;
        let new = f[1].apply(e, new)?;
        let (new, old) = (product(e, into, new)?, product(e, forget, c)?);
        let cell = sum(e, new, old)?;
        let out = peeped(e, 1, cell)?;
        let out = f[0].apply(e, out)?;
        let seen = f[2].apply(e, cell)?;
        Ok((product(e, out, seen)?, Some(cell)))
    }
}
