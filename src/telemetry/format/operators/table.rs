//! Every operator that Envoy 1.40 knows, by name: what it takes and what it becomes.

use crate::format::FormatErrorKind;
use crate::format::parser::Command;
use crate::format::time::{TimeFormat, Zone};

use super::address::{AddressOp, End, Mask, Part};
use super::cel::{CelOp, Typing};
use super::fields::{Count, LocalEnd, Port, Text};
use super::filter_state::FilterStateOp;
use super::grpc::Style;
use super::headers::{HeaderOp, Place};
use super::metadata::{MetadataOp, Owner};
use super::path::{Decoding, PathOp};
use super::points::{CommonDuration, Point};
use super::server_name::ServerNameOp;
use super::tls::{Side, TlsField, Validity, Whose};
use super::xfcc::XfccOp;
use super::{Op, Operator, TimeSource};

/// What may stand after an operator's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Neither argument nor length.
    Nothing,
    /// Perhaps an argument.
    Optional,
    /// Perhaps an argument, perhaps a length.
    OptionalAndLength,
    /// An argument.
    Argument,
    /// An argument, and perhaps a length.
    ArgumentAndLength,
}

/// How an operator is made.
#[derive(Clone, Copy)]
enum Make {
    Count(Count),
    Text(Text),
    Span(Point, Point),
    Tls(Side, TlsField),
    Address(End, Part),
    /// Has no value on a cleartext HTTP/1 or HTTP/2 stream that is not traced: so Envoy prints it there.
    Absent,
    /// Made from its argument.
    With(fn(&str) -> Result<Operator, String>),
    /// Known to Envoy, not to us yet.
    Refused,
}

use Make::{Absent, Address, Count as C, Refused, Span, Text as T, Tls, With};
use Takes::{Argument, ArgumentAndLength, Nothing, Optional, OptionalAndLength};

const WITHOUT: Part = Part::WithoutPort(Mask::None);

