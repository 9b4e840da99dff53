//! The smallest graph, shapes and values for which the outcome is what it was.
//!
//! In order: one output; the earliest node that is wrong as an output; the latest nodes that can be inputs instead, with the values that they
//! have without optimisation; smaller sizes; plainer values. Each step is tried, and kept if what was wrong still is
//! (Zeller, Hildebrandt 2002: what is left cannot lose any part by itself).

use slotmap::SecondaryMap;
use wgfuse_compiler::{
    arguments::Arguments,
    graph::{Op, Output, Value},
    passes::plain,
    scalar::Scalar,
    tensor::Tensor,
};

use super::{
    Outcome, Subject,
    shrink::{Data, Edit},
    told,
};
use crate::error::Result;

/// What is left.
#[derive(Clone, Debug)]
pub struct Minimised {
    pub arguments: Arguments,
    pub outcome: Outcome,
    /// Smaller versions that were compiled and run.
    pub tried: usize,
}

struct Search<'a> {
    subject: Subject,
    whole: Outcome,
    outcome: Outcome,
    tried: usize,
    most: usize,
    say: &'a mut dyn FnMut(&str),
}

/// Tries at most `most` smaller versions. What agrees from the start is given back as it is.
pub fn minimise(subject: &Subject, most: usize, say: &mut dyn FnMut(&str)) -> Result<Minimised> {
    let whole = outcome(subject, None)?;
    let mut search = Search { subject: subject.clone(), outcome: whole.clone(), whole, tried: 1, most, say };
    if search.whole.is_fault() {
        search.one_output()?;
        search.earliest_output()?;
        search.latest_inputs()?;
        search.sizes()?;
        search.values()?;
        // Smaller sizes may have made more nodes unnecessary.
        search.latest_inputs()?;
    }
    let Search { subject, outcome, tried, .. } = search;
    Ok(Minimised { arguments: subject.arguments, outcome, tried })
}

/// A failure needs nothing to be compared with.
fn outcome(subject: &Subject, whole: Option<&Outcome>) -> Result<Outcome> {
    if whole.is_none_or(|it| matches!(it, Outcome::Failed(_))) {
        let alone = subject.outcome(subject.arguments.options.clone(), &[])?;
        if whole.is_some() || matches!(alone, Outcome::Failed(_)) {
            return Ok(alone);
        }
    }
    match subject.expected() {
        Ok(expected) => subject.outcome(subject.arguments.options.clone(), &expected),
        // Then there is nothing that it could differ from.
        Err(_) if whole.is_some() => Ok(Outcome::Same),
        Err(error) => Err(error),
    }
}

