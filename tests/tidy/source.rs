//! One Rust file, split into code and comments well enough to count and search: not a parser.

use std::path::Path;

/// The text of one file, with its literals and comments told apart from its code.
pub(crate) struct Source {
    /// Path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// The code with the content of literals and comments blanked, line by line as in the file.
    code: Vec<String>,
    /// The comments alone, line by line as in the file.
    comments: Vec<String>,
    /// For each line, whether it belongs to tests.
    in_tests: Vec<bool>,
}

/// A function and how long it is, from `fn` to its closing brace.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn read(root: &Path, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let path = path.strip_prefix(root).expect("found below the root").to_string_lossy().into_owned();
        Self::new(path, &text)
    }

    fn new(path: String, text: &str) -> Self {
        let (code, comments) = split(text);
        let code: Vec<String> = code.lines().map(str::to_owned).collect();
        let comments = comments.lines().map(str::to_owned).collect();
        let in_tests = if is_test_file(&path) { vec![true; code.len()] } else { test_lines(&code) };
        Self { path, code, comments, in_tests }
    }

    /// Lines of the file, tests inside it not counted; a file of tests counts whole.
    pub(crate) fn code_lines(&self) -> usize {
        if is_test_file(&self.path) { self.code.len() } else { self.in_tests.iter().filter(|t| !**t).count() }
    }

    pub(crate) fn code_lines_containing(&self, needle: &str) -> Vec<String> {
        let shipped = self.code.iter().zip(&self.in_tests).filter(|(_, in_tests)| !**in_tests);
        shipped.filter(|(line, _)| line.contains(needle)).map(|(line, _)| line.trim().to_owned()).collect()
    }

    /// Paths of the files that this one declares for tests alone: `#[cfg(test)] mod name;`.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let folder = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let folder = folder.strip_suffix("/lib").or_else(|| folder.strip_suffix("/main")).unwrap_or(folder);
        let lines = self.code.iter().zip(&self.in_tests).filter(|(_, in_tests)| **in_tests);
        lines
            .filter_map(|(line, _)| line.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
            .map(|name| format!("{folder}/{name}.rs"))
            .collect()
    }

    pub(crate) fn mark_as_tests(&mut self) {
        self.in_tests.fill(true);
    }

    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, line) in self.code.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            if let Some(end) = closing_line(&self.code, at) {
                found.push(Function { name, lines: end - at + 1 });
            }
        }
        found
    }

    /// Comments that name a line of a file, such as `foo.rs` and a number behind a colon: they rot.
    pub(crate) fn line_citations(&self) -> Vec<String> {
        let cites = |line: &str| {
            [".rs:", ".cc:", ".h:", ".proto:", ".c:"].iter().any(|suffix| {
                line.match_indices(suffix)
                    .any(|(at, _)| line[at + suffix.len()..].starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        self.comments.iter().filter(|line| cites(line)).map(|line| format!("{}: {}", self.path, line.trim())).collect()
    }
}

fn is_test_file(path: &str) -> bool {
    let mut folders = path.split('/');
    let file = folders.next_back().unwrap_or_default();
    file == "tests.rs" || folders.any(|f| f == "tests" || f == "benches" || f == "fuzz")
}

/// Marks the lines of each item that `#[cfg(test)]` (or a cfg that contains `test`) precedes.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut marks = vec![false; code.len()];
    for (at, line) in code.iter().enumerate() {
        let attribute = line.trim_start();
        if attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(any(test") {
            let end = closing_line(code, at).unwrap_or(at);
            marks[at..=end].fill(true);
        }
    }
    marks
}

/// The line on which the item that begins at line `from` ends: at its closing brace, or at `;` before any brace.
fn closing_line(code: &[String], from: usize) -> Option<usize> {
    let (mut braces, mut others) = (0usize, 0usize);
    for (at, line) in code.iter().enumerate().skip(from) {
        for c in line.chars() {
            match c {
                '{' => braces += 1,
                '}' => {
                    braces = braces.checked_sub(1)?;
                    if braces == 0 && others == 0 {
                        return Some(at);
                    }
                }
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                ';' if braces == 0 && others == 0 => return Some(at),
                _ => {}
            }
        }
    }
    None
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "fn");
    words.next()?;
    let name: String = words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// Where the scanner is in the text.
enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// The file twice, with the same line breaks: its code without literals and comments, and its comments alone.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        if rest[0] == '\n' {
            code.push('\n');
            comments.push('\n');
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            at += 1;
            continue;
        }
        let (next, taken) = step(&state, rest);
        match state {
            State::Code if matches!(next, State::Code) => code.extend(blanked(&rest[..taken])),
            State::LineComment | State::BlockComment(_) => comments.extend(&rest[..taken]),
            _ => {}
        }
        // A line comment's opening must not hide a line break that `step` took with it: it never takes one.
        state = next;
        at += taken;
    }
    (code, comments)
}