/// One row for each operator, sorted by name within its group.
const TABLE: &[(&str, Takes, Make)] = &[
    // Time.
    ("COMMON_DURATION", Argument, With(|a| Ok(Operator::CommonDuration(CommonDuration::parse(a)?)))),
    ("DOWNSTREAM_CX_RTT", Nothing, With(|_| Ok(Operator::RoundTrip))),
    ("DURATION", Nothing, Span(Point::Start, Point::Complete)),
    ("EMIT_TIME", Optional, With(|a| time(TimeSource::Emit, a, Zone::Utc))),
    ("EMIT_TIME_LOCAL", Optional, With(|a| time(TimeSource::Emit, a, Zone::Local))),
    ("REQUEST_DURATION", Nothing, Span(Point::Start, Point::RequestEnd)),
    ("REQUEST_TX_DURATION", Nothing, Span(Point::Start, Point::UpstreamRequestEnd)),
    ("RESPONSE_DURATION", Nothing, Span(Point::Start, Point::UpstreamResponseStart)),
    ("RESPONSE_TX_DURATION", Nothing, Span(Point::UpstreamResponseStart, Point::ResponseEnd)),
    ("ROUNDTRIP_DURATION", Nothing, Absent),
    ("START_TIME", Optional, With(|a| time(TimeSource::Start, a, Zone::Utc))),
    ("START_TIME_LOCAL", Optional, With(|a| time(TimeSource::Start, a, Zone::Local))),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", Nothing, With(|_| Ok(Operator::PoolReady))),
    // Bytes.
    ("BYTES_RECEIVED", Nothing, C(Count::BytesReceived)),
    ("BYTES_RETRANSMITTED", Nothing, C(Count::Retransmitted)),
    ("BYTES_SENT", Nothing, C(Count::BytesSent)),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Nothing, C(Count::DownstreamDecompressedReceived)),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Nothing, C(Count::DownstreamDecompressedSent)),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", Nothing, C(Count::DownstreamHeaderReceived)),
    ("DOWNSTREAM_HEADER_BYTES_SENT", Nothing, C(Count::DownstreamHeaderSent)),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", Nothing, C(Count::DownstreamWireReceived)),
    ("DOWNSTREAM_WIRE_BYTES_SENT", Nothing, C(Count::DownstreamWireSent)),
    ("PACKETS_RETRANSMITTED", Nothing, C(Count::Retransmitted)),
    ("REQUEST_HEADERS_BYTES", Nothing, With(|_| Ok(Operator::HeadersBytes(Place::Request)))),
    ("RESPONSE_HEADERS_BYTES", Nothing, With(|_| Ok(Operator::HeadersBytes(Place::Response)))),
    ("RESPONSE_TRAILERS_BYTES", Nothing, With(|_| Ok(Operator::HeadersBytes(Place::Trailers)))),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Nothing, C(Count::UpstreamDecompressedReceived)),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Nothing, C(Count::UpstreamDecompressedSent)),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", Nothing, C(Count::UpstreamHeaderReceived)),
    ("UPSTREAM_HEADER_BYTES_SENT", Nothing, C(Count::UpstreamHeaderSent)),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", Nothing, C(Count::UpstreamWireReceived)),
    ("UPSTREAM_WIRE_BYTES_SENT", Nothing, C(Count::UpstreamWireSent)),
    // Result.
    ("CONNECTION_TERMINATION_DETAILS", Nothing, T(Text::TerminationDetails)),
    ("CUSTOM_FLAGS", Nothing, T(Text::CustomFlags)),
    ("GRPC_STATUS", Optional, With(|a| Ok(Operator::GrpcStatus(Style::parse(a)?)))),
    ("GRPC_STATUS_NUMBER", Nothing, With(|_| Ok(Operator::GrpcStatus(Style::Number)))),
    ("LOCAL_REPLY_BODY", Nothing, T(Text::LocalReplyBody)),
    ("PROTOCOL", Nothing, T(Text::Protocol)),
    ("RESPONSE_CODE", Nothing, C(Count::ResponseCode)),
    ("RESPONSE_CODE_DETAILS", Optional, With(|a| Ok(Operator::Text(details(a))))),
    ("RESPONSE_FLAGS", Nothing, T(Text::Flags)),
    ("RESPONSE_FLAGS_LONG", Nothing, T(Text::FlagsLong)),
    ("UPSTREAM_PROTOCOL", Nothing, T(Text::UpstreamProtocol)),
    // Route and listener.
    ("ACCESS_LOG_TYPE", Nothing, T(Text::AccessLogType)),
    ("FILTER_CHAIN_NAME", Nothing, T(Text::FilterChain)),
    ("LISTENER_NAME", Nothing, T(Text::Listener)),
    ("ROUTE_NAME", Nothing, T(Text::RouteName)),
    ("VIRTUAL_CLUSTER_NAME", Nothing, T(Text::VirtualCluster)),
    // Upstream.
    ("UPSTREAM_CLUSTER", Nothing, T(Text::UpstreamCluster)),
    ("UPSTREAM_CLUSTER_RAW", Nothing, T(Text::UpstreamClusterRaw)),
    ("UPSTREAM_CONNECTION_ID", Nothing, C(Count::UpstreamConnectionId)),
    ("UPSTREAM_CONNECTION_IDS_ATTEMPTED", Nothing, T(Text::ConnectionIdsAttempted)),
    ("UPSTREAM_DETECTED_CLOSE_TYPE", Nothing, T(Text::UpstreamCloseType)),
    ("UPSTREAM_HOST", Nothing, Address(End::UpstreamHost, Part::Whole)),
    ("UPSTREAM_HOSTS_ATTEMPTED", Nothing, T(Text::HostsAttempted(Port::Kept))),
    ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", Nothing, T(Text::HostsAttempted(Port::Stripped))),
    ("UPSTREAM_HOST_NAME", Nothing, T(Text::UpstreamHostName(Port::Kept))),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", Nothing, T(Text::HostNamesAttempted(Port::Kept))),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", Nothing, T(Text::HostNamesAttempted(Port::Stripped))),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", Nothing, T(Text::UpstreamHostName(Port::Stripped))),
    ("UPSTREAM_LOCAL_ADDRESS", Nothing, Address(End::UpstreamLocal, Part::Whole)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Optional, Address(End::UpstreamLocal, WITHOUT)),
    ("UPSTREAM_LOCAL_CLOSE_REASON", Nothing, T(Text::UpstreamLocalClose)),
    ("UPSTREAM_LOCAL_PORT", Nothing, Address(End::UpstreamLocal, Part::Port)),
    ("UPSTREAM_REMOTE_ADDRESS", Nothing, Address(End::UpstreamRemote, Part::Whole)),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", Nothing, T(Text::UpstreamEndpointId)),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Optional, Address(End::UpstreamRemote, WITHOUT)),
    ("UPSTREAM_REMOTE_PORT", Nothing, Address(End::UpstreamRemote, Part::Port)),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Nothing, C(Count::UpstreamAttempts)),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Nothing, T(Text::UpstreamTransportFailure)),
    // Downstream.
    ("CONNECTION_ID", Nothing, C(Count::ConnectionId)),
    ("DOWNSTREAM_DETECTED_CLOSE_TYPE", Nothing, T(Text::DownstreamCloseType)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", Nothing, Address(End::DownstreamDirectLocal, Part::Whole)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", Nothing, T(Text::DownstreamEndpointId(LocalEnd::Direct))),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Optional, Address(End::DownstreamDirectLocal, WITHOUT)),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", Nothing, Address(End::DownstreamDirectLocal, Part::Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Nothing, Address(End::DownstreamDirectRemote, Part::Whole)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Optional, Address(End::DownstreamDirectRemote, WITHOUT)),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Nothing, Address(End::DownstreamDirectRemote, Part::Port)),
    ("DOWNSTREAM_LOCAL_ADDRESS", Nothing, Address(End::DownstreamLocal, Part::Whole)),
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", Nothing, T(Text::DownstreamEndpointId(LocalEnd::Restored))),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Optional, Address(End::DownstreamLocal, WITHOUT)),
    ("DOWNSTREAM_LOCAL_CLOSE_REASON", Nothing, T(Text::DownstreamLocalClose)),
    ("DOWNSTREAM_LOCAL_PORT", Nothing, Address(End::DownstreamLocal, Part::Port)),
    ("DOWNSTREAM_REMOTE_ADDRESS", Nothing, Address(End::DownstreamRemote, Part::Whole)),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Optional, Address(End::DownstreamRemote, WITHOUT)),
    ("DOWNSTREAM_REMOTE_PORT", Nothing, Address(End::DownstreamRemote, Part::Port)),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Nothing, T(Text::DownstreamTransportFailure)),
    ("REQUESTED_SERVER_NAME", Optional, With(|a| Ok(Operator::ServerName(ServerNameOp::parse(a)?)))),
    ("STREAM_ID", Nothing, T(Text::StreamId)),
    // Headers and metadata.
    ("CLUSTER_METADATA", Argument, With(|a| metadata(Owner::Cluster, a))),
    ("DYNAMIC_METADATA", ArgumentAndLength, With(|a| metadata(Owner::Stream, a))),
    ("FILTER_STATE", ArgumentAndLength, With(|a| Ok(Operator::FilterState(FilterStateOp::parse(a)?)))),
    ("METADATA", ArgumentAndLength, With(|a| Ok(Operator::Metadata(MetadataOp::parse_typed(a)?)))),
    ("PATH", OptionalAndLength, With(|a| Ok(Operator::Path(PathOp::parse(a)?)))),
    ("QUERY_PARAM", ArgumentAndLength, With(|a| Ok(Operator::QueryParam(a.into())))),
    ("QUERY_PARAMS", OptionalAndLength, With(|a| Ok(Operator::QueryParams(Decoding::parse(a)?)))),
    ("REQ", ArgumentAndLength, With(|a| header(Place::Request, a))),
    ("REQUEST_HEADER", ArgumentAndLength, With(|a| header(Place::Request, a))),
    ("REQ_WITHOUT_QUERY", ArgumentAndLength, With(|a| Ok(Operator::Path(PathOp::without_query(a)?)))),
    ("RESP", ArgumentAndLength, With(|a| header(Place::Response, a))),
    ("RESPONSE_HEADER", ArgumentAndLength, With(|a| header(Place::Response, a))),
    ("RESPONSE_TRAILER", ArgumentAndLength, With(|a| header(Place::Trailers, a))),
    ("STREAM_INFO_REQ", ArgumentAndLength, With(|a| header(Place::Request, a))),
    ("TRAILER", ArgumentAndLength, With(|a| header(Place::Trailers, a))),
    ("UPSTREAM_FILTER_STATE", ArgumentAndLength, With(|a| Ok(Operator::UpstreamFilterState(FilterStateOp::parse(a)?)))),
    ("UPSTREAM_METADATA", Argument, With(|a| metadata(Owner::Host, a))),
    // Others.
    ("CEL", ArgumentAndLength, With(|a| Ok(Operator::Cel(CelOp::parse(a, Typing::Text)?)))),
    ("COALESCE", ArgumentAndLength, With(coalesce)),
    ("ENVIRONMENT", ArgumentAndLength, With(|a| Ok(environment(a)))),
    ("HOSTNAME", Nothing, With(|_| Ok(hostname()))),
    ("SPAN_ID", Nothing, Absent),
    ("TRACE_ID", Nothing, Absent),
    ("TYPED_CEL", ArgumentAndLength, With(|a| Ok(Operator::Cel(CelOp::parse(a, Typing::Typed)?)))),
    ("UNIQUE_ID", Nothing, With(|_| Ok(Operator::UniqueId))),
    ("XFCC_VALUE", ArgumentAndLength, With(|a| Ok(Operator::Xfcc(XfccOp::parse(a)?)))),
    // TLS of the downstream connection.
    ("DOWNSTREAM_LOCAL_DNS_SAN", Nothing, Tls(Side::Downstream, TlsField::DnsSan(Whose::Local))),
    ("DOWNSTREAM_LOCAL_EMAIL_SAN", Nothing, Tls(Side::Downstream, TlsField::EmailSan(Whose::Local))),
    ("DOWNSTREAM_LOCAL_IP_SAN", Nothing, Tls(Side::Downstream, TlsField::IpSan(Whose::Local))),
    ("DOWNSTREAM_LOCAL_SUBJECT", Nothing, Tls(Side::Downstream, TlsField::Subject(Whose::Local))),
    ("DOWNSTREAM_LOCAL_URI_SAN", Nothing, Tls(Side::Downstream, TlsField::UriSan(Whose::Local))),
    ("DOWNSTREAM_PEER_CERT", Nothing, Tls(Side::Downstream, TlsField::Certificate)),
    ("DOWNSTREAM_PEER_CERT_V_END", Optional, With(|a| validity(Side::Downstream, Validity::End, a))),
    ("DOWNSTREAM_PEER_CERT_V_START", Optional, With(|a| validity(Side::Downstream, Validity::Start, a))),
    ("DOWNSTREAM_PEER_DNS_SAN", Nothing, Tls(Side::Downstream, TlsField::DnsSan(Whose::Peer))),
    ("DOWNSTREAM_PEER_EMAIL_SAN", Nothing, Tls(Side::Downstream, TlsField::EmailSan(Whose::Peer))),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", Nothing, Tls(Side::Downstream, TlsField::Fingerprint1)),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", Nothing, Tls(Side::Downstream, TlsField::Fingerprint256)),
    ("DOWNSTREAM_PEER_IP_SAN", Nothing, Tls(Side::Downstream, TlsField::IpSan(Whose::Peer))),
    ("DOWNSTREAM_PEER_ISSUER", Nothing, Tls(Side::Downstream, TlsField::Issuer)),
    ("DOWNSTREAM_PEER_SERIAL", Nothing, Tls(Side::Downstream, TlsField::Serial)),
    ("DOWNSTREAM_PEER_SUBJECT", Nothing, Tls(Side::Downstream, TlsField::Subject(Whose::Peer))),
    ("DOWNSTREAM_PEER_URI_SAN", Nothing, Tls(Side::Downstream, TlsField::UriSan(Whose::Peer))),
    ("DOWNSTREAM_TLS_CIPHER", Nothing, Tls(Side::Downstream, TlsField::Cipher)),
    ("DOWNSTREAM_TLS_GROUP", Nothing, Tls(Side::Downstream, TlsField::Group)),
    ("DOWNSTREAM_TLS_SESSION_ID", Nothing, Tls(Side::Downstream, TlsField::SessionId)),
    ("DOWNSTREAM_TLS_VERSION", Nothing, Tls(Side::Downstream, TlsField::Version)),
    ("TLS_JA3_FINGERPRINT", Nothing, T(Text::Ja3)),
    ("TLS_JA4_FINGERPRINT", Nothing, T(Text::Ja4)),
    // TLS of the upstream connection.
    ("UPSTREAM_LOCAL_DNS_SAN", Nothing, Tls(Side::Upstream, TlsField::DnsSan(Whose::Local))),
    ("UPSTREAM_LOCAL_IP_SAN", Nothing, Tls(Side::Upstream, TlsField::IpSan(Whose::Local))),
    ("UPSTREAM_LOCAL_URI_SAN", Nothing, Tls(Side::Upstream, TlsField::UriSan(Whose::Local))),
    ("UPSTREAM_PEER_CERT", Nothing, Tls(Side::Upstream, TlsField::Certificate)),
    ("UPSTREAM_PEER_CERT_V_END", Optional, With(|a| validity(Side::Upstream, Validity::End, a))),
    ("UPSTREAM_PEER_CERT_V_START", Optional, With(|a| validity(Side::Upstream, Validity::Start, a))),
    ("UPSTREAM_PEER_DNS_SAN", Nothing, Tls(Side::Upstream, TlsField::DnsSan(Whose::Peer))),
    ("UPSTREAM_PEER_IP_SAN", Nothing, Tls(Side::Upstream, TlsField::IpSan(Whose::Peer))),
    ("UPSTREAM_PEER_ISSUER", Nothing, Tls(Side::Upstream, TlsField::Issuer)),
    ("UPSTREAM_PEER_SUBJECT", Nothing, Tls(Side::Upstream, TlsField::Subject(Whose::Peer))),
    ("UPSTREAM_PEER_URI_SAN", Nothing, Tls(Side::Upstream, TlsField::UriSan(Whose::Peer))),
    ("UPSTREAM_SERVER_NAME", Nothing, Tls(Side::Upstream, TlsField::ServerName)),
    ("UPSTREAM_TLS_CIPHER", Nothing, Tls(Side::Upstream, TlsField::Cipher)),
    ("UPSTREAM_TLS_GROUP", Nothing, Tls(Side::Upstream, TlsField::Group)),
    ("UPSTREAM_TLS_VERSION", Nothing, Tls(Side::Upstream, TlsField::Version)),
    // What TLS would tell and is not kept of it yet: as without TLS, they have no value.
    ("DOWNSTREAM_HANDSHAKE_DURATION", Nothing, Tls(Side::Downstream, TlsField::HandshakeDuration)),
    ("DOWNSTREAM_LOCAL_OTHERNAME_SAN", Nothing, Tls(Side::Downstream, TlsField::OtherSan(Whose::Local))),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", Nothing, Tls(Side::Downstream, TlsField::ChainFingerprints1)),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", Nothing, Tls(Side::Downstream, TlsField::ChainFingerprints256)),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", Nothing, Tls(Side::Downstream, TlsField::ChainSerials)),
    ("DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256", Nothing, Tls(Side::Downstream, TlsField::IssuerFingerprint256)),
    ("DOWNSTREAM_PEER_ISSUER_SERIAL", Nothing, Tls(Side::Downstream, TlsField::IssuerSerial)),
    ("DOWNSTREAM_PEER_OTHERNAME_SAN", Nothing, Tls(Side::Downstream, TlsField::OtherSan(Whose::Peer))),
    ("UPSTREAM_TLS_SESSION_ID", Nothing, Absent),
    // Not implemented yet.
    ("FILE_CONTENT", ArgumentAndLength, Refused),
    ("PER_REQUEST_STATE", ArgumentAndLength, Refused),
    ("SECRET", ArgumentAndLength, Refused),
];

