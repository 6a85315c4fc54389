//! `transport_socket` and `transport_socket_matches`.

use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch as MatchProto;
use nuncio_proto::envoy::config::core::v3::TransportSocket as Proto;
use nuncio_proto::envoy::extensions::matching::common_inputs::transport_socket::v3::TransportSocketNameAction;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher as MatcherProto;
use nuncio_telemetry::{Address, ConnectionInfo, Metadata};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::matching::{HostData, Inputs, Tree, TreeRules};
use crate::metadata::object;
use crate::protocol::any_as;
use crate::transport_socket::TransportSocket;

/// The transport sockets of a cluster.
#[derive(Clone, Debug, Default)]
pub struct TransportSockets {
    /// `transport_socket`: for hosts that none of `matches` is for.
    pub default: Arc<TransportSocket>,
    /// `transport_socket_matches`: the first that fits is a host's.
    pub matches: Box<[TransportSocketMatch]>,
    /// `transport_socket_matcher`: chooses among them in place of what they want.
    matcher: Option<Arc<Matcher>>,
}

/// A tree that chooses transport sockets by what is known of hosts.
#[derive(Debug)]
struct Matcher {
    tree: Tree,
    /// The place of each leaf in `matches`, if its name is there.
    leaves: Box<[Option<usize>]>,
}

/// A transport socket for some hosts.
#[derive(Clone, Debug)]
pub struct TransportSocketMatch {
    /// Under which it is counted.
    pub name: String,
    /// Values that the metadata of the host has.
    wanted: Map<String, Value>,
    /// The socket.
    pub socket: Arc<TransportSocket>,
}

/// Where the metadata of endpoints and localities says which transport socket is theirs.
const NAMESPACE: &str = "envoy.transport_socket_match";

// === impl TransportSockets ===

impl TransportSockets {
    /// `None` where all is raw.
    pub(super) fn lower(
        socket: Option<Proto>,
        matches: Vec<MatchProto>,
        matcher: Option<MatcherProto>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let names: Vec<String> = matches.iter().map(|proto| proto.name.clone()).collect();
        let matcher = cx.opt("transport_socket_matcher", matcher, |proto, cx| Matcher::lower(proto, &names, cx));
        let default = cx.opt("transport_socket", socket, TransportSocket::lower);
        let matches = cx.each("transport_socket_matches", matches, TransportSocketMatch::lower)?;
        let (default, matcher) = (default?.unwrap_or_default(), matcher?.map(Arc::new));
        if matches.is_empty() && matches!(default, TransportSocket::RawBuffer) {
            return Ok(None);
        }
        Ok(Some(Self { default: Arc::new(default), matches: matches.into(), matcher }))
    }

    /// The place in `matches` of the one for a host with this metadata, in a locality with that. `None`: the default.
    pub fn of_host(&self, host: Option<&Metadata>, locality: Option<&Metadata>) -> Option<usize> {
        match &self.matcher {
            None => self.choose(transport_fields(host), locality),
            Some(matcher) => matcher.find(HostData { endpoint: host, locality }),
        }
    }

    /// The place in `matches` of the one for a host with these fields, in a locality with that metadata. `None`: the
    /// default.
    pub fn choose(&self, host: Option<&Map<String, Value>>, locality: Option<&Metadata>) -> Option<usize> {
        let of = |fields| self.matches.iter().position(|socket| socket.fits(fields));
        of(host).or_else(|| of(transport_fields(locality)))
    }

    /// Whether a handshake with any host can tell which protocol is spoken.
    pub(super) fn know_alpn(&self) -> bool {
        self.default.knows_alpn() && self.matches.iter().all(|socket| socket.socket.knows_alpn())
    }

    /// Whether hosts may be spoken to in TLS.
    pub fn have_tls(&self) -> bool {
        self.default.knows_alpn() || self.matches.iter().any(|socket| socket.socket.knows_alpn())
    }

    /// The one at a place that `choose` gave.
    pub fn get(&self, at: Option<usize>) -> &Arc<TransportSocket> {
        at.map_or(&self.default, |at| &self.matches[at].socket)
    }
}

/// What metadata says of which transport socket is meant.
pub fn transport_fields(metadata: Option<&Metadata>) -> Option<&Map<String, Value>> {
    metadata?.get(NAMESPACE)
}

// === impl Matcher ===

impl Matcher {
    fn lower(proto: MatcherProto, names: &[String], cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if let Some((_, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            let reason = format!("Duplicate transport socket name '{name}' found in transport_socket_matches");
            return Err(cx.invalid(reason));
        }
        let mut leaves = Vec::new();
        let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
            let TransportSocketNameAction { name } = any_as(&any, cx)?;
            // Envoy: a name that is not there is the default.
            leaves.push(names.iter().position(|known| *known == name));
            Ok(u32::try_from(leaves.len() - 1).unwrap_or(u32::MAX))
        };
        let mut rules = TreeRules { inputs: Inputs::Host, keep_matching: true, leaf: &mut leaf };
        let tree = Tree::lower(proto, &mut rules, cx)?;
        Ok(Self { tree, leaves: leaves.into() })
    }

    fn find(&self, host: HostData<'_>) -> Option<usize> {
        let nowhere = Address::Pipe("".into());
        let connection = ConnectionInfo::new(0, nowhere.clone(), nowhere, Instant::now());
        let leaf = self.tree.find_for_connection(Rc::new(connection), host)?;
        *self.leaves.get(leaf as usize)?
    }
}

// === impl TransportSocketMatch ===

impl TransportSocketMatch {
    fn lower(proto: MatchProto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let MatchProto { name, r#match, transport_socket } = proto;
        let socket = cx.opt("transport_socket", transport_socket, TransportSocket::lower)?.unwrap_or_default();
        Ok(Self { name, wanted: r#match.map(object).unwrap_or_default(), socket: Arc::new(socket) })
    }

    fn fits(&self, fields: Option<&Map<String, Value>>) -> bool {
        self.wanted.iter().all(|(name, wanted)| fields.and_then(|fields| fields.get(name)) == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn the_first_that_fits_the_host_is_chosen_or_else_its_locality() {
        let of = |name: &str, wanted: Value| TransportSocketMatch {
            name: name.to_owned(),
            wanted: fields(wanted),
            socket: Arc::default(),
        };
        let matches = [
            of("a", serde_json::json!({ "tls": true, "level": 2 })),
            of("b", serde_json::json!({ "tls": true })),
            of("c", serde_json::json!({ "zone": "z" })),
        ];
        let sockets = TransportSockets { matches: matches.into(), ..TransportSockets::default() };
        let metadata = |json: Value| Metadata::from([(Arc::from(NAMESPACE), fields(json))]);
        let check = |host: Value, locality: Value, expected: Option<usize>| {
            assert_eq!(sockets.choose(Some(&fields(host)), Some(&metadata(locality))), expected);
        };
        check(serde_json::json!({ "tls": true, "level": 2 }), serde_json::json!({}), Some(0));
        check(serde_json::json!({ "tls": true }), serde_json::json!({ "zone": "z" }), Some(1));
        check(serde_json::json!({ "tls": "true" }), serde_json::json!({ "zone": "z" }), Some(2));
        check(serde_json::json!({}), serde_json::json!({}), None);
        assert_eq!(sockets.choose(None, None), None);
    }
}
