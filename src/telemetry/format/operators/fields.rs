//! Operators that print one field of the stream's record.

use crate::Protocol;
use crate::format::FormatCx;
use crate::format::escape::push_int;
use crate::{Address, ResponseFlag, UpstreamInfo};

use super::address;

/// Fields that are numbers and never missing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    ResponseCode,
    BytesReceived,
    BytesSent,
    /// `%BYTES_RETRANSMITTED%` and `%PACKETS_RETRANSMITTED%` are known on QUIC alone; Envoy prints 0 on TCP.
    Retransmitted,
    DownstreamWireReceived,
    DownstreamWireSent,
    DownstreamHeaderReceived,
    DownstreamHeaderSent,
    DownstreamDecompressedReceived,
    DownstreamDecompressedSent,
    UpstreamWireReceived,
    UpstreamWireSent,
    UpstreamHeaderReceived,
    UpstreamHeaderSent,
    UpstreamDecompressedReceived,
    UpstreamDecompressedSent,
    UpstreamAttempts,
    UpstreamConnectionId,
    ConnectionId,
}

/// Nothing is compressed there.
fn is_http1(protocol: Option<Protocol>) -> bool {
    matches!(protocol, Some(Protocol::Http10 | Protocol::Http11))
}

impl Count {
    pub(super) fn read(self, cx: &FormatCx<'_>) -> u64 {
        let info = cx.info;
        match self {
            Self::ResponseCode => info.response_code.get().into(),
            Self::BytesReceived => info.bytes_received.get(),
            Self::BytesSent => info.bytes_sent.get(),
            Self::Retransmitted => 0,
            Self::DownstreamWireReceived => info.wire_bytes_received.get(),
            Self::DownstreamWireSent => info.wire_bytes_sent.get(),
            Self::DownstreamHeaderReceived => info.header_bytes_received.get(),
            Self::DownstreamHeaderSent => info.header_bytes_sent.get(),
            Self::DownstreamDecompressedReceived if is_http1(info.protocol.get()) => info.header_bytes_received.get(),
            Self::DownstreamDecompressedReceived => info.decompressed_header_bytes_received.get(),
            Self::DownstreamDecompressedSent if is_http1(info.protocol.get()) => info.header_bytes_sent.get(),
            Self::DownstreamDecompressedSent => info.decompressed_header_bytes_sent.get(),
            Self::UpstreamWireReceived => info.upstream.borrow().wire_bytes_received,
            Self::UpstreamWireSent => info.upstream.borrow().wire_bytes_sent,
            Self::UpstreamHeaderReceived => info.upstream.borrow().header_bytes_received,
            Self::UpstreamHeaderSent => info.upstream.borrow().header_bytes_sent,
            Self::UpstreamDecompressedReceived => {
                let upstream = info.upstream.borrow();
                match is_http1(upstream.protocol) {
                    true => upstream.header_bytes_received,
                    false => upstream.decompressed_header_bytes_received,
                }
            }
            Self::UpstreamDecompressedSent => {
                let upstream = info.upstream.borrow();
                match is_http1(upstream.protocol) {
                    true => upstream.header_bytes_sent,
                    false => upstream.decompressed_header_bytes_sent,
                }
            }
            Self::UpstreamAttempts => info.upstream.borrow().attempts.into(),
            Self::UpstreamConnectionId => info.upstream.borrow().connection_id.unwrap_or(0),
            Self::ConnectionId => info.connection.id,
        }
    }
}

