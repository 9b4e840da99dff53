//! Control flow: a branch whose condition is known and a loop of few turns are imported in place; of others, the condition is asked for,
//! and loops are left to the host, which runs their body as a model of its own.

use std::sync::Arc;

use super::{
    Constant, Program,
    convert::{Convert, named},
    node::Node,
    order,
    proto::{GraphProto, NodeProto, ValueInfoProto},
    scope::{Scope, Slot, What},
    sequence,
};
use crate::{
    dtype::DType,
    error::Error,
    graph::Value,
    import::{
        Signature,
        stretch::{Nothing, Work},
    },
    scalar::Scalar,
    shape::{Dim, Form, Shape, Type},
    tensor::Tensor,
};

/// The most nodes that a loop may become in place: more are run turn by turn, which costs a launch of a plan for each.
const UNROLLED: usize = 2048;

pub type Made = Result<Vec<Slot>, Error>;

impl Convert<'_> {
    /// `None` for a node that is no control flow and has no subgraphs.
    pub fn control(
        &mut self,
        node: &NodeProto,
        n: &Node,
        slots: &[Slot],
        path: &str,
        scope: &Scope,
    ) -> Result<Option<Vec<Slot>>, Error> {
        let decides = match &*node.op_type {
            "FlexAttention" => slots.len(),
            "If" => 1,
            "Loop" => 2,
            _ => 0,
        };
        if let Some(at) = (0..decides).find(|at| n.is_strings(*at)) {
            return Err(n.error(format!("operand {at} is of strings")));
        }
        match &*node.op_type {
            "FlexAttention" => self.flex_attention(node, n, slots, path, scope).map(Some),
            "If" => self.branch(node, n, slots, path, scope).map(Some),
            "Loop" => self.repeat(node, n, slots, path, scope).map(Some),
            "Scan" => self.scan(node, n, slots, path, scope).map(Some),
            "SequenceMap" => self.map(node, n, slots, path, scope).map(Some),
            _ => Ok(None),
        }
    }

    /// The branch that the condition takes, once that is known.
    fn branch(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        if let Some(made) = self.waiting(node, slots, scope) {
            self.carry_surroundings(node, scope)?;
            return Ok(made);
        }
        let condition = match n.literal(&self.emit, 0) {
            Ok(found) => found.filter(|it| it.shape().count() == 1),
            Err(error) if n.unknown.get().is_some() => {
                self.carry_surroundings(node, scope)?;
                return self.ask(node, n, 0, slots, error, true, scope);
            }
            Err(error) => return Err(error),
        };
        let condition = condition.ok_or_else(|| n.error("the condition is no single bool"))?;
        let name = if condition.get(0).as_bool() { "then_branch" } else { "else_branch" };
        let made = self.inner(graph(node, n, name)?, Vec::new(), n.name, path, scope)?;
        if made.iter().any(|it| matches!(it.what, What::Pending)) {
            slots.iter().chain(&made).for_each(|it| self.carry(it));
        }
        Ok(made)
    }

    fn repeat(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        let body = graph(node, n, "body")?;
        let carried = slots.len().saturating_sub(2);
        if body.input.len() != carried + 2 || body.output.len() < carried + 1 {
            let what = format!("{} inputs and {} outputs", body.input.len(), body.output.len());
            return Err(n.error(format!("its body has {what} for {carried} values that it carries on")));
        }
        if node.output.len() > body.output.len() - 1 {
            return Err(n.error("has more outputs than its body gives it"));
        }
        if let Some(made) = self.waiting(node, slots, scope) {
            self.carry_surroundings(node, scope)?;
            return Ok(made);
        }
        if let Some(made) = self.unrolled(node, n, body, slots, path, scope)? {
            return Ok(made);
        }
        let error =
            n.unsupported("how often it is repeated follows from values, or is too often to write it out");
        let mut all = slots.to_vec();
        // The number of turns and the condition may be left out; what is read of the surroundings stands behind them.
        all.resize_with(slots.len().max(2), || Slot { key: "".into(), what: What::Absent });
        let mut names: Vec<&str> = Vec::new();
        body.node.iter().for_each(|it| order::reads(it, &mut names));
        names.extend(body.output.iter().map(|it| it.name.as_str()));
        names.sort_unstable();
        names.dedup();
        let mut constants = Vec::new();
        for proto in &body.initializer {
            let at = format!("initialiser '{}'", proto.name);
            constants
                .push((proto.name.clone(), super::constant(proto, &at, &|_| None, &self.program.strings)?));
        }
        let own = |name: &str| {
            body.input.iter().any(|it| it.name == name)
                || body.initializer.iter().any(|it| it.name == name)
                || body.node.iter().any(|it| it.output.iter().any(|it| it == name))
        };
        let mut inputs: Vec<Signature> = body.input.iter().map(|it| any(&it.name)).collect();
        for name in names.into_iter().filter(|it| !own(it)) {
            // What is made inside of a branch of the body is found there.
            let Some(slot) = self.visible(scope, name)? else { continue };
            match slot.what {
                What::Absent | What::Gone => {}
                What::Pending => {
                    self.carry_surroundings(node, scope)?;
                    return Ok(self.pending(node, slots, scope));
                }
                What::Tensor(value) | What::Strings(value)
                    if self.emit.graph.as_constant(value).is_some() =>
                {
                    let tensor = self.emit.graph.as_constant(value).cloned().expect("just seen");
                    let strings = matches!(slot.what, What::Strings(_));
                    constants.push((name.to_string(), Constant { tensor, strings }));
                }
                What::Tensor(_) | What::Strings(_) | What::Sequence(_) | What::Optional(_) => {
                    inputs.push(any(name));
                    all.push(slot);
                }
            }
        }
        let program = Program {
            inputs,
            outputs: body.output.iter().map(|it: &ValueInfoProto| any(&it.name)).collect(),
            forms: Default::default(),
            constants,
            nodes: order::sorted(body.node.clone(), n.name)?,
            opsets: scope.opsets.clone(),
            functions: self.program.functions.clone(),
            arguments: scope.arguments.clone(),
            strings: self.program.strings.clone(),
        };
        let collected = body.output[1 + carried..].iter().map(nothing).collect();
        let work = Work::Loop { body: Arc::new(program), carried, collected };
        self.later(node, n, &all, (work, false), error, scope)
    }

    /// The loop in place, if its turns are known and few.
    fn unrolled(
        &mut self,
        node: &NodeProto,
        n: &Node,
        body: &GraphProto,
        slots: &[Slot],
        path: &str,
        scope: &Scope,
    ) -> Result<Option<Vec<Slot>>, Error> {
        let single = |to: &Self, at: usize| match slots.get(at).map(|it| &it.what) {
            Some(What::Tensor(value)) => Some(to.emit.literal(*value).filter(|it| it.shape().count() == 1)),
            _ => None,
        };
        let (most, begin) = (single(self, 0), single(self, 1));
        let turns = match &most {
            Some(Some(it)) => it.get(0).as_i64(),
            Some(None) => return Ok(None),
            None => i64::MAX,
        };
        let mut goes_on = match begin {
            Some(Some(it)) => it.get(0).as_bool(),
            Some(None) => return Ok(None),
            None => true,
        };
        let size = nodes_in(body).max(1);
        if goes_on && most.is_some() && turns > (UNROLLED / size) as i64 {
            return Ok(None);
        }
        let before = self.breaks.clone();
        let carried = slots.len().saturating_sub(2);
        let mut state: Vec<Slot> = slots.iter().skip(2).cloned().collect();
        let mut collected: Vec<Vec<Slot>> = vec![Vec::new(); body.output.len() - 1 - carried];
        let mut seen: Vec<Slot> = Vec::new();
        let mut turn = 0;
        while goes_on && turn < turns {
            if turn as usize * size > UNROLLED {
                self.breaks = before;
                return Ok(None);
            }
            let scalar = |to: &mut Self, dtype, value: i64, key: &str| Slot {
                key: format!("{path}{turn}.{key}").into(),
                what: What::Tensor(to.emit.constant(Tensor::scalar(dtype, Scalar::Int(value)))),
            };
            let number = scalar(self, DType::I64, turn, "turn");
            let condition = scalar(self, DType::Bool, 1, "on");
            let given = [number, condition].into_iter().chain(state);
            let inputs = body.input.iter().map(|it| it.name.as_str()).zip(given).collect();
            let name = format!("{}/{turn}", n.name);
            let mut made = self.inner(body, inputs, &name, &format!("{path}{turn}."), scope)?.into_iter();
            let on = made.next();
            state = made.by_ref().take(carried).collect();
            for (all, one) in collected.iter_mut().zip(made) {
                all.push(one);
            }
            let known = on.as_ref().and_then(|it| match it.what {
                What::Tensor(value) => self.emit.literal(value).filter(|it| it.shape().count() == 1),
                _ => None,
            });
            match known {
                Some(it) => goes_on = it.get(0).as_bool(),
                // Where everything is gone, nobody asks how it went on.
                None if on.as_ref().is_some_and(|it| matches!(it.what, What::Gone)) => {
                    self.breaks = before;
                    return Ok(Some(named(node, scope, node.output.iter().map(|_| What::Gone))));
                }
                None => {
                    self.breaks = before;
                    return Ok(None);
                }
            }
            seen.extend(on);
            turn += 1;
        }
        let waits = |it: &Slot| matches!(it.what, What::Pending);
        if state.iter().any(waits) || collected.iter().flatten().any(waits) {
            seen.extend(state.iter().chain(collected.iter().flatten()).chain(slots).cloned());
            seen.iter().for_each(|it| self.carry(it));
        }
        let mut whats: Vec<What> = state.into_iter().map(|it| it.what).collect();
        for (at, all) in collected.into_iter().enumerate() {
            whats.push(match all.is_empty() {
                true => {
                    let info = &body.output[1 + carried + at];
                    let ty = nothing(info).ok_or_else(|| {
                        n.unsupported(format!("no turn, and '{}' states no type", info.name))
                    })?;
                    let value = self.emit.constant(Tensor::from_scalars(ty.ty, []));
                    if ty.strings { What::Strings(value) } else { What::Tensor(value) }
                }
                false => self.stacked(&all, n)?,
            });
        }
        whats.truncate(node.output.len());
        Ok(Some(named(node, scope, whats)))
    }

    /// Values of one type along a new first axis.
    pub fn stacked(&mut self, all: &[Slot], n: &Node) -> Result<What, Error> {
        if all.iter().any(|it| matches!(it.what, What::Gone)) {
            return Ok(What::Gone);
        }
        if all.iter().any(|it| matches!(it.what, What::Pending)) {
            return Ok(What::Pending);
        }
        let mut rows = Vec::with_capacity(all.len());
        let strings = all.iter().filter(|it| matches!(it.what, What::Strings(_))).count();
        for slot in all {
            match slot.what {
                What::Tensor(value) if strings == 0 => rows.push(row(self, value)?),
                What::Strings(value) if strings == all.len() => rows.push(row(self, value)?),
                _ => return Err(n.error("collects something that is no tensor, or of several types")),
            }
        }
        let made = self.emit.concat(0, &rows)?;
        Ok(if strings > 0 { What::Strings(made) } else { What::Tensor(made) })
    }

    /// A graph for each element of a sequence.
    fn map(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        let body = graph(node, n, "body")?;
        if let Some(made) = self.waiting(node, slots, scope) {
            self.carry_surroundings(node, scope)?;
            return Ok(made);
        }
        let Some(What::Sequence(first)) = slots.first().map(|it| it.what.clone()) else {
            return Err(n.error("operand 0 is no sequence"));
        };
        if body.input.len() != slots.len() || first.len() > UNROLLED {
            return Err(n.error("its body takes other inputs, or the sequence is too long"));
        }
        let mut all: Vec<Vec<Slot>> = vec![Vec::new(); body.output.len()];
        for at in 0..first.len() {
            let mut given = Vec::with_capacity(slots.len());
            for slot in slots {
                given.push(match &slot.what {
                    What::Sequence(items) => items
                        .get(at)
                        .cloned()
                        .ok_or_else(|| n.error("its sequences have different lengths"))?,
                    _ => slot.clone(),
                });
            }
            let inputs = body.input.iter().map(|it| it.name.as_str()).zip(given).collect();
            let name = format!("{}/{at}", n.name);
            let made = self.inner(body, inputs, &name, &format!("{path}{at}."), scope)?;
            all.iter_mut().zip(made).for_each(|(all, one)| all.push(one));
        }
        let pending = all.iter().flatten().any(|it| matches!(it.what, What::Pending));
        if pending {
            let read: Vec<Slot> = slots.iter().chain(all.iter().flatten()).cloned().collect();
            read.iter().for_each(|it| self.carry(it));
        }
        Ok(named(node, scope, all.into_iter().map(sequence::of)))
    }

    /// What the graphs inside of a node read of the graphs around it, for later stretches.
    pub fn carry_surroundings(&mut self, node: &NodeProto, scope: &Scope) -> Result<(), Error> {
        let mut names = Vec::new();
        order::reads(node, &mut names);
        for name in names {
            if let Some(slot) = self.visible(scope, name)? {
                self.carry(&slot);
            }
        }
        Ok(())
    }

    /// A name of a graph inside of a node that stands for something outside.
    fn visible(&mut self, scope: &Scope, name: &str) -> Result<Option<Slot>, Error> {
        Ok(self.find(scope, name)?.filter(|it| !matches!(it.what, What::Gone)))
    }
}

