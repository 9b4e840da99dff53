//! Searches with several results: found in a whole graph, replaced all at once.
//!
//! The new graph is in the order of the old one as far as what replaces a match, which needs all inputs of the match, allows.

use std::borrow::Cow;

use slotmap::SecondaryMap;

use super::{
    Around, Found, Pattern,
    matcher::{Form, Matcher},
};
use crate::{
    error::Error,
    graph::{Graph, Op, Output, Value},
    passes::rewrite::{Applied, Ledger, Rewrite},
    shape::Type,
};

/// Finds what another result of a search stands for, if the search up to here did not: among the users of what its operands
/// stand for.
pub fn result(
    matcher: &mut Matcher,
    form: &Form,
    graph: &Graph,
    result: Value,
    users: Option<&SecondaryMap<Value, Vec<Value>>>,
) -> bool {
    if matcher.bound().get(result).is_some() {
        return true;
    }
    let Some(users) = users else { return false };
    let mut tried = 0;
    let all = candidates(matcher, form, graph, result, users, &mut tried);
    all.into_iter().any(|it| matcher.finds(&[(result, it)]))
}

/// Most nodes that are looked at for one result.
const TRIED: usize = 1024;

/// Nodes that may be what `pattern` stands for, because one of its operands is found or may be.
fn candidates(
    matcher: &Matcher,
    form: &Form,
    graph: &Graph,
    pattern: Value,
    users: &SecondaryMap<Value, Vec<Value>>,
    tried: &mut usize,
) -> Vec<Value> {
    if let Some(found) = matcher.bound().get(pattern) {
        return vec![found];
    }
    let op = form.graph.op(pattern);
    for operand in op.operands() {
        if form.is_uniform(operand) {
            continue;
        }
        let below = candidates(matcher, form, graph, operand, users, tried);
        let mut all = Vec::new();
        for user in below.iter().filter_map(|it| users.get(*it)).flatten() {
            *tried += 1;
            if graph.op(*user).name() == op.name() && !all.contains(user) && *tried < TRIED {
                all.push(*user);
            }
        }
        if !all.is_empty() {
            return all;
        }
    }
    Vec::new()
}

/// The graph with every match of `pattern` replaced that shares nothing with one before it.
pub fn replace_all(
    pattern: &Pattern,
    graph: Graph,
    pass: Cow<'static, str>,
    ledger: &mut Ledger,
) -> Result<Graph, Error> {
    let graph = graph.into_rebuilt(|to, _, op| to.add(op))?;
    let mut users: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
    let mut uses: SecondaryMap<Value, u32> = SecondaryMap::new();
    let mut used = |it: Value| *uses.entry(it).expect("never removed").or_insert(0) += 1;
    for (value, node) in graph.nodes() {
        for operand in node.op.operands() {
            used(operand);
            users.entry(operand).expect("never removed").or_default().push(value);
        }
    }
    graph.outputs.iter().for_each(|it| used(it.value));
    let uses = |it: Value| uses.get(it).copied().unwrap_or(0);

    let mut found: Vec<Found> = Vec::new();
    let mut taken: SecondaryMap<Value, ()> = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        if !ledger.is_open() {
            break;
        }
        for form in pattern.forms.iter().filter(|it| it.graph.op(it.root()).name() == node.op.name()) {
            ledger.attempts += 1;
            let mut around = Around { uses: &uses, users: Some(&users), steps: 0 };
            let here = pattern.find(form, &graph, value, &mut around);
            ledger.steps += around.steps;
            let Ok(here) = here else { continue };
            let own = || here.inner.iter().chain(&here.results);
            if own().any(|it| taken.contains_key(*it)) || reaches(&graph, &here.inputs, &here.results) {
                continue;
            }
            taken.extend(own().map(|it| (*it, ())));
            ledger.applied.push(Applied {
                pass: pass.clone(),
                rule: pattern.name(),
                at: node.origin.clone(),
            });
            found.push(here);
            break;
        }
    }
    // Two matches may each need what the other gives.
    loop {
        match rebuilt(pattern, &graph, &found)? {
            Ok(made) => return made.into_rebuilt(|to, _, op| to.add(op)),
            Err(in_circle) => {
                found.remove(in_circle);
                let at = ledger.applied.len() - found.len() - 1 + in_circle;
                ledger.applied.remove(at);
            }
        }
    }
}

/// Whether one of `from` depends on one of `targets`.
fn reaches(graph: &Graph, from: &[Value], targets: &[Value]) -> bool {
    let mut seen: SecondaryMap<Value, ()> = SecondaryMap::new();
    let mut open = from.to_vec();
    while let Some(value) = open.pop() {
        if targets.contains(&value) {
            return true;
        }
        if seen.insert(value, ()).is_none() {
            open.extend(graph.op(value).operands());
        }
    }
    false
}

/// The graph with these matches replaced, or the number of one that needs its own results.
fn rebuilt(pattern: &Pattern, from: &Graph, found: &[Found]) -> Result<Result<Graph, usize>, Error> {
    let mut to = Graph::new();
    for input in from.inputs() {
        to.add_input(&*input.name, input.ty.clone())?;
    }
    let mut result_of: SecondaryMap<Value, usize> = SecondaryMap::new();
    for (number, it) in found.iter().enumerate() {
        result_of.extend(it.results.iter().map(|it| (*it, number)));
    }
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::new();
    let mut waiting: SecondaryMap<Value, ()> = SecondaryMap::new();
    for (value, _) in from.nodes() {
        let mut open = vec![value];
        while let Some(&value) = open.last() {
            if moved.contains_key(value) {
                open.pop();
                continue;
            }
            let here = result_of.get(value).copied();
            let op = from.op(value);
            let needs: Vec<Value> = match here {
                Some(number) => found[number].inputs.clone(),
                None => op.operands().to_vec(),
            };
            let missing: Vec<Value> = needs.iter().copied().filter(|it| !moved.contains_key(*it)).collect();
            if !missing.is_empty() {
                if waiting.insert(value, ()).is_some() {
                    // Only matches make circles.
                    let circle = open.iter().rev().find_map(|it| result_of.get(*it).copied());
                    return Ok(Err(circle.expect("a graph without matches has no circle")));
                }
                open.extend(missing);
                continue;
            }
            to.set_origin(from.node(value).origin.clone());
            match here {
                Some(number) => {
                    let it = &found[number];
                    let types: Vec<Type> = it.inputs.iter().map(|it| from.ty(*it).clone()).collect();
                    let results: Vec<Type> = it.results.iter().map(|it| from.ty(*it).clone()).collect();
                    let inputs: Vec<Value> = it.inputs.iter().map(|it| moved[*it]).collect();
                    let made = pattern.replace(&mut to, &types, &results, &inputs, &it.numbers)?;
                    moved.extend(it.results.iter().copied().zip(made));
                }
                None => {
                    let new = match op {
                        Op::Constant(id) => to.add_constant(from.constant(*id).clone()),
                        op => to.add(op.clone().map_operands(|it| moved[it]))?,
                    };
                    moved.insert(value, new);
                }
            }
            open.pop();
        }
    }
    to.outputs =
        (from.outputs.iter()).map(|it| Output { name: it.name.clone(), value: moved[it.value] }).collect();
    to.states.clone_from(&from.states);
    Ok(Ok(to))
}
