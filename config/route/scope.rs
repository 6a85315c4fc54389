//! Scoped routing: a key made of a request's headers chooses the route table.

mod slot;

pub use slot::{ScopeConfig, ScopeSlot};

use std::collections::HashMap;
use std::sync::Arc;

use hcm::scoped_routes::ConfigSpecifier;
use hcm::scoped_routes::scope_key_builder::FragmentBuilder;
use hcm::scoped_routes::scope_key_builder::fragment_builder::header_value_extractor::{ExtractType, KvElement};
use hcm::scoped_routes::scope_key_builder::fragment_builder::{HeaderValueExtractor, Type};
use memchr::memmem;
use nuncio_filter_api::{LowerCx, Readiness, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use nuncio_telemetry::stats;
use proto::scoped_route_configuration::key::{Fragment, fragment};
use smallvec::SmallVec;

use super::RouteTable;
use crate::discovery::RouteSlot;
use crate::matcher::Field;

/// `ScopedRoutes`: which table a request is routed by.
pub struct ScopedRoutes {
    fragments: Box<[Extractor]>,
    scopes: Scopes,
}

enum Scopes {
    /// In the configuration.
    Inline(ScopeTable),
    /// By discovery.
    Discovered(Arc<ScopeSlot>),
}

/// The scopes by their keys.
#[derive(Default)]
struct ScopeTable {
    scopes: Box<[Scope]>,
    by_key: HashMap<Key, u32>,
}

/// One of the scopes.
struct Scope {
    name: Arc<str>,
    key: Key,
    routes: ScopeRoutes,
}

/// The routes of a scope.
enum ScopeRoutes {
    /// In the configuration.
    Inline(Arc<RouteTable>),
    /// By discovery.
    Discovered(Arc<RouteSlot>),
    /// By discovery, once a request asks for them.
    OnDemand(slot::OnDemand),
}

/// The scope of a request.
pub struct FoundScope {
    /// Its number, in the order of the configuration.
    pub number: usize,
    /// Its name.
    pub name: Arc<str>,
    /// Its routes.
    pub table: Arc<RouteTable>,
}

/// The fragments of a key in a row, each behind its length.
type Key = SmallVec<[u8; 64]>;

/// Makes a fragment of the first value of a header.
#[derive(Debug)]
struct Extractor {
    field: Field,
    /// Empty: the value is one element.
    separator: Box<[u8]>,
    element: Element,
}

#[derive(Debug)]
enum Element {
    Index(usize),
    /// The value of the first element that is this key, alone or with a value behind the separator.
    Key {
        key: Box<[u8]>,
        separator: Box<[u8]>,
    },
}

// === impl ScopedRoutes ===

impl ScopedRoutes {
    /// Lowers the message; what is discovered counts in `scope`.
    pub fn lower(message: hcm::ScopedRoutes, scope: &stats::Scope, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // Inline scopes ask no RDS, whatever source is named.
        let hcm::ScopedRoutes { name, scope_key_builder, rds_config_source, config_specifier } = message;
        let fragments = cx.at("scope_key_builder", |cx| match scope_key_builder {
            None => Err(cx.invalid("is required")),
            Some(builder) => cx.each("fragments", builder.fragments, Extractor::lower),
        });
        let scopes = match config_specifier {
            None => Err(cx.invalid("config_specifier is required")),
            Some(ConfigSpecifier::ScopedRds(message)) => {
                ScopeSlot::lower(&name, message, rds_config_source, scope, cx).map(Scopes::Discovered)
            }
            Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
                let hcm::ScopedRouteConfigurationsList { scoped_route_configurations } = list;
                let scopes =
                    cx.at("scoped_route_configurations_list", |cx| lower_scopes(scoped_route_configurations, cx));
                scopes.map(|scopes| Scopes::Inline(ScopeTable::new(scopes)))
            }
        };
        let (fragments, scopes) = (fragments?, scopes?);
        Ok(Self { fragments: fragments.into(), scopes })
    }

    /// The scope of a request; `None` where no scope has its key.
    pub fn find(&self, head: &RequestHead) -> Option<FoundScope> {
        let key = self.key(head)?;
        match &self.scopes {
            Scopes::Inline(table) => table.find(&key),
            Scopes::Discovered(slot) => slot.table().find(&key),
        }
    }

    /// Asks for the routes of the scope of a request, where that is done on demand alone: whether they are there.
    pub fn demand(&self, head: &RequestHead) -> Option<Arc<Readiness>> {
        let Scopes::Discovered(slot) = &self.scopes else { return None };
        slot.demand(&self.key(head)?)
    }

    fn key(&self, head: &RequestHead) -> Option<Key> {
        let mut key = Key::new();
        for fragment in &self.fragments {
            fragment.append(head, &mut key)?;
        }
        Some(key)
    }
}

// === impl ScopeTable ===

impl ScopeTable {
    fn new(scopes: Vec<Scope>) -> Self {
        Self { by_key: by_key(&scopes), scopes: scopes.into() }
    }

