//! A program and what is known of its values to a stretch of it: nodes one by one, functions, known branches and short loops in place.
//!
//! A node whose conversion has to know the values of an operand, and one that only the host computes, end the stretch for all that
//! depends on them; the rest is imported. What such nodes read is made by the stretch.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Constant, Function, Program, domain, moved,
    node::{Arguments, Node},
    node_name, order,
    proto::{GraphProto, NodeProto},
    scope::{Home, Scope, Slot, What},
    table::{HostRule, Rule},
};
use crate::{
    bug,
    error::Error,
    graph::{Op, Output, Value},
    import::{
        emit::Emit,
        host::Datum,
        stretch::{Ask, Bound, Call, Key, Knowledge, Known, Stretch, Work, part_key},
        strings::Pool,
    },
    tensor::Tensor,
};

/// Functions in functions, branches in branches.
const MAX_DEPTH: usize = 32;
/// How many bytes what the host computes may take that is computed while importing.
const MAX_COMPUTED: u64 = 64 << 20;
/// Nodes after inlining: functions that call each other twice grow without bound.
const MAX_NODES: usize = 1 << 18;
/// Parts of sequences, of all that are made: one that holds another twice grows without bound.
const MAX_PARTS: usize = 1 << 20;
/// Bytes of constants that follow from others while importing.
const MAX_MADE: u64 = 1 << 28;

pub struct Convert<'a> {
    pub program: &'a Arc<Program>,
    pub emit: Emit,
    nodes: usize,
    parts: usize,
    known: &'a Knowledge,
    /// Inputs of the graph, by slot, and where each is.
    reads: Vec<(u32, Key)>,
    read: HashMap<Key, Value>,
    /// The keys of tensors that later stretches read.
    keys: HashMap<Value, Key>,
    makes: Vec<(Key, Value)>,
    literals: HashMap<Key, Tensor>,
    carried: HashMap<Key, Bound>,
    pub breaks: Breaks,
}

/// What ends a stretch.
#[derive(Clone, Default)]
pub struct Breaks {
    asks: Vec<Ask>,
    calls: Vec<Call>,
    pub first: Option<Error>,
}

pub fn convert(program: &Arc<Program>, known: &Knowledge) -> Result<Stretch, Error> {
    let mut to = Convert {
        program,
        emit: Emit::default(),
        nodes: 0,
        parts: 0,
        known,
        reads: Vec::new(),
        read: HashMap::new(),
        keys: HashMap::new(),
        makes: Vec::new(),
        literals: HashMap::new(),
        carried: HashMap::new(),
        breaks: Breaks::default(),
    };
    let home = Home::new(&program.nodes, program.inputs.iter().map(|it| it.name.as_str()));
    let mut scope = Scope {
        values: HashMap::new(),
        outer: None,
        home: &home,
        opsets: &program.opsets,
        arguments: &program.arguments,
        prefix: "",
        path: "",
        depth: 0,
    };
    for (input, key) in program.inputs.iter().zip(known.untouched.iter().flatten()) {
        let Some(Known::Type(ty)) = known.tensors.get(key) else { bug!("an input is no tensor") };
        to.emit.graph.set_origin(&*input.name);
        to.emit.graph.add_input(&input.name, ty.clone())?;
        let value = to.emit.graph.add(Op::Input { slot: to.reads.len() as u32 })?;
        to.reads.push((to.reads.len() as u32, key.clone()));
        to.read.insert(key.clone(), value);
        to.keys.insert(value, key.clone());
    }
    for (name, constant) in &program.constants {
        to.emit.graph.set_origin(&**name);
        let slot = Slot { key: scope.key(name), what: to.constant(constant) };
        scope.values.insert(name, slot);
    }
    let wanted: Vec<&str> = program.outputs.iter().map(|it| it.name.as_str()).collect();
    let slots = to.body(&program.nodes, &wanted, &mut scope)?;
    to.finish(&wanted, slots)
}

impl<'a> Convert<'a> {
    fn constant(&mut self, constant: &Constant) -> What {
        let value = self.emit.constant(constant.tensor.clone());
        if constant.strings { What::Strings(value) } else { What::Tensor(value) }
    }

