//! `wgfuse explain-match`: where a pattern was found in a model, and why not where it nearly was.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use wgfuse::{
    Target,
    compiler::{
        options::Options,
        passes::pattern::explain::{Near, explain},
    },
};

use crate::{
    open,
    print::{self, say},
    shapes::{self, ShapeArg},
};

#[derive(clap::Args)]
pub struct Args {
    /// The model file
    model: PathBuf,
    /// A pattern's name, as `wgfuse passes` lists them
    #[arg(long)]
    pattern: String,
    /// Shape of an input, as name=1x128; may be repeated
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    shapes: Vec<ShapeArg>,
    /// All near matches, not the nearest twenty
    #[arg(long)]
    all: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// Near matches that are shown unless all are asked for.
const SHOWN: usize = 20;

pub fn explain_match(args: Args) -> Result<()> {
    let model = open::model(&args.model)?;
    let found = shapes::shapes(&model.inputs, &args.shapes)?;
    let graph = model.graph(&found.shapes)?;
    // Nothing that depends on the device comes before a pattern.
    let explained = explain(graph, &Target::cpu(), &Options::default(), &args.pattern)?;
    let shown = if args.all { explained.near.len() } else { explained.near.len().min(SHOWN) };
    if args.json {
        let near = |it: &Near| {
            json!({
                "root": &*it.root, "found": it.found, "of": it.of,
                "at": &*it.at, "op": it.op, "wanted": it.wanted, "why": it.why,
            })
        };
        let near: Vec<_> = explained.near[..shown].iter().map(near).collect();
        let applied: Vec<&str> = explained.applied.iter().map(|it| &**it).collect();
        print::json(&json!({
            "pattern": args.pattern, "applied": applied, "near": near, "near_count": explained.near.len(),
        }));
        return Ok(());
    }
    say!("applied  {}", print::count(explained.applied.len(), "time"));
    for it in &explained.applied {
        say!("  '{it}'");
    }
    say!("near     {}", print::count(explained.near.len(), "time"));
    for it in &explained.near[..shown] {
        say!(
            "  '{}': {} of {} found, until '{}' ({} for {}): {}",
            it.root,
            it.found,
            it.of,
            it.at,
            it.op,
            it.wanted,
            it.why
        );
    }
    if shown < explained.near.len() {
        say!("  and {} more (--all)", explained.near.len() - shown);
    }
    Ok(())
}
