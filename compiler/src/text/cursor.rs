//! Where a parser stands in a text: takes words off the current line and knows the line and column of the last one.
//!
//! Lines that are empty or begin with `//` do not count. Nothing here panics or recurses, whatever the text.

use std::str::{FromStr, Lines};

use crate::error::Error;

/// What a part of a text is, or what is wrong with it.
pub type Parsed<T> = Result<T, String>;

#[derive(Clone)]
pub struct Cursor<'a> {
    following: Lines<'a>,
    /// Of the current line, from 1; that behind the last at the end.
    number: usize,
    line: &'a str,
    /// What is left of the line, without white space in front.
    rest: &'a str,
    place: Mark<'a>,
    done: bool,
    /// Extents of the loop variables that may be named, by their numbers.
    pub extents: Vec<usize>,
}

/// A place to which an error may point.
#[derive(Clone, Copy)]
pub struct Mark<'a> {
    number: usize,
    before: &'a str,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Cursor<'a> {
        let place = Mark { number: 1, before: "" };
        let mut cursor = Cursor {
            following: text.lines(),
            number: 0,
            line: "",
            rest: "",
            place,
            done: false,
            extents: Vec::new(),
        };
        cursor.next_line();
        cursor
    }

    /// The whole of `text`, made by `parse`; an error says the line and the column of the word that is wrong.
    pub fn all<T>(text: &'a str, parse: impl FnOnce(&mut Cursor<'a>) -> Parsed<T>) -> Result<T, Error> {
        let mut cursor = Cursor::new(text);
        parse(&mut cursor).map_err(|what| {
            let Mark { number, before } = cursor.place;
            Error::malformed(format!("line {number}, column {}", before.chars().count() + 1), what)
        })
    }

    fn next_line(&mut self) {
        for line in self.following.by_ref() {
            self.number += 1;
            let rest = line.trim();
            if !rest.is_empty() && !rest.starts_with("//") {
                (self.line, self.rest) = (line, rest);
                return;
            }
        }
        self.number += 1;
        (self.line, self.rest, self.done) = ("", "", true);
    }

    /// Whether no line is left.
    pub fn is_done(&self) -> bool {
        self.done
    }

    pub fn is_line_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Here.
    pub fn mark(&self) -> Mark<'a> {
        // `rest` is a part of `line` whose white space at the end is gone.
        let left = self.line.trim_end().len() - self.rest.len();
        Mark { number: self.number, before: &self.line[..left] }
    }

    /// An error that comes next points to `place`.
    pub fn blame(&mut self, place: Mark<'a>) {
        self.place = place;
    }

    /// An error that points to what comes next.
    pub fn wrong<T>(&mut self, what: impl Into<String>) -> Parsed<T> {
        self.place = self.mark();
        Err(what.into())
    }

    fn missing<T>(&mut self, what: &str) -> Parsed<T> {
        match self.rest {
            "" => self.wrong(format!("{what} is missing at the end of the line")),
            rest => self.wrong(format!("{what} is missing before '{rest}'")),
        }
    }

    fn advance(&mut self, by: usize) -> &'a str {
        self.place = self.mark();
        let (taken, rest) = self.rest.split_at(by);
        self.rest = rest.trim_start();
        taken
    }

    pub fn peek(&self, token: &str) -> bool {
        self.rest.starts_with(token)
    }

    /// Whether a label comes next: `prefix` and a number.
    pub fn peek_label(&self, prefix: &str) -> bool {
        let digits = self.rest.strip_prefix(prefix);
        digits.is_some_and(|it| it.starts_with(|it: char| it.is_ascii_digit()))
    }

    /// Takes `token` if it comes next.
    pub fn take(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    /// Takes `word` where white space or the end of the line follows it.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.rest.strip_prefix(word);
        found.is_some_and(|it| it.is_empty() || it.starts_with(char::is_whitespace)) && self.take(word)
    }

    pub fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.missing(&format!("'{token}'")) }
    }

    /// Nothing is left of the line; goes to the next.
    pub fn end(&mut self) -> Parsed<()> {
        match self.rest {
            "" => {
                self.next_line();
                Ok(())
            }
            rest => self.wrong(format!("'{rest}' is left over")),
        }
    }

    pub fn span(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|it| !belongs(it)).unwrap_or(self.rest.len());
        self.advance(end)
    }

    /// Everything up to the next `end`, and that.
    pub fn through(&mut self, end: &str) -> Parsed<&'a str> {
        match self.rest.find(end) {
            Some(at) => Ok(self.advance(at + end.len())),
            None => self.missing(&format!("'{end}'")),
        }
    }

    /// Everything up to white space, a comma or a closing bracket.
    pub fn item(&mut self) -> &'a str {
        self.span(|it| !it.is_whitespace() && !matches!(it, ',' | ')' | ']' | '}'))
    }

    /// Letters, digits and underscores.
    pub fn name(&mut self) -> Parsed<&'a str> {
        match self.span(|it| it.is_ascii_alphanumeric() || it == '_') {
            "" => self.missing("a name"),
            name => Ok(name),
        }
    }

    /// A whole number, with a sign where the type has one.
    pub fn number<T: FromStr>(&mut self) -> Parsed<T> {
        match self.span(|it| it.is_ascii_digit() || it == '-') {
            "" => self.missing("a number"),
            digits => digits.parse().map_err(|_| format!("'{digits}' is no number in range")),
        }
    }

    /// The number of the label that comes next: of `7` if it is `t7` and `prefix` is `t`.
    pub fn label(&mut self, prefix: &str) -> Parsed<u32> {
        if !self.peek_label(prefix) {
            return self.missing(&format!("'{prefix}' and a number"));
        }
        let digits = self.rest[prefix.len()..].chars().take_while(char::is_ascii_digit).count();
        let word = self.advance(prefix.len() + digits);
        let number = word[prefix.len()..].parse().ok().filter(|it| *it < u32::MAX / 2);
        number.ok_or_else(|| format!("'{word}' is not '{prefix}' and a number in range"))
    }

    /// A quoted string with the escapes that Rust prints.
    pub fn string(&mut self) -> Parsed<String> {
        self.place = self.mark();
        let wrong = || "a string in quotes is missing or does not end".to_string();
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        if chars.next().map(|it| it.1) != Some('"') {
            return Err(wrong());
        }
        loop {
            let (at, it) = chars.next().ok_or_else(wrong)?;
            match it {
                '"' => {
                    self.advance(at + 1);
                    return Ok(text);
                }
                '\\' => match chars.next().ok_or_else(wrong)?.1 {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    '0' => text.push('\0'),
                    'u' => {
                        let code = chars.as_str().strip_prefix('{').and_then(|it| it.split_once('}'));
                        let (code, _) = code.ok_or_else(wrong)?;
                        let made = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
                        text.push(made.ok_or_else(wrong)?);
                        chars.by_ref().take_while(|it| it.1 != '}').for_each(drop);
                    }
                    it => text.push(it),
                },
                it => text.push(it),
            }
        }
    }
}
