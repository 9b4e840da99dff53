//! A plan as text: its numbers, with kernels by their names.
//!
//! ```text
//! live_peak 0
//! buffer(place=gpu, role=inputs, size=32)
//! buffer(place=gpu, role=outputs, size=32)
//! input(name="x", ty=f32[8], tensor=t0, device=b0[0+32], host=_)
//! output(name="y", ty=f32[8], tensor=t1, device=b1[0+32], host=_)
//! kernel "k000_map_relu"(bytes=64, flops=8)
//! dispatch "k000_map_relu"(groups=[1, 1, 1], barrier=false, bindings=[b0[0+32], b1[0+32]])
//! ```
//!
//! What is decided elsewhere is not repeated: kernels and refusals have their text in the schedule, modules are WGSL, the
//! constant graph has the text of graphs and gives the constants their keys (which may be addresses), the target is given.
//! So numbers parse into a plan that has all of that already, `of`: a plan changed by hand or moved to another file, to be
//! verified or run. `b0[256+32]` is 32 bytes of buffer 0 from 256 on.

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use super::{
    keys::keys,
    step::{Buffer, BufferId, BufferRole, Constant, Plan, PlanKernel, Port, Slice, Step},
};
use crate::{
    error::Error,
    graph::Value,
    lower::TensorId,
    shape::Type,
    text::{Cursor, Fields, Parsed, Show, Text, print_fields, spelled},
};

/// `of` with the numbers of `text`. Whether they fit together is for `verify` to say.
pub fn parse(text: &str, of: &Plan) -> Result<Plan, Error> {
    Cursor::all(text, |from| {
        from.expect("live_peak")?;
        let live_peak = Text::parse(from)?;
        from.end()?;
        let keys = keys(&of.constant_graph);
        let mut plan = Plan {
            target: of.target.clone(),
            tensors: of.tensors.clone(),
            buffers: statements(from, "buffer")?,
            inputs: statements(from, "input")?,
            constants: Vec::new(),
            outputs: Vec::new(),
            states: Vec::new(),
            becoming: of.becoming.clone(),
            constant_graph: of.constant_graph.clone(),
            kernels: Vec::new(),
            steps: Vec::new(),
            cpu_parts: Vec::new(),
            live_peak,
            refusals: of.refusals.clone(),
        };
        for KeylessConstant { value, port } in statements(from, "constant")? {
            let Some(&key) = keys.get(value) else {
                return from.wrong(format!("the constant graph has no node {}", Show(&value)));
            };
            plan.constants.push(Constant { key, value, port });
        }
        plan.outputs = statements(from, "output")?;
        plan.states = statements(from, "state")?;
        while from.take("kernel") {
            let kernel = named(from, &of.kernels)?;
            let mut fields = Fields::of(from);
            let (bytes, flops) = (fields.field("bytes")?, fields.field("flops")?);
            fields.end()?;
            from.end()?;
            plan.kernels.push(PlanKernel { bytes, flops, ..of.kernels[kernel].clone() });
        }
        while !from.is_done() && !from.peek("on_cpu") {
            plan.steps.push(step(from, &plan.kernels)?);
            from.end()?;
        }
        while from.take("on_cpu") {
            plan.cpu_parts.push((<Arc<str>>::parse(from)?, Text::parse(from)?));
            from.end()?;
        }
        if from.is_done() {
            Ok(plan)
        } else {
            from.wrong("a part that runs on the CPU or the end should be here")
        }
    })
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Plan {
            buffers, inputs, constants, outputs, states, kernels, steps, cpu_parts, live_peak, ..
        } = self;
        writeln!(f, "live_peak {live_peak}")?;
        buffers.iter().try_for_each(|it| writeln!(f, "buffer{}", Show(it)))?;
        inputs.iter().try_for_each(|it| writeln!(f, "input{}", Show(it)))?;
        for Constant { key: _, value, port } in constants {
            f.write_str("constant")?;
            print_fields(f, &[("value", value), ("port", port)])?;
            writeln!(f)?;
        }
        outputs.iter().try_for_each(|it| writeln!(f, "output{}", Show(it)))?;
        states.iter().try_for_each(|it| writeln!(f, "state{}", Show(it)))?;
        for PlanKernel { kernel, bytes, flops, types: _, shader: _ } in kernels {
            write!(f, "kernel {:?}", kernel.name)?;
            print_fields(f, &[("bytes", bytes), ("flops", flops)])?;
            writeln!(f)?;
        }
        for it in steps {
            print_step(f, it, kernels)?;
            writeln!(f)?;
        }
        cpu_parts.iter().try_for_each(|(node, reason)| writeln!(f, "on_cpu {node:?} {}", Show(reason)))
    }
}

