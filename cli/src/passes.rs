//! `wgfuse passes`: what is done to a graph before it is lowered, in order.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::{Value, json};
use wgfuse::compiler::{
    options::Options,
    passes::{
        ELSEWHERE, PIPELINE, Pass, Rule, Stage,
        pattern::explain::names,
        pipeline::{RuleSet, SIMPLIFY},
        rewrite::Rewrite as _,
    },
};

use crate::print::{self, say};

#[derive(clap::Args)]
pub struct Args {
    /// What each rule does, and whether it keeps every bit
    #[arg(long)]
    rules: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

pub fn passes(args: Args) -> Result<()> {
    if args.json {
        let stages: Vec<Value> = Stage::ALL.into_iter().map(stage).collect();
        print::json(&json!({ "stages": stages, "explained": names(&Options::default()) }));
        return Ok(());
    }
    let mut shown = HashSet::new();
    for (at, stage) in Stage::ALL.into_iter().enumerate() {
        if at > 0 {
            say!("");
        }
        say!("{}", stage.name());
        for pass in PIPELINE.iter().filter(|it| it.stage == stage) {
            say!("  {:<13} {}", pass.name, pass.about);
            for set in pass.sets.iter().filter(|it| shown.insert(it.name)) {
                print_set(set, args.rules);
            }
            if pass.name != PIPELINE[0].name && has_all_of_simplify(pass) {
                say!("    then         all of {}", PIPELINE[0].name);
            }
        }
        for it in ELSEWHERE.iter().filter(|it| it.stage == stage) {
            say!("  elsewhere     {}: {}", it.what, it.place);
        }
    }
    say!("\nexplain-match  {}", names(&Options::default()).join(", "));
    Ok(())
}

fn has_all_of_simplify(pass: &Pass) -> bool {
    SIMPLIFY.iter().all(|it| pass.sets.iter().any(|own| own.name == it.name))
}

fn print_set(set: &RuleSet, full: bool) {
    if !full {
        let names: Vec<&str> = set.rules.iter().map(|it| it.name).collect();
        say!("    {}: {}", set.name, names.join(", "));
        let patterns = (set.patterns)();
        if !patterns.is_empty() {
            let names: Vec<&str> = patterns.iter().map(|it| &*it.replacement.name).collect();
            say!("    {}, as patterns: {}", set.name, names.join(", "));
        }
        return;
    }
    say!("    {}", set.name);
    for rule in set.rules {
        say!("      {:<18} {:<8} {}", rule.name, rule.licence.name(), rule.about);
    }
    for pattern in (set.patterns)() {
        say!("      {:<18} {:<8} a pattern", pattern.replacement.name, pattern.licence().name());
    }
}

fn stage(stage: Stage) -> Value {
    let rules = |set: &RuleSet| -> Vec<Value> {
        let rule = |it: &Rule| json!({ "name": it.name, "about": it.about, "licence": it.licence.name() });
        set.rules.iter().map(rule).collect()
    };
    let sets = |pass: &Pass| -> Vec<Value> {
        let patterns = |set: &RuleSet| -> Vec<String> {
            (set.patterns)().iter().map(|it| it.replacement.name.clone()).collect()
        };
        let set = |it: &RuleSet| json!({ "name": it.name, "rules": rules(it), "patterns": patterns(it) });
        pass.sets.iter().map(set).collect()
    };
    let passes: Vec<Value> = (PIPELINE.iter().filter(|it| it.stage == stage))
        .map(|it| json!({ "name": it.name, "about": it.about, "whole": it.whole.is_some(), "rules": sets(it) }))
        .collect();
    let elsewhere: Vec<Value> = (ELSEWHERE.iter().filter(|it| it.stage == stage))
        .map(|it| json!({ "what": it.what, "place": it.place }))
        .collect();
    json!({ "name": stage.name(), "passes": passes, "elsewhere": elsewhere })
}
