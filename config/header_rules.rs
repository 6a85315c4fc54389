//! `*_headers_to_add` and `*_headers_to_remove`: header fields changed on the way.
//!
//! In: the messages, at any level of a route configuration or elsewhere. Out: rules that are applied to a head. As in
//! Envoy, removals come first, then all values are formatted from the head as it then is, then fields are overwritten,
//! and last fields are added.

mod inline;
mod mutations;

pub(crate) use inline::is_inline;
pub use inline::{join_repeated, join_repeated_trailers};
pub use mutations::{Fields, HeaderMutations, MissingHeader};

use http::{HeaderMap, HeaderName, HeaderValue};
use nuncio_filter_api::{LowerCx, Refused, RequestHead, ResponseHead};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_telemetry::format::{Format, FormatCx, FormatErrorKind, Missing};
use smallvec::SmallVec;

/// What is removed from a head and added to it.
#[derive(Debug, Default)]
pub struct HeaderRules {
    remove: Box<[HeaderName]>,
    add: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    name: HeaderName,
    value: Value,
    action: Action,
    keep_empty: bool,
    /// Several values of the header are one line in Envoy, with commas between them.
    inline: bool,
}

#[derive(Debug)]
enum Value {
    Literal(HeaderValue),
    Format(Format),
}

/// `HeaderAppendAction`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

/// Which messages rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests.
    Request,
    /// Responses.
    Response,
}

/// Envoy's bound of each list.
const MAX_RULES: usize = 1000;

/// Values formatted but not yet applied; `None` where a rule does nothing.
type Values = SmallVec<[Option<HeaderValue>; 8]>;

impl HeaderRules {
    /// Lowers the fields `request_headers_to_add` and `request_headers_to_remove`, or those for responses.
    pub fn lower(
        side: Side,
        add: Vec<core::HeaderValueOption>,
        remove: Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let (add_field, remove_field) = match side {
            Side::Request => ("request_headers_to_add", "request_headers_to_remove"),
            Side::Response => ("response_headers_to_add", "response_headers_to_remove"),
        };
        let added = Self::lower_additions(side, add_field, add, cx);
        let remove = cx.each(remove_field, remove, |name, cx| modifiable(&name, "removed", cx));
        Ok(Self { remove: remove?.into(), ..added? })
    }

