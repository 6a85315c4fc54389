use http::{HeaderMap, HeaderName};
use nuncio_filter_api::{ByteStr, LowerCx, Refused, RequestHead, ResponseHead};
use nuncio_proto::envoy::config::common::mutation_rules::v3 as proto;
use nuncio_telemetry::format::FormatCx;
use proto::header_mutation::{Action, RemoveOnMatch};
use smallvec::SmallVec;

use super::{Rule, Side, Value, inline};
use crate::matcher::StringMatcher;

/// A list of `envoy.config.common.mutation_rules.v3.HeaderMutation`. Unlike [`super::HeaderRules`] they are applied one
/// after the other: each sees what those before it did.
#[derive(Debug, Default)]
pub struct HeaderMutations(Box<[Mutation]>);

/// The fields that a list of mutations is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Headers of requests.
    Request,
    /// Headers of responses.
    Response,
    /// Trailers of requests.
    RequestTrailers,
    /// Trailers of responses.
    ResponseTrailers,
}

/// A pseudo-header that mutations removed although no message can be without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingHeader(pub &'static str);

#[derive(Debug)]
enum Mutation {
    Remove(HeaderName),
    RemovePseudo(Pseudo),
    Append(Rule),
    RemoveOnMatch(StringMatcher),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pseudo {
    Method,
    Authority,
    Path,
    Status,
    /// `:scheme` and `:protocol`, which stay: HTTP/2 needs the one, an accepted upgrade the other. And names that no
    /// header has.
    Other,
}

impl HeaderMutations {
    /// Lowers the repeated `field`.
    pub fn lower(
        fields: Fields,
        field: &str,
        mutations: Vec<proto::HeaderMutation>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        cx.each(field, mutations, |mutation, cx| Mutation::lower(fields, mutation, cx)).map(|all| Self(all.into()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value depends on the stream: otherwise the context of the format is not looked at.
    pub fn has_formats(&self) -> bool {
        self.0.iter().any(|m| matches!(m, Mutation::Append(Rule { value: Value::Format(_), .. })))
    }

    /// Changes a request. The request of `cx` is not looked at: it is `head`.
    pub fn apply_request(&self, head: &mut RequestHead, cx: &FormatCx<'_>) -> Result<(), MissingHeader> {
        let (mut method, mut path) = (false, false);
        for mutation in &self.0 {
            let value = mutation.value(&head.headers, &FormatCx { request: Some(head.view()), ..*cx });
            mutation.apply(value, &mut head.headers);
            if mutation.removes(Pseudo::Authority) {
                head.authority = ByteStr::EMPTY;
                head.omits_host = true;
            }
            method |= mutation.removes(Pseudo::Method);
            path |= mutation.removes(Pseudo::Path);
        }
        match (method, path) {
            (true, _) => Err(MissingHeader(Pseudo::Method.name())),
            (_, true) => Err(MissingHeader(Pseudo::Path.name())),
            _ => Ok(()),
        }
    }

    /// Changes the response to `request`. The heads of `cx` are not looked at.
    pub fn apply_response(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        cx: &FormatCx<'_>,
    ) -> Result<(), MissingHeader> {
        let mut status = false;
        for mutation in &self.0 {
            let cx = FormatCx { request: Some(request.view()), response: Some(head.view()), ..*cx };
            let value = mutation.value(&head.headers, &cx);
            mutation.apply(value, &mut head.headers);
            status |= mutation.removes(Pseudo::Status);
        }
        if status { Err(MissingHeader(Pseudo::Status.name())) } else { Ok(()) }
    }

    /// Changes the trailers of a request. Formats see the heads of `cx`, and no trailers.
    pub fn apply_request_trailers(&self, trailers: &mut HeaderMap, cx: &FormatCx<'_>) {
        for mutation in &self.0 {
            let value = mutation.value(trailers, cx);
            mutation.apply(value, trailers);
        }
    }

    /// Changes the trailers of a response. Formats see the heads of `cx`, and the trailers as they then are.
    pub fn apply_response_trailers(&self, trailers: &mut HeaderMap, cx: &FormatCx<'_>) {
        for mutation in &self.0 {
            let value = mutation.value(trailers, &FormatCx { trailers: Some(trailers), ..*cx });
            mutation.apply(value, trailers);
        }
    }
}

// === impl Mutation ===

impl Mutation {
    fn lower(fields: Fields, mutation: proto::HeaderMutation, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match mutation.action {
            None => Err(cx.invalid("one of remove, append and remove_on_match is required")),
            Some(Action::Remove(name)) => Ok(Self::lower_removal(fields, &name)),
            Some(Action::Append(option)) => cx.at("append", |cx| {
                let rule = Rule::lower(Side::Request, option, cx)?;
                Ok(Self::Append(Rule { inline: fields.is_inline(&rule.name), ..rule }))
            }),
            Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher })) => cx.at("remove_on_match", |cx| {
                let matcher = key_matcher.ok_or_else(|| cx.at("key_matcher", |cx| cx.invalid("is required")))?;
                cx.at("key_matcher", |cx| StringMatcher::lower(matcher, cx)).map(Self::RemoveOnMatch)
            }),
        }
    }

    fn lower_removal(fields: Fields, name: &str) -> Self {
        let pseudo = match (fields, name.to_ascii_lowercase().as_str()) {
            (Fields::Request, ":method") => Pseudo::Method,
            (Fields::Request, ":authority" | "host") => Pseudo::Authority,
            (Fields::Request, ":path") => Pseudo::Path,
            (Fields::Response, ":status") => Pseudo::Status,
            // Envoy: a name that cannot be one is removed from where it cannot be.
            (_, other) => return HeaderName::try_from(other).map_or(Self::RemovePseudo(Pseudo::Other), Self::Remove),
        };
        Self::RemovePseudo(pseudo)
    }

    /// What is to be written to these headers; `None` where nothing is.
    fn value(&self, headers: &HeaderMap, cx: &FormatCx<'_>) -> Option<http::HeaderValue> {
        match self {
            Self::Append(rule) if rule.applies(headers) => rule.value(cx),
            _ => None,
        }
    }

    fn apply(&self, value: Option<http::HeaderValue>, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemovePseudo(_) => {}
            Self::RemoveOnMatch(matcher) => {
                let matched = headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes()));
                let matched: SmallVec<[HeaderName; 8]> = matched.cloned().collect();
                for name in matched {
                    headers.remove(name);
                }
            }
            Self::Append(rule) => {
                if let Some(value) = value {
                    rule.write(value, headers);
                }
            }
        }
    }

    fn removes(&self, pseudo: Pseudo) -> bool {
        match self {
            Self::RemovePseudo(removed) => *removed == pseudo,
            Self::RemoveOnMatch(matcher) => matcher.matches(pseudo.name().as_bytes()),
            Self::Remove(_) | Self::Append(_) => false,
        }
    }
}

impl Pseudo {
    fn name(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Status => ":status",
            Self::Other => "",
        }
    }
}

impl Fields {
    fn is_inline(self, name: &HeaderName) -> bool {
        match self {
            Self::Request => inline::is_inline(Side::Request, name),
            Self::Response => inline::is_inline(Side::Response, name),
            Self::RequestTrailers => false,
            Self::ResponseTrailers => inline::is_inline_trailer(name),
        }
    }
}

#[cfg(test)]
mod tests;
