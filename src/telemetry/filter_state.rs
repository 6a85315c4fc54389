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
    sharing: Sharing,
}

/// Who else gets a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// How far it goes with connections to hosts.
    pub reach: Reach,
    /// Whether such a connection is for requests with an equal value alone. Envoy: where the object has a hash.
    pub parts_pools: bool,
}

/// How far a value goes with connections to hosts, which internal listeners find it with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere.
    #[default]
    Own,
    /// To the next listener.
    Once,
    /// To the next listener, and on from there.
    Transitive,
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
    /// Fields of a message of HTTP, in its order.
    Headers(Rc<[(Box<str>, Box<str>)]>),
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
        self.put(Entry { name: name.into(), value, life_span, sharing: Sharing::default() });
    }

    /// Sets it for as long as that, and perhaps for connections to hosts that are made meanwhile.
    pub fn share(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: FilterValue,
        life_span: LifeSpan,
        sharing: Sharing,
    ) {
        self.put(Entry { name: name.into(), value, life_span, sharing });
    }

    /// What hosts are chosen by, where the value named `name` is of a kind for that.
    pub fn hashed(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|entry| entry.name == name && entry.sharing.parts_pools)?.value.text()
    }

    /// Takes over what `other` has and this does not.
    pub fn adopt(&mut self, other: &Self) {
        for entry in &other.0 {
            if self.get(&entry.name).is_none() {
                self.0.push(entry.clone());
            }
        }
    }

    fn put(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything goes with connections to hosts.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.0.iter().any(Entry::is_shared)
    }

    /// What goes with connections to hosts, as it is found where they end.
    pub fn shared(&self) -> Self {
        Self(self.0.iter().filter(|entry| entry.is_shared()).map(Entry::next).collect())
    }

    /// Whether requests with either may go on the same connections to hosts.
    pub fn may_pool_with(&self, other: &Self) -> bool {
        self.parting().eq(other.parting())
    }

    fn parting(&self) -> impl Iterator<Item = (&str, Option<Cow<'_, str>>)> {
        let entries = self.0.iter().filter(|entry| entry.sharing.parts_pools);
        entries.map(|entry| (&*entry.name, entry.value.text()))
    }

    /// Drops what does not outlive the filters of a stream.
    pub fn end_filter_chain(&mut self) {
        self.0.retain(|entry| entry.life_span > LifeSpan::FilterChain);
    }
}

// === impl Entry ===

impl Entry {
    fn is_shared(&self) -> bool {
        self.sharing.reach != Reach::Own
    }

    /// It, one hop on.
    fn next(&self) -> Self {
        let reach = match self.sharing.reach {
            Reach::Own | Reach::Once => Reach::Own,
            Reach::Transitive => Reach::Transitive,
        };
        let sharing = Sharing { reach, ..self.sharing };
        Self { name: self.name.clone(), value: self.value.clone(), life_span: LifeSpan::Connection, sharing }
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
            Self::Headers(_) | Self::Object(_) => None,
        }
    }

    /// The text of one of its fields; an address has `ip` and `port`.
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match (self, name) {
            (Self::Fields(fields), _) => fields.get(name).map(|text| Cow::Borrowed(&**text)),
            (Self::Address(address), "ip") => address.ip().map(|ip| Cow::Owned(ip.to_string())),
            (Self::Address(address), "port") => address.port().map(|port| Cow::Owned(port.to_string())),
            _ => None,
        }
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
            Self::Headers(fields) => {
                let field = |(name, value): &(Box<str>, Box<str>)| serde_json::json!({ "key": name, "value": value });
                Some(serde_json::json!({ "headers": fields.iter().map(field).collect::<Vec<_>>() }))
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
    fn what_is_shared_once_goes_no_further() {
        let mut state = FilterState::default();
        state.set("own", FilterValue::Flag(true), LifeSpan::Connection);
        assert!(!state.is_shared());
        for (name, reach) in [("once", Reach::Once), ("on", Reach::Transitive)] {
            state.share(name, FilterValue::Flag(true), LifeSpan::Connection, Sharing { reach, parts_pools: false });
        }
        let there = state.shared();
        assert!(there.get("own").is_none() && there.get("once").is_some() && there.get("on").is_some());
        let further = there.shared();
        assert!(further.get("once").is_none() && further.get("on").is_some());
    }

    #[test]
    fn only_values_that_part_pools_part_them() {
        let of = |text: &str, parts_pools| {
            let mut state = FilterState::default();
            let sharing = Sharing { reach: Reach::Once, parts_pools };
            state.share("a", FilterValue::Text(text.into()), LifeSpan::Connection, sharing);
            // What is passed on once parts pools all the same.
            state.shared()
        };
        assert!(of("x", true).may_pool_with(&of("x", true)));
        assert!(!of("x", true).may_pool_with(&of("y", true)));
        assert!(!of("x", true).may_pool_with(&FilterState::default()));
        assert!(of("x", false).may_pool_with(&of("y", false)));
        assert!(of("x", false).may_pool_with(&FilterState::default()));
    }

    #[test]
    fn only_an_address_has_an_ip() {
        let address = FilterValue::Address(Address::Ip("10.0.0.1:80".parse().expect("it is one")));
        assert_eq!(address.ip(), "10.0.0.1".parse().ok());
        assert_eq!(address.text().as_deref(), Some("10.0.0.1:80"));
        assert_eq!(address.field("ip").as_deref(), Some("10.0.0.1"));
        assert_eq!(address.field("port").as_deref(), Some("80"));
        assert_eq!(address.field("x"), None);
        assert_eq!(FilterValue::Text("10.0.0.1".into()).ip(), None);
        assert_eq!(FilterValue::Object(Rc::new(())).text(), None);
    }
}
