//! Patterns in RE2's syntax as those of the crate `regex`, which differ little: here `\d`, `\s`, `\w` and `\b` know Unicode, brackets and
//! doubled signs in a class mean sets of classes, a brace has to be a count, and `\Q` and `\C` are unknown.
//!
//! <https://github.com/google/re2/wiki/Syntax>

use std::iter::Peekable;

use regex::bytes::{Regex, RegexBuilder};

/// The most bytes of a compiled pattern.
const MAX_BYTES: usize = 16 << 20;

/// The pattern for strings as a whole.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let own = translated(pattern)?;
    let build = |it: &str| {
        let mut builder = RegexBuilder::new(it);
        builder.size_limit(MAX_BYTES).dfa_size_limit(MAX_BYTES);
        builder.build().map_err(|error| format!("the pattern '{pattern}': {error}"))
    };
    // By itself first: brackets have to close where they stand.
    build(&own)?;
    build(&format!(r"\A(?:{own})\z"))
}

/// What classes are in and outside of brackets.
const CLASSES: [(char, &str, &str); 6] = [
    ('d', "[0-9]", "0-9"),
    ('D', "[^0-9]", "[^0-9]"),
    ('s', r"[\t\n\f\r ]", r"\t\n\f\r "),
    ('S', r"[^\t\n\f\r ]", r"[^\t\n\f\r ]"),
    ('w', "[0-9A-Za-z_]", "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
];

type Chars<'a> = Peekable<std::str::Chars<'a>>;

fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(it) = chars.next() {
        match it {
            '\\' => escaped(&mut chars, false, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '{' if !is_count(&chars) => out.push_str(r"\{"),
            '}' => match out.rfind('{') {
                // Of a count.
                Some(at) if out[at + 1..].chars().all(|it| it.is_ascii_digit() || it == ',') => out.push('}'),
                _ => out.push_str(r"\}"),
            },
            other => out.push(other),
        }
    }
    Ok(out)
}

/// Digits, or digits and a comma, or digits, a comma and digits, up to a closing brace.
fn is_count(chars: &Chars) -> bool {
    let inside: String = chars.clone().take_while(|it| *it != '}').collect();
    let closes = chars.clone().any(|it| it == '}');
    let digits = |it: &str| !it.is_empty() && it.chars().all(|it| it.is_ascii_digit());
    closes
        && match inside.split_once(',') {
            Some((from, to)) => digits(from) && (to.is_empty() || digits(to)),
            None => digits(&inside),
        }
}

fn escaped(chars: &mut Chars, inside: bool, out: &mut String) -> Result<(), String> {
    let it = chars.next().ok_or("the pattern ends in a backslash")?;
    if let Some((_, outer, inner)) = CLASSES.iter().find(|class| class.0 == it) {
        out.push_str(if inside { inner } else { outer });
        return Ok(());
    }
    match it {
        'b' | 'B' if !inside => out.push_str(if it == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" }),
        'Q' if !inside => {
            let rest: String = chars.by_ref().collect();
            let (literal, behind) = rest.split_once(r"\E").unwrap_or((&rest, ""));
            out.push_str(&regex::escape(literal));
            out.push_str(&translated(behind)?);
        }
        'C' => return Err(r"a pattern of single bytes (\C) is not supported".into()),
        '0'..='7' => {
            let mut code = it.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                let Some(digit) = chars.peek().and_then(|it| it.to_digit(8)) else { break };
                chars.next();
                code = code * 8 + digit;
            }
            out.push_str(&format!(r"\x{{{code:x}}}"));
        }
        other => {
            out.push('\\');
            out.push(other);
            if matches!(other, 'x' | 'p' | 'P') && chars.peek() == Some(&'{') {
                for it in chars.by_ref() {
                    out.push(it);
                    if it == '}' {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The rest of a class; signs that mean sets of classes here are taken as they stand.
fn class(chars: &mut Chars, out: &mut String) -> Result<(), String> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(it) = chars.next() {
        match it {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            ']' => out.push_str(r"\]"),
            '\\' => escaped(chars, true, out)?,
            '[' if chars.peek() == Some(&':') => {
                out.push('[');
                for it in chars.by_ref() {
                    out.push(it);
                    if out.ends_with(":]") {
                        break;
                    }
                }
            }
            '[' | '&' | '~' => out.extend(['\\', it]),
            '-' if first || chars.peek() == Some(&']') => out.push_str(r"\-"),
            other => out.push(other),
        }
        first = false;
    }
    Err("a class in brackets has no end".into())
}

#[cfg(test)]
mod tests {
    use super::compile;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap_or_else(|it| panic!("{it}")).is_match(text.as_bytes())
    }

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        for (pattern, yes, no) in [
            (r"www\.[\w.-]+\.\bcom\b", "www.a-b.com", "www.a-b.comm"),
            ("a|ab", "ab", "abc"),
            ("", "", "a"),
            (r"\d+", "0129", "\u{661}"),
            (r"\D", "\u{661}", "1"),
            (r"[\W]", "é", "e"),
            (r"[^\S]", " ", "\u{a0}"),
            (r"\w+", "aZ_9", "é"),
            (".", "é", "\n"),
            ("(?s).", "\n", "ab"),
            ("(?i)straße", "STRAßE", "STRASSE"),
            (r"\pL+", "éß", "1"),
            (r"\p{Greek}[\x{4a}\P{L}]", "αJ", "αK"),
            ("[[:alpha:]]+", "ab", "é"),
            ("[]a]+", "]a", "["),
            ("[a[]", "[", "]"),
            ("[a&&b]+", "&ab", "c"),
            ("[-a]+", "-a", "b"),
            ("[a-]+", "-a", "b"),
            ("x{", "x{", "x"),
            ("x{,2}", "x{,2}", "xx"),
            ("x{2}", "xx", "x"),
            ("x{2,}", "xxx", "x"),
            (r"\Qa.b*\E+", "a.b**", "aab"),
            (r"\x41\101\x{42}", "AAB", "AA"),
            ("(?P<n>a)(?:b)c??", "ab", "a"),
            ("^ab$", "ab", "ab\n"),
            ("é{2}", "éé", "é"),
        ] {
            assert!(matches(pattern, yes), "'{pattern}' and '{yes}'");
            assert!(!matches(pattern, no), "'{pattern}' and '{no}'");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["a)(b", "(", "[a", "*", r"\", r"(?=a)", r"(a)\1x\9", r"\C", "a{1000}{1000}{1000}"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
