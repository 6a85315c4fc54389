//! Protobuf's text format to a [`Tree`]: a repeated field is a key that comes several times.

use super::tree::{Builder, Kind, Position, SyntaxError, Tree};

/// Reads the one message of `text`.
pub(super) fn parse(text: &str) -> Result<(Tree, Vec<SyntaxError>), SyntaxError> {
    let mut builder = Builder::new(text.len());
    builder.allow_duplicate_keys();
    let mut reader = Reader { text, at: 0, line: 1, line_start: 0, builder };
    let start = reader.position();
    reader.builder.begin(Kind::Mapping, start)?;
    reader.fields(None)?;
    let tree = reader.builder.finish().expect("the root was opened and closed");
    Ok((tree, Vec::new()))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
    builder: Builder,
}

impl<'a> Reader<'a> {
    /// Fields up to `close`, or to the end of the text. Closes the mapping that the caller opened.
    fn fields(&mut self, close: Option<u8>) -> Result<(), SyntaxError> {
        loop {
            self.space();
            match self.peek() {
                None if close.is_none() => break,
                None => return Err(self.wrong("unexpected end of the text")),
                Some(c) if Some(c) == close => {
                    self.at += 1;
                    break;
                }
                Some(_) => self.field()?,
            }
            self.space();
            if let Some(b',' | b';') = self.peek() {
                self.at += 1;
            }
        }
        self.builder.end();
        Ok(())
    }

    fn field(&mut self) -> Result<(), SyntaxError> {
        let at = self.position();
        let name = match self.peek() {
            // A type URL in an Any. Names of extensions look alike, and no message of Envoy has any.
            Some(b'[') => self.take_until(b']')?,
            _ => self.word(),
        };
        if name.is_empty() {
            return Err(self.wrong("expected the name of a field"));
        }
        self.builder.scalar(Kind::Quoted, name, at);
        self.space();
        let has_colon = self.peek() == Some(b':');
        if has_colon {
            self.at += 1;
            self.space();
        }
        match self.peek() {
            Some(b'{' | b'<') => self.value(),
            Some(_) if has_colon => self.value(),
            _ => Err(self.wrong("expected ':' or a message")),
        }
    }

    /// Recursion is bounded: the builder refuses the level after the hundredth.
    fn value(&mut self) -> Result<(), SyntaxError> {
        let at = self.position();
        match self.peek() {
            Some(open @ (b'{' | b'<')) => {
                self.builder.begin(Kind::Mapping, at)?;
                self.at += 1;
                self.fields(Some(if open == b'{' { b'}' } else { b'>' }))
            }
            Some(b'[') => {
                self.builder.begin(Kind::Sequence, at)?;
                self.at += 1;
                self.list()
            }
            Some(b'"' | b'\'') => self.string(at),
            Some(b'-' | b'.' | b'0'..=b'9') => self.number(at),
            Some(c) if c.is_ascii_alphabetic() || c == b'_' => {
                let word = self.word();
                self.builder.scalar(Kind::Word, word, at);
                Ok(())
            }
            _ => Err(self.wrong("expected a value")),
        }
    }

