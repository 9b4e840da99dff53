//! Rules of the operators on single elements.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::{Made, Reverse};
use crate::{
    error::Error,
    graph::Value,
    scalar::{BinaryOp, UnaryOp},
};

impl Reverse<'_> {
    pub fn unary(&mut self, op: UnaryOp, x: Value, y: Value, g: Value) -> Result<(), Error> {
        match op {
            // Flat but for jumps.
            UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc => Ok(()),
            // Of integers, or to them.
            UnaryOp::Not
            | UnaryOp::IsNan
            | UnaryOp::IsInf
            | UnaryOp::Normal
            | UnaryOp::ToBits
            | UnaryOp::FromBits => Ok(()),
            UnaryOp::Neg => self.give(x, |r| r.neg(g)),
            UnaryOp::Log => self.give(x, |r| r.div(g, x)),
            UnaryOp::Sqrt => self.give(x, |r| {
                let twice = r.with(BinaryOp::Mul, y, 2.0)?;
                r.div(g, twice)
            }),
            UnaryOp::Atan => self.give(x, |r| {
                let square = r.mul(x, x)?;
                let below = r.with(BinaryOp::Add, square, 1.0)?;
                r.div(g, below)
            }),
            UnaryOp::Atanh => self.give(x, |r| {
                let square = r.mul(x, x)?;
                let below = r.minus(1.0, square)?;
                r.div(g, below)
            }),
            UnaryOp::Relu => self.give(x, |r| {
                let flat = r.with(BinaryOp::Le, x, 0.0)?;
                r.unless(flat, g)
            }),
            UnaryOp::HardSwish => self.give(x, |r| {
                let steep = r.with(BinaryOp::Ge, x, 3.0)?;
                let flat = r.with(BinaryOp::Le, x, -3.0)?;
                let slope = r.with(BinaryOp::Div, x, 3.0)?;
                let slope = r.with(BinaryOp::Add, slope, 0.5)?;
                let inside = r.mul(g, slope)?;
                let low = r.unless(flat, inside)?;
                r.select(steep, g, low)
            }),
            UnaryOp::Abs
            | UnaryOp::Exp
            | UnaryOp::Rsqrt
            | UnaryOp::Recip
            | UnaryOp::Sin
            | UnaryOp::Cos
            | UnaryOp::Tan
            | UnaryOp::Asin
            | UnaryOp::Acos
            | UnaryOp::Sinh
            | UnaryOp::Cosh
            | UnaryOp::Tanh
            | UnaryOp::Asinh
            | UnaryOp::Acosh
            | UnaryOp::Erf
            | UnaryOp::Sigmoid
            | UnaryOp::Silu
            | UnaryOp::Gelu
            | UnaryOp::GeluTanh
            | UnaryOp::Softplus => self.give(x, |r| {
                let slope = r.slope(op, x, y)?;
                r.mul(g, slope)
            }),
        }
    }

    /// The derivative of `y`, `op` of `x`.
    fn slope(&mut self, op: UnaryOp, x: Value, y: Value) -> Made {
        match op {
            UnaryOp::Abs => self.unary_of(UnaryOp::Sign, x),
            UnaryOp::Exp => Ok(y),
            UnaryOp::Rsqrt => {
                let square = self.mul(y, y)?;
                let cube = self.mul(square, y)?;
                self.with(BinaryOp::Mul, cube, -0.5)
            }
            UnaryOp::Recip => {
                let square = self.mul(y, y)?;
                self.neg(square)
            }
            UnaryOp::Sin => self.unary_of(UnaryOp::Cos, x),
            UnaryOp::Cos => {
                let sine = self.unary_of(UnaryOp::Sin, x)?;
                self.neg(sine)
            }
            UnaryOp::Tan => {
                let square = self.mul(y, y)?;
                self.with(BinaryOp::Add, square, 1.0)
            }
            UnaryOp::Asin => {
                let square = self.mul(x, x)?;
                let rest = self.minus(1.0, square)?;
                self.unary_of(UnaryOp::Rsqrt, rest)
            }
            UnaryOp::Acos => {
                let other = self.slope(UnaryOp::Asin, x, y)?;
                self.neg(other)
            }
            UnaryOp::Sinh => self.unary_of(UnaryOp::Cosh, x),
            UnaryOp::Cosh => self.unary_of(UnaryOp::Sinh, x),
            UnaryOp::Tanh => {
                let square = self.mul(y, y)?;
                self.minus(1.0, square)
            }
            UnaryOp::Asinh | UnaryOp::Acosh => {
                let square = self.mul(x, x)?;
                let one = if op == UnaryOp::Asinh { 1.0 } else { -1.0 };
                let inner = self.with(BinaryOp::Add, square, one)?;
                self.unary_of(UnaryOp::Rsqrt, inner)
            }
            UnaryOp::Erf => {
                let bell = self.bell(x, -1.0)?;
                self.with(BinaryOp::Mul, bell, 2.0 / PI.sqrt())
            }
            UnaryOp::Sigmoid => {
                let rest = self.minus(1.0, y)?;
                self.mul(y, rest)
            }
            UnaryOp::Silu => {
                let s = self.unary_of(UnaryOp::Sigmoid, x)?;
                let rest = self.minus(1.0, s)?;
                let rest = self.mul(x, rest)?;
                let rest = self.with(BinaryOp::Add, rest, 1.0)?;
                self.mul(s, rest)
            }
            UnaryOp::Gelu => {
                let scaled = self.with(BinaryOp::Mul, x, FRAC_1_SQRT_2)?;
                let erf = self.unary_of(UnaryOp::Erf, scaled)?;
                let part = self.with(BinaryOp::Add, erf, 1.0)?;
                let part = self.with(BinaryOp::Mul, part, 0.5)?;
                let bell = self.bell(x, -0.5)?;
                let bell = self.with(BinaryOp::Mul, bell, 1.0 / (2.0 * PI).sqrt())?;
                let bell = self.mul(x, bell)?;
                self.binary_of(BinaryOp::Add, part, bell)
            }
            UnaryOp::GeluTanh => {
                // y = x/2 (1 + t), t = tanh(root (x + cubic x^3))
                let (root, cubic) = ((2.0 / PI).sqrt(), 0.044715);
                let square = self.mul(x, x)?;
                let inner = self.with(BinaryOp::Mul, square, root * cubic)?;
                let inner = self.with(BinaryOp::Add, inner, root)?;
                let inner = self.mul(x, inner)?;
                let t = self.unary_of(UnaryOp::Tanh, inner)?;
                let within = self.with(BinaryOp::Mul, square, 3.0 * root * cubic)?;
                let within = self.with(BinaryOp::Add, within, root)?;
                let bend = self.slope(UnaryOp::Tanh, inner, t)?;
                let bend = self.mul(bend, within)?;
                let bend = self.mul(x, bend)?;
                let sum = self.binary_of(BinaryOp::Add, t, bend)?;
                let sum = self.with(BinaryOp::Add, sum, 1.0)?;
                self.with(BinaryOp::Mul, sum, 0.5)
            }
            UnaryOp::Softplus => self.unary_of(UnaryOp::Sigmoid, x),
            UnaryOp::Neg
            | UnaryOp::Sign
            | UnaryOp::Log
            | UnaryOp::Sqrt
            | UnaryOp::Atan
            | UnaryOp::Atanh
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Round
            | UnaryOp::Trunc
            | UnaryOp::Not
            | UnaryOp::IsNan
            | UnaryOp::IsInf
            | UnaryOp::Relu
            | UnaryOp::HardSwish
            | UnaryOp::Normal
            | UnaryOp::ToBits
            | UnaryOp::FromBits => crate::bug!("{} is derived without its slope", op.name()),
        }
    }

    /// exp(factor x^2)
    fn bell(&mut self, x: Value, factor: f64) -> Made {
        let square = self.mul(x, x)?;
        let inner = self.with(BinaryOp::Mul, square, factor)?;
        self.unary_of(UnaryOp::Exp, inner)
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value, y: Value, g: Value) -> Result<(), Error> {
        match op {
            BinaryOp::Add => {
                self.give(a, |_| Ok(g))?;
                self.give(b, |_| Ok(g))
            }
            BinaryOp::Sub => {
                self.give(a, |_| Ok(g))?;
                self.give(b, |r| r.neg(g))
            }
            BinaryOp::Mul => {
                self.give(a, |r| r.mul(g, b))?;
                self.give(b, |r| r.mul(g, a))
            }
            BinaryOp::Div => {
                self.give(a, |r| r.div(g, b))?;
                self.give(b, |r| {
                    let part = r.div(y, b)?;
                    let part = r.mul(g, part)?;
                    r.neg(part)
                })
            }
            // y = a - n b with a whole number n.
            BinaryOp::Rem | BinaryOp::Mod => {
                self.give(a, |_| Ok(g))?;
                self.give(b, |r| {
                    let many = r.sub(y, a)?;
                    let many = r.div(many, b)?;
                    let many = r.unary_of(UnaryOp::Round, many)?;
                    r.mul(g, many)
                })
            }
            BinaryOp::Pow => {
                self.give(a, |r| {
                    // 0 for the exponent 0, whatever the base.
                    let none = r.with(BinaryOp::Eq, b, 0.0)?;
                    let less = r.with(BinaryOp::Sub, b, 1.0)?;
                    let less = r.unless(none, less)?;
                    let power = r.binary_of(BinaryOp::Pow, a, less)?;
                    let slope = r.mul(b, power)?;
                    r.mul(g, slope)
                })?;
                self.give(b, |r| {
                    // 0 for the base 0, as its powers are 0.
                    let none = r.with(BinaryOp::Eq, a, 0.0)?;
                    let one = r.number(r.ty(a).dtype, 1.0);
                    let base = r.select(none, one, a)?;
                    let log = r.unary_of(UnaryOp::Log, base)?;
                    let slope = r.mul(y, log)?;
                    r.mul(g, slope)
                })
            }
            BinaryOp::Max => self.chosen(BinaryOp::Lt, a, b, g),
            BinaryOp::Min => self.chosen(BinaryOp::Gt, a, b, g),
            BinaryOp::Atan2 => {
                if !self.is_wanted(a) && !self.is_wanted(b) {
                    return Ok(());
                }
                let (aa, bb) = (self.mul(a, a)?, self.mul(b, b)?);
                let square = self.binary_of(BinaryOp::Add, aa, bb)?;
                let part = self.div(g, square)?;
                self.give(a, |r| r.mul(part, b))?;
                self.give(b, |r| {
                    let part = r.mul(part, a)?;
                    r.neg(part)
                })
            }
            // Of integers, or to them.
            BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::Shl
            | BinaryOp::Shr
            | BinaryOp::Eq
            | BinaryOp::Ne
            | BinaryOp::Lt
            | BinaryOp::Le
            | BinaryOp::Gt
            | BinaryOp::Ge => Ok(()),
        }
    }

    /// All of `g` to the operand that was taken, half each where they are equal. `beaten` tells that its left operand was not taken.
    fn chosen(&mut self, beaten: BinaryOp, a: Value, b: Value, g: Value) -> Result<(), Error> {
        let equal = self.binary_of(BinaryOp::Eq, a, b)?;
        let half = self.with(BinaryOp::Mul, g, 0.5)?;
        let share = self.select(equal, half, g)?;
        self.give(a, |r| {
            let not = r.binary_of(beaten, a, b)?;
            r.unless(not, share)
        })?;
        self.give(b, |r| {
            let not = r.binary_of(beaten, b, a)?;
            r.unless(not, share)
        })
    }

    pub fn select_by(&mut self, cond: Value, yes: Value, no: Value, g: Value) -> Result<(), Error> {
        self.give(yes, |r| r.only(cond, g))?;
        self.give(no, |r| r.unless(cond, g))
    }
}