    /// Lowers a list that only adds, named `field`.
    pub fn lower_additions(
        side: Side,
        field: &str,
        add: Vec<core::HeaderValueOption>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        if add.len() > MAX_RULES {
            return Err(cx.at(field, |cx| cx.invalid(format!("must contain no more than {MAX_RULES} items"))));
        }
        let add = cx.each(field, add, |option, cx| Rule::lower(side, option, cx))?;
        Ok(Self { remove: Box::default(), add: add.into() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes a request. The request of `cx` is not looked at: it is `head`.
    pub fn apply_request(&self, head: &mut RequestHead, cx: &FormatCx<'_>) {
        if self.is_empty() {
            return;
        }
        self.remove_from(&mut head.headers);
        let values = self.values(&head.headers, &FormatCx { request: Some(head.view()), ..*cx });
        self.write(values, &mut head.headers);
    }

    /// Changes the head of a request of our own: formats see none of it.
    pub fn apply_own(&self, headers: &mut HeaderMap, cx: &FormatCx<'_>) {
        if self.is_empty() {
            return;
        }
        self.remove_from(headers);
        let values = self.values(headers, cx);
        self.write(values, headers);
    }

    /// Changes the response to `request`. The heads of `cx` are not looked at.
    pub fn apply_response(&self, head: &mut ResponseHead, request: &RequestHead, cx: &FormatCx<'_>) {
        if self.is_empty() {
            return;
        }
        self.remove_from(&mut head.headers);
        let cx = FormatCx { request: Some(request.view()), response: Some(head.view()), ..*cx };
        let values = self.values(&head.headers, &cx);
        self.write(values, &mut head.headers);
    }

    fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// The value of each rule that does something to a head with these headers.
    fn values(&self, headers: &HeaderMap, cx: &FormatCx<'_>) -> Values {
        self.add.iter().map(|rule| if rule.applies(headers) { rule.value(cx) } else { None }).collect()
    }

    fn write(&self, mut values: Values, headers: &mut HeaderMap) {
        // A head at the limit of the header map (32,768 fields) takes no more: the rule is passed over.
        for (rule, value) in self.add.iter().zip(&mut values) {
            if matches!(rule.action, Action::Overwrite | Action::OverwriteIfExists)
                && let Some(value) = value.take()
            {
                let _ = headers.try_insert(&rule.name, value);
            }
        }
        for (rule, value) in self.add.iter().zip(values) {
            if let Some(value) = value {
                rule.append(value, headers);
            }
        }
    }
}

// === impl Rule ===

impl Rule {
    fn lower(side: Side, option: core::HeaderValueOption, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
        let Some(header) = header else { return Err(cx.at("header", |cx| cx.invalid("is required"))) };
        let core::HeaderValue { key, value, raw_value } = header;
        let (name, value) = cx.at("header", |cx| {
            let name = cx.at("key", |cx| modifiable(&key, "modified", cx));
            // Envoy reads raw_value in metadata of gRPC calls alone, and silently adds nothing here.
            let raw = cx.unsupported("raw_value", &raw_value);
            let value = cx.at("value", |cx| Value::lower(&value, cx));
            raw.and(Ok((name?, value?)))
        })?;
        let action = match (append.map(|a| a.value), append_action) {
            (None, 0) | (Some(true), 0) => Action::Append,
            (Some(false), 0) => Action::Overwrite,
            (Some(_), _) => return Err(cx.invalid("only one of append and append_action may be set")),
            (None, 1) => Action::AddIfAbsent,
            (None, 2) => Action::Overwrite,
            (None, 3) => Action::OverwriteIfExists,
            (None, other) => {
                return Err(cx.at("append_action", |cx| cx.invalid(format!("{other} is no HeaderAppendAction"))));
            }
        };
        let inline = is_inline(side, &name);
        Ok(Self { name, value, action, keep_empty: keep_empty_value, inline })
    }

    /// Whether it does anything to a head with these headers.
    fn applies(&self, headers: &HeaderMap) -> bool {
        match self.action {
            Action::Append | Action::Overwrite => true,
            Action::AddIfAbsent => !headers.contains_key(&self.name),
            Action::OverwriteIfExists => headers.contains_key(&self.name),
        }
    }

    /// The value; `None` if it is empty and not to be kept, or is none that a header can have.
    fn value(&self, cx: &FormatCx<'_>) -> Option<HeaderValue> {
        let value = match &self.value {
            Value::Literal(value) => value.clone(),
            Value::Format(format) => {
                let mut out = Vec::new();
                format.write(cx, Missing::Empty, &mut out);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(out)).ok()?
            }
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }

    /// Writes the value at once, whatever the action.
    fn write(&self, value: HeaderValue, headers: &mut HeaderMap) {
        match self.action {
            Action::Append | Action::AddIfAbsent => self.append(value, headers),
            Action::Overwrite | Action::OverwriteIfExists => {
                let _ = headers.try_insert(&self.name, value);
            }
        }
    }

    fn append(&self, value: HeaderValue, headers: &mut HeaderMap) {
        match headers.get_mut(&self.name) {
            Some(existing) if self.inline && !existing.is_empty() => {
                let joined = [existing.as_bytes(), value.as_bytes()].join(&b","[..]);
                if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
                    *existing = joined;
                }
            }
            _ => {
                let _ = headers.try_append(&self.name, value);
            }
        }
    }
}

impl Value {
    fn lower(text: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let format = Format::parse_header_value(text).map_err(|e| match &e.kind {
            FormatErrorKind::NotImplemented { .. } => {
                cx.record(nuncio_filter_api::InvalidKind::NotImplemented, e.to_string())
            }
            _ => cx.invalid(e.to_string()),
        })?;
        match format.literal().map(|text| HeaderValue::from_bytes(text.as_bytes())) {
            Some(Ok(value)) => Ok(Self::Literal(value)),
            Some(Err(_)) => Err(cx.invalid("has characters that no header value may have")),
            None => Ok(Self::Format(format)),
        }
    }
}

/// A header that rules may change. Envoy leaves the pseudo-headers and Host to the fields of the route action.
fn modifiable(name: &str, what: &str, cx: &mut LowerCx<'_>) -> Result<HeaderName, Refused> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(cx.invalid(format!(":-prefixed or host headers may not be {what}")));
    }
    crate::value::header_name(name, cx)
}

#[cfg(test)]
mod tests;
