//! `query_parameter_mutations`.

use bytes::Bytes;
use nuncio_filter_api::{ByteStr, InvalidKind, LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::google::protobuf::value::Kind;
use nuncio_telemetry::format::{Format, FormatCx, FormatErrorKind, Missing};

/// Mutations of the query, applied in order.
#[derive(Default)]
pub(super) struct QueryMutations(Box<[Mutation]>);

enum Mutation {
    Remove(Box<str>),
    Append { key: Box<str>, value: Format, action: Action },
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

impl QueryMutations {
    pub(super) fn lower(mutations: Vec<core::KeyValueMutation>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        cx.each("query_parameter_mutations", mutations, Mutation::lower).map(|all| Self(all.into()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has_formats(&self) -> bool {
        self.0.iter().any(|m| matches!(m, Mutation::Append { value, .. } if value.literal().is_none()))
    }

    /// Writes the query anew. As in Envoy, its parameters are then sorted by name, each with a `=`.
    pub(super) fn apply(&self, head: &mut RequestHead, cx: &FormatCx<'_>) {
        if self.is_empty() || head.path.is_empty() {
            return;
        }
        let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
        let mut query = Query::parse(query);
        // Formats see the path as it was before any of these mutations.
        let cx = FormatCx { request: Some(head.view()), ..*cx };
        for mutation in &self.0 {
            mutation.apply(&mut query, &cx);
        }
        if let Ok(path) = ByteStr::from_utf8(query.appended_to(path)) {
            head.path = path;
        }
    }
}

// === impl Mutation ===

impl Mutation {
    fn lower(message: core::KeyValueMutation, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::KeyValueMutation { append, remove } = message;
        match (append, remove.is_empty()) {
            (Some(append), true) => cx.at("append", |cx| Self::lower_append(append, cx)),
            (None, false) => Ok(Self::Remove(remove.into())),
            (Some(_), false) => Err(cx.invalid("only one of append and remove may be set")),
            (None, true) => Err(cx.invalid("one of append and remove is required")),
        }
    }

    fn lower_append(message: core::KeyValueAppend, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::KeyValueAppend { record, entry, action } = message;
        if entry.is_some() {
            // Envoy asks for the record, and reads the entry nowhere.
            return Err(cx.at("entry", |cx| cx.invalid("is not read: use record")));
        }
        let core::KeyValuePair { key, value } =
            record.ok_or_else(|| cx.at("record", |cx| cx.invalid("is required")))?;
        let action = match action {
            0 => Action::Append,
            1 => Action::AddIfAbsent,
            2 => Action::Overwrite,
            3 => Action::OverwriteIfExists,
            other => {
                let reason = format!("{other} is no KeyValueAppendAction");
                return Err(cx.at("action", |cx| cx.invalid(reason)));
            }
        };
        let value = cx.at("record", |cx| {
            cx.at("value", |cx| match value.and_then(|value| value.kind) {
                Some(Kind::StringValue(text)) => Format::parse(&text).map_err(|e| match &e.kind {
                    FormatErrorKind::NotImplemented { .. } => cx.record(InvalidKind::NotImplemented, e.to_string()),
                    _ => cx.invalid(e.to_string()),
                }),
                _ => Err(cx.invalid("must be a string")),
            })
        })?;
        Ok(Self::Append { key: key.into(), value, action })
    }

    fn apply(&self, query: &mut Query, cx: &FormatCx<'_>) {
        match self {
            Self::Remove(key) => query.remove(key),
            Self::Append { key, value, action } => {
                let applies = match action {
                    Action::Append | Action::Overwrite => true,
                    Action::AddIfAbsent => !query.contains(key),
                    Action::OverwriteIfExists => query.contains(key),
                };
                if !applies {
                    return;
                }
                if matches!(action, Action::Overwrite | Action::OverwriteIfExists) {
                    query.remove(key);
                }
                let mut formatted = Vec::new();
                value.write(cx, Missing::Empty, &mut formatted);
                query.push(key, &formatted);
            }
        }
    }
}

/// The parameters of a query.
struct Query(Vec<Parameter>);

struct Parameter {
    /// Without percent-encoding: what mutations compare with, and what the parameters are sorted by.
    key: Vec<u8>,
    /// `key=value` as it is written.
    text: Vec<u8>,
}

impl Query {
    fn parse(query: &str) -> Self {
        // Envoy takes no parameter after a final `&`, but takes an empty one between two.
        let trimmed = query.strip_suffix('&').unwrap_or(query);
        if query.is_empty() {
            return Self(Vec::new());
        }
        Self(trimmed.as_bytes().split(|b| *b == b'&').map(Parameter::parse).collect())
    }

    fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|p| p.key == key.as_bytes())
    }

    fn remove(&mut self, key: &str) {
        self.0.retain(|p| p.key != key.as_bytes());
    }

    fn push(&mut self, key: &str, value: &[u8]) {
        let mut text = Vec::with_capacity(key.len() + 1 + value.len());
        // Envoy writes the key as it is configured; only what no path may contain is encoded here.
        encode(key.as_bytes(), |b| b.is_ascii_graphic(), &mut text);
        text.push(b'=');
        encode(value, |b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b), &mut text);
        self.0.push(Parameter { key: key.as_bytes().to_vec(), text });
    }

    fn appended_to(mut self, path: &str) -> Bytes {
        self.0.sort_by(|a, b| a.key.cmp(&b.key));
        let length: usize = self.0.iter().map(|p| p.text.len() + 1).sum();
        let mut out = Vec::with_capacity(path.len() + length);
        out.extend_from_slice(path.as_bytes());
        let mut separator = b'?';
        for parameter in &self.0 {
            out.push(separator);
            out.extend_from_slice(&parameter.text);
            separator = b'&';
        }
        out.into()
    }
}

impl Parameter {
    fn parse(raw: &[u8]) -> Self {
        let (raw_key, raw_value) = match raw.iter().position(|b| *b == b'=') {
            Some(at) => (&raw[..at], &raw[at + 1..]),
            None => (raw, &raw[..0]),
        };
        let mut key = Vec::with_capacity(raw_key.len());
        decode(raw_key, |_| true, &mut key);
        // Envoy writes all of it decoded, so that a value may become two, or a path that is none. Here an escape that
        // the query would mean something else without stays.
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"&#%+".contains(&b);
        let mut text = Vec::with_capacity(raw.len() + 1);
        decode(raw_key, |b| is_plain(b) && b != b'=', &mut text);
        text.push(b'=');
        decode(raw_value, is_plain, &mut text);
        Self { key, text }
    }
}

/// Decodes the percent-escapes of those bytes that `wanted` says; leaves what is no escape.
fn decode(raw: &[u8], wanted: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        match escape(rest).filter(|b| wanted(*b)) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
}

/// The byte that an escape at the start of `text` stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Percent-encodes all bytes but those that `plain` says.
fn encode(bytes: &[u8], plain: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &b in bytes {
        if plain(b) {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests;