    fn find(&self, key: &Key) -> Option<FoundScope> {
        let number = *self.by_key.get(key)? as usize;
        let Scope { name, key: _, routes } = &self.scopes[number];
        let table = match routes {
            ScopeRoutes::Inline(table) => table.clone(),
            ScopeRoutes::Discovered(slot) => slot.table.load_full(),
            ScopeRoutes::OnDemand(routes) => routes.table()?,
        };
        Some(FoundScope { number, name: name.clone(), table })
    }
}

fn lower_scopes(messages: Vec<proto::ScopedRouteConfiguration>, cx: &mut LowerCx<'_>) -> Result<Vec<Scope>, Refused> {
    cx.each("scoped_route_configurations", messages, |message, cx| {
        // Says when a table is asked for, and this one is here.
        let proto::ScopedRouteConfiguration { on_demand: _, name, route_configuration_name, route_configuration, key } =
            message;
        if !route_configuration_name.is_empty() {
            return Err(cx.at("route_configuration_name", |cx| {
                cx.invalid("an inline scope has its route_configuration inline, too")
            }));
        }
        let key = cx.at("key", |cx| lower_key(key, cx));
        let table = cx.at("route_configuration", |cx| match route_configuration {
            None => Err(cx.invalid("is required")),
            Some(message) => lower_inline(message, cx),
        });
        Ok(Scope { name: name.into(), routes: ScopeRoutes::Inline(Arc::new(table?)), key: key? })
    })
}

fn lower_inline(message: proto::RouteConfiguration, cx: &mut LowerCx<'_>) -> Result<RouteTable, Refused> {
    if message.vhds.is_some() {
        return Err(cx.at("vhds", |cx| cx.not_implemented("discovery of virtual hosts of an inline scope")));
    }
    RouteTable::lower_inline(message, cx)
}

fn lower_key(message: Option<proto::scoped_route_configuration::Key>, cx: &mut LowerCx<'_>) -> Result<Key, Refused> {
    let Some(proto::scoped_route_configuration::Key { fragments }) = message else {
        return Err(cx.invalid("is required"));
    };
    let mut key = Key::new();
    cx.each("fragments", fragments, |Fragment { r#type }, cx| match r#type {
        None => Err(cx.invalid("type is required")),
        Some(fragment::Type::StringKey(fragment)) => {
            push(fragment.as_bytes(), &mut key);
            Ok(())
        }
    })?;
    Ok(key)
}

/// Envoy: of several scopes of one name, and of several with one key, the last is there.
fn by_key(scopes: &[Scope]) -> HashMap<Key, u32> {
    let mut by_key = HashMap::new();
    let mut by_name: HashMap<&str, &Key> = HashMap::new();
    for (number, scope) in (0..).zip(scopes) {
        if let Some(before) = by_name.insert(&scope.name, &scope.key) {
            by_key.remove(before);
        }
        by_key.insert(scope.key.clone(), number);
    }
    by_key
}

fn push(fragment: &[u8], key: &mut Key) {
    key.extend_from_slice(&fragment.len().to_le_bytes());
    key.extend_from_slice(fragment);
}

// === impl Extractor ===

impl Extractor {
    fn lower(message: FragmentBuilder, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let FragmentBuilder { r#type } = message;
        let Some(Type::HeaderValueExtractor(extractor)) = r#type else { return Err(cx.invalid("type is required")) };
        cx.at("header_value_extractor", |cx| {
            let HeaderValueExtractor { name, element_separator, extract_type } = extractor;
            let field = cx.at("name", |cx| Field::lower(&name, cx));
            let element = match extract_type {
                None => return Err(cx.invalid("extract_type is required")),
                Some(ExtractType::Index(index)) if index > 0 && element_separator.is_empty() => {
                    return Err(cx.at("index", |cx| cx.invalid("must be 0 without element_separator")));
                }
                Some(ExtractType::Index(index)) => Element::Index(index as usize),
                Some(ExtractType::Element(KvElement { separator, key })) => {
                    Element::Key { key: key.into_bytes().into(), separator: separator.into_bytes().into() }
                }
            };
            Ok(Self { field: field?, separator: element_separator.into_bytes().into(), element })
        })
    }

    /// Appends the fragment; `None` if the request has none.
    fn append(&self, head: &RequestHead, key: &mut Key) -> Option<()> {
        let mut found = None;
        self.field.any_in_request(&head.view(), |value| {
            // Only the first value counts, and the search ends with it.
            found = self.of_value(value).map(|fragment| push(fragment, key));
            true
        });
        found
    }

    fn of_value<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        let mut elements = split(value, &self.separator);
        match &self.element {
            Element::Index(index) => elements.nth(*index),
            Element::Key { key, separator } => elements.find_map(|element| {
                let end = memmem::find(element, separator).unwrap_or(element.len());
                (element[..end] == **key).then(|| element.get(end + separator.len()..).unwrap_or_default())
            }),
        }
    }
}

/// The parts of `value` between `separator`; all of it where that is empty.
fn split<'a>(value: &'a [u8], separator: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let at = if separator.is_empty() { None } else { memmem::find(value, separator) };
        rest = at.map(|at| &value[at + separator.len()..]);
        Some(&value[..at.unwrap_or(value.len())])
    })
}

#[cfg(test)]
mod tests;
