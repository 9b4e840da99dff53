//! A schedule as text: kernels with what they compute, and why others were not fused. Printed only.

use std::fmt::{self, Display, Formatter};

use super::kernel::{Kernel, Schedule, Skeleton};
use crate::{
    graph::number,
    lower::{Body, Expr, TensorId},
    scalar::Scalar,
};

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for kernel in &self.kernels {
            write!(f, "{kernel}")?;
        }
        for refusal in &self.refusals {
            writeln!(f, "not fused: {} into {}: {}", refusal.producer, refusal.consumer, refusal.why)?;
        }
        Ok(())
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {} on {:?} ({})", self.name, self.place, self.ops.join(" "))?;
        match &self.skeleton {
            Skeleton::Map { space, workgroup } => writeln!(f, "  map {space} workgroup {workgroup}")?,
            Skeleton::Rows { outer, inner, stages, form } => {
                writeln!(f, "  rows {outer} of {inner} {form:?}")?;
                for (at, stage) in stages.iter().enumerate() {
                    writeln!(f, "  p{at} = {} e{}", stage.op.name(), stage.value.0)?;
                }
            }
            Skeleton::Contract { space, depth, batch, rows, cols, a, b, tile } => {
                writeln!(
                    f,
                    "  product {space} over {depth}: batch {batch:?} rows {rows:?} cols {cols:?} {tile:?}"
                )?;
                writeln!(f, "  p0 = sum e{} * e{}", a.0, b.0)?;
            }
            Skeleton::Attention { space, keys, channels, scale, zero_masked, q, k, v, mask, tile } => {
                writeln!(f, "  attention {space} keys {keys} channels {channels} scale {scale} {tile:?}")?;
                let mask = mask.map_or(String::new(), |it| format!(" mask e{}", it.0));
                let zero = if *zero_masked { " zero_masked" } else { "" };
                writeln!(f, "  p0 = attention q e{} k e{} v e{}{mask}{zero}", q.0, k.0, v.0)?;
            }
        }
        write_body(f, &self.body, &self.body.needed(super::verify::roots(self)))?;
        for store in &self.stores {
            writeln!(f, "  {}{:?} = e{}", tensor(store.tensor), store.at.as_slice(), store.value.0)?;
        }
        Ok(())
    }
}

fn tensor(id: TensorId) -> String {
    format!("t{}", number(id))
}

fn write_body(f: &mut Formatter<'_>, body: &Body, needed: &[bool]) -> fmt::Result {
    for (id, expr, dtype) in body.iter().filter(|(id, ..)| needed[id.0 as usize]) {
        write!(f, "  e{} = ", id.0)?;
        match expr {
            Expr::Const(Scalar::Float(value)) => write!(f, "{value:?}")?,
            Expr::Const(Scalar::Int(value)) => write!(f, "{value}")?,
            Expr::Coord(at) => write!(f, "coord {at}")?,
            Expr::Load { tensor: from, at, guard } => {
                write!(f, "{}{:?}", tensor(*from), at.as_slice())?;
                if let Some(guard) = guard {
                    write!(f, " if e{}", guard.0)?;
                }
            }
            Expr::Param(number) => write!(f, "p{number}")?,
            Expr::Unary(op, x) => write!(f, "{} e{}", op.name(), x.0)?,
            Expr::Binary(op, x, y) => write!(f, "{} e{} e{}", op.name(), x.0, y.0)?,
            Expr::Select(cond, yes, no) => write!(f, "select e{} e{} e{}", cond.0, yes.0, no.0)?,
            Expr::Cast(x) => write!(f, "cast e{}", x.0)?,
        }
        writeln!(f, " : {dtype}")?;
    }
    Ok(())
}