pub fn graph<'b>(node: &'b NodeProto, n: &Node, name: &str) -> Result<&'b GraphProto, Error> {
    let graph = node.attribute.iter().find(|it| it.name == name).and_then(|it| it.g.as_deref());
    graph.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))
}

fn nodes_in(graph: &GraphProto) -> usize {
    let inside = |node: &NodeProto| -> usize {
        node.attribute.iter().filter_map(|it| it.g.as_deref()).map(nodes_in).sum()
    };
    graph.node.iter().map(|it| 1 + inside(it)).sum()
}

/// The type of what a loop without turns collects, if the body states it.
fn nothing(info: &ValueInfoProto) -> Option<Nothing> {
    let signature = super::signature(info, "output").ok()?;
    let inner = signature.dims.iter().map(|it| if let Dim::Fixed(size) = it { *size } else { 0 });
    let ty = Type { dtype: signature.dtype, shape: std::iter::once(0).chain(inner).collect() };
    Some(Nothing { ty, strings: super::form(info.r#type.as_ref()) == Form::Strings })
}

/// The name of a value of which nothing else is stated.
fn any(name: &str) -> Signature {
    Signature { name: name.to_string(), dtype: DType::F32, dims: Vec::new() }
}

fn row(to: &mut Convert, value: Value) -> Result<Value, Error> {
    let shape = to.emit.shape(value);
    let wide: Shape = std::iter::once(1).chain(shape.iter().copied()).collect();
    to.emit.reshape(value, wide)
}
