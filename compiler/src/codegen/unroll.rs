//! Loops of templates written out, because drivers leave rolled loops rolled and keep what they index out of registers.
//!
//! In: WGSL in which some loops of the form `for (var n = 0u; n < COUNT; n += 1u) { // unrolled` stand on a line of their own,
//! their closing brace on another. Out: each such loop as COUNT blocks, with the number put in for the variable. COUNT is a
//! constant of the module.

use std::collections::HashMap;

use naga::{Expression, Literal, Module};

use crate::bug;

const MARK: &str = "// unrolled";

/// `text` with every marked loop written out; `module` is what it parses to.
pub fn unroll(text: &str, module: &Module) -> String {
    let counts = constants(module);
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 4);
    write_out(&lines, &[], &counts, &mut out);
    out
}

pub fn is_marked(text: &str) -> bool {
    text.contains(MARK)
}

/// The unsigned constants of a module by name.
fn constants(module: &Module) -> HashMap<&str, u32> {
    let named = module.constants.iter().filter_map(|(_, it)| Some((it.name.as_deref()?, it.init)));
    named
        .filter_map(|(name, init)| match module.global_expressions[init] {
            Expression::Literal(Literal::U32(value)) => Some((name, value)),
            _ => None,
        })
        .collect()
}

/// Writes `lines`, with each variable of `known` as its number.
fn write_out(lines: &[&str], known: &[(&str, u32)], counts: &HashMap<&str, u32>, out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
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
    let head = line.trim().strip_suffix(MARK)?.trim_end();
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

/// The line that closes the block which line `start` opens.
fn closing(lines: &[&str], start: usize) -> usize {
    let mut depth = 0i32;
    for (at, line) in lines.iter().enumerate().skip(start) {
        let code = line.split("//").next().unwrap_or_default();
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        if depth == 0 {
            return at;
        }
    }
    bug!("the loop in line {start} has no end")
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
}
