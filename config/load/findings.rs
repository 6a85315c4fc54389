//! What loading finds wrong or worth a word, collected to the end instead of stopping at the first.

use super::schema::{Field, Message, Note};
use super::tree::Position;
use super::{UnknownFields, WarningKind};
use nuncio_filter_api::{Invalid, InvalidKind};
use std::collections::HashSet;
use std::fmt::Write;

/// Findings above which one source's are no longer collected: a file that wrong is of the wrong kind.
const MAX_FINDINGS: usize = 1000;

/// Suggestions made for one load: each compares a name with all there are, and one wrong template repeats its mistake.
const MAX_SUGGESTIONS: usize = 50;

/// The way from the root to a value, as a list through the stack frames of the walk: made into text only on a finding.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(super) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    pub(super) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    pub(super) fn text(&self) -> String {
        let mut steps = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            steps.push(path.step);
            next = path.parent;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Root => Ok(()),
                Step::Field(name) if text.is_empty() => write!(text, "{name}"),
                Step::Field(name) => write!(text, ".{name}"),
                Step::Index(index) => write!(text, "[{index}]"),
                Step::Key(key) => write!(text, "[{key:?}]"),
            };
        }
        text
    }
}

/// A refusal, its place known only if it was found while reading text.
pub(super) struct Found {
    pub(super) invalid: Invalid,
    pub(super) at: Option<Position>,
    pub(super) suggestion: Option<String>,
}

/// Something to tell the user that refuses nothing.
pub(super) struct Noted {
    pub(super) kind: WarningKind,
    pub(super) path: String,
    pub(super) text: String,
}

pub(super) struct Findings {
    pub(super) unknown: UnknownFields,
    pub(super) refused: Vec<Found>,
    /// How many were refused, those since taken from the list among them.
    count: usize,
    suggestions: usize,
    /// Where values were refused that are now missing.
    pub(super) known_wrong: Vec<String>,
    pub(super) noted: Vec<Noted>,
    /// Unknown fields met and let pass.
    pub(super) unknown_count: u64,
    /// Uses of deprecated fields.
    pub(super) deprecated_count: u64,
    seen: HashSet<String>,
}

impl Findings {
    pub(super) fn new(unknown: UnknownFields) -> Self {
        Self {
            unknown,
            refused: Vec::new(),
            count: 0,
            suggestions: 0,
            known_wrong: Vec::new(),
            noted: Vec::new(),
            unknown_count: 0,
            deprecated_count: 0,
            seen: HashSet::new(),
        }
    }

    /// Whether no more are taken, so that the walk may as well end.
    pub(super) fn is_full(&self) -> bool {
        self.count >= MAX_FINDINGS
    }

    /// Whether the value at `path`, or one in it, was refused before.
    pub(super) fn is_known_wrong(&self, path: &Path<'_>) -> bool {
        !self.known_wrong.is_empty() && {
            let path = path.text();
            self.known_wrong.iter().any(|wrong| wrong.starts_with(&path))
        }
    }

    pub(super) fn wrong(&mut self, path: &Path<'_>, at: Option<Position>, reason: impl Into<String>) {
        self.refuse(InvalidKind::Value, path, at, reason.into(), || None);
    }

    pub(super) fn refuse(
        &mut self,
        kind: InvalidKind,
        path: &Path<'_>,
        at: Option<Position>,
        reason: String,
        suggest: impl FnOnce() -> Option<String>,
    ) {
        if !self.is_full() {
            self.count += 1;
            self.suggestions += 1;
            let suggestion = if self.suggestions <= MAX_SUGGESTIONS { suggest() } else { None };
            self.refused.push(Found { invalid: Invalid { path: path.text(), reason, kind }, at, suggestion });
        }
    }

    /// An unknown field: refused, counted or passed over, by the policy.
    pub(super) fn unknown_field(
        &mut self,
        path: &Path<'_>,
        at: Option<Position>,
        message: &Message,
        suggest: impl FnOnce() -> Option<String>,
    ) {
        let reason = format!("unknown field in {}", message.name);
        self.unknown(InvalidKind::UnknownField, path, at, reason, suggest);
    }

    /// An unknown name of an enum's value. As in Envoy, the same is done as with an unknown field.
    pub(super) fn unknown_name(
        &mut self,
        path: &Path<'_>,
        at: Option<Position>,
        reason: String,
        suggest: impl FnOnce() -> Option<String>,
    ) {
        self.unknown(InvalidKind::Value, path, at, reason, suggest);
    }

    fn unknown(
        &mut self,
        kind: InvalidKind,
        path: &Path<'_>,
        at: Option<Position>,
        text: String,
        suggest: impl FnOnce() -> Option<String>,
    ) {
        match self.unknown {
            UnknownFields::Reject => self.refuse(kind, path, at, text, suggest),
            UnknownFields::Ignore => {}
            UnknownFields::Count => {
                self.unknown_count += 1;
                let path = path.text();
                if self.seen.insert(path.clone()) && self.noted.len() < MAX_FINDINGS {
                    self.noted.push(Noted { kind: WarningKind::UnknownField, path, text });
                }
            }
        }
    }

    /// The use of a field or enum value with a note.
    pub(super) fn used(&mut self, note: Note, what: &str, path: &Path<'_>) {
        if note == Note::Disallowed {
            let reason = format!("{what} is deprecated and no longer allowed");
            return self.wrong(path, None, reason);
        }
        let (kind, text) = match note {
            Note::WorkInProgress => (WarningKind::WorkInProgress, "is work in progress and may change"),
            Note::Deprecated | Note::Disallowed => (WarningKind::Deprecated, "is deprecated"),
        };
        self.deprecated_count += u64::from(kind == WarningKind::Deprecated);
        if self.seen.insert(what.to_owned()) {
            self.noted.push(Noted { kind, path: path.text(), text: format!("{what} {text}") });
        }
    }

    pub(super) fn used_field(&mut self, note: Note, message: &Message, field: &Field, path: &Path<'_>) {
        self.used(note, &format!("{}.{}", message.name, field.name), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_lowering_writes_it() {
        let clusters = Path::ROOT.field("static_resources");
        let clusters = clusters.field("clusters");
        let cluster = clusters.index(3);
        let options = cluster.field("typed_extension_protocol_options");
        assert_eq!(
            options.key("a.b").field("x").text(),
            "static_resources.clusters[3].typed_extension_protocol_options[\"a.b\"].x"
        );
    }
}
