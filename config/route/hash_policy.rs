//! `hash_policy`: what of a request is hashed, for those who keep like requests together.

use std::fmt::Write;

use http::HeaderValue;
use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::StreamInfo;
use proto::route_action::HashPolicy as Message;
use proto::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, FilterState, Header, PolicySpecifier, QueryParameter,
};
use smallvec::SmallVec;
use twox_hash::XxHash64;

use crate::matcher::{Field, Substitution, cookie, first_value};
use crate::protocol::duration;

/// The policies of a route or cluster, of which each that finds something adds to the hash.
#[derive(Debug)]
pub struct HashPolicies(Box<[HashPolicy]>);

#[derive(Debug)]
struct HashPolicy {
    source: Source,
    /// Once there is a hash, the policies behind this one do not count.
    terminal: bool,
}

/// Where the hashed value comes from.
#[derive(Debug)]
enum Source {
    Header {
        field: Field,
        rewrite: Option<Substitution>,
    },
    Cookie {
        name: Box<[u8]>,
        generated: Option<GeneratedCookie>,
    },
    ClientAddress,
    QueryParameter(Box<[u8]>),
    /// The value under this name, as text.
    FilterState(Box<str>),
}

/// What a client without the cookie is told to bring next time: `name="` and what follows the value.
#[derive(Debug)]
struct GeneratedCookie {
    before: Box<str>,
    after: Box<str>,
}

/// A value of a header, mostly short.
type Value = SmallVec<[u8; 64]>;

impl HashPolicies {
    /// Lowers the list; `None` where nothing is left of it.
    pub(crate) fn lower(field: &str, policies: Vec<Message>, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let policies = cx.each(field, policies, HashPolicy::lower)?;
        let policies: Vec<_> = policies.into_iter().flatten().collect();
        Ok((!policies.is_empty()).then(|| Self(policies.into())))
    }

    /// The hash of a request; `None` where no policy finds anything. Cookies that are missing are generated, hashed and
    /// put into `cookies` for the response; without it they are not.
    pub fn hash(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        mut cookies: Option<&mut Vec<HeaderValue>>,
    ) -> Option<u64> {
        let mut hash = None;
        for policy in &self.0 {
            if let Some(found) = policy.source.hash(head, info, cookies.as_deref_mut()) {
                // Envoy: turned by a bit, so that the same policy twice does not hash to nothing.
                hash = Some(hash.map_or(0, |hash: u64| hash.rotate_left(1)) ^ found);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl HashPolicy {
    /// `None` for a policy that never finds anything, which Envoy leaves out.
    fn lower(message: Message, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let Message { terminal, policy_specifier } = message;
        let source = match policy_specifier {
            None => return Err(cx.invalid("policy_specifier is required")),
            Some(PolicySpecifier::Header(header)) => cx.at("header", |cx| Source::lower_header(header, cx))?,
            Some(PolicySpecifier::Cookie(cookie)) => cx.at("cookie", |cx| Source::lower_cookie(cookie, cx))?,
            Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })) => {
                Source::ClientAddress
            }
            Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: false })) => return Ok(None),
            Some(PolicySpecifier::QueryParameter(QueryParameter { name })) => {
                Source::QueryParameter(name.into_bytes().into())
            }
            Some(PolicySpecifier::FilterState(FilterState { key })) => Source::FilterState(key.into()),
        };
        Ok(Some(Self { source, terminal }))
    }
}

impl Source {
    fn lower_header(message: Header, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Header { header_name, regex_rewrite } = message;
        let field = cx.at("header_name", |cx| Field::lower(&header_name, cx));
        let rewrite = cx.opt("regex_rewrite", regex_rewrite, Substitution::lower);
        Ok(Self::Header { field: field?, rewrite: rewrite? })
    }

    fn lower_cookie(message: Cookie, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Cookie { name, ttl, path, attributes } = message;
        let ttl = cx.opt("ttl", ttl, duration)?;
        let generated = ttl.map(|ttl| GeneratedCookie::new(&name, ttl.as_secs(), &path, &attributes));
        if let Some(generated) = &generated
            && HeaderValue::try_from(generated.with(0)).is_err()
        {
            return Err(cx.invalid("name, path and attributes do not make a Set-Cookie header"));
        }
        Ok(Self::Cookie { name: name.into_bytes().into(), generated })
    }

    fn hash(&self, head: &RequestHead, info: &StreamInfo, cookies: Option<&mut Vec<HeaderValue>>) -> Option<u64> {
        match self {
            Self::Header { field, rewrite } => hash_header(head, field, rewrite.as_ref()),
            Self::Cookie { name, generated } => match (cookie(&head.headers, name), generated, cookies) {
                (Some(value), ..) if !value.is_empty() => Some(xx_hash(0, value)),
                (_, Some(generated), Some(cookies)) => {
                    let value = of_connection(info);
                    cookies.extend(HeaderValue::try_from(generated.with(value)).ok());
                    Some(xx_hash(0, format!("{value:016x}").as_bytes()))
                }
                _ => None,
            },
            Self::ClientAddress => Some(xx_hash(0, info.remote.borrow().ip()?.to_string().as_bytes())),
            Self::QueryParameter(name) => first_value(head.path.as_bytes(), name).map(|value| xx_hash(0, value)),
            // Envoy hashes the objects that were made to be; of the values that filters leave here those are the texts.
            Self::FilterState(key) => info.filter_state.borrow().hashed(key).map(|text| xx_hash(0, text.as_bytes())),
        }
    }
}

impl GeneratedCookie {
    fn new(name: &str, max_age: u64, path: &str, attributes: &[CookieAttribute]) -> Self {
        let mut after = "\"".to_owned();
        // Writing to a String cannot fail.
        if max_age > 0 {
            let _ = write!(after, "; Max-Age={max_age}");
        }
        if !path.is_empty() {
            let _ = write!(after, "; Path={path}");
        }
        for CookieAttribute { name, value } in attributes {
            let equals = if value.is_empty() { "" } else { "=" };
            let _ = write!(after, "; {name}{equals}{value}");
        }
        after.push_str("; HttpOnly");
        Self { before: format!("{name}=\"").into(), after: after.into() }
    }

    fn with(&self, value: u64) -> String {
        format!("{}{value:016x}{}", self.before, self.after)
    }
}

/// Envoy: the values of a header in any order hash alike.
fn hash_header(head: &RequestHead, field: &Field, rewrite: Option<&Substitution>) -> Option<u64> {
    let mut values: SmallVec<[Value; 1]> = SmallVec::new();
    field.any_in_request(&head.view(), |value| {
        let rewritten = rewrite.and_then(|rewrite| rewrite.replace_all(value));
        values.push(rewritten.map_or_else(|| Value::from_slice(value), Value::from_vec));
        false
    })?;
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| xx_hash(seed, value)))
}

/// Envoy: what is generated is the same for all streams of a connection, which may race.
fn of_connection(info: &StreamInfo) -> u64 {
    let connection = &info.connection;
    xx_hash(0, format!("{}{}", connection.remote, connection.local).as_bytes())
}

fn xx_hash(seed: u64, value: &[u8]) -> u64 {
    XxHash64::oneshot(seed, value)
}

#[cfg(test)]
mod tests;
