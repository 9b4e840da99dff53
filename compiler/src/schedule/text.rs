//! A schedule as text, printed and parsed. Tensors as in the text of loops, then kernels in their order, outputs, states
//! such as `state(input=0, output=0, old=t0)`, and what was not fused:
//!
//! ```text
//! t0: f32[8] = input(slot=0) "x"
//! t1: f32[8] = nest(at=0) "y"
//! kernel "k000_map_relu" on gpu ops=[relu] origins=["y"] tensors=[t0, t1]
//!   map(space=[8], workgroup=64, lanes=1)
//!   e0: f32 = t0[i0]
//!   e1: f32 = relu e0
//!   t1[i0] = e1
//! output t1
//! apart "x" "y": recompute(times=12)
//! ```
//!
//! `p0` in a body is what the kernel's skeleton supplies first. What parses names only tensors, expressions and loop
//! variables that exist; all else that must hold is for `verify` to say.

use std::fmt::{self, Display, Formatter};

use slotmap::SlotMap;

use super::{
    in_place::Why as InPlace,
    kernel::{
        AttentionTile, CooperativeAttention, Few, Kept, Kernel, LastKey, PlainAttention, Refusal,
        RowAttention, RowForm, Schedule, Skeleton, Stage, Store, Team, Tile, Why,
    },
    verify::roots,
};
use crate::{
    error::Error,
    index::Atom,
    lower::{
        ExprId, TensorId, TensorInfo,
        text::{
            exist, parse_body, parse_coords, parse_op, parse_outputs, parse_tensor, parse_tensors,
            print_body, print_outputs, print_tensors,
        },
    },
    passes::siblings::Why as Sibling,
    text::{Cursor, Parsed, Show, Text, parse_list, spelled},
};

/// The schedule that `text` describes.
pub fn parse(text: &str) -> Result<Schedule, Error> {
    Cursor::all(text, |from| {
        let tensors = parse_tensors(from)?;
        let mut kernels = Vec::new();
        while from.word("kernel") {
            kernels.push(parse_kernel(from, &tensors)?);
        }
        let outputs = parse_outputs(from, &tensors)?;
        let mut states: Vec<Kept> = Vec::new();
        while from.take("state") {
            states.push(Text::parse(from)?);
            from.end()?;
            let last = states[states.len() - 1];
            if !tensors.contains_key(last.old) || last.output as usize >= outputs.len() {
                return from.wrong("the state names a tensor or an output that there is not");
            }
        }
        let mut refusals = Vec::new();
        while !from.is_done() {
            refusals.push(Text::parse(from)?);
            from.end()?;
        }
        Ok(Schedule { tensors, kernels, outputs, states, refusals })
    })
}

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        print_tensors(f, &self.tensors)?;
        self.kernels.iter().try_for_each(|it| write!(f, "{it}"))?;
        print_outputs(f, &self.outputs)?;
        self.states.iter().try_for_each(|it| writeln!(f, "state{}", Show(it)))?;
        self.refusals.iter().try_for_each(|it| writeln!(f, "{}", Show(it)))
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Kernel { name, place, origins, ops, body, skeleton, stores, tensors } = self;
        let ops = ops.join(", ");
        write!(f, "kernel {name:?} on {} ops=[{ops}] origins={}", Show(place), Show(origins))?;
        writeln!(f, " tensors={}", Show(tensors))?;
        writeln!(f, "  {}", Show(skeleton))?;
        print_body(f, body)?;
        for Store { tensor, at, value } in stores {
            writeln!(f, "  {}{} = {}", Show(tensor), Show(at), Show(value))?;
        }
        Ok(())
    }
}

