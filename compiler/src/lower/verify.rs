//! What must hold of loops, and of any body. `verify` returns every fault:
//! - each nest writes one tensor, of its space, which names the nest; what it reads was written before;
//! - results have the type of the tensor that they are for, and the types of expressions follow from their operands;
//! - loop variables exist with the extents that they have;
//! - coordinates of reads are as many as the tensor has axes, and inside it unless guarded, by their ranges.

use std::collections::BTreeSet;

use slotmap::SlotMap;

use super::{Body, Definition, Expr, ExprId, Loops, NestKind, TensorId, TensorInfo};
use crate::{
    dtype::DType,
    index::{Atom, Index},
    scalar::Scalar,
};

/// Every broken invariant, each with the nest that breaks it.
pub fn verify(loops: &Loops) -> Vec<String> {
    let mut faults = Vec::new();
    let mut written: BTreeSet<TensorId> = (loops.tensors.iter())
        .filter(|(_, it)| !matches!(it.definition, Definition::Nest(_)))
        .map(|(id, _)| id)
        .collect();
    if loops.places.len() != loops.nests.len() {
        faults.push("not every nest has a place".to_owned());
    }
    for (at, nest) in loops.nests.iter().enumerate() {
        let mut fault =
            |what: String| faults.push(format!("nest {at}, {} of '{}': {what}", nest.op, nest.origin));
        let Some(info) = loops.tensors.get(nest.tensor) else {
            fault(format!("writes {:?}, which does not exist", nest.tensor));
            continue;
        };
        if info.definition != Definition::Nest(at) || info.ty.shape != nest.space {
            fault(format!("writes {:?}, which is {info:?}", nest.tensor));
        }
        let roots = nest.kind.roots();
        let scope = Scope { tensors: &loops.tensors, extents: &nest.extents(), params: 0 };
        scope.body(&nest.body, &roots, &mut fault);
        for tensor in read(&nest.body, &roots) {
            if !written.contains(&tensor) {
                fault(format!("reads {tensor:?}, which nobody has written"));
            }
        }
        let of = |it: &ExprId| nest.body.dtype(*it);
        let fits = match &nest.kind {
            NestKind::Map { value } | NestKind::Reduce { value, .. } => of(value) == info.ty.dtype,
            NestKind::Contract { a, b, .. } => of(a) == of(b),
            NestKind::Attention { q, k, v, .. } => of(q) == of(k) && of(k) == of(v),
        };
        if !fits {
            fault(format!("its results are not of type {}", info.ty.dtype));
        }
        written.insert(nest.tensor);
    }
    for output in loops.outputs.iter().filter(|it| !written.contains(it)) {
        faults.push(format!("output {output:?} is not written"));
    }
    for (at, state) in loops.states.iter().enumerate() {
        let old = |it: &&TensorInfo| it.definition == Definition::Input(state.input);
        let (old, new) = (loops.tensors.values().find(old), loops.outputs.get(state.output as usize));
        if new.is_none_or(|new| old.is_some_and(|old| old.ty != loops.tensors[*new].ty)) {
            faults.push(format!("state {at} is no input and output of one type"));
        }
    }
    faults
}

/// Tensors that `roots` read.
fn read(body: &Body, roots: &[ExprId]) -> BTreeSet<TensorId> {
    let needed = body.needed(roots.iter().copied());
    let all = body.iter().filter(|(id, ..)| needed[id.0 as usize]);
    all.filter_map(|(_, expr, _)| match expr {
        Expr::Load { tensor, .. } => Some(*tensor),
        Expr::Const(_)
        | Expr::Coord(_)
        | Expr::Param(_)
        | Expr::Unary(..)
        | Expr::Binary(..)
        | Expr::Select(..)
        | Expr::Random { .. }
        | Expr::Cast(_) => None,
    })
    .collect()
}

/// What a body may name.
pub struct Scope<'a> {
    pub tensors: &'a SlotMap<TensorId, TensorInfo>,
    /// Of loop variables, by their numbers.
    pub extents: &'a [usize],
    /// How many there are.
    pub params: usize,
}

