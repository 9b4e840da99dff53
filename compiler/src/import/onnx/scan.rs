//! Scans: loops whose turns read slices of some operands, and whose results are turned as they are wanted.

use super::{
    control::{Made, graph},
    convert::{Convert, named},
    node::Node,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, attribute},
    scope::{Scope, Slot, What},
};
use crate::{
    error::Error,
    graph::{Op, PadMode, Places, Value},
    shape::Shape,
};

/// The most elements of a batch of scans.
const MAX_BATCH: usize = 1024;

impl Convert<'_> {
    pub fn scan(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        match n.opset < 9 {
            true => self.scans(node, n, slots, path, scope),
            false => self.scan_once(node, n, slots, path, scope),
        }
    }

    fn scan_once(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        let body = graph(node, n, "body")?;
        let sliced = n.size(n.int("num_scan_inputs", 0)?)?;
        let states = slots.len().checked_sub(sliced).filter(|_| sliced > 0);
        let states =
            states.ok_or_else(|| n.error("attribute 'num_scan_inputs' does not fit its operands"))?;
        let made = body.output.len().checked_sub(states);
        let made = made.ok_or_else(|| n.error("its body gives less than the states that it is given"))?;
        if body.input.len() != slots.len() {
            return Err(n.error(format!("its body takes {} inputs of {}", body.input.len(), slots.len())));
        }
        let list = |name: &str, len: usize| -> Result<Vec<i64>, Error> {
            let list = n.ints(name)?.map_or_else(|| vec![0; len], <[i64]>::to_vec);
            match list.len() == len {
                true => Ok(list),
                false => Err(n.error(format!("attribute '{name}' has {} numbers, not {len}", list.len()))),
            }
        };
        let (axes, backwards) = (list("scan_input_axes", sliced)?, list("scan_input_directions", sliced)?);
        let (out_axes, out_backwards) =
            (list("scan_output_axes", made)?, list("scan_output_directions", made)?);
        if let Some(made) = self.waiting(node, slots, scope) {
            self.carry_surroundings(node, scope)?;
            return Ok(made);
        }
        let mut turns = None;
        for (slot, &axis) in slots[states..].iter().zip(&axes) {
            let (What::Tensor(value) | What::Strings(value)) = slot.what else {
                return Err(n.error("scans something that is no tensor"));
            };
            let shape = self.emit.shape(value);
            let size = shape[n.axis(axis, shape.rank())?];
            if turns.is_some_and(|it| it != size) {
                return Err(n.error(format!("scans {} and {size} slices", turns.unwrap_or(0))));
            }
            turns = Some(size);
        }
        let turns = turns.unwrap_or(0) as i64;
        // A node's own names hold no tabs but by malice, which `made_once` finds.
        let own = |what: &str, at: usize| format!("\t{what} {at}");
        let mut inner = GraphProto { initializer: body.initializer.clone(), ..Default::default() };
        inner.input = vec![value_info("\tturn"), value_info("\ton")];
        inner.input.extend(body.input[..states].iter().cloned());
        let ints = |name: String, values: &[i64], dims: &[i64]| TensorProto {
            name,
            dims: dims.to_vec(),
            data_type: 7,
            int64_data: values.to_vec(),
            ..Default::default()
        };
        inner.initializer.push(ints("\tlast".into(), &[turns - 1], &[]));
        inner.node.push(plain("Sub", &["\tlast", "\tturn"], "\tback", &[]));
        for at in 0..sliced {
            let from = own("sliced", at);
            let index = if backwards[at] == 0 { "\tturn" } else { "\tback" };
            let to = &body.input[states + at].name;
            inner.node.push(plain("Gather", &[&from, index], to, &[("axis", axes[at])]));
        }
        inner.node.extend(body.node.iter().cloned());
        inner.node.push(plain("Identity", &["\ton"], "\tgoes on", &[]));
        inner.output = vec![value_info("\tgoes on")];
        inner.output.extend(body.output.iter().cloned());
        let mut repeat = plain("Loop", &["\tturns", ""], "", &[]);
        repeat.input.extend((0..states).map(|at| own("state", at)));
        repeat.output = (0..states + made).map(|at| own("made", at)).collect();
        repeat.attribute.push(AttributeProto {
            name: "body".into(),
            r#type: attribute::GRAPH,
            g: Some(Box::new(inner)),
            ..Default::default()
        });
        let mut whole = GraphProto { node: vec![repeat], ..Default::default() };
        whole.initializer.push(ints("\tturns".into(), &[turns], &[]));
        whole.output = (0..states + made).map(|at| value_info(&own("made", at))).collect();
        let names = (0..states).map(|at| own("state", at)).chain((0..sliced).map(|at| own("sliced", at)));
        let names: Vec<String> = names.collect();
        let inputs = names.iter().map(String::as_str).zip(slots.iter().cloned()).collect();
        let results = self.inner(&whole, inputs, n.name, path, scope)?;
        if results.iter().any(|it| matches!(it.what, What::Pending)) {
            let read: Vec<Slot> = slots.iter().chain(&results).cloned().collect();
            read.iter().for_each(|it| self.carry(it));
        }
        let mut whats: Vec<What> = results.into_iter().map(|it| it.what).collect();
        for (at, what) in whats[states..].iter_mut().enumerate() {
            let (What::Tensor(value) | What::Strings(value)) = what else { continue };
            let shape = self.emit.shape(*value);
            if out_backwards[at] != 0 && shape[0] > 0 {
                *value = self.emit.slice(*value, 0, shape[0] - 1, shape[0], -1)?;
            }
            let axis = n.axis(out_axes[at], shape.rank())?;
            let mut order: Vec<usize> = (1..shape.rank()).collect();
            order.insert(axis, 0);
            *value = self.emit.permute(*value, &order)?;
        }
        whats.truncate(node.output.len());
        Ok(named(node, scope, whats))
    }

    /// Before opset 9 the first axis is a batch, each element of which is scanned by itself, as far as its own length.
    fn scans(&mut self, node: &NodeProto, n: &Node, slots: &[Slot], path: &str, scope: &Scope) -> Made {
        let scanned = n.size(n.int("num_scan_inputs", 0)?)?;
        let states = slots.len().checked_sub(1 + scanned).filter(|_| scanned > 0);
        let states =
            states.ok_or_else(|| n.error("attribute 'num_scan_inputs' does not fit its operands"))?;
        n.ints("directions")?;
        if let Some(made) = self.waiting(node, slots, scope) {
            self.carry_surroundings(node, scope)?;
            return Ok(made);
        }
        let lengths = match n.literal_ints(&self.emit, 0) {
            Ok(found) => found,
            Err(error) if n.unknown.get().is_some() => {
                self.carry_surroundings(node, scope)?;
                return self.ask(node, n, 0, slots, error, false, scope);
            }
            Err(error) => return Err(error),
        };
        let mut values = Vec::with_capacity(slots.len() - 1);
        for slot in &slots[1..] {
            let (What::Tensor(value) | What::Strings(value)) = slot.what else {
                return Err(n.error("scans something that is no tensor"));
            };
            values.push(value);
        }
        let shape = self.emit.shape(values[states]);
        let [batch, most, ..] = shape[..] else {
            return Err(n.error(format!("scans {shape}, which has no batch or nothing to scan")));
        };
        let fits = |at: usize, shape: &Shape| match at < states {
            true => shape.first() == Some(&batch),
            false => shape.get(..2) == Some(&[batch, most]),
        };
        if let Some(at) = (0..values.len()).find(|at| !fits(*at, &self.emit.shape(values[*at]))) {
            let own = self.emit.shape(values[at]);
            return Err(n.error(format!("operand {} of shape {own} beside {shape}", at + 1)));
        }
        if batch == 0 || batch > MAX_BATCH {
            return Err(n.unsupported(format!("a batch of {batch}, not of 1 to {MAX_BATCH}")));
        }
        let lengths = match lengths {
            None => vec![most; batch],
            Some(all) => all.into_iter().map(|it| n.size(it)).collect::<Result<Vec<_>, _>>()?,
        };
        if lengths.len() != batch || lengths.iter().any(|it| *it > most) {
            return Err(
                n.error(format!("lengths {lengths:?} for a batch of {batch}, each of {most} at most"))
            );
        }
        let mut single = NodeProto { input: node.input[1..].to_vec(), ..node.clone() };
        for attribute in single.attribute.iter_mut().filter(|it| it.name == "directions") {
            attribute.name = "scan_input_directions".into();
        }
        let mut rows: Vec<Vec<Slot>> = Vec::with_capacity(batch);
        for (number, &length) in lengths.iter().enumerate() {
            let path = format!("{path}{number}.");
            let mut own = Vec::with_capacity(values.len());
            for (at, (&value, slot)) in values.iter().zip(&slots[1..]).enumerate() {
                let inner: Shape = self.emit.shape(value)[1..].into();
                let value = self.emit.slice(value, 0, number, 1, 1)?;
                let mut value = self.emit.reshape(value, inner)?;
                if at >= states {
                    value = self.emit.slice(value, 0, 0, length, 1)?;
                }
                let key = format!("{path}:\tgiven {at}").into();
                own.push(Slot { key, what: slot.what.of_kind(value) });
            }
            let n = Node { opset: 9, attributes: &single.attribute, ..n.again() };
            rows.push(self.scan_once(&single, &n, &own, &path, scope)?);
        }
        if let Some(waits) = rows.iter().flatten().find(|it| matches!(it.what, What::Pending | What::Gone)) {
            let waits = waits.what.clone();
            self.carry_surroundings(node, scope)?;
            slots.iter().for_each(|it| self.carry(it));
            return Ok(named(node, scope, node.output.iter().map(|_| waits.clone())));
        }
        let mut whats = Vec::with_capacity(node.output.len());
        for at in 0..rows[0].len() {
            let mut all = Vec::with_capacity(batch);
            for row in &mut rows {
                let (What::Tensor(value) | What::Strings(value)) = &mut row[at].what else {
                    return Err(n.error("collects something that is no tensor"));
                };
                if at >= states {
                    *value = self.filled(*value, most)?;
                }
                all.push(row[at].clone());
            }
            whats.push(self.stacked(&all, n)?);
        }
        Ok(named(node, scope, whats))
    }

    /// With zeros behind it, as long as `most`.
    fn filled(&mut self, x: Value, most: usize) -> Result<Value, Error> {
        let shape = self.emit.shape(x);
        let missing = most.saturating_sub(shape[0]);
        if missing == 0 {
            return Ok(x);
        }
        let before: Places = shape.iter().map(|_| 0).collect();
        let mut after = before.clone();
        after[0] = missing;
        let fill = Some(self.emit.scalar(self.emit.dtype(x), 0.0));
        self.emit.add(Op::Pad { before, after, mode: PadMode::Constant, x, fill })
    }
}

fn value_info(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.to_string(), ..Default::default() }
}

fn plain(op: &str, input: &[&str], output: &str, ints: &[(&str, i64)]) -> NodeProto {
    let attribute = |(name, i): &(&str, i64)| AttributeProto {
        name: name.to_string(),
        i: *i,
        r#type: attribute::INT,
        ..Default::default()
    };
    NodeProto {
        op_type: op.to_string(),
        input: input.iter().map(|it| it.to_string()).collect(),
        output: vec![output.to_string()],
        attribute: ints.iter().map(attribute).collect(),
        ..Default::default()
    }
}