    fn list(&mut self) -> Result<(), SyntaxError> {
        self.space();
        while self.peek() != Some(b']') {
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.wrong("expected ',' or ']'")),
            }
            self.space();
        }
        self.at += 1;
        self.builder.end();
        Ok(())
    }

    /// One string, which may be written as several in a row.
    fn string(&mut self, at: Position) -> Result<(), SyntaxError> {
        let mut bytes = Vec::new();
        while let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.at += 1;
            loop {
                let Some(c) = self.peek().filter(|c| *c != b'\n') else {
                    return Err(self.wrong("unexpected end of a string"));
                };
                self.at += 1;
                match c {
                    c if c == quote => break,
                    b'\\' => self.escape(&mut bytes)?,
                    c => bytes.push(c),
                }
            }
            self.space();
        }
        let wrong = |_| SyntaxError { at, reason: "escapes that are not UTF-8 are not supported".to_owned() };
        let text = String::from_utf8(bytes).map_err(wrong)?;
        self.builder.scalar(Kind::Quoted, &text, at);
        Ok(())
    }

    /// What stands after a backslash, as in C.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let Some(c) = self.peek() else { return Err(self.wrong("unexpected end of a string")) };
        self.at += usize::from(c.is_ascii());
        match c {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'a' => bytes.push(7),
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'v' => bytes.push(11),
            b'\\' | b'\'' | b'"' | b'?' => bytes.push(c),
            b'x' | b'X' => bytes.push(self.code(16, 2)? as u8),
            b'0'..=b'7' => {
                self.at -= 1;
                bytes.push(self.code(8, 3)? as u8);
            }
            b'u' | b'U' => {
                let code = self.code(16, if c == b'u' { 4 } else { 8 })?;
                let c = char::from_u32(code).ok_or_else(|| self.wrong("no such character"))?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(self.wrong("unknown escape in a string")),
        }
        Ok(())
    }

    fn code(&mut self, radix: u32, at_most: usize) -> Result<u32, SyntaxError> {
        let rest = &self.text.as_bytes()[self.at..];
        let digits = rest.iter().take(at_most).take_while(|b| char::from(**b).is_digit(radix)).count();
        let code = u32::from_str_radix(&self.text[self.at..self.at + digits], radix);
        let code = code.map_err(|_| self.wrong("expected digits in an escape"))?;
        self.at += digits;
        Ok(code)
    }

    fn number(&mut self, at: Position) -> Result<(), SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
            self.space();
        }
        let sign = if self.at > start { "-" } else { "" };
        let body = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_'))
            || (self.peek().is_some_and(|c| matches!(c, b'+' | b'-')) && self.after_exponent(body))
        {
            self.at += 1;
        }
        let body = &self.text[body..self.at];
        if matches!(body, "inf" | "infinity" | "nan") {
            self.builder.scalar(Kind::Word, &format!("{sign}{body}"), at);
            return Ok(());
        }
        match decimal(body) {
            Some(decimal) => self.builder.scalar(Kind::Number, &format!("{sign}{decimal}"), at),
            None => return Err(SyntaxError { at, reason: "malformed number".to_owned() }),
        };
        Ok(())
    }

    fn after_exponent(&self, start: usize) -> bool {
        let body = &self.text.as_bytes()[start..self.at];
        matches!(body.last(), Some(b'e' | b'E')) && !body.starts_with(b"0x")
    }

    fn take_until(&mut self, close: u8) -> Result<&'a str, SyntaxError> {
        let rest = &self.text[self.at..];
        let Some(end) = rest.bytes().position(|b| b == close) else {
            return Err(self.wrong("expected ']'"));
        };
        self.at += end + 1;
        Ok(&rest[..=end])
    }

    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        self.at += len;
        &rest[..len]
    }

    /// White space and comments.
    fn space(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                b'\n' => {
                    self.line += 1;
                    self.line_start = self.at + 1;
                }
                b'#' => {
                    let rest = &self.text.as_bytes()[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                    continue;
                }
                b' ' | b'\t' | b'\r' => {}
                _ => break,
            }
            self.at += 1;
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

/// A number as JSON would write it: C's octal and hexadecimal integers and the `f` of floats are of the text format.
fn decimal(body: &str) -> Option<String> {
    let bytes = body.as_bytes();
    match bytes {
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(&body[2..], 16).ok().map(|n| n.to_string()),
        [b'0', b'0'..=b'7', ..] if !body.contains(['.', 'e', 'E']) => {
            u64::from_str_radix(&body[1..], 8).ok().map(|n| n.to_string())
        }
        _ => {
            let number = body.strip_suffix(['f', 'F']).unwrap_or(body);
            let is_number = number.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            (is_number && number.parse::<f64>().is_ok()).then(|| number.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Scalar;
    use super::*;

    #[test]
    fn fields_of_every_form_are_read() {
        let text = "a: 1 b { c: 'x' \"y\\n\\x41\\101\" }, # note\nd: [1, -0x10]; e <f: -inf> a: 2.5f [t/u.V] { g: ON }";
        let (tree, _) = parse(text).expect("it is text format");
        let top: Vec<&str> = tree.pairs(tree.root()).map(|(key, _)| tree.text(key)).collect();
        assert_eq!(top, ["a", "b", "d", "e", "a", "[t/u.V]"]);
        let c = tree.get(tree.root(), "b").and_then(|b| tree.get(b, "c")).expect("c is there");
        assert_eq!(tree.scalar(c), Some(Scalar::Text("xy\nAA")));
        let d = tree.get(tree.root(), "d").expect("d is there");
        let values: Vec<_> = tree.children(d).map(|id| tree.scalar(id)).collect();
        assert_eq!(values, [Some(Scalar::Number("1")), Some(Scalar::Number("-16"))]);
        let f = tree.get(tree.root(), "e").and_then(|e| tree.get(e, "f")).expect("f is there");
        assert_eq!(tree.scalar(f), Some(Scalar::Word("-inf")));
    }

    #[test]
    fn what_is_no_text_format_is_refused() {
        for text in [
            "a",
            "a 1",
            "a: ",
            "a {",
            "a: [1",
            "a: 'x",
            "a: '\\",
            "a: '\\xg'",
            ": 1",
            "[a",
            "}",
            "a: 1.2.3",
            "a: '\\xff'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"a {".repeat(100_000)).is_err());
        assert!(parse(&format!("a: {}", "[".repeat(100_000))).is_err());
    }
}
