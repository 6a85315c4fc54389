//! Where a message came from, and how findings about it are told.

use super::encode::Spelling;
use super::findings::{Found, Noted};
use super::locate::locate;
use super::tree::{Position, SyntaxError, Tree};
use super::{json, text, yaml};
use nuncio_filter_api::{Invalid, InvalidKind};
use std::cell::OnceCell;
use std::fmt::{self, Display};
use std::sync::Arc;

/// How a source spells its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`, and the command line's `--config-yaml`.
    Yaml,
    /// `.json`, and any other ending.
    Json,
    /// `.pb`: wire format.
    Binary,
    /// `.pb_text`: protobuf's text format.
    Text,
}

impl Format {
    /// The format that Envoy reads a file of this name in.
    pub fn of_path(path: &str) -> Self {
        let path = path.to_ascii_lowercase();
        if path.ends_with(".yaml") || path.ends_with(".yml") {
            Self::Yaml
        } else if path.ends_with(".pb") {
            Self::Binary
        } else if path.ends_with(".pb_text") {
            Self::Text
        } else {
            Self::Json
        }
    }
}

/// One text or blob to load a message from.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    format: Format,
    bytes: Vec<u8>,
}

impl Source {
    /// A source called `name` in what is said about it, usually its path.
    pub fn new(name: &str, format: Format, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), format, bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn spelling(&self) -> Spelling {
        match self.format {
            Format::Text => Spelling::Text,
            Format::Yaml | Format::Json | Format::Binary => Spelling::Json,
        }
    }

    /// The tree of a text with what is wrong in it, or nothing for wire format.
    pub(super) fn read(&self) -> Result<Option<(Tree, Vec<SyntaxError>)>, SyntaxError> {
        match self.format {
            Format::Binary => Ok(None),
            Format::Yaml => yaml::parse(self.text()?).map(Some),
            Format::Json => json::parse(self.text()?).map(Some),
            Format::Text => text::parse(self.text()?).map(Some),
        }
    }

    fn text(&self) -> Result<&str, SyntaxError> {
        // Offsets into the text are 32 bits wide in a tree.
        if u32::try_from(self.bytes.len()).is_err() {
            let at = Position { line: 1, column: 1 };
            return Err(SyntaxError { at, reason: "larger than 4 GiB".to_owned() });
        }
        let text = std::str::from_utf8(&self.bytes).map_err(|e| {
            let before = &self.bytes[..e.valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() as u32 + 1;
            let column = before.iter().rev().take_while(|b| **b != b'\n').count() as u32 + 1;
            SyntaxError { at: Position { line, column }, reason: "the text is not valid UTF-8".to_owned() }
        })?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    pub(super) fn problem(&self, error: SyntaxError) -> Problem {
        Problem {
            invalid: Invalid { path: String::new(), reason: error.reason, kind: InvalidKind::Value },
            place: Some(self.place(error.at)),
            suggestion: None,
        }
    }

    fn place(&self, position: Position) -> Place {
        Place { source: Arc::clone(&self.name), position: Some(position) }
    }
}

impl Found {
    /// The problem of something found while reading `source`.
    pub(super) fn in_source(self, source: &Source) -> Problem {
        let place = Place { source: Arc::clone(&source.name), position: self.at };
        Problem { invalid: self.invalid, place: Some(place), suggestion: self.suggestion }
    }
}

/// The sources of one message, in the order they were merged.
pub struct Sources {
    all: Vec<Source>,
    trees: OnceCell<Vec<Option<Tree>>>,
}

impl Sources {
    /// `trees` are those of `all`, where reading them already made any.
    pub(super) fn new(all: Vec<Source>, trees: Vec<Option<Tree>>) -> Self {
        Self { all, trees: OnceCell::from(trees) }
    }

    /// Frees what can be made again.
    pub(super) fn forget_trees(&mut self) {
        self.trees.take();
    }

    /// Where the value at `path` stands. Text is parsed again at the first call: only failures ask.
    pub fn locate(&self, path: &str) -> Option<Place> {
        let read = |source: &Source| source.read().ok().flatten().map(|(tree, _)| tree);
        let trees = self.trees.get_or_init(|| self.all.iter().map(read).collect());
        let trees: Vec<Option<&Tree>> = trees.iter().map(Option::as_ref).collect();
        match locate(&trees, path) {
            Some((source, position)) => Some(self.all[source].place(position)),
            // Wire format has no lines, but a name.
            None => self.all.last().map(|source| Place { source: Arc::clone(&source.name), position: None }),
        }
    }

    /// The refusal of a later step, with its place.
    pub fn explain(&self, invalid: Invalid) -> Problem {
        Problem { place: self.locate(&invalid.path), invalid, suggestion: None }
    }

    pub(super) fn problem(&self, found: Found) -> Problem {
        Problem { place: self.locate(&found.invalid.path), invalid: found.invalid, suggestion: found.suggestion }
    }

    pub(super) fn warning(&self, noted: Noted) -> Warning {
        Warning { kind: noted.kind, place: self.locate(&noted.path), path: noted.path, text: noted.text }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|s| &s.name)).finish()
    }
}

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the source.
    pub source: Arc<str>,
    /// Line and column, if it is a text.
    pub position: Option<Position>,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(Position { line, column }) => write!(f, "{}:{line}:{column}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

/// A refusal, with all that helps the user to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path, reason and kind.
    pub invalid: Invalid,
    /// Where it stands.
    pub place: Option<Place>,
    /// The name that may have been meant.
    pub suggestion: Option<String>,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.invalid.path.is_empty() {
            write!(f, "{}: ", self.invalid.path)?;
        }
        f.write_str(&self.invalid.reason)?;
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean {name:?}?"),
            None => Ok(()),
        }
    }
}

/// What a [`Warning`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// A field or enum value that Envoy will remove.
    Deprecated,
    /// A field or message that Envoy says may change.
    WorkInProgress,
    /// A field that the schema lacks, passed over.
    UnknownField,
}

/// Something that the user should know of a config that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// Path of the first use.
    pub path: String,
    /// Place of the first use.
    pub place: Option<Place>,
    /// One sentence without full stop.
    pub text: String,
}

impl Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}: {}", self.path, self.text),
            None => write!(f, "{}: {}", self.path, self.text),
        }
    }
}