    fn finish(mut self, wanted: &[&str], slots: Vec<Slot>) -> Result<Stretch, Error> {
        let whole = self.breaks.first.is_none();
        let mut outputs = None;
        if whole {
            let (mut all, mut bounds) = (Vec::new(), Vec::new());
            for (name, slot) in wanted.iter().zip(&slots) {
                bounds.push(self.output(name, slot, &mut all)?);
            }
            self.makes = all.iter().map(|(key, it): &(Key, Output)| (key.clone(), it.value)).collect();
            self.emit.graph.outputs = all.into_iter().map(|it| it.1).collect();
            self.carried.clear();
            outputs = Some(bounds);
        } else {
            for slot in &slots {
                self.carry(slot);
            }
            let output = |(key, value): &(Key, Value)| Output { name: key.to_string(), value: *value };
            self.emit.graph.outputs = self.makes.iter().map(output).collect();
        }
        let mut knowledge = self.known.clone();
        knowledge.untouched = None;
        let ty = |value| Known::Type(self.emit.graph.ty(value).clone());
        knowledge.tensors.extend(self.makes.iter().map(|(key, value)| (key.clone(), ty(*value))));
        knowledge.tensors.extend(self.literals.into_iter().map(|(key, it)| (key, Known::Literal(it))));
        let mut keeps: Vec<Key> = (self.carried.values().flat_map(Bound::leaves))
            .filter(|it| !matches!(knowledge.tensors.get(*it), Some(Known::Literal(_))))
            .cloned()
            .collect();
        keeps.sort_unstable();
        keeps.dedup();
        knowledge.bindings.extend(self.carried);
        // The rest is gone once this stretch ran.
        let kept = |key: &Key, known: &Known| match known {
            Known::Literal(_) => true,
            Known::Type(_) => keeps.binary_search(key).is_ok(),
        };
        knowledge.tensors.retain(|key, known| kept(key, known));

        let mut graph = self.emit.graph.into_rebuilt(|to, _, op| to.add(op))?;
        let mut reads = self.reads;
        if !whole || self.known.untouched.is_none() {
            let (less, kept) = graph.without_unread_inputs()?;
            reads.retain(|(slot, _)| kept.contains(slot));
            graph = less;
        }
        Ok(Stretch {
            program: self.program.clone(),
            graph,
            reads: reads.into_iter().map(|it| it.1).collect(),
            makes: self.makes.into_iter().map(|it| it.0).collect(),
            asks: self.breaks.asks,
            calls: self.breaks.calls,
            keeps,
            outputs,
            before: self.known.clone(),
            after: knowledge,
            stopped: self.breaks.first,
        })
    }

    /// An output of the model as outputs of the graph.
    fn output(&self, name: &str, slot: &Slot, all: &mut Vec<(Key, Output)>) -> Result<Bound, Error> {
        Ok(match &slot.what {
            What::Tensor(value) | What::Strings(value) => {
                let key: Key = format!("output {}", all.len()).into();
                all.push((key.clone(), Output { name: name.to_string(), value: *value }));
                if matches!(slot.what, What::Tensor(_)) { Bound::Tensor(key) } else { Bound::Strings(key) }
            }
            What::Sequence(slots) => {
                let each = slots.iter().enumerate();
                let each = each.map(|(at, it)| self.output(&format!("{name}[{at}]"), it, all));
                Bound::Sequence(each.collect::<Result<_, _>>()?)
            }
            What::Optional(None) => Bound::Optional(None),
            What::Optional(Some(slot)) => Bound::Optional(Some(Box::new(self.output(name, slot, all)?))),
            What::Absent | What::Pending | What::Gone => {
                return Err(Error::malformed(format!("output '{name}'"), "has no value"));
            }
        })
    }

    /// What the value consists of, each part of which is made by this stretch if it is not known already.
    fn bound(&mut self, slot: &Slot) -> Option<Bound> {
        Some(match &slot.what {
            What::Absent | What::Pending | What::Gone => return None,
            What::Tensor(value) => Bound::Tensor(self.tensor_key(&slot.key, *value)),
            What::Strings(value) => Bound::Strings(self.tensor_key(&slot.key, *value)),
            What::Sequence(all) => {
                Bound::Sequence(all.iter().map(|it| self.bound(it)).collect::<Option<_>>()?)
            }
            What::Optional(None) => Bound::Optional(None),
            What::Optional(Some(one)) => Bound::Optional(Some(Box::new(self.bound(one)?))),
        })
    }

