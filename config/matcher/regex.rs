//! Regular expressions in the syntax of RE2, matched in linear time on inputs of which each byte is a character.

mod program;
mod simple;
mod syntax;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::r#type::matcher::v3 as proto;
use program::{Extent, Program};
use regex_syntax::hir::{Hir, HirKind, Look};
use simple::Simple;

/// Bytes a compiled expression may take: the bound that RE2's program size stands for.
const SIZE_LIMIT: usize = 4 << 20;
/// Levels of nesting, as RE2 bounds them.
const NEST_LIMIT: u32 = 1000;
/// Levels of nesting that are put around an expression that must match the whole of its input.
const NEST_AROUND: u32 = 2;

/// A regular expression that must match the whole of its input.
#[derive(Clone, Debug)]
pub struct Regex {
    full: Program,
    /// What every match begins with.
    prefix: Box<[u8]>,
    /// What every match has somewhere.
    literals: Box<[Box<[u8]>]>,
}

impl Regex {
    /// Compiles the pattern.
    pub fn lower(matcher: proto::RegexMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let regex = Self::lower_unhurried(matcher, cx)?;
        regex.make_ready();
        Ok(regex)
    }

    /// Checks the pattern, which may be compiled as late as [`Regex::make_ready`] or the first match.
    pub(crate) fn lower_unhurried(matcher: proto::RegexMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pattern = pattern(matcher);
        cx.at("regex", |cx| Self::from_pattern(&pattern, cx))
    }

    /// As [`Regex::lower_unhurried`], of a pattern without message.
    pub(crate) fn from_pattern(pattern: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if let Some(Simple { prefix, literals }) = simple::analyse(pattern) {
            let full = Program::of_checked(pattern, Extent::Whole);
            return Ok(Self { full, prefix: prefix.into(), literals: literals.into() });
        }
        let (syntax, hir) = parse(pattern, cx)?;
        let full = Program::lower(syntax, Extent::Whole, &hir, pattern, cx)?;
        Ok(Self { full, prefix: literal_prefix(&hir).into(), literals: required_literals(&hir).into() })
    }

    /// Compiles it, if it is not yet.
    pub(crate) fn make_ready(&self) {
        self.full.get();
    }

    /// The groups of a match of all of `input`.
    pub(crate) fn captures<'a>(&self, input: &'a [u8]) -> Option<regex::bytes::Captures<'a>> {
        self.full.get()?.captures(input)
    }

    /// Whether the expression matches all of `input`.
    pub fn is_match(&self, input: &[u8]) -> bool {
        self.full.get().is_some_and(|full| full.is_match(input))
    }

    /// The literal that every input it matches begins with; empty if there is none.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Literals that every input it matches has, each somewhere.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.literals.iter().map(|literal| &**literal)
    }
}

/// A regular expression whose matches are replaced (`RegexMatchAndSubstitute`).
#[derive(Clone, Debug)]
pub struct Substitution {
    /// Compiled with the first path to rewrite: there is one of these for each request at most.
    regex: Program,
    /// None where it names a group that the pattern lacks: RE2 then replaces nothing.
    parts: Option<Box<[Part]>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    Group(usize),
}

impl Substitution {
    /// Compiles pattern and substitution.
    pub fn lower(message: proto::RegexMatchAndSubstitute, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::RegexMatchAndSubstitute { pattern: matcher, substitution } = message;
        let (regex, groups) = cx.at("pattern", |cx| {
            let Some(matcher) = matcher else { return Err(cx.invalid("is required")) };
            let pattern = pattern(matcher);
            cx.at("regex", |cx| {
                let (syntax, hir) = parse(&pattern, cx)?;
                let groups = 1 + hir.properties().explicit_captures_len();
                Program::lower(syntax, Extent::Part, &hir, &pattern, cx).map(|program| (program, groups))
            })
        })?;
        let parts = parts(&substitution, groups);
        Ok(Self { regex, parts })
    }

    /// `input` with every match replaced; `None` where nothing matches.
    pub fn replace_all(&self, input: &[u8]) -> Option<Vec<u8>> {
        let parts = self.parts.as_ref()?;
        let mut found = self.regex.get()?.captures_iter(input).peekable();
        found.peek()?;
        let mut out = Vec::with_capacity(input.len() + 16);
        let mut copied = 0;
        for groups in found {
            let Some(whole) = groups.get(0) else { continue };
            out.extend_from_slice(&input[copied..whole.start()]);
            copied = whole.end();
            for part in parts {
                match part {
                    Part::Literal(bytes) => out.extend_from_slice(bytes),
                    Part::Group(n) => out.extend_from_slice(groups.get(*n).map_or(&[], |m| m.as_bytes())),
                }
            }
        }
        out.extend_from_slice(&input[copied..]);
        Some(out)
    }
}

/// Splits a substitution in RE2's syntax: `\0` to `\9` are groups, `\\` a backslash, and at any other backslash it ends.
fn parts(text: &str, groups: usize) -> Option<Box<[Part]>> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                parts.push(Part::Group(usize::from(digit - b'0')));
            }
            _ => break,
        }
    }
    parts.push(Part::Literal(literal.into()));
    let known = parts.iter().all(|part| !matches!(part, Part::Group(n) if *n >= groups));
    known.then(|| parts.into())
}

/// `engine_type` names the only engine there is. Its `max_program_size` bounds RE2's programs, which are not ours:
/// [`SIZE_LIMIT`] bounds the memory instead.
fn pattern(matcher: proto::RegexMatcher) -> String {
    let proto::RegexMatcher { regex, engine_type: _ } = matcher;
    regex
}

fn parse(pattern: &str, cx: &mut LowerCx<'_>) -> Result<(String, Hir), Refused> {
    let syntax = syntax::translate(pattern);
    let mut parser = regex_syntax::ParserBuilder::new();
    let parser = parser.unicode(false).utf8(false).nest_limit(NEST_LIMIT - NEST_AROUND).build().parse(&syntax);
    match parser {
        Ok(hir) => Ok((syntax, hir)),
        Err(error) => {
            let (reason, at) = match &error {
                regex_syntax::Error::Parse(e) => (e.kind().to_string(), Some(e.span().start.offset)),
                regex_syntax::Error::Translate(e) => (e.kind().to_string(), Some(e.span().start.offset)),
                _ => (error.to_string(), None),
            };
            // The position is one in the translated text: worth telling only where both are the same.
            let place = at.filter(|_| syntax == pattern).map_or(String::new(), |at| format!(" at position {at}"));
            Err(cx.invalid(format!("invalid regular expression {pattern:?}{place}: {reason}")))
        }
    }
}

/// The bytes with which every match of the whole input begins.
fn literal_prefix(hir: &Hir) -> Vec<u8> {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let mut prefix = Vec::new();
    for part in parts {
        match part.kind() {
            HirKind::Look(Look::Start) => {}
            HirKind::Literal(literal) => prefix.extend_from_slice(&literal.0),
            _ => break,
        }
    }
    prefix
}

/// The literals that every match has: those that no alternative and no repetition of zero times can pass by.
fn required_literals(hir: &Hir) -> Vec<Box<[u8]>> {
    let mut found = Vec::new();
    let mut open = vec![hir];
    while let Some(hir) = open.pop() {
        match hir.kind() {
            HirKind::Literal(literal) => found.push(literal.0.clone()),
            HirKind::Concat(parts) => open.extend(parts),
            HirKind::Capture(capture) => open.push(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => open.push(&repetition.sub),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
