//! What operators do to strings that they only move or compare: the same as to the numbers of those.

use super::{node::Node, proto::attribute, table::Rule};
use crate::error::Error;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Does {
    /// Of these operands, where they are there, all are strings or none is; if they are, so are the results.
    Moves(&'static [usize]),
    /// As `Moves`, of every operand.
    MovesAll,
    /// Of these operands all are strings or none is; the results are of their own type.
    Reads(&'static [usize]),
}

use Does::{Moves, MovesAll, Reads};

#[rustfmt::skip]
const DOES: &[(&str, Does)] = &[
    ("ArrayFeatureExtractor", Moves(&[0])),
    ("CategoryMapper", Reads(&[0])),
    ("CenterCropPad", Moves(&[0])),
    ("Concat", MovesAll),
    ("DepthToSpace", Moves(&[0])),
    ("Equal", Reads(&[0, 1])),
    ("Expand", Moves(&[0])),
    ("Flatten", Moves(&[0])),
    ("Gather", Moves(&[0])),
    ("GatherElements", Moves(&[0])),
    ("GatherND", Moves(&[0])),
    ("Identity", Moves(&[0])),
    ("LabelEncoder", Reads(&[0])),
    ("OneHot", Moves(&[2])),
    ("Optional", Reads(&[0])),
    ("OptionalGetElement", Moves(&[0])),
    ("OptionalHasElement", Reads(&[0])),
    ("Pad", Moves(&[0, 2])),
    ("Reshape", Moves(&[0])),
    ("ReverseSequence", Moves(&[0])),
    ("Scatter", Moves(&[0, 2])),
    ("ScatterElements", Moves(&[0, 2])),
    ("ScatterND", Moves(&[0, 2])),
    ("SequenceConstruct", MovesAll),
    ("SequenceInsert", Reads(&[1])),
    ("Shape", Reads(&[0])),
    ("Size", Reads(&[0])),
    ("Slice", Moves(&[0])),
    ("SpaceToDepth", Moves(&[0])),
    ("Split", Moves(&[0])),
    ("SplitToSequence", Reads(&[0])),
    ("Squeeze", Moves(&[0])),
    ("TensorScatter", Moves(&[0, 1])),
    ("TfIdfVectorizer", Reads(&[0])),
    ("Tile", Moves(&[0])),
    ("Transpose", Moves(&[0])),
    ("Trilu", Moves(&[0])),
    ("Unsqueeze", Moves(&[0])),
    ("Where", Moves(&[1, 2])),
];

/// Whether the results of the node are strings, since operands are; or why its operands may not be.
pub fn moves(n: &Node, rule: Rule) -> Result<bool, Error> {
    let does = match rule {
        Rule::Unary(_) | Rule::Variadic(_) | Rule::Reduce(_) => None,
        Rule::Binary(_) | Rule::One(_) | Rule::Many(_) | Rule::Whole(_) => {
            DOES.iter().find(|it| it.0 == n.op).map(|it| it.1)
        }
        // What these are given says what it is.
        Rule::Host(_) | Rule::Text(_) => return Ok(false),
    };
    let takes = |at: usize| match does {
        None => false,
        Some(MovesAll) => true,
        Some(Moves(which) | Reads(which)) => which.contains(&at),
    };
    let there = |at: &usize| n.opt(*at).is_some();
    let strings = (0..n.inputs.len()).filter(there).find(|at| n.is_strings(*at));
    if let Some(at) = (0..n.inputs.len()).filter(there).find(|at| n.is_strings(*at) && !takes(*at)) {
        return Err(n.error(format!("operand {at} is of strings")));
    }
    let Some(first) = strings else { return Ok(false) };
    if let Some(at) = (0..n.inputs.len()).filter(there).find(|at| takes(*at) && !n.is_strings(*at)) {
        return Err(n.error(format!("operand {first} is of strings, operand {at} is not")));
    }
    let adds =
        |it: &str| n.attribute(it).is_some_and(|it| it.r#type == attribute::STRING && &*it.s != b"none");
    if adds("reduction") || n.attribute("value").is_some_and(|it| it.r#type == attribute::FLOAT) {
        return Err(n.error("strings are neither added nor filled up with numbers"));
    }
    Ok(!matches!(does, Some(Reads(_))))
}
