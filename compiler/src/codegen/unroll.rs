//! Loops of templates written out, because drivers leave rolled loops rolled and keep what they index out of registers; and of
//! their branches the one that is taken, so that nothing of the other is in a module.
//!
//! In: WGSL in which some loops of the form `for (var n = 0u; n < COUNT; n += 1u) { // unrolled`, and some branches of the form
//! `if CHOICE { // chosen`, stand on a line of their own, their closing brace on another, and so does `} else {`. Out: each such loop
//! as COUNT blocks, with the number put in for the variable, and each such branch as one block. COUNT and CHOICE are constants of
//! the module.

use std::collections::HashMap;

use naga::{Expression, Literal, Module};

use crate::bug;

const UNROLLED: &str = "// unrolled";
const CHOSEN: &str = "// chosen";

/// `text` with every marked loop and branch written out; `module` is what it parses to.
pub fn unroll(text: &str, module: &Module) -> String {
    let counts = constants(module);
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 4);
    write_out(&lines, &[], &counts, &mut out);
    out
}

pub fn is_marked(text: &str) -> bool {
    text.contains(UNROLLED) || text.contains(CHOSEN)
}

/// The unsigned constants of a module by name; those of type `bool` are 0 or 1.
fn constants(module: &Module) -> HashMap<&str, u32> {
    let named = module.constants.iter().filter_map(|(_, it)| Some((it.name.as_deref()?, it.init)));
    named
        .filter_map(|(name, init)| match module.global_expressions[init] {
            Expression::Literal(Literal::U32(value)) => Some((name, value)),
            Expression::Literal(Literal::Bool(value)) => Some((name, value as u32)),
            _ => None,
        })
        .collect()
}

/// Writes `lines`, with each variable of `known` as its number.
fn write_out(lines: &[&str], known: &[(&str, u32)], counts: &HashMap<&str, u32>, out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
        if let Some(choice) = branch(lines[at]) {
            let choice = counts.get(choice).unwrap_or_else(|| bug!("{choice} is chosen by no constant"));
            let end = closing(lines, at);
            let other = otherwise(lines, at, end);
            let taken = match choice {
                0 => (other + 1).min(end)..end,
                _ => at + 1..other,
            };
            out.push_str("{\n");
            write_out(&lines[taken], known, counts, out);
            out.push_str("}\n");
            at = end + 1;
            continue;
        }
        let Some((variable, count)) = header(lines[at]) else {
            write_line(lines[at], known, out);
            at += 1;
            continue;
        };
        let count =
            *counts.get(count).unwrap_or_else(|| bug!("a loop runs to {count}, which is no constant"));
        let end = closing(lines, at);
        for number in 0..count {
            let mut inner = known.to_vec();
            inner.push((variable, number));
            out.push_str("{\n");
            write_out(&lines[at + 1..end], &inner, counts, out);
            out.push_str("}\n");
        }
        at = end + 1;
    }
}

/// Variable and bound of a marked loop.
fn header(line: &str) -> Option<(&str, &str)> {
    let head = line.trim().strip_suffix(UNROLLED)?.trim_end();
    let malformed = || -> ! { bug!("not a loop that can be written out: {line}") };
    let Some(head) = head.strip_prefix("for (var ") else { malformed() };
    let Some((variable, rest)) = head.split_once(" = 0u; ") else { malformed() };
    let bound =
        rest.strip_prefix(variable).and_then(|it| it.strip_prefix(" < ")).and_then(|it| it.split_once(';'));
    match bound {
        Some((bound, tail)) if tail == format!(" {variable} += 1u) {{") => Some((variable, bound)),
        _ => malformed(),
    }
}

/// The condition of a marked branch.
fn branch(line: &str) -> Option<&str> {
    let head = line.trim().strip_suffix(CHOSEN)?.trim_end();
    let name = head.strip_prefix("if ").and_then(|it| it.strip_suffix(" {"));
    Some(name.unwrap_or_else(|| bug!("not a branch that can be chosen: {line}")))
}

/// The line that closes the block which line `start` opens.
fn closing(lines: &[&str], start: usize) -> usize {
    let mut depth = 0i32;
    for (at, line) in lines.iter().enumerate().skip(start) {
        depth += opened(line);
        if depth == 0 {
            return at;
        }
    }
    bug!("the block in line {start} has no end")
}

/// Blocks that a line opens and does not close.
fn opened(line: &str) -> i32 {
    let code = line.split("//").next().unwrap_or_default();
    code.matches('{').count() as i32 - code.matches('}').count() as i32
}

/// The line between the two blocks of the branch from line `start` to line `end`; `end` where there is one block.
fn otherwise(lines: &[&str], start: usize, end: usize) -> usize {
    let mut depth = 0i32;
    for (at, line) in lines.iter().enumerate().take(end).skip(start) {
        if depth == 1 && line.trim() == "} else {" {
            return at;
        }
        depth += opened(line);
    }
    end
}

fn write_line(line: &str, known: &[(&str, u32)], out: &mut String) {
    let code = line.split("//").next().unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        out.push_str(&rest[..start]);
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        match known.iter().rev().find(|(name, _)| *name == &word[..end]) {
            Some((_, number)) => out.push_str(&format!("{number}u")),
            None => out.push_str(&word[..end]),
        }
        rest = &word[end..];
    }
    out.push_str(rest);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_loops_are_written_out() {
        let text = "const N: u32 = 2u;\nconst M: u32 = N + 1u;\nfn f() {\nvar x: array<u32, 6>;\n\
            for (var i = 0u; i < N; i += 1u) { // unrolled\n  let in = i;\n  for (var j = 0u; j < M; j += 1u) { // unrolled\n\
            x[i * M + j] = in; // i is not j\n  }\n}\n}\n";
        let module = naga::front::wgsl::parse_str(&text.replace("in", "held")).unwrap();
        let out = unroll(text, &module);
        assert_eq!(out.matches("x[0u * M + 2u] = in;").count(), 1);
        assert_eq!(out.matches("x[1u * M + 0u] = in;").count(), 1);
        assert_eq!(out.matches("] = in;").count(), 6);
        assert!(!out.contains("for"));
        naga::front::wgsl::parse_str(&out.replace("in", "held")).unwrap();
    }

    #[test]
    fn of_branches_one_is_left() {
        let text = "const YES: bool = 1u < 2u;\nconst NO: bool = !YES;\nfn f() {\nvar x: u32;\nif YES { // chosen\n  x = 1u;\n  if NO { // chosen\n\
            x = 2u;\n  } else {\n    x = 3u;\n  }\n} else {\n  x = 4u;\n}\nif NO { // chosen\nx = 5u;\n}\n}\n";
        let out = unroll(text, &naga::front::wgsl::parse_str(text).unwrap());
        let left: Vec<bool> = (1..=5).map(|it| out.contains(&format!("x = {it}u;"))).collect();
        assert_eq!(left, [true, false, true, false, false]);
        assert!(!out.contains("if") && !out.contains("else"));
        naga::front::wgsl::parse_str(&out).unwrap();
    }
}
