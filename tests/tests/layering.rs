//! Data flows one way: a module of the compiler or of the runtime uses only modules declared above it in `lib.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wgfuse_tests::folder::tests;

/// Modules that `file` declares, in order.
fn declared(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .filter_map(|it| {
            it.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
        })
        .collect()
}

fn files(of: &Path) -> Vec<PathBuf> {
    if of.is_file() {
        return vec![of.to_path_buf()];
    }
    let mut all: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().unwrap() == "tests" {
            continue;
        }
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Names that follow `crate::` in the text, in grouped imports too.
fn used(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let word = |it: &str| it.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in text.match_indices("crate::") {
        if at > 0 && text[..at].ends_with('$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, true);
            for (at, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && (c.is_alphanumeric() || c == '_') => {
                        found.push(word(&group[at..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.push(word(rest));
        }
    }
    found
}

fn check(krate: &str) {
    let src = tests().join("..").join(krate).join("src");
    let order = declared(&src.join("lib.rs"));
    assert!(order.len() > 3, "{krate} declares {order:?}");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (own, name) in order.iter().enumerate() {
        let folder = src.join(name);
        let of = if folder.is_dir() { folder } else { src.join(format!("{name}.rs")) };
        for file in files(&of) {
            // Unit tests at a file's end may use anything.
            let text = fs::read_to_string(&file).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for used in used(text) {
                seen += 1;
                if order.iter().position(|it| *it == used).is_some_and(|it| it > own) {
                    wrong.push(format!("{} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(seen > order.len(), "the test sees imports");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_compiler_points_up() {
    check("compiler");
}

#[test]
fn the_runtime_points_up() {
    check("runtime");
}

#[test]
fn the_compiler_knows_no_device_no_file_no_clock_no_thread() {
    let src = tests().join("../compiler/src");
    let mut wrong = Vec::new();
    for file in files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for word in ["wgpu::", "std::fs", "std::time", "std::thread", "std::env"] {
            if text.contains(word) {
                wrong.push(format!("{} names {word}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_every_form() {
    assert_eq!(
        used("use crate::a; use crate::{b, c::{d, e}, f::g}; crate::h::i()"),
        ["a", "b", "c", "f", "h"]
    );
}