impl Scope<'_> {
    /// Calls `fault` with everything that is wrong in what `roots` need.
    pub fn body(&self, body: &Body, roots: &[ExprId], fault: &mut dyn FnMut(String)) {
        let needed = body.needed(roots.iter().copied());
        for (id, expr, dtype) in body.iter().filter(|(id, ..)| needed[id.0 as usize]) {
            let of = |it: &ExprId| body.dtype(*it);
            let fits = match expr {
                Expr::Const(Scalar::Float(_)) => dtype.is_float(),
                Expr::Const(Scalar::Int(_)) => !dtype.is_float(),
                Expr::Coord(at) => {
                    self.index(body, at, fault);
                    matches!(dtype, DType::I32 | DType::I64)
                }
                Expr::Load { tensor, at, guard } => {
                    self.coords(body, *tensor, at, guard.is_some(), fault);
                    guard.is_none_or(|it| of(&it) == DType::Bool)
                        && self.tensors.get(*tensor).is_some_and(|it| it.ty.dtype == dtype)
                }
                Expr::Param(number) => {
                    if *number as usize >= self.params {
                        fault(format!("e{} is p{number}, which does not exist", id.0));
                    }
                    true
                }
                Expr::Unary(op, x) => op.result(of(x)) == Some(dtype),
                Expr::Binary(op, x, y) => of(x) == of(y) && op.result(of(x)) == Some(dtype),
                Expr::Select(cond, yes, no) => of(cond) == DType::Bool && of(yes) == dtype && of(no) == dtype,
                Expr::Random { number: _, key: [low, high], at } => {
                    dtype == DType::U32 && [low, high, at].into_iter().all(|it| of(it) == DType::U32)
                }
                Expr::Cast(_) => true,
            };
            if !fits {
                fault(format!("e{} is no {dtype}: {expr:?}", id.0));
            }
        }
    }

    /// As `body`, of coordinates in a tensor.
    pub fn coords(
        &self,
        body: &Body,
        tensor: TensorId,
        at: &[Index],
        guarded: bool,
        fault: &mut dyn FnMut(String),
    ) {
        at.iter().for_each(|it| self.index(body, it, fault));
        let Some(TensorInfo { ty, .. }) = self.tensors.get(tensor) else {
            return fault(format!("{tensor:?} does not exist"));
        };
        if at.len() != ty.shape.rank() {
            return fault(format!("{at:?} are no coordinates in {ty}, {tensor:?}"));
        }
        // Loops without points read nothing.
        let anywhere = !self.extents.contains(&0);
        for (index, &dim) in at.iter().zip(ty.shape.iter()) {
            let (low, high) = index.range();
            if !guarded && anywhere && (low < 0 || high >= dim as i64) {
                fault(format!("{index} leaves an axis of {dim} of {tensor:?}"));
            }
        }
    }

    fn index(&self, body: &Body, index: &Index, fault: &mut dyn FnMut(String)) {
        index.leaves(&mut |leaf| {
            let exists = match leaf {
                Atom::Var { axis, extent } => {
                    self.extents.get(*axis as usize).is_some_and(|it| *it as i64 == *extent)
                }
                Atom::Data { expr, .. } => body.dtype(ExprId(*expr)).is_int(),
                Atom::Div(..) | Atom::Mod(..) => false,
            };
            if !exists {
                fault(format!("{leaf} of {index} does not exist so"));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::text::parse;

    const GOOD: &str = r#"t0: f32[2,8] = input(slot=0) "x"
t1: i64[2] = input(slot=1) "at"
t2: f32[2] = nest(at=0) "y"
t3: f32[2] = nest(at=1) "z"
nest t2 reduce_sum on gpu
  reduce(depth=[8], op=sum, value=e1)
  e0: f32 = t0[i0, i1]
  e1: f32 = mul e0 e0
nest t3 gather on gpu
  map(value=e5)
  e0: i64 = t1[i0]
  e1: i64 = 1
  e2: i64 = coord i0
  e3: bool = lt e2 e1
  e4: f32 = t0[1, (e0 in 0..=7)]
  e5: f32 = t2[i0 + 1] if e3
output t3
"#;

    #[test]
    fn each_fault_is_found() {
        assert_eq!(verify(&parse(GOOD).unwrap()), Vec::<String>::new());
        let found = |old: &str, new: &str| {
            assert!(GOOD.contains(old), "{old}");
            verify(&parse(&GOOD.replacen(old, new, 1)).unwrap()).join("; ")
        };
        let y = "nest 0, reduce_sum of 'y': ";
        assert_eq!(
            found("mul e0 e0", "lt e0 e0"),
            format!("{y}e1 is no f32: Binary(Lt, ExprId(0), ExprId(0))")
        );
        assert_eq!(
            found("t0[i0, i1]", "t0[i0 + 1, i1]"),
            format!("{y}i0 + 1 leaves an axis of 2 of TensorId(1v1)")
        );
        assert!(
            found("e0: f32 = t0[i0, i1]", "e0: f32 = t3[i0]").contains("reads TensorId(4v1), which nobody")
        );
        assert!(found("e1: f32 = mul e0 e0", "e1: f64 = cast e0").contains("results are not of type f32"));
        assert!(found("e1: f32 = mul e0 e0", "e1: f32 = p0").contains("e1 is p0, which does not exist"));
        assert!(found("] if e3", "]").contains("i0 + 1 leaves an axis of 2"));
        assert!(found("if e3", "if e4").contains("e5 is no f32"));
        assert!(found("e1: i64 = 1", "e1: i32 = 1").contains("e3 is no bool"));
        let float =
            GOOD.replacen("e0: i64 = t1[i0]", "e0: f32 = t2[i0]", 1).replacen("value=e5", "value=e4", 1);
        let faults = verify(&parse(&float).unwrap()).join("; ");
        assert_eq!(faults, "nest 1, gather of 'z': (e0 in 0..=7) of (e0 in 0..=7) does not exist so");
        let mut loops = parse(GOOD).unwrap();
        loops.nests[1].space = [3].into();
        assert!(verify(&loops).join("; ").contains("which is"));
    }
}
