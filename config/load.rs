//! Bytes to messages: YAML, JSON, binary and text protobuf, checked against the descriptors of Envoy.
//!
//! In: one or more [`Source`]s, merged in order as protobuf merges, or the bytes of an xDS resource. Out: a message of
//! `nuncio_proto` that breaks no rule of its protos, with warnings; or every reason for which there is none, each with
//! path, place and, where a name was misspelt, what may have been meant.
//!
//! The way: text becomes a `tree`, the tree becomes wire format by the schema (`encode`), wire format is checked
//! against the rules (`check`), and prost decodes it. xDS resources enter at the third step. Start reading at
//! [`Loader::load`].

mod check;
mod encode;
mod findings;
mod json;
mod locate;
mod mask;
mod print;
mod redact;
mod rules;
mod schema;
mod source;
mod split;
mod text;
mod tree;
mod typed_struct;
mod value;
mod wire;
mod yaml;

pub use mask::{FieldMask, NotRepeated, elements};
pub use print::{Defaults, JsonLines, rfc3339, to_json, to_json_line, to_redacted_json, to_text};
pub use redact::redacted;
pub use source::{Format, Place, Problem, Source, Sources, Warning, WarningKind};
pub use split::StaticClusters;
pub use tree::Position;
pub use value::yaml_value;
pub(crate) use wire::type_name;

use encode::encode;
use findings::Findings;
use nuncio_filter_api::{Invalid, InvalidKind};
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use prost::{Message, Name};
use schema::Schemas;

/// What to do about fields that the schema lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// Refuse the config: files by default, and xDS with `--reject-unknown-dynamic-fields`.
    Reject,
    /// Count them and warn of each once: xDS by default, and files with `--allow-unknown-static-fields`.
    Count,
    /// Pass over them: xDS with `--ignore-unknown-dynamic-fields`.
    Ignore,
}

/// A message, and what is to be said about the text it came from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The message. Its rules hold, and so do those of the messages in its Anys.
    pub message: T,
    /// Where it came from: turns paths of later refusals into places.
    pub sources: Sources,
    /// One for each deprecated or unfinished field used, and for each unknown field counted.
    pub warnings: Vec<Warning>,
    /// Unknown fields passed over and counted.
    pub unknown_fields: u64,
    /// Uses of deprecated fields.
    pub deprecated_fields: u64,
}

/// Loads messages. Keeps the schemas it compiled: use one for many loads that follow each other, then drop it.
pub struct Loader {
    schemas: Schemas,
    unknown: UnknownFields,
}

impl Loader {
    /// A loader that treats unknown fields by `unknown`.
    pub fn new(unknown: UnknownFields) -> Self {
        Self { schemas: Schemas::default(), unknown }
    }

    /// Loads a message from `sources`, later ones merged over earlier ones: scalars override, messages merge, lists
    /// are appended. On failure tells all that is wrong.
    pub fn load<T: Message + Name + Default>(&mut self, sources: Vec<Source>) -> Result<Loaded<T>, Vec<Problem>> {
        let (bytes, loaded) = self.load_encoded(&T::full_name(), sources)?;
        loaded.decode(&bytes)
    }

    /// Loads a bootstrap, its static clusters apart: each is decoded when its turn comes to be lowered, so that there
    /// is never room taken for all (3.4 KB apiece as messages, some 100 bytes encoded).
    pub fn load_bootstrap(
        &mut self,
        sources: Vec<Source>,
    ) -> Result<(Loaded<Bootstrap>, StaticClusters), Vec<Problem>> {
        let (bytes, loaded) = self.load_encoded(&Bootstrap::full_name(), sources)?;
        let (rest, clusters) = StaticClusters::split(bytes);
        Ok((loaded.decode(&rest)?, clusters))
    }

    /// What is left of a bootstrap that was refused, without the values that are wrong: to be lowered for the sake of
    /// what else is wrong with it, never to be run. `None` if one of `sources` cannot be read at all.
    pub fn salvage_bootstrap(&mut self, sources: Vec<Source>) -> Option<(Loaded<Bootstrap>, StaticClusters)> {
        let (bytes, loaded) = self.salvage_encoded(&Bootstrap::full_name(), sources)?;
        let (rest, clusters) = StaticClusters::split(bytes);
        Some((loaded.decode(&rest).ok()?, clusters))
    }

    /// What is left of a message that was refused, without the values that are wrong, for where Envoy makes do with less.
    /// `None` if one of `sources` cannot be read at all.
    pub fn salvage<T: Message + Name + Default>(&mut self, sources: Vec<Source>) -> Option<Loaded<T>> {
        let (bytes, loaded) = self.salvage_encoded(&T::full_name(), sources)?;
        loaded.decode(&bytes).ok()
    }