impl Search<'_> {
    fn arguments(&self) -> &Arguments {
        &self.subject.arguments
    }

    /// Whether the candidate is as wrong as the whole; then it is what is left.
    fn accepts(&mut self, edit: &Edit<'_>) -> Result<bool> {
        if self.tried >= self.most {
            return Ok(false);
        }
        let Some(arguments) = edit.applied(self.arguments()) else { return Ok(false) };
        self.tried += 1;
        let smaller = Subject { arguments, ..self.subject.clone() };
        let outcome = outcome(&smaller, Some(&self.whole))?;
        let accepted = outcome.is_like(&self.whole);
        if accepted {
            let nodes = smaller.arguments.graph.len();
            (self.say)(&format!("{nodes} nodes: {}", told(&outcome)));
            (self.subject, self.outcome) = (smaller, outcome);
        }
        Ok(accepted)
    }

    fn edit(&self) -> Edit<'static> {
        Edit::none(&self.arguments().graph)
    }

    fn one_output(&mut self) -> Result<()> {
        let outputs = self.arguments().graph.outputs.clone();
        // That which was seen to be wrong first.
        let first = match &self.whole {
            Outcome::Differs { output, .. } => outputs.iter().position(|it| it.name == *output).unwrap_or(0),
            Outcome::Same | Outcome::Failed(_) => 0,
        };
        let order = std::iter::once(first).chain((0..outputs.len()).filter(|it| *it != first));
        for number in order.take(if outputs.len() > 1 { outputs.len() } else { 0 }) {
            if self.accepts(&Edit { outputs: vec![outputs[number].clone()], ..self.edit() })? {
                break;
            }
        }
        Ok(())
    }

    /// Nodes that compute something, operands first.
    fn computed(&self) -> Vec<Value> {
        let is_data = |op: &Op| matches!(op, Op::Input { .. } | Op::Constant(_));
        self.arguments().graph.nodes().filter(|it| !is_data(&it.1.op)).map(|it| it.0).collect()
    }

    fn earliest_output(&mut self) -> Result<()> {
        let name = self.arguments().graph.outputs.first().map_or_else(String::new, |it| it.name.clone());
        let all = self.computed();
        // By halves: what an early node has wrong, later ones mostly have too.
        let (mut right, mut wrong) = (0, all.len());
        while right < wrong {
            let middle = right.midpoint(wrong);
            // Numbers of nodes change where a candidate is kept, and those before keep their order.
            let Some(&value) = self.computed().get(middle) else { break };
            match self
                .accepts(&Edit { outputs: vec![Output { name: name.clone(), value }], ..self.edit() })?
            {
                true => wrong = middle.min(self.computed().len().saturating_sub(1)),
                false => right = middle + 1,
            }
        }
        // Where that is not so, one by one towards the inputs.
        loop {
            let graph = &self.arguments().graph;
            let Some(last) = graph.outputs.first().map(|it| it.value) else { return Ok(()) };
            let operands = graph.op(last).operands();
            let mut moved = false;
            for value in operands {
                if self
                    .accepts(&Edit { outputs: vec![Output { name: name.clone(), value }], ..self.edit() })?
                {
                    moved = true;
                    break;
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// The values of these nodes without optimisation, where they can be had.
    fn values_of(&self, nodes: &[Value]) -> Vec<Option<Tensor>> {
        let outputs = nodes.iter().enumerate();
        let outputs = outputs.map(|(at, it)| Output { name: format!("{at}"), value: *it }).collect();
        let made = Edit { outputs, ..self.edit() }.applied(self.arguments()).and_then(|arguments| {
            let whole = Subject { arguments, ..self.subject.clone() };
            let options = plain(&whole.arguments.options);
            whole.run_on(&whole.device, options, None).ok()
        });
        match made {
            Some(made) => made.into_iter().map(|it| Some(it.1)).collect(),
            None => vec![None; nodes.len()],
        }
    }

    fn latest_inputs(&mut self) -> Result<()> {
        let inner = |it: &Self| {
            let ends: Vec<Value> = it.arguments().graph.outputs.iter().map(|it| it.value).collect();
            it.computed().into_iter().filter(|it| !ends.contains(it)).collect::<Vec<_>>()
        };
        let nodes = inner(self);
        let values = self.values_of(&nodes);
        // Everything up to a node, as late a one as possible.
        let (mut left, mut most) = (0, nodes.len());
        while left < most {
            let count = left + (most - left).div_ceil(2);
            let cuts = nodes[..count].iter().copied().zip(values[..count].iter().cloned()).collect();
            let before = self.arguments().clone();
            match self.accepts(&Edit { cuts, ..self.edit() })? {
                true => {
                    // The next candidate is made from the same graph: nodes have other names now.
                    if count == most {
                        break;
                    }
                    left = count;
                    let kept = self.arguments().clone();
                    self.subject.arguments = before;
                    let more = self.latest_from(&nodes, &values, left, most)?;
                    if !more {
                        self.subject.arguments = kept;
                    }
                    break;
                }
                false => most = count - 1,
            }
        }
        // One by one what is left, late ones first.
        let mut at = inner(self).len();
        while at > 0 {
            at -= 1;
            let nodes = inner(self);
            let Some(&node) = nodes.get(at) else { continue };
            let value = self.values_of(&[node]).pop().flatten();
            let mut cuts = SecondaryMap::new();
            cuts.insert(node, value);
            if self.accepts(&Edit { cuts, ..self.edit() })? {
                at = at.min(inner(self).len());
            }
        }
        Ok(())
    }

    /// More than `left` and at most `most` of the nodes; whether any such cut was kept.
    fn latest_from(
        &mut self,
        nodes: &[Value],
        values: &[Option<Tensor>],
        mut left: usize,
        mut most: usize,
    ) -> Result<bool> {
        let whole = self.arguments().clone();
        let mut best = None;
        while left < most {
            let count = left + (most - left).div_ceil(2);
            let cuts = nodes[..count].iter().copied().zip(values[..count].iter().cloned()).collect();
            self.subject.arguments = whole.clone();
            match self.accepts(&Edit { cuts, ..self.edit() })? {
                true => {
                    best = Some(self.arguments().clone());
                    left = count;
                }
                false => most = count - 1,
            }
        }
        let found = best.is_some();
        if let Some(best) = best {
            self.subject.arguments = best;
        }
        Ok(found)
    }

    fn sizes(&mut self) -> Result<()> {
        let sizes = |it: &Self| {
            let graph = &it.arguments().graph;
            let mut all: Vec<usize> =
                graph.nodes().flat_map(|it| it.1.ty.shape.to_vec()).filter(|it| *it > 1).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        for from in sizes(self).into_iter().rev() {
            // The smallest that is wrong, of a few.
            let mut tried: Vec<usize> = vec![1, 2, 3, 4, 8, 16];
            tried.extend([from / 8, from / 4, from / 2]);
            tried.retain(|it| *it > 0 && *it < from);
            tried.sort_unstable();
            tried.dedup();
            for to in tried {
                if self.accepts(&Edit { size: Some((from, to)), ..self.edit() })? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn values(&mut self) -> Result<()> {
        let all_of = |tensor: &Tensor, value: f64| {
            let one = Scalar::of(tensor.dtype(), value);
            Tensor::from_scalars(tensor.ty().clone(), (0..tensor.shape().count()).map(|_| one))
        };
        let rounded = |tensor: &Tensor| {
            let dtype = tensor.dtype();
            let round = |it: Scalar| match it {
                Scalar::Float(it) if it.is_finite() => Scalar::of(dtype, (it * 4.0).round() / 4.0),
                other => other,
            };
            Tensor::from_scalars(tensor.ty().clone(), tensor.scalars().map(round))
        };
        let plainer: [&dyn Fn(&Tensor) -> Tensor; 3] =
            [&|it| all_of(it, 0.0), &|it| all_of(it, 1.0), &rounded];
        let all = |it: &Self| {
            let graph = &it.arguments().graph;
            let constants = graph.nodes().filter(|it| matches!(it.1.op, Op::Constant(_)));
            let constants = constants.map(|it| Data::Constant(it.0));
            (0..graph.inputs().len()).map(Data::Input).chain(constants).collect::<Vec<_>>()
        };
        let mut at = 0;
        while let Some(&data) = all(self).get(at) {
            let graph = &self.arguments().graph;
            let now = match data {
                Data::Input(slot) => self.arguments().examples[slot].value.clone(),
                Data::Constant(value) => graph.as_constant(value).cloned(),
            };
            for plain in plainer {
                let Some(now) = &now else { break };
                let change =
                    |of: Data, tensor: &Tensor| if of == data { plain(tensor) } else { tensor.clone() };
                // What is plain already is as plain as it gets.
                if plain(now) == *now || self.accepts(&Edit { values: &change, ..self.edit() })? {
                    break;
                }
            }
            at += 1;
        }
        Ok(())
    }
}
