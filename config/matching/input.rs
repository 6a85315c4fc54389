//! What matchers of a tree look at.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::matching::common_inputs::environment_variable::v3 as environment;
use nuncio_proto::envoy::extensions::matching::common_inputs::network::v3 as network;
use nuncio_proto::envoy::extensions::matching::common_inputs::transport_socket::v3 as transport_socket;
use nuncio_proto::envoy::r#type::matcher::v3 as envoy;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::core::v3::TypedExtensionConfig;
use nuncio_telemetry::{Address, Metadata, TlsInfo};
use serde_json::Value;

use super::{Insufficient, MatchingData, typed_config, unknown};
use crate::matcher::{Field, first_decoded_value};
use crate::metadata::whole_numbers;
use crate::protocol::{any_as, message_name};

/// Which inputs a tree may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// All of a request.
    Request,
    /// Envoy: routes are chosen by request headers, and by what is the same for all requests.
    Headers,
    /// What is known of a connection before it has a filter chain.
    Connection,
    /// What is known of a connection that has its filter chain.
    Established,
    /// The two ends of a datagram.
    Datagram,
    /// What is known of a host.
    Host,
}

/// One piece of data.
#[derive(Debug)]
pub(super) enum Input {
    Header(Field),
    Query(Box<[u8]>),
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    SourceType,
    ServerName,
    TransportProtocol,
    ApplicationProtocols,
    /// Namespace and path.
    Metadata(Box<str>, Box<[String]>),
    /// Metadata of a host, or of its locality: namespace and path.
    HostMetadata(HostOwner, Box<str>, Box<[String]>),
    /// A value of the filter state by name, or one of its fields where the second name is not empty.
    FilterState(Box<str>, Box<str>),
    /// As it was when the configuration was loaded.
    Environment(Option<Box<[u8]>>),
    /// All attributes at once, for expressions.
    Attributes,
    /// What the client's certificate says.
    Peer(Said),
    /// What a listener without network namespace does not have.
    Missing,
    /// What there is only after a handshake, with a response, or at the end of the request.
    Later,
}

/// A part of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    UriSans,
    DnsSans,
    Subject,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostOwner {
    Endpoint,
    Locality,
}

/// The messages of inputs that take a field or are looked at otherwise than by a plain value.
const KNOWN: &[&str] = &[
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput",
    "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput",
    "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput",
    "xds.type.matcher.v3.HttpAttributesCelMatchInput",
];

/// The package of most inputs.
const NETWORK: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const TLS: &str = "envoy.extensions.matching.common_inputs.ssl.v3.";
const ENVIRONMENT: &str = "envoy.extensions.matching.common_inputs.environment_variable.v3.Config";
const TRANSPORT_SOCKET: &str = "envoy.extensions.matching.common_inputs.transport_socket.v3.";