/// Names closer than this to what was written are suggested.
const SUGGEST_SIMILARITY: f64 = 0.8;

/// Compiles one operator.
pub(in crate::format) fn build(command: &Command<'_>) -> Result<Op, FormatErrorKind> {
    let Command { name, argument, length } = *command;
    let row = TABLE.iter().find(|(known, _, _)| *known == name).ok_or_else(|| unknown(name))?;
    let refuse = |reason: String| FormatErrorKind::Argument { name: row.0, reason };
    if matches!(row.2, Refused) {
        return Err(FormatErrorKind::NotImplemented { name: row.0 });
    }
    row.1.check(argument, length).map_err(|reason| refuse(reason.to_owned()))?;
    let operator = row.2.make(argument).map_err(refuse)?;
    // Envoy takes a length here, and cuts nothing.
    let max = length.filter(|_| !matches!(operator, Operator::Xfcc(_)));
    Ok(Op { operator, max })
}

fn unknown(name: &str) -> FormatErrorKind {
    let similarity = |known: &str| strsim::jaro_winkler(known, name);
    let near = TABLE.iter().map(|row| (row.0, similarity(row.0))).max_by(|a, b| a.1.total_cmp(&b.1));
    let near = near.filter(|(_, similarity)| *similarity > SUGGEST_SIMILARITY).map(|(name, _)| name);
    FormatErrorKind::Unknown { name: name.to_owned(), near }
}

