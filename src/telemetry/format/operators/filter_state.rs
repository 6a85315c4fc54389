//! `%FILTER_STATE(key:PLAIN)%`, `%UPSTREAM_FILTER_STATE(key:PLAIN)%`.

use crate::FilterState;
use crate::format::escape::push_value;

use super::Written;

/// A look-up in the filter state of a stream.
#[derive(Debug)]
pub(super) struct FilterStateOp {
    key: Box<str>,
    style: Style,
}

#[derive(Debug)]
enum Style {
    Plain,
    /// JSON.
    Typed,
    /// A field.
    Field(Box<str>),
}

impl FilterStateOp {
    /// `key`, `key:PLAIN`, `key:TYPED` or `key:FIELD:name`.
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let mut parts = argument.splitn(3, ':');
        let (key, style, field) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if key.is_empty() {
            return Err("it needs a key".to_owned());
        }
        let style = match style.unwrap_or_default() {
            "PLAIN" => Style::Plain,
            "TYPED" | "" => Style::Typed,
            "FIELD" => Style::Field(field.unwrap_or_default().into()),
            other => return Err(format!("{other:?} is none of PLAIN, TYPED and FIELD")),
        };
        if matches!(style, Style::Field(_)) != field.is_some_and(|name| !name.is_empty()) {
            return Err("FIELD, and nothing else, is followed by a name".to_owned());
        }
        Ok(Self { key: key.into(), style })
    }

    pub(super) fn write(&self, state: &FilterState, out: &mut Vec<u8>) -> Written {
        let Some(value) = state.get(&self.key) else { return Written::Missing };
        match &self.style {
            Style::Plain => match value.text() {
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    Written::Text
                }
                None => Written::Missing,
            },
            Style::Typed => match value.json() {
                Some(json) => {
                    push_value(out, &json);
                    Written::Json
                }
                None => Written::Missing,
            },
            Style::Field(name) => match value.field(name) {
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    Written::Text
                }
                None => Written::Missing,
            },
        }
    }
}
