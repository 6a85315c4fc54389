//! Envoy's contract for response headers between the filters and the codec.

use http::header::{CONNECTION, DATE, Entry, SERVER, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_filter_api::{RequestHead, ResponseHead};
use nuncio_telemetry::StreamInfo;

use super::Http;
use super::config::ServerHeader;
use super::request_head::{append_list, name};

/// Drops hop-by-hop headers and sets date, server, via and x-request-id.
pub(crate) fn finalize(head: &mut ResponseHead, request: &RequestHead, http: &Http, info: &StreamInfo) {
    let options = &http.hcm.head;
    let headers = &mut head.headers;
    // Hardly any response has one of them, and a look costs less than five removals.
    let is_hop_by_hop = headers.keys().any(is_hop_by_hop);
    if is_hop_by_hop {
        for name in [TRANSFER_ENCODING, name::KEEP_ALIVE, name::PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(protocol) = &request.protocol
    {
        // RFC 9110 §7.8: what was switched to is told to the client, in the host's words if it has any.
        headers.entry(CONNECTION).or_insert(HeaderValue::from_static("upgrade"));
        if let (Entry::Vacant(v), Ok(protocol)) = (headers.entry(UPGRADE), HeaderValue::from_str(protocol)) {
            v.insert(protocol);
        }
    } else if is_hop_by_hop {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    if let Entry::Vacant(v) = headers.entry(DATE) {
        let now = info.times.response_start.get().unwrap_or(info.start);
        v.insert(http.worker.date.at(http.worker.clock.wall(now)));
    }
    match options.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, options.server_name.clone());
        }
        ServerHeader::AppendIfAbsent => {
            if let Entry::Vacant(v) = headers.entry(SERVER) {
                v.insert(options.server_name.clone());
            }
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &options.via {
        append_list(headers, VIA, via);
    }
    let wanted = options.request_id.always_set_in_response || request.headers.keys().any(|k| *k == name::FORCE_TRACE);
    if wanted && let Some(id) = request.headers.get(name::REQUEST_ID) {
        headers.insert(name::REQUEST_ID, id.clone());
    }
    if let Some(proxy_status) = &options.proxy_status {
        proxy_status.apply(head, &options.server_name, info);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == name::KEEP_ALIVE
        || *name == name::PROXY_CONNECTION
}