    fn tensor_key(&mut self, key: &Key, value: Value) -> Key {
        if let Some(key) = self.keys.get(&value) {
            return key.clone();
        }
        self.keys.insert(value, key.clone());
        let literal = self.emit.graph.as_constant(value).cloned().or_else(|| self.emit.literal(value));
        match literal {
            Some(tensor) => drop(self.literals.insert(key.clone(), tensor)),
            None => self.makes.push((key.clone(), value)),
        }
        key.clone()
    }

    /// Later stretches read this value.
    pub fn carry(&mut self, slot: &Slot) {
        if !self.carried.contains_key(&slot.key)
            && let Some(bound) = self.bound(slot)
        {
            self.carried.insert(slot.key.clone(), bound);
        }
    }

    /// The value of a name; `None` where there is none.
    pub fn find(&mut self, scope: &Scope, name: &str) -> Result<Option<Slot>, Error> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            if let Some(slot) = scope.values.get(name) {
                return Ok(Some(slot.clone()));
            }
            let known = self.known;
            if !known.bindings.is_empty()
                && let Some(bound) = known.bindings.get(&scope.key(name))
            {
                return Ok(Some(Slot { key: scope.key(name), what: self.what(bound)? }));
            }
            at = scope.outer;
        }
        // What was imported once had its names checked.
        let gone = || Slot { key: scope.key(name), what: What::Gone };
        Ok(self.known.untouched.is_none().then(gone))
    }

    fn what(&mut self, bound: &Bound) -> Result<What, Error> {
        Ok(match bound {
            Bound::Tensor(key) => self.tensor(key)?.map_or(What::Gone, What::Tensor),
            Bound::Strings(key) => self.tensor(key)?.map_or(What::Gone, What::Strings),
            Bound::Sequence(all) => {
                let slot = |it: &Bound| Ok(Slot { key: self.slot_key(it), what: self.what(it)? });
                What::Sequence(all.iter().map(slot).collect::<Result<_, Error>>()?)
            }
            Bound::Optional(None) => What::Optional(None),
            Bound::Optional(Some(one)) => {
                let slot = Slot { key: self.slot_key(one), what: self.what(one)? };
                What::Optional(Some(Box::new(slot)))
            }
        })
    }

    /// A key of its own for a part of a value.
    fn slot_key(&self, bound: &Bound) -> Key {
        match bound {
            Bound::Tensor(key) | Bound::Strings(key) => key.clone(),
            other => format!("{other:?}").into(),
        }
    }

    /// None of a tensor that no stretch from now on was thought to read.
    fn tensor(&mut self, key: &Key) -> Result<Option<Value>, Error> {
        if let Some(value) = self.read.get(key) {
            return Ok(Some(*value));
        }
        let value = match self.known.tensors.get(key) {
            Some(Known::Literal(tensor)) => self.emit.constant(tensor.clone()),
            Some(Known::Type(ty)) => {
                let slot = self.emit.graph.inputs().len() as u32;
                let value = self.emit.graph.add_input(format!("value {}", self.reads.len()), ty.clone())?;
                self.reads.push((slot, key.clone()));
                value
            }
            None => return Ok(None),
        };
        self.read.insert(key.clone(), value);
        self.keys.entry(value).or_insert_with(|| key.clone());
        Ok(Some(value))
    }

    /// The values of `wanted`, made by those of `nodes` that they need.
    pub fn body<'b>(
        &mut self,
        nodes: &'b [NodeProto],
        wanted: &[&'b str],
        scope: &mut Scope<'b>,
    ) -> Result<Vec<Slot>, Error> {
        let known = self.known;
        let is_known = |scope: &Scope, name: &str| known.bindings.contains_key(&scope.key(name));
        let mut needed: HashSet<&str> = wanted.iter().copied().collect();
        let mut live = vec![false; nodes.len()];
        for (at, node) in nodes.iter().enumerate().rev() {
            let made = node.output.iter().filter(|it| needed.contains(it.as_str()));
            if made.into_iter().any(|it| !is_known(scope, it)) {
                live[at] = true;
                let mut names = Vec::new();
                order::reads(node, &mut names);
                needed.extend(names);
            }
        }
        for (at, node) in nodes.iter().enumerate().filter(|(at, _)| live[*at]) {
            self.nodes += 1;
            let name = format!("{}{}", scope.prefix, node_name(node, at));
            if self.nodes > MAX_NODES || self.emit.graph.len() > MAX_NODES {
                return Err(Error::malformed(format!("node '{name}'"), "the model unfolds without bound"));
            }
            self.emit.graph.set_origin(&*name);
            let made = self.node(node, at, &name, scope)?;
            self.bounded(&made, &name)?;
            for (at, output) in node.output.iter().enumerate().filter(|it| !it.1.is_empty()) {
                match made.get(at) {
                    // What it was made of may be gone.
                    _ if is_known(scope, output) => {}
                    Some(slot) => drop(scope.values.insert(output, slot.clone())),
                    None if !needed.contains(output.as_str()) => {}
                    None => {
                        let what = format!("output {at} ('{output}')");
                        return Err(Error::unsupported(&*node.op_type, name, what));
                    }
                }
            }
        }
        let mut slots = Vec::with_capacity(wanted.len());
        for name in wanted {
            let found = self.find(scope, name)?.filter(|it| !matches!(it.what, What::Absent));
            slots.push(
                found.ok_or_else(|| Error::malformed(format!("output '{name}'"), "is made by no node"))?,
            );
        }
        Ok(slots)
    }

    /// Whether what was made so far, `made` by the node `name` last, is little enough to go on.
    fn bounded(&mut self, made: &[Slot], name: &str) -> Result<(), Error> {
        self.parts += made.iter().map(|it| it.what.parts()).sum::<usize>();
        let at = || format!("node '{name}'");
        if self.parts > MAX_PARTS {
            let (need, have) = (self.parts as u64, MAX_PARTS as u64);
            return Err(Error::TooLarge { at: format!("{}: parts of sequences", at()), need, have });
        }
        match self.emit.made > MAX_MADE {
            true => {
                let at = format!("{}: bytes of constants that importing makes", at());
                Err(Error::TooLarge { at, need: self.emit.made, have: MAX_MADE })
            }
            false => Ok(()),
        }
    }

    /// `more` nodes were made for the node `name`, or are going to be.
    pub fn count(&mut self, more: usize, name: &str) -> Result<(), Error> {
        self.nodes = self.nodes.saturating_add(more);
        match self.nodes > MAX_NODES {
            true => Err(Error::malformed(format!("node '{name}'"), "the model unfolds without bound")),
            false => Ok(()),
        }
    }

    fn node(&mut self, node: &NodeProto, at: usize, name: &str, scope: &Scope) -> Result<Vec<Slot>, Error> {
        let domain = domain(&node.domain);
        let mut slots = Vec::with_capacity(node.input.len());
        for input in &node.input {
            slots.push(match input.is_empty() {
                true => Slot { key: "".into(), what: What::Absent },
                false => self.find(scope, input)?.ok_or_else(|| {
                    let what = format!("reads '{input}', which nothing makes");
                    Error::malformed(format!("node '{name}'"), what)
                })?,
            });
        }
        let path = format!("{}{at}.", scope.path);
        let key = (domain.to_string(), node.op_type.clone(), node.overload.clone());
        if let Some(function) = self.program.functions.get(&key) {
            return self.call(node, function, slots, name, &path, scope);
        }
        let opset = scope.opsets.get(domain).copied();
        let Some(opset) = opset else {
            let what =
                format!("its domain '{domain}' is not imported by the model, nor is it a function there");
            return Err(Error::unsupported(&*node.op_type, name, what));
        };
        let value = |slot: &Slot| match slot.what {
            What::Tensor(value) | What::Strings(value) => Some(value),
            _ => None,
        };
        let n = Node {
            name,
            op: &node.op_type,
            domain,
            opset,
            inputs: slots.iter().map(value).collect(),
            strings: slots.iter().map(|it| matches!(it.what, What::Strings(_))).collect(),
            makes_strings: Cell::new(false),
            pool: &self.program.strings,
            most: MAX_COMPUTED,
            outputs: &node.output,
            attributes: &node.attribute,
            arguments: scope.arguments,
            asked: Cell::new(0),
            unknown: Cell::new(None),
        };
        if (domain, &*node.op_type) == ("ai.onnx.preview.training", "Gradient") {
            return self.gradient(node, &n, &slots, &path, scope);
        }
        if matches!(domain, "" | "ai.onnx.preview")
            && let Some(made) = self.control(node, &n, &slots, &path, scope)?
        {
            return Ok(made);
        }
        let rule = Rule::find(domain, &node.op_type);
        let rule = rule.ok_or_else(|| n.unsupported("wgfuse does not know this operator"))?;
        let rule = rule.of_strings(&n);
        if let Some(made) = self.waiting(node, &slots, scope) {
            return Ok(made);
        }
        let moves = moved::moves(&n, rule)?;
        let made = match rule {
            Rule::Host(host) | Rule::Text(host) => {
                let strings = matches!(rule, Rule::Text(_));
                return self.host(host, strings, node, &n, &slots, scope);
            }
            Rule::Whole(convert) => convert(&mut self.emit, &n, &slots),
            rule => {
                match slots.iter().position(|it| matches!(it.what, What::Sequence(_) | What::Optional(_))) {
                    Some(at) => {
                        Err(n.error(format!("operand {at} is a sequence or an optional value, not a tensor")))
                    }
                    None => rule.convert(&mut self.emit, &n).map(|made| {
                        let strings = moves || n.makes_strings.get();
                        let what = if strings { What::Strings } else { What::Tensor };
                        made.into_iter().map(what).collect()
                    }),
                }
            }
        };
        match (made, n.unknown.get()) {
            (Ok(made), _) => {
                n.all_asked()?;
                Ok(named(node, scope, made))
            }
            (Err(error), Some(at)) => self.ask(node, &n, at, &slots, error, false, scope),
            (Err(error), None) => Err(error),
        }
    }

    /// The results where operands are not there: they will be later, or are not needed any more.
    pub fn waiting(&mut self, node: &NodeProto, slots: &[Slot], scope: &Scope) -> Option<Vec<Slot>> {
        if slots.iter().any(|it| matches!(it.what, What::Gone)) {
            return Some(named(node, scope, node.output.iter().map(|_| What::Gone)));
        }
        if slots.iter().any(|it| matches!(it.what, What::Pending)) {
            return Some(self.pending(node, slots, scope));
        }
        None
    }

    /// The results of a node that a later stretch converts, which reads these.
    pub fn pending(&mut self, node: &NodeProto, slots: &[Slot], scope: &Scope) -> Vec<Slot> {
        slots.iter().for_each(|it| self.carry(it));
        named(node, scope, node.output.iter().map(|_| What::Pending))
    }

    /// Ends the stretch for what depends on a node that has to know the values of operand `at`. Conversions ask for one operand after
    /// the other; those behind it that look alike are asked for with it.
    #[expect(clippy::too_many_arguments, reason = "a node, and what was found out about it")]
    pub fn ask(
        &mut self,
        node: &NodeProto,
        n: &Node,
        at: usize,
        slots: &[Slot],
        error: Error,
        control: bool,
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        if n.is_strings(at) {
            return Err(error);
        }
        for (number, slot) in slots.iter().enumerate().skip(at) {
            let What::Tensor(value) = slot.what else { continue };
            let (ty, first) = (self.emit.graph.ty(value), n.inputs[at].map(|it| self.emit.dtype(it)));
            let alike = ty.shape.rank() <= 1 && (!ty.dtype.is_float() || Some(ty.dtype) == first);
            if number > at && (!alike || control) || self.emit.literal(value).is_some() {
                continue;
            }
            if !Emit::may_be_literal(ty) || self.emit.graph.as_constant(value).is_some() {
                return Err(error);
            }
            self.carry(slot);
            let key = self.tensor_key(&slot.key, value);
            if !self.breaks.asks.iter().any(|it| it.key == key) {
                let bytes = self.bytes(slot);
                self.breaks.asks.push(Ask { key, node: n.name.into(), control, bytes });
            }
        }
        self.breaks.first.get_or_insert(error);
        Ok(self.pending(node, slots, scope))
    }

    /// What the host computes: now if all operands are known, else after this stretch.
    fn host(
        &mut self,
        host: HostRule,
        strings: bool,
        node: &NodeProto,
        n: &Node,
        slots: &[Slot],
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        let known = slots.iter().map(|it| self.datum(it)).collect::<Option<Vec<_>>>();
        let known = known.map(|it| host(n, &it)).transpose();
        let made = match known {
            // What is too large for now may not be for a run.
            Err(Error::MemoryLimit { .. }) => None,
            other => other?,
        };
        if let Some(made) = made {
            n.all_asked()?;
            // Strings that the file has not are a run's.
            let key = |at: usize| scope.key(node.output.get(at).map_or("", String::as_str));
            let whats = made.into_iter().enumerate().map(|(at, it)| self.of_datum(&key(at), it));
            if let Some(whats) = whats.collect::<Option<Vec<What>>>() {
                return Ok(named(node, scope, whats));
            }
        }
        let error = match strings {
            true => n.unsupported("graphs know no strings"),
            false => n.unsupported("the shape of its result follows from values, not from shapes"),
        };
        let (node_, name, opset) = (node.clone(), n.name.to_string(), n.opset);
        let arguments: Arguments = scope.arguments.clone();
        let pool: Arc<Pool> = self.program.strings.clone();
        let work = move |operands: &[Option<Datum>], most: u64| {
            let n = Node {
                name: &name,
                op: &node_.op_type,
                domain: domain(&node_.domain),
                opset,
                inputs: Vec::new(),
                strings: Vec::new(),
                makes_strings: Cell::new(false),
                pool: &pool,
                most,
                outputs: &node_.output,
                attributes: &node_.attribute,
                arguments: &arguments,
                asked: Cell::new(0),
                unknown: Cell::new(None),
            };
            let made = host(&n, operands)?;
            n.all_asked()?;
            Ok(made)
        };
        self.later(node, n, slots, (Work::Host(Arc::new(work)), strings), error, scope)
    }

    /// Ends the stretch for what depends on something that is done on the host after it.
    pub fn later(
        &mut self,
        node: &NodeProto,
        n: &Node,
        slots: &[Slot],
        (work, strings): (Work, bool),
        error: Error,
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        let operands = slots.iter().map(|it| self.bound(it)).collect();
        self.breaks.calls.push(Call {
            node: n.name.into(),
            op: node.op_type.clone(),
            operands,
            results: node.output.iter().map(|it| scope.key(it)).collect(),
            work,
            strings,
            bytes: slots.iter().map(|it| self.bytes(it)).sum(),
        });
        self.breaks.first.get_or_insert(error);
        Ok(named(node, scope, node.output.iter().map(|_| What::Pending)))
    }

    /// How large a value is that is not known now.
    fn bytes(&self, slot: &Slot) -> u64 {
        match &slot.what {
            What::Tensor(value) | What::Strings(value) if self.emit.literal(*value).is_some() => 0,
            What::Tensor(value) | What::Strings(value) => self.emit.graph.ty(*value).bytes() as u64,
            What::Sequence(all) => all.iter().map(|it| self.bytes(it)).sum(),
            What::Optional(one) => one.iter().map(|it| self.bytes(it)).sum(),
            What::Absent | What::Pending | What::Gone => 0,
        }
    }

    /// The value of an operand if it is known now.
    fn datum(&self, slot: &Slot) -> Option<Option<Datum>> {
        Some(Some(match &slot.what {
            What::Absent => return Some(None),
            What::Pending | What::Gone => return None,
            What::Tensor(value) => Datum::Tensor(self.emit.literal(*value)?),
            What::Strings(value) => {
                Datum::Strings(self.program.strings.strings(&self.emit.literal(*value)?)?)
            }
            What::Sequence(all) => {
                Datum::Sequence(all.iter().map(|it| self.datum(it)?).collect::<Option<_>>()?)
            }
            What::Optional(None) => Datum::Optional(None),
            What::Optional(Some(one)) => Datum::Optional(Some(Box::new(self.datum(one)??))),
        }))
    }

    /// `None` of strings that the file has not.
    fn of_datum(&mut self, key: &Key, datum: Datum) -> Option<What> {
        Some(match datum {
            Datum::Tensor(tensor) => What::Tensor(self.emit.constant(tensor)),
            Datum::Strings(strings) => {
                let numbers = self.program.strings.numbers(&strings)?;
                What::Strings(self.emit.constant(numbers))
            }
            Datum::Sequence(all) => {
                let slot = |(at, it)| {
                    let key = part_key(key, at);
                    Some(Slot { what: self.of_datum(&key, it)?, key })
                };
                What::Sequence(all.into_iter().enumerate().map(slot).collect::<Option<_>>()?)
            }
            Datum::Optional(None) => What::Optional(None),
            Datum::Optional(Some(one)) => {
                let slot = Slot { what: self.of_datum(key, *one)?, key: key.clone() };
                What::Optional(Some(Box::new(slot)))
            }
        })
    }

    /// The values of a graph inside of a node, with `inputs` by name.
    pub fn inner<'b>(
        &mut self,
        graph: &'b GraphProto,
        inputs: Vec<(&'b str, Slot)>,
        name: &str,
        path: &str,
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        let nodes = order::sorted(graph.node.clone(), name)?;
        let depth = deeper(scope, name)?;
        let prefix = format!("{name}/");
        let home = Home::new(&nodes, inputs.iter().map(|it| it.0));
        let mut inner = Scope {
            values: HashMap::new(),
            outer: Some(scope),
            home: &home,
            opsets: scope.opsets,
            arguments: scope.arguments,
            prefix: &prefix,
            path,
            depth,
        };
        let mut names: HashSet<&str> = HashSet::new();
        for proto in &graph.initializer {
            let at = format!("initialiser '{}'", proto.name);
            let constant = super::constant(proto, &at, &|_| None, &self.program.strings)?;
            let slot = Slot { key: inner.key(&proto.name), what: self.constant(&constant) };
            inner.values.insert(&proto.name, slot);
            names.insert(&proto.name);
        }
        for (name, slot) in inputs {
            names.insert(name);
            inner.values.insert(name, slot);
        }
        super::made_once(&graph.node, names)?;
        let wanted: Vec<&str> = graph.output.iter().map(|it| it.name.as_str()).collect();
        self.body(&nodes, &wanted, &mut inner)
    }

    fn call(
        &mut self,
        node: &NodeProto,
        function: &Function,
        inputs: Vec<Slot>,
        name: &str,
        path: &str,
        scope: &Scope,
    ) -> Result<Vec<Slot>, Error> {
        let proto = &function.proto;
        if inputs.len() > proto.input.len() {
            let what = format!("function '{}' takes {} operands", proto.name, proto.input.len());
            return Err(Error::node(name, format!("{what}, not {}", inputs.len())));
        }
        let mut arguments: Arguments =
            proto.attribute_proto.iter().map(|it| (it.name.clone(), it.clone())).collect();
        for attribute in &node.attribute {
            match attribute.ref_attr_name.is_empty() {
                true => drop(arguments.insert(attribute.name.clone(), attribute.clone())),
                false => {
                    if let Some(outer) = scope.arguments.get(&attribute.ref_attr_name) {
                        arguments.insert(attribute.name.clone(), outer.clone());
                    }
                }
            }
        }
        let depth = deeper(scope, name)?;
        let prefix = format!("{name}/");
        let home = Home::new(&proto.node, proto.input.iter().map(String::as_str));
        let mut inner = Scope {
            values: HashMap::new(),
            outer: None,
            home: &home,
            opsets: &function.opsets,
            arguments: &arguments,
            prefix: &prefix,
            path,
            depth,
        };
        let absent = || Slot { key: "".into(), what: What::Absent };
        let given = inputs.into_iter().chain(std::iter::repeat_with(absent));
        inner.values.extend(proto.input.iter().map(String::as_str).zip(given));
        super::made_once(&proto.node, proto.input.iter().map(String::as_str).collect())?;
        let wanted: Vec<&str> = proto.output.iter().map(String::as_str).collect();
        self.body(&proto.node, &wanted, &mut inner)
    }
}

/// The results of a node, each with the key of its name.
pub fn named(node: &NodeProto, scope: &Scope, made: impl IntoIterator<Item = What>) -> Vec<Slot> {
    let key = |at: usize| scope.key(node.output.get(at).map_or("", String::as_str));
    let slot = |(at, what): (usize, What)| {
        let key = key(at);
        Slot { what: what.keyed(&key), key }
    };
    made.into_iter().enumerate().map(slot).collect()
}

pub fn deeper(scope: &Scope, name: &str) -> Result<usize, Error> {
    match scope.depth < MAX_DEPTH {
        true => Ok(scope.depth + 1),
        false => Err(Error::node(name, format!("functions or branches are nested deeper than {MAX_DEPTH}"))),
    }
}