impl Input {
    pub(super) fn lower(
        extension: TypedExtensionConfig,
        inputs: Inputs,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        typed_config(extension, cx, |any, cx| {
            match inputs {
                Inputs::Datagram => return Self::lower_datagram(&any, cx),
                Inputs::Established => return Self::lower_established(&any, cx),
                Inputs::Host => return Self::lower_host(&any, cx),
                Inputs::Request | Inputs::Headers | Inputs::Connection => {}
            }
            let input = match message_name(&any) {
                "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" if inputs != Inputs::Connection => {
                    let envoy::HttpRequestHeaderMatchInput { header_name } = any_as(&any, cx)?;
                    return cx.at("header_name", |cx| Field::lower(&header_name, cx)).map(Self::Header);
                }
                ENVIRONMENT => return Self::lower_environment(&any, cx),
                "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput" => {
                    let network::FilterStateInput { key, field } = any_as(&any, cx)?;
                    return Ok(Self::FilterState(key.into(), field.into()));
                }
                "xds.type.matcher.v3.HttpAttributesCelMatchInput" => Self::Attributes,
                name => match (name.strip_prefix(NETWORK), name.strip_prefix(TLS)) {
                    (Some("TransportProtocolInput"), _) if inputs == Inputs::Connection => Self::TransportProtocol,
                    (Some("ApplicationProtocolInput"), _) if inputs == Inputs::Connection => Self::ApplicationProtocols,
                    // Envoy: there is none of it before there is a filter chain.
                    (Some("DynamicMetadataInput"), _) if inputs == Inputs::Connection => {
                        return Err(cx.invalid(format!("{name} is no input for connections")));
                    }
                    (Some(name), _) => Self::lower_network(name, &any, cx)?,
                    // No handshake comes before the choice of a filter chain.
                    (_, Some("UriSanInput" | "DnsSanInput" | "SubjectInput")) if inputs == Inputs::Connection => {
                        Self::Later
                    }
                    (_, Some("UriSanInput")) => Self::Peer(Said::UriSans),
                    (_, Some("DnsSanInput")) => Self::Peer(Said::DnsSans),
                    (_, Some("SubjectInput")) => Self::Peer(Said::Subject),
                    _ if inputs == Inputs::Connection => {
                        return Err(cx.invalid(format!("{name}: is no input for connections")));
                    }
                    _ => Self::lower_http(name, &any, cx)?,
                },
            };
            match inputs {
                Inputs::Request | Inputs::Connection | Inputs::Established | Inputs::Datagram | Inputs::Host => {
                    Ok(input)
                }
                Inputs::Headers => {
                    Err(cx.invalid(format!("{}: routes are chosen by request headers alone", message_name(&any))))
                }
            }
        })
    }

    fn lower_datagram(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message = message_name(any);
        if message == ENVIRONMENT {
            return Self::lower_environment(any, cx);
        }
        match message.strip_prefix(NETWORK) {
            Some(name @ ("DestinationIPInput" | "DestinationPortInput" | "SourceIPInput" | "SourcePortInput")) => {
                Self::lower_network(name, any, cx)
            }
            _ => Err(cx.invalid(format!("{message} is no input for datagrams"))),
        }
    }

    fn lower_established(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let message = message_name(any);
        Ok(match (message.strip_prefix(NETWORK), message.strip_prefix(TLS)) {
            (_, Some("UriSanInput")) => Self::Peer(Said::UriSans),
            (_, Some("DnsSanInput")) => Self::Peer(Said::DnsSans),
            (_, Some("SubjectInput")) => Self::Peer(Said::Subject),
            (Some("FilterStateInput"), _) => {
                let network::FilterStateInput { key, field } = any_as(any, cx)?;
                Self::FilterState(key.into(), field.into())
            }
            (
                Some(
                    name @ ("DestinationIPInput"
                    | "DestinationPortInput"
                    | "SourceIPInput"
                    | "SourcePortInput"
                    | "DirectSourceIPInput"
                    | "ServerNameInput"
                    | "NetworkNamespaceInput"),
                ),
                _,
            ) => Self::lower_network(name, any, cx)?,
            _ if message == ENVIRONMENT => Self::lower_environment(any, cx)?,
            _ => return Err(cx.invalid(format!("{message} is no input for the rules of a connection"))),
        })
    }

    fn lower_host(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use transport_socket::{endpoint_metadata_input as endpoint, locality_metadata_input as locality};
        let message = message_name(any);
        // Envoy takes a segment without key for an empty key.
        let (owner, filter, path) = match message.strip_prefix(TRANSPORT_SOCKET) {
            Some("EndpointMetadataInput") => {
                let transport_socket::EndpointMetadataInput { filter, path } = any_as(any, cx)?;
                let key = |endpoint::PathSegment { segment }| {
                    segment.map(|endpoint::path_segment::Segment::Key(key)| key).unwrap_or_default()
                };
                (HostOwner::Endpoint, filter, path.into_iter().map(key).collect())
            }
            Some("LocalityMetadataInput") => {
                let transport_socket::LocalityMetadataInput { filter, path } = any_as(any, cx)?;
                let key = |locality::PathSegment { segment }| {
                    segment.map(|locality::path_segment::Segment::Key(key)| key).unwrap_or_default()
                };
                (HostOwner::Locality, filter, path.into_iter().map(key).collect())
            }
            Some("FilterStateInput") => return Err(cx.not_implemented("filter state that is shared with hosts")),
            _ if message == ENVIRONMENT => return Self::lower_environment(any, cx),
            _ => return Err(cx.invalid(format!("{message} is no input for transport sockets"))),
        };
        let filter = if filter.is_empty() { "envoy.lb".to_owned() } else { filter };
        Ok(Self::HostMetadata(owner, filter.into(), path))
    }