    fn salvage_encoded(&mut self, name: &str, sources: Vec<Source>) -> Option<(Vec<u8>, Loaded<()>)> {
        let attempt = self.attempt(name, sources);
        attempt.readable.then(|| attempt.loaded())
    }

    /// The merged and checked message, encoded, and all else that is said of it.
    fn load_encoded(&mut self, name: &str, sources: Vec<Source>) -> Result<(Vec<u8>, Loaded<()>), Vec<Problem>> {
        let attempt = self.attempt(name, sources);
        if attempt.problems.is_empty() { Ok(attempt.loaded()) } else { Err(attempt.problems) }
    }

    fn attempt(&mut self, name: &str, sources: Vec<Source>) -> Attempt {
        let schema = self.schemas.find(name).expect("every message of nuncio_proto is described");
        let mut findings = Findings::new(self.unknown);
        let mut bytes = Vec::new();
        let mut trees = Vec::new();
        let mut problems = Vec::new();
        let mut readable = true;
        for source in &sources {
            let before = findings.refused.len();
            let mut kept = None;
            match source.read() {
                Ok(None) => bytes.extend_from_slice(&typed_struct::resolve(
                    &schema,
                    source.bytes(),
                    &mut self.schemas,
                    &mut findings,
                )),
                Ok(Some((tree, wrong))) => {
                    problems.extend(wrong.into_iter().map(|e| source.problem(e)));
                    bytes.extend(encode(&tree, source.spelling(), &schema, &mut self.schemas, &mut findings));
                    kept = Some(tree);
                }
                Err(e) => {
                    readable = false;
                    problems.push(source.problem(e));
                }
            }
            trees.push(kept);
            problems.extend(findings.refused.drain(before..).map(|found| found.in_source(source)));
        }
        findings.known_wrong = problems.iter().map(|problem| problem.invalid.path.clone()).collect();
        check::check(&schema, &bytes, &mut self.schemas, &mut findings);
        let sources = Sources::new(sources, trees);
        let follow = findings.refused.drain(..).filter(|found| !follows(&found.invalid.path, &problems));
        let follow = follow.collect::<Vec<_>>();
        problems.extend(follow.into_iter().map(|found| sources.problem(found)));
        Attempt { bytes, sources, findings, problems, readable }
    }

    /// Loads a message from wire format, as xDS delivers it. `name` stands for the source in what is said about it.
    pub fn load_wire<T: Message + Name + Default>(
        &mut self,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Loaded<T>, Vec<Problem>> {
        self.load(vec![Source::new(name, Format::Binary, bytes)])
    }

    /// Whether a message in wire format breaks the rules of its protos by itself, whatever is in the Anys that it holds.
    pub fn is_malformed<T: Message + Name + Default>(&mut self, bytes: &[u8]) -> bool {
        let schema = self.schemas.find(&T::full_name()).expect("every message of nuncio_proto is described");
        let mut findings = Findings::new(self.unknown);
        check::check_outside_any(&schema, bytes, &mut self.schemas, &mut findings);
        !findings.refused.is_empty() || T::decode(bytes).is_err()
    }
}

/// What came of reading, encoding and checking.
struct Attempt {
    bytes: Vec<u8>,
    sources: Sources,
    findings: Findings,
    /// Why it is refused, if it is.
    problems: Vec<Problem>,
    /// Whether every source had the form of what it was said to be.
    readable: bool,
}

impl Attempt {
    fn loaded(self) -> (Vec<u8>, Loaded<()>) {
        let Self { bytes, mut sources, findings, problems: _, readable: _ } = self;
        let warnings = findings.noted.into_iter().map(|noted| sources.warning(noted)).collect();
        // Before decoding, which takes the most memory.
        sources.forget_trees();
        let unknown_fields = findings.unknown_count;
        let deprecated_fields = findings.deprecated_count;
        (bytes, Loaded { message: (), sources, warnings, unknown_fields, deprecated_fields })
    }
}

impl Loaded<()> {
    fn decode<T: Message + Default>(self, bytes: &[u8]) -> Result<Loaded<T>, Vec<Problem>> {
        let Self { message: (), sources, warnings, unknown_fields, deprecated_fields } = self;
        match T::decode(bytes) {
            Ok(message) => Ok(Loaded { message, sources, warnings, unknown_fields, deprecated_fields }),
            Err(e) => {
                let invalid = Invalid { path: String::new(), reason: e.to_string(), kind: InvalidKind::Value };
                Err(vec![sources.explain(invalid)])
            }
        }
    }
}

/// Whether something is wrong at `path` only because one of `errors` left a value out, there, below, or around it.
pub fn follows(path: &str, errors: &[Problem]) -> bool {
    let is_below = |path: &str, top: &str| {
        path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    errors.iter().any(|error| is_below(&error.invalid.path, path) || is_below(path, &error.invalid.path))
}

#[cfg(test)]
mod tests;
