//! Envoy's substitution format strings, `%START_TIME% %REQ(:path)%`: for access logs, `*_headers_to_add`, local
//! replies and whatever else is printed from a stream.
//!
//! A format is parsed once, when configuration is lowered; writing it allocates nothing but what the buffer grows by
//! (objects of metadata excepted). Start reading at [`Format`].

mod context;
mod escape;
mod json;
mod operators;
mod parser;
pub(crate) mod time;

#[cfg(test)]
mod tests;

pub use context::{AccessLogType, FormatCx, RequestView, ResponseView};
pub use json::{JsonFormat, JsonFormatter};

pub(crate) use escape::push_int;
pub(crate) use operators::{grpc_status, millis_so_far};
pub(crate) use time::log_time;

use operators::{Form, Op, Written};

/// The access log's format where none is configured, that of Envoy 1.40 byte for byte.
pub const DEFAULT_HTTP_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled format string.
#[derive(Debug)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    /// What is no UTF-8: a format may be a file of any kind.
    Bytes(Box<[u8]>),
    Operator(Op),
}

/// What a missing value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `-` in text, `null` in JSON: access logs and local replies.
    Dash,
    /// Nothing: header values, and `omit_empty_values`.
    Empty,
}

/// Why a format string is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format string, byte {position}: {kind}")]
pub struct FormatError {
    /// Offset of the operator's `%` in bytes.
    pub position: usize,
    /// What is wrong with it.
    pub kind: FormatErrorKind,
}

/// What is wrong with an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatErrorKind {
    /// `%` without an operator's form after it.
    #[error("no %NAME%, %NAME(argument)% or %NAME(argument):length% (a literal % is written %%)")]
    NoOperator,
    /// A name that Envoy does not know either.
    #[error("unknown operator {name}{}", near.map(|n| format!(", did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// As written.
        name: String,
        /// The operator it resembles.
        near: Option<&'static str>,
    },
    /// An operator that Envoy has.
    #[error("operator {name} is not implemented yet")]
    NotImplemented {
        /// Its name.
        name: &'static str,
    },
    /// An argument or length that the operator does not take.
    #[error("operator {name}: {reason}")]
    Argument {
        /// Its name.
        name: &'static str,
        /// A phrase.
        reason: String,
    },
}

impl Format {
    /// Compiles a format string as access logs and local replies have it.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        Ok(Self { parts: parser::parse(text)? })
    }

    /// Compiles the content of a file, which goes out byte for byte where it is no text.
    pub fn parse_bytes(content: &[u8]) -> Result<Self, FormatError> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for chunk in content.utf8_chunks() {
            let text = chunk.valid();
            parts.extend(parser::parse(text).map_err(|error| FormatError { position: at + error.position, ..error })?);
            if !chunk.invalid().is_empty() {
                parts.push(Part::Bytes(chunk.invalid().into()));
            }
            at += text.len() + chunk.invalid().len();
        }
        Ok(Self { parts })
    }

    /// Compiles a header value as `*_headers_to_add` have it: also understands `%UPSTREAM_METADATA(["ns", "key"])%`,
    /// `%DYNAMIC_METADATA(["ns", "key"])%` and `%PER_REQUEST_STATE(key)%`. To be written with [`Missing::Empty`].
    pub fn parse_header_value(text: &str) -> Result<Self, FormatError> {
        Self::parse(&parser::translate_legacy(text))
    }

    /// Whether it is one operator with nothing before or behind it.
    pub fn is_one_operator(&self) -> bool {
        matches!(&*self.parts, [Part::Operator(_)])
    }

    /// The text, if there is no operator in it.
    pub fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text for `cx`. Headers' bytes are printed as they are, as Envoy does; only JSON escapes.
    pub fn write(&self, cx: &FormatCx<'_>, missing: Missing, out: &mut Vec<u8>) {
        for part in &self.parts {
            part.write(cx, missing, out);
        }
    }

    /// The same with each value escaped for a JSON string, by itself, as Envoy does.
    fn write_escaped(&self, cx: &FormatCx<'_>, missing: Missing, out: &mut Vec<u8>) {
        for part in &self.parts {
            let from = out.len();
            part.write(cx, missing, out);
            escape::escape_tail(out, from);
        }
    }
}

impl Part {
    fn write(&self, cx: &FormatCx<'_>, missing: Missing, out: &mut Vec<u8>) {
        match self {
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Operator(op) => {
                if op.eval(cx, Form::Text, out) == Written::Missing && missing == Missing::Dash {
                    out.push(b'-');
                }
            }
        }
    }
}

/// A `SubstitutionFormatString`: text or JSON.
#[derive(Debug)]
pub enum LineFormat {
    /// `text_format`, `text_format_source`.
    Text(Format, Missing),
    /// `json_format`.
    Json(JsonFormatter),
}

impl LineFormat {
    /// [`DEFAULT_HTTP_FORMAT`].
    pub fn default_http() -> Self {
        Self::Text(Format::parse(DEFAULT_HTTP_FORMAT).expect("the default format is held by a test"), Missing::Dash)
    }

    /// Appends the line, or the body, for `cx`.
    pub fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format, missing) => format.write(cx, *missing, out),
            Self::Json(json) => json.write(cx, out),
        }
    }
}
