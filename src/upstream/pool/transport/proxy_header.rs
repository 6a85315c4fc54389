//! The PROXY header that a transport socket sends before all else.

use std::borrow::Cow;
use std::io;

use nuncio_config::proxy_tlv::AddedTlv;
use nuncio_config::route::ProxyHeader;
use nuncio_config::transport_socket::ProxyProtocolSocket;
use nuncio_filter_api::filter_state::ProxyTlv;
use nuncio_net::{Connected, ProxiedEnds, Tlv, proxy_v1, proxy_v2};
use nuncio_telemetry::Address;
use nuncio_telemetry::format::FormatCx;
use tokio::io::AsyncWriteExt;

use super::{Beginning, Client};

/// Sends the header; gives its length.
pub(super) async fn tell(
    proxy: &ProxyProtocolSocket,
    connected: &mut Connected,
    of: &Beginning<'_>,
) -> io::Result<u64> {
    let client = of.options.and_then(|options| options.client.as_ref());
    let header = header(proxy, connected.local.as_ref(), of, client);
    connected.io.write_all(&header).await?;
    connected.io.flush().await?;
    Ok(header.len() as u64)
}

fn header(
    socket: &ProxyProtocolSocket,
    local: Option<&Address>,
    of: &Beginning<'_>,
    client: Option<&Client>,
) -> Vec<u8> {
    let told = client.and_then(|client| ends(&client.source, &client.destination));
    match socket.version {
        // Envoy: where there is no client, the text speaks of the connection itself.
        ProxyHeader::V1 if client.is_none() => proxy_v1(local.and_then(|local| ends(local, of.remote))),
        ProxyHeader::V1 => proxy_v1(told),
        // Envoy: what is to be told besides is told of clients.
        ProxyHeader::V2 if client.is_none() => proxy_v2(None, &[]),
        ProxyHeader::V2 => {
            let passed = client.and_then(|client| client.tlvs.as_deref()).map_or(&[][..], |tlvs| &tlvs.0);
            let all = tlvs(of.tlvs, socket, added(socket, local, of), passed);
            let all: Vec<Tlv<'_>> = all.iter().map(|tlv| Tlv { kind: tlv.kind, value: &tlv.value }).collect();
            proxy_v2(told, &all)
        }
    }
}

/// Envoy: what is said of a host goes before what is said of all, and both before what the client's header said.
fn tlvs<'a>(
    of_host: &'a [ProxyTlv],
    socket: &ProxyProtocolSocket,
    added: Vec<ProxyTlv>,
    passed: &'a [ProxyTlv],
) -> Vec<Cow<'a, ProxyTlv>> {
    let is_of_host = |kind| of_host.iter().any(|tlv| tlv.kind == kind);
    let is_added = |kind| socket.added.iter().any(|tlv| tlv.kind() == kind);
    let added = added.into_iter().filter(|tlv| !is_of_host(tlv.kind)).map(Cow::Owned);
    let passed = passed
        .iter()
        .filter(|tlv| socket.passed.has(tlv.kind) && !is_of_host(tlv.kind) && !is_added(tlv.kind))
        .map(Cow::Borrowed);
    of_host.iter().map(Cow::Borrowed).chain(added).chain(passed).collect()
}

/// The values of the socket itself. Envoy: formats among them speak of the connection to the host, which has nothing of
/// the client's but the filter state that is shared with it; those that come to nothing are left out.
fn added(socket: &ProxyProtocolSocket, local: Option<&Address>, of: &Beginning<'_>) -> Vec<ProxyTlv> {
    let (fixed, made): (Vec<&AddedTlv>, Vec<_>) = socket.added.iter().partition(|tlv| tlv.is_fixed());
    let mut all: Vec<ProxyTlv> = fixed.into_iter().filter_map(AddedTlv::fixed).collect();
    if let Some((record, _)) = of.record.filter(|_| !made.is_empty()) {
        let info = record.as_stream(local);
        let cx = FormatCx::new(&info, info.start, info.start_wall);
        all.extend(made.iter().map(|tlv| tlv.of(&cx)).filter(|tlv| !tlv.value.is_empty()));
    }
    all
}

fn ends(source: &Address, destination: &Address) -> Option<ProxiedEnds> {
    match (source, destination) {
        (Address::Ip(source), Address::Ip(destination)) => {
            Some(ProxiedEnds { source: *source, destination: *destination })
        }
        _ => None,
    }
}