impl Takes {
    fn check(self, argument: &str, length: Option<usize>) -> Result<(), &'static str> {
        match self {
            Nothing if !argument.is_empty() || length.is_some() => Err("it takes neither argument nor length"),
            Argument | ArgumentAndLength if argument.is_empty() => Err("it needs an argument"),
            Optional | Argument if length.is_some() => Err("it takes no length"),
            _ => Ok(()),
        }
    }
}

impl Make {
    fn make(self, argument: &str) -> Result<Operator, String> {
        Ok(match self {
            Self::Count(count) => Operator::Count(count),
            Self::Text(field) => Operator::Text(field),
            Self::Span(from, to) => Operator::Span(from, to),
            Self::Tls(side, field) => Operator::Tls(side, field),
            Self::Address(end, Part::WithoutPort(_)) => {
                Operator::Address(AddressOp { end, part: Part::WithoutPort(Mask::parse(argument)) })
            }
            Self::Address(end, part) => Operator::Address(AddressOp { end, part }),
            Self::Absent | Self::Refused => Operator::Absent,
            Self::With(make) => make(argument)?,
        })
    }
}

fn time(source: TimeSource, format: &str, zone: Zone) -> Result<Operator, String> {
    Ok(Operator::Time(source, TimeFormat::parse(format, zone)?))
}

