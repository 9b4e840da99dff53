//! A plan as text, for people.

use std::fmt;

use super::step::{BufferRole, Plan, Port, Slice, Step};
use crate::graph::number;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, buffer) in self.buffers.iter().enumerate() {
            writeln!(f, "buffer {at}: {:?} {} {} bytes", buffer.place, buffer.role, buffer.size)?;
        }
        writeln!(
            f,
            "live peak {} bytes, arenas {} bytes",
            self.live_peak,
            self.bytes(BufferRole::Activations)
        )?;
        self.inputs.iter().try_for_each(|it| port(f, "input", it))?;
        self.constants.iter().try_for_each(|it| port(f, &format!("constant {:032x}", it.key), &it.port))?;
        for (at, step) in self.steps.iter().enumerate() {
            write!(f, "{at:4} ")?;
            match step {
                Step::Dispatch { kernel, bindings, groups, barrier } => {
                    let it = &self.kernels[*kernel];
                    let bar = if *barrier { "|" } else { " " };
                    write!(f, "{bar} dispatch {} {groups:?}", it.kernel.name)?;
                    bindings.iter().try_for_each(|it| write!(f, " {it}"))?;
                    writeln!(f, "  ; {} bytes, {} flops", it.bytes, it.flops)?;
                }
                Step::Host { kernel, tensors } => {
                    let it = &self.kernels[*kernel];
                    write!(f, "  host {}", it.kernel.name)?;
                    tensors.iter().try_for_each(|it| write!(f, " {it}"))?;
                    writeln!(f, "  ; {} bytes, {} flops", it.bytes, it.flops)?;
                }
                Step::Download { tensor, ty, from, to } => {
                    writeln!(f, "  download t{} {ty} {from} -> {to}", number(*tensor))?;
                }
                Step::Upload { tensor, ty, from, to } => {
                    writeln!(f, "  upload t{} {ty} {from} -> {to}", number(*tensor))?;
                }
            }
        }
        self.outputs.iter().try_for_each(|it| port(f, "output", it))
    }
}

fn port(f: &mut fmt::Formatter<'_>, what: &str, port: &Port) -> fmt::Result {
    write!(f, "{what} '{}' {}", port.name, port.ty)?;
    if let Some(slice) = port.device {
        write!(f, " device {slice}")?;
    }
    if let Some(slice) = port.host {
        write!(f, " host {slice}")?;
    }
    writeln!(f)
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}+{}]", self.buffer.0, self.offset, self.len)
    }
}

impl fmt::Display for BufferRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BufferRole::Weights => "weights",
            BufferRole::Activations => "activations",
            BufferRole::Inputs => "inputs",
            BufferRole::Outputs => "outputs",
        })
    }
}
