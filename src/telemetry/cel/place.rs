//! What expressions may ask of the place of a stream: what is configured of it (`xds`), and where its host stands.

use std::io::Write as _;

use serde_json::{Map as Object, Value as Json, json};

use super::attributes::Map;
use super::eval::Env;
use super::print;
use super::value::Value;
use crate::{Metadata, NodeInfo};

/// A message of which expressions ask fields.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// `envoy.config.core.v3.Node`
    Node(&'a NodeInfo),
    /// `envoy.config.core.v3.Locality`: region, zone and sub-zone.
    Locality([&'a str; 3]),
}

/// What nothing is set of is still a message.
static EMPTY: Metadata = Metadata::new();

pub(super) fn xds<'a>(name: &str, env: &Env<'a>) -> Option<Value<'a>> {
    let info = env.activation.info;
    let connection = &info.connection;
    let message = |metadata: &'a Metadata| Value::Map(Map::Message(metadata));
    let or_null = |metadata: Option<&'a Metadata>| metadata.map_or(Value::Null, message);
    match name {
        "node" => connection.origin.as_ref().map(|origin| Value::Map(Map::Place(Place::Node(&origin.node)))),
        "cluster_name" => env.upstream.cluster_raw.as_deref().map(Value::text),
        "cluster_metadata" => {
            env.upstream.cluster_raw.as_ref()?;
            Some(message(env.upstream.cluster_metadata.as_deref().unwrap_or(&EMPTY)))
        }
        "route_name" => info.route_name.borrow().as_ref().map(Value::owned),
        "route_metadata" => env.route_metadata.map(message),
        "virtual_host_name" => info.route.borrow().as_ref().map(|route| Value::owned(route.virtual_host())),
        "virtual_host_metadata" => env.virtual_host_metadata.map(message),
        "upstream_host_metadata" => {
            env.upstream.host.as_ref()?;
            Some(or_null(env.upstream.host_metadata.as_deref()))
        }
        "upstream_host_locality_metadata" => Some(or_null(env.upstream.chosen.as_ref()?.facts().locality_metadata())),
        "filter_chain_name" => Some(Value::text(&connection.filter_chain)),
        "listener_direction" => connection.origin.as_ref().map(|origin| Value::Int(origin.direction)),
        "listener_metadata" => Some(message(connection.listener_metadata.as_deref().unwrap_or(&EMPTY))),
        _ => None,
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    /// The value of a field, which it has also where it is not set; none of what is no field.
    pub(super) fn get(self, name: &str) -> Option<Value<'a>> {
        let texts = |all: &'a [Box<str>]| Value::List(all.iter().map(|text| Value::text(text)).collect());
        Some(match (self, name) {
            (Self::Node(node), "id") => Value::text(&node.id),
            (Self::Node(node), "cluster") => Value::text(&node.cluster),
            (Self::Node(node), "user_agent_name") => Value::text(node.user_agent),
            (Self::Node(_), "user_agent_version") => Value::text(""),
            (Self::Node(node), "client_features") => texts(&node.client_features),
            (Self::Node(_), "extensions" | "listening_addresses") => Value::List(Vec::new()),
            (Self::Node(_), "dynamic_parameters") => Value::Map(Map::Literal(Vec::new())),
            (Self::Node(node), "metadata") => {
                let nothing = || Map::Literal(Vec::new());
                Value::Map(node.metadata.as_ref().map_or_else(nothing, Map::Json))
            }
            (Self::Node(node), "locality") => Value::Map(Map::Place(node.locality())),
            (Self::Locality([region, ..]), "region") => Value::text(region),
            (Self::Locality([_, zone, _]), "zone") => Value::text(zone),
            (Self::Locality([.., sub_zone]), "sub_zone") => Value::text(sub_zone),
            _ => return None,
        })
    }

    /// Whether a field is set; one that is empty is not.
    pub(super) fn has(self, name: &str) -> bool {
        if let (Self::Node(node), "locality") = (self, name) {
            return node.locality.is_some();
        }
        match self.get(name) {
            None => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::List(list)) => !list.is_empty(),
            Some(Value::Map(Map::Literal(entries))) => !entries.is_empty(),
            Some(_) => true,
        }
    }

    /// Appends the text form of the message.
    pub(super) fn write(self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let text = |name: &str, value: &str, out: &mut Vec<u8>| match value.is_empty() {
            true => Ok(()),
            false => {
                write!(out, "{name}: ")?;
                print::quoted(value, out)?;
                out.write_all(b" ")
            }
        };
        match self {
            Self::Node(node) => {
                text("id", &node.id, out)?;
                text("cluster", &node.cluster, out)?;
                if let Some(fields) = &node.metadata {
                    out.write_all(b"metadata { ")?;
                    print::structure(fields, out)?;
                    out.write_all(b"} ")?;
                }
                if node.locality.is_some() {
                    out.write_all(b"locality { ")?;
                    node.locality().write(out)?;
                    out.write_all(b"} ")?;
                }
                text("user_agent_name", node.user_agent, out)?;
                node.client_features.iter().try_for_each(|feature| text("client_features", feature, out))
            }
            Self::Locality(parts) => {
                ["region", "zone", "sub_zone"].iter().zip(parts).try_for_each(|(name, part)| text(name, part, out))
            }
        }
    }

    /// The fields that are set, as JSON.
    pub(super) fn json(self) -> Object<String, Json> {
        let fields = match self {
            Self::Node(node) => vec![
                ("id", json!(*node.id)),
                ("cluster", json!(*node.cluster)),
                ("metadata", node.metadata.clone().map_or(Json::Null, Json::Object)),
                ("locality", Json::Object(node.locality().json())),
                ("user_agent_name", json!(node.user_agent)),
                ("client_features", json!(node.client_features)),
            ],
            Self::Locality([region, zone, sub_zone]) => {
                vec![("region", json!(region)), ("zone", json!(zone)), ("sub_zone", json!(sub_zone))]
            }
        };
        let is_set = |(name, _): &(&str, Json)| self.has(name);
        fields.into_iter().filter(is_set).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl NodeInfo {
    fn locality(&self) -> Place<'_> {
        Place::Locality(self.locality.as_ref().map_or([""; 3], |[region, zone, sub_zone]| [region, zone, sub_zone]))
    }
}