/// Fields that are text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    Protocol,
    UpstreamProtocol,
    /// `%RESPONSE_CODE_DETAILS%`: white space becomes `_`.
    Details,
    /// `%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%`.
    DetailsAsTheyAre,
    TerminationDetails,
    Flags,
    FlagsLong,
    /// `%CUSTOM_FLAGS%`: set by extensions; there is none that does, so the text is empty, as in Envoy without one.
    CustomFlags,
    LocalReplyBody,
    RouteName,
    VirtualCluster,
    FilterChain,
    Listener,
    Ja3,
    Ja4,
    AccessLogType,
    StreamId,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamHostName(Port),
    HostsAttempted(Port),
    HostNamesAttempted(Port),
    ConnectionIdsAttempted,
    UpstreamTransportFailure,
    UpstreamLocalClose,
    UpstreamCloseType,
    DownstreamTransportFailure,
    DownstreamLocalClose,
    DownstreamCloseType,
    /// Endpoint ids exist on internal addresses alone: empty for a downstream address of another kind.
    DownstreamEndpointId(LocalEnd),
    /// The same for the upstream address, if there is one.
    UpstreamEndpointId,
}

/// Our end of a connection that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LocalEnd {
    /// That of the socket.
    Direct,
    /// The one that listener filters made of it.
    Restored,
}

/// Whether a host is printed with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Kept,
    Stripped,
}

impl Text {
    /// Appends the field; `None` if it is missing.
    pub(super) fn write(self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let info = cx.info;
        match self {
            Self::Protocol => push(out, info.protocol.get()?.as_str()),
            Self::Details => push_without(out, info.details.borrow().as_deref()?, |c| c.is_ascii_whitespace()),
            Self::DetailsAsTheyAre => push(out, info.details.borrow().as_deref()?),
            Self::TerminationDetails => push(out, info.connection.termination_details.borrow().as_deref()?),
            Self::Flags => push_flags(cx, ResponseFlag::short, out),
            Self::FlagsLong => push_flags(cx, ResponseFlag::long, out),
            Self::CustomFlags => Some(()),
            Self::DownstreamEndpointId(end) => {
                let connection = &info.connection;
                let address = match end {
                    LocalEnd::Direct => &connection.direct_local,
                    LocalEnd::Restored => &connection.local,
                };
                push(out, address.endpoint_id().unwrap_or_default())
            }
            Self::LocalReplyBody => {
                out.extend_from_slice(cx.local_reply_body);
                Some(())
            }
            Self::RouteName => push_filled(out, info.route_name.borrow().as_deref()),
            Self::VirtualCluster => push(out, info.virtual_cluster.borrow().as_deref()?),
            Self::FilterChain => push_filled(out, Some(&info.connection.filter_chain)),
            Self::Listener => push_filled(out, Some(&info.connection.listener)),
            Self::Ja3 => push(out, info.connection.inspected.as_ref()?.ja3.as_deref()?),
            Self::Ja4 => push(out, info.connection.inspected.as_ref()?.ja4.as_deref()?),
            Self::AccessLogType => push(out, cx.log_type.as_str()),
            // Kept for logs; what is written while the request is here reads it there.
            Self::StreamId => match (info.request_id.borrow().as_deref(), cx.request) {
                (Some(id), _) => push(out, id),
                // Envoy: an attempt has none, though the request that it sends may.
                (None, _) if cx.log_type.is_of_attempt() => None,
                (None, request) => push(out, request?.headers.get("x-request-id")?.to_str().ok()?),
            },
            Self::DownstreamTransportFailure => {
                push_without(out, info.connection.transport_failure.borrow().as_deref()?, |c| *c == b' ')
            }
            Self::DownstreamLocalClose => push(out, info.connection.local_close_reason.get()?),
            Self::DownstreamCloseType => push(out, info.connection.close_type.get().as_str()),
            _ => self.write_upstream(&info.upstream.borrow(), out),
        }
    }