    fn lower_http(name: &str, any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Ok(match name {
            "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput" => {
                let envoy::HttpRequestQueryParamMatchInput { query_param } = any_as(any, cx)?;
                Self::Query(query_param.into_bytes().into())
            }
            "envoy.type.matcher.v3.HttpRequestTrailerMatchInput"
            | "envoy.type.matcher.v3.HttpResponseHeaderMatchInput"
            | "envoy.type.matcher.v3.HttpResponseTrailerMatchInput"
            | "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput"
            | "envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput"
            | "envoy.type.matcher.v3.HttpResponseLocalReplyMatchInput" => Self::Later,
            other => return Err(unknown("input", other, KNOWN, cx)),
        })
    }

    fn lower_network(name: &str, any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use network::dynamic_metadata_input::{PathSegment, path_segment::Segment};
        Ok(match name {
            "DestinationIPInput" => Self::DestinationIp,
            "DestinationPortInput" => Self::DestinationPort,
            "SourceIPInput" => Self::SourceIp,
            "SourcePortInput" => Self::SourcePort,
            "DirectSourceIPInput" => Self::DirectSourceIp,
            "SourceTypeInput" => Self::SourceType,
            "ServerNameInput" => Self::ServerName,
            "NetworkNamespaceInput" => Self::Missing,
            "DynamicMetadataInput" => {
                let network::DynamicMetadataInput { filter, path } = any_as(any, cx)?;
                let path = cx.each("path", path, |PathSegment { segment }, cx| match segment {
                    Some(Segment::Key(key)) => Ok(key),
                    None => Err(cx.invalid("segment is required")),
                })?;
                Self::Metadata(filter.into(), path.into())
            }
            // Envoy: these two are for connections only.
            "TransportProtocolInput" | "ApplicationProtocolInput" => {
                return Err(cx.invalid(format!("{NETWORK}{name} is no input for HTTP requests")));
            }
            _ => return Err(unknown("input", message_name(any), KNOWN, cx)),
        })
    }

    fn lower_environment(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let environment::Config { name } = any_as(any, cx)?;
        // A name with `=` or NUL cannot be set, and would make var_os panic on some platforms.
        let value = if name.contains(['=', '\0']) { None } else { std::env::var_os(&name) };
        Ok(Self::Environment(value.map(|value| value.into_encoded_bytes().into())))
    }

    /// Whether it is for expressions alone.
    pub(super) fn is_attributes(&self) -> bool {
        matches!(self, Self::Attributes)
    }