/// A char literal is kept as a blank, all other code as it is.
fn blanked(taken: &[char]) -> Vec<char> {
    if taken[0] == '\'' && taken.len() > 1 { vec![' '] } else { taken.to_vec() }
}

/// From `state` at the head of `rest`: the next state, and how many characters lead there. Takes no line break.
fn step(state: &State, rest: &[char]) -> (State, usize) {
    match state {
        State::Code if rest.starts_with(&['/', '/']) => (State::LineComment, 2),
        State::Code if rest.starts_with(&['/', '*']) => (State::BlockComment(1), 2),
        State::Code if rest[0] == '"' => (State::Text, 1),
        State::Code => match raw_text(rest) {
            Some(hashes) => (State::RawText(hashes), hashes + 2),
            None => (State::Code, code_characters(rest)),
        },
        State::LineComment => (State::LineComment, 1),
        State::BlockComment(depth) if rest.starts_with(&['/', '*']) => (State::BlockComment(depth + 1), 2),
        State::BlockComment(1) if rest.starts_with(&['*', '/']) => (State::Code, 2),
        State::BlockComment(depth) if rest.starts_with(&['*', '/']) => (State::BlockComment(depth - 1), 2),
        State::BlockComment(depth) => (State::BlockComment(*depth), 1),
        State::Text if rest[0] == '\\' && rest.get(1).is_some_and(|c| *c != '\n') => (State::Text, 2),
        State::Text if rest[0] == '"' => (State::Code, 1),
        State::Text => (State::Text, 1),
        State::RawText(hashes) => {
            let closes = rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= *hashes;
            if closes { (State::Code, hashes + 1) } else { (State::RawText(*hashes), 1) }
        }
    }
}

/// The number of `#` of the raw string that begins here, if one does.
fn raw_text(rest: &[char]) -> Option<usize> {
    if rest[0] != 'r' {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    (rest.get(1 + hashes) == Some(&'"')).then_some(hashes)
}

/// How many characters of code begin here: a whole identifier or char literal, else one character.
fn code_characters(rest: &[char]) -> usize {
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    if is_word(&rest[0]) {
        // `br"` and `r"` keep their last letter for `raw_text`; an identifier that ends in r is never followed by `"`.
        let word = rest.iter().take_while(|c| is_word(c)).count();
        return if word > 1 && rest[word - 1] == 'r' && matches!(rest.get(word), Some('"' | '#')) {
            word - 1
        } else {
            word
        };
    }
    match rest {
        ['\'', '\\', '\'', '\'', ..] => 4,
        ['\'', '\\', tail @ ..] => 2 + tail.iter().position(|c| *c == '\'' || *c == '\n').map_or(0, |n| n + 1),
        ['\'', c, '\'', ..] if *c != '\n' => 3,
        _ => 1,
    }
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = \"x { // no\"; // yes { .rs:12\nlet b = r#\"}\"#; let c = '{'; /* } */ let d = b'\\'';\n";
    let (code, comments) = split(text);
    assert_eq!(code.matches(['{', '}']).count(), 0, "{code}");
    assert!(comments.contains("yes { .rs:12") && !comments.contains("no\""));
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn tests_inside_a_file_are_not_counted() {
    let text = "fn a() {\n    b.unwrap();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() { x.unwrap(); }\n}\n";
    let source = Source::new("src/x.rs".into(), text);
    assert_eq!(source.code_lines(), 4);
    assert_eq!(source.code_lines_containing(".unwrap()").len(), 1);
    assert_eq!(source.functions()[0].lines, 3);
}

#[test]
fn a_file_that_is_declared_for_tests_is_known() {
    let text = "pub mod a;\n#[cfg(test)]\npub(crate) mod testing;\nmod b;\n";
    assert_eq!(Source::new("src/up/lib.rs".into(), text).test_modules(), ["src/up/testing.rs"]);
    assert_eq!(Source::new("src/up/pool.rs".into(), text).test_modules(), ["src/up/pool/testing.rs"]);
}

#[test]
fn a_citation_of_a_line_is_found_in_comments_only() {
    let source = Source::new("src/x.rs".into(), "// see foo.rs:12\nlet a = \"foo.rs:12\";\n// foo.rs: the thing\n");
    assert_eq!(source.line_citations(), ["src/x.rs: see foo.rs:12"]);
}