    fn write_upstream(self, up: &UpstreamInfo, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::UpstreamProtocol => push(out, up.protocol?.as_str()),
            Self::UpstreamCluster => push_filled(out, up.cluster.as_deref()),
            Self::UpstreamClusterRaw => push_filled(out, up.cluster_raw.as_deref()),
            Self::UpstreamHostName(port) => {
                push_host_name(out, up.host.as_ref()?, up.host_name.as_deref(), port);
                Some(())
            }
            Self::HostsAttempted(port) => push_list(out, attempted(up), |out, (host, _)| match port {
                Port::Kept => address::push(host, out),
                Port::Stripped => address::push_without_port(host, out),
            }),
            Self::HostNamesAttempted(port) => {
                push_list(out, attempted(up), |out, (host, name)| push_host_name(out, host, name, port))
            }
            Self::ConnectionIdsAttempted => {
                push_int(out, up.connection_id?);
                Some(())
            }
            Self::UpstreamTransportFailure => {
                let reason = up.transport_failure.as_deref().filter(|r| !r.is_empty())?;
                push_without(out, reason, |c| *c == b' ')
            }
            Self::UpstreamLocalClose => push(out, up.local_close_reason?),
            // There is one once there is a connection, be it one that fails.
            Self::UpstreamCloseType if up.connection_id.is_none() && up.chosen.is_none() && !up.is_of_bytes => None,
            Self::UpstreamCloseType => push(out, up.close_type.as_str()),
            Self::UpstreamEndpointId => push(out, up.remote.as_ref()?.endpoint_id().unwrap_or_default()),
            // The others are printed by `write`.
            _ => None,
        }
    }
}

fn push(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// A name that is missing if it is empty.
fn push_filled(out: &mut Vec<u8>, text: Option<&str>) -> Option<()> {
    push(out, text.filter(|t| !t.is_empty())?)
}

/// Appends `text` with the bytes that `unwanted` names replaced by `_`.
fn push_without(out: &mut Vec<u8>, text: &str, unwanted: fn(&u8) -> bool) -> Option<()> {
    out.extend(text.bytes().map(|c| if unwanted(&c) { b'_' } else { c }));
    Some(())
}

/// The flags with commas between them; `-` if there is none, which in Envoy is a value and not a missing one.
fn push_flags(cx: &FormatCx<'_>, name: fn(ResponseFlag) -> &'static str, out: &mut Vec<u8>) -> Option<()> {
    let flags = cx.info.flags.get();
    if flags.is_empty() {
        return push(out, "-");
    }
    flags.write(name, out);
    Some(())
}

/// The name of the host, or its address if it has none.
fn push_host_name(out: &mut Vec<u8>, host: &Address, name: Option<&str>, port: Port) {
    let from = out.len();
    match name.filter(|n| !n.is_empty()) {
        Some(name) => out.extend_from_slice(name.as_bytes()),
        None => address::push(host, out),
    }
    if port == Port::Stripped {
        strip_port(out, from);
    }
}

/// The hosts that were tried, with their names.
fn attempted(up: &UpstreamInfo) -> impl Iterator<Item = (&Address, Option<&str>)> {
    let failed = up.failed.iter().map(|failed| (&failed.host, failed.name.as_deref()));
    // Envoy has a record for each attempt of a request, and prints that of the last; a host that was not reached is not
    // in it.
    let last = up.connection_id.and(up.host.as_ref()).map(|host| (host, up.host_name.as_deref()));
    failed.chain(last)
}

/// All of `items` with commas between them, if there are any.
fn push_list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T),
) -> Option<()> {
    let from = out.len();
    for item in items {
        if out.len() > from {
            out.push(b',');
        }
        push(out, item);
    }
    (out.len() > from).then_some(())
}

/// Removes `:port` from the end of a host name; colons inside the brackets of an IPv6 address stay.
fn strip_port(out: &mut Vec<u8>, from: usize) {
    let name = &out[from..];
    if let Some(colon) = name.iter().rposition(|c| *c == b':')
        && name[colon + 1..].iter().all(u8::is_ascii_digit)
        && colon + 1 < name.len()
        && (name[..colon].ends_with(b"]") || !name[..colon].contains(&b':'))
    {
        out.truncate(from + colon);
    }
}