    /// The text that most matchers look at; none where there is no value, or one of another kind.
    pub(super) fn text<'a>(&'a self, data: MatchingData<'a>) -> Result<Option<Cow<'a, [u8]>>, Insufficient> {
        let connection = &data.info.connection;
        Ok(match self {
            Self::Header(field) => joined(field, data),
            Self::Query(name) => first_decoded_value(data.head.path.as_bytes(), name),
            Self::DestinationIp => connection.local.ip().map(ip_text),
            Self::DestinationPort => connection.local.port().map(port_text),
            Self::SourceIp => data.info.remote.borrow().ip().map(ip_text),
            Self::SourcePort => data.info.remote.borrow().port().map(port_text),
            Self::DirectSourceIp => connection.direct_remote.ip().map(ip_text),
            Self::SourceType => is_local(&data.info.remote.borrow(), &connection.local).then(|| b"local"[..].into()),
            Self::ServerName => connection.server_name.borrow().as_ref().map(|name| name.as_bytes().to_vec().into()),
            Self::TransportProtocol => Some(connection.transport_protocol().as_bytes().into()),
            Self::ApplicationProtocols => {
                let offered = connection.inspected.iter().flat_map(|inspected| &inspected.application_protocols);
                let quoted: Vec<_> = offered.map(|protocol| format!("'{protocol}'")).collect();
                (!quoted.is_empty()).then(|| quoted.join(",").into_bytes().into())
            }
            Self::FilterState(name, field) => {
                let state = data.info.filter_state.borrow();
                let text = state.get(name).and_then(|value| match field.is_empty() {
                    true => value.text(),
                    false => value.field(field),
                });
                text.map(|text| Cow::Owned(text.into_owned().into_bytes()))
            }
            Self::Environment(value) => value.as_deref().map(Cow::Borrowed),
            Self::Peer(said) => match &*connection.tls.borrow() {
                Some(tls) => said.of(tls).map(|text| text.into_bytes().into()),
                // Envoy: without TLS it never comes.
                None => return Err(Insufficient),
            },
            Self::HostMetadata(owner, namespace, path) => {
                let metadata = match owner {
                    HostOwner::Endpoint => data.host.endpoint,
                    HostOwner::Locality => data.host.locality,
                };
                value_at(metadata, namespace, path).map(|value| match value {
                    Value::String(text) => Cow::Borrowed(text.as_bytes()),
                    other => whole_numbers(other.clone()).to_string().into_bytes().into(),
                })
            }
            Self::Metadata(..) | Self::Attributes | Self::Missing => None,
            Self::Later => return Err(Insufficient),
        })
    }

    /// Looks at the value of metadata; it is given none if there is no such value.
    pub(super) fn with_metadata<R>(&self, data: MatchingData<'_>, look: impl FnOnce(Option<&Value>) -> R) -> Option<R> {
        let Self::Metadata(namespace, path) = self else { return None };
        let metadata = data.info.metadata.borrow();
        Some(look(value_at(metadata.as_deref(), namespace, path)))
    }
}

// === impl Said ===

impl Said {
    fn of(self, tls: &TlsInfo) -> Option<String> {
        let peer = tls.peer.as_deref()?;
        let said = match self {
            Self::UriSans => peer.uri_sans.join(","),
            Self::DnsSans => peer.dns_sans.join(","),
            Self::Subject => peer.subject.clone(),
        };
        (!said.is_empty()).then_some(said)
    }
}

fn value_at<'a>(metadata: Option<&'a Metadata>, namespace: &str, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = metadata?.get(namespace)?.get(first)?;
    rest.iter().try_fold(value, |value, key| value.as_object()?.get(key))
}

/// All values of a header in a request, joined by commas.
fn joined<'a>(field: &Field, data: MatchingData<'a>) -> Option<Cow<'a, [u8]>> {
    let Field::Header(name) = field else {
        return field.first_in_request(data.head).filter(|text| !text.is_empty()).map(|text| text.as_bytes().into());
    };
    let mut values = data.head.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let first = values.next()?;
    Some(values.fold(Cow::Borrowed(first), |joined, value| [&*joined, value].join(&b","[..]).into()))
}

fn ip_text<'a>(address: IpAddr) -> Cow<'a, [u8]> {
    address.to_string().into_bytes().into()
}

fn port_text<'a>(port: u16) -> Cow<'a, [u8]> {
    port.to_string().into_bytes().into()
}

/// Whether a peer is on this host. Envoy: of the loopback addresses one of each family counts.
pub(crate) fn is_local(remote: &Address, local: &Address) -> bool {
    match (remote.ip(), local.ip()) {
        (None, _) => true,
        (Some(remote), local) => {
            remote == Ipv4Addr::LOCALHOST || remote == Ipv6Addr::LOCALHOST || Some(remote) == local
        }
    }
}