/// Lines that begin with `word`.
pub(crate) fn statements<T: Text>(from: &mut Cursor<'_>, word: &str) -> Parsed<Vec<T>> {
    let mut all = Vec::new();
    while from.take(word) {
        all.push(T::parse(from)?);
        from.end()?;
    }
    Ok(all)
}

/// The position in `kernels` of the one whose name comes next.
fn named(from: &mut Cursor<'_>, kernels: &[PlanKernel]) -> Parsed<usize> {
    let name = from.string()?;
    let found = kernels.iter().position(|it| it.kernel.name == name);
    found.ok_or_else(|| format!("there is no kernel '{name}'"))
}

fn print_step(f: &mut Formatter<'_>, step: &Step, kernels: &[PlanKernel]) -> fmt::Result {
    match step {
        Step::Dispatch { kernel, bindings, groups, barrier } => {
            write!(f, "dispatch {:?}", kernels[*kernel].kernel.name)?;
            print_fields(f, &[("groups", groups), ("barrier", barrier), ("bindings", bindings)])
        }
        Step::Host { kernel, tensors } => {
            write!(f, "host {:?}", kernels[*kernel].kernel.name)?;
            print_fields(f, &[("tensors", tensors)])
        }
        Step::Download { tensor, ty, from, to } => {
            f.write_str("download")?;
            print_fields(f, &[("tensor", tensor), ("ty", ty), ("from", from), ("to", to)])
        }
        Step::Upload { tensor, ty, from, to } => {
            f.write_str("upload")?;
            print_fields(f, &[("tensor", tensor), ("ty", ty), ("from", from), ("to", to)])
        }
    }
}

fn step(from: &mut Cursor<'_>, kernels: &[PlanKernel]) -> Parsed<Step> {
    let word = from.name()?;
    let copied = |from: &mut Cursor<'_>| -> Parsed<(TensorId, Type, Slice, Slice)> {
        let mut fields = Fields::of(from);
        let all = (fields.field("tensor")?, fields.field("ty")?, fields.field("from")?, fields.field("to")?);
        fields.end()?;
        Ok(all)
    };
    match word {
        "dispatch" => {
            let kernel = named(from, kernels)?;
            let mut fields = Fields::of(from);
            let (groups, barrier) = (fields.field("groups")?, fields.field("barrier")?);
            let bindings = fields.field("bindings")?;
            fields.end()?;
            Ok(Step::Dispatch { kernel, bindings, groups, barrier })
        }
        "host" => {
            let kernel = named(from, kernels)?;
            let mut fields = Fields::of(from);
            let tensors = fields.field("tensors")?;
            fields.end()?;
            Ok(Step::Host { kernel, tensors })
        }
        "download" => {
            let (tensor, ty, from, to) = copied(from)?;
            Ok(Step::Download { tensor, ty, from, to })
        }
        "upload" => {
            let (tensor, ty, from, to) = copied(from)?;
            Ok(Step::Upload { tensor, ty, from, to })
        }
        _ => Err(format!("there is no step '{word}'")),
    }
}

impl Text for Slice {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "b{}[{}+{}]", self.buffer.0, self.offset, self.len)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Slice> {
        let place = from.mark();
        let buffer = BufferId(from.label("b")?);
        from.expect("[")?;
        let offset: u64 = from.number()?;
        from.expect("+")?;
        let len = from.number()?;
        from.expect("]")?;
        from.blame(place);
        offset.checked_add(len).ok_or("the slice has no end")?;
        Ok(Slice { buffer, offset, len })
    }
}

impl Display for Slice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.print(f)
    }
}

impl Display for BufferRole {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.print(f)
    }
}

spelled!(enum BufferRole {
    Weights "weights";
    Activations "activations";
    Inputs "inputs";
    Outputs "outputs";
    State "state";
});

spelled!(struct Buffer { place, role, size });

spelled!(struct Port { name, ty, tensor, device, host });

/// A `Constant` but for its key.
struct KeylessConstant {
    value: Value,
    port: Port,
}

spelled!(struct KeylessConstant { value, port });
