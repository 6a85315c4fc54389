//! Envoy's filter state: values that filters leave for each other, and for routes and logs, under a name.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::Address;

/// The values of one stream or connection; empty, hence without allocation, for most.
#[derive(Clone, Debug, Default)]
pub struct FilterState(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    name: Cow<'static, str>,
    value: FilterValue,
    life_span: LifeSpan,
}

/// How long a value stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifeSpan {
    /// Until the filters begin anew, as they do where a redirect is followed.
    FilterChain,
    /// As long as the request.
    Request,
    /// As long as the connection.
    Connection,
}

/// What is kept under a name.
#[derive(Clone)]
pub enum FilterValue {
    /// A text.
    Text(Arc<str>),
    /// A number.
    Number(u32),
    /// Yes or no.
    Flag(bool),
    /// An IP address with port, or the path of a socket.
    Address(Address),
    /// Texts with names of their own.
    Fields(Rc<BTreeMap<Box<str>, Box<str>>>),
    /// What only the filters that share it understand.
    Object(Rc<dyn Any>),
}

// === impl FilterState ===

impl FilterState {
    /// The value named `name`.
    pub fn get(&self, name: &str) -> Option<&FilterValue> {
        self.0.iter().find(|entry| entry.name == name).map(|entry| &entry.value)
    }

    /// Sets it, in place of the one that was there.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: FilterValue, life_span: LifeSpan) {
        let entry = Entry { name: name.into(), value, life_span };
        match self.0.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    /// Drops what does not outlive the filters of a stream.
    pub fn end_filter_chain(&mut self) {
        self.0.retain(|entry| entry.life_span > LifeSpan::FilterChain);
    }
}

// === impl FilterValue ===

impl FilterValue {
    /// As text; `None` for an object.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Number(n) => Some(Cow::Owned(n.to_string())),
            Self::Flag(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
            Self::Address(address) => Some(Cow::Owned(address.to_string())),
            Self::Fields(_) => self.json().map(|json| Cow::Owned(json.to_string())),
            Self::Object(_) => None,
        }
    }

    /// The text of one of its fields.
    pub fn field(&self, name: &str) -> Option<&str> {
        if let Self::Fields(fields) = self { fields.get(name).map(|text| &**text) } else { None }
    }

    /// As JSON; `None` for what Envoy has no message of.
    pub fn json(&self) -> Option<Json> {
        match self {
            Self::Text(text) => Some(Json::String(text.to_string())),
            Self::Number(n) => Some((*n).into()),
            Self::Flag(flag) => Some((*flag).into()),
            Self::Fields(fields) => {
                let fields = fields.iter().map(|(name, text)| (name.to_string(), Json::String(text.to_string())));
                Some(Json::Object(fields.collect()))
            }
            Self::Address(_) | Self::Object(_) => None,
        }
    }

    /// The IP address; `None` for all else.
    pub fn ip(&self) -> Option<IpAddr> {
        if let Self::Address(address) = self { address.ip() } else { None }
    }
}

impl fmt::Debug for FilterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_deref().unwrap_or("(object)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_and_ends_with_its_life_span() {
        let mut state = FilterState::default();
        state.set("a", FilterValue::Number(1), LifeSpan::FilterChain);
        state.set("a", FilterValue::Number(2), LifeSpan::Request);
        state.set("b", FilterValue::Flag(true), LifeSpan::FilterChain);
        assert_eq!(state.get("a").and_then(FilterValue::text).as_deref(), Some("2"));
        state.end_filter_chain();
        assert_eq!(state.get("a").and_then(FilterValue::json), Some(2.into()));
        assert!(state.get("b").is_none());
    }

    #[test]
    fn only_an_address_has_an_ip() {
        let address = FilterValue::Address(Address::Ip("10.0.0.1:80".parse().expect("it is one")));
        assert_eq!(address.ip(), "10.0.0.1".parse().ok());
        assert_eq!(address.text().as_deref(), Some("10.0.0.1:80"));
        assert_eq!(FilterValue::Text("10.0.0.1".into()).ip(), None);
        assert_eq!(FilterValue::Object(Rc::new(())).text(), None);
    }
}