fn validity(side: Side, end: Validity, format: &str) -> Result<Operator, String> {
    Ok(Operator::Validity(side, end, TimeFormat::parse(format, Zone::Utc)?))
}

/// Envoy takes any other argument for none.
fn details(argument: &str) -> Text {
    match argument {
        "ALLOW_WHITESPACES" => Text::DetailsAsTheyAre,
        _ => Text::Details,
    }
}

fn header(place: Place, argument: &str) -> Result<Operator, String> {
    Ok(Operator::Header(HeaderOp::parse(place, argument)?))
}

fn metadata(owner: Owner, argument: &str) -> Result<Operator, String> {
    Ok(Operator::Metadata(MetadataOp::parse(owner, argument)))
}

/// The variable as it is when the format is loaded; `-`, and not a missing value, if it is not set.
fn environment(name: &str) -> Operator {
    // A name with `=` or NUL cannot be set, and would make var_os panic on some platforms.
    let value = if name.contains(['=', '\0']) { None } else { std::env::var_os(name) };
    Operator::Constant(value.map_or_else(|| "-".into(), |v| v.to_string_lossy().into()))
}

/// The host name as it is when the format is loaded; without one the operator has no value.
fn hostname() -> Operator {
    // HOST_NAME_MAX is 64 on Linux and 255 at most in POSIX.
    let mut buffer = [0_u8; 256];
    // SAFETY: the buffer is as long as said; one byte is kept back, so that a cut name still ends with NUL.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let name = std::ffi::CStr::from_bytes_until_nul(&buffer).ok().filter(|_| result == 0);
    name.map_or(Operator::Absent, |name| Operator::Constant(name.to_string_lossy().into()))
}