fn parse_kernel(from: &mut Cursor<'_>, known: &SlotMap<TensorId, TensorInfo>) -> Parsed<Kernel> {
    let name = from.string()?;
    from.expect("on")?;
    let place = Text::parse(from)?;
    from.expect("ops=")?;
    let ops = parse_list(from, parse_op)?;
    from.expect("origins=")?;
    let origins = Text::parse(from)?;
    from.expect("tensors=")?;
    let tensors = parse_list(from, |it| parse_tensor(it, known))?;
    from.end()?;
    let start = from.mark();
    let skeleton = Skeleton::parse(from)?;
    from.end()?;
    from.extents = skeleton.extents();
    let body = parse_body(from, known)?;
    let mut stores = Vec::new();
    while from.peek_label("t") {
        let tensor = parse_tensor(from, known)?;
        let at = parse_coords(from, tensor, known)?;
        from.expect("=")?;
        stores.push(Store { tensor, at, value: Text::parse(from)? });
        from.end()?;
    }
    let mut read = Vec::new();
    stores.iter().flat_map(|it: &Store| &it.at).for_each(|index| {
        index.leaves(&mut |leaf| {
            if let Atom::Data { expr, .. } = leaf {
                read.push(ExprId(*expr));
            }
        });
    });
    let kernel = Kernel { name, place, origins, ops, body, skeleton, stores, tensors };
    from.blame(start);
    exist(&kernel.body, roots(&kernel).into_iter().chain(read))?;
    Ok(kernel)
}

impl Text for Refusal {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Refusal { producer, consumer, why } = self;
        write!(f, "apart {producer:?} {consumer:?}: {}", Show(why))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Refusal> {
        from.expect("apart")?;
        let (producer, consumer) = (Text::parse(from)?, Text::parse(from)?);
        from.expect(":")?;
        Ok(Refusal { producer, consumer, why: Text::parse(from)? })
    }
}

impl Text for Stage {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Stage { op, value } = self;
        write!(f, "{} {}", Show(op), Show(value))
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Stage> {
        Ok(Stage { op: Text::parse(from)?, value: Text::parse(from)? })
    }
}

spelled!(enum Skeleton {
    Map "map" { space, workgroup, lanes };
    Rows "rows" { outer, inner, stages, form };
    Contract "contract" { space, depth, batch, rows, cols, a, b, others, sums, tile };
    Attention "attention" { space, keys, channels, scale, zero_masked, q, k, v, mask, last_key, tile };
});

spelled!(struct Kept { input, output, old });

spelled!(struct RowForm { team, lanes, steps, early });

spelled!(enum Team {
    Invocation "invocation" { workgroup };
    Subgroup "subgroup" { size, rows };
    Workgroup "workgroup" { size, subgroup };
});

spelled!(enum Tile {
    Matmul "matmul" { rows, cols, depth, rows_each, cols_each, block_rows, block_cols, a_along_rows, b_along_cols, split, buffers, scalars };
    Cooperative "cooperative" { parts, rows, cols, depth, rows_each, cols_each, buffers, strip, at_once, subgroup, a_along_rows, b_along_cols };
    Few "few" (form);
    Direct "direct" { workgroup };
});

spelled!(struct Few { size, deep, depth, cols, along_cols, ahead, early, subgroup, held, stored });

spelled!(struct LastKey { each, first });

spelled!(enum AttentionTile {
    Plain "plain" (tile);
    Row "row" (tile);
    Cooperative "cooperative" (tile);
});

spelled!(struct PlainAttention { size, rows, across, heads, parts, hold_keys, hold_values });

spelled!(struct RowAttention { size, across, ahead, slices });

spelled!(struct CooperativeAttention { teams, parts, sub_rows, keys, sub_keys, heads, subgroup });

spelled!(enum Why {
    Cycle "cycle";
    Places "places";
    Spaces "spaces";
    ReadElsewhere "read_elsewhere";
    Bindings "bindings" (count);
    NoScale "no_scale";
    Recompute "recompute" (times);
    Body "body" (expressions);
    Products "products";
    Siblings "siblings" (why);
    State "state" (why);
});

spelled!(enum InPlace {
    Reduced "reduced";
    Beside "beside";
    Elsewhere "elsewhere";
    Row "row";
    Attention "attention";
    Awaited "awaited";
});

spelled!(enum Sibling {
    Computed "computed";
    Held "held";
    Output "output";
    Followed "followed";
    Steps "steps";
    Apart "apart";
    Busy "busy" (results);
    Size "size" (bytes);
});
