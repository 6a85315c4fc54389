//! JSON to a [`Tree`].

use super::tree::{Builder, Kind, Position, SyntaxError, Tree};

/// Reads the one value of `text`. The second list tells what is wrong but left the tree readable.
pub(super) fn parse(text: &str) -> Result<(Tree, Vec<SyntaxError>), SyntaxError> {
    let mut reader = Reader { text, at: 0, line: 1, line_start: 0, builder: Builder::new(text.len()) };
    reader.value()?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.wrong("text after the end of the document"));
    }
    let problems = std::mem::take(&mut reader.builder.problems);
    let tree = reader.builder.finish().expect("a value was read to its end");
    Ok((tree, problems))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
    builder: Builder,
}

const LAST_COMMA: &str = "JSON has no comma behind the last value";

impl Reader<'_> {
    /// Recursion is bounded: the builder refuses the level after the hundredth.
    fn value(&mut self) -> Result<(), SyntaxError> {
        self.space();
        let at = self.position();
        match self.peek() {
            Some(b'{') => {
                self.builder.begin(Kind::Mapping, at)?;
                self.members(b'}', Self::member)
            }
            Some(b'[') => {
                self.builder.begin(Kind::Sequence, at)?;
                self.members(b']', Self::value)
            }
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't' | b'f' | b'n') => self.literal(),
            Some(b']' | b'}') => Err(self.wrong(if self.is_behind_comma() { LAST_COMMA } else { "expected a value" })),
            Some(_) => Err(self.wrong("expected a value in JSON (a file in YAML is called .yaml or .yml)")),
            None => Err(self.wrong("unexpected end of the document")),
        }
    }

    /// What stands between the bracket at the current place and `close`.
    fn members(&mut self, close: u8, member: fn(&mut Self) -> Result<(), SyntaxError>) -> Result<(), SyntaxError> {
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.builder.end();
            return Ok(());
        }
        loop {
            member(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(c) if c == close => {
                    self.at += 1;
                    self.builder.end();
                    return Ok(());
                }
                Some(_) => return Err(self.wrong(&format!("expected ',' or '{}'", close as char))),
                None => return Err(self.wrong("unexpected end of the document")),
            }
        }
    }

    /// Whether a comma stands before the current place.
    fn is_behind_comma(&self) -> bool {
        self.text[..self.at].trim_end().ends_with(',')
    }

    fn member(&mut self) -> Result<(), SyntaxError> {
        self.space();
        if self.peek() != Some(b'"') {
            let is_end = self.peek() == Some(b'}') && self.is_behind_comma();
            return Err(self.wrong(if is_end { LAST_COMMA } else { "expected a key in double quotes" }));
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.wrong("expected ':'"));
        }
        self.at += 1;
        self.value()
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        let at = self.position();
        self.at += 1;
        let mut unescaped = String::new();
        let mut start = self.at;
        loop {
            match self.peek() {
                None => return Err(self.wrong("unexpected end of the document in a string")),
                Some(b'"') => break,
                Some(b'\\') => {
                    unescaped.push_str(&self.text[start..self.at]);
                    self.at += 1;
                    unescaped.push(self.escape()?);
                    start = self.at;
                }
                Some(0..=0x1f) => return Err(self.wrong("control character in a string")),
                Some(_) => self.at += 1,
            }
        }
        let last = &self.text[start..self.at];
        self.at += 1;
        if unescaped.is_empty() {
            self.builder.scalar(Kind::Quoted, last, at);
        } else {
            unescaped.push_str(last);
            self.builder.scalar(Kind::Quoted, &unescaped, at);
        }
        Ok(())
    }

    /// The character that the escape after a backslash stands for.
    fn escape(&mut self) -> Result<char, SyntaxError> {
        let c = self.peek();
        self.at += usize::from(c.is_some_and(|c| c.is_ascii()));
        Ok(match c {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.wrong("unknown escape in a string")),
        })
    }

    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let first = self.four_digits()?;
        let code = if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let second = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.wrong("a surrogate without its other half"));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.wrong("a surrogate without its other half"))
    }

    fn four_digits(&mut self) -> Result<u32, SyntaxError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let code = code.ok_or_else(|| self.wrong("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let at = self.position();
        let start = self.at;
        self.skip(|b| b == b'-', 1);
        let whole = self.skip(|b| b.is_ascii_digit(), usize::MAX);
        let leading_zero = whole > 1 && self.text.as_bytes()[self.at - whole] == b'0';
        let mut good = whole > 0 && !leading_zero;
        if self.skip(|b| b == b'.', 1) > 0 {
            good &= self.skip(|b| b.is_ascii_digit(), usize::MAX) > 0;
        }
        if self.skip(|b| matches!(b, b'e' | b'E'), 1) > 0 {
            self.skip(|b| matches!(b, b'+' | b'-'), 1);
            good &= self.skip(|b| b.is_ascii_digit(), usize::MAX) > 0;
        }
        if !good {
            return Err(SyntaxError { at, reason: "malformed number".to_owned() });
        }
        let text = &self.text[start..self.at];
        self.builder.scalar(Kind::Number, text, at);
        Ok(())
    }

    fn literal(&mut self) -> Result<(), SyntaxError> {
        let at = self.position();
        let start = self.at;
        self.skip(|b| b.is_ascii_alphanumeric(), usize::MAX);
        let word = &self.text[start..self.at];
        if !matches!(word, "true" | "false" | "null") {
            return Err(SyntaxError {
                at,
                reason: format!("unknown literal {word:?} in JSON (a file in YAML is called .yaml or .yml)"),
            });
        }
        self.builder.scalar(Kind::Plain, word, at);
        Ok(())
    }

    fn skip(&mut self, wanted: fn(u8) -> bool, at_most: usize) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let found = rest.iter().take(at_most).take_while(|b| wanted(**b)).count();
        self.at += found;
        found
    }

    fn space(&mut self) {
        while let Some(c @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.at += 1;
            if c == b'\n' {
                self.line += 1;
                self.line_start = self.at;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: (self.at - self.line_start) as u32 + 1 }
    }

    fn wrong(&self, reason: &str) -> SyntaxError {
        SyntaxError { at: self.position(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Scalar;
    use super::*;

    #[test]
    fn values_of_every_kind_are_read() {
        let text = "{\n \"a\": [1, -2.5e3, true, null, \"x\\n\\u00e9\\ud83d\\ude00\\/\"], \"b\": {}}";
        let (tree, problems) = parse(text).expect("it is JSON");
        assert!(problems.is_empty());
        let a = tree.get(tree.root(), "a").expect("a is there");
        let values: Vec<_> = tree.children(a).map(|id| tree.scalar(id)).collect();
        assert_eq!(
            values,
            [
                Some(Scalar::Number("1")),
                Some(Scalar::Number("-2.5e3")),
                Some(Scalar::Bool(true)),
                Some(Scalar::Null),
                Some(Scalar::Text("x\n\u{e9}\u{1f600}/")),
            ]
        );
        assert_eq!(tree.position(a), Position { line: 2, column: 7 });
    }

    #[test]
    fn what_is_not_json_is_refused_where_it_stands() {
        for (text, line, column) in [
            ("", 1, 1),
            ("{\"a\": 1,}", 1, 9),
            ("[1 2]", 1, 4),
            ("{a: 1}", 1, 2),
            ("{\"a\"\n:\n tru}", 3, 2),
            ("01", 1, 1),
            ("1.", 1, 1),
            ("\"\\ud800\"", 1, 8),
            ("\"\\x\"", 1, 4),
            ("{} {}", 1, 4),
            ("\"a", 1, 3),
            ("\"\\\u{e9}\"", 1, 3),
            ("\"\\u00\u{e9}\"", 1, 4),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was accepted"));
            assert_eq!(error.at, Position { line, column }, "{text}: {}", error.reason);
        }
    }

    #[test]
    fn a_depth_bomb_is_an_error_and_duplicate_keys_are_reported() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
        let (_, problems) = parse("{\"a\": 1, \"a\": 2}").expect("it is JSON");
        assert_eq!(problems[0].reason, "duplicate key \"a\"");
    }
}