/// `{"operators": ["NAME", {"command": "NAME", "param": "argument", "max_length": 1}]}`.
fn coalesce(argument: &str) -> Result<Operator, String> {
    let config: serde_json::Value = serde_json::from_str(argument).map_err(|e| format!("no JSON: {e}"))?;
    let Some(operators) = config.get("operators") else { return Err("there is no \"operators\"".to_owned()) };
    let Some(operators) = operators.as_array() else { return Err("\"operators\" is no list".to_owned()) };
    if operators.is_empty() {
        return Err("\"operators\" is empty".to_owned());
    }
    let ops =
        operators.iter().enumerate().map(|(i, o)| coalesced(o).map_err(|reason| format!("operators[{i}]: {reason}")));
    Ok(Operator::Coalesce(ops.collect::<Result<_, _>>()?))
}

fn coalesced(config: &serde_json::Value) -> Result<Op, String> {
    let text = |field: &str| match config.get(field) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("{field:?} is no string")),
    };
    let command = match config.as_str() {
        Some(name) => Command { name, argument: "", length: None },
        None => Command {
            name: text("command")?.ok_or("neither a name nor an object with \"command\"")?,
            argument: text("param")?.unwrap_or_default(),
            length: match config.get("max_length") {
                None => None,
                Some(n) => Some(positive(n).ok_or("\"max_length\" is no positive integer")?),
            },
        },
    };
    build(&command).map_err(|kind| kind.to_string())
}

fn positive(value: &serde_json::Value) -> Option<usize> {
    value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
}

/// Every name, and whether it needs an argument.
#[cfg(test)]
pub(in crate::format) fn names() -> impl Iterator<Item = (&'static str, bool)> {
    TABLE.iter().map(|(name, takes, _)| (*name, matches!(takes, Argument | ArgumentAndLength)))
}
